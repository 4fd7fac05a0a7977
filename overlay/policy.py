"""Who may ring: a pure function of evidence, replaceable by entry points (p2psip.policies)."""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Verdict(Enum):
    """What the callee's peer does with a request from outside."""

    RING = "ring"
    KNOCK = "knock"
    VOICEMAIL = "voicemail"
    REFUSE = "refuse"  # answered exactly as an unknown user is


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of who asks.

    Attributes:
        method: SIP method of the request.
        caller: canonical AoR in From.
        callee: canonical AoR that is asked for.
        proven: the association's HIT has the right to speak as ``caller``.
        contact: ``caller`` is among the user's contacts.
        blocked: ``caller`` is on the user's block list.
    """

    method: str
    caller: str
    callee: str
    proven: bool
    contact: bool
    blocked: bool


class Policy(Protocol):
    """One way to judge. Constructed without arguments."""

    def judge(self, evidence: Evidence) -> Verdict:
        """Decide; pure."""


class ContactsFirst:
    """Contacts and proven identities ring; the blocked and the unproven are refused."""

    def judge(self, evidence: Evidence) -> Verdict:
        """See Policy."""
        if evidence.blocked or not evidence.proven:
            return Verdict.REFUSE
        return Verdict.RING
