"""Tests of consensus.testing.scenarios."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from consensus.testing.scenarios import ScenarioError, check, play

if TYPE_CHECKING:
    from pathlib import Path

WRITTEN = """\
A vote

It is asked for (§3.4).

> start 2
> tick s1 until candidate
    s1 is candidate in term 2
    s1→s2 RequestVote term 2, last 1.1

And given.

> deliver s1→s2
    s2 is follower in term 2
    s2→s1 RequestVoteResponse term 2, granted
"""


class PlayTests:
    """What is caused stands below the command."""

    def test_what_is_right_stays(self) -> None:
        """A scenario that says what happens comes back as it is."""
        assert play(WRITTEN) == WRITTEN

    def test_what_is_wrong_is_replaced(self) -> None:
        """Prose and commands stay; what stood below a command goes."""
        assert play(WRITTEN.replace("granted", "denied")) == WRITTEN

    def test_what_is_missing_is_added(self) -> None:
        """A new scenario is commands alone."""
        lines = WRITTEN.splitlines(keepends=True)
        bare = "".join(line for line in lines if not line.startswith(" "))
        assert play(bare) == WRITTEN

    def test_twice_the_same(self) -> None:
        """All that looks like chance comes from the seed."""
        text = "> start 3 seed=5\n> tick s2 9\n> tick s1 9\n> deliver\n> pass 9\n"
        assert play(text) == play(text)

    def test_another_seed(self) -> None:
        """Another seed is another patience."""
        text = "> start 3 seed={}\n> tick s1 8\n"
        assert len({play(text.format(seed)).count("→") for seed in range(9)}) > 1

    def test_an_error_names_file_and_line(self) -> None:
        """An unknown command is an error, which says where it stands."""
        with pytest.raises(ScenarioError, match=r"^a.txt:3: there is no command 'jum"):
            play("A title\n\n> jump s1\n", "a.txt")

    def test_output_of_nothing(self) -> None:
        """An indented line below prose would be lost: it is an error."""
        with pytest.raises(ScenarioError, match=r"^a.txt:2: this is indented"):
            play("A title\n    s1 leads\n", "a.txt")


class CheckTests:
    """A file is compared, or rewritten."""

    def test_the_same(self, tmp_path: Path) -> None:
        """Nothing is to be said of a file that is right."""
        path = tmp_path / "vote.txt"
        path.write_text(WRITTEN, encoding="utf-8")
        check(path)
        check(path, rewrite=True)
        assert path.read_text(encoding="utf-8") == WRITTEN

    def test_a_difference(self, tmp_path: Path) -> None:
        """A difference is shown, and the file is left alone."""
        path = tmp_path / "vote.txt"
        wrong = WRITTEN.replace("granted", "denied")
        path.write_text(wrong, encoding="utf-8")
        with pytest.raises(AssertionError) as caught:
            check(path)
        shown = str(caught.value).splitlines()
        assert shown[0] == "vote.txt has changed:"
        assert "-    s2→s1 RequestVoteResponse term 2, denied" in shown
        assert "+    s2→s1 RequestVoteResponse term 2, granted" in shown
        assert path.read_text(encoding="utf-8") == wrong

    def test_rewriting(self, tmp_path: Path) -> None:
        """On demand the file says what happens now."""
        path = tmp_path / "vote.txt"
        path.write_text(WRITTEN.replace("granted", "denied"), encoding="utf-8")
        check(path, rewrite=True)
        assert path.read_text(encoding="utf-8") == WRITTEN

    def test_an_error_rewrites_nothing(self, tmp_path: Path) -> None:
        """A scenario that cannot be run stays what it is."""
        path = tmp_path / "vote.txt"
        wrong = WRITTEN.replace("granted", "denied") + "> deliver s1→s9\n"
        path.write_text(wrong, encoding="utf-8")
        with pytest.raises(ScenarioError, match=r"^vote.txt:15: there is no server"):
            check(path, rewrite=True)
        assert path.read_text(encoding="utf-8") == wrong
