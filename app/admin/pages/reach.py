"""Which spaces somebody or something new reaches: one that was chosen in the form, or all of them.

Invariant: all of them is never the answer to a form that does not say so.
"""

import re

from starlette.datastructures import FormData

from ...errors import NotFound, SettingsError
from ...store import settings as store
from ...store.pool import Connection
from .attempts import text
from .web import Visit

ALL = "all"
_HEX = re.compile(r"[0-9a-f]{8}")


async def chosen_space(visit: Visit, connection: Connection, form: FormData) -> int | None:
    """The space of the field `space`, None for all; SettingsError where nothing that is there was chosen."""
    chosen = text(form, "space")
    if chosen == ALL:
        visit.who.check_everything()
        return None
    try:
        if _HEX.fullmatch(chosen) is None:
            raise NotFound("there is no such space")
        visit.who.check_space(int(chosen, 16))
        return int((await store.get_space(connection, int(chosen, 16)))["id"])
    except NotFound:
        raise SettingsError("choose one space, or all of them", field="space") from None
