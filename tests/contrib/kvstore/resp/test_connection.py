"""One connection of a Redis client: batches, order, bounds, failures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import ILogObserver, LogLevel, globalLogPublisher
from zope.interface import implementer

from consensus.core.values import EntryKind
from contrib.kvstore.commands import Set
from contrib.kvstore.resp.table import TABLE
from tests.support.redis import Ports, from_line, request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.redis import PortClient

SECRET = "secret"  # noqa: S105 - a test's


@implementer(ILogObserver)
class _Watch:
    """Keeps what was logged as a failure of ours."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __call__(self, event: Any) -> None:
        """Look at *event*."""
        if event.get("log_level") is LogLevel.critical or "log_failure" in event:
            self.seen.append(event)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """See that nothing was logged as a failure of ours."""
    watch: Any = _Watch()
    globalLogPublisher.addObserver(watch)
    yield
    globalLogPublisher.removeObserver(watch)
    assert not watch.seen


def _pipeline(client: PortClient, *lines: str) -> list[str]:
    client.send(b"".join(map(from_line, lines)))
    return client.wait(len(lines))


def _commands(ports: Ports) -> int:
    """Return how many commands of clients the leader's log has."""
    log = ports.servers.leader()._driver.raft.state.log  # type: ignore[union-attr]
    return sum(entry.kind == EntryKind.COMMAND for entry in log.entries)


class PipelineTests:
    """Commands that arrive together."""

    def test_they_are_answered_in_order(self) -> None:
        """Each of them meets those before it."""
        replies = _pipeline(
            Ports().client(),
            *("SET a 1", "INCR a", "GET a", "PING", "GET b", "SET b x", "INCR b"),
            *("NOPE", "DEL a b", "EXISTS a", "ECHO end"),
        )
        assert replies == [
            *("+OK", ":2", "'2'", "+PONG", "nil", "+OK"),
            "-ERR value is not an integer or out of range",
            "-ERR unknown command 'NOPE', with args beginning with: ",
            *(":2", ":0", "'end'"),
        ]

    def test_writes_are_one_batch(self) -> None:
        """They stand side by side in the log, in one write to the disk."""
        ports = Ports()
        client = ports.client()
        client.do("SET a 0")
        server = ports.servers.leader()
        batches: list[int] = []
        write_many = server.write_many

        def note(commands: Any) -> Any:
            batches.append(len(commands))
            return write_many(commands)

        server.write_many = note  # type: ignore[method-assign]
        before = _commands(ports)
        replies = _pipeline(client, *["INCR a", "PING"] * 50)
        assert replies == [
            each for count in range(1, 51) for each in (f":{count}", "+PONG")
        ]
        assert batches == [50]
        assert _commands(ports) == before + 50

    def test_commands_in_pieces(self) -> None:
        """However they are cut."""
        client = Ports().client()
        for byte in from_line("SET a 1") + b"get a\r\n":
            client.send(bytes((byte,)))
        assert client.wait(2) == ["+OK", "'1'"]

    def test_many_at_once(self) -> None:
        """More than one batch."""
        client = Ports().client()
        lines = [*["INCR a"] * 2500, *["GET a"] * 600, "MULTI", "EXEC"]
        replies = _pipeline(client, *lines)
        assert replies[2499] == ":2500"
        assert replies[2500:] == [*["'2500'"] * 600, "+OK", "[]"]

    def test_one_that_is_refused_alone(self) -> None:
        """The others of its batch do not suffer for it."""
        ports = Ports(config={"limits": {"max_command_bytes": 1000}})
        client = ports.client()
        replies = _pipeline(client, "SET a 1", f"SET b {'x' * 999}", "INCR a")
        assert replies[0] == "+OK"
        assert replies[1].startswith("-ERR it has 10")
        assert replies[2] == ":2"

    def test_reads_are_one_question(self) -> None:
        """Unless their answers are too large together."""
        ports = Ports(("s1", "s2", "s3"))
        client = ports.follower()
        asked: list[Any] = []
        port = client.protocol._port
        read = port.home.read

        def note(query: Any, **options: Any) -> Any:
            asked.append(type(query).__name__)
            return read(query, **options)

        port.home.read = note
        client.do("MSET a 1 b 2")
        replies = _pipeline(client, "GET a", "STRLEN b", "PING", "GET c", "GET a")
        assert replies == ["'1'", ":1", "+PONG", "nil", "'1'"]
        assert asked == ["GetMany"]
        client.do(f"SET a {'x' * 600_000}")
        first, second, _ = _pipeline(client, "GET a", "GET a", "GET b")
        assert len(first) == len(second) == 600_002
        assert asked == ["GetMany"] * 2 + ["Get"] * 3

    def test_many_commands_that_wait_for_nothing(self) -> None:
        """They do not use up the stack."""
        client = Ports().client()
        lines = ["MULTI", "DISCARD"] * 3000
        assert _pipeline(client, *lines) == ["+OK"] * 6000

    def test_a_client_that_leaves_is_forgotten(self) -> None:
        """What it asked for is done all the same."""
        ports = Ports()
        client = ports.client()
        client.send(from_line("SET a 1"))
        client.close()
        ports.servers.run(0.5)
        assert client.heard() == []
        assert ports.client().do("GET a") == "'1'"
        assert len(ports.ports["s1"].sessions()) == 1


class TransactionTests:
    """MULTI and EXEC are one entry of the log."""

    def test_one_entry(self) -> None:
        """Whatever is in it."""
        ports = Ports()
        client = ports.client()
        before = _commands(ports)
        replies = _pipeline(
            client, "MULTI", "SET a 1", "INCR a", "GET a", "MGET a b c", "EXEC"
        )
        assert replies[-1] == "[+OK, :2, '2', ['2', nil, nil]]"
        assert _commands(ports) == before + 1

    def test_watch_sees_others(self) -> None:
        """Also through another server, and a key that comes to be."""
        ports = Ports(("s1", "s2", "s3"))
        one, other = ports.client(), ports.follower()
        for change in ("SET a 1", "SET a 1", "DEL a", "SET a 2"):
            assert one.do("WATCH a b") == "+OK"
            other.do(change)
            assert _pipeline(one, "MULTI", "SET b 1", "EXEC")[-1] == "no list"
            assert _pipeline(one, "MULTI", "SET c 1", "EXEC")[-1] == "[+OK]"
        assert one.do("EXISTS b") == ":0"

    def test_what_is_not_possible_in_one(self) -> None:
        """It takes more than one step."""
        client = Ports().client()
        assert _pipeline(client, "MULTI", "FLUSHALL", "EXEC")[1:] == [
            "-ERR Command not allowed inside a transaction",
            "-EXECABORT Transaction discarded because of previous errors.",
        ]

    def test_a_transaction_is_bounded(self) -> None:
        """What is queued waits in memory."""
        ports = Ports(config={"limits": {"max_command_bytes": 1000}})
        client = ports.client()
        lines = ["MULTI", *[f"SET a {'x' * 300}"] * 9, "EXEC"]
        assert _pipeline(client, *lines)[-2:] == [
            "-ERR this transaction is too large",
            "-EXECABORT Transaction discarded because of previous errors.",
        ]

    def test_what_is_watched_is_bounded(self) -> None:
        """It is remembered until EXEC."""
        ports = Ports(config={"limits": {"max_command_bytes": 10_000}})
        client = ports.client()
        keys = [
            " ".join(f"k{begin + number}" for number in range(400))
            for begin in (0, 400)
        ]
        assert client.do(f"WATCH {keys[0]}") == "+OK"
        assert client.do(f"WATCH {keys[1]}") == "-ERR too many keys are watched"
        assert client.do("UNWATCH") == "+OK"
        assert client.do(f"WATCH {keys[1]}") == "+OK"

    def test_what_was_watched_is_forgotten_with_the_client_reset(self) -> None:
        """RESET makes a new client of it."""
        client = Ports().client()
        replies = _pipeline(
            client, "CLIENT SETNAME x", "WATCH a", "MULTI", "RESET", "CLIENT GETNAME"
        )
        assert replies[-2:] == ["+RESET", "nil"]
        assert client.do("EXEC") == "-ERR EXEC without MULTI"


class ScanTests:
    """SCAN goes through all keys, wherever it is asked to go on."""

    def test_every_key_once(self) -> None:
        """In pages."""
        client = Ports().client()
        client.do("MSET " + " ".join(f"k{number:03} v" for number in range(95)))
        found: list[str] = []
        cursor, pages = "0", 0
        while pages == 0 or cursor != "0":
            reply = client.do(f"SCAN {cursor} COUNT 10 MATCH k*[0-7]")
            cursor, keys = reply.removeprefix("['").split("', [", 1)
            found += [each.strip("'") for each in keys[:-2].split(", ") if each]
            pages += 1
        assert pages == 10
        assert found == [f"k{each:03}" for each in range(95) if each % 10 < 8]

    def test_a_cursor_may_be_used_again(self) -> None:
        """The answer may have been lost; but not after the next one was used."""
        client = Ports().client()
        client.do("MSET " + " ".join(f"k{number:03} v" for number in range(50)))
        first = client.do("SCAN 0").split("'")[1]
        again = client.do(f"SCAN {first}")
        assert client.do(f"SCAN {first}").split("[", 2)[2] == again.split("[", 2)[2]
        client.do(f"SCAN {again.split(chr(39))[1]}")
        assert client.do(f"SCAN {first}").startswith("-ERR this cursor is of another")

    def test_a_cursor_of_another_server_is_refused(self) -> None:
        """It would mean another place."""
        ports = Ports(("s1", "s2", "s3"))
        client, other = ports.client(), ports.follower()
        client.do("MSET " + " ".join(f"k{number:03} v" for number in range(50)))
        cursor = client.do("SCAN 0").split("'")[1]
        assert int(cursor) < 1 << 63
        assert other.do("SCAN 0").split("'")[1] != cursor
        reply = other.do(f"SCAN {cursor}")
        assert reply.startswith("-ERR this cursor is of another")

    def test_cursors_are_bounded(self) -> None:
        """Those that nobody used for longest are forgotten."""
        ports = Ports()
        client = ports.client()
        client.do("MSET a 1 b 2")
        _pipeline(client, *["SCAN 0 COUNT 1"] * 4100)
        assert len(ports.ports["s1"].cursors) == 4000

    def test_keys_are_bounded(self) -> None:
        """KEYS would hold up the server."""
        client = Ports().client()
        for begin in range(0, 10_001, 1000):
            pairs = " ".join(f"k{begin + number} v" for number in range(1000))
            client.do(f"MSET {pairs}")
        client.do("SET other v")
        assert client.do("DBSIZE") == ":11001"
        assert client.do("KEYS oth?r") == "['other']"
        assert client.do("KEYS *").startswith("-ERR more than 10000 keys begin like")
        assert client.do("FLUSHALL") == "+OK"
        assert client.do("DBSIZE") == ":0"

    def test_patterns_are_bounded(self) -> None:
        """A long one takes its time with each key."""
        client = Ports().client()
        client.do(f"SET {'k' * 1000}x 1")
        assert client.do(f"KEYS {'k' * 1000}*").startswith("['kkk")
        refused = "-ERR a pattern has at most 256 bytes from its first special one on"
        assert client.do(f"KEYS *{'k' * 256}") == refused
        assert client.do(f"SCAN 0 MATCH ?{'k' * 256}") == refused
        assert client.do(f"KEYS {'k' * 5000}") == refused
        refused = "-ERR these are too many patterns, or too long ones"
        assert client.do(f"CONFIG GET {'x ' * 30}") == refused
        assert client.do(f"CONFIG GET {'x' * 300}") == refused


class TimeTests:
    """When keys end."""

    def test_a_key_ends(self) -> None:
        """In the log's time, which passes though nobody writes."""
        ports = Ports()
        client = ports.client()
        client.do("SET a 1 PX 500")
        ports.servers.run(0.4)
        assert client.do("GET a") == "'1'"
        assert 90 <= int(client.do("PTTL a")[1:]) <= 100
        ports.servers.run(0.2)
        assert _pipeline(client, "GET a", "TTL a", "DBSIZE") == ["nil", ":-2", ":0"]

    def test_dates_are_those_of_the_port(self) -> None:
        """A date is turned into a time from now."""
        ports = Ports()
        client = ports.client()
        seconds = ports.date // 1000
        client.do(f"SET a 1 EXAT {seconds + 100}")
        client.do(f"SET b 1 PXAT {ports.date - 1}")
        assert client.do("TTL a") == ":100"
        assert abs(int(client.do("EXPIRETIME a")[1:]) - seconds - 100) <= 1
        assert abs(int(client.do("PEXPIRETIME a")[1:]) - ports.date - 100_000) < 50
        assert client.do("TIME") == f"['{seconds}', '0']"
        ports.servers.run(0.1)
        assert client.do("EXISTS b") == ":0"

    def test_the_nearest_of_conditions_that_we_lack(self) -> None:
        """It is said, and nothing is done."""
        client = Ports().client()
        client.do("SET a 1 EX 100")
        reply = client.do("EXPIRE a 5 XX LT")
        assert reply == "-ERR XX and LT at the same time are not supported here"
        assert client.do("TTL a") == ":100"


class TalkTests:
    """What clients ask of the server itself."""

    def test_hello(self) -> None:
        """It says who we are, and which protocol it is from here on."""
        client = Ports().client()
        assert client.do("HELLO 3 SETNAME me") == (
            "%['server', 'redis', 'version', '7.0.15', 'proto', :3, 'id', :1, 'mode',"
            " 'standalone', 'role', 'master', 'modules', []]"
        )
        assert client.do("GET a") == "_"
        assert client.do("HELLO").startswith("%['server'")
        assert _pipeline(client, "GET a", "HELLO 2", "GET a")[2] == "nil"

    def test_info(self) -> None:
        """With a part about the cluster; on any server, leader or no leader."""
        ports = Ports(("s1", "s2", "s3"))
        client = ports.follower()
        client.do("SET a 1")
        ports.servers.run(0.2)
        text = client.do("INFO")
        chief = ports.servers.leader().name
        assert f"raft_leader:{chief}" in text
        assert "raft_role:follower" in text
        assert "role:master" in text
        assert "db0:keys=1" in text
        assert "connected_clients:1" in text
        ports.servers.network.down(chief)
        assert client.do("INFO raft").startswith("'# Raft")
        assert "# Raft" not in client.do("INFO server")
        assert client.do("INFO nothing") == "''"

    def test_client_list(self) -> None:
        """A line for each."""
        ports = Ports()
        client, other = ports.client(), ports.client()
        other.do("CLIENT SETNAME other")
        other.do("CLIENT SETINFO lib-name redis-py")
        text = client.do("CLIENT LIST")
        assert text.count("addr=127.0.0.1:50000") == 2
        assert "name=other" in text
        assert "lib-name=redis-py" in text
        assert client.do("CLIENT ID") == ":1"
        assert "id=2" not in client.do("CLIENT LIST ID 1")
        assert client.do("CLIENT LIST TYPE master") == "''"
        assert "id=2" in other.do("CLIENT INFO")

    def test_commands_are_described(self) -> None:
        """Programs look at them before they begin."""
        client = Ports().client()
        count = int(client.do("COMMAND COUNT")[1:])
        assert count == len(TABLE) / 2
        assert client.do("COMMAND INFO get nope") == (
            "[['get', :2, [+fast, +readonly], :1, :1, :1, [+@string], [], [], []], nil]"
        )
        assert client.do("COMMAND").count("[+@") == count
        assert client.do("COMMAND LIST").count("'") == 2 * count
        assert client.do("COMMAND DOCS get").startswith("['get', ['summary', 'the va")
        assert client.do("COMMAND DOCS").count("'summary'") == count

    def test_config_of_those_who_only_look(self) -> None:
        """What redis-benchmark asks; and nothing can be changed."""
        client = Ports(resp_password=SECRET).client()
        client.do("AUTH secret")
        assert client.do("CONFIG GET save") == "['save', '']"
        assert client.do("CONFIG GET maxm* time*") == (
            "['maxmemory', '0', 'maxmemory-policy', 'noeviction', 'timeout', '0']"
        )
        assert "secret" not in client.do("CONFIG GET *")

    def test_wait(self) -> None:
        """A write is at a majority when it is answered."""
        ports = Ports(("s1", "s2", "s3"))
        assert ports.client().do("WAIT 2 100") == ":1"

    def test_quit(self) -> None:
        """What comes after it is not done."""
        ports = Ports()
        client = ports.client()
        client.send(from_line("SET a 1") + b"QUIT\r\nSET a 2\r\n")
        assert client.wait(2) == ["+OK", "+OK"]
        assert client.is_closed
        assert ports.client().do("GET a") == "'1'"


class PasswordTests:
    """Clients who have to say who they are."""

    def test_nothing_is_done_for_strangers(self) -> None:
        """Until they say the password."""
        ports = Ports(resp_password=SECRET)
        client = ports.client()
        assert client.do("PING") == "-NOAUTH Authentication required."
        assert client.do("SET a 1") == "-NOAUTH Authentication required."
        assert client.do("HELLO 3").startswith("-NOAUTH HELLO must be called with")
        for wrong in ("AUTH wrong", "AUTH other secret", "HELLO 3 AUTH default no"):
            assert client.do(wrong).startswith("-WRONGPASS invalid username-password")
        assert client.do("MULTI").startswith("-NOAUTH")
        assert client.do("AUTH secret") == "+OK"
        assert client.do("SET a 1") == "+OK"
        assert client.do("RESET") == "+RESET"
        assert client.do("GET a").startswith("-NOAUTH")
        assert client.do("HELLO 3 AUTH default secret").startswith("%[")
        assert client.do("GET a") == "'1'"

    def test_strangers_have_no_time(self) -> None:
        """Nor much room; those who are known have both."""
        ports = Ports(resp_password=SECRET)
        port = ports.ports["s1"]
        known, stranger, large = ports.client(), ports.client(), ports.client()
        known.do("AUTH secret")
        large.send(b"*1000\r\n")
        assert large.wait() == ["-ERR Protocol error: unauthenticated multibulk length"]
        assert large.is_closed
        known.send(request("DEL", *["k"] * 1000))
        known.wait()
        ports.servers.run(11)
        port._sweep()
        assert stranger.is_closed
        assert not known.is_closed


class ReadTests:
    """How clients read is for the config to say."""

    @pytest.mark.parametrize("reads", ["linearizable", "lease", "follower"])
    def test_a_read_sees_what_was_written_before(self, reads: str) -> None:
        """At any server."""
        ports = Ports(("s1", "s2", "s3"), resp_reads=reads)
        client, follower = ports.client(), ports.follower()
        for value in range(20):
            client.do(f"SET a {value}")
            assert follower.do("GET a") == f"'{value}'"

    def test_a_stale_read_is_answered_here(self) -> None:
        """Though nobody leads."""
        ports = Ports(("s1", "s2", "s3"), resp_reads="stale")
        client, follower = ports.client(), ports.follower()
        client.do("SET a 1")
        ports.servers.run(0.3)
        ports.servers.network.down(follower.protocol._port.home.name)
        assert follower.do("GET a") == "'1'"


class FailureTests:
    """What cannot be done, and what may have been."""

    def test_nothing_is_done_while_nobody_leads(self) -> None:
        """The client is told to try again."""
        ports = Ports(("s1", "s2", "s3"))
        follower = ports.follower()
        name = follower.protocol._port.home.name
        for other in set(ports.servers.names) - {name}:
            ports.servers.network.down(other)
        ports.servers.run(1)
        for line in ("SET a 1", "GET a", "WATCH a", "FLUSHALL"):
            reply = follower.do(line)
            assert reply == "-TRYAGAIN nothing was done: no leader is known"
        replies = _pipeline(follower, "SET a 1", "SET a 2", "GET a")
        assert [reply[:9] for reply in replies] == ["-TRYAGAIN"] * 3

    def test_what_may_have_been_done(self) -> None:
        """It is said, and nothing is guessed."""
        ports = Ports(("s1", "s2", "s3"))
        follower, chief = ports.follower(), ports.servers.leader().name
        name = follower.protocol._port.home.name
        ports.servers.network.cut(chief, name)
        replies = _pipeline(follower, "INCR a", "INCR a", "GET a")
        for reply in replies[:2]:
            assert reply.startswith("-OUTCOMEUNKNOWN this may have been done, or may")
        ports.servers.network.heal()
        ports.servers.run(2)
        ports.servers.network.cut(ports.servers.leader().name, name)
        reply = _pipeline(follower, "MULTI", "INCR a", "EXEC")[-1]
        assert reply.startswith(("-OUTCOMEUNKNOWN", "-TRYAGAIN", "[:"))
        ports.servers.network.heal()
        ports.servers.run(2)
        assert ports.client().do("GET a") in {"'2'", "'3'"}

    def test_a_leader_that_is_gone_is_replaced(self) -> None:
        """A client of another server only waits."""
        ports = Ports(("s1", "s2", "s3"))
        follower = ports.follower()
        follower.do("SET a 1")
        ports.servers.network.down(ports.servers.leader().name)
        reply = follower.do("GET a")
        assert reply == "'1'"

    def test_values_of_other_clients(self) -> None:
        """Text is told as its bytes."""
        ports = Ports()
        chief = ports.servers.leader()
        ports.servers.result(chief.write(Set(b"a", "é")))
        client = ports.client()
        assert client.do("GET a") == repr("é".encode())[1:]
        assert client.do("STRLEN a") == ":2"
        assert client.do("GETSET a x") == repr("é".encode())[1:]

    def test_keys_that_cannot_be(self) -> None:
        """Redis has longer keys, and the empty one."""
        client = Ports().client()
        for key in ("''", "x" * 4097):
            for line in (f"GET {key}", f"MSET a 1 {key} 1", f"WATCH {key}"):
                assert client.do(line).startswith("-ERR a key has 1 to 4096 bytes")
        many = " ".join(["k"] * 10_001)
        assert client.do(f"DEL {many}").startswith("-ERR one command has at most 10000")


class FlowTests:
    """A client that is slower than we are."""

    def test_replies_wait_while_the_client_takes_none(self) -> None:
        """No more is read for it than what it is being told."""
        client = Ports().client()
        client.do(f"SET a {'x' * 100_000}")
        client.protocol.pauseProducing()
        client.send(from_line("GET a") * 50 + from_line("SET a 1"))
        client.servers.run(0.2)
        assert client.heard() == []
        client.protocol.resumeProducing()
        assert client.wait(51)[-1] == "+OK"

    def test_a_slow_client_gets_a_piece_at_a_time(self) -> None:
        """It says when it can take more."""
        client = Ports().client()
        client.do(f"SET a {'x' * 50_000}")
        write: Any = client.transport.write

        def full(data: bytes) -> None:
            write(data)
            client.protocol.pauseProducing()

        client.transport.write = full  # type: ignore[method-assign]
        client.send(from_line("GET a") * 10)
        got: list[str] = []
        for _ in range(5):
            client.servers.run(0.1)
            assert len(client.transport.value()) <= 101_000
            got += client.heard()
            client.protocol.resumeProducing()
        assert len(got) == 10

    def test_a_client_that_sends_and_sends_has_to_wait(self) -> None:
        """What it sends stays with it."""
        ports = Ports(("s1", "s2", "s3"))
        client = ports.follower()
        ports.servers.network.down(ports.servers.leader().name)
        for _ in range(30):
            client.send(from_line(f"SET a {'x' * 10_000}"))
        assert client.transport.producerState == "paused"
        client.wait(30)
        assert client.transport.producerState == "producing"


class HostileTests:
    """Whatever is sent, nothing breaks but the connection that it came by."""

    def test_a_browser(self) -> None:
        """A page must not write here by a request that it makes."""
        ports = Ports()
        client = ports.client()
        client.send(b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\nSET a 1\r\n")
        ports.servers.run(0.1)
        assert client.is_closed
        assert ports.client().do("EXISTS a") == ":0"

    def test_a_protocol_error_comes_after_what_was_right(self) -> None:
        """Then the connection is closed."""
        client = Ports().client()
        client.send(from_line("SET a 1") + b"*x\r\n" + from_line("SET a 2"))
        assert client.wait(2) == [
            "+OK",
            "-ERR Protocol error: invalid multibulk length",
        ]
        assert client.is_closed

    @settings(max_examples=60, deadline=None)
    @given(
        commands=st.lists(
            st.tuples(
                st.sampled_from(sorted({name for name in TABLE if name.isupper()})),
                st.lists(
                    st.sampled_from(
                        [
                            *(b"a", b"b", b"", b"0", b"1", b"-1", b"1.5", b"x" * 300),
                            *(
                                b"\xff\xfe",
                                b"\r\n",
                                b"nan",
                                b"9" * 30,
                                b"*",
                                b"[",
                                b"3",
                            ),
                            *(
                                b"EX",
                                b"NX",
                                b"GET",
                                b"MATCH",
                                b"COUNT",
                                b"LIST",
                                b"AUTH",
                            ),
                            *(b"INFO", b"SETNAME", b"ID", b"PXAT", b"KEEPTTL", b"raft"),
                        ]
                    ),
                    max_size=5,
                ),
            ),
            max_size=20,
        )
    )
    def test_any_words(self, commands: list[tuple[bytes, list[bytes]]]) -> None:
        """Each command has one reply, unless it was to close."""
        client = Ports().client()
        sent = [request(name, *words) for name, words in commands if name != b"QUIT"]
        client.send(b"".join(sent))
        assert len(client.wait(len(sent))) == len(sent)
        assert not client.is_closed

    @settings(max_examples=60, deadline=None)
    @given(pieces=st.lists(st.binary(max_size=200), max_size=10))
    def test_any_bytes(self, pieces: list[bytes]) -> None:
        """Replies, or an error and the end."""
        ports = Ports()
        client = ports.client()
        for piece in pieces:
            client.send(piece)
        ports.servers.run(0.2)
        assert client._replies.rest == b""
        assert ports.client().do("PING") == "+PONG"
