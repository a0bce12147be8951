"""The keys over HTTP."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.web.resource import Resource

from consensus.shell.companion import Home
from contrib.kvstore.commands import Put, Set
from contrib.kvstore.machine import KVStore
from contrib.kvstore.pages import MAX_PAGE, SHOWN, keys
from tests.support.servers import Register, Servers
from tests.support.visits import Visitor


class Store:
    """
    A cluster whose keys are looked at.

    Args:
        machine: Its application.
        pairs: What is in it.
    """

    def __init__(self, pairs: dict[bytes, Any], machine: type = KVStore) -> None:
        self.servers = Servers(("s1",), machine=machine)
        self.server = self.servers.leader()
        for key, value in pairs.items():
            self.servers.result(self.server.write(Set(key, value)))
        reactor = self.servers.reactor
        root = Resource()
        self.home = Home(self.server, reactor, reactor)
        page: Any = keys(self.home)
        root.putChild(b"kv", page)
        self.visitor = Visitor(root, self.servers.until)

    def get(self, path: str) -> Any:
        """Return what is said of *path*, which is there."""
        answer = self.visitor.get(path)
        assert answer.status == 200, answer
        assert answer.headers["cache-control"] == "no-store"
        return answer.said

    def refused(self, path: str) -> tuple[int, str]:
        """Return status and code of what is said of *path*."""
        answer = self.visitor.get(path)
        return answer.status, answer.said["error"]["code"]


class KeysTests:
    """``GET /kv/keys``."""

    def test_items(self) -> None:
        """Keys come in order, with their values as text where they are text."""
        found = Store({b"b": "<script>", b"a": b"\xff\x00"}).get("/kv/keys")
        assert found == {
            "items": [
                {
                    "id": "YQ==",
                    "key": "a",
                    "value_base64": "/wA=",
                    "bytes": 2,
                    "is_cut": False,
                    "revision": 2,
                },
                {
                    "id": "Yg==",
                    "key": "b",
                    "value": "<script>",
                    "bytes": 8,
                    "is_cut": False,
                    "revision": 1,
                },
            ],
            "next": None,
            "revision": 2,
        }

    def test_pages(self) -> None:
        """A page says where the next one begins, and the last one that it is that."""
        store = Store({f"k{number}".encode(): "v" for number in range(5)} | {b"z": "v"})
        seen, path = [], "/kv/keys?prefix=k&limit=2"
        page = store.get(path)
        while page["next"] is not None:
            seen += [item["key"] for item in page["items"]]
            page = store.get(f"{path}&after={page['next']}")
        seen += [item["key"] for item in page["items"]]
        assert seen == ["k0", "k1", "k2", "k3", "k4"]

    def test_keys_that_are_no_text(self) -> None:
        """They stand as Base64, and can be gone on from."""
        store = Store({b"\xff\xfe": "1", b"\xff\xff": "2"})
        page = store.get("/kv/keys?limit=1")
        assert page["items"][0]["key_base64"] == "//4="
        rest = store.get(f"/kv/keys?after={page['next']}")
        assert [item["value"] for item in rest["items"]] == ["2"]

    @pytest.mark.parametrize("value", ["ä" * 9999, ("ä" * 9999).encode(), "x" * 9999])
    def test_long_values(self, value: Any) -> None:
        """A long value is cut, between two characters."""
        (item,) = Store({b"k": value}).get("/kv/keys")["items"]
        text = value.decode() if isinstance(value, bytes) else value
        assert item["is_cut"]
        assert text.startswith(item["value"])
        assert SHOWN // 2 <= len(item["value"]) <= SHOWN
        assert item["bytes"] == len(text.encode())

    @pytest.mark.parametrize(
        "query",
        [
            "limit=0",
            f"limit={MAX_PAGE + 1}",
            "limit=x",
            "limit=-1",
            "limit=%C2%B2",
            "after=!",
            "consistency=none",
            "consistency=%ff",
            f"prefix={'x' * 5000}",
        ],
    )
    def test_bad_questions(self, query: str) -> None:
        """They are refused, and the store does not hear of them."""
        assert Store({}).refused(f"/kv/keys?{query}") == (400, "invalid_request")

    def test_other_applications(self) -> None:
        """Where the application is another one, there are no keys."""
        assert Store({}, Register).refused("/kv/keys") == (404, "no_kvstore")

    def test_nobody_leads(self) -> None:
        """After a while without a leader, it says so."""
        store = Store({})
        store.servers.stop("s1")
        assert store.refused("/kv/keys") == (503, "not_leader")

    def test_broken_off(self) -> None:
        """Nobody is answered who has gone."""
        store = Store({b"a": "1"})
        transport = store.visitor.send("/kv/keys")
        channel: Any = transport.protocol
        channel.connectionLost(Failure(ConnectionDone()))
        store.servers.run(1)
        assert transport.value() == b""

    def test_bugs(self) -> None:
        """What the machine should not raise is logged, and not told to strangers."""
        store = Store({})
        store.home.read = lambda *_, **__: 1 / 0  # type: ignore[method-assign,assignment]
        with capturedLogs() as logs:
            assert store.refused("/kv/keys") == (500, "bug")
        assert [log["log_failure"].type for log in logs] == [ZeroDivisionError]


class KeyTests:
    """``GET /kv/key``."""

    def test_item(self) -> None:
        """A key has its whole value, and what is known of it."""
        store = Store({b"k": "first"})
        store.servers.result(store.server.write(Put(b"k", "x" * 9999, ttl=60_000)))
        encoded = base64.urlsafe_b64encode(b"k").decode()
        for query in ("key=k", f"id={encoded}"):
            found = store.get(f"/kv/key?{query}")
            assert 0 < found.pop("milliseconds_left") <= 60_000
            assert found == {
                "id": encoded,
                "key": "k",
                "value": "x" * 9999,
                "bytes": 9999,
                "created": 1,
                "modified": 2,
                "version": 2,
                "lease": None,
            }

    def test_none(self) -> None:
        """A key that is not there is not found, and one has to be named."""
        store = Store({})
        assert store.refused("/kv/key?key=k") == (404, "no_key")
        assert store.refused("/kv/key") == (400, "invalid_request")
        assert store.refused("/kv/key?key=") == (400, "invalid_command")
