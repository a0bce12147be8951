"""A running server shows some entries of its log, and no more than it can bear."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from adapters.transport.memory import MemoryOptions, MemoryTransport
from consensus import admin
from consensus.client import Client
from consensus.core.values import EntryKind
from consensus.errors import InvalidCommandError, ProtocolError
from consensus.shell import log_pages
from consensus.shell.log_pages import MAX_BYTES, MAX_ENTRIES, read_page, read_request
from tests.shell.test_members import established
from tests.support.servers import Servers

if TYPE_CHECKING:
    from consensus.shell.log_pages import LogPage

encode = msgspec.msgpack.encode


def ask(servers: Servers, first: int, limit: int = 100) -> LogPage:
    """Return what the leader shows a client."""
    answer = servers.leader().answer("log", encode([first, limit]))
    return read_page(servers.result(answer))


class LogPageTests:
    """The call ``log``."""

    def test_pages(self) -> None:
        """Page follows page, until the log's end."""
        servers = Servers()
        chief = established(servers)
        for number in range(5):
            servers.result(chief.write(["set", "a", number]))
        first = ask(servers, 0, 3)
        assert [entry.index for entry in first.as_entries()] == [1, 2, 3]
        assert first.first_index == 1
        assert first.server == chief.name
        rest = ask(servers, 4)
        assert [entry.index for entry in rest.as_entries()] == list(
            range(4, rest.last_index + 1)
        )
        assert rest.commit_index == chief.status().commit_index
        commands = [e for e in rest.as_entries() if e.kind == EntryKind.COMMAND]
        assert commands[-1].command == encode(["set", "a", 4])
        assert ask(servers, rest.last_index + 1).entries == []

    def test_compacted(self) -> None:
        """What is gone is left out, and the page says where the log begins."""
        servers = Servers(config={"snapshots": {"keep_entries": 1}})
        chief = established(servers)
        for number in range(20):
            servers.result(chief.write(["set", "a", number]))
        servers.result(chief.snapshot())
        servers.run(1)
        page = ask(servers, 1, 2)
        assert page.first_index == chief.status().first_index > 1
        assert all(each[0] >= page.first_index for each in page.entries)

    def test_from_the_disk(self) -> None:
        """What is not kept in memory is read from the storage, up to there."""
        servers = Servers(config={"limits": {"log_cache_bytes": 1}})
        chief = established(servers)
        for number in range(9):
            servers.result(chief.write(["set", "a", number]))
        assert chief._running().raft.state.log.offset > 1
        page = ask(servers, 1)
        assert page.entries
        assert [each[0] for each in page.entries] == list(
            range(1, page.entries[-1][0] + 1)
        )

    def test_bytes(self) -> None:
        """Large commands come one by one."""
        servers = Servers()
        chief = established(servers)
        large = "x" * (MAX_BYTES + 1)
        for _ in range(2):
            servers.result(chief.write(["set", "a", large]))
        index = servers.result(chief.write(["set", "a", large], with_index=True))[1]
        assert [each[0] for each in ask(servers, index - 1).entries] == [index - 1]

    @pytest.mark.parametrize(
        "payload", [b"", b"\x00", encode([1, 0]), encode([-1]), encode([1, 1001])]
    )
    def test_nonsense(self, payload: bytes) -> None:
        """What asks for nothing, or for too much, is refused."""
        with pytest.raises(InvalidCommandError):
            read_request(payload)
        servers = Servers(("s1",))
        failure = servers.leader().answer("log", payload)
        with pytest.raises(InvalidCommandError):
            servers.result(failure)

    def test_no_page(self) -> None:
        """An answer that is none says so."""
        with pytest.raises(ProtocolError):
            read_page(b"\xc1")

    def test_admin(self) -> None:
        """An operator asks one server."""
        servers = Servers()
        established(servers)
        options = MemoryOptions(servers.mapping["transport"]["options"]["network"])
        transport = MemoryTransport(options, servers.reactor, servers.reactor)
        client = Client({"s1": "s1"}, transport, servers.reactor)
        page = servers.result(admin.log_page(client, "s2", 1, MAX_ENTRIES))
        assert page.server == "s2"
        assert page.entries[0][0] == 1
        assert log_pages.read_request(encode([3])).limit == 100
