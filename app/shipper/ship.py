"""The shipper: moves hits from the journals to the store, each exactly once, whatever the disk or the store does.

While a batch is written, the next one is read and decoded. Invariants: a batch is written only if it begins at the
watermark that was committed, and a watermark is believed only as long as every write from it succeeded; one journal's
trouble holds up no other; a backlog holds up no new hits: its writer is asked to go on in another journal, and journals
that are written have their turns before those that were left; what waits for the disk runs in a thread, and decoding
lets the event loop go on every few milliseconds.
"""

import asyncio
import contextlib
import math
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ParamSpec, TypeVar

import structlog

from ..config import Settings
from ..errors import SchemaError, StoreUnavailable
from ..journal.keeper import journal_bytes
from ..journal.lines import DamagedLine, decode_line
from ..journal.segments import Stream, bytes_behind
from ..metrics import Metrics
from ..tracking.modes import Mode
from .ahead import Ahead
from .batches import Batch, Conflict, Store, Written
from .journals import START, Journal, Position, Reading, adopt, find_journals
from .postgres import PostgresStore
from .troubles import Troubles

DRAIN_SECONDS = 10.0
HOUSE_SECONDS = 300.0
HOUSE_RETRY_SECONDS = 5.0
MIN_BACK_OFF_SECONDS = 0.1
MAX_BACK_OFF_SECONDS = 2.0
ROUND_SECONDS = 1.0
"""After this time of uninterrupted shipping the shipper looks for other journals, for new hits and after its house."""

BACKLOG_BYTES = 8 * 2**20
"""What may wait in a journal before its writer is asked to move on: what a second or so ships."""

BACKLOG_PART = 1 / 16
"""The part of all that waits that may wait in a journal that is written: so there never are many journals."""

MAX_HELD = 256
"""Journals held at once: each takes a descriptor."""

SLICE_LINES = 500
"""Lines decoded in one go: about 2 ms, in which the event loop stands still."""

KEEP_PART = 0.5
"""The part of `journal_max_bytes` from which on shipped segments go early: what is kept must never cost new hits."""

_MAX_BATCH_BYTES = 16 * 2**20
_BYTES_A_LINE = 600
_PEEK_BYTES = 4096
_COARSE_SECONDS = {Mode.ANONYMIZED: 60.0, Mode.AGGREGATE: 3600.0}
_ALL_STREAMS = frozenset(Stream)

_log = structlog.get_logger()
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Held:
    """A journal whose lock is ours. `shipped` is what the store said last; it must be asked anew unless `asked`.

    `final` holds the streams that this round found shipped for good.
    """

    journal: Journal
    since: float
    shipped: dict[Stream, Position] | None = None
    asked: bool = False
    asked_to_move_on: bool = False
    final: set[Stream] = field(default_factory=set)


_Turn = tuple[_Held, Stream]
_Ready = tuple[Batch[Any], Reading]
"""A batch, and what it was made of."""


class Shipper:
    """Ships all journals of a data directory, beside any number of other shippers. Not for several tasks at once.

    `run` and then `drain` is the life of a service; `ship_once` and `close` are for single commands.
    """

    def __init__(
        self, settings: Settings, database_url: str, metrics: Metrics, *, store: Store[Any] | None = None
    ) -> None:
        """Opens nothing yet. `store` takes the hits elsewhere than into the database."""
        self._journals = settings.journals_directory
        self._interval_seconds = settings.ship_interval_seconds
        self._keep_seconds = settings.journal_keep_hours * 3600
        self._keep_bytes = settings.journal_max_bytes * KEEP_PART
        self._keeps = True
        self._max_rows = settings.ship_batch_rows
        self._max_bytes = min(self._max_rows * _BYTES_A_LINE, _MAX_BATCH_BYTES)
        self._metrics = metrics
        self._store: Store[Any] = store or PostgresStore(
            database_url,
            anonymization_days=settings.anonymization_days,
            retention_days=settings.hits_retention_days,
        )
        self._troubles = Troubles()
        self._held: dict[str, _Held] = {}
        self._done: dict[str, float] = {}  # shipped for good, by the Unix time at which a segment may go
        self._rows = 0
        self._house_at = float("-inf")
        self._measured = False
        _show_zeros(metrics)

    async def run(self) -> None:
        """Ships until it is cancelled."""
        failures = 0
        try:
            while True:
                try:
                    more = await self._round(ROUND_SECONDS)
                except Exception as error:
                    self._troubles.tell("store", "hits are not shipped; trying on", error)
                    pause = _back_off_seconds(failures)
                    failures += 1
                else:
                    self._troubles.end("store", "hits are shipped again")
                    pause = 0.0 if more else self._interval_seconds
                    failures = 0
                await asyncio.sleep(pause)
        finally:
            self.close()

    async def ship_once(self) -> int:
        """Ships everything that is there now and returns the rows written; raises what kept it from shipping all."""
        before = self._rows
        await self._round(math.inf)
        return self._rows - before

    async def drain(self, seconds: float = DRAIN_SECONDS) -> int:
        """`ship_once` and `close` for a service that stops: gives up when the store is away or the time is over."""
        before = self._rows
        try:
            async with asyncio.timeout(seconds):
                await self._round(math.inf)
        except Exception as error:
            self._troubles.tell("store", "not everything was shipped; the next start goes on from here", error)
        finally:
            self.close()
        return self._rows - before

    def close(self) -> None:
        """Lets go of the store and of all journals; whatever is called next begins anew."""
        self._store.disconnect()
        for held in self._held.values():
            held.journal.release()
        self._held.clear()
        self._done.clear()

    async def _round(self, seconds: float) -> bool:
        """Ships what is there, for about `seconds` at most; True if that was not all."""
        try:
            await _see_through(self._adopt)
            await self._keep_house()
            more, trouble = await self._ship(time.monotonic() + seconds)
            await self._sweep()
            if trouble is not None:
                raise trouble
            return more
        except (StoreUnavailable, SchemaError):
            self._count_failure("unavailable")
            self._ask_anew()
            raise
        except Exception:
            self._count_failure("other")
            raise
        finally:
            await _see_through(self._measure)

    # --- Finding journals, and their end ------------------------------------------------------------------------------

    def _adopt(self) -> None:
        """Takes the journals that are free. They are noted here, in the thread, so that no lock is ever lost."""
        now = time.time()
        try:
            found = find_journals(self._journals)
        except OSError as error:
            self._tell_unreadable(self._journals.name, error)
            return
        for directory in found:
            name = directory.name
            if name in self._held or now < self._done.get(name, -math.inf) or len(self._held) >= MAX_HELD:
                continue
            try:
                journal = adopt(directory)
            except FileNotFoundError:  # another shipper has just removed it
                continue
            except OSError as error:
                self._tell_unreadable(name, error)
                continue
            if journal is not None:
                self._held[name] = _Held(journal, now)

    async def _sweep(self) -> None:
        """Unlinks segments whose time is over, and lets go of journals that are shipped for good."""
        written_before = time.time() - (self._keep_seconds if self._keeps else 0.0)
        for held in list(self._held.values()):
            try:
                if held.final == _ALL_STREAMS:
                    await self._retire(held, written_before)
                elif held.asked and held.shipped:
                    await _see_through(held.journal.unlink_shipped, held.shipped, written_before)
            except OSError as error:
                self._tell_unreadable(held.journal.id, error)

    async def _retire(self, held: _Held, written_before: float) -> None:
        """Segments first, then the watermarks, then the directory: a crash in between leaves nothing to ship twice."""
        journal = held.journal
        oldest = await _see_through(journal.unlink_old, written_before)
        if oldest is None:
            await self._store.forget(journal.id)
        del self._held[journal.id]
        if oldest is not None:
            journal.release()
            self._done[journal.id] = oldest + self._keep_seconds
            return
        self._done[journal.id] = math.inf
        await _see_through(journal.remove_directory)
        del self._done[journal.id]

    # --- Shipping -----------------------------------------------------------------------------------------------------

    async def _ship(self, until: float) -> tuple[bool, Exception | None]:
        """A batch of each stream in turn while there is more; returns whether there is, and the first trouble.

        Journals that are still written come first, each of them and one other however long it takes. Of the others,
        those come first that had no turn for longest.
        """
        for held in self._held.values():
            held.final.clear()
        written = [held for held in self._held.values() if not held.journal.is_left]
        left = [held for held in self._held.values() if held.journal.is_left]
        waiting = deque((held, stream) for held in (*written, *left) for stream in Stream)
        owed = len(Stream) * (len(written) + bool(left))
        trouble: Exception | None = None
        ahead: Ahead[_Ready] = Ahead()
        try:
            while waiting and (owed > 0 or time.monotonic() < until):
                owed -= 1
                held, stream = turn = waiting.popleft()
                self._held[held.journal.id] = self._held.pop(held.journal.id)  # behind all that had no turn yet
                try:
                    more = await self._ship_batch(held, stream, ahead, waiting[0] if waiting else turn)
                except (StoreUnavailable, SchemaError):
                    raise
                except Conflict as error:
                    self._count_failure("conflict")
                    self._troubles.tell((held.journal.id, "conflict"), "a journal has two shippers", error)
                    more = True
                except Exception as error:
                    trouble = trouble or error
                    more = False
                if more:
                    waiting.append(turn)
        finally:
            await ahead.drop()
        return bool(waiting), trouble

    async def _ship_batch(self, held: _Held, stream: Stream, ahead: Ahead[_Ready], following: _Turn) -> bool:
        """Ships the stream's next batch, and reads ahead meanwhile; True if there is more to be read at once."""
        journal = held.journal
        if held.shipped is None or not held.asked:
            held.shipped, held.asked = await self._store.watermarks(journal.id), True
        start = held.shipped.get(stream)
        try:
            ready = await ahead.take((journal, stream, start), partial(self._read, journal, stream, start))
        except OSError as error:
            self._tell_unreadable(journal.id, error, stream)
            return False
        self._troubles.end((journal.id, stream), "the journal can be read again", journal=journal.id)
        batch, reading = ready
        if reading.end == (start or START):
            if reading.final:
                held.final.add(stream)
            return False
        if following != (held, stream):
            self._read_ahead(ahead, *following)
        elif reading.more:
            ahead.begin((journal, stream, reading.end), partial(self._read, journal, stream, reading.end))
        try:
            written = await self._store.write(batch)
        except BaseException:
            held.asked = False  # nobody knows whether it was committed
            raise
        held.shipped[stream] = reading.end
        self._count(batch, reading, written)
        return reading.more

    def _read_ahead(self, ahead: Ahead[_Ready], held: _Held, stream: Stream) -> None:
        """Begins with a stream's next batch, if it is known where that begins."""
        if held.asked and held.shipped is not None:
            start = held.shipped.get(stream)
            ahead.begin((held.journal, stream, start), partial(self._read, held.journal, stream, start))

    async def _read(self, journal: Journal, stream: Stream, start: Position | None) -> _Ready:
        """What lies behind a position, decoded; OSError if it cannot be read."""
        reading = await _see_through(journal.read, stream, start or START, self._max_rows, self._max_bytes)
        batch: Batch[Any] = Batch(journal.id, stream, start, reading.end)
        for begin in range(0, len(reading.lines), SLICE_LINES):
            batch.take(reading.lines[begin : begin + SLICE_LINES], self._store.pack)
            await asyncio.sleep(0)
        if stream is Stream.REDUCED:
            batch.shuffle()
        return batch, reading

    # --- House and counters -------------------------------------------------------------------------------------------

    async def _keep_house(self) -> None:
        if time.monotonic() < self._house_at:
            return
        failed = await self._store.keep_house()
        for error in failed:
            self._metrics.housekeeping_failures.inc()
            self._troubles.tell("house", "day keys, months or retention are not seen to; trying on", error)
        if not failed:
            self._troubles.end("house", "day keys, months and retention are seen to again")
        self._house_at = time.monotonic() + (HOUSE_RETRY_SECONDS if failed else HOUSE_SECONDS)
        self._ask_anew()

    def _ask_anew(self) -> None:
        """Believes nothing that the store said before: it may have been restored from a backup."""
        for held in self._held.values():
            held.asked = False
        self._done.clear()

    def _measure(self) -> None:
        now = time.time()
        oldest = min((_oldest_unshipped(held) for held in self._held.values()), default=math.inf)
        try:
            used = journal_bytes(self._journals)
            self._metrics.journal_bytes.set(used)
            self._decide_keeping(used)
        except OSError as error:
            self._tell_unreadable(self._journals.name, error)
        # A shipper without a journal keeps silent: what the others measure counts.
        if self._held or self._measured:
            self._metrics.oldest_unshipped.set(max(0.0, now - min(oldest, now)))
        self._measured = bool(self._held)
        self._let_new_hits_pass()

    def _let_new_hits_pass(self) -> None:
        """Asks the writers of journals in which too much waits to move on, so that it does not hold up what comes."""
        waiting = {held: _unshipped_bytes(held) for held in self._held.values()}
        bound = max(BACKLOG_BYTES, BACKLOG_PART * sum(waiting.values()))
        for held, size in waiting.items():
            if size > bound and not (held.journal.is_left or held.asked_to_move_on):
                held.asked_to_move_on = True
                try:
                    held.journal.ask_to_move_on()
                except OSError as error:  # then what waits is shipped before what comes
                    self._tell_unreadable(held.journal.id, error)

    def _decide_keeping(self, used: int) -> None:
        """Whether there is room to keep shipped segments for `journal_keep_hours`."""
        keeps = used < self._keep_bytes
        if keeps is not self._keeps:
            self._keeps = keeps
            self._done.clear()  # what was to be kept for longer is looked at again
            (_log.info if keeps else _log.warning)(
                "shipped segments are kept again" if keeps else "shipped segments go early; the journals fill up"
            )

    def _count(self, batch: Batch[Any], reading: Reading, written: Written) -> None:
        metrics = self._metrics
        self._rows += written.rows
        metrics.hits_shipped.labels(batch.stream.value).inc(written.rows)
        metrics.clock_clamped.inc(written.clamped)
        metrics.lines_quarantined.labels("damaged").inc(len(batch.damaged))
        metrics.lines_quarantined.labels("refused").inc(written.refused)
        metrics.torn_tails.inc(reading.torn)
        metrics.segments_short.inc(reading.short)
        metrics.segments_missing.inc(reading.missing)

    def _count_failure(self, reason: str) -> None:
        self._metrics.ship_failures.labels(reason).inc()

    def _tell_unreadable(self, name: str, error: OSError, stream: Stream | None = None) -> None:
        self._count_failure("unreadable")
        sentence = "a journal cannot be read or cleared away; check its files and the disk"
        self._troubles.tell((name, stream), sentence, error, journal=name)


async def _see_through(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs it in a thread, to its end even if we are cancelled: what it began is never left half done."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        running.exception()  # told by whoever does this work next
        raise


def _unshipped_bytes(held: _Held) -> int:
    """What waits in the journal, as far as it can be looked at; all of it while the store was never asked."""
    waiting = 0
    for stream in Stream:
        position = (held.shipped or {}).get(stream, START)
        with contextlib.suppress(OSError):  # told where it is shipped
            waiting += bytes_behind(held.journal.directory, stream, position.segment, position.offset)
    return waiting


def _oldest_unshipped(held: _Held) -> float:
    """The Unix time of the journal's oldest hit that is not shipped, not later than it was; infinite without one."""
    return min(_first_unshipped(held, stream) for stream in Stream)


def _first_unshipped(held: _Held, stream: Stream) -> float:
    start = (held.shipped or {}).get(stream, START)
    try:
        lines = held.journal.read(stream, start, 1, _PEEK_BYTES).lines
        if not lines:
            return math.inf
        if held.shipped is None:  # we have not heard yet where it begins
            return held.since
        hit = decode_line(lines[0])
        return hit.at.timestamp() + _COARSE_SECONDS.get(hit.mode, 0.0)
    except (OSError, DamagedLine, OverflowError):  # told where it is shipped
        return math.inf


def _back_off_seconds(failures: int) -> float:
    """Exponential with full jitter: shippers that lost the same database do not come back in step."""
    return random.uniform(0, min(MAX_BACK_OFF_SECONDS, MIN_BACK_OFF_SECONDS * 2 ** min(failures, 16)))


def _show_zeros(metrics: Metrics) -> None:
    """Makes the counters of what should not happen visible before it does, so that the first one is an increase."""
    for reason in ("damaged", "refused"):
        metrics.lines_quarantined.labels(reason)
    for reason in ("unavailable", "conflict", "unreadable", "other"):
        metrics.ship_failures.labels(reason)
    for stream in Stream:
        metrics.hits_shipped.labels(stream.value)
