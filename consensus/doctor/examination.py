"""
All that ``raft doctor`` looks at, put together.

============ ==========================================================
doctor.W009 this process may have too few files open
doctor.W010 the timing is tighter than what was measured bears
============ ==========================================================
"""

from __future__ import annotations

import platform
import resource
import sys
from dataclasses import dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING

from consensus import checks, registry
from consensus.doctor import disk, network
from consensus.doctor.advice import Advice, advise
from consensus.errors import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from consensus.client import Client
    from consensus.config import Config
    from consensus.doctor.disk import Disk
    from consensus.doctor.network import Way

#: Connections, log segments, snapshots, and what Python itself has open.
_LEAST_FILES = 1024

_PORT_IN_USE = "transport.E102"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """
    What was found.

    Args:
        findings: What is wrong.
        disks: What the disks are like.
        ways: What the ways to the members are like.
        advice: What the timing should be.
        versions: Of what this is made of.
        open_files: How many this process may have.
    """

    findings: list[Finding]
    disks: list[Disk]
    ways: list[Way]
    advice: list[Advice]
    versions: dict[str, str]
    open_files: int


def look_at_disks(
    config: Config, say: Callable[[str], None]
) -> tuple[list[Disk], list[Finding]]:
    """
    Return what the disks of the served members are like, and what is wrong there.

    It writes to them for some seconds.  Without members to serve, it is the
    disk of ``data_dir``.
    """
    directories = {name: config.directory(name) for name in config.serve}
    disks: list[Disk] = []
    findings = list(
        disk.shared({name: config.directory(name) for name in config.members})
    )
    if not config.storage.cls.durable:
        return disks, findings
    for name, directory in (directories or {"": config.data_dir}).items():
        say(f"measuring the disk of {directory}")
        found, wrong = disk.examine(name, directory)
        disks += [] if found is None else [found]
        findings += wrong
    return disks, findings


async def look_at_network(
    cluster: Client, config: Config, patience: float, say: Callable[[str], None]
) -> list[Way]:
    """Return what the ways to the members are like."""
    say(f"calling {', '.join(config.members)}")
    return await network.examine(cluster, config, patience)


def diagnose(
    config: Config, disks: Sequence[Disk], wrong: Iterable[Finding], ways: Sequence[Way]
) -> Diagnosis:
    """Put together what was found."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    advice = advise(config.timing, disks, ways)
    findings = [
        *_checked(config, ways),
        *wrong,
        *network.findings(config, ways),
        *network.http_findings(config, ways),
        *_open_files(limit),
        *_too_tight(advice),
    ]
    placed = [
        replace(each, line=each.line or config.line_of(each.path)) for each in findings
    ]
    return Diagnosis(
        _without_repetitions(placed),
        list(disks),
        list(ways),
        advice,
        versions(config),
        limit,
    )


def versions(config: Config) -> dict[str, str]:
    """Return the versions of what this is made of."""
    found = {"python": platform.python_version()}
    requirements = metadata.requires(registry.DISTRIBUTION) or []
    needed = [each for each in requirements if "extra ==" not in each]
    for name in (registry.DISTRIBUTION, *map(_project, needed)):
        found[name] = _version(name)
    for kind in registry.KINDS:
        engine = getattr(config, kind)
        top = engine.cls.__module__.partition(".")[0]
        for project in metadata.packages_distributions().get(top, ()):
            found[project] = _version(project)
    return found


def _version(project: str) -> str:
    try:
        return metadata.version(project)
    except metadata.PackageNotFoundError:
        return "missing"


def _project(requirement: str) -> str:
    end = next(
        (
            at
            for at, each in enumerate(requirement)
            if not (each.isalnum() or each in "-_.")
        ),
        len(requirement),
    )
    return requirement[:end]


def _checked(config: Config, ways: Sequence[Way]) -> Iterator[Finding]:
    """Yield what forbids the start of the served members that do not run."""
    runs = {way.server for way in ways if network.is_itself(config, way)}
    idle = tuple(name for name in config.serve if name not in runs)
    yield from checks.run(replace(config, serve=idle))


def _without_repetitions(findings: Iterable[Finding]) -> list[Finding]:
    """Return *findings*, but only the better one of two about a port in use."""
    kept = dict.fromkeys(findings)
    told = {each.path for each in kept if each.id == "doctor.E005"}
    return [each for each in kept if each.id != _PORT_IN_USE or each.path not in told]


def _open_files(limit: int) -> Iterator[Finding]:
    if 0 <= limit < _LEAST_FILES and limit < sys.maxsize:
        yield Finding(
            "doctor.W009",
            f"this user's processes may have {limit} files open",
            f"allow {_LEAST_FILES} or more: ulimit -n, or LimitNOFILE of systemd",
        )


def _too_tight(advice: Iterable[Advice]) -> Iterator[Finding]:
    for each in advice:
        if each.now < each.proposed * (1 - 1e-9):
            yield Finding(
                "doctor.W010",
                f"{each.now:g} s are little here",
                f"write {each.proposed:g}: {each.why}",
                f"timing.{each.key}",
            )
