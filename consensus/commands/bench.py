"""``raft bench``: how many writes a cluster takes, and how long each of them takes."""

from __future__ import annotations

import math
import secrets
from collections import Counter
from dataclasses import asdict, dataclass
from itertools import count
from time import perf_counter
from typing import TYPE_CHECKING

import click
from twisted.internet.defer import ensureDeferred, gatherResults

from consensus.commands.connection import Seconds, print_json, print_table
from consensus.errors import InvalidCommandError, RaftError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consensus.client import Client
    from consensus.commands.connection import Connection
    from consensus.interfaces import StateMachine

_MOST_OUTSTANDING = 1024

#: The width of the longest bar of a histogram.
_WIDTH = 40

#: Seconds to wait after a write that was refused.
_PAUSE = 0.05


@dataclass(frozen=True, slots=True)
class Bucket:
    """
    Writes that took about as long.

    Args:
        up_to_ms: No longer than this.
        count: How many.
    """

    up_to_ms: float
    count: int


@dataclass(frozen=True, slots=True)
class Measured:
    """
    What came of one load; times are in milliseconds.

    Args:
        outstanding: Writes under way at any time.
        seconds: How long it took.
        writes: How many were acknowledged.
        writes_per_second: As many in a second.
        p50: Half of them took no longer.
        p90: Of ten, nine did not.
        p99: Of a hundred, one took longer.
        p999: Of a thousand, one did.
        slowest: The longest of all.
        failed: How many failed, by the code of the error.
        histogram: How many took how long.
    """

    outstanding: int
    seconds: float
    writes: int
    writes_per_second: float
    p50: float
    p90: float
    p99: float
    p999: float
    slowest: float
    failed: dict[str, int]
    histogram: list[Bucket]


def _loads(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """Return the numbers that *value* lists."""
    try:
        loads = tuple(int(each) for each in value.split(","))
    except ValueError as error:
        raise click.BadParameter("write numbers as 1,64", ctx, param) from error
    if not all(1 <= each <= _MOST_OUTSTANDING for each in loads):
        message = f"between 1 and {_MOST_OUTSTANDING} writes may be under way"
        raise click.BadParameter(message, ctx, param)
    return loads


@click.command()
@click.option(
    "--seconds",
    type=Seconds(0.1, 60),
    default=3.0,
    show_default=True,
    help="How long each load lasts.",
)
@click.option(
    "--outstanding",
    default="1,64",
    show_default=True,
    metavar="N,...",
    callback=_loads,
    help="The loads: so many writes under way at a time.",
)
@click.option(
    "--size",
    type=click.IntRange(0, 1 << 20),
    default=100,
    show_default=True,
    metavar="BYTES",
    help="How large each write is.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects.")
@click.pass_obj
def bench(
    connection: Connection,
    *,
    seconds: float,
    outstanding: tuple[int, ...],
    size: int,
    as_json: bool,
) -> None:
    """
    Load the cluster with writes for some seconds, and measure them.

    It writes!  What it writes belongs to this run alone and is removed
    afterwards, but the log grows, and other clients have to wait longer.
    """
    engine = connection.config.state_machine
    run = Run(engine.cls(engine.options), size)
    run.check(engine.name)
    click.echo(
        f"raft: writing to {connection.config.cluster} for"
        f" {seconds * len(outstanding):g} seconds",
        err=True,
    )

    async def work(cluster: Client) -> list[Measured]:
        try:
            return [await run.measure(cluster, each, seconds) for each in outstanding]
        finally:
            await run.clean_up(cluster)

    found = connection.run(work)
    if as_json:
        print_json([asdict(each) for each in found])
    else:
        _print(found)


class Run:
    """
    Writes that belong together.

    Args:
        machine: What they are for.
        size: How large each is.
    """

    def __init__(self, machine: StateMachine, size: int) -> None:
        self._machine = machine
        self._size = size
        self._name = secrets.token_hex(6)
        self._numbers = count()
        self._written = 0

    def check(self, name: str) -> None:
        """
        See that there is something to write.

        Raises:
            InvalidCommandError: The machine, which is called *name*, has no
                harmless write.
        """
        if self._machine.rehearsal(self._name, 0, self._size) is None:
            message = f"the state machine {name} has no write that does no harm"
            raise InvalidCommandError(message)

    async def measure(
        self, cluster: Client, outstanding: int, seconds: float
    ) -> Measured:
        """
        Write for so many *seconds*, so many at a time.

        Raises:
            RaftError: Not one write was acknowledged; the error of the last.
        """
        took: list[float] = []
        errors: list[RaftError] = []
        failed: Counter[str] = Counter()
        began = perf_counter()

        async def write_on() -> None:
            while (start := perf_counter()) < began + seconds:
                try:
                    await cluster.write(self._next())
                except RaftError as error:
                    failed[error.code] += 1
                    errors[:] = [error]
                    if isinstance(error, InvalidCommandError):
                        return  # and so would be all the others
                    await cluster.pause(_PAUSE)
                else:
                    took.append(perf_counter() - start)

        await gatherResults(
            [ensureDeferred(write_on()) for _ in range(outstanding)],
            consumeErrors=True,
        )
        if not took and errors:
            raise errors[0]
        return summary(outstanding, perf_counter() - began, took, dict(failed))

    def _next(self) -> bytes:
        number = next(self._numbers)
        self._written = number + 1
        command = self._machine.rehearsal(self._name, number, self._size)
        return self._machine.encode(command)

    async def clean_up(self, cluster: Client) -> None:
        """Undo what was written; what cannot be is said."""
        if not self._written:
            return
        try:
            for command in self._machine.after_rehearsal(self._name, self._written):
                await cluster.write(self._machine.encode(command))
        except RaftError as error:
            click.echo(
                f"raft: what was written could not be removed: {error}", err=True
            )


def summary(
    outstanding: int, seconds: float, took: Sequence[float], failed: dict[str, int]
) -> Measured:
    """Return what the writes, which *took* so many seconds each, come to."""
    sorted_ms = sorted(each * 1000 for each in took)

    def percentile(part: float) -> float:
        if not sorted_ms:
            return 0.0
        return round(sorted_ms[max(0, math.ceil(part * len(sorted_ms)) - 1)], 3)

    return Measured(
        outstanding,
        round(seconds, 3),
        len(took),
        round(len(took) / seconds, 1),
        percentile(0.5),
        percentile(0.9),
        percentile(0.99),
        percentile(0.999),
        percentile(1.0),
        failed,
        _histogram(sorted_ms),
    )


def _histogram(sorted_ms: Sequence[float]) -> list[Bucket]:
    """Return buckets of which each ends at twice the time of the one before."""
    if not sorted_ms:
        return []
    powers = Counter(math.ceil(math.log2(max(each, 2**-10))) for each in sorted_ms)
    return [
        Bucket(2.0**power, powers[power])
        for power in range(min(powers), max(powers) + 1)
    ]


def _print(found: Sequence[Measured]) -> None:
    columns = ("#outstanding", "#writes/s", "#p50 ms", "#p90", "#p99", "#p99.9")
    print_table((*columns, "#slowest", "failed"), [_cells(each) for each in found])
    for each in found:
        click.echo(f"{each.outstanding} outstanding:")
        most = max((bucket.count for bucket in each.histogram), default=1)
        for bucket in each.histogram:
            bar = "█" * math.ceil(bucket.count * _WIDTH / most)
            click.echo(f"  ≤ {bucket.up_to_ms:>10g} ms {bucket.count:>8} {bar}")


def _cells(found: Measured) -> tuple[str, ...]:
    times = (found.p50, found.p90, found.p99, found.p999, found.slowest)
    failed = ", ".join(f"{count} {code}" for code, count in found.failed.items())
    return (
        str(found.outstanding),
        f"{found.writes_per_second:,.0f}",
        *(f"{each:.2f}" for each in times),
        failed or "-",
    )


COMMANDS = (bench,)
