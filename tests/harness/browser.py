"""A real Chromium with the real Datastar client, used from plain tests."""

import contextlib
import inspect
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Route, async_playwright
from playwright.async_api import expect as async_expect

from tests.harness.loop import loop_thread
from tests.harness.requirements import require_chromium
from tests.harness.server import Visitor, descendants

# The versions of the Datastar client: the one that the package pins, and the oldest that is supported.
CLIENTS = ("1.0.4", "1.0.1")

# Run a test on each client: for what depends on how a client opens, loses and reopens its streams.
each_client = pytest.mark.parametrize("chromium", CLIENTS, indirect=True)


def each_client_and(names: str, values: list[Any]) -> pytest.MarkDecorator:
    """Run a test with each of these values on the pinned client, and with the first one on the oldest."""
    newest, oldest = CLIENTS
    several = "," in names
    cases = [(newest, value) for value in values] + [(oldest, values[0])]
    rows = [(client, *value) if several else (client, value) for client, value in cases]
    return pytest.mark.parametrize(f"chromium, {names}", rows, indirect=["chromium"])


# Chromium calls home unless told not to, and needs --no-sandbox where it runs as root.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

SET_HIDDEN = """hidden => {
    Object.defineProperty(document, 'hidden', {configurable: true, get: () => hidden});
    const state = hidden ? 'hidden' : 'visible';
    Object.defineProperty(document, 'visibilityState', {configurable: true, get: () => state});
    document.dispatchEvent(new Event('visibilitychange', {bubbles: true}));
}"""


class Waiting:
    """An object of playwright's async API whose methods wait, on the harness' own loop.

    Playwright's sync API keeps a loop running in the test's thread, where Django's ORM then refuses to work.
    """

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.wrapped, name)
        return _Method(attribute) if callable(attribute) else _wrap(attribute)

    def __repr__(self) -> str:
        return f"<Waiting {self.wrapped!r}>"


class _Method:
    def __init__(self, method: Any) -> None:
        self._method = method

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _wrap(loop_thread().run(self._run(*args, **kwargs), timeout=60))

    async def _run(self, *args: Any, **kwargs: Any) -> Any:
        args = tuple(_unwrap(arg) for arg in args)
        kwargs = {name: _unwrap(value) for name, value in kwargs.items()}
        result = self._method(*args, **kwargs)
        return await result if inspect.isawaitable(result) else result


def _wrap(value: Any) -> Any:
    if isinstance(value, list):
        return [_wrap(item) for item in value]
    return Waiting(value) if type(value).__module__.startswith("playwright.") else value


def _unwrap(value: Any) -> Any:
    return value.wrapped if isinstance(value, Waiting) else value


def expect(subject: Waiting) -> Any:
    """Playwright's assertions, which wait: `expect(tab.locator("#log li")).to_have_count(3)`."""
    return Waiting(async_expect(subject.wrapped))


class Tab(Waiting):
    """A page in a browser window of its own: everything a playwright page has, and what follows.

    `messages` holds the console's lines, `errors` those that are errors or uncaught exceptions.
    """

    def __init__(self, wrapped: Any) -> None:
        super().__init__(wrapped)
        self.messages: list[str] = []
        self.errors: list[str] = []
        wrapped.on("console", self._on_console)
        wrapped.on("pageerror", lambda error: self.errors.append(str(error)))

    def _on_console(self, message: Any) -> None:
        self.messages.append(f"{message.type}: {message.text}")
        # Chromium asks for an icon by itself, sooner or later, where a page names none.
        if message.type == "error" and not message.location["url"].endswith("/favicon.ico"):
            self.errors.append(message.text)

    def hide(self) -> None:
        """Tell the page that its tab went to the background."""
        self.evaluate(SET_HIDDEN, True)

    def show(self) -> None:
        """Tell the page that its tab came back."""
        self.evaluate(SET_HIDDEN, False)

    def texts(self, selector: str) -> list[str]:
        """Return the text of each element that matches now."""
        return self.locator(selector).all_inner_texts()

    def wait(self, expression: str, timeout: float = 10) -> Any:
        """Wait until this JavaScript expression is true, looking at every animation frame."""
        return self.wait_for_function(expression, timeout=timeout * 1000)


class Chromium:
    """One browser process for the whole test run.

    Pages get the Datastar client that their server has at `/client/datastar.js`, or else the version in `client`, whose
    file is `bundle`.
    """

    def __init__(self) -> None:
        self.client = CLIENTS[0]
        self.bundle: Path | None = None
        self._path = require_chromium()
        self._contexts: list[BrowserContext] = []
        loop_thread().run(self._start(), timeout=60)

    async def _start(self) -> None:
        self._playwright = await async_playwright().start()
        before = {*descendants(os.getpid())}
        try:
            self._browser: Browser = await self._playwright.chromium.launch(
                executable_path=self._path, headless=True, args=FLAGS
            )
        except BaseException:
            await self._playwright.stop()
            raise

        self._pids = [pid for pid in descendants(os.getpid()) if pid not in before]

    def tab(self, visitor: Visitor | None = None, **options: Any) -> Tab:
        """Open a window with its own cookies, or a visitor's. Options are playwright's for a context."""
        return loop_thread().run(self._tab(visitor, options))

    async def _tab(self, visitor: Visitor | None, options: dict[str, Any]) -> Tab:
        if visitor is not None:
            options.setdefault("base_url", visitor.server.url)
        context = await self._browser.new_context(**options)
        self._contexts.append(context)
        context.set_default_timeout(10_000)
        if self.bundle is not None:
            await context.route("**/client/datastar.js", self._answer_with_bundle)
        if visitor is not None:
            await context.add_cookies(
                [{"name": name, "value": value, "url": visitor.server.url} for name, value in visitor.cookies.items()]
            )
        return Tab(await context.new_page())

    async def _answer_with_bundle(self, route: Route) -> None:
        await route.fulfill(path=self.bundle, content_type="text/javascript")

    def second_tab(self, tab: Tab) -> Tab:
        """Open another tab in the same window: it shares the cookies."""
        return loop_thread().run(self._second_tab(tab))

    async def _second_tab(self, tab: Tab) -> Tab:
        return Tab(await tab.wrapped.context.new_page())

    def close_tabs(self) -> None:
        contexts, self._contexts = self._contexts, []
        for context in contexts:
            loop_thread().run(context.close())

    def kill(self) -> None:
        """End the browser's processes, which have no time to say anything."""
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.quit()

    def quit(self) -> None:
        loop_thread().run(self._quit(), timeout=60)

    async def _quit(self) -> None:
        try:
            await self._browser.close()
        finally:
            await self._playwright.stop()
