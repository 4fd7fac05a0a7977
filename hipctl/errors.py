"""Every exception that hipctl raises.

* HipError
    * MalformedPacket     bytes that no conforming peer sends              -> drop, count
    * Rejected            well formed, but a check failed (MAC, puzzle …)  -> drop, count
    * AssociationFailed   the peer said no, or never answered              -> tell the caller
    * RegistrationRefused the server said no                               -> tell the caller
    * KeyFileRefused      a key file that cannot or must not be used       -> tell the user
    * PortInUse           an Endpoint's (HIT, port) is taken               -> tell the caller
    * HostConfigRefused   a host cannot start as configured                -> tell the user
        * NoSuchAddress       this machine has no such address               -> or do without
"""

from hipctl.constants import NotifyType


class HipError(Exception):
    """Base of all hipctl errors."""

    notify: NotifyType | None = None
    """What to tell the peer in a NOTIFICATION where one is owed, or None to stay silent."""


class MalformedPacket(HipError):
    """The bytes violate the packet format.

    Attributes:
        reason: short and constant, so that it can name a counter.
        offset: where parsing stopped, in bytes from the start of what was parsed.
    """

    notify = NotifyType.INVALID_SYNTAX

    def __init__(self, reason: str, offset: int = 0) -> None:
        super().__init__(f"{reason} at byte {offset}")
        self.reason = reason
        self.offset = offset


class Rejected(HipError):
    """A well-formed packet failed a check.

    Attributes:
        reason: short and constant, so that it can name a counter.
        notify: see HipError.
        data: Notification Data for ``notify``.
    """

    def __init__(self, reason: str, notify: NotifyType | None = None, data: bytes = b"") -> None:
        super().__init__(reason)
        self.reason = reason
        self.notify = notify
        self.data = data


class Hides(Rejected):
    """What was asked would show a peer where we are, from whom we hide."""


class AssociationFailed(HipError):
    """The base exchange reached E-FAILED, timed out, or the association ended."""


class RegistrationRefused(HipError):
    """A server grants nothing of what we asked for.

    Attributes:
        failure: a RegistrationFailure, or a number that we don't know.
    """

    def __init__(self, message: str, failure: int) -> None:
        super().__init__(message)
        self.failure = failure


class KeyFileRefused(HipError):
    """A key file is missing, malformed, or readable by others; the message says what to do."""


class PortInUse(HipError):
    """Another Endpoint holds this (HIT, port)."""


class HostConfigRefused(HipError):
    """The host cannot start as configured; the message says what to change."""


class NoSuchAddress(HostConfigRefused):
    """This machine has no such IP address, or not that family at all."""


class ControlUnavailable(HipError):
    """A control socket cannot be made.

    Attributes:
        taken: because another process answers there.
    """

    def __init__(self, message: str, *, taken: bool = False) -> None:
        super().__init__(message)
        self.taken = taken


class ControlRefused(HipError):
    """The process answered that it cannot do what was asked; the message is its own."""


class NotRunning(HipError):
    """Nobody answers at a control socket.

    Attributes:
        silent: somebody listens, but says nothing.
    """

    def __init__(self, message: str, *, silent: bool = False) -> None:
        super().__init__(message)
        self.silent = silent
