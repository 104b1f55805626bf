"""What the shipper's tests share: hits, journals that really were written, and what the database says of them."""

import os
import time
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from app.config import Settings
from app.journal.segments import Stream, segment_path
from app.journal.writer import JournalWriter
from app.metrics import Metrics
from app.shipper.ship import Shipper
from app.tracking.hits import Hit
from app.tracking.modes import Mode
from app.tracking.tokens import Kind

NOW = datetime.now(UTC)
PERSON = Hit(1, Kind.CLICK, Mode.PERSON_BASED, NOW - timedelta(minutes=5), 7, 8, 9, 2, True, "human", recipient="4711")
ANONYMIZED = Hit(
    2, Kind.OPEN, Mode.ANONYMIZED, PERSON.at.replace(second=0, microsecond=0), 7, 8, 9, 0, True, "proxy", pseudonym=b"p"
)
AGGREGATE = replace(ANONYMIZED, mode=Mode.AGGREGATE, at=ANONYMIZED.at.replace(minute=0), pseudonym=None)


def settings_of(data: Path, **changes: Any) -> Settings:
    return Settings(data_directory=data, **changes)


def shipper_of(data: Path, url: str, **changes: Any) -> tuple[Shipper, Metrics]:
    metrics = Metrics()
    return Shipper(settings_of(data, **changes), url, metrics), metrics


def numbered(hit: Hit, ids: Iterable[int]) -> list[Hit]:
    return [replace(hit, hit_id=number) for number in ids]


def open_journal(data: Path, segment_bytes: int = 2**20) -> JournalWriter:
    return JournalWriter(data / "journals", segment_bytes=segment_bytes, max_bytes=2**30)


def write(writer: JournalWriter, hits: Iterable[Hit]) -> None:
    assert [loss for hit in hits if (loss := writer.append(hit))] == []


def write_journal(data: Path, hits: Iterable[Hit], segment_bytes: int = 2**20) -> Path:
    """The directory of a journal whose writer is gone."""
    writer = open_journal(data, segment_bytes)
    write(writer, hits)
    writer.close()
    return writer.directory


def first(journal: Path, stream: Stream = Stream.IDENTIFIED) -> Path:
    return segment_path(journal, stream, 1)


def grow_old(journal: Path, hours: float) -> None:
    """Lets the journal look as if it was last written so many hours ago."""
    then = time.time() - hours * 3600
    for path in (*journal.glob("*.seg"), journal):
        os.utime(path, (then, then))


async def ids(connection: asyncpg.Connection) -> Counter[int]:
    return Counter(row["id"] for row in await connection.fetch("select id from mailtrail.hits"))


async def quarantined(connection: asyncpg.Connection) -> list[tuple[str, str, bytes]]:
    rows = await connection.fetch("select stream, reason, line from mailtrail.quarantine order by id")
    return [tuple(row) for row in rows]


async def totals_agree(connection: asyncpg.Connection) -> bool:
    """Whether the totals are what SQL counts in the hits."""
    counted = """
        select mailing_id, date_trunc('hour', at, 'UTC'), kind, link, registered, mode, agent, space_id, event_id,
            count(*)
        from mailtrail.hits group by 1, 2, 3, 4, 5, 6, 7, 8, 9"""
    kept = """
        select mailing_id, hour, kind, link, registered, mode, agent, space_id, event_id, hits
        from mailtrail.hit_totals"""
    return set(await connection.fetch(counted)) == set(await connection.fetch(kept))


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """A metric's value; without labels of one that has them, the sum."""
    samples = [
        sample
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
        if sample.name in (f"mailtrail_{name}", f"mailtrail_{name}_total") and labels.items() <= sample.labels.items()
    ]
    assert samples, f"no metric {name} {labels}"
    return sum(sample.value for sample in samples)
