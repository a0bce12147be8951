"""Majority arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.core.quorum import quorum_index, quorum_size

_voters = st.sets(st.sampled_from(["s1", "s2", "s3", "s4", "s5", "s6", "s7"]))
_reached = st.dictionaries(
    st.sampled_from(["s1", "s2", "s3", "s4", "s5", "s6", "s7", "a stranger"]),
    st.integers(0, 9),
)


class QuorumSizeTests:
    """How many make a majority."""

    @pytest.mark.parametrize(
        ("voters", "size"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)]
    )
    def test_is_more_than_half(self, voters: int, size: int) -> None:
        """Any two majorities share a voter, and one voter less is no majority."""
        assert quorum_size([f"s{number}" for number in range(voters)]) == size
        assert 2 * size > voters
        assert 2 * (size - 1) <= voters


class QuorumIndexTests:
    """The highest number that a majority has reached."""

    @given(_voters.filter(bool), _reached)
    def test_is_the_highest_that_enough_voters_count_for(
        self, voters: set[str], reached: dict[str, int]
    ) -> None:
        """It is what counting the voters at each number gives."""
        enough = [
            number
            for number in range(10)
            if sum(reached.get(voter, 0) >= number for voter in voters)
            >= quorum_size(voters)
        ]
        assert quorum_index(voters, reached) == max(enough)

    def test_a_silent_voter_counts_as_zero(self) -> None:
        """Who is not in the mapping has reached nothing."""
        assert quorum_index(["s1", "s2", "s3"], {"s1": 7}) == 0
        assert quorum_index(["s1", "s2", "s3"], {"s1": 7, "s2": 4}) == 4

    def test_a_stranger_does_not_count(self) -> None:
        """What a server that is no voter has reached changes nothing."""
        reached = {"s1": 2, "s2": 2, "a": 9, "b": 9, "c": 9}
        assert quorum_index(["s1", "s2", "s3"], reached) == 2

    def test_of_an_even_number_of_voters_half_is_not_enough(self) -> None:
        """Two of four at 9 leave the answer to the third."""
        reached = {"s1": 9, "s2": 9, "s3": 3, "s4": 1}
        assert quorum_index(["s1", "s2", "s3", "s4"], reached) == 3

    def test_a_single_voter_is_a_majority(self) -> None:
        """Alone, what it has reached is the answer."""
        assert quorum_index(["s1"], {"s1": 5}) == 5
