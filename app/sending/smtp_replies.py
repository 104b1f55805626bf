"""Replies of the mail relay: the next mail server's as they are, and our own.

Invariant: every reply of ours but greetings and prompts has an enhanced status code, so that the extension can be
offered. Source: RFC 5321 (4.2), RFC 2034, RFC 3463.
"""

import re
from typing import NamedTuple

_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3} ")
_OWN = re.compile(r"([45]\d\d)([ -])(.*)", re.S)

_USUAL_CODES = {
    "500": "5.5.2",
    "501": "5.5.4",
    "502": "5.5.1",
    "503": "5.5.1",
    "504": "5.5.4",
    "538": "5.7.11",
}


class Reply(NamedTuple):
    """A code and its text, whose lines are joined by line feeds."""

    code: int
    text: str

    @property
    def is_positive(self) -> bool:
        return 200 <= self.code < 300

    @property
    def is_temporary(self) -> bool:
        return 400 <= self.code < 500

    @property
    def first_line(self) -> str:
        return self.text.partition("\n")[0]

    def encoded(self) -> bytes:
        """As it goes over the wire, without its last line end."""
        *before, last = self.text.split("\n")
        lines = [*(f"{self.code}-{line}" for line in before), f"{self.code} {last}"]
        return "\r\n".join(lines).encode(errors="surrogateescape")


class Refused(Exception):
    """A command or a mail is answered by a reply of our own."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply)
        self.reply = reply


OK = Reply(250, "2.0.0 OK")
BYE = Reply(221, "2.0.0 Bye")
LEAVING = Reply(421, "4.3.2 the relay is stopped; try again in a minute")
TOO_MANY_SESSIONS = Reply(421, "4.3.2 too many connections; try again later")
NO_DATABASE = Reply(451, "4.3.0 the settings cannot be read now; try again later")
FAULT = Reply(451, "4.3.0 something went wrong here; try again later")
UPSTREAM_AWAY = {
    "down": Reply(451, "4.4.1 the next mail server cannot be reached; try again later"),
    "slow": Reply(451, "4.4.2 the next mail server did not answer in time; try again later"),
    "lost": Reply(451, "4.4.2 the next mail server ended the connection; try again later"),
}
"""By the reason of UpstreamUnavailable."""

NO_TLS_NOW = Reply(454, "4.7.0 TLS is not available")
NO_SIGN_IN_NOW = Reply(454, "4.7.0 signing in is not possible now; try again later")
NESTED_MAIL = Reply(503, "5.5.1 there is a sender already; end the mail with DATA or RSET first")
MAIL_FIRST = Reply(503, "5.5.1 send MAIL first")
RCPT_FIRST = Reply(503, "5.5.1 send RCPT first; no recipient was accepted")
SIGN_IN_FIRST = Reply(530, "5.7.0 Authentication required: a space's name, and an API key with the scope relay")
NO_ARGUMENT = Reply(501, "5.5.4 this command takes no argument")
BAD_SENDER = Reply(501, "5.1.7 write MAIL FROM:<address>, without control characters")
BAD_RECIPIENT = Reply(501, "5.1.3 write RCPT TO:<address>, without control characters")
BAD_PARAMETER = Reply(501, "5.5.4 a parameter has a value that it cannot have")
UNKNOWN_PARAMETER = Reply(555, "5.5.4 a parameter is not known here")
UTF8_UNASKED = Reply(553, "5.6.7 the address needs SMTPUTF8; say so in MAIL FROM")
NO_8BITMIME = Reply(554, "5.6.3 the next mail server takes no 8BITMIME, and the mail is not converted")
NO_SMTPUTF8 = Reply(553, "5.6.7 the next mail server takes no SMTPUTF8")
TOO_BIG = Reply(552, "5.3.4 the mail is larger than is allowed here")
BARE_LINE_END = Reply(550, "5.6.0 a CR or LF stands alone in the mail; every line ends with CR LF")


def with_enhanced_code(reply: str) -> str:
    """A reply of the server's own library with the code that its basic code stands for, if it has none."""
    found = _OWN.fullmatch(reply)
    if found is None or _ENHANCED.match(found[3]):
        return reply
    return f"{found[1]}{found[2]}{_USUAL_CODES.get(found[1], f'{found[1][0]}.0.0')} {found[3]}"
