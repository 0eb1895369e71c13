import pytest

from ds_broadcaster.testing import assert_may_listen, assert_refused

from .models import Task
from .views import TaskChannel


@pytest.fixture
def ferns(db):
    return Task.objects.create(text="Ferns")


@pytest.fixture
def bread(ferns):
    return Task.objects.create(text="Bread")


def shown(page):
    """Return the text of each task on a page, and whether it is done."""
    page.settle()
    return [
        (task.select_one("form input").attrs["value"], "done" in task.attrs["class"]) for task in page.select(".task")
    ]


def test_list_changes_in_every_window(live_page, ada, mio, ferns, bread):
    pages = [live_page("/", user=user) for user in (ada, mio)]
    for action, data, expected in (
        ("/add/", {"text": "Heron <b>"}, [("Ferns", False), ("Bread", False), ("Heron <b>", False)]),
        (f"/{bread.pk}/toggle/", {}, [("Ferns", False), ("Bread", True), ("Heron <b>", False)]),
        (f"/{ferns.pk}/rename/", {"text": "Roses"}, [("Roses", False), ("Bread", True), ("Heron <b>", False)]),
        (f"/{bread.pk}/delete/", {}, [("Roses", False), ("Heron <b>", False)]),
        ("/all-done/", {}, [("Roses", True), ("Heron <b>", True)]),
    ):
        assert pages[0].post(action, data).status_code == 204
        assert [shown(page) for page in pages] == [expected, expected]


def test_only_what_was_open_is_sent_as_done(client, broadcasts, ada, ferns, bread):
    Task.objects.filter(pk=ferns.pk).update(done=True)
    broadcasts.clear()
    client.force_login(ada)
    client.post("/all-done/")
    [sent] = broadcasts
    assert sent.element.id == f"live_list-task-{bread.pk}"


def test_page_that_connects_late_gets_each_change_once(open_stream, ada, ferns, bread):
    cursor = open_stream(TaskChannel, user=ada).cursor  # that of a page which is rendered now
    Task.objects.create(text="Tea")
    ferns.delete()
    stream = open_stream(TaskChannel, user=ada, cursor=cursor)
    stream.next(mode="append", target="#tasks", contains="Tea")
    stream.next(verb="remove", target="#live_list-task-1")
    stream.assert_nothing()


def test_page_of_before_a_restart_gets_the_whole_list(open_stream, ada, ferns, bread):
    stream = open_stream(TaskChannel, user=ada, cursor="of-before-1")
    snapshot = stream.next(target="#tasks")
    assert len(snapshot.element.select(".task")) == 2
    stream.assert_nothing()


def test_list_is_for_all_who_are_logged_in(ada):
    assert_may_listen(ada, TaskChannel)
    assert_refused(None, TaskChannel)
