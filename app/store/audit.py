"""The audit log: who changed what, from which state to which. Invariant: written in the change's own transaction."""

import orjson

from .pool import Connection, Row
from .queries import queries


async def audit(
    connection: Connection, who: str, action: str, space: int | None, name: str, old: object = None, new: object = None
) -> None:
    """Records a change of the object `name`; the states are anything that JSON can hold, None where there is none."""
    states = [None if state is None else orjson.dumps(state, default=str).decode() for state in (old, new)]
    await connection.execute(queries("settings")["audit"], who, action, space, name, *states)


async def page_of_audit(
    connection: Connection, *, space: int | None = None, before: int | None = None, limit: int = 50
) -> list[Row]:
    """Entries of a space or of all, the newest first, from behind an entry's id on; the states are JSON texts."""
    return await connection.fetch(queries("settings")["audit_page"], space, before, limit)
