"""Traces of writes, in one cluster and over HTTP."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, cast

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from twisted.internet.defer import Deferred
from twisted.protocols.policies import WrappingFactory
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import Site

from consensus import checks, config
from consensus.clock import default_reactor
from consensus.errors import ConfigError
from consensus.settings.values import Tracing
from consensus.tracing import MOST_OPEN, Traces, traces_of
from tests.support.servers import Register, Servers


class Broken(InMemorySpanExporter):
    """An exporter that fails."""

    def export(self, spans: Any) -> Any:
        """Raise."""
        raise OSError(spans)


def traced(
    servers: Servers, sample: float = 1.0, exporter: Any = None
) -> InMemorySpanExporter:
    """Let all servers trace; return where spans go."""
    spans = InMemorySpanExporter() if exporter is None else exporter

    def now() -> int:
        return round(servers.reactor.seconds() * 1e9) + 1

    for name, server in servers.servers.items():
        assert server._driver is not None
        server._driver.traces = Traces(name, "raft", sample, spans, now)
    return spans


def flush(servers: Servers) -> None:
    """Wait for what the exporters' threads have not exported yet."""
    for server in servers.servers.values():
        assert server._driver is not None
        assert server._driver.traces is not None
        assert server._driver.traces._provider.force_flush()


class TracesTests:
    """What a write leaves behind."""

    def test_whole(self) -> None:
        """All servers' spans of an entry are one trace, under the leader's."""
        servers = Servers()
        leader = servers.leader()
        spans = traced(servers)
        _, index = servers.result(leader.write(["set", "a", "s3cret"], with_index=True))
        servers.run(0.5)
        flush(servers)
        found: dict[str, list[Any]] = defaultdict(list)
        finished: list[Any] = [
            each
            for each in cast("tuple[Any, ...]", spans.get_finished_spans())
            if each.attributes["raft.index"] == index
        ]
        for each in finished:
            found[each.name].append(each)
        (root,) = found["raft.write"]
        assert root.parent is None
        assert root.attributes["raft.server"] == leader.name
        assert len({each.context.trace_id for each in finished}) == 1
        others = [each for each in finished if each is not root]
        assert {each.parent.span_id for each in others} == {root.context.span_id}
        for name in ("raft.sync", "raft.commit", "raft.apply"):
            by = sorted(each.attributes["raft.server"] for each in found[name])
            assert by == ["s1", "s2", "s3"]
        followers = {each.attributes["raft.peer"] for each in found["raft.append"]}
        assert followers == {"s1", "s2", "s3"} - {leader.name}
        assert all(each.end_time >= each.start_time for each in finished)
        assert "s3cret" not in "".join(each.to_json() for each in finished)

    def test_sample(self) -> None:
        """All servers trace the same entries, and no others."""
        servers = Servers()
        spans = traced(servers, 0.1)
        for number in range(40):
            servers.result(servers.leader().write(["set", "a", number]))
        servers.run(0.5)
        flush(servers)
        seen: dict[str, set[int]] = defaultdict(set)
        for each in cast("tuple[Any, ...]", spans.get_finished_spans()):
            seen[each.attributes["raft.server"]].add(each.attributes["raft.index"])
        assert {tuple(sorted(each)) for each in seen.values()} == {(10, 20, 30, 40)}
        assert len(seen) == 3

    def test_bounded(self) -> None:
        """What never comes to an end does not gather."""
        servers = Servers()
        leader = servers.leader()
        traced(servers)
        for other in servers.followers():
            servers.network.cut(leader.name, other.name)
        for number in range(2 * MOST_OPEN):
            leader.write(["set", "a", number]).addErrback(lambda _: None)
            servers.reactor.advance(0.0001)
        assert leader._driver is not None
        assert leader._driver.traces is not None
        assert len(leader._driver.traces._open) == MOST_OPEN

    @pytest.mark.filterwarnings("ignore")
    def test_broken(self) -> None:
        """Writes go on while nothing can be exported."""
        servers = Servers()
        traced(servers, exporter=Broken())
        for number in range(5):
            servers.result(servers.leader().write(["set", "a", number]))
        flush(servers)
        assert servers.result(servers.leader().read("a")) == 4

    def test_off(self) -> None:
        """Without it in the config there is nothing that traces."""
        servers = Servers(("s1",))
        driver = servers.servers["s1"]._driver
        assert driver is not None
        assert driver.traces is None


class ConfigTests:
    """The config's section."""

    def load(self, tracing: object) -> config.Config:
        """Return a config with *tracing*."""
        keys = {"tracing": tracing}
        return config.from_mapping(keys, name="s1", state_machine=Register)

    def test_good(self) -> None:
        """An endpoint is enough."""
        loaded = self.load({"endpoint": "http://h:4318/v1/traces"})
        assert loaded.tracing == Tracing("http://h:4318/v1/traces", 0.01)
        assert self.load(tracing=False).tracing is None
        assert "tracing.E001" not in [each.id for each in checks.run(loaded)]

    @pytest.mark.parametrize(
        ("tracing", "words"),
        [
            (True, "expected a mapping, or false"),
            ({}, "'endpoint' is missing"),
            ({"endpoint": "localhost:4318"}, "is no HTTP address"),
            ({"endpoint": "http://h/", "sample": 0}, "0.0 is out of range"),
            ({"endpoint": "http://h/", "sample": 1.5}, "1.5 is out of range"),
            ({"endpoint": "http://h/", "x": 1}, "'x' is no key here"),
        ],
    )
    def test_wrong(self, tracing: Any, words: str) -> None:
        """What is wrong with it is said."""
        with pytest.raises(ConfigError) as caught:
            self.load(tracing)
        assert words in str(caught.value)


class Collector(Resource):
    """Takes traces, as a collector does."""

    isLeaf = True  # noqa: N815 - Twisted's name

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.got: Deferred[ExportTraceServiceRequest] = Deferred()

    def render_POST(self, request: Any) -> bytes:
        """Take what is sent."""
        assert request.path == b"/v1/traces"
        said = ExportTraceServiceRequest()
        said.ParseFromString(request.content.read())
        request.setHeader(b"connection", b"close")
        if not self.got.called:
            request.notifyFinish().addCallback(lambda _: self.got.callback(said))
        return b""


class Door(WrappingFactory):
    """Knows when the first connection is gone."""

    def __init__(self, site: Any) -> None:
        super().__init__(site)  # type: ignore[no-untyped-call]
        self.gone: Deferred[None] = Deferred()

    def unregisterProtocol(self, p: Any) -> None:
        """Tell whoever waits for it."""
        super().unregisterProtocol(p)  # type: ignore[no-untyped-call]
        if not self.gone.called:
            self.gone.callback(None)


class ExportTests(TestCase):
    """Over HTTP."""

    async def test_export(self) -> None:
        """A collector gets what the config says, from another thread."""
        collector = Collector()
        door = Door(Site(collector))
        port = default_reactor().listenTCP(0, door, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        endpoint = f"http://127.0.0.1:{port.getHost().port}/v1/traces"
        keys = {"tracing": {"endpoint": endpoint, "sample": 1.0}}
        loaded = config.from_mapping(keys, name="s1", state_machine=Register)
        servers = Servers(("s1",))
        driver = servers.servers["s1"]._driver
        assert driver is not None
        driver.traces = traces_of(loaded, "s1")
        servers.result(servers.leader().write(["set", "a", 1]))
        assert driver.traces is not None
        driver.traces.stop()
        said = await collector.got
        await door.gone
        (resource,) = said.resource_spans
        names = {each.name for each in resource.scope_spans[0].spans}
        assert {"raft.write", "raft.sync", "raft.commit", "raft.apply"} <= names
        facts = {
            each.key: each.value.string_value for each in resource.resource.attributes
        }
        assert facts["service.instance.id"] == "s1"
