"""Browsers on a live server, driven with playwright."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

from .kit import current_stage

# Of the elements that open streams: whether there are any, and all are live.
_IS_LIVE = """() => {
    const all = [...document.querySelectorAll('[data-broadcast]')];
    return all.length > 0 && all.every(each => each.dataset.broadcast == 'live');
}"""

# The state of each, what its last request was answered with, how many scripts there are, and which did not load.
_FACTS = """() => {
    const requests = performance.getEntriesByType('resource');
    const of = id => requests.filter(each => new URL(each.name).searchParams.get('element') == id).at(-1);
    return {
        elements: [...document.querySelectorAll('[data-broadcast]')].map(each => ({
            id: each.id,
            state: each.dataset.broadcast,
            url: of(each.id)?.name,
            status: of(each.id)?.responseStatus,
        })),
        scripts: [...document.scripts].filter(each => each.src).length,
        missing: [...document.scripts].map(each => each.src).filter(src =>
            src && !requests.some(each => each.name == src && each.responseStatus < 400 && each.responseStatus > 0)),
    };
}"""


def wait_for_live(page: Any, *, timeout: float = 5.0) -> None:
    """Wait until every stream of a playwright page is live.

    After `timeout` seconds, AssertionError says which is in which state, and why.
    """
    try:
        page.wait_for_function(_IS_LIVE, timeout=timeout * 1000)
    except Exception as error:
        if not _is_timeout(error):
            raise
        raise AssertionError(_report(page.url, timeout, page.evaluate(_FACTS))) from None


async def await_for_live(page: Any, *, timeout: float = 5.0) -> None:
    """See wait_for_live(); for a page of playwright's async API."""
    try:
        await page.wait_for_function(_IS_LIVE, timeout=timeout * 1000)
    except Exception as error:
        if not _is_timeout(error):
            raise
        raise AssertionError(_report(page.url, timeout, await page.evaluate(_FACTS))) from None


def _is_timeout(error: Exception) -> bool:
    # playwright is the project's to install.
    return type(error).__module__.startswith("playwright") and type(error).__name__ == "TimeoutError"


def _report(url: str, timeout: float, facts: dict[str, Any]) -> str:
    if not facts["elements"]:
        return (
            f"{url} has no stream: write {{% broadcast_connect %}} or {{% broadcast_subscribe %}} in its template, or "
            "see whether it is the page that you expect."
        )
    lines = [f"\n  - #{each['id']} is {each['state']!r}{_why(each, facts)}" for each in facts["elements"]]
    return f"{url} is not live after {timeout:g} s:{''.join(lines)}"


def _why(element: dict[str, Any], facts: dict[str, Any]) -> str:
    if element["state"] == "live":
        return ""
    if element["url"] is not None:
        path = urlsplit(element["url"]).path
        stage = current_stage()
        refusal = None if stage is None else stage.refusals.get(path)
        # The browser does not tell the status of a request whose answer the client did not read to its end.
        status = element["status"] or ("a refusal" if refusal else "no status")
        return f": its stream {path} was answered with {status}{f' ({refusal})' if refusal else ''}"
    if facts["missing"]:
        return f": the page could not load {', '.join(facts['missing'])}"
    if not facts["scripts"]:
        return ": the page loads no script. Write {% datastar_script %} in its head"
    return ": no request of its stream has ended. The console of the browser may say why"


@contextmanager
def plain_code_beside_a_loop() -> Iterator[None]:
    """Let code that is in no task use the ORM, for the time of a block, though a loop runs in its thread.

    The sync API of playwright keeps its loop running in the thread of the tests, in which Django refuses to work.
    """

    def get_loop_of_a_task() -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if asyncio.current_task(loop) is None:
            raise RuntimeError("No task runs.")
        return loop

    with mock.patch("django.utils.asyncio.get_running_loop", get_loop_of_a_task):
        yield
