"""What only the PostgreSQL broker promises: transactions, their order, and a table trimmed beside them."""

import asyncio
import contextlib
import random
import threading
import time
from io import StringIO

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.test import override_settings

from ds_broadcaster.broadcaster import Broadcaster
from ds_broadcaster.brokers import EVERYWHERE, Command, Event
from ds_broadcaster.brokers.packing import pack_event
from ds_broadcaster.brokers.postgres import PostgresBroker, listener, statements
from ds_broadcaster.brokers.postgres.session import TIMEOUT
from ds_broadcaster.compaction import ELEMENT
from ds_broadcaster.conf import History
from ds_broadcaster.exceptions import BrokerUnavailable, Gap
from ds_broadcaster.sse import PLAIN, Facts
from ds_broadcaster.testing.brokers.cluster import apart
from ds_broadcaster.testing.brokers.receiver import GAP, PRESENCE, RESET, RecordingReceiver
from tests.fakes import make_request, make_scope
from tests.harness.postgres import PgBouncer, PostgresServer
from tests.harness.programs import wait_until
from tests.harness.server import Server
from tests.live import BARE, open_many, until
from tests.publishing import Publisher

APPS = [*django_settings.INSTALLED_APPS, "ds_broadcaster.contrib.postgres"]
BACKEND = "ds_broadcaster.brokers.postgres.PostgresBroker"
ALIAS = "events"


@pytest.fixture(scope="module")
def server():
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="module")
def template(server):
    return server.database().migrate(INSTALLED_APPS=APPS)


@contextlib.contextmanager
def used(database, unblock):
    """Use a database in the tests' process, as a project does."""
    with override_settings(INSTALLED_APPS=APPS), unblock(), database.used_as(ALIAS):
        try:
            yield database
        finally:
            asyncio.run(sync_to_async(connections.close_all)())


@pytest.fixture
def database(server, template, django_db_blocker):
    database = server.database(like=template)
    with used(database, django_db_blocker.unblock):
        yield database
    server.drop(database)


@contextlib.contextmanager
def new_broker(options=None, **history):
    broker = PostgresBroker(ALIAS, options or {}, History(**history))
    try:
        yield broker
    finally:
        broker.close()


@pytest.fixture
def broker(database):
    with new_broker() as broker:
        yield broker


def listening(broker, test, channels="a"):
    """Run a test with a receiver that is subscribed to these channels; return the receiver."""

    async def run():
        receiver = RecordingReceiver()
        broker.attach(receiver)
        for channel in channels:
            await broker.subscribe(receiver, channel)
        await test(receiver)
        broker.detach(receiver)
        return receiver

    return asyncio.run(run())


def payloads(receiver, channel="a"):
    return [item.data.partition(b"\n")[2] for name, _, item in receiver.heard if name == channel]


# Transactions


def test_several_events_wait_for_their_transaction_in_their_order(broker):
    def publish():
        with transaction.atomic(using=ALIAS):
            broker.publish("a", b"0\n\n")
            broker.publish_all([Event("a", b"%d\n\n" % number) for number in range(1, 5)])
            broker.publish_all([])
            with contextlib.suppress(ValueError), transaction.atomic(using=ALIAS):
                broker.publish_all([Event("a", b"taken back\n\n")])
                raise ValueError
            assert stored(broker) == []
        return broker.publish("a", b"5\n\n")

    async def test(receiver):
        await receiver.hears("a", await apart(publish))

    assert payloads(listening(broker, test)) == [b"%d\n\n" % number for number in range(6)]


BAR = Facts(replaces=ELEMENT + "outer bar")
TRANSIENT = Facts(is_transient=True)


def test_transient_events_wait_for_their_transaction_in_their_place(broker):
    def publish():
        with transaction.atomic(using=ALIAS):
            broker.publish("a", b"0\n\n")
            broker.publish("a", b"1\n\n", TRANSIENT)
            broker.publish_all([Event("a", b"2\n\n", TRANSIENT), Event("a", b"3\n\n")])
            with contextlib.suppress(ValueError), transaction.atomic(using=ALIAS):
                broker.publish("a", b"taken back\n\n", TRANSIENT)
                raise ValueError
        return broker.publish("a", b"4\n\n", TRANSIENT)

    async def test(receiver):
        await receiver.hears("a", await apart(publish))

    receiver = listening(broker, test)
    heard = [(item.facts.is_transient, item.data[-3:]) for name, _, item in receiver.heard if name == "a"]
    assert heard == [(number in (1, 2, 4), b"%d\n\n" % number) for number in range(5)]
    assert [frame.data[-3:] for _, frame in stored(broker)] == [b"0\n\n", b"3\n\n"]


def test_rows_of_transient_events_are_gone_soon_and_leave_no_gap(broker, database):
    before = broker.publish("a", b"x\n\n")
    newest = [broker.publish(channel, b"x" * 7000, TRANSIENT) for channel in "ab"][-1]
    sweep(broker)
    assert database.call("SELECT count(*) FROM ds_broadcaster_event")[0]["count"] == 3
    database.call("UPDATE ds_broadcaster_event SET created = created - interval '6 seconds'")
    sweep(broker)
    assert [sequence for sequence, _ in stored(broker)] == [before]
    assert database.call("SELECT count(*) FROM ds_broadcaster_event")[0]["count"] == 1
    assert not database.call("SELECT FROM ds_broadcaster_floor")
    epoch = broker.cursor().rpartition("-")[0]
    assert broker.cursor() == f"{epoch}-{newest}"
    assert broker.locate(["a", "b"], f"{epoch}-{before}").gaps == frozenset()
    assert asyncio.run(broker.commands(["a"], 60)) == []


def test_steps_of_a_transaction_replace_each_other_at_its_commit(broker):
    first = broker.publish("a", b"first\n\n", BAR)
    with transaction.atomic(using=ALIAS):
        for number in range(5):
            broker.publish("a", b"%d\n\n" % number, BAR)
        assert [sequence for sequence, _ in stored(broker)] == [first]
    assert [frame.data[-3:] for _, frame in stored(broker)] == [b"4\n\n"]


def test_transaction_that_sees_the_tables_as_they_were_commits_all_the_same(broker):
    first = broker.publish("a", b"1\n\n", BAR)
    with transaction.atomic(using=ALIAS):
        with connections[ALIAS].cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("SELECT count(*) FROM ds_broadcaster_event")
        asyncio.run(apart(broker.publish, "a", b"2\n\n", BAR))
        broker.publish("a", b"3\n\n", BAR)
    assert [frame.data[-3:] for _, frame in stored(broker)] == [b"2\n\n", b"3\n\n"]
    assert first == 1


def test_sweep_keeps_no_event_waiting_that_replaces_what_it_drops(broker, database):
    broker.publish("a", b"x\n\n", BAR)
    with contextlib.closing(database.connect(autocommit=False)) as trimming:
        trimming.execute("DELETE FROM ds_broadcaster_event")
        begin = time.monotonic()
        newest = broker.publish("a", b"x\n\n", BAR)
        assert time.monotonic() - begin < 1
        trimming.commit()
    assert [sequence for sequence, _ in stored(broker)] == [newest]


def test_event_is_sent_if_its_transaction_commits_and_when_it_does(broker):
    def publish():
        with transaction.atomic(using=ALIAS):
            assert broker.publish("a", b"first\n\n") is None
            with contextlib.suppress(ValueError), transaction.atomic(using=ALIAS):
                broker.publish("a", b"taken back\n\n")
                raise ValueError
            broker.publish("a", b"second\n\n")
            assert stored(broker) == []
        with contextlib.suppress(ValueError), transaction.atomic(using=ALIAS):
            broker.publish("a", b"never\n\n")
            broker.command("a", Command("kill"))
            raise ValueError
        return broker.publish("a", b"last\n\n")

    async def test(receiver):
        last = await apart(publish)
        await receiver.hears("a", last)

    receiver = listening(broker, test)
    assert payloads(receiver) == [b"first\n\n", b"second\n\n", b"last\n\n"]


def stored(broker):
    """Return the events that another connection can see."""
    found = []
    thread = threading.Thread(target=lambda: found.extend(asyncio.run(broker.read("a", 0))))
    thread.start()
    thread.join()
    return found


def test_events_are_in_the_order_of_the_commits(broker):
    def publish():
        begun, go = threading.Event(), threading.Event()

        def slow():
            with transaction.atomic(using=ALIAS):
                broker.publish("a", b"began first\n\n")
                begun.set()
                assert go.wait(5)
            connections.close_all()

        thread = threading.Thread(target=slow)
        thread.start()
        assert begun.wait(5)
        broker.publish("a", b"committed first\n\n")
        go.set()
        thread.join()
        return broker.publish("a", b"last\n\n")

    async def test(receiver):
        await receiver.hears("a", await apart(publish))

    receiver = listening(broker, test)
    assert payloads(receiver) == [b"committed first\n\n", b"began first\n\n", b"last\n\n"]
    assert receiver.sequences("a") == sorted(receiver.sequences("a"))


def test_whatever_overlaps_each_reader_hears_every_commit_once_and_ascending(broker):
    committed = []

    def publish(number):
        dice = random.Random(number)
        for turn in range(15):
            name = b"%d/%d" % (number, turn)
            with contextlib.suppress(ValueError), transaction.atomic(using=ALIAS):
                for part in range(dice.randint(1, 4)):
                    broker.publish("ab"[part % 2], b"%b/%d\n\n" % (name, part))
                if dice.random() < 0.3:
                    raise ValueError
                names = [b"%b/%d\n\n" % (name, each) for each in range(part + 1)]
                transaction.on_commit(lambda names=names: committed.extend(names), using=ALIAS)

    async def test(receiver):
        await asyncio.gather(*(apart(publish, number) for number in range(8)))
        await receiver.hears("a", await apart(broker.publish, "a", b"end\n\n"))
        await receiver.hears("b", await apart(broker.publish, "b", b"end\n\n"))

    receiver = listening(broker, test, "ab")
    assert sorted(payloads(receiver) + payloads(receiver, "b")) == sorted([*committed, b"end\n\n", b"end\n\n"])
    sequences = [sequence for _, sequence, _ in receiver.heard]
    assert sequences == sorted(set(sequences))


def test_event_may_be_longer_than_a_notification(broker):
    payload = b"x" * 1_000_000 + b"\n\n"

    async def test(receiver):
        await receiver.hears("a", await apart(broker.publish, "a", payload))

    assert payloads(listening(broker, test)) == [payload]


def test_thousand_events_of_a_transaction_are_one_notification_a_channel(broker, database):
    def publish():
        with transaction.atomic(using=ALIAS):
            for _ in range(1000):
                broker.publish("a", b"x\n\n")

    with contextlib.closing(database.connect()) as listener:
        listener.execute(f"listen {statements.TOPIC}")
        publish()
        assert len(list(listener.notifies(timeout=1))) == 1


def test_publishers_and_foreign_keys_do_not_wait_for_each_other_for_good(server, broker, database):
    database.call("create table room (id int primary key)")
    database.call("create table message (room int references room deferrable initially deferred)")
    database.call("insert into room values (1)")
    errors = []
    is_locked, is_written = threading.Event(), threading.Event()

    def write():
        broker.publish("a", b"x\n\n")
        assert is_locked.wait(5)
        connections[ALIAS].cursor().execute("insert into message values (1)")
        is_written.set()

    def lock():
        connections[ALIAS].cursor().execute("select * from room for update")
        is_locked.set()
        assert is_written.wait(5)
        # At its end, the other one waits for the row.
        wait_until(lambda: [each for each in server.activity() if each["wait_event_type"] == "Lock"], "a lock", 5)
        broker.publish("a", b"y\n\n")

    def run(work):
        try:
            with transaction.atomic(using=ALIAS):
                work()
        except Exception as error:
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(work,)) for work in (write, lock)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [frame.data.partition(b"\n")[2] for _, frame in stored(broker)] == [b"y\n\n", b"x\n\n"]


CHECKS = {
    "check_constraints()": lambda: connections[ALIAS].check_constraints(),
    "immediate from now on": lambda: connections[ALIAS].cursor().execute("SET CONSTRAINTS ALL IMMEDIATE"),
    "twice": lambda: [connections[ALIAS].check_constraints() for _ in range(2)],
}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_check_of_constraints_inside_a_transaction_keeps_no_publisher_waiting(broker, check):
    def publish():
        with transaction.atomic(using=ALIAS):
            broker.publish("a", b"first\n\n")
            check()
            broker.publish_all([Event("a", b"second\n\n"), Event("b", b"third\n\n")])
            check()
            asyncio.run(apart(broker.publish, "a", b"of another\n\n"))
            with contextlib.suppress(ValueError), transaction.atomic(using=ALIAS):
                broker.publish("a", b"taken back\n\n")
                check()
                raise ValueError
            broker.publish("a", b"fourth\n\n")
        with contextlib.suppress(ValueError), transaction.atomic(using=ALIAS):
            broker.publish("a", b"never\n\n")
            check()
            raise ValueError
        return broker.publish("a", b"last\n\n")

    async def test(receiver):
        await receiver.hears("a", await apart(publish))

    receiver = listening(broker, test, "ab")
    everything = [item.data.partition(b"\n")[2] for _, _, item in receiver.heard]
    assert everything == [
        b"%b\n\n" % each for each in (b"of another", b"first", b"second", b"third", b"fourth", b"last")
    ]
    sequences = [sequence for _, sequence, _ in receiver.heard]
    assert sequences == sorted(set(sequences))


def test_events_of_one_statement_with_its_own_commit_are_numbered(broker, database):
    """Commands may come in one string, or from a procedure."""
    columns = "key, channel, verb, payload, created"
    values = f"decode('{statements.key_of('a').hex()}', 'hex'), 'a', '', '\\x0a780a0a', clock_timestamp()"
    work = f"insert into ds_broadcaster_event ({columns}) values ({values}); set constraints all immediate; commit;"
    database.call(f"create procedure publish() language plpgsql as $$ begin {work} end $$")
    with contextlib.closing(database.connect()) as connection:
        connection.execute(f"begin; {work}")
        connection.execute("call publish()")
    assert [sequence for sequence, _ in stored(broker)] == [1, 2]


# As processes of an earlier version do while others are upgraded.
PUBLISH_OF_OLD = """
INSERT INTO ds_broadcaster_event (key, channel, verb, payload, created) VALUES (%s, %s, '', %s, clock_timestamp())
"""


def test_tables_are_upgraded_and_downgraded_in_place(server, template, django_db_blocker):
    def migrate(name):
        call_command("migrate", "ds_broadcaster_postgres", name, database=ALIAS, verbosity=0)

    database = server.database(like=template)
    with used(database, django_db_blocker.unblock), new_broker() as broker:
        broker.publish("a", b"0\n\n")
        for number, name in enumerate(["0003", "0004", "0002", "0001", "0002", "0004"], 1):
            migrate(name)
            with transaction.atomic(using=ALIAS), connections[ALIAS].cursor() as cursor:
                cursor.execute(PUBLISH_OF_OLD, (statements.key_of("a"), b"a", pack_event(b"%d\n\n" % number, PLAIN)))
        assert [frame.data.partition(b"\n")[2] for _, frame in stored(broker)] == [
            b"%d\n\n" % each for each in range(7)
        ]
        migrate("zero")
        migrate("0004")
        assert broker.publish("a", b"x\n\n") == 1
    server.drop(database)


def test_first_transaction_that_asks_for_a_cursor_keeps_no_publisher_waiting(broker):
    with transaction.atomic(using=ALIAS):
        before = broker.cursor()
        sequence = asyncio.run(apart(broker.publish, "a", b"x\n\n"))
        assert [number for number, _ in stored(broker)] == [sequence]
    assert sequence == int(before.rpartition("-")[2]) + 1


# Trimming


def test_trimming_waits_for_no_publisher_and_no_publisher_for_it(broker, database):
    broker.publish("a", b"x\n\n")
    limits = statements.limits_of(History(max_events=1))
    with contextlib.closing(database.connect(autocommit=False)) as trimming:
        broker.publish("a", b"x\n\n")
        trimming.execute(statements.TRIM, limits)
        begin = time.monotonic()
        broker.publish("a", b"x\n\n")
        broker.command("a", Command("kill"))
        assert time.monotonic() - begin < 1
        trimming.commit()
    with transaction.atomic(using=ALIAS):
        broker.publish("a", b"x\n\n")
        with contextlib.closing(database.connect(options="-c statement_timeout=1000")) as trimming:
            trimming.execute(statements.TRIM, limits)


def sweep(broker):
    asyncio.run(broker._sweep())


def test_trimmed_history_is_a_gap_for_older_cursors_only(database):
    with new_broker(max_events=3) as broker:
        given = [broker.publish("a", b"%d\n\n" % number) for number in range(6)]
        other = broker.publish("b", b"x\n\n")
        for _ in range(2):
            epoch = broker.cursor().rpartition("-")[0]
            covered = [not broker.locate(["a"], f"{epoch}-{each}").gaps for each in (given[1], given[2], given[5])]
            assert covered == [False, True, True]
            assert not broker.locate(["b"], f"{epoch}-{other - 1}").gaps
            sweep(broker)
        assert database.call("select count(*) from ds_broadcaster_event")[0]["count"] == 4
        assert broker.cursor() == f"{epoch}-{other}"


def test_nothing_remains_of_channels_without_recent_events(database):
    with new_broker(max_age=0.1) as broker:
        given = [broker.publish(f"channel-{number}", b"x\n\n") for number in range(20)]
        sweep(broker)
        with new_broker(max_age=0.1) as later:
            database.call("update ds_broadcaster_event set created = created - interval '1 hour'")
            sweep(later)
            database.call("update ds_broadcaster_floor set since = since - interval '1 hour'")
            sweep(later)
            for table in ("event", "floor"):
                assert database.call(f"select count(*) from ds_broadcaster_{table}")[0]["count"] == 0
            cursor = later.cursor()
            assert cursor.endswith(f"-{given[-1]}")
            assert not later.locate(["channel-3"], cursor).gaps
            assert later.locate(["channel-3"], f"{cursor.rpartition('-')[0]}-{given[2]}").gaps
            assert later.publish("channel-3", b"x\n\n") == given[-1] + 1


def test_table_that_is_long_is_trimmed_however_long_that_takes(database):
    database.call(f"""
        create function take_long() returns trigger language plpgsql as
        'begin perform pg_sleep({TIMEOUT + 0.5}); return null; end';
        create trigger take_long after delete on ds_broadcaster_event execute function take_long()
    """)
    with new_broker(max_events=1) as broker:
        for _ in range(3):
            broker.publish("a", b"x\n\n")
        sweep(broker)
        assert database.call("select count(*) from ds_broadcaster_event")[0]["count"] == 1


def test_cap_over_all_channels_is_kept(database):
    with new_broker(max_total_bytes=50_000) as broker:
        for number in range(20):
            broker.publish(f"channel-{number}", b"x" * 10_000)
        sweep(broker)
        assert database.call("select count(*) from ds_broadcaster_event")[0]["count"] == 4


def test_killed_channel_stays_forgotten_when_the_command_is_trimmed(database):
    with new_broker(max_age=0.1) as broker:
        sequence = broker.publish("a", b"secret\n\n")
        broker.command("a", Command("kill"))
        database.call("update ds_broadcaster_event set created = created - interval '1 hour'")
        sweep(broker)
        with pytest.raises(Gap):
            asyncio.run(broker.read("a", sequence - 1))


@pytest.mark.parametrize("unread", [3, 10])
def test_what_is_trimmed_before_a_listener_has_read_it_is_a_gap(database, unread):
    with new_broker(max_events=5) as broker:

        async def test(receiver):
            async with broker._listeners[receiver]._fetching:  # As in a busy process.
                for number in range(unread):
                    await apart(broker.publish, "a", b"%d\n\n" % number)
                await apart(broker.publish, "b", b"x\n\n")
                await broker._sweep()
            await receiver.hears("b", await apart(broker.publish, "b", b"y\n\n"))

        receiver = listening(broker, test, "ab")
        assert GAP not in receiver.sequences("b")
        if unread > 5:
            assert receiver.sequences("a")[0] == GAP
        else:
            assert len(payloads(receiver)) == unread


def test_commands_that_are_too_old_to_be_read_again_are_made_up_for(broker, database):
    async def test(receiver):
        async with broker._listeners[receiver]._fetching:
            await apart(broker.command, EVERYWHERE, Command("recheck", 7))
            database.call("update ds_broadcaster_event set created = created - interval '1 hour'")
            await broker._sweep()
        await receiver.hears("a", await apart(broker.publish, "a", b"x\n\n"))

    receiver = listening(broker, test)
    assert Command("recheck") in [item for _, _, item in receiver.heard]


def test_burst_is_read_in_parts_that_come_in_time(broker, monkeypatch):
    sizes = [1000, 20, 20, 3000, 990, 20, *[40] * 60, 1000]
    monkeypatch.setattr(listener, "BATCH_BYTES", 1000)
    monkeypatch.setattr(listener, "BATCH", 20)

    async def test(receiver):
        fetched = []
        session = broker._listeners[receiver]._session
        fetch = session.fetch

        async def watched(statement, parameters=None):
            rows = await fetch(statement, parameters)
            if statement == statements.FETCH:
                fetched.append([len(row[-1] or b"") for row in rows])
            return rows

        def publish():
            with transaction.atomic(using=ALIAS):
                for size in sizes:
                    broker.publish("a", b"x" * (size - 2) + b"\n\n")

        monkeypatch.setattr(session, "fetch", watched)
        await apart(publish)
        await receiver.hears("a", await apart(broker.publish, "a", b"x\n\n"))
        assert all(len(part) <= 20 and sum(part[:-1]) < 1000 for part in fetched)

    receiver = listening(broker, test)
    assert [len(payload) for payload in payloads(receiver)] == [*sizes, 3]


def test_each_loop_asks_on_a_session_of_its_own(broker):
    """The hub's belongs to the hub's loop; a process may have other loops, each view's in a thread of its own."""

    async def current():
        async with broker._sessions.current() as session:
            return session, session.loop is asyncio.get_running_loop()

    async def test(receiver):
        session, is_of_this_loop = await current()
        assert is_of_this_loop
        assert session is (await current())[0]
        other, is_of_that_loop = await asyncio.to_thread(asyncio.run, current())
        assert is_of_that_loop
        assert other is not session

    listening(broker, test)


def test_hub_assumes_the_role_of_the_project(broker, database):
    owned = ["event", "floor", "state", "process", "holding"]
    database.call(
        "; ".join(
            ["create role owner; create role visitor login password 'x' noinherit; grant owner to visitor"]
            + [f"alter table ds_broadcaster_{name} owner to owner" for name in owned]
            + ["alter sequence ds_broadcaster_sequence owner to owner"]
        )
    )
    connections[ALIAS].close()
    connections.settings[ALIAS] |= {"USER": "visitor", "PASSWORD": "x", "OPTIONS": {"assume_role": "owner"}}

    async def test(receiver):
        await receiver.hears("a", await apart(broker.publish, "a", b"x\n\n"))

    listening(broker, test)


@pytest.mark.parametrize("rubbish", ["", "r", "exyz", "r a xyz", "?"])
def test_listening_goes_on_whatever_others_notify(broker, database, caplog, rubbish):
    async def test(receiver):
        database.call(f"notify {statements.TOPIC}, '{rubbish}'")
        await receiver.hears("a", await apart(broker.publish, "a", b"x\n\n"))

    listening(broker, test)
    assert not caplog.records


def test_listening_begins_however_much_others_are_told_meanwhile(broker, database, caplog):
    done = threading.Event()

    def tell_others():
        with contextlib.closing(database.connect()) as connection:
            while not done.is_set():
                connection.execute(statements.NOTIFY, (statements.TOPIC, "e" + statements.key_of("other").hex()))

    async def test(receiver):
        pass

    telling = threading.Thread(target=tell_others)
    telling.start()
    try:
        for _ in range(10):
            listening(broker, test)
    finally:
        done.set()
        telling.join()
    assert "does not notify" not in caplog.text


# Servers that come and go


def test_restart_in_the_middle_of_publishing_loses_nothing_that_was_acknowledged(server, database):
    async def test(receiver):
        with Publisher(broker) as publisher:
            for trouble in (server.restart, server.cut, lambda: (server.stop(), server.start())):
                await apart(publisher.goes_on)
                await apart(trouble)
            await apart(publisher.goes_on)
        await receiver.hears("a", publisher.acknowledged[-1])
        assert set(publisher.acknowledged) <= set(receiver.sequences("a"))
        assert publisher.refused

    with new_broker(max_events=1_000_000) as broker:
        receiver = listening(broker, test)
        heard = [each for each in receiver.sequences("a") if each != PRESENCE]
        assert heard == sorted(set(heard))


def hold_connections(monkeypatch):
    """Have listeners connect only after the returned event; called on their loop."""
    may_connect, connect = asyncio.Event(), listener.connect

    async def connect_later(alias):
        await may_connect.wait()
        return await connect(alias)

    monkeypatch.setattr(listener, "connect", connect_later)
    return may_connect


def test_join_while_there_is_no_connection_is_noticed_after_the_reconnect(server, broker, monkeypatch):
    async def test(receiver):
        may_connect = hold_connections(monkeypatch)
        await apart(server.cut)
        with new_broker() as elsewhere:
            other = RecordingReceiver()
            elsewhere.attach(other)
            await elsewhere.presence.sync(other, other.set_users("a", 1), 15, None)
            elsewhere.detach(other)
        assert PRESENCE not in receiver.sequences("a")
        may_connect.set()
        await receiver.hears("a", PRESENCE)
        assert await apart(broker.presence.remote_users, receiver, "a") == [1]

    listening(broker, test)


def test_gap_while_there_is_no_connection_is_noticed_though_its_floor_was_swept(server, broker, database, monkeypatch):
    """A process that is away for longer than floors are kept: nothing about the channel remains."""

    async def test(receiver):
        await receiver.hears("a", await apart(broker.publish, "a", b"x\n\n"))
        may_connect = hold_connections(monkeypatch)
        await apart(server.cut)
        await apart(broker.publish, "a", b"lost\n\n")
        database.call("update ds_broadcaster_event set created = created - interval '1 hour'")
        await broker._sweep()
        database.call("update ds_broadcaster_floor set since = since - interval '1 hour'")
        await broker._sweep()
        assert database.call("select count(*) from ds_broadcaster_floor")[0]["count"] == 0
        assert GAP not in receiver.sequences("a")
        may_connect.set()
        await receiver.hears("a", GAP)

    listening(broker, test)


def test_commands_that_fall_into_a_gap_are_heard_before_it(server, database, monkeypatch):
    """The gap sends clients away. Those who were put out meanwhile would return as if nothing had been said."""
    with new_broker(max_events=3) as broker:

        async def test(receiver):
            await receiver.hears("a", await apart(broker.publish, "a", b"x\n\n"))
            may_connect = hold_connections(monkeypatch)
            await apart(server.cut)
            for number in range(5):
                await apart(broker.publish, "a", b"%d\n\n" % number)
            await apart(broker.command, "a", Command("disconnect", 7))
            await apart(broker.command, EVERYWHERE, Command("recheck", 8))
            await apart(broker.publish, "b", b"of another channel\n\n")
            await apart(broker.publish, "a", b"after the gap\n\n")
            receiver.heard.clear()
            may_connect.set()
            await receiver.hears("a", GAP)
            await receiver.hears("b", await apart(broker.publish, "b", b"x\n\n"))

        heard = [item for _, _, item in listening(broker, test, "ab").heard if item != Command("presence")]
        frames = [item for item in heard if not isinstance(item, Command)]
        assert [frame.data.partition(b"\n")[2] for frame in frames] == [b"of another channel\n\n", b"x\n\n"]
        commands = [item for item in heard if isinstance(item, Command)]
        assert commands == [Command("disconnect", 7), Command("recheck", 8), Command("gap")]


def test_commands_before_a_new_epoch_are_heard_before_clients_start_anew(broker, database):
    """A recheck stands in for those that were lost with the last sequences of the former epoch."""

    async def test(receiver):
        await receiver.hears("a", await apart(broker.publish, "a", b"x\n\n"))
        async with broker._listeners[receiver]._fetching:
            await apart(broker.publish, "a", b"before\n\n")
            await apart(broker.command, "a", Command("disconnect", 7))
            database.call("update ds_broadcaster_state set epoch = 'another'")
            await apart(broker.cursor)  # A view may be the first to know.
            assert RESET not in receiver.sequences("")
            receiver.heard.clear()
        await receiver.hears("", RESET)
        await receiver.hears("a", await apart(broker.publish, "a", b"after\n\n"))

    heard = [item for _, _, item in listening(broker, test).heard]
    assert heard[:-1] == [Command("disconnect", 7), Command("recheck"), Command("reset")]


def test_rows_of_other_programs_are_skipped(broker, database, caplog):
    key = statements.key_of("a")

    async def test(receiver):
        await receiver.hears("a", await apart(broker.publish, "a", b"1\n\n"))
        for verb, payload in [
            ("", b""),
            ("", b"[]\nx"),
            ("disconnect", b"x"),
            ("recheck", b'["a","drop",1]'),
            ("odd", b"\xff"),
        ]:
            database.call("select ds_broadcaster_publish(%s, %s, %s, %s)", key, b"a", verb, payload)
        diff = await broker.presence.sync(receiver, receiver.set_users("a", 1), 15, None)
        assert diff.joined == [("a", 1)]
        for process in ("", receiver.process, "another"):
            database.call(
                "insert into ds_broadcaster_holding (process, key, channel, who, connections) select %s, %s, %s, %s, 1",
                process,
                key,
                b"\xff",
                "{no user",
            )
        database.call("insert into ds_broadcaster_process values ('another', now() + interval '1 minute')")
        diff = await broker.presence.sync(receiver, receiver.set_users("a", 1, 2), 15, diff.memory)
        assert diff.joined == [("a", 2)]
        assert sorted(await apart(lambda: list(broker.presence.online("a")))) == [(1, 1), (2, 1)]
        assert await apart(broker.presence.remote_users, receiver, "a") == []
        last = await apart(broker.publish, "a", b"2\n\n")
        await receiver.hears("a", last)
        assert [frame.data.partition(b"\n")[2] for _, frame in await broker.read("a", 0)] == [b"1\n\n", b"2\n\n"]
        assert await broker.commands(["a"], 60) == []

    receiver = listening(broker, test)
    assert payloads(receiver) == [b"1\n\n", b"2\n\n"]
    assert [each.levelname for each in caplog.records] == ["ERROR"]
    assert "Skipped 1 malformed messages in PostgreSQL, the last on channel 'a'" in caplog.text


def test_process_without_requests_publishes_again_when_the_server_is_back(server, broker):
    broker.publish("a", b"x\n\n")
    server.cut()
    with pytest.raises(BrokerUnavailable):
        broker.publish("a", b"x\n\n")
    broker.publish("a", b"x\n\n")
    server.cut()
    with pytest.raises(BrokerUnavailable):
        broker.cursor()
    broker.cursor()


def test_replica_that_takes_over_has_what_was_acknowledged_and_clients_start_anew(django_db_blocker):
    async def test(receiver):
        with Publisher(broker) as publisher:
            await apart(publisher.goes_on)
            before = broker.epoch
            primary.stop()
            await apart(replica.promote)
            replica.call("alter system reset synchronous_standby_names")
            replica.call("select pg_reload_conf()")
            acknowledged = len(publisher.acknowledged)
            await apart(publisher.goes_on)
        await receiver.hears("", RESET)
        assert broker.epoch != before
        history = [number for number, _ in await broker.read("a", 0)]
        assert set(publisher.acknowledged[:acknowledged]) <= set(history)
        later = await apart(broker.publish, "a", b"x\n\n")
        await receiver.hears("a", later)

    with PostgresServer() as primary:
        database = primary.database().migrate(INSTALLED_APPS=APPS)
        with primary.replica(synchronous=True) as replica:
            database = database.at(primary, replica)
            with used(database, django_db_blocker.unblock), new_broker(max_events=1_000_000) as broker:
                listening(broker, test)


def test_nothing_is_sent_in_bounded_time_while_the_server_is_away_or_frozen(server, broker):
    for trouble, end in ((server.freeze, server.thaw), (server.stop, server.start)):
        broker.publish("a", b"x\n\n")
        trouble()
        try:
            begin = time.monotonic()
            with pytest.raises(BrokerUnavailable, match="PostgreSQL"):
                broker.publish("a", b"x\n\n")
            assert time.monotonic() - begin < 2.5
        finally:
            end()
        connections[ALIAS].close()


@pytest.mark.slow
def test_frozen_server_keeps_no_caller_waiting_for_long(server, broker):
    """A hub may ask twice, because its connection alone may be dead."""

    async def test(receiver):
        for ask in (lambda: broker.read("a", 0), lambda: broker.subscribe(receiver, "b")):
            await broker.read("a", 0)
            server.freeze()
            try:
                begin = time.monotonic()
                with pytest.raises(BrokerUnavailable, match="PostgreSQL"):
                    await ask()
                assert time.monotonic() - begin < 2 * TIMEOUT + 1
            finally:
                server.thaw()

    broker.cursor()
    server.freeze()
    try:
        begin = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="PostgreSQL"):
            broker.cursor()
        assert time.monotonic() - begin < TIMEOUT + 0.7
    finally:
        server.thaw()
    listening(broker, test)


@contextlib.contextmanager
def held_up(broker):
    """Have the broker's first step begin at the end of the block; yield the number of events in each step."""
    steps, step, may_begin = [], broker._joining._step, threading.Event()

    def begin(items):
        steps.append(len(items))
        assert may_begin.wait(20)
        return step(items)

    broker._joining._step = begin
    try:
        yield steps
    finally:
        may_begin.set()


def test_threads_that_publish_at_once_share_a_transaction_of_the_broker(broker):
    def publish(number):
        try:
            sequences[number] = broker.publish(f"channel-{number % 2}", b"%d\n\n" % number)
        finally:
            connections.close_all()

    sequences = {}
    with held_up(broker) as steps:
        threads = [threading.Thread(target=publish, args=(number,)) for number in range(6)]
        threads[0].start()
        wait_until(lambda: steps, "the first step")
        for count, each in enumerate(threads[1:], 1):
            each.start()
            wait_until(lambda count=count: len(broker._joining._waiting) == count, "one who waits")
    for each in threads:
        each.join(20)
    assert steps == [1, 5]
    first = sequences[0]
    assert sequences == {number: first + number for number in range(6)}
    found = asyncio.run(broker.read("channel-1", first - 1))
    assert [(number, frame.data.partition(b"\n")[2]) for number, frame in found] == [
        (first + number, b"%d\n\n" % number) for number in (1, 3, 5)
    ]


def test_what_a_step_makes_superfluous_of_itself_is_no_row_and_has_a_sequence(broker, database):
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
    found = asyncio.run(broker.read("a", 0))
    texts = {number - before: int(frame.data.partition(b"\n")[2]) for number, frame in found}
    assert texts == {4: 4, 5: 5, 7: 7}
    assert [number - before for number, _ in asyncio.run(broker.read("b", 0))] == [2]


def test_event_of_a_transaction_joins_no_other(broker):
    """It belongs to the transaction, and does not wait for others."""
    kept = []

    def publish(is_atomic):
        try:
            with transaction.atomic(using=ALIAS) if is_atomic else contextlib.nullcontext():
                kept.append(broker.publish("a", b"%d\n\n" % is_atomic))
                if is_atomic:
                    transaction.set_rollback(True, using=ALIAS)
        finally:
            connections.close_all()

    with held_up(broker) as steps:
        alone = threading.Thread(target=publish, args=(False,))
        alone.start()
        wait_until(lambda: steps, "the first step")
        within = threading.Thread(target=publish, args=(True,))
        within.start()
        within.join(20)
        assert kept == [None]
    alone.join(20)
    assert steps == [1]
    assert [frame.data.partition(b"\n")[2] for _, frame in asyncio.run(broker.read("a", 0))] == [b"0\n\n"]


@pytest.mark.slow
def test_thread_does_not_wait_for_a_loop_that_has_ended(broker):
    """It would keep the process from ending."""

    async def begin():
        broker.attach(receiver)
        await broker.subscribe(receiver, "a")

    receiver = RecordingReceiver()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    try:
        with pytest.raises(BrokerUnavailable, match="did not answer in time"):
            broker.presence.remote_users(receiver, "a")
        broker.detach(receiver)
        with pytest.raises(BrokerUnavailable, match="about to stop"):
            broker.presence.remote_users(receiver, "a")
    finally:
        loop.run_until_complete(asyncio.wait(asyncio.all_tasks(loop), timeout=5))
        loop.close()


def test_pooler_in_transaction_mode_publishes_and_listening_says_what_it_needs(
    server, template, django_db_blocker, caplog, settings
):
    async def unheard(receiver):
        await asyncio.sleep(0)

    async def heard(receiver):
        await receiver.hears("a", await apart(publish))

    def publish():
        broker.publish("a", b"x\n\n")
        with transaction.atomic(using=ALIAS):
            broker.publish("a", b"x\n\n")
        return broker.publish("a", b"x\n\n")

    database = server.database(like=template)
    with PgBouncer(server) as pooler, used(database.at(pooler), django_db_blocker.unblock):
        with new_broker() as broker, pytest.raises(BrokerUnavailable, match="no connection listens"):
            listening(broker, unheard)
        assert "pgbouncer, in between? Name an entry of DATABASES" in caplog.text
        with database.used_as("direct"), new_broker({"listen": "direct"}) as broker:
            assert len(listening(broker, heard).sequences("a")) == 3
    server.drop(database)


# What a project has to say


@pytest.mark.parametrize(
    "location, options, says",
    [
        ("nowhere", {}, "alias in DATABASES"),
        (["default"], {}, "alias in DATABASES"),
        ("default", {}, "not PostgreSQL but sqlite"),
        (ALIAS, {"listen": "nowhere"}, "OPTIONS['listen']"),
        (ALIAS, {"prefix": "x"}, "may have listen and lease, not prefix"),
    ],
)
def test_mistake_is_refused_with_what_to_write(database, location, options, says):
    with pytest.raises(ImproperlyConfigured) as caught:
        PostgresBroker(location, options, History())
    assert says in str(caught.value)


def test_project_without_the_tables_app_is_told_to_add_it(database, settings):
    settings.INSTALLED_APPS = django_settings.INSTALLED_APPS[:-1]
    with pytest.raises(ImproperlyConfigured, match="INSTALLED_APPS"):
        PostgresBroker(ALIAS, {}, History())


def test_database_without_a_timeout_is_a_warning(database, broker):
    [message] = broker.check()
    assert message.id == "ds_broadcaster.W003"
    connections.settings[ALIAS]["OPTIONS"] = {"connect_timeout": 2}
    assert broker.check() == []


@pytest.mark.django_db(databases="__all__")
def test_models_and_migrations_agree(settings):
    settings.INSTALLED_APPS = APPS
    call_command("makemigrations", "ds_broadcaster_postgres", check=True, dry_run=True, stdout=StringIO())


@pytest.mark.django_db(transaction=True)
def test_other_databases_of_the_project_get_unused_tables(settings):
    settings.INSTALLED_APPS = APPS
    call_command("migrate", "ds_broadcaster_postgres", verbosity=0)
    try:
        assert "ds_broadcaster_event" in connection.introspection.table_names()
    finally:
        call_command("migrate", "ds_broadcaster_postgres", "zero", verbosity=0)


# What streams cost the database


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["handoff", "plain"])
def test_open_streams_hold_no_connection_of_the_database(server, template, mode):
    database = server.database(like=template)
    broker = {"BACKEND": BACKEND}
    settings = database.settings | BARE | {"INSTALLED_APPS": APPS, "DS_BROADCASTER_BROKER": broker}
    with Server(mode=mode, settings=settings) as site:
        streams = open_many(100, lambda number: site.connect(f"channel-{number % 20}", wait=False))

        def of_the_site():
            return [each for each in server.activity() if each["datname"] == database.name]

        # One that listens, and one for what the hub asks.
        until(lambda: len(of_the_site()) <= 2)
        site.burst("channel-7", 5)
        for stream in streams[7::20]:
            stream.wait_for(lambda stream=stream: "item-4" in "".join(each.data for each in stream.events), 5, "items")
        until(lambda: len(of_the_site()) <= 2)
    server.drop(database)


# In async code


SYNC_VERBS = {
    "elements": lambda b, request: b.elements("room", "<p id=a>"),
    "signals": lambda b, request: b.signals("room", {}),
    "remove": lambda b, request: b.remove("room", "#a"),
    "template": lambda b, request: b.template("room", "chat/_note.html"),
    "cursor": lambda b, request: b.cursor(),
    "kill": lambda b, request: b.kill("room"),
    "disconnect": lambda b, request: b.disconnect("room", 7),
    "recheck": lambda b, request: b.recheck("room"),
    "get_users": lambda b, request: b.get_users("room"),
    "get_channels": lambda b, request: b.get_channels(),
    "connect": lambda b, request: b.connect("room", request),
}


@pytest.mark.parametrize("verb", SYNC_VERBS)
def test_sync_verb_in_async_code_names_its_twin(broker, verb):
    broadcaster = Broadcaster(create_broker=lambda settings: broker)

    async def view():
        SYNC_VERBS[verb](broadcaster, make_request(make_scope()))

    with pytest.raises(
        SynchronousOnlyOperation, match=rf"^broadcast\.{verb}\(\) .* `await broadcast\.a{verb}\(\.\.\.\)`"
    ):
        asyncio.run(view())


def test_short_form_of_elements_names_the_twin_of_elements(broker):
    async def view():
        Broadcaster(create_broker=lambda settings: broker)("room", "<p id=a>")

    with pytest.raises(SynchronousOnlyOperation, match=r"`await broadcast\.aelements\(\.\.\.\)`"):
        asyncio.run(view())
