"""A key-value store's machine with its state, driven as a server drives it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from consensus.interfaces import LATER, Tick
from contrib.kvstore.disk import KVStoreOnDisk, KVStoreOnDiskOptions
from contrib.kvstore.machine import KVStore, KVStoreOptions
from contrib.kvstore.memory import MemoryStore
from contrib.kvstore.state import fill

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from contrib.kvstore.machine import KVMachine


class KV:
    """
    A machine, its state and how far it is.

    Args:
        machine: Its directory is set.
    """

    def __init__(self, machine: KVMachine) -> None:
        self.machine = machine
        self.state: Any = machine.init("s1")
        self.index = machine.last_applied(self.state)

    def write(self, command: Any) -> Any:
        """Apply *command*; return what a client gets, or raise it."""
        [result] = self.write_all(command)
        if isinstance(result, Exception):
            raise result
        if isinstance(command, Tick):
            return result
        return self.machine.decode_result(self.machine.encode(result))

    def write_all(self, *commands: Any) -> list[Any]:
        """Apply *commands* as one batch."""
        batch = []
        for command in commands:
            self.index += 1
            if not isinstance(command, Tick):
                command = self.machine.decode(self.machine.encode(command))  # noqa: PLW2901 - as it comes out of the log
            batch.append((self.index, command))
        results, self.state = self.machine.apply_batch(batch, self.state)
        return list(results)

    def read(self, query: Any) -> Any:
        """Ask *query*."""
        query = self.machine.decode(self.machine.encode(query))
        answer, _ = self.machine.handle_read(query, self.state)
        if answer is LATER:
            return LATER
        return self.machine.decode_result(self.machine.encode(answer))

    def tick(self, time: int) -> None:
        """Let it be *time*."""
        self.write(Tick(time))

    @property
    def next_time(self) -> int | None:
        """Return when the machine wants to be told the time."""
        return self.machine.next_time(self.state)

    def snapshot(self) -> list[bytes]:
        """Return what a snapshot has."""
        return list(self.machine.snapshot(self.state).chunks())

    def contents(self) -> MemoryStore:
        """Return what a snapshot has, to be compared with that of another."""
        return contents(self.snapshot())

    def close(self) -> None:
        """Let go of the state."""
        self.machine.close(self.state)


def contents(chunks: Iterable[bytes]) -> MemoryStore:
    """Return what the snapshot *chunks* has."""
    store = MemoryStore(100_000)
    fill(store, chunks)
    return store


def make_kv(kind: str, directory: Path | None, **options: Any) -> KV:
    """Return a store of the *kind* with a name in :data:`KINDS`."""
    machine: KVMachine
    if kind == "memory":
        machine = KVStore(KVStoreOptions(**options))
    elif kind == "disk":
        machine = KVStoreOnDisk(KVStoreOnDiskOptions(**options))
    else:
        machine = KVStore(KVStoreOptions(digest=True, **options))
    machine.directory = directory
    return KV(machine)


#: Those that there are.
KINDS = ("memory", "digest", "disk")
