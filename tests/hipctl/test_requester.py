"""The requester (RFC 8003): what it asks for, when, and what it makes of the answers."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipctl import params
from hipctl.actions import Action, Pair, RegistrationAnswered
from hipctl.constants import PacketType, RegistrationFailure, RegistrationType
from hipctl.esp import OutboundSa
from hipctl.identity import Hit
from hipctl.interface import RegistrationEnded
from hipctl.packet import Packet, build
from hipctl.params_registration import decode_lifetime, encode_lifetime
from hipctl.requester import (
    BEHIND_NAT,
    MOVED_MOST,
    REFRESH_LEAST,
    SERVERS_MAX,
    OurServer,
    Requester,
)
from hipctl.sas import Outbound
from hipctl.settings import EngineConfig

RVS = RegistrationType.RENDEZVOUS
HIP = RegistrationType.RELAY_UDP_HIP
ESP = RegistrationType.RELAY_UDP_ESP
A, S = (Hit(b"\x20\x01\x00\x22" + bytes((n,)) * 12) for n in (1, 2))
PAIR = (A, S)
HOME = ("192.0.2.1", 10500)
SERVER = ("203.0.113.1", 10500)
TEN_MINUTES = encode_lifetime(600)
INFO = params.RegInfo(64 + 27, TEN_MINUTES, (RVS, HIP, ESP))


class World:
    """A requester, and an association that is up or not."""

    def __init__(self, info: params.RegInfo | None = INFO) -> None:
        self.up = info is not None
        self.asked: list[params.RegRequest] = []
        self.connects = 0
        self.actions: list[Action] = []
        self.servers: dict[Pair, OurServer] = {}
        self.moves: list[float] = []
        sa = OutboundSa.__new__(OutboundSa)
        self.requester = Requester(
            EngineConfig(),
            bytes,
            self.servers,
            {PAIR: Outbound(sa, SERVER)},
            lambda _: self.moves.append(self.now),
        )
        self.requester.locators = (HOME,)
        self.now = 0.0
        if info is not None:
            self.requester.infos[PAIR] = info

    def tell(
        self, pair: Pair, said: Sequence[params.Parameter], now: float
    ) -> list[Action] | None:
        if not self.up:
            return None
        self.asked += [each for each in said if isinstance(each, params.RegRequest)]
        return []

    def connect(self, pair: Pair, now: float) -> list[Action]:
        self.connects += 1
        return []

    def wait(self, seconds: float = 0.0) -> None:
        end = self.now + seconds
        while (at := self.requester.deadline()) is not None and at <= end:
            self.now = max(self.now, at)
            self.actions += self.requester.on_time(self.now, self.tell, self.connect)
            after = self.requester.deadline()
            assert after is None or after > self.now, "a timer spins"
        self.now = end

    def answer(self, *said: params.Parameter) -> None:
        packet = Packet(build(PacketType.UPDATE, S, A, said))
        self.requester.on_update(PAIR, packet, self.now)
        self.wait()

    def register(self, *types: RegistrationType) -> None:
        self.requester.register(PAIR, types, self.now)
        self.wait()

    def granted(self) -> set[int]:
        return {row.type for row in self.requester.registrations()}

    def refused(self) -> dict[int, int]:
        told = [each for each in self.actions if isinstance(each, RegistrationAnswered)]
        return {kind: why for each in told for kind, why in each.refused.items()}

    def ended(self) -> list[str]:
        return [each.reason for each in self.actions if isinstance(each, RegistrationEnded)]


def registered(*types: RegistrationType, lifetime: int = TEN_MINUTES) -> World:
    w = World()
    w.register(*types)
    w.answer(params.RegResponse(lifetime, types), params.RegFrom(HOME))
    assert w.granted() == set(types)
    return w


def test_another_address_is_believed_at_once_and_at_each_refresh_no_more() -> None:
    w = registered(HIP)
    w.wait(30)
    for _ in range(3):
        w.answer(params.RegResponse(TEN_MINUTES, (HIP,)), params.RegFrom(("198.51.100.1", 7)))
        w.wait(40)
    assert w.moves == [30]


def test_a_server_that_sees_us_elsewhere_all_the_time_is_believed_ever_more_seldom() -> None:
    w = registered(HIP)
    for number in range(3_600):
        w.answer(
            params.RegResponse(TEN_MINUTES, (HIP,)), params.RegFrom(("198.51.100.1", 1 + number))
        )
        w.wait(1)
    gaps = [after - before for before, after in pairwise(w.moves)]
    assert gaps[:6] == [5, 10, 20, 40, 80, 120]
    assert set(gaps[6:]) == {MOVED_MOST}
    assert len(w.asked) < 3_600
    w.answer(params.RegFrom(("198.51.100.1", 1)))
    before = len(w.moves)
    w.wait(300)  # it comes to rest, and so do we
    w.answer(params.RegFrom(("198.51.100.1", 9)))
    assert len(w.moves) == before + 1
    assert w.moves[-1] == w.now


def test_a_nat_that_moves_us_twice_in_a_row_is_noticed_both_times() -> None:
    w = registered(HIP)
    w.wait(10)
    w.answer(params.RegFrom(("198.51.100.1", 7)))
    w.wait(1)
    w.answer(params.RegResponse(TEN_MINUTES, (HIP,)), params.RegFrom(("198.51.100.1", 8)))
    assert w.moves == [10]
    asked = len(w.asked)
    w.wait(6)  # it is asked again when it may be believed
    assert len(w.asked) == asked + 1
    w.answer(params.RegResponse(TEN_MINUTES, (HIP,)), params.RegFrom(("198.51.100.1", 8)))
    assert w.moves == [10, 17]


def test_a_server_that_says_no_more_where_it_sees_us_is_not_asked_again_and_again() -> None:
    w = registered(HIP)
    w.requester.locators = (HOME, ("198.51.100.1", 8))
    w.wait(10)
    w.answer(params.RegFrom(("198.51.100.1", 7)))
    w.wait(1)
    w.answer(params.RegResponse(TEN_MINUTES, (HIP,)), params.RegFrom(("198.51.100.1", 8)))
    asked = len(w.asked)
    for _ in range(100):
        before = len(w.asked)
        w.wait(1)
        if len(w.asked) > before:
            w.answer(params.RegResponse(TEN_MINUTES, (HIP,)))
    assert len(w.asked) == asked + 1


def test_who_has_slept_believes_every_server_at_once() -> None:
    w = registered(HIP)
    for number in range(60):
        w.answer(params.RegFrom(("198.51.100.1", 1 + number)))
        w.wait(5)
    before = len(w.moves)
    w.requester.hurry(w.now)
    w.answer(params.RegFrom(("198.51.100.1", 500)))
    assert len(w.moves) == before + 1


def test_it_asks_once_for_all_in_one_request() -> None:
    w = World()
    w.register(HIP, ESP)
    assert w.asked == [params.RegRequest(TEN_MINUTES, (HIP, ESP))]


@pytest.mark.parametrize(
    ("least", "most", "asked"), [(91, 100, 100), (200, 220, 200), (91, 255, TEN_MINUTES)]
)
def test_it_asks_for_a_lifetime_within_what_is_offered(least: int, most: int, asked: int) -> None:
    w = World(params.RegInfo(least, most, (RVS,)))
    w.register(RVS)
    assert w.asked == [params.RegRequest(asked, (RVS,))]


def test_it_asks_for_nothing_that_is_not_offered() -> None:
    w = World(params.RegInfo(91, 200, (HIP,)))
    w.register(RVS)
    assert w.asked == []
    assert w.refused() == {RVS: RegistrationFailure.TYPE_UNAVAILABLE}


def test_of_rendezvous_and_control_relay_it_asks_for_the_relay() -> None:
    w = World()
    w.register(RVS, HIP)
    assert w.asked == [params.RegRequest(TEN_MINUTES, (HIP,))]
    assert w.refused() == {RVS: RegistrationFailure.RENDEZVOUS_WITH_CONTROL_RELAY}
    w.answer(params.RegResponse(TEN_MINUTES, (HIP,)))
    w.requester.unregister(PAIR, [HIP], w.now)
    w.register(RVS)
    assert all(RVS not in each.types for each in w.asked), "not as long as this association lasts"


def test_several_answers_in_one_packet_all_count() -> None:
    w = World()
    w.register(HIP, ESP)
    w.answer(
        params.RegResponse(100, (HIP,)),
        params.RegResponse(110, (ESP,)),
    )
    expires = {row.type: row.expires for row in w.requester.registrations()}
    assert expires == {HIP: decode_lifetime(100), ESP: decode_lifetime(110)}


@pytest.mark.parametrize("lifetime", [1, 64, 91, 250])
def test_whatever_lifetime_is_granted_counts_and_is_refreshed_in_time_but_not_too_often(
    lifetime: int,
) -> None:
    w = registered(HIP, lifetime=lifetime)
    seconds = decode_lifetime(lifetime)
    w.wait(max(seconds * 0.4, REFRESH_LEAST * 0.9))
    assert len(w.asked) == 1
    while len(w.asked) == 1:
        w.wait(max(seconds * 0.01, 0.1))
    assert w.now <= max(seconds * 0.8, REFRESH_LEAST * 1.1)


def test_a_server_that_does_not_answer_is_asked_ever_more_seldom() -> None:
    w = registered(HIP, lifetime=250)
    w.wait(decode_lifetime(250) * 0.75)
    before = len(w.asked)
    w.wait(3_000)
    assert 9 <= len(w.asked) - before <= 11


def test_who_is_behind_a_nat_refreshes_more_often() -> None:
    w = World()
    w.register(HIP)
    w.answer(params.RegResponse(TEN_MINUTES, (HIP,)), params.RegFrom(("198.51.100.1", 7)))
    w.wait(BEHIND_NAT)
    assert len(w.asked) == 2
    assert w.requester.registrations()[0].reflexive == ("198.51.100.1", 7)


def test_it_expires_if_nobody_answers() -> None:
    w = registered(HIP)
    w.wait(700)
    assert w.granted() == set()
    assert w.ended() == ["expired"]
    assert w.servers == {}


def test_a_first_refusal_is_final_and_says_why() -> None:
    w = World()
    w.register(HIP, ESP)
    w.answer(params.RegResponse(TEN_MINUTES, (HIP,)), params.RegFailed(2, (ESP,)))
    assert w.refused() == {ESP: RegistrationFailure.INSUFFICIENT_RESOURCES}
    w.wait(3600)
    assert all(each.types == (HIP,) for each in w.asked[1:])


def test_after_insufficient_resources_it_does_not_ask_again_at_once_and_ever_more_seldom() -> None:
    w = registered(HIP)
    before = len(w.asked)
    w.wait(400)
    times = []
    for _ in range(4):
        while len(w.asked) == before:
            w.wait(1)
        before = len(w.asked)
        times.append(w.now)
        w.answer(params.RegFailed(2, (HIP,)))
    gaps = [b - a for a, b in pairwise(times)]
    assert gaps[0] >= 60
    assert gaps == sorted(gaps)
    assert gaps[-1] > gaps[0]
    w.wait(300)
    w.answer(params.RegResponse(TEN_MINUTES, (HIP,)))
    assert w.granted() == {HIP}


@pytest.mark.parametrize("why", [0, 1, 3, 9, 201])
def test_after_another_refusal_it_does_not_ask_again(why: int) -> None:
    w = registered(HIP)
    w.wait(400)
    w.answer(params.RegFailed(why, (HIP,)))
    before = len(w.asked)
    w.wait(4 * 3600)
    assert len(w.asked) == before
    assert w.ended()[0].startswith("refused")


def test_a_server_may_cancel_and_is_asked_again_later() -> None:
    w = registered(HIP, ESP)
    w.answer(params.RegResponse(0, (ESP,)))
    assert w.granted() == {HIP}
    assert w.ended() == ["cancelled by the server"]
    before = len(w.asked)
    w.wait(59)
    assert len(w.asked) == before
    w.wait(60)
    assert set(w.asked[-1].types) == {HIP, ESP}


def test_what_was_not_asked_for_is_not_granted() -> None:
    w = registered(HIP)
    w.answer(params.RegResponse(TEN_MINUTES, (ESP, 77)))
    assert w.granted() == {HIP}


def test_when_the_association_is_gone_it_makes_another_with_patience() -> None:
    w = registered(HIP)
    w.up = False
    w.requester.lost(PAIR)
    w.wait(1)
    assert w.ended() == ["the association is gone"]
    assert w.granted() == set()
    assert w.connects == 0
    w.wait(600)
    assert 3 <= w.connects <= 12
    info = params.RegInfo(91, TEN_MINUTES, (HIP,))
    assert w.requester.request(PAIR, info) == [params.RegRequest(TEN_MINUTES, (HIP,))]
    w.up = True
    r2 = Packet(build(PacketType.R2, S, A, [params.RegResponse(TEN_MINUTES, (HIP,))]))
    w.requester.concluded(PAIR, info, r2, w.now)
    assert w.granted() == {HIP}


def test_an_exchange_that_grants_nothing_ends_what_there_was() -> None:
    w = registered(HIP)
    w.requester.request(PAIR, INFO)
    w.requester.concluded(PAIR, INFO, Packet(build(PacketType.R2, S, A, [])), w.now)
    w.wait()
    assert w.granted() == set()
    assert w.ended() == ["refused: type unavailable"]


def test_servers_are_bounded() -> None:
    w = World()
    for n in range(SERVERS_MAX):
        assert w.requester.register((A, Hit(S[:15] + bytes((n,)))), [HIP], 0.0)
    assert not w.requester.register((A, Hit(S[:14] + b"xx")), [HIP], 0.0)


def test_the_others_know_which_servers_we_have() -> None:
    w = World()
    w.register(HIP, ESP)
    w.answer(
        params.RegResponse(TEN_MINUTES, (HIP, ESP)),
        params.RegFrom(HOME),
        params.RelayedAddress(("203.0.113.1", 50_000)),
    )
    types = frozenset({HIP, ESP})
    assert w.servers == {PAIR: OurServer(SERVER, types, HOME, ("203.0.113.1", 50_000))}
    w.requester.unregister(PAIR, [ESP], w.now)
    assert w.servers[PAIR] == OurServer(SERVER, frozenset({HIP}), HOME, None)
    w.requester.lost(PAIR)
    assert w.servers == {}


SAID = st.lists(
    st.one_of(
        st.builds(
            params.RegResponse,
            st.sampled_from([0, 1, 64, 91, 137, 255]),
            st.lists(st.integers(0, 5), max_size=3).map(tuple),
        ),
        st.builds(
            params.RegFailed,
            st.integers(0, 10),
            st.lists(st.integers(0, 5), max_size=3).map(tuple),
        ),
        st.just(params.RegFrom(HOME)),
        st.just(params.RelayedAddress(SERVER)),
        st.just(params.RegInfo(91, 137, (2, 3))),
        st.just(params.RegInfo(91, 137, ())),
    ),
    max_size=4,
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), SAID),
        st.tuples(st.just("r2"), SAID),
        st.tuples(st.just("wish"), st.sets(st.sampled_from([RVS, HIP, ESP]), min_size=1)),
        st.tuples(st.just("end"), st.sets(st.sampled_from([RVS, HIP, ESP]))),
        st.tuples(st.just("wait"), st.floats(0, 400)),
        st.tuples(st.sampled_from(["lost", "up", "renewed"]), st.none()),
    ),
    max_size=25,
)


@given(STEPS)
def test_whatever_happens_it_has_what_was_granted_and_waits_for_something(
    steps: list[tuple[str, object]],
) -> None:
    w = World()
    wished: set[int] = set()
    for what, with_ in steps:
        match what, with_:
            case "say", list():
                w.answer(*sorted(with_, key=lambda each: each.TYPE))
            case "r2", list():
                w.requester.request(PAIR, INFO)
                r2 = Packet(build(PacketType.R2, S, A, with_))
                w.requester.concluded(PAIR, INFO, r2, w.now)
            case "wish", set():
                wished |= with_
                w.requester.register(PAIR, with_, w.now)
            case "end", set():
                wished -= with_
                w.requester.unregister(PAIR, with_, w.now)
            case "wait", float():
                w.wait(with_)
            case "lost", _:
                w.up = False
                w.requester.lost(PAIR)
            case "renewed", _:
                w.up = True
                w.requester.renewed(PAIR, w.now)
            case _:
                w.up = True
        w.wait()
        assert w.granted() <= wished
        assert not w.granted() or w.requester.deadline() is not None
        assert set(w.servers) == ({PAIR} if w.granted() else set())
    w.requester.unregister(PAIR, None, w.now)
    w.wait(1e6)
    assert w.granted() == set()
    assert w.requester.deadline() is None
