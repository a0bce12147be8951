"""
A transport and a storage that suffer what a member's conditions say.

They are subclasses of those that the config names, so that nothing else is
different; ``raft dev`` alone uses them, in its members.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail

from consensus.dev.channel import Conditions
from consensus.errors import UnreachableError

if TYPE_CHECKING:
    from consensus.config import Config, Engine
    from consensus.core.messages import Message
    from consensus.core.values import Address, Identity, ServerId
    from consensus.errors import ProtocolError
    from consensus.interfaces import Inbox


class Weather:
    """
    The conditions of one process, which change while it runs.

    Args:
        addresses: Where the members listen.
    """

    def __init__(self, addresses: dict[Address, ServerId]) -> None:
        self._addresses = addresses
        self._change = threading.Condition()
        self._conditions = Conditions()

    def set(self, conditions: Conditions) -> None:
        """Let *conditions* hold from now on; syncs that wait look again."""
        with self._change:
            self._conditions = conditions
            self._change.notify_all()

    def is_cut(self, peer: ServerId) -> bool:
        """Say whether nothing passes between this server and *peer*."""
        return peer in self._conditions.cut

    def is_cut_at(self, address: Address) -> bool:
        """Say the same of who listens at *address*."""
        return self.is_cut(self._addresses.get(address, ""))

    def wait_for_disk(self) -> None:
        """Wait as long as the disk is slow; called on the storage's thread."""
        with self._change:
            conditions = self._conditions
            self._change.wait_for(
                lambda: self._conditions.sync_delay < conditions.sync_delay,
                timeout=conditions.sync_delay,
            )


class _CutInbox:
    """What arrives for *inbox*, but for what *weather* holds back."""

    def __init__(self, inbox: Inbox, weather: Weather) -> None:
        self._inbox = inbox
        self._weather = weather

    def welcome(self, peer: Identity) -> None:
        """Pass it on; a connection that stays open is quiet all the same."""
        self._inbox.welcome(peer)

    def refused(self, peer: ServerId, error: ProtocolError) -> None:
        """Pass it on."""
        self._inbox.refused(peer, error)

    def gone(self, peer: ServerId) -> None:
        """Pass it on, unless one could not know."""
        if not self._weather.is_cut(peer):
            self._inbox.gone(peer)

    def deliver(self, *messages: Message) -> None:
        """Deliver the *messages* of those that can be heard."""
        heard = [each for each in messages if not self._weather.is_cut(each.sender)]
        if heard:
            self._inbox.deliver(*heard)

    def answer(self, method: str, payload: bytes) -> Deferred[bytes]:
        """Pass it on: clients are not cut off."""
        return self._inbox.answer(method, payload)


def suffering(config: Config, weather: Weather) -> Config:
    """Return *config* with a transport and a storage that suffer *weather*."""
    storage = config.storage
    return replace(
        config,
        transport=_with(config.transport, _transport(config.transport.cls, weather)),
        # One that does not block is called in the reactor's own thread.
        storage=_with(storage, _storage(storage.cls, weather))
        if storage.cls.blocking
        else storage,
    )


def _with(engine: Engine, cls: type[Any]) -> Engine:
    # A data directory remembers which class has written it.
    cls.__module__ = engine.cls.__module__
    cls.__qualname__ = engine.cls.__qualname__
    cls.__name__ = engine.cls.__name__
    return replace(engine, cls=cls)


def _transport(base: type[Any], weather: Weather) -> type[Any]:
    class Cut(base):  # type: ignore[misc]
        """A transport that loses what passes between the two sides of a cut."""

        def listen(
            self, identity: Identity, address: Address, inbox: Inbox
        ) -> Deferred[None]:
            """Listen; what comes from the other side is lost."""
            listening: Deferred[None] = super().listen(
                identity, address, _CutInbox(inbox, weather)
            )
            return listening

        def send(self, peer: ServerId, message: Message) -> None:
            """Send, or lose what goes to the other side."""
            if not weather.is_cut(peer):
                super().send(peer, message)

        def ask(
            self, address: Address, method: str, payload: bytes, timeout: float
        ) -> Deferred[bytes]:
            """Ask, unless it is one of the other side."""
            if weather.is_cut_at(address):
                return fail(UnreachableError(f"{address} is cut off by raft dev"))
            answer: Deferred[bytes] = super().ask(address, method, payload, timeout)
            return answer

    return Cut


def _storage(base: type[Any], weather: Weather) -> type[Any]:
    class Slow(base):  # type: ignore[misc]
        """A storage whose disk may be slow."""

        def sync(self) -> None:
            """Wait, then sync."""
            weather.wait_for_disk()
            super().sync()

    return Slow
