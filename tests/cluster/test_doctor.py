"""``raft doctor`` with real disks, clusters and strangers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from consensus.doctor.ports import holder_of
from tests.support.development import Development, raft
from tests.support.processes import free_ports

if TYPE_CHECKING:
    from pathlib import Path


class DoctorTests:
    """``raft doctor`` and a cluster that is ill."""

    def test_a_cluster_up_and_down(self, tmp_path: Path) -> None:
        """It finds the clock that is wrong, and who does not answer."""
        with Development(tmp_path, "kvstore", "--data", "kept") as dev:
            config = dev.ready()
            well = raft(config, "doctor", "--serve", "s1")
            assert well.returncode == 0, well.stderr
            assert "measuring the disk" in well.stderr
            assert "[doctor." not in without_hosts(well.stderr)
            assert "election_timeout" in well.stdout
            dev.type("skew s2 +90s", "stop s3")
            dev.wait_for("s3 has stopped")
            ill = raft(config, "doctor", "--json", "--serve", "s3")
            found = json.loads(ill.stdout)
            told = {each["id"]: each["path"] for each in found["findings"]}
            assert told["doctor.W008"] == "members.s2"
            assert told["doctor.W007"] == "members.s3"
            assert [each["server"] for each in found["disks"]] == ["s3"]
            assert {each["server"]: each["role"] for each in found["network"]}[
                "s3"
            ] is None
            # It is a warning that one is down.
            assert ill.returncode == 0
            dev.interrupt()
        down = json.loads(raft(config, "doctor", "--json").stdout)
        assert [each["role"] for each in down["network"]] == [None] * 3
        assert down["disks"][0]["syncs"]["count"] > 0

    def test_a_wrong_set_up(self, tmp_path: Path) -> None:
        """Strangers at a member's address are errors."""
        with Development(tmp_path, "kvstore", "-n", "1", "--data", "kept") as dev:
            config = dev.ready()
            (address,) = dev.addresses()
            port = free_ports(1)[0]
            text = config.read_text()
            for change, expected in (
                (text.replace("s1:", "s2:"), "doctor.E003"),
                (text.replace("cluster: dev", "cluster: other"), "doctor.E004"),
            ):
                assert address in change
                wrong = tmp_path / "wrong.yaml"
                wrong.write_text(change)
                done = raft(wrong, "doctor")
                assert done.returncode == 1
                assert f"[{expected}]" in done.stderr
            with subprocess.Popen(
                [
                    sys.executable,
                    "-um",
                    "http.server",
                    "--bind",
                    "127.0.0.1",
                    str(port),
                ],
                stderr=subprocess.PIPE,
                stdout=subprocess.PIPE,
            ) as stranger:
                assert stranger.stdout is not None
                stranger.stdout.readline()
                wrong.write_text(text.replace(address, f"tcp:127.0.0.1:{port}"))
                done = raft(wrong, "doctor", "--serve", "s1")
                stranger.send_signal(signal.SIGKILL)
            assert done.returncode == 1
            assert f"held by process {stranger.pid}" in done.stderr
            assert "transport.E102" not in done.stderr


def without_hosts(text: str) -> str:
    """Return *text* without what depends on the host that tests run on."""
    of_host = ("W001", "W002", "W003", "W005", "W006", "W009", "W010")
    lines = [
        line
        for line in text.splitlines()
        if not any(f"[doctor.{each}]" in line for each in of_host)
    ]
    return "\n".join(lines)


class HolderTests:
    """Who listens."""

    def test_this_process(self) -> None:
        """It is found by its port; where nobody listens, nobody is."""
        with closing(socket.socket()) as listener:
            listener.bind(("127.0.0.1", 0))
            address = f"tcp:127.0.0.1:{listener.getsockname()[1]}"
            assert holder_of(address) == ""
            listener.listen()
            assert holder_of(address).startswith(f"process {os.getpid()} ")

    @pytest.mark.parametrize("address", ["unix:/tmp/socket", "nonsense"])
    def test_other_addresses(self, address: str) -> None:
        """Of what is no port, nothing is known."""
        assert holder_of(address) == ""
