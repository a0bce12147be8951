"""Tests of adapters.transport.amp_tls, over connections in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from OpenSSL import SSL
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.logger import capturedLogs, formatEvent
from twisted.protocols import amp
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import TestCase

from adapters.transport.amp import AMPTransport
from adapters.transport.amp_commands import Call
from consensus.certificates import load
from consensus.errors import ConfigError, UnreachableError
from consensus.testing.loopback import LoopbackReactor
from consensus.testing.transport import TransportSuite
from tests.support.amp import World, address_of, call_remote, port_of, warnings
from tests.support.certificates import CLIENT, SERVER, Authority
from tests.support.deferreds import error_of, has_fired, result_of

if TYPE_CHECKING:
    from consensus.core.values import Address, ServerId
    from consensus.interfaces import TLS, Transport

MEMBERS = ("s1", "s2", "s3")


@pytest.fixture(scope="module")
def ours() -> Authority:
    """Return the authority that everybody trusts."""
    return Authority()


@pytest.fixture(scope="module")
def member(ours: Authority, tmp_path_factory: pytest.TempPathFactory) -> TLS:
    """Return a certificate for each of the members."""
    return ours.member(tmp_path_factory.mktemp("member"), *MEMBERS)


@pytest.fixture
def world() -> World:
    """Return an empty network."""
    return World()


def ask(world: World, client: AMPTransport, name: str = "s1") -> Any:
    """Return what *client* is answered by the server *name*, or the error."""
    asked = client.ask(address_of(name), "mirror", b"ab", 5.0)
    world.settle(6.0)
    outcome: list[Any] = []
    asked.addBoth(outcome.append)
    return getattr(outcome[0], "value", outcome[0])


def reason(world: World, client: AMPTransport, name: str = "s1") -> str:
    """Return why *client* cannot reach the server *name*."""
    error = ask(world, client, name)
    assert isinstance(error, UnreachableError)
    return str(error)


class TLSSuiteTests(TransportSuite, TestCase):
    """The conformance suite, over TLS in memory and in virtual time."""

    def setUp(self) -> None:
        self.reactor = LoopbackReactor()
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.tls = Authority().member(Path(directory.name), *MEMBERS)

    def make_transport(self) -> Transport:
        transport = AMPTransport(None, self.reactor, self.reactor)
        transport.secure(self.tls)
        return transport

    def address(self, name: ServerId) -> Address:
        return address_of(name)

    async def settle(self, seconds: float = 0.0) -> None:
        self.reactor.settle(seconds)


class EncryptionTests:
    """What passes, and how."""

    def test_nothing_goes_to_the_socket_as_it_is(
        self, world: World, member: TLS
    ) -> None:
        """No end writes beside TLS, however its transport looks."""
        one, two = world.pair(tls=member)
        for transport in (one, two):
            assert transport._connections
            for connection in transport._connections:
                assert not connection._has_socket
                tunnel: Any = connection.transport
                version = tunnel.getHandle().get_protocol_version_name()
                assert version == "TLSv1.3"

    def test_a_client_needs_no_members_name(
        self, world: World, member: TLS, ours: Authority, tmp_path: Path
    ) -> None:
        """Any certificate of the authority lets it in."""
        world.server("s1", tls=member)
        assert ask(world, world.client(tls=ours.client(tmp_path))) == b"ba"

    def test_a_chain(self, world: World, ours: Authority, tmp_path: Path) -> None:
        """What lies between a certificate and the authority goes after it."""
        between = Authority("Between", ours)
        issued = between.issue("s1", usages=(SERVER, CLIENT))
        tls = ours.write(tmp_path, issued, "s1")
        world.server("s1", tls=tls)
        client = world.client(tls=ours.client(tmp_path))
        assert "not signed by the authority here" in reason(world, client)
        tls.certificate.write_bytes(issued.pem + between.own.pem)
        assert ask(world, client) == b"ba"

    def test_a_stock_client(self, world: World, member: TLS) -> None:
        """Twisted's own AMP over Twisted's own TLS is served."""
        world.server("s1", tls=member)
        found = load(member)
        certificate: Any = found.certificate
        made = stock(
            world, CertificateOptions(privateKey=found.key, certificate=certificate)
        )
        caller = made.wrappedProtocol
        answer = call_remote(caller, Call, version=1, method="mirror", payload=b"ab")
        world.settle(0.1)
        assert result_of(answer) == {"payload": b"ba"}
        made.abortConnection()
        world.settle()

    def test_a_peer_that_has_ended_is_told_of_soon(
        self, world: World, member: TLS
    ) -> None:
        """As without TLS."""
        _, two = world.pair(tls=member)
        world.settle(1.0)
        two.close()
        world.settle(0.02)
        assert "s2" in world.inboxes["s1"].ended

    def test_close_waits_for_nobody_long(self, world: World, member: TLS) -> None:
        """Both ends say goodbye, and are gone."""
        one, two = world.pair(tls=member)
        closing = one.close()
        world.settle(1.5)
        result_of(closing)
        result_of_second = two.close()
        world.settle(1.5)
        result_of(result_of_second)
        assert not one._connections
        assert not two._connections


def stock(world: World, context: Any) -> Any:
    """Return Twisted's own AMP over its own TLS, connected to the server s1."""
    factory: Any = TLSMemoryBIOFactory
    plain = Factory.forProtocol(amp.AMP)
    return connect(world, factory(context, True, plain, world.reactor))  # noqa: FBT003 - Twisted's signature


def connect(world: World, factory: Any, name: str = "s1") -> Any:
    """Return a protocol of *factory* that is connected to the server *name*."""
    endpoint = TCP4ClientEndpoint(world.reactor, "127.0.0.1", port_of(name))
    made = endpoint.connect(factory)
    world.settle()
    return result_of(made)


class RefusalTests:
    """Who is not let in, and what the two ends say of it."""

    @pytest.mark.parametrize(
        ("days", "seen"),
        [
            ((-9.0, -1.0), ("has expired", "which has expired")),
            ((1.0, 9.0), ("is not valid yet", "which is not valid, or not yet")),
        ],
    )
    def test_a_client_out_of_time(  # noqa: PLR0917 - pytest's fixtures
        self,
        world: World,
        member: TLS,
        ours: Authority,
        tmp_path: Path,
        days: tuple[float, float],
        seen: tuple[str, str],
    ) -> None:
        """Its certificate has expired, or is not valid yet; said once."""
        client = world.client(tls=ours.client(tmp_path, days=days))
        world.server("s1", tls=member)
        with warnings() as sentences:
            for _ in range(3):
                assert seen[1] in reason(world, client)
        why = f"its certificate {seen[0]}"
        assert sentences == [f"refused the connection with 127.0.0.1: {why}"]

    def test_a_server_out_of_time(
        self, world: World, member: TLS, ours: Authority, tmp_path: Path
    ) -> None:
        """The client says why, and so does the server, as far as it is told."""
        world.server("s1", tls=ours.member(tmp_path, "s1", days=(-9.0, -1.0)))
        with warnings() as sentences:
            assert "its certificate has expired" in reason(
                world, world.client(tls=member)
            )
        (sentence,) = sentences
        assert "refuses this end's certificate, which has expired" in sentence

    def test_another_authority(self, world: World, member: TLS, tmp_path: Path) -> None:
        """Its name does not matter; each end says whose certificate is at fault."""
        for name in ("Test CA", "Other CA"):
            theirs = Authority(name).client(tmp_path, name)
            client = world.client(tls=replace(theirs, authority=member.authority))
            server = world.server("s1", tls=member)
            with warnings() as sentences:
                why = reason(world, client)
            assert "is not signed by the authority there" in why
            (sentence,) = sentences
            assert "its certificate is not signed by the authority here" in sentence
            server.close()
            world.settle(2.0)

    def test_a_server_of_another_authority(
        self, world: World, member: TLS, tmp_path: Path
    ) -> None:
        """A client trusts nobody else."""
        theirs = Authority("Other CA").member(tmp_path, "s1")
        world.server("s1", tls=replace(theirs, authority=member.authority))
        with warnings() as sentences:
            why = reason(world, world.client(tls=member))
        assert "its certificate is not signed by the authority here" in why
        (sentence,) = sentences
        assert "is not signed by the authority there" in sentence

    def test_no_certificate(self, world: World, member: TLS) -> None:
        """A stranger without any is told apart from the others."""
        world.server("s1", tls=member)
        with warnings() as sentences:
            for _ in range(2):
                assert not stock(world, CertificateOptions()).connected
        why = "it has no certificate"
        assert sentences == [f"refused the connection with 127.0.0.1: {why}"]

    def test_a_client_that_asks_again_at_once(
        self, world: World, member: TLS, tmp_path: Path
    ) -> None:
        """It is told the reason, though no second attempt is made so soon."""
        theirs = Authority("Other CA").client(tmp_path)
        client = world.client(tls=replace(theirs, authority=member.authority))
        world.server("s1", tls=member)
        errors = []
        for _ in range(5):
            asked = client.ask(address_of("s1"), "mirror", b"ab", 5.0)
            world.settle()
            errors.append(str(error_of(asked)))
        assert all("not signed by the authority there" in each for each in errors)
        assert any(each.endswith("that was a moment ago") for each in errors)

    def test_an_old_version(self, world: World, member: TLS) -> None:
        """TLS 1.2 is not spoken."""
        world.server("s1", tls=member)
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)

        class Old(CertificateOptions):
            def getContext(self) -> SSL.Context:
                return context

        with warnings() as sentences:
            assert not stock(world, Old()).connected
        (sentence,) = sentences
        assert sentence.endswith("it does not speak TLS 1.3")

    def test_a_client_that_poses_as_a_server(
        self, world: World, member: TLS, ours: Authority, tmp_path: Path
    ) -> None:
        """A certificate for clients serves nobody, whomever it names."""
        posing = ours.member(tmp_path, "s1", usages=(CLIENT,))
        world.server("s1", tls=posing)
        with warnings() as sentences:
            why = reason(world, world.client(tls=member))
        assert "its certificate may not be used for that end" in why
        (sentence,) = sentences
        assert "see its extendedKeyUsage" in sentence

    def test_a_server_that_poses_as_a_client(
        self, world: World, member: TLS, ours: Authority, tmp_path: Path
    ) -> None:
        """A certificate for servers calls nobody."""
        world.server("s1", tls=member)
        posing = ours.member(tmp_path, "s2", usages=(SERVER,))
        why = reason(world, world.client(tls=posing))
        assert "which may not be used for this end" in why

    def test_the_wrong_name_of_a_dialler(
        self, world: World, member: TLS, ours: Authority, tmp_path: Path
    ) -> None:
        """Who says Hello has the certificate of who it says it is."""
        one = world.server("s1", tls=member)
        two = world.server("s2", tls=ours.member(tmp_path, "s3"))
        with warnings() as sentences:
            two.connect("s1", address_of("s1"))
            world.settle(10.0)
        assert not world.passes(two, "s1")
        assert not one._accepted
        there, here = sentences
        assert there.startswith("refused 's2': the certificate of 127.0.0.1 names 's3'")
        assert here.startswith("cannot talk to server s1 at tcp:127.0.0.1:9101: ")
        assert "names 's3', and not 's2'" in here

    def test_a_client_that_says_hello(
        self, world: World, member: TLS, ours: Authority, tmp_path: Path
    ) -> None:
        """A certificate for clients speaks for no member, though it names one."""
        world.server("s1", tls=member)
        two = world.server("s2", tls=ours.member(tmp_path, "s2", usages=(CLIENT,)))
        with warnings() as sentences:
            two.connect("s1", address_of("s1"))
            world.settle(3.0)
        assert not world.passes(two, "s1")
        assert "names no member, and not 's2'" in sentences[0]

    def test_the_wrong_name_of_a_listener(
        self, world: World, member: TLS, ours: Authority, tmp_path: Path
    ) -> None:
        """Who was dialled has the certificate of whom one wanted to reach."""
        one = world.server("s1", tls=member)
        world.server("s2", tls=ours.member(tmp_path, "s3"))
        with warnings() as sentences:
            one.connect("s2", address_of("s2"))
            world.settle(10.0)
        assert not world.passes(one, "s2")
        (sentence,) = sentences
        assert "the certificate of 127.0.0.1:9102 names 's3', and not 's2'" in sentence

    @pytest.mark.parametrize(
        "said",
        [b"\0\x04_ask\0\x011\0\x08_command\0\x04Ping\0\0", b"GET / HTTP/1.1\r\n"],
    )
    def test_a_stranger_without_tls(
        self, world: World, member: TLS, said: bytes
    ) -> None:
        """What is no TLS is told from TLS that fails; said once."""
        world.server("s1", tls=member)
        with warnings() as sentences:
            for _ in range(2):
                stranger = connect(world, Factory.forProtocol(Protocol))
                stranger.transport.write(said)
                world.settle(0.1)
                assert stranger.transport.disconnected
        (sentence,) = sentences
        assert "what it sends is not TLS; does it have tls: in its conf" in sentence

    def test_a_plain_client_of_a_tls_server(self, world: World, member: TLS) -> None:
        """It is told that nothing was done, and why."""
        world.server("s1", tls=member)
        assert "it speaks TLS, and there is no tls: in the config" in reason(
            world, world.client()
        )

    def test_a_tls_client_of_a_plain_server(self, world: World, member: TLS) -> None:
        """Both ends say what the other lacks."""
        world.server("s1")
        client = world.client(tls=member)
        with warnings() as sentences:
            for _ in range(2):
                why = reason(world, client)
        assert "it hung up during the TLS handshake" in why
        (sentence,) = sentences
        assert sentence == (
            "refused the connection with 127.0.0.1: it speaks TLS, and there is no"
            " tls: in the config of this end"
        )

    def test_servers_with_and_without(self, world: World, member: TLS) -> None:
        """Each of the two says once why it does not reach the other."""
        one, two = world.server("s1", tls=member), world.server("s2")
        with warnings() as sentences:
            one.connect("s2", address_of("s2"))
            two.connect("s1", address_of("s1"))
            world.settle(20.0)
        assert not world.passes(one, "s2")
        assert not world.passes(two, "s1")
        said = "\n".join(sentences)
        assert "cannot talk to server s2 at tcp:127.0.0.1:9102" in said
        assert "it hung up during the TLS handshake" in said
        assert "it speaks TLS, and there is no tls:" in said
        assert len(sentences) == len(set(sentences)) <= 5


class BoundTests:
    """What strangers can do before they have proved who they are."""

    def test_a_handshake_that_does_not_end(self, world: World, member: TLS) -> None:
        """It is cut off after hello_timeout, though bytes trickle in."""
        server = world.server("s1", tls=member, hello_timeout=3.0)
        stranger = connect(world, Factory.forProtocol(Protocol))
        for byte in b"\x16\x03\x01\x02\x00\x01\x00":
            stranger.transport.write(bytes([byte]))
            world.settle(1.0)
        assert not server._connections

    def test_a_listener_that_is_silent(self, world: World, member: TLS) -> None:
        """Who connects to it gives up."""
        world.reactor.listenTCP(port_of("s1"), Factory.forProtocol(Protocol))
        asked = world.client(tls=member).ask(address_of("s1"), "mirror", b"ab", 3.0)
        world.settle(1.9)
        assert not has_fired(asked)
        world.settle(0.2)
        error = error_of(asked)
        assert isinstance(error, UnreachableError)
        assert "the TLS handshake did not end in time" in str(error)

    def test_a_listener_that_is_slow_and_then_silent(
        self, world: World, member: TLS
    ) -> None:
        """All of it together takes no longer than a connection without TLS may."""
        world.reactor.listenTCP(port_of("s1"), Factory.forProtocol(Protocol))
        world.reactor.silence(port_of("s1"))
        asked = world.client(tls=member).ask(address_of("s1"), "mirror", b"ab", 3.0)
        world.settle(1.5)
        world.reactor.restore(port_of("s1"))
        world.settle(0.4)
        assert not has_fired(asked)
        world.settle(0.2)
        assert "the TLS handshake did not end in time" in str(error_of(asked))

    def test_a_handshake_without_end(self, world: World, member: TLS) -> None:
        """Its bytes are not gathered."""
        server = world.server("s1", tls=member)
        stranger = connect(world, Factory.forProtocol(Protocol))
        # A handshake of 16 MB, in the largest pieces that there may be.
        hello = b"\x01\xff\xff\xff\x03\x03" + bytes(16_000)
        sent = 0
        for piece in [hello] + [bytes(16_000)] * 100:
            if not server._connections:
                break
            stranger.transport.write(b"\x16\x03\x01" + len(piece).to_bytes(2) + piece)
            sent += len(piece)
            world.settle()
        assert not server._connections
        assert sent < 300_000

    def test_no_room(self, world: World, member: TLS) -> None:
        """One connection too many is closed at once."""
        world.server("s1", tls=member, max_connections=1)
        assert ask(world, world.client(tls=member)) == b"ba"
        stranger = connect(world, Factory.forProtocol(Protocol))
        world.settle()
        assert stranger.transport is not None
        assert "no room for another" in reason(world, world.client(tls=member))


class ReloadTests:
    """Certificates are renewed without a restart."""

    def test_new_files(
        self, world: World, member: TLS, ours: Authority, tmp_path: Path
    ) -> None:
        """New connections use them; the old ones stay."""
        tls = ours.member(tmp_path, "s1", days=(-9.0, -1.0))
        world.server("s1", tls=tls)
        client = world.client(tls=member)
        assert "has expired" in reason(world, client)
        ours.member(tmp_path, "s1")
        assert ask(world, client) == b"ba"

    def test_a_half_of_new_files(
        self, world: World, member: TLS, ours: Authority, tmp_path: Path
    ) -> None:
        """A certificate whose key is not there yet is not used, and that is said."""
        tls = ours.member(tmp_path, "s1")
        world.server("s1", tls=tls)
        renewed = ours.issue("s1", usages=(SERVER, CLIENT))
        tls.certificate.write_bytes(renewed.pem)
        with warnings() as sentences:
            for _ in range(2):
                assert ask(world, world.client(tls=member)) == b"ba"
        (sentence,) = sentences
        assert sentence.startswith("the files of tls have changed and cannot be used")
        assert "tls.E004" in sentence
        tls.key.write_bytes(renewed.key_pem())
        with capturedLogs() as events:
            assert ask(world, world.client(tls=member)) == b"ba"
        assert "new connections use them" in "".join(map(str, map(formatEvent, events)))

    def test_what_is_mended_is_said_again(
        self, world: World, member: TLS, ours: Authority, tmp_path: Path
    ) -> None:
        """Who was let in and comes with a bad certificate later is news."""
        world.server("s1", tls=member)
        tls = ours.member(tmp_path, "s2")
        two = world.server("s2", tls=tls)
        two.connect("s1", address_of("s1"))
        said = []
        for days in ((-9.0, -1.0), (-1.0, 90.0), (-9.0, -1.0)):
            ours.member(tmp_path, "s2", days=days)
            with warnings() as sentences:
                for connection in list(two._connections):
                    connection.drop()
                world.settle(5.0)
            said.append(sum("its certificate has expired" in s for s in sentences))
        assert said == [1, 0, 1]

    def test_files_that_are_gone(
        self, world: World, member: TLS, ours: Authority, tmp_path: Path
    ) -> None:
        """What was read before stays in use."""
        tls = ours.member(tmp_path, "s1")
        world.server("s1", tls=tls)
        tls.key.unlink()
        with warnings() as sentences:
            assert ask(world, world.client(tls=member)) == b"ba"
        assert "tls.E002" in sentences[0]

    def test_files_that_cannot_be_used(self, member: TLS, world: World) -> None:
        """At the start they are refused."""
        with pytest.raises(ConfigError, match=r"tls\.E002"):
            world.client(tls=replace(member, key=Path("/nowhere")))
