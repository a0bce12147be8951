"""Tests of consensus.backup.taking and of the loans: online, and consistent."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from twisted.internet.defer import Deferred, ensureDeferred

from adapters.transport.memory import MemoryOptions, MemoryTransport
from consensus import admin
from consensus.backup.taking import Backup, Taken
from consensus.client import Client
from consensus.errors import (
    InvalidChangeError,
    InvalidCommandError,
    NotLeaderError,
    OverloadedError,
    RejectedError,
    UnreachableError,
)
from consensus.shell.loans import LEASE, MOST
from tests.support.backups import read_backup
from tests.support.servers import Register, Servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from consensus.server import RaftServer

KEY = b"k" * 16


class Backups:
    """
    A cluster in virtual time that is backed up.

    Args:
        directory: Where backups go, and servers are.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "backup"
        self.servers = Servers(data_dir=directory / "data")
        self.chief = self.servers.leader()
        self.written: dict[str, str] = {}
        options = MemoryOptions(self.servers.mapping["transport"]["options"]["network"])
        reactor = self.servers.reactor
        transport = MemoryTransport(options, reactor, reactor)
        self.members = {name: name for name in self.servers.names}
        self.client = Client(self.members, transport, reactor, timeout=3)

    def write(self, count: int, size: int = 1) -> None:
        """Have *count* writes acknowledged."""
        chief = self.servers.leader()
        for _ in range(count):
            key, value = f"key-{len(self.written)}", secrets.token_hex(size)
            self.servers.result(chief.write(["set", key, value]))
            self.written[key] = value

    def begin(
        self,
        server: str | None = None,
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> Deferred[Taken]:
        """Begin a backup, as the command does."""

        async def count() -> admin.Census:
            return await admin.census(self.client, self.members, (), 1)

        backup = Backup(self.client, count, self.path, server, on_progress)
        return ensureDeferred(backup.take())

    def take(self, server: str | None = None) -> Taken:
        """Take a backup."""
        taken: Taken = self.servers.result(self.begin(server))
        return taken

    def halfway(self, lender: RaftServer, *, named: bool = True) -> Deferred[Taken]:
        """Begin a backup, and cut *lender* off from the client in the middle."""
        network, is_cut = self.servers.network, False

        def on_progress(done: int, total: int) -> None:
            nonlocal is_cut
            if 0 < done < total and not is_cut:
                is_cut = True
                network.cut(lender.name, "")

        waiting = self.begin(lender.name if named else None, on_progress)
        self.servers.until(lambda: is_cut)
        assert len(lender.loans) == 1
        assert not waiting.called
        return waiting

    def state(self) -> Any:
        """Return the state of the machine that is in the backup."""
        header, state = read_backup(self.path)
        machine = Register()
        assert header.last_applied > 0
        return machine.restore([state], header.last_applied)


@pytest.fixture
def backups(tmp_path: Path) -> Iterator[Backups]:
    """Return a cluster, with nothing under way at the end."""
    made = Backups(tmp_path)
    yield made
    made.servers.result(made.client.close())
    for server in made.servers.servers.values():
        assert len(server.loans) == 0


class TakingTests:
    """One member's snapshot, with everything that was acknowledged."""

    def test_everything_acknowledged(self, backups: Backups) -> None:
        """A follower that is behind catches up first, and the leader is spared."""
        backups.write(5)
        done = backups.take()
        assert done.description.server != backups.chief.name
        assert backups.state() == backups.written
        status = backups.chief.status()
        assert done.description.index == status.commit_index
        assert done.description.term == status.term
        assert done.description.members.voters == backups.members
        assert done.description.application.endswith("Register")

    def test_a_follower_that_hears_nothing(self, backups: Backups) -> None:
        """One that cannot ask the leader gives nothing; another one does."""
        lonely, other = backups.servers.followers()
        backups.servers.run(1)
        for name in backups.servers.names:
            backups.servers.network.cut(lonely.name, name)
            backups.servers.network.cut(name, lonely.name)
        backups.write(5)
        waiting = backups.begin()
        done: Taken = backups.servers.result(waiting, 20)
        assert done.description.server == other.name
        assert backups.state() == backups.written

    def test_an_older_snapshot(self, backups: Backups) -> None:
        """One that was taken before the last write will not do."""
        backups.write(2)
        backups.servers.run(0.5)
        for server in backups.servers.servers.values():
            backups.servers.result(server.snapshot())
        backups.write(1)
        backups.take()
        assert backups.state() == backups.written

    def test_named(self, backups: Backups) -> None:
        """The member that is named is asked, the leader too."""
        backups.write(1)
        assert backups.take(backups.chief.name).description.server == backups.chief.name

    def test_many_chunks(self, backups: Backups) -> None:
        """All arrive, in order, and progress counts them."""
        backups.write(30, 40_000)
        seen: list[tuple[int, int]] = []
        done = backups.servers.result(
            backups.begin(None, lambda *both: seen.append(both))
        )
        assert done.description.chunks > 20
        assert backups.state() == backups.written
        assert seen[0][0] == 0
        assert seen[-1] == (done.description.size, done.description.size)
        assert seen == sorted(seen)

    def test_newer_snapshots_meanwhile(self, backups: Backups) -> None:
        """What is lent can be read though newer snapshots took its place."""
        backups.write(30, 40_000)
        before = dict(backups.written)
        lender = backups.servers.followers()[0]
        waiting = backups.halfway(lender)
        for _ in range(3):
            backups.write(1)
            backups.servers.run(0.2)
            backups.servers.result(lender.snapshot())
        assert len(_snapshots(lender)) == 2
        backups.servers.network.heal()
        backups.servers.result(waiting, 60)
        assert backups.state() == before

    def test_the_leader_stops(self, backups: Backups) -> None:
        """A backup that has begun goes on; one that begins waits for a leader."""
        backups.write(30, 40_000)
        follower = backups.servers.followers()[0]
        waiting = backups.halfway(follower)
        backups.servers.stop(backups.chief.name)
        backups.servers.network.heal()
        done: Taken = backups.servers.result(waiting, 60)
        assert done.description.server == follower.name
        assert backups.state() == backups.written
        backups.path.unlink()
        backups.take()
        assert backups.state() == backups.written

    def test_the_lender_stops(self, backups: Backups) -> None:
        """Another member takes over, from the beginning."""
        backups.write(30, 40_000)
        lender = min(backups.servers.followers(), key=lambda each: each.name)
        waiting = backups.halfway(lender, named=False)
        backups.servers.stop(lender.name)
        done: Taken = backups.servers.result(waiting, 120)
        assert done.description.server != lender.name
        assert backups.state() == backups.written

    def test_a_lost_connection(self, backups: Backups) -> None:
        """The copy goes on where it was when the network is whole again."""
        backups.write(30, 40_000)
        lender = backups.servers.followers()[0]
        waiting = backups.halfway(lender)
        key = list(lender.loans._loans)
        backups.servers.run(1)
        assert not waiting.called
        assert list(lender.loans._loans) == key
        backups.servers.network.heal()
        backups.servers.result(waiting, 60)
        assert not lender.loans._loans
        assert backups.state() == backups.written


class RefusedTests:
    """What cannot be done leaves no file."""

    def test_strangers(self, backups: Backups) -> None:
        """A member that does not exist is named, with those that do."""
        error = backups.servers.failing(backups.begin("s9"), InvalidChangeError)
        assert "those are: s1, s2, s3" in str(error)
        assert not backups.path.exists()

    def test_one_that_is_down(self, backups: Backups) -> None:
        """The member that is named is the only one asked."""
        follower = backups.servers.followers()[0].name
        backups.servers.stop(follower)
        backups.servers.failing(backups.begin(follower), UnreachableError)

    def test_nobody_answers(self, backups: Backups) -> None:
        """Without a server there is no backup."""
        for name in backups.servers.names:
            backups.servers.stop(name)
        backups.servers.failing(backups.begin(), UnreachableError)

    def test_no_majority(self, backups: Backups) -> None:
        """A state that may be old is no backup."""
        backups.write(1)
        for name in backups.servers.names:
            if name != backups.chief.name:
                backups.servers.stop(name)
        backups.servers.run(2)
        waiting = backups.begin()
        box: list[Any] = []
        waiting.addBoth(box.append)
        backups.servers.run(60)
        assert box[0].check(NotLeaderError, UnreachableError, RejectedError)
        assert not list(backups.directory.glob("backup*"))


class LoanTests:
    """What a server lends, for how long, and to how many."""

    def test_it_ends(self, backups: Backups) -> None:
        """A loan that nobody asks about is taken back, and its room with it."""
        backups.write(1)
        server = backups.chief
        assert server.loans.begin(KEY) is None
        backups.servers.until(lambda: server.loans.begin(KEY))
        backups.servers.run(0.1)
        backups.servers.reactor.advance(LEASE - 0.5)
        assert len(server.loans) == 1  # the last question was a moment ago
        backups.servers.result(server.loans.chunk(KEY, 0))
        backups.servers.reactor.advance(LEASE - 0.5)
        assert len(server.loans) == 1
        backups.servers.reactor.advance(1)
        assert len(server.loans) == 0
        backups.servers.failing(server.loans.chunk(KEY, 0), RejectedError)

    def test_not_too_many(self, backups: Backups) -> None:
        """The fifth is refused until one ends."""
        backups.write(1)
        loans = backups.chief.loans
        for number in range(MOST):
            loans.begin(bytes([number]) * 16)
        with pytest.raises(OverloadedError, match="4 backups"):
            loans.begin(KEY)
        loans.end(b"\0" * 16)
        loans.begin(KEY)
        backups.servers.run(1)
        loans.close()

    def test_given_back_early(self, backups: Backups) -> None:
        """One that ends before it was taken holds no file open."""
        backups.write(1)
        loans = backups.chief.loans
        loans.begin(KEY)
        loans.end(KEY)
        backups.servers.run(1)
        assert len(loans) == 0

    def test_nonsense(self, backups: Backups) -> None:
        """Wrong names and numbers are errors, and change nothing."""
        backups.write(1)
        server, loans = backups.chief, backups.chief.loans
        with pytest.raises(InvalidCommandError, match="16 bytes"):
            loans.begin(b"short")
        ask = backups.servers.failing
        ask(server.answer("backup_chunk", b""), RejectedError)
        ask(server.answer("backup_chunk", KEY + b"\0"), RejectedError)
        ask(server.answer("backup_begin", b"x"), InvalidCommandError)
        assert backups.servers.result(server.answer("backup_end", b"nobody")) == b""
        backups.servers.until(lambda: loans.begin(KEY))
        ask(server.answer("backup_chunk", KEY + b"\xff" * 9), InvalidCommandError)
        meta, *names = msgspec.msgpack.decode(
            backups.servers.result(server.answer("backup_begin", KEY))
        )
        assert names[0] == "raft"
        assert meta[0] == server.status().snapshot_index
        loans.end(KEY)


def _snapshots(server: RaftServer) -> list[Any]:
    """Return what *server* keeps without being asked to."""
    assert server._recovered is not None
    store: Any = server._recovered.snapshots
    return list(store._kept)
