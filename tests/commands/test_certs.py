"""``raft certs`` makes what ``tls`` wants, and writes nothing over."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING, Any

from click.testing import CliRunner
from cryptography import x509
from OpenSSL import crypto

from consensus import certificates
from consensus.cli import raft
from consensus.tls import TLS

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result


def run(*arguments: str) -> Result:
    """Run ``raft certs``."""
    return CliRunner().invoke(raft, ["certs", *arguments])


def made(directory: Path) -> Path:
    """Return a directory with an authority, two members and a client."""
    done = run(
        "init",
        "--dir",
        str(directory),
        "s1=db1.example,10.0.0.1",
        "s2",
        "--client",
        "desk",
        "--cluster",
        "shop",
    )
    assert done.exit_code == 0, done.output
    return directory


def tls_of(directory: Path, name: str) -> TLS:
    """Return the files of *name*."""
    return TLS(
        directory / f"{name}.pem", directory / f"{name}.key", directory / "ca.pem"
    )


def contents(directory: Path) -> dict[str, bytes]:
    """Return what each file has."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


class InitTests:
    """``raft certs init``."""

    def test_members_and_clients(self, tmp_path: Path) -> None:
        """All is as the check wants it, and the client's is no member's."""
        directory = made(tmp_path / "certs")
        for name in ("s1", "s2"):
            assert not list(certificates.check(tls_of(directory, name), [name]))
        client = tls_of(directory, "desk")
        assert not list(certificates.check(client, []))
        loaded = certificates.load(client)
        assert not certificates.server_names(loaded.certificate)

    def test_for_programs(self, tmp_path: Path) -> None:
        """What was made, and what to write into each config, as JSON."""
        done = run("init", "--dir", str(tmp_path / "a"), "s1", "--json")
        told = json.loads(done.output)
        assert sorted(told["files"]) == sorted(map(str, (tmp_path / "a").iterdir()))
        assert told["tls"]["s1"]["key"] == str(tmp_path / "a" / "s1.key")

    def test_strictly(self, tmp_path: Path) -> None:
        """They pass where every rule of X.509 counts, as with Python 3.13's clients."""
        directory = made(tmp_path / "certs")
        store = crypto.X509Store()
        store.set_flags(crypto.X509StoreFlags.X509_STRICT)
        for name in ("ca", "s1", "desk"):
            pem = (directory / f"{name}.pem").read_bytes()
            found = crypto.load_certificate(crypto.FILETYPE_PEM, pem)
            if name == "ca":
                store.add_cert(found)
            crypto.X509StoreContext(store, found).verify_certificate()

    def test_names_of_the_host(self, tmp_path: Path) -> None:
        """Names and numbers both stand in the certificate."""
        loaded = certificates.load(tls_of(made(tmp_path / "certs"), "s1"))
        assert certificates.server_names(loaded.certificate) == {"s1", "db1.example"}
        names = loaded.certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value
        (address,) = names.get_values_for_type(x509.IPAddress)
        assert str(address) == "10.0.0.1"

    def test_only_the_owner_can_read_them(self, tmp_path: Path) -> None:
        """All files, and their directory."""
        directory = made(tmp_path / "certs")
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        for path in directory.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_says_what_to_write(self, tmp_path: Path) -> None:
        """The YAML to paste is there for each."""
        done = run("init", "--dir", str(tmp_path), "s1", "--client", "desk")
        for name in ("s1", "desk"):
            assert f"certificate: {tmp_path}/{name}.pem" in done.output
        assert "ca.key lets anybody in" in done.output

    def test_overwrites_nothing(self, tmp_path: Path) -> None:
        """One file in the way is enough; all stays as it was."""
        directory = made(tmp_path / "certs")
        before = contents(directory)
        again = run("init", "--dir", str(directory), "s3")
        assert (again.exit_code, contents(directory)) == (1, before)
        assert "is there already: nothing was written" in again.output
        (tmp_path / "s9.pem").write_text("mine")
        other = run("init", "--dir", str(tmp_path), "s8", "s9")
        assert other.exit_code == 1
        assert sorted(path.name for path in tmp_path.iterdir()) == ["certs", "s9.pem"]

    def test_bad_names(self, tmp_path: Path) -> None:
        """Nothing is made for what is no name, or for one that is there twice."""
        for arguments in (
            ("../x",),
            ("s1", "s1"),
            ("ca",),
            (),
            ("s1", "--client", "s1"),
            ("s1=ü.example",),
        ):
            done = run("init", "--dir", str(tmp_path / "no"), *arguments)
            assert done.exit_code in {1, 2}, arguments
        assert not (tmp_path / "no").exists()


class IssueTests:
    """``raft certs issue``."""

    def test_more(self, tmp_path: Path) -> None:
        """The authority that is there signs them."""
        directory = made(tmp_path / "certs")
        done = run("issue", "--dir", str(directory), "s3", "--client", "app")
        assert done.exit_code == 0, done.output
        assert not list(certificates.check(tls_of(directory, "s3"), ["s3"]))
        assert not list(certificates.check(tls_of(directory, "app"), []))

    def test_without_an_authority(self, tmp_path: Path) -> None:
        """It says so."""
        done = run("issue", "--dir", str(tmp_path), "s3")
        assert done.exit_code == 1
        assert "there is no authority in" in done.output

    def test_what_is_there_stays(self, tmp_path: Path) -> None:
        """A member's certificate is not made twice."""
        directory = made(tmp_path / "certs")
        before = contents(directory)
        done = run("issue", "--dir", str(directory), "s3", "s1")
        assert (done.exit_code, contents(directory)) == (1, before)


class ShowTests:
    """``raft certs show``."""

    def test_a_directory(self, tmp_path: Path) -> None:
        """Each file has a row."""
        directory = made(tmp_path / "certs")
        done = run("show", "--dir", str(directory), "--json")
        found: list[dict[str, Any]] = json.loads(done.output)
        uses = {each["subject"]: each["use"] for each in found}
        assert uses == {
            "shop authority": "authority",
            "s1": "member",
            "s2": "member",
            "desk": "client",
        }
        table = run("show", "--dir", str(directory)).output
        assert "db1.example" in table

    def test_a_file_that_is_none(self, tmp_path: Path) -> None:
        """It says which."""
        (tmp_path / "x.pem").write_text("rubbish")
        done = run("show", str(tmp_path / "x.pem"))
        assert done.exit_code == 1
        assert "x.pem is no certificate" in done.output


def test_no_file(tmp_path: Path) -> None:
    """A file that is not there is not said to be a wrong one."""
    done = run("show", str(tmp_path / "nothing"))
    assert done.exit_code == 1
    nothing = f"raft: {tmp_path}/nothing cannot be read: No such file or directory"
    assert done.stderr == f"{nothing}\n"
