"""``forward: true``: any server takes what only the leader can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from adapters.transport.memory import MemoryOptions, MemoryTransport
from consensus.client import Client
from consensus.errors import (
    CommandFailedError,
    InvalidCommandError,
    NotLeaderError,
    OutcomeUnknownError,
    OverloadedError,
    UnreachableError,
)
from consensus.options import ReadOptions, WriteOptions, pack, unpack_result
from contrib.kvstore.commands import Get, Set
from contrib.kvstore.machine import KVStore
from tests.support.servers import Servers

if TYPE_CHECKING:
    from consensus.server import RaftServer

_encode = msgspec.msgpack.encode


def _cluster(**config: Any) -> tuple[Servers, RaftServer, RaftServer]:
    servers = Servers(config={"forward": True, **config})
    chief = servers.leader()
    servers.result(chief.write(["set", "a", 1]))
    servers.run(0.1)
    return servers, chief, servers.followers()[0]


class LocalCallTests:
    """Calls of a program to a server of its own process."""

    def test_a_write_is_passed_on(self) -> None:
        """It is answered as the leader would."""
        servers, _, follower = _cluster()
        assert servers.result(follower.write(["set", "a", 2])) == 1
        result = follower.write(["set", "a", 3], with_index=True)
        assert servers.result(result) == (2, 5)

    @pytest.mark.parametrize("consistency", ["linearizable", "lease"])
    def test_a_read_is_passed_on(self, consistency: Any) -> None:
        """If only a leader may serve it."""
        servers, chief, follower = _cluster()
        servers.result(chief.write(["set", "a", 2]))
        read = follower.read("a", consistency=consistency, at_index=4)
        assert servers.result(read) == 2

    def test_other_reads_are_served_here(self) -> None:
        """They need no leader."""
        servers, _, follower = _cluster()
        servers.network.down(follower.name)
        assert servers.result(follower.read("a", consistency="stale")) == 1

    def test_a_failure_of_the_machine_comes_back(self) -> None:
        """With its kind and what it said."""
        servers, _, follower = _cluster()
        error = servers.failing(follower.write(["fail", "oops"]), CommandFailedError)
        assert (error.kind, error.detail) == ("ValueError", "oops")
        error = servers.failing(follower.read("fail"), CommandFailedError)
        assert error.kind == "LookupError"

    def test_results_are_decoded_as_results(self) -> None:
        """A machine may know other bytes for commands."""
        servers = Servers(config={"forward": True}, machine=KVStore)
        servers.leader()
        servers.run(0.1)
        follower = servers.followers()[0]
        assert servers.result(follower.write(Set(b"k", "v"))) is None
        assert servers.result(follower.read(Get(b"k"))) == "v"

    def test_off_by_default(self) -> None:
        """Then the leader is named."""
        servers = Servers()
        chief = servers.leader()
        servers.run(0.1)
        waiting = servers.followers()[0].write(["set", "a", 2])
        assert servers.failing(waiting, NotLeaderError).leader == chief.name

    def test_without_a_leader_nobody_is_asked(self) -> None:
        """And nobody is named."""
        servers = Servers(config={"forward": True})
        server = servers.servers["s1"]
        for waiting in (server.write(["set", "a", 1]), server.read("a")):
            assert servers.failing(waiting, NotLeaderError).leader is None

    def test_what_is_too_large_goes_no_further(self) -> None:
        """It is refused at the first door."""
        servers, chief, follower = _cluster(limits={"max_command_bytes": 100})
        before = chief.status().last_index
        waiting = follower.write(["set", "a", "x" * 100])
        servers.failing(waiting, InvalidCommandError)
        assert chief.status().last_index == before

    @pytest.mark.parametrize(
        "limits",
        [
            {"max_pending_requests": 2},
            {"max_pending_bytes": 120, "max_command_bytes": 100},
        ],
    )
    def test_too_much_is_refused(self, limits: dict[str, int]) -> None:
        """What is under way is bounded; later calls pass again."""
        servers, _, follower = _cluster(limits=limits)
        waiting = [follower.write(["set", "a", "x" * 20]) for _ in range(9)]
        for each in waiting[:2]:
            servers.result(each)
        for each in waiting[2:]:
            servers.failing(each, OverloadedError)
        servers.result(follower.write(["set", "a", "y"]))

    def test_what_was_not_sent_was_not_done(self) -> None:
        """The leader cannot be reached."""
        servers, chief, follower = _cluster()
        servers.network.down(chief.name)
        servers.failing(follower.write(["set", "a", 2]), UnreachableError)

    def test_what_was_sent_may_have_been_done(self) -> None:
        """The answer is lost."""
        servers, chief, follower = _cluster()
        servers.network.cut(chief.name, follower.name)
        waiting = follower.write(["set", "a", 2])
        servers.failing(waiting, OutcomeUnknownError)

    def test_what_is_under_way_at_a_stop_may_have_been_done(self) -> None:
        """Nobody waits for ever."""
        servers, chief, follower = _cluster()
        servers.network.cut(chief.name, follower.name)
        waiting = follower.write(["set", "a", 2])
        servers.run(0.01)
        servers.stop(follower.name)
        servers.failing(waiting, OutcomeUnknownError)


class OneHopTests:
    """A call that was passed on is never passed on again."""

    @pytest.mark.parametrize(
        ("method", "payload"),
        [
            (
                "write_with",
                pack(WriteOptions(forwarded=True), _encode(["set", "a", 2])),
            ),
            ("read_with", pack(ReadOptions(forwarded=True), _encode("a"))),
        ],
    )
    def test_a_follower_names_the_leader(self, method: str, payload: bytes) -> None:
        """Two servers that disagree about who leads do not play ball."""
        servers, chief, follower = _cluster()
        error = servers.failing(follower.answer(method, payload), NotLeaderError)
        assert error.leader == chief.name


class WireTests:
    """Calls of clients, with and without options."""

    @pytest.mark.parametrize("is_leader", [False, True])
    def test_every_server_takes_all_of_them(self, *, is_leader: bool) -> None:
        """The bytes are those of the leader."""
        servers, chief, follower = _cluster()
        server = chief if is_leader else follower

        def ask(method: str, payload: bytes) -> bytes:
            result: bytes = servers.result(server.answer(method, payload))
            return result

        write = _encode(["set", "a", 2])
        assert ask("write", write) == _encode(1)
        assert ask("read", _encode("a")) == _encode(2)
        answer = ask("write_with", pack(WriteOptions(with_index=True), write))
        assert unpack_result(answer) == (_encode(2), 5)
        assert ask("write_with", pack(WriteOptions(), write)) == _encode(2)
        for options in (
            ReadOptions(),
            ReadOptions("follower"),
            ReadOptions("stale", max_age=1.0, at_index=6),
        ):
            assert ask("read_with", pack(options, _encode("a"))) == _encode(2)

    @pytest.mark.parametrize("method", ["write_with", "read_with"])
    @pytest.mark.parametrize(
        "payload",
        [
            b"",
            b"\xc1",
            _encode([{}]),
            _encode([{}, "text"]),
            _encode([{"colour": "blue"}, b"x"]),
            _encode([{"with_index": 1, "consistency": 1}, b"x"]),
            _encode([{"forwarded": "yes"}, b"x"]),
            _encode([{}, b"\xc1"]),
            b"\x91" * 5000,
        ],
    )
    def test_rubbish_is_refused(self, method: str, payload: bytes) -> None:
        """An option that is not known could be a promise that is not kept."""
        servers, chief, _ = _cluster()
        servers.failing(chief.answer(method, payload), InvalidCommandError)

    @pytest.mark.parametrize(
        "options",
        [
            {"consistency": "fresh"},
            {"max_age": 1.0},
            {"consistency": "stale", "max_age": -1.0},
            {"at_index": -1},
            {"at_index": 2**64 - 1},
        ],
    )
    def test_options_that_make_no_sense_are_refused(self, options: Any) -> None:
        """As for a local call."""
        servers, chief, _ = _cluster()
        payload = _encode([options, _encode("a")])
        servers.failing(chief.answer("read_with", payload), InvalidCommandError)

    def test_large_queries_are_refused(self) -> None:
        """They wait in memory, as commands do."""
        servers, chief, _ = _cluster(limits={"max_command_bytes": 100})
        waiting = chief.answer("read", _encode("x" * 100))
        servers.failing(waiting, InvalidCommandError)

    def test_the_bytes_of_queries_are_bounded(self) -> None:
        """All that wait count together."""
        limits = {"max_command_bytes": 100, "max_pending_bytes": 150}
        servers, chief, _ = _cluster(limits=limits)
        waiting = [chief.answer("read", _encode("x" * 80)) for _ in range(2)]
        assert servers.result(waiting[0]) == _encode(None)
        servers.failing(waiting[1], OverloadedError)
        assert servers.result(chief.answer("read", _encode("a"))) == _encode(1)


class ClientTests:
    """The cluster's client, with options."""

    def _client(self, servers: Servers) -> Client:
        options = MemoryOptions(**servers.mapping["transport"]["options"])
        transport = MemoryTransport(options, servers.reactor, servers.reactor)
        addresses = {name: name for name in servers.names}
        return Client(addresses, transport, servers.reactor, dice=lambda: 0.0)

    def test_a_client_reads_its_own_writes_anywhere(self) -> None:
        """It hands the index of the write to the read."""
        servers, _, _ = _cluster()
        client = self._client(servers)
        for value in range(6):
            write = client.write(_encode(["set", "a", value]), with_index=True)
            _, index = servers.result(write)
            read = client.read(_encode("a"), consistency="stale", at_index=index)
            assert servers.result(read) == _encode(value)

    def test_reads_for_any_server_go_to_all(self) -> None:
        """One after the other; the client goes on knowing who leads."""
        servers, chief, _ = _cluster(forward=False)
        client = self._client(servers)
        servers.result(client.write(_encode(["set", "a", 2])))
        assert client.leader == chief.name
        others = [name for name in servers.names if name != chief.name]
        servers.network.down(others[0])
        for _ in range(6):
            read = client.read(_encode("a"), consistency="follower")
            assert servers.result(read) == _encode(2)
        assert client.leader == chief.name

    def test_one_that_is_too_old_is_passed_over(self) -> None:
        """Another may be younger."""
        servers, _, follower = _cluster()
        network, client = servers.network, self._client(servers)
        for name in servers.names:
            network.cut(name, follower.name)
        servers.run(1)
        for _ in range(6):
            read = client.read(_encode("a"), consistency="stale", max_age=0.5)
            assert servers.result(read) == _encode(1)

    def test_options_are_checked_before_anything_is_sent(self) -> None:
        """The caller is told at once."""
        servers, _, _ = _cluster()
        read = self._client(servers).read(b"x", max_age=1.0)
        servers.failing(read, InvalidCommandError)
