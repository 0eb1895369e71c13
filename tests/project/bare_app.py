"""A small ASGI app without Django, for the harness' own tests: it ends streams in every way there is."""

import asyncio


async def application(scope, receive, send):
    if scope["type"] != "http":
        return
    path = scope["path"]
    headers = dict(scope["headers"])
    if path == "/ready/":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": b"ready"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})

    async def write(text, more=True):
        await send({"type": "http.response.body", "body": text.encode(), "more_body": more})

    await write(": open\n\nretry: 700\n\nid: 1\n\n")
    await write(f"id: 2\ndata: back from {headers.get(b'last-event-id', b'').decode()}\n\n")
    if path == "/clean/":
        await write("data: last\n\n", more=False)
    elif path == "/cut/":
        raise RuntimeError("this app fails on purpose")
    elif path == "/flood/":
        for number in range(2000):
            await write(f"id: {number}\ndata: {'x' * 10_000}\n\n")
        await write("data: flooded\n\n", more=False)
    else:
        while (await receive())["type"] != "http.disconnect":
            pass
        await asyncio.sleep(0)
