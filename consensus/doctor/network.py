"""
The way to each member: who answers, how soon, and with which clock.

============ ==========================================================
doctor.E003 another server answers at a member's address
doctor.E004 a server of another cluster answers there
doctor.E005 another program holds the port of a member that runs here
doctor.W007 a member does not answer
doctor.W008 a member's wall clock is not ours
============ ==========================================================
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from twisted.internet.defer import Deferred, gatherResults

from consensus.doctor.disk import Times
from consensus.doctor.ports import holder_of
from consensus.errors import Finding, InvalidCommandError, RaftError
from consensus.settings.http_addresses import beneath

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from consensus.client import Client
    from consensus.config import Config
    from consensus.core.values import Address, ServerId, Status

_CALLS = 40

#: Seconds; beyond it, what a log says of two servers cannot be put in order.
_MOST_SKEW = 0.5

_decode_clock = msgspec.msgpack.Decoder(float).decode


@dataclass(frozen=True, slots=True)
class Way:
    """
    The way to one member.

    Args:
        server: The member.
        address: Where it listens.
        round_trips: How long calls take; ``None`` if it does not answer.
        skew: How many seconds its clock is ahead of ours; ``None`` if unknown.
        status: What it says of itself.
        error: Why it does not answer.
    """

    server: ServerId
    address: Address
    round_trips: Times | None = None
    skew: float | None = None
    status: Status | None = None
    error: str = ""


async def examine(cluster: Client, config: Config, patience: float) -> list[Way]:
    """Return the way to each member of *config*, tried all at once."""
    return await gatherResults(
        [
            Deferred.fromCoroutine(_try(cluster, name, address, patience))
            for name, address in config.members.items()
        ]
    )


async def _try(
    cluster: Client, name: ServerId, address: Address, patience: float
) -> Way:
    try:
        status = await cluster.status_at(address, patience)
        trips, skew = await _measure(cluster, address, patience)
    except RaftError as error:
        return Way(name, address, error=str(error))
    return Way(name, address, Times.of(trips), skew, status)


async def _measure(
    cluster: Client, address: Address, patience: float
) -> tuple[list[float], float | None]:
    """Return how long calls take, and how far the clock there is ahead."""
    method = "clock"
    trips: list[float] = []
    skews: list[tuple[float, float]] = []
    end = cluster.clock.seconds() + patience
    while len(trips) < _CALLS and (not trips or cluster.clock.seconds() < end):
        here, before = time.time(), cluster.clock.seconds()
        try:
            answer = await cluster.ask_server(address, method, b"", patience)
        except InvalidCommandError:
            if method == "status":
                raise
            method = "status"  # a server of an earlier release
            continue
        trips.append(cluster.clock.seconds() - before)
        if method == "clock":
            skews.append((trips[-1], _clock(answer) - here - trips[-1] / 2))
    # The shortest trip has least room for error.
    return trips, min(skews)[1] if skews else None


def _clock(answer: bytes) -> float:
    try:
        return _decode_clock(answer)
    except msgspec.MsgspecError as error:
        message = f"the answer to clock makes no sense: {error}"
        raise InvalidCommandError(message) from error


def findings(config: Config, ways: Sequence[Way]) -> Iterator[Finding]:
    """Yield what is wrong with *ways*."""
    for way in ways:
        if way.status is None:
            yield from _silent(config, way)
        else:
            yield from _identity(config, way, way.status)
            yield from _skewed(way)


def http_findings(config: Config, ways: Sequence[Way]) -> Iterator[Finding]:
    """Yield who holds the HTTP ports of served members that do not run."""
    runs = {way.server for way in ways if is_itself(config, way)}
    for server in config.serve:
        holder = holder_of(beneath(config.http_address_of(server)))
        if holder and server not in runs:
            yield Finding(
                "doctor.E005",
                f"the HTTP port of {server} is held by {holder}",
                "stop that program, or write another port",
                f"http.{server}",
            )


def is_itself(config: Config, way: Way) -> bool:
    """Say whether the member that *way* leads to has answered, and no other."""
    status = way.status
    return status is not None and (status.server, status.cluster) == (
        way.server,
        config.cluster,
    )


def _silent(config: Config, way: Way) -> Iterator[Finding]:
    holder = holder_of(way.address) if way.server in config.serve else ""
    if holder:
        yield Finding(
            "doctor.E005",
            f"the port of {way.server} is held by {holder}, which does not answer as a"
            " server",
            "stop that program, or write another address",
            f"members.{way.server}",
        )
        return
    yield Finding(
        "doctor.W007",
        f"{way.server} does not answer: {way.error}",
        "start it if it does not run; else look at firewalls, and at the address",
        f"members.{way.server}",
    )


def _identity(config: Config, way: Way, status: Status) -> Iterator[Finding]:
    if status.cluster != config.cluster:
        yield Finding(
            "doctor.E004",
            f"at {way.address} answers {status.server} of the cluster"
            f" {status.cluster!r}, not {way.server} of {config.cluster!r}",
            "correct the address, or cluster",
            f"members.{way.server}",
        )
    elif status.server != way.server:
        yield Finding(
            "doctor.E003",
            f"at {way.address} answers {status.server}, not {way.server}",
            "correct the address",
            f"members.{way.server}",
        )


def _skewed(way: Way) -> Iterator[Finding]:
    if way.skew is not None and abs(way.skew) > _MOST_SKEW:
        side = "ahead of" if way.skew > 0 else "behind"
        yield Finding(
            "doctor.W008",
            f"the clock of {way.server} is {abs(way.skew):.1f} s {side} this host's",
            "let both hosts keep their clocks by NTP: servers do not mind, but logs and"
            " certificates go by them",
            f"members.{way.server}",
        )
