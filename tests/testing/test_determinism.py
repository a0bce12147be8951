"""The determinism guard finds who is guilty, and the line; nobody else."""

from __future__ import annotations

import inspect
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from consensus.testing.determinism import NondeterminismError, check_deterministic
from contrib.kvstore.commands import Cas, Delete, Set
from contrib.kvstore.machine import KVStore, KVStoreOptions
from tests.support import guilty
from tests.support.guilty import Machine
from tests.support.innocent import INNOCENT, SaysWhenItWas

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from consensus.interfaces import StateMachine

WORDS = ["one two three four five six seven eight", "nine", "ten eleven twelve"]

#: What an error says beside the line.
ADVICE: dict[type[StateMachine], str] = {
    guilty.ListsASet: "sort what comes out of a set",
    guilty.TakesAHash: "hashlib",
    guilty.TakesAnAddress: "a number of its own",
    guilty.FollowsTheTimezone: "follows the timezone",
    guilty.ReadsTheClock: "put the time into the command",
    guilty.MakesAnId: "uuid.uuid4()",
    guilty.Counts: "beside the state",
}


def marked_line(machine: type[StateMachine]) -> int:
    """Return the line with the arrow in *machine*, or the one that names it."""
    lines, first = inspect.getsourcelines(machine)
    for number, line in enumerate(lines, first):
        if line.rstrip().endswith("<--"):
            return number
    for number, line in enumerate(inspect.getsourcelines(guilty)[0], 1):
        if line.rstrip().endswith(f"<-- {machine.__name__}"):
            return number
    raise AssertionError(machine)


class GuiltTests:
    """Who is guilty is found, and where."""

    @pytest.mark.parametrize("machine", guilty.GUILTY)
    def test_the_line_is_blamed(self, machine: type[StateMachine]) -> None:
        """The error names the line of the user's own code."""
        with pytest.raises(NondeterminismError) as caught:
            check_deterministic(machine, WORDS)
        lines = [(blame.file, blame.line) for blame in caught.value.blames]
        message = str(caught.value)
        assert lines == [(guilty.__file__, marked_line(machine))], message
        assert message.startswith(f"{machine.__name__} is not deterministic")
        assert ADVICE.get(machine, "instead: ") in message

    @pytest.mark.parametrize(
        ("machine", "words"),
        [
            (guilty.KnowsItsName, "server's name"),
            (guilty.DigestsByHash, "left the digest"),
        ],
    )
    def test_some_have_no_line(self, machine: type[StateMachine], words: str) -> None:
        """What differs is told at least."""
        with pytest.raises(NondeterminismError, match=words):
            check_deterministic(machine, WORDS)

    def test_the_command_is_named(self) -> None:
        """The first command that comes out differently is shown."""
        with pytest.raises(NondeterminismError, match="command 3, 'ten eleven"):
            check_deterministic(guilty.ListsLongSets, ["one", "two", *WORDS[2:]])

    def test_all_that_is_trapped_is_told(self) -> None:
        """Every guilty line is in the error, in order."""
        with pytest.raises(NondeterminismError) as caught:
            check_deterministic(guilty.Reckless, WORDS)
        assert [blame.what.split("(")[0] for blame in caught.value.blames] == [
            "time.time",
            "os.getpid",
        ]

    def test_a_machine_in_a_function_is_compared_here(self) -> None:
        """What no other process can make is trapped all the same."""

        class Local(Machine):
            def value(self, command: str) -> Any:
                return command, time.time()

        with pytest.raises(NondeterminismError, match=r"time\.time"):
            check_deterministic(Local, WORDS)


class InnocenceTests:
    """Who only looks guilty is left alone."""

    @pytest.mark.parametrize("machine", INNOCENT)
    def test_no_false_alarm(self, machine: type[StateMachine]) -> None:
        """Nothing is found where every server does the same."""
        check_deterministic(machine, WORDS)

    @pytest.mark.parametrize(
        "make", [KVStore, partial(KVStore, KVStoreOptions(digest=True))]
    )
    def test_the_key_value_store(self, make: Callable[[], StateMachine]) -> None:
        """The machine that we ship is deterministic, with a digest and without."""
        commands: Sequence[Any] = [
            Set(b"a", b"1"),
            Cas(b"a", b"1", b"2"),
            Delete(b"a"),
            Set(b"b", "3"),
        ]
        check_deterministic(make, commands)

    def test_one_can_be_forgiven(self) -> None:
        """A method that is named may do as it likes; others may not."""
        name = f"{SaysWhenItWas.__module__}.SaysWhenItWas.note"
        check_deterministic(SaysWhenItWas, WORDS, forgiven=[name])
        with pytest.raises(NondeterminismError, match="SaysWhenItWas"):
            check_deterministic(SaysWhenItWas, WORDS, forgiven=[name[:-1]])

    def test_no_command_is_enough(self) -> None:
        """The state before the first command counts too."""
        check_deterministic(Machine, [])
        with pytest.raises(NondeterminismError, match=r"init\(\)"):
            check_deterministic(guilty.KnowsItsName, [])
