"""``raft log`` looks at the logs that servers have left, and changes nothing."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from consensus import cli, registry
from consensus.core.values import Entry, EntryKind, HardState
from consensus.datadir import DataDirectory
from consensus.history.source import engine_of, open_storage
from tests.support.recorded import ENGINES, Recording, sums
from tests.support.servers import Register

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

registry.register("state_machine", "log-register", Register)


def raft(*arguments: object, status: int = 0) -> str:
    """Return what ``raft`` prints with *arguments*."""
    done: Result = CliRunner().invoke(cli.raft, [str(each) for each in arguments])
    assert done.exit_code == status, done.output
    return done.output


def log(what: str, path: Path, *arguments: object, status: int = 0) -> str:
    """Return what ``raft log`` prints of the data directory *path*."""
    machine = () if what == "verify" else ("--machine", "log-register")
    where = ("--directory", path)
    return raft("log", what, *arguments, *where, *machine, status=status)


def objects(text: str) -> list[Any]:
    """Return the JSON objects of *text*, one a line."""
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(params=ENGINES)
def recording(request: pytest.FixtureRequest, tmp_path: Path) -> Recording:
    """Return a server of each engine, with some writes and a session."""
    made = Recording(tmp_path / "data", request.param)
    made.write(["set", "a", 1], ["set", "b", 2], ["set", "a", 3], ["fail", "oops"])
    made.session(["set", "c", 4], ["set", "c", 5])
    return made


class ShowTests:
    """What the entries say."""

    def test_every_engine(self, recording: Recording) -> None:
        """All entries are decoded, with every engine; not one byte is changed."""
        path = recording.stop()
        before = sums(path)
        shown = objects(log("show", path, "--json"))
        assert [each["index"] for each in shown] == list(range(1, len(shown) + 1))
        assert all(each["decoded"] for each in shown)
        assert shown[0]["kind"] == "membership"
        assert shown[0]["text"] == "voters: s1"
        texts = [each["text"] for each in shown if each["kind"] == "command"]
        assert texts[:2] == ["['set', 'a', 1]", "['set', 'b', 2]"]
        sessions = [each for each in shown if each["kind"] == "session"]
        assert "opens, for 60000 ms" in sessions[0]["text"]
        assert sessions[1]["text"].endswith("command 1: ['set', 'c', 4]")
        assert sessions[1]["name"] == "set"
        assert sessions[-1]["text"].endswith("closes")
        assert log("verify", path).endswith(": ok\n")
        assert log("state", path) == "['a']: 3\n['b']: 2\n['c']: 5\n"
        assert sums(path) == before

    def test_ranges(self, recording: Recording) -> None:
        """A part is shown; what is not there is left out."""
        path = recording.stop()

        def indexes(*arguments: object) -> list[int]:
            return [each["index"] for each in objects(log("show", path, *arguments))]

        last = indexes("--json")[-1]
        assert indexes("--json", "--from", 2, "--to", 4) == [2, 3, 4]
        assert indexes("--json", "--last", 2) == [last - 1, last]
        assert indexes("--json", "--to", 3, "--last", 2) == [2, 3]
        assert indexes("--json", "--from", last + 1) == []

    def test_long_and_strange(self, tmp_path: Path) -> None:
        """Long text is cut, unless all is wanted; what cannot be printed is escaped."""
        recording = Recording(tmp_path)
        recording.write(["set", "k", "x" * 1000])
        path = recording.stop()
        cut = objects(log("show", path, "--last", 1, "--json"))[0]["text"]
        assert cut.endswith("…")
        assert len(cut) == 200
        assert "x" * 1000 in log("show", path, "--last", 1, "--full")

    def test_no_machine(self, recording: Recording) -> None:
        """Without a state machine, commands are shown as bytes."""
        path = recording.stop()
        nowhere = path / "config.yaml"
        shown = raft("-c", nowhere, "log", "show", "--directory", path, "--json")
        commands = [each for each in objects(shown) if each["kind"] == "command"]
        assert not any(each["decoded"] for each in commands)
        assert commands[0]["text"].startswith("b'")
        raft("-c", nowhere, "log", "state", "--directory", path, status=1)

    def test_grep(self, recording: Recording) -> None:
        """What a pattern finds is printed; nothing found is status 1."""
        path = recording.stop()
        found = objects(log("grep", path, "'SET', 'a'", "-i", "--json"))
        assert [each["text"] for each in found] == [
            "['set', 'a', 1]",
            "['set', 'a', 3]",
        ]
        assert log("grep", path, "never", status=1) == ""
        log("grep", path, "(", status=2)

    def test_stats(self, recording: Recording) -> None:
        """Entries are counted by kind, by command and by term."""
        path = recording.stop()
        found = json.loads(log("stats", path, "--json"))
        assert found["entries"] == found["last_index"] == sum(found["terms"].values())
        assert found["kinds"]["command"]["entries"] == 4
        assert found["commands"]["set"]["entries"] == 3 + 3
        assert found["commands"]["fail"]["entries"] == 1
        assert found["undecodable"] == 0
        text = log("stats", path)
        assert f"entries 1 to {found['last_index']}" in text

    def test_rate(self, tmp_path: Path) -> None:
        """Where entries say the time, the rate is known."""
        recording = Recording(tmp_path)
        recording.session(["set", "a", 1])
        recording.servers.run(2)
        recording.write(*[["set", "a", 2]] * 10)
        recording.session(["set", "a", 1])
        found = json.loads(log("stats", recording.stop(), "--json"))
        began, ended = found["times"]
        assert ended - began >= 2000
        assert 5 <= found["rate"] * (ended - began) / 1000 <= 20


class RefusalTests:
    """What a command refuses."""

    def test_running(self, recording: Recording) -> None:
        """The directory of a running server is refused, with what to do."""
        for what in ("show", "verify", "state", "bisect"):
            arguments = ["a"] if what == "bisect" else []
            said = log(what, recording.path, *arguments, status=1)
            assert "datadir.E008" in said
            assert "--server NAME" in said
        recording.stop()

    def test_no_directory(self, tmp_path: Path) -> None:
        """Some other directory is refused."""
        assert "no raft.json" in log("show", tmp_path, status=1)
        assert "no raft.json" in log("verify", tmp_path, status=1)

    def test_one_source(self, tmp_path: Path) -> None:
        """A log is in one place only."""
        log("show", tmp_path, "--serve", "s1", status=2)


class VerifyTests:
    """Damage is found, and where it is."""

    @pytest.mark.parametrize("engine", ENGINES)
    def test_damage(self, engine: str, tmp_path: Path) -> None:
        """A flipped bit in a command is found, with its place."""
        recording = Recording(tmp_path / "data", engine)
        for number in range(20):
            # Not to be compressed, so that it stands in the file as it is.
            recording.write(["set", "a", sha256(b"%d" % number).hexdigest()[:16]])
        path = recording.stop()
        assert flip(path, sha256(b"10").hexdigest()[:16].encode())
        before = sums(path)
        found = json.loads(log("verify", path, "--json", status=1))
        words = json.dumps(found["problems"])
        assert "damaged" in words or "checksum" in words
        # Some engines do not even open what is damaged.
        assert found["problems"][0]["where"].startswith(("entr", "log"))
        assert sums(path) == before

    def test_goes_on(self, tmp_path: Path) -> None:
        """What is behind the damage is looked at as well."""
        recording = Recording(tmp_path / "data", "sqlite")
        for number in range(20):
            recording.write(["set", "needle", f"<{number:04}>"])
        path = recording.stop()
        assert flip(path, b"<0005>")
        assert flip(path, b"<0010>")
        found = json.loads(log("verify", path, "--json", status=1))
        assert len(found["problems"]) == 2
        indexes = [each["where"] for each in found["problems"]]
        assert all(each.startswith("entry ") for each in indexes)
        assert log("verify", path, status=1).endswith("2 problems\n")

    def test_terms(self, tmp_path: Path) -> None:
        """A term that falls, or is above the hard state's, is found."""
        path = Recording(tmp_path).stop()
        engine = engine_of(path)
        with open_storage(engine, path) as storage:
            last = storage.last_index()
            entries = [
                Entry(last + 1, 9, EntryKind.COMMAND, b"\x01"),
                Entry(last + 2, 9, EntryKind.TIME, b"no time"),
            ]
            storage.append(entries)
            storage.append([Entry(last + 3, 4, EntryKind.NOOP, b"")])
            storage.save_hard_state(HardState(5, "s1"))
            storage.sync()
        found = json.loads(log("verify", path, "--json", status=1))["problems"]
        assert [each["where"] for each in found] == [
            f"entry {last + 2}",
            f"entry {last + 3}",
            "hard state",
        ]
        assert "no entry of kind time" in found[0]["message"]
        assert "term is 4, after one of term 9" in found[1]["message"]
        assert "below that of the last entry, 9" in found[2]["message"]

    def test_snapshots(self, tmp_path: Path) -> None:
        """A damaged snapshot is found, and what the log lacks then."""
        recording = Recording(tmp_path, snapshots={"keep_entries": 1})
        recording.write(*[["set", f"key{n}", "needle"] for n in range(50)])
        index = recording.snapshot()
        recording.write(["set", "a", 1])
        path = recording.stop()
        assert json.loads(log("verify", path, "--json"))["snapshots"] == [index]
        assert flip(path / "snapshots", b"needle")
        said = log("verify", path, status=1)
        assert f"snapshot {index}: " in said
        assert "entries are missing in between" in said

    def test_lost(self, tmp_path: Path) -> None:
        """A log whose files are gone is one that is wrong."""
        path = Recording(tmp_path).stop()
        for each in path.glob("raft.sqlite*"):
            each.unlink()
        assert "the storage has had something" in log("verify", path, status=1)

    def test_records(self, tmp_path: Path) -> None:
        """The small files of a directory are looked at as well."""
        path = Recording(tmp_path).stop()
        (path / "peers.json").write_text("{}")
        assert "peers.json is damaged" in log("verify", path, status=1)
        (path / "raft.json").write_text("{}")
        assert "raft.json is damaged" in log("verify", path, status=1)


def flip(path: Path, needle: bytes) -> bool:
    """Flip a bit of each *needle* in the first file below *path* that has one."""
    for each in sorted(path.rglob("*")):
        if each.is_file() and needle in (data := each.read_bytes()):
            changed = bytes([needle[0], needle[1] ^ 1]) + needle[2:]
            each.write_bytes(data.replace(needle, changed))
            return True
    return False


class ConfigTests:
    """A log may be named by the config."""

    def test_serve(self, tmp_path: Path) -> None:
        """--serve names a member; the only one that is hosted need not be named."""
        recording = Recording(tmp_path / "data")
        recording.write(["set", "a", 1])
        path = recording.stop()
        config = tmp_path / "config.yaml"
        config.write_text(
            "members: {s1: a1, s2: a2}\nserve: [s1]\nstate_machine: log-register\n"
            "transport: memory\ndata_dir: data\n"
        )
        assert raft("-c", config, "log", "state") == "['a']: 1\n"
        assert raft("-c", config, "log", "state", "--serve", "s1") == "['a']: 1\n"
        raft("-c", config, "log", "state", "--serve", "s9", status=1)
        raft("-c", config, "log", "state", "--serve", "s2", status=1)
        assert DataDirectory.exists(path)

    def test_read_only(self, tmp_path: Path) -> None:
        """A copy without its lock is as good."""
        recording = Recording(tmp_path / "data")
        recording.write(["set", "a", 1])
        copy = tmp_path / "copy"
        shutil.copytree(recording.stop(), copy)
        (copy / "lock").unlink()
        (copy / "used").unlink()
        assert log("state", copy) == "['a']: 1\n"
        assert not (copy / "lock").exists()
