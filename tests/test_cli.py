"""The ``raft`` command, as far as it needs no reactor."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from rich.console import Console
from rich.table import Table
from rich.text import Text

from consensus import cli, config, registry
from consensus.admin import Report
from consensus.commands.connection import (
    STATUS_COLUMNS,
    print_table,
    status_cells,
    status_object,
    table_of,
)
from consensus.core.membership import Membership
from consensus.core.values import Entry, EntryKind, HardState, Status
from consensus.datadir import DataDirectory
from consensus.errors import (
    CommandFailedError,
    InvalidChangeError,
    InvalidCommandError,
    MembershipPendingError,
    NotLeaderError,
    OverloadedError,
    RaftError,
    TimedOutError,
    UnreachableError,
)
from tests.support.servers import Register

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

GOOD = """\
members: {s1: a1, s2: a2, s3: a3}
state_machine: cli-silent
storage: memory
transport: memory
"""


class Silent(Register):
    """A state machine that is never asked."""


registry.register("state_machine", "cli-silent", Silent)


def run(*arguments: str, **env: str) -> Result:
    """Return how ``raft`` with *arguments* ends."""
    return CliRunner().invoke(cli.raft, arguments, env=env)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a good config's file that serves nobody by itself."""
    path = tmp_path / "config.yaml"
    path.write_text(GOOD)
    return path


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a distribution that adds commands to ``raft``."""
    monkeypatch.syspath_prepend(str(tmp_path))
    info = tmp_path / "cli_commands-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: cli-commands\nVersion: 1\n"
    )
    (info / "entry_points.txt").write_text(
        "[consensus.command]\n"
        "cli-good = cli_commands:good\n"
        "cli-raises = cli_commands:raises\n"
        "cli-broken = cli_commands_broken:nothing\n"
        "cli-odd = cli_commands:odd\n"
        "status = cli_commands:good\n"
    )
    (tmp_path / "cli_commands.py").write_text(
        '''
import click
from consensus import errors

odd = "no command"

@click.command()
@click.pass_obj
def good(connection):
    """Print who the members are."""
    click.echo(" ".join(connection.config.members))

@click.command()
@click.argument("code")
def raises(code):
    raise errors.error_from_code(code, "the reason", {})
'''
    )
    (tmp_path / "cli_commands_broken.py").write_text("import no_such_driver\n")


class GroupTests:
    """The command itself."""

    def test_version(self) -> None:
        """It tells the version of the distribution."""
        result = run("--version")
        assert version("twisted-raft") in result.output
        assert result.exit_code == 0

    def test_help(self) -> None:
        """Help has the commands, the default of -c, and the exit statuses."""
        output = run("--help").output
        for words in ("check", "status", "leader", "RAFT_CONFIG", "config.yaml"):
            assert words in output
        assert "Exit status" in output

    def test_missing_file(self, tmp_path: Path) -> None:
        """A config that is not there is one line and status 1."""
        path = tmp_path / "none.yaml"
        result = run("-c", str(path), "status")
        assert result.exit_code == 1
        assert result.stderr == (
            f"{path}: the file cannot be read: No such file or directory"
            " (give the path of a YAML file) [config.E001]\n"
        )

    def test_file_of_the_environment(self, file: Path) -> None:
        """RAFT_CONFIG names the file where -c does not."""
        result = run("check", "--serve", "s1", RAFT_CONFIG=str(file))
        assert result.exit_code == 0

    def test_wrong_option(self) -> None:
        """A wrong option is click's affair: status 2 and a usage line."""
        result = run("--nonsense")
        assert result.exit_code == 2
        assert "No such option" in result.output


class CheckTests:
    """``raft check``."""

    def test_good(self, file: Path) -> None:
        """A warning is no error; the last line says ok."""
        result = run("-c", str(file), "check", "--serve", "s1")
        assert result.exit_code == 0
        assert result.stdout == f"{file}: ok\n"
        assert "[storage.W001]" in result.stderr

    def test_serve_is_needed(self, file: Path) -> None:
        """It says what a start would say."""
        result = run("-c", str(file), "check")
        assert result.exit_code == 1
        assert "[config.E010]" in result.stderr
        assert result.stdout == ""

    def test_all_findings(self, file: Path) -> None:
        """Each finding is a line, with file and line before it."""
        file.write_text(GOOD + "timing: 5\nsreve: 1\n")
        result = run("-c", str(file), "check", "--serve", "s1")
        assert result.exit_code == 1
        places = [line.split(": ")[0] for line in result.stderr.splitlines()]
        assert places == [f"{file}:5", f"{file}:6"]

    def test_json(self, file: Path) -> None:
        """For programs, findings are objects, and nothing else is printed."""
        file.write_text(GOOD + "timing: 5\n")
        result = run("-c", str(file), "check", "--serve", "s1", "--json")
        assert result.exit_code == 1
        (finding,) = json.loads(result.stdout)
        assert finding == {
            "id": "config.E006",
            "message": "expected a mapping, got the number 5",
            "hint": "write each as key: value",
            "path": "timing",
            "line": 5,
        }
        assert result.stderr == ""

    def test_json_without_errors(self, file: Path) -> None:
        """Warnings are objects too, and the status is 0."""
        result = run("-c", str(file), "check", "--serve", "s1", "--json")
        assert result.exit_code == 0
        assert [each["id"] for each in json.loads(result.stdout)] == ["storage.W001"]


@pytest.mark.usefixtures("commands")
class ApplicationCommandTests:
    """Commands that applications add."""

    def test_listed(self) -> None:
        """Help has them, and says of a broken one that it is broken."""
        output = run("--help").output
        assert "Print who the members are." in output
        assert "cli-broken" in output
        assert "(cannot be used: " in output

    def test_run(self, file: Path) -> None:
        """A command finds the config at ctx.obj."""
        result = run("-c", str(file), "cli-good")
        assert (result.exit_code, result.stdout) == (0, "s1 s2 s3\n")

    def test_ours_come_first(self) -> None:
        """An application cannot replace a command of ours."""
        assert "how far its log is" in run("status", "--help").output
        assert run("--help").output.count("\n  status ") == 1

    @pytest.mark.parametrize("name", ["cli-broken", "cli-odd"])
    def test_broken(self, name: str) -> None:
        """One that cannot be loaded says why, and stops nothing else."""
        result = run(name, "--some", "argument")
        assert result.exit_code == 1
        assert result.stderr.startswith("raft: ")
        assert (
            "no_such_driver" if name == "cli-broken" else "no click"
        ) in result.stderr

    def test_unknown(self) -> None:
        """A command that nobody has is click's affair."""
        assert run("nonsense").exit_code == 2

    @pytest.mark.parametrize(
        ("error", "status", "words"),
        [
            (UnreachableError, 2, "no server can be reached: the reason"),
            (OverloadedError, 2, "nothing was done: the reason"),
            (NotLeaderError, 2, "nothing was done: no leader is known"),
            (InvalidCommandError, 1, "nothing was done: the reason"),
            (InvalidChangeError, 1, "nothing was done: the reason"),
            (MembershipPendingError, 1, "nothing was done: the reason"),
            (TimedOutError, 3, "it is not known whether this was done: the reason"),
            (RaftError, 1, "the reason"),
        ],
    )
    def test_exit_status(
        self, file: Path, error: type[RaftError], status: int, words: str
    ) -> None:
        """An error is one line on stderr; the status says whether to try again."""
        result = run("-c", str(file), "cli-raises", error.code)
        assert result.exit_code == status
        assert result.stderr == f"raft: {words}\n"
        assert result.stdout == ""

    def test_failed_command_is_refused(self) -> None:
        """What the state machine refuses is status 1."""
        assert cli._exit_status(CommandFailedError("KeyError", "x")) == 1


def report(server: str, **changes: Any) -> Report:
    """Return the report of a member that answered."""
    known: dict[str, Any] = {
        "server": server,
        "cluster": "raft",
        "role": "follower",
        "term": 3,
        "leader": "s1",
        "membership": {"s1": "[::1]", "s2": "a2"},
        "commit_index": 7,
        "last_applied": 6,
        "last_index": 8,
    }
    return Report(server, f"[{server}]", Status(**(known | changes)))


class PrintTests:
    """How a status is shown."""

    def test_table(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Every member has a row; brackets in an address are no markup."""
        voter = replace(report("s1", role="leader"), standing="voter")
        print_table(
            STATUS_COLUMNS,
            map(status_cells, [voter, Report("s2", "a2", None, "gone")]),
        )
        heading, _, first, second = (
            line for line in capsys.readouterr().out.splitlines() if line.strip()
        )
        names = "server role term commit_index last_applied member address reachable"
        assert "_".join(heading.split()) == "_".join(names.split())
        assert first.split() == ["s1", "leader", "3", "7", "6", "voter", "[s1]", "yes"]
        assert second.split() == ["s2", *"-----", "a2", "no:", "gone"]

    def test_narrow(self) -> None:
        """Where a table would be cut off, each cell has a line, and is whole."""
        rows = [status_cells(each) for each in (report("s1"), report("s2"))]
        for width in range(20, 120):
            narrow = Console(width=width)
            with narrow.capture() as captured:
                narrow.print(table_of(STATUS_COLUMNS, rows, width))
            shown = captured.get()
            assert shown.count("follower") == 2, (width, shown)
            assert ("commit index" in shown, "reachable" in shown) == (True, True)
        assert isinstance(table_of(STATUS_COLUMNS, rows, 119), Table)
        assert isinstance(table_of(STATUS_COLUMNS, rows, 60), Text)
        assert isinstance(table_of(STATUS_COLUMNS, [], 20), Table)

    def test_objects(self) -> None:
        """A program gets the whole status, and why there is none."""
        assert status_object(report("s1")) == {
            "server": "s1",
            "address": "[s1]",
            "standing": "",
            "reachable": True,
            "cluster": "raft",
            "role": "follower",
            "term": 3,
            "leader": "s1",
            "membership": {"s1": "[::1]", "s2": "a2"},
            "commit_index": 7,
            "last_applied": 6,
            "last_index": 8,
            "learners": {},
            "outgoing": {},
            "target": [],
            "membership_index": 0,
            "first_index": 1,
            "snapshot_index": 0,
            "machine_version": 1,
        }
        assert status_object(Report("s2", "a2", None, "gone")) == {
            "server": "s2",
            "address": "a2",
            "standing": "",
            "reachable": False,
            "error": "gone",
        }

    def test_nobody_answers(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Without any answer the status is 2; one is enough."""
        silent = Report("s2", "a2", None, "gone")
        cli._demand_an_answer([silent, report("s1")])
        with pytest.raises(SystemExit) as caught:
            cli._demand_an_answer([silent])
        assert caught.value.code == 2
        assert capsys.readouterr().err == "raft: no server can be reached\n"


class RecoverTests:
    """``raft recover``, which needs no running server."""

    @pytest.fixture
    def founded(self, tmp_path: Path) -> Path:
        """Return the config of a server whose log has more than its founding."""
        path = tmp_path / "config.yaml"
        path.write_text(GOOD.replace("storage: memory", "storage: sqlite"))
        chosen = config.load(path, ["s1"])
        directory = DataDirectory.open(
            chosen.directory("s1"), chosen.cluster, "s1", chosen.storage
        )
        storage = chosen.storage.cls(chosen.storage.options)
        storage.open(chosen.directory("s1"))
        founding = Membership.founding("raft", chosen.members).encode()
        storage.save_hard_state(HardState(2, "s1"))
        storage.append(
            [
                Entry(1, 1, EntryKind.MEMBERSHIP, founding),
                Entry(2, 2, EntryKind.NOOP, b""),
            ]
        )
        storage.sync()
        storage.close()
        directory.mark_used()
        directory.close()
        return path

    def test_without_unsafe(self, founded: Path) -> None:
        """It says what is there, what may be lost, and changes nothing."""
        for _ in range(2):
            result = run("-c", str(founded), "recover", "--serve", "s1")
            assert result.exit_code == 0
            assert "its log ends with entry 2 of term 2" in result.stdout
            assert "without\ns1 is lost" in result.stdout
            assert "nothing was changed" in result.stderr

    def test_asked(self, founded: Path) -> None:
        """Whoever does not say yes has changed nothing."""
        command = ["-c", str(founded), "recover", "--serve", "s1", "--unsafe"]
        result = CliRunner().invoke(cli.raft, command, input="n\n")
        assert result.exit_code == 1
        assert run(*command[:-1]).stdout.count("s1, s2, s3") == 1
        result = CliRunner().invoke(cli.raft, command, input="y\n")
        assert result.exit_code == 0
        assert "is the only voter of a new cluster now" in result.stdout

    def test_twice(self, founded: Path) -> None:
        """The second time there is nothing to do, and it says so."""
        command = ["-c", str(founded), "recover", "--serve", "s1", "--unsafe", "--yes"]
        assert run(*command).exit_code == 0
        result = run(*command, "--json")
        assert result.exit_code == 0
        found = json.loads(result.stdout)
        assert found["voters"] == {"s1": "a1"}
        assert (found["last_index"], found["last_term"], found["term"]) == (3, 3, 3)
        assert "the only voter already" in result.stderr

    @pytest.mark.parametrize(
        ("server", "words"),
        [
            ("s2", "never belonged to a cluster"),
            ("s9", "'s9' is not among the members"),
            (None, "say whose directory to recover"),
        ],
    )
    def test_refused(self, founded: Path, server: str | None, words: str) -> None:
        """A server that never was, or that nobody named."""
        if server is None:
            founded.write_text(founded.read_text() + "serve: [s1, s2]\n")
        named = [] if server is None else ["--serve", server]
        result = run("-c", str(founded), "recover", "--unsafe", "--yes", *named)
        assert result.exit_code == 1
        assert words in result.stderr
        assert len(result.stderr.splitlines()) == 1
