"""The AMP transport over real sockets of this host."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from twisted.internet import reactor
from twisted.internet.endpoints import clientFromString, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from adapters.transport.amp import AMPTransport
from adapters.transport.amp_bytes import encode_box
from adapters.transport.amp_commands import split_bytes
from consensus.core.values import Identity
from consensus.errors import NotLeaderError, UnreachableError
from consensus.testing.transport_inbox import RecordingInbox
from tests.support.markdown import Page
from tests.support.processes import free_ports
from tests.support.sockets import RealTimeSuite, TCPSuite

if TYPE_CHECKING:
    from consensus.core.values import Address, ServerId

ROOT = Path(__file__).parents[2]


class TCPSuiteTests(TCPSuite, TestCase):
    """The conformance suite over loopback TCP, in real time."""

    async def test_small_boxes_are_not_held_back(self) -> None:
        """Nagle's algorithm is off at both ends."""
        one, two, _, _ = await self.pair()
        for transport in (one, two):
            assert isinstance(transport, AMPTransport)
            assert transport._connections
            for connection in transport._connections:
                assert connection.transport.getTcpNoDelay()

    async def test_a_port_in_use_is_found_and_refused(self) -> None:
        """Before the start by check, and by listen all the same."""
        await self.served("s1", RecordingInbox())
        members = {"s1": self.address("s1"), "s2": self.address("s2")}
        found = [finding.path for finding in AMPTransport.check(None, members, members)]
        assert found == ["members.s1"]
        other = self.make_transport()
        listening = other.listen(
            Identity("c", "s2", "1"), self.address("s1"), RecordingInbox()
        )
        assert isinstance(await self.failure(listening), UnreachableError)

    async def test_the_example_in_the_protocol(self) -> None:
        """The client in docs/reference/protocol.md works as it stands there."""
        inbox = RecordingInbox()
        await self.served("s1", inbox)
        page = Page(ROOT / "docs" / "reference" / "protocol.md")
        (example,) = page.of("python")
        names: dict[str, Any] = {}
        exec(example.text, names)  # noqa: S102 - our own page
        port = int(self.address("s1").rpartition(":")[2])
        answer = deferToThread(names["call"], "127.0.0.1", port, b"mirror", b"ab")
        assert await self.outcome(answer) == b"ba"
        inbox.error = NotLeaderError("s2", "tcp:127.0.0.1:9102")
        failed = deferToThread(names["call"], "127.0.0.1", port, b"fail", b"")
        assert '"leader":"s2"' in str(await self.failure(failed))

    async def test_a_host_by_name(self) -> None:
        """Names are looked up, when listening and when connecting."""
        self.addresses["s1"] = f"tcp:localhost:{free_ports(1)[0]}"
        await self.served("s1", RecordingInbox())
        call = self.make_transport().ask(self.address("s1"), "mirror", b"ab", 5.0)
        assert await self.outcome(call) == b"ba"

    async def test_close_does_not_wait_for_ever(self) -> None:
        """A client that takes no answers is dropped, a second after the others."""
        inbox = RecordingInbox()
        server = await self.served("s1", inbox)
        endpoint = clientFromString(reactor, self.address("s1"))
        client: Any = await self.outcome(connectProtocol(endpoint, Protocol()))
        self.addCleanup(client.transport.abortConnection)
        client.transport.pauseProducing()
        items = [(b"_command", b"Call"), (b"version", b"1"), (b"method", b"mirror")]
        payload = split_bytes(b"payload", bytes(1_000_000))
        client.transport.write(encode_box([(b"_ask", b"1"), *items, *payload]) * 15)
        assert await self.until(lambda: len(inbox.calls) == 15)
        await self.outcome(server.close())

    async def test_many_calls_at_once(self) -> None:
        """A thousand calls of a kilobyte on one connection, all answered."""
        await self.served("s1", RecordingInbox())
        client = self.make_transport()
        payloads = [b"%d" % number * 300 for number in range(1_000)]
        calls = [
            client.ask(self.address("s1"), "mirror", payload, timeout=30.0)
            for payload in payloads
        ]
        for payload, call in zip(payloads, calls, strict=True):
            assert await self.outcome(call) == payload[::-1]


class UNIXSuiteTests(RealTimeSuite, TestCase):
    """The conformance suite over UNIX sockets, in real time."""

    def setUp(self) -> None:
        # Not under trial's own directory: a socket's path may have some hundred
        # bytes only.
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name

    def address(self, name: ServerId) -> Address:
        return f"unix:{self.directory}/{name}"
