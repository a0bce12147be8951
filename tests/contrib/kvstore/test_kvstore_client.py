"""Tests of contrib.kvstore.client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from consensus.client import Client
from consensus.errors import (
    InvalidCommandError,
    LeadershipLostError,
    OutcomeUnknownError,
    OverloadedError,
    ProtocolError,
    UnreachableError,
)
from contrib.kvstore import KVClient, KVStore
from tests.support.deferreds import error_of, result_of
from tests.support.machines import MachineServer

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred


@pytest.fixture
def server(request: pytest.FixtureRequest) -> MachineServer:
    """Return a server with an empty store."""
    return MachineServer(KVStore(), request.node.nodeid)


@pytest.fixture
def store(server: MachineServer) -> KVClient:
    """Return a client of the server."""
    return KVClient(server.client)


class KVClientTests:
    """Keys and values as a Python program has them."""

    def done(self, server: MachineServer, call: Deferred[Any]) -> Any:
        """Return what *call* gives."""
        server.settle()
        return result_of(call)

    def failed(self, server: MachineServer, call: Deferred[Any]) -> BaseException:
        """Return what *call* fails with."""
        server.settle()
        return error_of(call)

    def test_text_comes_back_as_text(
        self, server: MachineServer, store: KVClient
    ) -> None:
        assert self.done(server, store.set("foo", "bär")) is None
        assert self.done(server, store.get("foo")) == "bär"

    def test_bytes_come_back_as_bytes(
        self, server: MachineServer, store: KVClient
    ) -> None:
        self.done(server, store.set(b"foo", b"\xff\0"))
        assert self.done(server, store.get(b"foo")) == b"\xff\0"

    def test_a_key_is_its_bytes(self, server: MachineServer, store: KVClient) -> None:
        """Text and its UTF-8 bytes are one key."""
        self.done(server, store.set("é", "x"))
        assert self.done(server, store.get("é".encode())) == "x"

    def test_a_missing_key(self, server: MachineServer, store: KVClient) -> None:
        assert self.done(server, store.get("foo")) is None
        assert self.done(server, store.delete("foo")) is False

    def test_delete(self, server: MachineServer, store: KVClient) -> None:
        self.done(server, store.set("foo", "bar"))
        assert self.done(server, store.delete("foo")) is True
        assert self.done(server, store.get("foo")) is None

    def test_cas(self, server: MachineServer, store: KVClient) -> None:
        assert self.done(server, store.cas("foo", None, "bar")) is True
        assert self.done(server, store.cas("foo", None, "baz")) is False
        assert self.done(server, store.cas("foo", "bar", "baz")) is True
        assert self.done(server, store.get("foo")) == "baz"

    def test_what_cannot_be_stored_is_not_sent(
        self, server: MachineServer, store: KVClient
    ) -> None:
        wrong: Any = {"a": 1}
        for call in (
            store.set("foo", wrong),
            store.set("", "bar"),
            store.set(wrong, "bar"),
            store.get(""),
            store.delete(b""),
            store.cas("foo", wrong, "bar"),
            store.cas("foo", "bar", wrong),
            store.set("foo", "\ud800"),
        ):
            assert isinstance(error_of(call), InvalidCommandError)
        assert server.calls == 0

    def test_a_rejected_write_is_sent_again(self, server: MachineServer) -> None:
        store = KVClient(server.client, session=False)
        server.error = OverloadedError("busy")
        assert self.done(server, store.set("foo", "bar")) is None
        assert server.calls == 2

    def test_a_lost_answer_is_had_again(
        self, server: MachineServer, store: KVClient
    ) -> None:
        """By default a write is sent until it is answered, and done once."""
        self.done(server, store.set("foo", "bar"))
        server.loses_answer = True
        assert self.done(server, store.cas("foo", "bar", "baz")) is True
        server.loses_answer = True
        assert self.done(server, store.delete("foo")) is True

    def test_without_a_session_an_unknown_outcome_is_the_callers(
        self, server: MachineServer
    ) -> None:
        """Not even a set is sent twice: it could undo another's write."""
        store = KVClient(server.client, session=False)
        for call in (
            lambda: store.set("foo", "bar"),
            lambda: store.delete("foo"),
            lambda: store.cas("foo", None, "bar"),
        ):
            server.calls = 0
            server.error = LeadershipLostError("who knows")
            error = self.failed(server, call())
            assert isinstance(error, OutcomeUnknownError)
            assert server.calls == 1

    def test_a_get_is_repeated(self, server: MachineServer, store: KVClient) -> None:
        self.done(server, store.set("foo", "bar"))
        server.error = LeadershipLostError("who knows")
        assert self.done(server, store.get("foo")) == "bar"

    @pytest.mark.parametrize(
        "answer", [b"", b"\xc1", b"\x05", b"\xa1\xff", b"\x91" * 5000]
    )
    def test_a_server_that_is_no_store(
        self, server: MachineServer, store: KVClient, answer: bytes
    ) -> None:
        """Another application's answers are told apart."""
        server.answered = answer
        for call in (store.get("foo"), store.set("foo", "bar"), store.delete("foo")):
            assert isinstance(self.failed(server, call), ProtocolError)

    def test_close(self, server: MachineServer, store: KVClient) -> None:
        """The cluster's client is closed too."""
        result_of(store.close())
        assert isinstance(error_of(store.set("foo", "bar")), UnreachableError)
        assert isinstance(error_of(server.client.read(b"")), UnreachableError)

    def test_addresses_need_the_reactor(self) -> None:
        with pytest.raises(TypeError, match="needs the reactor"):
            KVClient(["tcp:127.0.0.1:9101"])


class AddressesTests(TestCase):
    """A client made of addresses."""

    async def test_addresses_are_enough(self) -> None:
        """It makes the cluster's client itself, and closes it."""
        store = KVClient(["telegraph:s1"], reactor, timeout=0.05)
        assert isinstance(store.cluster, Client)
        with pytest.raises(UnreachableError, match="telegraph"):
            await store.get("foo")
        await store.close()
