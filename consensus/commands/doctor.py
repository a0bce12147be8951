"""``raft doctor``: what is the matter with this host and the way to the others."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from consensus.commands.connection import EXIT_FAILED, print_findings, print_table
from consensus.doctor import examination

if TYPE_CHECKING:
    from collections.abc import Iterable

    from consensus.commands.connection import Connection
    from consensus.doctor.disk import Times
    from consensus.doctor.examination import Diagnosis


@click.command()
@click.option(
    "--serve", multiple=True, metavar="NAME", help="As for twistd raft; repeatable."
)
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
@click.pass_obj
def doctor(connection: Connection, serve: tuple[str, ...], as_json: bool) -> None:  # noqa: FBT001 - click's flag
    """
    Measure this host's disks and the way to each member.

    Servers may run or not.  It says what is wrong, and which timing fits.
    """
    chosen = connection.load(serve, needs_serve=False)
    disks, wrong = examination.look_at_disks(chosen, _say)
    ways = connection.run(
        lambda cluster: examination.look_at_network(
            cluster, chosen, connection.patience, _say
        )
    )
    found = examination.diagnose(chosen, disks, wrong, ways)
    if as_json:
        click.echo(json.dumps(_as_object(found), indent=2))
    else:
        _print(found)
        print_findings(found.findings, connection.path)
    if not all(each.is_warning for each in found.findings):
        sys.exit(EXIT_FAILED)


def _say(what: str) -> None:
    click.echo(f"{what} …", err=True)


def _as_object(found: Diagnosis) -> dict[str, Any]:
    return {
        "findings": [asdict(each) for each in found.findings],
        "disks": [asdict(each) for each in found.disks],
        "network": [_way(asdict(each)) for each in found.ways],
        "advice": [asdict(each) for each in found.advice],
        "versions": found.versions,
        "open_files": found.open_files,
    }


def _way(way: dict[str, Any]) -> dict[str, Any]:
    status = way.pop("status")
    return way | {"role": status and status["role"], "term": status and status["term"]}


def _print(found: Diagnosis) -> None:
    print_table(
        ("#p50 ms", "#p99 ms", "#free MiB", "file system", "disk of"),
        (
            (
                *_times(each.syncs),
                f"{each.free_bytes >> 20}",
                each.file_system,
                each.directory,
            )
            for each in found.disks
        ),
    )
    print_table(
        ("member", "#p50 ms", "#p99 ms", "#clock s", "address", "answers"),
        (
            (
                each.server,
                *_times(each.round_trips),
                _signed(each.skew),
                each.address,
                f"no: {each.error}" if each.error else "yes",
            )
            for each in found.ways
        ),
    )
    print_table(
        ("timing", "#now", "#proposed", "why", ""),
        (
            (each.key, f"{each.now:g}", f"{each.proposed:g}", each.why, "")
            for each in found.advice
        ),
    )
    click.echo(_joined(f"{name} {version}" for name, version in found.versions.items()))
    click.echo(f"open files: {found.open_files}")


def _joined(words: Iterable[str]) -> str:
    return ", ".join(words)


def _times(times: Times | None) -> tuple[str, str]:
    if times is None:
        return "-", "-"
    return f"{times.p50 * 1000:.2f}", f"{times.p99 * 1000:.2f}"


def _signed(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:+.3f}"


COMMANDS = (doctor,)
