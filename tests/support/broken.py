"""State machines that break one promise each, for the suite to catch them."""

# Their names say what they do.
# ruff: noqa: D101

from __future__ import annotations

import itertools
import json
import time
from typing import TYPE_CHECKING, Any

import msgspec

from consensus.errors import InvalidCommandError, StorageError
from consensus.interfaces import EncodedSnapshot, StateMachine, Tick

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

COMMANDS = (
    ["add", "a", 1],
    ["add", "b", 2],
    ["take", "a", 1],
    ["take", "b", 5],
    ["add", "a", 3],
    ["what"],
)
QUERIES = (["count", "a"], ["all"], ["what"])

_FILE = "state.json"


class Dictionary(StateMachine):
    """Counts things: a right machine, in memory."""

    def init(self, name: str) -> Any:
        """Begin empty."""
        del name
        return {}

    def handle_write(self, command: Any, state: Any) -> tuple[Any, Any]:
        """Add or take some."""
        match command:
            case ["add", str(key), int(count)]:
                state[key] = state.get(key, 0) + count
            case ["take", str(key), int(count)] if state.get(key, 0) >= count:
                state[key] = state.get(key, 0) - count
            case _:
                message = f"cannot do {command!r}"
                raise ValueError(message)
        return state[key], state

    def handle_read(self, query: Any, state: Any) -> tuple[Any, Any]:
        """Return one count, or all."""
        match query:
            case ["count", str(key)]:
                return state.get(key, 0), state
            case ["all"]:
                return dict(state), state
        raise ValueError(query)

    def snapshot(self, state: Any) -> EncodedSnapshot:
        """Return the counts as JSON."""
        return EncodedSnapshot(json.dumps(state).encode())

    def restore(self, chunks: Iterable[bytes], last_applied: int) -> Any:
        """Return the counts in JSON."""
        del last_applied
        return _counts(b"".join(chunks))


def _counts(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data, type=dict[str, int])
    except ValueError as error:
        raise StorageError(str(error)) from error


class Journal(Dictionary):
    """The same on disk: a file of JSON, replaced as a whole."""

    def init(self, name: str) -> Any:
        """Return what the file has."""
        del name
        if self.directory is None or not (self.directory / _FILE).exists():
            return {"index": 0, "counts": {}}
        return json.loads((self.directory / _FILE).read_text())

    def write_file(self, state: Any) -> None:
        """Replace the file, if there is a place for it."""
        if self.directory is not None:
            (self.directory / _FILE).write_text(json.dumps(state))

    def handle_write(self, command: Any, state: Any) -> tuple[Any, Any]:
        """Change the counts; the file follows."""
        result, _ = super().handle_write(command, state["counts"])
        return result, state

    def handle_read(self, query: Any, state: Any) -> tuple[Any, Any]:
        """Look at the counts."""
        return super().handle_read(query, state["counts"])[0], state

    def apply_batch(
        self, batch: Sequence[tuple[int, Any]], state: Any
    ) -> tuple[Sequence[Any], Any]:
        """Apply the batch, and write the file."""
        results, state = super().apply_batch(batch, state)
        state["index"] = batch[-1][0]
        self.write_file(state)
        return results, state

    def last_applied(self, state: Any) -> int:
        """Return what the file has."""
        index: int = state["index"]
        return index

    def snapshot(self, state: Any) -> EncodedSnapshot:
        """Return the counts as JSON."""
        return super().snapshot(state["counts"])

    def restore(self, chunks: Iterable[bytes], last_applied: int) -> Any:
        """Replace the file."""
        state = {"index": last_applied, "counts": _counts(b"".join(chunks))}
        self.write_file(state)
        return state


# --- what is encoded ------------------------------------------------------------


class ForgetsWhatItEncoded(Dictionary):
    def decode(self, data: bytes) -> Any:
        value = super().decode(data)
        return value[:2] if isinstance(value, list) else value


class MixesUpQueries(Dictionary):
    def decode(self, data: bytes) -> Any:
        value = super().decode(data)
        return ["count", "a"] if value == ["all"] else value


class AnswersWithASet(Dictionary):
    def handle_write(self, command: Any, state: Any) -> tuple[Any, Any]:
        result, state = super().handle_write(command, state)
        return StopIteration if result == 4 else result, state


class TrustsStrangers(Dictionary):
    def decode(self, data: bytes) -> Any:
        return msgspec.msgpack.decode(data)


class DecodesAnything(Dictionary):
    def decode(self, data: bytes) -> Any:
        try:
            return super().decode(data)
        except InvalidCommandError:
            return None

    def handle_write(self, command: Any, state: Any) -> tuple[Any, Any]:
        if command is None:
            state.clear()
            raise ValueError(command)
        return super().handle_write(command, state)


# --- what servers have in common ------------------------------------------------


class KeepsItsName(Dictionary):
    def init(self, name: str) -> Any:
        return {name: 0}


class SharesACounter(Dictionary):
    _numbers = itertools.count()

    def handle_write(self, command: Any, state: Any) -> tuple[Any, Any]:
        result, state = super().handle_write(command, state)
        return (result, next(self._numbers)), state


class DigestsAddresses(Dictionary):
    def digest(self, state: Any) -> bytes:
        return b"%d" % id(state)


class StampsTheTime(Dictionary):
    def handle_write(self, command: Any, state: Any) -> tuple[Any, Any]:
        result, state = super().handle_write(command, state)
        return (result, time.time() > 0), state


# --- what a call may change -----------------------------------------------------


class RaisesTooLate(Dictionary):
    def handle_write(self, command: Any, state: Any) -> tuple[Any, Any]:
        if command[0] == "take":
            state[command[1]] = state.get(command[1], 0) - command[2]
            if state[command[1]] < 0:
                raise ValueError(command)
            return None, state
        return super().handle_write(command, state)


class CountsItsReads(Dictionary):
    def handle_read(self, query: Any, state: Any) -> tuple[Any, Any]:
        state["reads"] = state.get("reads", 0) + 1
        return super().handle_read(query, state)


class HandsOutItsState(Dictionary):
    def handle_read(self, query: Any, state: Any) -> tuple[Any, Any]:
        return state if query == ["all"] else None, state


class StopsABatchAtAnError(Dictionary):
    def apply_batch(
        self, batch: Sequence[tuple[int, Any]], state: Any
    ) -> tuple[Sequence[Any], Any]:
        results: list[Any] = []
        for _, command in batch:
            try:
                result, state = self.handle_write(command, state)
            except ValueError as error:
                results += [error] * (len(batch) - len(results))
                return results, state
            results.append(result)
        return results, state


class BatchesOtherwise(Dictionary):
    def apply_batch(
        self, batch: Sequence[tuple[int, Any]], state: Any
    ) -> tuple[Sequence[Any], Any]:
        results, state = super().apply_batch(batch, state)
        for _ in batch:
            state["batched"] = state.get("batched", 0) + 1
        return results, state


class StoresTheFirstIndex(Journal):
    def apply_batch(
        self, batch: Sequence[tuple[int, Any]], state: Any
    ) -> tuple[Sequence[Any], Any]:
        results, state = super().apply_batch(batch, state)
        state["index"] = batch[0][0]
        return results, state


# --- snapshots ------------------------------------------------------------------


class LeavesOutACount(Dictionary):
    def snapshot(self, state: Any) -> EncodedSnapshot:
        return super().snapshot({key: state[key] for key in state if key != "b"})


class ReadsOnePiece(Dictionary):
    def restore(self, chunks: Iterable[bytes], last_applied: int) -> Any:
        return super().restore([next(iter(chunks), b"")], last_applied)


class MergesSnapshots(Journal):
    def restore(self, chunks: Iterable[bytes], last_applied: int) -> Any:
        before = self.init("")["counts"]
        state = super().restore(chunks, last_applied)
        state["counts"] = before | state["counts"]
        return state


class _Later:
    def __init__(self, state: Any) -> None:
        self._state = state

    def chunks(self) -> Iterator[bytes]:
        yield json.dumps(self._state).encode()


class ShowsWhatComesLater(Dictionary):
    def snapshot(self, state: Any) -> Any:
        return _Later(state)


class CleansUpInASnapshot(Dictionary):
    def snapshot(self, state: Any) -> EncodedSnapshot:
        for key in [key for key, count in state.items() if not count]:
            del state[key]
        return super().snapshot(state)


class TrustsSnapshots(Dictionary):
    def restore(self, chunks: Iterable[bytes], last_applied: int) -> Any:
        del last_applied
        return json.loads(b"".join(chunks))


class SwallowsErrors(Dictionary):
    def restore(self, chunks: Iterable[bytes], last_applied: int) -> Any:
        try:
            return super().restore(chunks, last_applied)
        except StorageError:
            return {}


class RestoresInPlace(Journal):
    def restore(self, chunks: Iterable[bytes], last_applied: int) -> Any:
        self.write_file({"index": last_applied, "counts": {}})
        return super().restore(chunks, last_applied)


# --- restarts, digests, versions ------------------------------------------------


class ForgetsItsIndex(Journal):
    def init(self, name: str) -> Any:
        return super().init(name) | {"index": 0}


class ClaimsToBeOnDisk(Dictionary):
    def init(self, name: str) -> Any:
        del name
        self._index = _seen.get(self.directory, 0)
        return {}

    def apply_batch(
        self, batch: Sequence[tuple[int, Any]], state: Any
    ) -> tuple[Sequence[Any], Any]:
        _seen[self.directory] = self._index = batch[-1][0]
        return super().apply_batch(batch, state)

    def last_applied(self, state: Any) -> int:
        del state
        return self._index


_seen: dict[Path | None, int] = {}


class RestoresInMemory(Journal):
    def restore(self, chunks: Iterable[bytes], last_applied: int) -> Any:
        return {"index": last_applied, "counts": _counts(b"".join(chunks))}


class DigestsTheSize(Dictionary):
    def digest(self, state: Any) -> bytes:
        return b"%d" % len(state)


class DigestsWhatItHas(Dictionary):
    def digest(self, state: Any) -> bytes | None:
        return json.dumps(state, sort_keys=True).encode() if state else None


class KnowsEveryVersion(Dictionary):
    def for_version(self, version: int) -> StateMachine:
        del version
        return self


class AsksForThePast(Dictionary):
    """Wants to be told a time that it has been told."""

    timed = True

    def handle_write(self, command: Any, state: Any) -> tuple[Any, Any]:
        """Take no notice of the time."""
        if isinstance(command, Tick):
            return None, state
        return super().handle_write(command, state)

    def next_time(self, state: Any) -> int | None:
        """Return the same for ever, once there is anything."""
        return 1 if state else None
