"""
All that can be known before a start; ``raft check`` and ``twistd raft`` ask.

What the parts find keeps their ids (``datadir.E001``, ``tls.E002``); of this
module are:

============== ========================================================
http.E001      where HTTP is to be answered is no address
http.E002      it cannot be listened on, or is a member's
checks.E001    an engine's own check failed
config.W001    an even number of members
storage.W001   the storage forgets everything when its server stops
transport.E001 a command may be larger than the transport's messages
============== ========================================================
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from consensus import certificates, registry, tracing
from consensus.access import files
from consensus.addresses import check_address
from consensus.datadir import DataDirectory
from consensus.errors import Finding
from consensus.interfaces import no_authentication, no_encryption
from consensus.settings.http_addresses import beneath

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from consensus.config import Config, Engine
    from consensus.core.values import Address, ServerId


_HTTP_IDS = ("http.E001", "http.E002")


def run(config: Config) -> list[Finding]:
    """
    Return what speaks against a start with *config*, in the file's order.

    What several servers of this process would say alike is said once.

    It looks at directories and ports, and changes nothing.  It is meant for
    the moment before a start: a running server's port is in use, of course.
    """
    findings = [
        *_members(config),
        *_state_machine(config),
        *_transport(config),
        *_tls(config),
        *_access(config),
        *_http(config),
        *tracing.check(config),
        *_storage(config),
        *registry.unavailable(),
    ]
    placed = [
        replace(finding, line=finding.line or config.line_of(finding.path))
        for finding in findings
    ]
    return sorted(dict.fromkeys(placed), key=lambda each: each.line)


def render(finding: Finding, source: str) -> str:
    """Return *finding* as one line, with the file and the line before it."""
    where = f"{source}:{finding.line}" if finding.line else source
    text = " ".join(str(replace(finding, line=0)).split())
    return f"{where}: {text}" if where else text


def of_running(config: Config) -> list[Finding]:
    """
    Return what speaks against *config* for servers that run already.

    Their ports and directories are in use: by themselves.
    """
    return [*_members(config), *_sizes(config), *_tls(config)]


def _members(config: Config) -> Iterator[Finding]:
    count = len(config.members)
    if count and count % 2 == 0:
        yield Finding(
            "config.W001",
            f"{count} members bear the loss of no more servers than {count - 1} do",
            "have an odd number of members",
            "members",
        )


def _state_machine(config: Config) -> Iterator[Finding]:
    engine = config.state_machine
    addresses = _addresses(config)
    check = partial(engine.cls.check, engine.options, addresses, config.serve)
    yield from _ask("state_machine", engine, check)


def _addresses(config: Config) -> dict[ServerId, Address]:
    served = {name: config.address_of(name) for name in config.serve}
    return {**config.members, **served}


def _transport(config: Config) -> Iterator[Finding]:
    engine = config.transport
    addresses = _addresses(config)
    check = partial(engine.cls.check, engine.options, addresses, config.serve)
    yield from _ask("transport", engine, check)
    yield from _sizes(config)


def _sizes(config: Config) -> Iterator[Finding]:
    engine = config.transport
    largest = engine.cls.max_command_bytes(engine.options)
    if config.limits.max_command_bytes > largest:
        yield Finding(
            "transport.E001",
            f"a command of {config.limits.max_command_bytes} bytes would not fit into"
            f" a message of the transport {engine.name!r}",
            f"write at most {largest}, or allow the transport larger messages",
            "limits.max_command_bytes",
        )


def _tls(config: Config) -> Iterator[Finding]:
    if config.tls is None:
        return
    if not config.transport.cls.encrypts:
        yield no_encryption(config.transport.name)
        return
    yield from certificates.check(config.tls, config.serve)


def _access(config: Config) -> Iterator[Finding]:
    if config.access is None:
        return
    if not config.transport.cls.authenticates:
        yield no_authentication(config.transport.name)
    yield from files.check(config.access)


def _http(config: Config) -> Iterator[Finding]:
    for server in config.serve:
        address = config.http_address_of(server)
        path = f"http.{server}" if server in config.http else "http"
        place = beneath(address)
        if place in _addresses(config).values():
            message = f"{address!r} is where servers listen to one another"
            yield Finding("http.E002", message, "write another port", path)
        elif address:
            yield from check_address(path, place, _HTTP_IDS, is_served=True)


def _storage(config: Config) -> Iterator[Finding]:
    engine = config.storage
    if not engine.cls.durable:
        yield Finding(
            "storage.W001",
            f"the storage engine {engine.name!r} forgets everything, votes too, when"
            " its server stops",
            "use it for trials only",
            "storage.engine",
        )
        return
    for server in config.serve:
        path = config.data_dir / server
        of_directory = list(DataDirectory.inspect(path, config.cluster, server, engine))
        yield from of_directory
        # An engine looks into a directory that is its server's, and idle.
        if not of_directory:
            check = partial(engine.cls.check, engine.options, path)
            yield from _ask("storage", engine, check)


def _ask(
    kind: str, engine: Engine, check: Callable[[], Iterable[Finding]]
) -> Iterator[Finding]:
    """Yield what *check* of *engine* finds, and that it failed if it did."""
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001 - an engine's bug is a finding too
        yield Finding(
            "checks.E001",
            f"the check of {engine.name!r} failed: {type(error).__name__}: {error}",
            "report it to the engine's author",
            f"{kind}.engine",
        )
