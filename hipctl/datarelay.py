"""The data relay: an address for each client, and with whom it may speak there (RFC 9028 §4.12).

The shell lends opened ports in advance, so that R2 can name one. Behind a router that maps ports
they all share one (§7.5 would rather not): control packets are told apart by the receiver's HIT,
data by the peer's address and the SPI, of which the first to name them has the use.

ESP is forwarded by two tables of plain look-ups, which ``relayports`` does: by the client's
address and the SPI, and by the peer's address and the SPI. A client names each peer in
PEER_PERMISSION, for five minutes; nothing else passes, but control packets, which ``relay`` hands
on.
"""

import heapq
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from hipctl import params
from hipctl.actions import Address, Pair
from hipctl.clients import Account, Client
from hipctl.constants import PERMISSION_LIFETIME, SPI_RESERVED, RegistrationType
from hipctl.errors import Rejected
from hipctl.identity import Hit
from hipctl.limits import network

PERMISSIONS_MAX: Final = 128  # of one client
PORTS_MAX: Final = 4_096  # that wait to be used
_ALARMS_LEAST: Final = 1_024  # that may wait before we look which of them are for nothing
_UDP: Final = 17

Send = Callable[[bytes, Address], None]
_NOBODY: Final[Mapping[Hit, Client]] = {}
Named = tuple[Address, int, int]
"""(the peer's address, SPI to the peer, SPI from the peer)."""


class Flow:
    """One direction between a client and a peer of its.

    Attributes:
        to: where packets go.
        source: from which of our addresses; None: the shell's choice.
        account: who pays for it.
        send: sends from ``source``; for the shell, which fills it in.
        push: the same through a socket that is for this address only.
        used: something has passed since it was last looked at; set by the shell.
    """

    __slots__ = ("account", "push", "send", "source", "to", "used")

    def __init__(self, to: Address, source: Address | None, account: Account) -> None:
        self.to = to
        self.source = source
        self.account = account
        self.send: Send | None = None
        self.push: Callable[[bytes], int] | None = None
        self.used = False


@dataclass(slots=True)
class Permission:
    """One peer of one client.

    Attributes:
        expires: monotonic seconds.
        up: from the client to the peer; ``down`` back; None while the client is nowhere.
        down: see ``up``.
        used_at: when something had passed, as far as was looked at it; first when it was made.
        at: the client's address that ``up`` is filed under.
        alarm: when we look at it next.
    """

    expires: float
    up: Flow
    down: Flow
    used_at: float
    at: Address | None = None
    alarm: float = 0.0


class DataRelay:
    """Addresses, permissions and flows of all clients.

    Attributes:
        up: client's address -> SPI -> flow to the peer.
        down: relayed address -> peer's address -> SPI -> flow to the client.
        closed: relayed addresses that nobody uses any more: for the shell, to close them.
        changed: one was taken or given back since the shell was told.
        shared: the address that all share; None: each has its own.
    """

    def __init__(self, ours: Container[int], counters: Counter[str]) -> None:
        """Set up.

        Args:
            ours: SPIs under which we ourselves receive.
            counters: of what is refused.
        """
        self.up: dict[Address, dict[int, Flow]] = {}
        self.down: dict[Address, dict[Address, dict[int, Flow]]] = {}
        self.closed: list[Address] = []
        self.changed = False
        self.shared: Address | None = None
        self._ours = ours
        self._counters = counters
        self._free: deque[Address] = deque()
        self._owners: dict[Address, dict[Hit, Client]] = {}
        self._permissions: dict[Pair, dict[Named, Permission]] = {}
        self._named: dict[Pair, Counter[Address]] = {}  # permissions of each address
        self._alarms: list[tuple[float, int, Pair, Named]] = []
        self._alarm_number = 0
        self._alarms_max = _ALARMS_LEAST

    # -- addresses -----------------------------------------------------------------------------

    def lend(self, address: Address) -> None:
        """The shell has opened a port there that a client may have."""
        if self.shared is not None:
            self.closed.append(address)
            self.changed = True
        elif len(self._free) < PORTS_MAX and address not in self._owners:
            self._free.append(address)

    def share(self, address: Address | None) -> None:
        """Let all clients have this one from now on; those who have another one have to go first.

        Nobody is lent an address of its own until it is None again.
        """
        for unused in (*self._free, *([self.shared] if self.shared is not None else ())):
            self._owners.pop(unused, None)
            self.down.pop(unused, None)
        self.closed += self._free
        self._free.clear()
        self.shared = address
        self.changed = True
        if address is not None:
            self._owners[address] = {}
            self.down[address] = {}

    @property
    def free(self) -> int:
        """Addresses that wait for a client."""
        return len(self._free)

    def lent(self, address: Address) -> bool:
        """Whether it is a relayed address."""
        return address in self._owners

    def owner(self, relayed: Address, hit: Hit) -> Client | None:
        """Whose relayed address it is, of clients with that HIT."""
        return self._owners.get(relayed, _NOBODY).get(hit)

    def open(self, client: Client) -> Address | None:
        """See ``registrar.Opener``."""
        address = self.shared
        if address is None:
            if not self._free:
                self._counters["no relayed address left"] += 1
                return None
            address = self._free.popleft()
            self._owners[address] = {}
            self.down[address] = {}
        self.changed = True
        self._owners[address][client.hit] = client
        self._permissions[client.pair] = {}
        self._named[client.pair] = Counter()
        return address

    def close(self, client: Client) -> None:
        """See ``registrar.Opener``; the number isn't used again (RFC 9028 §7.5)."""
        self.deactivate(client)
        self._permissions.pop(client.pair, None)
        self._named.pop(client.pair, None)
        relayed = client.relayed
        if relayed is None:
            return
        self.changed = True
        if relayed != self.shared:
            del self._owners[relayed], self.down[relayed]
            self.closed.append(relayed)
        elif self._owners[relayed].get(client.hit) is client:
            del self._owners[relayed][client.hit]

    # -- permissions ---------------------------------------------------------------------------

    def permit(self, client: Client, asked: params.PeerPermission, now: float) -> None:
        """Let a peer of the client's speak with it, for five minutes (RFC 9028 §4.12.1).

        Raises:
            Rejected: it asks for what is not its own, or an SPI that leads elsewhere already.
        """
        account = client.accounts.get(RegistrationType.RELAY_UDP_ESP)
        relayed = client.relayed
        if account is None or relayed is None or asked.relayed != relayed:
            raise Rejected("PEER_PERMISSION for an address that is not the client's")
        if asked.protocol != _UDP or min(asked.spi_out, asked.spi_in) <= SPI_RESERVED:
            raise Rejected("bad PEER_PERMISSION")
        named = asked.peer, asked.spi_out, asked.spi_in
        permissions = self._permissions[client.pair]
        permission = permissions.get(named)
        if permission is not None:
            permission.expires = now + PERMISSION_LIFETIME
            if permission.at is None:
                self._file(client, named, permission)
            return
        if asked.spi_out in self._ours:
            raise Rejected("SPI conflict")
        self._check(client, relayed, named, account)
        if 2 * len(permissions) >= PERMISSIONS_MAX:
            _look(permissions.values(), now)
        if len(permissions) >= PERMISSIONS_MAX:
            self._remove(client, _least(permissions))
        up = Flow(asked.peer, relayed, account)
        down = Flow(asked.peer, None, account)  # whereto is known when it is filed
        permission = Permission(now + PERMISSION_LIFETIME, up, down, now)
        permissions[named] = permission
        self._named[client.pair][asked.peer] += 1
        self._file(client, named, permission)
        self._alarm(permission, client.pair, named)

    def _check(self, client: Client, relayed: Address, named: Named, account: Account) -> None:
        """Whether neither SPI leads elsewhere (RFC 9028 §4.12.3).

        With the same inbound SPI it is the same peer, elsewhere now: the newest address counts.
        While an association gets new keys, its peer has two SPIs either way.
        """
        peer, spi_out, spi_in = named
        there = self.down[relayed].get(peer, {}).get(spi_in)
        if there is not None and there.account is not account:
            raise Rejected("SPI conflict")
        for other in list(self._permissions[client.pair]):
            if other[1] != spi_out or other[0] == peer:
                continue
            if other[2] != spi_in:
                raise Rejected("SPI conflict")
            self._remove(client, other)
        path = client.path
        flow = self.up.get(path.to, {}).get(spi_out) if path is not None else None
        if flow is not None and not _shared(flow, client, peer):
            raise Rejected("SPI conflict")

    def _file(self, client: Client, named: Named, permission: Permission) -> None:
        """Let packets find it, if we know where the client is."""
        path, (peer, spi_out, spi_in) = client.path, named
        if path is None or client.relayed is None:
            return
        flows, up, down = self.up.get(path.to, {}), permission.up, permission.down
        there = self.down[client.relayed].get(peer, {}).get(spi_in, down)
        if there.account is not down.account or (
            spi_out in flows and not _shared(flows[spi_out], client, peer)
        ):
            self._counters["SPI conflict"] += 1
            return
        self.up.setdefault(path.to, flows)[spi_out] = up
        up.send = up.push = None  # its socket may have been closed meanwhile
        down.to, down.source, down.send, down.push = path.to, path.source, None, None
        self.down[client.relayed].setdefault(peer, {})[spi_in] = down
        permission.at = path.to

    def _unfile(self, client: Client, named: Named, permission: Permission) -> None:
        at, (peer, spi_out, spi_in) = permission.at, named
        if at is None or client.relayed is None:
            return
        permission.at = None
        up, down = self.up.get(at, {}), self.down[client.relayed].get(peer, {})
        if up.get(spi_out) is permission.up:
            del up[spi_out]
        if not up:
            self.up.pop(at, None)
        if down.get(spi_in) is permission.down:
            del down[spi_in]
        if not down:
            self.down[client.relayed].pop(peer, None)

    def _remove(self, client: Client, named: Named) -> None:
        self._unfile(client, named, self._permissions[client.pair].pop(named))
        addresses = self._named[client.pair]
        addresses[named[0]] -= 1
        if not addresses[named[0]]:
            del addresses[named[0]]

    def allows(self, client: Client, peer: Address) -> bool:
        """Whether the client has named that peer."""
        return peer in self._named.get(client.pair, ())

    def deactivate(self, client: Client) -> None:
        """See ``registrar.Opener``."""
        for named in [*self._permissions.get(client.pair, ())]:
            self._remove(client, named)

    def moved(self, client: Client) -> None:
        """See ``registrar.Opener``: what it has permitted goes with it.

        So a NAT that gives it another address costs it nothing. If it says itself that it has
        moved, it is to name its peers anew: then ``deactivate`` comes first.
        """
        for named, permission in self._permissions.get(client.pair, {}).items():
            self._unfile(client, named, permission)
            self._file(client, named, permission)

    def count(self, client: Client) -> int:
        """How many permissions it has."""
        return len(self._permissions.get(client.pair, ()))

    # -- time ----------------------------------------------------------------------------------

    def _alarm(self, permission: Permission, pair: Pair, named: Named) -> None:
        permission.alarm = permission.expires
        self._alarm_number += 1
        heapq.heappush(self._alarms, (permission.alarm, self._alarm_number, pair, named))
        if len(self._alarms) > self._alarms_max:
            self._sweep()

    def _sweep(self) -> None:
        """Forget alarms of permissions that are gone: who names many must not fill our memory."""
        there = [
            (permission.alarm, pair, named)
            for pair, permissions in self._permissions.items()
            for named, permission in permissions.items()
        ]
        self._alarms = [(at, i, pair, named) for i, (at, pair, named) in enumerate(there)]
        heapq.heapify(self._alarms)
        self._alarms_max = max(_ALARMS_LEAST, 2 * len(self._alarms))

    def deadline(self) -> float | None:
        """See sansio.Machine."""
        return self._alarms[0][0] if self._alarms else None

    def on_time(self, now: float, client: Callable[[Pair], Client | None]) -> None:
        """Remove permissions that have ended.

        Args:
            now: monotonic seconds.
            client: finds the client of an association.
        """
        while self._alarms and self._alarms[0][0] <= now:
            at, _, pair, named = heapq.heappop(self._alarms)
            permission = self._permissions.get(pair, {}).get(named)
            owner = client(pair)
            if permission is None or owner is None or permission.alarm != at:
                continue
            if permission.expires <= now:
                self._remove(owner, named)
            else:
                self._alarm(permission, pair, named)


def _look(permissions: Iterable[Permission], now: float) -> None:
    """See through which of them something has passed."""
    for permission in permissions:
        if permission.up.used or permission.down.used:
            permission.used_at = now
            permission.up.used = permission.down.used = False


def _least(permissions: Mapping[Named, Permission]) -> Named:
    """Which one makes room: the one whose use is the longest ago.

    A host that has more than half makes room itself: so a peer that changes its keys again and
    again, and uses them all, costs other peers of the client nothing. Many who hide may be behind
    one relay, though: of them, too, who speaks with the client now goes on.
    """
    hosts = Counter(network(peer[0]) for peer, _, _ in permissions)
    [(most, count)] = hosts.most_common(1)
    pool = [n for n in permissions if 2 * count <= len(permissions) or network(n[0][0]) == most]
    return min(pool, key=lambda n: (permissions[n].used_at, permissions[n].expires))


def _shared(flow: Flow, client: Client, peer: Address) -> bool:
    """Whether it is the client's own, and not another HIT's of the same host that was faster."""
    account = client.accounts.get(RegistrationType.RELAY_UDP_ESP)
    return flow.to == peer and flow.account is account
