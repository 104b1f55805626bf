"""Event types: which XML defines one, where and how every other is refused, and what counts as a permission."""

import re
import tracemalloc
from collections.abc import Collection

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import SettingsError
from app.tracking import event_types
from app.tracking.event_types import (
    MAX_DEPTH,
    MAX_ELEMENTS,
    MAX_ID_LENGTH,
    MAX_XML_BYTES,
    EventType,
    EventTypeRefused,
    Group,
    Placeholder,
    Reference,
    parse_event_type,
    permission_of,
)
from app.tracking.modes import Permission

GOOD = """\
<event xmlns="http://www.inxmail.com/xcom/eventtype">
  <eventtype><id>order_confirmation</id></eventtype>
  <customermapping>Customer.Id</customermapping>      <!-- optional -->
  <customeremail>Customer.Email</customeremail>
  <customertracking>Customer.Tracking</customertracking>
  <phgroup>
    <id>Customer</id>
    <placeholder><id>Id</id><datatype-long/></placeholder>
    <placeholder><id>Email</id><datatype-string/></placeholder>
    <placeholder><id>Tracking</id><datatype-boolean/></placeholder>
  </phgroup>
  <phlist>
    <id>Articles</id>
    <placeholder><id>Price</id><datatype-double/></placeholder>
    <placeholder><id>Gift</id><datatype-boolean truePattern="Yes" falsePattern="no"/></placeholder>
  </phlist>
</event>
"""
PARSED = EventType(
    id="order_confirmation",
    customer_mapping=Reference("Customer", "Id"),
    customer_email=Reference("Customer", "Email"),
    tracking=Reference("Customer", "Tracking"),
    groups=(
        Group(
            "Customer",
            False,
            (Placeholder("Id", "long"), Placeholder("Email", "string"), Placeholder("Tracking", "boolean")),
        ),
        Group("Articles", True, (Placeholder("Price", "double"), Placeholder("Gift", "boolean", "Yes", "no"))),
    ),
)
SMALL = '<event xmlns="http://www.inxmail.com/xcom/eventtype"><eventtype><id>a</id></eventtype></event>'
BOM = "\ufeff"


def changed(old: str, new: str, times: int = 1) -> bytes:
    """The good document with one place changed; fails if the place is not there as often as the test thinks."""
    assert times == GOOD.count(old)
    return GOOD.replace(old, new).encode()


def refusal(data: bytes) -> EventTypeRefused:
    with pytest.raises(EventTypeRefused) as refused:
        parse_event_type(data)
    assert isinstance(refused.value, SettingsError)
    assert "definition" == refused.value.field
    assert str(refused.value).startswith(f"line {refused.value.line}, column {refused.value.column}: ")
    return refused.value


def assert_refused(data: bytes, line: int, column: int, *words: str) -> None:
    refused = refusal(data)
    assert (line, column) == (refused.line, refused.column), str(refused)
    for word in words:
        assert word in str(refused)


# What is read.


def test_a_whole_definition() -> None:
    assert PARSED == parse_event_type(GOOD.encode())


def test_a_minimal_definition() -> None:
    assert EventType("a", None, None, None, ()) == parse_event_type(SMALL.encode())


def test_a_reference_reads_as_it_is_written() -> None:
    assert "Customer.Tracking" == str(Reference("Customer", "Tracking"))


@pytest.mark.parametrize(
    "data",
    [
        GOOD.encode("utf-16"),
        (BOM + GOOD).encode("utf-16-le"),
        (BOM + GOOD).encode("utf-16-be"),
        GOOD.encode("utf-8-sig"),
        ('<?xml version="1.0" encoding="UTF-16"?>' + GOOD).encode("utf-16"),
        ('<?xml version="1.0" encoding="utf-8" standalone="no"?>\n' + GOOD).encode(),
        ('<?xml version="1.0" encoding="Windows-1252"?>' + GOOD).encode("cp1252"),
        GOOD.replace("\n", "\r\n").encode(),
        GOOD.replace("\n", " ").encode(),
        GOOD.replace("Customer.Email", "\n Customer.Email\t").encode(),
        GOOD.replace("Customer.Email", "<![CDATA[Customer.]]><!-- x -->Em&#97;il").encode(),
        b"\n<!-- before -->" + GOOD.encode() + b"<!-- after -->\n",
    ],
)
def test_the_same_in_other_writing(data: bytes) -> None:
    assert PARSED == parse_event_type(data)


def test_the_order_of_elements_does_not_matter() -> None:
    type_line = "  <eventtype><id>order_confirmation</id></eventtype>\n"
    assert PARSED == parse_event_type(changed(type_line, "").replace(b"</event>", type_line.encode() + b"</event>"))


@pytest.mark.parametrize("place", ["<eventtype>", "<phgroup>", "<phlist>", "<placeholder>"])
def test_translations_are_allowed_and_ignored(place: str) -> None:
    translations = '<translation language="de">Bestellung &amp; mehr</translation><translation language="pt-BR"/>'
    assert PARSED == parse_event_type(GOOD.replace(place, place + translations).encode())


@pytest.mark.parametrize("codec", ["iso-8859-1", "iso-8859-15", "windows-1252", "utf-8", "utf-16"])
def test_ids_are_read_in_the_encoding_that_the_xml_names(codec: str) -> None:
    xml = f'<?xml version="1.0" encoding="{codec}"?>' + GOOD.replace("Customer", "Käufer")
    assert Reference("Käufer", "Tracking") == parse_event_type(xml.encode(codec)).tracking


@pytest.mark.parametrize("id", ["a", "Z9", "a.b-c_d", "a" * MAX_ID_LENGTH])
def test_ids_of_events(id: str) -> None:
    assert id == parse_event_type(changed("order_confirmation", id)).id


@pytest.mark.parametrize("id", ["E", "É9", "E_$@-", "E" * MAX_ID_LENGTH])
def test_ids_of_groups_and_placeholders(id: str) -> None:
    parsed = parse_event_type(GOOD.replace("Customer", id).replace("Email", id).encode())
    assert Reference(id, id) == parsed.customer_email


def test_a_reference_ends_the_group_at_the_first_dot() -> None:
    assert (
        Reference("Customer", "Mail.Home")
        == parse_event_type(GOOD.replace("Email", "Mail.Home").encode()).customer_email
    )


@pytest.mark.parametrize("datatype", ["string", "long", "integer"])
def test_data_types_of_a_customers_own_id(datatype: str) -> None:
    assert (
        PARSED.customer_mapping == parse_event_type(changed("datatype-long", f"datatype-{datatype}")).customer_mapping
    )


def test_one_pattern_alone() -> None:
    parsed = parse_event_type(
        changed("Tracking</id><datatype-boolean", 'Tracking</id><datatype-boolean truePattern="Ja"')
    )
    assert Placeholder("Tracking", "boolean", "Ja", "false") == parsed.groups[0].placeholders[2]


def test_as_many_elements_as_allowed() -> None:
    translation = '<translation language="en"/>'
    most = SMALL.replace("</id>", "</id>" + translation * (MAX_ELEMENTS - 3))
    assert "a" == parse_event_type(most.encode()).id
    column = most.index("</eventtype>") + 1
    assert_refused(most.replace("</eventtype>", "<translation/></eventtype>").encode(), 1, column, "more than 5000")


def test_as_many_bytes_as_allowed() -> None:
    comment = b"<!--" + b"x" * (MAX_XML_BYTES - len(SMALL) - 7) + b"-->"
    assert "a" == parse_event_type(SMALL.encode() + comment).id
    assert_refused(SMALL.encode() + comment + b" ", 1, 1, "262145 bytes", "at most 262144")


# What is refused, and where.


@pytest.mark.parametrize(
    ("datatype", "article"), [("string", "a"), ("long", "a"), ("integer", "an"), ("double", "a"), ("datetime", "a")]
)
def test_a_permission_that_is_no_boolean(datatype: str, article: str) -> None:
    refused = refusal(changed("Tracking</id><datatype-boolean/>", f"Tracking</id><datatype-{datatype}/>"))
    assert str(refused) == (
        f"line 5, column 3: customertracking names Customer.Tracking, which is {article} {datatype};"
        " it must be a Boolean placeholder (<datatype-boolean/>) in a phgroup"
    )


@pytest.mark.parametrize(
    ("element", "old", "new", "line", "words"),
    [
        ("customertracking", "Customer.Tracking", "Articles.Gift", 5, "is in a phlist; it must be a Boolean"),
        ("customertracking", "Customer.Tracking", "Customer.Traking", 5, "does not exist"),
        ("customertracking", "Customer.Tracking", "customer.tracking", 5, "did you mean Customer.Tracking?"),
        ("customertracking", "Customer.Tracking", "Custmer.Tracking", 5, "did you mean Customer.Tracking?"),
        ("customertracking", "Customer.Tracking", "Shop.X", 5, "in a phgroup"),
        ("customertracking", "Customer.Tracking", "Customer. Tracking", 5, "does not exist"),
        ("customertracking", "Customer.Tracking", "Customer.A\nB", 5, r"'Customer.A\nB', which does not exist"),
        ("customertracking", "Customer.Tracking", "Customer.Tracking.X", 5, "does not exist"),
        ("customertracking", "Customer.Tracking", "Customer", 5, "as Group.Placeholder"),
        ("customertracking", "Customer.Tracking", "Customer.", 5, "as Group.Placeholder"),
        ("customertracking", "Customer.Tracking", ".Tracking", 5, "as Group.Placeholder"),
        ("customertracking", "Customer.Tracking", "", 5, "leave <customertracking> out"),
        (
            "customermapping",
            "Customer.Id",
            "Customer.Tracking",
            3,
            "is a boolean; it must be a string, long or integer",
        ),
        ("customermapping", "Customer.Id", "Articles.Price", 3, "is in a phlist"),
        ("customeremail", "Customer.Email", "Customer.Id", 4, "is a long; it must be a string placeholder"),
        ("customeremail", "Customer.Email", "Customer.Emial", 4, "did you mean Customer.Email?"),
    ],
)
def test_references_that_lead_nowhere(element: str, old: str, new: str, line: int, words: str) -> None:
    assert_refused(changed(f"<{element}>{old}<", f"<{element}>{new}<"), line, 3, element, words)


@pytest.mark.parametrize(
    ("old", "new", "line", "column", "words"),
    [
        ("<id>order_confirmation</id>", "", 2, 3, "<eventtype> has no <id>; add one"),
        ("  <eventtype><id>order_confirmation</id></eventtype>\n", "", 1, 1, "<event> has no <eventtype>"),
        ("    <id>Customer</id>\n", "", 6, 3, "<phgroup> has no <id>"),
        ("<id>Email</id>", "", 9, 5, "<placeholder> has no <id>"),
        ("<datatype-string/>", "", 9, 5, "add one of <datatype-string/>, <datatype-long/>"),
        ("<datatype-string/>", "<datatype-string/><datatype-long/>", 9, 50, "second data type"),
        ("<datatype-string/>", "<datatype-string/><datatype-string/>", 9, 50, "second data type"),
        ("<id>Email</id>", "<id>Email</id><id>Mail</id>", 9, 32, "second <id>, the first is in line 9; keep one"),
        ("  <phgroup>", "  <eventtype/><phgroup>", 6, 3, "<eventtype> has no <id>"),
        ("  <phgroup>", "  <eventtype><id>b</id></eventtype><phgroup>", 6, 3, "the first is in line 2"),
        ("  <phgroup>", "  <customeremail>Customer.Email</customeremail><phgroup>", 6, 3, "second <customeremail>"),
        (
            "</phlist>",
            "</phlist><phgroup><id>B</id></phgroup>",
            16,
            12,
            "<phgroup> has no <placeholder>; add at least one",
        ),
        ("<id>Email</id>", "<id>Tracking</id>", 10, 18, "the id Tracking is in line 9 already"),
        ("<id>Articles</id>", "<id>Customer</id>", 13, 5, "the id Customer is in line 6 already"),
    ],
)
def test_missing_and_double_parts(old: str, new: str, line: int, column: int, words: str) -> None:
    assert_refused(changed(old, new), line, column, words)


@pytest.mark.parametrize(
    ("old", "new", "line", "column", "words"),
    [
        ("<phlist>", "<phlists/><phlist>", 12, 3, "<phlists> does not belong in <event>; it holds <eventtype>, "),
        ("<phlist>", "<xyz/><phlist>", 12, 3, "it holds <eventtype>, <customermapping>"),
        ("<phlist>", "<PHLIST/><phlist>", 12, 3, "did you mean <phlist>?"),
        ("<phlist>", "<x:phlist/><phlist>", 12, 3, "did you mean <phlist>?"),
        ("<id>Articles</id>", "<id>Articles</id><phgroup/>", 13, 22, "<phgroup> does not belong in <phlist>"),
        ("<datatype-string/>", "<datatype-text/>", 9, 32, "<datatype-text> does not belong in <placeholder>"),
        ("<datatype-string/>", "<datatype-string><b/></datatype-string>", 9, 49, "<b> does not belong"),
        ("<id>Email</id>", "<id>E<b>mail</b></id>", 9, 23, "<b> does not belong in <id>; remove it"),
        ("<phlist>", '<translation language="en"/><phlist>', 12, 3, "<translation> does not belong in <event>"),
        ("<phlist>", '<phlist sort="x">', 12, 3, "<phlist> has an attribute 'sort', which does not exist; remove it"),
        (' truePattern="Yes"', ' truepattern="Yes"', 15, 31, "did you mean truePattern?"),
        ("<datatype-string/>", '<datatype-string truePattern="x"/>', 9, 32, "'truePattern', which does not exist"),
        ("<id>Articles</id>", '<id xml:lang="en">Articles</id>', 13, 5, "'xml:lang', which does not exist"),
        ("<id>Articles</id>", "<id>Articles</id><translation/>", 13, 22, 'write e.g. <translation language="en">'),
        ("<id>Articles</id>", '<id>Articles</id><translation language="en us"/>', 13, 22, "names no language"),
        ("<id>Articles</id>", "<id>Articles</id> äé&lt;x\n y", 13, 23, "'äé<x\\n y' stands in <phlist>"),
        ("<phlist>", "\n\t\t x<phlist>", 13, 4, "'x' stands in <event>, which holds no text; remove it"),
        ("<phlist>", "<!-- é\U0001f600 --><phlist>x", 12, 22, "stands in <phlist>"),
        ("<datatype-string/>", "<datatype-string>x</datatype-string>", 9, 49, "stands in <datatype-string>"),
    ],
)
def test_what_the_format_does_not_have(old: str, new: str, line: int, column: int, words: str) -> None:
    assert_refused(changed(old, new), line, column, words)


@pytest.mark.parametrize(
    ("root", "words"),
    [
        ("<event>", "<event> without xmlns; it must be <event xmlns="),
        ('<event xmlns="">', "is of the namespace ''"),
        ('<event xmlns="http://www.inxmail.com/xcom/eventtyp">', 'write xmlns="http://www.inxmail.com/xcom/eventtype"'),
        ('<event xmlns="http://www.inxmail.com/xcom/eventtype" xmlns:x="urn:x">', "'xmlns:x', which does not exist"),
        ('<event xmlns="http://www.inxmail.com/xcom/eventtype" version="1">', "'version', which does not exist"),
    ],
)
def test_wrong_roots(root: str, words: str) -> None:
    assert_refused(changed('<event xmlns="http://www.inxmail.com/xcom/eventtype">', root), 1, 1, words)


def test_other_documents() -> None:
    assert_refused(b"\n  <html/>", 2, 3, "the document starts with <html>", "it must be <event xmlns=")
    prefixed = b'<x:event xmlns:x="http://www.inxmail.com/xcom/eventtype"/>'
    assert_refused(prefixed, 1, 1, "<x:event>", "without a prefix")


def test_a_namespace_may_be_repeated_but_not_left() -> None:
    same, other = 'xmlns="http://www.inxmail.com/xcom/eventtype"', 'xmlns="urn:x"'
    assert PARSED == parse_event_type(changed("<phlist>", f"<phlist {same}>"))
    assert_refused(changed("<phlist>", f"<phlist {other}>"), 12, 3, "<phlist> is of the namespace 'urn:x'")


@pytest.mark.parametrize("id", ["", " ", "9a", "_a", "a b", "ä", "aä", "a/b", "a\n b", "a" * (MAX_ID_LENGTH + 1)])
def test_ids_that_no_event_has(id: str) -> None:
    assert_refused(changed("order_confirmation", id), 2, 14, "starts with a letter", "at most 200", "rename it")


@pytest.mark.parametrize("id", ["", "email", "9E", "_E", "E b", "E/b", "ßE", "E" * (MAX_ID_LENGTH + 1)])
def test_ids_that_no_placeholder_has(id: str) -> None:
    assert_refused(changed("<id>Email<", f"<id>{id}<"), 9, 18, "id of a placeholder", "starts with a capital letter")


@pytest.mark.parametrize("id", ["", "articles", "A.B", "A" * (MAX_ID_LENGTH + 1)])
def test_ids_that_no_group_has(id: str) -> None:
    assert_refused(changed("<id>Articles<", f"<id>{id}<"), 13, 5, "id of a phlist", "starts with a capital letter")


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        ('truePattern=""', "an empty pattern"),
        ('falsePattern=" "', "an empty pattern"),
        ('truePattern="x" falsePattern="X"', "let them differ"),
        ('truePattern="straße" falsePattern="STRASSE"', "let them differ"),
        ('truePattern="False"', "without the attribute they are true and false"),
        ('falsePattern="TRUE"', "without the attribute they are true and false"),
    ],
)
def test_patterns_that_decide_nothing(patterns: str, words: str) -> None:
    assert_refused(changed('truePattern="Yes" falsePattern="no"', patterns), 15, 31, words)


def test_messages_repeat_only_the_beginning_of_long_words() -> None:
    long = "x" * 100_000
    for data in (
        changed("<phlist>", f"<{long}/><phlist>"),
        changed("<phlist>", f"<phlist {long}=''>"),
        changed("<phlist>", f"{long}<phlist>"),
        changed("<phlist>", f"<phlist xmlns='{long}'>"),
        changed("order_confirmation", f"{long}!"),
        changed("<customeremail>Customer.", f"<customeremail>Customer.{long}"),
        changed("<customeremail>Customer.Email", f"<customeremail>{long}"),
        changed("<id>Email", f"<id>{long}"),
        f"<{long}/>".encode(),
        f"<?{long}?>".encode(),
    ):
        assert len(str(refusal(data))) < 400


# Hostile and broken input.

LAUGHS = (
    '<!DOCTYPE lolz [<!ENTITY l0 "lol">'
    + "".join(f'<!ENTITY l{level} "{f"&l{level - 1};" * 10}">' for level in range(1, 10))
    + "]>\n<lolz>&l9;</lolz>"
)
CHAIN = (
    '<!DOCTYPE a [<!ENTITY e0 "x">'
    + "".join(f'<!ENTITY e{level} "&e{level - 1};">' for level in range(1, 5000))
    + "]>\n<a>&e4999;</a>"
)


@pytest.mark.parametrize(
    ("doctype", "column"),
    [
        (LAUGHS, 16),
        (CHAIN, 13),
        ("<!DOCTYPE event>", 16),
        ('<!DOCTYPE event SYSTEM "file:///etc/passwd">', 44),
        ('<!DOCTYPE event [<!ENTITY x SYSTEM "file:///etc/passwd">]>', 17),
        ('<!DOCTYPE event [<!ENTITY % x SYSTEM "http://127.0.0.1:1/x.dtd">%x;]>', 17),
        ("<!DOCTYPE event [<!ATTLIST phgroup a CDATA 'b'>]>", 17),
    ],
)
@pytest.mark.parametrize("codec", ["utf-8", "utf-16"])
def test_no_document_types_nor_entities(doctype: str, column: int, codec: str) -> None:
    assert_refused((doctype + GOOD).encode(codec), 1, column, "<!DOCTYPE", "remove it")


def test_no_entity_but_the_predefined() -> None:
    assert_refused(changed("order_confirmation", "a&nbsp;b"), 2, 19, "write the character itself")
    assert_refused(changed("order_confirmation", "a&#0;b"), 2, 19, "correct the XML here")


@pytest.mark.parametrize(
    ("data", "line", "column"),
    [
        (b'<?xml-stylesheet href="x"?>\n' + GOOD.encode(), 1, 1),
        (changed("<phlist>", "<phlist><?php x ?>"), 12, 11),
        (GOOD.encode() + b"<?x?>", 18, 1),
    ],
)
def test_no_processing_instructions(data: bytes, line: int, column: int) -> None:
    assert_refused(data, line, column, "processing instruction", "remove it")


def test_300_kilobytes() -> None:
    assert_refused(GOOD.encode() + b" " * 300_000, 1, 1, "at most 262144")


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_column(codec: str) -> None:
    assert_refused("<html/>".encode(codec), 1, 1, "the document starts with <html>")
    assert_refused("<!--é--><html/>".encode(codec), 1, 9, "the document starts with <html>")
    assert_refused(GOOD.replace("<phlist>", "<phlist>x").encode(codec), 12, 11, "stands in <phlist>")
    assert_refused("".encode(codec), 1, 1, "the XML is empty")


@pytest.mark.parametrize("closed", [True, False])
def test_10_000_levels(closed: bool) -> None:
    assert_refused(b"<a>" * 10_000 + b"</a>" * (10_000 * closed), 1, 3 * MAX_DEPTH + 1, "deeper than 16 levels")


def test_depth_is_refused_only_beyond_the_limit() -> None:
    assert_refused(b"<a>" * MAX_DEPTH + b"</a>" * MAX_DEPTH, 1, 1, "the document starts with <a>")


def test_a_long_namespace_is_not_written_out_for_each_of_many_attributes() -> None:
    attributes = b" ".join(b'p:a%d=""' % number for number in range(1_000))
    xml = b'<event xmlns:p="' + b"u" * 100_000 + b'" ' + attributes + b"/>"
    tracemalloc.start()
    try:
        assert_refused(xml, 1, 1, "without xmlns")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_only_some_words_are_searched_for_a_similar_one(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, int]] = []

    def spy(word: str, possibilities: Collection[str], n: int) -> list[str]:
        compared.append((len(word), len(possibilities)))
        return []

    monkeypatch.setattr(event_types, "get_close_matches", spy)
    many = "".join(f"<placeholder><id>E{number}</id><datatype-string/></placeholder>" for number in range(1_500))
    for wrong in ("Customer.x", "Customer." + "x" * 1_000):
        data = changed("<customeremail>Customer.Email<", f"<customeremail>{wrong}<")
        assert "does not exist" in str(
            refusal(data.replace(b"<id>Customer</id>", b"<id>Customer</id>" + many.encode()))
        )
    assert [(10, 250)] == compared


@pytest.mark.parametrize(
    ("data", "line", "column", "words"),
    [
        (b"", 1, 1, "the XML is empty"),
        (b" \n ", 2, 2, "the XML is empty"),
        (b"<!-- -->", 1, 9, "the XML is empty"),
        (BOM.encode("utf-16-le"), 1, 1, "the XML is empty"),
        (b'{"event": "order_confirmation"}', 1, 1, "this is no XML"),
        (b"PK\x03\x04", 1, 3, "this is no XML"),
        (b"\x00", 1, 1, ""),
        (b"\x00" * 1000, 1, 1, ""),
        (changed("order_confirmation", "order\x00"), 2, 23, "this is no XML"),
        (changed("order_confirmation", "a & b"), 2, 21, "write & as &amp;"),
        (changed("order_confirmation", "ordré").replace("é".encode(), b"\xe9"), 2, 22, "save the file as UTF-8"),
        (changed("</phlist>", ""), 17, 3, "the end tag closes another element"),
        (changed("</event>", ""), 18, 1, "ends too early"),
        (GOOD.encode()[:100], 2, 41, "unclosed token; correct the XML here"),
        (GOOD.encode() + GOOD.encode(), 18, 1, "something follows </event>; remove it"),
        (b"\n" + b'<?xml version="1.0"?>' + GOOD.encode(), 2, 1, "must be the very first"),
        (changed("<phlist>", '<phlist a="" a="">'), 12, 16, "the attribute is there twice"),
        (GOOD.encode("utf-16")[:-1], 17, 9, ""),
    ],
)
def test_what_is_no_xml(data: bytes, line: int, column: int, words: str) -> None:
    assert_refused(data, line, column, words)


@pytest.mark.parametrize(
    ("declared", "codec", "words"),
    [
        ("utf-16", "utf-8", "not in the encoding it names"),
        ("utf-8", "utf-16", "not in the encoding it names"),
        ("us-ascii", "utf-8", "not in the encoding that the XML names"),
        ("no-such", "utf-8", "the encoding 'no-such' is not read; save the XML as UTF-8"),
        ("unicode_escape", "utf-8", "the encoding 'unicode_escape' is not read"),
        ("utf-7", "utf-8", "the encoding 'utf-7' is not read"),
        ("rot13", "utf-8", "the encoding 'rot13' is not read"),
        ("shift_jis", "utf-8", "the encoding 'shift_jis' is not read"),
    ],
)
def test_wrong_encodings(declared: str, codec: str, words: str) -> None:
    xml = f'<?xml version="1.0" encoding="{declared}"?>{GOOD.replace("Customer", "Käufer")}'
    assert words in str(refusal(xml.encode(codec)))


CODECS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "iso-8859-1"])
DECLARATIONS = st.sampled_from(
    ["", *(f'<?xml version="1.0" encoding="{name}"?>' for name in ("utf-8", "utf-16", "cp1252"))]
)
PIECES = sorted(
    {*re.findall(r"</?[a-z-]+|[A-Z][a-z]+|[^<A-Z]", GOOD)} | {"<!DOCTYPE event [", "&#x0;", "&e;", "]]>", "<?x"}
)


def parses_or_is_refused(data: bytes) -> None:
    place = 1, 1
    parsed = None
    try:
        parsed = parse_event_type(data)
    except EventTypeRefused as refused:
        place = refused.line, refused.column
    assert min(place) >= 1
    if parsed:
        known = {
            Reference(group.id, one.id) for group in parsed.groups for one in group.placeholders if not group.is_list
        }
        assert {parsed.customer_mapping, parsed.customer_email, parsed.tracking} <= {None, *known}


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-16", "surrogatepass")))
def test_arbitrary_bytes(data: bytes) -> None:
    parses_or_is_refused(data)


@settings(max_examples=300, deadline=None)
@given(
    DECLARATIONS,
    CODECS,
    st.lists(st.tuples(st.integers(0, 2_000), st.integers(0, 20), st.binary(max_size=4)), max_size=4),
)
def test_arbitrary_bytes_in_a_good_document(declaration: str, codec: str, edits: list[tuple[int, int, bytes]]) -> None:
    data = (declaration + GOOD).encode(codec)
    for start, removed, inserted in edits:
        data = data[:start] + inserted + data[start + removed :]
    parses_or_is_refused(data)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 2), st.sampled_from(PIECES)), min_size=1, max_size=4))
def test_arbitrary_pieces_of_xml_in_a_good_document(edits: list[tuple[int, int, str]]) -> None:
    pieces = re.findall(r"<[^>]*>|[^<]+", GOOD)
    for start, removed, inserted in edits:
        pieces[start : start + removed] = [inserted]
    parses_or_is_refused("".join(pieces).encode())


# The permission in an event's data.


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, Permission.GRANTED),
        ("true", Permission.GRANTED),
        ("TRUE", Permission.GRANTED),
        (False, Permission.DENIED),
        ("false", Permission.DENIED),
        ("False", Permission.DENIED),
        (None, Permission.UNKNOWN),
        ("", Permission.UNKNOWN),
        ("yes", Permission.UNKNOWN),
        (" true", Permission.UNKNOWN),
        (1, Permission.UNKNOWN),
        (0, Permission.UNKNOWN),
        (1.0, Permission.UNKNOWN),
        ([True], Permission.UNKNOWN),
        ({"true": True}, Permission.UNKNOWN),
    ],
)
def test_values_of_a_permission(value: object, expected: Permission) -> None:
    assert expected is permission_of(PARSED, {"Customer": {"Id": 4711, "Tracking": value}})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("ja", Permission.GRANTED),
        ("JA", Permission.GRANTED),
        (True, Permission.GRANTED),
        ("STRASSE", Permission.DENIED),
        (False, Permission.DENIED),
        ("true", Permission.UNKNOWN),
        ("false", Permission.UNKNOWN),
    ],
)
def test_own_patterns_take_the_place_of_true_and_false(value: object, expected: Permission) -> None:
    patterns = 'Tracking</id><datatype-boolean truePattern="Ja" falsePattern="Straße"'
    event_type = parse_event_type(changed("Tracking</id><datatype-boolean", patterns))
    assert expected is permission_of(event_type, {"Customer": {"Tracking": value}})


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"Customer": {}},
        {"Customer": None},
        {"Customer": [{"Tracking": True}]},
        {"customer": {"Tracking": True}},
        {"Customer": {"tracking": True}},
        {"Customer": True},
        {"Customer.Tracking": True},
        {"Tracking": True},
    ],
)
def test_data_without_a_permission(payload: dict[str, object]) -> None:
    assert Permission.UNKNOWN is permission_of(PARSED, payload)


def test_an_event_type_that_names_no_permission() -> None:
    event_type = parse_event_type(changed("  <customertracking>Customer.Tracking</customertracking>\n", ""))
    assert Permission.UNKNOWN is permission_of(event_type, {"Customer": {"Tracking": True}})


@pytest.mark.parametrize(
    "tracking", [Reference("Customer", "Email"), Reference("Articles", "Gift"), Reference("A", "B")]
)
def test_an_event_type_from_elsewhere_whose_permission_cannot_be_one(tracking: Reference) -> None:
    event_type = EventType("a", None, None, tracking, PARSED.groups)
    payload = {tracking.group: {tracking.placeholder: True}}
    assert Permission.UNKNOWN is permission_of(event_type, payload)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["True", "FALSE"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["Customer", "Tracking", "x"]), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["Customer", "x"]), JSON | st.dictionaries(st.just("Tracking"), JSON)))
def test_only_true_grants(payload: dict[str, object]) -> None:
    customer = payload.get("Customer")
    value = customer.get("Tracking") if isinstance(customer, dict) else None
    granted = value is True or (isinstance(value, str) and value.lower() == "true")
    assert granted is (permission_of(PARSED, payload) is Permission.GRANTED)


def test_what_templates_leave_empty_names_nothing() -> None:
    written = GOOD.replace("<customermapping>Customer.Id<", "<customermapping><")
    assert written != GOOD
    assert parse_event_type(written.encode()).customer_mapping is None


# What values look like.


def placeholder_of(datatype: str) -> Placeholder:
    (group,) = parse_event_type(
        SMALL.replace(
            "</event>", f"<phgroup><id>A</id><placeholder><id>B</id>{datatype}</placeholder></phgroup></event>"
        ).encode()
    ).groups
    return group.placeholders[0]


@pytest.mark.parametrize(
    ("datatype", "expected"),
    [
        ("<datatype-double/>", Placeholder("B", "double")),
        ('<datatype-double decimalSeparator=","/>', Placeholder("B", "double", "true", "false", ",", ".")),
        (
            '<datatype-double decimalSeparator="," groupingSeparator=""/>',
            Placeholder("B", "double", "true", "false", ",", ""),
        ),
        ('<datatype-double groupingSeparator=" "/>', Placeholder("B", "double", grouping_separator=" ")),
        ("<datatype-datetime/>", Placeholder("B", "datetime")),
        (
            '<datatype-datetime pattern="dd.MM.yyyy" timezone="Europe/Berlin"/>',
            Placeholder("B", "datetime", pattern="dd.MM.yyyy", timezone="Europe/Berlin"),
        ),
    ],
)
def test_separators_and_patterns_are_kept(datatype: str, expected: Placeholder) -> None:
    assert expected == placeholder_of(datatype)


@pytest.mark.parametrize(
    ("datatype", "words"),
    [
        ('<datatype-double decimalSeparator=""/>', "decimalSeparator is one character"),
        ('<datatype-double decimalSeparator=",," />', "decimalSeparator is one character"),
        ('<datatype-double decimalSeparator="," groupingSeparator=","/>', "another one or none"),
        ('<datatype-double decimalSeparator="0"/>', "no letters, digits or signs"),
        ('<datatype-double groupingSeparator="-"/>', "no letters, digits or signs"),
        ('<datatype-datetime pattern="dd. MMMM yyyy"/>', "'MMMM' is not read"),
        ('<datatype-datetime pattern=""/>', "a pattern has 1 to 100 characters"),
        ('<datatype-datetime timezone="Europe/Berlim"/>', "the time zone 'Europe/Berlim' is not known"),
    ],
)
def test_separators_and_patterns_that_cannot_be(datatype: str, words: str) -> None:
    with pytest.raises(EventTypeRefused, match=re.escape(words)):
        placeholder_of(datatype)
