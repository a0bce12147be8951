"""What a call needs permission for, and whose sessions are whose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.task import Clock

from consensus import sessions
from consensus.access.gate import Gate
from consensus.access.passwords import hash_token
from consensus.access.users import Role, User, UserFile, Users, nobody, save
from consensus.errors import AuthenticationError, PermissionDeniedError, RaftError
from consensus.guard import Login
from consensus.options import ManyOptions, ReadOptions, WriteOptions, pack
from consensus.shell import calls
from consensus.shell.members import Applicant
from consensus.shell.permits import MEMBER, ServerCertificate, ServerGuard, seal
from contrib.kvstore.commands import Get, Scan, Set, Txn, encode
from contrib.kvstore.machine import KVStore
from tests.support.deferreds import error_of, result_of

if TYPE_CHECKING:
    from pathlib import Path

USERS = {
    "shop": (Role("write", "shop/"),),
    "other": (Role("write", "other/"),),
    "reader": (Role("read"),),
    "writer": (Role("write"),),
    "root": (Role("admin"),),
    "nothing": (),
}

MINE = encode(Set(b"shop/a", "1"))
MY_KEY = encode(Get(b"shop/a"))
FOREIGN = encode(Set(b"x", "1"))
FOREIGN_KEY = encode(Get(b"x"))


class Fixture:
    """A guard, and the calls that it let pass."""

    def __init__(self, directory: Path) -> None:
        users = {
            name: User(roles, tokens=(hash_token(name),))
            for name, roles in USERS.items()
        }
        path = directory / "users"
        save(path, Users(nobody().key, users))
        gate = Gate(UserFile(path), Clock(), maybeDeferred)
        self.calls: list[tuple[str, bytes]] = []
        machine = KVStore()
        self.guard = ServerGuard(
            gate, b"", self.answer, lambda: machine, lambda: {"s1", "s2"}
        )

    def answer(self, method: str, payload: bytes) -> Deferred[bytes]:
        """Answer a call: a session's name is 7."""
        self.calls.append((method, payload))
        return succeed(bytes(7) + b"\7")

    def caller(self, user: str) -> Any:
        """Return who has the token of *user*."""
        return result_of(self.guard.login(Login(token=user), "h"))

    def try_it(self, caller: Any, method: str, payload: bytes = b"") -> type | None:
        """Return the error of a call; ``None`` if it was answered."""
        before = len(self.calls)
        done = self.guard.answer(caller, method, payload)
        failed: list[Any] = []
        done.addErrback(failed.append)
        assert (len(self.calls) > before) is not bool(failed)
        return failed[0].type if failed else None


@pytest.fixture
def made(tmp_path: Path) -> Fixture:
    """Return a guard."""
    return Fixture(tmp_path)


def in_session(command: bytes) -> bytes:
    """Return the call of a session with *command*."""
    return sessions.command_call(9, 1, 1, command)


ALL_MINE = [
    ("write", MINE),
    ("write_with", pack(WriteOptions(), MINE)),
    ("write_many", pack(ManyOptions(), [MINE, MINE])),
    ("session_write", in_session(MINE)),
    ("session_write_indexed", in_session(MINE)),
    ("read", MY_KEY),
    ("read_with", pack(ReadOptions(), MY_KEY)),
]
ALL_FOREIGN = [
    ("write", FOREIGN),
    ("write_with", pack(WriteOptions(), FOREIGN)),
    ("write_many", pack(ManyOptions(), [MINE, FOREIGN])),
    ("session_write", in_session(FOREIGN)),
    ("session_write_indexed", in_session(FOREIGN)),
    ("read", FOREIGN_KEY),
    ("read", encode(Scan())),
    ("read", MINE),  # a command is no query
    ("read_with", pack(ReadOptions("stale", forwarded=True), FOREIGN_KEY)),
    ("write", encode(Txn([], [Get(b"x")]))),
    ("write", encode(Txn([], [Set(b"shop/a", "1")], [Set(b"x", "1")]))),
]


class PermitTests:
    """Which calls are let through."""

    def test_every_method_is_looked_at(self, made: Fixture) -> None:
        """Strangers may call none; a user none but those of the roles."""
        shop, root = made.caller("shop"), made.caller("root")
        usual = {"status", "clock", "session_open", "session_close"}
        for method in [*calls._METHODS, "of a later release"]:
            assert made.try_it(None, method, MINE) is AuthenticationError
            assert made.try_it(root, method, in_session(MINE)) is None
            if method not in usual | {each for each, _ in ALL_MINE}:
                assert made.try_it(shop, method, MINE) is PermissionDeniedError, method

    @pytest.mark.parametrize(("method", "payload"), ALL_MINE)
    def test_own_keys(self, made: Fixture, method: str, payload: bytes) -> None:
        """Each way to read and write them is open."""
        assert made.try_it(made.caller("shop"), method, payload) is None
        assert made.try_it(made.caller("writer"), method, payload) is None
        wanted = None if method.startswith("read") else PermissionDeniedError
        assert made.try_it(made.caller("reader"), method, payload) is wanted

    @pytest.mark.parametrize(("method", "payload"), ALL_FOREIGN)
    def test_keys_of_others(self, made: Fixture, method: str, payload: bytes) -> None:
        """Each way to them is closed."""
        assert (
            made.try_it(made.caller("shop"), method, payload) is PermissionDeniedError
        )

    @pytest.mark.parametrize("method", ["session_open", "session_close"])
    def test_sessions_are_for_who_writes(self, made: Fixture, method: str) -> None:
        """Each takes a place in the log, and an older one's in the table."""
        for user, wanted in (
            ("shop", None),
            ("reader", PermissionDeniedError),
            ("nothing", PermissionDeniedError),
        ):
            assert made.try_it(made.caller(user), method, bytes(8)) is wanted

    @pytest.mark.parametrize(
        "method", [*dict.fromkeys(each for each, _ in ALL_MINE), "session_close"]
    )
    def test_rubbish(self, made: Fixture, method: str) -> None:
        """It is refused, and costs nobody else anything."""
        for payload in (b"", b"\xff" * 3, b"\x01\x93\xa3set"):
            done = made.guard.answer(made.caller("shop"), method, payload)
            assert isinstance(error_of(done), RaftError)

    def test_members(self, made: Fixture) -> None:
        """They may do what they like; a certificate has to name one of them."""
        assert made.try_it(MEMBER, "session_forwarded") is None
        certified = made.guard.certified
        assert made.try_it(certified({"s2"}, "x"), "session_forwarded") is None
        stranger = certified({"s9"}, "root")
        assert isinstance(stranger, ServerCertificate)
        assert made.try_it(stranger, "status") is AuthenticationError
        assert certified((), "root") is None

    def test_who_asks_to_be_taken_in(self, made: Fixture) -> None:
        """A server may, under a name that its certificate has."""
        stranger = made.guard.certified({"s9"}, "")
        for name, wanted in (("s9", None), ("s1", AuthenticationError)):
            applicant = Applicant("c", name, "tcp:127.0.0.1:1", "1")
            payload = msgspec.msgpack.encode(applicant)
            assert made.try_it(stranger, "join", payload) is wanted
        assert made.try_it(stranger, "join", b"rubbish") is not None


class SessionTests:
    """Sessions that only their users can name."""

    def test_its_own(self, made: Fixture) -> None:
        """A user's server finds the session behind the name that it gave."""
        shop = made.caller("shop")
        name = result_of(made.guard.answer(shop, "session_open", b"\0\0\1\0"))
        assert name != bytes(7) + b"\7"
        call = name + in_session(MINE)[8:]
        assert made.try_it(shop, "session_write", call) is None
        assert made.calls[-1][1][:8] == bytes(7) + b"\7"
        assert made.try_it(shop, "session_close", name) is None
        assert made.calls[-1] == ("session_close", bytes(7) + b"\7")

    def test_that_of_another(self, made: Fixture) -> None:
        """It cannot be named: not by its number, not by the name that leaked."""
        shop, other = made.caller("shop"), made.caller("other")
        name = result_of(made.guard.answer(shop, "session_open", b"\0\0\1\0"))
        command = encode(Set(b"other/a", "1"))
        for guess in (name, bytes(7) + b"\7"):
            call = guess + in_session(command)[8:]
            assert made.try_it(other, "session_write", call) is None
            assert made.calls[-1][1][:8] != bytes(7) + b"\7"

    @pytest.mark.parametrize("number", [0, 1, 7, 1 << 40, (1 << 64) - 1])
    def test_sealing(self, number: int) -> None:
        """Each name leads to one other and back."""
        name = number.to_bytes(8, "big")
        sealed = seal(b"key", name)
        assert seal(b"key", sealed, backwards=True) == name
        assert sealed not in {name, seal(b"other", name)}
