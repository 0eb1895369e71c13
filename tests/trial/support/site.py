"""A support desk: its queues and tickets, live for those who may see them by the rules of django-helpdesk."""

from allauth.account.decorators import verified_email_required
from allauth.account.models import EmailAddress
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.shortcuts import get_object_or_404, render
from django.template.loader import render_to_string
from django.urls import include, path
from helpdesk.models import Queue, Ticket
from helpdesk.user import HelpdeskUser
from rest_framework.permissions import IsAdminUser
from rest_framework.response import Response
from rest_framework.views import APIView

from ds_broadcaster import BroadcastChannelView, broadcast


def is_agent(user, ticket):
    return HelpdeskUser(user).can_access_ticket(ticket)


def is_submitter(user, ticket):
    """Tell whether a user has shown that the ticket's address is theirs."""
    addresses = EmailAddress.objects.filter(user=user, verified=True) if user.is_authenticated else ()
    return ticket.submitter_email in {each.email for each in addresses}


def contents_of(ticket, agent):
    return {
        "ticket": ticket,
        "followups": ticket.followup_set.filter(public__in=[True, not agent]).order_by("pk"),
        "audience": agent,
    }


class QueueChannel(BroadcastChannelView):
    url_path = "queues/<slug:slug>/"

    def get_queue(self):
        return get_object_or_404(Queue, slug=self.kwargs["slug"])

    def channel_name(self):
        return self.get_queue()

    def has_permission(self):
        return HelpdeskUser(self.request.user).can_access_queue(self.get_queue())

    def render_snapshot(self):
        return render_to_string("support/_tickets.html", {"tickets": self.get_queue().ticket_set.order_by("pk")})


class TicketChannel(BroadcastChannelView):
    url_path = "tickets/<int:pk>/"

    def get_ticket(self):
        return get_object_or_404(Ticket, pk=self.kwargs["pk"])

    def channel_name(self):
        return self.get_ticket()

    def has_permission(self):
        user, ticket = self.request.user, self.get_ticket()
        return is_agent(user, ticket) or is_submitter(user, ticket)

    def audience(self):
        return is_agent(self.request.user, self.get_ticket())

    def render_snapshot(self):
        return render_to_string("support/_contents.html", contents_of(self.get_ticket(), self.audience_key))


@login_required
def show_queue(request, slug):
    queue = get_object_or_404(Queue, slug=slug)
    if not HelpdeskUser(request.user).can_access_queue(queue):
        raise PermissionDenied
    return render(request, "support/queue.html", {"queue": queue, "tickets": queue.ticket_set.order_by("pk")})


@verified_email_required
def show_ticket(request, pk):
    ticket = get_object_or_404(Ticket, pk=pk)
    agent = is_agent(request.user, ticket)
    if not (agent or is_submitter(request.user, ticket)):
        raise PermissionDenied
    return render(request, "support/ticket.html", contents_of(ticket, agent))


class TicketAPIView(APIView):
    permission_classes = (IsAdminUser,)

    def get_ticket(self):
        return get_object_or_404(HelpdeskUser(self.request.user).accessible_tickets(), pk=self.kwargs["pk"])


class TicketStream(TicketAPIView):
    def get(self, request, pk):
        return broadcast.connect(self.get_ticket(), request)


class Typing(TicketAPIView):
    def post(self, request, pk):
        signals = {"typing": request.user.username, "words": request.data["words"]}
        broadcast.signals(self.get_ticket(), signals, exclude=request, transient=True)
        return Response({"ticket": pk})


urlpatterns = [
    path("accounts/", include("allauth.urls")),
    path("helpdesk/", include("helpdesk.urls")),
    path("api/tickets/<int:pk>/stream/", TicketStream.as_view(), name="ticket-stream"),
    path("api/tickets/<int:pk>/typing/", Typing.as_view(), name="ticket-typing"),
    path("queues/<slug:slug>/", show_queue, name="queue"),
    path("tickets/<int:pk>/", show_ticket, name="ticket"),
    path("events/", include("ds_broadcaster.urls")),
]
