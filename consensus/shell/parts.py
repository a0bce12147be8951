"""What a server is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from consensus.config import Config
    from consensus.core.raft import Raft
    from consensus.interfaces import StateMachine, Storage, Transport
    from consensus.shell.events import Events
    from consensus.shell.worker import StorageWorker
    from consensus.snapshots.files import SnapshotStore
    from consensus.telemetry.measurements import Measurements


@dataclass(frozen=True, slots=True)
class Parts:
    """
    What a server is made of.

    Args:
        raft: What is driven.
        config: Of the server.
        machine: What commands are applied to.
        storage: Open.
        worker: Who calls *storage*.
        snapshots: Open.
        snapshot_worker: Who calls *snapshots*.
        transport: Listening.
        reactor: For "on the next turn".
        clock: What everything that times out goes by.
        events: Where it is remembered what happens.
        measurements: Where it is counted.
    """

    raft: Raft
    config: Config
    machine: StateMachine
    storage: Storage
    worker: StorageWorker
    snapshots: SnapshotStore
    snapshot_worker: StorageWorker
    transport: Transport
    reactor: Any
    clock: Any
    events: Events
    measurements: Measurements
