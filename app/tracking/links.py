"""Links described without personal values: what the table `links` may know of a destination.

Invariant: no value, fragment, userinfo or recipient's id of a destination is in its pattern. Where a word could be
somebody's, `{value}` stands instead: a pattern too coarse is harmless, a pattern too fine is a leak. A name looks like
any other word, so this is the second line of defence; the first one is in `fingerprints`.
"""

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

from ada_url import URL

PLACEHOLDER = "{value}"
MAX_PATTERN_LENGTH = 1_000
"""Longest pattern in characters: it is there to be read, not to be followed."""

LinkEntry = tuple[str, int]
"""(pattern, occurrence): what gives a link its number within a mailing."""

_SHORT = 4  # ids below this length count only where they stand alone: "7" is in half of all words
_MOST_REMEMBERED = 500  # characters of what is kept to be met again
_DIGESTS = (hashlib.md5, hashlib.sha1, hashlib.sha256)
_IsPersonal = Callable[[str], bool]

_EMAIL = re.compile(r"[^\s@/]@[^\s@/]")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.I)
_DIGIT_RUN = re.compile(r"\d{5}")
_HEX_BLOB = re.compile(r"(?<![0-9a-z])[0-9a-f]{16,}(?![0-9a-z])", re.I)
_WORD = re.compile(r"[^\W_]+")
_SWITCH = re.compile(r"(?<=\d)(?=[^\W\d_])|(?<=[^\W\d_])(?=\d)")
_PIECE = re.compile(r"\d+|[A-Z]+[a-z]*|[a-z]+|[^A-Za-z\d]+")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")


def pattern_of(destination: str, recipient: str | None = None) -> str:
    """Scheme, host, path and parameter names of a normalised destination, in ASCII.

    Values, userinfo and fragment are left out. Host labels, path segments and names that contain the recipient's id
    (plain, percent-encoded, base64, hex, MD5, SHA-1, SHA-256) or look like a personal value are `{value}`.
    """
    (pattern,) = patterns_of([destination], recipient)
    return pattern


def patterns_of(destinations: Sequence[str], recipient: str | None = None) -> list[str]:
    """The patterns of all links of one mail, or of several: the recipient's id is looked for in all of them at once."""
    described = [
        _describe(each) if len(each) <= _MOST_REMEMBERED else _describe.__wrapped__(each) for each in destinations
    ]
    if not recipient or not _may_name(described, forms := _recipient_forms(recipient)):
        return [each.pattern for each in described]
    return [
        _pattern(destination, lambda text: _is_personal(text, recipient)) if _may_name([each], forms) else each.pattern
        for destination, each in zip(destinations, described, strict=True)
    ]


class _Described(NamedTuple):
    """A destination's pattern for somebody it does not name, and all readings of the words that are in it."""

    pattern: str
    readings: str
    folded: str


def _may_name(described: Sequence[_Described], forms: tuple[frozenset[str], frozenset[str]]) -> bool:
    anywhere, standing_alone = forms
    folded = "\n".join([each.folded for each in described])
    if any(form in folded for form in anywhere):
        return True
    readings = "\n".join([each.readings for each in described])
    return any(form in folded or form in readings for form in standing_alone)


@lru_cache(maxsize=4_096)  # a mailing's links are the same for most of its recipients
def _describe(destination: str) -> _Described:
    seen: list[str] = []

    def is_personal(text: str) -> bool:
        looks_personal, readings = _look_at(text)
        seen.extend(readings)
        return looks_personal

    pattern = _pattern(destination, is_personal)
    readings = "\n".join(seen)
    return _Described(pattern, readings, readings.casefold())


def _pattern(destination: str, is_personal: _IsPersonal) -> str:
    try:
        url = URL(destination)
    except ValueError:
        return PLACEHOLDER
    host = url.hostname if url.hostname.startswith("[") else _join(".", url.hostname, is_personal)
    if url.hostname.startswith("[") and is_personal(host):
        host = PLACEHOLDER
    port = f":{url.port}" if url.port else ""
    authority = f"//{host}{port}" if url.hostname else ""
    path = "/".join([_describe_segment(segment, is_personal) for segment in url.pathname.split("/")])
    names = [_describe_name(part, is_personal) for part in url.search[1:].split("&") if part]
    pattern = f"{url.protocol}{authority}{path}{'?' if names else ''}{'&'.join(names)}".replace(" ", "%20")
    if len(pattern) > MAX_PATTERN_LENGTH:
        pattern = pattern[: MAX_PATTERN_LENGTH - len(PLACEHOLDER)] + PLACEHOLDER
    return pattern


def describe_label(label: str, recipient: str | None = None) -> str:
    """What a reader sees of a link, `{value}` for words that look personal; "" if the whole still does."""
    described = _join(" ", label, lambda text: _is_personal(text, recipient))
    return "" if _is_personal(described, recipient) else described


def host_of(pattern: str) -> str:
    """Scheme and host of a pattern, all that is said of a hidden link: of the host `www` and the last two labels.

    Subdomains are made for customers, and what stands behind the scheme of an app is as good as a path.
    """
    scheme, _, rest = pattern.partition(":")
    if scheme not in ("http", "https"):
        return f"{scheme}:" if rest else PLACEHOLDER
    labels = rest.removeprefix("//").partition("/")[0].split(".")
    front = labels[:-2]
    if front and front != ["www"]:
        front = [PLACEHOLDER]
    return f"{scheme}://{'.'.join(front + labels[-2:])}"


def number_occurrences(patterns: Iterable[str]) -> list[LinkEntry]:
    """One mail's links, in document order, as (pattern, occurrence); occurrences count from 1.

    Counting by pattern keeps a link's number when a conditional block before it is missing.
    """
    occurrences: Counter[str] = Counter()
    entries = []
    for pattern in patterns:
        occurrences[pattern] += 1
        entries.append((pattern, occurrences[pattern]))
    return entries


def _join(separator: str, text: str, is_personal: _IsPersonal) -> str:
    return separator.join([PLACEHOLDER if is_personal(part) else part for part in text.split(separator)])


def _describe_segment(segment: str, is_personal: _IsPersonal) -> str:
    """A path segment; of path parameters (`list;jsessionid=…`, `id=…`) only the names stay."""
    if "=" not in segment.rstrip("="):
        return PLACEHOLDER if is_personal(segment) else segment
    described = []
    for part in segment.split(";"):
        name, equals, _ = part.partition("=")
        described.append((PLACEHOLDER if is_personal(name) else name) + (equals and "=" + PLACEHOLDER))
    return ";".join(described)


def _describe_name(part: str, is_personal: _IsPersonal) -> str:
    """A parameter's name. An encoded `=` or `&` in it is a whole query packed into one name."""
    name = part.partition("=")[0]
    packed = any("=" in view or "&" in view for view in _decodings(name))
    return PLACEHOLDER if packed or is_personal(name) else name


def _is_personal(text: str, recipient: str | None) -> bool:
    """Whether a host label, path segment or name could be somebody's."""
    looks_personal, readings = _look_at(text)
    if looks_personal or not recipient:
        return looks_personal
    forms = _recipient_forms(recipient)
    return any(_names_recipient(reading, forms) for reading in readings)


def _look_at(text: str) -> tuple[bool, frozenset[str]]:
    """Whether a text looks personal, whoever got it, and all its readings."""
    look = _remembered_look if len(text) <= _MOST_REMEMBERED else _remembered_look.__wrapped__
    return look(text)


@lru_cache(maxsize=4_096)
def _remembered_look(text: str) -> tuple[bool, frozenset[str]]:
    readings = frozenset(_views(text))
    return any(_looks_personal(reading) for reading in readings), readings


def _decodings(text: str) -> Iterator[str]:
    """The text and what is left after taking off up to three layers of percent-encoding."""
    for _ in range(4):
        yield text
        text = unquote(text)


def _views(text: str) -> Iterator[str]:
    """All readings of a text: percent-decoded, with `+` as a space, and out of punycode, hex and base64."""
    for view in _decodings(text):
        yield view
        yield view.replace("+", " ")
        if view.startswith("xn--"):
            yield from _readable(view[4:], lambda label: label.encode().decode("punycode"))
        if len(view) >= 4:
            yield from _readable(view, lambda blob: bytes.fromhex(blob).decode())
            yield from _readable(view, lambda blob: _unbase64(blob).decode())


def _readable(text: str, decode: Callable[[str], str]) -> Iterator[str]:
    try:
        decoded = decode(text)
    except ValueError:
        return
    if decoded.isprintable():
        yield decoded


def _unbase64(text: str) -> bytes:
    if not _BASE64.fullmatch(text):
        raise ValueError("not base64")
    stripped = text.rstrip("=").replace("+", "-").replace("/", "_")
    return base64.urlsafe_b64decode(stripped + "=" * (-len(stripped) % 4))


def _looks_personal(text: str) -> bool:
    if _EMAIL.search(text) or _UUID.search(text) or _DIGIT_RUN.search(text) or _HEX_BLOB.search(text):
        return True
    if sum(character.isdigit() for character in text) >= 9:  # a telephone or card number in groups
        return True
    # `iphone15` is a word, `k4m7p2` is an id, and so is `AB12-CD34-EF56`.
    switches = {word: len(_SWITCH.findall(word)) for word in _WORD.findall(text)}
    if sum(count > 0 for count in switches.values()) >= 3:
        return True
    return any(count >= (2 if len(word) >= 12 else 3) for word, count in switches.items()) or _is_blob(text)


def _is_blob(text: str) -> bool:
    """Base64 and its like: 16 characters or more that change case and kind every few characters, or hide a text."""
    for blob in (*_WORD.findall(text), text):
        if len(blob) < 16 or not _BASE64.fullmatch(blob):
            continue
        if len(blob) >= 40 and blob.isalnum():
            return True
        if blob.lower() != blob and len(blob) / len(_PIECE.findall(blob)) < 3:
            return True
        if any(_readable(blob, lambda candidate: _unbase64(candidate).decode())):
            return True
    return False


def _names_recipient(text: str, forms: tuple[frozenset[str], frozenset[str]]) -> bool:
    anywhere, standing_alone = forms
    folded = text.casefold()
    if any(form in folded for form in anywhere):
        return True
    return any(_stands_alone(form, folded) or _stands_alone(form, text) for form in standing_alone)


def _stands_alone(form: str, text: str) -> bool:
    """Whether `form` is in the text with nothing of its ends' own kind (digit, letter) beside it."""
    start = text.find(form)
    while start >= 0:
        end = start + len(form)
        before, after = text[start - 1 : start] if start else "", text[end : end + 1]
        if not (_same_kind(before, form[0]) or _same_kind(form[-1], after)):
            return True
        start = text.find(form, start + 1)
    return False


def _same_kind(one: str, other: str) -> bool:
    return (one.isdigit() and other.isdigit()) or (one.isalpha() and other.isalpha())


@lru_cache(maxsize=16)
def _recipient_forms(recipient: str) -> tuple[frozenset[str], frozenset[str]]:
    """What a recipient's id may look like in a URL: case-folded forms to be found anywhere, forms that stand alone."""
    recipient = recipient.strip()
    local_part = recipient.partition("@")[0]
    plain = {recipient.casefold()} | ({local_part.casefold()} if len(local_part) > _SHORT else set())
    exact, folded = set(), set()
    for spelling in {recipient, recipient.lower(), recipient.upper()}:
        data = spelling.encode(errors="replace")
        digests = [digest(data, usedforsecurity=False).digest() for digest in _DIGESTS]
        for encoded in (data, *digests):
            blobs = {base64.b64encode(encoded).decode(), base64.urlsafe_b64encode(encoded).decode()}
            exact |= {blob.rstrip("=") for blob in blobs}
            folded.add(encoded.hex())
    anywhere = {form for form in plain | folded if len(form) >= _SHORT}
    anywhere |= {blob.casefold() for blob in exact if len(blob) >= 2 * _SHORT}
    alone = {form for form in plain | folded | exact if form and len(form) < 2 * _SHORT} - anywhere
    return frozenset(anywhere), frozenset(alone)
