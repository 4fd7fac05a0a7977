"""What is sent until it is answered: I1, I2, CLOSE (RFC 7401 §6.6.1, §6.8, §6.14)."""

from typing import Final

from hipctl import exchange
from hipctl.actions import Address, Pair, Relayed, Transmit
from hipctl.constants import I1_ADDRESSES_MAX
from hipctl.state import Shared

_SAID_MAX: Final = 8  # addresses to which we remember when I1 was sent
_I1_PAUSE: Final = 1.0  # seconds at least between two I1s that somebody's wish brings about


class Attempt:
    """The attempt of ``pair`` to get an answer.

    Attributes:
        packet: what is sent.
        count: how often it was.
        quiet: nobody waits for it.
    """

    __slots__ = (
        "_pair",
        "_said",
        "_said_at",
        "_shared",
        "_turned_at",
        "_ways",
        "count",
        "packet",
        "quiet",
    )

    def __init__(self, pair: Pair, shared: Shared) -> None:
        self.packet = b""
        self.count = 0
        self.quiet = False
        self._ways: set[Address | None] = set()  # relays through which I1 went; None: straight
        self._pair = pair
        self._shared = shared
        self._said: dict[Address, float] = {}  # when I1 was sent there last, the latest last
        self._said_at = 0.0  # when the last I1 was sent
        self._turned_at = float("-inf")  # when one was that went where only the peer's came from

    def adopt(self) -> None:
        """An I1 is on its way already."""
        self.packet, self.count, self._ways = self.i1(), 1, {None}

    def begin(self, addresses: tuple[Address, ...], now: float) -> list[Transmit]:
        """Send I1 to all these; if there are none, as soon as we have a relay."""
        self.packet, self.count = self.i1(), 1
        self.quiet, self._said_at = False, now
        chosen = addresses[:I1_ADDRESSES_MAX]
        self._ways = {_way(address) for address in chosen}
        self._said = dict.fromkeys(chosen, now)
        return [Transmit(self.packet, address) for address in chosen]

    def go_on(self, packet: bytes) -> None:
        """This is to be sent now, and has not been."""
        self.packet, self.count = packet, 0

    def anew(self) -> None:
        """Somebody waits for it from now on."""
        self.quiet, self.count = False, 0

    def once(self) -> None:
        """What has been sent is not sent again, and nobody waits for an answer."""
        self.quiet, self.count = True, self._shared.config.retransmit_max

    def again(self, now: float) -> float:
        """It is being sent; return when that may be due next: the gaps double."""
        at = now + self._shared.config.retransmit_initial * 2.0**self.count
        self.count += 1
        return at

    # -- I1 ------------------------------------------------------------------------------------

    def i1(self) -> bytes:
        """Make one."""
        return exchange.make_i1(*self._pair, self._shared.config)

    def address(self, otherwise: Address) -> Address:
        """Each retransmission of I1 goes to the next address, and to one only (§6.6.1)."""
        addresses = self._shared.called(self._pair) or (otherwise,)
        return addresses[(self.count - 1) % len(addresses)]

    @property
    def held(self) -> bool:
        """Nothing was sent yet, for want of a relay of ours."""
        return not self._ways

    def untried(self) -> Address | None:
        """Where I1 gets by a way that it has not taken yet: there was no such way before."""
        there = self._shared.called(self._pair)
        return next((each for each in there if _way(each) not in self._ways), None)

    def mute(self, to: Address) -> bool:
        """Whether an I1 to there would show where we are to whom we hide from."""
        return self._shared.shuns(self._pair, to)

    def say(self, to: Address, now: float) -> list[Transmit]:
        """Send it to one address, whatever is due; to nobody from whom we could not hide so."""
        if self.mute(to):
            return []
        self._ways.add(_way(to))
        self._said_at = now
        self._said.pop(to, None)
        self._said[to] = now
        if len(self._said) > _SAID_MAX:
            del self._said[next(iter(self._said))]
        return [Transmit(self.packet, to)]

    def hurried(self, now: float) -> bool:
        """Whether I1 was sent a moment ago, so that whoever wants an answer has to wait."""
        return not (self.quiet or self.held) and now < self._said_at + _I1_PAUSE

    def crossed(self, source: Address, now: float) -> bool:
        """Whether an I1 of the peer's is no reason to send it again: they have crossed.

        That is so if ours was sent a moment ago to where the peer's came from. The peer may be
        elsewhere than we know, though, and both begin together again and again: then it is sent
        there, at the pace of retransmissions at most.
        """
        pause = self._shared.config.retransmit_initial
        if source in self._said:
            return now < self._said[source] + pause
        if now < self._turned_at + pause:
            return True
        self._turned_at = now
        return False


def _way(to: Address) -> Address | None:
    return to.via if isinstance(to, Relayed) else None
