"""Overrides: patterns are checked before they count, and what fills them can neither break a URL nor move its host."""

from urllib.parse import quote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import DestinationRefused
from app.tracking.overrides import check_override, corrected

ORIGINAL = "https://old.example/a?cid=47%2011&name=M%C3%BCller+%26+Co&empty=&cid=second&latin=%E4#cid=fragment"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("https://new.example/b?x=1#y", "https://new.example/b?x=1#y"),
        ("HTTPS://New.Example", "https://new.example/"),
        ("https://new.example/größe", "https://new.example/gr%C3%B6%C3%9Fe"),
        ("https://new.example/?c={cid}", "https://new.example/?c=47%2011"),
        ("https://new.example/{name}/", "https://new.example/M%C3%BCller%20%26%20Co/"),
        ("https://new.example/{cid}/{name}#{cid}", "https://new.example/47%2011/M%C3%BCller%20%26%20Co#47%2011"),
        ("https://new.example/{cid}{cid}", "https://new.example/47%201147%2011"),
        ("https://new.example/?a={empty}&b={missing}&c=1", "https://new.example/?a=&b=&c=1"),
        ("https://new.example/?l={latin}", "https://new.example/?l=%E4"),
        ("http://new.example:8080?c={cid}", "http://new.example:8080/?c=47%2011"),
    ],
)
def test_where_a_corrected_link_goes(pattern: str, expected: str) -> None:
    check_override(pattern)
    assert expected == corrected(pattern, ORIGINAL)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("javascript:alert(1)", "scheme"),
        ("{scheme}://new.example/", "scheme"),
        ("new.example/x", "relative"),
        ("{cid}", "relative"),
        ("https:///", "no_host"),
        ("https://{host}/", "invalid"),
        ("https://new.{host}/", "invalid"),
        ("https://{user}@new.example/", "invalid"),
        ("https://new.example:{port}/", "invalid"),
        ("https://new.example{tld}", "invalid"),
        ("https://new.example\\@{host}", None),
        ("https://new.example/{", "invalid"),
        ("https://new.example/}{", "invalid"),
        ("https://new.example/{}", "invalid"),
        ("https://new.example/{a b}", "invalid"),
        ("https://new.example/{cid}/../b", "invalid"),
        ("https://new.example/mailtrailplaceholder/{cid}", "invalid"),
        ("https://new.example/" + "a" * 10_000, "too_long"),
    ],
)
def test_what_cannot_replace_a_destination(pattern: str, reason: str | None) -> None:
    if reason is None:  # a backslash is a slash to browsers: the placeholder stands in the path
        assert urlsplit(corrected(pattern, "https://o.example/?host=evil.example")).hostname == "new.example"
        return
    with pytest.raises(DestinationRefused) as refused:
        check_override(pattern)
    assert reason == refused.value.reason


@given(st.text(), st.sampled_from(["/{cid}", "/a/{cid}/b", "/?c={cid}&d=1", "/#{cid}", "/{cid}?{cid}#{cid}"]))
def test_no_parameter_changes_more_than_its_place(value: str, tail: str) -> None:
    value = value.encode("utf-8", "replace").decode()
    kept = "" if value in (".", "..") else value  # they would climb out of their place
    made = corrected("https://new.example" + tail, "https://old.example/?cid=" + quote(value, safe=""))
    assert made == "https://new.example" + tail.replace("{cid}", quote(kept, safe=""))
    assert made.isascii()
    assert made.isprintable()
    assert " " not in made


@pytest.mark.parametrize("value", [".", "..", "%2e", "%2E%2e"])
def test_a_parameter_does_not_climb_the_path(value: str) -> None:
    assert "https://new.example/x//y" == corrected("https://new.example/x/{p}/y", f"https://old.example/?p={value}")


@given(st.text())
def test_a_check_refuses_or_the_result_can_be_sent(pattern: str) -> None:
    for candidate in (pattern, "https://new.example/" + pattern):
        try:
            check_override(candidate)
        except DestinationRefused:
            continue
        made = corrected(candidate, ORIGINAL)
        assert made.isascii()
        assert made.isprintable()
        assert " " not in made
