"""Patterns tell links apart and never say whose they are; a mail's links keep their numbers."""

import base64
import hashlib
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.tracking.destinations import normalise
from app.tracking.links import MAX_PATTERN_LENGTH, host_of, number_occurrences, pattern_of, patterns_of

many_examples = settings(max_examples=400, deadline=None)


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        ("https://shop.example/jackets/winter", "https://shop.example/jackets/winter"),
        ("https://shop.example:8443/a?utm_source=nl&size=38&flag", "https://shop.example:8443/a?utm_source&size&flag"),
        ("https://user:secret@shop.example/a#fragment", "https://shop.example/a"),
        ("https://shop.example/iphone15/2026/10-tips", "https://shop.example/iphone15/2026/10-tips"),
        ("https://shop.example/order/4711223/view", "https://shop.example/order/{value}/view"),
        ("https://shop.example/u/6f1c2d4e-0b1a-4c3d-9e8f-112233445566", "https://shop.example/u/{value}"),
        ("https://shop.example/u/clara.weiss%40example.org/", "https://shop.example/u/{value}/"),
        ("https://shop.example/a;jsessionid=1F?x", "https://shop.example/a;jsessionid={value}?x"),
        ("https://shop.example/?clara@example.org", "https://shop.example/?{value}"),
        ("https://shop.example/?a%3Db%26c", "https://shop.example/?{value}"),
        ("https://4711223.shop.example/", "https://{value}.shop.example/"),
        ("https://[::1]/x", "https://[::1]/x"),
        ("shop:cart/x", "shop:cart/x"),
        ("not a url", "{value}"),
    ],
)
def test_patterns(destination: str, expected: str) -> None:
    assert expected == pattern_of(destination)


def test_a_recipients_name_goes_however_its_space_is_written() -> None:
    for name in ("clara+weiss", "Clara%20Weiss", "clara%2520weiss", "clara%2Bweiss"):
        assert pattern_of(f"https://shop.example/u/{name}/x?{name}", "Clara Weiss") == (
            "https://shop.example/u/{value}/x?{value}"
        )


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        ("https://shop.example/c/4711/x", "https://shop.example/c/{value}/x"),
        ("https://shop.example/c/id-7/x7y/27", "https://shop.example/c/id-7/x7y/27"),
    ],
)
def test_a_recipients_number_goes_and_another_stays(destination: str, expected: str) -> None:
    assert expected == pattern_of(destination, "4711")


def _hex(name: str) -> Callable[[str], str]:
    return lambda text: hashlib.new(name, text.encode()).hexdigest()


FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "upper": str.upper,
    "quoted": lambda text: quote(text, safe=""),
    "quoted twice": lambda text: quote(quote(text, safe=""), safe=""),
    "hex": lambda text: text.encode().hex(),
    "base64": lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
    "md5": _hex("md5"),
    "sha1": _hex("sha1"),
    "sha256": _hex("sha256"),
}
PLACES = [
    "https://shop.example/{}",
    "https://shop.example/view-{}-all/x",
    "https://shop.example/a;u={}",
    "https://shop.example/?u={}",
    "https://shop.example/?{}",
    "https://shop.example/?{}=1",
    "https://{}@shop.example/",
    "https://shop.example/#{}",
]
recipients = (
    st.emails()
    | st.from_regex(r"[A-Z]{1,3}-?[0-9]{4,9}", fullmatch=True)
    | st.from_regex(r"[1-9][0-9]{3,8}", fullmatch=True)
)


@many_examples
@given(recipients, st.sampled_from(sorted(FORMS)), st.sampled_from(PLACES))
def test_no_form_of_the_recipient_is_in_the_pattern(recipient: str, form: str, place: str) -> None:
    planted = FORMS[form](recipient)
    pattern = pattern_of(
        normalise(place.format(planted if form.startswith("quoted") else quote(planted, safe="@"))), recipient
    )
    assert planted.casefold() not in pattern.casefold()
    assert recipient.casefold() not in pattern.casefold()


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=6, max_size=60))
def test_no_value_userinfo_or_fragment_is_in_the_pattern(value: str) -> None:
    planted = "Zq" + quote(value, safe="")
    pattern = pattern_of(normalise(f"https://{planted}@shop.example/a/b?name={planted}&x={planted}#{planted}"))
    assert pattern == "https://shop.example/a/b?name&x"


@many_examples
@given(st.text(max_size=80), st.none() | st.text(max_size=12))
def test_patterns_of_anything_are_short_ascii(text: str, recipient: str | None) -> None:
    destination = normalise("https://shop.example/" + text)
    pattern = pattern_of(destination, recipient)
    assert pattern.isascii()
    assert pattern.isprintable()
    assert " " not in pattern


@pytest.mark.parametrize("recipient", ["erika", "42"])
def test_of_all_links_of_a_mail_only_those_that_name_the_recipient_lose_a_word(recipient: str) -> None:
    urls = ["https://a.example/sale", f"https://a.example/{recipient}/sale", "https://b.example/sale/421ab"]
    expected = ["https://a.example/sale", "https://a.example/{value}/sale", "https://b.example/sale/421ab"]
    assert expected == patterns_of(urls, recipient)
    assert expected == [pattern_of(url, recipient) for url in urls]
    assert urls == patterns_of(urls)


def test_long_patterns_are_cut() -> None:
    pattern = pattern_of("https://shop.example/" + "word/" * 1_000)
    assert len(pattern) == MAX_PATTERN_LENGTH
    assert pattern.endswith("{value}")


def test_links_are_counted_by_pattern_in_document_order() -> None:
    assert number_occurrences("abaa") == [("a", 1), ("b", 1), ("a", 2), ("a", 3)]


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        ("https://shop.example/jackets?size=38", "https://shop.example"),
        ("http://www.shop.example:8080/jackets", "http://www.shop.example:8080"),
        ("https://otto.shop.example/", "https://{value}.shop.example"),
        ("https://otto.the-great.shop.example/", "https://{value}.shop.example"),
        ("https://localhost/otto", "https://localhost"),
        ("https://[::1]/otto", "https://[::1]"),
        ("shop:otto", "shop:"),
        ("shop://otto?x", "shop:"),
        ("not a url", "{value}"),
    ],
)
def test_of_a_hidden_link_no_more_than_its_host_is_said(destination: str, expected: str) -> None:
    assert expected == host_of(pattern_of(destination))


@given(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=8, max_size=30))
def test_no_word_of_path_parameters_or_subdomain_is_in_the_host(word: str) -> None:
    planted = "zq" + word.lower()
    assert planted not in host_of(pattern_of(normalise(f"https://{planted}.shop.example/{planted}/x?{planted}=1")))
