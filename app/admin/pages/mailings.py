"""Mailings of a space: what was sent and what happened to it, and where the links of sent mails go instead."""

import re
from typing import Any
from urllib.parse import urlencode

from babel.numbers import format_percent
from starlette.datastructures import FormData
from starlette.responses import Response
from starlette.routing import Route

from ...errors import DestinationRefused, NotFound, SettingsError
from ...store import reports
from ...store import settings as store
from ...store.pool import Connection, Row
from ..access import Scope
from .attempts import Attempt, text
from .places import PAGE_SIZE, on_post, path_of_space, searched, space_of
from .web import Visit, Web, endpoint

_ID = re.compile(r"[0-9a-f]{12}")
_LINK = re.compile(r"[1-9][0-9]{0,8}")
_MODES = ("person_based", "anonymized")


def routes(web: Web) -> list[Route]:
    both = ["GET", "POST"]
    mailing = "/spaces/{space}/mailings/{mailing}"
    return [
        Route("/spaces/{space}/mailings", endpoint(web, list_mailings)),
        Route(mailing, endpoint(web, show_mailing)),
        Route(mailing + "/{form}", endpoint(web, on_post(save_mailing)), methods=both),
        Route(mailing + "/links/{number}", endpoint(web, show_link)),
        Route(mailing + "/links/{number}/{form}", endpoint(web, on_post(save_link)), methods=both),
    ]


def path_of_mailing(space: int, mailing: int) -> str:
    return f"{path_of_space(space)}/mailings/{mailing:012x}"


async def mailing_of(visit: Visit, connection: Connection) -> tuple[Row, Row]:
    """The space and the mailing of the path; NotFound for what is not there for the visitor."""
    space = await space_of(visit, connection)
    hexadecimal = str(visit.request.path_params["mailing"])
    if _ID.fullmatch(hexadecimal) is None:
        raise NotFound("there is no such page")
    return space, await store.show_mailing(connection, space["id"], int(hexadecimal, 16))


# --- the list --------------------------------------------------------------------------------------------------------


async def list_mailings(visit: Visit) -> Response:
    visit.who.check(Scope.READ)
    contains, shows_archived = searched(visit), "archived" in visit.request.query_params
    async with visit.web.database.connection() as connection:
        space = await space_of(visit, connection)
        before = await _behind(visit, connection, space["id"])
        rows = await store.page_of_mailings(
            connection, space["id"], before=before, contains=contains, archived=shows_archived, limit=PAGE_SIZE + 1
        )
    return visit.page(
        "mailings.html",
        space=space,
        mailings=rows[:PAGE_SIZE],
        following=f"{rows[PAGE_SIZE - 1]['id']:012x}" if len(rows) > PAGE_SIZE else "",
        is_first=before is None,
        contains=contains,
        shows_archived=shows_archived,
        query=urlencode(({"q": contains} if contains else {}) | ({"archived": "yes"} if shows_archived else {})),
    )


async def _behind(visit: Visit, connection: Connection, space: int) -> tuple[Any, int] | None:
    """The place that the list goes on behind; None, the start, if the address is not from one of our pages."""
    cursor = visit.request.query_params.get("after", "")
    try:
        row = await store.get_mailing(connection, space, int(cursor, 16)) if _ID.fullmatch(cursor) else None
    except NotFound:
        return None
    return None if row is None else (row["created_at"], row["id"])


# --- one mailing -----------------------------------------------------------------------------------------------------


async def show_mailing(visit: Visit) -> Response:
    async with visit.web.database.connection() as connection:
        return await _mailing_page(visit, connection, Attempt())


async def save_mailing(visit: Visit) -> Response:
    """Its name, its links' parameters, or whether lists show it."""
    name = str(visit.request.path_params["form"])
    async with visit.web.database.connection() as connection:
        space, mailing = await mailing_of(visit, connection)
        here = path_of_mailing(space["id"], mailing["id"])
        if name not in ("name", "parameters", "archive"):
            return visit.go(here)
        visit.who.check(Scope.WRITE)
        form = await visit.form()
        archived = text(form, "archived") == "yes"
        wanted: dict[str, dict[str, Any]] = {
            "name": {"name": text(form, "name")},
            "parameters": {"url_parameters": text(form, "url_parameters")},
            "archive": {"archived": archived},
        }
        try:
            await store.change_mailing(connection, visit.who.who, space["id"], mailing["id"], **wanted[name])
        except SettingsError as error:
            return await _mailing_page(visit, connection, Attempt.of(name, form, error, visit.language))
    return visit.go(f"{here}?saved={'restored' if name == 'archive' and not archived else name}")


async def _mailing_page(visit: Visit, connection: Connection, attempt: Attempt) -> Response:
    visit.who.check(Scope.READ)
    space, mailing = await mailing_of(visit, connection)
    report = await reports.report_on_mailing(connection, mailing["id"])
    if report is None:
        raise NotFound("there is no such mailing")
    clicks = await reports.report_on_links(connection, mailing["id"])
    return visit.page(
        "mailing.html",
        status=attempt.status,
        attempt=attempt,
        space=space,
        mailing=mailing,
        report=report,
        rates=_rates(report, visit.language),
        aggregate=_aggregate(report),
        untracked=[row for row in await store.list_sent(connection, mailing["id"]) if row["reason"]],
        links=await store.list_links(connection, mailing["id"]),
        clicks=clicks,
        other_clicks=report["clicks"] - sum(row["clicks"] for row in clicks.values()),
        key_days=visit.web.settings.anonymization_days,
        hit_days=visit.web.settings.hits_retention_days,
        may_explain=visit.who.may(Scope.PRIVACY),
        may_write=visit.who.may(Scope.WRITE),
    )


def _rates(report: Row, language: str) -> dict[str, str]:
    """Unique opens and clicks of a hundred messages that can be told apart; nothing where there are none."""
    countable = sum(report[f"sent_{mode}"] for mode in _MODES)
    if not countable:
        return {}
    return {
        name: format_percent(report[name] / countable, "#,##0.0\u00a0%", locale=language)
        for name in ("unique_opens", "unique_clicks")
    }


def _aggregate(report: Row) -> dict[str, int]:
    """What the aggregate mode adds to the totals besides the modes that tell messages apart."""
    parts = {name: report[name] - sum(report[f"{name}_{mode}"] for mode in _MODES) for name in ("opens", "clicks")}
    return {**parts, "sent": report["sent_aggregate"]}


# --- one link --------------------------------------------------------------------------------------------------------


async def show_link(visit: Visit) -> Response:
    async with visit.web.database.connection() as connection:
        return await _link_page(visit, connection, Attempt())


async def save_link(visit: Visit) -> Response:
    """Sends a link elsewhere, switches it off, or lets it go again where it went when it was sent."""
    name = str(visit.request.path_params["form"])
    async with visit.web.database.connection() as connection:
        space, mailing, link = await _link_of(visit, connection)
        mailing_path = path_of_mailing(space["id"], mailing["id"])
        if name not in ("correct", "switch-off", "restore"):
            return visit.go(f"{mailing_path}/links/{link['number']}")
        visit.who.check(Scope.WRITE)
        form = await visit.form()
        try:
            await _override(visit, connection, mailing, link["number"], name, form)
        except DestinationRefused as refused:
            error = SettingsError(str(refused), field="destination")
            return await _link_page(visit, connection, Attempt.of(name, form, error, visit.language))
    return visit.go(f"{mailing_path}?saved={name}#links")


async def _override(visit: Visit, connection: Connection, mailing: Row, number: int, name: str, form: FormData) -> None:
    place = (connection, visit.who.who, mailing["space_id"], mailing["id"], number)
    if name == "restore":
        await store.restore_link(*place)
    else:
        await store.override_link(*place, text(form, "destination").strip() if name == "correct" else None)


async def _link_of(visit: Visit, connection: Connection) -> tuple[Row, Row, Row]:
    space, mailing = await mailing_of(visit, connection)
    number = str(visit.request.path_params["number"])
    if _LINK.fullmatch(number):
        for row in await store.list_links(connection, mailing["id"]):
            if row["number"] == int(number):
                return space, mailing, row
    raise NotFound("there is no such link")


async def _link_page(visit: Visit, connection: Connection, attempt: Attempt) -> Response:
    visit.who.check(Scope.READ)
    space, mailing, link = await _link_of(visit, connection)
    clicks = await reports.report_on_links(connection, mailing["id"])
    return visit.page(
        "link.html",
        status=attempt.status,
        attempt=attempt,
        space=space,
        mailing=mailing,
        link=link,
        clicks=clicks[link["number"]],
        may_write=visit.who.may(Scope.WRITE),
    )
