"""Every error that a user can meet, by what it means for what happens next.

    HoldfastError
    |-- RetryLater           the world may mend: tried again with back-off
    |   |-- StartFailed      a machine did not start
    |   |-- StopFailed       a machine did not end
    |   |-- MonitorError     a monitor did not answer, or refused
    |   |-- NotReady         a guest does not let us in yet
    |   |-- SessionLost      the way into a guest broke, or nothing came over it
    |   |-- ImageUnavailable an image could not be fetched or read
    |   `-- SourceChanged    a file of the source is no longer the one that was read
    |-- Blocked              stays so until a person acts
    |   |-- BadInput         a document, an option, a file: what is wrong and where
    |   |   `-- BadUsage     what the command was told cannot be: said otherwise, it may work
    |   |-- GuestRefused     a guest answered, and said no
    |   |-- StateInUse       another agent holds the state directory
    |   `-- StateUnusable    the state directory or its database cannot be used
    `-- (anything else is a bug and is reported as one)

The message is one sentence part: what was tried on which name and why it failed. The hint says what to do. Errors of
libraries are turned into these where the library is called, with the cause chained.
"""

from __future__ import annotations


class HoldfastError(Exception):
    """Something that a person can understand; `hint` says what to do about it, empty where nothing can be said."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class RetryLater(HoldfastError):
    """The world may mend; the step is tried again with back-off."""


class StartFailed(RetryLater):
    """A machine did not start."""


class StopFailed(RetryLater):
    """A machine did not end."""


class MonitorError(RetryLater):
    """A monitor did not answer in time, or refused a command."""


class NotReady(RetryLater):
    """A guest does not let us in yet."""


class SessionLost(RetryLater):
    """The way into a guest broke, or nothing came over it in time. What was asked for may have been done."""


class ImageUnavailable(RetryLater):
    """An image could not be fetched, or what was fetched is not what was asked for."""


class NoRoomForImage(ImageUnavailable):
    """The disk of the store is too full. `short`: bytes that are missing, as far as that is known."""

    def __init__(self, message: str, *, hint: str = "", short: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.short = short


class SourceChanged(RetryLater):
    """A file of the source is no longer the one that was read; another look at the source tells what it is now."""


class Blocked(HoldfastError):
    """Stays so until a person acts."""


class BadInput(Blocked):
    """A document, an option or a file cannot be used."""


class BadUsage(BadInput):
    """An option, the configuration, or what one of them names cannot be used."""


class GuestRefused(Blocked):
    """A guest answered, and said no: it has no space, no SFTP, no such directory."""


class StateInUse(Blocked):
    """Another agent holds the state directory."""


class StateUnusable(Blocked):
    """The state directory or its database cannot be used."""
