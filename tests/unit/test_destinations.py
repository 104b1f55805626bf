"""Destinations: what browsers request for what stands in a link, or a typed reason why nothing can be."""

import re
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import DestinationRefused
from app.tracking.destinations import MAX_LENGTH, NEVER_SCHEMES, normalise, web_codec, with_parameters

many_examples = settings(max_examples=500, deadline=None)
WEB_PIECES = "http://,HTTPS:,//,/,\\,?,#,@,:,a.example,ü,%,%41,..,.,[::1],1.2,xn--,javascript:,shop:,&,=,{x},|,^"
ODD_PIECES = " ,\t,\x00,',\",<,\ud800,…,\u3002"
pieces = st.sampled_from(WEB_PIECES.split(",") + ODD_PIECES.split(","))
urls = st.lists(pieces, max_size=12).map("".join) | st.text(max_size=40)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://a.example", "https://a.example/"),
        (" \n https://a.exa\r\n\tmple/x y ", "https://a.example/x%20y"),
        ("HTTPS://A.Example:443/a/../b/./c", "https://a.example/b/c"),
        ("http:\\\\a.example\\x", "http://a.example/x"),
        ("https:a.example/x", "https://a.example/x"),
        ("https://bücher.example/ü?ü#ü", "https://xn--bcher-kva.example/%C3%BC?%C3%BC#%C3%BC"),
        ("https://a.example/%c3%bc?a=%20+b", "https://a.example/%c3%bc?a=%20+b"),
        ("https://a.example/?a='b'&c=\"d\"", "https://a.example/?a=%27b%27&c=%22d%22"),
        ("https://user:p@a.example/", "https://user:p@a.example/"),
        ("https://0x7f.1/", "https://127.0.0.1/"),
        ("https://a.example/?\ud800", "https://a.example/?%EF%BF%BD"),
    ],
)
def test_what_a_browser_requests(url: str, expected: str) -> None:
    assert expected == normalise(url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("../x?y", "https://b.example/x?y"),
        ("/x", "https://b.example/x"),
        ("//c.example", "https://c.example/"),
        ("?q", "https://b.example/d/e?q"),
        ("http://c.example", "http://c.example/"),
    ],
)
def test_relative_to_a_base(url: str, expected: str) -> None:
    assert expected == normalise(url, base="https://b.example/d/e")


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", "?q=M%C3%BC%E2%82%AC"),
        ("iso-8859-1", "?q=M%FC%80"),  # to browsers this label means windows-1252
        ("koi8-r", "?q=M%26%23252%3B%26%238364%3B"),
        ("utf-16", "?q=M%C3%BC%E2%82%AC"),
        ("punycode", "?q=M%C3%BC%E2%82%AC"),
        ("no-such", "?q=M%C3%BC%E2%82%AC"),
    ],
)
def test_only_the_query_is_in_the_documents_encoding(encoding: str, expected: str) -> None:
    assert f"https://a.example/%C3%BC{expected}#%C3%BC" == normalise("https://a.example/ü?q=Mü€#ü", encoding=encoding)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("javascript:alert(1)", "scheme"),
        ("java\nscript:alert(1)", "scheme"),
        ("mailto:a@a.example", "scheme"),
        ("x/y", "relative"),
        ("//a.example/x", "relative"),
        ("", "relative"),
        ("https://", "no_host"),
        ("http:///?x", "no_host"),
        ("https://user@/", "no_host"),
        ("https://a.example:99999/", "invalid"),
        ("https://a b/", "invalid"),
        ("https://[::1/", "invalid"),
        ("https://a.example/" + "x" * MAX_LENGTH, "too_long"),
    ],
)
def test_what_is_refused(url: str, reason: str) -> None:
    with pytest.raises(DestinationRefused) as refused:
        normalise(url)
    assert reason == refused.value.reason


@pytest.mark.parametrize("scheme", sorted(NEVER_SCHEMES))
def test_no_setting_allows_a_scheme_that_runs_what_the_link_contains(scheme: str) -> None:
    with pytest.raises(DestinationRefused, match=scheme):
        normalise(f"{scheme}:x", app_schemes=frozenset({scheme}))


def test_app_schemes() -> None:
    assert normalise("Shop:cart/1 2?q=ü", app_schemes=frozenset({"shop"})) == "shop:cart/1%202?q=%C3%BC"


@many_examples
@given(urls, st.none() | urls, st.sampled_from(["utf-8", "windows-1252", "shift_jis"]))
def test_the_result_is_absolute_sendable_and_stays_itself(url: str, base: str | None, encoding: str) -> None:
    schemes = frozenset({"shop"})
    try:
        destination = normalise(url, base=base, encoding=encoding, app_schemes=schemes)
    except DestinationRefused as refused:
        reason = refused.reason
    else:
        reason = ""
        assert re.fullmatch(r"(https?://[^/?#]|shop:)[!-~]*", destination)
        assert destination == normalise(destination, base="https://other.example/", app_schemes=schemes)
    assert reason in {"", "scheme", "relative", "no_host", "invalid", "too_long"}


@pytest.mark.parametrize(
    ("label", "codec"),
    [
        ("UTF8", "utf-8"),
        (" Latin1 ", "cp1252"),
        ("us-ascii", "cp1252"),
        ("Windows-31J", "cp932"),
        ("gb2312", "gbk"),
        ("utf-16", "utf-16-le"),
        ("utf-7", None),
        ("punycode", None),
        ("rot13", None),
        ("x\x00y", None),
        ("ü", None),
        ("", None),
    ],
)
def test_charset_labels(label: str, codec: str | None) -> None:
    assert codec == web_codec(label)


@given(st.text(max_size=30))
def test_any_label_is_a_text_codec_or_none(label: str) -> None:
    codec = web_codec(label)
    assert codec is None or "a".encode(codec).strip(b"\x00") == b"a"


# --- parameters ------------------------------------------------------------------------------------------------------

UTM = "utm_source=news%20letter&utm_medium=email"


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        ("https://a.example/", f"https://a.example/?{UTM}"),
        ("https://a.example/?", f"https://a.example/?{UTM}"),
        ("https://a.example/x?a=1#top", f"https://a.example/x?a=1&{UTM}#top"),
        ("https://a.example/#/x?utm_source=1", f"https://a.example/?{UTM}#/x?utm_source=1"),
        ("https://a.example/?utm_source=own", "https://a.example/?utm_source=own&utm_medium=email"),
        ("https://a.example/?utm%5Fsource=&utm_medium", "https://a.example/?utm%5Fsource=&utm_medium"),
        ("https://a.example/?UTM_SOURCE=1", f"https://a.example/?UTM_SOURCE=1&{UTM}"),
        ("shop:product?id=1", "shop:product?id=1"),
    ],
)
def test_parameters_are_added_once(destination: str, expected: str) -> None:
    assert expected == with_parameters(destination, UTM)
    assert expected == with_parameters(expected, UTM)
    assert destination == with_parameters(destination, "")


@many_examples
@given(urls.map(lambda url: f"https://a.example/{url}"))
def test_what_gets_parameters_is_a_destination_still(url: str) -> None:
    try:
        destination = normalise(url)
    except DestinationRefused:
        return
    added = with_parameters(destination, UTM)
    assert added == normalise(added) == with_parameters(added, UTM)
    assert urlsplit(destination)._replace(query="") == urlsplit(added)._replace(query="")
    assert {"utm_source", "utm_medium"} <= dict(parse_qsl(urlsplit(added).query, keep_blank_values=True)).keys()
