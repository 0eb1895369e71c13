"""The table that a query string asks for: what is in it, in which order, and which page."""

from urllib.parse import urlencode

from django.core.paginator import Paginator

from .models import Ticket

LABELS = ["bug", "idea", "question"]
STATES = {"open": False, "closed": True}
SORTS = {"new": ["-pk"], "title": ["title", "pk"], "votes": ["-votes", "pk"]}


def table(query):
    """Return the context of the templates."""
    wanted = {name: value for name in ("title", "label", "state", "sort") if (value := query.get(name))}
    found = Ticket.objects.order_by(*SORTS.get(wanted.get("sort"), SORTS["new"]))
    if "title" in wanted:
        found = found.filter(title__icontains=wanted["title"])
    if "label" in wanted:
        found = found.filter(labels__name=wanted["label"])
    if wanted.get("state") in STATES:
        found = found.filter(closed=STATES[wanted["state"]])
    return {
        "tickets": found,
        "page": Paginator(found.prefetch_related("labels"), 10).get_page(query.get("page")),
        "choices": {"label": LABELS, "state": STATES, "sort": SORTS},
        "wanted": wanted,
        "filters": urlencode(wanted),  # without what the client adds to a stream's query
    }
