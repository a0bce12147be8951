"""Tests of adapters.transport.amp_connection: what Twisted's own AMP may say."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from twisted.internet.protocol import Factory
from twisted.protocols import amp

from adapters.transport.amp_bytes import encode_box
from adapters.transport.amp_codec import encode
from adapters.transport.amp_commands import Call, Hello, Message, Ping, split_bytes
from consensus.core.messages import RequestVote
from consensus.core.values import Identity
from consensus.errors import NotLeaderError
from tests.support.amp import World, address_of, call_remote, port_of, warnings
from tests.support.deferreds import error_of, has_fired, result_of

VOTE = RequestVote("s2", 7, 6, 5)


@pytest.fixture
def world() -> World:
    """Return a network with the server s1."""
    world = World()
    world.server("s1", cluster_id="here")
    return world


def hello(stranger: amp.AMP, **changes: Any) -> Any:
    """Introduce *stranger* as s2 of the same cluster, but for *changes*."""
    items: dict[str, Any] = {
        "min_version": 1,
        "max_version": 1,
        "cluster": "c",
        "server": "s2",
        "incarnation": "1",
        "to": "s1",
    }
    return call_remote(stranger, Hello, **{**items, **changes})


def is_closed(stranger: amp.AMP) -> bool:
    """Say whether the server has closed the connection."""
    return stranger.transport is None


class IntroductionTests:
    """Hello, said by a program that is not ours."""

    def test_hello_is_answered(self, world: World) -> None:
        """The server says who it is and which version to speak."""
        stranger = world.stranger("s1")
        answer = hello(stranger, max_version=9)
        world.settle()
        assert result_of(answer) == {
            "version": 1,
            "cluster": "c",
            "server": "s1",
            "incarnation": "1",
            "cluster_id": "here",
        }

    def test_a_cluster_id_is_said_and_heard(self, world: World) -> None:
        """Who has one says so; who says none has none."""
        for cluster_id in ("here", None):
            answer = hello(world.stranger("s1"), cluster_id=cluster_id)
            world.settle()
            assert result_of(answer)["cluster_id"] == "here"
        assert world.inboxes["s1"].met == [
            Identity("c", "s2", "1", "here"),
            Identity("c", "s2", "1"),
        ]

    def test_a_message_after_hello(self, world: World) -> None:
        stranger = world.stranger("s1")
        hello(stranger)
        call_remote(stranger, Message, last=encode(VOTE))
        world.settle()
        assert world.inboxes["s1"].messages == [VOTE]

    def test_a_message_in_two_parts(self, world: World) -> None:
        stranger = world.stranger("s1")
        hello(stranger)
        data = encode(VOTE)
        call_remote(stranger, Message, part=data[:10])
        call_remote(stranger, Message, last=data[10:])
        world.settle()
        assert world.inboxes["s1"].messages == [VOTE]

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            (
                {"min_version": 2, "max_version": 3},
                "s2 speaks versions 2 to 3 of the protocol, this server 1 to 1: update",
            ),
            ({"cluster": "another"}, "give both the same cluster name"),
            ({"to": "s3"}, "'s2' takes this server for 's3', but it is 's1'"),
            ({"server": "s1"}, "two servers are called 's1'"),
            ({"cluster_id": "there"}, "another cluster that is also called 'c'"),
        ],
    )
    def test_who_does_not_belong_is_told_why(
        self, world: World, changes: dict[str, Any], sentence: str
    ) -> None:
        """The reason is in the answer and, once, in the log."""
        with warnings() as logged:
            for _ in range(2):
                stranger = world.stranger("s1")
                answer = hello(stranger, **changes)
                world.settle()
                error = error_of(answer)
                assert isinstance(error, amp.RemoteAmpError)
                assert '"code":"protocol"' in str(error.description)
                assert sentence in str(error.description)
                assert is_closed(stranger)
        assert len(logged) == 1
        assert sentence in logged[0]

    @pytest.mark.parametrize("number", [b"x", b"-1", b"1_0", b"9" * 10, b""])
    def test_a_version_that_is_no_number(self, world: World, number: bytes) -> None:
        """It costs the connection, like all rubbish."""
        stranger: Any = world.stranger("s1")
        with warnings() as logged:
            stranger.sendBox(
                amp.Box({b"_command": b"Hello", b"_ask": b"1", b"min_version": number})
            )
            world.settle()
        assert is_closed(stranger)
        assert "lacks the number 'min_version'" in logged[0]

    def test_text_that_is_not_utf8(self, world: World) -> None:
        stranger: Any = world.stranger("s1")
        with warnings() as logged:
            box = {b"min_version": b"1", b"max_version": b"1", b"cluster": b"\xff"}
            stranger.sendBox(amp.Box({b"_command": b"Hello", b"_ask": b"1", **box}))
            world.settle()
        assert is_closed(stranger)
        assert "lacks the text 'cluster'" in logged[0]


def box_of(message: RequestVote) -> bytes:
    """Return *message* as its box."""
    data = encode(message)
    return encode_box([(b"_command", b"Message"), (b"last", data)])


class TogetherTests:
    """Messages that come together are delivered together."""

    LIE = RequestVote("s3", 7, 6, 5)

    def votes(self, count: int) -> list[RequestVote]:
        """Return messages that can be told apart."""
        return [RequestVote("s2", term, 6, 5) for term in range(1, count + 1)]

    def delivered(self, world: World, *pieces: bytes) -> list[tuple[Any, ...]]:
        """Return what is delivered together when *pieces* come one by one."""
        batches: list[tuple[Any, ...]] = []
        inbox: Any = world.inboxes["s1"]
        inbox.deliver = lambda *messages: batches.append(messages)
        stranger: Any = world.stranger("s1")
        hello(stranger)
        world.settle()
        for piece in pieces:
            stranger.transport.write(piece)
            world.settle()
        self.stranger = stranger
        return batches

    def test_all_of_one_read(self, world: World) -> None:
        """In their order."""
        votes = self.votes(3)
        assert self.delivered(world, b"".join(map(box_of, votes))) == [tuple(votes)]

    def test_what_is_not_complete_comes_with_what_completes_it(
        self, world: World
    ) -> None:
        """And does not hold back the others."""
        votes = self.votes(3)
        first, second, third = map(box_of, votes)
        pieces = (first + second[:9], second[9:20], second[20:] + third)
        assert self.delivered(world, *pieces) == [(votes[0],), tuple(votes[1:])]

    def test_nothing_is_not_delivered(self, world: World) -> None:
        """A read without a message disturbs nobody."""
        assert self.delivered(world, box_of(VOTE)[:9]) == []

    @pytest.mark.parametrize(
        "bad",
        [b"\0\0", b"GET / HTTP/1.1\r\n", box_of(LIE)],
        ids=["empty", "http", "lie"],
    )
    def test_what_came_before_a_bad_box(self, world: World, bad: bytes) -> None:
        """It is good, and delivered; nothing behind the bad one is."""
        votes = self.votes(3)
        boxes = b"".join(map(box_of, votes[:2])) + bad + box_of(votes[2])
        with warnings() as logged:
            assert self.delivered(world, boxes) == [tuple(votes[:2])]
        assert is_closed(self.stranger)
        assert len(logged) == 1

    def test_a_bad_box_alone(self, world: World) -> None:
        """There is nothing to deliver."""
        with warnings():
            assert self.delivered(world, box_of(self.LIE)) == []


class Impostor(amp.AMP):
    """A server that answers every Hello, whatever it says."""

    said: ClassVar[dict[str, Any]]

    @Hello.responder
    def hello(self, **_: Any) -> dict[str, Any]:
        """Introduce this server as the test wants it."""
        return self.said


class AnswerTests:
    """The answer to Hello is looked at, too."""

    def greeted(self, world: World, **changes: Any) -> list[str]:
        """Return what s2 logs when it is answered so, and has tried for long."""

        class Saying(Impostor):
            said: ClassVar[dict[str, Any]] = {
                "version": 1,
                "cluster": "c",
                "server": "s3",
                "incarnation": "1",
                **changes,
            }

        world.reactor.listenTCP(port_of("s3"), Factory.forProtocol(Saying))
        two = world.server("s2")
        with warnings() as logged:
            two.connect("s3", address_of("s3"))
            world.settle(10.0)
        two.send("s3", VOTE)
        assert two.lost_messages == bool(logged)
        return logged

    def test_the_right_server(self, world: World) -> None:
        assert self.greeted(world) == []

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"version": 2}, "s3 speaks versions 2 to 2 of the protocol"),
            ({"cluster": "d"}, "'s3' belongs to the cluster 'd', and 's2' to 'c'"),
            (
                {"server": "s4"},
                "the server there is 's4', not 's3': correct the address of 's3'",
            ),
        ],
    )
    def test_who_does_not_belong(
        self, world: World, changes: dict[str, Any], sentence: str
    ) -> None:
        """It gets no message, and the log says why, once."""
        (line,) = self.greeted(world, **changes)
        assert sentence in line

    def test_the_latest_connection_of_a_peer_counts(self, world: World) -> None:
        """An older one is dead, or will be: it is closed."""
        first, second = world.stranger("s1"), world.stranger("s1")
        for stranger in (first, second):
            hello(stranger)
            world.settle()
        assert is_closed(first)
        assert not is_closed(second)
        call_remote(second, Message, last=encode(VOTE))
        world.settle()
        assert world.inboxes["s1"].messages == [VOTE]


class ViolationTests:
    """Rubbish costs the connection, is counted, and is worth a line."""

    def dropped(self, world: World, stranger: amp.AMP) -> str:
        """Return the log's line about *stranger*, which is dropped."""
        with warnings() as logged:
            world.settle()
        assert is_closed(stranger)
        assert world.inboxes["s1"].messages == []
        (line,) = logged
        return line

    def test_a_message_before_hello(self, world: World) -> None:
        stranger = world.stranger("s1")
        call_remote(stranger, Message, last=encode(VOTE))
        assert "before Hello" in self.dropped(world, stranger)

    def test_a_part_before_hello(self, world: World) -> None:
        """A stranger cannot have parts of messages kept for it."""
        stranger = world.stranger("s1")
        call_remote(stranger, Message, part=b"x")
        assert "before Hello" in self.dropped(world, stranger)

    def test_a_message_in_anothers_name(self, world: World) -> None:
        stranger = world.stranger("s1")
        hello(stranger)
        call_remote(stranger, Message, last=encode(RequestVote("s3", 7, 6, 5)))
        line = self.dropped(world, stranger)
        assert "'s2' sent a message in the name of 's3'" in line

    def test_a_message_that_is_none(self, world: World) -> None:
        stranger = world.stranger("s1")
        hello(stranger)
        call_remote(stranger, Message, last=b"\1\1")
        assert "server 's2'" in self.dropped(world, stranger)

    def test_two_hellos(self, world: World) -> None:
        stranger = world.stranger("s1")
        hello(stranger).addErrback(lambda _: None)
        hello(stranger).addErrback(lambda _: None)
        assert "a second Hello" in self.dropped(world, stranger)

    def test_a_call_without_ask(self, world: World) -> None:
        stranger: Any = world.stranger("s1")
        stranger.sendBox(amp.Box({b"_command": b"Call"}))
        assert "without _ask" in self.dropped(world, stranger)

    def test_a_call_without_a_payload(self, world: World) -> None:
        stranger: Any = world.stranger("s1")
        box = {b"_command": b"Call", b"_ask": b"1", b"version": b"1", b"method": b"m"}
        stranger.sendBox(amp.Box(box))
        assert "lacks its payload" in self.dropped(world, stranger)

    def test_violations_are_counted(self, world: World) -> None:
        server = world.server("s2")
        for _ in range(3):
            transport: Any = world.stranger("s2").transport
            transport.write(b"GET / HTTP/1.1\r\n\r\n")
            world.settle()
        assert server.violations == 3

    def test_a_server_that_calls_its_caller(self, world: World) -> None:
        """Only the end that made a connection asks; the other answers."""
        client = world.client()
        call = client.ask("tcp:127.0.0.1:9101", "wait", b"", timeout=9.0)
        world.settle()
        (connection,) = client._connections
        with warnings() as logged:
            connection.dataReceived(b"\0\x08_command\0\x04Ping\0\x04_ask\0\x011\0\0")
            world.settle()
        assert "a server sent a command to its caller" in logged[0]
        assert has_fired(call)
        error_of(call)


class CallTests:
    """Calls by Twisted's own AMP, with the classes in amp_commands."""

    def call(self, world: World, **items: Any) -> Any:
        """Return what a stranger's call gives."""
        stranger = world.stranger("s1")
        return call_remote(
            stranger,
            Call,
            **{"version": 1, "method": "mirror", "payload": b"", **items},
        )

    @pytest.mark.parametrize("size", [0, 10, 65_535, 65_536, 300_000])
    def test_a_call(self, world: World, size: int) -> None:
        """Payloads larger than a value of AMP are spread over several."""
        payload = (b"0123456789" * (size // 10 + 1))[:size]
        answer = self.call(world, payload=payload)
        world.settle()
        assert result_of(answer) == {"payload": payload[::-1]}
        assert world.inboxes["s1"].calls == [("mirror", payload)]

    def test_an_error(self, world: World) -> None:
        """The description is JSON that a program in any language can read."""
        world.inboxes["s1"].error = NotLeaderError("s2", "tcp:127.0.0.1:9102")
        answer = self.call(world, method="fail")
        world.settle()
        error = error_of(answer)
        assert isinstance(error, amp.RemoteAmpError)
        assert error.description == (
            '{"code":"not_leader","message":"not the leader; ask s2","leader":"s2",'
            '"address":"tcp:127.0.0.1:9102"}'
        )

    def test_another_version(self, world: World) -> None:
        """It is refused with a sentence, and the connection stays."""
        stranger = world.stranger("s1")
        answer = call_remote(stranger, Call, version=2, method="m", payload=b"")
        world.settle()
        error = error_of(answer)
        assert isinstance(error, amp.RemoteAmpError)
        assert "update the older one" in str(error.description)
        assert world.inboxes["s1"].calls == []
        assert not is_closed(stranger)

    def test_an_unknown_command(self, world: World) -> None:
        """A later release may have more; this one says which it speaks."""

        class Fly(amp.Command):
            pass

        stranger = world.stranger("s1")
        answer = call_remote(stranger, Fly)
        world.settle()
        error = error_of(answer)
        assert isinstance(error, amp.RemoteAmpError)
        assert "knows no command b'Fly'" in str(error.description)
        assert not is_closed(stranger)

    def test_starting_tls_is_unknown_too(self, world: World) -> None:
        """Twisted's AMP would agree to it; ours has no such command."""
        stranger: Any = world.stranger("s1")
        codes: list[bytes] = []
        answer = stranger.callRemoteString(b"StartTLS")
        answer.addErrback(lambda failure: codes.append(failure.value.errorCode))
        world.settle()
        assert codes == [b"protocol"]

    def test_ping(self, world: World) -> None:
        answer = call_remote(world.stranger("s1"), Ping)
        world.settle()
        assert result_of(answer) == {}

    def test_answers_out_of_order(self, world: World) -> None:
        stranger = world.stranger("s1")
        slow = call_remote(stranger, Call, version=1, method="wait", payload=b"")
        quick = call_remote(stranger, Call, version=1, method="mirror", payload=b"ab")
        world.settle()
        assert result_of(quick) == {"payload": b"ba"}
        world.inboxes["s1"].waiting[0].callback(b"at last")
        world.settle()
        assert result_of(slow) == {"payload": b"at last"}


def call_box(tag: bytes, method: bytes, payload: bytes, **more: bytes) -> bytes:
    """Return the bytes of a call, as our own clients write it."""
    return encode_box(
        (
            (b"_ask", tag),
            (b"_command", b"Call"),
            (b"version", b"1"),
            (b"method", method),
            *split_bytes(b"payload", payload),
            *((key.encode(), value) for key, value in more.items()),
        )
    )


def deaf(world: World) -> Any:
    """Return one that is connected to s1, and hears nothing of what that says."""
    stranger: Any = world.stranger("s1")
    stranger.dataReceived = lambda _: None
    return stranger


class CallAfterCallTests:
    """Calls that begin as the last one are read a shorter way, to the same end."""

    CALLS = (
        (b"mirror", b"abc"),
        (b"mirror", b"defg"),
        (b"mirror", b""),
        (b"mirror", b"\0\0"),
        (b"other", b"x"),
        (b"mirror", b"y" * 65_535),
        (b"mirror", b"z" * 65_536),
        (b"mirror", b"ab" * 100_000),
        (b"mirrors", b""),
        (b"m" * 200, b"long"),
        (b"m" * 200, b"long"),
        (b"mirror", b"the end"),
    )

    @pytest.mark.parametrize("piece", [1, 7, 1000, 1 << 20])
    def test_however_it_is_cut(self, world: World, piece: int) -> None:
        """Each call is made once, with its own payload, and in order."""
        calls = [each for each in self.CALLS if piece > 1 or len(each[1]) < 100]
        data = b"".join(
            call_box(b"%x" % (number * 1000), *call)
            for number, call in enumerate(calls)
        )
        stranger = deaf(world)
        for start in range(0, len(data), piece):
            stranger.transport.write(data[start : start + piece])
            if piece < len(data) < 10_000:
                world.settle()
        world.settle()
        wanted = [(method.decode(), payload) for method, payload in calls]
        assert world.inboxes["s1"].calls == wanted
        assert not is_closed(stranger)

    @pytest.mark.parametrize("is_second", [False, True])
    @pytest.mark.parametrize(
        "box",
        [
            call_box(b"", b"mirror", b"abc"),
            call_box(b"t" * 300, b"mirror", b"abc"),
            call_box(b"2", b"mirror", b"abc", zebra=b"1"),
            call_box(b"2", b"mirror", b"").replace(b"payload", b"paylord"),
            call_box(b"2", b"mirror", b"abc").replace(b"_command", b"_commanD"),
            call_box(b"2", b"\xff", b"abc"),
            call_box(b"2", b"mirror", b"abc")[:-2] + b"\1\0",
        ],
    )
    def test_unusual_ones(
        self,
        world: World,
        box: bytes,
        is_second: bool,  # noqa: FBT001 - a parameter of the test
    ) -> None:
        """They are read, or refused, as they are on a new connection."""
        stranger = deaf(world)
        if is_second:
            stranger.transport.write(call_box(b"1", b"mirror", b"first"))
            world.settle()
        stranger.transport.write(box)
        world.settle()
        outcome = world.inboxes["s1"].calls[is_second:], is_closed(stranger)
        assert outcome == self._on_a_new_one(box)

    def _on_a_new_one(self, box: bytes) -> tuple[list[tuple[str, bytes]], bool]:
        world = World()
        world.server("s1", cluster_id="here")
        stranger = deaf(world)
        stranger.transport.write(box)
        world.settle()
        return world.inboxes["s1"].calls, is_closed(stranger)

    def test_of_who_takes_no_answers(self) -> None:
        """It is dropped at the next call, whichever way that is read."""
        world = World()
        server = world.server("s1")
        stranger = deaf(world)
        stranger.transport.write(call_box(b"1", b"mirror", b"first"))
        world.settle()
        (connection,) = server._connections
        connection.unsent = 1 << 30
        stranger.transport.write(call_box(b"2", b"mirror", b"second"))
        world.settle()
        assert len(world.inboxes["s1"].calls) == 1
        assert is_closed(stranger)

    def test_after_the_end(self) -> None:
        """A server that listens no more says so, and calls nobody."""
        world = World()
        server = world.server("s1")
        stranger = deaf(world)
        (connection,) = server._connections
        for number in range(2):
            connection.dataReceived(call_box(b"%d" % number, b"mirror", b""))
            server.inbox = None
        world.settle()
        assert len(world.inboxes["s1"].calls) == 1
        assert not is_closed(stranger)
