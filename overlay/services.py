"""The seam between a peer and what it hosts: Protocols, and the entry points that name services.

A service is constructed as ``Service(peer, table)``, checks its own table and raises ConfigError
if it is wrong. Services never call each other in process: they send datagrams to a HIT, which may
be their own.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

from hipctl import Hit, Host
from overlay.errors import ServiceNotInstalled
from overlay.policy import Evidence, Verdict


@dataclass(frozen=True, slots=True)
class Target:
    """One device that answers for an AoR: what a verified REG record says.

    Attributes:
        aor: canonical AoR that was asked for.
        hit: the device.
        port: where its SIP gateway listens on that HIT.
        account: HIT of the account that delegated the device.
        expires: Unix seconds.
    """

    aor: str
    hit: Hit
    port: int
    account: Hit
    expires: int


@dataclass(frozen=True, slots=True)
class Provider:
    """One device that offers a kind of service: what a verified SVC record says.

    Attributes:
        hit: the device.
        kind: type of service.
        port: of its HIT; 0 where its host itself serves.
        capacity: about how many more it could serve, when it said so.
        expires: Unix seconds.
        contact: how it is reached; the host has learnt it.
    """

    hit: Hit
    kind: str
    port: int
    capacity: int
    expires: int
    contact: bytes


class Contacts(Protocol):
    """The user's petnames."""

    def uri(self, name: str) -> str | None:
        """The AoR behind a petname (compared without case), or None."""


class Trace(Protocol):
    """The waterfalls of recent calls, bounded; what ``p2psip trace`` prints."""

    def mark(self, call: str, step: str, detail: str = "") -> None:
        """Note that ``step`` of ``call`` happened now; the first mark of a call begins it.

        Steps of a call, in order: invite, resolve, exchange, forward, ringing, answer, media,
        end; ``failed`` in place of what did not happen.
        """


class Peer(Protocol):
    """All that a service may ask of the peer that hosts it."""

    @property
    def host(self) -> Host:
        """The HIP host."""

    @property
    def domains(self) -> Sequence[str]:
        """SIP domains of the joined overlays, lower case."""

    @property
    def contacts(self) -> Contacts:
        """The user's petnames."""

    @property
    def trace(self) -> Trace:
        """Where a service notes what happens in a call."""

    def aors(self) -> Mapping[str, Hit]:
        """Canonical AoRs that this peer holds -> the local HIT that answers for each."""

    async def resolve(self, aor: str) -> list[Target]:
        """Find the devices behind a canonical AoR, verified, nearest expiry last.

        ``host.learn`` was called for each, so that a datagram to its HIT finds its way. An AoR
        of this peer resolves too.

        Raises:
            NotFound: nobody is registered under it, or no joined overlay has its domain.
            LookupFailed: the overlay could not be asked.
        """

    async def connect(self, peer: Hit, *, local: Hit, timeout: float = 5.0) -> None:
        """Return once ``local`` is associated with ``peer``, at once if it is already.

        If the peer doesn't answer where it was, the overlay is asked where it is now.

        Raises:
            AssociationFailed: it could not be done within ``timeout`` seconds.
        """

    async def owns(self, aor: str, hit: Hit) -> bool:
        """Whether ``hit`` may speak as the canonical ``aor``; may take a lookup, never raises."""

    async def publish(self, aor: str, port: int) -> None:
        """Say in the DHT that ``aor`` answers at ``port`` of its HIT, until ``withdraw``.

        A second call changes nothing but the port, and costs no put otherwise. Returns at once:
        the put goes on behind, is retried, and refreshed.

        Raises:
            NotFound: this peer does not hold ``aor``.
        """

    async def withdraw(self, aor: str) -> None:
        """Take ``aor`` out of the DHT (a tombstone); harmless when it is not in."""

    def advertise(self, kind: str, port: int = 0, capacity: Callable[[], int] = lambda: 0) -> None:
        """Say in the service's overlay that this peer offers ``kind``, until ``unadvertise``.

        Returns at once: the put goes on behind, is retried, and refreshed.

        Args:
            kind: type of service, 1–16 of a–z, 0–9 and ``-``.
            port: of our HIT; 0 where the host itself serves.
            capacity: about how many more it could serve, asked at each refresh.

        Raises:
            ConfigError: ``kind`` is no type of service.
        """

    async def unadvertise(self, kind: str) -> None:
        """Take it out of the DHT (a tombstone); harmless when it is not in."""

    async def find(self, kind: str) -> list[Provider]:
        """Who offers ``kind``, verified, roomy ones first, without ourselves.

        ``host.learn`` was called for each.

        Raises:
            LookupFailed: the overlay could not be asked.
        """

    def judge(self, evidence: Evidence) -> Verdict:
        """What to do with who knocks; see overlay.policy."""


class Service(Protocol):
    """Something a peer runs beside the DHT."""

    async def start(self) -> None:
        """Open what it needs; raise rather than start half."""

    async def stop(self) -> None:
        """Release everything; must not raise."""

    def status(self) -> Mapping[str, Any]:
        """What ``p2psip status`` shows of it; JSON-ready."""


def load_services(
    peer: Peer,
    tables: Mapping[str, Mapping[str, Any]],
    installed: Iterable[EntryPoint] | None = None,
) -> list[Service]:
    """Construct, but do not start, the services a profile names, in its order.

    Raises:
        ServiceNotInstalled: no entry point has that name.
        ConfigError: the service rejects its table.
    """
    found = entry_points(group="p2psip.services") if installed is None else installed
    by_name = {point.name: point for point in found}
    services: list[Service] = []
    for name, table in tables.items():
        if name not in by_name:
            raise ServiceNotInstalled(f"services.{name}: not installed; have {sorted(by_name)}")
        services.append(by_name[name].load()(peer, table))
    return services
