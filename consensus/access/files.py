"""What the ``access:`` of a config says, and whether it will do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - the config looks the types up
from typing import TYPE_CHECKING

from consensus.access import users
from consensus.errors import ConfigError, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

# A shorter secret might be guessed by trying.
_LEAST_SECRET = 16


@dataclass(frozen=True, slots=True)
class Access:
    """
    The files that say who may do what.

    Args:
        users: That of the users; see :mod:`consensus.access.users`.
        secret: What the servers know each other by, where no certificates do;
            ``None`` where they do.
    """

    users: Path
    secret: Path | None = None

    def read_secret(self) -> bytes:
        """
        Return the secret; nothing if there is none.

        Raises:
            ConfigError: It cannot be read, or is too short.
        """
        if self.secret is None:
            return b""
        place = "access.secret"
        data = users.read_private(self.secret, place).strip()
        if len(data) < _LEAST_SECRET:
            message = f"the secret in {self.secret} has less than {_LEAST_SECRET} bytes"
            hint = f"openssl rand -hex 32 > {self.secret}; and chmod 600"
            raise ConfigError([Finding("access.E002", message, hint, place)])
        return data


def check(access: Access) -> Iterator[Finding]:
    """Yield what is wrong with the files of *access*."""
    for read in (access.read_secret, lambda: users.load(access.users)):
        try:
            read()
        except ConfigError as error:
            yield from error.findings
