"""The calls about the membership, as bytes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from consensus.errors import (
    InvalidChangeError,
    InvalidCommandError,
    NotLeaderError,
    StoppedError,
)
from tests.shell.test_members import established, failing, voters
from tests.support.servers import Servers

encode = msgspec.msgpack.encode


def ask(servers: Servers, method: str, payload: bytes) -> Any:
    """Return what the leader answers."""
    answer = servers.result(servers.leader().answer(method, payload))
    return msgspec.msgpack.decode(answer) if answer else None


class MembershipCallTests:
    """Each method, once right and in many ways wrong."""

    def test_all_of_them(self) -> None:
        """They do what the methods of Members do, and answer with the index."""
        servers = Servers()
        chief = established(servers)
        index = ask(servers, "add", encode(["s4", "s4", True]))
        assert chief.status().learners == {"s4": "s4"}
        assert chief.status().membership_index == index
        servers.start("s4", members={})
        ask(servers, "promote", b"s4")
        servers.until(lambda: "s4" in voters(chief))
        assert ask(servers, "remove", b"s4") == chief.status().membership_index
        present = chief.status()
        wanted = [present.membership, {"s5": "s5"}, present.membership_index]
        ask(servers, "change_membership", encode(wanted))
        assert chief.status().learners == {"s5": "s5"}
        assert ask(servers, "join", encode(["raft", "s5", "moved", "1"])) is None
        assert chief.status().learners == {"s5": "moved"}

    def test_snapshot(self) -> None:
        """Every server takes its own, and says how far and how large it is."""
        servers = Servers()
        established(servers)
        servers.run(0.5)
        for server in servers.servers.values():
            answer = servers.result(server.answer("snapshot", b""))
            index, size = msgspec.msgpack.decode(answer)
            assert index == server.status().snapshot_index > 0
            assert size > 0

    @pytest.mark.parametrize(
        ("method", "payload"),
        [
            ("add", b""),
            ("add", encode(["s4"])),
            ("add", encode(["s4", 5])),
            ("add", encode(["s4", "s4", False, "more"])),
            ("add", encode({"server": "s4", "address": "s4"})),
            ("add", b"\x93\xa1\xff\xa1a\xc2"),
            ("promote", b"\xff"),
            ("remove", b"\xff"),
            ("change_membership", encode([["s1"], {}, None])),
            ("change_membership", encode([{"s1": 1}, {}, None])),
            ("change_membership", encode([{"s1": "s1"}, {}, "x"])),
            ("join", encode(["raft", "s4", "s4"])),
            ("join", b"\xc1"),
            ("join", b"\x91" * 5000),
        ],
    )
    def test_nonsense(self, method: str, payload: bytes) -> None:
        """What cannot be read is an error with a sentence, and changes nothing."""
        servers = Servers()
        chief = established(servers)
        before = chief.status().last_index
        assert failing(servers, chief.answer(method, payload), InvalidCommandError)
        assert chief.status().last_index == before

    def test_impossible(self) -> None:
        """What can be read, but not be done, is one too."""
        servers = Servers()
        chief = established(servers)
        for method, payload in [
            ("add", encode(["s1", "s1"])),
            ("promote", b"s9"),
            ("remove", b""),
            ("change_membership", encode([{}, {}])),
            ("change_membership", encode([{"s1": "a", "s2": "a"}, {}])),
            ("change_membership", encode([{"s1": "s1"}, {}, -5])),
            ("join", encode(["other", "s4", "s4", "1"])),
        ]:
            assert failing(servers, chief.answer(method, payload), InvalidChangeError)

    def test_others(self) -> None:
        """A follower names the leader; a stopped server says that it is stopped."""
        servers = Servers()
        established(servers)
        follower = servers.followers()[0]
        calls = [
            ("add", encode(["s4", "s4"])),
            ("join", encode(["raft", "s4", "s4", "1"])),
        ]
        for call in calls:
            failing(servers, follower.answer(*call), NotLeaderError)
        servers.stop(follower.name)
        for call in [*calls, ("snapshot", b"")]:
            failing(servers, follower.answer(*call), StoppedError)
