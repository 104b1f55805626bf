"""Links in HTML and plain text: found by their offset in the source and spliced; every other character stays.

Invariant: besides the replaced URLs, the removed opt-out attributes and the pixel, the result is the source, character
by character. Nothing here raises, whatever the source is, and the work is linear in its length. Pure: no I/O.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from html import escape
from urllib.parse import unquote

from msgspec import Struct

from ..errors import DestinationRefused
from ..tracking.destinations import normalise
from .html_tags import Attribute, Tag, Text, Unclosed, decode_attribute, passage_to, tokenize

MAX_LABEL_LENGTH = 80
_MOST_REMEMBERED = 500  # characters of a URL that is kept to be met again
MAX_BASE_LENGTH = 1_000
"""Longest base in characters: it is part of every relative link's destination, each of which is judged in full."""


class Link(Struct, frozen=True, gc=False):
    """A trackable link: its normalised destination, and what the reader sees of it ("" if nothing)."""

    destination: str
    label: str


Track = Callable[[Link], str | None]
"""Called once per trackable link in document order; gives the tracked URL (ASCII), None leaves the link as it is."""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """`untouched` counts the links left as they were by reason: opted_out, unsubscribe, scheme, anchor, relative,
    placeholder, unclear (a text goes on behind it without a space), declined, invalid or too_long."""

    text: str
    tracked: int
    untouched: Counter[str]


class Edit(Struct, frozen=True, gc=False):
    """The characters from `start` to `end` become `text`."""

    start: int
    end: int
    text: str


@dataclass(slots=True)
class Changes:
    """What rewriting would change: edits in ascending order that do not overlap."""

    edits: list[Edit] = field(default_factory=list)
    tracked: int = 0
    untouched: Counter[str] = field(default_factory=Counter)

    def apply(self, source: str) -> Rewritten:
        """The source with all edits made."""
        pieces, position = [], 0
        for edit in self.edits:
            pieces += [source[position : edit.start], edit.text]
            position = edit.end
        return Rewritten("".join([*pieces, source[position:]]), self.tracked, self.untouched)


class Place(Struct, frozen=True, gc=False):
    """Where a trackable link's URL stands in a source; `write` spells another one that is to stand there instead."""

    link: Link
    start: int
    end: int
    write: Callable[[str], str]


@dataclass(slots=True)
class Findings:
    """What rewriting can change in a source: links in document order, opt-outs to be taken out, the pixel's place.

    `untouched` has the reasons of the links that cannot be tracked.
    """

    places: list[Place] = field(default_factory=list)
    removals: list[Edit] = field(default_factory=list)
    pixel_at: int = 0
    untouched: Counter[str] = field(default_factory=Counter)

    @property
    def links(self) -> list[Link]:
        return [place.link for place in self.places]

    def without_links(self) -> "Findings":
        """The same with its links left as they are, as declined."""
        return replace(self, places=[], untouched=self.untouched + Counter(declined=len(self.places)))

    def changes(self, urls: Sequence[str | None], pixel_url: str | None) -> Changes:
        """The changes that put these URLs in, one for each link; None leaves it as it is."""
        edits = [
            Edit(place.start, place.end, place.write(url))
            for place, url in zip(self.places, urls, strict=True)
            if url is not None
        ]
        changes = Changes(edits + self.removals, len(edits), self.untouched.copy())
        if declined := len(self.places) - len(edits):
            changes.untouched["declined"] = declined
        if pixel_url is not None:
            changes.edits.append(Edit(self.pixel_at, self.pixel_at, pixel_tag(pixel_url)))
        changes.edits.sort(key=lambda edit: edit.start)
        return changes


@dataclass(frozen=True, slots=True)
class Rules:
    """How links are read: `leave` are normalised URLs that stay (List-Unsubscribe), `base` is `<base href>`."""

    encoding: str = "utf-8"
    leave: frozenset[str] = frozenset()
    app_schemes: frozenset[str] = frozenset()
    base: str | None = None

    def judge(self, url: str, context: str) -> tuple[str, str]:
        """(destination, "") of a link to track, ("", reason) of one to leave; `context` is the text it goes with."""
        judge = _judge_url if len(url) <= _MOST_REMEMBERED else _judge_url.__wrapped__
        destination, reason = judge(url, self.base, self.encoding, self.app_schemes)
        if not reason and (destination in self.leave or _unsubscribes(context)):
            return "", "unsubscribe"
        return destination, reason

    def read_base(self, href: str) -> str | None:
        """What relative links are relative to by this `<base href>`; None if nobody can say."""
        try:
            base = normalise(href, encoding=self.encoding)
        except DestinationRefused:
            return None
        return base if len(base) <= MAX_BASE_LENGTH else None


def rewrite_html(
    source: str,
    track: Track,
    pixel_url: str | None,
    *,
    encoding: str = "utf-8",
    leave: frozenset[str] = frozenset(),
    app_schemes: frozenset[str] = frozenset(),
) -> Rewritten:
    """Tracks the links of an HTML document and puts the pixel in; `encoding` is the document's.

    The pixel goes before the last `</body>`, else the last `</html>`, else to the end; but where the document ends
    within a comment, a tag or a text like that of `<style>`, before that: inside it would be no tag.
    """
    return change_html(source, track, pixel_url, Rules(encoding, leave, app_schemes)).apply(source)


def rewrite_text(
    source: str,
    track: Track,
    *,
    encoding: str = "utf-8",
    leave: frozenset[str] = frozenset(),
    app_schemes: frozenset[str] = frozenset(),
) -> Rewritten:
    """Tracks the bare http and https URLs of a plain text. Labels are "": the text around is the recipient's."""
    return _changes(find_in_text(source, Rules(encoding, leave, app_schemes)), track, None).apply(source)


def pixel_tag(url: str) -> str:
    """The pixel's HTML. Not `display:none`: some mail programs do not load what is not displayed."""
    return f'<img src="{escape(url)}" width="1" height="1" alt="" style="border:0;width:1px;height:1px">'


def change_html(source: str, track: Track, pixel_url: str | None, rules: Rules) -> Changes:
    """The changes that `rewrite_html` makes."""
    return _changes(find_in_html(source, rules), track, pixel_url)


def _changes(found: Findings, track: Track, pixel_url: str | None) -> Changes:
    return found.changes([track(link) for link in found.links], pixel_url)


def find_in_html(source: str, rules: Rules) -> Findings:
    """What `rewrite_html` can change."""
    document = _read(source)
    if document.base:
        rules = replace(rules, base=rules.read_base(decode_attribute(document.base)))
    found = Findings(pixel_at=document.pixel_at)
    for anchor in document.anchors:
        opt_outs = [each for each in anchor.tag.attributes if each.name in _OPT_OUTS and _opts_out(source, each)]
        found.removals += [_removal(source, attribute) for attribute in opt_outs]
        if (href := anchor.tag.attribute("href")) is None:
            continue
        label = anchor.shown_label(source)
        url = decode_attribute(source[href.value_start : href.value_end])
        words = f"{label} {_shown(' '.join(_values(source, anchor.tag, *_WORDED)))}"
        destination, reason = ("", "opted_out") if opt_outs else rules.judge(url, words)
        if reason:
            found.untouched[reason] += 1
        else:
            write = escape if href.value_end < href.end else _write_unquoted
            found.places.append(Place(Link(destination, _shortened(label)), href.value_start, href.value_end, write))
    return found


def find_in_text(source: str, rules: Rules) -> Findings:
    """What `rewrite_text` can change; there is no place for a pixel."""
    found = Findings()
    previous_end = 0
    for match in _TEXT_URL.finditer(source):
        start, end = match.span()
        is_delimited = match["delimited"] is not None
        if not is_delimited:
            end = start + _length_without_trailing(match[0])
        url = source[start:end]
        context = source[max(previous_end, start - _CONTEXT_LENGTH) : start].rstrip(_BEFORE_URL)
        if is_delimited or not _UNSPACED.search(url):
            destination, reason = rules.judge(url, _SENTENCE_END.split(context)[-1])
        else:
            destination, reason = "", "unclear"
        if reason:
            found.untouched[reason] += 1
        else:
            found.places.append(Place(Link(destination, ""), start, end, str))
        previous_end = end
    return found


# --- HTML --------------------------------------------------------------------------------------------------------

UNSAFE_UNQUOTED = re.compile(r"[\s\"'<>`=]|-\Z")
"""What an unquoted value must not have. With the tag's `>`, two dashes at its end close a conditional comment."""

_ALWAYS_OPT_OUT = frozenset(
    {"ses:no-track", "data-pm-no-track", "data-no-track", "mautic:disable-tracking", "data-skip-click"}
)
_VALUE_OPT_OUT = {"clicktracking": "off", "data-msys-clicktrack": "0"}
_OPT_OUTS = _ALWAYS_OPT_OUT.union(_VALUE_OPT_OUT)
_TO_LINKS = passage_to(["a", "area", "base", "body", "html"], "v:")
# Tags that part no words: `Un<b>subscribe</b>` is one.
_INLINE = frozenset(
    {"abbr", "b", "bdi", "bdo", "big", "code", "del", "em", "font", "i", "ins", "mark", "o:p", "s", "small", "span"}
    | {"strike", "strong", "sub", "sup", "tt", "u", "wbr"}
)
_UNSHOWN = re.compile(r"[\u00ad\u200b-\u200f\u2060\ufeff]+")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
_WORDED = ("title", "aria-label", "alt", "name")
_MAX_LABEL_SOURCE = 1_000


@dataclass(slots=True)
class _Anchor:
    tag: Tag
    seen: list[str] = field(default_factory=list)
    seen_length: int = 0

    def shown_label(self, source: str) -> str:
        """What the reader sees, else what the tag says of itself."""
        return _shown("".join(self.seen)) or _shown(_first_value(source, self.tag, *_WORDED))

    @property
    def is_full(self) -> bool:
        return self.seen_length >= _MAX_LABEL_SOURCE

    def see(self, text: str) -> None:
        if not self.is_full:
            self.seen.append(text[:_MAX_LABEL_SOURCE])
            self.seen_length += len(self.seen[-1])


@dataclass(slots=True)
class _Document:
    anchors: list[_Anchor]
    base: str | None
    pixel_at: int


def _read(source: str) -> _Document:
    document = _Document([], None, len(source))
    ends: dict[str, int] = {}
    # What is hidden in a conditional comment is no label of a link outside of it, and the other way round.
    open_anchors: dict[bool, _Anchor] = {}
    for token in tokenize(source, _TO_LINKS, open_anchors):
        if isinstance(token, Unclosed):
            document.pixel_at = token.start
            continue
        label_of = open_anchors.get(token.hidden)
        if isinstance(token, Text):
            if label_of:
                label_of.see(source[token.start : token.end])
                if label_of.is_full:
                    del open_anchors[token.hidden]
        elif token.closing:
            if label_of and token.name == label_of.tag.name:
                del open_anchors[token.hidden]
            if token.name in ("body", "html") and not token.hidden:
                ends[token.name] = token.start
        elif token.name in ("a", "area") or token.name.startswith("v:"):
            anchor = _Anchor(token)
            document.anchors.append(anchor)
            if token.name == "a" or (token.attribute("href") and _may_have_content(source, token)):
                open_anchors[token.hidden] = anchor
        elif token.name == "base" and document.base is None and not token.hidden:
            document.base = _first_value(source, token, "href") or None
        elif label_of:
            if token.name not in _INLINE:
                label_of.see(" ")
            if token.name == "img":
                label_of.see(_first_value(source, token, "alt"))
    document.pixel_at = ends.get("body", ends.get("html", document.pixel_at))
    return document


def _shown(text: str) -> str:
    """The text without what nobody sees; runs of white space are one space."""
    return " ".join(_CONTROLS.sub(" ", _UNSHOWN.sub("", decode_attribute(text))).split())


def _shortened(label: str) -> str:
    return label if len(label) <= MAX_LABEL_LENGTH else label[: MAX_LABEL_LENGTH - 1] + "…"


def _may_have_content(source: str, tag: Tag) -> bool:
    return tag.name != "area" and source[tag.end - 2] != "/"


def _values(source: str, tag: Tag, *names: str) -> Iterator[str]:
    return (source[at.value_start : at.value_end] for name in names if (at := tag.attribute(name)))


def _first_value(source: str, tag: Tag, *names: str) -> str:
    return next(filter(None, _values(source, tag, *names)), "")


def _opts_out(source: str, attribute: Attribute) -> bool:
    if attribute.name in _ALWAYS_OPT_OUT:
        return True
    off = _VALUE_OPT_OUT.get(attribute.name)
    return off is not None and off == source[attribute.value_start : attribute.value_end].strip().lower()


def _removal(source: str, attribute: Attribute) -> Edit:
    """Takes the attribute out with the space before it, unless that is all that parts its neighbours.

    A following `/` would become part of an unquoted value before it.
    """
    start = attribute.start
    if source[attribute.end] in "\t\n\f\r >":
        while source[start - 1] in "\t\n\f\r ":
            start -= 1
    return Edit(start, attribute.end, "")


def _write_unquoted(url: str) -> str:
    value = escape(url)
    return f'"{value}"' if UNSAFE_UNQUOTED.search(value) else value


# --- plain text --------------------------------------------------------------------------------------------------

# A URL ends where it is delimited (RFC 3986, appendix C), else with a character that sentences and Markdown have and
# URLs do not.
_TEXT_URL = re.compile(
    r"(?P<delimited>(?<=<)https?://[^\s<>\"\x00-\x20\x7f]+(?=>))"
    r"|(?<![A-Za-z0-9+.-])https?://"
    r"(?:(?!\]\(|\)\[)[^\s<>\"\x00-\x20\x7f`—，、。．；：！？（）［］｛｝〔〕「」『』【】《》〈〉｢｣\u200b\u2060\ufeff])+",
    re.I,
)
# Of scripts without spaces between words nobody can say where the URL ends and the sentence goes on.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
    "\uf900-\ufaff\uff10-\uff9f\U00020000-\U0003ffff]"
)
_SENTENCE_END = re.compile(r"[.!?]\s|\n\s*\n")
_TRAILING = frozenset(".,;:!?'*|”“’‘»«›‹…。，、·\u0387")
_BRACKETS = {")": "(", "]": "[", "}": "{"}
_CONTEXT_LENGTH = 200
_BEFORE_URL = " \t\r\n<(["


def _length_without_trailing(url: str) -> int:
    """Without the sentence's punctuation; a closing bracket stays if the URL opened it: `…/Foo_(bar)`."""
    surplus = {close: url.count(close) - url.count(opening) for close, opening in _BRACKETS.items()}
    length = len(url)
    while length:
        last = url[length - 1]
        if last in _BRACKETS:
            if surplus[last] <= 0:
                break
            surplus[last] -= 1
        elif last not in _TRAILING:
            break
        length -= 1
    return length


# --- what stays as it is -----------------------------------------------------------------------------------------

# Placeholders of mailing systems that are still to be filled: a sealed destination could not be filled any more.
_PLACEHOLDER = re.compile(r"\{\{|\{%|\$\{|<%|\[%[ -]|\[\[|\*\||%%[A-Za-z_][^%\s]*+%%|%recipient[._]\w")
# Single-character forms count as the whole URL, its scheme or host only; `%e4%b8` in a host is an encoded letter.
_LEADING_PLACEHOLDER = re.compile(r"(?:[a-z][a-z0-9+.-]*:)?[/\\]*(?:\{[\w$.]|%[a-z_]\w{2,}%|\[[a-z_][\w.-]*\])", re.I)

# "Unsubscribe" as it stands in link texts and URLs: English, German, French, Spanish, Italian, Dutch, Scandinavian,
# Portuguese, Polish, Czech. Compared without case and accents. Too much is harmless here: such a link just stays.
_UNSUBSCRIBE = re.compile(
    r"unsubscri|abmeld|abbestell|austragen|(?<![a-z])opt[-_ ]?out(?![a-z])|desinscri|desabonn|se desinscrire"
    r"|darse de baja|cancelar (?:la |a )?(?:suscripcion|inscricao)|disiscri|annulla(?:re)? (?:l['’])?iscrizione"
    r"|uitschrijv|afmeld|avmeld|avregistrer|avprenumerera|wypisz|odhlasit"
)
_ACCENTS = re.compile("[\u0300-\u036f]+")


@lru_cache(maxsize=4_096)  # a mailing's links are the same for most of its recipients
def _judge_url(url: str, base: str | None, encoding: str, app_schemes: frozenset[str]) -> tuple[str, str]:
    """What `Rules.judge` says of a URL that stands in no context and no list."""
    if _PLACEHOLDER.search(url) or _LEADING_PLACEHOLDER.match(url.lstrip()):
        return "", "placeholder"
    if url.strip("\t\n\f\r ")[:1] in ("", "#"):
        return "", "anchor"
    try:
        destination = normalise(url, base=base, encoding=encoding, app_schemes=app_schemes)
    except DestinationRefused as refused:
        return "", "invalid" if refused.reason == "no_host" else refused.reason
    return ("", "unsubscribe") if _unsubscribes(unquote(destination)) else (destination, "")


def _unsubscribes(text: str) -> bool:
    if not text.isascii():
        text = _ACCENTS.sub("", unicodedata.normalize("NFKD", text))
    return _UNSUBSCRIBE.search(text.casefold()) is not None
