"""Whole mails rewritten: the links of their shown texts are tracked, and the last shown HTML gets the pixel.

Invariant: besides the edited bodies, and the Content-Transfer-Encoding of a body whose lines got too long, every byte
of the mail stays: headers, boundaries, attachments, line ends. Mails that are signed (DKIM, S/MIME, PGP) or encrypted
come back as they were. Pure, linear in the mail's length, and it raises for nothing but an empty mail.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..errors import DestinationRefused, MailRefused
from ..tracking.destinations import normalise, web_codec
from .flowed import join_lines
from .html_links import Changes, Edit, Link, Rules, Track, change_html, change_text
from .html_tags import declared_charsets
from .mime_parts import Part, read_structure
from .transfer import (
    ByteEdit,
    QuotedPrintable,
    decode_base64,
    encode_base64,
    encode_qp,
    has_long_line,
    splice,
)

_PGP = re.compile(r"(?:^|>)-----BEGIN PGP (SIGNED )?MESSAGE-----", re.M)
_LINE_END = re.compile(rb"\r?\n")
_SHIFTS = re.compile(rb"[\x0e\x1b]|~\{")  # to charsets whose letters look like ASCII

BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}


@dataclass(frozen=True, slots=True)
class RewrittenMail:
    """`untouched` counts links by the reasons of `Rewritten`, parts by those of `Structure` (undecodable, malformed,
    no_text), and why a whole mail was left as it was: dkim, signed, encrypted or malformed."""

    raw: bytes
    tracked: int
    untouched: Counter[str]


def rewrite_mail(
    raw: bytes,
    track: Track,
    pixel_url: str | None,
    *,
    text_parts: bool = True,
    html_links: bool = True,
    app_schemes: frozenset[str] = frozenset(),
) -> RewrittenMail:
    """Calls `track` for every trackable link in document order, part by part, and puts the answers in.

    `text_parts=False` leaves text/plain alone, `html_links=False` the links of HTML, counted as declined. Raises
    `MailRefused` for an empty mail only.
    """
    if not raw.strip():
        raise MailRefused("the mail is empty; hand over the whole message with its header")
    structure = read_structure(raw)
    bodies = [_Body.read(raw, part) for part in structure.parts]
    protected = structure.protected + Counter(body.protection for body in bodies if body.protection)
    if protected:
        return RewrittenMail(raw, 0, protected)
    found = _LINE_END.search(raw)
    mail = _Rewriting(raw, found[0] if found else b"\r\n", untouched=structure.unread)
    leave = frozenset(_normalised(structure.unsubscribe_urls, app_schemes))
    with_pixel = next((body for body in reversed(bodies) if body.is_readable and body.part.is_html), None)
    for body in bodies:
        if body.part.is_html or text_parts:
            # A URL in plain text has no document: mail programs and address bars read it as UTF-8.
            rules = Rules(body.codec if body.part.is_html else "utf-8", leave, app_schemes)
            asked = track if html_links or not body.part.is_html else _decline
            mail.rewrite(body, asked, rules, pixel_url if body is with_pixel else None)
    return RewrittenMail(splice(raw, mail.edits), mail.tracked, mail.untouched)


def _decline(_: Link) -> None:
    """The link stays as it is."""


def _normalised(urls: list[str], app_schemes: frozenset[str]) -> Iterator[str]:
    for url in urls:
        try:
            yield normalise(url, app_schemes=app_schemes)
        except DestinationRefused:
            continue


@dataclass(frozen=True, slots=True)
class _Body:
    """A part's body, decoded; without a codec it could not be."""

    part: Part
    encoded: bytes
    source: QuotedPrintable | None = None
    data: bytes = b""
    codec: str = ""
    text: str = ""

    @classmethod
    def read(cls, raw: bytes, part: Part) -> "_Body":
        encoded = raw[part.start : part.end]
        source = QuotedPrintable(encoded) if part.transfer_encoding == "quoted-printable" else None
        data = source.decoded if source else _transfer_decoded(encoded, part.transfer_encoding)
        if data is None or (codec := _codec_of(part, data)) is None:
            return cls(part, encoded)
        try:
            text = data.decode(codec, "surrogateescape")
            if text.encode(codec, "surrogateescape") != data:
                return cls(part, encoded)
        except UnicodeError:
            return cls(part, encoded)
        return cls(part, encoded, source, data, codec, text)

    @property
    def is_readable(self) -> bool:
        return self.codec != ""

    @property
    def protection(self) -> str:
        found = _PGP.search(self.text)
        return "" if found is None else "signed" if found[1] else "encrypted"

    def changes(self, track: Track, pixel_url: str | None, rules: Rules) -> Changes:
        if self.part.is_html:
            return change_html(self.text, track, pixel_url, rules)
        if not self.part.joins_lines:
            return change_text(self.text, track, rules)
        joined = join_lines(self.text)
        changes = change_text(joined.text, track, rules)
        changes.edits = [Edit(*joined.source_range(edit.start, edit.end), edit.text) for edit in changes.edits]
        return changes

    def byte_edits(self, edits: list[Edit]) -> list[ByteEdit] | None:
        """The edits in decoded bytes; None if a shift state of the charset (ISO-2022) spans an edit's end."""
        if not edits:
            return []
        found: list[ByteEdit] = []
        pieces: list[bytes] = []
        position = length = 0
        for edit in edits:
            kept, replaced = (
                self._encode(self.text[position : edit.start]),
                self._encode(self.text[edit.start : edit.end]),
            )
            start = length + len(kept)
            length = start + len(replaced)
            found.append((start, length, self._encode(edit.text)))
            pieces += [kept, replaced]
            position = edit.end
        pieces.append(self._encode(self.text[position:]))
        return found if b"".join(pieces) == self.data else None

    def _encode(self, text: str) -> bytes:
        return text.encode(self.codec, "surrogateescape")


def _transfer_decoded(encoded: bytes, transfer_encoding: str) -> bytes | None:
    if transfer_encoding == "base64":
        return decode_base64(encoded)
    return encoded if transfer_encoding in ("7bit", "8bit", "binary") else None


def _codec_of(part: Part, data: bytes) -> str | None:
    """The codec as browsers choose it: a byte order mark counts more than the label, the label more than a meta."""
    if not part.charset.strip() or data.startswith(tuple(BYTE_ORDER_MARKS)):
        return own_codec(data, is_html=part.is_html)
    return web_codec(part.charset) or ("utf-8" if data.isascii() and not _SHIFTS.search(data) else None)


def own_codec(data: bytes, *, is_html: bool) -> str:
    """The codec of an unlabelled text as browsers choose it: by byte order mark, its meta elements, else a guess."""
    for mark, codec in BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            return codec
    declared = declared_charsets(data) if is_html else ()
    if known := next((name for charset in declared if (name := web_codec(charset))), None):
        # A charset that was read out of ASCII bytes is not UTF-16, whatever it says.
        return "utf-8" if known.startswith("utf-16") else known
    try:
        data.decode()
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


@dataclass(slots=True)
class _Rewriting:
    """The edits of one mail, in ascending order, and what is counted on the way."""

    raw: bytes
    line_end: bytes
    edits: list[ByteEdit] = field(default_factory=list)
    tracked: int = 0
    untouched: Counter[str] = field(default_factory=Counter)

    def rewrite(self, body: _Body, track: Track, rules: Rules, pixel_url: str | None) -> None:
        changes = body.changes(track, pixel_url, rules) if body.is_readable else Changes()
        edits = body.byte_edits(changes.edits) if body.is_readable else None
        if edits is None:
            self.untouched["undecodable"] += 1
            return
        if edits:
            self.edits += self._part_edits(body, edits)
        self.tracked += changes.tracked
        self.untouched += changes.untouched

    def _part_edits(self, body: _Body, edits: list[ByteEdit]) -> Iterator[ByteEdit]:
        part = body.part
        if body.source:
            changed = body.source.splice(edits, self.line_end)
        elif part.transfer_encoding == "base64":
            changed = encode_base64(splice(body.data, edits), body.encoded, self.line_end)
        else:
            changed = splice(body.data, edits)
            if part.transfer_encoding != "binary" and has_long_line(changed):
                changed = encode_qp(changed, self.line_end)
                yield self._to_quoted_printable(part)
        yield part.start, part.end, changed

    def _to_quoted_printable(self, part: Part) -> ByteEdit:
        if part.transfer_encoding_at is None:
            return part.header_end, part.header_end, b"Content-Transfer-Encoding: quoted-printable" + self.line_end
        start, end = part.transfer_encoding_at
        return start, end, b" quoted-printable" + (b"\r" if self.raw[end - 1 : end] == b"\r" else b"")
