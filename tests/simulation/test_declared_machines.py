"""Declared machines under random faults: what clients were answered is judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from consensus.declare import Machine, read, write
from consensus.testing.history import Read, Write
from consensus.testing.simulation import Scenario, check

if TYPE_CHECKING:
    from random import Random


class Rooms(Machine):
    """Who is in which room: sets in a dict, which snapshots have to keep."""

    inside: dict[str, set[str]]
    moves: dict[tuple[str, int], str]

    def __init__(self) -> None:
        self.inside = {}
        self.moves = {}

    @write
    def enter(self, room: str, who: str) -> int:
        """Let *who* into *room*; return how many are there then."""
        if who in self.inside.get(room, ()):
            raise ValueError("nobody enters twice")
        self.moves[who, len(self.moves)] = room
        self.inside.setdefault(room, set()).add(who)
        return len(self.inside[room])

    @write(atomic=True)
    def leave(self, room: str, who: str) -> set[str]:
        """Let *who* out; return who stays."""
        self.moves[who, len(self.moves)] = ""
        self.inside.setdefault(room, set()).remove(who)
        return self.inside[room]

    @read
    def who(self, room: str) -> set[str]:
        """Return who is in *room*."""
        return self.inside.get(room, set())


def call(dice: Random) -> Write | Read:
    """Return a call about one of a few rooms."""
    room, who = dice.choice("ab"), dice.choice(["ann", "bob", "cid", "dan"])
    if dice.random() < 0.4:
        return Read(Rooms.who.query(room))
    make = dice.choice([Rooms.enter, Rooms.leave])
    return Write(make.command(room, who))


class DeclaredMachineTests:
    """A declared machine keeps every promise, however servers fail."""

    @pytest.mark.raft_seeds(25)
    def test_promises_are_kept(self, raft_seed: int) -> None:
        """Answers are linearizable, and restored servers have the same state."""
        scenario = Scenario(
            Rooms,
            call,
            seconds=6.0,
            config={"snapshots": {"every_entries": 5, "keep_entries": 1}},
            client={"sessions": raft_seed % 2 == 0, "timeout": 1.5},
        )
        check(scenario, raft_seed)
