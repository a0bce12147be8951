"""
One connection of a Redis client: what arrives, in order, and what goes back.

What arrived together is done together: writes that follow one another enter the
log as one batch, reads share a round.  The next begins when those are answered,
so that a client meets its own commands in their order.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.interfaces import IHandshakeListener, IPushProducer
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from consensus.certificates import user_name
from contrib.kvstore.resp.batches import Batch
from contrib.kvstore.resp.parser import Parser
from contrib.kvstore.resp.replies import Error, encode
from contrib.kvstore.resp.session import Alone

if TYPE_CHECKING:
    from contrib.kvstore.resp.plans import Plan
    from contrib.kvstore.resp.port import Port
    from contrib.kvstore.resp.replies import Reply
    from contrib.kvstore.resp.session import Session

_log = Logger()

# So much may arrive while a client waits for answers; it then waits to send.
_MOST_BACKLOG = 256 * 1024

# Replies are put together up to this.
_CHUNK = 64 * 1024

# How a browser begins that was tricked into talking to us.
_FOREIGN = frozenset({b"POST", b"HOST:"})


@implementer(IPushProducer, IHandshakeListener)
class Connection(Protocol):
    """
    One client.

    Args:
        port: Where it arrived.
        session: What it has said before.
    """

    def __init__(self, port: Port, session: Session) -> None:
        self._port = port
        self.session = session
        self._parser = Parser(port.max_command, port.max_request)
        self._parser.is_trusted = session.is_trusted
        self._pending: deque[list[bytes]] = deque()
        self._backlog = 0
        # What was looked at and has to wait for those before it, and its size.
        self._ahead: tuple[Plan | Alone | Reply, int] | None = None
        # Plans with their results, and replies.
        self._replies: deque[tuple[Plan | None, Any]] = deque()
        self._is_working = False
        self._is_waiting = False
        self._is_blocked = False
        self._is_paused = False
        #: When it was decided to close, if it was.
        self.closing_since: float | None = None

    # --- what Twisted calls -----------------------------------------------------

    def connectionMade(self) -> None:
        """Begin."""
        transport = cast("Any", self.transport)
        if hasattr(transport, "setTcpNoDelay"):
            transport.setTcpNoDelay(True)
            transport.setTcpKeepAlive(True)
        # Twisted says when the client does not take what we send.
        transport.registerProducer(self, streaming=True)
        self._port.opened(self)

    def handshakeCompleted(self) -> None:
        """Find out whose certificate the client has shown, if it is encrypted."""
        transport = cast("Any", self.transport)
        try:
            user = user_name(transport.getPeerCertificate().to_cryptography())
        except ValueError:
            return  # it cannot be read, and is nobody's
        self.session.certify(user)
        self._parser.is_trusted = self.session.is_trusted

    def dataReceived(self, data: bytes) -> None:
        """Take *data*."""
        if self.closing_since is not None:
            return
        self.session.heard_at = self._port.home.clock.seconds()
        self._pending += self._parser.feed(data)
        if self._is_waiting or self._is_blocked:
            self._backlog += len(data)
            self._look_at_backlog()
        else:
            self._work()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Forget everything; what is under way is done without an answer."""
        del reason
        self._forget()
        self._port.closed(self)

    def pauseProducing(self) -> None:
        """Say nothing more: the client does not take it."""
        self._is_blocked = True

    def resumeProducing(self) -> None:
        """Go on."""
        self._is_blocked = False
        if not (self._is_working or self._is_waiting):
            self._work()

    def stopProducing(self) -> None:
        """Say nothing more, for ever."""
        self._is_blocked = True

    def _look_at_backlog(self) -> None:
        """Let the client wait to send while it has much to be answered."""
        should_pause = self._backlog > _MOST_BACKLOG
        if should_pause != self._is_paused:
            self._is_paused = should_pause
            transport = cast("Any", self.transport)
            if should_pause:
                transport.pauseProducing()
            else:
                transport.resumeProducing()

    # --- closing ------------------------------------------------------------------

    def finish(self) -> None:
        """Close, after what was said has been sent."""
        if self.closing_since is None:
            self._forget()
            transport = cast("Any", self.transport)
            transport.unregisterProducer()
            transport.loseConnection()

    def abort(self) -> None:
        """Close, whatever was not sent."""
        cast("Any", self.transport).abortConnection()

    def _forget(self) -> None:
        self.closing_since = self._port.home.clock.seconds()
        self._pending.clear()
        self._replies.clear()
        self._ahead = None

    # --- doing ----------------------------------------------------------------

    def _work(self) -> None:
        """Do what is pending, until there is something to wait for."""
        self._is_working = True
        try:
            self._say()
            while not self._is_blocked and (self._ahead or self._pending):
                self._is_waiting = True
                self._begin()
                if self._is_waiting:
                    return
                self._say()
            if not (self._is_blocked or self._ahead or self._pending):
                self._rest()
        except Exception:  # noqa: BLE001 - a bug of ours is this client's loss only
            _log.failure("a command of a Redis client failed")
            self.finish()
        finally:
            self._is_working = False

    def _rest(self) -> None:
        """See to what is left when nothing is pending."""
        if self.closing_since is not None:
            return
        if self._parser.error:
            self._replies.append((None, Error(f"ERR {self._parser.error}")))
            self._say()
            self.finish()
            return
        self._backlog = 0
        self._look_at_backlog()

    def _begin(self) -> None:
        """Begin what can be done at once."""
        batch = Batch(self._port)
        while self._ahead is not None or self._pending:
            taken, size = self._next()
            if self.closing_since is not None:
                self._is_waiting = False
                return
            if isinstance(taken, Alone):
                if batch.is_empty:
                    self._do_alone(taken)
                    return
                self._ahead = taken, size
                break
            if not batch.add(taken, size):
                self._ahead = taken, size
                break
        if batch.is_empty or not batch.plans:
            self._replies += batch.answers(())
            self._is_waiting = False
            return
        done = batch.run()
        done.addCallback(lambda results: self._replies.extend(batch.answers(results)))
        done.addBoth(self._done)

    def _next(self) -> tuple[Plan | Alone | Reply, int]:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            return ahead
        words = self._pending.popleft()
        if words[0].upper() in _FOREIGN:
            _log.warn(
                "somebody at {address} speaks HTTP to the Redis port",
                address=self.session.address,
            )
            self.finish()
            return "", 0
        self._port.commands += 1
        return self.session.take(words), sum(map(len, words))

    def _do_alone(self, taken: Alone) -> None:
        done = taken.run()
        done.addCallback(lambda reply: self._replies.append((None, reply)))
        done.addCallback(self._noted)
        done.addBoth(self._done)

    def _noted(self, _: object) -> None:
        """Go by what the session has become."""
        self._parser.is_trusted = self.session.is_trusted
        if self.session.is_closing:
            self._say()
            self.finish()

    def _done(self, result: Any) -> None:
        """Go on after what was waited for."""
        self._is_waiting = False
        if self.closing_since is not None:
            self._replies.clear()
        if isinstance(result, Failure):
            _log.failure("a command of a Redis client failed", result)
            self.finish()
        elif not self._is_working:
            self._work()

    def _say(self) -> None:
        """Send replies for as long as the client takes them."""
        replies, protocol = self._replies, self.session.protocol
        while replies and not self._is_blocked:
            chunk: list[bytes] = []
            size = 0
            while replies and size < _CHUNK:
                plan, value = replies.popleft()
                data = encode(value if plan is None else plan.reply(value), protocol)
                chunk.append(data)
                size += len(data)
            cast("Any", self.transport).write(b"".join(chunk))
