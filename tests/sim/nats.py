"""A simulated Internet with NATs: networks, the routers between them, and what those let pass.

internet = Internet(seed=3)
home = internet.place(Kind.PORT_RESTRICTED)
alice = internet.machine("alice", home)
LocalHost([identity], open_port=alice.open, watch=alice.watch)

A NAT is described in the words of RFC 4787. All homes have the same private addresses, as real
ones do. IPv6 isn't translated but filtered. Machines are in ``machines.py``.
"""

import asyncio
import random
from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from enum import Enum

from sim.machines import Machine
from sim.net import Address, Net

_PORTS = range(1_024, 65_536)
_LOG = 2_000  # datagrams that each network remembers
_TRACE = 20_000  # what ladders are drawn from
_MANY = 1_000  # bindings of which the dead ones are looked for


class Behaviour(Enum):
    """On what of the remote endpoint a mapping or a filter depends (RFC 4787 §4.1, §5)."""

    ENDPOINT_INDEPENDENT = 0
    ADDRESS_DEPENDENT = 1
    ADDRESS_AND_PORT_DEPENDENT = 2

    def of(self, remote: Address) -> tuple[object, ...]:
        return remote[: self.value]


@dataclass(frozen=True, slots=True)
class Nat:
    """How a router treats UDP.

    Attributes:
        mapping: whether another remote endpoint sees another address of ours.
        filtering: from whom a mapping lets packets in.
        lifetime: seconds after which a mapping that nobody used is forgotten.
        inbound_refreshes: whether what comes in counts as use too (RFC 4787 REQ-6 b).
        hairpin: whether two machines inside reach each other at their outer addresses.
        preserve: whether a port stays the same outside, where it is free there.
        maps: whether it grants port mappings, as a PCP router does.
        only: ports to which UDP may leave; None for all.
        translates: False for a firewall that leaves addresses alone.
    """

    mapping: Behaviour = Behaviour.ENDPOINT_INDEPENDENT
    filtering: Behaviour = Behaviour.ENDPOINT_INDEPENDENT
    lifetime: float = 120.0
    inbound_refreshes: bool = False
    hairpin: bool = True
    preserve: bool = True
    maps: bool = False
    only: Collection[int] | None = None
    translates: bool = True


_RESTRICTED = Nat(filtering=Behaviour.ADDRESS_AND_PORT_DEPENDENT, hairpin=False)
OPEN_PORT = 443  # the one to which UDP leaves a BLOCKED place


class Kind(Enum):
    """The kinds of place of the issue's matrix, and some more."""

    PUBLIC = "public"
    MAPPED = "mapped"
    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_RESTRICTED = "address-restricted"
    PORT_RESTRICTED = "port-restricted"
    SYMMETRIC = "symmetric"
    DOUBLE = "double NAT"
    BLOCKED = "blocked"
    FORGETFUL = "forgetful"


NATS = {
    Kind.MAPPED: replace(_RESTRICTED, maps=True),
    Kind.ENDPOINT_INDEPENDENT: Nat(),
    Kind.ADDRESS_RESTRICTED: Nat(filtering=Behaviour.ADDRESS_DEPENDENT),
    Kind.PORT_RESTRICTED: _RESTRICTED,
    Kind.SYMMETRIC: replace(
        _RESTRICTED, mapping=Behaviour.ADDRESS_AND_PORT_DEPENDENT, preserve=False
    ),
    Kind.DOUBLE: _RESTRICTED,  # and another one before it
    Kind.BLOCKED: replace(_RESTRICTED, only=frozenset({OPEN_PORT})),
    Kind.FORGETFUL: replace(_RESTRICTED, lifetime=30.0),
}


@dataclass(slots=True)
class Binding:
    """One mapping.

    Attributes:
        inner: the address and port inside.
        outer: what is seen of it outside.
        used: when it was used last.
        remotes: whom the filter lets in, and until when each was sent to; see ``Behaviour.of``.
        until: of a mapping that was asked for: when it ends; it lets in everybody.
    """

    inner: Address
    outer: Address
    used: float = 0.0
    remotes: dict[tuple[object, ...], float] = field(default_factory=dict)
    until: float | None = None


class Translator:
    """The table of one NAT for one IP version: addresses in, addresses out.

    Attributes:
        ip: the outer address; of no meaning where nothing is translated.
        drops: what did not pass, by reason.
    """

    def __init__(self, nat: Nat, ip: str, rng: random.Random) -> None:
        self.nat = nat
        self.ip = ip
        self.drops: Counter[str] = Counter()
        self._rng = rng
        self._by_inner: dict[tuple[object, ...], Binding] = {}
        self._by_outer: dict[Address, Binding] = {}

    def __len__(self) -> int:
        return len(self._by_outer)

    def outbound(self, source: Address, to: Address, now: float) -> Address | None:
        """What leaves: with which source; None if it may not."""
        nat = self.nat
        if nat.only is not None and to[1] not in nat.only:
            self.drops["port blocked"] += 1
            return None
        binding = self._alive(self._by_inner.get((source,)), now)
        if binding is None or binding.until is None:
            key = (source, *nat.mapping.of(to))
            binding = self._alive(self._by_inner.get(key), now) or self._bind(key, now)
        if binding is None:
            self.drops["no port is free"] += 1
            return None
        binding.used = binding.remotes[nat.filtering.of(to)] = now
        return binding.outer

    def inbound(self, source: Address, to: Address, now: float) -> Address | None:
        """What comes to an outer address: for whom it is; None if it may not pass."""
        binding = self._alive(self._by_outer.get(to), now)
        if binding is None:
            self.drops["no mapping"] += 1
            return None
        if binding.until is not None:
            return binding.inner
        remote = self.nat.filtering.of(source)
        sent = binding.remotes.get(remote)
        if sent is None or now > sent + self.nat.lifetime:
            self.drops["filtered"] += 1
            return None
        if self.nat.inbound_refreshes:
            binding.used = binding.remotes[remote] = now
        return binding.inner

    def ask(self, inner: Address, lifetime: float, now: float) -> Address | None:
        """Map a port for ``lifetime`` seconds, open to everybody; again to renew it; 0 to end it.

        Returns:
            The outer address and port; None where the router doesn't know how.
        """
        if not self.nat.maps:
            return None
        binding = self._alive(self._by_inner.get((inner,)), now)
        if (
            binding is not None and binding.until is None
        ):  # a mapping that was asked for goes first
            self._forget(binding)
            binding = None
        binding = binding or self._bind((inner,), now)
        if binding is not None:
            binding.until = now + lifetime
        return binding.outer if binding else None

    def reset(self, ip: str | None = None) -> None:
        """Forget everything; perhaps with another outer address from now on."""
        self._by_inner.clear()
        self._by_outer.clear()
        self.ip = ip or self.ip

    def _alive(self, binding: Binding | None, now: float) -> Binding | None:
        if binding is None:
            return None
        ends = binding.used + self.nat.lifetime if binding.until is None else binding.until
        if now <= ends:
            return binding
        self._forget(binding)
        return None

    def _forget(self, binding: Binding) -> None:
        self._by_outer.pop(binding.outer, None)
        for key in [key for key, each in self._by_inner.items() if each is binding]:
            del self._by_inner[key]

    def _bind(self, key: tuple[object, ...], now: float) -> Binding | None:
        inner = key[0]
        assert isinstance(inner, tuple)
        if len(self._by_outer) >= _MANY:
            for each in list(self._by_outer.values()):
                self._alive(each, now)
        outer = self._outer(inner)
        if outer is None:
            return None
        binding = self._by_inner[key] = self._by_outer[outer] = Binding(inner, outer, now)
        return binding

    def _outer(self, inner: Address) -> Address | None:
        if not self.nat.translates:
            return inner
        wanted = (self.ip, inner[1])
        if self.nat.preserve and wanted not in self._by_outer:
            return wanted
        for _ in range(len(_PORTS)):
            outer = (self.ip, self._rng.choice(_PORTS))
            if outer not in self._by_outer:
                return outer
        return None


class Segment:
    """One network: its machines, the routers of networks behind it, and its way out.

    Attributes:
        net: its latency, loss and so on, between any two in it.
        router: the way out; None in the core of the Internet.
        routers: the ways into the networks behind this one.
    """

    def __init__(self, internet: "Internet", name: str, net: Net, prefixes: tuple[str, ...]):
        self.internet = internet
        self.name = name
        self.net = net
        self.net.elsewhere = self._route
        self.router: Router | None = None
        self.routers: list[Router] = []
        self.machines: list[Machine] = []
        self._prefixes = prefixes
        self._allotted = 0

    def allot(self) -> list[str]:
        """An address of each family that there is here, never used before."""
        self._allotted += 1
        n = self._allotted
        if self.router is None:  # each in a /24 and a /48 of its own
            here = {"4": f"45.{n >> 8}.{n & 255}.1", "6": f"2400:{n:x}::1"}
            return [here[family] for family in self.internet.families]
        return [f"{prefix}{n + 1}" for prefix in self._prefixes]

    def owner(self, ip: str) -> "Machine | Router | None":
        """Who takes what is sent there: somebody here, or the way out."""
        for machine in self.machines:
            if ip in machine.ips:
                return machine
        for router in self.routers:
            if router.owns(ip):
                return router
        return None if self.inside(ip) else self.router

    def inside(self, ip: str) -> bool:
        """Whether the address is one of this network."""
        return ip.startswith(self._prefixes)

    def carry(self, data: bytes, source: Address, to: Address, who: str) -> None:
        """Put a datagram on this network; ``who`` does, for the trace."""
        owner = self.owner(to[0])
        self.internet.note(who, owner.name if owner else "nobody", data)
        self.net.carry(data, source, to)

    def _route(self, data: bytes, source: Address, to: Address) -> None:
        owner = self.owner(to[0])
        if isinstance(owner, Router):
            if owner is self.router:
                owner.leave(data, source, to)
            else:
                owner.enter(data, source, to)
        elif owner is not None:
            owner.receive(data, source, to)


class Router:
    """Between two networks.

    Attributes:
        up: what happens to a datagram on its way out, besides what both networks do to it;
            None for nothing. ``down`` is the other direction.
        four: the NAT of IPv4; ``six`` that of IPv6, which is no NAT but a firewall.
        off: carries nothing.
    """

    def __init__(self, inner: Segment, outer: Segment, nat: Nat, ips: list[str]) -> None:
        self.name = f"{inner.name}-router"
        self.inner = inner
        self.outer = outer
        self.up: Net | None = None
        self.down: Net | None = None
        self.off = False
        rng = inner.internet.random
        self.four = Translator(nat, next((ip for ip in ips if ":" not in ip), ""), rng)
        self.six = Translator(replace(nat, translates=False), "", rng)
        inner.router = self
        outer.routers.append(self)

    def owns(self, ip: str) -> bool:
        """Whether what is sent there comes to this router from outside."""
        if ":" in ip:
            return self.inner.inside(ip) or any(r.owns(ip) for r in self.inner.routers)
        return ip == self.four.ip

    def leave(self, data: bytes, source: Address, to: Address) -> None:
        """From inside."""
        now = self.inner.internet.now()
        table = self.six if ":" in to[0] else self.four
        if self.off:
            return
        outer = table.outbound(source, to, now)
        if outer is None:
            self._dropped("out: blocked")
        elif self.owns(to[0]):
            inner = table.inbound(outer, to, now) if table.nat.hairpin else None
            if inner is None:
                self._dropped("no hairpin")
            else:
                self.inner.carry(data, outer, inner, self.name)
        else:
            self._over(self.up, data, outer, to)

    def enter(self, data: bytes, source: Address, to: Address) -> None:
        """From outside."""
        if self.down:
            self.down.elsewhere = self._entered
            self.down.carry(data, source, to)
        else:
            self._entered(data, source, to)

    def ask(self, inner: Address, lifetime: float) -> Address | None:
        """A port mapping, or in IPv6 a pinhole; see ``Translator.ask``."""
        table = self.six if ":" in inner[0] else self.four
        return None if self.off else table.ask(inner, lifetime, self.inner.internet.now())

    def reboot(self, seconds: float = 0.0, renumbered: bool = False) -> None:
        """Lose all mappings, carry nothing for a while, perhaps come back at another address."""
        self.inner.internet.note(self.name, self.name, "reboots")
        ip = next(ip for ip in self.outer.allot() if ":" not in ip) if renumbered else None
        self.four.reset(ip)
        self.six.reset()
        self.off = seconds > 0
        if self.off:
            asyncio.get_running_loop().call_later(seconds, self._on)

    def _on(self) -> None:
        self.off = False

    def _entered(self, data: bytes, source: Address, to: Address) -> None:
        table = self.six if ":" in to[0] else self.four
        if self.off:
            return
        inner = table.inbound(source, to, self.inner.internet.now())
        if inner is None:
            self._dropped("in: no mapping, or filtered")
        else:
            self.inner.carry(data, source, inner, self.name)

    def _over(self, line: Net | None, data: bytes, source: Address, to: Address) -> None:
        if line:
            line.elsewhere = self._left
            line.carry(data, source, to)
        else:
            self._left(data, source, to)

    def _left(self, data: bytes, source: Address, to: Address) -> None:
        self.outer.carry(data, source, to, self.name)

    def _dropped(self, why: str) -> None:
        self.inner.internet.note(self.name, self.name, f"drops, {why}")


class Internet:
    """Everything: the core, whose addresses are public, and the networks behind it.

    Attributes:
        core: where public machines are; its ``net`` carries between them and routers.
        trace: (time, from, to, data or remark) of each hop, by names, for ladders.
    """

    def __init__(
        self, seed: int = 0, latency: float = 0.02, loss: float = 0.0, families: str = "46"
    ) -> None:
        """Set up an Internet with nobody in it.

        Args:
            seed: of all that is random.
            latency: seconds one way between routers.
            loss: probability per datagram there.
            families: the IP versions that there are, "4", "6" or "46".
        """
        self.families = families
        self.random = random.Random(seed)
        self.trace: deque[tuple[float, str, str, bytes | str]] = deque(maxlen=_TRACE)
        self.core = Segment(self, "core", self.line(latency, loss), ())
        self.segments = [self.core]

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def line(self, latency: float = 0.0, loss: float = 0.0) -> Net:
        """A network, or one direction of a line, that remembers little."""
        return Net(latency, loss, seed=self.random.getrandbits(32), log=deque(maxlen=_LOG))

    def note(self, source: str, to: str, what: bytes | str) -> None:
        self.trace.append((self.now(), source, to, what))

    def place(self, kind: Kind, name: str = "") -> Segment:
        """Somewhere to put a machine: the core, or a new network behind a NAT of that kind."""
        if kind is Kind.PUBLIC:
            return self.core
        if kind is not Kind.DOUBLE:
            return self.lan(NATS[kind], name)
        carrier = self.lan(NATS[kind], f"{name}carrier", prefix="100.64.7.")
        return self.lan(NATS[kind], name, behind=carrier)

    def lan(
        self,
        nat: Nat,
        name: str = "",
        *,
        behind: Segment | None = None,
        latency: float = 0.001,
        prefix: str = "192.168.1.",
        families: str = "",
    ) -> Segment:
        """A network behind a router.

        Args:
            nat: what the router does.
            name: for ladders.
            behind: of which network the router is a machine; the core if None.
            latency: seconds one way inside.
            prefix: of its IPv4 addresses; two networks may have the same.
            families: the IP versions that it has; those of the Internet if empty.
        """
        families = families or self.families
        outer = behind or self.core
        number = len(self.segments)
        prefixes = [prefix] if "4" in families else []
        prefixes += [f"2a00:{number:x}::"] if "6" in families else []
        made = Segment(self, name or f"lan{number}", self.line(latency), tuple(prefixes))
        Router(made, outer, nat, outer.allot())
        self.segments.append(made)
        return made

    def machine(self, name: str, at: Segment | None = None) -> Machine:
        """A machine, in the core if ``at`` is None."""
        made = Machine(self, name)
        made.move(at or self.core)
        return made
