"""``raft users`` edits the file of users."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

from click.testing import CliRunner

from consensus.access.passwords import hash_token, verify_password
from consensus.access.users import Role, load
from consensus.cli import raft

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result


def run(path: Path, *arguments: str, said: str = "") -> Result:
    """Run ``raft users`` with *said* piped in."""
    return CliRunner().invoke(raft, ["users", "--file", str(path), *arguments], said)


def test_a_life(tmp_path: Path) -> None:
    """Users come, change and go, and the file is its owner's only."""
    path = tmp_path / "users.yaml"
    add = ("add", "shop", "--role", "write", "--prefix", "a/", "--prefix", "b/")
    assert run(path, *add, said="open\n").exit_code == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = load(path).key
    user = load(path).users["shop"]
    assert user.roles == (Role("write", "a/"), Role("write", "b/"))
    assert verify_password("open", user.password)
    assert run(path, "passwd", "shop", said="new\n").exit_code == 0
    assert verify_password("new", load(path).users["shop"].password)
    made = run(path, "token", "shop").output.strip()
    assert load(path).users["shop"].tokens == (hash_token(made),)
    assert run(path, "token", "shop", "--revoke").exit_code == 0
    admin = ("add", "root", "--role", "admin", "--certificate", "--no-password")
    assert run(path, *admin).exit_code == 0
    found = json.loads(run(path, "list", "--json").output)
    assert [(each["user"], each["password"], each["tokens"]) for each in found] == [
        ("shop", True, 0),
        ("root", False, 0),
    ]
    assert "write a/, write b/" in run(path, "list").output
    assert run(path, "remove", "shop").exit_code == 0
    assert list(load(path).users) == ["root"]
    assert load(path).key == key


def test_for_programs(tmp_path: Path) -> None:
    """Each command says as JSON what it has done."""
    path = tmp_path / "users.yaml"
    add = ("add", "shop", "--role", "read", "--json")
    added = json.loads(run(path, *add, said="open\n").output)
    assert added["user"] == "shop"
    assert added["roles"] == [{"role": "read", "prefix": ""}]
    assert json.loads(run(path, "passwd", "shop", "--json", said="x\n").output) == added
    told = json.loads(run(path, "token", "shop", "--json").output)
    assert load(path).users["shop"].tokens == (hash_token(told["token"]),)
    revoked = json.loads(run(path, "token", "shop", "--revoke", "--json").output)
    assert revoked == added
    removed = json.loads(run(path, "remove", "shop", "--json").output)
    assert removed == {"user": "shop"}


def test_what_is_refused(tmp_path: Path) -> None:
    """Each mistake leaves the file as it was."""
    path = tmp_path / "users.yaml"
    for line in ("list", "remove x", "passwd x", "token x"):
        assert run(path, *line.split()).exit_code == 1
    assert run(path, "add", "shop", "--role", "read", said="open\n").exit_code == 0
    before = path.read_bytes()
    for arguments, said in (
        (("add", "shop", "--role", "read"), "open\n"),
        (("add", "a b", "--role", "read"), "open\n"),
        (("add", "x", "--role", "king"), "open\n"),
        (("add", "x"), "open\n"),
        (("add", "x", "--role", "read"), "\n"),
        (("remove", "x"), ""),
        (("passwd", "shop"), "\n"),
    ):
        assert run(path, *arguments, said=said).exit_code in {1, 2}, arguments
        assert path.read_bytes() == before
    path.chmod(0o644)
    assert "access.E003" in run(path, "list").output
