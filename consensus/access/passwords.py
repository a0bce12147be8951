"""
Passwords and tokens as they are kept: nobody can read them there.

A password is kept as ``scrypt$N$r$p$SALT$HASH`` with N as a power of two and the
last two in Base64.  A token is drawn by us and too long to be guessed, so its plain
SHA-256 will do.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import b64decode, b64encode
from dataclasses import dataclass

#: Beyond this nobody is let to hash.
MAX_PASSWORD_BYTES = 1024

# 32 MiB and some 100 ms for each guess.
_LOG_N, _R, _P = 15, 8, 1
_SALT_BYTES = 16
_HASH_BYTES = 32

# What a file may ask of a server: 256 MiB.
_MOST_LOG_N, _MOST_R, _MOST_P = 17, 16, 4

_TOKEN_BYTES = 32
_PARTS = 6


@dataclass(frozen=True, slots=True)
class _Hash:
    """A password as it is kept, taken apart."""

    log_n: int
    r: int
    p: int
    salt: bytes
    digest: bytes


def hash_password(password: str) -> str:
    """
    Return what is kept of *password*.

    Raises:
        ValueError: It is empty or too long.
    """
    if not 0 < len(password.encode()) <= MAX_PASSWORD_BYTES:
        message = f"a password has 1 to {MAX_PASSWORD_BYTES} bytes"
        raise ValueError(message)
    salt = secrets.token_bytes(_SALT_BYTES)
    digest = _scrypt(password, _Hash(_LOG_N, _R, _P, salt, b""))
    parts = (_LOG_N, _R, _P, b64encode(salt).decode(), b64encode(digest).decode())
    return "$".join(["scrypt", *map(str, parts)])


#: What the password of an unknown user is compared with: it takes as long.
NOBODY = "$".join(
    [
        "scrypt",
        *map(str, (_LOG_N, _R, _P)),
        b64encode(bytes(_SALT_BYTES)).decode(),
        b64encode(bytes(_HASH_BYTES)).decode(),
    ]
)


def verify_password(password: str, kept: str) -> bool:
    """
    Say whether *kept* is of *password*; it takes a while, so do it in a thread.

    Raises:
        ValueError: *kept* is nothing that :func:`hash_password` makes.
    """
    parsed = _parse(kept)
    return hmac.compare_digest(_scrypt(password, parsed), parsed.digest)


def check_hash(kept: str) -> None:
    """
    See that *kept* can be compared with.

    Raises:
        ValueError: It is nothing that :func:`hash_password` makes.
    """
    _parse(kept)


def new_token() -> str:
    """Return a token that nobody has."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


def hash_token(token: str) -> str:
    """Return what is kept of *token*."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _parse(kept: str) -> _Hash:
    parts = kept.split("$")
    if len(parts) != _PARTS or parts[0] != "scrypt":
        raise ValueError("a password is kept as scrypt$N$r$p$SALT$HASH")
    log_n, r, p = map(int, parts[1:4])
    if not (1 <= log_n <= _MOST_LOG_N and 1 <= r <= _MOST_R and 1 <= p <= _MOST_P):
        raise ValueError("a kept password asks for too much work, or for none")
    salt, digest = (b64decode(part, validate=True) for part in parts[4:])
    if len(digest) != _HASH_BYTES or not salt:
        raise ValueError("a kept password has a salt, and a hash of 32 bytes")
    return _Hash(log_n, r, p, salt, digest)


def _scrypt(password: str, how: _Hash) -> bytes:
    return hashlib.scrypt(
        password.encode("utf-8", "surrogatepass"),
        salt=how.salt,
        n=1 << how.log_n,
        r=how.r,
        p=how.p,
        maxmem=(130 << how.log_n) * how.r * how.p + (1 << 20),
        dklen=_HASH_BYTES,
    )
