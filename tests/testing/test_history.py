"""What a history keeps of calls, and of files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from consensus.errors import (
    CommandFailedError,
    InvalidCommandError,
    LeadershipLostError,
    NotLeaderError,
    OverloadedError,
    RaftError,
    SessionExpiredError,
    StorageError,
    TimedOutError,
)
from consensus.testing.history import Answer, History, Read, Write
from consensus.testing.linearizability import judge
from contrib.kvstore.commands import Cas, Delete, Get, Set, key_of
from contrib.kvstore.machine import KVStore
from tests.support.histories import (
    FAILED,
    PENDING,
    UNKNOWN,
    Cells,
    add,
    get,
    recorded,
    set_,
)

if TYPE_CHECKING:
    from pathlib import Path


class RecordTests:
    """Calls that are recorded by hand."""

    def test_returned(self) -> None:
        """A call has its times, its place in the order, and its answer."""
        history = recorded(("a", 1.0, 4.0, set_(1), None), ("b", 2.0, 3.0, get(), 1))
        first, second = history.operations
        assert (first.began, first.ended) == (1.0, 4.0)
        assert (first.start, second.start, second.finish, first.finish) == (0, 1, 2, 3)
        assert second.outcome == "returned"
        assert second.answer == Answer(b"\x01")
        assert (
            repr(second)
            == "b: Read(query=['get', 'x'], stale=False, max_age=None, after=None) -> 1"
        )

    def test_ends_once(self) -> None:
        """A call that has ended cannot end again."""
        operation = History(Cells).invoke("a", get())
        operation.returned(1)
        for again in (operation.failed, operation.unknown):
            with pytest.raises(ValueError, match="call 0 has returned before"):
                again()
        assert operation.outcome == "returned"

    def test_answers_stay(self) -> None:
        """What changes after a call has ended does not change the history."""
        history = History(Cells)
        command, result = ["set", "x", [1]], [1]
        operation = history.invoke("a", Write(command))
        operation.returned(result)
        command.append("more")
        result.append(2)
        assert operation.answer == Answer(history.machine.encode([1]))
        assert operation.data == history.machine.encode(["set", "x", [1]])

    def test_cannot_be_encoded(self) -> None:
        """What the machine cannot encode cannot be recorded."""
        history = History(Cells)
        with pytest.raises(InvalidCommandError):
            history.invoke("a", Write(object()))
        assert not history.operations
        operation = history.invoke("a", get())
        with pytest.raises(TypeError, match="cannot be recorded"):
            operation.returned(object())
        assert operation.outcome == "pending"


class WatchTests:
    """Calls that answer with a Deferred."""

    @pytest.mark.parametrize(
        ("error", "of_write", "of_read"),
        [
            (NotLeaderError("s1"), "failed", "failed"),
            (OverloadedError(), "failed", "failed"),
            (InvalidCommandError(), "failed", "failed"),
            (LeadershipLostError(), "unknown", "failed"),
            (TimedOutError(), "unknown", "failed"),
            (SessionExpiredError(), "unknown", "failed"),
            (StorageError(), "unknown", "failed"),
            (ZeroDivisionError(), "unknown", "failed"),
            (CommandFailedError("KeyError", "x"), "returned", "returned"),
        ],
    )
    def test_errors(self, error: Exception, of_write: str, of_read: str) -> None:
        """The class of an error says what is known; it is passed on."""
        for call, outcome in ((set_(1), of_write), (get(), of_read)):
            history = History(Cells)
            deferred: Deferred[Any] = Deferred()
            caught: list[Any] = []
            history.watch("a", call, deferred).addErrback(caught.append)
            (operation,) = history.operations
            assert operation.outcome == "pending"
            deferred.errback(Failure(error))
            assert operation.outcome == outcome
            assert caught[0].value is error
            if isinstance(error, CommandFailedError):
                assert operation.answer == Answer(error=("KeyError", "x"))

    def test_result(self) -> None:
        """A result is recorded, and passed on."""
        history = History(Cells)
        deferred: Deferred[Any] = Deferred()
        caught: list[Any] = []
        history.watch("a", get(), deferred).addCallback(caught.append)
        deferred.callback(5)
        assert caught == [5]
        assert history.operations[0].answer == Answer(b"\x05")


class FileTests:
    """Histories in files."""

    def test_there_and_back(self, tmp_path: Path) -> None:
        """A history that was saved is the same when it is loaded."""
        history = recorded(
            ("a", 0, 1, set_(1), None),
            ("b", 0.5, 3, add(1), UNKNOWN),
            ("c", 0.6, 2, set_(1), FAILED),
            ("d", 0.7, 0, set_(1), PENDING),
            ("e", 4, 5, Write(["no", ""]), CommandFailedError("ValueError", "no")),
            ("f", 6, 7, get(stale=True, max_age=2.0), 1),
        )
        first = history.operations[0]
        history.invoke("g", get(stale=True, after=first)).returned(1)
        history.save(tmp_path / "history.jsonl")
        loaded = History.load(Cells, tmp_path / "history.jsonl")
        assert [described(each) for each in loaded.operations] == [
            described(each) for each in history.operations
        ]
        assert judge(loaded, Cells) == judge(history, Cells)
        loaded.save(tmp_path / "again.jsonl")
        assert (tmp_path / "again.jsonl").read_bytes() == (
            tmp_path / "history.jsonl"
        ).read_bytes()

    def test_goes_on(self, tmp_path: Path) -> None:
        """More calls can be added to a history that was loaded."""
        recorded(("a", 0, 1, set_(1), None)).save(tmp_path / "history.jsonl")
        loaded = History.load(Cells, tmp_path / "history.jsonl")
        loaded.invoke("b", get()).returned(None)
        assert not judge(loaded, Cells).is_linearizable

    def test_commands_of_its_own(self, tmp_path: Path) -> None:
        """Commands that are no plain values come back as what they were."""
        history = recorded(
            ("a", 0, 1, Write(Set(b"k", "v")), None),
            ("a", 2, 3, Write(Cas(b"k", "v", b"w")), True),
            ("a", 4, 5, Read(Get(b"k")), b"w"),
            ("a", 6, 7, Write(Delete(b"k")), True),
            machine=KVStore,
        )
        history.save(tmp_path / "history.jsonl")
        loaded = History.load(KVStore, tmp_path / "history.jsonl")
        assert [each.call for each in loaded.operations] == [
            each.call for each in history.operations
        ]
        verdict = judge(loaded, KVStore, partition=key_of)
        assert (verdict.is_linearizable, verdict.partitions) == (True, 1)

    def test_of_one_moment(self, tmp_path: Path) -> None:
        """In one file, the order of the lines counts, not the time."""
        history = History(Cells, lambda: 7.0)
        history.invoke("a", set_(1)).returned(None)
        history.invoke("b", get()).returned(None)
        history.save(tmp_path / "history.jsonl")
        loaded = History.load(Cells, tmp_path / "history.jsonl")
        assert not judge(loaded, Cells).is_linearizable

    def test_several(self, tmp_path: Path) -> None:
        """Files of several processes are merged; one moment is concurrent."""
        one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
        recorded(("a", 0, 1, set_(1), None), ("a", 4, 5, set_(2), None)).save(one)
        for began, answer, verdict in (
            (2, 1, True),
            (2, None, False),
            (1, None, True),
            (5, 1, True),
            (6, 1, False),
        ):
            recorded(("b", began, began + 1, get(), answer)).save(other)
            loaded = History.load(Cells, one, other)
            assert [each.number for each in loaded.operations] == [0, 1, 2]
            assert judge(loaded, Cells).is_linearizable is verdict

    @pytest.mark.parametrize(
        ("line", "why"),
        [
            (b"{", "line 3"),
            (b'{"event":"history","version":1}', "line 3: .* the first line"),
            (b'{"event":"ended","number":9,"time":1,"outcome":"unknown"}', "line 3"),
            (b'{"event":"ended","number":0,"time":1,"outcome":"pending"}', "pending"),
            (b'{"event":"ended","number":0,"time":1,"outcome":"gone"}', "gone"),
            (
                b'{"event":"invoked","number":0,"client":"a","time":1,"body":"AQ==","text":""}',
                "call 0 is invoked twice",
            ),
            (
                b'{"event":"invoked","number":1,"client":"a","time":1,"body":"wQ==","text":""}',
                "not a MessagePack value",
            ),
        ],
    )
    def test_malformed(self, tmp_path: Path, line: bytes, why: str) -> None:
        """A file that is no history is refused, with the line."""
        path = tmp_path / "history.jsonl"
        recorded(("a", 0, 0, set_(1), PENDING)).save(path)
        path.write_bytes(path.read_bytes() + line + b"\n")
        with pytest.raises(ValueError, match=why):
            History.load(Cells, path)

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (b"", "it is empty"),
            (b'{"event":"history","version":2}\n', "version 2; this release reads 1"),
            (b'{"event":"ended","number":0,"time":1,"outcome":"unknown"}\n', "line 1"),
        ],
    )
    def test_no_history(self, tmp_path: Path, content: bytes, why: str) -> None:
        """So is one that does not begin as one."""
        path = tmp_path / "history.jsonl"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=why):
            History.load(Cells, path)


def described(operation: Any) -> tuple[Any, ...]:
    """Return all that there is to know of *operation*, as plain values."""
    after = getattr(operation.call, "after", None)
    return (
        operation.number,
        operation.client,
        operation.is_write,
        operation.call.body,
        getattr(operation.call, "stale", None),
        getattr(operation.call, "max_age", None),
        None if after is None else after.number,
        operation.data,
        operation.outcome,
        operation.answer,
        (operation.began, operation.ended),
    )


def test_all_errors_are_known() -> None:
    """An error of the framework never says that a write took effect."""
    for cls in RaftError.__subclasses__():
        if not cls.fields and cls.__init__ is Exception.__init__:
            history = History(Cells)
            deferred: Deferred[Any] = Deferred()
            history.watch("a", set_(1), deferred).addErrback(lambda _: None)
            deferred.errback(Failure(cls("no")))
            assert history.operations[0].outcome in {"failed", "unknown"}
