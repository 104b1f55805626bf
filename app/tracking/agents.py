"""The verdict on who asks: a person's client, a mail proxy, a prefetch, a security scanner, a bot, or unknown.

Invariants: a user agent is cut before anything looks at it; kinds and families are fixed words, so that nothing a
client sends gets into a reduced hit; mail proxies come first, because lists of bots take them for bots. No regular
expressions: any user agent costs a few microseconds, and the cache is bounded.
"""

from functools import lru_cache

from .hits import Agent

MAX_BYTES = 512
"""What is left of a user agent before anything looks at it."""

PREFETCH_HEADERS = frozenset({b"sec-purpose", b"purpose", b"x-purpose", b"x-moz"})
"""Request headers with which clients say that nobody looks yet."""

_MAX_PURPOSE_BYTES = 64
_CACHE_ENTRIES = 4_096

_UNKNOWN = Agent("unknown")
_CRAWLER = Agent("bot", "crawler")
_APPLE_PRIVACY = Agent("proxy", "apple_mail")
_APPLE_MAIL = Agent("human", "apple_mail")
_OTHER_BROWSER = Agent("human", "other_browser")

# Parts of a user agent in lower case; the first that is there decides.
_PARTS = [
    (b"googleimageproxy", Agent("proxy", "gmail")),
    (b"ggpht.com", Agent("proxy", "gmail")),
    (b"edge/12.246 mozilla/5.0", Agent("proxy", "gmail")),  # fetches before anyone looks, without the proxy's name
    (b"yahoomailproxy", Agent("proxy", "yahoo_mail")),
    (b"yahoocachesystem", Agent("proxy", "yahoo_mail")),
    (b"yandeximageresizer", Agent("proxy", "yandex_mail")),
    (b"imageproxy", Agent("proxy", "other_mail")),
    (b"image proxy", Agent("proxy", "other_mail")),
    (b"mailproxy", Agent("proxy", "other_mail")),
    # Office looks whether a link exists before it hands it to the browser.
    (b"office existence discovery", Agent("prefetch", "outlook")),
    (b"office protocol discovery", Agent("prefetch", "outlook")),
    (b"microsoft-atp", Agent("scanner", "microsoft")),
    (b"microsoft defender", Agent("scanner", "microsoft")),
    (b"gmail-content-sampling", Agent("scanner", "google")),
    (b"google-safety", Agent("scanner", "google")),
    (b"trend micro", Agent("scanner", "trendmicro")),
    (b"palo alto", Agent("scanner", "paloalto")),
    (b"go-http-client", Agent("bot", "library")),
    (b"java/1", Agent("bot", "library")),
]
# Whole words, runs of letters and digits; of several that are there, the earlier line's decides.
_MACHINE_WORDS = [
    ("barracuda barracudacentral", Agent("scanner", "barracuda")),
    ("proofpoint urldefense", Agent("scanner", "proofpoint")),
    ("mimecast", Agent("scanner", "mimecast")),
    ("cloudmark", Agent("scanner", "cloudmark")),
    ("safelinks bingpreview", Agent("scanner", "microsoft")),
    ("symantec messagelabs", Agent("scanner", "symantec")),
    ("trendmicro", Agent("scanner", "trendmicro")),
    ("sophos", Agent("scanner", "sophos")),
    ("fortinet fortiguard fortimail", Agent("scanner", "fortinet")),
    ("forcepoint websense", Agent("scanner", "forcepoint")),
    ("ironport", Agent("scanner", "cisco")),
    ("fireeye trellix", Agent("scanner", "trellix")),
    ("paloalto paloaltonetworks", Agent("scanner", "paloalto")),
    ("avanan", Agent("scanner", "checkpoint")),
    (
        "spamexperts vadesecure hornetsecurity trustwave netcraft virustotal urlscan rspamd spamassassin antivirus"
        " linkcheck linkchecker cmlinkcheck",
        Agent("scanner", "other_scanner"),
    ),
    (
        "slurp facebookexternalhit externalagent whatsapp skypeuripreview linkpreview imgproxy embedly googleother"
        " mediapartners chatgpt archiver pingdom statuscake site24x7 nagios zgrab masscan censys nuclei sqlmap nikto",
        _CRAWLER,
    ),
    (
        "curl wget python urllib aiohttp httpx okhttp httpclient libwww axios fetch undici guzzle guzzlehttp php"
        " ruby perl postmanruntime insomnia winhttp powershell windowspowershell headless headlesschrome phantomjs"
        " puppeteer playwright selenium scrapy",
        Agent("bot", "library"),
    ),
]
_MAIL_WORDS = [
    ("outlook office msoffice", Agent("human", "outlook")),
    ("thunderbird betterbird", Agent("human", "thunderbird")),
    ("lotus", Agent("human", "notes")),
    ("airmail emclient mailbird mailspring postbox kmail evolution", Agent("human", "other_mail")),
]
# Browsers name their ancestors too: the youngest comes first.
_BROWSER_WORDS = [
    ("edg edga edgios edge", Agent("human", "edge")),
    ("opr opera", Agent("human", "opera")),
    ("samsungbrowser", Agent("human", "samsung_internet")),
    ("firefox fxios", Agent("human", "firefox")),
    ("chrome crios chromium", Agent("human", "chrome")),
    ("msie trident", Agent("human", "internet_explorer")),
    ("safari", Agent("human", "safari")),
]
_WORD_RULES = [*_MACHINE_WORDS, *_MAIL_WORDS, *_BROWSER_WORDS]
_FIRST_MAIL = len(_MACHINE_WORDS)
_FIRST_BROWSER = _FIRST_MAIL + len(_MAIL_WORDS)
_RANKS = {word.encode(): rank for rank, (words, _) in enumerate(_WORD_RULES) for word in words.split()}
_SEPARATED = bytes(byte if chr(byte).isalnum() and byte < 128 else 0x20 for byte in range(256))

_BOT_PARTS = (b"bot", b"crawl", b"spider", b"+http")
_BOT_ENDS = (b"bot", b"bots", b"crawler", b"crawl", b"spider")
_NO_BOT = b"cubot"  # a brand of telephones

# Apple's mail programs show pages with the engine, but do not call themselves Safari.
_APPLE_ENGINE = b"applewebkit/"
_APPLE_PLATFORMS = (b"macintosh", b"iphone", b"ipad")

_ANNOUNCEMENTS = (b"prefetch", b"prerender", b"preview")

_AGENTS = [*[agent for _, agent in _PARTS], *[agent for _, agent in _WORD_RULES], _APPLE_MAIL, _OTHER_BROWSER, _UNKNOWN]
_PREFETCHED = {agent: Agent("prefetch", agent.family) for agent in _AGENTS if agent.kind in ("human", "unknown")}

FAMILIES = frozenset(agent.family for agent in _AGENTS if agent.family is not None)
"""Every word that a family can be."""


def verdict(user_agent: bytes, *, prefetch: bool = False) -> Agent:
    """Who sent this `User-Agent` header (empty: none was sent); `prefetch`: a header said that nobody looks yet.

    The header turns a person's client into a prefetch; a proxy, scanner or bot stays what it is.
    """
    agent = _verdict(user_agent[:MAX_BYTES])
    return _PREFETCHED.get(agent, agent) if prefetch else agent


def announces_prefetch(purpose: bytes) -> bool:
    """Whether the value of one of the `PREFETCH_HEADERS` says so, e.g. `prefetch;prerender` or `preview`."""
    purpose = purpose[:_MAX_PURPOSE_BYTES].lower()
    return any(word in purpose for word in _ANNOUNCEMENTS)


@lru_cache(_CACHE_ENTRIES)
def _verdict(user_agent: bytes) -> Agent:
    text = user_agent.strip().lower()
    if not text:
        return _UNKNOWN
    if text == b"mozilla/5.0":
        return _APPLE_PRIVACY  # a browser's goes on with its platform
    for part, agent in _PARTS:
        if part in text:
            return agent
    words = text.translate(_SEPARATED).split()
    rank = min(map(_RANKS.__getitem__, _RANKS.keys() & words), default=len(_WORD_RULES))
    if rank < _FIRST_MAIL:
        return _WORD_RULES[rank][1]
    if _names_a_bot(text, words):
        return _CRAWLER
    if rank < _FIRST_BROWSER:
        return _WORD_RULES[rank][1]
    return _browser(text, rank)


def _names_a_bot(text: bytes, words: list[bytes]) -> bool:
    if not any(part in text for part in _BOT_PARTS):
        return False
    return b"+http" in text or any(word.endswith(_BOT_ENDS) and word != _NO_BOT for word in words)


def _browser(text: bytes, rank: int) -> Agent:
    if not text.startswith((b"mozilla/", b"opera/")) or b"(" not in text:
        return _UNKNOWN
    if rank < len(_WORD_RULES):
        return _WORD_RULES[rank][1]
    if _APPLE_ENGINE in text and any(platform in text for platform in _APPLE_PLATFORMS):
        return _APPLE_MAIL
    return _OTHER_BROWSER
