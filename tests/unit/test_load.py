"""The load's pure parts: what recipients do and when, what each request must get, and what must be recorded of it."""

import random
import socket
import threading
from collections import Counter
from contextlib import closing
from datetime import date

import pytest
from geventhttpclient.response import HTTPConnectionClosed
from geventhttpclient.url import URL
from hypothesis import given
from hypothesis import strategies as st

from app.errors import TokenRefused
from app.tracking.agents import verdict
from app.tracking.modes import Mode, Origin, Permission
from app.tracking.tokens import Key, KeyRing, Kind, Link, Message
from loadtests.agenda import Agenda, Answered, difference
from loadtests.attempts import OneAttempt
from loadtests.recipients import HALF_PART, PIXEL, SCANNER_SECONDS, Crowd, Spelling, Visit, Visitor, delay_seconds, plan
from loadtests.reckoning import (
    Asked,
    Ledger,
    Recorded,
    Sent,
    figures,
    reckon_figures,
    reckon_recipients,
    reckon_rows,
)
from loadtests.sender import LoadFailed, Mail, Mailing, Post, check_host
from loadtests.verdict import Verdict, judge

SECONDS = 60.0
MAILS, LINKS = 400, 12
SCANNER = Visitor("scanner", (("User-Agent", "BarracudaCentral"),))
PERSON = Visitor("human", (("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),))
ERIKA, MAX = Sent("newsletter", "person_based", "erika"), Sent("newsletter", "anonymized", "max")


# --- what recipients do ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def visits() -> list[Visit]:
    return plan(MAILS, LINKS, SECONDS, random.Random(4711))


@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(1, 15), st.floats(0.5, 3_600))
def test_every_request_lies_within_the_run_in_order(seed: int, mails: int, links: int, seconds: float) -> None:
    planned = plan(mails, links, seconds, random.Random(seed))
    moments = [visit.at_seconds for visit in planned]
    assert moments == sorted(moments)
    assert all(0 <= moment <= seconds for moment in moments)
    assert {visit.mail for visit in planned} <= set(range(mails))
    assert {visit.link for visit in planned} <= set(range(PIXEL, links + 1))


@given(st.integers(0, 2**32))
def test_nobody_clicks_in_a_mail_that_was_not_opened_before(seed: int) -> None:
    opened = set()
    for visit in plan(20, 3, SECONDS, random.Random(seed)):
        if visit.visitor.agent == "scanner":
            continue
        if visit.link == PIXEL:
            opened.add(visit.mail)
        assert visit.mail in opened


def test_the_same_chance_gives_the_same_plan(visits: list[Visit]) -> None:
    assert plan(MAILS, LINKS, SECONDS, random.Random(4711)) == visits
    assert plan(MAILS, LINKS, SECONDS, random.Random(4712)) != visits


def test_all_that_recipients_do_is_there(visits: list[Visit]) -> None:
    assert {visit.visitor.agent for visit in visits} == {"human", "proxy", "scanner"}
    assert {visit.spelling for visit in visits} == set(Spelling)
    assert {visit.method for visit in visits} == {"GET", "HEAD"}
    again = Counter((visit.mail, visit.link) for visit in visits if visit.visitor.agent == "proxy")
    assert max(again.values()) > 1


def test_scanners_follow_every_link_within_seconds(visits: list[Visit]) -> None:
    scanned: dict[int, list[Visit]] = {}
    for visit in visits:
        if visit.visitor.agent == "scanner" and visit.method == "GET":
            scanned.setdefault(visit.mail, []).append(visit)
    assert scanned
    for mail in scanned.values():
        assert set(range(1, LINKS + 1)) <= {visit.link for visit in mail}
        assert mail[-1].at_seconds - mail[0].at_seconds <= SCANNER_SECONDS


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1e6))
def test_opens_decay(one: float, other: float, within: float) -> None:
    earlier, later = sorted((one, other))
    assert 0 <= delay_seconds(earlier, within) <= delay_seconds(later, within) <= within
    assert delay_seconds(0.5, within) <= HALF_PART * within
    assert delay_seconds(1, within) == pytest.approx(within)


def test_user_agents_get_the_verdict_that_is_said() -> None:
    for visitor in Crowd(random.Random(1)).everybody:
        assert (visitor.agent, visitor.user_agent) == (verdict(visitor.user_agent.encode()).kind, visitor.user_agent)


# --- what is asked for, and what must come back ----------------------------------------------------------------------

RING = KeyRing({1: Key(1, 1, random.Random(1).randbytes(64))})
LINK = Link(7, "https://shop.example/boots?utm_source=newsletter")


def posted(mode: Mode = Mode.PERSON_BASED) -> Post:
    message = Message(1, 2, 3, Origin.EVENT, mode, Permission.GRANTED, date(2026, 11, 24), "erika")
    (tokens,) = RING.mint_many([message], [LINK])
    return Post(1, "Load", {"newsletter": Mailing(3, [LINK])}, [Mail(ERIKA, tokens)])


@pytest.mark.parametrize("link", [PIXEL, 1])
@pytest.mark.parametrize("spelling", Spelling)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_request_leaves_a_hit_if_its_token_opens_and_it_is_a_get(link: int, spelling: Spelling, method: str) -> None:
    visit = Visit(0, 0, link, PERSON, method, spelling)
    request = Agenda(posted(), [visit]).request(visit)
    path = request.path.partition("?")[0]
    try:
        RING.open(path[3:].removesuffix(".gif"), Kind.OPEN if link == PIXEL else Kind.CLICK)
        opens = True
    except TokenRefused:
        opens = False
    assert (visit.leaves_hit, path[:3]) == (opens and method == "GET", "/o/" if link == PIXEL else "/c/")
    expected = request.expected
    if link == PIXEL:
        assert (expected.status, expected.location, len(expected.body)) == (200, None, 43 if method == "GET" else 0)
    else:
        assert (expected.status, expected.location) == ((302, LINK.destination) if opens else (404, None))


def test_only_what_was_answered_as_it_must_be_is_owed() -> None:
    click, head = Visit(0, 0, 1, PERSON), Visit(0, 0, 1, PERSON, "HEAD")
    broken = Visit(1, 0, PIXEL, PERSON, spelling=Spelling.CUT)
    agenda = Agenda(posted(), [click, click, head, broken])
    answers = [Answered(302, LINK.destination), Answered(0), Answered(302, LINK.destination), None]
    problems = []
    while request := agenda.take():
        problems.append(agenda.note(request, answers.pop(0) or request.expected))
    asked = Asked(ERIKA, "click", LINK.number, "human")
    assert ["", "no answer", "", ""] == problems
    assert ([asked], [asked]) == (agenda.ledger.answered, agenda.ledger.uncertain)
    assert {"HEADs": 1, "broken tokens": 1} == agenda.left_nothing
    assert agenda.is_over


@pytest.mark.parametrize(
    ("answered", "problem"),
    [
        (Answered(302, "https://shop.example/"), ""),
        (Answered(302, "https://elsewhere.example/"), "redirects elsewhere"),
        (Answered(302), "no location"),
        (Answered(503), "status 503, not 302"),
        (Answered(302, "https://shop.example/", b"?"), "another body"),
    ],
)
def test_a_wrong_answer_is_said_to_be_one(answered: Answered, problem: str) -> None:
    assert problem == difference(Answered(302, "https://shop.example/"), answered)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080", "http://localhost", "http://[::1]:8080"])
def test_this_machine_may_be_loaded(url: str) -> None:
    check_host(url, remote_allowed=False)


@pytest.mark.parametrize("url", ["https://links.shop.example", "http://10.0.0.1:8080", "http://127.0.0.1.example"])
def test_others_only_if_that_is_allowed(url: str) -> None:
    with pytest.raises(LoadFailed, match="not on this machine"):
        check_host(url, remote_allowed=False)
    check_host(url, remote_allowed=True)


def test_a_request_without_an_answer_is_not_repeated() -> None:
    received = []

    def serve(listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                received.append(connection.recv(65_536))

    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        serving = threading.Thread(target=serve, args=(listening,), daemon=True)
        serving.start()
        url = URL(f"http://127.0.0.1:{listening.getsockname()[1]}/c/token")
        with closing(OneAttempt(concurrency=1)) as pool, pytest.raises(HTTPConnectionClosed):
            pool.get_client(url).request("GET", url.request_uri)
        listening.shutdown(socket.SHUT_RDWR)
        serving.join(10)
    assert 1 == len(received)


# --- sent = recorded -------------------------------------------------------------------------------------------------

OPEN, CLICK = Asked(ERIKA, "open", 0, "proxy"), Asked(ERIKA, "click", 3, "human")
FOLLOWED = Asked(ERIKA, "click", 3, "scanner")
UNKNOWN = Asked(MAX, "open", 0, "human")
ASKED = [OPEN, OPEN, CLICK, FOLLOWED, UNKNOWN]


def recorded(*asked: Asked) -> list[Recorded]:
    """As the database has it: recipients only where they may be known."""
    counted = Counter(
        (each.mail.mailing, each.mail.mode, each.kind, each.link, each.agent, each.mail.recipient) for each in asked
    )
    return [Recorded(*row[:-1], row[-1] if row[1] == "person_based" else "", hits) for row, hits in counted.items()]


def test_all_that_was_sent_is_recorded() -> None:
    there = recorded(*ASKED)
    ledger = Ledger(list(ASKED))
    assert not any(line.differs for line in [*reckon_rows(ledger, there), *reckon_recipients(ledger, there)])


@pytest.mark.parametrize(
    ("there", "names"),
    [
        (
            ASKED[1:],
            {
                ("newsletter", "person_based", "open", "proxy", "pixel"),
                ("newsletter", "recipient erika", "open", "pixel"),
            },
        ),
        ([*ASKED, UNKNOWN], {("newsletter", "anonymized", "open", "human", "pixel")}),
        (
            [OPEN, OPEN, Asked(ERIKA, "click", 4, "human"), FOLLOWED, UNKNOWN],
            {("newsletter", "person_based", "click", "human", f"link {number}") for number in (3, 4)}
            | {("newsletter", "recipient erika", "click", f"link {number}") for number in (3, 4)},
        ),
    ],
    ids=["missing", "one too many", "another link"],
)
def test_what_differs_is_named(there: list[Asked], names: set[tuple[str, ...]]) -> None:
    ledger, rows = Ledger(list(ASKED)), recorded(*there)
    lines = [*reckon_rows(ledger, rows), *reckon_recipients(ledger, rows)]
    assert names == {line.name for line in lines if line.differs}


def test_a_recipient_who_may_not_be_known_differs() -> None:
    there = [Recorded("newsletter", "anonymized", "open", 0, "human", "max", 1)]
    assert any(line.differs for line in reckon_recipients(Ledger([UNKNOWN]), there))


@pytest.mark.parametrize(("times", "differs"), [(0, True), (1, False), (2, False), (3, True)])
def test_what_nobody_knows_may_be_recorded_or_not(times: int, differs: bool) -> None:
    ledger = Ledger([CLICK], [CLICK])
    assert differs == any(line.differs for line in reckon_rows(ledger, recorded(*[CLICK] * times)))


def test_figures_are_those_of_analysts() -> None:
    expected = {
        "sent": 2,
        "sent_person_based": 1,
        "sent_anonymized": 1,
        "opens": 3,
        "opens_person_based": 2,
        "opens_anonymized": 1,
        "unique_opens": 2,
        "unique_opens_person_based": 1,
        "unique_opens_anonymized": 1,
        "clicks": 1,
        "clicks_person_based": 1,
        "clicks_anonymized": 0,
        "unique_clicks": 1,
        "unique_clicks_person_based": 1,
        "unique_clicks_anonymized": 0,
        "unique_recipients": 1,
        "automated_opens": 0,
        "automated_clicks": 1,
    }
    found = figures([ERIKA, MAX], ASKED)
    assert {("newsletter", column): number for column, number in expected.items()} == found
    assert not any(line.differs for line in reckon_figures([ERIKA, MAX], Ledger(list(ASKED)), found))


def test_last_words() -> None:
    agenda = Agenda(posted(), [])
    agenda.ledger.answered += [CLICK, OPEN]
    assert ["sent = recorded: 2 hits"] == judge(agenda, recorded(CLICK, OPEN), []).last_words()
    first, *others = judge(agenda, recorded(CLICK), []).last_words()
    assert first == "sent ≠ recorded: 2 hits were answered, 1 are recorded; these differ:"
    assert "  newsletter, person_based, open, proxy, pixel: sent 1, recorded 0" in others


def test_only_so_many_differences_are_named() -> None:
    rows = reckon_rows(Ledger([Asked(ERIKA, "click", link, "human") for link in range(1, 101)]), [])
    words = Verdict((), (), rows).last_words()
    assert (22, "  and 80 more") == (len(words), words[-1])
