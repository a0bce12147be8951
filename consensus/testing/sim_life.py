"""
The servers of a simulation: they start, crash, pause, and lose their disks.

What passes between them, and what is expected of them, is
:mod:`consensus.testing.simulator`'s.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from twisted.python.failure import Failure

from consensus.config import Engine, from_mapping
from consensus.core.values import Identity
from consensus.declare import as_machine
from consensus.errors import StorageError
from consensus.testing.invariants import BrokenInvariantError, Invariants
from consensus.testing.sim_disk import (
    SimulatedDisk,
    SimulatedMemory,
    SimulatedStorage,
)
from consensus.testing.sim_network import (
    Conditions,
    SimulatedNetwork,
    SimulatedTransport,
)
from consensus.testing.sim_server import SimulatedServer
from consensus.testing.sim_time import Host, VirtualTime
from consensus.testing.sim_trace import Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from twisted.internet.defer import Deferred

    from consensus.config import Config
    from consensus.core.values import ServerId

#: How long to wait, in virtual seconds, for what must come.
PATIENCE = 30.0

#: How often states are compared with what the log makes of them, in seconds.
_COMPARE = 1.0


class SimulationError(AssertionError):
    """
    A run broke a promise.

    Args:
        reason: Which.
        seed: Of the run.
        trace: The last events.
    """

    def __init__(self, reason: str, seed: int, trace: str) -> None:
        super().__init__(f"{reason}\nseed {seed}; the last events were:\n{trace}")
        self.reason = reason
        self.seed = seed
        self.trace = trace


class ClusterLife:
    """
    Some servers, their disks, and the time in which they live.

    The arguments are those of :class:`.SimulatedCluster`.
    """

    def __init__(
        self,
        machine: type,
        servers: int | Collection[ServerId] = 3,
        *,
        seed: int = 0,
        config: Mapping[str, Any] | None = None,
        conditions: Conditions | None = None,
        drift: float = 0.02,
        sync: tuple[float, float] = (0.0, 0.002),
        machine_directory: Path | None = None,
        compares: bool = True,
        durable: bool = True,
    ) -> None:
        if isinstance(servers, int):
            servers = [f"s{number}" for number in range(1, servers + 1)]
        self.machine = as_machine(machine)
        self.seed = seed
        #: All that were ever started.
        self.names = tuple(servers)
        self.time = VirtualTime()
        self.trace = Trace(self.time)
        self.network = SimulatedNetwork(
            self.time, self.dice("network"), conditions or Conditions()
        )
        self.network.seen = self.trace.message
        self.disks: dict[ServerId, SimulatedDisk] = {}
        #: Those that run.
        self.servers: dict[ServerId, SimulatedServer] = {}
        self._config = dict(config or {})
        self._drift = drift
        self._sync = sync
        self._machine_directory = machine_directory
        self._storage = SimulatedStorage if durable else SimulatedMemory
        # What each server was started with last, beside the common keys.
        self._keys: dict[ServerId, dict[str, Any]] = {}
        self.invariants = Invariants(self.disks, self.machine if compares else None)
        self._lives = 0
        self._error: BaseException | None = None
        self._compared_at = 0.0
        members = {name: name for name in self.names}
        for name in self.names:
            self.start(name, members=members)

    def dice(self, name: str) -> Random:
        """Return what *name* draws from; whatever else happens, it is the same."""
        return Random(f"{self.seed}/{name}")  # noqa: S311 - reproducible, not secret

    # --- time --------------------------------------------------------------

    @property
    def now(self) -> float:
        """Return the virtual time, in seconds."""
        return self.time.now

    def run(self, seconds: float) -> None:
        """
        Let time pass.

        Raises:
            SimulationError: Something went wrong that must never.
        """
        self._advance(self.time.now + seconds)

    def until(self, is_so: Callable[[], Any], seconds: float = PATIENCE) -> None:
        """
        Let time pass until it is so.

        Raises:
            SimulationError: It did not come to that in so many seconds.
        """
        end = self.time.now + seconds
        while not is_so():
            if self.time.now >= end:
                self.fail(f"it was not so after {seconds:g} seconds")
            self._advance(self.time.now + 0.005)

    def result(self, waiting: Deferred[Any], seconds: float = PATIENCE) -> Any:
        """Let time pass until *waiting* fires; return or raise its result."""
        box: list[Any] = []
        waiting.addBoth(box.append)
        self.until(lambda: box, seconds)
        if isinstance(box[0], Failure):
            box[0].raiseException()
        return box[0]

    def _advance(self, end: float) -> None:
        while self.time.now < end:
            try:
                self.time.advance(min(end, self._compared_at + _COMPARE))
                if self.time.now >= self._compared_at + _COMPARE:
                    self.compare()
            except SimulationError:
                raise
            except Exception as error:  # noqa: BLE001 - reported with the trace
                self.broke(error)
            self._raise()

    def _raise(self) -> None:
        error = self._error
        if error is not None:
            reason = str(error)
            if not isinstance(error, AssertionError):
                reason = f"{type(error).__name__}: {error}"
            raise SimulationError(reason, self.seed, self.trace.text()) from error

    def fail(self, reason: str) -> None:
        """
        End the run, with its seed and its trace.

        Raises:
            SimulationError: Always.
        """
        raise SimulationError(reason, self.seed, self.trace.text())

    def broke(self, error: BaseException) -> None:
        """End the run because of *error*, when this step is over."""
        self._error = self._error or error

    def compare(self) -> None:
        """Compare each server's state with what the log makes of it."""
        self._compared_at = self.time.now
        appliers = [
            (name, server.applier)
            for name, server in self.servers.items()
            if server.applier is not None
            and server.raft is not None
            and server.raft.state.restoring is None
        ]
        try:
            self.invariants.compare(appliers)
        except BrokenInvariantError as error:
            self.broke(error)
        self._raise()

    # --- servers -----------------------------------------------------------

    def start(self, name: ServerId, **keys: Any) -> SimulatedServer:
        """
        Start *name* on its disk, or a new one; it need not be ready yet.

        Args:
            name: Of the server.
            **keys: Of its config; by default, those of its last start.
        """
        self._lives += 1
        keys = self._keys[name] = keys or self._keys.get(name, {})
        if name not in self.disks:
            self.names = tuple(dict.fromkeys([*self.names, name]))
            self.disks[name] = self._new_disk(name)
        config = self._config_of(name, keys)
        dice = self.dice(f"{name}, {self._lives}")
        rate = 1.0 + dice.uniform(-self._drift, self._drift)
        host = Host(self.time, name, rate, partial(self._look, name))
        server = SimulatedServer(
            config,
            host,
            self.disks[name],
            dice,
            self._directory_of(name),
            self.trace.event,
        )
        server.on_failure = self._stopped_itself
        self.invariants.forget(name)
        self.servers[name] = server
        self.trace.note("{} starts", name)
        server.startService()
        return server

    def _new_disk(self, name: ServerId) -> SimulatedDisk:
        cluster = str(self._config.get("cluster", "raft"))
        identity = Identity(cluster, name, f"{name} of {self._lives}")
        disk = SimulatedDisk(Path(name), identity, self.dice(f"disk of {name}"))
        disk.delay = self._sync
        disk.appended = partial(self.invariants.appended, name)
        disk.saved = partial(self.invariants.saved, name)
        return disk

    def _directory_of(self, name: ServerId) -> Path | None:
        if self._machine_directory is None:
            return None
        path = self._machine_directory / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _config_of(self, name: ServerId, keys: Mapping[str, Any]) -> Config:
        members = {each: each for each in self.names}
        mapping = {
            "members": members,
            "storage": {"engine": self._storage},
            "transport": {"engine": SimulatedTransport},
            **self._config,
            **keys,
        }
        config = from_mapping(mapping, name=name, state_machine=self.machine)
        network = Engine("simulated", SimulatedTransport, self.network)
        disk = Engine("simulated", self._storage, self.disks.get(name))
        return replace(config, transport=network, storage=disk)

    def _look(self, name: ServerId) -> None:
        server = self.servers.get(name)
        if server is not None:
            raft = server.raft
            if raft is not None:
                self.invariants.look(name, raft)

    def _stopped_itself(self, server: SimulatedServer, error: Exception) -> None:
        self.trace.note("{} stops: {!r}", server.name, error)
        is_meant = isinstance(error, StorageError) and str(error) == server.disk.failure
        if is_meant:
            self.time.at(self.time.now, self._give_up, server)
        else:
            text = f"{type(error).__name__}: {error}"
            self.broke(AssertionError(f"{server.name} has stopped by itself: {text}"))

    def _give_up(self, server: SimulatedServer) -> None:
        """Let the process of *server* end; start it again if its disk works."""
        name = server.name
        if self.servers.get(name) is server:
            self.crash(name)
            if not self.disks[name].is_broken:
                self.restart(name)

    def stop(self, name: ServerId) -> None:
        """Stop *name* as a good operator does."""
        server = self.servers[name]
        self.trace.note("{} is stopped", name)
        self.result(server.stopService())
        self.servers.pop(name, None)
        server.host.kill()
        self._left(name)

    def crash(self, *names: ServerId) -> None:
        """
        Let *names* die now; what they had not synced is lost, or some of it.

        Those that do not run are left as they are.
        """
        for name in names:
            server = self.servers.pop(name, None)
            if server is not None:
                self.trace.note("{} crashes", name)
                server.host.kill()
                server.transport.die()
                server.disk.crash()
                self._left(name)

    def _left(self, name: ServerId) -> None:
        if not self._storage.durable:
            self._replace_disk(name)

    def wipe(self, *names: ServerId) -> None:
        """
        Let *names* die now, and their disks with them.

        Started again, each has a new, empty disk and asks to be taken in; that
        takes a majority whose disks are whole.
        """
        self.crash(*names)
        for name in names:
            self.trace.note("{} has lost its disk", name)
            self._replace_disk(name)

    def _replace_disk(self, name: ServerId) -> None:
        self._lives += 1
        former = self.disks[name]
        disk = self.disks[name] = self._new_disk(name)
        disk.former = former, *former.former
        if self._machine_directory is not None:
            shutil.rmtree(self._machine_directory / name)

    def can_spare(self, name: ServerId) -> bool:
        """
        Say whether the disk of *name* may get lost, and nothing else with it.

        All servers run and agree on who belongs to them, the others are a
        majority, and none of them has to be taken in anew itself.
        """
        rafts = [each.raft for each in self.servers.values() if not each.host.pauses]
        states = [raft.state for raft in rafts if raft is not None]
        if len(states) < len(self.names):
            return False
        newest = max(states, key=lambda state: state.membership_index)
        membership, index = newest.membership, newest.membership_index
        voters = membership.voters
        return (
            name in voters
            and len(voters) > 2
            and not (membership.is_joint or membership.target)
            and index <= len(self.invariants.committed)
            and all(
                state.membership_index == index
                for state in states
                if state.server in voters
            )
            and self.is_whole(self.servers[newest.server])
        )

    def is_whole(self, server: SimulatedServer) -> bool:
        """Say whether all that vote by what *server* knows have the disks they had."""
        if server.raft is None:
            return False
        membership = server.raft.state.membership
        for name in membership.electors():
            disk = self.disks[name]
            meant = membership.incarnations.get(name)
            if disk.former and meant != disk.identity.incarnation:
                return False
        return True

    def restart(self, *names: ServerId) -> None:
        """Start *names* again after a crash; whoever runs goes on."""
        for name in names:
            if name not in self.servers:
                self.start(name)

    def pause(self, *names: ServerId) -> None:
        """Let nothing happen in *names*, while their clocks go on."""
        for name in names:
            self.trace.note("{} is paused", name)
            self.servers[name].host.pause()

    def resume(self, *names: ServerId) -> None:
        """End a pause; all that is due happens at once."""
        for name in names:
            server = self.servers.get(name)
            if server is not None and server.host.pauses:
                self.trace.note("{} goes on", name)
                server.host.resume()

    # --- disks -------------------------------------------------------------

    def fill_disk(self, name: ServerId) -> None:
        """Leave no room on the disk of *name*."""
        self.trace.note("the disk of {} is full", name)
        self.disks[name].is_full = True

    def fail_disk(self, name: ServerId) -> None:
        """Let all writes of *name* fail; it is going to stop."""
        self.trace.note("the disk of {} fails", name)
        self.disks[name].is_broken = True

    def slow_disk(self, name: ServerId, shortest: float, longest: float) -> None:
        """Let each sync of *name* take so many seconds."""
        self.trace.note("a sync of {} takes up to {:.3f} s", name, longest)
        self.disks[name].delay = (shortest, longest)

    def repair_disk(self, name: ServerId) -> None:
        """Let the disk of *name* work again; restart it if that had stopped it."""
        self.trace.note("the disk of {} is all right", name)
        disk = self.disks[name]
        disk.is_full = disk.is_broken = False
        disk.delay = self._sync
        server = self.servers.get(name)
        if server is not None and not server.running:
            self.crash(name)
        self.restart(name)
