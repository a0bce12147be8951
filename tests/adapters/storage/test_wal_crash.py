"""What a crash, at any byte and in any sector, leaves of a log of our own."""

from __future__ import annotations

import random
import shutil
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from adapters.storage.wal import WALOptions, WALStorage
from adapters.storage.wal_segment import START, Header, Scan
from consensus.core.values import Entry, EntryKind, HardState
from consensus.errors import StorageError
from consensus.testing.storage import run_of
from consensus.testing.storage_model import Kept, kept

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECTOR = 512

#: The last segment is cut to that, so that it is quickly copied.
SMALL = 8192


class TinyStorage(WALStorage):
    """Segments of some kilobytes, so that a short log has many."""

    unit = 1024


def opened(directory: Path) -> TinyStorage:
    """Return a storage that is open in *directory*."""
    storage = TinyStorage(WALOptions(segment_mib=4))
    storage.open(directory)
    return storage


def copy_tree(source: Path, target: Path) -> None:
    """Copy all but what a thread is just making."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.new"))


def log_of(directory: Path) -> Path:
    """Return the last segment in *directory*."""
    return max((directory / "raft.wal").glob("*.log"))


def look(directory: Path) -> Kept | str:
    """Return what is in *directory*, or why it cannot be read."""
    try:
        with closing(opened(directory)) as storage:
            return kept(storage)
    except StorageError as error:
        return str(error)


def entry(index: int, term: int, size: int, fill: bytes = b"x") -> Entry:
    """Return an entry with a command of *size* bytes."""
    return Entry(index, term, EntryKind.COMMAND, fill * size)


@dataclass
class Torn:
    """
    A log with a last sync that may have reached the disk in part.

    Args:
        directory: Where it is, as the sync left it.
        before: The last segment, as it was before that sync.
        after: The same after it.
        states: What was synced, and what there was after each later write.
    """

    directory: Path
    before: bytes
    after: bytes
    states: list[Kept]

    def span(self) -> tuple[int, int]:
        """Return from where to where the sync changed the segment."""
        differing = [
            at
            for at, (one, other) in enumerate(zip(self.before, self.after, strict=True))
            if one != other
        ]
        return differing[0], differing[-1] + 1

    def with_content(self, directory: Path, content: bytes) -> Path:
        """Return a copy whose last segment has *content*."""
        copy_tree(self.directory, directory)
        log_of(directory).write_bytes(content)
        return directory


def make_torn(directory: Path, writes: list[Callable[[WALStorage], None]]) -> Torn:
    """Sync some writes, and then *writes* with one sync."""
    first = directory / "first"
    first.mkdir()
    storage = WALStorage()
    storage.open(first)
    storage.append([entry(1, 1, 100), entry(2, 1, 200)])
    storage.save_hard_state(HardState(1, "s1"))
    storage.sync()
    storage.append([entry(3, 1, 300)])
    storage.sync()
    before = log_of(first).read_bytes()[:SMALL]
    states = [kept(storage)]
    for write in writes:
        write(storage)
        states.append(kept(storage))
    storage.sync()
    after = log_of(first).read_bytes()[:SMALL]
    copy = directory / "copy"
    copy_tree(first, copy)
    storage.close()
    log_of(copy).write_bytes(after)
    return Torn(copy, before, after, states)


WRITES: list[Callable[[WALStorage], None]] = [
    lambda storage: storage.append([entry(4, 2, 150), entry(5, 2, 10)]),
    lambda storage: storage.save_hard_state(HardState(2, "s2")),
    lambda storage: storage.append([Entry(5, 2, EntryKind.MEMBERSHIP, b"m" * 80)]),
    lambda storage: storage.compact(2, 1),
    lambda storage: storage.append([entry(6, 2, 40), entry(7, 2, 90)]),
]


def check_goes_on(directory: Path, found: Kept) -> None:
    """See that the log can be written on, and what was torn is never back."""
    storage = opened(directory)
    with closing(storage):
        assert kept(storage) == found
        last = storage.last_index()
        for index in range(last + 1, last + 4):
            storage.append([entry(index, 9, 150, b"y")])
            storage.sync()
            # As a crash would leave it, without the mark of a close.
            copy = directory.with_name(f"{directory.name}, {index}")
            copy_tree(directory, copy)
            with closing(opened(copy)) as again:
                assert kept(again) == kept(storage)
            shutil.rmtree(copy)


class TestTornWrite:
    """The last sync was not finished."""

    def test_it_may_end_at_any_byte(self, tmp_path: Path) -> None:
        """Whole records in front are found, all of them when it ends behind."""
        torn = make_torn(tmp_path, WRITES)
        begin, end = torn.span()
        numbers = []
        for cut in range(begin, end + 1):
            content = torn.after[:cut] + torn.before[cut:]
            copy = torn.with_content(tmp_path / str(cut), content)
            with closing(opened(copy)) as storage:
                found = kept(storage)
            numbers.append(torn.states.index(found))
            if cut % 16 == 0:
                check_goes_on(copy, found)
            shutil.rmtree(copy)
        assert numbers == sorted(numbers)
        assert set(numbers) == set(range(len(torn.states)))

    def test_the_file_may_end_at_any_byte(self, tmp_path: Path) -> None:
        """A file that became shorter is like one that was not written."""
        torn = make_torn(tmp_path, WRITES)
        begin, end = torn.span()
        numbers = []
        for cut in range(begin, end + 1, 3):
            copy = torn.with_content(tmp_path / str(cut), torn.after[:cut])
            with closing(opened(copy)) as storage:
                found = kept(storage)
            numbers.append(torn.states.index(found))
            shutil.rmtree(copy)
        assert numbers == sorted(numbers)
        assert numbers[0] == 0

    def test_any_byte_of_it_may_be_wrong(self, tmp_path: Path) -> None:
        """What a torn sector has instead is no record, and ends the log."""
        torn = make_torn(tmp_path, WRITES)
        for at in range(*torn.span()):
            content = bytearray(torn.after)
            content[at] ^= 0x40
            copy = torn.with_content(tmp_path / str(at), bytes(content))
            with closing(opened(copy)) as storage:
                assert kept(storage) in torn.states
            shutil.rmtree(copy)

    def test_sectors_may_arrive_in_any_order(self, tmp_path: Path) -> None:
        """Whichever of them are missing, a prefix is found and can go on."""
        large: list[Callable[[WALStorage], None]] = [
            lambda storage, first=first: storage.append(  # type: ignore[misc]
                [entry(first, 2, 130), entry(first + 1, 2, 200)]
            )
            for first in range(4, 16, 2)
        ]
        torn = make_torn(tmp_path, large)
        begin, end = torn.span()
        sectors = range(begin // SECTOR, (end - 1) // SECTOR + 1)
        assert len(sectors) >= 5
        numbers = set()
        for which in range(1 << len(sectors)):
            content = bytearray(torn.before)
            for bit, sector in enumerate(sectors):
                if which >> bit & 1:
                    place = slice(sector * SECTOR, (sector + 1) * SECTOR)
                    content[place] = torn.after[place]
            copy = torn.with_content(tmp_path / str(which), bytes(content))
            with closing(opened(copy)) as storage:
                found = kept(storage)
            numbers.add(torn.states.index(found))
            check_goes_on(copy, found)
            shutil.rmtree(copy)
        assert {0, len(torn.states) - 1} < numbers

    def test_a_record_that_fits_in_front_of_an_old_one_does_not_revive_it(
        self, tmp_path: Path
    ) -> None:
        """Behind a torn record nothing is written into the same segment."""
        writes: list[Callable[[WALStorage], None]] = [
            lambda storage: storage.append([entry(4, 2, 600)]),
            lambda storage: storage.append([entry(5, 2, 10)]),
        ]
        torn = make_torn(tmp_path, writes)
        begin, _ = torn.span()
        content = bytearray(torn.after)
        # The middle of the first record is lost, the second is there.
        content[begin + 200 : begin + 300] = bytes(100)
        copy = torn.with_content(tmp_path / "lost", bytes(content))
        with closing(opened(copy)) as storage:
            assert storage.last_index() == 3
            # As long as the one that was torn, so that the old one follows.
            storage.append([entry(4, 3, 600, b"z")])
            storage.sync()
            copy_tree(copy, tmp_path / "crash")
        with closing(opened(tmp_path / "crash")) as storage:
            assert storage.last_index() == 4
            assert storage.term(4) == 3


class TestDamage:
    """What was synced, and is not as it was."""

    def test_no_byte_of_it_goes_unnoticed(self, tmp_path: Path) -> None:
        """A record that was written after the sync of a bad one gives it away."""
        torn = make_torn(tmp_path, WRITES)
        with closing(opened(torn.directory)) as storage:
            expected = kept(storage)
        content = log_of(torn.directory).read_bytes()
        _, end = torn.span()
        unnoticed = []
        for at in range(end):
            changed = bytearray(content)
            changed[at] ^= 0x40
            copy = torn.with_content(tmp_path / str(at), bytes(changed))
            found = look(copy)
            if found == expected:
                unnoticed.append(at)
            else:
                assert str(copy) in str(found)
            shutil.rmtree(copy)
        # Sixteen bytes of the header are not used.
        assert unnoticed == list(range(48, 64))

    def test_no_sector_of_it_may_be_lost(self, tmp_path: Path) -> None:
        """Zeros instead of what was synced are not taken for the end of the log."""
        torn = make_torn(tmp_path, WRITES)
        begin, _ = torn.span()
        for start in range(0, begin, SECTOR):
            content = bytearray(torn.after)
            end = min(start + SECTOR, begin)
            content[start:end] = bytes(end - start)
            copy = torn.with_content(tmp_path / str(start), bytes(content))
            with pytest.raises(StorageError, match=r"damaged|not a segment"):
                opened(copy)

    def test_it_says_which_entry_it_is(self, tmp_path: Path) -> None:
        """The first that cannot be read, with the file and the way out."""
        torn = make_torn(tmp_path, WRITES)
        content = bytearray(torn.after)
        content[content.rindex(b"x" * 300) + 20] ^= 1
        copy = torn.with_content(tmp_path / "damaged", bytes(content))
        with pytest.raises(
            StorageError, match=r"^\S+01\.log: entry 3 is damaged; .*replace"
        ):
            opened(copy)

    def test_it_says_that_it_is_the_vote(self, tmp_path: Path) -> None:
        """So it does when it is the term and the vote."""
        torn = make_torn(tmp_path, WRITES)
        content = bytearray(torn.after)
        content[content.index(b"\x01s1")] ^= 1
        copy = torn.with_content(tmp_path / "damaged", bytes(content))
        with pytest.raises(StorageError, match="term and vote are damaged"):
            opened(copy)


def test_random_crashes(tmp_path: Path) -> None:
    """
    Segments that are used again and again never show what they held before.

    A random log goes through tiny segments; after some of its syncs each sector
    that the sync wrote is there or not, by lot, and so are new names.
    """
    draw = random.Random(7)  # noqa: S311 - reproducible, not secret
    first, before = tmp_path / "first", tmp_path / "before"
    first.mkdir()
    used: set[int] = set()
    with closing(opened(first)) as storage:
        for number in range(400):
            if number % 4 == 0:
                copy_tree(first, before)
            states = [kept(storage)]
            for _ in range(draw.randint(1, 4)):
                write_something(storage, draw)
                states.append(kept(storage))
            storage.sync()
            used.update(each.stat().st_ino for each in first.rglob("*.log"))
            if number % 4 == 0:
                check_crash(first, before, states, draw)
                shutil.rmtree(before)
        numbers = [int(each.stem) for each in first.rglob("*.log")]
    assert max(numbers) > 50
    # Most segments were made of old ones.
    assert len(used) < max(numbers) / 2


def write_something(storage: WALStorage, draw: random.Random) -> None:
    """Append, compact or vote, by lot."""
    last, term = storage.last_index(), storage.term(storage.last_index())
    choice = draw.random()
    if choice < 0.1:
        storage.save_hard_state(HardState(draw.randint(1, 99), draw.choice("abc")))
    elif choice < 0.3:
        index = draw.randint(storage.first_index() - 1, last)
        storage.compact(index, storage.term(index))
    elif choice < 0.32:
        storage.compact(last + draw.randint(0, 3), term + 1)
    else:
        back = draw.choice([0, 0, 0, 1, 3])
        index = max(last + 1 - back, storage.first_index())
        newer = term + (back > 0)
        fill = bytes([draw.randrange(256)])
        count = draw.randint(1, 4)
        storage.append(
            [
                entry(each, newer, draw.randrange(200), fill)
                for each in range(index, index + count)
            ]
        )


def check_crash(
    first: Path, before: Path, states: list[Kept], draw: random.Random
) -> None:
    """Mix what there was *before* a sync with what is there now, and open that."""
    for number in range(3):
        copy = first.with_name(f"crash {number}")
        copy_tree(first, copy)
        log = log_of(copy)
        old = before / "raft.wal" / log.name
        is_torn = draw.random() < 0.8
        if is_torn and old.exists():
            log.write_bytes(mixed(old.read_bytes(), log.read_bytes(), draw))
        elif is_torn and draw.random() < 0.5:
            # The segment has been begun, but not got its name.
            log.rename(log.with_suffix(".spare"))
        elif is_torn:
            content = log.read_bytes()
            beginning = content[: end_of_beginning(log)].ljust(len(content), b"?")
            log.write_bytes(mixed(beginning, content, draw))
        for gone in (before / "raft.wal").glob("*.log"):
            # A segment is given back after the sync, but may keep its old name.
            if gone.name < log.name and (is_torn or draw.random() < 0.5):
                shutil.copy(gone, copy / "raft.wal")
        with closing(opened(copy)) as storage:
            found = kept(storage)
        assert found in (states if is_torn else states[-1:])
        check_goes_on(copy, found)
        shutil.rmtree(copy)


def end_of_beginning(path: Path) -> int:
    """Return where the record ends that a segment begins with."""
    with path.open("rb", buffering=0) as file:
        header = Header.unpack(file.read(START))
        assert header is not None
        return next(iter(Scan(file, header.salt, SMALL))).size + START


def mixed(old: bytes, new: bytes, draw: random.Random) -> bytes:
    """Return *old* with some of the sectors of *new*."""
    chance = draw.random()
    content = bytearray(old)
    for start in range(0, len(new), SECTOR):
        if draw.random() < chance:
            content[start : start + SECTOR] = new[start : start + SECTOR]
    return bytes(content)


class TestSegments:
    """Segments come and go, and none is missed or missing unnoticed."""

    def fill(self, directory: Path, count: int = 60) -> Kept:
        """Leave a log of several segments; return it."""
        with closing(opened(directory)) as storage:
            for index in range(1, count + 1):
                storage.append([entry(index, 1, 150)])
                storage.sync()
            return kept(storage)

    def test_each_of_them_is_needed(self, tmp_path: Path) -> None:
        """Whichever is gone, the start says so."""
        source = tmp_path / "source"
        source.mkdir()
        self.fill(source)
        names = sorted(each.name for each in source.rglob("*.log"))
        assert len(names) >= 4
        for name in names[:-1]:
            copy = tmp_path / name
            copy_tree(source, copy)
            (copy / "raft.wal" / name).unlink()
            with pytest.raises(StorageError, match=rf"{name} is gone; .*replace"):
                opened(copy)

    def test_a_segment_of_another_log_is_noticed(self, tmp_path: Path) -> None:
        """Each says which one was before it."""
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            self.fill(tmp_path / name)
        names = sorted(each.name for each in (tmp_path / "one").rglob("*.log"))
        path = f"raft.wal/{names[1]}"
        shutil.copy(tmp_path / "one" / path, tmp_path / "two" / path)
        with pytest.raises(StorageError, match="is not the segment that was here"):
            opened(tmp_path / "two")

    def test_no_byte_of_an_old_segment_goes_unnoticed(self, tmp_path: Path) -> None:
        """Its end is known, so that the last record in it can be checked, too."""
        source = tmp_path / "source"
        source.mkdir()
        expected = self.fill(source)
        name = sorted(each.name for each in source.rglob("*.log"))[1]
        content = (source / "raft.wal" / name).read_bytes()
        same = 0
        for at in range(len(content)):
            copy = tmp_path / "copy"
            copy_tree(source, copy)
            changed = bytearray(content)
            changed[at] ^= 0x10
            (copy / "raft.wal" / name).write_bytes(changed)
            found = look(copy)
            if found == expected:
                same += 1
            else:
                assert name in str(found)
            shutil.rmtree(copy)
        # Sixteen bytes of the header, and what did not fit the next record.
        assert 16 <= same < 16 + 250

    def test_what_a_compaction_left_over_is_no_part_of_the_log(
        self, tmp_path: Path
    ) -> None:
        """A segment that is not needed is given back, whatever is in it."""
        self.fill(tmp_path)
        old = min((tmp_path / "raft.wal").glob("*.log"))
        with closing(opened(tmp_path)) as storage:
            storage.compact(50, 1)
            storage.sync()
            expected = kept(storage)
        assert not old.exists()
        old.write_bytes(b"anything")
        with closing(opened(tmp_path)) as storage:
            assert kept(storage) == expected
        assert not old.exists()

    def test_a_compaction_that_was_not_synced_gives_nothing_back(
        self, tmp_path: Path
    ) -> None:
        """No segment goes before the disk knows that it is not needed."""
        expected = self.fill(tmp_path)
        names = sorted((tmp_path / "raft.wal").glob("*.log"))
        with closing(opened(tmp_path)) as storage:
            storage.compact(50, 1)
            assert sorted((tmp_path / "raft.wal").glob("*.log")) == names
        with closing(opened(tmp_path)) as storage:
            assert kept(storage) == expected

    def test_an_append_over_everything_after_a_compaction_spares_the_log(
        self, tmp_path: Path
    ) -> None:
        """A crash between the two in one sync still finds what the first one kept."""
        self.fill(tmp_path, 20)
        with closing(opened(tmp_path)) as storage:
            before = log_of(tmp_path).read_bytes()
            end = len(before.rstrip(b"\0"))
            storage.compact(5, 1)
            expected = kept(storage)
            storage.append([entry(6, 2, 10)])
            storage.sync()
            names = {each.name for each in tmp_path.rglob("*.log")}
            copy_tree(tmp_path, tmp_path / "copy")
        log = log_of(tmp_path / "copy")
        content = bytearray(log.read_bytes())
        at = content.index(b"x" * 10, end)
        content[at] ^= 1
        log.write_bytes(content)
        with closing(opened(tmp_path / "copy")) as storage:
            assert kept(storage) == expected
        assert len(names) > 1

    def test_a_large_append_has_a_segment_of_its_own(self, tmp_path: Path) -> None:
        """One that is larger than any segment is written in one piece all the same."""
        with closing(opened(tmp_path)) as storage:
            storage.append(run_of(1, 3))
            storage.append([entry(4, 1, 100_000), entry(5, 1, 3)])
            storage.sync()
            expected = kept(storage)
            copy_tree(tmp_path, tmp_path / "copy")
        for directory in (tmp_path, tmp_path / "copy"):
            with closing(opened(directory)) as storage:
                assert kept(storage) == expected
