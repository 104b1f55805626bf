"""The follower: keeps a process's snapshot current with the database, and alive without it.

Notifications wake it, a version number polled every second is the truth: a change is in effect within a second.
Invariant: `current` is swapped whole; with the database away it stays, and only its confirmation grows old.
"""

import asyncio
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import structlog

from ..errors import SchemaError
from ..logs import place_of
from ..metrics import Metrics
from ..tracking.snapshot import Snapshot
from . import migrate, snapshot
from .day_keys import restore_day_keys
from .pool import Connection

POLL_SECONDS = 1.0
_TIMEOUT_SECONDS = 5.0
_TOUCH_SECONDS = 60.0
_CHANNEL = "mailtrail_settings"
_log = structlog.get_logger()


class SnapshotFollower:
    """`current` is None until the database or the copy on disk gave a snapshot."""

    def __init__(
        self, database_url: str, file: Path, *, anonymization_days: int, max_age_seconds: float, metrics: Metrics
    ) -> None:
        self.current: Snapshot | None = None
        self._url = database_url
        self._file = file
        self._anonymization_days = anonymization_days
        self._max_age_seconds = max_age_seconds
        self._metrics = metrics
        self._confirmed_at = float("-inf")
        self._touched_at = float("-inf")
        self._saved = False
        self._rows: snapshot.Rows = {}
        self._trouble = ""
        self._wake = asyncio.Event()

    @property
    def unconfirmed_seconds(self) -> float:
        """Seconds since the database last said that `current` is what holds."""
        return time.monotonic() - self._confirmed_at

    @property
    def confirmed(self) -> bool:
        """Whether the settings are young enough to record what they allow; if not, at most anonymized."""
        return time.monotonic() - self._confirmed_at <= self._max_age_seconds

    @property
    def connected(self) -> bool:
        """Whether the database answered lately."""
        return self.unconfirmed_seconds < 2 * POLL_SECONDS + _TIMEOUT_SECONDS

    def restore(self) -> None:
        """Takes the copy on disk, if there is one that can be used; one with keys past their day is written anew."""
        snapshot.clear_drafts(self._file)
        try:
            restored = snapshot.restore(self._file)
        except snapshot.SnapshotDamaged as error:
            _log.warning(str(error))
            return
        if restored:
            rows, age = restored
            self.current = snapshot.build(rows, self._anonymization_days)
            self._rows = rows
            self._saved = True
            self._confirmed_at = time.monotonic() - age

    async def refresh(self) -> None:
        """Connects once and loads; raises SchemaError, OSError or asyncpg's errors. For starts and single commands."""
        connection = await self._connect()
        try:
            await self._load(connection)
        finally:
            await connection.close()

    async def run(self) -> None:
        """Follows until it is cancelled; whatever the database does, this goes on."""
        while True:
            try:
                await self._follow()
            except Exception as error:  # whatever it is: without its follower a process would record by old settings
                self._tell_lost(error)
            self._expire()
            await asyncio.sleep(POLL_SECONDS)

    async def _follow(self) -> None:
        connection = await self._connect()
        try:
            await connection.add_listener(_CHANNEL, lambda *_: self._wake.set())
            # Anew even if the version is the same: after a crash the day keys may be gone and ours are needed.
            await self._load(connection)
            self._trouble = ""
            while True:
                await self._pause()
                self._wake.clear()
                version = await connection.fetchval(snapshot.VERSION)
                if self.current is None or version != self.current.version or not self._saved:
                    await self._load(connection)
                self._confirm()
                self._expire()
        finally:
            connection.terminate()

    async def _connect(self) -> Connection:
        connection = await asyncpg.connect(self._url, timeout=_TIMEOUT_SECONDS, command_timeout=_TIMEOUT_SECONDS)
        try:
            await migrate.check(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _load(self, connection: Connection) -> None:
        held = self.current.day_keys if self.current else {}
        genuine = await restore_day_keys(connection, held)
        rows = await snapshot.read_rows(connection)
        self.current = snapshot.build(rows, self._anonymization_days, held=genuine)
        self._rows = rows
        self._save()
        self._confirm()

    def _save(self) -> None:
        """Writes the copy; as long as it cannot be, every look at the database tries again."""
        self._saved = False
        if self.current is None:
            return
        try:
            snapshot.save(self._file, self._rows, self.current.day_keys)
            self._saved = True
        except OSError as error:
            _log.warning("the settings' copy could not be written", file=str(self._file), error=place_of(error))

    def _confirm(self) -> None:
        now = time.monotonic()
        self._confirmed_at = now
        if self._saved and now - self._touched_at > _TOUCH_SECONDS:
            self._touched_at = now
            try:
                os.utime(self._file)  # its modification time says until when the copy was confirmed
            except OSError as error:
                self._saved = False
                _log.warning(
                    "the settings' copy is gone; it is written anew", file=str(self._file), error=place_of(error)
                )

    def _expire(self) -> None:
        if self.current is not None:
            held, self.current = self.current, self.current.forget_expired(datetime.now(UTC).date())
            if self.current is not held:
                confirmed_at = time.time() - self.unconfirmed_seconds
                self._save()  # the copy must not keep what we forget, also while the database is away
                self._backdate(confirmed_at)
            self._metrics.snapshot_version.set(self.current.version)
            self._metrics.snapshot_age.set(max(0.0, self.unconfirmed_seconds))

    def _backdate(self, confirmed_at: float) -> None:
        """Writing the copy anew confirmed nothing."""
        if self._saved:
            os.utime(self._file, (confirmed_at, confirmed_at))

    async def _pause(self) -> None:
        try:
            await asyncio.wait_for(self._wake.wait(), POLL_SECONDS)
        except TimeoutError:
            return

    def _tell_lost(self, error: BaseException) -> None:
        trouble = str(error) if isinstance(error, SchemaError) else place_of(error)
        if trouble != self._trouble:
            _log.warning("the settings are not followed; trying on every second", error=trouble)
            self._trouble = trouble
