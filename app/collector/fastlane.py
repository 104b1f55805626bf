"""The fast lane: answers tracking GETs from their bytes, without task, scope or event; the plain lane does the rest.

It takes what came whole in one read and has no body: a browser's or a proxy's GET, also several at once (pipelining).
Whatever is unusual (split, slow, another method or path, an upgrade, a reader who does not read) goes on to uvicorn and
the plain ASGI application untouched, so that there is one set of rules for HTTP's odd corners.

Invariants: both lanes answer a request with the same bytes and journal the same hit; answers leave in the order of the
requests; an answer leaves after its hit is as durable as the settings promise; no timer outlives its connection.
tests/integration/test_lanes.py holds the first, `make bench` shows what it is worth.
"""

import asyncio
from collections.abc import Callable, Sequence

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from .answer import Answer, Form
from .asgi import TrackingLane
from .client import Client, Header, client_and_hops_of_head, client_of_head
from .protocol import MAX_HEADER_LINES, MAX_TARGET_BYTES, BoundedHttp
from .turn import Turn

_TRACKING_GETS = (b"GET /c/", b"GET /o/")
_TARGET_AT = len(b"GET ")
_MAX_TARGET_END = _TARGET_AT + MAX_TARGET_BYTES
_FRAGMENT = ord("#")  # a number is found in bytes five times as fast as bytes are
_HTTP_1_1 = b" HTTP/1.1\r\n"
_HTTP_1_0 = b" HTTP/1.0\r\n"
_BLANK_LINE = b"\r\n\r\n"
_CLOSE = b"connection: close\r\n\r\n"
_CLOSING = (b"connection", b"close")
_TIMER_SECONDS = 0.001
"""As exact as the loop's clock."""

Headers = Sequence[Header]


class FastLane(BoundedHttp):
    """One connection. `fast_lane` binds the class to an application; uvicorn gets the bound class as `http=`.

    Relies on these of uvicorn's protocol: `data_received`, `on_message_begin`, `on_message_complete`, `shutdown`,
    `timeout_keep_alive_handler`, `timeout_keep_alive`, `timeout_keep_alive_task`, `cycle.response_complete`,
    `flow.write_paused`, `client`, `transport`, `loop`, `config`, `access_log`, `limit_concurrency`, `root_path`,
    `server_state.default_headers` and `server_state.total_requests`.
    """

    # Bound once, shared by all connections of the process
    _scout: "Scout"
    _renderer: "Renderer"
    _read_client: Callable[[bytes, int, str | None], Client]
    _turn: Turn

    # Per-connection state
    _is_watched = False
    _is_in_message = False
    _quiet_since = 0.0
    _unanswered = 0
    _held = b""
    _ends = False
    _is_ending = False
    _is_lost = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._peer = self.client[0] if self.client and self.client[1] else None
        self._is_watched = bool(self.access_log or self.limit_concurrency is not None or self.root_path)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._unanswered:
            self._hold(data)
        elif self._is_in_message or self._unread or not data.startswith(_TRACKING_GETS) or self._is_busy():
            super().data_received(data)
        else:
            self._unanswered = 1  # whatever comes until then waits
            self._turn.read_late(self._read, data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_message = True

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._is_in_message = False

    def timeout_keep_alive_handler(self) -> None:
        """One timer for the whole connection: setting one for each request costs about as much as opening a token."""
        left = self._quiet_since + self.timeout_keep_alive - self.loop.time()
        if self._unanswered:
            self._set_keep_alive(self.timeout_keep_alive)
        elif left > _TIMER_SECONDS:
            self._set_keep_alive(left)
        else:
            super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        self._is_ending = True
        if not self._unanswered:
            super().shutdown()

    @property
    def is_busy(self) -> bool:
        return bool(self._unanswered) or super().is_busy

    def _read(self, data: bytes) -> None:
        self._unanswered = 0
        if self.transport.is_closing() or (_has_few_lines(data) and self._take(data)):
            return
        super().data_received(data)
        if self._held and not self.transport.is_closing():
            self._release()
        if self._is_ending:
            super().shutdown()

    def _take(self, data: bytes) -> bool:
        """Takes the requests in `data`; False, and nothing was done, if they are not all for the fast lane."""
        scout = self._scout
        whole = scout.count_whole(data)
        if whole != 1:
            return whole > 0 and self._take_several(data, whole)
        target, end = _target(data)
        if not target:
            return False
        self._ends = not scout.keeps_alive
        if not data.startswith(_HTTP_1_1, end):
            if not data.startswith(_HTTP_1_0, end):
                return False
            self._ends = True  # as uvicorn does, whatever the request says
        self._unanswered = 1
        self._be_in_time()
        self._turn.add("GET", target, self._read_client(data, end, self._peer), self.send)
        return True

    def _take_several(self, data: bytes, whole: int) -> bool:
        """The same for pipelined requests; all are answered, so not while the server closes after the first answer."""
        if _CLOSING in self.server_state.default_headers:
            return False
        heads = [head + _BLANK_LINE for head in data.split(_BLANK_LINE)[:-1]]
        taken = []
        for head in heads:
            target, end = _target(head)
            if not (target and head.startswith(_TRACKING_GETS) and head.startswith(_HTTP_1_1, end)):
                return False
            taken.append((target, self._read_client(head, end, self._peer)))
        if len(taken) != whole:
            return False
        self._ends = not self._scout.keeps_alive
        self._unanswered = whole
        self._be_in_time()
        for target, client in taken:
            self._turn.add("GET", target, client, self.send)
        return True

    def _be_in_time(self) -> None:
        """Its head is complete: what is waited for from here on is the disk, not the client."""
        if self._deadline is not None:
            self._unset_deadline()
            self._head_bytes = 0  # of line ends in front of the request

    def _is_busy(self) -> bool:
        """Whether uvicorn is at work here or has more to do than to hand on, or the client does not read."""
        cycle = self.cycle
        return (cycle is not None and not cycle.response_complete) or self.flow.write_paused or self._is_watched

    def send(self, made: Answer) -> None:
        """Sends the first answer that is due, and goes on with what came meanwhile."""
        self._unanswered -= 1
        if self._is_lost:
            return
        if self._is_stranger:
            self._be_known()
        state = self.server_state
        state.total_requests += 1
        ends = (self._ends or self._is_ending) and not self._unanswered
        response, ends = self._renderer.render(made, state.default_headers, ends)
        self.transport.write(response)
        if ends:
            self._is_lost = True
            self.transport.close()
        elif not self._unanswered:
            self._keep_alive()

    def _keep_alive(self) -> None:
        self._quiet_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._set_keep_alive(self.timeout_keep_alive)
        if self._held:
            self._release()

    def _release(self) -> None:
        held, self._held = self._held, b""
        self.flow.resume_reading()
        self.data_received(held)

    def _hold(self, data: bytes) -> None:
        """Keeps what must not overtake an answer; more than what is in the socket's buffer does not come."""
        self._held += data
        self.flow.pause_reading()

    def _set_keep_alive(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)


def fast_lane(lane: TrackingLane) -> type[FastLane]:
    """The protocol for `http=` of a uvicorn that serves this application."""
    keeps_addresses = lane.turn.collector.keeps_addresses
    bound = {
        "_turn": lane.turn,
        "_scout": Scout(),
        "_renderer": Renderer(),
        "_read_client": staticmethod(client_and_hops_of_head if keeps_addresses else client_of_head),
    }
    return type("FastLane", (FastLane,), bound)


def _has_few_lines(data: bytes) -> bool:
    """Whether no head in it can have more lines than are taken."""
    return len(data) < MAX_HEADER_LINES or data.count(b"\n") < MAX_HEADER_LINES


def _target(head: bytes) -> tuple[bytes, int]:
    """The request target and where it ends; empty if uvicorn would read it in another way than as it stands."""
    end = head.find(b" ", _TARGET_AT)
    target = head[_TARGET_AT:end]
    if not target.isascii() or _FRAGMENT in target or end > _MAX_TARGET_END:
        return b"", end
    return target, end


class Scout:
    """Looks with uvicorn's own parser whether bytes are whole requests, without making anything of their headers."""

    keeps_alive = False
    """Whether the last request of what was read leaves the connection open."""

    def __init__(self) -> None:
        self._renew()

    def count_whole(self, data: bytes) -> int:
        """How many requests these are, if nothing else is in `data` and none has a body; else 0."""
        before = self._whole
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._renew()
            return 0
        if self._begun != self._whole or self._has_body:
            self._renew()
            return 0
        if self.keeps_alive:
            return self._whole - before
        whole = self._whole - before
        self._renew()  # a parser is done with its connection then
        return whole

    def _renew(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._begun = self._whole = 0
        self._has_body = False

    # Parser callbacks
    def on_message_begin(self) -> None:
        self._begun += 1

    def on_body(self, _: bytes) -> None:
        self._has_body = True

    def on_chunk_header(self) -> None:
        self._has_body = True

    def on_message_complete(self) -> None:
        self._whole += 1
        self.keeps_alive = self._parser.should_keep_alive()


class Renderer:
    """Answers as bytes, as uvicorn sends them. What they share is joined once a second, when the date changes."""

    def __init__(self) -> None:
        self._default_headers: Headers | None = None
        self._is_stopping = False
        self._forms: dict[Form, tuple[bytes, bytes]] = {}

    def render(self, made: Answer, default_headers: Headers, ends: bool) -> tuple[bytes, bool]:
        """The whole response, and whether the connection must be closed after it: because it `ends`, or the server."""
        if default_headers is not self._default_headers:
            self._default_headers = default_headers
            self._is_stopping = _CLOSING in default_headers
            self._forms.clear()
        parts = self._forms.get(made.form)
        if parts is None:
            parts = self._forms[made.form] = (
                STATUS_LINE[made.form.status] + _joined(default_headers),
                _joined(made.form.headers),
            )
        front, back = parts
        end = _CLOSE if ends and not self._is_stopping else b"\r\n"
        ends = ends or self._is_stopping
        if made.location is None:
            return front + back + end + made.form.body, ends
        return b"".join((front, b"location: ", made.location, b"\r\n", back, end, made.form.body)), ends


def _joined(headers: Headers) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])
