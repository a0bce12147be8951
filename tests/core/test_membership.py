"""Membership: the bytes of an entry, and what of them is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.core.membership import Membership
from consensus.errors import ProtocolError


class MembershipTests:
    """What a membership is before anybody says so."""

    def test_is_empty_at_first(self) -> None:
        """A server that knows of no cluster has no voters."""
        assert Membership().voters == {}


class EncodeTests:
    """The bytes."""

    def test_are_those_on_disk(self) -> None:
        """Data directories of every release hold bytes of this form."""
        data = Membership({"s2": "tcp:b:2", "s1": "tcp:a:1"}).encode()
        assert data == b'{"version":1,"voters":{"s1":"tcp:a:1","s2":"tcp:b:2"}}'

    def test_do_not_depend_on_the_order_of_the_voters(self) -> None:
        """Founders who list the same voters make the same entry."""
        one, other = {"s1": "a", "s2": "b"}, {"s2": "b", "s1": "a"}
        assert Membership(one).encode() == Membership(other).encode()


class DecodeTests:
    """Reading the bytes."""

    @given(st.dictionaries(st.text(), st.text()))
    def test_returns_what_was_encoded(self, voters: dict[str, str]) -> None:
        """Names and addresses may be any text."""
        assert Membership.decode(Membership(voters).encode()) == Membership(voters)

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\xff",
            b"[1]",
            b'"text"',
            b"null",
            b"[" * 100_000,
            b'{"version":1}',
            b'{"voters":{}}',
            b'{"version":1,"voters":["s1"]}',
            b'{"version":1,"voters":{"s1":1}}',
            b'{"version":1,"voters":{"s1":null}}',
            b'{"version":NaN,"voters":{}}',
        ],
    )
    def test_refuses_what_is_no_membership(self, data: bytes) -> None:
        """Whatever a peer sends, the error is one of the protocol."""
        with pytest.raises(ProtocolError, match=r"membership"):
            Membership.decode(data)

    def test_refuses_a_later_version(self) -> None:
        """A server must not guess what a later release means."""
        with pytest.raises(ProtocolError, match=r"of version 2; this release knows 1"):
            Membership.decode(b'{"version":2,"voters":{},"learners":{}}')
