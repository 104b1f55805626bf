"""The relay as a process, and clients that send through it."""

import asyncio
import contextlib
import re
import smtplib
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field

import asyncpg

from app.store import api_keys
from app.store import settings as store
from tests.integration.receiver import Receiver
from tests.integration.service import Service, free_port, until

MODES = {"off": "Off", "anonymized": "Anonymous", "person_based": "Personal"}
"""Spaces by their relay's setting."""

SENDER = "shop@shop.example"
HTML = (
    b"Content-Type: text/html; charset=utf-8\r\n\r\n"
    b'<html><body><a href="https://shop.example/sale?who=4711">Sale</a></body></html>\r\n'
)


def on_the_wire(raw: bytes) -> bytes:
    """A mail of a file, as a client sends it."""
    wire = re.sub(rb"\r\n|\n|\r", b"\r\n", raw)
    return wire if wire.endswith(b"\r\n") else wire + b"\r\n"


def with_fields(mail: bytes, *fields: str) -> bytes:
    return "".join(f"{field}\r\n" for field in fields).encode() + mail


@contextlib.contextmanager
def relaying(service: Service, **settings: str) -> "Iterator[RelayRig]":
    """A rig with everything running, the relay with these settings; nothing in it may fail unforeseen."""
    with Receiver() as receiver:
        made = RelayRig(service, receiver)
        made.make_spaces()
        service.serve()
        made.start(**settings)
        yield made
        service.stop()
        assert "Traceback" not in service.log.read_text()


@dataclass
class RelayRig:
    """A service with a space for each setting, a receiving server, and a relay between."""

    service: Service
    receiver: Receiver
    port: int = field(default_factory=free_port)
    keys: dict[str, str] = field(default_factory=dict)
    """Secrets by space."""

    def make_spaces(self) -> None:
        for mode, name in MODES.items():
            consent = ("--acknowledge", "consent") if mode == "person_based" else ()
            self.service.run("space", "create", name, "--relay", mode, *consent)
            self.keys[name] = self.make_key(name)

    def make_key(self, space: str | None, *scopes: str) -> str:
        """The secret of a new one, of a space or of all."""

        async def make() -> str:
            connection = await asyncpg.connect(self.service.database_url)
            try:
                number = None if space is None else (await store.find_space(connection, space))["id"]
                _, secret = await api_keys.create_api_key(connection, "test", "k", scopes or ("relay",), number)
            finally:
                await connection.close()
            return secret

        return asyncio.run(make())

    def start(self, **settings: str) -> subprocess.Popen[bytes]:
        """Settings by their names, those of the relay without `relay_`."""
        own = {"port": str(self.port), "upstream": self.receiver.address} | settings
        self.service.settings = {
            name if name.isupper() else f"MAILTRAIL_RELAY_{name.upper()}": value for name, value in own.items()
        }
        process = self.service.start("relay")
        until(lambda: self.answers(process), "the relay answers", log=self.service.log)
        return process

    def answers(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.poll() is None, self.service.log.read_text()[-3000:]
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            return connection.recv(3) == b"220"
        return False

    @contextlib.contextmanager
    def client(self, space: str | None = None) -> Iterator[smtplib.SMTP]:
        """A client; signed in if a space is named."""
        client = smtplib.SMTP("127.0.0.1", self.port, local_hostname="client.example", timeout=30)
        try:
            client.ehlo()
            if space is not None:
                client.login(space, self.keys[space])
            yield client
        finally:
            client.close()

    def send(self, space: str, mail: bytes, *recipients: str, options: tuple[str, ...] = ()) -> tuple[int, str]:
        """The answer to a mail whose recipients are all taken."""
        with self.client(space) as client:
            return send(client, mail, *recipients, options=options)

    def counted(self, mailing: str) -> list[tuple[str, str, int]]:
        rows = self.service.query(
            "select ceiling, reason, messages from mailtrail.sent join mailtrail.mailings on mailings.id = mailing_id"
            " where name = $1 and event_id is null order by ceiling, reason",
            mailing,
        )
        return [(row["ceiling"], row["reason"], row["messages"]) for row in rows]

    def metric(self, line: str) -> float:
        """A counter's value, 0 if it was never counted."""
        found = re.search(rf"^{re.escape(line)} (\S+)$", self.service.get("/metrics").body.decode(), re.M)
        return float(found[1]) if found else 0.0


def send(
    client: smtplib.SMTP, mail: bytes, *recipients: str, options: tuple[str, ...] = (), sender: str = SENDER
) -> tuple[int, str]:
    code, text = client.mail(sender, options)
    assert code == 250, (code, text)
    for recipient in recipients or ("erika@example.com",):
        code, text = client.rcpt(recipient)
        assert code == 250, (code, text)
    code, text = client.data(mail)
    return code, text.decode()
