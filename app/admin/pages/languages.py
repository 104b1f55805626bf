"""The languages of the pages: which one a visitor reads, and its texts.

The texts of the templates are English; `locale/<language>.po` has the others'. Invariant: a text without a translation
is shown in English, never as a key.
"""

from functools import cache
from pathlib import Path

from babel import negotiate_locale
from babel.messages import Catalog, pofile
from starlette.requests import Request

LANGUAGES = ("en", "de")
LANGUAGE_COOKIE = "mailtrail_language"
_DIRECTORY = Path(__file__).parent / "locale"


def language_of(request: Request) -> str:
    """What the visitor chose, else the best of what the browser asks for."""
    chosen = request.cookies.get(LANGUAGE_COOKIE, "")
    if chosen in LANGUAGES:
        return chosen
    wanted = [part.partition(";")[0].strip() for part in request.headers.get("accept-language", "").split(",")]
    return negotiate_locale([word for word in wanted if word], LANGUAGES, sep="-") or LANGUAGES[0]


class Texts:
    """gettext's functions over one catalogue."""

    def __init__(self, catalogue: Catalog) -> None:
        self._catalogue = catalogue

    def gettext(self, text: str) -> str:
        message = self._catalogue.get(text)
        return str(message.string) if message is not None and message.string else text

    def ngettext(self, one: str, many: str, number: int) -> str:
        message = self._catalogue.get(one)
        plurals = message.string if message is not None and isinstance(message.string, tuple | list) else ()
        index = 0 if number == 1 else 1
        return (plurals[index] if len(plurals) > index and plurals[index] else "") or (one if number == 1 else many)


@cache
def texts(language: str) -> Texts:
    """The texts of a language."""
    file = _DIRECTORY / f"{language}.po"
    if not file.exists():
        return Texts(Catalog(locale=language))
    with file.open("rb") as opened:
        return Texts(pofile.read_po(opened, locale=language))
