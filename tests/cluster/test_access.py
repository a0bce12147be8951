"""Users, roles and members that know each other, in real processes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import redis

from consensus import aio
from consensus.access.passwords import hash_password, hash_token
from consensus.access.users import Role, User, Users, nobody, save
from consensus.errors import AuthenticationError, PermissionDeniedError
from contrib.kvstore.client import KVClient
from tests.support.processes import PATIENCE, MemberProcesses, free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PASSWORD = "not-to-be-seen-anywhere"  # noqa: S105 - of the users here
VALUE = "value-that-no-log-may-have"
TOKEN = "a-token-that-is-long-enough"  # noqa: S105 - likewise


def write_users(path: Path, **more: User) -> None:
    """Write a file with an admin, and a user with a prefix."""
    users = {
        "root": User((Role("admin"),), hash_password(PASSWORD)),
        "shop": User((Role("write", "shop/"),), hash_password(PASSWORD)),
        "app": User((Role("write"),), tokens=(hash_token(TOKEN),)),
    }
    save(path, Users(nobody().key, users | more))


class Guarded(MemberProcesses):
    """Three members with a secret, users, and a Redis port each."""

    def __init__(self, directory: Path) -> None:
        secret = directory / "secret"
        secret.touch(mode=0o600)
        secret.write_text("0123456789abcdef0123")
        self.users = directory / "users.yaml"
        write_users(self.users)
        names = ("s1", "s2", "s3")
        self.ports = dict(zip(names, free_ports(3), strict=True))
        resp = {name: f"tcp:127.0.0.1:{port}" for name, port in self.ports.items()}
        super().__init__(
            directory,
            access={"users": str(self.users), "secret": str(secret)},
            state_machine={"engine": "kvstore", "options": {"resp": resp}},
            forward=True,
        )

    def be(self, user: str, password: str = PASSWORD) -> None:
        """Let the ``raft`` command be *user*."""
        self.environment |= {"RAFT_USER": user, "RAFT_PASSWORD": password}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Guarded]:
    """Return a cluster that does not run yet."""
    made = Guarded(tmp_path)
    yield made
    made.stop_all()


def test_a_cluster(cluster: Guarded) -> None:
    """It elects and passes calls on; strangers and mere users are refused."""
    cluster.start_all()
    cluster.be("root")
    done = cluster.raft("--timeout", "20", "kv", "set", "shop/colour", VALUE)
    assert done.returncode == 0, done.stderr
    assert cluster.raft("members").returncode == 0
    assert cluster.raft("transfer").returncode == 0
    cluster.be("shop")
    done = cluster.raft("--timeout", "20", "kv", "get", "shop/colour")
    assert done.stdout == f"{VALUE}\n", done.stderr
    for arguments in (
        ("kv", "get", "secret"),
        ("kv", "set", "secret", VALUE),
        ("kv", "ls"),
        ("kv", "watch", "--count", "1"),
        ("transfer",),
        ("remove", "s1"),
        ("snapshot",),
    ):
        done = cluster.raft(*arguments)
        assert done.returncode == 1, (arguments, done)
        assert "may" in done.stderr + done.stdout
    cluster.be("shop", "wrong")
    done = cluster.raft("kv", "get", "shop/colour")
    assert (done.returncode, "wrong user" in done.stderr) == (1, True), done
    del cluster.environment["RAFT_USER"]
    done = cluster.raft("kv", "get", "shop/colour")
    assert (done.returncode, "log in first" in done.stderr) == (1, True), done
    asyncio.run(_use(cluster))
    _use_redis(cluster)
    logs = {name: cluster.log(name) for name in cluster.addresses}
    refusal = "a login as 'shop' from 127.0.0.1 was refused"
    assert any(refusal in log for log in logs.values())
    for name, log in logs.items():
        for marker in (VALUE, PASSWORD, TOKEN, "0123456789abcdef0123"):
            assert marker not in log, (name, marker)


async def _use(cluster: Guarded) -> None:
    """Use sessions as a user with a token, and as one who may not."""
    async with aio.connect(cluster.addresses, token=TOKEN, timeout=PATIENCE) as client:
        store = client.use(KVClient)
        await store.set("shop/size", VALUE)
        assert await store.get("shop/size") == VALUE
    who: dict[str, Any] = {"user": "shop", "password": PASSWORD, "timeout": PATIENCE}
    async with aio.connect(cluster.addresses, **who) as client:
        store = client.use(KVClient)
        await store.set("shop/size", "small")
        with pytest.raises(PermissionDeniedError):
            await store.set("other", "small")
        with pytest.raises(PermissionDeniedError):
            await store.get("other")
        # Who is removed is a stranger from the next second on.
        save(cluster.users, nobody())
        with pytest.raises(AuthenticationError):
            await _read_for_ever(store)
    write_users(cluster.users)


async def _read_for_ever(store: Any) -> None:
    while True:
        await store.get("shop/size")


def _use_redis(cluster: Guarded) -> None:
    """Be refused by Redis' port as well."""
    found = [
        redis.Redis(port=port, username="shop", password=PASSWORD)
        for port in cluster.ports.values()
    ]
    for client in found:
        try:
            assert client.set("shop/count", 1)
            break
        except redis.exceptions.AuthenticationError:
            continue  # this one has not looked at the file again yet
    else:
        raise AssertionError("nobody lets the user in")
    with pytest.raises(redis.exceptions.NoPermissionError):
        client.get("other")
    with pytest.raises(redis.exceptions.ResponseError):
        client.flushall()
    for each in found:
        each.close()


def test_a_member_with_another_secret(cluster: Guarded, tmp_path: Path) -> None:
    """It is not talked to, and both ends say why."""
    cluster.start("s1")
    cluster.start("s2")
    cluster.be("root")
    assert cluster.raft("--timeout", "20", "kv", "set", "a", "b").returncode == 0
    (tmp_path / "secret").write_text("another-secret-0123")
    cluster.start("s3")
    done = cluster.raft("--timeout", "2", "status")
    assert done.returncode == 0
    line = next(each for each in done.stdout.splitlines() if " s3 " in each)
    assert "leader" not in line
