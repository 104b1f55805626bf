"""People and API keys in the database: who gets in, for how long, and what is kept of their secrets."""

import pytest

from app.errors import NotFound, SettingsError, SignInRefused
from app.store import api_keys, people
from app.store import settings as store
from app.store.migrate import migrate
from app.store.pool import Connection, Row

WHO = "cli:test"
PASSWORD = "correct horse battery"


@pytest.fixture
async def erika(connection: Connection) -> Row:
    await migrate(connection)
    return await people.create_user(connection, WHO, "Erika", "admin", password=PASSWORD)


async def test_a_session_lasts_until_it_is_idle_old_or_signed_out(connection: Connection, erika: Row) -> None:
    secret = await people.sign_in(connection, "eRIKA", PASSWORD)
    assert (await people.user_of_session(connection, secret) or {})["name"] == "Erika"
    assert await people.user_of_session(connection, secret + "x") is None
    assert secret.encode() not in b"".join(
        [row["id"] for row in await connection.fetch("select id from vault.sessions")]
    )
    await connection.execute("update vault.sessions set seen_at = now() - interval '7 hours'")
    assert await people.user_of_session(connection, secret) is not None  # and is seen again
    await connection.execute("update vault.sessions set created_at = now() - interval '8 days'")
    assert await people.user_of_session(connection, secret) is None
    second = await people.sign_in(connection, "Erika", PASSWORD)
    await connection.execute("update vault.sessions set seen_at = now() - interval '9 hours'")
    assert await people.user_of_session(connection, second) is None
    third = await people.sign_in(connection, "Erika", PASSWORD)
    await people.sign_out(connection, third)
    assert await people.user_of_session(connection, third) is None


async def test_who_tries_too_often_has_to_wait(connection: Connection, erika: Row) -> None:
    for name in ("Erika", "nobody"):
        for _ in range(people.MAX_FAILURES):
            with pytest.raises(SignInRefused, match="name or password is wrong"):
                await people.sign_in(connection, name, "wrong password")
        with pytest.raises(SignInRefused, match="too many attempts"):
            await people.sign_in(connection, name.upper(), PASSWORD)
    await connection.execute("update vault.failed_sign_ins set at = at - interval '16 minutes'")
    assert await people.sign_in(connection, "Erika", PASSWORD)
    assert await connection.fetchval("select count(*) from vault.failed_sign_ins") == 0


async def test_a_one_time_link_works_once(connection: Connection, erika: Row) -> None:
    secret = await people.make_one_time_sign_in(connection, WHO, erika)
    session = await people.use_one_time_sign_in(connection, secret)
    assert await people.user_of_session(connection, session) is not None
    with pytest.raises(SignInRefused, match="was used or is too old"):
        await people.use_one_time_sign_in(connection, secret)
    late = await people.make_one_time_sign_in(connection, WHO, erika)
    await connection.execute("update vault.one_time_sign_ins set expires_at = now()")
    with pytest.raises(SignInRefused):
        await people.use_one_time_sign_in(connection, late)


async def test_a_new_password_ends_all_other_sessions(connection: Connection, erika: Row) -> None:
    here, there = [await people.sign_in(connection, "Erika", PASSWORD) for _ in range(2)]
    with pytest.raises(SettingsError, match="12 to 1000 characters"):
        await people.set_password(connection, "user:Erika", erika["id"], "short")
    await people.set_password(connection, "user:Erika", erika["id"], "another long one", session=here)
    assert await people.user_of_session(connection, here) is not None
    assert await people.user_of_session(connection, there) is None
    with pytest.raises(SignInRefused):
        await people.sign_in(connection, "Erika", PASSWORD)
    assert await people.sign_in(connection, "Erika", "another long one")


async def test_the_last_administrator_stays(connection: Connection, erika: Row) -> None:
    for change in ({"role": "editor"}, {"disabled": True}):
        with pytest.raises(SettingsError, match="the last administrator"):
            await people.change_user(connection, WHO, erika["id"], **change)  # type: ignore[arg-type]
    await people.create_user(connection, WHO, "Max", "admin")
    session = await people.sign_in(connection, "Erika", PASSWORD)
    await people.change_user(connection, WHO, erika["id"], disabled=True)
    assert await people.user_of_session(connection, session) is None
    with pytest.raises(SignInRefused):
        await people.sign_in(connection, "Erika", PASSWORD)
    await people.change_user(connection, WHO, erika["id"], disabled=False)
    assert await people.sign_in(connection, "Erika", PASSWORD)


async def test_names_and_roles_are_checked(connection: Connection, erika: Row) -> None:
    with pytest.raises(SettingsError, match="there is a user 'ERIKA' already"):
        await people.create_user(connection, WHO, "ERIKA", "viewer")
    with pytest.raises(SettingsError, match="a role is admin, editor, viewer, not 'god'"):
        await people.create_user(connection, WHO, "Max", "god")


async def test_a_deleted_space_lets_nobody_in(connection: Connection, erika: Row) -> None:
    space = (await store.create_space(connection, WHO, "Shop"))["id"]
    await people.create_user(connection, WHO, "Max", "editor", space=space, password=PASSWORD)
    session = await people.sign_in(connection, "Max", PASSWORD)
    _, secret = await api_keys.create_api_key(connection, WHO, "sender", ["read"], space)
    assert await api_keys.api_key_of(connection, secret) is not None
    await store.delete_space(connection, WHO, space)
    assert await people.user_of_session(connection, session) is None
    assert await api_keys.api_key_of(connection, secret) is None


async def test_a_key_is_known_by_its_hash_until_it_is_revoked(connection: Connection, erika: Row) -> None:
    row, secret = await api_keys.create_api_key(connection, WHO, "sender", ["write", "read", "read"])
    assert row["scopes"] == ["read", "write"]
    assert (await api_keys.api_key_of(connection, secret) or {})["id"] == row["id"]
    for wrong in (secret[:-1], secret.removeprefix("mtk_"), "", "mtk_", "mtk_\ud800"):
        assert await api_keys.api_key_of(connection, wrong) is None
    (shown,) = await api_keys.list_api_keys(connection)
    assert shown["last_used_at"] is not None
    with pytest.raises(NotFound):
        await api_keys.revoke_api_key(connection, WHO, row["id"], space=7)
    await api_keys.revoke_api_key(connection, WHO, row["id"])
    assert await api_keys.api_key_of(connection, secret) is None
    with pytest.raises(NotFound):
        await api_keys.revoke_api_key(connection, WHO, row["id"])
    for scopes in ([], ["read", "manage"]):
        with pytest.raises(SettingsError, match="scopes out of read, write, mint, privacy"):
            await api_keys.create_api_key(connection, WHO, "k", scopes)
    everything = str(await connection.fetch("select * from vault.api_keys")) + str(
        await connection.fetch("select * from mailtrail.audit")
    )
    assert secret not in everything
