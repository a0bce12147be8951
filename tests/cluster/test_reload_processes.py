"""Processes that get SIGHUP: what they log, and what they do then."""

from __future__ import annotations

import json
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from consensus import blocking
from contrib.kvstore import KVClient
from tests.support.processes import PATIENCE, MemberProcesses

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def until(is_so: Callable[[], bool], why: Callable[[], str]) -> None:
    """Wait until it is so."""
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end, why()
        time.sleep(0.02)


class Members(MemberProcesses):
    """Three members whose file changes, which is not the clients'."""

    def config_of(self, name: str) -> Path:
        """Return the file of all members."""
        del name
        return self.directory / "members.yaml"

    def rewrite(self, text: str = "", **keys: Any) -> None:
        """Write the file anew, with *keys* and *text* besides."""
        document = {**self.document, **keys}
        self.config_of("").write_text(yaml.safe_dump(document) + text)

    def hang_up(self, words: str) -> None:
        """Send SIGHUP to all; wait until each has logged *words* once more."""
        counts = {name: self.log(name).count(words) for name in self.running}
        for process in self.running.values():
            process.send_signal(signal.SIGHUP)
        for name, count in counts.items():
            until(
                lambda name=name, count=count: self.log(name).count(words) > count,  # type: ignore[misc]
                lambda name=name: self.log(name),  # type: ignore[misc]
            )

    def set(self, key: str, value: str) -> int:
        """Write *value*; return the exit status."""
        return self.raft("kv", "set", key, value).returncode


class Load:
    """
    Writes for as long as a test goes on, one after another.

    Args:
        members: Of what.
    """

    def __init__(self, members: Members) -> None:
        self.count = 0
        self.failures: list[Exception] = []
        self._members = members
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def _write(self) -> None:
        addresses = list(self._members.addresses.values())
        with blocking.connect(addresses) as cluster:
            kv = cluster.use(KVClient)
            while not self._is_over.is_set():
                try:
                    kv.set("load", str(self.count))
                    self.count += 1
                except Exception as error:  # noqa: BLE001 - it is what the test asks
                    self.failures.append(error)

    def __enter__(self) -> None:
        """Begin."""
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        """End."""
        self._is_over.set()
        self._thread.join()


class HangUpTests:
    """SIGHUP, with writes before, between and after."""

    def test_reload(self, tmp_path: Path) -> None:
        """Timeouts, limits and logs change; a broken file and the rest do not."""
        members = Members(tmp_path)
        members.rewrite()
        load = Load(members)
        with members, load:
            for name in members.running:
                until(
                    lambda name=name: " started in term" in members.log(name),  # type: ignore[misc]
                    lambda name=name: members.log(name),  # type: ignore[misc]
                )
            assert members.set("a", "1") == 0

            members.rewrite("timing: {election_timeout: 0.001}\n")
            members.hang_up("everything stays as it was")
            members.rewrite("limits: [1\n")
            members.hang_up("everything stays as it was")
            assert members.set("a", "2") == 0

            timing = {"heartbeat_interval": 0.1, "election_timeout": 0.7}
            limits = {"max_command_bytes": 100, "max_pending_bytes": 100_000}
            members.rewrite(timing=timing, limits=limits, cluster="other")
            members.hang_up("was read again: 4 changed, 1 stayed")
            for name in members.running:
                log = members.log(name)
                assert "timing.election_timeout is 0.7 now, and was 0.25" in log
                assert "cluster stays as it was: it changes with a restart" in log
            assert members.set("a", "x" * 200) != 0
            assert members.set("a", "3") == 0

            members.rewrite(timing=timing, log={"format": "json"})
            members.hang_up("was read again")
            last = json.loads(members.log("s1").splitlines()[-1])
            assert last["fields"]["changed"] == 3
            assert members.set("a", "x" * 200) == 0
            assert members.raft("kv", "get", "a").stdout.strip() == "x" * 200
        # Clients retry what entered no log; nothing else may fail.
        assert load.failures == []
        assert load.count > 0


class JSONTests:
    """What a process logs as JSON."""

    @pytest.mark.parametrize("is_file", [False, True])
    def test_every_line(self, tmp_path: Path, *, is_file: bool) -> None:
        """Every line is an object, from the first on, and none is there twice."""
        members = MemberProcesses(tmp_path, log={"format": "json"})
        if is_file:
            members.options = (f"--logfile={tmp_path / 'own.log'}",)
        members.start("s1")
        members.options = ()
        members.start("s2")
        try:
            secret = "s3cret-value"  # noqa: S105 - it is only looked for
            assert members.raft("kv", "set", "key", secret).returncode == 0
        finally:
            members.stop_all()
        text = (tmp_path / "own.log").read_text() if is_file else members.log("s1")
        lines = [json.loads(line) for line in text.splitlines() if line[0] == "{"]
        assert [line for line in text.splitlines() if line[0] != "{"] == []
        messages = [line["message"] for line in lines]
        assert messages[0].startswith("twistd ")
        assert messages[-1] == "Server Shut Down."
        starting = [each for each in messages if each.startswith("starting s1 of test")]
        assert len(starting) == 1
        assert {tuple(line)[:3] for line in lines} == {("time", "level", "namespace")}
        (started,) = (each for each in lines if " started in term" in each["message"])
        assert started["server"] == "s1"
        assert started["level"] == "info"
        assert started["namespace"] == "consensus.shell.lifecycle"
        assert started["fields"]["term"] >= 0
        assert started["time"].endswith("Z")
        assert secret not in text
