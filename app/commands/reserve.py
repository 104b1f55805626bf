"""A process in reserve, which has loaded everything and waits for its orders: it serves at once where another has died.

Orders come through a Unix socket that is the process's standard input: the number of the worker, and a listening socket
beside it. The socket's end is the parent's end. Invariant: a process gets orders once, and never those of another.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from .supervisor import start_program

REFILL_SECONDS = 1.0
"""How long a new process in reserve is put off: loading, it would take time from the one that has just begun."""

_MAX_ORDER_BYTES = 1_024


@dataclass(frozen=True, slots=True)
class Orders:
    """The worker's number, None for the only one, and the listening socket, which is this process's now."""

    worker: int | None
    listening: socket.socket


def await_orders() -> Orders | None:
    """Of this process, once; None if the parent has ended instead."""
    with socket.socket(fileno=os.dup(0)) as orders:
        said, descriptors, *_ = socket.recv_fds(orders, _MAX_ORDER_BYTES, 1)
    if not said:
        return None
    worker = orjson.loads(said)["worker"]
    _tell_name(worker)
    os.set_inheritable(descriptors[0], False)
    return Orders(worker, socket.socket(fileno=descriptors[0]))


def _tell_name(worker: int | None) -> None:
    """Names the process for `ps -o comm` and `top`, where the system can: they all have one command line."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text("worker" if worker is None else f"worker {worker}")


@dataclass(frozen=True, slots=True)
class Recruit:
    """A process and our end of its orders' socket, which ends the process when it is closed."""

    process: asyncio.subprocess.Process
    orders: socket.socket

    @property
    def is_alive(self) -> bool:
        return self.process.returncode is None

    def order(self, worker: int | None, descriptor: int) -> None:
        """Sends it to work; OSError if it has just died."""
        socket.send_fds(self.orders, [orjson.dumps({"worker": worker})], [descriptor])


class Reserve:
    """Makes processes of one command; one is kept waiting, once the first was asked for."""

    def __init__(self, command: str, environment: Mapping[str, str]) -> None:
        self._command = command
        self._environment = dict(environment)
        self._waiting: Recruit | None = None
        self._refilling: asyncio.Task[None] | None = None

    async def enlist(self, worker: int | None, descriptor: int, *, anew: bool) -> Recruit:
        """A process with these orders, started now if it is to be `anew` or none waits. OSError if none can start."""
        waiting, self._waiting = self._waiting, None
        self._refill()
        if waiting is not None:
            if not anew and waiting.is_alive:
                with contextlib.suppress(OSError):
                    waiting.order(worker, descriptor)
                    return waiting
            waiting.orders.close()
        recruit = await self._start()
        try:
            recruit.order(worker, descriptor)
        except OSError:  # it has died already
            recruit.orders.close()
            raise
        return recruit

    async def end(self) -> None:
        """Ends the one that waits, and keeps none any more."""
        if self._refilling is not None:
            self._refilling.cancel()
            await asyncio.gather(self._refilling, return_exceptions=True)
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.orders.close()
            with contextlib.suppress(ProcessLookupError):
                waiting.process.terminate()  # else it would load to the end first
            await waiting.process.wait()

    def _refill(self) -> None:
        if self._refilling is not None:
            self._refilling.cancel()
        self._refilling = asyncio.create_task(self._keep_one_waiting())

    async def _keep_one_waiting(self) -> None:
        await asyncio.sleep(REFILL_SECONDS)
        with contextlib.suppress(OSError):  # then the next worker is started when it is needed
            self._waiting = await self._start()

    async def _start(self) -> Recruit:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                arguments = (self._command, "--ordered")
                process = await start_program(self._environment, *arguments, standard_input=theirs.fileno())
            except BaseException:
                ours.close()
                raise
        return Recruit(process, ours)
