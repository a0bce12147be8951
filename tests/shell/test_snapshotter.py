"""Snapshots of real servers in virtual time: taken, sent, received, restored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from adapters.transport.memory import MemoryNetwork
from consensus.core.messages import InstallSnapshot
from consensus.errors import (
    CompactedError,
    InvalidCommandError,
    RejectedError,
    StorageError,
)
from consensus.snapshots.files import CHUNK_BYTES
from consensus.testing.simulator import SimulatedCluster
from tests.support.servers import Register, Servers
from tests.support.storages import LastingStorage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from consensus.core.messages import Message
    from consensus.server import RaftServer

_OFTEN = {"snapshots": {"every_entries": 10, "keep_entries": 3}}
_BY_HAND = {"snapshots": {"every_entries": 1_000_000, "keep_entries": 1}}


@pytest.fixture(autouse=True)
def no_disks() -> Iterator[None]:
    """Forget what other tests have stored."""
    LastingStorage.disks.clear()
    LastingStorage.bases.clear()
    yield
    MemoryNetwork._networks.clear()


def _lasting(tmp_path: Path, config: dict[str, Any]) -> Servers:
    return Servers(config=config | {"storage": LastingStorage}, data_dir=tmp_path)


def _write(servers: Servers, count: int, size: int = 1, start: int = 0) -> None:
    chief = servers.leader()
    for number in range(start, start + count):
        servers.result(chief.write(["set", f"key {number}", "v" * size]))


def _state(server: RaftServer) -> Any:
    driver = server._driver
    assert driver is not None
    return driver.applier.state


def _dropped(name: str) -> tuple[int, int]:
    """Return index and term of the last entry that *name* has dropped."""
    bases = LastingStorage.bases.items()
    return next(base for path, base in bases if name in path.parts)


def _cut_off_after(count: int, servers: Servers, server: RaftServer) -> list[int]:
    """Cut *server* off when it first gets chunk *count*; return all their numbers."""
    numbers: list[int] = []
    deliver = server.deliver

    def watched(*messages: Message) -> None:
        for message in messages:
            if isinstance(message, InstallSnapshot):
                if message.number == count and count not in numbers:
                    servers.network.down(server.name)
                numbers.append(message.number)
        deliver(*messages)

    server.deliver = watched  # type: ignore[method-assign]
    return numbers


class Unspeakable(Register):
    """A machine whose state has no bytes."""

    def init(self, name: str) -> Any:
        """Begin with what MessagePack does not know."""
        del name
        return {"key": object()}


class PolicyTests:
    """When a snapshot is taken (§5.1)."""

    def test_every_server_takes_one_by_itself_and_cuts_its_log(self) -> None:
        """Each does so on its own, and keeps a tail."""
        servers = Servers(config=_OFTEN)
        _write(servers, 25)
        servers.run(1)
        for server in servers.servers.values():
            status = server.status()
            assert status.snapshot_index >= 20
            assert status.first_index == status.snapshot_index - 3 + 1
            assert _state(server) == {f"key {n}": "v" for n in range(25)}

    def test_large_commands_count_by_their_bytes(self) -> None:
        """Few entries may be a lot."""
        servers = Servers(config={"snapshots": {"every_bytes": 50_000}})
        _write(servers, 3, size=20_000)
        servers.run(1)
        assert servers.leader().status().snapshot_index >= 4

    def test_nothing_is_taken_before_its_time(self) -> None:
        """By default that is after many entries."""
        servers = Servers()
        _write(servers, 25)
        servers.run(1)
        assert servers.leader().status().snapshot_index == 0
        assert servers.leader().status().first_index == 1

    def test_dropped_entries_are_refused(self) -> None:
        """Who asks for one hears where the log begins."""
        servers = Servers(config=_OFTEN)
        _write(servers, 25)
        servers.run(1)
        chief = servers.leader()
        with pytest.raises(CompactedError) as caught:
            servers.result(chief.get_entry(1))
        assert caught.value.first_index == chief.status().first_index


class TakeTests:
    """A snapshot that is asked for."""

    def test_it_covers_what_is_applied(self) -> None:
        """And it is reported when it is durable."""
        servers = Servers(config=_BY_HAND)
        _write(servers, 5)
        chief = servers.leader()
        meta = servers.result(chief.snapshot())
        assert meta.index == chief.status().last_applied
        assert chief.status().snapshot_index == meta.index
        assert chief.status().first_index == meta.index

    def test_a_second_one_waits_for_the_first(self) -> None:
        """Both hear of the same."""
        servers = Servers(config=_BY_HAND)
        _write(servers, 5)
        chief = servers.leader()
        first, second = chief.snapshot(), chief.snapshot()
        assert servers.result(first) == servers.result(second)

    def test_nothing_new_needs_no_new_one(self) -> None:
        """The latest says it all."""
        servers = Servers(config=_BY_HAND)
        _write(servers, 5)
        chief = servers.leader()
        meta = servers.result(chief.snapshot())
        assert servers.result(chief.snapshot()) == meta

    def test_nothing_at_all_has_no_snapshot(self) -> None:
        """A server that belongs to nothing has nothing to write down."""
        servers = Servers(("s1",), founded=False)
        with pytest.raises(RejectedError, match="nothing is applied"):
            servers.result(servers.servers["s1"].snapshot())

    def test_a_state_without_bytes_is_said_to_be_one(self) -> None:
        """The server goes on, with a longer log."""
        servers = Servers(config=_OFTEN, machine=Unspeakable)
        _write(servers, 25)
        servers.run(1)
        chief = servers.leader()
        assert chief.status().snapshot_index == 0
        with pytest.raises(InvalidCommandError, match="encode"):
            servers.result(chief.snapshot())
        _write(servers, 1)

    def test_the_log_is_cut_when_it_is_durable(self, tmp_path: Path) -> None:
        """One that the disk does not take has cut nothing."""
        servers = _lasting(tmp_path, _BY_HAND)
        _write(servers, 5)
        servers.run(1)
        chief, other = servers.leader(), servers.followers()[0]
        servers.result(other.snapshot())
        (kept,) = tmp_path.glob(f"**/{other.name}/snapshots/*")
        servers.run(1)
        assert _dropped(other.name) > (0, 0)
        # Where it would have to be renamed to, something else stands.
        Path(str(kept).replace(f"/{other.name}/", f"/{chief.name}/")).mkdir()
        with pytest.raises(StorageError):
            servers.result(chief.snapshot())
        servers.run(1)
        assert _dropped(chief.name) == (0, 0)


class RestartTests:
    """A server that begins with a snapshot."""

    def test_it_finds_its_state_without_the_log(self, tmp_path: Path) -> None:
        """The entries before the snapshot are gone, their effect is not."""
        servers = _lasting(tmp_path, _OFTEN)
        _write(servers, 25)
        servers.run(1)
        for name in servers.names:
            servers.stop(name)
        for name in servers.names:
            servers.start(name)
        chief = servers.leader()
        assert chief.status().first_index > 10
        assert servers.result(chief.read("key 3")) == "v"
        servers.run(1)
        for server in servers.servers.values():
            assert _state(server) == {f"key {n}": "v" for n in range(25)}

    def test_no_read_is_served_before_the_state_is_there(self, tmp_path: Path) -> None:
        """Not even one that may be stale, in the first moment after the start."""
        servers = _lasting(tmp_path, _OFTEN)
        _write(servers, 25)
        servers.run(1)
        servers.stop("s2")
        reader = servers.start("s2")
        answer = reader.read("key 3", consistency="stale")
        assert servers.result(answer) == "v"

    def test_a_log_that_the_crash_left_uncut_is_fine(self, tmp_path: Path) -> None:
        """The snapshot became durable, and the log was not cut any more."""
        servers = _lasting(tmp_path, _BY_HAND)
        _write(servers, 10)
        disks, bases = dict(LastingStorage.disks), dict(LastingStorage.bases)
        servers.run(1)
        servers.result(servers.servers["s2"].snapshot())
        servers.stop("s2")
        directory = tmp_path / "s2"
        LastingStorage.disks[directory] = disks[directory]
        LastingStorage.bases[directory] = bases[directory]
        servers.start("s2")
        servers.run(1)
        assert _state(servers.servers["s2"]) == {f"key {n}": "v" for n in range(10)}

    def test_a_gap_between_snapshot_and_log_stops_the_start(
        self, tmp_path: Path
    ) -> None:
        """Somebody has deleted the snapshots: the state is lost here."""
        servers = _lasting(tmp_path, _OFTEN)
        _write(servers, 25)
        servers.run(1)
        servers.stop("s2")
        for file in (tmp_path / "s2" / "snapshots").iterdir():
            file.unlink()
        with pytest.raises(StorageError, match="entries are missing"):
            servers.start("s2")

    def test_a_damaged_snapshot_stops_the_server(self, tmp_path: Path) -> None:
        """It names the file; half a state would be worse than none."""
        servers = _lasting(tmp_path, _OFTEN)
        _write(servers, 25)
        servers.run(1)
        servers.stop("s2")
        (file,) = sorted((tmp_path / "s2" / "snapshots").iterdir())[-1:]
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        with pytest.raises(StorageError, match=file.name):
            servers.result(servers.start("s2").when_started())


class InstallTests:
    """A follower that needs entries which are gone (figure 5.3)."""

    def test_it_gets_the_snapshot_and_then_the_log(self, tmp_path: Path) -> None:
        """It ends with the same state as all."""
        servers = _lasting(tmp_path, _OFTEN)
        _write(servers, 3)
        servers.leader()
        (absent,) = servers.followers()[:1]
        servers.stop(absent.name)
        _write(servers, 40, start=3)
        servers.start(absent.name)
        servers.run(2)
        status = servers.servers[absent.name].status()
        assert status.snapshot_index >= 30
        assert _state(servers.servers[absent.name]) == {
            f"key {n}": "v" for n in range(43)
        }
        servers.stop(absent.name)
        servers.start(absent.name)
        servers.run(1)
        assert len(_state(servers.servers[absent.name])) == 43

    def test_a_long_one_deposes_nobody(self, tmp_path: Path) -> None:
        """Heartbeats and writes go on beside hundreds of chunks."""
        servers = _lasting(tmp_path, _BY_HAND)
        chief = servers.leader()
        (absent,) = servers.followers()[:1]
        servers.stop(absent.name)
        _write(servers, 60, size=CHUNK_BYTES)
        servers.result(chief.snapshot())
        term = chief.status().term
        servers.start(absent.name)
        _write(servers, 20, start=60)
        servers.run(2)
        assert chief.status().term == term
        assert servers.leader() is chief
        assert _state(servers.servers[absent.name]) == _state(chief)

    def test_a_broken_transfer_goes_on_where_it_stopped(self, tmp_path: Path) -> None:
        """After the cut no chunk is sent again but those that were lost."""
        servers = _lasting(tmp_path, _BY_HAND)
        chief = servers.leader()
        (absent,) = servers.followers()[:1]
        servers.stop(absent.name)
        _write(servers, 60, size=CHUNK_BYTES)
        servers.result(chief.snapshot())
        server = servers.start(absent.name)
        numbers = _cut_off_after(20, servers, server)
        servers.run(3)
        assert 20 <= max(numbers) < 20 + 16
        servers.network.up(absent.name)
        servers.run(3)
        assert _state(server) == _state(servers.leader())
        assert numbers.count(0) == 1
        assert len(numbers) < 60 + 20

    def test_a_restart_in_the_middle_begins_again(self, tmp_path: Path) -> None:
        """What was not finished is thrown away; the old state stays until then."""
        servers = _lasting(tmp_path, _BY_HAND)
        _write(servers, 3)
        servers.run(1)
        chief = servers.leader()
        (absent,) = servers.followers()[:1]
        servers.stop(absent.name)
        _write(servers, 60, size=CHUNK_BYTES, start=3)
        servers.result(chief.snapshot())
        server = servers.start(absent.name)
        _cut_off_after(20, servers, server)
        servers.run(1)
        assert server.status().snapshot_index == 0
        servers.stop(absent.name)
        servers.network.up(absent.name)
        server = servers.start(absent.name)
        servers.run(3)
        assert _state(server) == _state(chief)
        assert len(list((tmp_path / absent.name / "snapshots").iterdir())) == 1

    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("is_known", [False, True])
    def test_a_crash_before_it_is_restored(self, seed: int, *, is_known: bool) -> None:
        """
        The snapshot is durable, the log an older one, and the state is lost.

        Whether the server knew of it or not, it begins again from there.
        """
        config = {"snapshots": {"every_entries": 20, "keep_entries": 1}}
        cluster = SimulatedCluster(
            Register, seed=seed, config=config, sync=(0.01, 0.02)
        )
        cluster.write(["set", "x", 0])
        cluster.run(1.0)
        name = cluster.followers()[0].name
        cluster.crash(name)
        for number in range(1, 50):
            cluster.write(["set", "x", number])
        server = cluster.start(name)

        def is_between() -> bool:
            raft, latest = server.raft, server.disk.snapshots.latest
            if raft is None or latest is None:
                return False
            return not is_known or raft.state.restoring == latest

        while not is_between():
            cluster.run(0.0005)
        assert _state(server).get("x", 0) == 0
        cluster.crash(name)
        server = cluster.start(name)
        cluster.check()
        assert server.state == {"x": 49}
