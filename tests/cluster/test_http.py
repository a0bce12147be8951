"""HTTP at real processes."""

from __future__ import annotations

import json
import time
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

from tests.support.processes import PATIENCE, MemberProcesses, free_ports

if TYPE_CHECKING:
    from pathlib import Path


class Port:
    """A client of one server's port."""

    def __init__(self, number: int) -> None:
        self.number = number

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Return the status and the body of an answer; 0 if nobody listens."""
        connection = HTTPConnection("127.0.0.1", self.number, timeout=PATIENCE)
        content = None if body is None else json.dumps(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            connection.request(method, path, content, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except ConnectionError:
            return 0, b""
        finally:
            connection.close()

    def json(self, path: str) -> Any:
        """Return what *path* answers."""
        status, body = self.ask("GET", f"/api/v1/{path}")
        assert status == 200, body
        return json.loads(body)

    def until(self, status: int, path: str) -> None:
        """Wait until *path* answers with *status*."""
        deadline = time.monotonic() + PATIENCE
        while self.ask("GET", path)[0] != status:
            assert time.monotonic() < deadline, self.ask("GET", path)
            time.sleep(0.05)


def test_http(tmp_path: Path) -> None:
    """Probes, metrics, what is shown and what is done, at three processes."""
    numbers = dict(zip(("s1", "s2", "s3"), free_ports(3), strict=True))
    ports = {name: Port(number) for name, number in numbers.items()}
    with MemberProcesses(tmp_path, http=numbers) as processes:
        for port in ports.values():
            port.until(200, "/readyz")
        assert processes.raft("kv", "set", "a", "1").returncode == 0
        leader = ports["s1"].json("leader")["leader"]
        followers = [name for name in ports if name != leader]
        check_metrics(ports[leader])
        asked = ports[followers[0]]
        assert {each["server"] for each in asked.json("peers")["peers"]} == {*followers}
        assert any(
            "'1'" in e["command"] or "1" in e["command"]
            for e in asked.json("log")["entries"]
        )
        status, body = asked.ask("POST", "/api/v1/transfer", {"server": followers[0]})
        assert (status, json.loads(body)["leader"]) == (200, followers[0])
        processes.kill(leader)
        processes.kill(followers[1])
        asked.until(503, "/readyz")
        assert asked.ask("GET", "/livez")[0] == 200
        assert asked.ask("POST", "/api/v1/transfer", {})[0] in {503, 504}
    assert "Traceback" not in processes.log(followers[0])


def check_metrics(port: Port) -> None:
    """See that they are read as Prometheus does, and that writes are among them."""
    _, body = port.ask("GET", "/metrics")
    families = {e.name: e for e in text_string_to_metric_families(body.decode())}
    assert families["raft_proposals"].samples[0].value >= 1
    assert families["raft_transport_sent_bytes"].samples[0].value > 0
    assert families["raft_transport_received_bytes"].samples[0].value > 0
