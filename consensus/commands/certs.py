"""``raft certs``: a private authority for a cluster, and what it has signed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from cryptography import x509

from consensus import authority
from consensus.authority import OWN_NAME, AuthorityError, Member
from consensus.certificates import common_name, server_names
from consensus.commands.connection import print_table
from consensus.config import is_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_T = TypeVar("_T")


def _into(function: Any) -> Any:
    """Add what both commands that write have."""
    for add in (
        click.option(
            "--client",
            "clients",
            multiple=True,
            metavar="NAME",
            help="Make a certificate for this client, too; repeatable.",
        ),
        click.option(
            "--dir",
            "directory",
            default="certs",
            show_default=True,
            type=click.Path(path_type=Path, file_okay=False),
            help="Where the files go.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print one object."),
        click.argument("members", nargs=-1, metavar="[MEMBER[=HOST,...]]..."),
    ):
        function = add(function)
    return function


@click.group()
def certs() -> None:
    """Make and look at the certificates that `tls` wants."""


@certs.command()
@_into
@click.option(
    "--cluster",
    default="raft",
    show_default=True,
    metavar="NAME",
    help="What the authority is called.",
)
def init(
    members: tuple[str, ...],
    directory: Path,
    clients: tuple[str, ...],
    cluster: str,
    *,
    as_json: bool,
) -> None:
    """
    Make an authority, and certificates for each MEMBER.

    A member's certificate has its name, and the names and addresses of HOST.
    Nothing is written over.
    """
    wanted = _members(members, clients)
    if not wanted:
        raise click.UsageError("name the members of the cluster, as: s1 s2 s3")
    files = _done(lambda: authority.found(directory, cluster, wanted, clients))
    _say(directory, files, wanted, clients, as_json=as_json)
    if not as_json:
        click.echo(
            f"\n{directory / OWN_NAME}.key lets anybody in: keep it off the hosts."
        )


@certs.command()
@_into
def issue(
    members: tuple[str, ...],
    directory: Path,
    clients: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    """
    Make more certificates, with the authority that is there.

    To renew one, move its two files away first.
    """
    wanted = _members(members, clients)
    if not (wanted or clients):
        raise click.UsageError("name members, or clients with --client")
    files = _done(lambda: authority.issue(directory, wanted, clients))
    _say(directory, files, wanted, clients, as_json=as_json)


@certs.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--dir",
    "directory",
    default="certs",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where to look, if no FILE is named.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects.")
def show(files: tuple[Path, ...], directory: Path, as_json: bool) -> None:  # noqa: FBT001 - click's flag
    """Show whom the certificates in FILE are for, and until when."""
    paths = files or tuple(sorted(directory.glob("*.pem")))
    if not paths:
        message = f"there are no certificates in {directory}"
        raise click.ClickException(message)
    found = [_object(path, each) for path in paths for each in _looked(path)]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    rows = [
        (
            each["file"],
            each["use"],
            each["expires"],
            each["subject"],
            ", ".join([*each["members"], *each["addresses"]]),
        )
        for each in found
    ]
    print_table(("file", "use", "expires", "subject", "names"), rows)


def _looked(path: Path) -> Sequence[x509.Certificate]:
    return _done(lambda: authority.look(path))


def _done(work: Callable[[], _T]) -> _T:
    """Return what *work* does; end the command if it cannot."""
    try:
        return work()
    except AuthorityError as error:
        raise click.ClickException(str(error)) from error


def _members(texts: Sequence[str], clients: Sequence[str]) -> list[Member]:
    """Return what *texts* say, if all of it can be the name of a file."""
    members = []
    for text in texts:
        name, _, hosts = text.partition("=")
        members.append(Member(name, tuple(filter(None, hosts.split(",")))))
    for name in (*(each.name for each in members), *clients):
        if not is_name(name):
            message = f"{name!r} is no name: use letters, digits, '-', '_' and '.'"
            raise click.UsageError(message)
    return members


def _say(
    directory: Path,
    files: Sequence[Path],
    members: Sequence[Member],
    clients: Any,
    *,
    as_json: bool,
) -> None:
    """Tell what was made, and what to write into the config for it."""
    sections = {
        name: {
            "certificate": f"{directory / name}.pem",
            "key": f"{directory / name}.key",
            "authority": f"{directory / OWN_NAME}.pem",
        }
        for name in (*(each.name for each in members), *clients)
    }
    if as_json:
        made = {"files": [str(path) for path in files], "tls": sections}
        click.echo(json.dumps(made, indent=2))
        return
    for path in files:
        click.echo(f"made {path}")
    for name, section in sections.items():
        lines = "".join(f"\n  {key}: {path}" for key, path in section.items())
        click.echo(f"\n# in the config of {name}\ntls:{lines}")


def _object(path: Path, certificate: x509.Certificate) -> dict[str, Any]:
    """Return what is to be known of *certificate*."""
    extensions = {type(each.value): each.value for each in certificate.extensions}
    basic: Any = extensions.get(x509.BasicConstraints)
    alternatives: Any = extensions.get(x509.SubjectAlternativeName)
    is_authority = bool(basic and basic.ca)
    members = sorted(server_names(certificate))
    use = "authority" if is_authority else "member" if members else "client"
    addresses = alternatives.get_values_for_type(x509.IPAddress) if alternatives else []
    return {
        "file": str(path),
        "use": use,
        "subject": common_name(certificate),
        "members": members,
        "addresses": [str(each) for each in addresses],
        "begins": certificate.not_valid_before_utc.isoformat(),
        "expires": certificate.not_valid_after_utc.isoformat(),
    }


#: What :mod:`consensus.cli` adds.
COMMANDS = (certs,)
