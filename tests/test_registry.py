"""The registry: names, entry points and dotted paths become classes."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import pytest

from consensus import registry
from consensus.declare import as_machine, read
from consensus.interfaces import StateMachine, Storage
from consensus.registry import EngineError
from tests.support.bank import Accounts

if TYPE_CHECKING:
    from pathlib import Path


#: The text of a module with a state machine in it.
MINE = """
from consensus.interfaces import StateMachine

class Mine(StateMachine):
    def init(self, name): pass
    def handle_write(self, command, state): pass
    def handle_read(self, query, state): pass
"""


class Echo(StateMachine):
    """A state machine whose result is the command."""

    def init(self, name: str) -> Any:
        del name

    def handle_write(self, command: Any, state: Any) -> tuple[Any, Any]:
        return command, state

    def handle_read(self, query: Any, state: Any) -> Any:
        del state
        return query


def install(site: Path, name: str, entry_points: str, **modules: str) -> None:
    """Write a distribution into *site* as an installer would leave it there."""
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(entry_points)
    for module, source in modules.items():
        (site / f"{module}.py").write_text(source)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory that Python imports from."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


class ResolveTests:
    """Which class a name stands for."""

    def test_registered_name(self) -> None:
        """A name that was registered stands for its class."""
        registry.register("state_machine", "registry-echo", Echo)
        assert registry.resolve("state_machine", "registry-echo") is Echo
        assert "registry-echo" in registry.names("state_machine")

    def test_names_belong_to_their_kind(self) -> None:
        """A state machine's name means nothing among storages."""
        registry.register("state_machine", "registry-kind", Echo)
        with pytest.raises(EngineError, match="no storage engine is called"):
            registry.resolve("storage", "registry-kind")

    def test_registering_a_stranger(self) -> None:
        """A class that does not inherit the interface is not registered."""
        with pytest.raises(EngineError, match="does not inherit"):
            registry.register("storage", "registry-stranger", Echo)
        assert "registry-stranger" not in registry.names("storage")

    def test_class(self) -> None:
        """A class stands for itself, once it has been looked at."""
        assert registry.resolve("state_machine", Echo) is Echo
        with pytest.raises(EngineError, match="no storage engine"):
            registry.resolve("storage", Echo)

    def test_declared_class(self) -> None:
        """A class with declared methods stands for the machine that it declares."""
        found = registry.resolve("state_machine", "tests.support.bank.Accounts")
        assert found is as_machine(Accounts)
        assert registry.resolve("state_machine", Accounts) is found
        with pytest.raises(EngineError, match="does not inherit"):
            registry.resolve("storage", Accounts)

    def test_wrong_declarations(self) -> None:
        """What to write is said as the hint."""

        class Odd:
            @read
            def odd(self, value: list[complex]) -> int:
                return len(value)

        for cls in (Odd, int):
            with pytest.raises(EngineError) as caught:
                registry.resolve("state_machine", cls)
            assert caught.value.message.endswith("is no state machine engine")
        assert "write @write above those that" in caught.value.hint

    def test_unknown_name_near_a_known_one(self) -> None:
        """A misspelt name is answered with the right one."""
        with pytest.raises(EngineError) as caught:
            registry.resolve("storage", "sqlit")
        assert caught.value.message == "no storage engine is called 'sqlit'"
        assert caught.value.hint == "did you mean 'sqlite'?"

    def test_unknown_name_near_nothing(self) -> None:
        """A name like no other is answered with all that there are."""
        with pytest.raises(EngineError) as caught:
            registry.resolve("storage", "zzz")
        assert caught.value.hint.startswith("known are ")
        assert "sqlite" in caught.value.hint

    def test_abstract_class(self) -> None:
        """A class that leaves out methods is refused, and they are named."""
        with pytest.raises(EngineError, match=r"lacks append, close, .*sync"):
            registry.resolve("storage", Storage)
        with pytest.raises(EngineError, match="lacks handle_read, handle_write, init"):
            registry.resolve("state_machine", StateMachine)


class DottedPathTests:
    """Engines that nobody registered."""

    def test_class(self, site: Path) -> None:
        """A dotted path is imported."""
        (site / "dotted_good.py").write_text(MINE)
        found = registry.resolve("state_machine", "dotted_good.Mine")
        assert found.__name__ == "Mine"

    def test_missing_module(self) -> None:
        """A module that is not there is named, with the reason."""
        with pytest.raises(EngineError) as caught:
            registry.resolve("storage", "no_such_package.store.Mine")
        assert "No module named 'no_such_package'" in caught.value.message
        assert "PYTHONPATH" in caught.value.hint

    def test_broken_module(self, site: Path) -> None:
        """A module that raises when it is imported is reported, not raised."""
        (site / "dotted_broken.py").write_text("1 / 0\n")
        with pytest.raises(EngineError, match="ZeroDivisionError: division by zero"):
            registry.resolve("storage", "dotted_broken.Mine")

    def test_missing_attribute(self) -> None:
        """A module without that class is reported."""
        with pytest.raises(EngineError, match=r"'os.path' has no 'Storage'"):
            registry.resolve("storage", "os.path.Storage")

    def test_no_class(self) -> None:
        """A function is no engine."""
        with pytest.raises(EngineError, match="not a class but a function"):
            registry.resolve("storage", "os.path.join")

    def test_no_engine(self) -> None:
        """A class of something else is no engine."""
        with pytest.raises(EngineError, match="does not inherit"):
            registry.resolve("storage", "pathlib.Path")


class EntryPointTests:
    """Engines of installed distributions."""

    def test_found(self, site: Path) -> None:
        """An entry point's name stands for its class."""
        install(
            site,
            "entry-good",
            "[consensus.state_machine]\nentry-good = entry_good:Mine\n",
            entry_good=MINE,
        )
        assert registry.resolve("state_machine", "entry-good").__name__ == "Mine"
        assert "entry-good" in registry.names("state_machine")

    def test_broken(self, site: Path) -> None:
        """One that cannot be imported is reported with its distribution."""
        install(
            site,
            "entry-broken",
            "[consensus.storage]\nentry-broken = entry_broken:Mine\n",
            entry_broken="import no_such_driver\n",
        )
        with pytest.raises(EngineError) as caught:
            registry.resolve("storage", "entry-broken")
        assert "the distribution 'entry-broken' registers" in caught.value.message
        assert "No module named 'no_such_driver'" in caught.value.message

    def test_twice_the_same(self, site: Path) -> None:
        """Metadata that is seen twice is no conflict."""
        points = "[consensus.state_machine]\nentry-twice = entry_twice:Mine\n"
        install(site, "entry-twice", points, entry_twice=MINE)
        install(site, "entry-twice-again", points)
        assert registry.resolve("state_machine", "entry-twice").__name__ == "Mine"

    def test_conflict(self, site: Path) -> None:
        """Two distributions that give a name to different things are named."""
        install(site, "entry-one", "[consensus.storage]\nentry-both = one:Mine\n")
        install(site, "entry-two", "[consensus.storage]\nentry-both = two:Mine\n")
        with pytest.raises(EngineError) as caught:
            registry.resolve("storage", "entry-both")
        assert "'entry-one' and the distribution 'entry-two'" in caught.value.message

    def test_registered_name_comes_first(self, site: Path) -> None:
        """What a program registers hides an entry point of the same name."""
        install(site, "entry-hid", "[consensus.state_machine]\nentry-hid = nowhere:M\n")
        registry.register("state_machine", "entry-hid", Echo)
        assert registry.resolve("state_machine", "entry-hid") is Echo

    def test_commands(self, site: Path) -> None:
        """Commands of applications are found in the same way."""
        install(
            site,
            "entry-command",
            "[consensus.command]\nentry-command = entry_command:run\n",
            entry_command="run = 'what an application gives'\n",
        )
        assert "entry-command" in registry.command_names()
        found = registry.load_command("entry-command")
        assert found == "what an application gives"
        with pytest.raises(EngineError, match="no command is called 'entry-comman'"):
            registry.load_command("entry-comman")


class UnavailableTests:
    """Other distributions may own a top-level ``adapters`` or ``contrib``."""

    def test_ours_are_found(self) -> None:
        """Nothing is said about a good installation."""
        assert list(registry.unavailable()) == []

    def test_hidden(self, tmp_path: Path) -> None:
        """A regular package that hides ours is named with its place."""
        (tmp_path / "adapters").mkdir()
        (tmp_path / "adapters" / "__init__.py").write_text("")
        program = """
from consensus import registry
print(*registry.unavailable(), sep="\\n")
try:
    registry.resolve("storage", "sqlite")
except registry.EngineError as error:
    print("refused:", error)
"""
        # In a process of its own: in this one the right package is imported.
        said = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            check=True,
            text=True,
        ).stdout.splitlines()
        hidden = f"{tmp_path}/adapters/__init__.py, of somebody else"
        warnings = [line for line in said if "registry.W001" in line]
        ours = entry_points(group="consensus.storage")
        assert sum("storage" in line and hidden in line for line in warnings) == len(
            [point for point in ours if point.value.startswith("adapters.")]
        )
        assert sum("transport" in line and hidden in line for line in warnings) == 2
        assert said[-1].startswith("refused: ")
        assert hidden in said[-1]
