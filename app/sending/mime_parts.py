"""The texts that a mail shows, found in its MIME structure with their offsets; nothing is decoded or copied here.

Invariant: one forward pass over the lines, however deep the parts are nested; what cannot be understood is no part,
so nobody edits it. Attachments, files and what signatures or encryption protect are leaves that are not shown.
Source: RFC 5322 (headers), RFC 2045 to 2047 and 2231, RFC 2387 (related), RFC 2183 (dispositions).
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote

_FIELD = re.compile(
    rb"(?!--)(?:([!-9;-~]*+)[ \t]*+:|From |[ \t])([^\n]*+(?:\n[ \t][^\n]*+)*+)(?:\n|\Z)"  # `From `: of mbox files
)
_BLANK_LINE = re.compile(rb"\r?\n")
_READ_FIELDS = frozenset(
    {
        b"content-type",
        b"content-disposition",
        b"content-transfer-encoding",
        b"content-id",
        b"dkim-signature",
        b"list-unsubscribe",
    }
)
_TYPE = re.compile(r"\s*+([^\s;/()<>@,\\\"]++/[^\s;/()<>@,\\\"]++)")
_WORD = re.compile(r"\s*+([\w-]+)")
_PARAMETER = re.compile(r';\s*+([^\s=;"]++)\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)"|([^\s;"]*+))', re.S)
_SECTION = re.compile(r"([^*]+)\*(?:(0|[1-9][0-9]{0,3})(\*?))?")  # name*, name*0, name*0* of RFC 2231
# What only a body has: line ends of CR alone, which nobody reads as such, or a line that begins with a URL or a tag.
_BODY_IN_HEADER = re.compile(rb"(?<!\r)(?:\r++[!-9;-~]++[ \t]*+:|\r\r++(?!\n))|^(?:https?:|<)", re.M | re.I)
_LIST_URL = re.compile(r"<([^<>]++)>")

_TEXTS = frozenset({"text/html", "text/plain"})
_IDENTITIES = frozenset({"7bit", "8bit", "binary"})
_SMIME = frozenset({"application/pkcs7-mime", "application/x-pkcs7-mime"})


@dataclass(frozen=True, slots=True)
class HeaderField:
    """`raw[start:end]` is the value as it stands, `value` the same unfolded; bytes above 127 read as latin-1."""

    value: str
    start: int
    end: int

    def parameters(self) -> dict[str, str]:
        """The parameters by lower-case name, the first of each; what RFC 2231 writes in sections is put together.

        Where a parameter is written both ways, the newer one counts. Encoded octets, of whatever charset, are read as
        latin-1 like all others.
        """
        found: dict[str, str] = {}
        sections: dict[str, dict[int, str]] = {}
        for full_name, quoted, token in _PARAMETER.findall(self.value):
            name, value = full_name.lower(), re.sub(r"\\(.)", r"\1", quoted) or token
            if section := _SECTION.fullmatch(name):
                number = int(section[2] or 0)
                text = value if section[3] == "" else _decode_octets(value, is_first=number == 0)
                sections.setdefault(section[1], {}).setdefault(number, text)
            else:
                found.setdefault(name, value)
        return found | {name: "".join(numbered[at] for at in sorted(numbered)) for name, numbered in sections.items()}


def _decode_octets(value: str, *, is_first: bool) -> str:
    """The first section begins with `charset'language'`."""
    pieces = value.split("'", 2) if is_first else []
    return unquote(pieces[2] if len(pieces) == 3 else value, "latin-1")


_NO_FIELD = HeaderField("", 0, 0)


@dataclass(frozen=True, slots=True)
class Header:
    """The fields of a mail or part that matter here, by lower-case name. Another field can be put in at `end`."""

    fields: dict[bytes, list[HeaderField]]
    end: int
    body_start: int
    holds_body: bool  # no blank line ends it, so that it has taken in what should be shown

    def first(self, name: bytes) -> HeaderField:
        """The first field of this name, an empty one if there is none."""
        return self.fields.get(name, [_NO_FIELD])[0]


@dataclass(frozen=True, slots=True)
class Part:
    """A text that is shown; its encoded body is `raw[start:end]` and not empty."""

    is_html: bool
    charset: str
    joins_lines: bool  # format=flowed with DelSp=yes: soft line breaks stand inside words
    transfer_encoding: str  # lower case
    start: int
    end: int
    transfer_encoding_at: tuple[int, int] | None  # that field's value; None if it is missing
    header_end: int


@dataclass(slots=True)
class Structure:
    """What a mail shows, in document order. `protected` counts why it must not be changed: dkim, signed, encrypted, or
    malformed if its header holds the body.

    `unread` counts the parts that mail programs may show and this does not read: malformed ones, whose header holds
    the body, or multiparts without a part, their boundary missing or never found; forwarded mails that are encoded
    (undecodable); and no_text once, if all that a mail shows as text is neither HTML nor plain, or belongs to a root
    that is missing. Attachments and files are not meant to be read, so they are not counted, and neither is a mail
    that has no body and no link.
    """

    parts: list[Part] = field(default_factory=list)
    protected: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    unsubscribe_urls: list[str] = field(default_factory=list)  # of List-Unsubscribe, also of forwarded mails

    def add_leaf(self, content: "_Content", end: int) -> None:
        """Takes in what has a body and no parts, a multipart that should have some too."""
        if content.is_shown_text:
            self.parts.append(content.part(end))
        elif not content.is_attachment:
            if content.is_multipart or content.is_message:
                self.unread["malformed" if content.is_multipart else "undecodable"] += 1
            elif content.is_text and not content.is_file:
                self.unread["no_text"] = 1


def read_structure(raw: bytes) -> Structure:
    """Finds the shown texts of a mail. Never raises."""
    structure = Structure()
    nesting = _Nesting(raw)
    start: int | None = 0
    is_message = True
    while start is not None:
        header = _read_header(raw, start)
        if is_message:
            structure.unsubscribe_urls += _unsubscribe_urls(header)
        if start == 0 and b"dkim-signature" in header.fields:
            structure.protected["dkim"] += 1
        content = _Content.of(header, None if is_message else nesting.innermost)
        opened = None
        if content.protection:
            structure.protected[content.protection] += 1
        elif header.holds_body:
            (structure.unread if start else structure.protected)["malformed"] += 1
        elif content.is_inline_message:
            start, is_message = header.body_start, True
            continue
        elif opened := content.opens:
            nesting.open(opened)
        end, start = nesting.next_part(header.body_start)
        is_message = False
        # What is put into an empty body could stand on its delimiter's line.
        if end > header.body_start and not header.holds_body and (start is None or opened is not nesting.innermost):
            structure.add_leaf(content, end)
    if structure.parts or len(structure.unread) > 1:
        del structure.unread["no_text"]
    return structure


def _read_header(raw: bytes, start: int) -> Header:
    """The header at `start`. As in the stdlib the first line that is no field ends it, empty or not."""
    fields: dict[bytes, list[HeaderField]] = {}
    position = start
    while found := _FIELD.match(raw, position):
        name = (found[1] or b"").lower()
        if name in _READ_FIELDS:
            value = found[2].decode("latin-1").replace("\r", "").replace("\n", "")
            fields.setdefault(name, []).append(HeaderField(value, *found.span(2)))
        position = found.end()
    blank = _BLANK_LINE.match(raw, position)
    holds_body = _BODY_IN_HEADER.search(raw, start, position) is not None
    if not blank and position == len(raw):
        holds_body = holds_body or b"://" in raw[start:]
    return Header(fields, position, blank.end() if blank else position, holds_body)


def header_end(raw: bytes) -> int:
    """Where the header of the mail itself ends, before its blank line."""
    return _read_header(raw, 0).end


def _unsubscribe_urls(header: Header) -> Iterator[str]:
    for unsubscribe in header.fields.get(b"list-unsubscribe", []):
        for url in _LIST_URL.findall(unsubscribe.value):
            yield "".join(url.split())


@dataclass(slots=True)
class _Multipart:
    boundary: bytes
    subtype: str
    root_id: str  # of multipart/related: the Content-ID of the part that is shown
    parts_seen: int = 0


@dataclass(frozen=True, slots=True)
class _Content:
    """What a header says about its body; `parent` is None for a message, forwarded or not."""

    header: Header
    content_type: str
    parameters: dict[str, str]
    parent: _Multipart | None

    @classmethod
    def of(cls, header: Header, parent: _Multipart | None) -> "_Content":
        declared = header.first(b"content-type")
        missing = "message/rfc822" if parent and parent.subtype == "digest" else "text/plain"
        default = "text/plain" if b"content-type" in header.fields else missing
        found = _TYPE.match(declared.value)
        return cls(header, found[1].lower() if found else default, declared.parameters(), parent)

    @property
    def protection(self) -> str:
        if self.content_type == "multipart/signed":
            return "signed"
        if self.content_type in _SMIME:
            return "signed" if self.parameters.get("smime-type", "").lower() == "signed-data" else "encrypted"
        return "encrypted" if self.content_type == "multipart/encrypted" else ""

    @property
    def is_attachment(self) -> bool:
        found = _WORD.match(self.header.first(b"content-disposition").value)
        return found is not None and found[1].lower() == "attachment"

    @property
    def is_file(self) -> bool:
        """A text with a name is a file that is shown in the mail; the recipient gets it as it was sent."""
        disposition = self.header.first(b"content-disposition").parameters()
        return self.parent is not None and bool(disposition.get("filename") or self.parameters.get("name"))

    @property
    def is_resource(self) -> bool:
        """A part of multipart/related besides its root, shown only where the root refers to it."""
        content_id = self.header.first(b"content-id").value.strip()
        if self.parent is None or self.parent.subtype != "related" or not content_id:
            return False
        return content_id != self.parent.root_id if self.parent.root_id else self.parent.parts_seen > 1

    @property
    def is_inline_message(self) -> bool:
        return self.is_message and self.transfer_encoding in _IDENTITIES and not self.is_attachment

    @property
    def is_message(self) -> bool:
        return self.content_type in ("message/rfc822", "message/global")

    @property
    def is_multipart(self) -> bool:
        return self.content_type.startswith("multipart/")

    @property
    def is_text(self) -> bool:
        return self.content_type.startswith("text/")

    @property
    def opens(self) -> _Multipart | None:
        boundary = self.parameters.get("boundary", "").rstrip().encode("latin-1")
        if not self.is_multipart or not boundary or self.is_attachment:
            return None
        return _Multipart(
            boundary, self.content_type.removeprefix("multipart/"), self.parameters.get("start", "").strip()
        )

    @property
    def is_shown_text(self) -> bool:
        return self.content_type in _TEXTS and not (self.is_attachment or self.is_file or self.is_resource)

    @property
    def transfer_encoding(self) -> str:
        found = _WORD.match(self.header.first(b"content-transfer-encoding").value)
        return found[1].lower() if found else "7bit"

    def part(self, end: int) -> Part:
        declared = self.header.fields.get(b"content-transfer-encoding")
        flowed = self.parameters.get("format", "").lower() == "flowed"
        return Part(
            is_html=self.content_type == "text/html",
            charset=self.parameters.get("charset", ""),
            joins_lines=flowed and self.parameters.get("delsp", "").lower() == "yes",
            transfer_encoding=self.transfer_encoding,
            start=self.header.body_start,
            end=end,
            transfer_encoding_at=(declared[0].start, declared[0].end) if declared else None,
            header_end=self.header.end,
        )


class _Nesting:
    """The multiparts that are open at a point of the mail, and the way from there to the next part."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._open: list[_Multipart] = []
        self._depth_of: dict[bytes, int] = {}

    @property
    def innermost(self) -> _Multipart | None:
        return self._open[-1] if self._open else None

    def open(self, multipart: _Multipart) -> None:
        """A boundary that is open already stays the outer multipart's: nothing ever ends a part but its own."""
        if multipart.boundary not in self._depth_of:
            self._depth_of[multipart.boundary] = len(self._open)
            self._open.append(multipart)

    def next_part(self, position: int) -> tuple[int, int | None]:
        """Where the body at `position` ends, and where the next part's header starts; None at the mail's end."""
        end = None
        for start, line_end in self._dashed_lines(position) if self._open else ():
            depth, closes = self._delimits(self._raw[start + 2 : line_end].rstrip(b" \t\r\n"))
            if depth is None:
                continue
            if end is None:
                end = max(position, self._before_line_break(start))
            self._close(depth if closes else depth + 1)
            if not closes:
                self._open[depth].parts_seen += 1
                return end, line_end
            if not self._open:
                break
        return (len(self._raw) if end is None else end), None

    def _dashed_lines(self, position: int) -> Iterator[tuple[int, int]]:
        """Where the lines from `position` on that begin with two dashes start and end."""
        start = self._raw.find(b"\n--", max(0, position - 1)) + 1
        while start:
            line_end = self._raw.find(b"\n", start) + 1 or len(self._raw)
            yield start, line_end
            start = self._raw.find(b"\n--", line_end - 1) + 1

    def _delimits(self, text: bytes) -> tuple[int | None, bool]:
        """Of which open multipart a line of `--` and this text is the delimiter, and whether it is its last one."""
        if (depth := self._depth_of.get(text)) is not None:
            return depth, False
        return self._depth_of.get(text[:-2]) if text.endswith(b"--") else None, True

    def _before_line_break(self, start: int) -> int:
        """The line break before a delimiter belongs to it."""
        if self._raw[start - 1 : start] == b"\n":
            start -= 1
        return start - 1 if self._raw[start - 1 : start] == b"\r" else start

    def _close(self, depth: int) -> None:
        for multipart in self._open[depth:]:
            del self._depth_of[multipart.boundary]
        del self._open[depth:]
