"""Tests of consensus.applying.applier: what entries make of a state."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from consensus.applying.applier import Applier
from consensus.core.values import Entry, EntryKind
from consensus.errors import InvalidCommandError, StorageError
from tests.support.entries import Disk, Journal, Log, results

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from consensus.interfaces import StateMachine


class MemoryDisk(Disk):
    """A journal in batches."""


@pytest.fixture(autouse=True)
def _clean() -> None:
    for each in (Disk, MemoryDisk):
        each.kept, each.batches = ([], 0), ()


@pytest.fixture
def log() -> Log:
    """Return a log without entries."""
    return Log()


@pytest.fixture(params=[Journal, Disk], ids=["single", "batches"])
def applier(request: pytest.FixtureRequest) -> Applier:
    """Return an applier that has applied nothing, of either kind of machine."""
    return Applier(request.param(), "s1")


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """Cut *data* into pieces."""
    return (data[at : at + size] for at in range(0, len(data), size))


class EntryTests:
    """What becomes of each kind of entry."""

    def test_commands(self, applier: Applier, log: Log) -> None:
        """Commands are applied in order, each with its own result."""
        assert results(applier, log.command("a"), log.command("b")) == [1, 2]
        assert results(applier, log.command("c")) == [3]
        assert applier.state == ["a", "b", "c"]
        assert applier.last_applied == 3

    def test_entries_without_a_meaning(self, applier: Applier, log: Log) -> None:
        """A no-op and a membership are counted, and that is all."""
        found = results(
            applier,
            log.entry(EntryKind.MEMBERSHIP, b"whatever"),
            log.entry(EntryKind.NOOP),
            log.command("a"),
        )
        assert found == [None, None, 1]
        assert applier.last_applied == 3

    def test_an_exception_is_a_result(self, applier: Applier, log: Log) -> None:
        """The others of its batch are not affected, and neither is the state."""
        found = results(
            applier, log.command("a"), log.command(["fail", "no"]), log.command("b")
        )
        assert found == [1, "CommandFailedError: ValueError: no", 2]
        assert applier.state == ["a", "b"]

    def test_what_is_no_command_is_a_result(self, applier: Applier, log: Log) -> None:
        found = results(
            applier, log.command("a"), log.entry(EntryKind.COMMAND, b"\xc1")
        )
        assert found[0] == 1
        assert found[1].startswith("CommandFailedError: InvalidCommandError: not a")
        assert applier.state == ["a"]

    @pytest.mark.parametrize("kind", [Journal, Disk])
    def test_an_exception_without_a_text(
        self, log: Log, kind: type[Journal], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One whose text cannot be had, or stored, is a result like another."""

        class RudeError(Exception):
            def __str__(self) -> str:
                raise RuntimeError

        def refuse(_self: Any, command: Any, _state: Any) -> Any:
            raise RudeError if command else ValueError("\ud800")

        monkeypatch.setattr(kind, "handle_write", refuse)
        found = results(Applier(kind(), "s1"), log.command(1), log.command(0))
        assert found == [
            "CommandFailedError: RudeError: its text cannot be had: RuntimeError",
            "CommandFailedError: ValueError: \\ud800",
        ]

    def test_memory_is_no_result(self, applier: Applier, log: Log) -> None:
        """Not every server runs out of it: this one must stop."""
        with pytest.raises(MemoryError):
            results(applier, log.command("a"), log.command(["break"]))

    @pytest.mark.parametrize("error", [StorageError("full"), MemoryError()])
    def test_the_disk_is_no_result(
        self, applier: Applier, log: Log, error: Exception
    ) -> None:
        """Nor does it fail every server's machine."""
        machine: Any = applier.machine

        def decode(_: bytes) -> Any:
            raise error

        machine.decode = decode
        with pytest.raises(type(error)):
            results(applier, log.command("a"))
        opened = log.opened()
        results(applier, opened)
        with pytest.raises(type(error)):
            results(applier, log.numbered(opened.index, 1, "b"))

    def test_an_unknown_kind(self, applier: Applier) -> None:
        """What a newer release wrote stops the server, with a sentence."""
        with pytest.raises(StorageError, match="entry 1 is of kind 99"):
            results(applier, Entry(1, 1, 99, b""))

    def test_callers_are_told_when_all_are_applied(self, log: Log) -> None:
        """They are told of as many as were applied, in the order of the log."""
        applier = Applier(Journal(), "s1")
        seen: list[tuple[list[int], list[Any], int, int]] = []
        entries = [log.command("a"), log.entry(EntryKind.NOOP), log.command("b")]

        def applied(done: Sequence[Entry], came_to: Sequence[Any]) -> None:
            indexes = [entry.index for entry in done]
            state = applier.last_applied, len(applier.state)
            seen.append((indexes, list(came_to), *state))

        applier.apply(entries, applied)
        assert seen == [([1, 2, 3], [1, None, 2], 3, 2)]

    def test_callers_are_told_though_a_later_entry_stops_the_server(
        self, log: Log
    ) -> None:
        """What was applied before it is done, and nobody has to wonder."""
        applier = Applier(Journal(), "s1")
        seen: list[int] = []
        entries = [log.command("a"), log.command("b"), Entry(3, 1, 99, b"")]
        with pytest.raises(StorageError, match="entry 3 is of kind 99"):
            applier.apply(entries, lambda _, came_to: seen.extend(came_to))
        assert (seen, applier.last_applied) == ([1, 2], 2)


class BatchTests:
    """Machines that want their commands together."""

    def test_commands_come_together(self, log: Log) -> None:
        """All of a turn are one batch, sessions' too; other entries cut none."""
        applier = Applier(Disk(), "s1")
        opened = log.opened()
        entries = [
            opened,
            log.command("a"),
            log.entry(EntryKind.NOOP),
            log.numbered(1, 1, "b"),
            log.command("c"),
        ]
        assert results(applier, *entries)[1:] == [1, None, b"\x02", 3]
        assert Disk.batches == ([2, 4, 5],)

    def test_a_repeated_command_waits_for_the_first(self, log: Log) -> None:
        """Both in one batch: the second is answered what the first comes to."""
        applier = Applier(Disk(), "s1")
        entries = [log.opened(), log.numbered(1, 1, "a"), log.numbered(1, 1, "a")]
        assert results(applier, *entries)[1:] == [b"\x01", b"\x01"]
        assert applier.state == ["a"]

    def test_a_machine_that_miscounts(
        self, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Results that cannot be told apart stop the server."""

        def apply_batch(_: Any, batch: Sequence[Any], state: Any) -> Any:
            return batch[1:], state

        monkeypatch.setattr(Disk, "apply_batch", apply_batch)
        with pytest.raises(StorageError, match="gave 0 results for 1 commands"):
            results(Applier(Disk(), "s1"), log.command("a"))

    def test_a_machine_on_disk_goes_on(self, log: Log) -> None:
        """After a restart it is given only what it has not kept."""
        entries = [log.command(each) for each in "abc"]
        results(Applier(Disk(), "s1"), *entries[:2])
        again = Applier(Disk(), "s1")
        assert again.state == ["a", "b"]
        assert results(again, *entries) == [None, None, 3]
        assert again.state == ["a", "b", "c"]
        assert Disk.batches == ([1, 2], [3])

    def test_a_result_that_was_lost(self, log: Log) -> None:
        """A session's command is not applied again only to have its result."""
        entries = [
            log.opened(),
            log.numbered(1, 1, "a"),
            log.numbered(1, 1, "a"),
            log.numbered(1, 2, "b"),
        ]
        results(Applier(Disk(), "s1"), *entries[:2])
        again = Applier(Disk(), "s1")
        found = results(again, *entries)
        assert found[1] == found[2]
        assert found[1].startswith("CommandFailedError: ResultLost: it was applied")
        assert found[3] == b"\x02"
        assert again.state == ["a", "b"]

    def test_a_machine_on_disk_that_is_given_no_batches(self, log: Log) -> None:
        """One that keeps its state by itself is not given commands twice."""

        class Careful(Journal):
            def init(self, name: str) -> Any:
                del name
                return ["a"]

            def last_applied(self, state: Any) -> int:
                del state
                return 1

        applier = Applier(Careful(), "s1")
        assert results(applier, log.command("a"), log.command("b")) == [None, 2]


class SnapshotTests:
    """What is applied, as bytes."""

    @pytest.mark.parametrize("size", [1, 7, 100_000])
    def test_round_trip(self, applier: Applier, log: Log, size: int) -> None:
        """Everything comes back, however the bytes are cut."""
        opened = log.opened(time=5)
        results(
            applier,
            opened,
            log.command("a"),
            log.numbered(1, 1, "b"),
            log.numbered(1, 2, ["fail", "no"], time=70),
        )
        data = b"".join(applier.snapshot())
        other = Applier(Journal(), "s2")
        results(other, Log().command("to be replaced"))
        other.restore(pieces(data, size))
        assert other.state == ["a", "b"]
        assert other.last_applied == 4
        assert other.sessions.time == 70
        assert b"".join(other.snapshot()) == data
        repeated = [log.numbered(1, 1, "b"), log.numbered(1, 2, ["fail", "no"])]
        assert results(other, *repeated) == results(applier, *repeated)
        assert results(other, log.command("c")) == [3]

    def test_the_view_stands_still(self, applier: Applier, log: Log) -> None:
        """What is applied while it is read is not in it."""
        results(applier, log.opened(), log.command("a"))
        view = applier.snapshot()
        results(applier, log.command("b"), log.numbered(1, 1, "c"))
        other = Applier(Journal(), "s2")
        other.restore(view)
        assert (other.state, other.last_applied) == (["a"], 2)
        assert results(other, log.numbered(1, 1, "c"))[0] == b"\x02"

    def test_a_state_that_cannot_be_encoded(self, log: Log) -> None:
        """The caller learns of it before anything is written."""
        applier = Applier(Journal(), "s1")
        results(applier, log.command("a"))
        applier.state = [(1, 2)]
        with pytest.raises(InvalidCommandError, match="does not survive"):
            applier.snapshot()

    def test_a_machine_on_disk_that_is_further(self, log: Log) -> None:
        """At a restart it keeps what it has, and sessions catch up with it."""
        entries = [log.opened(), log.numbered(1, 1, "a"), log.command("b")]
        first = Applier(Disk(), "s1")
        results(first, *entries[:2])
        data = b"".join(first.snapshot())
        results(first, entries[2])
        again = Applier(Disk(), "s1")
        again.restore([data])
        assert again.state == ["a", "b"]
        assert again.last_applied == 2
        found = results(again, entries[2], log.numbered(1, 1, "a"), log.command("c"))
        assert found == [None, b"\x01", 3]

    def test_a_machine_on_disk_that_is_behind(self, log: Log) -> None:
        """It takes the snapshot, and knows afterwards that it has."""
        first = Applier(Journal(), "s1")
        entries = [log.command(each) for each in "abc"]
        results(first, *entries[:2])
        other = Applier(Disk(), "s2")
        results(other, entries[0])
        other.restore(first.snapshot())
        assert Disk.kept == (["a", "b"], 2)
        again = Applier(Disk(), "s2")
        again.restore(first.snapshot())
        assert results(again, entries[2]) == [3]

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", "ends within its header"),
            (b"\1\0\0\0", "ends within its header"),
            (struct.pack(">BI", 1, 10) + b"123456789", "ends within its header"),
            (struct.pack(">BI", 2, 0), "begins with version 2"),
            (struct.pack(">BI", 1, 1 << 30), "and 1073741824 bytes of a header"),
            (struct.pack(">BI", 1, 1) + b"\x01", "header cannot be read"),
            (struct.pack(">BI", 1, 1) + b"\x80", "header cannot be read"),
            (struct.pack(">BI", 1, 5000) + b"\x91" * 5000, "header cannot be read"),
        ],
    )
    def test_malformed(
        self, applier: Applier, log: Log, data: bytes, message: str
    ) -> None:
        """What is no snapshot is refused, and everything is as it was."""
        results(applier, log.opened(), log.command("a"))
        before = b"".join(applier.snapshot())
        for size in (1, 1000):
            with pytest.raises(StorageError, match=message):
                applier.restore(pieces(data, size))
        assert b"".join(applier.snapshot()) == before

    @pytest.mark.parametrize("kind", [Journal, Disk])
    def test_a_state_that_is_cut_off(self, log: Log, kind: type[StateMachine]) -> None:
        """What the machine cannot read is refused, with what it said."""
        applier = Applier(kind(), "s1")
        results(applier, log.command("a"))
        data = b"".join(applier.snapshot())
        with pytest.raises(StorageError, match="snapshot at 1 cannot be restored: Inv"):
            applier.restore([data[:-1]])
        assert applier.state == ["a"] or kind is Disk

    @pytest.mark.parametrize("error", [StorageError("damaged"), MemoryError()])
    def test_what_the_reading_raises(self, log: Log, error: Exception) -> None:
        """A damaged file is told as such."""
        applier = Applier(Journal(), "s1")
        results(applier, log.command("a"))
        first = next(applier.snapshot())

        def chunks() -> Iterable[bytes]:
            yield first
            raise error

        with pytest.raises(type(error)):
            applier.restore(chunks())
        assert applier.state == ["a"]

    def test_unknown_members(self, applier: Applier, log: Log) -> None:
        """A later release may add to the header."""
        results(applier, log.command("a"))
        header, *rest = applier.snapshot()
        fields = msgspec.msgpack.decode(header[5:]) | {"news": 1}
        packed = msgspec.msgpack.encode(fields)
        other = Applier(Journal(), "s2")
        other.restore([struct.pack(">BI", 1, len(packed)), packed, *rest])
        assert other.state == ["a"]
