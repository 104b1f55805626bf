"""The relay's front: a client's connection, spoken to with aiosmtpd.

Invariants: only who may send for a space gets an envelope; a mail's bytes are taken as they come, at most so many; a
mail that is complete is carried to its answer even if its client is gone. Of aiosmtpd three things are replaced: it
reads mails line by line, takes addresses apart, and begins TLS in a way that only asyncio's own loop understands.
"""

import asyncio
import contextlib
import ipaddress
import logging
import ssl
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import structlog
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

from ..config import Settings
from ..errors import NotFound, StoreUnavailable
from ..logs import place_of
from .relay import Relay, Transaction
from .smtp_commands import read_recipient, read_sender
from .smtp_replies import (
    BYE,
    FAULT,
    LEAVING,
    MAIL_FIRST,
    NESTED_MAIL,
    NO_ARGUMENT,
    NO_DATABASE,
    NO_SIGN_IN_NOW,
    NO_TLS_NOW,
    OK,
    RCPT_FIRST,
    SIGN_IN_FIRST,
    TOO_MANY_SESSIONS,
    Refused,
    Reply,
    with_enhanced_code,
)

CLIENT_SECONDS = 300.0
"""How long a client may be silent, RFC 5321 (4.5.3.2.7)."""

_HANDSHAKE_SECONDS = 30.0
_MOST_SIGN_INS = 5
_COMMAND_BYTES = 2_048
_CHUNK_BYTES = 2**16
_END = b"\r\n.\r\n"
_OPTIONAL = ("8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")
"""What is offered if the next mail server offers it."""

_log = structlog.get_logger()
# It would write addresses, and what clients say, into the log.
logging.getLogger("mail.log").disabled = True


class RelayService:
    """All open connections, and what they have in common; called for each new one."""

    def __init__(self, relay: Relay, own_name: str, identity: str, tls: ssl.SSLContext | None) -> None:
        self.relay = relay
        self.own_name = own_name
        self.identity = identity
        self.tls = tls
        self.is_leaving = False
        self._sessions: set[RelaySession] = set()
        self._deliveries: set[asyncio.Task[Reply]] = set()

    def __call__(self) -> "RelaySession":
        return RelaySession(self)

    @property
    def settings(self) -> Settings:
        return self.relay.settings

    def enter(self, session: "RelaySession") -> Reply | None:
        """Lets a connection in; or the reply with which it is sent away."""
        if self.is_leaving:
            return LEAVING
        if len(self._sessions) >= self.settings.relay_connections:
            self.relay.metrics.relay_sessions_refused.inc()
            return TOO_MANY_SESSIONS
        self._sessions.add(session)
        return None

    def leave(self, session: "RelaySession") -> None:
        self._sessions.discard(session)

    def deliver(self, transaction: Transaction, content: bytes | None) -> "asyncio.Task[Reply]":
        """A delivery that goes on if its client does not wait."""
        task = asyncio.get_running_loop().create_task(transaction.deliver(content))
        self._deliveries.add(task)
        task.add_done_callback(self._deliveries.discard)
        return task

    async def close(self, seconds: float) -> None:
        """Sends idle clients away at once and the others behind their answers, which may take so long."""
        self.is_leaving = True
        for session in list(self._sessions):
            session.dismiss()
        with contextlib.suppress(TimeoutError):  # who is left then has no answer, and asks again elsewhere
            async with asyncio.timeout(seconds):
                while self._sessions or self._deliveries:
                    await asyncio.sleep(0.02)
        for session in list(self._sessions):
            session.cut()
        for task in list(self._deliveries):
            task.cancel()


class RelaySession(SMTP):
    """One client's connection."""

    line_length_limit = _CHUNK_BYTES
    command_size_limit = _COMMAND_BYTES

    def __init__(self, service: RelayService) -> None:
        # Before aiosmtpd's own, which looks at every attribute.
        self._service = service
        self._transaction: Transaction | None = None
        self._is_leaving = False
        self.command_size_limits = defaultdict(lambda: _COMMAND_BYTES)  # aiosmtpd shares one among all connections
        super().__init__(
            None,
            data_size_limit=service.settings.relay_max_bytes,
            enable_SMTPUTF8=True,
            hostname=service.own_name,
            ident=f"ESMTP Mailtrail {service.identity}",
            tls_context=service.tls,
            timeout=CLIENT_SECONDS,
            command_call_limit={"AUTH": _MOST_SIGN_INS, "*": 2**31},
            authenticator=lambda *given: AuthResult(success=True, auth_data=given[-1]),
            loop=asyncio.get_running_loop(),
        )

    # --- the connection ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._is_local = _is_loopback(transport.get_extra_info("peername"))
        self._auth_require_tls = not self._is_local
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._service.leave(self)
        if self._transaction is not None:
            self._transaction.abandon()
            self._transaction = None

    def dismiss(self) -> None:
        """Ends the connection; with an envelope open, behind its answer."""
        self._is_leaving = True
        if self._transaction is None:
            self._say_good_bye()

    def cut(self) -> None:
        """Ends the connection now."""
        if self.transport is not None:
            self.transport.abort()  # type: ignore[attr-defined]  # it is a connection's

    async def _handle_client(self) -> None:
        if (refusal := self._service.enter(self)) is not None:
            await self._tell(refusal)
            self._close()
            return
        with contextlib.suppress(ConnectionError):  # the client is gone, and with it whom to tell
            await super()._handle_client()

    async def handle_exception(self, error: Exception) -> str:
        _log.error("a command failed", error=place_of(error))
        await self._end_envelope()
        return FAULT.encoded().decode()

    async def push(self, status: Any) -> None:
        """Our own replies and aiosmtpd's; what has no enhanced code gets one."""
        await super().push(with_enhanced_code(status) if isinstance(status, str) else status)

    async def _tell(self, reply: Reply) -> None:
        await super().push(reply.encoded())

    def _say_good_bye(self) -> None:
        if self.transport is not None:
            self._writer.write(LEAVING.encoded() + b"\r\n")
            self._close()

    def _close(self) -> None:
        """Behind what was said; what the client has sent in advance is not read any more."""
        if self.transport is not None:
            self.transport.close()
        if self._handler_coroutine is not None:
            self._handler_coroutine.cancel()

    async def _end_envelope(self) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            await transaction.end()

    # --- who it is ---------------------------------------------------------------------------------------------------

    async def smtp_HELO(self, hostname: str) -> None:
        await self._end_envelope()
        await super().smtp_HELO(hostname)

    async def smtp_EHLO(self, hostname: str) -> None:
        if not hostname:
            await self.push("501 Syntax: EHLO hostname")
            return
        await self._end_envelope()
        assert self.session is not None
        self.session.extended_smtp, self.session.host_name = True, hostname
        await self._tell(Reply(250, "\n".join([self.hostname, *self._offers()])))

    def _offers(self) -> Sequence[str]:
        upstream = self._service.relay.upstream.extensions
        offered = ["PIPELINING", f"SIZE {self._most_bytes(upstream)}"]
        # What is not known yet is offered: its MAIL will be deferred, not refused.
        offered += [name for name in _OPTIONAL if upstream is None or name.lower() in upstream]
        if self.tls_context is not None and not self._tls_protocol:
            offered.append("STARTTLS")
        if not self._auth_require_tls or self._tls_protocol:
            offered.append("AUTH LOGIN PLAIN")
        return offered

    def _most_bytes(self, upstream: Any) -> int:
        ours = self._service.settings.relay_max_bytes
        theirs = (upstream or {}).get("size", "")
        return min(ours, int(theirs)) if theirs.isdecimal() and int(theirs) else ours

    async def smtp_STARTTLS(self, arg: str) -> None:
        if arg:
            await self._tell(NO_ARGUMENT)
            return
        if self.tls_context is None or self._tls_protocol:
            await self._tell(NO_TLS_NOW)
            return
        await self._end_envelope()
        await self.push("220 2.0.0 go ahead")
        plain = self.transport
        assert plain is not None
        try:
            secured = await self.loop.start_tls(
                plain,  # type: ignore[arg-type]  # it is a connection's
                self,
                self.tls_context,
                server_side=True,
                ssl_handshake_timeout=_HANDSHAKE_SECONDS,
            )
        except OSError:  # nobody is there whom a reply could reach
            self._service.leave(self)
            self._close()
            return
        assert secured is not None
        self._begin_anew(plain, secured)

    def _begin_anew(self, plain: asyncio.BaseTransport, secured: asyncio.Transport) -> None:
        """What was said in plain text counts no more, RFC 3207 (4.2): least of all commands sent in advance."""
        self._reader._buffer.clear()  # type: ignore[attr-defined]
        self._reader._transport = self._writer._transport = secured  # type: ignore[attr-defined]
        self._over_ssl = True
        self._original_transport, self.transport = plain, secured
        self._tls_protocol = secured  # type: ignore[assignment]  # aiosmtpd asks only whether there is one
        self._set_rset_state()  # type: ignore[no-untyped-call]
        self.session = self._create_session()
        self.session.peer = secured.get_extra_info("peername")
        self.session.ssl = {"cipher": secured.get_extra_info("cipher")}

    async def smtp_AUTH(self, arg: str) -> None:
        mechanism, space, rest = (arg or "").partition(" ")
        await super().smtp_AUTH(mechanism.upper() + space + rest)

    async def auth_PLAIN(self, server: Any, args: list[str]) -> AuthResult:
        return await self._sign_in(await super().auth_PLAIN(server, args))

    async def auth_LOGIN(self, server: Any, args: list[str]) -> AuthResult:
        return await self._sign_in(await super().auth_LOGIN(server, args))

    async def _sign_in(self, claimed: AuthResult) -> AuthResult:
        if not claimed.success:
            return claimed
        given = claimed.auth_data
        assert isinstance(given, LoginPassword)
        user, secret = (word.decode(errors="replace") for word in given)
        try:
            space = await self._service.relay.space_of(user, secret)
        except StoreUnavailable:
            return AuthResult(success=False, handled=False, message=NO_SIGN_IN_NOW.encoded().decode())
        if space is None:
            return AuthResult(success=False, handled=False)
        return AuthResult(success=True, auth_data=(user, secret))

    async def _space(self) -> int | None:
        """For whom this client sends now: a key that was revoked meanwhile is out with the next mail."""
        assert self.session is not None
        if self.session.authenticated:
            return await self._service.relay.space_of(*self.session.auth_data)  # type: ignore[misc]
        return await self._service.relay.space_without_sign_in() if self._is_local else None

    # --- its mails ---------------------------------------------------------------------------------------------------

    async def smtp_MAIL(self, arg: str | None) -> None:
        if self._is_leaving:
            self._say_good_bye()
            return
        if await self.check_helo_needed():
            return
        try:
            await self._tell(await self._begin(arg))
        except Refused as refused:
            await self._tell(refused.reply)

    async def _begin(self, arg: str | None) -> Reply:
        if self._transaction is not None:
            return NESTED_MAIL
        try:
            space = await self._space()
        except StoreUnavailable:
            return NO_DATABASE
        except NotFound as error:
            _log.error("MAILTRAIL_RELAY_SPACE names no space", error=str(error))
            return FAULT
        if space is None:
            return SIGN_IN_FIRST
        sender = read_sender(arg, self._service.settings.relay_max_bytes)
        self._pause_timer()
        self._transaction, reply = await self._service.relay.begin(space, sender)
        self._reset_timeout()
        return reply

    async def smtp_RCPT(self, arg: str | None) -> None:
        if await self.check_helo_needed():
            return
        if self._transaction is None:
            await self._tell(MAIL_FIRST)
            return
        try:
            path = read_recipient(arg, utf8=self._transaction.sender.utf8)
        except Refused as refused:
            await self._tell(refused.reply)
            return
        self._pause_timer()
        reply = await self._transaction.add(path)
        self._reset_timeout()
        await self._tell(reply)

    async def smtp_DATA(self, arg: str | None) -> None:
        if await self.check_helo_needed():
            return
        if arg:
            await self._tell(NO_ARGUMENT)
            return
        if self._transaction is None or not self._transaction.paths:
            await self._tell(MAIL_FIRST if self._transaction is None else RCPT_FIRST)
            return
        await self.push("354 End data with <CR><LF>.<CR><LF>")
        content = await self._read_content()
        transaction, self._transaction = self._transaction, None
        self._pause_timer()
        try:
            # It ends the session with the next mail server itself, and tells the truth to whoever asks again.
            reply = await asyncio.shield(self._service.deliver(transaction, content))
        except asyncio.CancelledError:
            transaction.is_abandoned = True
            raise
        self._reset_timeout()
        await self._tell(reply)
        if self._is_leaving:
            self._say_good_bye()

    async def _read_content(self) -> bytes | None:
        """Up to the dot that stands alone, with doubled dots as one; None if it is larger than allowed."""
        content = bytearray(await self._read_start())
        is_too_long = False
        while not content.endswith(_END) and content != _END[2:]:
            try:
                content += await self._reader.readuntil(_END)
            except asyncio.LimitOverrunError as overrun:
                content += await self._reader.readexactly(overrun.consumed)
                self._reset_timeout()
                if len(content) > self._service.settings.relay_max_bytes:
                    is_too_long = True
                    content.clear()
        del content[-3:]
        if is_too_long or len(content) > self._service.settings.relay_max_bytes:
            return None
        return _undotted(bytes(content))

    async def _read_start(self) -> bytes:
        """So much that the end, if it is not in it, does not begin in it either: it is looked for behind it."""
        start = await self._reader.readexactly(3)
        while start != _END[2:] and (begun := _begun_end(start)) not in (0, len(_END)):
            start += await self._reader.readexactly(len(_END) - begun)
        return start

    async def smtp_RSET(self, arg: str | None) -> None:
        if arg:
            await self._tell(NO_ARGUMENT)
            return
        await self._end_envelope()
        await self._tell(OK)
        if self._is_leaving:
            self._say_good_bye()

    async def smtp_NOOP(self, arg: str | None) -> None:
        await self._tell(OK)

    async def smtp_HELP(self, arg: str | None) -> None:
        await self._tell(Reply(214, "2.0.0 EHLO, STARTTLS, AUTH, MAIL, RCPT, DATA, RSET, NOOP, QUIT"))

    async def smtp_VRFY(self, arg: str | None) -> None:
        await self._tell(Reply(252, "2.5.0 whether there is such a recipient, RCPT says"))

    async def smtp_QUIT(self, arg: str | None) -> None:
        if arg:
            await self._tell(NO_ARGUMENT)
            return
        await self._end_envelope()
        await self._tell(BYE)
        self._close()

    def _pause_timer(self) -> None:
        """While it is not the client who lets us wait."""
        if self._timeout_handle is not None:
            self._timeout_handle.cancel()


def _begun_end(data: bytes) -> int:
    """How many bytes of a mail's end stand at the end of the data."""
    return next((length for length in range(len(_END), 0, -1) if data.endswith(_END[:length])), 0)


def _undotted(content: bytes) -> bytes:
    plain = content.replace(b"\r\n.", b"\r\n")
    return plain[1:] if plain.startswith(b".") else plain


def _is_loopback(peer: Any) -> bool:
    """Whether a client is on this machine. One without an address is (a socket pair)."""
    if not isinstance(peer, tuple):
        return True
    address = ipaddress.ip_address(peer[0].partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
