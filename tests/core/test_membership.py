"""Membership: majorities, which change is which, and the bytes of an entry."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.core.membership import Membership
from consensus.errors import InvalidChangeError, ProtocolError


def _named(*names: str) -> dict[str, str]:
    return {name: f"at {name}" for name in names}


_THREE = Membership(_named("s1", "s2", "s3"), incarnations={"s1": "x", "s3": "y"})
_TEXTS = st.dictionaries(st.text(), st.text())
_JOINT = Membership(_named("s3", "s4", "s5"), outgoing=_named("s1", "s2", "s3"))


class MembershipTests:
    """What a membership is before anybody says so."""

    def test_is_empty_at_first(self) -> None:
        """A server that knows of no cluster has no voters."""
        assert Membership().voters == {}

    def test_of_founders_has_an_id_that_all_of_them_find(self) -> None:
        """Names count, in any order; addresses may be written differently."""
        one = Membership.founding("c", {"s1": "a", "s2": "b"})
        other = Membership.founding("c", {"s2": "B", "s1": "A"})
        assert one.cluster_id == other.cluster_id
        assert len(one.cluster_id) == 32
        assert one.cluster_id != Membership.founding("d", one.voters).cluster_id
        assert one.cluster_id != Membership.founding("c", {"s1": "a"}).cluster_id


class MemberTests:
    """Who belongs to it."""

    def test_everybody_gets_the_log_at_the_newest_address(self) -> None:
        """One who is in both halves is reached where the new half says."""
        membership = Membership(
            {"s1": "new", "s2": "b"}, {"s3": "new"}, {"s1": "old", "s3": "old"}
        )
        assert membership.members() == {"s1": "new", "s2": "b", "s3": "new"}

    def test_learners_are_no_electors(self) -> None:
        """Both halves are."""
        membership = Membership(_named("s1"), _named("s2"), _named("s3"))
        assert membership.electors().keys() == {"s1", "s3"}
        assert membership.is_joint
        assert not _THREE.is_joint


class MajorityTests:
    """Majorities (§4.3)."""

    @pytest.mark.parametrize(
        ("servers", "is_enough"),
        [
            ("s1 s2 s3", False),
            ("s3 s4 s5", False),
            ("s1 s2 s4", False),
            ("s1 s4 s5", False),
            ("s1 s2 s4 s5", True),
            ("s1 s3 s4", True),
        ],
    )
    def test_are_needed_of_both_halves(self, servers: str, is_enough: bool) -> None:  # noqa: FBT001 - a value of the table
        """A whole half is nothing without more than half of the other."""
        assert _JOINT.is_quorum(servers.split()) is is_enough

    def test_of_indexes_are_the_smaller_of_the_two(self) -> None:
        """Each half may be the one that is behind."""
        new_is_behind = {"s1": 9, "s2": 8, "s3": 7, "s4": 2, "s5": 1}
        old_is_behind = {"s1": 1, "s2": 2, "s3": 7, "s4": 8, "s5": 9}
        assert _JOINT.majority_index(new_is_behind) == 2
        assert _JOINT.majority_index(old_is_behind) == 2

    def test_do_not_count_learners(self) -> None:
        """However many there are."""
        membership = Membership(_named("s1", "s2", "s3"), _named("s4", "s5", "s6"))
        everybody_else = {"s1", "s4", "s5", "s6"}
        assert not membership.is_quorum(everybody_else)
        assert membership.majority_index(dict.fromkeys(everybody_else, 9)) == 0


class TowardsTests:
    """The first step to another membership (§4)."""

    def test_of_learners_or_addresses_is_the_only_one(self) -> None:
        """No majority changes."""
        voters = {"s1": "moved", "s2": "at s2", "s3": "at s3"}
        made = _THREE.towards(voters, _named("s4"))
        assert (made.voters, made.learners) == (voters, _named("s4"))
        assert not made.is_joint
        assert made.incarnations == _THREE.incarnations

    def test_of_voters_is_joint(self) -> None:
        """What is laid down of those who leave counts until they have left."""
        made = _THREE.towards(_named("s1", "s2"), {})
        assert (made.voters, made.outgoing) == (_named("s1", "s2"), _THREE.voters)
        assert made.incarnations == {"s1": "x", "s3": "y"}
        assert made.left() == Membership(
            _named("s1", "s2"), cluster_id=_THREE.cluster_id, incarnations={"s1": "x"}
        )

    def test_of_new_voters_makes_them_learners(self) -> None:
        """Nobody leaves before they have caught up (§4.2.1)."""
        made = _THREE.towards(_named("s1", "s4"), _named("s5"))
        assert made.voters == _THREE.voters
        assert made.learners == _named("s4", "s5")
        assert made.target == {"s1", "s4"}
        assert made.incarnations == _THREE.incarnations
        assert made.incarnations is not _THREE.incarnations
        joint = made.promoted()
        assert (joint.voters, joint.learners) == (_named("s1", "s4"), _named("s5"))
        assert (joint.outgoing, joint.target) == (_THREE.voters, frozenset())

    def test_of_new_voters_who_have_caught_up_is_joint(self) -> None:
        """They need not wait."""
        made = _THREE.towards(_named("s1", "s4"), {}, caught_up=["s1", "s4"])
        assert (made.voters, made.outgoing) == (_named("s1", "s4"), _THREE.voters)

    def test_of_a_voter_to_a_learner_is_joint(self) -> None:
        """It goes on to get the log."""
        made = _THREE.towards(_named("s1", "s2"), _named("s3"))
        assert made.is_joint
        assert made.left().members() == _THREE.members()
        assert made.left().incarnations == _THREE.incarnations

    def test_moves_voters_at_once(self) -> None:
        """Also those that have to wait for others."""
        made = _THREE.towards({"s1": "moved", "s4": "at s4"}, {})
        assert made.voters["s1"] == "moved"
        joint = _THREE.towards({"s1": "moved"}, {})
        assert joint.outgoing["s1"] == "moved"

    @pytest.mark.parametrize(
        ("voters", "learners", "sentence"),
        [
            ({}, {"s1": "a"}, "at least one voter"),
            ({"s1": "a"}, {"s1": "a"}, "s1 cannot be a voter and a learner at once"),
            ({"s1": "a", "s2": "a"}, {}, "s1 and s2 would have the same address, a"),
            ({"": "a"}, {}, "no server can have the name or address ''"),
            ({"s" * 1025: "a"}, {}, "no server can have the name or address 's"),
            ({"s1": "a" * 1025}, {}, "no server can have the name or address 's1'"),
            (_named(*map(str, range(101))), {}, "101 members are too many"),
        ],
    )
    def test_is_refused_where_there_is_no_such_cluster(
        self, voters: dict[str, str], learners: dict[str, str], sentence: str
    ) -> None:
        """The sentence says why."""
        with pytest.raises(InvalidChangeError, match=sentence):
            _THREE.towards(voters, learners)

    def test_may_leave_addresses_open(self) -> None:
        """Servers of one process need none."""
        made = _THREE.towards({"s1": "", "s2": "", "s3": ""}, {"s4": ""})
        assert made.members() == dict.fromkeys(["s1", "s2", "s3", "s4"], "")


class EncodeTests:
    """The bytes."""

    def test_are_those_on_disk(self) -> None:
        """Data directories of every release hold bytes of this form."""
        membership = Membership(
            {"s2": "tcp:b:2", "s1": "tcp:a:1"},
            {"s3": "tcp:c:3"},
            {"s4": "tcp:d:4"},
            frozenset({"s3", "s1"}),
            {"s1": "00ff"},
            "abc",
        )
        assert membership.encode() == (
            b'{"cluster_id":"abc","incarnations":{"s1":"00ff"},'
            b'"learners":{"s3":"tcp:c:3"},"outgoing":{"s4":"tcp:d:4"},'
            b'"target":["s1","s3"],"version":1,'
            b'"voters":{"s1":"tcp:a:1","s2":"tcp:b:2"}}'
        )

    def test_of_the_first_release_are_read(self) -> None:
        """They named the voters alone."""
        data = b'{"version":1,"voters":{"s1":"tcp:a:1","s2":"tcp:b:2"}}'
        voters = {"s1": "tcp:a:1", "s2": "tcp:b:2"}
        assert Membership.decode(data) == Membership(voters)

    def test_do_not_depend_on_the_order_of_the_voters(self) -> None:
        """Founders who list the same voters make the same entry."""
        one, other = {"s1": "a", "s2": "b"}, {"s2": "b", "s1": "a"}
        assert Membership(one).encode() == Membership(other).encode()


class DecodeTests:
    """Reading the bytes."""

    @given(
        st.builds(
            Membership,
            _TEXTS,
            _TEXTS,
            _TEXTS,
            st.frozensets(st.text()),
            _TEXTS,
            st.text(),
        )
    )
    def test_returns_what_was_encoded(self, made: Membership) -> None:
        """Names and addresses may be any text."""
        assert Membership.decode(made.encode()) == made

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
            b'{"version":1,"voters":{},"learners":[]}',
            b'{"version":1,"voters":{},"outgoing":{"s1":2}}',
            b'{"version":1,"voters":{},"target":{}}',
            b'{"version":1,"voters":{},"target":[1]}',
            b'{"version":1,"voters":{},"incarnations":{"s1":[]}}',
            b'{"version":1,"voters":{},"cluster_id":7}',
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
