"""The pages' templates: everything is escaped, texts and numbers and times are in the visitor's language."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from babel.dates import format_date, format_datetime
from babel.numbers import format_decimal
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from ... import __version__
from .languages import LANGUAGES, texts
from .sentences import said

_DIRECTORY = Path(__file__).parent / "templates"
_LOCALES = {"en": "en_GB", "de": "de"}
"""How times are written: by 24 hours, because they are in UTC."""


def render(template: str, language: str, context: Mapping[str, Any]) -> str:
    """A template in a language. It knows `_`, `ngettext`, `number`, `moment`, `day` and `said`, and `trans` blocks."""
    return _environment(language).get_template(template).render(context)


@cache
def _environment(language: str) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_DIRECTORY),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        extensions=["jinja2.ext.i18n"],
        trim_blocks=True,
        lstrip_blocks=True,
    )
    known = texts(language)
    environment.install_gettext_callables(known.gettext, known.ngettext, newstyle=True)  # type: ignore[attr-defined]
    environment.globals.update(language=language, languages=LANGUAGES, version=__version__)
    environment.filters.update(
        number=lambda value: format_decimal(value, locale=language),
        moment=lambda value: _moment(value, language),
        day=lambda value: format_date(value, locale=_LOCALES[language]),
        said=lambda sentence: said(sentence, language),
    )
    return environment


def _moment(value: datetime, language: str) -> str:
    """A time to the second, in UTC: the same for everyone who reads the audit log."""
    return format_datetime(value.astimezone(UTC), "medium", tzinfo=UTC, locale=_LOCALES[language]) + " UTC"
