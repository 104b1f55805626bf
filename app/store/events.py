"""Events: kinds of mail in a space, how they track, their definitions and dispatches, and their protected mode.

Invariant: what changed and the record of who changed it are committed together; the database refuses a change of an
active event's tracking by itself, should anyone forget to ask the rules.
"""

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from asyncpg import UniqueViolationError

from ..errors import ChangedMeanwhile, NotFound, SettingsError
from ..tracking.event_types import EventType, parse_event_type
from ..tracking.modes import Mode
from ..tracking.settings import (
    HEARTBEAT,
    UNPROTECTED,
    Notice,
    check_acknowledged,
    check_name,
    check_unprotected,
    is_protected,
    notices_of_event,
)
from .archives import archived_at
from .audit import audit
from .ids import EVENT_BITS, MAILING_BITS, with_new_id
from .pool import Connection, Row, existing
from .queries import queries

_SQL = queries("events")
_SPACES = queries("settings")


async def page_of_events(
    connection: Connection,
    space: int,
    *,
    after: tuple[str, int] | None = None,
    contains: str = "",
    archived: bool = False,
    limit: int = 50,
) -> list[Row]:
    """A space's events by name, from behind (name, id) on, without definitions; each says whether it is being sent."""
    name, number = after or (None, None)
    return await connection.fetch(_SQL["page"], space, name, number, contains, archived, HEARTBEAT, limit)


async def list_events(connection: Connection, space: int) -> list[Row]:
    return await connection.fetch(_SQL["all"], space)


async def count_inheriting(connection: Connection, space: int) -> int:
    """How many of a space's events follow its default."""
    return int(await connection.fetchval(_SQL["inheriting"], space))


async def find_event(connection: Connection, space: int, name: str) -> Row:
    """An event by its name or its id in hex; NotFound says which there are."""
    row = await connection.fetchrow(_SQL["find"], space, name)
    if row is None:
        names = [each["name"] for each in (await list_events(connection, space))[:10]]
        choice = f"there are: {', '.join(names)}" if names else "create one with `mailtrail event create`"
        raise NotFound(f"the space has no event {name!r}; {choice}")
    return row


async def get_event(connection: Connection, space: int, event: int) -> Row:
    """An event by its id; NotFound without a word about others."""
    row = await connection.fetchrow(_SQL["one"], space, event)
    if row is None:
        raise NotFound("there is no such event")
    return row


async def event_of_type(connection: Connection, space: int, type_id: str) -> Row:
    """The event whose definition has this id; NotFound without a word about others."""
    row = await connection.fetchrow(_SQL["of_type"], space, type_id)
    if row is None:
        raise NotFound("no event of the space has a definition with this id; put one, or correct the id", field="event")
    return row


async def show_event(connection: Connection, space: int, event: int) -> Row:
    """An event as pages of events have it; NotFound without a word about others."""
    row = await connection.fetchrow(_SQL["shown"], space, event, HEARTBEAT)
    if row is None:
        raise NotFound("there is no such event")
    return row


async def create_event(
    connection: Connection,
    who: str,
    space: int,
    name: str,
    *,
    by_permission: bool = False,
    definition: bytes | None = None,
    acknowledged: Collection[Notice] = (),
) -> Row:
    """A new event, with an XML definition or without; EventTypeRefused for one that cannot be."""
    name = check_name(name, "event")
    parsed = None if definition is None else parse_event_type(definition)
    if by_permission:
        has_unknown_permission = parsed is not None and parsed.tracking is None
        check_acknowledged([Notice.NO_PERMISSION_FIELD] if has_unknown_permission else [], acknowledged)
    defined = _defined(definition, parsed)
    async with connection.transaction():
        await _check_type_is_new(connection, space, parsed)
        row = await with_new_id(
            EVENT_BITS,
            lambda new: connection.fetchrow(_SQL["create"], space, new, name, by_permission, *defined),
            f"the space has an event {name!r} already",
        )
        await audit(connection, who, "event created", space, name, new=_state(row))
    return row


async def change_event(
    connection: Connection,
    who: str,
    space: int,
    event: int,
    *,
    name: str | None = None,
    by_permission: bool | None = None,
    archived: bool | None = None,
    definition: bytes | None = None,
    acknowledged: Collection[Notice] = (),
    revision: int | None = None,
) -> Row:
    """Changes what is not None. A save returns the event to protected mode.

    EventProtected for the tracking or the definition of an active event; NotAcknowledged for a consequence that must be
    read first; ChangedMeanwhile if `revision` is not the event's any more.
    """
    parsed = None if definition is None else parse_event_type(definition)
    async with connection.transaction():
        old = await _locked(connection, space, event, revision)
        wanted = old["by_permission"] if by_permission is None else by_permission
        defined = (old["type_id"], old["definition"], old["permission_field"])
        if parsed is not None:
            await _check_type_stays(connection, old, parsed)
            defined = _defined(definition, parsed)
        if wanted != old["by_permission"] or defined != (old["type_id"], old["definition"], old["permission_field"]):
            check_unprotected(old["active_since"], old["unprotected_until"], datetime.now(UTC))
        needed = await _notices(connection, old, wanted, defined)
        check_acknowledged(needed, acknowledged)
        hidden = archived_at(old, archived)
        called = old["name"] if name is None else check_name(name, "event")
        try:
            async with connection.transaction():
                new = existing(
                    await connection.fetchrow(_SQL["change"], space, event, called, wanted, hidden, *defined)
                )
        except UniqueViolationError:
            raise SettingsError(f"the space has an event {called!r} already", field="name") from None
        if _state(old) != _state(new) or (definition is not None and old["definition"] != new["definition"]):
            state = _state(new) | ({"acknowledged": [each.value for each in needed]} if needed else {})
            await audit(connection, who, "event changed", space, old["name"], _state(old), state)
        if new["unprotected_until"] is not None:
            new = existing(await connection.fetchrow(_SQL["protect"], space, event))
            await audit(connection, who, "protected mode entered", space, new["name"])
    return new


async def leave_protected_mode(
    connection: Connection, who: str, space: int, event: int, *, acknowledged: Collection[Notice] = ()
) -> Row:
    """Lets the tracking of an active event be changed for a while; NotAcknowledged while a dispatch is running."""
    async with connection.transaction():
        old = await _locked(connection, space, event, None)
        if not is_protected(old["active_since"], old["unprotected_until"], datetime.now(UTC)):
            return old
        running = await running_dispatches(connection, space, event)
        check_acknowledged([Notice.DISPATCH_RUNNING] if running else [], acknowledged)
        new = existing(await connection.fetchrow(_SQL["unprotect"], space, event, UNPROTECTED))
        state = {"dispatches_running": len(running)}
        await audit(connection, who, "protected mode left", space, new["name"], new=state)
    return new


async def enter_protected_mode(connection: Connection, who: str, space: int, event: int) -> Row:
    """Takes the leave back before its time is over."""
    async with connection.transaction():
        old = await _locked(connection, space, event, None)
        if old["unprotected_until"] is None:
            return old
        new = existing(await connection.fetchrow(_SQL["protect"], space, event))
        await audit(connection, who, "protected mode entered", space, new["name"])
    return new


async def _locked(connection: Connection, space: int, event: int, revision: int | None) -> Row:
    row = await connection.fetchrow(_SQL["lock"], space, event)
    if row is None:
        raise NotFound("there is no such event")
    if revision is not None and revision != row["revision"]:
        raise ChangedMeanwhile("somebody else has changed the event since you read it; read it again")
    return row


async def _notices(connection: Connection, old: Row, by_permission: bool, defined: tuple[Any, ...]) -> list[Notice]:
    _, definition, permission_field = defined
    space = await connection.fetchrow(_SPACES["space_by_id"], old["space_id"])
    if space is None:
        raise NotFound("the space is gone")
    return notices_of_event(
        was_by_permission=old["by_permission"],
        by_permission=by_permission,
        default=Mode.from_label(space["default_mode"]),
        had_unknown_permission=old["definition"] is not None and old["permission_field"] is None,
        has_unknown_permission=definition is not None and permission_field is None,
        is_running=bool(await running_dispatches(connection, old["space_id"], old["id"])),
    )


async def _check_type_is_new(connection: Connection, space: int, parsed: EventType | None) -> None:
    if parsed is not None and await connection.fetchrow(_SQL["of_type"], space, parsed.id) is not None:
        raise SettingsError(f"the space has an event with the id {parsed.id!r} already", field="definition")


async def _check_type_stays(connection: Connection, old: Row, parsed: EventType) -> None:
    if old["type_id"] is None:
        await _check_type_is_new(connection, old["space_id"], parsed)
    elif old["type_id"] != parsed.id:
        raise SettingsError(
            f"the event's id is {old['type_id']!r} and never changes; the definition says {parsed.id!r}:"
            " correct it, or make another event",
            field="definition",
        )


def _defined(definition: bytes | None, parsed: EventType | None) -> tuple[str | None, bytes | None, str | None]:
    if definition is None or parsed is None:
        return None, None, None
    field = None if parsed.tracking is None else str(parsed.tracking)
    return parsed.id, definition, field


def _state(row: Row) -> dict[str, Any]:
    state = {name: row[name] for name in ("name", "by_permission", "type_id", "permission_field")}
    return state | {"archived": row["archived_at"] is not None}


# --- dispatches ------------------------------------------------------------------------------------------------------


async def running_dispatches(connection: Connection, space: int, event: int) -> list[Row]:
    return await connection.fetch(_SQL["running"], space, event, HEARTBEAT)


async def latest_dispatches(connection: Connection, space: int, event: int) -> list[Row]:
    """The latest twenty, newest first; each says whether it is running."""
    return await connection.fetch(_SQL["dispatches"], space, event, HEARTBEAT)


async def get_dispatch(connection: Connection, space: int, dispatch: int) -> Row:
    row = await connection.fetchrow(_SQL["dispatch"], space, dispatch, HEARTBEAT)
    if row is None:
        raise NotFound("there is no such dispatch")
    return row


async def start_dispatch(connection: Connection, who: str, space: int, event: int, mailing: int | None = None) -> Row:
    """Tells that sending begins; from now on the event is active."""
    async with connection.transaction():
        await get_event(connection, space, event)
        if mailing is not None:
            of_event = await connection.fetchrow(_SPACES["mailing_of_space"], space, mailing)
            if of_event is None or of_event["event_id"] != event:
                raise SettingsError("the event has no such mailing", field="mailing")
        row = await with_new_id(
            MAILING_BITS,
            lambda new: connection.fetchrow(_SQL["start_dispatch"], new, space, event, mailing, who),
            "the dispatch cannot be made; try again",
        )
        return await get_dispatch(connection, space, row["id"])


async def beat_dispatch(connection: Connection, space: int, dispatch: int) -> Row:
    """Tells that sending goes on; SettingsError once it has ended."""
    await get_dispatch(connection, space, dispatch)
    if await connection.fetchrow(_SQL["beat"], space, dispatch) is None:
        raise SettingsError("the dispatch has ended; start another one")
    return await get_dispatch(connection, space, dispatch)


async def end_dispatch(connection: Connection, space: int, dispatch: int) -> Row:
    """Tells that sending is over; again changes nothing."""
    await get_dispatch(connection, space, dispatch)
    await connection.fetchrow(_SQL["end_dispatch"], space, dispatch)
    return await get_dispatch(connection, space, dispatch)
