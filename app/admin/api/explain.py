"""What would be recorded of a tracked link, and which setting says so.

Invariant: that somebody asked is in the audit log, with the mailing and the number of the link; the token and whom it
is for are not.
"""

from datetime import date

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from ...store.audit import audit
from ...store.snapshot import build, read_rows
from ...tracking.explanations import Explanation, explain
from .bodies import Body, json_answer
from .identity import Prying
from .ids import LongId, ShortId, long_id, short_id
from .requests import ApiRoute

router = APIRouter(route_class=ApiRoute, tags=["explanations"])


class TrackedAddress(Body):
    """The address of a tracked link or pixel."""

    address: str = Field(examples=["https://t.example.com/c/AQ…"])


class Explained(BaseModel):
    """What a hit records now, its `mode`: the `in_force` one by its `rule`, or the sealed `ceiling` if stricter."""

    kind: str
    space: ShortId
    event: ShortId | None
    mailing: LongId
    origin: str
    issue_day: date
    permission: str
    ceiling: str
    in_force: str
    rule: str
    mode: str
    is_capped: bool = Field(description="Whether the ceiling decides.")
    recipient: str | None = Field(description="Only where a hit would be recorded with them.")
    link: int | None = Field(description="Null for a pixel.")
    is_registered: bool
    is_switched_off: bool
    is_corrected: bool
    leads_to: str | None

    @classmethod
    def of(cls, explanation: Explanation) -> "Explained":
        return cls(
            kind=explanation.kind.label,
            space=short_id(explanation.space),
            event=short_id(explanation.event) if explanation.event else None,
            mailing=long_id(explanation.mailing),
            origin=explanation.origin.name.lower(),
            issue_day=explanation.issue_day,
            permission=explanation.permission.name.lower(),
            ceiling=explanation.ceiling.label,
            in_force=explanation.in_force.label,
            rule=explanation.rule.value,
            mode=explanation.mode.label,
            is_capped=explanation.is_capped,
            recipient=explanation.recipient,
            link=explanation.link or None,
            is_registered=explanation.is_registered,
            is_switched_off=explanation.is_switched_off,
            is_corrected=explanation.is_corrected,
            leads_to=explanation.leads_to,
        )


@router.post("/explain", response_model=Explained)
async def explain_link(visit: Prying, body: TrackedAddress) -> Response:
    """Explains a link or pixel; nothing is recorded by asking, but that you asked."""
    snapshot = build(await read_rows(visit.connection), visit.settings.anonymization_days)
    found = explain(snapshot, body.address, visit.principal.space)
    asked_for = f"{long_id(found.mailing)}/{found.link}"
    await audit(visit.connection, visit.who, "link explained", found.space, asked_for)
    return json_answer(Explained.of(found))
