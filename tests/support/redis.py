"""The Redis port as a client meets it, and Redis' replies as one line each."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from twisted.internet.address import IPv4Address
from twisted.internet.testing import StringTransport

from consensus.shell.companion import Home
from contrib.kvstore.machine import KVStore, KVStoreOptions
from contrib.kvstore.resp.port import Port
from tests.support.servers import Servers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from consensus.server import RaftServer


class IncompleteError(Exception):
    """There is not the whole of a reply yet."""


def request(*words: bytes | str) -> bytes:
    """Return a command as clients send it."""
    raw = [word.encode() if isinstance(word, str) else word for word in words]
    return b"*%d\r\n" % len(raw) + b"".join(map(_bulk, raw))


def _bulk(word: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(word), word)


def from_line(line: str) -> bytes:
    """Return the command that *line* spells, with quotes as a shell has them."""
    return request(*shlex.split(line))


class Replies:
    """Takes replies apart; what is there of an unfinished one stays."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> Iterator[str]:
        """Yield each reply that is whole now, as :meth:`_show` has it."""
        self._data += data
        while self._data:
            try:
                shown, end = self._show(0)
            except IncompleteError:
                return
            self._data = self._data[end:]
            yield shown

    @property
    def rest(self) -> bytes:
        """Return what there is of the next one."""
        return self._data

    def _show(self, position: int) -> tuple[str, int]:
        """
        Return the reply at *position* as text, and where it ends.

        Statuses, errors and numbers are shown as they are on the wire, strings
        in quotes.
        """
        stop = self._data.find(b"\r\n", position)
        if stop < 0:
            raise IncompleteError
        kind = self._data[position : position + 1]
        line = self._data[position:stop].decode()
        end = stop + 2
        if kind in b"+-:_":
            return line, end
        size = int(line[1:])
        if kind in b"$=":
            return self._string(size, end)
        if size < 0:
            return "no list", end
        parts = []
        for _ in range(size * (2 if kind == b"%" else 1)):
            part, end = self._show(end)
            parts.append(part)
        return f"{kind.decode()}[{', '.join(parts)}]".removeprefix("*"), end

    def _string(self, size: int, begin: int) -> tuple[str, int]:
        if size < 0:
            return "nil", begin
        end = begin + size
        if len(self._data) < end + 2:
            raise IncompleteError
        assert self._data[end : end + 2] == b"\r\n"
        return repr(self._data[begin:end])[1:], end + 2


class PortClient:
    """
    A client, without a network.

    Args:
        servers: In whose time it lives.
        port: What it talks to.
    """

    def __init__(self, servers: Servers, port: Port) -> None:
        self.servers = servers
        self.transport = StringTransport()
        address: Any = IPv4Address("TCP", "127.0.0.1", 50000)
        self.protocol: Any = port.accept(address)
        self._replies = Replies()
        self._known: list[str] = []
        self.protocol.makeConnection(self.transport)

    def send(self, data: bytes) -> None:
        """Send *data*."""
        self.protocol.dataReceived(data)

    def heard(self) -> list[str]:
        """Return the replies that have come since, as they are now."""
        self._known += self._replies.feed(self.transport.value())
        self.transport.clear()
        known, self._known = self._known, []
        return known

    def wait(self, count: int = 1) -> list[str]:
        """Let time pass until there are so many replies; return them."""
        got: list[str] = []
        self.servers.until(lambda: len(self._take(got)) >= count)
        return got

    def _take(self, got: list[str]) -> list[str]:
        got += self.heard()
        return got

    def do(self, line: str) -> str:
        """Send the command that *line* spells; return the reply."""
        self.send(from_line(line))
        (reply,) = self.wait()
        return reply

    @property
    def is_closed(self) -> bool:
        """Say whether the port has closed the connection."""
        return self.transport.disconnecting

    def close(self) -> None:
        """Be gone."""
        self.protocol.connectionLost(None)


class Ports:
    """
    A cluster of key-value stores, each with a port for Redis' clients.

    Args:
        names: The members.
        config: Further keys of the servers' config.
        options: Of the port.
    """

    def __init__(
        self,
        names: Iterable[str] = ("s1",),
        config: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.servers = Servers(tuple(names), config=config, machine=KVStore)
        self.options = KVStoreOptions(**options)
        self.date = 1_700_000_000_000
        self.servers.leader()
        self.ports = {
            name: self.port_of(server) for name, server in self.servers.servers.items()
        }

    def port_of(self, server: RaftServer) -> Port:
        """Return a port beside *server*, which listens to nobody else."""
        reactor = self.servers.reactor
        home = Home(server, reactor, reactor)
        return Port(home, self.options, "tcp:127.0.0.1:6379", lambda: self.date)

    def client(self, name: str = "") -> PortClient:
        """Return a new client of *name*'s port; of the leader's if it is empty."""
        return PortClient(self.servers, self.ports[name or self.servers.leader().name])

    def follower(self) -> PortClient:
        """Return a new client of a server that does not lead."""
        return self.client(self.servers.followers()[0].name)


def scripts(table: str) -> dict[str, list[tuple[str, str | None]]]:
    """
    Return the commands of *table* with their replies, by the titles.

    A reply is ``None`` where none is compared.
    """
    found: dict[str, list[tuple[str, str | None]]] = {}
    title = ""
    script: list[tuple[str, str | None]] = []
    for line in table.splitlines():
        if line.startswith("#"):
            title = line.removeprefix("# ")
        elif not line:
            script = []
        elif line.startswith(("> ", "~ ")):
            if not script:
                found[title] = script
            script.append((line[2:], None))
        else:
            script[-1] = script[-1][0], line
    return found
