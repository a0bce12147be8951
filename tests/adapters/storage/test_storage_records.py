"""The records that storages on disk have in common."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from crc32c import crc32c

from adapters.storage import records
from adapters.storage.records import Extent
from consensus.core.values import Entry, EntryKind, HardState
from consensus.errors import CompactedError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ENTRIES = [
    Entry(7, 3, EntryKind.COMMAND, b"command"),
    Entry(8, 3, EntryKind.COMMAND, b""),
    Entry(9, 4, EntryKind.NOOP, b""),
]
PLENTY = 1 << 30


def commands(first: int, sizes: Iterable[int], term: int = 1) -> list[Entry]:
    """Return entries from *first* on, with commands of *sizes*."""
    return [
        Entry(index, term, EntryKind.COMMAND, bytes([index % 256]) * size)
        for index, size in enumerate(sizes, first)
    ]


def record_of(entries: list[Entry]) -> bytes:
    """Return the record of the only batch of *entries*."""
    ((batch, packed),) = records.pack_batches(entries)
    assert batch == entries
    return records.seal_batch(entries[0].index, packed)


class BatchTests:
    """Records of batches."""

    def test_bytes_on_disk(self) -> None:
        """The format is what the reference says; it never changes by accident."""
        body = (
            struct.pack(">II", 3, 2)
            + struct.pack(">QBI", 3, 1, 2)
            + struct.pack(">QBI", 4, 0, 1)
            + struct.pack(">III", 7, 0, 0)
            + b"command"
        )
        crc = crc32c(struct.pack(">q", 7) + body)
        assert record_of(ENTRIES) == struct.pack(">I", crc) + body

    def test_it_is_a_castagnoli_sum(self) -> None:
        """The check value of CRC-32C is this one, and that of CRC-32 another."""
        assert crc32c(b"123456789") == 0xE3069283

    def test_round_trip(self) -> None:
        """What was sealed is opened."""
        assert records.open_batch("file", 7, record_of(ENTRIES)) == ENTRIES

    def test_something_may_stand_before_the_entries(self) -> None:
        """An adapter's own bytes count in the CRC-32C."""
        ((_, packed),) = records.pack_batches(ENTRIES)
        record = records.seal_batch(7, b"12345678" + packed)
        assert records.open_batch("file", 7, record, 8) == ENTRIES
        with pytest.raises(StorageError, match="from 7 on is damaged"):
            records.open_batch("file", 7, record.replace(b"1234", b"1243"), 8)

    @pytest.mark.parametrize("position", range(57))
    def test_each_byte_counts(self, position: int) -> None:
        """A flipped bit anywhere is damage."""
        value = bytearray(record_of(ENTRIES))
        assert len(value) == 57
        value[position] ^= 16
        with pytest.raises(
            StorageError,
            match=r"^file: the batch of entries from 7 on is damaged; ",
        ):
            records.open_batch("file", 7, bytes(value))

    @pytest.mark.parametrize("length", range(57))
    def test_a_record_cut_off_is_damaged(self, length: int) -> None:
        """Wherever it ends too early."""
        with pytest.raises(StorageError, match="from 7 on is damaged"):
            records.open_batch("file", 7, record_of(ENTRIES)[:length])

    def test_the_index_counts(self) -> None:
        """A record under another key is damage."""
        with pytest.raises(StorageError, match="from 8 on is damaged"):
            records.open_batch("file", 8, record_of(ENTRIES))

    @pytest.mark.parametrize("body", [b"", b"nonsense", bytes(8)])
    def test_a_good_sum_is_not_enough(self, body: bytes) -> None:
        """What is under it has to be entries, and one at least."""
        with pytest.raises(StorageError, match="from 7 on is damaged"):
            records.open_batch("file", 7, records.seal_batch(7, body))

    @pytest.mark.parametrize(
        ("sizes", "lengths"),
        [
            ([10] * 4096, [4096]),
            ([10] * 4097, [4096, 1]),
            ([0] * 9000, [4096, 4096, 808]),
            ([1 << 20], [1]),
            ([3 << 20], [1]),
            ([1 << 19, 1 << 19], [2]),
            ([1 << 19, 1 << 19, 1], [2, 1]),
            ([10, 3 << 20, 3 << 20, 10, 10], [1, 1, 1, 2]),
        ],
    )
    def test_a_large_append_makes_several(
        self, sizes: list[int], lengths: list[int]
    ) -> None:
        """None has more than 4096 entries or, with two, 1 MiB of commands."""
        entries = commands(5, sizes)
        batches = records.pack_batches(entries)
        assert [len(batch) for batch, _ in batches] == lengths
        found = [
            records.unpack_batch("file", batch[0].index, packed)
            for batch, packed in batches
        ]
        assert [entry for batch in found for entry in batch] == entries


BATCHES = (commands(1, [4, 4]), commands(3, [4]), commands(4, [4, 4, 0, 4]))
ALL = [entry for batch in BATCHES for entry in batch]


class GatherTests:
    """Entries of several batches."""

    def gather(self, first: int, last: int, max_bytes: int = PLENTY) -> list[Entry]:
        """Return what there is, from the batch on that *first* is in."""
        begins = [batch[0].index <= first for batch in BATCHES]
        batches = BATCHES[begins.count(True) - 1 :]
        return records.gather("file", batches, first, last, max_bytes)

    def test_every_range(self) -> None:
        """Both ends are included, wherever in a batch they are."""
        for first in range(1, 8):
            for last in range(first, 8):
                assert self.gather(first, last) == ALL[first - 1 : last]

    @pytest.mark.parametrize(
        ("first", "max_bytes", "last"),
        [
            *((1, 0, 1), (1, 7, 1), (1, 8, 2), (2, 8, 3), (2, 11, 3), (2, 12, 4)),
            *((4, 8, 6), (5, 0, 5), (5, 4, 6), (6, 0, 6), (6, 4, 7), (1, 24, 7)),
        ],
    )
    def test_it_stops_at_max_bytes(self, first: int, max_bytes: int, last: int) -> None:
        """At least the first comes back; what has no bytes always fits."""
        assert self.gather(first, 7, max_bytes) == ALL[first - 1 : last]

    def test_what_ends_too_early_is_missing(self) -> None:
        """The first that is not there is named."""
        with pytest.raises(StorageError, match=r"^file: entry 8 is missing; .*replace"):
            self.gather(1, 9)

    @pytest.mark.parametrize(
        ("batches", "index"),
        [
            ([], 2),
            ([commands(1, [1])], 2),
            ([commands(3, [1])], 2),
            ([commands(1, [1, 1]), commands(4, [1])], 3),
        ],
    )
    def test_a_hole_is_noticed(self, batches: list[list[Entry]], index: int) -> None:
        """So is one before the first."""
        with pytest.raises(StorageError, match=f"entry {index} is missing"):
            records.gather("file", batches, 2, 4, PLENTY)

    def test_an_entry_that_is_there_twice_is_noticed(self) -> None:
        """Nobody knows which of them counts."""
        batches = [commands(1, [1, 1]), commands(2, [1, 1])]
        with pytest.raises(StorageError, match="from 2 on is damaged"):
            records.gather("file", batches, 1, 3, PLENTY)

    def test_no_more_is_read_than_needed(self) -> None:
        """Damage behind the last entry asked for is nobody's concern."""

        def batches() -> Iterator[list[Entry]]:
            yield commands(1, [4, 4])
            raise StorageError("damaged")

        assert records.gather("file", batches(), 1, 2, 99) == commands(1, [4, 4])
        assert records.gather("file", batches(), 1, 9, 4) == commands(1, [4])


class HardStateTests:
    """Records of term and vote."""

    @pytest.mark.parametrize("vote", [None, "", "s1", "Łódź"])
    def test_round_trip(self, vote: str | None) -> None:
        """No vote is not a vote for nobody."""
        hard_state = HardState(5, vote)
        packed = records.pack_hard_state(hard_state)
        assert records.unpack_hard_state("file", packed) == hard_state

    @pytest.mark.parametrize("record", [None, b"", b"short", bytes(12), bytes(13)])
    def test_damage(self, record: bytes | None) -> None:
        """A record that is gone is damaged, too."""
        with pytest.raises(StorageError, match=r"^file: the term and vote are damaged"):
            records.unpack_hard_state("file", record)


class ExtentTests:
    """What is known of a log without a look at its entries."""

    def test_round_trip(self) -> None:
        """All but the last index is in the record."""
        extent = Extent(5, 2, 9, (6, 8))
        assert Extent.unpack("file", extent.pack()) == Extent(5, 2, 5, (6, 8))

    @pytest.mark.parametrize("record", [None, b"", bytes(20), b"x" * 21])
    def test_damage(self, record: bytes | None) -> None:
        """Without it nobody knows what was dropped."""
        with pytest.raises(StorageError, match="where the log begins is damaged"):
            Extent.unpack("file", record)

    @pytest.mark.parametrize(
        ("indexes", "message"),
        [
            ([], "nothing"),
            ([5], "entry 5 has been dropped, up to 5"),
            ([11], "entry 11 does not follow 9"),
            ([9, 11], "entry 11 stands in the place of 10"),
        ],
    )
    def test_what_does_not_follow(self, indexes: list[int], message: str) -> None:
        """The sentence says what is wrong."""
        entries = [Entry(index, 3, EntryKind.COMMAND, b"") for index in indexes]
        with pytest.raises(StorageError, match=message):
            Extent(5, 2, 9).check_append(entries)

    def test_bounds(self) -> None:
        """Below it is CompactedError, above it StorageError."""
        extent = Extent(5, 2, 9)
        extent.check_range(6, 9)
        with pytest.raises(CompactedError):
            extent.check_range(5, 9)
        with pytest.raises(StorageError, match="beyond the last, 9"):
            extent.check_range(6, 10)
