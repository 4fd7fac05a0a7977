"""Candidates: gathered with the RFC's priorities, told as locators, taken from a peer."""

from hypothesis import given, settings
from hypothesis import strategies as st

from hipctl import crypto, params
from hipctl.candidates import (
    RELAYS_MAX,
    REMOTE_MAX,
    Candidate,
    fits,
    from_locators,
    gather,
    mapped_to,
    priority,
    to_locators,
)
from hipctl.constants import CandidateKind, LocatorType
from hipctl.errors import MalformedPacket
from hipctl.params_mobility import Locator, LocatorSet
from hipctl.wire import Reader, frame

HOME, SECOND, SIX = ("192.168.1.5", 10500), ("10.0.0.5", 10500), ("2001:db8::5", 10500)
SEEN, RELAY, RELAYED = ("203.0.113.1", 4001), ("198.51.100.1", 10500), ("198.51.100.1", 40001)
LOOPBACK = ("127.0.0.1", 10500)


def told(address: tuple[str, int], **fields: int) -> Locator:
    return Locator(LocatorType.TRANSPORT_ADDRESS, *address, **fields)  # type: ignore[arg-type]


def test_priorities_are_those_of_the_rfc() -> None:
    assert priority(CandidateKind.HOST) == 2130706431  # RFC 8445's and everybody's first host
    found = gather([HOME], [(SEEN, None)], [(RELAYED, RELAY, None)])
    assert [one.priority >> 24 for one in found] == [126, 100, 0]
    assert {one.priority & 0xFFFFFF for one in found} == {65535 << 8 | 255}
    assert found[0].reflexive_priority == 110 << 24 | 65535 << 8 | 255


def test_the_order_given_is_kept_but_families_take_turns() -> None:
    found = gather([HOME, SECOND, SIX])
    assert [one.address for one in found] == [SIX, HOME, SECOND]
    assert len({one.priority for one in found}) == 3


def test_bases_are_where_we_send_from_and_relayed_candidates_know_their_relay() -> None:
    found = gather([SECOND, SIX], [(SEEN, None), (SEEN, HOME)], [(RELAYED, RELAY, SIX)])
    assert [(one.address, one.base, one.via) for one in found] == [
        (SIX, SIX, None),
        (SECOND, SECOND, None),
        (SEEN, SECOND, None),
        (SEEN, HOME, None),
        (RELAYED, SIX, RELAY),
    ]


def test_what_means_nothing_elsewhere_is_no_candidate() -> None:
    nonsense = ["fe80::1", "169.254.1.1", "224.0.0.1", "ff02::1", "2001:21::1", "::", "0.0.0.0"]
    nonsense += ["255.255.255.255", "::ffff:192.0.2.1", "127.0.0.1", "::1"]
    assert gather([(ip, 1) for ip in nonsense] + [HOME, (HOME[0], 0)]) == gather([HOME])


def test_loopback_is_better_than_nothing() -> None:
    assert [one.address for one in gather([LOOPBACK])] == [LOOPBACK]


def test_a_public_host_has_no_reflexive_candidate() -> None:
    assert gather([SECOND, SEEN], [(SEEN, None)]) == gather([SECOND, SEEN])


def test_locators_say_kind_priority_and_spi_and_name_control_relays_for_signaling() -> None:
    ours = gather([HOME], [(SEEN, None)], [(RELAYED, RELAY, None)])
    listed = to_locators(ours, 4711, 12, [RELAY, RELAY])
    assert [(one.ip, one.port) for one in listed] == [RELAY, HOME, SEEN, RELAYED]
    assert [one.traffic for one in listed] == [1, 0, 0, 0]
    assert {(one.type, one.spi, one.protocol, one.preferred) for one in listed} == {
        (2, 4711, 17, False)
    }
    theirs, relays = from_locators(listed, None)
    assert relays == (RELAY,)
    assert [(one.address, one.kind, one.priority) for one in theirs] == [
        (one.address, one.kind, one.priority) for one in ours
    ]


def test_where_not_all_fit_the_best_of_each_kind_stays() -> None:
    hosts = [(f"10.0.0.{i}", 10500) for i in range(1, 9)]
    ours = gather(hosts, [(SEEN, None)], [(RELAYED, RELAY, None)])
    listed = to_locators(ours, 1, 5, [RELAY])
    assert [(one.ip, one.port) for one in listed] == [RELAY, hosts[0], hosts[1], SEEN, RELAYED]
    assert to_locators(ours, 1, 0, [RELAY]) == ()


@given(st.integers(0, 24))
def test_as_many_locators_fit_as_we_say(count: int) -> None:
    plain = LocatorSet(tuple(told(HOME) for _ in range(count)))
    sealed = crypto.encrypt(bytes(16), bytes(16), frame(plain.TYPE, plain.content()))
    encrypted = params.Encrypted(sealed)
    size = len(frame(encrypted.TYPE, encrypted.content()))
    assert fits(size) == count
    assert fits(size - 1) == max(0, count - 1)


def test_what_a_peer_cannot_mean_is_left_out() -> None:
    good = told(SEEN, kind=CandidateKind.SERVER_REFLEXIVE, priority=7)
    theirs, relays = from_locators(
        [
            told(LOOPBACK),
            told(("224.0.0.1", 1)),
            told(("2001:20::1", 1)),
            told((HOME[0], 0)),
            told(SECOND, protocol=6),
            told(SECOND, kind=9),
            told(SECOND, traffic=3),
            Locator(LocatorType.SPI_ADDRESS, HOME[0], spi=3),
            Locator(9, raw=b"\0\0\0\0"),
            told(LOOPBACK, traffic=1),
            good,
            good,
        ],
        HOME,
    )
    assert theirs == (Candidate(SEEN, CandidateKind.SERVER_REFLEXIVE, 7),)
    assert relays == ()


def test_who_is_on_this_machine_may_be_met_there() -> None:
    theirs, relays = from_locators([told(LOOPBACK), told(LOOPBACK, traffic=1)], LOOPBACK)
    assert theirs[0].address == LOOPBACK
    assert relays == (LOOPBACK,)


def test_priorities_of_a_peer_are_brought_into_range() -> None:
    theirs, _ = from_locators([told(HOME, priority=0), told(SEEN, priority=2**32 - 1)], None)
    assert [one.priority for one in theirs] == [2**31 - 1, 1]


def test_what_is_taken_is_bounded() -> None:
    many = [told((f"10.0.{i}.1", 1), priority=i + 1, traffic=i % 2) for i in range(200)]
    theirs, relays = from_locators(many, None)
    assert len(theirs) == REMOTE_MAX
    assert theirs[0].priority == 199
    assert len(relays) == RELAYS_MAX


@given(st.binary(max_size=400))
@settings(max_examples=300)
def test_any_locator_set_is_taken_or_malformed(data: bytes) -> None:
    try:
        listed = LocatorSet.parse(Reader(data))
    except MalformedPacket:
        return
    theirs, relays = from_locators(listed.locators, None)
    assert all(0 < one.priority < 2**31 and 0 < one.address[1] < 2**16 for one in theirs)
    assert len(theirs) <= REMOTE_MAX
    assert len(relays) <= RELAYS_MAX


def test_an_unknown_mapped_address_is_peer_reflexive() -> None:
    ours = gather([HOME], [(SEEN, None)])
    assert mapped_to(ours, SEEN, ours[0]) == ours[1]
    found = mapped_to(ours, ("203.0.113.1", 999), ours[0])
    assert (found.kind, found.priority, found.base) == (
        CandidateKind.PEER_REFLEXIVE,
        ours[0].reflexive_priority,
        HOME,
    )
