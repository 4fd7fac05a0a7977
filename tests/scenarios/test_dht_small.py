"""Overlays of one to five peers: the ordinary case at first, and after every holiday."""

import asyncio
from pathlib import Path

import pytest
from scenarios.swarm import EPOCH, identity, overlay_info

from hipctl import ContactChanged, Hit, Woke
from overlay import LookupFailed, NotFound
from overlay.accounts import AccountKey, self_certifying_aor
from overlay.admission import Account, Credentials
from overlay.directory import Directory
from overlay.keys import aor_key
from overlay.kinds import NodeInfo, Revoke
from overlay.node import Node
from overlay.overlayfile import OverlayInfo, Seed
from overlay.publisher import Draft, Publisher
from overlay.records import sign_record
from overlay.revocations import FRESH
from overlay.store import MemoryStore, SqliteStore, Store
from sim.hits import HitNet, SimHost
from sim.loop import simulate


def account_key(number: int) -> AccountKey:
    return AccountKey(identity(1_000 + number))


class Device:
    """A device of a person: host, node and directory, as a peer composes them."""

    def __init__(
        self,
        net: HitNet,
        number: int,
        seeds: tuple[Hit, ...] = (),
        *,
        account: int | None = None,
        store: Store | None = None,
        overlay: OverlayInfo | None = None,
    ) -> None:
        self.identity = identity(number)
        hit = self.identity.hit
        self.overlay = overlay or overlay_info()
        self.host: SimHost = net.hosts.get(hit) or net.host(hit)
        for seed in seeds:
            self.host.learn(seed, b"sim:" + seed)
        key = account_key(number if account is None else account)
        self.delegation = key.delegate(hit, int(EPOCH) + 86_400 * 300, 1)
        self.aor = self_certifying_aor(key.hit, self.overlay.domain)
        loop = asyncio.get_running_loop()
        self.node = Node(
            self.host,
            hit,
            self.overlay,
            Credentials(self.delegation),
            store or MemoryStore(),
            seeds=[Seed(seed, "192.0.2.1", 10500) for seed in seeds],
            wall=lambda: EPOCH + loop.time(),
        )
        self.publisher = Publisher(self.node, self.identity)
        self.directory = Directory(self.node, self.publisher, Account((self.delegation,)))

    async def start(self) -> "Device":
        self.host.start()
        await self.node.__aenter__()
        await self.publisher.__aenter__()
        await self.directory.__aenter__()
        return self

    async def stop(self) -> None:
        await self.directory.__aexit__(None, None, None)
        await self.publisher.__aexit__(None, None, None)
        await self.node.__aexit__(None, None, None)

    async def die(self) -> None:
        self.host.stop()
        await self.directory.__aexit__(None, None, None)
        await self.publisher.__aexit__(None, None, None)
        await self.node.__aexit__(None, None, None)


async def devices(net: HitNet, count: int) -> list[Device]:
    first = await Device(net, 0).start()
    others = [await Device(net, i, (first.identity.hit,)).start() for i in range(1, count)]
    for device in (first, *others):
        await device.directory.publish(device.aor, 5060)
    await asyncio.sleep(5)
    return [first, *others]


def test_an_overlay_of_one_holds_its_own_records_and_resolves_itself_at_once() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        device = await Device(HitNet(), 0).start()
        await device.directory.publish(device.aor, 5070)
        (target,) = await device.directory.resolve(device.aor)
        assert (target.hit, target.port) == (device.identity.hit, 5070)
        await asyncio.sleep(0.1)
        assert device.directory.published() == {device.aor: 1}
        with pytest.raises(NotFound):
            await device.directory.resolve("sip:nobody@p2p.example")
        assert loop.time() < 0.2
        await device.stop()

    simulate(main)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_everybody_finds_everybody_in_a_small_overlay(count: int) -> None:
    async def main() -> None:
        everybody = await devices(HitNet(latency=(0.05, 0.05)), count)
        for one in everybody:
            for other in everybody:
                (target,) = await one.directory.resolve(other.aor)
                assert target.hit == other.identity.hit
                assert await one.directory.owns(other.aor, other.identity.hit)
                if one is not other:
                    assert not await one.directory.owns(one.aor, other.identity.hit)
                    assert one.host.learnt[other.identity.hit]
        for device in everybody:
            assert device.directory.published() == {device.aor: count} or device is everybody[0]
            # REG and NODE of everybody, but for one put that may have crossed a join
            assert len(device.node.engine.storage) >= 2 * count - 1

    simulate(main)


async def revoke(by: Device, of: Device, seq: int, account: AccountKey) -> None:
    """Put into the overlay that an account has revoked a device."""
    created = int(by.node.wall())
    end = created + 100 * 86_400
    key = aor_key(by.overlay.id, of.aor)
    said = Revoke(of.aor, of.identity.hit, b"", seq, end, None)
    await by.node.put(
        sign_record(
            account._identity,
            by.overlay.id,
            "REVOKE",
            key,
            of.identity.hit,
            1,
            created,
            end,
            said.encode(),
        )
    )


@pytest.mark.parametrize("seq", [0, 1, 2])
def test_a_device_whose_delegation_was_revoked_answers_for_nobody(seq: int) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        net = HitNet(latency=(0.05, 0.05))
        everybody = await devices(net, 4)
        one, stolen = everybody[:2]
        kept = await Device(net, 9, (one.identity.hit,), account=1).start()
        await kept.directory.publish(kept.aor, 5060)
        await asyncio.sleep(5)
        assert kept.aor == stolen.aor
        both = {kept.identity.hit, stolen.identity.hit}
        assert {target.hit for target in await one.directory.resolve(kept.aor)} == both
        await revoke(everybody[2], stolen, seq, account_key(1))
        await asyncio.sleep(FRESH)
        began = loop.time()
        found = {target.hit for target in await one.directory.resolve(kept.aor)}
        assert loop.time() - began < 1.0
        # the delegation's seq is 1; what was delegated anew after that holds
        assert found == ({kept.identity.hit} if seq else both)
        assert await one.directory.owns(kept.aor, kept.identity.hit)
        for device in (*everybody, kept):
            await device.stop()

    simulate(main)


def test_a_name_of_which_all_is_revoked_is_not_found_by_whoever_asks_first() -> None:
    async def main() -> None:
        everybody = await devices(HitNet(latency=(0.05, 0.05)), 4)
        one, stolen = everybody[:2]
        await revoke(everybody[2], stolen, 1, account_key(1))
        await asyncio.sleep(1)
        with pytest.raises(NotFound, match="nobody is registered"):
            await one.directory.resolve(stolen.aor)
        for device in everybody:
            await device.stop()

    simulate(main)


@pytest.mark.parametrize("dead", [1, 2, 3])
def test_an_unknown_name_is_not_found_in_time_though_some_of_five_are_dead(dead: int) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        everybody = await devices(HitNet(latency=(0.05, 0.05)), 5)
        for device in everybody[:dead]:
            device.host.stop()
        began = loop.time()
        with pytest.raises(NotFound):
            await everybody[4].directory.resolve("sip:nobody@p2p.example")
        assert loop.time() - began < 1.6
        began = loop.time()
        assert await everybody[4].directory.resolve(everybody[3].aor)
        assert loop.time() - began < 1.0
        with pytest.raises(NotFound):  # and again, with those who are known to be dead
            await everybody[4].directory.resolve("sip:nobody@p2p.example")

    simulate(main)


def test_an_unknown_name_in_another_domain_is_not_found_without_asking() -> None:
    async def main() -> None:
        (device,) = await devices(HitNet(), 1)
        with pytest.raises(NotFound, match="domain"):
            await device.directory.resolve("sip:alice@elsewhere.example")
        await device.stop()

    simulate(main)


def test_whoever_is_cut_off_says_so_in_place_of_not_found() -> None:
    async def main() -> None:
        everybody = await devices(HitNet(latency=(0.05, 0.05)), 3)
        loop = asyncio.get_running_loop()
        for device in everybody[1:]:
            device.host.stop()
        began = loop.time()
        with pytest.raises(LookupFailed):
            await everybody[0].node.get("REG", bytes(20))
        assert loop.time() - began < 4

    simulate(main)


def test_a_peer_that_wakes_is_callable_within_seconds() -> None:
    async def main() -> None:
        net = HitNet(latency=(0.05, 0.05))
        loop = asyncio.get_running_loop()
        one = await Device(net, 0).start()
        store = MemoryStore()
        two = await Device(net, 1, (one.identity.hit,), store=store).start()
        await two.directory.publish(two.aor, 5060)
        await asyncio.sleep(60)
        for _ in range(3):
            await two.die()
            await asyncio.sleep(4000)  # its registration has expired
            with pytest.raises((NotFound, LookupFailed)):
                await one.directory.resolve(two.aor)
            two = await Device(net, 1, (one.identity.hit,), store=store).start()
            await two.directory.publish(two.aor, 5060)
            woke = loop.time()
            while True:
                try:
                    (target,) = await one.directory.resolve(two.aor)
                    break
                except (NotFound, LookupFailed):
                    await asyncio.sleep(0.2)
            assert target.hit == two.identity.hit
            assert loop.time() - woke < 5

    simulate(main)


def test_a_changed_port_replaces_the_registration_and_an_equal_one_costs_nothing() -> None:
    async def main() -> None:
        net = HitNet(latency=(0.05, 0.05))
        one, two = await devices(net, 2)
        await asyncio.sleep(100)
        sent = net.counters["sent"]
        await two.directory.publish(two.aor, 5060)
        await asyncio.sleep(1)
        assert net.counters["sent"] == sent
        await two.directory.publish(two.aor, 5099)
        await asyncio.sleep(1)
        (target,) = await one.directory.resolve(two.aor)
        assert target.port == 5099
        await one.stop()
        await two.stop()

    simulate(main)


def test_a_registration_is_refreshed_at_half_its_life_for_as_long_as_it_is_wanted() -> None:
    async def main() -> None:
        one, two = await devices(HitNet(latency=(0.05, 0.05)), 2)
        (before,) = await one.directory.resolve(two.aor)
        await asyncio.sleep(3 * 3600)
        (after,) = await one.directory.resolve(two.aor)
        assert after.expires >= before.expires + 2.5 * 3600
        await one.stop()
        await two.stop()

    simulate(main)


def test_what_is_withdrawn_is_gone_at_once_and_stays_gone() -> None:
    async def main() -> None:
        one, two, three = await devices(HitNet(latency=(0.05, 0.05)), 3)
        await two.directory.withdraw(two.aor)
        for device in (one, two, three):
            with pytest.raises(NotFound):
                await device.directory.resolve(two.aor)
        await asyncio.sleep(4000)
        with pytest.raises(NotFound):
            await one.directory.resolve(two.aor)
        await two.directory.publish(two.aor, 5062)
        await asyncio.sleep(1)
        (target,) = await one.directory.resolve(two.aor)
        assert target.port == 5062

    simulate(main)


def test_two_devices_of_one_person_both_ring() -> None:
    async def main() -> None:
        net = HitNet(latency=(0.05, 0.05))
        one = await Device(net, 0).start()
        seeds = (one.identity.hit,)
        phone = await Device(net, 1, seeds, account=7).start()
        tablet = await Device(net, 2, seeds, account=7).start()
        assert phone.aor == tablet.aor
        await phone.directory.publish(phone.aor, 5060)
        await tablet.directory.publish(tablet.aor, 5061)
        await asyncio.sleep(2)
        found = await one.directory.resolve(phone.aor)
        assert {(t.hit, t.port) for t in found} == {
            (phone.identity.hit, 5060),
            (tablet.identity.hit, 5061),
        }
        expiries = [target.expires for target in found]
        assert expiries == sorted(expiries, reverse=True)

    simulate(main)


def test_more_devices_than_one_datagram_holds_are_fetched_singly() -> None:
    async def main() -> None:
        net = HitNet(latency=(0.05, 0.05))
        net.logging = True
        one = await Device(net, 0).start()
        seeds = (one.identity.hit,)
        devices = [await Device(net, n, seeds, account=7).start() for n in range(1, 9)]
        for device in devices:
            await device.directory.publish(device.aor, 5060)
        await asyncio.sleep(5)
        net.log.clear()
        loop = asyncio.get_running_loop()
        began = loop.time()
        found = await one.directory.resolve(devices[0].aor)
        assert {target.hit for target in found} == {device.identity.hit for device in devices}
        assert loop.time() - began < 0.5
        assert max(len(data) for *_, data in net.log) <= 1_250

    simulate(main)


def test_a_changed_contact_is_published_at_once() -> None:
    async def main() -> None:
        one, two = await devices(HitNet(latency=(0.05, 0.05)), 2)
        moved = b"sim:" + two.identity.hit + b"elsewhere"
        two.host.contact = lambda hit: moved  # type: ignore[method-assign]
        await asyncio.sleep(8)
        await one.directory.resolve(two.aor)
        assert one.host.learnt[two.identity.hit] == moved
        assert await one.directory.reach(two.identity.hit)

    simulate(main)


def test_whose_host_tells_of_a_move_publishes_it_within_half_a_second() -> None:
    async def main() -> None:
        one, two = await devices(HitNet(latency=(0.05, 0.05)), 2)
        moved = b"sim:" + two.identity.hit + b"elsewhere"
        two.host.contact = lambda hit: moved  # type: ignore[method-assign]
        two.host.emit(ContactChanged())
        await asyncio.sleep(0.5)
        await one.directory.resolve(two.aor)
        assert one.host.learnt[two.identity.hit] == moved

    simulate(main)


async def parted(net: HitNet) -> tuple[Device, Device]:
    """Two devices, the other of which is back after both have lost each other."""
    one, two = await devices(net, 2)
    two.host.stop()
    one.host.drop(two.identity.hit, "gone")
    await asyncio.sleep(400)
    assert not len(one.node.engine.table) + len(two.node.engine.table)
    two.host.start()
    return one, two


def know_each_other(one: Device, two: Device) -> bool:
    return len(one.node.engine.table) == len(two.node.engine.table) == 1


def test_who_was_lost_and_associates_with_us_is_greeted_at_once() -> None:
    async def main() -> None:
        one, two = await parted(HitNet(latency=(0.05, 0.05)))
        await two.host.connect(one.identity.hit)  # for some other purpose
        await asyncio.sleep(0.5)
        assert know_each_other(one, two)

    simulate(main)


def test_who_has_slept_looks_for_those_whom_it_lost_at_once() -> None:
    async def main() -> None:
        one, two = await parted(HitNet(latency=(0.05, 0.05)))
        two.host.emit(Woke(300.0))
        await asyncio.sleep(1)
        assert know_each_other(one, two)

    simulate(main)


def test_strangers_who_associate_with_us_are_not_greeted() -> None:
    async def main() -> None:
        net = HitNet(latency=(0.05, 0.05), logging=True)
        (one,) = await devices(net, 1)
        stranger = Device(net, 9)
        stranger.host.start()
        stranger.host.learn(one.identity.hit, one.host.contact(one.identity.hit))
        await stranger.host.connect(one.identity.hit)
        await asyncio.sleep(5)
        assert not net.log

    simulate(main)


def test_nobody_publishes_a_name_that_is_not_theirs() -> None:
    async def main() -> None:
        one, two = await devices(HitNet(latency=(0.05, 0.05)), 2)
        with pytest.raises(NotFound):
            await one.directory.publish(two.aor, 5060)
        await one.stop()
        await two.stop()

    simulate(main)


def test_whom_the_seed_forgot_is_found_again_through_remembered_contacts() -> None:
    async def main() -> None:
        net = HitNet(latency=(0.05, 0.05))
        store = MemoryStore()
        seed = await Device(net, 0).start()
        hits = (seed.identity.hit,)
        friend = await Device(net, 1, hits).start()
        me = await Device(net, 2, hits, store=store).start()
        await friend.directory.publish(friend.aor, 5060)
        await asyncio.sleep(5)
        await me.stop()
        seed.host.stop()
        me = await Device(net, 2, hits, store=store).start()
        await asyncio.sleep(8)
        (target,) = await me.directory.resolve(friend.aor)
        assert target.hit == friend.identity.hit

    simulate(main)


def test_our_own_sequence_numbers_survive_a_restart_with_the_clock_set_back(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        place = (b"o" * 32, b"k" * 20, "REG", identity(0).hit, b"")
        store = SqliteStore(tmp_path / "s")
        assert await store.reserve(*place, 1000.0) == 1_000_000
        assert await store.reserve(*place, 999.0) == 1_000_001
        store.close()
        again = SqliteStore(tmp_path / "s")
        assert await again.reserve(*place, 3.0) == 1_000_002
        again.close()

    simulate(main)


def test_a_clock_of_1970_is_corrected_by_the_neighbours() -> None:
    async def main() -> None:
        net = HitNet(latency=(0.05, 0.05))
        everybody = await devices(net, 3)
        hits = (everybody[0].identity.hit,)
        tablet = Device(net, 8, hits)
        loop = asyncio.get_running_loop()
        tablet.node._clock = loop.time
        await tablet.start()
        await tablet.directory.publish(tablet.aor, 5060)
        await asyncio.sleep(5)
        (target,) = await everybody[1].directory.resolve(tablet.aor)
        assert target.hit == tablet.identity.hit
        (target,) = await tablet.directory.resolve(everybody[2].aor)
        assert target.hit == everybody[2].identity.hit

    simulate(main)


def test_a_record_whose_maker_breaks_is_made_again_and_holds_up_no_other() -> None:
    async def main() -> None:
        device = await Device(HitNet(), 0).start()
        good, tries = NodeInfo(b"good"), 0

        def make(contact: bytes) -> Draft:
            nonlocal tries
            tries += 1
            if tries < 4:
                raise ZeroDivisionError
            return Draft("NODE", good, b"")

        device.publisher.publish("broken", make)
        await asyncio.sleep(0.5)
        await device.directory.publish(device.aor, 5060)
        await asyncio.sleep(0.5)
        assert device.publisher.held()[device.aor] == 1
        assert device.publisher.held()["broken"] == 0
        await asyncio.sleep(30)
        assert tries >= 4
        assert device.publisher.failures["broken"] == 3
        assert device.publisher.held()["broken"] == 1
        await device.stop()

    simulate(main)


def test_a_look_at_our_records_that_breaks_is_not_the_last_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        device = await Device(HitNet(), 0).start()
        await asyncio.sleep(1)
        with monkeypatch.context() as patch:
            patch.setattr(device.publisher, "_is_due", lambda *_: 1 // 0)
            await asyncio.sleep(20)
        assert 2 < device.publisher.failures.total() < 9
        await device.directory.publish(device.aor, 5060)
        await asyncio.sleep(6)
        assert device.directory.published() == {device.aor: 1}
        await device.stop()

    simulate(main)
