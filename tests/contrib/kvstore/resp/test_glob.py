"""Tests of contrib.kvstore.resp.glob."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contrib.kvstore.resp.glob import Glob, literal, matcher


class GlobTests:
    """Patterns and the keys that they are for."""

    @pytest.mark.parametrize(
        ("pattern", "yes", "no"),
        [
            (b"", [b""], [b"a"]),
            (b"*", [b"", b"a", b"\n\xff"], []),
            (b"a*c", [b"ac", b"abbc"], [b"a", b"acb", b"xac"]),
            (b"a*a", [b"aa", b"aba"], [b"a"]),
            (b"*a*b*", [b"ab", b"xaxbx"], [b"ba"]),
            (b"h?llo", [b"hello", b"h\nllo"], [b"hllo", b"heello"]),
            (b"h[ae]llo", [b"hello", b"hallo"], [b"hillo", b"h[ae]llo"]),
            (b"h[^e]llo", [b"hallo"], [b"hello", b"hllo"]),
            (b"h[a-b]*", [b"ha", b"hbx"], [b"hc", b"h-"]),
            (b"h[b-a]", [b"ha", b"hb"], [b"hc"]),
            (b"[]", [], [b"", b"]", b"[]"]),
            (b"[^]", [b"a"], [b""]),
            (b"[a-]", [b"a", b"]", b"_"], [b"-", b"b"]),
            (rb"[\]]", [b"]"], [b"\\"]),
            (b"[a", [b"a"], [b"["]),
            (rb"\*", [b"*"], [b"a", rb"\*"]),
            ("é".encode(), ["é".encode()], [b"e"]),
            (b"\\", [b"\\"], [b""]),
            (b".+", [b".+"], [b"aa"]),
        ],
    )
    def test_matches(self, pattern: bytes, yes: list[bytes], no: list[bytes]) -> None:
        """Redis says the same."""
        glob = Glob(pattern)
        assert [key for key in yes if not glob.matches(key)] == []
        assert [key for key in no if glob.matches(key)] == []

    @given(
        pattern=st.lists(st.sampled_from([b"a", b"b", b"*", b"?"]), max_size=8),
        key=st.lists(st.sampled_from([b"a", b"b"]), max_size=8),
    )
    def test_the_first_place_is_good_enough(
        self, pattern: list[bytes], key: list[bytes]
    ) -> None:
        """What tries all of them finds the same."""
        expected = _tries_all(b"".join(pattern), b"".join(key))
        assert Glob(b"".join(pattern)).matches(b"".join(key)) is expected

    def test_a_pattern_with_many_stars(self) -> None:
        """It takes no longer than one with few: this would take years."""
        assert not Glob(b"*a" * 1000 + b"b").matches(b"a" * 4000)

    @pytest.mark.parametrize(
        ("pattern", "prefix"),
        [(b"user:*", b"user:"), (b"*", b""), (rb"a\*", b"a"), (b"ab", b"ab")],
    )
    def test_prefix(self, pattern: bytes, prefix: bytes) -> None:
        """What keys begin with need not be looked for everywhere."""
        assert literal(pattern) == prefix
        assert matcher(pattern)(prefix + b"") is (prefix in {pattern, pattern[:-1]})


def _tries_all(pattern: bytes, key: bytes) -> bool:
    if not pattern:
        return not key
    if pattern[:1] == b"*":
        return any(
            _tries_all(pattern[1:], key[skipped:]) for skipped in range(len(key) + 1)
        )
    is_same = key[:1] and pattern[:1] in {b"?", key[:1]}
    return bool(is_same) and _tries_all(pattern[1:], key[1:])
