"""Tests of consensus.applications.lease_table."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from consensus.applications.lease_table import Lease, LeaseTable


def table_of(*ttls: int) -> LeaseTable[Lease]:
    """Return a table with leases of these ttls, numbered from 1."""
    table: LeaseTable[Lease] = LeaseTable()
    for ttl in ttls:
        table.add(Lease(table.next_number(), "", ttl, table.time + ttl))
    return table


def ended(table: LeaseTable[Lease], time: int) -> list[int]:
    """Let it be *time*; return the numbers of the leases that have ended."""
    return [lease.number for lease in table.pass_time(time)]


class LeaseTableTests:
    """Leases end when their time has come, in order."""

    def test_at_the_deadline(self) -> None:
        table = table_of(100)
        assert table.next_time() == 100
        assert ended(table, 99) == []
        assert table.get(1) is not None
        assert ended(table, 100) == [1]
        assert table.get(1) is None
        assert table.next_time() is None

    def test_in_the_order_of_deadlines_then_of_numbers(self) -> None:
        assert ended(table_of(300, 100, 200, 100, 900), 500) == [2, 4, 3, 1]

    def test_renewing(self) -> None:
        table = table_of(100, 150)
        table.pass_time(60)
        assert table.renew(1)
        assert table.next_time() == 150
        assert ended(table, 160) == [2, 1]
        assert not table.renew(1)

    def test_taking(self) -> None:
        table = table_of(100, 100)
        taken = table.take(1)
        assert taken is not None
        assert taken.number == 1
        assert table.take(1) is None
        assert len(table) == 1
        assert ended(table, 100) == [2]

    def test_a_number_is_never_used_again(self) -> None:
        table = table_of(100)
        table.take(1)
        assert table.next_number() == 2

    def test_time_does_not_go_back(self) -> None:
        table = table_of(100)
        table.pass_time(50)
        assert ended(table, 40) == []
        assert table.time == 50

    @given(
        st.lists(
            st.tuples(st.sampled_from("artp"), st.integers(1, 5), st.integers(1, 60))
        )
    )
    def test_it_is_as_a_dictionary(self, steps: list[tuple[str, int, int]]) -> None:
        """Whatever is done, what is left is what a plain model has."""
        table, model = table_of(), dict[int, tuple[int, int]]()
        for kind, number, amount in steps:
            if kind == "a":
                new = table.next_number()
                table.add(Lease(new, "", amount, table.time + amount))
                model[new] = (table.time + amount, amount)
            elif kind == "r":
                assert table.renew(number) == (number in model)
                if number in model:
                    model[number] = (table.time + model[number][1], model[number][1])
            elif kind == "t":
                assert (table.take(number) is not None) == (number in model)
                model.pop(number, None)
            else:
                time = table.time + amount
                due = [(model[each][0], each) for each in model]
                due = sorted(each for each in due if each[0] <= time)
                assert ended(table, time) == [each for _, each in due]
                for _, each in due:
                    del model[each]
            assert set(table.by_number) == set(model)
            assert table.deadlines == sorted((model[each][0], each) for each in model)
