import pytest

from .models import Order

CHANGELIST = "/admin/live_admin/order/"


@pytest.fixture
def orders(db):
    return [Order.objects.create(customer=name, total=10) for name in ("Fern & Co", "Moss", "Fern Ltd")]


def customers(page):
    page.settle()
    return [cell.text for cell in page.select("#result_list .field-customer")]


def test_changelist_is_live_with_its_filters(live_page, ada, mio, orders):
    page = live_page(f"{CHANGELIST}?status__exact=open&q=fern&o=2", user=ada)
    assert customers(page) == ["Fern & Co", "Fern Ltd"]
    other = live_page(f"{CHANGELIST}{orders[0].pk}/change/", user=mio)
    other.post(f"{CHANGELIST}add/", {"customer": "Alfern", "total": "10", "status": "open"})
    assert customers(page) == ["Alfern", "Fern & Co", "Fern Ltd"]
    other.post(f"{CHANGELIST}{orders[0].pk}/change/", {"customer": "Fern & Co", "total": "10", "status": "paid"})
    assert customers(page) == ["Alfern", "Fern Ltd"]
    assert "2 results (4 total)" in page.select_one("#toolbar").text


def test_transaction_sends_one_refresh(broadcasts, orders):
    broadcasts.clear()
    Order.objects.all().delete()
    broadcasts.assert_sent("orders", verb="refresh", count=1)
