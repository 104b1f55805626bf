"""What is rewritten: a mail or an HTML document, as the bytes it came in.

Invariant: bytes in, bytes out; what rewriting leaves alone is not changed by decoding and encoding either.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

from ..errors import MailRefused
from .html_links import Track, rewrite_html
from .mime import BYTE_ORDER_MARKS, RewrittenMail, own_codec, rewrite_mail
from .mime_parts import read_structure
from .transfer import QuotedPrintable, decode_base64

Form = Literal["mail", "html"]

_FIELD = re.compile(rb"[!-9;-~]+[ \t]*:|From ")  # `From `: of mbox files
_FIRST_LINE = re.compile(rb"[^\n]*?(\r?\n)")
_START_BYTES = 1_024


class Source(Protocol):
    """Something with links that can be rewritten, any number of times; it stays as it is."""

    @property
    def raw(self) -> bytes: ...

    def rewrite(self, track: Track, pixel_url: str | None) -> RewrittenMail:
        """Asks `track` for every trackable link in document order, and puts the answers and the pixel in."""

    def html(self, raw: bytes) -> Iterator[bytes]:
        """The shown HTML of `raw`, which is the source or what `rewrite` made of it, decoded to the charset's bytes."""

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

    def rewrite(self, track: Track, pixel_url: str | None) -> RewrittenMail:
        return rewrite_mail(
            self.raw,
            track,
            pixel_url,
            text_parts=self.text_parts,
            html_links=self.html_links,
            app_schemes=self.app_schemes,
        )

    def html(self, raw: bytes) -> Iterator[bytes]:
        for part in read_structure(raw).parts:
            if part.is_html:
                encoded = raw[part.start : part.end]
                if part.transfer_encoding == "quoted-printable":
                    yield QuotedPrintable(encoded).decoded
                elif part.transfer_encoding == "base64":
                    yield decode_base64(encoded) or b""
                else:
                    yield encoded

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

    def __post_init__(self) -> None:
        _refuse_empty(self.raw)
        object.__setattr__(self, "_codec", own_codec(self.raw, is_html=True))
        try:
            exact = self._text().encode(self._codec, "surrogateescape") == self.raw
        except UnicodeError:
            exact = False
        if not exact:
            raise MailRefused(
                f"the document's bytes are not {self._codec} as its charset says; correct it, or use UTF-8"
            )

    def rewrite(self, track: Track, pixel_url: str | None) -> RewrittenMail:
        done = rewrite_html(self._text(), track, pixel_url, encoding=self._codec, app_schemes=self.app_schemes)
        return RewrittenMail(done.text.encode(self._codec, "surrogateescape"), done.tracked, done.untouched)

    def html(self, raw: bytes) -> Iterator[bytes]:
        yield raw

    def noted(self, why_untracked: str) -> bytes:
        """There is no header; a document is never signed either."""
        return self.raw

    def _text(self) -> str:
        return self.raw.decode(self._codec, "surrogateescape")


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
