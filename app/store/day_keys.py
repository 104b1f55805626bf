"""The life of day keys: made a week ahead, destroyed when their time is over, put back after a crash.

Invariants: a day never gets a second key, or one message would have two pseudonyms (the log's row says that it had
one); a destroyed key comes back from nowhere: its table's file is unlinked, and it never was in the write-ahead log.
"""

import hashlib
from collections.abc import Mapping
from datetime import date

import structlog

from ..tracking.pseudonyms import new_day_key
from .pool import Connection
from .queries import queries

DAYS_AHEAD = 7
_SQL = queries("day_keys")
_log = structlog.get_logger()


def fingerprint(key: bytes) -> bytes:
    """16 bytes that recognise a key without telling it."""
    return hashlib.blake2b(key, digest_size=16, person=b"mailtrail-daykey").digest()


async def keep_day_keys(connection: Connection, *, anonymization_days: int) -> None:
    """Makes the keys up to a week ahead and destroys those older than `anonymization_days`; safe to run anywhere."""
    for row in await connection.fetch(_SQL["missing_days"], DAYS_AHEAD):
        key = new_day_key()
        await connection.fetchval(_SQL["make"], row["day"], key, fingerprint(key))
    for row in await connection.fetch(_SQL["overdue_days"], anonymization_days):
        if await connection.fetchval(_SQL["destroy"], row["day"]):
            _log.info("day key destroyed", day=row["day"].isoformat())


async def restore_day_keys(connection: Connection, held: Mapping[date, bytes]) -> dict[date, bytes]:
    """Puts back the held keys that the database lost and should have; returns the held keys that are genuine.

    A day of which a database restored from an old backup never heard had the held key, and must not get another one.
    """
    genuine = {}
    logged = {row["day"]: row for row in await connection.fetch(_SQL["logged"])}
    for day, key in held.items():
        log = logged.get(day)
        if log is None:
            lost = await connection.fetchval(_SQL["make"], day, key, fingerprint(key))
        elif log["destroyed"] or log["fingerprint"] != fingerprint(key):
            continue
        else:
            lost = await connection.fetchval(_SQL["restore"], day, key, log["fingerprint"])
        genuine[day] = key
        if lost:
            _log.warning("day key put back into the database, which had lost it", day=day.isoformat())
    return genuine
