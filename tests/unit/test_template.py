"""A personalised mail is what `rewrite_html` makes of the filled template, and no value changes more than its place."""

import re
from collections import Counter
from html import escape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from app.errors import DestinationRefused, MailRefused, NotFound, SettingsError
from app.sending.html_links import Link, _unsubscribes, rewrite_html
from app.sending.html_tags import Tag, tokenize
from app.sending.minting import Minter, click_token
from app.sending.template import Personalised, Template
from app.tracking.destinations import normalise, with_parameters
from app.tracking.fingerprints import Fingerprints
from app.tracking.links import pattern_of
from app.tracking.modes import Mode
from app.tracking.tokens import KeyRing, Kind, Token
from tests.unit.test_minting import BASE, RING, minter

MAILS = Path(__file__).parents[1] / "mails"
FIELDS = ("name", "id", "code")
VALUES = {"name": "Zoë & Söhne", "id": "4711", "code": "a/b?c"}
CLICK = re.compile(rf"{re.escape(BASE)}/c/[\w-]+")
PIXEL = re.compile(rf'<img src="{re.escape(BASE)}/o/([\w-]+)\.gif"[^>]*>')


def rewritten(html: str, made: Minter) -> tuple[str, Counter[str]]:
    """What `rewrite_html` makes of it with this message, numbers in document order."""
    number = 0
    untouched: Counter[str] = Counter()

    def track(link: Link) -> str | None:
        nonlocal number
        number += 1
        try:
            return made.click_url(link.destination, pattern_of(link.destination), number, registered=False)
        except DestinationRefused as refused:
            untouched[refused.reason] += 1
            return None

    done = rewrite_html(html, track, made.pixel_url())
    del done.untouched["declined"]
    return done.text, done.untouched + untouched


def opened(mail: Personalised) -> list[Token]:
    return [RING.open(click_token(url), Kind.CLICK) for url in CLICK.findall(mail.html)]


def destinations(html: str, values: dict[str, str], ceiling: Mode = Mode.PERSON_BASED) -> list[str]:
    return [token.destination for token in opened(Template.compile(html, values).personalise(minter(ceiling), values))]


# --- without fields --------------------------------------------------------------------------------------------------

html_words = st.sampled_from(
    [
        *("<a href='https://a.example/'>", "<a href=https://b.example/p?q>", "</a>", '<A HREF="', '"', ">"),
        *("<!--", "-->", "<!--[if mso]>", "<![endif]-->", "<style>", "</style>", "</body>", "</html>"),
        *("<base href='https://base.example/x/'>", "<a href='rel'>", "<a href='#'>", "<a href='http://1.2.3'>"),
        *("<a clicktracking=off href='https://c.example'>", "Abmelden", "{{ x }}", "ä", "\U000f0000", "1"),
        *("<a href='https://d.example/{{ x }}'>", "<a href='mailto:a@b.de'>", f"<a href=https://{'x' * 7_000}>"),
        f"<a href=https://e.example/{'x' * 7_000}>",
    ]
)


@given(
    st.lists(html_words).map("".join), st.sampled_from([*Mode][1:]), st.sampled_from([BASE, "https://t.example/a=b"])
)
@settings(max_examples=300, deadline=None)
def test_without_fields_it_is_what_rewrite_html_makes(html: str, ceiling: Mode, base: str) -> None:
    made = minter(ceiling, base=base)
    template = Template.compile(html)
    mail = template.personalise(made, {})
    assert rewritten(html, made) == (mail.html, +mail.untouched)
    assert (made.message_id, ceiling) == (mail.message_id, mail.ceiling)
    assert html == template.fill({})


@pytest.mark.parametrize("path", sorted(MAILS.glob("*.eml")), ids=lambda path: path.name)
def test_real_mails_too(path: Path) -> None:
    html = path.read_text("latin-1")
    made = minter()
    mail = Template.compile(html).personalise(made, {})
    assert rewritten(html, made) == (mail.html, +mail.untouched)


# --- with fields -----------------------------------------------------------------------------------------------------


class Piece(NamedTuple):
    """A piece of a template, and what it must become."""

    source: str
    filled: str


texts = st.text(max_size=12) | st.sampled_from(["", ".", "..", "%2e", "/"])
values = st.fixed_dictionaries(dict.fromkeys(FIELDS, texts))
spaces = st.sampled_from(["", " ", "\t "])
words = st.sampled_from(["Hello ", "<p>", " {{ other }} ", "*|FNAME|*", "&amp;", "<img alt='x'>"])
anchors = st.sampled_from(["<a href='", '<a class="x" href="', "<area HREF = '"])
sites = st.sampled_from(["https://shop.example/a/../", "HTTP://Shöp.example:81/", "//relative.example/"])
segments = st.sampled_from(["", "x/", "/ä b/", ".", "order-", "a;b="])


@st.composite
def templates(draw: st.DrawFn) -> tuple[str, str, dict[str, str]]:
    """A template, the same filled by hand, and the values."""
    given_values = draw(values)
    assume(not any(_unsubscribes(value) for value in given_values.values()))

    def literal(strategy: st.SearchStrategy[str]) -> Piece:
        return Piece(*[draw(strategy)] * 2)

    def field(*, in_url: bool) -> Piece:
        name, space = draw(st.sampled_from(FIELDS)), draw(spaces)
        written = quote(given_values[name], safe="") if in_url else escape(given_values[name])
        return Piece("{{" + space + name + space + "}}", written)

    pieces: list[Piece] = []
    for _ in range(draw(st.integers(0, 4))):
        for _ in range(draw(st.integers(0, 3))):
            pieces += [field(in_url=False), literal(words)]
        opening = literal(anchors)
        pieces += [opening, literal(sites)]
        for _ in range(draw(st.integers(0, 3))):
            pieces += [literal(segments), field(in_url=True), literal(st.sampled_from(["", "/"]))]
        if draw(st.booleans()):
            pieces += [Piece("?q=", "?q="), field(in_url=True), Piece("&amp;u=ü#", "&amp;u=ü#"), field(in_url=True)]
        closing = opening.source[-1] + ">See "
        pieces += [Piece(closing, closing), field(in_url=False), Piece("</a>", "</a>")]
    return "".join(piece.source for piece in pieces), "".join(piece.filled for piece in pieces), given_values


@given(templates(), st.sampled_from([Mode.PERSON_BASED, Mode.ANONYMIZED]))
@settings(max_examples=300, deadline=None)
def test_it_is_what_rewrite_html_makes_of_the_filled_template(
    example: tuple[str, str, dict[str, str]], ceiling: Mode
) -> None:
    source, filled, given_values = example
    template = Template.compile(source, FIELDS)
    assert filled == template.fill(given_values)
    made = minter(ceiling)
    mail = template.personalise(made, given_values)
    assert rewritten(filled, made) == (mail.html, +mail.untouched)


@given(templates())
@settings(max_examples=200, deadline=None)
def test_with_the_tracked_urls_put_back_it_is_the_filled_template(example: tuple[str, str, dict[str, str]]) -> None:
    source, filled, given_values = example
    mail = Template.compile(source, FIELDS).personalise(minter(), given_values)
    tags = [tag for tag in tokenize(filled) if isinstance(tag, Tag) and tag.name in ("a", "area") and not tag.closing]
    hrefs = [filled[at.value_start : at.value_end] for tag in tags if (at := tag.attribute("href"))]
    hrefs = [href for href in hrefs if not href.startswith("//")]  # relative, so not tracked
    assert len(hrefs) == len(CLICK.findall(mail.html))
    waiting = iter(hrefs)
    without_pixel = PIXEL.sub("", mail.html)
    assert filled == CLICK.sub(lambda _: next(waiting), without_pixel)
    assert [normalise(href.replace("&amp;", "&")) for href in hrefs] == [token.destination for token in opened(mail)]


def test_values_are_escaped_in_texts_and_encoded_in_urls() -> None:
    html = '<p title="{{ name }}">{{name}}</p><a href="https://shop.example/{{ id }}?n={{ name }}#{{ id }}">x</a>'
    given_values = {"name": '"A" & <b>\'s', "id": "../a b/ö?#%"}
    written = "&quot;A&quot; &amp; &lt;b&gt;&#x27;s"
    mail = Template.compile(html, given_values).personalise(minter(), given_values)
    assert mail.html.startswith(f'<p title="{written}">{written}</p><a href="{BASE}/c/')
    encoded = "..%2Fa%20b%2F%C3%B6%3F%23%25"
    expected = f"https://shop.example/{encoded}?n=%22A%22%20%26%20%3Cb%3E%27s#{encoded}"
    assert [expected] == [token.destination for token in opened(mail)]


def test_other_placeholders_stay_and_their_links_are_not_tracked() -> None:
    html = (
        "{{ other }} ${x} *|FNAME|* {{name|upper}} {% if a %}"
        '<a href="https://a.example/{{ other }}?n={{ name }}">1</a><a href="https://a.example/?u=*|UID|*">2</a>'
    )
    mail = Template.compile(html, ["name"]).personalise(minter(), {"name": "ö{{ other }}"})
    assert html.replace("{{ name }}", "%C3%B6%7B%7B%20other%20%7D%7D") == PIXEL.sub("", mail.html)
    assert {"placeholder": 2} == +mail.untouched


@pytest.mark.parametrize(
    ("href", "filled"),
    [
        ("{{ url }}", "https://x.example/?a=1&amp;b"),
        ("{{ url }}/{{ id }}", "https://x.example/?a=1&amp;b/%2F"),
        ("{{ id }}://shop.example/", "/://shop.example/"),
        ("https{{ id }}://shop.example/", "https/://shop.example/"),
        ("https://{{ id }}.example/{{ id }}", "https://%2F.example/%2F"),
        ("//{{ id }}/", "//%2F/"),
        ("https:{{ id }}", "https:%2F"),
        ("https://shop.example{{ id }}", "https://shop.example%2F"),
        ("https://shop.example:{{ id }}/", "https://shop.example:%2F/"),
        ("https://{{ id }}@shop.example/", "https://%2F@shop.example/"),
        ("https://shop.{{ id }}/", "https://shop.%2F/"),
        ("https://ä{{ id }}.example/", "https://ä%2F.example/"),
        ("https://shop.example/{{ id }}/../", "https://shop.example/%2F/../"),
        ("\thttps://&#x73;hop{{ id }}.example", "\thttps://&#x73;hop%2F.example"),
    ],
)
def test_a_link_whose_host_is_a_value_is_not_tracked_and_counted(href: str, filled: str) -> None:
    template = Template.compile(f'<a href="{href}">x</a>', ["url", "id"])
    mail = template.personalise(minter(), {"url": "https://x.example/?a=1&b", "id": "/"})
    assert f'<a href="{filled}">x</a>' == PIXEL.sub("", mail.html)
    expected = "relative" if href.startswith("//") and "{{" not in href[2:] else "field_in_host"
    assert {expected: 1} == +mail.untouched


def test_what_is_relative_to_a_base_with_a_field_is_not_tracked() -> None:
    html = '<base href="https://shop.example/{{ id }}/"><a href="sale">x</a><a href="https://a.example/{{ id }}">y</a>'
    template = Template.compile(html, ["id"])
    assert {"relative": 1} == template.untouched
    assert 1 == len(opened(template.personalise(minter(), {"id": "1"})))
    base = '<base href="https://shop.example/"><a href="sale/{{ id }}">x</a><a href="/{{ id }}">y</a>'
    assert ["https://shop.example/sale/a%2Fb", "https://shop.example/a%2Fb"] == destinations(base, {"id": "a/b"})


def test_unsubscribe_anchors_and_opt_outs_are_left_with_their_fields_filled() -> None:
    html = (
        '<a href="https://shop.example/unsubscribe?u={{ id }}">1</a><a href="https://a.example/{{ id }}">Abmelden</a>'
        '<a href="#{{ id }}">2</a><a href="mailto:{{ id }}">3</a>'
        '<a data-no-track href="https://a.example/{{ id }}">4</a>'
    )
    mail = Template.compile(html, ["id"]).personalise(minter(), {"id": "a@b"})
    assert {"unsubscribe": 2, "anchor": 1, "scheme": 1, "opted_out": 1} == +mail.untouched
    assert html.replace("{{ id }}", "a%40b").replace(" data-no-track", "") == PIXEL.sub("", mail.html)


@pytest.mark.parametrize(
    "html",
    [
        "<a href={{ id }}>",
        "<a href=https://a.example/{{ id }}>",
        "<td {{ id }}>",
        "<t{{ id }}>",
        "Erika <{{ id }}>",
        "</{{ id }}",
        "<!{{ id }}",
        "<!-{{ id }}",
        "<b{{ id }}",
        "<!-- {{ id }}>",
        "<!-- -{{ id }}!>",
        "<!-- {{ id }}->",
        "<style></st{{ id }}></style>",
    ],
)
def test_a_field_that_could_make_a_tag_is_refused(html: str) -> None:
    with pytest.raises(SettingsError, match="'id' stands") as refused:
        Template.compile(html, ["id"])
    assert "id" == refused.value.field
    assert html == Template.compile(html).fill({})


places = st.sampled_from(
    [
        *("<p>{{ x }}</p>", "<p title='{{ x }}'>", "<b>{{ x }}{{ x }}", "a < {{ x }}", "-{{ x }}-", "&lt;{{ x }}&gt;"),
        *('<a href="{{ x }}">a</a>', '<a href="https://a.example/{{ x }}">', "<style>{{ x }}</style>"),
        *("<!-- {{ x }} -->", "<!--{{ x }}-->", "<!--[if mso]>{{ x }}<b><![endif]-->", "<![CDATA[ {{ x }} ]]>"),
        "<title>{{ x }}</title>",
    ]
)
hostile = st.lists(st.sampled_from([*"<>\"'=/!-&;? \n", "b", "--", "<img src=x>"])).map("".join)


@given(st.lists(places).map("".join), hostile)
@settings(max_examples=300, deadline=None)
def test_no_value_changes_which_tags_there_are(html: str, value: str) -> None:
    template = Template.compile(html, ["x"])

    def tags(filled: str) -> list[tuple[str, bool, list[str]]]:
        found = [token for token in tokenize(filled) if isinstance(token, Tag)]
        return [(tag.name, tag.closing, [attribute.name for attribute in tag.attributes]) for tag in found]

    assert tags(template.fill({"x": "x"})) == tags(template.fill({"x": value}))


# --- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_values", "field", "says"),
    [
        ({}, "id", "'id' has no value"),
        ({"id": "1"}, "name", "'name' has no value"),
        ({"id": "1", "name": "x", "more": "y"}, "more", "no field 'more'"),
        ({"id": 1, "name": "x"}, "id", "'id' takes a text, not int"),
        ({"id": "1", "name": None}, "name", "'name' takes a text, not NoneType"),
        ({"id": "1", "name": "\ud800"}, "name", "'name' is no Unicode text"),
    ],
)
def test_a_missing_or_wrong_value_is_named(given_values: dict[str, str], field: str, says: str) -> None:
    template = Template.compile('<a href="https://a.example/{{ name }}">{{ id }}</a>{{ name }}', ["id", "name"])
    for ask in (lambda: template.personalise(minter(), given_values), lambda: template.fill(given_values)):
        with pytest.raises(SettingsError, match=says) as refused:
            ask()
        assert field == refused.value.field


@pytest.mark.parametrize("name", ["", "a b", "1a", "{{", "ä"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="no name of a field"):
        Template.compile("", [name])


def test_a_template_with_tokens_of_ours_is_refused_but_not_with_others() -> None:
    made = minter()
    for html in (
        f'<a href="{made.mint_unregistered("https://a.example/", 1)}">x</a>',
        f'<img src="{made.pixel_url()}">',
    ):
        template = Template.compile(html)
        with pytest.raises(MailRefused, match="compile the original"):
            template.personalise(minter(), {})
        template.refuse_tracked(KeyRing({}))


def test_a_key_that_does_not_mint_is_named() -> None:
    with pytest.raises(NotFound, match="no minting key"):
        Template.compile("").personalise(Minter(KeyRing({}), minter().message, BASE), {})


# --- numbers and ceilings --------------------------------------------------------------------------------------------

ORDER = (
    '<a href="https://shop.example/orders/{{ id }}/?t={{ code }}">Order {{ id }} of {{ name }}</a>'
    '<a href="https://shop.example/sale">Sale</a><a href="https://shop.example/sale">Again</a>'
)


def test_links_are_described_without_values() -> None:
    template = Template.compile(ORDER, FIELDS)
    assert [
        (("https://shop.example/orders/{value}/?t", 1), "Order {value} of {value}"),
        (("https://shop.example/sale", 1), "Sale"),
        (("https://shop.example/sale", 2), "Again"),
    ] == [(link.entry, link.label) for link in template.links]
    again = Template.compile(ORDER, FIELDS).describe(Fingerprints(bytes(32), 6))
    assert again == template.describe(Fingerprints(bytes(32), 6))


def test_fields_are_described_as_values_that_look_personal_are() -> None:
    """So that a mail that went through `prepare` has the same numbers."""
    template = Template.compile(ORDER, FIELDS)
    filled = template.fill({"name": "x", "id": "4711223344", "code": "y"})
    found: list[Link] = []
    rewrite_html(filled, found.append, None)
    assert [link.entry[0] for link in template.links] == [pattern_of(link.destination) for link in found]


def test_numbers_are_the_places_until_there_are_others() -> None:
    template = Template.compile(ORDER, FIELDS)
    mail = template.personalise(minter(), VALUES)
    assert [(1, False), (2, False), (3, False)] == [(token.link, token.registered) for token in opened(mail)]
    mail = template.numbered([700, 2, 9]).personalise(minter(), VALUES)
    assert [(700, True), (2, True), (9, True)] == [(token.link, token.registered) for token in opened(mail)]
    assert "https://shop.example/orders/4711/?t=a%2Fb%3Fc" == opened(mail)[0].destination


def test_all_tokens_of_a_mail_are_its_message() -> None:
    made = minter(recipient="erika")
    mail = Template.compile(ORDER, FIELDS).personalise(made, VALUES)
    assert {made.message} == {token.message for token in opened(mail)}
    (pixel,) = PIXEL.findall(mail.html)
    assert made.message == RING.open(pixel, Kind.OPEN).message
    assert made.message == RING.open(mail.message_id, Kind.MESSAGE).message


def test_under_aggregate_links_with_fields_or_values_stay_untracked_and_are_counted() -> None:
    template = Template.compile(ORDER + '<a href="https://shop.example/?a=1">x</a>', FIELDS)
    mail = template.personalise(minter(Mode.AGGREGATE), VALUES)
    assert {"personalised": 2} == +mail.untouched
    assert ["https://shop.example/sale"] * 2 == [token.destination for token in opened(mail)]
    assert 'href="https://shop.example/orders/4711/?t=a%2Fb%3Fc"' in mail.html
    other = template.personalise(minter(Mode.AGGREGATE, "other"), VALUES)
    assert mail == other


def test_a_link_that_is_too_long_with_its_values_stays_untracked_in_that_mail() -> None:
    template = Template.compile(ORDER, FIELDS)
    mail = template.personalise(minter(), VALUES | {"code": "x" * 6_000})
    assert {"too_long": 1} == +mail.untouched
    assert [2, 3] == [token.link for token in opened(mail)]
    assert f'href="https://shop.example/orders/4711/?t={"x" * 6_000}"' in mail.html
    assert 3 == len(opened(template.personalise(minter(), VALUES)))


@pytest.mark.parametrize("ceiling", [Mode.PERSON_BASED, Mode.AGGREGATE])
def test_a_mailings_parameters_are_sealed_as_for_any_mail(ceiling: Mode) -> None:
    html = (
        '<a href="https://a.example/{{ code }}?size=42#top">a</a> <a href="https://a.example/?utm_source=own">b</a>'
        '<a href="https://a.example/?for={{ name }}">c</a> <a href="https://a.example/sale">d</a>'
    )
    parameters = "utm_source=news&utm_medium=email"
    template = Template.compile(html, FIELDS[::2])
    values = {"code": "a/b?c", "name": "x&y"}
    for made, plain in zip(
        opened(template.with_parameters(parameters).personalise(minter(ceiling), values)),
        opened(template.personalise(minter(ceiling), values)),
        strict=True,
    ):
        assert with_parameters(plain.destination, parameters) == made.destination
        assert (plain.link, plain.registered) == (made.link, made.registered)
    renewed = template.with_parameters(parameters)
    assert [link.entry for link in template.links] == [link.entry for link in renewed.links]
    assert template.personalise(minter(), values).html != renewed.personalise(minter(), values).html


def test_parameters_come_behind_a_value_that_steps_up() -> None:
    template = Template.compile('<a href="https://a.example/a/{{ code }}">x</a>', ["code"]).with_parameters("a=1")
    assert ["https://a.example/?a=1"] == [
        token.destination for token in opened(template.personalise(minter(), {"code": ".."}))
    ]
