"""
A state machine as a model: what each call does to each state, looked up once.

States are told apart by their :func:`canonical` form.  It is as fine as a
machine can see: the order of a dict and the sharing of a list count, so that
two states with the same form answer every later call alike.  A form that is
too fine costs time only; one that is too coarse would make the judge wrong.
"""

from __future__ import annotations

import copyreg
from copy import deepcopy
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any

from consensus.declare import as_machine
from consensus.interfaces import StateMachine
from consensus.testing.operations import Answer, answer_to, decoded

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

_ATOMS = frozenset({type(None), int, str, bytes})

#: What a copy shares with what it is a copy of.
_SHARED = (type, FunctionType, BuiltinFunctionType)


def canonical(value: Any, *, is_ordered: bool = True) -> Hashable:
    """
    Return what is equal for two values if nobody can tell them apart.

    Args:
        value: Built of what :func:`copy.deepcopy` copies.
        is_ordered: Does the order of a dict's items count?

    Raises:
        TypeError: *value* holds what cannot be copied, such as a lock.
    """
    return _Form(is_ordered=is_ordered).of(value)


class _Form:
    """
    Makes one canonical form.

    Args:
        is_ordered: Does the order of a dict's items count?
    """

    def __init__(self, *, is_ordered: bool) -> None:
        self._is_ordered = is_ordered
        #: What was seen, in which place; kept, so that no id is used again.
        self._seen: dict[int, tuple[int, Any]] = {}

    def of(self, value: Any) -> Hashable:
        """Return the form of *value*."""
        kind = type(value)
        if kind in _ATOMS or isinstance(value, _SHARED):
            return value  # type: ignore[no-any-return]
        if kind is bool or kind is float:
            return (kind, repr(value))
        if kind is tuple:
            return (kind, *map(self.of, value))
        # What can be changed can be changed under another name as well.
        if id(value) in self._seen:
            return ("again", self._seen[id(value)][0])
        self._seen[id(value)] = (len(self._seen), value)
        return self._of_object(kind, value)

    def _of_object(self, kind: type, value: Any) -> Hashable:
        if kind is dict:
            return (kind, self._items(value.items()))
        if kind is list:
            return (kind, *map(self.of, value))
        if kind is set or kind is frozenset:
            return (kind, frozenset(map(self.of, value)))
        if kind is bytearray:
            return (kind, bytes(value))
        return self._of_reduced(kind, value)

    def _items(self, items: Any) -> Hashable:
        pairs = [(self.of(key), self.of(value)) for key, value in items]
        return tuple(pairs) if self._is_ordered else frozenset(pairs)

    def _of_reduced(self, kind: type, value: Any) -> Hashable:
        reducer = copyreg.dispatch_table.get(kind)
        reduced = value.__reduce_ex__(4) if reducer is None else reducer(value)
        if isinstance(reduced, str):
            return ("global", kind, reduced)
        make, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
        # Nobody else has the reduced parts; they stay alive as long as this.
        self._seen[id(reduced)] = (len(self._seen), (reduced, arguments, state))
        return (
            kind,
            make,
            *map(self.of, arguments),
            self.of(state),
            tuple(map(self.of, items or ())),
            self._items(pairs or ()),
        )


class Model:
    """
    The calls of a state machine on numbered states, calls and answers.

    Args:
        machine: The class, also one with declared methods, or an instance; its
            state has to be in memory.
        fingerprint: Returns what is equal for two states that answer every
            later call alike; by default their :func:`canonical` form.

    Raises:
        TypeError: A state cannot be copied.
    """

    def __init__(
        self,
        machine: StateMachine | type,
        fingerprint: Callable[[Any], Hashable] = canonical,
    ) -> None:
        self.machine = (
            machine if isinstance(machine, StateMachine) else as_machine(machine)()
        )
        self._fingerprint = fingerprint
        self._states: list[Any] = []
        self._state_numbers: dict[Hashable, int] = {}
        self._calls: list[tuple[bool, bytes]] = []
        self._call_numbers: dict[tuple[bool, bytes], int] = {}
        self._answers: list[Answer] = []
        self._answer_numbers: dict[Hashable, int] = {}
        #: What a call comes to in a state: the answer and the state after it.
        self.known: dict[tuple[int, int], tuple[int, int]] = {}
        #: The state before the first call.
        self.initial = self._state(self.machine.init("model"))

    def call(self, data: bytes, *, is_write: bool) -> int:
        """Return the number of a call with the encoded body *data*."""
        number = self._call_numbers.setdefault((is_write, data), len(self._calls))
        if number == len(self._calls):
            self._calls.append((is_write, data))
        return number

    def answer(self, answer: Answer) -> int:
        """Return the number of *answer*; equal ones have the same."""
        form: Hashable = ("raised", answer.error)
        if answer.error is None:
            form = canonical(decoded(self.machine, answer.data), is_ordered=False)
        number = self._answer_numbers.setdefault(form, len(self._answers))
        if number == len(self._answers):
            self._answers.append(answer)
        return number

    def text(self, answer: int) -> str:
        """Return the answer of that number for people to read."""
        return self._answers[answer].text(self.machine)

    def apply(self, state: int, call: int) -> tuple[int, int]:
        """
        Return the numbers of the answer and of the state after *call*.

        A call that raises leaves the state as it was.
        """
        found = self.known.get((state, call))
        if found is None:
            found = self.known[state, call] = self._apply(state, call)
        return found

    def _apply(self, state: int, call: int) -> tuple[int, int]:
        is_write, data = self._calls[call]
        machine = self.machine
        handle = machine.handle_write if is_write else machine.handle_read
        body, after = machine.decode(data), self._copy(self._states[state])
        try:
            result, after = handle(body, after)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - it is the answer
            return self.answer(answer_to(machine, error)), state
        answer = self.answer(answer_to(machine, result))
        return answer, self._state(after) if is_write else state

    def _state(self, state: Any) -> int:
        form = self._fingerprint(state)
        number = self._state_numbers.setdefault(form, len(self._states))
        if number == len(self._states):
            # It is kept as it is now: the machine may hold on to it.
            self._states.append(self._copy(state))
        return number

    def _copy(self, state: Any) -> Any:
        try:
            return deepcopy(state)
        except TypeError as error:
            message = (
                f"the state of {type(self.machine).__name__} cannot be copied: take a"
                f" machine in memory as the model ({error})"
            )
            raise TypeError(message) from error
