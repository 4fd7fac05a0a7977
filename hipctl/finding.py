"""Peers that answer though nobody named their HIT: at an address, or on our LANs."""

from collections.abc import Mapping, Sequence

from hipctl.actions import Action, Address, Path, PeerFound
from hipctl.around import Around
from hipctl.association import Association
from hipctl.associations import Associations
from hipctl.constants import PacketType
from hipctl.errors import HostConfigRefused
from hipctl.identity import Hit, HostIdentity
from hipctl.opportunistic import Opportunist
from hipctl.packet import Packet
from hipctl.responder import Responder
from hipctl.state import Shared


class Finding:
    """Whom one engine asks without knowing who they are, and what it answers to such."""

    __slots__ = ("_around", "_identities", "_opportunist", "_shared", "_table")

    def __init__(
        self,
        identities: Mapping[Hit, tuple[HostIdentity, Responder]],
        default: Responder | None,
        shared: Shared,
        table: Associations,
    ) -> None:
        """Set up.

        Args:
            identities: ours.
            default: the responder of the default one, if there is any.
            shared: the engine's.
            table: the engine's.
        """
        self._identities = identities
        self._shared = shared
        self._table = table
        self._opportunist = Opportunist(shared.config)
        self._around = Around(default, self._opportunist, shared)

    def ask(self, local: Hit, address: Address, now: float) -> list[Action]:
        """See ``Engine.connect_opportunistic``."""
        config = self._shared.config
        if not config.opportunistic_initiator:
            raise HostConfigRefused("opportunistic mode is off: set opportunistic_initiator")
        self._need(local)
        if len(self._table.exchanging) + len(self._opportunist) >= config.max_exchanges:
            self._shared.counters["too many exchanges"] += 1
            return [PeerFound(local, address, None)]
        return self._opportunist.ask(local, address, now)

    def call(self, local: Hit, paths: Sequence[Path], seconds: float, now: float) -> list[Action]:
        """See ``Engine.call``."""
        self._need(local)
        return self._opportunist.call(local, paths, seconds, now)

    def _need(self, local: Hit) -> None:
        if local not in self._identities:
            raise HostConfigRefused(f"{local} is no identity of this host")

    def welcome(self, certificates: Sequence[bytes], mark: bytes) -> None:
        """See ``Engine.welcome``."""
        self._around.welcome(certificates, mark)

    def on_question(self, packet: Packet, source: Address, now: float) -> list[Action]:
        """Answer who asks a LAN; see ``Around.on_question``."""
        return self._around.on_question(packet, source, self._table.access, now)

    def on_packet(self, packet: Packet, source: Address, now: float) -> list[Action] | None:
        """Take an R1 to a HIT of ours that answers such a question; None: it is not that.

        Raises:
            MalformedPacket: something is missing.
            Rejected: it is not authentic.
        """
        if packet.type is not PacketType.R1 or not len(self._opportunist):
            return None
        local, peer = packet.receiver, packet.sender
        association = self._table.by_pair.get((local, peer))
        asked_at = self._opportunist.answered(local, source)
        if asked_at is None:
            found = self._around.on_answer(packet, source, now)
            if found is not None and association is None and peer not in self._shared.contacts:
                self._shared.learn(peer, [source])
            return None if found is None else [found]
        actions: list[Action] = []
        if association is None:
            association = Association(*self._identities[local], peer, self._shared)
            association.adopt(source, asked_at)
            actions = association.on_packet(packet, source, now)
            actions = [*self._table.add(association, now), *actions]
            self._table.settle(association)
        else:
            outbound = self._shared.outbound.get((local, peer))
            if outbound is None or outbound.address != source:
                return None
        self._opportunist.done(local, source)
        return [PeerFound(local, source, peer), *actions]

    def deadline(self) -> float | None:
        """See sansio.Machine."""
        return self._opportunist.deadline()

    def on_time(self, now: float) -> list[Action]:
        """See sansio.Machine."""
        return self._opportunist.on_time(now)
