"""TLS between real processes, over real sockets."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from twisted.internet import reactor
from twisted.internet.endpoints import clientFromString
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import TestCase

from adapters.transport.amp import AMPTransport
from adapters.transport.amp_bytes import encode_box
from adapters.transport.amp_commands import split_bytes
from consensus import aio, blocking
from consensus.client import Client
from consensus.errors import ConfigError
from consensus.local import start_peer, status, stop_peer
from consensus.testing.transport_inbox import RecordingInbox
from consensus.tls import TLS
from consensus.tls_contexts import Contexts
from contrib.kvstore.client import KVClient
from contrib.kvstore.machine import KVStore
from tests.support.certificates import Authority
from tests.support.processes import PATIENCE, SCRIPTS, MemberProcesses, free_ports
from tests.support.sockets import TCPSuite

if TYPE_CHECKING:
    from collections.abc import Iterator


MEMBERS = ("s1", "s2", "s3")


def keys(tls: TLS) -> dict[str, str]:
    """Return *tls* as it stands in a config."""
    return {
        "certificate": str(tls.certificate),
        "key": str(tls.key),
        "authority": str(tls.authority),
    }


class TLSSuiteTests(TCPSuite, TestCase):
    """The conformance suite over TLS and loopback TCP, in real time."""

    def setUp(self) -> None:
        super().setUp()
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.tls = Authority().member(Path(directory.name), *MEMBERS)

    def make_transport(self) -> AMPTransport:
        transport = super().make_transport()
        transport.secure(self.tls)
        return transport

    async def test_sockets_are_set_up_as_without(self) -> None:
        """Nagle's algorithm is off, silence is noticed; all goes through TLS."""
        one, two, _, _ = await self.pair()
        for transport in (one, two):
            assert isinstance(transport, AMPTransport)
            assert transport._connections
            for connection in transport._connections:
                assert connection.transport.getTcpNoDelay()
                assert connection.transport.getTcpKeepAlive()
                assert not connection._has_socket

    async def test_unix_sockets(self) -> None:
        """They are encrypted likewise."""
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.addresses["s1"] = f"unix:{directory.name}/s1"
        await self.served("s1", RecordingInbox())
        call = self.make_transport().ask(self.address("s1"), "mirror", b"ab", 5.0)
        assert await self.outcome(call) == b"ba"

    async def test_a_client_that_takes_no_answers(self) -> None:
        """What waits for it is bounded; then it is dropped."""
        inbox = RecordingInbox()
        server: Any = await self.served("s1", inbox)
        endpoint = clientFromString(reactor, self.address("s1"))
        factory: Any = TLSMemoryBIOFactory
        plain = Factory.forProtocol(Protocol)
        client: Any = await self.outcome(
            endpoint.connect(factory(Contexts(self.tls), True, plain))  # noqa: FBT003 - Twisted's signature
        )
        self.addCleanup(lambda: client.connected and client.abortConnection())
        assert await self.until(lambda: client._handshakeDone)
        client.transport.pauseProducing()
        items = [(b"_command", b"Call"), (b"version", b"1"), (b"method", b"mirror")]
        payload = split_bytes(b"payload", bytes(1_000_000))
        client.write(encode_box([(b"_ask", b"1"), *items, *payload]) * 40)
        assert await self.until(lambda: not server._connections)
        assert 15 < len(inbox.calls) <= 40


class PeersTests(TestCase):
    """Servers of this process, started by name."""

    async def test_start_peer(self) -> None:
        """The keys of the file do for a program too."""
        with TemporaryDirectory() as directory:
            tls = keys(Authority().member(Path(directory), "s1"))
            address = f"tcp:127.0.0.1:{free_ports(1)[0]}"
            made = {"transport": "amp", "address": address, "tls": tls}
            await start_peer(KVStore, name="s1", config=made)
            try:
                assert (await status("s1")).server == "s1"
            finally:
                await stop_peer("s1")

    async def test_a_transport_that_cannot_encrypt(self) -> None:
        """It does not start at all."""
        tls = dict.fromkeys(("certificate", "key", "authority"), "none.pem")
        with pytest.raises(ConfigError, match=r"tls\.E001"):
            await start_peer(KVStore, name="s1", config={"tls": tls})

    async def test_files_that_are_not_there(self) -> None:
        """Neither a server starts nor a client."""
        nowhere = Path("/nowhere")
        tls = keys(TLS(nowhere, nowhere, nowhere))
        with pytest.raises(ConfigError, match=r"tls\.E002"):
            await start_peer(
                KVStore, name="s1", config={"transport": "amp", "tls": tls}
            )
        with pytest.raises(ConfigError, match=r"tls\.E002"):
            Client.connect(
                ["tcp:127.0.0.1:1"], reactor, tls=TLS(nowhere, nowhere, nowhere)
            )


class Cluster(MemberProcesses):
    """Three members, each with a certificate of its own."""

    def __init__(self, directory: Path, authority: Authority) -> None:
        super().__init__(directory)
        self.authority = authority
        for name in MEMBERS:
            self.certify(name, authority.member(directory, name))
        self.certify_client(authority.client(directory))

    def certify(self, name: str, tls: TLS | None) -> None:
        """Let *name* use the certificate of *tls*."""
        document = self.document | {"tls": keys(tls) if tls else False}
        self.config_of(name).write_text(yaml.safe_dump(document))

    def certify_client(self, tls: TLS | None, **changes: Any) -> None:
        """Let the ``raft`` command use that of *tls*."""
        document = {**self.document, "tls": keys(tls) if tls else False, **changes}
        self.config.write_text(yaml.safe_dump(document))

    def config_of(self, name: str) -> Path:
        """Return the file of *name*: each has its own."""
        return self.directory / f"{name}.yaml"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Return a cluster that does not run yet."""
    made = Cluster(tmp_path, Authority())
    yield made
    made.stop_all()


class ProcessTests:
    """``twistd raft`` and ``raft`` as an operator runs them."""

    def test_a_cluster(self, cluster: Cluster) -> None:
        """It elects, writes, reads, and bears the loss of a member."""
        cluster.start_all()
        assert cluster.raft("kv", "set", "colour", "blue").returncode == 0
        ended = cluster.raft("kv", "get", "colour")
        assert (ended.returncode, ended.stdout) == (0, "blue\n"), ended.stderr
        cluster.kill(cluster.raft("leader").stdout.strip())
        ended = cluster.raft("--timeout", "10", "kv", "set", "colour", "red")
        assert ended.returncode == 0, ended.stderr
        assert cluster.raft("kv", "get", "colour").stdout == "red\n"

    def test_clients_of_other_worlds(self, cluster: Cluster, tmp_path: Path) -> None:
        """They encrypt likewise."""
        cluster.start_all()
        tls = cluster.authority.client(tmp_path / "program")

        async def work() -> None:
            async with aio.connect(
                cluster.addresses, tls=tls, timeout=PATIENCE
            ) as client:
                store = client.use(KVClient)
                await store.set("colour", "blue")
                assert await store.get("colour") == "blue"

        asyncio.run(work())
        with blocking.connect(cluster.addresses, tls=tls, timeout=PATIENCE) as client:
            assert client.use(KVClient).get("colour") == "blue"

    def test_a_member_with_the_certificate_of_another(
        self, cluster: Cluster, tmp_path: Path
    ) -> None:
        """It does not start."""
        cluster.certify("s3", cluster.authority.member(tmp_path, "s4"))
        config = str(cluster.config_of("s3"))
        ended = subprocess.run(
            [SCRIPTS / "twistd", "-n", "raft", "-c", config, "--serve", "s3"],
            cwd=cluster.directory,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert ended.returncode == 1
        (line,) = ended.stderr.splitlines()
        assert "tls.certificate: the certificate names 's4', and not 's3'" in line
        assert "[tls.E005]" in line

    def test_strangers(self, cluster: Cluster, tmp_path: Path) -> None:
        """A client of another authority, and one without TLS, are told so."""
        cluster.start("s1")
        cluster.start("s2")
        assert cluster.raft("kv", "set", "colour", "blue").returncode == 0
        other = Authority("Other CA").client(tmp_path / "other")
        for tls, why, line in (
            (None, "it speaks TLS, and there is no tls:", "what it sends is not TLS"),
            (other, "not signed by the authority here", "by the authority there"),
        ):
            cluster.certify_client(tls, members={"s1": cluster.addresses["s1"]})
            ended = cluster.raft("--timeout", "1", "kv", "get", "colour")
            assert ended.returncode == 2
            assert why in ended.stderr
            assert cluster.log("s1").count(line) == 1

    def test_a_client_without_its_files(self, cluster: Cluster) -> None:
        """The command ends with a line for each mistake, before it connects."""
        cluster.certify_client(TLS(Path("a.pem"), Path("a.key"), Path("ca.pem")))
        ended = cluster.raft("status")
        assert ended.returncode == 1
        assert [line.rpartition(" ")[2] for line in ended.stderr.splitlines()] == [
            "[tls.E002]"
        ] * 3
