"""The mail relay between its two sides: envelopes come in, are tracked as their space asks, and go on.

Invariants: a mail is accepted only when the next mail server has accepted it; where tracking is off it passes byte for
byte; its header can take tracking away and never adds to it. There is no queue here, so nothing can be lost in one.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256

import structlog

from ..config import Settings
from ..errors import (
    MailRefused,
    MailtrailError,
    NotFound,
    SettingsError,
    StoreUnavailable,
    TrackedForAnother,
    UpstreamUnavailable,
)
from ..logs import place_of
from ..metrics import Metrics
from ..store import api_keys, relayed
from ..store import settings as store
from ..store.pool import Database
from ..tracking.modes import Mode, Permission
from ..tracking.settings import check_recipient
from .believed import Believed
from .dispatch import Dispatch
from .mail_room import MailRoom
from .prepare import Limits, Prepared
from .relay_headers import RelayFields, read_relay_fields
from .smtp_commands import Sender
from .smtp_replies import BARE_LINE_END, FAULT, NO_DATABASE, TOO_BIG, UPSTREAM_AWAY, Refused, Reply
from .sources import Mail
from .upstream import Upstream, UpstreamSession

WHO = "mailtrail relay"
_SCOPE = "relay"
_log = structlog.get_logger()


class Relay:
    """What all sessions share: the settings of spaces, who may send for them, and the way to the next mail server."""

    def __init__(self, settings: Settings, database: Database, upstream: Upstream, metrics: Metrics) -> None:
        self.settings = settings
        self.database = database
        self.upstream = upstream
        self.metrics = metrics
        self.room = MailRoom(database, settings, WHO)
        self._believed = Believed()

    async def space_of(self, user: str, secret: str) -> int | None:
        """The space for which an API key sends; None for one that may not. `user` is the space's name or id."""
        return await self._believed.ask(
            ("key", user, sha256(secret.encode()).digest()), lambda: self._find_key(user, secret)
        )

    async def space_without_sign_in(self) -> int | None:
        """Of clients on this machine; None if they have to sign in, too."""
        name = self.settings.relay_space
        return None if name is None else await self._believed.ask(("space", name), lambda: self._find_space(name))

    async def mode_of(self, space: int) -> Mode:
        """The space's relay setting, at most a second old."""
        return await self._believed.ask(("mode", space), lambda: self._find_mode(space))

    async def begin(self, space: int, sender: Sender) -> tuple["Transaction | None", Reply]:
        """A new envelope, if the next mail server takes its sender; its answer is the answer. Never raises."""
        try:
            session, reply = await self.upstream.begin(sender)
        except Refused as refused:
            return None, refused.reply
        except UpstreamUnavailable as error:
            self.metrics.relay_refusals.labels(f"upstream_{error.reason}").inc()
            return None, UPSTREAM_AWAY[error.reason]
        if reply.is_positive:
            return Transaction(self, space, sender, session), reply
        self.upstream.give_back(session)
        self.metrics.relay_refusals.labels("upstream_refused").inc()
        return None, _for_client(reply)

    async def close(self) -> None:
        """Counts what could not be counted so far."""
        await self.room.close()

    async def _find_key(self, user: str, secret: str) -> int | None:
        async with self.database.connection() as connection:
            key = await api_keys.api_key_of(connection, secret)
            if key is None or _SCOPE not in key["scopes"] or key["space_id"] is None:
                return None
            space = await store.get_space(connection, key["space_id"])
        is_theirs = user in (space["name"], f"{space['id']:08x}")
        return int(space["id"]) if is_theirs else None

    async def _find_space(self, name: str) -> int:
        async with self.database.connection() as connection:
            return int((await store.find_space(connection, name))["id"])

    async def _find_mode(self, space: int) -> Mode:
        async with self.database.connection() as connection:
            try:
                return Mode.from_label((await store.get_space(connection, space))["relay_mode"])
            except NotFound:  # deleted
                return Mode.OFF


@dataclass(frozen=True, slots=True)
class _Copy:
    """A mail as it goes on, and the mailing in which it is counted."""

    mailing: int
    prepared: Prepared
    raw: bytes


@dataclass(slots=True)
class Transaction:
    """One envelope on its way, in a session with the next mail server that has its sender."""

    relay: Relay
    space: int
    sender: Sender
    session: UpstreamSession
    paths: list[str] = field(default_factory=list)
    """The recipients that were accepted, in their brackets."""
    is_abandoned: bool = False
    """Whether nobody waits for the answer any more."""

    async def add(self, path: str) -> Reply:
        """One more recipient; the next mail server's answer is the answer. Never raises."""
        try:
            reply = await self.session.command(f"RCPT TO:{path}")
        except UpstreamUnavailable as error:
            self.relay.metrics.relay_refusals.labels(f"upstream_{error.reason}").inc()
            return UPSTREAM_AWAY[error.reason]
        if reply.is_positive:
            self.paths.append(path)
        return _for_client(reply)

    async def end(self) -> None:
        """Gives the session back, whatever became of the envelope. Never raises."""
        with contextlib.suppress(UpstreamUnavailable):  # the next one is opened anew
            await self.session.end_envelope()
        self.relay.upstream.give_back(self.session)

    def abandon(self) -> None:
        """The client went away before its mail was complete."""
        self.session.close()

    async def deliver(self, content: bytes | None) -> Reply:
        """The answer to a mail, None for one that was too long. Never raises; the session is given back."""
        try:
            reply, reason = await self._answer(content)
        except StoreUnavailable:
            reply, reason = NO_DATABASE, "database"
        except UpstreamUnavailable as error:
            reply, reason = UPSTREAM_AWAY[error.reason], f"upstream_{error.reason}"
        except MailRefused as refused:
            reply, reason = Reply(554, f"5.6.0 {refused}"), "mail"
        except Exception as error:  # whatever it is: the client keeps the mail and asks again
            what = str(error) if isinstance(error, MailtrailError) else place_of(error)
            _log.error("a mail was deferred", error=what)
            reply, reason = FAULT, "fault"
        if reason:
            self.relay.metrics.relay_refusals.labels(reason).inc()
        await self.end()
        return reply

    async def _answer(self, content: bytes | None) -> tuple[Reply, str]:
        """The reply, and why the mail was refused, nothing if it was not."""
        if content is None:
            return TOO_BIG, "size"
        if _has_bare_line_end(content):
            return BARE_LINE_END, "line_end"
        fields = read_relay_fields(content, self.relay.settings.relay_group_header)
        for kind, number in fields.left_out.items():
            self.relay.metrics.relay_left_out.labels(kind).inc(number)
        mode = await self.relay.mode_of(self.space)
        if mode is Mode.OFF:
            mailing = await self._mailing(fields, Mode.OFF)
            return await self._send(_Copy(mailing, Prepared(content, reason="off"), content), len(self.paths))
        if len(self.paths) == 1:
            return await self._send(await self.prepare(content, fields, mode, self.paths[0]), 1)
        if self.relay.settings.relay_envelopes == "shared":
            # It is the same mail for all of them, so nobody can be told from the others.
            shared = await self.prepare(content, fields, min(mode, Mode.AGGREGATE), self.paths[0])
            return await self._send(shared, len(self.paths))
        return await _Copies(self, content, fields, mode).deliver()

    # --- one mail ----------------------------------------------------------------------------------------------------

    async def _send(self, copy: _Copy, recipients: int) -> tuple[Reply, str]:
        """In the envelope as it stands; an accepted mail is counted for each recipient."""
        reply = await self.session.data(copy.raw)
        if not reply.is_positive:
            return _for_client(reply), "upstream_refused"
        await self.count(copy, recipients)
        return reply, ""

    async def count(self, copy: _Copy, recipients: int) -> None:
        """Never raises: the mail has arrived and must not come again. What could not be written waits for the next."""
        self.relay.metrics.relay_mails.labels(copy.prepared.ceiling.label).inc(recipients)
        counting = [self.relay.room.count(copy.mailing, copy.prepared) for _ in range(recipients)]
        for outcome in await asyncio.gather(*counting, return_exceptions=True):
            if isinstance(outcome, Exception) and not isinstance(outcome, StoreUnavailable):
                _log.error("a mail that was passed on is not counted", error=place_of(outcome))

    async def prepare(self, content: bytes, fields: RelayFields, ceiling: Mode, path: str) -> _Copy:
        """The mail as this recipient gets it, recorded at most as `ceiling` says."""
        recipient, allowed = _recipient(path)
        ceiling = min(ceiling, allowed)
        copy = await self._track(content, fields, ceiling, recipient)
        if copy.prepared.message_id and copy.prepared.ceiling < ceiling is Mode.PERSON_BASED:
            # The setting has just become stricter: a group that only this mail is in would name its recipient.
            copy = await self._track(content, fields, copy.prepared.ceiling, recipient)
        return copy

    async def _track(self, content: bytes, fields: RelayFields, ceiling: Mode, recipient: str) -> _Copy:
        mailing, plain = await self._mailing(fields, ceiling), fields.taken_out(content)
        if not plain.strip():  # an empty mail is one, too
            return _Copy(mailing, Prepared(plain, reason="nothing"), plain)
        schemes = self.relay.settings.app_schemes
        mail = Mail(plain, text_parts=fields.text_links, app_schemes=schemes, html_links=fields.html_links)
        limits = Limits(ceiling, links=fields.html_links or fields.text_links, pixel=fields.opens)
        dispatch = Dispatch(self.space, None, mailing, recipient, Permission.UNKNOWN, fields.correlation_ids)
        try:
            prepared = await self.relay.room.prepare(mail, dispatch, limits)
        except TrackedForAnother:  # somebody forwards what they got: it stays theirs
            prepared = Prepared(plain, reason="already_tracked")
        if prepared.reason == "off":  # it has just been switched off
            return _Copy(mailing, prepared, content)
        if prepared.reason == "dkim":  # the signature may cover our fields
            return _Copy(mailing, prepared, Mail(content).noted("dkim"))
        return _Copy(mailing, prepared, prepared.raw)

    async def _mailing(self, fields: RelayFields, ceiling: Mode) -> int:
        """The group that the mail is in. One that is named by the mail's own id is its recipient's alone."""
        own_id = fields.correlation_ids[0] if fields.correlation_ids and ceiling is Mode.PERSON_BASED else None
        for name in filter(None, (fields.group, own_id)):
            try:
                return await self.relay.room.mailing(self.space, None, name)
            except SettingsError:  # no name for a mailing; the mail is more important
                self.relay.metrics.relay_left_out.labels("group").inc()
        return await self.relay.room.mailing(self.space, None, f"relay {datetime.now(UTC).date()}")


@dataclass(slots=True)
class _Copies:
    """A mail to several recipients, each of whom gets a copy of their own in an envelope of its own."""

    transaction: Transaction
    content: bytes
    fields: RelayFields
    mode: Mode
    replies: dict[str, Reply] = field(default_factory=dict)
    """What came of each recipient that was tried, now or when the envelope came before."""

    async def deliver(self) -> tuple[Reply, str]:
        paths = list(dict.fromkeys(self.transaction.paths))
        envelope = relayed.Envelope.of(self.transaction.space, self.transaction.sender.path, self.content)
        async with self.transaction.relay.database.connection() as connection:
            before = await relayed.done(connection, envelope)
        self.replies = {path: _noted(before[key]) for path in paths if (key := envelope.recipient(path)) in before}
        trouble = await self._send([path for path in paths if path not in self.replies])
        accepted = [reply for reply in self.replies.values() if reply.is_positive]
        if not accepted:
            if trouble is not None:
                raise trouble
            return _for_client(self._worst()), "upstream_refused"
        reply, reason = self._summary(paths, accepted)
        is_done = reply.is_positive and not self.transaction.is_abandoned
        if before or not is_done:
            await self._remember(envelope, is_done=is_done)
        return reply, reason

    async def _send(self, paths: Sequence[str]) -> MailtrailError | None:
        """To one after the other. Gives what kept it from going on; where nobody has it yet, a refusal ends it, too."""
        for path in paths:
            try:
                self.replies[path] = await self._send_to(path)
            except (StoreUnavailable, UpstreamUnavailable, MailRefused) as error:
                return error
            if not any(reply.is_positive for reply in self.replies.values()):
                return None
        return None

    async def _send_to(self, path: str) -> Reply:
        transaction = self.transaction
        copy = await transaction.prepare(self.content, self.fields, self.mode, path)
        reply = await self._open_envelope(path)
        if reply.is_positive:
            reply = await transaction.session.data(copy.raw)
            if reply.is_positive:
                await transaction.count(copy, 1)
        return reply

    async def _open_envelope(self, path: str) -> Reply:
        """A new one, with this recipient alone."""
        transaction = self.transaction
        with contextlib.suppress(UpstreamUnavailable):  # then it is another session
            await transaction.session.end_envelope()
        try:
            session, reply = await transaction.relay.upstream.begin(transaction.sender, transaction.session)
        except Refused as refused:
            return refused.reply
        transaction.session = session
        return await session.command(f"RCPT TO:{path}") if reply.is_positive else reply

    def _worst(self) -> Reply:
        """Of those who all refused: one that may be different the next time, else the first."""
        replies = list(self.replies.values())
        return next((reply for reply in replies if reply.is_temporary), replies[0])

    def _summary(self, paths: Sequence[str], accepted: Sequence[Reply]) -> tuple[Reply, str]:
        """One answer for all. No refusal hides behind a 250, and who has the mail does not get it again."""
        have_it = f"{len(accepted)} of {len(paths)} recipients have it"
        refused = [reply for reply in self.replies.values() if not (reply.is_positive or reply.is_temporary)]
        if len(accepted) + len(refused) < len(paths):
            return Reply(451, f"4.3.0 {have_it}; send it again for the rest"), "partial"
        if refused:
            why = f"{refused[0].code} {refused[0].first_line}"
            return Reply(554, f"5.0.0 {have_it}, do not send it again; refused: {why}"), "partial"
        return accepted[-1], ""

    async def _remember(self, envelope: relayed.Envelope, *, is_done: bool) -> None:
        """Who is not to be tried when the envelope comes again."""
        known = {path: f"{reply.code} {reply.text}" for path, reply in self.replies.items() if not reply.is_temporary}
        try:
            async with self.transaction.relay.database.connection() as connection:
                if is_done:
                    await relayed.forget(connection, envelope)
                else:
                    await relayed.note(connection, envelope, known)
        except StoreUnavailable:  # the answer is true all the same
            _log.error("some recipients may get a mail twice: the database went away before they were noted")


def _for_client(reply: Reply) -> Reply:
    """A 421 of the next mail server ends its connection with us, not ours with the client."""
    return reply._replace(code=451) if reply.code == 421 else reply


def _noted(text: str) -> Reply:
    return Reply(int(text[:3]), text[4:])


def _has_bare_line_end(content: bytes) -> bool:
    """Whether a CR or LF stands alone: servers differ on where such a mail ends, so another could be smuggled in it."""
    pairs = content.count(b"\r\n")
    return not pairs == content.count(b"\r") == content.count(b"\n")


def _recipient(path: str) -> tuple[str, Mode]:
    """The address as the recipient's id. What cannot be sealed is told apart by a hash, which no link carries."""
    address = path[1:-1]
    try:
        return check_recipient(address), Mode.PERSON_BASED
    except SettingsError:
        return sha256(address.encode(errors="surrogateescape")).hexdigest(), Mode.ANONYMIZED
