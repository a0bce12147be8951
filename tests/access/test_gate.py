"""Who is let in, and what they may do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock

from consensus.access.gate import Gate
from consensus.access.passwords import (
    NOBODY,
    check_hash,
    hash_password,
    hash_token,
    verify_password,
)
from consensus.access.throttle import Throttle
from consensus.access.users import Role, User, UserFile, Users, load, nobody, save
from consensus.errors import (
    AuthenticationError,
    ConfigError,
    OverloadedError,
    PermissionDeniedError,
)
from consensus.guard import KeyRange, Login, Touched, key_range, prefix_range
from tests.support.deferreds import error_of, result_of

if TYPE_CHECKING:
    from pathlib import Path

    from consensus.access.users import Kind

HASHED = hash_password("open")
TOKEN = "t0ken"  # noqa: S105 - of the users here


class Fixture:
    """A gate, its file, and its clock."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "users.yaml"
        self.write(
            shop=User((Role("write", "shop/"), Role("read", "all/")), HASHED),
            app=User((Role("read"),), tokens=(hash_token(TOKEN),)),
            desk=User((Role("admin"),), certificate=True),
        )
        self.clock = Clock()
        self.hashed: list[Deferred[bool]] = []
        self.gate = Gate(UserFile(self.path), self.clock, self.run)
        self.is_slow = False

    def run(self, work: Any) -> Deferred[bool]:
        """Do *work* at once, or never."""
        waiting: Deferred[bool] = Deferred() if self.is_slow else maybeDeferred(work)
        self.hashed.append(waiting)
        return waiting

    def write(self, **users: User) -> None:
        """Let there be *users* only."""
        save(self.path, Users(nobody().key, users))

    def login(self, user: str, word: str = "open", host: str = "h") -> Any:
        """Log in, and return the caller."""
        return result_of(self.gate.login(Login(user, word), host))

    def refused(self, login: Login, host: str = "h") -> str:
        """Fail to log in, and return what was said of it."""
        error = error_of(self.gate.login(login, host))
        assert isinstance(error, AuthenticationError)
        return str(error)


@pytest.fixture
def made(tmp_path: Path) -> Fixture:
    """Return a gate with three users."""
    return Fixture(tmp_path)


class PasswordTests:
    """How passwords are kept."""

    def test_only_the_right_one_fits(self) -> None:
        """Two of the same look different, and both fit."""
        assert hash_password("open") != HASHED
        assert verify_password("open", HASHED)
        assert not verify_password("opens", HASHED)
        assert not verify_password("open", NOBODY)

    @pytest.mark.parametrize(
        "kept",
        [
            "open",
            "scrypt$30$8$1$AAAA$AAAA",
            "scrypt$1$8$1$!$AAAA",
            "scrypt$1$8$1$AA==$AA==",
        ],
    )
    def test_what_cannot_be_one(self, kept: str) -> None:
        """What asks for too much memory, or is cut off, is refused."""
        with pytest.raises(ValueError):  # noqa: PT011 - of Base64, or ours
            check_hash(kept)

    def test_none(self) -> None:
        """There is no empty password, and no endless one."""
        for password in ("", "x" * 2000):
            with pytest.raises(ValueError, match="1 to 1024"):
                hash_password(password)


class LoginTests:
    """Who is let in."""

    def test_a_password(self, made: Fixture) -> None:
        """It is hashed once, and known for a while."""
        assert made.login("shop").user == "shop"
        assert made.login("shop").user == "shop"
        assert len(made.hashed) == 1

    def test_a_token(self, made: Fixture) -> None:
        """It will do alone, with its user, and as that one's password."""
        for login in (
            Login(token=TOKEN),
            Login("app", token=TOKEN),
            Login("app", TOKEN),
        ):
            assert result_of(made.gate.login(login, "h")).user == "app"
        made.refused(Login("shop", token=TOKEN))
        made.refused(Login("shop", TOKEN))
        made.refused(Login("", TOKEN))

    def test_the_unknown_take_as_long(self, made: Fixture) -> None:
        """Each is hashed: who is not there, who has no password, who is wrong."""
        said = {
            made.refused(Login(name, "wrong"), name)
            for name in ("nobody", "app", "shop")
        }
        assert len(said) == 1
        assert len(made.hashed) == 3

    def test_mistakes_cost_time(self, made: Fixture) -> None:
        """From one host; from others it goes on, and who is known need not wait."""
        made.login("shop")
        for _ in range(3):
            assert "wrong" in made.refused(Login("shop", "wrong"))
        assert "try again in 1 second" in made.refused(Login("shop", "new"))
        hashed = len(made.hashed)
        assert made.login("shop").user == "shop"
        assert "wrong" in made.refused(Login("shop", "wrong"), "elsewhere")
        assert len(made.hashed) == hashed + 1
        made.clock.advance(1)
        assert "wrong" in made.refused(Login("shop", "wrong"))
        assert "try again in 2 second" in made.refused(Login("shop", "wrong"))

    def test_too_many_at_once(self, made: Fixture) -> None:
        """Those of one host are bounded, and those of all are."""
        made.is_slow = True
        for number in range(4):
            made.gate.login(Login("shop", str(number)), "h")
        error = error_of(made.gate.login(Login("shop", "x"), "h"))
        assert isinstance(error, OverloadedError)
        for number in range(40):
            made.gate.login(Login("shop", "x"), f"h{number}").addErrback(lambda _: None)
        error = error_of(made.gate.login(Login("shop", "x"), "new"))
        assert isinstance(error, OverloadedError)
        assert len(made.hashed) == 1  # one at a time

    def test_a_certificate(self, made: Fixture) -> None:
        """Only of a user who has it in the file."""
        caller = made.gate.certified("desk")
        assert caller is not None
        assert made.gate.user_of(caller).is_admin
        assert made.gate.certified("shop") is None
        assert made.gate.certified("who") is None

    def test_hosts_that_are_remembered(self) -> None:
        """They are bounded, and mistakes of long ago are forgotten."""
        throttle = Throttle()
        for number in range(5000):
            throttle.failed(f"h{number}", 0.0)
        assert len(throttle._records) <= 1000
        for _ in range(40):
            throttle.failed("h", 1.0)
        assert throttle.wait("h", 1.0) == 30.0
        throttle.failed("h", 5000.0)
        assert throttle.wait("h", 5000.0) == 0.0


class ChangeTests:
    """What becomes of callers when the file changes."""

    def test_who_is_gone(self, made: Fixture) -> None:
        """A second later nobody knows them."""
        caller = made.login("shop")
        made.write()
        made.clock.advance(1)
        with pytest.raises(AuthenticationError, match="log in again"):
            made.gate.user_of(caller)
        assert "wrong" in made.refused(Login("shop", "open"))

    def test_another_password(self, made: Fixture) -> None:
        """The old one counts no more, though it is known."""
        caller = made.login("shop")
        made.write(shop=User((Role("write"),), hash_password("new")))
        made.clock.advance(1)
        with pytest.raises(AuthenticationError):
            made.gate.user_of(caller)
        made.refused(Login("shop", "open"))
        assert made.login("shop", "new").user == "shop"

    @pytest.mark.parametrize(
        "text", ["", "users: 5", "key: x\nusers: {}", "{", "a: &x [*x]"]
    )
    def test_a_file_that_is_none(self, made: Fixture, text: str) -> None:
        """What was there before stays, until it is right again."""
        caller = made.login("shop")
        made.path.write_text(text)
        made.clock.advance(1)
        assert made.gate.user_of(caller)
        with pytest.raises(ConfigError, match=r"access\.E002"):
            load(made.path)

    def test_a_file_that_others_can_read(self, made: Fixture) -> None:
        """It is refused."""
        made.path.chmod(0o640)
        with pytest.raises(ConfigError, match=r"access\.E003"):
            UserFile(made.path)
        with pytest.raises(ConfigError, match=r"access\.E001"):
            UserFile(made.path.with_name("none"))

    def test_errors_show_nothing(self, made: Fixture) -> None:
        """What is wrong with a file is said without a word of it."""
        made.path.write_text("users: {shop: {password: [geheim, geheim]}}\nkey: geheim")
        with pytest.raises(ConfigError) as caught:
            load(made.path)
        assert "geheim" not in str(caught.value)


class RangeTests:
    """Ranges of keys."""

    @pytest.mark.parametrize(
        ("prefix", "end"),
        [
            (b"a", b"b"),
            (b"a\xff", b"b"),
            (b"", None),
            (b"\xff\xff", None),
            (b"a/", b"a0"),
        ],
    )
    def test_prefixes(self, prefix: bytes, end: bytes | None) -> None:
        """They end where keys begin otherwise."""
        assert prefix_range(prefix) == KeyRange(prefix, end)

    def test_holding(self) -> None:
        """A range holds what is in it, to the last byte."""
        whole = prefix_range(b"shop/")
        assert whole.holds(key_range(b"shop/"))
        assert whole.holds(key_range(b"shop/\xff\xff"))
        assert whole.holds(prefix_range(b"shop/a"))
        assert whole.holds(KeyRange(b"z", b"a"))  # nothing is in it
        for other in (
            key_range(b"shop"),
            key_range(b"shop0"),
            prefix_range(b"shop"),
            prefix_range(b""),
            KeyRange(b"shop/", None),
            KeyRange(b"shop/", b"shop0\0"),
        ):
            assert not whole.holds(other)


class PermitTests:
    """What users may do."""

    def test_prefixes(self, made: Fixture) -> None:
        """To write is to read; to read is not to write; nothing else is either."""
        caller = made.login("shop")
        shop, everywhere, other = map(key_range, (b"shop/1", b"all/1", b"x"))
        permit = made.gate.permit
        permit(caller, "write", [Touched((shop, everywhere), (shop,))])
        permit(caller, "read", [Touched((shop, everywhere)), Touched()])
        refused: list[tuple[Kind, Touched | None]] = [
            ("write", Touched((), (everywhere,))),
            ("write", Touched((other,), (shop,))),
            ("read", Touched((other,))),
            ("read", Touched((), (shop,))),
            ("read", None),
            ("write", None),
            ("admin", Touched()),
        ]
        for kind, touched in refused:
            with pytest.raises(PermissionDeniedError):
                permit(caller, kind, [Touched((shop,)), touched])

    def test_readers_and_admins(self, made: Fixture) -> None:
        """One may read all and write nothing, the other everything."""
        reader = result_of(made.gate.login(Login(token=TOKEN), "h"))
        made.gate.permit(reader, "read", [None])
        for touched in (None, Touched()):
            with pytest.raises(PermissionDeniedError):
                made.gate.permit(reader, "write", [touched])
        admin = made.gate.certified("desk")
        made.gate.permit(admin, "admin", [None])
        with pytest.raises(AuthenticationError):
            made.gate.permit(None, "read", [])

    def test_nothing_without_a_role(self, made: Fixture) -> None:
        """Not even what touches no key."""
        made.write(shop=User((), HASHED))
        made.clock.advance(1)
        caller = made.login("shop")
        with pytest.raises(PermissionDeniedError):
            made.gate.permit(caller, "read", [Touched()])
