"""Makes a database ready for the first hit: the schema, and the day keys that pseudonyms need from the start."""

import structlog

from ..config import Settings
from . import snapshot
from .day_keys import keep_day_keys, restore_day_keys
from .migrate import migrate
from .pool import Connection

_log = structlog.get_logger()


async def install(connection: Connection, settings: Settings) -> list[str]:
    """Migrates and makes the keys up to a week ahead; returns what was applied. Safe to run at every start.

    Days of which the copy of the settings on disk has a key keep it: the database may have been restored.
    """
    applied = await migrate(connection)
    try:
        kept = snapshot.restore(settings.snapshot_file)
    except snapshot.SnapshotDamaged as error:
        _log.warning(str(error))
        kept = None
    if kept is not None:
        held = snapshot.build(kept[0], settings.anonymization_days)
        await restore_day_keys(connection, held.day_keys)
    await keep_day_keys(connection, anonymization_days=settings.anonymization_days)
    return applied
