"""The disk of a server in :mod:`consensus.testing.network`: what a crash leaves."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from consensus.core.membership import Membership
from consensus.core.values import Entry, EntryKind, HardState, SnapshotMeta

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consensus.core.ready import Ready


@dataclass
class Disk:
    """What survives a crash of one server."""

    hard_state: HardState = field(default_factory=HardState)
    entries: list[Entry] = field(default_factory=list)
    #: Index and term of the last entry that was dropped.
    base: tuple[int, int] = (0, 0)
    snapshot: SnapshotMeta | None = None
    chunks: list[bytes] = field(default_factory=list)
    #: For whom it voted in which term, durably.
    votes: dict[int, str] = field(default_factory=dict)

    @property
    def last_index(self) -> int:
        """Return the index of the last entry."""
        return self.base[0] + len(self.entries)

    def read(self, first: int, last: int) -> list[Entry]:
        """Return the entries from *first* to *last*."""
        assert first > self.base[0]
        return self.entries[first - self.base[0] - 1 : last - self.base[0]]

    def write(self, ready: Ready) -> None:
        """Persist what *ready* asks for."""
        if ready.compact is not None:
            self.compact(*ready.compact)
        if ready.hard_state is not None:
            self.hard_state = ready.hard_state
            if ready.hard_state.vote is not None:
                vote = ready.hard_state.vote
                assert self.votes.setdefault(ready.hard_state.term, vote) == vote
        if ready.entries:
            del self.entries[ready.entries[0].index - self.base[0] - 1 :]
            assert ready.entries[0].index == self.last_index + 1
            self.entries += ready.entries

    def compact(self, index: int, term: int) -> None:
        """Do what :meth:`.Storage.compact` does."""
        if index <= self.base[0]:
            return
        kept = self.read(index, self.last_index)
        is_same = bool(kept) and kept[0].term == term
        self.entries = kept[1:] if is_same else []
        self.base = (index, term)

    def keep(self, meta: SnapshotMeta, chunks: list[bytes]) -> None:
        """Keep the snapshot *meta*, if there is none as new."""
        if self.snapshot is None or self.snapshot.index < meta.index:
            self.snapshot, self.chunks = meta, chunks

    def repair(self) -> None:
        """Make the log fit the snapshot, as a server does when it starts."""
        meta = self.snapshot
        if meta is None or meta.index <= self.base[0]:
            return
        kept = self.read(meta.index, meta.index)
        if not kept or kept[0].term != meta.term:
            self.compact(meta.index, meta.term)

    def has(self, index: int, term: int) -> bool:
        """Say whether the entry of *term* at *index* is here, or in the snapshot."""
        if self.snapshot is not None and index <= self.snapshot.index:
            return True
        if index <= self.base[0]:
            return True
        return [entry.term for entry in self.read(index, index)] == [term]

    def term_starts(self) -> list[tuple[int, int]]:
        """Return where each term begins."""
        starts: list[tuple[int, int]] = []
        for entry in self.entries:
            if not starts or starts[-1][1] != entry.term:
                starts.append((entry.index, entry.term))
        return starts

    def memberships(self) -> list[tuple[int, Membership]]:
        """Return the memberships of the snapshot and of the log behind it."""
        found = [(0, Membership())]
        meta = self.snapshot
        if meta is not None:
            found = [(meta.membership_index, Membership.decode(meta.membership))]
        return found + [
            (entry.index, Membership.decode(entry.command))
            for entry in self.entries
            if entry.kind == EntryKind.MEMBERSHIP and entry.index > found[0][0]
        ]


def encode_state(entries: Sequence[Entry]) -> list[bytes]:
    """Return what was applied as the chunks of a snapshot, an entry each."""
    return [
        json.dumps([e.index, e.term, int(e.kind), e.command.hex()]).encode()
        for e in entries
    ]


def decode_state(chunks: Sequence[bytes]) -> list[Entry]:
    """Return what *chunks* were made of."""
    made = []
    for chunk in chunks:
        index, term, kind, command = json.loads(chunk)
        made.append(Entry(index, term, kind, bytes.fromhex(command)))
    return made


def entries_of(*terms: int, after: int = 1) -> list[Entry]:
    """
    Return an entry of each of *terms*, from index *after* + 1 on.

    Index and term determine the command, as they do in a cluster.
    """
    return [
        Entry(index, term, EntryKind.COMMAND, f"{index}.{term}".encode())
        for index, term in enumerate(terms, after + 1)
    ]
