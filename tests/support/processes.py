"""One ``twistd raft`` process for each member of a cluster, to be killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Where the console scripts of this environment are; a link must not be followed.
SCRIPTS = Path(sys.executable).parent

#: Everything takes a second or two; this is for a machine that is busy.
PATIENCE = 60

# The ports of two processes that run tests side by side; of more, some share.
_FIRST_PORT = 11_000
_PORTS_EACH = 10_000
_WORKERS = 2


def _own_ports() -> Iterator[int]:
    """
    Yield ports, round and round, that no other process of tests takes.

    They are below those that the system gives to who connects: one of those
    might be taken by a connection before its server has begun to listen.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = _FIRST_PORT + worker % _WORKERS * _PORTS_EACH
    turn = os.getpid() % _PORTS_EACH
    return cycle(
        [*range(first + turn, first + _PORTS_EACH), *range(first, first + turn)]
    )


_ports = _own_ports()


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on, and that nobody else is given."""
    return list(islice(filter(_is_free, _ports), count))


def _is_free(port: int) -> bool:
    with socket.socket() as taken:
        try:
            taken.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class MemberProcesses:
    """
    Three members, each in a process of its own.

    Args:
        directory: Where the config, the data and the logs go.
        python_path: Where else the processes find modules.
        keys: Further keys of the config.
    """

    def __init__(self, directory: Path, *, python_path: str = "", **keys: Any) -> None:
        self.directory = directory
        self.environment = {**os.environ, "PYTHONPATH": python_path}
        self.addresses = {
            f"s{number}": f"tcp:127.0.0.1:{port}"
            for number, port in enumerate(free_ports(3), 1)
        }
        self.config = directory / "config.yaml"
        document = {
            "cluster": "test",
            "members": self.addresses,
            "state_machine": "kvstore",
            "data_dir": str(directory / "data"),
            **keys,
        }
        self.document = document
        self.config.write_text(yaml.safe_dump(document))
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        #: Further options of ``twistd``.
        self.options: tuple[str, ...] = ()

    def invite(self, name: str, **keys: Any) -> str:
        """
        Write a config for the new server *name*, which joins the others.

        Returns:
            Its address.
        """
        address = f"tcp:127.0.0.1:{free_ports(1)[0]}"
        join = list(self.addresses.values())
        document = {**self.document, "members": {name: address}, "join": join, **keys}
        self.config_of(name).write_text(yaml.safe_dump(document))
        return address

    def config_of(self, name: str) -> Path:
        """Return the file of *name*: its own if it was invited."""
        if name in self.addresses:
            return self.config
        return self.directory / f"{name}.yaml"

    def start(self, name: str, *wrapper: str) -> None:
        """Start the process of *name*, under *wrapper*; it logs to a file."""
        config = self.config_of(name)
        own = ["raft", f"--config={config}", f"--serve={name}"]
        arguments = ["--nodaemon", *self.options, *own]
        with (self.directory / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [*wrapper, SCRIPTS / "twistd", *arguments],
                cwd=self.directory,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def start_all(self) -> None:
        """Start all three."""
        for name in self.addresses:
            self.start(name)

    def kill(self, name: str) -> None:
        """Kill the process of *name* with SIGKILL."""
        process = self.running.pop(name)
        process.kill()
        process.wait()

    def stop(self, name: str) -> None:
        """Stop the process of *name*, as an operator does."""
        process = self.running.pop(name)
        process.send_signal(signal.SIGTERM)
        assert _has_ended(process), self.log(name)

    def stop_all(self) -> None:
        """Stop what runs, as an operator does; nothing may need to be killed."""
        running, self.running = self.running, {}
        for process in running.values():
            process.send_signal(signal.SIGTERM)
        stuck = [name for name, process in running.items() if not _has_ended(process)]
        assert not stuck, {name: self.log(name) for name in stuck}

    def __enter__(self) -> Self:
        """Start all three."""
        self.start_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop what runs."""
        self.stop_all()

    def raft(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the ``raft`` command against the cluster."""
        return subprocess.run(
            [SCRIPTS / "raft", f"--config={self.config}", *arguments],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def log(self, name: str) -> str:
        """Return what *name* has logged."""
        return (self.directory / f"{name}.log").read_text(errors="replace")


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Wait for *process*, and kill it if it does not end."""
    try:
        process.wait(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return True
