"""
Shows a contradiction to people: as text, and as a page of HTML.

The page needs nothing but itself: no network, no script.  Time goes from left
to right, an event a column, since what matters is the order of events.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from consensus.testing.contradiction import Contradiction
    from consensus.testing.operations import Operation

#: Of the calls that are not needed, so many are shown.
_MOST_OTHERS = 60

_COLUMN_REM = 4.5
_ROW_REM = 2.6

_STYLE = """
:root { color-scheme: light dark; --page: #fdfdfc; --ink: #1d1f21;
  --line: #8a8f98; --bar: #cfe3fb; --faint: #ececea; --broken: #ffd0cc;
  --edge: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --page: #17191c; --ink: #e8e8e6;
  --line: #767c86; --bar: #1f3f63; --faint: #2a2d31; --broken: #5c1f1b;
  --edge: #ff8a80; } }
body { margin: 2rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
.scroll { overflow-x: auto; border: 1px solid var(--line); }
.scroll:focus-visible { outline: 3px solid var(--edge); }
.lane { position: relative; border-bottom: 1px solid var(--line); }
.lane:last-child { border-bottom: 0; }
.name { position: sticky; left: 0; width: 7rem; padding: .5rem; z-index: 1;
  box-sizing: border-box; height: 100%; overflow: hidden;
  text-overflow: ellipsis; background: var(--page);
  border-right: 1px solid var(--line); font-weight: 600; }
.call { position: absolute; box-sizing: border-box; height: 2.1rem;
  padding: .3rem .4rem; overflow: hidden; white-space: nowrap;
  text-overflow: ellipsis; border: 1px solid var(--line); border-radius: .3rem;
  background: var(--bar); font: .85rem/1.5 ui-monospace, monospace; }
.other { background: var(--faint); border-style: dotted; }
.open { border-right: 0; border-radius: .3rem 0 0 .3rem; }
.broken { background: var(--broken); border: 2px solid var(--edge); }
.here { position: absolute; top: 0; bottom: 0; width: 0;
  border-left: 2px dashed var(--edge); }
code { font: .9rem ui-monospace, monospace; }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Not linearizable</title>
<style>{style}</style>
</head>
<body>
<h1>Not linearizable</h1>
<p>{summary}</p>
<div class="scroll" tabindex="0" role="region" aria-label="Timeline">
<div style="width:{width}rem">
{lanes}
</div>
</div>
<p>A bar is a call, from its invocation to its return; an event takes a column.
A bar without a right end did not return, or its return does not matter. The
dashed line is the return that no order gets past. Dotted calls
make no difference, whenever and whether they took effect.</p>
<h2>The calls</h2>
<ol>
{calls}
</ol>
<h2>The longest order</h2>
<p>Up to there, the machine could have been called like this:</p>
<ol>
{order}
</ol>
<p>{verdict}</p>
</body>
</html>
"""


def text(found: Contradiction) -> str:
    """Return *found* as lines of text."""
    lines = [_summary(found)]
    lines += [f"  {_line(found, operation)}" for operation in found.operations]
    lines.append("the longest order:")
    lines += [f"  {each}" for each in _order(found)]
    lines.append(_verdict(found))
    return "\n".join(lines)


def html(found: Contradiction) -> str:
    """Return *found* as a page of HTML."""
    columns = _Columns(found)
    return _PAGE.format(
        style=_STYLE,
        summary=escape(_summary(found)),
        width=columns.left(columns.count) + 1,
        lanes="\n".join(_lanes(found, columns)),
        calls=_items(_line(found, each) for each in found.operations),
        order=_items(_order(found)),
        verdict=escape(_verdict(found)),
    )


def _items(lines: Iterable[str]) -> str:
    return "\n".join(f"<li><code>{escape(line)}</code></li>" for line in lines)


def _summary(found: Contradiction) -> str:
    count = len(found.operations)
    what = f"of {found.part!r} " if found.part is not None else ""
    those = f"{count} calls {what}contradict each other"
    if count == 1:
        those = f"one call {what}cannot have been answered as it was"
    if not found.others:
        return f"{those}:"
    return (
        f"{those}; {len(found.others)} more before its end make no difference,"
        " whenever and whether they took effect:"
    )


def _line(found: Contradiction, operation: Operation) -> str:
    mark = "!" if operation is found.breaks else " "
    ended = "" if operation.ended is None else f"{operation.ended:.6f}"
    return (
        f"{mark} {operation.began:.6f} to {ended} {operation.client}:"
        f" {_call(operation)} -> {_answer(operation)}"
    )


def _call(operation: Operation) -> str:
    kind = "write" if operation.is_write else "read"
    if getattr(operation.call, "stale", False):
        kind = "stale read"
    return f"{kind} {operation.call.body!r}"


def _answer(operation: Operation) -> str:
    if operation.answer is None:
        return operation.outcome
    return operation.answer.text(operation.machine)


def _order(found: Contradiction) -> list[str]:
    lines = []
    for operation, answer in found.order:
        said = f"{operation.client}: {_call(operation)}"
        if operation is found.breaks:
            lines.append(f"{said} -> {answer}, but it was {_answer(operation)}")
        elif operation.outcome == "returned":
            lines.append(f"{said} -> {answer}")
        else:
            lines.append(f"{said}, whose outcome is unknown")
    return lines or ["not found in time"]


def _verdict(found: Contradiction) -> str:
    if not found.instead:
        return "what the last answer should have been was not found in time"
    return f"right would have been {' or '.join(found.instead)}"


class _Bar(NamedTuple):
    """
    A call on the page.

    Args:
        operation: The call.
        first: The column that it begins in.
        last: And that in which it ends; the last of all if it does not.
        is_open: Is its end not shown?
        is_other: Is it not needed?
    """

    operation: Operation
    first: int
    last: int
    is_open: bool
    is_other: bool


class _Columns:
    """
    Where the events of a contradiction are on the page.

    Args:
        found: The contradiction.
    """

    def __init__(self, found: Contradiction) -> None:
        self._end = found.breaks.finish or 0
        first = min(operation.start for operation in found.operations)
        near = [
            each for each in found.others if each.finish is None or each.finish > first
        ]
        self._others = near[-_MOST_OTHERS:]
        self._needed = found.operations
        shown = [*self._needed, *self._others]
        events = {operation.start for operation in shown}
        events |= {
            each.finish
            for each in shown
            if each.finish is not None and each.finish <= self._end
        }
        self._places = {event: place for place, event in enumerate(sorted(events))}
        #: How many there are.
        self.count = len(events)

    def left(self, column: int) -> float:
        """Return where *column* begins, in rem."""
        return 7.5 + column * _COLUMN_REM

    def bars(self) -> list[_Bar]:
        """Return the calls, in the order of their invocation."""
        bars = [self._bar(each, is_other=False) for each in self._needed]
        bars += [self._bar(each, is_other=True) for each in self._others]
        return sorted(bars, key=lambda bar: bar.first)

    def _bar(self, operation: Operation, *, is_other: bool) -> _Bar:
        finish = operation.finish
        is_open = (
            finish is None or finish > self._end or operation.outcome != "returned"
        )
        last = self.count - 1 if is_open else self._places[finish or 0]
        return _Bar(operation, self._places[operation.start], last, is_open, is_other)


def _lanes(found: Contradiction, columns: _Columns) -> list[str]:
    lanes: dict[str, list[_Bar]] = {}
    for bar in columns.bars():
        lanes.setdefault(bar.operation.client, []).append(bar)
    place = columns.left(columns.count)
    return [
        _lane(found, columns, client, bars, place)
        for client, bars in sorted(lanes.items())
    ]


def _lane(
    found: Contradiction,
    columns: _Columns,
    client: str,
    bars: Sequence[_Bar],
    end: float,
) -> str:
    rows: list[int] = []
    parts = []
    for bar in bars:
        # Calls of one client that overlap stand below each other.
        row = next((i for i, last in enumerate(rows) if last < bar.first), len(rows))
        rows[row : row + 1] = [bar.last]
        parts.append(_call_html(found, columns, bar, row))
    height = len(rows) * _ROW_REM
    return (
        f'<div class="lane" style="height:{height}rem">'
        f'<div class="name">{escape(client)}</div>{"".join(parts)}'
        f'<div class="here" style="left:{end}rem"></div></div>'
    )


def _call_html(found: Contradiction, columns: _Columns, bar: _Bar, row: int) -> str:
    operation = bar.operation
    kinds = ["call"]
    kinds += ["other"] if bar.is_other else []
    kinds += ["open"] if bar.is_open else []
    kinds += ["broken"] if operation is found.breaks else []
    left = columns.left(bar.first)
    width = columns.left(bar.last + 1) - left
    said = f"{_call(operation)} → {_answer(operation)}"
    return (
        f'<div class="{" ".join(kinds)}" title="{escape(_line(found, operation))}"'
        f' style="left:{left}rem;width:{width}rem;top:{row * _ROW_REM + 0.25}rem">'
        f"{escape(said)}</div>"
    )
