"""Machine: the media of one call, from offers and answers to connected sides.

Every m= line that a relay can carry has a side facing the caller and, per kind of callee, one
facing it; whoever wins the fork is connected with the caller.
"""

from collections.abc import Callable
from typing import Final

from sipgw.core import Media, Side
from sipgw.dialog import Party
from sipgw.echo import Loop
from sipgw.sdp import Ports, SessionDescription

CALLER: Final = "caller"
CLIENTS: Final = "clients"  # the callee's, on this peer
DEVICES: Final = "devices"  # the callee's other peers
MAX_STREAMS: Final = 6  # m= lines relayed in one call; more are refused


class Session:
    """One call's media.

    Args:
        media: where sides come from.
        on_media: called at a party's first packet, once for the call.
    """

    def __init__(self, media: Media, on_media: Callable[[], None]) -> None:
        self._media = media
        self._on_media: Callable[[], None] | None = on_media
        self._sides: dict[tuple[str, int], Side] = {}
        self._connected: set[int] = set()
        self._closed = False

    @staticmethod
    def callee(party: Party) -> str:
        """The kind of callee's leg."""
        return DEVICES if len(party) == 3 else CLIENTS

    @property
    def packets(self) -> int:
        """RTP and RTCP packets heard so far."""
        return sum(side.packets + side.reports for side in self._sides.values())

    def carry(
        self, body: bytes, sender: str, source: Party, receiver: str, target: Party
    ) -> bytes:
        """Rewrite an offer or answer of one party for the other.

        Args:
            body: SDP.
            sender: leg it comes from (CALLER, CLIENTS or DEVICES).
            source: who that is.
            receiver: leg it goes to.
            target: who that is.

        Raises:
            MalformedSdp: the body.
            MediaExhausted: no port is free.
        """
        description = SessionDescription.parse(body)
        ports: list[Ports | None] = []
        for index, media in enumerate(description.media):
            if self._closed or index >= MAX_STREAMS or not media.relayable:
                ports.append(None)
                continue
            near = self._side(sender, index, source)
            far = self._side(receiver, index, target)
            rtcp = media.port if media.rtcp_mux and not media.rtcp_port else media.rtcp_port
            where = source[1] if len(source) == 3 else media.address or source[0]
            near.aim(where, media.port, rtcp or 0)
            far.connect(near)
            if sender != CALLER or index not in self._connected:
                near.connect(far)
            if sender != CALLER:
                self._connected.add(index)
            ports.append((far.port, far.port + 1))
        address = str(target[0]) if len(target) == 3 else self._media.address
        return description.rewrite(address, ports)

    def echo(self, body: bytes, source: Party) -> bytes:
        """Answer an offer with itself and send back what is heard.

        Raises:
            MalformedSdp: the body.
            MediaExhausted: no port is free.
        """
        description = SessionDescription.parse(body)
        ports: list[Ports | None] = []
        for index, media in enumerate(description.media):
            # Keyed media can't be echoed: each party has keys of its own.
            if index >= MAX_STREAMS or not media.relayable or "SAVP" in media.protocol.upper():
                ports.append(None)
                continue
            side = self._side(CALLER, index, source)
            side.aim(media.address or str(source[0]), media.port, media.rtcp_port or 0)
            side.connect(Loop(side))
            ports.append((side.port, side.port + 1))
        return description.rewrite(self._media.address, ports)

    def keep(self, leg: str) -> None:
        """A callee answered: who else was asked is heard no more, and its ports return."""
        for kind, index in list(self._sides):
            if kind not in (CALLER, leg):
                self._sides.pop((kind, index)).close()

    def _side(self, leg: str, index: int, party: Party) -> Side:
        side = self._sides.get((leg, index))
        if side is None:
            if len(party) == 3:
                side = self._media.overlay_side(party[0], self._heard)
            else:
                side = self._media.client_side(party[0], self._heard)
            self._sides[leg, index] = side
        return side

    def _heard(self) -> None:
        if self._on_media is not None:
            on_media, self._on_media = self._on_media, None
            on_media()

    def close(self) -> None:
        """Return every port."""
        self._closed = True
        for side in self._sides.values():
            side.close()
