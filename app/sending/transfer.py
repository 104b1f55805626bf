"""Content-Transfer-Encodings that can be spliced: decoded bytes that know where in the encoded body they stand.

Invariant: what no edit touches stays byte for byte in quoted-printable, 7bit, 8bit and binary bodies; a base64 body is
encoded anew as a whole. Source: RFC 2045, chapter 6.
"""

import base64
import binascii
import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field

MAX_QP_LINE = 76
MAX_LINE = 998
"""Longest line in octets without its line end, RFC 5322, 2.1.1."""

BASE64_LINE = 76

ByteEdit = tuple[int, int, bytes]
"""(start, end, replacement) in decoded bytes; edits ascend and do not overlap."""

_QP_SPECIAL = re.compile(rb"=(?:([0-9A-Fa-f]{2})|[ \t]*+(?:\r?\n|\Z))|(?<![ \t])[ \t]++(?=\r?\n|\Z)")
_HARD_BREAK = re.compile(rb"\r?\n")
_BASE64_SPACE = b" \t\r\n"
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/=]+")
_LITERAL = bytes(byte for byte in range(0x20, 0x7F) if byte != 0x3D)


def _escape(byte: int) -> bytes:
    return b"=%02X" % byte


_QP_BYTES = [bytes([byte]) if byte in _LITERAL else _escape(byte) for byte in range(256)]


def splice(data: bytes, edits: Iterable[ByteEdit]) -> bytes:
    """The data with all edits made."""
    pieces, position = [], 0
    for start, end, replacement in edits:
        pieces += [data[position:start], replacement]
        position = end
    return b"".join([*pieces, data[position:]])


def has_long_line(body: bytes) -> bool:
    """Whether a line is longer than SMTP carries."""
    return any(len(line.rstrip(b"\r")) > MAX_LINE for line in body.split(b"\n"))


@dataclass(slots=True)
class QuotedPrintable:
    """A decoded quoted-printable body, and for each run of decoded bytes where its source stands."""

    source: bytes
    decoded: bytes = b""
    _decoded_at: list[int] = field(default_factory=list)
    _source_at: list[int] = field(default_factory=list)
    _is_escape: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        decoded = bytearray()
        position = 0
        for special in _QP_SPECIAL.finditer(self.source):
            self._add(decoded, position, special.start())
            if special[1]:
                self._mark(len(decoded), special.start(), escape=True)
                decoded.append(int(special[1], 16))
            position = special.end()
        self._add(decoded, position, len(self.source))
        self.decoded = bytes(decoded)

    def _add(self, decoded: bytearray, start: int, end: int) -> None:
        if start < end:
            self._mark(len(decoded), start, escape=False)
            decoded += self.source[start:end]

    def _mark(self, decoded_at: int, source_at: int, *, escape: bool) -> None:
        self._decoded_at.append(decoded_at)
        self._source_at.append(source_at)
        self._is_escape.append(escape)

    def _span(self, index: int) -> tuple[int, int]:
        """Where the source of one decoded byte starts and ends."""
        run = bisect_right(self._decoded_at, index) - 1
        start = self._source_at[run] + index - self._decoded_at[run]
        return start, start + (3 if self._is_escape[run] else 1)

    def splice(self, edits: Iterable[ByteEdit], line_end: bytes) -> bytes:
        """The source with the edits made; it gains soft line breaks only where a line would get too long."""
        pieces: list[bytes] = []
        position = column = edited_until = 0
        for start, end, replacement in edits:
            kept_until = self._stray_equals_before(start, edited_until)
            source_end = self._span(end - 1)[1] if start < end else self._source_end(start)
            kept = self.source[position : self._source_end(kept_until)]
            if kept_until > edited_until and _column_after(kept, column) >= MAX_QP_LINE:
                kept_until -= 1  # no column is left for the soft break's "="
                kept = self.source[position : self._source_end(kept_until)]
            column = _column_after(kept, column)
            encoded, column = encode_qp_inline(self.decoded[kept_until:start] + replacement, column, line_end)
            if replacement and self._needs_break(source_end, column):
                encoded, column = encoded + b"=" + line_end, 0
            pieces += [kept, encoded]
            position, edited_until = source_end, end
        return b"".join([*pieces, self.source[position:]])

    def _source_end(self, index: int) -> int:
        """Right behind the bytes before `index`: so no soft break is torn, and no dropped space is shown again."""
        return self._span(index - 1)[1] if index else 0

    def _stray_equals_before(self, start: int, limit: int) -> int:
        """Where a `=` that stands unencoded, as no encoder writes it, would make an escape of the edit at `start`."""
        for index in (start - 1, start - 2):
            if index >= limit and self.decoded[index] == 0x3D and self.source[slice(*self._span(index))] == b"=":
                return index
        return start

    def _needs_break(self, source_end: int, column: int) -> bool:
        """Whether the rest of the line is too long for it; no new line may begin like a boundary."""
        ahead = self.source[source_end : source_end + MAX_QP_LINE + 2]
        rest = ahead.partition(b"\n")[0].rstrip(b"\r")
        return bool(rest) and column + len(rest) > MAX_QP_LINE and not rest.startswith(b"--")


def _column_after(text: bytes, column: int) -> int:
    last_break = text.rfind(b"\n")
    return column + len(text) if last_break < 0 else len(text) - last_break - 1


def encode_qp_inline(data: bytes, column: int, line_end: bytes) -> tuple[bytes, int]:
    """Data without line breaks of its own from `column` on, and the column after it. Soft breaks keep lines legal."""
    encoded = bytearray()
    for byte in data:
        unit = _QP_BYTES[byte]
        if column + len(unit) >= MAX_QP_LINE:  # one column is for the soft break's "="
            encoded += b"=" + line_end
            column = 0
            if unit == b"-":  # else a line of ours could look like a boundary
                unit = _escape(byte)
        encoded += unit
        column += len(unit)
    return bytes(encoded), column


def encode_qp(data: bytes, line_end: bytes) -> bytes:
    """A whole body; its line breaks, CRLF or LF, stay what they are."""
    pieces = []
    position = 0
    while position <= len(data):
        found = _HARD_BREAK.search(data, position)
        end, after = found.span() if found else (len(data), len(data) + 1)
        pieces += [_encode_qp_line(data[position:end], line_end), data[end:after]]
        position = after
    return b"".join(pieces)


def _encode_qp_line(line: bytes, line_end: bytes) -> bytes:
    if not line.endswith((b" ", b"\t")):
        return encode_qp_inline(line, 0, line_end)[0]
    encoded, column = encode_qp_inline(line[:-1], 0, line_end)
    last = _escape(line[-1])
    return encoded + (b"=" + line_end if column + len(last) > MAX_QP_LINE else b"") + last


def decode_base64(body: bytes) -> bytes | None:
    """The decoded body; stray characters are skipped as RFC 2045 asks, None if what is left is no base64."""
    packed = _NOT_BASE64.sub(b"", body).rstrip(b"=")
    try:
        return base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
    except binascii.Error:
        return None


def encode_base64(data: bytes, original: bytes, line_end: bytes) -> bytes:
    """In lines of 76; the space around the original's characters stays."""
    text = base64.b64encode(data)
    lines = line_end.join([text[start : start + BASE64_LINE] for start in range(0, len(text), BASE64_LINE)])
    leading = original[: len(original) - len(original.lstrip(_BASE64_SPACE))]
    trailing = original[max(len(leading), len(original.rstrip(_BASE64_SPACE))) :]
    return leading + lines + trailing
