"""Whole mails rewritten: the links of their shown texts are tracked, and the last shown HTML gets the pixel.

Invariant: besides the edited bodies, and the Content-Transfer-Encoding of a body whose lines got too long, every byte
of the mail stays: headers, boundaries, attachments, line ends. Mails that are signed (DKIM, S/MIME, PGP) or encrypted
come back as they were. Pure, linear in the mail's length, and it raises for nothing but an empty mail.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ..errors import DestinationRefused, MailRefused
from ..tracking.destinations import normalise, web_codec
from .flowed import join_lines
from .html_links import Edit, Findings, Link, Place, Rules, Track, find_in_html, find_in_text
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

_PGP_BEGIN = "-----BEGIN PGP "
_PGP = re.compile(rf"(?:^|>){_PGP_BEGIN}(SIGNED )?MESSAGE-----", re.M)
_LINE_END = re.compile(rb"\r?\n")
_ASCII_OF_ANOTHER_MEANING = frozenset({"utf-7", "utf7", "unicode-1-1-utf-7", "csunicode11utf7", "hz", "hz-gb-2312"})
_SHIFTS = re.compile(rb"[\x0e\x1b]|~\{")  # to charsets whose letters look like ASCII

BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}


@dataclass(frozen=True, slots=True)
class RewrittenMail:
    """What was put in: `placed` are the places in `links` of those that are tracked now, `pixel` says whether it is in.

    `untouched` counts links by the reasons of `Rewritten`, parts by those of `Structure` (undecodable, malformed,
    no_text), and why a whole mail was left as it was: dkim, signed, encrypted or malformed.
    """

    raw: bytes
    placed: tuple[int, ...]
    pixel: bool
    untouched: Counter[str]

    @property
    def tracked(self) -> int:
        return len(self.placed)


@dataclass(frozen=True, slots=True)
class Reading:
    """A mail that was read once: its trackable links, and where they and the pixel go.

    `untouched` has the reasons of the links and parts that cannot be tracked, or of the whole mail; `html` the bytes of
    the HTML that it shows, without their transfer encoding.
    """

    raw: bytes
    links: tuple[Link, ...]
    untouched: Counter[str]
    html: tuple[bytes, ...]
    _parts: tuple["_ReadPart", ...]
    _unread: Counter[str]

    def put_in(self, urls: Sequence[str | None], pixel_url: str | None) -> RewrittenMail:
        """The mail with these URLs, one for each link, None to leave it; opt-outs are taken out in any case."""
        mail = _Rewriting(self.raw, untouched=self._unread.copy())
        for part in self._parts:
            mail.rewrite(part, urls, pixel_url)
        return RewrittenMail(splice(self.raw, mail.edits), tuple(mail.placed), mail.pixel, mail.untouched)


def read_mail(
    raw: bytes, *, text_parts: bool = True, html_links: bool = True, app_schemes: frozenset[str] = frozenset()
) -> Reading:
    """Finds the trackable links in document order, part by part.

    `text_parts=False` leaves text/plain alone, `html_links=False` the links of HTML, counted as declined. Raises
    `MailRefused` for an empty mail only.
    """
    if not raw.strip():
        raise MailRefused("the mail is empty; hand over the whole message with its header")
    structure = read_structure(raw)
    bodies = [_Body.read(raw, part) for part in structure.parts]
    html = tuple(body.data or body.encoded for body in bodies if body.part.is_html)
    protected = structure.protected + Counter(body.protection for body in bodies if body.protection)
    if protected:
        return Reading(raw, (), protected, html, (), protected)
    leave = frozenset(_normalised(structure.unsubscribe_urls, app_schemes))
    with_pixel = next((body for body in reversed(bodies) if body.is_readable and body.part.is_html), None)
    links: list[Link] = []
    untouched = structure.unread.copy()
    parts = []
    for body in bodies:
        if not (body.part.is_html or text_parts):
            continue
        # A URL in plain text has no document: mail programs and address bars read it as UTF-8.
        rules = Rules(body.codec if body.part.is_html else "utf-8", leave, app_schemes)
        found = body.find(rules)
        if body.part.is_html and not html_links:
            found = found.without_links()
        part = _ReadPart(body, found, len(links), body is with_pixel)
        links += part.found.links
        untouched += part.untouched
        parts.append(part)
    return Reading(raw, tuple(links), untouched, html, tuple(parts), structure.unread)


def rewrite_mail(
    raw: bytes,
    track: Track,
    pixel_url: str | None,
    *,
    text_parts: bool = True,
    html_links: bool = True,
    app_schemes: frozenset[str] = frozenset(),
) -> RewrittenMail:
    """Reads a mail, calls `track` for every link that `read_mail` finds, and puts the answers in."""
    reading = read_mail(raw, text_parts=text_parts, html_links=html_links, app_schemes=app_schemes)
    return reading.put_in([track(link) for link in reading.links], pixel_url)


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
        if data is None:
            return cls(part, encoded)
        unreadable = cls(part, encoded, source, data)
        if (codec := _codec_of(part, data)) is None:
            return unreadable
        try:
            text = data.decode(codec, "surrogateescape")
            if text.encode(codec, "surrogateescape") != data:
                return unreadable
        except UnicodeError:
            return unreadable
        return cls(part, encoded, source, data, codec, text)

    @property
    def is_readable(self) -> bool:
        return self.codec != ""

    @property
    def protection(self) -> str:
        found = _PGP.search(self.text) if _PGP_BEGIN in self.text else None
        return "" if found is None else "signed" if found[1] else "encrypted"

    def find(self, rules: Rules) -> Findings:
        """What can be changed in it, by the characters of `text`; nothing in a body that is not readable."""
        if not self.is_readable:
            return Findings()
        if self.part.is_html:
            return find_in_html(self.text, rules)
        if not self.part.joins_lines:
            return find_in_text(self.text, rules)
        joined = join_lines(self.text)
        found = find_in_text(joined.text, rules)
        found.places = [
            Place(place.link, *joined.source_range(place.start, place.end), place.write) for place in found.places
        ]
        return found

    def byte_edits(self, edits: list[Edit]) -> list[ByteEdit] | None:
        """The edits in decoded bytes; None if a shift state of the charset (ISO-2022) spans an edit's end."""
        if not edits:
            return []
        if len(self.text) == len(self.data) and self.text.isascii():
            return [(edit.start, edit.end, self._encode(edit.text)) for edit in edits]
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
    if known := web_codec(part.charset):
        return known
    means_another = part.charset.strip().lower() in _ASCII_OF_ANOTHER_MEANING or _SHIFTS.search(data)
    return "utf-8" if data.isascii() and not means_another else None


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


@dataclass(frozen=True, slots=True)
class _ReadPart:
    """A body with what was found in it; its links are those of the mail from `first_link` on."""

    body: _Body
    found: Findings
    first_link: int
    takes_pixel: bool

    @property
    def untouched(self) -> Counter[str]:
        """Why its links stay as they are if nothing is put in."""
        is_decodable = self.body.is_readable and self.body.byte_edits(self.found.removals) is not None
        return self.found.untouched if is_decodable else Counter(undecodable=1)


@dataclass(slots=True)
class _Rewriting:
    """The edits of one mail, in ascending order, and what is noted on the way."""

    raw: bytes
    untouched: Counter[str]
    line_end: bytes = b"\r\n"
    edits: list[ByteEdit] = field(default_factory=list)
    placed: list[int] = field(default_factory=list)
    pixel: bool = False

    def __post_init__(self) -> None:
        if found := _LINE_END.search(self.raw):
            self.line_end = found[0]

    def rewrite(self, part: _ReadPart, urls: Sequence[str | None], pixel_url: str | None) -> None:
        first = part.first_link
        ours = urls[first : first + len(part.found.places)]
        changes = part.found.changes(ours, pixel_url if part.takes_pixel else None)
        edits = part.body.byte_edits(changes.edits) if part.body.is_readable else None
        if edits is None:
            self.untouched["undecodable"] += 1
            return
        if edits:
            self.edits += self._part_edits(part.body, edits)
        self.placed += [place for place, url in enumerate(ours, first) if url is not None]
        self.pixel = self.pixel or (part.takes_pixel and pixel_url is not None)
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
