"""Whom we knock at because a neighbour wants to know whether strangers can reach it.

A knock is a few I1s to the neighbour's own IP address (the host sees to that), so it can be aimed
at nobody else; here it is made rare. A request that comes again gets the same answer and no
second knock. Who names nothing to knock at is told where we see it.
"""

from collections import Counter, OrderedDict
from collections.abc import Collection
from enum import Enum
from typing import Final, NamedTuple

from hipctl import Hit
from overlay.messages import Code, Field, Kind, encode_answer, encode_error
from overlay.session import Bucket

KNOCK_SECONDS: Final = 2.0  # after which nobody has answered
EACH_RATE, EACH_BURST = 0.1, 4.0  # knocks a second at one neighbour …
ALL_RATE, ALL_BURST = 2.0, 8.0  # … and at all
MOST_AT_ONCE: Final = 8
MAX_NEIGHBOURS: Final = 1_024  # that are told apart
MAX_ANSWERS: Final = 256  # that are remembered, for requests that come again

ELSEWHERE: Final = "not at your address"  # why a knock is refused: what was asked is no use …
HIDES: Final = "it would show where we are"  # … or we hide from whoever asks …
UNDER_WAY, TOO_MANY = "a knock is under way", "too many knocks"  # … or it is too much

Request = tuple[Hit, bytes]
"""(who asks, request id)."""


class Knocked(Enum):
    """What it came to that we asked a neighbour to knock at us."""

    YES = "reached"
    NO = "not reached"
    ELSEWHERE = "it sees us at another address"
    HIDES = "it does not knock, for it hides"
    UNKNOWN = "it could not tell"
    SILENT = "it did not answer"


def knocked(reached: int | None, reasons: Collection[str]) -> Knocked:
    """Read what came back: REACHED of an answer, or why there is none."""
    if reached is not None:
        return Knocked.YES if reached else Knocked.NO
    if ELSEWHERE in reasons:
        return Knocked.ELSEWHERE
    if HIDES in reasons:
        return Knocked.HIDES
    refused = {UNDER_WAY, TOO_MANY, "unknown kind", "unsupported", "malformed"}
    return Knocked.UNKNOWN if refused & set(reasons) else Knocked.SILENT


def passes(verdicts: Collection[Knocked]) -> bool | None:
    """Whether a server passes on to us what strangers say, by what those said who knocked.

    Only who knocked can tell, and one that got through is enough; None: nobody could tell.
    """
    if Knocked.YES in verdicts:
        return True
    return False if Knocked.NO in verdicts else None


class KnockAt(NamedTuple):
    """Action: ``host.knock(hit, contact)``, then ``on_knocked`` with its result.

    Without a contact: ``host.sees(hit)``, likewise.
    """

    hit: Hit
    contact: bytes
    request_id: bytes


class Knocking:
    """Says which knocks are made, and how they are answered. Pure.

    Attributes:
        counters: of requests that were refused, by reason.
    """

    def __init__(self, counters: Counter[str]) -> None:
        self.counters = counters
        self._under_way: dict[Request, None] = {}
        self._answers: OrderedDict[Request, bytes] = OrderedDict()
        self._each: OrderedDict[Hit, Bucket] = OrderedDict()
        self._all = Bucket(ALL_RATE, ALL_BURST, 0.0)

    def on_asked(
        self, hit: Hit, request_id: bytes, contact: bytes, now: float
    ) -> KnockAt | bytes | None:
        """``hit`` asks us to knock at it.

        Args:
            hit: who asks.
            request_id: 8 bytes.
            contact: what to knock at; the host judges whether it may. Empty: at nothing.
            now: monotonic seconds.

        Returns:
            The knock to make, or the answer that is due at once, or nothing: one is under way.
        """
        request = hit, request_id
        if request in self._under_way:
            return None
        if request in self._answers:
            return self._answers[request]
        if any(asker == hit for asker, _ in self._under_way):
            return self._refuse(request_id, UNDER_WAY)
        if len(self._under_way) >= MOST_AT_ONCE or not self._may(hit, now):
            return self._refuse(request_id, TOO_MANY)
        self._under_way[request] = None
        return KnockAt(hit, contact, request_id)

    def on_knocked(self, hit: Hit, request_id: bytes, reached: bool | str | bytes) -> bytes:
        """What a knock came to, or why the host would not knock: ELSEWHERE or HIDES.

        Bytes: where we see who asked for none.

        Returns:
            The answer.
        """
        request = hit, request_id
        self._under_way.pop(request, None)
        if isinstance(reached, str):
            self.counters[f"no knock: {reached}"] += 1
            answer = encode_error(request_id, Code.REFUSED, reached)
        elif isinstance(reached, bytes):
            answer = encode_answer(Kind.KNOCK, request_id, {int(Field.SEEN): reached})
        else:
            answer = encode_answer(Kind.KNOCK, request_id, {int(Field.REACHED): int(reached)})
        self._answers[request] = answer
        if len(self._answers) > MAX_ANSWERS:
            self._answers.popitem(last=False)
        return answer

    def _may(self, hit: Hit, now: float) -> bool:
        bucket = self._each.get(hit)
        if bucket is None:
            if len(self._each) >= MAX_NEIGHBOURS:
                self._each.popitem(last=False)
            bucket = self._each[hit] = Bucket(EACH_RATE, EACH_BURST, now)
        self._each.move_to_end(hit)
        return bucket.spend(now) and self._all.spend(now)

    def _refuse(self, request_id: bytes, reason: str) -> bytes:
        self.counters[reason] += 1
        return encode_error(request_id, Code.BUSY, reason)
