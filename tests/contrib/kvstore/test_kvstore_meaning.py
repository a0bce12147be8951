"""Tests of what the key-value store's commands do, in every kind of store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from consensus.errors import InvalidCommandError
from contrib.kvstore.answers import Failure, Item, LeaseItem, PutResult, TxnResult
from contrib.kvstore.commands import (
    Append,
    Cas,
    Changes,
    Compare,
    Count,
    Delete,
    DeleteMany,
    DeleteRange,
    Exists,
    Expire,
    Get,
    GetItem,
    GetMany,
    Grant,
    Incr,
    IncrFloat,
    KeepAlive,
    Lease,
    Leases,
    Put,
    Revision,
    Revoke,
    Scan,
    Set,
    SetMany,
    Size,
    Take,
    Ttl,
    Txn,
)
from contrib.kvstore.failures import (
    AnswerTooLargeError,
    IncrementOverflowError,
    LeaseExistsError,
    LeaseNotFoundError,
    NotAnIntegerError,
    NotANumberError,
    ValueTooLargeError,
)

if TYPE_CHECKING:
    from tests.support.kv import KV

MOST = (1 << 63) - 1


class PutTests:
    """Setting a key, on conditions and for a while."""

    def test_conditions(self, kv: KV) -> None:
        """A put that may not be done leaves all as it was."""
        put = Put(b"k", "v", only_if="present")
        assert kv.write(put) == PutResult(done=False, old=None, revision=0)
        put = Put(b"k", "v", only_if="absent")
        assert kv.write(put) == PutResult(done=True, old=None, revision=1)
        put = Put(b"k", "w", only_if="absent", want_old=True)
        assert kv.write(put) == PutResult(done=False, old="v", revision=1)
        put = Put(b"k", "w", only_if="present", want_old=True)
        assert kv.write(put) == PutResult(done=True, old="v", revision=2)
        assert kv.read(Get(b"k")) == "w"

    def test_a_key_ends_at_its_time_and_never_before(self, kv: KV) -> None:
        kv.tick(1000)
        kv.write(Put(b"k", "v", ttl=50))
        assert kv.next_time == 1050
        kv.tick(1049)
        assert kv.read(Ttl(b"k")) == 1
        kv.tick(1050)
        assert kv.read(Get(b"k")) is None
        assert kv.read(Ttl(b"k")) == -2
        assert kv.next_time is None

    def test_another_put_lets_it_live(self, kv: KV) -> None:
        for command in (Put(b"k", "w"), Set(b"k", "w"), Cas(b"k", "v", "w")):
            kv.write(Put(b"k", "v", ttl=50))
            kv.write(command)
            assert kv.read(Ttl(b"k")) == -1
            assert kv.next_time is None

    def test_the_end_can_be_kept(self, kv: KV) -> None:
        lease = kv.write(Grant(70))
        kv.write(Put(b"k", "v", ttl=50, lease=lease))
        kv.write(Put(b"k", "w", keep_ttl=True))
        for command in (Append(b"k", "w"), Put(b"k", "5", keep_ttl=True), Incr(b"k")):
            kv.write(command)
            assert kv.read(Ttl(b"k")) == 50
            assert kv.read(GetItem(b"k")).lease == lease
        kv.write(IncrFloat(b"k", 0.5))
        assert kv.read(GetItem(b"k")) == Item("6.5", 1, 6, 6, 50, lease)
        kv.write(Put(b"new", "v", keep_ttl=True))
        assert kv.read(Ttl(b"new")) == -1

    def test_an_end_and_the_old_one(self) -> None:
        with pytest.raises(ValueError, match="cannot have a ttl and keep"):
            Put(b"k", "v", ttl=5, keep_ttl=True)

    def test_the_log_s_time_does_not_go_back(self, kv: KV) -> None:
        kv.tick(1000)
        kv.tick(500)
        kv.write(Put(b"k", "v", ttl=10))
        assert kv.next_time == 1010


class NumberTests:
    """Counting."""

    def test_whole_numbers(self, kv: KV) -> None:
        assert kv.write(Incr(b"n")) == 1
        assert kv.write(Incr(b"n", 41)) == 42
        assert kv.write(Incr(b"n", -50)) == -8
        assert kv.read(Get(b"n")) == "-8"
        kv.write(Set(b"n", b"10"))
        assert kv.write(Incr(b"n")) == 11

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "x",
            "1.0",
            " 1",
            "+1",
            "01",
            "-0",
            "1_0",
            "\u0661",
            b"\xff",
            str(MOST + 1),
        ],
    )
    def test_no_whole_number(self, kv: KV, value: Any) -> None:
        kv.write(Set(b"n", value))
        with pytest.raises(NotAnIntegerError):
            kv.write(Incr(b"n"))
        assert kv.read(GetItem(b"n")) == Item(value, 1, 1)

    @pytest.mark.parametrize("sign", [1, -1])
    def test_too_far(self, kv: KV, sign: int) -> None:
        kv.write(Set(b"n", str(MOST * sign)))
        with pytest.raises(IncrementOverflowError):
            kv.write(Incr(b"n", 2 * sign))
        assert kv.read(Get(b"n")) == str(MOST * sign)

    @pytest.mark.parametrize(
        ("value", "by", "total"),
        [
            ("10.50", 0.1, b"10.6"),
            ("0.1", 0.2, b"0.3"),
            ("5.0e3", 200, b"5200"),
            (b"3", -3.0, b"0"),
            ("-0.5", 0.5, b"0"),
            ("1e22", 0, b"10000000000000000000000"),
            ("1", 1e-17, b"1.00000000000000001"),
            ("1", 1e-18, b"1"),
            ("100", 0, b"100"),
        ],
    )
    def test_numbers(self, kv: KV, value: Any, by: float, total: bytes) -> None:
        """They have no exponent, and no zeros at the end."""
        kv.write(Set(b"n", value))
        assert kv.write(IncrFloat(b"n", by)) == total
        assert kv.read(Get(b"n")) == total.decode()

    @pytest.mark.parametrize(
        "value", ["", "x", "nan", "inf", "-Infinity", "1e", "1e9999", " 1", "9" * 401]
    )
    def test_no_number(self, kv: KV, value: str) -> None:
        kv.write(Set(b"n", value))
        with pytest.raises(NotANumberError):
            kv.write(IncrFloat(b"n", 1))
        assert kv.read(Get(b"n")) == value

    def test_a_sum_without_end(self, kv: KV) -> None:
        kv.write(Set(b"n", "1.7e308"))
        with pytest.raises(IncrementOverflowError):
            kv.write(IncrFloat(b"n", 1.7e308))
        for by in (float("nan"), float("inf")):
            with pytest.raises(ValueError, match="cannot be added"):
                IncrFloat(b"n", by)


class OtherCommandTests:
    """Appending, taking, and many keys at once."""

    def test_append(self, kv: KV) -> None:
        """Text stays text as long as nothing else is added."""
        assert kv.write(Append(b"k", "é")) == 2
        assert kv.write(Append(b"k", "a")) == 3
        assert kv.read(Get(b"k")) == "éa"
        assert kv.write(Append(b"k", b"\xff")) == 4
        assert kv.read(Get(b"k")) == "éa".encode() + b"\xff"

    def test_append_has_an_end(self, kv: KV) -> None:
        kv.write(Set(b"k", bytes(1 << 20)))
        with pytest.raises(ValueTooLargeError):
            kv.write(Append(b"k", "x"))
        assert len(kv.read(Get(b"k"))) == 1 << 20

    def test_take(self, kv: KV) -> None:
        assert kv.write(Take(b"k")) is None
        kv.write(Set(b"k", "v"))
        assert kv.write(Take(b"k")) == "v"
        assert kv.read(Get(b"k")) is None
        assert kv.read(Revision()) == 2

    def test_set_many(self, kv: KV) -> None:
        assert kv.write(SetMany([(b"a", "1"), (b"b", b"2"), (b"a", "3")]))
        assert kv.read(GetMany([b"a", b"b", b"c"])) == ["3", b"2", None]
        assert kv.read(Revision()) == 1
        assert not kv.write(SetMany([(b"c", "1"), (b"b", "4")], only_if="absent"))
        assert kv.read(Exists([b"a", b"a", b"b", b"c"])) == 3
        assert kv.write(SetMany([(b"c", "1"), (b"d", "4")], only_if="absent"))
        assert kv.read(Size()) == 4
        assert kv.write(SetMany([]))
        assert kv.read(Revision()) == 2

    def test_delete_many(self, kv: KV) -> None:
        """A key counts once."""
        kv.write(SetMany([(b"a", "1"), (b"b", "2")]))
        assert kv.write(DeleteMany([b"a", b"c", b"a", b"b"])) == 2
        assert kv.read(Revision()) == 2
        assert kv.write(DeleteMany([b"a"])) == 0
        assert kv.read(Revision()) == 2

    def test_delete_range(self, kv: KV) -> None:
        kv.write(SetMany([(key, "v") for key in (b"a", b"a1", b"a2", b"b", b"\xff")]))
        assert kv.write(DeleteRange(b"a", limit=2)) == 2
        assert kv.read(Scan(keys_only=True)).items == [
            (b"a2", None, 1),
            (b"b", None, 1),
            (b"\xff", None, 1),
        ]
        assert kv.write(DeleteRange(start=b"b")) == 2
        assert kv.write(DeleteRange(b"a", start=b"b")) == 0
        assert kv.read(Size()) == 1


class ExpireTests:
    """When keys end."""

    def test_set_and_unset(self, kv: KV) -> None:
        """It is no change of the key."""
        assert not kv.write(Expire(b"k", 5))
        kv.write(Set(b"k", "v"))
        assert not kv.write(Expire(b"k", None))
        assert kv.write(Expire(b"k", 5))
        assert kv.read(GetItem(b"k")) == Item("v", 1, 1, 1, 5)
        assert kv.write(Expire(b"k", None))
        assert kv.next_time is None
        assert kv.read(Revision()) == 1

    @pytest.mark.parametrize("ttl", [0, -5])
    def test_at_once(self, kv: KV, ttl: int) -> None:
        kv.write(Set(b"k", "v"))
        assert kv.write(Expire(b"k", ttl))
        assert kv.read(Size()) == 0
        assert kv.read(Revision()) == 2

    @pytest.mark.parametrize(
        ("before", "only_if", "ttl", "done"),
        [
            (None, "none", 5, True),
            (10, "none", 5, False),
            (None, "some", 5, False),
            (10, "some", 5, True),
            (10, "some", None, True),
            (10, "later", 11, True),
            (10, "later", 10, False),
            (None, "later", 11, False),
            (10, "later", None, True),
            (10, "earlier", 9, True),
            (10, "earlier", 10, False),
            (None, "earlier", 9, True),
            (10, "earlier", None, False),
            (10, "earlier", 0, True),
            (10, "none", 0, False),
        ],
    )
    def test_conditions(
        self,
        kv: KV,
        before: int | None,
        only_if: Any,
        ttl: int | None,
        done: bool,  # noqa: FBT001 - a parameter of the test
    ) -> None:
        """To have no end is later than any."""
        kv.write(Put(b"k", "v", ttl=before))
        assert kv.write(Expire(b"k", ttl, only_if)) is done
        item = kv.read(GetItem(b"k"))
        deadline = (None if item is None else item.deadline) or None
        assert deadline == ((ttl or None) if done else before)

    def test_the_first_ends_first(self, kv: KV) -> None:
        """By deadline, then by key; what a moment ends has one revision."""
        for key, ttl in ((b"c", 10), (b"a", 20), (b"b", 10), (b"d", 30)):
            kv.write(Put(key, "v", ttl=ttl))
        kv.tick(20)
        events = kv.read(Changes(from_revision=5)).events
        assert [(each.revision, each.kind, each.key) for each in events] == [
            (5, "expire", b"b"),
            (5, "expire", b"c"),
            (5, "expire", b"a"),
        ]
        assert kv.next_time == 30

    def test_not_all_at_once(self, kv: KV) -> None:
        """What a tick leaves is due at the next."""
        for number in range(3):
            items = [(b"%d-%d" % (number, each), "v") for each in range(4000)]
            kv.write(SetMany(items))
            kv.write(Txn([], [Expire(key, 5) for key, _ in items]))
        kv.tick(5)
        assert kv.read(Size()) == 2000
        assert kv.next_time == 5
        kv.tick(6)
        assert kv.read(Size()) == 0

    def test_deadlines_that_move(self, kv: KV) -> None:
        """To put a deadline off again and again costs no memory."""
        kv.write(Put(b"other", "v", ttl=10_000))
        for number in range(1000):
            kv.write(Put(b"k", "v", ttl=5000 - number))
            kv.write(Expire(b"k", 5000 + number))
        assert kv.next_time == 5999
        heap = getattr(kv.state, "_key_ends", None)
        assert heap is None or len(heap._heap) < 100


class LeaseTests:
    """Keys that end together."""

    def test_it_ends_unless_it_is_kept_alive(self, kv: KV) -> None:
        lease = kv.write(Grant(100))
        other = kv.write(Grant(100))
        assert lease != other
        kv.write(Put(b"b", "v", lease=lease))
        kv.write(Put(b"a", "v", lease=lease))
        kv.write(Put(b"c", "v", lease=other))
        kv.tick(90)
        assert kv.write(KeepAlive(lease)) == 100
        assert kv.read(Lease(lease)) == LeaseItem(100, 100, [b"a", b"b"])
        kv.tick(100)
        assert kv.read(Lease(other)) is None
        assert kv.read(Leases()) == [lease]
        assert kv.read(Get(b"c")) is None
        kv.tick(189)
        assert kv.read(Size()) == 2
        kv.tick(190)
        assert kv.read(Size()) == 0
        assert kv.next_time is None
        events = kv.read(Changes(from_revision=4)).events
        assert [each.key for each in events] == [b"c", b"a", b"b"]
        assert {each.kind for each in events} == {"expire"}
        with pytest.raises(LeaseNotFoundError):
            kv.write(KeepAlive(lease))

    def test_revoke(self, kv: KV) -> None:
        lease = kv.write(Grant(100))
        kv.write(Put(b"a", "v", lease=lease))
        kv.write(Put(b"b", "v", lease=lease))
        kv.write(Set(b"b", "w"))
        assert kv.write(Revoke(lease)) == 1
        assert kv.read(Scan()).items == [(b"b", "w", 3)]
        assert kv.read(Leases()) == []
        for command in (Revoke(lease), Put(b"a", "v", lease=lease)):
            with pytest.raises(LeaseNotFoundError):
                kv.write(command)
        assert kv.read(Size()) == 1

    def test_ids(self, kv: KV) -> None:
        """One may choose it; those that are given are given once."""
        assert kv.write(Grant(5, 2)) == 2
        assert [kv.write(Grant(5)) for _ in range(2)] == [1, 3]
        with pytest.raises(LeaseExistsError):
            kv.write(Grant(5, 3))
        kv.write(Revoke(3))
        assert kv.write(Grant(5)) == 4
        assert kv.read(Leases(after=1, limit=1)) == [2]
        assert kv.read(Revision()) == 0

    def test_a_key_may_have_both(self, kv: KV) -> None:
        """It ends with what comes first."""
        lease = kv.write(Grant(100))
        kv.write(Put(b"a", "v", ttl=50, lease=lease))
        kv.write(Put(b"b", "v", ttl=150, lease=lease))
        kv.tick(50)
        assert kv.read(Lease(lease)).keys == [b"b"]
        kv.tick(100)
        assert kv.read(Size()) == 0
        assert kv.next_time is None


def result(results: list[Any]) -> TxnResult:
    """Return the result of a transaction whose comparisons held, at revision 2."""
    return TxnResult(succeeded=True, results=results, revision=2)


class TxnTests:
    """Several things at once."""

    def test_one_revision(self, kv: KV) -> None:
        kv.write(Set(b"a", "1"))
        txn = Txn([], [Set(b"a", "2"), Incr(b"n"), Get(b"a"), Delete(b"x"), Get(b"x")])
        assert kv.write(txn) == result([None, 1, "2", False, None])
        assert kv.read(GetItem(b"a")) == Item("2", 1, 2, 2)
        assert kv.read(GetItem(b"n")) == Item("1", 2, 2, 1)
        assert kv.write(Txn([], [Get(b"a")])) == result(["2"])
        assert kv.write(Set(b"a", "3")) is None
        assert kv.read(Revision()) == 3

    @pytest.mark.parametrize(
        ("compare", "holds"),
        [
            (Compare(b"k", to="v"), True),
            (Compare(b"k", to=b"v"), True),
            (Compare(b"k", op="!=", to="v"), False),
            (Compare(b"k", op="<", to="w"), True),
            (Compare(b"k", op=">", to="w"), False),
            (Compare(b"k", to=None), False),
            (Compare(b"none", to=None), True),
            (Compare(b"none", op="!=", to=None), False),
            (Compare(b"none", op="<", to="w"), False),
            (Compare(b"k", "revision", to=2), True),
            (Compare(b"k", "revision", ">", 1), True),
            (Compare(b"k", "created", "<", 2), True),
            (Compare(b"none", "revision", to=0), True),
            (Compare(b"none", "created", to=0), True),
            (Compare(b"k", "exists", to=True), True),
            (Compare(b"none", "exists", to=True), False),
            (Compare(b"none", "exists", "!=", to=True), True),
        ],
    )
    def test_compare(self, kv: KV, compare: Compare, holds: bool) -> None:  # noqa: FBT001 - a parameter of the test
        kv.write(Set(b"k", "u"))
        kv.write(Set(b"k", "v"))
        txn = Txn([Compare(b"k", to="v"), compare], [Set(b"a", "")], [Set(b"b", "")])
        assert kv.write(txn) == TxnResult(holds, [None], 3)
        assert kv.read(Exists([b"a" if holds else b"b"])) == 1
        assert kv.read(Size()) == 2

    @pytest.mark.parametrize(
        ("what", "to"),
        [("value", 5), ("revision", "5"), ("revision", True), ("exists", 1)],
    )
    def test_what_cannot_be_compared(self, what: Any, to: Any) -> None:
        with pytest.raises(TypeError):
            Compare(b"k", what, to=to)

    def test_a_failure_is_a_result(self, kv: KV) -> None:
        """The others are done all the same."""
        kv.write(Set(b"text", "x"))
        result = kv.write(Txn([], [Set(b"a", "1"), Incr(b"text"), Set(b"b", "2")]))
        failure = result.results[1]
        assert isinstance(failure, Failure)
        assert failure.kind == "NotAnIntegerError"
        assert kv.read(GetMany([b"a", b"b", b"text"])) == ["1", "2", "x"]

    def test_all_or_nothing(self, kv: KV) -> None:
        """What fails undoes what was done before it, and the time goes on."""
        lease = kv.write(Grant(100))
        other = kv.write(Grant(100))
        kv.write(Put(b"a", "1", ttl=50, lease=lease))
        kv.write(Set(b"b", "1"))
        kv.write(Put(b"c", "1", lease=other))
        kv.read(Scan())
        before = kv.contents()
        everything: list[Any] = [
            Set(b"a", "2"),
            Delete(b"a"),
            Set(b"a", "3"),
            Set(b"b", "2"),
            Set(b"new", "v"),
            Put(b"d", "v", ttl=5, lease=lease),
            Expire(b"b", 3),
            Append(b"c", "more"),
            Revoke(other),
            Grant(10),
            KeepAlive(lease),
            SetMany([(b"x", "1"), (b"y", "1")]),
            DeleteRange(b"x"),
            Incr(b"n"),
            Incr(b"new"),
        ]
        with pytest.raises(NotAnIntegerError):
            kv.write(Txn([], everything, atomic=True))
        assert [row[0] for row in kv.read(Scan()).items] == [b"a", b"b", b"c"]
        assert kv.next_time == 50
        assert kv.contents() == before
        assert kv.read(Changes(from_revision=1)).next_revision == 4
        result = kv.write(Txn([], everything[:-1], atomic=True))
        assert result.revision == 4
        assert kv.read(GetItem(b"a")) == Item("3", 4, 4, 1)
        assert kv.next_time == 3

    def test_what_it_answers_has_an_end(self, kv: KV) -> None:
        """What is removed without an answer is not removed."""
        for key in (b"a", b"b"):
            kv.write(Set(key, "x" * 600_000))
        reads = Txn([], [Get(b"a"), Get(b"b"), Incr(b"n")])
        removals = Txn([], [Take(b"a"), Take(b"b"), Put(b"b", "v", want_old=True)])
        results = kv.write(reads).results
        assert results[1].kind == "AnswerTooLargeError"
        assert results[2] == 1
        results = kv.write(removals).results
        assert [type(each) for each in results] == [str, Failure, Failure]
        assert kv.read(Exists([b"a", b"b"])) == 1
        with pytest.raises(AnswerTooLargeError):
            kv.write(Txn([], [Get(b"b"), Get(b"b")], atomic=True))

    def test_no_transaction_in_a_transaction(self, kv: KV) -> None:
        with pytest.raises(InvalidCommandError):
            kv.write(Txn([], [Txn([], [])]))  # type: ignore[list-item]


class ReadTests:
    """What can be asked."""

    def test_pages(self, kv: KV) -> None:
        """They follow one another without a gap, whatever is set meanwhile."""
        kv.write(SetMany([(b"k%d" % number, "v") for number in range(5)]))
        kv.write(SetMany([(b"j", "v"), (b"l", "v")]))
        page = kv.read(Scan(b"k", limit=2))
        assert [key for key, _, _ in page.items] == [b"k0", b"k1"]
        assert (page.more, page.revision) == (True, 2)
        kv.write(Set(b"k15", "v"))
        kv.write(Delete(b"k2"))
        page = kv.read(Scan(b"k", after=b"k1", limit=3))
        assert page.items == [(b"k15", "v", 3), (b"k3", "v", 1), (b"k4", "v", 1)]
        assert not page.more

    def test_ranges(self, kv: KV) -> None:
        keys = [b"a", b"a\xff", b"a\xff\xff", b"b", b"\xff", b"\xff\xff"]
        kv.write(SetMany([(key, "v") for key in keys]))

        def scanned(query: Scan) -> list[bytes]:
            found = [key for key, _, _ in kv.read(query).items]
            count = Count(query.prefix, query.start, query.end)
            assert query.after or len(found) == kv.read(count)
            return found

        assert scanned(Scan()) == keys
        assert scanned(Scan(b"a")) == keys[:3]
        assert scanned(Scan(b"a\xff")) == keys[1:3]
        assert scanned(Scan(b"\xff")) == keys[4:]
        assert scanned(Scan(start=b"a\xff", end=b"\xff")) == keys[1:4]
        assert scanned(Scan(b"a", start=b"a\0", end=b"b")) == keys[1:3]
        assert scanned(Scan(b"a", end=b"a\xff")) == keys[:1]
        assert scanned(Scan(start=b"b", end=b"a")) == []
        assert scanned(Scan(start=b"b", after=b"a")) == keys[3:]

    def test_a_page_has_an_end(self, kv: KV) -> None:
        """It fits into a message, and has one item at least."""
        for number in range(5):
            kv.write(Set(b"%d" % number, "x" * 400_000))
        page = kv.read(Scan())
        assert [key for key, _, _ in page.items] == [b"0", b"1"]
        assert page.more
        assert len(kv.read(Scan(keys_only=True)).items) == 5
        kv.write(Set(b"0", bytes(1_100_000)))
        assert [key for key, _, _ in kv.read(Scan()).items] == [b"0"]

    def test_many_keys_have_an_end(self, kv: KV) -> None:
        kv.write(Set(b"k", "x" * 400_000))
        assert len(kv.read(GetMany([b"k", b"k"]))) == 2
        with pytest.raises(AnswerTooLargeError):
            kv.read(GetMany([b"k"] * 3))

    def test_a_page_after_many_changes(self, kv: KV) -> None:
        """The order is right whether much has changed since, or little."""
        present: set[bytes] = set()
        for round_ in range(6):
            for number in range(0, 700, round_ + 1):
                key = b"%03d" % ((number * 7919 + round_) % 1000)
                if key in present and number % 3:
                    kv.write(Delete(key))
                    present.discard(key)
                else:
                    kv.write(Set(key, "v"))
                    present.add(key)
            items = kv.read(Scan(limit=10_000)).items
            assert [key for key, _, _ in items] == sorted(present)
            assert kv.read(Count(start=b"5")) == len([k for k in present if k >= b"5"])
