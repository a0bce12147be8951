"""The commands that Redis' clients can give, and what each is called by programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from contrib.kvstore.resp import keys as resp_keys
from contrib.kvstore.resp import strings as resp_strings
from contrib.kvstore.resp import talk as resp_talk
from contrib.kvstore.resp import times as resp_times

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from contrib.kvstore.resp.replies import Reply
    from contrib.kvstore.resp.session import Session

    Run = Callable[[Session, list[bytes]], Any]


@dataclass(frozen=True, slots=True)
class Spec:
    """
    A command.

    Args:
        name: In small letters.
        run: Says what its words come to.
        arity: How many words it has, with its name; as many or more if negative.
        flags: What programs are told of it, and we go by.
        keys: The places of the first and the last key, and the step between.
        group: What kind of command it is.
        summary: What it does.
    """

    name: str
    run: Run
    arity: int
    flags: frozenset[str]
    keys: tuple[int, int, int]
    group: str
    summary: str

    @property
    def is_alone(self) -> bool:
        """Say whether nothing else may be under way."""
        return "alone" in self.flags

    @property
    def takes_time(self) -> bool:
        """Say whether it takes several steps, and cannot be in a transaction."""
        return "steps" in self.flags

    @property
    def is_immediate(self) -> bool:
        """Say whether it is done even in the midst of a transaction."""
        return "immediate" in self.flags

    @property
    def needs_no_trust(self) -> bool:
        """Say whether strangers may give it."""
        return "no_auth" in self.flags


# What programs are not told of: it is between us.
_OURS = frozenset({"alone", "immediate", "steps"})

_NO_KEYS = (0, 0, 0)
_ONE = (1, 1, 1)
_ALL = (1, -1, 1)
_PAIRS = (1, -1, 2)


def _strings() -> list[tuple[Any, ...]]:
    of = resp_strings
    return [
        ("get", of.get, 2, "readonly fast", _ONE, "the value of a key"),
        ("set", of.set_, -3, "write", _ONE, "set a key, on conditions, for a time"),
        ("setnx", of.setnx, 3, "write fast", _ONE, "set a key that is not there"),
        ("setex", of.setex, 4, "write", _ONE, "set a key for so many seconds"),
        ("psetex", of.psetex, 4, "write", _ONE, "set a key for so many milliseconds"),
        ("getset", of.getset, 3, "write fast", _ONE, "set a key; the value before"),
        ("getdel", of.getdel, 2, "write fast", _ONE, "remove a key; its value"),
        ("getex", of.getex, -2, "write fast", _ONE, "a value; when the key ends"),
        ("mget", of.mget, -2, "readonly fast", _ALL, "the values of keys"),
        ("mset", of.mset, -3, "write", _PAIRS, "set keys, all at once"),
        ("msetnx", of.msetnx, -3, "write", _PAIRS, "set keys if none is there"),
        ("incr", of.incr, 2, "write fast", _ONE, "add one"),
        ("incrby", of.incrby, 3, "write fast", _ONE, "add a whole number"),
        ("decr", of.decr, 2, "write fast", _ONE, "subtract one"),
        ("decrby", of.decrby, 3, "write fast", _ONE, "subtract a whole number"),
        ("incrbyfloat", of.incrbyfloat, 3, "write fast", _ONE, "add a number"),
        ("append", of.append, 3, "write fast", _ONE, "put bytes behind a value"),
        ("strlen", of.strlen, 2, "readonly fast", _ONE, "how long a value is"),
    ]


def _generic() -> list[tuple[Any, ...]]:
    of, times = resp_keys, resp_times
    return [
        ("del", of.del_, -2, "write", _ALL, "remove keys; how many were there"),
        ("unlink", of.del_, -2, "write fast", _ALL, "remove keys; how many"),
        ("exists", of.exists, -2, "readonly fast", _ALL, "how many keys are there"),
        ("touch", of.exists, -2, "readonly fast", _ALL, "how many keys are there"),
        ("type", of.type_, 2, "readonly fast", _ONE, "what a key has: string or none"),
        ("keys", of.keys_, 2, "readonly", _NO_KEYS, "the keys of a pattern, if few"),
        ("scan", of.scan, -2, "readonly", _NO_KEYS, "some keys, in their order"),
        ("expire", times.expire, -3, "write fast", _ONE, "let a key end, in seconds"),
        ("pexpire", times.pexpire, -3, "write fast", _ONE, "let a key end, in ms"),
        ("expireat", times.expireat, -3, "write fast", _ONE, "let a key end then"),
        ("pexpireat", times.pexpireat, -3, "write fast", _ONE, "let a key end then"),
        ("persist", times.persist, 2, "write fast", _ONE, "let a key live on"),
        ("ttl", times.ttl, 2, "readonly fast", _ONE, "how many seconds a key has"),
        ("pttl", times.pttl, 2, "readonly fast", _ONE, "how many ms a key has"),
        ("expiretime", times.expiretime, 2, "readonly fast", _ONE, "when a key ends"),
        ("pexpiretime", times.pexpiretime, 2, "readonly fast", _ONE, "when a key ends"),
    ]


def _transactions() -> list[tuple[Any, ...]]:
    of = resp_talk
    now = "noscript fast alone immediate"
    return [
        ("multi", of.multi, 1, now, _NO_KEYS, "keep what follows"),
        ("exec", of.exec_, 1, now, _NO_KEYS, "do what was kept, all at once"),
        ("discard", of.discard, 1, now, _NO_KEYS, "forget what was kept"),
        ("watch", of.watch, -2, now, _ALL, "do nothing then if these keys change"),
        ("unwatch", of.unwatch, 1, "noscript fast", _NO_KEYS, "forget these keys"),
    ]


def _connection() -> list[tuple[Any, ...]]:
    of = resp_talk
    first = "noscript fast no_auth alone"
    return [
        ("auth", of.auth, -2, first, _NO_KEYS, "say the password"),
        ("client", of.client, -2, "noscript", _NO_KEYS, "who is connected"),
        ("echo", of.echo, 2, "fast", _NO_KEYS, "the same again"),
        ("hello", of.hello, -1, first, _NO_KEYS, "choose the protocol"),
        ("ping", of.ping, -1, "fast", _NO_KEYS, "a sign of life"),
        ("quit", of.quit_, -1, f"{first} immediate", _NO_KEYS, "close"),
        ("reset", of.reset, 1, f"{first} immediate", _NO_KEYS, "be as a new client"),
        ("select", of.select, 2, "fast", _NO_KEYS, "there is the database 0"),
    ]


def _server() -> list[tuple[Any, ...]]:
    of = resp_talk
    return [
        ("command", command, -1, "loading", _NO_KEYS, "what commands there are"),
        ("config", of.config, -2, "admin noscript", _NO_KEYS, "look at some options"),
        ("dbsize", resp_keys.dbsize, 1, "readonly fast", _NO_KEYS, "how many keys"),
        ("flushall", of.flush, -1, "write alone steps", _NO_KEYS, "remove all keys"),
        ("flushdb", of.flush, -1, "write alone steps", _NO_KEYS, "remove all keys"),
        ("info", of.info, -1, "loading", _NO_KEYS, "how this server is"),
        ("time", of.time, 1, "loading fast", _NO_KEYS, "the date"),
        ("wait", of.wait, 3, "noscript", _NO_KEYS, "how many replicas have it"),
    ]


# --- COMMAND --------------------------------------------------------------------


def command(session: Session, words: list[bytes]) -> Reply:
    """``COMMAND [COUNT | DOCS | INFO | LIST]``."""
    if len(words) == 1:
        return [_described(spec) for spec in _SPECS]
    return resp_talk.subcommand(session, words, _COMMAND)


def _count(_: Session, words: list[bytes]) -> Reply:
    del words
    return len(_SPECS)


def _list(_: Session, words: list[bytes]) -> Reply:
    del words
    return [spec.name.encode() for spec in _SPECS]


def _info(_: Session, words: list[bytes]) -> Reply:
    found = _found(words[2:])
    return [None if spec is None else _described(spec) for spec in found]


def _docs(_: Session, words: list[bytes]) -> Reply:
    return {
        spec.name.encode(): {
            b"summary": spec.summary.encode(),
            b"since": b"1.0.0",
            b"group": spec.group.encode(),
        }
        for spec in _found(words[2:])
        if spec
    }


_COMMAND: resp_talk.Subcommands = {
    b"COUNT": (2, _count),
    b"DOCS": (-2, _docs),
    b"INFO": (-2, _info),
    b"LIST": (2, _list),
}


def _found(named: list[bytes]) -> Sequence[Spec | None]:
    return [TABLE.get(word.upper()) for word in named] if named else _SPECS


def _described(spec: Spec) -> Reply:
    return [
        spec.name.encode(),
        spec.arity,
        spec.flags - _OURS,
        *spec.keys,
        frozenset({f"@{spec.group}"}),
        [],
        [],
        [],
    ]


_GROUPS = {
    "string": _strings,
    "generic": _generic,
    "transactions": _transactions,
    "connection": _connection,
    "server": _server,
}

_SPECS = [
    Spec(called, run, arity, frozenset(flags.split()), keys, group, summary)
    for group, rows in _GROUPS.items()
    for called, run, arity, flags, keys, summary in rows()
]

#: Every command by its name, in large letters and in small ones.
TABLE = {
    spelt(spec.name).encode(): spec
    for spec in _SPECS
    for spelt in (str.upper, str.lower)
}
