"""Tests of the key-value store's history: what those hear who watch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.interfaces import LATER
from contrib.kvstore.answers import Event, Events
from contrib.kvstore.commands import (
    Changes,
    Delete,
    Expire,
    Get,
    Put,
    Revision,
    Set,
    SetMany,
    Txn,
)
from contrib.kvstore.failures import CompactedError, NoHistoryError
from tests.support.kv import KINDS, make_kv

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.kv import KV


def followed(store: KV, prefix: bytes = b"", **query: Any) -> Iterator[Event]:
    """Yield all events from the first revision on, a page after another."""
    place = 1, 0
    while True:
        events = store.read(Changes(prefix, *place[:1], skip=place[1], **query))
        if events is LATER:
            return
        yield from events.events
        assert (events.next_revision, events.skip) > place
        place = events.next_revision, events.skip


class ChangesTests:
    """The changes since a revision."""

    def test_what_happened(self, kv: KV) -> None:
        """In order, with the value that was set."""
        kv.write(Set(b"a", "1"))
        kv.write(Delete(b"none"))
        kv.write(Put(b"a", b"2", ttl=5))
        kv.write(Expire(b"a", 7))
        kv.write(Txn([], [Set(b"b", "3"), Delete(b"b")]))
        kv.tick(7)
        assert kv.read(Changes()) == Events(
            [
                Event(1, "set", b"a", "1"),
                Event(2, "set", b"a", b"2"),
                Event(3, "set", b"b", "3"),
                Event(3, "delete", b"b"),
                Event(4, "expire", b"a"),
            ],
            5,
        )

    def test_nothing_yet(self, kv: KV) -> None:
        """Who asks for the future has to wait."""
        assert kv.read(Changes()) is LATER
        kv.write(Set(b"a", "1"))
        assert kv.read(Changes(from_revision=2)) is LATER
        assert kv.read(Changes(from_revision=9)) is LATER
        assert kv.read(Changes(b"b")) is LATER
        assert kv.read(Changes(b"a")) == Events([Event(1, "set", b"a", "1")], 2)

    def test_pages(self, kv: KV) -> None:
        """A page may end within what one command did."""
        kv.write(SetMany([(b"a%d" % number, "v") for number in range(5)]))
        kv.write(SetMany([(b"b", "v"), (b"a0", "w")]))
        page = kv.read(Changes(limit=2))
        assert (page.next_revision, page.skip) == (1, 2)
        page = kv.read(Changes(from_revision=1, skip=2, limit=2))
        assert (page.next_revision, page.skip) == (1, 4)
        assert [each.key for each in page.events] == [b"a2", b"a3"]
        page = kv.read(Changes(from_revision=1, skip=4, limit=1))
        assert page == Events([Event(1, "set", b"a4", "v")], 2)
        page = kv.read(Changes(from_revision=1, skip=4, limit=2))
        assert [each.key for each in page.events] == [b"a4", b"b"]
        assert (page.next_revision, page.skip) == (2, 1)
        page = kv.read(Changes(from_revision=2, skip=1, limit=2))
        assert page == Events([Event(2, "set", b"a0", "w")], 3)

    @given(
        writes=st.lists(
            st.lists(st.sampled_from([b"a", b"b", b"ab"]), min_size=1, max_size=9),
            max_size=12,
        ),
        prefix=st.sampled_from([b"", b"a", b"ab", b"c"]),
        limit=st.integers(1, 7),
    )
    def test_all_pages_are_all_events(
        self, writes: list[list[bytes]], prefix: bytes, limit: int
    ) -> None:
        """Each matching event is on one of them, and they are in order."""
        store = make_kv("memory", None)
        expected = []
        for revision, keys in enumerate(writes, 1):
            store.write(SetMany([(key, "v") for key in keys]))
            expected += [
                Event(revision, "set", key, "v")
                for key in keys
                if key.startswith(prefix)
            ]
        assert list(followed(store, prefix, limit=limit)) == expected

    def test_a_page_has_an_end(self, kv: KV) -> None:
        """It fits into a message."""
        for number in range(5):
            kv.write(Set(b"%d" % number, "x" * 400_000))
        page = kv.read(Changes())
        assert [each.key for each in page.events] == [b"0", b"1"]
        assert page.next_revision == 3
        assert len(list(followed(kv))) == 5

    def test_what_does_not_match_is_passed_over(self, kv: KV) -> None:
        """Who waits gets further without an event, but rarely."""
        answers = []
        place = 1
        for _ in range(300):
            kv.write(Set(b"other", "v"))
            answer = kv.read(Changes(b"mine", place))
            if answer is not LATER:
                assert answer.events == []
                place = answer.next_revision
                answers.append(place)
        assert answers == [129, 257]


class KeptTests:
    """How much of it is kept."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_so_many(self, kind: str, tmp_path: Path) -> None:
        """The latest, and who asks for more is told where they begin."""
        kv = make_kv(kind, tmp_path, history=16)
        for number in range(50):
            kv.write(Set(b"k", str(number)))
            with pytest.raises(CompactedError) as raised:
                kv.read(Changes(from_revision=0))
            first = raised.value.first_revision
            events = kv.read(Changes(from_revision=first)).events
            assert [each.revision for each in events] == list(range(first, number + 2))
            assert len(events) == number + 1 or 16 <= len(events) <= 18
            assert str(first) in str(raised.value)
        kv.close()

    @pytest.mark.parametrize("kind", KINDS)
    def test_so_large(self, kind: str, tmp_path: Path) -> None:
        """16 MiB are the most."""
        kv = make_kv(kind, tmp_path)
        for _ in range(40):
            kv.write(Set(b"k", bytes(1 << 20)))
        with pytest.raises(CompactedError) as raised:
            kv.read(Changes())
        kept = 41 - raised.value.first_revision
        assert 13 <= kept <= 15
        assert kv.read(Get(b"k")) == bytes(1 << 20)
        kv.close()

    @pytest.mark.parametrize("kind", KINDS)
    def test_one_revision_that_is_too_large(self, kind: str, tmp_path: Path) -> None:
        """Half of it is not kept: nobody would know that it is half."""
        kv = make_kv(kind, tmp_path, history=8)
        kv.write(Set(b"k", "v"))
        kv.write(SetMany([(b"%d" % number, "v") for number in range(30)]))
        with pytest.raises(CompactedError, match="begins at revision 3"):
            kv.read(Changes(from_revision=2))
        kv.write(Set(b"k", "v"))
        assert kv.read(Changes(from_revision=3)).events == [Event(3, "set", b"k", "v")]
        kv.close()

    @pytest.mark.parametrize("kind", KINDS)
    def test_none(self, kind: str, tmp_path: Path) -> None:
        """Without a history there is a revision, and nothing to watch."""
        kv = make_kv(kind, tmp_path, history=0)
        kv.write(Set(b"k", "v"))
        kv.write(Delete(b"k"))
        assert kv.read(Revision()) == 2
        with pytest.raises(NoHistoryError):
            kv.read(Changes())
        kv.close()
