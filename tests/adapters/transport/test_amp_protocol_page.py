"""The bytes in docs/reference/protocol.md are those that we write."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from adapters.transport.amp_bytes import encode_box
from adapters.transport.amp_codec import encode
from adapters.transport.amp_commands import Call, Hello, Message, Ping
from adapters.transport.amp_connection import AMPOptions
from consensus.core.values import Status
from consensus.testing.transport_inbox import MESSAGES
from contrib.kvstore import Set
from contrib.kvstore.commands import encode as encode_command
from tests.support.markdown import Page

PAGE = Page(Path(__file__).parents[3] / "docs" / "reference" / "protocol.md")


def hex_blocks() -> list[bytes]:
    """Return the bytes that the page shows; what is behind a # explains them."""
    return [bytes.fromhex(re.sub("#.*", "", block.text)) for block in PAGE.of("hex")]


class ProtocolPageTests:
    """The page and the code cannot drift apart."""

    def test_the_call(self) -> None:
        items = {"_command": b"Call", "_ask": b"1", "version": b"1"}
        items |= {"method": b"status", "payload": b""}
        assert hex_blocks()[0] == encode_box(
            (key.encode(), value) for key, value in items.items()
        )

    def test_the_command(self) -> None:
        assert hex_blocks()[1] == encode_command(Set(b"foo", "bar"))

    def test_the_message(self) -> None:
        assert hex_blocks()[2] == encode(MESSAGES[0])

    @pytest.mark.parametrize("command", [Call, Hello, Message, Ping])
    def test_every_argument_is_there(
        self, command: type[Call | Hello | Message | Ping]
    ) -> None:
        """So is every result, and the command itself."""
        assert f"### {command.commandName.decode()}\n" in PAGE.text
        for name, _ in (*command.arguments, *command.response):
            assert f"`{name.decode()}`" in PAGE.text

    def test_every_member_of_a_status_is_there(self) -> None:
        for field in fields(Status):
            assert f"`{field.name}`" in PAGE.text

    def test_the_limits_have_their_defaults(self) -> None:
        options = AMPOptions()
        assert options.max_message_bytes == 2 * 1024 * 1024
        assert options.max_unsent_bytes == 16 * 1024 * 1024
        assert options.max_calls == 4096
        assert options.max_connections == 500
        assert options.hello_timeout == 5
        assert options.idle_timeout == 60
        assert options.peer_timeout == 5
