"""Arbitrary calls of clients: an answer or a RaftError, and the server goes on."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from twisted.python.failure import Failure

from consensus.applying.applier import Applier
from consensus.core.membership import Membership
from consensus.errors import ProtocolError, RaftError, StorageError
from consensus.options import ReadOptions, WriteOptions
from consensus.sessions import Operation, Sessions, check, entry_of
from consensus.shell.calls import _METHODS
from tests.support.servers import Register, Servers

_METHOD_NAMES = [*sorted(_METHODS), "", "write ", "__init__"]

_plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=6)
    | st.binary(max_size=6)
    | st.sampled_from(["s1", "s2", "set", "server", "address", "voters", "stale"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=6) | st.just("server"), inner, max_size=3)
    ),
    max_leaves=8,
)
_packed = _plain.map(msgspec.msgpack.encode)
_options = st.sampled_from(
    [
        msgspec.msgpack.encode(WriteOptions(with_index=True)),
        msgspec.msgpack.encode(ReadOptions(consistency="stale")),
        msgspec.msgpack.encode({"max_age": -1.0}),
    ]
)
payloads = st.one_of(
    st.binary(max_size=60),
    _packed,
    st.builds(lambda options, rest: options + rest, _options, _packed),
    st.builds(
        lambda number, rest: bytes([number]) + bytes(7) + rest,
        st.integers(0, 5),
        st.binary(max_size=30),
    ),
)


class CallTests:
    """What a server answers to anybody."""

    @pytest.mark.parametrize("forward", [False, True])
    @settings(
        max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    @given(
        calls=st.lists(st.tuples(st.sampled_from(_METHOD_NAMES), payloads), max_size=25)
    )
    def test_only_raft_errors_come_back(
        self,
        forward: bool,  # noqa: FBT001 - a parameter of the table
        calls: list[tuple[str, bytes]],
    ) -> None:
        """Whatever is asked for, in whatever words, has an answer in the end."""
        config = {"forward": forward, "timing": {"request_timeout": 1.0}}
        servers = Servers(("s1",), config=config)
        server = servers.leader()
        outcomes: list[object] = []
        for method, payload in calls:
            server.answer(method, payload).addBoth(outcomes.append)
        servers.until(lambda: len(outcomes) == len(calls))
        for outcome in outcomes:
            if isinstance(outcome, Failure):
                assert outcome.check(RaftError), outcome
                # What is told over the wire must be sayable.
                assert str(outcome.value).encode()
            else:
                assert isinstance(outcome, bytes)
        assert server.running

    @pytest.mark.parametrize("method", sorted(_METHODS))
    @pytest.mark.parametrize("size", [1 << 16, 3 << 20])
    def test_a_large_payload_is_no_crash(self, method: str, size: int) -> None:
        """Megabytes of zeros, of an opening bracket: refused, or answered."""
        servers = Servers(("s1",))
        server = servers.leader()
        outcomes: list[object] = []
        for byte in (b"\0", b"\x91", b"\xdd", b"["):
            server.answer(method, byte * size).addBoth(outcomes.append)
        servers.until(lambda: len(outcomes) == 4)
        for outcome in outcomes:
            assert isinstance(outcome, bytes) or (
                isinstance(outcome, Failure) and outcome.check(RaftError)
            )


class SessionTests:
    """Entries of sessions, which a leader of a later release may have made."""

    @settings(max_examples=200)
    @given(
        st.sampled_from([Operation.OPEN, Operation.COMMAND, Operation.CLOSE]),
        st.binary(max_size=40),
        st.integers(0, 2**62),
        st.lists(st.binary(max_size=60), max_size=4),
    )
    def test_arbitrary_entries(
        self, operation: Operation, call: bytes, time: int, entries: list[bytes]
    ) -> None:
        """A call is refused at the door; an entry that is none stops the server."""
        sessions = Sessions()
        try:
            check(operation, call)
            entries = [*entries, entry_of(operation, call, time)]
        except RaftError:
            pass
        for index, entry in enumerate(entries, 1):
            try:
                due = sessions.admit(index, entry)
            except StorageError:
                return
            assert due is not None


class SnapshotTests:
    """The framework's part of a snapshot."""

    @settings(max_examples=200)
    @given(st.lists(st.binary(max_size=40), max_size=4))
    @example([b"\1\xff\xff\xff\xff"])
    @example([b"\1\0\0\0\1", b"\xc0"])
    def test_arbitrary_bytes(self, chunks: list[bytes]) -> None:
        """What is no snapshot is refused, and the state is as it was."""
        applier = Applier(Register(), "s1")
        before = applier.state
        with pytest.raises(StorageError):
            applier.restore(chunks)
        assert applier.state is before

    @settings(max_examples=200)
    @given(st.data())
    def test_a_changed_snapshot(self, data: st.DataObject) -> None:
        """One with changed bytes is refused or restored, never a crash."""
        snapshot = bytearray(b"".join(Applier(Register(), "s1").snapshot()))
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(snapshot) - 1))
            snapshot[at] = data.draw(st.integers(0, 255))
        cut = data.draw(st.integers(0, len(snapshot)))
        try:
            Applier(Register(), "s1").restore([bytes(snapshot[:cut])])
        except StorageError:
            return


class MembershipTests:
    """A membership is JSON, in the log and in snapshots of others."""

    @settings(max_examples=200)
    @given(st.data())
    def test_a_changed_membership(self, data: st.DataObject) -> None:
        """One with changed bytes is one or is refused."""
        encoded = bytearray(
            Membership({"s1": "a", "s2": "b"}, learners={"s3": "c"}).encode()
        )
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(encoded) - 1))
            new = data.draw(st.integers(0, 255) | st.sampled_from(b'{}[]",:0e'))
            encoded[at] = new
        try:
            made = Membership.decode(bytes(encoded))
        except ProtocolError:
            return
        assert Membership.decode(made.encode()) == made
