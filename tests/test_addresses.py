"""Tests of consensus.addresses."""

from __future__ import annotations

import errno
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    UNIXClientEndpoint,
    clientFromString,
)
from twisted.internet.testing import MemoryReactor

from consensus.addresses import (
    AddressError,
    TCPAddress,
    UNIXAddress,
    check_address,
    parse,
)

if TYPE_CHECKING:
    from pathlib import Path

IDS = ("transport.E101", "transport.E102")


class ParseTests:
    """Descriptions as Twisted's clients understand them."""

    @pytest.mark.parametrize(
        ("address", "parsed"),
        [
            ("tcp:127.0.0.1:9101", TCPAddress("127.0.0.1", 9101)),
            ("tcp:db.example:9101", TCPAddress("db.example", 9101)),
            ("tcp:host=db.example:port=9101", TCPAddress("db.example", 9101)),
            ("tcp:port=9101:db.example", TCPAddress("db.example", 9101)),
            (r"tcp:\:\:1:9101", TCPAddress("::1", 9101)),
            ("tcp:127.0.0.1:0", TCPAddress("127.0.0.1", 0)),
            ("unix:/run/s1", UNIXAddress("/run/s1")),
            ("unix:path=/run/s1", UNIXAddress("/run/s1")),
            (r"unix:/run/a\:b", UNIXAddress("/run/a:b")),
        ],
    )
    def test_what_is_known(
        self, address: str, parsed: TCPAddress | UNIXAddress
    ) -> None:
        assert parse(address) == parsed

    @pytest.mark.parametrize(
        "address",
        [
            "",
            "9101",
            "127.0.0.1:9101",
            "tcp",
            "tcp:9101",
            "tcp::9101",
            "tcp:127.0.0.1",
            "tcp:127.0.0.1:http",
            "tcp:127.0.0.1:-1",
            "tcp:127.0.0.1:70000",
            "tcp:127.0.0.1:9101:5",
            "tcp:127.0.0.1:9101:timeout=5",
            "ssl:127.0.0.1:9101",
            "unix:",
            "unix:/run/s1:mode=600",
            "\\",
        ],
    )
    def test_what_is_not(self, address: str) -> None:
        """Each is refused with a hint of what to write."""
        with pytest.raises(AddressError, match="write tcp:HOST:PORT"):
            parse(address)

    def test_an_ipv6_address_in_brackets(self) -> None:
        """It looks right, so the hint says what is."""
        with pytest.raises(AddressError, match=r"tcp:\\:\\:1:9101"):
            parse("tcp:[::1]:9101")

    @given(st.text(max_size=40))
    def test_any_text(self, address: str) -> None:
        """Nothing else is ever raised."""
        with suppress(AddressError):
            parse(address)

    @pytest.mark.parametrize(
        "address", ["tcp:127.0.0.1:9101", r"tcp:\:\:1:9101", "unix:/run/s1"]
    )
    def test_twisted_reads_the_same(self, address: str) -> None:
        """One meaning for a description, here and in other programs."""
        theirs = clientFromString(MemoryReactor(), address)
        ours = parse(address).client(MemoryReactor())
        for name in ("_host", "_port", "_path"):
            assert getattr(ours, name, None) == getattr(theirs, name, None)


class EndpointTests:
    """Where a description leads."""

    def test_numbers_need_no_lookup(self) -> None:
        """A host given by number works when no name server does."""
        for host in ("127.0.0.1", "::1"):
            endpoint = TCPAddress(host, 9101).client(MemoryReactor())
            assert isinstance(endpoint, TCP4ClientEndpoint)

    def test_names_are_looked_up(self) -> None:
        endpoint = TCPAddress("db.example", 9101).client(MemoryReactor())
        assert isinstance(endpoint, HostnameEndpoint)

    def test_a_path(self) -> None:
        endpoint = UNIXAddress("/run/s1").client(MemoryReactor())
        assert isinstance(endpoint, UNIXClientEndpoint)

    def test_a_server_listens_on_its_own_host_only(self) -> None:
        """The address that others connect to, not every interface."""
        endpoint = TCPAddress("127.0.0.1", 9101).server(MemoryReactor())
        assert (endpoint._port, endpoint._interface) == (9101, "127.0.0.1")

    def test_a_server_listens_where_its_name_leads(self) -> None:
        endpoint = TCPAddress("localhost", 9101).server(MemoryReactor())
        assert endpoint._interface in {"127.0.0.1", "::1"}


class CheckTests:
    """What can be seen before a start."""

    def found(self, address: str) -> list[tuple[str, str]]:
        """Return ids and messages for *address*, which this process serves."""
        return [
            (finding.id, finding.message)
            for finding in check_address("members.s1", address, IDS, is_served=True)
        ]

    def test_a_name_that_has_no_address(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The resolver's words are passed on."""

        def fail(*_: object, **__: object) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", fail)
        ((name, message),) = self.found("tcp:nowhere.invalid:9101")
        assert name == "transport.E102"
        assert message.endswith("9101': Name or service not known")

    def test_a_directory_that_is_missing(self, tmp_path: Path) -> None:
        ((name, message),) = self.found(f"unix:{tmp_path}/missing/s1")
        assert name == "transport.E102"
        assert "does not exist or is not writable" in message

    def test_a_free_path(self, tmp_path: Path) -> None:
        """A path is free when nothing is there, or a socket without a server."""
        assert self.found(f"unix:{tmp_path}/s1") == []
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(tmp_path / "s1"))
        assert self.found(f"unix:{tmp_path}/s1") == []

    def test_a_path_in_use(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(tmp_path / "s1"))
            other.listen()
            ((name, message),) = self.found(f"unix:{tmp_path}/s1")
        assert name == "transport.E102"
        assert "another program listens there" in message

    def test_a_port_in_use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The system's words are passed on, with what to do."""

        def refuse(_: TCPAddress) -> None:
            raise OSError(errno.EADDRINUSE, "Address already in use")

        monkeypatch.setattr(TCPAddress, "probe", refuse)
        (finding,) = check_address(
            "members.s1", "tcp:127.0.0.1:9101", IDS, is_served=True
        )
        assert finding.id == "transport.E102"
        assert finding.path == "members.s1"
        assert "Address already in use" in finding.message
        assert "stop the program that listens there" in finding.hint

    def test_only_served_addresses_are_probed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another host's address cannot be listened on, and need not be."""

        def refuse(_: TCPAddress) -> None:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")

        monkeypatch.setattr(TCPAddress, "probe", refuse)
        found = check_address("members.s2", "tcp:192.0.2.1:9101", IDS, is_served=False)
        assert list(found) == []
