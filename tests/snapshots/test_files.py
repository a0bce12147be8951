"""Tests of consensus.snapshots.files."""

from __future__ import annotations

import errno
import os
import resource
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, NoReturn

import pytest
from crc32c import crc32c
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consensus.core.values import SnapshotMeta
from consensus.errors import (
    CompactedError,
    DiskFullError,
    InvariantError,
    ProtocolError,
    StorageError,
)
from consensus.snapshots.files import (
    CHUNK_BYTES,
    FileSnapshots,
    MemorySnapshots,
    SnapshotStore,
    split,
)
from tests.snapshot_forever import content_of, meta_of
from tests.support.snapshots import (
    CONTENT,
    META,
    commit,
    content_in,
    files,
    fill,
    finish,
    only_file,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class SplitTests:
    """Pieces of any size become chunks of one size."""

    @given(
        st.lists(
            st.integers(0, 2)
            | st.integers(CHUNK_BYTES - 2, CHUNK_BYTES + 2)
            | st.integers(0, 4 * CHUNK_BYTES)
        )
    )
    @settings(max_examples=50)
    def test_any_pieces(self, sizes: list[int]) -> None:
        """All but the last are full, the last is not empty, and nothing is lost."""
        pieces = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
        chunks = list(split(pieces))
        assert b"".join(chunks) == b"".join(pieces)
        assert {len(chunk) for chunk in chunks[:-1]} <= {CHUNK_BYTES}
        assert len(chunks[-1]) <= CHUNK_BYTES
        assert len(chunks[-1]) > 0 or len(chunks) == 1

    def test_nothing(self) -> None:
        """Nothing at all is one empty chunk."""
        assert list(split([])) == list(split([b"", b""])) == [b""]

    def test_it_takes_no_more_than_it_needs(self) -> None:
        """A chunk comes out as soon as it is full."""
        pieces = iter([b"a" * CHUNK_BYTES, b"b"])
        chunks = split(pieces)
        assert next(chunks) == b"a" * CHUNK_BYTES
        assert next(pieces) == b"b"


class StoreTests:
    """What holds for every store."""

    @pytest.fixture(params=[FileSnapshots, MemorySnapshots])
    def store(
        self, request: pytest.FixtureRequest, tmp_path: Path
    ) -> Iterator[SnapshotStore]:
        """Return one of each, new."""
        is_file = request.param is FileSnapshots
        store = FileSnapshots(tmp_path) if is_file else MemorySnapshots()
        yield store
        store.close()

    def test_a_new_one_is_empty(self, store: SnapshotStore) -> None:
        assert store.latest is None
        with pytest.raises(CompactedError):
            store.chunk(META, 0)
        with pytest.raises(CompactedError):
            list(store.chunks(META))

    def test_a_round_trip(self, store: SnapshotStore) -> None:
        """The meta is completed, and all chunks come back, singly too."""
        meta = commit(store, META, CONTENT)
        assert meta == replace(META, chunks=3, size=153600, checksum=crc32c(CONTENT))
        assert store.latest == meta
        assert content_in(store, meta) == CONTENT
        assert [store.chunk(meta, number) for number in range(3)] == list(
            split([CONTENT])
        )

    @pytest.mark.parametrize("content", [b"", b"x", b"x" * CHUNK_BYTES])
    def test_one_chunk(self, store: SnapshotStore, content: bytes) -> None:
        """A small snapshot has one chunk, and so has an empty one."""
        meta = commit(store, META, content)
        assert (meta.chunks, meta.size) == (1, len(content))
        assert store.chunk(meta, 0) == content

    def test_before_the_commit_it_does_not_count(self, store: SnapshotStore) -> None:
        """Neither while it is written nor when it is finished."""
        writer = write(store, META, CONTENT)
        assert store.latest is None
        meta = writer.finish()
        assert writer.finish() == meta
        assert store.latest is None
        with pytest.raises(CompactedError):
            store.chunk(meta, 0)

    def test_an_aborted_one_is_gone(self, store: SnapshotStore) -> None:
        """It may be aborted at any time, twice too, and cannot be used then."""
        finished = write(store, META, CONTENT)
        finished.finish()
        for writer in (store.begin(META), write(store, META, CONTENT), finished):
            writer.abort()
            writer.abort()
            with pytest.raises(InvariantError):
                writer.write(b"")
            with pytest.raises(InvariantError):
                writer.commit()
        with pytest.raises(InvariantError):
            store.begin(META).commit()
        begun = store.begin(META)
        begun.abort()
        with pytest.raises(InvariantError):
            begun.finish()
        assert store.latest is None

    def test_an_abort_after_the_commit_does_nothing(self, store: SnapshotStore) -> None:
        writer = write(store, META, CONTENT)
        meta = writer.finish()
        writer.commit()
        writer.abort()
        assert content_in(store, meta) == CONTENT

    def test_only_what_is_finished_is_committed(self, store: SnapshotStore) -> None:
        """And nothing can be added to that."""
        writer = write(store, META, CONTENT)
        with pytest.raises(InvariantError):
            writer.commit()
        writer.finish()
        with pytest.raises(InvariantError):
            writer.write(b"x")

    def test_the_one_before_is_kept(self, store: SnapshotStore) -> None:
        """Whoever sends it can go on; only the next commit takes it away."""
        metas = [commit(store, meta_of(index), content_of(index)) for index in (1, 2)]
        assert store.latest == metas[1]
        assert content_in(store, metas[0]) == content_of(1)
        metas.append(commit(store, meta_of(3), content_of(3)))
        with pytest.raises(CompactedError):
            store.chunk(metas[0], 0)
        assert content_in(store, metas[1]) == content_of(2)
        assert content_in(store, metas[2]) == content_of(3)

    def test_who_reads_goes_on_reading(self, store: SnapshotStore) -> None:
        """Commits meanwhile do not take a snapshot out of a reader's hands."""
        chunks = store.chunks(commit(store, META, CONTENT))
        start = next(chunks)
        for index in (8, 9, 10):
            commit(store, meta_of(index), b"")
        assert start + b"".join(chunks) == CONTENT

    @pytest.mark.parametrize("index", [6, 7])
    def test_what_is_no_newer_goes(self, store: SnapshotStore, index: int) -> None:
        """A snapshot that comes too late changes nothing."""
        meta = commit(store, META, CONTENT)
        late = commit(store, replace(META, index=index), b"late")
        assert store.latest == meta
        assert content_in(store, meta) == CONTENT
        with pytest.raises(CompactedError):
            store.chunk(late, 0)

    def test_two_at_a_time(self, store: SnapshotStore) -> None:
        """One may be taken while another is received, even of the same index."""
        one, two = store.begin(META), store.begin(META)
        one.write(b"one")
        two.write(b"two")
        one.finish()
        meta = two.finish()
        two.commit()
        one.commit()
        assert content_in(store, meta) == b"two"

    def test_a_meta_that_is_another(self, store: SnapshotStore) -> None:
        """The checksum tells snapshots of the same index apart."""
        meta = commit(store, META, CONTENT)
        with pytest.raises(CompactedError):
            store.chunk(replace(meta, checksum=1), 0)

    @pytest.mark.parametrize("number", [-1, 3, 1 << 70])
    def test_a_chunk_that_is_not_there(self, store: SnapshotStore, number: int) -> None:
        """Who asks for one breaks the protocol; nothing is damaged."""
        meta = commit(store, META, CONTENT)
        with pytest.raises(ProtocolError, match="has 3 chunks"):
            store.chunk(meta, number)

    @pytest.mark.parametrize(
        ("chunks", "bad"),
        [
            ([], b"x" * (CHUNK_BYTES + 1)),
            ([b"short"], b"x"),
            ([b""], b"x"),
            ([b""], b""),
            ([b"x" * CHUNK_BYTES], b""),
        ],
    )
    def test_a_chunk_that_cannot_follow(
        self, store: SnapshotStore, chunks: list[bytes], bad: bytes
    ) -> None:
        """It is refused, and what was there before can still be finished."""
        writer = store.begin(META)
        for chunk in chunks:
            writer.write(chunk)
        with pytest.raises(ProtocolError):
            writer.write(bad)
        if chunks:
            assert writer.finish().checksum == crc32c(b"".join(chunks))
        else:
            with pytest.raises(ProtocolError, match="without a chunk"):
                writer.finish()
        writer.abort()

    @pytest.mark.parametrize(
        "change",
        [
            {"index": 0},
            {"index": -5},
            {"index": 1 << 63},
            {"term": -1},
            {"term": 1 << 63},
            {"membership_index": -1},
            {"membership_index": 8},
        ],
    )
    def test_a_meta_that_makes_no_sense(
        self, store: SnapshotStore, change: dict[str, int]
    ) -> None:
        """What a stranger announces is looked at."""
        with pytest.raises(ProtocolError):
            store.begin(SnapshotMeta(**(asdict(META) | change)))

    def test_close_gives_up_what_is_being_written(self, store: SnapshotStore) -> None:
        meta = commit(store, META, CONTENT)
        write(store, replace(META, index=8), CONTENT)
        store.close()
        assert store.latest == meta


class FileTests:
    """What a restart finds."""

    def test_a_restart_finds_the_latest(self, tmp_path: Path) -> None:
        """And its meta, with the membership; what is older is deleted."""
        store = FileSnapshots(tmp_path)
        metas = [commit(store, meta_of(index), content_of(index)) for index in (9, 10)]
        assert len(files(tmp_path)) == 2
        again = FileSnapshots(tmp_path)
        assert again.latest == metas[1]
        assert content_in(again, again.latest) == content_of(10)
        assert files(tmp_path) == ["00000000000000000010-2.snapshot"]

    def test_leftovers_go_and_strangers_stay(self, tmp_path: Path) -> None:
        """Only what has a name of ours is ours to delete."""
        store = FileSnapshots(tmp_path)
        write(store, META, CONTENT)
        write(store, META, CONTENT).finish()
        assert len(files(tmp_path)) == 2
        (tmp_path / "snapshots" / "notes.new").touch()
        assert FileSnapshots(tmp_path).latest is None
        assert files(tmp_path) == ["notes.new"]
        store.close()

    def test_close_and_abort_delete_their_files(self, tmp_path: Path) -> None:
        store = FileSnapshots(tmp_path)
        write(store, META, CONTENT).finish()
        write(store, META, CONTENT)
        write(store, META, CONTENT).abort()
        assert len(files(tmp_path)) == 2
        store.close()
        assert files(tmp_path) == []

    def test_at_most_two_are_kept(self, tmp_path: Path) -> None:
        store = FileSnapshots(tmp_path)
        for index in (1, 2, 3, 2):
            commit(store, meta_of(index), b"")
        assert [int(name[:20]) for name in files(tmp_path)] == [2, 3]

    def test_nobody_else_may_read_them(self, tmp_path: Path) -> None:
        """They hold what the service holds."""
        commit(FileSnapshots(tmp_path), META, CONTENT)
        assert only_file(tmp_path).stat().st_mode & 0o077 == 0
        assert only_file(tmp_path).parent.stat().st_mode & 0o077 == 0

    @given(content=st.binary(max_size=300), copies=st.integers(0, 900))
    @settings(
        max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    def test_any_content(self, tmp_path: Path, content: bytes, copies: int) -> None:
        """Whatever was written is found again."""
        directory = tmp_path / os.urandom(8).hex()
        directory.mkdir()
        meta = commit(FileSnapshots(directory), META, content * copies)
        store = FileSnapshots(directory)
        assert store.latest == meta
        assert content_in(store, meta) == content * copies

    def test_a_large_one_is_synced_in_between(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """So that its end does not hold up the disk for all of it."""
        synced: list[int] = []
        monkeypatch.setattr(os, "fdatasync", synced.append)
        writer = FileSnapshots(tmp_path).begin(META)
        for _ in range(2 * 8 * 1024 * 1024 // CHUNK_BYTES + 2):
            writer.write(bytes(CHUNK_BYTES))
        assert len(synced) == 2
        writer.abort()


class HeldTests:
    """A snapshot that is held can be read, whatever takes its place."""

    def test_without_its_name(self, tmp_path: Path) -> None:
        """Its file may be deleted; its room is free when it is closed."""
        store = FileSnapshots(tmp_path)
        meta = commit(store, META, CONTENT)
        held = store.hold(meta)
        for index in (8, 9, 10):
            commit(store, replace(META, index=index), b"newer")
        with pytest.raises(CompactedError):
            store.hold(meta)
        assert len(files(tmp_path)) == 2
        read = b"".join(held.chunk(number) for number in range(meta.chunks))
        assert read == CONTENT
        held.close()
        with pytest.raises(ValueError, match="closed"):
            held.chunk(0)

    def test_damage(self, tmp_path: Path) -> None:
        """A damaged chunk is refused, like everywhere."""
        store = FileSnapshots(tmp_path)
        held = store.hold(commit(store, META, CONTENT))
        (path,) = files(tmp_path)
        data = bytearray((tmp_path / "snapshots" / path).read_bytes())
        data[len(data) // 2] ^= 1
        (tmp_path / "snapshots" / path).write_bytes(data)
        with pytest.raises(StorageError, match="chunk 1 of 3 is wrong"):
            held.chunk(1)
        held.close()


def no_room(*_: object) -> NoReturn:
    """Fail as a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FullDiskTests:
    """A full disk costs the snapshot that is being written, and nothing else."""

    @pytest.mark.parametrize("copies", [1, 99])
    def test_no_room(
        self, copies: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The file is gone, the latest is what it was, and the next one works."""
        store = FileSnapshots(tmp_path)
        meta = commit(store, META, CONTENT)
        writer = store.begin(replace(META, index=8))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", no_room)
            with pytest.raises(DiskFullError, match="no room"):
                finish(writer, CONTENT * copies)
        assert len(files(tmp_path)) == 1
        assert store.latest == meta
        with pytest.raises(InvariantError):
            writer.write(b"")
        writer.abort()
        assert commit(store, replace(META, index=8), b"") == store.latest

    def test_no_room_for_a_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A commit that fails leaves the latest as it was."""
        store = FileSnapshots(tmp_path)
        meta = commit(store, META, CONTENT)
        writer = write(store, replace(META, index=8), CONTENT)
        writer.finish()
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", no_room)
            with pytest.raises(DiskFullError):
                writer.commit()
        assert store.latest == meta
        assert len(files(tmp_path)) == 1
        with pytest.raises(InvariantError):
            writer.commit()

    def test_no_room_at_all(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not even for the file."""
        store = FileSnapshots(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", no_room)
            with pytest.raises(DiskFullError):
                store.begin(META)
        assert files(tmp_path) == []

    def test_a_limit_of_the_process(self, tmp_path: Path) -> None:
        """Any other failure of the disk is an error that stops the server."""
        store = FileSnapshots(tmp_path)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        writer = store.begin(META)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            with pytest.raises(StorageError, match="File too large") as caught:
                fill(writer, CONTENT)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert not isinstance(caught.value, DiskFullError)
        assert files(tmp_path) == []
