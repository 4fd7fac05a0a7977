"""What hosts do for each other: offers, registrations, relayed data and knocks, in LocalHosts."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from hipctl import (
    AssociationFailed,
    ContactChanged,
    EngineConfig,
    Event,
    Hides,
    HostConfig,
    HostIdentity,
    LocalHost,
    Nat,
    Offer,
    RegistrationEnded,
    RegistrationFailure,
    RegistrationRefused,
    RegistrationType,
    Rejected,
    contact_from_addresses,
)
from hipctl.actions import Relayed
from hipctl.contact import Locator, Relay, Server, encode_contact, parse_contact
from hipctl.hostservices import _nat
from hipctl.requester import OurServer, Requester
from hipctl.udp import DatagramPort, OnDatagram, OpenPort
from sim.loop import simulate
from sim.net import Address, Net

SERVER, ALICE, BOB = ("11.0.0.1", 10500), ("11.0.0.2", 10500), ("11.0.0.3", 10500)
KEYS = [HostIdentity(ec.derive_private_key(n, ec.SECP256R1())) for n in (51, 52, 53)]
S, A, B = (key.hit for key in KEYS)
RVS, HIP, ESP = (
    RegistrationType.RENDEZVOUS,
    RegistrationType.RELAY_UDP_HIP,
    RegistrationType.RELAY_UDP_ESP,
)
RELAYS = {HIP: Offer(), ESP: Offer()}


def _at(net: Net, ip: str) -> OpenPort:
    """Opens ports of a machine that has one address."""

    async def open_port(
        address: Address, on_datagram: OnDatagram, counters: Counter[str]
    ) -> DatagramPort:
        anywhere = address[0] == "0.0.0.0"
        return await net.open((ip if anywhere else address[0], address[1]), on_datagram, counters)

    return open_port


@asynccontextmanager
async def three(net: Net, *, locators: bool = True) -> AsyncIterator[list[LocalHost]]:
    """A server, Alice and Bob; these know the server."""
    async with AsyncExitStack() as stack:
        hosts = []
        for key, address in zip(KEYS, (SERVER, ALICE, BOB), strict=True):
            config = HostConfig(
                listen=(address,), locators=locators or key is KEYS[0], engine=EngineConfig(k=2)
            )
            host = LocalHost([key], config, open_port=_at(net, address[0]))
            hosts.append(await stack.enter_async_context(host))
        for host in hosts[1:]:
            host.learn(S, contact_from_addresses([SERVER]))
        yield hosts


def run(
    scenario: Callable[[Net, list[LocalHost]], Awaitable[None]], *, locators: bool = True
) -> Net:
    net = Net(latency=0.02)

    async def main() -> None:
        async with three(net, locators=locators) as hosts:
            await scenario(net, hosts)

    simulate(main)
    return net


def test_whoever_registers_is_served_and_both_say_so() -> None:
    async def scenario(net: Net, hosts: list[LocalHost]) -> None:
        server, alice, _ = hosts
        server.offer(RELAYS)
        await asyncio.sleep(0.1)
        assert alice.offered(S) is None
        rows = await alice.register(S, [HIP, ESP])
        assert {row.type for row in rows} == {HIP, ESP}
        assert rows == list(alice.registrations())
        assert {row.address for row in rows} == {SERVER}
        assert {row.reflexive for row in rows} == {ALICE}
        assert {row.type: row.relayed for row in rows}[ESP] in net.ports
        offered = alice.offered(S)
        assert offered is not None
        assert set(offered) == {HIP, ESP, RegistrationType.CANDIDATE_DISCOVERY}
        assert {(row.client, row.type) for row in server.served()} == {(A, HIP), (A, ESP)}

    run(scenario)


def test_offers_that_are_made_before_a_host_opens_hold() -> None:
    async def main() -> None:
        net = Net()
        config = HostConfig(listen=(SERVER,), engine=EngineConfig(k=2))
        server = LocalHost([KEYS[0]], config, open_port=net.open)
        server.offer({RVS: Offer()})
        config = HostConfig(listen=(ALICE,), engine=EngineConfig(k=2))
        async with server, LocalHost([KEYS[1]], config, open_port=net.open) as alice:
            alice.learn(S, contact_from_addresses([SERVER]))
            assert len(await alice.register(S, [RVS])) == 1

    simulate(main)


def test_who_is_refused_is_told_why_and_asks_no_more() -> None:
    async def scenario(net: Net, hosts: list[LocalHost]) -> None:
        server, alice, _ = hosts
        with pytest.raises(RegistrationRefused, match="unavailable") as caught:
            await alice.register(S, [RVS])
        assert caught.value.failure == RegistrationFailure.TYPE_UNAVAILABLE
        server.offer({HIP: Offer()})
        await asyncio.sleep(0.1)  # nobody asks for what the server has not said that it offers
        rows = await alice.register(S, [HIP, ESP])
        assert [row.type for row in rows] == [HIP]
        server.offer(RELAYS)
        await asyncio.sleep(600)
        assert [row.type for row in alice.registrations()] == [HIP]

    run(scenario)


def test_who_gets_no_answer_fails_in_time() -> None:
    async def scenario(net: Net, hosts: list[LocalHost]) -> None:
        _, alice, _ = hosts
        net.filter = lambda data, source, to: None
        with pytest.raises(AssociationFailed):
            await alice.register(S, [RVS], timeout=2.0)
        net.filter = None
        await asyncio.sleep(60)
        assert list(alice.registrations()) == []

    run(scenario)


def test_several_wait_for_one_answer() -> None:
    async def scenario(net: Net, hosts: list[LocalHost]) -> None:
        server, alice, _ = hosts
        server.offer(RELAYS)
        both = await asyncio.gather(alice.register(S, [HIP]), alice.register(S, [ESP]))
        assert [[row.type for row in rows] for rows in both] == [[HIP], [ESP]]
        assert await alice.register(S, [HIP, ESP]) == list(alice.registrations())

    run(scenario)


def test_contacts_name_servers_and_without_locators_nothing_else() -> None:
    async def scenario(net: Net, hosts: list[LocalHost]) -> None:
        server, alice, _ = hosts
        events: list[Event] = []
        alice.watch(events.append)
        server.offer({RVS: Offer(), **RELAYS})
        assert parse_contact(alice.contact(A)) == ()
        await alice.register(S, [HIP])
        assert parse_contact(alice.contact(A)) == (Relay(S, SERVER),)
        assert ContactChanged() in events
        await alice.unregister(S)
        await asyncio.sleep(1)
        assert parse_contact(alice.contact(A)) == ()
        assert [type(each) for each in events if not isinstance(each, ContactChanged)][1:] == [
            RegistrationEnded
        ]
        alice.disconnect(S)
        await asyncio.sleep(1)
        await alice.register(S, [RVS])
        assert parse_contact(alice.contact(A)) == (Server(S, SERVER),)

    run(scenario, locators=False)


def test_who_may_tell_both_tells_the_best_of_both() -> None:
    async def scenario(net: Net, hosts: list[LocalHost]) -> None:
        server, alice, _ = hosts
        server.offer({RVS: Offer()})
        await alice.register(S, [RVS])
        assert parse_contact(alice.contact(A)) == (Locator(ALICE), Server(S, SERVER))

    run(scenario)


@pytest.mark.parametrize("kind", [RVS, HIP])
def test_who_is_registered_is_reached_through_its_server(kind: RegistrationType) -> None:
    async def scenario(net: Net, hosts: list[LocalHost]) -> None:
        server, alice, bob = hosts
        server.offer({RVS: Offer(), **RELAYS})
        await bob.register(S, [kind])
        alice.learn(B, bob.contact(B))
        await alice.connect(B)
        assert await alice.ping(B) < 0.1
        net.filter = lambda data, source, to: None if {source, to} == {ALICE, BOB} else data
        with pytest.raises(TimeoutError):
            await alice.ping(B)

    run(scenario, locators=False)


def apart(data: bytes, source: Address, to: Address) -> bytes | None:
    """Alice and Bob cannot meet."""
    return None if {source[0], to[0]} == {ALICE[0], BOB[0]} else data


def test_who_cannot_meet_speaks_through_the_data_relay_which_keeps_account() -> None:
    async def scenario(net: Net, hosts: list[LocalHost]) -> None:
        server, alice, bob = hosts
        net.filter = apart
        server.offer(RELAYS)
        await asyncio.sleep(0.1)
        await bob.register(S, [HIP, ESP])
        alice.learn(B, bob.contact(B))
        await alice.connect(B)
        await alice.ping(B)
        before = {row.type: row for row in server.served()}[ESP]
        for _ in range(10):
            await bob.ping(A)
        after = {row.type: row for row in server.served()}[ESP]
        assert after.packets >= before.packets + 20
        assert after.bytes > before.bytes

    run(scenario, locators=False)


def test_ports_are_opened_in_advance_and_closed_after_use() -> None:
    async def scenario(net: Net, hosts: list[LocalHost]) -> None:
        server, alice, bob = hosts
        server.offer({ESP: Offer(clients=2)})
        await asyncio.sleep(0.1)
        assert len([port for port in net.ports if port[0] == SERVER[0]]) == 1 + 2
        relayed = [(await host.register(S, [ESP]))[0].relayed for host in (alice, bob)]
        assert len({*relayed}) == 2
        await alice.unregister(S)
        await asyncio.sleep(1)
        assert relayed[0] not in net.ports
        assert len([port for port in net.ports if port[0] == SERVER[0]]) == 1 + 2
        again = (await alice.register(S, [ESP]))[0].relayed
        assert again not in relayed

    net = run(scenario)
    assert not net.ports, "all is closed with the host"


def test_limits_hold_for_data() -> None:
    async def scenario(net: Net, hosts: list[LocalHost]) -> None:
        server, alice, bob = hosts
        net.filter = apart
        server.offer({HIP: Offer(), ESP: Offer(packets=50.0)})
        await asyncio.sleep(0.1)
        await bob.register(S, [HIP, ESP])
        alice.learn(B, bob.contact(B))
        await alice.connect(B)
        heard: list[bytes] = []
        bob.open(B, 7, lambda data, *_: heard.append(data))
        end = alice.open(A, 7, lambda *_: None)
        for _ in range(500):
            end.send(b"x", B, 7)
            await asyncio.sleep(0.002)
        await asyncio.sleep(1)
        assert 40 <= len(heard) <= 50 * (1 + 2), "a second's worth at once, then the rate"
        assert {row.type: row for row in server.served()}[ESP].dropped >= 300

    run(scenario, locators=False)


def test_a_knock_is_heard_where_strangers_come_in_and_nowhere_else() -> None:
    async def scenario(net: Net, hosts: list[LocalHost]) -> None:
        server, alice, _ = hosts
        with pytest.raises(Rejected):
            await server.knock(A, contact_from_addresses([ALICE]))  # no association
        await alice.connect(S)
        with pytest.raises(Rejected):
            await server.knock(A, contact_from_addresses([BOB]))  # not where Alice is
        with pytest.raises(Rejected):
            await server.knock(A, b"nonsense")
        assert await server.knock(A, contact_from_addresses([ALICE]))
        assert not await server.knock(A, contact_from_addresses([(ALICE[0], 10501)]))
        net.filter = lambda data, source, to: None if source != SERVER and to == ALICE else data
        assert not await server.knock(A, contact_from_addresses([ALICE]))

    run(scenario)


@pytest.mark.parametrize("kind", [HIP, RegistrationType.RENDEZVOUS])
def test_a_knock_by_way_of_a_server_tells_whether_that_passes_it_on(
    kind: RegistrationType,
) -> None:
    async def scenario(net: Net, hosts: list[LocalHost]) -> None:
        server, alice, bob = hosts
        server.offer({kind: Offer()})
        assert alice.through(A, S) == b""
        await alice.register(S, [kind])
        contact = alice.through(A, S)
        with pytest.raises(Rejected):
            await bob.knock(A, contact)  # anybody could be meant
        await bob.connect(S)
        assert await bob.knock(A, contact)
        net.filter = lambda data, source, to: None if (source, to) == (SERVER, ALICE) else data
        assert not await bob.knock(A, contact)

    run(scenario, locators=False)


@pytest.mark.parametrize("entry", [Relay, Server])
def test_who_asks_for_a_knock_cannot_name_others_as_servers(
    entry: type[Relay | Server],
) -> None:
    """A relay knows where its clients are: a knock must neither find that out nor go there."""

    async def scenario(net: Net, hosts: list[LocalHost]) -> None:
        server, alice, bob = hosts
        server.offer(RELAYS)
        await alice.register(S, [HIP, ESP])
        await bob.connect(S)
        sent: list[Address] = []

        def note(data: bytes, source: Address, to: Address) -> bytes:
            sent.append(to)
            return data

        net.filter = note
        for port in (ALICE[1], 53):
            with pytest.raises(Rejected):
                await server.knock(B, encode_contact([entry(A, (ALICE[0], port))]))
        bob.learn(A, alice.through(A, S))
        await bob.connect(A)
        with pytest.raises(Rejected):  # a real server, but another of its ports
            await bob.knock(A, encode_contact([entry(S, (SERVER[0], 53))]))
        assert not [to for to in sent if to[1] == 53]

    run(scenario)


def test_nobody_is_knocked_at_where_it_has_not_been_seen_to_be() -> None:
    async def scenario(net: Net, hosts: list[LocalHost]) -> None:
        server, alice, _ = hosts
        await alice.connect(S)
        server.engine.outbound[S, A].sa.meter(1000)  # as after a move that is not verified yet
        with pytest.raises(Rejected):
            await server.knock(A, contact_from_addresses([ALICE]))

    run(scenario)


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ((("11.9.0.1", 4000), ("11.9.0.1", 4000)), Nat.ENDPOINT_INDEPENDENT),
        ((("11.9.0.1", 4000), ("11.9.0.1", 4001)), Nat.ENDPOINT_DEPENDENT),
        ((ALICE, ALICE), Nat.NONE),
        ((("11.9.0.1", 4000), ("192.168.1.7", 4000)), Nat.UNKNOWN),
        ((("11.9.0.1", 4000),), Nat.UNKNOWN),
    ],
)
def test_peers_that_are_no_servers_tell_the_kind_of_nat(
    told: tuple[Address, ...], kind: Nat
) -> None:
    async def scenario(net: Net, hosts: list[LocalHost]) -> None:
        server, alice, bob = hosts
        assert server.sees(A) == b""
        alice.learn(B, contact_from_addresses([BOB]))
        for other in (server, bob):
            await alice.connect(other.hits[0])
            assert other.sees(A) == contact_from_addresses([ALICE])
        for by, address in zip((S, B), told, strict=False):
            alice.seen(by, contact_from_addresses([address]))
        alice.seen(S, b"nonsense")  # counted, and ignored
        assert alice.reachability().nat is kind
        alice.services.moved(())
        assert alice.reachability().nat is Nat.UNKNOWN

    run(scenario)


def test_addresses_of_ours_say_nothing_of_the_nat_that_others_are_behind() -> None:
    six = [("2a00:1::1", 10500), ("2a00:2::1", 10500)]
    ours = [("192.168.1.7", 10500), *six]
    outer = ("11.9.0.1", 4000)
    assert _nat(ours, [*six, outer]) is Nat.UNKNOWN
    assert _nat(ours, [*six, outer, outer]) is Nat.ENDPOINT_INDEPENDENT
    assert _nat(ours, [*six, outer, ("11.9.0.1", 4001)]) is Nat.ENDPOINT_DEPENDENT
    assert _nat(ours, six) is Nat.NONE


def test_who_hides_does_not_knock(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(net: Net, hosts: list[LocalHost]) -> None:
        server, alice, bob = hosts
        server.offer({HIP: Offer()})
        await alice.register(S, [HIP])
        await bob.connect(S)
        monkeypatch.setattr(bob.engine, "hides", lambda peer, now: peer == A)
        with pytest.raises(Hides):
            await bob.knock(A, alice.through(A, S))

    run(scenario, locators=False)


@pytest.mark.parametrize("kind", [HIP, RegistrationType.RENDEZVOUS])
def test_whom_a_server_serves_can_knock_at_itself_by_way_of_it(kind: RegistrationType) -> None:
    """Through a rendezvous server though its NAT lets no answer of its own come back to it."""

    async def scenario(net: Net, hosts: list[LocalHost]) -> None:
        server, alice, _ = hosts
        server.offer({kind: Offer()})
        await alice.register(S, [kind])
        contact = alice.through(A, S)
        net.filter = lambda data, source, to: None if source[0] == to[0] else data
        assert await alice.knock(A, contact)
        assert not alice.engine.expected
        net.filter = lambda data, source, to: data if to != SERVER or source == ALICE else None
        assert not await alice.knock(A, contact)
        assert alice.registrations()[0].passed < 0, "a knock begins nothing"

    run(scenario, locators=False)


def test_it_is_seen_through_which_relay_a_stranger_has_begun_with_us() -> None:
    async def scenario(net: Net, hosts: list[LocalHost]) -> None:
        server, alice, bob = hosts
        server.offer({HIP: Offer()})
        await alice.register(S, [HIP])
        (row,) = alice.registrations()
        assert row.passed == float("-inf")
        bob.learn(A, alice.through(A, S))
        before = asyncio.get_running_loop().time()
        await bob.connect(A)
        (row,) = alice.registrations()
        assert before <= row.passed <= asyncio.get_running_loop().time()

    run(scenario, locators=False)


def test_what_comes_through_another_server_of_ours_is_no_stranger_s() -> None:
    servers = {(A, S): OurServer(SERVER), (A, B): OurServer(("192.0.2.77", 10500))}
    requester = Requester(EngineConfig(), random.Random(1).randbytes, servers, {})
    requester.register((A, S), [HIP], 0.0)
    wish = requester._wishes[A, S]
    requester.begun(A, ("198.51.100.9", 10500), 1.0)
    requester.begun(A, Relayed(("192.0.2.77", 999), SERVER), 1.0)
    requester.begun(B, Relayed(("198.51.100.9", 10500), SERVER), 1.0)
    requester.begun(A, Relayed(("198.51.100.9", 10500), BOB), 1.0)
    assert wish.passed == float("-inf")
    requester.begun(A, Relayed(("198.51.100.9", 10500), SERVER), 1.0)
    assert wish.passed == 1.0


def test_a_host_tells_what_it_knows_of_the_way_to_it() -> None:
    async def scenario(net: Net, hosts: list[LocalHost]) -> None:
        server, alice, _ = hosts
        assert alice.reachability().nat is Nat.UNKNOWN
        server.offer(RELAYS)
        await alice.register(S, [HIP])
        told = alice.reachability()
        assert told.nat is Nat.NONE
        assert told.reflexive == ((S, ALICE),)
        assert told.addresses == (ALICE,)
        assert told.direct == contact_from_addresses([ALICE])

    run(scenario)


def test_over_real_sockets_who_cannot_meet_speaks_through_a_relay() -> None:
    async def main() -> None:
        def host(number: int) -> LocalHost:
            config = HostConfig(
                listen=(("127.0.0.1", 0),), announce_private=True, engine=EngineConfig(k=2)
            )
            return LocalHost([KEYS[number]], config)

        async with host(0) as server, host(1) as alice, host(2) as bob:
            server.offer(RELAYS)
            await asyncio.sleep(0.1)
            for client in (alice, bob):
                client.learn(S, server.contact(S))
            [row] = await bob.register(S, [ESP])
            assert row.relayed is not None
            await bob.register(S, [HIP])
            alice.learn(B, contact_from_addresses(list(server.addresses)))
            await alice.connect(B)
            assert await alice.ping(B) < 1.0

    asyncio.run(main())
