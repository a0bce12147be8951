"""A ``raft dev`` in a process, that tests type into."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from threading import Timer
from typing import Any, Self
from urllib.parse import urlsplit

from tests.support.processes import PATIENCE, SCRIPTS

#: A machine that is easy to change: what it adds is in its text.
APP = """
from consensus.declare import Machine, read, write


class Counter(Machine):
    value: int

    def __init__(self) -> None:
        self.value = 0

    @write
    def add(self, by: int) -> int:
        self.value += by
        return self.value
"""

#: Adds to the counter, and prints what it is then.
ADD = """
import sys
from caller import Counter
from consensus.blocking import connect
with connect(sys.argv[2:]) as cluster:
    print(cluster.use(Counter.client).add(int(sys.argv[1])))
"""


class Development:
    """
    A cluster in a terminal, which is a pipe.

    Args:
        directory: Where it is typed.
        arguments: What stands behind ``raft dev``.
        stdin: From where it reads; by default from :meth:`type`.
    """

    def __init__(
        self, directory: Path, *arguments: str, stdin: int = subprocess.PIPE
    ) -> None:
        self.directory = directory
        self.process = subprocess.Popen(
            [SCRIPTS / "raft", "dev", *arguments],
            cwd=directory,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.printed: list[str] = []
        #: Of the cluster, when it is ready.
        self.config = directory
        # Whoever waits for a line that never comes gets the end of the file.
        self._watchdog = Timer(2 * PATIENCE, self.process.kill)
        self._watchdog.start()

    def __enter__(self) -> Self:
        """Lend it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what is left."""
        self._watchdog.cancel()
        self.process.kill()
        self.process.communicate(timeout=PATIENCE)

    def wait_for(self, words: str, *, at_start: bool = False) -> str:
        """Return the next line with *words*, or that begins with them."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.printed.append(line)
            if line.startswith(words) if at_start else words in line:
                return line
        message = f"{words!r} was never printed:\n{''.join(self.printed)}"
        raise AssertionError(message)

    def type(self, *lines: str) -> None:
        """Type *lines*."""
        assert self.process.stdin is not None
        self.process.stdin.write("".join(f"{line}\n" for line in lines))
        self.process.stdin.flush()

    def ready(self) -> Path:
        """Wait until it is ready; return its config."""
        self.wait_for("ready")
        words = self.wait_for("raft -c").split()
        self.config = Path(words[words.index("-c") + 1])
        return self.config

    def raft(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``raft`` with *arguments* when it is ready."""
        return raft(self.config, *arguments)

    def leader(self) -> str:
        """Return who leads by what was printed last."""
        lines = [line for line in self.printed if " leads in term " in line]
        return lines[-1].split()[0]

    def status(self, server: str) -> str:
        """Return what it says of *server*."""
        self.type("status")
        names = [f"s{number}" for number, _ in enumerate(self.addresses(), 1)]
        lines = {
            name: self.wait_for(f"{name} at tcp:", at_start=True) for name in names
        }
        return lines[server]

    def page(self, server: str) -> str:
        """Return where *server* shows the console."""
        shown = next(each for each in self.printed if f"{server} shows itself" in each)
        return shown.split()[-1]

    def http(self, server: str, path: str, body: object = None) -> tuple[int, Any]:
        """Return status and JSON of what *server* answers; with *body*, to a POST."""
        parts = urlsplit(self.page(server))
        connection = HTTPConnection(parts.netloc, timeout=PATIENCE)
        path = path if path.startswith("/") else f"/api/v1/{path}"
        with closing(connection):
            if body is None:
                connection.request("GET", path)
            else:
                headers = {"Content-Type": "application/json"}
                connection.request("POST", path, json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def members(self) -> list[int]:
        """Return the process ids of the members."""
        task = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(word) for word in task.read_text().split()]

    def interrupt(self) -> int:
        """Press Ctrl-C; return the exit status."""
        self.process.send_signal(signal.SIGINT)
        rest, _ = self.process.communicate(timeout=PATIENCE)
        self.printed.append(rest)
        return self.process.returncode

    def addresses(self) -> list[str]:
        """Return where the members listen."""
        return [
            line.split()[-1] for line in self.printed if " is to listen at " in line
        ]

    def add(self, number: int) -> int:
        """Add *number* to the counter; return what it is then."""
        done = subprocess.run(
            [sys.executable, "-c", ADD, str(number), *self.addresses()],
            cwd=self.directory,
            env={
                **os.environ,
                "PYTHONPATH": f"{Path.cwd()}{os.pathsep}{self.directory}",
            },
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return int(done.stdout)


def raft(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``raft`` with *arguments*."""
    return subprocess.run(
        [SCRIPTS / "raft", "-c", config, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def open_process(pid: int) -> int:
    """Return a descriptor of the process *pid*."""
    return os.pidfd_open(pid)


def has_ended(descriptor: int) -> bool:
    """Wait for the end of the process of *descriptor*, and close that."""
    ready, _, _ = select.select([descriptor], [], [], PATIENCE)
    os.close(descriptor)
    return bool(ready)
