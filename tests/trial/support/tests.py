"""What agents, submitters and their programs do at the support desk, and who sees what of it."""

import pytest
from allauth.account.models import EmailAddress
from django.contrib.auth.models import Permission, User
from django.test import Client
from helpdesk.models import FollowUp, Queue, Ticket
from rest_framework.authtoken.models import Token
from rest_framework.test import APIClient

from ds_broadcaster import broadcast
from ds_broadcaster.testing import assert_may_listen, assert_refused
from tests.trial.support.site import QueueChannel, TicketChannel

pytestmark = pytest.mark.django_db

TAB = "tab-of-the-agent"


@pytest.fixture
def queue():
    return Queue.objects.create(title="Printers", slug="printers", allow_public_submission=True)


@pytest.fixture
def agent(queue):
    """Make an agent who may work on the queue."""
    user = User.objects.create_user("agent", "agent@example.com", "secret", is_staff=True)
    EmailAddress.objects.create(user=user, email=user.email, verified=True, primary=True)
    user.user_permissions.add(Permission.objects.get(codename="queue_access_printers"))
    return user


@pytest.fixture
def newcomer():
    """Make an agent of other queues."""
    return User.objects.create_user("newcomer", "newcomer@example.com", "secret", is_staff=True)


@pytest.fixture
def submitter():
    user = User.objects.create_user("sue", "sue@example.com", "secret")
    EmailAddress.objects.create(user=user, email=user.email, verified=True, primary=True)
    return user


@pytest.fixture
def ticket(queue):
    return Ticket.objects.create(title="Out of ink", queue=queue, submitter_email="sue@example.com")


@pytest.fixture
def as_agent(agent):
    """Return a client of the API that has the agent's session."""
    client = APIClient(enforce_csrf_checks=True, headers={"Datastar-Request": "true"})
    client.force_login(agent)
    client.get("/accounts/email/")
    client.credentials(HTTP_X_CSRFTOKEN=client.cookies["csrftoken"].value)
    return client


# The forms of django-helpdesk


def test_a_visitors_ticket_reaches_the_queue(broadcasts, client, queue):
    client.post(
        "/helpdesk/tickets/submit/",
        {"queue": queue.pk, "title": "No ink", "body": "At all.", "submitter_email": "v@example.com", "priority": 3},
    )
    broadcasts.assert_sent(queue, mode="append", contains="No ink", count=1)


def test_an_answer_reaches_the_ticket_and_its_row(client, agent, ticket, broadcasts):
    client.force_login(agent)
    answer = {"comment": "New ink.", "new_status": Ticket.RESOLVED_STATUS, "public": 1, "owner": agent.pk}
    same = {"title": ticket.title, "queue": ticket.queue.pk, "priority": ticket.priority}
    client.post(f"/helpdesk/tickets/{ticket.pk}/update/", {**same, **answer})
    broadcasts.assert_sent(ticket.queue, target=ticket, contains="Out of ink (Resolved, agent)", count=1)
    broadcasts.assert_sent(ticket, target=ticket, contains="Out of ink: Resolved", count=1)
    broadcasts.assert_sent(ticket, verb="template", mode="append", target="#followups", count=1)


def test_a_ticket_moves_from_queue_to_queue(queue, ticket, broadcasts):
    other = Queue.objects.create(title="Phones", slug="phones")
    ticket.queue = other
    ticket.save()
    broadcasts.assert_sent(queue, verb="remove", target=ticket)
    broadcasts.assert_sent(other, mode="append", target="#tickets", contains="Out of ink")


def test_an_assigned_agents_new_name_is_in_the_row(broadcasts, agent, ticket):
    Ticket.objects.update(assigned_to=agent)
    agent.username = "ada"
    agent.save()
    broadcasts.assert_sent(ticket.queue, contains="(Open, ada)", count=1)


# The API


def test_the_api_creates_updates_and_deletes_with_a_session(broadcasts, as_agent, queue):
    said = {"queue": queue.pk, "title": "No ink", "description": "At all.", "priority": 3}
    created = as_agent.post("/helpdesk/api/tickets/", said)
    assert created.status_code == 201, created.content
    ticket = Ticket.objects.get(pk=created.json()["id"])
    broadcasts.assert_sent(queue, mode="append", target="#tickets", contains="No ink", count=1)
    broadcasts.clear()
    as_agent.patch(f"/helpdesk/api/tickets/{ticket.pk}/", {"title": "No toner"})
    broadcasts.assert_sent(queue, target=ticket, contains="No toner", count=1)
    broadcasts.clear()
    as_agent.delete(f"/helpdesk/api/tickets/{ticket.pk}/")
    broadcasts.assert_sent(queue, verb="remove", target=ticket, count=1)


def test_the_api_creates_with_a_token(broadcasts, agent, queue):
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Token {Token.objects.create(user=agent)}")
    said = {"queue": queue.pk, "title": "No ink", "description": "At all.", "priority": 3}
    assert client.post("/helpdesk/api/tickets/", said, format="json").status_code == 201
    broadcasts.assert_sent(queue, contains="No ink", count=1)


@pytest.mark.parametrize("kind", ["json", "multipart"])
def test_what_the_api_changes_for_a_tab_does_not_return_to_it(broadcasts, as_agent, ticket, kind):
    as_agent.patch(f"/helpdesk/api/tickets/{ticket.pk}/", {"title": "No ink", "broadcastTab": TAB}, format=kind)
    [sent] = broadcasts.assert_sent(ticket.queue, contains="No ink")
    assert sent.exclude == TAB


@pytest.mark.parametrize("kind", ["json", "multipart"])
def test_a_view_of_rest_framework_excludes_its_requests_tab(broadcasts, as_agent, ticket, kind):
    as_agent.post(f"/api/tickets/{ticket.pk}/typing/", {"words": 7, "broadcastTab": TAB}, format=kind)
    [sent] = broadcasts.assert_sent(ticket, signals={"typing": "agent"})
    assert sent.transient
    assert sent.exclude == TAB


def test_a_stream_with_a_token(open_stream, agent, ticket):
    token = Token.objects.create(user=agent)
    headers = {"Authorization": f"Token {token}"}
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Token {token}")
    assert_may_listen(None, "ticket-stream", pk=ticket.pk, client=client)
    stream = open_stream("ticket-stream", pk=ticket.pk, headers=headers)
    ticket.title = "No ink"
    ticket.save()
    assert stream.next().element.text == "No ink: Open"
    token.delete()
    broadcast.recheck(ticket)
    stream.assert_closed()
    assert "it was answered with 403" in stream.reason
    assert_refused(None, "ticket-stream", pk=ticket.pk, headers=headers)


# Who may listen


def test_agents_of_the_queue_may_listen_to_it(queue, agent, newcomer, submitter):
    assert_may_listen(agent, QueueChannel, slug="printers")
    assert_refused(newcomer, QueueChannel, slug="printers")
    assert_refused(submitter, QueueChannel, slug="printers")
    assert_refused(None, QueueChannel, slug="printers")
    assert_refused(agent, QueueChannel, slug="phones", status=404)


def test_the_submitter_may_listen_to_their_ticket_and_the_assigned_agent(ticket, agent, newcomer, submitter):
    assert_may_listen(agent, TicketChannel, pk=ticket.pk)
    assert_may_listen(submitter, TicketChannel, pk=ticket.pk)
    assert_refused(newcomer, TicketChannel, pk=ticket.pk)
    ticket.assigned_to = newcomer
    ticket.save()
    assert_may_listen(newcomer, TicketChannel, pk=ticket.pk)


def test_an_address_that_is_not_verified_opens_nothing(ticket, submitter):
    EmailAddress.objects.update(verified=False)
    assert_refused(submitter, TicketChannel, pk=ticket.pk)


def test_an_agent_who_leaves_the_queue_loses_its_stream(open_stream, broadcaster_clock, queue, agent):
    stream = open_stream(QueueChannel, slug="printers", user=agent)
    agent.user_permissions.clear()
    stream.assert_open()
    broadcaster_clock.advance(301)
    stream.assert_closed()


def test_submitters_see_public_answers_only(open_stream, ticket, agent, submitter):
    theirs = open_stream(TicketChannel, pk=ticket.pk, user=agent)
    hers = open_stream(TicketChannel, pk=ticket.pk, user=submitter)
    FollowUp.objects.create(ticket=ticket, user=agent, comment="She is kind.", public=False)
    assert "She is kind." in [each.element.text for each in theirs][-1]
    assert not [each for each in hers if "kind" in each.html]
    FollowUp.objects.create(ticket=ticket, user=agent, comment="We have ink.", public=True)
    assert "We have ink." in [each.element.text for each in hers][-1]


# What people see


def test_an_agent_and_the_submitter_at_a_ticket(live_page, agent, submitter, ticket):
    theirs, hers = (live_page(f"/tickets/{ticket.pk}/", user=user) for user in (agent, submitter))
    same = {"title": ticket.title, "queue": ticket.queue.pk, "priority": ticket.priority, "new_status": ticket.status}
    update = f"/helpdesk/tickets/{ticket.pk}/update/"
    theirs.post(update, {**same, "comment": "She is kind."})
    theirs.post(update, {**same, "comment": "We have ink.", "public": 1, "new_status": Ticket.RESOLVED_STATUS})
    theirs.settle()
    hers.settle()
    assert theirs.select_one("h1").text == hers.select_one("h1").text == "Out of ink: Resolved"
    assert [each.text for each in theirs.select("#followups li")] == ["agent: She is kind.", "agent: We have ink."]
    assert [each.text for each in hers.select("#followups li")] == ["agent: We have ink."]


def test_the_page_of_helpdesk_itself_is_live_with_one_tag(live_page, agent, ticket):
    one, other = (live_page(f"/helpdesk/tickets/{ticket.pk}/", user=agent) for _ in range(2))
    form = one.select_one("form[action$='/update/']")
    answer = {"comment": "New ink.", "new_status": Ticket.RESOLVED_STATUS, "public": 1}
    one.post(form.attrs["action"], {**form.fields, **answer})
    other.settle()
    assert other.state == "live"
    assert "New ink." in other.select_one("body").text
    assert "Resolved" in other.select_one("body").text


def test_who_types_is_told_to_the_others(live_page, agent, submitter, ticket):
    theirs, hers = (live_page(f"/tickets/{ticket.pk}/", user=user) for user in (agent, submitter))
    theirs.signals["words"] = 7
    assert theirs.post(f"/api/tickets/{ticket.pk}/typing/").status_code == 200
    theirs.settle()
    hers.settle()
    assert hers.signals["typing"] == "agent"
    assert "typing" not in theirs.signals


def test_a_ticket_leaves_one_queues_page_for_the_others(live_page, agent, queue, ticket):
    phones = Queue.objects.create(title="Phones", slug="phones")
    agent.user_permissions.add(Permission.objects.get(codename="queue_access_phones"))
    here, there = (live_page(f"/queues/{each.slug}/", user=agent) for each in (queue, phones))
    ticket.queue = phones
    ticket.save()
    here.settle()
    there.settle()
    assert here.select("#tickets li") == []
    assert [each.text for each in there.select("#tickets li")] == ["Out of ink (Open)"]


def test_a_logout_in_one_tab_ends_the_streams_of_the_other(live_page, submitter, ticket):
    client = log_in(submitter)
    one, other = (live_page(f"/tickets/{ticket.pk}/", client=client) for _ in range(2))
    one.post("/accounts/logout/", {})
    other.settle()
    assert other.state == "closed"
    one.follow()
    assert one.url == "/accounts/login/"


# The accounts of django-allauth


def log_in(user):
    client = Client(enforce_csrf_checks=True)
    client.get("/accounts/login/")
    token = client.cookies["csrftoken"].value
    response = client.post(
        "/accounts/login/", {"login": user.username, "password": "secret", "csrfmiddlewaretoken": token}
    )
    assert response.status_code == 302, response.content
    return client


def post(client, url, data=()):
    return client.post(url, {**dict(data), "csrfmiddlewaretoken": client.cookies["csrftoken"].value})


def test_a_login_opens_streams_and_the_logout_ends_them(open_stream, ticket, submitter):
    client = log_in(submitter)
    stream = open_stream(TicketChannel, pk=ticket.pk, client=client)
    post(client, "/accounts/logout/")
    stream.assert_closed()
    assert "has_permission() returned False" in stream.reason
    assert_refused(None, TicketChannel, pk=ticket.pk, client=client)


def test_a_logout_leaves_the_streams_of_other_browsers(open_stream, ticket, submitter):
    here, there = log_in(submitter), log_in(submitter)
    stream = open_stream(TicketChannel, pk=ticket.pk, client=there)
    post(here, "/accounts/logout/")
    stream.assert_open()


def test_a_new_password_ends_the_streams_of_other_browsers(open_stream, ticket, submitter):
    here, there = log_in(submitter), log_in(submitter)
    mine = open_stream(TicketChannel, pk=ticket.pk, client=here)
    other = open_stream(TicketChannel, pk=ticket.pk, client=there)
    new = {"oldpassword": "secret", "password1": "horse-staple", "password2": "horse-staple"}
    assert post(here, "/accounts/password/change/", new).status_code == 302
    other.assert_closed()
    # Its page comes back with the session's new cookie.
    mine.assert_closed()
    assert_may_listen(None, TicketChannel, pk=ticket.pk, client=here)
    assert_refused(None, TicketChannel, pk=ticket.pk, client=there)


def test_a_page_that_needs_a_verified_address(client, ticket, submitter):
    assert client.get(f"/tickets/{ticket.pk}/").headers["Location"].startswith("/accounts/login/")
    client.force_login(submitter)
    assert "Out of ink" in client.get(f"/tickets/{ticket.pk}/").content.decode()
