"""Every exception that overlay raises.

* OverlayError
    * MalformedMessage    bytes that are no RPC message                     -> drop, count
    * MalformedRecord     bytes that are no record                          -> drop, count
    * RecordRefused       a record that may not be stored or believed       -> answer, count
    * MalformedAor        text that names nobody                            -> tell the user
    * NotFound            nobody is registered under this name              -> 404
    * LookupFailed        the overlay could not be asked                    -> 480
        * NotStored           nobody took a record                              -> try again
    * CredentialsRefused  a delegation, certificate or overlay file is wrong -> tell the user
    * ConfigError         a profile is wrong                                -> tell the user
        * ServiceNotInstalled
"""

from collections import Counter


class OverlayError(Exception):
    """Base of all overlay errors."""


class MalformedMessage(OverlayError):
    """Bytes that no conforming peer sends; ``reason`` is short, constant, and names a counter."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class MalformedRecord(MalformedMessage):
    """Bytes that are no canonical record."""


class RecordRefused(OverlayError):
    """A well-formed record that may not be stored or believed; ``reason`` names a counter."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class MalformedAor(OverlayError):
    """Text that is no address-of-record."""


class NotFound(OverlayError):
    """Nobody is registered under this name."""


class LookupFailed(OverlayError):
    """The overlay could not be asked: not joined, or nobody answered."""


class NotStored(LookupFailed):
    """Nobody took a record; ``reasons`` says why not, and how often each."""

    def __init__(self, reasons: Counter[str]) -> None:
        why = ", ".join(f"{reason} ({n})" for reason, n in reasons.most_common(3))
        super().__init__(f"nobody stored the record: {why or 'nobody answered'}")
        self.reasons = reasons


class CredentialsRefused(OverlayError):
    """A delegation, certificate, account or overlay file is wrong; the message says how."""


class ConfigError(OverlayError):
    """A profile is wrong; the message starts with the dotted path of the key."""


class ServiceNotInstalled(ConfigError):
    """The profile names a service that no installed package provides."""
