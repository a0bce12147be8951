"""The log's time, as state machines are told it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from consensus.applying.agreements import time_entry, time_of
from consensus.applying.applier import Applier
from consensus.core.values import EntryKind
from consensus.errors import StorageError
from consensus.interfaces import Tick
from tests.support.alarms import Alarms, BatchedAlarms
from tests.support.entries import Journal, Log, results
from tests.support.servers import Servers
from tests.support.storages import LastingStorage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from consensus.server import RaftServer


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    LastingStorage.disks.clear()
    BatchedAlarms.batches.clear()
    yield
    LastingStorage.disks.clear()


def cluster(machine: type[Alarms] = Alarms, **kwargs: Any) -> Servers:
    """Return three servers with alarms, one of which leads."""
    servers = Servers(machine=machine, **kwargs)
    servers.leader()
    return servers


def state_of(server: RaftServer) -> Any:
    """Return the state of *server*'s machine."""
    assert server._driver is not None
    return server._driver.applier.state


def times_in(servers: Servers, server: RaftServer) -> list[int]:
    """Return what the entries in the log of *server* say about the time."""
    found = []
    for index in range(1, server.status().last_index + 1):
        entry = servers.result(server.get_entry(index))
        if entry.kind == EntryKind.TIME:
            found.append(time_of(index, entry.command))
    return found


class EntryTests:
    """What time it is, as bytes."""

    def test_what_was_written_is_read(self) -> None:
        assert time_of(7, time_entry(12_345)) == 12_345

    @pytest.mark.parametrize(
        ("data", "why"),
        [(b"", "says no time"), (b"\1" * 8, "says no time"), (b"\2" * 9, "format 2")],
    )
    def test_anything_else_is_refused(self, data: bytes, why: str) -> None:
        """A server that cannot read the log stops."""
        with pytest.raises(StorageError, match=f"entry 7 .*{re.escape(why)}"):
            time_of(7, data)


class ApplierTests:
    """Entries that say the time, applied."""

    def test_time_never_goes_back(self) -> None:
        """A new leader may know less of it than the last one."""
        log, applier = Log(), Applier(Alarms(), "s1")
        for time in (5, 9, 7):
            results(applier, log.entry(EntryKind.TIME, time_entry(time)))
        assert applier.state["now"] == 9
        assert applier.sessions.time == 9

    def test_a_session_moves_it_too(self) -> None:
        """Its entries carry the leader's time, and there is one only."""
        log, applier = Log(), Applier(Alarms(), "s1")
        results(applier, log.opened(time=50))
        results(applier, log.entry(EntryKind.TIME, time_entry(20)))
        assert applier.state["now"] == 50

    def test_who_is_not_told_hears_nothing(self) -> None:
        """A machine that is not timed gets its own commands only."""
        log, applier = Log(), Applier(Journal(), "s1")
        results(applier, log.entry(EntryKind.TIME, time_entry(9)), log.command("a"))
        assert applier.state == ["a"]
        assert applier.sessions.time == 9

    def test_it_is_part_of_a_batch(self) -> None:
        """So that a machine on disk stores its index with what it changed."""
        log, applier = Log(), Applier(BatchedAlarms(), "s1")
        came_to = results(
            applier,
            log.command(["in", 5, "a"]),
            log.entry(EntryKind.TIME, time_entry(9)),
            log.command(["in", 5, "b"]),
        )
        assert came_to == [0, None, 9]
        assert BatchedAlarms.batches == [[["in", 5, "a"], Tick(9), ["in", 5, "b"]]]
        assert applier.state["rung"] == [[5, "a", 0, 9]]

    def test_what_raises_is_logged_and_goes_on(self) -> None:
        """Every server meets the same, and nobody waits for the outcome."""

        class Broken(Alarms):
            def handle_write(self, command: Any, state: Any) -> tuple[Any, Any]:
                if command == Tick(9):
                    raise LookupError("what is time?")
                return super().handle_write(command, state)

        log, applier = Log(), Applier(Broken(), "s1")
        came_to = results(
            applier,
            log.entry(EntryKind.TIME, time_entry(9)),
            log.command(["in", 5, "a"]),
        )
        assert came_to == [None, 0]

    def test_a_failing_disk_stops_the_server(self) -> None:
        """It is this server's own trouble."""

        class Failing(Alarms):
            def handle_write(self, command: Any, state: Any) -> tuple[Any, Any]:
                message = f"the disk is gone: {command}, {state}"
                raise StorageError(message)

        log, applier = Log(), Applier(Failing(), "s1")
        with pytest.raises(StorageError, match="the disk is gone"):
            results(applier, log.entry(EntryKind.TIME, time_entry(9)))


class ServerTests:
    """What a leader enters."""

    def test_it_rings_though_nobody_writes(self) -> None:
        """Not before its time, and soon after it."""
        servers = cluster()
        chief = servers.leader()
        set_at = servers.result(chief.write(["in", 200, "a"]))
        servers.run(0.15)
        assert state_of(chief)["rung"] == []
        servers.run(0.1)
        [[due, name, _, rang]] = state_of(chief)["rung"]
        assert (due, name) == (set_at + 200, "a")
        assert 0 <= rang - due <= 20
        assert len(times_in(servers, chief)) == 2

    def test_all_servers_are_told_the_same(self) -> None:
        """Those who follow, as well."""
        servers = cluster()
        chief = servers.leader()
        for number in range(20):
            servers.result(chief.write(["in", 7 * number % 40, str(number)]))
        servers.run(0.5)
        states = [state_of(each) for each in servers.servers.values()]
        assert len(states[0]["rung"]) == 20
        assert states[1:] == states[:1] * 2

    def test_writes_of_one_millisecond_share_an_entry(self) -> None:
        """It is told once for all that are entered together."""
        servers = cluster()
        chief = servers.leader()
        for _ in range(10):
            chief.write(["in", 60_000, "a"])
        servers.run(0.05)
        assert len(times_in(servers, chief)) == 1

    def test_it_goes_on_with_another_leader(self) -> None:
        """Time stands still while nobody leads: late it may be, but not early."""
        servers = cluster()
        servers.run(0.3)
        chief = servers.leader()
        set_at = servers.result(chief.write(["in", 500, "a"]))
        began = servers.reactor.seconds()
        servers.run(0.1)
        servers.stop(chief.name)
        heir = servers.leader()
        servers.until(lambda: state_of(heir)["rung"])
        assert servers.reactor.seconds() - began >= 0.499
        assert state_of(heir)["rung"][0][:3] == [set_at + 500, "a", set_at]

    def test_it_survives_a_restart_of_all(self, tmp_path: Path) -> None:
        """The time is in the log, and what is due with it."""
        servers = cluster(data_dir=tmp_path, config={"storage": LastingStorage})
        set_at = servers.result(servers.leader().write(["in", 300, "a"]))
        for name in servers.names:
            servers.stop(name)
        servers.run(5)
        for name in servers.names:
            servers.start(name)
        chief = servers.leader()
        servers.until(lambda: state_of(chief)["rung"])
        assert state_of(chief)["rung"][0][0] == set_at + 300

    def test_a_machine_that_never_has_enough_is_told_each_second(self) -> None:
        """The log does not fill with times that change nothing."""

        class Insatiable(Alarms):
            def next_time(self, state: Any) -> int | None:
                del state
                return 0

        servers = cluster(Insatiable)
        servers.run(3.5)
        assert 3 <= len(times_in(servers, servers.leader())) <= 5

    def test_a_machine_that_raises_is_not_told(self) -> None:
        """What it should say about its next time takes no server down."""

        class Confused(Alarms):
            def next_time(self, state: Any) -> int | None:
                raise KeyError(str(state))

        servers = cluster(Confused)
        chief = servers.leader()
        servers.result(chief.write(["in", 1, "a"]))
        servers.run(1)
        assert servers.leader() is chief
        assert len(times_in(servers, chief)) == 1
