"""A real SMTP server that takes mails and can be told to misbehave, in a thread of its own."""

import asyncio
import ssl
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

NEVER = 3600.0


@dataclass(frozen=True)
class Received:
    sender: str
    recipients: list[str]
    options: list[str]
    content: bytes


class _Server(SMTP):
    line_length_limit = 2**20


@dataclass
class Receiver:
    """What it got is in `mails`; replies are by the recipient's address, of DATA by the envelope's first."""

    port: int = 0
    tls: ssl.SSLContext | None = None
    login: tuple[str, str] | None = None
    without: Iterable[str] = ()
    """Extensions that it does not offer."""

    mails: list[Received] = field(default_factory=list)
    mail_replies: list[str] = field(default_factory=list)
    """For the next senders, one each."""
    rcpt_replies: dict[str, str] = field(default_factory=dict)
    data_replies: dict[str, str] = field(default_factory=dict)
    slow: set[str] = field(default_factory=set)
    """Commands that are answered never: MAIL, RCPT, DATA."""
    delay_seconds: float = 0.0
    """Before each answer to a mail."""
    drops: set[str] = field(default_factory=set)
    """Where it ends the connection: MAIL, RCPT, DATA (the mail is taken, and not answered)."""
    dropped_mails: int = 0
    """So many of the next senders are answered by the end of the connection."""
    connections: int = 0
    waiting: int = 0
    """Mails that it has and did not answer yet."""

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def behave(self) -> None:
        """Forgets everything that it was told and got."""
        for told in (self.mails, self.mail_replies, self.rcpt_replies, self.data_replies, self.slow, self.drops):
            told.clear()
        self.delay_seconds, self.dropped_mails = 0.0, 0

    @property
    def open_connections(self) -> int:
        return sum(each.transport is not None for each in self._open)

    def hang_up(self) -> None:
        """Ends all connections, as servers do with idle ones."""
        self._loop.call_soon_threadsafe(lambda: [each.transport.close() for each in list(self._open) if each.transport])

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        self._open: list[_Server] = []
        server = await self._loop.create_server(self._made, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._stopped.wait()
        server.close()
        for each in self._open:
            if each.transport:
                each.transport.close()
        await asyncio.sleep(0.05)

    def _made(self) -> _Server:
        self.connections += 1
        made = _Server(
            self,
            enable_SMTPUTF8=True,
            hostname="receiver.example",
            tls_context=self.tls,
            require_starttls=self.tls is not None,
            auth_required=self.login is not None,
            authenticator=self._check,
            loop=self._loop,
        )
        self._open.append(made)
        return made

    def _check(self, *given: Any) -> AuthResult:
        login: LoginPassword = given[-1]
        return AuthResult(success=(login.login.decode(), login.password.decode()) == self.login, handled=False)

    # --- what aiosmtpd asks -------------------------------------------------------------------------------------------

    async def handle_EHLO(
        self, server: SMTP, session: Any, envelope: Any, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        return [line for line in responses if not line[4:].startswith(tuple(self.without) or "-")]

    async def handle_MAIL(self, server: SMTP, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        if self.dropped_mails:
            self.dropped_mails -= 1
            await self._drop(server)
        await self._misbehave("MAIL", server)
        if self.mail_replies:
            return self.mail_replies.pop(0)
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 sender fine"

    async def handle_RCPT(self, server: SMTP, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        await self._misbehave("RCPT", server)
        if address in self.rcpt_replies:
            return self.rcpt_replies[address]
        envelope.rcpt_tos.append(address)
        return f"250 2.1.5 {address} fine"

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:
        if "DATA" in self.drops:
            self._keep(envelope)
        await self._misbehave("DATA", server)
        self.waiting += 1
        try:
            await asyncio.sleep(self.delay_seconds)
        finally:
            self.waiting -= 1
        if (reply := self.data_replies.get(envelope.rcpt_tos[0])) is not None:
            return reply
        self._keep(envelope)
        return f"250 2.0.0 taken as {len(self.mails)}"

    async def _misbehave(self, command: str, server: SMTP) -> None:
        if command in self.slow:
            await asyncio.sleep(NEVER)
        if command in self.drops:
            await self._drop(server)

    async def _drop(self, server: SMTP) -> None:
        assert server.transport is not None
        server.transport.close()
        await asyncio.sleep(NEVER)

    def _keep(self, envelope: Any) -> None:
        content = bytes(envelope.original_content)
        self.mails.append(Received(envelope.mail_from, envelope.rcpt_tos, envelope.mail_options, content))
