"""
Who belongs to the cluster: what a server does when it is asked to change it (§4).

The core takes the steps; this says which memberships are meant by "add",
"promote" and "remove", waits until a change is committed, and takes in servers
that ask to join.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger

from consensus.config import is_name
from consensus.core.values import Role
from consensus.errors import (
    InvalidChangeError,
    LeadershipLostError,
    NotLeaderError,
    RaftError,
    TimedOutError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from consensus.config import Config
    from consensus.core.membership import Membership
    from consensus.core.raft import Raft
    from consensus.core.ready import MembershipCommitted, RoleChanged
    from consensus.core.values import Address, LogIndex, ServerId

_log = Logger()

_MAX_SHOWN = 64


class Applicant(NamedTuple):
    """
    A server that asks to join: the payload of ``join``.

    Args:
        cluster: The name of the cluster that it looks for.
        server: Its name.
        address: Where it listens.
        incarnation: Of its data directory.
        is_member: It has a log already, and only says where it listens now.
        is_refused: A peer does not talk to it because of its incarnation.
    """

    cluster: str
    server: str
    address: str
    incarnation: str
    is_member: bool = False
    is_refused: bool = False


class Addition(NamedTuple):
    """
    A server that an operator wants in: the payload of ``add``.

    Args:
        server: Its name.
        address: Where it listens.
        as_learner: It shall not vote.
    """

    server: str
    address: str
    as_learner: bool = False


class Change(NamedTuple):
    """
    A whole membership: the payload of ``change_membership``.

    Args:
        voters: Who shall vote, with their addresses.
        learners: Who else shall get the log.
        expected_index: Where the membership is that the caller has seen.
    """

    voters: dict[str, str]
    learners: dict[str, str]
    expected_index: int | None = None


class Members:
    """
    Changes of the membership, as they are asked of one server.

    Every Deferred gives the index of the membership that was reached, and
    fails with:
        NotLeaderError: Somebody else leads.
        MembershipPendingError: Another change is under way.
        InvalidChangeError: There is no such membership; the sentence says why.
        OutcomeUnknownError: The change was begun, and may yet be made.

    Args:
        raft: Its Raft.
        config: Its config.
        incarnation_of: Returns the incarnation that counts for a server.
        schedule: Called when the core has something new to say.
        clock: What timeouts go by.
    """

    def __init__(
        self,
        raft: Raft,
        config: Config,
        incarnation_of: Callable[[ServerId], str | None],
        schedule: Callable[[], None],
        clock: Any,
    ) -> None:
        self._raft = raft
        self._cluster = config.cluster
        self._transport = config.transport
        #: How long a change may take, in seconds.
        self.timeout = config.timing.request_timeout
        self._incarnation_of = incarnation_of
        self._schedule = schedule
        self._clock = clock
        # Who waits for which index, or a later one, to be committed.
        self._waiting: list[tuple[LogIndex, Deferred[LogIndex]]] = []

    # --- what operators ask ----------------------------------------------------

    def change(
        self,
        voters: Mapping[ServerId, Address],
        learners: Mapping[ServerId, Address],
        expected_index: LogIndex | None = None,
    ) -> Deferred[LogIndex]:
        """
        Make *voters* and *learners* the members, whatever they were (§4.3).

        The Deferred fires when that is committed; with voters that have to
        catch up first, when it is committed that they get the log.

        Args:
            voters: Who shall vote, with their addresses.
            learners: Who else shall get the log.
            expected_index: Where in the log the membership is that the caller
                has seen; any if ``None``.
        """
        return _tried(lambda: self._change(voters, learners, expected_index))

    def add(
        self, server: ServerId, address: Address, *, as_learner: bool = False
    ) -> Deferred[LogIndex]:
        """Add *server*: as a voter, as soon as it has caught up."""
        return _tried(lambda: self._add(server, address, as_learner=as_learner))

    def promote(self, server: ServerId) -> Deferred[LogIndex]:
        """Let the learner *server* vote, as soon as it has caught up."""
        return _tried(lambda: self._promote(server))

    def remove(self, server: ServerId) -> Deferred[LogIndex]:
        """Leave *server* out from now on."""
        return _tried(lambda: self._remove(server))

    def _change(
        self,
        voters: Mapping[ServerId, Address],
        learners: Mapping[ServerId, Address],
        expected_index: LogIndex | None = None,
        incarnations: Mapping[ServerId, str] | None = None,
    ) -> Deferred[LogIndex]:
        current = self._present().members()
        for name, address in {**voters, **learners}.items():
            if current.get(name) != address:
                self._check(name, address)
        index = self._raft.change_membership(
            voters,
            learners,
            expected_index=expected_index,
            incarnations=incarnations,
        )
        self._schedule()
        return self._when_committed(index)

    def _add(
        self,
        server: ServerId,
        address: Address,
        *,
        as_learner: bool = False,
        incarnation: str = "",
    ) -> Deferred[LogIndex]:
        current = self._present()
        if server in current.members():
            message = f"{server} is a member already, at {current.members()[server]}"
            raise InvalidChangeError(message)
        voters, learners = self._wanted()
        (learners if as_learner else voters)[server] = address
        incarnations = {server: incarnation} if incarnation else None
        return self._change(voters, learners, incarnations=incarnations)

    def _promote(self, server: ServerId) -> Deferred[LogIndex]:
        current = self._present()
        if server in current.voters:
            message = f"{server} votes already"
            raise InvalidChangeError(message)
        _require(current, server)
        voters, learners = self._wanted()
        learners.pop(server, None)
        voters[server] = current.members()[server]
        return self._change(voters, learners)

    def _remove(self, server: ServerId) -> Deferred[LogIndex]:
        current = self._present()
        _require(current, server)
        if list(current.voters) == [server]:
            message = f"{server} is the only voter: a cluster needs one"
            raise InvalidChangeError(message)
        voters, learners = self._wanted()
        voters.pop(server, None)
        learners.pop(server, None)
        return self._change(voters, learners)

    def _present(self) -> Membership:
        """
        Return the membership; only a leader's is worth looking at.

        Raises:
            NotLeaderError: Somebody else leads, or is about to.
        """
        state = self._raft.state
        members = state.membership.members()
        if state.role is not Role.LEADER:
            raise NotLeaderError(state.leader, members.get(state.leader or "", ""))
        if state.transferee is not None:
            raise NotLeaderError(state.transferee, members.get(state.transferee, ""))
        return state.membership

    def _wanted(self) -> tuple[dict[ServerId, Address], dict[ServerId, Address]]:
        """Return voters and learners, as they are as soon as all have caught up."""
        current = self._present()
        members = current.members()
        voters = {name: members[name] for name in current.target or current.voters}
        learners = {k: v for k, v in current.learners.items() if k not in voters}
        return voters, learners

    def _check(self, server: ServerId, address: Address) -> None:
        """
        See that *server* can be called so, and be at *address*.

        Raises:
            InvalidChangeError: It cannot.
        """
        if not is_name(server):
            message = f"{server[:_MAX_SHOWN]!r} is no name of a server"
            raise InvalidChangeError(message)
        engine = self._transport
        path = f"members.{server}"
        if not address:
            message = f"the address of {server} is missing"
            raise InvalidChangeError(message)
        for finding in engine.cls.check(engine.options, {server: address}, ()):
            if finding.path == path and not finding.is_warning:
                hint = f" ({finding.hint})" if finding.hint else ""
                raise InvalidChangeError(finding.message + hint)

    # --- servers that ask to join ----------------------------------------------

    async def admit(self, applicant: Applicant) -> None:
        """
        Take *applicant* in, if it does not belong to the cluster already.

        One that comes back with another data directory has forgotten its
        votes and its log.  It is removed first, by a majority that does not
        count on it, and added as if it were new.

        Raises:
            RejectedError: It is not taken in, or not yet.
            OutcomeUnknownError: It may be a member by now.
        """
        name, address = applicant.server, applicant.address
        incarnation = applicant.incarnation
        if applicant.cluster != self._cluster:
            message = (
                f"this is the cluster {self._cluster!r}, not"
                f" {applicant.cluster[:_MAX_SHOWN]!r}"
            )
            raise InvalidChangeError(message)
        self._check(name, address)
        if not 0 < len(incarnation) <= _MAX_SHOWN:
            raise InvalidChangeError("that is no incarnation of a server")
        present = self._present()
        if name in present.members():
            is_known = self._incarnation_of(name) in {None, incarnation}
            # This server may have met only the new one, and others the old one.
            is_disputed = (
                applicant.is_refused and present.incarnations.get(name) != incarnation
            )
            if is_known and not is_disputed:
                await self._move(name, address)
                return
            await self._expel(name, has_namesake=not is_known)
        elif applicant.is_member:
            message = f"{name} is no member any more; `raft add` makes it one again"
            raise InvalidChangeError(message)
        await self._add(name, address, incarnation=incarnation)
        _log.info("{server} at {address} joins", server=name, address=address)

    async def _move(self, server: ServerId, address: Address) -> None:
        """Note where *server* listens now."""
        if self._present().members()[server] == address:
            return
        voters, learners = self._wanted()
        (voters if server in voters else learners)[server] = address
        await self._change(voters, learners)
        _log.info("{server} has moved to {address}", server=server, address=address)

    async def _expel(self, server: ServerId, *, has_namesake: bool) -> None:
        """Remove *server*, which lost its disk, unless a namesake is alive."""
        state = self._raft.state
        is_alive = server in state.progress and state.is_alive(server)
        if server == state.server or (has_namesake and is_alive):
            message = (
                f"a server called {server} runs elsewhere, with another data directory:"
                " stop one of the two"
            )
            raise InvalidChangeError(message)
        _log.warn(
            "{server} comes back without the data that it had; it has to join anew",
            server=server,
        )
        await self._remove(server)

    # --- waiting ---------------------------------------------------------------

    def _when_committed(self, index: LogIndex) -> Deferred[LogIndex]:
        """Wait until a membership at *index* or later is committed, and not joint."""
        if index <= self._raft.state.log.commit_index:
            return succeed(index)  # there was nothing to change
        done: Deferred[LogIndex] = Deferred()
        self._waiting.append((index, done))
        return done.addTimeout(self.timeout, self._clock, _too_late)

    def committed(self, event: MembershipCommitted) -> None:
        """Tell those who wait for what *event* reports."""
        if event.membership.is_joint:
            return
        waiting, self._waiting = self._waiting, []
        for index, done in waiting:
            if done.called:
                continue
            if index <= event.index:
                done.callback(event.index)
            else:
                self._waiting.append((index, done))

    def role_changed(self, event: RoleChanged) -> None:
        """Tell those who wait that somebody else may finish what was begun."""
        if event.role is not Role.LEADER:
            message = "this server no longer leads; the change may yet be made"
            self.fail(LeadershipLostError(message))

    def fail(self, error: Exception) -> None:
        """Tell those who wait that nothing will come of it here."""
        waiting, self._waiting = self._waiting, []
        for _, done in waiting:
            if not done.called:
                done.errback(error)


def _tried(begin: Callable[[], Deferred[LogIndex]]) -> Deferred[LogIndex]:
    """Return what *begin* returns; what it raises, as a failure."""
    try:
        return begin()
    except RaftError as error:
        return fail(error)


def _require(membership: Membership, server: ServerId) -> None:
    members = membership.members()
    if server not in members:
        those = ", ".join(sorted(members))
        message = f"{server[:_MAX_SHOWN]} is no member; those are: {those}"
        raise InvalidChangeError(message)


def _too_late(result: Any, timeout: float) -> Any:
    del result, timeout
    message = "no majority has agreed to the change yet; it may still happen"
    raise TimedOutError(message)


def compare_members(server: ServerId, config: Config, membership: Membership) -> None:
    """Say so if the config names other members than the log of *server* does."""
    configured, voters = set(config.members), set(membership.voters)
    is_founding = config.members and not config.join
    if is_founding and voters and configured != voters:
        _log.info(
            "the members of the config, {configured}, are not those of the log of"
            " {server}, {voters}; the log's count",
            server=server,
            configured=", ".join(sorted(configured)),
            voters=", ".join(sorted(voters)),
        )
