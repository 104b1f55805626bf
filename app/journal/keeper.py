"""The thread beside a writer: everything about a journal that waits for the disk, so that no answer does.

It syncs what was written every 100 ms (durability `process`), or as soon as answers wait for it (`disk`): all that wait
at that moment share one fdatasync. Once a second it measures all journals of the data directory, renews the writer's
room, has it notice what somebody removed, and has it go on in another journal when the shipper asks for that.
Invariant: `durable` gives True only for hits that a successful sync has covered.
"""

import asyncio
import math
import os
import threading
import time
from collections import deque
from pathlib import Path

import structlog

from ..logs import place_of
from .segments import MOVE_ON, SEGMENT_GLOB, SHIPPER_LOCK, is_held
from .writer import JournalWriter

SYNC_SECONDS = 0.1
MEASURE_SECONDS = 1.0
TROUBLE_SECONDS = 10.0
"""How long a lost hit keeps the process unready: longer would never end where nobody sends to an unready one."""

NEARLY_FULL = 0.8
"""The part of `journal_max_bytes` from which on readiness warns."""

SHIPPER_SECONDS = 5.0
"""How long nobody may hold the shipper's lock before readiness warns: a new journal is found within a second."""

_log = structlog.get_logger()
_Waiter = tuple[asyncio.AbstractEventLoop, "asyncio.Future[bool]"]


class JournalKeeper:
    """Runs from `start` to `close`, which closes the writer too."""

    def __init__(self, writer: JournalWriter, journals: Path, *, max_bytes: int) -> None:
        self._writer = writer
        self._journals = journals
        self._max_bytes = max_bytes
        self._waiting: deque[_Waiter] = deque()
        self._wake = threading.Event()
        self._ends = False
        self._synced_bytes = 0
        self._sync_fails = False
        self._measure_fails = False
        self._look_fails = False
        self._fill = 0.0
        self._shipper_seen_at = time.monotonic()
        self._written_then = 0
        self._unread_since = math.inf
        self._disk_is_full = False
        self._thread = threading.Thread(target=self._run, name="journal-keeper", daemon=True)

    def start(self) -> None:
        """Measures once, then starts the thread."""
        self._measure()
        self._thread.start()

    async def durable(self) -> bool:
        """Waits until everything appended before this call is on the disk; False when the disk refused."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        self._waiting.append((loop, future))
        self._wake.set()
        return await future

    def problems(self) -> list[str]:
        """Words for why hits are being lost, or may be after a loss of power."""
        writer = self._writer
        lately = time.monotonic() - writer.lost_at < TROUBLE_SECONDS
        found = [writer.last_loss.value] if lately and writer.last_loss else []
        if self._sync_fails:
            found.append("journal_not_synced")
        return found

    def warnings(self) -> list[str]:
        """Words for why hits soon will be lost."""
        found = []
        if self._fill >= NEARLY_FULL:
            found.append("journal_nearly_full")
        if self._disk_is_full:
            found.append("disk_nearly_full")
        if time.monotonic() - self._shipper_seen_at > SHIPPER_SECONDS:
            found.append("shipper_away")
        return found

    def unread_seconds(self) -> float | None:
        """The age of the oldest hit that no shipper can have read; None while one has the journal, who knows better."""
        if time.monotonic() - self._shipper_seen_at < 2 * MEASURE_SECONDS:
            return None
        return max(0.0, time.monotonic() - self._unread_since)

    def close(self) -> None:
        """Answers who waits, ends the thread, syncs and closes the writer."""
        self._ends = True
        self._wake.set()
        self._thread.join()
        self._writer.close()

    def _run(self) -> None:
        measured_at = time.monotonic()
        while not self._ends:
            self._wake.wait(SYNC_SECONDS)
            self._wake.clear()
            self._commit()
            self._writer.prepare()
            if time.monotonic() - measured_at >= MEASURE_SECONDS:
                measured_at = time.monotonic()
                self._measure()
                self._look_around()
        self._commit()

    def _commit(self) -> None:
        # Who waits is taken before the sync: what they wrote was written before they began to wait.
        waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            synced = self._sync(force=bool(waiting))
        except Exception as error:  # a fault of ours must not leave answers waiting for ever
            _log.error("a fault while the journal was synced", fault=place_of(error))
            synced = False
        for loop, future in waiting:
            loop.call_soon_threadsafe(_resolve, future, synced)

    def _sync(self, *, force: bool) -> bool:
        written = self._writer.written
        if written == self._synced_bytes and not force and not self._sync_fails:
            return True
        try:
            self._writer.sync()
        except OSError as error:
            self._tell_sync_fails(error)
            return False
        self._synced_bytes, self._sync_fails = written, False
        return True

    def _tell_sync_fails(self, error: OSError) -> None:
        if not self._sync_fails:
            _log.error("the journal cannot be synced to the disk; check the disk", error=place_of(error))
        self._sync_fails = True

    def _look_for_shipper(self) -> None:
        now, written = time.monotonic(), self._writer.written
        if is_held(self._writer.directory, SHIPPER_LOCK):
            self._shipper_seen_at, self._written_then, self._unread_since = now, written, math.inf
        elif written > self._written_then:
            self._unread_since = min(self._unread_since, now)

    def _look_around(self) -> None:
        try:
            self._writer.mend()
            self._look_for_shipper()
            if (self._writer.directory / MOVE_ON).exists():
                self._writer.move_on()
        except OSError as error:
            if not self._look_fails:
                _log.warning("the journal's files cannot be looked at; trying on", error=place_of(error))
            self._look_fails = True
        else:
            self._look_fails = False

    def _measure(self) -> None:
        try:
            used = journal_bytes(self._journals)
            disk = os.statvfs(self._journals)
        except OSError as error:
            if not self._measure_fails:
                _log.warning("the journals cannot be measured; trying on", error=place_of(error))
            self._measure_fails = True
            return
        self._measure_fails = False
        self._fill = used / self._max_bytes
        self._writer.room = max(0, self._max_bytes - used)
        self._disk_is_full = disk.f_bavail < disk.f_blocks * 0.02


def journal_bytes(journals: Path) -> int:
    """The size of all segments of all journals; what goes away meanwhile, or cannot be looked at, counts nothing."""
    total = 0
    for path in journals.glob(f"*/{SEGMENT_GLOB}"):
        try:
            total += path.stat().st_size
        except OSError:  # one such file must not keep the others from being measured, or their writers run out of room
            continue
    return total


def _resolve(future: "asyncio.Future[bool]", synced: bool) -> None:
    if not future.done():
        future.set_result(synced)
