"""Requests as a browser sends them behind a proxy: 16 headers, about 900 bytes, each with another user agent and token.

Invariant: all servers under test get the same requests; no request asks for an upgrade of its connection.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HOST = "links.shop.example"
SEPARATOR = b"\0"
SEED = 20261124
AGENTS = 400

_SHOPS = ("www.modehaus-nord.example", "shop.gartenfreund.example", "www.technik-direkt.example", "buecher.example")
_SECTIONS = ("damen/jacken-maentel", "sale/herbst", "garten/hochbeete", "haushalt/kaffee", "elektronik/kopfhoerer")
_PRODUCTS = ("regenjacke-atlantik-3-lagig", "hochbeet-laerche-180", "siebtraeger-classic", "bluetooth-kopfhoerer-anc")
_CAMPAIGNS = ("herbst_2026_kw47", "black_week_2026_preview", "winter_sale_start", "neuheiten_november")
_BLOCKS = ("hero", "teaser_1", "teaser_2", "produkt_liste", "footer")


def destinations(number: int, chance: random.Random) -> list[str]:
    """URLs as a shop's newsletter links to them: a product or a section, with UTM parameters."""
    return [_destination(chance) for _ in range(number)]


def _destination(chance: random.Random) -> str:
    page = f"https://{chance.choice(_SHOPS)}/{chance.choice(_SECTIONS)}"
    if chance.random() < 0.7:
        page += f"/{chance.choice(_PRODUCTS)}-{chance.randrange(10**5, 10**6)}.html"
    return (
        f"{page}?utm_source=newsletter&utm_medium=email&utm_campaign={chance.choice(_CAMPAIGNS)}"
        f"&utm_content={chance.choice(_BLOCKS)}"
    )


# --- browsers --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Browser:
    """A user agent with the headers that only its family sends: three of them, like everybody's."""

    user_agent: str
    own_headers: tuple[tuple[str, str], ...]


def browsers(chance: random.Random, number: int = AGENTS) -> list[Browser]:
    """Browsers by rough market share; most versions and phones come several times."""
    makers = (_chrome_desktop, _chrome_android, _safari_phone, _safari_mac, _edge, _firefox)
    return [chance.choices(makers, (24, 28, 26, 6, 8, 8))[0](chance) for _ in range(number)]


def _chromium(user_agent: str, brand: str, version: int, platform: str, *, mobile: bool = False) -> Browser:
    brands = f'"Chromium";v="{version}", "{brand}";v="{version}", "Not_A Brand";v="99"'
    return Browser(
        user_agent,
        (
            ("sec-ch-ua", brands),
            ("sec-ch-ua-mobile", "?1" if mobile else "?0"),
            ("sec-ch-ua-platform", f'"{platform}"'),
        ),
    )


_WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"
_DESKTOPS = {
    "Windows": "Windows NT 10.0; Win64; x64",
    "macOS": "Macintosh; Intel Mac OS X 10_15_7",
    "Linux": "X11; Linux x86_64",
}
_PHONES = ("K", "SM-S928B", "SM-A556B", "SM-A155F", "Pixel 9", "Pixel 8a", "2312DRA50G", "CPH2663", "moto g84 5G")


def _chrome_desktop(chance: random.Random) -> Browser:
    version, platform = chance.randint(128, 142), chance.choices(list(_DESKTOPS), (80, 15, 5))[0]
    agent = f"Mozilla/5.0 ({_DESKTOPS[platform]}) {_WEBKIT} Chrome/{version}.0.0.0 Safari/537.36"
    return _chromium(agent, "Google Chrome", version, platform)


def _chrome_android(chance: random.Random) -> Browser:
    version, android = chance.randint(128, 142), chance.randint(11, 16)
    agent = (
        f"Mozilla/5.0 (Linux; Android {android}; {chance.choice(_PHONES)}) {_WEBKIT}"
        f" Chrome/{version}.0.0.0 Mobile Safari/537.36"
    )
    return _chromium(agent, "Google Chrome", version, "Android", mobile=True)


def _edge(chance: random.Random) -> Browser:
    version = chance.randint(130, 142)
    agent = f"Mozilla/5.0 ({_DESKTOPS['Windows']}) {_WEBKIT} Chrome/{version}.0.0.0 Safari/537.36 Edg/{version}.0.0.0"
    return _chromium(agent, "Microsoft Edge", version, "Windows")


_WITHOUT_HINTS = (("Priority", "u=0, i"), ("DNT", "1"), ("Cache-Control", "max-age=0"))


def _safari_phone(chance: random.Random) -> Browser:
    version, minor = chance.choice((16, 17, 18, 26)), chance.randint(0, 7)
    agent = (
        f"Mozilla/5.0 (iPhone; CPU iPhone OS {version}_{minor} like Mac OS X) AppleWebKit/605.1.15"
        f" (KHTML, like Gecko) Version/{version}.{minor} Mobile/15E148 Safari/604.1"
    )
    return Browser(agent, _WITHOUT_HINTS)


def _safari_mac(chance: random.Random) -> Browser:
    version = f"{chance.choice((17, 18, 26))}.{chance.randint(0, 6)}"
    agent = (
        f"Mozilla/5.0 ({_DESKTOPS['macOS']}) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/{version} Safari/605.1.15"
    )
    return Browser(agent, _WITHOUT_HINTS)


def _firefox(chance: random.Random) -> Browser:
    version, platform = chance.randint(128, 145), chance.choice(list(_DESKTOPS.values()))
    return Browser(f"Mozilla/5.0 ({platform}; rv:{version}.0) Gecko/20100101 Firefox/{version}.0", _WITHOUT_HINTS)


# --- whole requests --------------------------------------------------------------------------------------------------

_LANGUAGES = (
    "de-DE,de;q=0.9,en-US;q=0.8,en;q=0.7",
    "de-AT,de;q=0.9,en;q=0.8",
    "fr-FR,fr;q=0.9,en;q=0.8",
    "en-GB,en;q=0.9",
)
_ACCEPT = (
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,"
    "application/signed-exchange;v=b3;q=0.7"
)


def headers_of(browser: Browser, chance: random.Random) -> list[tuple[str, str]]:
    """The 16 headers of somebody's request, without those of the connection."""
    address = ".".join(str(chance.randint(1, 254)) for _ in range(4))
    return [
        ("Host", HOST),
        ("X-Real-IP", address),
        ("X-Forwarded-For", address),
        ("X-Forwarded-Proto", "https"),
        *browser.own_headers,
        ("Upgrade-Insecure-Requests", "1"),
        ("User-Agent", browser.user_agent),
        ("Accept", _ACCEPT),
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Mode", "navigate"),
        ("Sec-Fetch-User", "?1"),
        ("Sec-Fetch-Dest", "document"),
        ("Accept-Encoding", "gzip, deflate, br, zstd"),
        ("Accept-Language", chance.choice(_LANGUAGES)),
    ]


def whole_requests(paths: Iterable[str], *, close: bool = False) -> Iterator[bytes]:
    """A request for each path, always the same ones; with `close` the connection is asked to end after its answer."""
    chance = random.Random(SEED)
    known = browsers(chance)
    for path in paths:
        headers = headers_of(chance.choice(known), chance)
        if close:
            headers.append(("Connection", "close"))
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
        yield ("\r\n".join(lines) + "\r\n\r\n").encode()


def write_requests(file: Path, paths: Sequence[str], *, close: bool = False) -> Path:
    """The requests for wrk, which rotates through them."""
    file.write_bytes(SEPARATOR.join(whole_requests(paths, close=close)))
    return file


def write_uris(file: Path, paths: Sequence[str]) -> Path:
    """The targets for h2load, which rotates through them; where they are asked for is told by its base URI."""
    file.write_text("".join(f"http://{HOST}{path}\n" for path in paths))
    return file
