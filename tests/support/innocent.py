"""State machines that only look as if they were not deterministic."""

# Their names say what they do.
# ruff: noqa: D101

from __future__ import annotations

import hashlib
import logging
import os
import random
import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from time import perf_counter
from typing import Any

from twisted.logger import Logger

from tests.support.guilty import Machine

_log = Logger()
_stdlib_log = logging.getLogger(__name__)


class ImportsAndLogs(Machine):
    def value(self, command: str) -> Any:
        _log.info("applies {command}", command=command)
        _stdlib_log.warning("applies %s", command)
        return command


class SortsItsSets(Machine):
    def value(self, command: str) -> Any:
        words = set(command.split())
        longest = 0
        for word in words:
            longest = max(longest, len(word))
        return sorted(words), longest, "one" in words, len(words)


class KeepsASet(Machine):
    def value(self, command: str) -> Any:
        return {*command.split()}, frozenset(command)


class FillsADictFromASet(Machine):
    def value(self, command: str) -> Any:
        return {word: len(word) for word in set(command.split())}


class SeedsItsDice(Machine):
    def value(self, command: str) -> Any:
        dice = random.Random(command)  # noqa: S311 - reproducible, not secret
        return dice.random(), dice.choice(command), dice.sample(range(9), 3)


class NamesById(Machine):
    def value(self, command: str) -> Any:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, command))


class HashesForGood(Machine):
    def value(self, command: str) -> Any:
        return hashlib.sha256(command.encode()).hexdigest()


class CountsInTime(Machine):
    def value(self, command: str) -> Any:
        moment = datetime.fromtimestamp(len(command), tz=UTC)
        return moment + timedelta(days=1), time.gmtime(0).tm_year


class FindsByAddress(Machine):
    def value(self, command: str) -> Any:
        words = command.split()
        places = {id(word): word for word in words}
        return [places[id(word)] for word in words]


class MeasuresForTheLog(Machine):
    def value(self, command: str) -> Any:
        start = perf_counter()
        words = command.split()
        _log.debug("took {seconds}", seconds=perf_counter() - start)
        return words


class LooksAroundAtTheStart(Machine):
    currency = os.environ.get("SHOP_CURRENCY", "EUR")

    def value(self, command: str) -> Any:
        return command, self.currency


class RefusesWithReasons(Machine):
    def value(self, command: str) -> Any:
        raise ValueError(command)


@dataclass
class Shelf:
    """A state that is an object."""

    words: dict[str, int] = field(default_factory=dict)
    lock: Any = field(default_factory=threading.Lock)


class KeepsAnObject(Machine):
    def init(self, name: str) -> Any:
        del name
        return Shelf()

    def handle_write(self, command: Any, state: Any) -> tuple[Any, Any]:
        state.words[command] = len(state.words)
        return state.words[command], state

    def snapshot(self, state: Any) -> Any:
        return super().snapshot(state.words)


class SaysWhenItWas(Machine):
    """Is guilty, unless its method is forgiven."""

    def value(self, command: str) -> Any:
        self.note()
        return command

    def note(self) -> None:
        """Write to a file that nobody reads but people."""
        _log.info("at {time}", time=time.time())


INNOCENT = [
    *(Machine, ImportsAndLogs, SortsItsSets, KeepsASet, FillsADictFromASet),
    *(SeedsItsDice, NamesById, HashesForGood, CountsInTime, FindsByAddress),
    *(MeasuresForTheLog, LooksAroundAtTheStart, RefusesWithReasons, KeepsAnObject),
]
