"""
A cluster of core Rafts in one thread: no clock, no sockets, no threads.

The test decides what is delivered, lost, repeated or reordered, whose disk is
slow and who crashes.  A crash loses what was not synced, as a real one does.
"""

from __future__ import annotations

import random
import zlib
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from consensus.core.log import Log
from consensus.core.membership import Membership
from consensus.core.messages import Message
from consensus.core.raft import Raft
from consensus.core.state import Tuning
from consensus.core.values import Entry, EntryKind, HardState, Role, SnapshotMeta
from consensus.entries import fitting
from consensus.testing.disk import Disk, decode_state, encode_state, entries_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from consensus.core.ready import Event, Fetch, Ready, ReceivedChunk

_M = TypeVar("_M", bound=Message)


class Network:
    """
    Servers and the messages between them.

    Args:
        names: The servers.
        founders: Who bootstraps, with all *names* as voters; all by default.
        tuning: Of every server.
        seed: Of their dice.
        cache_bytes: How much of its log each keeps in memory.
    """

    def __init__(
        self,
        names: Iterable[str] = ("s1", "s2", "s3"),
        *,
        founders: Iterable[str] | None = None,
        tuning: Tuning | None = None,
        seed: int = 0,
        cache_bytes: int = 1 << 24,
    ) -> None:
        self.names = tuple(names)
        self.random = random.Random(seed)  # noqa: S311 - reproducible, not secret
        self.tuning = tuning or Tuning()
        self.cache_bytes = cache_bytes
        self.disks = {name: Disk() for name in self.names}
        self.rafts: dict[str, Raft] = {}
        #: Messages under way: (to, message).
        self.queue: list[tuple[str, Message]] = []
        #: Links that lose everything: (from, to).
        self.cut: set[tuple[str, str]] = set()
        #: Servers whose syncs wait for :meth:`sync`.
        self.slow: set[str] = set()
        self.unsynced: dict[str, list[Ready]] = {name: [] for name in self.names}
        #: Servers whose reads of their disk wait for :meth:`fetch`.
        self.slow_reading: set[str] = set()
        self.unread: dict[str, list[Fetch]] = {name: [] for name in self.names}
        #: Servers whose snapshots are stored and restored by :meth:`install`.
        self.slow_installing: set[str] = set()
        self.incoming: dict[str, list[bytes]] = {name: [] for name in self.names}
        self.uninstalled: dict[str, list[Callable[[], None]]] = {
            name: [] for name in self.names
        }
        self.applied: dict[str, list[Entry]] = {name: [] for name in self.names}
        self.reads: dict[str, list[tuple[int, int]]] = {n: [] for n in self.names}
        self.failed_reads: dict[str, list[int]] = {n: [] for n in self.names}
        self.events: dict[str, list[Event]] = {name: [] for name in self.names}
        #: Called after every step of a server.
        self.observer: Callable[[str], None] = lambda _: None
        for name in self.names:
            self.restart(name)
        voters = {name: f"address of {name}" for name in self.names}
        for name in self.names if founders is None else founders:
            self.rafts[name].bootstrap(Membership(voters))
            self.pump(name)

    # --- one server --------------------------------------------------------

    def restart(self, name: str) -> None:
        """Start *name* with what its disk has."""
        disk = self.disks[name]
        disk.repair()
        meta = disk.snapshot
        self.applied[name] = decode_state(disk.chunks)
        self.rafts[name] = Raft(
            name,
            self.random.randrange,
            tuning=self.tuning,
            hard_state=disk.hard_state,
            log=Log(
                disk.last_index,
                disk.term_starts(),
                self.cache_bytes,
                base_index=disk.base[0],
                base_term=disk.base[1],
                applied=0 if meta is None else meta.index,
            ),
            memberships=disk.memberships(),
            snapshot=meta,
        )

    def add(self, name: str) -> None:
        """Start a new server, which belongs to nothing yet."""
        self.names = (*self.names, name)
        self.disks[name] = Disk()
        self.unsynced[name], self.unread[name] = [], []
        self.incoming[name], self.uninstalled[name] = [], []
        self.reads[name], self.failed_reads[name] = [], []
        self.events[name] = []
        self.restart(name)

    def snapshot(self, name: str) -> SnapshotMeta:
        """Let *name* take a snapshot of what it has applied; it is durable at once."""
        raft, disk = self.rafts[name], self.disks[name]
        log = raft.state.log
        index = log.last_applied
        membership_index, membership = raft.state.membership_at(index)
        chunks = encode_state(self.applied[name])
        meta = SnapshotMeta(
            index,
            log.term(index),
            membership.encode(),
            membership_index,
            len(chunks),
            sum(map(len, chunks)),
            zlib.crc32(b"".join(chunks)),
        )
        disk.keep(meta, chunks)
        raft.snapshot_taken(meta)
        self.pump(name)
        return meta

    def change(
        self,
        name: str,
        voters: Iterable[str],
        learners: Iterable[str] = (),
        **more: Any,
    ) -> int:
        """Let the leader *name* begin a change of the membership."""
        index = self.rafts[name].change_membership(
            {each: f"address of {each}" for each in voters},
            {each: f"address of {each}" for each in learners},
            **more,
        )
        self.pump(name)
        return index

    def install(self, name: str) -> None:
        """Let what waits of a slow installation at *name* happen, in order."""
        waiting, self.uninstalled[name] = self.uninstalled[name], []
        for step in waiting:
            step()
        self.pump(name)

    def crash(self, name: str) -> None:
        """Stop *name* at once; what was not synced is lost."""
        del self.rafts[name]
        self.unsynced[name].clear()
        self.unread[name].clear()
        self.incoming[name].clear()
        self.uninstalled[name].clear()

    def store(
        self, name: str, *terms: int, term: int = 0, vote: str | None = None
    ) -> None:
        """
        Restart *name* with another disk: the membership, then *terms*.

        Args:
            name: The server.
            terms: Of the entries from index 2 on; the membership is in term 1.
            term: The server's; by default that of its last entry.
            vote: For whom it voted in that term.
        """
        voters = {name: f"address of {name}" for name in self.names}
        first = Entry(1, 1, EntryKind.MEMBERSHIP, Membership(voters).encode())
        disk = self.disks[name]
        disk.entries = [first, *entries_of(*terms)]
        disk.hard_state = HardState(term or disk.entries[-1].term, vote)
        disk.votes = {}
        if name in self.rafts:
            self.crash(name)
        self.restart(name)

    def pump(self, name: str) -> None:
        """Do what the readies of *name* ask for, until there are none."""
        while (ready := self.rafts[name].ready()) is not None:
            self._perform(name, ready)
        self.observer(name)

    def _perform(self, name: str, ready: Ready) -> None:
        raft = self.rafts[name]
        self._send(name, ready.messages)
        self.applied[name] += ready.committed
        self.reads[name] += ready.reads
        self.failed_reads[name] += ready.failed_reads
        self.events[name] += ready.events
        self.unsynced[name].append(ready)
        if name not in self.slow:
            self._sync_one(name)
        for fetch in ready.fetches:
            if name in self.slow_reading:
                self.unread[name].append(fetch)
            else:
                raft.fetched(fetch, self._read(name, fetch))
        for wanted in ready.chunk_fetches:
            disk = self.disks[name]
            is_there = disk.snapshot == wanted.meta
            data = disk.chunks[wanted.number] if is_there else None
            raft.chunk_fetched(wanted, data)
        for chunk in ready.received:
            self._store(name, chunk)
        if ready.restore is not None:
            self._later(name, partial(self._restore, name, ready.restore))

    def _store(self, name: str, chunk: ReceivedChunk) -> None:
        if chunk.number == 0:
            self.incoming[name] = []
        incoming = self.incoming[name]
        assert chunk.number == len(incoming)
        incoming.append(chunk.data)
        if len(incoming) == chunk.meta.chunks:
            self._later(name, partial(self._finish, name, chunk.meta, incoming))

    def _finish(self, name: str, meta: SnapshotMeta, chunks: list[bytes]) -> None:
        disk = self.disks[name]
        is_whole = zlib.crc32(b"".join(chunks)) == meta.checksum
        if is_whole:
            disk.keep(meta, list(chunks))
        self.rafts[name].snapshot_stored(meta, is_whole=is_whole)

    def _restore(self, name: str, meta: SnapshotMeta) -> None:
        if self.disks[name].snapshot == meta:
            self.applied[name] = decode_state(self.disks[name].chunks)
            self.rafts[name].restored(meta)

    def _later(self, name: str, step: Callable[[], None]) -> None:
        if name in self.slow_installing:
            self.uninstalled[name].append(step)
        else:
            step()

    def fetch(self, name: str) -> None:
        """Let the reads of a slow disk that wait now finish."""
        waiting, self.unread[name] = self.unread[name], []
        for fetch in waiting:
            self.rafts[name].fetched(fetch, self._read(name, fetch))
        self.pump(name)

    def _read(self, name: str, fetch: Fetch) -> Sequence[Entry]:
        if fetch.first <= self.disks[name].base[0]:
            # They were compacted meanwhile: there are none.
            return ()
        read = self.disks[name].read(fetch.first, fetch.last)
        return fitting(read, fetch.max_bytes)

    def _sync_one(self, name: str) -> None:
        ready = self.unsynced[name].pop(0)
        self.disks[name].write(ready)
        self._send(name, ready.messages_after)
        self.rafts[name].advance(ready)

    def sync(self, name: str, count: int | None = None) -> None:
        """Let the oldest *count* writes of a slow disk finish; by default all."""
        waiting = len(self.unsynced[name])
        for _ in range(waiting if count is None else min(count, waiting)):
            self._sync_one(name)
        self.pump(name)

    def _send(self, name: str, messages: Sequence[tuple[str, Message]]) -> None:
        for peer, message in messages:
            assert peer != name
            self.queue.append((peer, message))

    def tick(self, name: str, count: int = 1) -> None:
        """Let *count* ticks pass at *name*."""
        for _ in range(count):
            self.rafts[name].tick()
            self.pump(name)

    def pass_time(self, ticks: int) -> None:
        """Let *ticks* pass at everybody; whatever is sent arrives in between."""
        for _ in range(ticks):
            for name in self.rafts:
                self.tick(name)
            self.settle()

    def propose(self, name: str, *commands: bytes) -> int:
        """Let *name* append *commands*; return the index of the first."""
        first = self.rafts[name].propose(commands)
        self.pump(name)
        return first

    def transfer(self, name: str, target: str | None = None) -> str:
        """Let *name* hand leadership over; return to whom."""
        chosen = self.rafts[name].transfer(target)
        self.pump(name)
        return chosen

    def read(self, name: str, read_id: int) -> None:
        """Let *name* begin a read."""
        self.rafts[name].read(read_id)
        self.pump(name)

    def step(self, name: str, message: Message) -> list[tuple[str, Message]]:
        """Hand *message* to *name*; return what it sends, which goes nowhere."""
        before = len(self.queue)
        self.rafts[name].step(message)
        self.pump(name)
        sent = self.queue[before:]
        del self.queue[before:]
        return sent

    # --- the network -------------------------------------------------------

    def deliver(self, position: int = 0, *, is_last: bool = True) -> Message | None:
        """
        Deliver one message of the queue; return it, or None if it was lost.

        Args:
            position: Where in the queue it is.
            is_last: Whether its receiver deals with it now, and not when it is
                pumped, together with others.
        """
        peer, message = self.queue.pop(position)
        if peer not in self.rafts or (message.sender, peer) in self.cut:
            return None
        self.rafts[peer].step(message)
        if is_last:
            self.pump(peer)
        return message

    def settle(self) -> None:
        """Deliver everything, and what that causes, until all is quiet."""
        for _ in self.deliveries():
            pass

    def deliveries(self) -> Iterator[Message]:
        """Do the same, and yield each message after its delivery."""
        for _ in range(20_000):
            if not self.queue:
                return
            message = self.deliver()
            if message is not None:
                yield message
        raise AssertionError("the network does not come to rest")

    def waiting(
        self, kind: type[_M], sender: str | None = None, to: str | None = None
    ) -> list[_M]:
        """Return the messages of *kind* under way, of and to whom if that is said."""
        return [message for _, message in self._find(kind, sender, to)]

    def pass_on(
        self, kind: type[Message], sender: str | None = None, to: str | None = None
    ) -> None:
        """Deliver what :meth:`waiting` returns now, not what that causes."""
        for item in self._find(kind, sender, to):
            self.deliver(self.queue.index(item))

    def _find(
        self, kind: type[_M], sender: str | None, to: str | None
    ) -> list[tuple[str, _M]]:
        return [
            (peer, message)
            for peer, message in self.queue
            if isinstance(message, kind)
            and sender in {None, message.sender}
            and to in {None, peer}
        ]

    def lose(self, sender: str | None = None, to: str | None = None) -> None:
        """Lose what is under way, of and to whom if that is said."""
        self.queue = [
            (peer, message)
            for peer, message in self.queue
            if sender not in {None, message.sender} or to not in {None, peer}
        ]

    def isolate(self, *names: str) -> None:
        """Cut all links between *names* and the others."""
        for one in names:
            for other in set(self.names) - set(names):
                self.cut |= {(one, other), (other, one)}

    def heal(self) -> None:
        """Mend all links."""
        self.cut.clear()

    # --- shorthands --------------------------------------------------------

    def campaign(self, name: str) -> None:
        """Let *name* lose patience; its requests are under way then."""
        state = self.rafts[name].state
        term = state.term
        for _ in range(3 * self.tuning.election_ticks):
            self.tick(name)
            has_asked = state.role is Role.PRE_CANDIDATE and not state.elapsed
            if has_asked or state.term > term:
                return
        message = f"{name} never stood for election"
        raise AssertionError(message)

    def elect(self, name: str) -> None:
        """Make *name* leader, with whoever hears it."""
        self.campaign(name)
        self.settle()
        assert self.role(name) is Role.LEADER

    def heartbeat(self, name: str) -> None:
        """Let the leader *name* speak once, and all answer."""
        self.tick(name, self.tuning.heartbeat_ticks)
        self.settle()

    def role(self, name: str) -> Role:
        """Return the role of *name*."""
        return self.rafts[name].state.role

    def leaders(self) -> list[str]:
        """Return who leads, in whatever term."""
        return [name for name in self.rafts if self.role(name) is Role.LEADER]

    def agrees_on(self, *members: str) -> bool:
        """Say whether *members* know that they are all, and that this is over."""
        states = [self.rafts[name].state for name in members]
        return all(
            sorted(state.membership.members()) == sorted(members)
            and not state.membership.is_joint
            and not state.membership.target
            and state.membership_index <= state.log.commit_index
            for state in states
        )

    def voters(self, name: str) -> list[str]:
        """Return who votes, as far as *name* knows."""
        return sorted(self.rafts[name].state.membership.voters)

    def learners(self, name: str) -> list[str]:
        """Return who learns, as far as *name* knows."""
        return sorted(self.rafts[name].state.membership.learners)

    def log(self, name: str) -> list[tuple[int, bytes]]:
        """Return ``(term, command)`` of each entry in memory of *name*."""
        return [(e.term, e.command) for e in self.rafts[name].state.log.entries]

    def entries(self, name: str) -> list[Entry]:
        """Return the whole log of *name*, durable or not."""
        log = self.rafts[name].state.log
        disk = self.disks[name]
        stored = disk.read(disk.base[0] + 1, log.offset)
        return [*stored, *log.entries]

    def terms(self, name: str) -> list[int]:
        """Return the terms of the entries of *name* after the membership."""
        return [entry.term for entry in self.entries(name)[1:]]

    def commands(self, name: str) -> list[bytes]:
        """Return the commands that *name* has applied, in order."""
        return [e.command for e in self.applied[name] if e.kind == EntryKind.COMMAND]

    def committed(self, name: str) -> int:
        """Return the commit index of *name*."""
        return self.rafts[name].state.log.commit_index
