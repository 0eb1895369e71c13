"""What only the Redis broker meets: its ways in, failovers, and servers that forget or are full."""

import asyncio
import contextlib
import itertools
import random
import socket
import struct
import time
from pathlib import Path

import pytest
import redis
from django.core.exceptions import ImproperlyConfigured

from ds_broadcaster.brokers import Command, Event, Frame
from ds_broadcaster.brokers.redis import RedisBroker, listener
from ds_broadcaster.brokers.redis.broker import SWEPT
from ds_broadcaster.compaction import ELEMENT
from ds_broadcaster.conf import History
from ds_broadcaster.exceptions import BrokerUnavailable, Gap
from ds_broadcaster.ids import parse_id
from ds_broadcaster.sse import Facts
from ds_broadcaster.testing.brokers.receiver import PRESENCE, RESET, RecordingReceiver
from tests.harness.programs import wait_until
from tests.harness.redis import RedisCluster, RedisSentinel, RedisServer
from tests.harness.server import free_port
from tests.publishing import Publisher


@contextlib.contextmanager
def broker_at(location, options=None, **history):
    broker = RedisBroker(location, options or {}, History(**history))
    try:
        yield broker
    finally:
        broker.close()


def long_broker_at(location, options):
    """Return a broker whose history is long enough for all of a test."""
    return broker_at(location, options, max_events=1_000_000, max_bytes=1 << 30)


@pytest.fixture(scope="module")
def server():
    with RedisServer() as server:
        yield server


@pytest.fixture
def broker(server, channel):
    with broker_at(server.url, {"prefix": channel}) as broker:
        yield broker


def publish(broker, count, channel="a"):
    return [broker.publish(channel, b"%d\n\n" % number) for number in range(count)]


def id_of(broker, sequence):
    return f"{parse_id(broker.cursor())[0]}-{sequence}"


def gaps(broker, event_id):
    return bool(broker.locate(["a"], event_id).gaps)


# Ways in


@pytest.mark.parametrize(
    "options", [{"password": "p@ss w/rd"}, {"tls": True}, {"tls": True, "password": "secret"}, {"unix_socket": True}]
)
def test_server_is_reached_as_its_url_says(options):
    async def test():
        receiver = RecordingReceiver()
        broker.attach(receiver)
        await broker.subscribe(receiver, "a")
        await receiver.hears("a", await asyncio.to_thread(broker.publish, "a", b"x\n\n"))
        for _ in range(3):  # On the loop.
            await receiver.hears("a", await broker.apublish("a", b"x\n\n"))

    with RedisServer(**options) as server, broker_at(server.url) as broker:
        asyncio.run(test())


def test_stream_is_located_and_admitted_on_the_loop_without_a_thread(broker, monkeypatch):
    async def test():
        cursor = id_of(broker, broker.publish("a", b"x\n\n"))
        # They open a connection, and tell the server the scripts, in a thread.
        await broker.alocate(["a"], cursor)
        await broker.commands(["a"], 10)
        monkeypatch.setattr(asyncio, "to_thread", None)
        assert await broker.alocate(["a"], cursor) == broker.locate(["a"], cursor)
        assert await broker.alocate(["a", "b"], "other-1") == broker.locate(["a", "b"], "other-1")
        assert await broker.alocate(["a"], None) == broker.locate(["a"], None)
        broker.command("a", Command("disconnect", 7))
        [given] = await broker.commands(["a"], 10)
        assert given.command == Command("disconnect", 7)

    asyncio.run(test())


def test_streams_that_open_together_ask_for_commands_together(broker, monkeypatch):
    async def test():
        for channel in ("a", "b"):
            broker.command(channel, Command("disconnect", 7))
        asked = []
        ask = broker.session.acommands

        async def counted(seconds):
            asked.append(seconds)
            return await ask(seconds)

        monkeypatch.setattr(broker.session, "acommands", counted)
        spans = [10.0, 0.0] * 50
        found = await asyncio.gather(*(broker.commands([name], span) for span in spans for name in "ab"))
        # The first is alone, and the others come while it is on its way.
        assert asked == [10.0, 10.0]
        for index, given in enumerate(found):
            assert len(given) == (spans[index // 2] > 0)

    asyncio.run(test())


@pytest.mark.parametrize(
    "location, options, says",
    [
        ("127.0.0.1:6379", {}, "redis://"),
        (["redis://a", "redis://b"], {}, '"sentinel"'),
        (["redis://a"], {"sentinel": "main", "cluster": True}, "not both"),
        ([], {}, "LOCATION"),
        ("redis://a", {"prefix": ""}, "myproject"),
        (["redis://a"], {"cluster": True, "replicas": 1}, "min-replicas-to-write"),
    ],
)
def test_location_that_makes_no_sense_is_refused_with_what_to_write(location, options, says):
    with pytest.raises(ImproperlyConfigured, match="DS_BROADCASTER_BROKER") as caught:
        RedisBroker(location, options, History())
    assert says in str(caught.value)


@pytest.mark.parametrize("options", [{}, {"sentinel": "main"}, {"cluster": True}])
def test_making_a_broker_connects_to_nothing(options):
    """`manage.py check` makes one, on machines without Redis."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"redis://127.0.0.1:{server.getsockname()[1]}"
        before = sockets()
        RedisBroker([url] if options else url, options, History()).close()
        assert sockets() == before
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def sockets():
    """Return the open sockets of this process (Linux)."""
    found = set()
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(str(each.readlink()))
    return {each for each in found if each.startswith("socket:")}


def test_closed_broker_leaves_no_connection_behind(server):
    """The broker lives on here, so that only close() can have closed them."""
    with RedisSentinel() as servers:
        watched = [f"redis://{host}:{port}" for host, port in servers.addresses]
        for location, options in [(server.url, {}), (watched, {"sentinel": servers.name})]:
            before = sockets()
            with broker_at(location, options) as broker:
                publish(broker, 1)
                assert sockets() - before
            assert sockets() <= before


def test_projects_with_prefixes_of_their_own_do_not_meet(server):
    with broker_at(server.url, {"prefix": "one"}) as one, broker_at(server.url, {"prefix": "other"}) as other:
        assert publish(one, 3) == publish(other, 3) == [1, 2, 3]
        assert parse_id(one.cursor())[0] != parse_id(other.cursor())[0]


def test_projects_in_databases_of_their_own_do_not_meet(server):
    """Redis publishes to the clients of all its databases."""

    async def test():
        receiver = RecordingReceiver()
        one.attach(receiver)
        await one.subscribe(receiver, "a")
        for broker in (other, one):
            newest = await asyncio.to_thread(broker.publish, "a", b"x\n\n")
        await receiver.hears("a", newest)
        assert len(receiver.heard) == 1
        one.detach(receiver)

    url = server.url.removesuffix("/0")
    with broker_at(f"{url}/0") as one, broker_at(f"{url}/1") as other:
        asyncio.run(test())
    with broker_at(url) as one, broker_at(url, {"db": 1}) as other:
        asyncio.run(test())


def test_nothing_remains_of_channels_without_recent_events(server, channel):
    with broker_at(server.url, {"prefix": channel}, max_age=0.1) as broker:
        for number in range(2 * SWEPT + 50):
            broker.publish(f"channel-{number}", b"x\n\n")
        last = time_of(server)
        wait_until(lambda: time_of(server) > last + 0.11, "the last event to be too old")
        broker._sweep()
        for key in ("times", "channels"):
            assert server.call("exists", broker.session.key_of(key)) == 1
        assert server.call("zrange", broker.session.key_of("times"), 0, -1) == [b""]
        assert server.call("hkeys", broker.session.key_of("channels")) == [b""]


def test_server_that_evicts_histories_keeps_commands_until_they_are_too_old():
    full = RedisServer(maxmemory="3mb", maxmemory_policy="volatile-ttl")
    with full as server, broker_at(server.url, max_events=1000) as broker:
        broker.command("a", Command("disconnect", 5))
        for number in range(400):
            broker.publish(f"channel-{number % 7}", b"x" * 20_000)
        assert [each.command for each in broker.session.commands().entries] == [Command("disconnect", 5)]
        [command] = server.call("zrange", broker.session.key_of("commands"), 0, -1)
        server.call("zadd", broker.session.key_of("commands"), 1, command)
        broker._sweep()
        assert server.call("exists", broker.session.key_of("commands")) == 0


def time_of(server):
    seconds, microseconds = server.call("time")
    return int(seconds) + int(microseconds) / 1e6


# Servers that are away, full, or forget


def test_nothing_is_sent_in_bounded_time_while_a_server_is_away_or_frozen():
    with RedisServer() as server, broker_at(server.url) as broker:
        publish(broker, 1)
        for trouble, end in ((server.freeze, server.thaw), (server.stop, server.start)):
            trouble()
            begin = time.monotonic()
            with pytest.raises(BrokerUnavailable, match="Redis"):
                broker.publish("a", b"x\n\n")
            assert time.monotonic() - begin < 2
            end()
            broker.publish("a", b"x\n\n")


@pytest.mark.parametrize("options", [{"sentinel": "main"}, {"cluster": True}])
def test_nothing_is_sent_in_bounded_time_while_all_sentinels_or_nodes_are_away(options):
    urls = [f"redis://127.0.0.1:{free_port()}" for _ in range(3)]
    with broker_at(urls, options) as broker:
        begin = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="Redis"):
            broker.publish("a", b"x\n\n")
        assert time.monotonic() - begin < 2


def test_client_that_leaves_while_its_channel_is_subscribed_is_no_error(server, channel):
    async def test():
        receiver = RecordingReceiver()
        broker.attach(receiver)
        await broker.subscribe(receiver, "first")
        locate = broker.alocate

        async def locate_late(*args):
            await broker.unsubscribe(receiver, "a")
            return await locate(*args)

        broker.alocate = locate_late
        assert await broker.subscribe(receiver, "a") >= 0

    with broker_at(server.url, {"prefix": channel}) as broker:
        asyncio.run(test())


def test_connection_stays_when_the_loop_was_busy_for_long(server, channel, monkeypatch, caplog):
    async def test():
        receiver = RecordingReceiver()
        broker.attach(receiver)
        await broker.subscribe(receiver, "a")
        time.sleep(3 * listener.PING)  # noqa: ASYNC251 - as flushes to very many streams keep it busy
        await receiver.hears("a", await asyncio.to_thread(broker.publish, "a", b"x\n\n"))

    monkeypatch.setattr(listener, "PING", 0.4)
    with broker_at(server.url, {"prefix": channel}) as broker:
        asyncio.run(test())
    assert not caplog.records


def test_connection_stays_when_it_follows_a_long_outage(monkeypatch, caplog):
    async def test():
        receiver = RecordingReceiver()
        broker.attach(receiver)
        await broker.subscribe(receiver, "a")
        server.cut()
        server.freeze()
        await asyncio.sleep(3 * listener.PING)
        server.thaw()
        await asyncio.to_thread(wait_until, lambda: broker._listeners[receiver]._connected == 2, "a new connection")
        heard_at = broker._listeners[receiver]._heard_at
        # What it hears is the answer to a ping: nothing is published.
        await asyncio.to_thread(wait_until, lambda: broker._listeners[receiver]._heard_at > heard_at, "an answer")
        assert broker._listeners[receiver]._connected == 2

    monkeypatch.setattr(listener, "PING", 0.4)
    with RedisServer() as server, broker_at(server.url) as broker:
        asyncio.run(test())
    assert "Lost the connection" in caplog.text


def test_scripts_that_the_server_forgot_are_told_again(server, broker):
    assert publish(broker, 2) == [1, 2]
    server.call("script", "flush")
    assert publish(broker, 2) == [3, 4]
    assert not gaps(broker, id_of(broker, 1))


def test_full_server_refuses_and_takes_events_again_later():
    with RedisServer(maxmemory="3mb", maxmemory_policy="noeviction") as server:
        limits = {"max_bytes": 64 << 20, "max_events": 10_000}
        with broker_at(server.url, **limits) as broker:
            with pytest.raises(BrokerUnavailable, match="memory"):
                all(broker.publish("a", b"x" * 50_000) for _ in range(1000))
            server.call("config", "set", "maxmemory", "100mb")
            newest = broker.publish("a", b"x\n\n")
            assert not gaps(broker, id_of(broker, newest - 1))


def test_server_that_evicts_what_it_likes_leads_to_gaps_and_never_to_silence():
    full = RedisServer(maxmemory="3mb", maxmemory_policy="allkeys-random")
    with full as server, broker_at(server.url, max_events=1000) as broker:
        told = 0
        for number in range(400):
            channel = f"channel-{number % 7}"
            before = broker.cursor()
            sequence = broker.publish(channel, b"x" * 20_000)
            place = broker.locate([channel], before)
            if place.gaps:
                told += 1
                continue
            with contextlib.suppress(Gap):  # Evicted since.
                events = asyncio.run(broker.read(channel, place.cursor))
                assert [each for each, _ in events] == [sequence]
        assert told < 400


def test_clients_see_no_more_than_the_limits_and_little_more_is_kept(server, channel):
    with broker_at(server.url, {"prefix": channel}, max_events=48) as broker:
        for number in range(1, 100):
            broker.publish("a", b"x\n\n")
            assert server.call("xlen", f"{{{channel}}}:h:a") <= min(number, 60)
        assert server.call("xlen", f"{{{channel}}}:h:a") > 48
        assert gaps(broker, id_of(broker, 50))
        assert not gaps(broker, id_of(broker, 51))
        assert [number for number, _ in asyncio.run(broker.read("a", 51))] == list(range(52, 100))


def test_what_a_step_makes_superfluous_of_itself_is_not_sent(broker):
    def event(text, replaces, channel="a", tab=None):
        return Event(channel, b"%d\n\n" % text, Facts(exclude=tab, replaces=replaces))

    whole = ELEMENT + "outer x"
    before = broker.publish("a", b"0\n\n", Facts(replaces=whole))
    broker.publish_all(
        [
            event(1, whole),
            event(2, whole, channel="b"),
            event(3, whole, tab="tab-1"),
            event(4, whole),
            event(5, None),
            event(6, whole),
            event(7, whole),
        ]
    )
    found = asyncio.run(broker.read("a", before))
    texts = {number - before: int(frame.data.partition(b"\n")[2]) for number, frame in found}
    assert texts == {2: 4, 3: 5, 4: 7}
    assert [number - before for number, _ in asyncio.run(broker.read("b", 0))] == [1]


def test_coroutine_whose_event_is_superfluous_gets_the_sequence_of_the_one_that_replaces_it(broker):
    async def test():
        texts = [Facts(replaces=ELEMENT + name) for name in ("first", "x", "y", "x", "x")]
        return await asyncio.gather(*[broker.apublish("a", b"x\n\n", facts) for facts in texts])

    first, *others = asyncio.run(test())
    assert [each - first for each in others] == [2, 1, 2, 2]


def test_total_stays_right_whatever_was_dropped(server, channel):
    """By limits, compaction, the cap, commands, age, eviction and another program."""
    dice = random.Random(5)
    limits = {"max_events": 20, "max_bytes": 3000, "max_total_bytes": 9000}
    with broker_at(server.url, {"prefix": channel}, **limits) as broker:
        for _ in range(600):
            name = f"channel-{dice.randrange(8)}"
            match dice.choices(["publish", "transient", "kill", "evict", "locate", "step"], [9, 2, 0.3, 0.3, 2, 2])[0]:
                case "publish":
                    broker.publish(name, b"x" * dice.randrange(500), random_facts(dice))
                case "transient":
                    broker.publish(name, b"x", Facts(is_transient=True))
                case "kill":
                    broker.command(name, Command("kill"))
                case "evict":
                    server.call("del", f"{{{channel}}}:{dice.choice('hw')}:{name}")
                case "locate":
                    broker.locate([name], broker.cursor())
                case "step":
                    names = [f"channel-{dice.randrange(8)}" for _ in range(5)]
                    broker.publish_all([Event(each, b"x" * 100, random_facts(dice)) for each in names])
        # What was evicted is noticed by the next event.
        broker.publish_all([Event(f"channel-{number}", b"x") for number in range(8)])
        histories = {key: server.call("xrange", key, "-", "+") for key in server.call("keys", f"{{{channel}}}:h:*")}
        sizes = {key: sum(len(fields[b"p"]) for _, fields in entries) for key, entries in histories.items()}
        *_, total, _ = struct.unpack("<dddd", server.call("get", broker.session.key_of("state"))[:32])
        known = server.call("hgetall", broker.session.key_of("channels"))
        noted = {name: struct.unpack("<dddddddd", text[:64])[2:4] for name, text in known.items() if name}
        assert total == sum(sizes.values())
        for key, entries in histories.items():
            assert noted[key.rpartition(b":")[2]] == (sizes[key], len(entries))
            assert len(entries) <= 21


def random_facts(dice):
    replaces = dice.choice([None, "", "e:a", "e:b", "c:a", "s:a", "r:"])
    return Facts(replaces=replaces, exclude=dice.choice([None, None, "tab-1"]), is_refresh=replaces == "r:")


def test_cap_over_all_channels_is_kept(server, channel):
    with broker_at(server.url, {"prefix": channel}, max_total_bytes=100_000) as broker:
        given = [broker.publish(f"channel-{number}", b"x" * 10_000) for number in range(30)]
        histories = [key for key in server.call("keys", "*") if f"{{{channel}}}:h:".encode() in key]
        assert 5 < len(histories) <= 10
        assert broker.locate(["channel-0"], id_of(broker, given[0] - 1)).gaps
        assert not broker.locate(["channel-29"], id_of(broker, given[29] - 1)).gaps


def test_cap_over_all_channels_is_kept_within_a_step_too(server, channel):
    with broker_at(server.url, {"prefix": channel}, max_total_bytes=2000) as broker:
        # With its line of facts, an event is a byte longer: 400 and 1000.
        before = [Event(name, b"x" * 397 + b"\n\n") for name in "zyxwv"]
        broker.publish_all([*before, Event("b", b"x" * 997 + b"\n\n")])
        histories = [key for key in server.call("keys", "*") if f"{{{channel}}}:h:".encode() in key]
        kept = [fields[b"p"] for key in histories for _, fields in server.call("xrange", key, "-", "+")]
        assert sum(map(len, kept)) <= 2000
        assert broker.locate(["z", "y", "x", "w", "v", "b"], id_of(broker, 0)).gaps == {"z", "y", "x"}


def test_event_that_takes_the_place_of_another_is_not_over_the_cap(server, channel):
    with broker_at(server.url, {"prefix": channel}, max_events=2, max_total_bytes=1000) as broker:
        quiet = broker.publish("quiet", b"x" * 98 + b"\n\n")
        for _ in range(5):
            broker.publish("busy", b"x" * 398 + b"\n\n")
        assert broker.locate(["quiet"], id_of(broker, quiet - 1)).gaps == frozenset()


def test_what_was_kept_of_another_epoch_is_not_shown(server, channel):
    with broker_at(server.url, {"prefix": channel}) as broker:
        old = id_of(broker, publish(broker, 5)[-1])
        server.call("del", f"{{{channel}}}:state")
        assert gaps(broker, old)
        assert broker.publish("a", b"new\n\n") == 1
        assert [number for number, _ in asyncio.run(broker.read("a", 0))] == [1]


def test_every_answer_tells_of_another_epoch(server, broker):
    """Hubs start anew soon, and not with the next event."""

    async def test():
        receiver = RecordingReceiver()
        broker.attach(receiver)
        await broker.subscribe(receiver, "a")
        before = broker.epoch
        server.call("del", broker.session.key_of("state"))
        cursor = await broker.acursor()
        assert parse_id(cursor)[0] == broker.epoch != before
        await receiver.hears("", RESET)
        broker.detach(receiver)

    asyncio.run(test())


STATE = "{ds_broadcaster}:state"


# Sentinel and cluster


async def goes_on_in_another_epoch(receiver, broker, acknowledged):
    """Check that everything acknowledged since the new epoch began is there, and that the hub hears what comes next."""
    await receiver.hears("", RESET)
    heard = [item for name, _, item in receiver.heard if name == "a" or item.verb == "reset"]
    heard = [frame.data for frame in itertools.takewhile(lambda item: isinstance(item, Frame), heard)]
    assert len(heard) == len({*heard})
    begin = max(number for number in range(len(acknowledged)) if acknowledged[number] <= acknowledged[number - 1])
    kept = [number for number, _ in await broker.read("a", 0)]
    assert {*acknowledged[begin:]} <= {*kept}
    await broker.subscribe(receiver, "a")
    await receiver.hears("a", await asyncio.to_thread(broker.publish, "a", b"x\n\n"))


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["stop", "freeze"])
def test_sentinel_failover_loses_nothing_that_the_next_primary_acknowledged(trouble):
    async def test():
        receiver = RecordingReceiver()
        listening.attach(receiver)
        await listening.subscribe(receiver, "a")
        with Publisher(publishing) as publisher:
            await asyncio.to_thread(publisher.goes_on)
            former = servers.primary
            getattr(former, trouble)()
            await asyncio.to_thread(servers.wait_for_failover, former)
            await asyncio.to_thread(publisher.goes_on)
        await goes_on_in_another_epoch(receiver, listening, publisher.acknowledged)
        assert publisher.refused
        if trouble == "freeze":
            former.thaw()

    with RedisSentinel(password="secret") as servers:
        location = [f"redis://{host}:{port}" for host, port in servers.addresses]
        options = {"sentinel": servers.name, "replicas": 1, "password": "secret"}
        with long_broker_at(location, options) as listening, long_broker_at(location, options) as publishing:
            asyncio.run(test())


def test_event_that_too_few_replicas_have_is_not_acknowledged():
    with RedisSentinel() as servers:
        location = [f"redis://{host}:{port}" for host, port in servers.addresses]
        demanding = broker_at(location, {"sentinel": servers.name, "replicas": 3})
        with demanding as broker, pytest.raises(BrokerUnavailable, match="2 of 3 replicas"):
            broker.publish("a", b"x\n\n")


@pytest.mark.slow
def test_cluster_goes_on_when_its_slot_moves_and_when_its_node_dies():
    async def test():
        receiver = RecordingReceiver()
        listening.attach(receiver)
        await listening.subscribe(receiver, "a")
        with Publisher(publishing) as publisher:
            await asyncio.to_thread(publisher.goes_on)
            home = nodes.node_of(STATE)
            target = next(node for node in nodes.masters if node is not home)
            await asyncio.to_thread(nodes.move, STATE, target)
            await asyncio.to_thread(publisher.goes_on)
        await goes_on_in_another_epoch(receiver, listening, publisher.acknowledged)
        receiver.heard.clear()
        dead = nodes.node_of(STATE)
        dead.stop()
        await asyncio.to_thread(nodes.wait_for_failover, dead)
        await asyncio.to_thread(wait_until, lambda: published(publishing), "the cluster to take events", 10)
        with Publisher(publishing) as publisher:
            await asyncio.to_thread(publisher.goes_on)
        await goes_on_in_another_epoch(receiver, listening, publisher.acknowledged)

    with RedisCluster(replicas=1) as nodes:
        options = {"cluster": True}
        with long_broker_at(nodes.urls, options) as listening, long_broker_at(nodes.urls, options) as publishing:
            asyncio.run(test())


def published(broker):
    try:
        return broker.publish("a", b"x\n\n")
    except BrokerUnavailable:
        return None


# What is missed while nothing is heard


def test_subscriber_who_gives_up_takes_nothing_from_the_next_one(broker):
    async def test():
        receiver = RecordingReceiver()
        broker.attach(receiver)
        asked = asyncio.Barrier(3)
        answer = asyncio.Event()

        async def locate(*arguments):
            place = await locate_at_once(*arguments)
            await asked.wait()
            await answer.wait()
            return place

        locate_at_once = broker.alocate
        await broker.subscribe(receiver, "b")
        broker.alocate = locate
        first, next_one = (asyncio.create_task(broker.subscribe(receiver, "a")) for _ in range(2))
        await asked.wait()
        first.cancel()
        sequence = await asyncio.to_thread(broker.publish, "a", b"x\n\n")
        # On one connection: once this one is here, the one before it is too.
        await receiver.hears("b", await asyncio.to_thread(broker.publish, "b", b"x\n\n"))
        assert not receiver.sequences("a")
        answer.set()
        assert await next_one < sequence
        await receiver.hears("a", sequence)
        broker.detach(receiver)

    asyncio.run(test())


def test_subscriber_whose_connection_is_lost_meanwhile_misses_nothing(server, broker):
    """What a lost connection would have brought is read again only after a known sequence."""

    async def test():
        receiver = RecordingReceiver()
        broker.attach(receiver)
        await broker.subscribe(receiver, "b")
        lost = []

        async def locate(*arguments):
            place = await locate_at_once(*arguments)
            if not lost:
                lost.append(await asyncio.to_thread(broker.publish, "a", b"x\n\n"))
                await asyncio.to_thread(server.cut)
                await receiver.hears("b", PRESENCE)  # It is connected again.
            return place

        locate_at_once, broker.alocate = broker.alocate, locate
        begin = await broker.subscribe(receiver, "a")
        assert begin >= lost[0] or receiver.sequences("a") == lost
        broker.detach(receiver)

    asyncio.run(test())


def test_channel_unsubscribed_while_a_connection_begins_is_carried_no_longer(server, broker, monkeypatch):
    async def test():
        receiver = RecordingReceiver()
        broker.attach(receiver)
        for channel in ("a", "b"):
            await broker.subscribe(receiver, channel)
        listener = broker._listeners[receiver]
        catch_up = listener._catch_up

        async def catch_up_slowly():
            await catch_up()
            await broker.unsubscribe(receiver, "b")

        monkeypatch.setattr(listener, "_catch_up", catch_up_slowly)
        server.cut()
        await receiver.hears("a", await asyncio.to_thread(broker.publish, "a", b"x\n\n"))
        topics = {broker.session.topic_of(b""), broker.session.topic_of(b"a")}
        await asyncio.to_thread(wait_until, lambda: topics_of(server, broker) == topics, "the topic to be unsubscribed")
        broker.detach(receiver)

    asyncio.run(test())


def topics_of(server, broker):
    return {each for each in server.call("pubsub", "channels") if each.startswith(broker.session.topic_of(b""))}


@pytest.mark.parametrize("count", [1, 5])
def test_however_often_it_reconnects_one_task_watches_the_connection(server, broker, count):
    """Each one pings and may hang up: those of connections that are gone would do so too."""

    async def test():
        receiver = RecordingReceiver()
        broker.attach(receiver)
        await broker.subscribe(receiver, "a")
        for _ in range(count):
            receiver.heard.clear()
            await asyncio.to_thread(server.cut)
            await receiver.hears("a", PRESENCE)
        await receiver.hears("a", await asyncio.to_thread(broker.publish, "a", b"x\n\n"))
        watching = [task for task in asyncio.all_tasks() if task.get_coro().__qualname__ == "RedisListener._watch"]
        assert len(watching) == 1
        broker.detach(receiver)

    asyncio.run(test())


def test_commands_that_are_too_old_to_be_read_again_are_made_up_for(server, broker, monkeypatch):
    """After a minute without the broker, the users whom lost commands would have put out are asked about again."""

    async def test():
        receiver = RecordingReceiver()
        broker.attach(receiver)
        await broker.subscribe(receiver, "a")
        await receiver.hears("a", await asyncio.to_thread(broker.publish, "a", b"x\n\n"))
        listener = broker._listeners[receiver]
        listener._heard_at -= 120
        server.cut()
        await receiver.hears("", listener._head)
        assert Command("recheck") in [item for name, _, item in receiver.heard if name == ""]

    asyncio.run(test())


def test_errors_of_redis_py_are_none_of_the_users(broker, monkeypatch):
    monkeypatch.setattr(broker.session.topology, "ask", refuse)
    with pytest.raises(BrokerUnavailable, match="NOPERM"):
        broker.publish("a", b"x\n\n")


def refuse(*command):
    raise redis.exceptions.NoPermissionError("NOPERM this user has no permissions")
