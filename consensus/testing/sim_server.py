"""A real server in a simulation: its process, its disk, and a way to look inside."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from consensus.core.values import EntryKind
from consensus.errors import StoppedError
from consensus.server import RaftServer
from consensus.shell.recovery import recover_in
from consensus.testing.sim_disk import SimulatedDirectory, SimulatedWorker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from random import Random

    from consensus.applying.applier import Applier
    from consensus.config import Config
    from consensus.core.raft import Raft
    from consensus.core.ready import Event
    from consensus.core.values import LogIndex, ServerId
    from consensus.shell.recovery import Recovered
    from consensus.shell.worker import StorageWorker
    from consensus.testing.sim_disk import SimulatedDisk
    from consensus.testing.sim_network import SimulatedTransport
    from consensus.testing.sim_time import Host


class SimulatedServer(RaftServer):
    """
    A :class:`.RaftServer`, on a simulated host and disk.

    Args:
        config: Its storage and transport are the simulation's.
        host: Its process.
        disk: What it keeps.
        random: Its dice.
        machine_directory: Where a machine on disk has its files.
        noticed: Called with what its core reports.
    """

    def __init__(  # noqa: PLR0917 - made in one place only
        self,
        config: Config,
        host: Host,
        disk: SimulatedDisk,
        random: Random,
        machine_directory: Path | None,
        noticed: Callable[[ServerId, Event], None],
    ) -> None:
        super().__init__(config, host.name, host, host, random.randrange)
        self.host = host
        self.disk = disk
        self._machine_directory = machine_directory
        self._noticed = noticed

    def recover(self) -> Recovered:
        """Open what is on the disk."""
        directory = SimulatedDirectory(self.disk, self._machine_directory)
        found = recover_in(directory, self._storage, lambda: self.disk.snapshots)
        # Without a durable storage there is no data directory.
        return found if self._storage.durable else replace(found, directory=None)

    def make_worker(
        self, clock: Any = None, on_full: Callable[[bool], None] | None = None
    ) -> StorageWorker:
        """Return one that takes as long as the disk does."""
        return SimulatedWorker(
            self.disk,
            clock is not None,
            self._storage,
            self._reactor,
            self._fail,
            clock,
            on_full,
        )

    def heard(self, event: Event) -> None:
        """Pass it on to the simulation, too."""
        super().heard(event)
        self._noticed(self.name, event)

    def companion(self) -> None:
        """Run nothing beside it: there is nobody outside of the simulation."""

    @property
    def raft(self) -> Raft | None:
        """Return its core, while it runs."""
        return None if self._driver is None else self._driver.raft

    @property
    def applier(self) -> Applier | None:
        """Return what applies its entries, while it runs."""
        return None if self._driver is None else self._driver.applier

    @property
    def state(self) -> Any:
        """
        Return the state of its state machine.

        Raises:
            StoppedError: It does not run.
        """
        return self._running().applier.state

    @property
    def transport(self) -> SimulatedTransport:
        """Return its end of the network."""
        transport: SimulatedTransport = self._transport
        return transport

    def probe(self) -> LogIndex:
        """
        Write an entry that means nothing; return its index.

        Raises:
            NotLeaderError: It does not lead.
            StoppedError: It does not run.
        """
        driver = self._driver
        if driver is None:
            message = f"{self.name} does not run"
            raise StoppedError(message)
        index = driver.raft.propose([b""], [EntryKind.NOOP])
        driver.schedule()
        return index
