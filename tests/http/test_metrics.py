"""What Prometheus reads, and what is written of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from consensus.core.values import Role
from consensus.errors import RaftError, _all_classes
from consensus.http.metrics import METRICS, OWN
from tests.support.servers import Servers
from tests.support.web import browser_of

if TYPE_CHECKING:
    from consensus.server import RaftServer

DOCS = Path(__file__).parents[2] / "docs"

_NAME = re.compile(r"\braft_[a-z_]+")

#: A metric, and the labels that are asked of it.
_CHOICE = re.compile(r"\b(raft_[a-z_]+)\{([^}]*)\}")
_LABEL = re.compile(r"(\w+)=~?\"")
_GROUPS = re.compile(r"\bby \(([^)]*)\)")


def scrape(servers: Servers, server: RaftServer) -> dict[str, Any]:
    """Return the families that *server* publishes, by name."""
    reply = browser_of(servers, server).get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    return {
        each.name: each for each in text_string_to_metric_families(reply.body.decode())
    }


def value(family: Any, suffix: str = "", **labels: str) -> float:
    """Return the sample of *family* with *labels*."""
    (found,) = [
        each.value
        for each in family.samples
        if each.name == family.name + suffix and labels.items() <= each.labels.items()
    ]
    return float(found)


@pytest.fixture(scope="module")
def servers() -> Servers:
    """Return a cluster that has done a little of everything."""
    made = Servers()
    chief = made.leader()
    for number in range(5):
        made.result(chief.write(["set", "a", number]))
    made.result(chief.write_many([["set", "b", 1]] * 20))
    made.failing(chief.write(["fail", "x"]), Exception)
    made.failing(made.followers()[0].write(["set", "a", 1]), Exception)
    made.result(chief.read("a"))
    made.result(chief.read("a", consistency="stale"))
    made.result(chief.snapshot())
    made.run(0.5)
    return made


class ExpositionTests:
    """What a server publishes."""

    def test_counts(self, servers: Servers) -> None:
        """It is what happened."""
        found = scrape(servers, servers.leader())
        assert value(found["raft_up"]) == 1
        assert value(found["raft_role"], role="leader") == 1
        assert value(found["raft_role"], role="follower") == 0
        assert value(found["raft_term"]) == 2
        assert value(found["raft_has_leader"]) == 1
        assert value(found["raft_leader_changes"], "_total") == 1
        assert value(found["raft_proposals"], "_total") == 26
        assert value(found["raft_failures"], "_total", code="command_failed") == 1
        assert value(found["raft_reads"], "_total", consistency="linearizable") == 1
        assert value(found["raft_reads"], "_total", consistency="stale") == 1
        assert value(found["raft_write_duration_seconds"], "_count") == 26
        assert value(found["raft_commit_duration_seconds"], "_count") == 26
        assert value(found["raft_batch_commands"], "_count") == 7
        assert value(found["raft_batch_commands"], "_sum") == 26
        assert value(found["raft_batch_commands"], "_bucket", le="1.0") == 6
        assert value(found["raft_snapshot_duration_seconds"], "_count") == 1
        assert value(found["raft_snapshot_bytes"], "_total") > 0
        assert value(found["raft_sync_duration_seconds"], "_count") > 0
        assert value(found["raft_apply_lag_entries"]) == 0
        assert value(found["raft_commit_index"]) == value(found["raft_applied_index"])
        assert value(found["raft_members"], standing="voter") == 3
        assert value(found["raft_queue_depth"], queue="writes") == 0
        assert len(found["raft_peer_in_flight_appends"].samples) == 2

    def test_follower(self, servers: Servers) -> None:
        """It has no peers to tell of, and counts its own failures."""
        found = scrape(servers, servers.followers()[0])
        assert value(found["raft_role"], role="follower") == 1
        assert not found["raft_peer_lag_entries"].samples
        assert value(found["raft_failures"], "_total", code="not_leader") == 1

    def test_form(self, servers: Servers) -> None:
        """Names, units, help and labels are as Prometheus wants them."""
        found = scrape(servers, servers.leader())
        assert len(found) == len(METRICS) == len({each.name for each in METRICS})
        for metric in METRICS:
            family = found[metric.name]
            assert family.type == metric.kind
            assert family.documentation.endswith(".")
            assert re.fullmatch(r"raft(_[a-z]+)+", metric.name)
            assert not metric.name.endswith(("_total", "_count", "_sum", "_bucket"))
            for sample in family.samples:
                assert set(sample.labels) - {"le"} == {*OWN, *metric.labels}
                assert (sample.labels["cluster"], metric.kind) == ("raft", family.type)
            if metric.kind == "histogram":
                check_buckets(family, metric.bounds)
            if "duration" in metric.name or "seconds" in metric.name:
                assert metric.name.endswith("_seconds")


def check_buckets(family: Any, bounds: Any) -> None:
    """See that the buckets of *family* are those that are promised, and grow."""
    buckets = [each for each in family.samples if each.name.endswith("_bucket")]
    assert [float(each.labels["le"]) for each in buckets] == [*bounds, float("inf")]
    counts = [each.value for each in buckets]
    assert counts == sorted(counts)
    assert counts[-1] == value(family, "_count")


class PageTests:
    """What is written of the metrics."""

    def test_reference(self) -> None:
        """The page has every metric with its kind, labels and buckets; no other."""
        text = (DOCS / "reference/metrics.md").read_text()
        rows = re.findall(
            r"^\| `(raft_\w+)` \| (\w+) \| ([^|]*) \|", text, re.MULTILINE
        )
        assert rows == [
            (
                each.full_name,
                each.kind,
                ", ".join(f"`{label}`" for label in each.labels),
            )
            for each in METRICS
        ]
        for each in METRICS:
            if each.bounds:
                words = ", ".join(f"{bound:g}" for bound in each.bounds)
                assert words in " ".join(text.split())

    @pytest.mark.parametrize(
        "name", ["deploy/grafana-dashboard.json", "deploy/alerts.yaml"]
    )
    def test_names(self, name: str) -> None:
        """Every metric that is asked for is one."""
        known = {each.full_name for each in METRICS if each.kind != "histogram"}
        for each in METRICS:
            if each.kind == "histogram":
                known |= {each.name + s for s in ("_bucket", "_sum", "_count")}
        named = {
            word for text in expressions(DOCS / name) for word in _NAME.findall(text)
        }
        assert named
        assert not named - known

    @pytest.mark.parametrize(
        "name", ["deploy/grafana-dashboard.json", "deploy/alerts.yaml"]
    )
    def test_labels(self, name: str) -> None:
        """Every label that is asked for is one of its metric's."""
        asked = expressions(DOCS / name)
        chosen = [found for text in asked for found in _CHOICE.findall(text)]
        assert chosen
        for metric, labels in chosen:
            assert set(_LABEL.findall(labels)) <= labels_of(metric), metric
        for text in asked:
            has = set[str]().union(*map(labels_of, _NAME.findall(text)))
            for group in _GROUPS.findall(text):
                assert set(group.split(", ")) <= has, text

    def test_values(self) -> None:
        """Every role, standing and code that an alert asks for is one."""
        known = {
            "role": {role.value for role in Role},
            "standing": {"voter", "learner"},
            "code": {each.code for each in _all_classes(RaftError)},
            "job": {"raft"},
        }
        for text in expressions(DOCS / "deploy/alerts.yaml"):
            for label, values in re.findall(r'(\w+)=~?"([^"]+)"', text):
                assert set(values.split("|")) <= known[label], text


def labels_of(metric: str) -> set[str]:
    """Return the labels of what is called *metric* in an expression."""
    for each in METRICS:
        if metric == each.full_name:
            return {*OWN, *each.labels}
        if each.kind == "histogram" and metric.startswith(f"{each.name}_"):
            return {*OWN, *each.labels, "le"}
    raise AssertionError(metric)


def expressions(path: Path) -> list[str]:
    """Return all that Prometheus is asked in *path*."""
    if path.suffix == ".json":
        board = json.loads(path.read_text())
        asked = [
            target["expr"] for panel in board["panels"] for target in panel["targets"]
        ]
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
        return asked
    rules = yaml.safe_load(path.read_text())["groups"]
    for each in [rule for group in rules for rule in group["rules"]]:
        assert {"alert", "expr", "for", "labels", "annotations"} == set(each)
        assert {"summary", "description"} == set(each["annotations"])
    return [rule["expr"] for group in rules for rule in group["rules"]]
