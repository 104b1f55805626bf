"""Signing in and out, the link that signs in once, one's own account, and the language of the pages.

Invariant: only a form that was sent uses a one-time link up; whoever merely loads it, as mail scanners do, changes
nothing.
"""

from starlette.responses import Response
from starlette.routing import Route

from ...errors import SettingsError, SignInRefused
from ...store import people
from .attempts import Attempt, text
from .languages import LANGUAGES
from .web import Visit, Web, endpoint, forget_session, keep_language, keep_session, local_path


def routes(web: Web) -> list[Route]:
    both = ["GET", "POST"]
    return [
        Route("/sign-in", endpoint(web, sign_in, is_public=True), methods=both),
        Route("/sign-in/once/{secret}", endpoint(web, sign_in_once, is_public=True), methods=both),
        Route("/sign-out", endpoint(web, sign_out, is_public=True), methods=both),
        Route("/language", endpoint(web, choose_language, is_public=True), methods=both),
        Route("/account", endpoint(web, account), methods=both),
    ]


async def sign_in(visit: Visit) -> Response:
    if visit.request.method == "POST":
        return await _sign_in_by_password(visit)
    goal = local_path(visit.request.query_params.get("next", "/"))
    if visit.principal is not None:
        return visit.go(goal)
    has_left = "left" in visit.request.query_params
    return visit.page("sign_in.html", goal=goal, name="", problem="", has_left=has_left)


async def _sign_in_by_password(visit: Visit) -> Response:
    form = await visit.form()
    name, goal = text(form, "name").strip(), local_path(text(form, "next"))
    try:
        if not name.isprintable():
            raise SignInRefused("name or password is wrong")
        async with visit.web.database.connection() as connection:
            secret = await people.sign_in(connection, name, text(form, "password"))
    except SignInRefused as error:
        return visit.page("sign_in.html", status=403, goal=goal, name=name, problem=str(error), has_left=False)
    return await _signed_in(visit, secret, goal)


async def sign_in_once(visit: Visit) -> Response:
    if visit.request.method != "POST":
        return visit.page("one_time.html", problem="")
    await visit.form()
    try:
        async with visit.web.database.connection() as connection:
            secret = await people.use_one_time_sign_in(connection, str(visit.request.path_params["secret"]))
    except SignInRefused as error:
        return visit.page("one_time.html", status=403, problem=str(error))
    return await _signed_in(visit, secret, "/account?welcome=1")


async def _signed_in(visit: Visit, secret: str, goal: str) -> Response:
    await _end_session(visit)
    answer = visit.go(goal)
    keep_session(visit, answer, secret)
    return answer


async def _end_session(visit: Visit) -> None:
    if visit.secret is not None:
        async with visit.web.database.connection() as connection:
            await people.sign_out(connection, visit.secret)


async def sign_out(visit: Visit) -> Response:
    if visit.request.method != "POST":
        return visit.go("/")
    await visit.form()
    await _end_session(visit)
    answer = visit.go("/sign-in?left=1")
    forget_session(answer)
    return answer


async def choose_language(visit: Visit) -> Response:
    if visit.request.method != "POST":
        return visit.go("/")
    form = await visit.form()
    answer = visit.go(local_path(text(form, "next")))
    if text(form, "language") in LANGUAGES:
        keep_language(answer, text(form, "language"))
    return answer


async def account(visit: Visit) -> Response:
    if visit.request.method != "POST":
        return _account_page(visit, Attempt())
    form = await visit.form()
    password = text(form, "password")
    assert visit.user_id is not None, "the page is for people who are signed in"
    try:
        if password != text(form, "repeated"):
            raise SettingsError("the two passwords differ", field="repeated")
        async with visit.web.database.connection() as connection:
            await people.set_password(connection, visit.who.who, visit.user_id, password, session=visit.secret)
    except SettingsError as error:
        return _account_page(visit, Attempt.of("password", form, error, visit.language))
    return visit.go("/account?saved=password")


def _account_page(visit: Visit, attempt: Attempt) -> Response:
    return visit.page("account.html", status=attempt.status, attempt=attempt, least=people.MIN_PASSWORD_LENGTH)
