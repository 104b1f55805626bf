"""Brings the database's schema to the one this program knows, and refuses to start on any other.

Migrations are plain SQL files `NNNN_name.sql`, applied in order, each in a transaction with its entry in
`mailtrail.migrations`, under an advisory lock. The analysts' views are applied after them, whenever their text changed.
Invariant: an applied migration never changes (checksums tell), and a database that is newer than the program is never
touched.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..errors import SchemaError
from .pool import Connection

_PACKAGE = Path(__file__).parent.parent
# In a wheel sql/ lies inside the package, in a checkout beside it.
SQL_DIRECTORY = next(d for d in (_PACKAGE / "sql", _PACKAGE.parent / "sql") if d.is_dir())
# "mailtrai", as a 64-bit number: one migrator at a time in one database.
_LOCK = 0x6D61696C74726169


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its number, its name without the ending, its text."""

    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def known_migrations(directory: Path = SQL_DIRECTORY / "migrations") -> list[Migration]:
    """The migrations of this program, in order."""
    return [Migration(int(p.name[:4]), p.stem, p.read_text()) for p in sorted(directory.glob("[0-9]*.sql"))]


async def migrate(connection: Connection, migrations: list[Migration] | None = None) -> list[str]:
    """Applies what is pending and returns the names; SchemaError if the database is not of this program's line."""
    migrations = known_migrations() if migrations is None else migrations
    await connection.execute("select pg_advisory_lock($1)", _LOCK)
    try:
        await connection.execute((SQL_DIRECTORY / "migrations" / "ledger.sql").read_text())
        pending = await _pending(connection, migrations)
        for migration in pending:
            async with connection.transaction():
                await connection.execute(migration.sql)
                await connection.execute(
                    "insert into mailtrail.migrations (number, name, checksum) values ($1, $2, $3)",
                    migration.number,
                    migration.name,
                    migration.checksum,
                )
        if await _views_applied(connection) != _views().checksum:
            await _apply_views(connection)
    finally:
        await connection.execute("select pg_advisory_unlock($1)", _LOCK)
    return [migration.name for migration in pending]


async def check(connection: Connection, migrations: list[Migration] | None = None) -> None:
    """SchemaError unless the database has exactly this program's schema; changes nothing."""
    if await connection.fetchval("select to_regclass('mailtrail.migrations') is null"):
        raise SchemaError("the database has no Mailtrail schema yet; run `mailtrail migrate`")
    pending = await _pending(connection, known_migrations() if migrations is None else migrations)
    if pending:
        raise SchemaError(f"the database lacks {', '.join(m.name for m in pending)}; run `mailtrail migrate`")
    if await _views_applied(connection) != _views().checksum:
        raise SchemaError("the analysts' views are not this program's; run `mailtrail migrate`")


@cache
def _views() -> Migration:
    """All views as one text; number 0, because it is applied anew whenever it changes."""
    files = sorted((SQL_DIRECTORY / "analytics").glob("*.sql"))
    return Migration(0, "analytics", "\n".join(file.read_text() for file in files))


async def _views_applied(connection: Connection) -> str | None:
    """The checksum of the views that the database has."""
    checksum: str | None = await connection.fetchval("select checksum from mailtrail.migrations where number = 0")
    return checksum


async def _apply_views(connection: Connection) -> None:
    async with connection.transaction():
        await connection.execute(_views().sql)
        await connection.execute("delete from mailtrail.migrations where number = 0")
        await connection.execute(
            "insert into mailtrail.migrations (number, name, checksum) values (0, 'analytics', $1)", _views().checksum
        )


async def _pending(connection: Connection, migrations: list[Migration]) -> list[Migration]:
    rows = await connection.fetch(
        "select number, name, checksum from mailtrail.migrations where number > 0 order by number"
    )
    known = {migration.number: migration for migration in migrations}
    for row in rows:
        migration = known.get(row["number"])
        if migration is None:
            raise SchemaError(
                f"the database has migration {row['name']}, which this program does not know;"
                " install the version that made it, or a newer one"
            )
        if migration.checksum != row["checksum"]:
            raise SchemaError(f"migration {row['name']} is not the file that was applied; restore the released file")
    applied = {row["number"] for row in rows}
    return [migration for migration in migrations if migration.number not in applied]
