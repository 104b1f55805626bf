"""Event types: the XML that names an event and says which of its data are the recipient, the address, the permission.

Owns that format, and how the permission is read from an event's data. Invariants: every reference of an `EventType`
from here names an existing placeholder of a fitting data type in a phgroup; every other input is refused with the line
and column of what to mend, in bounded time and memory; and only JSON `true` or the placeholder's true pattern is ever
read as a granted permission.

Source: Inxmail Commerce's manual, https://help.inxmail.com/en/content/xcom/events/event-daten.htm
"""

import codecs
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice
from typing import NoReturn
from xml.parsers import expat
from xml.sax import SAXParseException
from xml.sax.handler import ContentHandler
from xml.sax.xmlreader import AttributesImpl, Locator

from defusedxml.common import DefusedXmlException
from defusedxml.expatreader import DefusedExpatParser

from ..errors import SettingsError
from .date_patterns import PatternRefused, date_pattern, zone_of
from .modes import Permission

NAMESPACE = "http://www.inxmail.com/xcom/eventtype"
MAX_XML_BYTES = 256 * 1024
MAX_DEPTH = 16
"""Of nested elements; the format itself needs four."""
MAX_ELEMENTS = 5_000
MAX_ID_LENGTH = 200
"""Longest id in characters."""

_DATATYPES = ("string", "long", "integer", "double", "boolean", "datetime")
_GROUP = {"id": "1", "translation": "*", "placeholder": "+"}
# What each element holds and how often: once, once or not at all, at least once, any number. Order does not matter.
_CHILDREN: dict[str, dict[str, str]] = {
    "event": {
        "eventtype": "1",
        "customermapping": "?",
        "customeremail": "?",
        "customertracking": "?",
        "phgroup": "*",
        "phlist": "*",
    },
    "eventtype": {"id": "1", "translation": "*"},
    "phgroup": _GROUP,
    "phlist": _GROUP,
    "placeholder": {"id": "1", "translation": "*", **{f"datatype-{datatype}": "*" for datatype in _DATATYPES}},
}
_ATTRIBUTES = {
    "translation": ("language",),
    "datatype-boolean": ("truePattern", "falsePattern"),
    "datatype-double": ("decimalSeparator", "groupingSeparator"),
    "datatype-datetime": ("pattern", "timezone"),
}
_TEXTS = frozenset({"id", "translation", "customermapping", "customeremail", "customertracking"})
_DEMANDS = {
    "customermapping": (("string", "long", "integer"), "a string, long or integer placeholder in a phgroup"),
    "customeremail": (("string",), "a string placeholder (<datatype-string/>) in a phgroup"),
    "customertracking": (("boolean",), "a Boolean placeholder (<datatype-boolean/>) in a phgroup"),
}

_XML_SPACE = " \t\r\n"
_EVENT_ID = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_GROUP_ID = re.compile(r"\w[\w$@-]*")  # no dot: a reference ends the group at its first one
_PLACEHOLDER_ID = re.compile(r"\w[\w$@.-]*")
_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(?:[-_][A-Za-z0-9]{1,8})*")
_MAX_SHOWN = 80
"""Characters of the input that a message repeats, and the longest word for which a similar one is searched."""
_MAX_COMPARED = 250
"""How many words are searched for a similar one: difflib takes about a millisecond for each long one."""

# No other is asked for: expat would take any codec of Python's for it.
_ENCODINGS = ("utf-8", "utf-16", "us-ascii", "iso-8859-1", "iso-8859-15", "windows-1252")
_BOMS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_MENDS = {
    expat.errors.XML_ERROR_NO_ELEMENTS: "the XML is empty or ends too early; close every element, <event> last",
    expat.errors.XML_ERROR_INVALID_TOKEN: "this is no XML, or not in the encoding that the XML names; write & as &amp;,"
    " < as &lt;, and save the file as UTF-8",
    expat.errors.XML_ERROR_TAG_MISMATCH: "the end tag closes another element than the last one opened; correct it",
    expat.errors.XML_ERROR_UNDEFINED_ENTITY: "there are no entities but &amp; &lt; &gt; &quot; &apos;; write the"
    " character itself",
    expat.errors.XML_ERROR_DUPLICATE_ATTRIBUTE: "the attribute is there twice; keep one",
    expat.errors.XML_ERROR_JUNK_AFTER_DOC_ELEMENT: "something follows </event>; remove it",
    expat.errors.XML_ERROR_MISPLACED_XML_PI: "the XML declaration must be the very first; remove what is before it",
    expat.errors.XML_ERROR_INCORRECT_ENCODING: "the XML is not in the encoding it names; save it as UTF-8 and say so",
}


class EventTypeRefused(SettingsError):
    """The XML defines no event type. `line` and `column` (both from 1) say where; the message starts with them."""

    def __init__(self, line: int, column: int, problem: str) -> None:
        super().__init__(f"line {line}, column {column}: {problem}", field="definition")
        self.line = line
        self.column = column


@dataclass(frozen=True, slots=True)
class Reference:
    """Names a placeholder by its group, in text `Customer.Tracking`: the group's id ends at the first dot."""

    group: str
    placeholder: str

    def __str__(self) -> str:
        return f"{self.group}.{self.placeholder}"


@dataclass(frozen=True, slots=True)
class Placeholder:
    """One datum of an event. `datatype` is string, long, integer, double, boolean or datetime.

    Only a boolean uses the true and false patterns, which are as written and compared without case; only a double the
    separators, "" for none between thousands; only a datetime its `pattern` ("": ISO 8601) and time zone.
    """

    id: str
    datatype: str
    true_pattern: str = "true"
    false_pattern: str = "false"
    decimal_separator: str = "."
    grouping_separator: str = ","
    pattern: str = ""
    timezone: str = "UTC"


@dataclass(frozen=True, slots=True)
class Group:
    """A phgroup, or with `is_list` a phlist: data that come once, or once per list entry."""

    id: str
    is_list: bool
    placeholders: tuple[Placeholder, ...]


@dataclass(frozen=True, slots=True)
class EventType:
    """An event's definition; None stands for a reference that the XML does not have."""

    id: str
    customer_mapping: Reference | None
    customer_email: Reference | None
    tracking: Reference | None
    groups: tuple[Group, ...]


def parse_event_type(data: bytes) -> EventType:
    """The event type that an XML document defines, in the encoding its BOM or declaration names (UTF-8 without one).

    Raises `EventTypeRefused`, never anything else, for whatever is not such a document.
    """
    event = _read(data)
    _check_root(event)
    _check(event)
    group_elements = [child for child in event.children if child.name in ("phgroup", "phlist")]
    groups = {id: _group(id, element) for id, element in _by_id(group_elements, _GROUP_ID).items()}
    return EventType(
        id=_event_id(event.all("eventtype")[0].all("id")[0]),
        customer_mapping=_reference(event, "customermapping", groups),
        customer_email=_reference(event, "customeremail", groups),
        tracking=_reference(event, "customertracking", groups),
        groups=tuple(groups.values()),
    )


def permission_of(event_type: EventType, payload: Mapping[str, object]) -> Permission:
    """The recipient's permission in an event's data, of the shape `{"Customer": {"Tracking": true}}`.

    GRANTED for `true` or the true pattern, DENIED for `false` or the false pattern; UNKNOWN, which counts as not
    granted, for everything else and for an event type without customertracking.
    """
    reference = event_type.tracking
    placeholder = _boolean(event_type, reference) if reference else None
    if reference is None or placeholder is None:
        return Permission.UNKNOWN
    value = _member(_member(payload, reference.group), reference.placeholder)
    answer = value.casefold() if isinstance(value, str) else value
    if answer is True or answer == placeholder.true_pattern.casefold():
        return Permission.GRANTED
    if answer is False or answer == placeholder.false_pattern.casefold():
        return Permission.DENIED
    return Permission.UNKNOWN


def _boolean(event_type: EventType, reference: Reference) -> Placeholder | None:
    for group in event_type.groups:
        for placeholder in group.placeholders:
            if (group.id, placeholder.id) == (reference.group, reference.placeholder):
                return placeholder if placeholder.datatype == "boolean" and not group.is_list else None
    return None


def _member(container: object, key: str) -> object:
    return container.get(key) if isinstance(container, Mapping) else None


# From bytes to elements.


@dataclass(slots=True)
class _Element:
    name: str
    attributes: dict[str, str]
    line: int
    column: int
    children: "list[_Element]" = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    text_at: tuple[int, int] | None = None
    """Line and column of the first character that is no space, None if there is none."""

    @property
    def text(self) -> str:
        return "".join(self.pieces).strip(_XML_SPACE)

    def all(self, name: str) -> "list[_Element]":
        return [child for child in self.children if child.name == name]

    def refuse(self, problem: str) -> NoReturn:
        raise EventTypeRefused(self.line, self.column, problem)


class _Tree(ContentHandler):
    """Collects the elements, and refuses too many or too deep ones before they are kept."""

    def __init__(self, locator: Locator) -> None:
        super().__init__()
        self.locator = locator
        self.elements = 0
        self.document = _Element("", {}, 1, 1)
        self.open = [self.document]

    def startElement(self, name: str, attrs: AttributesImpl) -> None:
        element = _Element(name, dict(attrs.items()), *_position(self.locator))
        self.elements += 1
        if len(self.open) > MAX_DEPTH:
            element.refuse(f"elements are nested deeper than {MAX_DEPTH} levels; an event type needs four")
        if self.elements > MAX_ELEMENTS:
            element.refuse(f"the XML has more than {MAX_ELEMENTS} elements; remove placeholders that no mail uses")
        self.open[-1].children.append(element)
        self.open.append(element)

    def endElement(self, name: str) -> None:
        self.open.pop()

    def characters(self, content: str) -> None:
        element = self.open[-1]
        element.pieces.append(content)
        if element.text_at is None and (solid := content.lstrip(_XML_SPACE)):
            line, column = _position(self.locator)
            element.text_at = line, column + len(content) - len(solid)

    def processingInstruction(self, target: str, data: str) -> None:
        raise EventTypeRefused(
            *_position(self.locator), f"the processing instruction <?{clip(target)}?> is not allowed; remove it"
        )


class _Reader(DefusedExpatParser):
    """Expat without DTDs, entities, foreign codecs and, on purpose, without namespaces: with them it writes a
    namespace out for every attribute that uses it, hundreds of megabytes for a small document."""

    _parser: expat.XMLParserType

    def __init__(self, has_bom: bool) -> None:
        super().__init__(forbid_dtd=True)
        self.has_bom = has_bom
        self.tree = _Tree(self)
        self.setContentHandler(self.tree)

    def reset(self) -> None:
        super().reset()
        self._parser.buffer_text = False  # buffered text comes at the position of what follows it
        self._parser.XmlDeclHandler = self.xml_declaration

    def getColumnNumber(self) -> int:
        """From 0, and without the byte order mark: expat counts it, editors do not."""
        column = super().getColumnNumber() or 0
        return column - 1 if self.has_bom and column and self.getLineNumber() == 1 else column

    def xml_declaration(self, version: str, encoding: str | None, standalone: int) -> None:
        if encoding is not None and encoding.lower() not in _ENCODINGS:
            raise EventTypeRefused(
                *_position(self),
                f"the encoding {_quote(encoding)} is not read; save the XML as UTF-8 and name that"
                f" (or one of {', '.join(_ENCODINGS[1:])})",
            )


def _read(data: bytes) -> _Element:
    if len(data) > MAX_XML_BYTES:
        raise EventTypeRefused(
            1, 1, f"the XML has {len(data)} bytes, at most {MAX_XML_BYTES} are read; remove what no mail uses"
        )
    reader = _Reader(has_bom=data.startswith(_BOMS))
    try:
        reader.feed(data)
        reader.close()
    except DefusedXmlException:
        raise EventTypeRefused(
            *_position(reader), "a document type (<!DOCTYPE …>) and its entities are not allowed; remove it"
        ) from None
    except SAXParseException as error:
        mend = _MENDS.get(error.getMessage(), f"{error.getMessage()}; correct the XML here")
        raise EventTypeRefused(error.getLineNumber() or 1, (error.getColumnNumber() or 0) + 1, mend) from None
    return reader.tree.document.children[0]


def _position(locator: Locator) -> tuple[int, int]:
    return locator.getLineNumber() or 1, (locator.getColumnNumber() or 0) + 1


# From elements to an event type.


def _check_root(root: _Element) -> None:
    if root.name != "event" or "xmlns" not in root.attributes:
        namespace = "" if "xmlns" in root.attributes else " without xmlns"
        root.refuse(
            f"the document starts with <{clip(root.name)}>{namespace};"
            f' it must be <event xmlns="{NAMESPACE}">, without a prefix'
        )


def _check(element: _Element) -> None:
    """Refuses what the format does not have, outer elements first."""
    _check_attributes(element)
    if element.text_at and element.name not in _TEXTS:
        raise EventTypeRefused(
            *element.text_at, f"{_quote(element.text)} stands in <{element.name}>, which holds no text; remove it"
        )
    known = _CHILDREN.get(element.name, {})
    for child in element.children:
        if child.name not in known:
            _refuse_child(child, element, known)
        _check(child)
    for name, often in known.items():
        _check_number(element, name, often)


def _refuse_child(child: _Element, parent: _Element, known: Iterable[str]) -> NoReturn:
    mends = [f"it holds {', '.join(f'<{name}>' for name in known)}" if known else "remove it"]
    mends += filter(None, [suggest(child.name, known, "<{}>")])
    child.refuse(f"<{clip(child.name)}> does not belong in <{parent.name}>; {'; '.join(mends)}")


def _check_number(element: _Element, name: str, often: str) -> None:
    found = element.all(name)
    if often in "1+" and not found:
        element.refuse(f"<{element.name}> has no <{name}>; add {'one' if often == '1' else 'at least one'}")
    if often in "1?" and len(found) > 1:
        found[1].refuse(f"<{element.name}> has a second <{name}>, the first is in line {found[0].line}; keep one")


def _check_attributes(element: _Element) -> None:
    known = _ATTRIBUTES.get(element.name, ())
    for name, value in element.attributes.items():
        if name == "xmlns":
            if value != NAMESPACE:
                element.refuse(f'<{element.name}> is of the namespace {_quote(value)}; write xmlns="{NAMESPACE}"')
        elif name not in known:
            mend = suggest(name, known) or "remove it"
            element.refuse(f"<{element.name}> has an attribute {_quote(name)}, which does not exist; {mend}")
    if element.name == "translation" and not _LANGUAGE.fullmatch(element.attributes.get("language", "")):
        element.refuse('<translation> names no language; write e.g. <translation language="en">')


def _event_id(element: _Element) -> str:
    if not _EVENT_ID.fullmatch(element.text) or len(element.text) > MAX_ID_LENGTH:
        element.refuse(
            f"the event's id is {_quote(element.text)}; it starts with a letter, then come letters from a to z,"
            f" digits and any of _ - ., at most {MAX_ID_LENGTH} characters: rename it, e.g. order_confirmation"
        )
    return element.text


def _by_id(elements: Iterable[_Element], pattern: re.Pattern[str]) -> dict[str, _Element]:
    found: dict[str, _Element] = {}
    for element in elements:
        named = element.all("id")[0]
        id = named.text
        if not pattern.fullmatch(id) or not id[0].isupper() or len(id) > MAX_ID_LENGTH:
            named.refuse(
                f"the id of a {element.name} is {_quote(id)}; it starts with a capital letter, then come letters,"
                f" digits and any of _ - $ @{' .' if pattern is _PLACEHOLDER_ID else ''}, at most {MAX_ID_LENGTH}"
                " characters: rename it, here and in the data"
            )
        if id in found:
            named.refuse(f"the id {clip(id)} is in line {found[id].line} already; rename or remove one of the two")
        found[id] = element
    return found


def _group(id: str, element: _Element) -> Group:
    placeholders = _by_id(element.all("placeholder"), _PLACEHOLDER_ID)
    return Group(id, element.name == "phlist", tuple(_placeholder(id, found) for id, found in placeholders.items()))


def _placeholder(id: str, element: _Element) -> Placeholder:
    datatypes = [child for child in element.children if child.name.startswith("datatype-")]
    if not datatypes:
        element.refuse(
            f"placeholder {clip(id)} has no data type; add one of"
            f" {', '.join(f'<datatype-{datatype}/>' for datatype in _DATATYPES)}"
        )
    if len(datatypes) > 1:
        datatypes[1].refuse(f"placeholder {clip(id)} has a second data type; keep one")
    datatype = datatypes[0].name.removeprefix("datatype-")
    return Placeholder(id, datatype, *_patterns(datatypes[0]), *_separators(datatypes[0]), *_date_format(datatypes[0]))


def _patterns(datatype: _Element) -> tuple[str, str]:
    true = datatype.attributes.get("truePattern", "true")
    false = datatype.attributes.get("falsePattern", "false")
    if not true.strip() or not false.strip():
        datatype.refuse("an empty pattern matches nothing; fill truePattern and falsePattern, or leave them out")
    if true.casefold() == false.casefold():
        datatype.refuse(
            f"truePattern and falsePattern are both {_quote(true)} (case does not count; without the attribute they are"
            " true and false); let them differ"
        )
    return true, false


def _separators(datatype: _Element) -> tuple[str, str]:
    decimal = datatype.attributes.get("decimalSeparator", ".")
    grouping = datatype.attributes.get("groupingSeparator", "." if decimal == "," else ",")
    if len(decimal) != 1 or len(grouping) > 1 or decimal == grouping or re.search(r"[\w+-]", decimal + grouping):
        datatype.refuse(
            "decimalSeparator is one character and groupingSeparator another one or none, no letters, digits or signs;"
            ' write e.g. decimalSeparator="," groupingSeparator="."'
        )
    return decimal, grouping


def _date_format(datatype: _Element) -> tuple[str, str]:
    pattern, timezone = datatype.attributes.get("pattern"), datatype.attributes.get("timezone", "UTC")
    try:
        if pattern is not None:
            date_pattern(pattern)
        zone_of(timezone)
    except PatternRefused as refused:
        datatype.refuse(str(refused))
    return pattern or "", timezone


def _reference(event: _Element, name: str, groups: Mapping[str, Group]) -> Reference | None:
    if not (found := event.all(name)):
        return None
    text, (datatypes, demand) = found[0].text, _DEMANDS[name]
    if not text and name != "customertracking":
        return None  # the usual templates leave these two empty; an empty permission would silently be nobody's
    group, _, placeholder = text.partition(".")
    if not group or not placeholder:
        found[0].refuse(f"{name} is {_quote(text)}; name {demand} as Group.Placeholder, or leave <{name}> out")
    reference = Reference(group, placeholder)
    fitting = _references(groups.values(), datatypes)
    if text not in fitting:
        why = _misfit(reference, groups.get(group))
        mend = "; ".join(filter(None, [f"it must be {demand}", suggest(text, fitting)]))
        shown = clip(text) if text.isprintable() else _quote(text)
        found[0].refuse(f"{name} names {shown}, which {why}; {mend}")
    return reference


def _references(groups: Iterable[Group], datatypes: Iterable[str]) -> list[str]:
    """Every reference that can stand where placeholders of these data types are asked for."""
    return [
        str(Reference(group.id, placeholder.id))
        for group in groups
        for placeholder in group.placeholders
        if placeholder.datatype in datatypes and not group.is_list
    ]


def _misfit(reference: Reference, group: Group | None) -> str:
    datatypes = {placeholder.id: placeholder.datatype for placeholder in group.placeholders} if group else {}
    datatype = datatypes.get(reference.placeholder)
    if group is None or datatype is None:
        return "does not exist"
    if group.is_list:
        return "is in a phlist"
    return f"is {'an' if datatype == 'integer' else 'a'} {datatype}"


def suggest(word: str, known: Iterable[str], form: str = "{}") -> str:
    """A question whether a similar one of the known words was meant; "" if none is similar."""
    if len(word) > _MAX_SHOWN:
        return ""
    names = {name.casefold(): name for name in islice(known, _MAX_COMPARED)}
    close = get_close_matches(word.casefold(), names, n=1)
    return f"did you mean {form.format(names[close[0]])}?" if close else ""


def clip(text: str) -> str:
    """The beginning of a text, as much as a message repeats."""
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"


def _quote(text: str) -> str:
    return repr(clip(text))
