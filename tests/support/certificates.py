"""Certificates for tests, signed by an authority of their own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from consensus.tls import TLS

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

SERVER = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH

_DAY = timedelta(days=1)


# What an authority's key is for; Python 3.13 and later want to know.
_SIGNS = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        """Return the certificate as it stands in a file."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self, password: bytes = b"") -> bytes:
        """Return the key as it stands in a file, encrypted if there is a password."""
        encryption: serialization.KeySerializationEncryption
        encryption = serialization.NoEncryption()
        if password:
            encryption = serialization.BestAvailableEncryption(password)
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            encryption,
        )


class Authority:
    """
    Signs certificates.

    Args:
        name: What it is called.
        signer: The authority above it, if it is not a root.
        days: For how long it is valid, from the day before yesterday.
    """

    def __init__(
        self, name: str = "Test CA", signer: Authority | None = None, days: int = 4000
    ) -> None:
        self.name = name
        start = datetime.now(UTC) - 2 * _DAY
        self.own: Issued = _sign(
            name,
            (),
            (start, start + days * _DAY),
            (x509.BasicConstraints(ca=True, path_length=None), _SIGNS),
            None if signer is None else (signer.own, signer.name),
        )

    def issue(
        self,
        *names: str,
        subject: str = "",
        usages: Collection[x509.ObjectIdentifier] = (),
        days: tuple[float, float] = (-1.0, 400.0),
    ) -> Issued:
        """
        Return a certificate.

        Args:
            names: The DNS names in it.
            subject: Its common name; by default the first of *names*.
            usages: What it may be used for; for everything without any.
            days: From when and until when it is valid, from now.
        """
        now = datetime.now(UTC)
        validity = now + days[0] * _DAY, now + days[1] * _DAY
        basic = x509.BasicConstraints(ca=False, path_length=None)
        more: tuple[x509.ExtensionType, ...] = (basic,)
        if usages:
            more = (basic, x509.ExtendedKeyUsage(usages))
        subject = subject or (names[0] if names else "somebody")
        return _sign(subject, names, validity, more, (self.own, self.name))

    def member(self, directory: Path, *names: str, **rest: Any) -> TLS:
        """Write the certificate of a member to *directory*; see :meth:`issue`."""
        usages = rest.pop("usages", (SERVER, CLIENT))
        issued = self.issue(*names, usages=usages, **rest)
        return self.write(directory, issued, names[0])

    def client(self, directory: Path, name: str = "client", **rest: Any) -> TLS:
        """Write the certificate of a client to *directory*; see :meth:`issue`."""
        usages = rest.pop("usages", (CLIENT,))
        return self.write(directory, self.issue(usages=usages, **rest), name)

    def write(self, directory: Path, issued: Issued, name: str) -> TLS:
        """Write *issued* and this authority to *directory*, as files of *name*."""
        directory.mkdir(exist_ok=True)
        found = TLS(
            directory / f"{name}.pem",
            directory / f"{name}.key",
            directory / f"{name}.authority.pem",
        )
        found.certificate.write_bytes(issued.pem)
        found.key.touch(mode=0o600)
        found.key.write_bytes(issued.key_pem())
        found.authority.write_bytes(self.own.pem)
        return found


def _sign(
    subject: str,
    names: Collection[str],
    validity: tuple[datetime, datetime],
    more: Collection[x509.ExtensionType],
    signer: tuple[Issued, str] | None,
) -> Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    signing = key if signer is None else signer[0].key
    issuer = subject if signer is None else signer[1]
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity[0])
        .not_valid_after(validity[1])
    )
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    its = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key())
    builder = builder.add_extension(own, critical=False)
    builder = builder.add_extension(its, critical=False)
    if names:
        alternatives = x509.SubjectAlternativeName([x509.DNSName(n) for n in names])
        builder = builder.add_extension(alternatives, critical=False)
    for each in more:
        is_critical = isinstance(each, x509.BasicConstraints | x509.KeyUsage)
        builder = builder.add_extension(each, critical=is_critical)
    return Issued(builder.sign(signing, hashes.SHA256()), key)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
