"""Tests of contrib.kvstore.resp.parser."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contrib.kvstore.resp.parser import MAX_LINE, MAX_WORDS, Parser, split
from tests.support.redis import request

_LIMIT = 100_000


def _parser(max_bulk: int = _LIMIT, max_command: int = 4 * _LIMIT) -> Parser:
    return Parser(max_bulk, max_command)


class ParserTests:
    """Bytes become commands."""

    def test_commands_that_come_together(self) -> None:
        """All of them, arrays and lines, and no empty ones."""
        data = request("GET", "a") + b"\r\nPING x\r\n*0\r\n*-1\r\n" + request("X", b"")
        assert _parser().feed(data) == [[b"GET", b"a"], [b"PING", b"x"], [b"X", b""]]

    @given(
        commands=st.lists(
            st.lists(st.binary(max_size=50), min_size=1, max_size=5), max_size=5
        ),
        cuts=st.lists(st.integers(0, 2000)),
    )
    def test_it_does_not_matter_how_they_are_cut(
        self, commands: list[list[bytes]], cuts: list[int]
    ) -> None:
        """Words hold any bytes, and arrive in pieces of any size."""
        data = b"".join(request(*words) for words in commands)
        places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
        parser = _parser()
        found: list[list[bytes]] = []
        for begin, end in pairwise(places):
            found += parser.feed(data[begin:end])
        assert found == commands
        assert not parser.error

    @given(pieces=st.lists(st.binary(max_size=80)))
    def test_rubbish(self, pieces: list[bytes]) -> None:
        """It is commands, or an error, and nothing else."""
        parser = _parser(max_bulk=20, max_command=500)
        for piece in pieces:
            for words in parser.feed(piece):
                assert words

    @given(
        pieces=st.lists(
            st.sampled_from(
                [b"*", b"$", b"1", b"3", b"-", b"\r\n", b"\r", b"\n", b"a", b'"', b" "]
            )
        )
    )
    def test_what_is_nearly_right(self, pieces: list[bytes]) -> None:
        """Together it means what it means byte by byte."""
        data = b"".join(pieces)
        whole, cut = _parser(), _parser()
        found = whole.feed(data)
        by_byte = [words for byte in data for words in cut.feed(bytes((byte,)))]
        assert (found, whole.error) == (by_byte, cut.error)

    def test_a_large_word_in_pieces_is_put_together_once(self) -> None:
        """A client cannot make us copy it again and again."""
        parser = _parser(max_bulk=10_000_000, max_command=20_000_000)
        assert parser.feed(b"*1\r\n$9000000\r\n") == []
        for _ in range(9000 - 1):
            assert parser.feed(b"x" * 1000) == []
            assert len(parser._rest[-1]) <= 1000
        (words,) = parser.feed(b"x" * 1000 + b"\r\n")
        assert len(words[0]) == 9_000_000

    def test_nothing_is_understood_after_an_error(self) -> None:
        """There is no telling where the next command begins."""
        parser = _parser()
        assert parser.feed(request("PING") + b"*x\r\n" + request("PING")) == [[b"PING"]]
        assert parser.error == "Protocol error: invalid multibulk length"
        assert parser.feed(request("PING")) == []

    @pytest.mark.parametrize(
        ("data", "error"),
        [
            (b"*x\r\n", "invalid multibulk length"),
            (b"*1x\r\n", "invalid multibulk length"),
            (b"*%d\r\n" % (MAX_WORDS + 1), "invalid multibulk length"),
            (b"*" + b"9" * 5000 + b"\r\n", "invalid multibulk length"),
            (b"*1\r\nPING\r\n", "expected '$', got 'P'"),
            (b"*1\r\n$x\r\n", "invalid bulk length"),
            (b"*1\r\n$-1\r\n", "invalid bulk length"),
            (b"*1\r\n$100001\r\n", "invalid bulk length"),
            (b"*1\r\n$" + b"9" * 5000 + b"\r\n", "invalid bulk length"),
            (b"x" * MAX_LINE, "too big inline request"),
            (b"*" + b"1" * MAX_LINE, "too big mbulk count string"),
            (b"*1\r\n$" + b"1" * MAX_LINE, "too big bulk count string"),
            (b'get "a\r\n', "unbalanced quotes in request"),
            (request(*["x" * 100_000] * 4), "too big command"),
            (request(*["x"] * 9000), "too big command"),
        ],
    )
    def test_errors(self, data: bytes, error: str) -> None:
        """They are Redis' own words, but for the last."""
        parser = _parser()
        assert parser.feed(data) == []
        assert parser.error == f"Protocol error: {error}"

    def test_strangers_have_less_room(self) -> None:
        """Before they have said the password."""
        for data, error in (
            (b"*11\r\n", "unauthenticated multibulk length"),
            (b"*1\r\n$16385\r\n", "unauthenticated bulk length"),
        ):
            parser = _parser()
            parser.is_trusted = False
            parser.feed(data)
            assert parser.error == f"Protocol error: {error}"


class SplitTests:
    """Lines of words."""

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            (b"", []),
            (b" \t ", []),
            (b"set  a\tb ", [b"set", b"a", b"b"]),
            (b'set "a b" c', [b"set", b"a b", b"c"]),
            (b"set 'a \"b' ''", [b"set", b'a "b', b""]),
            (rb'"\x41\n\r\t\b\a\q\"\\"', [b'A\n\r\t\b\aq"\\']),
            (rb'"\x4"', [b"x4"]),
            (rb"'\'\n'", [rb"'\n"]),
            (b'foo"bar"', [b"foobar"]),
            (b'"a"b', None),
            (b'"a', None),
            (b"'a", None),
            (b'"a\\', None),
        ],
    )
    def test_quotes(self, line: bytes, words: list[bytes] | None) -> None:
        assert split(line) == words
