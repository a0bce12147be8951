"""
Which entry changed it: something that can be asked of any state.

A binary search replays twice the entries between the ends at most, and asks a
few times.  It finds an entry where the answer changes; if the answer changes
more often, it is one of those entries, and which one is not promised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from consensus.errors import InvalidChangeError
from consensus.history.source import no_progress
from consensus.history.states import begun, resumed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from consensus.core.values import Entry, LogIndex
    from consensus.history.source import History, Progress
    from consensus.history.states import MakeMachine, Replay
    from consensus.interfaces import StateMachine

    #: Asks a state; answers are compared.
    Question = Callable[[StateMachine, Any], str]


@dataclass(frozen=True, slots=True)
class Change:
    """
    An entry that changes an answer.

    Args:
        entry: It.
        before: The answer before it.
        after: The answer after it.
    """

    entry: Entry
    before: str
    after: str


def find(
    history: History,
    make: MakeMachine,
    question: Question,
    *,
    first: LogIndex,
    last: LogIndex,
    on_progress: Progress = no_progress,
) -> Change | None:
    """
    Return an entry after *first*, up to *last*, that changes the answer.

    ``None`` if the answers at both ends are the same: it may have changed in
    between, and back again.

    Raises:
        InvalidChangeError: The log does not reach there.
        StorageError: It is damaged.
    """
    with begun(history, make, first) as replay:
        replay.go_to(first)
        begin = ask(question, replay)
        chunks = list(replay.applier.snapshot()) if replay.index else None
        replay.go_to(last, on_progress=on_progress)
        end = ask(question, replay)
    if begin == end:
        return None
    low, high, after = first, last, end
    while high - low > 1:
        middle = (low + high) // 2
        with resumed(history, make, None if chunks is None else iter(chunks)) as replay:
            replay.go_to(middle)
            answer = ask(question, replay)
            if answer == begin:
                low, chunks = middle, list(replay.applier.snapshot())
            else:
                high, after = middle, answer
        on_progress(last - first - (high - low), last - first)
    return Change(next(history.entries(high, high)), begin, after)


def find_all(
    history: History,
    make: MakeMachine,
    question: Question,
    *,
    first: LogIndex,
    last: LogIndex,
    on_progress: Progress = no_progress,
) -> Iterator[Change]:
    """
    Yield every entry after *first*, up to *last*, that changes the answer.

    It asks after each entry.

    Raises:
        InvalidChangeError: The log does not reach there.
        StorageError: It is damaged.
    """
    with begun(history, make, first) as replay:
        replay.go_to(first)
        before = ask(question, replay)
        for entry in history.entries(first + 1, last, on_progress):
            replay.apply([entry])
            after = ask(question, replay)
            if after != before:
                yield Change(entry, before, after)
            before = after


def ask(question: Question, replay: Replay) -> str:
    """
    Return what the state, where *replay* stands, answers.

    Raises:
        InvalidChangeError: It cannot be asked that.
    """
    machine, state = replay.machine, replay.state
    try:
        return question(machine, state)
    except Exception as error:
        message = (
            f"the state after entry {replay.index} cannot be asked:"
            f" {type(error).__name__}: {error}"
        )
        raise InvalidChangeError(message) from error
