"""The audit log as CSV, for programs and for spreadsheets.

Invariant: nothing in it is a formula to a spreadsheet.
"""

import csv
import io
from collections.abc import AsyncIterator, Iterable
from datetime import UTC

from ..store import audit as store
from ..store.pool import Database, Row

COLUMNS = ("id", "at", "who", "action", "space", "space_name", "object", "old", "new")
_ROWS = 1_000
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")


async def audit_csv(database: Database, space: int | None) -> AsyncIterator[str]:
    """All entries, the newest first. A connection is held for each thousand only, however slow the reader is."""
    yield _lines([COLUMNS])
    before: int | None = None
    while True:
        async with database.connection() as connection:
            rows = await store.page_of_audit(connection, space=space, before=before, limit=_ROWS)
        if rows:
            yield _lines(map(_cells, rows))
            before = rows[-1]["id"]
        if len(rows) < _ROWS:
            return


def _cells(row: Row) -> list[str]:
    at, space = row["at"].astimezone(UTC).isoformat(), row["space_id"]
    shown = dict(row) | {"at": at, "space": None if space is None else f"{space:08x}"}
    return [_harmless("" if shown[name] is None else str(shown[name])) for name in COLUMNS]


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_FORMULAS) else cell


def _lines(rows: Iterable[Iterable[str]]) -> str:
    written = io.StringIO()
    csv.writer(written).writerows(rows)
    return written.getvalue()
