"""The API: what the raft command shows and does, over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from consensus.errors import (
    CommandFailedError,
    CompactedError,
    DiskFullError,
    InvalidChangeError,
    InvalidCommandError,
    InvariantError,
    LeadershipLostError,
    NotLeaderError,
    OverloadedError,
    ProtocolError,
    RaftError,
    StaleError,
    TimedOutError,
    UnknownServerError,
    UnreachableError,
)
from consensus.http.problems import problem_of
from tests.support.servers import Servers
from tests.support.web import browser_of

if TYPE_CHECKING:
    from tests.support.web import Browser


class Cluster:
    """Three servers, and a connection to a follower's port."""

    def __init__(self) -> None:
        self.servers = Servers()
        self.chief = self.servers.leader()
        self.servers.result(self.chief.write(["set", "a", 1]))
        self.servers.run(0.5)
        self.follower = self.servers.followers()[0]
        self.browser: Browser = browser_of(self.servers, self.follower)

    def get(self, path: str) -> Any:
        """Return what *path* answers."""
        reply = self.browser.get(f"/api/v1/{path}")
        assert reply.status == 200, reply.body
        return reply.json

    def post(self, path: str, body: Any = None) -> Any:
        """Return what a POST to *path* answers."""
        reply = self.browser.ask("POST", f"/api/v1/{path}", body or {})
        assert reply.status == 200, reply.body
        return reply.json


@pytest.fixture
def cluster() -> Cluster:
    """Return one."""
    return Cluster()


class HealthTests:
    """Whether a server lives, and can serve."""

    def test_ready(self, cluster: Cluster) -> None:
        """One that knows a leader and has caught up is."""
        reply = cluster.browser.get("/readyz")
        assert reply.status == 200
        assert reply.json["ready"]
        assert reply.json["leader"] == cluster.chief.name

    def test_without_a_majority(self, cluster: Cluster) -> None:
        """Alone, a server lives and is not ready, and says why."""
        for name in [cluster.chief.name, cluster.servers.followers()[1].name]:
            cluster.servers.stop(name)
        cluster.servers.run(3)
        assert cluster.browser.get("/livez").status == 200
        reply = cluster.browser.get("/readyz")
        assert reply.status == 503
        assert "no leader is known" in reply.json["missing"]

    def test_behind(self, cluster: Cluster) -> None:
        """One that was cut off for a while has an old state, and says how old."""
        other = cluster.servers.followers()[1].name
        for name in (cluster.chief.name, other):
            cluster.servers.network.cut(cluster.follower.name, name)
            cluster.servers.network.cut(name, cluster.follower.name)
        cluster.servers.run(5)
        reply = cluster.browser.get("/readyz")
        assert reply.status == 503
        assert any("was the newest" in each for each in reply.json["missing"])

    def test_stopped(self, cluster: Cluster) -> None:
        """A server that has failed does not live; other questions are 503."""
        cluster.servers.stop(cluster.follower.name)
        for path in ("/livez", "/readyz", "/api/v1/status", "/api/v1/members"):
            assert cluster.browser.get(path).status == 503
        assert b"raft_up{" in cluster.browser.get("/metrics").body


class ShowTests:
    """What is shown, at a server that does not lead."""

    def test_status(self, cluster: Cluster) -> None:
        """It is the asked server's own."""
        found = cluster.get("status")
        assert found["server"] == cluster.follower.name
        assert found["role"] == "follower"

    def test_members(self, cluster: Cluster) -> None:
        """All are asked; who does not answer is reported so."""
        found = cluster.get("members")
        assert found["leader"] == cluster.chief.name
        assert [each["reachable"] for each in found["members"]] == [True] * 3
        silent = cluster.servers.followers()[1].name
        cluster.servers.stop(silent)
        by_name = {each["server"]: each for each in cluster.get("members")["members"]}
        assert not by_name[silent]["reachable"]
        assert by_name[silent]["error"]
        assert "role" not in by_name[silent]

    def test_leader(self, cluster: Cluster) -> None:
        """Who leads, and where."""
        name = cluster.chief.name
        assert cluster.get("leader") == {"leader": name, "address": name, "term": 2}

    def test_peers(self, cluster: Cluster) -> None:
        """The leader's view of each other server, whoever is asked."""
        found = cluster.get("peers")
        assert found["leader"] == cluster.chief.name
        names = {each["server"] for each in found["peers"]}
        assert names == {each.name for each in cluster.servers.followers()}
        assert {each["match_index"] for each in found["peers"]} == {3}
        assert {each["lag"] for each in found["peers"]} == {0}

    def test_latency(self, cluster: Cluster) -> None:
        """The leader's writes."""
        found = cluster.get("latency")
        assert found["server"] == cluster.chief.name
        assert len(found["latencies"]) == 1
        assert [each["writes"] for each in found["seconds"]] == [1]

    def test_log(self, cluster: Cluster) -> None:
        """Commands are what the machine makes of them; the last by default."""
        found = cluster.get("log")
        assert [each["kind"] for each in found["entries"]] == [
            *("membership", "noop", "command")
        ]
        assert found["entries"][-1]["command"] == "['set', 'a', 1]"
        assert [e["index"] for e in cluster.get("log?limit=1")["entries"]] == [3]
        assert [e["index"] for e in cluster.get("log?from=2")["entries"]] == [2, 3]
        assert cluster.get("log?from=4")["entries"] == []

    def test_compacted_log(self, cluster: Cluster) -> None:
        """A log begins where it was cut."""
        for number in range(30):
            cluster.servers.result(cluster.chief.write(["set", "a", "x" * 9 * number]))
        found = cluster.get("log?from=0&limit=5")
        assert found["entries"][0]["index"] == found["first_index"]

    def test_events(self, cluster: Cluster) -> None:
        """What happened, and, after a wait, what happens."""
        found = cluster.get("events")
        roles = [each for each in found["events"] if each["what"] == "role"]
        assert roles[-1]["leader"] == cluster.chief.name
        cluster.browser.begin("GET", f"/api/v1/events?after={found['last']}&wait=30")
        cluster.servers.run(1)
        assert cluster.browser.reply() is None
        cluster.servers.result(cluster.chief.transfer(cluster.follower.name))
        assert cluster.browser.wait().json["events"][0]["what"] == "role"

    def test_events_that_do_not_come(self, cluster: Cluster) -> None:
        """A wait has its end."""
        last = cluster.get("events")["last"]
        assert cluster.get(f"events?after={last}&wait=2")["events"] == []


class ChangeTests:
    """What is done, asked of a server that does not lead."""

    def test_members(self, cluster: Cluster) -> None:
        """One comes, and goes."""
        body = {"server": "s4", "address": "s4", "learner": True}
        assert cluster.post("members", body)["index"]
        assert "s4" in cluster.chief.status().learners
        assert not cluster.chief.status().target
        cluster.post("members/s4/promote")
        assert "s4" in cluster.chief.status().target
        reply = cluster.browser.ask("DELETE", "/api/v1/members/s4")
        assert reply.status == 200
        assert "s4" not in cluster.chief.status().learners

    def test_refused(self, cluster: Cluster) -> None:
        """A change that makes no sense changes nothing, and says why."""
        reply = cluster.browser.ask("DELETE", "/api/v1/members/s9")
        assert reply.status == 409
        assert reply.json["error"]["code"] == "invalid_change"
        assert "s9 is no member" in reply.json["error"]["message"]

    def test_transfer(self, cluster: Cluster) -> None:
        """Another leads."""
        heir = cluster.follower.name
        assert cluster.post("transfer", {"server": heir})["leader"] == heir
        assert cluster.servers.leader().name == heir
        assert cluster.post("transfer", {"server": heir})["leader"] == heir
        assert cluster.servers.leader().name == heir
        refused = cluster.browser.ask("POST", "/api/v1/transfer", {"server": "s9"})
        assert refused.status == 409
        assert cluster.post("transfer")["leader"] != heir

    def test_snapshot(self, cluster: Cluster) -> None:
        """All that are reachable, or those that are named."""
        found = cluster.post("snapshot")
        assert [each["server"] for each in found] == ["s1", "s2", "s3"]
        assert all(each["index"] == 3 and each["bytes"] for each in found)
        found = cluster.post("snapshot", {"servers": ["s2"]})
        assert [each["server"] for each in found] == ["s2"]
        reply = cluster.browser.ask("POST", "/api/v1/snapshot", {"servers": ["s9"]})
        assert reply.status == 404

    def test_compact(self, cluster: Cluster) -> None:
        """The log begins where the snapshot ends, at all or at those named."""
        cluster.post("snapshot")
        found = cluster.post("compact", {"servers": ["s2"], "keep": 1})
        assert found == [{"server": "s2", "first_index": 3}]
        found = cluster.post("compact")
        assert [each["first_index"] for each in found] == [4, 4, 4]
        reply = cluster.browser.ask("POST", "/api/v1/compact", {"servers": ["s9"]})
        assert reply.status == 404

    def test_explain(self, cluster: Cluster) -> None:
        """An entry is told with who proposed it, and who had it."""
        found = cluster.get("explain/3")
        assert found["leader"] == cluster.chief.name
        assert found["entry"]["command"] == "['set', 'a', 1]"
        assert [each["server"] for each in found["servers"]] == ["s1", "s2", "s3"]
        assert all(each["applied"]["is_done"] for each in found["servers"])
        for path, status in (("explain/x", 400), ("explain/99", 400)):
            assert cluster.browser.get(f"/api/v1/{path}").status == status

    def test_nobody_leads(self, cluster: Cluster) -> None:
        """Without a leader nothing is done, and that is said."""
        for each in (cluster.chief, cluster.servers.followers()[1]):
            cluster.servers.stop(each.name)
        cluster.servers.run(2)
        reply = cluster.browser.ask("POST", "/api/v1/transfer", {})
        assert reply.status == 503
        assert reply.headers["retry-after"] == "1"


class StatusTests:
    """Which status an error is."""

    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (NotLeaderError("s2", "tcp:b:1"), 421),
            (NotLeaderError(), 503),
            (InvalidCommandError("x"), 400),
            (InvalidChangeError("x"), 409),
            (OverloadedError("x"), 503),
            (UnreachableError("x"), 503),
            (StaleError("x"), 503),
            (UnknownServerError("x"), 404),
            (TimedOutError("x"), 504),
            (LeadershipLostError("x"), 504),
            (CommandFailedError("KeyError", "x"), 422),
            (CompactedError(5), 410),
            (DiskFullError("x"), 507),
            (ProtocolError("x"), 502),
            (InvariantError("x"), 500),
            (RaftError("x"), 500),
        ],
    )
    def test_each(self, error: RaftError, status: int) -> None:
        """It follows from what a caller may do next; the code says which it is."""
        problem = problem_of(error)
        assert problem.status == status
        assert problem.error["code"] == error.code

    def test_what_more_there_is(self) -> None:
        """One that is not the leader's names the leader; an unknown outcome is said."""
        assert problem_of(NotLeaderError("s2", "tcp:b:1")).error["leader"] == "s2"
        message = problem_of(TimedOutError("late")).error["message"]
        assert message.startswith("it is not known whether this was done")
