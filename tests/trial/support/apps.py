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
