"""
Searches for an order of calls that a state machine could have had.

The algorithm is Wing and Gong's, with Lowe's memory of what was tried: calls
take effect one at a time, each between its invocation and its return, and the
machine has to answer as it did.  Four rules keep the search short; none of
them changes what it finds.

* A read that would be answered as it was takes effect at once, as it changes
  nothing: whatever can come after it can come after it now.
* A state that was reached with the same calls done is not looked at again.
* Neither is one for which calls with an unknown outcome took effect that
  another way to it did without: it can do no more than that.  For the same
  reason, one that would change nothing does not take effect.
* Of such calls that ask for the same, the first that was invoked goes first.
  One that comes to the same with and without another before it goes without.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from consensus.testing.model import Model
    from consensus.testing.operations import Operation

#: Stands for the return of a call that has none.
NEVER = 1 << 62

#: Stands for an answer that may be any.
ANY = -1


#: Of each state, and the required calls that are done: the ways to it, as bits
#: of the optional calls that they took.
_Tried = dict[tuple[int, int, int], list[int]]


class UndecidedError(Exception):
    """Neither an order was found, nor that there is none."""


@dataclass(slots=True)
class Budget:
    """
    How much a search may take.

    Args:
        seconds: Returns the time.
        deadline: When it ends.
        steps: How many states may be looked at, which bounds the memory: some
            300 bytes each.
    """

    seconds: Callable[[], float]
    deadline: float
    steps: int
    #: How many were.
    spent: int = field(default=0, init=False)

    def spend(self) -> None:
        """
        Count a state.

        Raises:
            UndecidedError: It was one too many, or time is up.
        """
        if self.seconds() >= self.deadline:
            raise UndecidedError("there was no time left")
        if self.spent >= self.steps:
            message = f"{self.steps} states were not enough"
            raise UndecidedError(message)
        self.spent += 1


class Step(NamedTuple):
    """
    A call as the search sees it.

    Args:
        begin: Before which event it cannot take effect.
        end: After which it cannot; :data:`NEVER` if it need not.
        call: Its number in the model.
        answer: That of its answer, or :data:`ANY`.
        is_write: May it change the state?
        operation: The call itself.
    """

    begin: int
    end: int
    call: int
    answer: int
    is_write: bool
    operation: Operation


class _Node(NamedTuple):
    """
    Calls that have taken effect, and the state after them.

    Args:
        low: All required steps below took effect.
        mask: And those further on whose bits, from there, are set.
        state: The model's number.
        used: Which optional steps took effect, as bits.
        bound: The next event by which a step has to take effect.
        writes: Which required writes may be next.
        parent: What was before the last write.
        order: The steps since then.
    """

    low: int
    mask: int
    state: int
    used: int
    bound: int
    writes: tuple[int, ...]
    parent: _Node | None
    order: tuple[Step, ...]


class Search:
    """
    The question whether there is an order.

    Args:
        model: Says what the calls do.
        required: The calls that took effect.
        optional: Writes that may have, at any time after their beginning.
        budget: How much to try.
        excluded: Answers that a required step with :data:`ANY` must not have.
    """

    def __init__(
        self,
        model: Model,
        required: Sequence[Step],
        optional: Sequence[Step],
        budget: Budget,
        excluded: frozenset[int] = frozenset(),
    ) -> None:
        self._model = model
        self._steps = sorted(required, key=_when)
        self._optional = sorted(optional, key=_when)
        self._budget = budget
        self._excluded = excluded
        self._needs = self._find_needs()
        self._twins = self._find_twins()
        # With which optional steps done it came to a state: after all reads
        # that could take effect there, and before.
        self._tried: _Tried = {}
        self._begun: _Tried = {}
        #: Of a state: those after the optional steps, as far as they were asked.
        self._afters: dict[int, list[int]] = {}
        self._begins = [step.begin for step in self._optional]
        #: The return that no order got past; ``NEVER`` if one got past all.
        self.reached = 0

    def _find_needs(self) -> dict[int, int]:
        """Return which step has to wait for which."""
        places = {
            step.operation.number: place for place, step in enumerate(self._steps)
        }
        needs = {}
        for place, step in enumerate(self._steps):
            after = getattr(step.operation.call, "after", None)
            if after is not None and after.number in places:
                needs[place] = places[after.number]
        return needs

    def _find_twins(self) -> list[int]:
        """Return, for each optional step, the one before that asks for the same."""
        last: dict[int, int] = {}
        twins = []
        for place, step in enumerate(self._optional):
            twins.append(last.get(step.call, -1))
            last[step.call] = place
        return twins

    def run(self) -> list[Step] | None:
        """
        Return an order of all required steps and some others; ``None`` if none is.

        Raises:
            UndecidedError: The budget was too small.
        """
        stack = [(self._settled(0, 0, self._model.initial), True)]
        while stack:
            node, is_first = stack.pop()
            if not is_first:
                stack += [(child, True) for child in self._after_optional(node)]
                continue
            self._budget.spend()
            if node.low == len(self._steps):
                return _path(node)
            # What is put last is tried first: the calls that certainly took
            # effect, the earliest of them before the others.
            stack.append((node, False))
            stack += [(child, True) for child in self._after_required(node)]
        return None

    def _settled(
        self,
        low: int,
        mask: int,
        state: int,
        *,
        used: int = 0,
        parent: _Node | None = None,
        order: tuple[Step, ...] = (),
    ) -> _Node:
        """Return a node in which all reads that can have taken effect."""
        reads: list[Step] = []
        while True:
            found, bound, writes, is_blocked = self._look(low, mask, state)
            for place in found:
                mask |= 1 << (place - low)
                reads.append(self._steps[place])
            done = (~mask & (mask + 1)).bit_length() - 1
            mask >>= done
            low += done
            if not (found and is_blocked):
                break
        self.reached = max(self.reached, bound)
        return _Node(
            low, mask, state, used, bound, tuple(writes), parent, (*order, *reads)
        )

    def _look(
        self, low: int, mask: int, state: int
    ) -> tuple[list[int], int, list[int], bool]:
        """
        Return the reads that can take effect, the next return, and the writes.

        And whether a read waits for another call.
        """
        steps, apply, needs = self._steps, self._model.apply, self._needs
        reads: list[int] = []
        writes: list[int] = []
        bound, place, is_blocked = NEVER, low, False
        while place < len(steps):
            begin, end, call, answer, is_write, _ = steps[place]
            if begin > bound:
                break
            if not mask >> (place - low) & 1:
                if is_write:
                    writes.append(place)
                elif needs and self._waits(place, low, mask, reads):
                    is_blocked = True
                elif self._accepts(answer, apply(state, call)[0]):
                    reads.append(place)
                    place += 1
                    continue
                bound = min(bound, end)
            place += 1
        return reads, bound, writes, is_blocked

    def _waits(self, place: int, low: int, mask: int, done: list[int]) -> bool:
        need = self._needs.get(place)
        if need is None or need < low or need in done:
            return False
        return not mask >> (need - low) & 1

    def _accepts(self, answer: int, found: int) -> bool:
        return found == answer or (answer == ANY and found not in self._excluded)

    def _after_required(self, node: _Node) -> Iterator[_Node]:
        for place in reversed(node.writes):
            step = self._steps[place]
            answer, state = self._model.apply(node.state, step.call)
            if self._accepts(step.answer, answer):
                mask = node.mask | 1 << (place - node.low)
                child = self._settled(
                    node.low, mask, state, used=node.used, parent=node, order=(step,)
                )
                if self._is_new(child):
                    yield child

    def _after_optional(self, node: _Node) -> Iterator[_Node]:
        used, state = node.used, node.state
        count = bisect_right(self._begins, node.bound)
        after = self._after(state, count)
        known = self._after_parent(node, count)
        for place in range(count) if known != after else ():
            now = after[place]
            if now == state or (known and known[place] == now):
                continue
            twin = self._twins[place]
            if used >> place & 1 or (twin >= 0 and not used >> twin & 1):
                continue
            key, took = (node.low, node.mask, now), used | 1 << place
            if _is_less(self._begun, key, took):
                step = self._optional[place]
                child = self._settled(*key, used=took, parent=node, order=(step,))
                if self._is_new(child):
                    yield child

    def _after(self, state: int, count: int) -> list[int]:
        """Return the states after each of the first *count* optional steps."""
        after = self._afters.setdefault(state, [])
        for step in self._optional[len(after) : count]:
            after.append(self._model.apply(state, step.call)[1])
        return after[:count]

    def _after_parent(self, node: _Node, count: int) -> list[int]:
        """
        Return where the optional steps lead from the parent, if that is as good.

        It is if only one such step lies between: what another one comes to,
        whether or not that was before, is looked at without it.
        """
        parent = node.parent
        if parent is None or parent.used == node.used or len(node.order) > 1:
            return []
        return self._after(parent.state, count)

    def _is_new(self, node: _Node) -> bool:
        return _is_less(self._tried, (node.low, node.mask, node.state), node.used)


def _is_less(tried: _Tried, key: tuple[int, int, int], used: int) -> bool:
    """Say whether none of the ways to *key* did with fewer; remember this one."""
    before = tried.setdefault(key, [])
    for other in before:
        if other & used == other:
            return False
    before.append(used)
    return True


def _when(step: Step) -> tuple[int, int]:
    return step.begin, step.end


def _path(node: _Node | None) -> list[Step]:
    parts = []
    while node is not None:
        parts.append(node.order)
        node = node.parent
    return [step for part in reversed(parts) for step in part]
