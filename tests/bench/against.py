"""Other systems, measured side by side with ours in the same run."""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

from tests.bench.cluster import Cluster, free_ports
from tests.bench.control import PATIENCE, BenchError, Child
from tests.bench.scenarios import System

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# How often it is looked whether a server answers.
_GLANCE = 0.05


class PySyncObjCluster(Cluster):
    """
    Servers of PySyncObj, with a replicated dictionary.

    Args:
        directory: Empty; where data and logs go.
        members: How many servers.
    """

    module = "tests.bench.pysyncobj_member"

    def __init__(self, directory: Path, members: int = 3) -> None:
        super().__init__(directory, "", members)

    def spawn(self, name: str) -> Child:
        """Start the process of *name*."""
        addresses = {each: f"127.0.0.1:{port}" for each, port in self.ports.items()}
        self.running[name] = Child.python(
            name,
            self.module,
            self.directory / f"{name}.log",
            {
                "name": name,
                "addresses": addresses,
                "journal": str(self.directory / f"{name}.journal"),
            },
        )
        return self.running[name]


def _pysyncobj() -> System:
    if importlib.util.find_spec("pysyncobj") is None:
        raise BenchError("PySyncObj is not installed: pip install twisted-raft[bench]")
    return System(
        "pysyncobj",
        PySyncObjCluster,
        is_ours=False,
        can_read=False,
        remark="pysyncobj: its journal is on, but it never syncs it; it has no"
        " linearizable reads",
    )


class EtcdCluster(Cluster):
    """
    Servers of etcd, and a process that is their client.

    Args:
        directory: Empty; where data and logs go.
        members: How many servers.
    """

    def __init__(self, directory: Path, members: int = 3) -> None:
        super().__init__(directory, "", members)
        among = free_ports(members)
        self.peers = {
            name: f"http://127.0.0.1:{port}"
            for name, port in zip(self.ports, among, strict=True)
        }
        self.outside = Child.python(
            "client", "tests.bench.etcd_client", directory / "client.log", {}
        )
        self.others.append(self.outside)

    def spawn(self, name: str) -> Child:
        """Start the process of *name*."""
        clients, peers = f"http://127.0.0.1:{self.ports[name]}", self.peers[name]
        together = ",".join(f"{each}={url}" for each, url in self.peers.items())
        command = [
            *("etcd", "--name", name, "--log-level", "error"),
            *("--data-dir", str(self.directory / f"{name}.data")),
            *("--listen-client-urls", clients, "--advertise-client-urls", clients),
            *("--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers),
            *("--initial-cluster", together),
        ]
        self.running[name] = Child(name, command, self.directory / f"{name}.log")
        return self.running[name]

    def start(self, *names: str) -> float:
        """Start the servers of *names*, and wait until they answer."""
        began = time.monotonic()
        for name in names:
            self.spawn(name)
        for name in names:
            while self._status(name) is None:
                self.running[name].check()
                if time.monotonic() > began + PATIENCE:
                    message = f"{name} of etcd does not answer"
                    raise BenchError(message)
                time.sleep(_GLANCE)
        return began

    def settle(self) -> str:
        """Wait until all that run agree on a leader; return who it is."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            known = {name: self._status(name) or {} for name in self.running}
            leaders = {each.get("leader", "0") for each in known.values()}
            for name, each in known.items():
                if leaders == {each.get("header", {}).get("member_id", "")}:
                    return name
            time.sleep(_GLANCE)
        raise BenchError("the servers of etcd do not agree on a leader")

    def _status(self, name: str) -> dict[str, Any] | None:
        """Return what *name* knows; ``None`` if it does not answer."""
        url = f"http://127.0.0.1:{self.ports[name]}/v3/maintenance/status"
        try:
            with urlopen(url, b"{}", timeout=2) as answer:
                found: dict[str, Any] = json.load(answer)
        except OSError:
            return None
        return found

    def driver(self) -> Child:
        """Return the client."""
        return self.outside

    def begin(self, driver: Child, action: str, **shape: Any) -> int:
        """Begin a load at the leader."""
        return driver.send(action, port=self.ports[self.settle()], **shape)

    def watch(self, survivors: list[Child], dead: str) -> list[tuple[Child, int]]:
        """Begin to look when one of *survivors* takes writes instead of *dead*."""
        ports = [self.ports[each.name] for each in survivors if each.name != dead]
        number = self.outside.send("watch", ports=ports, seconds=PATIENCE / 2)
        return [(self.outside, number)]


def _etcd() -> System:
    if shutil.which("etcd") is None:
        raise BenchError("there is no etcd on the PATH")
    return System(
        "etcd",
        EtcdCluster,
        is_ours=False,
        remark="etcd: its client is a process of its own, in Python, over gRPC, which"
        " takes its share of the processors and is not counted in the CPU seconds, as"
        " the load of the others is",
    )


#: What can be measured against; each raises BenchError if it is not to be had.
RIVALS: dict[str, Callable[[], System]] = {"pysyncobj": _pysyncobj, "etcd": _etcd}
