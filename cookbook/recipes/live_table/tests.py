import pytest

from .models import Label, Ticket
from .views import TicketChannel


@pytest.fixture
def tickets(db):
    return {title: Ticket.objects.create(title=title) for title in ("Cold", "Hot", "Dry")}


def titles(page):
    page.settle()
    return [field.attrs["value"] for field in page.select("#tickets li form input")]


def test_table_is_right_for_each_of_three_viewers(live_page, ada, mio, luis, tickets):
    by_title = live_page("/?sort=title", user=ada)
    bugs = live_page("/?label=bug", user=mio)
    open_ones = live_page("/?state=open&sort=votes&title=o", user=luis)

    def shown():
        return titles(by_title), titles(bugs), titles(open_ones)

    cold, hot, dry = (tickets[title].pk for title in ("Cold", "Hot", "Dry"))
    assert shown() == (["Cold", "Dry", "Hot"], [], ["Cold", "Hot"])
    by_title.post(f"/{hot}/label/bug/")
    by_title.post(f"/{cold}/label/bug/")
    assert shown() == (["Cold", "Dry", "Hot"], ["Hot", "Cold"], ["Cold", "Hot"])
    by_title.post(f"/{dry}/rename/", {"title": "A soggy floor"})
    open_ones.post(f"/{hot}/vote/")
    assert shown() == (["A soggy floor", "Cold", "Hot"], ["Hot", "Cold"], ["Hot", "Cold", "A soggy floor"])
    by_title.post(f"/{cold}/delete/")
    assert bugs.post("/close/?label=bug").status_code == 204
    assert shown() == (["A soggy floor", "Hot"], ["Hot"], ["A soggy floor"])
    assert len(bugs.select("#tickets li.closed")) == 1


def test_who_was_away_gets_one_table_and_one_step_of_the_import(live_page, open_stream, ada, mio, tickets):
    page, away = live_page("/", user=ada), open_stream(TicketChannel, user=mio)
    away.close()
    assert page.post("/import/").status_code == 204
    page.settle()
    assert page.select_one("#tickets p").text == "503 tickets, page 1 of 51"
    assert page.signals["_imported"] == 500
    back = open_stream(f"{away.url}?page=2", user=mio, cursor=away.cursor)
    step, table = sorted(back, key=lambda event: event.verb, reverse=True)
    assert step.signals == {"_imported": 500}
    assert table.element.select_one("p").text == "503 tickets, page 2 of 51"


def test_one_refresh_is_sent_for_ten_tickets(broadcasts, db):
    Ticket.objects.bulk_create([Ticket(title=str(number)) for number in range(10)])
    broadcasts.assert_nothing_sent()
    Ticket.objects.create(title="Cold")
    broadcasts.assert_sent("tickets", verb="refresh", count=1)


def test_table_takes_three_queries_whatever_is_in_it(broadcasts, open_stream, ada, tickets):
    for ticket in tickets.values():
        ticket.labels.add(Label.objects.get_or_create(name="bug")[0])
    stream = open_stream(TicketChannel, user=ada, cursor="of-before-1")
    stream.next(target="#tickets")
    broadcasts.assert_max_queries(3)
