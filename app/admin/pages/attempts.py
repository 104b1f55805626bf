"""Forms that were sent and not saved: what they wanted, and why it was refused.

Invariant: whatever somebody filled in is in the form again when the page comes back.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from starlette.datastructures import FormData

from ...errors import ChangedMeanwhile, EventProtected, NotAcknowledged, SettingsError
from ...tracking.settings import Notice
from .sentences import said
from .web import fields

_NOTICES = {notice.value: notice for notice in Notice}


@dataclass(frozen=True, slots=True)
class Attempt:
    """A form by its name on the page; without an error nothing was tried yet."""

    form: str = ""
    values: Mapping[str, str] = field(default_factory=dict)
    acknowledged: frozenset[str] = frozenset()
    error: SettingsError | None = None
    language: str = "en"

    @classmethod
    def of(cls, form: str, sent: FormData, error: SettingsError, language: str) -> "Attempt":
        return cls(form, fields(sent), frozenset(notice.value for notice in acknowledged(sent)), error, language)

    @property
    def status(self) -> int:
        """Of the answer that shows the form again."""
        if self.error is None:
            return 200
        return 409 if isinstance(self.error, ChangedMeanwhile | EventProtected) else 422

    @property
    def notice(self) -> str:
        """What has to be acknowledged and was not; empty if that is not what is wrong."""
        return self.error.notice if isinstance(self.error, NotAcknowledged) else ""

    def is_outdated(self, form: str) -> bool:
        """Whether somebody else has saved since this form was opened."""
        return form == self.form and isinstance(self.error, ChangedMeanwhile)

    def value(self, form: str, name: str, current: str) -> str:
        """What a field shows: what was wanted, else what is."""
        return self.values.get(name, "") if form == self.form else current

    def ticked(self, form: str, name: str, current: bool) -> bool:
        """Whether a checkbox is ticked; browsers leave out those that are not."""
        return name in self.values if form == self.form else current

    def problem(self, form: str, name: str) -> str:
        """What is wrong with a field; empty if nothing is."""
        if form != self.form or self.error is None or self.error.field != name:
            return ""
        return said(str(self.error), self.language)

    def summary(self, *names: str) -> dict[str, str]:
        """For the top of the page: the id of the field to its sentence. `names`: the fields that the form shows."""
        if self.error is None or isinstance(self.error, NotAcknowledged | ChangedMeanwhile):
            return {}
        shown = self.error.field in names
        return {f"{self.form}-{self.error.field}" if shown else "": said(str(self.error), self.language)}


def acknowledged(form: FormData) -> list[Notice]:
    """The notices that were ticked."""
    return [_NOTICES[word] for word in _texts(form.getlist("acknowledged")) if word in _NOTICES]


def revision(form: FormData) -> int:
    """The revision that the form was made from; 0, which nothing has, if there is none."""
    text = str(form.get("revision", ""))
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


def text(form: FormData, name: str) -> str:
    """A field's text; empty if it is not there or a file."""
    value = form.get(name, "")
    return value if isinstance(value, str) else ""


def _texts(values: Iterable[object]) -> list[str]:
    return [value for value in values if isinstance(value, str)]
