import os
import socket
from datetime import timedelta

import uvicorn
from django.contrib.auth import get_user_model
from django.core.management import BaseCommand, CommandError, call_command
from django.utils import timezone

from ds_broadcaster import suppress_broadcasts
from rooms.models import Room
from rooms.people import PEOPLE, ROOMS


class Command(BaseCommand):
    help = "Prepare the database if necessary, and serve the demo. Set HOST and PORT to choose the address."

    def handle(self, *args, **options):
        call_command("migrate", verbosity=0)
        with suppress_broadcasts():  # no clients are connected yet
            seed()
        host, port = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", 8000))
        try:
            listener = socket.create_server((host, port))
        except OSError as error:
            problem = os.strerror(error.errno)
            raise CommandError(f"Port {port} of {host} cannot be used: {problem}. Set PORT to another one.") from None
        opened = f"The room is open at http://{host}:{port}/  (visit it in two windows; Ctrl-C closes it)"
        server = Server(
            uvicorn.Config("project.asgi:application", log_level="warning", timeout_graceful_shutdown=1),
            on_start=lambda: self.stdout.write(opened),
        )
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            self.stdout.write("Closed.")


class Server(uvicorn.Server):
    """Tells when it answers."""

    def __init__(self, config, on_start):
        super().__init__(config)
        self.on_start = on_start

    async def startup(self, sockets=None):
        await super().startup(sockets)
        if self.started:
            self.on_start()


def seed():
    """Create the three users and, if there are no rooms, two rooms with messages."""
    people = {}
    for username, name in PEOPLE.items():
        first_name, last_name = name.split()
        people[username], _ = get_user_model().objects.get_or_create(
            username=username,
            defaults={"first_name": first_name, "last_name": last_name, "is_staff": username == "ada"},
        )
    if Room.objects.exists():
        return
    now = timezone.now()
    for owner, name, topic, messages in ROOMS:
        room = Room.objects.create(owner=people[owner], name=name, topic=topic)
        room.members.set(people.values())
        for minutes, author, text in messages:
            sent = now - timedelta(minutes=minutes)
            room.messages.create(author=people[author], text=text, sent=sent)
