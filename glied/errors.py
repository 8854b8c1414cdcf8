"""Exceptions of the project: one type per decision that a caller takes.

Everything a user can cause is a `GliedError`; `glied.config.run` turns it into one line and an exit code.
"""

from glied.redaction import redacted


class GliedError(Exception):
    """A failure whose message is meant for a person: what came, what is allowed, what to do.

    Queries and user info of the addresses in it are removed: they may be secret.
    """

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        """Keep the message without secrets."""
        super().__init__(redacted(str(message)))


class UsageError(GliedError, ValueError):
    """The command or its config is wrong; nothing was started."""

    exit_code = 2


class JobError(GliedError):
    """The job failed or is incomplete; what was done stays done."""


class StorageError(GliedError):
    """Storage or credentials failed; the same call may succeed later."""


class ItemError(GliedError):
    """One image cannot be described; its row says why, and the job goes on.

    Attributes:
        kind: short slug that the summary counts by, for example "truncated" or "not_an_image".
        message: what is wrong, without secrets.
    """

    def __init__(self, kind: str, message: str) -> None:
        """Name the kind of failure and describe it."""
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = redacted(message)

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        """Travel between processes with both arguments."""
        return type(self), (self.kind, self.message)


class ImageError(ItemError):
    """The image itself is at fault: its row is `rejected` and never retried."""
