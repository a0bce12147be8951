"""The records that storages on disk have in common."""

from __future__ import annotations

import struct

import pytest
from crc32c import crc32c

from adapters.storage import records
from adapters.storage.records import Extent
from consensus.core.values import Entry, EntryKind, HardState
from consensus.errors import CompactedError, StorageError

ENTRY = Entry(7, 3, EntryKind.COMMAND, b"command")


class EntryTests:
    """Records of entries."""

    def test_bytes_on_disk(self) -> None:
        """The format is what the reference says; it never changes by accident."""
        body = struct.pack(">qB", 3, 1) + b"command"
        crc = crc32c(struct.pack(">q", 7) + body)
        assert records.pack_entry(ENTRY) == struct.pack(">I", crc) + body

    def test_it_is_a_castagnoli_sum(self) -> None:
        """The check value of CRC-32C is this one, and that of CRC-32 another."""
        assert crc32c(b"123456789") == 0xE3069283

    @pytest.mark.parametrize("position", range(20))
    def test_each_byte_counts(self, position: int) -> None:
        """A flipped bit anywhere is damage."""
        value = bytearray(records.pack_entry(ENTRY))
        value[position] ^= 16
        with pytest.raises(StorageError, match=r"^file: entry 7 is damaged; .*replace"):
            records.checked("file", [records.split_entry(7, bytes(value))], 7, 7, 99)

    def test_the_index_counts(self) -> None:
        """A record under another key is damage."""
        record = records.split_entry(8, records.pack_entry(ENTRY))
        with pytest.raises(StorageError, match="entry 8 is damaged"):
            records.checked("file", [record], 8, 8, 99)

    def test_what_ends_too_early_is_missing(self) -> None:
        """The first that is not there is named."""
        record = records.split_entry(7, records.pack_entry(ENTRY))
        with pytest.raises(StorageError, match="entry 8 is missing"):
            records.checked("file", [record], 7, 9, 99)

    def test_no_more_is_read_than_needed(self) -> None:
        """Damage behind the last entry asked for is nobody's concern."""
        good = records.split_entry(7, records.pack_entry(ENTRY))
        bad = records.split_entry(8, b"")
        assert records.checked("file", iter([good, bad]), 7, 7, 99) == [ENTRY]


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
