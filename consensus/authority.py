"""
A private authority, and the certificates that it signs for one cluster.

What it makes are files in one directory: ``ca.key`` and ``ca.pem``, and a key and
a certificate for each member and each client, called by their names.  Nothing that
is there is ever written over.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from consensus.certificates import MAX_BYTES, load
from consensus.errors import ConfigError
from consensus.tls import TLS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

#: What the authority's own files are called; no member or client may be.
OWN_NAME = "ca"

# The clocks of two hosts may differ.
_EARLIER = timedelta(hours=1)

_DAYS = 365
_AUTHORITY_DAYS = 3650

_BOTH_ENDS = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
_CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH,)


class AuthorityError(Exception):
    """The files cannot be made; what it says is why."""


@dataclass(frozen=True, slots=True)
class Member:
    """
    Whom a certificate is for.

    Args:
        name: The member's.
        hosts: What else it is called: names and addresses of its host.
    """

    name: str
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Authority:
    """A key, which may sign others, and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def sign(
        self, name: str, names: Sequence[str], usages: Sequence[x509.ObjectIdentifier]
    ) -> tuple[bytes, bytes]:
        """Return a new key and its certificate of a year, both as PEM."""
        return _signed(name, names, usages, _DAYS, self).pems()

    def pems(self) -> tuple[bytes, bytes]:
        """Return both as PEM."""
        private = self.key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        return private, self.certificate.public_bytes(Encoding.PEM)


def found(
    directory: Path, cluster: str, members: Sequence[Member], clients: Sequence[str]
) -> list[Path]:
    """
    Make an authority in *directory*, and certificates for all; return the files.

    Raises:
        AuthorityError: There is one already, or a file of those cannot be made;
            nothing was written then.
    """
    authority = _signed(f"{cluster} authority", (), (), _AUTHORITY_DAYS, None)
    key, pem = authority.pems()
    own = {f"{OWN_NAME}.key": key, f"{OWN_NAME}.pem": pem}
    return _write(directory, own | _issued(authority, members, clients))


def issue(
    directory: Path, members: Sequence[Member], clients: Sequence[str]
) -> list[Path]:
    """
    Make certificates with the authority that is in *directory*; see :func:`found`.

    Raises:
        AuthorityError: There is none, or a file is there already.
    """
    own = directory / f"{OWN_NAME}.pem"
    try:
        there = load(TLS(own, directory / f"{OWN_NAME}.key", own))
    except ConfigError as error:
        message = f"there is no authority in {directory}: {error.findings[0].message}"
        raise AuthorityError(message) from error
    if not isinstance(there.key, ec.EllipticCurvePrivateKey):
        message = f"the authority in {directory} is not one that this command made"
        raise AuthorityError(message)
    authority = Authority(there.key, there.certificate)
    return _write(directory, _issued(authority, members, clients))


def look(path: Path) -> tuple[x509.Certificate, ...]:
    """
    Return the certificates of the file *path*.

    Raises:
        AuthorityError: It cannot be read, or has none.
    """
    try:
        with path.open("rb") as file:
            return tuple(x509.load_pem_x509_certificates(file.read(MAX_BYTES)))
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror or error}"
        raise AuthorityError(message) from error
    except ValueError as error:
        message = f"{path} is no certificate in PEM format: {error}"
        raise AuthorityError(message) from error


def _issued(
    authority: Authority, members: Sequence[Member], clients: Sequence[str]
) -> dict[str, bytes]:
    """Return what the files of all of them have in them."""
    names = [each.name for each in members] + list(clients)
    for name in names:
        if name == OWN_NAME or names.count(name) > 1:
            message = f"{name!r} would have the files of another: choose another name"
            raise AuthorityError(message)
    made: dict[str, bytes] = {}
    for each in members:
        pair = authority.sign(each.name, (each.name, *each.hosts), _BOTH_ENDS)
        made[f"{each.name}.key"], made[f"{each.name}.pem"] = pair
    for name in clients:
        made[f"{name}.key"], made[f"{name}.pem"] = authority.sign(name, (), _CLIENT)
    return made


def _signed(
    name: str,
    names: Sequence[str],
    usages: Sequence[x509.ObjectIdentifier],
    days: int,
    signer: Authority | None,
) -> Authority:
    """Return a new key, with its certificate, which it has signed if nobody else."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if signer is None else signer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(
            x509.BasicConstraints(
                ca=signer is None, path_length=0 if signer is None else None
            ),
            critical=True,
        )
        .add_extension(_key_usage(signs=signer is None), critical=True)
    )
    signing = key if signer is None else signer.key
    # Python 3.13 and later want to know whose key has signed whose.
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    its = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key())
    builder = builder.add_extension(own, critical=False)
    builder = builder.add_extension(its, critical=False)
    if names:
        alternatives = x509.SubjectAlternativeName([_alternative(n) for n in names])
        builder = builder.add_extension(alternatives, critical=False)
    if usages:
        usage = x509.ExtendedKeyUsage(usages)
        builder = builder.add_extension(usage, critical=False)
    made = builder.sign(signing, hashes.SHA256())
    return Authority(key, made)


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(name: str) -> x509.GeneralName:
    """Return *name*, a host's name or its number, as certificates have it."""
    with suppress(ValueError):
        return x509.IPAddress(ip_address(name))
    try:
        return x509.DNSName(name)
    except ValueError as error:
        message = f"{name!r} is no name of a host: it has to be ASCII"
        raise AuthorityError(message) from error


def _write(directory: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write *files* for their owner only: all of them, or none."""
    written: list[Path] = []
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, data in files.items():
            path = directory / name
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            written.append(path)
            with open(descriptor, "wb") as file:  # noqa: PTH123 - it is open already
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
        if isinstance(error, FileExistsError):
            message = f"{error.filename} is there already: nothing was written"
        else:
            message = f"{directory} cannot be written: {error.strerror or error}"
        raise AuthorityError(message) from error
    return written
