"""
What is measured: a function for each scenario, and a table of them.

A scenario is run several times on each system, in turns.  It starts a cluster
of its own each time, and notes figures under the names that the report shows.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tests.bench import machine
from tests.bench.control import BenchError, RefusedError
from tests.bench.figures import Sample, quantiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.bench.cluster import Cluster


@dataclass(frozen=True, slots=True)
class Plan:
    """
    How much is measured.

    Args:
        runs: How often each scenario is run on each system.
        seconds: How long each load lasts.
        warm_up: How long before, for nothing.
        kills: How often a leader is killed in each run.
        elections: How often it is, where this is all that is measured.
        entries: How long a log is when a server is restarted.
        growth: How many writes show whether a log grows for ever.
        state_mib: How large a state is written down while it is used.
    """

    runs: int = 5
    seconds: float = 5.0
    warm_up: float = 2.0
    kills: int = 3
    elections: int = 20
    entries: int = 1_000_000
    growth: int = 2_000_000
    state_mib: int = 1024


FULL = Plan()
QUICK = Plan(
    runs=3,
    seconds=1.0,
    warm_up=0.5,
    kills=1,
    elections=5,
    entries=100_000,
    growth=100_000,
    state_mib=32,
)

_MIB = 1 << 20

# No snapshot but those that are asked for.
_NO_SNAPSHOTS = {"every_entries": 1 << 40, "every_bytes": 1 << 50}


@dataclass(frozen=True, slots=True)
class System:
    """
    Something that can be measured.

    Args:
        name: In the report.
        make: Makes a cluster of it in a directory, of so many members, with
            further keys of the config.
        is_ours: Whether it knows those keys, and every scenario.
        can_read: Whether it has linearizable reads.
        remark: What a reader of its figures has to know.
    """

    name: str
    make: Callable[..., Cluster]
    is_ours: bool = True
    can_read: bool = True
    remark: str = ""


@dataclass(slots=True)
class Run:
    """
    One run of one scenario on one system.

    Args:
        system: What is measured.
        plan: How much.
        place: Where directories are made.
        figures: What was found, by name; the unit is part of the name.
        samples: The loads that are worth a plot, by name.
        remarks: What cannot be said in a figure.
    """

    system: System
    plan: Plan
    place: Path
    figures: dict[str, float] = field(default_factory=dict)
    samples: dict[str, Sample] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @contextmanager
    def cluster(self, members: int = 3, **keys: Any) -> Iterator[Cluster]:
        """Run a cluster; *keys* are further ones of the config."""
        with (
            TemporaryDirectory(prefix="bench-", dir=self.place) as directory,
            self.system.make(Path(directory), members=members, **keys) as made,
        ):
            yield made

    def puts(
        self, cluster: Cluster, outstanding: int, title: str = "", **shape: Any
    ) -> Sample:
        """Warm up, write, and note rate and latencies under *title*."""
        shape.setdefault("seconds", self.plan.seconds)
        warm_up = shape | {"seconds": self.plan.warm_up}
        cluster.puts(outstanding, **warm_up)
        sample = cluster.puts(outstanding, **shape)
        return self.note(sample, title or str(outstanding))

    def note(self, sample: Sample, title: str, what: str = "puts") -> Sample:
        """Note what *sample* says under *title*."""
        self.figures[f"{what}/s, {title}"] = sample.rate
        self.figures[f"p50 ms, {what} {title}"] = sample.percentile(50)
        self.figures[f"p99 ms, {what} {title}"] = sample.percentile(99)
        self.samples[f"{what} {title}"] = sample
        return sample


def core(run: Run) -> None:
    """Measure what systems are compared by first."""
    with run.cluster() as cluster:
        run.puts(cluster, 1)
        cluster.puts(64, seconds=run.plan.warm_up)
        meter = cluster.meter()
        sample = run.note(cluster.puts(64, seconds=run.plan.seconds), "64")
        _note_use(run, meter.cpu(), meter.written(), sample.count)
        run.puts(cluster, 1024)
        if run.system.can_read:
            cluster.reads(64, seconds=run.plan.warm_up)
            run.note(cluster.reads(64, seconds=run.plan.seconds), "64", "reads")
        times = [cluster.fail_over() for _ in range(run.plan.kills)]
        run.figures["fail-over ms, leader killed"] = 1000 * median(
            each["acknowledged"] for each in times
        )


def _note_use(run: Run, cpu: list[float], written: list[int], puts: int) -> None:
    """Note what servers used for so many *puts* of 256 bytes, the leader's first."""
    scale = 10_000 / puts
    run.figures["CPU s per 10 k puts, all"] = sum(cpu) * scale
    run.figures["CPU s per 10 k puts, leader"] = cpu[0] * scale
    run.figures["CPU s per 10 k puts, a follower"] = sum(cpu[1:]) / len(cpu[1:]) * scale
    average = sum(written) / len(written)
    run.figures["bytes written per byte put, a server"] = average / (puts * (16 + 256))


def remote(run: Run) -> None:
    """Let a client in a fourth process write and read."""
    with run.cluster() as cluster:
        client = cluster.client()
        for session in (True, False):
            title = "64 with a session" if session else "64 without a session"
            run.puts(cluster, 64, title, at=client, session=session)
        cluster.reads(64, seconds=run.plan.warm_up, at=client)
        run.note(cluster.reads(64, seconds=run.plan.seconds, at=client), "64", "reads")


def value_sizes(run: Run) -> None:
    """Write small and large values, as far as they are taken."""
    sizes = {"16 B": 16, "256 B": 256, "4 KiB": 4096, "64 KiB": 65_536}
    sizes |= {"1023 KiB": _MIB - 1024, "1 MiB": _MIB}
    for title, size in sizes.items():
        outstanding = 64 if size <= 65_536 else 16
        # So that neither states nor logs take up all of the memory.
        keys, most = max(16, min(10_000, 64 * _MIB // size)), 512 * _MIB // size
        with run.cluster() as cluster:
            shape = {"size": size, "keys": keys, "count": most, "patience": 20}
            try:
                sample = run.puts(cluster, outstanding, title, **shape)
            except RefusedError as error:
                run.remarks.append(f"{title} is refused: {error}")
            except BenchError as error:
                if run.system.is_ours:
                    raise
                run.remarks.append(f"{title} failed: {error}")
            else:
                run.figures[f"MB/s, {title}"] = sample.rate * size / 1e6


def members(run: Run) -> None:
    """Write to clusters of three, five and seven."""
    for count in (3, 5, 7):
        with run.cluster(members=count) as cluster:
            run.puts(cluster, 64, f"64 at {count} members")


def growth(run: Run) -> None:
    """Write for long, with snapshots as often as they usually are, or oftener."""
    total = run.plan.growth
    every = min(100_000, total // 10)
    keys = {"every_entries": every, "keep_entries": every // 10}
    with run.cluster(snapshots=keys) as cluster:
        cluster.puts(256, seconds=run.plan.warm_up)
        sample = run.note(cluster.puts(256, count=total), f"256 for {total:,} writes")
        part = max(1, len(sample.rates) // 10)
        first, last = sum(sample.rates[:part]), sum(sample.rates[-part:])
        run.figures["last tenth of the time / first tenth"] = last / first
        used = sum(
            each.stat().st_blocks * 512
            for each in cluster.directory.rglob("*")
            if each.is_file()
        )
        run.figures["MiB on the disk at the end, a server"] = used / 3 / _MIB


def restart(run: Run) -> None:
    """Start a server that has a long log, without and with a snapshot."""
    entries = run.plan.entries
    with run.cluster(snapshots=_NO_SNAPSHOTS) as cluster:
        cluster.puts(64, seconds=run.plan.warm_up)
        pids = [cluster.leader.pid, *(each.pid for each in cluster.followers)]
        before = [machine.resident_bytes(pid) for pid in pids]
        cluster.puts(1024, count=entries)
        cluster.settle()
        grown = [
            (machine.resident_bytes(pid) - least) / entries
            for pid, least in zip(pids, before, strict=True)
        ]
        run.figures["MB of memory per 1,000,000 entries, leader"] = grown[0]
        run.figures["MB of memory per 1,000,000 entries, a follower"] = max(grown[1:])
        name = cluster.followers[0].name
        for how in ("log alone", "with a snapshot"):
            if how == "with a snapshot":
                cluster.running[name].ask("snapshot", timeout=600)
            cluster.kill(name)
            process, server = cluster.restart(name)
            title = f"{entries:,} entries, {how}"
            run.figures[f"restart s, server, {title}"] = server
            run.figures[f"restart s, whole process, {title}"] = process


def snapshot(run: Run) -> None:
    """Write a large state down while writes go on."""
    keys = run.plan.state_mib * 1024
    shape: dict[str, Any] = {"size": 1024, "keys": keys}
    with run.cluster(snapshots=_NO_SNAPSHOTS) as cluster:
        cluster.puts(1024, count=keys, **shape)
        run.note(cluster.puts(64, seconds=run.plan.seconds, **shape), "64 before")
        title = f"64 during a snapshot of {run.plan.state_mib} MiB"
        sample = cluster.sample("puts_beside_snapshot", outstanding=64, **shape)
        run.note(sample, title)
        run.figures["snapshot s"] = sample.seconds


def poisson(run: Run) -> None:
    """Let writes arrive when they do, 10,000 a second on average."""
    with run.cluster() as cluster:
        cluster.puts(64, seconds=run.plan.warm_up)
        sample = cluster.sample("arrivals", rate=10_000, seconds=run.plan.seconds)
        run.note(sample, "arriving 10,000 a second")


def overload(run: Run) -> None:
    """Ask for ten times as much as is taken."""
    for limit in (None, 1024):
        limits = {} if limit is None else {"max_pending_requests": limit}
        with run.cluster(limits=limits) as cluster:
            title = "no limit" if limit is None else f"{limit} admitted"
            peak = run.puts(cluster, 1024, f"1024, {title}")
            # Who is refused waits longer each time: it takes a while to settle.
            seconds = max(4.0, run.plan.seconds)
            most = run.puts(cluster, 10_240, f"10240, {title}", seconds=seconds)
            settled = fmean(most.rates[len(most.rates) // 2 :])
            run.figures[f"10240 / 1024, {title}"] = settled / peak.rate
            refused = most.errors.get("OverloadedError", 0)
            run.figures[f"refused/s, {title}"] = refused / most.seconds


def lame(run: Run) -> None:
    """Let a follower stand still, die, and catch up, while the others go on."""
    seconds = run.plan.seconds
    with run.cluster() as cluster:
        cluster.puts(64, seconds=run.plan.warm_up)
        leader, follower = cluster.leader, cluster.followers[0]

        def puts(title: str) -> Sample:
            sample = cluster.sample("puts", at=leader, outstanding=64, seconds=seconds)
            return run.note(sample, title)

        before = puts("64 undisturbed").rate
        follower.stop()
        rates = {"stands still": puts("64, a follower stands still").rate}
        follower.go_on()
        rates["goes on"] = puts("64, it goes on").rate
        cluster.settle()
        cluster.kill(follower.name)
        rates["is dead"] = puts("64, a follower is dead").rate
        cluster.start(follower.name)
        rates["catches up"] = puts("64, it catches up").rate
        cluster.settle()
        undisturbed = (before + puts("64 undisturbed again").rate) / 2
        for what, rate in rates.items():
            run.figures[f"of the undisturbed rate, it {what}"] = rate / undisturbed


# Election timeouts in seconds, each up to twice as long by lot; the first two
# are those of the dissertation's figures (§9.3).
_TIMEOUTS = {
    "12-24 ms": {"election_timeout": 0.012, "heartbeat_interval": 0.004},
    "150-300 ms": {"election_timeout": 0.15, "heartbeat_interval": 0.04},
    "default": {},
}


def elections(run: Run) -> None:
    """Kill leaders, and see how long it takes to have another."""
    for title, timing in _TIMEOUTS.items():
        with run.cluster(timing=timing) as cluster:
            cluster.puts(1, count=10)
            times = [cluster.fail_over() for _ in range(run.plan.elections)]
        for what in ("led", "acknowledged"):
            found = sorted(each[what] for each in times)
            sample = Sample(len(found), sum(found), quantiles(found))
            name = "leader" if what == "led" else "commit"
            run.figures[f"ms to a {name}, median, {title}"] = sample.percentile(50)
            run.figures[f"ms to a {name}, mean, {title}"] = 1000 * fmean(found)
            run.figures[f"ms to a {name}, most, {title}"] = 1000 * found[-1]
            run.samples[f"to a {name}: {title}"] = sample


@dataclass(frozen=True, slots=True)
class Scenario:
    """
    An entry of the table.

    Args:
        title: What it is about.
        run: Does it.
        for_rivals: Whether other systems can do it.
    """

    title: str
    run: Callable[[Run], None]
    for_rivals: bool = False


SCENARIOS: dict[str, Scenario] = {
    "core": Scenario(
        "puts at 1, 64 and 1024 outstanding, reads, what they cost, and fail-over",
        core,
        for_rivals=True,
    ),
    "remote": Scenario("a client over AMP, in a fourth process", remote),
    "values": Scenario("values of 16 B to 1 MiB", value_sizes, for_rivals=True),
    "members": Scenario("three, five and seven members", members, for_rivals=True),
    "growth": Scenario("a log that grows, with compaction", growth),
    "restart": Scenario("a restart with a long log, and memory", restart),
    "snapshot": Scenario("a snapshot of a large state, while serving", snapshot),
    "poisson": Scenario("10,000 arrivals a second", poisson, for_rivals=True),
    "overload": Scenario("ten times the load", overload),
    "lame": Scenario("a follower that is stopped, dead, or catching up", lame),
    "elections": Scenario("elections after the leader's death", elections),
}
