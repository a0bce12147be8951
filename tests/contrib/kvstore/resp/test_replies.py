"""Tests of contrib.kvstore.resp.replies."""

from __future__ import annotations

from typing import Any

import pytest

from contrib.kvstore.resp.replies import NO_LIST, Error, Verbatim, encode


class EncodeTests:
    """What each kind of reply is on the wire."""

    @pytest.mark.parametrize(
        ("reply", "second", "third"),
        [
            ("OK", b"+OK\r\n", None),
            (b"a\r\nb", b"$4\r\na\r\nb\r\n", None),
            (b"", b"$0\r\n\r\n", None),
            (-5, b":-5\r\n", None),
            (None, b"$-1\r\n", b"_\r\n"),
            (NO_LIST, b"*-1\r\n", b"_\r\n"),
            ([], b"*0\r\n", None),
            ([b"a", [1]], b"*2\r\n$1\r\na\r\n*1\r\n:1\r\n", None),
            ({b"a": 1}, b"*2\r\n$1\r\na\r\n:1\r\n", b"%1\r\n$1\r\na\r\n:1\r\n"),
            (
                frozenset({"b", "a"}),
                b"*2\r\n+a\r\n+b\r\n",
                b"~2\r\n+a\r\n+b\r\n",
            ),
            (Verbatim("hé"), b"$3\r\nh\xc3\xa9\r\n", b"=7\r\ntxt:h\xc3\xa9\r\n"),
            (Error("ERR no"), b"-ERR no\r\n", None),
        ],
    )
    def test_kinds(self, reply: Any, second: bytes, third: bytes | None) -> None:
        assert encode(reply, 2) == second
        assert encode(reply, 3) == (second if third is None else third)

    def test_a_line_stays_one(self) -> None:
        """What a client has sent comes back in errors."""
        assert encode(Error("ERR a\r\n+OK\nb\ud800"), 2) == b"-ERR a  +OK b\\ud800\r\n"

    def test_what_is_no_reply(self) -> None:
        """It is our mistake, and not sent."""
        with pytest.raises(TypeError, match="object is no reply"):
            encode(object(), 2)
