"""What is rewritten: a mail or an HTML document, as the bytes it came in.

Invariant: bytes in, bytes out; what rewriting leaves alone is not changed by decoding and encoding either.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from ..errors import MailRefused
from .html_links import Findings, Link, Rules, find_in_html
from .mime import BYTE_ORDER_MARKS, RewrittenMail, own_codec, read_mail

Form = Literal["mail", "html"]

_FIELD = re.compile(rb"[!-9;-~]+[ \t]*:|From ")  # `From `: of mbox files
_FIRST_LINE = re.compile(rb"[^\n]*?(\r?\n)")
_START_BYTES = 1_024


class Reading(Protocol):
    """What was found in a source that was read once; URLs can be put in any number of times."""

    @property
    def links(self) -> tuple[Link, ...]:
        """The trackable links in document order."""

    @property
    def untouched(self) -> Counter[str]:
        """The reasons of what cannot be tracked."""

    @property
    def html(self) -> tuple[bytes, ...]:
        """The HTML that it shows, in the charset's bytes."""

    def put_in(self, urls: Sequence[str | None], pixel_url: str | None) -> RewrittenMail:
        """The source with these URLs, one for each link, None to leave it; opt-outs are taken out in any case."""


class Source(Protocol):
    """Something with links that can be rewritten; it stays as it is."""

    @property
    def raw(self) -> bytes: ...

    def read(self) -> Reading:
        """Finds its links."""

    def noted(self, why_untracked: str) -> bytes:
        """The source with a note that it went out untracked, where its form has a place for one."""


@dataclass(frozen=True, slots=True)
class Mail:
    """A whole mail; `text_parts=False` leaves text/plain alone, `html_links=False` the links of HTML."""

    raw: bytes
    text_parts: bool = True
    app_schemes: frozenset[str] = frozenset()
    html_links: bool = True

    def __post_init__(self) -> None:
        _refuse_empty(self.raw)

    def read(self) -> Reading:
        return read_mail(self.raw, text_parts=self.text_parts, html_links=self.html_links, app_schemes=self.app_schemes)

    def noted(self, why_untracked: str) -> bytes:
        """With one header field in front, where no signature covers it; behind the `From ` line of an mbox file."""
        first = _FIRST_LINE.match(self.raw)
        line_end = first[1] if first else b"\r\n"
        at = first.end() if first and self.raw.startswith(b"From ") else 0
        return self.raw[:at] + b"X-Mailtrail-Untracked: " + why_untracked.encode() + line_end + self.raw[at:]


@dataclass(frozen=True, slots=True)
class Document:
    """An HTML document or a piece of one; MailRefused if its bytes are not what its charset says."""

    raw: bytes
    app_schemes: frozenset[str] = frozenset()
    _codec: str = field(init=False)
    _text: str = field(init=False)

    def __post_init__(self) -> None:
        _refuse_empty(self.raw)
        codec = own_codec(self.raw, is_html=True)
        try:
            text = self.raw.decode(codec, "surrogateescape")
            exact = text.encode(codec, "surrogateescape") == self.raw
        except UnicodeError:
            exact = False
        if not exact:
            raise MailRefused(f"the document's bytes are not {codec} as its charset says; correct it, or use UTF-8")
        object.__setattr__(self, "_codec", codec)
        object.__setattr__(self, "_text", text)

    def read(self) -> Reading:
        found = find_in_html(self._text, Rules(self._codec, app_schemes=self.app_schemes))
        return _DocumentReading(self.raw, self._text, self._codec, found)

    def noted(self, why_untracked: str) -> bytes:
        """There is no header; a document is never signed either."""
        return self.raw


@dataclass(frozen=True, slots=True)
class _DocumentReading:
    raw: bytes
    _text: str
    _codec: str
    _found: Findings

    @property
    def links(self) -> tuple[Link, ...]:
        return tuple(self._found.links)

    @property
    def untouched(self) -> Counter[str]:
        return self._found.untouched

    @property
    def html(self) -> tuple[bytes, ...]:
        return (self.raw,)

    def put_in(self, urls: Sequence[str | None], pixel_url: str | None) -> RewrittenMail:
        changes = self._found.changes(urls, pixel_url)
        raw = changes.apply(self._text).text.encode(self._codec, "surrogateescape")
        placed = tuple(place for place, url in enumerate(urls) if url is not None)
        return RewrittenMail(raw, placed, pixel_url is not None, changes.untouched)


def read_source(
    raw: bytes, form: Form | None = None, *, text_parts: bool = True, app_schemes: frozenset[str] = frozenset()
) -> Source:
    """A mail if a header field comes first, HTML if a tag does; MailRefused where neither is said nor seen."""
    _refuse_empty(raw)
    form = form or _form_of(raw)
    return Mail(raw, text_parts, app_schemes) if form == "mail" else Document(raw, app_schemes)


def _form_of(raw: bytes) -> Form:
    if _FIELD.match(raw):
        return "mail"
    start = raw[:_START_BYTES].replace(b"\0", b"")  # UTF-16
    for mark in BYTE_ORDER_MARKS:
        start = start.removeprefix(mark)
    if start.lstrip().startswith(b"<"):
        return "html"
    raise MailRefused(
        "this starts neither like a mail (a header field) nor like HTML (a tag); say which it is: --eml or --html"
    )


def _refuse_empty(raw: bytes) -> None:
    if not raw.strip():
        raise MailRefused("there is nothing to rewrite: it is empty; hand over a whole mail or an HTML document")
