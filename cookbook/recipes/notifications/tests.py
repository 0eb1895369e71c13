import pytest

from ds_broadcaster import broadcast_saved


@pytest.fixture
def tea(mio):
    return mio.notifications.create(text="Tea is ready")


def texts(page):
    page.settle()
    return [each.text for each in page.select("#notifications .wide")]


def test_notification_reaches_one_user_on_every_page_and_no_other(live_page, ada, mio):
    sender, writing, reading = live_page("/", user=ada), live_page("/", user=mio), live_page("/reading/", user=mio)
    for text in ("Tea is ready", "It gets cold"):
        assert sender.post("/notify/", {"user": mio.pk, "text": text}).status_code == 204
    for page in (writing, reading):
        assert texts(page) == ["Ada: It gets cold", "Ada: Tea is ready"]
        assert page.signals["unread"] == 2
    assert texts(sender) == []
    assert sender.signals["unread"] == 0


def test_what_is_read_on_one_page_is_read_on_the_others(live_page, mio, tea):
    mio.notifications.create(text="It gets cold")
    writing, reading = live_page("/", user=mio), live_page("/reading/", user=mio)
    reading.post(f"/read/{tea.pk}/")
    for page in (writing, reading):
        page.settle()
        assert page.signals["unread"] == 1
        assert [each.text for each in page.select("#notifications .unread .wide")] == ["It gets cold"]
    writing.post("/read/")
    for page in (writing, reading):
        page.settle()
        assert page.signals["unread"] == 0
        assert page.select("#notifications .unread") == []


def test_notification_is_sent_with_the_number_of_unread_ones(broadcasts, mio):
    notification = mio.notifications.create(text="Tea is ready")
    broadcasts.assert_sent(mio, mode="prepend", target="#notifications", contains="Tea is ready", count=1)
    broadcasts.assert_sent(mio, signals={"unread": 1}, count=1)
    notification.read = True
    broadcast_saved([notification])
    [sent] = broadcasts.assert_sent(mio, mode="outer", target=notification)
    assert "class" not in sent.element.attrs


def test_nobody_marks_the_notifications_of_another(client, broadcasts, ada, tea):
    client.force_login(ada)
    assert client.post(f"/read/{tea.pk}/").status_code == 404
    broadcasts.assert_nothing_sent(ada)
