"""Reads of every consistency, on real servers in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from consensus.config import from_mapping
from consensus.core.messages import (
    AppendEntries,
    RequestReadIndex,
    RequestReadIndexResponse,
)
from consensus.errors import (
    CommandFailedError,
    InvalidCommandError,
    NotLeaderError,
    OverloadedError,
    StaleError,
    StoppedError,
    TimedOutError,
)
from consensus.server import RaftServer
from tests.support import storages
from tests.support.servers import Servers
from tests.support.storages import LastingStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from twisted.internet.task import Clock

    from consensus.core.messages import Message

#: Everything but the reads that only a leader serves.
_ANYWHERE = ("follower", "stale")

_LEASE: dict[str, Any] = {"reads": {"lease": True, "clock_drift": 0.1}}


def _lasting(path: Path, **config: Any) -> tuple[Servers, RaftServer, RaftServer]:
    """Return the same as :func:`_cluster`; its servers may be restarted."""
    return _cluster(path, storage={"engine": LastingStorage}, **config)


def _cluster(
    data_dir: Path | None = None, **config: Any
) -> tuple[Servers, RaftServer, RaftServer]:
    """Return a cluster, its leader, and a follower that knows the leader."""
    servers = Servers(config=config, data_dir=data_dir)
    chief = servers.leader()
    servers.result(chief.write(["set", "a", 1]))
    servers.run(0.1)
    return servers, chief, servers.followers()[0]


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    storages.reset()
    yield
    storages.reset()


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> list[Message]:
    """Return a list of what servers get to hear."""
    heard: list[Message] = []
    deliver = RaftServer.deliver

    def listen(self: RaftServer, message: Message) -> None:
        heard.append(message)
        deliver(self, message)

    monkeypatch.setattr(RaftServer, "deliver", listen)
    return heard


class IndexTests:
    """Writes that say where in the log they are."""

    def test_a_write_answers_with_its_index(self) -> None:
        """Beside the machine's result."""
        servers, chief, _ = _cluster()
        assert servers.result(chief.write(["set", "a", 2], with_index=True)) == (1, 4)
        assert chief.status().last_applied == 4

    def test_a_failed_one_fails_as_ever(self) -> None:
        """There is no result to put beside the index."""
        servers, chief, _ = _cluster()
        servers.failing(chief.write(["fail", "x"], with_index=True), CommandFailedError)

    def test_a_stale_read_at_that_index_sees_it_anywhere(self) -> None:
        """The server waits until it has applied so much."""
        servers, chief, follower = _cluster()
        servers.network.down(follower.name)
        _, index = servers.result(chief.write(["set", "a", 2], with_index=True))
        read = follower.read("a", consistency="stale", at_index=index)
        servers.run(0.01)
        assert not read.called
        servers.network.heal()
        assert servers.result(read) == 2

    @pytest.mark.parametrize("consistency", ["linearizable", "follower", "lease"])
    def test_other_reads_wait_for_it_too(self, consistency: Any) -> None:
        """Once they are confirmed; others of the same turn do not wait."""
        servers, chief, _ = _cluster()
        late = chief.read("a", consistency=consistency, at_index=4)
        now = chief.read("a", consistency=consistency)
        assert servers.result(now) == 1
        assert not late.called
        servers.result(chief.write(["set", "a", 2]))
        assert servers.result(late) == 2

    def test_an_index_that_never_comes_times_out(self) -> None:
        """Other reads are not held up by it."""
        servers, _, follower = _cluster()
        never = follower.read("a", consistency="stale", at_index=2**63 - 1)
        for _ in range(3):
            assert servers.result(follower.read("a", consistency="stale")) == 1
        assert not never.called
        assert "9223372036854775807" in str(servers.failing(never, TimedOutError))

    def test_those_whose_time_is_not_up_go_on_waiting(self) -> None:
        """Each has its own deadline."""
        servers, chief, follower = _cluster(timing={"request_timeout": 1.0})
        first = follower.read("a", consistency="stale", at_index=100)
        servers.run(0.5)
        second = follower.read("a", consistency="stale", at_index=4)
        servers.failing(first, TimedOutError)
        assert not second.called
        servers.result(chief.write(["set", "a", 2]))
        assert servers.result(second) == 2


class FollowerReadTests:
    """Linearizable reads on any server."""

    def test_sees_what_was_acknowledged_before(self) -> None:
        """Though this server has not heard of it."""
        servers, chief, follower = _cluster()
        for value in range(10):
            servers.result(chief.write(["set", "a", value]))
            assert servers.result(follower.read("a", consistency="follower")) == value

    def test_the_leader_serves_it_too(self) -> None:
        """Who asks need not know who leads."""
        servers, chief, _ = _cluster()
        assert servers.result(chief.read("a", consistency="follower")) == 1

    def test_those_of_a_turn_share_a_question(self, wire: list[Message]) -> None:
        """One message there, one back."""
        servers, _, follower = _cluster()
        wire.clear()
        waiting = [follower.read("a", consistency="follower") for _ in range(100)]
        assert [servers.result(each) for each in waiting] == [1] * 100
        assert len([m for m in wire if isinstance(m, RequestReadIndex)]) == 1
        assert len([m for m in wire if isinstance(m, RequestReadIndexResponse)]) == 1

    @pytest.mark.parametrize("back", [False, True])
    def test_a_lost_message_is_repeated(self, *, back: bool) -> None:
        """After a heartbeat interval; one answer does for all who asked before."""
        servers, chief, follower = _cluster()
        link = (chief.name, follower.name) if back else (follower.name, chief.name)
        servers.network.cut(*link)
        waiting = []
        for _ in range(3):
            waiting.append(follower.read("a", consistency="follower"))
            servers.run(0.01)
        servers.network.heal()
        assert [servers.result(each, 0.2) for each in waiting] == [1, 1, 1]

    def test_goes_on_with_the_next_leader(self) -> None:
        """Its first question was lost with the old one."""
        servers, chief, follower = _cluster()
        servers.network.down(chief.name)
        waiting = follower.read("a", consistency="follower")
        del servers.servers[chief.name]
        heir = servers.leader()
        servers.result(heir.write(["set", "a", 2]))
        assert servers.result(waiting) == 2

    def test_goes_on_when_a_leader_steps_down(self) -> None:
        """It becomes the question of a follower."""
        servers, chief, _ = _cluster()
        servers.network.down(chief.name)
        waiting = chief.read("a", consistency="follower")
        others = {n: s for n, s in servers.servers.items() if s is not chief}
        servers.servers, everybody = others, servers.servers
        heir = servers.leader()
        servers.result(heir.write(["set", "a", 2]))
        assert not waiting.called
        servers.network.heal()
        servers.servers = everybody
        assert servers.result(waiting) == 2

    def test_without_a_majority_times_out(self) -> None:
        """Nobody can tell who leads."""
        servers, chief, follower = _cluster(timing={"request_timeout": 1.0})
        servers.network.down(chief.name)
        (third,) = set(servers.servers) - {chief.name, follower.name}
        servers.network.down(third)
        servers.failing(follower.read("a", consistency="follower"), TimedOutError)

    def test_without_a_leader_is_refused(self) -> None:
        """There is nobody to name."""
        servers = Servers()
        waiting = servers.servers["s1"].read("a", consistency="follower")
        assert servers.failing(waiting, NotLeaderError).leader is None

    def test_an_answer_to_a_question_before_a_restart_is_not_believed(
        self, wire: list[Message], tmp_path: Path
    ) -> None:
        """
        It may be on its way for long, and says nothing of what came since.

        The server asks, is restarted, asks again; then comes the old answer.
        """
        servers, chief, follower = _lasting(tmp_path)
        servers.result(follower.read("a", consistency="follower"))
        (answer,) = (m for m in wire if isinstance(m, RequestReadIndexResponse))
        name = follower.name
        servers.stop(name)
        follower = servers.start(name)
        servers.run(0.3)
        servers.result(chief.write(["set", "a", 2]))
        servers.network.down(name)
        waiting = follower.read("a", consistency="follower")
        servers.run(0.005)
        follower.deliver(answer)
        servers.run(0.005)
        assert not waiting.called
        servers.network.heal()
        assert servers.result(waiting) == 2


class StaleReadTests:
    """Reads that may be old."""

    def test_every_server_answers_at_once(self) -> None:
        """Alone, and without a leader."""
        servers, _, follower = _cluster()
        servers.network.down(follower.name)
        servers.run(2)
        assert follower.leader() is None
        assert servers.result(follower.read("a", consistency="stale"), 0.01) == 1

    def test_within_its_age_every_server_answers(self) -> None:
        """Heartbeats keep them all young, the leader as well."""
        servers, chief, follower = _cluster()
        servers.run(1)
        for server in (chief, follower):
            read = server.read("a", consistency="stale", max_age=0.1)
            assert servers.result(read, 0.01) == 1

    @pytest.mark.parametrize("is_leader", [False, True])
    def test_what_is_too_old_is_refused(self, *, is_leader: bool) -> None:
        """The error says how old it is."""
        servers, chief, follower = _cluster()
        server = chief if is_leader else follower
        servers.network.down(server.name)
        servers.run(3)
        waiting = server.read("a", consistency="stale", max_age=2.5)
        text = str(servers.failing(waiting, StaleError))
        age = float(text.partition("newest ")[2].partition(" s ago")[0])
        assert 2.9 < age < 3.2
        fine = server.read("a", consistency="stale", max_age=3.5)
        assert servers.result(fine) == 1

    def test_a_server_that_never_heard_a_leader_has_no_age(self) -> None:
        """However old a state is allowed."""
        servers = Servers(founded=False)
        server = servers.servers["s1"]
        waiting = server.read("a", consistency="stale", max_age=1e9)
        servers.failing(waiting, StaleError)
        assert servers.result(server.read("a", consistency="stale")) is None

    def test_a_follower_that_lags_is_as_old_as_what_it_has_applied(self) -> None:
        """A message that names a commit index makes nobody young before that."""
        servers, chief, follower = _cluster()
        servers.run(1)
        status = follower.status()
        servers.network.down(follower.name)
        servers.run(0.1)
        follower.deliver(AppendEntries(chief.name, status.term, 50, status.term, 50, 0))
        waiting = follower.read("a", consistency="stale", max_age=0.05)
        servers.failing(waiting, StaleError)

    def test_a_new_leader_is_not_young_before_its_no_op(self) -> None:
        """Until then it does not know what the last one acknowledged."""
        servers, chief, follower = _cluster()
        status = follower.status()
        servers.run(0.1)
        servers.network.down(chief.name)
        servers.network.down(follower.name)
        # It knows of nothing that is committed in its own term.
        term, index = status.term + 1, status.commit_index
        servers.run(0.2)
        for _ in range(3):
            follower.deliver(AppendEntries("s9", term, index, status.term, index, 0))
        waiting = follower.read("a", consistency="stale", max_age=0.15)
        servers.failing(waiting, StaleError)

    def test_its_age_counts_when_it_is_served(self) -> None:
        """Waiting for an index can make a server young again, or old."""
        servers, chief, follower = _cluster()
        waiting = follower.read("a", consistency="stale", max_age=0.1, at_index=4)
        servers.run(0.3)
        servers.result(chief.write(["set", "a", 2]))
        assert servers.result(waiting) == 2

    def test_a_caller_of_a_write_sees_it(self) -> None:
        """A read from within the answer waits for the end of the turn."""
        servers, chief, _ = _cluster()
        seen: list[Any] = []

        def look(_: Any) -> None:
            chief.read("b", consistency="stale").addCallback(seen.append)

        chief.write(["set", "a", 2]).addCallback(look)
        chief.write(["set", "b", 3])
        servers.run(0.1)
        assert seen == [3]


class ArgumentTests:
    """What cannot be asked for."""

    @pytest.mark.parametrize(
        "how",
        [
            {"consistency": "fresh"},
            {"consistency": None},
            {"max_age": 1.0},
            {"consistency": "follower", "max_age": 1.0},
            {"consistency": "stale", "max_age": -1},
            {"consistency": "stale", "max_age": float("nan")},
            {"consistency": "stale", "max_age": float("inf")},
            {"consistency": "stale", "max_age": "1"},
            {"consistency": "stale", "max_age": True},
            {"at_index": -1},
            {"at_index": 2**63},
            {"at_index": 1.5},
            {"at_index": True},
        ],
    )
    def test_makes_no_sense(self, how: dict[str, Any]) -> None:
        """The caller is told so, by every server."""
        servers, chief, follower = _cluster()
        for server in (chief, follower):
            servers.failing(server.read("a", **how), InvalidCommandError)

    @pytest.mark.parametrize("consistency", ["linearizable", "lease"])
    def test_only_a_leader_serves_some(self, consistency: Any) -> None:
        """A follower names it."""
        servers, chief, follower = _cluster()
        waiting = follower.read("a", consistency=consistency)
        assert servers.failing(waiting, NotLeaderError).leader == chief.name

    @pytest.mark.parametrize("consistency", _ANYWHERE)
    def test_too_many_are_refused(self, consistency: Any) -> None:
        """All kinds count together; later ones pass again."""
        servers, _, follower = _cluster(limits={"max_pending_requests": 3})
        waiting = [follower.read("a", consistency=consistency) for _ in range(5)]
        assert [servers.result(each) for each in waiting[:3]] == [1, 1, 1]
        for each in waiting[3:]:
            servers.failing(each, OverloadedError)
        assert servers.result(follower.read("a", consistency=consistency)) == 1

    @pytest.mark.parametrize("consistency", _ANYWHERE)
    def test_those_under_way_at_a_stop_fail(self, consistency: Any) -> None:
        """Nobody waits for ever."""
        servers, _, follower = _cluster()
        waiting = [
            follower.read("a", consistency=consistency, at_index=99) for _ in range(2)
        ]
        servers.run(0.05)
        waiting.append(follower.read("a", consistency=consistency))
        servers.stop(follower.name)
        for each in waiting:
            servers.failing(each, StoppedError)
        servers.failing(follower.read("a", consistency=consistency), NotLeaderError)

    def test_a_raising_machine_is_the_callers_to_deal_with(self) -> None:
        """As with every other read."""
        servers, _, follower = _cluster()
        for consistency in _ANYWHERE:
            waiting = follower.read("fail", consistency=consistency)  # type: ignore[arg-type]
            assert servers.failing(waiting, CommandFailedError).kind == "LookupError"


class PausableClock:
    """A clock of one server: time goes on, but its timers may not fire."""

    def __init__(self, reactor: Clock) -> None:
        self._reactor = reactor
        self._held: list[Callable[[], None]] = []
        self.is_paused = False

    def seconds(self) -> float:
        """Return the time."""
        now: float = self._reactor.seconds()
        return now

    def callLater(self, when: float, what: Any, *args: Any, **kw: Any) -> Any:
        """Call *what* later, unless the server is paused then."""

        def fire() -> None:
            if self.is_paused:
                self._held.append(fire)
            else:
                what(*args, **kw)

        return self._reactor.callLater(when, fire)

    def resume(self) -> None:
        """Let everything go on."""
        self.is_paused = False
        held, self._held = self._held, []
        for fire in held:
            fire()


class LeaseTests:
    """Reads within a lease: fast, and never stale."""

    def _is_at_once(self, servers: Servers, server: RaftServer) -> bool:
        """Say whether *server* serves a read though nobody answers it."""
        servers.network.down(server.name)
        waiting = server.read("a", consistency="lease")
        waiting.addErrback(lambda _: None)
        servers.run(0.003)
        servers.network.heal()
        return waiting.called

    def test_costs_no_round(self) -> None:
        """Heartbeats renew the lease."""
        servers, chief, _ = _cluster(**_LEASE)
        servers.run(0.5)
        assert self._is_at_once(servers, chief)

    def test_is_a_linearizable_one_where_leases_are_off(self) -> None:
        """The promise is the same."""
        servers, chief, _ = _cluster()
        servers.run(0.5)
        assert not self._is_at_once(servers, chief)
        assert servers.result(chief.read("a", consistency="lease")) == 1

    def test_is_off_by_default(self) -> None:
        """Who wants it has to know about clocks."""
        assert not from_mapping(
            {}, name="s1", state_machine=Servers().machine
        ).reads.lease

    def test_asks_when_the_lease_has_ended(self) -> None:
        """A round renews it."""
        servers, chief, _ = _cluster(reads={"lease": True, "clock_drift": 0.5})
        servers.network.down(chief.name)
        servers.run(0.12)
        assert chief.status().role == "leader"
        waiting = chief.read("a", consistency="lease")
        servers.run(0.003)
        assert not waiting.called
        servers.network.heal()
        assert servers.result(waiting) == 1

    def test_of_a_leader_that_was_cut_off_is_never_stale(self) -> None:
        """
        Its lease ends before another can be elected.

        It is asked in every millisecond until long after.
        """
        servers, chief, _ = _cluster(**_LEASE)
        servers.network.down(chief.name)
        seen: list[tuple[float, Any]] = []
        others = {n: s for n, s in servers.servers.items() if s is not chief}
        elected = 0.0
        for _ in range(2000):
            now = servers.reactor.seconds()
            if not elected and any(s.leader() in others for s in others.values()):
                elected = now
            read = chief.read("a", consistency="lease")
            read.addCallbacks(lambda _, now=now: seen.append((now, 1)), lambda _: None)
            servers.reactor.advance(0.001)
        assert elected
        assert len(seen) > 50
        assert max(when for when, _ in seen) < elected

    @pytest.mark.parametrize("order", [1, -1])
    def test_of_a_paused_process_is_never_stale(self, order: int) -> None:
        """
        It cannot know how long it stood still, but for the clock.

        A paused leader finds its lease unchanged, and its role; another was
        elected meanwhile and has written.
        """
        servers = Servers(config=_LEASE)
        clocks = {}
        for name in servers.names[::order]:
            servers.stop(name)
            config = from_mapping(
                servers.mapping, name=name, state_machine=servers.machine
            )
            clocks[name] = PausableClock(servers.reactor)
            server = RaftServer(
                config, name, servers.reactor, clocks[name], servers.random.randrange
            )
            server.startService()
            servers.result(server.when_started())
            servers.servers[name] = server
        chief = servers.leader()
        servers.result(chief.write(["set", "a", 1]))
        servers.run(0.5)
        assert self._is_at_once(servers, chief)
        clocks[chief.name].is_paused = True
        servers.network.down(chief.name)
        others = {n: s for n, s in servers.servers.items() if s is not chief}
        servers.servers = others
        servers.run(1.5)
        servers.result(servers.leader().write(["set", "a", 2]))
        assert chief.status().role == "leader"
        waiting = chief.read("a", consistency="lease")
        stale = chief.read("a", consistency="stale", max_age=1.0)
        servers.run(0.005)
        assert not waiting.called
        servers.failing(stale, StaleError)
        servers.network.heal()
        clocks[chief.name].resume()
        servers.failing(waiting, NotLeaderError)

    def test_of_a_leader_that_hands_over_is_never_stale(self) -> None:
        """A transfer does not wait for an election timeout, so it ends the lease."""
        servers, chief, follower = _cluster(**_LEASE)
        servers.run(0.5)
        assert self._is_at_once(servers, chief)
        servers.run(0.2)
        # What its heir says to the others does not reach the old leader.
        for name in set(servers.servers) - {chief.name}:
            servers.network.cut(name, chief.name)
        waiting = chief.transfer(follower.name)
        waiting.addErrback(lambda _: None)
        servers.run(0.02)
        assert follower.status().role == "leader"
        servers.result(follower.write(["set", "a", 2]), 0.05)
        assert chief.status().role == "leader"
        read = chief.read("a", consistency="lease")
        read.addErrback(lambda _: None)
        servers.run(0.005)
        assert not read.called

    def test_a_new_leader_waits_for_its_no_op(self) -> None:
        """Before, it does not know what was acknowledged."""
        servers, chief, _ = _cluster(**_LEASE)
        servers.result(chief.write(["set", "a", 2]))
        servers.network.down(chief.name)
        del servers.servers[chief.name]
        heir = servers.leader()
        assert servers.result(heir.read("a", consistency="lease")) == 2

    def test_needs_voters_that_were_up(self, tmp_path: Path) -> None:
        """
        A voter that was restarted votes for nobody for an election timeout.

        The leader is cut off just after its majority answered; both others
        are restarted, and could have elected one of them at once.
        """
        servers, chief, _ = _lasting(
            tmp_path,
            **_LEASE,
            timing={"heartbeat_interval": 0.05, "election_timeout": 1.0},
        )
        servers.run(0.5)
        began = servers.reactor.seconds()
        servers.network.down(chief.name)
        names = [name for name in servers.names if name != chief.name]
        for name in names:
            servers.stop(name)
        del servers.servers[chief.name]
        for name in names:
            servers.start(name)
        servers.run(0.01)
        for name in names:
            # Their own patience is at an end.
            state = servers.servers[name]._driver.raft.state  # type: ignore[union-attr]
            state.elapsed = state.timeout
        while servers.reactor.seconds() < began + 0.85:
            assert all(s.leader() is None for s in servers.servers.values())
            servers.reactor.advance(0.001)
