"""The corpus of mails: what is found in each, and that nothing else changes."""

import re
from collections import Counter
from email import message_from_bytes
from email.message import Message

import pytest

from app.sending.html_links import pixel_tag
from app.sending.mime import RewrittenMail, rewrite_mail
from tests.corpus import EXPECTED, MAILS, NAMES, Tracker, decoded, leaves, raw_mail, text_of, without_opt_outs

PIXEL = "https://t.example/o/pixel"
TRACKED_URL = r"https://t\.example/c/\d{40}"
_SOFT_BREAK = re.compile(rb"=[ \t]*\r?\n")
_URL = r"[^<>]+?(?: \r?\n>[^<>]+?)?"
"""What stands where a tracked URL is put in: no end of a tag or attribute; in flowed text there are quote marks."""

every_mail = pytest.mark.parametrize("name", NAMES)
every_mail_edited_in_place = pytest.mark.parametrize("name", [name for name in NAMES if not EXPECTED[name].get("anew")])


def rewritten(raw: bytes) -> RewrittenMail:
    return rewrite_mail(raw, Tracker(), PIXEL)


def shape(raw: bytes) -> list[tuple[str, str | None, str | None]]:
    """The mail's parts with what stands around them."""
    return [(part.get_content_type(), part.preamble, part.epilogue) for part in message_from_bytes(raw).walk()]


def test_every_mail_is_in_the_table_and_git_keeps_its_bytes() -> None:
    assert NAMES == sorted(path.name for path in MAILS.glob("*.eml"))
    assert len(NAMES) >= 35
    assert "*.eml -text" in (MAILS.parents[1] / ".gitattributes").read_text().splitlines()
    assert {b"\r\n", b"\n"} == {line_end for name in NAMES for line_end in re.findall(rb"\r?\n", raw_mail(name))}


@every_mail
def test_what_is_found(name: str) -> None:
    expected, tracker = EXPECTED[name], Tracker()
    done = rewrite_mail(raw_mail(name), tracker, PIXEL)
    assert expected["links"] == [link.destination for link in tracker.links]
    assert expected["labels"] == [link.label for link in tracker.links]
    assert Counter(expected["untouched"]) == done.untouched
    assert len(expected["links"]) == done.tracked
    # The tracked URLs stand in the mail in the order in which they were given out, as its reader decodes it.
    text = "".join(text_of(part) for part in leaves(done.raw))
    assert [Tracker.url(number + 1) for number in range(done.tracked)] == re.findall(TRACKED_URL, text)
    assert expected["pixels"] == text.count(pixel_tag(PIXEL)) == done.pixel


@every_mail_edited_in_place
def test_without_the_tracked_urls_and_the_pixel_it_is_the_mail_byte_for_byte(name: str) -> None:
    assert is_only_replaced(without_opt_outs(name), rewritten(raw_mail(name)).raw)


def is_only_replaced(before: bytes, after: bytes) -> bool:
    """Whether other bytes than URLs and the pixel differ; the soft breaks of quoted-printable may be others around."""
    tag = pixel_tag(PIXEL).encode()
    before, after = (_SOFT_BREAK.sub(b"", raw) for raw in (before, after))
    after = after.replace(tag.replace(b"=", b"=3D"), b"").replace(tag, b"")
    kept = re.split(TRACKED_URL.encode(), after)
    return re.fullmatch(_URL.encode().join(map(re.escape, kept)), before) is not None


@every_mail
def test_every_part_is_the_same_but_for_its_urls_and_the_pixel(name: str) -> None:
    before, after = without_opt_outs(name), rewritten(raw_mail(name)).raw
    assert shape(before) == shape(after)
    changed = 0
    for part, done in zip(leaves(before), leaves(after), strict=True):
        kept = re.split(TRACKED_URL, text_of(done).replace(pixel_tag(PIXEL), ""))
        assert re.fullmatch(_URL.join(map(re.escape, kept)), text_of(part)), part["Content-Type"]
        anew = is_encoded_anew(part, done)
        assert headers_of(part, without_encoding=anew) == headers_of(done, without_encoding=anew)
        changed += anew
        if len(kept) == 1 and pixel_tag(PIXEL) not in text_of(done):
            assert part.get_payload() == done.get_payload()
            assert decoded(part) == decoded(done)
    assert bool(changed) is bool(EXPECTED[name].get("anew"))


def is_encoded_anew(part: Message, done: Message) -> bool:
    """Base64, and what became quoted-printable because a line got too long."""
    encodings = [str(each.get("Content-Transfer-Encoding", "7bit")).lower() for each in (part, done)]
    return part.get_payload() != done.get_payload() and (encodings[0] == "base64" or encodings[0] != encodings[1])


def headers_of(part: Message, *, without_encoding: bool) -> list[tuple[str, str]]:
    hidden = "content-transfer-encoding" if without_encoding else ""
    return [(field, str(value)) for field, value in part.items() if field.lower() != hidden]


@every_mail
def test_a_mail_of_which_nothing_is_tracked_stays(name: str) -> None:
    raw = without_opt_outs(name)
    done = rewrite_mail(raw, lambda link: None, None)
    assert raw == done.raw
    assert 0 == done.tracked


@every_mail
def test_opt_outs_do_not_reach_the_reader(name: str) -> None:
    before, after = raw_mail(name), rewrite_mail(raw_mail(name), lambda link: None, None).raw
    assert without_opt_outs(name) == after
    assert (before == after) is (not EXPECTED[name].get("taken_out"))


@every_mail
def test_no_line_gets_too_long(name: str) -> None:
    longest = [max(map(len, re.split(rb"\r?\n", raw))) for raw in (raw_mail(name), rewritten(raw_mail(name)).raw)]
    assert longest[1] <= max(longest[0], 998)
