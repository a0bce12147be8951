"""
Server processes on loopback, with fresh data directories.

A cluster is used in a ``with`` statement: whatever happens, its processes do
not outlive it.
"""

from __future__ import annotations

import random
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from tests.bench.control import PATIENCE, BenchError, Child
from tests.bench.figures import Sample
from tests.bench.machine import Meter

# A failed leader is mourned for no longer; then the cluster counts as lost.
_HOPE = 30.0

# A load that ends after so many operations, not seconds, takes no longer.
_LONGEST_LOAD = 1800.0

# How often the bench looks whether the servers agree.
_GLANCE = 0.02

_LOWEST_PORT = 10_000


def free_ports(count: int) -> list[int]:
    """
    Return ports that nobody listens on, and that no connection will take.

    A server that was killed needs its port again; so they are below those that
    the kernel gives to outgoing connections.

    Raises:
        BenchError: There are not as many.
    """
    limits = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="utf-8")
    highest = max(int(limits.split()[0]) - 1, _LOWEST_PORT + 1000)
    found: list[int] = []
    with ExitStack() as stack:
        for port in random.sample(range(_LOWEST_PORT, highest), 20 * count):
            each = stack.enter_context(socket.socket())
            try:
                each.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
            if len(found) == count:
                return found
    message = f"there are no {count} free ports"
    raise BenchError(message)


class Cluster:
    """
    Servers of ours, with a storage.

    Args:
        directory: Empty; where data and logs go.
        storage: The engine.
        members: How many servers.
        keys: Further keys of the config.
    """

    #: What runs in each process.
    module = "tests.bench.member"

    def __init__(
        self, directory: Path, storage: str, members: int = 3, **keys: Any
    ) -> None:
        self.directory = directory
        ports = free_ports(members)
        self.ports = {f"s{number}": port for number, port in enumerate(ports, 1)}
        self.addresses = {
            name: f"tcp:127.0.0.1:{port}" for name, port in self.ports.items()
        }
        self.config = {
            "cluster": "bench",
            "members": self.addresses,
            "storage": storage,
            "transport": "amp",
            "data_dir": str(directory / "data"),
            **keys,
        }
        self.running: dict[str, Child] = {}
        self.others: list[Child] = []

    def __enter__(self) -> Self:
        """Start the servers, and wait for a leader."""
        try:
            self.start(*self.ports)
            self.settle()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Kill everything."""
        self.end()

    def end(self) -> None:
        """Kill everything; nothing that is on these disks is of any use."""
        for each in [*self.running.values(), *self.others]:
            each.kill()

    def client(self) -> Child:
        """Start a process with a client of the servers."""
        made = Child.python(
            "client",
            "tests.bench.kv_client",
            self.directory / "client.log",
            {"addresses": list(self.addresses.values())},
        )
        self.others.append(made)
        return made

    def restart(self, name: str) -> tuple[float, float]:
        """
        Start *name* again, and wait until it has caught up.

        Returns:
            The seconds that it took, from the beginning of the process and
            from that of the server in it.
        """
        target = self.leader.ask("status")["commit"]
        began = time.monotonic()
        server_began = self.start(name)
        done = self.running[name].ask("catch_up", index=target)
        return done - began, done - server_began

    def kill(self, name: str) -> None:
        """Kill the process of *name*."""
        self.running.pop(name).kill()

    def spawn(self, name: str) -> Child:
        """Start the process of *name*; its server waits to be told to start."""
        self.running[name] = Child.python(
            name,
            self.module,
            self.directory / f"{name}.log",
            {"name": name, "config": self.config},
        )
        return self.running[name]

    def start(self, *names: str) -> float:
        """
        Start the servers of *names*, each in a new process.

        Returns:
            When the last of the servers began to start, its process being up.
        """
        started = [self.spawn(name) for name in names]
        numbers = [(each, each.send("start")) for each in started]
        return max(float(each.wait(number)) for each, number in numbers)

    def settle(self) -> str:
        """
        Wait until all that run agree on a leader and have applied as much.

        Returns:
            Who leads.
        """
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            known = [each.ask("status") for each in self.running.values()]
            leaders = {each["leader"] for each in known}
            if len(leaders) == 1 and leaders <= self.running.keys():
                applied = {each["applied"] for each in known}
                if len(applied) == 1 and max(applied):
                    return str(leaders.pop())
            time.sleep(_GLANCE)
        message = f"the servers do not agree: {known}"
        raise BenchError(message)

    @property
    def leader(self) -> Child:
        """Return the process whose server leads."""
        return self.running[self.settle()]

    @property
    def followers(self) -> list[Child]:
        """Return the other processes."""
        leader = self.leader
        return [each for each in self.running.values() if each is not leader]

    def driver(self) -> Child:
        """Return the process that the load runs in: the leader's own."""
        return self.leader

    def meter(self) -> Meter:
        """Begin to count what the servers use, the leader's first."""
        return Meter([self.leader.pid, *(each.pid for each in self.followers)])

    def puts(self, outstanding: int, **shape: Any) -> Sample:
        """Write in a closed loop; *shape* says for how long, and how much."""
        return self.sample("puts", outstanding=outstanding, **shape)

    def reads(self, outstanding: int, **shape: Any) -> Sample:
        """Read in a closed loop, linearizably."""
        return self.sample("reads", outstanding=outstanding, **shape)

    def sample(
        self,
        action: str,
        *,
        at: Child | None = None,
        patience: float = PATIENCE,
        **shape: Any,
    ) -> Sample:
        """
        Return what a load measured.

        Args:
            action: Of the process that issues it.
            at: That process; by default the :meth:`driver`.
            patience: How long it may take to finish.
            shape: What the load is.

        Raises:
            BenchError: Operations failed, other than by being refused because
                there were too many.
        """
        driver = self.driver() if at is None else at
        number = self.begin(driver, action, **shape)
        timeout = shape.get("seconds", _LONGEST_LOAD) + patience
        sample = Sample(**driver.wait(number, timeout))
        unexpected = sample.errors.keys() - {"OverloadedError"}
        if unexpected or not sample.count:
            message = f"{driver.name}: only {sample.count} succeeded: {sample.errors}"
            raise BenchError(message)
        return sample

    def begin(self, driver: Child, action: str, **shape: Any) -> int:
        """Begin a load; return what the driver's answer is waited for with."""
        return driver.send(action, **shape)

    def fail_over(self) -> dict[str, float]:
        """
        Kill the leader, and start it again afterwards.

        Returns:
            The seconds until another led (``led``) and until a write was
            acknowledged there (``acknowledged``).
        """
        leader = self.leader
        del self.running[leader.name]
        survivors = list(self.running.values())
        # At no particular moment between two heartbeats.
        time.sleep(random.uniform(0.05, 0.15))  # noqa: S311 - no secret
        killed = time.monotonic()
        leader.process.kill()
        watches = self.watch(survivors, leader.name)
        leader.kill()
        found = self._first(watches)
        while found is None and time.monotonic() < killed + _HOPE:
            # Each took another for the leader, who lost its office at once.
            found = self._first(self.watch(survivors, leader.name))
        if found is None:
            message = f"nobody led within {_HOPE:g} s of the leader's death"
            raise BenchError(message)
        self.start(leader.name)
        self.settle()
        return {key: moment - killed for key, moment in found.items()}

    def watch(self, survivors: list[Child], dead: str) -> list[tuple[Child, int]]:
        """Begin to look when one of *survivors* leads instead of *dead*."""
        return [
            (each, each.send("watch", dead=dead, seconds=_HOPE)) for each in survivors
        ]

    def _first(self, watches: list[tuple[Child, int]]) -> dict[str, float] | None:
        """Return what the first of those found that found anything."""
        found = [each.wait(number, 2 * _HOPE) for each, number in watches]
        times = [each for each in found if each]
        return min(times, key=lambda each: each["acknowledged"], default=None)
