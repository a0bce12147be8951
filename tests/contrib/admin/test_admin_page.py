"""The console's files, and what a browser is told about them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from twisted.web.resource import Resource

from contrib.admin.page import assets, console
from tests.support.visits import Visitor

STATIC = Path(__file__).parents[3] / "contrib" / "admin" / "static"

SCRIPTS = sorted(path.name for path in STATIC.glob("*.js"))

#: Ways to make HTML, or code, of text.
UNSAFE = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(|Function\("
    r"|setTimeout\(\s*[\"'`]|localStorage|sessionStorage|document\.cookie"
)


def visitor() -> Visitor:
    """Return somebody who looks at a console."""
    home: Any = None  # it is the same beside any server
    root = Resource()
    page: Any = console(home)
    root.putChild(b"console", page)
    return Visitor(root, lambda is_so: None if is_so() else pytest.fail("no answer"))


class ConsoleTests:
    """What is served."""

    def test_page(self) -> None:
        """The page runs its own scripts only, and nobody may frame it."""
        answer = visitor().get("/console/")
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert b"<title>Raft console</title>" in answer.body
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "deny"
        assert answer.headers["referrer-policy"] == "no-referrer"

    def test_slash(self) -> None:
        """Without the slash, which the page's links need, it leads to the page."""
        answer = visitor().get("/console")
        assert answer.status == 302
        assert answer.headers["location"] == "console/"

    @pytest.mark.parametrize("name", sorted(path.name for path in STATIC.iterdir()))
    def test_files(self, name: str) -> None:
        """Every file is served as what it is."""
        answer = visitor().get(f"/console/{name}")
        assert answer.body == (STATIC / name).read_bytes()
        kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
        wanted = kinds.get(name.partition(".")[2], "text/html")
        assert answer.headers["content-type"].partition(";")[0] == wanted
        assert answer.headers["content-security-policy"]

    def test_unchanged(self) -> None:
        """What the browser has already is not sent again."""
        tag = assets()[b"main.js"].etag.decode()
        answer = visitor().get("/console/main.js", If_None_Match=tag)
        assert (answer.status, answer.body) == (304, b"")

    @pytest.mark.parametrize(
        "path", ["/console/no.js", "/console/../page.py", "/console/%2e%2e/page.py"]
    )
    def test_nothing_else(self, path: str) -> None:
        """There are no other files."""
        assert visitor().get(path).status == 404


class SourceTests:
    """What the sources may not do."""

    @pytest.mark.parametrize("name", SCRIPTS)
    def test_scripts(self, name: str) -> None:
        """No text becomes HTML or code, and nothing outlives the page."""
        assert UNSAFE.findall((STATIC / name).read_text()) == []

    @pytest.mark.parametrize("name", sorted(path.name for path in STATIC.iterdir()))
    def test_nothing_from_elsewhere(self, name: str) -> None:
        """No file names another host: the console works offline."""
        text = (STATIC / name).read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text
        assert "https:" not in text
        assert 'src="//' not in text

    def test_no_inline_code(self) -> None:
        """The page has no script, style or event attribute of its own."""
        text = (STATIC / "index.html").read_text()
        assert re.findall(r"<script(?![^>]* src=)|<style|\son\w+=|\sstyle=", text) == []
