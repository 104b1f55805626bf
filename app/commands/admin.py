"""`admin`: pages and API for the settings, on a private port, and the people who may sign in there."""

import asyncio

import click
import structlog

from .. import config
from ..config import Settings
from ..lasting import LastingServer
from ..store import people
from ..store import settings as store
from ..store.pool import Connection, Database, Row
from .context import in_database, who
from .http_server import configure, end_when_asked
from .processes import (
    check_schema,
    end_with_parent_option,
    listen,
    run_served,
    settings_of_server,
    url_even_if_down,
)
from .tables import json_option, show

GRACEFUL_SECONDS = 5
_log = structlog.get_logger()
_password = "Ask for a password; without it they sign in once by a link and choose one."


@click.group(invoke_without_command=True)
@end_with_parent_option
@click.pass_context
def admin(context: click.Context, end_with_parent: bool) -> None:
    """Run pages and API for the settings on MAILTRAIL_ADMIN_PORT; or manage who may sign in."""
    if context.invoked_subcommand is None:
        settings = settings_of_server()
        run_served(_serve(settings, url_even_if_down(settings), end_with_parent))


async def _serve(settings: Settings, url: str, end_with_parent: bool) -> None:
    # FastAPI and templates take a second to import; `up` needs this file only for what it tells of the pages.
    from ..admin.application import application

    await check_schema(url)
    listening = listen("ADMIN_", settings.admin_host, settings.admin_port)
    database = Database(url)
    server = LastingServer(configure(application(settings, database), GRACEFUL_SECONDS))
    end_when_asked(server, with_parent=end_with_parent)
    _log.info("pages and API", url=address_of(settings, listening.getsockname()[1]))
    try:
        await server.serve(sockets=[listening])
    finally:
        await _end_of_others()
        await database.close()


async def _end_of_others() -> None:
    """A batch that the server has cancelled still counts the mails that it has made."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=GRACEFUL_SECONDS)


def address_of(settings: Settings, port: int | None = None) -> str:
    """Where a browser on this machine finds the pages."""
    return config.local_url(settings.admin_host, port or settings.admin_port)


# --- people ----------------------------------------------------------------------------------------------------------


@admin.command("create-user")
@click.argument("name")
@click.option("--role", type=click.Choice(people.ROLES), default="admin", show_default=True, help="What they may do.")
@click.option("--space", metavar="NAME", help="The only space that they see; without it all.")
@click.option("--password", "asks", is_flag=True, help=_password)
def create_user(name: str, role: str, space: str | None, asks: bool) -> None:
    """Let a person sign in; prints a link that signs them in once."""
    password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True) if asks else None

    async def create(connection: Connection) -> str | None:
        found = space and (await store.find_space(connection, space))["id"]
        row = await people.create_user(connection, who(), name, role, space=found or None, password=password)
        return None if asks else await people.make_one_time_sign_in(connection, who(), row)

    secret = in_database(create)
    click.echo(f"{name} may sign in as {role}")
    _tell_link(secret)


@admin.command("sign-in")
@click.argument("name")
def sign_in(name: str) -> None:
    """Print a link that signs a user in once, within an hour: for the first time, or a forgotten password."""

    async def make(connection: Connection) -> str:
        return await people.make_one_time_sign_in(connection, who(), await people.find_user(connection, name))

    _tell_link(in_database(make))


@admin.command("users")
@json_option
def list_users(as_json: bool) -> None:
    """List who may sign in."""
    show(
        [_user_entry(row) for row in in_database(people.list_users)],
        as_json=as_json,
        none_yet="nobody may sign in yet; `mailtrail admin create-user NAME` lets somebody",
    )


@admin.command("change-user")
@click.argument("name")
@click.option("--role", type=click.Choice(people.ROLES), help="What they may do.")
@click.option("--disable/--enable", "disabled", default=None, help="Whether they may sign in.")
def change_user(name: str, role: str | None, disabled: bool | None) -> None:
    """Change what a user may do, or whether they may sign in."""
    if role is None and disabled is None:
        raise click.UsageError("nothing is to be changed; give --role, --disable or --enable")

    async def change(connection: Connection) -> Row:
        found = await people.find_user(connection, name)
        return await people.change_user(connection, who(), found["id"], role=role, disabled=disabled)

    row = in_database(change)
    click.echo(f"{row['name']}: {row['role']}, {'may not sign in' if row['disabled_at'] else 'may sign in'}")


def _user_entry(row: Row) -> dict[str, object]:
    return {
        "name": row["name"],
        "role": row["role"],
        "space": row["space_name"],
        "seen": row["seen_at"],
        "disabled": row["disabled_at"] is not None,
    }


def _tell_link(secret: str | None) -> None:
    if secret is not None:
        click.echo(f"sign in once, within an hour: {address_of(config.load())}/sign-in/once/{secret}")


async def first_sign_in(url: str, settings: Settings) -> str | None:
    """The address that signs the first administrator in once; None if there is somebody already."""
    database = Database(url, most=1)  # a connection that is lost on the way is StoreUnavailable, too
    try:
        async with database.connection() as connection, connection.transaction():
            await connection.execute("lock table vault.users in exclusive mode")
            if await people.has_users(connection):
                return None
            row = await people.create_user(connection, "mailtrail up", "admin", "admin")
            secret = await people.make_one_time_sign_in(connection, "mailtrail up", row)
    finally:
        await database.close()
    return f"{address_of(settings)}/sign-in/once/{secret}"
