"""What each release has written is read by this one, and means the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from crc32c import crc32c
from twisted.protocols import amp

from adapters.transport import amp_codec
from adapters.transport.amp_commands import MAX_VERSION, MIN_VERSION, decode_error
from adapters.transport.amp_fields import read_identity
from consensus import config
from consensus.applying.applier import Applier
from consensus.backup.file import BackupFile
from consensus.backup.restoring import Restoration
from consensus.core.messages import Message
from contrib.kvstore.machine import KVStore
from tests.corpus import making
from tests.corpus.making import ENGINES, config_of, found, state_of, unpack
from tests.corpus.samples import CALLS, LOG, OWN, has, meaning
from tests.support.servers import Servers

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
RELEASES = sorted(path.name for path in HERE.iterdir() if (path / "wire.json").exists())


@pytest.fixture(params=RELEASES)
def corpus(request: pytest.FixtureRequest) -> Path:
    """Return the directory of each release."""
    return HERE / str(request.param)


def read(path: Path) -> Any:
    """Return what a file of JSON has."""
    return json.loads(path.read_text())


def box_of(data: str) -> dict[bytes, bytes]:
    """Return the one AMP box that is *data*."""
    [box] = amp.parseString(bytes.fromhex(data))
    return dict(box)


class WireTests:
    """What came over connections."""

    def test_messages(self, corpus: Path) -> None:
        """Each message is read, field by field."""
        for each in read(corpus / "wire.json")["messages"]:
            message = amp_codec.decode(bytes.fromhex(each["bytes"]))
            assert type(message).__name__ == each["type"]
            assert has(meaning(message), each["fields"])

    def test_damage(self, corpus: Path) -> None:
        """The comparison would notice another message."""
        first, second = read(corpus / "wire.json")["messages"][:2]
        message = amp_codec.decode(bytes.fromhex(first["bytes"]))
        assert not has(meaning(message), second["fields"])
        assert not has(meaning(message), {**first["fields"], "term": 99})

    def test_introduction(self, corpus: Path) -> None:
        """A server of that release introduces itself, and is talked to."""
        box = box_of(read(corpus / "wire.json")["introduction"])
        assert read_identity(box) == OWN
        assert int(box[b"min_version"]) <= MAX_VERSION
        assert int(box[b"max_version"]) >= MIN_VERSION

    def test_errors(self, corpus: Path) -> None:
        """Each error is raised here as the one that it was there."""
        for each in read(corpus / "wire.json")["errors"]:
            box = box_of(each["bytes"])
            error = decode_error(box[b"_error_code"], box[b"_error_description"])
            assert (type(error).__name__, error.code) == (each["type"], each["code"])
            assert str(error) == each["text"]
            assert has(vars(error), each["fields"])

    def test_calls(self, corpus: Path) -> None:
        """A client of that release gets the answers that it got then."""
        servers = Servers(("s1",), machine=KVStore, config={"cluster": "shop"})
        server, session = servers.leader(), ""
        for each in read(corpus / "calls.json"):
            box = box_of(each["bytes"])
            method = box[b"method"].decode()
            assert method == each["method"]
            payload = making.addressed(method, box[b"payload"], session)
            got = making.answer(servers, server, method, payload)
            if method == "session_open":
                session = got
            now, then = (outline(method, found) for found in (got, each["answer"]))
            is_more = method == "status" and now > then
            assert now == then or is_more, method


def outline(method: str, answer: str) -> Any:
    """
    Return what matters of an answer.

    Which index something gets is this release's affair, and so is how a
    snapshot of now looks: the backup below is about those of then.
    """
    if answer.startswith("error"):
        return answer
    return OUTLINES.get(method, kind_of)(bytes.fromhex(answer))


def unpacked(data: bytes) -> Any:
    """Return what MessagePack says."""
    return meaning(msgspec.msgpack.decode(data))


def kind_of(data: bytes) -> Any:
    """Return the type of an answer: an index is a number, nothing is nothing."""
    return type(unpacked(data)) if data else None


def results_of(data: bytes) -> Any:
    """Return the results of several writes without an index behind them."""
    found = unpacked(data)
    return found[0] if isinstance(found[-1], int) else found


OUTLINES: dict[str, Callable[[bytes], Any]] = {
    "session_open": len,
    "session_forwarded": len,
    "backup_chunk": bool,
    "backup_begin": lambda data: unpacked(data)[1:],
    "status": lambda data: frozenset(unpacked(data)),
    "write_many": results_of,
    "write_with": lambda data: unpacked(data)[0],
    "session_write_indexed": lambda data: unpacked(data)[0],
    "write": KVStore().decode_result,
    "read": KVStore().decode_result,
    "read_with": KVStore().decode_result,
    "session_write": KVStore().decode_result,
}


class DirectoryTests:
    """What was in data directories."""

    @pytest.mark.parametrize("engine", ENGINES)
    def test_start(self, engine: str, corpus: Path, tmp_path: Path) -> None:
        """A start finds the log, the snapshot, the vote and the state of then."""
        unpack(corpus / f"{engine}.tar.gz", tmp_path)
        assert has(
            json.loads(json.dumps(found(config_of(engine, tmp_path)))),
            read(corpus / f"{engine}.json"),
        )

    def test_every_kind(self, corpus: Path) -> None:
        """There is an entry of each kind that the release had."""
        kinds = {each["kind"] for each in read(corpus / "wal.json")["entries"]}
        others = {int(each.kind) for each in LOG[: making.DROPPED]}
        assert kinds | others >= set(range(7))


class BackupTests:
    """What was in backups."""

    def test_read(self, corpus: Path) -> None:
        """It is whole, and of what it was of."""
        source = BackupFile(corpus / "backup")
        said = meaning(msgspec.structs.asdict(source.description))
        assert has(said, read(corpus / "backup.json"))
        whole = b"".join(source.chunks())
        assert crc32c(whole) == said["checksum"]
        applier = Applier(KVStore(), "s1")
        applier.restore(iter([whole]))
        assert state_of(applier)["items"] == {
            "colour": ["blue", 1],
            "size": ["large", 1],
        }
        assert state_of(applier)["sessions"] == 1

    def test_restore(self, corpus: Path, tmp_path: Path) -> None:
        """A new cluster can be made of it."""
        path = tmp_path / "config.yaml"
        path.write_text(
            "members: {s1: a1}\nserve: [s1]\nstate_machine: kvstore\n"
            "transport: memory\n"
        )
        done = Restoration(config.load(path), BackupFile(corpus / "backup")).run()
        assert done.servers == ["s1"]


class MakingTests:
    """The program that makes a corpus."""

    def test_make(self, tmp_path: Path) -> None:
        """What it makes now has all the parts, and a few KiB."""
        making.make(tmp_path / "now")
        names = {path.name for path in (tmp_path / "now").iterdir()}
        assert names == {path.name for path in (HERE / RELEASES[-1]).iterdir()}
        made = read(tmp_path / "now" / "wire.json")
        kinds = {each["type"] for each in made["messages"]}
        assert kinds == {each.__name__ for each in Message.__args__}
        called = {each["method"] for each in read(tmp_path / "now" / "calls.json")}
        assert called == {method for method, _ in CALLS}
        assert (
            sum(path.stat().st_size for path in (tmp_path / "now").iterdir()) < 1 << 17
        )

    def test_never_twice(self) -> None:
        """The bytes of a release that is out are left alone."""
        program = [sys.executable, "-m", "tests.corpus", RELEASES[0]]
        done = subprocess.run(
            program, cwd=HERE.parents[1], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert "never change" in done.stderr
