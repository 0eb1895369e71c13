"""suppress_broadcasts: blocks and functions whose saves are not broadcast."""

import asyncio
import threading

import pytest
from django.db import connection, transaction

from ds_broadcaster import broadcast_saved, suppress_broadcasts
from tests.chat.models import Article, Job, Letter, LoudMessage, Message

pytestmark = pytest.mark.django_db(transaction=True)


def test_block_suppresses_all_models(sent, room):
    with suppress_broadcasts():
        message = Message.objects.create(room=room, text="a")
        Article.objects.create(title="a")
        broadcast_saved(message)
        message.delete()
    assert sent.take() == []
    Message.objects.create(room=room, text="b")
    assert sent.texts() == ["b 0 Yes"]


def test_block_suppresses_models_and_their_subclasses(sent, room):
    with suppress_broadcasts(Message, Job):
        Message.objects.create(room=room, text="")
        LoudMessage.objects.create(room=room, text="")
        Letter.objects.create(room=room, text="")
        Job.objects.create()
        Article.objects.create(title="heard")
    assert sent.texts() == ["heard"]


def test_blocks_nest(sent, room):
    with suppress_broadcasts(Message):
        with suppress_broadcasts(Article):
            Message.objects.create(room=room, text="a")
            Article.objects.create(title="a")
        Article.objects.create(title="b")
        Message.objects.create(room=room, text="b")
    Message.objects.create(room=room, text="c")
    assert sent.texts() == ["b", "c 0 Yes"]


def test_block_ends_with_an_error(sent, room):
    with pytest.raises(ZeroDivisionError), suppress_broadcasts():
        1 / 0  # noqa: B018
    Message.objects.create(room=room, text="a")
    assert len(sent.take()) == 1


def test_time_of_the_save_decides_not_that_of_the_commit(sent, room):
    with transaction.atomic():
        with suppress_broadcasts():
            Message.objects.create(room=room, text="silent")
        Message.objects.create(room=room, text="heard")
    assert sent.texts() == ["heard 0 Yes"]
    with suppress_broadcasts(), transaction.atomic():
        Message.objects.create(room=room, text="silent")
    assert sent.take() == []


def test_decorator_suppresses_each_call(sent, room):
    @suppress_broadcasts(Message)
    def create(text, again=False):
        """Create it."""
        if again:
            create(text)
        return Message.objects.create(room=room, text=text)

    assert create("a", again=True).text == "a"
    assert create.__doc__ == "Create it."
    assert sent.take() == []


async def test_decorator_suppresses_a_coroutine(sent):
    @suppress_broadcasts()
    async def create():
        return await Article.objects.acreate(title="silent")

    assert (await create()).title == "silent"
    assert sent.take() == []


def test_block_of_one_task_does_not_suppress_another(sent):
    entered, created = asyncio.Event(), asyncio.Event()

    async def silent():
        with suppress_broadcasts():
            entered.set()
            await created.wait()
            await Article.objects.acreate(title="silent")

    async def loud():
        await entered.wait()
        await Article.objects.acreate(title="loud")
        created.set()

    async def both():
        await asyncio.gather(silent(), loud())

    asyncio.run(both())
    assert sent.texts() == ["loud"]


def test_block_does_not_suppress_other_threads(sent):
    def save():
        Article.objects.create(title="loud")
        connection.close()

    with suppress_broadcasts():
        thread = threading.Thread(target=save)
        thread.start()
        thread.join()
    assert sent.texts() == ["loud"]


def test_decorator_without_parentheses_says_what_to_write():
    with pytest.raises(TypeError, match=r"as in suppress_broadcasts\(\), not <function"):

        @suppress_broadcasts
        def function():
            pass


def test_suppressed_change_is_not_dirty_later(sent):
    article = Article.objects.create(title="a")
    sent.take()
    article.title = "b"
    with suppress_broadcasts():
        article.save()
    article.save()
    assert sent.take() == []
