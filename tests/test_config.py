"""What a YAML file or a program says becomes a Config, or a list of findings."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.storage.memory import MemoryStorage
from adapters.storage.sqlite import SQLiteStorage
from adapters.transport.amp import AMPTransport
from adapters.transport.memory import MemoryTransport
from consensus import config, registry
from consensus.config import Config, Limits, Timing
from consensus.errors import ConfigError, Finding
from consensus.interfaces import TLS, NoOptions, StateMachine

GOOD = """\
members:
  s1: tcp:127.0.0.1:1
  s2: tcp:127.0.0.1:2
  s3: tcp:127.0.0.1:3
serve: [s1]
state_machine: config-counter
"""


@dataclass(frozen=True, slots=True)
class CounterOptions:
    """What a Counter can be told."""

    step: int = 1
    file: Path = Path("counts")


class Counter(StateMachine):
    """Counts its commands."""

    Options = CounterOptions

    def init(self, name: str) -> Any:
        del name
        return 0

    def handle_write(self, command: Any, state: Any) -> tuple[Any, Any]:
        del command
        return state, state + self.options.step

    def handle_read(self, query: Any, state: Any) -> Any:
        del query
        return state


registry.register("state_machine", "config-counter", Counter)


def write(directory: Path, text: str) -> Path:
    """Return a file in *directory* that says *text*."""
    path = directory / "config.yaml"
    path.write_text(text)
    return path


@pytest.fixture
def findings_of(tmp_path: Path) -> Any:
    """Return a function that gives what is wrong with a text."""

    def find(text: str, *serve: str) -> list[Finding]:
        with pytest.raises(ConfigError) as caught:
            config.load(write(tmp_path, text), serve)
        return list(caught.value.findings)

    return find


def brief(findings: list[Finding]) -> list[tuple[str, str, int]]:
    """Return the id, the path and the line of each."""
    return [(each.id, each.path, each.line) for each in findings]


class ReachTests:
    """Where a server may listen without encryption."""

    @pytest.mark.parametrize(
        "address",
        ["tcp:10.0.0.1:1", "tcp:0.0.0.0:1", "tcp:db.example:1"],
    )
    def test_where_others_reach_it(self, findings_of: Any, address: str) -> None:
        """Nowhere that other machines can reach."""
        text = GOOD.replace("tcp:127.0.0.1:1", address)
        (found,) = findings_of(text)
        assert (found.id, found.path, found.line) == ("config.E014", "members.s1", 2)
        assert "insecure: true" in found.hint

    @pytest.mark.parametrize(
        "address",
        ["tcp:127.0.0.3:1", "tcp:localhost:1", "unix:/tmp/x", "tcp:\\:\\:1:1"],
    )
    def test_where_they_do_not(self, tmp_path: Path, address: str) -> None:
        """Loopback addresses and UNIX sockets do."""
        config.load(write(tmp_path, GOOD.replace("tcp:127.0.0.1:1", address)))

    def test_if_it_is_said(self, tmp_path: Path) -> None:
        """With TLS, or with a word, all do; and so does what is not served here."""
        text = GOOD.replace("tcp:127.0.0.1:1", "tcp:10.0.0.1:1")
        files = "{certificate: a, key: b, authority: c}"
        assert config.load(write(tmp_path, f"{text}insecure: true\n")).insecure
        assert config.load(write(tmp_path, f"{text}tls: {files}\n")).tls
        assert config.load(write(tmp_path, text), ["s2"]).serve == ("s2",)

    def test_programs(self) -> None:
        """They are told likewise."""
        with pytest.raises(ConfigError) as caught:
            config.from_mapping(
                {"address": "tcp:10.0.0.1:1"}, name="s1", state_machine=Counter
            )
        assert [each.id for each in caught.value.findings] == ["config.E014"]


class LoadTests:
    """A good file."""

    def test_defaults(self, tmp_path: Path) -> None:
        """What a file leaves out has its default."""
        loaded = config.load(write(tmp_path, GOOD))
        assert loaded.cluster == "raft"
        assert loaded.members == {
            "s1": "tcp:127.0.0.1:1",
            "s2": "tcp:127.0.0.1:2",
            "s3": "tcp:127.0.0.1:3",
        }
        assert loaded.serve == ("s1",)
        assert loaded.data_dir == tmp_path / "data"
        assert loaded.transport.cls is AMPTransport
        assert loaded.storage.cls is SQLiteStorage
        assert loaded.state_machine.cls is Counter
        assert loaded.state_machine.options == CounterOptions()
        assert (loaded.timing, loaded.limits) == (Timing(), Limits())
        assert loaded.source == str(tmp_path / "config.yaml")

    @pytest.mark.parametrize("heartbeat", [0.05, 0.1, 0.004, 0.7])
    def test_three_heartbeats_are_enough(
        self, tmp_path: Path, heartbeat: float
    ) -> None:
        """Whatever binary fractions make of three times a tenth."""
        timing = f"{{election_timeout: {3 * heartbeat:g},"
        timing += f" heartbeat_interval: {heartbeat}}}"
        loaded = config.load(write(tmp_path, f"{GOOD}timing: {timing}\n"))
        assert loaded.timing.heartbeat_interval == heartbeat

    def test_everything(self, tmp_path: Path) -> None:
        """What a file says is what counts."""
        text = """\
cluster: blue
members: {a: "1", b.c-d_e: "2"}
serve: [b.c-d_e, a]
data_dir: /var/lib/raft
state_machine: {engine: config-counter, options: {step: 5, file: x/y}}
transport: {engine: memory}
storage: memory
timing: {heartbeat_interval: 1, election_timeout: 3.5, request_timeout: 60,
  disk_stall_timeout: 7}
preferred_leaders: [a]
limits: {max_command_bytes: 10, max_pending_bytes: 11, max_pending_requests: 12,
  log_cache_bytes: 13, max_append_bytes: 14, max_inflight_appends: 15}
"""
        loaded = config.load(write(tmp_path, text))
        assert loaded.cluster == "blue"
        assert loaded.serve == ("b.c-d_e", "a")
        assert loaded.data_dir == Path("/var/lib/raft")
        assert loaded.state_machine.options == CounterOptions(5, tmp_path / "x/y")
        assert loaded.transport.cls is MemoryTransport
        assert loaded.storage.cls is MemoryStorage
        assert loaded.storage.name == "memory"
        assert loaded.timing == Timing(1.0, 3.5, 60.0, 7.0)
        assert loaded.preferred_leaders == ("a",)
        assert loaded.limits == Limits(10, 11, 12, 13, 14, 15)

    def test_relative_paths(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Paths begin at the file, wherever the process is started."""
        write(tmp_path, GOOD)
        monkeypatch.chdir(tmp_path.parent)
        loaded = config.load(f"{tmp_path.name}/config.yaml")
        assert loaded.data_dir == tmp_path / "data"

    def test_serve_of_the_command_line(self, tmp_path: Path) -> None:
        """Whoever is named on the command line is hosted, and nobody else."""
        path = write(tmp_path, GOOD)
        assert config.load(path, ["s3", "s2"]).serve == ("s3", "s2")

    def test_clients_serve_nobody(self, tmp_path: Path) -> None:
        """One who only wants to talk to the cluster may have a file without."""
        path = write(tmp_path, GOOD.replace("serve: [s1]\n", ""))
        assert config.load(path, needs_serve=False).serve == ()

    def test_dotted_path(self, tmp_path: Path) -> None:
        """An engine may be a dotted path."""
        text = GOOD + "storage: adapters.storage.memory.MemoryStorage\n"
        loaded = config.load(write(tmp_path, text))
        assert loaded.storage.cls is MemoryStorage
        assert loaded.storage.name == "adapters.storage.memory.MemoryStorage"

    def test_lines(self, tmp_path: Path) -> None:
        """The line of a path, or of what encloses it, is known."""
        loaded = config.load(write(tmp_path, GOOD))
        assert loaded.line_of("members.s2") == 3
        assert loaded.line_of("members.s2.host") == 3
        assert loaded.line_of("serve.0") == 5
        assert loaded.line_of("state_machine.engine") == 6
        assert loaded.line_of("elsewhere") == 0
        assert loaded.line_of("") == 0

    def test_addresses(self, tmp_path: Path) -> None:
        """A member is where the file says."""
        assert config.load(write(tmp_path, GOOD)).address_of("s3") == "tcp:127.0.0.1:3"


class FindingsTests:
    """Files that are wrong."""

    def test_all_at_once(self, findings_of: Any) -> None:
        """Everything is found in one go, in the order of the file."""
        text = """\
cluster: on
membrs: {}
members:
  s1: tcp:1
  s2: tcp:1
  s/3: tcp:3
  s4: ~
serve: [s9, on, s1, s1]
state_machine: {options: {}}
transport: {engine: ampp}
storage: {engine: memory, options: {syncc: 1}}
data_dir: 5
timing: {heartbeat_interval: 1e3, election_timeout: "5", foo: 1}
limits: {max_command_bytes: 1.5}
"""
        assert brief(findings_of(text)) == [
            ("config.E006", "cluster", 1),
            ("config.E004", "membrs", 2),
            ("config.E009", "members.s2", 5),
            ("config.E007", "members.s/3", 6),
            ("config.E006", "members.s4", 7),
            ("config.E010", "serve.0", 8),
            ("config.E006", "serve.1", 8),
            ("config.E010", "serve.3", 8),
            ("config.E005", "state_machine", 9),
            ("config.E011", "transport.engine", 10),
            ("config.E004", "storage.options.syncc", 11),
            ("config.E006", "data_dir", 12),
            ("config.E004", "timing.foo", 13),
            ("config.E006", "timing.heartbeat_interval", 13),
            ("config.E006", "timing.election_timeout", 13),
            ("config.E006", "limits.max_command_bytes", 14),
        ]

    @pytest.mark.parametrize(
        ("old", "new", "id_", "path", "words"),
        [
            ("serve: [s1]", "serve: [s5]", "E010", "serve.0", "known are s1, s2, s3"),
            ("serve: [s1]", "serve: [s11]", "E010", "serve.0", "did you mean 's1'?"),
            *(
                ("serve:", f"preferred_leaders: {wrong}\nserve:", *found)
                for wrong, *found in (
                    ("[s9]", "E010", "preferred_leaders.0", "not among the members"),
                    ("s1", "E006", "preferred_leaders", "write it as [s1, s2]"),
                    ("[s1, s1]", "E010", "preferred_leaders.1", "twice"),
                )
            ),
            ("serve: [s1]", "serve: [on]", "E006", "serve.0", 'in quotes: "on"'),
            ("serve: [s1]", "serve: s1", "E006", "serve", "write it as [s1, s2]"),
            ("serve: [s1]", "serve: []", "E010", "serve", "name at least one"),
            ("serve: [s1]", "", "E010", "", "--serve NAME"),
            ("serve: [s1]", "srve: [s1]", "E010", "", "--serve NAME"),
            ("  s3:", "  s3: ''\n  s4:", "E006", "members.s3", "expected an address"),
            ("  s3: tcp", "  s3: 5 #", "E006", "members.s3", "got the number 5"),
            ("  s3: tcp", "  s3: [] #", "E006", "members.s3", "got a list"),
            ("  s3:", "  1:", "E006", "members", 'in quotes: "1"'),
            ("  s3:", "  ..:", "E007", "members...", "begin with a letter or a digit"),
            ("  s3:", "  a/b:", "E007", "members.a/b", "'a/b' is no name"),
            ("  s3:", f"  {'x' * 65}:", "E007", f"members.{'x' * 65}", "up to 64"),
            ("config-counter", "kounter", "E011", "state_machine", "no state machine"),
            ("config-counter", "5", "E006", "state_machine", "expected an engine"),
            ("config-counter", "~", "E006", "state_machine", "expected an engine"),
            (
                "config-counter",
                "{engine: no.such.Thing}",
                "E011",
                "state_machine.engine",
                "No module named 'no'",
            ),
            (
                "config-counter",
                "{engine: config-counter, options: {step: x}}",
                "E006",
                "state_machine.options.step",
                "expected a whole number",
            ),
            (
                "config-counter",
                "{engine: config-counter, options: 5}",
                "E006",
                "state_machine.options",
                "expected a mapping",
            ),
            (
                "config-counter",
                "{engine: config-counter, opts: {}}",
                "E004",
                "state_machine.opts",
                "did you mean 'options'?",
            ),
            ("state_machine", "state_machin", "E005", "", "'state_machine' is missing"),
        ],
    )
    def test_one_mistake(  # noqa: PLR0917 - the columns of the table
        self, findings_of: Any, old: str, new: str, id_: str, path: str, words: str
    ) -> None:
        """Each mistake has its id, its place and what to write instead."""
        assert old in GOOD
        findings = findings_of(GOOD.replace(old, new))
        assert (f"config.{id_}", path) in {(each.id, each.path) for each in findings}
        assert any(words in str(each) for each in findings)
        assert all(each.line or each.path == "--serve" for each in findings)

    @pytest.mark.parametrize(
        ("extra", "id_", "path", "words"),
        [
            ("cluster: a b", "E007", "cluster", "letters a-z"),
            ("cluster: ''", "E007", "cluster", "'' is no name"),
            ("data_dir: ~", "E006", "data_dir", "a path, got nothing"),
            ("clutser: x", "E004", "clutser", "did you mean 'cluster'?"),
            ("address: x", "E004", "address", "'address' is no key here"),
            ("timing: 5", "E006", "timing", "expected a mapping"),
            ("digest_every: 0", "E013", "digest_every", "the default is 10000"),
            ("digest_every: x", "E006", "digest_every", "expected"),
            (
                "timing: {heartbeat_interval: 0}",
                "E013",
                "timing.heartbeat_interval",
                "above 0",
            ),
            (
                "timing: {request_timeout: .inf}",
                "E013",
                "timing.request_timeout",
                "inf is out of range",
            ),
            (
                "timing: {request_timeout: .nan}",
                "E013",
                "timing.request_timeout",
                "nan is out of range",
            ),
            (
                "timing: {heartbeat_interval: 0.1}",
                "E013",
                "timing",
                "0.3 or more",
            ),
            (
                "timing: {election_timeout: 0.1}",
                "E013",
                "timing.election_timeout",
                "0.15 or more",
            ),
            ("forward: 5", "E006", "forward", "5"),
            ("insecure: 5", "E006", "insecure", "5"),
            ("reads: {lease: soon}", "E006", "reads.lease", "soon"),
            ("reads: {clock_drift: 1}", "E013", "reads.clock_drift", "less than 1"),
            ("reads: {clock_drift: -0.1}", "E013", "reads.clock_drift", "-0.1"),
            ("reads: {clock_drift: .nan}", "E013", "reads.clock_drift", "nan"),
            (
                "limits: {max_inflight_appends: -1}",
                "E013",
                "limits.max_inflight_appends",
                "the default is 8",
            ),
            (
                "limits: {max_pending_bytes: 5}",
                "E013",
                "limits.max_pending_bytes",
                "1048576 or more",
            ),
            ("cluster: a\ncluster: b", "E003", "cluster", "first on line 7"),
            ("x: *y", "E002", "", "alias"),
            ("x: [", "E002", "", "not YAML"),
        ],
    )
    def test_one_mistake_more(
        self, findings_of: Any, extra: str, id_: str, path: str, words: str
    ) -> None:
        """The same, for keys that the good file leaves out."""
        (finding,) = findings_of(f"{GOOD}{extra}\n")
        assert (finding.id, finding.path) == (f"config.{id_}", path)
        assert words in str(finding)
        assert finding.line >= 7

    def test_members_are_needed(self, findings_of: Any) -> None:
        """A file without members, or with none, is refused."""
        rest = "serve: [s1]\nstate_machine: config-counter\n"
        assert [each.id for each in findings_of(rest)] == ["config.E005"]
        assert [each.id for each in findings_of("members: {}\n" + rest)] == [
            "config.E008"
        ]
        assert [each.id for each in findings_of("members: [s1]\n" + rest)] == [
            "config.E006"
        ]

    def test_stranger_on_the_command_line(self, findings_of: Any) -> None:
        """A stranger after --serve is refused, and says that it is from there."""
        (finding,) = findings_of(GOOD, "s1", "s9")
        assert brief([finding]) == [("config.E010", "--serve", 0)]

    def test_no_mapping(self, findings_of: Any) -> None:
        """A list is no config."""
        assert brief(findings_of("- s1\n")) == [("config.E006", "", 1)]

    def test_empty_file(self, findings_of: Any) -> None:
        """An empty file is refused with a way to begin."""
        (finding,) = findings_of("# nothing yet\n")
        assert "config.example.yaml" in finding.hint

    def test_missing_file(self, tmp_path: Path) -> None:
        """A file that is not there is a finding like any other."""
        with pytest.raises(ConfigError, match="No such file or directory"):
            config.load(tmp_path / "none.yaml")

    @settings(deadline=None)
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda below: (
                st.lists(below, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        [
                            "cluster",
                            "members",
                            "serve",
                            "data_dir",
                            "state_machine",
                            "storage",
                            "transport",
                            "timing",
                            "limits",
                            "engine",
                            "options",
                            "s1",
                        ]
                    ),
                    below,
                    max_size=5,
                )
            ),
        )
    )
    def test_any_content(self, tmp_path_factory: Any, content: object) -> None:
        """Whatever a file says, the answer is a config or findings."""
        path = write(tmp_path_factory.getbasetemp(), yaml.safe_dump(content))
        with suppress(ConfigError):
            assert isinstance(config.load(path), Config)


class FromMappingTests:
    """The same keys from a program."""

    def test_defaults(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing is kept on disk, nothing leaves the process."""
        monkeypatch.chdir(tmp_path)
        made = config.from_mapping({}, name="s1", state_machine=Counter)
        assert made.state_machine.cls is Counter
        assert made.state_machine.name == f"{Counter.__module__}.Counter"
        assert made.storage.cls is MemoryStorage
        assert made.storage.options == NoOptions()
        assert made.transport.cls is MemoryTransport
        assert made.members == {}
        assert made.serve == ("s1",)
        assert made.data_dir == tmp_path / "data"
        assert (made.source, made.lines) == ("", {})

    def test_what_differs(self, tmp_path: Path) -> None:
        """Short engines, classes, a Path and options are taken."""
        made = config.from_mapping(
            {
                "storage": "sqlite",
                "transport": MemoryTransport,
                "data_dir": tmp_path,
                "timing": {"election_timeout": 1},
                "state_machine": {"options": {"step": 2}},
                "members": {"s1": "a", "s2": "b"},
            },
            name="s1",
            state_machine=Counter,
        )
        assert made.storage.cls is SQLiteStorage
        assert made.transport.cls is MemoryTransport
        assert made.data_dir == tmp_path
        assert made.timing == Timing(election_timeout=1.0)
        assert made.state_machine.options.step == 2
        assert made.address_of("s2") == "b"

    def test_machine_of_the_mapping(self) -> None:
        """The state machine may be named in the mapping instead."""
        made = config.from_mapping({"state_machine": "config-counter"}, name="s1")
        assert made.state_machine.cls is Counter

    def test_address(self) -> None:
        """A server listens where it is told, else at its name."""
        made = config.from_mapping(
            {"address": "tcp:7"}, name="s1", state_machine=Counter
        )
        assert made.address_of("s1") == "tcp:7"
        made = config.from_mapping({}, name="s1", state_machine=Counter)
        assert made.address_of("s1") == "s1"

    @pytest.mark.parametrize(
        ("mapping", "name", "id_", "path"),
        [
            ({"storag": "sqlite"}, "s1", "config.E004", "storag"),
            ({"serve": ["s1"]}, "s1", "config.E004", "serve"),
            ({"storage": 5}, "s1", "config.E006", "storage"),
            ({"storage": int}, "s1", "config.E011", "storage"),
            ({"timing": {"election_timeout": "1"}}, "s1", "config.E006", ""),
            ({"address": 5}, "s1", "config.E006", "address"),
            ({}, "a/b", "config.E007", "name"),
        ],
    )
    def test_findings(
        self, mapping: dict[str, Any], name: str, id_: str, path: str
    ) -> None:
        """Mistakes are found as in a file; they have no lines."""
        with pytest.raises(ConfigError) as caught:
            config.from_mapping(mapping, name=name, state_machine=Counter)
        (finding,) = caught.value.findings
        assert finding.id == id_
        assert path in finding.path
        assert finding.line == 0

    def test_no_machine(self) -> None:
        """A server without a state machine is refused."""
        with pytest.raises(ConfigError, match="'state_machine' is missing"):
            config.from_mapping({}, name="s1")


class TLSTests:
    """What encrypts connections."""

    def test_without(self, tmp_path: Path) -> None:
        """Nothing does, unless it is asked for."""
        assert config.load(write(tmp_path, GOOD)).tls is None
        assert config.load(write(tmp_path, GOOD + "tls: false\n")).tls is None

    def test_files(self, tmp_path: Path) -> None:
        """They are looked for beside the config."""
        said = "tls: {certificate: s1.pem, key: ../s1.key, authority: /ca.pem}\n"
        assert config.load(write(tmp_path, GOOD + said)).tls == TLS(
            tmp_path / "s1.pem", tmp_path / "../s1.key", Path("/ca.pem")
        )

    def test_a_part(self, findings_of: Any) -> None:
        """All three files are needed, and no others."""
        found = findings_of(GOOD + "tls:\n  certificate: s1.pem\n  kee: s1.key\n")
        assert [(each.id, each.line) for each in found] == [
            ("config.E005", 7),
            ("config.E005", 7),
            ("config.E004", 9),
        ]

    @pytest.mark.parametrize("said", ["", "true", "s1.pem", "[s1.pem]"])
    def test_nothing_is_left_open_by_mistake(self, findings_of: Any, said: str) -> None:
        """A section without content does not mean: no encryption."""
        (finding,) = findings_of(GOOD + f"tls: {said}\n")
        assert finding.id == "config.E006"
        assert "expected a mapping, or false" in finding.message

    def test_of_a_program(self) -> None:
        """The keys are the same."""
        files = {"certificate": "/s1.pem", "key": "/s1.key", "authority": "/ca.pem"}
        made = config.from_mapping({"tls": files}, name="s1", state_machine=Counter)
        assert made.tls == TLS(Path("/s1.pem"), Path("/s1.key"), Path("/ca.pem"))
