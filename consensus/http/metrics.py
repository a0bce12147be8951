"""
What a server counts, in Prometheus' format.

Nothing here happens unless somebody asks: the numbers are read where they are
counted, as plain integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from consensus.core.values import Role
from consensus.http.routes import Answer, Route
from consensus.telemetry.histogram import LONG_SECONDS, SECONDS, SIZES
from consensus.telemetry.peers import peers_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from consensus.http.routes import Call
    from consensus.http.servants import Subject
    from consensus.shell.driver import Driver
    from consensus.telemetry.histogram import Histogram

#: In front of every metric's own labels.
OWN = ("cluster", "server")

#: The labels' values, and the number or histogram.
Sample = tuple[tuple[str, ...], Any]


@dataclass(frozen=True, slots=True)
class Metric:
    """
    One metric.

    Args:
        name: Without ``_total``, which a counter's gets.
        kind: ``gauge``, ``counter`` or ``histogram``.
        text: What it says.
        read: Yields its samples; of one that the running server has, from its
            driver, otherwise from the server.
        labels: Besides those that every metric has.
        bounds: Of a histogram's buckets.
        is_driven: Whether only a running server has it.
    """

    name: str
    kind: str
    text: str
    read: Callable[[Any], Iterable[Sample]]
    labels: tuple[str, ...] = ()
    bounds: Sequence[float] = ()
    is_driven: bool = True

    @property
    def full_name(self) -> str:
        """Return the name as Prometheus has it."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


def _one(read: Callable[[Any], Any]) -> Callable[[Any], Iterable[Sample]]:
    """Return what yields the one number that *read* gives."""
    return lambda source: [((), read(source))]


def _gauge(name: str, text: str, read: Callable[[Driver], Any]) -> Metric:
    return Metric(name, "gauge", text, _one(read))


def _driven(name: str, text: str, read: Callable[[Driver], Any]) -> Metric:
    return Metric(name, "counter", text, _one(read))


def _counted(name: str, text: str, read: Callable[[Any], Any]) -> Metric:
    """Return a counter that *read* gives of the measurements."""
    found = _one(lambda server: read(server.measurements))
    return Metric(name, "counter", text, found, is_driven=False)


def _measured(
    name: str, text: str, attribute: str, bounds: Sequence[float] = SECONDS
) -> Metric:
    """Return the histogram that the measurements have as *attribute*."""
    found = _one(lambda server: getattr(server.measurements, attribute))
    return Metric(name, "histogram", text, found, bounds=bounds, is_driven=False)


def _roles(driver: Driver) -> Iterator[Sample]:
    for role in Role:
        yield (role.value,), int(driver.raft.state.role is role)


def _members(driver: Driver) -> Iterator[Sample]:
    membership = driver.raft.state.membership
    yield ("voter",), len(membership.voters)
    yield ("learner",), len(membership.learners)


def _peers(attribute: str) -> Callable[[Driver], Iterable[Sample]]:
    def found(driver: Driver) -> Iterator[Sample]:
        for peer in peers_of(driver.raft.state, driver.tick):
            yield (peer.server,), getattr(peer, attribute)

    return found


def _peer(name: str, text: str, attribute: str) -> Metric:
    return Metric(name, "gauge", text, _peers(attribute), ("peer",))


def _queues(driver: Driver) -> Iterator[Sample]:
    writes, reads = driver.waiting
    yield ("writes",), writes
    yield ("reads",), reads
    yield ("storage",), driver.parts.worker.depth
    yield ("snapshots",), driver.parts.snapshot_worker.depth
    yield ("syncs",), len(driver.disk.writing)


def _by_label(attribute: str) -> Callable[[Subject], Iterable[Sample]]:
    def found(server: Subject) -> Iterator[Sample]:
        for label, count in sorted(getattr(server.measurements, attribute).items()):
            yield (label,), count

    return found


def _traffic(name: str, text: str, attribute: str) -> Metric:
    def found(driver: Driver) -> Any:
        return getattr(driver.parts.transport.traffic(), attribute)

    return Metric(f"raft_transport_{name}", "counter", text, _one(found))


#: All of them, in the order of docs/reference/metrics.md.
METRICS = (
    Metric(
        "raft_up",
        "gauge",
        "1 while the server runs, 0 when it has stopped or failed.",
        _one(lambda server: int(server.driver is not None)),
        is_driven=False,
    ),
    Metric("raft_role", "gauge", "1 for the role that it has.", _roles, ("role",)),
    _gauge("raft_term", "Its term.", lambda driver: driver.raft.state.term),
    _gauge(
        "raft_has_leader",
        "1 if it knows who leads.",
        lambda driver: int(driver.raft.state.leader is not None),
    ),
    _counted(
        "raft_leader_changes",
        "How often it found another leader.",
        lambda measured: measured.leader_changes,
    ),
    Metric(
        "raft_members", "gauge", "Who belongs to the cluster.", _members, ("standing",)
    ),
    _gauge(
        "raft_first_index",
        "The first entry of its log.",
        lambda driver: driver.raft.state.log.base_index + 1,
    ),
    _gauge(
        "raft_last_index",
        "The last entry of its log.",
        lambda driver: driver.raft.state.log.last_index,
    ),
    _gauge(
        "raft_commit_index",
        "The last entry that it knows to be committed.",
        lambda driver: driver.raft.state.log.commit_index,
    ),
    _gauge(
        "raft_applied_index",
        "The last entry that its state machine has seen.",
        lambda driver: driver.raft.state.log.last_applied,
    ),
    _gauge(
        "raft_apply_lag_entries",
        "Committed entries that are not applied here yet.",
        lambda driver: (
            driver.raft.state.log.commit_index - driver.raft.state.log.last_applied
        ),
    ),
    _gauge(
        "raft_state_age_seconds",
        "How long ago its state was the newest; -1 if it never was.",
        lambda driver: -1.0 if driver.age() is None else driver.age(),
    ),
    _counted(
        "raft_proposals",
        "Commands that entered the log of this server as the leader.",
        lambda measured: measured.proposals,
    ),
    Metric(
        "raft_failures",
        "counter",
        "Writes and reads that failed here, by the code of the error.",
        _by_label("failures"),
        ("code",),
        is_driven=False,
    ),
    Metric(
        "raft_reads",
        "counter",
        "Reads that were taken here, by consistency.",
        _by_label("reads"),
        ("consistency",),
        is_driven=False,
    ),
    _measured(
        "raft_write_duration_seconds",
        "From when the first write of a batch came until all were answered.",
        "write_seconds",
    ),
    _measured(
        "raft_commit_duration_seconds",
        "From when a batch was proposed until it was committed.",
        "commit_seconds",
    ),
    _measured(
        "raft_apply_duration_seconds",
        "For all the entries that were applied together.",
        "apply_seconds",
    ),
    Metric(
        "raft_sync_duration_seconds",
        "histogram",
        "For one sync of the storage.",
        _one(lambda driver: driver.parts.worker.sync_seconds),
        bounds=SECONDS,
    ),
    _measured(
        "raft_batch_commands",
        "Commands that were proposed together.",
        "batch_sizes",
        SIZES,
    ),
    _peer(
        "raft_peer_in_flight_appends",
        "Leader: messages with entries that a peer has not answered yet.",
        "in_flight",
    ),
    _peer(
        "raft_peer_match_index",
        "Leader: the last entry that a peer is known to have.",
        "match_index",
    ),
    _peer(
        "raft_peer_lag_entries",
        "Leader: entries that a peer is not known to have.",
        "lag",
    ),
    _peer(
        "raft_peer_silence_seconds",
        "Leader: since a peer answered last.",
        "silent_for",
    ),
    _measured(
        "raft_snapshot_duration_seconds",
        "For one snapshot of the state.",
        "snapshot_seconds",
        LONG_SECONDS,
    ),
    _counted(
        "raft_snapshot_bytes",
        "Bytes of the snapshots that were taken.",
        lambda measured: measured.snapshot_bytes,
    ),
    _counted(
        "raft_snapshots_restored",
        "Snapshots of a leader that replaced the state.",
        lambda measured: measured.restores,
    ),
    _gauge(
        "raft_snapshot_index",
        "The last entry that its latest snapshot covers.",
        lambda driver: getattr(driver.raft.state.snapshot, "index", 0),
    ),
    Metric(
        "raft_queue_depth",
        "gauge",
        "What waits: calls, requests to the disk, and syncs under way.",
        _queues,
        ("queue",),
    ),
    _gauge(
        "raft_sessions",
        "Sessions of clients.",
        lambda driver: len(driver.applier.sessions),
    ),
    _traffic("sent_bytes", "Bytes for other servers and for clients.", "sent_bytes"),
    _traffic("received_bytes", "Bytes of theirs.", "received_bytes"),
    _traffic("lost_messages", "Messages that could not be sent.", "lost_messages"),
    _traffic(
        "violations",
        "Connections dropped because the other end broke the protocol, or TLS.",
        "violations",
    ),
    _gauge(
        "raft_transport_connections",
        "Connections that are open.",
        lambda driver: driver.parts.transport.traffic().connections,
    ),
)

_FAMILIES = {
    "gauge": GaugeMetricFamily,
    "counter": CounterMetricFamily,
    "histogram": HistogramMetricFamily,
}


class ServerCollector(Collector):
    """
    Reads what one server counts.

    Args:
        server: Which.
    """

    def __init__(self, server: Subject) -> None:
        self._server = server

    def collect(self) -> Iterator[Any]:
        """Yield every metric as it is now."""
        server = self._server
        own = (server.config.cluster, server.name)
        for metric in METRICS:
            family = _FAMILIES[metric.kind](
                metric.name, metric.text, labels=(*OWN, *metric.labels)
            )
            source = server.driver if metric.is_driven else server
            if source is not None:
                for labels, value in metric.read(source):
                    _add(family, (*own, *labels), value)
            yield family


def _add(family: Any, labels: tuple[str, ...], value: Any) -> None:
    if isinstance(family, HistogramMetricFamily):
        family.add_metric(labels, _buckets(value), value.total)
    else:
        family.add_metric(labels, value)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    return [
        ("+Inf" if bound == float("inf") else repr(float(bound)), count)
        for bound, count in histogram.cumulative()
    ]


def registry_of(server: Subject) -> CollectorRegistry:
    """Return a registry of *server*'s own, for whoever publishes it otherwise."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ServerCollector(server))
    return registry


async def metrics(call: Call) -> Answer:
    """Show what this server counts, for Prometheus."""
    text = generate_latest(registry_of(call.servant.server))
    return Answer(text, content_type=CONTENT_TYPE_LATEST)


ROUTES = (
    Route("GET", "/metrics", "read", "text/plain", metrics, metrics.__doc__ or ""),
)
