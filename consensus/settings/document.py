"""
A YAML file as plain values that know where they stand, and as dataclasses.

Only what a config needs: mappings, lists, text, numbers, booleans and null.
Aliases and tags are refused, so nothing in a file can run code or grow
beyond the file's own size.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import yaml

from consensus.errors import Finding
from consensus.registry import suggest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: A config has a few kilobytes; what is longer is not one.
MAX_BYTES = 256 * 1024

#: A config has four levels.
MAX_DEPTH = 32

_TAG = "tag:yaml.org,2002:"
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9_]{0,30})")
_FLOAT = re.compile(r"[-+]?[0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?|[-+]?\.(inf|nan)")
_KINDS = {tuple: "a list", dict: "a mapping", type(None): "nothing"}
_TRUE = ("true", "yes", "on")


@dataclass(frozen=True, slots=True)
class Value:
    """
    One value of a document.

    Args:
        content: A ``dict`` from text to :class:`Value`, a ``tuple`` of
            :class:`Value`, or anything else, which is a leaf.
        path: Where it is, as ``storage.options.path`` or ``serve.0``.
        line: The line that it is on, from 1; 0 if it is from no file.
        spelling: A leaf as the file has it, if it is written without quotes.
    """

    content: Any
    path: str = ""
    line: int = 0
    spelling: str = ""

    def plain(self) -> Any:
        """Return the content without the places."""
        if isinstance(self.content, dict):
            return {key: each.plain() for key, each in self.content.items()}
        if isinstance(self.content, tuple):
            return [each.plain() for each in self.content]
        return self.content

    def lines(self) -> Iterator[tuple[str, int]]:
        """Yield the path and the line of this value and of all below."""
        yield self.path, self.line
        children = self.content
        if isinstance(children, dict):
            children = tuple(children.values())
        if isinstance(children, tuple):
            for each in children:
                yield from each.lines()

    def describe(self) -> str:
        """Return in words what this is, for "expected a number, got …"."""
        match self.content:
            case bool():
                words = self.spelling or str(self.content).lower()
            case int() | float():
                words = f"the number {self.content}"
            case str():
                words = f"the text {_shorten(self.content)!r}"
            case _:
                words = _KINDS.get(type(self.content), type(self.content).__name__)
        return words


def read(path: Path) -> tuple[Value | None, list[Finding]]:
    """Return what the file at *path* says, and all that is wrong with it."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            message = f"the file is longer than {MAX_BYTES} bytes"
            return None, [Finding("config.E001", message, "is it the right file?")]
        return parse(data.decode("utf-8-sig"))
    except OSError as error:
        message = f"the file cannot be read: {error.strerror or error}"
        return None, [Finding("config.E001", message, "give the path of a YAML file")]
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        hint = "save the file as UTF-8"
        return None, [Finding("config.E001", "this is not UTF-8", hint, line=line)]


def parse(text: str) -> tuple[Value | None, list[Finding]]:
    """Return what *text* says, and all that is wrong with it as YAML."""
    try:
        refused = _look_through(text)
        if refused is not None:
            return None, [refused]
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        return None, [_not_yaml(_words(error), _line(error.problem_mark))]
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return None, [_not_yaml(f"a character that YAML forbids: {error.reason}", line)]
    walk = _Walk()
    return (walk.value(root, "") if root is not None else None), walk.findings


def from_python(content: object, path: str = "") -> Value:
    """Return mappings, lists and leaves of a program as a :class:`Value`."""
    if isinstance(content, Mapping):
        return Value(
            {str(key): from_python(content[key], _join(path, key)) for key in content},
            path,
        )
    if isinstance(content, list | tuple):
        return Value(
            tuple(
                from_python(each, _join(path, position))
                for position, each in enumerate(content)
            ),
            path,
        )
    return Value(content, path)


@dataclass(slots=True)
class Filler:
    """
    Makes dataclasses of values, type-checked field by field.

    Args:
        base: What relative paths are relative to.
        findings: Where everything goes that is wrong.
    """

    base: Path
    findings: list[Finding]

    def fill(self, cls: type[Any], value: Value) -> Any:
        """Return a *cls* made of the mapping *value*; ``None`` after a finding."""
        if not isinstance(value.content, dict):
            self.expected("a mapping", value, "write each as key: value")
            return None
        before = len(self.findings)
        known = {field.name: field for field in fields(cls) if field.init}
        self.refuse_others(value, known)
        hints = self._hints(cls, value)
        chosen = {
            name: self.convert(value.content[name], hints[name])
            for name in known
            if name in hints and name in value.content
        }
        for name, field in known.items():
            required = field.default is MISSING and field.default_factory is MISSING
            if required and name not in value.content:
                self.missing(name, value)
        if len(self.findings) > before:
            return None
        try:
            return cls(**chosen)
        except (TypeError, ValueError) as error:
            self.complain("config.E012", str(error), "", value)
            return None

    def convert(self, value: Value, hint: Any) -> Any:
        """Return *value* as the type *hint*; ``None`` after a finding."""
        if is_dataclass(hint) and isinstance(hint, type):
            return self.fill(hint, value)
        try:
            return msgspec.convert(value.plain(), hint, dec_hook=self._path)
        except msgspec.ValidationError as error:
            words = _type_words(hint)
            if words:
                self.expected(words, value, _advice(hint, value))
            else:
                self.complain("config.E006", str(error), "", value)
        except (_NoSuchTypeError, TypeError) as error:
            message = f"this cannot be set in a config: {error}"
            self.complain("config.E012", message, "leave it out", value)
        return None

    def refuse_others(self, value: Value, known: Iterable[str]) -> None:
        """Complain of each key of the mapping *value* that is not *known*."""
        known = list(known)
        for key, child in value.content.items():
            if key not in known:
                hint = suggest(key, known) or "leave it out"
                self.complain("config.E004", f"{key!r} is no key here", hint, child)

    def missing(self, key: str, parent: Value) -> None:
        """Complain that the mapping *parent* lacks *key*."""
        message = f"{key!r} is missing"
        self.complain("config.E005", message, f"add {key}: …", parent)

    def expected(self, words: str, value: Value, hint: str = "") -> None:
        """Complain that *value* is not what *words* say."""
        message = f"expected {words}, got {value.describe()}"
        self.complain("config.E006", message, hint, value)

    def complain(self, id_: str, message: str, hint: str, value: Value) -> None:
        """Keep a finding about *value*."""
        self.findings.append(Finding(id_, message, hint, value.path, value.line))

    def _hints(self, cls: type[Any], value: Value) -> dict[str, Any]:
        try:
            return get_type_hints(cls, include_extras=True)
        except NameError as error:
            message = f"the types of {cls.__qualname__} cannot be looked up: {error}"
            hint = "its module has to import them outside of TYPE_CHECKING"
            self.complain("config.E012", message, hint, value)
            return {}

    def _path(self, hint: type, content: object) -> object:
        if hint is Path and isinstance(content, str | Path):
            try:
                return self.base / Path(content).expanduser()
            except RuntimeError as error:
                raise ValueError(str(error)) from error
        if hint is Path:
            raise ValueError("expected a path")
        # msgspec lets it pass; of a TypeError it would make a wrong value's.
        raise _NoSuchTypeError("YAML has no such type")


class _NoSuchTypeError(Exception):
    """An option is of a type that no YAML value can become."""


def _type_words(hint: Any) -> str:
    """Return what *hint* stands for, in words; empty for the unusual."""
    simple = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        Path: "a path",
    }
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    return next((words for known, words in simple.items() if known is hint), "")


def _advice(hint: Any, value: Value) -> str:
    """Return what to write instead, where YAML has its own idea of *value*."""
    content = value.content
    if hint in (str, Path) and value.spelling and not isinstance(content, str):
        return (
            f'YAML does not take this for text: write it in quotes: "{value.spelling}"'
        )
    if hint in (int, float) and isinstance(content, str) and _looks_numeric(content):
        if not value.spelling:
            return "write it without quotes"
        return "YAML takes this for text: write all digits, as 1000 or 0.001"
    if get_origin(hint) is Literal and isinstance(content, str):
        return suggest(content, map(str, get_args(hint)))
    return ""


def _looks_numeric(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text[:2].lower() in ("0x", "0o", "0b")
    return True


class _Walk:
    """Turns YAML's nodes into values and gathers what it cannot take."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def value(self, node: yaml.Node, path: str) -> Value:
        line = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            self._standard(node, path, "map")
            return Value(self._mapping(node, path), path, line)
        if isinstance(node, yaml.SequenceNode):
            self._standard(node, path, "seq")
            children = tuple(
                self.value(child, _join(path, position))
                for position, child in enumerate(node.value)
            )
            return Value(children, path, line)
        content = self._scalar(node, path)
        spelling = node.value if getattr(node, "style", None) is None else ""
        return Value(content, path, line, spelling)

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[str, Value]:
        content: dict[str, Value] = {}
        for key_node, child in node.value:
            key = self._key(key_node, path)
            if key is None:
                continue
            at = _join(path, key)
            line = key_node.start_mark.line + 1
            if key in content:
                message = f"{key!r} is here twice, first on line {content[key].line}"
                self._complain("config.E003", message, "remove one", at, line)
                continue
            found = self.value(child, at)
            # The key's line: where a person looks, even if the value is below.
            content[key] = Value(found.content, at, line, found.spelling)
        return content

    def _key(self, node: yaml.Node, path: str) -> str | None:
        line = node.start_mark.line + 1
        if not isinstance(node, yaml.ScalarNode):
            message = "a key has to be text, not a list or a mapping"
            self._complain("config.E006", message, "write key: value", path, line)
            return None
        if not isinstance(self._scalar(node, path), str):
            message = f"YAML does not take the key {node.value} for text"
            hint = f'write it in quotes: "{node.value}"'
            self._complain("config.E006", message, hint, path, line)
        return str(node.value)

    def _scalar(self, node: yaml.Node, path: str) -> object:
        text = str(node.value)
        match node.tag.removeprefix(_TAG):
            case "null":
                return None
            case "bool":
                return text.lower() in _TRUE
            case "int" | "float":
                return _number(text)
            case "str" | "timestamp" | "merge" | "value" | "!":
                self._usable(text, node, path)
                return text
        self._standard(node, path)
        return text

    def _usable(self, text: str, node: yaml.Node, path: str) -> None:
        # Escapes can say what no file name or address can have.
        if "\0" in text or any("\ud800" <= each <= "\udfff" for each in text):
            line = node.start_mark.line + 1
            message = "the text has a character that cannot be used"
            self._complain("config.E002", message, "leave it out", path, line)

    def _standard(self, node: yaml.Node, path: str, *tags: str) -> None:
        if node.tag.removeprefix(_TAG) not in tags:
            message = f"the tag {node.tag} means nothing here"
            line = node.start_mark.line + 1
            self._complain(
                "config.E002", message, "write it without the tag", path, line
            )

    def _complain(
        self, id_: str, message: str, hint: str, path: str, line: int
    ) -> None:
        self.findings.append(Finding(id_, message, hint, path, line))


def _number(text: str) -> int | float | str:
    """Return *text* as a decimal number; YAML's other ways of writing one stay text."""
    digits = text.replace("_", "")
    if _INTEGER.fullmatch(text):
        return int(digits)
    if _FLOAT.fullmatch(text.lower()):
        return float(digits.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _shorten(text: str) -> str:
    longest = 60
    return text if len(text) <= longest else text[:longest] + "…"


def _look_through(text: str) -> Finding | None:
    """
    Return what makes *text* too dear to read, if anything does.

    Before any value is made: a few aliases can stand for millions of values,
    and each level of nesting is one of recursion.
    """
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            return Finding(
                "config.E002",
                f"the alias *{event.anchor} stands for a value written elsewhere",
                "repeat the value; a text that begins with * has to be in quotes",
                line=_line(event.start_mark),
            )
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            message = "lists or mappings are nested too deeply"
            return _not_yaml(message, _line(event.start_mark))
    return None


def _words(error: yaml.MarkedYAMLError) -> str:
    if error.context and error.context_mark:
        begin = f"{error.context} that begins on line {_line(error.context_mark)}, "
    else:
        begin = ""
    return f"{begin}{error.problem}"


def _line(mark: Any) -> int:
    return mark.line + 1 if mark is not None else 0


def _not_yaml(message: str, line: int) -> Finding:
    return Finding("config.E002", f"this is not YAML: {message}", "", "", line)
