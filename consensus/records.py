"""
Small JSON files of the framework's own: with a format, a checksum, and whole.

Each holds an object with ``format``, a number, and ``checksum``: SHA-256, in
hexadecimal, of the rest as JSON with sorted keys and no spaces.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from consensus.durable import write_durably
from consensus.errors import ConfigError, Finding

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: The format of these files that this release writes.
FORMAT = 1

#: No such file is longer; what is, is damaged.
_MAX_BYTES = 64 * 1024

#: What may stand in one, whatever it means.
_Content = dict[str, int | str | dict[str, str]]

_R = TypeVar("_R", bound=msgspec.Struct)


def read_record(
    file: Path, cls: type[_R], damaged: Callable[[Path, str], Finding]
) -> _R | None:
    """
    Return what *file* says, as a *cls*; ``None`` if there is none.

    Raises:
        ConfigError: It is of a newer release, or damaged; then with what
            *damaged* returns for the file and a reason.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_BYTES)
    except FileNotFoundError:
        return None
    try:
        content = msgspec.json.decode(data, type=_Content)
        format_ = content.get("format")
        if isinstance(format_, int) and format_ > FORMAT:
            raise ConfigError([_newer(file, format_)])
        if content.pop("checksum", None) != _checksum(content):
            raise ConfigError([damaged(file, "the checksum is wrong")])
        return msgspec.convert(content, cls)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError([damaged(file, str(error))]) from error


def write_record(file: Path, record: msgspec.Struct) -> None:
    """
    Replace *file* durably, as a whole or not at all.

    Raises:
        OSError: It is as it was.
    """
    content = msgspec.to_builtins(record)
    text = json.dumps(content | {"checksum": _checksum(content)}, indent=2) + "\n"
    if len(text) >= _MAX_BYTES:
        message = f"{file.name} would be longer than {_MAX_BYTES} bytes"
        raise OSError(message)
    write_durably(file, text.encode())


def _checksum(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _newer(file: Path, format_: int) -> Finding:
    return Finding(
        "datadir.E005",
        f"{file} has format {format_}, and this release knows up to {FORMAT}",
        "start a release that is at least as new as the one that wrote it",
        "data_dir",
    )
