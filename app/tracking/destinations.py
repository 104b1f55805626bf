"""Destinations: the URL that a browser would request for what stands in a mail's link.

Invariant: what `normalise` returns is absolute, printable ASCII without spaces, of an allowed scheme, and normalising
it again changes nothing. It can stand in a `Location` header as it is.

Source: the WHATWG URL standard (https://url.spec.whatwg.org/), parsed by ada; only the query's encoding is done
here, because ada knows UTF-8 only and browsers use the document's encoding there.
"""

import codecs
import re
from urllib.parse import unquote_to_bytes

from ada_url import URL

from ..errors import DestinationRefused

MAX_LENGTH = 8_192
"""Longest destination in characters; no token holds more."""

NEVER_SCHEMES = frozenset({"javascript", "vbscript", "data", "file", "blob", "about"})
"""Schemes that run or show what the link itself contains; no setting allows them."""

_WEB_SCHEMES = frozenset({"http", "https"})
_C0_AND_SPACE = "".join(map(chr, range(0x21)))
_TABS_AND_NEWLINES = str.maketrans("", "", "\t\n\r")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_EMPTY_HOST = re.compile(r"[A-Za-z]+:[/\\]*+(?:[^/\\?#]*@)?(?:[:/\\?#]|$)")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_SENDABLE = re.compile(r"[!-~]+")

# The encodings of https://encoding.spec.whatwg.org/ by the names of Python's codecs. No other is asked for: charset
# labels come from anywhere, and codecs like punycode take quadratic time.
_WEB_CODECS = {
    **{f"iso8859-{part}": f"iso8859-{part}" for part in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)},
    **{f"cp{page}": f"cp{page}" for page in (866, 874, 932, 949, *range(1250, 1259))},
    **{name: name for name in ("utf-8", "utf-16-le", "utf-16-be", "koi8-r", "koi8-u", "mac-roman", "mac-cyrillic")},
    **{name: name for name in ("gbk", "gb18030", "big5hkscs", "euc_jp", "iso2022_jp")},
    # Where a label means another encoding to browsers than to Python's codecs.
    "utf-8-sig": "utf-8",
    "utf-16": "utf-16-le",
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gbk",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
}
# Labels of the standard that mails carry and Python does not know.
_LABELS = {
    "windows-31j": "cp932",
    "x-sjis": "cp932",
    "windows-874": "cp874",
    "windows-949": "cp949",
    "x-gbk": "gbk",
    "iso-8859-8-i": "iso8859-8",
    "x-mac-roman": "mac-roman",
}
# The special-query percent-encode set: these bytes stay, all others become %XX.
_QUERY_BYTES = [chr(b) if 0x21 <= b <= 0x7E and chr(b) not in "\"#<>'" else f"%{b:02X}" for b in range(256)]


def web_codec(label: str) -> str | None:
    """The name of the Python codec that reads a document as browsers do with this charset label, None if unknown."""
    label = label.strip().lower()
    try:
        name = codecs.lookup(_LABELS.get(label, label)).name
    except (LookupError, ValueError):
        return None
    return _WEB_CODECS.get(name)


def normalise(
    url: str, *, base: str | None = None, encoding: str = "utf-8", app_schemes: frozenset[str] = frozenset()
) -> str:
    """The absolute ASCII URL that a browser would request for `url` in a document with this base and encoding.

    `app_schemes` (lower case) are allowed besides http and https. The fragment stays. Lone surrogates count as U+FFFD.
    Raises `DestinationRefused` with the reason scheme, no_host, relative, invalid or too_long.
    """
    allowed = _WEB_SCHEMES | (app_schemes - NEVER_SCHEMES)
    text = _SURROGATE.sub("\ufffd", url).strip(_C0_AND_SPACE).translate(_TABS_AND_NEWLINES)
    scheme = _SCHEME.match(text)
    if scheme and scheme[1].lower() not in allowed:
        raise DestinationRefused("scheme", f"{scheme[1][:32]}: links are not tracked; use http or https")
    if not scheme or scheme[1].lower() in _WEB_SCHEMES:
        text = _encode_query(text, encoding)
    parsed = _parse(text, base)
    if parsed is None:
        raise _reason_of_failure(text, base)
    if parsed.protocol[:-1] not in allowed:
        raise DestinationRefused("scheme", f"the base's scheme {parsed.protocol} is not tracked; use http or https")
    # An opaque path (`app:a b`) may keep spaces by the standard; a Location header must not.
    href = parsed.href.replace(" ", "%20")
    if len(href) > MAX_LENGTH:
        raise DestinationRefused("too_long", f"the URL has {len(href)} characters, at most {MAX_LENGTH} can be tracked")
    if not _SENDABLE.fullmatch(href):
        raise DestinationRefused("invalid", "the URL cannot be written in printable ASCII")
    return href


def with_parameters(destination: str, parameters: str) -> str:
    """A normalised destination with those parameters (`a=b&c=d`, normalised) whose names its query does not have.

    They go before the fragment. Only http and https have a query that we know the meaning of; others stay.
    """
    if not parameters or not destination.startswith(("http://", "https://")):
        return destination
    before_fragment, hash_sign, fragment = destination.partition("#")
    head, _, query = before_fragment.partition("?")
    there = set(map(_parameter_name, query.split("&")))
    missing = [pair for pair in parameters.split("&") if _parameter_name(pair) not in there]
    if not missing:
        return destination
    return f"{head}?{'&'.join([*([query] if query else []), *missing])}{hash_sign}{fragment}"


def _parameter_name(pair: str) -> bytes:
    return unquote_to_bytes(pair.partition("=")[0].replace("+", " "))


def _parse(text: str, base: str | None) -> URL | None:
    if base is not None:
        base = _SURROGATE.sub("\ufffd", base)
        if not URL.can_parse(base):
            base = None
    try:
        return URL(text, base)
    except ValueError:
        return None


def _reason_of_failure(text: str, base: str | None) -> DestinationRefused:
    scheme = _SCHEME.match(text)
    if not scheme and _parse("/", base) is None:
        return DestinationRefused("relative", "the link is relative and there is no <base href>; write the whole URL")
    if scheme and scheme[1].lower() in _WEB_SCHEMES and _EMPTY_HOST.match(text):
        return DestinationRefused("no_host", "the link names no host")
    return DestinationRefused("invalid", "no browser can open this link; check its host and port")


def _encode_query(text: str, encoding: str) -> str:
    """Percent-encodes a non-ASCII query in the document's encoding; everything else is left to the parser."""
    before_fragment, hash_sign, fragment = text.partition("#")
    head, question_mark, query = before_fragment.partition("?")
    codec = web_codec(encoding)
    # UTF-16 and the like have UTF-8 as their output encoding; UTF-7 is none of the web's.
    if query.isascii() or codec is None or codec.startswith("utf"):
        return text
    try:
        encoded = query.encode(codec, _NUMERIC_REFERENCE)
    except (LookupError, ValueError):
        return text
    return head + question_mark + "".join([_QUERY_BYTES[byte] for byte in encoded]) + hash_sign + fragment


_NUMERIC_REFERENCE = "mailtrail-numeric-reference"


def _numeric_reference(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    unencodable = error.object[error.start : error.end]
    return "".join([f"%26%23{ord(character)}%3B" for character in unencodable]), error.end


codecs.register_error(_NUMERIC_REFERENCE, _numeric_reference)
