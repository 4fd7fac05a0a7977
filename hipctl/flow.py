"""Whether an association carries a call, and whether that still hears its peer (RFC 8047 §4.1).

Where it doesn't though the path works, ``Echoing`` shows whether the path carries data at all.
"""

from typing import Final

CALL_RATE: Final = 5.0  # packets a second, each way, that make a flow call-like
_CALL_PAUSE: Final = 2.0  # seconds without sending that end it
_PATIENCE_MAX: Final = 16.0  # seconds: a stream that nobody answers is not probed all the time
ECHO_GAP: Final = 0.5  # seconds between two echoes
_ECHOES: Final = 3  # that nobody answers, in …
_ECHO_PATIENCE: Final = 2.0  # … at least so many seconds: the path carries no data
_REST_FIRST, _REST_MAX = 2.0, 600.0  # seconds until it is asked again after that


class Flow:
    """Looks at the counts of packets every now and then.

    Attributes:
        call: packets have gone both ways at the rate of a call, and still do our way.
        active: something was sent or received between the last two looks.
        heard: the peer was heard since the look before the last.
        unheard: we have sent something, and then nothing has come for ``silence`` seconds; said
            once, until more is sent.
    """

    __slots__ = (
        "_asked_at",
        "_busy_at",
        "_looked",
        "_patience",
        "_searched_at",
        "_silence",
        "active",
        "call",
        "heard",
        "unheard",
    )

    def __init__(self, silence: float, now: float) -> None:
        """Begin; ``silence``: seconds without hearing a call's peer that are too many."""
        self.call = self.active = self.heard = self.unheard = False
        self._asked_at: float | None = None  # when we saw that something was sent, not heard since
        self._silence = self._patience = silence
        self._looked = (now, 0, 0)  # when, packets sent, packets received
        self._busy_at = self._searched_at = now

    def restart(self, now: float) -> None:
        """The SAs are other ones now: packets are counted anew."""
        self._looked = (now, 0, 0)

    def look(
        self, sent: int, received: int, heard_at: float, now: float, *, asked: bool = False
    ) -> bool:
        """Take the counts; True: a call has not heard its peer for too long, so search.

        Args:
            sent: packets under the SA.
            received: the same.
            heard_at: when one came last.
            now: monotonic seconds.
            asked: what came may be an echo: the path works, and the peer is as silent as before.
        """
        since, sent_before, received_before = self._looked
        self._looked = (now, sent, received)
        self.active = (sent, received) != (sent_before, received_before)
        least = CALL_RATE * (now - since)
        busy = sent - sent_before >= least > 0
        if busy:
            self._busy_at = now
            self.call |= received - received_before >= least
        elif now - self._busy_at > _CALL_PAUSE:
            self.call = False
        self.heard = heard_at > since
        if self.heard:
            self._patience = self._patience if asked else self._silence
            self._searched_at, self._asked_at = heard_at, None
        elif self._asked_at is None and sent > sent_before:
            self._asked_at = now
        self.unheard = self._asked_at is not None and now - self._asked_at >= self._silence
        if self.unheard:
            self._asked_at = None
        quiet = now - max(heard_at, self._searched_at)
        if not (self.call and busy) or quiet < self._patience:
            return False
        self._search(now)
        return True

    def doubts(self, heard_at: float, now: float) -> bool:
        """The peer asks who is there; True: we don't hear it either, so search.

        It has noticed first. Once it speaks along another path we hear it again, and would not
        notice that it doesn't hear us.
        """
        quiet = now - max(heard_at, self._searched_at)
        if not self.call or quiet < self._silence / 2:
            return False
        self._search(now)
        return True

    def _search(self, now: float) -> None:
        self._patience = min(self._patience * 2, _PATIENCE_MAX)
        self._searched_at = now


class Echoing:
    """Asks for echoes inside ESP where what we send is not answered.

    A peer that has nothing to say answers them all the same, also in a call that is on hold. One
    that never does costs us a search now and then, and ever more rarely.

    Attributes:
        due: an echo is to be sent now.
        asking: since when echoes are sent that nobody has answered, monotonic seconds.
    """

    __slots__ = ("_not_before", "_rest", "_sent", "_sent_at", "asking", "due")

    def __init__(self) -> None:
        self.due = False
        self.asking: float | None = None
        self._sent, self._sent_at = 0, float("-inf")
        self._rest = _REST_FIRST
        self._not_before = float("-inf")

    def awaits(self, now: float) -> bool:
        """Whether what comes now may be an echo; far away they come late, several at a time."""
        return self.asking is not None or now - self._sent_at < _ECHO_PATIENCE

    def restart(self) -> None:
        """The path is another one now: what was sent along the one before says nothing of it."""
        self.due, self.asking = False, None

    def look(self, *, heard: bool, doubted: bool, now: float) -> bool:
        """See how it stands; True: nothing that we send along the path is answered.

        Args:
            heard: data of the peer's came since the last look.
            doubted: some should have come by now.
            now: monotonic seconds.
        """
        self.due = False
        if heard:
            self.asking, self._rest, self._not_before = None, _REST_FIRST, float("-inf")
        elif self.asking is None:
            if doubted and now >= self._not_before:
                self.asking, self._sent, self._sent_at, self.due = now, 1, now, True
        elif self._sent >= _ECHOES and now - self.asking >= _ECHO_PATIENCE:
            self.asking, self._not_before = None, now + self._rest
            self._rest = min(2 * self._rest, _REST_MAX)
            return True
        elif now - self._sent_at >= ECHO_GAP:
            self._sent, self._sent_at, self.due = self._sent + 1, now, True
        return False
