"""Who is registered with us, and for what: the server's end of RFC 8003.

Types are those of RFC 8004 and RFC 9028: rendezvous, control relay, data relay, and the question
where we see somebody. What is granted ends with its lifetime, when the client or we cancel it, and
with the association. Of rendezvous and control relay a client has one, as long as its association
lasts (RFC 9028 §7.8).
"""

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from hipctl import params
from hipctl.actions import Address, Pair, Path
from hipctl.clients import Account, Client
from hipctl.constants import REGISTRATION_LEAST, RegistrationFailure, RegistrationType
from hipctl.contact import is_public
from hipctl.crypto import Keys
from hipctl.identity import Hit
from hipctl.interface import Offer, Served
from hipctl.limits import Allowance, network
from hipctl.params_registration import decode_lifetime, encode_lifetime

RELAYS: Final = frozenset({RegistrationType.RELAY_UDP_HIP, RegistrationType.RELAY_UDP_ESP})
EXCLUSIVE: Final = frozenset({RegistrationType.RENDEZVOUS, RegistrationType.RELAY_UDP_HIP})
LEAST: Final = encode_lifetime(REGISTRATION_LEAST)

_CROWD_LEAST: Final = 16  # registrations that one network may have though others want some, too,
_CROWD_SHARE: Final = 8  # and beyond one in so many, as soon as half of all are taken
_CONTROL_SHARE: Final = 0.1  # of the relays' total, which data leaves to control packets
_ALARMS_LEAST: Final = 64  # that may wait before we look which of them are for nothing


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks, and what speaks for it.

    Attributes:
        keys: of the association.
        source: where the request came from.
        path: how the client is reached, see Client.
        shown: it has shown credentials that our policy accepts.
        bad: why the credentials in this packet don't count, if it has some that don't.
        fresh: the request came in I2: what was granted before is gone unless it is asked again.
        relayed: it came through a control relay: we'd forward to where that one forwards.
    """

    keys: Keys
    source: Address
    path: Path | None
    shown: bool = False
    bad: RegistrationFailure | None = None
    fresh: bool = False
    relayed: bool = False


class Opener(Protocol):
    """Opens addresses for clients of the data relay."""

    def open(self, client: Client) -> Address | None:
        """An address for ``client``; None: there is none left."""

    def close(self, client: Client) -> None:
        """The client's address is not needed any more."""

    def moved(self, client: Client) -> None:
        """The client's path is another one."""

    def deactivate(self, client: Client) -> None:
        """Its peers have to be named anew (RFC 9028 §4.12.1)."""


class Registrar:
    """All registrations with one host.

    Attributes:
        known: whether a HIT is on a list of those who may associate with us: then its
            credentials are no matter (RFC 8003 §3.3).
    """

    def __init__(self, opener: Opener) -> None:
        self.known: Callable[[Hit], bool] = lambda _: False
        self._opener = opener
        self._offers: dict[int, Offer] = {}
        self._totals: dict[int, Allowance] = {}
        self._clients: dict[Pair, Client] = {}
        self._by_type: dict[int, dict[Hit, Client]] = {kind: {} for kind in RegistrationType}
        self._chosen: dict[Pair, int] = {}  # rendezvous or control relay, for good
        self._crowds: Counter[tuple[int, str]] = Counter()  # registrations by type and network
        self._alarms: list[tuple[float, int, Pair]] = []
        self._alarm_number = 0
        self._alarms_max = _ALARMS_LEAST

    # -- what we offer -------------------------------------------------------------------------

    def offer(
        self, offers: Mapping[RegistrationType, Offer], now: float
    ) -> list[tuple[Pair, params.RegResponse]]:
        """Offer this from now on.

        Returns:
            Who has to be told that its registration has ended, and how.
        """
        self._offers = {int(kind): offer for kind, offer in offers.items()}
        self._totals = {
            kind: Allowance(offer.total_packets, offer.total_bandwidth, now)
            for kind, offer in self._offers.items()
        }
        relays = [self._offers[kind] for kind in RELAYS if kind in self._offers]
        packets = _least(offer.total_packets for offer in relays)
        together = Allowance(packets, _least(offer.total_bandwidth for offer in relays), now)
        self._totals |= {int(kind): together for kind in RELAYS}
        told = []
        for client in list(self._clients.values()):
            ended = tuple(kind for kind in client.expires if kind not in self._offers)
            for kind in ended:
                self._end(client, kind)
            if ended:
                told.append((client.pair, params.RegResponse(0, ended)))
            for kind, account in client.accounts.items():
                account.limit(*self._limits(kind, now))
        return told

    def info(self, pair: Pair | None = None) -> params.RegInfo | None:
        """REG_INFO for R1, or for the peer of an association; None: we are no registrar."""
        if not self._offers:
            return None
        types = [kind for kind in self._offers if not self._full(kind)]
        if RELAYS & set(types):
            types = [*dict.fromkeys((*types, RegistrationType.CANDIDATE_DISCOVERY))]
        if pair is not None and pair in self._chosen:
            other = EXCLUSIVE - {self._chosen[pair]}
            types = [kind for kind in types if kind not in other]
        most = max(encode_lifetime(offer.lifetime) for offer in self._offers.values())
        return params.RegInfo(LEAST, max(LEAST, most), tuple(sorted(types)))

    def full(self) -> frozenset[int]:
        """Types that are offered, but not at the moment."""
        return frozenset(kind for kind in self._offers if self._full(kind))

    def _full(self, kind: int) -> bool:
        return len(self._by_type.get(kind, ())) >= self._offers[kind].clients

    def _limits(self, kind: int, now: float) -> tuple[Allowance, Allowance, float]:
        offer = self._offers[kind]
        own = Allowance(offer.packets, offer.bandwidth, now, offer.burst)
        kept = _CONTROL_SHARE if kind == RegistrationType.RELAY_UDP_ESP else 0.0
        return own, self._totals[kind], kept

    # -- what is asked -------------------------------------------------------------------------

    def judge(
        self, pair: Pair, requests: Sequence[params.RegRequest], asked: Asked, now: float
    ) -> list[params.Parameter]:
        """Grant or refuse what an authentic I2 or UPDATE asks for.

        Args:
            pair: (our HIT, the client's).
            requests: its REG_REQUESTs; a client must not send several, but may (RFC 8003 §4.3).
            asked: who asks.
            now: monotonic seconds.

        Returns:
            One REG_RESPONSE at most, a REG_FAILED a reason, REG_FROM, RELAYED_ADDRESS.
        """
        wanted: dict[int, int] = {}
        for request in requests:
            wanted |= dict.fromkeys(request.types, request.lifetime)
        cancelled = self._cancel(pair, wanted, asked)
        self._choose(pair, wanted)
        granted: dict[int, int] = {}
        failed: dict[int, list[int]] = {}
        for kind, lifetime in wanted.items():
            failure = self._refusal(pair, kind, asked) if lifetime else None
            if failure is not None:
                failed.setdefault(failure, []).append(kind)
                self._end_if_any(pair, kind)
            elif lifetime:
                granted[kind] = self._lifetime(kind, lifetime)
        self._grant(pair, granted, failed, asked, now)
        return self._answer(pair, granted, failed, cancelled, asked)

    def _cancel(self, pair: Pair, wanted: Mapping[int, int], asked: Asked) -> tuple[int, ...]:
        """End what is not wanted any more; return what that was said of."""
        client = self._clients.get(pair)
        if asked.fresh:
            self._chosen.pop(pair, None)
            for kind in [*client.expires] if client is not None else ():
                if kind not in wanted:
                    self._end_if_any(pair, kind)
        cancelled = tuple(kind for kind, lifetime in wanted.items() if not lifetime)
        for kind in cancelled:
            self._end_if_any(pair, kind)
        return cancelled

    def _answer(
        self,
        pair: Pair,
        granted: Mapping[int, int],
        failed: Mapping[int, Sequence[int]],
        cancelled: tuple[int, ...],
        asked: Asked,
    ) -> list[params.Parameter]:
        answer: list[params.Parameter] = []
        if granted:
            answer.append(params.RegResponse(min(granted.values()), tuple(granted)))
        elif cancelled:
            answer.append(params.RegResponse(0, cancelled))
        answer += [params.RegFailed(reason, tuple(kinds)) for reason, kinds in failed.items()]
        if granted:  # of rendezvous, too: behind a NAT a client must know when it is elsewhere
            answer.append(params.RegFrom(asked.source))
        client = self._clients.get(pair)
        relayed = client.relayed if client is not None else None
        if relayed and RegistrationType.RELAY_UDP_ESP in granted:
            answer.append(params.RelayedAddress(relayed))
        return answer

    def _choose(self, pair: Pair, wanted: Mapping[int, int]) -> None:
        """Of the exclusive ones one; who asks for both gets the relay (RFC 9028 §7.8)."""
        for kind in (RegistrationType.RELAY_UDP_HIP, RegistrationType.RENDEZVOUS):
            if wanted.get(kind) and kind in self._offers:
                self._chosen.setdefault(pair, kind)

    def _refusal(self, pair: Pair, kind: int, asked: Asked) -> RegistrationFailure | None:
        discovery = kind == RegistrationType.CANDIDATE_DISCOVERY
        offer = self._offers.get(kind)
        if offer is None and discovery and RELAYS & self._offers.keys():
            return None
        if offer is None or asked.relayed:
            return RegistrationFailure.TYPE_UNAVAILABLE
        if kind in EXCLUSIVE and self._chosen.get(pair) != kind:
            return RegistrationFailure.RENDEZVOUS_WITH_CONTROL_RELAY
        if (
            offer.credentials
            and not self.known(pair[1])
            and not (asked.shown and asked.bad is None)
        ):
            return asked.bad or RegistrationFailure.CREDENTIALS_REQUIRED
        there = discovery or pair[1] in self._by_type[kind]
        if not there and (self._full(kind) or self._crowded(kind, asked.source[0])):
            return RegistrationFailure.INSUFFICIENT_RESOURCES
        return None

    def _crowded(self, kind: int, ip: str) -> bool:
        """Whether its network has its share: who has many HITs must leave some for others."""
        most = self._offers[kind].clients
        if 2 * len(self._by_type[kind]) < most or not is_public(ip):
            return False
        return self._crowds[kind, network(ip)] >= max(_CROWD_LEAST, most // _CROWD_SHARE)

    def _lifetime(self, kind: int, lifetime: int) -> int:
        offer = self._offers.get(kind)
        most = max(LEAST, encode_lifetime(offer.lifetime if offer else REGISTRATION_LEAST))
        return min(max(lifetime, LEAST), most)

    def _grant(
        self,
        pair: Pair,
        granted: dict[int, int],
        failed: dict[int, list[int]],
        asked: Asked,
        now: float,
    ) -> None:
        kinds = [kind for kind in granted if kind != RegistrationType.CANDIDATE_DISCOVERY]
        if not kinds:
            return
        client = self._clients.get(pair)
        if client is None:
            client = self._clients[pair] = Client(pair, asked.keys, asked.path)
        elif asked.fresh:
            client.keys = asked.keys
            self._opener.deactivate(client)
        if asked.path is not None and asked.path != client.path:
            client.path = asked.path
            self._opener.moved(client)
        if RegistrationType.RELAY_UDP_ESP in kinds and client.relayed is None:
            client.relayed = self._opener.open(client)
            if client.relayed is None:
                kinds.remove(RegistrationType.RELAY_UDP_ESP)
                del granted[RegistrationType.RELAY_UDP_ESP]
                short = failed.setdefault(RegistrationFailure.INSUFFICIENT_RESOURCES, [])
                short.append(RegistrationType.RELAY_UDP_ESP)
        lifetime = min(granted.values(), default=0)
        for kind in kinds:
            elsewhere = self._by_type[kind].get(pair[1])
            if elsewhere is not None and elsewhere is not client:
                self._end(elsewhere, kind)  # with another HIT of ours: the newer one counts
            self._by_type[kind][pair[1]] = client
            self._count(client, kind, network(asked.source[0]))
            client.expires[kind] = now + decode_lifetime(lifetime)
            if kind not in client.accounts:
                client.accounts[kind] = Account(*self._limits(kind, now))
        self._settle(client)

    # -- what ends -----------------------------------------------------------------------------

    def end_elsewhere(self, relayed: Address | None) -> list[tuple[Pair, params.RegResponse]]:
        """End the data relay for whoever has another relayed address than this one.

        Returns:
            Who has to be told, and how.
        """
        kind = RegistrationType.RELAY_UDP_ESP
        clients = [*self._by_type[kind].values()]
        gone = [client for client in clients if client.relayed != relayed]
        for client in gone:
            self._end(client, kind)
        return [(client.pair, params.RegResponse(0, (kind,))) for client in gone]

    def _end_if_any(self, pair: Pair, kind: int) -> None:
        client = self._clients.get(pair)
        if client is not None:
            self._end(client, kind)

    def _end(self, client: Client, kind: int) -> None:
        if client.expires.pop(kind, None) is None:
            return
        del self._by_type[kind][client.hit]
        del client.accounts[kind]
        self._count(client, kind, None)
        if kind == RegistrationType.RELAY_UDP_ESP:
            self._opener.close(client)
            client.relayed = None
        self._settle(client)

    def _count(self, client: Client, kind: int, where: str | None) -> None:
        """Count it with its network, and no more with the one before."""
        before = client.networks.pop(kind, None)
        if before is not None:
            self._crowds[kind, before] -= 1
            if not self._crowds[kind, before]:
                del self._crowds[kind, before]
        if where is not None:
            client.networks[kind] = where
            self._crowds[kind, where] += 1

    def _settle(self, client: Client) -> None:
        """Forget a client without registrations; have an alarm for one that has some."""
        if not client.expires:
            self._clients.pop(client.pair, None)
            return
        at = min(client.expires.values())
        if client.alarm is None or at < client.alarm:
            client.alarm = at
            self._alarm_number += 1
            heapq.heappush(self._alarms, (at, self._alarm_number, client.pair))
            if len(self._alarms) > self._alarms_max:
                self._sweep()

    def _sweep(self) -> None:
        """Forget alarms of those who are gone: who comes and goes must not fill our memory."""
        due = [(client.alarm, pair) for pair, client in self._clients.items()]
        self._alarms = [(at, i, pair) for i, (at, pair) in enumerate(due) if at is not None]
        heapq.heapify(self._alarms)
        self._alarms_max = max(_ALARMS_LEAST, 2 * len(self._alarms))

    def lost(self, pair: Pair) -> None:
        """There is no association any more."""
        self._chosen.pop(pair, None)
        client = self._clients.get(pair)
        if client is not None:
            for kind in [*client.expires]:
                self._end(client, kind)

    def deadline(self) -> float | None:
        """See sansio.Machine."""
        return self._alarms[0][0] if self._alarms else None

    def on_time(self, now: float) -> None:
        """End what has expired."""
        while self._alarms and self._alarms[0][0] <= now:
            at, _, pair = heapq.heappop(self._alarms)
            client = self._clients.get(pair)
            if client is None or client.alarm != at:
                continue
            client.alarm = None
            for kind in [kind for kind, end in client.expires.items() if end <= now]:
                self._end(client, kind)
            self._settle(client)

    # -- what changes --------------------------------------------------------------------------

    def keyed(self, pair: Pair, keys: Keys, path: Path) -> None:
        """The association has other keys now, by an exchange that we began or answered."""
        client = self._clients.get(pair)
        if client is not None:
            client.keys = keys
            self.moved(pair, path)

    def moved(self, pair: Pair, path: Path | None) -> None:
        """The client is elsewhere; None: it says so, but nobody has answered there yet."""
        client = self._clients.get(pair)
        if client is not None and client.path != path:
            client.path = path
            self._opener.moved(client)

    # -- who is there --------------------------------------------------------------------------

    def client(self, hit: Hit, kind: RegistrationType) -> Client | None:
        """Who is registered for that with this HIT."""
        return self._by_type[kind].get(hit)

    def of(self, pair: Pair) -> Client | None:
        """The client of an association, if it is registered for anything."""
        return self._clients.get(pair)

    def count(self, kind: RegistrationType) -> int:
        """How many are registered for that."""
        return len(self._by_type[kind])

    def offers(self, kind: RegistrationType) -> bool:
        """Whether we offer that at all."""
        return kind in self._offers

    def room(self, kind: RegistrationType) -> int:
        """How many more may register for that."""
        offer = self._offers.get(kind)
        return 0 if offer is None else max(0, offer.clients - self.count(kind))

    def served(self) -> list[Served]:
        """See ``interface.Host``."""
        return [
            Served(
                client.hit,
                RegistrationType(kind),
                client.expires[kind],
                account.packets,
                account.bytes,
                account.dropped,
            )
            for client in self._clients.values()
            for kind, account in client.accounts.items()
        ]


def _least(limits: Iterable[float]) -> float:
    """The least of several limits, of which 0 is none."""
    return min((limit for limit in limits if limit), default=0.0)
