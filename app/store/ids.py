"""Random ids. Never serial: a restored backup must not hand an old id to something new."""

import secrets
from collections.abc import Awaitable, Callable

from ..errors import SettingsError
from .pool import Row

SPACE_BITS = EVENT_BITS = KEY_BITS = 32
MAILING_BITS = 48
_ATTEMPTS = 5


async def with_new_id(bits: int, insert: Callable[[int], Awaitable[Row | None]], taken: str) -> Row:
    """Inserts under a random id. The name is the likely reason for a refusal, a used id nearly never is."""
    for _ in range(_ATTEMPTS):
        row = await insert(secrets.randbelow(2**bits - 1) + 1)
        if row is not None:
            return row
    raise SettingsError(taken, field="name")
