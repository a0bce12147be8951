"""A disk that is full for a while: writes wait or are refused, reads go on."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from twisted.logger import capturedLogs
from twisted.python.failure import Failure

from consensus.core.values import Entry, EntryKind, HardState
from consensus.errors import (
    DiskFullError,
    OutcomeUnknownError,
    OverloadedError,
    RejectedError,
)
from consensus.interfaces import StateMachine
from consensus.shell.worker import RETRY_INTERVAL, StorageWorker
from tests.support import storages
from tests.support.servers import Register, Servers, VirtualReactor
from tests.support.storages import FullStorage, LastingStorage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from consensus.server import RaftServer


@pytest.fixture(autouse=True)
def _fresh_disks() -> Iterator[None]:
    yield
    storages.reset()


def entry(index: int, term: int = 1) -> Entry:
    """Return a command's entry."""
    return Entry(index, term, EntryKind.COMMAND, b"x")


class Bench:
    """A worker without a thread, its storage, and what it reported."""

    def __init__(self, directory: Path) -> None:
        self.reactor = VirtualReactor()
        self.storage = FullStorage()
        self.storage.open(directory)
        self.storage.full.clear()
        self.name = directory.name
        self.failures: list[Exception] = []
        self.done: list[int] = []
        self.full: list[bool] = []
        self.worker = StorageWorker(
            self.storage,
            self.reactor,
            self.failures.append,
            self.reactor,
            self.full.append,
        )

    def persist(self, number: int, *entries: Entry, term: int | None = None) -> None:
        """Ask for a write; *number* goes to ``done`` when it is durable."""
        hard_state = None if term is None else HardState(term)
        self.worker.persist(hard_state, entries, lambda: self.done.append(number))

    def log(self) -> list[Entry]:
        """Return the log that a restart would find."""
        return LastingStorage.disks[self.storage._directory][1]


class WorkerTests:
    """What the storage's caller does, on the reactor's thread."""

    def test_writes_wait_for_room(self, tmp_path: Path) -> None:
        """All since the last sync is done again, in order, once there is room."""
        bench = Bench(tmp_path)
        bench.persist(1, entry(1), entry(2))
        bench.reactor.advance(0)
        bench.storage.full.add(bench.name)
        bench.persist(2, entry(3))
        bench.persist(3, entry(2, 2), term=2)
        bench.reactor.advance(0)
        bench.worker.compact(1, 1, lambda: bench.done.append(4))
        bench.reactor.advance(5 * RETRY_INTERVAL)
        assert bench.done == [1]
        assert bench.full == [True]
        assert bench.log() == [entry(1), entry(2)]
        bench.storage.full.clear()
        bench.reactor.advance(RETRY_INTERVAL)
        assert bench.done == [1, 2, 3, 4]
        assert bench.full == [True, False]
        assert bench.log() == [entry(2, 2)]
        assert bench.storage.hard_state() == HardState(2)
        assert not bench.reactor.getDelayedCalls()

    def test_calls_are_served_meanwhile(self, tmp_path: Path) -> None:
        """A read finds what the last sync left; writes behind it wait on."""
        bench = Bench(tmp_path)
        bench.persist(1, entry(1))
        bench.reactor.advance(0)
        bench.storage.full.add(bench.name)
        results: list[Any] = []
        bench.persist(2, entry(2))
        bench.worker.call(bench.storage.last_index).addCallback(results.append)
        bench.reactor.advance(0)
        bench.worker.call(bench.storage.last_index).addCallback(results.append)
        bench.reactor.advance(0)
        assert results == [1, 1]
        bench.storage.full.clear()
        bench.persist(3, entry(3))
        bench.reactor.advance(RETRY_INTERVAL)
        assert bench.done == [1, 2, 3]
        assert bench.log() == [entry(1), entry(2), entry(3)]

    def test_new_writes_do_not_hurry_the_disk(self, tmp_path: Path) -> None:
        """However many come, the next try is due when it is."""
        bench = Bench(tmp_path)
        bench.storage.full.add(bench.name)
        bench.persist(1, entry(1))
        bench.reactor.advance(0)
        bench.storage.full.clear()
        for index in range(2, 6):
            bench.persist(index, entry(index))
            bench.reactor.advance(RETRY_INTERVAL / 10)
        assert bench.done == []
        bench.reactor.advance(RETRY_INTERVAL)
        assert bench.done == [1, 2, 3, 4, 5]

    def test_a_stop_gives_up_what_waits(self, tmp_path: Path) -> None:
        """Nothing is acknowledged, and no timer is left."""
        bench = Bench(tmp_path)
        bench.storage.full.add(bench.name)
        bench.persist(1, entry(1))
        bench.reactor.advance(0)
        bench.worker.stop()
        bench.reactor.advance(0)
        assert not bench.reactor.getDelayedCalls()
        bench.storage.full.clear()
        bench.reactor.advance(10 * RETRY_INTERVAL)
        assert bench.done == []

    def test_another_error_is_the_end_even_then(self, tmp_path: Path) -> None:
        """A retry that fails for another reason stops the server."""
        bench = Bench(tmp_path)
        bench.storage.full.add(bench.name)
        bench.persist(1, entry(7))
        bench.reactor.advance(0)
        bench.storage.full.clear()
        bench.reactor.advance(RETRY_INTERVAL)
        assert len(bench.failures) == 1
        assert bench.done == []
        assert not bench.reactor.getDelayedCalls()


class History(StateMachine):
    """Remembers all that was ever applied."""

    def init(self, name: str) -> Any:
        """Begin empty."""
        del name
        return []

    def handle_write(self, command: Any, state: Any) -> tuple[Any, Any]:
        """Add the number."""
        return None, [*state, command[1]]

    def handle_read(self, query: Any, state: Any) -> tuple[Any, Any]:
        """Return all numbers."""
        del query
        return state, state


def full_servers(
    tmp_path: Path,
    names: tuple[str, ...] = ("s1", "s2", "s3"),
    machine: type[StateMachine] = Register,
) -> Servers:
    """Return servers whose disks can be full."""
    config = {"storage": {"engine": FullStorage}}
    return Servers(names, config=config, data_dir=tmp_path, machine=machine)


def no_room_for_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave no room for the file that says that a directory is used."""
    touch = Path.touch

    def refuse(path: Path, mode: int = 0o666) -> None:
        if path.name == "used":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        touch(path, mode)

    monkeypatch.setattr(Path, "touch", refuse)


def outcomes(servers: Servers, *waiting: Any) -> list[Any]:
    """Return what became of *waiting*: results and errors."""
    box: list[Any] = []
    for each in waiting:
        each.addBoth(box.append)
    for _ in range(60):
        if len(box) == len(waiting):
            break
        servers.run(0.5)
    return [each.value if isinstance(each, Failure) else each for each in box]


def leading(servers: Servers) -> RaftServer | None:
    """Return the server that leads, as far as it knows, in the newest term."""
    chiefs = [each for each in servers.servers.values() if each.leader() == each.name]
    return max(chiefs, key=lambda each: each.status().term, default=None)


class ServerTests:
    """What clients and operators see."""

    @pytest.mark.parametrize("names", [("s1",), ("s1", "s2", "s3")])
    def test_writes_are_refused_and_reads_served(
        self, tmp_path: Path, names: tuple[str, ...]
    ) -> None:
        """With all disks full, for long; both ends of the time are logged once."""
        servers = full_servers(tmp_path, names)
        chief = servers.leader()
        servers.result(chief.write(["set", "a", 1]))
        with capturedLogs() as logs:
            FullStorage.full.update(names)
            waiting = chief.write(["set", "a", 2])
            servers.run(0.1)
            for _ in range(3):
                with pytest.raises(OverloadedError, match="free some space") as caught:
                    servers.result(chief.write(["set", "a", 3]))
                assert servers.result(chief.read("a")) == 1
                servers.run(20)
            assert str(tmp_path / chief.name) in str(caught.value)
            assert isinstance(outcomes(servers, waiting)[0], OutcomeUnknownError)
            FullStorage.full.clear()
            servers.run(1.5)
        assert servers.result(servers.leader().write(["set", "a", 4])) == 2
        texts = [
            each["log_format"]
            for each in logs
            if each.get("server") == chief.name and "log_format" in each
        ]
        assert sum("is full: free" in text for text in texts) == 1
        assert sum("has room again" in text for text in texts) == 1
        assert sum("handing over" in text for text in texts) <= 1

    def test_a_leader_with_a_full_disk_hands_over(self, tmp_path: Path) -> None:
        """At once, so that writes and reads go on elsewhere."""
        servers = full_servers(tmp_path)
        chief = servers.leader()
        servers.result(chief.write(["set", "a", 1]))
        FullStorage.full.add(chief.name)
        waiting = chief.write(["set", "a", 2])
        assert isinstance(outcomes(servers, waiting)[0], OutcomeUnknownError)
        servers.run(1)
        heir = servers.leader()
        assert heir is not chief
        assert servers.result(heir.read("a")) == 2
        assert servers.result(heir.write(["set", "a", 3])) == 2
        FullStorage.full.clear()
        servers.run(3)
        assert chief.status().last_applied == heir.status().last_applied

    @pytest.mark.parametrize("stricken", [1, 2, 3])
    def test_nothing_acknowledged_is_lost(self, tmp_path: Path, stricken: int) -> None:
        """Whichever disks are full, for whichever time, and over a crash of all."""
        servers = full_servers(tmp_path, machine=History)
        acknowledged: list[int] = []
        unknown: list[int] = []
        for number in range(1, 31):
            names = sorted(servers.servers)
            if number % 6 == 2:
                FullStorage.full.update(names[:stricken])
            elif number % 6 == 5:
                FullStorage.full.clear()
            chief = leading(servers)
            if chief is None:
                servers.run(1)
                continue
            (outcome,) = outcomes(servers, chief.write(["append", number]))
            if isinstance(outcome, OutcomeUnknownError):
                unknown.append(number)
            elif not isinstance(outcome, RejectedError):
                acknowledged.append(number)
            servers.run(0.3)
        assert len(acknowledged) >= 8
        FullStorage.full.clear()
        servers.run(3)
        servers.result(servers.leader().write(["append", 31]))
        for name in servers.names:
            # What was synced is all that the next start finds.
            servers.stop(name)
        for name in servers.names:
            servers.start(name)
        found = servers.result(servers.leader().read(None))
        assert [each for each in found if each not in unknown] == [*acknowledged, 31]
        assert len(found) == len(set(found))

    def test_the_first_write_waits_until_it_is_noted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The log has room, and the note that there is one has not."""
        no_room_for_notes(monkeypatch)
        servers = full_servers(tmp_path)
        servers.run(3)
        assert leading(servers) is None
        assert all(server.running for server in servers.servers.values())
        monkeypatch.undo()
        servers.run(1)
        chief = servers.leader()
        assert servers.result(chief.write(["set", "a", 1])) is None
        for name in servers.names:
            servers.stop(name)
            assert (tmp_path / name / "used").exists()

    def test_a_start_needs_room_for_the_note_that_a_crash_has_left_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is refused with a reason, and leaves everything as it was."""
        servers = full_servers(tmp_path)
        servers.result(servers.leader().write(["set", "a", 1]))
        servers.stop("s1")
        (tmp_path / "s1" / "used").unlink()
        no_room_for_notes(monkeypatch)
        for _ in range(2):
            with pytest.raises(DiskFullError, match=r"no room for .*s1: No space left"):
                servers.start("s1")
        monkeypatch.undo()
        servers.start("s1")
        assert (tmp_path / "s1" / "used").exists()
        servers.run(1)
        assert servers.result(servers.leader().read("a")) == 1

    def test_a_server_stops_at_once_with_a_full_disk(self, tmp_path: Path) -> None:
        """Nobody waits for room that may never come."""
        servers = full_servers(tmp_path)
        chief = servers.leader()
        FullStorage.full.update(servers.names)
        waiting = chief.write(["set", "a", 1])
        servers.run(0.5)
        servers.stop(chief.name)
        (outcome,) = outcomes(servers, waiting)
        assert isinstance(outcome, OutcomeUnknownError)
