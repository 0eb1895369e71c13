"""A real Chromium with the real Datastar client, used from plain tests."""

import asyncio
import contextlib
import inspect
import os
import signal
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from playwright.async_api import Browser, BrowserContext, Route, async_playwright
from playwright.async_api import Error as PlaywrightError
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


# A machine that runs other tests meanwhile may take long.
async_expect.set_options(timeout=10_000)


def expect(subject: Waiting) -> Any:
    """Playwright's assertions, which wait: `expect(tab.locator("#log li")).to_have_count(3)`."""
    return Waiting(async_expect(subject.wrapped))


# Playwright's own.
VIEWPORT = {"width": 1280, "height": 720}

# What of playwright's page leaves no trace in the page's next document, and none in the window's next page.
OF_THE_DOCUMENT = {
    "content",
    "evaluate",
    "focus",
    "get_by_label",
    "get_by_role",
    "get_by_text",
    "go_back",
    "keyboard",
    "locator",
    "mouse",
    "reload",
    "set_content",
    "set_viewport_size",
    "title",
    "url",
    "wait_for_function",
    "wait_for_url",
}
OF_THE_PAGE = {"add_init_script", "on", "route", "unroute"}


class Tab(Waiting):
    """A page in a browser window of its own: everything a playwright page has, and what follows.

    `messages` holds the console's lines, `errors` those that are errors or uncaught exceptions. goto() takes the path
    of a page on `site`, too.
    """

    def __init__(self, wrapped: Any, site: str) -> None:
        super().__init__(wrapped)
        self.site = site
        self.messages: list[str] = []
        self.errors: list[str] = []
        self.used: set[str] = set()
        # No bound method, of whose object playwright would ask more than tests do.
        self._listeners = {
            "console": lambda message: self._on_console(message),
            "pageerror": lambda error: self.errors.append(str(error)),
        }
        for event, listener in self._listeners.items():
            wrapped.on(event, listener)

    def __getattr__(self, name: str) -> Any:
        self.used.add(name)
        return super().__getattr__(name)

    def forget(self) -> None:
        """Listen no more: another test has the page now."""
        for event, listener in self._listeners.items():
            self.wrapped.remove_listener(event, listener)

    def _on_console(self, message: Any) -> None:
        self.messages.append(f"{message.type}: {message.text}")
        # Chromium asks for an icon by itself, sooner or later, where a page names none.
        if message.type == "error" and not message.location["url"].endswith("/favicon.ico"):
            self.errors.append(message.text)

    def goto(self, url: str, **options: Any) -> Any:
        return super().__getattr__("goto")(urljoin(self.site, url), **options)

    def hide(self) -> None:
        """Tell the page that its tab went to the background."""
        self.evaluate(SET_HIDDEN, True)

    def show(self) -> None:
        """Tell the page that its tab came back."""
        self.evaluate(SET_HIDDEN, False)

    def cookies(self) -> dict[str, str]:
        """Return the cookies of its site."""
        found = loop_thread().run(self.wrapped.context.cookies(self.site))
        return {cookie["name"]: cookie["value"] for cookie in found}

    def texts(self, selector: str) -> list[str]:
        """Return the text of each element that matches now."""
        return self.locator(selector).all_inner_texts()

    def wait(self, expression: str, timeout: float = 10) -> Any:
        """Wait until this JavaScript expression is true, looking at every animation frame."""
        return self.wait_for_function(expression, timeout=timeout * 1000)


class Window:
    """A window with its own cookies, and its tabs."""

    def __init__(self, context: BrowserContext, client: str, is_special: bool) -> None:
        self.context, self.client, self.is_special = context, client, is_special
        self.tabs: list[Tab] = []


class Chromium:
    """One browser process for the whole test run.

    Pages get the Datastar client that their server has at `/client/datastar.js`, or else the version in `client`, whose
    file is `bundle`. A window in which a test left no trace is given to the next test: a new one costs half a second.
    """

    # How many windows wait for a test that wants one of their kind.
    IDLE = 4

    def __init__(self) -> None:
        self.client = CLIENTS[0]
        self.bundle: Path | None = None
        self._path = require_chromium()
        self._windows: list[Window] = []
        self._idle: list[Window] = []
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
        self._blank = await asyncio.start_server(self._answer_with_nothing, "127.0.0.1", 0)
        self._pids = [pid for pid in descendants(os.getpid()) if pid not in before]

    @staticmethod
    async def _answer_with_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
        writer.close()

    def tab(
        self, visitor: Visitor | None = None, *, site: str = "", cookies: dict[str, str] | None = None, **options: Any
    ) -> Tab:
        """Open a window for pages of a visitor's server, with the visitor's cookies, or of any other `site`.

        Options are playwright's for a context.
        """
        if visitor is not None:
            site, cookies = visitor.server.url, visitor.cookies
        return loop_thread().run(self._tab(site, cookies or {}, options))

    async def _tab(self, site: str, cookies: dict[str, str], options: dict[str, Any]) -> Tab:
        window = await self._window(options)
        self._windows.append(window)
        if cookies:
            await window.context.add_cookies(
                [{"name": name, "value": value, "url": site} for name, value in cookies.items()]
            )
        pages = window.context.pages
        page = pages[0] if pages else await window.context.new_page()
        window.tabs = [Tab(page, site)]
        return window.tabs[0]

    async def _window(self, options: dict[str, Any]) -> Window:
        for window in reversed(self._idle):
            if window.client == self.client and not options:
                self._idle.remove(window)
                return window
        context = await self._browser.new_context(**options)
        context.set_default_timeout(10_000)
        if self.bundle is not None:
            await context.route("**/client/datastar.js", self._answer_with_bundle)
        return Window(context, self.client, is_special=bool(options))

    async def _answer_with_bundle(self, route: Route) -> None:
        await route.fulfill(path=self.bundle, content_type="text/javascript")

    def second_tab(self, tab: Tab) -> Tab:
        """Open another tab in the same window: it shares the cookies."""
        return loop_thread().run(self._second_tab(tab))

    async def _second_tab(self, tab: Tab) -> Tab:
        window = next(window for window in self._windows if tab in window.tabs)
        window.tabs.append(Tab(await window.context.new_page(), tab.site))
        return window.tabs[-1]

    def close_tabs(self) -> None:
        loop_thread().run(self._close_tabs())

    async def _close_tabs(self) -> None:
        windows, self._windows = self._windows, []
        for window in windows:
            if await self._is_emptied(window):
                self._idle.append(window)
            else:
                await window.context.close()
        while len(self._idle) > self.IDLE:
            await self._idle.pop(0).context.close()

    async def _is_emptied(self, window: Window) -> bool:
        """Take away what tests leave in a window, and tell whether that is all."""
        used = set().union(*(tab.used for tab in window.tabs))
        if window.is_special or not used <= OF_THE_DOCUMENT | OF_THE_PAGE:
            return False
        first, *others = window.tabs
        if not first.used <= OF_THE_DOCUMENT:
            others.append(first)
        try:
            for tab in others:
                await tab.wrapped.close()
            for page in window.context.pages:
                first.forget()
                # Of the servers' site, so that its process stays.
                await page.goto(f"http://127.0.0.1:{self._blank.sockets[0].getsockname()[1]}/")
                await page.set_viewport_size(VIEWPORT)
            await window.context.clear_cookies()
        except PlaywrightError:
            return False
        return True

    def kill(self) -> None:
        """End the browser's processes, which have no time to say anything."""
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.quit()

    def quit(self) -> None:
        loop_thread().run(self._quit(), timeout=60)

    async def _quit(self) -> None:
        self._blank.close()
        try:
            await self._browser.close()
        finally:
            await self._playwright.stop()
