"""
A cluster of core Rafts in one thread: no clock, no sockets, no threads.

The test decides what is delivered, lost, repeated or reordered, whose disk is
slow and who crashes.  A crash loses what was not synced, as a real one does.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from consensus.core.log import Log
from consensus.core.membership import Membership
from consensus.core.messages import Message
from consensus.core.raft import Raft
from consensus.core.state import Tuning
from consensus.core.values import Entry, EntryKind, HardState, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from consensus.core.ready import Event, Fetch, Ready

_M = TypeVar("_M", bound=Message)

#: Of servers that let a leader be, in tests that count election timeouts.
STABLE = Tuning(heartbeat_ticks=2, election_ticks=6, stable_leader=True)


@dataclass
class Disk:
    """What survives a crash of one server."""

    hard_state: HardState = field(default_factory=HardState)
    entries: list[Entry] = field(default_factory=list)

    def write(self, ready: Ready) -> None:
        """Persist what *ready* asks for."""
        if ready.hard_state is not None:
            self.hard_state = ready.hard_state
        if ready.entries:
            del self.entries[ready.entries[0].index - 1 :]
            assert ready.entries[0].index == len(self.entries) + 1
            self.entries += ready.entries

    def term_starts(self) -> list[tuple[int, int]]:
        """Return where each term begins."""
        starts: list[tuple[int, int]] = []
        for entry in self.entries:
            if not starts or starts[-1][1] != entry.term:
                starts.append((entry.index, entry.term))
        return starts

    def membership(self) -> Membership:
        """Return the latest membership in the log."""
        for entry in reversed(self.entries):
            if entry.kind == EntryKind.MEMBERSHIP:
                return Membership.decode(entry.command)
        return Membership()


def entries_of(*terms: int, after: int = 1) -> list[Entry]:
    """
    Return an entry of each of *terms*, from index *after* + 1 on.

    Index and term determine the command, as they do in a cluster.
    """
    return [
        Entry(index, term, EntryKind.COMMAND, f"{index}.{term}".encode())
        for index, term in enumerate(terms, after + 1)
    ]


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
        self.applied[name] = []
        self.rafts[name] = Raft(
            name,
            self.random.randrange,
            tuning=self.tuning,
            hard_state=disk.hard_state,
            log=Log(len(disk.entries), disk.term_starts(), self.cache_bytes),
            membership=disk.membership(),
        )

    def crash(self, name: str) -> None:
        """Stop *name* at once; what was not synced is lost."""
        del self.rafts[name]
        self.unsynced[name].clear()
        self.unread[name].clear()

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

    def fetch(self, name: str) -> None:
        """Let the reads of a slow disk that wait now finish."""
        waiting, self.unread[name] = self.unread[name], []
        for fetch in waiting:
            self.rafts[name].fetched(fetch, self._read(name, fetch))
        self.pump(name)

    def _read(self, name: str, fetch: Fetch) -> list[Entry]:
        entries: list[Entry] = []
        size = 0
        for entry in self.disks[name].entries[fetch.first - 1 : fetch.last]:
            size += len(entry.command)
            if entries and size > fetch.max_bytes:
                break
            entries.append(entry)
        return entries

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

    def deliver(self, position: int = 0) -> Message | None:
        """Deliver one message of the queue; return it, or None if it was lost."""
        peer, message = self.queue.pop(position)
        if peer not in self.rafts or (message.sender, peer) in self.cut:
            return None
        self.rafts[peer].step(message)
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

    def log(self, name: str) -> list[tuple[int, bytes]]:
        """Return ``(term, command)`` of each entry in memory of *name*."""
        return [(e.term, e.command) for e in self.rafts[name].state.log.entries]

    def entries(self, name: str) -> list[Entry]:
        """Return the whole log of *name*, durable or not."""
        log = self.rafts[name].state.log
        return [*self.disks[name].entries[: log.offset], *log.entries]

    def terms(self, name: str) -> list[int]:
        """Return the terms of the entries of *name* after the membership."""
        return [entry.term for entry in self.entries(name)[1:]]

    def commands(self, name: str) -> list[bytes]:
        """Return the commands that *name* has applied, in order."""
        return [e.command for e in self.applied[name] if e.kind == EntryKind.COMMAND]

    def committed(self, name: str) -> int:
        """Return the commit index of *name*."""
        return self.rafts[name].state.log.commit_index


def led(*names: str, tuning: Tuning = STABLE, seed: int = 0) -> Network:
    """
    Return a network in which s1 leads in term 2, and everybody has heard it.

    Args:
        names: The servers; three by default.
        tuning: Theirs.
        seed: Of their dice.
    """
    network = Network(names or ("s1", "s2", "s3"), tuning=tuning, seed=seed)
    network.elect("s1")
    network.heartbeat("s1")
    return network


def alone(
    *terms: int,
    names: Iterable[str] = ("s1", "s2", "s3"),
    term: int = 0,
    vote: str | None = None,
    tuning: Tuning | None = None,
) -> Network:
    """
    Return a network in which only s1 runs; the test speaks for the others.

    Args:
        terms: Of its log, term, vote: see :meth:`Network.store`.
        names: All servers of the cluster.
        term: The term of s1.
        vote: Its vote.
        tuning: Its tuning.
    """
    network = Network(names, founders=(), tuning=tuning)
    network.store("s1", *terms, term=term, vote=vote)
    for name in network.names:
        if name != "s1":
            network.crash(name)
    return network
