"""
A config that is read again while its servers run.

What can change, changes in all servers of the process in one turn of the
reactor; of the rest a log line says that it needs a restart.  If anything is
wrong with the file, everything stays as it was.

Timing needs care.  A lease rests on every member having the same election
timeout, and on pledges that are counted in ticks: where one could be trusted
in, the timeout and what ticks are made of stay.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger

from consensus import checks
from consensus.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from consensus.config import Config

_log = Logger()

#: The keys whose parts may change one by one.
_PARTS = ("timing", "limits", "snapshots", "log")

#: The keys that may change as a whole.
_WHOLES = ("preferred_leaders", "digest_every", "forward")

# Where a config is from, and not what it says.
_NOT_SAID = ("source", "lines")

#: What a lease rests on.
_PACE = ("heartbeat_interval", "election_timeout")


@dataclass(frozen=True, slots=True)
class Reload:
    """
    What comes of reading a config again.

    Args:
        config: What counts from now on.
        changed: What is another than before: key, before, now.
        kept: Keys that are another in the file, and why they stay.
    """

    config: Config
    changed: list[tuple[str, Any, Any]]
    kept: list[tuple[str, str]]


def merge(running: Config, fresh: Config, *, is_pledged: bool = False) -> Reload:
    """
    Return *running* with what may change as *fresh* has it.

    Args:
        running: What counts now.
        fresh: What the file says.
        is_pledged: The leader of one of the servers may trust in a lease.
    """
    kept = [(key, _RESTART) for key in _fixed(running, fresh)]
    wanted: dict[str, Any] = {key: getattr(fresh, key) for key in (*_PARTS, *_WHOLES)}
    held = _held(running, fresh, is_pledged=is_pledged)
    if held:
        before = {name: getattr(running.timing, name) for name in _PACE}
        wanted["timing"] = replace(fresh.timing, **before)
        kept += held
    config = replace(running, **wanted, lines=fresh.lines)
    return Reload(config, list(_differences(running, config)), kept)


_RESTART = "it changes with a restart only"
_LEASE = (
    "leases rest on it (reads.lease): stop all members, and start them with the same"
)
_PLEDGE = "the leader may trust in a lease, for which it must not become shorter"


def _fixed(running: Config, fresh: Config) -> Iterator[str]:
    """Yield the keys that differ and cannot change."""
    for each in fields(running):
        name = each.name
        if name in (*_PARTS, *_WHOLES, *_NOT_SAID):
            continue
        if getattr(running, name) != getattr(fresh, name):
            yield name


def _held(running: Config, fresh: Config, *, is_pledged: bool) -> list[tuple[str, str]]:
    """Return what of the pace may not change because of leases."""
    differ = [
        name
        for name in _PACE
        if getattr(running.timing, name) != getattr(fresh.timing, name)
    ]
    is_shorter = fresh.timing.election_timeout < running.timing.election_timeout
    if running.reads.lease:
        reason = _LEASE
    elif is_pledged and is_shorter:
        reason = _PLEDGE
    else:
        return []
    return [(f"timing.{name}", reason) for name in differ]


def _differences(before: Config, after: Config) -> Iterator[tuple[str, Any, Any]]:
    for key in _PARTS:
        old, new = getattr(before, key), getattr(after, key)
        for each in fields(old):
            pair = getattr(old, each.name), getattr(new, each.name)
            if pair[0] != pair[1]:
                yield f"{key}.{each.name}", *pair
    for key in _WHOLES:
        pair = getattr(before, key), getattr(after, key)
        if pair[0] != pair[1]:
            yield key, *pair


def read_again(
    running: Config,
    load: Callable[[], Config],
    servers: Iterable[Any],
    adopt_logs: Callable[[Any], None],
) -> Config:
    """
    Read the config anew, and let *servers* go on as it says.

    Args:
        running: What counts now.
        load: Reads the file.
        servers: The servers of this process.
        adopt_logs: Called with what the config says of logs.

    Returns:
        What counts from now on: *running*, if anything is wrong.
    """
    try:
        fresh = load()
        findings = checks.of_running(fresh)
        wrong = [each for each in findings if not each.is_warning]
        if wrong:
            raise ConfigError(wrong)  # noqa: TRY301 - refused like the rest
    except ConfigError as error:
        for each in error.findings:
            _log.error("{finding}", finding=checks.render(each, running.source))
        _log.error(
            "the config {source} is wrong; everything stays as it was",
            source=running.source,
        )
        return running
    for each in findings:
        _log.warn("{finding}", finding=checks.render(each, running.source))
    ours = list(servers)
    done = merge(running, fresh, is_pledged=any(each.is_pledged for each in ours))
    adopt_logs(done.config.log)
    for server in ours:
        _hand_on(server, done.config)
    _say(done)
    return done.config


def _hand_on(server: Any, config: Config) -> None:
    """Let *server* go on as *config* says, as soon as it has started."""
    # One that has failed, and said so, needs no config any more.
    server.when_started().addCallbacks(
        lambda _: server.reconfigure(config), lambda _: None
    ).addErrback(
        lambda failure: _log.failure(
            "{server} cannot go on with the new config", failure, server=server.name
        )
    )


def _say(done: Reload) -> None:
    for key, before, now in done.changed:
        _log.info(
            "{key} is {now} now, and was {before}", key=key, before=before, now=now
        )
    for key, reason in done.kept:
        _log.warn("{key} stays as it was: {reason}", key=key, reason=reason)
    if done.config.tls is not None:
        _log.info("the files of tls are good, and new connections use them")
    _log.info(
        "the config {source} was read again: {changed} changed, {kept} stayed",
        source=done.config.source,
        changed=len(done.changed),
        kept=len(done.kept),
    )
