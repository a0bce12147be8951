"""
Makes the reason why a history is not linearizable small enough to be read.

Every step of it keeps a proof: what is left could not have happened, even if
all that was left out happened in the most favourable way.  So a read may be
left out, as if it had never been asked; and a write may be forgotten to have
returned, as if it took effect at any time after its invocation, or never.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

from consensus.testing.operations import Read
from consensus.testing.search import ANY, NEVER, Budget, Search, Step, UndecidedError

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Sequence

    from consensus.testing.model import Model
    from consensus.testing.operations import Operation

#: A try to leave something out may take so many states.
_MOST_STEPS = 20_000

#: So many answers that would have been right are listed.
_MOST_ANSWERS = 5


@dataclass(frozen=True, slots=True)
class Contradiction:
    """
    Calls that cannot all have been answered as they were.

    Args:
        part: What they are about, as the partition says.
        operations: The calls, in the order of their invocation.
        breaks: Up to before its return there is an order; with it, none.
        instead: Answers of it that there would be an order for.
        order: One that there is with the first of them: the call and its
            answer.  It may have writes that are not among *operations*.
        others: Further calls that were invoked before: no choice of when, or
            whether, they took effect makes an order.
    """

    part: Hashable
    operations: tuple[Operation, ...]
    breaks: Operation
    instead: tuple[str, ...]
    order: tuple[tuple[Operation, str], ...]
    others: tuple[Operation, ...]


class Finder:
    """
    Turns calls into steps of a search, and finds what they contradict in.

    Args:
        model: For the state machine.
        operations: The calls of one part of a history, those that say
            something.
        history: All its calls.
    """

    def __init__(
        self,
        model: Model,
        operations: Sequence[Operation],
        history: Sequence[Operation],
    ) -> None:
        self.model = model
        #: The return that no order got past.
        self.reached = 0
        self._operations = operations
        self._events = _events(history)
        self._steps = [self._step(operation) for operation in operations]

    def _step(self, operation: Operation) -> Step:
        call = self.model.call(operation.data, is_write=operation.is_write)
        finish, answer = operation.finish, operation.answer
        if operation.outcome != "returned" or finish is None or answer is None:
            return Step(
                operation.start, NEVER, call, ANY, operation.is_write, operation
            )
        return Step(
            self._begin(operation),
            finish,
            call,
            self.model.answer(answer),
            operation.is_write,
            operation,
        )

    def _begin(self, operation: Operation) -> int:
        """Return the event from which on *operation* may take effect."""
        call = operation.call
        if not isinstance(call, Read) or not call.stale:
            return operation.start
        if call.max_age is None:
            return 0
        # The events of that moment may have come before or after it.
        oldest = (operation.began - call.max_age, -1)
        place = bisect_left(self._events, oldest)
        return self._events[place - 1][1] + 1 if place else 0

    def steps(
        self, weak: Collection[int] = (), until: int = NEVER
    ) -> tuple[list[Step], list[Step]]:
        """
        Return the steps that took effect, and those that may have.

        Args:
            weak: The numbers of calls whose return is forgotten.
            until: And so is everything after this event.
        """
        required, optional = [], []
        for step in self._steps:
            is_over = step.end <= until and step.operation.number not in weak
            if step.end < NEVER and is_over:
                required.append(step)
            elif step.is_write and step.operation.start < until:
                optional.append(step._replace(end=NEVER, answer=ANY))
        return required, optional

    def contradiction(self, part: Hashable, budget: Budget) -> Contradiction:
        """
        Return a contradiction: a small one, if the *budget* lasts.

        There must be one.
        """
        until = self._first_break(budget)
        (broken,) = (step for step in self._steps if step.end == until)
        weak = self._weak(until, budget)
        required, optional = self.steps(weak, until)
        needed = sorted(
            (step.operation for step in required), key=lambda each: each.start
        )
        numbers = {operation.number for operation in needed}
        instead = self._instead(broken, *self.steps(until=until), budget)
        order = self._order(broken, instead, required, optional, budget)
        return Contradiction(
            part=part,
            operations=tuple(needed),
            breaks=broken.operation,
            instead=tuple(map(self.model.text, instead)),
            order=order,
            others=tuple(
                operation
                for operation in self._operations
                if operation.start < until and operation.number not in numbers
            ),
        )

    def _fails(
        self, required: list[Step], optional: list[Step], budget: Budget
    ) -> bool:
        """Say whether there is certainly no order."""
        try:
            return self._search(required, optional, budget) is None
        except UndecidedError:
            return False

    def _search(
        self, required: list[Step], optional: list[Step], budget: Budget
    ) -> list[Step] | None:
        """
        Do as :meth:`.Search.run`, but not for long.

        Raises:
            UndecidedError: That was not enough.
        """
        now = budget.seconds()
        deadline = min(budget.deadline, now + (budget.deadline - now) / 10)
        steps = min(budget.steps - budget.spent, _MOST_STEPS)
        some = Budget(budget.seconds, deadline, steps)
        try:
            return Search(self.model, required, optional, some).run()
        finally:
            budget.spent += some.spent

    def _first_break(self, budget: Budget) -> int:
        """Return the first return, if the budget lasts, that no order gets past."""
        # No order got past `reached`, as things went on; but up to there, it
        # may do, if the calls that had not returned by then come to more.
        ends = sorted(
            step.end for step in self._steps if self.reached <= step.end < NEVER
        )
        low, high = 0, len(ends) - 1
        probe = low
        while low < high:
            if self._fails(*self.steps(until=ends[probe]), budget):
                high = probe
            else:
                low = probe + 1
            probe = (low + high) // 2
        return ends[low]

    def _weak(self, until: int, budget: Budget) -> set[int]:
        """Return the calls whose return need not be known for a contradiction."""
        required, _ = self.steps(until=until)
        (broken,) = (step for step in required if step.end == until)
        needed = self._grown(broken, required, budget)
        weak = {step.operation.number for step in required} - needed
        # What was written says more than what was read.
        for is_write in (False, True):
            left = [
                step.operation.number
                for step in required
                if step.is_write is is_write
                and step is not broken
                and step.operation.number in needed
            ]
            weak = self._weaker(weak, left, until, budget)
        return weak

    def _grown(
        self, broken: Step, required: Sequence[Step], budget: Budget
    ) -> set[int]:
        """
        Return calls that contradict *broken*: at worst, all of *required*.

        As long as there is an order for what was chosen, what it does not
        respect is chosen as well.
        """
        everything = {step.operation.number for step in required}
        needed = {broken.operation.number}
        count = 1
        while needed != everything:
            try:
                order = self._search(
                    *self.steps(everything - needed, broken.end), budget
                )
            except UndecidedError:
                return everything
            if order is None:
                return needed
            left = [step for step in required if step.operation.number not in needed]
            more = self._disregarded(order, left)
            if not more:
                alike = [step for step in left if step.answer == broken.answer]
                reads = [step for step in alike if not step.is_write]
                more = [*_latest(left, count), *_latest(reads, count)]
                count *= 2
            needed |= {step.operation.number for step in more}
        return needed

    def _disregarded(self, order: Sequence[Step], left: Sequence[Step]) -> list[Step]:
        """Return what of *left* is in *order*, but too late or with another answer."""
        known = {step.operation.number: step for step in left}
        latest, found = -1, []
        for step, answer in zip(order, self._answers(order), strict=True):
            asked = known.get(step.operation.number)
            if asked is not None and (asked.end < latest or asked.answer != answer):
                found.append(asked)
            latest = max(latest, step.begin)
        return found

    def _weaker(
        self, weak: set[int], left: list[int], until: int, budget: Budget
    ) -> set[int]:
        """Return *weak*, and what else of *left* need not be known."""
        size = len(left)
        while size:
            # Large pieces first, and of these the oldest: what happened last
            # is most likely to be the reason.
            end = len(left) - size if 1 < size < len(left) else len(left)
            for start in range(0, end, size):
                more = weak.union(left[start : start + size])
                if self._fails(*self.steps(more, until), budget):
                    weak = more
            left = [number for number in left if number not in weak]
            size = min(size, len(left) + 1) // 2
        return weak

    def _instead(
        self,
        broken: Step,
        required: list[Step],
        optional: list[Step],
        budget: Budget,
    ) -> list[int]:
        """Return the answers that would do: a few of them, if the budget lasts."""
        free = broken._replace(answer=ANY)
        steps = [free if step is broken else step for step in required]
        instead: list[int] = []
        try:
            while len(instead) < _MOST_ANSWERS:
                known = frozenset(instead)
                found = Search(self.model, steps, optional, budget, known).run()
                if found is None:
                    break
                instead.append(self._answers(found)[found.index(free)])
        except UndecidedError:
            pass
        return instead

    def _order(
        self,
        broken: Step,
        instead: list[int],
        required: list[Step],
        optional: list[Step],
        budget: Budget,
    ) -> tuple[tuple[Operation, str], ...]:
        """Return an order with the first answer that would do, if there is time."""
        if not instead:
            return ()
        right = broken._replace(answer=instead[0])
        steps = [right if step is broken else step for step in required]
        try:
            found = Search(self.model, steps, optional, budget).run() or []
        except UndecidedError:
            return ()
        texts = map(self.model.text, self._answers(found))
        return tuple(zip((step.operation for step in found), texts, strict=True))

    def _answers(self, order: Sequence[Step]) -> list[int]:
        """Return what the machine answers to *order*."""
        state, answers = self.model.initial, []
        for step in order:
            answer, state = self.model.apply(state, step.call)
            answers.append(answer)
        return answers


def _events(history: Sequence[Operation]) -> list[tuple[float, int]]:
    """Return time and number of each event of *history*, in order."""
    begun = [(each.began, each.start) for each in history]
    over = [
        (each.ended, each.finish)
        for each in history
        if each.ended is not None and each.finish is not None
    ]
    return sorted(begun + over)


def _latest(steps: Sequence[Step], count: int) -> list[Step]:
    return sorted(steps, key=lambda step: -step.end)[:count]
