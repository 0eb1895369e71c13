"""Publishers of one process that come while a step of the broker is on its way are joined into the next one."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from functools import partial
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from ..exceptions import BrokerUnavailable

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")

# A step takes no more items or bytes than this, and one call at least.
MOST_ITEMS = 256
MOST_BYTES = 256 << 10

# Publishes items in one step, and returns the sequence of each.
Step = Callable[[list[I]], Sequence[int]]
AsyncStep = Callable[[list[I]], Coroutine[Any, Any, Sequence[R]]]


class _Call(Generic[I]):
    """The items of a caller who waits, and what became of them."""

    __slots__ = ("batch", "error", "items", "sequence", "size", "turn")

    def __init__(self, items: list[I], size: int) -> None:
        self.items = items
        self.size = size
        # The calls of the step that this caller is to make, if it is.
        self.batch: list[_Call[I]] | None = None
        self.sequence = 0
        self.error: BaseException | None = None
        self.turn = threading.Lock()
        self.turn.acquire()


class Joining(Generic[I]):
    """Joins threads: each waits until its items are published, and the first of those who wait makes the next step.

    One who is alone waits for nobody. A step that fails tells all its callers. `size_of` gives an item's bytes.
    """

    def __init__(self, step: Step[I], size_of: Callable[[I], int]) -> None:
        self._step = step
        self._size_of = size_of
        # Held while a step is on its way.
        self._busy = threading.Lock()
        self._lock = threading.RLock()
        self._waiting: deque[_Call[I]] = deque()
        # The threads that are in here.
        self._inside: set[int] = set()

    def publish(self, items: list[I]) -> int:
        """Publish items in one step, and return the newest sequence; raises what the step does."""
        thread = threading.get_ident()
        if thread in self._inside:
            # A signal's handler, or one of the log, that interrupts its own thread here.
            return self._step(items)[-1]
        self._inside.add(thread)
        try:
            if self._busy.acquire(False):
                return self._alone(items)
            return self._joined(items)
        finally:
            self._inside.discard(thread)

    def _alone(self, items: list[I]) -> int:
        try:
            return self._step(items)[-1]
        finally:
            self._pass_on()

    def _joined(self, items: list[I]) -> int:
        call = _Call(items, sum(map(self._size_of, items)))
        with self._lock:
            is_free = self._busy.acquire(False)
            if not is_free:
                self._waiting.append(call)
        if is_free:
            return self._alone(items)
        try:
            call.turn.acquire()
        except BaseException:
            with self._lock:
                if call in self._waiting:
                    self._waiting.remove(call)
            if call.batch is not None:  # The others count on it.
                self._lead(call, call.batch)
            raise
        if call.batch is not None:
            self._lead(call, call.batch)
        if call.error is not None:
            raise call.error
        return call.sequence

    def _lead(self, leader: _Call[I], batch: list[_Call[I]]) -> None:
        try:
            sequences = self._step([item for call in batch for item in call.items])
            position = 0
            for call in batch:
                position += len(call.items)
                call.sequence = sequences[position - 1]
        except BaseException as error:
            for call in batch:
                call.error = error if call is leader else own_error(error)
        self._pass_on()  # First: the next step begins while these callers wake up.
        for call in batch:
            if call is not leader:
                call.turn.release()

    def _pass_on(self) -> None:
        with self._lock:
            if not self._waiting:
                self._busy.release()
                return
            batch = taken(self._waiting, lambda call: (len(call.items), call.size))
            batch[0].batch = batch
        batch[0].turn.release()


class LoopJoining(Generic[I, R]):
    """Joins the coroutines of each event loop, whose steps follow one after the other.

    A step returns what each item has for it: its sequence, or the answer to its question. Those who are cancelled
    before their step has begun publish nothing.
    """

    def __init__(self, step: AsyncStep[I, R], size_of: Callable[[I], int]) -> None:
        self._step = step
        self._size_of = size_of
        self._queues: WeakKeyDictionary[asyncio.AbstractEventLoop, _Queue[I, R]] = WeakKeyDictionary()

    async def publish(self, items: list[I]) -> R:
        """Publish items in one step, and return what the last of them has for it; raises what the step does."""
        loop = asyncio.get_running_loop()
        queue = self._queues.get(loop)
        if queue is None:
            queue = self._queues[loop] = _Queue(self._step)
        if queue.is_busy:
            return await queue.joined(items, sum(map(self._size_of, items)))
        return await queue.alone(items)


class _Queue(Generic[I, R]):
    def __init__(self, step: AsyncStep[I, R]) -> None:
        self._step = step
        self.is_busy = False
        self._waiting: deque[tuple[list[I], int, asyncio.Future[R]]] = deque()

    async def alone(self, items: list[I]) -> R:
        loop = asyncio.get_running_loop()
        self.is_busy = True
        try:
            return (await self._step(items))[-1]
        finally:
            self._begin(loop)

    def joined(self, items: list[I], size: int) -> "asyncio.Future[R]":
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((items, size, future))
        return future

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the next step, if any caller waits for one."""
        self.is_busy = False
        while self._waiting and not loop.is_closed():
            batch = taken(self._waiting, lambda call: (len(call[0]), call[1]))
            batch = [call for call in batch if not call[2].done()]
            if batch:
                items = [item for call in batch for item in call[0]]
                self.is_busy = True
                # In an empty context: a caller's would stay for as long as others follow.
                task = loop.create_task(self._step(items), context=Context())
                task.add_done_callback(partial(self._end, loop, batch))
                return

    def _end(self, loop: asyncio.AbstractEventLoop, batch: list[Any], work: "asyncio.Future[Sequence[R]]") -> None:
        error = BrokerUnavailable("The event loop ends.") if work.cancelled() else work.exception()
        sequences = () if error is not None else work.result()
        self._begin(loop)
        position = 0
        for items, _, future in batch:
            position += len(items)
            if future.done():
                continue
            if error is not None:
                future.set_exception(error if len(batch) == 1 else own_error(error))
            else:
                future.set_result(sequences[position - 1])


def taken(waiting: deque[Any], weigh: Callable[[Any], tuple[int, int]]) -> list[Any]:
    """Take the calls of the next step, in their order; `weigh` gives the number of a call's items, and their bytes."""
    batch: list[Any] = []
    items = size = 0
    while waiting:
        its_items, its_size = weigh(waiting[0])
        items, size = items + its_items, size + its_size
        if batch and (items > MOST_ITEMS or size > MOST_BYTES):
            break
        batch.append(waiting.popleft())
    return batch


def own_error(error: BaseException) -> BaseException:
    """Return a caller's own error for that of a step, which several callers share."""
    if isinstance(error, Exception) and not isinstance(error, BrokerUnavailable):
        return error
    told = BrokerUnavailable(str(error) or "Another caller was interrupted while it published for both.")
    told.__cause__ = error
    return told
