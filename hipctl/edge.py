"""The edge of an engine: what comes and goes through servers of ours, and errands between them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from hipctl import hop, signed
from hipctl.actions import Action, Address, Flush, Pair, Relayed, Transmit
from hipctl.association import Association
from hipctl.candidates import is_loopback
from hipctl.constants import HEADER_LENGTH, HIP_PORT, NotifyType, PacketType, RegistrationType
from hipctl.crypto import Keys
from hipctl.errors import Rejected
from hipctl.identity import NULL_HIT, Hit
from hipctl.inner import ECHO_REQUEST, ICMPV6, Echo, pseudo_header
from hipctl.locators import one_host
from hipctl.outbox import Outbox
from hipctl.packet import Packet, finish
from hipctl.params import PeerPermission, RvsHmac, ViaRvs, encode
from hipctl.state import Errand, Objection, Permit, Ping, Shared

_PERMISSIONS_AT_ONCE: Final = 8  # in one UPDATE


class Edge:
    """Stands between the associations of one engine and its shell.

    Attributes:
        expected: called when something of that HIT has come by way of a rendezvous server of ours.
    """

    def __init__(
        self,
        shared: Shared,
        associations: Mapping[Pair, Association],
        settle: Callable[[Association], None],
    ) -> None:
        """Set up; ``settle`` is called for associations that were given something to do."""
        self._shared = shared
        self._associations = associations
        self._settle = settle
        self.expected: dict[Hit, Callable[[], None]] = {}
        self._origin: Address = ("", 0)  # of the packet in hand, if it was passed on

    def origin(self, receiver: Hit, packet: Packet, source: Address) -> Address:
        """Whence a packet came before a server of ours passed it on.

        Raises:
            MalformedPacket: it is not well formed.
            Rejected: no server of ours has (RFC 8004 §4.3.2, RFC 9028 §4.5), or it names no host.
        """
        if packet.receiver == NULL_HIT:
            raise Rejected("opportunistic I1 through a server")
        keys = self._hop_keys(receiver, source)
        if keys is None:
            raise Rejected("passed on by no server of ours")
        if packet.has(RvsHmac):
            self._object(receiver, packet, source)
        told, via_rvs = hop.origin(packet, source, keys, HIP_PORT)
        if not _somebody(told[0], source[0]):
            raise Rejected("passed on from nobody")
        self._origin, self._shared.via_rvs = told, via_rvs
        if via_rvs and packet.sender in self.expected:
            self.expected[packet.sender]()
        return told

    def pass_out(self, actions: list[Action], now: float) -> list[Action]:
        """Run the errands between associations, and tell our relays what is for others."""
        shared = self._shared
        while shared.errands:
            errands, shared.errands = shared.errands, []
            # what a relay has to know goes before what it has to let through
            actions = [*self._run(errands, now), *actions]
        passed = [self._through(each) if type(each) is Transmit else each for each in actions]
        return [each for each in passed if each is not None]

    def _object(self, local: Hit, packet: Packet, source: Address) -> None:
        """A control relay of ours must not use RVS_HMAC: drop it and say so (RFC 9028 §7.8)."""
        shared = self._shared
        server = shared.server_at(local, source)
        known = shared.servers.get((local, server)) if server is not None else None
        if server is None or known is None or RegistrationType.RELAY_UDP_HIP not in known.types:
            return
        shared.errands.append(Objection(local, server, source, packet.raw[:HEADER_LENGTH]))
        raise Rejected("RVS_HMAC from a control relay")

    def _through(self, action: Transmit) -> Transmit | None:
        to = action.to
        if not isinstance(to, Relayed):
            return self._named(action) if self._shared.via_rvs else action
        local = Hit(action.data[8:24])
        keys = self._hop_keys(local, to.via)
        if keys is None:  # it might take that for a stranger's, and tell where we are
            self._shared.counters["relay gone"] += 1
            return None
        source = self._shared.source_to(local, to.via)
        return Transmit(hop.through(action.data, to, keys), to.via, source)

    def _named(self, action: Transmit) -> Transmit:
        """UPDATEs that answer one through a rendezvous server name it, too (RFC 8046 §3.2.3)."""
        if action.to != self._origin or action.data[2] & 0x7F != PacketType.UPDATE:
            return action
        named = encode([ViaRvs((self._shared.via_rvs,))])
        return Transmit(finish(action.data + named), action.to, action.source)

    def _hop_keys(self, local: Hit, server: Address) -> Keys | None:
        """Keys of the association with the server of ``local`` at that address."""
        hit = self._shared.server_at(local, server)
        association = self._associations.get((local, hit)) if hit is not None else None
        return association.standing.keys if association is not None else None

    def _run(self, errands: Sequence[Errand], now: float) -> list[Action]:
        permits: dict[Pair, list[PeerPermission]] = {}
        pokes: dict[Pair, None] = {}
        actions: list[Action] = []
        shared = self._shared
        for errand in errands:
            if isinstance(errand, Objection):
                actions += self._notify(errand, now)
                continue
            if isinstance(errand, Ping):
                if (errand.local, errand.peer) not in shared.outbound:
                    continue  # it has ended meanwhile, and an echo begins no other
                message = Echo(ECHO_REQUEST, 0, 0, b"").encode(
                    pseudo_header(errand.local, errand.peer)
                )
                actions.append(Flush(errand.local, errand.peer, [(ICMPV6, message)]))
                continue
            if not isinstance(errand, Permit):
                pokes |= dict.fromkeys(p for p in self._shared.servers if p[0] == errand.local)
                continue
            server = self._shared.server_at(errand.local, errand.server)
            if server is not None:
                permits.setdefault((errand.local, server), []).append(errand.permission)
        for pair, permissions in permits.items():
            for i in range(0, len(permissions), _PERMISSIONS_AT_ONCE):
                some = permissions[i : i + _PERMISSIONS_AT_ONCE]
                actions += self._do(pair, lambda box, some=some: box.permit(some, now))  # type: ignore[misc]
        for pair in pokes:
            actions += self._do(pair, lambda box: box.poke(now))
        return actions

    def _notify(self, objection: Objection, now: float) -> list[Action]:
        shared = self._shared
        if not shared.notify_limit.allow("", now):
            return []
        identity = shared.identities[objection.local]
        why = NotifyType.RVS_HMAC_PROHIBITED_WITH_RELAY
        notify = signed.make_notify(identity, objection.server, why, objection.details)
        return [Transmit(notify, objection.to)]

    def _do(self, pair: Pair, what: Callable[[Outbox], list[Action]]) -> list[Action]:
        association = self._associations.get(pair)
        upkeep = association.standing.upkeep if association is not None else None
        if association is None or upkeep is None:
            return []
        actions = what(upkeep.outbox)
        self._settle(association)
        return actions


def _somebody(ip: str, server: str) -> bool:
    """Whether a sender can be there: a server that lies must not have us speak to a group.

    Nor to this machine, unless the server is on it, too.
    """
    return one_host(ip) and (not is_loopback(ip) or is_loopback(server))
