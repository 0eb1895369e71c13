"""Dirty fields: the updates that are broadcast of a model that names fields."""

import copy
import pickle
from pathlib import Path

import pytest
from django.core.files import File
from django.db import transaction
from django.db.models import Value
from django.db.models.functions import Concat, Upper

from ds_broadcaster import broadcast_saved, suppress_broadcasts
from tests.chat.models import Article

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def article(sent):
    Article.objects.create(title="a", tags=["x"])
    sent.take()
    return Article.objects.get()


def test_full_save_is_sent_if_a_named_field_changed(sent, article):
    article.views = 1
    article.save()
    assert sent.take() == []
    article.title = "b"
    article.save()
    assert sent.texts() == ["b"]
    article.save()
    assert sent.take() == []


def test_change_inside_a_mutable_value_is_sent(sent, article):
    article.tags.append("y")
    article.save()
    assert len(sent.take()) == 1
    article.save()
    assert sent.take() == []


@pytest.mark.parametrize(
    "update_fields, count",
    [(["title"], 1), (["views"], 0), (["room"], 1), (["room_id"], 1), (["views", "tags"], 1)],
)
def test_update_fields_alone_decide(sent, article, update_fields, count):
    article.save(update_fields=update_fields)
    assert len(sent.take()) == count


def test_change_left_out_of_a_save_is_sent_with_the_next(sent, article):
    article.title = "b"
    article.save(update_fields=["views"])
    assert sent.take() == []
    article.save()
    assert sent.texts() == ["b"]


def test_foreign_key_is_compared_by_its_value(sent, article, room):
    article.room = room
    article.save()
    assert len(sent.take()) == 1


def test_file_is_compared_by_its_name(sent, article):
    article.file.name = "a.txt"
    article.save()
    assert len(sent.take()) == 1
    article.save()
    assert sent.take() == []


def test_open_file_does_not_make_its_field_dirty(sent, article):
    article.title, article.file.name = "b", "a.txt"
    with Path(__file__).open() as file:
        article.file.file = File(file)
        article.save()
        assert sent.texts() == ["b"]
        article.save()
        assert sent.take() == []


def test_missing_file_equals_an_empty_name(sent, article):
    article.file = None
    article.save()
    assert sent.take() == []


@pytest.mark.parametrize("method", ["__eq__", "__deepcopy__"])
def test_value_that_cannot_be_compared_or_copied_counts_as_changed(sent, article, errors, method):
    def fail(self, other):
        raise TypeError

    article.tags = type("Tags", (list,), {method: fail, "__hash__": None})(["y"])
    article.save()
    article.save()
    assert sent.texts() == ["a", "a"]
    assert errors() == []


def test_same_expression_is_sent_each_time(sent, article):
    for _ in range(2):
        article.title = Concat("title", Value("!"))
        article.save()
    assert sent.texts() == ["a!", "a!!"]


def test_expression_saved_without_signals_is_sent_with_the_next_save(sent, article):
    article.title = Concat("title", Value("!"))
    Article.objects.bulk_update([article], ["title"])
    broadcast_saved(article)
    article.save()
    assert sent.texts() == ["a!", "a!!"]


def test_update_fields_that_name_all_fields_are_sent_unchanged(sent, article):
    article.save(update_fields=["title", "views", "tags", "room", "file"])
    article.save(update_fields=["title", "views", "tags", "room_id", "file"])
    assert sent.texts() == ["a", "a"]


@pytest.mark.parametrize("name", ["room", "room_id"])
def test_field_saved_by_either_name_is_clean_afterwards(sent, article, room, name):
    article.room = room
    article.save(update_fields=[name])
    assert sent.texts() == ["a"]
    article.save()
    assert sent.take() == []


def test_expression_is_sent(sent, article):
    article.title = Upper("title")
    article.save()
    assert sent.texts() == ["A"]


def test_deferred_fields_are_neither_loaded_nor_dirty(sent, article, django_assert_num_queries):
    with django_assert_num_queries(1):
        only = Article.objects.only("views").get()
    only.views = 5
    with django_assert_num_queries(1):
        only.save()
    without = Article.objects.defer("views").get()
    without.save()
    assert sent.take() == []
    without.title = "b"
    without.save()
    only.title = "c"
    only.save()
    assert sent.texts() == ["b", "c"]


def test_instance_constructed_with_a_key_counts_as_changed(sent, article):
    Article(pk=article.pk, title="a", tags=["x"]).save()
    assert len(sent.take()) == 1


def test_save_over_another_row_is_sent(sent, article):
    other = Article.objects.create(title="b")
    sent.take()
    article.pk = other.pk
    article.save()
    assert sent.texts() == ["a"]


def test_saves_are_compared_with_refreshed_values(sent, article):
    Article.objects.update(title="theirs")
    article.refresh_from_db()
    article.save()
    assert sent.take() == []
    article.title = "a"
    article.save()
    assert sent.texts() == ["a"]


def test_fields_to_refresh_may_be_an_iterator(sent, article):
    Article.objects.update(title="theirs")
    article.refresh_from_db(fields=iter(["title"]))
    article.save()
    assert sent.take() == []


def test_lazily_loaded_field_is_not_dirty_and_does_not_hide_others(sent, article):
    only = Article.objects.only("title").get()
    only.title = "b"
    assert only.tags == ["x"]
    only.save()
    assert sent.texts() == ["b"]
    only = Article.objects.only("title").get()
    assert only.tags == ["x"]
    only.save()
    assert sent.take() == []


def test_copies_of_an_instance_track_their_own_values(sent, article):
    twin = copy.copy(article)
    restored = pickle.loads(pickle.dumps(article))
    twin.title = "b"
    twin.save()
    sent.take()
    article.title = restored.title = "c"
    article.save()
    restored.save()
    assert sent.texts() == ["c", "c"]


def test_creation_and_deletion_are_always_sent(sent):
    article = Article.objects.create(title="")
    article.delete()
    assert [event.mode for event in sent.take()] == [None, "remove"]


def test_object_that_is_created_again_unchanged_is_sent(sent, article):
    key = article.pk
    article.delete()
    sent.take()
    article.pk = key
    article.save()
    assert sent.texts() == ["a"]


def test_suppressed_change_is_sent_after_a_rollback(sent, article):
    article.title = "b"
    with transaction.atomic():
        with suppress_broadcasts():
            article.save()
        transaction.set_rollback(True)
    article.save()
    assert sent.texts() == ["b"]
