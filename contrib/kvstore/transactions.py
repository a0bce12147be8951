"""Transactions of the key-value store: several commands, nothing in between."""

from __future__ import annotations

import operator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from consensus.errors import StorageError
from contrib.kvstore.answers import Failure, Page, TxnResult
from contrib.kvstore.changes import CHANGES, is_same
from contrib.kvstore.commands import Put, Take, as_bytes
from contrib.kvstore.failures import AnswerTooLargeError
from contrib.kvstore.lookups import ANSWER_BYTES, ITEM_BYTES, LOOKUPS, size_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from contrib.kvstore.commands import Compare, Txn, Value
    from contrib.kvstore.store import Store

_DOES = CHANGES | LOOKUPS

_RELATIONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}


def apply_txn(txn: Txn, store: Store) -> TxnResult:
    """Do what *txn* says; see there."""
    succeeded = all(_holds(each, store) for each in txn.compare)
    todo = txn.then if succeeded else txn.otherwise
    with store.undoing() if txn.atomic else nullcontext():
        store.shared = store.revision + 1
        try:
            results = _run(todo, store, is_atomic=txn.atomic)
        finally:
            store.shared = 0
    return TxnResult(succeeded, results, store.revision)


def _holds(compare: Compare, store: Store) -> bool:
    item = store.get(compare.key)
    if compare.what == "value":
        return _values_hold(compare, None if item is None else item.value)
    if compare.what == "exists":
        found: int = item is not None
    elif item is None:
        found = 0
    else:
        found = item.modified if compare.what == "revision" else item.created
    return _RELATIONS[compare.op](found, compare.to)


def _values_hold(compare: Compare, value: Value | None) -> bool:
    if compare.op in {"==", "!="}:
        return is_same(value, compare.to) is (compare.op == "==")
    if value is None or compare.to is None:
        return False
    return _RELATIONS[compare.op](as_bytes(value), as_bytes(compare.to))


def _run(todo: Sequence[Any], store: Store, *, is_atomic: bool) -> list[Any]:
    """Do *todo* in order; return the results, with failures in their places."""
    results: list[Any] = []
    room = ANSWER_BYTES
    for each in todo:
        try:
            _see_to_room(each, store, room)
            result = _DOES[type(each)](each, store)
            size = _size(result)
            if size > room and results and type(each) in LOOKUPS:
                raise _too_large()  # noqa: TRY301 - one of those that are caught
            room -= size
        except (MemoryError, StorageError):
            raise
        except Exception as error:
            if is_atomic:
                raise
            result = Failure(type(error).__name__, str(error))
        results.append(result)
    return results


def _see_to_room(command: Any, store: Store, room: int) -> None:
    """Refuse *command* if its answer, of what it removes, is too large by now."""
    if isinstance(command, Take) or (isinstance(command, Put) and command.want_old):
        item = store.get(command.key)
        if item is not None and room < ANSWER_BYTES and size_of(item.value) > room:
            raise _too_large()


def _too_large() -> AnswerTooLargeError:
    message = f"more than {ANSWER_BYTES} bytes: ask for less at once"
    return AnswerTooLargeError(message)


def _size(result: Any) -> int:
    """Return how many bytes *result* takes, roughly."""
    if isinstance(result, bytes | str):
        return size_of(result) + ITEM_BYTES
    if isinstance(result, list):
        return sum(map(_size, result)) + ITEM_BYTES
    if isinstance(result, Page):
        return sum(
            len(key) + size_of(value) + ITEM_BYTES for key, value, _ in result.items
        )
    value = getattr(result, "value", None) or getattr(result, "old", None)
    return size_of(value) + 2 * ITEM_BYTES
