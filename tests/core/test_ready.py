"""Ready: whether there is anything to do, and for whom."""

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


class BoolTests:
    """Whether there is anything to do."""

    def test_nothing_is_nothing(self) -> None:
        """The number alone is no reason to act."""
        assert not Ready(number=7)

    @pytest.mark.parametrize("effect", [*_FOR_STORAGE, *_FOR_OTHERS])
    def test_every_effect_is_a_reason_to_act(self, effect: str) -> None:
        """None is lost because the others are absent."""
        assert Ready(1, **{effect: (_FOR_STORAGE | _FOR_OTHERS)[effect]})


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
