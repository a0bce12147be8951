"""The nouns: what other releases and users rely on."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from consensus.core.values import Entry, EntryKind, HardState, Role


class EntryKindTests:
    """The numbers of the kinds."""

    def test_numbers_are_those_on_disk(self) -> None:
        """Data directories of every release hold these numbers."""
        numbers = {kind.name: int(kind) for kind in EntryKind}
        assert numbers == {
            "NOOP": 0,
            "COMMAND": 1,
            "MEMBERSHIP": 2,
            "SESSION": 3,
            "VERSION": 4,
            "DIGEST": 5,
            "TIME": 6,
        }

    def test_a_plain_number_is_as_good(self) -> None:
        """An entry that was read from a disk equals the one that was written."""
        assert Entry(1, 1, 1, b"") == Entry(1, 1, EntryKind.COMMAND, b"")


class RoleTests:
    """The names of the roles."""

    def test_names_are_those_in_a_status(self) -> None:
        """Users compare them as text."""
        assert [role.value for role in Role] == [
            "follower",
            "pre-candidate",
            "candidate",
            "leader",
        ]


class HardStateTests:
    """Term and vote."""

    def test_a_new_server_is_in_term_0_and_has_not_voted(self) -> None:
        """Figure 3.1: the term is initialized to 0."""
        assert HardState() == HardState(term=0, vote=None)

    def test_cannot_be_changed(self) -> None:
        """One that was handed to storage stays what it was."""
        with pytest.raises(FrozenInstanceError):
            HardState().term = 1  # type: ignore[misc]
