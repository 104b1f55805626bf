"""People who sign in, and their sessions. Of passwords only argon2id hashes are kept, of other secrets SHA-256.

Invariant: a secret is given out once, when it is made; a change of who may do what is committed with its audit entry.
"""

import asyncio
import secrets
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING

from ..errors import NotFound, SettingsError, SignInRefused
from ..tracking.settings import check_name
from .audit import audit
from .credentials import digest, new_secret
from .pool import Connection, Row, existing
from .queries import queries

if TYPE_CHECKING:
    from argon2 import PasswordHasher

_SQL = queries("people")
ROLES = ("admin", "editor", "viewer")
MIN_PASSWORD_LENGTH = 12
MAX_PASSWORD_LENGTH = 1_000
IDLE = timedelta(hours=8)
LONGEST_SESSION = timedelta(days=7)
ONE_TIME = timedelta(hours=1)
MAX_FAILURES = 5
FAILURES_FORGOTTEN = timedelta(minutes=15)


# --- people ----------------------------------------------------------------------------------------------------------


async def list_users(connection: Connection, space: int | None = None) -> list[Row]:
    return await connection.fetch(_SQL["users"], space)


async def find_user(connection: Connection, name: str) -> Row:
    row = await connection.fetchrow(_SQL["user"], name)
    if row is None:
        raise NotFound(f"there is no user {name!r}")
    return row


async def has_users(connection: Connection) -> bool:
    return bool(await connection.fetchval(_SQL["has_users"]))


async def create_user(
    connection: Connection, who: str, name: str, role: str, *, space: int | None = None, password: str | None = None
) -> Row:
    """A new user of one space, or with None of all; without a password they come by a one-time sign-in."""
    name = check_name(name, "user")
    _check_role(role)
    hashed = None if password is None else await _hash(password)
    async with connection.transaction():
        row = await connection.fetchrow(_SQL["create_user"], name, hashed, role, space)
        if row is None:
            raise SettingsError(f"there is a user {name!r} already", field="name")
        await audit(connection, who, "user created", space, name, new={"role": role})
    return row


async def change_user(
    connection: Connection, who: str, user: int, *, role: str | None = None, disabled: bool | None = None
) -> Row:
    """Changes role or access; SettingsError if nobody were left who may do everything."""
    if role is not None:
        _check_role(role)
    async with connection.transaction():
        old = await connection.fetchrow(_SQL["lock_user"], user)
        if old is None:
            raise NotFound("there is no such user")
        gone = old["disabled_at"]
        if disabled is not None:
            gone = (gone or datetime.now(UTC)) if disabled else None
        new = existing(await connection.fetchrow(_SQL["change_user"], user, role or old["role"], gone))
        is_last = not await connection.fetchval(_SQL["other_admins"], user)
        if is_last and (new["role"] != "admin" or new["disabled_at"] is not None) and old["space_id"] is None:
            raise SettingsError(f"{old['name']} is the last administrator of everything; make another one first")
        if gone is not None:
            await connection.execute(_SQL["end_sessions"], user, None)
        states = [{"role": row["role"], "disabled": row["disabled_at"] is not None} for row in (old, new)]
        if states[0] != states[1]:
            await audit(connection, who, "user changed", old["space_id"], old["name"], *states)
    return new


async def set_password(
    connection: Connection, who: str, user: int, password: str, *, session: str | None = None
) -> None:
    """A new password; every session of the user but the given one ends."""
    hashed = await _hash(password)
    async with connection.transaction():
        row = await connection.fetchrow(_SQL["lock_user"], user)
        if row is None:
            raise NotFound("there is no such user")
        await connection.execute(_SQL["set_password"], user, hashed)
        await connection.execute(_SQL["end_sessions"], user, None if session is None else digest(session))
        await audit(connection, who, "password changed", row["space_id"], row["name"])


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise SettingsError(f"a role is {', '.join(ROLES)}, not {role!r}", field="role")


async def _hash(password: str) -> str:
    if not MIN_PASSWORD_LENGTH <= len(password) <= MAX_PASSWORD_LENGTH:
        raise SettingsError(
            f"a password has {MIN_PASSWORD_LENGTH} to {MAX_PASSWORD_LENGTH} characters", field="password"
        )
    return await asyncio.to_thread(_hasher().hash, password)


# --- sessions --------------------------------------------------------------------------------------------------------


async def sign_in(connection: Connection, name: str, password: str) -> str:
    """The secret of a new session; SignInRefused for a wrong name or password, and for too many of them."""
    if await connection.fetchval(_SQL["count_failures"], name, FAILURES_FORGOTTEN) >= MAX_FAILURES:
        raise SignInRefused("too many attempts for this name; wait a quarter of an hour")
    row = await connection.fetchrow(_SQL["user"], name)
    may = row is not None and row["disabled_at"] is None and row["password_hash"] is not None
    hashed = row["password_hash"] if row is not None and may else await asyncio.to_thread(_hash_of_nobody)
    if not await asyncio.to_thread(_verify, hashed, password[: MAX_PASSWORD_LENGTH + 1]) or row is None or not may:
        await connection.execute(_SQL["add_failure"], name)
        raise SignInRefused("name or password is wrong")
    async with connection.transaction():
        await connection.execute(_SQL["forget_failures"], name)
        if _hasher().check_needs_rehash(hashed):
            await connection.execute(_SQL["set_password"], row["id"], await asyncio.to_thread(_hasher().hash, password))
        return await _begin_session(connection, row)


async def make_one_time_sign_in(connection: Connection, who: str, user: Row) -> str:
    """The secret of a link that signs in once, within an hour."""
    secret = new_secret()
    async with connection.transaction():
        await connection.execute(_SQL["drop_old_one_times"])
        await connection.execute(_SQL["add_one_time"], digest(secret), user["id"], ONE_TIME)
        await audit(connection, who, "one-time sign-in made", user["space_id"], user["name"])
    return secret


async def use_one_time_sign_in(connection: Connection, secret: str) -> str:
    """The secret of a new session; SignInRefused if the link was used or is too old."""
    async with connection.transaction():
        row = await connection.fetchrow(_SQL["use_one_time"], digest(secret))
        if row is None:
            raise SignInRefused("this link was used or is too old; make another with `mailtrail admin sign-in`")
        await connection.execute(_SQL["forget_failures"], row["name"])
        return await _begin_session(connection, row)


async def user_of_session(connection: Connection, secret: str) -> Row | None:
    """Who is signed in; None if nobody, or for too long without a request."""
    session = digest(secret)
    row = await connection.fetchrow(_SQL["session"], session, IDLE, LONGEST_SESSION)
    if row is not None and datetime.now(UTC) - row["seen_at"] > timedelta(minutes=1):
        await connection.execute(_SQL["see_session"], session)
    return row


async def sign_out(connection: Connection, secret: str) -> None:
    await connection.execute(_SQL["end_session"], digest(secret))


async def session_key(connection: Connection) -> bytes:
    """Signs cookies and form tokens."""
    return bytes(await connection.fetchval(_SQL["session_key"]))


async def _begin_session(connection: Connection, user: Row) -> str:
    secret = new_secret()
    await connection.execute(_SQL["drop_old_sessions"], IDLE, LONGEST_SESSION)
    await connection.execute(_SQL["drop_old_failures"], FAILURES_FORGOTTEN)
    await connection.execute(_SQL["add_session"], digest(secret), user["id"])
    await audit(connection, f"user:{user['name']}", "signed in", user["space_id"], user["name"])
    return secret


def _verify(hashed: str, password: str) -> bool:
    from argon2.exceptions import VerifyMismatchError

    try:
        return _hasher().verify(hashed, password)
    except VerifyMismatchError:
        return False


@cache
def _hasher() -> "PasswordHasher":
    from argon2 import PasswordHasher  # not where nobody signs in: every command and worker imports this module

    return PasswordHasher()


@cache
def _hash_of_nobody() -> str:
    """Checked for names that nobody has, so that time does not tell which names there are."""
    return _hasher().hash(secrets.token_hex())
