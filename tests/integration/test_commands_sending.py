"""`rewrite` and `link` on the command line: bytes in and out, what is said on stderr, and what is refused."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.sending.minting import click_token, pixel_tokens
from app.store.keys import read_export
from app.tracking.modes import Mode, Permission
from app.tracking.tokens import KeyRing, Kind
from tests.integration.commandline import CommandLine, mailtrail, migrated  # noqa: F401  (fixtures)

CHECKOUT = Path(__file__).parents[2]
MAILS = CHECKOUT / "tests" / "mails"
RECIPIENT = "erika@example.com"
ADDRESS = ("--space", "Shop", "--event", "news", "--mailing", "November")
PERSON = ("--recipient", RECIPIENT, "--permission", "granted")
URL = "https://shop.example/a?id=1"


@pytest.fixture
def shop(mailtrail: CommandLine) -> CommandLine:  # noqa: F811
    mailtrail.run("space", "create", "Shop", "--default", "person_based", "--acknowledge", "consent")
    mailtrail.run("event", "create", "news", "--space", "Shop")
    return mailtrail


def process(*arguments: str, stdin: bytes | int = b"") -> subprocess.CompletedProcess[bytes]:
    given = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments], capture_output=True, cwd=CHECKOUT, timeout=60, check=False, **given
    )


def ring(shop: CommandLine) -> KeyRing:
    exported = read_export(json.loads(shop.run("keys", "export").stdout_bytes))
    return KeyRing({each.key.key_id: each.key for each in exported})


def mailings(shop: CommandLine) -> list[str]:
    return [mailing["name"] for mailing in shop.json("mailing", "list", "--space", "Shop")]


# --- rewrite ---------------------------------------------------------------------------------------------------------


def test_a_process_writes_the_mail_to_the_byte_and_says_one_line(shop: CommandLine) -> None:
    """CRLF, bytes that are no UTF-8, no line end at the end: everything that nobody edits comes back."""
    raw = (
        b'Subject: \xe4\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>\xff\x00<a href="'
        + URL.encode()
        + b'">A</a> \r\r\n\n'
    )
    done = process("rewrite", *ADDRESS, *PERSON, stdin=raw)
    assert (0, 1) == (done.returncode, done.stderr.count(b"\n")), done.stderr
    undone = re.sub(rb'<img src="https://t\.example/o/[^>]*>', b"", done.stdout)
    undone = re.sub(rb"https://t\.example/c/[\w-]+", URL.encode(), undone)
    assert (raw, True) == (undone, undone != done.stdout)


def test_a_process_refuses_in_one_line_with_its_exit_code(shop: CommandLine) -> None:
    refused = process("rewrite", *ADDRESS[:2], "--event", "newt", "--mailing", "M", *PERSON, stdin=b"<p>Hello")
    assert (1, b"") == (refused.returncode, refused.stdout)
    assert b"mailtrail: the space has no event 'newt'; there are: news\n" == refused.stderr
    assert [] == mailings(shop)

    misused = process("rewrite", *ADDRESS, stdin=b"<p>Hello")
    assert (2, b"") == (misused.returncode, misused.stdout)
    assert b"Missing option '--recipient'" in misused.stderr


def test_a_terminal_is_no_mail(shop: CommandLine) -> None:
    keyboard, terminal = pty.openpty()
    try:
        refused = process("rewrite", *ADDRESS, *PERSON, stdin=terminal)
    finally:
        os.close(keyboard)
        os.close(terminal)
    assert (2, b"") == (refused.returncode, refused.stdout)
    assert b"< mail.eml" in refused.stderr


def test_a_mail_is_tracked_reported_and_left_alone_the_second_time(shop: CommandLine) -> None:
    raw = (MAILS / "newsletter.eml").read_bytes()
    first = shop.run("rewrite", *ADDRESS, *PERSON, "--report", stdin=raw)
    summary, *report = first.stderr.splitlines()
    assert "tracked 8 links and the pixel, person-based: who opens and clicks is recorded" in summary
    assert "2 opted out" in summary
    assert "2 for unsubscribing" in summary
    assert "the mailing 'November' is new" in summary
    message_id = re.search(r"message id ([\w-]+)", summary)[1]
    assert RECIPIENT == ring(shop).open(message_id, Kind.MESSAGE).message.recipient
    assert 8 == len(report)
    assert "   3  Winterjacken  https://www.bergundtal.example/jacken?farbe&gr&utm_content" in report

    second = shop.run("rewrite", *ADDRESS, *PERSON, stdin=first.stdout_bytes)
    assert first.stdout_bytes == second.stdout_bytes
    assert "nothing tracked; " in second.stderr
    assert "8 tracked already" in second.stderr
    assert "is new" not in second.stderr
    assert [{"ceiling": "person_based", "messages": 1, "reason": None}] == shop.json(
        "mailing", "sent", "November", "--space", "Shop"
    )


@pytest.mark.parametrize(
    "person", [("max@example.com", "granted"), (RECIPIENT, "denied"), ("max@example.com", "denied")]
)
def test_a_process_refuses_a_mail_that_was_rewritten_for_another(shop: CommandLine, person: tuple[str, str]) -> None:
    first = shop.run("rewrite", *ADDRESS, *PERSON, stdin=(MAILS / "newsletter.eml").read_bytes())
    other = ("--recipient", person[0], "--permission", person[1])
    refused = process("rewrite", *ADDRESS, *other, stdin=first.stdout_bytes)
    assert (1, b"") == (refused.returncode, refused.stdout)
    assert 1 == refused.stderr.count(b"\n")
    assert b"made for another" in refused.stderr
    assert b"rewrite the original anew for each recipient" in refused.stderr
    assert RECIPIENT.encode() not in refused.stderr
    assert "another mailing" in shop.refusal(
        "rewrite", *ADDRESS[:4], "--mailing", "M", *PERSON, stdin=first.stdout_bytes
    )
    assert ["November"] == mailings(shop)
    assert [{"ceiling": "person_based", "messages": 1, "reason": None}] == shop.json(
        "mailing", "sent", "November", "--space", "Shop"
    )


def test_links_that_are_tracked_for_another_are_warned_of(shop: CommandLine) -> None:
    theirs = shop.run("link", URL, *ADDRESS, *PERSON).stdout.strip()
    mail = f"Subject: x\n\n{theirs} https://shop.example/b\n".encode()
    other = ("--recipient", "max@example.com", "--permission", "granted")
    done = shop.run("rewrite", *ADDRESS, *other, stdin=mail)
    assert theirs.encode() in done.stdout_bytes
    assert "tracked 1 link, " in done.stderr
    assert "left as they were: 1 tracked for another mail; careful: a click on that one link is recorded" in done.stderr
    ours = shop.run("rewrite", *ADDRESS, *PERSON, stdin=mail)
    assert "1 tracked already" in ours.stderr
    assert "careful" not in ours.stderr


def test_a_report_has_the_text_of_links_that_are_hidden(shop: CommandLine) -> None:
    html = b"<a href='https://shop.example/account/otto-the-great'>Otto, your account</a>"
    done = shop.run("rewrite", *ADDRESS, *PERSON, "--report", stdin=html)
    assert "   1  Otto, your account  https://shop.example/account/otto-the-great" in done.stderr
    (link,) = shop.json("mailing", "links", "November", "--space", "Shop")
    assert ("https://shop.example (hidden until 5 recipients have had it)", "", False) == (
        link["pattern"],
        link["label"],
        link["shown"],
    )


def test_a_protected_mail_comes_back_and_counts_as_untracked(shop: CommandLine) -> None:
    raw = b"DKIM-Signature: v=1\r\nSubject: x\r\n\r\n" + URL.encode()
    done = shop.run("rewrite", *ADDRESS, *PERSON, stdin=raw)
    assert b"X-Mailtrail-Untracked: dkim\r\n" + raw == done.stdout_bytes
    assert "counts as sent untracked; left as they were: 1 mail signed with DKIM" in done.stderr
    assert [{"ceiling": "off", "messages": 1, "reason": "dkim"}] == shop.json(
        "mailing", "sent", "November", "--space", "Shop"
    )


@pytest.mark.parametrize(
    ("options", "raw", "tracked"),
    [
        ((), b"<p><a href='https://a.example/'>x</a>", True),
        (("--html",), b"Hello {% x %}: <a href='https://a.example/'>x</a>", True),
        (("--eml",), b"\n\nhttps://a.example/", True),
        (("--eml", "--no-text"), b"\n\nhttps://a.example/", False),
        (("--no-text",), b"Subject: x\n\nhttps://a.example/", False),
        ((), b"Subject: x\n\nhttps://a.example/", True),
    ],
)
def test_the_form_is_seen_or_said(shop: CommandLine, options: tuple[str, ...], raw: bytes, tracked: bool) -> None:
    done = shop.run("rewrite", *ADDRESS, *PERSON, *options, stdin=raw)
    assert tracked is (b"https://t.example/c/" in done.stdout_bytes)
    assert tracked is (b"https://a.example/" not in done.stdout_bytes)


@pytest.mark.parametrize(
    ("person", "raw", "reason"),
    [
        (PERSON, b"", "it is empty"),
        (PERSON, b" \n", "it is empty"),
        (PERSON, b"Hello Erika", "--eml or --html"),
        (("--recipient", "", "--permission", "granted"), b"<p>", "recipient is empty"),
        (("--recipient", "a\nb", "--permission", "granted"), b"<p>", "control characters"),
        (("--recipient", "a\udcff", "--permission", "granted"), b"<p>", "control characters"),
        (("--recipient", "x" * 321, "--permission", "granted"), b"<p>", "321 bytes"),
        (("--recipient", "r", "--permission", "yes"), b"<p>", "granted, denied or unknown"),
    ],
)
def test_what_cannot_be_rewritten_is_refused_and_makes_nothing(
    shop: CommandLine, person: tuple[str, ...], raw: bytes, reason: str
) -> None:
    assert reason in shop.refusal("rewrite", *ADDRESS, *person, stdin=raw)
    assert [] == mailings(shop)


def test_a_mailing_is_not_left_behind_by_a_refusal(shop: CommandLine) -> None:
    (key,) = shop.json("keys", "list")
    shop.run("keys", "revoke", key["id"], "--yes")
    assert "no minting key" in shop.refusal("rewrite", *ADDRESS, *PERSON, stdin=b"<p>")
    assert [] == mailings(shop)


# --- link ------------------------------------------------------------------------------------------------------------


def test_a_link_its_pixel_and_a_further_link_are_one_message(shop: CommandLine) -> None:
    first = shop.run("link", URL, *ADDRESS, *PERSON)
    assert 1 == first.stdout.count("\n")
    message_id = re.search(r"link 1, person-based: .*; message id ([\w-]+)\n", first.stderr)[1]
    pixel = shop.run("link", "--pixel", "--message-id", message_id).stdout
    second = shop.json("link", "https://shop.example/b", "--message-id", message_id)
    assert (2, "person_based", message_id) == (second["link"], second["ceiling"], second["message_id"])
    keys = ring(shop)
    (pixel_token,) = pixel_tokens([pixel.encode()])
    opened = [
        keys.open(click_token(first.stdout.strip()), Kind.CLICK),
        keys.open(click_token(second["url"]), Kind.CLICK),
        keys.open(pixel_token, Kind.OPEN),
    ]
    assert {keys.open(message_id, Kind.MESSAGE).message} == {token.message for token in opened}
    assert [URL, "https://shop.example/b", ""] == [token.destination for token in opened]
    assert [1, 2, 0] == [token.link for token in opened]
    links = shop.json("mailing", "links", "November", "--space", "Shop")
    assert [1, 2] == [link["number"] for link in links]
    assert [{"ceiling": "person_based", "messages": 1, "reason": None}] == shop.json(
        "mailing", "sent", "November", "--space", "Shop"
    )


def test_a_further_link_of_an_anonymized_mail(shop: CommandLine) -> None:
    shop.run("space", "change", "Shop", "--default", "anonymized")
    done = shop.run("rewrite", *ADDRESS, *PERSON, stdin=b"<p><a href='https://shop.example/a'>A</a>")
    message_id = re.search(r"message id ([\w-]+)", done.stderr)[1]
    shop.run("space", "change", "Shop", "--default", "person_based", "--acknowledge", "consent")
    minted = shop.json(
        "link", f"https://shop.example/u/{RECIPIENT}", "--message-id", message_id, "--recipient", RECIPIENT
    )
    assert ("anonymized", 2) == (minted["ceiling"], minted["link"])
    token = ring(shop).open(click_token(minted["url"]), Kind.CLICK)
    assert (Mode.ANONYMIZED, None) == (token.message.ceiling, token.message.recipient)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("ftp://a.example/", *ADDRESS, *PERSON), "use http or https"),
        (("javascript:alert(1)", *ADDRESS, *PERSON), "use http or https"),
        (("/a", *ADDRESS, *PERSON), "write the whole URL"),
        (("https://a.example/" + "x" * 6_000, *ADDRESS, *PERSON), "leave it untracked"),
        ((URL, *ADDRESS, "--recipient", "r", "--permission", "maybe"), "granted, denied or unknown"),
        ((URL, "--message-id", "abc"), "no message id"),
    ],
)
def test_what_cannot_be_minted_is_refused_and_counts_nothing(
    shop: CommandLine, arguments: tuple[str, ...], reason: str
) -> None:
    assert reason in shop.refusal("link", *arguments)
    assert [] == mailings(shop)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((*ADDRESS, *PERSON), "either a URL or --pixel"),
        ((URL, "--pixel", *ADDRESS, *PERSON), "either a URL or --pixel"),
        ((URL, "--space", "Shop", *PERSON), "--event, --mailing missing"),
        ((URL, *ADDRESS, "--permission", "granted"), "--recipient missing"),
        ((URL, *ADDRESS, *PERSON, "--ceiling", "anonymized"), "go with --keys"),
        ((URL, *ADDRESS, *PERSON, "--number", "1"), "go with --keys"),
        ((URL, *ADDRESS, *PERSON, "--message-id", "abc"), "leave out --space, --event, --mailing, --permission"),
    ],
)
def test_a_wrong_use_of_link_is_told(monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], reason: str) -> None:
    monkeypatch.setenv("MAILTRAIL_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    assert reason in " ".join(CommandLine("").misuse("link", *arguments).split())


# --- link without a database -----------------------------------------------------------------------------------------

IDS = ("--space", "1a2b", "--event", "00000005", "--mailing", "0000000000C6")


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """A sender that has an export in `keys.json` and reaches no database."""
    monkeypatch.setenv("MAILTRAIL_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("MAILTRAIL_PUBLIC_URL", "https://t.example")
    monkeypatch.chdir(tmp_path)
    key = {"id": "0000ab", "space": "00001a2b", "space_name": "Shop", "state": "minting", "secret": "07" * 64}
    key["space_deleted"] = False
    Path("keys.json").write_text(json.dumps({"mailtrail_keys": 1, "keys": [key]}))
    return CommandLine("")


def alone_ring() -> KeyRing:
    exported = read_export(json.loads(Path("keys.json").read_bytes()))
    return KeyRing({each.key.key_id: each.key for each in exported})


@pytest.mark.parametrize("ceiling", ["person_based", "anonymized", "aggregate"])
def test_a_key_is_enough_to_mint(alone: CommandLine, ceiling: str) -> None:
    address = (*IDS, *PERSON, "--keys", "keys.json", "--ceiling", ceiling)
    minted = alone.json("link", "https://shop.example/a", *address)
    assert (1, ceiling) == (minted["link"], minted["ceiling"])
    assert minted["url"].startswith("https://t.example/c/")
    token = alone_ring().open(click_token(minted["url"]), Kind.CLICK)
    assert (0x1A2B, 5, 0xC6, Permission.GRANTED) == (
        token.message.space,
        token.message.event,
        token.message.mailing,
        token.message.permission,
    )
    assert (Mode.from_label(ceiling), False, "https://shop.example/a") == (
        token.message.ceiling,
        token.registered,
        token.destination,
    )
    assert (RECIPIENT if ceiling == "person_based" else None) == token.message.recipient


def test_a_further_link_needs_no_database_either(alone: CommandLine) -> None:
    pixel = alone.json("link", "--pixel", *IDS, *PERSON, "--keys", "keys.json", "--ceiling", "person_based")
    further = (
        "--message-id",
        pixel["message_id"],
        "--keys",
        "keys.json",
        "--number",
        "7",
        "--base",
        "https://other.example/",
    )
    second = alone.json("link", URL, *further)
    assert (7, "person_based", pixel["message_id"]) == (second["link"], second["ceiling"], second["message_id"])
    assert second["url"].startswith("https://other.example/c/")
    lowered = alone.json("link", URL, *further, "--ceiling", "anonymized")
    assert "anonymized" == lowered["ceiling"]
    raised = alone.json(
        "link", URL, "--message-id", lowered["message_id"], "--keys", "keys.json", "--ceiling", "person_based"
    )
    assert ("anonymized", 1) == (raised["ceiling"], raised["link"])


def test_below_person_based_no_recipient_is_needed(alone: CommandLine) -> None:
    address = (*IDS, "--permission", "unknown", "--keys", "keys.json")
    alone.run("link", URL, *address, "--ceiling", "anonymized")
    assert "--recipient missing" in alone.misuse("link", URL, *address, "--ceiling", "person_based")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((URL, *IDS, *PERSON), "pass --ceiling aggregate, anonymized or person_based"),
        ((URL, *IDS[2:], *PERSON, "--ceiling", "anonymized"), "--space missing"),
        ((URL, *IDS[:4], "--mailing", "Nov", *PERSON, "--ceiling", "anonymized"), "12 hex digits"),
        ((URL, *IDS[2:], "--space", "123456789", *PERSON, "--ceiling", "anonymized"), "8 hex digits"),
        ((URL, *IDS[2:], "--space", "0", *PERSON, "--ceiling", "anonymized"), "8 hex digits"),
        ((URL, *IDS, *PERSON, "--ceiling", "anonymized", "--number", "0"), "0 is not in the range"),
    ],
)
def test_a_wrong_use_of_keys_is_told(alone: CommandLine, arguments: tuple[str, ...], reason: str) -> None:
    said = re.sub(r"[\s│]+", " ", alone.misuse("link", *arguments, "--keys", "keys.json"))
    assert reason in said


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((URL, *IDS, *PERSON, "--ceiling", "aggregate"), "leave it as it is"),
        ((URL, *IDS, *PERSON, "--ceiling", "off"), "a ceiling is"),
        ((URL, *IDS, *PERSON, "--ceiling", "anonymized", "--base", "t.example"), "absolute http or https URL"),
        ((URL, *IDS[2:], "--space", "7", *PERSON, "--ceiling", "anonymized"), "00000007 has no minting key"),
        ((URL, "--message-id", "abc"), "no message id"),
    ],
)
def test_what_keys_cannot_mint_is_refused(alone: CommandLine, arguments: tuple[str, ...], reason: str) -> None:
    assert reason in alone.refusal("link", *arguments, "--keys", "keys.json")


@pytest.mark.parametrize(("content", "reason"), [(b"", "no JSON"), (b"[]", "`mailtrail keys export`")])
def test_what_is_no_export_is_refused(alone: CommandLine, content: bytes, reason: str) -> None:
    Path("keys.json").write_bytes(content)
    assert reason in alone.refusal("link", URL, *IDS, *PERSON, "--ceiling", "anonymized", "--keys", "keys.json")
