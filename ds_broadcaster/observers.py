"""Observers: what is told of every event that this process sends and of every fragment that it renders.

There are none in production. The testing kit is one, and the debug toolbar's panel.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ParamSpec, TypeVar

from .sse import Facts

P = ParamSpec("P")
T = TypeVar("T")


class Observer:
    """Override what is of interest. Any thread may call; to observe, append to `observers`."""

    def sent(self, channel: str, payload: bytes, facts: Facts) -> None:
        """Note an event that the broker has taken."""

    def refused(self, view: str, path: str, why: str) -> None:
        """Note that a channel view refused its stream to a request for this path."""

    def recheck_refused(self, path: str, why: str) -> None:
        """Note that the stream of this path was asked about again, and is refused now; its view may have told why."""

    @contextmanager
    def rendering(self, name: str) -> Iterator[None]:
        """Surround the rendering of a fragment, such as "Message.render_broadcast()"."""
        yield

    def opens(self, url: str, channels: Sequence[str] | None, user: Any) -> None:
        """Note a stream that an element of a page opens.

        The channels and their user are those of a subscription; of another stream, its view decides.
        """


observers: list[Observer] = []


def render_observed(name: str, render: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what `render` returns, and tell the observers of it by this name."""
    if not observers:
        return render(*args, **kwargs)
    with ExitStack() as stack:
        for each in observers:
            stack.enter_context(each.rendering(name))
        return render(*args, **kwargs)


def name_of(function: Any) -> str:
    """Return the name under which observers are told of a function."""
    return f"{getattr(function, '__qualname__', type(function).__qualname__)}()"
