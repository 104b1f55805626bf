"""The tags and texts of an HTML document with their exact offsets, found as the standard's tokenizer finds them.

Invariant: one forward pass; the offsets of what is yielded grow; the work is linear in the document's length whatever
is in it. Source: https://html.spec.whatwg.org/multipage/parsing.html#tokenization. Two additions: what mail programs
read in conditional comments (`<!--[if mso]> … <![endif]-->`) is tokenized too, marked `hidden`; and where the document
ends within a comment, a tag or a raw text, it is told where that begins.
"""

import re
from collections.abc import Container, Iterable, Iterator
from html.entities import html5
from typing import NamedTuple

from msgspec import Struct

_SPACE = r"\t\n\f\r "
_MARKUP = re.compile(rf"<(?:!--|[!?]|(/?)([A-Za-z][^{_SPACE}/>]*+)|/)")
_CONDITION = re.compile(r"<!--\s*+\[if\b[^\]>]*+\]>", re.I)
_COMMENT_END = re.compile(r"--!?>")
_ATTRIBUTE = re.compile(
    rf"[{_SPACE}/]*+(?:>|(=[^{_SPACE}/>=]*+|[^{_SPACE}/>=]++)([{_SPACE}]*+=[{_SPACE}]*+)?+)"  # name and equals sign
)
_UNQUOTED = re.compile(rf"[^{_SPACE}>]++")
_VALUE = rf"(?:\"[^\"]*+\"|'[^']*+'|[^{_SPACE}>\"'][^{_SPACE}>]*+|(?=>))"
# All attributes of a tag and its end, as `_read_attributes` reads them.
_ATTRIBUTES = (
    rf"(?:[{_SPACE}/]*+(?:=[^{_SPACE}/>=]*+|[^{_SPACE}/>=]++)(?:[{_SPACE}]*+=[{_SPACE}]*+{_VALUE}|(?![{_SPACE}]*+=)))*"
    rf"[{_SPACE}/]*+>"
)
_RAW_TEXT = {
    name: re.compile(rf"</{name}(?=[{_SPACE}/>])", re.I)
    for name in ("script", "style", "title", "textarea", "xmp", "iframe", "noembed", "noframes")
}


class Attribute(Struct, frozen=True, gc=False):
    """One attribute. `start:end` is all of it, `value_start:value_end` its raw value without the quotes."""

    name: str  # lower case
    start: int
    end: int
    value_start: int
    value_end: int


class Tag(Struct, frozen=True, gc=False):
    """A start or end tag; `hidden` means: in a conditional comment."""

    name: str  # lower case
    closing: bool
    start: int
    end: int
    attributes: tuple[Attribute, ...]
    hidden: bool

    def attribute(self, name: str) -> Attribute | None:
        """The first attribute of this name; the standard drops the later ones."""
        for attribute in self.attributes:
            if attribute.name == name:
                return attribute
        return None


class Text(Struct, frozen=True, gc=False):
    """A run of text with its character references undecoded."""

    start: int
    end: int
    hidden: bool


class Unclosed(Struct, frozen=True, gc=False):
    """The markup that opens what the document ends in: a comment, a tag, or a raw text (`<style>`) without its end.

    From `start` on nothing is a tag, besides hidden ones. There is one at most.
    """

    start: int
    end: int


class Passage(NamedTuple):
    """Goes over what has no tag of certain names and opens no raw text: texts, other tags, conditional comments."""

    run: re.Pattern[str]
    stop: re.Pattern[str]


def passage_to(names: Iterable[str], prefix: str) -> Passage:
    """Stops at tags of these names or with this prefix."""
    stop = rf"/?(?i:(?:{'|'.join([*names, *_RAW_TEXT, 'plaintext'])})[{_SPACE}/>]|{prefix})"
    tag = rf"<(?!{stop})/?[A-Za-z][^{_SPACE}/>]*+{_ATTRIBUTES}"
    # No more at once, because the matcher keeps a note of each.
    return Passage(re.compile(rf"(?:[^<]++|{tag}|<(?![A-Za-z/!?])){{0,500}}"), re.compile(f"<{stop}"))


def tokenize(
    source: str, passage: Passage | None = None, needed: Container[bool] = ()
) -> Iterator[Tag | Text | Unclosed]:
    """Tags and texts in document order; comments and the content of script, style, title and the like are left out.

    With a passage only the tags are sure to come that it stops at, but every token of conditional comments while
    `needed` has True, and every other while it has False: it is looked at anew before each token.
    """
    position, limit, resume = 0, len(source), len(source)
    hidden = False
    while True:
        if position >= limit:
            if not hidden:
                return
            position, limit, hidden = resume, len(source), False
            continue
        if passage and hidden not in needed:
            passed = passage.run.match(source, position, limit)
            if passed and passed.end() > position:
                position = passed.end()
                continue
        start = source.find("<", position, limit)
        if start != position:
            yield Text(position, limit if start < 0 else start, hidden)
            position = limit if start < 0 else start
            continue
        markup = _MARKUP.match(source, position, limit)
        if markup is None:  # a lone `<` is text
            yield Text(position, position + 1, hidden)
            position += 1
        elif markup[2]:
            name, closing = markup[2].lower(), bool(markup[1])
            attributes, position = _read_attributes(source, markup.end(), limit)
            resumed = position if closing else _skip_raw_text(source, name, position, limit)
            if attributes is not None and (hidden or resumed is not None):
                yield Tag(name, closing, start, position, attributes, hidden)
            elif not hidden:
                yield Unclosed(start, position)
            position = limit if resumed is None else resumed
        elif markup[0] == "<!--":
            # Inside a comment no other one ends: looking again for an end there would be quadratic work.
            content_end, comment_end = (limit, limit) if hidden else _comment_end(source, position)
            condition = _CONDITION.match(source, position, content_end)
            if not hidden and content_end == comment_end:
                yield Unclosed(start, condition.end() if condition else limit)
            if condition is None or (
                passage and True not in needed and not passage.stop.search(source, condition.end(), content_end)
            ):
                position = comment_end
            else:
                position = condition.end()
                if not hidden:
                    limit, resume, hidden = content_end, comment_end, True
        else:
            close = source.find(">", position, limit)
            if close < 0 and not hidden:
                yield Unclosed(start, limit)
            position = limit if close < 0 else close + 1


def _comment_end(source: str, start: int) -> tuple[int, int]:
    """Where the content of the comment at `start` ends, and where the comment does; the same if it is unclosed."""
    for empty in ("<!-->", "<!--->"):
        if source.startswith(empty, start):
            return start + len("<!--"), start + len(empty)
    end = _COMMENT_END.search(source, start + 4)
    return (end.start(), end.end()) if end else (len(source), len(source))


def _read_attributes(source: str, position: int, limit: int) -> tuple[tuple[Attribute, ...] | None, int]:
    """The attributes up to the tag's `>` and where the tag ends; (None, limit) if the document ends before it."""
    attributes: list[Attribute] = []
    while match := _ATTRIBUTE.match(source, position, limit):
        position = match.end()
        name, equals = match.groups()
        if name is None:
            return tuple(attributes), position
        value_start = value_end = position
        if equals:
            if position >= limit:
                break
            quote = source[position]
            if quote in "\"'":
                value_start, value_end = position + 1, source.find(quote, position + 1, limit)
                if value_end < 0:
                    break
                position = value_end + 1
            elif unquoted := _UNQUOTED.match(source, position, limit):
                position = value_end = unquoted.end()
        attributes.append(Attribute(name.lower(), match.start(1), position, value_start, value_end))
    return None, limit


def _skip_raw_text(source: str, name: str, position: int, limit: int) -> int | None:
    """Where the tokenizer goes on behind the start tag that ends at `position`; None if it does not, up to `limit`."""
    if name == "plaintext":
        return None
    if name not in _RAW_TEXT:
        return position
    end_tag = _RAW_TEXT[name].search(source, position, limit)
    if end_tag is None or _read_attributes(source, end_tag.end(), limit)[0] is None:  # an unfinished one ends nothing
        return None
    return end_tag.start()


PRESCAN_BYTES = 1_024
"""Where browsers look for a document's word on its charset."""

_CONTENT_CHARSET = re.compile(
    rf"charset[{_SPACE}]*+=[{_SPACE}]*+(?:\"([^\"]*+)\"|'([^']*+)'|([^{_SPACE};\"'][^{_SPACE};]*+))", re.I
)
_XML_ENCODING = re.compile(r"<\?xml[^>]*?encoding[\0- ]*+=[\0- ]*+(?:\"([^\">\0- ]++)\"|'([^'>\0- ]++)')")


def declared_charsets(data: bytes) -> Iterator[str]:
    """The charset labels of a document's meta elements in document order, and last the one of its XML declaration.

    Only the first 1,024 bytes are read, and no comment, not even a conditional one. Source:
    https://html.spec.whatwg.org/#prescan-a-byte-stream-to-determine-its-encoding; beyond it, but as browsers do, a meta
    within title, script, style and the like does not count, and character references are decoded.
    """
    source = data[:PRESCAN_BYTES].decode("latin-1")
    for token in tokenize(source):
        if isinstance(token, Tag) and token.name == "meta" and not (token.closing or token.hidden):
            yield _meta_charset(source, token)
    if declaration := _XML_ENCODING.match(source):
        yield declaration[1] or declaration[2]


def _meta_charset(source: str, meta: Tag) -> str:
    """Its own attribute counts even if nobody knows that charset; "" if it names none."""
    if meta.attribute("charset"):
        return _value(source, meta, "charset")
    if _value(source, meta, "http-equiv").lower() != "content-type":
        return ""
    found = _CONTENT_CHARSET.search(_value(source, meta, "content"))
    return found[found.lastindex or 0] if found else ""


def _value(source: str, tag: Tag, name: str) -> str:
    at = tag.attribute(name)
    return decode_attribute(source[at.value_start : at.value_end]) if at else ""


_REFERENCE = re.compile(r"&(?:#(?:[xX]([0-9A-Fa-f]++)|([0-9]++));?|([A-Za-z][A-Za-z0-9]*+;?))(=?)")


def decode_attribute(raw: str) -> str:
    """The value of an attribute as the standard decodes it: `&copy=1` and `&copyright` stay, `&copy;=1` does not."""
    if "\0" in raw:
        raw = raw.replace("\0", "\ufffd")
    references = raw.count("&")
    if references == raw.count("&amp;"):  # as most URLs are written
        return raw.replace("&amp;", "&") if references else raw
    return _REFERENCE.sub(_decode_reference, raw)


def _decode_reference(match: re.Match[str]) -> str:
    hexadecimal, decimal, name, equals = match.groups()
    if name:
        # Without its semicolon a name counts for historical reasons only, and not before `=` or a letter or digit.
        if name in html5 and (name.endswith(";") or not equals):
            return html5[name] + equals
        return match[0]
    digits = (hexadecimal or decimal).lstrip("0")
    code = int(digits or "0", 16 if hexadecimal else 10) if len(digits) <= 7 else 0
    if 0x80 <= code <= 0x9F:
        return (bytes([code]).decode("cp1252", "ignore") or chr(code)) + equals
    if code == 0 or code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
        return "\ufffd" + equals
    return chr(code) + equals
