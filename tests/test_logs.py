"""What a log line says, as JSON, and which there are."""

from __future__ import annotations

import json
from typing import Any

from twisted.logger import Logger, LogLevel, LogPublisher
from twisted.python.failure import Failure

from consensus.logs import MOST_CHARACTERS, Log, as_json, as_text
from consensus.settings.values import Logs


def logged(act: Any, logs: Logs | None = None) -> list[dict[str, Any]]:
    """Return what *act* logs with the logger that it is given."""
    lines: list[str] = []
    log: Any = Log(logs or Logs(), lambda _: lambda event: lines.append(as_json(event)))
    publisher: Any = LogPublisher(log)
    act(Logger("consensus.somewhere", observer=publisher))
    assert all(line.endswith("\n") and line.count("\n") == 1 for line in lines)
    return [json.loads(line) for line in lines]


class JSONTests:
    """One event, one line."""

    def test_fields(self) -> None:
        """A line has what its message shows, numbers besides, and nothing else."""
        (line,) = logged(
            lambda out: out.info(
                "{server} has {what} of {count:d} at {at!r}",
                server="s1",
                what="enough",
                count=3,
                at=(1, 2),
                more=0.5,
                command="s3cret",
                payload=b"s3cret",
            )
        )
        assert line.pop("time").endswith("Z")
        assert line == {
            "level": "info",
            "namespace": "consensus.somewhere",
            "server": "s1",
            "message": "s1 has enough of 3 at (1, 2)",
            "fields": {"what": "enough", "count": 3, "at": "(1, 2)", "more": 0.5},
        }

    def test_odd(self) -> None:
        """Line ends, bytes and numbers that JSON lacks do not break a line."""
        (line,) = logged(
            lambda out: out.warn(
                "{a} {b} {c} {d}", a="x\ny", b=b"bytes", c=float("nan"), d=None
            )
        )
        assert line["message"] == "x\ny b'bytes' nan None"
        assert line["fields"] == {"a": "x\ny", "b": "5 bytes", "c": "nan", "d": None}

    def test_ascii(self) -> None:
        """A line can be written in any encoding, and means the same."""
        line = as_json({"log_format": "{a}", "a": "\u20ac \udcff"})
        assert line.isascii()
        assert json.loads(line)["message"] == "\u20ac \udcff"

    def test_text(self) -> None:
        """Nor is a line of text lost for a name that is not UTF-8."""
        line = as_text({"log_format": "{a}", "a": "\u20ac \udcff", "log_time": 0.0})
        assert line is not None
        assert line.endswith("\u20ac \\udcff\n")

    def test_traceback(self) -> None:
        """A failure has its traceback in the same line."""

        def fail(log: Logger) -> None:
            log.failure("it failed", Failure(KeyError("missing")))

        (line,) = logged(fail)
        assert line["level"] == "critical"
        assert line["message"] == "it failed"
        assert "KeyError: 'missing'" in line["traceback"]

    def test_long(self) -> None:
        """A message without end is cut."""
        (line,) = logged(lambda out: out.info("{text}", text="x" * 1_000_000))
        assert len(line["message"]) < MOST_CHARACTERS + 100
        assert line["message"].endswith("(1000000 characters)")

    def test_bad_format(self) -> None:
        """A message that cannot be made is a line all the same."""
        (line,) = logged(lambda out: out.info("{", x=1))
        assert "{" in line["message"]


class LevelTests:
    """Which events are logged."""

    @staticmethod
    def say(log: Logger) -> None:
        """Log something of each level."""
        for level in LogLevel.iterconstants():
            log.emit(level, "words")

    def test_levels(self) -> None:
        """Those of the level and above; a namespace may have its own."""
        assert len(logged(self.say)) == 4
        assert len(logged(self.say, Logs(level="error"))) == 2
        for name in ("consensus", "consensus.somewhere"):
            logs = Logs(level="error", levels={name: "debug"})
            assert len(logged(self.say, logs)) == 5
        logs = Logs(level="error", levels={"consensus.some": "debug"})
        assert len(logged(self.say, logs)) == 2

    def test_adopt(self) -> None:
        """They change while the process runs."""
        lines: list[str] = []
        log: Any = Log(Logs(), lambda name: lambda _: lines.append(name))
        logger = Logger("n", observer=log)
        logger.debug("unheard")
        log.adopt(Logs(level="debug", format="json"))
        logger.debug("heard")
        assert lines == ["json"]
