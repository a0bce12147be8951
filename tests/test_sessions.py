"""Tests of consensus.sessions: once each, in bounded memory, the same everywhere."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from consensus import sessions
from consensus.applying.applier import Applier
from consensus.core.values import EntryKind
from consensus.errors import InvalidCommandError, StorageError
from consensus.sessions import (
    MAX_BYTES,
    MAX_SESSION_BYTES,
    MAX_SESSIONS,
    MAX_WINDOW,
    Due,
    Operation,
    Sessions,
    check,
    close_call,
    command_call,
    entry_of,
    open_call,
    session_of,
)
from tests.support.entries import Journal, Log, results

EXPIRED = "SessionExpiredError: the session has ended; this was not applied"


@pytest.fixture
def log() -> Log:
    """Return a log without entries."""
    return Log()


@pytest.fixture
def applier() -> Applier:
    """Return an applier of a journal, whose results are its length."""
    return Applier(Journal(), "s1")


class Verbose(Journal):
    """A journal whose results are almost too large."""

    def encode(self, value: Any) -> bytes:
        """Return a lot."""
        del value
        return b"x" * (MAX_SESSION_BYTES - 200)


class OnceTests:
    """A number is applied once."""

    def test_a_session_is_named_after_its_entry(
        self, applier: Applier, log: Log
    ) -> None:
        found = results(applier, log.command("x"), log.opened(), log.opened())
        assert [session_of(each) for each in found[1:]] == [2, 3]

    def test_a_repeated_number(self, applier: Applier, log: Log) -> None:
        """It is answered as it was the first time, result and failure alike."""
        results(applier, log.opened())
        for command, expected in (
            ("a", b"\x01"),
            (["fail", "no"], "CommandFailedError: ValueError: no"),
        ):
            number = 1 if command == "a" else 2
            for _ in range(3):
                assert results(applier, log.numbered(1, number, command)) == [expected]
        assert applier.state == ["a"]

    def test_a_result_that_cannot_be_sent(self, applier: Applier, log: Log) -> None:
        """It was applied, and the caller learns so, again and again."""
        results(applier, log.opened())
        for _ in range(2):
            (found,) = results(applier, log.numbered(1, 1, ["object"]))
            assert "UnencodableResult: it was done, but its result cannot" in found
        assert applier.state == [["object"]]

    def test_numbers_in_any_order(self, applier: Applier, log: Log) -> None:
        """Commands under way at once are each applied when they come."""
        results(applier, log.opened())
        order = [3, 1, 3, 2, 1, 2, 1024]
        found = [results(applier, log.numbered(1, n, n))[0] for n in order]
        assert found == [b"\x01", b"\x02", b"\x01", b"\x03", b"\x02", b"\x03", b"\x04"]
        assert applier.state == [3, 1, 2, 1024]

    def test_sessions_count_for_themselves(self, applier: Applier, log: Log) -> None:
        results(applier, log.opened(), log.opened())
        results(applier, log.numbered(1, 1, "a"), log.numbered(2, 1, "b"))
        assert applier.state == ["a", "b"]

    def test_below_what_is_wanted(self, applier: Applier, log: Log) -> None:
        """What was acknowledged is refused, applied or not, whoever sent it when."""
        results(applier, log.opened(), log.numbered(1, 1, "a"))
        results(applier, log.numbered(1, 4, "d", wanted=4))
        for number in (1, 2, 3):
            (found,) = results(applier, log.numbered(1, number, "late"))
            assert found.startswith("OutcomeUnknownError: the session does not want")
        assert results(applier, log.numbered(1, 4, "d", wanted=2)) == [b"\x02"]
        assert applier.state == ["a", "d"]

    def test_too_far_ahead(self, applier: Applier, log: Log) -> None:
        """It may be sent again when earlier ones are acknowledged."""
        results(applier, log.opened())
        far = MAX_WINDOW + 1
        (found,) = results(applier, log.numbered(1, far, "far"))
        assert found.startswith("OverloadedError: more than 1024")
        assert results(applier, log.numbered(1, far, "far", wanted=2)) == [b"\x01"]

    def test_unknown_sessions(self, applier: Applier, log: Log) -> None:
        results(applier, log.command("x"), log.opened())
        for unknown in (0, 1, 3, (1 << 64) - 1):
            assert results(applier, log.numbered(unknown, 1, "a")) == [EXPIRED]
        assert applier.state == ["x"]

    def test_a_closed_session(self, applier: Applier, log: Log) -> None:
        """It is closed once and for all; twice does no harm."""
        results(applier, log.opened(), log.numbered(1, 1, "a"))
        assert results(applier, log.closed(1), log.closed(1)) == [b"", b""]
        assert results(applier, log.numbered(1, 1, "a")) == [EXPIRED]
        assert applier.state == ["a"]
        assert len(applier.sessions) == 0


class TimeTests:
    """Sessions end by the log's own time."""

    def test_ttl(self, applier: Applier, log: Log) -> None:
        """A session lives so long after its last command, to the millisecond."""
        results(applier, log.opened(ttl=1000, time=5000))
        assert results(applier, log.numbered(1, 1, "a", time=6000)) == [b"\x01"]
        assert results(applier, log.numbered(1, 1, "a", time=7000)) == [b"\x01"]
        assert results(applier, log.numbered(1, 2, "b", time=8001)) == [EXPIRED]
        assert len(applier.sessions) == 0

    def test_anybodys_time_counts(self, applier: Applier, log: Log) -> None:
        """The entries of one session end another."""
        results(applier, log.opened(ttl=1000), log.opened(ttl=9000, time=500))
        results(applier, log.numbered(2, 1, "a", time=1001))
        assert results(applier, log.numbered(1, 1, "b", time=1001)) == [EXPIRED]
        assert len(applier.sessions) == 1

    def test_time_never_goes_back(self, applier: Applier, log: Log) -> None:
        """A leader whose clock is behind ends nothing, and revives nothing."""
        results(applier, log.opened(ttl=1000, time=5000))
        results(applier, log.opened(ttl=1000, time=6001))
        assert applier.sessions.time == 6001
        assert results(applier, log.numbered(1, 1, "a", time=0)) == [EXPIRED]
        assert results(applier, log.numbered(2, 1, "b", time=0)) == [b"\x01"]
        assert applier.sessions.time == 6001

    def test_what_ended_is_not_remembered(self) -> None:
        """Sessions that are opened and closed for ever leave nothing."""
        found = Sessions()
        for index in range(1, 5000):
            found.admit(index, entry_of(Operation.OPEN, open_call(60_000), 0))
            found.admit(index, entry_of(Operation.CLOSE, close_call(index), 0))
        assert len(found) == 0
        assert len(found._ends) < 10


class BoundTests:
    """Memory is bounded, whatever clients do."""

    def test_the_number_of_sessions(self) -> None:
        """One more, and the one that was used least recently ends."""
        found = Sessions()
        opening = entry_of(Operation.OPEN, open_call(60_000), 0)
        for index in range(1, MAX_SESSIONS + 1):
            found.admit(index, opening)
        used = entry_of(Operation.COMMAND, command_call(1, 1, 1, b"a"), 0)
        assert found.admit(20_000, used) == Due(1, 1, b"a")
        found.admit(20_001, opening)
        assert len(found) == MAX_SESSIONS
        lost = entry_of(Operation.COMMAND, command_call(2, 1, 1, b"a"), 0)
        assert "the session has ended" in str(found.admit(20_002, lost))
        assert found.admit(20_003, used) != Due(1, 1, b"a")

    def test_the_results_of_one_session(self, log: Log) -> None:
        """What does not fit is not kept; that it was applied is known."""
        applier = Applier(Verbose(), "s1")
        results(applier, log.opened())
        for number in (1, 2):
            (found,) = results(applier, log.numbered(1, number, "a"))
            assert len(found) == MAX_SESSION_BYTES - 200
        assert len(results(applier, log.numbered(1, 1, "a"))[0]) > 1000
        assert "ResultLost" in results(applier, log.numbered(1, 2, "a"))[0]
        assert applier.state == ["a", "a"]
        # Room again when the first is acknowledged.
        results(applier, log.numbered(1, 3, "b", wanted=3))
        assert len(results(applier, log.numbered(1, 3, "b"))[0]) > 1000

    def test_the_results_of_all(self) -> None:
        """The oldest go first, whosever they are."""
        found = Sessions()
        result = b"x" * (MAX_SESSION_BYTES - 200)
        many = MAX_BYTES // len(result) + 5
        for index in range(1, many + 1):
            found.admit(index, entry_of(Operation.OPEN, open_call(60_000), 0))
            used = entry_of(Operation.COMMAND, command_call(index, 1, 1, b""), 0)
            found.admit(1000, used)
            found.record(Due(index, 1, b""), result)
        assert found._size <= MAX_BYTES
        assert (many, 1) in found._results
        assert (1, 1) not in found._results
        assert found._size == sum(each.size for each in found._sessions.values())
        for index in range(1, many + 1):
            found.admit(1000, entry_of(Operation.CLOSE, close_call(index), 0))
        assert (found._size, len(found._results)) == (0, 0)


class BytesTests:
    """What is taken for a call, and for an entry."""

    @pytest.mark.parametrize("ttl", [0, 999, 86_400_001])
    def test_ttl(self, ttl: int) -> None:
        with pytest.raises(InvalidCommandError, match="lives 1000 to 86400000 ms"):
            open_call(ttl)
        with pytest.raises(InvalidCommandError, match="lives 1000 to 86400000 ms"):
            check(Operation.OPEN, ttl.to_bytes(4, "big"))

    @pytest.mark.parametrize(
        ("operation", "call"),
        [
            (Operation.OPEN, b""),
            (Operation.OPEN, b"12345"),
            (Operation.CLOSE, b"1234567"),
            (Operation.CLOSE, b"123456789"),
            (Operation.COMMAND, b"x" * 23),
        ],
    )
    def test_lengths(self, operation: Operation, call: bytes) -> None:
        with pytest.raises(InvalidCommandError, match="too few or too many"):
            check(operation, call)

    @pytest.mark.parametrize(("number", "wanted"), [(0, 0), (1, 0), (1, 2)])
    def test_numbers(self, number: int, wanted: int) -> None:
        """Numbers begin with 1, and nobody waits for what comes later."""
        with pytest.raises(InvalidCommandError, match="cannot want"):
            check(Operation.COMMAND, command_call(1, number, wanted, b""))

    def test_a_name_that_is_none(self) -> None:
        with pytest.raises(ValueError, match="has 8 bytes"):
            session_of(b"1234567")

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", "is no entry of a session"),
            (entry_of(Operation.CLOSE, b"1", 0), "too few"),
            (b"\1\x09" + bytes(16), "is no entry of a session"),
            (b"\2\1" + bytes(12), "of version 2 of sessions"),
        ],
    )
    def test_entries(
        self, applier: Applier, log: Log, data: bytes, message: str
    ) -> None:
        """What no server of this release writes stops this one."""
        with pytest.raises(StorageError, match=f"entry 1 .*{message}"):
            results(applier, log.entry(EntryKind.SESSION, data))

    def test_the_format(self) -> None:
        """The bytes are those of version 1, whatever the release."""
        call = command_call(7, 9, 8, b"do")
        assert (
            entry_of(Operation.COMMAND, call, 3)
            == bytes.fromhex(
                "0103 0000000000000003 0000000000000007"
                "0000000000000009 0000000000000008"
            )
            + b"do"
        )
        assert entry_of(Operation.OPEN, open_call(1000), 3) == bytes.fromhex(
            "0101 0000000000000003 000003e8"
        )
        assert sessions.OVERHEAD == 34


class SnapshotTests:
    """Sessions go with the state."""

    @pytest.mark.parametrize("seed", range(5))
    def test_at_any_place(self, seed: int) -> None:
        """A server that restores a snapshot answers and ends as the others do."""
        dice = random.Random(seed)  # noqa: S311 - reproducible, not secret
        log, time = Log(), 0
        entries = [log.opened(ttl=dice.choice([1000, 5000])) for _ in range(4)]
        for _ in range(300):
            time += dice.choice([0, 0, 10, 100, 700])
            match dice.randrange(12):
                case 0:
                    entries.append(log.opened(ttl=1000, time=time))
                case 1:
                    entries.append(log.closed(dice.randrange(1, log.next), time=time))
                case _:
                    number = dice.randrange(1, 12)
                    wanted = dice.randrange(1, number + 1)
                    session = dice.randrange(1, 12)
                    command: Any = dice.choice(["a", ["fail", "b"], ["object"]])
                    entries.append(
                        log.numbered(session, number, command, wanted=wanted, time=time)
                    )
        one, other = Applier(Journal(), "s1"), Applier(Journal(), "s2")
        cut = dice.randrange(len(entries))
        results(one, *entries[:cut])
        other.restore(one.snapshot())
        rest = entries[cut:]
        assert results(other, *rest) == results(one, *rest)
        assert b"".join(other.snapshot()) == b"".join(one.snapshot())

    def test_of_hostile_numbers(self) -> None:
        """Numbers that do not fit into an entry do not fit into a snapshot."""
        applier = Applier(Journal(), "s1")
        header = {
            "last_applied": 1,
            "version": 1,
            "time": 0,
            "sessions": [[1, 1000, -1, 1, b"", [], []]],
        }
        packed = msgspec.msgpack.encode(header)
        with pytest.raises(StorageError, match="header cannot be read"):
            applier.restore([b"\1" + len(packed).to_bytes(4, "big") + packed])
