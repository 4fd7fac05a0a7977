"""What a SimHost offers to others, and where it is registered itself: no packets, only rules.

A client asks its server in one round trip. What a real host would notice late a simulated one
notices late, too: that a server has died is seen when the registration is refreshed.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hipctl.constants import RegistrationFailure, RegistrationType
from hipctl.errors import AssociationFailed, RegistrationRefused
from hipctl.identity import Hit
from hipctl.interface import AssociationDown, Offer, Registered, RegistrationEnded, Served

if TYPE_CHECKING:
    from sim.hits import SimHost

LIFETIME = 600.0  # seconds that clients ask for
UNANSWERED = 2.0  # seconds after which an association is given up
THROUGH = (RegistrationType.RENDEZVOUS, RegistrationType.RELAY_UDP_HIP)  # an I1 may come so
EXCLUSIVE = frozenset(THROUGH)  # never both at one server, RFC 9028 §7.8


class Registry:
    """Both ends of one host's registrations.

    Attributes:
        offers: what we do for others.
        clients: who is registered with us: (HIT, type) -> what it has had.
        ours: our own: (server, type) -> registration.
        asked: how often we asked each server to register us.
    """

    def __init__(self, host: "SimHost") -> None:
        self._host = host
        self.offers: dict[RegistrationType, Offer] = {}
        self.clients: dict[tuple[Hit, RegistrationType], Served] = {}
        self.ours: dict[tuple[Hit, RegistrationType], Registered] = {}
        self.asked: Counter[Hit] = Counter()

    # --- as a server

    def offer(self, offers: Mapping[RegistrationType, Offer]) -> None:
        self.offers = dict(offers)
        for client, type_ in [key for key in self.clients if key[1] not in offers]:
            del self.clients[client, type_]
            other = self._host.net.hosts.get(client)
            if other is not None:
                other.registry.end(self._host.hits[0], type_, "cancelled by the server")

    def serve(self, client: Hit, type_: RegistrationType) -> float | RegistrationFailure:
        """Grant a registration: its seconds; or refuse it."""
        offer = self.offers.get(type_)
        now = asyncio.get_running_loop().time()
        self.clients = {k: c for k, c in self.clients.items() if c.expires > now}
        refusal = None
        if offer is None:
            refusal = RegistrationFailure.TYPE_UNAVAILABLE
        elif type_ in EXCLUSIVE and any(
            (client, other) in self.clients for other in EXCLUSIVE - {type_}
        ):
            refusal = RegistrationFailure.RENDEZVOUS_WITH_CONTROL_RELAY
        else:
            others = sum(key[1] is type_ for key in self.clients) - (
                (client, type_) in self.clients
            )
            if others >= offer.clients:
                refusal = RegistrationFailure.INSUFFICIENT_RESOURCES
        if refusal is not None:
            reason = refusal.name.lower().replace("_", " ")
            self._host.counts[f"registration refused: {reason}"] += 1
            return refusal
        assert offer is not None
        life = min(offer.lifetime, LIFETIME)
        held = self.clients.get((client, type_))
        self.clients[client, type_] = (
            replace(held, expires=now + life)
            if held
            else Served(client, type_, now + life, packets=0, bytes=0, dropped=0)
        )
        return life

    def served(self) -> Sequence[Served]:
        now = asyncio.get_running_loop().time()
        return [each for each in self.clients.values() if each.expires > now]

    def serves(self, client: Hit) -> bool:
        """Whether an I1 to ``client`` goes through us."""
        return any(each.client == client and each.type in THROUGH for each in self.served())

    # --- as a client

    async def register(
        self, local: Hit, server: Hit, types: Collection[RegistrationType], timeout: float
    ) -> list[Registered]:
        loop, host = asyncio.get_running_loop(), self._host
        self.asked[server] += 1
        until = loop.time() + timeout
        await host.connect(server, local=local, timeout=timeout)
        other, rtt = host.net.hosts[server], 2 * host.net.delay(local, server)
        await asyncio.sleep(min(rtt, max(until - loop.time(), 0.0)))
        cut = host.net.reaches is not None and not host.net.reaches(local, server)
        if not (other.up and host.up) or cut or local not in other.peers:
            await asyncio.sleep(max(until - loop.time(), 0.0))
            raise AssociationFailed(f"{server} did not answer within {timeout:g} s")
        granted, failure = [], RegistrationFailure.TYPE_UNAVAILABLE
        for type_ in types:
            answer = other.registry.serve(local, type_)
            if isinstance(answer, RegistrationFailure):
                failure = answer
                continue
            made = Registered(local, server, type_, loop.time() + answer, rtt=rtt)
            self.ours[server, type_] = made
            loop.call_later(answer / 2, self._refresh, made)
            granted.append(made)
        if not granted:
            raise RegistrationRefused(f"{server}: {failure.name}", failure)
        host.contact_changed()
        return granted

    def _refresh(self, made: Registered) -> None:
        """Half of its life is over."""
        key, host = (made.server, made.type), self._host
        if self.ours.get(key) is not made or not host.up:
            return
        loop = asyncio.get_running_loop()
        other = host.net.hosts[made.server]
        cut = host.net.reaches is not None and not host.net.reaches(made.local, made.server)
        if not other.up or cut or made.local not in other.peers:
            host.drop(made.server, "no answer")
            return
        answer = other.registry.serve(made.local, made.type)
        if isinstance(answer, RegistrationFailure):
            self.end(made.server, made.type, answer.name.lower())
            return
        again = self.ours[key] = replace(made, expires=loop.time() + answer)
        loop.call_later(answer / 2, self._refresh, again)

    async def unregister(self, server: Hit, types: Collection[RegistrationType] | None) -> None:
        host, other = self._host, self._host.net.hosts[server]
        for held, type_ in list(self.ours):
            if held == server and (types is None or type_ in types):
                local = self.ours.pop((held, type_)).local
                if other.up:
                    other.registry.clients.pop((local, type_), None)
        host.contact_changed()
        local = host.hits[0]
        await asyncio.sleep(2 * host.net.delay(local, server))
        if not other.up or local not in other.peers:  # an UPDATE that nobody acknowledges
            await asyncio.sleep(UNANSWERED)
            if not other.up or local not in other.peers:
                host.drop(server, "no answer")

    def end(self, server: Hit, type_: RegistrationType, reason: str) -> None:
        """A registration of ours is over, and not by us."""
        made = self.ours.pop((server, type_), None)
        if made is not None:
            self._host.emit(RegistrationEnded(made.local, server, type_, reason))
            self._host.contact_changed()

    def on_down(self, event: AssociationDown) -> None:
        """An association is gone, and with it what was agreed over it."""
        for server, type_ in list(self.ours):
            if server == event.peer:
                self.end(server, type_, "its association is gone")
        for client, type_ in list(self.clients):
            if client == event.peer:
                del self.clients[client, type_]

    def through(self) -> list[Hit]:
        """The servers that our contact names, at most two."""
        return list(dict.fromkeys(server for server, type_ in self.ours if type_ in THROUGH))[:2]

    def clear(self) -> None:
        """The power is gone, and what was agreed is forgotten."""
        self.ours.clear()
        self.clients.clear()
