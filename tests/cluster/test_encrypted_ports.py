"""TLS on every port of real processes: who is let in, and as whom."""

from __future__ import annotations

import json
import socket
import ssl
import time
from base64 import b64encode
from http.client import HTTPSConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
import yaml

from consensus.access.passwords import hash_password
from consensus.access.users import Role, User, Users, nobody, save
from tests.support.certificates import Authority
from tests.support.processes import PATIENCE, MemberProcesses, free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from consensus.tls import TLS

PASSWORD, WRONG = "open sesame", "open barley"

USERS = {
    "root": User((Role("admin"),), hash_password(PASSWORD)),
    "desk": User((Role("read"),), certificate=True),
    "shop": User((Role("read", "shop/"), Role("write", "shop/")), certificate=True),
    "chief": User((Role("admin"),), certificate=True),
}


def keys(tls: TLS) -> dict[str, str]:
    """Return *tls* as it stands in a config."""
    return {
        "certificate": str(tls.certificate),
        "key": str(tls.key),
        "authority": str(tls.authority),
    }


class Cluster(MemberProcesses):
    """Three members, each of whose three ports is encrypted."""

    def __init__(self, directory: Path, *, has_users: bool) -> None:
        self.authority = Authority()
        self.stranger = Authority("Another CA")
        self.own = self.authority.member(directory, "localhost", "s1", "s2", "s3")
        self.https, self.resp = free_ports(2)
        access: dict[str, Any] = {}
        if has_users:
            access["access"] = {"users": str(directory / "users")}
        save(directory / "users", Users(nobody().key, USERS))
        super().__init__(
            directory,
            tls=keys(self.own),
            http={"s1": f"tls:0.0.0.0:{self.https}"},
            state_machine={
                "engine": "kvstore",
                "options": {
                    "resp": {"s1": f"tcp:127.0.0.1:{self.resp}"},
                    "resp_tls": True,
                },
            },
            **access,
        )

    def client(self, name: str, **rest: Any) -> TLS:
        """Return the files of a client with a certificate for *name*."""
        return self.authority.client(self.directory, name, subject=name, **rest)

    def context(self, tls: TLS | None = None) -> ssl.SSLContext:
        """Return what Python encrypts with; with the certificate of *tls*, if any."""
        context = ssl.create_default_context(cafile=self.own.authority)
        if tls is not None:
            context.load_cert_chain(tls.certificate, tls.key)
        return context

    def ask(
        self, path: str, tls: TLS | None = None, *, password: str = ""
    ) -> tuple[int, Any]:
        """Return the status and the answer of *path*; root has the password."""
        words = b64encode(f"root:{password}".encode()).decode()
        login = {"Authorization": f"Basic {words}"} if password else {}
        return self._exchange("GET", path, tls, "", login)

    def post(self, path: str, tls: TLS) -> int:
        """Ask for something to be done; return the status."""
        kind = {"Content-Type": "application/json"}
        return self._exchange("POST", path, tls, "{}", kind)[0]

    def _exchange(
        self, method: str, path: str, tls: TLS | None, body: str, headers: Any
    ) -> tuple[int, Any]:
        made = HTTPSConnection(
            "localhost", self.https, timeout=PATIENCE, context=self.context(tls)
        )
        try:
            made.request(method, path, body or None, headers)
            answer = made.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            made.close()

    def redis(self, tls: TLS | None) -> Any:
        """Return a Redis client."""
        return redis.Redis(
            "localhost",
            self.resp,
            ssl=True,
            ssl_ca_certs=str(self.own.authority),
            ssl_certfile=str(tls.certificate) if tls else None,
            ssl_keyfile=str(tls.key) if tls else None,
            socket_timeout=PATIENCE,
        )

    def raft_of(self, tls: TLS, *arguments: str) -> Any:
        """Run the ``raft`` command with the certificate of *tls*."""
        path = self.directory / "client.yaml"
        path.write_text(yaml.safe_dump(self.document | {"tls": keys(tls)}))
        return self.raft("--config", str(path), "--timeout", "20", *arguments)

    def until_ready(self) -> None:
        """Wait until somebody leads and s1 knows."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                status, answer = self.ask("/readyz")
            except OSError as error:
                status, answer = 0, error
            if status == 200:
                return
            assert time.monotonic() < deadline, (answer, self.log("s1"))
            time.sleep(0.05)

    def until_logged(self, words: str) -> None:
        """Wait until the log of s1 says *words*."""
        deadline = time.monotonic() + PATIENCE
        while words not in self.log("s1"):
            assert time.monotonic() < deadline, self.log("s1")
            time.sleep(0.05)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return a cluster with users."""
    with Cluster(tmp_path_factory.mktemp("guarded"), has_users=True) as cluster:
        cluster.until_ready()
        yield cluster


def test_https(guarded: Cluster) -> None:
    """A probe needs nothing; everything else a user, by password or certificate."""
    desk, chief = guarded.client("desk"), guarded.client("chief")
    assert guarded.ask("/livez")[0] == 200
    assert guarded.ask("/api/v1/status")[0] == 401
    assert guarded.ask("/api/v1/status", guarded.client("nobody"))[0] == 401
    assert guarded.ask("/api/v1/status", password=PASSWORD)[0] == 200
    assert guarded.ask("/api/v1/status", password=WRONG)[0] == 401
    # What is said counts before what is shown.
    assert guarded.ask("/api/v1/status", desk, password=WRONG)[0] == 401
    assert guarded.ask("/api/v1/status", desk)[1]["server"] == "s1"
    assert guarded.post("/api/v1/snapshot", desk) == 403
    assert guarded.post("/api/v1/snapshot", chief) == 200
    # A member's certificate is for talking to members.
    assert guarded.ask("/api/v1/status", guarded.own)[0] == 401


def test_https_refuses(guarded: Cluster) -> None:
    """A certificate that is not good is worse than none; the log says why."""
    stranger = guarded.stranger.client(guarded.directory, "stranger")
    late = guarded.client("late", days=(-20.0, -10.0))
    for tls in (stranger, late):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            guarded.ask("/livez", tls)
    with socket.create_connection(("localhost", guarded.https), PATIENCE) as plain:
        plain.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"HTTP/1.1 200" not in plain.recv(1000)
    host = "refused an HTTPS connection with 127.0.0.1: "
    guarded.until_logged(host + "its certificate is not signed by the authority here")
    guarded.until_logged(host + "its certificate has expired")
    guarded.until_logged(host + "what it sends is not TLS")
    # And whoever asks sees whether it is the right server.
    context = ssl.create_default_context(cafile=stranger.authority)
    made = HTTPSConnection("localhost", guarded.https, context=context)
    with pytest.raises(ssl.SSLCertVerificationError):
        made.request("GET", "/livez")


def test_redis(guarded: Cluster) -> None:
    """A Redis client whose certificate is a user's may do what that user may."""
    with guarded.redis(guarded.client("shop")) as shop:
        assert shop.set("shop/colour", "blue")
        assert shop.get("shop/colour") == b"blue"
        with pytest.raises(redis.RedisError, match="has no permissions"):
            shop.set("colour", "red")
    with guarded.redis(guarded.client("desk")) as desk:
        assert desk.get("shop/colour") == b"blue"
        with pytest.raises(redis.RedisError, match="has no permissions"):
            desk.set("shop/colour", "red")


def test_redis_refuses(guarded: Cluster) -> None:
    """Nobody else comes in; the log says why."""
    stranger = guarded.stranger.client(guarded.directory, "stranger")
    late = guarded.client("late", days=(-20.0, -10.0))
    for tls in (stranger, late, None):
        with guarded.redis(tls) as client, pytest.raises(redis.RedisError):
            client.get("a")
    with (
        redis.Redis(port=guarded.resp, socket_timeout=PATIENCE) as plain,
        pytest.raises(redis.RedisError),
    ):
        plain.get("a")
    host = "refused a connection of a Redis client with 127.0.0.1: "
    guarded.until_logged(host + "its certificate is not signed by the authority here")
    guarded.until_logged(host + "its certificate has expired")
    guarded.until_logged(host + "it has no certificate")
    guarded.until_logged(host + "what it sends is not TLS")


def test_commands(guarded: Cluster) -> None:
    """A certificate stands for its user over AMP, too: prefix by prefix."""
    shop, desk, chief = map(guarded.client, ("shop", "desk", "chief"))
    assert guarded.raft_of(shop, "kv", "set", "shop/size", "9").returncode == 0
    assert guarded.raft_of(desk, "kv", "get", "shop/size").stdout == "9\n"
    refused = guarded.raft_of(shop, "kv", "set", "size", "9")
    assert refused.returncode == 1
    assert "may not write that" in refused.stderr
    refused = guarded.raft_of(desk, "kv", "set", "shop/size", "9")
    assert "may not write that" in refused.stderr
    refused = guarded.raft_of(desk, "snapshot")
    assert "only an admin may do that" in " ".join(refused.stdout.split())
    assert guarded.raft_of(chief, "snapshot").returncode == 0
    # A certificate of the right authority alone is nobody's.
    refused = guarded.raft_of(guarded.client("nobody"), "kv", "get", "shop/size")
    assert "log in first" in refused.stderr


def test_without_users(tmp_path: Path) -> None:
    """Where there are no users, HTTPS wants a certificate of the authority."""
    with Cluster(tmp_path, has_users=False) as cluster:
        cluster.until_ready()
        status, answer = cluster.ask("/api/v1/status")
        assert status == 401
        assert "show a certificate" in answer["error"]["message"]
        assert cluster.ask("/api/v1/status", cluster.client("anybody"))[0] == 200
        # Files that are changed count for the next connection.
        later = Authority("Later CA").member(tmp_path / "later", "localhost", "s1")
        for name, old in keys(cluster.own).items():
            Path(old).write_bytes(Path(keys(later)[name]).read_bytes())
        assert cluster.ask("/livez")[0] == 200
        cluster.until_logged("the files of tls have changed; new connections use them")
