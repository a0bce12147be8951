"""
Who somebody is, and what they may do: asked by each way into a server.

The file of users counts as it is at each call: who was removed, or has another
password now, is a stranger again, though a connection may be old.
"""

from __future__ import annotations

import hmac
import secrets
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, DeferredLock, fail, succeed
from twisted.logger import Logger

from consensus.access.passwords import (
    MAX_PASSWORD_BYTES,
    NOBODY,
    hash_token,
    verify_password,
)
from consensus.access.throttle import Throttle
from consensus.errors import (
    AuthenticationError,
    OverloadedError,
    PermissionDeniedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from consensus.access.users import Kind, User, UserFile
    from consensus.guard import Login, Touched

    Run = Callable[[Callable[[], bool]], Deferred[bool]]

_log = Logger()

# Passwords that wait to be looked at: of all, and of one host.
_MOST_PENDING = 32
_MOST_OF_HOST = 4

# The passwords that were right lately.
_MOST_KNOWN = 1000

# How often the file is looked at, in seconds.
_LOOK_EVERY = 1.0

_WRONG = "wrong user, password or token"

_CERTIFICATE = "certificate"


@dataclass(frozen=True, slots=True)
class Caller:
    """
    A user who has logged in.

    Args:
        user: The name.
        proof: What of the file it was that counted.
    """

    user: str
    proof: str


class Gate:
    """
    Knows the users.

    Args:
        file: Has them.
        clock: What waiting goes by.
        run: Calls a function in a thread.
    """

    def __init__(self, file: UserFile, clock: Any, run: Run) -> None:
        self._file = file
        self._clock = clock
        self._run = run
        self._throttle = Throttle()
        self._hashing = DeferredLock()
        self._pending: Counter[str] = Counter()
        self._looked_at = clock.seconds()
        # What was right lately, so that it need not be hashed each time: nothing
        # that somebody could find in memory and use elsewhere.
        self._key = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, str] = OrderedDict()
        self._tokens: dict[str, str] = {}
        self._tokens_of = -1

    # --- who it is ----------------------------------------------------------------

    def login(self, login: Login, host: str) -> Deferred[Caller]:
        """
        Return the user who says *login* at *host*.

        The Deferred fails with:
            AuthenticationError: There is none, or the proof is wrong, or it was
                too often wrong lately.
            OverloadedError: Too many passwords wait to be looked at.
        """
        self._look()
        proven = self._by_token(login) or self._by_memory(login)
        if proven is not None:
            return succeed(proven)
        now = self._clock.seconds()
        wait = self._throttle.wait(host, now)
        if wait:
            message = f"too many failed logins: try again in {wait:.0f} seconds"
            return fail(AuthenticationError(message))
        if login.token or len(login.password.encode("utf-8", "replace")) > (
            MAX_PASSWORD_BYTES
        ):
            return fail(self._refused(login, host))
        if (
            self._pending.total() >= _MOST_PENDING
            or self._pending[host] >= _MOST_OF_HOST
        ):
            return fail(OverloadedError("too many logins at once"))
        return self._by_password(login, host)

    def certified(self, subject: str) -> Caller | None:
        """Return the user whose certificate has the common name *subject*."""
        self._look()
        user = self._file.users.users.get(subject)
        if user is None or not user.certificate:
            return None
        return Caller(subject, _CERTIFICATE)

    def _by_token(self, login: Login) -> Caller | None:
        """Return who has the token; it may be said for a password, too."""
        digest = hash_token(login.token or login.password)
        if self._tokens_of != self._file.generation:
            self._tokens_of = self._file.generation
            users = self._file.users.users.items()
            self._tokens = {each: name for name, user in users for each in user.tokens}
        name = self._tokens.get(digest)
        if name is None or login.user not in ({"", name} if login.token else {name}):
            return None
        return Caller(name, digest)

    def _by_memory(self, login: Login) -> Caller | None:
        """Return who has said the same before, if it is still right."""
        kept = self._known.get(self._mark(login))
        user = self._file.users.users.get(login.user)
        if kept is None or user is None or kept != user.password:
            return None
        return Caller(login.user, kept)

    def _by_password(self, login: Login, host: str) -> Deferred[Caller]:
        user = self._file.users.users.get(login.user)
        kept = (user.password if user else "") or NOBODY
        self._pending[host] += 1

        def hash_it() -> Deferred[bool]:
            return self._run(lambda: verify_password(login.password, kept))

        def looked_at(is_right: bool) -> Caller:  # noqa: FBT001 - a callback's
            if not is_right or kept == NOBODY:
                raise self._refused(login, host)
            self._known[self._mark(login)] = kept
            if len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)
            return Caller(login.user, kept)

        done: Deferred[bool] = self._hashing.run(hash_it)
        return done.addBoth(self._waited, host).addCallback(looked_at)

    def _waited(self, outcome: Any, host: str) -> Any:
        self._pending[host] -= 1
        if not self._pending[host]:
            del self._pending[host]
        return outcome

    def _refused(self, login: Login, host: str) -> AuthenticationError:
        """Note that *login* is not right, and return what to say of it."""
        self._throttle.failed(host, self._clock.seconds())
        _log.warn(
            "a login as {user!r} from {host} was refused",
            user=login.user[:64],
            host=host,
        )
        return AuthenticationError(_WRONG)

    def _mark(self, login: Login) -> bytes:
        text = f"{login.user}\0{login.password}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, text, "sha256")

    def _look(self) -> None:
        """See whether the file has changed, now and then."""
        now = self._clock.seconds()
        if now - self._looked_at >= _LOOK_EVERY:
            self._looked_at = now
            self._file.look()

    # --- what they may do ------------------------------------------------------------

    def user_of(self, caller: Caller | None) -> User:
        """
        Return what is known of *caller*, as the file is now.

        Raises:
            AuthenticationError: It is not known who that is, or not any more.
        """
        if caller is None:
            raise AuthenticationError("log in first, with a password or a token")
        self._look()
        user = self._file.users.users.get(caller.user)
        if user is None or not _is_proven(user, caller.proof):
            message = f"{caller.user!r} has to log in again"
            raise AuthenticationError(message)
        return user

    def permit(
        self, caller: Caller | None, kind: Kind, touched: Iterable[Touched | None]
    ) -> None:
        """
        See that *caller* may do something.

        Args:
            caller: Who asks.
            kind: To read, to write, or something that only an admin may.
            touched: Which keys each part of it is about; ``None`` for all.

        Raises:
            AuthenticationError: It is not known who that is, or not any more.
            PermissionDeniedError: The user may not.
        """
        user = self.user_of(caller)
        if not user.is_admin and not all(user.may(kind, each) for each in touched):
            raise denied(caller, kind)

    def sealing_key(self, caller: Caller) -> bytes:
        """Return what the names of the sessions of *caller* are sealed with."""
        key = bytes.fromhex(self._file.users.key)
        return hmac.digest(key, caller.user.encode(), "sha256")


def _is_proven(user: User, proof: str) -> bool:
    if proof == _CERTIFICATE:
        return user.certificate
    return proof == user.password or proof in user.tokens


def denied(caller: Caller | None, kind: Kind) -> PermissionDeniedError:
    """Return what *caller* is told who may not do something of this *kind*."""
    name = caller.user if caller else "nobody"
    what = {
        "read": "read that",
        "write": "write that",
        "admin": "do that: it is an admin's",
    }[kind]
    return PermissionDeniedError(f"{name!r} may not {what}")
