"""
Histories as JSON lines.

The first line says the version of the format.  Each line after it is an event,
in order: a call that was invoked, or how one ended.  Bodies and results are
what the machine's ``encode`` made of them, in base64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from consensus.errors import RaftError
from consensus.testing.operations import Answer, Operation, Read, Write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from consensus.interfaces import StateMachine

    _Tick = Callable[[], tuple[float, int]]

#: The version of the format.
VERSION = 1


class _Header(msgspec.Struct, tag_field="event", tag="history"):
    version: int
    machine: str = ""


class _Invoked(msgspec.Struct, tag_field="event", tag="invoked", omit_defaults=True):
    number: int
    client: str
    time: float
    body: bytes
    #: For people.
    text: str
    write: bool = False
    stale: bool = False
    max_age: float | None = None
    after: int | None = None


class _Ended(msgspec.Struct, tag_field="event", tag="ended", omit_defaults=True):
    number: int
    time: float
    outcome: str
    result: bytes = b""
    error: tuple[str, str] | None = None
    text: str = ""


_Event = _Invoked | _Ended
_encode = msgspec.json.Encoder().encode
_decoder: msgspec.json.Decoder[_Header | _Invoked | _Ended] = msgspec.json.Decoder(
    _Header | _Invoked | _Ended
)
_OUTCOMES = ("returned", "failed", "unknown")


def dump(machine: StateMachine, operations: Iterable[Operation]) -> bytes:
    """Return *operations* as a file has them."""
    events: list[tuple[int, _Event]] = []
    for operation in operations:
        events.append((operation.start, _invoked(operation)))
        if operation.finish is not None:
            events.append((operation.finish, _ended(operation)))
    events.sort(key=lambda event: event[0])
    header = _Header(VERSION, type(machine).__name__)
    lines = [_encode(header), *(_encode(event) for _, event in events)]
    return b"".join(line + b"\n" for line in lines)


def _invoked(operation: Operation) -> _Invoked:
    call = operation.call
    found = _Invoked(
        number=operation.number,
        client=operation.client,
        time=operation.began,
        body=operation.data,
        text=repr(call.body),
        write=operation.is_write,
    )
    if isinstance(call, Read):
        found.stale, found.max_age = call.stale, call.max_age
        found.after = None if call.after is None else call.after.number
    return found


def _ended(operation: Operation) -> _Ended:
    assert operation.ended is not None
    found = _Ended(operation.number, operation.ended, operation.outcome)
    answer = operation.answer
    if answer is not None:
        found.result, found.error = answer.data, answer.error
        found.text = answer.text(operation.machine)
    return found


def read(machine: StateMachine, tick: _Tick, paths: Sequence[Path]) -> list[Operation]:
    """
    Return the calls that are saved in *paths*.

    Args:
        machine: What they are for.
        tick: For each :class:`.Operation`.
        paths: Several are merged by the time of their events.

    Raises:
        ValueError: A file is no history.
    """
    calls: list[Operation] = []
    for path in paths:
        calls += _File(machine, tick, path).read(len(calls))
    if len(paths) > 1:
        _merge(calls)
    return calls


class _File:
    """One file that is being read."""

    def __init__(self, machine: StateMachine, tick: _Tick, path: Path) -> None:
        self._machine = machine
        self._tick = tick
        self._path = path
        self._calls: dict[int, Operation] = {}
        self._events = 0
        self._first = 0

    def read(self, first: int) -> list[Operation]:
        """Return its calls, numbered from *first* on."""
        self._first = first
        for number, line in enumerate(self._path.read_bytes().splitlines(), 1):
            try:
                self._take(number, _decoder.decode(line))
            # msgspec's own errors are ValueErrors; a machine's are RaftErrors.
            except (ValueError, KeyError, RaftError) as error:
                message = f"{self._path}, line {number}: not of a history: {error}"
                raise ValueError(message) from error
        if not self._events:
            message = f"{self._path}: not a history: it is empty"
            raise ValueError(message)
        return list(self._calls.values())

    def _take(self, number: int, event: Any) -> None:
        if isinstance(event, _Header) is not (number == 1):
            raise ValueError("the first line, and no other, says the version")
        self._events += 1
        if isinstance(event, _Header):
            if event.version != VERSION:
                message = f"version {event.version}; this release reads {VERSION}"
                raise ValueError(message)
        elif isinstance(event, _Invoked):
            self._invoked(event)
        else:
            self._ended(event)

    def _invoked(self, event: _Invoked) -> None:
        if event.number in self._calls:
            message = f"call {event.number} is invoked twice"
            raise ValueError(message)
        body = self._machine.decode(event.body)
        call: Write | Read
        if event.write:
            call = Write(body)
        else:
            after = None if event.after is None else self._calls[event.after]
            call = Read(body, event.stale, event.max_age, after)
        operation = Operation(
            machine=self._machine,
            tick=self._tick,
            number=self._first + len(self._calls),
            client=event.client,
            call=call,
            data=event.body,
        )
        operation.began, operation.start = event.time, self._events
        self._calls[event.number] = operation

    def _ended(self, event: _Ended) -> None:
        operation = self._calls[event.number]
        if operation.outcome != "pending" or event.outcome not in _OUTCOMES:
            message = f"call {event.number} cannot end as {event.outcome!r} now"
            raise ValueError(message)
        operation.outcome = event.outcome
        operation.ended, operation.finish = event.time, self._events
        if event.outcome == "returned":
            operation.answer = Answer(event.result, event.error)


def _merge(calls: Iterable[Operation]) -> None:
    """
    Give the events of several files one order.

    An invocation at the moment of a return is put before it: nobody knows
    which of them was first, so they are concurrent.
    """
    events: list[tuple[float, bool, Operation]] = []
    for operation in calls:
        events.append((operation.began, False, operation))
        if operation.ended is not None:
            events.append((operation.ended, True, operation))
    events.sort(key=lambda event: event[:2])
    for position, (_, is_end, operation) in enumerate(events):
        if is_end:
            operation.finish = position
        else:
            operation.start = position
