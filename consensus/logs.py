"""
What is logged, and how: as text for people, or as JSON for programs.

Under ``twistd`` all goes through one :class:`Log`, which ``twistd`` itself
makes of :func:`of_twistd` before anything is logged; so nothing is lost, and
nothing there twice.  What it writes to is ``twistd``'s to say, with
``--logfile`` and ``--syslog``; what it writes is the config's, and can change.
"""

from __future__ import annotations

import json
import signal
import sys
from datetime import UTC, datetime
from functools import lru_cache
from io import TextIOWrapper
from string import Formatter
from time import time
from typing import TYPE_CHECKING, Any

from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogObserver,
    LegacyLogObserverWrapper,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
    formatEventAsClassicLogText,
)
from twisted.python.logfile import LogFile
from zope.interface import implementer

from consensus.clock import default_reactor
from consensus.settings.values import Logs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: A longer text is cut: a traceback of an endless recursion, for instance.
MOST_CHARACTERS = 32 * 1024


def as_json(event: dict[str, Any]) -> str:
    """
    Return *event* as a JSON object: one line, with its end.

    Of its fields there are those that its message shows, and all numbers:
    what a program may have added for itself, a command for instance, is not.
    """
    level, failure = event.get("log_level"), event.get("log_failure")
    line = {
        "time": _time(event.get("log_time")),
        "level": getattr(level, "name", "info"),
        "namespace": event.get("log_namespace") or event.get("system") or "-",
        "server": event.get("server"),
        "message": _shortened(formatEvent(event)),
        "fields": _fields(event),
    }
    if failure is not None:
        line["traceback"] = _shortened(failure.getTraceback())
    kept = {key: value for key, value in line.items() if value not in (None, {})}
    # In ASCII a line can be written to whatever the process got as its output.
    return json.dumps(kept) + "\n"


def as_text(event: dict[str, Any]) -> str | None:
    """Return *event* as ``twistd`` writes it, in characters that UTF-8 has."""
    line = formatEventAsClassicLogText(event)
    return line and line.encode(errors="backslashreplace").decode()


def _time(seconds: Any) -> str:
    moment = datetime.fromtimestamp(time() if seconds is None else seconds, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _fields(event: dict[str, Any]) -> dict[str, Any]:
    shown = _shown(str(event.get("log_format") or ""))
    return {
        key: _plain(value)
        for key, value in event.items()
        if (key in shown or isinstance(value, int | float))
        and not key.startswith("log_")
        and key not in _LEGACY
    }


#: What Twisted puts into every event for observers of the old kind.
_LEGACY = frozenset({"server", "system", "time", "isError", "message", "format"})


@lru_cache(maxsize=1024)
def _shown(text: str) -> frozenset[str]:
    """Return the names of the fields in the format *text*."""
    try:
        names = [name for _, name, _, _ in Formatter().parse(text) if name]
    except ValueError:
        return frozenset()
    return frozenset(name.partition(".")[0].partition("[")[0] for name in names)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        # JSON has no word for the others.
        return value if abs(value) < float("inf") else str(value)
    if isinstance(value, bytes | bytearray):
        return f"{len(value)} bytes"
    return _shortened(str(value))


def _shortened(text: str) -> str:
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[:MOST_CHARACTERS]}… ({len(text)} characters)"


@implementer(ILogObserver)
class Log:
    """
    Writes what is logged, as :class:`Logs` says, which may change.

    Args:
        logs: How.
        made: Returns what writes ``text``, or ``json``.
    """

    def __init__(self, logs: Logs, made: Callable[[str], Any]) -> None:
        self._made = made
        self.adopt(logs)

    def adopt(self, logs: Logs) -> None:
        """Log as *logs* says from now on."""
        predicate: Any = LogLevelFilterPredicate(LogLevel.levelWithName(logs.level))
        for namespace, level in logs.levels.items():
            predicate.setLogLevelForNamespace(namespace, LogLevel.levelWithName(level))
        observer = self._made(logs.format)
        self._observe = FilteringLogObserver(observer, [predicate])

    def __call__(self, event: dict[str, Any]) -> None:
        """Write *event*, if it is wanted."""
        self._observe(event)


class _Twistd:
    """What is known of the process that ``twistd`` runs."""

    def __init__(self) -> None:
        self.options: Mapping[str, Any] = {}
        self.logs = Logs()
        self.log: Log | None = None


_twistd = _Twistd()


def ask_twistd(options: Any) -> None:
    """Have ``twistd`` with *options* log through :func:`of_twistd`."""
    if options.get("logger") is None:
        # It looks up the name when it has parsed everything.
        options["logger"] = f"{__name__}.{of_twistd.__name__}"
        _twistd.options = options


def adopt(logs: Logs) -> None:
    """Let this process log as *logs* says, if it is ``twistd``'s."""
    _twistd.logs = logs
    if _twistd.log is not None:
        _twistd.log.adopt(logs)


def of_twistd() -> Log:
    """Return what ``twistd`` is to log through, as its options say."""
    options = _twistd.options
    if options.get("syslog"):
        log = _to_syslog(str(options.get("prefix", "")))
    else:
        name = str(options.get("logfile") or "")
        log = _to_file(name, is_foreground=bool(options.get("nodaemon")))
    _twistd.log = log
    return log


def _to_syslog(prefix: str) -> Log:
    import syslog  # noqa: PLC0415 - there is none on some systems

    from twisted.python.syslog import SyslogObserver  # noqa: PLC0415 - likewise

    for_people: Any = SyslogObserver(prefix)

    def for_programs(event: dict[str, Any]) -> None:
        is_bad = event.get("log_level") in {LogLevel.error, LogLevel.critical}
        priority = syslog.LOG_ALERT if is_bad else syslog.LOG_INFO
        syslog.syslog(priority, as_json(event).rstrip())

    texts = LegacyLogObserverWrapper(for_people.emit)
    return Log(_twistd.logs, lambda name: for_programs if name == "json" else texts)


def _to_file(name: str, *, is_foreground: bool) -> Log:
    """Log where ``twistd`` would, and turn to a new file as it does."""
    if name == "-" and not is_foreground:
        raise SystemExit("twistd: daemons cannot log to stdout")
    if is_foreground and name in {"", "-"}:
        file: Any = sys.stdout
        if isinstance(file, TextIOWrapper):
            # A locale may lack characters; a line is not lost for that.
            file.reconfigure(errors="backslashreplace")
    else:
        try:
            file = LogFile.fromFullPath(name or "twistd.log")
        except OSError as error:
            message = f"twistd: cannot log to {name or 'twistd.log'}: {error.strerror}"
            raise SystemExit(message) from None
        _rotate_on_signal(file)
    forms: dict[str, Any] = {"json": as_json, "text": as_text}
    return Log(_twistd.logs, lambda name: FileLogObserver(file, forms[name]))


def _rotate_on_signal(file: Any) -> None:
    """Turn to a new file on SIGUSR1, unless somebody has another use for it."""
    if signal.getsignal(signal.SIGUSR1):
        return

    def rotate(*_: Any) -> None:
        default_reactor().callFromThread(file.rotate)

    signal.signal(signal.SIGUSR1, rotate)
