"""One state machine with its state, driven as a server drives it."""

from __future__ import annotations

from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from consensus.errors import RaftError, StorageError
from consensus.interfaces import StateMachine
from consensus.testing.determinism_run import result_text
from consensus.testing.logged import logged, taken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from consensus.interfaces import Snapshot


class Copy:
    """
    A machine, its state and how far it is.

    Args:
        make: Makes the machine, now and after each restart.
        directory: For its files.
        name: The server's.
        view: What two states have to have in common to be the same.
    """

    def __init__(
        self,
        make: Callable[[], StateMachine],
        directory: Path,
        name: str,
        view: Callable[[StateMachine, Any], Any],
    ) -> None:
        self._make = make
        self._directory = directory
        self._name = name
        self._view = view
        self._start()

    def _start(self) -> None:
        self.machine = self._make()
        self.machine.directory = self._directory
        self.state = self.machine.init(self._name)
        #: The index of the last command that was given to it.
        self.index = self.machine.last_applied(self.state)

    def close(self) -> None:
        """Let go of the state."""
        self.machine.close(self.state)

    def restart(self) -> None:
        """Stop the server, and start it with what is on its disk."""
        self.close()
        self._start()

    def seen(self) -> Any:
        """Return what there is to see of the state."""
        return self._view(self.machine, self.state)

    def digest(self) -> bytes | None:
        """Return the digest of the state."""
        return self.machine.digest(self.state)

    def last_applied(self) -> int:
        """Return what the machine says of its state."""
        return self.machine.last_applied(self.state)

    # --- commands --------------------------------------------------------------

    def _batch(self, commands: Sequence[Any]) -> list[tuple[int, Any]]:
        machine, first = self.machine, self.index + 1
        self.index += len(commands)
        decoded = [taken(machine, logged(machine, each)) for each in commands]
        return list(enumerate(decoded, first))

    def write(self, command: Any) -> Any:
        """Apply *command*, as it comes out of the log; return what it comes to."""
        return self._apply(self._batch([command]))[0]

    def _apply(self, batch: list[tuple[int, Any]]) -> Sequence[Any]:
        results, self.state = self.machine.apply_batch(batch, self.state)
        assert len(results) == len(batch), "a result for each command"
        return results

    def write_all(self, commands: Sequence[Any]) -> list[Any]:
        """Apply *commands* one by one."""
        return [self.write(command) for command in commands]

    def write_text(self, command: Any) -> str:
        """Apply *command*; return what it comes to as text."""
        return result_text(self.write(command))

    def write_in_batches(self, commands: Sequence[Any], size: int) -> list[str]:
        """Apply *commands*, *size* at a time; return what they come to."""
        results: list[Any] = []
        for start in range(0, len(commands), size):
            results += self._apply(self._batch(commands[start : start + size]))
        return [result_text(each) for each in results]

    def write_by_default(self, commands: Sequence[Any]) -> None:
        """Apply *commands* by handle_write alone."""
        batch = self._batch(commands)
        if batch:
            _, self.state = StateMachine.apply_batch(self.machine, batch, self.state)

    def write_or_stay(self, command: Any) -> None:
        """Apply *command*; if it fails, nothing may have changed."""
        before = self.seen()
        batch = [(self.index + 1, command)]
        try:
            results = self._apply(batch)
        except StorageError as error:
            message = f"{command!r} stops every server: {error}"
            raise AssertionError(message) from error
        self.index += 1
        if isinstance(results[0], Exception):
            assert self.seen() == before, f"{command!r} raised, and changed the state"

    # --- queries ---------------------------------------------------------------

    def read_all(self, queries: Sequence[Any]) -> list[Any]:
        """Return what each of *queries* is answered, be it an exception."""
        return [self._read(query) for query in queries]

    def _read(self, query: Any) -> Any:
        machine = self.machine
        try:
            return machine.handle_read(
                machine.decode(machine.encode(query)), self.state
            )[0]
        except (MemoryError, StorageError):
            raise
        except Exception as error:  # noqa: BLE001 - it is the answer
            return error

    # --- snapshots -------------------------------------------------------------

    def snapshot(self) -> bytes:
        """Return a snapshot of the state."""
        return b"".join(self.machine.snapshot(self.state).chunks())

    def restore(self, chunks: Iterable[bytes], last_applied: int) -> None:
        """Put what *chunks* say in the place of the state, as a server does."""
        former = self.state
        self.state = self.machine.restore(chunks, last_applied)
        if self.state is not former:
            self.machine.close(former)
        self.index = last_applied

    def restore_or_refuse(self, chunks: Iterable[bytes], last_applied: int) -> None:
        """Do the same with what may be nothing."""
        try:
            self.restore(chunks, last_applied)
        except RaftError:
            return
        except Exception as error:
            message = (
                f"restore raised a {type(error).__name__}, no StorageError: {error}"
            )
            raise AssertionError(message) from error


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """Yield *data* in pieces of *size*."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


def read_on_a_thread(view: Snapshot) -> list[bytes]:
    """Return the chunks of *view*, which another thread has read."""
    found: list[list[bytes]] = []
    thread = Thread(target=lambda: found.append(list(view.chunks())))
    thread.start()
    thread.join()
    if not found:
        pytest.fail("the view cannot be read on a thread of its own")
    return found[0]


def spoil(answer: Any) -> None:
    """Change *answer* as much as its receiver may."""
    if isinstance(answer, dict | list | set | bytearray):
        inner = list(answer.values()) if isinstance(answer, dict) else list(answer)
        answer.clear()
        for each in inner:
            spoil(each)
    elif isinstance(answer, tuple):
        for each in answer:
            spoil(each)
