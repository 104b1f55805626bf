"""API keys: what programs sign in with. Only the hash of the secret is kept.

Invariant: the secret is given out once, when the key is made; every change is committed with its audit entry.
"""

from collections.abc import Collection

from ..errors import NotFound, SettingsError
from ..tracking.settings import check_name
from .audit import audit
from .credentials import digest, new_secret
from .ids import KEY_BITS, with_new_id
from .pool import Connection, Row
from .queries import queries

_SQL = queries("api_keys")
SCOPES = ("read", "write", "mint", "privacy", "relay")
PREFIX = "mtk_"


async def list_api_keys(connection: Connection, space: int | None = None) -> list[Row]:
    """Keys of a space or of all, without their secrets, the newest first."""
    return await connection.fetch(_SQL["list"], space)


async def create_api_key(
    connection: Connection, who: str, name: str, scopes: Collection[str], space: int | None = None
) -> tuple[Row, str]:
    """A new key of one space, or with None of all, and its secret, which is given out only here."""
    name = check_name(name, "key")
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise SettingsError(f"a key has scopes out of {', '.join(SCOPES)}", field="scopes")
    granted = [scope for scope in SCOPES if scope in scopes]
    secret = PREFIX + new_secret()
    async with connection.transaction():
        row = await with_new_id(
            KEY_BITS,
            lambda new: connection.fetchrow(_SQL["create"], new, digest(secret), name, granted, space, who),
            "the key cannot be made; try again",
        )
        await audit(connection, who, "API key created", space, name, new={"scopes": granted})
    return row, secret


async def api_key_of(connection: Connection, secret: str) -> Row | None:
    """The key of a secret, noted as used; None if there is none or it is revoked."""
    if not secret.startswith(PREFIX):
        return None
    row = await connection.fetchrow(_SQL["find"], digest(secret))
    if row is not None and row["is_use_due"]:
        await connection.execute(_SQL["use"], row["id"])
    return row


async def revoke_api_key(connection: Connection, who: str, key: int, space: int | None = None) -> None:
    """At once and for good; NotFound if it is not of this space, or was revoked before."""
    async with connection.transaction():
        row = await connection.fetchrow(_SQL["revoke"], key, space)
        if row is None:
            raise NotFound("there is no such key")
        await audit(connection, who, "API key revoked", row["space_id"], row["name"])
