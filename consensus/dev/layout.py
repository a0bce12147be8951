"""The directory of a ``raft dev`` cluster, and the config in it."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from consensus import registry
from consensus.durable import NEW

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from consensus.core.values import Address, ServerId

_CONFIG = "config.yaml"
_LOOPBACK = "127.0.0.1"
_LARGEST_PORT = 65_535

#: The page that is a console, if it is installed.
_CONSOLE = "console"

#: Beyond it, a terminal is no place for a cluster.
MOST_MEMBERS = 9


class LayoutError(Exception):
    """The cluster cannot be laid out as it was asked for."""


@dataclass(frozen=True, slots=True)
class Layout:
    """
    Where the cluster is.

    Args:
        directory: Of the config and the data.
        machine: The state machine, as the config names it.
        members: The address of each.
        http: Where each answers HTTP.
    """

    directory: Path
    machine: str
    members: Mapping[ServerId, Address]
    http: Mapping[ServerId, Address]

    @property
    def config(self) -> Path:
        """Return the YAML file."""
        return self.directory / _CONFIG

    def page_of(self, server: ServerId) -> str:
        """Return the URL of the console at *server*, or of its API; or nothing."""
        port = self.http.get(server, "").rpartition(":")[2]
        page = f"{_CONSOLE}/" if _CONSOLE in registry.page_names() else "api/v1/status"
        return f"http://{_LOOPBACK}:{port}/{page}" if port else ""


def machine_name(asked: str) -> str:
    """
    Return what a config calls the state machine *asked*, ``app:Machine`` say.

    Raises:
        LayoutError: It is no name of one.
    """
    module, colon, name = asked.partition(":")
    if not asked or (colon and not (module and name)) or ":" in name:
        message = f"{asked!r} names no state machine: write MODULE:CLASS, or a name"
        raise LayoutError(message)
    return f"{module}.{name}" if colon else asked


def lay_out(directory: Path, machine: str, count: int, base: int | None) -> Layout:
    """
    Return the cluster in *directory*, new or as it was there before.

    A new one has its config written.

    Args:
        directory: Made if it is not there.
        machine: The state machine, as a config names it.
        count: How many members there are.
        base: The first port; without, free ones are taken.

    Raises:
        LayoutError: There is another cluster in *directory*, or no room for
            this one.
    """
    directory = directory.absolute()
    path = directory / _CONFIG
    if path.exists():
        return _found(directory, machine, count, base)
    ports = _free_ports(2 * count) if base is None else _ports_from(base, 2 * count)
    addresses = [f"tcp:{_LOOPBACK}:{port}" for port in ports]
    names = [f"s{number}" for number in range(1, count + 1)]
    members = dict(zip(names, addresses[:count], strict=True))
    http = dict(zip(names, addresses[count:], strict=True))
    document = {"cluster": "dev", "members": members, "state_machine": machine}
    _write(path, document | {"http": http})
    return Layout(directory, machine, members, http)


def _write(path: Path, document: Mapping[str, Any]) -> None:
    text = "# Made by raft dev.\n" + yaml.safe_dump(dict(document), sort_keys=False)
    unfinished = path.with_name(path.name + NEW)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(text)
        unfinished.replace(path)
    except OSError as error:
        message = f"cannot write {path}: {error.strerror}"
        raise LayoutError(message) from error


def _found(directory: Path, machine: str, count: int, base: int | None) -> Layout:
    """Return the cluster that is there, if it is what was asked for."""
    path = directory / _CONFIG
    try:
        found = yaml.safe_load(path.read_text())
        members, there = dict(found["members"]), found["state_machine"]
        http = dict(found["http"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        message = f"{path} is no config of raft dev: {error}"
        raise LayoutError(message) from error
    hint = "name another --data directory, or remove this one"
    if there != machine or len(members) != count:
        message = f"{directory} has {len(members)} members of {there!r}: {hint}"
        raise LayoutError(message)
    if base is not None and f"tcp:{_LOOPBACK}:{base}" != members.get("s1"):
        message = f"{directory} has its members at other ports: {hint}"
        raise LayoutError(message)
    return Layout(directory, machine, members, http)


def _ports_from(base: int, count: int) -> list[int]:
    if base + count - 1 > _LARGEST_PORT:
        message = f"there are no {count} ports from {base} on"
        raise LayoutError(message)
    return list(range(base, base + count))


def _free_ports(count: int) -> list[int]:
    """Return ports of loopback that nobody listens on right now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((_LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]
