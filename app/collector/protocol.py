"""HTTP/1.1 within bounds: uvicorn's protocol, which itself takes heads of any size and waits for them for ever.

Invariants: a request's head takes at most `MAX_HEAD_BYTES` of memory and `HEAD_SECONDS` of time; a target that is too
long for any token is cut, so that it is answered like every bad one; no timer outlives its connection.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_TARGET_BYTES = 8_192
"""Longest request target that is looked at: a token has 6 kB at most, and what follows `?` is ignored."""

MAX_HEAD_BYTES = 256 * 2**10
HEAD_SECONDS = 30.0

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: text/plain; charset=utf-8\r\n"
    b"content-length: 25\r\n"
    b"connection: close\r\n"
    b"\r\n"
    b"The request is too large."
)


class BoundedHttp(HttpToolsProtocol):
    """For `http=` of uvicorn. Relies on `data_received`, the parser's callbacks and `_unset_keepalive_if_required`."""

    _head_bytes = 0
    _in_head = True
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn leaves it, and us with it, in memory after a reset
        self._unset_deadline()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Who has said all may still wait for the answer; uvicorn would end the connection with it on the way."""
        self.shutdown()
        return True

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse()
                return
        super().data_received(data)
        if self._in_head and self._head_bytes and self._deadline is None:
            self._set_deadline()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True

    def on_url(self, url: bytes) -> None:
        self.url += url[: MAX_TARGET_BYTES - len(self.url)]

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        self._unset_deadline()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head = True  # whatever comes now is the next one's

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.pipeline and not self.transport.is_closing():
            self.flow.pause_reading()  # uvicorn reads on after each answer, however many requests wait already

    def _refuse(self) -> None:
        self.transport.write(_TOO_LARGE)
        self.transport.close()

    def _set_deadline(self) -> None:
        self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _unset_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
