"""What all pages share: who is signed in, forms that come from our own pages, languages, and how a page is answered.

Invariant: nothing is changed by a request that is no POST, and by no POST without the form token of its session.
"""

import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from urllib.parse import quote, urlsplit

import structlog
from itsdangerous import BadSignature, URLSafeSerializer
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ...config import Settings
from ...errors import MailtrailError, NotAllowed, NotFound, StoreUnavailable
from ...logs import place_of
from ...store import people
from ...store.pool import Database
from ..access import Principal
from .languages import LANGUAGE_COOKIE, language_of
from .templates import render

SESSION_COOKIE = "mailtrail_session"
MAX_FORM_BYTES = 512 * 1024
"""More than an event's definition may have."""

_log = structlog.get_logger()


class FormRefused(MailtrailError):
    """The form is not from one of our pages, or its session is over."""


@dataclass(slots=True)
class Web:
    """What views work with."""

    settings: Settings
    database: Database
    _key: bytes | None = None

    async def key(self) -> bytes:
        """Signs cookies and form tokens."""
        if self._key is None:
            async with self.database.connection() as connection:
                self._key = await people.session_key(connection)
        return self._key


@dataclass(slots=True)
class Visit:
    """One request to a page. `principal` is None where nobody is signed in."""

    web: Web
    request: Request
    key: bytes
    secret: str | None = None
    principal: Principal | None = None
    user_id: int | None = None

    @property
    def language(self) -> str:
        return language_of(self.request)

    @property
    def who(self) -> Principal:
        assert self.principal is not None, "the page is for people who are signed in"
        return self.principal

    @property
    def form_token(self) -> str:
        """Goes into every form as `form_token`."""
        return _form_token(self.key, self.secret or "")

    async def form(self) -> FormData:
        """The form that was sent, if it is from one of our pages; FormRefused else."""
        check_origin(self.request)
        check_size(self.request)
        try:
            form = await self.request.form(max_files=1, max_fields=1_000, max_part_size=MAX_FORM_BYTES)
        except HTTPException:
            raise FormRefused("this form cannot be read; go back, load the page again and repeat the change") from None
        if not hmac.compare_digest(str(form.get("form_token", "")).encode(), self.form_token.encode()):
            raise FormRefused(
                "this form is too old or not from here; go back, load the page again and repeat the change"
            )
        return form

    def page(self, template: str, /, *, status: int = 200, **context: Any) -> Response:
        """Answers with a template; it knows `visit` besides."""
        answer = Response(render(template, self.language, {"visit": self, **context}), status, media_type="text/html")
        answer.headers["cache-control"] = "no-store"
        answer.headers["content-language"] = self.language
        answer.headers["vary"] = "cookie, accept-language"
        return answer

    def go(self, path: str) -> Response:
        """Sends the browser on after a change, so that loading the page again does not repeat it."""
        return RedirectResponse(path, 303, {"cache-control": "no-store"})


View = Callable[[Visit], Awaitable[Response]]
Endpoint = Callable[[Request], Awaitable[Response]]


def endpoint(web: Web, view: View, *, is_public: bool = False) -> Endpoint:
    """A view as Starlette takes it: who is not signed in is sent to the sign-in, every error is a page."""

    async def answer(request: Request) -> Response:
        visit = Visit(web, request, b"")
        try:
            visit.key = await web.key()
            await _recognise(visit)
            if visit.principal is None and not is_public:
                return visit.go(f"/sign-in?next={quote(request.url.path)}")
            return await view(visit)
        except NotFound as error:
            return visit.page("problem.html", status=404, number=404, sentence=str(error))
        except (NotAllowed, FormRefused) as error:
            return visit.page("problem.html", status=403, number=403, sentence=str(error))
        except StoreUnavailable as error:
            _log.warning(str(error))
            return visit.page("problem.html", status=503, number=503, sentence="")
        except Exception as error:
            log_fault(error)
            return visit.page("problem.html", status=500, number=500, sentence="")

    return answer


async def _recognise(visit: Visit) -> None:
    cookie = visit.request.cookies.get(SESSION_COOKIE)
    if cookie is None:
        return
    try:
        secret = _serializer(visit.key).loads(cookie)
    except BadSignature:
        return
    if not isinstance(secret, str):
        return
    async with visit.web.database.connection() as connection:
        row = await people.user_of_session(connection, secret)
    if row is not None:
        visit.secret, visit.principal, visit.user_id = secret, Principal.of_user(row), row["id"]


def keep_session(visit: Visit, answer: Response, secret: str) -> None:
    """Gives the browser its session."""
    answer.set_cookie(
        SESSION_COOKIE,
        str(_serializer(visit.key).dumps(secret)),
        max_age=int(people.LONGEST_SESSION.total_seconds()),
        path="/",
        secure=_is_https(visit.request),
        httponly=True,
        samesite="lax",
    )


def forget_session(answer: Response) -> None:
    answer.delete_cookie(SESSION_COOKIE, path="/", httponly=True, samesite="lax")


def keep_language(answer: Response, language: str) -> None:
    answer.set_cookie(LANGUAGE_COOKIE, language, max_age=365 * 86_400, path="/", httponly=True, samesite="lax")


def check_origin(request: Request) -> None:
    """FormRefused for a form that another site sends; browsers say where it is from."""
    origin = request.headers.get("origin")
    host = request.headers.get("host", "")
    is_other = origin is not None and urlsplit(origin).netloc.lower() != host.lower()
    if is_other or request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise FormRefused("this form was sent from another site and is refused")


def check_size(request: Request) -> None:
    """FormRefused for a form that is larger than any of ours, or does not say how large it is, before it is read."""
    length = request.headers.get("content-length", "")
    if not (length.isascii() and length.isdigit() and int(length[:20]) <= 2 * MAX_FORM_BYTES):
        raise FormRefused("this form is too large; an event's definition has at most 256 KiB")


def local_path(address: str) -> str:
    """A path of ours to go on to after the sign-in; `/` for anything else."""
    is_local = address.startswith("/") and not address.startswith(("//", "/\\")) and address.isprintable()
    return address if is_local else "/"


def fields(form: FormData) -> Mapping[str, str]:
    """The form's texts; files are left out."""
    return {name: value for name, value in form.items() if isinstance(value, str)}


def log_fault(error: Exception) -> None:
    _log.error("a fault of a page", fault=place_of(error))


def _serializer(key: bytes) -> URLSafeSerializer:
    return URLSafeSerializer(key, salt="session", signer_kwargs={"key_derivation": "hmac", "digest_method": sha256})


def _form_token(key: bytes, secret: str) -> str:
    return hmac.new(key, b"form:" + secret.encode(), sha256).hexdigest()


def _is_https(request: Request) -> bool:
    return "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
