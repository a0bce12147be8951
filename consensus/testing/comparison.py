"""
Your state machine in a simulated cluster, compared with itself alone.

:func:`cluster_machine` makes a Hypothesis state machine of yours: it writes,
reads, cuts, crashes, takes snapshots and hands over, and whatever it does, a
client must be answered what the machine alone would answer::

    TestStock = cluster_machine(
        Stock,
        commands=st.tuples(st.sampled_from(["tea", "milk"]), st.integers(-5, 5)),
        queries=st.sampled_from(["tea", "milk"]),
    ).TestCase

On a failure Hypothesis says the fewest steps that lead to it.  The machine
alone hears what time it is at the end only, so leave out commands by which
something ends after a while.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from consensus.declare import as_machine
from consensus.errors import CommandFailedError, InvalidCommandError
from consensus.fingerprint import fingerprint, state_text
from consensus.interfaces import StateMachine, Tick
from consensus.testing.machine_copy import Copy
from consensus.testing.simulator import SimulatedCluster

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from consensus.calling.session import ClientSession
    from consensus.options import Consistency

__all__ = ["ClusterMachine", "cluster_machine"]

#: Snapshots are taken often, so that machines are restored from them.
_CONFIG: Mapping[str, Any] = {"snapshots": {"every_entries": 10, "keep_entries": 2}}

_SEEDS = st.integers(0, (1 << 16) - 1)

#: What a client gets for a command whose result a crash has taken (§6.3).
_LOST = "ResultLost"

#: What a call came to: its kind, and what a client gets.
Outcome = tuple[str, str]


class ClusterMachine(RuleBasedStateMachine):
    """
    Some servers, the machine alone, and what happens to both.

    Never more than a minority is down, paused or cut off, so that every call
    is answered; writes go through a session, so that each is applied once.
    """

    machine: type[StateMachine]
    servers: int
    options: Mapping[str, Any]

    def __init__(self) -> None:
        super().__init__()
        self._place = TemporaryDirectory(prefix="cluster-")
        self._missing: dict[str, str] = {}

    @initialize(seed=_SEEDS)
    def found(self, seed: int) -> None:
        """Found a cluster, and make the machine alone."""
        place = Path(self._place.name)
        options = {
            "config": _CONFIG,
            "machine_directory": place,
            # What a session remembers differs where a machine kept its state.
            "compares": not self._is_on_disk,
            **self.options,
        }
        self.cluster = SimulatedCluster(
            self.machine, self.servers, seed=seed, **options
        )
        alone = place / "alone"
        alone.mkdir()
        self.alone = Copy(self._make, alone, "alone", state_text)
        self._session: ClientSession = self.cluster.client.session(ttl=86_400)

    def _make(self) -> StateMachine:
        """Return another machine, with the options of the cluster's."""
        return self.cluster.machine_for_clients

    @property
    def _is_on_disk(self) -> bool:
        """Say whether the machine keeps its state itself."""
        return self.machine.last_applied is not StateMachine.last_applied

    def teardown(self) -> None:
        """Heal all; every server comes to the state of the machine alone."""
        try:
            if hasattr(self, "alone"):
                self._compare_states()
        finally:
            if hasattr(self, "alone"):
                self.alone.close()
                self.cluster.crash(*self.cluster.names)
            self._place.cleanup()

    def _compare_states(self) -> None:
        self.cluster.check()
        self._tell_time()
        expected = self.alone.seen()
        for name, server in self.cluster.servers.items():
            applier = server.applier
            assert applier is not None
            found = state_text(applier.machine, applier.state)
            assert found == expected, f"{name} has another state than the machine alone"

    def _tell_time(self) -> None:
        """Let the machine alone know how late it is in the cluster's log."""
        if self.machine.timed:
            appliers = [each.applier for each in self.cluster.servers.values()]
            times = [each.sessions.time for each in appliers if each is not None]
            self.alone.write(Tick(max(times, default=0)))

    # --- calls ---------------------------------------------------------------------

    def write(self, command: Any) -> None:
        """Write *command* to both, and compare what comes of it."""
        machine = self.alone.machine
        try:
            machine.validate(machine.decode(machine.encode(command)))
        except Exception:  # noqa: BLE001 - whatever is raised refuses it
            expected = ("refused", "")
        else:
            expected = self._expected(self.alone.write(command))
        waiting = self._session.write(machine.encode(command))
        found = self._outcome(lambda: self.cluster.result(waiting))
        if found[0] == _LOST and self._is_on_disk:
            return  # a crash may take the result, but not the effect
        assert found == expected, f"the write of {command!r}"

    def read(self, query: Any, consistency: Consistency) -> None:
        """Ask *query* of both, and compare the answers."""
        [answer] = self.alone.read_all([query])
        expected = self._expected(answer)
        machine, client = self.alone.machine, self.cluster.client

        def ask() -> bytes:
            waiting = client.read(machine.encode(query), consistency=consistency)
            data: bytes = self.cluster.result(waiting)
            return data

        assert self._outcome(ask) == expected, f"the {consistency} read of {query!r}"

    def _expected(self, result: Any) -> Outcome:
        """Return what a client is told of *result*, which the machine alone gave."""
        if isinstance(result, Exception):
            return type(result).__name__, str(result)
        machine = self.alone.machine
        try:
            data = machine.encode(result)
        except Exception:  # noqa: BLE001 - the suite of machines says more
            return "UnencodableResult", ""
        return "result", fingerprint(machine.decode_result(data))

    def _outcome(self, call: Callable[[], bytes]) -> Outcome:
        """Return what *call* comes to in the cluster."""
        try:
            data = call()
        except CommandFailedError as error:
            is_text = error.kind != "UnencodableResult"
            return error.kind, error.detail if is_text else ""
        except InvalidCommandError:
            return "refused", ""
        return "result", fingerprint(self.alone.machine.decode_result(data))

    # --- faults ----------------------------------------------------------------------

    def _may_miss_one_more(self) -> bool:
        return len(self._missing) < (self.servers - 1) // 2

    def _name(self, number: int) -> str:
        return self.cluster.names[number % self.servers]

    _NUMBERS = st.integers(0, 6)

    @rule(number=_NUMBERS, how=st.sampled_from(["crash", "pause", "partition"]))
    def miss(self, number: int, how: str) -> None:
        """Let the cluster do without one server, if enough are left."""
        name = self._name(number)
        if self._may_miss_one_more() and name not in self._missing:
            self._missing[name] = how
            getattr(self.cluster, how)(name)

    @rule()
    def miss_the_leader(self) -> None:
        """Let the cluster do without its leader."""
        leader = self.cluster.leader_now()
        if leader is not None:
            self.miss(self.cluster.names.index(leader.name), "crash")

    @rule()
    def recover(self) -> None:
        """Let all run again, and hear of each other."""
        for name, how in self._missing.items():
            if how == "crash":
                self.cluster.restart(name)
            elif how == "pause":
                self.cluster.resume(name)
        self.cluster.heal()
        self._missing.clear()

    @rule(number=_NUMBERS)
    def crash_and_restart(self, number: int) -> None:
        """Let one server start again with what its disk has."""
        name = self._name(number)
        if self._may_miss_one_more() and name not in self._missing:
            self.cluster.crash(name)
            self.cluster.restart(name)

    @rule(seconds=st.sampled_from([0.01, 0.3, 2.0]))
    def let_time_pass(self, seconds: float) -> None:
        """Let the servers catch up, or lose patience."""
        self.cluster.run(seconds)


def cluster_machine(
    machine: type,
    *,
    commands: st.SearchStrategy[Any],
    queries: st.SearchStrategy[Any] | None = None,
    servers: int = 3,
    **options: Any,
) -> type[ClusterMachine]:
    """
    Return a Hypothesis state machine that compares *machine* with itself.

    Its ``TestCase`` is for pytest; ``TestCase.settings`` says how long to try.

    Args:
        machine: The class.
        commands: A strategy for what is written.
        queries: A strategy for what is read; ``None`` if nothing is.
        servers: How many; with two of them none may be missing.
        **options: Further ones of :class:`~.simulator.SimulatedCluster`.
    """

    class Machine(ClusterMachine):
        @rule(command=commands)
        def write_one(self, command: Any) -> None:
            """Write a command."""
            self.write(command)

        @rule(some=st.lists(commands, min_size=2, max_size=15))
        def write_some(self, some: list[Any]) -> None:
            """Write enough for a snapshot."""
            for command in some:
                self.write(command)

        if queries is not None:

            @rule(
                query=queries,
                consistency=st.sampled_from(["linearizable", "follower"]),
            )
            def read_one(self, query: Any, consistency: Consistency) -> None:
                """Read, from the leader or from any server."""
                self.read(query, consistency)

    Machine.machine, Machine.servers = as_machine(machine), servers
    Machine.options = options
    Machine.__name__ = Machine.__qualname__ = f"{machine.__name__}InACluster"
    test: Any = Machine.TestCase
    test.settings = settings(
        max_examples=20,
        stateful_step_count=20,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    return Machine
