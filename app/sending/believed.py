"""Answers that are believed for a second, since many mails ask the same.

Invariant: an answer was asked for at most `BELIEVED_SECONDS` before it is given; memory is bounded.
"""

import time
from collections.abc import Awaitable, Callable, Hashable
from typing import TypeVar, cast

BELIEVED_SECONDS = 1.0

_MOST_REMEMBERED = 20_000
_Answer = TypeVar("_Answer")
_Key = TypeVar("_Key", bound=Hashable)


class Believed:
    """The answers of one process, by question; for use by any number of tasks of one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._answers: dict[Hashable, tuple[float, object]] = {}

    async def ask(self, question: Hashable, ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """The answer; `question` stands for one `ask` only. What raises is not remembered."""
        known = self._answers.get(question)
        if known is not None and self._clock() - known[0] < BELIEVED_SECONDS:
            return cast(_Answer, known[1])
        asked_at = self._clock()
        answer = await ask()
        remember(self._answers, question, (asked_at, answer))
        return answer


def remember(known: dict[_Key, _Answer], key: _Key, value: _Answer) -> _Answer:
    """Begins anew when it is full: what is needed is asked for again."""
    if len(known) >= _MOST_REMEMBERED:
        known.clear()
    known[key] = value
    return value
