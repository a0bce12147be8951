"""Tests of the simulator's parts: its disk and its network pass the suites."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, ClassVar

from twisted.trial.unittest import TestCase

from consensus.core.values import Identity
from consensus.testing.sim_disk import SimulatedDisk, SimulatedStorage
from consensus.testing.sim_network import (
    Conditions,
    SimulatedNetwork,
    SimulatedTransport,
)
from consensus.testing.sim_time import Host, VirtualTime
from consensus.testing.storage import StorageSuite
from consensus.testing.transport import TransportSuite

if TYPE_CHECKING:
    from pathlib import Path

    from consensus.core.values import Address, ServerId
    from consensus.interfaces import Storage, Transport


class SimulatedTransportSuiteTests(TransportSuite, TestCase):
    """The conformance suite, on a network in which nothing goes wrong."""

    def setUp(self) -> None:
        self.time = VirtualTime()
        self.network = SimulatedNetwork(self.time, Random(1), Conditions())  # noqa: S311 - reproducible, not secret

    def make_transport(self) -> Transport:
        host = Host(self.time, "a client")
        return SimulatedTransport(self.network, host, host)

    def address(self, name: ServerId) -> Address:
        return f"place of {name}"

    async def settle(self, seconds: float = 0.0) -> None:
        self.time.advance(self.time.now + seconds + 0.02)


class SimulatedStorageSuiteTests(StorageSuite):
    """The conformance suite, on a disk that does what it should."""

    disks: ClassVar[dict[Path, SimulatedDisk]] = {}

    def disk(self, directory: Path) -> SimulatedDisk:
        """Return the disk of that name, always the same."""
        if directory not in self.disks:
            identity = Identity("c", "s1", "first")
            random = Random(1)  # noqa: S311 - reproducible, not secret
            self.disks[directory] = SimulatedDisk(
                directory, identity, random, lands=True, tears=False
            )
        return self.disks[directory]

    def make(self, directory: Path) -> Storage:
        return SimulatedStorage(self.disk(directory))

    def crash(self, directory: Path, copy: Path) -> None:
        """Let a copy of the disk crash."""
        copy.mkdir(exist_ok=True)
        of, to = self.disk(directory), self.disk(copy)
        to.durable, to.live = of.durable.copy(), of.live.copy()
        to._pending, to._landing = list(of._pending), list(of._landing)
        to.crash()
