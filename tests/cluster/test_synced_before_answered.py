"""
What the kernel sees: no write is answered before a majority has synced it.

The three servers run under strace, whose time stamps are of one clock.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.trial.unittest import TestCase

from contrib.kvstore import KVClient
from tests.support.processes import MemberProcesses
from tests.support.tracing import needs_strace

if TYPE_CHECKING:
    from pathlib import Path

_LINE = re.compile(r"\d+ +(?P<time>[\d.]+) (?P<call>\w+)\((?P<rest>.*)")
_RESUMED = re.compile(
    r"\d+ +(?P<time>[\d.]+) <\.\.\. (?P<call>\w+) resumed>(?P<rest>.*)"
)
_SYNCS = {"fsync", "fdatasync"}


@dataclass(frozen=True)
class Event:
    """One system call, at the time when it returned (or began, if it sent)."""

    time: float
    call: str
    rest: str

    @property
    def descriptor(self) -> str:
        """Return the first argument."""
        return self.rest.partition(",")[0]


def events(path: Path) -> list[Event]:
    """Return what strace wrote to *path*."""
    found = []
    for line in path.read_text(errors="replace").splitlines():
        match = _LINE.match(line) or _RESUMED.match(line)
        if match is None:
            continue
        is_sync = match["call"] in _SYNCS
        # A sync counts from its return: not the line that says it goes on.
        if is_sync and (
            match["rest"].endswith("<unfinished ...>") or " = 0" not in line
        ):
            continue
        found.append(Event(float(match["time"]), match["call"], match["rest"]))
    return found


class TracedProcesses(MemberProcesses):
    """Members under strace; the traces are in the directory."""

    def trace(self, name: str) -> Path:
        """Return where the trace of *name* is."""
        return self.directory / f"{name}.trace"

    def start_all(self) -> None:
        """Start all three under strace, which leaves the process its own parent."""
        calls = "trace=fsync,fdatasync,recvfrom,sendto"
        for name in self.addresses:
            self.start(
                name,
                *("strace", "-D", "-f", "-qq", "-ttt", "-s", "2000"),
                *("-e", calls, "-o", str(self.trace(name))),
            )


@needs_strace
class SyncedBeforeAnsweredTests(TestCase):
    """Durable before acknowledged, on every engine that lasts."""

    timeout = 100

    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> None:
        self.directory = tmp_path

    async def run_with(self, engine: str) -> None:
        """Write one by one, then many at once; read the traces."""
        # Patient, since strace is slow, and another leader would be another story.
        timing = {"heartbeat_interval": 0.1, "election_timeout": 1.0}
        processes = TracedProcesses(self.directory, storage=engine, timing=timing)
        self.addCleanup(processes.stop_all)
        processes.start_all()
        client = KVClient(list(processes.addresses.values()), reactor)
        self.addCleanup(client.close)
        markers = [f"<marker {number}>" for number in range(20)]
        await client.set("key", "by now the client knows who leads")
        for marker in markers:
            await client.set("key", marker)
        await client.set("key", "<before>")
        await gatherResults(
            [client.set(f"burst {number}", "burst") for number in range(400)]
        )
        await client.set("key", "<after>")
        processes.stop_all()
        traces = {name: events(processes.trace(name)) for name in processes.addresses}
        for marker in markers:
            self.check_marker(traces, marker)
        self.check_burst(traces)

    def check_marker(self, traces: dict[str, list[Event]], marker: str) -> None:
        """Two of three have synced the write before its client was answered."""
        arrivals = {}
        for name, trace in traces.items():
            for event in trace:
                if event.call == "recvfrom" and marker in event.rest:
                    arrivals[name] = event
                    break
        assert len(arrivals) >= 2, marker
        leader = min(arrivals, key=lambda name: arrivals[name].time)
        asked = arrivals[leader]
        answered = next(
            event.time
            for event in traces[leader]
            if event.call == "sendto"
            and event.descriptor == asked.descriptor
            and event.time > asked.time
        )
        synced = [
            name
            for name, arrival in arrivals.items()
            if any(
                event.call in _SYNCS and arrival.time < event.time < answered
                for event in traces[name]
            )
        ]
        assert len(synced) >= 2, (marker, synced)

    def check_burst(self, traces: dict[str, list[Event]]) -> None:
        """Four hundred writes at once share a few syncs."""
        for name, trace in traces.items():
            first = min(event.time for event in trace if "<before>" in event.rest)
            last = max(event.time for event in trace if "<after>" in event.rest)
            syncs = [
                event
                for event in trace
                if event.call in _SYNCS and first < event.time < last + 0.1
            ]
            assert 0 < len(syncs) <= 100, (name, len(syncs))

    async def test_sqlite(self) -> None:
        """On SQLite."""
        await self.run_with("sqlite")

    async def test_rocksdb(self) -> None:
        """On RocksDB."""
        await self.run_with("rocksdb")

    async def test_lmdb(self) -> None:
        """On LMDB."""
        await self.run_with("lmdb")

    async def test_wal(self) -> None:
        """On a log of our own."""
        await self.run_with("wal")
