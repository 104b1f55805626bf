"""`mailtrail admin` as operators use it: the server, and the people who may sign in."""

import json
import re
import signal
import socket
from pathlib import Path

import pytest

from tests.integration.service import Service, free_port, until

LINK = re.compile(r"http://127\.0\.0\.1:\d+/sign-in/once/([\w-]{43})")


@pytest.fixture
def private(service: Service) -> Service:
    service.settings["MAILTRAIL_ADMIN_PORT"] = str(free_port())
    return service


def test_pages_and_api_are_served_until_they_are_ended(private: Service) -> None:
    process = private.start("admin")
    port = int(private.settings["MAILTRAIL_ADMIN_PORT"])
    pages = Service(private.directory, private.database_url, port)
    until(lambda: _answers(pages), "the pages answer", log=private.log)
    assert pages.get("/livez").body == b"ok\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert "Traceback" not in private.log.read_text()


def _answers(pages: Service) -> bool:
    try:
        return pages.get("/livez").status == 200
    except OSError:
        return False


def test_people_are_made_listed_and_shut_out(private: Service) -> None:
    private.run("space", "create", "Shop")
    made = private.run("admin", "create-user", "max", "--role", "editor", "--space", "Shop").stdout.decode()
    assert "max may sign in as editor" in made
    assert LINK.search(made)
    private.run("admin", "create-user", "erika")
    assert LINK.search(private.run("admin", "sign-in", "erika").stdout.decode())
    listed = {user["name"]: user for user in json.loads(private.run("admin", "users", "--json").stdout)}
    assert (listed["max"]["role"], listed["max"]["space"], listed["erika"]["role"]) == ("editor", "Shop", "admin")
    assert b"may not sign in" in private.run("admin", "change-user", "max", "--disable").stdout
    for arguments, reason in (
        (("create-user", "MAX"), "there is a user 'MAX' already"),
        (("create-user", "new", "--space", "None"), "there is no space 'None'"),
        (("sign-in", "nobody"), "there is no user 'nobody'"),
        (("change-user", "erika", "--role", "viewer"), "the last administrator"),
        (("change-user", "erika"), "nothing is to be changed"),
    ):
        done = private.run("admin", *arguments, check=False)
        assert done.returncode != 0
        assert reason in done.stderr.decode()


def test_a_port_that_is_taken_is_told_and_costs_no_recipient_the_redirect(private: Service) -> None:
    port = int(private.settings["MAILTRAIL_ADMIN_PORT"])
    told = "MAILTRAIL_ADMIN_PORT: cannot listen on 127.0.0.1"
    with socket.create_server(("127.0.0.1", port)):
        done = private.run("admin", check=False)
        (line,) = done.stderr.decode().splitlines()
        assert done.returncode == 2
        assert told in line
        up = private.start("up")
        private.wait_ready()
        until(lambda: told in private.log.read_text(), "the trouble is told")
        assert private.get("/livez").status == 200
    pages = Service(private.directory, private.database_url, port)
    until(lambda: _answers(pages), "the pages answer once they can", log=private.log)
    up.send_signal(signal.SIGTERM)
    assert up.wait(40) == 0


def test_up_prints_the_address_and_a_sign_in_once(tmp_path: Path) -> None:
    alone = Service(tmp_path, "", settings={"MAILTRAIL_ADMIN_PORT": str(free_port())})
    try:
        for has_link in (True, False):
            written = len(alone.log.read_text()) if alone.log.exists() else 0
            process = alone.start("up")
            address = f"Settings: http://127.0.0.1:{alone.settings['MAILTRAIL_ADMIN_PORT']}"
            said = until(lambda begin=written, a=address: _said(alone, begin, a), "up greets", 60, log=alone.log)
            until(lambda begin=written: "collector serves" in alone.log.read_text()[begin:], "it serves")
            if has_link:
                said = until(lambda begin=written: _said(alone, begin, "Sign in as admin"), "a sign-in", log=alone.log)
            assert bool(LINK.search(str(said))) is has_link
            process.send_signal(signal.SIGTERM)
            assert process.wait(40) == 0
    finally:
        alone.stop()


def _said(service: Service, begin: int, words: str) -> str:
    text = service.log.read_text()[begin:]
    return text if words in text else ""
