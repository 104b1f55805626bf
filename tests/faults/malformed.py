"""Malformed requests: good ones flipped, cut and split, heads that follow the grammar a little, noise, pipelines.

Everything comes from a seed: the same one, with the same good requests, gives the same bytes. Invariant: each good
request is used in one trial and once in it, so that it may be recorded once at most, whatever becomes of its bytes.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httptools

from .asks import Ask

LONG_BYTES = (8_191, 8_193, 70_000, 300_000)
"""Around the longest target that is looked at, above the buffer of one read, above the largest head."""

_BLANK = b"\r\n\r\n"
_METHODS = (
    b"GET",
    b"HEAD",
    b"POST",
    b"PUT",
    b"OPTIONS",
    b"TRACE",
    b"CONNECT",
    b"PRI",
    b"PROPFIND",
    b"M-SEARCH",
    b"get",
)
_ODD_METHODS = (
    b"",
    b"G ET",
    b"GET\t",
    b"GE\0T",
    b"\r\nGET",
    b"\xc3\x84",
    b"GETGETGETGET",
    b"(",
    b"SOURCE",
    b"\x16\x03\x01",
)
_VERSIONS = (b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0")
_ODD_VERSIONS = (
    b"",
    b"HTTP/0.9",
    b"HTTP/1.2",
    b"HTTP/2.0",
    b"HTTP/9.9",
    b"HTTP/1",
    b"http/1.1",
    b"HTTP/1.1 ",
    b" HTTP/1.1",
    b"HTTP/1.1x",
    b"ICE/1.0",
    b"RTSP/1.0",
    b"HTTP/-1.1",
    b"HTTP/1.\xb2",
)
_ENDS = (b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n ", b"\0\r\n", b"\r\n\r\n")
_PATHS = (
    b"/",
    b"*",
    b"//",
    b"/c/",
    b"/o/",
    b"/o/.gif",
    b"/c",
    b"/livez",
    b"/readyz",
    b"/robots.txt",
    b"/nothing",
    b"/C/x",
    b"",
)
_ODD_PATHS = (
    b"/c/%s?a=%%00&b=%%zz",
    b"/c/%s#f",
    b"/c/%s#?x",
    b"/c/%%2e%%2e/%s",
    b"/c/../%s",
    b"/c/%s/../..",
    b"/c/%s\0",
    b"/c/%s\xff",
    b"/c/\xc3\xa4%s",
    b"//c/%s",
    b"/%%63/%s",
    b"http://t/c/%s",
    b"https://u:p@t:99999/c/%s",
    b"http://[::1/c/%s",
    b"t:443%s",
    b"c/%s",
    b"/o/%s.gif?/c/",
    b"/o/%s.gif%%00",
    b"/c/%s;a",
    b"/c/%s %s",
    b"/c/\t%s",
    b"javascript:%s",
    b"/c/%s%%",
    b"///%s//",
)
_LINES = (
    b"Host: t.example",
    b"Host: a\r\nHost: b",
    b"Host:",
    b"User-Agent: x",
    b"Accept: */*",
    b"Connection: close",
    b"Connection: keep-alive",
    b"Connection: Upgrade\r\nUpgrade: websocket",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAAA",
    b"Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13",
    b"Connection: close, keep-alive",
    b"Proxy-Connection: x",
    b"Expect: 100-continue",
    b"Expect: nothing",
    b"X-Forwarded-For: 1.2.3.4, %%%, \xff",
    b"Forwarded: for=_x",
    b"Purpose: prefetch",
    b"Cookie: a=b",
    b"Range: bytes=0-9",
    b"User-Agent: a\r\n b",
    b"User-Agent\t: x",
    b"User-Agent : x",
    b" User-Agent: x",
    b": no name",
    b"no colon",
    b"\0: x",
    b"A\0: x",
    b"A: \0",
    b"A: \xff\xfe\xe4",
    b"\xc3\xa4: x",
    b"A:\x01\x1b[31m",
    b"A: b\rX: c",
    b"A: b\nX: c",
    b"A: b\r\n\tc\r\n\td",
    b"@: x",
    b"A{}: x",
    b"",
)
_LENGTHS = (
    b"Content-Length: 0",
    b"Content-Length: 5",
    b"Content-Length: 5\r\nContent-Length: 6",
    b"Content-Length: 5\r\nContent-Length: 5",
    b"Content-Length: -1",
    b"Content-Length: +5",
    b"Content-Length: 0x5",
    b"Content-Length: 5, 5",
    b"Content-Length: ",
    b"Content-Length: 5 ",
    b"Content-Length: 99999999999999999999999",
    b"Content-Length: 18446744073709551615",
    b"Content-Length: \xb2",
    b"Content-Length : 5",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nContent-Length: 5",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked, gzip",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding: CHUNKED",
    b"Transfer-Encoding: identity",
)
_BODIES = (
    b"",
    b"hello",
    b"hell",
    b"hello world",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"5\nhello\n0\n\n",
    b"zz\r\n",
    b"-1\r\n\r\n",
    b"ffffffffffffffffffff\r\n",
    b"5;a=b;c\r\nhello\r\n0\r\nTrailer: x\r\n\r\n",
    b"0\r\n\r\n",
    b"0\r\nA\0: x\r\n\r\n",
    b"5\r\nhelloX",
    b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"5 \r\nhello\r\n0\r\n\r\n",
    b"GET /livez HTTP/1.1\r\n\r\n",
)


@dataclass(frozen=True, slots=True)
class Trial:
    """One exchange: what is sent over one connection, in which parts, and the good requests that it was made from."""

    kind: str
    parts: Sequence[bytes]
    asks: Sequence[Ask] = ()
    leaves: bool = False
    """Whether the client resets the connection instead of waiting for answers."""

    @property
    def sent(self) -> bytes:
        return b"".join(self.parts)


def trials(asks: Iterator[Ask], seed: int) -> Iterator[Trial]:
    """Trials without end."""
    choose = random.Random(f"malformed {seed}")
    kinds, weights = zip(*_KINDS.items(), strict=True)
    while True:
        (make,) = choose.choices(kinds, weights)
        used: list[Ask] = []
        sent = make(choose, _Using(asks, used))
        parts = _split(choose, sent) if make is _good or choose.random() < 0.2 else [sent]
        yield Trial(make.__name__.lstrip("_"), parts, used, leaves=choose.random() < 0.03)


class Counted:
    """Looks with the server's parser how many answers bytes may get at most: one a request, and one for the fault."""

    def __init__(self, sent: bytes) -> None:
        self.requests = 0
        parser = httptools.HttpRequestParser(self)
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        while sent:
            rest = b""
            try:
                parser.feed_data(sent)
            except httptools.HttpParserUpgrade as upgrade:
                rest = sent[upgrade.args[0] :]
            except httptools.HttpParserError:
                self.requests += 1
            sent = rest

    def on_headers_complete(self) -> None:
        self.requests += 1


@dataclass(slots=True)
class _Using:
    """Good requests, and which of them were taken."""

    asks: Iterator[Ask]
    used: list[Ask] = field(default_factory=list)

    def take(self) -> bytes:
        self.used.append(next(self.asks))
        return self.used[-1].request

    def token(self) -> bytes:
        """The token of a good request, which may be a click's or an open's."""
        return self.take().split(b" ", 2)[1][3:].removesuffix(b".gif")


def _good(_: random.Random, good: _Using) -> bytes:
    return good.take()


def _flipped(choose: random.Random, good: _Using) -> bytes:
    return _flip(choose, good.take())


def _cut(choose: random.Random, good: _Using) -> bytes:
    request = good.take()
    return request[: choose.randrange(1, len(request))]


def _headed(choose: random.Random, good: _Using) -> bytes:
    """A head that follows the grammar here and there, with a body."""
    end = choose.choice(_ENDS) if choose.random() < 0.15 else b"\r\n"
    first = b" ".join([_method(choose), _target(choose, good), _version(choose)])
    lines = [first, *choose.choices(_LINES, k=choose.randrange(5))]
    if choose.random() < 0.5:
        lines += choose.choices(_LENGTHS, k=choose.choice((1, 1, 1, 2)))
    if choose.random() < 0.02:
        choose.shuffle(lines)
    return end.join([*lines, b"", b""]) + (choose.choice(_BODIES) if choose.random() < 0.6 else b"")


def _method(choose: random.Random) -> bytes:
    if choose.random() < 0.6:
        return b"GET"
    return choose.choice(_METHODS if choose.random() < 0.8 else _ODD_METHODS)


def _target(choose: random.Random, good: _Using) -> bytes:
    kind = choose.random()
    if kind < 0.3:
        return good.take().split(b" ", 2)[1]
    if kind < 0.6:
        return choose.choice(_PATHS)
    form = choose.choice(_ODD_PATHS)
    return form % ((good.token(),) * (form.count(b"%s") - form.count(b"%%s")))


def _version(choose: random.Random) -> bytes:
    return choose.choice(_VERSIONS if choose.random() < 0.85 else _ODD_VERSIONS)


def _piped(choose: random.Random, good: _Using) -> bytes:
    makers = choose.choices((_good, _flipped, _headed, _cut), (8, 1, 3, 1), k=choose.randrange(2, 9))
    return b"".join(make(choose, good) for make in makers)


def _noise(choose: random.Random, good: _Using) -> bytes:
    noise = choose.randbytes(choose.randrange(1, 400))
    return noise if choose.random() < 0.5 else b"GET /c/" + noise + b" HTTP/1.1\r\n\r\n"


def _long(choose: random.Random, good: _Using) -> bytes:
    """A line, or lines, out of all proportion."""
    request, many = good.take(), choose.choice(LONG_BYTES)
    line, _, rest = request.partition(b"\r\n")
    place = choose.randrange(5)
    if place == 0:
        return line.replace(b" HTTP", b"?%b HTTP" % (b"a" * many)) + b"\r\n" + rest
    if place == 1:
        return b"\r\n" * (many // 2) + request
    if place == 2:
        return line + b"\r\nCookie: " + b"c" * many + b"\r\n" + rest
    if place == 3:
        return line + b"\r\n" + b"A: b\r\n" * (many // 6) + rest
    return b"G" * many + request


def _split(choose: random.Random, sent: bytes) -> list[bytes]:
    places = sorted(choose.choices(range(len(sent) + 1), k=choose.randrange(1, 5)))
    return [sent[begin:end] for begin, end in zip([0, *places], [*places, len(sent)], strict=True)]


def _flip(choose: random.Random, request: bytes) -> bytes:
    changed = bytearray(request)
    for _ in range(choose.choice((1, 1, 1, 2, 4, 8))):
        place = choose.randrange(len(changed))
        what = choose.randrange(5)
        if what == 0:
            changed[place] ^= 1 << choose.randrange(8)
        elif what == 1:
            changed[place] = choose.choice(b"\0\t\n\r :/?#%\x7f\xff\x80")
        elif what == 2:
            del changed[place]
        elif what == 3:
            changed.insert(place, choose.randrange(256))
        else:
            other = choose.randrange(len(changed))
            changed[place], changed[other] = changed[other], changed[place]
    return bytes(changed)


_KINDS: dict[Callable[[random.Random, Any], bytes], int] = {
    _good: 10,
    _flipped: 30,
    _cut: 8,
    _headed: 36,
    _piped: 10,
    _noise: 5,
    _long: 1,
}
