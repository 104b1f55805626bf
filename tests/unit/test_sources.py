"""Mails and HTML documents as bytes: told apart, read in their charset, and given back to the byte."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import MailRefused
from app.sending.mime import RewrittenMail
from app.sending.sources import Document, Mail, Source, read_source

TRACKED = "https://t.example/c/AAAA"
PIXEL = "https://t.example/o/BBBB.gif"


def rewritten(source: Source, url: str | None, pixel_url: str | None = None) -> RewrittenMail:
    reading = source.read()
    return reading.put_in([url] * len(reading.links), pixel_url)


@pytest.mark.parametrize(
    ("raw", "form"),
    [
        (b"Subject: x\r\n\r\nHello", Mail),
        (b"X-Any : x\n\n", Mail),
        (b"From clara Mon Nov 23\nSubject: x\n\n", Mail),
        (b"<!doctype html><p>", Document),
        (b"\n\n  <p>Hello", Document),
        (b"\xef\xbb\xbf<p>Hello", Document),
        ("\ufeff<p>Hello".encode("utf-16-le"), Document),
    ],
)
def test_a_mail_starts_with_a_field_and_html_with_a_tag(raw: bytes, form: type) -> None:
    assert type(read_source(raw)) is form


@pytest.mark.parametrize("raw", [b"Hello Clara,\n\nhttps://a.example", b"{% if x %}<p>", b"\n\nSubject: x\n\n"])
def test_what_starts_like_neither_needs_a_word(raw: bytes) -> None:
    with pytest.raises(MailRefused, match="--eml or --html"):
        read_source(raw)
    assert isinstance(read_source(raw, "html"), Document)
    assert isinstance(read_source(raw, "mail"), Mail)


@pytest.mark.parametrize("form", [None, "mail", "html"])
@pytest.mark.parametrize("raw", [b"", b"  \r\n\n"])
def test_nothing_is_refused(raw: bytes, form: str | None) -> None:
    with pytest.raises(MailRefused, match="empty"):
        read_source(raw, form)


@pytest.mark.parametrize("raw", [b"\xff\xfeA", b"\xfe\xff\xd8\x00"])
def test_a_document_that_is_not_what_its_mark_says_is_refused(raw: bytes) -> None:
    with pytest.raises(MailRefused, match="utf-16"):
        Document(raw)


def _is_unmarked(raw: bytes) -> bool:
    return bool(raw.strip()) and not raw.startswith((b"\xff\xfe", b"\xfe\xff"))


@given(st.binary(min_size=1).filter(_is_unmarked), st.sampled_from([b"", b"\xef\xbb\xbf", b'<meta charset="latin1">']))
def test_a_document_of_which_nothing_is_tracked_is_the_same_to_the_byte(raw: bytes, start: bytes) -> None:
    source = Document(start + raw)
    assert start + raw == rewritten(source, None).raw


@pytest.mark.parametrize(
    ("raw", "destination"),
    [
        ('<p>ä</p><a href="https://a.example/?q=ä">x</a>'.encode(), "https://a.example/?q=%C3%A4"),
        ('<p>ä</p><a href="https://a.example/?q=ä">x</a>'.encode("cp1252"), "https://a.example/?q=%E4"),
        (
            '<meta charset=iso-8859-2><a href="https://a.example/?q=ł">x</a>'.encode("iso-8859-2"),
            "https://a.example/?q=%B3",
        ),
        (
            b'<meta http-equiv="Content-Type" content="text/html; charset=utf-16"><a href="https://a.example/">x</a>',
            "https://a.example/",
        ),
        ('\ufeff<a href="https://a.example/?q=ä">x</a>'.encode("utf-16-be"), "https://a.example/?q=%C3%A4"),
        (
            "<!-- <meta charset=koi8-r> --><meta charset='cp1251'><a href='https://a.example/ё?q=ё'>".encode("cp1251"),
            "https://a.example/%D1%91?q=%B8",
        ),
        (
            '<?xml version="1.0" encoding="iso-8859-2"?><a href="https://a.example/?q=ł">'.encode("iso-8859-2"),
            "https://a.example/?q=%B3",
        ),
        (
            '\ufeff<meta charset="windows-1251"><a href="https://a.example/?q=ё">'.encode(),
            "https://a.example/?q=%D1%91",
        ),
    ],
)
def test_a_document_is_read_and_written_in_its_charset(raw: bytes, destination: str) -> None:
    assert [destination] == [link.destination for link in Document(raw).read().links]
    done = rewritten(Document(raw), TRACKED, PIXEL)
    assert rewritten(Document(done.raw), None).raw == done.raw
    assert TRACKED.encode() in done.raw.replace(b"\0", b"")
    assert 1 == done.tracked


def test_bytes_that_are_not_what_the_charset_says_are_refused() -> None:
    with pytest.raises(MailRefused, match="big5hkscs"):
        Document(b'<meta charset="big5">\xa2\xcc')


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("8bit", f'<img src="{PIXEL}">'.encode()),
        ("quoted-printable", b'<img src=3D"https://t.exa=\nmple/o/BB=\nBB.gif">'),
        ("base64", base64.encodebytes(f'<img src="{PIXEL}">'.encode())),
    ],
)
def test_the_html_of_a_mail_is_decoded(encoding: str, body: bytes) -> None:
    header = f"Content-Type: text/html\nContent-Transfer-Encoding: {encoding}\n\n".encode()
    (html,) = Mail(header + body).read().html
    assert f'<img src="{PIXEL}">'.encode() in html


def test_plain_text_of_a_mail_is_no_html_and_can_be_left_alone() -> None:
    raw = b"Content-Type: text/plain\n\nhttps://a.example/\n"
    assert () == Mail(raw).read().html
    assert raw == rewritten(Mail(raw, text_parts=False), TRACKED, PIXEL).raw
    assert TRACKED.encode() in rewritten(Mail(raw), TRACKED, PIXEL).raw
