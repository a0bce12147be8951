"""
One run of a simulation under random faults, its replay, and how it is shrunk.

A run draws a plan of faults from its seed, lets clients call meanwhile, heals
everything, and expects that the cluster is alive, of one mind, and has answered
as one server would have.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from consensus.testing.faults import Fault, draw_plan, play
from consensus.testing.linearizability import Outcome
from consensus.testing.simulator import SimulatedCluster, SimulationError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from consensus.testing.sim_clients import MakeCall


#: Ours take a tenth of that at most.
_JUDGE_STEPS = 50_000


#: What makes histories easier to judge.
_ADVICE = (
    "say by partition= which commands have nothing to do with each other, let fewer"
    " clients call for fewer seconds, or raise step_limit="
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """
    What is simulated.

    Args:
        machine: The state machine's class.
        call: Given dice, returns the next call of a client.
        servers: How many.
        clients: How many.
        seconds: How long things go wrong.
        every: How far apart faults begin, on average, in seconds.
        config: Further keys for the servers.
        kinds: Which faults; all if ``None``.
        partition: Tells the parts of the state apart; see :func:`.judge`.
        step_limit: How much the judge of the clients' answers tries.
        cluster: Further arguments of :class:`.SimulatedCluster`.
        client: Further arguments of :class:`.Clients`.
    """

    machine: type
    call: MakeCall
    servers: int = 3
    clients: int = 3
    seconds: float = 10.0
    every: float = 1.0
    config: dict[str, Any] = field(default_factory=dict)
    kinds: tuple[str, ...] | None = None
    partition: Callable[[Any], Hashable | None] | None = None
    step_limit: int = _JUDGE_STEPS
    cluster: dict[str, Any] = field(default_factory=dict)
    client: dict[str, Any] = field(default_factory=dict)


class UndecidedHistoryError(SimulationError):
    """Nobody can say whether the clients were answered right: it takes too long."""


class ScenarioError(SimulationError):
    """
    A scenario failed.

    Args:
        error: What broke.
        plan: The faults that it takes.
    """

    def __init__(self, error: SimulationError, plan: Sequence[Fault]) -> None:
        super().__init__(error.reason, error.seed, error.trace)
        self.plan = plan
        faults = "\n".join(f"  {fault}" for fault in plan) or "  none"
        self.args = (f"{self.args[0]}\nit takes these faults:\n{faults}",)


def plan_of(scenario: Scenario, seed: int) -> list[Fault]:
    """Return the faults that *seed* means."""
    names = [f"s{number}" for number in range(1, scenario.servers + 1)]
    return draw_plan(
        Random(f"{seed}/faults"),  # noqa: S311 - reproducible, not secret
        names,
        scenario.seconds,
        every=scenario.every,
        kinds=scenario.kinds,
    )


def run(
    scenario: Scenario, seed: int, plan: Sequence[Fault] | None = None
) -> SimulatedCluster:
    """
    Run *scenario* once; return the cluster as it is at the end.

    Args:
        scenario: What.
        seed: Everything that happens by chance follows from it.
        plan: Other faults than those that the seed means.

    Raises:
        UndecidedHistoryError: Whether one was is not known.
        SimulationError: A promise was broken.
    """
    cluster = SimulatedCluster(
        scenario.machine,
        scenario.servers,
        seed=seed,
        config=scenario.config,
        **scenario.cluster,
    )
    clients = cluster.clients(scenario.clients, scenario.call, **scenario.client)
    play(cluster, plan_of(scenario, seed) if plan is None else plan)
    # Everything is over a moment before.
    cluster.run(scenario.seconds + 0.001)
    cluster.check()
    clients.stop()
    cluster.check()
    verdict = clients.judge(
        partition=scenario.partition, step_limit=scenario.step_limit
    )
    if verdict.outcome is Outcome.UNDECIDED:
        reason = f"{verdict.text()}; {_ADVICE}"
        raise UndecidedHistoryError(reason, seed, cluster.trace.text())
    if not verdict.is_linearizable:
        cluster.fail(verdict.text())
    return cluster


def shrink(
    scenario: Scenario, seed: int, plan: Sequence[Fault], seconds: float = 30.0
) -> tuple[SimulationError | None, list[Fault]]:
    """
    Leave out the faults without which it still fails.

    Args:
        scenario: What failed.
        seed: With which seed.
        plan: And with which faults.
        seconds: For how long to try, of real time.

    Returns:
        The last failure, ``None`` if it never failed again, and its faults.
    """
    end = time.monotonic() + seconds
    error, kept = None, list(plan)
    size = max(1, len(kept) // 2)
    while size and time.monotonic() < end:
        start, has_shrunk = 0, False
        while start < len(kept) and time.monotonic() < end:
            fewer = kept[:start] + kept[start + size :]
            try:
                run(scenario, seed, fewer)
            except UndecidedHistoryError:
                start += size
            except SimulationError as found:
                error, kept, has_shrunk = found, fewer, True
            else:
                start += size
        size = size // 2 if size > 1 or not has_shrunk else 1
    return error, kept


def check(scenario: Scenario, seed: int, *, shrinking: float = 30.0) -> None:
    """
    Run *scenario*; shrink what fails, for so many seconds of real time.

    Raises:
        UndecidedHistoryError: Nothing is known to have failed.
        ScenarioError: With the seed, the faults that it takes, and a trace.
    """
    try:
        run(scenario, seed)
    except UndecidedHistoryError:
        raise
    except SimulationError as error:
        smaller, kept = shrink(scenario, seed, plan_of(scenario, seed), shrinking)
        raise ScenarioError(smaller or error, kept) from error


def soak(
    make: Callable[[int], Scenario],
    minutes: float,
    *,
    first: int = 0,
    say: Callable[[str], None] = print,
    clock: Callable[[], float] = time.monotonic,
) -> list[int]:
    """
    Run one seed after the other for so many minutes; return those that fail.

    Those whose history is undecided are counted and named at the end.  They
    are no failures, unless all of them are: that says nothing of anything.

    Args:
        make: Returns the scenario of a seed.
        minutes: Of real time.
        first: The first seed.
        say: Called with each failure, and at the end.
        clock: Returns the time, in seconds.
    """
    end = clock() + 60.0 * minutes
    failing: list[int] = []
    undecided: list[int] = []
    seed = first
    while clock() < end:
        try:
            check(make(seed), seed)
        except UndecidedHistoryError:
            undecided.append(seed)
        except SimulationError as error:
            failing.append(seed)
            say(f"--- seed {seed} fails: {error}")
        seed += 1
    text = f"{seed - first} seeds from {first} on; failing: {failing or 'none'}"
    if undecided:
        text += f"; undecided: {len(undecided)}, {undecided}"
    say(text)
    if len(undecided) == seed - first:
        say(f"not one history was decided: {_ADVICE}")
        return undecided
    return failing
