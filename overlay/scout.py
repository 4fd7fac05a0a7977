"""Shell: finds servers in the overlays of one HIT, among its neighbours, and in memory."""

from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple

from hipctl import Hit, Host, RegistrationType
from overlay.errors import OverlayError
from overlay.node import Node
from overlay.providers import Providers
from overlay.servers import CONTROL, DATA, RENDEZVOUS, Found

KINDS: Final = {"relay": frozenset((CONTROL, DATA)), "rvs": frozenset((RENDEZVOUS,))}
USEFUL: Final = frozenset((CONTROL, DATA, RENDEZVOUS))
PING_SECONDS: Final = 3.0
MOST_KNOWN: Final = 1_024  # servers whose overlay and contact are remembered


class Home(NamedTuple):
    """One overlay in which the HIT takes part."""

    node: Node
    providers: Providers


class Scout:
    """Finds servers.

    Attributes:
        rendezvous: whether the last search has seen rendezvous servers.

    Args:
        host: the HIP host.
        local: the HIT.
        homes: its overlays.
        rng: random bytes.
    """

    def __init__(
        self, host: Host, local: Hit, homes: Sequence[Home], rng: Callable[[int], bytes]
    ) -> None:
        self.rendezvous = False
        self._host = host
        self._local = local
        self._homes = homes
        self._rng = rng
        self._known: dict[Hit, tuple[Node, bytes]] = {}

    def node(self, hit: Hit) -> Node | None:
        """Our node in the overlay where a server was found; who is asked for isn't forgotten."""
        known = self._known.pop(hit, None)
        if known is None:
            return None
        self._known[hit] = known
        return known[0]

    async def ping(self, hit: Hit) -> float | None:
        """Seconds that a server takes to answer, in the overlay where it was found; None: long."""
        node = self.node(hit)
        return None if node is None else await node.ping(hit, PING_SECONDS)

    def offered(self, hit: Hit) -> frozenset[RegistrationType]:
        """What a peer said in its exchange with us, as far as it is of use."""
        return (self._host.offered(hit, local=self._local) or frozenset()) & USEFUL

    async def search(self, *, visible: bool) -> list[Found]:
        """Ask the overlays, and look among the neighbours; in no order.

        Args:
            visible: rendezvous servers will do.
        """
        found: dict[Hit, Found] = {}
        for home in self._homes:
            for kind in KINDS:
                for each in await self._providers(home, kind):
                    before = found.get(each.hit)
                    types = each.types | (before.types if before else frozenset())
                    found[each.hit] = each._replace(types=types)
            found |= {each.hit: each for each in self._offering(home)}
        self.rendezvous = any(RENDEZVOUS in each.types for each in found.values())
        usable = USEFUL if visible else USEFUL - {RENDEZVOUS}
        offers = [each._replace(types=each.types & usable) for each in found.values()]
        offers = [each for each in offers if each.types]
        offers.sort(key=lambda each: self._rng(4))  # not everybody asks the same one first
        return offers

    async def _providers(self, home: Home, kind: str) -> list[Found]:
        """Those whose SVC records say so."""
        try:
            providers = await home.providers.find(kind)
        except OverlayError:
            return []
        for each in providers:
            self._know(each.hit, home.node, each.contact)
        return [
            Found(each.hit, KINDS[kind], self._host.groups(each.contact), each.capacity > 0)
            for each in providers
        ]

    def _offering(self, home: Home) -> list[Found]:
        """Those of our neighbours that said so in the exchange."""
        found = []
        for contact in home.node.engine.table.contacts():
            types = self.offered(contact.hit)
            if types and contact.hit not in self._host.hits:
                self._know(contact.hit, home.node, contact.contact)
                found.append(Found(contact.hit, types, contact.groups, proven=True))
        return found

    def seed(self, hit: Hit) -> list[Found]:
        """One of the profile's seeds, if it has said in the exchange that it serves others."""
        types = self.offered(hit)
        for home in self._homes:
            for seed in home.node.seeds:
                if seed.hit == hit and types and hit not in self._host.hits:
                    contact = home.node.engine.contact(hit)
                    self._know(hit, home.node, contact)
                    return [Found(hit, types, self._host.groups(contact), proven=True)]
        return []

    def _know(self, hit: Hit, node: Node, contact: bytes) -> None:
        self._known.pop(hit, None)
        self._known[hit] = node, contact
        if len(self._known) > MOST_KNOWN:
            del self._known[next(iter(self._known))]

    def recall(self) -> list[Found]:
        """Those who served us before, as the disk has it."""
        found = []
        for home in self._homes:
            node = home.node
            for hit, contact, types in node.store.servers(node.overlay.id):
                if hit not in self._host.hits:
                    self._know(hit, node, contact)
                    node.learn(hit, contact)
                    known = frozenset(type_ for type_ in USEFUL if type_ in types)
                    found.append(Found(hit, known, self._host.groups(contact), good=True))
        return found

    def keep(self, hit: Hit, types: Collection[RegistrationType]) -> None:
        """Remember one that serves us well."""
        if hit in self._known:
            node, contact = self._known[hit]
            node.store.keep_server(node.overlay.id, hit, contact, types, node.wall())
