"""What is in the files of a TLS, and whether it will do."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from consensus import certificates
from consensus.certificates import load, server_names
from consensus.errors import ConfigError
from tests.support.certificates import CLIENT, SERVER, Authority, Issued

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography import x509

    from consensus.errors import Finding
    from consensus.interfaces import TLS


@pytest.fixture(scope="module")
def ours() -> Authority:
    """Return the authority."""
    return Authority()


@pytest.fixture
def good(ours: Authority, tmp_path: Path) -> TLS:
    """Return files that will do."""
    return ours.member(tmp_path, "s1")


def findings(tls: TLS, *serve: str, now: datetime | None = None) -> list[Finding]:
    """Return what speaks against *tls*."""
    return list(certificates.check(tls, serve, now))


def ids(tls: TLS, *serve: str, now: datetime | None = None) -> list[tuple[str, str]]:
    """Return the id and the path of each finding."""
    return [(each.id, each.path) for each in findings(tls, *serve, now=now)]


class FileTests:
    """What the files hold."""

    def test_all_is_well(self, good: TLS) -> None:
        """There is nothing to say."""
        assert ids(good, "s1") == []

    def test_files_that_are_not_there(self, good: TLS, tmp_path: Path) -> None:
        """Each of them is told."""
        nowhere = tmp_path / "nowhere"
        tls = replace(good, certificate=nowhere, key=nowhere, authority=tmp_path)
        assert ids(tls, "s1") == [
            ("tls.E002", "tls.certificate"),
            ("tls.E002", "tls.key"),
            ("tls.E002", "tls.authority"),
        ]

    @pytest.mark.parametrize("name", ["certificate", "key", "authority"])
    @pytest.mark.parametrize(
        "said",
        [
            b"",
            b"\0\xff",
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            bytes(certificates.MAX_BYTES + 1),
        ],
    )
    def test_files_of_something_else(self, good: TLS, name: str, said: bytes) -> None:
        """What a file says is not repeated."""
        getattr(good, name).write_bytes(said)
        (finding,) = findings(good, "s1")
        assert (finding.id, finding.path) == ("tls.E003", f"tls.{name}")
        assert "AAAA" not in str(finding)

    def test_the_key_for_a_certificate(self, good: TLS) -> None:
        """The two are not mixed up silently."""
        good.certificate.write_bytes(good.key.read_bytes())
        assert ids(good, "s1") == [("tls.E003", "tls.certificate")]

    def test_a_key_with_a_password(self, good: TLS, ours: Authority) -> None:
        """Nobody is there to type it."""
        good.key.write_bytes(ours.issue("s1").key_pem(b"secret"))
        (finding,) = findings(good, "s1")
        assert finding.id == "tls.E003"
        assert "has a password" in finding.message

    def test_another_key(self, good: TLS, ours: Authority) -> None:
        """A key is that of its certificate, or of no use."""
        good.key.write_bytes(ours.issue("s1").key_pem())
        assert ids(good, "s1") == [("tls.E004", "tls.key")]
        with pytest.raises(ConfigError, match=r"tls\.E004"):
            load(good)

    def test_a_key_of_another_curve(self, good: TLS, ours: Authority) -> None:
        """Any curve will do, and none but the certificate's."""
        key = ec.generate_private_key(ec.SECP384R1())
        good.key.write_bytes(Issued(ours.own.certificate, key).key_pem())
        assert ids(good, "s1") == [("tls.E004", "tls.key")]

    def test_a_key_that_others_can_read(self, good: TLS) -> None:
        """It is a warning."""
        good.key.chmod(0o640)
        (finding,) = findings(good, "s1")
        assert finding.id == "tls.W002"
        assert finding.is_warning


class NameTests:
    """Whom a certificate names."""

    def test_members_that_are_not_named(self, good: TLS) -> None:
        """Every member that is served here has to be."""
        (finding,) = findings(good, "s1", "s2")
        assert (finding.id, finding.path) == ("tls.E005", "tls.certificate")
        assert "names 's1', and not 's2'" in finding.message

    def test_a_client_needs_no_name(self, ours: Authority, tmp_path: Path) -> None:
        """Nobody is served, so nobody has to be named."""
        tls = ours.client(tmp_path)
        assert ids(tls) == []
        assert ids(tls, "s1") == [
            ("tls.E005", "tls.certificate"),
            ("tls.E008", "tls.certificate"),
        ]

    def test_names_are_what_they_are(self, ours: Authority) -> None:
        """Capitals count, and a star is a star."""
        issued = ours.issue("S1", "*.shop", "s_2")
        assert server_names(issued.certificate) == {"S1", "*.shop", "s_2"}

    @pytest.mark.parametrize(
        ("usages", "names"),
        [
            ((), {"s1"}),
            ((SERVER,), {"s1"}),
            ((SERVER, CLIENT), {"s1"}),
            ((CLIENT,), set()),
        ],
    )
    def test_usages(
        self,
        ours: Authority,
        usages: tuple[x509.ObjectIdentifier, ...],
        names: set[str],
    ) -> None:
        """A certificate for clients stands for no member."""
        issued = ours.issue("s1", usages=usages)
        assert server_names(issued.certificate) == names

    @pytest.mark.parametrize("usages", [(SERVER,), (CLIENT,)])
    def test_a_member_does_both(
        self, ours: Authority, tmp_path: Path, usages: tuple[x509.ObjectIdentifier, ...]
    ) -> None:
        """It connects and is connected to."""
        (finding,) = findings(ours.member(tmp_path, "s1", usages=usages), "s1")
        assert finding.id == "tls.E008"

    def test_no_usages(self, ours: Authority, tmp_path: Path) -> None:
        """A certificate without any is for everything."""
        assert ids(ours.member(tmp_path, "s1", usages=()), "s1") == []


class ValidityTests:
    """Whom the authority has signed, and for how long."""

    @pytest.mark.parametrize("days", [(-9.0, -1.0), (1.0, 90.0)])
    def test_out_of_time(
        self, ours: Authority, tmp_path: Path, days: tuple[float, float]
    ) -> None:
        """It has expired, or is not valid yet."""
        tls = ours.member(tmp_path, "s1", days=days)
        assert ids(tls, "s1") == [("tls.E007", "tls.certificate")]

    def test_soon_out_of_time(self, ours: Authority, tmp_path: Path) -> None:
        """The last 30 days are a warning."""
        tls = ours.member(tmp_path, "s1", days=(-1.0, 31.0))
        assert ids(tls, "s1") == []
        later = datetime.now(UTC) + timedelta(days=2)
        assert ids(tls, "s1", now=later) == [("tls.W001", "tls.certificate")]
        assert ids(tls, "s1", now=later + timedelta(days=40)) == [
            ("tls.E007", "tls.certificate")
        ]

    @pytest.mark.parametrize("name", ["Test CA", "Other CA"])
    def test_another_authority(self, good: TLS, name: str) -> None:
        """Its name does not matter."""
        good.authority.write_bytes(Authority(name).own.pem)
        assert ids(good, "s1") == [("tls.E006", "tls.authority")]

    def test_two_authorities(self, good: TLS) -> None:
        """One of them will do, as while one replaces another."""
        both = Authority("Other CA").own.pem + good.authority.read_bytes()
        good.authority.write_bytes(both)
        assert ids(good, "s1") == []

    def test_an_authority_that_has_expired(self, tmp_path: Path) -> None:
        """Nobody trusts those that it has signed."""
        tls = Authority(days=1).member(tmp_path, "s1")
        (finding,) = findings(tls, "s1")
        assert finding.id == "tls.E007"
        assert "a certificate above this one, 1 up" in finding.message

    def test_a_chain(self, ours: Authority, tmp_path: Path) -> None:
        """What lies between is in the certificate's file."""
        between = Authority("Between", ours)
        issued = between.issue("s1")
        tls = ours.write(tmp_path, issued, "s1")
        assert ids(tls, "s1") == [("tls.E006", "tls.authority")]
        tls.certificate.write_bytes(issued.pem + between.own.pem)
        assert ids(tls, "s1") == []
