"""Runs child processes of this program: starts them, starts them again when they die, and ends them in order.

Invariants: a child never outlives its parent (it sees the end of a pipe); a needed child that refuses to start for a
reason that a person must mend ends everything with its exit code instead of being tried for ever.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from abc import ABC, abstractmethod
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


async def start_program(
    environment: Mapping[str, str], *arguments: str, standard_input: int
) -> asyncio.subprocess.Process:
    """This program once more; OSError if the system is short of processes or descriptors."""
    # A session of its own: Ctrl-C reaches the parent only, which ends its children in order.
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", _PROGRAM, *arguments), env=environment, stdin=standard_input, start_new_session=True
    )


class Child(ABC):
    """A process that is to be kept running; `command` is what the log calls it.

    One that is not `needed` is tried for ever even if it refuses to start: the others have more important work.
    """

    def __init__(self, command: str, *, needed: bool = True) -> None:
        self._needed = needed
        self._process: asyncio.subprocess.Process | None = None
        self._log = _log.bind(process=command)

    async def keep_running(self) -> int:
        """Until it refuses to start; gives its exit code."""
        delay = FIRST_DELAY_SECONDS
        ended: int | None = None
        while True:
            started = time.monotonic()
            before, ended = ended, await self._run(after=ended)
            # Who ends well was asked to by a person, however often: what waits at its socket is the next one's.
            if ended == 0 or time.monotonic() - started > STEADY_SECONDS:
                delay = FIRST_DELAY_SECONDS
            elif before is None and self._needed and ended in _REFUSALS:
                return ended
            if delay > FIRST_DELAY_SECONDS:
                self._leave_to_others()
            self._log.error("a process ended; starting it again", ended=ended, seconds=delay)
            await asyncio.sleep(delay)
            delay = min(2 * delay, LONGEST_DELAY_SECONDS)

    async def _run(self, after: int | None) -> int:
        """Until it ends; gives its exit code."""
        try:
            self._process = await self._start(after)
        except OSError as error:  # the system is short of processes or descriptors
            self._log.error("a process could not be started", error=error.strerror)
            return os.EX_OSERR
        return await self._process.wait()

    @abstractmethod
    async def _start(self, after: int | None) -> asyncio.subprocess.Process:
        """Starts it; `after` is how the one before ended, None at first. Raises OSError."""

    def _leave_to_others(self) -> None:  # noqa: B027, most have nothing to leave
        """Called when it has died again shortly after its start."""

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
            self._log.error("a process did not end in time; it is killed")
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


class Command(Child):
    """One command of this program, e.g. `ship`."""

    def __init__(self, command: str, environment: Mapping[str, str], *, needed: bool = True) -> None:
        super().__init__(command, needed=needed)
        self._command = command
        self._environment = dict(environment)

    async def _start(self, after: int | None) -> asyncio.subprocess.Process:
        arguments = (self._command, "--end-with-parent")
        return await start_program(self._environment, *arguments, standard_input=asyncio.subprocess.PIPE)


async def supervise(
    groups: Sequence[Sequence[Child]], once_started: Callable[[], Awaitable[None]] | None = None
) -> int:
    """Keeps the children running until SIGINT or SIGTERM; gives the exit code.

    Groups end in the order of the list, the children of a group all together. `once_started` runs beside them; an error
    of it ends everything.
    """
    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked_to_stop.set)
    stopping = asyncio.create_task(asked_to_stop.wait())
    beside = [] if once_started is None else [asyncio.ensure_future(once_started())]
    running = {asyncio.create_task(child.keep_running()) for group in groups for child in group}
    try:
        pending: set[asyncio.Future[Any]] = {stopping, *beside, *running}
        while not stopping.done():
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for finished in done.intersection(beside):
                finished.result()
            for refusal in running & done:
                return refusal.result()
        return 0
    finally:
        for task in (stopping, *beside, *running):
            task.cancel()
        await asyncio.gather(stopping, *beside, *running, return_exceptions=True)
        for group in groups:
            await asyncio.gather(*(child.stop() for child in group))
