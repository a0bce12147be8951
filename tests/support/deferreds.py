"""What a Deferred that has fired holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.python.failure import Failure

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred


def has_fired(deferred: Deferred[Any]) -> bool:
    """Say whether *deferred* has a result, leaving it in place."""
    fired: list[Any] = []

    def look(value: Any) -> Any:
        fired.append(value)
        return value

    deferred.addBoth(look)
    return bool(fired)


def result_of(deferred: Deferred[Any]) -> Any:
    """Return what *deferred* fired with, or raise what it failed with."""
    fired: list[Any] = []
    deferred.addBoth(fired.append)
    assert fired, "the Deferred has not fired"
    if isinstance(fired[0], Failure):
        fired[0].raiseException()
    return fired[0]


def error_of(deferred: Deferred[Any]) -> BaseException:
    """Return what *deferred* failed with."""
    fired: list[Any] = []
    deferred.addBoth(fired.append)
    assert fired, "the Deferred has not fired"
    failure = fired[0]
    assert isinstance(failure, Failure), f"it did not fail but gave {failure!r}"
    assert isinstance(failure.value, BaseException)
    return failure.value
