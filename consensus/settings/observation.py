"""What the config says of logs and traces."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from consensus.settings.values import Logs, Tracing

if TYPE_CHECKING:
    from consensus.settings.document import Filler, Value


def read_logs(value: Value | None, filler: Filler) -> Logs | None:
    """Return what is logged, and how; ``None`` after a finding."""
    if value is None:
        return Logs()
    logs: Logs | None = filler.fill(Logs, value)
    return logs


def read_tracing(value: Value | None, filler: Filler) -> Tracing | None:
    """Return which writes are traced; ``None`` if none are, or after a finding."""
    if value is None or value.content is False:
        return None
    if not isinstance(value.content, dict):
        hint = "name an endpoint below it, or write false"
        filler.expected("a mapping, or false", value, hint)
        return None
    tracing: Tracing | None = filler.fill(Tracing, value)
    if tracing is None:
        return None
    if not 0 < tracing.sample <= 1:
        filler.complain(
            "config.E013",
            f"{tracing.sample} is out of range",
            "write a part from above 0 to 1; the default is 0.01",
            value.content["sample"],
        )
    if not _is_http(tracing.endpoint):
        filler.complain(
            "config.E006",
            f"{tracing.endpoint!r} is no HTTP address",
            "write it as http://127.0.0.1:4318/v1/traces",
            value.content["endpoint"],
        )
    return tracing


def _is_http(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        return False
