"""Redis' own clients, against three processes."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import redis

from tests.contrib.kvstore.resp.test_replies_of_redis import SCRIPTS
from tests.support.processes import PATIENCE, MemberProcesses, free_ports
from tests.support.redis import Replies, from_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Debian's redis-tools has the server too, under another name.
SERVERS = ("redis-server", "redis-check-rdb")


class Cluster(MemberProcesses):
    """Three members that listen to Redis' clients, too."""

    def __init__(self, directory: Path) -> None:
        self.ports = dict(zip(("s1", "s2", "s3"), free_ports(3), strict=True))
        resp = {name: f"tcp:127.0.0.1:{port}" for name, port in self.ports.items()}
        machine = {"engine": "kvstore", "options": {"resp": resp}}
        super().__init__(directory, state_machine=machine)

    def client(self, name: str, **options: Any) -> Any:
        """Return redis-py's client of *name*."""
        return redis.Redis(port=self.ports[name], socket_timeout=PATIENCE, **options)

    def leader(self) -> str:
        """Wait until the servers that run agree on who leads, and return it."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            named: set[str] = set()
            with suppress(redis.RedisError):
                for name in self.running:
                    with self.client(name) as client:
                        named.add(client.info("raft")["raft_leader"])
                if len(named) == 1 and named <= set(self.running):
                    return named.pop()
            time.sleep(0.05)
        raise AssertionError("nobody leads")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return a cluster that runs."""
    with Cluster(tmp_path_factory.mktemp("redis")) as started:
        started.leader()
        yield started


@pytest.fixture(params=["leader", "follower"])
def client(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Return redis-py's client of the leader, and of another server."""
    leader = cluster.leader()
    others = sorted(set(cluster.ports) - {leader})
    name = leader if request.param == "leader" else others[0]
    with cluster.client(name) as connected:
        connected.flushall()
        yield connected


class RedisPyTests:
    """redis-py, as its users know it; ``forward`` is not in the config."""

    def test_values(self, client: Any) -> None:
        """With conditions and times."""
        assert client.set("colour", "blue") is True
        assert client.get("colour") == b"blue"
        assert client.set("colour", "red", nx=True) is None
        assert client.set("colour", "red", xx=True, get=True, ex=100) == b"blue"
        assert 98 <= client.ttl("colour") <= 100
        assert client.mset({"a": 1, "b": 2}) is True
        assert client.mget("a", "b", "c") == [b"1", b"2", None]
        assert client.incrby("a", 10) == 11
        assert client.incrbyfloat("b", 0.5) == 2.5
        assert client.append("colour", "dish") == 7
        assert client.getdel("colour") == b"reddish"
        assert client.exists("a", "b", "colour") == 2
        assert client.type("a") == b"string"
        assert client.dbsize() == 2
        assert client.delete("a", "b") == 2

    def test_keys_end(self, client: Any) -> None:
        """By themselves."""
        client.set("short", 1, px=50)
        deadline = time.monotonic() + PATIENCE
        while client.exists("short"):
            assert time.monotonic() < deadline
        assert client.ttl("short") == -2

    def test_a_pipeline(self, client: Any) -> None:
        """Many commands in one go."""
        with client.pipeline(transaction=False) as pipeline:
            for number in range(500):
                pipeline.set(f"key {number}", number)
                pipeline.incr("count")
            pipeline.get("count")
            assert pipeline.execute()[-1] == b"500"
        assert client.dbsize() == 501
        keys = list(client.scan_iter("key *", count=100))
        assert len(keys) == len(set(keys)) == 500

    def test_a_transaction(self, client: Any) -> None:
        """It is tried again when what it watches has changed."""
        client.set("balance", 100)
        tried = []

        def withdraw(pipeline: Any) -> None:
            tried.append(int(pipeline.get("balance")))
            if len(tried) == 1:
                client.set("balance", 90)
            pipeline.multi()
            pipeline.decrby("balance", 30)

        assert client.transaction(withdraw, "balance") == [60]
        assert tried == [100, 90]

    def test_errors(self, client: Any) -> None:
        """As Redis' own."""
        client.set("word", "x")
        with pytest.raises(redis.ResponseError, match="not an integer"):
            client.incr("word")
        with pytest.raises(redis.ResponseError, match="unknown command 'LPUSH'"):
            client.lpush("list", 1)
        assert client.get("word") == b"x"

    def test_the_third_protocol(self, cluster: Cluster, client: Any) -> None:
        """A client that asks for it."""
        name = client.info("raft")["raft_server"]
        with cluster.client(name, protocol=3, client_name="third") as third:
            third.set("a", 1)
            assert third.get("a") == b"1"
            assert third.config_get("save") == {"save": ""}
            assert third.client_info()["name"] == "third"
            assert third.command()["get"]["arity"] == 2

    def test_one_server_sees_what_another_was_told(self, cluster: Cluster) -> None:
        """At once: reads are linearizable."""
        clients = [cluster.client(name) for name in cluster.ports]
        for number in range(30):
            clients[number % 3].set("turn", number)
            assert [int(each.get("turn")) for each in clients] == [number] * 3
        for each in clients:
            each.close()


class KilledLeaderTests:
    """A client of another server goes on when the leader is killed."""

    def test_nothing_is_lost_and_nothing_is_done_twice(self, tmp_path: Path) -> None:
        """It is told when nobody can know."""
        with Cluster(tmp_path) as cluster:
            leader = cluster.leader()
            other = next(name for name in cluster.ports if name != leader)
            with cluster.client(other, retry=None) as client:
                done, errors = 0, []
                for number in range(300):
                    if number == 100:
                        cluster.kill(leader)
                    try:
                        client.incr("count")
                        done += 1
                    except redis.ResponseError as error:
                        errors.append(str(error).split()[0])
                assert done > 250
                assert set(errors) <= {"OUTCOMEUNKNOWN", "TRYAGAIN"}
                unknown = errors.count("OUTCOMEUNKNOWN")
                assert done <= int(client.get("count")) <= done + unknown
            cluster.start(leader)
            cluster.leader()
            with cluster.client(leader) as client:
                assert done <= int(client.get("count")) <= done + unknown


def _needs(program: str) -> str:
    """Return where Redis' own *program* is, which no package registry has."""
    # .ci/run installs it, so that there nothing is skipped; what it would send is
    # tested everywhere, by redis-py and by the connection's own tests.
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"no {program} here, which only the system (redis-tools) has")
    return found


def _run(*arguments: str) -> str:
    done = subprocess.run(
        arguments, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    return done.stdout


class ToolTests:
    """Debian's redis-tools."""

    @pytest.mark.parametrize("protocol", ["-2", "-3"])
    def test_redis_cli(self, cluster: Cluster, protocol: str) -> None:
        """In both protocols, at each server."""
        cli = _needs("redis-cli")
        for name, port in cluster.ports.items():
            run = [cli, "-p", str(port), protocol]
            assert _run(*run, "flushall") == "OK\n"
            assert _run(*run, "set", "user:1", name) == "OK\n"
            assert _run(*run, "get", "user:1") == f"{name}\n"
            assert _run(*run, "--scan", "--pattern", "user:*") == "user:1\n"
            assert f"raft_server:{name}" in _run(*run, "info", "raft")

    def test_redis_benchmark(self, cluster: Cluster) -> None:
        """It finds nothing to complain of."""
        benchmark = _needs("redis-benchmark")
        leader = str(cluster.ports[cluster.leader()])
        tests = "ping_inline,ping_mbulk,set,get,incr,mset"
        for depth in ("1", "16"):
            shown = _run(
                *(benchmark, "-p", leader, "-t", tests, "--csv"),
                *("-n", "500", "-c", "10", "-P", depth),
            )
            rows = [row for row in shown.splitlines() if row.startswith('"')]
            assert len(rows) >= 6, shown
            assert "rror" not in shown


class RealRedisTests:
    """Where there is a Redis of the release that we answer like."""

    def test_the_table_is_what_redis_says(self, tmp_path: Path) -> None:
        """The one that our own replies are compared with."""
        with _redis(tmp_path) as port:
            for script in SCRIPTS.values():
                with socket.create_connection(("127.0.0.1", port)) as connection:
                    connection.settimeout(PATIENCE)
                    assert _ask(connection, "FLUSHALL") == "+OK"
                    said = [
                        (line, _ask(connection, line), expected)
                        for line, expected in script
                    ]
                assert [
                    (line, heard)
                    for line, heard, expected in said
                    if expected not in {None, heard}
                ] == []


def _ask(connection: socket.socket, line: str) -> str:
    connection.sendall(from_line(line))
    replies = Replies()
    while True:
        for reply in replies.feed(connection.recv(65536)):
            return reply


class _redis:  # noqa: N801 - used as a function
    """
    A Redis of its own; skips where there is none, or one of another release.

    The recorded replies are compared with the port's everywhere.  This asks
    whether they are what Redis says, which only a Redis of the release that they
    were recorded from can tell; another one rightly answers otherwise.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> int:
        program = next(filter(None, map(shutil.which, SERVERS)), None)
        if program is None:
            pytest.skip("no Redis here to ask again what was recorded from one")
        (port,) = free_ports(1)
        self._process = subprocess.Popen(
            ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""],
            executable=program,
            cwd=self._directory,
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with redis.Redis(port=port) as client:
                    version = client.info("server")["redis_version"]
                break
            except redis.ConnectionError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        if not version.startswith("7.0."):
            self.__exit__()
            pytest.skip(f"Redis {version} answers otherwise than 7.0, as recorded")
        return port

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE)
