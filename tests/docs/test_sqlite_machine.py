"""The state machine of docs/howto/keep-the-state-on-disk.md, alone."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from consensus.errors import StorageError
from consensus.snapshots.files import split
from tests.docs import ledger_forever
from tests.docs.ledger_forever import command_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from consensus.core.values import LogIndex
    from consensus.interfaces import StateMachine


class Ledger:
    """The machine, with its state and a log's end."""

    def __init__(self, machine: StateMachine) -> None:
        self.machine = machine
        self.state = machine.init("s1")

    def apply(self, *commands: Any, first: LogIndex | None = None) -> Sequence[Any]:
        """Apply *commands* in one batch; return the results."""
        first = self.last_applied + 1 if first is None else first
        batch = list(enumerate(commands, first))
        results, self.state = self.machine.apply_batch(batch, self.state)
        return results

    def ask(self, *query: Any) -> Any:
        """Return the answer to *query*."""
        return self.machine.handle_read(list(query), self.state)[0]

    @property
    def last_applied(self) -> LogIndex:
        """Return how far its state is."""
        return self.machine.last_applied(self.state)

    def rows(self) -> dict[str, int]:
        """Return all accounts."""
        return dict(self.state.execute("SELECT name, balance FROM accounts"))

    def restore(self, data: bytes, last_applied: LogIndex) -> None:
        """Put a snapshot in the place of the state, as a server does."""
        state = self.machine.restore(split([data]), last_applied)
        self.machine.close(self.state)
        self.state = state

    def close(self) -> None:
        """Let go of the database."""
        self.machine.close(self.state)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[str], Ledger]]:
    """Return what opens the ledger in a directory of a name, again and again."""
    opened = []

    def make(name: str) -> Ledger:
        (tmp_path / name).mkdir(exist_ok=True)
        ledger = Ledger(ledger_forever.make(tmp_path / name))
        opened.append(ledger)
        return ledger

    yield make
    for ledger in opened:
        ledger.close()


class ApplyTests:
    """What a batch does, and that the index goes with it."""

    def test_commands(self, make: Callable[[str], Ledger]) -> None:
        ledger = make("s1")
        assert ledger.last_applied == 0
        assert ledger.apply(["deposit", "ann", 30], ["transfer", "ann", "bob", 10]) == [
            30,
            20,
        ]
        assert ledger.last_applied == 2
        assert ledger.ask("balance", "bob") == 10
        assert ledger.ask("balance", "eve") == 0
        assert ledger.ask("total") == 30

    def test_the_index_is_that_of_the_log(self, make: Callable[[str], Ledger]) -> None:
        """Entries that are no commands leave gaps."""
        ledger = make("s1")
        ledger.apply(["deposit", "ann", 1], first=17)
        assert ledger.last_applied == 17

    @pytest.mark.parametrize(
        "command",
        [
            ["transfer", "ann", "bob", 31],
            ["transfer", "eve", "bob", 1],
            ["deposit", "ann", 0],
            ["deposit", "ann", 1 << 63],
            ["deposit", "ann", (1 << 63) - 1],
            ["transfer", "bob", "ann", 1],
            ["burn", "everything"],
            None,
        ],
    )
    def test_a_command_that_fails(
        self, make: Callable[[str], Ledger], command: Any
    ) -> None:
        """It alone changes nothing; those around it do, and the index is theirs."""
        ledger = make("s1")
        results = ledger.apply(["deposit", "ann", 30], command, ["deposit", "cid", 5])
        assert (results[0], results[2]) == (30, 5)
        assert isinstance(results[1], ValueError)
        assert "sql" not in str(results[1]).lower()
        assert ledger.rows() == {"ann": 30, "cid": 5}
        assert ledger.last_applied == 3

    def test_the_second_half_of_a_command(self, make: Callable[[str], Ledger]) -> None:
        """What the first half did is undone."""
        ledger = make("s1")
        largest = (1 << 63) - 1
        ledger.apply(["deposit", "ann", 30], ["deposit", "bob", largest])
        (result,) = ledger.apply(["transfer", "ann", "bob", 1])
        assert isinstance(result, ValueError)
        assert ledger.rows() == {"ann": 30, "bob": largest}

    def test_nothing_is_applied_twice(self, make: Callable[[str], Ledger]) -> None:
        ledger = make("s1")
        ledger.apply(["deposit", "ann", 30])
        with pytest.raises(StorageError, match="applied before"):
            ledger.apply(["deposit", "ann", 30], first=1)
        assert ledger.ask("total") == 30

    def test_a_disk_that_fails(self, make: Callable[[str], Ledger]) -> None:
        """That is no result: the batch is undone, and the server stops."""
        ledger = make("s1")
        ledger.apply(["deposit", "ann", 30])
        pages = ledger.state.execute("PRAGMA page_count").fetchone()[0]
        ledger.state.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StorageError, match="full"):
            ledger.apply(["deposit", "ann", 1], ["deposit", "x" * 9_999, 1])
        assert ledger.last_applied == 1
        assert ledger.rows() == {"ann": 30}
        ledger.state.execute("PRAGMA max_page_count = 1000")
        assert ledger.apply(["deposit", "ann", 1]) == [31]

    def test_a_query_that_is_none(self, make: Callable[[str], Ledger]) -> None:
        with pytest.raises(ValueError, match="not a query"):
            make("s1").ask("everything")

    def test_without_a_directory(self) -> None:
        """With the memory storage the state goes with the server."""
        ledger = Ledger(ledger_forever.make(None))
        assert ledger.apply(["deposit", "ann", 30]) == [30]
        place = Path(ledger.state.path).parent
        ledger.close()
        assert place.exists()
        del ledger
        assert not place.exists()


class RestartTests:
    """A restart goes on where the last transaction was."""

    def test_without_replay(self, make: Callable[[str], Ledger]) -> None:
        ledger = make("s1")
        ledger.apply(["deposit", "ann", 30])
        ledger.apply(["deposit", "ann", 5])
        ledger.close()
        again = make("s1")
        assert again.last_applied == 2
        assert again.ask("balance", "ann") == 35

    @pytest.mark.parametrize("batches", [0, 1, 20, 200])
    def test_a_killed_process(
        self, batches: int, make: Callable[[str], Ledger], tmp_path: Path
    ) -> None:
        """The accounts are those of the index, which is between two batches."""
        directory = tmp_path / "s1"
        directory.mkdir()
        for _ in range(2):
            with subprocess.Popen(
                [sys.executable, ledger_forever.__file__, str(directory)],
                stdout=subprocess.PIPE,
            ) as program:
                assert program.stdout is not None
                said = [program.stdout.readline() for _ in range(batches + 1)]
                program.kill()
                said += program.stdout.readlines()
            applied = int([line for line in said if line.endswith(b"\n")][-1])
            ledger = make("s1")
            assert ledger.last_applied in {applied, applied + 5}
            assert ledger.rows() == accounts_at(ledger.last_applied)
            ledger.close()

    def test_a_newer_format(
        self, make: Callable[[str], Ledger], tmp_path: Path
    ) -> None:
        make("s1").close()
        with sqlite3.connect(tmp_path / "s1" / "ledger.sqlite") as database:
            database.execute("PRAGMA user_version = 2")
        database.close()
        with pytest.raises(StorageError, match="has format 2; 1 is known"):
            make("s1")

    def test_a_file_that_is_no_database(
        self, make: Callable[[str], Ledger], tmp_path: Path
    ) -> None:
        (tmp_path / "s1").mkdir()
        (tmp_path / "s1" / "ledger.sqlite").write_bytes(b"nonsense" * 100)
        with pytest.raises(StorageError, match="cannot open"):
            make("s1")


def accounts_at(index: LogIndex) -> dict[str, int]:
    """Return what the log of ``ledger_forever`` leads to at *index*."""
    accounts: Counter[str] = Counter()
    for each in range(1, index + 1):
        match command_at(each):
            case ["deposit", account, amount]:
                accounts[account] += amount
            case ["transfer", "ann", target, amount]:
                accounts["ann"] -= amount
                accounts[target] += amount
    return dict(accounts)


class SnapshotTests:
    """A view of the state, and a state from a view."""

    def test_a_view_stays_as_it_is(self, make: Callable[[str], Ledger]) -> None:
        """Commands go on meanwhile, before its first chunk and between two."""
        ledger = make("s1")
        ledger.apply(*(["deposit", f"{number:03}", 1] for number in range(500)))
        before = ledger.rows()
        chunks = ledger.machine.snapshot(ledger.state).chunks()
        ledger.apply(["transfer", "000", "499", 1], ["deposit", "new", 1])
        start = [next(chunks), next(chunks)]
        ledger.apply(["transfer", "001", "498", 1], ["deposit", "newer", 1])
        other = make("s2")
        other.restore(b"".join([*start, *chunks]), 500)
        assert other.rows() == before
        assert other.last_applied == 500
        assert ledger.ask("total") == 502

    def test_a_restored_ledger_goes_on(self, make: Callable[[str], Ledger]) -> None:
        """Its index is the snapshot's, whatever it had before, also later."""
        ledger, other = make("s1"), make("s2")
        ledger.apply(["deposit", "ann", 30], ["deposit", 'é"\n', 5])
        other.apply(["deposit", "eve", 1], first=900)
        snapshot = b"".join(ledger.machine.snapshot(ledger.state).chunks())
        other.restore(snapshot, 40)
        assert other.apply(["deposit", "ann", 1], first=41) == [31]
        other.close()
        again = make("s2")
        assert again.last_applied == 41
        assert again.rows() == {"ann": 31, 'é"\n': 5}

    def test_an_empty_one(self, make: Callable[[str], Ledger]) -> None:
        ledger, other = make("s1"), make("s2")
        other.apply(["deposit", "eve", 1])
        other.restore(b"".join(ledger.machine.snapshot(ledger.state).chunks()), 7)
        assert other.rows() == {}
        assert other.last_applied == 7

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"2\n",
            b"1\nnonsense\n",
            b'1\n["ann", 1]\n["bob", -1]\n',
            b'1\n["ann", 1]\n["ann", 1]\n',
            b'1\n["ann", 1]\n["bob"]\n',
            b'1\n["ann", 1]\n["bob", 1]',
            b'1\n["ann", 1]\n{}\n',
            b'1\n["ann", 1]\n7\n',
            b'1\n["ann", []]\n',
            b'1\n["ann", 1.5]\n',
            b"1\n\xff\n",
        ],
    )
    def test_what_is_none(self, make: Callable[[str], Ledger], data: bytes) -> None:
        """The ledger stays what it was."""
        ledger = make("s1")
        ledger.apply(["deposit", "eve", 1])
        with pytest.raises(StorageError):
            ledger.restore(data, 99)
        assert ledger.rows() == {"eve": 1}
        assert ledger.last_applied == 1
        assert ledger.apply(["deposit", "eve", 1]) == [2]

    def test_damage_that_is_found_at_the_end(
        self, make: Callable[[str], Ledger]
    ) -> None:
        """All of it is undone."""
        ledger = make("s1")
        ledger.apply(["deposit", "eve", 1])

        def chunks() -> Iterator[bytes]:
            yield b'1\n["ann", 1]\n'
            message = "the checksum of the whole is wrong"
            raise StorageError(message)

        with pytest.raises(StorageError, match="checksum"):
            ledger.machine.restore(chunks(), 99)
        assert ledger.rows() == {"eve": 1}
        assert ledger.last_applied == 1
