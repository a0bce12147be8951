"""The documentation cannot rot: its links lead somewhere, its code runs."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import fields
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
import yaml

import consensus
from adapters.storage.lmdb import LMDBOptions
from adapters.storage.rocksdb import RocksDBOptions
from adapters.storage.sqlite import SQLiteOptions
from adapters.storage.wal import WALOptions
from adapters.transport.amp_connection import AMPOptions
from adapters.transport.memory import MemoryOptions
from consensus import cli, errors
from consensus.config import Limits, Reads, Timing
from contrib.kvstore.resp.options import RespOptions
from contrib.kvstore.resp.table import TABLE
from tests.bench.__main__ import parser
from tests.bench.against import RIVALS
from tests.bench.scenarios import SCENARIOS
from tests.support.markdown import Block, Page
from tests.support.walkthrough import matches, walk

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

PAGES = {
    str(path.relative_to(ROOT)): path
    for path in (ROOT / "README.md", *sorted(DOCS.glob("**/*.md")))
    if path.exists()
}

#: Pages that a reader follows from the first command to the last.
WALKS = [name for name in PAGES if name.startswith(("docs/tutorial", "docs/howto"))]

#: Pages that are written in one go for people who want to use this.
SHORT = [
    *WALKS,
    "docs/README.md",
    "docs/glossary.md",
    *(
        f"docs/reference/{name}.md"
        for name in (
            *("backup-format", "batch-format", "bench", "config"),
            *("counter", "declared-machines", "errors", "queue"),
            *("dev-commands", "library", "log-commands", "logs-and-traces"),
            *("look-commands", "redis-commands", "snapshot-files"),
            *("storage-formats", "testing"),
            "wal-format",
        )
    ),
]
MOST_LINES = 160

#: Of the packages that a page may import, those whose names can be looked up.
OURS = ("consensus", "adapters", "contrib")

#: What a part of a config needs to be a whole one.
REST = {
    "members": {"s1": "tcp:127.0.0.1:9101"},
    "serve": ["s1"],
    "state_machine": "kvstore",
}

#: Loads each of the files that it is given, and says what is wrong with them.
LOADER = """
import sys
from consensus import config, errors
for path in sys.argv[1:]:
    try:
        config.load(path)
    except errors.ConfigError as error:
        print(path, error)
"""


@pytest.fixture(params=PAGES)
def page(request: pytest.FixtureRequest) -> Page:
    """Return each page."""
    return Page(PAGES[request.param])


class PageTests:
    """What holds for every page."""

    def test_links(self, page: Page) -> None:
        """A relative link leads to a file, and to a heading if it names one."""
        broken = [
            f"{page.path.relative_to(ROOT)}:{line}: {target}"
            for line, target in page.links()
            if not leads_somewhere(page, target)
        ]
        assert not broken

    def test_python(self, page: Page) -> None:
        """Python compiles, and the names that it imports from us are there."""
        for block in page.of("python"):
            if not is_excerpt(page, block):
                for module, name in imports(parse(page, block)):
                    is_there = hasattr(import_module(module), name)
                    assert is_there or find_spec(f"{module}.{name}"), (module, name)

    def test_yaml(self, page: Page, tmp_path: Path) -> None:
        """A config loads; a part of one does when the rest is added."""
        if not page.of("yaml"):
            return
        paths = [
            write_config(block, tmp_path / f"line-{block.line}.yaml")
            for block in page.of("yaml")
        ]
        loaded = subprocess.run(
            [sys.executable, "-c", LOADER, *paths],
            env={**os.environ, "PYTHONPATH": str(site(page, tmp_path / "site"))},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert loaded.stdout == ""

    @pytest.mark.parametrize("name", SHORT)
    def test_length(self, name: str) -> None:
        """A page can be read at a sitting."""
        assert len(PAGES[name].read_text().splitlines()) <= MOST_LINES


class WalkTests:
    """What a reader types works."""

    @pytest.mark.parametrize("name", WALKS)
    def test_walk(self, name: str, tmp_path: Path) -> None:
        """The commands of a page, in order, print what the page says."""
        # The page is about that program, which only the system has; .ci/run installs
        # it.  What the page makes with it, other tests make with cryptography.
        if "$ openssl " in PAGES[name].read_text() and not shutil.which("openssl"):
            pytest.skip("no openssl here, which this page has its reader type")
        walk(Page(PAGES[name]), tmp_path)


class ReferenceTests:
    """The reference leaves nothing out."""

    def test_library(self) -> None:
        """Every name that users import from consensus stands there."""
        text = reference("library")
        assert not [name for name in consensus.__all__ if f"`{name}" not in text]

    def test_config(self) -> None:
        """Every key of the parts and of options stands there, with its default."""
        rows = re.findall(
            r"^\| `(\w+)` \| `([^`]*)` \|",
            reference("config") + reference("logs-and-traces"),
            re.MULTILINE,
        )
        assert {"level", "format", "levels", "sample"} <= {name for name, _ in rows}
        known = {
            (each.name, yaml.safe_dump(each.default).split("\n")[0])
            for cls in (
                *(Timing, Limits, Reads, AMPOptions),
                *(MemoryOptions, SQLiteOptions, RocksDBOptions, LMDBOptions),
                WALOptions,
            )
            for each in fields(cls)
        }
        assert known <= set(rows)

    def test_redis(self) -> None:
        """Every command stands there, every option with its default, every finding."""
        text = reference("redis-commands")
        for name in TABLE:
            assert f"`{name.decode().upper()}" in text
        rows = re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", text, re.MULTILINE)
        assert rows == [
            (each.name, yaml.safe_dump(each.default).split("\n")[0])
            for each in fields(RespOptions)
        ]
        source = (ROOT / "contrib/kvstore/resp/options.py").read_text()
        made = set(re.findall(r'"(\w+\.[EW]\d{3})"', source))
        assert set(re.findall(r"`(\w+\.[EW]\d{3})` \|", text)) == made

    def test_errors(self) -> None:
        """Every class of error stands there with its code, and no other."""
        rows = re.findall(
            r"^\| .*`(\w+Error)` \| `(\w+)` \|", reference("errors"), re.MULTILINE
        )
        assert sorted(rows) == sorted(
            (each.__name__, each.code) for each in classes(errors.RaftError)
        )

    def test_findings(self) -> None:
        """Every id of a finding stands there, and no other."""
        sources = [*ROOT.glob("consensus/**/*.py"), *ROOT.glob("adapters/**/*.py")]
        made = {
            identifier
            for source in sources
            for identifier in re.findall(r'"(\w+\.[EW]\d{3})"', source.read_text())
        }
        assert set(re.findall(r"`(\w+\.[EW]\d{3})` \|", reference("errors"))) == made

    def test_command_line(self) -> None:
        """Every command stands there, with its options."""
        text = reference("command-line")
        for name, command in cli.raft.commands.items():
            assert f"`raft {name}" in text
            for parameter in command.params:
                assert parameter.opts[0] in text, (name, parameter.opts)

    def test_log_commands(self) -> None:
        """Every command about logs stands there, with its options."""
        text, log = reference("log-commands"), cli.raft.commands["log"]
        assert isinstance(log, click.Group)
        for name, command in log.commands.items():
            assert f"`raft log {name}" in text
            for parameter in command.params:
                if isinstance(parameter, click.Option):
                    assert f"`{parameter.opts[0]}" in text, (name, parameter.opts)

    def test_look_commands(self) -> None:
        """Every option of the commands that look at a cluster stands there."""
        text = reference("look-commands")
        for name in ("watch-status", "events", "explain", "bench", "compact"):
            assert f"## raft {name}" in text
            for parameter in cli.raft.commands[name].params:
                if isinstance(parameter, click.Option):
                    assert parameter.opts[0] in text, (name, parameter.opts)

    def test_bench(self) -> None:
        """Every scenario of the bench stands there, and every option and rival."""
        text = reference("bench")
        assert re.findall(r"^\| `(\w+)` \| [a-z]", text, re.MULTILINE) == list(
            SCENARIOS
        )
        known = [
            option
            for action in parser()._actions
            for option in action.option_strings
            if action.dest != "help"
        ]
        named = [*known, *RIVALS]
        assert not [each for each in named if f"`{each}" not in text]

    def test_index(self) -> None:
        """The index leads to every page."""
        index = Page(DOCS / "README.md")
        targets = {
            (DOCS / target.partition("#")[0]).resolve() for _, target in index.links()
        }
        pages = {path for path in map(PAGES.get, [*WALKS, *SHORT]) if path is not None}
        assert pages - targets == {DOCS / "README.md"}


class MatchTests:
    """How what is printed is compared with what a page says."""

    @pytest.mark.parametrize(
        ("printed", "expected", "verdict"),
        [
            ("5\n", "5\n", True),
            ("5\n", "6\n", False),
            ("5\n6\n", "5\n", False),
            ("", "5\n", False),
            ("s3 leads in term 7\n", "... leads in term ...\n", True),
            ("a\nb\nc\n", "a\n...\n", True),
            ("b\nc\n", "a\n...\n", False),
            ("a.b\n", "a+b\n", False),
            ("\n  s1   leader  \n\n", "s1 leader\n", True),
        ],
    )
    def test_matches(self, printed: str, expected: str, *, verdict: bool) -> None:
        """Three dots stand for anything; only spaces are forgiven otherwise."""
        assert matches(printed, expected) is verdict

    def test_walks_can_fail(self, tmp_path: Path) -> None:
        """A page that is wrong about its output, or fails, is found out."""
        for text in ("$ echo 5\n6\n", "$ false\n"):
            page = Page(tmp_path / "page.md", f"```console\n{text}```\n")
            with pytest.raises(AssertionError, match="exit status"):
                walk(page, tmp_path)


def leads_somewhere(page: Page, target: str) -> bool:
    """Say whether a link of *page* to *target* is good; others' sites are."""
    if re.match(r"[a-z]+:", target):
        return True
    name, _, anchor = target.partition("#")
    path = page.path.parent / name if name else page.path
    if not path.exists() or not path.resolve().is_relative_to(ROOT):
        return False
    return not anchor or anchor in Page(path).anchors()


def is_excerpt(page: Page, block: Block) -> bool:
    """Say whether *block* stands in a file beside *page*."""
    sources = page.path.parent.glob("*/*.py")
    return any(block.text in source.read_text() for source in sources)


def parse(page: Page, block: Block) -> ast.AST:
    """Return what *block* is to Python; outside of functions, it may await."""
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    where = f"{page.path}:{block.line}"
    tree: ast.AST = compile(block.text, where, "exec", flags)
    return tree


def imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield module and name of what *tree* imports from our packages."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            is_ours = node.module.partition(".")[0] in OURS
            yield from ((node.module, each.name) for each in node.names if is_ours)


def write_config(block: Block, path: Path) -> Path:
    """Write what *block* says to *path*, with what is missing."""
    document: dict[str, Any] = yaml.safe_load(block.text)
    if "members" in document:
        document.setdefault("serve", list(document["members"]))
    path.write_text(yaml.safe_dump(REST | document))
    return path


def site(page: Page, directory: Path) -> Path:
    """
    Return *directory* with all that a config of *page* may name.

    That is the Python of the page itself, and the distributions beside it, as
    an installer would leave them there.
    """
    directory.mkdir()
    for block in page.of("python"):
        if block.file_name:
            (directory / block.file_name).write_text(block.text)
    for project in page.path.parent.glob("*/pyproject.toml"):
        said = tomllib.loads(project.read_text())["project"]
        info = directory / f"{said['name'].replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {said['name']}\nVersion: 1.0\n"
        )
        lines = []
        for group, points in said["entry-points"].items():
            lines += [f"[{group}]", *(f"{name} = {points[name]}" for name in points)]
        (info / "entry_points.txt").write_text("\n".join(lines))
        for source in project.parent.glob("*.py"):
            shutil.copy(source, directory)
    return directory


def reference(name: str) -> str:
    """Return the text of a page of the reference."""
    return (DOCS / "reference" / f"{name}.md").read_text()


def classes(root: type[errors.RaftError]) -> Iterator[type[errors.RaftError]]:
    """Yield *root* and all that inherit it."""
    yield root
    for child in root.__subclasses__():
        yield from classes(child)
