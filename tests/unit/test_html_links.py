"""Links of HTML and text are found as browsers find them; every character that is no link stays."""

import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.sending.html_links import (
    MAX_LABEL_LENGTH,
    Link,
    Rules,
    find_in_html,
    pixel_tag,
    rewrite_html,
    rewrite_text,
)
from app.sending.html_tags import (
    PRESCAN_BYTES,
    Tag,
    Text,
    Unclosed,
    declared_charsets,
    decode_attribute,
    passage_to,
    tokenize,
)

many_examples = settings(max_examples=500, deadline=None)
A = "https://a.example/"


def leave(link: Link) -> None:
    return None


def links_in_html(source: str) -> list[tuple[str, str]]:
    found: list[Link] = []
    rewrite_html(source, found.append, None)
    return [(link.destination, link.label) for link in found]


def links_in_text(source: str) -> list[str]:
    found: list[Link] = []
    rewrite_text(source, found.append)
    return [link.destination for link in found]


# --- HTML --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (f"<a href='{A}'>x</a>", "<a href='T'>x</a>"),
        (f'<A\nHREF = "{A}" >x</A>', '<A\nHREF = "T" >x</A>'),
        (f"<a href={A}>x</a>", "<a href=T>x</a>"),
        (f"<a href=\"{A}\"title='y'>", "<a href=\"T\"title='y'>"),
        (f"<a x='<a href={A}>' href={A}>", f"<a x='<a href={A}>' href=T>"),
        (f"<a href={A} href=https://second.example>", "<a href=T href=https://second.example>"),
        (f"<a/href={A}>", "<a/href=T>"),
        (f"<v:rect href='{A}'/><area href='{A}'>", "<v:rect href='T'/><area href='T'>"),
        (f"<!--[if mso]><a href='{A}'><![endif]-->", "<!--[if mso]><a href='T'><![endif]-->"),
        (f"<!--[if !mso]><!--><a href='{A}'><!--<![endif]-->", "<!--[if !mso]><!--><a href='T'><!--<![endif]-->"),
        (f"<!-->--><a href='{A}'>", "<!-->--><a href='T'>"),
    ],
)
def test_what_is_replaced(source: str, expected: str) -> None:
    result = rewrite_html(source, lambda link: "T", None)
    assert (expected, source.count(A) if "x='" not in source else 1) == (result.text, result.tracked)


@pytest.mark.parametrize(
    "source",
    [
        f"<!-- <a href='{A}'> -->",
        f"<!-- <a href='{A}'>",
        f"<script>'<a href={A}>'</script>",
        f"<style><a href={A}></style >",
        f"<title><a href={A}></title>",
        f"<textarea><a href={A}></textarea>",
        f"<a href='{A}",
        f"<a href='{A}'",
        f"< a href='{A}'>",
        f"<abbr href='{A}'>",
        f"<link href='{A}'>",
        f"</a href='{A}'>",
        f"<![CDATA[ <a href='{A}' ]]>",
        f"<plaintext><a href={A}>",
    ],
)
def test_what_is_no_link(source: str) -> None:
    assert rewrite_html(source, lambda link: "T", None).text == source


@pytest.mark.parametrize(
    ("raw", "decoded"),
    [
        ("a&amp;b", "a&b"),
        ("a&ampb", "a&ampb"),
        ("a&amp=b", "a&amp=b"),
        ("a&amp;=b", "a&=b"),
        ("?a&copy=1&copy;2&copyright", "?a&copy=1©2&copyright"),
        ("&#38;&#x26;&#38x", "&&&x"),
        ("&#0;&#xD800;&#99999999999;", "\ufffd\ufffd\ufffd"),
        ("&#128;&#x81;", "€\x81"),
        ("&nosuch;&", "&nosuch;&"),
        ("&NotEqualTilde;", "\u2242\u0338"),
        ("\0", "\ufffd"),
    ],
)
def test_character_references_in_attributes(raw: str, decoded: str) -> None:
    assert decoded == decode_attribute(raw)


@pytest.mark.parametrize(
    ("source", "label"),
    [
        ("<a href={}> Buy\n <b>now</b>&nbsp;&amp; save </a>", "Buy now & save"),
        ("<a href={}><img alt='A &quot;logo&quot;'></a>", 'A "logo"'),
        ("<a href={} title=Home><img></a>", "Home"),
        ("<a href={}>\u200b\u00ad</a>", ""),
        ("<area href={} alt=Vienna>text", "Vienna"),
        ("<a href={}>" + "x" * 200, "x" * (MAX_LABEL_LENGTH - 1) + "…"),
        ("<a href={}>seen<!--[if mso]>hidden<![endif]--></a>", "seen"),
        ("<a href={}>a<script>b</script>c</a>", "a c"),
    ],
)
def test_labels(source: str, label: str) -> None:
    assert [(A, label)] == links_in_html(source.format(A))


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("<a href='mailto:x@a.example'>", "scheme"),
        ("<a href=#top>", "anchor"),
        ("<a href=''>", "anchor"),
        ("<a href=x/y>", "relative"),
        ("<a href=https://>", "invalid"),
        ("<a href='https://a b'>", "invalid"),
        (f"<a href={A}{'x' * 9_000}>", "too_long"),
        ("<a href='{{ url }}'>", "placeholder"),
        ("<a href='https://{host}/'>", "placeholder"),
        ("<a href='https://a.example/?id=*|UNIQID|*'>", "placeholder"),
        ("<a href='https://a.example/?id=%recipient.id%'>", "placeholder"),
        (f"<a href={A}unsubscribe?x>", "unsubscribe"),
        (f"<a href={A}%75nsubscribe>", "unsubscribe"),
        (f"<a href={A}>Newsletter <b>abmelden</b></a>", "unsubscribe"),
        (f"<a href={A}>Se désinscrire</a>", "unsubscribe"),
        (f"<a href={A}>Annulla l’iscrizione</a>", "unsubscribe"),
        (f"<a href={A}>", "declined"),
    ],
)
def test_what_stays_and_why(source: str, reason: str) -> None:
    result = rewrite_html(source, leave, None)
    assert (source, Counter({reason: 1})) == (result.text, result.untouched)


@pytest.mark.parametrize(
    ("attribute", "kept"),
    [
        ("ses:no-track", ""),
        ("data-pm-no-track", ""),
        ("data-no-track='1'", ""),
        ("DATA-SKIP-CLICK=true", ""),
        ("mautic:disable-tracking", ""),
        ("clicktracking=off", ""),
        ('data-msys-clicktrack = "0"', ""),
        ("data-no-track data-skip-click", ""),
    ],
)
def test_opt_outs_are_heeded_and_taken_out(attribute: str, kept: str) -> None:
    for source, expected in [
        (f"<a {attribute} href='{A}'>x", f"<a href='{A}'>x"),
        (f"<a href='{A}'\n  {attribute}>x", f"<a href='{A}'>x"),
        (f"<a class=y {attribute} href={A} >x", f"<a class=y href={A} >x"),
    ]:
        result = rewrite_html(source, lambda link: "T", None)
        assert (expected, Counter(opted_out=1)) == (result.text, result.untouched)


@pytest.mark.parametrize("attribute", ["clicktracking=on", "data-msys-clicktrack=1", "title=data-no-track"])
def test_what_is_no_opt_out(attribute: str) -> None:
    assert f"<a {attribute} href=T>" == rewrite_html(f"<a {attribute} href={A}>", lambda link: "T", None).text


def test_the_first_base_counts_and_a_hidden_one_does_not() -> None:
    source = "<a href=x><!--[if mso]><base href=https://no.example/><![endif]--><base target=_top><base href='//no'>"
    assert links_in_html(source + "<base href=https://b.example/>") == []
    source = source.replace("<base href='//no'>", "<base href=https://b.example/c/d>")
    assert links_in_html(source + "<base href=https://no.example/>") == [("https://b.example/c/x", "")]


def test_a_base_too_long_is_none() -> None:
    assert rewrite_html(f"<base href={A}{'x' * 1_000}/><a href=y>", leave, None).untouched == Counter(relative=1)


def test_the_tracked_url_cannot_leave_its_attribute() -> None:
    nasty = "https://t.example/?a=1&b='\"<> "
    for quote in ("'", '"', ""):
        source = f"<a href={quote}{A}{quote} title=x>"
        result = rewrite_html(source, lambda link: nasty, None).text
        tag = next(tokenize(result))
        assert isinstance(tag, Tag)
        href = tag.attribute("href")
        assert href is not None
        assert nasty == decode_attribute(result[href.value_start : href.value_end])
        assert result.endswith(" title=x>")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("<html><body>x</body></html>", "<html><body>x|</body></html>"),
        ("<body>x</BODY >y</body>", "<body>x</BODY >y|</body>"),
        ("<html>x</html>\n", "<html>x|</html>\n"),
        ("x", "x|"),
        ("", "|"),
        ("<body>x<!-- </body> -->y</body>", "<body>x<!-- </body> -->y|</body>"),
        ("x<!--[if mso]></body><![endif]-->", "x<!--[if mso]></body><![endif]-->|"),
        ("x<!-- y</body>", "x|<!-- y</body>"),
        ("x<!-- y --", "x|<!-- y --"),
        ("x<!--[if mso]><p>y", "x|<!--[if mso]><p>y"),
        ("x<!--[if mso]><style><![endif]-->y", "x<!--[if mso]><style><![endif]-->y|"),
        ("<!-->x<!--->", "<!-->x<!--->|"),
        ("<body>x</body><!-- y", "<body>x|</body><!-- y"),
        ("<html>x</html><title>y", "<html>x|</html><title>y"),
        ("x<plaintext>y</plaintext></body>", "x|<plaintext>y</plaintext></body>"),
        ("x<textarea>y</body></html>", "x|<textarea>y</body></html>"),
        ("<title>x</body>", "|<title>x</body>"),
        ("<title>x</title><style>y", "<title>x</title>|<style>y"),
        ("x<script>y</script", "x|<script>y</script"),
        ("x<script>y</script ", "x|<script>y</script "),
        ("x<style>y</style z='>", "x|<style>y</style z='>"),
        ("x<xmp>y", "x|<xmp>y"),
        ("x<a href='y", "x|<a href='y"),
        ("x</", "x|</"),
        ("x<!doctype", "x|<!doctype"),
        ("x<", "x<|"),
    ],
)
def test_where_the_pixel_goes(source: str, expected: str) -> None:
    assert (
        expected.replace("|", pixel_tag("https://t.example/?a&b"))
        == rewrite_html(source, leave, "https://t.example/?a&b").text
    )
    assert 'src="https://t.example/?a&amp;b"' in pixel_tag("https://t.example/?a&b")


@pytest.mark.parametrize(
    ("start", "charsets"),
    [
        ("<meta charset=koi8-r>", ["koi8-r"]),
        ("<META/CHARSET = ' koi8-r '/>", [" koi8-r "]),
        ("<meta http-equiv=Content-Type content='text/html; charset=koi8-r'>", ["koi8-r"]),
        ('<meta content="text/html;CHARSET = koi8-r ;x" http-equiv="content-type">', ["koi8-r"]),
        ("<meta http-equiv=content-type content='charset charset=\"koi8-r\"'>", ["koi8-r"]),
        ("<meta charset=&#107;oi8-r>", ["koi8-r"]),
        ("<meta charset=x http-equiv=content-type content='charset=koi8-r'>", ["x"]),
        ("<meta charset=x><meta charset=koi8-r>", ["x", "koi8-r"]),
        ("<p>x<meta charset=koi8-r>", ["koi8-r"]),
        ("<!--[if !mso]><!--><meta charset=koi8-r><!--<![endif]-->", ["koi8-r"]),
        ("<?xml version='1.0' encoding='koi8-r'?><p>", ["koi8-r"]),
        ("<?xml encoding='x'?><meta charset=koi8-r>", ["koi8-r", "x"]),
        (f"<!--{'x' * (PRESCAN_BYTES - 28)}--><meta charset=koi8-r>", ["koi8-r"]),
        (f"<!--{'x' * (PRESCAN_BYTES - 27)}--><meta charset=koi8-r>", []),
        ("<!-- <meta charset=koi8-r> -->", []),
        ("<!--[if mso]><meta charset=koi8-r><![endif]-->", []),
        ("<title><meta charset=koi8-r></title>", []),
        ("<style><meta charset=koi8-r></style>", []),
        ("</meta charset=koi8-r>", []),
        ("<metax charset=koi8-r>", []),
        ("<meta content='charset=koi8-r'>", [""]),
        ("<meta http-equiv=refresh content='0; charset=koi8-r'>", [""]),
        ("<meta http-equiv=content-type content='charset=\"koi8-r'>", [""]),
        (" <?xml encoding='koi8-r'?>", []),
    ],
)
def test_the_charsets_that_a_document_declares(start: str, charsets: list[str]) -> None:
    assert charsets == list(declared_charsets(start.encode()))


# --- plain text --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("see https://a.example/x. Or", ["https://a.example/x"]),
        ("(https://a.example/x)", ["https://a.example/x"]),
        ("(see https://a.example/x_(y)), z", ["https://a.example/x_(y)"]),
        ("<https://a.example/x.>", ["https://a.example/x."]),
        ("https://a.example/x?y=1,2;3!…", ["https://a.example/x?y=1,2;3"]),
        ('"https://a.example/x"', ["https://a.example/x"]),
        ("„https://a.example/x“", ["https://a.example/x"]),
        ("*https://a.example/*", ["https://a.example/"]),
        ("xhttps://a.example, http:/a, www.a.example", []),
        ("https://a.example/1,https://a.example/2", ["https://a.example/1,https://a.example/2"]),
        ("HTTP://A.EXAMPLE", ["http://a.example/"]),
        ("Unsubscribe: https://a.example/x", []),
        ("«https://a.example/x»· (https://a.example/y)\u0387", ["https://a.example/x", "https://a.example/y"]),
        ("Unsubscribe here:\n<https://a.example/x>\nhttps://a.example/y", ["https://a.example/y"]),
        ("https://a.example/{{ id }}", []),
    ],
)
def test_links_in_text(source: str, expected: list[str]) -> None:
    assert expected == links_in_text(source)


# --- laws --------------------------------------------------------------------------------------------------------

MARKUP = "<~>~<a~</a>~ ~\n~/~href=~=~\"~'~<!--~-->~--!>~<!--[if mso]>~<!~<?~</~&~&amp;~&#~\0~ü~\udcff~x"
TAGS = "<base href=~<script>~</script~<title>~<v:x~<area ~</body>~<textarea>~<plaintext>~title=~alt="
html_pieces = st.sampled_from([*MARKUP.split("~"), *TAGS.split("~"), A, f'"{A}"', f"'{A}'"])
messy_html = st.lists(html_pieces, max_size=40).map("".join)


@many_examples
@given(messy_html)
def test_without_tracking_a_document_stays(source: str) -> None:
    assert source == rewrite_html(source, leave, None).text
    assert source == rewrite_text(source, leave).text


@many_examples
@given(messy_html)
def test_tokens_ascend_within_the_document(source: str) -> None:
    position = 0
    for token in tokenize(source):
        assert position <= token.start < token.end <= len(source)
        position = token.end
        if isinstance(token, Text):
            assert token.end - token.start == 1 or "<" not in source[token.start : token.end]
        for attribute in token.attributes if isinstance(token, Tag) else ():
            assert token.start < attribute.start <= attribute.value_start <= attribute.value_end <= attribute.end
            assert attribute.end < token.end


@many_examples
@given(messy_html)
def test_a_passage_goes_over_whole_tokens_that_nobody_asked_for(source: str) -> None:
    def is_wanted(token: Tag | Text | Unclosed) -> bool:
        named = isinstance(token, Tag) and (token.name in ("a", "base") or token.name.startswith("v:"))
        return named or isinstance(token, Unclosed)

    every, left = list(tokenize(source)), list(tokenize(source, passage_to(["a", "base"], "v:")))
    assert {*left} <= {*every}
    assert [token for token in every if is_wanted(token)] == [token for token in left if is_wanted(token)]


@many_examples
@given(messy_html)
def test_a_rewritten_document_has_the_same_tags_with_tracked_urls(source: str) -> None:
    tracked = [f"https://t.example/{number}" for number in range(1, 50)]
    urls = iter(tracked)
    result = rewrite_html(source, lambda link: next(urls), None)
    again: list[Link] = []
    rewrite_html(result.text, again.append, None)
    assert tracked[: result.tracked] == [link.destination for link in again]
    before, after = list(tokenize(source)), list(tokenize(result.text))
    assert [token.name if isinstance(token, Tag) else "" for token in before] == [
        token.name if isinstance(token, Tag) else "" for token in after
    ]
    assert [source[token.start : token.end] for token in before if isinstance(token, Text)] == [
        result.text[token.start : token.end] for token in after if isinstance(token, Text)
    ]


@many_examples
@given(messy_html)
def test_with_the_urls_put_back_it_is_the_document(source: str) -> None:
    found = find_in_html(source, Rules())
    tracked = [f"https://t.example/{number:03}" for number in range(len(found.places))]
    text = found.changes(tracked, "https://t.example/pixel").apply(source).text
    assert 1 == text.count(pixel_tag("https://t.example/pixel"))
    text = text.replace(pixel_tag("https://t.example/pixel"), "")
    for url, place in zip(tracked, found.places, strict=True):
        assert 1 == text.count(url)
        text = text.replace(url, source[place.start : place.end])
    assert source == text


@many_examples
@given(messy_html)
def test_the_pixel_is_always_a_tag(source: str) -> None:
    url = "https://t.example/pixel"
    tags = [token for token in tokenize(rewrite_html(source, leave, url).text) if isinstance(token, Tag)]
    before = [token.name for token in tokenize(source) if isinstance(token, Tag)]
    assert [False] == [tag.hidden for tag in tags if tag.name == "img"]
    assert before == [tag.name for tag in tags if tag.name != "img"]


@pytest.mark.parametrize(
    "piece",
    [
        "<",
        "<a ",
        "<a href='",
        f"<a href={A}>",
        "<!--",
        "<!--[if x]>",
        "</",
        "<script>",
        "<script></script ",
        "<style></style>",
        "&a",
        "https://",
        "x('",
        "<v:a href=x>",
        "<b ",
        "<b x='",
        "<b x=y>z",
        '<b x="y">\n',
        "</b =",
        "<!--[if x]><b x='-->",
    ],
)
def test_work_is_linear(piece: str) -> None:
    source = piece * (200_000 // len(piece))
    started = time.process_time()
    rewrite_html(source, leave, "https://t.example")
    rewrite_text(source, leave)
    assert time.process_time() - started < 2


# --- where a sentence goes on, and who wants to leave ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (f"请访问{A}sale，谢谢您", "请访问T，谢谢您"),
        (f"（{A}help）まで", "（T）まで"),
        (f"「{A}」をどうぞ", "「T」をどうぞ"),
        (f"visit {A}sale—today only", "visit T—today only"),
        (f"[{A}sale]({A}sale) now", "[T](T) now"),
        (f"[a]({A}x)[b]({A}y)", "[a](T)[b](T)"),
        (f"`{A}x`", "`T`"),
        (f"{A}x\u200bmore", "T\u200bmore"),
        (f"<{A}a，日本>", "<T>"),
        (f"{A}straße/größe", "T"),
    ],
)
def test_a_text_goes_on_behind_its_url(source: str, expected: str) -> None:
    assert rewrite_text(source, lambda link: "T").text == expected


@pytest.mark.parametrize("behind", ["saleをご覧ください。", "をご覧", "sale에서", "saleที่นี่"])
def test_a_url_whose_end_nobody_can_tell_stays(behind: str) -> None:
    for source in (f"詳しくは{A}{behind}", f"詳しくはhttps://a.example{behind}"):
        result = rewrite_text(source, lambda link: "T")
        assert (result.text, result.untouched) == (source, Counter(unclear=1))


@pytest.mark.parametrize(
    "source",
    [
        f"<a href='{A}'>Newsletter abbe&shy;stellen</a>",
        f"<a href='{A}'>Un&#8203;subscribe</a>",
        f"<a href='{A}'><span>U</span><span>nsubscribe</span></a>",
        f"<a href='{A}'>{'If you do not wish to hear of us any more, ' * 3}unsubscribe here</a>",
        f"<a href='{A}' title='Unsubscribe'><img alt='icon'></a>",
        f"<a href='{A}' aria-label='Unsubscribe'>x</a>",
    ],
)
def test_links_for_unsubscribing_stay_however_it_is_said(source: str) -> None:
    result = rewrite_html(source, lambda link: "T", None)
    assert (result.text, result.untouched) == (source, Counter(unsubscribe=1))


def test_the_sentence_before_a_url_says_what_it_is_for() -> None:
    assert links_in_text(f"To unsubscribe\nfrom this list: {A}u") == []
    assert links_in_text(f"You can unsubscribe any time.\nOur shop: {A}") == [A]
    assert links_in_text(f"Unsubscribe below\n\nOur shop: {A}") == [A]


def test_no_url_ends_a_conditional_comment() -> None:
    result = rewrite_html(f"<!--[if mso]><a href={A}>x</a><![endif]-->", lambda link: f"{A}c/a--", None)
    assert result.text == f'<!--[if mso]><a href="{A}c/a--">x</a><![endif]-->'
