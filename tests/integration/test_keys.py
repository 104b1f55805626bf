"""Token keys in the vault: one mints per space whatever happens at once, and an export brings all of them back."""

import asyncio
from contextlib import AsyncExitStack
from copy import deepcopy
from typing import Any

import pytest

from app.errors import NotFound, SettingsError
from app.store import keys, pool
from app.store import settings as store
from app.store.migrate import migrate
from app.store.pool import Connection
from app.tracking.settings import Notice
from app.tracking.tokens import KeyState

WHO = "test"


@pytest.fixture
async def shop(connection: Connection) -> Connection:
    await migrate(connection)
    await store.create_space(connection, WHO, "Shop")
    return connection


async def space_id(shop: Connection) -> int:
    return (await store.find_space(shop, "Shop"))["id"]


async def states(shop: Connection) -> list[str]:
    return [row["state"] for row in await keys.list_keys(shop)]


async def test_keys_made_at_once_leave_one_that_mints(shop: Connection, database_url: str) -> None:
    space = await space_id(shop)
    async with AsyncExitStack() as stack:
        others = [await stack.enter_async_context(pool.connected(database_url)) for _ in range(4)]
        made = await asyncio.wait_for(asyncio.gather(*(keys.rotate(other, WHO, space) for other in others)), 30)
    assert 4 == len(set(made))
    assert ["decoding"] * 4 + ["minting"] == sorted(await states(shop))


async def test_a_key_is_created_only_where_none_mints(shop: Connection) -> None:
    space = await space_id(shop)
    (first,) = await keys.list_keys(shop)
    with pytest.raises(SettingsError, match=rf"{first['id']:06x} already; `mailtrail keys rotate`"):
        await keys.create(shop, WHO, space)
    await keys.revoke(shop, WHO, first["id"])
    await keys.create(shop, WHO, space)
    assert ["minting", "revoked"] == sorted(await states(shop))


async def test_a_ring_has_a_spaces_keys_and_those_asked_for(shop: Connection) -> None:
    other = await store.create_space(shop, WHO, "Other")
    (mine,) = await keys.list_keys(shop, await space_id(shop))
    (theirs,) = await keys.list_keys(shop, other["id"])
    for space, ids, expected in (
        (mine["space_id"], [], {mine["id"]}),
        (mine["space_id"], [theirs["id"], 1], {mine["id"], theirs["id"]}),
        (None, [theirs["id"]], {theirs["id"]}),
        (None, [], set()),
    ):
        assert expected == set((await keys.key_ring(shop, space, ids))._ciphers)
    assert "Other" == (await keys.find_key(shop, theirs["id"]))["space_name"]
    with pytest.raises(NotFound, match="mailtrail keys list"):
        await keys.find_key(shop, 1)


async def test_an_export_restores_keys_and_spaces(shop: Connection) -> None:
    await keys.rotate(shop, WHO, await space_id(shop))
    document = await keys.export(shop, WHO)
    before = await shop.fetch("select id, space_id, secret, state from vault.token_keys order by id")
    await shop.execute("truncate vault.token_keys, mailtrail.spaces cascade")
    assert (2, 0) == await keys.import_keys(shop, WHO, document)
    assert (0, 2) == await keys.import_keys(shop, WHO, document)
    assert before == await shop.fetch("select id, space_id, secret, state from vault.token_keys order by id")
    assert "Shop" == (await store.find_space(shop, "Shop"))["name"]


async def test_an_imported_key_only_decodes_where_another_mints(shop: Connection) -> None:
    document = await keys.export(shop, WHO)
    second = deepcopy(document["keys"][0]) | {"id": "000001"}
    assert (1, 1) == await keys.import_keys(shop, WHO, document | {"keys": [*document["keys"], second]})
    assert ["decoding", "minting"] == sorted(await states(shop))
    await shop.execute("truncate vault.token_keys")
    assert (2, 0) == await keys.import_keys(shop, WHO, document | {"keys": [*document["keys"], second]})
    assert ["decoding", "minting"] == sorted(await states(shop))


async def test_another_key_under_the_same_id_is_refused_and_nothing_imported(shop: Connection) -> None:
    document = await keys.export(shop, WHO)
    new = document["keys"][0] | {"id": "000001", "space": "00000001", "space_name": "New"}
    forged = document["keys"][0] | {"secret": "00" * 64}
    with pytest.raises(SettingsError, match="nothing was imported"):
        await keys.import_keys(shop, WHO, document | {"keys": [new, forged]})
    assert ["minting"] == await states(shop)
    assert ["Shop"] == [row["name"] for row in await store.list_spaces(shop)]


ENTRY = {
    "id": "000001",
    "space": "00000001",
    "space_name": "Shop",
    "space_deleted": False,
    "state": "minting",
    "secret": "00" * 64,
}


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"mailtrail_keys": 2, "keys": []},
        {"mailtrail_keys": 1},
        {"mailtrail_keys": 1, "keys": 5},
        {"mailtrail_keys": 1, "keys": ["x"]},
        *(
            {"mailtrail_keys": 1, "keys": [ENTRY | change]}
            for change in (
                {"id": "1000000"},
                {"id": "0"},
                {"id": "-1"},
                {"id": 1},
                {"space": "100000000"},
                {"space": None},
                {"space_name": ""},
                {"space_name": "a\0b"},
                {"space_name": None},
                {"state": "open"},
                {"secret": "00" * 63},
                {"secret": "zz" * 64},
            )
        ),
    ],
)
def test_what_is_no_export_is_refused(document: Any) -> None:
    with pytest.raises(SettingsError, match="no file of `mailtrail keys export`"):
        keys.read_export(document)


def test_an_export_is_read() -> None:
    ((key, name, deleted),) = keys.read_export({"mailtrail_keys": 1, "keys": [ENTRY]})
    assert (1, 1, bytes(64), KeyState.MINTING, "Shop") == (key.key_id, key.space, key.secret, key.state, name)
    assert not deleted


async def test_a_deleted_space_stays_deleted_when_its_keys_are_imported(
    connection: Connection, database_url: str
) -> None:
    await migrate(connection)
    space = await store.create_space(connection, "test", "Shop", default="person_based", acknowledged=[Notice.CONSENT])
    await store.delete_space(connection, "test", space["id"])
    export = await keys.export(connection, "test")
    await connection.execute("drop schema mailtrail, vault, analytics cascade")
    await migrate(connection)
    assert await keys.import_keys(connection, "test", export) == (1, 0)
    assert [] == await store.list_spaces(connection)
    assert await connection.fetchval("select deleted_at is not null from mailtrail.spaces where id = $1", space["id"])


async def test_names_that_are_taken_get_the_spaces_id_as_it_is_spelled_everywhere(connection: Connection) -> None:
    await migrate(connection)
    await connection.execute("insert into mailtrail.spaces (id, name) values ($1, 'Shop')", 0x1A2B3C)
    await keys.rotate(connection, "test", 0x1A2B3C)
    export = await keys.export(connection, "test")
    await store.delete_space(connection, "test", 0x1A2B3C)
    assert await connection.fetchval("select name from mailtrail.spaces") == "Shop (deleted 001a2b3c)"
    await connection.execute("drop schema mailtrail, vault, analytics cascade")
    await migrate(connection)
    await store.create_space(connection, "test", "Shop")
    await keys.import_keys(connection, "test", export)
    assert ["Shop", "Shop 001a2b3c"] == [row["name"] for row in await store.list_spaces(connection)]
