"""Shell: this peer on its LANs: it answers there, hands out overlays' files, and looks for others.

Whoever asks a LAN who is there learns that somebody is, what it offers, and the certificate of an
overlay that has one. More has who shows an invitation. We ask only while an overlay of ours knows
nobody, and speak with those only who seem to be in it.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Self

from hipctl import (
    AssociationFailed,
    ContactChanged,
    Endpoint,
    Event,
    Hit,
    Host,
    LanPeer,
    Woke,
    absent_links,
)
from overlay.invitations import (
    INVITATIONS,
    MAX_MARKS,
    InvitationBook,
    Invited,
    has_mark,
    mark_of,
)
from overlay.lobby import LOBBY_PORT, Lobby
from overlay.membership import Membership
from overlay.node import Node
from overlay.overlayfile import OverlayInfo
from overlay.reception import Reception

_log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 2.0  # for which one look takes answers
LOOK_FIRST, LOOK_MOST = 5.0, 60.0  # seconds between looks while nobody is known
ABSENT: Final = (
    "lan in [host] of the profile names %s, and this machine has no such interface now: nobody is "
    "answered or found there until it comes; if it never will, correct the name (ip link shows "
    "all), or say lan = true for every LAN"
)
ROOM: Final = 480  # bytes of certificates for which an unfragmented R1 has room


class LanPresence:
    """From ``__aenter__`` to ``__aexit__``.

    Args:
        state: the peer's folder, with the invitations that were given away.
        reception: lets those in who show one, from now on.
        wall: Unix seconds.
        links: the interfaces that the profile names; empty: each that leads to a LAN.
    """

    def __init__(
        self,
        state: Path,
        reception: Reception,
        wall: Callable[[], float],
        links: Collection[str] = (),
    ) -> None:
        self._links = links
        self._book = InvitationBook(state / INVITATIONS)
        self._wall = wall
        self._host: Host
        self._nodes: dict[Hit, list[Node]] = {}
        self._endpoints: list[Endpoint] = []
        self._lobbies: list[Lobby] = []
        self._counts: Counter[str] = Counter()
        self._kick = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        # who may ask for a file is let in for nothing else: nodes judge for themselves
        reception.invite(lambda local, peer, proof: self._check(local, peer, proof) is not None)

    def use(self, host: Host, members: Iterable[Membership]) -> None:
        """Say whose LANs these are, before ``__aenter__``."""
        self._host = host
        for member in members:
            self._nodes.setdefault(member.hit, []).append(member.node)

    async def __aenter__(self) -> Self:
        """Answer from now on, and begin to look around."""
        self._loop = asyncio.get_running_loop()
        if absent := absent_links(self._links):
            _log.warning(ABSENT, ", ".join(absent))
        default = self._host.hits[0]  # who answers
        infos = [node.overlay for node in self._nodes.get(default, ())][:MAX_MARKS]
        mark = b"".join(mark_of(info.id, default) for info in infos)
        await self._host.welcome(_fitting(info.certificate for info in infos), mark)
        for local in self._nodes:
            self._endpoints.append(self._open(local))
        self._unwatch = self._host.watch(self._on_event)
        self._tasks = [
            asyncio.create_task(self._look_on(local, nodes), name="lan")
            for local, nodes in self._nodes.items()
        ]
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._unwatch()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for endpoint in self._endpoints:
            endpoint.close()

    def status(self) -> dict[str, Any]:
        """Who was found, and what became of invitations; JSON-ready."""
        return {
            "found": self._counts["found"],
            "met": self._counts["met"],
            "files": dict(sum((lobby.counts for lobby in self._lobbies), Counter[str]())),
            "refused": dict(self._book.refused),
            "absent": absent_links(self._links),
        }

    # --- handing out files

    def _open(self, local: Hit) -> Endpoint:
        lobby = Lobby(local, lambda guest: self.invited(local, guest), self._overlay)
        self._lobbies.append(lobby)

        def on_datagram(data: bytes, guest: Hit, port: int) -> None:
            answer = lobby.on_datagram(data, guest, self._loop.time())
            if answer is not None:
                endpoint.send(answer, guest, port)

        endpoint = self._host.open(local, LOBBY_PORT, on_datagram)
        return endpoint

    def invited(self, local: Hit, guest: Hit) -> Invited | None:
        """What a guest has shown in its exchange with us, if it holds."""
        shown = self._host.credentials(guest, local=local)
        return self._check(local, guest, b"" if shown is None else shown.invitation)

    def _check(self, local: Hit, guest: Hit, proof: bytes) -> Invited | None:
        return self._book.check(proof, guest, local, self._wall())

    def _overlay(self, identifier: bytes) -> OverlayInfo | None:
        infos = (node.overlay for nodes in self._nodes.values() for node in nodes)
        return next((info for info in infos if info.id == identifier), None)

    # --- looking around

    def _on_event(self, event: Event) -> None:
        if isinstance(event, ContactChanged | Woke):  # another LAN perhaps
            self._kick.set()

    async def _look_on(self, local: Hit, nodes: Sequence[Node]) -> None:
        gap = LOOK_FIRST
        while True:
            self._kick.clear()
            if any(len(node.engine.table) == 0 for node in nodes):
                await self._look(local, nodes)
            try:
                async with asyncio.timeout(gap):
                    await self._kick.wait()
                gap = LOOK_FIRST
            except TimeoutError:
                gap = min(2 * gap, LOOK_MOST)

    async def _look(self, local: Hit, nodes: Sequence[Node]) -> None:
        def on_found(found: LanPeer) -> None:
            _log.info("%s is on this LAN", found.hit)
            self._counts["found"] += 1
            for node in nodes:
                if has_mark(found.mark, node.overlay.id, found.hit):
                    self._counts["met"] += 1
                    node.meet(found.hit, found.contact)

        try:
            await self._host.look_around(on_found, local=local, seconds=LOOK_SECONDS)
        except (AssociationFailed, OSError) as error:
            _log.info("nobody could be looked for on this LAN: %s", error)


def _fitting(certificates: Iterable[bytes]) -> list[bytes]:
    """As many as there is room for, each once."""
    chosen: list[bytes] = []
    for der in dict.fromkeys(certificates):
        if der and sum(map(len, chosen)) + len(der) <= ROOM:
            chosen.append(der)
    return chosen
