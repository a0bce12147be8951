"""``twistd raft``: options, refusals and the tree of services."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
from twisted.application.service import IService, IServiceMaker, Service
from twisted.logger import capturedLogs
from twisted.plugin import getPlugins
from twisted.python import usage
from zope.interface.verify import verifyObject

from consensus import config, registry, service
from consensus.server import RaftServer
from consensus.service import RaftService
from tests.support.servers import Register

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from twisted.application.service import ServiceMaker

    from consensus.config import Config

#: Twisted's options have no types.
Options: Any = service.Options

GOOD = """\
members: {s1: a1, s2: a2, s3: a3}
serve: [s1, s2]
state_machine: service-silent
storage: memory
transport: memory
"""


class Silent(Register):
    """A state machine that is never asked."""


registry.register("state_machine", "service-silent", Silent)


class Recorder(Service):
    """A server that only notes that it is started and stopped."""

    def __init__(self, config: Config, name: str) -> None:
        self.config = config
        self.name: str = name
        self.on_failure: Any = None


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a good config's file."""
    path = tmp_path / "config.yaml"
    path.write_text(GOOD)
    return path


@pytest.fixture
def logged() -> Iterator[Sequence[dict[str, Any]]]:
    """Return what is logged during a test."""
    with capturedLogs() as events:
        yield events


class OptionsTests:
    """The command line."""

    def test_all(self) -> None:
        """A file, and any number of members."""
        options = Options()
        options.parseOptions(["-c", "x.yaml", "--serve", "s1", "--serve=s2"])
        assert options["config"] == "x.yaml"
        assert options["serve"] == ["s1", "s2"]

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ([], "say which YAML file to use: --config FILE"),
            (["--config"], "option --config requires argument"),
            (["--confg", "x"], "option --confg not recognized"),
            (["-c", "x", "extra"], "Wrong number of arguments"),
        ],
    )
    def test_refusals(
        self, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A wrong command line is answered with one line, not with all the help."""
        with pytest.raises(SystemExit) as caught:
            Options().parseOptions(arguments)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
        assert capsys.readouterr() == ("", "")

    @pytest.mark.parametrize(
        ("nodaemon", "pidfile", "kept"),
        [
            (1, "twistd.pid", ""),
            (1, "mine.pid", "mine.pid"),
            (0, "twistd.pid", "twistd.pid"),
        ],
    )
    def test_pidfile(self, nodaemon: int, pidfile: str, kept: str) -> None:
        """In the foreground no pidfile is written, unless somebody names one."""

        class Parent(usage.Options):
            """The part of twistd's options that counts here."""

            optFlags = (("nodaemon", "n", ""),)  # noqa: N815 - Twisted's name
            optParameters = (("pidfile", "", "twistd.pid", ""),)  # noqa: N815

        parent = Parent()  # type: ignore[no-untyped-call]
        parent["nodaemon"], parent["pidfile"] = nodaemon, pidfile
        options = Options()
        options.parent = parent
        options.parseOptions(["-c", "x.yaml"])
        assert parent["pidfile"] == kept


class PluginTests:
    """What twistd finds."""

    def test_found(self) -> None:
        """There is one plugin of our name, and it leads here."""
        plugins = cast("Iterable[ServiceMaker]", getPlugins(IServiceMaker))
        (maker,) = (each for each in plugins if cast("str", each.tapname) == "raft")
        assert cast("type[Any]", maker.options) is Options
        assert cast("Any", maker.makeService) is service.makeService


class MakeServiceTests:
    """From options to services."""

    @pytest.fixture(autouse=True)
    def tuned(self, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
        """Spare this process the settings of a server's."""
        calls: list[bool] = []
        monkeypatch.setattr(service, "tune_interpreter", lambda: calls.append(True))
        return calls

    def make(self, file: Path, *serve: str) -> Any:
        """Return what twistd would get."""
        options = Options()
        arguments = ["-c", str(file)]
        for name in serve:
            arguments += ["--serve", name]
        options.parseOptions(arguments)
        return service.makeService(options)

    def test_good(
        self, file: Path, capsys: pytest.CaptureFixture[str], tuned: list[bool]
    ) -> None:
        """One server is made for each served member; warnings are printed."""
        made = self.make(file)
        assert tuned == [True]
        assert verifyObject(IService, made)
        assert [(type(each), each.name) for each in made] == [
            (RaftServer, "s1"),
            (RaftServer, "s2"),
        ]
        printed = capsys.readouterr().err.splitlines()
        assert len(printed) == 1
        assert printed[0].startswith(f"{file}:4: storage.engine: the storage engine")
        assert printed[0].endswith("[storage.W001]")

    def test_serve(self, file: Path) -> None:
        """The command line says whom to host."""
        assert [each.name for each in self.make(file, "s3")] == ["s3"]

    def test_nothing_is_touched(self, file: Path) -> None:
        """Before the start no file is written."""
        file.write_text(GOOD.replace("storage: memory", "storage: sqlite"))
        self.make(file)
        assert list(file.parent.iterdir()) == [file]

    def test_findings(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Findings of the config are printed, one a line; the status is 1."""
        file.write_text(GOOD + "sreve: 1\ntiming: 5\n")
        with pytest.raises(SystemExit) as caught:
            self.make(file)
        assert caught.value.code == 1
        out, err = capsys.readouterr()
        assert out == ""
        lines = err.splitlines()
        assert [line.split(": ")[0] for line in lines] == [f"{file}:6", f"{file}:7"]
        assert lines[0].endswith("(did you mean 'serve'?) [config.E004]")

    def test_findings_of_checks(
        self, file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """So are findings that only a look at the machine can make."""
        file.write_text(GOOD.replace("storage: memory", "storage: sqlite"))
        (file.parent / "data").touch()
        with pytest.raises(SystemExit) as caught:
            self.make(file)
        assert caught.value.code == 1
        assert capsys.readouterr().err.count("[datadir.E001]") == 2


class RaftServiceTests:
    """The servers of a process, together."""

    def make(self, file: Path) -> tuple[Any, list[str]]:
        """Return a service, and a list that tells how often it gave up."""
        ended: list[str] = []
        made = RaftService(config.load(file), lambda: ended.append("ended"), Recorder)
        return made, ended

    def test_start_and_stop(self, file: Path, logged: Sequence[dict[str, Any]]) -> None:
        """All servers start and stop with the service; a line tells of each."""
        made, ended = self.make(file)
        assert not any(server.running for server in made)
        made.startService()
        assert all(server.running for server in made)
        lines = [
            event for event in logged if event["log_format"].startswith("starting")
        ]
        assert [event["server"] for event in lines] == ["s1", "s2"]
        assert lines[0]["address"] == "a1"
        assert lines[0]["storage"] == "memory"
        assert lines[0]["directory"] == "memory"
        made.stopService()
        assert not any(server.running for server in made)
        assert ended == []

    def test_directory_is_logged(
        self, file: Path, logged: Sequence[dict[str, Any]]
    ) -> None:
        """The line names the directory of a server that has one."""
        file.write_text(GOOD.replace("storage: memory", "storage: sqlite"))
        self.make(file)[0].startService()
        (first, _) = (each for each in logged if "directory" in each)
        assert first["directory"] == file.parent / "data" / "s1"

    def test_one_failure(self, file: Path) -> None:
        """While a server is left, the process goes on."""
        made, ended = self.make(file)
        made.startService()
        first, second = made
        first.on_failure(first, OSError("disk"))
        first.on_failure(first, OSError("disk"))
        assert ended == []
        assert second.running

    def test_last_failure(self, file: Path, logged: Sequence[dict[str, Any]]) -> None:
        """When the last server has failed, the process ends, once."""
        made, ended = self.make(file)
        made.startService()
        for server in [*made, *made]:
            server.on_failure(server, OSError("disk"))
        assert ended == ["ended"]
        levels = [event["log_level"].name for event in logged]
        assert levels.count("critical") == 1
