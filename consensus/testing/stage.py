"""
Servers that take commands as text, and the commands there are.

:mod:`consensus.testing.scenarios` has the files that the commands stand in.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from consensus.core.ready import RoleChanged
from consensus.core.state import Tuning
from consensus.core.values import Role
from consensus.errors import ProtocolError, RejectedError
from consensus.testing import notation
from consensus.testing.trace import Traced, summary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from consensus.core.messages import Message

_SERVER = re.compile(r"[a-z]\w*")
_LINK = re.compile(r"(\*|[a-z]\w*)(→|->|↔|<->)(\*|[a-z]\w*)")

#: A delivery that causes more than this goes round in circles.
_MOST_DELIVERIES = 2_000

#: Of the servers of a stage; a command names each by its name in this class.
_TUNING = Tuning(heartbeat_ticks=2, election_ticks=6, log_tail=0)


class CommandError(ValueError):
    """A command that there is not, or that cannot be done here."""


class Stage:
    """Servers that do what commands in text say."""

    def __init__(self) -> None:
        self._network: Traced | None = None
        self._commands: dict[str, Callable[[list[str]], None]] = {
            "add": self._add,
            "change": self._change,
            "crash": self._crash,
            "cut": self._cut,
            "damage": self._damage,
            "deliver": self._deliver,
            "elect": self._elect,
            "fast-disk": self._fast_disk,
            "heal": self._heal,
            "heartbeat": self._heartbeat,
            "install": self._install,
            "isolate": self._isolate,
            "lose": self._lose,
            "pass": self._pass,
            "propose": self._propose,
            "read": self._read,
            "repeat": self._repeat,
            "restart": self._restart,
            "show": self._show,
            "slow-disk": self._slow_disk,
            "slow-install": self._slow_install,
            "snapshot": self._snapshot,
            "start": self._start,
            "store": self._store,
            "sync": self._sync,
            "tick": self._tick,
            "transfer": self._transfer,
        }

    @property
    def commands(self) -> list[str]:
        """Return the names of all commands."""
        return sorted(self._commands)

    def run(self, line: str) -> list[str]:
        """
        Do what *line* says.

        Returns:
            What that caused; nothing if it says ``quietly``.

        Raises:
            CommandError: It cannot be done; perhaps some of it was.
        """
        words = line.split()
        is_quiet = words[:1] == ["quietly"]
        name, *rest = words[is_quiet:] or [""]
        command = self._commands.get(name)
        if command is None:
            known = ", ".join(self.commands)
            message = f"there is no command {name!r}; there are: {known}"
            raise CommandError(message)
        command(rest)
        lines, self._servers.lines = self._servers.lines, []
        return [] if is_quiet else lines

    # --- arguments ---------------------------------------------------------

    @property
    def _servers(self) -> Traced:
        if self._network is None:
            raise CommandError("nobody is there yet: begin with start")
        return self._network

    def _known(self, name: str) -> str:
        if name not in self._servers.names:
            message = f"there is no server {name!r}"
            raise CommandError(message)
        return name

    def _up(self, words: list[str]) -> str:
        """Take a server that runs from the front of *words*."""
        name = self._known(_first(words, "a server"))
        if name not in self._servers.rafts:
            message = f"{name} is down"
            raise CommandError(message)
        return name

    def _link(self, word: str) -> _Link:
        found = _LINK.fullmatch(word)
        if found is None:
            message = f"{word!r} is no link; one is s1→s2, s1↔s2, s1→* or *→s2"
            raise CommandError(message)
        one, arrow, other = found.groups()
        for name in {one, other} - {"*"}:
            self._known(name)
        return _Link(one, other, is_both_ways=arrow in {"↔", "<->"})

    def _under_way(self, words: list[str]) -> list[tuple[str, Message]]:
        """Return the messages that *words* name: a link and perhaps a number."""
        link = self._link(_first(words, "a link"))
        count = _number(words.pop(0)) if words else None
        _end(words)
        found = [each for each in self._servers.queue if link.carries(*each)]
        if count is not None and count > len(found):
            message = f"only {len(found)} messages are under way there"
            raise CommandError(message)
        return found[:count]

    @contextmanager
    def _refusing(self, name: str) -> Iterator[None]:
        """Write down that *name* refuses what was asked of it."""
        try:
            yield
        except (RejectedError, ProtocolError) as error:
            self._servers.pump(name)
            refused = f"{name} refuses: {type(error).__name__}: {error}"
            self._servers.lines.append(refused)

    # --- servers -----------------------------------------------------------

    def _start(self, words: list[str]) -> None:
        """``start 3`` or ``start s1 s2 s3``, and perhaps ``max_inflight=2`` …."""
        options = dict(word.split("=", 1) for word in words if "=" in word)
        names = [word for word in words if "=" not in word]
        seed = _number(options.pop("seed", "0"))
        if len(names) == 1 and names[0].isdecimal():
            names = [f"s{number}" for number in range(1, int(names[0]) + 1)]
        wrong = [name for name in names if not _SERVER.fullmatch(name)]
        if wrong or not names or len(set(names)) < len(names):
            raise CommandError("say how many servers, or their names")
        self._network = Traced(names, tuning=_tuning(options), seed=seed)

    def _add(self, words: list[str]) -> None:
        """``add s4``: a server that belongs to nothing yet."""
        name = _first(words, "a server")
        _end(words)
        if name in self._servers.names or not _SERVER.fullmatch(name):
            message = f"{name!r} is there already, or no name"
            raise CommandError(message)
        self._servers.add(name)

    def _store(self, words: list[str]) -> None:
        """``store s1 1 1 4 term=5 vote=s2``: another disk; the membership is 1.1."""
        name = self._known(_first(words, "a server"))
        options = dict(word.split("=", 1) for word in words if "=" in word)
        terms = [_number(word) for word in words if "=" not in word]
        if [1, *terms] != sorted([1, *terms]) or options.keys() - {"term", "vote"}:
            raise CommandError("terms do not decrease; options are term= and vote=")
        term, vote = _number(options.get("term", "0")), options.get("vote")
        if term < max(terms, default=0) and term:
            raise CommandError("no server is in an older term than its log")
        self._servers.store(
            name, *terms, term=term, vote=None if vote is None else self._known(vote)
        )

    def _crash(self, words: list[str]) -> None:
        """``crash s2``: what was not synced is lost."""
        name = self._up(words)
        _end(words)
        self._servers.crash(name)

    def _restart(self, words: list[str]) -> None:
        """``restart s2``, with what its disk has."""
        name = self._known(_first(words, "a server"))
        _end(words)
        if name in self._servers.rafts:
            message = f"{name} runs"
            raise CommandError(message)
        self._servers.restart(name)
        self._servers.pump(name)

    def _show(self, words: list[str]) -> None:
        """``show`` or ``show s1 s2``: what they are and have."""
        for name in words or self._servers.names:
            self._servers.lines.append(summary(self._servers, self._known(name)))

    # --- disks -------------------------------------------------------------

    def _slow_disk(self, words: list[str]) -> None:
        """``slow-disk s1``: its writes wait for ``sync``."""
        name = self._known(_first(words, "a server"))
        _end(words)
        self._servers.slow.add(name)

    def _fast_disk(self, words: list[str]) -> None:
        """``fast-disk s1``: what waits is written, and nothing waits any more."""
        name = self._up(words)
        _end(words)
        self._servers.slow.discard(name)
        self._servers.sync(name)

    def _sync(self, words: list[str]) -> None:
        """``sync s1`` or ``sync s1 1``: all writes or the oldest one finish."""
        name = self._up(words)
        count = _number(words.pop(0)) if words else None
        _end(words)
        if not self._servers.unsynced[name]:
            message = f"no write of {name} waits"
            raise CommandError(message)
        self._servers.sync(name, count)

    def _snapshot(self, words: list[str]) -> None:
        """``snapshot s1``: of what it has applied, durable at once."""
        name = self._up(words)
        _end(words)
        self._servers.snapshot(name)

    def _slow_install(self, words: list[str]) -> None:
        """``slow-install s3``: received snapshots wait for ``install``."""
        name = self._known(_first(words, "a server"))
        _end(words)
        self._servers.slow_installing.add(name)

    def _install(self, words: list[str]) -> None:
        """``install s3``: the next step of a slow installation."""
        name = self._up(words)
        _end(words)
        self._servers.install(name)

    def _damage(self, words: list[str]) -> None:
        """``damage s3``: what it has received of a snapshot so far is garbled."""
        name = self._up(words)
        _end(words)
        chunks = self._servers.incoming[name]
        if not chunks:
            message = f"{name} receives no snapshot"
            raise CommandError(message)
        chunks[:] = [chunk[::-1] for chunk in chunks]

    # --- time --------------------------------------------------------------

    def _tick(self, words: list[str]) -> None:
        """``tick s1``, ``tick s1 3`` or ``tick s1 until candidate``."""
        name = self._up(words)
        if words[:1] == ["until"]:
            words.pop(0)
            self._tick_until(name, _role(words))
            return
        count = _number(words.pop(0)) if words else 1
        _end(words)
        self._servers.tick(name, count)

    def _tick_until(self, name: str, role: Role) -> None:
        servers = self._servers
        before = len(servers.events[name])
        for _ in range(10 * servers.tuning.election_ticks):
            servers.tick(name)
            fresh = servers.events[name][before:]
            if any(isinstance(e, RoleChanged) and e.role is role for e in fresh):
                return
        is_now = servers.role(name).value
        message = f"{name} does not become {role.value}: it is {is_now}"
        raise CommandError(message)

    def _pass(self, words: list[str]) -> None:
        """``pass 5``: so many ticks at everybody; all that is sent arrives."""
        count = _number(_first(words, "a number of ticks"))
        _end(words)
        for _ in range(count):
            for name in list(self._servers.rafts):
                self._servers.tick(name)
            self._deliver([])

    # --- messages ----------------------------------------------------------

    def _deliver(self, words: list[str]) -> None:
        """
        ``deliver``, ``deliver s1↔s2``, ``deliver s1→s2`` or ``deliver s1→s2 1``.

        One way: what is under way now, or the oldest of it.  Both ways, or
        everywhere: also what that causes, until all is quiet.
        """
        link = self._link(words[0]) if words else _Link("*", "*", is_both_ways=True)
        if not link.is_both_ways:
            for item in self._under_way(words):
                self._deliver_one(*item)
            return
        _end(words[1:])
        for _ in range(_MOST_DELIVERIES):
            waiting = [item for item in self._servers.queue if link.carries(*item)]
            if not waiting:
                return
            self._deliver_one(*waiting[0])
        raise CommandError("the network does not come to rest")

    def _deliver_one(self, to: str, message: Message) -> None:
        servers = self._servers
        position = servers.queue.index((to, message))
        if to not in servers.rafts or (message.sender, to) in servers.cut:
            servers.lines.append(f"lost: {notation.message(to, message)}")
        with self._refusing(to):
            servers.deliver(position)

    def _lose(self, words: list[str]) -> None:
        """``lose s1→s2`` or ``lose s1→s2 1``: what is under way, or the oldest."""
        for item in self._under_way(words):
            self._servers.queue.remove(item)
            self._servers.lines.append(f"lost: {notation.message(*item)}")

    def _repeat(self, words: list[str]) -> None:
        """``repeat s1→s2``: what is under way there arrives once more, later."""
        self._servers.queue += self._under_way(words)

    def _cut(self, words: list[str]) -> None:
        """``cut s1→s2`` or ``cut s1↔s2``: what goes that way is lost."""
        link = self._link(_first(words, "a link"))
        _end(words)
        names = self._servers.names
        self._servers.cut |= {
            (one, other) for one in names for other in names if link.leads(one, other)
        }

    def _isolate(self, words: list[str]) -> None:
        """``isolate s1 s2``: they hear each other, and nobody else."""
        if not words:
            raise CommandError("say whom")
        self._servers.isolate(*map(self._known, words))

    def _heal(self, words: list[str]) -> None:
        """``heal``: all links carry again."""
        _end(words)
        self._servers.heal()

    # --- what is asked of a server -----------------------------------------

    def _elect(self, words: list[str]) -> None:
        """``elect s1``: it stands for election, and everything arrives."""
        name = self._up(words)
        _end(words)
        try:
            self._servers.campaign(name)
        except AssertionError as error:
            raise CommandError(str(error)) from error
        self._deliver([])

    def _heartbeat(self, words: list[str]) -> None:
        """``heartbeat s1``: the leader speaks once, and everything arrives."""
        name = self._up(words)
        _end(words)
        self._servers.tick(name, self._servers.tuning.heartbeat_ticks)
        self._deliver([])

    def _propose(self, words: list[str]) -> None:
        """``propose s1 x y``: the leader takes these commands, in one go."""
        name = self._up(words)
        commands = [word.encode() for word in words]
        if not commands:
            raise CommandError("say what")
        with self._refusing(name):
            self._servers.propose(name, *commands)

    def _read(self, words: list[str]) -> None:
        """``read s1 7``: a linearizable read, called 7; on any server."""
        name = self._up(words)
        number = _number(_first(words, "a number for the read"))
        _end(words)
        with self._refusing(name):
            self._servers.rafts[name].read_index(number)
            self._servers.pump(name)

    def _transfer(self, words: list[str]) -> None:
        """``transfer s1`` or ``transfer s1 s3``: the leader hands over."""
        name = self._up(words)
        target = self._known(words.pop(0)) if words else None
        _end(words)
        with self._refusing(name):
            self._servers.transfer(name, target)

    def _change(self, words: list[str]) -> None:
        """``change s1 s1 s2 + s4``: the leader shall make these the members."""
        name = self._up(words)
        voters, _, learners = " ".join(words).partition("+")
        with self._refusing(name):
            self._servers.change(
                name,
                map(self._known, voters.split()),
                map(self._known, learners.split()),
            )


@dataclass(frozen=True, slots=True)
class _Link:
    """A way from one server to another, or both ways; ``*`` is anybody."""

    one: str
    other: str
    is_both_ways: bool

    def leads(self, sender: str, to: str) -> bool:
        """Say whether a message from *sender* to *to* goes this way."""
        ways = [(self.one, self.other)]
        if self.is_both_ways:
            ways.append((self.other, self.one))
        return any(one in {"*", sender} and other in {"*", to} for one, other in ways)

    def carries(self, to: str, message: Message) -> bool:
        """Say whether *message* goes this way."""
        return self.leads(message.sender, to)


def _first(words: list[str], what: str) -> str:
    if not words:
        message = f"say {what}"
        raise CommandError(message)
    return words.pop(0)


def _end(words: list[str]) -> None:
    if words:
        message = f"this is too much: {' '.join(words)}"
        raise CommandError(message)


def _number(word: str) -> int:
    if not word.isdecimal():
        message = f"{word!r} is no number"
        raise CommandError(message)
    return int(word)


def _yes(word: str) -> bool:
    if word not in {"yes", "no"}:
        message = f"{word!r} is neither yes nor no"
        raise CommandError(message)
    return word == "yes"


def _role(words: list[str]) -> Role:
    word = _first(words, "a role")
    _end(words)
    try:
        return Role(word)
    except ValueError as error:
        known = ", ".join(role.value for role in Role)
        message = f"{word!r} is no role; those are: {known}"
        raise CommandError(message) from error


def _tuning(options: dict[str, str]) -> Tuning:
    defaults = {each.name: getattr(_TUNING, each.name) for each in fields(Tuning)}
    chosen: dict[str, Any] = {}
    for name, word in options.items():
        default = defaults.get(name)
        if default is None:
            message = f"there is no option {name!r}; those are seed and Tuning's"
            raise CommandError(message)
        if isinstance(default, bool):
            chosen[name] = _yes(word)
        elif isinstance(default, int):
            chosen[name] = _number(word)
        else:
            chosen[name] = tuple(word.split(","))
    return replace(_TUNING, **chosen)
