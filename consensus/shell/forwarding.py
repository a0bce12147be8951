"""Calls that a server passes on to the leader, and answers as if it were that one."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from consensus.errors import OverloadedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.defer import Deferred

    from consensus.config import Config
    from consensus.core.values import Address
    from consensus.interfaces import Transport

_T = TypeVar("_T")


class Forwarding:
    """
    The calls that this server has passed on and that are not answered yet.

    A call goes one server further and no more, however the two of them
    disagree about who leads.  Whatever the other one raises is raised here.

    Args:
        transport: What the calls go through.
        config: Its limits bound them, as they do this server's own.
    """

    def __init__(self, transport: Transport, config: Config) -> None:
        self._transport = transport
        self._count = 0
        self._bytes = 0
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        """Let the limits of *config* bound the calls from now on."""
        self._limits = config.limits
        self._timeout = config.timing.request_timeout

    def ask(
        self, leader: Address, method: str, payload: bytes, wait: float | None = None
    ) -> Deferred[bytes]:
        """
        Call *method* of the server at *leader*; it may take *wait* seconds more.

        Raises:
            OverloadedError: Too many calls are under way, or too large ones.

        The Deferred fails as :meth:`.Transport.ask` says.
        """
        limits, size = self._limits, len(payload)
        if (
            self._count >= limits.max_pending_requests
            or self._bytes + size > limits.max_pending_bytes
        ):
            raise OverloadedError("too many calls are being passed on; back off")
        timeout = self._timeout + (wait or 0.0)
        asked = self._transport.ask(leader, method, payload, timeout)
        self._count += 1
        self._bytes += size
        return asked.addBoth(self._done(size))

    def _done(self, size: int) -> Callable[[_T], _T]:
        def done(outcome: _T) -> _T:
            self._count -= 1
            self._bytes -= size
            return outcome

        return done
