"""Shell: who waits for an association, and how long it has taken."""

import asyncio
import ipaddress
import time
from dataclasses import replace

from hipctl.actions import Address, Pair, PeerFound
from hipctl.datapath import Feed
from hipctl.engine import Engine
from hipctl.errors import AssociationFailed
from hipctl.identity import Hit
from hipctl.interface import AssociationUp
from hipctl.waiters import Waiters

_TIMED_EXCHANGES = 1_024


class Connecting:
    """The attempts of one host that somebody waits for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting = Waiters[Pair, None]()
        self._asking = Waiters[tuple[Hit, Address], Hit]()
        self._began: dict[Pair, float] = {}
        self._feed: Feed | None = None

    def start(self, feed: Feed) -> None:
        """Exchanges may begin: ``feed`` gives the engine its inputs."""
        self._feed = feed

    def stop(self) -> None:
        """No more; who waits is told so."""
        self._feed = None
        self._waiting.fail_all(AssociationFailed("this host was closed"))
        self._asking.fail_all(AssociationFailed("this host was closed"))

    def _need_feed(self) -> Feed:
        if self._feed is None:
            raise AssociationFailed("this host is closed")
        return self._feed

    async def connect(self, pair: Pair, timeout: float) -> None:
        """Associate ``pair`` (local HIT, peer HIT) unless it is; see ``interface.Host``.

        Raises:
            AssociationFailed: it could not be done within ``timeout`` seconds.
        """
        feed = self._need_feed()
        if pair in self._engine.outbound:
            return

        def begin() -> None:
            self.begin(pair)
            feed(lambda now: self._engine.connect(*pair, now))

        try:
            async with asyncio.timeout(timeout):
                await self._waiting.wait(pair, begin)
        except TimeoutError:
            refusal = self._engine.refusal(*pair)
            why = f": {refusal}" if refusal else ""
            raise AssociationFailed(
                f"{pair[1]} did not answer within {timeout:g} s{why}"
            ) from None

    async def connect_opportunistic(self, local: Hit, address: Address, timeout: float) -> Hit:
        """Associate with whoever answers at ``address``; see ``LocalHost``."""
        feed = self._need_feed()
        try:
            ip = str(ipaddress.ip_address(address[0]))  # as the answer's source will be written
        except ValueError:
            raise AssociationFailed(f"{address[0]!r} is no IP address") from None
        asked = (local, (ip, address[1]))

        def begin() -> None:
            feed(lambda now: self._engine.connect_opportunistic(*asked, now))

        try:
            async with asyncio.timeout(timeout):
                peer = await self._asking.wait(asked, begin)
                await self.connect((local, peer), timeout)
                return peer
        except TimeoutError:
            raise AssociationFailed(f"{address[0]} did not answer within {timeout:g} s") from None

    def begin(self, pair: Pair) -> None:
        """Note when an exchange starts; the loop's clock, which times it, may be coarse."""
        if pair not in self._began and len(self._began) < _TIMED_EXCHANGES:
            self._began[pair] = time.perf_counter()

    def up(self, event: AssociationUp) -> AssociationUp:
        """Wake who waits for that; the same event, its time measured better."""
        pair = event.local, event.peer
        began = self._began.pop(pair, None)
        self._waiting.done(pair, None)
        if began is None:
            return event
        return replace(event, seconds=max(event.seconds, time.perf_counter() - began))

    def down(self, pair: Pair, error: AssociationFailed) -> None:
        """There is none, and no attempt any more."""
        self._began.pop(pair, None)
        self._waiting.fail(pair, error)

    def found(self, found: PeerFound) -> None:
        """Somebody has answered at an address, or nobody has."""
        asked = found.local, found.address
        if found.peer is None:
            error = AssociationFailed(f"nobody answers at {found.address[0]}")
            self._asking.fail(asked, error)
        else:
            self._asking.done(asked, found.peer)
