"""
The state of the machine after any entry that a log still reaches.

It begins with the newest snapshot before that, or with nothing, and applies
entries as servers do: with the server's own :class:`.Applier`.
What a log does not say is which of its last entries were committed: a state
behind the last committed entry may be one that no server ever had.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from consensus.applying.applier import Applier
from consensus.errors import InvalidChangeError
from consensus.history.source import no_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from consensus.applying.batch import Applied
    from consensus.core.values import Entry, LogIndex
    from consensus.history.source import History, Progress
    from consensus.interfaces import StateMachine
    from consensus.snapshots.format import SnapshotFile

    MakeMachine = Callable[[], StateMachine]

_NAME = "history"


def ignore(entries: Sequence[Entry], results: Sequence[Any]) -> None:
    """Forget what entries came to."""
    del entries, results


class Replay:
    """
    Applies a history's entries; a machine's own files are temporary.

    Use :func:`begun`, or :func:`resumed`.

    Args:
        history: Whose.
        applier: What has applied the first of them.
    """

    def __init__(self, history: History, applier: Applier) -> None:
        self._history = history
        self.applier = applier

    @property
    def index(self) -> LogIndex:
        """Return the last entry that is applied."""
        return self.applier.last_applied

    @property
    def machine(self) -> StateMachine:
        """Return the machine of the version that the log is at."""
        return self.applier.machine

    @property
    def state(self) -> Any:
        """Return the state after entry :attr:`index`."""
        self.applier.check_version()
        return self.applier.state

    def go_to(
        self,
        index: LogIndex,
        applied: Applied = ignore,
        on_progress: Progress = no_progress,
    ) -> None:
        """
        Apply the entries up to *index*, which the log has.

        Args:
            index: No lower than where this is.
            applied: As of :meth:`.Applier.apply`.
            on_progress: Called now and then.

        Raises:
            DivergedError: The log says that the leader had another state.
            StorageError: An entry is damaged, or not for this release.
        """
        if index <= self.index:
            return
        for chunk in self._history.chunks(self.index + 1, index, on_progress):
            self.apply(chunk, applied)

    def apply(self, entries: Sequence[Entry], applied: Applied = ignore) -> None:
        """
        Apply *entries*; see :meth:`go_to`.

        Raises:
            InvalidChangeError: They do not follow the last one.
        """
        following = self.index + 1
        if entries[0].index != following:
            message = (
                f"entries {following} to {entries[0].index - 1} are in no log any more"
            )
            raise InvalidChangeError(message)
        self.applier.apply(entries, applied)


def starting_point(history: History, index: LogIndex) -> SnapshotFile | None:
    """
    Return the newest snapshot up to *index*; ``None`` to begin with nothing.

    Raises:
        InvalidChangeError: The log does not reach that far, or not any more.
    """
    if not 0 <= index <= max(history.last_index, _covered(history)):
        message = f"there is no entry {index}: the log ends with {history.last_index}"
        raise InvalidChangeError(message)
    usable = [
        each
        for each in history.snapshots
        if each.meta.index == index or each.meta.index + 1 >= history.first_index
    ]
    found = [each for each in usable if each.meta.index <= index]
    if found:
        return found[-1]
    if history.first_index == 1:
        return None
    reach = (
        f"; the earliest is that after entry {usable[0].meta.index}" if usable else ""
    )
    message = (
        f"the log no longer reaches back to {index}: it begins at"
        f" {history.first_index}, and no snapshot before that is left{reach}"
    )
    raise InvalidChangeError(message)


def earliest(history: History) -> LogIndex:
    """
    Return the first index whose state, and every later one, can be had.

    Raises:
        InvalidChangeError: There is none.
    """
    if history.first_index == 1:
        return 0
    for each in history.snapshots:
        if each.meta.index + 1 >= history.first_index:
            return each.meta.index
    starting_point(history, history.first_index - 1)
    return history.first_index - 1


def _covered(history: History) -> LogIndex:
    return history.snapshots[-1].meta.index if history.snapshots else 0


@contextmanager
def begun(history: History, make: MakeMachine, index: LogIndex) -> Iterator[Replay]:
    """
    Lend a replay that stands at or before *index*, as near as a snapshot is.

    Raises:
        InvalidChangeError: The log does not reach there.
        StorageError: The snapshot is damaged, or of another release.
    """
    snapshot = starting_point(history, index)
    chunks = None if snapshot is None else snapshot.chunks()
    with resumed(history, make, chunks) as replay:
        yield replay


@contextmanager
def resumed(
    history: History, make: MakeMachine, chunks: Iterator[bytes] | None
) -> Iterator[Replay]:
    """
    Lend a replay that stands where a snapshot does.

    Args:
        history: Whose entries it goes on with.
        make: Makes the machine.
        chunks: Of the snapshot; ``None`` for the beginning of the log.
    """
    with TemporaryDirectory(prefix="raft-machine-") as name:
        machine = make()
        machine.directory = Path(name)
        applier = Applier(machine, _NAME)
        try:
            if chunks is not None:
                applier.restore(chunks)
            yield Replay(history, applier)
        finally:
            applier.close()


@contextmanager
def state_at(
    history: History,
    make: MakeMachine,
    index: LogIndex,
    on_progress: Progress = no_progress,
) -> Iterator[Replay]:
    """Lend a replay that stands at *index*; it raises as those above."""
    with begun(history, make, index) as replay:
        replay.go_to(index, on_progress=on_progress)
        yield replay
