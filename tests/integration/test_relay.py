"""Mails through the real relay, from a real client to a real server, clicked at a real collector: what SQL says."""

import email
import email.policy
import re
import smtplib
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app.sending.html_links import Link
from app.sending.mime import rewrite_mail
from tests.integration.receiver import Receiver
from tests.integration.relaying import HTML, MODES, SENDER, RelayRig, on_the_wire, relaying, send, with_fields
from tests.integration.service import Service, free_port, until

MAILS = sorted((Path(__file__).parents[1] / "mails").glob("*.eml"))
FIREFOX = [("User-Agent", "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0")]
ERIKA = "erika@example.com"


@pytest.fixture(scope="module")
def rig(service: Service) -> Iterator[RelayRig]:
    with relaying(service) as made:
        yield made


@pytest.fixture(autouse=True)
def fresh(rig: RelayRig) -> None:
    rig.receiver.behave()


# --- what arrives, and what is recorded ------------------------------------------------------------------------------


def with_ids(raw: bytes, group: str) -> bytes:
    """With our fields in front; in a file of an mbox behind its first line."""
    first, rest = (raw[: raw.index(b"\n") + 1], raw[raw.index(b"\n") + 1 :]) if raw.startswith(b"From ") else (b"", raw)
    fields = (f"X-Mailtrail-Group: {group}", "X-inx-correlationId1: order-17", "x-inx-CORRELATIONID3: run 4")
    return first + with_fields(rest, *fields)


class Rewritten:
    """A mail as the rewriter alone makes it with the URLs of another, each of which must lead where the link led."""

    def __init__(self, rig: RelayRig, plain: bytes, received: bytes) -> None:
        self._rig = rig
        self.clicks, self.opens = tracked_urls(rig.service.base, received)
        self._waiting = list(self.clicks)
        self.locations: list[str] = []
        raw = rewrite_mail(plain, self._track, self.opens[0] if self.opens else None).raw
        self.raw = raw if raw.endswith(b"\r\n") else raw + b"\r\n"  # behind a pixel at the end, as SMTP needs it
        assert self._waiting == []

    def _track(self, link: Link) -> str | None:
        if not self._waiting:
            return None
        answer = self._rig.service.get(self._waiting[0], FIREFOX)
        assert answer.status == 302
        if answer.location != link.destination:
            return None
        self.locations.append(link.destination)
        return self._waiting.pop(0)


def tracked_urls(base: str, raw: bytes) -> tuple[list[str], list[str]]:
    """Links and pixels as they stand in the decoded texts of a mail, in order."""
    clicks, opens = [], []
    for part in email.message_from_bytes(raw, policy=email.policy.compat32).walk():
        if part.get_content_maintype() == "text" and part.get_filename() is None:
            text = (part.get_payload(decode=True) or b"").replace(b"\0", b"").decode("latin-1")
            clicks += re.findall(re.escape(base) + r"/c/[A-Za-z0-9_-]+", text)
            opens += re.findall(re.escape(base) + r"/o/[A-Za-z0-9_-]+\.gif", text)
    return clicks, opens


OPT_OUTS = re.compile(r"no-track|disable-tracking|skip-click|clicktracking|clicktrack", re.I)


def shown_texts(mail: bytes) -> list[str]:
    """The decoded texts that a mail shows, as the standard library reads them."""
    parts = email.message_from_bytes(mail, policy=email.policy.compat32).walk()
    shown = [part for part in parts if part.get_content_maintype() == "text" and part.get_filename() is None]
    return [(part.get_payload(decode=True) or b"").replace(b"\0", b"").decode("latin-1") for part in shown]


def skeleton(mail: bytes) -> list[tuple[list[tuple[str, str]], bytes]]:
    """Every part's header without its transfer encoding, and the body of what is no shown text."""
    found = []
    for part in email.message_from_bytes(mail, policy=email.policy.compat32).walk():
        header = [(name, str(value)) for name, value in part.items() if name.lower() != "content-transfer-encoding"]
        is_shown = part.get_content_maintype() == "text" and part.get_filename() is None
        has_body = not (part.is_multipart() or is_shown)
        found.append((header, part.get_payload(decode=True) if has_body else b""))
    return found


def assert_only_links_differ(base: str, sent: bytes, received: bytes) -> None:
    """Told without our rewriter: what is between the tracked links, without the pixel, is as it was sent."""
    assert skeleton(received) == skeleton(sent)
    for before, after in zip(shown_texts(sent), shown_texts(received), strict=True):
        without_pixel = re.sub(rf'<img src="{re.escape(base)}/o/[^>]*>', "", after).rstrip()
        kept = re.split(rf'"?{re.escape(base)}/c/[A-Za-z0-9_-]+"?', without_pixel)
        # Opt-outs are taken out, in as many spellings as there are.
        assert OPT_OUTS.search(before) or re.fullmatch('"?[^<]+?"?'.join(map(re.escape, kept)), before.rstrip())


@pytest.mark.parametrize("path", MAILS, ids=lambda path: path.stem)
def test_a_mail_in_all_three_modes(rig: RelayRig, path: Path) -> None:
    raw, group = on_the_wire(path.read_bytes()), path.stem
    for mode, space in MODES.items():
        wire = with_ids(raw, group)
        code, text = rig.send(space, wire, ERIKA)
        (mail,) = rig.receiver.mails
        rig.receiver.mails.clear()
        assert (code, text) == (250, "2.0.0 taken as 1")
        assert (mail.sender, mail.recipients) == (SENDER, [ERIKA])
        if mode == "off":
            assert mail.content == wire
            assert rig.counted(group) == [("off", "off", 1)]
            continue
        if mail.content.removeprefix(b"From ").startswith(b"X-Mailtrail-Untracked: ") or mail.content in (raw, wire):
            assert_left_alone(raw, wire, mail.content)
            continue
        done = Rewritten(rig, raw, mail.content)
        assert done.raw == mail.content
        assert_only_links_differ(rig.service.base, raw, mail.content)
        assert done.clicks or done.opens
        assert [rig.service.get(url, FIREFOX).status for url in done.opens] == [200] * len(done.opens)
        rig.service.wait_for_hits_of(group, mode, len(done.clicks) + len(done.opens))
        assert_recorded(rig, group, mode, done)


def assert_left_alone(raw: bytes, wire: bytes, received: bytes) -> None:
    """A signed mail is as it was, our fields too if DKIM may have signed them; others are without the fields."""
    note = re.match(rb"X-Mailtrail-Untracked: (dkim|signed|encrypted)\r\n", received)
    if note is None:
        assert received == raw
    else:
        assert received[note.end() :] == (wire if note[1] == b"dkim" else raw)


def assert_recorded(rig: RelayRig, group: str, mode: str, done: Rewritten) -> None:
    rows = rig.service.query(
        "select hits.* from mailtrail.hits join mailtrail.mailings on mailings.id = mailing_id"
        " where name = $1 and mode = $2 and hits.event_id = 0 order by link, at",
        group,
        mode,
    )
    assert len(rows) == len(done.clicks) + len(done.opens)
    if mode == "person_based":
        assert {row["recipient"] for row in rows} == {ERIKA}
        assert {tuple(row["correlation_ids"]) for row in rows} == {("order-17", None, "run 4")}
        assert sorted(row["url"] for row in rows if row["kind"] == "click") == sorted(done.locations)
        return
    nothing = ("recipient", "nonce", "url", "user_agent", "client_address", "correlation_ids")
    assert {row[name] for row in rows for name in nothing} == {None}
    assert len({row["pseudonym"] for row in rows}) == 1
    everything = " ".join(str(dict(row)) for row in rows)
    assert not [secret for secret in (ERIKA, "order-17", "run 4") if secret in everything]


def test_off_leaves_no_trace_of_whom_it_went_to(rig: RelayRig) -> None:
    before = rig.metric('mailtrail_relay_mails_total{ceiling="off"}')
    rig.send("Off", with_fields(HTML, "X-Mailtrail-Group: traceless"), "nobody-knows@example.com")
    assert rig.metric('mailtrail_relay_mails_total{ceiling="off"}') == before + 1
    assert rig.counted("traceless") == [("off", "off", 1)]
    rows = rig.service.query(
        "select * from mailtrail.hits join mailtrail.mailings on mailings.id = mailing_id where name = 'traceless'"
    )
    assert rows == []


@pytest.mark.parametrize("space", ["Anonymous", "Personal"])
def test_groups(rig: RelayRig, space: str) -> None:
    rig.send(space, with_fields(HTML, f"X-inx-correlationId1: id of {space}"))
    (named,) = rig.service.query("select count(*) from mailtrail.mailings where name = $1", f"id of {space}")
    # The id of one mail would name its recipient where nobody may be named.
    assert named["count"] == (1 if space == "Personal" else 0)
    day = f"relay {datetime.now(UTC):%Y-%m-%d}"
    before = rig.counted(day)
    rig.send(space, HTML)
    assert sum(row[2] for row in rig.counted(day)) == sum(row[2] for row in before) + 1


def test_setting_changes_reach_the_next_mails(rig: RelayRig) -> None:
    rig.service.run("space", "create", "Moody", "--relay", "anonymized")
    rig.keys["Moody"] = rig.make_key("Moody")
    with rig.client("Moody") as client:
        send(client, HTML)
        rig.service.run("space", "change", "Moody", "--relay", "off")
        until(lambda: send(client, HTML) and rig.receiver.mails[-1].content == HTML, "mails pass as they are")
    assert b"/c/" in rig.receiver.mails[0].content


@pytest.mark.parametrize(
    ("field", "text", "html", "pixel"),
    [
        ("X-PM-TrackLinks: TextOnly", True, False, True),
        ("X-PM-TrackLinks: HtmlOnly", False, True, True),
        ("X-PM-TrackLinks: None", False, False, True),
        ("X-Mailjet-TrackOpen: 0", True, True, False),
        ("X-Mailgun-Track: no", False, False, False),
        ("X-Mailgun-Track: yes", True, True, True),
    ],
)
def test_a_mail_can_take_tracking_away(rig: RelayRig, field: str, text: bool, html: bool, pixel: bool) -> None:
    mail = (
        b"Content-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\n"
        b"see https://shop.example/text now\r\n--b\r\nContent-Type: text/html\r\n\r\n"
        b'<body><a href="https://shop.example/html">x</a></body>\r\n--b--\r\n'
    )
    rig.send("Anonymous", with_fields(mail, field))
    received = rig.receiver.mails[0].content
    tracked = (b"https://shop.example/text" not in received, b"https://shop.example/html" not in received)
    assert (*tracked, b".gif" in received) == (text, html, pixel)
    assert re.findall(rb"^X-(?:M|PM)", received, re.M) == []


def test_a_forwarded_mail_stays_whose_it_was(rig: RelayRig) -> None:
    rig.send("Personal", HTML)
    first = rig.receiver.mails[0].content
    rig.send("Personal", with_fields(first, "X-Mailtrail-Group: forwarded"), "max@example.com")
    assert rig.receiver.mails[1].content == first
    assert rig.counted("forwarded") == [("off", "already_tracked", 1)]


def test_what_dkim_has_signed_is_as_it_was_with_a_word_in_front(rig: RelayRig) -> None:
    signed = with_fields(HTML, "DKIM-Signature: v=1; h=x-pm-tracklinks", "X-PM-TrackLinks: HtmlAndText")
    assert rig.send("Personal", with_fields(signed, "X-Mailtrail-Group: signed"))[0] == 250
    (mail,) = rig.receiver.mails
    assert mail.content == b"X-Mailtrail-Untracked: dkim\r\nX-Mailtrail-Group: signed\r\n" + signed
    assert rig.counted("signed") == [("off", "dkim", 1)]


# --- several recipients ----------------------------------------------------------------------------------------------


def test_each_recipient_gets_a_copy_of_their_own(rig: RelayRig) -> None:
    recipients = ["a@example.com", "b@example.com", "c@example.com"]
    code, text = rig.send("Personal", with_fields(HTML, "X-Mailtrail-Group: copies"), *recipients)
    assert (code, text) == (250, "2.0.0 taken as 3")
    assert [mail.recipients for mail in rig.receiver.mails] == [[each] for each in recipients]
    assert len({mail.content for mail in rig.receiver.mails}) == 3
    for mail in rig.receiver.mails:
        (click,), _ = tracked_urls(rig.service.base, mail.content)
        rig.service.get(click, FIREFOX)
    rig.service.wait_for_hits_of("copies", "person_based", 3)
    rows = rig.service.query("select recipient from analytics.hits where mailing = 'copies' order by recipient")
    assert [row["recipient"] for row in rows] == recipients
    assert rig.counted("copies") == [("person_based", "", 3)]
    assert rig.service.query("select * from mailtrail.relayed") == []


def test_where_tracking_is_off_one_mail_goes_to_all(rig: RelayRig) -> None:
    rig.send("Off", with_fields(HTML, "X-Mailtrail-Group: all"), "a@example.com", "b@example.com")
    (mail,) = rig.receiver.mails
    assert mail.recipients == ["a@example.com", "b@example.com"]
    assert rig.counted("all") == [("off", "off", 2)]


# --- who may send ----------------------------------------------------------------------------------------------------


def test_nobody_sends_without_a_key(rig: RelayRig) -> None:
    with rig.client() as client:
        assert client.mail(SENDER) == (
            530,
            b"5.7.0 Authentication required: a space's name, and an API key with the scope relay",
        )
        assert client.rcpt(ERIKA)[0] == 503
        assert client.docmd("DATA")[0] == 503
    assert rig.receiver.mails == []


def test_a_key_is_of_its_space_and_has_the_scope(rig: RelayRig) -> None:
    wrong = [
        ("Personal", rig.keys["Anonymous"]),
        ("Anonymous", rig.make_key("Anonymous", "mint", "read")),
        ("Anonymous", rig.make_key(None)),
        ("Anonymous", "mtk_nonsense"),
        ("", ""),
    ]
    for user, secret in wrong:
        with rig.client() as client:
            with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
                client.login(user, secret)
            assert refused.value.smtp_code == 535
            assert client.mail(SENDER)[0] == 530


def test_both_ways_to_sign_in_and_the_id_as_the_name(rig: RelayRig) -> None:
    (row,) = rig.service.query("select id from mailtrail.spaces where name = 'Anonymous'")
    for user, method in (("Anonymous", "auth_login"), (f"{row['id']:08x}", "auth_plain")):
        with rig.client() as client:
            client.user, client.password = user, rig.keys["Anonymous"]
            assert client.auth(method[5:].upper(), getattr(client, method))[0] == 235
            assert client.mail(SENDER)[0] == 250


def test_a_revoked_key_is_out_with_the_next_mail(rig: RelayRig) -> None:
    rig.keys["brief"] = rig.make_key("Anonymous")
    with rig.client() as client:
        client.login("Anonymous", rig.keys["brief"])
        assert send(client, HTML)[0] == 250
        rig.service.query(
            "update vault.api_keys set revoked_at = now() where secret_hash = sha256(convert_to($1, 'UTF8'))",
            rig.keys["brief"],
        )
        until(lambda: client.mail(SENDER)[0] == 530 or client.rset()[0] != 250, "the key is out")


# --- the protocol ----------------------------------------------------------------------------------------------------


def test_what_is_offered(rig: RelayRig) -> None:
    with rig.client() as client:
        until(
            lambda: client.ehlo() and "enhancedstatuscodes" not in client.esmtp_features, "what the next server offers"
        )
        assert client.esmtp_features | {"auth": ""} == {
            "size": "26214400",
            "8bitmime": "",
            "smtputf8": "",
            "pipelining": "",
            "auth": "",
        }


def test_size(rig: RelayRig) -> None:
    with rig.client("Anonymous") as client:
        assert client.mail(SENDER, ["SIZE=26214401"])[0] == 552
        assert client.mail(SENDER, ["SIZE=1000"])[0] == 250
        client.rcpt(ERIKA)
        code, text = client.data(HTML + b"x" * 70 + (b"\r\n" + b"y" * 998) * 27_000)
        assert (code, text[:5]) == (552, b"5.3.4")
        assert send(client, HTML)[0] == 250
    assert len(rig.receiver.mails) == 1


def test_8bitmime_and_smtputf8_are_passed_on(rig: RelayRig) -> None:
    mail = b"Subject: \xc3\xbc\r\n\r\n\xff\xfe\x00 8 bits\r\n"
    with rig.client("Off") as client:
        client.command_encoding = "utf-8"
        assert send(client, mail, "jürgen@example.com", options=("BODY=8BITMIME", "SMTPUTF8"))[0] == 250
    (received,) = rig.receiver.mails
    assert received.content == mail
    assert received.recipients == ["jürgen@example.com"]
    assert {"BODY=8BITMIME", "SMTPUTF8"} <= set(received.options)


CONTENTS = [
    b"",
    b"\r\n",
    b"\r\n\r\n",
    b".\r\n",
    b"..\r\n",
    b"\r\n.\r\n",
    b"a\r\n",
    b"ab\r\n.\r\n..x\r\n",
    b"A: b\r\n\r\n.\r\n.\r\n\r\n..\r\n",
    b"A: b\r\n\r\n" + b"." * 70_000 + b"\r\n",
]


@pytest.mark.parametrize("content", CONTENTS, ids=range(len(CONTENTS)))
@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 5, 100_000])
def test_bytes_arrive_as_they_were_however_they_come(rig: RelayRig, content: bytes, piece_bytes: int) -> None:
    if piece_bytes < 5 and len(content) > 1_000:
        piece_bytes *= 1_000
    stuffed = re.sub(rb"(?m)^\.", b"..", content) + b".\r\nNOOP\r\n"
    with rig.client("Off") as client:
        client.mail(SENDER)
        client.rcpt(ERIKA)
        assert client.docmd("DATA")[0] == 354
        assert client.sock is not None
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(stuffed), piece_bytes):
            client.sock.sendall(stuffed[start : start + piece_bytes])
        assert client.getreply()[0] == 250
        assert client.getreply() == (250, b"2.0.0 OK")
    (mail,) = rig.receiver.mails
    assert mail.content == content


def test_commands_in_advance(rig: RelayRig) -> None:
    with rig.client("Off") as client:
        assert client.sock is not None
        envelope = f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<{ERIKA}>\r\nRCPT TO:<>\r\nDATA\r\n".encode()
        client.sock.sendall(2 * (envelope + b"A: b\r\n\r\nc\r\n.\r\n") + b"QUIT\r\n")
        codes = [client.getreply()[0] for _ in range(11)]
    assert codes == [*2 * [250, 250, 501, 354, 250], 221]
    assert [mail.content for mail in rig.receiver.mails] == [b"A: b\r\n\r\nc\r\n"] * 2


@pytest.mark.parametrize("content", [b"A: b\n\nc\r\n", b"A: b\r\n\r\nc\rd\r\n", b"a\r\n\n.\r\nMAIL FROM:<x>\r\n"])
def test_line_ends_that_servers_read_differently_are_refused(rig: RelayRig, content: bytes) -> None:
    with rig.client("Off") as client:
        client.mail(SENDER)
        client.rcpt(ERIKA)
        client.docmd("DATA")
        client.send(content + b"\r\n.\r\n")
        assert client.getreply()[0] == 550
        assert send(client, HTML)[0] == 250


def test_wrong_order_and_unknown_words(rig: RelayRig) -> None:
    with rig.client("Off") as client:
        assert client.rcpt(ERIKA)[0] == 503
        assert client.mail(SENDER)[0] == 250
        assert client.docmd("DATA") == (503, b"5.5.1 send RCPT first; no recipient was accepted")
        assert client.mail(SENDER)[0] == 503
        assert client.rset() == (250, b"2.0.0 OK")
        assert client.docmd("MAIL", "FROM:<a@b> RET=FULL")[0] == 555
        assert client.docmd("EXPN", "x") == (502, b"5.5.1 EXPN not implemented")
        assert client.vrfy("x")[0] == 252
        assert client.docmd("NONSENSE")[1].startswith(b"5.5.2 ")
        assert send(client, HTML, sender="")[0] == 250
    assert rig.receiver.mails[0].sender == "<>"


# --- other relays: each with its own settings ------------------------------------------------------------------------


@pytest.fixture
def other(rig: RelayRig) -> Iterator[Callable[..., RelayRig]]:
    """Starts further relays; they end with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(receiver: Receiver | None = None, **settings: str) -> RelayRig:
        made = RelayRig(rig.service, receiver or rig.receiver, keys=rig.keys)
        started.append(made.start(**settings))
        return made

    yield start
    for process in started:
        process.terminate()
        assert process.wait(30) == 0


def test_one_mail_for_all_is_counted_only(rig: RelayRig, other: Callable[..., RelayRig]) -> None:
    shared = other(envelopes="shared")
    html = b'Content-Type: text/html\r\n\r\n<a href="https://shop.example/sale">x</a>\r\n'
    mail = with_fields(html, "X-Mailtrail-Group: shared", "X-inx-correlationId1: y")
    assert shared.send("Personal", mail, "a@example.com", "b@example.com")[0] == 250
    (received,) = rig.receiver.mails
    assert received.recipients == ["a@example.com", "b@example.com"]
    assert shared.counted("shared") == [("aggregate", "", 2)]
    (click,), (opened,) = tracked_urls(rig.service.base, received.content)
    for url in (click, opened):
        rig.service.get(url, FIREFOX)
    rig.service.wait_for_hits_of("shared", "aggregate", 2)


def test_a_space_for_this_machine(rig: RelayRig, other: Callable[..., RelayRig]) -> None:
    open_here = other(space="Anonymous")
    with open_here.client() as client:
        assert send(client, HTML)[0] == 250
    assert b"/c/" in rig.receiver.mails[0].content


def test_too_many_clients(rig: RelayRig, other: Callable[..., RelayRig]) -> None:
    small = other(connections="1", space="Off")
    with small.client() as client:
        with pytest.raises(smtplib.SMTPConnectError) as refused:
            smtplib.SMTP("127.0.0.1", small.port, timeout=10)
        assert refused.value.smtp_code == 421
        assert send(client, HTML)[0] == 250


def test_what_the_next_server_does_not_offer(rig: RelayRig, other: Callable[..., RelayRig]) -> None:
    with Receiver(without=("8BITMIME", "SMTPUTF8", "SIZE")) as plain:
        old = other(plain, space="Off")
        with old.client() as client:
            # Until it has been there once, everything is offered.
            until(lambda: client.ehlo() and {"8bitmime", "smtputf8"}.isdisjoint(client.esmtp_features), "offered less")
            assert client.docmd("MAIL", f"FROM:<{SENDER}> BODY=8BITMIME")[1].startswith(b"5.6.3")
            assert client.docmd("MAIL", f"FROM:<{SENDER}> SMTPUTF8")[1].startswith(b"5.6.7")
            assert send(client, HTML, options=("SIZE=20", "BODY=7BIT"))[0] == 250
        assert plain.mails[0].options == []


def test_an_idle_client_is_told_when_the_relay_stops_and_a_busy_one_gets_its_answer(rig: RelayRig) -> None:
    stopped = RelayRig(rig.service, rig.receiver, keys=rig.keys)
    process = stopped.start(space="Off")
    with stopped.client() as idle, stopped.client() as busy:
        busy.mail(SENDER)
        busy.rcpt(ERIKA)
        busy.docmd("DATA")
        process.terminate()
        assert idle.getreply()[0] == 421
        busy.send(HTML + b".\r\n")
        assert busy.getreply()[0] == 250
        assert busy.getreply()[0] == 421
    assert process.wait(30) == 0
    assert len(rig.receiver.mails) == 1


# --- TLS -------------------------------------------------------------------------------------------------------------


def certificate(directory: Path, *names: str) -> Path:
    """A self-signed certificate and its key in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "relay.example")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address(each)) for each in names]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / "certificate.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return path


def own_address() -> str | None:
    """An address of this machine that is not its loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        found: str = probe.getsockname()[0]
    return None if ip_address(found).is_loopback else found


def test_starttls_with_clients(tmp_path: Path, rig: RelayRig, other: Callable[..., RelayRig]) -> None:
    file = certificate(tmp_path, "127.0.0.1")
    secure = other(certificate=str(file))
    context = ssl.create_default_context(cafile=str(file))
    with secure.client() as client:
        assert client.starttls(context=context) == (220, b"2.0.0 go ahead")
        client.ehlo()
        assert "starttls" not in client.esmtp_features
        client.login("Anonymous", rig.keys["Anonymous"])
        assert send(client, HTML)[0] == 250
        assert send(client, HTML + b"x\r\n" * 100_000)[0] == 250
        assert client.docmd("STARTTLS")[0] == 454
        assert client.quit()[0] == 221
    assert len(rig.receiver.mails) == 2


def test_what_was_said_before_tls_does_not_count(tmp_path: Path, rig: RelayRig, other: Callable[..., RelayRig]) -> None:
    file = certificate(tmp_path, "127.0.0.1")
    secure = other(certificate=str(file), space="Off")
    context = ssl.create_default_context(cafile=str(file))
    with secure.client() as client:
        assert client.sock is not None
        client.sock.sendall(b"STARTTLS\r\nMAIL FROM:<smuggled@example.com>\r\n")
        assert client.getreply()[0] == 220
        client.sock = context.wrap_socket(client.sock, server_hostname="127.0.0.1")
        client.file = None
        assert client.docmd("NOOP")[0] == 250
        assert client.mail(SENDER)[0] == 503
        client.ehlo()
        assert send(client, HTML)[0] == 250


def test_from_other_machines_only_after_starttls_and_signing_in(
    tmp_path: Path, rig: RelayRig, other: Callable[..., RelayRig]
) -> None:
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address but its loopback's")
    file = certificate(tmp_path, address)
    public = other(host="0.0.0.0", certificate=str(file), space="Off")
    with smtplib.SMTP(address, public.port, timeout=10) as client:
        client.ehlo()
        assert "auth" not in client.esmtp_features
        assert client.docmd("AUTH", "PLAIN AGEAYg==")[0] == 538
        assert client.mail(SENDER)[0] == 530
        client.starttls(context=ssl.create_default_context(cafile=str(file)))
        client.ehlo()
        assert client.mail(SENDER)[0] == 530
        client.login("Anonymous", rig.keys["Anonymous"])
        assert send(client, HTML)[0] == 250


def test_starttls_and_signing_in_at_the_next_server(
    tmp_path: Path, other: Callable[..., RelayRig], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = certificate(tmp_path, "127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with Receiver(tls=context, login=("me", "Geheim")) as guarded:
        signed_in = other(
            guarded, space="Anonymous", upstream_security="starttls", upstream_user="me", upstream_password="Geheim"
        )
        with signed_in.client() as client:
            assert send(client, HTML)[0] == 250
        stranger = other(
            guarded, space="Anonymous", upstream_security="starttls", upstream_user="me", upstream_password="wrong"
        )
        with stranger.client() as client:
            assert client.mail(SENDER) == (451, b"4.4.1 the next mail server cannot be reached; try again later")
        monkeypatch.delenv("SSL_CERT_FILE")
        suspicious = other(guarded, space="Anonymous", upstream_security="starttls")
        with suspicious.client() as client:
            assert client.mail(SENDER)[0] == 451
        assert len(guarded.mails) == 1


# --- what cannot work ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "MAILTRAIL_RELAY_UPSTREAM: the relay needs a mail server"),
        ({"upstream": "smtp.example.com"}, "MAILTRAIL_RELAY_UPSTREAM: give host:port"),
        ({"upstream": "127.0.0.1:9", "host": "0.0.0.0"}, "MAILTRAIL_RELAY_CERTIFICATE"),
        ({"upstream": "127.0.0.1:9", "certificate": "/nowhere.pem"}, "MAILTRAIL_RELAY_CERTIFICATE"),
        ({"upstream": "a.example:25", "upstream_user": "a"}, "MAILTRAIL_RELAY_UPSTREAM_PASSWORD"),
        (
            {
                "upstream": "a.example:25",
                "upstream_user": "a",
                "upstream_password": "Geheim",
                "upstream_security": "none",
            },
            "MAILTRAIL_RELAY_UPSTREAM_SECURITY",
        ),
        ({"upstream": "127.0.0.1:{port}"}, "MAILTRAIL_RELAY_UPSTREAM is this relay itself"),
    ],
)
def test_settings_that_cannot_work(rig: RelayRig, settings: dict[str, str], says: str) -> None:
    port = str(free_port())
    rig.service.settings = {
        f"MAILTRAIL_RELAY_{name.upper()}": value.format(port=port) for name, value in {"port": port, **settings}.items()
    }
    done = rig.service.run("relay", check=False)
    lines = done.stderr.decode().splitlines()
    assert (done.returncode, says in lines[-1]) == (2, True), lines
    assert "Geheim" not in done.stderr.decode()
