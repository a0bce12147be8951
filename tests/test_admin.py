"""What an operator asks of a whole cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.defer import Deferred

from adapters.transport.memory import MemoryOptions, MemoryTransport
from consensus import admin
from consensus.admin import Report
from consensus.client import Client
from consensus.core.values import Status
from consensus.errors import MembershipPendingError
from tests.support.servers import Servers

if TYPE_CHECKING:
    from collections.abc import Sequence


def survey(servers: Servers) -> Sequence[Report]:
    """Ask all members, as ``raft status`` does."""
    options = MemoryOptions(servers.mapping["transport"]["options"]["network"])
    transport = MemoryTransport(options, servers.reactor, servers.reactor)
    members = {name: name for name in servers.names}
    client = Client(members, transport, servers.reactor, timeout=5)
    reports: Sequence[Report] = servers.result(admin.survey(client, members, 2))
    servers.result(client.close())
    return reports


class SurveyTests:
    """Asking everybody."""

    def test_all_answer(self) -> None:
        """Every member reports, in the order of the config."""
        servers = Servers()
        chief = servers.leader()
        servers.run(1)
        reports = survey(servers)
        assert [report.server for report in reports] == ["s1", "s2", "s3"]
        for report in reports:
            assert report.status == servers.servers[report.server].status()
            assert report.error == ""
        assert admin.find_leader(reports) == chief.name

    def test_some_are_down(self) -> None:
        """A member that does not answer is reported with the reason."""
        servers = Servers()
        follower = servers.followers()[0].name
        servers.stop(follower)
        silent = [report for report in survey(servers) if report.status is None]
        assert [report.server for report in silent] == [follower]
        assert "no server answers there" in silent[0].error

    def test_nobody_answers(self) -> None:
        """Even then there is a report of everybody, and no leader."""
        servers = Servers()
        for name in servers.names:
            servers.stop(name)
        reports = survey(servers)
        assert [report.status for report in reports] == [None, None, None]
        assert admin.find_leader(reports) is None

    def test_hanging(self) -> None:
        """Members that hang are given up together, not one after the other."""
        servers = Servers()
        network = MemoryTransport(
            MemoryOptions(servers.mapping["transport"]["options"]["network"]),
            servers.reactor,
            servers.reactor,
        ).network
        for name in servers.names:
            network.cut(name, "")
        before = servers.reactor.seconds()
        reports = survey(servers)
        assert all(report.status is None for report in reports)
        assert 2 <= servers.reactor.seconds() - before < 2.1


class MembershipTests:
    """Who belongs to the cluster, found out and changed by a client."""

    @staticmethod
    def client(servers: Servers, *names: str) -> Client:
        """Return a client that knows these."""
        options = MemoryOptions(servers.mapping["transport"]["options"]["network"])
        transport = MemoryTransport(options, servers.reactor, servers.reactor)
        members = {name: name for name in names}
        return Client(members, transport, servers.reactor, timeout=5)

    def test_census(self) -> None:
        """The real members are found, beginning with one that is none any more."""
        servers = Servers()
        chief = servers.leader()
        servers.result(chief.write(["set", "a", 1]))
        leaver, other = [each.name for each in servers.followers()]
        client = self.client(servers, leaver)
        servers.start("s4", members={})
        servers.result(admin.add(client, "s4", "s4"))
        servers.until(lambda: "s4" in chief.status().membership)
        servers.until(lambda: not chief.status().outgoing)
        servers.result(admin.add(client, "s5", "s5", as_learner=True))
        servers.result(admin.remove(client, leaver))
        servers.run(0.5)
        work = admin.census(client, {leaver: leaver}, ["nowhere"], 2)
        counted = servers.result(Deferred.fromCoroutine(work))
        assert counted.leader == chief.name
        found = {each.server: each.standing for each in counted.members}
        assert found == {chief.name: "voter", other: "voter", "s4": "voter"} | {
            "s5": "learner"
        }
        assert [(each.server, each.standing) for each in counted.others] == [
            (leaver, "none")
        ]
        silent = [each.server for each in counted.members if each.status is None]
        assert silent == ["s5"]

    def test_changes(self) -> None:
        """A whole membership is changed from outside, and members are promoted."""
        servers = Servers()
        chief = servers.leader()
        servers.result(chief.write(["set", "a", 1]))
        client = self.client(servers, "s1")
        present = chief.status()
        index = servers.result(
            admin.change_membership(
                client, present.membership, {"s4": "s4"}, present.membership_index
            )
        )
        assert chief.status().membership_index == index
        servers.result(admin.promote(client, "s4"))
        work = admin.census(client, {"s1": "s1"}, (), 2)
        counted = servers.result(Deferred.fromCoroutine(work))
        assert [each.standing for each in counted.members] == ["voter"] * 3 + [
            "joining"
        ]
        before = servers.reactor.seconds()
        with pytest.raises(MembershipPendingError):
            servers.result(admin.add(client, "s5", "s5"))
        assert servers.reactor.seconds() - before < 1  # at once
        index, size = servers.result(admin.snapshot(client, chief.name))
        assert (index, size > 0) == (chief.status().snapshot_index, True)


def report(server: str, role: str, term: int) -> Report:
    """Return the report of a member in this role and term."""
    known: dict[str, Any] = {
        "cluster": "raft",
        "leader": None,
        "membership": {},
        "commit_index": 0,
        "last_applied": 0,
        "last_index": 0,
    }
    return Report(server, server, Status(server=server, role=role, term=term, **known))


class FindLeaderTests:
    """Who leads, as far as the answers tell."""

    def test_nobody(self) -> None:
        """While all are followers there is none."""
        assert admin.find_leader([report("s1", "follower", 3)]) is None
        assert admin.find_leader([]) is None

    def test_newest_term(self) -> None:
        """Of two that claim to lead, the one of the newer term does."""
        reports = [report("s1", "leader", 3), report("s2", "leader", 4)]
        assert admin.find_leader(reports) == "s2"

    def test_deposed(self) -> None:
        """A leader is none any more once somebody has seen a newer term."""
        reports = [report("s1", "leader", 3), report("s2", "candidate", 4)]
        assert admin.find_leader(reports) is None
