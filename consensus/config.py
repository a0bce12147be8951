"""
What the YAML file says, as frozen dataclasses; unknown keys are errors.

:func:`load` reads a file, :func:`from_mapping` takes the same keys from a
program.  Both gather all that is wrong before they raise.  The findings:

========== ============================================================
config.E001 the file cannot be read
config.E002 it is not YAML, or uses what a config has no use for
config.E003 a key is there twice
config.E004 an unknown key
config.E005 a key is missing
config.E006 a value of the wrong type
config.E007 a name with characters that a name may not have
config.E008 there are no members
config.E009 two members have the same address
config.E010 ``serve`` names a stranger, or nobody
config.E011 an engine cannot be found
config.E012 an engine refuses its options
config.E013 a number out of its range
config.E014 other machines can reach an address, and nothing is encrypted
config.E015 servers could not tell each other from strangers
========== ============================================================
"""

from __future__ import annotations

import math
import re
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from consensus import registry
from consensus.access.files import Access
from consensus.addresses import is_private
from consensus.errors import ConfigError, Finding
from consensus.registry import suggest
from consensus.settings import document
from consensus.settings.document import Filler, Value
from consensus.settings.http_addresses import read_http
from consensus.settings.observation import read_logs, read_tracing
from consensus.settings.values import (
    KIB,
    MIB,
    Config,
    Engine,
    Limits,
    Reads,
    Snapshots,
    Timing,
)
from consensus.tls import TLS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from consensus.core.values import Address, ServerId

__all__ = [
    "KIB",
    "MIB",
    "Config",
    "Engine",
    "Limits",
    "Reads",
    "Snapshots",
    "Timing",
    "from_mapping",
    "is_name",
    "load",
]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NAME_HINT = (
    "use up to 64 of the letters a-z and A-Z, digits, '-', '_' and '.', and begin"
    " with a letter or a digit"
)

_KEYS = {
    "cluster",
    "members",
    "serve",
    "data_dir",
    "state_machine",
    "transport",
    "storage",
    "timing",
    "limits",
    "preferred_leaders",
    "snapshots",
    "join",
    "reads",
    "forward",
    "digest_every",
    "tls",
    "log",
    "tracing",
    "insecure",
    "http",
    "access",
}


def is_name(text: str) -> bool:
    """Say whether a server or a cluster may be called *text*."""
    return _NAME.fullmatch(text) is not None


def load(
    path: str | Path, serve: Sequence[str] = (), *, needs_serve: bool = True
) -> Config:
    """
    Return what the YAML file at *path* says.

    Args:
        path: Paths in the file are relative to the file's own directory.
        serve: Hosts these members instead of those in the file.
        needs_serve: Whether it is wrong to host nobody; it is not for one
            who only wants to talk to the cluster.

    Raises:
        ConfigError: With all that is wrong.
    """
    root, findings = document.read(Path(path))
    if root is None:
        message, hint = "the file is empty", "begin with a copy of config.example.yaml"
        raise ConfigError(findings or [Finding("config.E001", message, hint)])
    reader = _Reader(root, findings, Path(path).absolute().parent)
    members = reader.members(required=True)
    return reader.config(
        {"transport": "amp", "storage": "sqlite"},
        members=members,
        serve=reader.serve(members, serve, required=needs_serve),
        source=str(path),
        lines=MappingProxyType(dict(root.lines())),
    )


def from_mapping(
    mapping: Mapping[str, Any],
    *,
    name: ServerId,
    state_machine: type | None = None,
) -> Config:
    """
    Return the config of the one server *name* of a program.

    The keys are those of the file, but for ``serve``.  Everything has a
    default: nothing is kept on disk, and nothing leaves the process.  An
    engine may also be a class, and ``address`` is where this server listens
    if ``members`` does not say it.

    Args:
        mapping: What differs from the defaults.
        name: The server's.
        state_machine: The class, unless *mapping* names one.

    Raises:
        ConfigError: With all that is wrong.
    """
    root = document.from_python(mapping)
    reader = _Reader(root, [], Path.cwd(), own="address", foreign="serve")
    reader.check_name(Value(name, "name"))
    defaults: dict[str, str | type] = {"transport": "memory", "storage": "memory"}
    if state_machine is not None:
        defaults["state_machine"] = state_machine
    return reader.config(
        defaults,
        members=reader.members(required=False),
        serve=(name,),
        address=reader.text("address", ""),
    )


class _Reader:
    """Takes a config apart and gathers what is wrong with it."""

    def __init__(
        self,
        root: Value,
        findings: list[Finding],
        base: Path,
        own: str = "",
        foreign: str = "",
    ) -> None:
        self._filler = Filler(base, findings)
        self._findings = findings
        self._root = root
        if not isinstance(root.content, dict):
            self._filler.expected("a mapping", root, "see config.example.yaml")
            raise ConfigError(findings)
        self._filler.refuse_others(root, (_KEYS | {own}) - {"", foreign})

    def config(self, defaults: Mapping[str, str | type], **rest: Any) -> Config:
        """Return the config; raise what was found until then."""
        rest |= {
            "cluster": self._cluster(),
            "data_dir": self._path("data_dir", "data"),
            "timing": self._timing(),
            "limits": self._limits(),
            "snapshots": self._snapshots(),
            "join": self._join(),
            "reads": self._reads(),
            "forward": self._flag("forward", default=False),
            "digest_every": self._digest_every(),
            "tls": self._section("tls", TLS, "certificate, key and authority"),
            "log": read_logs(self._get("log"), self._filler),
            "tracing": read_tracing(self._get("tracing"), self._filler),
            "insecure": self._flag("insecure", default=False),
        }
        rest["access"] = self._access(rest["tls"])
        http = self._get("http")
        rest["http"] = read_http(
            http,
            self._filler,
            rest["members"],
            rest["serve"],
            is_insecure=rest["insecure"],
            has_tls=rest["tls"] is not None,
        )
        self._check_reach(rest)
        rest["preferred_leaders"] = self._preferred(rest["members"])
        rest |= {kind: self._engine(kind, defaults) for kind in registry.KINDS}
        if self._findings:
            raise ConfigError(sorted(self._findings, key=lambda each: each.line))
        return Config(**rest)

    def members(self, *, required: bool) -> dict[ServerId, Address]:
        """Return the address of each member that has a name."""
        value = self._get("members")
        if value is None:
            if required:
                self._filler.missing("members", self._root)
            return {}
        if not isinstance(value.content, dict):
            hint = "write each as name: address, as s1: tcp:127.0.0.1:9101"
            self._filler.expected("a mapping", value, hint)
            return {}
        if required and not value.content:
            hint = "write each as name: address, as s1: tcp:127.0.0.1:9101"
            self._filler.complain("config.E008", "there are no members", hint, value)
        taken: dict[Address, ServerId] = {}
        return {
            name: self._address(name, child, taken)
            for name, child in value.content.items()
        }

    def serve(
        self,
        members: Mapping[ServerId, Address],
        instead: Sequence[str],
        *,
        required: bool,
    ) -> tuple[ServerId, ...]:
        """Return the members to host: those *instead*, or those of the file."""
        value = self._get("serve")
        if instead:
            value = Value(tuple(Value(name, "--serve") for name in instead), "--serve")
        if value is None:
            if required:
                message = "it is not said which members this process hosts"
                hint = "give --serve NAME, or add serve: [NAME, …]"
                self._filler.complain("config.E010", message, hint, self._root)
            return ()
        if not isinstance(value.content, tuple):
            self._filler.expected("a list of members", value, "write it as [s1, s2]")
            return ()
        if not value.content:
            message, hint = "nobody is hosted here", "name at least one member"
            self._filler.complain("config.E010", message, hint, value)
        seen: set[ServerId] = set()
        for each in value.content:
            self._hosted(each, members, seen)
        return tuple(str(each.content) for each in value.content)

    def text(self, key: str, default: str) -> str:
        """Return the text at *key*."""
        value = self._get(key)
        return default if value is None else self._filler.convert(value, str)

    def check_name(self, value: Value) -> None:
        """Complain if *value* is no name."""
        if not isinstance(value.content, str) or not is_name(value.content):
            message = f"{value.content!r} is no name"
            self._filler.complain("config.E007", message, _NAME_HINT, value)

    def _get(self, key: str) -> Value | None:
        found: Value | None = self._root.content.get(key)
        return found

    def _cluster(self) -> str:
        cluster = self.text("cluster", "raft")
        value = self._get("cluster")
        if value is not None and isinstance(cluster, str):
            self.check_name(value)
        return cluster

    def _path(self, key: str, default: str) -> Path:
        value = self._get(key) or Value(default, key)
        path: Path = self._filler.convert(value, Path)
        return path

    def _address(
        self, name: ServerId, value: Value, taken: dict[Address, ServerId]
    ) -> Address:
        self.check_name(Value(name, value.path, value.line))
        hint = "write where it listens, as tcp:127.0.0.1:9101"
        if not isinstance(value.content, str) or not value.content.strip():
            self._filler.expected("an address", value, hint)
            return ""
        address = value.content.strip()
        other = taken.setdefault(address, name)
        if other != name:
            message = f"{address!r} is the address of {other} already"
            self._filler.complain(
                "config.E009", message, "give each member its own", value
            )
        return address

    def _hosted(
        self, value: Value, members: Mapping[ServerId, Address], seen: set[ServerId]
    ) -> None:
        name = value.content
        if not isinstance(name, str):
            self._filler.convert(value, str)
        elif members and name not in members:
            message = f"{name!r} is not among the members"
            hint = suggest(name, members)
            self._filler.complain("config.E010", message, hint, value)
        elif name in seen:
            self._filler.complain(
                "config.E010", f"{name!r} twice", "once will do", value
            )
        else:
            seen.add(name)

    def _preferred(self, members: Mapping[ServerId, Address]) -> tuple[ServerId, ...]:
        value = self._get("preferred_leaders") or Value((), "preferred_leaders")
        if not isinstance(value.content, tuple):
            self._filler.expected("a list of members", value, "write it as [s1, s2]")
            return ()
        seen: set[ServerId] = set()
        for each in value.content:
            self._hosted(each, members, seen)
        return tuple(str(each.content) for each in value.content)

    def _engine(self, kind: str, defaults: Mapping[str, str | type]) -> Engine | None:
        named, options = self._engine_parts(kind, defaults)
        if named is None:
            return None
        if not isinstance(named.content, str | type):
            hint = f"write a name ({', '.join(registry.names(kind))}) or a dotted path"
            self._filler.expected("an engine", named, hint)
            return None
        try:
            cls = registry.resolve(kind, named.content)
        except registry.EngineError as error:
            self._filler.complain("config.E011", error.message, error.hint, named)
            return None
        made = self._filler.fill(cls.Options, options)
        return Engine(registry.name_of(named.content), cls, made)

    def _engine_parts(
        self, kind: str, defaults: Mapping[str, str | type]
    ) -> tuple[Value | None, Value]:
        value = self._get(kind)
        no_options = Value({}, f"{kind}.options", value.line if value else 0)
        if value is None:
            if kind not in defaults:
                self._filler.missing(kind, self._root)
                return None, no_options
            return Value(defaults[kind], kind), no_options
        if not isinstance(value.content, dict):
            return value, no_options
        self._filler.refuse_others(value, ("engine", "options"))
        named = value.content.get("engine")
        if named is None and isinstance(defaults.get(kind), type):
            named = Value(defaults[kind], value.path, value.line)
        if named is None:
            self._filler.missing("engine", value)
        return named, value.content.get("options", no_options)

    def _timing(self) -> Timing | None:
        value = self._get("timing") or Value({}, "timing")
        timing: Timing | None = self._filler.fill(Timing, value)
        if timing is None:
            return None
        self._positive(timing, value)
        least = 3 * timing.heartbeat_interval
        # A tenth is not exact in binary: 3 * 0.05 is more than 0.15.
        if not timing.election_timeout >= least * (1 - 1e-9):
            self._filler.complain(
                "config.E013",
                "a lost heartbeat or two would cost the leader its office",
                "make election_timeout at least three times heartbeat_interval:"
                f" {least:g} or more",
                value.content.get("election_timeout", value),
            )
        return timing

    def _limits(self) -> Limits | None:
        value = self._get("limits") or Value({}, "limits")
        limits: Limits | None = self._filler.fill(Limits, value)
        if limits is None:
            return None
        self._positive(limits, value)
        if limits.max_pending_bytes < limits.max_command_bytes:
            self._filler.complain(
                "config.E013",
                "a command of the greatest length could never be taken",
                "make max_pending_bytes at least max_command_bytes:"
                f" {limits.max_command_bytes} or more",
                value.content.get("max_pending_bytes", value),
            )
        return limits

    def _snapshots(self) -> Snapshots | None:
        value = self._get("snapshots") or Value({}, "snapshots")
        snapshots: Snapshots | None = self._filler.fill(Snapshots, value)
        if snapshots is not None:
            self._positive(snapshots, value)
        return snapshots

    def _join(self) -> tuple[Address, ...]:
        value = self._get("join") or Value((), "join")
        hint = "write where members of the cluster listen, as [tcp:10.0.0.1:9101]"
        if not isinstance(value.content, tuple):
            self._filler.expected("a list of addresses", value, hint)
            return ()
        for each in value.content:
            if not isinstance(each.content, str) or not each.content.strip():
                self._filler.expected("an address", each, hint)
        return tuple(str(each.content).strip() for each in value.content)

    def _reads(self) -> Reads | None:
        value = self._get("reads") or Value({}, "reads")
        reads: Reads | None = self._filler.fill(Reads, value)
        if reads is not None and not 0 <= reads.clock_drift < 1:
            self._filler.complain(
                "config.E013",
                f"{reads.clock_drift} is out of range",
                "write a part from 0 to less than 1; the default is 0.1",
                value.content["clock_drift"],
            )
        return reads

    def _flag(self, key: str, *, default: bool) -> bool:
        value = self._get(key)
        return default if value is None else self._filler.convert(value, bool)

    def _digest_every(self) -> int:
        value = self._get("digest_every")
        if value is None:
            return 10_000
        number: int | None = self._filler.convert(value, int)
        if number is not None and number < 1:
            hint = "write a number above 0; the default is 10000"
            self._filler.complain(
                "config.E013", f"{number} is out of range", hint, value
            )
        return number or 0

    def _section(self, key: str, kind: type[Any], parts: str) -> Any:
        """Return what is at *key*, a *kind*; nothing only where that is said."""
        value = self._get(key)
        if value is None or value.content is False:
            return None
        if not isinstance(value.content, dict):
            hint = f"name {parts} below it, or write false"
            self._filler.expected("a mapping, or false", value, hint)
            return None
        return self._filler.fill(kind, value)

    def _access(self, tls: TLS | None) -> Access | None:
        access: Access | None = self._section("access", Access, "users and secret")
        value = self._get("access")
        if access is None or value is None:
            return None
        if bool(tls) == (access.secret is not None):
            message, hint = (
                ("members know each other by certificates", "leave the secret out")
                if tls
                else (
                    "members could not tell each other from strangers",
                    "add tls:, or a secret: the name of a file with 16 bytes or more",
                )
            )
            self._filler.complain("config.E015", message, hint, value)
        return access

    def _check_reach(self, found: Mapping[str, Any]) -> None:
        """Refuse to listen for everybody without a word in between."""
        if found["tls"] or found["insecure"]:
            return
        for server in found["serve"]:
            address = found["members"].get(server) or found.get("address") or ""
            if not is_private(address):
                places = getattr(self._get("members"), "content", None) or {}
                self._filler.complain(
                    "config.E014",
                    f"other machines can reach {address!r}, and nothing is encrypted",
                    "add tls: (raft certs init makes what it needs), or write"
                    " insecure: true if only machines that you trust reach it",
                    places.get(server) or self._get("address") or self._root,
                )

    def _positive(self, numbers: Timing | Limits | Snapshots, value: Value) -> None:
        for each in fields(numbers):
            number = getattr(numbers, each.name)
            if not 0 < number < math.inf:
                self._filler.complain(
                    "config.E013",
                    f"{number} is out of range",
                    f"write a number above 0; the default is {each.default}",
                    value.content[each.name],
                )
