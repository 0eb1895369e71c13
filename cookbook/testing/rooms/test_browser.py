from django.test import Client
from playwright.sync_api import expect

from ds_broadcaster.testing import wait_for_live


def test_the_field_is_empty_after_a_message(live_asgi_server, page, room, ann):
    log_in(page, live_asgi_server, ann)
    page.goto(live_asgi_server + f"/rooms/{room.pk}/")
    wait_for_live(page)
    page.get_by_label("Message").fill("The beans are up")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#messages li")).to_have_text(["ann The beans are up"])
    expect(page.get_by_label("Message")).to_have_value("")


def log_in(page, server, user):
    client = Client()
    client.force_login(user)
    session = client.cookies["sessionid"].value
    page.context.add_cookies([{"name": "sessionid", "value": session, "url": str(server)}])
