"""Redis' commands for the connection and the server: ``PING``, ``HELLO``, ``INFO``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from contrib.kvstore.commands import Size
from contrib.kvstore.resp.glob import MAX_PATTERN, matcher
from contrib.kvstore.resp.plans import (
    SYNTAX,
    Plan,
    RefusedError,
    integer,
    miscounted,
    name,
)
from contrib.kvstore.resp.replies import OK, PROTOCOLS, Reply, Verbatim

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.defer import Deferred

    from contrib.kvstore.resp.session import Session

#: Which Redis the replies are those of.
VERSION = "7.0.15"

_MICROSECONDS = 1000

_MOST_PATTERNS = 20


def ping(_: Session, words: list[bytes]) -> Reply:
    """``PING [message]``."""
    if len(words) > 2:  # noqa: PLR2004 - PING and the message
        raise RefusedError(miscounted("ping"))
    return words[1] if len(words) > 1 else "PONG"


def echo(_: Session, words: list[bytes]) -> Reply:
    """``ECHO message``."""
    return words[1]


def select(_: Session, words: list[bytes]) -> Reply:
    """``SELECT 0``."""
    if integer(words[1]) != 0:
        raise RefusedError("ERR DB index is out of range")
    return OK


def time(session: Session, words: list[bytes]) -> Reply:
    """``TIME``: by the clock of the server that the client talks to."""
    del words
    seconds, milliseconds = divmod(session.port.date(), 1000)
    return [b"%d" % seconds, b"%d" % (milliseconds * _MICROSECONDS)]


def wait(session: Session, words: list[bytes]) -> Reply:
    """``WAIT numreplicas timeout``: a write is at a majority when it is answered."""
    integer(words[1])
    if integer(words[2], "ERR timeout is not an integer or out of range") < 0:
        raise RefusedError("ERR timeout is negative")
    return len(session.port.home.status().membership) // 2


def quit_(session: Session, words: list[bytes]) -> Reply:
    """``QUIT``."""
    del words
    session.is_closing = True
    return OK


def reset(session: Session, words: list[bytes]) -> Reply:
    """``RESET``: be as a new client."""
    del words
    session.reset()
    return "RESET"


def auth(session: Session, words: list[bytes]) -> Reply | Deferred[Reply]:
    """``AUTH [user] password``."""
    if len(words) > 3:  # noqa: PLR2004 - AUTH, user and password
        raise RefusedError(SYNTAX)
    has_users = session.port.home.gate is not None
    is_open = not (has_users or session.port.options.resp_password)
    if len(words) == 2 and is_open:  # noqa: PLR2004 - no user
        raise RefusedError(
            "ERR AUTH <password> called without any password configured for the"
            " default user. Are you sure your configuration is correct?"
        )
    user = words[1] if len(words) > 2 else None  # noqa: PLR2004 - likewise
    waiting = session.authenticate(user, words[-1])
    return OK if waiting is None else waiting.addCallback(lambda _: OK)


def hello(session: Session, words: list[bytes]) -> Reply | Deferred[Reply]:
    """``HELLO [2 | 3 [AUTH user password] [SETNAME name]]``."""
    protocol = session.protocol
    if len(words) > 1:
        complaint = "ERR Protocol version is not an integer or out of range"
        protocol = integer(words[1], complaint)
        if protocol not in PROTOCOLS:
            raise RefusedError("NOPROTO unsupported protocol version")
    chosen, rest = session.name, words[2:]
    who: tuple[bytes, bytes] | None = None
    while rest:
        match [rest[0].upper(), *rest[1:]]:
            case [b"AUTH", user, password, *rest]:
                who = user, password
            case [b"SETNAME", word, *rest]:
                chosen = _name(word)
            case _:
                message = f"ERR Syntax error in HELLO option '{name(rest[0])}'"
                raise RefusedError(message)
    waiting = None if who is None else session.authenticate(*who)
    if waiting is None:
        return _greet(session, protocol, chosen)
    return waiting.addCallback(lambda _: _greet(session, protocol, chosen))


def _greet(session: Session, protocol: int, chosen: bytes) -> Reply:
    """Speak *protocol* from now on; say who this is."""
    if not session.is_trusted:
        raise RefusedError(
            "NOAUTH HELLO must be called with the client already authenticated,"
            " otherwise the HELLO <proto> AUTH <user> <pass> option can be used to"
            " authenticate the client and select the RESP protocol version at the"
            " same time"
        )
    session.protocol, session.name = protocol, chosen
    return {
        b"server": b"redis",
        b"version": VERSION.encode(),
        b"proto": protocol,
        b"id": session.number,
        b"mode": b"standalone",
        b"role": b"master",
        b"modules": [],
    }


def _name(word: bytes) -> bytes:
    """Return *word* if a connection can be called so."""
    if any(not 32 < byte < 127 for byte in word):  # noqa: PLR2004 - ASCII that is seen
        raise RefusedError(
            "ERR Client names cannot contain spaces, newlines or special characters."
        )
    return word


# --- CLIENT -------------------------------------------------------------------


def client(session: Session, words: list[bytes]) -> Reply:
    """``CLIENT ID | GETNAME | SETNAME | SETINFO | INFO | LIST | NO-EVICT``."""
    return subcommand(session, words, _CLIENT)


def _client_id(session: Session, words: list[bytes]) -> Reply:
    del words
    return session.number


def _client_getname(session: Session, words: list[bytes]) -> Reply:
    del words
    return session.name or None


def _client_setname(session: Session, words: list[bytes]) -> Reply:
    session.name = _name(words[2])
    return OK


def _client_setinfo(session: Session, words: list[bytes]) -> Reply:
    option = words[2].upper()
    if option not in session.library:
        message = f"ERR Unrecognized option '{name(words[2])}'"
        raise RefusedError(message)
    if any(not 32 < byte < 127 for byte in words[3]):  # noqa: PLR2004 - ASCII that is seen
        message = (
            f"ERR {name(words[2])} cannot contain spaces, newlines or special"
            " characters."
        )
        raise RefusedError(message)
    session.library[option] = name(words[3])
    return OK


def _client_info(session: Session, words: list[bytes]) -> Reply:
    del words
    return Verbatim(describe(session) + "\n")


def _client_list(session: Session, words: list[bytes]) -> Reply:
    sessions = session.seen
    match [words[2].upper(), *words[3:]] if words[2:] else []:
        case []:
            pass
        case [b"TYPE", kind]:
            if kind.lower() not in {b"normal", b"master", b"replica", b"pubsub"}:
                message = f"ERR Unknown client type '{name(kind)}'"
                raise RefusedError(message)
            if kind.lower() != b"normal":
                sessions = []
        case [b"ID", _, *_]:
            wanted = {integer(word, "ERR Invalid client ID") for word in words[3:]}
            sessions = [each for each in sessions if each.number in wanted]
        case _:
            raise RefusedError(SYNTAX)
    return Verbatim("".join(describe(each) + "\n" for each in sessions))


def describe(session: Session) -> str:
    """Return *session* as a line of ``CLIENT LIST``."""
    now = session.port.home.clock.seconds()
    queued = -1 if session.queue is None else len(session.queue)
    return (
        f"id={session.number} addr={session.address} laddr={session.port.address}"
        f" name={name(session.name)} age={int(now - session.opened_at)}"
        f" idle={int(now - session.heard_at)} flags={'N' if queued < 0 else 'x'} db=0"
        f" sub=0 psub=0 ssub=0 multi={queued} watch={len(session.watched)}"
        f" cmd={session.last_command} user={session.user} resp={session.protocol}"
        f" lib-name={session.library[b'LIB-NAME']}"
        f" lib-ver={session.library[b'LIB-VER']}"
    )


def _client_switch(_: Session, words: list[bytes]) -> Reply:
    """Take what is about memory that we do not evict from."""
    if words[2].upper() not in {b"ON", b"OFF"}:
        raise RefusedError(SYNTAX)
    return OK


Subcommands = dict[bytes, tuple[int, "Callable[[Session, list[bytes]], Reply]"]]

_CLIENT: Subcommands = {
    b"ID": (2, _client_id),
    b"GETNAME": (2, _client_getname),
    b"SETNAME": (3, _client_setname),
    b"SETINFO": (4, _client_setinfo),
    b"INFO": (2, _client_info),
    b"LIST": (-2, _client_list),
    b"NO-EVICT": (3, _client_switch),
    b"NO-TOUCH": (3, _client_switch),
}


def subcommand(session: Session, words: list[bytes], known: Subcommands) -> Reply:
    """
    Do the one of *known* that *words* ask for.

    Raises:
        RefusedError: There is no such one, or it has more words, or fewer.
    """
    found = known.get(words[1].upper())
    command = name(words[0])
    if found is None:
        message = (
            f"ERR unknown subcommand '{name(words[1][:128])}'. Try"
            f" {command.upper()} HELP."
        )
        raise RefusedError(message)
    arity, run = found
    if len(words) != arity if arity > 0 else len(words) < -arity:
        raise RefusedError(miscounted(f"{command}|{name(words[1])}".lower()))
    return run(session, words)


# --- CONFIG ---------------------------------------------------------------------


def config(session: Session, words: list[bytes]) -> Reply:
    """``CONFIG GET pattern ...``: what programs look at before they begin."""
    return subcommand(session, words, _CONFIG)


def _config_get(session: Session, words: list[bytes]) -> Reply:
    options = session.port.options
    known = {
        b"appendonly": b"yes",
        b"appendfsync": b"always",
        b"databases": b"1",
        b"maxclients": b"%d" % options.resp_max_connections,
        b"maxmemory": b"0",
        b"maxmemory-policy": b"noeviction",
        b"proto-max-bulk-len": b"%d" % session.port.home.max_command_bytes,
        b"save": b"",
        b"timeout": b"%d" % int(options.resp_idle_timeout),
    }
    if len(words) > _MOST_PATTERNS or max(map(len, words)) > MAX_PATTERN:
        raise RefusedError("ERR these are too many patterns, or too long ones")
    wanted = [matcher(word.lower()) for word in words[2:]]
    return {
        key: value
        for key, value in known.items()
        if any(matches(key) for matches in wanted)
    }


def _config_set(_: Session, words: list[bytes]) -> Reply:
    message = (
        "ERR Unknown option or number of arguments for CONFIG SET -"
        f" '{name(words[2][:128])}'"
    )
    raise RefusedError(message)


_CONFIG: Subcommands = {b"GET": (-3, _config_get), b"SET": (-4, _config_set)}


# --- INFO -----------------------------------------------------------------------


def info(session: Session, words: list[bytes]) -> Plan:
    """``INFO [section ...]``."""
    wanted = {name(word).lower() for word in words[1:]}
    if not wanted or wanted & {"all", "everything", "default"}:
        wanted = set(_SECTIONS)

    def answer(count: int) -> Reply:
        parts = []
        for section, lines in _SECTIONS.items():
            if section in wanted:
                body = "".join(
                    f"{key}:{value}\r\n" for key, value in lines(session, count).items()
                )
                parts.append(f"# {section.capitalize()}\r\n{body}")
        return Verbatim("\r\n".join(parts))

    # Whoever asks wants to know of this server, leader or no leader.
    return Plan((Size(),), answer, writes=False, consistency="stale")


def _server(session: Session, _: int) -> dict[str, Any]:
    port = session.port
    return {
        "redis_version": VERSION,
        "redis_mode": "standalone",
        "server_name": port.home.name,
        "tcp_port": port.number,
        "uptime_in_seconds": int(port.home.clock.seconds() - port.started_at),
    }


def _clients(session: Session, _: int) -> dict[str, Any]:
    port = session.port
    return {
        "connected_clients": len(port.sessions()),
        "maxclients": port.options.resp_max_connections,
        "blocked_clients": 0,
    }


def _stats(session: Session, _: int) -> dict[str, Any]:
    port = session.port
    return {
        "total_connections_received": port.accepted,
        "total_commands_processed": port.commands,
        "rejected_connections": port.rejected,
    }


def _replication(session: Session, _: int) -> dict[str, Any]:
    # Whichever server one asks, it takes writes.
    others = len(session.port.home.status().membership) - 1
    return {"role": "master", "connected_slaves": others}


def _raft(session: Session, _: int) -> dict[str, Any]:
    status = session.port.home.status()
    return {
        "raft_server": status.server,
        "raft_cluster": status.cluster,
        "raft_role": status.role,
        "raft_leader": status.leader or "",
        "raft_term": status.term,
        "raft_commit_index": status.commit_index,
        "raft_last_applied": status.last_applied,
        "raft_voters": ",".join(sorted(status.membership)),
        "raft_learners": ",".join(sorted(status.learners)),
    }


def _keyspace(_: Session, count: int) -> dict[str, Any]:
    return {"db0": f"keys={count}"} if count else {}


_SECTIONS: dict[str, Callable[[Session, int], dict[str, Any]]] = {
    "server": _server,
    "clients": _clients,
    "stats": _stats,
    "replication": _replication,
    "raft": _raft,
    "keyspace": _keyspace,
}


# --- transactions, which the session has ------------------------------------------


def multi(session: Session, words: list[bytes]) -> Reply:
    """``MULTI``."""
    del words
    return session.begin()


def exec_(session: Session, words: list[bytes]) -> Reply | Deferred[Reply]:
    """``EXEC``."""
    del words
    return session.execute()


def discard(session: Session, words: list[bytes]) -> Reply:
    """``DISCARD``."""
    del words
    return session.discard()


def watch(session: Session, words: list[bytes]) -> Reply | Deferred[Reply]:
    """``WATCH key ...``."""
    return session.watch(words[1:])


def unwatch(session: Session, words: list[bytes]) -> Reply:
    """``UNWATCH``."""
    del words
    return session.unwatch()


def flush(session: Session, words: list[bytes]) -> Reply | Deferred[Reply]:
    """``FLUSHALL [ASYNC | SYNC]``."""
    if len(words) > 2 or (words[1:] and words[1].upper() not in {b"ASYNC", b"SYNC"}):  # noqa: PLR2004 - the command and one option
        raise RefusedError(SYNTAX)
    return session.flush()
