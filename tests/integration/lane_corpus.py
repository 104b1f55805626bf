"""Raw requests of every sort, by name: what browsers, proxies, scanners and attackers send, and what nobody should.

`USUAL` are those that the fast lane must take, for they are its purpose; of the `ODD` ones it may take what it can
answer as the plain lane does.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from app.collector.protocol import MAX_HEAD_BYTES, MAX_TARGET_BYTES
from app.tracking.agents import PREFETCH_HEADERS
from app.tracking.modes import Mode, Origin, Permission
from tests.unit.test_answer import (
    ANONYMOUS_SPACE,
    BY_PERMISSION,
    CHROME,
    DELETED_SPACE,
    GOOD_CLICK,
    GOOD_OPEN,
    PIXEL_TOKEN,
    TOKEN,
    click_path,
    message,
    open_path,
)

Entry = tuple[str, bytes]

BROWSER = b"User-Agent: " + CHROME
UPGRADE = b"Connection: Upgrade"
LAST = b"/c/last"
"""A path that stands for a pipelined request which must be seen to be answered, or not."""


def get(
    path: bytes, *lines: bytes, method: bytes = b"GET", version: bytes = b"HTTP/1.1", end: bytes = b"\r\n"
) -> bytes:
    """A request with these header lines behind `Host`."""
    return end.join([b"%b %b %b" % (method, path, version), b"Host: t.example", *lines, b"", b""])


def click(*lines: bytes) -> bytes:
    return get(GOOD_CLICK, *lines)


def _plain_answers() -> Iterator[Entry]:
    paths = {
        "click": GOOD_CLICK,
        "open": GOOD_OPEN,
        "gone": click_path(message(), link=40),
        "corrected": click_path(message(), link=41),
        "corrected with a value": click_path(message(), link=42),
        "not registered": click_path(message(), link=40, registered=False),
        "link 0": click_path(message(), link=0),
        "large link number": click_path(message(), link=70_000),
        "http": click_path(message(), "http://shop.example/"),
        "long destination": click_path(message(), "https://shop.example/?q=" + "a" * 3_000),
        "destination with line breaks": click_path(message(), "https://shop.example/%C3%A4?%0d%0aSet-Cookie:x"),
        "destination with quotes": click_path(message(), "https://shop.example/?q='()*,;:@!$&"),
        "bad click": b"/c/nonsense",
        "bad open": b"/o/nonsense.gif",
        "no token": b"/c/",
        "no picture": b"/o/",
        "only a suffix": b"/o/.gif",
        "open without suffix": GOOD_OPEN[:-4],
        "open with another suffix": GOOD_OPEN[:-4] + b".png",
        "open with two suffixes": GOOD_OPEN + b".gif",
        "open with a slash after": GOOD_OPEN + b"/",
        "click with a suffix": GOOD_CLICK + b".gif",
        "open as a click": b"/c/" + PIXEL_TOKEN,
        "click as an open": b"/o/" + TOKEN + b".gif",
        "forged": GOOD_CLICK[:43] + b"AAAA" + GOOD_CLICK[47:],
        "cut": GOOD_CLICK[:-5],
        "padded": GOOD_CLICK + b"=",
        "unknown key": b"/c/AZmZ" + b"A" * 60,
        "unknown version": b"/c/" + b"B" * 64,
        "revoked click": b"/c/AQAATQ" + b"A" * 40,
        "revoked open": b"/o/AQAATQ" + b"A" * 40 + b".gif",
        "slash after": GOOD_CLICK + b"/",
        "two slashes": b"/c//" + TOKEN,
        "dots": b"/c/../" + TOKEN,
    }
    return ((name, get(path, BROWSER)) for name, path in paths.items())


def _modes() -> Iterator[Entry]:
    for ceiling in (Mode.AGGREGATE, Mode.ANONYMIZED, Mode.PERSON_BASED):
        for origin in Origin:
            sent = message(ceiling, origin=origin)
            name = f"{ceiling.label} {origin.name.lower()}"
            yield f"{name} click", get(click_path(sent), BROWSER)
            yield f"{name} open", get(open_path(sent), BROWSER)
    others = {
        "permission granted": message(event=BY_PERMISSION, permission=Permission.GRANTED),
        "permission denied": message(event=BY_PERMISSION, permission=Permission.DENIED),
        "permission unknown": message(event=BY_PERMISSION),
        "anonymous space": message(space=ANONYMOUS_SPACE),
        "deleted space": message(space=DELETED_SPACE),
        "unknown space": message(space=9),
        "unknown event": message(event=404),
        "relay of an unknown space": message(space=9, origin=Origin.RELAY),
        "no recipient": message(recipient=None),
        "a recipient's address": message(recipient="jörg@example.com"),
        "a recipient's uuid": message(recipient="0b9dbd1a-6d7c-4a3b-8f52-0a2c6a4c5a10"),
    }
    for name, sent in others.items():
        yield f"{name} click", get(click_path(sent), BROWSER)
        yield f"{name} open", get(open_path(sent), BROWSER)


def _queries() -> Iterator[Entry]:
    tails = {
        "empty": b"?",
        "usual": b"?utm_source=x&fbclid=AbC",
        "two marks": b"?a?b=/c/",
        "an open": b"?" + GOOD_OPEN,
        "a space, encoded": b"?a=%20",
        "a NUL, encoded": b"?a=%00",
        "a bad escape": b"?a=%zz&b=%",
        "quotes": b"?'\"<>\\^`{|}",
        "a line break, encoded": b"?%0d%0aUser-Agent:%20x",
        "long": b"?q=" + b"x" * 4_000,
        "header-like": b"?user-agent:x",
        "dots": b"?/../..//",
    }
    for name, tail in tails.items():
        yield f"query: {name}", get(GOOD_CLICK + tail, BROWSER)
        yield f"query of an open: {name}", get(GOOD_OPEN + tail, BROWSER)


def _encodings() -> Iterator[Entry]:
    tokens = {
        "first letter": b"%%%02x" % TOKEN[0] + TOKEN[1:],
        "NUL": b"%00",
        "no utf-8": b"%ff%fe",
        "slashes": b"..%2f..%2fetc%2fpasswd",
        "bad": b"%",
        "half": b"%4",
        "no hex": b"%zz",
        "quotes": b"'\"<>\\^`{|}",
        "many": b"%41" * 200,
        "tilde": b"~!$&'()*+,;=:@",
    }
    for name, token in tokens.items():
        yield f"encoded {name} click", get(b"/c/" + token, BROWSER)
        yield f"encoded {name} open", get(b"/o/" + token + b".gif", BROWSER)


def _sized_targets() -> Iterator[Entry]:
    for size in (2_000, 6_000, MAX_TARGET_BYTES - 1, MAX_TARGET_BYTES):
        yield f"bad target of {size}", get((b"/c/" + b"A" * size)[:size], BROWSER)
        yield f"good target of {size}", get((GOOD_CLICK + b"?" + b"A" * size)[:size], BROWSER)
        yield f"open target of {size}", get(b"/o/" + b"A" * (size - 7) + b".gif", BROWSER)


def _connection_headers() -> Iterator[Entry]:
    values = {
        "keep-alive": b"keep-alive",
        "Keep-Alive": b"Keep-Alive",
        "close": b"close",
        "CLOSE": b"CLOSE",
        "cLoSe": b"cLoSe",
        "close in a list": b"keep-alive, close",
        "close first": b"close, keep-alive",
        "close and another": b"TE, close",
        "close with spaces": b"  close  ",
        "close with a tab": b"\tclose\t",
        "close, comma": b"close,",
        "comma, close": b",close",
        "semicolon": b"close; x",
        "closed": b"closed",
        "close-notify": b"close-notify",
        "empty": b"",
        "own": b"X-Own",
        "TE": b"TE, X-Forwarded-For",
        "quoted": b'"close"',
        "upgrade without one": b"upgrade",
    }
    for name, value in values.items():
        yield f"connection {name}", click(BROWSER, b"Connection: " + value)
    yield "connection in capitals", click(BROWSER, b"CONNECTION: close")
    yield "connection without a space", click(BROWSER, b"connection:close")
    yield "connection twice, close first", click(b"Connection: close", b"Connection: keep-alive", BROWSER)
    yield "connection twice, close last", click(b"Connection: keep-alive", b"Connection: close", BROWSER)
    yield "connection keep-alive twice", click(b"Connection: keep-alive", b"Connection: keep-alive", BROWSER)
    yield "Keep-Alive header", click(b"Keep-Alive: timeout=5, max=100", b"Connection: keep-alive", BROWSER)
    yield "Proxy-Connection close", click(b"Proxy-Connection: close", BROWSER)
    yield "Proxy-Connection keep-alive", click(b"Proxy-Connection: keep-alive", BROWSER)
    yield "upgrade without a connection", click(b"Upgrade: websocket", BROWSER)
    yield "upgrade-insecure-requests", click(b"Upgrade-Insecure-Requests: 1", BROWSER)
    yield "close on an open", get(GOOD_OPEN, b"Connection: close")
    yield "close on a bad token", get(b"/c/x", b"Connection: close")
    yield "content-length 0", click(b"Content-Length: 0", BROWSER)
    yield "content-length 00", click(b"Content-Length: 00", BROWSER)
    yield "expect without a body", click(b"Expect: 100-continue", BROWSER)
    yield "expect something else", click(b"Expect: 200-ok", BROWSER)
    yield "http/1.0", get(GOOD_CLICK, BROWSER, version=b"HTTP/1.0")
    yield "http/1.0 keep-alive", get(GOOD_CLICK, b"Connection: keep-alive", version=b"HTTP/1.0")
    yield "http/1.0 close", get(GOOD_OPEN, b"Connection: close", version=b"HTTP/1.0")
    yield "http/1.0 without a header", b"GET " + GOOD_OPEN + b" HTTP/1.0\r\n\r\n"
    yield "http/1.1 without a header", b"GET " + GOOD_OPEN + b" HTTP/1.1\r\n\r\n"


_AGENTS = {
    "browser": CHROME,
    "image proxy": b"Mozilla/5.0 (via ggpht.com GoogleImageProxy)",
    "scanner": b"Barracuda Sentinel",
    "empty": b"",
    "a space": b" ",
    "spaces": b"     ",
    "a tab": b"\t",
    "tabs and spaces": b" \t \t ",
    "spaces around": b"   curl/8   ",
    "tabs around": b"\tcurl/8\t",
    "tab inside": b"curl\t8",
    "600 bytes": b"u" * 600,
    "511 bytes": b"u" * 511,
    "512 bytes and a half letter": b"u" * 511 + "ä".encode(),
    "60,000 bytes": b"u" * 60_000,
    "utf-8": "Müller/1 \N{SNOWMAN}".encode(),
    "latin-1": b"M\xfcller/1",
    "no utf-8": b"\xff\xfe\x80",
    "a colon first": b": x",
    "only a colon": b":",
    "another header": b"x User-Agent: y",
    "quotes": b"\"'\\,;{}",
    "a backslash n": b"x\\r\\nUser-Agent: y",
    "separators": "x\N{LINE SEPARATOR}y\u0085z".encode(),
    "percent": b"%0d%0a%00",
}


def _user_agents() -> Iterator[Entry]:
    for name, value in _AGENTS.items():
        yield f"user agent {name}", click(b"User-Agent: " + value, b"Accept: */*")
    for name in (b"user-agent", b"USER-AGENT", b"uSeR-aGeNt"):
        yield f"user agent as {name.decode()}", click(name + b": curl/8")
    several = {
        "two": [b"User-Agent: one", b"User-Agent: two"],
        "empty first": [b"User-Agent:", b"User-Agent: two"],
        "blank first": [b"User-Agent:  \t", b"User-Agent: two"],
        "two empty": [b"User-Agent:", b"User-Agent: "],
        "empty last": [b"User-Agent: one", b"User-Agent:"],
        "in two cases": [b"user-agent:", b"USER-AGENT: two"],
        "apart": [b"User-Agent:", BROWSER.replace(b"User-Agent", b"X-User-Agent"), b"User-Agent: three"],
        "none": [],
        "last line": [b"Accept: */*", b"User-Agent: last"],
        "no space": [b"User-Agent:curl/8"],
        "after an empty header": [b"Accept:", b"User-Agent: x"],
        "before an empty header": [b"User-Agent:", b"Accept: x"],
    }
    for name, lines in several.items():
        yield f"user agents {name}", click(*lines)


def _alike() -> Iterator[Entry]:
    """Headers that look like one that is read, and are none."""
    lines = {
        "note": b"X-Note: user-agent: x",
        "cookie": b"Cookie: a=1; user-agent: x; purpose: prefetch; x-forwarded-for: 192.0.2.1",
        "referer": b"Referer: https://a.example/?User-Agent: x",
        "longer name": b"X-User-Agent: x",
        "longer name behind": b"User-Agent-X: x",
        "sec-ch-ua": b'Sec-CH-UA: "Chromium";v="142", "Not?A_Brand";v="99"',
        "underscore": b"User_Agent: x",
        "shorter": b"User-Agen: x",
        "dot": b"User.Agent: x",
        "purpose in a name": b"X-Sec-Purpose: prefetch",
        "purpose behind": b"Purpose-Of: prefetch",
        "forwarded": b"Forwarded: for=192.0.2.1",
        "forwarded-for": b"X-Forwarded-For-Real: 192.0.2.1",
        "real ip": b"X-Real-IP: 192.0.2.1",
        "escaped line break": b"X-Note: \\r\\nuser-agent: x",
        "value is a name": b"X-Note: sec-purpose",
        "value with a tab": b"X-Note: a\tuser-agent:\tx",
        "kelvin": "X-Note: \N{KELVIN SIGN} user-agent: x".encode(),
        "capital sharp s": b"X-Note: \xc3\x9f\r\nAccept: x",
        "one letter": b"X: y",
        "own": b"X-Moz-Like: prefetch",
    }
    for name, line in lines.items():
        yield f"alike: {name}", click(line)
        yield f"alike, before a browser: {name}", click(line, BROWSER)


def _purposes() -> Iterator[Entry]:
    for name in sorted(PREFETCH_HEADERS):
        for spelling in (name, name.upper(), name.title()):
            yield f"prefetch by {spelling.decode()}", click(BROWSER, spelling + b": prefetch")
    values = {
        "prerender": b"prefetch;prerender",
        "anonymous": b"prefetch;anonymous-client-ip",
        "capitals": b"PREFETCH",
        "preview": b"preview",
        "instant": b"instant",
        "other": b"other",
        "part": b"xprefetchx",
        "empty": b"",
        "spaces": b"  prefetch  ",
        "long": b"x" * 60 + b"prefetch",
        "longer": b"x" * 200 + b"prefetch",
        "latin-1": b"pr\xe9fetch",
    }
    for name, value in values.items():
        yield f"purpose {name}", click(b"Sec-Purpose: " + value, BROWSER)
    yield "purpose twice, first no", click(b"Purpose: other", b"Purpose: prefetch", BROWSER)
    yield "purpose twice, second no", click(b"Sec-Purpose: prefetch", b"X-Moz: other", BROWSER)
    yield "purpose without a user agent", click(b"X-Moz: prefetch")


def _forwarded() -> Iterator[Entry]:
    lines = {
        "one": [b"198.51.100.7"],
        "port": [b"198.51.100.7:9"],
        "two hops": [b"192.0.2.66, 198.51.100.7"],
        "two headers": [b"192.0.2.66", b"198.51.100.7"],
        "three headers": [b"192.0.2.66, 127.0.0.9", b"198.51.100.7", b"127.0.0.8"],
        "ipv6": [b"2001:db8::7"],
        "ipv6 with a port": [b"[2001:db8::7]:9"],
        "ipv6 with a zone": [b"fe80::1%eth0"],
        "mapped": [b"::ffff:198.51.100.7"],
        "junk": [b"junk"],
        "junk last": [b"198.51.100.7, junk"],
        "empty": [b""],
        "empty first": [b"", b"198.51.100.7"],
        "empty last": [b"198.51.100.7", b""],
        "commas": [b",,198.51.100.7,,"],
        "spaces": [b"   198.51.100.7   "],
        "tabs": [b"\t198.51.100.7\t"],
        "latin-1": [b"\xff\xff, 127.0.0.1"],
        "quotes": [b'"198.51.100.7"'],
        "40 hops": [b", ".join([b"127.0.0.1"] * 40)],
        "40 headers": [b"127.0.0.1"] * 40,
        "long": [b"1" * 5_000],
    }
    for name, values in lines.items():
        yield f"forwarded {name}", click(BROWSER, *[b"X-Forwarded-For: " + value for value in values])
    yield "forwarded in capitals", click(BROWSER, b"X-FORWARDED-FOR:198.51.100.7")
    yield "forwarded for an open", get(GOOD_OPEN, b"x-forwarded-for: 198.51.100.7", BROWSER)
    yield (
        "forwarded for an anonymized one",
        get(click_path(message(Mode.ANONYMIZED)), b"x-forwarded-for: 198.51.100.7", BROWSER),
    )


def _sized_heads() -> Iterator[Entry]:
    yield (
        "a browser behind a proxy",
        get(
            GOOD_CLICK,
            b"Connection: keep-alive",
            BROWSER,
            b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
            b'sec-ch-ua: "Chromium";v="142", "Google Chrome";v="142", "Not_A Brand";v="99"',
            b"sec-ch-ua-mobile: ?0",
            b"Upgrade-Insecure-Requests: 1",
            b"Sec-Fetch-Site: cross-site",
            b"Accept-Encoding: gzip, deflate, br, zstd",
            b"Accept-Language: de-DE,de;q=0.9",
            b"X-Forwarded-For: 198.51.100.7",
            b"X-Forwarded-Proto: https",
        ),
    )
    yield "1,000 headers", click(*[b"X-%d: y" % number for number in range(1_000)], BROWSER)
    yield "a header of 60,000 bytes", click(b"Cookie: " + b"x" * 60_000, BROWSER)
    yield "a name of 10,000 bytes", click(b"X" * 10_000 + b": y", BROWSER)
    yield "an empty header of each sort", click(b"Cookie:", b"Accept:", b"X:", b"Referer:", BROWSER)
    yield "names with all letters that a token may have", click(b"!#$%&'*+-.^_`|~09azAZ: x", BROWSER)
    yield "no host", b"GET " + GOOD_CLICK + b" HTTP/1.1\r\nUser-Agent: x\r\n\r\n"
    yield "two hosts", click(b"Host: other.example", BROWSER)


def _pipelined() -> Iterator[Entry]:
    opened, other = get(GOOD_OPEN, BROWSER), get(click_path(message(Mode.ANONYMIZED)), BROWSER)
    yield "two at once", click(BROWSER) + opened
    yield "three at once", opened + other + get(b"/c/x")
    yield (
        "50 at once",
        b"".join(
            get(click_path(message(), f"https://shop.example/{number}", number), b"User-Agent: %d" % number)
            for number in range(100, 150)
        ),
    )
    yield "of both streams", (opened + other) * 3
    yield "user agents are each one's own", click(b"User-Agent: one") + click() + click(b"User-Agent: three")
    yield "close in the last", click(BROWSER) + get(GOOD_OPEN, b"Connection: close")
    yield "without headers", (b"GET " + GOOD_OPEN + b" HTTP/1.1\r\n\r\n") * 3


def _unusual_targets() -> Iterator[Entry]:
    targets = {
        "fragment": GOOD_CLICK + b"#x",
        "fragment and query": GOOD_CLICK + b"#x?y",
        "query and fragment": GOOD_CLICK + b"?y#x",
        "empty fragment": GOOD_OPEN + b"#",
        "two fragments": GOOD_CLICK + b"#a#b",
        "absolute": b"http://t.example" + GOOD_CLICK,
        "absolute https": b"https://t.example:8443" + GOOD_OPEN + b"?x",
        "absolute with a user": b"http://user:secret@t.example" + GOOD_CLICK,
        "absolute without a path": b"http://t.example",
        "authority": b"t.example:443",
        "star": b"*",
        "root": b"/",
        "c": b"/c",
        "capitals": b"/C/" + TOKEN,
        "encoded slash": b"/c%2f" + TOKEN,
        "encoded c": b"/%63/" + TOKEN,
        "double slash": b"//c/" + TOKEN,
        "dots before": b"/x/.." + GOOD_CLICK,
        "no slash": GOOD_CLICK[1:],
        "livez": b"/livez",
        "robots": b"/robots.txt",
        "elsewhere": b"/c.php",
        "latin-1": b"/c/\xff\xfe",
        "utf-8": "/c/ä".encode(),
        "utf-8 in a query": GOOD_CLICK + "?ä".encode(),
        "latin-1 in an open": GOOD_OPEN + b"?\xe4",
        "utf-8 before the suffix": b"/o/" + "ä".encode() + b".gif",
        "NUL": GOOD_CLICK + b"\x00",
        "tab": GOOD_CLICK + b"\tx",
        "form feed": GOOD_CLICK + b"\x0cx",
        "escape": GOOD_CLICK + b"\x1b[0m",
        "delete": GOOD_CLICK + b"\x7f",
        "bare CR": GOOD_CLICK + b"\rx",
        "bare LF": GOOD_CLICK + b"\nx",
        "space": GOOD_CLICK + b" x",
        "only c": b"/c/ x",
        "websocket": b"ws://t.example" + GOOD_CLICK,
    }
    for name, target in targets.items():
        yield f"target {name}", get(target, BROWSER)
    for size in (MAX_TARGET_BYTES + 1, 2 * MAX_TARGET_BYTES, 65_535, 65_536, 100_000, 200_000):
        yield f"bad target of {size}", get((b"/c/" + b"A" * size)[:size], BROWSER)
        yield f"good target of {size}", get((GOOD_CLICK + b"?" + b"A" * size)[:size], BROWSER)
        yield f"open target of {size}", get(b"/o/" + b"A" * (size - 7) + b".gif", BROWSER)


def _methods() -> Iterator[Entry]:
    for method in (
        b"HEAD",
        b"POST",
        b"PUT",
        b"DELETE",
        b"OPTIONS",
        b"TRACE",
        b"PATCH",
        b"PROPFIND",
        b"PURGE",
        b"CONNECT",
    ):
        yield f"{method.decode()} click", get(GOOD_CLICK, BROWSER, method=method)
        yield f"{method.decode()} open", get(GOOD_OPEN, BROWSER, method=method)
    for method in (
        b"get",
        b"Get",
        b"GETS",
        b"GE",
        b"G",
        b"",
        b"FOO",
        b" GET",
        b"GET ",
        b"\tGET",
        b"G\xc3\x8aT",
        b"PRI",
        b"M-SEARCH",
    ):
        yield f"method {method!r}", get(GOOD_CLICK, BROWSER, method=method)
    others = {"bad": b"/c/x", "bad open": b"/o/x", "gone": click_path(message(), link=40)}
    for name, path in others.items():
        yield f"HEAD {name}", get(path, BROWSER, method=b"HEAD")


def _versions() -> Iterator[Entry]:
    for version in (
        b"HTTP/0.9", b"HTTP/1.2", b"HTTP/1.9", b"HTTP/2.0", b"HTTP/3.0", b"HTTP/9.9", b"HTTP/1", b"HTTP/1.",
        b"HTTP/1.1.", b"HTTP/1.10", b"HTTP/11", b"HTTP/01.1", b"HTTP/1.01", b"http/1.1", b"Http/1.1", b"HTTP 1.1",
        b"HTTP/1,1", b"HTTP/-1.1", b"HTTP/1.1 ", b" HTTP/1.1", b"HTTP/1.1\t", b"HTTPS/1.1", b"ICE/1.0", b"RTSP/1.0",
        b"HTTP/1.1 x", b"HTTP/1.\xc2\xb9", b"HTTP/", b"",
    ):  # fmt: skip
        yield f"version {version!r}", get(GOOD_CLICK, BROWSER, version=version)
    yield "no version at all", b"GET " + GOOD_CLICK + b"\r\n\r\n"
    yield "no version and a header", b"GET " + GOOD_CLICK + b"\r\nHost: t\r\n\r\n"
    yield "nothing but a method", b"GET\r\n\r\n"
    yield "nothing but a method and a space", b"GET \r\n\r\n"
    yield "http/1.0 then http/1.1", get(GOOD_CLICK, version=b"HTTP/1.0") + get(LAST)
    yield (
        "http/1.0 keep-alive then http/1.1",
        get(GOOD_CLICK, b"Connection: keep-alive", version=b"HTTP/1.0") + get(LAST),
    )
    yield "http/1.1 then http/1.0", click(BROWSER) + get(GOOD_OPEN, version=b"HTTP/1.0")
    yield "http/1.0 keep-alive three times", get(GOOD_CLICK, b"Connection: keep-alive", version=b"HTTP/1.0") * 3


def _bodies() -> Iterator[Entry]:
    lengths = {
        "n": b"5", "negative": b"-1", "plus": b"+0", "no number": b"x", "empty": b"", "hexadecimal": b"0x0",
        "float": b"0.0", "list": b"0, 0", "space inside": b"0 0", "space after": b"0 ",
        "huge": b"99999999999999999999999", "2**64": b"18446744073709551616",
    }  # fmt: skip
    for name, value in lengths.items():
        yield f"content-length {name}", click(b"Content-Length: " + value)
        yield f"content-length {name} with a body", click(b"Content-Length: " + value) + b"12345"
    yield "content-length twice, both 0", click(b"Content-Length: 0", b"Content-Length: 0")
    yield "content-length twice, different", click(b"Content-Length: 0", b"Content-Length: 5") + b"12345"
    yield "a body that is a request", click(b"Content-Length: %d" % len(get(LAST))) + get(LAST)
    yield "a body and a request", click(b"Content-Length: 5") + b"12345" + get(LAST)
    yield "half a body", click(b"Content-Length: 500") + b"12345"
    yield "a body of 100,000", click(b"Content-Length: 100000") + b"x" * 100_000 + get(LAST)
    yield "a body without a length", click() + b"12345"
    yield "expect and a body", click(b"Expect: 100-continue", b"Content-Length: 5") + b"12345"
    yield "expect elsewhere", get(b"/livez", b"Expect: 100-continue", b"Content-Length: 5") + b"12345"
    chunked = click(b"Transfer-Encoding: chunked")
    yield "chunked", chunked + b"3\r\nabc\r\n0\r\n\r\n"
    yield "chunked, empty", chunked + b"0\r\n\r\n"
    yield "chunked, then another", chunked + b"0\r\n\r\n" + get(LAST)
    yield "chunked with an extension", chunked + b"3;user-agent=x\r\nabc\r\n0\r\n\r\n" + get(LAST)
    yield "chunked with trailers", chunked + b"0\r\nUser-Agent: trailer\r\nSec-Purpose: prefetch\r\n\r\n" + get(LAST)
    yield (
        "chunked with trailers, announced",
        click(b"Transfer-Encoding: chunked", b"Trailer: User-Agent") + (b"1\r\nx\r\n0\r\nUser-Agent: trailer\r\n\r\n"),
    )
    yield "chunked, a request inside", chunked + b"%x\r\n%b\r\n0\r\n\r\n" % (len(get(LAST)), get(LAST))
    yield "chunked, bad size", chunked + b"zz\r\n\r\n"
    yield "chunked, negative size", chunked + b"-1\r\n\r\n"
    yield "chunked, huge size", chunked + b"fffffffffffffffff\r\n\r\n"
    yield "chunked, never ends", chunked + b"5\r\nab"
    yield "chunked, size in bare LF", chunked + b"0\n\n"
    for value in (
        b"identity",
        b"gzip",
        b"gzip, chunked",
        b"chunked, gzip",
        b"Chunked",
        b"chunked ",
        b"xchunked",
        b"",
        b"chunked;q=1",
    ):
        yield f"transfer-encoding {value!r}", click(b"Transfer-Encoding: " + value) + b"0\r\n\r\n"
    yield "transfer-encoding twice", click(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity") + b"0\r\n\r\n"
    yield "both, length first", click(b"Content-Length: 5", b"Transfer-Encoding: chunked") + b"0\r\n\r\n" + get(LAST)
    yield "both, chunked first", click(b"Transfer-Encoding: chunked", b"Content-Length: 0") + b"0\r\n\r\n" + get(LAST)
    yield "trailers after no body", click(b"TE: trailers", b"Trailer: User-Agent")


def _upgrades() -> Iterator[Entry]:
    for protocol in (b"websocket", b"WebSocket", b"h2c", b"TLS/1.0", b"", b"x, websocket"):
        lines = (UPGRADE, b"Upgrade: " + protocol, b"Sec-WebSocket-Key: YQ==", b"Sec-WebSocket-Version: 13")
        yield f"upgrade to {protocol!r}", click(*lines)
        yield f"upgrade to {protocol!r} of an open", get(GOOD_OPEN, *lines)
        yield f"upgrade to {protocol!r} and more", click(*lines) + get(LAST)
    yield (
        "h2c as browsers never do",
        click(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"),
    )
    yield "upgrade and keep-alive", click(b"Connection: keep-alive, Upgrade", b"Upgrade: websocket")
    yield "upgrade and close", click(b"Connection: close, Upgrade", b"Upgrade: websocket")
    yield "upgrade elsewhere", get(b"/livez", UPGRADE, b"Upgrade: websocket")
    yield "upgrade with a body", click(UPGRADE, b"Upgrade: h2c", b"Content-Length: 5") + b"12345"
    yield "upgrade second", click() + click(UPGRADE, b"Upgrade: websocket") + get(LAST)
    yield "http/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    yield "tls hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50)
    yield "proxy protocol", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + click()
    yield "proxy protocol 2", b"\r\n\r\n\x00\r\nQUIT\n" + bytes(16) + click()
    yield "ssh", b"SSH-2.0-x\r\n"


def _lines() -> Iterator[Entry]:
    """Header lines that are none."""
    lines = {
        "folded": b"User-Agent: one\r\n two",
        "folded with a tab": b"User-Agent: one\r\n\ttwo",
        "folded when empty": b"User-Agent:\r\n one",
        "folded twice": b"User-Agent: one\r\n two\r\n three",
        "folded another": b"X-Note: one\r\n User-Agent: two",
        "folded blank": b"User-Agent: one\r\n ",
        "space before the colon": b"User-Agent : x",
        "tab before the colon": b"User-Agent\t: x",
        "space before the name": b" User-Agent: x",
        "space in the name": b"User Agent: x",
        "no colon": b"User-Agent",
        "no name": b": x",
        "only a colon": b":",
        "bare CR": b"User-Agent: a\rb",
        "bare CR at the end": b"User-Agent: a\r",
        "bare CR and a header": b"X-Note: a\rUser-Agent: b",
        "bare LF": b"X-Note: a\nUser-Agent: b",
        "bare LF after an empty one": b"X-Note:\nUser-Agent: b",
        "LF CR": b"X-Note: a\n\rUser-Agent: b",
        "CR CR LF": b"X-Note: a\r\r\nUser-Agent: b",
        "NUL in the value": b"User-Agent: a\x00b",
        "NUL in another value": b"X-Note: a\x00b",
        "NUL in the name": b"User\x00Agent: x",
        "latin-1 in the name": b"User-\xc4gent: x",
        "quotes in the name": b'"User-Agent": x',
        "parentheses in the name": b"User(Agent): x",
        "slash in the name": b"User/Agent: x",
        "vertical tab": b"User-Agent: a\x0bb",
        "form feed": b"User-Agent: a\x0cb",
        "form feed first": b"User-Agent:\x0cb",
        "escape": b"User-Agent: a\x1bb",
        "delete": b"User-Agent: a\x7fb",
        "a bell": b"User-Agent: \x07",
        "next line": b"User-Agent: a\x85b",
        "no-break space": b"User-Agent: \xa0x\xa0",
        "NUL in a length": b"Content-Length: 0\x00",
        "NUL in connection": b"Connection: clo\x00se",
        "blank line with spaces": b"X-Note: a\r\n  \r\nUser-Agent: b",
        "an end in between": b"X-Note: a\r\n\r\nUser-Agent: b",
        "name of nothing but dashes": b"---: x",
    }
    for name, line in lines.items():
        yield f"line {name}", click(line, b"Accept: */*")
        yield f"last line {name}", click(b"Accept: */*", line)
        yield f"line of an open {name}", get(GOOD_OPEN, line)
    for name, end in {"LF": b"\n", "CR": b"\r", "LF CR": b"\n\r", "CR CR LF": b"\r\r\n", "NUL": b"\x00\r\n"}.items():
        yield f"all lines end in {name}", get(GOOD_CLICK, BROWSER, end=end)
    yield "blank line in LF", b"GET " + GOOD_CLICK + b" HTTP/1.1\r\nUser-Agent: x\r\n\n"
    yield "blank line in LF LF", b"GET " + GOOD_CLICK + b" HTTP/1.1\r\nUser-Agent: x\n\n"
    yield "first line in LF", b"GET " + GOOD_CLICK + b" HTTP/1.1\nUser-Agent: x\r\n\r\n"
    yield "first line in CR", b"GET " + GOOD_CLICK + b" HTTP/1.1\rUser-Agent: x\r\n\r\n"
    yield "second line in LF", b"GET " + GOOD_CLICK + b" HTTP/1.1\r\nUser-Agent: x\nAccept: y\r\n\r\n"


def _around() -> Iterator[Entry]:
    """What comes before and after requests, and ends in the middle."""
    usual = click(BROWSER)
    for count in (1, 2, 5, 100):
        yield f"{count} CRLF before", b"\r\n" * count + usual
        yield f"{count} CRLF after", usual + b"\r\n" * count
        yield f"{count} CRLF after close", click(b"Connection: close") + b"\r\n" * count
        yield f"{count} CRLF between", usual + b"\r\n" * count + get(LAST)
    for name, piece in {"CR": b"\r", "LF": b"\n", "space": b" ", "NUL": b"\x00", "letter": b"x", "tab": b"\t"}.items():
        yield f"{name} before", piece + usual
        yield f"{name} after", usual + piece
        yield f"{name} between", usual + piece + get(LAST)
        yield f"{name} after close", click(b"Connection: close") + piece
    yield "close in the middle", usual + click(b"Connection: close") + get(LAST)
    yield "close first", click(b"Connection: close") + get(LAST)
    yield "close first of 50", click(b"Connection: close") + get(LAST) * 49
    yield "two closes", click(b"Connection: close") * 2
    yield "a head in the middle", usual + get(GOOD_CLICK, method=b"HEAD") + get(LAST)
    yield "a post in the middle", usual + get(GOOD_CLICK, b"Content-Length: 3", method=b"POST") + b"abc" + get(LAST)
    yield "another path in the middle", usual + get(b"/livez") + get(LAST)
    yield "another path first", get(b"/livez") + usual + get(LAST)
    yield "a fragment in the middle", usual + get(GOOD_CLICK + b"#x") + get(LAST)
    yield "a long target in the middle", usual + get(b"/c/" + b"A" * 9_000) + get(LAST)
    yield "a folded line in the middle", usual + click(b"User-Agent: a\r\n b") + get(LAST)
    yield "noise in the middle", usual + b"\xff\xfe\r\n\r\n" + get(LAST)
    yield "lower case in the middle", usual + get(GOOD_CLICK, method=b"get") + get(LAST)
    yield "a body in the middle", usual + click(b"Content-Length: 5") + b"12345" + get(LAST)
    yield "chunks in the middle", usual + click(b"Transfer-Encoding: chunked") + b"0\r\n\r\n" + get(LAST)
    yield "half a request after", usual + usual[:40]
    yield "half a request after two", usual * 2 + b"G"
    yield "all but the last byte after", usual + get(LAST)[:-1]
    yield "nothing", b""
    yield "half a line", b"GET /c/"
    yield "half a head", usual[:-2]
    yield "all but the last byte", usual[:-1]
    yield "two blank lines", b"\r\n\r\n"
    yield "a target and an end", b"GET /c/\r\n\r\n"
    yield "a request in a header", click(b"X-Note: GET /c/x HTTP/1.1", BROWSER)
    yield "two large heads", click(b"Cookie: " + b"x" * 100_000) * 2
    for size in (MAX_HEAD_BYTES - 1, MAX_HEAD_BYTES, MAX_HEAD_BYTES + 1, MAX_HEAD_BYTES + 5_000):
        yield f"a head of {size}", click(b"Cookie: " + b"x" * (size - len(click(b"Cookie: "))))
        yield f"an endless head of {size}", click(b"Cookie: ")[:-4] + b"x" * size


def _noise() -> Iterator[Entry]:
    noise = random.Random(20261124)
    for number in range(20):
        yield f"noise {number}", noise.randbytes(noise.choice([1, 10, 100, 1_000]))
        yield f"noise after a start {number}", b"GET /c/" + noise.randbytes(60) + b"\r\n\r\n"
        yield f"noise in the head {number}", click(b"X: " + noise.randbytes(20), BROWSER)
        flipped = bytearray(click(BROWSER, b"X-Forwarded-For: 198.51.100.7"))
        flipped[noise.randrange(len(flipped))] = noise.randrange(256)
        yield f"one byte flipped {number}", bytes(flipped)


def _named(*parts: Callable[[], Iterator[Entry]]) -> Mapping[str, bytes]:
    entries = [entry for part in parts for entry in part()]
    named = dict(entries)
    twice = [name for name, count in Counter(name for name, _ in entries).items() if count > 1]
    assert not twice, f"names that stand for several requests: {twice}"
    return named


USUAL = _named(
    _plain_answers,
    _modes,
    _queries,
    _encodings,
    _sized_targets,
    _connection_headers,
    _user_agents,
    _alike,
    _purposes,
    _forwarded,
    _sized_heads,
    _pipelined,
)
ODD = _named(_unusual_targets, _methods, _versions, _bodies, _upgrades, _lines, _around, _noise)
CORPUS = {
    **{f"usual: {name}": sent for name, sent in USUAL.items()},
    **{f"odd: {name}": sent for name, sent in ODD.items()},
}
