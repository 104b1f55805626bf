"""One collector process from start to stop: journal, settings, application, private port.

Invariant: it starts and redirects without the database if a copy of the settings is on disk; it never starts on a
schema that it does not know.
"""

import asyncio
import time
from types import TracebackType
from typing import Self

import structlog

from ..config import Settings
from ..errors import SchemaError
from ..health import Health, private_app, serve_private
from ..journal.keeper import JournalKeeper
from ..journal.writer import JournalWriter
from ..logs import place_of
from ..metrics import Metrics
from ..store.follower import SnapshotFollower
from .asgi import TrackingLane, public_app
from .collector import Collector

FIRST_LOAD_SECONDS = 10.0
SEGMENT_SECONDS = 3600.0
"""Age at which a journal's segment is closed though it is not full: until then nothing in it can be removed."""

_LOOK_SECONDS = 60.0
_PUBLISH_SECONDS = 0.2
_log = structlog.get_logger()


class CollectorRuntime:
    """An asynchronous context: inside it `app` answers; leaving it closes the journal."""

    app: TrackingLane

    def __init__(self, settings: Settings, database_url: str, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._tasks: list[asyncio.Task[None]] = []
        self._follower = SnapshotFollower(
            database_url,
            settings.snapshot_file,
            anonymization_days=settings.anonymization_days,
            max_age_seconds=settings.snapshot_max_age_hours * 3600,
            metrics=metrics,
        )

    async def __aenter__(self) -> Self:
        await self._load_settings()
        settings, journals = self._settings, self._settings.journals_directory
        writer = JournalWriter(
            journals, segment_bytes=settings.journal_segment_bytes, max_bytes=settings.journal_max_bytes
        )
        self._keeper = JournalKeeper(writer, journals, max_bytes=settings.journal_max_bytes)
        self._keeper.start()
        collector = Collector(settings, self._metrics, writer, self._follower, time.time)
        self.app = public_app(
            collector,
            settings,
            self._metrics,
            self.health,
            journal_durable=self._keeper.durable if settings.durability == "disk" else None,
        )
        self._tasks.append(asyncio.create_task(self._follower.run(), name="settings"))
        self._tasks.append(asyncio.create_task(_close_old_segments(writer), name="segments"))
        self._tasks.append(asyncio.create_task(self._publish(collector), name="metrics"))
        if settings.private_port:
            private = private_app(self._metrics, self.health)
            self._tasks.append(
                asyncio.create_task(
                    serve_private(private, settings.private_host, settings.private_port), name="private"
                )
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.app.turn.collector.publish()
        await asyncio.to_thread(self._keeper.close)

    def health(self) -> Health:
        """Whether this process does its work. A database that is away is no reason to take a collector out."""
        problems, warnings = self._keeper.problems(), self._keeper.warnings()
        if self._follower.current is None:
            problems.append("no_settings")
        elif not self._follower.confirmed:
            warnings.append("settings_unconfirmed")
        if not self._follower.connected:
            warnings.append("database_away")
        return Health(problems, warnings)

    async def _publish(self, collector: Collector) -> None:
        while True:
            await asyncio.sleep(_PUBLISH_SECONDS)
            collector.publish()
            # A shipper that is dead tells no age: the alarm must not end with it.
            if (unread := self._keeper.unread_seconds()) is not None:
                self._metrics.oldest_unshipped.set(unread)

    async def _load_settings(self) -> None:
        self._follower.restore()
        try:
            async with asyncio.timeout(FIRST_LOAD_SECONDS):
                await self._follower.refresh()
        except SchemaError:
            raise
        except Exception as error:  # whatever it is that a database does as it goes down: links must work
            kept = "with the last copy of the settings" if self._follower.current else "without settings yet"
            _log.warning(f"the database is away; starting {kept}", error=place_of(error))


async def _close_old_segments(writer: JournalWriter) -> None:
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        writer.rotate_old(SEGMENT_SECONDS)
