"""
The files of a :class:`~consensus.tls.TLS`: what is in them, and whether it will do.

The findings:

========= =============================================================
tls.E001  the transport cannot encrypt
tls.E002  a file cannot be read
tls.E003  a file does not hold what it should
tls.E004  the key is not that of the certificate
tls.E005  the certificate does not name a member that is served here
tls.E006  the authority has not signed the certificate
tls.E007  a certificate has expired, or is not valid yet
tls.E008  the certificate may not be used for servers, or for clients
tls.W001  the certificate expires soon
tls.W002  others can read the key
========= =============================================================
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import crypto

from consensus.errors import ConfigError, Finding

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from consensus.core.values import ServerId
    from consensus.tls import TLS

#: A longer file is not what it should be.
MAX_BYTES = 1 << 20

#: A certificate that is valid for less deserves a warning.
ENOUGH = timedelta(days=30)

# What OpenSSL calls a certificate that is not valid yet, and one no more.
_NOT_YET_VALID = 9
_EXPIRED = 10

_USAGES = {
    ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth",
    ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth",
}


@dataclass(frozen=True, slots=True)
class Credentials:
    """
    What the files hold.

    Args:
        chain: This end's certificate, and those after it.
        key: Its private key.
        authorities: Who is trusted.
    """

    chain: tuple[x509.Certificate, ...]
    key: Any
    authorities: tuple[x509.Certificate, ...]

    @property
    def certificate(self) -> x509.Certificate:
        """Return this end's certificate."""
        return self.chain[0]


def load(tls: TLS) -> Credentials:
    """
    Return what the files of *tls* hold.

    Raises:
        ConfigError: With all that keeps them from being used.
    """
    findings: list[Finding] = []
    data = {each.name: _read(tls, each.name, findings) for each in fields(tls)}
    chain = _certificates(data["certificate"], "certificate", findings)
    authorities = _certificates(data["authority"], "authority", findings)
    key = _key(data["key"], findings)
    if chain and key is not None and not _fits(key, chain[0]):
        message = f"the key {tls.key} is not that of {tls.certificate}"
        hint = "name the key that the certificate was asked for with"
        findings.append(Finding("tls.E004", message, hint, "tls.key"))
    if findings:
        raise ConfigError(findings)
    return Credentials(chain, key, authorities)


def check(
    tls: TLS, serve: Collection[ServerId], now: datetime | None = None
) -> Iterator[Finding]:
    """
    Yield what speaks against a start with *tls*.

    Args:
        tls: What the config says.
        serve: The members that this process is about to run.
        now: What time it is, if not the present.
    """
    try:
        found = load(tls)
    except ConfigError as error:
        yield from error.findings
        return
    if serve:
        yield from _check_names(found.certificate, serve)
        yield from _check_usages(found.certificate)
    yield from _check_validity(found, now or datetime.now(UTC))
    if tls.key.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        message = f"others than its owner can read or change {tls.key}"
        yield Finding("tls.W002", message, f"chmod 600 {tls.key}", "tls.key")


def server_names(certificate: x509.Certificate) -> frozenset[str]:
    """
    Return the members that *certificate* may stand for: its DNS names.

    There are none in a certificate for clients only.  Names count as they
    are, capital letters too, and a star stands for nothing but itself.
    """
    if not may_be_used(certificate, ExtendedKeyUsageOID.SERVER_AUTH):
        return frozenset()
    extension = _extension(certificate, x509.SubjectAlternativeName)
    if extension is None:
        return frozenset()
    return frozenset(extension.get_values_for_type(x509.DNSName))


def common_name(certificate: x509.Certificate) -> str:
    """Return what the subject of *certificate* is called; empty for nothing."""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if len(found) == 1 else ""


def user_name(certificate: x509.Certificate) -> str:
    """Return the user that *certificate* may stand for; empty for a server's."""
    return "" if server_names(certificate) else common_name(certificate)


def may_be_used(certificate: x509.Certificate, usage: x509.ObjectIdentifier) -> bool:
    """Say whether *certificate* is for *usage*; one without any is for all."""
    extension = _extension(certificate, x509.ExtendedKeyUsage)
    return extension is None or usage in extension


def _extension(certificate: x509.Certificate, kind: Any) -> Any:
    """Return the extension, or ``None`` if there is none that can be read."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _read(tls: TLS, name: str, findings: list[Finding]) -> bytes | None:
    path: Path = getattr(tls, name)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror or error}"
        hint = "name a file in PEM format that this user may read"
        findings.append(Finding("tls.E002", message, hint, f"tls.{name}"))
        return None
    return data


def _certificates(
    data: bytes | None, name: str, findings: list[Finding]
) -> tuple[x509.Certificate, ...]:
    if data is None:
        return ()
    try:
        if len(data) > MAX_BYTES:
            raise ValueError("it is too long")  # noqa: TRY301 - refused like the rest
        found = tuple(x509.load_pem_x509_certificates(data))
        for each in found:
            _ = each.extensions  # they are looked at late otherwise
    except ValueError as error:
        message = f"this is no certificate in PEM format: {error}"
        hint = "it begins with -----BEGIN CERTIFICATE-----"
        findings.append(Finding("tls.E003", message, hint, f"tls.{name}"))
        return ()
    return found


def _key(data: bytes | None, findings: list[Finding]) -> Any:
    if data is None:
        return None
    hint = "it begins with -----BEGIN PRIVATE KEY-----"
    try:
        return load_pem_private_key(data, None)
    except TypeError:
        message = "the key has a password"
        hint = "take it off: openssl pkey -in OLD -out NEW; and chmod 600 NEW"
    except Exception as error:  # noqa: BLE001 - cryptography has errors of its own
        # Nothing of the file itself may go into a log.
        message = f"this is no private key in PEM format: {type(error).__name__}"
    findings.append(Finding("tls.E003", message, hint, "tls.key"))
    return None


def _fits(key: Any, certificate: x509.Certificate) -> bool:
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    of_key: bytes = key.public_key().public_bytes(*form)
    return of_key == certificate.public_key().public_bytes(*form)


def _check_names(
    certificate: x509.Certificate, serve: Collection[ServerId]
) -> Iterator[Finding]:
    extension = _extension(certificate, x509.SubjectAlternativeName)
    names = extension.get_values_for_type(x509.DNSName) if extension else []
    for server in serve:
        if server not in names:
            known = ", ".join(map(repr, names)) or "nobody"
            message = f"the certificate names {known}, and not {server!r}"
            hint = f"have one made with subjectAltName DNS:{server}"
            yield Finding("tls.E005", message, hint, "tls.certificate")


def _check_usages(certificate: x509.Certificate) -> Iterator[Finding]:
    for usage, name in _USAGES.items():
        if not may_be_used(certificate, usage):
            yield Finding(
                "tls.E008",
                f"the certificate's extendedKeyUsage lacks {name}",
                "a member connects and is connected to: have one made with"
                " serverAuth and clientAuth, or without extendedKeyUsage",
                "tls.certificate",
            )


def _check_validity(found: Credentials, now: datetime) -> Iterator[Finding]:
    begin = found.certificate.not_valid_before_utc
    end = found.certificate.not_valid_after_utc
    if not begin <= now <= end:
        yield _invalid(f"the certificate is valid from {begin} to {end}", now)
        return
    refusal = _refusal(found, now)
    if refusal is not None:
        code, depth, reason = refusal
        if code in {_NOT_YET_VALID, _EXPIRED}:
            yield _invalid(f"a certificate above this one, {depth} up: {reason}", now)
        else:
            message = f"the authority has not signed the certificate: {reason}"
            hint = "name who signed it; what lies between goes after the certificate"
            yield Finding("tls.E006", message, hint, "tls.authority")
    elif end - now < ENOUGH:
        message = f"the certificate expires on {end}"
        yield Finding("tls.W001", message, "have it renewed", "tls.certificate")


def _invalid(message: str, now: datetime) -> Finding:
    hint = f"renew it, or set the clock, which says {now:%Y-%m-%d %H:%M} UTC"
    return Finding("tls.E007", message, hint, "tls.certificate")


def _refusal(found: Credentials, now: datetime) -> tuple[int, int, str] | None:
    """Return why OpenSSL does not trust the certificate, if it does not."""
    store = crypto.X509Store()
    for each in found.authorities:
        store.add_cert(crypto.X509.from_cryptography(each))
    store.set_time(now)
    first, *rest = (crypto.X509.from_cryptography(each) for each in found.chain)
    try:
        crypto.X509StoreContext(store, first, rest).verify_certificate()
    except crypto.X509StoreContextError as error:
        code, depth, reason = error.errors
        return code, depth, reason
    return None
