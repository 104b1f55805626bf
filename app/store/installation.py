"""Makes a database ready for the first hit: the schema, and the day keys that pseudonyms need from the start."""

from .day_keys import keep_day_keys
from .migrate import migrate
from .pool import Connection


async def install(connection: Connection, anonymization_days: int) -> list[str]:
    """Migrates and makes the keys up to a week ahead; returns what was applied. Safe to run at every start."""
    applied = await migrate(connection)
    await keep_day_keys(connection, anonymization_days=anonymization_days)
    return applied
