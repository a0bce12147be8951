"""Tests of consensus.applications.client_lease."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from consensus.applications.client_lease import ClientLease
from consensus.errors import OutcomeUnknownError, UnreachableError
from tests.support.deferreds import has_fired

#: What the servers say of a lease.
KEPT, GONE = True, False


class Renewals:
    """A lease of 12 seconds, and the requests that it sends."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.sent: list[Deferred[bool]] = []
        self.patience = 0.0
        self.lease = ClientLease(self.clock, 12.0, self.renew)

    def renew(self, patience: float) -> Deferred[bool]:
        """Keep the request open, for the test to answer."""
        self.patience = patience
        self.sent.append(Deferred())
        return self.sent[-1]

    def begin(self) -> ClientLease:
        """Let the lease have been granted to a request that was sent now."""
        self.lease.begin(self.clock.seconds())
        return self.lease

    def pass_time(self, seconds: float) -> None:
        """Let time pass in small steps."""
        for _ in range(round(seconds * 10)):
            self.clock.advance(0.1)


@pytest.fixture
def renewals() -> Renewals:
    """Return a lease that has not begun."""
    return Renewals()


class SureTests:
    """For how long a lease is sure."""

    def test_before_it_is_granted(self, renewals: Renewals) -> None:
        assert not renewals.lease.is_sure
        assert renewals.lease.remaining == 0.0

    def test_less_than_the_ttl(self, renewals: Renewals) -> None:
        """A tenth is kept back for clocks that drift, and a moment for the log's."""
        lease = renewals.begin()
        renewals.clock.advance(10.79)
        assert lease.is_sure
        assert 0 < lease.remaining < 0.02
        renewals.clock.advance(0.01)
        assert not lease.is_sure

    def test_it_counts_from_the_request(self, renewals: Renewals) -> None:
        """The servers may have counted since then: not since the answer."""
        renewals.clock.advance(5.0)
        renewals.lease.begin(0.0)
        renewals.clock.advance(5.79)
        assert renewals.lease.is_sure
        renewals.clock.advance(0.01)
        assert not renewals.lease.is_sure

    def test_a_grant_that_came_too_late(self, renewals: Renewals) -> None:
        renewals.clock.advance(11.0)
        renewals.lease.begin(0.0)
        assert not renewals.lease.is_sure
        assert has_fired(renewals.lease.lost)
        renewals.pass_time(30.0)
        assert not renewals.sent

    def test_a_process_that_stood_still_knows(self) -> None:
        """What the clock shows counts, not the timers, which are late."""
        renewals = Renewals()
        lease = renewals.begin()
        renewals.clock.rightNow += 11.0
        assert not lease.is_sure

    def test_no_drift(self) -> None:
        renewals = Renewals()
        lease = ClientLease(renewals.clock, 12.0, renewals.renew, drift=0.0)
        lease.begin(0.0)
        renewals.clock.advance(11.99)
        assert lease.is_sure

    def test_a_margin(self) -> None:
        renewals = Renewals()
        lease = ClientLease(renewals.clock, 12.0, renewals.renew, margin=3.0)
        lease.begin(0.0)
        renewals.clock.advance(7.79)
        assert [lease.is_sure] == [True]
        renewals.clock.advance(0.01)
        assert not lease.is_sure
        assert has_fired(lease.lost)

    def test_once_unsure_always_unsure(self) -> None:
        """A renewal that was granted in time, and is heard of too late, is lost."""
        renewals = Renewals()
        lease = renewals.begin()
        renewals.pass_time(4.1)
        renewals.clock.rightNow += 7.0
        assert not lease.is_sure
        renewals.sent[0].callback(KEPT)
        assert not lease.is_sure
        assert has_fired(lease.lost)


class RenewalTests:
    """When it is renewed, and what becomes of it."""

    def test_every_third_of_the_ttl(self, renewals: Renewals) -> None:
        lease = renewals.begin()
        for count in range(1, 6):
            renewals.pass_time(4.1)
            assert len(renewals.sent) == count
            renewals.sent[-1].callback(KEPT)
        assert renewals.patience == 3.0
        assert lease.is_sure
        assert not has_fired(lease.lost)

    def test_a_slow_answer_counts_from_its_request(self, renewals: Renewals) -> None:
        lease = renewals.begin()
        renewals.pass_time(6.0)
        renewals.sent[0].callback(KEPT)
        assert 8.7 < lease.remaining < 8.9

    def test_a_failure_is_followed_by_another_attempt(self, renewals: Renewals) -> None:
        lease = renewals.begin()
        renewals.pass_time(4.1)
        renewals.sent[0].errback(OutcomeUnknownError("no answer"))
        renewals.pass_time(0.6)
        renewals.sent[1].errback(UnreachableError("nobody there"))
        renewals.pass_time(0.6)
        renewals.sent[2].callback(KEPT)
        renewals.pass_time(8.0)
        assert lease.is_sure

    def test_it_is_lost_when_nobody_answers(self, renewals: Renewals) -> None:
        """Whoever waits hears of it when it is not sure any more; then it rests."""
        lease = renewals.begin()
        lost, also = lease.lost, lease.lost
        renewals.pass_time(4.1)
        renewals.sent[0].errback(OutcomeUnknownError("no answer"))
        renewals.pass_time(6.6)
        assert not has_fired(lost)
        renewals.pass_time(0.2)
        assert has_fired(lost)
        assert has_fired(also)
        assert has_fired(lease.lost)
        assert not lease.is_sure
        count = len(renewals.sent)
        renewals.pass_time(30.0)
        assert len(renewals.sent) == count

    def test_it_is_lost_when_the_servers_have_ended_it(
        self, renewals: Renewals
    ) -> None:
        lease = renewals.begin()
        lost = lease.lost
        renewals.pass_time(4.1)
        renewals.sent[0].callback(GONE)
        assert has_fired(lost)
        assert not lease.is_sure
        assert lease.remaining == 0.0
        assert not renewals.clock.getDelayedCalls()

    def test_an_answer_after_the_end(self, renewals: Renewals) -> None:
        """It does not bring the lease back to life."""
        asked: list[Deferred[bool]] = []

        def renew(_: float) -> Deferred[bool]:
            asked.append(Deferred(lambda called_off: called_off.callback(KEPT)))
            return asked[-1]

        lease = ClientLease(renewals.clock, 12.0, renew)
        lease.begin(0.0)
        renewals.pass_time(11.0)
        assert len(asked) == 1
        assert has_fired(asked[0])
        assert has_fired(lease.lost)
        assert not lease.is_sure
        assert not renewals.clock.getDelayedCalls()

    def test_an_error_of_another_kind_ends_it(self, renewals: Renewals) -> None:
        """A bug is logged, not tried again for ever."""
        lease = renewals.begin()
        renewals.pass_time(4.1)
        with capturedLogs() as events:
            renewals.sent[0].errback(ZeroDivisionError("a bug"))
        assert has_fired(lease.lost)
        assert [str(event["log_failure"].value) for event in events] == ["a bug"]


class EndTests:
    """Giving it back."""

    def test_it_is_not_lost_but_over(self, renewals: Renewals) -> None:
        lease = renewals.begin()
        lost = lease.lost
        lease.end()
        lease.end()
        lease.lose()
        assert not lease.is_sure
        assert not has_fired(lost)
        assert not renewals.clock.getDelayedCalls()

    def test_an_attempt_is_called_off(self, renewals: Renewals) -> None:
        lease = renewals.begin()
        renewals.pass_time(4.1)
        lease.end()
        assert has_fired(renewals.sent[0])

    def test_who_does_not_care_any_more(self, renewals: Renewals) -> None:
        """A cancelled wait is forgotten, and one that is called off."""
        lease = renewals.begin()
        lost = lease.lost
        lost.addErrback(lambda _: None)
        lost.cancel()
        off = lease.lost
        lease.forget(off)
        lease.forget(off)
        lease.lose()
        assert not has_fired(off)
