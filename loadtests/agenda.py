"""A plan under way: which request is next, what its answer must be, and what the database must know of it afterwards.

Invariant: every request of the plan is handed out once, and whoever makes it notes what came of it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from app.collector.answer import PIXEL as PICTURE

from .recipients import PIXEL, Visit
from .reckoning import Asked, Ledger, Sent
from .sender import Post

PAGE_STATUS, PICTURE_STATUS, REDIRECT_STATUS = 404, 200, 302


class Answered(NamedTuple):
    """What came back; the status is 0 if nothing did."""

    status: int
    location: str | None = None
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Request:
    """A visit with all that is needed to make it and to judge the answer."""

    visit: Visit
    path: str
    expected: Answered
    asked: Asked


class Agenda:
    """The plan's requests in their order, and the ledger of those that were made."""

    def __init__(self, post: Post, visits: Sequence[Visit]) -> None:
        self.ledger = Ledger()
        self.left_nothing: Counter[str] = Counter()
        """Answered requests that must leave no hit, by what they are."""
        self.made = self.taken = 0
        self._post = post
        self._visits = visits

    @property
    def planned(self) -> int:
        return len(self._visits)

    @property
    def sent(self) -> list[Sent]:
        return [mail.sent for mail in self._post.mails]

    @property
    def is_over(self) -> bool:
        return self.made == self.planned

    def take(self) -> Request | None:
        """The next request, to be made at its moment; None if there is none left."""
        if self.taken == self.planned:
            return None
        self.taken += 1
        return self.request(self._visits[self.taken - 1])

    def request(self, visit: Visit) -> Request:
        """What a visit asks for, and what it must get."""
        mail = self._post.mails[visit.mail]
        link = None if visit.link == PIXEL else self._post.link(mail, visit.link)
        location = None if link is None else link.destination
        asked = Asked(mail.sent, visit.kind, 0 if link is None else link.number, visit.visitor.agent)
        return Request(visit, visit.path(mail.tokens[visit.link]), expected_answer(visit, location), asked)

    def note(self, request: Request, answered: Answered) -> str:
        """Enters what came of a request; gives what is wrong with the answer, nothing if it is as it must be."""
        self.made += 1
        problem = difference(request.expected, answered)
        if request.visit.leaves_hit:
            (self.ledger.uncertain if problem else self.ledger.answered).append(request.asked)
        elif not problem:
            self.left_nothing["broken tokens" if request.visit.method == "GET" else "HEADs"] += 1
        return problem


def expected_answer(visit: Visit, destination: str | None) -> Answered:
    """The answer that a visit must get: a picture or the redirect; a page for a click whose token is broken."""
    if visit.link == PIXEL:
        return Answered(PICTURE_STATUS, None, PICTURE if visit.method == "GET" else b"")
    if visit.spelling.opens:
        return Answered(REDIRECT_STATUS, destination)
    return Answered(PAGE_STATUS)


def difference(expected: Answered, answered: Answered) -> str:
    """What is wrong with an answer, in a few words without anything personal; of a page only the status counts."""
    if answered.status != expected.status:
        return f"status {answered.status}, not {expected.status}" if answered.status else "no answer"
    if answered.location != expected.location:
        return "redirects elsewhere" if answered.location else "no location"
    if expected.status != PAGE_STATUS and answered.body != expected.body:
        return "another body"
    return ""
