"""The calls of the Elixir original, on the real reactor of a fresh process."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from consensus import local
from consensus.errors import (
    AlreadyConfiguredError,
    AlreadyRunningError,
    ConfigError,
    NotLeaderError,
    TimedOutError,
    UnknownServerError,
)
from tests.support.servers import Register, VirtualReactor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from twisted.internet.defer import Deferred

#: The program of the README: the calls exactly as a user writes them.
PROGRAM = """
from twisted.internet.task import react

from consensus import StateMachine, start_peer, stop_peer, set_configuration
from consensus import leader, status, write, read, get_entry

class KVStore(StateMachine):
    def init(self, name):
        return {}
    def handle_write(self, command, state):
        key, value = command["set"]
        state[key] = value
        return ("ok", key, value), state
    def handle_read(self, query, state):
        return state.get(query), state

async def main(reactor):
    for name in ("s1", "s2", "s3"):
        await start_peer(KVStore, name=name)
    await set_configuration("s1", ["s1", "s2", "s3"])
    chief = await leader("s1", timeout=5)
    result = await write(chief, {"set": ["foo", "bar"]})
    assert result == ("ok", "foo", "bar"), result
    assert await read(chief, "foo") == "bar"
    seen = await status(chief)
    assert (seen.role, seen.leader) == ("leader", chief), seen
    assert (await get_entry(chief, seen.last_index)).term == seen.term
    await stop_peer(chief)
    rest = [name for name in ("s1", "s2", "s3") if name != chief]
    next_chief = await leader(rest[0], timeout=5)
    assert await read(next_chief, "foo") == "bar"
    for name in rest:
        await stop_peer(name)
    print("all is well")

react(main)
"""


class ProgramTests:
    """A whole program."""

    def test_it_runs_as_written(self) -> None:
        """Three servers in one process: found, write, read, lose the leader."""
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.stdout, done.stderr) == ("all is well\n", "")
        assert done.returncode == 0


@pytest.fixture
def reactor() -> Iterator[VirtualReactor]:
    """Return a reactor in virtual time; afterwards no server is left."""
    made = VirtualReactor()
    yield made
    for name in list(local._servers):
        result(made, local.stop_peer(name))


def result(reactor: VirtualReactor, waiting: Deferred[Any]) -> Any:
    """Let time pass until *waiting* fires; return or raise its result."""
    box: list[Any] = []
    waiting.addCallbacks(lambda value: box.append((value, None)), box.append)
    for _ in range(20_000):
        if box:
            break
        reactor.advance(0.001)
    assert box, "it never fired"
    if not isinstance(box[0], tuple):
        box[0].raiseException()
    return box[0][0]


def start(reactor: VirtualReactor, name: str, **config: Any) -> None:
    """Start *name* in virtual time."""
    starting = local.start_peer(
        Register, name=name, config=config, reactor=reactor, clock=reactor
    )
    result(reactor, starting)


class StartPeerTests:
    """start_peer and its refusals."""

    def test_a_name_runs_once(self, reactor: VirtualReactor) -> None:
        """A second server of the same name is refused; after a stop it is not."""
        start(reactor, "s1")
        with pytest.raises(AlreadyRunningError, match="s1"):
            start(reactor, "s1")
        result(reactor, local.stop_peer("s1"))
        start(reactor, "s1")

    def test_a_wrong_config_is_refused(self, reactor: VirtualReactor) -> None:
        """The error lists what is wrong, and no server is left behind."""
        with pytest.raises(ConfigError, match="storge"):
            start(reactor, "s1", storge="memory")
        start(reactor, "s1")

    def test_unknown_names_are_refused(self, reactor: VirtualReactor) -> None:
        """The error says who runs."""
        start(reactor, "s1")
        for call in (
            lambda: local.leader("s9"),
            lambda: local.status("s9"),
            lambda: local.write("s9", 1),
            lambda: local.read("s9", 1),
            lambda: local.get_entry("s9", 1),
            lambda: local.set_configuration("s9", ["s9"]),
        ):
            with pytest.raises(UnknownServerError, match="running: s1"):
                call()

    def test_a_stranger_cannot_found_a_cluster(self, reactor: VirtualReactor) -> None:
        """The server itself has to be among the members."""
        start(reactor, "s1")
        with pytest.raises(ValueError, match="s1 is not among"):
            result(reactor, local.set_configuration("s1", ["s2", "s3"]))

    def test_a_second_configuration_is_refused(self, reactor: VirtualReactor) -> None:
        """Whatever it says."""
        start(reactor, "s1")
        result(reactor, local.set_configuration("s1", ["s1"]))
        with pytest.raises(AlreadyConfiguredError):
            result(reactor, local.set_configuration("s1", ["s1"]))


class LeaderTests:
    """leader with and without a timeout."""

    def test_at_once_or_in_time(self, reactor: VirtualReactor) -> None:
        """Without a timeout the answer is what is known; with one it is waited for."""
        start(reactor, "s1")
        assert result(reactor, local.leader("s1")) is None
        with pytest.raises(TimedOutError, match="no leader within 2 s"):
            result(reactor, local.leader("s1", timeout=2))
        result(reactor, local.set_configuration("s1", ["s1"]))
        assert result(reactor, local.leader("s1", timeout=2)) == "s1"
        assert result(reactor, local.leader("s1")) == "s1"


class MembershipTests:
    """Members of this process come and go."""

    def test_add_promote_remove(self, reactor: VirtualReactor) -> None:
        """By name, as everything here."""
        for name in ("s1", "s2"):
            start(reactor, name)
        result(reactor, local.set_configuration("s1", ["s1"]))
        result(reactor, local.leader("s1", timeout=5))
        result(reactor, local.write("s1", ["set", "a", 1]))
        result(reactor, local.add_member("s1", "s2", as_learner=True))
        result(reactor, local.promote_member("s1", "s2"))
        reactor.pump([0.01] * 200)
        assert set(result(reactor, local.status("s2")).membership) == {"s1", "s2"}
        assert result(reactor, local.snapshot("s2")).index > 1
        result(reactor, local.change_membership("s1", voters=["s1"], learners=["s2"]))
        result(reactor, local.remove_member("s1", "s2"))
        assert result(reactor, local.status("s1")).learners == {}

    def test_failures(self, reactor: VirtualReactor) -> None:
        """All of them are the Deferred's, none is raised."""
        for waiting in (
            local.add_member("s1", "s2"),
            local.promote_member("s1", "s2"),
            local.remove_member("s1", "s2"),
            local.change_membership("s1", voters=["s2"]),
            local.snapshot("s1"),
        ):
            with pytest.raises(UnknownServerError):
                result(reactor, waiting)
        start(reactor, "s1")
        with pytest.raises(NotLeaderError):
            result(reactor, local.add_member("s1", "s2"))


def test_a_data_directory_is_resumed(tmp_path: Path) -> None:
    """What was written with SQLite is there when the process comes back."""
    program = """
import sys
from twisted.internet.task import react
from consensus import start_peer, stop_peer, set_configuration
from consensus import leader, write, read, status
from tests.support.servers import Register

async def main(reactor):
    config = {"storage": "sqlite", "data_dir": sys.argv[1]}
    await start_peer(Register, name="s1", config=config)
    if not (await status("s1")).membership:
        await set_configuration("s1", ["s1"])
    await leader("s1", timeout=10)
    print(await write("s1", ["set", "k", int(sys.argv[2])]), await read("s1", "k"))
    await stop_peer("s1")

react(main)
"""
    for number, expected in [(1, "None 1\n"), (2, "1 2\n"), (3, "2 3\n")]:
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path), str(number)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.stdout, done.stderr) == (expected, "")
