"""
A client of our key-value store, in a process of its own.

``python -m tests.bench.kv_client JSON``: it reaches the servers over AMP.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from consensus.clock import default_reactor
from contrib.kvstore import KVClient
from tests.bench.control import answer_requests
from tests.bench.load import ClosedLoop
from tests.bench.values import KEYS, key, values

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.defer import Deferred


class Client:
    """
    What the bench asks of a client.

    Args:
        addresses: Of the servers.
        reactor: The reactor.
    """

    def __init__(self, addresses: list[str], reactor: Any) -> None:
        self.reactor = reactor
        self.clients = {
            session: KVClient(addresses, reactor, session=session)
            for session in (True, False)
        }

    def actions(self) -> dict[str, Callable[..., Any]]:
        """Return what can be asked for."""
        return {"puts": self.puts, "reads": self.reads}

    async def puts(
        self, *, session: bool, size: int = 256, **shape: Any
    ) -> dict[str, Any]:
        """Write in a closed loop, with a *session* or without."""
        write, pool = self.clients[session].set, values(size)

        def put(number: int) -> Deferred[None]:
            return write(key(number % KEYS), pool[number % len(pool)])

        return (await ClosedLoop(put, self.reactor, **shape).run()).to_json()

    async def reads(self, **shape: Any) -> dict[str, Any]:
        """Read, linearizably, in a closed loop."""
        read = self.clients[False].get

        def get(number: int) -> Deferred[Any]:
            return read(key(number % KEYS))

        return (await ClosedLoop(get, self.reactor, **shape).run()).to_json()


def main() -> None:
    """Be a client until the bench has enough."""
    reactor = default_reactor()
    client = Client(json.loads(sys.argv[1])["addresses"], reactor)
    answer_requests(client.actions(), reactor)


if __name__ == "__main__":
    main()
