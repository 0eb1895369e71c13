"""The outbox: committed changes are merged and sent after the commit, and no others are."""

import gc
import logging
import threading

import pytest
from django.db import connection, transaction
from django.test import TestCase
from django.utils import translation
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ds_broadcaster import BrokerUnavailable, broadcast
from ds_broadcaster.models import outbox
from ds_broadcaster.models.changes import pending_of
from tests.chat.models import Article, Job, LoudMessage, Message, Reply, Room, Silent
from tests.chat.recording import Page, record
from tests.fakes import FACTOR

pytestmark = pytest.mark.django_db(transaction=True)


class Failed(Exception):
    pass


def pending():
    return pending_of(connection).alive()


# After the commit, or never


def test_nothing_is_sent_before_the_commit(sent, room):
    with transaction.atomic():
        with transaction.atomic():
            Message.objects.create(room=room, text="a")
        assert sent.take() == []
    assert sent.texts() == ["a 0 Yes"]


def test_rolled_back_transaction_sends_nothing(sent, room):
    with transaction.atomic():
        Message.objects.create(room=room, text="a").delete()
        Message.objects.create(room=room, text="a")
        transaction.set_rollback(True)
    Message.objects.create(room=room, text="b")
    assert sent.texts() == ["b 0 Yes"]


def test_rolled_back_savepoint_sends_nothing_of_its_own(sent, room):
    kept = []
    with transaction.atomic():
        first = Message.objects.create(room=room, text="a")
        try:
            with transaction.atomic():
                Message.objects.create(room=room, text="b")
                first.text = "never"
                first.save()
                raise Failed
        except Failed as error:
            kept.append(error)  # Its traceback refers to the frames, and they to the objects.
        Message.objects.create(room=room, text="c")
    assert sent.texts() == ["a 0 Yes", "c 0 Yes"]


def test_rolled_back_deletion_leaves_the_element(sent, room):
    message = Message.objects.create(room=room, text="a")
    sent.take()
    with transaction.atomic(), transaction.atomic():
        message.delete()
        transaction.set_rollback(True)
    assert sent.take() == []


def test_failed_save_sends_nothing(sent, room):
    message = Message.objects.create(room=room, text="a")
    sent.take()
    with transaction.atomic(), pytest.raises(Exception, match="UNIQUE"), transaction.atomic():
        Message(pk=message.pk, room=room, text="b").save(force_insert=True)
    assert sent.take() == []


def test_sent_and_rolled_back_changes_are_not_kept(sent, room):
    gc.collect()
    gc.disable()
    try:
        with transaction.atomic():
            for _ in range(10):
                Message.objects.create(room=room, text="")
            assert len(pending()) == 10
        assert pending() == []
        with transaction.atomic():
            with transaction.atomic():
                Message.objects.create(room=room, text="")
                transaction.set_rollback(True)
            assert pending() == []
        with transaction.atomic():
            Message.objects.create(room=room, text="")
            transaction.set_rollback(True)
        assert pending() == []
    finally:
        gc.enable()


def test_rolled_back_savepoints_of_a_long_transaction_leave_little_memory(sent, room):
    with transaction.atomic():
        Message.objects.create(room=room, text="kept")
        for _ in range(500):
            with transaction.atomic():
                Message.objects.create(room=room, text="")
                transaction.set_rollback(True)
        assert len(pending()) == 1
        assert len(pending_of(connection)._references) <= 70
    assert sent.texts() == ["kept 0 Yes"]


def test_without_autocommit_it_is_sent_at_once(sent, room):
    transaction.set_autocommit(False)
    try:
        Message.objects.create(room=room, text="a")
        assert sent.texts() == ["a 0 Yes"]
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)


def test_transactions_of_threads_do_not_mix(sent):
    ready, go = threading.Event(), threading.Event()
    article = Article.objects.create(title="ours")
    sent.take()

    def other():
        try:
            article.save(update_fields=["title"])
            ready.set()
            assert go.wait(5)
        finally:
            connection.close()

    thread = threading.Thread(target=other)
    thread.start()
    assert ready.wait(5)
    with transaction.atomic():
        Article.objects.create(title="mine")
    go.set()
    thread.join()
    assert sorted(sent.texts()) == ["mine", "ours"]


# In the tests of projects


class TestUsersTestCase(TestCase):
    """Django's TestCase never commits: callbacks of a test must not send the changes of setUp()."""

    @pytest.fixture(autouse=True)
    def _record(self, monkeypatch):
        self.sent = record(monkeypatch)

    def setUp(self):
        self.room = Room.objects.create(name="lobby")
        self.message = Message.objects.create(room=self.room, text="set up")

    def test_captured_callbacks_send_what_the_block_saved(self):
        for text in ("a", "b"):
            with self.captureOnCommitCallbacks(execute=True) as callbacks:
                Message.objects.create(room=self.room, text=text)
                Message.objects.create(room=self.room, text=text * 2)
                assert self.sent.take() == []
            assert len(callbacks) == 2
            assert self.sent.texts() == [f"{text} 0 Yes", f"{text * 2} 0 Yes"]

    def test_changes_of_a_block_are_merged(self):
        with self.captureOnCommitCallbacks(execute=True):
            self.message.text = "changed"
            self.message.save()
            self.message.delete()
        assert [event.mode for event in self.sent.take()] == ["remove"]

    def test_callbacks_may_be_called_later(self):
        with self.captureOnCommitCallbacks() as callbacks:
            self.message.save()
        assert self.sent.take() == []
        for callback in callbacks:
            callback()
        assert self.sent.texts() == ["set up 0 Yes"]

    def test_callbacks_of_an_earlier_block_may_be_called_last(self):
        with self.captureOnCommitCallbacks() as earlier:
            self.message.save()
        with self.captureOnCommitCallbacks(execute=True):
            Message.objects.create(room=self.room, text="later")
        assert self.sent.texts() == ["later 0 Yes"]
        earlier[0]()
        assert self.sent.texts() == ["set up 0 Yes"]

    def test_saves_of_a_hook_are_sent(self):
        Job.hooks["created"] = lambda job: Message.objects.create(room=self.room, text="from a hook") and None
        try:
            with self.captureOnCommitCallbacks(execute=True):
                Job.objects.create()
        finally:
            Job.hooks.clear()
        assert self.sent.texts() == ["from a hook 0 Yes"]


# Merging


def test_many_saves_of_one_object_render_its_last_state_once(sent, room, monkeypatch):
    renders = []
    render = Message.render_broadcast
    monkeypatch.setattr(Message, "render_broadcast", lambda self: renders.append(self) or render(self))
    message = Message.objects.create(room=room, text="")
    sent.take()
    renders.clear()
    with transaction.atomic():
        for number in range(1000):
            message.text = str(number)
            message.save()
    assert sent.texts() == ["999 0 Yes"]
    assert len(renders) == 1


def test_many_changes_are_published_in_few_batches_of_limited_size(sent, room, monkeypatch, errors):
    texts = [str(number) for number in range(250)] + [str(number) * 300_000 for number in range(6)]
    render = Message.render_broadcast
    monkeypatch.setattr(Message, "render_broadcast", lambda self: 1 / 0 if self.text == "bad" else render(self))
    with transaction.atomic():
        for text in [*texts[:50], "bad", *texts[50:]]:
            Message.objects.create(room=room, text=text)
    assert sent.texts() == [f"{text} 0 Yes" for text in texts]
    assert len(errors()) == 1
    assert all(len(batch) <= 100 and sum(batch) <= 1 << 20 for batch in sent.batches)
    # 256 events are at least three batches, and 1.8 MB at least two.
    assert len(sent.batches) <= 5


def test_event_larger_than_a_batch_is_published_by_itself(sent, room, settings):
    settings.DS_BROADCASTER_MAX_EVENT_BYTES = 3 << 20
    with transaction.atomic():
        for text in ("a", "b" * (2 << 20), "c"):
            Message.objects.create(room=room, text=text)
    assert [text[0] for text in sent.texts()] == ["a", "b", "c"]
    assert [len(batch) for batch in sent.batches] == [1, 1, 1]


def test_events_of_one_change_for_many_channels_are_published_in_batches(sent, hooks):
    hooks["channel"] = channels = [f"user-{number}" for number in range(250)]
    Job.objects.create()
    assert [event.channel for event in sent.take()] == channels
    assert [len(batch) for batch in sent.batches] == [100, 100, 50]


def test_save_of_a_hook_comes_after_earlier_changes(sent, hooks):
    def created(job):
        if job.state == "other":
            Job.objects.get(pk=first.pk).save()
        return f"<p>{job.state}</p>"

    hooks["created"] = created
    hooks["updated"] = lambda job: f"<p>{job.state}, saved by a hook</p>"
    with transaction.atomic():
        first = Job.objects.create(state="first")
        Job.objects.create(state="other")
        Job.objects.create(state="last")
    assert sent.texts() == ["first", "first, saved by a hook", "other", "last"]


def test_transaction_of_a_hook_comes_after_earlier_changes(sent, hooks):
    def created(job):
        if job.state == "other":
            with transaction.atomic():
                Job.objects.create(state="one more")
                Job.objects.get(pk=first.pk).save()
        return f"<p>{job.state}</p>"

    hooks["created"] = created
    hooks["updated"] = lambda job: f"<p>{job.state}, saved by a hook</p>"
    with transaction.atomic():
        first = Job.objects.create(state="first")
        Job.objects.create(state="other")
    assert sent.texts() == ["first", "one more", "first, saved by a hook", "other"]


def test_broadcast_of_a_hook_comes_after_earlier_changes(sent, hooks):
    def created(job):
        broadcast("jobs", f"<p>sent by {job.state}</p>")
        return f"<p>{job.state}</p>"

    hooks["created"] = created
    with transaction.atomic():
        for state in ("a", "b"):
            Job.objects.create(state=state)
    assert sent.texts() == ["sent by a", "a", "sent by b", "b"]
    broadcast("jobs", "<p>afterwards</p>")
    assert sent.texts() == ["afterwards"]


def test_broadcast_of_a_hook_comes_after_earlier_changes_also_after_a_transaction_of_another(sent, hooks):
    def created(job):
        if job.state == "b":
            with transaction.atomic():
                for state in ("one", "two"):
                    Job.objects.create(state=state)
        elif job.state == "c":
            broadcast("jobs", "<p>sent by c</p>")
        return f"<p>{job.state}</p>"

    hooks["created"] = created
    with transaction.atomic():
        for state in ("a", "b", "c"):
            Job.objects.create(state=state)
    assert sent.texts() == ["a", "one", "two", "b", "sent by c", "c"]


def test_save_of_a_hook_without_a_channel_does_not_divide_batches(sent, hooks):
    hooks["created"] = lambda job: Silent.objects.create() and "<p>x</p>"
    with transaction.atomic():
        for _ in range(3):
            Job.objects.create()
    assert [len(batch) for batch in sent.batches] == [3]
    assert sent.texts() == ["x", "x", "x"]


def test_many_saves_are_one_flush(sent, room, monkeypatch):
    flushes = []
    flush = outbox.flush
    monkeypatch.setattr(outbox, "flush", lambda found: flushes.append(len(found)) or flush(found))
    with transaction.atomic():
        for number in range(1000):
            Message.objects.create(room=room, text=str(number))
    assert flushes == [1000]
    assert sent.texts() == [f"{number} 0 Yes" for number in range(1000)]


def in_one_transaction(sent, *steps):
    with transaction.atomic():
        for step in steps:
            step()
    return sent.shapes()


def test_changes_of_one_element_are_merged(sent, room):
    message = Message(pk=7, room=room, text="a")

    def save(text):
        def step():
            message.pk, message.text = 7, text
            message.save()

        return step

    def delete():
        message.pk = 7
        message.delete()

    created, removed = ("append", "b 0 Yes"), ("remove", "#chat-message-7")
    assert in_one_transaction(sent, save("a"), save("b")) == [created]
    assert in_one_transaction(sent, save("a"), save("b")) == [("outer", "b 0 Yes")]
    assert in_one_transaction(sent, save("c"), delete) == [removed]
    assert in_one_transaction(sent, save("c"), delete) == [removed]
    Message.objects.bulk_create([message.__class__(pk=7, room=room, text="x")])
    assert in_one_transaction(sent, delete, save("a"), save("b")) == [removed, created]
    assert in_one_transaction(sent, delete, save("a"), delete, save("b")) == [removed, created]
    assert in_one_transaction(sent, save("z"), delete, save("a"), delete) == [removed]


def test_element_removed_from_several_channels_is_removed_from_each(sent, hooks):
    job = Job.objects.create()
    key = job.pk
    sent.take()
    with transaction.atomic():
        hooks["channel"] = "a"
        job.delete()
        job.pk = key
        job.save(force_insert=True)
        hooks["channel"] = "b"
        job.delete()
    assert [(event.channel, event.mode) for event in sent.take()] == [("a", "remove"), ("b", "remove")]


def test_objects_are_sent_in_the_order_of_their_first_changes(sent, room):
    with transaction.atomic():
        first = Message.objects.create(room=room, text="1")
        Message.objects.create(room=room, text="2")
        first.text = "one"
        first.save()
    assert sent.texts() == ["one 0 Yes", "2 0 Yes"]


def test_proxy_and_model_are_one_element(sent, room):
    with transaction.atomic():
        Message.objects.create(pk=1, room=room, text="a")
        loud = LoudMessage.objects.get()
        loud.text = "b"
        loud.save()
    assert sent.shapes() == [("append", "b 0 Yes")]


def test_changes_of_an_instance_after_its_save_do_not_leak(sent, room):
    with transaction.atomic():
        message = Message.objects.create(room=room, text="a")
        reply = Reply.objects.create(message=message, text="r")
        key = message.pk
        message.text = "never saved"
        reply.text = "never saved"
        reply.message = None
        message.pk = None
        del message._state
    events = sent.take()
    assert [event.text for event in events] == ["a 0 Yes", "lobby: r", "lobby: r"]
    assert f'id="chat-message-{key}"' in events[0].html


def test_loaded_relations_stay_loaded(sent, room, django_assert_num_queries):
    with transaction.atomic():
        message = Message(room=room, text="a")
        message.save()
        change = pending()[0]
        del message
        gc.collect()
        with django_assert_num_queries(0):
            assert change.instance.room is room
        del change


def test_instance_saved_outside_of_transactions_is_not_copied(sent, monkeypatch):
    seen = []
    monkeypatch.setattr(Job, "hooks", {"created": lambda job: seen.append(job)})
    job = Job.objects.create()
    assert seen[0] is job


def test_language_is_taken_from_the_save_not_from_the_commit(sent, room):
    with transaction.atomic():
        with translation.override("de"):
            Message.objects.create(room=room, text="a")
        with translation.override("fr"):
            Message.objects.create(room=room, text="b")
    assert sent.texts() == ["a 0 Ja", "b 0 Oui"]


# Errors


def test_broker_that_is_down_is_asked_once(sent, room, caplog):
    sent.fails = BrokerUnavailable("down")
    with transaction.atomic():
        for _ in range(10):
            Message.objects.create(room=room, text="")
    assert sent.attempts == 1
    (told,) = [each.getMessage() for each in caplog.records if each.name == "ds_broadcaster"]
    first = Message.objects.earliest("pk").pk
    assert told == f"Some or all of 10 changes, from chat.Message {first} on, were saved, but not broadcast."


def test_broker_that_is_down_is_asked_once_for_hundreds_of_changes(sent, hooks, caplog):
    rendered = []
    hooks["created"] = lambda job: rendered.append(job) or "<p>x</p>"
    sent.fails = BrokerUnavailable("down")
    with transaction.atomic():
        jobs = [Job.objects.create() for _ in range(350)]
    assert sent.attempts == 1
    # The first batch was full; the rest could not be sent either.
    assert len(rendered) == 100
    (told,) = [each.getMessage() for each in caplog.records if each.name == "ds_broadcaster"]
    assert told == f"Some or all of 350 changes, from chat.Job {jobs[0].pk!r} on, were saved, but not broadcast."
    assert Job.objects.count() == 350


def test_broker_that_is_down_is_asked_once_for_one_change_to_hundreds_of_channels(sent, hooks, errors):
    hooks["channel"] = [f"user-{number}" for number in range(350)]
    sent.fails = BrokerUnavailable("down")
    job = Job.objects.create()
    assert sent.attempts == 1
    assert errors() == [
        (f"chat.Job {job.pk!r} was created, but not broadcast (template: chat/_job.html).", sent.fails),
    ]


def test_broker_that_is_back_is_asked_again(sent, room):
    sent.fails = BrokerUnavailable("down")
    Message.objects.create(room=room, text="lost")
    sent.fails = None
    Message.objects.create(room=room, text="sent")
    assert sent.texts() == ["sent 0 Yes"]


def test_failed_batch_does_not_stop_the_others(hooks, monkeypatch, caplog):
    def publish_all(events):
        steps.append(len(events))
        if len(steps) == 2:
            raise ValueError

    steps = []
    monkeypatch.setattr(broadcast._broker, "publish_all", publish_all)
    with transaction.atomic():
        for _ in range(300):
            Job.objects.create()
    assert steps == [100, 100, 100]
    (told,) = [each.getMessage() for each in caplog.records if each.name == "ds_broadcaster"]
    assert told.startswith("Some or all of 100 changes, from chat.Job ")


def test_error_of_one_object_does_not_stop_the_others(sent, hooks, caplog):
    hooks["created"] = lambda job: 1 / 0 if job.state == "bad" else job.render_broadcast()
    with transaction.atomic():
        for state in ("good", "bad", "better"):
            Job.objects.create(state=state)
    assert sent.texts() == ["good ABC", "better ABC"]
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert record.exc_info[0] is ZeroDivisionError


def test_error_while_fetching_is_logged(sent, room, caplog, monkeypatch):
    message = Message.objects.create(room=room, text="")
    sent.take()
    with transaction.atomic():
        Reply.objects.create(message=message, text="")
        other = Message.objects.create(room=room, text="other")
        manager = type("Broken", (), {"using": lambda self, alias: 1 / 0})()
        monkeypatch.setitem(vars(Reply._meta), "base_manager", manager)
    assert other.pk
    assert sent.texts() == ["other 0 Yes"]
    assert [each.exc_info[0] for each in caplog.records] == [ZeroDivisionError]


def test_rolled_back_change_is_dirty_again(sent):
    article = Article.objects.create(title="a")
    sent.take()
    with transaction.atomic():
        article.title = "b"
        article.save()
        transaction.set_rollback(True)
    article.save()
    assert sent.texts() == ["b"]
    article.save()
    assert sent.take() == []


def test_values_refreshed_in_a_transaction_may_be_rolled_back(sent):
    article = Article.objects.create(title="a")
    sent.take()
    with transaction.atomic():
        article.title = "b"
        article.save()
        article.refresh_from_db()
        transaction.set_rollback(True)
    article.save()
    assert sent.texts() == ["b"]


def test_committed_change_is_not_dirty_again(sent):
    article = Article.objects.create(title="a")
    sent.take()
    with transaction.atomic():
        article.title = "b"
        article.save()
        article.title = "a"
        article.save()
    assert sent.texts() == ["a"]
    article.save()
    assert sent.take() == []


# Everything together

KEYS = (1, 2, 3)
ACTS = st.sampled_from(["save", "delete", "touch"])
STEP = st.one_of(st.tuples(ACTS, st.sampled_from(KEYS), st.text("ab", min_size=1, max_size=3)))


def blocks(children):
    return st.tuples(st.sampled_from(["commit", "roll back"]), st.lists(children, max_size=6))


@settings(max_examples=150 * FACTOR, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.recursive(STEP, blocks, max_leaves=12), max_size=10))
def test_page_that_applies_the_events_shows_what_the_database_holds(sent, room, steps):
    Message.objects.all()._raw_delete("default")
    sent.take()
    page = Page()

    def run(step):
        if step[0] in ("commit", "roll back"):
            try:
                with transaction.atomic():
                    for each in step[1]:
                        run(each)
                    if step[0] == "roll back":
                        raise Failed
            except Failed:
                pass
            return
        act, key, text = step
        found = Message.objects.filter(pk=key).first()
        if act == "delete" and found:
            found.delete()
        elif act == "touch" and found:
            found.save()
        elif act == "save":
            message = found or Message(pk=key, room=room)
            message.text = text
            message.save()
            message.text = "never saved"

    for step in steps:
        run(step)
        page.apply(sent.take())
        rows = Message.objects.all()
        assert page.elements == {f"chat-message-{each.pk}": f"{each.text} 0 Yes" for each in rows}
