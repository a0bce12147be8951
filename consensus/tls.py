"""What encrypts connections, as the ``tls:`` of a config says it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - the config looks the types up


@dataclass(frozen=True, slots=True)
class TLS:
    """
    The files that this end of every connection proves itself with.

    All of them are PEM.  Both ends of a connection need a certificate that
    the other's authority has signed.

    Args:
        certificate: This end's, and after it those between it and the
            authority, if there are any.
        key: The certificate's private key, without a password.
        authority: Who has to have signed the other end's certificate: one
            certificate or more.
    """

    certificate: Path
    key: Path
    authority: Path
