"""`sql`: what analysts see, with nothing but Mailtrail installed."""

import os

import asyncpg
import click

from .. import config
from ..errors import MailtrailError
from ..store import embedded, pool
from ..store.pool import Connection
from .context import database, run
from .tables import show_records

ANALYST = "mailtrail_analyst"


class QueryRefused(MailtrailError):
    """The analysts' query cannot be run."""


@click.command()
@click.argument("query", required=False)
@click.option("--url", "show_url", is_flag=True, help="Print the database's URL, for psql and other tools.")
def sql(query: str | None, show_url: bool) -> None:
    """Run a query as an analyst may, or open psql.

    \b
    mailtrail sql "select * from analytics.mailings"
    """
    settings = config.load()
    if show_url:
        click.echo(pool.url_of(settings, may_create=False))
    elif query is None:
        _open_psql(settings)
    else:
        show_records(run(_ask(settings, query)))


async def _ask(settings: config.Settings, query: str) -> list[asyncpg.Record]:
    async with database(settings) as connection:
        try:
            async with connection.transaction(readonly=True):
                await _take_role(connection)
                return await connection.fetch(query)
        except asyncpg.PostgresError as error:
            raise QueryRefused(f"{error}; analysts read the schema analytics") from None


async def _take_role(connection: Connection) -> None:
    try:
        await connection.execute(f"set local role {ANALYST}")
    except asyncpg.InsufficientPrivilegeError:
        raise QueryRefused(
            f"the database's user may not take on the role {ANALYST}; let an administrator run: grant {ANALYST} to"
            " <the user> with set true"
        ) from None


def _open_psql(settings: config.Settings) -> None:
    url = pool.url_of(settings, may_create=False)
    program = embedded.psql()
    os.execvpe(program, [program, url], {**os.environ, "PGOPTIONS": f"-c role={ANALYST}"})
