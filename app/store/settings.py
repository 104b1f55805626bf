"""Changes of spaces, mailings and links: each in one transaction with its audit entry.

Invariant: what changed and the record of who changed it are committed together; collectors are told by triggers.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from asyncpg import UniqueViolationError

from ..errors import ChangedMeanwhile, NotFound, SettingsError
from ..tracking.fingerprints import SHOWN_RECIPIENTS, Described, Fingerprints
from ..tracking.modes import Mode
from ..tracking.overrides import check_override
from ..tracking.settings import (
    Notice,
    check_acknowledged,
    check_base_url,
    check_name,
    check_url_parameters,
    default_mode,
    notices_of_space,
    relay_mode,
)
from . import keys
from .archives import archived_at
from .audit import audit
from .ids import MAILING_BITS, SPACE_BITS, with_new_id
from .pool import Connection, Row, existing
from .queries import queries

_SQL = queries("settings")
_MAILING_ID = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class NumberedLink:
    """A link with its number; `is_due`: it is hidden, and its recipient is not among those that had it."""

    link: Described
    number: int
    is_due: bool
    is_shown: bool


# --- spaces ----------------------------------------------------------------------------------------------------------


async def list_spaces(connection: Connection) -> list[Row]:
    return await connection.fetch(_SQL["spaces"])


async def find_space(connection: Connection, name: str) -> Row:
    """A space by its name or its id in hex; NotFound says which there are."""
    row = await connection.fetchrow(_SQL["space"], name)
    if row is None:
        raise NotFound(f"there is no space {name!r}; {_choice('space', await list_spaces(connection))}")
    return row


async def page_of_spaces(
    connection: Connection,
    *,
    only: int | None = None,
    after: tuple[str, int] | None = None,
    contains: str = "",
    limit: int = 50,
) -> list[Row]:
    """Spaces by name, from behind (name, id) on, with their numbers of events."""
    name, number = after or (None, None)
    return await connection.fetch(_SQL["spaces_page"], only, name, number, contains, limit)


async def get_space(connection: Connection, space: int) -> Row:
    """A space by its id; NotFound without a word about others."""
    row = await connection.fetchrow(_SQL["space_by_id"], space)
    if row is None:
        raise NotFound("there is no such space")
    return row


async def show_space(connection: Connection, space: int) -> Row:
    """A space with its numbers of events, as pages of spaces have them; NotFound without a word about others."""
    row = await connection.fetchrow(_SQL["shown_space"], space)
    if row is None:
        raise NotFound("there is no such space")
    return row


async def lock_space(connection: Connection, space: int) -> Row:
    """A space that nobody else changes until the transaction ends; NotFound without a word about others."""
    row = await connection.fetchrow(_SQL["lock_space"], space)
    if row is None or row["deleted_at"] is not None:
        raise NotFound("there is no such space")
    return row


async def create_space(
    connection: Connection,
    who: str,
    name: str,
    *,
    default: str = "anonymized",
    relay: str = "off",
    url: str | None = None,
    acknowledged: Collection[Notice] = (),
) -> Row:
    """A new space with its first minting key; `url` is the base of its links, None for the installation's."""
    name, mode, through_relay = check_name(name, "space"), default_mode(default), relay_mode(relay)
    url = check_base_url(url) if url else None
    needed = notices_of_space((Mode.ANONYMIZED, Mode.OFF), (mode, through_relay))
    check_acknowledged(needed, acknowledged)
    async with connection.transaction():
        row = await with_new_id(
            SPACE_BITS,
            lambda new: connection.fetchrow(_SQL["create_space"], new, name, mode.label, through_relay.label, url),
            f"there is a space {name!r} already",
        )
        await audit(connection, who, "space created", row["id"], name, new=_space_state(row) | _read(needed))
        await keys.rotate(connection, who, row["id"])
    return row


async def change_space(
    connection: Connection,
    who: str,
    space: int,
    *,
    name: str | None = None,
    default: str | None = None,
    relay: str | None = None,
    url: str | None = None,
    acknowledged: Collection[Notice] = (),
    revision: int | None = None,
) -> Row:
    """Changes what is not None, an empty URL takes the space's own away; inheriting events follow at once.

    NotAcknowledged if a mode becomes person_based unread; ChangedMeanwhile if `revision` is not the space's any more.
    """
    async with connection.transaction():
        old = await connection.fetchrow(_SQL["lock_space"], space)
        if old is None or old["deleted_at"] is not None:
            raise NotFound("the space is gone")
        if revision is not None and revision != old["revision"]:
            raise ChangedMeanwhile("somebody else has changed the space since you read it; read it again")
        before = default_mode(old["default_mode"]), relay_mode(old["relay_mode"])
        default = old["default_mode"] if default is None else default
        after = default_mode(default), relay_mode(old["relay_mode"] if relay is None else relay)
        needed = notices_of_space(before, after)
        check_acknowledged(needed, acknowledged)
        called = old["name"] if name is None else check_name(name, "space")
        labels = [mode.label for mode in after]
        base = old["tracking_url"] if url is None else check_base_url(url) if url else None
        try:
            async with connection.transaction():
                new = existing(await connection.fetchrow(_SQL["change_space"], space, called, *labels, base))
        except UniqueViolationError:
            raise SettingsError(f"there is a space {name!r} already", field="name") from None
        if _space_state(old) != _space_state(new):
            state = _space_state(new) | _read(needed)
            await audit(connection, who, "space changed", space, old["name"], _space_state(old), state)
    return new


async def delete_space(connection: Connection, who: str, space: int, *, revision: int | None = None) -> None:
    """Leaves a tombstone: the space's links still redirect and record nothing."""
    async with connection.transaction():
        old = await connection.fetchrow(_SQL["lock_space"], space)
        if old is None or old["deleted_at"] is not None:
            raise NotFound("the space is gone")
        if revision is not None and revision != old["revision"]:
            raise ChangedMeanwhile("somebody else has changed the space since you read it; read it again")
        await connection.execute(_SQL["delete_space"], space)
        await audit(connection, who, "space deleted", space, old["name"], old=_space_state(old))


def _space_state(row: Row) -> dict[str, Any]:
    return {name: row[name] for name in ("name", "default_mode", "relay_mode", "tracking_url")}


def _read(notices: Collection[Notice]) -> dict[str, Any]:
    """What the audit says of notices that had to be acknowledged."""
    return {"acknowledged": [notice.value for notice in notices]} if notices else {}


# --- mailings and links ----------------------------------------------------------------------------------------------


async def list_mailings(connection: Connection, space: int) -> list[Row]:
    return await connection.fetch(_SQL["mailings"], space)


async def page_of_mailings(
    connection: Connection,
    space: int,
    *,
    event: int | None = None,
    before: tuple[datetime, int] | None = None,
    contains: str = "",
    archived: bool = False,
    limit: int = 50,
) -> list[Row]:
    """A space's mailings, the newest first, from behind (time, id) on."""
    at, number = before or (None, None)
    return await connection.fetch(_SQL["mailings_page"], space, event, at, number, contains, archived, limit)


async def get_mailing(connection: Connection, space: int, mailing: int) -> Row:
    """A mailing by its id; NotFound without a word about others."""
    row = await connection.fetchrow(_SQL["mailing_of_space"], space, mailing)
    if row is None:
        raise NotFound("there is no such mailing")
    return row


async def show_mailing(connection: Connection, space: int, mailing: int) -> Row:
    """A mailing with what pages of mailings say of it; NotFound without a word about others."""
    row = await connection.fetchrow(_SQL["shown_mailing"], space, mailing)
    if row is None:
        raise NotFound("there is no such mailing")
    return row


async def change_mailing(
    connection: Connection,
    who: str,
    space: int,
    mailing: int,
    *,
    name: str | None = None,
    archived: bool | None = None,
    url_parameters: str | None = None,
) -> Row:
    """Renames a mailing, hides it from lists, or gives the links of its coming mails parameters, "" for none.

    Its links work and are recorded as before.
    """
    async with connection.transaction():
        old = await connection.fetchrow(_SQL["lock_mailing_of_space"], space, mailing)
        if old is None:
            raise NotFound("there is no such mailing")
        hidden = archived_at(old, archived)
        called = old["name"] if name is None else check_name(name, "mailing")
        parameters = old["url_parameters"] if url_parameters is None else _parameters(url_parameters)
        values = called, hidden, parameters
        try:
            async with connection.transaction():
                new = existing(await connection.fetchrow(_SQL["change_mailing"], space, mailing, *values))
        except UniqueViolationError:
            raise SettingsError(f"the event has a mailing {called!r} already", field="name") from None
        states = [_mailing_state(row) for row in (old, new)]
        if states[0] != states[1]:
            await audit(connection, who, "mailing changed", space, old["name"], *states)
    return new


def _mailing_state(row: Row) -> dict[str, Any]:
    return {
        "name": row["name"],
        "archived": row["archived_at"] is not None,
        "url_parameters": row["url_parameters"],
    }


def _parameters(text: str) -> str | None:
    return check_url_parameters(text) if text.strip() else None


async def find_mailing(connection: Connection, space: int, event: int, name: str) -> Row:
    row = await connection.fetchrow(_SQL["mailing"], space, event, name)
    if row is None:
        there = [mailing for mailing in await list_mailings(connection, space) if mailing["event_id"] == event]
        raise NotFound(f"the event has no mailing {name!r}; {_choice('mailing', there)}")
    return row


async def find_mailing_of_space(connection: Connection, space: int, name: str) -> Row:
    """A mailing whose event is not named; SettingsError if several events have one of this name."""
    rows = await connection.fetch(_SQL["mailings_named"], space, name)
    if not rows:
        there = await list_mailings(connection, space)
        raise NotFound(f"the space has no mailing {name!r}; {_choice('mailing', there)}")
    if len(rows) > 1:
        events = ", ".join(row["event_name"] or "the relay" for row in rows)
        raise SettingsError(f"several have a mailing {name!r}: {events}; name the event, or give the mailing's id")
    return rows[0]


async def ensure_mailing(
    connection: Connection, who: str, space: int, event: int | None, name: str
) -> tuple[Row, bool]:
    """The mailing of this name, made at its first use, and whether it is new; without an event a group of the relay.

    A name that is the id of one of the event's mailings means that one.
    """
    name = check_name(name, "mailing")
    row = await connection.fetchrow(_SQL["mailing_by_name"], space, event, name)
    if row is None and _MAILING_ID.fullmatch(name):
        row = await connection.fetchrow(_SQL["mailing_of_space"], space, int(name, 16))
        row = row if row and row["event_id"] == event else None
    if row is not None:
        return row, False
    try:
        return await create_mailing(connection, who, space, event, name), True
    except SettingsError:  # another sender was faster
        row = await connection.fetchrow(_SQL["mailing_by_name"], space, event, name)
        if row is None:
            raise
        return row, False


async def create_mailing(
    connection: Connection, who: str, space: int, event: int | None, name: str, *, url_parameters: str = ""
) -> Row:
    """A new mailing; `url_parameters` are added to its tracked links' destinations where they are not there yet."""
    name, parameters = check_name(name, "mailing"), _parameters(url_parameters)
    async with connection.transaction():
        row = await with_new_id(
            MAILING_BITS,
            lambda new: connection.fetchrow(_SQL["create_mailing"], new, space, event, name, parameters),
            f"the event has a mailing {name!r} already",
        )
        await audit(connection, who, "mailing created", space, name)
    return row


async def list_links(connection: Connection, mailing: int) -> list[Row]:
    return await connection.fetch(_SQL["links"], mailing)


async def link_fingerprints(connection: Connection, mailing: int) -> Fingerprints:
    """What turns a mailing's links into what the table may hold of them."""
    return Fingerprints(await connection.fetchval(_SQL["link_key"]), mailing)


async def number_links(
    connection: Connection, mailing: int, links: Sequence[Described], mark: bytes
) -> list[NumberedLink]:
    """The links with their numbers. New ones are registered as hidden, with the mark of the first to have them.

    No text is sent. Links that were there are not marked, and nobody waits for them: that is for `mark_links`.
    """
    numbers = await _link_numbers(connection, mailing, links, mark)
    unknown = [link for link in links if (link.fingerprint, link.occurrence) not in numbers]
    if unknown:
        async with connection.transaction():
            await connection.execute(_SQL["lock_mailing"], mailing)
            await connection.execute(
                _SQL["register_links"],
                mailing,
                [link.fingerprint for link in unknown],
                [link.occurrence for link in unknown],
                [link.host for link in unknown],
                [link.label_fingerprint for link in unknown],
                mark,
            )
            numbers |= await _link_numbers(connection, mailing, unknown, mark)
    return [NumberedLink(link, *numbers[link.fingerprint, link.occurrence]) for link in links]


async def is_registered(connection: Connection, mailing: int, link: Described) -> bool:
    """Whether a link has a number already."""
    return bool(await _link_numbers(connection, mailing, [link], b""))


async def _link_numbers(
    connection: Connection, mailing: int, links: Sequence[Described], mark: bytes
) -> dict[tuple[bytes, int], tuple[int, bool, bool]]:
    rows = await connection.fetch(
        _SQL["link_numbers"], mailing, [link.fingerprint for link in links], [link.occurrence for link in links], mark
    )
    return {(row["fingerprint"], row["occurrence"]): (row["number"], row["is_due"], row["is_shown"]) for row in rows}


async def mark_links(connection: Connection, mailing: int, numbered: Sequence[NumberedLink], mark: bytes) -> None:
    """Counts a recipient for the hidden links that are due; the fifth one's text is kept from then on.

    A label is kept only if all five saw the same: what each saw differently is about them. From here to the end of the
    transaction senders with the same hidden links wait for each other, so let little follow.
    """
    due = {each.number: each.link for each in numbered if each.is_due}
    if not due:
        return
    async with connection.transaction():
        fingerprints = [link.label_fingerprint for link in due.values()]
        rows = await connection.fetch(_SQL["mark_links"], mailing, list(due), fingerprints, mark)
        shown = [row for row in rows if row["recipients"] >= SHOWN_RECIPIENTS]
        if shown:
            patterns = [due[row["number"]].pattern for row in shown]
            labels = [due[row["number"]].label if row["same_label"] else "" for row in shown]
            await connection.execute(_SQL["show_links"], mailing, [row["number"] for row in shown], patterns, labels)


async def list_sent(connection: Connection, mailing: int) -> list[Row]:
    """The denominators by ceiling, the most talkative first, the untracked by reason."""
    return await connection.fetch(_SQL["sent"], mailing)


async def count_sent(
    connection: Connection, mailing: int, ceiling: Mode, messages: int = 1, *, reason: str = ""
) -> None:
    """Adds to the mailing's denominators; the ceiling `off` counts messages that went out untracked, and why."""
    await connection.execute(_SQL["count_sent"], mailing, ceiling.label, messages, reason)


async def override_link(
    connection: Connection, who: str, space: int, mailing: int, number: int, destination: str | None
) -> None:
    """Sends a link elsewhere, or switches it off with None; DestinationRefused for what is no URL."""
    if destination is not None:
        check_override(destination)
    async with connection.transaction():
        old = await _link(connection, mailing, number)
        await connection.execute(_SQL["override_link"], mailing, number, destination)
        action = "link switched off" if destination is None else "link corrected"
        await audit(connection, who, action, space, f"{mailing:012x}/{number}", old["destination"], destination)


async def restore_link(connection: Connection, who: str, space: int, mailing: int, number: int) -> None:
    """Takes an override back."""
    async with connection.transaction():
        old = await _link(connection, mailing, number)
        await connection.execute(_SQL["restore_link"], mailing, number)
        await audit(connection, who, "link restored", space, f"{mailing:012x}/{number}", old["destination"])


async def _link(connection: Connection, mailing: int, number: int) -> Row:
    for row in await list_links(connection, mailing):
        if row["number"] == number:
            return row
    raise NotFound(f"the mailing has no link {number}; `mailtrail mailing links` lists them", field="number")


def _choice(what: str, rows: Sequence[Row]) -> str:
    names = [row["name"] for row in rows[:10]]
    return f"there are: {', '.join(names)}" if names else f"create one with `mailtrail {what} create`"
