"""From which of several ports a host speaks."""

import asyncio
from collections import Counter

from hipctl import ports
from hipctl.ports import Ports
from sim.loop import simulate
from sim.net import Address, Net

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
