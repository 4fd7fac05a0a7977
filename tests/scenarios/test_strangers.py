"""What a stranger who knows a name learns of its owner's addresses: whole peers, behind NATs."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_address
from itertools import product
from pathlib import Path
from types import ModuleType

import pytest

from hipctl import Endpoint, HostConfig, HostIdentity, LocalHost
from hipctl.actions import Address
from hipctl.udp import DatagramPort, OnDatagram
from overlay.commands.init import make
from overlay.config import load_profile
from overlay.overlayfile import load_overlay
from overlay.peer import LocalPeer
from overlay.records import Record, aor_key
from overlay.store import MemoryStore
from sim.loop import simulate
from sim.machines import Machine, MachinePort
from sim.nats import Internet, Kind

RELAYS = ((1, "first"), (2, "second"))
WALL = 1_800_000_000.0
RELAY = "\n[overlay.main.services.relay]\n"
PORT = 5060  # of whatever answers for the name


class Person:
    """A device: machine, host and peer.

    Attributes:
        got: (source, datagram) of all that came to its machine.
        told: what came out of its associations.
    """

    def __init__(self, machine: Machine, identity: HostIdentity) -> None:
        self.machine = machine
        self.hit = identity.hit
        self.got: list[tuple[Address, bytes]] = []
        self.told: list[bytes] = []
        self.identity = identity
        self.profile: Path
        self.store = MemoryStore()
        self.host: LocalHost
        self.peer: LocalPeer
        self.end: Endpoint
        self.stack = AsyncExitStack()

    async def start(self) -> None:
        """Run, with what the disk has kept."""
        config = HostConfig(announce_private=True)  # as of what init makes
        open_port, watch = self._open, self.machine.watch
        self.host = LocalHost([self.identity], config, open_port=open_port, watch=watch)
        await self.stack.enter_async_context(self.host)
        loop = asyncio.get_running_loop()
        self.peer = LocalPeer(
            load_profile(self.profile),
            host=self.host,
            store=self.store,
            wall=lambda: WALL + loop.time(),
            now=loop.time,
        )
        await self.stack.enter_async_context(self.peer)

    async def _open(
        self, address: Address, on_datagram: OnDatagram, counters: Counter[str]
    ) -> DatagramPort:
        port = await self.machine.open(address, self._hearing(on_datagram), counters)
        return Ear(self, port)

    def _hearing(self, on_datagram: OnDatagram) -> OnDatagram:
        def hear(data: bytes, source: Address) -> None:
            self.got.append((source, data))
            on_datagram(data, source)

        return hear

    async def beside(self, port: MachinePort, ip: str, link: int, take: OnDatagram) -> "Ear":
        return Ear(self, await port.beside(ip, link, self._hearing(take)))

    @property
    def aor(self) -> str:
        (aor,) = self.peer.aors()
        return aor

    def listens(self) -> None:
        """Have a port, and hear what comes of it."""
        self.end = self.host.open(self.hit, 0, lambda data, *_: self.told.append(data))

    def answers(self) -> None:
        """Whoever sends something gets it back."""
        end = self.host.open(self.hit, PORT, lambda *given: end.send(*given))  # noqa: PLW0108  not yet there


class Ear:
    """A port at which somebody hears all."""

    def __init__(self, person: Person, port: MachinePort) -> None:
        self._person, self._port = person, port
        self.address, self.send, self.close = port.address, port.send, port.close

    async def beside(self, ip: str, link: int, on_datagram: OnDatagram) -> "Ear":
        return await self._person.beside(self._port, ip, link, on_datagram)


class Village:
    """Two public relays and whoever else there is, in one overlay that is open to all."""

    def __init__(self, folder: Path, stack: AsyncExitStack, families: str) -> None:
        self.internet = Internet(seed=3, families=families)
        self.folder, self.stack = folder, stack
        self.seed = ""

    async def add(self, name: str, kind: Kind, number: int, *, more: str = "") -> Person:
        machine = self.internet.machine(name, self.internet.place(kind, name))
        identity = HostIdentity.from_secret(number)
        made = make(
            self.folder / name,
            overlay=self.folder / "first" / "overlay.toml" if self.seed else None,
            domain="example.org",
            seeds=(self.seed,) if self.seed else (),
            words=None,
            listen=("0.0.0.0:10500", "[::]:10500"),
            sip="127.0.0.1:5060",
            private=True,
            device=identity,
        )
        text = made.profile.read_text()
        at = text.index("[overlay.main.services.sip]")  # no sockets here
        made.profile.write_text(text[:at] + more)
        person = Person(machine, identity)
        person.profile = made.profile
        self.stack.push_async_callback(person.stack.aclose)
        if not self.seed:
            self.info = load_overlay(self.folder / name / "overlay.toml")
            self.seed = f"{identity.hit}@{machine.ips[0]}:10500"
        await person.start()
        return person


@asynccontextmanager
async def village(folder: Path, families: str) -> AsyncIterator[Village]:
    async with AsyncExitStack() as stack:
        yield Village(folder, stack, families)


def addresses(person: Person) -> set[str]:
    """Where somebody is: on its LAN, and as each network above it sees it."""
    found, place = set(person.machine.ips), person.machine.at
    while place is not None and place.router is not None:
        found.add(place.router.four.ip)
        place = place.router.outer
    return found


def remembered(root: object) -> set[str | bytes]:
    """All text and bytes in an object and in what it holds, but for its programs."""
    found: set[str | bytes] = set()
    seen: set[int] = set()
    todo = [root]
    while todo:
        each = todo.pop()
        if id(each) in seen or isinstance(each, type | ModuleType) or callable(each):
            continue
        seen.add(id(each))
        if isinstance(each, str | bytes | bytearray):
            found.add(each if isinstance(each, str) else bytes(each))
        elif isinstance(each, Mapping):
            todo += [*each.keys(), *each.values()]
        elif isinstance(each, list | tuple | set | frozenset | deque):
            todo += each
        else:
            todo += vars(each).values() if hasattr(each, "__dict__") else ()
            for kind in type(each).__mro__:
                slots = getattr(kind, "__slots__", ())
                names = (slots,) if isinstance(slots, str) else slots
                todo += [getattr(each, name) for name in names if hasattr(each, name)]
    return found


def knows(person: Person, other: Person, records: Sequence[Record] = ()) -> list[str]:
    """By what somebody could tell where another one is."""
    found = []
    texts = remembered(person.host.engine)
    for where in addresses(other) - addresses(person):  # LANs have the same everywhere
        packed = ip_address(where).packed
        if any(source[0] == where for source, _ in person.got):
            found.append(f"packets from {where}")
        if where in texts:
            found.append(f"its host remembers {where}")
        clear = [data for _, data in person.got]
        heard = [*clear, *person.told, *(record.raw for record in records)]
        if any(packed in data or where.encode() in data for data in heard):
            found.append(f"was told of {where}")
    return found


async def reaches(one: Person, other: Person) -> None:
    """Datagrams go both ways, for as long as better paths are looked for."""
    begin = len(one.told)
    for _ in range(80):
        one.end.send(b"where are you?", other.hit, PORT)
        await asyncio.sleep(0.1)
    assert len(one.told) - begin >= 70


@pytest.mark.parametrize("families", ["4", "46"])  # at home, IPv6 has public addresses
@pytest.mark.parametrize("kind", [Kind.PORT_RESTRICTED, Kind.SYMMETRIC, Kind.DOUBLE])
@pytest.mark.parametrize("stranger_kind", [Kind.PUBLIC, Kind.ENDPOINT_INDEPENDENT])
def test_a_stranger_who_knows_a_name_learns_no_address_of_its_owner(
    tmp_path: Path, kind: Kind, stranger_kind: Kind, families: str
) -> None:
    async def main() -> None:
        async with village(tmp_path, families) as there:
            relays = [await there.add(name, Kind.PUBLIC, n, more=RELAY) for n, name in RELAYS]
            owner = await there.add("owner", kind, 11)
            await asyncio.sleep(10)
            assert owner.peer.status()["callable"] is True
            await owner.peer.publish(owner.aor, PORT)
            owner.answers()
            stranger = await there.add("stranger", stranger_kind, 12)
            await asyncio.sleep(10)
            info = there.info
            node = stranger.peer._memberships[info.domain].node
            records = await node.get("REG", aor_key(info.id, owner.aor))
            assert records
            (target,) = await stranger.peer.resolve(owner.aor)
            assert target.hit == owner.hit
            stranger.listens()
            await reaches(stranger, owner)
            assert knows(stranger, owner, records) == []
            assert all(knows(relay, owner) for relay in relays)  # this test would notice
            owner.host.disclose(stranger.hit)  # as when its user answers a call
            await reaches(stranger, owner)
            assert knows(stranger, owner) != []

    simulate(main)


async def crowd(there: Village, strangers: int) -> tuple[list[Person], list[Person]]:
    """Two relays; public strangers, all in one overlay."""
    relays = [await there.add(name, Kind.PUBLIC, n, more=RELAY) for n, name in RELAYS]
    others = [await there.add(f"s{n}", Kind.PUBLIC, 20 + n) for n in range(strangers)]
    await asyncio.sleep(30)
    return relays, others


@pytest.mark.parametrize(
    ("kind", "pause", "strangers"),
    [
        *product([Kind.PUBLIC, Kind.PORT_RESTRICTED, Kind.SYMMETRIC], [5, 120], [2]),
        (Kind.PORT_RESTRICTED, 5, 9),
    ],
)
def test_neighbours_of_a_peer_that_begins_with_them_learn_no_address_of_it(
    tmp_path: Path, kind: Kind, pause: int, strangers: int
) -> None:
    async def main() -> None:
        async with village(tmp_path, "4") as there:
            relays, others = await crowd(there, strangers)
            owner = await there.add("owner", kind, 11)
            await asyncio.sleep(60)
            assert [knows(other, owner) for other in others] == [[]] * strangers
            await owner.stack.aclose()
            await asyncio.sleep(pause)
            await owner.start()
            await asyncio.sleep(40)
            assert owner.peer.status()["callable"] is True
            assert [knows(other, owner) for other in others] == [[]] * strangers
            (member,) = owner.peer._memberships.values()
            sessions = [member.node.engine.session(other.hit) for other in others]
            assert all(sessions)  # yet they speak with each other
            assert any(knows(relay, owner) for relay in relays)  # this test would notice

    simulate(main)


def test_strangers_near_what_a_peer_looks_up_and_stores_learn_no_address_of_it(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with village(tmp_path, "4") as there:
            _, others = await crowd(there, 8)
            owner = await there.add("owner", Kind.PORT_RESTRICTED, 11)
            await asyncio.sleep(10)
            await owner.peer.publish(owner.aor, PORT)
            (member,) = owner.peer._memberships.values()
            for n in range(20):
                for other in others:
                    key = aor_key(there.info.id, f"{n}.{other.aor}")
                    await member.node.get("REG", key)
                await asyncio.sleep(10)
                await owner.peer.publish(owner.aor, PORT)
            assert [knows(other, owner) for other in others] == [[]] * len(others)

    simulate(main)


@pytest.mark.parametrize(("kind", "families"), [(Kind.PUBLIC, "4"), (Kind.PORT_RESTRICTED, "46")])
def test_no_stranger_learns_where_a_peer_is_that_moves_or_was_cut_off(
    tmp_path: Path, kind: Kind, families: str
) -> None:
    async def main() -> None:
        async with village(tmp_path, families) as there:
            relays, others = await crowd(there, 7)  # with the relays too many to be friends
            owner = await there.add("owner", kind, 11)
            await asyncio.sleep(60)
            before = addresses(owner)
            owner.machine.sleep()  # its network only: programs go on
            await asyncio.sleep(60)
            owner.machine.wake()
            await asyncio.sleep(40)
            assert [knows(other, owner) for other in others] == [[]] * len(others)
            owner.machine.move(there.internet.place(kind, "elsewhere"))
            await asyncio.sleep(60)
            assert addresses(owner) != before
            assert owner.peer.status()["callable"] is True
            assert [knows(other, owner) for other in others] == [[]] * len(others)
            assert any(knows(relay, owner) for relay in relays)  # this test would notice

    simulate(main)
