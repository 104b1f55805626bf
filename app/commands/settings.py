"""`space`, `event` and `mailing`: what is tracked how, and where a mailing's links go."""

from datetime import UTC, datetime
from typing import BinaryIO

import click

from ..errors import NotFound
from ..store import events
from ..store import settings as store
from ..store.pool import Connection, Row
from ..tracking.event_types import MAX_XML_BYTES
from ..tracking.settings import Notice, event_by_permission, is_protected
from .context import in_database, who
from .tables import event_id, json_option, mailing_id, show, show_one, space_id

_of_space = click.option("--space", required=True, metavar="NAME", help="The space, by name or id.")
_url_parameters = (
    "Added to its tracked links where they are not there yet, e.g. utm_source=newsletter&utm_medium=email."
)
_of_event = click.option("--event", required=True, metavar="NAME", help="The event, by name or id.")
_of_event_if_needed = click.option(
    "--event", metavar="NAME", help="The event, where several have a mailing of this name."
)
_yes = click.option("--yes", is_flag=True, help="Do not ask.")
_acknowledge = click.option(
    "--acknowledge",
    "acknowledged",
    multiple=True,
    type=click.Choice([notice.value for notice in Notice]),
    help="What was read and is meant; a change that needs it says so.",
)
_default = "How much is recorded, if the event says nothing else: anonymized or person_based."
_relay = "How much is recorded of mails through the relay: off, anonymized or person_based."
_definition = click.option(
    "--definition", type=click.File("rb"), metavar="FILE", help="Its XML definition, - for standard input."
)
_url = "Base of the space's links, e.g. https://t.example.com; empty: the one of MAILTRAIL_PUBLIC_URL."


# --- spaces ----------------------------------------------------------------------------------------------------------


@click.group()
def space() -> None:
    """Spaces: tenants with their own settings, events and keys."""


@space.command("list")
@json_option
def list_spaces(as_json: bool) -> None:
    """List all spaces."""
    rows = in_database(store.list_spaces)
    show(
        [_space_entry(row) | {"events": row["events"]} for row in rows],
        as_json=as_json,
        none_yet="there is no space yet; make one with `mailtrail space create`",
    )


@space.command("show")
@click.argument("name")
@json_option
def show_space(name: str, as_json: bool) -> None:
    """Show one space."""
    show_one(_space_entry(in_database(lambda connection: store.find_space(connection, name))), as_json=as_json)


@space.command("create")
@click.argument("name")
@click.option("--default", default="anonymized", show_default=True, metavar="MODE", help=_default)
@click.option("--relay", default="off", show_default=True, metavar="MODE", help=_relay)
@click.option("--url", metavar="URL", help=_url)
@_acknowledge
def create_space(name: str, default: str, relay: str, url: str | None, acknowledged: tuple[str, ...]) -> None:
    """Make a space, and its first key."""
    row = in_database(
        lambda connection: store.create_space(
            connection, who(), name, default=default, relay=relay, url=url, acknowledged=_notices(acknowledged)
        )
    )
    click.echo(f"space {row['name']} is made: {_space_in_words(row)}")


@space.command("change")
@click.argument("name")
@click.option("--rename", metavar="NAME", help="Another name.")
@click.option("--default", metavar="MODE", help=_default)
@click.option("--relay", metavar="MODE", help=_relay)
@click.option("--url", metavar="URL", help=_url)
@_acknowledge
def change_space(
    name: str,
    rename: str | None,
    default: str | None,
    relay: str | None,
    url: str | None,
    acknowledged: tuple[str, ...],
) -> None:
    """Change a space's settings; they count within a second, for mails already sent only if they are stricter."""
    if rename is default is relay is url is None:
        raise click.UsageError("nothing is to be changed; give --rename, --default, --relay or --url")

    async def change(connection: Connection) -> tuple[Row, int]:
        found = await store.find_space(connection, name)
        changed = await store.change_space(
            connection,
            who(),
            found["id"],
            name=rename,
            default=default,
            relay=relay,
            url=url,
            acknowledged=_notices(acknowledged),
        )
        moved = default is not None and changed["default_mode"] != found["default_mode"]
        return changed, await events.count_inheriting(connection, found["id"]) if moved else 0

    row, inheriting = in_database(change)
    click.echo(f"space {row['name']}: {_space_in_words(row)}")
    if inheriting:
        click.echo(f"events that inherit the default and changed with it: {inheriting}")


@space.command("delete")
@click.argument("name")
@_yes
def delete_space(name: str, yes: bool) -> None:
    """Delete a space for good: its links still redirect, nothing is recorded any more."""
    row = in_database(lambda connection: store.find_space(connection, name))
    if not yes:
        click.confirm(
            f"Delete the space {row['name']}? The links in its mails still redirect, but nothing is recorded"
            " any more, and it cannot be brought back.",
            abort=True,
            err=True,
        )
    in_database(lambda connection: store.delete_space(connection, who(), row["id"]))
    click.echo(f"space {row['name']} is deleted; its links still redirect, nothing is recorded any more")


def _notices(words: tuple[str, ...]) -> list[Notice]:
    return [Notice(word) for word in words]


def _space_entry(row: Row) -> dict[str, object]:
    return {
        "id": space_id(row["id"]),
        "name": row["name"],
        "default": row["default_mode"],
        "relay": row["relay_mode"],
        "url": row["tracking_url"],
        "created": row["created_at"],
    }


def _space_in_words(row: Row) -> str:
    links = row["tracking_url"] or "MAILTRAIL_PUBLIC_URL"
    return f"id {space_id(row['id'])}, default {row['default_mode']}, relay {row['relay_mode']}, links under {links}"


# --- events ----------------------------------------------------------------------------------------------------------


@click.group()
def event() -> None:
    """Events: kinds of mail in a space, as invoice or newsletter."""


@event.command("list")
@_of_space
@json_option
def list_events(space: str, as_json: bool) -> None:
    """List a space's events."""

    async def read(connection: Connection) -> list[Row]:
        return await events.list_events(connection, (await store.find_space(connection, space))["id"])

    show(
        [_event_entry(row) for row in in_database(read)],
        as_json=as_json,
        none_yet="the space has no event yet; make one with `mailtrail event create`",
    )


@event.command("create")
@click.argument("name")
@_of_space
@click.option("--by-permission", is_flag=True, help="Track by the recipient's permission, not the space's default.")
@_definition
@_acknowledge
def create_event(
    name: str, space: str, by_permission: bool, definition: BinaryIO | None, acknowledged: tuple[str, ...]
) -> None:
    """Make an event."""
    xml = None if definition is None else definition.read(MAX_XML_BYTES + 1)

    async def create(connection: Connection) -> Row:
        found = await store.find_space(connection, space)
        return await events.create_event(
            connection,
            who(),
            found["id"],
            name,
            by_permission=by_permission,
            definition=xml,
            acknowledged=_notices(acknowledged),
        )

    row = in_database(create)
    click.echo(f"event {row['name']} is made: id {event_id(row['id'])}, {_event_in_words(row)}")


@event.command("change")
@click.argument("name")
@_of_space
@click.option("--rename", metavar="NAME", help="Another name.")
@click.option("--tracking", metavar="permission|inherit", help="By permission, or the space's default.")
@click.option("--archive/--restore", "archived", default=None, help="Leave it out of lists; its links work as before.")
@_definition
@_acknowledge
def change_event(
    name: str,
    space: str,
    rename: str | None,
    tracking: str | None,
    archived: bool | None,
    definition: BinaryIO | None,
    acknowledged: tuple[str, ...],
) -> None:
    """Change an event: how it is tracked, its name, its definition. An active one must leave protected mode first."""
    if all(given is None for given in (rename, tracking, archived, definition)):
        raise click.UsageError(
            "nothing is to be changed; give --tracking, --definition, --rename, --archive or --restore"
        )
    by_permission = None if tracking is None else event_by_permission(tracking)
    xml = None if definition is None else definition.read(MAX_XML_BYTES + 1)

    async def change(connection: Connection) -> Row:
        found = await _find_event(connection, space, name)
        return await events.change_event(
            connection,
            who(),
            found["space_id"],
            found["id"],
            name=rename,
            by_permission=by_permission,
            archived=archived,
            definition=xml,
            acknowledged=_notices(acknowledged),
        )

    row = in_database(change)
    click.echo(f"event {row['name']}: {_event_in_words(row)}")


@event.command("definition")
@click.argument("name")
@_of_space
def show_definition(name: str, space: str) -> None:
    """Print an event's XML definition."""
    row = in_database(lambda connection: _find_event(connection, space, name))
    if row["definition"] is None:
        raise NotFound("the event has no definition; give one with `mailtrail event change --definition FILE`")
    click.echo(row["definition"], nl=False)


@event.command("leave-protected-mode")
@click.argument("name")
@_of_space
@_acknowledge
def leave_protected_mode(name: str, space: str, acknowledged: tuple[str, ...]) -> None:
    """Let the tracking of an active event be changed, for 15 minutes or until it is saved."""

    async def leave(connection: Connection) -> Row:
        found = await _find_event(connection, space, name)
        return await events.leave_protected_mode(
            connection, who(), found["space_id"], found["id"], acknowledged=_notices(acknowledged)
        )

    row = in_database(leave)
    if row["unprotected_until"] is None:
        click.echo(f"event {row['name']} is not active yet and may be changed")
    else:
        click.echo(f"event {row['name']} may be changed until {row['unprotected_until']:%H:%M:%S} UTC")


async def _find_event(connection: Connection, space: str, name: str) -> Row:
    return await events.find_event(connection, (await store.find_space(connection, space))["id"], name)


def _event_entry(row: Row) -> dict[str, object]:
    return {
        "id": event_id(row["id"]),
        "name": row["name"],
        "tracking": "permission" if row["by_permission"] else "inherit",
        "protected": is_protected(row["active_since"], row["unprotected_until"], datetime.now(UTC)),
        "type": row["type_id"],
        "created": row["created_at"],
    }


def _event_in_words(row: Row) -> str:
    if row["by_permission"]:
        return "tracks by the recipient's permission: person_based if it is granted, else anonymized"
    return "inherits the space's default"


# --- mailings and their links ----------------------------------------------------------------------------------------


@click.group()
def mailing() -> None:
    """Mailings: mail contents that were sent, with their links and the number of messages."""


@mailing.command("list")
@_of_space
@click.option("--event", metavar="NAME", help="Only this event's.")
@json_option
def list_mailings(space: str, event: str | None, as_json: bool) -> None:
    """List a space's mailings, the newest first."""

    async def read(connection: Connection) -> list[Row]:
        space_row = await store.find_space(connection, space)
        of_event = event and (await events.find_event(connection, space_row["id"], event))["id"]
        rows = await store.list_mailings(connection, space_row["id"])
        return [row for row in rows if of_event is None or row["event_id"] == of_event]

    show(
        [_mailing_entry(row) for row in in_database(read)],
        as_json=as_json,
        none_yet="there is no mailing yet; `mailtrail rewrite` makes one at its first use",
    )


@mailing.command("create")
@click.argument("name")
@_of_space
@_of_event
@click.option("--url-parameters", default="", metavar="QUERY", help=_url_parameters)
def create_mailing(name: str, space: str, event: str, url_parameters: str) -> None:
    """Make a mailing; sending makes it too, at its first use."""

    async def create(connection: Connection) -> Row:
        space_row = await store.find_space(connection, space)
        event_row = await events.find_event(connection, space_row["id"], event)
        return await store.create_mailing(
            connection, who(), space_row["id"], event_row["id"], name, url_parameters=url_parameters
        )

    row = in_database(create)
    click.echo(f"mailing {row['name']} is made: id {mailing_id(row['id'])}")


@mailing.command("change")
@click.argument("mailing")
@_of_space
@_of_event_if_needed
@click.option("--rename", metavar="NAME", help="Another name.")
@click.option("--url-parameters", metavar="QUERY", help=f"{_url_parameters} An empty text takes them away.")
def change_mailing(mailing: str, space: str, event: str | None, rename: str | None, url_parameters: str | None) -> None:
    """Change a mailing. Mails already sent stay as they are."""
    if rename is url_parameters is None:
        raise click.UsageError("nothing is to be changed; give --rename or --url-parameters")

    async def change(connection: Connection) -> Row:
        found = await _find_mailing(connection, space, event, mailing)
        return await store.change_mailing(
            connection, who(), found["space_id"], found["id"], name=rename, url_parameters=url_parameters
        )

    row = in_database(change)
    parameters = row["url_parameters"]
    click.echo(
        f"mailing {row['name']}: {f'its links get {parameters}' if parameters else 'its links get no parameters'}"
    )


@mailing.command("links")
@click.argument("mailing")
@_of_space
@_of_event_if_needed
@json_option
def list_links(mailing: str, space: str, event: str | None, as_json: bool) -> None:
    """List a mailing's links: number, label, address without personal values, and where they go instead.

    Label and address are hidden until five different recipients have had the link.
    """

    async def read(connection: Connection) -> list[Row]:
        return await store.list_links(connection, (await _find_mailing(connection, space, event, mailing))["id"])

    show(
        [_link_entry(row) for row in in_database(read)],
        as_json=as_json,
        none_yet="the mailing has no links yet; they are numbered when the first mail is made",
    )


@mailing.command("sent")
@click.argument("mailing")
@_of_space
@_of_event_if_needed
@json_option
def list_sent(mailing: str, space: str, event: str | None, as_json: bool) -> None:
    """Show how many messages were made for a mailing, by how much their tokens allow to record, or why nothing."""

    async def read(connection: Connection) -> list[Row]:
        return await store.list_sent(connection, (await _find_mailing(connection, space, event, mailing))["id"])

    rows = [{**row, "reason": row["reason"] or None} for row in in_database(read)]
    show(rows, as_json=as_json, none_yet="nothing was sent for the mailing yet")


@mailing.command("redirect-link")
@click.argument("mailing")
@click.argument("number", type=click.IntRange(1, 2**31 - 1))
@_of_space
@_of_event_if_needed
@click.option("--to", "destination", required=True, metavar="URL", help="May name the original's parameters: {cid}.")
def redirect_link(mailing: str, number: int, space: str, event: str | None, destination: str) -> None:
    """Let a link of mails already sent go somewhere else."""
    _override(mailing, number, space, event, destination)
    click.echo(f"link {number} goes to {destination} now, in mails already sent too")


@mailing.command("switch-off-link")
@click.argument("mailing")
@click.argument("number", type=click.IntRange(1, 2**31 - 1))
@_of_space
@_of_event_if_needed
def switch_off_link(mailing: str, number: int, space: str, event: str | None) -> None:
    """Let a link of mails already sent say that it is gone."""
    _override(mailing, number, space, event, None)
    click.echo(f"link {number} is switched off, in mails already sent too; `mailing restore-link` brings it back")


@mailing.command("restore-link")
@click.argument("mailing")
@click.argument("number", type=click.IntRange(1, 2**31 - 1))
@_of_space
@_of_event_if_needed
def restore_link(mailing: str, number: int, space: str, event: str | None) -> None:
    """Let a link go where it went when it was sent."""

    async def restore(connection: Connection) -> None:
        row = await _find_mailing(connection, space, event, mailing)
        await store.restore_link(connection, who(), row["space_id"], row["id"], number)

    in_database(restore)
    click.echo(f"link {number} goes where it went when it was sent")


def _override(mailing: str, number: int, space: str, event: str | None, destination: str | None) -> None:
    async def override(connection: Connection) -> None:
        row = await _find_mailing(connection, space, event, mailing)
        await store.override_link(connection, who(), row["space_id"], row["id"], number, destination)

    in_database(override)


async def _find_mailing(connection: Connection, space: str, event: str | None, name: str) -> Row:
    found = (await store.find_space(connection, space))["id"]
    if event is None:
        return await store.find_mailing_of_space(connection, found, name)
    return await store.find_mailing(connection, found, (await events.find_event(connection, found, event))["id"], name)


def _mailing_entry(row: Row) -> dict[str, object]:
    return {
        "id": mailing_id(row["id"]),
        "name": row["name"],
        "event": row["event_name"],
        "links": row["links"],
        "sent": row["sent"],
        "created": row["created_at"],
    }


def _link_entry(row: Row) -> dict[str, object]:
    gone = row["overridden"] and row["destination"] is None
    return {
        "number": row["number"],
        "label": row["label"],
        "pattern": row["pattern"],
        "shown": row["shown"],
        "occurrence": row["occurrence"],
        "switched_off": gone,
        "goes_to": row["destination"],
    }
