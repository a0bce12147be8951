"""The calls of a history, and what they came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from consensus.applying.outcomes import described
from consensus.errors import CommandFailedError, InvalidCommandError

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.interfaces import StateMachine


@dataclass(frozen=True, slots=True)
class Write:
    """
    A call that changes the state.

    Args:
        command: For the state machine.
    """

    command: Any

    @property
    def body(self) -> Any:
        """Return what the state machine gets."""
        return self.command


@dataclass(frozen=True, slots=True)
class Read:
    """
    A call that does not.

    Args:
        query: For the state machine.
        stale: May the answer be older than the call?  Any state that there
            was before it returned will do.
        max_age: Of a stale read: it is older by so many seconds at most.
        after: A call of this history whose effect the answer has to have: the
            write behind an ``at_index``, or the session's read before.
    """

    query: Any
    stale: bool = False
    max_age: float | None = None
    after: Operation | None = None

    @property
    def body(self) -> Any:
        """Return what the state machine gets."""
        return self.query


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What a call came to, as it stays: nobody can change it afterwards.

    Args:
        data: The result, encoded by the machine.
        error: Instead, type and text of what the machine raised.
    """

    data: bytes = b""
    error: tuple[str, str] | None = None

    def text(self, machine: StateMachine) -> str:
        """Return it for people to read."""
        if self.error is not None:
            return "raised " + ": ".join(filter(None, self.error))
        return repr(decoded(machine, self.data))


def decoded(machine: StateMachine, data: bytes) -> Any:
    """Return the result that *data* is; *data* if *machine* does not know."""
    try:
        return machine.decode_result(data)
    except InvalidCommandError:
        return data


def answer_to(machine: StateMachine, result: Any) -> Answer:
    """
    Return what a client gets that is answered *result*, or an exception.

    Raises:
        TypeError: *result* cannot be encoded, and so not be kept.
    """
    if isinstance(result, CommandFailedError):
        return Answer(error=(result.kind, result.detail))
    if isinstance(result, Exception):
        return Answer(error=described(result))
    try:
        return Answer(machine.encode(result))
    except InvalidCommandError as error:
        message = f"a result that cannot be encoded cannot be recorded: {error}"
        raise TypeError(message) from error


class Operation:
    """
    One call of a history; :meth:`.History.invoke` makes it.

    Args:
        machine: What its body and its answer are for.
        tick: Returns time and number of an event that happens now.
        number: Which of its calls this is, from 0.
        client: Who called.
        call: What for.
        data: Its body, encoded by the machine.
    """

    __slots__ = (
        "answer",
        "began",
        "call",
        "client",
        "data",
        "ended",
        "finish",
        "machine",
        "number",
        "outcome",
        "start",
        "tick",
    )

    def __init__(
        self,
        *,
        machine: StateMachine,
        tick: Callable[[], tuple[float, int]],
        number: int,
        client: str,
        call: Write | Read,
        data: bytes,
    ) -> None:
        self.machine = machine
        self.tick = tick
        self.number = number
        self.client = client
        self.call = call
        self.data = data
        #: ``pending``, ``returned``, ``failed`` or ``unknown``.
        self.outcome = "pending"
        #: What it returned, if it did.
        self.answer: Answer | None = None
        #: When it was invoked, and when it ended, in seconds.
        self.began = 0.0
        self.ended: float | None = None
        #: Which events of the history these are, from 0.
        self.start = 0
        self.finish: int | None = None

    def returned(self, result: Any) -> None:
        """
        Say that it was answered *result*, or raised a :class:`.CommandFailedError`.

        Raises:
            ValueError: It has ended before.
            TypeError: *result* is nothing that the machine can encode.
        """
        self.end("returned", answer_to(self.machine, result))

    def failed(self) -> None:
        """
        Say that it was certainly not applied, and never will be.

        Raises:
            ValueError: It has ended before.
        """
        self.end("failed")

    def unknown(self) -> None:
        """
        Say that it may take effect at any time from now on, or never.

        Raises:
            ValueError: It has ended before.
        """
        self.end("unknown")

    def end(self, outcome: str, answer: Answer | None = None) -> None:
        """
        Note how it ended; the other methods call this.

        Raises:
            ValueError: It has ended before.
        """
        if self.outcome != "pending":
            message = f"call {self.number} has {self.outcome} before"
            raise ValueError(message)
        self.outcome, self.answer = outcome, answer
        self.ended, self.finish = self.tick()

    @property
    def is_write(self) -> bool:
        """Say whether it may change the state."""
        return isinstance(self.call, Write)

    def __repr__(self) -> str:
        answer = self.answer
        result = self.outcome if answer is None else answer.text(self.machine)
        return f"{self.client}: {self.call!r} -> {result}"
