"""The data relay's sockets: what passes through them, and what does not."""

import asyncio
import contextlib
import os
import socket
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

from hipctl import HostIdentity, Offer, params, relayports
from hipctl.actions import Address, Path
from hipctl.clients import Account, Client
from hipctl.constants import RegistrationType
from hipctl.crypto import Keys
from hipctl.engine import Engine
from hipctl.identity import Hit
from hipctl.limits import Allowance
from hipctl.ports import Ports
from hipctl.readers import Readers
from hipctl.relayports import RelayPorts
from hipctl.settings import EngineConfig
from hipctl.udp import Receive, UdpPort, open_udp

pytestmark = pytest.mark.net

ESP = RegistrationType.RELAY_UDP_ESP
KEYS = Keys("sha384", 2, b"", b"out", b"", b"in", b"", b"", 0, b"")
IDENTITY = HostIdentity.from_secret(77)
LOOPBACK = ["127.0.0.1", "::1"]
LOOPS = [asyncio.SelectorEventLoop, uvloop.new_event_loop]
UP, DOWN = 1_000, 5_000  # the first SPIs


def udp(ip: str = "127.0.0.1") -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((ip, 0))
    sock.setblocking(False)
    return sock


def where(sock: socket.socket) -> Address:
    found: Address = sock.getsockname()[:2]
    return found


def esp(spi: int, number: int = 0) -> bytes:
    return spi.to_bytes(4, "big") + number.to_bytes(4, "big") + bytes(164)


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - sockets tell nobody
            await asyncio.sleep(0.001)


async def hears(sock: socket.socket, count: int) -> list[bytes]:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(5):
        return [await loop.sock_recv(sock, 2_048) for _ in range(count)]


async def came(sock: socket.socket) -> tuple[bytes, Address]:
    """A datagram and where it came from."""
    for _ in range(1_000):
        with contextlib.suppress(BlockingIOError):
            found: tuple[bytes, Address] = sock.recvfrom(2_048)
            return found
        await asyncio.sleep(0.001)
    raise TimeoutError


class Place:
    """A relay with one client, and its peers; everything on loopback."""

    def __init__(self, ip: str) -> None:
        self.ip = ip
        self.counters: Counter[str] = Counter()
        self.others: list[tuple[bytes, Address]] = []  # that the relay itself is to take
        self.engine = Engine([IDENTITY], EngineConfig(), os.urandom)
        self.main = Ports(open_udp, self._take, self.counters)
        self.relay = RelayPorts(
            self.engine, open_udp, self._find, self.counters, port=self.main.port
        )
        self._up = self.relay.up()
        self.home = udp(ip)
        self.peers: list[socket.socket] = []

    def _take(self, data: bytes, source: Address) -> None:
        if not self._up(data, source, int.from_bytes(data[:4], "big")):
            self.others.append((data, source))

    def _find(self, source: Address | None, to: Address) -> Callable[[bytes, Address], None]:
        return self.main.send6 if ":" in to[0] else self.main.send4

    async def open(self, peers: int = 1, clients: int = 1) -> None:
        loop = asyncio.get_running_loop()
        await self.main.open([(self.ip, 0)])
        self.at = self.main.addresses[0]
        self.relay.start(loop.time, lambda step: None, lambda: (self.ip, False))
        self.engine.serving.offer({ESP: Offer(clients=clients)}, (), loop.time())
        self.relay.tend()
        await until(lambda: self.data.free)
        hit = Hit(b"\x20\x01\x00\x22" + bytes(11) + b"\x01")
        self.client = Client((IDENTITY.hit, hit), KEYS, Path(None, where(self.home)))
        self.client.accounts[ESP] = Account(Allowance(0, 0, 0.0), Allowance(0, 0, 0.0))
        self.client.relayed = self.data.open(self.client)
        for _ in range(peers):
            self.permit(udp(self.ip))

    def permit(self, peer: socket.socket) -> None:
        assert self.client.relayed is not None
        n = len(self.peers)
        self.peers.append(peer)
        asked = params.PeerPermission(self.client.relayed, where(peer), UP + n, DOWN + n)
        self.data.permit(self.client, asked, asyncio.get_running_loop().time())

    @property
    def data(self) -> Any:
        return self.engine.serving.data

    @property
    def relayed(self) -> Address:
        assert self.client.relayed is not None
        return self.client.relayed

    @property
    def connected(self) -> int:
        return len(self.relay._connected)

    async def talk(self, number: int = 0, peer: int = 0) -> None:
        """A packet each way, after which there are sockets."""
        self.home.sendto(esp(UP + peer, number), self.at)
        assert await hears(self.peers[peer], 1) == [esp(UP + peer, number)]
        self.peers[peer].sendto(esp(DOWN + peer, number), self.relayed)
        assert await hears(self.home, 1) == [esp(DOWN + peer, number)]

    async def close(self) -> None:
        self.relay.close()
        self.main.close()
        for sock in (self.home, *self.peers):
            sock.close()
        await asyncio.sleep(0)


def run(
    scenario: Callable[[Place], Awaitable[None]],
    ip: str = "127.0.0.1",
    loop: Any = uvloop.new_event_loop,
    peers: int = 1,
    clients: int = 1,
) -> None:
    async def main() -> None:
        place = Place(ip)
        try:
            await place.open(peers, clients)
            await asyncio.wait_for(scenario(place), 20)
        finally:
            await place.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("ip", LOOPBACK)
def test_what_flows_has_sockets_of_its_own_and_keeps_its_order(ip: str, loop: Any) -> None:
    async def scenario(place: Place) -> None:
        await place.talk()
        assert place.connected == 2
        for burst in range(30):  # many enough that there are pauses
            numbers = range(100 * burst, 100 * burst + 100)
            for n in numbers:
                place.home.sendto(esp(UP, n), place.at)
                place.peers[0].sendto(esp(DOWN, n), place.relayed)
            assert await hears(place.peers[0], 100) == [esp(UP, n) for n in numbers]
            assert await hears(place.home, 100) == [esp(DOWN, n) for n in numbers]
        assert place.connected == 2
        assert not place.others

    run(scenario, ip, loop)


@pytest.mark.parametrize("ip", LOOPBACK)
def test_a_client_with_another_address_is_heard_and_followed(ip: str) -> None:
    async def scenario(place: Place) -> None:
        await place.talk()
        before, place.home = place.home, udp(place.ip)
        said = esp(0, 7)  # a control packet
        place.home.sendto(said, place.at)
        await until(lambda: place.others)
        assert place.others == [(said, where(place.home))]
        place.client.path = Path(None, where(place.home))
        place.data.moved(place.client)
        await place.talk()
        place.relay._prune()
        assert place.connected == 2
        before.sendto(esp(UP), place.at)  # nobody's now
        await until(lambda: len(place.others) == 2)
        assert place.others[1] == (esp(UP), where(before))
        before.close()

    run(scenario, ip)


@pytest.mark.parametrize("ip", LOOPBACK)
def test_strangers_get_nothing_through_and_are_not_mistaken_for_others(ip: str) -> None:
    async def scenario(place: Place) -> None:
        await place.talk()
        stranger = udp(place.ip)
        stranger.sendto(esp(UP, 1), place.at)
        stranger.sendto(esp(DOWN, 1), place.relayed)
        place.home.sendto(esp(UP + 99, 1), place.at)  # nor is everything that a client sends
        await until(
            lambda: len(place.others) == 2 and place.counters["relayed ESP without permission"]
        )
        assert sorted(place.others) == sorted(
            [(esp(UP, 1), where(stranger)), (esp(UP + 99, 1), where(place.home))]
        )
        await place.talk(2)
        stranger.close()

    run(scenario, ip)


@pytest.mark.parametrize("ip", LOOPBACK)
def test_who_comes_while_a_socket_is_made_is_not_taken_for_another(ip: str) -> None:
    async def main() -> None:
        heard: Counter[Address] = Counter()
        port = await open_udp((ip, 0), lambda data, source: heard.update([source]), Counter())
        assert isinstance(port, UdpPort)
        readers, stop, stranger = Readers(), threading.Event(), udp(ip)
        wrong: list[bytes] = []

        def flood() -> None:
            while not stop.is_set():
                stranger.sendto(b"me", port.address)

        def reader(receive: Receive) -> Callable[[], None]:
            return lambda: wrong.append(receive(100))

        thread = threading.Thread(target=flood)
        thread.start()
        quiet = [udp(ip) for _ in range(100)]
        opened = [port.towards(where(each), reader, readers) for each in quiet]
        await asyncio.sleep(0.05)
        stop.set()
        thread.join()
        await asyncio.sleep(0.05)
        assert all(opened)
        assert not wrong
        assert set(heard) == {where(stranger)}
        for each in opened:
            assert each is not None
            each.close()
            each.close()
        readers.close()
        port.close()
        for sock in (stranger, *quiet):
            sock.close()

    asyncio.run(main())


def test_all_sockets_are_closed_with_the_relay_and_nobody_else_has_its_ports() -> None:
    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def scenario(place: Place) -> None:
        before = opened()
        for peer in range(20):
            await place.talk(peer=peer)
        assert place.connected == 21
        assert opened() > before
        for address in (place.at, place.relayed):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as another:
                another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with pytest.raises(OSError, match="in use"):
                    another.bind(address)
        relayed = place.relayed
        place.data.close(place.client)
        place.client.relayed = None
        place.relay.tend()
        await asyncio.sleep(0)
        assert place.connected == 0
        assert opened() <= before + 1  # what watches them all, and another port in advance
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as another:
            another.bind(relayed)

    run(scenario, peers=20)


def test_beyond_the_bounds_and_where_none_can_be_had_data_passes_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def few(place: Place) -> None:
        for peer in (*range(9), *range(9)):
            await place.talk(peer=peer)
        assert place.connected == 5

    async def none(place: Place) -> None:
        await place.talk()
        await place.talk()
        assert place.connected == 0

    for name in ("CONNECTED_MAX", "BESIDE_MAX"):
        with monkeypatch.context() as patch:
            patch.setattr(relayports, name, 5 if name == "CONNECTED_MAX" else 4)
            run(few, peers=9)
    monkeypatch.setattr(UdpPort, "towards", lambda *_: None)
    run(none)


def test_a_peer_that_was_gone_for_a_moment_is_sent_to_again() -> None:
    async def scenario(place: Place) -> None:
        await place.talk()
        at = where(place.peers[0])
        place.peers[0].close()
        for n in range(3):
            place.home.sendto(esp(UP, n), place.at)  # ICMP says that nobody is there
            await asyncio.sleep(0.01)
        place.peers[0] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        place.peers[0].bind(at)
        place.peers[0].setblocking(False)
        await place.talk()

    run(scenario)


def test_sockets_beside_each_other_at_one_number_take_what_is_theirs() -> None:
    async def main() -> None:
        heard: list[tuple[str, bytes]] = []

        def take(name: str) -> Callable[[bytes, Address], None]:
            return lambda data, source: heard.append((name, data))

        link = socket.if_nametoindex("lo")
        everywhere = await open_udp(("0.0.0.0", 0), take("everywhere"), Counter())
        beside = await everywhere.beside("127.0.0.2", link, take("beside"))
        number, readers = everywhere.address[1], Readers()
        assert isinstance(everywhere, UdpPort)
        assert isinstance(beside, UdpPort)
        friend, stranger = udp(), udp()

        def reader(name: str) -> Callable[[Receive], Callable[[], None]]:
            return lambda receive: lambda: heard.append((name, receive(100)))

        opened = [
            port.towards(where(friend), reader(f"{name}, friend"), readers)
            for name, port in (("everywhere", everywhere), ("beside", beside))
        ]
        assert all(opened)
        third = await everywhere.beside("127.0.0.3", link, take("third"))
        for sock, data in ((friend, b"f"), (stranger, b"s")):
            for ip in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
                sock.sendto(data, (ip, number))
        await until(lambda: len(heard) == 6)
        assert sorted(heard) == [
            ("beside", b"s"),
            ("beside, friend", b"f"),
            ("everywhere", b"s"),
            ("everywhere, friend", b"f"),
            ("third", b"f"),
            ("third", b"s"),
        ]
        for each in (*opened, readers, everywhere, beside, third, friend, stranger):
            assert each is not None
            each.close()

    asyncio.run(main())


@pytest.mark.parametrize("busy", [False, True])
def test_one_reader_that_fails_does_not_keep_the_others_from_reading(busy: bool) -> None:
    async def main() -> None:
        readers, socks = Readers(), [udp(), udp()]
        failed, heard = [], []

        def fails() -> None:
            failed.append(socks[0].recv(100))
            raise ZeroDivisionError

        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        readers.add(socks[0].fileno(), fails)
        readers.add(socks[1].fileno(), lambda: heard.append(socks[1].recv(100)))
        readers._count = 10_000 if busy else 0
        readers._since -= 1.0
        for _ in range(3):
            for sock in socks:
                sock.sendto(b"x", where(sock))
            await until(lambda: heard)
            heard.clear()
            assert readers._busy is busy
        assert failed
        readers.close()
        readers.close()
        for sock in socks:
            sock.close()

    asyncio.run(main())


def test_a_client_that_was_nowhere_for_a_while_has_sockets_again() -> None:
    async def scenario(place: Place) -> None:
        await place.talk()
        path = place.client.path
        place.client.path = None
        place.data.moved(place.client)
        place.relay._prune()
        assert place.connected == 0
        place.client.path = path
        place.data.moved(place.client)
        await place.talk(1)
        assert place.connected == 2

    run(scenario)


def test_what_comes_while_a_socket_is_made_does_not_make_the_same_socket_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(place: Place) -> None:
        waiting = [place.data.down[place.relayed][where(place.peers[1])][DOWN + 1]]

        def hand_back(port: UdpPort, sock: socket.socket) -> None:
            while waiting:  # a datagram for the same client, in the same moment
                place.relay._pass_on(waiting.pop(), esp(DOWN + 1))

        monkeypatch.setattr(UdpPort, "_hand_back", hand_back)
        place.peers[0].sendto(esp(DOWN), place.relayed)
        assert sorted(await hears(place.home, 2)) == [esp(DOWN), esp(DOWN + 1)]
        assert place.connected == 1
        assert len(place.relay._readers._read) == 1
        assert place.relay._beside[None] == 1

    run(scenario, peers=2)


def test_a_client_that_speaks_with_another_address_of_ours_hears_us_from_there() -> None:
    async def scenario(place: Place) -> None:
        await place.talk()
        other = await open_udp((place.ip, 0), place._take, place.counters)
        place.relay._port = lambda source, to: other if source == other.address else None
        place.relay._find = lambda source, to: other.send
        place.client.path = Path(other.address, where(place.home))
        place.data.moved(place.client)
        heard = []
        for n in range(3):
            place.peers[0].sendto(esp(DOWN, n), place.relayed)
            heard.append(await came(place.home))
        other.close()
        assert heard == [(esp(DOWN, n), other.address) for n in range(3)]

    run(scenario)


@pytest.mark.parametrize("shared", [False, True])
def test_between_two_clients_nothing_leaves_the_relay_on_its_way(shared: bool) -> None:
    """A router that maps its port need not let back what it sends to there."""
    mapped: Address = ("203.0.113.7", 4_000)  # nobody is there

    async def scenario(place: Place) -> None:
        second = udp(place.ip)
        hit = Hit(b"\x20\x01\x00\x22" + bytes(11) + b"\x02")
        other = Client((IDENTITY.hit, hit), KEYS, Path(None, where(second)))
        other.accounts[ESP] = Account(Allowance(0, 0, 0.0), Allowance(0, 0, 0.0))
        if shared:
            place.data.close(place.client)
            place.data.share(mapped)
            place.relay._opened[mapped] = place.relay._opened[place.relayed]
            place.client.relayed = place.data.open(place.client)
        else:
            await until(lambda: place.data.free)
        other.relayed = place.data.open(other)
        assert other.relayed is not None
        now = asyncio.get_running_loop().time()
        for client, there, spi_out, spi_in in (
            (place.client, other, UP, DOWN),
            (other, place.client, DOWN, UP),
        ):
            assert client.relayed is not None
            assert there.relayed is not None
            asked = params.PeerPermission(client.relayed, there.relayed, spi_out, spi_in)
            place.data.permit(client, asked, now)
        for n in range(50):
            place.home.sendto(esp(UP, n), place.at)
            second.sendto(esp(DOWN, n), place.at)
        assert await hears(second, 50) == [esp(UP, n) for n in range(50)]
        assert await hears(place.home, 50) == [esp(DOWN, n) for n in range(50)]
        assert not place.others
        assert place.connected == 2, "one for each client"
        second.close()

    run(scenario, peers=0, clients=2)
