"""Scenarios for simulations of our own: what varies follows from the seed."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

from consensus.testing.history import Read, Write
from consensus.testing.simulation import Scenario
from tests.support.servers import Register

if TYPE_CHECKING:
    from collections.abc import Hashable

_CONSISTENCIES = ("linearizable", "lease", "follower")


class Tally(Register):
    """A :class:`.Register` that counts, too: ``["add", key, number]``."""

    def handle_write(self, command: Any, state: Any) -> tuple[Any, Any]:
        """Add to a key, or do as the base."""
        if command[0] != "add":
            return super().handle_write(command, state)
        _, key, number = command
        state[key] = state.get(key, 0) + number
        return state[key], state


def call(dice: Random) -> Write | Read:
    """Return a call of a :class:`Tally`, on one of a few keys."""
    key = dice.choice("abc")
    if dice.random() < 0.4:
        return Write(["add", key, dice.randrange(1, 10)])
    if dice.random() < 0.2:
        return Write(["set", key, dice.randrange(1000)])
    return Read(key)


def key_of(body: Any) -> Hashable:
    """Return the key that a command or query of a :class:`Tally` is about."""
    return body if isinstance(body, str) else body[1]


def scenario_of(seed: int, seconds: float = 10.0) -> Scenario:
    """
    Return what *seed* stands for.

    Clusters of one to five; with snapshots or without, with leases, sessions,
    forwarding, and more or less trouble.
    """
    dice = Random(f"{seed}/scenario")  # noqa: S311 - reproducible, not secret
    few = {"every_entries": dice.choice([5, 20, 60]), "keep_entries": 1}
    few["keep_entries"] = dice.choice([1, 5, 20])
    config = {
        "snapshots": few if dice.random() < 0.5 else {},
        "reads": {"lease": dice.random() < 0.5},
        "forward": dice.random() < 0.3,
        "limits": {"log_cache_bytes": dice.choice([1000, 100_000])},
    }

    def read_options(dice: Random) -> dict[str, Any]:
        return {"consistency": dice.choice(_CONSISTENCIES)}

    return Scenario(
        Tally,
        call,
        servers=dice.choice([1, 2, 3, 3, 3, 4, 5, 5, 5]),
        seconds=seconds,
        every=dice.choice([0.4, 1.0, 1.0, 2.5]),
        config=config,
        partition=key_of,
        clients=dice.choice([2, 4, 8]),
        cluster={"sync": dice.choice([(0.0, 0.002), (0.0, 0.05)])},
        client={
            "sessions": dice.random() < 0.4,
            "timeout": 1.5,
            "pause": dice.choice([0.02, 0.2, 1.0]),
            "read_options": read_options,
        },
    )
