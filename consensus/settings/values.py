"""
What a config says, as frozen dataclasses with their defaults.

They are made by :mod:`consensus.config`, which is where to import them from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from consensus.access.files import Access
    from consensus.core.values import Address, ServerId
    from consensus.tls import TLS

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class Engine:
    """
    One of the three parts that the config chooses.

    Args:
        name: What the config calls it: a registered name or a dotted path.
        cls: The class.
        options: An instance of ``cls.Options``.
    """

    name: str
    cls: type[Any]
    options: Any


@dataclass(frozen=True, slots=True)
class Timing:
    """
    How long things may take, in seconds.

    Args:
        heartbeat_interval: A leader without writes says so often that it lives.
        election_timeout: A follower that hears nothing for this long, and a
            random part of it more, asks for votes.
        request_timeout: How long a client's call may take in a server.
        disk_stall_timeout: A leader whose disk takes longer hands over.
    """

    heartbeat_interval: float = 0.05
    election_timeout: float = 0.25
    request_timeout: float = 10.0
    disk_stall_timeout: float = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """
    What bounds a server's memory.

    Args:
        max_command_bytes: The longest command that a client may send.
        max_pending_bytes: The commands that are not committed yet, together.
        max_pending_requests: The calls that are not answered yet.
        log_cache_bytes: The entries that are kept in memory besides storage.
        max_append_bytes: The entries of one message to a follower.
        max_inflight_appends: The messages to a follower that it has not
            answered yet.
    """

    max_command_bytes: int = MIB
    max_pending_bytes: int = 64 * MIB
    max_pending_requests: int = 100_000
    log_cache_bytes: int = 16 * MIB
    max_append_bytes: int = 48 * KIB
    max_inflight_appends: int = 8


@dataclass(frozen=True, slots=True)
class Snapshots:
    """
    When the state is written down so that the log can be cut (§5.1).

    Args:
        every_entries: After so many entries since the last snapshot.
        every_bytes: After commands of so many bytes since then.
        keep_entries: How much of the log stays all the same, for servers
            that are a little behind.
    """

    every_entries: int = 100_000
    every_bytes: int = 256 * MIB
    keep_entries: int = 10_000


@dataclass(frozen=True, slots=True)
class Reads:
    """
    How reads may be served.

    Args:
        lease: Whether a leader trusts, for a part of an election timeout, in
            being the only one.
        clock_drift: By which part of that time the clocks of two members may
            drift apart meanwhile.
    """

    lease: bool = False
    clock_drift: float = 0.1


Level = Literal["debug", "info", "warn", "error", "critical"]


@dataclass(frozen=True, slots=True)
class Logs:
    """
    What is logged, and how.

    Args:
        level: What is less important is left out.
        format: Lines for people, or a JSON object a line.
        levels: Other levels for namespaces, and for those below them.
    """

    level: Level = "info"
    format: Literal["text", "json"] = "text"
    levels: dict[str, Level] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tracing:
    """
    Which writes are traced, and where the traces go.

    Args:
        endpoint: Of a collector that takes OTLP over HTTP.
        sample: Which part of all entries of the log.
    """

    endpoint: str
    sample: float = 0.01


@dataclass(frozen=True, slots=True)
class Config:
    """
    All that a process has to know before it starts its servers.

    Args:
        cluster: The name of the cluster; servers of another are refused.
        members: Every member's address, by name.
        serve: The members that this process hosts.
        data_dir: Where each server has a directory of its name.
        state_machine: What commands are applied to.
        transport: How servers reach each other.
        storage: Where logs are kept.
        timing: How long things may take.
        limits: What bounds memory.
        preferred_leaders: Who should lead, the most preferred first.
        snapshots: When they are taken.
        join: Where servers of a cluster are that a new server joins, instead
            of founding one with *members*.
        reads: How reads may be served.
        forward: Whether a server passes on to the leader what only that one
            can do.
        digest_every: After so many entries a leader has digests compared.
        tls: What encrypts connections; ``None`` if nothing does.
        log: What is logged, and how.
        tracing: Which writes are traced; ``None`` if none are.
        insecure: Whether a server may listen where other machines can reach
            it, though nothing is encrypted.
        access: Who may do what; ``None`` if everybody may do everything.
        http: Where servers answer HTTP, by name; under an empty name, where
            the one server that a process hosts does.
        address: The address of the one server of :func:`from_mapping` where
            *members* does not have it.
        source: The file that all this is from; empty if it is from none.
        lines: The line of each path in that file.
    """

    cluster: str
    members: Mapping[ServerId, Address]
    serve: tuple[ServerId, ...]
    data_dir: Path
    state_machine: Engine
    transport: Engine
    storage: Engine
    timing: Timing = Timing()
    limits: Limits = Limits()
    preferred_leaders: tuple[ServerId, ...] = ()
    snapshots: Snapshots = Snapshots()
    join: tuple[Address, ...] = ()
    reads: Reads = Reads()
    forward: bool = False
    digest_every: int = 10_000
    tls: TLS | None = None
    log: Logs = field(default_factory=Logs)
    tracing: Tracing | None = None
    insecure: bool = False
    access: Access | None = None
    http: Mapping[ServerId, Address] = field(default_factory=dict)
    address: Address = ""
    source: str = ""
    lines: Mapping[str, int] = field(default_factory=dict)

    def directory(self, server: ServerId) -> Path:
        """Return where *server* keeps what it has to remember."""
        return self.data_dir / server

    def address_of(self, server: ServerId) -> Address:
        """
        Return where *server* listens.

        A server that nobody gave an address has its name for one: the
        transports within one process need no more.
        """
        return self.members.get(server) or self.address or server

    def http_address_of(self, server: ServerId) -> Address:
        """Return where *server* answers HTTP; empty if it does not."""
        return self.http.get(server) or self.http.get("") or ""

    def line_of(self, path: str) -> int:
        """Return the line of *path*, or of what encloses it; 0 if unknown."""
        while path and path not in self.lines:
            path = path.rpartition(".")[0]
        return self.lines.get(path, 0) if path else 0
