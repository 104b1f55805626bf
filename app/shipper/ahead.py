"""Work that is begun before its turn: the next batch is read while the one before it is written.

Invariants: at most one piece of work is ahead; its result is given only to who asks for exactly that work; when `drop`
has returned, nothing runs any more.
"""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Work = Callable[[], Coroutine[Any, Any, T]]


class Ahead(Generic[T]):
    """One piece of work, by a key that says all that its result depends on."""

    def __init__(self) -> None:
        self._key: Hashable = None
        self._task: asyncio.Task[T] | None = None

    def begin(self, key: Hashable, work: Work[T]) -> None:
        """Begins with the work; what was begun before must have been taken or dropped."""
        assert self._task is None, "one piece of work is ahead, no more"
        self._key, self._task = key, asyncio.create_task(work())

    async def take(self, key: Hashable, work: Work[T]) -> T:
        """The result of the work, whether it was begun before or is done only now; raises what it raises.

        If another piece of work is ahead, that one is dropped.
        """
        if self._task is None or key != self._key:
            await self.drop()
            return await work()
        try:
            return await self._task
        finally:
            await self.drop()

    async def drop(self) -> None:
        """Ends the work that is ahead and forgets what came of it."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            _ = task.cancelled() or task.exception()  # of no interest, but asyncio wants it to be looked at
