"""
The bytes of a message between servers: a header, entries, a checksum.

Every server of a cluster spends much of its time in here, so a message is
packed with a few calls, however many entries it has.  What arrives
is not trusted: :func:`decode` raises :class:`~consensus.errors.ProtocolError`
and nothing else, and takes no memory that the bytes do not back.

The layout stands in ``docs/reference/protocol.md``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from crc32c import crc32c

from consensus.core.messages import (
    AppendEntries,
    AppendEntriesResponse,
    InstallSnapshot,
    InstallSnapshotResponse,
    Message,
    RequestPreVote,
    RequestPreVoteResponse,
    RequestReadIndex,
    RequestReadIndexResponse,
    RequestVote,
    RequestVoteResponse,
    TimeoutNow,
)
from consensus.core.values import SnapshotMeta
from consensus.entries import pack_entries, unpack_entries
from consensus.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

#: The layout of a message; the first byte of each.
VERSION = 2

# Version, type and the length of the sender's name begin every message; the
# other numbers follow, then the name, then what is of no fixed size.
_REQUEST_VOTE = struct.Struct(">BBHQQQB")
_REQUEST_PRE_VOTE = struct.Struct(">BBHQQQ")
_VOTE_RESPONSE = struct.Struct(">BBHQB")
_TIMEOUT_NOW = struct.Struct(">BBHQ")
_APPEND_ENTRIES = struct.Struct(">BBHQQQQQ")
_APPEND_ENTRIES_RESPONSE = struct.Struct(">BBHQBQQQQ")
_INSTALL_SNAPSHOT = struct.Struct(">BBHQQQQQQIQII")
_INSTALL_SNAPSHOT_RESPONSE = struct.Struct(">BBHQQIQ")
_REQUEST_READ_INDEX = struct.Struct(">BBHQQ")
_REQUEST_READ_INDEX_RESPONSE = struct.Struct(">BBHQQQ")
_CHECKSUM = struct.Struct(">I")

# A storage may keep numbers with a sign, so half of the range is refused.
_LARGEST = 2**63 - 1

# The types of AppendEntries; the second is of a leader that never trusts in a lease.
_APPEND = 3
_APPEND_WITHOUT_LEASE = 12

# A leader sends 64 KiB at a time, and a membership is some hundred bytes; what
# is far beyond that is refused.
_MAX_CHUNK_BYTES = 1 << 20
_MAX_MEMBERSHIP_BYTES = 1 << 20


def encode(message: Message) -> bytes:
    """Return *message* as bytes, with their checksum."""
    sender = message.sender.encode()
    match message:
        case AppendEntries():
            body = _encode_append(message, sender)
        case AppendEntriesResponse():
            body = (
                _APPEND_ENTRIES_RESPONSE.pack(
                    VERSION,
                    4,
                    len(sender),
                    message.term,
                    message.success,
                    message.index,
                    message.round,
                    message.hint_index,
                    message.hint_term,
                )
                + sender
            )
        case InstallSnapshot():
            body = _encode_install_snapshot(message, sender)
        case (
            InstallSnapshotResponse() | RequestReadIndex() | RequestReadIndexResponse()
        ):
            body = _encode_small(message, sender)
        case _:
            body = _encode_election(message, sender)
    return body + _CHECKSUM.pack(_checksum(body))


def _encode_append(message: AppendEntries, sender: bytes) -> bytes:
    """Return *message* without its checksum."""
    head = _APPEND_ENTRIES.pack(
        VERSION,
        _APPEND if message.may_lease else _APPEND_WITHOUT_LEASE,
        len(sender),
        message.term,
        message.prev_index,
        message.prev_term,
        message.commit_index,
        message.round,
    )
    return b"".join((head, sender, pack_entries(message.entries)))


def _encode_install_snapshot(message: InstallSnapshot, sender: bytes) -> bytes:
    """Return *message* without its checksum."""
    meta = message.meta
    head = _INSTALL_SNAPSHOT.pack(
        VERSION,
        8,
        len(sender),
        message.term,
        meta.index,
        meta.term,
        meta.membership_index,
        meta.chunks,
        meta.size,
        meta.checksum,
        message.number,
        len(meta.membership),
        len(message.data),
    )
    return b"".join((head, sender, meta.membership, message.data))


def _encode_small(
    message: InstallSnapshotResponse | RequestReadIndex | RequestReadIndexResponse,
    sender: bytes,
) -> bytes:
    """Return *message* without its checksum."""
    length = len(sender)
    term = message.term
    match message:
        case InstallSnapshotResponse(
            index=index, checksum=checksum, next_chunk=next_chunk
        ):
            head = _INSTALL_SNAPSHOT_RESPONSE.pack(
                VERSION, 9, length, term, index, checksum, next_chunk
            )
        case RequestReadIndex(id=id_):
            head = _REQUEST_READ_INDEX.pack(VERSION, 10, length, term, id_)
        case RequestReadIndexResponse(id=id_, index=index):
            head = _REQUEST_READ_INDEX_RESPONSE.pack(
                VERSION, 11, length, term, id_, index
            )
    return head + sender


def _encode_election(
    message: RequestPreVote
    | RequestPreVoteResponse
    | RequestVote
    | RequestVoteResponse
    | TimeoutNow,
    sender: bytes,
) -> bytes:
    """Return *message* without its checksum."""
    length = len(sender)
    term = message.term
    match message:
        case RequestVote(last_index=index, last_term=last_term, transfer=transfer):
            head = _REQUEST_VOTE.pack(
                VERSION, 1, length, term, index, last_term, transfer
            )
        case RequestVoteResponse(granted=granted):
            head = _VOTE_RESPONSE.pack(VERSION, 2, length, term, granted)
        case RequestPreVote(last_index=index, last_term=last_term):
            head = _REQUEST_PRE_VOTE.pack(VERSION, 5, length, term, index, last_term)
        case RequestPreVoteResponse(granted=granted):
            head = _VOTE_RESPONSE.pack(VERSION, 6, length, term, granted)
        case TimeoutNow():
            head = _TIMEOUT_NOW.pack(VERSION, 7, length, term)
    return head + sender


def _checksum(data: bytes | memoryview) -> int:
    # With the interpreter's lock held: to get it back takes longer than the sum.
    return crc32c(data, 0, 0)


def decode(data: bytes) -> Message:
    """
    Return the message that :func:`encode` made *data* of.

    Raises:
        ProtocolError: It is not one, is of another version, or is damaged.
    """
    try:
        return _decode(data)
    except (struct.error, UnicodeDecodeError) as error:
        message = f"a message is too short or badly built: {error}"
        raise ProtocolError(message) from error


def _decode(data: bytes) -> Message:
    if not data or data[0] != VERSION:
        message = f"a message begins with {data[:1]!r}, not with version {VERSION}"
        raise ProtocolError(message)
    end = len(data) - _CHECKSUM.size
    (checksum,) = _CHECKSUM.unpack_from(data, end)
    if _checksum(memoryview(data)[:end]) != checksum:
        raise ProtocolError("a message's checksum is wrong")
    parse = _PARSERS.get(data[1])
    if parse is None:
        message = f"a message of the unknown type {data[1]}"
        raise ProtocolError(message)
    return parse(data, end)


def _sender(data: bytes, first: int, length: int, end: int) -> str:
    """Return the text between *first* and *end*, which has to be all of it."""
    if first + length != end:
        raise ProtocolError("a message's length is not that of its parts")
    return data[first:end].decode()


def _check_numbers(*numbers: int) -> None:
    if max(numbers) > _LARGEST:
        raise ProtocolError("a number in a message is out of range")


def _flag(value: int) -> bool:
    if value > 1:
        message = f"a message says {value} where only 0 and 1 are possible"
        raise ProtocolError(message)
    return value == 1


def _decode_request_vote(data: bytes, end: int) -> RequestVote:
    layout = _REQUEST_VOTE
    _, _, length, term, last_index, last_term, transfer = layout.unpack_from(data)
    _check_numbers(term, last_index, last_term)
    sender = _sender(data, layout.size, length, end)
    return RequestVote(sender, term, last_index, last_term, _flag(transfer))


def _decode_request_pre_vote(data: bytes, end: int) -> RequestPreVote:
    layout = _REQUEST_PRE_VOTE
    _, _, length, term, last_index, last_term = layout.unpack_from(data)
    _check_numbers(term, last_index, last_term)
    sender = _sender(data, layout.size, length, end)
    return RequestPreVote(sender, term, last_index, last_term)


def _vote_response(data: bytes, end: int) -> tuple[str, int, bool]:
    """Return the fields of an answer to either kind of request."""
    layout = _VOTE_RESPONSE
    _, _, length, term, granted = layout.unpack_from(data)
    _check_numbers(term)
    sender = _sender(data, layout.size, length, end)
    return sender, term, _flag(granted)


def _decode_request_vote_response(data: bytes, end: int) -> RequestVoteResponse:
    return RequestVoteResponse(*_vote_response(data, end))


def _decode_request_pre_vote_response(data: bytes, end: int) -> RequestPreVoteResponse:
    return RequestPreVoteResponse(*_vote_response(data, end))


def _decode_timeout_now(data: bytes, end: int) -> TimeoutNow:
    layout = _TIMEOUT_NOW
    _, _, length, term = layout.unpack_from(data)
    _check_numbers(term)
    return TimeoutNow(_sender(data, layout.size, length, end), term)


def _decode_append_response(data: bytes, end: int) -> AppendEntriesResponse:
    layout = _APPEND_ENTRIES_RESPONSE
    fields = layout.unpack_from(data)
    _, _, length, term, success, index, round_, hint_index, hint_term = fields
    _check_numbers(term, index, round_, hint_index, hint_term)
    sender = _sender(data, layout.size, length, end)
    return AppendEntriesResponse(
        sender, term, _flag(success), index, round_, hint_index, hint_term
    )


def _decode_append(data: bytes, end: int) -> AppendEntries:
    layout = _APPEND_ENTRIES
    fields = layout.unpack_from(data)
    _, kind, length, term, prev_index, prev_term, commit, round_ = fields
    _check_numbers(term, prev_index, prev_term, commit, round_)
    first = layout.size + length
    if first > end:
        raise ProtocolError("a message ends within its sender's name")
    sender = data[layout.size : first].decode()
    try:
        entries = tuple(unpack_entries(data, prev_index + 1, first, end))
    except ValueError as error:
        message = f"a message has bad entries: {error}"
        raise ProtocolError(message) from error
    if entries:
        _check_numbers(entries[-1].index)
        # They do not fall along a log, so these two are the extremes (§3.5).
        if entries[0].term < prev_term or entries[-1].term > term:
            raise ProtocolError("an entry has an impossible term")
    return AppendEntries(
        sender,
        term,
        prev_index,
        prev_term,
        commit,
        round_,
        entries,
        may_lease=kind != _APPEND_WITHOUT_LEASE,
    )


def _decode_install_snapshot(data: bytes, end: int) -> InstallSnapshot:
    layout = _INSTALL_SNAPSHOT
    _, _, length, term, *numbers, membership_bytes, chunk_bytes = layout.unpack_from(
        data
    )
    index, last_term, membership_index, chunks, size, checksum, number = numbers
    _check_numbers(term, *numbers)
    first = layout.size + length
    start = first + membership_bytes
    if start + chunk_bytes != end:
        raise ProtocolError("a message's length is not that of its parts")
    if membership_bytes > _MAX_MEMBERSHIP_BYTES:
        raise ProtocolError("the membership of a snapshot is too large")
    membership = data[first:start]
    meta = SnapshotMeta(
        index, last_term, membership, membership_index, chunks, size, checksum
    )
    _check_snapshot(meta, term, number, chunk_bytes)
    sender = data[layout.size : first].decode()
    return InstallSnapshot(sender, term, meta, number, data[start:end])


def _check_snapshot(meta: SnapshotMeta, term: int, number: int, length: int) -> None:
    """
    See that a leader of *term* can have a snapshot like this, and such a chunk.

    It was begun by a leader of this term or an earlier one, and *length*, the
    bytes of chunk *number*, are among those that it has.
    """
    if meta.term > term or meta.membership_index > meta.index:
        raise ProtocolError("a snapshot has an impossible term or membership")
    if number >= meta.chunks:
        message = f"a snapshot of {meta.chunks} chunks has no chunk {number}"
        raise ProtocolError(message)
    if length > _MAX_CHUNK_BYTES or meta.size > meta.chunks * _MAX_CHUNK_BYTES:
        raise ProtocolError("a chunk of a snapshot is too large")
    if length > meta.size or (meta.chunks == 1 and length != meta.size):
        raise ProtocolError("a snapshot's size is not that of its chunks")


def _decode_install_snapshot_response(data: bytes, end: int) -> InstallSnapshotResponse:
    layout = _INSTALL_SNAPSHOT_RESPONSE
    _, _, length, term, index, checksum, next_chunk = layout.unpack_from(data)
    _check_numbers(term, index, next_chunk)
    sender = _sender(data, layout.size, length, end)
    return InstallSnapshotResponse(sender, term, index, checksum, next_chunk)


def _decode_request_read_index(data: bytes, end: int) -> RequestReadIndex:
    layout = _REQUEST_READ_INDEX
    _, _, length, term, id_ = layout.unpack_from(data)
    _check_numbers(term, id_)
    return RequestReadIndex(_sender(data, layout.size, length, end), term, id_)


def _decode_request_read_index_response(
    data: bytes, end: int
) -> RequestReadIndexResponse:
    layout = _REQUEST_READ_INDEX_RESPONSE
    _, _, length, term, id_, index = layout.unpack_from(data)
    _check_numbers(term, id_, index)
    sender = _sender(data, layout.size, length, end)
    return RequestReadIndexResponse(sender, term, id_, index)


_PARSERS: dict[int, Callable[[bytes, int], Message]] = {
    1: _decode_request_vote,
    2: _decode_request_vote_response,
    _APPEND: _decode_append,
    4: _decode_append_response,
    5: _decode_request_pre_vote,
    6: _decode_request_pre_vote_response,
    7: _decode_timeout_now,
    8: _decode_install_snapshot,
    9: _decode_install_snapshot_response,
    10: _decode_request_read_index,
    11: _decode_request_read_index_response,
    _APPEND_WITHOUT_LEASE: _decode_append,
}
