"""Peers behind NATs of every kind, public peers that serve them, and unmodified clients.

A call with audio succeeds from every kind of home to every other, directly wherever RFC 9028's
procedure can; and goes on when networks change and servers die. Measured on what clients heard.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
from net import homes, lab, survive
from net.handover import Heard, TooLong, within
from net.homes import HEARD, KINDS, Cell, Checked
from net.lab_capture import LAST
from net.programs import require_program
from net.summary import Tell

pytestmark = [pytest.mark.net, pytest.mark.slow]

NARROW = {"port-restricted", "double", "symmetric"}
SOON = 5.0  # seconds until the first datagram


def met(cell: Cell) -> bool:
    """Whether two NATs let each other's packets in: not if one side's port can't be known."""
    kinds = {cell.caller, cell.callee}
    return not ("symmetric" in kinds and kinds <= NARROW)


NATS = {
    "public": "none",
    "mapped": "endpoint-independent",
    "endpoint-independent": "endpoint-independent",
    "port-restricted": "endpoint-independent",  # RFC 4787's word for how it maps; it filters, too
    "symmetric": "endpoint-dependent",
    "double": "endpoint-independent",
}
OPEN = {"public", "mapped"}
TOO_BUSY = {"it could not tell", "it did not answer"}  # so many check at once
ELSEWHERE = "it sees us at another address"  # our NAT's, or our relay's
HIDES = "it does not knock, for it hides"


def says_what_it_is(kind: str, end: Checked) -> None:
    """What ``netcheck`` and ``status`` say in a home of that kind."""
    assert (end.callable, end.why) == (True, []), end
    assert end.reach == "through servers", end  # where there are relays, nobody shows its address
    assert end.nat == NATS[kind], end
    assert end.mapped is (kind == "mapped"), end
    assert end.knocks, end
    expected = {"reached" if kind in OPEN else ELSEWHERE, ELSEWHERE, HIDES, *TOO_BUSY}
    assert set(end.knocks) <= expected, end
    assert len(end.through) == len(homes.SERVERS), end
    for said in end.through:  # by the other relay, or whoever else can tell
        assert said[-1] == "reached", end
    assert len(end.problems) == (kind == "symmetric"), end
    if kind == "public":
        assert end.routers == []
    else:  # a router maps a port, or is still asked, or there is something to do about it
        (router,) = end.routers
        assert ("external" in router) is (kind == "mapped"), end
        assert ("advice" in router or "asking" in router) is (kind != "mapped"), end


def knocks(cells: Sequence[Cell], kind: str) -> Counter[str]:
    """What all said who knocked at homes of that kind."""
    ends = [(cell.caller, cell.ends[0]) for cell in cells]
    ends += [(cell.callee, cell.ends[1]) for cell in cells]
    return Counter(said for at, end in ends if at == kind for said in end.knocks)


def require() -> None:
    for program in ("baresip", "nft", "miniupnpd"):
        require_program(program)
    if why := lab.missing():
        pytest.skip(why)


def holds(cell: Cell) -> None:
    """What every call of the matrix has to be."""
    for kind, end in zip((cell.caller, cell.callee), cell.ends, strict=True):
        says_what_it_is(kind, end)
    assert cell.ncc >= HEARD, cell
    assert cell.first is not None, cell
    assert cell.first <= SOON, cell
    assert cell.relayed is not met(cell), cell
    assert (cell.direct is not None) is met(cell), cell


@pytest.mark.timeout(400)
def test_every_kind_of_home_calls_every_other_directly_where_that_can_be(tell: Tell) -> None:
    require()

    def judge(cell: Cell) -> None:
        tell("every kind of home calls every other", str(cell))
        holds(cell)

    async def main() -> None:
        async with homes.matrix() as there:
            cells = await homes.every_cell(there, judge=judge)
            assert len(cells) == len(KINDS) ** 2
            for kind in KINDS:
                met_as = "reached" if kind in OPEN else ELSEWHERE
                assert knocks(cells, kind)[met_as] >= len(KINDS)

    asyncio.run(main())


def told(tell: Tell, heard: Mapping[str, Mapping[str, Heard]]) -> None:
    for event, both in heard.items():
        for who, one in both.items():
            tell("calls that survive", f"{event:>20}: {who} hears a gap of {one.gap:.0f} ms")


@pytest.mark.timeout(150)
@pytest.mark.parametrize("events", [("both-move", "nat-reboots"), ("another-nat", "relay-dies")])
def test_calls_survive(events: tuple[str, str], tell: Tell) -> None:
    require()
    told(tell, survive.measure(*events))


@pytest.mark.timeout(150)
def test_a_call_survives_its_rendezvous_server_and_a_limit_that_it_misses_prints_a_ladder(
    tell: Tell, capsys: pytest.CaptureFixture[str]
) -> None:
    require()
    with pytest.raises(TooLong) as raised:
        survive.measure("rvs-dies", limit=0.0)
    told(tell, {"rvs-dies": raised.value.heard})
    within(survive.EVENTS["rvs-dies"].limit, raised.value.heard)
    heading, *rows = capsys.readouterr().out.strip().splitlines()
    assert {"seconds", "alice", "bob"} <= set(heading.split())
    assert any(re.search(r"\|<?-+ ESP [0-9a-f]{8}( x\d+)? -+>?\|", row) for row in rows)
    assert float(rows[-1].split()[0]) <= LAST
