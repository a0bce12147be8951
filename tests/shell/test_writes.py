"""Tests of consensus.shell.writes: every Deferred fires, once, with what is true."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from consensus.core.values import Entry, EntryKind
from consensus.errors import (
    InvalidCommandError,
    LeadershipLostError,
    NotLeaderError,
    OverloadedError,
    StorageError,
    TimedOutError,
)
from consensus.settings.values import Limits
from consensus.shell.writes import Writes
from consensus.testing.network import Network
from tests.support.deferreds import error_of, has_fired, result_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from twisted.internet.defer import Deferred

    from consensus.core.raft import Raft

#: The tick at which what is proposed in these tests fails.
DEADLINE = 10

STOP = StorageError("the server stops")


def commands(count: int, size: int = 3) -> list[bytes]:
    """Return so many commands."""
    return [b"%0*d" % (size, number) for number in range(count)]


class World:
    """A leader alone, and the writes that wait at it."""

    def __init__(self, **limits: int) -> None:
        self.network = Network(("s1",))
        self.network.elect("s1")
        self.raft: Raft = self.network.rafts["s1"]
        self.writes = Writes(Limits(**limits), 100)
        self.first = self.raft.state.log.last_index + 1

    def propose(self) -> None:
        """End the turn."""
        self.writes.propose(self.raft, DEADLINE)

    def depose(self) -> None:
        """Let the leader wait for itself no longer."""
        self.network.restart("s1")
        self.raft = self.network.rafts["s1"]

    def apply(self, *terms: int, start: int | None = None) -> list[Entry]:
        """
        Apply entries of these *terms*, from the first that waits on.

        The result of each is the text of its index.
        """
        first = self.first if start is None else start
        entries = [
            Entry(index, term, EntryKind.COMMAND, b"any")
            for index, term in enumerate(terms, first)
        ]
        self.writes.applied(entries, [str(entry.index) for entry in entries])
        return entries

    def results(self, count: int) -> list[str]:
        """Return what the first *count* writes come to."""
        return [str(self.first + number) for number in range(count)]


@pytest.fixture
def world() -> World:
    """Return a leader whose term is 2."""
    world = World()
    assert world.raft.state.term == 2
    return world


def all_added(world: World, count: int) -> list[Deferred[Any]]:
    """Return what *count* writes of one turn, which is over, wait for."""
    waiting = [world.writes.add(command) for command in commands(count)]
    world.propose()
    return waiting


def fired(waiting: Iterable[Deferred[Any]]) -> list[bool]:
    """Say of each whether it has fired."""
    return [has_fired(each) for each in waiting]


class AppliedTests:
    """What is applied answers those whose entries those are."""

    def test_a_whole_batch(self, world: World) -> None:
        """Each gets its own result."""
        waiting = all_added(world, 3)
        world.apply(2, 2, 2)
        assert [result_of(each) for each in waiting] == world.results(3)

    def test_a_part_of_a_batch(self, world: World) -> None:
        """The rest waits for its own entries, and no longer than that."""
        waiting = all_added(world, 4)
        world.apply(2)
        assert fired(waiting) == [True, False, False, False]
        world.apply(2, 2, start=world.first + 1)
        assert fired(waiting) == [True, True, True, False]
        world.apply(2, start=world.first + 3)
        assert [result_of(each) for each in waiting] == world.results(4)

    def test_several_batches_at_once(self, world: World) -> None:
        """Entries before, between and behind them are nobody's."""
        one = all_added(world, 2)
        world.raft.propose([b"of nobody"])
        two = all_added(world, 2)
        world.apply(2, *[2] * 6, start=world.first - 1)
        assert [result_of(each) for each in one] == world.results(2)
        assert [result_of(each) for each in two] == world.results(5)[3:]

    def test_a_batch_and_a_part_of_the_next(self, world: World) -> None:
        """What is left of it goes on waiting."""
        one, two = all_added(world, 2), all_added(world, 2)
        world.apply(2, 2, 2)
        assert fired(one + two) == [True, True, True, False]
        world.writes.expire(DEADLINE)
        assert isinstance(error_of(two[1]), TimedOutError)

    def test_entries_before_the_first(self, world: World) -> None:
        """They answer nobody."""
        waiting = all_added(world, 1)
        world.apply(1, 2, start=world.first - 2)
        assert fired(waiting) == [False]

    def test_entries_behind_those_that_nobody_showed(self, world: World) -> None:
        """Nobody gets the result of another entry; it is too late in the end."""
        waiting = all_added(world, 2)
        world.apply(2, 2, 2, start=world.first + 1)
        assert fired(waiting) == [False, False]
        world.writes.expire(DEADLINE)
        for each in waiting:
            assert isinstance(error_of(each), TimedOutError)

    def test_another_leader_kept_the_first_of_them(self, world: World) -> None:
        """Those it kept are answered; of the rest nobody knows."""
        waiting = all_added(world, 4)
        world.apply(2, 2, 3, 3)
        assert [result_of(each) for each in waiting[:2]] == world.results(2)
        for each in waiting[2:]:
            assert isinstance(error_of(each), LeadershipLostError)

    def test_another_leader_kept_none_of_them(self, world: World) -> None:
        """All are told; entries that follow answer nobody."""
        waiting = all_added(world, 2)
        world.apply(3, 3, 3)
        for each in waiting:
            assert isinstance(error_of(each), LeadershipLostError)

    def test_entries_of_a_smaller_term_stand_there(self, world: World) -> None:
        """A later leader had what this one lacked (§3.6.1, figure 3.7)."""
        waiting = all_added(world, 3)
        world.apply(1, 3, 3)
        for each in waiting:
            assert isinstance(error_of(each), LeadershipLostError)

    def test_the_kept_part_may_end_in_another_call(self, world: World) -> None:
        """It makes no difference where what is applied is cut."""
        waiting = all_added(world, 4)
        world.apply(2)
        world.apply(2, 3, start=world.first + 1)
        world.apply(3, start=world.first + 3)
        assert [result_of(each) for each in waiting[:2]] == world.results(2)
        for each in waiting[2:]:
            assert isinstance(error_of(each), LeadershipLostError)

    def test_with_the_index(self, world: World) -> None:
        """Who asks for it gets it, but not with an error."""
        writes = world.writes
        waiting = [writes.add(each, with_index=True) for each in commands(3)]
        world.propose()
        entries = [Entry(world.first + n, 2, EntryKind.COMMAND, b"") for n in range(3)]
        writes.applied(entries[:1], ["one"])
        writes.applied(entries[1:], [Failure(KeyError("two")), "three"])
        assert result_of(waiting[0]) == ("one", world.first)
        assert isinstance(error_of(waiting[1]), KeyError)
        assert result_of(waiting[2]) == ("three", world.first + 2)


class ManyTests:
    """Writes that are asked for, and answered, together."""

    def test_they_stand_side_by_side(self, world: World) -> None:
        """In their order, among the others of their turn."""
        before = world.writes.add(b"before")
        many = world.writes.add_many(commands(3))
        behind = world.writes.add(b"behind")
        world.propose()
        log = world.raft.state.log
        kept = [each.command for each in log.slice(world.first, log.last_index, 1000)]
        assert kept == [b"before", *commands(3), b"behind"]
        world.apply(2, 2, 2, 2, 2)
        results = world.results(5)
        assert result_of(before) == results[0]
        assert result_of(many) == results[1:4]
        assert result_of(behind) == results[4]

    def test_applied_in_parts(self, world: World) -> None:
        """Nobody hears of it before the last of them."""
        many = world.writes.add_many(commands(3))
        world.propose()
        world.apply(2)
        world.apply(2, start=world.first + 1)
        assert not has_fired(many)
        world.apply(2, start=world.first + 2)
        assert result_of(many) == world.results(3)

    def test_an_error_of_the_machine_is_one_of_the_results(self, world: World) -> None:
        """The others were applied all the same."""
        many = world.writes.add_many(commands(2))
        world.propose()
        error = KeyError("no such key")
        entries = [Entry(world.first + n, 2, EntryKind.COMMAND, b"") for n in range(2)]
        world.writes.applied(entries, [Failure(error), "fine"])
        assert result_of(many) == [error, "fine"]

    def test_a_part_of_them_was_replaced(self, world: World) -> None:
        """Then nobody knows what became of them, and hears that once."""
        many = world.writes.add_many(commands(4))
        world.propose()
        world.apply(2, 2, 3, 3)
        assert isinstance(error_of(many), LeadershipLostError)

    def test_they_time_out_together(self, world: World) -> None:
        """Also when some were applied; what comes later is no answer."""
        many = world.writes.add_many(commands(3))
        world.propose()
        world.apply(2)
        world.writes.expire(DEADLINE - 1)
        assert not has_fired(many)
        world.writes.expire(DEADLINE)
        world.apply(2, 2, start=world.first + 1)
        assert isinstance(error_of(many), TimedOutError)

    def test_a_caller_that_gave_up(self, world: World) -> None:
        """It gets no second answer, good or bad."""
        good, bad = (
            world.writes.add_many(commands(2)),
            world.writes.add_many(commands(2)),
        )
        world.propose()
        for many in (good, bad):
            many.cancel()
            assert isinstance(error_of(many), CancelledError)
        world.apply(2, 2, 2)
        world.writes.fail(STOP)

    def test_one_that_is_too_large(self, world: World) -> None:
        """None of them is taken, and they leave no trace."""
        with pytest.raises(InvalidCommandError, match="it has 101 bytes"):
            world.writes.add_many([*commands(2), b"x" * 101])
        world.propose()
        assert world.raft.state.log.last_index == world.first - 1

    @pytest.mark.parametrize(
        "limits", [{"max_pending_requests": 3}, {"max_pending_bytes": 9}]
    )
    def test_too_many_at_once(self, limits: dict[str, int]) -> None:
        """Who has to back off is told another thing than who asks for too much."""
        writes = World(**limits).writes
        with pytest.raises(InvalidCommandError, match=next(iter(limits))):
            writes.add_many(commands(4))
        writes.add_many(commands(2))
        assert isinstance(error_of(writes.add_many(commands(2))), OverloadedError)
        writes.add_many(commands(1))

    def test_what_is_answered_makes_room(self) -> None:
        """Each of them by itself, as it is applied or fails."""
        world = World(max_pending_requests=4, max_pending_bytes=12)
        many = world.writes.add_many(commands(4))
        world.propose()
        world.apply(2, 2, 3)
        refused = world.writes.add_many(commands(4))
        assert isinstance(error_of(refused), OverloadedError)
        world.writes.add_many(commands(3))
        assert isinstance(error_of(many), LeadershipLostError)


class LostTests:
    """A leadership that is over."""

    def test_what_was_not_proposed_is_rejected(self, world: World) -> None:
        """It entered no log, so that it can be asked for again, elsewhere."""
        one, many = world.writes.add(b"one"), world.writes.add_many(commands(2))
        world.depose()
        world.propose()
        assert isinstance(error_of(one), NotLeaderError)
        assert isinstance(error_of(many), NotLeaderError)

    def test_what_was_proposed_may_yet_be_committed(self, world: World) -> None:
        """Nobody waits for that."""
        waiting = all_added(world, 2)
        world.writes.drop_lost(world.raft)
        assert fired(waiting) == [False, False]
        world.depose()
        world.writes.drop_lost(world.raft)
        for each in waiting:
            assert isinstance(error_of(each), LeadershipLostError)

    def test_a_leader_again(self, world: World) -> None:
        """What was proposed in the earlier term is lost, what is new is not."""
        one = all_added(world, 1)
        world.depose()
        world.network.elect("s1")
        two = all_added(world, 1)
        world.writes.drop_lost(world.raft)
        assert isinstance(error_of(one[0]), LeadershipLostError)
        assert fired(two) == [False]


class ReentryTests:
    """What a caller does when it is answered."""

    def test_a_write_waits_for_the_next_turn(self, world: World) -> None:
        """It is in no batch that is being answered."""
        again: list[Deferred[Any]] = []
        for each in all_added(world, 2):
            each.addCallback(lambda _: again.append(world.writes.add(b"again")))
        world.apply(2, 2)
        assert fired(again) == [False, False]
        world.propose()
        world.apply(2, 2, start=world.first + 2)
        assert fired(again) == [True, True]

    def test_a_stop(self, world: World) -> None:
        """What was applied is answered so, and all others fail, each once."""
        one = all_added(world, 3)
        two = all_added(world, 1)
        many = world.writes.add_many(commands(2))
        one[0].addCallback(lambda _: world.writes.fail(STOP))
        world.apply(2, 2)
        assert result_of(one[1]) == world.results(2)[1]
        for each in (one[2], *two, many):
            assert error_of(each) is STOP

    def stopped_after_two(self, world: World, count: int) -> Any:
        """Return *count* writes of which two were applied before a stop."""
        first = world.writes.add(b"first")
        many = world.writes.add_many(commands(count))
        world.propose()
        first.addCallback(lambda _: world.writes.fail(STOP))
        world.apply(2, 2, 2)
        return many

    def test_a_stop_while_half_of_many_is_applied(self, world: World) -> None:
        """They fail as a whole; the results that were on their way are no answer."""
        assert error_of(self.stopped_after_two(world, 4)) is STOP

    def test_a_stop_while_all_of_many_is_applied(self, world: World) -> None:
        """They were applied, so that is what is said."""
        many = self.stopped_after_two(world, 2)
        assert result_of(many) == world.results(3)[1:]

    def test_a_stop_by_who_lost(self, world: World) -> None:
        """Nobody hears twice."""
        waiting = all_added(world, 3)
        rest = all_added(world, 1)
        waiting[1].addErrback(lambda _: world.writes.fail(STOP))
        world.apply(2, 3, 3)
        assert isinstance(error_of(waiting[2]), LeadershipLostError)
        assert error_of(rest[0]) is STOP

    def test_an_answer_that_raises(self, world: World) -> None:
        """It is its caller's own trouble."""
        waiting = all_added(world, 2)
        waiting[0].addCallback(lambda _: 1 // 0)
        world.apply(2, 2)
        assert isinstance(error_of(waiting[0]), ZeroDivisionError)
        assert result_of(waiting[1]) == world.results(2)[1]
