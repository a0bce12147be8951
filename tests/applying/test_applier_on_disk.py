"""An applier whose machine keeps its state on disk, over restarts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from consensus.applying.applier import Applier
from consensus.core.values import Entry, EntryKind
from consensus.errors import RejectedError
from tests.support.entries import Disk

if TYPE_CHECKING:
    from collections.abc import Sequence


@pytest.fixture(autouse=True)
def _clean() -> None:
    Disk.kept, Disk.batches = ([], 0), ()


def _entries(first: int, last: int) -> list[Entry]:
    return [
        Entry(index, 1, EntryKind.COMMAND, msgspec.msgpack.encode(f"command {index}"))
        for index in range(first, last + 1)
    ]


def _ignore(entries: Sequence[Entry], results: Sequence[object]) -> None:
    del entries, results


class SnapshotTests:
    """What a view of such a state may be called."""

    def test_a_view_that_is_ahead_of_the_log_is_refused(self) -> None:
        """Restored elsewhere as the older index, it would get commands twice."""
        Applier(Disk(), "s1").apply(_entries(1, 3), _ignore)
        again = Applier(Disk(), "s1")
        with pytest.raises(RejectedError, match="up to 3"):
            again.snapshot()
        again.apply(_entries(1, 2), _ignore)
        with pytest.raises(RejectedError, match="up to 3"):
            again.snapshot()
        again.apply(_entries(3, 3), _ignore)
        again.snapshot()
