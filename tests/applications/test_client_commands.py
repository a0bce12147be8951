"""Tests of consensus.applications.client_commands, with a machine and no Raft."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from consensus.applications.client_commands import OnceCalls, RepeatableCalls
from consensus.errors import (
    CommandFailedError,
    InvalidCommandError,
    LeadershipLostError,
    ProtocolError,
    UnreachableError,
)
from tests.support.deferreds import error_of, has_fired, result_of
from tests.support.machines import MachineServer
from tests.support.servers import Register


class Fixture:
    """A server, and calls to it."""

    def __init__(self, name: str) -> None:
        self.server = MachineServer(Register(), name)
        self.calls = RepeatableCalls(self.server.client, encode, [ValueError])
        self.is_needed = True

    def write(self, command: Any, kind: Any = None) -> Any:
        """Return the Deferred of a write, when all has happened."""
        writing = self.calls.write(command, kind, 1.0)
        self.server.settle()
        return writing

    def insist(self, command: Any) -> Any:
        """Return the Deferred of a write that is insisted on."""
        insisting = self.calls.insist(command, 0.3, lambda: self.is_needed)
        self.server.settle()
        return insisting


def encode(value: Any) -> bytes:
    """Return *value* as MessagePack."""
    if value == "bad":
        raise InvalidCommandError("bad")
    return msgspec.msgpack.encode(value)


@pytest.fixture
def fixture(request: pytest.FixtureRequest) -> Fixture:
    """Return a server of this test's own."""
    return Fixture(request.node.nodeid)


class WriteTests:
    """Writing once or more often."""

    def test_the_result_has_a_type(self, fixture: Fixture) -> None:
        assert result_of(fixture.write(["set", "a", 1])) is None
        assert result_of(fixture.write(["set", "a", 2], int)) == 1
        error = error_of(fixture.write(["set", "a", "x"], str))
        assert isinstance(error, ProtocolError)

    def test_a_lost_answer(self, fixture: Fixture) -> None:
        """The command is applied again."""
        fixture.server.loses_answer = True
        assert result_of(fixture.write(["set", "a", 1], int)) == 1
        fixture.server.error = LeadershipLostError("who knows")
        assert result_of(fixture.write(["set", "a", 1], int)) == 1

    def test_what_the_machine_raises(self, fixture: Fixture) -> None:
        """Its own errors arrive as such, others as the framework's."""
        error = error_of(fixture.write(["fail", "no"]))
        assert isinstance(error, ValueError)
        assert str(error) == "no"
        assert isinstance(error_of(fixture.write(["what"])), CommandFailedError)

    def test_what_cannot_be_encoded(self, fixture: Fixture) -> None:
        assert isinstance(error_of(fixture.write("bad")), InvalidCommandError)
        reading = fixture.calls.read("bad", int)
        assert isinstance(error_of(reading), InvalidCommandError)

    def test_patience(self, fixture: Fixture) -> None:
        """No attempt begins when it is over."""
        writing = fixture.calls.write(["set", "a", 1], object, 0.0)
        fixture.server.settle()
        assert isinstance(error_of(writing), UnreachableError)
        assert fixture.server.calls == 0


class ReadTests:
    """Reading."""

    def test_the_answer_has_a_type(self, fixture: Fixture) -> None:
        fixture.write(["set", "a", 1])
        reading = fixture.calls.read("a", int, consistency="stale")
        fixture.server.settle()
        assert result_of(reading) == 1
        assert fixture.server.options.consistency == "stale"


class InsistTests:
    """Writing for as long as it takes."""

    def test_until_it_is_done(self, fixture: Fixture) -> None:
        fixture.calls.cluster.close()
        insisting = fixture.insist(["set", "a", 1])
        assert not has_fired(insisting)
        fixture.is_needed = False
        fixture.server.settle()
        assert result_of(insisting) is None
        assert fixture.server.state == {}

    def test_once(self, fixture: Fixture) -> None:
        fixture.server.error = LeadershipLostError("who knows")
        assert result_of(fixture.insist(["set", "a", 1])) is None
        assert fixture.server.state == {"a": 1}
        assert fixture.server.calls == 2

    @pytest.mark.parametrize("command", [["fail", "no"], "bad"])
    def test_a_refusal_is_an_answer(self, fixture: Fixture, command: Any) -> None:
        assert result_of(fixture.insist(command)) is None

    def test_it_may_be_needed_no_more(self, fixture: Fixture) -> None:
        fixture.is_needed = False
        assert result_of(fixture.insist(["set", "a", 1])) is None
        assert fixture.server.calls == 0

    def test_stopping(self, fixture: Fixture) -> None:
        fixture.calls.cluster.close()
        insisting = fixture.insist(["set", "a", 1])
        fixture.calls.stop()
        assert result_of(insisting) is None
        assert not fixture.server.reactor.getDelayedCalls()


class OnceTests:
    """Writing once, however often it is sent."""

    def once(self, fixture: Fixture, *, session: bool) -> OnceCalls:
        """Return calls to the server."""
        client = fixture.server.client
        return OnceCalls(client, encode, [ValueError], session=session)

    def test_in_a_session(self, fixture: Fixture) -> None:
        """An answer that is lost is had again."""
        calls = self.once(fixture, session=True)
        first = calls.write(lambda: ["set", "x", 1], int | None)
        fixture.server.settle()
        assert result_of(first) is None
        fixture.server.loses_answer = True
        second = calls.write(lambda: ["set", "x", 2], int | None)
        fixture.server.settle()
        assert result_of(second) == 1

    def test_without_one(self, fixture: Fixture) -> None:
        calls = self.once(fixture, session=False)
        fixture.server.error = LeadershipLostError("who knows")
        writing = calls.write(lambda: ["set", "x", 1], None)
        fixture.server.settle()
        assert isinstance(error_of(writing), LeadershipLostError)
        assert fixture.server.calls == 1

    @pytest.mark.parametrize("wrong", [TypeError, ValueError, OverflowError])
    def test_what_cannot_be_made(
        self, fixture: Fixture, wrong: type[Exception]
    ) -> None:
        """Nothing is sent, be it refused by what makes it or by what encodes it."""

        def make() -> Any:
            raise wrong("no")

        calls = self.once(fixture, session=False)
        for each in (make, lambda: "bad"):
            assert isinstance(error_of(calls.write(each, None)), InvalidCommandError)
        assert fixture.server.calls == 0

    def test_what_the_machine_raised(self, fixture: Fixture) -> None:
        calls = self.once(fixture, session=True)
        writing = calls.write(lambda: ["fail", "no"], None)
        fixture.server.settle()
        assert type(error_of(writing)) is ValueError

    def test_a_stranger(self, fixture: Fixture) -> None:
        calls = self.once(fixture, session=False)
        fixture.server.answered = b"\xc1"
        writing = calls.write(lambda: ["set", "x", 1], None)
        fixture.server.settle()
        assert isinstance(error_of(writing), ProtocolError)
