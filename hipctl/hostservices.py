"""Shell: what a host does for others and they for it, as ``interface.Host`` has it."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from hipctl import contact as contacts
from hipctl import exchange
from hipctl.actions import Action, Address, Pair, RegistrationAnswered, Relayed
from hipctl.constants import RegistrationFailure, RegistrationType
from hipctl.engine import Engine
from hipctl.errors import (
    AssociationFailed,
    Hides,
    HostConfigRefused,
    MalformedPacket,
    RegistrationRefused,
    Rejected,
)
from hipctl.exchange import KnownHosts
from hipctl.identity import Hit, HostIdentity
from hipctl.interface import Nat, Offer, Reachability, Registered
from hipctl.packet import Packet
from hipctl.relayports import RelayPorts
from hipctl.udp import OpenPort
from hipctl.waiters import Waiters

_NON_ESP = bytes(4)  # leads every control packet over UDP, RFC 5770 §5.1
_ANYWHERE = {False: ("0.0.0.0", 0), True: ("::", 0)}  # noqa: S104
_KNOCK_AGAIN = 0.5  # seconds
_KNOCKS_MAX = 16  # at a time
_SEEN_MAX = 16  # peers of whom we remember where they see us

T = TypeVar("T")
Feed = Callable[[Callable[[float], Iterable[Action]]], None]


class HostServices:
    """Offers, registrations and knocks of one host.

    Attributes:
        ports: of the data relay.
    """

    def __init__(
        self, engine: Engine, ports: RelayPorts, open_port: OpenPort, counters: Counter[str]
    ) -> None:
        self.ports = ports
        self._engine = engine
        self._open_port = open_port
        self._counters = counters
        self._waiting = Waiters[Pair, RegistrationAnswered]()
        self._offers: Mapping[RegistrationType, Offer] = {}
        self._feed: Feed | None = None
        self._knocks = 0
        self._seen: dict[Hit, Address] = {}  # where peers say that they see us

    def start(self, feed: Feed) -> None:
        """From now on there is a driver of the engine."""
        self._feed = feed
        if self._offers:
            self.offer(self._offers)

    def close(self) -> None:
        """The host is closed; harmless when done twice."""
        self._feed = None
        self.ports.close()
        self._waiting.fail_all(AssociationFailed("this host was closed"))

    def _do(self, step: Callable[[float], None]) -> None:
        def run(now: float) -> Sequence[Action]:
            step(now)
            return ()

        if self._feed is not None:
            self._feed(run)

    # -- for others ----------------------------------------------------------------------------

    def offer(self, offers: Mapping[RegistrationType, Offer]) -> None:
        """See ``interface.Host``."""
        self._offers = dict(offers)
        engine = self._engine
        self._do(lambda now: engine.serving.offer(self._offers, engine.pairs(), now))

    # -- for us --------------------------------------------------------------------------------

    def offered(self, pair: Pair) -> frozenset[RegistrationType] | None:
        """See ``interface.Host``."""
        if pair not in self._engine.outbound:
            return None
        info = self._engine.requester.infos.get(pair)
        known = {int(kind) for kind in RegistrationType}
        types = known.intersection(info.types) if info is not None else ()
        return frozenset(RegistrationType(kind) for kind in types)

    def registrations(self) -> list[Registered]:
        """See ``interface.Host``."""
        engine = self._engine
        return [
            replace(row, rtt=engine.rtt(row.local, row.server))
            for row in engine.requester.registrations()
        ]

    def servers(self, local: Hit) -> list[contacts.Server | contacts.Relay]:
        """Those through which ``local`` may be reached, the nearest first."""
        kinds: dict[int, type[contacts.Server | contacts.Relay]] = {
            RegistrationType.RENDEZVOUS: contacts.Server,
            RegistrationType.RELAY_UDP_HIP: contacts.Relay,
        }
        rows = [row for row in self.registrations() if row.local == local and row.type in kinds]
        rows.sort(key=lambda row: (row.rtt is None, row.rtt or 0.0))
        return [kinds[row.type](row.server, row.address) for row in rows if row.address]

    async def register(
        self, pair: Pair, types: Collection[RegistrationType], timeout: float
    ) -> list[Registered]:
        """See ``interface.Host``."""
        if self._feed is None:
            raise AssociationFailed("this host is closed")
        requester, wanted = self._engine.requester, {int(kind) for kind in types}
        refused: dict[int, int] = {}

        def missing() -> set[int]:
            return {k for k in wanted - refused.keys() if not requester.registered(pair, k)}

        try:
            async with asyncio.timeout(timeout):
                while missing():
                    answer = await self._waiting.wait(pair, lambda: self._ask(pair, missing()))
                    refused |= {k: why for k, why in answer.refused.items() if k in wanted}
        except TimeoutError:
            self._forget(pair, missing())
            raise AssociationFailed(f"{pair[1]} has not answered in {timeout:g} s") from None
        except BaseException:
            self._forget(pair, missing())
            raise
        rows = [r for r in self.registrations() if (r.local, r.server) == pair]
        rows = [row for row in rows if row.type in wanted]
        if not rows and refused:
            failure = next(iter(refused.values()))
            raise RegistrationRefused(f"{pair[1]}: {_text(failure)}", failure)
        return rows

    def _ask(self, pair: Pair, types: Collection[int]) -> None:
        def ask(now: float) -> None:
            if not self._engine.requester.register(pair, types, now):
                self._waiting.fail(pair, AssociationFailed("registered with too many servers"))

        self._do(ask)

    def _forget(self, pair: Pair, types: Collection[int]) -> None:
        if types:
            self._do(lambda now: self._engine.requester.unregister(pair, types, now))

    def unregister(self, pair: Pair, types: Collection[RegistrationType] | None) -> None:
        """See ``interface.Host``."""
        self._do(lambda now: self._engine.requester.unregister(pair, types, now))

    def answered(self, answer: RegistrationAnswered) -> None:
        """A server has answered."""
        self._waiting.done((answer.local, answer.server), answer)

    def down(self, pair: Pair, error: AssociationFailed) -> None:
        """There is no association, and whoever waits for an answer gets none."""
        self._waiting.fail(pair, error)

    def reachability(self, addresses: Sequence[Address], direct: bytes) -> Reachability:
        """See ``interface.Host``.

        Args:
            addresses: at which we listen.
            direct: a contact without servers.
        """
        engine = self._engine
        seen = {hit: at for hit, at in self._seen.items() if self._comes_from(hit)}
        for row in engine.requester.registrations():
            if row.reflexive is not None:
                seen[row.server] = row.reflexive
        mapped = tuple(("", outer) for outer, _ in engine.mapped)
        return Reachability(
            tuple(addresses), tuple(seen.items()), mapped, _nat(addresses, seen.values()), direct
        )

    # -- where we are seen ---------------------------------------------------------------------

    def moved(self, ips: Sequence[str]) -> None:
        """We are at these IP addresses: nobody has seen us there yet."""
        self._seen.clear()
        self.ports.moved(ips)

    def sees(self, peer: Hit) -> bytes:
        """See ``interface.Host``."""
        found = self._comes_from(peer)
        return contacts.compose(found, ()) if found else b""

    def seen(self, by: Hit, contact: bytes) -> None:
        """See ``interface.Host``; who is on our LAN, or behind our NAT, can't tell."""
        try:
            entries = contacts.parse_contact(contact)
        except MalformedPacket as error:
            self._counters[error.reason] += 1
            return
        self._seen.pop(by, None)
        for each in entries:
            if isinstance(each, contacts.Locator) and contacts.is_public(each.address[0]):
                self._seen[by] = each.address
        if len(self._seen) > _SEEN_MAX:
            del self._seen[next(iter(self._seen))]

    def _comes_from(self, peer: Hit) -> list[Address]:
        """From where our associations with it come directly, as far as that is verified."""
        return [
            outbound.address
            for (_, other), outbound in self._engine.outbound.items()
            if other == peer
            and not isinstance(outbound.address, Relayed)
            and not outbound.sa.metered
        ]

    # -- knocking ------------------------------------------------------------------------------

    async def knock(self, peer: Hit, contact: bytes, timeout: float) -> bool:
        """See ``interface.Host``."""
        try:
            entries = contacts.parse_contact(contact)
        except MalformedPacket as error:
            raise Rejected(error.reason) from None
        homes = {ip for ip, _ in self._comes_from(peer)}
        addresses = [
            each.address
            for each in entries
            if (
                each.address[0] in homes
                if isinstance(each, contacts.Locator)
                else self._serves(each.hit) and each.address in self._comes_from(each.hit)
            )
        ]
        if self._engine.hides(peer, asyncio.get_running_loop().time()):
            raise Hides("a knock would show where we are")
        if not addresses:
            raise Rejected("no locator from which the peer, or a server, speaks with us")
        if self._knocks >= _KNOCKS_MAX:
            raise Rejected("too many knocks")
        self._knocks += 1
        try:
            async with asyncio.timeout(timeout):
                return await self._knock(peer, addresses)
        except TimeoutError:
            return False
        finally:
            self._knocks -= 1

    def _serves(self, hit: Hit) -> bool:
        """Whether it has said to us that it serves others: then where it is, is no secret."""
        infos = self._engine.requester.infos
        return any(bool(info.types) for (_, other), info in infos.items() if other == hit)

    async def _knock(self, peer: Hit, addresses: Sequence[Address]) -> bool:
        nobody = HostIdentity.generate()
        opened = asyncio.Event()
        config = self._engine.config

        def on_datagram(data: bytes, source: Address) -> None:
            if _is_r1(data[len(_NON_ESP) :], peer, nobody.hit):
                opened.set()

        i1 = _NON_ESP + exchange.make_i1(nobody.hit, peer, config)
        async with contextlib.AsyncExitStack() as stack:
            doors = []
            # what we send to ourselves by way of a rendezvous server is answered directly, which
            # most NATs let nobody do: it is enough that it comes
            self._engine.expected[nobody.hit] = opened.set
            stack.callback(self._engine.expected.pop, nobody.hit, None)
            for six in {":" in ip for ip, _ in addresses}:
                with contextlib.suppress(HostConfigRefused):
                    port = await self._open_port(_ANYWHERE[six], on_datagram, self._counters)
                    stack.callback(port.close)
                    doors.append((six, port))
            while doors:
                for six, port in doors:
                    for address in addresses:
                        if (":" in address[0]) is six:
                            port.send(i1, address)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_KNOCK_AGAIN):
                        return await opened.wait()
        return False


def _is_r1(data: bytes, peer: Hit, nobody: Hit) -> bool:
    """Whether ``peer`` has signed it, in answer to ``nobody``."""
    try:
        packet = Packet(data)
        return (packet.sender, packet.receiver) == (peer, nobody) and exchange.signed_r1(
            packet, KnownHosts()
        ) is not None
    except (MalformedPacket, Rejected):
        return False


def _nat(ours: Collection[Address], seen: Collection[Address]) -> Nat:
    """What kind of NAT makes servers see us so."""
    if not seen:
        return Nat.UNKNOWN
    others = [address for address in seen if address not in ours]  # one family may have no NAT
    if not others:
        return Nat.NONE
    families = {":" in address[0]: set[Address]() for address in others}
    for address in others:
        families[":" in address[0]].add(address)
    if any(len(found) > 1 for found in families.values()):
        return Nat.ENDPOINT_DEPENDENT
    return Nat.ENDPOINT_INDEPENDENT if len(others) > len(families) else Nat.UNKNOWN


def _text(failure: int) -> str:
    try:
        return RegistrationFailure(failure).name.replace("_", " ").lower()
    except ValueError:
        return f"failure {failure}"
