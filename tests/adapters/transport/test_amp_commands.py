"""Tests of adapters.transport.amp_commands."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.transport.amp_commands import (
    MAX_VALUE_BYTES,
    ErrorReport,
    decode_error,
    encode_error,
    join_bytes,
    split_bytes,
)
from consensus.errors import (
    CommandFailedError,
    ConfigError,
    Finding,
    NotLeaderError,
    OutcomeUnknownError,
    RaftError,
    RejectedError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


def all_errors(root: type[RaftError] = RaftError) -> Iterator[type[RaftError]]:
    """Yield every class of error."""
    yield root
    for child in root.__subclasses__():
        yield from all_errors(child)


class SplitTests:
    """Bytes that are larger than a value of AMP."""

    @pytest.mark.parametrize(
        ("size", "keys"),
        [
            (0, [b"x"]),
            (MAX_VALUE_BYTES, [b"x"]),
            (MAX_VALUE_BYTES + 1, [b"x", b"x.1"]),
            (2 * MAX_VALUE_BYTES, [b"x", b"x.1"]),
            (2 * MAX_VALUE_BYTES + 1, [b"x", b"x.1", b"x.2"]),
        ],
    )
    def test_as_many_keys_as_it_takes(self, size: int, keys: list[bytes]) -> None:
        value = bytes(range(256)) * (size // 256) + bytes(size % 256)
        box = dict(split_bytes(b"x", value))
        assert list(box) == keys
        assert max(map(len, box.values())) <= MAX_VALUE_BYTES
        assert join_bytes(b"x", box) == value

    def test_parts_of_any_size_are_joined(self) -> None:
        """Another library may cut as it likes; a gap ends it."""
        box = {b"x": b"a", b"x.1": b"", b"x.2": b"b", b"x.4": b"no"}
        assert join_bytes(b"x", box) == b"ab"

    def test_nothing(self) -> None:
        with pytest.raises(KeyError):
            join_bytes(b"x", {b"x.1": b"a"})


class ErrorTests:
    """Errors cross the wire as their class."""

    def test_every_error_crosses(self) -> None:
        """Whoever adds a class with a field is told here what is missing."""
        for cls in all_errors():
            if cls is ConfigError:
                continue
            known = {"leader": "s2", "address": "tcp:h:1", "kind": "K", "detail": "d"}
            values = {**known, "first_index": 7}
            made = (
                cls(**{name: values[name] for name in cls.fields})
                if cls.fields
                else cls("why")
            )
            again = decode_error(*encode_error(made))
            assert type(again) is cls
            assert str(again) == str(made)
            for name in cls.fields:
                assert getattr(again, name) == getattr(made, name)

    def test_a_config_error_becomes_what_promises_nothing(self) -> None:
        """No server sends one; if one does, nobody trips over it."""
        error = decode_error(*encode_error(ConfigError([Finding("x.E001", "why")])))
        assert type(error) is OutcomeUnknownError

    def test_the_description_is_json(self) -> None:
        """With the code in it, for libraries that hide the box's own."""
        code, description = encode_error(NotLeaderError("s2", "tcp:h:1"))
        assert code == b"not_leader"
        assert json.loads(description) == {
            "code": "not_leader",
            "message": "not the leader; ask s2",
            "leader": "s2",
            "address": "tcp:h:1",
        }

    @given(st.text(), st.text())
    def test_any_text_crosses(self, kind: str, detail: str) -> None:
        """Whatever an application's exception says."""
        error = decode_error(*encode_error(CommandFailedError(kind, detail)))
        assert isinstance(error, CommandFailedError)
        assert error.kind == kind.encode("utf-8", "replace").decode()

    @pytest.mark.parametrize("character", ["\0", "é", "\U0001f600", '"', "\ud800"])
    def test_long_text_is_cut(self, character: str) -> None:
        """A description always fits into a value of AMP."""
        made = CommandFailedError(character * 100_000, character * 100_000)
        _, description = encode_error(made)
        assert len(description) <= MAX_VALUE_BYTES

    @given(st.binary(), st.binary())
    def test_any_bytes_are_an_error(self, code: bytes, description: bytes) -> None:
        assert isinstance(decode_error(code, description), RaftError)

    @given(
        st.sampled_from([cls.code.encode() for cls in all_errors()]),
        st.dictionaries(
            st.sampled_from(ErrorReport.__struct_fields__),
            st.one_of(st.none(), st.integers(), st.text(), st.lists(st.integers())),
        ),
    )
    def test_fields_of_other_types_are_not_believed(
        self, code: bytes, fields: dict[str, object]
    ) -> None:
        """A leader is text or nothing, whatever another server claims."""
        error = decode_error(code, msgspec.json.encode(fields))
        assert isinstance(error, RaftError)
        if isinstance(error, NotLeaderError):
            assert isinstance(error.leader, str | None)
            assert isinstance(error.address, str)

    def test_an_unknown_code_promises_nothing(self) -> None:
        """A later release's error may be one that entered the log."""
        error = decode_error(b"from_the_future", b'{"message":"what?"}')
        assert type(error) is OutcomeUnknownError
        assert "from_the_future" in str(error)

    def test_text_that_is_not_utf8(self) -> None:
        """Not in the code, in JSON, or outside of it."""
        for description in (b'{"message":"\xff"}', b"\xff", b'{"leader":"\xff"}'):
            error = decode_error(b"rejected", description)
            assert type(error) is RejectedError
        assert type(decode_error(b"\xff", b"{}")) is OutcomeUnknownError

    def test_text_that_is_no_json_is_the_message(self) -> None:
        error = decode_error(b"rejected", b"just words")
        assert type(error) is RejectedError
        assert str(error) == "just words"
