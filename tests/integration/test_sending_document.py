"""docs/sending.md does what it says: its commands and scripts are run as they stand there."""

import email
import email.policy
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from html import unescape
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import Envelope

from tests.integration.service import CHECKOUT, Service, free_port

TEXT = (Path(CHECKOUT) / "docs" / "sending.md").read_text()
COMMANDS = re.findall(r"^\$ mailtrail (.+)$", TEXT, re.M)
SCRIPTS = re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)


@pytest.fixture(scope="module")
def served(service: Service) -> Service:
    for command in COMMANDS:
        service.run(*shlex.split(command))
    service.serve()
    return service


def output(served: Service, script: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-"],
        input=script.encode(),
        capture_output=True,
        cwd=CHECKOUT,
        env=served.environment() | environment,
        timeout=60,
        check=False,
    )
    assert (0, "") == (done.returncode, done.stderr.decode())
    return done.stdout.decode()


def locations(served: Service, html: str) -> list[str | None]:
    return [served.get(path).location for path in re.findall(re.escape(served.base) + r"(/c/[\w-]+)", html)]


def test_the_plain_script_sends_to_each_with_their_own_links(served: Service) -> None:
    erika, max_ = output(served, SCRIPTS[0]).split("To: ")[1:]
    assert ["erika@example.com", "person_based", "{'unsubscribe': 1}"] == erika.splitlines()[:3]
    assert ["max@example.com", "anonymized", "{'unsubscribe': 1}"] == max_.splitlines()[:3]
    assert "<p>Hello Max &amp; Moritz,</p>" in max_
    assert 'href="https://demo-shop.example/unsubscribe?who=A-18"' in max_
    sale = "https://demo-shop.example/sale"
    assert ["https://demo-shop.example/orders/A-17?for=Erika", sale] == locations(served, erika)
    assert ["https://demo-shop.example/orders/A-18?for=Max%20%26%20Moritz", sale] == locations(served, max_)
    served.wait_for_hits_of("November", "person_based", 2)
    served.wait_for_hits_of("November", "anonymized", 2)
    (row,) = served.query("select * from analytics.mailings where mailing = 'November'")
    assert (2, 1, 1) == (row["sent"], row["sent_person_based"], row["sent_anonymized"])


def test_the_jinja_loop_sends_all_products_to_all(served: Service) -> None:
    mails = output(served, SCRIPTS[1]).split("</html>")[:-1]
    assert 1_000 == len(mails)
    for number in (0, 999):
        assert f"<p>Hello Customer {number}</p>" in mails[number]
        assert "Jackets & coats" in unescape(mails[number])
        products = [f"https://demo-shop.example/{path}?customer=c{number}" for path in ("boots", "jackets")]
        assert products == locations(served, mails[number])
    (row,) = served.query("select * from analytics.mailings where mailing = 'Products'")
    assert (1_000, 1_000) == (row["sent"], row["sent_person_based"])
    links = served.query(
        "select number, pattern, label from mailtrail.described_links join mailtrail.mailings as m on m.id = mailing_id"
        " where m.name = 'Products' order by number"
    )
    described = [(1, "https://demo-shop.example/boots?customer"), (2, "https://demo-shop.example/jackets?customer")]
    assert described == [(link["number"], link["pattern"]) for link in links]
    assert ["Boots", "Jackets & coats"] == [link["label"] for link in links]


class Mailbox:
    """What a receiving SMTP server has taken: each mail with its envelope."""

    def __init__(self) -> None:
        self.taken: list[Envelope] = []

    async def handle_DATA(self, server: object, session: object, envelope: Envelope) -> str:
        self.taken.append(envelope)
        return "250 taken"


OF_THE_SITE = """
from django.core.mail import get_connection
password = EmailMultiAlternatives("Password", "https://demo-shop.example/new", "s@example.com", ["e@example.com"])
assert get_connection().send_messages([password]) == 1
"""


def test_the_django_backend_sends_each_their_own_mail(served: Service, tmp_path: Path) -> None:
    backend, script = SCRIPTS[2:]
    (tmp_path / "tracking_backend.py").write_text(backend)
    mailbox = Mailbox()
    receiving = Controller(mailbox, hostname="127.0.0.1", port=free_port())
    receiving.start()
    try:
        path = f"{tmp_path}{os.pathsep}{CHECKOUT}"
        output(served, f"{script}{OF_THE_SITE}", PYTHONPATH=path, SMTP_PORT=str(receiving.port))
    finally:
        receiving.stop()
    of_the_site = mailbox.taken.pop(2)
    assert "https://demo-shop.example/new" in of_the_site.content.decode()
    assert [["erika@example.com"], ["max@example.com"]] == [envelope.rcpt_tos for envelope in mailbox.taken]
    for envelope in mailbox.taken:
        assert "shop@example.com" == envelope.mail_from
        text, html = email.message_from_bytes(envelope.content, policy=email.policy.default).iter_parts()
        for part in (text, html):
            assert ["https://demo-shop.example/sale"] == locations(served, part.get_content())
    served.wait_for_hits_of("Sale", "person_based", 2)
    served.wait_for_hits_of("Sale", "anonymized", 2)
    (row,) = served.query("select * from analytics.mailings where mailing = 'Sale'")
    assert (2, 1, 1) == (row["sent"], row["sent_person_based"], row["sent_anonymized"])


def test_every_reason_of_the_templates_own_is_explained() -> None:
    assert Counter({"field_in_host": 1, "too_long": 1, "personalised": 1}) == Counter(
        re.findall(r"counted as\s+`([a-z_]+)`", TEXT)
    )
