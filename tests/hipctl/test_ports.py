"""From which of several ports a host speaks."""

import asyncio
from collections import Counter

import pytest

from hipctl import ports
from hipctl.errors import HostConfigRefused, NoSuchAddress
from hipctl.ports import Ports
from hipctl.rtnetlink import LinkAddress
from sim.loop import simulate
from sim.net import Address, Net, OnDatagram, Port

ONE: Address = ("10.0.0.1", 10500)
TWO: Address = ("10.0.0.2", 10500)
SIX: Address = ("2400::1", 10500)
FAR: Address = ("10.0.0.9", 10500)
FAR_SIX: Address = ("2400::9", 10500)


def test_each_family_has_its_port_and_none_is_a_counted_loss() -> None:
    async def scenario() -> None:
        net, counters = Net(), Counter[str]()
        only_four = Ports(net.open, lambda *_: None, counters)
        await only_four.open([ONE])
        only_four.send4(b"", FAR)
        only_four.send6(b"", FAR_SIX)
        assert [(source, to) for _, source, to, _ in net.log] == [(ONE, FAR)]
        assert counters == {"no port of this address family": 1}
        only_four.close()
        only_four.send4(b"", FAR)
        assert counters == {"no port of this address family": 2}
        both = Ports(net.open, lambda *_: None, counters)
        await both.open([SIX, ONE])
        both.send6(b"", FAR_SIX)
        assert net.log[-1][1:3] == (SIX, FAR_SIX)
        both.send4(b"", FAR)
        assert net.log[-1][1:3] == (ONE, FAR)
        assert both.addresses == [SIX, ONE]

    simulate(scenario)


def test_answers_leave_where_they_were_asked_for_and_associations_stay_there() -> None:
    async def scenario() -> None:
        net = Net()
        heard: list[Address] = []

        def answer(data: bytes, source: Address) -> None:
            heard.append(source)
            ours.send4(b"answer", source)
            ours.send4(b"to another", FAR)
            if data == b"associate":
                ours.associated(source)

        ours = Ports(net.open, answer, Counter())
        await ours.open([ONE, TWO])
        for number, data in enumerate([b"ask", b"associate"]):
            stranger = ("10.0.1.1", number + 1)
            net.carry(data, stranger, TWO)
            await asyncio.sleep(1)
            sent = [(source, to) for _, source, to, _ in net.log[-2:]]
            assert sent == [(TWO, stranger), (ONE, FAR)]
            ours.send4(b"later", stranger)
            assert net.log[-1][1] == (TWO if data == b"associate" else ONE)
        assert len(heard) == 2

    simulate(scenario)


def test_the_memory_of_where_peers_are_is_bounded() -> None:
    async def scenario() -> None:
        net = Net()
        ours = Ports(net.open, lambda data, source: ours.associated(source), Counter())
        await ours.open([ONE, TWO])
        for port in range(1, ports.MOST_ROUTES + 2):
            net.ports[TWO](b"", ("10.0.1.1", port))
        for port, expected in ((1, ONE), (2, TWO), (ports.MOST_ROUTES + 1, TWO)):
            ours.send4(b"", ("10.0.1.1", port))
            assert net.log[-1][1] == expected

    simulate(scenario)


ALL: Address = ("0.0.0.0", 10500)
ALL_SIX: Address = ("::", 10500)


def test_told_of_addresses_it_is_at_each_of_them_and_speaks_from_the_chosen_one() -> None:
    async def scenario() -> None:
        net = Net()
        heard: list[bytes] = []
        ours = Ports(net.open, lambda data, _: heard.append(data), Counter())
        await ours.open([ALL, ALL_SIX], follow=True)
        found = [LinkAddress(TWO[0], 4), LinkAddress(SIX[0], 4), LinkAddress(ONE[0], 3)]
        assert await ours.follow(found) == [TWO, SIX, ONE]
        for source, to in ((ONE, FAR), (TWO, FAR), (SIX, FAR_SIX)):
            ours.path(source, to)(b"", to)
            assert net.log[-1][1:3] == (source, to)
        ours.send4(b"", FAR)
        assert net.log[-1][1] == TWO  # the kernel's choice
        net.carry(b"to one", FAR, ONE)
        net.carry(b"to two", FAR, TWO)
        await asyncio.sleep(1)
        assert heard == [b"to one", b"to two"]
        assert ours.addresses == [ALL, ALL_SIX]

    simulate(scenario)


def test_what_is_gone_is_left_and_what_came_is_joined() -> None:
    async def scenario() -> None:
        net, counters = Net(), Counter[str]()

        def answer(data: bytes, source: Address) -> None:
            ours.send4(data, source)

        ours = Ports(net.open, answer, counters)
        await ours.open([ALL], follow=True)
        await ours.follow([LinkAddress(ONE[0], 3), LinkAddress(TWO[0], 4)])
        net.carry(b"who?", FAR, ONE)
        await asyncio.sleep(1)
        assert net.log[-1][1:3] == (ONE, FAR)
        assert await ours.follow([LinkAddress(TWO[0], 4)]) == [TWO]
        assert ONE not in net.ports
        ours.path(ONE, FAR)(b"", FAR)  # rather from elsewhere than not at all
        assert net.log[-1][1:3] == (TWO, FAR)
        three = ("10.0.0.3", 10500)
        net.gone = {"10.0.0.4"}
        came = [LinkAddress("10.0.0.4", 5), LinkAddress(three[0], 5), LinkAddress(SIX[0], 5)]
        assert await ours.follow([*came, LinkAddress(TWO[0], 4)]) == [three, TWO]
        before = net.ports[three]
        await ours.follow([LinkAddress(three[0], 6)])  # the address has gone to another link
        assert net.ports[three] is not before
        assert await ours.follow([]) == []
        ours.close()
        assert not net.ports
        assert await ours.follow([LinkAddress(three[0], 6)]) == []
        assert not net.ports

    simulate(scenario)


def test_oneself_is_spoken_to_without_regard_to_links() -> None:
    async def scenario() -> None:
        net = Net()
        ours = Ports(net.open, lambda *_: None, Counter())
        await ours.open([ALL], follow=True)
        await ours.follow([LinkAddress(ONE[0], 3), LinkAddress(TWO[0], 4)])
        assert ours.path(TWO, FAR) != ours.send4
        for here in (("127.0.0.9", 1), (ONE[0], 99)):
            assert ours.path(TWO, here) == ours.send4
        assert ours.path(TWO, FAR) == ours.path(TWO, FAR)

    simulate(scenario)


def test_a_contact_names_one_address_of_each_family_before_a_second() -> None:
    async def scenario() -> None:
        net = Net()
        ours = Ports(net.open, lambda *_: None, Counter())
        await ours.open([ALL, ALL_SIX], follow=True)
        await ours.follow([LinkAddress(ip, 3) for ip in ("10.0.0.1", "10.0.0.2", "2400::1")])
        assert ours.reachable(True, 0.0) == [ONE, SIX, TWO]
        assert ours.reachable(False, 20.0) == [SIX]
        await ours.follow([LinkAddress("10.0.0.2", 3)])
        assert ours.reachable(True, 20.0) == [TWO]  # what was found before isn't trusted

    simulate(scenario)


def test_a_machine_without_ipv6_does_without_unless_that_is_all() -> None:
    async def scenario() -> None:
        net = Net()

        async def open_port(
            address: Address, on_datagram: OnDatagram, counters: Counter[str]
        ) -> Port:
            if ":" in address[0]:
                raise NoSuchAddress("no IPv6")
            return await net.open(address, on_datagram, counters)

        ours = Ports(open_port, lambda *_: None, Counter())
        await ours.open([ALL_SIX, ALL])
        assert ours.addresses == [ALL]
        for listen in ([ALL_SIX], [("2400::1", 1), ALL]):
            with pytest.raises(HostConfigRefused):
                await Ports(open_port, lambda *_: None, Counter()).open(listen)

    simulate(scenario)
