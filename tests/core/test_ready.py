"""Ready: what the storage has to do before others hear of it."""

from __future__ import annotations

from typing import Any

import pytest

from consensus.core.messages import RequestVoteResponse
from consensus.core.ready import Fetch, FetchChunk, Ready, ReceivedChunk, RoleChanged
from consensus.core.values import Entry, EntryKind, HardState, Role, SnapshotMeta

_ENTRY = Entry(1, 1, EntryKind.NOOP, b"")
_META = SnapshotMeta(1, 1, b"", 1)
_MESSAGE = ("s2", RequestVoteResponse("s1", 1, granted=True))

_FOR_STORAGE: dict[str, Any] = {
    # Term 0 without a vote is a value like any other.
    "hard_state": HardState(),
    "compact": (1, 1),
    "entries": [_ENTRY],
    "messages_after": [_MESSAGE],
}
_FOR_OTHERS: dict[str, Any] = {
    "messages": [_MESSAGE],
    "committed": [_ENTRY],
    "reads": [(0, 0)],
    "failed_reads": [0],
    "fetches": [Fetch(1, 1, 1, None, 1)],
    "chunk_fetches": [FetchChunk(_META, 0, "s2", 1)],
    "received": [ReceivedChunk(_META, 0, b"")],
    "restore": _META,
    "events": [RoleChanged(Role.FOLLOWER, 1, None)],
}


class NeedsStorageTests:
    """Whether the storage has to finish anything first."""

    @pytest.mark.parametrize("effect", _FOR_STORAGE)
    def test_what_must_be_durable_needs_it(self, effect: str) -> None:
        """So do messages that wait for what earlier readies wrote."""
        assert Ready(1, **{effect: _FOR_STORAGE[effect]}).needs_storage

    @pytest.mark.parametrize("effect", _FOR_OTHERS)
    def test_what_depends_on_nothing_does_not(self, effect: str) -> None:
        """Sending, applying and reading wait for no disk."""
        assert not Ready(1, **{effect: _FOR_OTHERS[effect]}).needs_storage
