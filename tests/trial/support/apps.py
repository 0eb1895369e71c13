from django.apps import AppConfig


class SupportConfig(AppConfig):
    name = "tests.trial.support"

    def ready(self):
        from helpdesk.models import FollowUp, Ticket

        from ds_broadcaster import bind_broadcasts

        bind_broadcasts(
            Ticket,
            channel=lambda ticket: ticket.queue,
            template_name="support/_row.html",
            target="#tickets",
            moves={"queue"},
            touches={"assigned_to": "assigned_to"},
            exclude_sender=True,
        )
        bind_broadcasts(Ticket, name="page", channel=lambda ticket: ticket, template_name="support/_ticket.html")
        bind_broadcasts(
            FollowUp,
            channel=lambda followup: followup.ticket,
            template_name="support/_followup.html",
            target="#followups",
            audience=True,
        )
        # The page of django-helpdesk itself, which shows much more of a ticket, fetches itself.
        bind_broadcasts(Ticket, name="helpdesk's page", channel=page_of, refreshes=True)
        bind_broadcasts(
            FollowUp, name="helpdesk's page", channel=lambda followup: page_of(followup.ticket), refreshes=True
        )


def page_of(ticket):
    return f"page-of-{ticket.ticket_for_url}"
