"""YAML as values that know where they stand, and as dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.settings import document
from consensus.settings.document import Filler, Value

if TYPE_CHECKING:
    from consensus.errors import Finding


def plain(text: str) -> Any:
    """Return what *text* says; there is nothing wrong with it."""
    value, findings = document.parse(text)
    assert findings == []
    assert value is not None
    return value.plain()


def only_finding(text: str) -> Finding:
    """Return the one thing that is wrong with *text*."""
    (finding,) = document.parse(text)[1]
    return finding


class ParseTests:
    """What a text says."""

    def test_shapes(self) -> None:
        """Mappings, lists, text, numbers, booleans and null are understood."""
        text = "a: {b: [1, -2, 3.5, 1_000]}\nc: true\nd: ~\ne: text\nf: '1'\ng: .inf\n"
        assert plain(text) == {
            "a": {"b": [1, -2, 3.5, 1000]},
            "c": True,
            "d": None,
            "e": "text",
            "f": "1",
            "g": float("inf"),
        }

    @pytest.mark.parametrize("text", ["1e3", "0x10", "010", "1:30", "2024-01-01"])
    def test_odd_numbers_are_text(self, text: str) -> None:
        """What people read otherwise than YAML 1.1 does is left as it is."""
        assert plain(f"a: {text}") == {"a": text}

    def test_empty(self) -> None:
        """Nothing but comments is nothing."""
        assert document.parse("# nothing\n") == (None, [])

    def test_lines_and_paths(self) -> None:
        """Every value knows its path and the line of its key."""
        value, _ = document.parse("a:\n  b: 1\n  c:\n    - x\n    - y\n")
        assert value is not None
        assert dict(value.lines()) == {
            "": 1,
            "a": 1,
            "a.b": 2,
            "a.c": 3,
            "a.c.0": 4,
            "a.c.1": 5,
        }

    def test_syntax_error(self) -> None:
        """A syntax error has a line."""
        finding = only_finding("a: 1\nb: [1,\nc: 2\n")
        assert (finding.id, finding.line) == ("config.E002", 4)
        assert "a flow sequence that begins on line 2, expected" in finding.message

    def test_duplicate_key(self) -> None:
        """The second of two equal keys is refused; the first one counts."""
        value, (finding,) = document.parse("a: 1\nb: 2\na: 3\n")
        assert value is not None
        assert value.plain() == {"a": 1, "b": 2}
        assert (finding.id, finding.path, finding.line) == ("config.E003", "a", 3)
        assert "first on line 1" in finding.message

    def test_all_duplicates(self) -> None:
        """Duplicates of every level are found at once."""
        findings = document.parse("a: {b: 1, b: 2}\na: 3\n")[1]
        assert [finding.path for finding in findings] == ["a.b", "a"]

    @pytest.mark.parametrize("key", ["on", "1", "~", "1.5"])
    def test_key_that_is_no_text(self, key: str) -> None:
        """A key that YAML takes for something else has to be in quotes."""
        finding = only_finding(f"{key}: x\n")
        assert finding.id == "config.E006"
        assert finding.hint == f'write it in quotes: "{key}"'

    def test_key_that_is_a_list(self) -> None:
        """A list is no key."""
        assert only_finding("? [a, b]\n: 1\n").id == "config.E006"

    @pytest.mark.parametrize(
        "text",
        ["a: !!python/object/apply:os.getcwd []", "a: !mine x", "a: !!binary aGk="],
    )
    def test_tags(self, text: str) -> None:
        """No tag makes anything but text, numbers, lists and mappings."""
        assert only_finding(text).message.endswith("means nothing here")

    def test_alias_bomb(self) -> None:
        """Aliases are refused before anything is made of them."""
        bomb = "a: &a [x, x]\n"
        for old, new in pairwise("abcdefghijklmnopqrstuvwxyz"):
            bomb += f"{new}: &{new} [{', '.join([f'*{old}'] * 20)}]\n"
        finding = only_finding(bomb)
        assert (finding.id, finding.line) == ("config.E002", 2)
        assert "the alias *a" in finding.message

    def test_merge_key(self) -> None:
        """A merge key is a key like any other, for the reader to refuse."""
        assert plain("<<: {a: 1}") == {"<<": {"a": 1}}

    def test_depth(self) -> None:
        """A file that is nested too deeply is refused."""
        assert "nested too deeply" in only_finding("[" * 90_000).message

    def test_two_documents(self) -> None:
        """One file is one config."""
        assert only_finding("a: 1\n---\nb: 2\n").line == 2

    def test_forbidden_character(self) -> None:
        """A control character is refused with its line."""
        finding = only_finding("a: 1\nb: \x07\n")
        assert (finding.id, finding.line) == ("config.E002", 2)

    @pytest.mark.parametrize("escape", ["\\0", "\\ud800"])
    def test_unusable_character(self, escape: str) -> None:
        """An escape cannot bring in what no file name has."""
        assert only_finding(f'a: "x{escape}"\n').path == "a"

    @settings(deadline=None)
    @given(st.text())
    def test_any_text(self, text: str) -> None:
        """Whatever the text, there is an answer and no exception."""
        value, findings = document.parse(text)
        assert value is None or isinstance(value, Value)
        assert all(finding.id.startswith("config.E") for finding in findings)

    @settings(deadline=None)
    @given(st.text(alphabet=":-?[]{}&*!|>'\"%@#, \n\tab1."))
    def test_any_punctuation(self, text: str) -> None:
        """The same for texts that look more like YAML."""
        document.parse(text)


class ReadTests:
    """Files."""

    def test_good_file(self, tmp_path: Path) -> None:
        """A byte order mark does no harm."""
        path = tmp_path / "config.yaml"
        path.write_bytes(b"\xef\xbb\xbfa: 1\n")
        value, findings = document.read(path)
        assert value is not None
        assert (value.plain(), findings) == ({"a": 1}, [])

    def test_missing_file(self, tmp_path: Path) -> None:
        """A file that is not there is a finding."""
        value, (finding,) = document.read(tmp_path / "none.yaml")
        assert value is None
        assert finding.message == "the file cannot be read: No such file or directory"

    def test_directory(self, tmp_path: Path) -> None:
        """A directory is a finding."""
        assert "Is a directory" in document.read(tmp_path)[1][0].message

    def test_encoding(self, tmp_path: Path) -> None:
        """Latin-1 is a finding, with its line."""
        path = tmp_path / "config.yaml"
        path.write_bytes("a: 1\nb: é\n".encode("latin-1"))
        (finding,) = document.read(path)[1]
        assert (finding.id, finding.line) == ("config.E001", 2)

    def test_length(self, tmp_path: Path) -> None:
        """What is far too long for a config is not even parsed."""
        path = tmp_path / "config.yaml"
        path.write_bytes(b"#" * (document.MAX_BYTES + 1))
        (finding,) = document.read(path)[1]
        assert "longer than" in finding.message


@dataclass(frozen=True, slots=True)
class Inner:
    """A nested dataclass."""

    size: int = 1


@dataclass(frozen=True, slots=True)
class Sample:
    """One field of each type that options have."""

    required: str
    count: int = 1
    ratio: float = 0.5
    flag: bool = False
    place: Path = Path("x")
    mode: Literal["fast", "safe"] = "safe"
    maybe: int | None = None
    many: tuple[int, ...] = ()
    inner: Inner = Inner()
    odd: complex = 0j

    def __post_init__(self) -> None:
        """Refuse a negative count."""
        if self.count < 0:
            message = "count is negative"
            raise ValueError(message)


def fill(text: str) -> tuple[Any, list[Finding]]:
    """Return a Sample of *text* and what is wrong with it."""
    value, findings = document.parse(text)
    assert value is not None
    filler = Filler(Path("/base"), findings)
    return filler.fill(Sample, value), findings


class FillTests:
    """Values become dataclasses."""

    def test_every_type(self) -> None:
        """Each field gets a value of its type; a path is relative to the base."""
        made, findings = fill(
            "{required: a, count: 2, ratio: 3, flag: yes, place: y/z, mode: fast,"
            " maybe: 4, many: [5, 6], inner: {size: 7}}"
        )
        assert findings == []
        assert made == Sample(
            "a",
            count=2,
            ratio=3.0,
            flag=True,
            place=Path("/base/y/z"),
            mode="fast",
            maybe=4,
            many=(5, 6),
            inner=Inner(7),
        )
        assert isinstance(made.ratio, float)

    def test_defaults(self) -> None:
        """What is not there has its default."""
        assert fill("{required: a}") == (Sample("a"), [])

    @pytest.mark.parametrize(
        ("text", "path", "message", "hint"),
        [
            ("required: on", "required", "expected text, got on", '"on"'),
            ("required: 5", "required", "expected text, got the number 5", '"5"'),
            ("required:", "required", "expected text, got nothing", ""),
            ("count: 1.5", "count", "a whole number, got the number 1.5", ""),
            ("count: '5'", "count", "got the text '5'", "without quotes"),
            ("count: 0x10", "count", "got the text '0x10'", "write all digits"),
            ("count: true", "count", "a whole number, got true", ""),
            ("ratio: 1e3", "ratio", "a number, got the text '1e3'", "all digits"),
            ("ratio: many", "ratio", "a number, got the text 'many'", ""),
            ("flag: 1", "flag", "true or false, got the number 1", ""),
            ("place: [x]", "place", "a path, got a list", ""),
            ("place: 7", "place", "a path, got the number 7", '"7"'),
            ("mode: fsat", "mode", "one of 'fast', 'safe'", "did you mean 'fast'?"),
            ("maybe: x", "maybe", "Expected `int | null`, got `str`", ""),
            ("many: [1, x]", "many", "Expected `int`, got `str` - at `$[1]`", ""),
            ("inner: 1", "inner", "a mapping, got the number 1", "key: value"),
            ("inner: {sise: 1}", "inner.sise", "'sise' is no key", "'size'"),
            ("odd: 1", "odd", "this cannot be set in a config", "leave it out"),
            ("counts: 1", "counts", "'counts' is no key here", "'count'"),
            ("count: -1", "", "count is negative", ""),
        ],
    )
    def test_findings(self, text: str, path: str, message: str, hint: str) -> None:
        """Each mistake is answered with where it is and what to write instead."""
        if not text.startswith("required"):
            text += "\nrequired: a"
        made, (finding,) = fill(text)
        assert made is None
        assert finding.path == path
        assert message in finding.message
        assert hint in finding.hint
        assert finding.line == 1

    def test_all_findings(self) -> None:
        """All mistakes are found at once."""
        findings = fill("count: x\nflag: 3\nwrong: 1")[1]
        assert {finding.path for finding in findings} == {"", "count", "flag", "wrong"}

    def test_hints_that_cannot_be_looked_up(self) -> None:
        """An author who hides a type from the runtime is told so."""

        @dataclass(frozen=True)
        class Hidden:
            place: Nowhere  # type: ignore[name-defined]  # noqa: F821 - the point

        findings: list[Finding] = []
        assert (
            Filler(Path(), findings).fill(Hidden, Value({"place": Value("x")})) is None
        )
        assert "outside of TYPE_CHECKING" in findings[0].hint

    def test_home(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A tilde is the home directory."""
        monkeypatch.setenv("HOME", "/home/somebody")
        assert fill("{required: a, place: ~/x}")[0].place == Path("/home/somebody/x")


class FromPythonTests:
    """A program's mappings are read like a file's."""

    def test_shapes(self) -> None:
        """Tuples are lists, and whatever is no shape is a leaf."""
        value = document.from_python({"a": (1, [2]), "b": {"c": int}})
        assert value.plain() == {"a": [1, [2]], "b": {"c": int}}
        assert [path for path, _ in value.lines()] == [
            "",
            "a",
            "a.0",
            "a.1",
            "a.1.0",
            "b",
            "b.c",
        ]

    def test_leaves_describe_themselves(self) -> None:
        """A finding says what it got."""
        assert document.from_python(int).describe() == "type"
        assert document.from_python("x" * 100).describe().endswith("…'")
        assert document.from_python(None).describe() == "nothing"
