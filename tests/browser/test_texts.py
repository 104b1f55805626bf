"""The texts of the pages: each has its German, and the domain's sentences are said as sentences of the language."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from babel.messages import Message, pofile
from jinja2.ext import babel_extract

from app.admin.access import Principal, Scope
from app.admin.pages import sentences
from app.admin.pages.events import as_utf8, readable
from app.errors import DestinationRefused, MailtrailError
from app.tracking import settings as rules
from app.tracking.event_types import (
    MAX_DEPTH,
    MAX_ELEMENTS,
    MAX_XML_BYTES,
    NAMESPACE,
    EventTypeRefused,
    parse_event_type,
)
from app.tracking.overrides import check_override

PAGES = Path(sentences.__file__).parent
OPTIONS = {"trim_blocks": "true", "lstrip_blocks": "true", "newstyle_gettext": "true"}
PLACEHOLDER = re.compile(r"%\(\w+\)s")


def _forms(text: Any) -> list[str]:
    """Singular and plural of a text, or the text alone."""
    return list(text) if isinstance(text, tuple | list) else [text]


def _read_german() -> dict[str, Message]:
    with (PAGES / "locale/de.po").open("rb") as file:
        return {_forms(message.id)[0]: message for message in pofile.read_po(file, locale="de") if message.id}


GERMAN = _read_german()


def _texts_of_templates() -> Iterator[tuple[str, str]]:
    for template in sorted((PAGES / "templates").glob("*.html")):
        with template.open("rb") as file:
            for _, _, text, _ in babel_extract(file, ["_", "gettext", "ngettext"], [], OPTIONS):
                yield template.name, _forms(text)[0]


def test_every_text_is_there_in_german() -> None:
    texts = set(_texts_of_templates())
    assert 200 < len(texts)
    assert [] == sorted((name, text) for name, text in texts if text not in GERMAN or not GERMAN[text].string)


def test_german_has_the_placeholders_of_its_english() -> None:
    for message in GERMAN.values():
        english, german = _forms(message.id), _forms(message.string)
        assert set(PLACEHOLDER.findall(english[-1])) == set(PLACEHOLDER.findall(german[-1])), english
        assert set(PLACEHOLDER.findall(german[0])) <= set(PLACEHOLDER.findall(english[-1])), english
        assert "%" not in PLACEHOLDER.sub("", "".join(german)), english


def test_german_has_nothing_that_no_page_says() -> None:
    said = {text for _, text in _texts_of_templates()}
    said |= {*sentences.PLAINER.values(), *sentences.OF_DEFINITIONS, *sentences.PARTS, sentences.POSITION}
    assert [] == sorted(GERMAN.keys() - said)


def test_every_known_sentence_is_there_in_german() -> None:
    known = {*sentences.PLAINER.values(), *sentences.OF_DEFINITIONS}
    assert [] == sorted(known - GERMAN.keys())


# --- the domain's sentences ------------------------------------------------------------------------------------------

HEAD = f'<event xmlns="{NAMESPACE}">'
ID = "<eventtype><id>order</id></eventtype>"
GROUP = (
    "<phgroup><id>Customer</id><placeholder><id>Email</id><datatype-string/></placeholder>"
    "<placeholder><id>Tracking</id><datatype-boolean/></placeholder>"
    "<placeholder><id>Age</id><datatype-integer/></placeholder></phgroup>"
)
LIST = "<phlist><id>Items</id><placeholder><id>Gift</id><datatype-boolean/></placeholder></phlist>"


def _event(inside: str, groups: str = GROUP) -> str:
    return f"{HEAD}{ID}{inside}{groups}</event>"


def _placeholder(inside: str) -> str:
    return _event("", f"<phgroup><id>Customer</id>{inside}</phgroup>")


def _tracking(reference: str) -> str:
    return _event(f"<customertracking>{reference}</customertracking>", GROUP + LIST)


WRONG: list[str | bytes] = [
    " " * (MAX_XML_BYTES + 1),
    _event("<translation/>" * (MAX_ELEMENTS + 1)),
    HEAD + "<x>" * (MAX_DEPTH + 1),
    _event("<?php echo ?>"),
    '<?xml version="1.0" encoding="utf-7"?>' + _event(""),
    "<!DOCTYPE event>" + _event(""),
    "",
    _event("a & b"),
    f"{HEAD}<eventtype></event></eventtype>",
    _event("&euro;"),
    f'<event xmlns="{NAMESPACE}" xmlns="{NAMESPACE}"/>',
    _event("") + "<more/>",
    ' <?xml version="1.0"?>' + _event(""),
    '<?xml version="1.0" encoding="utf-16"?>' + _event(""),
    "<event/>",
    f'<mail xmlns="{NAMESPACE}"/>',
    _event("some text"),
    _event("<customertrackin>x</customertrackin>"),
    _event("<zzz/>"),
    f"{HEAD}<eventtype><id>order<b/></id></eventtype>{GROUP}</event>",
    f"{HEAD}{GROUP}</event>",
    _event("", "<phgroup><id>Customer</id></phgroup>"),
    _event("").replace(ID, ID + ID),
    _event("").replace("<eventtype>", '<eventtype xmlns="urn:other">'),
    _placeholder('<placeholder><id>A</id><datatype-boolean trueptern="yes"/></placeholder>'),
    _placeholder('<placeholder><id>A</id><datatype-string zzz="yes"/></placeholder>'),
    _event("").replace("</eventtype>", "<translation>Order</translation></eventtype>"),
    _event("").replace("order", "1 order"),
    _event("").replace("Customer", "customer"),
    _event("", GROUP + GROUP),
    _placeholder("<placeholder><id>A</id></placeholder>"),
    _placeholder("<placeholder><id>A</id><datatype-string/><datatype-long/></placeholder>"),
    _placeholder('<placeholder><id>A</id><datatype-boolean truePattern=""/></placeholder>'),
    _placeholder('<placeholder><id>A</id><datatype-boolean truePattern="FALSE"/></placeholder>'),
    _placeholder('<placeholder><id>A</id><datatype-double decimalSeparator="0"/></placeholder>'),
    _placeholder('<placeholder><id>A</id><datatype-datetime pattern=""/></placeholder>'),
    _placeholder('<placeholder><id>A</id><datatype-datetime pattern="dd \'of"/></placeholder>'),
    _placeholder('<placeholder><id>A</id><datatype-datetime pattern="dd dd"/></placeholder>'),
    _placeholder('<placeholder><id>A</id><datatype-datetime pattern="dd. MMM"/></placeholder>'),
    _placeholder('<placeholder><id>A</id><datatype-datetime timezone="Nowhere"/></placeholder>'),
    _tracking("Tracking"),
    _tracking("Customer.Trackin"),
    _tracking("Zzzzzz.Qqqqqqq"),
    _tracking("Items.Gift"),
    _tracking("Customer.Email"),
    _tracking("Customer.Age"),
]


def _refusal(definition: str | bytes) -> str:
    with pytest.raises(EventTypeRefused) as refused:
        parse_event_type(definition.encode() if isinstance(definition, str) else definition)
    return str(refused.value)


@pytest.mark.parametrize("definition", WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_with_a_definition_is_said_in_german(definition: str) -> None:
    refusal = _refusal(definition)
    english, german = sentences.said(refusal, "en"), sentences.said(refusal, "de")
    position, _, problem = refusal.partition(": ")
    assert english.lower().startswith(position)
    assert problem.rstrip(".?") in english
    line, column = re.findall(r"\d+", position)
    assert german.startswith(f"Zeile {line}, Spalte {column}: ")
    for word in ("the ", " is ", "remove", "keep", "which", "must be", "add "):
        assert word not in german, german


def test_domain_says_what_pages_know() -> None:
    said = {pattern.pattern for pattern in _matching(map(_refusal, WRONG))}
    assert len(said) > len(sentences.OF_DEFINITIONS) * 0.8


def _matching(refusals: Iterator[str]) -> Iterator[re.Pattern[str]]:
    for refusal in refusals:
        problem = refusal.partition(": ")[2]
        yield next(pattern for pattern, _ in sentences.PATTERNS if pattern.fullmatch(problem))


def test_refusals_of_rules_are_said_in_plain_words() -> None:
    for refuse in (
        lambda: rules.check_name("", "space"),
        lambda: rules.check_name("x" * 201, "event"),
        lambda: rules.check_name("\x07", "mailing"),
        lambda: rules.check_name("", "user"),
        lambda: rules.check_name("", "key"),
        lambda: rules.check_base_url("nonsense"),
        lambda: rules.check_url_parameters("=nonsense"),
        lambda: rules.relay_mode("permission"),
        lambda: check_override("javascript:alert(1)"),
        lambda: check_override("/relative"),
        lambda: check_override("https://"),
        lambda: check_override("https://example.com:99999/"),
        lambda: check_override("https://{host}/"),
        lambda: check_override("https://example.com/" + "x" * 10_000),
        lambda: Principal("user:max", "max", frozenset(), 1).check(Scope.WRITE),
        lambda: Principal("user:max", "max", frozenset(), 1).check_space(2),
        lambda: Principal("user:max", "max", frozenset(), 1).check_everything(),
    ):
        with pytest.raises((MailtrailError, DestinationRefused)) as refused:
            refuse()
        sentence = str(refused.value)
        english, german = sentences.said(sentence, "en"), sentences.said(sentence, "de")
        assert english[0].isupper()
        assert english.endswith(".")
        assert german not in (english, sentence), sentence


def test_unknown_sentences_are_said_as_they_are() -> None:
    assert "Something new; mend it 100% now." == sentences.said("something new; mend it 100% now", "de")


def test_definitions_keep_their_letters() -> None:
    pasted = '\ufeff<?xml version="1.0" encoding="windows-1252"?>\r\n<a>ü€</a>'
    assert '<?xml version="1.0" encoding="UTF-8"?>\n<a>ü€</a>'.encode() == as_utf8(pasted)
    declared = '<?xml version="1.0" encoding="windows-1252"?><a>ü€</a>'
    assert declared == readable(declared.encode("cp1252"))
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        assert "<a>ü€</a>" == readable("<a>ü€</a>".encode(encoding))
    assert "" == readable(None)
