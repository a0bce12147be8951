"""
Traces of writes, from the proposal to the last follower (OpenTelemetry).

Which entries are traced follows from their index, and the ids of a trace from
the cluster, the term and the index: so every member knows them by itself, and
nothing of it goes over the wire.  What is not traced costs one comparison for
each batch; without ``tracing`` in the config, nothing at all.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.util import find_spec
from threading import Thread
from time import time_ns
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger

from consensus.core.values import Role
from consensus.errors import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from consensus.config import Config
    from consensus.core.ready import Ready
    from consensus.core.state import State
    from consensus.core.values import Entry, LogIndex, ServerId, Term

_log = Logger()

#: Traces that are not complete yet; the oldest ends before there are more.
MOST_OPEN = 64

#: A trace does not wait for longer than this for the last follower.
_PATIENCE = 10_000_000_000


def check(config: Config) -> Iterator[Finding]:
    """Yield that traces cannot be made, if the config wants them."""
    if config.tracing is None:
        return
    if find_spec("opentelemetry") is None or not find_spec(
        "opentelemetry.exporter.otlp.proto.http"
    ):
        yield Finding(
            "tracing.E001",
            "OpenTelemetry is not installed",
            "pip install twisted-raft[otel], or write tracing: false",
            "tracing",
        )


@dataclass(slots=True)
class _Trace:
    """An entry that is traced, and when what happened to it."""

    index: LogIndex
    term: Term
    leads: bool
    began: int
    size: int
    synced: int = 0
    committed: int = 0
    applied: int = 0
    followers: dict[ServerId, int] = field(default_factory=dict)


class Traces:
    """
    The traces of one server.

    Args:
        server: Whose.
        cluster: Its name.
        sample: Which part of the entries is traced.
        exporter: Where spans go, on a thread of its own.
        now: The time, in nanoseconds.
    """

    def __init__(
        self,
        server: ServerId,
        cluster: str,
        sample: float,
        exporter: Any,
        now: Callable[[], int] = time_ns,
    ) -> None:
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - an extra
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - likewise
        from opentelemetry.sdk.trace.export import (  # noqa: PLC0415 - likewise
            BatchSpanProcessor,
        )
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON  # noqa: PLC0415

        self._server = server
        self._cluster = cluster
        self._stride = max(1, round(1 / sample))
        self._now = now
        self._open: list[_Trace] = []
        self._ids = _Ids()
        says = {"service.name": "raft", "service.instance.id": server}
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource.create({**says, "raft.cluster": cluster}),
            id_generator=self._ids,  # type: ignore[arg-type] # their own base is an extra
            shutdown_on_exit=False,
        )
        # It drops spans when its queue is full, and never waits.
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("consensus")

    # --- what happens ------------------------------------------------------------

    def appended(self, entries: Sequence[Entry], state: State) -> None:
        """Note a batch that goes to storage, and from a leader to the others."""
        first, last = entries[0].index, entries[-1].index
        index = -(-first // self._stride) * self._stride
        if self._open:
            # What stood there before is gone, and never committed.
            self._open = [each for each in self._open if each.index < first]
        if index > last:
            return
        if len(self._open) >= MOST_OPEN:
            self._end(self._open.pop(0))
        leads = state.role is Role.LEADER
        term = entries[index - first].term
        self._open.append(_Trace(index, term, leads, self._now(), len(entries)))

    def persisted(self, ready: Ready) -> None:
        """Note that a batch is synced."""
        if self._open and ready.entries:
            last = ready.entries[-1].index
            for trace in self._open:
                if not trace.synced and trace.index <= last:
                    trace.synced = self._now()

    def look(self, state: State) -> None:
        """See how far the rest is; called after each turn."""
        if not self._open:
            return
        now, still = self._now(), []
        for trace in self._open:
            self._follow(trace, state, now)
            if self._is_complete(trace, state, now):
                self._end(trace)
            else:
                still.append(trace)
        self._open = still

    def stop(self) -> None:
        """Send what there is, without waiting for it."""
        for trace in self._open:
            self._end(trace)
        self._open = []
        Thread(target=self._provider.shutdown, daemon=True).start()

    @staticmethod
    def _follow(trace: _Trace, state: State, now: int) -> None:
        if not trace.committed and state.log.commit_index >= trace.index:
            trace.committed = now
        if not trace.applied and state.log.last_applied >= trace.index:
            trace.applied = now
        if trace.leads:
            for peer, progress in state.progress.items():
                if progress.match_index >= trace.index:
                    trace.followers.setdefault(peer, now)

    @staticmethod
    def _is_complete(trace: _Trace, state: State, now: int) -> bool:
        if now - trace.began > _PATIENCE:
            return True
        is_done = bool(trace.applied and trace.synced)
        return is_done and (
            not trace.leads or len(trace.followers) >= len(state.progress)
        )

    # --- spans --------------------------------------------------------------------

    def _end(self, trace: _Trace) -> None:
        """Make the spans of *trace*; a server goes on without them."""
        try:
            self._make(trace)
        except Exception as error:  # noqa: BLE001 - another library's
            _log.warn(
                "{server} could not trace entry {index}: {error!r}",
                server=self._server,
                index=trace.index,
                error=error,
            )

    def _make(self, trace: _Trace) -> None:
        from opentelemetry.trace import (  # noqa: PLC0415 - an extra
            NonRecordingSpan,
            SpanContext,
            TraceFlags,
            set_span_in_context,
        )

        chosen = _ids_of(self._cluster, trace.term, trace.index)
        latest = (
            trace.synced,
            trace.committed,
            trace.applied,
            *trace.followers.values(),
        )
        end = max(trace.began, *latest)
        about: dict[str, Any] = {
            "raft.server": self._server,
            "raft.index": trace.index,
            "raft.term": trace.term,
        }
        if trace.leads:
            self._ids.chosen = chosen
            root = self._tracer.start_span(
                "raft.write",
                attributes={**about, "raft.batch": trace.size},
                start_time=trace.began,
            )
            self._ids.chosen = None
            root.end(trace.applied or end)
        where = SpanContext(
            *chosen, is_remote=not trace.leads, trace_flags=TraceFlags(1)
        )
        context = set_span_in_context(NonRecordingSpan(where))
        parts = [
            ("raft.sync", trace.began, trace.synced, {}),
            *(
                ("raft.append", trace.began, at, {"raft.peer": peer})
                for peer, at in trace.followers.items()
            ),
            ("raft.commit", trace.began, trace.committed, {}),
            ("raft.apply", trace.committed, trace.applied, {}),
        ]
        for name, began, ended, more in parts:
            if began and ended:
                self._tracer.start_span(
                    name, context, attributes={**about, **more}, start_time=began
                ).end(ended)


class _Ids:
    """Gives the span that every member knows of its id, and the others any."""

    def __init__(self) -> None:
        self.chosen: tuple[int, int] | None = None

    def generate_trace_id(self) -> int:
        """Return the trace's."""
        return self.chosen[0] if self.chosen else random.getrandbits(128) | 1

    def generate_span_id(self) -> int:
        """Return the span's."""
        return self.chosen[1] if self.chosen else random.getrandbits(64) | 1

    def is_trace_id_random(self) -> bool:
        """Say that the ids follow from what is traced."""
        return False


def _ids_of(cluster: str, term: Term, index: LogIndex) -> tuple[int, int]:
    """Return the ids of the trace, and of its first span, of an entry."""
    digest = sha256(f"{cluster}\0{term}\0{index}".encode()).digest()
    return int.from_bytes(digest[:16], "big") | 1, int.from_bytes(
        digest[16:24], "big"
    ) | 1


def traces_of(config: Config, server: ServerId) -> Traces | None:
    """Return what traces the writes of *server*, if the config wants that."""
    if config.tracing is None:
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )

    exporter = OTLPSpanExporter(endpoint=config.tracing.endpoint, timeout=5)
    return Traces(server, config.cluster, config.tracing.sample, exporter)
