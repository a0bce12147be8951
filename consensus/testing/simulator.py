"""
A whole cluster in one thread and in virtual time, everything drawn from one seed.

The servers are real ones, with the real core; only the processes, the disks
and the network are simulated, and let them down when they are told to.  After
every step the invariants of Raft are checked (:mod:`consensus.testing.invariants`)::

    cluster = SimulatedCluster(MyMachine, servers=5, seed=7)
    cluster.write(["set", "x", 1])
    cluster.partition("s1")
    cluster.run(2.0)
    cluster.crash("s2")
    cluster.heal()
    assert cluster.read("x") == 1
    cluster.check()

The same seed and the same calls give the same run, to the last message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from consensus.client import Client
from consensus.core.values import Role
from consensus.errors import NotLeaderError
from consensus.testing.faults import draw_plan, play
from consensus.testing.sim_clients import Clients
from consensus.testing.sim_life import PATIENCE, ClusterLife, SimulationError
from consensus.testing.sim_network import SimulatedTransport
from consensus.testing.sim_time import Host

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from consensus.core.values import ServerId
    from consensus.interfaces import StateMachine
    from consensus.testing.faults import Fault
    from consensus.testing.sim_clients import MakeCall
    from consensus.testing.sim_server import SimulatedServer

__all__ = ["PATIENCE", "SimulatedCluster", "SimulationError"]


class SimulatedCluster(ClusterLife):
    """
    A cluster that runs until something goes wrong.

    Args:
        machine: The state machine's class.
        servers: How many, or their names.
        seed: Everything that happens by chance follows from it.
        config: Further keys for all servers, as in the YAML file.
        conditions: How good the network is.
        drift: By which part a server's clock may be fast or slow.
        sync: How long a disk's sync takes, from and to, in seconds.
        machine_directory: Where machines on disk have their files, real ones,
            each server in a directory of its name.
        compares: Whether states are compared with what the log makes of them.
        durable: Whether servers have disks at all; without, each one forgets
            all when it ends, its votes too, so that crashes may break promises.
    """

    def __init__(self, machine: type, *args: Any, **options: Any) -> None:
        super().__init__(machine, *args, **options)
        self._disturbances = 0
        self._cuts: list[tuple[ServerId, ServerId]] = []
        self._own: Client | None = None
        #: The clients' hosts, which may be partitioned as servers are.
        self.client_names: list[str] = []

    # --- the network -------------------------------------------------------

    def partition(
        self, *sides: ServerId | Collection[ServerId], one_way: bool = False
    ) -> None:
        """
        Let nothing pass between *sides*, until :meth:`heal`.

        Args:
            *sides: Names, or collections of names; servers in none of them are
                together on one more side.  Clients belong to a side if they are
                named, ``client`` for :attr:`client`; the others reach all.
            one_way: Only what the first side sends is lost.
        """
        groups = [{side} if isinstance(side, str) else set(side) for side in sides]
        rest = set(self.names).difference(*groups)
        groups += [rest] if rest else []
        for place, group in enumerate(groups):
            for other in groups[place + 1 :]:
                for one in sorted(group):
                    for two in sorted(other):
                        self.cut(one, two)
                        if not one_way:
                            self.cut(two, one)
            if one_way:
                break

    def cut(self, sender: ServerId, receiver: ServerId) -> None:
        """Lose what *sender* sends to *receiver*, until :meth:`heal`."""
        self.trace.note("nothing from {} reaches {}", sender, receiver)
        self.network.cut(sender, receiver)
        self._cuts.append((sender, receiver))

    def heal(self) -> None:
        """Undo every :meth:`cut` and :meth:`partition`."""
        self.trace.note("all is joined")
        for sender, receiver in self._cuts:
            self.network.join(sender, receiver)
        self._cuts.clear()

    # --- calls -------------------------------------------------------------

    @property
    def client(self) -> Client:
        """Return a client of all servers, on a host of its own."""
        if self._own is None:
            self._own = self.make_client("client")
        return self._own

    def make_client(self, name: str, timeout: float = 10.0) -> Client:
        """Return another client, on a new host called *name*."""
        host = Host(self.time, name)
        self.client_names.append(name)
        transport = SimulatedTransport(self.network, host, host)
        addresses = {each: each for each in self.names}
        dice = self.dice(f"client {name}").random
        return Client(addresses, transport, host, timeout=timeout, dice=dice)

    def write(self, command: Any, seconds: float = PATIENCE) -> Any:
        """Write through a client, and wait; return or raise what comes of it."""
        machine = self.machine_for_clients
        answer = self.client.write(machine.encode(command))
        return machine.decode_result(self.result(answer, seconds))

    def read(self, query: Any, seconds: float = PATIENCE, **options: Any) -> Any:
        """Read through a client, and wait; for *options* see :meth:`.Client.read`."""
        machine = self.machine_for_clients
        answer = self.client.read(machine.encode(query), **options)
        return machine.decode_result(self.result(answer, seconds))

    @property
    def machine_for_clients(self) -> StateMachine:
        """Return what encodes commands and decodes results."""
        options = self._config_of(self.names[0], {}).state_machine.options
        return self.machine(options)

    def clients(self, count: int, call: MakeCall, **options: Any) -> Clients:
        """
        Let *count* clients begin to call; see :class:`.Clients`.

        Args:
            count: How many.
            call: Given dice, returns the next call: a :class:`~.history.Write`
                or a :class:`~.history.Read`.
            **options: See :class:`.Clients`.
        """
        clients = Clients(self, count, call, **options)
        clients.start()
        return clients

    def disturb(
        self,
        seconds: float,
        *,
        every: float = 1.0,
        kinds: Collection[str] | None = None,
    ) -> list[Fault]:
        """
        Let all sorts of things go wrong for so many seconds from now on.

        Args:
            seconds: When the last has ended; they do not pass here.
            every: How far apart faults begin, on average, in seconds.
            kinds: Which, of :data:`.KINDS`; by default all.

        Returns:
            What is going to happen.
        """
        self._disturbances += 1
        dice = self.dice(f"faults, {self._disturbances}")
        plan = draw_plan(dice, self.names, seconds, every=every, kinds=kinds)
        play(self, plan)
        return plan

    # --- what is expected --------------------------------------------------

    def leader(self, seconds: float = PATIENCE) -> SimulatedServer:
        """
        Wait until a running server leads the newest term; return it.

        Raises:
            SimulationError: There was none in so many seconds.
        """
        end = self.time.now + seconds
        while (found := self.leader_now()) is None:
            if self.time.now >= end:
                self.fail(f"nobody leads after {seconds:g} seconds")
            self._advance(self.time.now + 0.005)
        return found

    def leader_now(self) -> SimulatedServer | None:
        """Return the running server that leads the newest term, if there is one."""
        running = [(server.raft, server) for server in self._awake()]
        states = [(raft.state, server) for raft, server in running if raft is not None]
        newest = max((state.term for state, _ in states), default=0)
        for state, server in states:
            if state.role is Role.LEADER and state.term == newest:
                return server
        return None

    def followers(self) -> list[SimulatedServer]:
        """Return the running servers that do not lead."""
        chief = self.leader()
        return [server for server in self.servers.values() if server is not chief]

    def _awake(self) -> Iterator[SimulatedServer]:
        return (each for each in self.servers.values() if not each.host.pauses)

    def check(self, seconds: float = PATIENCE) -> None:
        """
        Heal everything, and see that the cluster is alive and of one mind.

        All servers run again; within so many seconds there is a leader, a new
        entry commits, and every server has applied it, and has the same state.

        Raises:
            SimulationError: That is not so.
        """
        self.heal()
        for name in self.names:
            self.resume(name)
            self.repair_disk(name)
        end = self.time.now + seconds
        index = 0
        while self.time.now < end:
            server = self.leader_now()
            if server is not None and self._has_applied(server, index):
                self.compare()
                return
            if server is not None and not index:
                index = self._probe(server)
            elif server is None or server.raft is None:
                index = 0
            self._advance(self.time.now + 0.05)
        self.fail(f"liveness: no new entry was applied everywhere in {seconds:g} s")

    def _probe(self, server: SimulatedServer) -> int:
        try:
            return server.probe()
        except NotLeaderError:
            return 0

    def _has_applied(self, leader: SimulatedServer, index: int) -> bool:
        """Say whether all that belong to the cluster have applied *index*."""
        if leader.raft is None or not index:
            return False
        for name in leader.raft.state.membership.members():
            raft = self.servers[name].raft if name in self.servers else None
            if raft is None or raft.state.log.last_applied < index:
                return False
        return True
