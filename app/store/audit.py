"""The audit log: who changed what, from which state to which. Invariant: written in the change's own transaction."""

import orjson

from .pool import Connection
from .queries import queries


async def audit(
    connection: Connection, who: str, action: str, space: int | None, name: str, old: object = None, new: object = None
) -> None:
    """Records a change of the object `name`; the states are anything that JSON can hold, None where there is none."""
    states = [None if state is None else orjson.dumps(state, default=str).decode() for state in (old, new)]
    await connection.execute(queries("settings")["audit"], who, action, space, name, *states)
