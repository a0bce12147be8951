"""
What a leader sees to by itself: the machine's version, and digests.

It enters into the log that a newer version applies commands from there on,
when every voter has that one; and now and then its state's digest, so that a
server whose state is another finds out.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from consensus.applying.agreements import claim_entry, mark_entry, upgrade_entry
from consensus.core.values import EntryKind, Role, Status
from consensus.errors import NotLeaderError, RaftError

if TYPE_CHECKING:
    from consensus.applying.applier import Applier
    from consensus.core.raft import Raft
    from consensus.core.values import Address, LogIndex, ServerId, Term
    from consensus.interfaces import Transport

_decode_status = msgspec.msgpack.Decoder(Status).decode

#: Seconds between two rounds of questions, and for one answer.
_PAUSE = 2.0


class Upkeep:
    """
    Looks after the state machine while this server leads.

    Args:
        raft: Of this server.
        applier: Of this server.
        transport: To ask the others.
        clock: For pauses.
        cluster: The cluster's name.
        digest_every: After so many entries digests are compared.
    """

    def __init__(
        self,
        raft: Raft,
        applier: Applier,
        transport: Transport,
        clock: Any,
        *,
        cluster: str,
        digest_every: int,
    ) -> None:
        #: After so many entries digests are compared.
        self.digest_every = digest_every
        self._raft = raft
        self._applier = applier
        self._transport = transport
        self._clock = clock
        self._cluster = cluster
        self._term: Term = 0
        # What voters said in this term, and when they are asked next.
        self._versions: dict[ServerId, int] = {}
        self._next_round = 0.0
        # What was entered in this term, and need not be again.
        self._entered: dict[EntryKind, bytes] = {}
        # Where this server's digest was looked at last, by index.
        self._looked_at: LogIndex = 0

    def look(self) -> None:
        """Do what is due; called often."""
        state, applier = self._raft.state, self._applier
        if state.role is not Role.LEADER:
            return
        if state.term != self._term:
            self._term = state.term
            self._versions.clear()
            self._entered.clear()
            self._next_round = 0.0
        if applier.newest_version > applier.version:
            self._see_to_version()
        if applier.has_digests:
            self._see_to_digests()

    # --- versions --------------------------------------------------------------

    def _see_to_version(self) -> None:
        """Enter the newest version that every voter has, or ask for theirs."""
        state, applier = self._raft.state, self._applier
        voters = state.membership.electors()
        self._versions[state.server] = applier.newest_version
        newest = min(self._versions.get(voter, 0) for voter in voters)
        if newest > applier.version and applier.knows_version(newest):
            self._enter(EntryKind.VERSION, upgrade_entry(newest))
        elif self._clock.seconds() >= self._next_round:
            self._next_round = self._clock.seconds() + _PAUSE
            for voter, address in voters.items():
                if voter != state.server:
                    self._ask(voter, address)

    def _ask(self, voter: ServerId, address: Address) -> None:
        asked = self._transport.ask(address, "status", b"", _PAUSE)
        term = self._term

        def answered(payload: bytes) -> None:
            status = _decode_status(payload)
            is_right = (status.server, status.cluster) == (voter, self._cluster)
            if is_right and term == self._term:
                self._versions[voter] = status.machine_version

        # Whoever does not answer, or not sensibly, is asked again.
        asked.addCallback(answered).addErrback(
            lambda failure: failure.trap(RaftError, ValueError) and None
        )

    # --- digests ---------------------------------------------------------------

    def _see_to_digests(self) -> None:
        """Say what the digest was at the last mark, or enter another mark."""
        applier, digests = self._applier, self._applier.digests
        if not digests.is_claimed and digests.digest is not None:
            claim = claim_entry(digests.marked, digests.digest)
            self._enter(EntryKind.DIGEST, claim)
        elif (
            applier.last_applied - max(self._looked_at, digests.marked)
            >= self.digest_every
        ):
            self._looked_at = applier.last_applied
            if applier.digest() is not None:
                self._propose(EntryKind.DIGEST, mark_entry())

    # --- the log -----------------------------------------------------------------

    def _enter(self, kind: EntryKind, data: bytes) -> None:
        """Propose an entry, once in this term."""
        if self._entered.get(kind) != data and self._propose(kind, data):
            self._entered[kind] = data

    def _propose(self, kind: EntryKind, data: bytes) -> bool:
        # While it hands over, a leader enters nothing.
        with suppress(NotLeaderError):
            self._raft.propose([data], [kind])
            return True
        return False
