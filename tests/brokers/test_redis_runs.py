"""Another run of Redis may lack what was acknowledged last: nothing from before it counts as complete."""

import asyncio
import contextlib
import random
import threading

import pytest

from ds_broadcaster.brokers import Command, Event
from ds_broadcaster.brokers.redis import scripts
from ds_broadcaster.ids import parse_id
from ds_broadcaster.testing.brokers.receiver import GAP, PRESENCE, RESET, RecordingReceiver
from tests.brokers.test_redis import broker_at, gaps, publish
from tests.harness.programs import wait_until
from tests.harness.redis import RedisSentinel, RedisServer
from tests.harness.server import Server
from tests.live import begun, until


@pytest.fixture
def server():
    with RedisServer() as server:
        yield server


def ids(broker, sequences):
    epoch = parse_id(broker.cursor())[0]
    return [f"{epoch}-{sequence}" for sequence in sequences]


def restore(server, broker):
    """Restart the server from a file that lacks its last events."""
    server.call("save")
    lost = ids(broker, publish(broker, 2))
    server.stop()
    server.start()
    return lost


def forget(server, broker):
    lost = ids(broker, publish(broker, 2))
    server.call("flushall")
    return lost


def take_over(server, broker):
    """Have the server follow one that lacks its last events, and lead again without having restarted."""
    with RedisServer() as other:
        follow(other, server)
        other.call("replicaof", "no", "one")
        lost = ids(broker, publish(broker, 2))
        follow(server, other)
        server.call("replicaof", "no", "one")
    return lost


def follow(replica, primary):
    replica.call("replicaof", "127.0.0.1", primary.port)
    wait_until(lambda: replica.call("role")[3:4] == [b"connected"], "a replica")


@pytest.fixture
def replicated(server):
    """The server after its first replica, which begins a new epoch."""
    with RedisServer() as other:
        follow(other, server)
    return server


@pytest.mark.parametrize("lose", [restore, forget, take_over])
def test_whoever_was_there_before_events_were_lost_is_told_of_a_gap(replicated, lose):
    """Clients that return from any point, hubs that heard what is lost, and hubs that did not."""

    async def test():
        receiver = RecordingReceiver()
        broker.attach(receiver)
        await broker.subscribe(receiver, "a")
        kept = await asyncio.to_thread(publish, broker, 3)
        before = ids(broker, [0, *kept])
        before += await asyncio.to_thread(lose, replicated, broker)
        newest = await asyncio.to_thread(broker.publish, "a", b"new\n\n")
        await receiver.hears("", RESET)
        assert [each for each in before if not gaps(broker, each)] == []
        # What comes next is heard by those who come next, and its id is none that was given before.
        await broker.subscribe(receiver, "a")
        assert ids(broker, [newest])[0] not in before
        newest = await asyncio.to_thread(broker.publish, "a", b"x\n\n")
        await receiver.hears("a", newest)
        assert receiver.sequences("")[0] == RESET
        broker.detach(receiver)

    with broker_at(replicated.url) as broker:
        asyncio.run(test())


def test_hub_that_did_not_hear_what_is_lost_starts_anew_too(server):
    """An event that was acknowledged may have reached other hubs only, or none."""

    async def test():
        receiver = RecordingReceiver()
        broker.attach(receiver)
        await broker.subscribe(receiver, "a")
        kept = await asyncio.to_thread(publish, broker, 3)
        await receiver.hears("a", kept[-1])
        with unreachable(broker, server):
            await asyncio.to_thread(restore, server, other)
            await asyncio.to_thread(publish, other, 1)
        await receiver.hears("", RESET)
        assert [each for each in receiver.sequences("a") if each != PRESENCE] == kept
        broker.detach(receiver)

    with broker_at(server.url) as broker, broker_at(server.url) as other:
        asyncio.run(test())


def test_run_that_lost_nothing_gives_no_id_twice(server):
    """Two processes may each be the first to ask, and agree on the new epoch."""
    with broker_at(server.url) as broker, broker_at(server.url) as other:
        given = []
        for _ in range(3):
            for each in (broker, other):
                given += ids(each, publish(each, 2))
            server.call("save")
            server.stop()
            server.start()
        assert len({*given}) == len(given) == 12
        assert len({parse_id(each)[0] for each in given}) == 3
        assert other.locate(["a"], None).epoch == broker.locate(["a"], None).epoch


def test_restarted_server_is_noticed_by_the_first_event_however_long_a_look_at_the_run_is_trusted(server, monkeypatch):
    monkeypatch.setattr(scripts, "PUBLISH", scripts.load("history", "publish", trusted_for=3_600_000))
    with broker_at(server.url) as broker:
        publish(broker, 3)
        before = broker.epoch
        restore(server, broker)
        assert publish(broker, 2) == [1, 2]
        assert broker.epoch != before


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_lost_no_client_that_returns_misses_anything_without_a_gap(server, seed):
    """A snapshot has everything that was acknowledged; after it, what is replayed must be the rest."""
    dice = random.Random(seed)
    sent, known, cursors = [], [[] for _ in range(6)], [""] * 6
    gapless = 0
    with broker_at(server.url) as broker, broker_at(server.url) as other:
        for _ in range(60):
            match dice.choices(["publish", "save", "crash", "flush", "cut"], [6, 2, 1, 0.3, 1])[0]:
                case "publish":
                    sent.append(b"%d\n\n" % len(sent))
                    dice.choice([broker, other]).publish("a", sent[-1])
                case "save":
                    server.call("save")
                case "crash":
                    server.stop()
                    server.start()
                case "flush":
                    server.call("flushall")
                case "cut":
                    server.cut()
            for number in dice.sample(range(6), 2):
                place = broker.locate(["a"], cursors[number] or None)
                if place.gaps or not cursors[number]:
                    known[number] = list(sent)
                else:
                    gapless += 1
                    frames = [frame for _, frame in asyncio.run(broker.read("a", place.cursor))]
                    known[number] += [frame.data.partition(b"\n")[2] for frame in frames]
                assert known[number] == sent
                cursors[number] = f"{place.epoch}-{place.granted}"
    assert gapless


@pytest.mark.slow
def test_failover_that_loses_events_is_a_gap():
    """The replicas have lost their link before the last events, which the primary alone acknowledged."""

    async def test():
        receiver = RecordingReceiver()
        broker.attach(receiver)
        await broker.subscribe(receiver, "a")
        kept = await asyncio.to_thread(publish, broker, 3)
        await receiver.hears("a", kept[-1])
        epoch = parse_id(await broker.acursor())[0]
        former = servers.primary
        for replica in [each for each in servers.servers if each is not former]:
            wait_until(lambda replica=replica: replica.call("get", "copied") == b"yes", "the replicas' copies")
            replica.call("config", "set", "masterauth", "wrong")
        former.call("client", "kill", "type", "replica")
        lost = await asyncio.to_thread(publish, broker, 2)
        former.stop()
        await asyncio.to_thread(servers.wait_for_failover, former)
        await receiver.hears("", RESET)
        newest = await asyncio.to_thread(publish, broker, 1)
        assert parse_id(await broker.acursor())[0] != epoch
        assert [each for each in (0, *kept, *lost, *newest) if not gaps(broker, f"{epoch}-{each}")] == []
        broker.detach(receiver)

    with RedisSentinel(password="secret") as servers:
        location = [f"redis://{host}:{port}" for host, port in servers.addresses]
        with broker_at(location, {"sentinel": servers.name, "password": "secret"}) as broker:
            servers.primary.call("set", "copied", "yes")
            asyncio.run(test())


# Commands outlive a gap


@contextlib.contextmanager
def unreachable(broker, server):
    """Keep a broker's listener from connecting again for the block."""
    topology, reachable = broker.session.topology, threading.Event()
    connect = topology.new_connection

    def wait():
        reachable.wait(30)
        return connect()

    topology.new_connection = wait
    server.cut()
    try:
        yield
    finally:
        topology.new_connection = connect
        reachable.set()


def test_commands_are_obeyed_before_a_gap_sends_their_clients_away(server):
    """A client that returns after the gap would escape them."""

    async def test():
        receiver = RecordingReceiver()
        broker.attach(receiver)
        for channel in ("gapless", "a"):
            await broker.subscribe(receiver, channel)
        with unreachable(broker, server):
            events = [await asyncio.to_thread(other.publish, "gapless", b"1\n\n")]
            for channel in ("a", "gapless", "elsewhere", ""):
                await asyncio.to_thread(other.command, channel, Command("disconnect", 5))
            await asyncio.to_thread(other.publish_all, [Event("a", b"%d\n\n" % number) for number in range(9)])
            events.append(await asyncio.to_thread(other.publish, "gapless", b"2\n\n"))
        await receiver.hears("gapless", events[-1])
        told = [(name, item.verb) for name, _, item in receiver.heard if isinstance(item, Command)]
        told = [each for each in told if each[1] != "presence"]
        assert told == [("a", "disconnect"), ("gapless", "disconnect"), ("", "disconnect"), ("a", "gap")]
        # The others lose nothing by it.
        assert [each for each in receiver.sequences("gapless") if each in events] == events
        broker.detach(receiver)

    with broker_at(server.url, max_events=3) as broker, broker_at(server.url, max_events=3) as other:
        asyncio.run(test())


@pytest.mark.parametrize("forget", ["restart", "flush"])
def test_commands_are_obeyed_before_another_epoch_sends_everybody_away(server, forget):
    """Those of the old epoch that are still known, and those of the new one, which concern all earlier streams."""

    async def test():
        receiver = RecordingReceiver()
        broker.attach(receiver)
        await broker.subscribe(receiver, "a")
        granted = (await asyncio.to_thread(publish, broker, 5))[-1]
        await receiver.hears("a", granted)
        with unreachable(broker, server):
            await asyncio.to_thread(other.command, "a", Command("disconnect", 5))
            if forget == "restart":
                server.call("save")
                server.stop()
                server.start()
            else:
                server.call("flushall")
            await asyncio.to_thread(other.command, "a", Command("disconnect", 6))
        await receiver.hears("", RESET)
        heard = [(sequence, item) for _, sequence, item in receiver.heard if isinstance(item, Command)]
        heard = heard[: [sequence for sequence, _ in heard].index(RESET)]
        users = [item.user_id for sequence, item in heard if sequence > granted]
        assert users == ([5, 6] if forget == "restart" else [6])
        broker.detach(receiver)

    with broker_at(server.url) as broker, broker_at(server.url) as other:
        asyncio.run(test())


def test_command_in_another_epoch_reaches_a_hub_that_is_still_in_the_old_one(server):
    """Here nothing else has told the hub, whose connection lives on."""

    async def test():
        receiver = RecordingReceiver()
        broker.attach(receiver)
        await broker.subscribe(receiver, "a")
        await receiver.hears("a", (await asyncio.to_thread(publish, broker, 5))[-1])
        server.call("flushall")
        await asyncio.to_thread(other.command, "a", Command("kill"))
        await receiver.hears("", RESET)
        commands = [item.verb for _, _, item in receiver.heard if isinstance(item, Command)]
        assert commands.index("kill") < commands.index("reset")
        broker.detach(receiver)

    with broker_at(server.url) as broker, broker_at(server.url) as other:
        asyncio.run(test())


def test_commands_of_an_epoch_long_gone_are_not_obeyed_again(server):
    """They concern streams of their time; users may have come back since."""

    async def test():
        receiver = RecordingReceiver()
        broker.attach(receiver)
        await broker.subscribe(receiver, "a")
        await broker.acommand("a", Command("disconnect", 5))
        for _ in range(2):
            server.call("save")
            server.stop()
            server.start()
            receiver.heard.clear()
            await receiver.hears("", RESET)
            await broker.subscribe(receiver, "a")
        assert Command("disconnect", 5) not in [item for _, _, item in receiver.heard]
        broker.detach(receiver)

    with broker_at(server.url) as broker:
        asyncio.run(test())


def test_recheck_in_place_of_lost_commands_concerns_all_who_were_granted_before(server):
    """Also a stream that was granted after the last thing which its process heard."""

    async def test():
        receiver = RecordingReceiver()
        broker.attach(receiver)
        await broker.subscribe(receiver, "a")
        listener = broker._listeners[receiver]
        with unreachable(broker, server):
            granted = await asyncio.to_thread(other.publish, "elsewhere", b"x\n\n")
            await asyncio.to_thread(other.command, "a", Command("disconnect", 5))
            server.call("del", other.session.key_of("commands"))
            listener._heard_at -= 120
        await receiver.until(
            lambda: any(each[2] == Command("recheck") and each[1] > granted for each in receiver.heard), "No recheck"
        )
        broker.detach(receiver)

    with broker_at(server.url) as broker, broker_at(server.url) as other:
        asyncio.run(test())


def test_gap_of_one_channel_is_told_once(server):
    async def test():
        receiver = RecordingReceiver()
        broker.attach(receiver)
        await broker.subscribe(receiver, "a")
        with unreachable(broker, server):
            await asyncio.to_thread(publish, other, 9)
        await receiver.hears("a", GAP)
        receiver.heard.clear()
        server.cut()
        begin = await broker.subscribe(receiver, "b")
        await receiver.hears("b", await asyncio.to_thread(publish_on, other, "b", begin))
        assert GAP not in receiver.sequences("a")
        broker.detach(receiver)

    def publish_on(broker, channel, begin):
        sequence = broker.publish(channel, b"x\n\n")
        assert sequence > begin
        return sequence

    with broker_at(server.url, max_events=3) as broker, broker_at(server.url, max_events=3) as other:
        asyncio.run(test())


@contextlib.contextmanager
def deaf(server):
    """Keep every process from hearing the server for the block; they can ask it."""
    server.call("acl", "setuser", "default", "-subscribe")
    try:
        server.call("client", "kill", "type", "pubsub")
        yield
    finally:
        server.call("acl", "setuser", "default", "+subscribe")


@pytest.mark.django_db(transaction=True)
def test_no_tab_escapes_a_disconnect_that_falls_into_a_gap(server, channel):
    settings = {"ROOT_URLCONF": "tests.project.cluster_site", "DS_BROADCASTER_HISTORY": {"max_events": 5}}
    with Server(settings=settings | server.settings, args=["--workers=2"]) as workers:
        until(lambda: len({workers.facts()["pid"] for _ in range(10)}) == 2, 20)
        ann, bob = workers.login("ann"), workers.login("bob")
        theirs = [ann.connect(channel) for _ in range(20)]
        others = [bob.connect(channel) for _ in range(20)]
        begun(*theirs, *others)
        with deaf(server):
            workers.burst(channel, 10)
            workers.call("disconnect", channel, ann.user_id)
            workers.burst(channel, 10, start=10)
        assert [client.wait_end(15) for client in theirs] == ["clean"] * 20
        # The gap is real.
        assert {client.wait_end(15) for client in others} == {"cut"}


def test_channel_that_is_unsubscribed_while_its_gap_is_found_is_not_carried_again(server, monkeypatch):
    async def test():
        receiver = RecordingReceiver()
        broker.attach(receiver)
        await broker.subscribe(receiver, "a")
        read = broker.read

        async def read_late(channel, cursor):
            await broker.unsubscribe(receiver, "a")
            return await read(channel, cursor)

        monkeypatch.setattr(broker, "read", read_late)
        with unreachable(broker, server):
            await asyncio.to_thread(publish, other, 9)
        await broker.subscribe(receiver, "b")
        await receiver.hears("b", await asyncio.to_thread(other.publish, "b", b"x\n\n"))
        topics = {broker.session.topic_of(name) for name in (b"", b"b")}
        server.cut()
        await receiver.hears("b", await asyncio.to_thread(other.publish, "b", b"x\n\n"))
        assert {*server.call("pubsub", "channels")} == topics
        assert GAP not in receiver.sequences("a")
        broker.detach(receiver)

    with broker_at(server.url, max_events=3) as broker, broker_at(server.url, max_events=3) as other:
        asyncio.run(test())


@pytest.mark.parametrize("is_there", [True, False])
def test_run_that_kept_the_lease_of_a_process_waits_for_what_it_tells_again(server, is_there):
    """A process that begins may be the first to call; the lease proves that it is not alone."""

    async def test():
        await broker.presence.sync(earlier, earlier.set_users("a", 1), 60 if is_there else 0, None)
        server.call("save")
        server.stop()
        server.start()
        new = RecordingReceiver()
        diff = await broker.presence.sync(new, new.set_users("a", 2), 60, None)
        assert diff.is_settled != is_there
        assert diff.joined == ([] if is_there else [("a", 2)])

    earlier = RecordingReceiver()
    with broker_at(server.url) as broker:
        asyncio.run(test())
