"""What is typed."""

from __future__ import annotations

from consensus.dev.keyboard import complete


class CompleteTests:
    """What the Tab key adds."""

    def test_one_after_another(self) -> None:
        """All words that begin so, until there are no more."""
        words = ["status", "stop", "s1"]
        assert [complete(words, "st", number) for number in range(3)] == [
            *("status ", "stop "),
            None,
        ]
