"""Tests of consensus.calling.discovery and .targets: real servers, in virtual time."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from adapters.transport.memory import MemoryNetwork, MemoryOptions, MemoryTransport
from consensus.calling.discovery import Discovery
from consensus.calling.targets import Target, Targets
from consensus.client import Client
from consensus.core.values import Status
from consensus.errors import (
    InvalidCommandError,
    TimedOutError,
    UnreachableError,
)
from tests.support.deferreds import error_of
from tests.support.servers import Servers
from tests.support.tally import Tally, encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from consensus.core.values import Address

STATUS = Status("s1", "c", "leader", 3, "s1", {"s1": "at s1"}, 10, 9, 11)

#: What the servers at some addresses say.
Answers = dict[str, Status | None]


def client_of(servers: Servers, *names: str, session: bool = True) -> Client:
    """Return a client that is told of the servers *names*."""
    options = MemoryOptions(**servers.mapping["transport"]["options"])
    transport = MemoryTransport(options, servers.reactor, servers.reactor)
    dice = random.Random(3)  # noqa: S311 - reproducible, not secret
    return Client(
        {f"at {name}": name for name in names},
        transport,
        servers.reactor,
        dice=dice.random,
        session=session,
        is_bare=False,
    )


def names(client: Client) -> list[str]:
    """Return the servers that *client* asks."""
    return sorted(target.name for target in client._targets._known)


class Asked:
    """
    A discovery, and the servers that it asks.

    Args:
        told: The addresses that it begins with.
        answers: What the servers say; nothing if they are not there.
    """

    def __init__(self, told: list[str], answers: Answers) -> None:
        self.answers = answers
        self.clock = Clock()
        self.asked: list[str] = []
        self.targets = Targets({each: each for each in told}, lambda: 0.0)
        self.discovery = Discovery(self.targets, self.ask, self.clock, lambda: 0.5)

    def ask(self, address: Address, timeout: float) -> Deferred[Status]:
        """Answer as the server at *address* does."""
        assert 0 < timeout < 5
        self.asked.append(address)
        found = self.answers.get(address)
        return fail(UnreachableError("no")) if found is None else succeed(found)

    def known(self) -> dict[str, str]:
        """Return the servers that are asked from now on."""
        return dict(self.targets._known)

    def looks(self, seconds: float) -> bool:
        """Let time pass; say whether anybody is asked then."""
        self.clock.advance(seconds)
        self.asked.clear()
        self.discovery.look_if_due()
        return bool(self.asked)


class DiscoveryTests:
    """Who is asked, and when."""

    def test_it_looks_once_a_minute(self) -> None:
        """When all is well, that is enough; another call does not look again."""
        asked = Asked(["at s1"], {"at s1": STATUS})
        assert asked.looks(0)
        assert not asked.looks(59)
        assert asked.looks(2)
        assert asked.known() == {"s1": "at s1"}

    def test_a_failure_is_a_reason_to_look(self) -> None:
        """But not at once again, and less and less often."""
        members = {"s1": "at s1", "s2": "at s2"}
        answers: Answers = {"at s1": replace(STATUS, membership=members)}
        asked = Asked(["at s1"], answers)
        asked.looks(0)
        moments = []
        for second in range(60):
            asked.discovery.doubt()
            if asked.looks(1):
                moments.append(second)
        assert moments[0] <= 2
        assert 4 <= len(moments) <= 6
        assert asked.known() == members

    def test_one_look_at_a_time(self) -> None:
        """While answers are under way nobody is asked again."""
        asked = Asked(["at s1"], {})
        waiting: Deferred[Status] = Deferred()
        asked.discovery._ask = lambda *_: waiting
        asked.discovery.look_if_due()
        asked.discovery.doubt()
        asked.discovery._ask = asked.ask
        assert not asked.looks(1)
        waiting.callback(STATUS)
        assert asked.known() == {"s1": "at s1"}

    def test_nobody_answers(self) -> None:
        """What was known is kept, and all of it is asked again."""
        members = {"s1": "at s1", "s2": "at s2"}
        asked = Asked(["told"], {"told": replace(STATUS, membership=members)})
        asked.looks(0)
        asked.answers.clear()
        assert asked.looks(61)
        assert sorted(asked.asked) == ["at s2", "told"]
        assert asked.known() == {"s1": "told", "s2": "at s2"}
        asked.answers["told"] = replace(STATUS, membership={"s9": "at s9"})
        assert asked.looks(10)
        assert asked.known() == {"s9": "at s9"}

    def test_the_newest_membership_counts(self) -> None:
        """A server that was removed does not know it."""
        old = replace(STATUS, membership={"s1": "at s1"}, membership_index=3)
        new = replace(
            STATUS,
            server="s2",
            membership={"s2": "at s2"},
            learners={"s3": "at s3"},
            membership_index=7,
        )
        asked = Asked(["at s1", "at s2"], {"at s1": old, "at s2": new})
        asked.looks(0)
        assert asked.known() == {"s2": "at s2", "s3": "at s3"}

    def test_another_cluster(self) -> None:
        """One that has got an old address is not believed."""
        other = replace(STATUS, cluster="other", membership={"x": "at x"})
        asked = Asked(["at s1", "at s2"], {"at s1": STATUS})
        asked.looks(0)
        asked.answers = {"at s1": other, "at s2": other}
        asked.looks(100)
        assert asked.known() == {"s1": "at s1"}

    def test_before_the_cluster_is_founded(self) -> None:
        """A server without a membership says nothing."""
        asked = Asked(["at s1"], {"at s1": replace(STATUS, membership={})})
        asked.looks(0)
        assert asked.known() == {"at s1": "at s1"}


class TargetsTests:
    """Whom a client asks, when it has learnt something."""

    def test_the_leader_keeps_its_office(self) -> None:
        """Under its name, if it is a member still."""
        targets = Targets({"told": "at s1"}, lambda: 0.0)
        targets.answered(Target("told", "at s1"))
        targets.learn({"s1": "at s1", "s2": "at s2"})
        assert targets.leader == Target("s1", "at s1")
        targets.answered(Target("told", "at s1"))
        assert targets.leader == Target("s1", "at s1")
        targets.learn({"s2": "at s2"})
        assert targets.choose(is_for_leader=True) == Target("s2", "at s2")

    def test_whoever_was_asked_is_asked_again(self) -> None:
        targets = Targets({"a": "at a", "b": "at b"}, lambda: 0.9)
        assert targets.choose(is_for_leader=True).name == "b"
        targets.learn({"x": "at x", "y": "at y", "b": "at b"})
        assert targets.choose(is_for_leader=True).name == "b"

    def test_addresses(self) -> None:
        """Those that the client was told of are never forgotten."""
        targets = Targets({"a": "at a"}, lambda: 0.0)
        targets.learn({"b": "at b"})
        assert targets.addresses() == ["at b", "at a"]
        assert targets.address("a") == "at a"
        assert targets.address("c") == ""


class MembersTests:
    """A client of a cluster that changes."""

    def test_one_address_is_enough(self) -> None:
        """The others are found, and asked when the first is gone."""
        servers = Servers(machine=Tally)
        servers.leader()
        client = client_of(servers, "s1")
        assert servers.result(client.read(encode(0))) == encode(0)
        servers.run(0.1)
        assert names(client) == ["s1", "s2", "s3"]
        network_of(servers).down("s1")
        assert servers.result(client.write(encode(1))) == encode(1)

    def test_all_are_replaced(self) -> None:
        """A client that is in use follows its cluster anywhere."""
        servers = Servers(machine=Tally)
        client = client_of(servers, "s1", "s2", "s3")
        servers.result(client.write(encode(1)))
        for number in (1, 2, 3):
            servers.join(f"s{number + 3}")
            new = f"s{number + 3}"
            servers.until(partial(votes, servers, new))
            chief = servers.leader()
            if chief.name == f"s{number}":
                servers.result(chief.transfer(new))
            servers.result(servers.leader().members.remove(f"s{number}"))
            servers.run(0.5)
            servers.stop(f"s{number}")
            servers.run(61)
            servers.result(client.read(encode(0)))
            servers.run(1)
        assert names(client) == ["s4", "s5", "s6"]
        assert servers.result(client.write(encode(1))) == encode(2)


def votes(servers: Servers, name: str) -> bool:
    """Say whether *name* is a voting member."""
    return name in servers.leader().status().membership


def network_of(servers: Servers) -> MemoryNetwork:
    """Return what joins *servers*."""
    return MemoryNetwork.named(servers.mapping["transport"]["options"]["network"])


class ReadYourWritesTests:
    """Reads of any consistency see what the same client has written."""

    @pytest.mark.parametrize("consistency", ["stale", "follower", "lease"])
    @pytest.mark.parametrize("session", [True, False])
    def test_any_consistency(self, consistency: Any, *, session: bool) -> None:
        """Whichever server answers, and however far behind it is."""
        servers = Servers(machine=Tally)
        servers.leader()
        client = client_of(servers, *servers.names, session=session)
        for number in range(1, 31):
            assert servers.result(client.write(encode(1))) == encode(number)
            read = client.read(encode(0), consistency=consistency)
            assert servers.result(read) == encode(number)

    def test_a_server_that_is_cut_off(self) -> None:
        """It does not answer with what it has; the others do."""
        servers = Servers(machine=Tally)
        client = client_of(servers, *servers.names)
        servers.result(client.write(encode(1)))
        servers.run(1)
        behind = servers.followers()[0].name
        cut_off(servers, behind)
        servers.result(client.write(encode(1)))
        for _ in servers.names:
            read = client.read(encode(0), consistency="stale")
            assert servers.result(read) == encode(2)
            # Who asks for nothing of the kind gets what there is.
        seen = {
            servers.result(client.read(encode(0), consistency="stale", at_index=0))
            for _ in servers.names
        }
        assert seen == {encode(1), encode(2)}

    def test_many_writes(self) -> None:
        """They count as well, but for those that failed."""
        servers = Servers(machine=Tally)
        client = client_of(servers, *servers.names)
        results = servers.result(client.write_many([encode(1), encode("x")]))
        assert results[0] == encode(1)
        assert results[1].kind == "TypeError"
        assert client._seen > 0
        for _ in servers.names:
            read = client.read(encode(0), consistency="stale")
            assert servers.result(read) == encode(1)

    def test_only_failures(self) -> None:
        servers = Servers(machine=Tally)
        client = client_of(servers, *servers.names)
        servers.result(client.write_many([encode("x")]))
        assert client._seen == 0

    @pytest.mark.parametrize("forward", [True, False])
    def test_the_index_of_a_sessions_write(self, *, forward: bool) -> None:
        """It is where the log has the write, also if a server passes it on."""
        servers = Servers(machine=Tally, config={"forward": forward})
        follower = servers.followers()[0].name
        client = client_of(servers, follower)
        result, index = servers.result(client.write(encode(1), with_index=True))
        assert result == encode(1)
        entry = servers.result(servers.leader().get_entry(index))
        assert entry.command.endswith(encode(1))
        own = client.session()
        assert servers.result(own.write(encode(1))) == encode(2)
        assert client._seen == index + 2  # one opens the session

    def test_two_sessions_are_shared(self) -> None:
        """The client has one, which its first write opens."""
        servers = Servers(machine=Tally)
        client = client_of(servers, *servers.names)
        for _ in range(5):
            servers.result(client.write(encode(1)))
        driver = servers.leader()._driver
        assert driver is not None
        assert len(driver.applier.sessions) == 1


def cut_off(servers: Servers, name: str) -> None:
    """Let *name* hear its clients only."""
    server = servers.servers[name]
    server.deliver = lambda *_: None  # type: ignore[method-assign]


class TimeoutTests:
    """A call may have a timeout of its own."""

    @pytest.mark.parametrize(
        "call",
        [
            lambda client: client.read(encode(0), timeout=0.5),
            lambda client: client.write(encode(0), timeout=0.5),
            lambda client: client.write(encode(0), session=False, timeout=0.5),
            lambda client: client.write_many([encode(0)], timeout=0.5),
        ],
    )
    def test_a_short_one(self, call: Callable[[Client], Deferred[Any]]) -> None:
        """It holds instead of the client's."""
        servers = Servers(machine=Tally)
        client = client_of(servers, *servers.names)
        servers.result(client.write(encode(1)))
        for name in servers.names:
            network_of(servers).down(name)
        waiting = call(client)
        servers.run(0.6)
        assert isinstance(error_of(waiting), UnreachableError | TimedOutError)

    @pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan")])
    def test_nonsense(self, timeout: float) -> None:
        servers = Servers(machine=Tally)
        client = client_of(servers, *servers.names)
        calls: list[Deferred[Any]] = [
            client.read(encode(0), timeout=timeout),
            client.write(encode(0), timeout=timeout),
            client.write(encode(0), session=False, timeout=timeout),
        ]
        for call in calls:
            assert isinstance(error_of(call), InvalidCommandError)
