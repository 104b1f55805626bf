"""The next mail server: sessions with it, each carrying one transaction at a time.

Invariants: a reply is given as the server wrote it; the bytes of a mail arrive as they were handed over; a session
whose state is not known for certain is closed and never used again. Nothing is ever sent a second time from here, but
for a MAIL that a session was too old for.
"""

import asyncio
import contextlib
import math
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NoReturn

import structlog
from aiosmtplib import SMTP, SMTPException, SMTPHeloError, SMTPResponseException, SMTPTimeoutError

from ..config import Settings, is_loopback, split_address
from ..errors import ConfigError, UpstreamUnavailable
from .smtp_commands import Sender
from .smtp_replies import NO_8BITMIME, NO_SMTPUTF8, Refused, Reply

IDLE_SECONDS = 20.0
"""How long a session is kept for the next mail."""

_QUIT_SECONDS = 5.0
_SEND_CONTENT, _LEAVES = 354, 421
_log = structlog.get_logger()


@dataclass(frozen=True)
class UpstreamAddress:
    """Where the next mail server is, how it is spoken to, and who we are there."""

    host: str
    port: int
    security: str
    """none, starttls or tls; certificates are checked."""
    user: str | None = None
    password: str = field(default="", repr=False)

    @cached_property
    def tls(self) -> ssl.SSLContext | None:
        """How certificates are checked; reading those that are trusted takes a while."""
        return None if self.security == "none" else ssl.create_default_context()

    @classmethod
    def of(cls, settings: Settings) -> "UpstreamAddress":
        """Where the settings say; ConfigError where they say too little, or what would give a password away."""
        if settings.relay_upstream is None:
            raise ConfigError(
                "MAILTRAIL_RELAY_UPSTREAM: the relay needs a mail server that it passes mails on to; give its host:port"
            )
        host, port = split_address(settings.relay_upstream)
        security = settings.relay_upstream_security or ("none" if is_loopback(host) else "starttls")
        user, password = settings.relay_upstream_user, settings.relay_upstream_password
        if user is not None and password is None:
            raise ConfigError("MAILTRAIL_RELAY_UPSTREAM_PASSWORD: give the password of MAILTRAIL_RELAY_UPSTREAM_USER")
        if user is not None and security == "none" and not is_loopback(host):
            raise ConfigError(
                "MAILTRAIL_RELAY_UPSTREAM_SECURITY: the password would cross the network readable; use starttls or tls"
            )
        return cls(host, port, security, user, "" if password is None else password.get_secret_value())


class UpstreamSession:
    """A connection that was greeted, is encrypted if it has to be, and signed in."""

    def __init__(self, client: SMTP, timeout_seconds: float, *, is_used: bool = False) -> None:
        self._client = client
        self._timeout_seconds = timeout_seconds
        self._waits = False
        self.is_used = is_used
        self.has_envelope = False

    @property
    def is_good(self) -> bool:
        """Whether the server waits for a command of ours."""
        return self._client.is_connected and not self._waits

    @property
    def extensions(self) -> Mapping[str, str]:
        return self._client.esmtp_extensions

    async def command(self, line: str) -> Reply:
        """The reply to one command; UpstreamUnavailable if there is none."""
        if self._client.protocol is None:
            raise _lost()
        self._waits = True
        try:
            code, text = await self._client.protocol.execute_command(line.encode(), timeout=self._timeout_seconds)
        except (SMTPException, OSError) as error:
            self._fail(error)
        except asyncio.CancelledError:  # nobody waits for the reply any more, but it will come
            self.close()
            raise
        self._waits = False
        if code == _LEAVES:
            self.close()
        return Reply(code, text)

    async def data(self, content: bytes) -> Reply:
        """Sends a mail, whose line ends are CR LF; without a reply nobody knows whether it was taken."""
        reply = await self.command("DATA")
        if reply.code != _SEND_CONTENT:
            if reply.is_positive:  # it takes for done what it was not given
                self._fail(SMTPException(f"it answered DATA with {reply.code}"))
            return reply
        if self._client.protocol is None:
            raise _lost()
        self._waits = True
        try:
            self._client.protocol.write(b"%b.\r\n" % _dotted(content))
            code, text = await self._client.protocol.read_response(timeout=self._timeout_seconds)
        except (SMTPException, OSError) as error:
            self._fail(error)
        except asyncio.CancelledError:  # nobody waits for the reply any more, but it will come
            self.close()
            raise
        self._waits = self.has_envelope = False
        if code == _LEAVES:
            self.close()
        return Reply(code, text)

    async def end_envelope(self) -> None:
        """Makes room for another one; UpstreamUnavailable if the server is gone."""
        if self.has_envelope and self.is_good:
            self.has_envelope = not (await self.command("RSET")).is_positive

    def close(self) -> None:
        self._client.close()

    async def quit(self) -> None:
        """Ends it as SMTP asks."""
        with contextlib.suppress(SMTPException, OSError):  # it goes in any case
            await self._client.quit(timeout=_QUIT_SECONDS)
        self.close()

    def _fail(self, error: Exception) -> NoReturn:
        self.close()
        if isinstance(error, SMTPTimeoutError):
            raise UpstreamUnavailable("slow", "the next mail server did not answer in time") from error
        raise _lost() from error


def _lost() -> UpstreamUnavailable:
    return UpstreamUnavailable("lost", "the next mail server ended the connection")


def _dotted(content: bytes) -> bytes:
    """With a dot before each line that begins with one, and a line end at the end."""
    stuffed = content.replace(b"\r\n.", b"\r\n..")
    if stuffed.startswith(b"."):
        stuffed = b"." + stuffed
    return stuffed if stuffed.endswith(b"\r\n") or not stuffed else stuffed + b"\r\n"


class Upstream:
    """Sessions with one server, kept for the next mail for a while; `identity` is what our own greeting has."""

    def __init__(self, address: UpstreamAddress, own_name: str, identity: str, timeout_seconds: float) -> None:
        self._address = address
        self._own_name = own_name
        self._identity = identity
        self._timeout_seconds = timeout_seconds
        self._idle: list[tuple[UpstreamSession, asyncio.TimerHandle]] = []
        self._ending: set[asyncio.Task[None]] = set()
        self._is_up = True
        self._answered_at = -math.inf
        self.extensions: Mapping[str, str] | None = None
        """What the server offered last; None before it was reached once."""

    async def begin(self, sender: Sender, kept: UpstreamSession | None = None) -> tuple[UpstreamSession, Reply]:
        """A session with a new envelope, unless its reply is a refusal; `kept` itself while it is good.

        UpstreamUnavailable if the server is not there; Refused for what it does not offer. The caller gives it back.
        """
        while True:
            session = kept if kept is not None and kept.is_good else await self._take()
            session.is_used = session.is_used or session is kept
            try:
                reply = await session.command(_mail_command(sender, session.extensions))
            except Refused:
                if session is not kept:
                    self.give_back(session)
                raise
            except UpstreamUnavailable as error:
                if session.is_used and error.reason == "lost":  # the server may have ended it long ago
                    continue
                raise
            if reply.code == _LEAVES and session.is_used:
                continue
            session.has_envelope = reply.is_positive
            self._answered_at = time.monotonic()
            return session, reply

    def give_back(self, session: UpstreamSession) -> None:
        """For the next mail, unless its state is in doubt; an envelope in it must have been ended."""
        if not session.is_good or session.has_envelope:
            session.close()
            return
        session.is_used = True
        timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._end_idle, session)
        self._idle.append((session, timer))

    async def is_there(self, believed_seconds: float) -> bool:
        """Whether a mail could be sent now: it answered one so lately, or can be reached; raises as `open_session`."""
        if time.monotonic() - self._answered_at < believed_seconds:
            return True
        try:
            self.give_back(await self._take())
        except UpstreamUnavailable:  # told in the log
            return False
        return True

    async def close(self) -> None:
        for _, timer in self._idle:
            timer.cancel()
        await asyncio.gather(*(session.quit() for session, _ in self._idle), *self._ending)
        self._idle.clear()

    async def _take(self) -> UpstreamSession:
        while self._idle:
            session, timer = self._idle.pop()
            timer.cancel()
            if session.is_good:
                return session
            session.close()
        return await self._connect()

    def _end_idle(self, session: UpstreamSession) -> None:
        self._idle = [(kept, timer) for kept, timer in self._idle if kept is not session]
        ending = asyncio.get_running_loop().create_task(session.quit())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def _connect(self) -> UpstreamSession:
        try:
            session = await open_session(self._address, self._own_name, self._timeout_seconds, self._identity)
        except UpstreamUnavailable as error:
            self._tell_down(error)
            raise
        if not self._is_up:
            self._is_up = True
            _log.info("the next mail server is there again")
        self.extensions = dict(session.extensions)
        return session

    def _tell_down(self, error: UpstreamUnavailable) -> None:
        """Once for each time that it goes away: else every mail would write a line."""
        if self._is_up:
            self._is_up = False
            _log.error("the next mail server cannot be used; mails are deferred", error=str(error))


async def open_session(
    address: UpstreamAddress, own_name: str, timeout_seconds: float, identity: str | None = None
) -> UpstreamSession:
    """A new session; UpstreamUnavailable says why there is none, ConfigError that its server greets as we do."""
    client = SMTP(
        hostname=address.host,
        port=address.port,
        username=address.user,
        password=address.password if address.user is not None else None,
        local_hostname=own_name,
        timeout=timeout_seconds,
        use_tls=address.security == "tls",
        start_tls=address.security == "starttls",
        tls_context=address.tls,
    )
    try:
        greeting = await client.connect()
        if identity is not None and identity in greeting.message:
            raise ConfigError(
                "MAILTRAIL_RELAY_UPSTREAM is this relay itself: mails would go round for ever; name the server"
                " behind it"
            )
        await _greet(client)
    except (SMTPException, OSError, UnicodeError) as error:  # the last one: no name of a server
        client.close()
        raise UpstreamUnavailable("down", _what_it_is(error)) from error
    except BaseException:  # the client did not wait
        client.close()
        raise
    return UpstreamSession(client, timeout_seconds)


async def _greet(client: SMTP) -> None:
    if client.is_ehlo_or_helo_needed:
        try:
            await client.ehlo()
        except SMTPHeloError:
            await client.helo()


def _what_it_is(error: Exception) -> str:
    """Of what the server says, the code only: its text may quote a name."""
    if isinstance(error, SMTPResponseException):
        return f"{type(error).__name__} {error.code}"
    return str(error) or type(error).__name__


def _mail_command(sender: Sender, extensions: Mapping[str, str]) -> str:
    if sender.body == "8BITMIME" and "8bitmime" not in extensions:
        raise Refused(NO_8BITMIME)
    if sender.utf8 and "smtputf8" not in extensions:
        raise Refused(NO_SMTPUTF8)
    words = [f"MAIL FROM:{sender.path}"]
    if sender.size is not None and "size" in extensions:
        words.append(f"SIZE={sender.size}")
    if sender.body is not None and "8bitmime" in extensions:
        words.append(f"BODY={sender.body}")
    if sender.utf8:
        words.append("SMTPUTF8")
    return " ".join(words)
