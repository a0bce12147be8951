"""Tests of adapters.transport.amp_codec."""

from __future__ import annotations

import struct
from typing import get_args

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from adapters.transport.amp_codec import decode, encode
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
from consensus.core.values import Entry, EntryKind, SnapshotMeta
from consensus.errors import ProtocolError
from consensus.testing.transport_inbox import MESSAGES

_numbers = st.integers(0, 2**63 - 1)
_names = st.text(max_size=20)
_checksums = st.integers(0, 2**32 - 1)


@st.composite
def appends(draw: st.DrawFn) -> AppendEntries:
    """Draw appends whose terms never fall and whose indexes have no holes."""
    commands = draw(st.lists(st.binary(max_size=40), max_size=6))
    terms = sorted(draw(st.lists(_numbers, min_size=len(commands) + 2, max_size=8)))
    prev_index = draw(st.integers(0, 2**63 - 10))
    entries = tuple(
        Entry(prev_index + number, term, draw(st.sampled_from(EntryKind)), command)
        for number, (term, command) in enumerate(
            zip(terms[1:-1], commands, strict=False), start=1
        )
    )
    return AppendEntries(
        draw(_names),
        terms[-1],
        prev_index,
        terms[0],
        draw(_numbers),
        draw(_numbers),
        entries,
    )


@st.composite
def snapshots(draw: st.DrawFn) -> InstallSnapshot:
    """Draw chunks of snapshots that their senders can have."""
    last_term, term = sorted((draw(_numbers), draw(_numbers)))
    membership_index, index = sorted((draw(_numbers), draw(_numbers)))
    number = draw(st.integers(0, 2**40))
    chunks = draw(st.integers(number + 1, 2**41))
    data = draw(st.binary(max_size=40))
    more = draw(st.integers(0, 2**30)) if chunks > 1 else 0
    size = min(len(data) + more, chunks << 20)
    meta = SnapshotMeta(
        index,
        last_term,
        draw(st.binary(max_size=40)),
        membership_index,
        chunks,
        size,
        draw(_checksums),
    )
    return InstallSnapshot(draw(_names), term, meta, number, data)


messages = st.one_of(
    st.builds(RequestVote, _names, _numbers, _numbers, _numbers, st.booleans()),
    st.builds(RequestVoteResponse, _names, _numbers, st.booleans()),
    st.builds(RequestPreVote, _names, _numbers, _numbers, _numbers),
    st.builds(RequestPreVoteResponse, _names, _numbers, st.booleans()),
    st.builds(TimeoutNow, _names, _numbers),
    appends(),
    snapshots(),
    st.builds(
        InstallSnapshotResponse, _names, _numbers, _numbers, _checksums, _numbers
    ),
    st.builds(RequestReadIndex, _names, _numbers, _numbers),
    st.builds(RequestReadIndexResponse, _names, _numbers, _numbers, _numbers),
    st.builds(
        AppendEntriesResponse,
        _names,
        _numbers,
        st.booleans(),
        _numbers,
        _numbers,
        _numbers,
        _numbers,
    ),
)


def _is_small(message: Message) -> bool:
    return len(encode(message)) < 1000


def sealed(body: bytes) -> bytes:
    """Return *body* with a checksum that is right."""
    return body + struct.pack(">I", crc32c(body))


def decode_or_refuse(data: bytes) -> Message | None:
    """Decode *data*, letting only the error through that is allowed."""
    try:
        return decode(data)
    except ProtocolError:
        return None


class RoundTripTests:
    """What is encoded comes back."""

    @given(messages)
    def test_every_message_comes_back(self, message: Message) -> None:
        assert decode(encode(message)) == message

    def test_the_bytes_of_version_two(self) -> None:
        """These bytes are on the wire between releases: they never change."""
        vote = bytes.fromhex(
            "0201 0002 0000000000000007 0000000000000029 0000000000000006"
            "00 7331 3f194d4b"
        )
        assert encode(MESSAGES[0]) == vote
        assert decode(vote) == MESSAGES[0]
        append = bytes.fromhex(
            "0203 0002 0000000000000007 0000000000000029 0000000000000006"
            "0000000000000028 0000000000000004 7331"
            "00000003 00000003"
            "0000000000000006 01 00000001"
            "0000000000000007 00 00000001"
            "0000000000000007 02 00000001"
            "00000003 00000000 00000003"
            "736978 00ff0a f5ed23ed"
        )
        assert encode(MESSAGES[4]) == append
        assert decode(append) == MESSAGES[4]

    @pytest.mark.parametrize(
        ("message", "expected"),
        [
            (
                RequestVote("s1", 7, 41, 6, transfer=True),
                (
                    "0201 0002 0000000000000007 "
                    "0000000000000029 0000000000000006 01 7331 9a58df35"
                ),
            ),
            (
                RequestPreVote("s1", 6, 41, 5),
                (
                    "0205 0002 0000000000000006 "
                    "0000000000000029 0000000000000005 7331 33ef3e5b"
                ),
            ),
            (
                RequestPreVoteResponse("s1", 6, granted=True),
                "0206 0002 0000000000000006 01 7331 2b3d39b7",
            ),
            (
                TimeoutNow("s1", 7),
                "0207 0002 0000000000000007 7331 5a927ff0",
            ),
        ],
    )
    def test_the_bytes_of_elections(self, message: Message, expected: str) -> None:
        """Likewise those of pre-votes and of a leadership transfer."""
        assert encode(message) == bytes.fromhex(expected)
        assert decode(bytes.fromhex(expected)) == message

    @pytest.mark.parametrize(
        ("message", "expected"),
        [
            (
                InstallSnapshot(
                    "s1", 7, SnapshotMeta(40, 6, b"m", 1, 2, 5, 0xDEADBEEF), 1, b"ab"
                ),
                (
                    "0208 0002 0000000000000007 0000000000000028 0000000000000006"
                    "0000000000000001 0000000000000002 0000000000000005 deadbeef"
                    "0000000000000001 00000001 00000002 7331 6d 6162"
                ),
            ),
            (
                InstallSnapshotResponse("s1", 7, 40, 0xDEADBEEF, 2),
                (
                    "0209 0002 0000000000000007 0000000000000028 deadbeef"
                    "0000000000000002 7331"
                ),
            ),
            (
                RequestReadIndex("s1", 7, 3),
                "020a 0002 0000000000000007 0000000000000003 7331",
            ),
            (
                RequestReadIndexResponse("s1", 7, 3, 44),
                ("020b 0002 0000000000000007 0000000000000003000000000000002c 7331"),
            ),
        ],
    )
    def test_the_bytes_of_snapshots_and_reads(
        self, message: Message, expected: str
    ) -> None:
        """Likewise; here the checksum is left to the test."""
        assert encode(message) == sealed(bytes.fromhex(expected))
        assert decode(sealed(bytes.fromhex(expected))) == message

    def test_no_class_of_messages_is_left_out(self) -> None:
        """A transport's suite sends every class, and every class comes back."""
        assert {type(message) for message in MESSAGES} == set(get_args(Message))
        assert tuple(decode(encode(message)) for message in MESSAGES) == MESSAGES

    def test_commands_are_bytes(self) -> None:
        """A command decoded is a bytes object of its own."""
        message = decode(encode(MESSAGES[4]))
        assert isinstance(message, AppendEntries)
        assert {type(entry.command) for entry in message.entries} == {bytes}


class HostileBytesTests:
    """Whatever comes, the answer is a message or a ProtocolError."""

    @given(st.binary(max_size=200))
    def test_arbitrary_bytes(self, data: bytes) -> None:
        decode_or_refuse(data)

    @given(st.binary(max_size=120), st.integers(0, 12))
    def test_arbitrary_bytes_with_a_right_checksum(
        self, data: bytes, kind: int
    ) -> None:
        """The checksum keeps accidents out, not somebody who wants in."""
        decode_or_refuse(sealed(bytes((2, kind)) + data))

    @given(messages, st.data())
    def test_a_changed_byte_is_noticed(
        self, message: Message, data: st.DataObject
    ) -> None:
        """Any single byte that is another makes the message invalid."""
        encoded = bytearray(encode(message))
        position = data.draw(st.integers(0, len(encoded) - 1))
        encoded[position] ^= data.draw(st.integers(1, 255))
        with pytest.raises(ProtocolError):
            decode(bytes(encoded))

    @given(messages, st.data())
    def test_a_changed_byte_with_a_right_checksum(
        self, message: Message, data: st.DataObject
    ) -> None:
        """What still decodes encodes to the very same bytes."""
        body = bytearray(encode(message)[:-4])
        position = data.draw(st.integers(0, len(body) - 1))
        body[position] ^= data.draw(st.integers(1, 255))
        changed = sealed(bytes(body))
        decoded = decode_or_refuse(changed)
        assert decoded is None or encode(decoded) == changed

    @given(messages, st.data())
    def test_a_cut_message(self, message: Message, data: st.DataObject) -> None:
        """A message that lacks its end is refused, whatever its checksum says."""
        body = encode(message)[:-4]
        shorter = body[: data.draw(st.integers(0, len(body) - 1))]
        with pytest.raises(ProtocolError):
            decode(sealed(shorter))

    @given(messages, st.binary(min_size=1, max_size=30))
    def test_more_than_a_message(self, message: Message, more: bytes) -> None:
        """A message with something behind it is refused."""
        with pytest.raises(ProtocolError):
            decode(sealed(encode(message)[:-4] + more))

    def test_a_count_that_the_bytes_do_not_back(self) -> None:
        """Four thousand million entries are announced, none is there."""
        body = struct.pack(">BBHQQQQQ", 2, 3, 2, 7, 0, 0, 0, 1) + b"s1"
        body += struct.pack(">II", 2**32 - 1, 1)
        with pytest.raises(ProtocolError, match="fewer entries than announced"):
            decode(sealed(body))

    def test_another_version(self) -> None:
        with pytest.raises(ProtocolError, match="version 2"):
            decode(sealed(b"\1" + encode(MESSAGES[0])[1:-4]))

    def test_nothing(self) -> None:
        with pytest.raises(ProtocolError, match="version 2"):
            decode(b"")

    def test_an_unknown_type(self) -> None:
        with pytest.raises(ProtocolError, match="unknown type 13"):
            decode(sealed(b"\2\x0d" + bytes(20)))

    def test_a_wrong_checksum(self) -> None:
        with pytest.raises(ProtocolError, match="checksum"):
            decode(encode(MESSAGES[0])[:-1] + b"\0")

    @pytest.mark.parametrize(
        "message",
        [
            RequestVote("s1", 2**63, 0, 0),
            RequestVote("s1", 1, 2**64 - 1, 0),
            RequestVoteResponse("s1", 2**63, granted=True),
            RequestPreVote("s1", 2**63, 0, 0),
            RequestPreVote("s1", 1, 2**63, 0),
            RequestPreVote("s1", 1, 0, 2**63),
            RequestPreVoteResponse("s1", 2**63, granted=True),
            TimeoutNow("s1", 2**64 - 1),
            AppendEntries("s1", 1, 2**63, 0, 0, 0),
            AppendEntriesResponse("s1", 1, success=True, index=2**63, round=0),
            InstallSnapshot("s1", 2**63, SnapshotMeta(1, 1, b"", 1, 1), 0, b""),
            InstallSnapshot("s1", 1, SnapshotMeta(2**63, 1, b"", 1, 1), 0, b""),
            InstallSnapshot("s1", 1, SnapshotMeta(1, 1, b"", 1, 2**63), 0, b""),
            InstallSnapshotResponse("s1", 1, 2**63, 0, 0),
            InstallSnapshotResponse("s1", 1, 1, 0, 2**63),
            RequestReadIndex("s1", 1, 2**63),
            RequestReadIndexResponse("s1", 1, 1, 2**63),
        ],
    )
    def test_a_number_that_a_storage_cannot_keep(self, message: Message) -> None:
        """Numbers of 64 bits stop where those with a sign do."""
        with pytest.raises(ProtocolError, match="out of range"):
            decode(encode(message))

    @pytest.mark.parametrize(
        ("prev_term", "term", "entry"),
        [
            (6, 7, Entry(1, 8, EntryKind.COMMAND, b"")),
            (6, 7, Entry(1, 5, EntryKind.COMMAND, b"")),
        ],
    )
    def test_an_impossible_entry(self, prev_term: int, term: int, entry: Entry) -> None:
        """Terms never fall and never pass the sender's."""
        message = AppendEntries("s1", term, 0, prev_term, 0, 0, (entry,))
        with pytest.raises(ProtocolError, match="impossible"):
            decode(encode(message))

    def test_an_unknown_kind(self) -> None:
        """Nobody knows what its bytes mean."""
        entry = Entry(1, 7, EntryKind.COMMAND, b"")
        body = bytearray(encode(AppendEntries("s1", 7, 0, 6, 0, 0, (entry,)))[:-4])
        kind_at = body.rindex(struct.pack(">QB", 7, EntryKind.COMMAND)) + 8
        body[kind_at] = max(EntryKind) + 1
        with pytest.raises(ProtocolError, match="unknown kind"):
            decode(sealed(bytes(body)))

    @pytest.mark.parametrize(
        ("message", "position"),
        [
            (RequestVote("s1", 7, 41, 6), 28),
            (RequestVoteResponse("s1", 7, granted=True), 12),
            (RequestPreVoteResponse("s1", 7, granted=True), 12),
            (AppendEntriesResponse("s1", 7, success=True, index=44, round=4), 12),
        ],
    )
    @pytest.mark.parametrize("flag", [2, 255])
    def test_a_flag_that_is_neither(
        self, message: Message, position: int, flag: int
    ) -> None:
        body = bytearray(encode(message)[:-4])
        body[position] = flag
        with pytest.raises(ProtocolError, match="only 0 and 1"):
            decode(sealed(bytes(body)))

    @pytest.mark.parametrize(
        ("meta", "number", "data", "sentence"),
        [
            (SnapshotMeta(5, 8, b"", 1, 1), 0, b"", "impossible term"),
            (SnapshotMeta(5, 7, b"", 6, 1), 0, b"", "impossible term or membership"),
            (SnapshotMeta(5, 7, b"", 1, 0), 0, b"", "0 chunks has no chunk 0"),
            (SnapshotMeta(5, 7, b"", 1, 2, 9), 2, b"a", "2 chunks has no chunk 2"),
            (SnapshotMeta(5, 7, b"", 1, 2, 3), 0, b"abcd", "size is not that"),
            (SnapshotMeta(5, 7, b"", 1, 1, 3), 0, b"ab", "size is not that"),
            (SnapshotMeta(5, 7, b"", 1, 2, 2**21 + 1), 0, b"a", "chunk .* too large"),
            (SnapshotMeta(5, 7, b"", 1, 9, 2**22), 0, bytes(2**20 + 1), "too large"),
            (SnapshotMeta(5, 7, bytes(2**20 + 1), 1, 1), 0, b"", "membership of a"),
        ],
    )
    def test_an_impossible_snapshot(
        self, meta: SnapshotMeta, number: int, data: bytes, sentence: str
    ) -> None:
        """What a chunk says of its snapshot has to fit together."""
        with pytest.raises(ProtocolError, match=sentence):
            decode(encode(InstallSnapshot("s1", 7, meta, number, data)))

    def test_the_largest_chunk_and_membership(self) -> None:
        """A mebibyte of either is still taken."""
        meta = SnapshotMeta(5, 7, bytes(2**20), 1, 2, 2**21)
        message = InstallSnapshot("s1", 7, meta, 1, bytes(2**20))
        assert decode(encode(message)) == message

    def test_a_membership_that_the_bytes_do_not_back(self) -> None:
        """Four gigabytes of it are announced, none is there."""
        meta = SnapshotMeta(5, 7, b"", 1, 1)
        body = bytearray(encode(InstallSnapshot("s1", 7, meta, 0, b""))[:-4])
        body[-10:-6] = b"\xff" * 4
        with pytest.raises(ProtocolError, match="length is not that of its parts"):
            decode(sealed(bytes(body)))

    @pytest.mark.parametrize("message", [one for one in MESSAGES if _is_small(one)])
    def test_every_length_that_is_too_short(self, message: Message) -> None:
        """A right checksum does not make up for missing bytes."""
        body = encode(message)[:-4]
        for length in range(len(body)):
            with pytest.raises(ProtocolError):
                decode(sealed(body[:length]))
