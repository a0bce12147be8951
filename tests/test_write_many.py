"""``write_many``: commands side by side in the log, and a list of what they came to."""

from __future__ import annotations

from typing import Any

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
    ProtocolError,
    RaftError,
)
from consensus.options import MAX_COMMANDS, ManyOptions, pack, pack_results
from contrib.kvstore.commands import Get, Set
from contrib.kvstore.machine import KVStore
from tests.support.servers import Servers

_encode = msgspec.msgpack.encode


def client_of(servers: Servers) -> Client:
    """Return a client of all of them."""
    options = MemoryOptions(**servers.mapping["transport"]["options"])
    transport = MemoryTransport(options, servers.reactor, servers.reactor)
    addresses = {name: name for name in servers.servers}
    return Client(addresses, transport, servers.reactor)


def failing(servers: Servers, waiting: Any, error: type[RaftError]) -> Any:
    """Return the error of that class that comes of *waiting*."""
    with pytest.raises(error) as caught:
        servers.result(waiting)
    return caught.value


class ServerTests:
    """Calls of a program to a server of its own process."""

    def test_they_stand_side_by_side(self) -> None:
        """Their results come in order, and no other write is between them."""
        servers = Servers(("s1",))
        chief = servers.leader()
        before = chief.write(["set", "a", 0], with_index=True)
        many = chief.write_many([["set", "a", 1], ["set", "a", 2], ["set", "a", 3]])
        after = chief.write(["set", "a", 4], with_index=True)
        assert servers.result(many) == [0, 1, 2]
        first, last = servers.result(before), servers.result(after)
        assert (first[0], last) == (None, (3, first[1] + 4))

    def test_none(self) -> None:
        """No commands have no results, whoever leads."""
        servers = Servers()
        servers.leader()
        for server in servers.servers.values():
            assert servers.result(server.write_many([])) == []

    def test_a_raising_machine_is_a_result(self) -> None:
        """The commands after it are applied."""
        servers = Servers()
        chief = servers.leader()
        many = chief.write_many([["fail", "oops"], ["set", "a", 1]])
        error, result = servers.result(many)
        assert isinstance(error, CommandFailedError)
        assert (error.kind, error.detail, result) == ("ValueError", "oops", None)
        assert servers.result(chief.read("a")) == 1

    @pytest.mark.parametrize("bad", [["set", "b", "x" * 2000], ["set", "b", object()]])
    def test_one_that_cannot_be_taken(self, bad: Any) -> None:
        """All are refused, and none is applied."""
        servers = Servers(("s1",), config={"limits": {"max_command_bytes": 1000}})
        chief = servers.leader()
        last = chief.status().last_index
        many = chief.write_many([["set", "a", 1], bad])
        failing(servers, many, InvalidCommandError)
        assert chief.status().last_index == last

    def test_more_than_may_ever_wait(self) -> None:
        """That is no overload: it would be refused again."""
        limits = {"max_pending_requests": 5}
        servers = Servers(("s1",), config={"limits": limits})
        chief = servers.leader()
        six = [["set", "a", number] for number in range(6)]
        error = failing(servers, chief.write_many(six), InvalidCommandError)
        assert "6 commands" in str(error)
        waiting = chief.write_many(six[:4])
        failing(servers, chief.write_many(six[:2]), OverloadedError)
        assert servers.result(waiting) == [None, 0, 1, 2]
        assert servers.result(chief.write_many(six[:5])) == [3, 0, 1, 2, 3]

    def test_a_follower_refuses(self) -> None:
        servers = Servers()
        chief = servers.leader()
        many = servers.followers()[0].write_many([["set", "a", 1]])
        assert failing(servers, many, NotLeaderError).leader == chief.name

    def test_a_follower_passes_them_on(self) -> None:
        """With ``forward: true``; errors among the results come back."""
        servers = Servers(config={"forward": True})
        servers.leader()
        follower = servers.followers()[0]
        many = follower.write_many([["set", "a", 1], ["fail", "oops"], ["set", "a", 2]])
        first, error, last = servers.result(many)
        assert (first, str(error.detail), last) == (None, "oops", 1)

    def test_a_call_goes_one_server_further(self) -> None:
        """One that was passed on to a server that does not lead is refused."""
        servers = Servers(config={"forward": True})
        servers.leader()
        payload = pack(ManyOptions(forwarded=True), [_encode(["set", "a", 1])])
        call = servers.followers()[0].answer("write_many", payload)
        failing(servers, call, NotLeaderError)

    def test_a_lost_leadership(self) -> None:
        """They fail together, once."""
        servers = Servers(config={"timing": {"request_timeout": 1.0}})
        chief = servers.leader()
        for follower in servers.followers():
            servers.result(follower.stopService())
        many = chief.write_many([["set", "a", 1], ["set", "a", 2]])
        failing(servers, many, OutcomeUnknownError)


class ClientTests:
    """Calls over a transport."""

    def test_the_leader_is_found(self) -> None:
        """Results are bytes; an error of the machine is in its place."""
        servers = Servers()
        servers.leader()
        client = client_of(servers)
        commands = [["set", "a", 1], ["fail", "oops"], ["set", "a", 2]]
        many = client.write_many([_encode(command) for command in commands])
        first, error, last = servers.result(many)
        assert (first, last) == (_encode(None), _encode(1))
        assert isinstance(error, CommandFailedError)
        assert (error.kind, error.detail) == ("ValueError", "oops")

    def test_none(self) -> None:
        servers = Servers()
        assert servers.result(client_of(servers).write_many([])) == []

    def test_no_commands_on_the_wire(self) -> None:
        servers = Servers()
        call = servers.leader().answer("write_many", pack(ManyOptions(), []))
        assert servers.result(call) == _encode([])

    def test_one_that_is_none(self) -> None:
        """All are refused, and none is applied."""
        servers = Servers(machine=KVStore)
        chief = servers.leader()
        commands = [chief.machine.encode(Set(b"k", b"v")), b"rubbish"]
        client = client_of(servers)
        failing(servers, client.write_many(commands), InvalidCommandError)
        assert servers.result(chief.read(Get(b"k"))) is None

    def test_too_many(self) -> None:
        """One call does not keep a server busy for long."""
        servers = Servers(("s1",))
        servers.leader()
        command = _encode(["set", "a", 1])
        many = client_of(servers).write_many([command] * (MAX_COMMANDS + 1))
        error = failing(servers, many, InvalidCommandError)
        assert "10001" in str(error)

    @pytest.mark.parametrize(
        "payload",
        [
            b"",
            _encode([]),
            _encode([{}, None]),
            _encode([{}, [1]]),
            _encode([{}, ["text"]]),
            _encode([{"max_age": 1}, []]),
            _encode([{}, [], 1]),
            b"\x92\x80\xdd\xff\xff\xff\xff",
            b"\x91" * 5000,
        ],
    )
    def test_nonsense(self, payload: bytes) -> None:
        servers = Servers(("s1",))
        call = servers.leader().answer("write_many", payload)
        failing(servers, call, InvalidCommandError)

    @pytest.mark.parametrize(
        "answer", [b"", _encode(1), _encode([1]), _encode([["x"]])]
    )
    def test_an_answer_that_is_none(self, answer: bytes) -> None:
        """What a broken server says is an error about the protocol."""
        servers = Servers(("s1",))
        chief = servers.leader()

        def rubbish(_: object) -> bytes:
            return answer

        original = chief.answer
        chief.answer = lambda *call: original(*call).addCallback(rubbish)  # type: ignore[method-assign]
        many = client_of(servers).write_many([_encode(["set", "a", 1])])
        failing(servers, many, ProtocolError)

    def test_results_that_cannot_be_read(self) -> None:
        """A server that passed the call on says that it was done all the same."""
        servers = Servers(config={"forward": True})
        chief = servers.leader()

        def rubbish(_: object) -> bytes:
            return pack_results([b"\xc1", _encode(5)])

        original = chief.answer
        chief.answer = lambda *call: original(*call).addCallback(rubbish)  # type: ignore[method-assign]
        many = servers.followers()[0].write_many([["set", "a", 1], ["set", "a", 2]])
        error, result = servers.result(many)
        assert (error.kind, result) == ("UndecodableResult", 5)
