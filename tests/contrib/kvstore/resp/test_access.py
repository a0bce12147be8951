"""What users may do at Redis' port."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock

from consensus.access.gate import Gate
from consensus.access.passwords import hash_password, hash_token
from consensus.access.users import Role, User, UserFile, Users, nobody, save
from consensus.errors import UnreachableError
from contrib.kvstore.resp.port import Port
from tests.support.redis import PortClient, Ports

if TYPE_CHECKING:
    from pathlib import Path

    from consensus.access.users import Users as _Users

USERS = {
    "root": User((Role("admin"),), tokens=(hash_token("r"),)),
    "shop": User((Role("write", "shop/"), Role("read", "all/")), hash_password("open")),
}


class Guarded:
    """A port with users."""

    def __init__(self, directory: Path) -> None:
        self.ports = Ports()
        self.home: Any = self.ports.ports["s1"].home
        self.path = directory / "users"
        self.write(Users(nobody().key, USERS))
        self.clock = Clock()
        self.home.gate = Gate(UserFile(self.path), self.clock, maybeDeferred)
        self.port = Port(
            self.home, self.ports.options, "tcp:127.0.0.1:1", lambda: self.ports.date
        )

    def write(self, users: _Users) -> None:
        """Let there be *users* only."""
        save(self.path, users)

    def client(self, *lines: str) -> PortClient:
        """Return a client that has said *lines*."""
        client = PortClient(self.ports.servers, self.port)
        for line in lines:
            client.do(line)
        return client


@pytest.fixture
def guarded(tmp_path: Path) -> Guarded:
    """Return a port with users, and a key of each kind."""
    made = Guarded(tmp_path)
    root = made.client("AUTH r")
    assert root.do("MSET shop/a 1 all/a 2 x 3") == "+OK"
    return made


FORBIDDEN = [
    "GET x", "MGET shop/a x", "EXISTS x", "STRLEN x", "TYPE x", "TTL x", "TOUCH x",
    "SET x 1", "SET all/a 1", "SETNX all/a 1", "GETSET x 1", "GETDEL all/a",
    "GETEX x", "GETEX all/a PERSIST", "MSET shop/a 1 x 2", "MSETNX shop/a 1 x 2",
    "INCR x", "DECRBY x 1", "INCRBYFLOAT x 1", "APPEND x 1", "DEL shop/a x", "UNLINK x",
    "EXPIRE x 1", "PERSIST all/a", "KEYS *", "KEYS s*", "SCAN 0", "SCAN 0 MATCH *hop/a",
    "DBSIZE", "FLUSHALL", "FLUSHDB", "INFO", "WATCH x",
]  # fmt: skip


class PortAccessTests:
    """A port that asks who is there."""

    def test_strangers(self, guarded: Guarded) -> None:
        """They are told to log in, and may do nothing else."""
        client = guarded.client()
        assert client.do("GET shop/a") == "-NOAUTH Authentication required."
        assert client.do("AUTH shop wrong").startswith("-WRONGPASS")
        assert client.do("AUTH wrong").startswith("-WRONGPASS")
        assert client.do("HELLO 3 AUTH shop no").startswith("-WRONGPASS")
        assert client.do("GET shop/a") == "-NOAUTH Authentication required."

    def test_ways_in(self, guarded: Guarded) -> None:
        """With a password or a token, with AUTH or with HELLO."""
        for line in ("AUTH shop open", "AUTH r", "AUTH root r", "HELLO 2 AUTH root r"):
            assert guarded.client(line).do("GET shop/a") == "'1'"

    def test_own_keys(self, guarded: Guarded) -> None:
        """All of it works with them."""
        client = guarded.client("AUTH shop open")
        assert client.do("SET shop/b 5") == "+OK"
        assert client.do("MGET shop/b all/a") == "['5', '2']"
        assert client.do("KEYS shop/*") == "['shop/a', 'shop/b']"
        assert client.do("SCAN 0 MATCH all/*") == "['0', ['all/a']]"
        assert "user=shop" in client.do("CLIENT LIST")

    @pytest.mark.parametrize("line", FORBIDDEN)
    def test_keys_of_others(self, guarded: Guarded, line: str) -> None:
        """Each way to them is closed, alone and in a transaction."""
        client = guarded.client("AUTH shop open")
        assert client.do(line).startswith("-NOPERM User shop has no permissions")
        if line.startswith(("WATCH", "FLUSH")):
            return
        assert client.do("MULTI") == "+OK"
        assert client.do("SET shop/c 1") == "+QUEUED"
        assert client.do(line) == "+QUEUED"
        assert client.do("EXEC").startswith("-EXECABORT")
        assert client.do("GET shop/c") == "nil"
        root = guarded.client("AUTH r")
        assert root.do("MGET shop/a all/a x") == "['1', '2', '3']"

    def test_who_is_removed(self, guarded: Guarded) -> None:
        """The next command of an open connection is refused."""
        client = guarded.client("AUTH shop open", "MULTI", "GET shop/a")
        guarded.write(nobody())
        guarded.clock.advance(1)
        assert "NOAUTH" in client.do("EXEC")
        assert client.do("GET shop/a") == "-NOAUTH Authentication required."

    def test_reset(self, guarded: Guarded) -> None:
        """Who begins anew is nobody again."""
        client = guarded.client("AUTH shop open", "RESET")
        assert client.do("GET shop/a") == "-NOAUTH Authentication required."

    def test_other_clients(self, guarded: Guarded) -> None:
        """Only an admin hears of them."""
        root, shop = guarded.client("AUTH r"), guarded.client("AUTH shop open")
        assert root.do("CLIENT LIST").count("user=") > 1
        assert shop.do("CLIENT LIST").count("user=") == 1

    def test_what_does_not_go_together(self, guarded: Guarded) -> None:
        """Users and a password of the port; TLS without its files."""
        for options in ({"resp_password": "x"}, {"resp_tls": True}):
            chosen = type(guarded.ports.options)(**options)
            port = Port(guarded.home, chosen, "tcp:127.0.0.1:1")
            failed: list[Any] = []
            port.startService().addErrback(failed.append)
            assert failed[0].check(UnreachableError)
