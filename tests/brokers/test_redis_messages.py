"""Another program may write where RedisBroker reads: what is not the broker's is skipped, and harms nothing else."""

import asyncio
import logging
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds_broadcaster.brokers import Command
from ds_broadcaster.brokers.packing import pack_command
from ds_broadcaster.brokers.redis.messages import unpack_entry, unpack_kept_command, unpack_message
from ds_broadcaster.sse import Frame
from ds_broadcaster.testing.brokers.receiver import RESET, RecordingReceiver
from tests.brokers.malformed import BYTES, NUMBERS, mangled
from tests.brokers.test_redis import broker_at
from tests.harness.redis import RedisServer

COMMAND = pack_command("a", Command("kill"))


@pytest.fixture(scope="module")
def server():
    with RedisServer() as server:
        yield server


# Reading


@given(BYTES | mangled(b"abc 12 e\ndata: x\n\n") | mangled(b"abc 12 c" + COMMAND) | mangled(b"abc 12 rprocess:1"))
def test_message_is_right_or_refused(data):
    try:
        message = unpack_message(data)
    except ValueError:
        return
    assert 0 <= message.sequence < 1 << 53
    assert message.epoch.isalnum()
    assert isinstance(message.item, Frame | Command | str | None)


@given(BYTES | mangled(b"abc 12 " + COMMAND))
def test_kept_command_is_right_or_refused(entry):
    try:
        epoch, sequence, channel, command = unpack_kept_command(entry)
    except ValueError:
        return
    assert (type(epoch), type(sequence), type(channel), type(command)) == (str, int, str, Command)


@given(BYTES | mangled(b"12-0"), st.none() | st.lists(BYTES, max_size=5))
def test_entry_is_right_or_refused(entry_id, fields):
    try:
        sequence, frame = unpack_entry("abc", (entry_id, fields))
    except ValueError:
        return
    assert frame.data.startswith(b"id: abc-%d\n" % sequence)


# On a server


FOREIGN = [
    b"",
    b"hello",
    b"\xff\xfe\x00",
    b"{epoch} 7",
    b"{epoch} 7 e",
    b"{epoch} 7 c",
    b"{epoch} 7 x",
    b"{epoch} 7 e{\n\n",
    b'{epoch} 7 e{"exclude": []}\ndata: x\n\n',
    b'{epoch} 7 c["a", "disconnect"]',
    b'{epoch} 7 c["a", "disconnect", {"uuid": 5}]',
    b"{epoch} 7 c" + b"[" * 100_000,
    b"{epoch} 7 r\xff",
    *(b"{epoch} %b e\ndata: x\n\n" % number.encode() for number in NUMBERS if not number.isascii() or number != "0"),
    *(b"another 999999 %b" % rest for rest in (b"e\ndata: x\n\n", b"c" + COMMAND, b"h", b"rprocess")),
]


def test_foreign_messages_are_skipped_without_a_reconnect(server, channel, caplog):
    async def test():
        receiver = RecordingReceiver()
        broker.attach(receiver)
        await broker.subscribe(receiver, "a")
        connection = broker._listeners[receiver]._connection
        epoch = broker.epoch.encode()
        expected = []
        for topic in (broker.session.topic_of(b"a"), broker.session.topic_of(b"")):
            for each in FOREIGN:
                await asyncio.to_thread(server.call, "publish", topic, each.replace(b"{epoch}", epoch))
            expected.append(await asyncio.to_thread(broker.publish, "a", b"x\n\n"))
        await receiver.hears("a", expected[-1])
        assert receiver.sequences("a") == expected
        assert receiver.sequences("") == []
        assert broker._listeners[receiver]._connection is connection
        assert broker.epoch.encode() == epoch
        broker.detach(receiver)

    with broker_at(server.url, {"prefix": channel}) as broker, caplog.at_level(logging.WARNING):
        asyncio.run(test())
    [line] = [each.getMessage() for each in caplog.records if "malformed" in each.getMessage()]
    assert "Redis" in line
    assert len(line) < 500
    assert "Traceback" not in caplog.text


def test_foreign_entries_of_a_history_are_skipped(server, channel):
    with broker_at(server.url, {"prefix": channel}) as broker:
        first = broker.publish("a", b"1\n\n")
        history = broker.session.key_of("h:a")
        for fields in (["x", "y"], ["t", "1e999", "p"], ["t", "soon", "p", b"\ndata: x"], ["t", 1, "p", b"\xff"]):
            if len(fields) % 2 == 0:
                server.call("xadd", history, f"{first}-*", *fields)
        given_ones = [first, *(broker.publish("a", b"%d\n\n" % number) for number in range(3))]
        assert [each for each, _ in asyncio.run(broker.read("a", 0))] == given_ones
        assert not broker.locate(["a"], f"{broker.epoch}-{first}").gaps


def test_foreign_entry_in_front_of_a_history_does_not_stay(server, channel):
    with broker_at(server.url, {"prefix": channel}, max_events=2) as broker:
        broker.publish("b", b"x\n\n")
        broker.publish("a", b"1\n\n")
        server.call("xadd", broker.session.key_of("h:a"), "2-7", "x", "y")
        newest = [broker.publish("a", b"%d\n\n" % number) for number in range(3)][-2:]
        assert [each for each, _ in asyncio.run(broker.read("a", newest[0] - 1))] == newest


@pytest.mark.parametrize("spoil", ["set", "list", "stream"])
def test_history_that_another_program_has_replaced_is_a_gap_of_its_channel_alone(server, channel, spoil):
    with broker_at(server.url, {"prefix": channel}) as broker:
        before = [broker.publish(name, b"1\n\n") for name in ("other", "a")]
        history = broker.session.key_of("h:a")
        if spoil == "stream":
            server.call("xadd", history, "18446744073709551615-1", "x", "y")
        else:
            server.call("del", history)
            server.call(*(("set", history, "x") if spoil == "set" else ("rpush", history, "x")))
        assert broker.locate(["a", "other"], f"{broker.epoch}-{before[0] - 1}").gaps <= {"a"}
        newest = broker.publish("a", b"2\n\n")
        assert broker.locate(["a", "other"], f"{broker.epoch}-{before[0] - 1}").gaps == {"a"}
        assert [each for each, _ in asyncio.run(broker.read("a", newest - 1))] == [newest]
        assert [each for each, _ in asyncio.run(broker.read("other", 0))] == before[:1]


@pytest.mark.parametrize("name", ["state", "channels", "times", "commands"])
@pytest.mark.parametrize("kind", ["text", "number", "words"])
def test_key_that_another_program_has_replaced_is_made_anew(server, channel, name, kind, caplog):
    """What it said is lost, and nothing is refused for long."""

    async def test():
        receiver = RecordingReceiver()
        broker.attach(receiver)
        await broker.subscribe(receiver, "a")
        await receiver.hears("a", await asyncio.to_thread(broker.publish, "a", b"1\n\n"))
        await broker.acommand("a", Command("recheck", 5))
        key = broker.session.key_of(name)
        if kind == "text":
            server.call("set", key, "x")
        elif name in ("commands", "times"):
            server.call("zadd", key, "inf", "x", "-inf", "y")
        else:
            # Doubles that are none of ours, or too few bytes for any.
            spoiled = struct.pack("<8d", *[math.inf, math.nan] * 4) if kind == "number" else b"\xff\n"
            if name == "state":
                server.call("set", key, spoiled + b"no epoch")
            else:
                server.call("hset", key, "a", spoiled, "", spoiled)
        await broker.acommand("a", Command("kill"))
        for _ in range(3):
            newest = await asyncio.to_thread(broker.publish, "a", b"2\n\n")
        await asyncio.to_thread(broker._sweep)
        assert [each for each, _ in await broker.read("a", newest - 1)] == [newest]
        await receiver.until(
            lambda: {newest, RESET} & {*receiver.sequences("a"), *receiver.sequences("")}, "The event, or a new epoch"
        )
        broker.detach(receiver)

    with broker_at(server.url, {"prefix": channel}, max_events=2, max_total_bytes=100) as broker:
        asyncio.run(test())
