"""The pages: rendered by the server, usable without JavaScript, in English and German."""

from pathlib import Path

from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from ...config import Settings
from ...errors import NotFound
from ...store.pool import Database
from . import audit, events, explain, keys, mailings, sign_in, spaces, tracking, users
from .web import Visit, Web, endpoint

_STATIC = Path(__file__).parent / "static"
_MODULES = (sign_in, spaces, tracking, events, mailings, audit, explain, keys, users)


def page_routes(settings: Settings, database: Database) -> list[BaseRoute]:
    """The routes of all pages; whatever is none of them is answered with a page, too."""
    web = Web(settings, database)
    return [
        Mount("/static", StaticFiles(directory=_STATIC)),
        *(route for module in _MODULES for route in module.routes(web)),
        Route("/{path:path}", endpoint(web, _nothing, is_public=True)),
    ]


async def _nothing(_: Visit) -> Response:
    raise NotFound("there is no such page")
