"""Whether strangers learn our address, and what takes its place: servers, friends. Pure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

from hipctl import Hit
from overlay.servers import RELAYS, RENDEZVOUS_SERVERS, Wants

HEAD_START: Final = 3.0  # seconds for which a public address needs no servers before it is proven
HIDING: Final = 10.0  # seconds in which other servers may be found before our address is told
CUT_OFF: Final = 180.0  # seconds in which silence of all may be our own network's
UNSTEADY: Final = 3600.0  # seconds after which few may rely on their servers again
MOST_FRIENDS: Final = 8  # of whom the host counts no more


@dataclass(frozen=True, slots=True)
class Sight:
    """What the shell sees now.

    Attributes:
        network: this machine has an address.
        served: servers make us callable.
        relayed: data of ours goes through servers where that is wanted.
        known: any server is known.
        public: asked for whether we have an address that others could be told.
        many: there were more others than could all be friends.
        silent: asked for whether none of those whom we know has said anything since a time.
    """

    network: bool
    served: bool
    relayed: bool
    known: bool
    public: Callable[[], bool]
    many: bool
    silent: Callable[[float], bool]


class Hiding:
    """The state of one HIT.

    Attributes:
        since: when we came here, monotonic seconds.
        told: whoever begins with us may learn our address, too: we don't hide, and not only for
            the moment in which servers have not been found yet.

    Args:
        visible: whether strangers may see our address: without relays, rendezvous servers do.
        hides: whether contacts don't name our address, where servers make us callable without.
    """

    def __init__(self, *, visible: bool, hides: bool) -> None:
        self._visible, self._hides = visible, hides
        self.since = 0.0
        self.told = not hides
        self._asked = False  # somebody was asked for servers since
        self._hid_at: float | None = None  # when servers last made us callable while we hide
        self._silent_at = 0.0  # when we last seemed to be cut off from everybody
        self._lacked_at: float | None = None  # when there last were no servers for a while, here
        self._relayed_at = float("-inf")  # when servers last carried data of ours

    def on_network(self, now: float, *, moved: bool) -> None:
        """We begin, have slept, or are somewhere else: only then is it ``moved``."""
        self.since, self._asked = now, False
        if moved:
            self._lacked_at = None

    def on_searched(self, since: float, *, somebody: bool) -> None:
        """A search for servers has ended that began when ``since`` was so.

        Args:
            since: see there.
            somebody: there was a neighbour who could be asked.
        """
        self._asked |= somebody and since == self.since

    def hidden(self, sight: Sight, now: float) -> bool:
        """Whether strangers don't learn our address, which servers make needless.

        Where there are none, it is told: somebody must be able to call us. Among few, servers
        that come and go are some of themselves, and the address is what they find each other by
        when those sleep: it must be known by then.
        """
        if not self._hides:
            return False
        self.told = self._are_unsteady(sight, now)
        if self._must_hide(sight, now):
            return not self.told
        if now >= max(self.since, self._hid_at or self.since) + HIDING:
            self._lacked_at, self.told = now, True
        return False

    def secluded(self, sight: Sight, now: float, *, hidden: bool) -> bool:
        """Whether we hide also from whom we begin with; there must be relays for it, or soon be.

        Args:
            sight: see there.
            now: monotonic seconds.
            hidden: what ``hidden`` says now: whether strangers don't learn our address otherwise.
        """
        if sight.relayed or not sight.network:  # with the network servers may come back
            self._relayed_at = now
        if not self._hides:
            return False
        if not sight.network:  # else who is told of it hears us at once when it is back
            return True
        if hidden:
            return now < max(self.since, self._relayed_at, self._silent_at) + HIDING
        likely = sight.known or not self._asked
        looking = likely and not sight.served and now < self.since + HEAD_START
        return looking and not self._are_unsteady(sight, now)

    def _are_unsteady(self, sight: Sight, now: float) -> bool:
        """Whether we are few, whose servers were away lately."""
        lacked = self._lacked_at is not None and now < self._lacked_at + UNSTEADY
        return lacked and sight.network and not sight.many

    def _must_hide(self, sight: Sight, now: float) -> bool:
        """Whether servers make us callable, or may do so in a moment."""
        if sight.served:
            self._hid_at = now
        if not sight.network:  # nobody hears it now; with the network servers may come back
            self._hid_at = None if self._hid_at is None else now
            return True
        if self._hid_at is not None:
            if sight.many and now < self._hid_at + CUT_OFF and sight.silent(self._hid_at):
                self._silent_at = now  # servers may be back when we are
            return now < max(self._hid_at, self._silent_at) + HIDING
        likely = sight.known or not self._asked
        looking = likely and now < self.since + HEAD_START
        return looking and sight.public()

    def ways(
        self, proven: bool | None, public: Callable[[], bool], now: float
    ) -> tuple[Wants, ...]:
        """By which servers we want to be called; one of these ways will do.

        Args:
            proven: whether strangers reach our own address; None: not known.
            public: see Sight.
            now: monotonic seconds.
        """
        if proven and not self._hides:
            return ()
        early = proven is None and now - self.since < HEAD_START
        if early and not self._hides and public():
            return ()
        # What passes a rendezvous server we answer directly, and a caller's NAT, which has seen
        # nothing leave for us, drops that. What a server once was to us it stays as long as our
        # association with it lives: so relays come first also where nobody has told us yet.
        return (RELAYS, RENDEZVOUS_SERVERS) if self._visible else (RELAYS,)


def in_turn(met: Iterable[Iterable[Hit]]) -> list[Hit]:
    """Those whom we met in each overlay, from each in turn: a large one leaves a small its share.

    Args:
        met: by overlay, in whatever order counts there.
    """
    turns = (hit for turn in zip_longest(*met) for hit in turn if hit is not None)
    return list(dict.fromkeys(turns))


def befriended(met: Sequence[Hit], *, many: bool, served: bool) -> tuple[Hit, ...]:
    """With whom a way is kept open by ourselves, for whom strangers don't reach.

    In an overlay of few that is everybody: no server need be awake when two of them are. In a
    larger one it is those whom we heard last, as long as no server makes us callable.

    Args:
        met: everybody of whom we know, see ``in_turn``, the latest first.
        many: there were more than could all be befriended.
        served: servers make us callable.
    """
    if many and served:
        return ()
    return tuple(sorted(met[:MOST_FRIENDS]))
