"""When a HIT hides, and whom it befriends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipctl import Hit
from overlay.hiding import (
    CUT_OFF,
    HEAD_START,
    HIDING,
    MOST_FRIENDS,
    UNSTEADY,
    Hiding,
    Sight,
    befriended,
    in_turn,
)
from overlay.servers import RELAYS, RENDEZVOUS_SERVERS

HITS = [Hit(bytes([0x20, 1, 0, 0x20]) + bytes([n]) * 12) for n in range(1, 20)]


def sight(
    *,
    network: bool = True,
    served: bool = False,
    known: bool = False,
    public: bool = True,
    few: bool = False,
    silent: bool = False,
) -> Sight:
    return Sight(network, served, served, known, lambda: public, not few, lambda since: silent)


def hider(*, visible: bool = False, hides: bool = True) -> Hiding:
    made = Hiding(visible=visible, hides=hides)
    made.on_network(100.0, moved=False)
    return made


def test_who_does_not_hide_is_never_hidden() -> None:
    open_one = hider(hides=False)
    assert not open_one.hidden(sight(served=True), 100.0)
    assert not open_one.hidden(sight(network=False), 101.0)


def test_with_servers_the_address_is_hidden_and_when_they_go_told_after_a_while() -> None:
    one = hider()
    assert one.hidden(sight(served=True), 110.0)
    assert one.hidden(sight(), 110.0 + HIDING - 0.1)
    assert not one.told
    assert not one.hidden(sight(), 110.0 + HIDING)
    assert one.told


def test_who_is_cut_off_from_many_hides_on_for_it_is_not_the_servers_that_are_gone() -> None:
    one, alone = hider(), hider()
    for each, few in ((one, False), (alone, True)):
        assert each.hidden(sight(served=True, few=few), 110.0)
        for at in range(111, 111 + int(CUT_OFF), 2):
            hidden = each.hidden(sight(silent=True, few=few), float(at))
            assert hidden or (few and at >= 110 + HIDING)
    assert one.hidden(sight(), 110.0 + CUT_OFF + 1)  # who is back finds servers first
    assert not one.hidden(sight(silent=True), 110.0 + CUT_OFF + HIDING)


def test_a_public_address_is_hidden_at_first_as_long_as_servers_may_be_found() -> None:
    one = hider()
    assert one.hidden(sight(), 100.0 + HEAD_START - 0.1)
    assert not one.hidden(sight(public=False), 100.0)
    assert not one.told  # nobody learns more than private addresses
    one.on_searched(one.since, somebody=True)
    assert not one.hidden(sight(), 100.0)
    assert one.hidden(sight(known=True), 100.0)


def test_a_search_from_before_a_move_says_nothing_of_here() -> None:
    one = hider()
    before = one.since
    one.on_network(101.0, moved=True)
    one.on_searched(before, somebody=True)
    assert one.hidden(sight(), 101.0)


def test_without_a_network_nobody_is_told() -> None:
    one = hider()
    assert one.hidden(sight(network=False), 1_000.0)
    assert one.hidden(sight(network=False, few=True), 1_000.0)


@pytest.mark.parametrize("moved", [False, True])
def test_few_whose_servers_come_and_go_are_told_for_an_hour_unless_we_move(moved: bool) -> None:
    one = hider()
    assert not one.hidden(sight(), 100.0 + HIDING)  # for so long there were none
    if moved:
        one.on_network(120.0, moved=True)
    back = 100.0 + HIDING + UNSTEADY
    assert one.hidden(sight(served=True, few=True), back - 1) is moved
    assert one.hidden(sight(served=True), back - 1)
    assert one.hidden(sight(served=True, few=True), back)


def test_servers_are_wanted_unless_strangers_reach_us_anyway() -> None:
    def yes() -> bool:
        return True

    later = 100.0 + HEAD_START
    assert hider(hides=False).ways(True, yes, later) == ()
    assert hider(hides=False).ways(None, yes, 100.0) == ()
    assert hider(hides=False).ways(None, yes, later) == (RELAYS,)
    for proven in (False, None):
        shown = hider(hides=False, visible=True)
        assert shown.ways(proven, yes, later) == (RELAYS, RENDEZVOUS_SERVERS)
    assert hider().ways(True, yes, 100.0) == (RELAYS,)


@given(st.lists(st.sampled_from(HITS), unique=True), st.booleans(), st.booleans())
def test_friends_are_the_last_met_and_none_in_a_crowd_that_is_served(
    met: list[Hit], many: bool, served: bool
) -> None:
    friends = befriended(met, many=many, served=served)
    if many and served:
        assert friends == ()
    else:
        assert set(friends) == set(met[:MOST_FRIENDS])
        assert list(friends) == sorted(friends)


@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 20.0), st.booleans(), st.booleans(), st.booleans(), st.booleans()
        ),
        max_size=30,
    )
)
def test_a_served_hider_among_many_is_hidden_whatever_was_before(
    steps: list[tuple[float, bool, bool, bool, bool]],
) -> None:
    one, now = hider(), 100.0
    for seconds, network, served, known, few in steps:
        now += seconds
        seen = sight(network=network, served=served, known=known, few=few)
        hidden = one.hidden(seen, now)
        assert hidden or network
        assert not (hidden and one.told)
        if served and not few:
            assert hidden


def test_who_hides_begins_through_relays_or_waits_for_them_a_while() -> None:
    one = hider()
    relayed = sight(served=True)
    assert one.secluded(relayed, 105.0, hidden=one.hidden(relayed, 105.0))
    lost = sight()
    assert one.secluded(lost, 105.0 + HIDING - 0.1, hidden=True)
    assert not one.secluded(lost, 105.0 + HIDING, hidden=True)


def test_who_is_cut_off_from_many_hides_until_somebody_is_heard_again() -> None:
    one = hider()
    relayed, quiet = sight(served=True), sight(silent=True)
    assert one.secluded(relayed, 105.0, hidden=one.hidden(relayed, 105.0))
    for at in range(106, int(105 + CUT_OFF), 2):
        assert one.secluded(quiet, at, hidden=one.hidden(quiet, at))
    heard = sight()
    back = 105 + CUT_OFF
    assert one.secluded(heard, back, hidden=one.hidden(heard, back))  # servers may be, too
    back += HIDING
    assert not one.secluded(heard, back, hidden=one.hidden(heard, back))


def test_who_is_cut_off_for_long_goes_out_to_search() -> None:
    one = hider()
    relayed, quiet = sight(served=True), sight(silent=True)
    one.secluded(relayed, 105.0, hidden=one.hidden(relayed, 105.0))
    for at in range(106, int(105 + CUT_OFF + HIDING), 2):
        one.secluded(quiet, at, hidden=one.hidden(quiet, at))
    late = 105 + CUT_OFF + HIDING
    assert not one.secluded(quiet, late, hidden=one.hidden(quiet, late))


def test_without_a_network_nobody_is_told_what_would_be_heard_with_the_next_one() -> None:
    one = hider()
    nowhere = sight(network=False)
    assert one.secluded(nowhere, 500.0, hidden=one.hidden(nowhere, 500.0))
    back = sight(known=True)  # where it was
    assert one.secluded(back, 502.0, hidden=True)
    one.on_network(502.0, moved=True)
    alone = sight(public=False)
    assert one.secluded(alone, 502.0 + HEAD_START - 0.1, hidden=one.hidden(alone, 502.0))


def test_at_the_start_relays_are_waited_for_even_where_no_address_is_to_be_told() -> None:
    one = hider()
    alone = sight(public=False)
    for at, waits in (
        (100.0, True),
        (100.0 + HEAD_START - 0.1, True),
        (100.0 + HEAD_START, False),
    ):
        hidden = one.hidden(alone, at)
        assert not hidden
        assert one.secluded(alone, at, hidden=hidden) is waits


def test_who_has_searched_in_vain_waits_for_no_relays() -> None:
    one = hider()
    one.on_searched(one.since, somebody=True)
    assert not one.secluded(sight(public=False), 101.0, hidden=False)


def test_who_does_not_hide_begins_directly() -> None:
    assert not hider(hides=False).secluded(sight(served=True), 101.0, hidden=False)


@given(st.lists(st.lists(st.sampled_from(HITS), unique=True), max_size=3))
def test_each_overlay_has_its_share_of_friends(met: list[list[Hit]]) -> None:
    one_by_one = in_turn(met)
    assert sorted(one_by_one) == sorted({hit for each in met for hit in each})
    for each in met:
        first = [one_by_one.index(hit) for hit in each[: MOST_FRIENDS // max(len(met), 1)]]
        assert all(place < MOST_FRIENDS for place in first)
    if len(met) == 1:
        assert one_by_one == met[0]
