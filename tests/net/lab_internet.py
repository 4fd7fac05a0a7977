"""An Internet in network namespaces: public hosts, and homes behind routers that do real NAT.

    with Internet() as net:
        net.public("relay")
        net.home("h1", "symmetric")
        net.host("alice", "h1")
        subprocess.run([*net.inside("alice"), "ping", "-c1", net.address("relay")])

Nothing of it touches the machine outside the namespaces. Its addresses look public (Python says
``is_global``): whoever is at link n of the core has 5.n.0.0/16 and 2a00:n::/32. There the link is
5.n.0.0/24 and 2a00:n::/64, and a home without a NAT 5.n.1.0/24; with a NAT it has 192.168.m.0/24,
and with IPv6 another /64 of what it is behind. Needs root.
"""

import itertools
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Self

from net.lab_mapper import Mapper
from net.lab_namespaces import PREFIX, entered, forget_flows, remove, run, sweep, tune
from net.lab_routers import HOSTS, ROUTERS, Kind, Router, rules
from net.lab_wire import Wire

INTERNET, WIRES = "internet", "internet.wires"
METRIC, TABLE = 100, 1_000  # of link 0
CUT = """
table inet cut {
    set ends { type ifname; }
    chain arriving { type filter hook prerouting priority -300; iifname @ends drop; }
    chain leaving { type filter hook postrouting priority 300; oifname @ends drop; }
}
"""

_numbers = itertools.count(1)


@dataclass(slots=True)
class _Attachment:
    """A cable from a node to a place, and what the node has there."""

    place: str
    device: str  # at the node
    end: str  # at the place
    addresses: dict[int, str]  # IP version -> address
    gateways: dict[int, str]
    there: list[str]  # what makes the end useful
    wire: Wire | None = None


@dataclass(slots=True)
class _Node:
    """A host, or a home's router as seen from outside."""

    number: int
    attachments: dict[str, _Attachment] = field(default_factory=dict)  # the oldest first
    links: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    by_source: bool = True


@dataclass(slots=True)
class _Home:
    """A router and the LAN behind it."""

    kind: Kind
    router: Router
    lan: str  # the first three bytes of its IPv4 addresses, with dots
    lan6: str  # a /64, up to "::"
    versions: tuple[int, ...]
    life: int = 0
    mapper: Mapper | None = None
    leases: dict[str, int] = field(default_factory=dict)  # node -> its place in the LAN, from 0

    def address(self, node: str, version: int) -> str:
        last = self.leases.setdefault(node, len(self.leases)) + 2
        return f"{self.lan}.{last}" if version == 4 else f"{self.lan6}::{last:x}"

    @property
    def hosts(self) -> list[str]:
        return [f"{self.lan}.{number + 2}" for number in range(HOSTS)]


class Internet:
    """From ``__enter__`` to ``__exit__``; every name is a namespace of its own.

    Args:
        versions: the IP versions that whatever is made gets unless it is told otherwise.
    """

    def __init__(self, versions: Collection[int] = (4,)) -> None:
        self._versions = tuple(versions)
        self._prefix = f"{PREFIX}{os.getpid()}-{next(_numbers)}-"
        self._nodes: dict[str, _Node] = {}
        self._homes: dict[str, _Home] = {}
        self._cores, self._wires = itertools.count(1), itertools.count(1)

    def __enter__(self) -> Self:
        sweep()
        try:
            self._make(INTERNET, router=True)
            self._nft(INTERNET, CUT)
            for version in (4, 6):  # what goes to nobody vanishes
                self._ip(INTERNET, "route add blackhole default", version=version)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for home in self._homes.values():
            if home.mapper:
                home.mapper.stop()
        for node in self._nodes.values():
            for attachment in node.attachments.values():
                if attachment.wire:
                    attachment.wire.stop()
        remove(self._prefix)

    # what there is

    def public(self, name: str, versions: Collection[int] = ()) -> None:
        """Make a host with a public address."""
        self.host(name, INTERNET, versions=versions)

    def home(
        self,
        name: str,
        kind: str,
        *,
        behind: str = INTERNET,
        versions: Collection[int] = (),
        lan: str = "",
        forgets: int | None = None,
        udp_ports: Collection[int] = (),
    ) -> None:
        """Make a router and an empty LAN behind it.

        Args:
            name: of the router.
            kind: a ``Kind`` or its value.
            behind: another home whose LAN its way out is.
            versions: the IP versions at its LAN.
            lan: the first three bytes of the addresses there ("192.168.1"), several homes may
                have the same; by default it is the only one.
            forgets: seconds after which it forgets UDP mappings, if not those of its kind.
            udp_ports: the only ones to which it lets UDP leave, if not those of its kind.
        """
        kind = Kind(kind)
        if kind is Kind.DOUBLE:
            provider = f"{name}.provider"
            shared = f"100.64.{len(self._nodes)}"  # RFC 6598
            self.home(provider, "port-restricted", behind=behind, versions=versions, lan=shared)
            behind = provider
        router = ROUTERS[kind]
        if behind != INTERNET and not router.translates:
            raise ValueError(f"a home of kind {kind} can only be at the internet itself")
        router = replace(
            router,
            forgets=forgets or router.forgets,
            udp_ports=tuple(udp_ports) or router.udp_ports,
        )
        versions = tuple(versions) or self._versions
        if router.maps and 4 not in versions:
            raise ValueError("the mapper needs IPv4")
        node = self._make(name, router=True)
        self._lay(name, behind, "wan", versions)
        outer = next(iter(node.attachments.values())).addresses
        if not lan:
            lan = f"192.168.{node.number}"
            if 4 in outer and not router.translates:
                lan = f"5.{outer[4].split('.')[1]}.1"
        lan6 = ""
        if 6 in outer:
            lan6 = f"2a00:{outer[6].split(':')[1]}:{node.number:x}:1"
        home = _Home(kind, router, lan, lan6, versions)
        self._homes[name] = home
        self._lan(name, home, behind)
        self._load(name)

    def host(
        self, name: str, home: str, *, versions: Collection[int] = (), by_source: bool = True
    ) -> None:
        """Make a host and attach it to a home, or to the internet.

        Args:
            name: of the host.
            home: where it is first.
            versions: its IP versions there, at most those that the home has.
            by_source: a packet leaves through the link whose address it bears, as on a
                telephone, and not always through the first one, as on a PC.
        """
        self._make(name).by_source = by_source
        self.attach(name, home, versions)

    def attach(self, name: str, home: str, versions: Collection[int] = ()) -> None:
        """Lay a cable from a host to a (further) home, or to the internet."""
        node = self._nodes[name]
        if home in node.attachments:
            raise ValueError(f"{name} is already at {home}")
        versions = tuple(versions) or self._versions_at(home)
        self._lay(name, home, f"link{next(node.links)}", versions)

    def detach(self, name: str, home: str) -> None:
        """Take the cable away, and with it address and routes."""
        attachment = self._nodes[name].attachments.pop(home)
        self._ip(name, f"link del {attachment.device}")
        if attachment.wire:
            attachment.wire.stop()
            self._ip(attachment.place, f"link del {attachment.end}")
        if self._nodes[name].by_source:
            table = TABLE + int(attachment.device.removeprefix("link"))
            for version, address in attachment.addresses.items():
                self._ip(name, f"rule del from {address} lookup {table}", version=version)

    def move(self, name: str, home: str, first: str = "make") -> None:
        """From where a host is to another home.

        Args:
            name: of the host.
            home: where it goes.
            first: "make": it has both for a moment; "break": it has none for a moment.
        """
        before = list(self._nodes[name].attachments)
        if first == "make":
            self.attach(name, home)
        for place in before:
            self.detach(name, place)
        if first != "make":
            self.attach(name, home)

    def cut(self, name: str, place: str | None = None) -> None:
        """Lose everything on the link of a host or a home to where it is; nobody is told."""
        attachment = self._at(name, place)
        if attachment.place == INTERNET:
            self._nft(INTERNET, f'add element inet cut ends {{ "{attachment.end}" }}')
        else:
            self._ip(attachment.place, f"link set {attachment.end} nomaster")

    def mend(self, name: str, place: str | None = None) -> None:
        """Undo a cut."""
        attachment = self._at(name, place)
        if attachment.place == INTERNET:
            self._nft(INTERNET, f'delete element inet cut ends {{ "{attachment.end}" }}')
        else:
            self._ip(attachment.place, f"link set {attachment.end} master lan")

    def worsen(
        self,
        name: str,
        latency: float = 0.0,
        loss: float = 0.0,
        place: str | None = None,
        seed: int = 1,
    ) -> None:
        """Give the link of a host or a home to where it is a delay and a loss, or change them.

        The first time the link goes down for a moment: do it before programs start.

        Args:
            name: of the host or home.
            latency: seconds, each way.
            loss: the share of packets that vanish, each way.
            place: to which link, if it has several.
            seed: of the loss; the first time counts.
        """
        attachment = self._at(name, place)
        if attachment.wire:
            attachment.wire.set(latency, loss)
            return
        if WIRES not in self._nodes:
            self._make(WIRES)
            tune(self.namespace(WIRES), ipv6__conf__default__disable_ipv6=1)
        number, wires, end = next(self._wires), self.namespace(WIRES), attachment.end
        one, two = f"one{number}", f"two{number}"
        self._ip(
            attachment.place,
            f"link set {end} netns {wires} name {one}",
            f"link add {end} type veth peer name {two} netns {wires}",
            *attachment.there,
        )
        self._ip(WIRES, f"link set {one} up", f"link set {two} up")
        with self.entered(WIRES):
            attachment.wire = Wire(one, two, latency, loss, seed)

    def reboot(self, home: str) -> None:
        """Let a router forget all flows and mappings; those that follow get other ports.

        It takes no time; ``cut`` before and ``mend`` after make one that does.
        """
        there = self._homes[home]
        there.life += 1
        if there.mapper:
            there.mapper.stop()
        self._load(home)

    # where it is

    def address(self, name: str, version: int = 4, place: str | None = None) -> str:
        """A host's address where it is (first), or the outer one of a home's router."""
        return self._at(name, place).addresses[version]

    def gateway(self, name: str, version: int = 4, place: str | None = None) -> str:
        """The address of the router to which a host sends."""
        return self._at(name, place).gateways[version]

    def namespace(self, name: str) -> str:
        """Its full name, for ``ip netns exec``."""
        return self._prefix + name

    def inside(self, name: str) -> list[str]:
        """What to put before a command so that it runs there."""
        return ["ip", "netns", "exec", self.namespace(name)]

    def entered(self, name: str) -> AbstractContextManager[None]:
        """``with net.entered("alice"):`` sockets opened inside are alice's; never await inside."""
        return entered(self.namespace(name))

    def ip(self, name: str, command: str) -> None:
        """Run ``ip`` on one namespace: ``net.ip("alice", "link set link1 down")``."""
        self._ip(name, command)

    @property
    def names(self) -> list[str]:
        """All hosts and homes as they were made, but a home after its first host."""
        found: list[str] = []
        homes = [name for name in self._nodes if name in self._homes]
        for name in self._nodes:
            if name not in {INTERNET, WIRES, *self._homes}:
                found.append(name)
                found += [home for home in self._way(name) if home not in found]
        return [*found, *(home for home in homes if home not in found)]

    def _way(self, name: str) -> list[str]:
        """The homes from a host to the internet."""
        places = [place for place in self._nodes[name].attachments if place != INTERNET]
        return [home for place in places for home in (place, *self._way(place))]

    def devices(self, name: str) -> Sequence[str]:
        """Those of a router that are no ports of its bridge."""
        return ("wan", "lan") if name in self._homes else ()

    def is_home(self, name: str) -> bool:
        """Or a host."""
        return name in self._homes

    def kind(self, home: str) -> Kind:
        """Of which kind a home is."""
        return self._homes[home].kind

    def places(self, name: str) -> dict[str, list[str]]:
        """Where a host or home is, with the addresses that it has there."""
        attachments = self._nodes[name].attachments
        return {place: list(there.addresses.values()) for place, there in attachments.items()}

    def owners(self) -> dict[str, str]:
        """Who has each address now; one that several have is the first one's."""
        return {
            address: name
            for name, node in reversed(self._nodes.items())
            for attachment in node.attachments.values()
            for address in attachment.addresses.values()
        }

    # how it is made

    def _make(self, name: str, router: bool = False) -> _Node:
        if name in self._nodes:
            raise ValueError(f"there is already a {name}")
        node = self._nodes[name] = _Node(len(self._nodes))
        namespace = self.namespace(name)
        run("ip", "netns", "add", namespace)
        tune(namespace, ipv6__conf__default__accept_dad=0)  # so no second of finding out
        if router:
            tune(namespace, ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        self._ip(name, "link set lo up")
        return node

    def _lay(self, name: str, place: str, device: str, versions: tuple[int, ...]) -> None:
        """A cable with its addresses at both ends; the way to the rest of the world."""
        node = self._nodes[name]
        number = next(self._cores) if place == INTERNET else 0
        end = f"to-{node.number}-{number}"
        there = [f"link set {end} up"]
        if place == INTERNET:
            gateways = {4: f"5.{number}.0.1", 6: f"2a00:{number:x}::1"}
            addresses = {4: f"5.{number}.0.2", 6: f"2a00:{number:x}::2"}
            there += [f"addr add {gateways[4]}/24 dev {end}"]
            there += [f"addr add {gateways[6]}/64 dev {end} nodad"]
            there += [f"route add 2a00:{number:x}::/32 via {addresses[6]} dev {end}"]
        else:
            home = self._homes[place]
            gateways = {4: f"{home.lan}.1", 6: f"{home.lan6}::1"}
            addresses = {version: home.address(name, version) for version in (4, 6)}
            there += [f"link set {end} master lan"]
        self._ip(
            name,
            f"link add {device} type veth peer name {end} netns {self.namespace(place)}",
            f"link set {device} up",
        )
        self._ip(place, *there)
        link = 0 if device == "wan" else int(device.removeprefix("link"))
        for version in versions:
            prefix, more = ("24", "") if version == 4 else ("64", " nodad")
            address, route = addresses[version], f"via {gateways[version]} dev {device}"
            lines = [
                f"addr add {address}/{prefix} dev {device}{more}",
                f"route add default {route} metric {METRIC + link}",
            ]
            if link and node.by_source:
                lines.append(f"route add default {route} table {TABLE + link}")
                lines.append(f"rule add from {address} lookup {TABLE + link}")
            self._ip(name, *lines, version=version)
        kept = {version: addresses[version] for version in versions}
        node.attachments[place] = _Attachment(place, device, end, kept, gateways, there)

    def _lan(self, name: str, home: _Home, behind: str) -> None:
        lines = ["link add lan type bridge", "link set lan up"]
        if 4 in home.versions:
            lines.append(f"addr add {home.lan}.1/24 dev lan")
        if 6 in home.versions:
            lines.append(f"addr add {home.lan6}::1/64 dev lan nodad")
        self._ip(name, *lines)
        if 4 in home.versions and not home.router.translates:
            back = f"route add {home.lan}.0/24 via {self.address(name)}"
            self._at(name, None).there.append(back)
            self._ip(INTERNET, back)
        if 6 in home.versions and behind != INTERNET:
            self._ip(behind, f"route add {home.lan6}::/64 via {self.address(name, 6)}")

    def _load(self, name: str) -> None:
        """Begin a router's life."""
        home = self._homes[name]
        self._nft(name, rules(home.router, home.hosts, home.life))
        forget_flows(self.namespace(name))
        if home.router.forgets:
            forgets = home.router.forgets
            tune(
                self.namespace(name),
                netfilter__nf_conntrack_udp_timeout=forgets,
                netfilter__nf_conntrack_udp_timeout_stream=forgets,
            )

        if home.router.maps:
            home.mapper = Mapper(self.namespace(name), f"{home.lan}.1")

    def _versions_at(self, place: str) -> tuple[int, ...]:
        return self._versions if place == INTERNET else self._homes[place].versions

    def _at(self, name: str, place: str | None) -> _Attachment:
        attachments = self._nodes[name].attachments
        if place is None:
            if not attachments:
                raise ValueError(f"{name} is nowhere")
            return next(iter(attachments.values()))
        return attachments[place]

    def _ip(self, name: str, *commands: str, version: int | None = None) -> None:
        family = [f"-{version}"] if version else []
        lines = "\n".join([*commands, ""])
        run("ip", "-n", self.namespace(name), *family, "-batch", "-", given=lines)

    def _nft(self, name: str, text: str) -> None:
        with self.entered(name):  # a child is where its parent is
            run("nft", "-f", "-", given=text)
