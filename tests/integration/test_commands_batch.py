"""`rewrite --batch` on the command line: lines in, lines out, a bar for people, and an end that says how it went."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.commandline import CommandLine, mailtrail, migrated  # noqa: F401  (fixtures)

CHECKOUT = Path(__file__).parents[2]
HTML = "<p>Hello {{ name }}</p><a href='https://shop.example/sale'>Sale</a></body>"
HEAD = {"space": "Shop", "event": "news", "mailing": "May", "html": HTML, "fields": ["name"]}
XML = b"""<event xmlns="http://www.inxmail.com/xcom/eventtype"><eventtype><id>invoice</id></eventtype>
<customermapping>Customer.Id</customermapping><customertracking>Customer.Tracking</customertracking>
<phgroup><id>Customer</id><placeholder><id>Id</id><datatype-string/></placeholder>
<placeholder><id>Tracking</id><datatype-boolean/></placeholder></phgroup></event>"""


@pytest.fixture
def shop(mailtrail: CommandLine) -> CommandLine:  # noqa: F811
    mailtrail.run("space", "create", "Shop", "--default", "person_based", "--acknowledge", "consent")
    mailtrail.run("event", "create", "news", "--space", "Shop")
    return mailtrail


def row(number: int) -> dict[str, Any]:
    return {"recipient": f"r{number}", "permission": "granted", "values": {"name": f"Clara {number}"}}


def written(*lines: Any) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def process(*arguments: str, stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "app", "rewrite", *arguments],
        input=stdin,
        capture_output=True,
        cwd=CHECKOUT,
        timeout=60,
        check=False,
    )


def sent(shop: CommandLine, mailing: str = "May") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = shop.json("mailing", "sent", mailing, "--space", "Shop")
    return found


def test_lines_become_mails(shop: CommandLine) -> None:
    done = process("--batch", stdin=written(HEAD, row(1), row(2)))
    assert (0, b"mailtrail: 2 mails made\n") == (done.returncode, done.stderr)
    first, second, last = map(json.loads, done.stdout.splitlines())
    assert (2, 3, {"done": 2, "refused": 0}) == (first["line"], second["line"], last)
    assert re.search(r"^<p>Hello Clara 2</p><a href='https://t\.example/c/", second["html"])
    assert [2] == [row["messages"] for row in sent(shop)]


def test_refused_lines_are_answered_and_told_by_the_exit_code(shop: CommandLine) -> None:
    done = process("--batch", stdin=written(HEAD, row(1), {"recipient": "x"}, row(3)))
    assert (1, b"mailtrail: 2 mails made; 1 line refused\n") == (done.returncode, done.stderr)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert ["permission"] == [line["problem"]["field"] for line in lines if "problem" in line]


def test_events_say_themselves_whom_they_are_for(shop: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "event.xml").write_bytes(XML)
    definition = ("--definition", str(tmp_path / "event.xml"))
    shop.run("event", "create", "invoices", "--space", "Shop", "--by-permission", *definition)
    head = {"space": "Shop", "event": "invoice", "html": "<p>{{ Customer.Id }}", "fields": ["Customer.Id"]}
    data = [{"payload": {"Customer": {"Id": "17", "Tracking": tracking}}} for tracking in (True, False)]
    for options in (["--events"], ["--batch", "--events"]):
        done = process(*options, stdin=written(head, *data))
        assert 0 == done.returncode, done.stderr
        decided = [json.loads(line)["decided"] for line in done.stdout.splitlines()[:2]]
        assert [("17", "person_based"), ("17", "anonymized")] == [(each["recipient"], each["mode"]) for each in decided]
    assert [2, 2] == [row["messages"] for row in sent(shop, "invoices")]


@pytest.mark.parametrize(
    ("first", "words"),
    [
        ({"space": "Shop"}, "the first line cannot be: 'event' is missing"),
        (HEAD | {"space": "Shopp"}, "there is no space 'Shopp'; there are: Shop"),
        (HEAD | {"event": "newt"}, "the space has no event 'newt'; there are: news"),
        ({key: value for key, value in HEAD.items() if key != "space"}, "the space is missing"),
        (HEAD | {"fields": ["1"]}, "is no name of a field"),
        (HEAD | {"mailing": ""}, "the name of a mailing"),
    ],
)
def test_a_first_line_that_cannot_be_is_one_line_on_stderr(
    shop: CommandLine, first: dict[str, Any], words: str
) -> None:
    done = process("--batch", stdin=written(first, row(1)))
    assert (1, b"", 1) == (done.returncode, done.stdout, done.stderr.count(b"\n"))
    assert words in done.stderr.decode()
    assert 0 == shop.query("select count(*) from mailtrail.mailings")[0][0]


def test_no_lines_at_all(shop: CommandLine) -> None:
    done = process("--batch", stdin=b"")
    assert (1, b"") == (done.returncode, done.stdout)
    assert b"there is no line" in done.stderr


@pytest.mark.parametrize(
    "options",
    [["--batch", "--space", "Shop"], ["--events", "--html"], ["--batch", "--report"], ["--batch", "--no-text"]],
)
def test_what_is_for_one_mail_is_not_for_a_batch(shop: CommandLine, options: list[str]) -> None:
    assert "is for one mail; a batch says it in its lines" in shop.misuse("rewrite", *options, stdin=written(HEAD))


def test_who_reads_no_further_ends_it(shop: CommandLine) -> None:
    running = start("--batch", stdin=subprocess.PIPE)
    assert running.stdin is not None
    assert running.stdout is not None
    writer = threading.Thread(
        target=feed, args=(running, [HEAD | {"html": HTML + "x" * 50_000}, *map(row, range(500))])
    )
    writer.start()
    running.stdout.readline()
    running.stdout.close()
    assert 1 == running.wait(30)
    writer.join()
    (counted,) = sent(shop)
    assert 1 <= counted["messages"] < 500


def test_a_mail_is_there_before_the_next_line_comes_and_ctrl_c_ends_it(shop: CommandLine) -> None:
    with start("--batch", stdin=subprocess.PIPE) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write(written(HEAD, row(1)))
        running.stdin.flush()
        assert "Clara 1" in json.loads(running.stdout.readline())["html"]
        running.send_signal(signal.SIGINT)
        try:
            assert 0 != running.wait(10)
        finally:
            running.kill()
    assert [1] == [row["messages"] for row in sent(shop)]


def test_a_person_sees_how_far_it_is(shop: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(written(HEAD, *map(row, range(200))))
    keyboard, terminal = pty.openpty()
    with (tmp_path / "lines").open("rb") as lines, (tmp_path / "mails").open("wb") as mails:
        running = subprocess.Popen(
            [sys.executable, "-m", "app", "rewrite", "--batch"],
            stdin=lines,
            stdout=mails,
            stderr=terminal,
            cwd=CHECKOUT,
        )
        assert 0 == running.wait(60)
    os.close(terminal)
    seen = b""
    while chunk := _read(keyboard):
        seen += chunk
    os.close(keyboard)
    assert b"rewriting" in seen
    assert b"200 mails made" in seen
    assert 201 == (tmp_path / "mails").read_bytes().count(b"\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # the other side is closed
        return b""


def test_memory_does_not_grow_with_the_lines(shop: CommandLine) -> None:
    few, many = peak(500), peak(20_000)
    assert many - few < 16 * 1024


def peak(number: int) -> int:
    """The most memory in kB that a process had for so many lines."""
    running = start("--batch", stdin=subprocess.PIPE)
    assert running.stdout is not None
    lines: Iterable[Any] = (HEAD | {"html": HTML + "x" * 5_000}, *map(row, range(number)))
    writer = threading.Thread(target=feed, args=(running, lines))
    writer.start()
    read = 0
    while line := running.stdout.readline():
        last, read = line, read + 1
    writer.join()
    running.stdout.close()
    _, status, usage = os.wait4(running.pid, 0)
    running.returncode = os.waitstatus_to_exitcode(status)
    assert (0, number + 1) == (running.returncode, read)
    assert {"done": number, "refused": 0} == json.loads(last)
    return int(usage.ru_maxrss)


def start(*arguments: str, stdin: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "app", "rewrite", *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=CHECKOUT,
        # A variable of whoever runs the tests, with which Python would never keep an answer back.
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        preexec_fn=_as_from_a_terminal,
    )


def _as_from_a_terminal() -> None:
    """What runs in the background of a script ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def feed(running: "subprocess.Popen[bytes]", lines: Iterable[Any]) -> None:
    assert running.stdin is not None
    try:
        for line in lines:
            running.stdin.write(written(line))
        running.stdin.close()
    except BrokenPipeError:
        return
