"""What would be recorded of a tracked link or pixel, and which setting says so; nothing is recorded by asking.

Invariant: the recipient is named only where a hit would be recorded with them; a link of a space that the asker does
not see is not told from one that is forged.
"""

from dataclasses import dataclass
from datetime import date

from ..errors import NotFound, TokenRefused
from .modes import Mode, Origin, Permission, Rule, decide, effective
from .overrides import corrected
from .snapshot import Snapshot
from .tokens import Kind, Token

_FORMS = ((Kind.CLICK, "/c/", ""), (Kind.OPEN, "/o/", ".gif"))


@dataclass(frozen=True, slots=True)
class Explanation:
    """`mode` is recorded: `in_force` by its `rule`, and never above the sealed `ceiling`, which decides if `is_capped`.

    `link` is 0 for a pixel; `leads_to` is None for a pixel or a link that is switched off.
    """

    kind: Kind
    space: int
    event: int
    mailing: int
    origin: Origin
    issue_day: date
    permission: Permission
    ceiling: Mode
    in_force: Mode
    rule: Rule
    mode: Mode
    recipient: str | None
    link: int
    is_registered: bool
    is_switched_off: bool
    is_corrected: bool
    leads_to: str | None

    @property
    def is_capped(self) -> bool:
        """Whether the ceiling is stricter than the settings are now."""
        return self.ceiling < self.in_force


def explain(snapshot: Snapshot, address: str, only_space: int | None = None) -> Explanation:
    """Explains a tracked address, or its path; NotFound if it does not open, or is not of `only_space`."""
    token = _open(snapshot, address)
    edition = token.edition
    if only_space is not None and edition.space != only_space:
        raise NotFound("this is no link or pixel of yours; paste its whole address", field="address")
    space, event = snapshot.spaces.get(edition.space), snapshot.events.get((edition.space, edition.event))
    now, rule = decide(edition.origin, space, event, edition.permission)
    mode = effective(now, edition.ceiling)
    override = snapshot.overrides.get((edition.space, edition.mailing, token.link), "") if token.registered else ""
    return Explanation(
        kind=edition.kind,
        space=edition.space,
        event=edition.event,
        mailing=edition.mailing,
        origin=edition.origin,
        issue_day=edition.issue_day,
        permission=edition.permission,
        ceiling=edition.ceiling,
        in_force=now,
        rule=rule,
        mode=mode,
        recipient=token.recipient if mode is Mode.PERSON_BASED else None,
        link=token.link,
        is_registered=token.registered,
        is_switched_off=override is None,
        is_corrected=bool(override),
        leads_to=_destination(token, override),
    )


def _destination(token: Token, override: str | None) -> str | None:
    if token.edition.kind is Kind.OPEN or override is None:
        return None
    return corrected(override, token.destination) if override else token.destination


def _open(snapshot: Snapshot, address: str) -> Token:
    path = address.strip().partition("?")[0].partition("#")[0]
    for kind, begin, end in _FORMS:
        _, found, sealed = path.rpartition(begin)
        if found and sealed.endswith(end):
            try:
                return snapshot.keys.open(sealed.removesuffix(end), kind)
            except TokenRefused:
                break
    raise NotFound("this is no link or pixel of yours; paste its whole address", field="address")
