"""Shell: which devices and certificates speak for a name no more, as REVOKE records say.

They stand at the name's key, beside the registrations that they make void, and are looked for at
the same time as those. Whoever can keep all of them from us could keep any record from us, so a
search that fails, or takes much longer than that for registrations, stops no call.
"""

import asyncio
from collections.abc import Iterable
from typing import Final, NamedTuple

from hipctl import Hit, MalformedPacket, Rejected
from overlay.errors import LookupFailed, RecordRefused
from overlay.kinds import Reg, Revoke
from overlay.node import Node
from overlay.proofs import name_certificate
from overlay.records import Record, aor_key, check_record

PATIENCE: Final = 0.5  # seconds that a search may go on when the registrations are there
FRESH: Final = 60.0  # seconds for which what was found is not looked for again
MAX_NAMES: Final = 512  # that are remembered
MAX_SEARCHES: Final = 128  # at a time
MAX_VOIDS: Final = 256  # of one name: as many as one search finds; its owner may make ever more


class _Void(NamedTuple):
    """One revocation, and whose."""

    by: Hit
    says: Revoke


class Revocations:
    """What is revoked in one overlay, as far as we have asked.

    Args:
        node: our node there.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._known: dict[str, tuple[tuple[_Void, ...], float]] = {}
        self._searches: dict[str, asyncio.Task[None]] = {}
        self._open = True

    async def close(self) -> None:
        """Search no more."""
        self._open = False
        searches = list(self._searches.values())
        for search in searches:
            search.cancel()
        await asyncio.gather(*searches, return_exceptions=True)

    def seek(self, aor: str) -> None:
        """Begin to look for what is revoked of a canonical AoR, unless that is known."""
        known = self._known.get(aor)
        fresh = known is not None and known[1] > self._node.now()
        room = self._open and len(self._searches) < MAX_SEARCHES
        if room and not fresh and aor not in self._searches:
            self._searches[aor] = asyncio.create_task(self._search(aor), name="revocations")

    async def settle(self, aor: str) -> None:
        """Wait for the search, but not for long; what it finds later counts the next time."""
        search = self._searches.get(aor)
        if search is not None:
            await asyncio.wait((search,), timeout=PATIENCE)

    def voids(self, record: Record, reg: Reg) -> bool:
        """Whether a registration that is good by itself was revoked."""
        voids, _ = self._known.get(reg.aor, ((), 0.0))
        return any(self._is_void(void, record.owner_hit, reg) for void in voids)

    def _is_void(self, void: _Void, device: Hit, reg: Reg) -> bool:
        if void.says.device is not None:
            mine = void.by == reg.account and void.says.device == device
            return mine and reg.delegation.seq <= void.says.seq
        if reg.certificate is None:
            return False
        try:
            return name_certificate(reg.certificate, self._node.overlay).serial == void.says.serial
        except (MalformedPacket, Rejected):
            return True

    async def _search(self, aor: str) -> None:
        try:
            records = await self._node.get("REVOKE", aor_key(self._node.overlay.id, aor))
        except LookupFailed:
            return  # the search for registrations tells
        finally:
            self._searches.pop(aor, None)
        found = tuple(self._read(records, aor))
        before, _ = self._known.pop(aor, ((), 0.0))
        wall = self._node.wall()
        still = [void for void in before if void.says.end > wall]  # none is ever taken back
        if len(self._known) >= MAX_NAMES:
            del self._known[next(iter(self._known))]
        voids = tuple(dict.fromkeys((*found, *still)))[:MAX_VOIDS]
        self._known[aor] = (voids, self._node.now() + FRESH)

    def _read(self, records: Iterable[Record], aor: str) -> Iterable[_Void]:
        for record in records:
            try:
                said = check_record(record, self._node.overlay, self._node.wall())
            except RecordRefused:  # it has expired on the way
                continue
            if isinstance(said, Revoke) and said.aor == aor:
                yield _Void(record.owner_hit, said)
