"""The Redis port's life, and what the config may say of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactor, StringTransport

from consensus import checks, config
from consensus.errors import ConfigError, UnreachableError
from contrib.kvstore.disk import KVStoreOnDisk, KVStoreOnDiskOptions
from contrib.kvstore.machine import KVMachine, KVStore, KVStoreOptions
from contrib.kvstore.resp.options import check
from contrib.kvstore.resp.port import Port
from tests.support.redis import Ports, from_line

if TYPE_CHECKING:
    from pathlib import Path

    from consensus.errors import Finding

MEMBERS = {name: f"tcp:127.0.0.1:{9101 + place}" for place, name in enumerate("abc")}


class Listening(MemoryReactor):
    """A reactor that listens to nobody; see :attr:`error`."""

    error: Exception | None = None

    def listenTCP(self, *args: Any, **kwargs: Any) -> Any:
        """Note it, or fail."""
        if self.error is not None:
            raise self.error
        return super().listenTCP(*args, **kwargs)  # type: ignore[no-untyped-call]


def _port(address: str = "tcp:127.0.0.1:6379", **options: Any) -> tuple[Ports, Port]:
    ports = Ports(**options)
    home: Any = ports.ports["s1"].home
    home.reactor = Listening()  # type: ignore[no-untyped-call]
    return ports, Port(home, ports.options, address, lambda: ports.date)


def _connect(port: Port) -> tuple[Any, StringTransport]:
    factory = port.home.reactor.tcpServers[0][1]
    protocol = factory.buildProtocol(None)
    transport = StringTransport()
    protocol.makeConnection(transport)
    return protocol, transport


class LifeTests:
    """A port listens as long as its server runs."""

    def test_it_listens_and_answers(self) -> None:
        """Where it was told to."""
        ports, port = _port()
        ports.servers.result(port.startService())
        number, _, _, interface = port.home.reactor.tcpServers[0]
        assert (number, interface) == (6379, "127.0.0.1")
        protocol, transport = _connect(port)
        protocol.dataReceived(b"PING\r\n")
        assert transport.value() == b"+PONG\r\n"

    def test_it_stops_with_what_it_has_said(self) -> None:
        """Each connection is closed; one that takes nothing is cut off."""
        ports, port = _port()
        ports.servers.result(port.startService())
        protocol, transport = _connect(port)
        stuck, its_transport = _connect(port)
        stopping = port.stopService()
        assert transport.disconnecting
        protocol.connectionLost(None)
        ports.servers.run(0.5)
        assert not its_transport.disconnected
        its_transport.abortConnection = lambda: stuck.connectionLost(None)  # type: ignore[method-assign]
        ports.servers.result(stopping)
        assert not port.running
        assert port.sessions() == []

    def test_it_stops_though_it_never_listened(self) -> None:
        """A server that failed early takes it along."""
        ports, port = _port()
        ports.servers.result(port.stopService())

    @pytest.mark.parametrize(
        "address", ["tcp:127.0.0.1:6379", "tcp:no such host:1", "udp:1"]
    )
    def test_where_it_cannot_listen(self, address: str) -> None:
        """The server does not start."""
        ports, port = _port(address, resp_insecure=True)
        port.home.reactor.error = CannotListenError("127.0.0.1", 6379, "in use")
        error = ports.servers.failing(port.startService(), UnreachableError)
        assert str(error).startswith(f"cannot listen for Redis' clients on {address!r}")

    def test_it_is_not_open_to_others_by_accident(self) -> None:
        """Even where nobody has looked at the config."""
        ports, port = _port("tcp:0.0.0.0:6379")
        error = ports.servers.failing(port.startService(), UnreachableError)
        assert "write resp_tls: true, or resp_insecure: true" in str(error)
        assert port.home.reactor.tcpServers == []

    def test_clients_are_counted_and_bounded(self) -> None:
        """One too many is told so."""
        ports, port = _port(resp_max_connections=2)
        ports.servers.result(port.startService())
        first, _ = _connect(port)
        _connect(port)
        for _ in range(2):
            _, transport = _connect(port)
            assert transport.value() == b"-ERR max number of clients reached\r\n"
            assert transport.disconnecting
        assert (port.accepted, port.rejected) == (4, 2)
        first.connectionLost(None)
        _, transport = _connect(port)
        assert transport.value() == b""

    def test_who_says_nothing_is_let_go(self) -> None:
        """If the config says so."""
        ports, port = _port(resp_idle_timeout=5.0)
        ports.servers.result(port.startService())
        talking, its_transport = _connect(port)
        _, transport = _connect(port)
        for _ in range(7):
            talking.dataReceived(from_line("PING"))
            ports.servers.run(1)
        assert transport.disconnecting
        assert not its_transport.disconnecting

    def test_who_does_not_take_the_last_words_is_cut_off(self) -> None:
        """A connection is not held for ever."""
        ports, port = _port()
        ports.servers.result(port.startService())
        protocol, transport = _connect(port)
        protocol.dataReceived(b"*x\r\n")
        ports.servers.run(3)
        assert transport.disconnected


class MachineTests:
    """The key-value store has a port if the config says where."""

    def test_a_port_for_each_member(self) -> None:
        """Or none."""
        home = Ports().ports["s1"].home
        one: KVMachine = KVStoreOnDisk(KVStoreOnDiskOptions(resp="tcp:127.0.0.1:1"))
        each = KVStore(KVStoreOptions(resp={"s1": "tcp:127.0.0.1:2", "s2": "x"}))
        made: list[Any] = [machine.companion(home) for machine in (one, each)]
        assert [port.address for port in made] == ["tcp:127.0.0.1:1", "tcp:127.0.0.1:2"]
        assert KVStore().companion(home) is None
        other = KVStore(KVStoreOptions(resp={"s2": "tcp:127.0.0.1:2"}))
        assert other.companion(home) is None


def _found(serve: tuple[str, ...] = ("a",), **options: Any) -> list[Finding]:
    return list(check(KVStoreOptions(**options), MEMBERS, serve))


class CheckTests:
    """What is wrong is found before a start."""

    @pytest.mark.parametrize(
        ("options", "identifier", "path"),
        [
            ({"resp": "6379"}, "kvstore.E001", ""),
            ({"resp": "tcp:127.0.0.1:0"}, "kvstore.E001", ""),
            ({"resp": "tcp:192.0.2.1:6379", "resp_insecure": True}, "kvstore.E002", ""),
            ({"resp": {"a": "unix:a", "d": "unix:d"}}, "kvstore.E003", ".d"),
            ({"resp": {"a": "unix:a", "b": "unix:a"}}, "kvstore.E003", ".b"),
            ({"resp": "tcp:127.0.0.1:9102"}, "kvstore.E003", ""),
            ({"resp": "tcp:0.0.0.0:26379"}, "kvstore.E004", ""),
            ({"resp": {"b": "tcp:h.example:1", "a": "unix:a"}}, "kvstore.E004", ".b"),
            ({"resp_max_connections": 0}, "kvstore.E005", "_max_connections"),
            ({"resp_idle_timeout": -1.0}, "kvstore.E005", "_idle_timeout"),
            ({"resp_idle_timeout": float("nan")}, "kvstore.E005", "_idle_timeout"),
            ({"resp": {"b": "unix:b"}}, "kvstore.W001", ""),
        ],
    )
    def test_findings(self, options: Any, identifier: str, path: str) -> None:
        (finding,) = _found(**options)
        assert finding.id == identifier
        assert finding.path == f"state_machine.options.resp{path}"

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"resp": "unix:redis.sock"},
            {"resp": {"a": "unix:a", "b": "unix:b", "c": "unix:c"}},
            {"resp": {"a": "unix:a", "b": "tcp:localhost:1", "c": r"tcp:\:\:1:1"}},
            {"resp": {"a": "unix:a", "b": "tcp:h:1"}, "resp_insecure": True},
        ],
    )
    def test_what_is_right(self, options: Any) -> None:
        """Only this process' own addresses are tried."""
        assert _found(**options) == []

    def test_several_members_in_a_process(self) -> None:
        """They cannot share an address."""
        assert [each.id for each in _found(("a", "b"), resp="unix:a")] == [
            "kvstore.E003"
        ]

    def test_every_start_asks(self, tmp_path: Path) -> None:
        """With the line of the file."""
        path = tmp_path / "config.yaml"
        path.write_text(
            "members: {s1: tcp:127.0.0.1:9101}\nserve: [s1]\nstate_machine:\n"
            "  engine: kvstore\n  options:\n    resp: tcp:0.0.0.0:26379\n"
            "storage: memory\ntransport: memory\n"
        )
        findings = {each.id: each.line for each in checks.run(config.load(path))}
        assert findings["kvstore.E004"] == 6

    def test_wrong_types_are_refused(self, tmp_path: Path) -> None:
        """As everywhere in a config."""
        path = tmp_path / "config.yaml"
        path.write_text(
            "members: {s1: tcp:127.0.0.1:9101}\nserve: [s1]\nstate_machine:\n"
            "  engine: kvstore\n  options: {resp: 6379, resp_reads: dirty}\n"
        )
        with pytest.raises(ConfigError) as caught:
            config.load(path)
        assert len(caught.value.findings) == 2
