"""LocalHost in virtual time over a simulated network, with what a network does to datagrams."""

import asyncio
import json
import os
import stat
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from hipctl import (
    AssociationDown,
    AssociationFailed,
    AssociationUp,
    EngineConfig,
    Event,
    Hit,
    Host,
    HostConfig,
    HostConfigRefused,
    HostIdentity,
    KeyFileRefused,
    LocalHost,
    PortInUse,
    contact_from_addresses,
)
from hipctl.inner import LONGEST_DATAGRAM
from hipctl.keylog import open_keylog
from sim.loop import simulate
from sim.net import Address, Net

ADDRESSES: list[Address] = [("10.0.0.1", 10500), ("10.0.0.2", 10500), ("10.0.0.3", 10500)]
KEYS = [HostIdentity(ec.derive_private_key(n, ec.SECP256R1())) for n in (11, 22, 33, 44)]
A, B, C, D = (key.hit for key in KEYS)

Hosts = list[LocalHost]
Heard = list[tuple[bytes, Hit, int]]


def run(
    net: Net, scenario: Callable[[Hosts], Awaitable[None]], config: EngineConfig | None = None
) -> None:
    """Run a scenario with hosts a, b, c (c is C and D), who know each other."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            hosts = []
            for number, address in enumerate(ADDRESSES):
                identities = [KEYS[number]] if number < 2 else KEYS[2:]
                host_config = HostConfig(
                    listen=(address,),
                    announce_private=True,
                    engine=config or EngineConfig(k=2),
                )
                host = LocalHost(identities, host_config, open_port=net.open)
                hosts.append(await stack.enter_async_context(host))
            for host in hosts:
                for other in hosts:
                    for hit in other.hits:
                        host.learn(hit, other.contact(hit))
            await scenario(hosts)

    simulate(main)


def collect_exceptions() -> list[object]:
    """What callbacks raise from now on."""
    raised: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: raised.append(context))
    return raised


def test_a_datagram_to_a_stranger_starts_the_exchange_and_arrives() -> None:
    net = Net(latency=0.05)

    async def scenario(hosts: Hosts) -> None:
        a, b, _ = hosts
        heard: Heard = []
        events: list[Event] = []
        b.open(B, 7, lambda *args: heard.append(args))
        a.watch(events.append)
        end = a.open(A, 0, lambda *_: None)
        assert end.port >= 49_152
        end.send(b"hello", B, 7)
        assert not a.connected(B)
        await asyncio.sleep(1)
        assert heard == [(b"hello", A, end.port)]
        assert a.connected(B)
        assert b.connected(A)
        assert [type(event) for event in events] == [AssociationUp]
        assert round(events[0].seconds, 2) == 0.2  # type: ignore[union-attr]

    run(net, scenario)
    kinds = [data[6] & 0x7F for _, _, _, data in net.log if data[:4] == bytes(4)]
    assert kinds[:4] == [1, 2, 3, 4]
    assert all(b"hello" not in data for *_, data in net.log)


def test_every_host_is_a_host() -> None:
    async def scenario(hosts: Hosts) -> None:
        host: Host = hosts[2]
        assert list(host.hits) == [C, D]
        with pytest.raises(ValueError, match="no identity"):
            host.open(A, 1, lambda *_: None)
        with pytest.raises(ValueError, match="port"):
            host.open(C, 70_000, lambda *_: None)

    run(Net(), scenario)


@pytest.mark.parametrize("seed", range(4))
def test_exchange_and_datagrams_survive_a_bad_network(seed: int) -> None:
    net = Net(loss=0.2, duplicate=0.2, reorder=0.5, seed=seed)

    async def scenario(hosts: Hosts) -> None:
        a, b, _ = hosts
        heard: Heard = []
        b.open(B, 7, lambda *args: heard.append(args))
        end = a.open(A, 8, lambda *_: None)
        await a.connect(B, timeout=60)
        for number in range(200):
            end.send(b"%d" % number, B, 7)
            await asyncio.sleep(0.02)
        await asyncio.sleep(1)
        numbers = [int(data) for data, _, _ in heard]
        assert len(numbers) == len(set(numbers))  # duplicates are replays
        assert 120 < len(numbers) < 190

    run(net, scenario)


@pytest.mark.parametrize("size", [0, 1, 2, 1_100, 1_163, 1_200, 1_232, 4_000, LONGEST_DATAGRAM])
def test_datagrams_of_every_size_arrive_within_the_mtu(size: int) -> None:
    net = Net()

    async def scenario(hosts: Hosts) -> None:
        a, b, _ = hosts
        heard: Heard = []
        b.open(B, 7, lambda *args: heard.append(args))
        data = bytes(range(256)) * 256
        end = a.open(A, 8, lambda *_: None)
        end.send(data[:size], B, 7)
        await asyncio.sleep(1)
        end.send(data[:size], B, 7)
        await asyncio.sleep(1)
        assert heard == [(data[:size], A, 8)] * 2
        with pytest.raises(ValueError, match="at most"):
            end.send(bytes(LONGEST_DATAGRAM + 1), B, 7)

    run(net, scenario)
    assert max(len(data) for *_, data in net.log) <= 1_280 - 28


@pytest.mark.parametrize("suite", [13, 9, 8])
def test_what_just_fits_the_mtu_is_one_packet_and_what_does_not_is_two(suite: int) -> None:
    net = Net()
    packets: dict[int, list[int]] = {}

    async def scenario(hosts: Hosts) -> None:
        a, b, _ = hosts
        heard: Heard = []
        b.open(B, 7, lambda *args: heard.append(args))
        await a.connect(B)
        end = a.open(A, 8, lambda *_: None)
        for size in range(1_150, 1_230):
            del net.log[:]
            end.send(bytes(size), B, 7)
            packets[size] = [len(data) for *_, data in net.log]
        await asyncio.sleep(1)
        assert [len(data) for data, _, _ in heard] == list(range(1_150, 1_230))

    run(net, scenario, EngineConfig(k=1, esp_suites=(suite,)))
    longest = max(size for size, sent in packets.items() if len(sent) == 1)
    assert all(len(sent) == 1 + (size > longest) for size, sent in packets.items())
    block = 4 if suite == 13 else 16
    assert 1_252 - block < packets[longest][0] <= 1_252
    assert max(max(sent) for sent in packets.values()) <= 1_252


def test_fragments_in_disorder_become_the_datagram() -> None:
    async def scenario(hosts: Hosts) -> None:
        a, b, _ = hosts
        heard: Heard = []
        b.open(B, 7, lambda *args: heard.append(args))
        await a.connect(B)
        a.open(A, 8, lambda *_: None).send(bytes(40_000), B, 7)
        await asyncio.sleep(1)
        assert heard == [(bytes(40_000), A, 8)]

    run(Net(reorder=0.5, duplicate=0.3, seed=1), scenario)


def test_own_hits_are_reached_in_the_loops_next_iteration() -> None:
    net = Net()

    async def scenario(hosts: Hosts) -> None:
        c = hosts[2]
        heard: Heard = []
        c.open(D, 7, lambda *args: heard.append(args))
        c.open(C, 8, lambda *_: None).send(b"me", D, 7)
        assert heard == []
        await asyncio.sleep(0)
        assert heard == [(b"me", C, 8)]
        await c.connect(D, timeout=0.001)

    run(net, scenario)
    assert net.log == []


def test_both_identities_of_a_host_are_told_apart() -> None:
    async def scenario(hosts: Hosts) -> None:
        a, _, c = hosts
        heard: Heard = []
        a.open(A, 7, lambda *args: heard.append(args))
        for hit in (C, D):
            c.open(hit, 8, lambda *_: None).send(b"from", A, 7)
        await asyncio.sleep(1)
        assert sorted(heard) == sorted([(b"from", C, 8), (b"from", D, 8)])

    run(Net(), scenario)


def test_two_hosts_that_start_at_once_get_along() -> None:
    async def scenario(hosts: Hosts) -> None:
        a, b, _ = hosts
        await asyncio.gather(a.connect(B), b.connect(A))
        heard: Heard = []
        a.open(A, 7, lambda *args: heard.append(args))
        b.open(B, 7, lambda *args: heard.append(args))
        a.open(A, 8, lambda *_: None).send(b"x", B, 7)
        b.open(B, 8, lambda *_: None).send(b"y", A, 7)
        await asyncio.sleep(1)
        assert sorted(heard) == sorted([(b"x", A, 8), (b"y", B, 8)])

    run(Net(), scenario)


def test_connect_fails_without_contact_or_answer() -> None:
    stranger = Hit.parse("2001:22::9")

    async def scenario(hosts: Hosts) -> None:
        a = hosts[0]
        with pytest.raises(AssociationFailed):
            await a.connect(stranger, timeout=1)
        a.learn(stranger, contact_from_addresses([("10.0.0.99", 10500)]))
        with pytest.raises(AssociationFailed, match="did not answer"):
            await a.connect(stranger, timeout=1)

    run(Net(), scenario)


def test_the_end_of_a_host_is_told_to_its_peers() -> None:
    async def scenario(hosts: Hosts) -> None:
        a, b, _ = hosts
        events: list[Event] = []
        await a.connect(B)
        a.watch(events.append)
        await b.__aexit__()
        await asyncio.sleep(1)
        assert [type(event) for event in events] == [AssociationDown]
        assert not a.connected(B)

    run(Net(), scenario)


def test_a_closed_host_does_nothing_any_more() -> None:
    net = Net()

    def from_a() -> int:
        return sum(source == ADDRESSES[0] for _, source, _, _ in net.log)

    async def scenario(hosts: Hosts) -> None:
        a = hosts[0]
        heard: Heard = []
        end = a.open(A, 8, lambda *args: heard.append(args))
        trying = [
            asyncio.create_task(a.connect(B)),
            asyncio.create_task(a.connect(Hit.parse("2001:22::9"), timeout=9)),
        ]
        await asyncio.sleep(0)
        a.watch(lambda event: end.send(b"up or down, I speak", B, 7))
        end.send(b"to myself", A, 8)
        await a.__aexit__()
        for failed in await asyncio.gather(*trying, return_exceptions=True):
            assert isinstance(failed, AssociationFailed)
        sent, before = from_a(), asyncio.get_running_loop().time()
        end.send(b"late", B, 7)
        end.send(b"late", A, 8)
        a.disconnect(B)
        with pytest.raises(AssociationFailed, match="closed"):
            await a.connect(C)
        assert asyncio.get_running_loop().time() == before
        await asyncio.sleep(60)
        assert from_a() == sent
        assert heard == []
        await a.__aexit__()

    run(net, scenario)


def test_an_endpoint_may_close_itself_and_its_host_while_it_is_called() -> None:
    async def scenario(hosts: Hosts) -> None:
        a, b, _ = hosts
        raised = collect_exceptions()
        heard: Heard = []
        closing: list[asyncio.Task[None]] = []

        def once(*args: object) -> None:
            heard.append(args)  # type: ignore[arg-type]
            answering.send(b"bye", A, 8)
            answering.close()
            closing.append(asyncio.create_task(b.__aexit__()))

        answering = b.open(B, 7, once)
        end = a.open(A, 8, lambda *args: heard.append(args))
        await a.connect(B)
        end.send(bytes(9_000), B, 7)
        end.send(b"nobody is there", B, 7)
        await asyncio.sleep(1)
        assert [data for data, _, _ in heard] == [bytes(9_000), b"bye"]
        assert closing[0].done()
        assert raised == []

    run(Net(), scenario)


def test_a_flood_to_our_own_hits_is_bounded_and_counted() -> None:
    async def scenario(hosts: Hosts) -> None:
        c = hosts[2]
        heard = 0

        def count(*_: object) -> None:
            nonlocal heard
            heard += 1

        c.open(D, 7, count)
        end = c.open(C, 8, lambda *_: None)
        for _ in range(1_000):
            end.send(bytes(LONGEST_DATAGRAM), D, 7)
        await asyncio.sleep(0)
        assert 0 < heard < 100
        assert c.counters()["too much for our own HITs"] == 1_000 - heard

    run(Net(), scenario)


@pytest.mark.parametrize("beginner", [0, 1])
def test_answers_come_from_the_address_that_was_asked(beginner: int) -> None:
    net = Net()
    beside: Address = ("10.0.0.22", 10500)

    async def scenario() -> None:
        one = HostConfig(listen=(ADDRESSES[0],), engine=EngineConfig(k=2))
        several = HostConfig(listen=(ADDRESSES[1], beside), engine=EngineConfig(k=2))
        async with (
            LocalHost(KEYS[:1], one, open_port=net.open) as a,
            LocalHost(KEYS[1:2], several, open_port=net.open) as b,
        ):
            a.learn(B, contact_from_addresses([beside]))
            b.learn(A, contact_from_addresses([ADDRESSES[0]]))

            def echo(data: bytes, hit: Hit, port: int) -> None:
                end.send(data, hit, port)

            a.open(A, 8, lambda *_: None)
            end = b.open(B, 7, echo)
            if beginner:
                await b.connect(A)
            for size in (10, 5_000):
                a.open(A, 0, lambda *_: None).send(bytes(size), B, 7)
                await asyncio.sleep(1)
            await a.ping(B)
            a.disconnect(B)
            await asyncio.sleep(1)
        sent = [source for _, source, to, _ in net.log if to == ADDRESSES[0]]
        assert set(sent) == {ADDRESSES[1] if beginner else beside}
        assert len(sent) > 8

    simulate(scenario)


def test_an_association_that_data_completed_is_looked_after_in_time() -> None:
    net = Net()

    async def scenario(hosts: Hosts) -> None:
        a, b, _ = hosts
        a.open(A, 8, lambda *_: None).send(b"first", B, 7)
        await asyncio.sleep(1)
        assert b.connected(A)
        net.filter = lambda *_: None
        await asyncio.sleep(6)
        assert not b.connected(A)

    run(net, scenario, EngineConfig(k=1, unused_lifetime=2.0))


def test_disconnect_closes_on_both_sides() -> None:
    async def scenario(hosts: Hosts) -> None:
        a, b, _ = hosts
        await a.connect(B)
        a.disconnect(B)
        await asyncio.sleep(1)
        assert not a.connected(B)
        assert not b.connected(A)
        await a.connect(B)

    run(Net(), scenario)


def test_ping_measures_and_nobody_is_a_timeout() -> None:
    async def scenario(hosts: Hosts) -> None:
        a, _, _ = hosts
        await a.connect(B)
        assert await a.ping(B, data=b"x" * 5_000) >= 0
        assert await a.ping(B, data=bytes(LONGEST_DATAGRAM)) >= 0
        with pytest.raises(ValueError, match="at most"):
            await a.ping(B, data=bytes(LONGEST_DATAGRAM + 1))
        with pytest.raises(TimeoutError):
            await a.ping(Hit.parse("2001:22::9"))

    run(Net(), scenario)


def test_a_closed_port_is_counted_and_a_taken_one_refused() -> None:
    async def scenario(hosts: Hosts) -> None:
        a, b, _ = hosts
        end = a.open(A, 8, lambda *_: None)
        end.send(b"", B, 9)
        await asyncio.sleep(1)
        assert b.counters()["port closed"] == 1
        with pytest.raises(PortInUse):
            a.open(A, 8, lambda *_: None)
        end.close()
        end.close()
        a.open(A, 8, lambda *_: None)

    run(Net(), scenario)


def test_a_callback_that_raises_is_counted_and_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(hosts: Hosts) -> None:
        a, b, _ = hosts

        def broken(*_: object) -> None:
            raise RuntimeError("a service's mistake")

        def cancelled(*_: object) -> None:
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            future.result()

        raised = collect_exceptions()
        heard: Heard = []
        b.watch(broken)
        b.open(B, 5, cancelled)
        b.open(B, 6, broken)
        b.open(B, 7, lambda *args: heard.append(args))
        end = a.open(A, 8, lambda *_: None)
        for _ in range(3):
            end.send(b"", B, 6)
        end.send(b"", B, 5)
        end.send(b"", B, 7)
        await asyncio.sleep(1)
        assert len(heard) == 1
        assert b.counters()["callback failed"] == 5
        assert raised == []

    run(Net(), scenario)
    assert "a service's mistake" in caplog.text


def test_esp_from_elsewhere_counts_only_if_its_key_is_right() -> None:
    net = Net()

    async def scenario(hosts: Hosts) -> None:
        a, b, _ = hosts
        heard: Heard = []
        b.open(B, 7, lambda *args: heard.append(args))
        await a.connect(B)
        end = a.open(A, 8, lambda *_: None)
        net.filter = lambda data, source, to: None
        end.send(b"caught", B, 7)
        net.filter = None
        packet = net.log[-1][3]
        net.carry(packet[:-1] + bytes([packet[-1] ^ 1]), ADDRESSES[2], ADDRESSES[1])
        net.carry(packet, ("10.9.9.9", 1), ADDRESSES[1])
        net.carry(packet, ADDRESSES[0], ADDRESSES[1])
        await asyncio.sleep(1)
        assert heard == [(b"caught", A, 8)]
        counters = b.counters()
        assert counters["ESP authentication failed"] == 1
        assert counters["ESP packet replayed"] == 1

    run(net, scenario)


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=200),
            st.binary(max_size=200).map(lambda b: bytes(4) + b),
            st.binary(max_size=200).map(lambda b: bytes(4) + b"\x3b\x04\x01\x21" + b),
        ),
        max_size=12,
    )
)
@settings(max_examples=25, deadline=None)
def test_garbage_at_the_port_never_raises_and_is_counted(garbage: list[bytes]) -> None:
    net = Net()

    async def scenario(hosts: Hosts) -> None:
        raised = collect_exceptions()
        a = hosts[0]
        before = sum(a.counters().values())
        for data in garbage:
            net.carry(data, ("10.6.6.6", 6), ADDRESSES[0])
        await asyncio.sleep(1)
        assert sum(a.counters().values()) >= before + len(garbage)
        assert raised == []
        await a.connect(B)

    run(net, scenario)


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=80)), max_size=12))
@settings(max_examples=25, deadline=None)
def test_garbage_inside_esp_never_raises(garbage: list[tuple[int, bytes]]) -> None:
    async def scenario(hosts: Hosts) -> None:
        raised = collect_exceptions()
        a, b, _ = hosts
        await a.connect(B)
        for next_header, payload in garbage:
            a.data.send_sealed(a.engine.outbound[A, B], next_header, payload)
        await asyncio.sleep(1)
        assert b.counters()["ESP packets received"] == len(garbage)
        assert raised == []

    run(Net(), scenario)


def test_a_keepalive_is_ignored() -> None:
    net = Net()

    async def scenario(hosts: Hosts) -> None:
        net.carry(b"\xff", ("10.6.6.6", 6), ADDRESSES[0])
        await asyncio.sleep(1)
        assert hosts[0].counters()["keepalive"] == 1
        assert len(net.log) == 1

    run(net, scenario)


def test_contacts_say_where_we_are_and_nothing_private_unasked() -> None:
    async def scenario() -> None:
        net = Net()
        public: Address = ("11.0.0.1", 10500)
        config = HostConfig(listen=(ADDRESSES[0], public))
        async with LocalHost(KEYS[:1], config, open_port=net.open) as host:
            assert host.contact(A) == contact_from_addresses([public])
            assert host.groups(host.contact(A))
        announced: Address = ("192.168.1.1", 99)
        config = HostConfig(listen=(ADDRESSES[0],), announce=(announced,))
        async with LocalHost(KEYS[:1], config, open_port=net.open) as host:
            assert host.contact(A) == contact_from_addresses([announced])
            host.hide(A, hidden=True)
            assert host.contact(A) == contact_from_addresses([])
            assert host.reachability().direct == contact_from_addresses([announced])

    simulate(scenario)


def test_bad_contacts_are_counted_and_ignored() -> None:
    async def scenario(hosts: Hosts) -> None:
        a = hosts[0]
        before = sum(a.counters().values())
        a.learn(B, b"\xff nonsense")
        a.learn(B, b"")
        a.learn(A, contact_from_addresses([ADDRESSES[1]]))
        assert sum(a.counters().values()) == before + 2
        await a.connect(B)

    run(Net(), scenario)


def test_status_lists_associations_with_their_packets() -> None:
    async def scenario(hosts: Hosts) -> None:
        a = hosts[0]
        await a.connect(B)
        await a.ping(B)
        (row,) = a.status()
        assert (
            row.items()
            >= {
                "local": str(A),
                "peer": str(B),
                "state": "ESTABLISHED",
                "address": list(ADDRESSES[1]),
                "esp_transform": 13,
                "sent": 1,
                "received": 1,
                "drops": {},
            }.items()
        )
        json.dumps(row)

    run(Net(), scenario)


@pytest.mark.parametrize("suite", [13, 9, 8])
def test_every_esp_transform_can_be_agreed_on(suite: int) -> None:
    async def scenario(hosts: Hosts) -> None:
        a, b, _ = hosts
        heard: Heard = []
        b.open(B, 7, lambda *args: heard.append(args))
        await a.connect(B)
        assert a.engine.outbound[A, B].sa.suite == suite
        a.open(A, 8, lambda *_: None).send(bytes(3_000), B, 7)
        await asyncio.sleep(1)
        assert heard == [(bytes(3_000), A, 8)]

    run(Net(), scenario, EngineConfig(k=1, esp_suites=(suite,)))


def test_a_hard_puzzle_is_solved_beside_the_loop() -> None:
    async def scenario(hosts: Hosts) -> None:
        await hosts[0].connect(B)

    run(Net(), scenario, EngineConfig(k=13))


def test_an_sa_at_the_end_of_its_numbers_is_replaced() -> None:
    async def scenario(hosts: Hosts) -> None:
        a, b, _ = hosts
        heard: Heard = []
        b.open(B, 7, lambda *args: heard.append(args))
        await a.connect(B)
        a.engine.outbound[A, B].sa.packets = 2**32 - 1
        end = a.open(A, 8, lambda *_: None)
        end.send(b"lost", B, 7)
        await asyncio.sleep(1)
        assert a.counters()["ESP sequence numbers exhausted"] == 1
        end.send(b"new keys", B, 7)
        await asyncio.sleep(1)
        assert heard == [(b"new keys", A, 8)]

    run(Net(), scenario)


def test_the_keylog_is_private_and_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        net, file = Net(), tmp_path / "keys"
        file.touch(0o644)
        config = HostConfig(listen=(ADDRESSES[0],), keylog=file)
        other = HostConfig(listen=(ADDRESSES[1],))
        async with (
            LocalHost(KEYS[:1], config, open_port=net.open) as a,
            LocalHost(KEYS[1:2], other, open_port=net.open),
        ):
            a.learn(B, contact_from_addresses([ADDRESSES[1]]))
            await a.connect(B)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        word, *fields = file.read_text().split()
        assert (word, len(fields)) == ("HIP", 6)
        assert {fields[0], fields[1]} == {A.hex(), B.hex()}

    simulate(scenario)
    assert "keys" in caplog.text


def test_a_keylog_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
        os.mkfifo(tmp_path / "fifo", 0o600)
        reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
        files = [tmp_path, tmp_path / "no" / "folder", tmp_path / "link", tmp_path / "fifo"]
        if os.geteuid() == 0:
            (tmp_path / "others").touch(0o600)
            os.chown(tmp_path / "others", 65_534, -1)
            files.append(tmp_path / "others")
        for file in (*files, Path("/dev/null")):
            config = HostConfig(listen=(ADDRESSES[0],), keylog=file)
            with pytest.raises(KeyFileRefused, match="another file"):
                await LocalHost(KEYS[:1], config, open_port=Net().open).__aenter__()
        os.close(reader)
        with pytest.raises(KeyFileRefused):  # without a reader it would wait for one
            open_keylog(tmp_path / "fifo")

    mode = Path("/dev/null").stat().st_mode
    simulate(scenario)
    assert Path("/dev/null").stat().st_mode == mode


@pytest.mark.parametrize(
    ("identities", "config"),
    [
        ([], HostConfig()),
        (KEYS, HostConfig(listen=())),
        (KEYS, HostConfig(listen=(("nobody.invalid", 10500),))),
        (KEYS, HostConfig(listen=(("10.0.0.1", 65_536),))),
        (KEYS, HostConfig(listen=(("10.0.0.1", -1),))),
        (KEYS, HostConfig(listen=(("224.0.0.1", 10500),))),
        (KEYS, HostConfig(mtu=100)),
        (KEYS, HostConfig(mtu=65_536)),
        (KEYS, HostConfig(announce=(("224.0.0.1", 1),))),
        (KEYS, HostConfig(announce=(("::ffff:224.0.0.1", 1),))),
        (KEYS, HostConfig(announce=(("11.0.0.1", 1),) * 3)),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(
    identities: list[HostIdentity], config: HostConfig
) -> None:
    with pytest.raises(HostConfigRefused):
        LocalHost(identities, config)


def test_where_a_peer_was_on_a_link_is_not_kept_for_another_start() -> None:
    async def scenario(hosts: Hosts) -> None:
        host = hosts[0]
        assert host.last_seen(B) == b""
        for address, kept in [
            (("fe80::1%eth0", 10500), b""),
            (("169.254.3.4", 10500), b""),
            (("10.0.0.2", 10500), contact_from_addresses([("10.0.0.2", 10500)])),
        ]:
            host.engine._shared.remember(B, address)
            assert host.last_seen(B) == kept

    run(Net(), scenario)
