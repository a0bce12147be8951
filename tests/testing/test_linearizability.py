"""Histories with a known verdict, and random ones that are judged twice."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.errors import CommandFailedError
from consensus.testing.history import Read, Write
from consensus.testing.linearizability import (
    Outcome,
    assert_linearizable,
    judge,
)
from tests.support.histories import (
    FAILED,
    PENDING,
    UNKNOWN,
    Cells,
    Row,
    add,
    applied,
    atomic_history,
    cas,
    get,
    has_order,
    key_of,
    recorded,
    set_,
)

if TYPE_CHECKING:
    from consensus.testing.contradiction import Contradiction
    from consensus.testing.history import History
    from consensus.testing.operations import Operation

#: Histories that are linearizable, by name.
GOOD: dict[str, list[Row]] = {
    "nothing": [],
    "one write": [("a", 0, 1, set_(1), None)],
    "one read": [("a", 0, 1, get(), None)],
    "one call without an end": [("a", 0, 0, set_(1), PENDING)],
    "in a row": [
        ("a", 0, 1, set_(1), None),
        ("b", 2, 3, get(), 1),
        ("a", 4, 5, set_(2), None),
        ("b", 6, 7, get(), 2),
    ],
    "concurrent writes, the first one last": [
        ("a", 0, 3, set_(1), None),
        ("b", 1, 2, set_(2), None),
        ("c", 4, 5, get(), 1),
    ],
    "concurrent writes, the second one last": [
        ("a", 0, 3, set_(1), None),
        ("b", 1, 2, set_(2), None),
        ("c", 4, 5, get(), 2),
    ],
    "a read beside a write, then what it saw": [
        ("a", 0, 10, set_(1), None),
        ("b", 1, 2, get(), None),
        ("c", 3, 4, get(), 1),
        ("b", 5, 6, get(), 1),
    ],
    # MIT 6.824, quiz 2 of 2017, section VII.
    "quiz, the first history": [
        ("c1", 0, 100, set_(100), None),
        ("c2", 25, 75, get(), 100),
        ("c3", 30, 60, get(), None),
    ],
    "unknown, seen at once": [
        ("a", 0, 1, set_(1), UNKNOWN),
        ("b", 2, 3, get(), 1),
    ],
    "unknown, seen late": [
        ("a", 0, 1, set_(1), UNKNOWN),
        ("b", 2, 3, get(), None),
        ("b", 4, 5, set_(2), None),
        ("b", 6, 7, get(), 2),
        ("b", 8, 9, get(), 1),
    ],
    "unknown, never seen": [
        ("a", 0, 1, set_(1), UNKNOWN),
        ("b", 2, 3, get(), None),
    ],
    "unknown in the middle": [
        ("a", 0, 1, set_(1), None),
        ("b", 2, 3, cas(1, 2), UNKNOWN),
        ("c", 4, 5, cas(2, 3), UNKNOWN),
        ("a", 6, 7, get(), 3),
    ],
    "unknown, and applied before its client gave up": [
        ("a", 0, 9, add(1), UNKNOWN),
        ("b", 1, 2, add(1), 2),
    ],
    "two unknown ones that come to the same, the second is left": [
        ("a", 0, 1, set_(2), UNKNOWN),
        ("b", 0.5, 1.5, add(2), UNKNOWN),
        ("c", 2, 3, get(), 2),
        ("c", 4, 5, set_(5), None),
        ("c", 6, 7, get(), 7),
    ],
    "two unknown ones that come to the same, the first is left": [
        ("a", 0, 1, set_(2), UNKNOWN),
        ("b", 0.5, 1.5, add(2), UNKNOWN),
        ("c", 2, 3, get(), 2),
        ("c", 4, 5, set_(5), None),
        ("c", 6, 7, get(), 2),
    ],
    "failed, and not to be seen": [
        ("a", 0, 1, set_(1), FAILED),
        ("b", 2, 3, get(), None),
    ],
    "a chain of compare and set": [
        ("a", 0, 5, cas(2, 3), True),
        ("b", 1, 6, cas(1, 2), True),
        ("c", 2, 7, cas(None, 1), True),
        ("d", 3, 4, cas(7, 8), False),
        ("a", 8, 9, get(), 3),
    ],
    "a command that raises": [
        ("a", 0, 1, set_(1), None),
        ("b", 2, 3, Write(["no", "x"]), CommandFailedError("ValueError", "no")),
        ("b", 4, 5, get(), 1),
    ],
    "a read that failed": [
        ("a", 0, 1, set_(1), None),
        ("b", 2, 3, get(), UNKNOWN),
        ("b", 4, 5, get(), FAILED),
    ],
    "two keys": [
        ("a", 0, 1, set_(1, "x"), None),
        ("b", 0.5, 1.5, set_(2, "y"), None),
        ("a", 2, 3, get("y"), 2),
        ("b", 2.5, 3.5, get("x"), 1),
    ],
    "stale reads": [
        ("a", 0, 1, set_(1), None),
        ("a", 2, 3, set_(2), None),
        ("b", 4, 5, get(stale=True), 1),
        ("b", 6, 7, get(stale=True), None),
        ("b", 8, 9, get(stale=True), 2),
    ],
    "a stale read that is young enough": [
        ("a", 0, 1, set_(1), None),
        ("a", 2, 4, set_(2), None),
        ("b", 5, 6, get(stale=True, max_age=2.0), 1),
    ],
}

#: Histories that are not.
BAD: dict[str, list[Row]] = {
    "a stale read": [
        ("a", 0, 1, set_(1), None),
        ("a", 2, 3, set_(2), None),
        ("b", 4, 5, get(), 1),
    ],
    "a read after a read goes back": [
        ("a", 0, 10, set_(1), None),
        ("b", 1, 2, get(), 1),
        ("c", 3, 4, get(), None),
    ],
    # MIT 6.824, quiz 2 of 2017, section VII.
    "quiz, the second history": [
        ("c1", 0, 100, set_(200), None),
        ("c2", 10, 30, get(), 200),
        ("c3", 40, 90, get(), None),
    ],
    "a lost write": [
        ("a", 0, 1, set_(1), None),
        ("b", 2, 3, get(), None),
    ],
    "a write applied twice": [
        ("a", 0, 1, add(1), 1),
        ("b", 2, 3, get(), 2),
    ],
    "an unknown write applied twice": [
        ("a", 0, 1, add(1), UNKNOWN),
        ("b", 2, 3, get(), 2),
    ],
    "a read from the future": [
        ("a", 0, 1, get(), 1),
        ("b", 2, 3, set_(1), None),
    ],
    "an unknown write seen before it was invoked": [
        ("a", 0, 1, get(), 1),
        ("b", 2, 3, set_(1), UNKNOWN),
    ],
    "an unknown write that comes and goes": [
        ("a", 0, 1, set_(1), UNKNOWN),
        ("b", 2, 3, get(), 1),
        ("b", 4, 5, get(), None),
    ],
    "a failed write that is seen": [
        ("a", 0, 1, set_(1), FAILED),
        ("b", 2, 3, get(), 1),
    ],
    "two orders of the same writes": [
        ("a", 0, 3, set_(1), None),
        ("b", 1, 2, set_(2), None),
        ("c", 4, 5, get(), 1),
        ("c", 6, 7, get(), 2),
    ],
    "a broken chain of compare and set": [
        ("a", 0, 1, cas(None, 1), True),
        ("b", 2, 3, cas(None, 2), True),
    ],
    "a value out of thin air": [("a", 0, 1, get(), 7)],
    "a number that is true": [
        ("a", 0, 1, set_(1), None),
        ("b", 2, 3, get(), True),
    ],
    "another failure than the machine's": [
        ("b", 2, 3, Write(["no", "x"]), CommandFailedError("KeyError", "no")),
    ],
    "a failure that did something": [
        ("a", 0, 1, set_(1), CommandFailedError("ValueError", "set")),
    ],
    "a stale read from the future": [
        ("b", 0, 1, get(stale=True), 1),
        ("a", 2, 3, set_(1), None),
    ],
    "a stale read of what never was": [
        ("a", 0, 1, set_(1), None),
        ("b", 2, 3, get(stale=True), 2),
    ],
    "a stale read that is too old": [
        ("a", 0, 1, set_(1), None),
        ("a", 2, 3, set_(2), None),
        ("b", 5, 6, get(stale=True, max_age=1.5), 1),
    ],
}


@pytest.mark.parametrize("partition", [None, key_of])
class KnownAnswerTests:
    """Histories that somebody has thought about."""

    @pytest.mark.parametrize("name", GOOD)
    def test_linearizable(self, name: str, partition: Any) -> None:
        """There is an order."""
        history = recorded(*GOOD[name])
        verdict = judge(history, Cells, partition=partition)
        assert verdict.outcome is Outcome.LINEARIZABLE
        assert verdict.is_linearizable
        assert verdict.calls == len(history)

    @pytest.mark.parametrize("name", BAD)
    def test_not_linearizable(self, name: str, partition: Any) -> None:
        """There is none, and all calls that are named are of the history."""
        history = recorded(*BAD[name])
        verdict = judge(history, Cells, partition=partition)
        assert verdict.outcome is Outcome.NOT_LINEARIZABLE
        assert not verdict.is_linearizable
        found = verdict.contradiction
        assert found is not None
        assert found.breaks in found.operations
        assert set(found.operations) <= set(history.operations)


class UnknownTests:
    """A call whose outcome is unknown, wherever it stands."""

    #: Of a write that is invoked at this moment, which reads may see it.
    READS = ((1, 2), (3, 4), (5, 6))

    @pytest.mark.parametrize("began", [0, 2.5, 4.5, 6.5])
    @pytest.mark.parametrize("seen", range(4))
    @pytest.mark.parametrize("ending", [UNKNOWN, PENDING])
    def test_positions(self, began: float, seen: int, ending: str) -> None:
        """It takes effect after it was invoked, once, and for good."""
        reads: list[Row] = [
            ("r", start, end, get(), 1 if place >= seen else None)
            for place, (start, end) in enumerate(self.READS)
        ]
        rows = [("w", began, 7, set_(1), ending), *reads]
        # The first read that sees it has to end after it was invoked.
        is_good = seen == len(self.READS) or self.READS[seen][1] > began
        assert judge(recorded(*rows), Cells).is_linearizable is is_good

    @pytest.mark.parametrize("count", [50, 200])
    def test_many(self, count: int) -> None:
        """Many of them do not make it hard, whatever the verdict is."""
        rows: list[Row] = [
            (f"u{number}", number, count, set_(number), UNKNOWN)
            for number in range(count)
        ]
        rows += [
            ("a", count + 1, count + 2, set_(-1), None),
            ("a", count + 3, count + 4, get(), count // 2),
            ("a", count + 5, count + 6, set_(-2), None),
        ]
        good: Row = ("a", count + 7, count + 8, get(), count // 3)
        bad: Row = ("a", count + 7, count + 8, get(), count // 2)
        steps = 10 * count
        verdict = judge(recorded(*rows, good), Cells, step_limit=steps)
        assert verdict.outcome is Outcome.LINEARIZABLE
        verdict = judge(recorded(*rows, bad), Cells, step_limit=steps)
        assert verdict.outcome is Outcome.NOT_LINEARIZABLE

    def test_the_same(self) -> None:
        """Those that ask for the same are interchangeable."""
        rows: list[Row] = [
            (f"u{number}", number, 100, add(1), UNKNOWN) for number in range(60)
        ]
        good: Row = ("a", 101, 102, get(), 37)
        bad: Row = ("a", 101, 102, get(), 61)
        assert judge(recorded(*rows, good), Cells, step_limit=1000).is_linearizable
        verdict = judge(recorded(*rows, bad), Cells, step_limit=1000)
        assert verdict.outcome is Outcome.NOT_LINEARIZABLE


class SessionTests:
    """Reads that have to have seen a call before."""

    @staticmethod
    def history(*, is_behind: bool, answer: Any) -> History:
        """Return a write, and a stale read that may have to see it."""
        history = recorded(("a", 0, 1, set_(1), None))
        after = history.operations[0] if is_behind else None
        history.invoke("a", get(stale=True, after=after)).returned(answer)
        return history

    def test_read_your_writes(self) -> None:
        """A stale read at the index of a write sees that write."""
        for is_behind, answer, verdict in (
            (True, 1, True),
            (True, None, False),
            (False, None, True),
        ):
            history = self.history(is_behind=is_behind, answer=answer)
            assert judge(history, Cells).is_linearizable is verdict

    @pytest.mark.parametrize("is_session", [True, False])
    def test_monotonic(self, *, is_session: bool) -> None:
        """A stale read after another one of its session does not go back."""
        history = recorded(("a", 0, 1, set_(1), None))
        first = history.invoke("b", get(stale=True))
        first.returned(1)
        after = first if is_session else None
        history.invoke("b", get(stale=True, after=after)).returned(None)
        assert judge(history, Cells).is_linearizable is not is_session


class UndecidedTests:
    """The judge says when it does not know."""

    @staticmethod
    def history() -> History:
        """Return what is hard: all at once, and nothing fits."""
        rows: list[Row] = [
            (f"c{number}", number, 100 + number, add(1 << number), UNKNOWN)
            for number in range(40)
        ]
        return recorded(*rows, ("r", 200, 201, get(), 1 << 41))

    def test_time(self) -> None:
        """It stops at the time limit."""
        now = iter(range(1000))
        verdict = judge(
            self.history(), Cells, time_limit=10, seconds=lambda: float(next(now))
        )
        assert verdict.outcome is Outcome.UNDECIDED
        assert "no time" in verdict.reason

    def test_steps(self) -> None:
        """And when it would take too much memory."""
        verdict = judge(self.history(), Cells, step_limit=1000)
        assert verdict.outcome is Outcome.UNDECIDED
        assert "1000" in verdict.reason
        assert verdict.steps == 1000

    def test_is_no_pass(self) -> None:
        """Who asserts that a history is linearizable fails."""
        with pytest.raises(AssertionError, match="undecided"):
            assert_linearizable(self.history(), Cells, step_limit=1000)

    def test_another_part_decides(self) -> None:
        """A contradiction in one part is one, whatever the others are."""
        history = self.history()
        history.invoke("z", get("z")).returned(1)
        for limit in (100, 100_000):
            verdict = judge(history, Cells, partition=key_of, step_limit=limit)
            assert verdict.outcome is Outcome.NOT_LINEARIZABLE


class PartitionTests:
    """Cutting a history where the machine's parts do not touch."""

    def test_none(self) -> None:
        """A call that is about more than one part keeps all together."""
        history = recorded(
            ("a", 0, 1, set_(1, "x"), None), ("b", 2, 3, set_(1, "y"), None)
        )
        assert judge(history, Cells, partition=key_of).partitions == 2
        verdict = judge(
            history,
            Cells,
            partition=lambda body: None if body[1] == "y" else body[1],
        )
        assert verdict.partitions == 1


calls = st.one_of(
    st.builds(get, st.sampled_from("xy")),
    st.builds(set_, st.integers(0, 2), st.sampled_from("xy")),
    st.builds(add, st.integers(1, 2), st.sampled_from("xy")),
    st.builds(cas, st.sampled_from([None, 0, 1, 2]), st.integers(0, 2)),
)


@st.composite
def executions(draw: st.DrawFn, most: int = 5) -> list[Row]:
    """Draw calls that took effect in order, and moments around each effect."""
    machine = Cells()
    state = machine.init("drawn")
    rows: list[Row] = []
    bodies = draw(st.lists(calls, max_size=most))
    for place, call in enumerate(bodies):
        began = place - draw(st.floats(0, 3))
        ended = place + draw(st.floats(0.01, 3))
        kind = draw(st.sampled_from(["done"] * 4 + ["lost", "late", "failed"]))
        is_write = isinstance(call, Write)
        answer: Any = None
        if kind in {"done", "late"} or not is_write:
            answer, state = applied(machine, call, state)
        if kind != "done":
            answer = FAILED if kind == "failed" else UNKNOWN
        if kind == "late":
            ended = draw(st.floats(began, ended))
        rows.append((f"c{place}", began, ended, call, answer))
    return rows


class RandomTests:
    """What was executed is accepted; for the rest, all orders are tried."""

    @given(executions(most=14))
    @settings(max_examples=60, deadline=None)
    def test_executed(self, rows: list[Row]) -> None:
        """What a machine did is linearizable, in parts and as a whole."""
        history = recorded(*rows)
        assert judge(history, Cells).is_linearizable
        assert judge(history, Cells, partition=key_of).is_linearizable

    @given(executions(most=14), st.data())
    @settings(max_examples=60, deadline=None)
    def test_thin_air(self, rows: list[Row], data: st.DataObject) -> None:
        """With a read that answers what nobody wrote, it is not."""
        reads = [
            place
            for place, row in enumerate(rows)
            if isinstance(row[3], Read) and row[4] not in (FAILED, UNKNOWN)
        ]
        if not reads:
            return
        chosen = data.draw(st.sampled_from(reads))
        rows[chosen] = (*rows[chosen][:4], 1000)
        verdict = judge(recorded(*rows), Cells)
        assert verdict.contradiction is not None
        assert [each.client for each in verdict.contradiction.operations] == [
            rows[chosen][0]
        ]

    @given(executions(), st.data())
    @settings(max_examples=150, deadline=None)
    def test_against_all_orders(self, rows: list[Row], data: st.DataObject) -> None:
        """With one answer changed, it is what trying everything says."""
        if rows:
            place = data.draw(st.integers(0, len(rows) - 1))
            answer = data.draw(
                st.sampled_from([None, 0, 1, 2, True, False, UNKNOWN, FAILED])
            )
            rows[place] = (*rows[place][:4], answer)
        history = recorded(*rows)
        verdict = judge(history, Cells, partition=key_of)
        assert verdict.outcome is not Outcome.UNDECIDED
        assert verdict.is_linearizable is has_order(history, Cells())
        assert judge(history, Cells).outcome is verdict.outcome
        if verdict.contradiction is not None:
            self.check(verdict.contradiction)

    @staticmethod
    def check(found: Contradiction) -> None:
        """See that each call is needed, and that no others are."""
        needed = [_row(each) for each in found.operations]
        others = [_forgotten(each) for each in found.others if each.is_write]
        assert not has_order(recorded(*needed, *others), Cells())
        for place, operation in enumerate(found.operations):
            less = needed[:place] + needed[place + 1 :]
            if operation.is_write:
                less.append(_forgotten(operation))
            assert has_order(recorded(*less, *others), Cells())
        if found.breaks.answer is not None:
            wrong = found.breaks.answer.text(found.breaks.machine)
            assert found.instead
            assert wrong not in found.instead


def _row(operation: Operation) -> Row:
    assert operation.answer is not None
    assert operation.finish is not None
    answer = operation.answer
    result: Any = CommandFailedError(*answer.error) if answer.error else None
    if result is None:
        result = operation.machine.decode_result(answer.data)
    return (
        operation.client,
        operation.start,
        operation.finish,
        operation.call,
        result,
    )


def _forgotten(operation: Operation) -> Row:
    return operation.client, operation.start, 0, operation.call, PENDING


class ContradictionTests:
    """What is left of a history, to be read by people."""

    @staticmethod
    def history() -> History:
        """Return a stale read among a hundred calls that are right."""
        rows: list[Row] = []
        for number in range(50):
            at = 4 * number
            rows.append(("w", at, at + 1, set_(number), None))
            rows.append(("r", at + 2, at + 3, get(), number))
        rows[41] = ("r", 82, 83, get(), 17)
        return recorded(*rows)

    def test_small(self) -> None:
        """The read, one like it, and the write in between are left."""
        found = judge(self.history(), Cells).contradiction
        assert found is not None
        assert [each.number for each in found.operations] == [35, 40, 41]
        assert found.breaks.number == 41
        assert found.instead == ("20",)
        order = [operation.number for operation, _ in found.order]
        assert order[-2:] == [40, 41]
        assert len(found.others) == 39

    def test_message(self, tmp_path: Path) -> None:
        """The assertion's message has the calls, and the timeline's path."""
        path = tmp_path / "timeline.html"
        with pytest.raises(AssertionError) as caught:
            assert_linearizable(self.history(), Cells, report=path)
        message = str(caught.value)
        assert "100 calls are not linearizable" in message
        assert "w: write ['set', 'x', 20] -> None" in message
        assert "r: read ['get', 'x'] -> 20, but it was 17" in message
        assert f"timeline: {path}" in message
        assert path.read_text().startswith("<!DOCTYPE html>")

    def test_default_path(self) -> None:
        """Without a path, the timeline is among the temporary files."""
        with pytest.raises(AssertionError) as caught:
            assert_linearizable(self.history(), Cells)
        path = Path(str(caught.value).rpartition("timeline: ")[2])
        assert path.exists()
        shutil.rmtree(path.parent)

    def test_passes(self) -> None:
        """Of a history that is linearizable, the verdict is returned."""
        verdict = assert_linearizable(recorded(*GOOD["in a row"]), Cells)
        assert verdict.text() == "4 calls are linearizable"

    def test_one_wrong_apply_of_two(self) -> None:
        """A call that was pending may have been what broke it; it is not blamed."""
        history = recorded(
            ("a", 0, 9, cas(None, 1), False),
            ("b", 1, 2, get(), None),
            ("c", 10, 11, get(), None),
        )
        found = judge(history, Cells).contradiction
        assert found is not None
        assert found.breaks.client == "a"
        assert found.instead == ("True",)

    def test_no_budget(self) -> None:
        """Without time to make it small, it is still a contradiction."""
        now = [0.0]

        def seconds() -> float:
            now[0] += 21.0
            return now[0]

        history = recorded(*BAD["a stale read"])
        verdict = judge(history, Cells, time_limit=1000, seconds=seconds)
        assert verdict.contradiction is not None
        assert len(verdict.contradiction.operations) == 3
        assert "not found in time" in verdict.text()


class SpeedTests:
    """The search stays short where it has to."""

    def test_steps(self) -> None:
        """A history of 10,000 calls takes little more than a state a write."""
        history = atomic_history(10_000, clients=16, keys=10, unknown=0.02)
        verdict = judge(history, Cells, partition=key_of, step_limit=40_000)
        assert verdict.outcome is Outcome.LINEARIZABLE
