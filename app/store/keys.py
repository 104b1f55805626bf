"""Token keys in the vault: made, rotated, revoked, exported and imported.

Invariant: a key is never deleted, or every link sealed with it would be dead; each space has at most one minting key.
"""

from collections.abc import Collection
from typing import Any, NamedTuple

import asyncpg

from ..errors import NotFound, SettingsError
from ..tracking.settings import check_name
from ..tracking.tokens import SECRET_BYTES, Key, KeyRing, KeyState
from .audit import audit
from .pool import Connection
from .queries import queries

_SQL = queries("settings")
EXPORT_FORMAT = 1
KEY_BITS = 24


async def list_keys(connection: Connection, space: int | None = None) -> list[asyncpg.Record]:
    """Keys of a space or of all, without their secrets."""
    return await connection.fetch(_SQL["keys"], space)


async def find_key(connection: Connection, key_id: int) -> asyncpg.Record:
    """A key with its space's name, without its secret."""
    for row in await list_keys(connection):
        if row["id"] == key_id:
            return row
    raise NotFound(f"there is no key {_name(key_id)}; `mailtrail keys list` shows them")


async def key_ring(connection: Connection, space: int | None, key_ids: Collection[int] = ()) -> KeyRing:
    """The keys of a space, None for no space, and those of these ids: to mint, and to open what they sealed."""
    rows = await connection.fetch(_SQL["ring_keys"], space, list(key_ids))
    return KeyRing({row["id"]: Key(row["id"], row["space_id"], row["secret"], KeyState(row["state"])) for row in rows})


async def create(connection: Connection, who: str, space: int) -> int:
    """Makes the minting key of a space that has none, as after a revocation; returns its id."""
    async with connection.transaction():
        await connection.execute(_SQL["lock_space"], space)
        for row in await list_keys(connection, space):
            if row["state"] == KeyState.MINTING.value:
                raise SettingsError(
                    f"the space mints with key {_name(row['id'])} already; `mailtrail keys rotate` replaces it"
                )
        return await rotate(connection, who, space)


async def rotate(connection: Connection, who: str, space: int) -> int:
    """Makes a new minting key; the one before only decodes from now on. Returns the new key's id."""
    async with connection.transaction():
        # One at a time: the second of two would neither see nor be able to retire the first one's new key.
        await connection.execute(_SQL["lock_space"], space)
        old = await connection.fetchval(_SQL["retire_minting"], space)
        key_id = None
        while key_id is None:  # of 24 random bits one may be taken
            key = Key.generate(space)
            key_id = await connection.fetchval(_SQL["add_key"], key.key_id, space, key.secret, key.state.value)
        await audit(connection, who, "key made", space, _name(key_id), old and _name(old), _name(key_id))
    return int(key_id)


async def revoke(connection: Connection, who: str, key_id: int) -> None:
    """From now on the key opens nothing: every link sealed with it leads to a 404."""
    async with connection.transaction():
        key = await connection.fetchrow(_SQL["key"], key_id)
        if key is None:
            raise NotFound(f"there is no key {_name(key_id)}; `mailtrail keys list` shows them")
        await connection.execute(_SQL["change_key"], key_id, KeyState.REVOKED.value)
        await audit(connection, who, "key revoked", key["space_id"], _name(key_id), key["state"], "revoked")


async def export(connection: Connection, who: str, space: int | None = None) -> dict[str, Any]:
    """The keys with their secrets, as JSON can hold them; whoever has it can open and forge the spaces' tokens."""
    async with connection.transaction():
        rows = await connection.fetch(_SQL["key_secrets"], space)
        await connection.execute(_SQL["mark_exported"], [row["id"] for row in rows])
        await audit(connection, who, "keys exported", space, f"{len(rows)} keys")
    return {
        "mailtrail_keys": EXPORT_FORMAT,
        "keys": [
            {
                "id": _name(row["id"]),
                "space": f"{row['space_id']:08x}",
                "space_name": row["space_name"],
                "space_deleted": row["space_deleted"],
                "state": row["state"],
                "secret": row["secret"].hex(),
            }
            for row in rows
        ],
    }


class ExportedKey(NamedTuple):
    """A key with what is needed to make its space again: a deleted one stays a tombstone, which records nothing."""

    key: Key
    space_name: str
    space_deleted: bool


def read_export(document: object) -> list[ExportedKey]:
    """The keys of an export, oldest first; SettingsError if it is none."""
    try:
        if not isinstance(document, dict) or document["mailtrail_keys"] != EXPORT_FORMAT:
            raise ValueError("not an export of this version")
        return [
            ExportedKey(_read_key(entry), check_name(entry["space_name"], "space"), entry["space_deleted"] is True)
            for entry in document["keys"]
        ]
    except KeyError as error:
        raise SettingsError(f"this is no file of `mailtrail keys export` ({error} is missing)") from None
    except (AttributeError, TypeError, ValueError, SettingsError) as error:
        raise SettingsError(f"this is no file of `mailtrail keys export` ({error})") from None


def _read_key(entry: dict[str, str]) -> Key:
    key = Key(int(entry["id"], 16), int(entry["space"], 16), bytes.fromhex(entry["secret"]), KeyState(entry["state"]))
    if not 0 < key.key_id < 2**KEY_BITS or not 0 < key.space < 2**32:
        raise ValueError("an id is out of range")
    if len(key.secret) != SECRET_BYTES:
        raise ValueError(f"a secret has {SECRET_BYTES} bytes")
    return key


async def import_keys(connection: Connection, who: str, document: object) -> tuple[int, int]:
    """Adds exported keys, and their spaces where they are missing; returns (added, already there).

    A key that is there is left alone if it is the same, and refused if it is another one under the same id. Where the
    space has a minting key, imported ones only decode.
    """
    added = 0
    exported = read_export(document)
    async with connection.transaction():
        for key, space_name, space_deleted in exported:
            await connection.execute(_SQL["import_space"], key.space, space_name, space_deleted)
            await connection.execute(_SQL["lock_space"], key.space)
            there = await connection.fetchrow(_SQL["key"], key.key_id)
            if there is None:
                mints = any(row["state"] == "minting" for row in await list_keys(connection, key.space))
                state = KeyState.DECODING if mints and key.state is KeyState.MINTING else key.state
                await connection.execute(_SQL["add_key"], key.key_id, key.space, key.secret, state.value)
                added += 1
            elif (there["space_id"], there["secret"]) != (key.space, key.secret):
                raise SettingsError(f"another key has the id {_name(key.key_id)}; nothing was imported")
        await audit(connection, who, "keys imported", None, f"{added} keys")
    return added, len(exported) - added


def _name(key_id: int) -> str:
    return f"{key_id:06x}"
