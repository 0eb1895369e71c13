"""What was sent in a test, and what its fragments asked of the database."""

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from django.db import connections

from ..ids import channel_name
from ..observers import Observer, observers
from ..sse import Facts, Mode
from .events import Sent, Verb, check_known, sent
from .hidden import __tracebackhide__, __unittest  # noqa: F401

if TYPE_CHECKING:
    from django.db.models import Model

# What is shown of a list in a message.
_MOST_SHOWN = 20

# Queries that differ in their values alone are the same one, repeated.
_VALUES = re.compile(r"'(?:[^']|'')*'|\b\d+\b")
# What a model's query begins with says little about it.
_COLUMNS = re.compile(r"^SELECT [^()]{40,}? FROM ")


class Query(NamedTuple):
    """A query that a fragment made while it was rendered, with its values left out."""

    fragment: str
    sql: str


class Broadcasts(list[Sent]):
    """What was sent, in order.

    `queries` are those that fragments made while they were rendered, in order: see assert_max_queries().
    """

    def __init__(self) -> None:
        super().__init__()
        self.queries: list[Query] = []
        # Each fragment that was rendered, with its queries.
        self.renders: list[tuple[str, list[str]]] = []
        # What renders raised: a model whose hook fails is saved all the same, and nothing is sent.
        self.failures: list[str] = []

    def clear(self) -> None:
        """Forget what was sent and asked so far."""
        super().clear()
        self.queries.clear()
        self.renders.clear()
        self.failures.clear()

    def assert_sent(
        self,
        channel: "str | Model",
        *,
        verb: Verb | None = None,
        mode: Mode | None = None,
        target: "str | Model | None" = None,
        contains: str | None = None,
        signals: Mapping[str, Any] | None = None,
        count: int | None = None,
    ) -> list[Sent]:
        """Return the events to a channel that are as described; there must be `count` of them, or at least one.

        See Event.differences() for what describes them. A failure lists everything that was sent, nearest first.
        """
        check_known(verb, mode)
        name = channel_name(channel)
        wanted: dict[str, Any] = {
            "verb": verb,
            "mode": mode,
            "target": target,
            "contains": contains,
            "signals": signals,
        }
        found = [each for each in self if each.channel == name and not each.differences(**wanted)]
        if len(found) == count or (count is None and found):
            return found
        description = ", ".join(f"{key}={value!r}" for key, value in wanted.items() if value is not None)
        times = "no event" if not found else f"{len(found)} events" if len(found) > 1 else "1 event"
        expected = "" if count is None else f", not {count}"
        raise AssertionError(
            f"{times} to {name!r}{f' with {description}' if description else ''}{expected}. {self._all(name, wanted)}"
        )

    def assert_nothing_sent(self, channel: "str | Model | None" = None) -> None:
        """Assert that nothing was sent to a channel, or to any."""
        name = None if channel is None else channel_name(channel)
        found = [each for each in self if name is None or each.channel == name]
        if found:
            where = "" if name is None else f" to {name!r}"
            raise AssertionError(f"{len(found)} sent{where}:{_listed(map(str, found))}")

    def assert_max_queries(self, most: int) -> None:
        """Assert that each fragment made at most so many queries each time it was rendered."""
        for name, queries in self.renders:
            if len(queries) <= most:
                continue
            counted = [(_COLUMNS.sub("SELECT ... FROM ", sql), times) for sql, times in Counter(queries).most_common()]
            repeated = [f"{times} times: {sql}" for sql, times in counted if times > 1]
            shown = repeated or [sql for sql, _ in counted]
            raise AssertionError(
                f"{name} made {len(queries)} {'query' if len(queries) == 1 else 'queries'}, and at most {most} were "
                f"expected."
                f"{' Repeated' if repeated else ' They were'}:{_listed(shown)}"
            )

    def _all(self, name: str, wanted: dict[str, Any]) -> str:
        failed = f" What was rendered failed:{_listed(self.failures)}" if self.failures else ""
        if not self:
            return f"Nothing was sent.{failed}"

        def differences(each: Sent) -> list[str]:
            other = [] if each.channel == name else [f"channel {each.channel!r}, not {name!r}"]
            return other + each.differences(**wanted)

        # To another channel is further away than another event.
        nearest = sorted(self, key=lambda each: (len(differences(each)), each.channel != name))
        lines = ("\n      ".join([str(each), *differences(each)]) for each in nearest)
        return f"Sent was, nearest first:{_listed(lines)}{failed}"


class Recorder(Observer):
    """Records what is sent and rendered while it observes."""

    def __init__(self, broadcasts: Broadcasts) -> None:
        self._broadcasts = broadcasts
        self._lock = threading.Lock()

    def sent(self, channel: str, payload: bytes, facts: Facts) -> None:
        with self._lock:
            self._broadcasts.extend(sent(channel, payload, facts))

    @contextmanager
    def rendering(self, name: str) -> Iterator[None]:
        queries: list[str] = []
        self._broadcasts.renders.append((name, queries))

        def note(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
            shape = _VALUES.sub("?", sql)
            queries.append(shape)
            self._broadcasts.queries.append(Query(name, shape))
            return execute(sql, params, many, context)

        with ExitStack() as stack:
            for connection in connections.all():
                stack.enter_context(connection.execute_wrapper(note))
            try:
                yield
            except Exception as error:
                self._broadcasts.failures.append(f"{name} failed: {error!r}")
                raise


@contextmanager
def recorded() -> Iterator[Broadcasts]:
    """Record what is sent for the time of a block."""
    broadcasts = Broadcasts()
    recorder = Recorder(broadcasts)
    observers.append(recorder)
    try:
        yield broadcasts
    finally:
        observers.remove(recorder)


def _listed(lines: Any) -> str:
    every = list(lines)
    rest = len(every) - _MOST_SHOWN
    return "".join(f"\n  - {each}" for each in every[:_MOST_SHOWN]) + (f"\n  and {rest} more" if rest > 0 else "")
