"""A template's fields `{{ name }}`: where they stand in its HTML, and how a value is written there.

Invariant: no value makes or ends a tag, an attribute or a parameter, nor decides where a tracked link leads to besides
its path, query and fragment. Pure: no I/O.

A field is one character of Unicode's private planes while the HTML is read, so that it is a part of whatever it stands
in; while a URL is read, a word that looks personal, so that patterns leave it out.
"""

import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from html import escape
from typing import NamedTuple
from urllib.parse import quote

from ada_url import URL

from ..errors import SettingsError
from ..tracking.links import PLACEHOLDER
from .html_links import Rules
from .html_tags import Tag, decode_attribute, tokenize

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_FIELD = re.compile(r"\{\{[ \t]*+([A-Za-z_][A-Za-z0-9_.-]*+)[ \t]*+\}\}")
_PRIVATE_PLANES = range(0xF0000, 0x10FFFE)
_URL_ATTRIBUTES = frozenset({"href", "src", "background", "action"})
_REMOVED_IN_URLS = str.maketrans("", "", "\t\n\r")
_BEFORE_PATH = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*:)?[/\\]{2,}[^/\\?#]*+")


class Slot(NamedTuple):
    """A place that takes a field's value, with what is written for it there."""

    field: str
    in_url: bool

    def write(self, value: str) -> str:
        """Percent-encoded as UTF-8 in a URL, as `encodeURIComponent` does but for `!'()*`; else escaped for HTML."""
        return quote(value, safe="") if self.in_url else escape(value)


Part = str | Slot


@dataclass(frozen=True, slots=True)
class Marked:
    """A template's HTML with a mark in the place of each field."""

    html: str
    fields: Mapping[str, str]
    """The fields' names by their marks."""
    _stand_ins: Mapping[str, str]
    """The words for the marks in URLs."""
    _in_urls: frozenset[int]
    """Where marks stand whose values are percent-encoded."""

    def parts(self, start: int, end: int) -> list[Part]:
        """The HTML from `start` to `end`."""
        parts: list[Part] = []
        position = start
        for found in _marks(self.fields).finditer(self.html, start, end):
            parts += [self.html[position : found.start()], Slot(self.fields[found[0]], found.start() in self._in_urls)]
            position = found.end()
        return [part for part in (*parts, self.html[position:end]) if part]

    def has_field(self, text: str) -> bool:
        return any(mark in text for mark in self.fields)

    def stand_in(self, url: str) -> str:
        """The URL with words for its marks, to be read as any other."""
        return url.translate({ord(mark): word for mark, word in self._stand_ins.items()})

    def parts_of_destination(self, destination: str) -> list[Part]:
        """What `stand_in` gave, or what was made of it, with slots for the words."""
        slots = {word: Slot(self.fields[mark], True) for mark, word in self._stand_ins.items()}
        if not slots:
            return [destination]
        pieces = re.split(f"({'|'.join(slots)})", destination)
        return [slots.get(piece, piece) for piece in pieces if piece]

    def label(self, label: str) -> str:
        """What a reader sees of a link, with the placeholder for values."""
        return label.translate({ord(mark): PLACEHOLDER for mark in self.fields})


def mark_fields(html: str, fields: Collection[str]) -> Marked:
    """Puts marks in; SettingsError for a name that is none, and for a field in a tag but not in a quoted value."""
    for name in fields:
        if not _NAME.fullmatch(name):
            raise SettingsError(f"{name!r} is no name of a field: use letters, digits, _ . and -", field=name)
    names = sorted(fields)
    unused = (chr(code) for code in _PRIVATE_PLANES if chr(code) not in html)
    marks = dict(zip(names, unused, strict=False))
    marked = _FIELD.sub(lambda found: marks.get(found[1], found[0]), html)
    by_mark = {mark: name for name, mark in marks.items()}
    salt = f"{secrets.randbelow(10**16):016}"  # 16 digits look personal
    stand_ins = {mark: f"0{salt}q{place}q0" for place, mark in enumerate(by_mark)}
    return Marked(marked, by_mark, stand_ins, _percent_encoded(marked, by_mark))


@dataclass(frozen=True, slots=True)
class FieldRules(Rules):
    """Reads links with fields; `marked` is the template. A destination has the fields' words in it."""

    marked: Marked = Marked("", {}, {}, frozenset())

    def judge(self, url: str, context: str) -> tuple[str, str]:
        """As in any HTML, and `field_in_host` where a value would decide about scheme, host, port or credentials."""
        if not self.marked.has_field(url):
            return Rules.judge(self, url, context)
        destination, reason = Rules.judge(self, self.marked.stand_in(url), context)
        if reason not in ("placeholder", "anchor", "unsubscribe") and self._decides(url, destination):
            return "", "field_in_host"
        return destination, reason

    def _decides(self, url: str, destination: str) -> bool:
        """Whether any field of the URL is not behind its host: only what is found there is, not what `..` takes out."""
        if _fields_in_front(url, self.marked.fields):
            return True
        if not destination:
            front = _BEFORE_PATH.match(_trimmed(url))
            return front is not None and self.marked.has_field(front[0])
        read = URL(destination)
        behind = self.marked.parts_of_destination(read.pathname + read.search + read.hash)
        return sum(isinstance(part, Slot) for part in behind) != len(_marks(self.marked.fields).findall(url))

    def read_base(self, href: str) -> str | None:
        """Nobody can say what is relative to a base with a field."""
        return None if self.marked.has_field(href) else Rules.read_base(self, href)


# --- where they stand ------------------------------------------------------------------------------------------------


def _marks(fields: Mapping[str, str]) -> re.Pattern[str]:
    return re.compile(f"[{''.join(fields)}]" if fields else r"(?!)")


def _percent_encoded(html: str, fields: Mapping[str, str]) -> frozenset[int]:
    """Where marks stand in URLs, but for those that may be a whole URL; SettingsError for one that could make a tag."""
    marks = _marks(fields)
    quoted: set[int] = set()
    in_urls: set[int] = set()
    for tag in tokenize(html) if fields else ():
        if not isinstance(tag, Tag) or not marks.search(html, tag.start, tag.end):
            continue
        for attribute in tag.attributes:
            start, end = attribute.value_start, attribute.value_end
            if end < attribute.end:
                places = [mark.start() for mark in marks.finditer(html, start, end)]
                quoted.update(places)
                if attribute.name in _URL_ATTRIBUTES:
                    in_urls.update(places[_fields_in_front(decode_attribute(html[start:end]), fields) :])
        for mark in marks.finditer(html, tag.start, tag.end):
            if mark.start() not in quoted:
                raise _unsafe(fields[mark[0]], "stands in a tag, but not within quotes; put quotes around the value")
    for mark in _beside_markup(fields).finditer(html):
        if mark.start(mark.lastgroup or 0) not in quoted:
            name = fields[mark[mark.lastgroup or 0]]
            raise _unsafe(name, "stands right beside a < or >; write &lt; or &gt; where no tag is meant")
    return frozenset(in_urls)


def _beside_markup(fields: Mapping[str, str]) -> re.Pattern[str]:
    """A mark whose value could go on with what begins a tag, or with what ends a comment."""
    mark = _marks(fields).pattern
    return re.compile(rf"<(?:[/?!]|!-)?[A-Za-z]*+(?P<behind>{mark})|(?P<before>{mark})-?!?>")


def _unsafe(name: str, why: str) -> SettingsError:
    return SettingsError(f"the field {name!r} {why}", field=name)


def _trimmed(url: str) -> str:
    return url.translate(_REMOVED_IN_URLS).strip("".join(map(chr, range(0x21))))


def _fields_in_front(url: str, fields: Mapping[str, str]) -> int:
    """How many fields may be a scheme or a whole URL: `{{ url }}`, `{{ shop }}/sale`, `x{{ scheme }}://`."""
    text = _trimmed(url)
    head = re.match(r"[^:/\\?#]*", text)
    front = head[0] if head else ""
    if front[:1] in fields or text[len(front) : len(front) + 1] == ":":
        return sum(character in fields for character in front)
    return 0
