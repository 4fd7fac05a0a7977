"""How an overlay's file is handed to who was invited: one question, one answer, on an association.

    [1, nonce]                          may I have it? (repeated until there is an answer)
    [2, nonce, file, proof]             here it is
    [3, nonce]                          no: you have shown no invitation of mine
    [4, nonce]                          no: the file is too long to be handed out

in canonical msgpack; the nonce has 8 bytes. Pure.
"""

import hmac
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hipctl import Hit
from overlay.canonical import NotCanonical, decode, encode
from overlay.errors import CredentialsRefused
from overlay.invitations import Invited, seal_welcome
from overlay.overlayfile import OverlayInfo, format_overlay, parse_overlay
from overlay.session import Bucket

LOBBY_PORT: Final = 10_601  # ours: of every HIT that invites
NONCE_LENGTH: Final = 8
MAX_FILE: Final = 32_768  # bytes of an overlay's file
MAX_ANSWER: Final = MAX_FILE + 128
RATE, BURST = 2.0, 6.0  # answers a second to one guest
MAX_GUESTS: Final = 256  # that are told apart

TOO_LONG: Final = (
    f"the overlay's file is longer than {MAX_FILE} bytes, the most that a LAN hands out"
)

_ASK, _WELCOME, _NO, _TOO_LONG = 1, 2, 3, 4


def fits(info: OverlayInfo) -> bool:
    """Whether an overlay's file can be handed out."""
    return len(format_overlay(info).encode()) <= MAX_FILE


class Lobby:
    """The member's side.

    Args:
        local: its HIT.
        invited: what a HIT has shown in its exchange with us; None: nothing that holds.
        overlay: the overlay with an id, if we are in it.

    Attributes:
        counts: answers by kind, and questions without one.
    """

    def __init__(
        self,
        local: Hit,
        invited: Callable[[Hit], Invited | None],
        overlay: Callable[[bytes], OverlayInfo | None],
    ) -> None:
        self._local = local
        self._invited = invited
        self._overlay = overlay
        self._guests: OrderedDict[Hit, Bucket] = OrderedDict()
        self.counts: Counter[str] = Counter()

    def on_datagram(self, data: bytes, guest: Hit, now: float) -> bytes | None:
        """Answer ``guest``, if it asks anything, and not too often."""
        nonce = _read_question(data)
        if nonce is None or not self._may(guest, now):
            self.counts["malformed" if nonce is None else "too often"] += 1
            return None
        invited = self._invited(guest)
        info = self._overlay(invited.overlay) if invited is not None else None
        if invited is None or info is None:
            self.counts["refused"] += 1
            return encode([_NO, nonce])
        text = format_overlay(info).encode()
        if len(text) > MAX_FILE:
            self.counts["too long"] += 1
            return encode([_TOO_LONG, nonce])
        self.counts["handed out"] += 1
        proof = seal_welcome(invited.secret, guest, self._local, nonce + text)
        return encode([_WELCOME, nonce, text, proof])

    def _may(self, guest: Hit, now: float) -> bool:
        bucket = self._guests.get(guest)
        if bucket is None:
            if len(self._guests) >= MAX_GUESTS:
                self._guests.popitem(last=False)
            bucket = self._guests[guest] = Bucket(RATE, BURST, now)
        self._guests.move_to_end(guest)
        return bucket.spend(now)


@dataclass(frozen=True, slots=True)
class Request:
    """The guest's side: what was asked of one member.

    Attributes:
        local: the guest's HIT.
        member: whom it asks.
        secret: of its token.
        nonce: 8 bytes.
    """

    local: Hit
    member: Hit
    secret: bytes
    nonce: bytes

    def question(self) -> bytes:
        """What is sent."""
        return encode([_ASK, self.nonce])

    def read(self, data: bytes) -> OverlayInfo | None:
        """Read what came; None: it is no answer to this.

        Raises:
            CredentialsRefused: the answer is no, or not by one who knows the token.
        """
        if len(data) > MAX_ANSWER:
            raise CredentialsRefused(TOO_LONG)
        try:
            values = decode(data, MAX_ANSWER)
        except NotCanonical:
            return None
        match values:
            case [int(kind), bytes(nonce)] if kind == _NO and nonce == self.nonce:
                raise CredentialsRefused("this invitation is not known there, or has ended")
            case [int(kind), bytes(nonce)] if kind == _TOO_LONG and nonce == self.nonce:
                raise CredentialsRefused(TOO_LONG)
            case [int(kind), bytes(nonce), bytes(text), bytes(proof)] if (
                kind == _WELCOME and nonce == self.nonce
            ):
                pass
            case _:
                return None
        mine = seal_welcome(self.secret, self.local, self.member, nonce + text)
        if not hmac.compare_digest(mine, proof):
            raise CredentialsRefused("who answers does not know the invitation")
        try:
            return parse_overlay(text.decode())
        except UnicodeDecodeError:
            raise CredentialsRefused("the overlay's file is no text") from None


def _read_question(data: bytes) -> bytes | None:
    try:
        values = decode(data, 64)
    except NotCanonical:
        return None
    match values:
        case [int(kind), bytes(nonce)] if kind == _ASK and len(nonce) == NONCE_LENGTH:
            return nonce
        case _:
            return None
