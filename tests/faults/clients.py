"""The clients: they ask over kept connections while things break, and remember what was answered.

Invariant: a request is *answered* when its answer came whole; then it is an obligation. One whose answer was cut, late
or never came is *open*: it may be recorded or not, once. An answer that is neither the redirect nor the pixel that was
asked for is *wrong*, whatever broke.
"""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from .asks import Ask

ANSWER_SECONDS = 20.0
_RETRY_SECONDS = 0.01
_FAULTS = (OSError, TimeoutError, asyncio.IncompleteReadError)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was sent, with the Unix times between which it was answered or given up."""

    ask: Ask
    sent: float
    ended: float


@dataclass(slots=True)
class Outcome:
    """What became of all requests."""

    answered: list[Asked] = field(default_factory=list)
    open: list[Asked] = field(default_factory=list)
    refused: list[Asked] = field(default_factory=list)
    """503: the collector said that it cannot take the hit."""
    wrong: list[str] = field(default_factory=list)
    slowest_seconds: float = 0.0


class Clients:
    """Some connections in a thread of their own, from `start` to `stop`."""

    def __init__(
        self, ports: Sequence[int], asks: Iterator[Ask], *, connections: int = 6, pause_seconds: float = 0.002
    ) -> None:
        """Each connection asks one of the `ports`, in turn after each failure, and pauses between requests."""
        self.outcome = Outcome()
        self._ports = ports
        self._asks = asks
        self._connections = connections
        self._pause_seconds = pause_seconds
        self._ends = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="clients", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> Outcome:
        """Lets every request that was sent end first."""
        self._ends.set()
        self._thread.join()
        return self.outcome

    async def _run(self) -> None:
        await asyncio.gather(*(self._ask(number) for number in range(self._connections)))

    async def _ask(self, number: int) -> None:
        while not self._ends.is_set():
            port = self._ports[number % len(self._ports)]
            number += 1
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            try:
                while not self._ends.is_set():
                    if not await self._ask_once(reader, writer):
                        break
                    await asyncio.sleep(self._pause_seconds)
            finally:
                writer.transport.abort()

    async def _ask_once(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection can be used again."""
        ask, outcome, sent = next(self._asks), self.outcome, time.time()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                writer.write(ask.request)
                status, headers, body = await read_answer(reader)
        except _FAULTS:
            outcome.open.append(Asked(ask, sent, time.time()))
            return False
        asked = Asked(ask, sent, time.time())
        outcome.slowest_seconds = max(outcome.slowest_seconds, asked.ended - sent)
        if status == 503:
            outcome.refused.append(asked)
        elif _is_right(ask, status, headers, body):
            outcome.answered.append(asked)
        else:
            outcome.wrong.append(f"{status} for a {ask.row[0]}")
        return headers.get(b"connection") != b"close"


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, headers and body; IncompleteReadError if the connection ends before."""
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head[:-4].split(b"\r\n")
    headers = dict(line.split(b": ", 1) for line in lines)
    body = await reader.readexactly(int(headers.get(b"content-length", b"0")))
    return int(first.split(b" ")[1]), headers, body


def _is_right(ask: Ask, status: int, headers: dict[bytes, bytes], body: bytes) -> bool:
    if ask.location is None:
        return status == 200 and body.startswith(b"GIF89a")
    return status == 302 and headers.get(b"location") == ask.location.encode()
