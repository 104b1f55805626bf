"""`space`, `event`, `mailing` and `keys` on the command line: what they change, print and refuse."""

import json
import re
import stat
from pathlib import Path
from typing import Any

import pytest

from app.store import keys as key_store
from app.tracking.fingerprints import SHOWN_RECIPIENTS, Fingerprints
from tests.integration.commandline import CommandLine, mailtrail, migrated  # noqa: F401  (fixtures)

IN_NEWS = ("--space", "Shop", "--event", "news")


@pytest.fixture
def shop(mailtrail: CommandLine) -> CommandLine:  # noqa: F811
    mailtrail.run("space", "create", "Shop")
    mailtrail.run("event", "create", "news", "--space", "Shop")
    return mailtrail


def send(shop: CommandLine, mailing: str = "November", event: str = "news", recipient: str = "r") -> None:
    html = b'<a href="https://shop.example/a?id=1">A</a><a href="https://shop.example/b">B</a>'
    address = ("--space", "Shop", "--event", event, "--mailing", mailing)
    shop.run("rewrite", *address, "--recipient", recipient, "--permission", "denied", stdin=html)


def strangers(shop: CommandLine, mailing: str) -> list[str]:
    """As many recipients as show a link, whose marks differ."""
    ((key,),) = shop.query("select key from vault.link_key")
    fingerprints = Fingerprints(key, int(mailing, 16))
    by_mark = {fingerprints.mark(f"r{candidate}"): f"r{candidate}" for candidate in range(1_000)}
    return list(by_mark.values())[:SHOWN_RECIPIENTS]


# --- spaces and events -----------------------------------------------------------------------------------------------


def test_a_space_is_made_shown_changed_and_deleted(mailtrail: CommandLine) -> None:  # noqa: F811
    assert "make one with `mailtrail space create`" in mailtrail.run("space", "list").stderr
    assert [] == mailtrail.json("space", "list")
    made = mailtrail.run(
        "space",
        "create",
        "Shop",
        "--default",
        "person_based",
        "--acknowledge",
        "consent",
        "--url",
        "https://T.shop.example/",
    )
    assert re.search(
        r"id [0-9a-f]{8}, default person_based, relay off, links under https://t\.shop\.example$", made.stdout
    )
    (space,) = mailtrail.json("space", "list")
    assert ("Shop", "person_based", "off", "https://t.shop.example", 0) == tuple(
        space[name] for name in ("name", "default", "relay", "url", "events")
    )
    assert space["id"] in mailtrail.run("space", "list").stdout

    mailtrail.run(
        "space",
        "change",
        space["id"],
        "--default",
        "anonymized",
        "--relay",
        "person_based",
        "--acknowledge",
        "consent",
        "--url",
        "",
    )
    shown = mailtrail.json("space", "show", "Shop")
    assert ("anonymized", "person_based", None) == (shown["default"], shown["relay"], shown["url"])
    assert re.search(r"^relay +person_based$", mailtrail.run("space", "show", "Shop").stdout, re.M)

    mailtrail.run("space", "delete", "Shop", "--yes")
    assert "there is no space 'Shop'" in mailtrail.refusal("space", "show", "Shop")
    actions = [row["action"] for row in mailtrail.query("select action from mailtrail.audit order by id")]
    assert ["space created", "key made", "space changed", "space deleted"] == actions


def test_a_space_is_deleted_only_by_a_yes(shop: CommandLine) -> None:
    refused = shop.invoke("space", "delete", "Shop", stdin=b"n\n")
    assert (1, "") == (refused.exit_code, refused.stdout)
    assert "still redirect" in refused.stderr
    assert "nothing is recorded" in refused.stderr
    assert 1 == shop.invoke("space", "delete", "Shop").exit_code  # nobody there to ask
    assert ["Shop"] == [space["name"] for space in shop.json("space", "list")]
    shop.run("space", "delete", "Shop", stdin=b"y\n")
    assert [] == shop.json("space", "list")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--relay", "permission"], "cannot track by permission.*choose off, anonymized or person_based"),
        (["--relay", "by_permission"], "cannot track by permission"),
        (["--relay", "aggregate"], "relay is off, anonymized or person_based"),
        (["--default", "off"], "default is anonymized or person_based"),
        (["--default", ""], "default is anonymized or person_based"),
        (["--url", "t.shop.example"], "absolute http or https URL"),
        (["--url", "https://t.shop.example/?a"], "absolute http or https URL"),
    ],
)
def test_what_no_space_may_be_is_refused_and_changes_nothing(
    shop: CommandLine, options: list[str], reason: str
) -> None:
    before = shop.json("space", "list")
    assert re.search(reason, shop.refusal("space", "create", "New", *options))
    assert re.search(reason, shop.refusal("space", "change", "Shop", *options))
    assert before == shop.json("space", "list")


def test_names_are_refused_with_a_way_out(shop: CommandLine) -> None:
    assert "there is a space 'Shop' already" in shop.refusal("space", "create", "Shop")
    assert "printable" in shop.refusal("space", "create", "a\nb\x07")
    assert "has an event 'news' already" in shop.refusal("event", "create", "news", "--space", "Shop")
    assert "there are: Shop" in shop.refusal("event", "list", "--space", "Chop")
    assert "there are: news" in shop.refusal("event", "change", "newt", "--space", "Shop", "--tracking", "inherit")
    assert "permission or inherit" in shop.refusal("event", "change", "news", "--space", "Shop", "--tracking", "all")


def test_wrong_use_is_told_by_click(shop: CommandLine) -> None:
    assert "nothing is to be changed" in shop.misuse("space", "change", "Shop")
    assert "Missing option '--space'" in shop.misuse("event", "create", "x")
    assert "Missing argument" in shop.misuse("space", "create")
    assert "No such command" in shop.misuse("space", "destroy", "Shop")


def test_an_event_is_made_listed_and_changed(shop: CommandLine) -> None:
    shop.run("event", "create", "invoice", "--space", "Shop", "--by-permission")
    tracking = {event["name"]: event["tracking"] for event in shop.json("event", "list", "--space", "Shop")}
    assert {"invoice": "permission", "news": "inherit"} == tracking
    assert all(re.fullmatch("[0-9a-f]{8}", event["id"]) for event in shop.json("event", "list", "--space", "Shop"))
    changed = shop.run("event", "change", "news", "--space", "Shop", "--tracking", "permission")
    assert "recipient's permission" in changed.stdout
    shop.run("event", "change", "invoice", "--space", "Shop", "--tracking", "inherit")
    tracking = {event["name"]: event["tracking"] for event in shop.json("event", "list", "--space", "Shop")}
    assert {"invoice": "inherit", "news": "permission"} == tracking


def test_lists_are_whole_lines_wherever_they_go(shop: CommandLine) -> None:
    long = "a name that is longer than any terminal is wide " * 3 + ":smile: [bold]"
    shop.run("space", "create", long)
    lines = shop.run("space", "list").stdout.splitlines()
    assert 3 == len(lines)
    assert all(line == line.rstrip() for line in lines)
    (space,) = (space for space in shop.json("space", "list") if space["name"] == long)
    assert any(line.startswith(space["id"]) and long in line for line in lines)


# --- mailings and their links ----------------------------------------------------------------------------------------


def values(link: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(link[name] for name in ("number", "pattern", "label", "shown"))


def test_a_mailing_with_its_links_and_denominators(shop: CommandLine) -> None:
    assert "`mailtrail rewrite` makes one" in shop.run("mailing", "list", "--space", "Shop").stderr
    shop.run("mailing", "create", "November", *IN_NEWS)
    assert "no links yet" in shop.run("mailing", "links", "November", *IN_NEWS).stderr
    assert "nothing was sent" in shop.run("mailing", "sent", "November", *IN_NEWS).stderr
    send(shop)
    send(shop)
    (mailing,) = shop.json("mailing", "list", "--space", "Shop")
    assert re.fullmatch("[0-9a-f]{12}", mailing["id"])
    assert ("November", "news", 2, 2) == tuple(mailing[name] for name in ("name", "event", "links", "sent"))
    assert [{"ceiling": "anonymized", "messages": 2, "reason": None}] == shop.json(
        "mailing", "sent", "November", *IN_NEWS
    )
    hidden = shop.json("mailing", "links", mailing["id"], "--space", "Shop")
    text = ("https://shop.example (hidden until 5 recipients have had it)", "", False)
    assert [(1, *text), (2, *text)] == [values(link) for link in hidden]
    for recipient in strangers(shop, mailing["id"]):
        send(shop, recipient=recipient)
    shown = [(1, "https://shop.example/a?id", "A", True), (2, "https://shop.example/b", "B", True)]
    assert shown == [values(link) for link in shop.json("mailing", "links", "November", *IN_NEWS)]
    assert "there are: news" in shop.refusal("mailing", "create", "x", "--space", "Shop", "--event", "newt")
    assert "has a mailing 'November' already" in shop.refusal("mailing", "create", "November", *IN_NEWS)


def test_a_mailing_is_found_by_name_in_its_space_unless_several_have_it(shop: CommandLine) -> None:
    shop.run("event", "create", "invoice", "--space", "Shop")
    send(shop)
    assert 2 == len(shop.json("mailing", "links", "November", "--space", "Shop"))
    send(shop, event="invoice")
    refusal = shop.refusal("mailing", "links", "November", "--space", "Shop")
    assert "invoice, news" in refusal
    assert "name the event" in refusal
    assert 2 == len(shop.json("mailing", "links", "November", *IN_NEWS))
    only_news = shop.json("mailing", "list", *IN_NEWS)
    assert ["news"] == [mailing["event"] for mailing in only_news]
    assert 2 == len(shop.json("mailing", "list", "--space", "Shop"))
    assert "there are: November" in shop.refusal("mailing", "sent", "Nov", "--space", "Shop")


def test_a_link_is_redirected_switched_off_and_restored(shop: CommandLine) -> None:
    send(shop)

    def state() -> tuple[bool, str | None]:
        link = shop.json("mailing", "links", "November", *IN_NEWS)[0]
        return link["switched_off"], link["goes_to"]

    assert (False, None) == state()
    shop.run("mailing", "redirect-link", "November", "1", "--to", "https://shop.example/new?id={id}", *IN_NEWS)
    assert (False, "https://shop.example/new?id={id}") == state()
    shop.run("mailing", "switch-off-link", "November", "1", "--space", "Shop")
    assert (True, None) == state()
    shop.run("mailing", "restore-link", "November", "1", *IN_NEWS)
    assert (False, None) == state()
    actions = [
        row["action"] for row in shop.query("select action from mailtrail.audit where object like '%/1' order by id")
    ]
    assert ["link corrected", "link switched off", "link restored"] == actions


def test_a_link_is_not_redirected_to_just_anything(shop: CommandLine) -> None:
    send(shop)
    redirect = ("mailing", "redirect-link", "November")
    assert "javascript" in shop.refusal(*redirect, "1", "--to", "javascript:alert(1)", *IN_NEWS)
    assert "placeholder" in shop.refusal(*redirect, "1", "--to", "https://{id}.example/", *IN_NEWS)
    assert "`mailtrail mailing links`" in shop.refusal(*redirect, "3", "--to", "https://shop.example/", *IN_NEWS)
    assert "no link 9" in shop.refusal("mailing", "switch-off-link", "November", "9", *IN_NEWS)
    assert "no link 9" in shop.refusal("mailing", "restore-link", "November", "9", *IN_NEWS)
    assert "0 is not in the range" in shop.misuse("mailing", "switch-off-link", "November", "0", *IN_NEWS)
    assert [None, None] == [link["goes_to"] for link in shop.json("mailing", "links", "November", *IN_NEWS)]


# --- keys ------------------------------------------------------------------------------------------------------------


def test_keys_are_rotated_and_revoked(shop: CommandLine) -> None:
    (first,) = shop.json("keys", "list")
    assert re.fullmatch("[0-9a-f]{6}", first["id"])
    assert ("Shop", "minting", None) == (first["space"], first["state"], first["exported"])
    assert "`mailtrail keys rotate`" in shop.refusal("keys", "create", "--space", "Shop")
    shop.run("keys", "rotate", "--space", "Shop")
    old, new = shop.json("keys", "list", "--space", "Shop")
    assert (first["id"], "decoding", "minting") == (old["id"], old["state"], new["state"])

    refused = shop.invoke("keys", "revoke", new["id"], stdin=b"n\n")
    assert 1 == refused.exit_code
    assert "404 for ever" in refused.stderr
    assert ["decoding", "minting"] == [key["state"] for key in shop.json("keys", "list")]
    revoked = shop.run("keys", "revoke", new["id"], "--yes")
    assert "mailtrail keys create --space 'Shop'" in revoked.stdout
    assert ["decoding", "revoked"] == [key["state"] for key in shop.json("keys", "list")]
    shop.run("keys", "create", "--space", "Shop")
    assert ["decoding", "revoked", "minting"] == [key["state"] for key in shop.json("keys", "list")]


def test_a_key_that_is_none_is_refused(shop: CommandLine) -> None:
    unknown = "000001" if shop.json("keys", "list")[0]["id"] != "000001" else "000002"
    assert "`mailtrail keys list`" in shop.refusal("keys", "revoke", unknown, "--yes")
    for word in ("xyz", "1000000", "0", "-1"):
        assert "is no key's id" in shop.misuse("keys", "revoke", "--yes", "--", word)


def test_an_export_goes_into_a_file_that_only_its_owner_reads(shop: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    exported = shop.run("keys", "export", "--output", str(file))
    assert "" == exported.stdout
    assert "forge" in exported.stderr
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    assert 1 == len(key_store.read_export(json.loads(file.read_bytes())))
    assert shop.json("keys", "list")[0]["exported"] is not None

    file.chmod(0o644)
    content = file.read_bytes()
    shop.run("keys", "rotate", "--space", "Shop")
    assert "--force" in shop.refusal("keys", "export", "--output", str(file))
    assert content == file.read_bytes()
    shop.run("keys", "export", "--output", str(file), "--force")
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    assert 2 == len(key_store.read_export(json.loads(file.read_bytes())))
    assert [file] == list(tmp_path.iterdir())


def test_an_export_that_could_not_be_written_is_none(shop: CommandLine, tmp_path: Path) -> None:
    refusal = shop.refusal("keys", "export", "--output", str(tmp_path / "missing" / "keys.json"))
    assert "nothing was exported" in refusal
    assert shop.json("keys", "list")[0]["exported"] is None
    assert [] == shop.query("select from mailtrail.audit where action = 'keys exported'")


def test_an_export_on_stdout_is_imported_from_stdin(shop: CommandLine, tmp_path: Path) -> None:
    shop.run("space", "create", "Other")
    export = shop.run("keys", "export").stdout_bytes
    assert 1 == len(json.loads(shop.run("keys", "export", "--space", "Other").stdout_bytes)["keys"])
    shop.query("truncate vault.token_keys")
    assert "2 keys imported, 0 were there" in shop.run("keys", "import", "-", stdin=export).stdout
    file = tmp_path / "keys.json"
    file.write_bytes(export)
    assert "0 keys imported, 2 were there" in shop.run("keys", "import", str(file)).stdout
    assert ["minting", "minting"] == [key["state"] for key in shop.json("keys", "list")]
    assert "no JSON" in shop.refusal("keys", "import", "-", stdin=b"{")
    assert "`mailtrail keys export`" in shop.refusal("keys", "import", "-", stdin=b"{}")
    assert "No such file" in shop.misuse("keys", "import", str(tmp_path / "missing"))
