"""Who has failed to log in has to wait before the next attempt, more each time."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

# So many mistakes cost nothing; each one after them doubles the wait.
_FREE = 3
_LONGEST = 30.0

# After so many seconds without another one they are forgotten.
_MEMORY = 600.0

_MOST_HOSTS = 1000


@dataclass(slots=True)
class _Record:
    """What is known of a host."""

    count: int = 0
    at: float = 0.0


class Throttle:
    """The hosts from which logins have failed; the oldest of too many are forgotten."""

    def __init__(self) -> None:
        self._records: OrderedDict[str, _Record] = OrderedDict()

    def wait(self, host: str, now: float) -> float:
        """Return for how many seconds nobody at *host* may try."""
        record = self._records.get(host)
        if record is None or record.count < _FREE:
            return 0.0
        pause: float = min(_LONGEST, 2.0 ** min(record.count - _FREE, 10))
        return max(0.0, record.at + pause - now)

    def failed(self, host: str, now: float) -> None:
        """Note that a login from *host* has failed."""
        record = self._records.pop(host, None)
        if record is None or now - record.at > _MEMORY:
            record = _Record()
        record.count, record.at = record.count + 1, now
        self._records[host] = record
        if len(self._records) > _MOST_HOSTS:
            self._records.popitem(last=False)
