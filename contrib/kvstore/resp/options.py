"""What the YAML file may say of the Redis port, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from consensus.addresses import check_address, is_private
from consensus.errors import Finding

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from consensus.core.values import Address, ServerId

_PATH = "state_machine.options.resp"

_IDS = ("kvstore.E001", "kvstore.E002")


@dataclass(frozen=True, slots=True, kw_only=True)
class RespOptions:
    """
    What the YAML file may set for the Redis port.

    Args:
        resp: Where Redis' clients find it: an endpoint, or one for each member;
            empty for nowhere.
        resp_password: What clients have to say first; empty for nothing.
        resp_reads: How they read; see :data:`.Consistency`.
        resp_insecure: Listen where other machines can reach it, though what is
            said there can be read and changed on the way.
        resp_tls: Encrypt what is said there, with the files of the config's tls.
        resp_max_connections: So many clients at once.
        resp_idle_timeout: Seconds after which a client that says nothing is
            let go; 0 for never.
    """

    resp: str | dict[str, str] = ""
    resp_password: str = ""
    resp_reads: Literal["linearizable", "lease", "follower", "stale"] = "linearizable"
    resp_insecure: bool = False
    resp_tls: bool = False
    resp_max_connections: int = 1000
    resp_idle_timeout: float = 0.0

    def resp_address(self, name: ServerId) -> Address:
        """Return where *name* listens for Redis' clients; empty for nowhere."""
        if isinstance(self.resp, str):
            return self.resp
        return self.resp.get(name, "")


def check(
    options: RespOptions,
    members: Mapping[ServerId, Address],
    serve: Collection[ServerId],
) -> Iterator[Finding]:
    """Yield what speaks against the port that *options* describe."""
    if options.resp_max_connections < 1:
        message = f"{options.resp_max_connections} is out of range"
        hint = "write a number above 0; the default is 1000"
        yield Finding("kvstore.E005", message, hint, f"{_PATH}_max_connections")
    if not 0 <= options.resp_idle_timeout < float("inf"):
        message = f"{options.resp_idle_timeout} is out of range"
        hint = "write a number of seconds, or 0 for no end"
        yield Finding("kvstore.E005", message, hint, f"{_PATH}_idle_timeout")
    if not options.resp:
        return
    is_mapping = isinstance(options.resp, dict)
    taken: dict[Address, ServerId] = {}
    for name in dict.fromkeys([*serve, *(options.resp if is_mapping else ())]):
        path = f"{_PATH}.{name}" if is_mapping else _PATH
        address = options.resp_address(name)
        if is_mapping and name not in members:
            message = f"{name!r} is not among the members"
            yield Finding("kvstore.E003", message, "leave it out", path)
        elif not address:
            message = f"{name} has no address for Redis' clients"
            hint = "write one, as tcp:127.0.0.1:6379, or they cannot ask this server"
            yield Finding("kvstore.W001", message, hint, _PATH)
        elif address in members.values():
            message = f"{address!r} is where servers listen to one another"
            yield Finding("kvstore.E003", message, "write another port", path)
        elif taken.setdefault(address, name) != name:
            message = f"{address!r} is the address of {taken[address]} already"
            hint = "give each member its own: write resp: {s1: …, s2: …}"
            yield Finding("kvstore.E003", message, hint, path)
        else:
            yield from check_address(path, address, _IDS, is_served=name in serve)
            yield from _check_reach(options, address, path)


def _check_reach(
    options: RespOptions, address: Address, path: str
) -> Iterator[Finding]:
    if options.resp_insecure or options.resp_tls or is_private(address):
        return
    yield Finding(
        "kvstore.E004",
        f"{address!r} can be reached from other machines, and neither what is said"
        " there nor the password is encrypted",
        "listen on tcp:127.0.0.1:PORT or a unix: path, add tls: to the config and"
        " resp_tls: true here, or write resp_insecure: true if the network is your"
        " own",
        path,
    )
