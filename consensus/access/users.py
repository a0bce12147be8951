"""
The file of users: who there is, how they prove it, and what they may do.

It is YAML, for its owner only, and the same on every server::

    key: 3f2a…            # what the names of their sessions are sealed with
    users:
      shop:
        password: scrypt$15$8$1$…
        tokens: [9f86…]
        certificate: true
        roles:
        - role: write
          prefix: orders/

The findings:

============ =============================================================
access.E001  the file, or that of the secret, cannot be read
access.E002  it does not hold what it should
access.E003  others than its owner can read or change it
============ =============================================================
"""

from __future__ import annotations

import re
import secrets
import stat
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import yaml
from twisted.logger import Logger

from consensus.access.passwords import check_hash
from consensus.durable import NEW, sync_path
from consensus.errors import ConfigError, Finding
from consensus.guard import KeyRange, Touched, prefix_range

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

_log = Logger()

#: A longer file is not what it should be.
MAX_BYTES = 4 << 20

_KEY_BYTES = 32

_TOKEN = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")

Kind = Literal["read", "write", "admin"]

_EVERYTHING = KeyRange(b"", None)


class Role(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    What a user may do.

    Args:
        role: ``read``; ``write``, which is to read, too; or ``admin``, which is
            everything.
        prefix: How the keys begin that it is for; empty for all.
    """

    role: Kind
    prefix: str = ""

    def __post_init__(self) -> None:
        """Refuse what nothing could be made of."""
        if self.role == "admin" and self.prefix:
            raise ValueError("an admin may do everything: leave the prefix out")
        self.prefix.encode()

    @property
    def keys(self) -> KeyRange:
        """Return the keys that it is for."""
        return prefix_range(self.prefix.encode())


class User(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """
    Somebody.

    Args:
        roles: What may be done; nothing without any.
        password: As :func:`.hash_password` makes it; empty for none.
        tokens: As :func:`.hash_token` makes them.
        certificate: Whether a certificate with this common name will do.
    """

    roles: tuple[Role, ...] = ()
    password: str = ""
    tokens: tuple[str, ...] = ()
    certificate: bool = False

    def __post_init__(self) -> None:
        """Refuse what nothing could be compared with."""
        if self.password:
            check_hash(self.password)
        if not all(map(_TOKEN.fullmatch, self.tokens)):
            raise ValueError("a token is kept as the 64 hex digits of its SHA-256")

    @property
    def is_admin(self) -> bool:
        """Say whether everything is allowed."""
        return any(each.role == "admin" for each in self.roles)

    def may(self, kind: Kind, touched: Touched | None) -> bool:
        """
        Say whether the user may do something.

        Args:
            kind: To read, to write, or something that only an admin may.
            touched: Which keys it is about; ``None`` for all of them.
        """
        if self.is_admin:
            return True
        if kind == "admin":
            return False
        if touched is None:
            everything = (_EVERYTHING,)
            is_write = kind == "write"
            touched = Touched(everything, everything if is_write else ())
        elif kind == "write" and not touched.writes:
            # What changes nothing costs a place in the log all the same.
            if not any(each.role == "write" for each in self.roles):
                return False
        elif touched.writes and kind == "read":
            return False
        if not (touched.reads or touched.writes):
            return bool(self.roles)
        return all(self._holds(each, ("write",)) for each in touched.writes) and all(
            self._holds(each, ("read", "write")) for each in touched.reads
        )

    def _holds(self, wanted: KeyRange, kinds: Collection[str]) -> bool:
        roles = (each for each in self.roles if each.role in kinds)
        return any(each.keys.holds(wanted) for each in roles)


class Users(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    What the file has.

    Args:
        key: A secret of the servers: what the names of sessions are sealed with.
        users: Them, by name.
    """

    key: str
    users: dict[str, User] = {}

    def __post_init__(self) -> None:
        """Refuse names that are none, and a key that anybody could guess."""
        if not _TOKEN.fullmatch(self.key):
            raise ValueError("the key has 64 hex digits")
        for name in self.users:
            check_name(name)


def check_name(name: str) -> None:
    """
    See that a user may be called *name*.

    Raises:
        ValueError: Nobody may.
    """
    if not _NAME.fullmatch(name):
        message = (
            f"{name!r} is no name of a user: use up to 64 letters, digits, '-', '_',"
            " '.' and '@', and begin with a letter or a digit"
        )
        raise ValueError(message)


def nobody() -> Users:
    """Return a file without users."""
    return Users(secrets.token_hex(_KEY_BYTES))


def read_private(path: Path, place: str) -> bytes:
    """
    Return what the file *path* has, which only its owner may see.

    Args:
        path: The file.
        place: Where in the config it is named.

    Raises:
        ConfigError: It cannot be read, or others can.
    """
    try:
        with path.open("rb") as file:
            mode = path.stat().st_mode
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror or error}"
        hint = "name a file that this user may read; raft users add makes one"
        raise ConfigError([Finding("access.E001", message, hint, place)]) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        message = f"others than its owner can read or change {path}"
        hint = f"chmod 600 {path}"
        raise ConfigError([Finding("access.E003", message, hint, place)])
    if len(data) > MAX_BYTES:
        message = f"{path} is longer than {MAX_BYTES} bytes"
        raise ConfigError([Finding("access.E002", message, "shorten it", place)])
    return data


def load(path: Path, place: str = "access.users") -> Users:
    """
    Return what the file of users *path* has.

    Raises:
        ConfigError: It cannot be read, or is not one.
    """
    data = read_private(path, place)
    try:
        found: Users = msgspec.convert(yaml.safe_load(data), Users)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # msgspec's own errors say where, and yaml's show a part of the file.
        where = str(error) if isinstance(error, ValueError) else "it is not YAML"
        message = f"{path} is no file of users: {where}"
        hint = "let raft users write it"
        raise ConfigError([Finding("access.E002", message, hint, place)]) from None
    return found


def save(path: Path, users: Users) -> None:
    """
    Replace the file *path*, for its owner only, as a whole or not at all.

    Raises:
        OSError: It is as it was.
    """
    new = path.with_name(path.name + NEW)
    text = yaml.safe_dump(msgspec.to_builtins(users), sort_keys=False)
    new.unlink(missing_ok=True)
    new.touch(mode=0o600, exist_ok=False)
    new.write_text(text)
    sync_path(new)
    new.replace(path)
    sync_path(path.parent)


class UserFile:
    """
    The file, read again when it has changed.

    What it held before stays in use if it cannot be used any more.

    Args:
        path: Where it is.

    Raises:
        ConfigError: It cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._stamp_now()
        #: What it has.
        self.users = load(path)
        #: Counts how often it was read.
        self.generation = 0

    def look(self) -> None:
        """Read it again, if it has changed."""
        stamp = self._stamp_now()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self.users = load(self._path)
        except ConfigError as error:
            _log.warn(
                "the file of users has changed and cannot be used; what it held before"
                " counts: {error}",
                error=error,
            )
        else:
            self.generation += 1
            _log.info("the file of users has changed; it counts from now on")

    def _stamp_now(self) -> Any:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode
