"""Clients of a simulated cluster, whose calls a judge of linearizability can read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from consensus.errors import RaftError
from consensus.testing.history import History, Read, Write

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from consensus.calling.session import ClientSession
    from consensus.client import Client
    from consensus.testing.linearizability import Verdict
    from consensus.testing.simulator import SimulatedCluster

    #: Given dice, returns the next call.
    MakeCall = Callable[[Random], Write | Read]


class Clients:
    """
    Clients that call one after the other, until they are told to stop.

    Args:
        cluster: Whom they call.
        count: How many they are.
        call: Given dice, returns the next call of one.
        pause: How long each waits between two calls at most, in seconds.
        timeout: After how long one gives a call up.
        sessions: Whether they write through sessions, once each.
        read_options: Given dice, returns options of :meth:`.Client.read`,
            that do not make it stale.
    """

    def __init__(
        self,
        cluster: SimulatedCluster,
        count: int,
        call: MakeCall,
        *,
        pause: float = 0.2,
        timeout: float = 3.0,
        sessions: bool = False,
        read_options: Callable[[Random], dict[str, Any]] | None = None,
    ) -> None:
        self._cluster = cluster
        self._names = [f"c{number}" for number in range(1, count + 1)]
        self._call = call
        self._pause = pause
        self._timeout = timeout
        self._sessions = sessions
        self._read_options = read_options
        self._is_over = False
        self._busy = 0
        self._machine = cluster.machine_for_clients
        #: All that they called, and what they were answered.
        self.history = History(self._machine, lambda: cluster.now)

    def start(self) -> None:
        """Begin."""
        for name in self._names:
            self._busy += 1
            Deferred.fromCoroutine(self._go(name)).addErrback(self._failed)

    def _failed(self, failure: Any) -> None:
        # Nothing but errors of the framework comes from a client.
        self._cluster.broke(failure.value)

    async def _go(self, name: str) -> None:
        cluster = self._cluster
        client = cluster.make_client(name, self._timeout)
        dice = cluster.dice(f"calls of {name}")
        session = client.session() if self._sessions else None
        while not self._is_over:
            call = self._call(dice)
            answer = self._make(client, session, call, dice)
            answer.addCallback(self._machine.decode_result)
            try:
                await self.history.watch(name, call, answer)
            except RaftError as error:
                cluster.trace.note("{}: {} -> {!r}", name, call, error)
            else:
                cluster.trace.note("{}", self.history.operations[-1])
            await client.pause(dice.random() * self._pause)
        self._busy -= 1

    def _make(
        self,
        client: Client,
        session: ClientSession | None,
        call: Write | Read,
        dice: Random,
    ) -> Deferred[bytes]:
        data = self._machine.encode(call.body)
        if isinstance(call, Write):
            return client.write(data) if session is None else session.write(data)
        options = {} if self._read_options is None else self._read_options(dice)
        return client.read(data, **options)

    def stop(self) -> None:
        """Call no more, and wait for the answers of what is under way."""
        self._is_over = True
        self._cluster.until(lambda: not self._busy)

    def judge(self, **options: Any) -> Verdict:
        """Say whether the answers are linearizable; see :func:`.judge`."""
        from consensus.testing.linearizability import judge  # noqa: PLC0415 - rarely needed

        return judge(self.history, self._machine, **options)
