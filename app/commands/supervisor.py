"""Runs child processes of this program: starts them, starts them again when they die, and ends them in order.

Invariants: a child never outlives its parent (it sees the end of a pipe); a child that refuses to start for a reason
that a person must mend ends everything with its exit code instead of being tried for ever.
"""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import structlog

FIRST_DELAY_SECONDS = 0.1
LONGEST_DELAY_SECONDS = 5.0
STEADY_SECONDS = 10.0
STOP_SECONDS = 30.0
_REFUSALS = (1, 2)
_PROGRAM = __name__.partition(".")[0]

_log = structlog.get_logger()


class Child:
    """One command of this program that is to be kept running, e.g. `ship`."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = command[0]
        self._arguments = (sys.executable, "-m", _PROGRAM, *command, "--end-with-parent")
        self._environment = dict(environment)
        self._process: asyncio.subprocess.Process | None = None

    async def keep_running(self) -> int:
        """Until it refuses to start; gives its exit code."""
        delay = FIRST_DELAY_SECONDS
        is_first = True
        while True:
            started = time.monotonic()
            # A session of its own: Ctrl-C reaches the parent only, which ends its children in order.
            self._process = await asyncio.create_subprocess_exec(
                *self._arguments, env=self._environment, stdin=asyncio.subprocess.PIPE, start_new_session=True
            )
            code = await self._process.wait()
            if time.monotonic() - started > STEADY_SECONDS:
                delay = FIRST_DELAY_SECONDS
            elif is_first and code in _REFUSALS:
                return code
            is_first = False
            _log.error("a process ended; starting it again", process=self.name, exit_code=code, seconds=delay)
            await asyncio.sleep(delay)
            delay = min(2 * delay, LONGEST_DELAY_SECONDS)

    async def stop(self) -> None:
        """Asks it to end and waits; after `STOP_SECONDS` it is killed, which loses nothing that is journaled."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            _log.error("a process did not end in time; it is killed", process=self.name)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def supervise(children: Sequence[Child], once_started: Callable[[], Awaitable[None]]) -> int:
    """Keeps the children running until SIGINT or SIGTERM; gives the exit code. They end in the order of the list.

    `once_started` runs beside them; an error of it ends everything.
    """
    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked_to_stop.set)
    stopping = asyncio.create_task(asked_to_stop.wait())
    beside = asyncio.ensure_future(once_started())
    running = {asyncio.create_task(child.keep_running()) for child in children}
    try:
        pending: set[asyncio.Future[Any]] = {stopping, beside, *running}
        while not stopping.done():
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if beside in done:
                beside.result()
            for refusal in running & done:
                return refusal.result()
        return 0
    finally:
        for task in (stopping, beside, *running):
            task.cancel()
        await asyncio.gather(stopping, beside, *running, return_exceptions=True)
        for child in children:
            await child.stop()
