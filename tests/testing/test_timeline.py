"""The page that shows why a history is not linearizable."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from consensus.testing import timeline
from consensus.testing.linearizability import judge
from tests.support.histories import (
    PENDING,
    UNKNOWN,
    Cells,
    Row,
    add,
    get,
    recorded,
    set_,
)

ROWS: list[Row] = [
    ("<b>", 0, 1, set_("<i>&"), None),
    ("w", 2, 9, add(1, "y"), UNKNOWN),
    ("w", 2.5, 0, set_(3), PENDING),
    ("w", 4, 5, set_(4), None),
    ("r", 6, 7, get(), "<i>&"),
    ("r", 6.5, 8, get("y"), None),
]

#: Tags that have no end.
EMPTY = {"meta", "br"}


class Reader(HTMLParser):
    """Sees that a page is well-formed; keeps its elements and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep an element."""
        self.elements.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """End the one that is open."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keep text."""
        self.text += data

    def of(self, name: str) -> list[dict[str, str | None]]:
        """Return the elements of a class."""
        return [
            attributes
            for _, attributes in self.elements
            if name in (attributes.get("class") or "").split()
        ]


def page(*rows: Row) -> str:
    """Return the page for a history."""
    found = judge(recorded(*rows), Cells).contradiction
    assert found is not None
    return timeline.html(found)


def edges(element: dict[str, str | None]) -> tuple[float, float]:
    """Return where an element begins, and where it ends."""
    found = re.search(r"left:([\d.]+)rem;width:([\d.]+)rem", element["style"] or "")
    assert found is not None
    return float(found[1]), float(found[1]) + float(found[2])


class PageTests:
    """What a browser gets."""

    def test_is_complete(self) -> None:
        """It is well-formed, and asks for nothing else."""
        text = page(*ROWS)
        reader = Reader(text)
        tags = {tag for tag, _ in reader.elements}
        assert not tags & {"script", "link", "img", "iframe"}
        assert "http" not in text
        assert "@import" not in text
        assert "url(" not in text

    def test_escapes(self) -> None:
        """What is in commands and names is text."""
        reader = Reader(page(*ROWS))
        assert "<b>: write ['set', 'x', '<i>&'] -> None" in reader.text
        assert not {"b", "i"} & {tag for tag, _ in reader.elements}

    def test_can_be_read(self) -> None:
        """It has a dark mode, and the timeline can be scrolled with keys."""
        text = page(*ROWS)
        assert "prefers-color-scheme: dark" in text
        (scroll,) = Reader(text).of("scroll")
        assert scroll["tabindex"] == "0"
        assert scroll["aria-label"]

    def test_bars(self) -> None:
        """A lane a client, a bar a call; the one that breaks it stands out."""
        reader = Reader(page(*ROWS))
        assert len(reader.of("lane")) == 3
        needed = [
            bar for bar in reader.of("call") if "other" not in (bar["class"] or "")
        ]
        assert len(needed) == 3
        (broken,) = reader.of("broken")
        assert "! 6.000000 to 7.000000 r: read ['get', 'x'] -> '<i>&'" in (
            broken["title"] or ""
        )
        # It ends where the dashed lines are, and the others before.
        (line,) = {here["style"] for here in reader.of("here")}
        assert line == f"left:{edges(broken)[1]}rem"
        assert all(edges(bar)[1] <= edges(broken)[1] for bar in reader.of("call"))

    def test_order(self) -> None:
        """Calls that overlap do so on the page; others do not."""
        bars = {bar["title"]: edges(bar) for bar in Reader(page(*ROWS)).of("call")}
        begins = [edge for title, edge in bars.items() if "'<i>&'] " in (title or "")]
        wrote = [edge for title, edge in bars.items() if "'x', 4]" in (title or "")]
        assert begins[0][1] <= wrote[0][0]
        lost = [edge for title, edge in bars.items() if "'y', 1]" in (title or "")]
        assert lost[0][0] <= wrote[0][0] < wrote[0][1] <= lost[0][1]

    def test_says_what_would_be_right(self) -> None:
        """The order that there is, and the answers that it would allow."""
        reader = Reader(page(*ROWS))
        assert "right would have been 4 or 3" in reader.text
        assert "r: read ['get', 'x'] -> 4, but it was '<i>&'" in reader.text

    def test_overlapping_calls_of_a_client(self) -> None:
        """Calls of one client at once stand below each other."""
        rows: list[Row] = [
            ("a", 0, 9, set_(1), None),
            ("a", 1, 8, set_(2), None),
            ("a", 10, 11, get(), 1),
            ("a", 12, 13, get(), 2),
        ]
        reader = Reader(page(*rows))
        tops = {
            re.search(r"top:([\d.]+)rem", bar["style"] or "")[1]  # type: ignore[index]
            for bar in reader.of("call")
        }
        assert len(reader.of("lane")) == 1
        assert len(tops) == 2

    def test_many_others(self) -> None:
        """Of calls that make no difference, a bounded number is shown."""
        rows: list[Row] = [
            (f"u{number}", number, 0, add(1, "y"), PENDING) for number in range(500)
        ]
        reader = Reader(page(*rows, ("r", 600, 601, get(), 3)))
        assert len(reader.of("call")) == 61
        assert "500 more before its end make no difference" in reader.text


class TextTests:
    """The same, in a message."""

    def test_text(self) -> None:
        """It has the calls, an order, and what would have been right."""
        rows: list[Row] = [
            ("a", 0, 1, set_(1), None),
            ("b", 2, 3, get(stale=True, max_age=0.5), None),
            ("c", 2.5, 4, set_(2), UNKNOWN),
        ]
        found = judge(recorded(*rows), Cells).contradiction
        assert found is not None
        summary = (
            "2 calls contradict each other; 1 more before its end make no"
            " difference, whenever and whether they took effect:"
        )
        assert timeline.text(found).splitlines() == [
            summary,
            "    0.000000 to 1.000000 a: write ['set', 'x', 1] -> None",
            "  ! 2.000000 to 3.000000 b: stale read ['get', 'x'] -> None",
            "the longest order:",
            "  a: write ['set', 'x', 1] -> None",
            "  b: stale read ['get', 'x'] -> 1, but it was None",
            "right would have been 1 or 2",
        ]

    def test_one_call(self) -> None:
        """One call may be a contradiction in itself."""
        found = judge(recorded(("a", 0, 1, get(), 3)), Cells).contradiction
        assert found is not None
        assert timeline.text(found).startswith(
            "one call cannot have been answered as it was:\n"
        )
