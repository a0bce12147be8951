"""Asking to be taken in, against servers that answer as they are told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent

from adapters.transport.memory import MemoryTransport
from consensus.errors import (
    InvalidChangeError,
    MembershipPendingError,
    NotLeaderError,
    RaftError,
    UnreachableError,
)
from consensus.shell.joining import Joiner
from consensus.shell.members import Applicant

APPLICANT = Applicant("raft", "s4", "at s4", "1")


class ScriptedTransport(MemoryTransport):
    """Answers calls as the test says, and notes them."""

    def __init__(
        self, clock: Clock, answers: dict[str, list[RaftError | None]]
    ) -> None:
        super().__init__(None, clock, clock)
        self.answers = answers
        self.asked: list[str] = []

    def ask(
        self, address: str, method: str, payload: bytes, timeout: float
    ) -> Deferred[bytes]:
        """Answer as written down; the last answer of each stays."""
        assert method == "join"
        assert timeout > 0
        assert msgspec.msgpack.decode(payload, type=Applicant) == APPLICANT
        self.asked.append(address)
        script = self.answers[address]
        error = script.pop(0) if len(script) > 1 else script[0]
        return succeed(b"") if error is None else fail(error)


class World:
    """A joiner, and what it looks at."""

    def __init__(self, **answers: list[RaftError | None]) -> None:
        self.clock = Clock()
        self.transport = ScriptedTransport(self.clock, answers)
        self.is_wanted, self.is_over = True, False
        endpoints = [*answers, APPLICANT.address]
        self.joiner = Joiner(
            APPLICANT,
            endpoints,
            self.transport,
            self.clock,
            lambda: self.is_wanted,
            lambda: self.is_over,
        )

    def run(self, seconds: float) -> list[str]:
        """Let time pass; return who was asked since the last time."""
        self.clock.pump([0.1] * round(seconds * 10))
        asked, self.transport.asked = self.transport.asked, []
        return asked


class JoinerTests:
    """Whom it asks, and until when."""

    def test_taken_in(self) -> None:
        """It asks no more once it was taken in."""
        world = World(a=[None])
        world.joiner.start()
        assert world.run(5) == ["a"]

    def test_who_leads(self) -> None:
        """It asks whom it is sent to, and not itself."""
        world = World(a=[NotLeaderError("s2", "b")], b=[None])
        world.joiner.start()
        assert world.run(5) == ["a", "b"]

    @pytest.mark.parametrize("address", ["", "a"])
    def test_nobody_leads(self, address: str) -> None:
        """It asks the next one, and all of them again after a while."""
        world = World(
            a=[NotLeaderError("s1", address)],
            b=[NotLeaderError(), NotLeaderError(), None],
        )
        world.joiner.start()
        assert world.run(5) == ["a", "b"] * 3

    def test_leaders_that_name_each_other(self) -> None:
        """It goes from one to the other once, not round and round."""
        world = World(a=[NotLeaderError("s2", "b")], b=[NotLeaderError("s1", "a")])
        world.joiner.start()
        assert world.run(0.1) == ["a", "b", "b", "a"]

    def test_refused(self) -> None:
        """It goes on asking, and logs each reason once."""
        errors: list[RaftError | None] = [
            InvalidChangeError("no"),
            MembershipPendingError("wait"),
            UnreachableError("gone"),
            InvalidChangeError("no"),
        ]
        world = World(a=errors)
        with capturedLogs() as logs:
            world.joiner.start()
            assert len(world.run(5)) > 5
        lines = [formatEvent(event) for event in logs]
        assert lines == [
            f"s4 is not taken in by a: {reason}; it goes on asking"
            for reason in ("no", "wait", "gone")
        ]

    def test_many_reasons(self) -> None:
        """The log does not fill up with them."""
        errors: list[Any] = [InvalidChangeError(str(number)) for number in range(50)]
        world = World(a=errors)
        with capturedLogs() as logs:
            world.joiner.start()
            assert len(world.run(40)) > 50
        assert len(logs) == 20

    def test_not_wanted(self) -> None:
        """It asks only while there is reason to, and never again once it is over."""
        world = World(a=[InvalidChangeError("no")])
        world.is_wanted = False
        world.joiner.start()
        assert world.run(5) == []
        world.is_wanted = True
        assert world.run(5)
        world.is_over = True
        world.run(1)
        world.is_over = False
        assert world.run(5) == []

    def test_stopped(self) -> None:
        """It asks no more, and leaves nothing behind."""
        world = World(a=[InvalidChangeError("no")])
        world.joiner.stop()
        world.joiner.start()
        world.run(1)
        world.joiner.stop()
        assert world.run(5) == []
        assert not world.clock.getDelayedCalls()
