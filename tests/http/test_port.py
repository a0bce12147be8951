"""The port as a service: where it listens, and until when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import AccumulatingProtocol

from consensus import checks
from consensus.config import from_mapping, load
from consensus.errors import ConfigError, UnknownServerError, UnreachableError
from consensus.http.port import HTTPPort
from consensus.local import start_peer, stop_peer
from consensus.testing.loopback import LoopbackReactor
from tests.support.deferreds import error_of, result_of
from tests.support.servers import Register, Servers

if TYPE_CHECKING:
    from pathlib import Path


def ask(reactor: LoopbackReactor, port: int, path: str) -> bytes:
    """Return what is answered on *port*."""
    factory: Any = Factory.forProtocol(AccumulatingProtocol)
    factory.protocolConnectionMade = None
    made = TCP4ClientEndpoint(reactor, "127.0.0.1", port).connect(factory)
    reactor.settle()
    client: Any = result_of(made)
    client.transport.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    reactor.settle(0.2)
    data: bytes = client.data
    client.transport.loseConnection()
    reactor.settle()
    return data


class ServiceTests:
    """A port by itself."""

    def test_life(self) -> None:
        """It answers, and then nobody does."""
        servers, reactor = Servers(("s1",)), LoopbackReactor()
        server = servers.leader()
        port = HTTPPort(server, "tcp:127.0.0.1:9201", reactor, reactor)
        result_of(port.startService())
        assert ask(reactor, 9201, "/livez").startswith(b"HTTP/1.1 200")
        servers.stop("s1")
        assert ask(reactor, 9201, "/livez").startswith(b"HTTP/1.1 503")
        result_of(port.stopService())
        assert not reactor._listening
        assert not reactor.getDelayedCalls()

    def test_taken(self) -> None:
        """A port that another has is an error that says which."""
        servers, reactor = Servers(("s1",)), LoopbackReactor()
        server = servers.leader()
        result_of(
            HTTPPort(server, "tcp:127.0.0.1:9201", reactor, reactor).startService()
        )
        second = HTTPPort(server, "tcp:127.0.0.1:9201", reactor, reactor)
        error = error_of(second.startService())
        assert isinstance(error, UnreachableError)
        assert "cannot listen for HTTP on 'tcp:127.0.0.1:9201'" in str(error)


class EmbeddedTests:
    """A port of a server in a program."""

    def test_start_and_stop(self) -> None:
        """It is there as long as the server is."""
        reactor = LoopbackReactor()
        started = start_peer(
            Register,
            name="http-1",
            config={"members": {"http-1": "http-1"}, "http": 9201},
            reactor=reactor,
            clock=reactor,
        )
        reactor.settle(10)  # in steps longer than a tick, of which some get lost
        result_of(started)
        assert ask(reactor, 9201, "/readyz").startswith(b"HTTP/1.1 200")
        stopped = stop_peer("http-1")
        reactor.settle(2)
        result_of(stopped)
        assert not reactor._listening

    def test_taken(self) -> None:
        """A server whose port is taken does not start, and leaves nothing behind."""
        reactor = LoopbackReactor()
        reactor.listenTCP(9201, Factory.forProtocol(Protocol))
        started = start_peer(
            Register,
            name="http-2",
            config={"http": 9201},
            reactor=reactor,
            clock=reactor,
        )
        reactor.settle(2)
        assert isinstance(error_of(started), UnreachableError)
        assert isinstance(error_of(stop_peer("http-2")), UnknownServerError)


class ConfigTests:
    """Where the config may say that it is."""

    @pytest.mark.parametrize(
        ("said", "where"),
        [
            ("9201", "tcp:127.0.0.1:9201"),
            ("tcp:127.0.0.1:9201", "tcp:127.0.0.1:9201"),
            ("'unix:/run/raft.http'", "unix:/run/raft.http"),
            ("{s1: 9201, s2: 9202}", "tcp:127.0.0.1:9201"),
            ("{s2: 9202}", ""),
            ("false", ""),
        ],
    )
    def test_right(self, tmp_path: Path, said: str, where: str) -> None:
        """A port, an address, or one for each."""
        assert load(written(tmp_path, said)).http_address_of("s1") == where

    @pytest.mark.parametrize(
        ("said", "finding"),
        [
            ("true", "config.E006"),
            ("[9201]", "config.E006"),
            ("''", "config.E006"),
            ("{s1: {}}", "config.E006"),
            ("{s9: 9201}", "config.E010"),
            ("{s1: 9201, s2: 9201}", "config.E009"),
            ("tcp:0.0.0.0:9201", "config.E014"),
            ("tls:127.0.0.1:9201", "config.E014"),
            ("{s1: 'tcp:example.org:9201'}", "config.E014"),
        ],
    )
    def test_wrong(self, tmp_path: Path, said: str, finding: str) -> None:
        """What makes no sense, or is open to everybody, is refused."""
        with pytest.raises(ConfigError) as caught:
            load(written(tmp_path, said))
        assert [each.id for each in caught.value.findings] == [finding]

    def test_several_servers(self, tmp_path: Path) -> None:
        """One address does for one server only."""
        with pytest.raises(ConfigError) as caught:
            load(written(tmp_path, "9201"), ["s1", "s2"])
        assert [each.id for each in caught.value.findings] == ["config.E009"]

    def test_insecure(self, tmp_path: Path) -> None:
        """Others may reach it where that is said."""
        path = written(tmp_path, "tcp:0.0.0.0:9201")
        path.write_text(path.read_text() + "insecure: true\n")
        assert load(path).http_address_of("s1") == "tcp:0.0.0.0:9201"

    def test_encrypted(self, tmp_path: Path) -> None:
        """Where there is a certificate, others may reach it without another word."""
        path = written(tmp_path, "tls:0.0.0.0:9201")
        files = "{certificate: a, key: b, authority: c}"
        path.write_text(path.read_text() + f"tls: {files}\n")
        assert load(path).http_address_of("s1") == "tls:0.0.0.0:9201"

    @pytest.mark.parametrize(
        ("said", "finding"),
        [
            ("nonsense", "http.E001"),
            ("tcp:127.0.0.1:0", "http.E001"),
            ("s1", "http.E002"),
        ],
    )
    def test_checks(self, said: str, finding: str) -> None:
        """What no server could listen on is found before a start."""
        made = from_mapping(
            {"http": said, "address": "s1"}, name="s1", state_machine=Register
        )
        assert finding in [each.id for each in checks.run(made)]


def written(directory: Path, http: str) -> Path:
    """Return a config that says *http*."""
    path = directory / "config.yaml"
    members = "{s1: 'tcp:127.0.0.1:9101', s2: 'tcp:127.0.0.1:9102'}"
    path.write_text(
        f"members: {members}\nserve: [s1]\nstate_machine: kvstore\nhttp: {http}\n"
    )
    return path
