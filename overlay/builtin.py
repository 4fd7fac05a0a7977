"""Services ``rvs`` and ``relay``: switch them on in the host, advertise them, tell who has them.

For peers that the Internet reaches: a profile names them, nobody else starts them.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Final
from weakref import WeakKeyDictionary

import msgspec

from hipctl import Host, Offer, RegistrationType
from overlay.config import check_table
from overlay.services import Peer

_BURST: Final = 4.0  # seconds: exchanges and checks come in crowds, and then for long not at all
MAX_SHOWN: Final = 100  # clients that a status tells singly
REFUSED: Final = "registration refused: "  # how the host's counters of refusals begin

Offers = Mapping[RegistrationType, Offer]


class RendezvousTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[overlay.X.services.rvs]``.

    Attributes:
        clients: registrations at most, 1–65,535.
        lifetime: seconds, the longest that is granted, 10–86,400.
        packets: a second and client; 0: no limit. A base exchange takes one.
        bandwidth: bytes a second and client, likewise.
        total_bandwidth: bytes a second of all clients together; 0: no limit.
        total_packets: likewise.
        members: only for whom one of our overlays lets in by what it has shown.
    """

    clients: int = 4_096
    lifetime: float = 600.0
    packets: float = 256.0
    bandwidth: float = 100_000.0
    total_bandwidth: float = 12_500_000.0
    total_packets: float = 50_000.0
    members: bool = False

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (key, what is wrong with it)."""
        yield from _problems(self)


class RelayTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[overlay.X.services.relay]``: a control relay and a data relay.

    Attributes:
        clients: registrations of each kind at most, 1–65,535.
        lifetime: seconds, the longest that is granted, 10–86,400.
        packets: data packets a second and client, both ways together; 0: no limit. A call takes
            about 100.
        bandwidth: bytes a second and client, likewise; a call takes about 25,000.
        control_packets: control packets a second and client, both ways together; 0: no limit.
            Who enters an overlay of 40 members takes about 60 for some seconds.
        control_bandwidth: bytes of them, likewise.
        total_bandwidth: bytes a second of all clients together, of data and control; 0: no limit.
        total_packets: likewise.
        members: only for whom one of our overlays lets in by what it has shown.
    """

    clients: int = 1_024
    lifetime: float = 600.0
    packets: float = 500.0
    bandwidth: float = 500_000.0
    control_packets: float = 256.0
    control_bandwidth: float = 100_000.0
    total_bandwidth: float = 12_500_000.0
    total_packets: float = 50_000.0
    members: bool = False

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (key, what is wrong with it)."""
        yield from _problems(self)
        yield from _unlimited(self, ("control_packets", "control_bandwidth"))


def _problems(table: RendezvousTable | RelayTable) -> Iterator[tuple[str, str]]:
    if not 1 <= table.clients <= 65_535:
        yield "clients", f"must be between 1 and 65535, not {table.clients}"
    if not 10 <= table.lifetime <= 86_400:
        yield "lifetime", f"must be between 10 and 86400 seconds, not {table.lifetime:g}"
    yield from _unlimited(table, ("packets", "bandwidth", "total_packets", "total_bandwidth"))


def _unlimited(
    table: RendezvousTable | RelayTable, keys: Iterable[str]
) -> Iterator[tuple[str, str]]:
    for key in keys:
        most = (1e10 if "bandwidth" in key else 1e6) * (10 if "total" in key else 1)
        if not 0 <= getattr(table, key) <= most:
            yield key, f"must be between 0 (no limit) and {most:g}"


class OfferBook:
    """What all services of one host offer: the host itself knows only the whole of it."""

    _all: ClassVar[WeakKeyDictionary[Host, "OfferBook"]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._offers: dict[object, Offers] = {}

    @classmethod
    def change(cls, host: Host, service: object, offers: Offers | None) -> None:
        """From now on ``service`` offers these; None: nothing any more."""
        book = cls._all.get(host)
        if book is None:
            book = cls._all[host] = cls()
        if offers is None:
            book._offers.pop(service, None)
        else:
            book._offers[service] = offers
        host.offer(book._together())

    def _together(self) -> dict[RegistrationType, Offer]:
        """Where two overlays of a peer offer the same, the greater limit holds."""
        found: dict[RegistrationType, Offer] = {}
        for offers in self._offers.values():
            for type_, offer in offers.items():
                found[type_] = _wider(found[type_], offer) if type_ in found else offer
        return found


def _wider(one: Offer, other: Offer) -> Offer:
    def most(a: float, b: float) -> float:
        return max(a, b) if a and b else 0.0

    return Offer(
        clients=max(one.clients, other.clients),
        lifetime=max(one.lifetime, other.lifetime),
        packets=most(one.packets, other.packets),
        bandwidth=most(one.bandwidth, other.bandwidth),
        total_bandwidth=most(one.total_bandwidth, other.total_bandwidth),
        total_packets=most(one.total_packets, other.total_packets),
        burst=max(one.burst, other.burst),
        credentials=one.credentials and other.credentials,
    )


class _Offered:
    """One service that the host itself does: its offers, its advertisement, its status."""

    def __init__(self, peer: Peer, kind: str, offers: Offers) -> None:
        self._peer = peer
        self._kind = kind
        self._offers = offers

    def start(self) -> None:
        """Offer and advertise it."""
        OfferBook.change(self._peer.host, self, self._offers)
        self._peer.advertise(self._kind, 0, self._room)

    async def stop(self) -> None:
        """Take both back; who is registered is told."""
        await self._peer.unadvertise(self._kind)
        OfferBook.change(self._peer.host, self, None)

    def _clients(self) -> dict[RegistrationType, int]:
        counts = dict.fromkeys(self._offers, 0)
        for served in self._peer.host.served():
            if served.type in counts:
                counts[served.type] += 1
        return counts

    def _room(self) -> int:
        """How many more it could serve."""
        counts = self._clients()
        return min(offer.clients - counts[type_] for type_, offer in self._offers.items())

    def status(self) -> dict[str, Any]:
        """Whom it serves, and how often it said no; JSON-ready."""
        served = [each for each in self._peer.host.served() if each.type in self._offers]
        served.sort(key=lambda each: -each.bytes)
        counters = self._peer.host.counters()
        return {
            "clients": {type_.name.lower(): n for type_, n in self._clients().items()},
            "room": self._room(),
            "refused": {
                name.removeprefix(REFUSED): count
                for name, count in counters.items()
                if name.startswith(REFUSED) and count
            },
            "served": [
                {
                    "hit": str(each.client),
                    "for": each.type.name.lower(),
                    "packets": each.packets,
                    "bytes": each.bytes,
                    "dropped": each.dropped,
                }
                for each in served[:MAX_SHOWN]
            ],
        }


def _offer(table: RendezvousTable | RelayTable) -> Offer:
    """What the keys say that both services have."""
    return Offer(
        clients=table.clients,
        lifetime=table.lifetime,
        packets=table.packets,
        bandwidth=table.bandwidth,
        total_bandwidth=table.total_bandwidth,
        total_packets=table.total_packets,
        credentials=table.members,
    )


class RendezvousService:
    """Service ``rvs``: lets who is registered be found by I1s (RFC 8004).

    Args:
        peer: who hosts it.
        table: see RendezvousTable.

    Raises:
        ConfigError: a key is unknown or out of range.
    """

    def __init__(self, peer: Peer, table: Mapping[str, Any]) -> None:
        checked = check_table(RendezvousTable, table, "services.rvs")
        offer = replace(_offer(checked), burst=_BURST)
        self._offered = _Offered(peer, "rvs", {RegistrationType.RENDEZVOUS: offer})

    async def start(self) -> None:
        """See Service."""
        self._offered.start()

    async def stop(self) -> None:
        """See Service."""
        await self._offered.stop()

    def status(self) -> Mapping[str, Any]:
        """See Service."""
        return self._offered.status()


class RelayService:
    """Service ``relay``: forwards control packets and ciphertext for who is registered (RFC 9028).

    Args:
        peer: who hosts it.
        table: see RelayTable.

    Raises:
        ConfigError: a key is unknown or out of range.
    """

    def __init__(self, peer: Peer, table: Mapping[str, Any]) -> None:
        checked = check_table(RelayTable, table, "services.relay")
        data = _offer(checked)
        control = replace(
            data,
            packets=checked.control_packets,
            bandwidth=checked.control_bandwidth,
            burst=_BURST,
        )
        offers = {RegistrationType.RELAY_UDP_HIP: control, RegistrationType.RELAY_UDP_ESP: data}
        self._offered = _Offered(peer, "relay", offers)

    async def start(self) -> None:
        """See Service."""
        self._offered.start()

    async def stop(self) -> None:
        """See Service."""
        await self._offered.stop()

    def status(self) -> Mapping[str, Any]:
        """See Service."""
        return self._offered.status()
