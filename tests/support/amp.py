"""Servers on AMP whose connections are in memory, and strangers that call them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import capturedLogs, formatEvent
from twisted.protocols import amp

from adapters.transport.amp import AMPTransport
from adapters.transport.amp_connection import AMPOptions
from consensus.core.messages import RequestVote
from consensus.core.values import Identity
from consensus.shell.acquaintances import Acquaintances
from consensus.testing.loopback import LoopbackReactor
from consensus.testing.transport_inbox import RecordingInbox
from tests.support.deferreds import result_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from consensus.errors import ProtocolError
    from consensus.interfaces import TLS


def port_of(name: str) -> int:
    """Return the port of the server *name*."""
    return 9100 + int(name[1:])


def address_of(name: str) -> str:
    """Return the address of the server *name*."""
    return f"tcp:127.0.0.1:{port_of(name)}"


class Door(RecordingInbox):
    """
    An inbox that welcomes peers as a server with a durable storage does.

    Args:
        own: Whose it is.
        directory: Where peers are remembered; by default in memory, for the
            time of the test.
    """

    def __init__(self, own: Identity, directory: Any = None) -> None:
        super().__init__()
        self.acquaintances = Acquaintances(
            own,
            is_member=lambda name: name in {"s1", "s2", "s3"},
            incarnation_of=lambda _: None,
            directory=directory or Notebook(),
        )

    def welcome(self, peer: Identity) -> None:
        """Ask the acquaintances."""
        super().welcome(peer)
        self.acquaintances.welcome(peer)

    def refused(self, peer: str, error: ProtocolError) -> None:
        """Tell the acquaintances."""
        super().refused(peer, error)
        self.acquaintances.refused(peer, error)


class Notebook:
    """Remembers incarnations like a data directory, without a disk."""

    def __init__(self) -> None:
        self.noted: dict[str, str] = {}

    def acquaintances(self) -> dict[str, str]:
        """Return what is noted."""
        return dict(self.noted)

    def remember(self, peer: str, incarnation: str) -> None:
        """Note it."""
        self.noted[peer] = incarnation

    def forget(self, peer: str) -> None:
        """Strike it out."""
        self.noted.pop(peer, None)


class World:
    """A network in virtual time, and the servers on it."""

    def __init__(self) -> None:
        self.reactor = LoopbackReactor()
        self.inboxes: dict[str, Door] = {}

    def client(self, *, tls: TLS | None = None, **options: Any) -> AMPTransport:
        """Return a transport that does not listen."""
        made = AMPTransport(AMPOptions(**options), self.reactor, self.reactor)
        if tls is not None:
            made.secure(tls)
        return made

    def server(
        self,
        name: str,
        *,
        cluster: str = "c",
        incarnation: str = "1",
        cluster_id: str = "",
        **options: Any,
    ) -> AMPTransport:
        """Return a transport that listens as *name*."""
        transport = self.client(**options)
        identity = Identity(cluster, name, incarnation, cluster_id)
        inbox = self.inboxes[name] = Door(identity)
        result_of(transport.listen(identity, address_of(name), inbox))
        return transport

    def stranger(self, name: str) -> amp.AMP:
        """Return Twisted's own AMP, connected to the server *name*."""
        endpoint = TCP4ClientEndpoint(self.reactor, "127.0.0.1", port_of(name))
        factory: Any = Factory.forProtocol(amp.AMP)
        made: Deferred[Any] = endpoint.connect(factory)
        self.settle()
        connected: amp.AMP = result_of(made)
        return connected

    def settle(self, seconds: float = 0.0) -> None:
        """Let *seconds* pass, and all that is under way."""
        self.reactor.settle(seconds)

    def passes(self, sender: AMPTransport, name: str, term: int = 1) -> bool:
        """Send a vote to *name* and say whether it arrives."""
        assert sender.identity is not None
        vote = RequestVote(sender.identity.server, term, 0, 0)
        inbox = self.inboxes[name]
        inbox.messages.clear()
        sender.send(name, vote)
        self.settle()
        return vote in inbox.messages

    def pair(self, **options: Any) -> tuple[AMPTransport, AMPTransport]:
        """Return two servers, s1 and s2, that know each other."""
        servers = self.server("s1", **options), self.server("s2", **options)
        servers[0].connect("s2", address_of("s2"))
        servers[1].connect("s1", address_of("s1"))
        self.settle(0.2)
        assert self.passes(servers[0], "s2")
        assert self.passes(servers[1], "s1")
        return servers


def call_remote(
    stranger: amp.AMP, command: type[amp.Command], **items: Any
) -> Deferred[Any]:
    """
    Return a Deferred with what *command* is answered.

    It keeps an error to itself, which AMP would take for unhandled.
    """
    caller: Any = stranger
    answer: Deferred[Any] = Deferred()
    called = caller.callRemote(command, **items)
    if called is not None:
        called.addBoth(answer.callback)
    return answer


@contextmanager
def warnings() -> Iterator[list[str]]:
    """
    Collect the warnings and errors that adapters log, as sentences.

    Twisted's own may be of an earlier test's Deferred, found just now.
    """
    sentences: list[str] = []
    with capturedLogs() as events:
        yield sentences
    sentences += [
        formatEvent(event)
        for event in events
        if event["log_level"].name in {"warn", "error", "critical"}
        and event["log_namespace"].startswith(("adapters.", "consensus.tls_contexts"))
    ]
