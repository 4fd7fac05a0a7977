"""Names with meaning: who answers for an AoR, who may speak as it, and our own registrations."""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Final, Self

from hipctl import Hit
from overlay.accounts import split_aor
from overlay.admission import Account
from overlay.constants import REG_LIFE
from overlay.errors import LookupFailed, MalformedRecord, NotFound, RecordRefused
from overlay.node import Node
from overlay.publisher import Draft, Publisher
from overlay.records import NodeInfo, Record, Reg, aor_key, check_record, node_key
from overlay.revocations import Revocations
from overlay.services import Target

OWNS_NOT: Final = 3.0  # seconds for which "no" is believed
MAX_OWNERS: Final = 1_024  # (AoR, HIT) pairs remembered
MAX_ASKING: Final = 128  # lookups of owners at a time …
MAX_ASKING_EACH: Final = 4  # … and for one HIT, which may claim any name

_NODE: Final = "NODE"  # what we call our NODE record


class Directory:
    """The names of one overlay, as our device sees them.

    Args:
        node: our node there.
        publisher: keeps our records there.
        account: whose device it is, or None to take part without a name.
    """

    def __init__(
        self,
        node: Node,
        publisher: Publisher,
        account: Account | None = None,
    ) -> None:
        self._node = node
        self._host = node.host
        self._overlay = node.overlay
        self._publisher = publisher
        self._account = account
        self._revocations = Revocations(node)
        self._owners: dict[tuple[str, Hit], tuple[bool, float]] = {}
        self._asking: dict[tuple[str, Hit], asyncio.Task[bool]] = {}

    async def __aenter__(self) -> Self:
        """Begin to tell the overlay how our device is reached."""
        self._loop = asyncio.get_running_loop()
        self._publisher.publish(_NODE, self._node_info)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Stop asking; the publisher withdraws what is published."""
        for asking in self._asking.values():
            asking.cancel()
        await self._revocations.close()

    def use(self, account: Account) -> None:
        """Our account has other delegations or certificates now: say so in what is published."""
        self._account = account
        for aor in self.published():
            self._publisher.hurry(aor)

    # --- what the peer asks

    def names(self) -> Mapping[str, bytes | None]:
        """AoRs that our account holds here -> the certificate that a REG carries, or None."""
        if self._account is None:
            return {}
        return self._account.names(self._overlay, self._node.wall())

    def published(self) -> dict[str, int]:
        """AoRs that we keep in the overlay -> how many nodes hold each."""
        return {name: held for name, held in self._publisher.held().items() if name[:4] == "sip:"}

    async def resolve(self, aor: str) -> list[Target]:
        """Find the devices behind a canonical AoR, verified, not revoked, nearest expiry last.

        ``node.learn`` was called for each.

        Raises:
            NotFound: nobody is registered under it, or it is of another domain.
            LookupFailed: the overlay could not be asked.
        """
        if split_aor(aor)[1] != self._overlay.domain:
            raise NotFound(f"{aor} is not of the domain {self._overlay.domain}")
        own = self._own_target(aor)
        self._revocations.seek(aor)
        try:
            records = await self._node.get("REG", aor_key(self._overlay.id, aor))
        except LookupFailed:
            if own is None:
                raise
            records = []
        if any(record.owner_hit != self._node.local for record in records):
            await self._revocations.settle(aor)
        targets = {target.hit: target for record in records if (target := self._target(record))}
        targets.pop(self._node.local, None)  # of ourselves we know better
        if own is not None:
            targets[own.hit] = own
        if not targets:
            raise NotFound(f"nobody is registered as {aor}")
        return sorted(targets.values(), key=lambda target: -target.expires)

    def _target(self, record: Record) -> Target | None:
        try:
            reg = check_record(record, self._overlay, self._node.wall())
        except RecordRefused:  # it has expired on the way
            return None
        if not isinstance(reg, Reg) or reg.gone or self._revocations.voids(record, reg):
            return None
        if record.owner_hit not in self._host.hits and reg.contact:
            self._node.learn(record.owner_hit, reg.contact)
        account = reg.delegation.account.hit
        return Target(reg.aor, record.owner_hit, reg.port, account, record.expires)

    def _own_target(self, aor: str) -> Target | None:
        port = self._publisher.mark(aor)
        if not isinstance(port, int) or self._account is None:
            return None
        record = self._publisher.record(aor)
        expires = record.expires if record else int(self._node.wall()) + REG_LIFE
        return Target(aor, self._node.local, port, self._account.hit, expires)

    async def reach(self, hit: Hit) -> bool:
        """Look up the NODE record of ``hit`` and learn its contact; False if there is none."""
        try:
            records = await self._node.get("NODE", node_key(self._overlay.id, hit))
        except LookupFailed:
            return False
        for record in records:
            try:
                info = NodeInfo.decode(record.payload)
            except MalformedRecord:
                continue
            if not info.gone and record.owner_hit == hit:
                self._node.learn(hit, info.contact)
                return True
        return False

    async def owns(self, aor: str, hit: Hit) -> bool:
        """Whether ``hit`` may speak as the canonical ``aor``; may take a lookup, never raises."""
        if hit == self._node.local:
            return aor in self.names()
        if split_aor(aor)[1] != self._overlay.domain:
            return False
        if self._proved(aor, hit):
            return True
        now = self._loop.time()
        known = self._owners.get((aor, hit))
        if known is not None and known[1] > now:
            return known[0]
        return await self._ask_once(aor, hit)

    async def _ask_once(self, aor: str, hit: Hit) -> bool:
        """Ask, or wait for whoever asks the same already; False to who claims too many names."""
        asking = self._asking.get((aor, hit))
        if asking is None:
            claims = sum(other == hit for _, other in self._asking)
            if claims >= MAX_ASKING_EACH or len(self._asking) >= MAX_ASKING:
                return False
            asking = asyncio.create_task(self._learn_owner(aor, hit), name="owner")
            self._asking[aor, hit] = asking
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            if asking.cancelled():  # we stop
                return False
            raise

    async def _learn_owner(self, aor: str, hit: Hit) -> bool:
        try:
            answer, seconds = await self._ask_owner(aor, hit)
        finally:
            del self._asking[aor, hit]
        if len(self._owners) >= MAX_OWNERS:
            del self._owners[next(iter(self._owners))]
        self._owners[aor, hit] = (answer, self._loop.time() + seconds)
        return answer

    def _proved(self, aor: str, hit: Hit) -> bool:
        admitted = self._node.credentials_of(hit)
        return admitted is not None and aor in admitted.aors

    async def _ask_owner(self, aor: str, hit: Hit) -> tuple[bool, float]:
        """Ask ``hit`` for its credentials, then the overlay; the answer and how long it holds."""
        if self._host.connected(hit):
            await self._node.greet(hit, anew=True)
            if self._proved(aor, hit):
                return True, OWNS_NOT  # the session remembers it for as long as it holds
        try:
            targets = await self.resolve(aor)
        except (NotFound, LookupFailed):
            return False, OWNS_NOT
        for target in targets:
            if target.hit == hit:
                return True, max(target.expires - self._node.wall(), 0.0)
        return False, OWNS_NOT

    async def publish(self, aor: str, port: int) -> None:
        """Keep in the overlay that ``aor`` answers at ``port`` of our HIT, until ``withdraw``.

        Returns at once; the put goes on behind and is retried.

        Raises:
            NotFound: our account does not hold ``aor``.
        """
        if aor not in self.names():
            raise NotFound(f"{aor} is not a name of this peer")
        self._publisher.publish(aor, partial(self._reg, aor, port), port)

    async def withdraw(self, aor: str) -> None:
        """Take ``aor`` out of the overlay (a tombstone); harmless when it is not in."""
        await self._publisher.withdraw(aor)

    # --- what our records say

    def _node_info(self, contact: bytes) -> Draft | None:
        return Draft("NODE", NodeInfo(contact)) if contact else None

    def _reg(self, aor: str, port: int, contact: bytes) -> Draft:
        """Our registration; raises NotFound where our account has no right to it now."""
        names, wall = self.names(), self._node.wall()
        delegation = self._account.delegation_of(self._node.local, wall) if self._account else None
        if delegation is None or aor not in names:
            raise NotFound(f"this device has no right to {aor} now")
        return Draft("REG", Reg(aor, delegation, names[aor], port, contact))
