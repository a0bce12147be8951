"""
Who leads, who stands for election, and who offers a service.

Nothing in here depends on anything but the commands and their order.  What has
an effect on others, such as a lease's end, goes by names in their order.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from consensus.applications import lease_table
from consensus.applications.lease_table import LeaseState
from consensus.interfaces import LATER, Later
from contrib.election.commands import Instance, Instances, Leader

if TYPE_CHECKING:
    from collections.abc import Iterable

    from contrib.election.commands import Register

#: So many candidacies and registrations a lease has at most, all together have,
#: and so many instances a service.
MAX_LEASE_ITEMS = 100
MAX_ITEMS = 50_000
MAX_INSTANCES = 1_000

#: Of so many services without an instance the revision is remembered.
MAX_EMPTY = 1_000


class ElectionError(Exception):
    """Why a command was refused."""


class LeaseEndedError(ElectionError):
    """The lease has ended, or there never was one of that number."""


class NoCandidateError(ElectionError):
    """The lease does not stand for that election."""


class SupersededError(ElectionError):
    """A newer registrant has the same instance."""


class TooManyError(ElectionError):
    """There are as many leases, candidacies or registrations as there may be."""


@dataclass(slots=True)
class Lease(lease_table.Lease):
    """
    What one client stands for and has registered.

    Args:
        elections: Their names.
        instances: Each as its service and its own name.
    """

    elections: set[str] = field(default_factory=set)
    instances: set[tuple[str, str]] = field(default_factory=set)


@dataclass(slots=True)
class Election:
    """
    Those who stand for one election; the first of them leads.

    Args:
        term: Of whoever leads.
        leader: The number of its lease.
        queue: What candidates call themselves, by lease, in their order.
    """

    term: int = 0
    leader: int = 0
    # An ordered one, since it is emptied from the front.
    queue: OrderedDict[int, str] = field(default_factory=OrderedDict)


@dataclass(slots=True)
class Registration:
    """
    Where one instance is.

    Args:
        lease: Whose it is.
        origin: The first lease that the same registrant had.
        version: Of what is said, by that lease.
        revision: Of the service, when it was said.
        address: Where it is.
        metadata: What else there is to say.
    """

    lease: int
    origin: int
    version: int
    revision: int
    address: str
    metadata: dict[str, str]

    def age(self) -> tuple[int, int]:
        """Return what is larger for a newer registrant, or lease of one."""
        return self.origin, self.lease


@dataclass(slots=True)
class Service:
    """
    All that offer one service.

    Args:
        revision: Of the last change.
        instances: By name.
    """

    revision: int = 0
    instances: dict[str, Registration] = field(default_factory=dict)


@dataclass(slots=True)
class State(LeaseState[Lease]):
    """
    Everything.

    Args:
        last_term: What somebody was elected with last; no term comes again.
        elections: By name; those without candidates are forgotten.
        revision: Of the last change of any service.
        services: By name.
        empty: Those without instances, in the order in which they lost them.
        forgotten: The revision of the last of these that was forgotten.
        items: How many candidacies and registrations there are.
    """

    lease_type = Lease
    lease_ended = LeaseEndedError
    too_many_leases = TooManyError

    last_term: int = 0
    elections: dict[str, Election] = field(default_factory=dict)
    revision: int = 0
    services: dict[str, Service] = field(default_factory=dict)
    empty: OrderedDict[str, None] = field(default_factory=OrderedDict)
    forgotten: int = 0
    items: int = 0

    # --- leases ------------------------------------------------------------

    def drop(self, leases: Iterable[Lease]) -> None:
        """Take away what *leases* have; nobody of them is elected any more."""
        touched: dict[str, None] = {}
        for lease in leases:
            self.items -= len(lease.elections) + len(lease.instances)
            for name in sorted(lease.elections):
                del self.elections[name].queue[lease.number]
                touched[name] = None
            for service, instance in sorted(lease.instances):
                self._deregister(service, instance)
        for name in touched:
            self._elect(name)

    def _check_room(self, lease: Lease) -> None:
        items = len(lease.elections) + len(lease.instances)
        if items >= MAX_LEASE_ITEMS or self.items >= MAX_ITEMS:
            message = (
                f"a lease has {MAX_LEASE_ITEMS} candidacies and registrations at most,"
                f" and all together {MAX_ITEMS}"
            )
            raise TooManyError(message)

    # --- elections ---------------------------------------------------------

    def campaign(self, number: int, name: str, candidate: str) -> int:
        """
        Stand for election; return the term of who leads already, else 0.

        Raises:
            LeaseEndedError: The lease has ended.
            TooManyError: There are too many candidacies.
        """
        lease = self.lease(number)
        if name not in lease.elections:
            self._check_room(lease)
            self.items += 1
            lease.elections.add(name)
            self.elections.setdefault(name, Election()).queue[number] = candidate
            self._elect(name)
        election = self.elections[name]
        return election.term if election.leader == number else 0

    def _elect(self, name: str) -> None:
        """Let the first candidate lead, if it does not; forget what has none."""
        election = self.elections[name]
        if not election.queue:
            del self.elections[name]
            return
        first = next(iter(election.queue))
        if first != election.leader:
            self.last_term += 1
            election.leader, election.term = first, self.last_term

    def term_of(self, number: int, name: str) -> int | Later:
        """
        Return the term of a candidate; ``LATER`` until it leads.

        Raises:
            LeaseEndedError: It stands no more.
            NoCandidateError: It does not stand for this one.
        """
        if name not in self.lease(number).elections:
            message = f"lease {number} does not stand for {name!r}"
            raise NoCandidateError(message)
        election = self.elections[name]
        return election.term if election.leader == number else LATER

    def leader(self, name: str, known: int | None) -> Leader | Later | None:
        """Return who leads; ``LATER`` while it is the one of the term *known*."""
        election = self.elections.get(name)
        if known == (0 if election is None else election.term):
            return LATER
        if election is None:
            return None
        candidate = election.queue[election.leader]
        waiting = len(election.queue) - 1
        return Leader(election.term, candidate, election.leader, waiting)

    # --- services ----------------------------------------------------------

    def register(self, wanted: Register) -> int:
        """
        Note where an instance is; return the service's revision.

        Raises:
            LeaseEndedError: The lease has ended.
            SupersededError: A newer registrant has the instance.
            TooManyError: There are too many registrations.
        """
        lease = self.lease(wanted.lease)
        service = self.services.get(wanted.service)
        former = None if service is None else service.instances.get(wanted.instance)
        if former is not None and former.age() > (wanted.origin, wanted.lease):
            message = f"lease {former.lease} has registered {wanted.instance!r}"
            raise SupersededError(message)
        is_own = former is not None and former.lease == wanted.lease
        if not is_own:
            self._check_room(lease)
            self._check_instances(service, former)
        elif former is not None and former.version >= wanted.version:
            return former.revision  # it was said before
        if former is not None:
            self._leave(former.lease, wanted.service, wanted.instance)
        return self._note(wanted, lease)

    def _check_instances(
        self, service: Service | None, former: Registration | None
    ) -> None:
        count = 0 if service is None or former else len(service.instances)
        if count >= MAX_INSTANCES:
            message = f"a service has {MAX_INSTANCES} instances at most"
            raise TooManyError(message)

    def _leave(self, number: int, service: str, instance: str) -> None:
        """Let a lease have an instance no more."""
        self.lease(number).instances.remove((service, instance))
        self.items -= 1

    def _note(self, wanted: Register, lease: Lease) -> int:
        service = self.services.setdefault(wanted.service, Service())
        self.empty.pop(wanted.service, None)
        self.items += 1
        lease.instances.add((wanted.service, wanted.instance))
        self._changed(service)
        service.instances[wanted.instance] = Registration(
            wanted.lease,
            wanted.origin,
            wanted.version,
            service.revision,
            wanted.address,
            wanted.metadata,
        )
        return service.revision

    def _deregister(self, name: str, instance: str) -> None:
        service = self.services[name]
        del service.instances[instance]
        self._changed(service)
        if service.instances:
            return
        self.empty[name] = None
        if len(self.empty) > MAX_EMPTY:
            gone, _ = self.empty.popitem(last=False)
            self.forgotten = self.services.pop(gone).revision

    def _changed(self, service: Service) -> None:
        self.revision += 1
        service.revision = self.revision

    def instances(self, name: str, after: int | None) -> Instances | Later:
        """Return who offers a service; ``LATER`` up to the revision *after*."""
        service = self.services.get(name)
        revision = self.forgotten if service is None else service.revision
        if after is not None and revision <= after:
            return LATER
        found = {} if service is None else service.instances
        return Instances(
            revision,
            tuple(
                Instance(each, of.address, dict(of.metadata), of.revision)
                for each, of in sorted(found.items())
            ),
        )
