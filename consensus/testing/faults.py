"""
What goes wrong in a simulation: a plan that is drawn from a seed.

A plan is data, so that a failing run can be shrunk: each :class:`Fault` begins
and ends by itself, and can be left out without changing any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from consensus.testing.sim_network import Conditions

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from random import Random

    from consensus.core.values import ServerId
    from consensus.testing.simulator import SimulatedCluster

#: Stands for whoever leads when the fault begins.
LEADER = "(the leader)"


@dataclass(frozen=True, slots=True)
class Fault:
    """
    Something that goes wrong for a while.

    Args:
        at: When it begins, in seconds after the plan has.
        lasts: For how long.
        kind: A key of :data:`KINDS`.
        servers: Who is concerned.
        amount: How bad it is; what it means is up to the kind.
    """

    at: float
    lasts: float
    kind: str
    servers: tuple[ServerId, ...] = ()
    amount: float = 0.0

    def __str__(self) -> str:
        amount = f" by {self.amount:.3g}" if self.amount else ""
        who = " of " + ", ".join(self.servers) if self.servers else ""
        end = self.at + self.lasts
        return f"{self.at:.2f}-{end:.2f} {self.kind}{who}{amount}"


def _links(
    cluster: SimulatedCluster, links: Collection[tuple[ServerId, ServerId]]
) -> Callable[[], None]:
    """Cut *links*; return what joins these again, whatever else is cut."""
    network = cluster.network
    for link in links:
        network.cut(*link)

    def end() -> None:
        for link in links:
            network.join(*link)

    return end


def _split(cluster: SimulatedCluster, fault: Fault) -> tuple[list[str], ...]:
    """
    Return the two sides: the servers concerned, and the rest.

    So large a part of the clients as the amount says is on the first side, and
    the others on the second; with no amount, they reach all.
    """
    one = [name for name in cluster.names if name in fault.servers]
    rest = [name for name in cluster.names if name not in fault.servers]
    clients = cluster.client_names if fault.amount else []
    count = round(len(clients) * fault.amount)
    return one + clients[:count], rest + clients[count:]


def _partition(cluster: SimulatedCluster, fault: Fault) -> Callable[[], None]:
    one, rest = _split(cluster, fault)
    links = [(a, b) for a in one for b in rest]
    return _links(cluster, links + [(b, a) for a, b in links])


def _silence(cluster: SimulatedCluster, fault: Fault) -> Callable[[], None]:
    one, rest = _split(cluster, fault)
    return _links(cluster, [(a, b) for a in one for b in rest])


def _deafness(cluster: SimulatedCluster, fault: Fault) -> Callable[[], None]:
    one, rest = _split(cluster, fault)
    return _links(cluster, [(b, a) for a in one for b in rest])


def _broken_link(cluster: SimulatedCluster, fault: Fault) -> Callable[[], None]:
    one, two = fault.servers[:2]
    return _links(cluster, [(one, two), (two, one)])


def _crash(cluster: SimulatedCluster, fault: Fault) -> Callable[[], None]:
    cluster.crash(*fault.servers)
    return lambda: cluster.restart(*fault.servers)


def _wipe(cluster: SimulatedCluster, fault: Fault) -> Callable[[], None]:
    """Let one lose its disk, if the others can go on and take it in anew."""
    name = fault.servers[0]
    if not cluster.can_spare(name):
        return lambda: None
    cluster.wipe(name)
    return lambda: cluster.restart(name)


def _pause(cluster: SimulatedCluster, fault: Fault) -> Callable[[], None]:
    names = [name for name in fault.servers if name in cluster.servers]
    hosts = [cluster.servers[name].host for name in names]
    cluster.pause(*names)

    def end() -> None:
        for host in hosts:
            if host.pauses:
                host.resume()

    return end


def _sleep(cluster: SimulatedCluster, fault: Fault) -> Callable[[], None]:
    """
    Pause a server that is cut off, and let it wake up before it is joined.

    A leader that wakes up does not know yet that another leads.
    """
    join = _partition(cluster, fault)
    cluster.time.at(cluster.now + 0.7 * fault.lasts, _pause(cluster, fault))
    return join


def _slow_disk(cluster: SimulatedCluster, fault: Fault) -> Callable[[], None]:
    for name in fault.servers:
        cluster.slow_disk(name, fault.amount / 10, fault.amount)
    return lambda: _repair(cluster, fault)


def _full_disk(cluster: SimulatedCluster, fault: Fault) -> Callable[[], None]:
    for name in fault.servers:
        cluster.fill_disk(name)
    return lambda: _repair(cluster, fault)


def _broken_disk(cluster: SimulatedCluster, fault: Fault) -> Callable[[], None]:
    for name in fault.servers:
        cluster.fail_disk(name)
    return lambda: _repair(cluster, fault)


def _repair(cluster: SimulatedCluster, fault: Fault) -> None:
    for name in fault.servers:
        cluster.repair_disk(name)


def _clock(cluster: SimulatedCluster, fault: Fault) -> Callable[[], None]:
    name = fault.servers[0]
    server = cluster.servers.get(name)
    if server is None:
        return lambda: None
    host, before = server.host, server.host.rate
    host.set_rate(1.0 + fault.amount)
    return lambda: host.set_rate(before)


def _storm(cluster: SimulatedCluster, fault: Fault) -> Callable[[], None]:
    part = fault.amount
    conditions = Conditions(
        delay=(0.0005, 0.2 * part),
        loss=part / 2,
        repeats=part / 2,
        stragglers=part / 4,
        reorders=True,
    )
    cluster.network.storm(conditions)
    return lambda: cluster.network.calm(conditions)


def _transfer(cluster: SimulatedCluster, _: Fault) -> Callable[[], None]:
    leader = cluster.leader_now()
    if leader is not None:
        leader.transfer().addErrback(lambda _: None)
    return lambda: None


def _snapshot(cluster: SimulatedCluster, fault: Fault) -> Callable[[], None]:
    for name in fault.servers:
        server = cluster.servers.get(name)
        if server is not None and server.raft is not None:
            server.snapshot().addErrback(lambda _: None)
    return lambda: None


def _members(cluster: SimulatedCluster, fault: Fault) -> Callable[[], None]:
    """
    Let these vote, and a part of the others learn.

    Not while one has lost its disk: without those that leave, the rest might
    be no majority that could take it in anew.
    """
    leader = cluster.leader_now()
    if leader is not None and cluster.is_whole(leader):
        rest = [name for name in cluster.names if name not in fault.servers]
        learners = rest[: round(len(rest) * fault.amount)]
        leader.members.change(
            {name: name for name in fault.servers}, {name: name for name in learners}
        ).addErrback(lambda _: None)
    return lambda: None


#: What begins each kind of fault; it returns what ends it.
KINDS: dict[str, Callable[[SimulatedCluster, Fault], Callable[[], None]]] = {
    "partition": _partition,
    "silence": _silence,
    "deafness": _deafness,
    "broken link": _broken_link,
    "crash": _crash,
    "wipe": _wipe,
    "pause": _pause,
    "sleep": _sleep,
    "slow disk": _slow_disk,
    "full disk": _full_disk,
    "broken disk": _broken_disk,
    "clock": _clock,
    "storm": _storm,
    "transfer": _transfer,
    "snapshot": _snapshot,
    "members": _members,
}

#: How often each is drawn, and how long it lasts at most, in seconds.
_ODDS: dict[str, tuple[int, float]] = {
    "partition": (4, 4.0),
    "silence": (2, 3.0),
    "deafness": (2, 3.0),
    "broken link": (3, 5.0),
    "crash": (5, 3.0),
    "wipe": (4, 2.0),
    "pause": (3, 2.0),
    "sleep": (3, 2.0),
    "slow disk": (2, 4.0),
    "full disk": (1, 4.0),
    "broken disk": (1, 4.0),
    "clock": (2, 10.0),
    "storm": (3, 5.0),
    "transfer": (2, 0.0),
    "snapshot": (1, 0.0),
    "members": (2, 0.0),
}


#: What may concern all servers at once.
_OFTEN_MANY = {"crash", "snapshot", "partition", "slow disk", "pause"}

#: What puts servers, and sometimes clients, on two sides.
_SPLITS = {"partition", "silence", "deafness", "sleep"}


def draw_plan(
    random: Random,
    names: Sequence[ServerId],
    seconds: float,
    *,
    every: float = 1.0,
    kinds: Collection[str] | None = None,
) -> list[Fault]:
    """
    Return faults for so many *seconds*, in order.

    Args:
        random: Dice.
        names: The servers.
        seconds: When the last one has ended.
        every: How far apart they begin, on average, in seconds.
        kinds: Which; by default all of :data:`KINDS`.
    """
    chosen = [kind for kind in KINDS if kinds is None or kind in kinds]
    odds = [_ODDS[kind][0] for kind in chosen]
    faults: list[Fault] = []
    at = random.uniform(0.0, 2.0 * every)
    while at < seconds:
        kind = random.choices(chosen, odds)[0]
        lasts = min(random.uniform(0.0, _ODDS[kind][1]), seconds - at)
        servers = _draw_servers(random, names, kind)
        faults.append(Fault(at, lasts, kind, servers, _draw_amount(random, kind)))
        at += random.uniform(0.0, 2.0 * every)
    return faults


def _draw_servers(
    random: Random, names: Sequence[ServerId], kind: str
) -> tuple[ServerId, ...]:
    if kind in {"storm", "transfer"}:
        return ()
    if kind == "broken link":
        return tuple(random.sample(names, 2)) if len(names) > 1 else (names[0],) * 2
    most = len(names) if kind in _OFTEN_MANY else 2
    if kind == "members":
        return tuple(random.sample(names, random.randint(1, len(names))))
    # Few at a time is what happens most, and what clusters have to survive.
    count = min(random.randint(1, most), random.randint(1, most))
    chosen = tuple(random.sample(names, min(count, len(names))))
    if random.random() < 0.4:
        return (LEADER, *chosen[1:])
    return chosen


def _draw_amount(random: Random, kind: str) -> float:
    if kind == "slow disk":
        return random.choice([0.02, 0.1, 0.5, 2.0])
    if kind == "clock":
        return random.uniform(-0.04, 0.04)
    if kind == "members" or kind in _SPLITS:
        return random.choice([0.0, 0.5, 1.0])
    if kind == "storm":
        return random.choice([0.1, 0.3, 0.8])
    return 0.0


def play(cluster: SimulatedCluster, faults: Collection[Fault]) -> None:
    """Let *faults* begin and end at their times, from now on."""
    now = cluster.now
    for fault in faults:
        cluster.time.at(now + fault.at, _begin, cluster, fault)


def _begin(cluster: SimulatedCluster, fault: Fault) -> None:
    meant = _resolved(cluster, fault)
    cluster.trace.note("fault: {}", meant)
    end = KINDS[fault.kind](cluster, meant)
    cluster.time.at(cluster.now + fault.lasts, _end, cluster, meant, end)


def _end(cluster: SimulatedCluster, fault: Fault, end: Callable[[], None]) -> None:
    cluster.trace.note("over: {}", fault)
    end()


def _resolved(cluster: SimulatedCluster, fault: Fault) -> Fault:
    """Return *fault* with the leader's name, of the moment."""
    if LEADER not in fault.servers:
        return fault
    leader = cluster.leader_now()
    name = cluster.names[0] if leader is None else leader.name
    named = [name if each == LEADER else each for each in fault.servers]
    servers = tuple(dict.fromkeys(named))
    return Fault(fault.at, fault.lasts, fault.kind, servers, fault.amount)
