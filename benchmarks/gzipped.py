"""The workload of compressed streams."""

from __future__ import annotations

import contextlib
import http.client
import re
import time
import zlib
from threading import Thread

from .load import Load, warm_up
from .record import Row
from .rounds import Size, in_turn
from .servers import Running, Server

NUMBER = re.compile(rb'data-n="(\d+)"')


def gzip(size: Size) -> list[list[Row]]:
    """Measure a broadcast to 1000 streams, 20 events a second, with and without gzip: small patches, renders of 20 KB.

    `us`: CPU a delivery. `wire_bytes`: bytes a delivery as they are on the wire. `kb`: memory a stream. `delivered`,
    `skips`: what one more client got that decodes the stream; the others only count bytes.
    """
    steps = [(1000, bytes_each, encoding) for bytes_each in (200, 20_000) for encoding in ("", "gzip")]
    return in_turn(size, _gzip, [("handoff", *step) for step in steps])


def _gzip(server: Server, streams: int, bytes_each: int, encoding: str) -> Row:
    events = 60
    what = {"events": events, "rate": 20, "size": bytes_each, "make": "rendered" if bytes_each > 1000 else ""}
    header = f"Accept-Encoding: {encoding or 'identity'}"
    with Running(server) as running:
        warm_up(running)
        rss = running.rss_kb()
        load = Load(running, streams, header=header, quiet=60, **what)
        with load, _Decoding(running.port, encoding) as decoding:
            running.settle()
            kb = (running.rss_kb() - rss) / streams
            seen = load.measure(lambda: (decoding.wait_for(events), running.settle()))
    return {
        "bytes": bytes_each,
        "encoding": encoding or "none",
        "us": seen["cpu"] / load.expected * 1e6,
        "wire_bytes": seen["bytes"] / load.expected,
        "kb": kb,
        "delivered": len(decoding.numbers) / events,
        "skips": sum(number != place for place, number in enumerate(decoding.numbers)),
    }


class _Decoding:
    """A client that decodes its stream, and keeps the numbers of the events."""

    def __init__(self, port: int, encoding: str) -> None:
        self.numbers: list[int] = []
        self._decoder = zlib.decompressobj(31) if encoding else None
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._encoding = encoding or "identity"

    def __enter__(self) -> _Decoding:
        headers = {"Accept": "text/event-stream", "Datastar-Request": "true", "Accept-Encoding": self._encoding}
        self._connection.request("GET", "/stream", headers=headers)
        self._answer = self._connection.getresponse()
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def wait_for(self, events: int) -> None:
        """Wait until so many have come, at most half a minute."""
        deadline = time.monotonic() + 30
        while len(self.numbers) < events and time.monotonic() < deadline:
            time.sleep(0.1)

    def __exit__(self, *error: object) -> None:
        sock = self._connection.sock
        if sock is not None:
            sock.shutdown(2)
        self._thread.join(10)
        self._connection.close()

    def _run(self) -> None:
        text = b""
        # The stream has no end of its own: it is cut off.
        with contextlib.suppress(http.client.IncompleteRead):
            while chunk := self._answer.read1(1 << 16):
                text += self._decoder.decompress(chunk) if self._decoder else chunk
                *whole, text = text.split(b"\n\n")
                self.numbers += [int(found[1]) for event in whole if (found := NUMBER.search(event))]
