"""The test project with the handoff and Django's static files, as the guide serves it during development."""

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler

from tests.project.asgi_handoff import application as handoff

application = ASGIStaticFilesHandler(handoff)
