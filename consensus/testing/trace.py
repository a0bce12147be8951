"""A network of core Rafts that writes down what its servers do and send."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from consensus.testing import notation
from consensus.testing.network import Network

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from consensus.core.messages import Message
    from consensus.core.state import Tuning
    from consensus.core.values import Entry, LogIndex, SnapshotMeta, Term


@dataclass(slots=True)
class _Seen:
    """What was written down of one server already."""

    events: int = 0
    log: tuple[tuple[LogIndex, Term], ...] = ()
    base: LogIndex = 0
    commit: LogIndex = 0
    applied: Sequence[Entry] = ()
    count: int = 0
    reads: int = 0
    failed_reads: int = 0
    snapshot: SnapshotMeta | None = None


class Traced(Network):
    """
    A network that writes a line for each thing that a server does.

    Args:
        names: The servers; all found the cluster.
        tuning: Of every server.
        seed: Of their dice.
    """

    def __init__(self, names: Iterable[str], *, tuning: Tuning, seed: int = 0) -> None:
        self.lines: list[str] = []
        self._sent: list[str] = []
        self._seen: dict[str, _Seen] = {}
        super().__init__(names, tuning=tuning, seed=seed)
        # How a cluster is founded, every scenario would begin with.
        self.lines.clear()

    def restart(self, name: str) -> None:
        """Start *name* with what its disk has; from here on it is watched."""
        super().restart(name)
        log = self.rafts[name].state.log
        self._seen[name] = _Seen(
            events=len(self.events[name]),
            log=self.places(name),
            base=log.base_index,
            commit=log.commit_index,
            applied=self.applied[name],
            count=len(self.applied[name]),
            reads=len(self.reads[name]),
            failed_reads=len(self.failed_reads[name]),
            snapshot=self.disks[name].snapshot,
        )

    def places(self, name: str) -> tuple[tuple[LogIndex, Term], ...]:
        """Return index and term of each entry of *name*."""
        log = self.rafts[name].state.log
        first = log.base_index + 1
        return tuple((i, log.term(i)) for i in range(first, log.last_index + 1))

    def pump(self, name: str) -> None:
        """Do what *name* asks for, and write down what it did, then what it sent."""
        super().pump(name)
        self.lines += [f"{name} {text}" for text in self._happened(name)]
        self.lines += self._sent
        self._sent.clear()

    def _send(self, name: str, messages: Sequence[tuple[str, Message]]) -> None:
        super()._send(name, messages)
        self._sent += [notation.message(*each) for each in messages]

    def _happened(self, name: str) -> Iterator[str]:
        """Yield what is new at *name* since the last time."""
        seen, events = self._seen[name], self.events[name]
        yield from filter(None, map(notation.event, events[seen.events :]))
        seen.events = len(events)
        yield from self._log_happened(name, seen)
        yield from self._applied_happened(name, seen)
        for number, index in self.reads[name][seen.reads :]:
            yield f"confirms read {number} at {index}"
        for number in self.failed_reads[name][seen.failed_reads :]:
            yield f"gives up read {number}"
        seen.reads = len(self.reads[name])
        seen.failed_reads = len(self.failed_reads[name])

    def _log_happened(self, name: str, seen: _Seen) -> Iterator[str]:
        log, snapshot = self.places(name), self.disks[name].snapshot
        base = self.rafts[name].state.log.base_index
        gone = sorted(each for each in set(seen.log) - set(log) if each[0] > base)
        if gone:
            yield f"drops {notation.places(gone)}"
        if snapshot is not None and snapshot != seen.snapshot:
            yield f"keeps {notation.snapshot(snapshot)}"
        if base > seen.base:
            yield f"compacts its log up to {base}"
        seen.log, seen.base, seen.snapshot = log, base, snapshot

    def _applied_happened(self, name: str, seen: _Seen) -> Iterator[str]:
        commit, applied = self.rafts[name].state.log.commit_index, self.applied[name]
        if applied is not seen.applied:
            yield f"restores {notation.entries(applied)}"
            seen.applied, seen.count = applied, len(applied)
        done = []
        if commit > seen.commit:
            done.append(f"commits {commit}")
        if len(applied) > seen.count:
            done.append(f"applies {notation.entries(applied[seen.count :])}")
        if done:
            yield ", ".join(done)
        seen.commit, seen.count = commit, len(applied)


def summary(network: Traced, name: str) -> str:
    """Return what *name* is and has, in a line."""
    disk = network.disks[name]
    if name not in network.rafts:
        hard_state, stored = disk.hard_state, disk.read(disk.base[0] + 1, 1 << 60)
        log = notation.places((each.index, each.term) for each in stored)
        return f"{name} is down: term {hard_state.term}, vote {hard_state.vote}, {log}"
    state = network.rafts[name].state
    log = notation.places(network.places(name))
    if state.log.base_index:
        log = f"compacted up to {state.log.base_index}, {log}"
    vote, durable = state.hard_state.vote, state.log.stable_index
    return (
        f"{name} is {state.role.value}: term {state.term}, vote {vote}, {log};"
        f" durable {durable}, commit {state.log.commit_index}"
    )
