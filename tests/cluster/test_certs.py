"""What ``raft certs`` makes lets real servers and a client talk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from tests.support.processes import MemberProcesses

if TYPE_CHECKING:
    from pathlib import Path


class Cluster(MemberProcesses):
    """Three members, each with a file of its own that names its certificate."""

    def config_of(self, name: str) -> Path:
        """Return the file of *name*."""
        return self.directory / f"{name}.yaml"

    def use(self, name: str, path: Path) -> None:
        """Write the config of *name*, as the command says to, to *path*."""
        files = {"certificate": f"{name}.pem", "key": f"{name}.key"}
        tls = {key: f"certs/{each}" for key, each in files.items()}
        document = self.document | {"tls": tls | {"authority": "certs/ca.pem"}}
        path.write_text(yaml.safe_dump(document))


def test_a_cluster(tmp_path: Path) -> None:
    """Three members made by one command elect, and the client is let in."""
    cluster = Cluster(tmp_path)
    done = cluster.raft("certs", "init", "s1", "s2", "s3", "--client", "desk")
    assert done.returncode == 0, done.stderr
    for name in ("s1", "s2", "s3"):
        cluster.use(name, cluster.config_of(name))
    cluster.use("desk", cluster.config)
    with cluster:
        done = cluster.raft("--timeout", "20", "kv", "set", "colour", "blue")
        assert done.returncode == 0, done.stderr
        assert cluster.raft("kv", "get", "colour").stdout == "blue\n"
