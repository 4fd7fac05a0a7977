"""The checklist: pairs formed, pruned, ordered, learned."""

from hypothesis import given
from hypothesis import strategies as st

from hipctl.actions import Path, Relayed
from hipctl.candidates import Candidate, gather
from hipctl.checklist import LEARNED_MAX, PAIRS_MAX, Checklist, PairState, same
from hipctl.constants import CandidateKind

HOME, SIX, SEEN = ("192.168.1.5", 10500), ("2001:db8::5", 10500), ("203.0.113.1", 4001)
RELAY, RELAYED = ("198.51.100.1", 10500), ("198.51.100.1", 40001)
OURS = gather([HOME], [(SEEN, None)], [(RELAYED, RELAY, None)])
HOST, REFLEXIVE, RELAYED_THERE = CandidateKind.HOST, CandidateKind.SERVER_REFLEXIVE, 3
PEER, PEER_SEEN, PEER_RELAYED = ("10.1.1.1", 10500), ("192.0.2.9", 7), ("198.51.100.2", 8)
THEIRS = (
    Candidate(PEER, HOST, 126 << 24),
    Candidate(PEER_SEEN, REFLEXIVE, 100 << 24),
    Candidate(PEER_RELAYED, CandidateKind.RELAYED, 255),
)


def formed(controlling: bool = True) -> Checklist:
    return Checklist.formed(controlling, OURS, THEIRS)


def test_reflexive_candidates_are_replaced_by_their_bases_and_pruned() -> None:
    paths = [pair.path for pair in formed()]
    assert len(paths) == len(set(paths)) == 6
    assert paths[:2] == [Path(HOME, PEER), Path(HOME, PEER_SEEN)]
    assert set(paths[2:]) == {
        Path(HOME, PEER_RELAYED),
        *(Path(None, Relayed(one.address, RELAY)) for one in THEIRS),
    }


@given(st.integers(1, 2**31 - 1), st.integers(1, 2**31 - 1))
def test_both_sides_give_a_pair_the_same_priority(ours: int, theirs: int) -> None:
    a, b = Candidate(HOME, HOST, ours, HOME), Candidate(PEER, HOST, theirs, PEER)
    one = Checklist.formed(True, [a], [b])
    other = Checklist.formed(False, [b], [a])
    found = one.priority(next(iter(one)))
    assert found == other.priority(next(iter(other)))
    assert found == 2**32 * min(ours, theirs) + 2 * max(ours, theirs) + (ours > theirs)


def test_relays_of_both_sides_count() -> None:
    assert sorted(pair.relays for pair in formed()) == [0, 0, 1, 1, 1, 2]


def test_families_and_loopback_do_not_mix_and_nobody_asks_itself() -> None:
    ours = gather([HOME, SIX])
    theirs = [
        Candidate(address, HOST, 1)
        for address in [HOME, ("127.0.0.1", 1), PEER, ("2001:db8::9", 1)]
    ]
    found = {pair.path for pair in Checklist.formed(True, ours, theirs)}
    assert found == {Path(HOME, PEER), Path(SIX, ("2001:db8::9", 1))}


def test_a_relay_in_the_public_network_is_not_asked_for_private_addresses() -> None:
    relay = ("9.9.9.9", 10500)
    ours = gather([HOME], (), [(("9.9.9.9", 40_000), relay, None)])
    theirs = [Candidate(PEER, HOST, 2), Candidate(("8.8.8.8", 1), REFLEXIVE, 1)]
    found = {pair.path for pair in Checklist.formed(True, ours, theirs)}
    assert Path(None, Relayed(PEER, relay)) not in found
    assert len(found) == 3


def test_no_more_than_a_hundred_pairs_are_kept_the_best_ones() -> None:
    ours = gather([(f"10.0.0.{i}", 1) for i in range(1, 17)])
    theirs = [Candidate((f"10.0.1.{i}", 1), HOST, 1000 + i) for i in range(16)]
    made = Checklist.formed(True, ours, theirs)
    assert len(made) == PAIRS_MAX
    assert min(pair.remote.priority for pair in made) == 1000 + 16 - 7  # 16 pairs each
    for i in range(40):
        pair = made.learn(Path(HOME, ("192.0.2.1", 1 + i)), 5)
        assert pair is not None
        pair.heard_at = float(i)
    assert len(made) == PAIRS_MAX
    assert sum(pair.learned for pair in made) == LEARNED_MAX


def test_a_check_from_elsewhere_shows_a_peer_reflexive_candidate() -> None:
    made = formed()
    pair = made.learn(Path(HOME, ("192.0.2.77", 5)), 110 << 24)
    assert pair is not None
    assert (pair.learned, pair.remote.kind, pair.remote.priority, pair.relays) == (
        True,
        CandidateKind.PEER_REFLEXIVE,
        110 << 24,
        0,
    )
    assert made.find(Path(None, ("192.0.2.77", 5))) is pair


def test_what_came_through_a_control_relay_is_not_checked() -> None:
    other = Relayed(("192.0.2.77", 5), ("198.51.100.99", 10500))
    assert formed().learn(Path(HOME, other), 1) is None


def test_a_source_of_none_stands_for_any_and_relays_count_more_than_sources() -> None:
    assert same(Path(None, PEER), Path(HOME, PEER))
    assert not same(Path(SEEN, PEER), Path(HOME, PEER))
    assert not same(Path(HOME, Relayed(PEER, RELAY)), Path(HOME, PEER))
    assert not same(Path(HOME, Relayed(PEER, RELAY)), Path(HOME, Relayed(PEER, SEEN)))
    assert same(Path(HOME, Relayed(PEER, RELAY)), Path(SEEN, Relayed(PEER, RELAY)))


def test_every_kind_of_pair_gets_its_turn() -> None:
    ours = gather([(f"10.0.0.{i}", 1) for i in range(1, 5)], (), [(RELAYED, RELAY, None)])
    made = Checklist.formed(True, ours, THEIRS)
    kinds = []
    for turn in range(1, 10):
        pair = made.next_waiting(varied=turn % 3 == 0, twice=True)
        assert pair is not None
        pair.state = PairState.IN_PROGRESS
        kinds.append((pair.relays, pair.remote.kind))
    assert (0, REFLEXIVE) in kinds[:3]
    assert any(relays for relays, _ in kinds[:6])


def test_what_a_relay_shows_of_a_peer_may_be_reached_directly() -> None:
    made = formed()
    new = ("192.0.2.9", 999)
    pair = made.learn(Path(None, Relayed(new, RELAY)), 110 << 24)
    assert pair is not None
    made.beside(pair)
    direct = made.find(Path(HOME, new))
    assert direct is not None
    assert direct.relays == 0
