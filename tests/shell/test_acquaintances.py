"""Tests of consensus.shell.acquaintances: who is welcome, and who is remembered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from adapters.storage.sqlite import SQLiteStorage
from consensus.config import Engine
from consensus.core.values import Identity
from consensus.datadir import DataDirectory
from consensus.errors import ProtocolError, ReplacedError, StorageError
from consensus.shell.acquaintances import Acquaintances
from tests.support.amp import Notebook

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SQLITE = Engine("sqlite", SQLiteStorage, None)
MEMBERS = {"s1", "s2", "s3"}


def met_by(
    notebook: Any, named: dict[str, str] | None = None, cluster_id: str = "here"
) -> Acquaintances:
    """Return the acquaintances of s1; *named* are the membership's incarnations."""
    return Acquaintances(
        Identity("c", "s1", "own", cluster_id),
        is_member=lambda name: name in MEMBERS,
        incarnation_of=(named or {}).get,
        directory=notebook,
    )


def peer(
    incarnation: str = "first", name: str = "s2", cluster_id: str = "here"
) -> Identity:
    """Return a peer of s1, of the same cluster."""
    return Identity("c", name, incarnation, cluster_id)


class ClusterTests:
    """Where a peer belongs."""

    @pytest.mark.parametrize(
        ("other", "sentence"),
        [
            (
                Identity("d", "s2", "first", "here"),
                "'s2' belongs to the cluster 'd', and 's1' to 'c': correct the address",
            ),
            (
                Identity("c", "s2", "first", "there"),
                "'s2' belongs to another cluster that is also called 'c'",
            ),
            (Identity("c", "s1", "first"), "two servers are called 's1': stop one"),
        ],
    )
    def test_who_does_not_belong(self, other: Identity, sentence: str) -> None:
        """Each is refused with a sentence of its own, and not remembered."""
        notebook = Notebook()
        with pytest.raises(ProtocolError, match=sentence) as caught:
            met_by(notebook).welcome(other)
        assert type(caught.value) is ProtocolError
        assert notebook.noted == {}

    @pytest.mark.parametrize(("own", "other"), [("", "there"), ("here", ""), ("", "")])
    def test_a_cluster_id_that_is_not_known_yet(self, own: str, other: str) -> None:
        """A new server may talk to any cluster of its name."""
        met_by(Notebook(), cluster_id=own).welcome(peer(cluster_id=other))

    def test_an_id_that_becomes_known(self) -> None:
        """From then on the others are refused."""
        acquaintances = met_by(Notebook(), cluster_id="")
        acquaintances.welcome(peer(cluster_id="there"))
        acquaintances.own = Identity("c", "s1", "own", "here")
        with pytest.raises(ProtocolError, match="also called 'c'"):
            acquaintances.welcome(peer(cluster_id="there"))


class IncarnationTests:
    """Whether a member has the disk that it had."""

    def test_another_disk_is_refused(self) -> None:
        """The first one met counts, however often the other comes."""
        acquaintances = met_by(Notebook())
        acquaintances.welcome(peer("first"))
        for _ in range(2):
            with pytest.raises(ReplacedError, match="'s2' has another data directory"):
                acquaintances.welcome(peer("second"))
            assert acquaintances.was_replaced("s2") == "second"
        assert acquaintances.was_replaced("s3") is None

    def test_the_old_one_is_alive(self) -> None:
        """Then the other is no replacement but a namesake."""
        acquaintances = met_by(Notebook())
        acquaintances.welcome(peer("first"))
        with pytest.raises(ReplacedError):
            acquaintances.welcome(peer("second"))
        acquaintances.welcome(peer("first"))
        assert acquaintances.was_replaced("s2") is None

    def test_the_membership_counts_first(self) -> None:
        """Whom it names is welcome, whoever was met before."""
        notebook = Notebook()
        met_by(notebook).welcome(peer("first"))
        named = {"s2": "second"}
        acquaintances = met_by(notebook, named)
        acquaintances.welcome(peer("second"))
        with pytest.raises(ReplacedError):
            acquaintances.welcome(peer("first"))

    def test_a_stranger_has_no_vote(self) -> None:
        """Who is no member may come with any disk, and leaves no trace."""
        notebook = Notebook()
        acquaintances = met_by(notebook)
        acquaintances.welcome(peer("first", name="s9"))
        acquaintances.welcome(peer("second", name="s9"))
        assert notebook.noted == {}

    def test_a_stranger_that_becomes_a_member(self) -> None:
        """It is remembered when it is looked at again."""
        notebook = Notebook()
        members: set[str] = set()
        acquaintances = Acquaintances(
            Identity("c", "s1", "own"), members.__contains__, lambda _: None, notebook
        )
        acquaintances.welcome(peer("first"))
        members.add("s2")
        acquaintances.welcome(peer("first"))
        assert notebook.noted == {"s2": "first"}

    def test_without_a_durable_storage_all_come_back_as_others(self) -> None:
        """Their servers forget all at a restart by nature: it is for trials."""
        acquaintances = met_by(None)
        acquaintances.welcome(peer("first"))
        acquaintances.welcome(peer("second"))
        acquaintances.welcome(peer("first"))
        assert acquaintances.was_replaced("s2") is None
        acquaintances.forget("s2")

    def test_a_full_disk_refuses_for_now(self) -> None:
        """Who cannot be remembered is not talked to; later it may be."""

        class FullNotebook(Notebook):
            is_full = True

            def remember(self, peer: str, incarnation: str) -> None:
                if self.is_full:
                    raise StorageError("no space left on device")
                super().remember(peer, incarnation)

        notebook = FullNotebook()
        acquaintances = met_by(notebook)
        with pytest.raises(ProtocolError, match="'s1' cannot note who 's2' is: no sp"):
            acquaintances.welcome(peer("first"))
        notebook.is_full = False
        acquaintances.welcome(peer("second"))
        assert notebook.noted == {"s2": "second"}


class ForgetTests:
    """Who has left for good."""

    def test_it_may_come_back_as_another(self) -> None:
        acquaintances = met_by(Notebook())
        acquaintances.welcome(peer("first"))
        with pytest.raises(ReplacedError):
            acquaintances.welcome(peer("second"))
        acquaintances.forget("s2")
        assert acquaintances.was_replaced("s2") is None
        acquaintances.welcome(peer("second"))

    def test_who_was_never_met(self) -> None:
        met_by(Notebook()).forget("s2")


class RefusalTests:
    """What others think of this server."""

    def test_the_last_word_counts(self) -> None:
        """Until the other is forgotten."""
        acquaintances = met_by(Notebook())
        acquaintances.refused("s2", ProtocolError("no"))
        acquaintances.refused("s2", ReplacedError("you have lost your disk"))
        assert type(acquaintances.refusals["s2"]) is ReplacedError
        acquaintances.forget("s2")
        assert acquaintances.refusals == {}


class RestartTests:
    """What a data directory remembers."""

    @pytest.fixture
    def directory(self, tmp_path: Path) -> Iterator[DataDirectory]:
        """Return the data directory of s1."""
        made = DataDirectory.open(tmp_path, "c", "s1", SQLITE)
        yield made
        made.close()

    def test_a_disk_lost_while_all_were_down(self, directory: DataDirectory) -> None:
        """It is noticed although everybody was started anew."""
        met_by(directory).welcome(peer("first"))
        met_by(directory).welcome(peer("first"))
        with pytest.raises(ReplacedError):
            met_by(directory).welcome(peer("second"))

    def test_a_forgotten_one_stays_forgotten(self, directory: DataDirectory) -> None:
        first = met_by(directory)
        first.welcome(peer("first"))
        first.welcome(peer("first", name="s3"))
        first.forget("s2")
        assert directory.acquaintances() == {"s3": "first"}
        met_by(directory).welcome(peer("second"))
