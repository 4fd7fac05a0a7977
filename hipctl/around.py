"""Who is on our LANs: what is answered to who asks there, and who answers what we ask.

The question is an I1 without receiver to a link-local group (RFC 7401 §4.1.8), the answer an R1
with LAN_INFO. Neither begins an exchange.
"""

from collections.abc import Sequence

from hipctl import credentials, exchange, hop, params
from hipctl.access import Access
from hipctl.actions import Action, Address, LanAnswered, Transmit
from hipctl.constants import PacketType
from hipctl.errors import Rejected
from hipctl.identity import NULL_HIT
from hipctl.interface import Shown
from hipctl.limits import Limiter
from hipctl.opportunistic import Opportunist
from hipctl.packet import Packet
from hipctl.responder import Responder
from hipctl.state import Shared


class Around:
    """What one host says and hears at its LANs."""

    def __init__(self, responder: Responder | None, asking: Opportunist, shared: Shared) -> None:
        """Set up.

        Args:
            responder: that of the default identity, if there is any.
            asking: whom we ask.
            shared: the engine's.
        """
        self._responder = responder
        self._asking = asking
        self._shared = shared
        self._limiter = Limiter(shared.config.lan_rate, shared.config.lan_burst, 1)

    def welcome(self, certificates: Sequence[bytes], mark: bytes) -> None:
        """Show this to who asks, from the next R1 generation on."""
        if self._responder is not None:
            self._responder.shown_around = Shown(tuple(certificates))
            self._responder.mark = mark

    def on_question(
        self, packet: Packet, source: Address, access: Access, now: float
    ) -> list[Action]:
        """Answer who asks a LAN, whatever else there is between us.

        Many may be asked by one packet, so all who ask get few answers together.

        Args:
            packet: what came to a group.
            source: who asks.
            access: who may.
            now: monotonic seconds.

        Raises:
            MalformedPacket: something is missing.
            Rejected: it is no such question, or not answered.
        """
        if packet.type is not PacketType.I1 or packet.receiver != NULL_HIT:
            raise Rejected("no question to a LAN")
        if hop.passed_on(packet):
            raise Rejected("question to a LAN through a server")
        if packet.sender in self._shared.identities:
            return []  # our own, for groups hear what their host says
        if self._responder is None or not access.permits(packet.sender):
            raise Rejected("HIT denied")
        if packet.unknown_critical() is not None:
            raise Rejected("unknown critical parameter")
        if self._limiter.exhausted("", now):
            raise Rejected("LAN rate limit")
        r1 = self._responder.answer(packet, source, now, lan=True)
        self._limiter.allow("", now)
        return [Transmit(r1, source)]

    def on_answer(self, packet: Packet, source: Address, now: float) -> LanAnswered | None:
        """Take an R1 that may answer a question of ours; None: it answers another I1.

        Raises:
            MalformedPacket: something is missing.
            Rejected: it is not authentic.
        """
        local, peer = packet.receiver, packet.sender
        if not self._asking.calling(local, now) or not packet.has(params.LanInfo):
            return None
        if not self._asking.weigh(local, peer, source, now):
            return None
        exchange.signed_r1(packet, self._shared.known_hosts)
        shown, _ = credentials.read(packet)
        self._asking.take(local, peer, source)
        info, mark = packet.get(params.RegInfo), packet.need(params.LanInfo).data
        services = info.types if info is not None else ()
        return LanAnswered(local, peer, source, services, shown.certificates, mark)
