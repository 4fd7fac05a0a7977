"""Mappings at simulated routers, in virtual time."""

import itertools
import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hipctl.mapped import Ask, Fetch, Protocol, Search, Settings, Uplink
from hipctl.mapping import MOST_UPLINKS
from sim.routers import HOME, HOST, LAN, PORT, SIX, Router, World

ALL = {"PCP", "NAT-PMP", "UPnP"}
EXTERNAL = ("5.9.1.1", PORT)
DAY = 86_400.0


def protocol(world: World) -> Protocol | None:
    found = world.mapper.mapped
    return found[0].protocol if found else None


def row(world: World) -> dict[str, object]:
    (found,) = world.mapper.describe(world.now)
    return found


@pytest.mark.parametrize(
    ("speaks", "by", "within"),
    [
        ({"PCP"}, Protocol.PCP, 0.01),
        ({"NAT-PMP"}, Protocol.NAT_PMP, 0.01),
        ({"UPnP"}, Protocol.UPNP, 1.1),
        (ALL, Protocol.PCP, 0.01),
        ({"NAT-PMP", "UPnP"}, Protocol.NAT_PMP, 0.01),
    ],
)
def test_whatever_the_router_speaks_is_used(speaks: set[str], by: Protocol, within: float) -> None:
    router = Router(speaks)
    world = World({LAN: router})
    world.run(10)
    assert protocol(world) is by
    assert world.told == [EXTERNAL]
    assert world.changes[0][0] <= within
    assert len(world.changes) == 1
    assert router.open(world.now) == {PORT: (HOST, PORT)}
    assert row(world)["protocol"] == by.value


@pytest.mark.parametrize("speaks", [{"PCP"}, {"NAT-PMP"}, {"UPnP"}])
def test_a_mapping_is_kept_for_days_and_deleted_in_the_end(speaks: set[str]) -> None:
    router = Router(speaks)
    world = World({LAN: router})
    world.run(2)
    gaps = 0
    for _ in range(100):
        world.run(1_000)
        gaps += not router.open(world.now)
    assert gaps == 0
    assert len(world.changes) == 1
    requests = len(router.requests) / (world.now / 3_600)
    assert requests < 150  # an hour: one every two minutes to look, at most four for UPnP
    world.do(world.mapper.close())
    world.run(1)
    assert router.open(world.now) == {}


@pytest.mark.parametrize("speaks", [{"PCP"}, {"NAT-PMP"}, {"UPnP"}])
def test_renewal_begins_at_half_of_the_lifetime(speaks: set[str]) -> None:
    router = Router(speaks)
    world = World({LAN: router}, settings=Settings(check=1e9, lifetime=1_000, lease=1_000))
    world.run(2)
    before = len(router.requests)
    world.run(490)
    assert len(router.requests) == before
    world.run(140)  # PCP: up to 5/8
    assert len(router.requests) == before + 1


@pytest.mark.parametrize("speaks", [{"PCP"}, {"NAT-PMP"}])
def test_a_short_lifetime_is_renewed_in_time_but_never_in_a_flood(speaks: set[str]) -> None:
    router = Router(speaks, most=30)
    world = World({LAN: router})
    world.run(1)
    for _ in range(600):
        world.run(1)
        assert router.open(world.now)
    assert len(world.changes) == 1
    asked = [at for at, what in router.requests if what.endswith(" 1")][1:]
    assert all(b - a >= 4 for a, b in itertools.pairwise(asked))  # RFC 6887 §11.2.1


@pytest.mark.parametrize("most", [0, 1, 19])
def test_a_lifetime_of_nothing_is_no_mapping(most: int) -> None:
    world = World({LAN: Router({"PCP"}, most=most)})
    world.run(600)
    assert world.changes == []
    assert "grants nothing of use" in str(row(world)["failures"])


@given(st.sampled_from([{"PCP"}, {"NAT-PMP"}, {"UPnP"}, ALL]), st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_a_third_of_all_packets_lost_costs_time_only(speaks: set[str], seed: int) -> None:
    router = Router(set(speaks))
    world = World({LAN: router}, seed=seed)
    dice = world._dice
    world.lost = lambda: dice.random() < 0.33
    world.run(1_200)
    assert world.told == [EXTERNAL]
    world.run(DAY)
    assert router.open(world.now) == {PORT: (HOST, PORT)}


def test_pcp_is_retransmitted_with_doubling_gaps_of_three_seconds_on() -> None:
    world = World({}, settings=Settings(protocols=frozenset({Protocol.PCP})))
    world.run(50)
    sent = [at for at, action in world.asked if isinstance(action, Ask)]
    assert len(sent) == 4
    gaps = [b - a for a, b in itertools.pairwise(sent)]
    for gap, wanted in zip(gaps, (3, 6, 12), strict=True):
        assert wanted * 0.8 <= gap <= wanted * 1.25  # RAND adds up (RFC 6887 §8.1.1)


def test_natpmp_is_retransmitted_nine_times_with_doubling_gaps_of_250_ms_on() -> None:
    router = Router({"NAT-PMP"})
    world = World({LAN: router}, settings=Settings(protocols=frozenset({Protocol.NAT_PMP})))
    world.lost = lambda: True
    world.run(200)
    sent = [at for at, action in world.asked if isinstance(action, Ask)]
    first = sent[:9]
    assert [round(b - a, 3) for a, b in itertools.pairwise(first)] == [
        0.25 * 2**n for n in range(8)
    ]


def test_a_router_that_speaks_nothing_is_left_in_peace_and_tried_again_now_and_then() -> None:
    world = World({LAN: Router(set())})
    world.run(10)
    assert world.told == []
    found = row(world)
    assert found["failures"] == {
        "PCP": "the router doesn't offer it",
        "NAT-PMP": "the router doesn't offer it",
        "UPnP": "the router doesn't offer it",
    }
    assert "forward UDP port 10500 to 192.168.77.2 port 10500 by hand" in str(found["advice"])
    world.run(DAY)
    assert len([1 for _, action in world.asked if isinstance(action, Ask)]) < 60
    assert len([1 for _, action in world.asked if isinstance(action, Search)]) < 180


def test_a_router_that_drops_everything_is_too() -> None:
    world = World({LAN: Router(set(), rejects=False)})
    world.run(60)
    found = row(world)
    assert "asking" not in found
    assert found["failures"] == {
        "PCP": "the router doesn't answer",
        "NAT-PMP": "the router doesn't answer",
        "UPnP": "the router doesn't offer it",
    }
    world.run(DAY)
    assert len(world.asked) < 800


def test_a_router_that_comes_up_after_us_is_found_within_a_minute_or_two() -> None:
    world = World({})
    world.run(100)
    world.routers[LAN] = Router({"UPnP"})
    world.run(130)
    assert world.told == [EXTERNAL]


@pytest.mark.parametrize("speaks", [{"PCP"}, {"NAT-PMP"}])
def test_a_restart_that_is_announced_is_repaired_within_five_seconds(speaks: set[str]) -> None:
    router = Router(speaks)
    world = World({LAN: router})
    world.run(1_000)
    router.restart(world.now)
    announced = router.announcement(world.now)
    world.do(world.mapper.on_announcement(announced, (LAN, 5_351), world.now))
    world.run(5.1)
    assert router.open(world.now) == {PORT: (HOST, PORT)}
    assert len(world.changes) == 1  # the same as before: nobody has to be told


def test_a_restart_of_a_upnp_router_is_repaired_when_it_is_back() -> None:
    router = Router({"UPnP"})
    world = World({LAN: router})
    world.run(1_000)
    world.do(world.mapper.on_notify(router.notification(leaving=True), LAN, world.now))
    router.restart(world.now)
    world.run(5)
    world.do(world.mapper.on_notify(router.notification(), LAN, world.now))
    world.run(5)
    assert router.open(world.now) == {PORT: (HOST, PORT)}


@pytest.mark.parametrize("speaks", [{"PCP"}, {"NAT-PMP"}, {"UPnP"}])
def test_a_restart_that_nobody_hears_of_is_noticed_at_the_next_look(speaks: set[str]) -> None:
    router = Router(speaks)
    world = World({LAN: router})
    world.run(1_000)
    router.restart(world.now)
    world.run(130)
    assert router.open(world.now) == {PORT: (HOST, PORT)}


@pytest.mark.parametrize("speaks", [{"PCP"}, {"NAT-PMP"}])
def test_a_router_that_is_away_for_a_while_gets_its_mapping_back(speaks: set[str]) -> None:
    router = Router(speaks)
    world = World({LAN: router})
    world.run(1_000)
    router.speaks = set()  # its ports are closed: ICMP
    world.run(300)
    router.speaks = speaks
    router.restart(world.now)
    world.run(150)
    assert router.open(world.now) == {PORT: (HOST, PORT)}


def test_another_port_after_a_restart_is_told() -> None:
    router = Router({"PCP"})
    world = World({LAN: router})
    world.run(1_000)
    router.restart(world.now)
    router.taken = {PORT}
    world.run(130)
    (external,) = router.open(world.now)
    assert external != PORT
    assert world.told == [("5.9.1.1", external)]


@pytest.mark.parametrize("speaks", [{"PCP"}, {"NAT-PMP"}, {"UPnP"}])
def test_a_new_wan_address_is_told_at_the_next_look(speaks: set[str]) -> None:
    router = Router(speaks)
    world = World({LAN: router})
    world.run(1_000)
    router.external = "5.9.1.77"
    if speaks == {"PCP"}:
        router.since = world.now  # RFC 6887 §8.5: the epoch begins anew
    world.run(130)
    assert world.told == [("5.9.1.77", PORT)]


@pytest.mark.parametrize(
    "router",
    [
        Router({"PCP"}, taken={PORT}),
        Router({"NAT-PMP"}, taken={PORT}),
        Router({"UPnP"}, taken={PORT}),
        Router({"UPnP"}, taken={PORT}, igd=1),
        Router({"UPnP"}, taken={PORT}, any_port=False),
    ],
    ids=["PCP", "NAT-PMP", "IGD2", "IGD1", "IGD2 without AddAny"],
)
def test_where_the_port_is_taken_another_is_mapped(router: Router) -> None:
    world = World({LAN: router})
    world.run(10)
    ((external, inside),) = router.open(world.now).items()
    assert external != PORT
    assert inside == (HOST, PORT)
    assert world.told == [("5.9.1.1", external)]
    world.run(DAY)
    assert world.told == [("5.9.1.1", external)]
    world.do(world.mapper.close())
    world.run(1)
    assert router.open(world.now) == {}


def test_a_router_that_knows_permanent_leases_only_gets_one_and_it_is_deleted() -> None:
    router = Router({"UPnP"}, igd=1, only_permanent=True)
    world = World({LAN: router})
    world.run(DAY)
    assert world.told == [EXTERNAL]
    assert len(world.changes) == 1
    world.do(world.mapper.close())
    world.run(1)
    assert router.nat == {}


def test_a_router_that_maps_nothing_says_so_in_words() -> None:
    world = World({LAN: Router({"UPnP"}, igd=0)})
    world.run(30)
    failures = row(world)["failures"]
    assert isinstance(failures, dict)
    assert failures["UPnP"] == "the router offers UPnP, but no port mappings"
    world = World({LAN: Router({"UPnP"}, refuses=606)})
    world.run(30)
    failures = row(world)["failures"]
    assert isinstance(failures, dict)
    assert failures["UPnP"] == "the router refuses port mappings to this device"
    world = World({LAN: Router({"UPnP"}, external="0.0.0.0")})
    world.run(30)
    failures = row(world)["failures"]
    assert isinstance(failures, dict)
    assert failures["UPnP"] == "the router has no public address to map a port at"
    assert "behind another NAT" in str(row(world)["advice"])


def test_what_pcp_refuses_upnp_may_allow() -> None:
    router = Router({"PCP"}, refuses=2)
    world = World({LAN: router})
    world.run(1)
    router.speaks, router.refuses = ALL, 0
    world.run(130)
    assert protocol(world) in (Protocol.NAT_PMP, Protocol.UPNP)


def test_a_refusal_is_not_repeated_within_its_lifetime() -> None:
    router = Router({"PCP"}, refuses=2, error_lifetime=1_200)
    world = World({LAN: router})
    world.run(1_150)
    assert [at for at, what in router.requests if what == "PCP 1"] == [pytest.approx(0.001)]
    assert "refuses port mappings" in str(row(world)["failures"])


def test_an_absurd_error_lifetime_is_not_believed() -> None:
    router = Router({"PCP"}, refuses=8, error_lifetime=2**32 - 1)
    world = World({LAN: router})
    world.run(10)
    router.refuses = 0
    world.run(4 * 3_600)
    assert world.told == [EXTERNAL]


def test_a_mapping_that_a_crash_has_left_is_in_nobodys_way() -> None:
    router = Router(ALL)
    crashed = World({LAN: router})
    crashed.run(60)
    world = World({LAN: router}, seed=2)  # another nonce: PCP refuses
    world.run(10)
    assert world.told == [EXTERNAL]


@pytest.mark.parametrize("external", ["10.1.2.3", "100.64.3.4", "192.168.1.9"])
@pytest.mark.parametrize("speaks", [{"PCP"}, {"NAT-PMP"}, {"UPnP"}])
def test_behind_another_nat_a_mapping_is_shown_but_not_announced(
    external: str, speaks: set[str]
) -> None:
    world = World({LAN: Router(speaks, external=external)})
    world.run(10)
    assert world.changes == []
    (made,) = world.mapper.mapped
    assert made.external == (external, PORT)
    assert not made.public
    assert external in str(row(world)["advice"])
    lan = World({LAN: Router(speaks, external=external)}, announce_private=True)
    lan.run(10)
    assert lan.told == [(external, PORT)]


@pytest.mark.parametrize("speaks", [{"PCP"}, {"UPnP"}])
def test_an_ipv6_firewall_gets_a_pinhole(speaks: set[str]) -> None:
    router = Router(speaks)
    world = World({SIX.router: router}, [SIX])
    world.run(10)
    assert world.told == [(SIX.ip, PORT)]
    for _ in range(100):
        world.run(1_000)
        assert router.pinholes(world.now) == {(SIX.ip, PORT)}
    router.restart(world.now)
    world.run(130)
    assert router.pinholes(world.now) == {(SIX.ip, PORT)}
    assert len(world.changes) == 1
    world.do(world.mapper.close())
    world.run(1)
    assert router.pinholes(world.now) == set()


def test_a_firewall_that_is_off_needs_no_hole() -> None:
    world = World({SIX.router: Router({"UPnP"}, refuses=702)}, [SIX])
    world.run(60)
    failures = row(world)["failures"]
    assert isinstance(failures, dict)
    assert failures["UPnP"] == "the router's IPv6 firewall is off: nothing has to be opened"
    assert "NAT-PMP" not in failures  # it knows no IPv6


def test_when_we_move_the_old_mapping_is_deleted_and_a_new_one_made() -> None:
    old, new = Router(ALL), Router({"UPnP"}, external="5.9.1.2")
    elsewhere = Uplink("10.0.0.7", "10.0.0.1")
    world = World({LAN: old, "10.0.0.1": new})
    world.run(10)
    world.do(world.mapper.set_uplinks([elsewhere], world.now))
    world.run(10)
    assert old.open(world.now) == {}
    assert new.open(world.now) == {PORT: ("10.0.0.7", PORT)}
    assert [[each.external for each in told] for _, told in world.changes] == [
        [EXTERNAL],
        [],
        [("5.9.1.2", PORT)],
    ]


def test_another_address_at_the_same_router_is_another_mapping() -> None:
    router = Router({"PCP"})
    world = World({LAN: router})
    world.run(10)
    both = [HOME, replace(HOME, ip="192.168.77.3")]
    world.do(world.mapper.set_uplinks(both, world.now))
    world.run(10)
    assert len(router.open(world.now)) == 2
    world.do(world.mapper.set_uplinks(both[1:], world.now))
    world.run(10)
    assert list(router.open(world.now).values()) == [("192.168.77.3", PORT)]


def test_there_are_never_more_than_some_mappings() -> None:
    many = [replace(HOME, ip=f"192.168.77.{n}") for n in range(2, 60)]
    router = Router({"PCP"})
    world = World({LAN: router}, many)
    world.run(10)
    assert len(router.open(world.now)) == MOST_UPLINKS


# strangers


def granted(nonce: bytes, external: str = "6.6.6.6", port: int = PORT) -> bytes:
    head = struct.pack("!BBBBII12x", 2, 0x81, 0, 0, 7_200, 5)
    ip = bytes(int(part) for part in external.split("."))
    return head + nonce + struct.pack("!BxxxHH", 17, port, 666) + b"\0" * 10 + b"\xff\xff" + ip


def nonce_of(world: World) -> bytes:
    return next(action.data[24:36] for _, action in world.asked if isinstance(action, Ask))


def test_answers_from_elsewhere_with_another_nonce_or_by_multicast_change_nothing() -> None:
    world = World({}, settings=Settings(protocols=frozenset({Protocol.PCP})))
    nonce = nonce_of(world)
    mapper = world.mapper
    world.do(mapper.on_datagram(HOME, granted(nonce), ("192.168.77.66", 5_351), 0.0))
    world.do(mapper.on_datagram(HOME, granted(nonce), (LAN, 1_234), 0.0))
    world.do(mapper.on_datagram(HOME, granted(bytes(12)), (LAN, 5_351), 0.0))
    world.do(mapper.on_datagram(HOME, granted(nonce, port=7), (LAN, 5_351), 0.0))
    world.do(mapper.on_announcement(granted(nonce), (LAN, 5_351), 0.0))
    world.do(mapper.on_announcement(granted(nonce), ("192.168.77.66", 5_351), 0.0))
    assert mapper.mapped == []
    assert mapper.counters == {
        "port control answer from elsewhere": 2,
        "PCP response of another mapping": 2,
        "PCP mapping by multicast": 1,
    }
    world.do(mapper.on_datagram(HOME, granted(nonce), (LAN, 5_351), 0.0))
    assert world.told == [("6.6.6.6", 666)]  # all else was right


def test_a_mapping_of_another_port_by_natpmp_is_not_ours() -> None:
    world = World(
        {LAN: Router({"NAT-PMP"})}, settings=Settings(protocols=frozenset({Protocol.NAT_PMP}))
    )
    other = struct.pack("!BBHIHHI", 0, 129, 0, 5, 99, 666, 7_200)
    world.do(world.mapper.on_datagram(HOME, other, (LAN, 5_351), 0.0))
    early = struct.pack("!BBHIHHI", 0, 129, 0, 5, PORT, 666, 7_200)
    world.do(world.mapper.on_datagram(HOME, early, (LAN, 5_351), 0.0))
    assert world.mapper.mapped == []
    assert world.mapper.counters.total() == 2


def test_false_alarms_by_multicast_cost_a_packet_every_four_seconds_at_most() -> None:
    router = Router({"PCP"})
    world = World({LAN: router})
    world.run(100)
    before = len(router.requests)
    for number in range(1_000):
        epoch = 10**6 * (number % 2)
        alarm = struct.pack("!BBBBII12x", 2, 0x80, 0, 0, 0, epoch)
        world.do(world.mapper.on_announcement(alarm, (LAN, 5_351), world.now))
        world.run(0.1)
    assert len(router.requests) - before <= 100 / 4 + 2
    assert len(world.changes) == 1


def test_who_plays_router_by_multicast_cannot_say_what_our_address_is() -> None:
    router = Router({"NAT-PMP"})
    world = World({LAN: router})
    world.run(100)
    before = len(router.requests)
    for _ in range(100):
        lie = struct.pack("!BBHI", 0, 128, 0, int(world.now)) + bytes((6, 6, 6, 6))
        world.do(world.mapper.on_announcement(lie, (LAN, 5_351), world.now))
        world.run(0.1)
    assert world.told == [EXTERNAL]
    assert len(world.changes) == 1
    assert len(router.requests) - before <= 10 / 4 + 2
    router.external = "5.9.1.2"  # what is true is asked for at once
    world.run(10)
    truth = router.announcement(world.now)
    world.do(world.mapper.on_announcement(truth, (LAN, 5_351), world.now))
    world.run(1)
    assert world.told == [("5.9.1.2", EXTERNAL[1])]


def test_another_device_of_the_home_that_plays_router_is_not_asked_anything() -> None:
    world = World({LAN: Router(set())})
    rogue = Router({"UPnP"}, external="6.6.6.6")
    answer = rogue.on_search("192.168.77.66")
    assert answer is not None
    world.run(0.5)
    world.do(world.mapper.on_answer(HOME, answer, "192.168.77.66", world.now))
    elsewhere = rogue.on_search("169.254.169.254")
    assert elsewhere is not None
    world.do(world.mapper.on_answer(HOME, elsewhere, LAN, world.now))
    world.run(60)
    assert [action for _, action in world.asked if isinstance(action, Fetch)] == []
    assert world.mapper.counters["UPnP answer of somebody who isn't our router"] == 1
    assert world.mapper.counters["URL of a UPnP device leads elsewhere"] == 1


def test_a_thousand_answers_to_a_search_are_three_requests() -> None:
    world = World({LAN: Router(set())})
    world.run(0.5)
    for number in range(1_000):
        answer = Router({"UPnP"}).on_search(LAN)
        assert answer is not None
        answer = answer.replace(b"/root.xml", b"/%d.xml" % number)
        world.do(world.mapper.on_answer(HOME, answer, LAN, world.now))
    world.run(60)
    assert len([1 for _, action in world.asked if isinstance(action, Fetch)]) == 3


INPUTS = st.lists(
    st.tuples(
        st.integers(0, 6),
        st.binary(max_size=70),
        st.floats(0, 500),
        st.sampled_from([LAN, "192.168.77.66", SIX.router]),
    ),
    max_size=25,
)


@given(
    st.sampled_from([set(), {"PCP"}, {"NAT-PMP"}, {"UPnP"}, ALL]), INPUTS, st.integers(0, 2**32)
)
@settings(max_examples=80, deadline=None)
def test_whatever_comes_it_waits_for_something_and_asks_little(
    speaks: set[str], inputs: list[tuple[int, bytes, float, str]], seed: int
) -> None:
    router = Router(set(speaks))
    world = World({LAN: router, SIX.router: router}, [HOME, SIX], seed=seed)
    mapper = world.mapper
    for kind, data, wait, source in inputs:
        uplink = SIX if source == SIX.router else HOME
        match kind:
            case 0:
                router.restart(world.now)
            case 1:
                world.do(mapper.on_datagram(uplink, data, (source, 5_351), world.now))
            case 2:
                world.do(mapper.on_announcement(data, (source, 5_351), world.now))
            case 3:
                answer = b"HTTP/1.1 200 OK\r\nLOCATION:http://192.168.77.1/" + data
                world.do(mapper.on_answer(uplink, answer, source, world.now))
            case 4:
                world.do(mapper.on_reply(uplink, len(data), (200, data), world.now))
            case 5:
                world.do(mapper.on_refused(uplink, world.now))
            case _:
                notify = b"NOTIFY * HTTP/1.1\r\nNT: x\r\n" + data
                world.do(mapper.on_notify(notify, source, world.now))
        world.run(wait)
        assert mapper.deadline() is not None
    assert len(world.asked) < 500 + world.now
    router.restart(world.now)
    world.run(4_000)
    if speaks:
        assert EXTERNAL in world.told
    world.do(mapper.close())
    assert mapper.deadline() is None
