"""The registrar (RFC 8003): grants, refusals, lifetimes, and what ends them."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipctl import params
from hipctl.actions import Path, Relayed
from hipctl.constants import RegistrationFailure, RegistrationType
from hipctl.crypto import Keys
from hipctl.datarelay import DataRelay
from hipctl.identity import Hit
from hipctl.interface import Offer
from hipctl.params_registration import decode_lifetime, encode_lifetime
from hipctl.registrar import LEAST, Asked, Registrar

RVS = RegistrationType.RENDEZVOUS
HIP = RegistrationType.RELAY_UDP_HIP
ESP = RegistrationType.RELAY_UDP_ESP
SEEN = RegistrationType.CANDIDATE_DISCOVERY
HOUR = encode_lifetime(3600)
MINUTE = encode_lifetime(60)
ALL = {RVS: Offer(), HIP: Offer(), ESP: Offer()}
US = Hit(b"\x20\x01\x00\x22" + b"u" * 12)
KEYS = Keys("sha384", 2, b"", b"out", b"", b"in", b"", b"", 0, b"")


def hit(number: int) -> Hit:
    return Hit(b"\x20\x01\x00\x22" + number.to_bytes(12, "big"))


def pair(number: int) -> tuple[Hit, Hit]:
    return US, hit(number)


def asked(number: int = 1, **more: object) -> Asked:
    source = ("192.0.2.1", 1000 + number)
    return Asked(KEYS, source, Path(None, source), **more)  # type: ignore[arg-type]


def registrar(offers: dict[RegistrationType, Offer] = ALL, ports: int = 8) -> Registrar:
    data = DataRelay((), Counter())
    for n in range(ports):
        data.lend(("203.0.113.1", 50_000 + n))
    made = Registrar(data)
    made.offer(offers, 0.0)
    return made


def ask(
    made: Registrar,
    *types: int,
    n: int = 1,
    lifetime: int = MINUTE,
    now: float = 0.0,
    **more: object,
) -> dict[type, list[params.Parameter]]:
    requests = [params.RegRequest(lifetime, types)] if types else []
    said = made.judge(pair(n), requests, asked(n, **more), now)
    sorted_out: dict[type, list[params.Parameter]] = {}
    for parameter in said:
        sorted_out.setdefault(type(parameter), []).append(parameter)
    return sorted_out


def refusals(said: dict[type, list[params.Parameter]]) -> dict[int, int]:
    return {
        kind: failed.reason
        for failed in said.get(params.RegFailed, [])
        if isinstance(failed, params.RegFailed)
        for kind in failed.types
    }


def test_who_offers_nothing_is_no_registrar() -> None:
    made = Registrar(DataRelay((), Counter()))
    assert made.info() is None
    assert refusals(ask(made, RVS)) == {RVS: RegistrationFailure.TYPE_UNAVAILABLE}


def test_reg_info_names_the_types_and_the_lifetimes() -> None:
    info = registrar({RVS: Offer(lifetime=120)}).info()
    assert info is not None
    assert info.types == (RVS,)
    assert 9 < decode_lifetime(info.least) <= 10
    assert decode_lifetime(info.most) == pytest.approx(120, rel=0.1)


def test_usual_lifetimes_are_up_to_ten_minutes() -> None:
    info = registrar({RVS: Offer()}).info()
    assert info is not None
    assert 550 < decode_lifetime(info.most) <= 600


def test_who_relays_also_tells_where_it_sees_us() -> None:
    info = registrar({HIP: Offer()}).info()
    assert info is not None
    assert info.types == (HIP, SEEN)


def test_a_type_that_is_full_is_not_in_reg_info_and_an_empty_one_says_later() -> None:
    made = registrar({RVS: Offer(clients=1)})
    ask(made, RVS)
    info = made.info()
    assert info is not None
    assert info.types == ()


def test_what_is_granted_ends_with_its_lifetime() -> None:
    made = registrar()
    assert ask(made, HIP)[params.RegResponse] == [params.RegResponse(MINUTE, (HIP,))]
    client = made.client(hit(1), HIP)
    assert client is not None
    at = made.deadline()
    assert at == pytest.approx(decode_lifetime(MINUTE))
    made.on_time(50.0)
    assert made.client(hit(1), HIP) is client
    made.on_time(at or 0)
    assert made.client(hit(1), HIP) is None
    assert made.deadline() is None


def test_a_refresh_prolongs_and_keeps_the_account() -> None:
    made = registrar()
    ask(made, HIP)
    client = made.client(hit(1), HIP)
    assert client is not None
    client.accounts[HIP].pays(100, lambda: 0.0)
    ask(made, HIP, now=30.0)
    made.on_time(80.0)
    assert made.client(hit(1), HIP) is client
    assert made.served()[0].bytes == 100
    made.on_time(200.0)
    assert made.served() == []


@pytest.mark.parametrize(
    ("requested", "granted"),
    [(1, LEAST), (HOUR, encode_lifetime(120)), (MINUTE, MINUTE)],
)
def test_lifetimes_beyond_our_limits_become_the_limits(requested: int, granted: int) -> None:
    made = registrar({RVS: Offer(lifetime=120)})
    said = ask(made, RVS, lifetime=requested)
    assert said[params.RegResponse] == [params.RegResponse(granted, (RVS,))]


def test_one_lifetime_for_all_that_is_granted_together() -> None:
    made = registrar({HIP: Offer(lifetime=600), ESP: Offer(lifetime=60)})
    said = ask(made, HIP, ESP, lifetime=HOUR)
    assert said[params.RegResponse] == [params.RegResponse(encode_lifetime(60), (HIP, ESP))]
    assert {row.expires for row in made.served()} == {decode_lifetime(encode_lifetime(60))}


def test_a_relay_says_where_it_sees_the_client_and_what_it_opened() -> None:
    said = ask(registrar(), HIP, ESP)
    assert said[params.RegFrom] == [params.RegFrom(("192.0.2.1", 1001))]
    assert said[params.RelayedAddress] == [params.RelayedAddress(("203.0.113.1", 50_000))]


def test_a_rendezvous_server_opens_nothing() -> None:
    assert ask(registrar(), RVS).keys() == {params.RegResponse, params.RegFrom}


def test_where_we_see_somebody_is_told_without_keeping_anything() -> None:
    made = registrar()
    said = ask(made, SEEN)
    assert said[params.RegFrom] == [params.RegFrom(("192.0.2.1", 1001))]
    assert made.of(pair(1)) is None
    assert made.deadline() is None


def test_who_asks_for_rendezvous_and_control_relay_gets_the_relay() -> None:
    made = registrar()
    said = ask(made, RVS, HIP)
    assert refusals(said) == {RVS: RegistrationFailure.RENDEZVOUS_WITH_CONTROL_RELAY}
    assert said[params.RegResponse] == [params.RegResponse(MINUTE, (HIP,))]


@pytest.mark.parametrize(("first", "second"), [(RVS, HIP), (HIP, RVS)])
def test_the_choice_of_one_holds_until_the_association_ends(
    first: RegistrationType, second: RegistrationType
) -> None:
    made = registrar()
    ask(made, first)
    nine = {second: RegistrationFailure.RENDEZVOUS_WITH_CONTROL_RELAY}
    assert refusals(ask(made, second)) == nine
    ask(made, first, lifetime=0)
    assert refusals(ask(made, second)) == nine
    info = made.info(pair(1))
    assert info is not None
    assert first in info.types
    assert second not in info.types
    made.lost(pair(1))
    assert refusals(ask(made, second)) == {}


def test_the_choice_may_be_another_one_in_a_new_exchange() -> None:
    made = registrar()
    ask(made, RVS)
    assert refusals(ask(made, HIP, fresh=True)) == {}
    assert made.client(hit(1), RVS) is None


def test_a_full_house_refuses_newcomers_and_refreshes_the_others() -> None:
    made = registrar({RVS: Offer(clients=2)})
    for n in (1, 2):
        assert refusals(ask(made, RVS, n=n)) == {}
    assert refusals(ask(made, RVS, n=3)) == {RVS: RegistrationFailure.INSUFFICIENT_RESOURCES}
    assert refusals(ask(made, RVS, n=1)) == {}
    ask(made, RVS, n=2, lifetime=0)
    assert refusals(ask(made, RVS, n=3)) == {}


def test_without_a_port_there_is_no_data_relay() -> None:
    made = registrar(ports=1)
    ask(made, ESP, n=1)
    said = ask(made, HIP, ESP, n=2)
    assert refusals(said) == {ESP: RegistrationFailure.INSUFFICIENT_RESOURCES}
    assert said[params.RegResponse] == [params.RegResponse(MINUTE, (HIP,))]
    assert params.RelayedAddress not in said


def test_the_relayed_address_stays_the_same_over_refreshes_and_new_exchanges() -> None:
    made = registrar()
    first = ask(made, ESP)[params.RelayedAddress]
    assert ask(made, ESP, now=9.0)[params.RelayedAddress] == first
    assert ask(made, ESP, now=20.0, fresh=True)[params.RelayedAddress] == first
    ask(made, ESP, lifetime=0)
    assert ask(made, ESP)[params.RelayedAddress] != first


def test_what_a_new_i2_does_not_ask_for_is_gone() -> None:
    made = registrar()
    ask(made, HIP, ESP)
    ask(made, HIP, fresh=True)
    assert made.client(hit(1), HIP) is not None
    assert made.client(hit(1), ESP) is None
    ask(made, fresh=True)
    assert made.of(pair(1)) is None


def test_a_cancellation_is_granted_whether_there_was_anything_or_not() -> None:
    made = registrar()
    ask(made, HIP, ESP)
    assert ask(made, ESP, lifetime=0) == {params.RegResponse: [params.RegResponse(0, (ESP,))]}
    assert made.client(hit(1), HIP) is not None, "types that aren't listed stay as they are"
    assert ask(made, ESP, lifetime=0) == {params.RegResponse: [params.RegResponse(0, (ESP,))]}


def test_several_requests_in_one_packet_are_all_taken_and_answered_once() -> None:
    made = registrar()
    requests = [params.RegRequest(MINUTE, (HIP,)), params.RegRequest(HOUR, (ESP,))]
    said = made.judge(pair(1), requests, asked(), 0.0)
    assert [p for p in said if isinstance(p, params.RegResponse)] == [
        params.RegResponse(MINUTE, (HIP, ESP))
    ]


def test_unknown_types_are_unavailable() -> None:
    said = ask(registrar(), 77, 201)
    assert refusals(said) == dict.fromkeys((77, 201), RegistrationFailure.TYPE_UNAVAILABLE)


def test_somebody_whom_we_reach_through_a_relay_only_cannot_be_a_client() -> None:
    made = registrar()
    source = Relayed(("192.0.2.9", 9), via=("198.51.100.1", 10500))
    said = made.judge(
        pair(1), [params.RegRequest(MINUTE, (HIP,))], Asked(KEYS, source, None, relayed=True), 0.0
    )
    assert said == [params.RegFailed(RegistrationFailure.TYPE_UNAVAILABLE, (HIP,))]


def test_credentials_may_be_demanded() -> None:
    made = registrar({RVS: Offer(credentials=True)})
    assert refusals(ask(made, RVS)) == {RVS: RegistrationFailure.CREDENTIALS_REQUIRED}
    bad = RegistrationFailure.CERTIFICATE_OTHER
    assert refusals(ask(made, RVS, shown=True, bad=bad)) == {RVS: bad}
    assert refusals(ask(made, RVS, shown=True)) == {}


def test_who_is_on_the_list_needs_no_credentials() -> None:
    made = registrar({RVS: Offer(credentials=True)})
    made.known = lambda peer: peer == hit(1)
    assert refusals(ask(made, RVS, n=1)) == {}
    assert refusals(ask(made, RVS, n=2)) == {RVS: RegistrationFailure.CREDENTIALS_REQUIRED}


def test_what_we_offer_no_more_ends_and_its_clients_are_told() -> None:
    made = registrar()
    ask(made, HIP, ESP, n=1)
    ask(made, RVS, n=2)
    told = made.offer({ESP: Offer()}, 1.0)
    assert told == [
        (pair(1), params.RegResponse(0, (HIP,))),
        (pair(2), params.RegResponse(0, (RVS,))),
    ]
    assert made.of(pair(2)) is None


def test_with_another_hit_of_ours_the_newer_registration_counts() -> None:
    made = registrar()
    ask(made, HIP)
    other = (hit(99), hit(1))
    made.judge(other, [params.RegRequest(MINUTE, (HIP,))], asked(), 0.0)
    client = made.client(hit(1), HIP)
    assert client is not None
    assert client.pair == other
    assert made.of(pair(1)) is None


OPERATIONS = st.lists(
    st.tuples(
        st.integers(1, 4),
        st.sets(st.integers(0, 5), max_size=4),
        st.sampled_from([0, 1, MINUTE, 255]),
        st.sampled_from(["update", "i2", "lost", "time", "offer", "moved"]),
        st.floats(0, 100),
    ),
    max_size=40,
)


@given(OPERATIONS)
def test_whatever_happens_limits_hold_and_alarms_are_armed_if_and_only_if_needed(
    operations: list[tuple[int, set[int], int, str, float]],
) -> None:
    made, now = registrar({RVS: Offer(2), HIP: Offer(2), ESP: Offer(2)}, ports=3), 0.0
    for n, types, lifetime, what, wait in operations:
        match what:
            case "update" | "i2":
                said = ask(made, *types, n=n, lifetime=lifetime, now=now, fresh=what == "i2")
                assert len(said.get(params.RegResponse, [])) <= 1
                answered = refusals(said).keys() | {
                    kind
                    for response in said.get(params.RegResponse, [])
                    if isinstance(response, params.RegResponse)
                    for kind in response.types
                }
                assert answered == types
            case "lost":
                made.lost(pair(n))
            case "time":
                now += wait
                made.on_time(now)
            case "moved":
                made.moved(pair(n), Path(None, ("192.0.2.7", n)))
            case _:
                kinds = [RegistrationType(kind) for kind in types if 1 <= kind <= 3]
                made.offer({kind: Offer(2) for kind in kinds}, now)
        rows = made.served()
        assert (made.deadline() is not None) >= bool(rows)
        for kind in RegistrationType:
            assert made.count(kind) <= 2
        for client in {row.client for row in rows}:
            assert not (made.client(client, RVS) and made.client(client, HIP))
    made.on_time(now + 1e9)
    assert made.served() == []
    assert made.deadline() is None


def test_who_registers_and_cancels_again_and_again_leaves_nothing_behind() -> None:
    made = registrar()
    for turn in range(1_000):
        ask(made, RVS, lifetime=HOUR, now=turn / 100)
        ask(made, RVS, lifetime=0, now=turn / 100)
    ask(made, RVS, lifetime=MINUTE, now=10.0)
    assert len(made._alarms) < 200
    deadline = made.deadline()
    assert deadline is not None
    made.on_time(10.0 + decode_lifetime(MINUTE) + 0.1)
    assert made.count(RVS) == 0


def test_one_network_cannot_take_all_places_of_a_server() -> None:
    made = registrar({RVS: Offer(clients=200)})

    def come(n: int, ip: str) -> bool:
        source = (ip, 1_000 + n)
        who = Asked(KEYS, source, Path(None, source))
        made.judge(pair(n), [params.RegRequest(HOUR, (RVS,))], who, 0.0)
        return made.client(hit(n), RVS) is not None

    crowd = [come(n, "8.8.8.8") for n in range(400)]
    assert sum(crowd) == 100  # half of all is for who comes first, then one network has its share
    assert made.count(RVS) == 100
    assert all(come(1_000 + n, f"9.9.9.{n}") for n in range(100))
    assert not come(2_000, "9.9.8.1")  # full
    assert refusals(ask(made, RVS, n=1)) == {}  # who is there may stay
    for n in range(90):
        made.lost(pair(n))
    assert come(3_000, "8.8.8.8")
    assert sum(made._crowds.values()) == made.count(RVS)
    assert all(come(4_000 + n, "192.168.1.1") for n in range(50))  # a NAT of our own
