"""Verdicts on user agents as they are seen in the field, and what no user agent can do."""

import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.tracking import agents
from app.tracking.agents import FAMILIES, MAX_BYTES, announces_prefetch, verdict
from app.tracking.hits import Agent

KINDS = {"human", "proxy", "prefetch", "scanner", "bot", "unknown"}
WINDOWS = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
MAC = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko)"
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)"

SEEN = [
    # Mail proxies, which lists of bots take for bots.
    ("Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)", "proxy", "gmail"),
    (WINDOWS + "Chrome/42.0.2311.135 Safari/537.36 Edge/12.246 Mozilla/5.0", "proxy", "gmail"),
    ("YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html", "proxy", "yahoo_mail"),
    ("Mozilla/5.0 (compatible; YandexImageResizer/2.0; +http://yandex.com/bots)", "proxy", "yandex_mail"),
    ("Mozilla/5.0", "proxy", "apple_mail"),
    ("ExampleMail ImageProxy/1.0", "proxy", "other_mail"),
    # Security scanners.
    ("Barracuda Sentinel (EE)", "scanner", "barracuda"),
    ("Mozilla/5.0 (compatible; Proofpoint/2.0; +http://proofpoint.example)", "scanner", "proofpoint"),
    ("Mozilla/5.0 (Windows NT 6.1) Mimecast-URL-Protect", "scanner", "mimecast"),
    ("Mozilla/5.0 (Windows NT 6.1) AppleWebKit/534+ (KHTML, like Gecko) BingPreview/1.0b", "scanner", "microsoft"),
    (WINDOWS + "Chrome/42.0.2311.135 Safari/537.36 Edge/12.246 Gmail-content-sampling", "scanner", "google"),
    ("Cloudmark/1.0", "scanner", "cloudmark"),
    # Looks before the browser opens.
    ("Microsoft Office Existence Discovery", "prefetch", "outlook"),
    # Bots and libraries.
    ("curl/8.5.0", "bot", "library"),
    ("python-requests/2.32.0", "bot", "library"),
    ("Go-http-client/2.0", "bot", "library"),
    ("Java/1.8.0_151", "bot", "library"),
    (WINDOWS + "HeadlessChrome/120.0 Safari/537.36", "bot", "library"),
    ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "bot", "crawler"),
    ("facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)", "bot", "crawler"),
    ("Mozilla/5.0 (compatible; NewestCrawler)", "bot", "crawler"),
    ("SomeBot", "bot", "crawler"),
    # People.
    ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Thunderbird/140.2.0", "human", "thunderbird"),
    ("Mozilla/4.0 (compatible; MSIE 7.0; Windows NT 10.0; Microsoft Outlook 16.0; ms-office)", "human", "outlook"),
    ("Outlook-iOS/711.2689677.prod.iphone (4.2)", "human", "outlook"),
    ("Mozilla/4.0 (compatible; Lotus-Notes/6.0; Windows-NT)", "human", "notes"),
    (MAC, "human", "apple_mail"),
    (IPHONE + " Mobile/15E148", "human", "apple_mail"),
    (IPHONE + " Version/18.0 Mobile/15E148 Safari/604.1", "human", "safari"),
    (WINDOWS + "Chrome/142.0.0.0 Safari/537.36", "human", "chrome"),
    (WINDOWS + "Chrome/142.0.0.0 Safari/537.36 Edg/142.0.0.0", "human", "edge"),
    (WINDOWS + "Chrome/142.0.0.0 Safari/537.36 OPR/120.0", "human", "opera"),
    ("Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0", "human", "firefox"),
    ("Mozilla/5.0 (Linux; Android 9; CUBOT_X19) AppleWebKit/537.36 Chrome/120.0 Safari/537.36", "human", "chrome"),
    ("Mozilla/5.0 (Linux; Android 14) Gecko SamsungBrowser/27.0 Chrome/125.0", "human", "samsung_internet"),
    ("Mozilla/5.0 (SomethingNew)", "human", "other_browser"),
    # Nobody knows.
    ("", "unknown", None),
    ("  \t ", "unknown", None),
    ("Frobnicator 7", "unknown", None),
]  # fmt: skip


@pytest.mark.parametrize(("user_agent", "kind", "family"), SEEN)
def test_user_agents_of_the_field(user_agent: str, kind: str, family: str | None) -> None:
    assert Agent(kind, family) == verdict(user_agent.encode())


@pytest.mark.parametrize(
    ("user_agent", "expected"),
    [
        (WINDOWS + "Chrome/142.0.0.0 Safari/537.36", Agent("prefetch", "chrome")),
        ("", Agent("prefetch", None)),
        ("Mozilla/5.0", Agent("proxy", "apple_mail")),
        ("curl/8.5.0", Agent("bot", "library")),
    ],
)
def test_a_prefetch_header_concerns_peoples_clients_only(user_agent: str, expected: Agent) -> None:
    assert expected == verdict(user_agent.encode(), prefetch=True)


def test_values_of_prefetch_headers() -> None:
    saying = [b"prefetch", b"prefetch;prerender", b"Prefetch;anonymous-client-ip", b"preview, instant", b"prerender"]
    silent = [b"", b"navigation", b"x" * 100 + b"prefetch", bytes(range(256))]
    assert [announces_prefetch(value) for value in saying + silent] == [True] * 5 + [False] * 4


@given(st.binary(max_size=700), st.booleans())
def test_every_verdict_is_made_of_fixed_words(user_agent: bytes, prefetch: bool) -> None:
    agent = verdict(user_agent, prefetch=prefetch)
    assert agent.kind in KINDS
    assert agent.family is None or agent.family in FAMILIES


def test_what_stands_behind_the_cut_is_not_seen() -> None:
    browser = WINDOWS.encode() + b"Chrome/142.0 Safari/537.36 "
    padded = browser.ljust(MAX_BYTES)
    assert Agent("human", "chrome") == verdict(padded + b"Googlebot/2.1 GoogleImageProxy")
    assert Agent("bot", "crawler") == verdict(browser + b"Googlebot/2.1")


@pytest.mark.parametrize("filler", [b"a; ", b"bot", b"bot ", b"+http ", b"(((", b"mozilla/5.0 (", b"\xff\x00"])
def test_no_user_agent_is_expensive(filler: bytes) -> None:
    begin = time.process_time()
    for number in range(1_000):
        verdict(b"%d " % number + filler * 200)
    assert time.process_time() - begin < 0.5, "a verdict takes more than 500 µs"


def test_a_flood_of_random_user_agents_stays_cheap_and_the_cache_bounded() -> None:
    flood = [os.urandom(MAX_BYTES) for _ in range(5_000)]
    begin = time.process_time()
    for user_agent in flood:
        verdict(user_agent)
    assert time.process_time() - begin < 2.5, "a verdict takes more than 500 µs"
    cache = agents._verdict.cache_info()
    assert cache.maxsize is not None
    assert cache.currsize <= cache.maxsize < len(flood)
