"""Commits in a test whose transaction never ends: on_commit() hooks run where the project's own transactions do."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test import TestCase

logger = logging.getLogger("ds_broadcaster")

_CAPTURE: Any = vars(TestCase)["captureOnCommitCallbacks"]


@contextmanager
def commits_run() -> Iterator[None]:
    """Run on_commit() hooks as without the test's transaction, for the time of a block.

    A hook runs when the outermost of the project's own atomic() blocks ends, and at once outside of any. Those from
    before the block never run, as in every TestCase: what fixtures save is in the database, and is not sent. Within
    Django's captureOnCommitCallbacks() hooks are left to that.
    """
    on_commit, leave, capture = BaseDatabaseWrapper.on_commit, transaction.Atomic.__exit__, _CAPTURE.__func__
    captured: list[Any] = []
    begin = {connection: len(connection.run_on_commit) for connection in connections.all(initialized_only=True)}
    for connection in filter(_is_committed, begin):
        for entry in connection.run_on_commit:
            # A change of a model, for which the next save of its object is another change.
            getattr(entry[1], "forgo", lambda: None)()

    def run(connection: BaseDatabaseWrapper) -> None:
        if captured or not _is_committed(connection):
            return
        first = begin.setdefault(connection, 0)
        while len(connection.run_on_commit) > first:
            entry: Any = connection.run_on_commit.pop(first)
            _, hook, is_robust = entry
            _call(hook, is_robust)

    @wraps(on_commit)
    def on_commit_of_test(self: BaseDatabaseWrapper, *args: Any, **kwargs: Any) -> None:
        on_commit(self, *args, **kwargs)
        run(self)

    @wraps(leave)
    def leave_of_test(self: transaction.Atomic, *args: Any) -> None:
        leave(self, *args)
        run(transaction.get_connection(self.using))

    @contextmanager
    def capture_of_test(cls: Any, /, **kwargs: Any) -> Iterator[list[Any]]:
        captured.append(kwargs)
        try:
            with capture(cls, **kwargs) as callbacks:
                yield callbacks
        finally:
            captured.pop()
            for connection in connections.all(initialized_only=True):
                begin[connection] = len(connection.run_on_commit)

    TestCase.captureOnCommitCallbacks = classmethod(capture_of_test)  # type: ignore[assignment, method-assign]
    BaseDatabaseWrapper.on_commit = on_commit_of_test  # type: ignore[method-assign]
    transaction.Atomic.__exit__ = leave_of_test  # type: ignore[method-assign]
    try:
        yield
    finally:
        TestCase.captureOnCommitCallbacks = _CAPTURE  # type: ignore[method-assign]
        BaseDatabaseWrapper.on_commit = on_commit  # type: ignore[method-assign]
        transaction.Atomic.__exit__ = leave  # type: ignore[method-assign]


def _is_committed(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether no transaction is open but the test's own."""
    blocks: list[Any] = connection.atomic_blocks
    return connection.in_atomic_block and not connection.needs_rollback and all(each._from_testcase for each in blocks)


def _call(hook: Callable[[], Any], is_robust: bool) -> None:
    try:
        hook()
    except Exception:
        if not is_robust:
            raise
        logger.exception("The on_commit() hook %r failed.", hook)
