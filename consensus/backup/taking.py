"""
A backup of a running cluster: one member's snapshot, copied chunk by chunk.

The snapshot has every write that was acknowledged before the backup began: the
member asks the leader how far that is, and waits until it has applied it.
"""

from __future__ import annotations

import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.internet.defer import Deferred, FirstError, gatherResults

from consensus.backup.file import BackupWriter, Description, refuse_existing
from consensus.core.values import SnapshotMeta
from consensus.errors import (
    CompactedError,
    InvalidChangeError,
    InvalidCommandError,
    OutcomeUnknownError,
    OverloadedError,
    ProtocolError,
    RaftError,
    RejectedError,
    StorageError,
    TimedOutError,
    UnreachableError,
)
from consensus.registry import DISTRIBUTION
from consensus.shell.loans import KEY_BYTES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from consensus.admin import Census, Report
    from consensus.client import Client
    from consensus.core.values import ServerId

#: Chunks that are asked for at a time.
_WINDOW = 8

#: How often a call is made before the member is given up, and how many members
#: are tried; some of them twice, since a leader may have to be elected.
_TRIES = 6
_MEMBERS = 6

#: Seconds before a call is made again; the longer, the more often it failed.
_PAUSE = 0.1

#: Of a call that may be made again as it is.
_PASSING = (UnreachableError, OutcomeUnknownError, OverloadedError)

#: Of a member that cannot go on, where another one may.
_LOCAL = (RejectedError, OutcomeUnknownError, CompactedError)


@dataclass(frozen=True, slots=True)
class Taken:
    """
    A backup that is complete.

    Args:
        path: Where it is.
        description: What it is of.
        bytes: The size of the file.
    """

    path: Path
    description: Description
    bytes: int


class _ElsewhereError(Exception):
    """A member cannot go on; the cause says why."""


class Backup:
    """
    Takes a backup.

    Args:
        cluster: The way to it.
        count: Finds out who belongs to it.
        path: Where the backup shall be.
        server: Whose snapshot it shall be; by default one that does not lead.
        on_progress: Called with the bytes that are there, and that there will be.
    """

    def __init__(
        self,
        cluster: Client,
        count: Callable[[], Awaitable[Census]],
        path: Path,
        server: ServerId | None = None,
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        self._cluster = cluster
        self._count = count
        self._path = path
        self._server = server
        self._on_progress = on_progress

    async def take(self) -> Taken:
        """
        Copy the snapshot of one member, and give the file its name.

        Whatever fails, there is no file then.

        Raises:
            InvalidChangeError: The file exists, or no member is called so.
            UnreachableError: Nobody answers.
            StorageError: The file cannot be written.
            RaftError: No member could give a snapshot; that of the last one.
        """
        refuse_existing(self._path)
        failed: list[ServerId] = []
        for attempt in range(_MEMBERS):
            member = _chosen(await self._count(), self._server, failed)
            try:
                return await self._copy(member)
            except _ElsewhereError as error:
                failed.append(member.server)
                reason = error.__cause__
            await self._cluster.pause(_PAUSE * (attempt + 1))
        if isinstance(reason, RaftError):
            raise reason
        raise UnreachableError("none of the members answers")

    async def _copy(self, member: Report) -> Taken:
        loan = _Loan(self._cluster, member)
        try:
            description = await loan.begin()
            # What fails from here on at the file is no member's fault.
            with BackupWriter(self._path, description) as writer:
                self._on_progress(0, description.size)
                for first in range(0, description.chunks, _WINDOW):
                    last = min(first + _WINDOW, description.chunks)
                    for chunk in await loan.chunks(range(first, last)):
                        writer.write(chunk)
                    self._on_progress(writer.size, description.size)
                writer.commit()
        finally:
            await loan.end()
        return Taken(self._path, description, self._path.stat().st_size)


def _chosen(counted: Census, server: ServerId | None, failed: list[ServerId]) -> Report:
    """
    Return the member to ask: *server*, or one that did not fail and lead.

    Raises:
        InvalidChangeError: No member is called *server*.
        UnreachableError: It does not answer, or nobody does.
    """
    members = {each.server: each for each in counted.members}
    if server is not None:
        if members and server not in members:
            message = f"{server} is no member; those are: {', '.join(members)}"
            raise InvalidChangeError(message)
        members = {name: each for name, each in members.items() if name == server}

    def cost(report: Report) -> tuple[Any, ...]:
        status = report.status
        applied = 0 if status is None else status.last_applied
        name = report.server
        return failed.count(name), name == counted.leader, -applied, name

    answering = [each for each in members.values() if each.status is not None]
    if not answering:
        who = server or "none of the members"
        message = f"{who} {'does not answer' if server else 'answers'}"
        raise UnreachableError(message)
    return min(answering, key=cost)


class _Loan:
    """A snapshot that a member lends; see :mod:`consensus.shell.loans`."""

    def __init__(self, cluster: Client, member: Report) -> None:
        self._cluster = cluster
        self._member = member
        self._key = secrets.token_bytes(KEY_BYTES)

    async def begin(self) -> Description:
        """Wait until the snapshot is taken; return what it is of."""
        pause = _PAUSE / 4
        # A member that does not hear the leader says so late; another is sooner.
        while not (answer := await self._ask("backup_begin", self._key, TimedOutError)):
            await self._cluster.pause(pause)
            pause = min(2 * pause, 5 * _PAUSE)
        try:
            (meta, cluster, application, application_class) = msgspec.msgpack.decode(
                answer, type=tuple[tuple[Any, ...], str, str, str]
            )
            return _described(
                SnapshotMeta(*meta),
                cluster=cluster,
                application=application,
                application_class=application_class,
                server=self._member.server,
            )
        except (ValueError, TypeError, RecursionError) as error:
            message = f"the answer of {self._member.server} cannot be read: {error}"
            raise ProtocolError(message) from error

    async def chunks(self, numbers: range) -> list[bytes]:
        """Return the chunks of these *numbers*."""
        asked = [Deferred.fromCoroutine(self._chunk(number)) for number in numbers]
        try:
            return await gatherResults(asked, consumeErrors=True)
        except FirstError as error:
            error.subFailure.raiseException()
            raise

    async def _chunk(self, number: int) -> bytes:
        return await self._ask("backup_chunk", self._key + number.to_bytes(8, "big"))

    async def end(self) -> None:
        """Give it back; if nobody hears, the member takes it back by itself."""
        with suppress(RaftError):
            await self._cluster.ask_server(
                self._member.address, "backup_end", self._key, 1.0
            )

    async def _ask(self, method: str, payload: bytes, *final: type[RaftError]) -> bytes:
        """
        Call *method*, again if need be: the loan outlives the connection.

        Args:
            method: See ``docs/reference/protocol.md``.
            payload: What it takes.
            final: Errors after which this member is not asked again.

        Raises:
            InvalidCommandError: The state cannot be written down, by no member.
            _ElsewhereError: This member has failed for good.
        """
        for attempt in range(_TRIES):
            try:
                return await self._cluster.ask_server(
                    self._member.address, method, payload
                )
            except InvalidCommandError:
                raise
            except _PASSING as error:
                if isinstance(error, final):
                    raise _ElsewhereError from error
                reason: RaftError = error
            except (*_LOCAL, StorageError) as error:
                raise _ElsewhereError from error
            await self._cluster.pause(_PAUSE * (attempt + 1))
        raise _ElsewhereError from reason


def _described(meta: SnapshotMeta, **names: str) -> Description:
    """Return the description of a backup taken now; checked, as it is written."""
    content = {
        "index": meta.index,
        "term": meta.term,
        "membership": meta.membership,
        "membership_index": meta.membership_index,
        "chunks": meta.chunks,
        "size": meta.size,
        "checksum": meta.checksum,
        "taken": int(time.time()),
        "release": version(DISTRIBUTION),
        **names,
    }
    return msgspec.convert(content, Description)
