"""The log of one server, cut and explained."""

from __future__ import annotations

import msgspec
import pytest

from consensus.errors import (
    CompactedError,
    InvalidCommandError,
    RejectedError,
    StoppedError,
)
from consensus.shell.inspection import Explanation
from tests.shell.test_members import established, failing
from tests.support.servers import Servers

encode = msgspec.msgpack.encode


class CompactTests:
    """What the snapshot covers is dropped."""

    def test_all(self) -> None:
        """Nothing is kept, unless so many entries are asked for."""
        servers = Servers()
        chief = established(servers)
        for number in range(20):
            servers.result(chief.write(["set", "k", number]))
        servers.result(chief.snapshot())
        servers.run(0.1)
        covered = chief.status().snapshot_index
        assert chief.status().first_index == 1
        answer = servers.result(chief.answer("compact", encode(5)))
        assert msgspec.msgpack.decode(answer) == covered - 5 + 1
        answer = servers.result(chief.answer("compact", encode(0)))
        assert msgspec.msgpack.decode(answer) == covered + 1
        assert chief.status().first_index == covered + 1
        failing(servers, chief.get_entry(covered), CompactedError)
        kinds = [each.kind for each in chief.events.after().events]
        assert kinds.count("compacted") == 2

    def test_twice(self) -> None:
        """What is gone is gone: a longer tail brings nothing back."""
        servers = Servers()
        chief = established(servers)
        servers.result(chief.snapshot())
        first = servers.result(chief.inspection.compact())
        assert servers.result(chief.inspection.compact(1000)) == first

    def test_no_snapshot(self) -> None:
        """A log that nothing covers stays."""
        servers = Servers()
        chief = established(servers)
        failing(servers, chief.inspection.compact(), RejectedError)
        assert chief.status().first_index == 1

    def test_who_is_behind(self) -> None:
        """A follower that needs what is gone is sent the snapshot."""
        servers = Servers()
        chief = established(servers)
        name = servers.followers()[0].name
        servers.stop(name)
        for number in range(5):
            servers.result(chief.write(["set", "k", number]))
        servers.result(chief.snapshot())
        servers.result(chief.inspection.compact())
        back = servers.start(name)
        servers.until(lambda: back.status().last_applied >= chief.status().commit_index)
        assert back.status().snapshot_index == chief.status().snapshot_index


class ExplainTests:
    """What became of an entry."""

    @staticmethod
    def explain(servers: Servers, name: str, index: int) -> Explanation:
        answer = servers.result(servers.servers[name].answer("explain", encode(index)))
        return msgspec.msgpack.decode(answer, type=Explanation)

    def test_a_write(self) -> None:
        """Every server says when it had it, and who led then."""
        servers = Servers()
        chief = established(servers)
        _, index = servers.result(chief.write(["set", "k", 1], with_index=True))
        servers.run(0.5)
        for name in servers.names:
            found = self.explain(servers, name, index)
            assert (found.server, found.index) == (name, index)
            assert (found.term, found.leader) == (chief.status().term, chief.name)
            steps = (found.appended, found.stored, found.committed, found.applied)
            assert all(each.is_done and each.time for each in steps)
            times = [each.time or 0.0 for each in steps]
            assert times[0] <= times[1] <= times[3]
            assert times[2] <= times[3]

    def test_an_earlier_term(self) -> None:
        """Who led an earlier term is remembered."""
        servers = Servers()
        chief = established(servers)
        _, index = servers.result(chief.write(["set", "k", 1], with_index=True))
        servers.result(chief.transfer())
        found = self.explain(servers, chief.name, index)
        assert found.leader == chief.name
        assert found.term < chief.status().term

    def test_not_there_yet(self) -> None:
        """An entry behind the end of the log is nowhere."""
        servers = Servers()
        chief = established(servers)
        found = self.explain(servers, chief.name, 10**9)
        assert (found.term, found.leader, found.is_compacted) == (0, None, False)
        assert not found.appended.is_done

    def test_compacted(self) -> None:
        """Of one that is gone, it is still known when it was here."""
        servers = Servers()
        chief = established(servers)
        _, index = servers.result(chief.write(["set", "k", 1], with_index=True))
        servers.result(chief.snapshot())
        servers.result(chief.inspection.compact())
        found = self.explain(servers, chief.name, index)
        assert (found.term, found.is_compacted) == (0, True)
        assert found.applied.is_done
        assert found.applied.time is not None


@pytest.mark.parametrize("method", ["compact", "explain"])
class CallTests:
    """The calls, asked wrongly."""

    @pytest.mark.parametrize(
        "payload", [b"", b"\xc1", encode(-1), encode("1"), encode(1 << 63), encode([1])]
    )
    def test_nonsense(self, method: str, payload: bytes) -> None:
        """What is no number is refused, and nothing is changed."""
        servers = Servers()
        chief = established(servers)
        assert failing(servers, chief.answer(method, payload), InvalidCommandError)
        assert chief.status().first_index == 1

    def test_stopped(self, method: str) -> None:
        """A server that does not run says so."""
        servers = Servers()
        established(servers)
        follower = servers.followers()[0]
        servers.stop(follower.name)
        failing(servers, follower.answer(method, encode(1)), StoppedError)


def test_no_entry() -> None:
    """There is no entry 0."""
    servers = Servers()
    chief = established(servers)
    failing(servers, chief.answer("explain", encode(0)), InvalidCommandError)
