"""
The conformance suite of state machines: what their docstrings promise, as tests.

Inherit it where pytest looks for tests; it needs ``twisted-raft[test]``::

    class TestStock(StateMachineSuite):
        machine = Stock
        commands = [("tea", 5), ("tea", -3), ("milk", -1)]
        queries = ["tea", "milk"]

Give it commands and queries that fail, too.  ``commands`` and ``queries`` may
also be Hypothesis strategies for one of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from consensus.errors import InvalidCommandError, StorageError
from consensus.fingerprint import fingerprint, state_text
from consensus.interfaces import Later
from consensus.testing.determinism import check_deterministic
from consensus.testing.determinism_run import made_by
from consensus.testing.machine_copy import Copy, pieces, read_on_a_thread, spoil
from consensus.testing.machine_time import TimeTests

if TYPE_CHECKING:
    from collections.abc import Iterator

    from consensus.interfaces import StateMachine

__all__ = ["StateMachineSuite"]

#: Draws one command, or one query.
Source = Sequence[Any] | SearchStrategy[Any]

_SIZES = st.sampled_from([1, 3, 1000])
_NO_VERSION = 1 << 40

#: How many commands are enough where how many they are makes no difference.
_MOST = 50

#: What a suite cannot do without, and how to give it.
_NEEDS = {
    "machine": "say which it is, as in machine = Stock",
    "commands": 'list some, as in commands = [("tea", 5)], or a strategy for one',
    "queries": (
        'list some, as in queries = ["tea"], or a strategy for one; a machine that'
        " answers none still has to refuse them, so any will do"
    ),
}


class StateMachineSuite(TimeTests):
    """Every promise of :class:`~consensus.interfaces.StateMachine`, a test for each."""

    #: The class, also one with declared methods, or a function that makes one.
    machine: ClassVar[Any]

    #: What is written: some commands, or a strategy for one.
    commands: ClassVar[Source]

    #: What is read: some queries, or a strategy for one.
    queries: ClassVar[Source]

    #: Functions, classes and modules that may look at the clock; see
    #: :func:`~consensus.testing.determinism.check_deterministic`.
    forgiven: ClassVar[Sequence[str]] = ()

    #: How hard the tests try.
    effort: ClassVar[settings] = settings(
        max_examples=40,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )

    def state_of(self, machine: StateMachine, state: Any) -> Any:
        """
        Return what two states have to have in common to be the same.

        By default, what Python code can see of them; where it cannot look into
        one, or the machine keeps it on disk, what is in its snapshot.
        Override it when neither will do.
        """
        return state_text(machine, state)

    # --- the tests' own means --------------------------------------------------

    def make(self) -> StateMachine:
        """Return a new state machine."""
        machine: StateMachine = made_by(self.given("machine"))()
        return machine

    def given(self, name: str) -> Any:
        """Return what the class says of *name*; if it does not, fail and say how."""
        # Of the class: a function in it would become a method.
        found = getattr(type(self), name, ())
        if isinstance(found, Sequence) and not found:
            message = f"{type(self).__name__} has no {name}: {_NEEDS[name]}"
            pytest.fail(message, pytrace=False)
        return found

    @contextmanager
    def place(self) -> Iterator[Path]:
        """Lend a directory for files of machines."""
        with tempfile.TemporaryDirectory(prefix="machine-") as name:
            yield Path(name)

    @contextmanager
    def copies(self, count: int = 1) -> Iterator[list[Copy]]:
        """Lend new machines, each with its first state."""
        with self.place() as place:
            made: list[Copy] = []
            try:
                for number in range(1, count + 1):
                    made.append(self.copy(place / f"s{number}"))  # noqa: PERF401 - those made are closed if one is not
                yield made
            finally:
                for each in made:
                    each.close()

    def copy(self, directory: Path, name: str = "s1") -> Copy:
        """Return a machine whose files are in *directory*."""
        directory.mkdir(exist_ok=True)
        return Copy(self.make, directory, name, self.state_of)

    def one_of(self, name: str) -> SearchStrategy[Any]:
        """Return a strategy for one of ``commands``, or one of ``queries``."""
        source: Source = self.given(name)
        if isinstance(source, SearchStrategy):
            return source
        return st.sampled_from(list(source))

    @property
    def runs(self) -> SearchStrategy[list[Any]]:
        """Return a strategy for commands in a row."""
        source = self.given("commands")
        some = self.some_of(self.one_of("commands"), most=12)
        if isinstance(source, SearchStrategy):
            return some
        # As they were given, they tell more than at random.
        return st.just(list(source)) | some

    @property
    def some_queries(self) -> SearchStrategy[list[Any]]:
        """Return a strategy for queries in a row."""
        return st.lists(self.one_of("queries"), max_size=5)

    def each(
        self, *sources: SearchStrategy[Any]
    ) -> Callable[[Callable[..., None]], None]:
        """Call what this decorates with what *sources* draw."""

        def run(test: Callable[..., None]) -> None:
            # Hypothesis wants to know what it gives by name.
            names = test.__code__.co_varnames[: len(sources)]
            arguments = dict(zip(names, sources, strict=True))
            self.effort(given(**arguments)(test))()

        return run

    # --- commands and results --------------------------------------------------

    def test_a_command_survives_the_log(self) -> None:
        """A command is bytes in the log, and means the same whenever it is read."""

        @self.each(self.one_of("commands"))
        def check(command: Any) -> None:
            machine = self.make()
            data = machine.encode(command)
            assert isinstance(data, bytes)
            decoded = machine.decode(data)
            assert machine.encode(decoded) == data
            assert fingerprint(machine.decode(data)) == fingerprint(decoded)

    def test_a_query_survives_the_wire(self) -> None:
        """A query reaches the server that answers it as it was asked."""

        @self.each(self.one_of("queries"))
        def check(query: Any) -> None:
            machine = self.make()
            data = machine.encode(query)
            assert machine.encode(machine.decode(data)) == data

    def test_a_result_survives_the_wire(self) -> None:
        """What is answered can be encoded, and is the same when it is decoded."""

        @self.each(self.runs, self.some_queries)
        def check(commands: list[Any], queries: list[Any]) -> None:
            with self.copies() as [one]:
                results = [*one.write_all(commands), *one.read_all(queries)]
                for result in results:
                    if not isinstance(result, Exception | Later):
                        data = one.machine.encode(result)
                        again = one.machine.decode_result(data)
                        assert one.machine.encode(again) == data

    def test_a_stranger_gets_an_error(self) -> None:
        """Bytes that are no command are refused, or mean something harmless."""

        @self.each(st.binary(max_size=40), self.runs)
        def check(data: bytes, commands: list[Any]) -> None:
            with self.copies() as [one]:
                one.write_all(commands)
                try:
                    command = one.machine.decode(data)
                except InvalidCommandError:
                    return
                except Exception as error:
                    message = f"decode raised a {type(error).__name__}: {error}"
                    raise AssertionError(message) from error
                one.write_or_stay(command)

    # --- the same everywhere ---------------------------------------------------

    def test_the_name_means_nothing(self) -> None:
        """Servers of any name begin with the same state."""
        with self.place() as place:
            one, other = self.copy(place / "a", "s1"), self.copy(place / "b", "Zoë's")
            try:
                assert one.seen() == other.seen()
            finally:
                one.close()
                other.close()

    def test_two_servers_agree(self) -> None:
        """The same commands come to the same results and the same state."""

        @self.each(self.runs)
        def check(commands: list[Any]) -> None:
            with self.copies(2) as [one, other]:
                for command in commands:
                    assert one.write_text(command) == other.write_text(command)
                    assert one.seen() == other.seen()
                    assert one.digest() == other.digest()

    def test_it_is_deterministic(self) -> None:
        """Another process, with other hashes and another clock, does the same."""
        make = made_by(self.given("machine"))
        if type(self).make is not StateMachineSuite.make:
            make = self.make
        check_deterministic(make, self.many_commands(), forgiven=type(self).forgiven)

    def many_commands(self) -> list[Any]:
        """Return the commands, or a lot of examples if they are a strategy."""
        source = self.given("commands")
        if not isinstance(source, SearchStrategy):
            return list(source)
        drawn: list[Any] = []

        def gather(run: list[Any]) -> None:
            drawn.extend(run)

        effort = settings(self.effort, max_examples=10, database=None)
        effort(given(run=self.some_of(source, least=1))(gather))()
        return drawn

    # --- what a call may change ------------------------------------------------

    def test_a_failed_command_changes_nothing(self) -> None:
        """When a command raises, the state is the one that was given."""

        @self.each(self.runs)
        def check(commands: list[Any]) -> None:
            with self.copies() as [one]:
                for command in commands:
                    one.write_or_stay(command)

    def test_a_read_changes_nothing(self) -> None:
        """The state after a query is the one before it."""

        @self.each(self.runs, self.some_queries)
        def check(commands: list[Any], queries: list[Any]) -> None:
            with self.copies() as [one]:
                one.write_all(commands)
                before = one.seen()
                one.read_all(queries)
                assert one.seen() == before

    def test_an_answer_is_a_copy(self) -> None:
        """Who gets an answer may change it, and the state stays as it is."""

        @self.each(self.runs, self.some_queries)
        def check(commands: list[Any], queries: list[Any]) -> None:
            with self.copies() as [one]:
                one.write_all(commands)
                before = one.seen()
                for answer in one.read_all(queries):
                    spoil(answer)
                    assert one.seen() == before

    def test_a_batch_is_its_commands(self) -> None:
        """Commands applied together come to what they come to one by one."""

        @self.each(self.runs, st.integers(1, 5))
        def check(commands: list[Any], size: int) -> None:
            with self.copies(2) as [one, other]:
                singly = [one.write_text(command) for command in commands]
                assert other.write_in_batches(commands, size) == singly
                assert one.seen() == other.seen()
                assert one.last_applied() == other.last_applied()

    def test_apply_batch_does_what_handle_write_does(self) -> None:
        """
        An apply_batch of the machine's own has the results of the default.

        On disk, handle_write may need what apply_batch does around it, such as
        a transaction: there a batch of one command stands for it.
        """
        is_on_disk = self.is_on_disk

        @self.each(self.runs)
        def check(commands: list[Any]) -> None:
            with self.copies(2) as [one, other]:
                one.write_in_batches(commands, max(1, len(commands)))
                if is_on_disk:
                    other.write_all(commands)
                else:
                    other.write_by_default(commands)
                assert one.seen() == other.seen()

    def test_last_applied_is_the_end_of_a_batch(self) -> None:
        """A state survives with whole batches; one in memory with none."""

        @self.each(self.runs, st.integers(1, 5))
        def check(commands: list[Any], size: int) -> None:
            with self.copies() as [one]:
                ends = {0}
                for start in range(0, len(commands), size):
                    one.write_in_batches(commands[start : start + size], size)
                    ends.add(one.index)
                    assert one.last_applied() in ends

    @property
    def is_on_disk(self) -> bool:
        """Say whether the machine says of a state how far it is."""
        with self.copies() as [one]:
            one.write_all(self.many_commands())
            return bool(one.last_applied())

    # --- snapshots -------------------------------------------------------------

    def test_a_snapshot_is_the_state(self) -> None:
        """A server that gets a snapshot goes on as the one that made it."""

        @self.each(self.runs, self.runs, _SIZES)
        def check(commands: list[Any], later: list[Any], size: int) -> None:
            with self.copies(2) as [one, other]:
                one.write_all(commands)
                other.restore(pieces(one.snapshot(), size), one.index)
                assert one.seen() == other.seen()
                assert one.digest() == other.digest()
                for command in later:
                    assert one.write_text(command) == other.write_text(command)
                assert one.seen() == other.seen()

    def test_a_snapshot_replaces_what_was_there(self) -> None:
        """Nothing of the state before shows through a restored one."""

        @self.each(self.runs, self.runs)
        def check(commands: list[Any], others: list[Any]) -> None:
            with self.copies(2) as [one, other]:
                one.write_all(commands)
                other.write_all(others)
                other.restore(pieces(one.snapshot(), 7), one.index)
                assert one.seen() == other.seen()

    def test_a_snapshot_is_of_its_moment(self) -> None:
        """A view does not see what is applied after it was taken."""

        @self.each(self.runs, self.runs)
        def check(commands: list[Any], later: list[Any]) -> None:
            with self.copies(2) as [one, other]:
                one.write_all(commands)
                before, index = one.seen(), one.index
                view = one.machine.snapshot(one.state)
                one.write_all(later)
                chunks = read_on_a_thread(view)
                other.restore(chunks, index)
                assert other.seen() == before

    def test_a_snapshot_does_not_disturb(self) -> None:
        """A server that takes snapshots comes to the state of one that does not."""

        @self.each(self.runs)
        def check(commands: list[Any]) -> None:
            with self.copies(2) as [one, other]:
                for command in commands:
                    one.snapshot()
                    one.write(command)
                    other.write(command)
                assert one.seen() == other.seen()

    def test_a_bad_snapshot_is_an_error(self) -> None:
        """What is no snapshot is refused, and never crashes the server."""

        @self.each(self.runs, st.binary(max_size=60), st.integers(0, 1 << 16))
        def check(commands: list[Any], data: bytes, at: int) -> None:
            with self.copies(2) as [one, other]:
                one.write_all(commands)
                whole = one.snapshot()
                cut = at % (len(whole) + 1)
                for bad in (data, whole[:cut], whole[:cut] + data + whole[cut:]):
                    other.restore_or_refuse(pieces(bad, 5), 7)

    def test_a_broken_restore_is_passed_on(self) -> None:
        """An error of the disk in the middle of a snapshot is not swallowed."""
        with self.copies(2) as [one, other]:
            one.write_all(self.many_commands()[:_MOST])
            before = other.seen()

            def broken() -> Iterator[bytes]:
                data = one.snapshot()
                yield data[: len(data) // 2]
                raise StorageError("the disk")

            with pytest.raises(StorageError, match="the disk"):
                other.restore(broken(), 7)
            other.restart()
            assert other.last_applied() == 0
            assert other.seen() == before

    # --- restarts --------------------------------------------------------------

    def test_a_restart_goes_on_where_it_says(self) -> None:
        """last_applied says which commands the state survives with."""

        @self.each(self.runs, self.runs)
        def check(commands: list[Any], later: list[Any]) -> None:
            with self.copies(2) as [one, other]:
                one.write_all(commands)
                one.restart()
                index = one.last_applied()
                assert 0 <= index <= len(commands)
                other.write_all(commands[:index])
                assert one.seen() == other.seen()
                one.index = index
                one.write_all([*commands[index:], *later])
                other.write_all([*commands[index:], *later])
                assert one.seen() == other.seen()

    def test_a_restored_state_survives(self) -> None:
        """A machine on disk finds a restored state again, and its index."""

        @self.each(self.runs)
        def check(commands: list[Any]) -> None:
            with self.copies(2) as [one, other]:
                one.write_all(commands)
                other.restore(pieces(one.snapshot(), 1000), 70)
                before, index = other.seen(), other.last_applied()
                assert index in {0, 70}
                other.restart()
                assert other.last_applied() == index
                if index:
                    assert other.seen() == before

    # --- digests and versions --------------------------------------------------

    def test_digests_tell_states_apart(self) -> None:
        """
        States that differ have digests that differ, and equal ones equal ones.

        Of a machine without digests, no state has one.
        """
        with self.copies() as [one]:
            has_digests = one.digest() is not None

        @self.each(self.runs, self.runs)
        def check(commands: list[Any], others: list[Any]) -> None:
            with self.copies(2) as [one, other]:
                one.write_all(commands)
                other.write_all(others)
                assert isinstance(one.digest(), bytes) == has_digests
                if has_digests:
                    is_same = one.digest() == other.digest()
                    assert (one.seen() == other.seen()) == is_same

    def test_an_unknown_version_is_refused(self) -> None:
        """A machine knows its own version, and says of others that it does not."""
        machine = self.make()
        assert machine.version >= 1
        assert machine.for_version(machine.version).version == machine.version
        for version in range(1, machine.version):
            try:
                older = machine.for_version(version)
            except StorageError:
                continue
            assert older.version == version
        with pytest.raises(StorageError):
            machine.for_version(_NO_VERSION)
