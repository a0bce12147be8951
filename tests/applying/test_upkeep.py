"""Versions and digests of a state machine, through real servers in virtual time."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from adapters.transport.memory import MemoryNetwork
from consensus.applying import agreements
from consensus.applying.agreements import (
    claim_entry,
    claim_of,
    mark_entry,
    upgrade_entry,
)
from consensus.applying.applier import Applier
from consensus.core.values import EntryKind
from consensus.errors import (
    DivergedError,
    InvalidCommandError,
    OverloadedError,
    StorageError,
)
from consensus.interfaces import StateMachine
from consensus.sessions import command_call
from tests.support.entries import Disk, Journal, Log, encoded, results
from tests.support.servers import Servers
from tests.support.storages import LastingStorage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from consensus.server import RaftServer


class One(Journal):
    """A journal of what was written."""


class Two(Journal):
    """A journal of pairs: each with the version that wrote it."""

    version = 2

    def for_version(self, version: int) -> StateMachine:
        """Know the version before, too."""
        return One() if version == 1 else super().for_version(version)

    def upgrade(self, state: Any, version: int) -> Any:
        """Give the old ones their version."""
        return [[version, each] for each in state]

    def handle_write(self, command: Any, state: Any) -> tuple[Any, Any]:
        """Add a pair."""
        state.append([2, command])
        return ["two", len(state)], state


class TwoOnly(Two):
    """One that has forgotten how version 1 was."""

    def for_version(self, version: int) -> StateMachine:
        """Know no other."""
        return StateMachine.for_version(self, version)


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    LastingStorage.disks.clear()
    Odd.odd_one = ""
    yield
    LastingStorage.disks.clear()


def applier_of(server: RaftServer) -> Applier:
    """Return what applies entries in *server*."""
    assert server._driver is not None
    return server._driver.applier


def upgraded_at(servers: Servers) -> set[int]:
    """Return where in the logs of *servers* version 2 begins."""
    found = set()
    for server in servers.servers.values():
        for index in range(1, server.status().last_index + 1):
            entry = servers.result(server.get_entry(index))
            if entry.kind == EntryKind.VERSION:
                found.add(index)
    return found


def lasting(tmp_path: Path, **kwargs: Any) -> Servers:
    """Return servers whose memory survives a restart."""
    config = {"storage": {"engine": LastingStorage}, **kwargs.pop("config", {})}
    return Servers(config=config, data_dir=tmp_path, **kwargs)


def replace(servers: Servers, name: str, machine: type[StateMachine]) -> None:
    """Stop *name*, and start it again with *machine*."""
    servers.stop(name)
    servers.machine = machine
    servers.start(name)
    servers.run(0.1)


class RollingUpgradeTests:
    """A newer version of a state machine, server by server."""

    def test_half_done(self, tmp_path: Path) -> None:
        """Until the last one has the new version, all apply by the old."""
        servers = lasting(tmp_path, machine=One)
        for number, name in enumerate(("s1", "s2"), 1):
            servers.result(servers.leader().write(f"before {name}"))
            replace(servers, name, Two)
            servers.run(5)
            assert servers.result(servers.leader().write(name)) == 2 * number
            assert {s.status().machine_version for s in servers.servers.values()} == {
                1,
                2,
            }
        assert {applier_of(s).version for s in servers.servers.values()} == {1}
        replace(servers, "s3", Two)
        servers.run(5)
        assert servers.result(servers.leader().write("after")) == ["two", 5]
        servers.run(1)
        states = [applier_of(each).state for each in servers.servers.values()]
        assert states[0] == states[1] == states[2]
        assert states[0][3:] == [[1, "s2"], [2, "after"]]
        assert len(upgraded_at(servers)) == 1

    def test_a_restart_after_it(self, tmp_path: Path) -> None:
        """From the log alone, the old entries are applied as they were."""
        servers = lasting(tmp_path, machine=One)
        servers.result(servers.leader().write("old"))
        for name in servers.names:
            replace(servers, name, Two)
        servers.run(5)
        servers.result(servers.leader().write("new"))
        for name in servers.names:
            replace(servers, name, Two)
        servers.run(1)
        servers.leader()
        servers.run(1)
        for server in servers.servers.values():
            assert applier_of(server).version == 2
            assert applier_of(server).state == [[1, "old"], [2, "new"]]

    def test_a_restart_from_a_snapshot(self, tmp_path: Path) -> None:
        """A release that has forgotten the old version needs no more than that."""
        servers = lasting(tmp_path, machine=One)
        servers.result(servers.leader().write("old"))
        for name in servers.names:
            replace(servers, name, Two)
        servers.run(5)
        servers.result(servers.leader().write("new"))
        servers.run(1)
        for server in servers.servers.values():
            servers.result(server.snapshot())
        for name in servers.names:
            replace(servers, name, TwoOnly)
        assert servers.result(servers.leader().write("newer")) == ["two", 3]
        servers.run(1)
        for server in servers.servers.values():
            assert applier_of(server).state == [[1, "old"], [2, "new"], [2, "newer"]]

    def test_who_is_behind_follows_at_the_same_entry(self, tmp_path: Path) -> None:
        """A server that was cut off changes over where the others did."""
        servers = lasting(tmp_path, machine=Two)
        servers.leader()
        servers.run(5)
        network = MemoryNetwork.named(
            servers.mapping["transport"]["options"]["network"]
        )
        cut = servers.followers()[0]
        network.down(cut.name)
        servers.result(servers.leader().write("a"))
        network.up(cut.name)
        servers.run(2)
        assert len(upgraded_at(servers)) == 1
        assert applier_of(cut).state == [[2, "a"]]

    def test_writes_go_on_while_a_voter_is_down(self, tmp_path: Path) -> None:
        """It may have the old version: so nobody changes over, and all write."""
        servers = lasting(tmp_path, machine=Two)
        servers.stop("s3")
        assert servers.result(servers.leader().write("a")) == 1
        servers.run(10)
        assert servers.result(servers.leader().write("b")) == 2
        servers.start("s3")
        servers.run(5)
        assert servers.result(servers.leader().write("c")) == ["two", 3]

    def test_a_new_cluster(self) -> None:
        """One that was never of an older version needs not know any."""
        servers = Servers(machine=TwoOnly)
        servers.leader()
        servers.run(1)
        assert servers.result(servers.leader().write("a")) == ["two", 1]
        assert [applier_of(s).state for s in servers.servers.values()]

    def test_too_early(self) -> None:
        """A write that this release cannot apply yet is refused, not lost."""
        servers = Servers(machine=TwoOnly)
        network = MemoryNetwork.named(
            servers.mapping["transport"]["options"]["network"]
        )
        network.down("s3")
        chief = servers.leader()
        servers.run(1)
        with pytest.raises(OverloadedError, match="TwoOnly is version 2"):
            servers.result(chief.write("a"))
        with pytest.raises(OverloadedError, match="TwoOnly is version 2"):
            servers.result(chief.read(None, consistency="stale"))
        network.up("s3")
        servers.run(5)
        assert servers.result(servers.leader().write("a")) == ["two", 1]

    def test_a_server_that_is_too_old(self, tmp_path: Path) -> None:
        """It stops with a sentence; the others go on."""
        servers = lasting(tmp_path, machine=Two)
        servers.leader()
        servers.run(5)
        servers.stop("s3")
        servers.machine = One
        failures: list[Exception] = []
        old = servers.start("s3")
        old.on_failure = lambda _, error: failures.append(error)
        servers.run(5)
        assert [type(each) for each in failures] == [StorageError]
        assert "One is version 1, and the log asks for 2" in str(failures[0])
        del servers.servers["s3"]
        assert servers.result(servers.leader().write("a")) == ["two", 1]


class VersionEntryTests:
    """What an entry with a version does, wherever it is met."""

    def test_from_a_snapshot(self) -> None:
        """A state goes on by the version that made it."""
        log, one, other = Log(), Applier(Two(), "s1"), Applier(Two(), "s2")
        results(one, log.command("a"))
        other.restore(one.snapshot())
        assert (other.version, results(other, log.command("b"))) == (1, [2])
        upgrade = log.entry(EntryKind.VERSION, upgrade_entry(2))
        results(other, upgrade)
        third = Applier(TwoOnly(), "s3")
        third.restore(other.snapshot())
        assert third.version == 2
        assert results(third, log.command("c")) == [["two", 3]]
        assert third.state == [[1, "a"], [1, "b"], [2, "c"]]
        with pytest.raises(StorageError, match="One is version 1"):
            Applier(One(), "s4").restore(third.snapshot())

    def test_within_a_turn(self) -> None:
        """The commands before it are applied by the old one, those after by the new."""
        log = Log()
        entries = [
            log.command("a"),
            log.entry(EntryKind.VERSION, upgrade_entry(2)),
            log.command("b"),
            log.entry(EntryKind.VERSION, upgrade_entry(2)),
            log.entry(EntryKind.VERSION, upgrade_entry(1)),
            log.command("c"),
        ]
        applier = Applier(Two(), "s1")
        assert results(applier, *entries) == [
            1,
            None,
            ["two", 2],
            None,
            None,
            ["two", 3],
        ]

    @pytest.mark.parametrize(("first", "second"), [(Journal, Disk), (Disk, Journal)])
    def test_to_batches_and_back(
        self, first: type[Journal], second: type[Journal]
    ) -> None:
        """A version may be the first to want its commands together, or the last."""
        Disk.kept, Disk.batches = ([], 0), ()

        class Newer(second):  # type: ignore[misc, valid-type]
            version = 2

            def for_version(self, version: int) -> StateMachine:
                return first() if version == 1 else super().for_version(version)

        log, applier = Log(), Applier(Newer(), "s1")
        entries = [
            log.command("a"),
            log.entry(EntryKind.VERSION, upgrade_entry(2)),
            log.command("b"),
            log.command("c"),
        ]
        assert results(applier, *entries) == [1, None, 2, 3]
        assert applier.state == ["a", "b", "c"]

    def test_nothing_to_apply_by(self) -> None:
        """A log with commands of a forgotten version stops the server."""
        applier = Applier(TwoOnly(), "s1")
        log = Log()
        for entry in (log.command("a"), log.opened()):
            with pytest.raises(StorageError, match="the log asks for 1"):
                results(applier, entry)
        with pytest.raises(StorageError, match="the log asks for 1"):
            applier.snapshot()

    @pytest.mark.parametrize(
        ("kind", "data", "message"),
        [
            (EntryKind.VERSION, b"", "names no version"),
            (EntryKind.VERSION, b"\2\0\0\0\1", "has format 2"),
            (EntryKind.DIGEST, b"", "is about no digest"),
            (EntryKind.DIGEST, b"\2\0", "has format 2"),
            (EntryKind.DIGEST, b"\1\1\0", "is about no digest"),
        ],
    )
    def test_bytes_that_are_none(
        self, kind: EntryKind, data: bytes, message: str
    ) -> None:
        """What no server of this release writes stops this one."""
        with pytest.raises(StorageError, match=f"entry 1 {message}"):
            results(Applier(Two(), "s1"), Log().entry(kind, data))

    def test_the_format(self) -> None:
        """The bytes are those of format 1, whatever the release."""
        assert upgrade_entry(3) == bytes.fromhex("01 00000003")
        assert mark_entry() == bytes.fromhex("01 00")
        claim = claim_entry(7, b"abc")
        assert claim == bytes.fromhex("01 01 0000000000000007") + b"abc"
        assert claim_of(1, claim) == (7, b"abc")
        assert claim_of(1, mark_entry()) is None
        assert agreements.FORMAT == 1


class Odd(Journal):
    """A journal with a digest, which on one server writes another thing down."""

    odd_one: ClassVar[str] = ""

    def init(self, name: str) -> Any:
        """Begin with a name, which no state should depend on."""
        return [name]

    def handle_write(self, command: Any, state: Any) -> tuple[Any, Any]:
        """Add *command*, or what the odd one makes of it."""
        is_odd = state[0] == self.odd_one and command == "odd"
        state.append("even" if is_odd else command)
        return len(state), state

    def digest(self, state: Any) -> bytes | None:
        """Return all of it but the name."""
        return repr(state[1:]).encode()


class DigestTests:
    """A server whose state is another finds out."""

    def servers(self, **config: Any) -> Servers:
        """Return servers that compare digests often."""
        return Servers(machine=Odd, config={"digest_every": 10, **config})

    @pytest.mark.parametrize("seed", range(3))
    def test_one_that_differs(self, seed: int) -> None:
        """It stops, says from where, and the others go on."""
        servers = self.servers()
        odd = servers.followers()[seed % 2]
        Odd.odd_one = odd.name
        failures: list[Exception] = []
        odd.on_failure = lambda _, error: failures.append(error)
        for number in range(30 + seed):
            servers.result(servers.leader().write(number))
        servers.run(0.2)
        equal = applier_of(odd).digests.equal
        assert equal > 10
        chief = servers.leader()
        wrong = chief.status().last_index + 1
        servers.result(chief.write("odd"))
        for number in range(30):
            servers.result(chief.write(number))
        servers.run(0.2)
        assert [type(each) for each in failures] == [DivergedError]
        last, first = map(int, re.findall(r"after entry (\d+)", str(failures[0])))
        assert equal <= last < wrong < first <= wrong + 20
        assert "data directory" in str(failures[0])
        del servers.servers[odd.name]
        servers.result(servers.leader().write("on"))

    def test_all_alike(self) -> None:
        """Leaders that come and go do not make a difference of nothing."""
        servers = self.servers()
        for number in range(100):
            servers.result(servers.leader().write(number))
            if number % 20 == 19:
                chief = servers.leader()
                servers.result(chief.transfer())
        servers.run(1)
        assert len({applier_of(s).digests.equal for s in servers.servers.values()}) == 1
        assert applier_of(servers.leader()).digests.equal > 60

    def test_a_machine_without(self) -> None:
        """It costs not even an entry."""
        servers = Servers(machine=Journal, config={"digest_every": 1})
        for number in range(30):
            servers.result(servers.leader().write(number))
        assert servers.leader().status().last_index == 32

    def test_over_a_snapshot(self) -> None:
        """What was noted before it is compared after it."""
        log, one, other = Log(), Applier(Odd(), "s1"), Applier(Odd(), "s2")
        results(one, log.command("a"), log.entry(EntryKind.DIGEST, mark_entry()))
        other.restore(one.snapshot())
        claim = log.entry(EntryKind.DIGEST, claim_entry(2, b"['a']"))
        assert results(other, claim) == [None]
        assert other.digests.equal == 2
        results(other, log.entry(EntryKind.DIGEST, mark_entry()))
        wrong = log.entry(EntryKind.DIGEST, claim_entry(4, b"what"))
        with pytest.raises(
            DivergedError, match=r"s2 .* after entry 2, and differ after"
        ):
            results(other, wrong)

    def test_a_claim_about_another_mark(self) -> None:
        """It is of a leader that has been replaced; nothing is compared."""
        log, one = Log(), Applier(Odd(), "s1")
        results(one, log.entry(EntryKind.DIGEST, mark_entry()))
        results(one, log.entry(EntryKind.DIGEST, claim_entry(9, b"what")))
        assert not one.digests.is_claimed

    def test_a_machine_on_disk_that_is_further(self) -> None:
        """What its state was at the mark cannot be known any more."""

        class Kept(Disk):
            def digest(self, state: Any) -> bytes | None:
                return repr(state).encode()

        Kept.kept, Kept.batches = ([], 0), ()
        log = Log()
        entries = [
            log.command("a"),
            log.entry(EntryKind.DIGEST, mark_entry()),
            log.command("b"),
            log.entry(EntryKind.DIGEST, claim_entry(2, b"['a']")),
        ]
        first = Applier(Kept(), "s1")
        results(first, *entries)
        assert first.digests.equal == 2
        again = Applier(Kept(), "s1")
        results(again, *entries)
        assert (again.digests.equal, again.digests.is_claimed) == (0, True)


class ValidateTests:
    """What a machine does not want in the log."""

    class Picky(Journal):
        """A journal that wants text."""

        def validate(self, command: Any) -> None:
            """Refuse what is no text."""
            if not isinstance(command, str):
                raise TypeError("text, please")

    def test_at_every_door(self) -> None:
        """It is refused with the machine's words, and enters no log."""
        servers = Servers(machine=self.Picky)
        chief = servers.leader()
        before = chief.status().last_index
        inbox = chief.inbox()
        for call in (
            chief.write(5),
            inbox.answer("write", encoded(5)),
            inbox.answer("session_write", command_call(1, 1, 1, encoded(5))),
        ):
            with pytest.raises(InvalidCommandError, match="TypeError: text, please"):
                servers.result(call)
        assert chief.status().last_index == before
        assert servers.result(chief.write("text")) == 1
