"""What happened to mailings, as the analysts' views tell it. It only reads."""

from collections.abc import Collection

from .pool import Connection, Row
from .queries import queries

_SQL = queries("reports")


async def report_on_mailing(connection: Connection, mailing: int) -> Row | None:
    """Sent, opens and clicks of a mailing, total and unique, by mode; see `analytics.mailings`."""
    return await connection.fetchrow(_SQL["mailing"], mailing)


async def report_on_links(connection: Connection, mailing: int) -> dict[int, Row]:
    """Clicks by link number, total and unique, by mode; see `analytics.links`."""
    return {row["link"]: row for row in await connection.fetch(_SQL["links"], mailing)}


async def names_of_mailings(connection: Connection, mailings: Collection[int]) -> dict[int, str]:
    """Names by id, of those that are there."""
    return {row["id"]: row["name"] for row in await connection.fetch(_SQL["names"], list(mailings))}
