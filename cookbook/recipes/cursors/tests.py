import pytest


def point(page, x, y):
    return page.post("/move/", payload={"x": x, "y": y})


def test_cursor_moves_on_the_pages_of_all(live_page, broadcaster_clock, ada, mio, luis):
    page, other = live_page("/", user=ada), live_page("/", user=mio)
    point(page, 0.1, 0.3)
    point(page, 0.5, 0.25)
    other.settle()
    assert other.signals[f"_cursor{ada.pk}"] == {"x": 0.5, "y": 0.25}
    late = live_page("/", user=luis)
    assert not late.signals[f"_cursor{ada.pk}"]
    for each in (page, other, late):
        each.settle()
        assert [cursor.text for cursor in each.select(".cursor")] == ["Ada", "Mio", "Luis"]
    page.close()
    broadcaster_clock.advance(3)
    other.settle()
    assert [cursor.text for cursor in other.select(".cursor")] == ["Mio", "Luis"]


def test_only_the_newest_position_of_each_person_waits(live_page, broadcasts, ada):
    point(live_page("/", user=ada), 0.1, 0.3)
    [sent] = broadcasts.assert_sent("board", verb="signals")
    assert sent.transient
    assert sent.key == f"cursor{ada.pk}"


@pytest.mark.parametrize("x", [-0.1, 1.1, "left", None])
def test_position_that_is_none_is_refused(client, broadcasts, ada, x):
    client.force_login(ada)
    answer = client.post("/move/", {"x": x, "y": 0}, content_type="application/json")
    assert answer.status_code == 422
    broadcasts.assert_nothing_sent()
