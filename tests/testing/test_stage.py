"""Tests of consensus.testing.stage, where the scenarios show too little of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from consensus.testing.stage import CommandError, Stage

ROOT = Path(__file__).parents[2]


def run(*commands: str) -> list[str]:
    """Return what the last of *commands* causes."""
    stage = Stage()
    caused: list[str] = []
    for command in commands:
        caused = stage.run(command)
    return caused


LED = ("start 3", "quietly elect s1")


class RefusalTests:
    """A bad command says what is wrong with it."""

    @pytest.mark.parametrize(
        ("command", "complaint"),
        [
            ("", "there is no command ''; there are: add, change"),
            ("quietly", "there is no command ''"),
            ("start", "say how many servers, or their names"),
            ("start s1 s1", "say how many servers"),
            ("start S1", "say how many servers"),
            ("start 3 patience=4", "there is no option 'patience'"),
            ("start 3 max_inflight=two", "'two' is no number"),
            ("start 3 stable_leader=true", "'true' is neither yes nor no"),
            ("tick", "say a server"),
            ("tick s9", "there is no server 's9'"),
            ("tick s1 -1", "'-1' is no number"),
            ("tick s1 1 1", "this is too much: 1"),
            ("tick s1 until king", "'king' is no role; those are: follower, pre-"),
            ("tick s1 until pre-candidate", "s1 does not become pre-candidate"),
            ("crash s1 s2", "this is too much: s2"),
            ("restart s1", "s1 runs"),
            ("deliver s1", "'s1' is no link"),
            ("deliver s1→s9", "there is no server 's9'"),
            ("deliver s1→s2 1", "only 0 messages are under way there"),
            ("lose s1→s2 1", "only 0 messages are under way there"),
            ("deliver s1↔s2 1", "this is too much: 1"),
            ("isolate", "say whom"),
            ("sync s1", "no write of s1 waits"),
            ("damage s1", "s1 receives no snapshot"),
            ("add s1", "'s1' is there already, or no name"),
            ("store s1 2 1", "terms do not decrease"),
            ("store s1 2 speed=1", "terms do not decrease; options are"),
            ("store s1 3 term=2", "no server is in an older term than its log"),
            ("store s1 3 vote=s9", "there is no server 's9'"),
            ("propose s1", "say what"),
            ("read s1", "say a number for the read"),
            ("change s1 s1 s9", "there is no server 's9'"),
            ("transfer s1 s9", "there is no server 's9'"),
            ("show s9", "there is no server 's9'"),
        ],
    )
    def test_bad_commands(self, command: str, complaint: str) -> None:
        """Each is an error of its own."""
        with pytest.raises(CommandError, match="^" + re.escape(complaint)):
            run("start 3", command)

    def test_before_the_start(self) -> None:
        """Nothing can be done with servers that are not there."""
        with pytest.raises(CommandError, match=r"^nobody is there yet"):
            run("tick s1")

    def test_one_that_is_down(self) -> None:
        """Nothing can be asked of a server that is down."""
        with pytest.raises(CommandError, match=r"^s1 is down$"):
            run("start 3", "crash s1", "tick s1")

    def test_one_that_cannot_be_elected(self) -> None:
        """A leader does not stand for election."""
        with pytest.raises(CommandError, match=r"^s1 never stood for election$"):
            run(*LED, "elect s1")

    def test_what_the_server_refuses(self) -> None:
        """What a server refuses is what the command causes."""
        refused = ["s2 refuses: NotLeaderError: not the leader; ask s1"]
        for command in ("propose s2 x", "transfer s2", "change s2 s1 s2"):
            assert run(*LED, command) == refused
        assert run(*LED, "transfer s1 s1") == [
            "s1 refuses: InvalidChangeError: s1 leads already"
        ]
        assert run("start 3", "read s1 1") == [
            "s1 refuses: NotLeaderError: no leader is known"
        ]

    def test_a_message_that_breaks_the_protocol(self) -> None:
        """What a server makes of it is what the delivery causes."""
        # s3 forgets its vote, and gives it once more: two leaders in one term.
        caused = run(
            *("start 3", "quietly tick s1 until candidate", "quietly deliver s1↔s3"),
            *("store s3 term=1", "quietly tick s2 until candidate"),
            *("quietly lose *→s1", "quietly lose s1→*", "quietly deliver s2↔s3"),
            "deliver s2→s1",
        )
        refused = "s2 claims to lead term 2, which this server leads"
        assert caused == [f"s1 refuses: ProtocolError: {refused}"]


class MessageTests:
    """What is under way is delivered, lost, or comes twice."""

    def test_one_way(self) -> None:
        """What one delivery causes stays under way."""
        caused = run(*LED, "quietly propose s1 x", "deliver s1→s2")
        assert caused == ["s2→s1 AppendEntriesResponse term 2, matches up to 3"]

    def test_from_anybody(self) -> None:
        """A star is anybody."""
        before = (*LED, "quietly propose s1 x")
        assert run(*before, "deliver *->s2") == run(*before, "deliver s1→s2")

    def test_the_oldest(self) -> None:
        """A number says how many of them."""
        before = (*LED, "quietly propose s1 x", "quietly propose s1 y")
        assert run(*before, "deliver s1→s2 1", "deliver s1→s2") == [
            "s2→s1 AppendEntriesResponse term 2, matches up to 4"
        ]

    def test_twice(self) -> None:
        """What is repeated arrives once more, behind all else."""
        caused = run(
            *LED, "quietly propose s1 x", "repeat s1→s2", "lose s1→s3", "deliver"
        )
        again = "s2→s1 AppendEntriesResponse term 2, matches up to 3"
        assert caused.count(again) == 3  # the third one is told what is committed

    def test_one_direction_is_cut(self) -> None:
        """What goes the other way arrives."""
        caused = run(*LED, "cut s2→s1", "quietly propose s1 x", "deliver s1<->s2")
        assert caused == [
            "s2→s1 AppendEntriesResponse term 2, matches up to 3",
            "lost: s2→s1 AppendEntriesResponse term 2, matches up to 3",
        ]

    def test_time_passes_for_all(self) -> None:
        """All that is sent in a tick arrives before the next one."""
        assert run("start 3", "quietly pass 20", "show")[0].startswith("s1 is ")
        assert any("commits 2" in line for line in run("start 3", "pass 20"))


class DiskTests:
    """What a disk does can be seen, or what it does not."""

    def test_slow_installation(self) -> None:
        """A snapshot that waits to be stored counts for nothing yet."""
        before = (
            *(*LED, "crash s3", "quietly propose s1 x", "quietly deliver"),
            *("quietly snapshot s1", "restart s3", "slow-install s3"),
            *("quietly tick s1 2", "quietly deliver"),
        )
        assert "1.1 2.2; durable 2" in run(*before, "show s3")[0]
        assert run(*before, "install s3")[1] == "s3 keeps snapshot 3.2"

    def test_a_disk_that_is_down(self) -> None:
        """What is on a disk can be seen while its server is down."""
        assert run(*LED, "crash s2", "show s2") == [
            "s2 is down: term 2, vote s1, 1.1 2.2"
        ]


def test_every_command_is_explained() -> None:
    """The page about scenarios has a line for each command."""
    page = (ROOT / "docs/howto/read-and-write-a-scenario.md").read_text()
    explained = re.findall(r"^\| `([a-z-]+)[ `]", page, re.MULTILINE)
    assert sorted(set(explained) - {"quietly"}) == Stage().commands
