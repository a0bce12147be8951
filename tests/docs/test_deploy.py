"""The files of docs/deploy are in step with the config, and with one another."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from twisted.scripts import twistd

from consensus import config
from consensus.http import health

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy"


def compose() -> dict[str, Any]:
    """Return what the compose file says."""
    said: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return said


def manifests() -> dict[str, Any]:
    """Return the Kubernetes objects by their kinds."""
    objects = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    return {each["kind"]: each for each in objects}


def dockerfile() -> dict[str, list[str]]:
    """Return the arguments of each instruction of the Dockerfile."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            word, _, rest = line.partition(" ")
            found.setdefault(word, []).append(rest.strip())
    return found


def unit() -> configparser.ConfigParser:
    """Return the systemd unit."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / "raft@.service")
    return parser


def pod() -> Any:
    """Return the StatefulSet's pod."""
    return manifests()["StatefulSet"]["spec"]["template"]["spec"]


def container() -> Any:
    """Return its container."""
    return pod()["containers"][0]


CONFIGS = {
    "cluster.yaml": (DEPLOY / "cluster.yaml").read_text(),
    "compose.yaml": compose()["configs"]["cluster"]["content"],
    "kubernetes.yaml": manifests()["ConfigMap"]["data"]["cluster.yaml"],
}
ENTRYPOINT = yaml.safe_load(dockerfile()["ENTRYPOINT"][0])


def load(name: str, directory: Path) -> config.Config:
    """Return the config that the file *name* has in it."""
    path = directory / "cluster.yaml"
    path.write_text(CONFIGS[name])
    return config.load(path, needs_serve=False)


class ConfigTests:
    """The configs within."""

    @pytest.mark.parametrize("name", CONFIGS)
    def test_loads(self, name: str, tmp_path: Path) -> None:
        """It is right for each of its members, and has TLS, HTTP and a disk."""
        members = load(name, tmp_path).members
        assert len(members) == 3
        for member in members:
            loaded = config.load(tmp_path / "cluster.yaml", [member])
            assert loaded.tls is not None
            assert not loaded.insecure
            assert loaded.data_dir == Path("/var/lib/raft")
            assert loaded.http_address_of(member).endswith(":9201")
            assert loaded.members[member].endswith(":9101")
            assert loaded.storage.cls.durable

    def test_names(self, tmp_path: Path) -> None:
        """Members are called as hosts and pods are, and reached by those names."""
        services = compose()["services"]
        members = load("compose.yaml", tmp_path).members
        assert members == {name: f"tcp:{name}:9101" for name in services}
        for name, service in services.items():
            assert service["hostname"] == name
            assert service["command"] == [f"--serve={name}"]
        members = load("kubernetes.yaml", tmp_path).members
        chosen, service = manifests()["StatefulSet"], manifests()["Service"]
        name, domain = chosen["metadata"]["name"], service["metadata"]["name"]
        assert chosen["spec"]["serviceName"] == domain
        assert members == {
            f"{name}-{number}": f"tcp:{name}-{number}.{domain}.default"
            ".svc.cluster.local:9101"
            for number in range(chosen["spec"]["replicas"])
        }
        assert container()["args"] == ["--serve=$(POD_NAME)"]


class CommandTests:
    """The command lines within."""

    def arguments(self) -> list[list[str]]:
        """Return all of them."""
        start = shlex.split(unit()["Service"]["ExecStart"].replace("%i", "s1"))
        own = [each["command"] for each in compose()["services"].values()]
        return [start, *([*ENTRYPOINT, *each] for each in [*own, ["--serve=raft-0"]])]

    def test_twistd(self) -> None:
        """Twistd takes them: one member each, no pidfile, in the foreground."""
        for program, *arguments in self.arguments():
            assert Path(program).name == "twistd"
            options: Any = cast("Any", twistd).ServerOptions()
            options.parseOptions(arguments)
            assert options["nodaemon"]
            assert options["pidfile"] == ""
            assert options.subCommand == "raft"
            assert options.subOptions["config"] == "/etc/raft/cluster.yaml"
            assert len(options.subOptions["serve"]) == 1


class PlaceTests:
    """Paths, ports and users."""

    def test_paths(self, tmp_path: Path) -> None:
        """Data, config and certificates are where the config looks for them."""
        for name in compose()["services"]:
            service = compose()["services"][name]
            assert service["configs"][0]["target"] == "/etc/raft/cluster.yaml"
            assert service["volumes"] == [
                f"{name}:/var/lib/raft",
                f"./tls/{name}:/etc/raft/tls:ro",
            ]
        places = {
            each["name"]: each["mountPath"] for each in container()["volumeMounts"]
        }
        tls = load("kubernetes.yaml", tmp_path).tls
        assert tls is not None
        assert {
            str(each.parent) for each in (tls.certificate, tls.key, tls.authority)
        } == {places["tls"]}
        assert (places["data"], places["config"]) == ("/var/lib/raft", "/etc/raft")
        known = {each["name"] for each in pod()["volumes"]} | {"data"}
        assert known == set(places)
        service = unit()["Service"]
        assert service["StateDirectory"] == "raft"
        assert service["WorkingDirectory"] == "/var/lib/raft"
        assert dockerfile()["VOLUME"] == ["/var/lib/raft"]

    def test_ports(self) -> None:
        """Ports are those of the config; HTTP is not offered to everybody."""
        named = {each["name"]: each["containerPort"] for each in container()["ports"]}
        assert named == {"raft": 9101, "http": 9201}
        assert [each["port"] for each in manifests()["Service"]["spec"]["ports"]] == [
            9101
        ]
        assert dockerfile()["EXPOSE"] == ["9101"]

    def test_users(self) -> None:
        """Nobody is root."""
        assert dockerfile()["USER"] == ["10001:10001"]
        assert pod()["securityContext"]["runAsUser"] == 10001
        assert pod()["securityContext"]["runAsNonRoot"]
        assert unit()["Service"]["User"] == "raft"

    def test_probes(self) -> None:
        """Probes ask for what the HTTP port answers."""
        routes = {each.path for each in health.ROUTES}
        text = (DEPLOY / "compose.yaml").read_text() + dockerfile()["HEALTHCHECK"][0]
        asked = set(re.findall(r"http://127\.0\.0\.1:9201(/\w+)", text))
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            get = container()[probe]["httpGet"]
            assert get["port"] == "http"
            assert get["scheme"] == "HTTPS"
            assert "http: tls:" in CONFIGS["kubernetes.yaml"]
            asked.add(get["path"])
        assert asked == {"/livez", "/readyz"}
        assert asked <= routes

    def test_disruptions(self) -> None:
        """One pod at a time may be evicted: two of three are a majority."""
        assert manifests()["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
        labels = manifests()["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
        for kind, path in (
            ("Service", ("selector",)),
            ("PodDisruptionBudget", ("selector", "matchLabels")),
            ("NetworkPolicy", ("podSelector", "matchLabels")),
            ("StatefulSet", ("selector", "matchLabels")),
        ):
            chosen = manifests()[kind]["spec"]
            for key in path:
                chosen = chosen[key]
            assert chosen == labels


class UnitTests:
    """The systemd unit."""

    def test_reload(self) -> None:
        """It is started again when it fails, and reads its config on reload."""
        service = unit()["Service"]
        assert service["Type"] == "simple"
        assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
        assert service["Restart"] == "on-failure"
        assert int(service["LimitNOFILE"]) >= 65536

    def test_verify(self, tmp_path: Path) -> None:
        """Systemd finds nothing wrong with it, but for what is not installed here."""
        program = shutil.which("systemd-analyze")
        if program is None:
            pytest.skip("this system has no systemd, whose own words these are")
        text = (DEPLOY / "raft@.service").read_text()
        text = text.replace("/opt/raft/bin/twistd", "/bin/true")
        path = tmp_path / "raft@s1.service"
        path.write_text(text)
        done = subprocess.run(
            [program, "verify", "--man=no", path],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "raft@s1.service" not in done.stderr
