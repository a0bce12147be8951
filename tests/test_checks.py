"""What can be known before a start."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from adapters.storage.memory import MemoryStorage
from adapters.storage.sqlite import SQLiteOptions, SQLiteStorage
from adapters.transport.memory import MemoryTransport
from consensus import checks
from consensus.config import Config, Engine
from consensus.datadir import DataDirectory
from consensus.errors import Finding
from consensus.interfaces import TLS, NoOptions, StateMachine
from tests.support.certificates import Authority

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class PickyOptions:
    """What a PickyStorage can be told."""

    complaint: str = ""


class PickyStorage(MemoryStorage):
    """A storage that claims to last, and that finds what it is told to find."""

    Options: ClassVar[type[Any]] = PickyOptions
    durable = True

    @classmethod
    def check(cls, options: PickyOptions, directory: Path) -> Iterable[Finding]:
        """Yield the complaint, or break."""
        if options.complaint == "break":
            message = "the check is broken"
            raise RuntimeError(message)
        if options.complaint:
            yield Finding("picky.E001", f"{options.complaint} {directory.name}")


class PickyTransport(MemoryTransport):
    """A transport that finds fault with every address it is to listen on."""

    @classmethod
    def check(
        cls,
        options: Any,
        members: Mapping[str, str],
        serve: Collection[str],
    ) -> Iterable[Finding]:
        """Yield each address."""
        del options
        for name in serve:
            yield Finding("picky.E002", members[name], path=f"members.{name}")


class SecretiveTransport(MemoryTransport):
    """A transport that says it can encrypt."""

    encrypts = True


def make(
    directory: Path,
    *,
    members: int = 3,
    serve: tuple[str, ...] = ("s1",),
    storage: type = PickyStorage,
    transport: type = MemoryTransport,
    complaint: str = "",
) -> Config:
    """Return a config with these parts."""
    names = [f"s{number + 1}" for number in range(members)]
    options = PickyOptions(complaint) if storage is PickyStorage else NoOptions()
    return Config(
        cluster="raft",
        members={name: f"address of {name}" for name in names},
        serve=serve,
        data_dir=directory,
        state_machine=Engine("machine", StateMachine, NoOptions()),
        transport=Engine("transport", transport, transport.Options()),  # type: ignore[attr-defined]
        storage=Engine("storage", storage, options),
        lines={"": 1, "members": 2, "members.s1": 3, "data_dir": 7, "storage": 8},
    )


def found(config: Config) -> list[tuple[str, str, int]]:
    """Return the id, the message and the line of each finding."""
    return [(each.id, each.message, each.line) for each in checks.run(config)]


class RunTests:
    """Who is asked, and how the answers are put together."""

    def test_nothing(self, tmp_path: Path) -> None:
        """A good config on a good machine has no findings."""
        assert found(make(tmp_path)) == []
        assert list(tmp_path.iterdir()) == []

    def test_storage(self, tmp_path: Path) -> None:
        """The storage is asked about the directory of each server."""
        config = make(tmp_path, serve=("s1", "s3"), complaint="bad")
        assert found(config) == [
            ("picky.E001", "bad s1", 0),
            ("picky.E001", "bad s3", 0),
        ]

    def test_what_all_servers_say_alike(self, tmp_path: Path) -> None:
        """An option that is wrong is one mistake, however many servers have it."""
        options = SQLiteOptions(checkpoint_mib=0)
        storage = Engine("sqlite", SQLiteStorage, options)
        config = make(tmp_path, serve=("s1", "s2", "s3"))
        ((id_, message, _),) = found(replace(config, storage=storage))
        assert (id_, message) == ("storage.E105", "checkpoint_mib is 0")

    def test_broken_check(self, tmp_path: Path) -> None:
        """An engine whose check raises is a finding, not a traceback."""
        ((id_, message, line),) = found(make(tmp_path, complaint="break"))
        assert id_ == "checks.E001"
        assert message.endswith("RuntimeError: the check is broken")
        assert line == 8

    def test_transport(self, tmp_path: Path) -> None:
        """The transport is asked about the addresses; lines are filled in."""
        config = make(tmp_path, serve=("s1", "s2"), transport=PickyTransport)
        assert found(config) == [
            ("picky.E002", "address of s2", 2),
            ("picky.E002", "address of s1", 3),
        ]

    def test_commands_that_no_message_holds(self, tmp_path: Path) -> None:
        """A limit above what the transport carries is refused before a start."""

        class SmallTransport(MemoryTransport):
            @classmethod
            def max_command_bytes(cls, options: Any) -> int:
                del options
                return 1000

        ((id_, message, _),) = found(make(tmp_path, transport=SmallTransport))
        assert id_ == "transport.E001"
        assert "1048576" in message

    def test_address_of_a_program(self, tmp_path: Path) -> None:
        """A server without members is asked about under its own address."""
        config = make(tmp_path, members=0, transport=PickyTransport)
        assert found(config) == [("picky.E002", "s1", 3)]

    def test_encryption(self, tmp_path: Path) -> None:
        """The files of tls are looked at, for the members that are served."""
        tls = Authority().member(tmp_path / "tls", "s1")
        config = make(tmp_path, transport=SecretiveTransport, serve=("s1", "s2"))
        ((id_, message, _),) = found(replace(config, tls=tls))
        assert (id_, message) == (
            "tls.E005",
            "the certificate names 's1', and not 's2'",
        )

    def test_a_transport_that_cannot_encrypt(self, tmp_path: Path) -> None:
        """It is not asked to; nothing else of tls is looked at."""
        tls = TLS(tmp_path, tmp_path, tmp_path)
        ((id_, message, _),) = found(replace(make(tmp_path), tls=tls))
        assert id_ == "tls.E001"
        assert message == "the transport 'transport' cannot encrypt"

    def test_data_directories(self, tmp_path: Path) -> None:
        """An engine is not asked about a directory that is not its server's."""
        config = make(tmp_path, serve=("s1", "s2"), complaint="bad")
        (tmp_path / "s2").mkdir()
        (tmp_path / "s2" / "stranger").touch()
        running = DataDirectory.open(tmp_path / "s1", "raft", "s1", config.storage)
        assert [(id_, line) for id_, _, line in found(config)] == [
            ("datadir.E008", 7),
            ("datadir.E007", 7),
        ]
        running.close()

    def test_forgetful_storage(self, tmp_path: Path) -> None:
        """A storage that does not last is a warning; no directory is looked at."""
        (tmp_path / "s1").touch()
        ((id_, _, line),) = found(make(tmp_path, storage=MemoryStorage))
        assert (id_, line) == ("storage.W001", 8)

    @pytest.mark.parametrize(("members", "expected"), [(1, 0), (2, 1), (3, 0), (4, 1)])
    def test_even_members(self, tmp_path: Path, members: int, expected: int) -> None:
        """An even number of members is worth a warning."""
        findings = checks.run(make(tmp_path, members=members))
        assert [each.id for each in findings] == ["config.W001"] * expected
        assert all(each.is_warning for each in findings)


class RenderTests:
    """A finding as a line."""

    def test_all_parts(self) -> None:
        """File, line, path, message, hint and id stand in this order."""
        finding = Finding("config.E004", "is odd", "write even", "members.s2", 12)
        assert checks.render(finding, "config.yaml") == (
            "config.yaml:12: members.s2: is odd (write even) [config.E004]"
        )

    def test_one_line(self) -> None:
        """A message of several lines becomes one."""
        finding = Finding("x.E001", "first\n  second")
        assert checks.render(finding, "f") == "f: first second [x.E001]"
