"""Every exception that sipgw's pure rooms raise.

* SipError
    * MalformedMessage   bytes or a header that no conforming client sends
                         -> not representable: drop and count; one header: answer 400
    * MalformedSdp       a body that is no session description -> answer 488 or pass on untouched
    * TooManyTransactions the table is full of unfinished transactions -> answer 503
    * MediaExhausted     no media port is free -> answer 503
"""


class SipError(Exception):
    """Base of all errors of sipgw."""


class MalformedMessage(SipError):
    """A message, or one of its header fields, violates RFC 3261 §25.

    Attributes:
        reason: short and constant, fit for a counter and for a reason phrase.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class MalformedSdp(SipError):
    """A body violates RFC 8866 so badly that its lines cannot be edited.

    Attributes:
        reason: short and constant.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TooManyTransactions(SipError):
    """No room for another transaction, and none that could be forgotten."""


class MediaExhausted(SipError):
    """No pair of media ports is free."""
