"""Makes the corpus of this release; see :mod:`tests.corpus.samples`."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import msgspec

from consensus.applying.applier import Applier
from consensus.config import Config, from_mapping
from consensus.core.values import HardState, Identity, SnapshotMeta
from consensus.datadir import DataDirectory
from consensus.errors import RaftError
from consensus.shell.recovery import recover
from consensus.snapshots.files import FileSnapshots, split
from consensus.snapshots.header import read_header
from contrib.kvstore.machine import KVStore
from tests.corpus.samples import CALLS, FOUNDING, LOG, call_box, meaning, wire
from tests.support.backups import write_backup
from tests.support.servers import Servers

if TYPE_CHECKING:
    from collections.abc import Iterator

ENGINES = ("lmdb", "rocksdb", "sqlite", "wal")

#: How far the snapshot in a data directory goes, and what the log has dropped.
COVERED, DROPPED = 6, 4

# Locks, and a diary with the names of hosts and directories.
_LEFT_OUT = {"LOG", "LOCK", "lock.mdb", "lock"}


def make(target: Path) -> None:
    """Write the whole corpus into the new directory *target*."""
    target.mkdir()
    _write(target / "wire.json", wire())
    _write(target / "calls.json", list(exchanged()))
    for engine in ENGINES:
        with TemporaryDirectory() as place:
            fill(config_of(engine, Path(place)))
            means = found(config_of(engine, Path(place)))
            pack(Path(place), target / f"{engine}.tar.gz")
        _write(target / f"{engine}.json", means)
    applier = applied(Applier(KVStore(), "s1"), COVERED)
    header, state = read_header(applier.snapshot())
    said = write_backup(
        target / "backup",
        state,
        header,
        application="kvstore",
        application_class="contrib.kvstore.machine.KVStore",
    )
    _write(target / "backup.json", meaning(msgspec.structs.asdict(said)))


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def exchanged() -> Iterator[dict[str, Any]]:
    """Yield each call with its answer, by a server alone and in virtual time."""
    servers = Servers(("s1",), machine=KVStore, config={"cluster": "shop"})
    server = servers.leader()
    session = ""
    for method, call in CALLS:
        payload = addressed(method, call, session)
        found = answer(servers, server, method, payload)
        yield {
            "bytes": call_box(method, payload).hex(),
            "method": method,
            "answer": found,
        }
        if method == "session_open":
            session = found


def addressed(method: str, payload: bytes, session: str) -> bytes:
    """Return *payload*, for the *session* that was opened if it is about one."""
    if method in {"session_write", "session_write_indexed", "session_close"}:
        return bytes.fromhex(session) + payload[8:]
    return payload


def answer(servers: Servers, server: Any, method: str, payload: bytes) -> str:
    """Return the answer in hexadecimal, or the code of the error."""
    try:
        while True:
            found: bytes = servers.result(server.answer(method, payload))
            if found or method != "backup_begin":
                return found.hex()
            servers.run(0.1)
    except RaftError as error:
        return f"error {error.code}"


# --- data directories ---------------------------------------------------------


def config_of(engine: str, place: Path) -> Config:
    """Return the config of s1 with its data in *place*."""
    mapping = {
        "cluster": "shop",
        "members": FOUNDING.voters,
        "data_dir": str(place),
        "storage": engine,
    }
    return from_mapping(mapping, name="s1", state_machine=KVStore)


def applied(applier: Applier, up_to: int, after: int = 0) -> Applier:
    """Return *applier* with the entries of the log applied."""
    applier.apply(LOG[after:up_to], lambda _entries, _results: None)
    return applier


def fill(chosen: Config) -> None:
    """Leave a log with a snapshot in the directory of s1."""
    directory = DataDirectory.open(
        chosen.directory("s1"), chosen.cluster, "s1", chosen.storage
    )
    storage = chosen.storage.cls(chosen.storage.options)
    storage.open(directory.path)
    snapshots = FileSnapshots(directory.path)
    with closing(directory), closing(storage), closing(snapshots):
        directory.mark_used()
        directory.remember("s2", "22" * 16)
        storage.save_hard_state(HardState(3, "s2"))
        storage.append(LOG)
        storage.sync()
        meta = SnapshotMeta(COVERED, LOG[COVERED - 1].term, FOUNDING.encode(), 1)
        writer = snapshots.begin(meta)
        for chunk in split(applied(Applier(KVStore(), "s1"), COVERED).snapshot()):
            writer.write(chunk)
        writer.finish()
        writer.commit()
        storage.compact(DROPPED, LOG[DROPPED - 1].term)
        storage.sync()


def found(chosen: Config) -> dict[str, Any]:
    """Return what a start finds in the directory of s1, and makes of it."""
    storage = chosen.storage.cls(chosen.storage.options)
    recovered = recover(chosen, "s1", storage)
    with closing(recovered), closing(storage), closing(recovered.snapshots):
        latest = recovered.snapshots.latest
        assert latest is not None
        assert recovered.directory is not None
        entries = storage.entries(DROPPED + 1, recovered.last_index, 1 << 20)
        applier = Applier(KVStore(), "s1")
        applier.restore(recovered.snapshots.chunks(latest))
        behind = entries[latest.index - DROPPED :]
        applier.apply(behind, lambda _entries, _results: None)
        identity: Identity = recovered.identity
        return {
            "cluster": identity.cluster,
            "server": identity.server,
            "incarnation": identity.incarnation,
            "peers": recovered.directory.acquaintances(),
            "hard_state": meaning(recovered.hard_state),
            "base": list(recovered.base),
            "term_starts": meaning(recovered.term_starts),
            "memberships": [
                [index, json.loads(each.encode())]
                for index, each in recovered.memberships
            ],
            "snapshot": meaning(latest),
            "entries": meaning(entries),
            "state": state_of(applier),
        }


def state_of(applier: Applier) -> dict[str, Any]:
    """Return what is known after the last entry, in the words of a reader."""
    items = {
        key.decode(): [item.value, item.version]
        for key, item in applier.state.scan(b"", None)
    }
    return {
        "items": items,
        "last_applied": applier.last_applied,
        "version": applier.version,
        "time": applier.sessions.time,
        "sessions": len(applier.sessions.encode()),
    }


def pack(place: Path, target: Path) -> None:
    """Write the files of *place* as an archive that says nothing of its maker."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for path in sorted(place.rglob("*")):
            if path.name in _LEFT_OUT or path.name.startswith("LOG.old"):
                continue
            info = tarfile.TarInfo(str(path.relative_to(place)))
            if path.is_dir():
                info.type, info.mode = tarfile.DIRTYPE, 0o700
                archive.addfile(info)
                continue
            content = path.read_bytes()
            info.size, info.mode = len(content), 0o600
            archive.addfile(info, io.BytesIO(content))
    target.write_bytes(gzip.compress(data.getvalue(), mtime=0))


def unpack(source: Path, place: Path) -> None:
    """Undo :func:`pack`."""
    with tarfile.open(source) as archive:
        # Python 3.11 has no filters before its fourth release.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(place)  # noqa: S202 - it is our own
