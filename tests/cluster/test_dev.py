"""``raft dev`` with real processes."""

from __future__ import annotations

import os
import pty
import subprocess
import termios
from typing import TYPE_CHECKING

import pytest

from tests.support.development import APP, Development, has_ended, open_process
from tests.support.processes import PATIENCE, free_ports

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """Return the file of an application."""
    path = tmp_path / "app.py"
    path.write_text(APP)
    # What calls it is not changed with it.
    (tmp_path / "caller.py").write_text(APP)
    return path


class DevelopTests:
    """What a developer does all day."""

    def test_a_day(self, app: Path, tmp_path: Path) -> None:
        """
        It starts, writes, takes changed code, and bears code that is wrong.

        Ctrl-C leaves no process, and no file.
        """
        with Development(tmp_path, "app:Counter") as dev:
            config = dev.ready()
            assert dev.add(5) == 5
            app.write_text(APP.replace("+= by", "+= 100 * by"))
            dev.wait_for("app.py changed")
            dev.wait_for("all members have the new code")
            # The log is applied by the new code.
            assert dev.add(1) == 600
            app.write_text(APP + ")")
            assert "SyntaxError" in dev.wait_for("cannot be imported")
            dev.wait_for("the members go on")
            assert dev.add(1) == 700
            members = [open_process(each) for each in dev.members()]
            assert len(members) == 3
            assert dev.interrupt() == 0
            assert all(map(has_ended, members))
            assert not config.parent.exists()

    def test_it_does_not_outlive_its_parent(self, tmp_path: Path) -> None:
        """When it is killed, its members are gone as well; a paused one, too."""
        with Development(tmp_path, "counter") as dev:
            dev.ready()
            members = [open_process(each) for each in dev.members()]
            dev.type("pause s2")
            assert "paused" in dev.status("s2")
            dev.process.kill()
            assert len(members) == 3
            assert all(map(has_ended, members))

    def test_a_directory_that_stays(self, tmp_path: Path) -> None:
        """With --data, the next run goes on where the last one ended."""
        base = free_ports(1)[0]
        arguments = ("kvstore", "-n", "1", "--port", str(base), "--data", "kept")
        for number in (1, 2):
            with Development(tmp_path, *arguments) as dev:
                dev.ready()
                assert dev.addresses() == [f"tcp:127.0.0.1:{base}"]
                assert dev.raft("kv", "incr", "runs").stdout == f"{number}\n"
                dev.type("quit")
                assert dev.process.wait(timeout=PATIENCE) == 0
        with Development(tmp_path, "kvstore", "--data", "kept") as dev:
            dev.wait_for("has 1 members of 'kvstore'")
            assert dev.process.wait(timeout=PATIENCE) == 1

    @pytest.mark.parametrize(
        ("machine", "words"),
        [
            ("app:Nothing", "the module 'app' has no 'Nothing'"),
            ("nowhere:Counter", "No module named 'nowhere'"),
            ("kvstor", "did you mean 'kvstore'?"),
            ("app:", "'app:' names no state machine"),
        ],
    )
    def test_wrong_names(
        self, app: Path, tmp_path: Path, machine: str, words: str
    ) -> None:
        """A name of nothing is told, and nothing is started."""
        assert app.exists()
        with Development(tmp_path, machine) as dev:
            dev.wait_for(words)
            rest, _ = dev.process.communicate(timeout=PATIENCE)
            assert dev.process.returncode == 1
            assert "listen" not in "".join(dev.printed) + rest


class FaultTests:
    """What is typed to hurt the cluster."""

    def test_faults(self, tmp_path: Path) -> None:
        """Each fault is there when it is typed, and gone when it is healed."""
        with Development(tmp_path, "kvstore") as dev:
            dev.ready()
            first = dev.leader()
            other = next(name for name in ("s1", "s2") if name != first)
            dev.type(f"pause {first}", "wait")
            dev.wait_for(" leads in term ")
            second = dev.leader()
            assert second != first
            dev.type("heal", "wait", f"skew {other} -1h")
            rest = " ".join(name for name in ("s1", "s2", "s3") if name != second)
            dev.type(f"partition {second} | {rest}", "wait")
            dev.wait_for(" leads in term ")
            third = dev.leader()
            assert third != second
            assert "cut off" in dev.status(second)
            assert dev.raft("kv", "set", "colour", "blue").returncode == 0
            dev.type("heal", f"slow {third} 10ms", "wait")
            assert "syncs +0.01 s" in dev.status(third)
            dev.type(f"kill {second}")
            dev.wait_for(f"{second} is dead")
            dev.type(f"start {second}", f"stop {second}")
            dev.wait_for(f"{second} has stopped")
            dev.type("heal", "wait")
            assert "follower" in dev.status(second)

    def test_a_member_that_dies_is_told(self, tmp_path: Path) -> None:
        """A member that somebody else kills is dead, and can be started again."""
        with Development(tmp_path, "counter") as dev:
            dev.ready()
            victim = dev.members()[0]
            subprocess.run(["kill", "-KILL", str(victim)], check=True)
            name = dev.wait_for("is dead").split()[0]
            dev.type(f"start {name}", "wait")
            assert "term" in dev.status(name)

    def test_mistakes(self, tmp_path: Path) -> None:
        """What makes no sense is told, with what would, and changes nothing."""
        with Development(tmp_path, "counter", "-n", "1", "--no-reload") as dev:
            dev.ready()
            for line, words in {
                "frob": "there is no command 'frob'",
                "stop": "say which servers; it is: stop SERVER…",
                "stop s9": "there is no server 's9'",
                "partition s1 |": "put each server on one side",
                "slow s1 1h": "from 0 to 10 seconds",
                "slow s1 -1s": "from 0 to 10 seconds",
                "skew s1 soon": "'soon' is no time",
                "skew s1": "say one server, and how long",
                "partition s1 | s9": "there is no server 's9'",
                "heal now": "nothing comes after it",
            }.items():
                dev.type(line)
                dev.wait_for(words)
            assert "leader" in dev.status("s1")


class ButtonTests:
    """What a page with buttons gets from a member, over HTTP."""

    def test_faults_over_http(self, tmp_path: Path) -> None:
        """All faults are listed; each is made and ended, also at who is asked."""
        with Development(tmp_path, "kvstore") as dev:
            dev.ready()
            leader = dev.leader()
            other = next(name for name in ("s1", "s2") if name != leader)
            listed = dev.http(leader, "faults")[1]
            assert [each["name"] for each in listed] == [
                *("stop", "pause", "partition", "slow-disk", "clock-skew")
            ]
            assert all(each["servers"] == ["s1", "s2", "s3"] for each in listed)
            described = dev.http(leader, "/openapi.json")[1]["paths"]
            assert "/api/v1/faults/{name}" in described
            for name in ("slow-disk", "clock-skew", "partition", "pause"):
                for on, active in ((True, [other]), (False, [])):
                    asked = {"server": other, "on": on}
                    status, found = dev.http(leader, f"faults/{name}", asked)
                    assert (status, found["active"]) == (200, active)
            # Who is asked to stop answers before it does.
            asked = {"server": other, "on": True}
            assert dev.http(other, "faults/stop", asked)[1]["active"] == [other]
            dev.wait_for(f"{other} has stopped")
            status, found = dev.http(leader, "faults/pause", asked)
            assert (status, found["error"]["code"]) == (409, "rejected")
            dev.http(leader, "faults/stop", {"server": other, "on": False})
            dev.type("wait")
            assert "follower" in dev.status(other)

    def test_mistakes_over_http(self, tmp_path: Path) -> None:
        """A fault or a server that is not there is told, as is a strange body."""
        with Development(tmp_path, "counter", "-n", "1") as dev:
            dev.ready()
            asked: object
            for path, asked, expected in (
                ("faults/flood", {"server": "s1", "on": True}, (404, "not_found")),
                ("faults/stop", {"server": "s2", "on": True}, (400, "invalid_request")),
                ("faults/stop", {"server": "s1"}, (400, "invalid_request")),
            ):
                status, found = dev.http("s1", path, asked)
                assert (status, found["error"]["code"]) == expected


class TerminalTests:
    """What is typed into a terminal, rather than a pipe."""

    def test_the_end_of_input(self, tmp_path: Path) -> None:
        """Ctrl-D ends all, and the terminal is as it was before."""
        ours, theirs = pty.openpty()
        before = termios.tcgetattr(theirs)
        with Development(tmp_path, "counter", "-n", "1", stdin=theirs) as dev:
            dev.ready()
            os.write(ours, b"status\n")
            assert "leader" in dev.wait_for("s1 at tcp:")
            os.write(ours, b"\x04")
            assert dev.process.wait(timeout=PATIENCE) == 0
        assert termios.tcgetattr(theirs) == before
        os.close(ours)
        os.close(theirs)
