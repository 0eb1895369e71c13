"""The test project with the handoff, inside of a middleware that wraps send(), as those that measure requests do."""

from tests.project.asgi_handoff import application as handoff


async def application(scope, receive, send):
    async def wrapped(message):
        await send(message)

    await handoff(scope, receive, wrapped)
