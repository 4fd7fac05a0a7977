"""Shell: what a host says of where it is: its contacts, and what its routers have mapped."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from hipctl import contact as contacts
from hipctl.actions import Address
from hipctl.engine import Engine
from hipctl.hostconfig import HostConfig
from hipctl.hostservices import HostServices
from hipctl.identity import Hit
from hipctl.interface import Reachability
from hipctl.mapped import Mapped
from hipctl.portmap import OnChange, PortMapper
from hipctl.ports import ANYWHERE, Ports
from hipctl.relayports import Here


class Announcing:
    """The contacts of one host, from ``start`` to ``stop``."""

    def __init__(
        self,
        config: HostConfig,
        hits: Sequence[Hit],
        engine: Engine,
        ports: Ports,
        *,
        services: HostServices,
        map_port: Callable[[int, OnChange], PortMapper] | None,
        on_changed: Callable[[], None],
    ) -> None:
        """Set up.

        Args:
            config: of the host.
            hits: of the host.
            engine: of the host.
            ports: its UDP ports.
            services: knows its servers.
            map_port: makes what asks routers; None: nobody does.
            on_changed: called when a contact says something else than before.
        """
        self._config = config
        self._hits = hits
        self._engine = engine
        self._ports = ports
        self._services = services
        self._map_port = map_port if config.port_mapping else None
        self._on_changed = on_changed
        self._mapper: PortMapper | None = None
        self._ours: Sequence[Address] = ()
        self._contact: tuple[bytes, ...] = ()
        self._hidden: set[Hit] = set()
        self._open = False
        self._now: Callable[[], float]

    def start(self, now: Callable[[], float]) -> None:
        """Changes are told from now on; ``now`` gives monotonic seconds."""
        self._now, self._open = now, True

    def stop(self) -> None:
        """Nothing is told any more; harmless when done twice."""
        self._open = False

    async def closed(self) -> None:
        """Give up what routers have mapped."""
        if self._mapper is not None:
            await self._mapper.close()

    # what others ask

    def contact(self, hit: Hit) -> bytes:
        """See ``interface.Host``."""
        if self._config.announce and hit not in self._hidden:
            return contacts.contact_from_addresses(self._config.announce)
        found: Sequence[Address] = ()
        if self._config.locators and hit not in self._hidden:
            found = self._reachable()
        return contacts.compose(found, self._services.servers(hit))

    def through(self, hit: Hit, server: Hit) -> bytes:
        """See ``interface.Host``."""
        found = [each for each in self._services.servers(hit) if each.hit == server]
        return contacts.compose((), found) if found else b""

    def hide(self, hit: Hit, *, hidden: bool) -> None:
        """See ``interface.Host``."""
        if hidden is not (hit in self._hidden):
            self._hidden ^= {hit}
            if self._open:
                self.tell()

    def reachability(self) -> Reachability:
        """See ``interface.Host``."""
        own = self._config.announce or self._reachable()
        direct = contacts.compose(own, ()) if own else b""
        ours = self._ports.reachable(True, self._now())
        found = self._services.reachability(ours, direct)
        if self._mapper is None:
            return found
        mapped = tuple((each.protocol.value, each.external) for each in self._mapper.announced)
        return replace(found, mapped=mapped, routers=tuple(self._mapper.describe()))

    def relay_at(self) -> Here | None:
        """At which IP address others reach relayed addresses: rather an IPv4 one.

        And whether a router has to be asked; then, the address is its.
        """
        now, at = self._now(), [(ip, False) for ip, _ in self._config.announce]
        if not at:
            mapped = [ip for (ip, _), _ in self._engine.mapped]
            own = [ip for ip, _ in self._ports.reachable(False, now) if ip not in mapped]
            at = [(ip, True) for ip in mapped] + [(ip, False) for ip in own]
        at = at or [(ip, False) for ip, _ in self._ports.reachable(True, now)]
        return min(at, key=lambda each: ":" in each[0], default=None)

    def _reachable(self) -> list[Address]:
        """Where others may reach us without anybody's help, what routers have mapped first."""
        own = self._ports.reachable(self._config.announce_private, self._now())
        return [*(outer for outer, inner in self._engine.mapped if outer != inner), *own]

    # what happens

    def moved(self, ours: Sequence[Address]) -> None:
        """We are at these addresses; the routers there are asked, once ``ask_routers`` was."""
        self._ours = ours
        if self._mapper is not None:
            self._mapper.moved(ours)

    async def ask_routers(self) -> None:
        """Have our port mapped: the one that is bound to all addresses, the IPv4 one first."""
        port = next(port for ip, port in self._ports.addresses if ip in ANYWHERE)
        if self._map_port is not None:
            self._mapper = self._map_port(port, self._on_mapped)
            await self._mapper.start(self._ours)

    def _on_mapped(self, mapped: Sequence[Mapped]) -> None:
        """Routers let others reach us so from now on."""
        if self._open:
            self._engine.set_mapped([(each.external, each.internal) for each in mapped])
            self.know_own_addresses()
            self._services.ports.tend()
            self.tell()

    def tell(self) -> None:
        """Our contacts may have changed: say so if they have."""
        contact = tuple(self.contact(hit) for hit in self._hits)
        if contact != self._contact:
            self._contact = contact
            self._on_changed()

    def know_own_addresses(self) -> None:
        """The relay sends nothing to ourselves."""
        found = self._ports.reachable(True, self._now())
        mapped = [outer for outer, _ in self._engine.mapped]
        ours = {*self._ports.addresses, *found, *self._config.announce, *mapped}
        self._engine.serving.relay.ours = frozenset(ours)
