"""What this host does for others: registrar, rendezvous, control relay and data relay together."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from hipctl import params
from hipctl.actions import Action, Address, Pair, Path, PortsChanged, Relayed
from hipctl.clients import Client
from hipctl.constants import RegistrationFailure, RegistrationType
from hipctl.crypto import Keys
from hipctl.datarelay import DataRelay
from hipctl.errors import Rejected
from hipctl.identity import Hit, HostIdentity
from hipctl.interface import Offer, Served
from hipctl.limits import Limiter
from hipctl.packet import Packet
from hipctl.registrar import Asked, Registrar
from hipctl.relay import Relay
from hipctl.settings import EngineConfig

_AT_ONCE: Final = 64  # hosts that are told news at once,
_PAUSE: Final = 0.25  # seconds before the next
_PORTS_AT_HAND: Final = 16
_QUIET: Final = 30.0  # seconds before we say again that there is room
_READ: Final[tuple[type[params.Parameter], ...]] = (
    params.RegInfo,
    params.RegRequest,
    params.RegResponse,
    params.RegFailed,
    params.RegFrom,
    params.RelayedAddress,
    params.PeerPermission,
)

Tell = Callable[[Pair, Sequence[params.Parameter], float], list[Action] | None]
"""``tell(pair, parameters, now)`` sends an UPDATE; None: there is no association."""


class Serving:
    """The server's end of everything.

    Attributes:
        data: relayed addresses and flows.
        registrar: who is registered.
        relay: forwards control packets.
    """

    def __init__(
        self,
        identities: Mapping[Hit, HostIdentity],
        config: EngineConfig,
        counters: Counter[str],
        ours: Mapping[int, object],
        notify_limit: Limiter,
    ) -> None:
        self.data = DataRelay(ours, counters)
        self.registrar = Registrar(self.data)
        self.relay = Relay(self.registrar, self.data, identities, config, counters, notify_limit)
        self._counters = counters
        self._news: OrderedDict[Pair, params.RegResponse | None] = OrderedDict()
        self._news_at = 0.0
        self._full: frozenset[int] = frozenset()  # types that our REG_INFO leaves out
        self._look_at = 0.0

    # -- from above ----------------------------------------------------------------------------

    def offer(
        self, offers: Mapping[RegistrationType, Offer], pairs: Iterable[Pair], now: float
    ) -> None:
        """Offer this from now on, and tell all of our associations (RFC 8003 §3.1)."""
        before = self.info()
        self.data.changed = True
        ended = self.registrar.offer(offers, now)
        if before != self.info():
            self._spread(pairs, now)
        self._news |= dict(ended)

    def info(self, pair: Pair | None = None) -> params.RegInfo | None:
        """REG_INFO as it stands now."""
        return self.registrar.info(pair)

    @property
    def ports_wanted(self) -> int:
        """How many more relayed addresses there should be at hand."""
        if self.data.shared is not None:
            return 0
        room = self.registrar.room(RegistrationType.RELAY_UDP_ESP)
        return max(0, min(_PORTS_AT_HAND, room) - self.data.free)

    def share(self, address: Address | None, now: float) -> None:
        """All clients of the data relay share this relayed address from now on; None: none.

        Who has another one is told that it is not served any more, and may register again.
        """
        if address == self.data.shared:
            return
        ended = self.registrar.end_elsewhere(address)
        self.data.share(address)
        self._news |= dict(ended)
        self._news_at = now

    def served(self) -> list[Served]:
        """See ``interface.Host``."""
        return self.registrar.served()

    def _spread(self, pairs: Iterable[Pair], now: float) -> None:
        self._full = self.registrar.full()
        for pair in pairs:
            self._news.setdefault(pair, None)
        self._news_at = now

    def _notice_full(self, now: float) -> None:
        full = self.registrar.full()
        if full - self._full:
            self._look_at = max(self._look_at, now + _QUIET)
            self._full |= full

    # -- from associations ---------------------------------------------------------------------

    def screen(self, pair: Pair, packet: Packet) -> None:
        """Whether an UPDATE may be processed at all (RFC 9028 §4.12.1).

        Raises:
            MalformedPacket: what it says of registrations is not well formed.
            Rejected: it names peers, and its sender is no client of our data relay.
        """
        for kind in _READ:
            packet.every(kind)
        if packet.has(params.PeerPermission):
            client = self.registrar.of(pair)
            if client is None or RegistrationType.RELAY_UDP_ESP not in client.accounts:
                raise Rejected("PEER_PERMISSION of one who is not registered")

    def answer(
        self, pair: Pair, packet: Packet, asked: Asked, now: float
    ) -> list[params.Parameter]:
        """What our answer to an authentic I2 or UPDATE says of registrations.

        Args:
            pair: of the association.
            packet: an I2, or an UPDATE that we see for the first time.
            asked: what is known of its sender.
            now: monotonic seconds.

        Raises:
            MalformedPacket: a REG_REQUEST is not well formed.
        """
        requests = packet.every(params.RegRequest)
        said: list[params.Parameter] = []
        if requests or asked.fresh:
            said = self.registrar.judge(pair, requests, asked, now)
            self._notice_full(now)
            for refused in said:
                if isinstance(refused, params.RegFailed):
                    name = RegistrationFailure(refused.reason).name.replace("_", " ").lower()
                    self._counters[f"registration refused: {name}"] += len(refused.types)
        client = self.registrar.of(pair)
        if (
            client is not None
            and client.expires
            and not any(isinstance(parameter, params.RegFrom) for parameter in said)
        ):  # in all responses to clients, of the control relay at least (RFC 9028 §4.1)
            said.append(params.RegFrom(asked.source))
        return said

    def permit(self, pair: Pair, packet: Packet, now: float) -> bool:
        """Take the PEER_PERMISSIONs of a new UPDATE; False: one was refused.

        They are for peers of which the client has got a check already, or an answer to one: what
        speaks no HIP is sent no data, which need not be ESP. Other clients of ours do.

        Raises:
            MalformedPacket: one is not well formed.
        """
        client = self.registrar.of(pair)
        permitted = True
        for asked in packet.every(params.PeerPermission) if client is not None else ():
            try:
                if client is None or not self.relay.may_send(client, asked.peer, now):
                    raise Rejected("PEER_PERMISSION for where nothing may be sent")
                if not self._speaks(client, asked.peer, now):
                    raise Rejected("PEER_PERMISSION for who has not spoken with the client")
                self.data.permit(client, asked, now)
            except Rejected as error:
                self._counters[error.reason] += 1
                permitted = False
        return permitted

    def _speaks(self, client: Client, peer: Address, now: float) -> bool:
        known = self.data.lent(peer) or self.data.allows(client, peer)
        return known or self.relay.heard(client, peer, now)

    def relocated(
        self, pair: Pair, packet: Packet, listed: Sequence[params.Locator], source: Address
    ) -> None:
        """A client says where it is: at new addresses it names its peers anew (RFC 9028 §4.12.1).

        If these are what it has said before, only its NAT has moved it.
        """
        client = self.registrar.of(pair)
        if client is None:
            return
        before, client.listed = client.listed, {(found.ip, found.port) for found in listed}
        elsewhere = client.path is None or client.path.to != source
        new = client.listed != before if before else source in client.listed
        if elsewhere and new and not packet.has(params.PeerPermission):
            self.data.deactivate(client)

    def moved(self, pair: Pair, path: Path | None) -> None:
        """The client is reached along another path; None: nobody has answered there yet."""
        through = path is not None and isinstance(path.to, Relayed)
        self.registrar.moved(pair, None if through else path)

    def keyed(self, pair: Pair, keys: Keys, path: Path, now: float, *, began: bool) -> None:
        """An exchange has ended; ``began``: by us, so that no R1 has said what we offer."""
        self.registrar.keyed(pair, keys, path)
        if began and self.info() is not None:
            self._news.setdefault(pair, None)
            self._news_at = max(self._news_at, now)

    def lost(self, pair: Pair) -> None:
        """There is no association any more."""
        self._news.pop(pair, None)
        self.registrar.lost(pair)

    def holds(self, pair: Pair) -> bool:
        """Whether the association is to stay though nobody uses it."""
        return self.registrar.of(pair) is not None

    # -- time ----------------------------------------------------------------------------------

    def deadline(self) -> float | None:
        """See sansio.Machine."""
        if self.data.changed:
            return 0.0
        ends = [self.registrar.deadline(), self.data.deadline()]
        if self._news:
            ends.append(self._news_at)
        if self._full:
            ends.append(self._look_at)
        return min((at for at in ends if at is not None), default=None)

    def on_time(self, now: float, pairs: Callable[[], Iterable[Pair]], tell: Tell) -> list[Action]:
        """See sansio.Machine.

        Args:
            now: monotonic seconds.
            pairs: our associations.
            tell: sends UPDATEs.
        """
        self.registrar.on_time(now)
        self.data.on_time(now, self.registrar.of)
        if self._full and now >= self._look_at:
            self._look_at = now + _QUIET
            if self._full - self.registrar.full():  # there is room again (RFC 8003 §3.1)
                self._spread(pairs(), now)
        actions: list[Action] = [PortsChanged()] if self.data.changed else []
        self.data.changed = False
        if self._news and self._news_at <= now:
            for _ in range(min(_AT_ONCE, len(self._news))):
                pair, ended = self._news.popitem(last=False)
                said = self.info(pair) or params.RegInfo(0, 0, ())
                more = [ended] if ended is not None else []
                actions += tell(pair, [said, *more], now) or []
            self._news_at = now + _PAUSE
        return actions
