"""What a caller gets when a command was not applied, or the machine raised."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.python.failure import Failure

from consensus.errors import CommandFailedError

if TYPE_CHECKING:
    from consensus.errors import RaftError


def as_answer(answered: bytes | RaftError) -> bytes | Failure:
    """Return what a Deferred is to be called back with."""
    return answered if isinstance(answered, bytes) else Failure(answered)


def failed(error: Exception) -> Failure:
    """Return what a caller gets when the state machine raised *error*."""
    return Failure(CommandFailedError(*described(error)))


def described(error: Exception) -> tuple[str, str]:
    """Return the type of *error* and what it says, as they can be stored."""
    try:
        said = str(error)
    except Exception as another:  # noqa: BLE001 - a text that raises is a result too
        said = f"its text cannot be had: {type(another).__name__}"
    # Half a character is no UTF-8.
    return type(error).__name__, said.encode(errors="backslashreplace").decode()
