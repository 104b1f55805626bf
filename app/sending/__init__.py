"""What goes into the mails; here is what senders who write Python need, documented in docs/sending.md.

Many recipients of one template: `Template`, `open_sending`, which gives a `Sending` whose mails are `Personalised`.
Whole mails: `Mail`; `MailRoom` for many, `prepare` for one; a `Dispatch` says for whom, `Limits` what not; `Prepared`.
"""

from ..tracking.modes import Mode, Permission
from .bulk import Sending, open_sending
from .dispatch import Dispatch
from .mail_room import MailRoom
from .prepare import Limits, Prepared, prepare
from .sources import Document, Mail
from .template import Personalised, Template

__all__ = [
    "Dispatch",
    "Document",
    "Limits",
    "Mail",
    "MailRoom",
    "Mode",
    "Permission",
    "Personalised",
    "Prepared",
    "Sending",
    "Template",
    "open_sending",
    "prepare",
]
