"""The data relay: relayed addresses, permissions, and the flows that follow from them."""

import contextlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipctl import params
from hipctl.actions import Path
from hipctl.clients import Account, Client
from hipctl.constants import RegistrationType
from hipctl.crypto import Keys
from hipctl.datarelay import PERMISSIONS_MAX, DataRelay
from hipctl.errors import Rejected
from hipctl.identity import Hit
from hipctl.limits import Allowance

ESP = RegistrationType.RELAY_UDP_ESP
KEYS = Keys("sha384", 2, b"", b"out", b"", b"in", b"", b"", 0, b"")
HOME = ("198.51.100.1", 40_000)
RELAYED = ("203.0.113.1", 50_000)
PEER = ("192.0.2.1", 10_500)
OURS = 4_711


def relay() -> DataRelay:
    made = DataRelay({OURS: None}, Counter())
    for n in range(4):
        made.lend((RELAYED[0], RELAYED[1] + n))
    return made


def client(data: DataRelay, number: int = 1, home: tuple[str, int] = HOME) -> Client:
    def hit(n: int) -> Hit:
        return Hit(b"\x20\x01\x00\x22" + n.to_bytes(12, "big"))

    made = Client((hit(0), hit(number)), KEYS, Path(None, home))
    made.accounts[ESP] = Account(Allowance(0, 0, 0.0), Allowance(0, 0, 0.0))
    made.relayed = data.open(made)
    return made


def permission(
    owner: Client, peer: tuple[str, int] = PEER, out: int = 1000, into: int = 2000
) -> params.PeerPermission:
    assert owner.relayed is not None
    return params.PeerPermission(owner.relayed, peer, out, into)


def test_each_client_has_an_address_of_its_own_and_none_is_used_twice() -> None:
    data = relay()
    a, b = client(data, 1), client(data, 2)
    assert a.relayed == RELAYED
    assert b.relayed != a.relayed
    data.close(a)
    assert data.closed == [RELAYED]
    assert client(data, 3).relayed not in (a.relayed, b.relayed)


def test_a_permission_makes_a_flow_each_way() -> None:
    data = relay()
    owner = client(data)
    data.permit(owner, permission(owner), 0.0)
    up, down = data.up[HOME][1000], data.down[RELAYED][PEER][2000]
    assert (up.to, up.source) == (PEER, RELAYED)
    assert (down.to, down.source) == (HOME, None)
    assert up.account is down.account


def test_it_ends_after_five_minutes_unless_it_is_refreshed() -> None:
    data = relay()
    owner = client(data)
    data.permit(owner, permission(owner), 0.0)
    data.permit(owner, permission(owner), 200.0)
    data.on_time(300.0, lambda _: owner)
    assert data.up
    assert data.deadline() == 500.0
    data.on_time(500.0, lambda _: owner)
    assert not data.up
    assert data.down == {RELAYED: {}}
    assert data.deadline() is None


@pytest.mark.parametrize(
    "asked",
    [
        params.PeerPermission(("203.0.113.1", 50_001), PEER, 1000, 2000),
        params.PeerPermission(RELAYED, PEER, 255, 2000),
        params.PeerPermission(RELAYED, PEER, 1000, 0),
        params.PeerPermission(RELAYED, PEER, 1000, 2000, protocol=6),
        params.PeerPermission(RELAYED, PEER, OURS, 2000),
    ],
    ids=["another's address", "reserved SPI", "no SPI", "TCP", "an SPI of the server's"],
)
def test_what_it_cannot_have_is_refused(asked: params.PeerPermission) -> None:
    data = relay()
    owner = client(data)
    client(data, 2)
    with pytest.raises(Rejected):
        data.permit(owner, asked, 0.0)
    assert not data.up


def test_an_spi_that_leads_elsewhere_already_is_refused() -> None:
    data = relay()
    owner, twin = client(data), client(data, 2)
    data.permit(owner, permission(owner), 0.0)
    other = params.PeerPermission(permission(owner).relayed, ("192.0.2.2", 1), 1000, 2999)
    with pytest.raises(Rejected, match="SPI conflict"):
        data.permit(owner, other, 0.0)
    with pytest.raises(Rejected, match="SPI conflict"):  # two HITs at one address
        data.permit(twin, permission(twin), 0.0)
    data.permit(owner, permission(owner, ("192.0.2.2", 1), out=1001), 0.0)


def test_a_peer_that_is_elsewhere_now_is_reached_there() -> None:
    data = relay()
    owner = client(data)
    data.permit(owner, permission(owner), 0.0)
    elsewhere = ("192.0.2.2", 1)
    data.permit(owner, permission(owner, elsewhere), 1.0)
    assert data.up[HOME][1000].to == elsewhere
    assert data.count(owner) == 1
    assert list(data.down[RELAYED]) == [elsewhere]


def test_while_keys_change_a_peer_has_two_spis_either_way() -> None:
    data = relay()
    owner = client(data)
    first = permission(owner)
    for spi_out, spi_in in ((1000, 2000), (1000, 2001), (1001, 2001)):
        data.permit(owner, params.PeerPermission(first.relayed, first.peer, spi_out, spi_in), 0.0)
    assert data.up[HOME].keys() == {1000, 1001}
    assert data.down[RELAYED][first.peer].keys() == {2000, 2001}


def test_peers_of_two_clients_may_have_the_same_spis() -> None:
    data = relay()
    a, b = client(data), client(data, 2, ("198.51.100.2", 40_000))
    data.permit(a, permission(a), 0.0)
    data.permit(b, permission(b), 0.0)
    assert data.up[HOME][1000].source != data.up["198.51.100.2", 40_000][1000].source


def test_a_client_has_so_many_permissions_and_the_oldest_makes_room() -> None:
    data = relay()
    owner = client(data)
    for n in range(PERMISSIONS_MAX + 3):
        data.permit(owner, permission(owner, ("192.0.2.1", 1 + n), 1000 + n, 2000), float(n))
    assert data.count(owner) == PERMISSIONS_MAX
    assert 1002 not in data.up[HOME]
    assert 1003 in data.up[HOME]


def test_flows_follow_a_client_whose_nat_gives_it_another_address() -> None:
    data = relay()
    owner = client(data)
    data.permit(owner, permission(owner), 0.0)
    owner.path = Path(("203.0.113.1", 10500), ("198.51.100.9", 9))
    data.moved(owner)
    assert list(data.up) == [("198.51.100.9", 9)]
    down = data.down[RELAYED][PEER][2000]
    assert (down.to, down.source) == (("198.51.100.9", 9), ("203.0.113.1", 10500))


def test_nothing_passes_while_nobody_knows_where_the_client_is() -> None:
    data = relay()
    owner = client(data)
    data.permit(owner, permission(owner), 0.0)
    owner.path = None
    data.moved(owner)
    assert not data.up
    assert not data.down[RELAYED]
    owner.path = Path(None, HOME)
    data.moved(owner)
    assert data.up
    assert data.down[RELAYED]


def test_peers_are_to_be_named_anew_after_a_move() -> None:
    data = relay()
    owner = client(data)
    data.permit(owner, permission(owner), 0.0)
    data.deactivate(owner)
    assert not data.up
    assert data.count(owner) == 0
    data.permit(owner, permission(owner), 1.0)
    assert data.up


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["permit", "deactivate", "move", "nowhere", "time", "close", "open"]),
        st.integers(0, 2),
        st.integers(0, 3),
        st.integers(0, 3),
        st.integers(0, 200),
    ),
    max_size=60,
)


def test_where_they_share_an_address_peers_and_spis_tell_clients_apart() -> None:
    data = relay()
    data.share(RELAYED)
    assert data.free == 0
    assert len(data.closed) == 4, "nobody is to have those any more"
    data.closed.clear()
    a, b = client(data, 1), client(data, 2, ("198.51.100.2", 40_000))
    assert a.relayed == b.relayed == RELAYED
    assert (data.owner(RELAYED, a.hit), data.owner(RELAYED, b.hit)) == (a, b)
    assert data.owner(RELAYED, Hit(bytes(16))) is None
    data.permit(a, permission(a), 0.0)
    data.permit(b, permission(b, into=2001), 0.0)
    down = data.down[RELAYED][PEER]
    assert {spi: flow.account for spi, flow in down.items()} == {
        2000: a.accounts[ESP],
        2001: b.accounts[ESP],
    }
    data.close(a)
    assert data.owner(RELAYED, a.hit) is None
    assert [*data.down[RELAYED][PEER]] == [2001]
    assert data.lent(RELAYED)
    assert not data.closed


def test_nobody_takes_another_s_data_where_they_share_an_address() -> None:
    data = relay()
    data.share(RELAYED)
    a, b = client(data, 1), client(data, 2, ("198.51.100.2", 40_000))
    data.permit(a, permission(a), 0.0)
    with pytest.raises(Rejected, match="SPI conflict"):
        data.permit(b, permission(b, out=3000), 0.0)
    assert data.down[RELAYED][PEER][2000].account is a.accounts[ESP]
    assert data.up.keys() == {HOME}
    data.deactivate(a)
    data.permit(b, permission(b, out=3000), 0.0)
    assert data.down[RELAYED][PEER][2000].account is b.accounts[ESP]


def test_an_address_that_came_too_late_is_given_back() -> None:
    data = relay()
    data.share(RELAYED)
    late = (RELAYED[0], 50_100)
    data.lend(late)
    assert data.free == 0
    assert late in data.closed
    data.share(None)
    data.lend((RELAYED[0], 50_101))
    assert client(data).relayed == (RELAYED[0], 50_101)


@given(STEPS, st.booleans())
def test_tables_hold_what_is_permitted_and_nothing_else(
    steps: list[tuple[str, int, int, int, int]], shared: bool
) -> None:
    data, now = relay(), 0.0
    data.share(RELAYED if shared else None)
    clients = [client(data, n, (HOME[0], HOME[1] + n // 2)) for n in range(3)]
    for step in steps:
        now = do(data, clients, now, *step)
        ups = [flow for flows in data.up.values() for flow in flows.values()]
        downs = [f for peers in data.down.values() for fs in peers.values() for f in fs.values()]
        assert max(len(ups), len(downs)) <= sum(data.count(each) for each in clients)
        homes = {each.path.to for each in clients if each.path is not None}
        assert data.up.keys() <= homes
        opened = {each.relayed for each in clients if each.relayed}
        assert data.down.keys() == opened | ({RELAYED} if shared else set())
        paying = [each.accounts[ESP] for each in clients if each.relayed]
        assert all(flow.account in paying for flow in (*ups, *downs))
        assert (data.deadline() is not None) >= any(data.count(each) for each in clients)
        for each in clients:
            named = {peer for peer, _, _ in data._permissions.get(each.pair, ())}
            places = [("192.0.2.1", 1 + a) for a in range(-1, 5)]
            assert {place for place in places if data.allows(each, place)} == named
    for each in clients:
        if each.relayed:
            data.close(each)
    data.on_time(now + 1e6, lambda _: None)
    data.share(None)
    assert not data.up
    assert not data.down
    assert not data.lent(RELAYED)
    assert data.deadline() is None


def do(  # noqa: PLR0917 - the fields of a step
    data: DataRelay,
    clients: list[Client],
    now: float,
    what: str,
    n: int,
    a: int,
    b: int,
    wait: int,
) -> float:
    owner = clients[n]
    match what:
        case "permit" if owner.relayed:
            asked = permission(owner, ("192.0.2.1", 1 + a), 1000 + b, 2000 + wait % 2)
            with contextlib.suppress(Rejected):
                data.permit(owner, asked, now)
        case "deactivate":
            data.deactivate(owner)
        case "move" | "nowhere":
            owner.path = None if what == "nowhere" else Path(None, (HOME[0], HOME[1] + a))
            data.moved(owner)
        case "time":
            now += wait
            data.on_time(now, lambda pair: next(c for c in clients if c.pair == pair))
        case "close" if owner.relayed:
            data.close(owner)
            owner.relayed = None
        case "open" if owner.relayed is None:
            data.lend((RELAYED[0], 60_000 + len(data.closed)))
            owner.relayed = data.open(owner)
    return now


def test_permissions_that_come_and_go_leave_nothing_behind() -> None:
    data = relay()
    owner = client(data)
    for n in range(5_000):
        data.permit(owner, permission(owner, (PEER[0], 1 + n), 10_000 + n, 50_000 + n), n / 100)
    assert data.count(owner) == PERMISSIONS_MAX
    assert len(data._alarms) <= 1_024
    data.on_time(5_000.0, lambda pair: owner)
    assert data.count(owner) == 0
    assert data.down == {owner.relayed: {}}


def test_one_host_with_many_keys_does_not_push_out_the_permission_of_another_call() -> None:
    data = relay()
    owner = client(data)
    data.permit(owner, permission(owner, PEER, 1_000, 50_000), 0.0)
    for n in range(1, 10 * PERMISSIONS_MAX):  # each rekey names two SPIs more
        data.permit(owner, permission(owner, ("198.51.100.66", n), 1_000 + n, 50_000 + n), 1.0)
    assert data.count(owner) == PERMISSIONS_MAX
    assert data.allows(owner, PEER)
    assert 50_000 in data.down[RELAYED][PEER]


@pytest.mark.parametrize("hosts", [1, 64])
def test_whom_the_client_speaks_with_now_does_not_make_room(hosts: int) -> None:
    """Many who hide are behind one relay; others may each be somewhere else."""
    data = relay()
    owner = client(data)
    data.permit(owner, permission(owner, PEER, 1_000, 50_000), 0.0)
    call = data.down[RELAYED][PEER][50_000]
    for n in range(1, 10 * PERMISSIONS_MAX):
        there = (f"198.51.{n % hosts}.66", n) if hosts > 1 else (PEER[0], 2_000 + n)
        data.permit(owner, permission(owner, there, 1_000 + n, 50_000 + n), n / 10)
        data.up[HOME][1_000 + n].used = True  # once, and not again
        if n % 3:  # looked at more often than a packet comes
            call.used = True
    assert data.down[RELAYED][PEER][50_000] is call
    assert data.count(owner) == PERMISSIONS_MAX
