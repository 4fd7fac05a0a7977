"""Shell: how a fresh device joins on a LAN: who is there, and the overlay's file for its token."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from hipctl import (
    Admission,
    AssociationFailed,
    Hit,
    Host,
    LanPeer,
    MalformedPacket,
    Rejected,
    Shown,
)
from overlay.errors import CredentialsRefused
from overlay.invitations import prove
from overlay.lobby import LOBBY_PORT, NONCE_LENGTH, Request
from overlay.overlayfile import OverlayInfo, read_overlay_certificate

SETTLE: Final = 0.3  # seconds that others have to answer, though the file is there already
AGAIN: Final = 0.1  # seconds after which a question is asked once more
CONNECT_SECONDS: Final = 3.0


@dataclass(slots=True)
class Around:
    """What was found on a LAN.

    Attributes:
        peers: who answered, in that order.
        info: the overlay to which the token invites; None: nobody there knows it.
        host: whose file that is.
        seconds: from the first question to the end of the search.
        refusals: why there is no file, by who said so.
        network: this machine has an address at which others could answer.
    """

    peers: list[LanPeer] = field(default_factory=list)
    info: OverlayInfo | None = None
    host: Hit | None = None
    seconds: float = 0.0
    refusals: dict[Hit, str] = field(default_factory=dict)
    network: bool = True


class Guest:
    """Shows an invitation, and lets everybody in: a ``hipctl.CredentialPolicy``.

    Args:
        secret: of the token, or None.
    """

    def __init__(self, secret: bytes | None) -> None:
        self._secret = secret

    def shown(
        self, local: Hit, peer: Hit | None, wall: float, theirs: Shown | None = None
    ) -> Shown:
        """See ``hipctl.CredentialPolicy``."""
        if self._secret is None or peer is None or theirs is not None:
            return Shown()
        return Shown(invitation=prove(self._secret, local, peer))

    def admit(self, local: Hit, peer: Hit, shown: Shown, wall: float) -> Admission:
        """See ``hipctl.CredentialPolicy``."""
        return Admission.ACCEPTED


def domains(peer: LanPeer) -> list[str]:
    """Of which overlays a peer shows certificates; nothing proves that it is in them."""
    found = []
    for der in peer.certificates:
        with contextlib.suppress(MalformedPacket, Rejected):
            found.append(read_overlay_certificate(der)[0])
    return found


async def look(
    host: Host,
    secret: bytes | None,
    *,
    seconds: float,
    rng: Callable[[int], bytes],
    wall: Callable[[], float],
) -> Around:
    """Ask a LAN who is there; with a token, ask each for the overlay's file.

    Args:
        host: of the device that shall join; nobody else uses it.
        secret: of the token, or None.
        seconds: how long to look; with a token it ends with the file.
        rng: random bytes.
        wall: Unix seconds.
    """
    loop = asyncio.get_running_loop()
    host.use(Guest(secret), wall)
    began, found = loop.time(), Around()
    asking: set[asyncio.Task[None]] = set()
    done = asyncio.Event()

    async def ask(peer: LanPeer, secret: bytes) -> None:
        try:
            info = await _ask(host, peer, secret, rng(NONCE_LENGTH), seconds)
        except (AssociationFailed, CredentialsRefused) as error:
            found.refusals[peer.hit] = str(error)
        else:
            if info is not None and found.info is None:
                found.info, found.host = info, peer.hit
                loop.call_at(max(began + SETTLE, loop.time()), done.set)

    def on_found(peer: LanPeer) -> None:
        found.peers.append(peer)
        if secret is not None:
            asking.add(asyncio.create_task(ask(peer, secret), name="ask"))

    looking = asyncio.create_task(host.look_around(on_found, seconds=seconds), name="look")
    finished = asyncio.create_task(done.wait(), name="done")
    try:
        await asyncio.wait((looking, finished), return_when=asyncio.FIRST_COMPLETED)
        if looking.done():
            looking.result()
        if found.info is None and asking:
            everybody = asyncio.gather(*asking)
            await asyncio.wait(
                (finished, everybody), timeout=CONNECT_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
    finally:
        await _cancel([looking, finished, *asking])
    found.seconds = loop.time() - began
    found.network = bool(host.reachability().addresses)
    return found


async def _ask(
    host: Host, peer: LanPeer, secret: bytes, nonce: bytes, seconds: float
) -> OverlayInfo | None:
    """Ask one for the overlay's file; None: it says nothing."""
    local = host.hits[0]
    await host.connect(peer.hit, timeout=CONNECT_SECONDS)
    request = Request(local, peer.hit, secret, nonce)
    answer: asyncio.Future[OverlayInfo] = asyncio.get_running_loop().create_future()

    def on_datagram(data: bytes, source: Hit, port: int) -> None:
        if source != peer.hit or port != LOBBY_PORT or answer.done():
            return
        try:
            info = request.read(data)
        except CredentialsRefused as error:
            answer.set_exception(error)
        else:
            if info is not None:
                answer.set_result(info)

    endpoint = host.open(local, 0, on_datagram)
    try:
        async with asyncio.timeout(seconds):
            while not answer.done():
                endpoint.send(request.question(), peer.hit, LOBBY_PORT)
                await asyncio.wait((answer,), timeout=AGAIN)
            return answer.result()
    except TimeoutError:
        return None
    finally:
        endpoint.close()
        answer.cancel()


async def _cancel(tasks: Sequence[asyncio.Task[None] | asyncio.Task[bool]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
