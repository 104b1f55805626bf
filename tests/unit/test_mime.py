"""Mails: realistic ones by hand-made tables, any bytes by law. Only the edited bodies ever change."""

import base64
import quopri
import re
import time
from collections import Counter
from email import message_from_bytes
from email.message import Message
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import MailRefused
from app.sending.html_links import Link, pixel_tag, rewrite_html, rewrite_text
from app.sending.mime import RewrittenMail, rewrite_mail
from tests.corpus import NAMES, Tracker, decoded, leaves, raw_mail

PIXEL = "https://t.example/o/pixel"
PIXEL_TAG = pixel_tag(PIXEL).encode()
HTML = b"Content-Type: text/html; charset=utf-8\r\n\r\n"
many_examples = settings(max_examples=400, deadline=None)


def leave(link: Link) -> None:
    return None


def rewritten(raw: bytes, pixel_url: str | None = None, **options: Any) -> RewrittenMail:
    return rewrite_mail(raw, Tracker(), pixel_url, **options)


def mixed(*parts: bytes) -> bytes:
    return b"Content-Type: multipart/mixed; boundary=b\n\n--b\n" + b"\n--b\n".join(parts) + b"\n--b--\n"


# --- laws --------------------------------------------------------------------------------------------------------

HEADER_LINES = [
    b"Content-Type: multipart/mixed; boundary=b\n",
    b'Content-Type: multipart/related; boundary="b c"; start="<1>"\r\n',
    b"Content-Type: multipart/digest; boundary=d\n",
    b"Content-Type: message/rfc822\n",
    b"Content-Type: text/html\n",
    b"Content-Type: text/html; charset=iso-2022-jp\n",
    b"Content-Type: text/plain; charset=utf-16\n",
    b"Content-Type: text/plain; format=flowed; delsp=yes\r\n",
    b"Content-Transfer-Encoding: quoted-printable\r\n",
    b"Content-Transfer-Encoding: base64\n",
    b"Content-Disposition: attachment\n",
    b"Content-ID: <1>\n",
    b"List-Unsubscribe: <https://a.example/\n u>\n",
    *b"From x\n|: \n|no colon\n| folded\n|\n|\r\n|\n\n".split(b"|"),
]
DELIMITERS = b"--b\n|--b c\r\n|--b--\n|--d|--|=|=\r\n| \n|=3D|- "
MARKUP = b'<a href="https://a.example/?x&y">|<a href=|&amp|<!--|<!--[if mso]>|-->|</a>|</body>|<base href=//c>|>'
TEXTS = b"https://b.example/ |PGh0bWw+|\xff\xfe|\x1b$B|\x1b(B|\xc3\xbc|\x00|\r|> |-- \r\n|text"
fragments = st.sampled_from([*HEADER_LINES, *DELIMITERS.split(b"|"), *MARKUP.split(b"|"), *TEXTS.split(b"|")])
messy_mails = st.lists(fragments, max_size=40).map(b"".join) | st.binary(max_size=200)


@many_examples
@given(messy_mails)
def test_without_tracking_any_bytes_stay(raw: bytes) -> None:
    if raw.strip():
        mail = rewrite_mail(raw, leave, None)
        assert raw == mail.raw
        assert mail.tracked == 0


@many_examples
@given(messy_mails)
def test_tracking_any_bytes_raises_nothing_and_counts_what_it_does(raw: bytes) -> None:
    if raw.strip():
        tracker = Tracker()
        mail = rewrite_mail(raw, tracker, PIXEL)
        assert mail.tracked == len(tracker.links)
        assert mail.tracked or b"text/html" in raw or mail.raw == raw


def cut_short(raw: bytes, at: int) -> bytes:
    return raw[:at]


def without_line(raw: bytes, at: int) -> bytes:
    return raw[:at] + raw[at:].partition(b"\n")[2]


def with_blank_line(raw: bytes, at: int) -> bytes:
    before, line_end, after = raw[:at].rpartition(b"\n")
    return before + line_end * 2 + after + raw[at:]


def without_blank_line(raw: bytes, at: int) -> bytes:
    return re.sub(rb"\r?\n(?=\r?\n)", b"", raw[:at]) + raw[at:]


def with_cr_only(raw: bytes, at: int) -> bytes:
    return re.sub(rb"\r?\n", b"\r", raw)


def with_cr_in_header(raw: bytes, at: int) -> bytes:
    head, blank, body = re.split(rb"(\r?\n\r?\n|\Z)", raw, maxsplit=1)
    return re.sub(rb"\r?\n", b"\r", head + blank) + body


def with_another_boundary(raw: bytes, at: int) -> bytes:
    return re.sub(rb"(?i)boundary=", b"x=", raw, count=1)


def links_shown_to_the_standard_library(raw: bytes) -> int:
    found = 0
    for part in leaves(raw):
        if part.get_content_disposition() != "attachment" and not part.get_filename():
            text = decoded(part).decode("latin-1")
            if part.get_content_type() == "text/html":
                found += rewrite_html(text, leave, None).untouched["declined"]
            elif part.get_content_type() == "text/plain":
                found += rewrite_text(text, leave).untouched["declined"]
    return found


DAMAGES = [
    *(cut_short, without_line, with_blank_line, without_blank_line),
    *(with_cr_only, with_cr_in_header, with_another_boundary),
]
damages = st.lists(st.tuples(st.sampled_from(DAMAGES), st.integers(0, 5_000)), min_size=1, max_size=3)


@many_examples
@given(st.sampled_from(NAMES), damages)
def test_a_damaged_mail_with_links_is_tracked_or_says_why_not(name: str, damage: list[tuple[Any, int]]) -> None:
    raw = raw_mail(name)
    for damage_at, at in damage:
        raw = damage_at(raw, at)
    if raw.strip() and links_shown_to_the_standard_library(raw):
        mail = rewritten(raw)
        assert mail.tracked or mail.untouched


texts = st.text(st.sampled_from("ab =ü€.,-\n\t"), max_size=120)
charsets = st.sampled_from(["utf-8", "windows-1252", "iso-8859-15"])
encodings = st.sampled_from(["8bit", "quoted-printable", "base64", "binary"])
Template = list[str]


def html_of(template: Template, urls: list[str]) -> str:
    links = [f'<a href="{url}">' for url in urls]
    return "<body>" + "".join(text + link for text, link in zip(template, [*links, ""], strict=True))


def text_of(template: Template, urls: list[str]) -> str:
    return "".join(text + (f" <{url}> " if url else "") for text, url in zip(template, [*urls, ""], strict=True))


def encode(text: str, charset: str, encoding: str) -> bytes:
    data = text.encode(charset)
    return {"quoted-printable": quopri.encodestring, "base64": base64.encodebytes}.get(encoding, bytes)(data)


@many_examples
@given(st.lists(texts, min_size=1, max_size=5), charsets, encodings, charsets, encodings, st.booleans())
def test_the_reparsed_mail_has_the_tracked_urls_and_is_otherwise_equal(
    template: Template, charset: str, encoding: str, html_charset: str, html_encoding: str, crlf: bool
) -> None:
    originals = [f"https://shop.example/{'p' * 30}/{number}?q=1" for number in range(len(template) - 1)]
    tracked = [Tracker.url(number + 1) for number in range(2 * len(originals))]
    attachment = html_of(template, originals).encode("utf-8")
    raw = b"".join(
        [
            b"Subject: x\nMIME-Version: 1.0\nContent-Type: multipart/mixed;\n boundary=mix\n\npreamble https://p.example\n--mix\n",
            f"Content-Type: text/plain; charset={charset}\nContent-Transfer-Encoding:  {encoding}\n\n".encode(),
            encode(text_of(template, originals), charset, encoding),
            b"\n--mix  \nContent-Type: multipart/alternative; boundary=mix2\n\n--mix2\n",
            f"Content-transfer-encoding: {html_encoding}\nContent-Type: TEXT/HTML; charset={html_charset}\n\n".encode(),
            encode(html_of(template, originals), html_charset, html_encoding),
            b"\n--mix2--\nContent-Type: text/html\n\nhttps://e.example\n--mix\n",
            b"Content-Type: text/html\nContent-Disposition: ATTACHMENT\nContent-Transfer-Encoding: 8bit\n\n",
            attachment,
            b"\n--mix--\nepilogue https://e.example\n",
        ]
    )
    if crlf:
        raw = raw.replace(b"\n", b"\r\n")
    mail = rewrite_mail(raw, Tracker(), PIXEL)
    plain, html, attached = leaves(mail.raw)
    before_plain, before_html, before_attached = leaves(raw)
    middle = len(originals)
    assert mail.tracked == len(tracked)

    def text_in(part: Message, codec: str) -> str:
        return decoded(part).decode(codec).replace("\r\n", "\n")

    undone = text_in(plain, charset), text_in(html, html_charset).replace(pixel_tag(PIXEL), "", 1)
    for url, original in zip(tracked, originals * 2, strict=True):
        assert (undone[0] + undone[1]).count(url) == 1
        undone = undone[0].replace(url, original), undone[1].replace(url, original)
    assert (text_in(before_plain, charset), text_in(before_html, html_charset)) == undone
    assert re.findall(r"<(https:[^>]*)>", text_in(plain, charset)) == tracked[:middle]
    assert re.findall(r'href="([^"]*)"', text_in(html, html_charset)) == tracked[middle:]
    assert (before_attached.items(), decoded(before_attached)) == (attached.items(), decoded(attached))
    assert (
        raw[: raw.index(b"--mix\r\n" if crlf else b"--mix\n")]
        == mail.raw[: mail.raw.index(b"--mix\r\n" if crlf else b"--mix\n")]
    )
    tail = raw[raw.index(b"--mix2--") :]
    assert mail.raw.endswith(tail)


# --- examples ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [b"", b"\r\n\r\n", b" \n\t"])
def test_an_empty_mail_is_refused(raw: bytes) -> None:
    with pytest.raises(MailRefused, match="empty"):
        rewritten(raw)


def test_only_the_url_changes_and_odd_bytes_stay() -> None:
    head = b"From x\nSUBJECT :\t odd \nContent-Type:text/html;charset=UTF-8\n\n"
    raw = head + b"bad \xff \xc3\xbc<A Href = 'https://a.example/x' >\r\n"
    assert raw.replace(b"https://a.example/x", Tracker.url(1).encode()) == rewritten(raw).raw


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"DKIM-Signature: v=1; d=a.example\n", "dkim"),
        (b"dkim-signature: v=1\n", "dkim"),
        (b"Content-Type: multipart/signed; boundary=b; protocol=\"application/pgp-signature\"\n", "signed"),
        (b"Content-Type: multipart/encrypted; boundary=b\n", "encrypted"),
        (b"Content-Type: application/pkcs7-mime; smime-type=enveloped-data; name=smime.p7m\n", "encrypted"),
        (b"Content-Type: application/x-pkcs7-mime; smime-type=signed-data\n", "signed"),
    ],
)  # fmt: skip
def test_protected_mails_stay(header: bytes, reason: str) -> None:
    raw = header + b"\n--b\nContent-Type: text/html\n\n<a href=https://a.example>\n--b\n\nhttps://a.example\n--b--\n"
    tracker = Tracker()
    mail = rewrite_mail(raw, tracker, PIXEL)
    assert (raw, 0, Counter({reason: 1}), []) == (mail.raw, mail.tracked, mail.untouched, tracker.links)


@pytest.mark.parametrize(("words", "reason"), [(b"MESSAGE", "encrypted"), (b"SIGNED MESSAGE", "signed")])
@pytest.mark.parametrize("encode_body", [bytes, base64.encodebytes])
def test_inline_pgp_stays(words: bytes, reason: str, encode_body: Any) -> None:
    encoding = b"base64" if encode_body is base64.encodebytes else b"7bit"
    body = b"https://a.example\n-----BEGIN PGP " + words + b"-----\nhttps://a.example\n"
    raw = b"Content-Transfer-Encoding: " + encoding + b"\n\n" + encode_body(body)
    assert (raw, Counter({reason: 1})) == (rewritten(raw).raw, rewritten(raw).untouched)


def test_a_part_signed_within_a_mail_keeps_the_whole_mail() -> None:
    raw = b"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: multipart/signed; boundary=s\n\n--s\n\nhttps://a.example\n--s--\n--b\n\nhttps://list.example\n--b--"
    assert (raw, Counter(signed=1)) == (rewritten(raw).raw, rewritten(raw).untouched)


def test_one_pixel_in_the_last_shown_html() -> None:
    raw = b"""Content-Type: multipart/mixed; boundary=b

--b
Content-Type: text/html

first
--b
Content-Type: multipart/related; boundary=r

--r
Content-Type: text/html

<p>last</p></body>
--r
Content-Type: text/html
Content-ID: <frame@x>

a frame
--r--
--b
Content-Type: text/html; name="report.html"

a file
--b
Content-Type: text/html
Content-Disposition: attachment

attached
--b
Content-Type: text/html

--b
Content-Type: text/plain

text
--b--
"""
    assert raw.replace(b"</body>", PIXEL_TAG + b"</body>") == rewritten(raw, PIXEL).raw


def test_the_pixel_goes_where_it_can_if_the_last_html_is_undecodable() -> None:
    raw = mixed(b"Content-Type: text/html\n\nx", b"Content-Type: text/html\nContent-Transfer-Encoding: x-uue\n\ny")
    mail = rewritten(raw, PIXEL)
    assert raw.replace(b"x\n--b", b"x" + PIXEL_TAG + b"\n--b", 1) == mail.raw
    assert Counter(undecodable=1) == mail.untouched


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (b"Content-Transfer-Encoding: base64\n", b"YWJjZ"),
        (b"Content-Transfer-Encoding: x-uuencode\n", b"https://a.example"),
        (b"Content-Type: text/plain; charset=x-unknown\n", b"\xfc https://a.example"),
        (b"Content-Type: text/plain; charset=utf-16\n", b"odd"),
        (b"Content-Type: text/plain; charset=iso-2022-kr\n", b"\x1b$)C\x0e https://a.example"),
    ],
)
def test_what_cannot_be_decoded_stays(header: bytes, body: bytes) -> None:
    raw = header + b"\n" + body
    assert (raw, Counter(undecodable=1)) == (rewritten(raw).raw, rewritten(raw).untouched)


@pytest.mark.parametrize(
    "charset", ["utf-16-le", "utf-16-be", "iso2022_jp", "shift_jis", "gb18030", "big5", "euc_kr", "koi8-r"]
)
def test_any_charset_is_edited_in_itself(charset: str) -> None:
    label = charset.replace("iso2022_jp", "iso-2022-jp")
    word = {"koi8-r": "привет", "euc_kr": "한국"}.get(charset, "日本")
    text = f'{word}<a href="https://a.example/?q={word}">{word}</a>{word}'
    head = f"Content-Type: text/html; charset={label}\nContent-Transfer-Encoding: binary\n\n".encode()
    changed = f'{word}<a href="{Tracker.url(1)}">{word}</a>{word}'
    tracker = Tracker()
    assert head + changed.encode(charset) == rewrite_mail(head + text.encode(charset), tracker, None).raw
    assert word == tracker.links[0].label


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize(
    ("field", "changed"),
    [
        (b"Content-Transfer-Encoding:\t8bit ", b"Content-Transfer-Encoding: quoted-printable"),
        (b"content-transfer-encoding:", b"content-transfer-encoding: quoted-printable"),
        (b"X: y", b"X: y|Content-Transfer-Encoding: quoted-printable"),
    ],
)
def test_a_line_too_long_for_smtp_makes_the_part_quoted_printable(
    field: bytes, changed: bytes, line_end: bytes
) -> None:
    body = b"a" * 985 + b" http://a.b/"
    raw = line_end.join([b"Content-Type: text/plain; charset=utf-8", field, b"Z: z", b"", body, b"\xc3\xbc", b""])
    mail = rewritten(raw)
    head, _, changed_body = mail.raw.partition(line_end * 2)
    moved = changed.replace(b"|", line_end) if b"|" not in changed else field
    expected = [b"Content-Type: text/plain; charset=utf-8", moved, b"Z: z"]
    if b"|" in changed:
        expected.append(changed.split(b"|")[1])
    assert line_end.join(expected) == head
    assert max(map(len, changed_body.split(line_end))) <= 76
    new_text = line_end.join([b"a" * 985 + b" " + Tracker.url(1).encode(), b"\xc3\xbc", b""])
    assert new_text == decoded(message_from_bytes(mail.raw))


def test_a_long_line_may_stay_in_a_binary_part() -> None:
    raw = b"Content-Transfer-Encoding: binary\n\n" + b"a" * 2_000 + b" http://a.b/"
    assert raw.replace(b"http://a.b/", Tracker.url(1).encode()) == rewritten(raw).raw


def test_urls_split_over_flowed_lines_are_one_link() -> None:
    head = b"Content-Type: text/plain; Format=Flowed; DelSp=Yes\r\n\r\n"
    body = b"> see https://a.example/one/ \r\n> two/ \r\n>> three/ \r\n-- \r\nhttps://b.example/ \r\n x?y \r\n-- \r\n"
    tracker = Tracker()
    mail = rewrite_mail(head + body, tracker, None)
    assert [link.destination for link in tracker.links] == ["https://a.example/one/two/", "https://b.example/x?y"]
    first, second = Tracker.url(1).encode(), Tracker.url(2).encode()
    assert head + b"> see " + first + b" \r\n>> three/ \r\n-- \r\n" + second + b" \r\n-- \r\n" == mail.raw


def test_without_delsp_a_soft_break_ends_the_url() -> None:
    raw = b"Content-Type: text/plain; format=flowed\n\nhttps://a.example/one \ntwo\n"
    assert raw.replace(b"https://a.example/one", Tracker.url(1).encode()) == rewritten(raw).raw


def test_text_parts_can_be_left_alone() -> None:
    raw = mixed(b"\nhttps://a.example", b"Content-Type: text/html\n\n<a href=https://a.example>")
    mail = rewritten(raw, text_parts=False)
    assert raw.replace(b"href=https://a.example", b"href=" + Tracker.url(1).encode()) == mail.raw
    assert mail.tracked == 1


def test_unsubscribe_urls_stay_wherever_they_are() -> None:
    raw = (
        b"List-Unsubscribe: <mailto:u@a.example>, <https://A.example/\r\n\tleave?u=1>\r\n"
        + HTML
        + b'<a href="https://a.example/leave?u=1">x</a><a href="https://a.example/leave?u=2">y</a>'
    )
    mail = rewritten(raw)
    assert raw.replace(b"https://a.example/leave?u=2", Tracker.url(1).encode()) == mail.raw
    assert Counter(unsubscribe=1) == mail.untouched


def test_a_boundary_used_again_stays_the_outer_ones() -> None:
    head = b"Content-Type: multipart/mixed; boundary=%b\n\n--%b\n"
    text = b"\nhttps://a.example"
    assert rewritten(mixed(head % (b"b", b"b") + text, text)).tracked == 2
    assert rewritten(mixed(head % (b"c", b"c") + head % (b"c", b"c") + text, text)).tracked == 2


def test_an_encoded_mail_within_a_mail_stays() -> None:
    head = b"Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\n"
    raw = mixed(head + b"\nhttps://a.example", b"\nb")
    assert raw == rewritten(raw).raw


def test_the_only_text_of_a_mail_is_no_file_whatever_its_name() -> None:
    assert rewritten(b'Content-Type: text/plain; name="mail.txt"\n\nhttps://a.example').tracked == 1


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        (b"\x1b(Jhttps://a.example/\x1b(B", 0),  # another shift state than we would write
        ("https://a.example/α。".encode("iso-2022-jp"), 1),  # the URL ends between two shifted letters
    ],
)
def test_shift_states_are_not_torn(body: bytes, asked: int) -> None:
    raw = b"Content-Type: text/plain; charset=iso-2022-jp\n\n" + body
    tracker = Tracker()
    mail = rewrite_mail(raw, tracker, None)
    assert (raw, 0, Counter(undecodable=1), asked) == (mail.raw, mail.tracked, mail.untouched, len(tracker.links))


def test_an_attached_mail_stays_and_an_inline_one_does_not() -> None:
    inner = b"Subject: inner\n\nhttps://a.example\n"
    head = b"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: message/rfc822\n"
    attached = head + b"Content-Disposition: attachment\n\n" + inner + b"--b--\n"
    inline = head + b"\n" + inner + b"--b--\n"
    assert attached == rewritten(attached).raw
    assert inline.replace(b"https://a.example", Tracker.url(1).encode()) == rewritten(inline).raw


def test_app_schemes_are_tracked_on_demand() -> None:
    raw = HTML + b"<a href='shop:cart'>"
    assert Counter(scheme=1) == rewritten(raw).untouched
    assert rewritten(raw, app_schemes=frozenset({"shop"})).tracked == 1


@pytest.mark.parametrize(
    ("boundaries", "tracked"),
    [
        (b"--b \t\r\n", 1),  # spaces at the end belong to the delimiter
        (b"--bc\n", 0),  # another boundary: all is preamble
        (b" --b\n", 0),
        (b"--b--\n", 0),  # closed: all is epilogue
        (b"--b--\n--b\n", 0),
        (b"--b\n--b\n", 1),
        (b"--b\nContent-Type: multipart/mixed; boundary=b\n\n--b\n", 1),  # the same boundary again
        (b"--b\nContent-Type: multipart/digest; boundary=d\n\n--d\n\nContent-Type: a/b\n", 0),  # a mail untold
        (b"--b\nContent-Type: multipart/mixed; boundary=c:d\n\n--c:d\n--c:d--\n", 0),  # like a header field
    ],
)
def test_boundary_tricks(boundaries: bytes, tracked: int) -> None:
    raw = b"Content-Type: multipart/mixed; boundary=b\n\n" + boundaries + b"\nhttps://a.example\n"
    assert tracked == rewritten(raw).tracked


def test_an_outer_delimiter_ends_inner_parts() -> None:
    raw = b"Content-Type: multipart/mixed; boundary=o\n\n--o\nContent-Type: multipart/mixed; boundary=i\n\n--i\n\nhttps://a.example\n--o\n\nhttps://b.example\n--i\n\nhttps://c.example"
    tracker = Tracker()
    rewrite_mail(raw, tracker, None)
    assert [link.destination for link in tracker.links] == [
        "https://a.example/",
        "https://b.example/",
        "https://c.example/",
    ]


@pytest.mark.parametrize("header_end", [b"", b"Content-Transfer-Encoding: quoted-printable\n"])
@pytest.mark.parametrize(
    ("content_type", "start", "destination"),
    [
        (b"text/html", b"<meta charset='windows-1251'>", "https://ru.example/%D1%82?q=%F1"),
        (b'text/html; charset=""', b"<meta charset=windows-1251>", "https://ru.example/%D1%82?q=%F1"),
        (
            b'text/html; charset=" "',
            b"<meta content='text/html; charset=windows-1251' http-equiv=content-type>",
            "https://ru.example/%D1%82?q=%F1",
        ),
        (b"text/html; charset=koi8-r", b"<meta charset='windows-1251'>", "https://ru.example/%D0%A0?q=%F1"),
        (b"text/html", b"\xef\xbb\xbf<meta charset='windows-1251'>", "https://ru.example/%EF%BF%BD?q=%EF%BF%BD"),
        (b"text/html; charset=koi8-r", b"\xef\xbb\xbf", "https://ru.example/%EF%BF%BD?q=%EF%BF%BD"),
        (b"text/html", b"<!-- <meta charset='windows-1251'> -->", "https://ru.example/%C3%B2?q=%F1"),
        (b"text/plain", b"<meta charset='windows-1251'>", "https://ru.example/%C3%B2?q=%C3%B1"),
    ],
)
def test_html_without_a_charset_is_read_as_its_meta_says(
    content_type: bytes, start: bytes, destination: str, header_end: bytes
) -> None:
    body = start + b"<a href= https://ru.example/\xf2?q=\xf1 >"
    if header_end:
        body = quopri.encodestring(body)
    tracker = Tracker()
    raw = b"Content-Type: " + content_type + b"\n" + header_end + b"\n" + body
    mail = rewrite_mail(raw, tracker, None)
    assert [destination] == [link.destination for link in tracker.links]
    assert 1 == mail.tracked


@pytest.mark.parametrize(
    "parameters",
    [
        b'boundary*0="ab"; boundary*1="cd"',
        b"boundary*1=cd;\r\n\tBoundary*0=ab",
        b"boundary*=us-ascii''ab%63d",
        b"boundary*='en'%61bcd",
        b"boundary*0*=us-ascii'en'%61; boundary*1=b; boundary*2*=%63d",
        b"boundary*0=a; boundary*0=x; boundary*1=b; boundary*2=c; boundary*3=d",
        b"boundary=x; boundary*=us-ascii''abcd",
        b"x*0=y; boundary=abcd; boundary**=x",
        b"boundary*0=; " + b"; ".join(b"boundary*%d=%c" % (8 + at, letter) for at, letter in enumerate(b"abcd")),
    ],
)
def test_a_boundary_in_sections_is_put_together(parameters: bytes) -> None:
    raw = b"Content-Type: multipart/mixed; " + parameters + b"\n\n--abcd\n\nhttps://a.example\n--abcd--\n"
    assert raw.replace(b"https://a.example", Tracker.url(1).encode()) == rewritten(raw).raw


def test_only_encoded_sections_are_decoded() -> None:
    raw = b"Content-Type: multipart/mixed; boundary*0*=''%61; boundary*1=%62\n\n--a%62\n\nhttps://a.example\n"
    assert 1 == rewritten(raw).tracked


@pytest.mark.parametrize("parameter", [b"charset*=us-ascii'en'koi8-%72", b"charset*0=koi8; charset*1=-r"])
def test_a_charset_in_sections_counts(parameter: bytes) -> None:
    tracker = Tracker()
    rewrite_mail(b"Content-Type: text/html; " + parameter + b"\n\n<a href=https://a.example/\xd1>", tracker, None)
    assert ["https://a.example/%D1%8F"] == [link.destination for link in tracker.links]


@pytest.mark.parametrize(
    "header",
    [
        b"Content-Type: text/plain; name*=utf-8''links.txt",
        b"Content-Type: text/plain; name*0=links; name*1=.txt",
        b"Content-Disposition: inline; filename*=utf-8'de'%E4.txt",
        b"Content-Disposition: inline; filename*1=links.txt",
    ],
)
def test_a_text_with_a_name_in_sections_is_a_file(header: bytes) -> None:
    raw = mixed(header + b"\n\nhttps://a.example", b"\nhttps://b.example")
    assert raw.replace(b"https://b.example", Tracker.url(1).encode()) == rewritten(raw).raw


@pytest.mark.parametrize(
    "raw",
    [
        b'Subject: x\rContent-Type: text/html\r\r<a href="https://a.example/">',
        b"Subject: x\rContent-Transfer-Encoding: base64\r\raHR0cHM6Ly9hLmV4YW1wbGUv\r",
        b"Subject: x\r\rhttps://a.example/\nhttps://b.example/\n",
        b"Subject: x\nhttps://a.example/\n",
        b"Subject: x\nhttps://a.example/\n\nhttps://b.example/\n",
        b"Content-Type: text/html\n<p>See: <a href=https://a.example>\n\n<a href=https://b.example>\n",
        b"Subject: x\nSee: https://a.example/",
    ],
)
def test_a_mail_whose_header_holds_its_body_stays(raw: bytes) -> None:
    tracker = Tracker()
    mail = rewrite_mail(raw, tracker, PIXEL)
    assert (raw, 0, Counter(malformed=1), []) == (mail.raw, mail.tracked, mail.untouched, tracker.links)


@pytest.mark.parametrize(
    "raw",
    [
        b"Subject: x\nhello https://a.example/\n",
        b"Subject: x\r\r\nTo: y\r\r\n\r\r\nhttps://a.example/\r\r\n",
        b"Subject: x\r\n\r\nhello\rhttps://a.example/\r",
        b"Content-Type: multipart/mixed; boundary=b\nList-Archive: <https://list.example>\n--b\n\nhttps://a.example/",
    ],
)
def test_a_body_is_found_without_a_blank_line_as_mail_servers_find_it(raw: bytes) -> None:
    assert raw.replace(b"https://a.example/", Tracker.url(1).encode()) == rewritten(raw).raw


@pytest.mark.parametrize(
    ("part", "untouched"),
    [
        (b"Content-Type: multipart/alternative\n\n--c\n\nhttps://a.example\n--c--", Counter(malformed=1)),
        (b"Content-Type: multipart/alternative; boundary=d\n\n--c\n\nhttps://a.example", Counter(malformed=1)),
        (b"Content-Type: multipart/alternative; boundary=c\n\n--c\r\rhttps://a.example", Counter(malformed=1)),
        (b"Content-Type: multipart/mixed; boundary=c\nContent-Transfer-Encoding: base64\n\nLS1j", Counter(malformed=1)),
        (b"https://a.example", Counter(malformed=1)),
        (b"Content-Type: text/html\n<p>See: <a href=https://a.example>", Counter(malformed=1)),
        (b"Content-Type: message/rfc822\n\nSubject: x\r\rhttps://a.example", Counter(malformed=1)),
        (b"Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\nCmh0dHBz", Counter(undecodable=1)),
        (b"Content-Type: multipart/alternative\nContent-Disposition: attachment\n\nhttps://a.example", Counter()),
        (b"Content-Type: message/rfc822\nContent-Disposition: attachment\n\nX: y\r\rhttps://a.example", Counter()),
        (b"Content-Type: multipart/alternative; boundary=c\n\n--c\n\nx\n--c--", Counter()),
        (b"Content-Type: text/calendar\n\nURL:https://a.example", Counter()),
    ],
)  # fmt: skip
def test_a_part_that_cannot_be_read_is_counted_and_the_others_are_tracked(part: bytes, untouched: Counter[str]) -> None:
    raw = mixed(part, b"\nhttps://b.example")
    mail = rewritten(raw)
    assert raw.replace(b"https://b.example", Tracker.url(1).encode()) == mail.raw
    assert untouched == mail.untouched


@pytest.mark.parametrize(
    ("raw", "untouched"),
    [
        (b"Content-Type: text/calendar\n\nURL:https://a.example", Counter(no_text=1)),
        (mixed(*[b"Content-Type: text/markdown\n\nhttps://a.example"] * 2), Counter(no_text=1)),
        (
            b"Content-Type: multipart/related; boundary=b; start='<r>'\n\n--b\nContent-Type: text/html\n"
            b"Content-ID: <1>\n\n<a href=https://a.example>\n--b--",
            Counter(no_text=1),
        ),
        (b"Content-Type: application/pdf\n\nhttps://a.example", Counter()),
        (b"Content-Type: text/calendar\nContent-Disposition: attachment\n\nURL:https://a.example", Counter()),
        (mixed(b"Content-Type: text/calendar; name=x.ics\n\nURL:https://a.example"), Counter()),
        (b"Subject: x\n", Counter()),
        (b"Subject: x\nList-Unsubscribe: <https://a.example>\n\n", Counter()),
    ],
)
def test_a_mail_that_shows_nothing_stays(raw: bytes, untouched: Counter[str]) -> None:
    mail = rewritten(raw, PIXEL)
    assert (raw, 0, untouched) == (mail.raw, mail.tracked, mail.untouched)


def test_the_pixel_of_a_mail_goes_before_an_unclosed_comment() -> None:
    raw = QP + b"x=20<!-- y =\n</body>\n"
    mail = rewritten(raw, PIXEL)
    assert b"x " + PIXEL_TAG + b"<!-- y </body>\n" == decoded(message_from_bytes(mail.raw))
    assert mail.raw.endswith(b"<!-- y =\n</body>\n")


SIZE = 100_000
NESTED = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (depth, depth) for depth in range(1_000))
QP = b"Content-Type: text/html\nContent-Transfer-Encoding: quoted-printable\n\n"
FLOWED = b"Content-Type: text/plain; format=flowed; delsp=yes\n\n"
HOSTILE = {
    "lone <": HTML + b"<" * SIZE,
    "one tag": HTML + b"<a " * SIZE,
    "open quotes": HTML + b'<a href="' * (SIZE // 9),
    "comments": HTML + b"<!--" * SIZE,
    "conditional comments": HTML + b"<!--[if x]>" * (SIZE // 10),
    "raw text": HTML + b"<script></" * (SIZE // 10),
    "long base": HTML + b"<base href='https://a.example/" + b"p" * 7_000 + b"/'>" + b"<a href=x>" * (SIZE // 10),
    "one long line": QP + b"<a href=https://a.b/>" * (SIZE // 20),
    "soft breaks": QP + b"= " * SIZE,
    "deep nesting": NESTED + HTML + b"<a href=https://a.b/>",
    "mails in mails": b"Content-Type: message/rfc822\n\n" * 3_000 + HTML,
    "empty parts": b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n" * (SIZE // 4),
    "no colon": b"abc" * SIZE,
    "NULs": b"\0" * SIZE,
    "parameters": b"Content-Type: text/html" + b';a="\\' * (SIZE // 5),
    "sections": b"Content-Type: text/html" + b"".join(b";a*%d*=''%%41" % (at % 10_000) for at in range(SIZE // 10)),
    "apostrophes": b"Content-Type: text/html;a*=" + b"'" * SIZE,
    "carriage returns": b"Subject: " + b"\r" * SIZE + b"\n" + b"\r " * SIZE + b"\n\n",
    "charsets": b"Content-Type: text/html\n\n<meta http-equiv=content-type content='" + b'charset="' * SIZE,
    "encodings": b"Content-Type: text/html\n\n<?xml " + b"encoding=" * SIZE,
    "unclosed comments": HTML + b"<!--[if x]><!--" * (SIZE // 10),
    "angles": b"List-Unsubscribe: " + b"<" * SIZE,
    "flowed": FLOWED + b"https://a.b/ \n" * (SIZE // 14),
    "brackets": b"\n\nhttps://a.b/" + b"()" * SIZE + b")" * SIZE,
    "punycode": b"Content-Type: text/html; charset=punycode\n\n" + b"<a href=https://a.b/?\xfc>" * (SIZE // 20),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_mails_take_linear_time(name: str) -> None:
    # Quadratic work would be 10^10 steps here, linear work takes some 0.1 s.
    started = time.process_time()
    rewritten(HOSTILE[name], PIXEL)
    assert time.process_time() - started < 2


def test_the_deepest_part_is_still_found() -> None:
    assert rewritten(HOSTILE["deep nesting"]).tracked == 1


@pytest.mark.parametrize("charset", [b"utf-7", b"UNICODE-1-1-UTF-7", b"hz-gb-2312"])
def test_letters_that_mean_others_are_not_read_as_ascii(charset: bytes) -> None:
    raw = b"Content-Type: text/plain; charset=" + charset + b"\n\nhttps://a.example/?q=a+-b~~c"
    mail = rewritten(raw)
    assert (mail.raw, mail.tracked, mail.untouched) == (raw, 0, Counter(undecodable=1))
