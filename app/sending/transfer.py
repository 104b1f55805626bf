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
_SOFT_BREAKS = re.compile(rb"(?:=\r?\n){1,500}")  # possessive, Python 3.11.2 would take a `=` too many
_QP_RUN = re.compile(rb"[ -<>-~]++|[^ -<>-~]")  # bytes that stand for themselves, or one that does not
_QP_COLUMNS = MAX_QP_LINE - 1
"""What a line holds besides the soft break's "="."""

_HARD_BREAK = re.compile(rb"\r?\n")
_LF, _EQUALS = b"\n="
_BASE64_SPACE = b" \t\r\n"
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/=]+")


def _escape(byte: bytes) -> bytes:
    return b"=%02X" % ord(byte)


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
    """A decoded quoted-printable body that finds where in its source a decoded byte stands.

    The whole is decoded at once, and a place is looked for only where somebody asks, from the last one before it: most
    escapes of a body are where nobody asks.
    """

    source: bytes
    decoded: bytes = b""
    _is_regular: bool = False
    _decoded_at: list[int] = field(default_factory=lambda: [0])
    _source_at: list[int] = field(default_factory=lambda: [0])
    """Places that were looked up: so many bytes of the source give so many decoded ones, no more and no less."""
    _looked_from: int = 0
    _special_at: int = -1
    _special: re.Match[bytes] | None = None

    def __post_init__(self) -> None:
        decoded = _decode_regular(self.source)
        self._is_regular = decoded is not None
        self.decoded = _decode_qp(self.source) if decoded is None else decoded

    def _source_end(self, index: int) -> int:
        """Right behind the bytes before `index`: so no soft break is torn, and no dropped space is shown again."""
        known = bisect_right(self._decoded_at, index) - 1
        decoded, position = self._decoded_at[known], self._source_at[known]
        if decoded == index:
            return position
        wanted = index - decoded
        position = self._behind(position, wanted) if self._is_regular else self._behind_slowly(position, wanted)
        if known == len(self._decoded_at) - 1:
            self._decoded_at.append(index)
            self._source_at.append(position)
        return position

    def _behind(self, position: int, wanted: int) -> int:
        """Where the source of so many more bytes ends: no more bytes can be in fewer, so nothing is passed over."""
        source = self.source
        while wanted:
            start, position = position, position + wanted
            if (escape := source.rfind(b"=", max(start, position - 2), position)) >= 0:  # none is torn
                position = escape + (2 if source[escape + 1] == _LF else 3)
            gained = len(binascii.a2b_qp(source[start:position]))
            wanted -= gained
            if not gained and (breaks := _SOFT_BREAKS.match(source, position)):
                position = breaks.end()
        return position

    def _behind_slowly(self, position: int, wanted: int) -> int:
        while special := self._next_special(position):
            start, end = special.span()
            if wanted <= start - position:
                break
            wanted -= start - position
            position = end
            if special[1]:
                wanted -= 1
                if not wanted:
                    return end
        return position + wanted

    def _next_special(self, position: int) -> re.Match[bytes] | None:
        """The next one from `position` on; the same is not looked for twice, for it may be far away."""
        if not self._looked_from <= position <= self._special_at:
            self._special = _QP_SPECIAL.search(self.source, position)
            self._looked_from = position
            self._special_at = self._special.start() if self._special else len(self.source)
        return self._special

    def splice(self, edits: Iterable[ByteEdit], line_end: bytes) -> bytes:
        """The source with the edits made; it gains soft line breaks only where a line would get too long."""
        pieces: list[bytes] = []
        position = column = edited_until = 0
        for start, end, replacement in edits:
            kept_end = self._source_end(start)
            source_end = self._source_end(end)
            kept_until = self._stray_equals_before(start, edited_until, kept_end)
            kept = self.source[position : kept_end if kept_until == start else self._source_end(kept_until)]
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

    def _stray_equals_before(self, start: int, limit: int, source_end: int) -> int:
        """Where a `=` that stands unencoded, as no encoder writes it, would make an escape of the edit at `start`."""
        before = self.source[max(0, source_end - 4) : source_end]
        if before.startswith(b"=3D") and not before.endswith(b"="):  # `href="`, as a rule
            return start
        for index in (start - 1, start - 2):
            is_equals = index >= limit and self.decoded[index] == _EQUALS
            if is_equals and self.source[self._source_end(index + 1) - 1] == _EQUALS:
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


def _decode_regular(source: bytes) -> bytes | None:
    """Decoded by `binascii`, which is much faster; None if it does not read the source as the standard asks."""
    ends = source.count(b"\n")
    spaces = (b" ", b"\t") if b"\t" in source else (b" ",)
    if source.count(b"\r") not in (0, ends) or source.endswith(spaces):
        return None
    line_end = b"\r\n" if b"\r" in source else b"\n"
    if source.count(line_end) != ends or any(space + line_end in source for space in spaces):  # spaces to be dropped
        return None
    decoded = binascii.a2b_qp(source)
    soft = source.count(b"=" + line_end)
    escapes = source.count(b"=") - soft
    # Any other `=` takes less than an escape does.
    return decoded if len(source) - len(decoded) == 2 * escapes + (1 + len(line_end)) * soft else None


def _decode_qp(source: bytes) -> bytes:
    return _QP_SPECIAL.sub(lambda special: bytes([int(special[1], 16)]) if special[1] else b"", source)


def encode_qp_inline(data: bytes, column: int, line_end: bytes) -> tuple[bytes, int]:
    """Data without line breaks of its own from `column` on, and the column after it. Soft breaks keep lines legal."""
    encoded = bytearray()
    for run in _QP_RUN.findall(data):
        is_literal = 0x20 <= run[0] < 0x7F and run != b"="
        rest, unit = (run, 1) if is_literal else (_escape(run), 3)
        while rest:
            room = _QP_COLUMNS - column
            if room < unit:
                encoded += b"=" + line_end
                column, room = 0, _QP_COLUMNS
                if rest.startswith(b"-"):  # else a line of ours could look like a boundary
                    rest = _escape(b"-") + rest[1:]
            taken, rest = rest[:room], rest[room:]
            encoded += taken
            column += len(taken)
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
    last = _escape(line[-1:])
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
