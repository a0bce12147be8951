"""State machines that are not deterministic, one line each: it ends in an arrow."""

# Their names say what they do.
# ruff: noqa: D101

from __future__ import annotations

import itertools
import locale
import os
import platform
import random
import secrets
import socket
import threading
import time
import uuid
from datetime import UTC, date, datetime
from random import choice
from time import time as now
from typing import TYPE_CHECKING, Any

from consensus.interfaces import StateMachine

if TYPE_CHECKING:
    from collections.abc import Iterator


class Machine(StateMachine):
    """What the others differ from in one line."""

    def init(self, name: str) -> Any:
        """Begin empty."""
        del name
        return {}

    def handle_write(self, command: Any, state: Any) -> tuple[Any, Any]:
        """Keep what :meth:`value` says."""
        state[command] = self.value(command)
        return None, state

    def value(self, command: str) -> Any:
        """Return what to keep."""
        return command

    def handle_read(self, query: Any, state: Any) -> tuple[Any, Any]:
        """Return what is kept."""
        return state.get(query), state


class ReadsTheClock(Machine):
    def value(self, command: str) -> Any:
        return command, time.time()  # <--


class ReadsTheClockByAnotherName(Machine):
    def value(self, command: str) -> Any:
        return command, now() > 5  # <--


class AsksForTheDay(Machine):
    def value(self, command: str) -> Any:
        del command
        return str(datetime.now(tz=UTC).date())  # <--


class AsksForToday(Machine):
    def value(self, command: str) -> Any:
        del command
        return date.today().isoformat()  # noqa: DTZ011 - that is what is wrong  # <--


class Draws(Machine):
    def value(self, command: str) -> Any:
        return choice(command)  # noqa: S311 - that is what is wrong  # <--


class SeedsByChance(Machine):
    def value(self, command: str) -> Any:
        dice = random.Random()  # noqa: S311 - that is what is wrong  # <--
        return dice.choice(command)


class DrawsSecrets(Machine):
    def value(self, command: str) -> Any:
        return command + secrets.token_hex()  # <--


class DrawsBytes(Machine):
    def value(self, command: str) -> Any:
        return command, os.urandom(4)  # <--


class MakesAnId(Machine):
    def value(self, command: str) -> Any:
        return command, str(uuid.uuid4())  # <--


class LooksAround(Machine):
    def value(self, command: str) -> Any:
        return command, os.environ.get("SHOP_CURRENCY", "EUR")  # <--


class KnowsItsProcess(Machine):
    def value(self, command: str) -> Any:
        return command, os.getpid()  # <--


class KnowsItsHost(Machine):
    def value(self, command: str) -> Any:
        return command, socket.gethostname()  # <--


class KnowsItsPlatform(Machine):
    def value(self, command: str) -> Any:
        return command, platform.node()  # <--


class KnowsItsThread(Machine):
    def value(self, command: str) -> Any:
        return command, threading.get_ident()  # <--


class AsksTheLocale(Machine):
    def value(self, command: str) -> Any:
        return locale.strxfrm(command)  # <--


class AsksInAHelper(Machine):
    def value(self, command: str) -> Any:
        return command, next(iter(_stamps()))


def _stamps() -> Iterator[float]:
    yield time.time()  # <-- AsksInAHelper


class ListsASet(Machine):
    def value(self, command: str) -> Any:
        words = set(command.split())
        return list(words)  # <--


class LoopsOverASet(Machine):
    def value(self, command: str) -> Any:
        first = ""
        for word in {*command.split()}:  # <--
            first = first or word
        return first


class PopsFromASet(Machine):
    def value(self, command: str) -> Any:
        words = set(command.split())
        word = words.pop()  # <--
        return word.upper()


class JoinsASet(Machine):
    def value(self, command: str) -> Any:
        return " ".join(set(command.split()))  # <--


class TakesAHash(Machine):
    def value(self, command: str) -> Any:
        return hash(command) % 1009  # <--


class TakesAnAddress(Machine):
    def value(self, command: str) -> Any:
        things = [object() for _ in command]
        return [id(each) % 1009 for each in things]  # <--


class SaysAnAddress(Machine):
    def value(self, command: str) -> Any:
        raise ValueError(f"bad: {object()} {command}")  # noqa: EM102 - short  # <--


class FollowsTheTimezone(Machine):
    def value(self, command: str) -> Any:
        moment = datetime.fromtimestamp(len(command))  # noqa: DTZ006 - that is what is wrong  # <--
        return moment.isoformat()


class FormatsNow(Machine):
    def value(self, command: str) -> Any:
        return command, time.strftime("%Y")  # <--


class Impatient(Machine):
    def value(self, command: str) -> Any:
        start = time.process_time()  # <--
        shouted = command.upper()
        if time.process_time() - start > 1:
            return None
        return shouted


class KnowsItsName(Machine):
    def init(self, name: str) -> Any:
        return {"mine": name}


class Counts(Machine):
    _numbers = itertools.count()

    def value(self, command: str) -> Any:
        number = next(self._numbers)  # <--
        return f"{command} {number}"


class DigestsByHash(Machine):
    def digest(self, state: Any) -> bytes:
        return hash(str(state)).to_bytes(8, "big", signed=True)


class ListsLongSets(Machine):
    """Puts no single word into an order."""

    def value(self, command: str) -> Any:
        letters = set(command)
        return list(letters) if " " in command else command


class Reckless(Machine):
    """Does more than one thing."""

    def value(self, command: str) -> Any:
        started = time.time()
        return command, started, os.getpid()


#: Of these the line is known; of the two others, only what differs.
GUILTY = [
    *(ReadsTheClock, ReadsTheClockByAnotherName, AsksForTheDay, AsksForToday),
    *(Draws, SeedsByChance, DrawsSecrets, DrawsBytes, MakesAnId, LooksAround),
    *(KnowsItsProcess, KnowsItsHost, KnowsItsPlatform, KnowsItsThread),
    *(AsksTheLocale, AsksInAHelper, ListsASet, LoopsOverASet, PopsFromASet),
    *(JoinsASet, TakesAHash, TakesAnAddress, SaysAnAddress),
    *(FollowsTheTimezone, FormatsNow, Impatient, Counts),
]
