"""The one exception tree. Every message says what is wrong and how to mend it.

Nothing here is raised towards a recipient: the collector turns whatever a token or request does into an answer.
"""

from pathlib import Path


class MailtrailError(Exception):
    """Base of all errors that a person can mend; the command line prints its text and exits with `exit_code`."""

    exit_code = 1


class ConfigError(MailtrailError):
    """A setting (`MAILTRAIL_*`) or command argument has a value that cannot work."""

    exit_code = 2


class SettingsError(MailtrailError):
    """A change of spaces, events, mailings or links breaks a rule; nothing was changed. `field` is what to mend."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class NotFound(SettingsError):
    """The named space, event, mailing, link or key does not exist."""


class ChangedMeanwhile(SettingsError):
    """Somebody else has changed it since it was read; nothing was changed."""


class EventProtected(SettingsError):
    """The event is active and in protected mode; nothing was changed."""


class NotAcknowledged(SettingsError):
    """The change has a consequence that must be acknowledged with the change; `notice` is its word."""

    def __init__(self, message: str, notice: str) -> None:
        super().__init__(message, field="acknowledge")
        self.notice = notice


class NotAllowed(MailtrailError):
    """Whoever asks may not do this."""


class SignInRefused(MailtrailError):
    """Name and password are not somebody's, a link was used, or there were too many attempts."""


class TokenRefused(MailtrailError):
    """A token does not open. `reason` is a metric label: malformed, unknown_key, forged, revoked or wrong_kind."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"token refused: {reason}")
        self.reason = reason


class DestinationRefused(MailtrailError):
    """A URL cannot become a tracked link. `reason` is a short word: scheme, no_host, relative, invalid, too_long,
    personalised or already_tracked."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class MailRefused(MailtrailError):
    """A mail or document handed to the rewriter cannot be read; it was not changed."""


class TrackedForAnother(MailRefused):
    """A mail has the pixel of another mail, and would be recorded as that one."""


class SchemaError(MailtrailError):
    """The database's schema is not the one this program knows; it refuses to start on it."""


class StoreUnavailable(MailtrailError):
    """PostgreSQL cannot be reached or refuses us."""


class UpstreamUnavailable(MailtrailError):
    """The server that the relay passes mails on to gives no answer. `reason` is a metric label: down, slow or lost."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class DiskUnavailable(MailtrailError):
    """Nothing can be written to the data directory."""

    @classmethod
    def at(cls, directory: Path, error: OSError) -> "DiskUnavailable":
        return cls(
            f"{directory} cannot be written ({error.strerror}); make room or give the right to write,"
            " or choose another MAILTRAIL_DATA_DIRECTORY"
        )
