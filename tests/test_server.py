"""The shell: what users of a server see, and in which order it does things."""

from __future__ import annotations

import json
from shutil import rmtree
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from twisted.logger import capturedLogs, formatEvent

from adapters.transport.memory import MemoryTransport
from consensus.core.messages import (
    AppendEntries,
    AppendEntriesResponse,
    RequestVote,
    RequestVoteResponse,
)
from consensus.core.values import HardState, Identity, Status
from consensus.errors import (
    AlreadyConfiguredError,
    CommandFailedError,
    InvalidChangeError,
    InvalidCommandError,
    LeadershipLostError,
    NotLeaderError,
    OutcomeUnknownError,
    OverloadedError,
    ProtocolError,
    RaftError,
    StoppedError,
    StorageError,
    TimedOutError,
)
from consensus.shell import leadership
from tests.support import storages
from tests.support.servers import Register, Servers
from tests.support.storages import DiaryStorage, LastingStorage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from twisted.internet.defer import Deferred

    from consensus.core.messages import Message
    from consensus.interfaces import Inbox
    from consensus.server import RaftServer


class WiretapTransport(MemoryTransport):
    """A memory transport that writes down what it sends, and may lose all."""

    #: Servers that nobody hears, and that hear nobody.
    silent: ClassVar[set[str]] = set()

    def listen(self, identity: Any, address: str, inbox: Inbox) -> Deferred[None]:
        """Remember who this is."""
        self.server = identity.server
        return super().listen(identity, address, inbox)

    def send(self, peer: str, message: Message) -> None:
        """Note the message in the diary of the storages, then send it."""
        DiaryStorage.diary.append((self.server, f"send {type(message).__name__}"))
        if not {self.server, peer} & self.silent:
            super().send(peer, message)


class Gatherer:
    """
    Hands the messages of a turn over together, as a connection does.

    Args:
        inbox: To whom.
        reactor: Whose turns.
    """

    #: How many messages came together, each time.
    sizes: ClassVar[list[int]] = []

    def __init__(self, inbox: Inbox, reactor: Any) -> None:
        self.welcome = inbox.welcome
        self.refused = inbox.refused
        self.gone = inbox.gone
        self.answer = inbox.answer
        self._inbox = inbox
        self._reactor = reactor
        self._messages: list[Message] = []

    def deliver(self, *messages: Message) -> None:
        """Keep them for a moment."""
        if not self._messages:
            self._reactor.callLater(0.001, self._end)
        self._messages += messages

    def _end(self) -> None:
        messages, self._messages = self._messages, []
        self.sizes.append(len(messages))
        self._inbox.deliver(*messages)


class GatheringTransport(MemoryTransport):
    """A memory transport whose messages come together."""

    def listen(self, identity: Any, address: str, inbox: Inbox) -> Deferred[None]:
        """Gather what comes in."""
        return super().listen(identity, address, Gatherer(inbox, self.reactor))


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    storages.reset()
    WiretapTransport.silent = set()
    yield
    storages.reset()


def silence(server: RaftServer) -> None:
    """Cut *server* off from everybody."""
    WiretapTransport.silent = {server.name}


def wiretapped(tmp_path: Path, **keys: Any) -> Servers:
    """Return a cluster whose disks and wires are written down."""
    network = {"network": f"tap-{tmp_path}"}
    config = {
        "storage": {"engine": DiaryStorage},
        "transport": {"engine": WiretapTransport, "options": network},
        **keys,
    }
    return Servers(config=config, data_dir=tmp_path)


class WriteTests:
    """What happens to a write."""

    def test_every_server_applies_it(self) -> None:
        """A write answers with the machine's result, and reaches all machines."""
        servers = Servers()
        chief = servers.leader()
        assert servers.result(chief.write(["set", "a", 1])) is None
        assert servers.result(chief.write(["set", "a", 2])) == 1
        servers.run(0.1)
        applied = {s.status().last_applied for s in servers.servers.values()}
        assert applied == {chief.status().last_index}

    def test_the_writes_of_a_turn_share_a_sync(self, tmp_path: Path) -> None:
        """A hundred writes of one turn are one append, one sync, one message a peer."""
        servers = wiretapped(tmp_path)
        chief = servers.leader()
        servers.run(0.2)
        DiaryStorage.diary.clear()
        waiting = [chief.write(["set", "k", i]) for i in range(100)]
        assert [servers.result(each) for each in waiting] == [None, *range(99)]
        ours = [what for who, what in DiaryStorage.diary if who == chief.name]
        assert [what for what in ours if what.startswith("append")] == ["append 3-102"]
        assert ours.count("sync") == 1

    def test_many_at_once(self, tmp_path: Path) -> None:
        """They are one append, and one answer."""
        servers = wiretapped(tmp_path)
        chief = servers.leader()
        servers.run(0.2)
        DiaryStorage.diary.clear()
        driver, encode = chief._driver, chief.machine.encode
        assert driver is not None
        calls = [["set", "k", 1], ["fail", "no"], ["set", "k", 2]]
        many = driver.write_many([encode(call) for call in calls])
        one, error, two = servers.result(many)
        assert (one, two) == (None, 1)
        assert isinstance(error, CommandFailedError)
        ours = [what for who, what in DiaryStorage.diary if who == chief.name]
        assert [what for what in ours if what.startswith("append")] == ["append 3-5"]

    def test_a_follower_takes_none_of_many(self) -> None:
        """It names the leader, as for a single one."""
        servers = Servers()
        chief = servers.leader()
        driver = servers.followers()[0]._driver
        assert driver is not None
        with pytest.raises(NotLeaderError) as caught:
            driver.write_many([b"any"])
        assert caught.value.leader == chief.name

    def test_a_raising_machine_is_a_result(self) -> None:
        """What the machine raises reaches the caller, and nothing else suffers."""
        servers = Servers()
        chief = servers.leader()
        error = servers.failing(chief.write(["fail", "oops"]), CommandFailedError)
        assert (error.kind, error.detail) == ("ValueError", "oops")
        assert servers.result(chief.write(["set", "a", 1])) is None
        servers.run(0.1)
        assert {s.status().last_applied for s in servers.servers.values()} == {4}

    def test_a_follower_names_the_leader(self) -> None:
        """Only the leader takes writes and reads; the error says who that is."""
        servers = Servers()
        chief = servers.leader()
        servers.run(0.1)
        follower = servers.followers()[0]
        for waiting in (follower.write(["set", "a", 1]), follower.read("a")):
            error = servers.failing(waiting, NotLeaderError)
            assert (error.leader, error.address) == (chief.name, chief.name)

    def test_without_a_leader_there_is_none_to_name(self) -> None:
        """During an election the error names nobody."""
        servers = Servers()
        server = servers.servers["s1"]
        error = servers.failing(server.write(["set", "a", 1]), NotLeaderError)
        assert error.leader is None

    def test_what_cannot_be_encoded_is_refused(self) -> None:
        """A command that is no data enters no log."""
        servers = Servers()
        chief = servers.leader()
        before = chief.status().last_index
        servers.failing(chief.write(object()), InvalidCommandError)
        assert chief.status().last_index == before

    def test_a_large_command_is_refused(self) -> None:
        """The error names the limit."""
        servers = Servers(config={"limits": {"max_command_bytes": 100}})
        chief = servers.leader()
        waiting = chief.write(["set", "a", "x" * 100])
        assert "max_command_bytes" in str(servers.failing(waiting, InvalidCommandError))

    def test_what_the_transport_cannot_carry_is_refused(self, tmp_path: Path) -> None:
        """In the log it would stop all replication."""

        class SmallTransport(MemoryTransport):
            @classmethod
            def max_command_bytes(cls, options: Any) -> int:
                del options
                return 100

        transport = {"engine": SmallTransport, "options": {"network": str(tmp_path)}}
        servers = Servers(config={"transport": transport})
        chief = servers.leader()
        servers.failing(chief.write(["set", "a", "x" * 100]), InvalidCommandError)
        servers.result(chief.write(["set", "a", "x" * 50]))

    def test_too_many_are_refused(self) -> None:
        """Beyond the limit a write is refused at once; later ones pass again."""
        servers = Servers(config={"limits": {"max_pending_requests": 3}})
        chief = servers.leader()
        servers.run(0.1)
        waiting = [chief.write(["set", "a", i]) for i in range(5)]
        for each in waiting[:3]:
            servers.result(each)
        for each in waiting[3:]:
            servers.failing(each, OverloadedError)
        servers.result(chief.write(["set", "a", 9]))

    def test_too_many_bytes_are_refused(self) -> None:
        """The bytes of all waiting writes are bounded together, and given back."""
        limits = {"max_command_bytes": 100, "max_pending_bytes": 150}
        servers = Servers(config={"limits": limits})
        chief = servers.leader()
        for _ in range(3):
            first = chief.write(["set", "a", "x" * 80])
            servers.failing(chief.write(["set", "b", "x" * 80]), OverloadedError)
            servers.result(first)

    def test_a_deposed_leader_says_that_it_does_not_know(self, tmp_path: Path) -> None:
        """A write in the log of a leader that is deposed may yet be applied."""
        servers = wiretapped(tmp_path)
        old = servers.leader()
        silence(old)
        waiting = old.write(["set", "a", 1])
        servers.run(1)
        assert servers.leader() is not old
        WiretapTransport.silent = set()
        servers.failing(waiting, LeadershipLostError)

    def test_an_unanswered_write_times_out(self, tmp_path: Path) -> None:
        """Before a leader knows that it is alone, its callers' time may be up."""
        servers = wiretapped(tmp_path, timing={"request_timeout": 0.1})
        chief = servers.leader()
        silence(chief)
        waiting = [chief.write(["set", "a", 1]), chief.read("a")]
        for each in waiting:
            servers.failing(each, TimedOutError)

    def test_a_stop_finishes_what_it_can(self) -> None:
        """What is under way when a leader is stopped is done as it hands over."""
        servers = Servers()
        chief = servers.leader()
        outcomes: list[Any] = []
        chief.write(["set", "a", 1]).addBoth(outcomes.append)
        servers.stop(chief.name)
        assert outcomes == [None]

    def test_a_stop_fails_the_rest(self, tmp_path: Path) -> None:
        """Who waits for a server that stops without a majority hears of it."""
        servers = wiretapped(tmp_path)
        chief = servers.leader()
        silence(chief)
        outcomes: list[Any] = []
        chief.write(["set", "a", 1]).addErrback(outcomes.append)
        chief.read("a").addErrback(outcomes.append)
        servers.stop(chief.name)
        unknown, rejected = outcomes
        assert issubclass(unknown.type, OutcomeUnknownError)
        assert issubclass(rejected.type, RaftError)


class ReadTests:
    """What happens to a read."""

    def test_it_sees_the_writes_before_it(self) -> None:
        """A read that begins after a write was acknowledged sees it."""
        servers = Servers()
        chief = servers.leader()
        servers.result(chief.write(["set", "a", 1]))
        assert servers.result(chief.read("a")) == 1

    def test_a_cut_off_leader_does_not_answer(self, tmp_path: Path) -> None:
        """A leader that has been replaced without knowing it serves no old value."""
        servers = wiretapped(tmp_path)
        old = servers.leader()
        servers.result(old.write(["set", "a", "old"]))
        silence(old)
        outcomes: list[Any] = []
        old.read("a").addBoth(outcomes.append)
        servers.run(0.1)
        assert old.status().role == "leader"
        assert not outcomes
        servers.run(1)
        assert outcomes[0].type is NotLeaderError
        servers.result(servers.leader().write(["set", "a", "new"]))
        servers.failing(old.read("a"), NotLeaderError)

    def test_the_reads_of_a_turn_share_a_round(self, tmp_path: Path) -> None:
        """Fifty reads of one turn cost one message a peer, and no sync."""
        servers = wiretapped(tmp_path)
        chief = servers.leader()
        servers.result(chief.write(["set", "a", 1]))
        servers.run(0.051)
        DiaryStorage.diary.clear()
        waiting = [chief.read("a") for _ in range(50)]
        servers.reactor.advance(0)
        sends = [each for each in DiaryStorage.diary if each[0] == chief.name]
        assert sends == [(chief.name, "send AppendEntries")] * 2
        assert [servers.result(each) for each in waiting] == [1] * 50
        assert "sync" not in {what for _, what in DiaryStorage.diary}

    def test_a_raising_machine_fails_its_reader_alone(self) -> None:
        """What handle_read raises reaches its caller."""
        servers = Servers()
        chief = servers.leader()
        bad, good = chief.read("fail"), chief.read("a")
        assert servers.failing(bad, CommandFailedError).kind == "LookupError"
        assert servers.result(good) is None

    def test_too_many_are_refused(self) -> None:
        """Reads are bounded as writes are."""
        servers = Servers(config={"limits": {"max_pending_requests": 3}})
        chief = servers.leader()
        waiting = [chief.read("a") for _ in range(4)]
        servers.failing(waiting[3], OverloadedError)
        assert [servers.result(each) for each in waiting[:3]] == [None] * 3
        servers.result(chief.read("a"))


class OrderTests:
    """Durable before it is said."""

    def test_votes_and_answers_follow_their_sync(self, tmp_path: Path) -> None:
        """Between a save or an append and what depends on it there is a sync."""
        servers = wiretapped(tmp_path)
        chief = servers.leader()
        for number in range(5):
            servers.result(chief.write(["set", "a", number]))
        dependent = {
            f"send {kind.__name__}"
            for kind in (RequestVote, RequestVoteResponse, AppendEntriesResponse)
        }
        unsynced: set[str] = set()
        checked = 0
        for server, what in DiaryStorage.diary:
            if what == "sync":
                unsynced.discard(server)
            elif what.startswith(("save", "append")):
                unsynced.add(server)
            elif what in dependent:
                checked += 1
                assert server not in unsynced, (server, what)
        assert checked > 10

    def test_a_leader_sends_beside_its_own_write(self, tmp_path: Path) -> None:
        """§10.2.1: the entries leave before the leader's own sync."""
        servers = wiretapped(tmp_path)
        chief = servers.leader()
        servers.run(0.2)
        DiaryStorage.diary.clear()
        servers.result(chief.write(["set", "a", 1]))
        ours = [what for server, what in DiaryStorage.diary if server == chief.name]
        assert ours.index(f"send {AppendEntries.__name__}") < ours.index("sync")


class AddressTests:
    """A member may move: the config's address is newer than the log's."""

    def test_the_config_says_where_members_are(self, tmp_path: Path) -> None:
        """After a restart with other addresses, the cluster and its hints use them."""
        config = {"storage": {"engine": LastingStorage}}
        servers = Servers(config=config, data_dir=tmp_path)
        servers.leader()
        for name in servers.names:
            servers.stop(name)
        moved = {name: f"new home of {name}" for name in servers.names}
        servers.mapping["members"] = moved
        for name in servers.names:
            servers.start(name)
        chief = servers.leader()
        servers.run(0.1)
        assert chief.status().membership == moved
        follower = servers.followers()[0]
        error = servers.failing(follower.write(["set", "a", 1]), NotLeaderError)
        assert error.address == moved[chief.name]


class TransferTests:
    """A leader that hands over, and one that has to."""

    def test_another_leads_at_once(self) -> None:
        """No election timeout passes; what was written is there."""
        servers = Servers()
        chief = servers.leader()
        servers.result(chief.write(["set", "a", 1]))
        heir = servers.followers()[0]
        before = servers.reactor.seconds()
        assert servers.result(chief.transfer(heir.name)) == heir.name
        assert servers.reactor.seconds() - before < 0.05
        assert servers.leader() is heir
        assert servers.result(heir.read("a")) == 1

    def test_the_leader_chooses(self) -> None:
        """Without a name, somebody else leads afterwards."""
        servers = Servers()
        chief = servers.leader()
        servers.run(0.3)
        assert servers.result(chief.transfer()) != chief.name

    @pytest.mark.parametrize(
        ("target", "words"), [("s9", "no other voter"), (None, "leads already")]
    )
    def test_nonsense_is_refused(self, target: str | None, words: str) -> None:
        """A stranger cannot lead, and the leader does already."""
        servers = Servers()
        chief = servers.leader()
        waiting = chief.transfer(target or chief.name)
        assert words in str(servers.failing(waiting, InvalidChangeError))

    def test_only_the_leader_can(self) -> None:
        """A follower says who leads."""
        servers = Servers()
        servers.leader()
        servers.run(0.1)
        servers.failing(servers.followers()[0].transfer(), NotLeaderError)

    def test_a_dead_heir_changes_nothing(self) -> None:
        """The leader waits for an election timeout, then goes on."""
        servers = Servers()
        chief = servers.leader()
        servers.run(0.1)
        dead = servers.followers()[0].name
        servers.stop(dead)
        error = servers.failing(chief.transfer(dead), TimedOutError)
        assert dead in str(error)
        assert servers.result(chief.write(["set", "a", 1])) is None

    def test_a_leader_that_stops_hands_over(self) -> None:
        """Nobody has to lose patience: the next write waits for no election."""
        servers = Servers()
        chief = servers.leader()
        servers.result(chief.write(["set", "a", 1]))
        servers.run(0.1)
        term = chief.status().term
        before = servers.reactor.seconds()
        servers.stop(chief.name)
        heir = servers.leader()
        assert servers.result(heir.write(["set", "a", 2])) == 1
        assert heir.status().term == term + 1
        assert servers.reactor.seconds() - before < 0.1

    @pytest.mark.parametrize("lease", [False, True])
    def test_a_leader_that_has_ended_is_replaced_at_once(
        self, tmp_path: Path, *, lease: bool
    ) -> None:
        """Where the transport can tell; but pledges are kept, for a lease."""
        servers = wiretapped(tmp_path, reads={"lease": lease})
        chief, followers = servers.leader(), servers.followers()
        servers.run(0.5)
        silence(chief)
        for server in followers:
            server.gone(chief.name)
        servers.run(0.15)
        heirs = [each for each in followers if each.status().role == "leader"]
        assert len(heirs) == (0 if lease else 1)
        servers.run(0.3)
        heirs = [each for each in followers if each.status().role == "leader"]
        assert len(heirs) == 1

    def test_a_leader_whose_peers_are_gone_stops(self) -> None:
        """It steps down while it waits for its heir; the stop goes on all the same."""
        servers = Servers()
        chief = servers.leader()
        servers.run(0.1)
        for server in servers.followers():
            servers.stop(server.name)
        servers.run(0.1)  # so that it steps down before it gives the transfer up
        before = servers.reactor.seconds()
        servers.stop(chief.name)
        assert servers.reactor.seconds() - before < 1

    def test_nobody_waits_for_ever(self) -> None:
        """A transfer that ends without a leader fails when its time is up."""
        servers = Servers()
        chief = servers.leader()
        servers.run(0.1)
        for server in servers.followers():
            servers.stop(server.name)
        servers.run(0.1)
        servers.failing(chief.transfer(), TimedOutError)

    def test_a_leader_alone_stops_too(self) -> None:
        """With nobody to hand over to, a stop is a stop."""
        servers = Servers(("s1",))
        servers.leader()
        servers.stop("s1")

    def test_the_preferred_leader_takes_over(self) -> None:
        """Once it has caught up, and without a word from anybody."""
        servers = Servers(config={"preferred_leaders": ["s2"]})
        servers.leader()
        servers.run(6)
        assert servers.leader().name == "s2"

    def test_over_the_wire(self) -> None:
        """A client names the heir in UTF-8, and is told who leads."""
        servers = Servers()
        chief = servers.leader()
        heir = servers.followers()[0].name
        assert servers.result(chief.answer("transfer", heir.encode())) == heir.encode()
        servers.failing(chief.answer("transfer", b"\xff"), InvalidCommandError)


class HeldBackReactor:
    """What a stalled server sees of the reactor: its storage's turns do not come."""

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self.held: list[Any] = []
        self.is_holding = False

    def callFromThread(self, function: Any) -> None:
        """Hand the call on, or hold it."""
        if self.is_holding:
            self.held.append(function)
        else:
            self.reactor.callFromThread(function)


class DiskStallTests:
    """A leader whose disk stands still lets another lead."""

    def test_it_hands_over(self, tmp_path: Path) -> None:
        """After the timeout, without an election timeout, and goes on as a follower."""
        servers = wiretapped(tmp_path, timing={"disk_stall_timeout": 0.5})
        chief = servers.leader()
        servers.run(0.3)
        slow = HeldBackReactor(servers.reactor)
        chief._worker._reactor = slow
        slow.is_holding = True
        lost = chief.write(["set", "a", 1])
        outcomes: list[Any] = []
        lost.addBoth(outcomes.append)
        servers.run(0.4)
        assert servers.leader() is chief
        servers.run(0.3)
        heir = servers.leader()
        assert heir is not chief
        assert servers.result(heir.read("a")) == 1
        slow.is_holding = False
        for call in slow.held:
            call()
        servers.run(0.3)
        assert chief.status().last_applied == heir.status().last_applied

    def test_a_follower_that_waits_for_ever_takes_no_more_memory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What it cannot answer it forgets; when its disk is back it catches up."""
        monkeypatch.setattr("consensus.shell.driver._MAX_WRITING", 20)
        servers = wiretapped(tmp_path)
        chief = servers.leader()
        (other, *_) = servers.followers()
        slow = HeldBackReactor(servers.reactor)
        other._worker._reactor = slow
        slow.is_holding = True
        servers.result(chief.write(["set", "a", 1]))
        servers.run(5)
        assert other._driver is not None
        assert len(other._driver.disk.writing) == 20
        slow.is_holding = False
        for call in slow.held:
            call()
        servers.run(1)
        assert other.status().last_applied == chief.status().last_applied


class RestartTests:
    """What a server finds again."""

    @pytest.fixture
    def servers(self, tmp_path: Path) -> Servers:
        """Return a cluster on storages that last."""
        return Servers(
            config={"storage": {"engine": LastingStorage}}, data_dir=tmp_path
        )

    def test_the_state_survives_all(self, servers: Servers) -> None:
        """All servers stop and start again; every acknowledged write is there."""
        chief = servers.leader()
        for number in range(50):
            servers.result(chief.write(["set", f"k{number}", number]))
        term = chief.status().term
        for name in servers.names:
            servers.stop(name)
        for name in servers.names:
            servers.start(name)
        chief = servers.leader()
        assert chief.status().term > term
        for number in range(50):
            assert servers.result(chief.read(f"k{number}")) == number

    def test_a_returning_follower_catches_up_from_storage(self, tmp_path: Path) -> None:
        """What the leader no longer has in memory, it reads from its storage."""
        config = {
            "storage": {"engine": LastingStorage},
            "limits": {"log_cache_bytes": 4000, "max_append_bytes": 500},
        }
        servers = Servers(config=config, data_dir=tmp_path)
        servers.leader()
        late = servers.followers()[0].name
        servers.stop(late)
        chief = servers.leader()
        for number in range(200):
            servers.result(chief.write(["set", f"k{number}", number]))
        servers.start(late)
        servers.run(2)
        status = servers.servers[late].status()
        assert status.last_applied == chief.status().last_applied

    def test_a_restart_replays_the_log_from_storage(self, servers: Servers) -> None:
        """The machine's state is made again from the log, entry by entry."""
        chief = servers.leader()
        for number in range(50):
            servers.result(chief.write(["set", "k", number]))
        name = servers.followers()[0].name
        servers.stop(name)
        servers.start(name)
        servers.run(1)
        assert servers.servers[name].status().last_applied == 52


class TogetherTests:
    """Messages that come together are dealt with together."""

    def test_it_makes_no_difference(self, tmp_path: Path) -> None:
        """Writes and reads go on through an election, and all have one state."""
        Gatherer.sizes.clear()
        network = {"network": f"together-{tmp_path}"}
        transport = {"engine": GatheringTransport, "options": network}
        servers = Servers(config={"transport": transport})
        for turn in range(3):
            chief = servers.leader()
            waiting = []
            for number in range(40):
                waiting.append(chief.write(["set", f"{turn} {number}", number]))
                waiting.append(chief.read(f"{turn} {number}"))
                servers.run(0.001)
            results = [servers.result(each) for each in waiting]
            assert results[::2] == [None] * 40
            for number, seen in enumerate(results[1::2]):
                assert seen in {None, number}  # it was asked for beside the write
            servers.result(chief.transfer())
        servers.run(0.5)
        one, *others = (server.status() for server in servers.servers.values())
        assert {each.last_applied for each in others} == {one.last_applied}
        chief = servers.leader()
        read = [chief.read(f"{n // 40} {n % 40}") for n in range(120)]
        assert [servers.result(each) for each in read] == [*range(40)] * 3
        assert max(Gatherer.sizes) > 2


class BrokenTests:
    """A bug of ours stops the server before it spreads."""

    def test_a_failing_core_stops_the_server(self) -> None:
        """What the core raises, but for a peer's mistakes, is the end."""
        servers = Servers()
        chief = servers.leader()
        follower = servers.followers()[0]
        assert follower._driver is not None
        follower._driver.raft.state.log._terms.clear()  # a log that cannot be
        with capturedLogs() as logs:
            chief.write(["set", "a", 1])
            servers.run(0.1)
        assert not follower.running
        assert any(event["log_level"].name == "critical" for event in logs)

    def test_a_core_that_fails_in_a_tick_stops_the_server(self) -> None:
        """Without its ticks a server would be mute, and look alive."""
        servers = Servers()
        servers.leader()
        follower = servers.followers()[0]
        failures: list[Exception] = []
        follower.on_failure = lambda _, error: failures.append(error)
        assert follower._driver is not None
        follower._driver.raft.state.random_below = lambda _: 1 // 0
        follower._driver.raft.state.elapsed = 1000
        with capturedLogs():
            servers.run(0.1)
        assert [type(error) for error in failures] == [ZeroDivisionError]
        assert not follower.running

    def test_a_peers_mistake_costs_it_the_message(self) -> None:
        """A message that no correct server sends is refused and logged."""
        servers = Servers()
        chief = servers.leader()
        term = chief.status().term
        with capturedLogs() as logs:
            chief.deliver(AppendEntries("s9", term, 0, 0, 0, 0))
        assert any("refused a message" in event["log_format"] for event in logs)
        assert servers.result(chief.write(["set", "a", 1])) is None

    @pytest.mark.parametrize("order", ["good bad", "bad good", "bad good bad"])
    def test_a_bad_message_among_others_costs_none_of_them(self, order: str) -> None:
        """Those before it and those behind it are dealt with as ever."""
        servers = Servers()
        term = servers.leader().status().term
        follower = servers.followers()[0]
        messages = {
            "bad": AppendEntries(follower.name, term, 0, 0, 0, 0),
            "good": AppendEntries("s9", term + 1, 0, 0, 0, 0),
        }
        with capturedLogs() as logs:
            follower.deliver(*(messages[each] for each in order.split()))
        refused = [each for each in logs if "refused a message" in each["log_format"]]
        assert len(refused) == order.count("bad")
        assert follower.status().term == term + 1
        assert follower.status().leader == "s9"

    def test_nothing_is_dealt_with_after_a_failure(self) -> None:
        """A core that has failed once gets no more messages, nor do they raise."""
        servers = Servers()
        chief = servers.leader()
        term = chief.status().term
        follower = servers.followers()[0]
        failures: list[Exception] = []
        follower.on_failure = lambda _, error: failures.append(error)
        assert follower._driver is not None
        raft = follower._driver.raft
        stepped: list[Any] = []

        def broken(message: Any) -> None:
            stepped.append(message)
            raise ZeroDivisionError

        raft.step = broken  # type: ignore[method-assign]
        first = RequestVote("s2", term + 1, 0, 0)
        with capturedLogs():
            follower.deliver(first, RequestVote("s3", term + 1, 0, 0))
            follower.deliver(RequestVote("s3", term + 1, 0, 0))
        assert stepped == [first]
        assert [type(error) for error in failures] == [ZeroDivisionError]
        assert not follower.running


class LostDataTests:
    """A directory whose log is gone, but which is known to have had one."""

    def test_an_emptied_storage_is_refused(self, tmp_path: Path) -> None:
        """The server has forgotten its votes, and could vote twice in a term."""
        config = {"storage": {"engine": LastingStorage}}
        servers = Servers(config=config, data_dir=tmp_path)
        servers.leader()
        servers.run(0.1)
        servers.stop("s1")
        del LastingStorage.disks[tmp_path / "s1"]
        with pytest.raises(StorageError, match="it could vote twice"):
            servers.start("s1")

    def test_a_crash_before_the_first_sync_is_none_of_that(
        self, tmp_path: Path
    ) -> None:
        """What never had anything to remember may begin anew."""
        config = {"storage": {"engine": LastingStorage}}
        servers = Servers(("s1",), config=config, data_dir=tmp_path, founded=False)
        servers.stop("s1")
        servers.start("s1")

    def test_data_of_an_earlier_release_is_marked(self, tmp_path: Path) -> None:
        """A directory from before there was a mark gets it at the next start."""
        config = {"storage": {"engine": LastingStorage}}
        servers = Servers(("s1",), config=config, data_dir=tmp_path)
        servers.leader()
        servers.stop("s1")
        (tmp_path / "s1" / "used").unlink()
        servers.start("s1")
        assert (tmp_path / "s1" / "used").exists()


class LostDirectoryTests:
    """A server that comes back without its data directory."""

    def test_it_is_refused_by_all(self, tmp_path: Path) -> None:
        """Also by those that were started anew themselves; until it joins anew."""
        config = {"storage": {"engine": LastingStorage}}
        servers = Servers(config=config, data_dir=tmp_path)
        servers.result(servers.leader().write(["set", "a", 1]))
        servers.run(0.5)
        for name in servers.names:
            servers.stop(name)
        rmtree(tmp_path / "s1")
        del LastingStorage.disks[tmp_path / "s1"]
        with capturedLogs() as logs:
            for name in servers.names:
                servers.start(name)
            servers.run(3.0)
        assert servers.leader().name != "s1"
        assert servers.leader().status().membership_index > 1
        refusals = [
            formatEvent(event)
            for event in logs
            if event["log_level"].name == "warn"
            and "has another data directory" in formatEvent(event)
        ]
        assert len(refusals) == len(set(refusals)) == 4
        assert servers.result(servers.leader().write(["set", "a", 2])) == 1

    def test_the_same_directory_is_welcome(self, tmp_path: Path) -> None:
        """A restart is nothing to anybody."""
        config = {"storage": {"engine": LastingStorage}}
        servers = Servers(config=config, data_dir=tmp_path)
        servers.result(servers.leader().write(["set", "a", 1]))
        servers.run(0.5)
        first, second = [follower.name for follower in servers.followers()]
        servers.stop(first)
        servers.run(0.5)
        servers.start(first)
        servers.run(0.5)
        servers.stop(second)
        assert servers.result(servers.leader().write(["set", "a", 2])) == 1

    def test_who_was_met_before_the_founding_is_remembered(
        self, tmp_path: Path
    ) -> None:
        """The founder reached the others while they knew of no members."""
        config = {"storage": {"engine": LastingStorage}}
        servers = Servers(config=config, data_dir=tmp_path, founded=False)
        founding = servers.servers["s1"].set_configuration(
            {name: name for name in servers.names}
        )
        servers.result(founding)
        servers.leader()
        servers.run(0.5)
        for name in servers.names:
            noted = json.loads((tmp_path / name / "peers.json").read_text())
            assert set(noted["peers"]) == set(servers.names) - {name}

    def test_in_memory_it_is_welcome(self) -> None:
        """Servers on a storage in memory have no other way to come back."""
        servers = Servers()
        servers.result(servers.leader().write(["set", "a", 1]))
        follower = servers.followers()[0].name
        servers.stop(follower)
        servers.start(follower)
        servers.run(1.0)
        assert servers.servers[follower].leader() == servers.leader().name

    def test_a_stopped_server_welcomes_nobody(self) -> None:
        """Its directory may be another process's by then."""
        servers = Servers()
        server = servers.servers["s1"]
        servers.stop("s1")
        with pytest.raises(ProtocolError, match="s1 is stopping"):
            server.welcome(Identity("raft", "s2", "1"))


class FailureTests:
    """A server whose disk or logic failed stops, and says why."""

    def test_a_failed_sync_stops_the_server(self, tmp_path: Path) -> None:
        """It fails who waits, tells its owner, and acknowledges nothing."""
        servers = wiretapped(tmp_path)
        chief = servers.leader()
        failures: list[Exception] = []
        chief.on_failure = lambda _, error: failures.append(error)
        DiaryStorage.broken.add(chief.name)
        servers.failing(chief.write(["set", "a", 1]), StorageError)
        assert isinstance(failures[0], StorageError)
        assert not chief.running
        del servers.servers[chief.name]
        assert servers.result(servers.leader().write(["set", "a", 2])) in {None, 1}

    def test_it_can_be_started_again(self, tmp_path: Path) -> None:
        """With the disk mended, the same service starts from what was synced."""
        servers = wiretapped(tmp_path)
        chief = servers.leader()
        servers.result(chief.write(["set", "a", 1]))
        DiaryStorage.broken.add(chief.name)
        servers.failing(chief.write(["set", "a", 2]), StorageError)
        DiaryStorage.broken.clear()
        chief.startService()
        servers.result(chief.when_started())
        servers.run(1)
        assert chief.status().last_applied >= 3

    def test_out_of_memory_is_no_result(self) -> None:
        """A machine that runs out of memory here may not elsewhere: this one stops."""

        class Hungry(Register):
            def handle_write(self, *_: Any) -> tuple[Any, Any]:
                raise MemoryError

        servers = Servers(("s1",), machine=Hungry)
        chief = servers.leader()
        servers.failing(chief.write(["set", "a", 1]), MemoryError)
        assert not chief.running


class BootstrapTests:
    """set_configuration and its refusals."""

    def test_one_server_tells_the_others(self) -> None:
        """The membership of one new server reaches the others through the log."""
        servers = Servers(founded=False)
        members = {name: name for name in servers.names}
        servers.result(servers.servers["s1"].set_configuration(members))
        chief = servers.leader()
        servers.result(chief.write(["set", "a", 1]))
        servers.run(0.2)
        for server in servers.servers.values():
            assert server.status().membership == members

    def test_a_second_one_is_refused(self) -> None:
        """A server that has a membership keeps it."""
        servers = Servers()
        servers.leader()
        waiting = servers.servers["s1"].set_configuration({"s1": "s1"})
        servers.failing(waiting, AlreadyConfiguredError)
        assert set(servers.servers["s1"].status().membership) == set(servers.names)

    def test_a_crash_in_the_middle_does_no_harm(self, tmp_path: Path) -> None:
        """A founder that lost the membership, but not its term, founds again."""
        LastingStorage.disks[tmp_path / "s1"] = (HardState(1), [])
        config = {"storage": {"engine": LastingStorage}}
        servers = Servers(config=config, data_dir=tmp_path)
        servers.leader()
        assert set(servers.servers["s1"].status().membership) == set(servers.names)

    def test_who_has_voted_founds_nothing(self, tmp_path: Path) -> None:
        """A server without a log that took part in an election waits to be told."""
        LastingStorage.disks[tmp_path / "s1"] = (HardState(2, "s2"), [])
        config = {"storage": {"engine": LastingStorage}}
        servers = Servers(("s1",), config=config, data_dir=tmp_path)
        servers.run(2)
        status = servers.servers["s1"].status()
        assert (status.membership, status.term) == ({}, 2)

    def test_other_members_in_the_config_are_warned_of(self, tmp_path: Path) -> None:
        """The log's membership counts; a config that says otherwise is named."""
        config = {"storage": {"engine": LastingStorage}}
        servers = Servers(("s1",), config=config, data_dir=tmp_path)
        servers.leader()
        servers.stop("s1")
        servers.mapping["members"] = {"s1": "s1", "s2": "s2"}
        with capturedLogs() as logs:
            servers.start("s1")
        assert any("configured" in event for event in logs)
        assert set(servers.leader().status().membership) == {"s1"}

    def test_without_a_membership_nobody_stands(self) -> None:
        """A server that knows of no cluster waits for ever."""
        servers = Servers(founded=False)
        servers.run(5)
        assert {s.status().term for s in servers.servers.values()} == {0}


class LogTests:
    """get_entry and status."""

    def test_entries_come_from_memory_and_from_storage(self) -> None:
        """Each index gives its entry; past the end there is none."""
        config = {"limits": {"log_cache_bytes": 1000}}
        servers = Servers(("s1",), config=config)
        chief = servers.leader()
        for number in range(40):
            servers.result(chief.write(["set", "k", number]))
        for index in range(1, 43):
            assert servers.result(chief.get_entry(index)).index == index
        assert servers.result(chief.get_entry(43)) is None
        assert servers.result(chief.get_entry(0)) is None

    def test_a_server_alone_says_so_once(self) -> None:
        """Without the others it asks around for ever, and logs that only once."""
        servers = Servers()
        servers.leader()
        servers.stop("s1")
        servers.stop("s2")
        with capturedLogs() as logs:
            servers.run(10)
        said = [event for event in logs if "asks around" in event["log_format"]]
        assert len(said) == 1

    def test_a_stopped_server_has_no_status(self) -> None:
        """It says that it does not run."""
        servers = Servers()
        server = servers.servers["s1"]
        servers.stop("s1")
        with pytest.raises(StoppedError):
            server.status()

    def test_a_leader_is_waited_for(self) -> None:
        """Who waits for a leader hears of the first; or that none came in time."""
        servers = Servers(founded=False)
        server = servers.servers["s1"]
        servers.failing(server.when_leader_known(timeout=1), TimedOutError)
        waiting = server.when_leader_known(timeout=5)
        server.set_configuration({name: name for name in servers.names})
        assert servers.result(waiting) == server.leader()


class AnswerTests:
    """The calls of clients, as bytes."""

    def test_writes_and_reads(self) -> None:
        """Commands, queries and results cross the wire in the machine's encoding."""
        servers = Servers()
        chief = servers.leader()
        machine = Register()
        command = machine.encode(["set", "a", b"\xff"])
        assert servers.result(chief.answer("write", command)) == machine.encode(None)
        answer = servers.result(chief.answer("read", machine.encode("a")))
        assert machine.decode(answer) == b"\xff"

    def test_status(self) -> None:
        """The status is a MessagePack map of its fields."""
        servers = Servers()
        chief = servers.leader()
        fields = Register().decode(servers.result(chief.answer("status", b"")))
        assert Status(**fields) == chief.status()

    def test_a_result_that_cannot_be_sent(self) -> None:
        """The write has been done, so this is no rejection."""

        class Talkative(Register):
            def handle_write(self, _: Any, state: Any) -> tuple[Any, Any]:
                return object(), state

        servers = Servers(machine=Talkative)
        chief = servers.leader()
        before = chief.status().last_applied
        answer = chief.answer("write", Register().encode(["set", "a", 1]))
        error = servers.failing(answer, CommandFailedError)
        assert error.kind == "UnencodableResult"
        assert chief.status().last_applied == before + 1

    @pytest.mark.parametrize(
        ("method", "payload"), [("write", b"\xc1"), ("read", b"\xc1"), ("fly", b"")]
    )
    def test_rubbish_is_refused(self, method: str, payload: bytes) -> None:
        """What is no command, no query or no method enters no log."""
        servers = Servers()
        chief = servers.leader()
        before = chief.status().last_index
        servers.failing(chief.answer(method, payload), InvalidCommandError)
        assert chief.status().last_index == before


class WaiterTests:
    """Those who wait for what may never happen."""

    @pytest.mark.parametrize("method", ["when_leader_known", "transfer"])
    def test_are_bounded(self, method: str) -> None:
        """Beyond the limit they are refused; who gave up makes room."""
        names = ("s1",) if method == "when_leader_known" else ("s1", "s2", "s3")
        servers = Servers(names, founded=method == "transfer")
        server = servers.servers["s1"]
        if method == "transfer":
            server = servers.leader()
            servers.run(0.1)
        call = getattr(server, method)
        waiting = [call() for _ in range(leadership.MAX_WAITERS)]
        servers.failing(call(), OverloadedError)
        for each in waiting:
            each.addErrback(lambda _: None)
            each.cancel()
        last = call()
        last.addErrback(lambda failure: failure.trap(RaftError))
        assert not last.called
