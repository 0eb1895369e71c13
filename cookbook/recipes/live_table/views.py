from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, render
from django.template.loader import render_to_string
from django.views.decorators.http import require_GET, require_POST

from ds_broadcaster import BroadcastChannelView, broadcast, broadcast_saved

from .models import Label, Ticket
from .tables import table


# section: channel
class TicketChannel(BroadcastChannelView):
    url_path = "tickets/"

    def channel_name(self):
        return ["tickets", "import"]

    def render_snapshot(self):
        return render_to_string("live_table/_table.html", table(self.request.GET))


# end: channel


@require_GET
@login_required
def tickets(request):
    return render(request, "live_table/tickets.html", table(request.GET))


def done():
    """Answer an action whose effect reaches every page through its stream."""
    return HttpResponse(status=204)


@require_POST
@login_required
def add(request):
    if title := request.POST["title"].strip():
        Ticket.objects.create(title=title[:100])
    return done()


@require_POST
@login_required
def rename(request, pk):
    ticket = get_object_or_404(Ticket, pk=pk)
    ticket.title = request.POST["title"].strip()[:100] or ticket.title
    ticket.save()
    return done()


@require_POST
@login_required
def vote(request, pk):
    ticket = get_object_or_404(Ticket, pk=pk)
    ticket.votes += 1
    ticket.save()
    return done()


@require_POST
@login_required
def label(request, pk, name):
    """Put a label on a ticket, or take it off."""
    ticket = get_object_or_404(Ticket, pk=pk)
    if name in ticket.label_names:
        ticket.labels.remove(Label.objects.get(name=name))
    else:
        ticket.labels.add(Label.objects.get_or_create(name=name)[0])
    return done()


@require_POST
@login_required
def delete(request, pk):
    get_object_or_404(Ticket, pk=pk).delete()
    return done()


@require_POST
@login_required
def close_all(request):
    """Close all tickets of the table, on each of its pages."""
    keys = list(table(request.GET)["tickets"].filter(closed=False).values_list("pk", flat=True))
    Ticket.objects.filter(pk__in=keys).update(closed=True)
    broadcast_saved(Ticket.objects.filter(pk__in=keys))
    return done()


@require_POST
@login_required
def import_tickets(request):
    """Make 500 tickets, ten at a time, and show how many there are."""
    for number in range(1, 501):
        broadcast.signals("import", {"_imported": number})
        if number % 10 == 0:
            titles = [f"Imported {each:03}" for each in range(number - 9, number + 1)]
            broadcast_saved(Ticket.objects.bulk_create([Ticket(title=title) for title in titles]), created=True)
    return done()
