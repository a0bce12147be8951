"""``twistd raft`` and ``raft`` as processes: what they refuse, and how they end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from contextlib import ExitStack, contextmanager
from os import pidfd_open
from select import select
from threading import Timer
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.processes import PATIENCE, SCRIPTS, free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def write_config(directory: Path, **changes: str) -> Path:
    """
    Return the file of a good config of one server, but for *changes*.

    Args:
        directory: Where the file and the data are.
        changes: YAML by key; an empty text drops the key.
    """
    said = {
        "cluster": "raft",
        "members": f"{{s1: 'tcp:127.0.0.1:{free_ports(1)[0]}'}}",
        "serve": "[s1]",
        "data_dir": str(directory / "data"),
        "state_machine": "kvstore",
    }
    said |= changes
    path = directory / "config.yaml"
    path.write_text("".join(f"{key}: {said[key]}\n" for key in said if said[key]))
    return path


def run(
    directory: Path, program: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Return how *program* with *arguments* ends in *directory*."""
    return subprocess.run(
        [SCRIPTS / program, *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(directory)},
        capture_output=True,
        check=False,
        text=True,
        timeout=PATIENCE,
    )


@contextmanager
def running(directory: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run ``twistd -n raft`` with *arguments* until the block ends."""
    process = subprocess.Popen(
        [SCRIPTS / "twistd", "-n", "raft", *arguments],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    # Whoever waits for a line that never comes gets the end of the file.
    watchdog = Timer(PATIENCE, process.kill)
    watchdog.start()
    try:
        yield process
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate(timeout=PATIENCE)


def wait_for(process: subprocess.Popen[str], words: str) -> str:
    """Return the line with *words* when *process* has printed it."""
    assert process.stdout is not None
    printed = []
    for line in process.stdout:
        printed.append(line)
        if words in line:
            return line
    pytest.fail(f"{words!r} was never printed:\n{''.join(printed)}")


def twistd(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Return how ``twistd -n raft`` with *arguments* ends in *directory*."""
    return run(directory, "twistd", "-n", "raft", *arguments)


def assert_refused(
    ended: subprocess.CompletedProcess[str], *expected: str
) -> list[str]:
    """See that there was one line for each of *expected*, and status 1."""
    assert ended.returncode == 1
    assert "Traceback" not in ended.stdout + ended.stderr
    assert ended.stdout == ""
    lines = ended.stderr.splitlines()
    assert len(lines) == len(expected)
    for line, words in zip(lines, expected, strict=True):
        assert words in line
    return lines


class CommandLineTests:
    """What follows ``twistd raft``."""

    def test_no_config(self, tmp_path: Path) -> None:
        """Without a file there is one line that says so."""
        assert_refused(twistd(tmp_path), "say which YAML file to use: --config FILE")

    def test_missing_file(self, tmp_path: Path) -> None:
        """A file that is not there is a finding."""
        assert_refused(
            twistd(tmp_path, "-c", "none.yaml"),
            "none.yaml: the file cannot be read: No such file or directory",
        )


class FindingsTests:
    """What is wrong with a file, or with the machine."""

    def test_everything_in_the_file(self, tmp_path: Path) -> None:
        """All mistakes are told at once, each with its line and a way out."""
        (tmp_path / "config.yaml").write_text(
            "members:\n"
            "  s1: tcp:127.0.0.1:9101\n"
            "  s2: tcp:127.0.0.1:9101\n"
            "sevre: [s1]\n"
            "serve: [s1, s4]\n"
            "state_machine: kvstor\n"
            "storage: {engine: sqlite, optoins: {}}\n"
            "timing: {election_timeout: soon}\n"
            "transport: {options: {}}\n"
        )
        lines = assert_refused(
            twistd(tmp_path, "-c", "config.yaml"),
            "members.s2: 'tcp:127.0.0.1:9101' is the address of s1 already",
            "sevre: 'sevre' is no key here (did you mean 'serve'?)",
            "serve.1: 's4' is not among the members",
            "state_machine: no state machine engine is called 'kvstor'",
            "storage.optoins: 'optoins' is no key here (did you mean 'options'?)",
            "timing.election_timeout: expected a number, got the text 'soon'",
            "transport: 'engine' is missing",
        )
        places = [line.partition(": ")[0] for line in lines]
        assert places == [f"config.yaml:{number}" for number in range(3, 10)]

    def test_stranger(self, tmp_path: Path) -> None:
        """--serve takes members only."""
        path = write_config(tmp_path)
        assert_refused(
            twistd(tmp_path, "-c", str(path), "--serve", "s2"), "[config.E010]"
        )

    def test_unwritable_data_directory(self, tmp_path: Path) -> None:
        """A data directory that cannot be made is refused."""
        (tmp_path / "data").touch()
        path = write_config(tmp_path)
        assert_refused(
            twistd(tmp_path, "-c", str(path)),
            f"config.yaml:4: data_dir: the directory {tmp_path}/data/s1 cannot be used",
        )

    def test_port_in_use(self, tmp_path: Path) -> None:
        """A port that somebody listens on is refused."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            path = write_config(tmp_path, members=f"{{s1: 'tcp:127.0.0.1:{port}'}}")
            assert_refused(twistd(tmp_path, "-c", str(path)), "members.s1: ")

    def test_redis_port_in_use(self, tmp_path: Path) -> None:
        """Before the start, or in its midst: no server runs without its companion."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = f"tcp:127.0.0.1:{taken.getsockname()[1]}"
            options = f"{{engine: kvstore, options: {{resp: '{address}'}}}}"
            path = write_config(tmp_path, state_machine=options)
            assert_refused(
                twistd(tmp_path, "-c", str(path)),
                f"state_machine.options.resp: cannot listen on '{address}'",
            )
        (port,) = free_ports(1)
        options = f"{{engine: kvstore, options: {{resp: 'tcp:localhost:{port}'}}}}"
        member = f"{{s1: 'tcp:127.0.0.1:{port}'}}"
        path = write_config(tmp_path, members=member, state_machine=options)
        ended = twistd(tmp_path, "-c", str(path))
        assert ended.returncode == 1
        assert "s1 stops: unreachable: cannot listen for Redis' clients" in ended.stdout

    def test_directory_of_another(self, tmp_path: Path) -> None:
        """A directory belongs to one server of one cluster, on one engine."""
        path = write_config(tmp_path)
        with running(tmp_path, "-c", str(path)) as process:
            wait_for(process, "s1 became leader")
            assert_refused(
                twistd(tmp_path, "-c", str(write_config(tmp_path))),
                f"process {process.pid} runs the server of",
            )
        assert_refused(
            twistd(tmp_path, "-c", str(write_config(tmp_path, cluster="blue"))),
            "belongs to the cluster 'raft', not 'blue'",
        )
        assert_refused(
            twistd(tmp_path, "-c", str(write_config(tmp_path, storage="rocksdb"))),
            "was written by the storage engine 'sqlite', not by 'rocksdb'",
        )
        (tmp_path / "data" / "s1").rename(tmp_path / "data" / "s2")
        other = write_config(
            tmp_path,
            members=f"{{s2: 'tcp:127.0.0.1:{free_ports(1)[0]}'}}",
            serve="[s2]",
        )
        assert_refused(
            twistd(tmp_path, "-c", str(other)),
            "belongs to the server 's1', not 's2'",
        )


class EndTests:
    """How a process that did start ends."""

    def test_signal(self, tmp_path: Path) -> None:
        """It leaves no pidfile behind, and ends by the signal that it got."""
        path = write_config(tmp_path)
        with running(tmp_path, "-c", str(path)) as process:
            wait_for(process, "s1 became leader")
            assert not (tmp_path / "twistd.pid").exists()
            process.terminate()
            assert process.wait(PATIENCE) == -signal.SIGTERM

    def test_failure(self, tmp_path: Path) -> None:
        """When its last server has failed, it ends with status 1."""
        (tmp_path / "failing.py").write_text(
            "from adapters.storage.memory import MemoryStorage\n"
            "from consensus.errors import StorageError\n"
            "class Failing(MemoryStorage):\n"
            "    def sync(self):\n"
            "        raise StorageError('the disk is on fire')\n"
        )
        ended = twistd(
            tmp_path, "-c", str(write_config(tmp_path, storage="failing.Failing"))
        )
        assert ended.returncode == 1
        assert "the disk is on fire" in ended.stdout
        assert "no server is left in this process" in ended.stdout
        assert "Server Shut Down." in ended.stdout
        assert "Traceback" not in ended.stdout + ended.stderr

    def test_no_place_for_the_log(self, tmp_path: Path) -> None:
        """A log that cannot be opened is a line, and nothing runs."""
        path = write_config(tmp_path)
        ended = run(tmp_path, "twistd", "--logfile=no/log", "raft", "-c", str(path))
        assert_refused(ended, "cannot log to no/log: No such file or directory")

    def test_daemon(self, tmp_path: Path) -> None:
        """Without --nodaemon it leaves the terminal, and its pidfile ends it."""
        path, pidfile = write_config(tmp_path), tmp_path / "s1.pid"
        places = ("--logfile=s1.log", "--pidfile=s1.pid")
        began = run(tmp_path, "twistd", *places, "raft", "-c", str(path))
        assert (began.returncode, began.stdout, began.stderr) == (0, "", "")
        process = pidfd_open(int(pidfile.read_text()))
        try:
            done = run(tmp_path, "raft", "-c", str(path), "kv", "set", "a", "1")
            assert done.returncode == 0, done.stderr
        finally:
            signal.pidfd_send_signal(process, signal.SIGTERM)
            ended, _, _ = select([process], [], [], PATIENCE)
            os.close(process)
        assert ended
        assert not pidfile.exists()
        assert "s1 stopped" in (tmp_path / "s1.log").read_text()


class Cluster:
    """Three members; which of them run is the test's business."""

    def __init__(self, directory: Path, processes: ExitStack) -> None:
        self.directory = directory
        self._processes = processes
        ports = free_ports(3)
        members = ", ".join(
            f"s{number}: 'tcp:127.0.0.1:{port}'" for number, port in enumerate(ports, 1)
        )
        write_config(directory, members=f"{{{members}}}", serve="")

    def start(self, *names: str) -> None:
        """Run *names* in one process; wait until one of them leads."""
        arguments = [each for name in names for each in ("--serve", name)]
        process = self._processes.enter_context(
            running(self.directory, "-c", "config.yaml", *arguments)
        )
        wait_for(process, "became leader in term")

    def raft(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Return how ``raft`` ends; the file is config.yaml by default."""
        ended = run(self.directory, "raft", *arguments)
        assert "Traceback" not in ended.stderr
        return ended

    def status(self) -> dict[str, Any]:
        """Return what every member says of itself."""
        ended = self.raft("status", "--json")
        return {each["server"]: each for each in json.loads(ended.stdout)}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Return a cluster of which nothing runs yet."""
    with ExitStack() as processes:
        yield Cluster(tmp_path, processes)


class RaftCommandTests:
    """Every command, as a user types it."""

    def test_minority_is_down(self, cluster: Cluster) -> None:
        """While two of three run, everything works, and the third is seen."""
        cluster.start("s1", "s2")
        chief = cluster.raft("leader").stdout.strip()
        assert chief in {"s1", "s2"}

        status = cluster.status()
        assert [status[name]["reachable"] for name in sorted(status)] == [
            True,
            True,
            False,
        ]
        assert status[chief]["role"] == "leader"
        ended = cluster.raft("status")
        assert ended.returncode == 0
        rows = [line.split() for line in ended.stdout.splitlines() if line.strip()]
        assert [row[0] for row in rows[2:]] == ["s1", "s2", "s3"]
        assert rows[4][-1] != "yes"

        assert cluster.raft("kv", "set", "colour", "blue").returncode == 0
        ended = cluster.raft("kv", "get", "colour")
        assert (ended.returncode, ended.stdout) == (0, "blue\n")
        assert cluster.raft("kv", "delete", "colour").returncode == 0
        ended = cluster.raft("kv", "get", "colour")
        assert (ended.returncode, ended.stdout) == (1, "")
        assert "colour" in ended.stderr

    def test_transfer(self, cluster: Cluster) -> None:
        """The named member leads then, also if it did; nonsense has status 1."""
        cluster.start("s1", "s2", "s3")
        chief = cluster.raft("leader").stdout.strip()
        heir = next(name for name in ("s1", "s2", "s3") if name != chief)
        ended = cluster.raft("transfer", heir)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout == f"{heir} leads now\n"
        assert cluster.raft("leader").stdout == f"{heir}\n"
        again = cluster.raft("transfer", heir)
        assert (again.returncode, again.stdout) == (0, f"{heir} leads now\n")
        ended = cluster.raft("transfer", "s9")
        assert (ended.returncode, ended.stdout) == (1, "")
        assert "no other voter" in ended.stderr
        assert ended.stderr.count("\n") == 1

    def test_all_are_down(self, cluster: Cluster) -> None:
        """With nobody there, each command says so and ends with status 2."""
        for command in ("status", "leader", "kv get x", "--timeout 1 kv set x y"):
            ended = cluster.raft(*command.split())
            assert ended.returncode == 2, command
            assert "no server can be reached" in ended.stderr, command

    def test_check(self, cluster: Cluster) -> None:
        """Before a start all is well; a running server's port is in use."""
        ended = cluster.raft("check", "--serve", "s1", "--serve", "s2")
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout == "config.yaml: ok\n"
        cluster.start("s1", "s2")
        ended = cluster.raft("check", "--serve", "s1")
        assert ended.returncode == 1
        assert "[datadir.E008]" in ended.stderr
