"""What a service sees: its peer, and of the overlays the one in whose table it stands."""

from collections.abc import Callable, Mapping, Sequence

from hipctl import Hit, Host
from overlay.policy import Evidence, Verdict
from overlay.providers import Providers
from overlay.services import Contacts, Peer, Provider, Target, Trace


class Seat:
    """A peer as a service of one of its overlays has it; implements overlay.services.Peer.

    Args:
        peer: the whole peer.
        providers: of the overlay.
    """

    def __init__(self, peer: Peer, providers: Providers) -> None:
        self._peer = peer
        self._providers = providers

    @property
    def host(self) -> Host:
        """See Peer."""
        return self._peer.host

    @property
    def domains(self) -> Sequence[str]:
        """See Peer."""
        return self._peer.domains

    @property
    def contacts(self) -> Contacts:
        """See Peer."""
        return self._peer.contacts

    @property
    def trace(self) -> Trace:
        """See Peer."""
        return self._peer.trace

    def aors(self) -> Mapping[str, Hit]:
        """See Peer."""
        return self._peer.aors()

    async def resolve(self, aor: str) -> list[Target]:
        """See Peer."""
        return await self._peer.resolve(aor)

    async def connect(self, peer: Hit, *, local: Hit, timeout: float = 5.0) -> None:
        """See Peer."""
        await self._peer.connect(peer, local=local, timeout=timeout)

    async def owns(self, aor: str, hit: Hit) -> bool:
        """See Peer."""
        return await self._peer.owns(aor, hit)

    async def publish(self, aor: str, port: int) -> None:
        """See Peer."""
        await self._peer.publish(aor, port)

    async def withdraw(self, aor: str) -> None:
        """See Peer."""
        await self._peer.withdraw(aor)

    def judge(self, evidence: Evidence) -> Verdict:
        """See Peer."""
        return self._peer.judge(evidence)

    def advertise(self, kind: str, port: int = 0, capacity: Callable[[], int] = lambda: 0) -> None:
        """See Peer: in this overlay."""
        self._providers.advertise(kind, port, capacity)

    async def unadvertise(self, kind: str) -> None:
        """See Peer: in this overlay."""
        await self._providers.unadvertise(kind)

    async def find(self, kind: str) -> list[Provider]:
        """See Peer: in this overlay."""
        return await self._providers.find(kind)
