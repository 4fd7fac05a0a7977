"""Two sides' checks behind NATs: which pair they agree on, how soon, and after what happens."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hipctl.actions import Path, Relayed
from hipctl.checklist import PAIRS_MAX, PairState, same
from hipctl.checks import State
from sim.punching import Kind, Peer, Scene, direct_possible

PUBLIC_NETWORK = "198.51.100."
KINDS = list(Kind)
EVENTS = ["move a", "move b", "silence a", "silence b", "reboot a", "reboot b"]


def mirrored(scene: Scene) -> bool:
    """Both have selected the same pair, and data arrives along it."""
    for peer, other in itertools.permutations(scene.peers):
        arrived, selected = scene.arrives(peer), other.checks.selected
        if arrived is None or selected is None or not same(arrived, selected):
            return False
    return True


def seconds_until_mirrored(scene: Scene, until: float, but: Path | None = None) -> float:
    """From now, until both have selected the same working pair; ``but``: not this one of A's."""
    since = scene.now
    while scene.now < until:
        scene.run(scene.now + 0.01)
        if scene.a.checks.selected != but and mirrored(scene):
            return scene.now - since
    raise AssertionError("never")


def steady(scene: Scene) -> None:
    """What holds at any time."""
    for peer in scene.peers:
        checks = peer.checks
        waits = any(pair.state is PairState.WAITING for pair in checks._list)
        assert len(checks._list) <= PAIRS_MAX
        match checks.state:
            case State.IDLE:
                assert checks.deadline() is None
            case State.RUNNING:
                assert checks.deadline() is not None
            case State.COMPLETED:
                assert checks.selected is not None
                if checks._nominating is None:
                    assert (checks.deadline() is not None) is (checks.relayed or waits)
            case State.FAILED:
                assert checks.deadline() is None or waits


def paced(peer: Peer) -> bool:
    gaps = [later - earlier for earlier, later in itertools.pairwise(peer.asked)]
    return all(gap >= peer.scene.pacing - 1e-9 for gap in gaps)


@pytest.mark.parametrize("b", KINDS)
@pytest.mark.parametrize("a", KINDS)
def test_every_pair_of_nats_gets_a_path_soon_and_a_direct_one_where_one_can_be(
    a: Kind, b: Kind
) -> None:
    scene = Scene(a, b, rtt=0.04)
    scene.begin()
    scene.run(15.0, lambda: steady(scene))
    direct = direct_possible(a, b)
    for peer in scene.peers:
        assert peer.selected_at is not None
        assert peer.selected_at < (0.3 if direct else 0.5)
        assert peer.checks.relayed is not direct
        assert len(peer.history) == 2  # nothing, then this
        assert len(peer.asked) <= (6 if direct else 24)
    assert mirrored(scene)


@given(
    st.tuples(st.sampled_from(KINDS), st.sampled_from(KINDS)),
    st.sampled_from(["", "a", "b", "ab"]),
    st.tuples(
        st.sampled_from([0.002, 0.04, 0.3]),
        st.sampled_from([0.0, 0.05, 0.2]),
        st.sampled_from([0.0, 0.01, 0.2]),
    ),
    st.sampled_from([0.005, 0.05, 0.2]),
    st.integers(0, 2**16),
)
@settings(max_examples=150, deadline=None)
def test_both_sides_agree_on_a_pair_that_works_if_there_is_one(
    nats: tuple[Kind, Kind],
    relays: str,
    network: tuple[float, float, float],
    pacing: float,
    seed: int,
) -> None:
    rtt, loss, jitter = network
    scene = Scene(
        *nats, relays=relays, rtt=rtt, loss=loss, jitter=jitter, pacing=pacing, seed=seed
    )
    scene.begin()
    scene.run(10.0, lambda: steady(scene))
    scene.loss = 0.0
    scene.run(100.0, lambda: steady(scene))
    assert all(paced(peer) for peer in scene.peers)
    if not relays and not direct_possible(*nats):
        assert [peer.checks.selected for peer in scene.peers] == [None, None]
        assert all(peer.checks.failed for peer in scene.peers)
    elif loss < 0.2 or mirrored(scene):  # with more, all transmissions of some may be lost
        assert mirrored(scene)
        assert scene.a.checks.relayed is scene.b.checks.relayed is not direct_possible(*nats)


@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 8.0),
            st.sampled_from(
                ["move a", "move b", "silence a", "silence b", "reboot a", "reboot b"]
            ),
            st.sampled_from(KINDS),
        ),
        max_size=8,
    ),
    st.sampled_from([0.0, 0.1]),
    st.integers(0, 2**16),
)
@settings(max_examples=100, deadline=None)
def test_whatever_happens_they_find_each_other_again(
    events: list[tuple[float, str, Kind]], loss: float, seed: int
) -> None:
    scene = Scene(Kind.RESTRICTED, Kind.INDEPENDENT, loss=loss, jitter=0.02, seed=seed)
    scene.begin()
    for pause, event, kind in events:
        scene.run(scene.now + pause, lambda: steady(scene))
        what, _, which = event.partition(" ")
        peer = scene.a if which == "a" else scene.b
        if what == "move":
            scene.move(peer, kind)
        elif what == "reboot":
            scene.reboot(peer)
        else:
            peer.checks.on_silence(scene.now)
    scene.loss = 0.0
    for _ in range(3):  # whoever still sends and hears nothing says so
        scene.run(scene.now + 12.0, lambda: steady(scene))
        for peer in scene.peers:
            other = scene.b if peer is scene.a else scene.a
            if scene.arrives(other) is None:
                peer.checks.on_silence(scene.now)
    scene.run(scene.now + 15.0, lambda: steady(scene))
    assert mirrored(scene)
    assert all(paced(peer) for peer in scene.peers)


def test_two_in_one_network_meet_there() -> None:
    scene = Scene(Kind.SYMMETRIC, Kind.SYMMETRIC, together=True)
    scene.begin()
    scene.run(5.0)
    assert mirrored(scene)
    assert scene.a.checks.selected == Path(scene.a.own, scene.b.own)
    assert (scene.a.selected_at or 9) < 0.1


@pytest.mark.parametrize("who", ["ab", "a", "b"])
def test_a_path_that_dies_is_replaced_by_a_relay_within_two_seconds(who: str) -> None:
    scene = Scene(Kind.RESTRICTED, Kind.RESTRICTED)
    scene.begin()
    scene.run(10.0)
    assert not scene.a.checks.relayed
    scene.blocked = lambda _peer, to: not to[0].startswith(PUBLIC_NETWORK)
    scene.run(11.0)  # silence was noticed after a second
    for peer in [scene.peers["ab".index(side)] for side in who]:
        peer.checks.on_silence(scene.now)
    assert seconds_until_mirrored(scene, 20.0, scene.a.checks.selected) < 0.8
    assert scene.a.checks.relayed

    scene.run(30.0)
    scene.blocked = lambda _peer, _to: False
    assert seconds_until_mirrored(scene, 200.0, scene.a.checks.selected) < 16.0
    assert not scene.a.checks.relayed


@pytest.mark.parametrize("who", ["ab", "a", "b"])
def test_when_a_relay_dies_the_other_one_takes_over(who: str) -> None:
    scene = Scene(Kind.SYMMETRIC, Kind.SYMMETRIC)
    scene.begin()
    scene.run(10.0)
    before = scene.a.checks.selected
    assert before is not None
    used = before.to.via if isinstance(before.to, Relayed) else before.to
    for peer in scene.peers:
        if peer.relay is not None and peer.relay.main[0] == used[0]:
            peer.relay.dead = True
    for peer in [scene.peers["ab".index(side)] for side in who]:
        peer.checks.on_silence(scene.now)
    assert seconds_until_mirrored(scene, 20.0, before) < 1.5


@pytest.mark.parametrize("who", ["ab", "a", "b"])
@pytest.mark.parametrize("which", ["a", "b"])
def test_after_a_nat_forgets_its_mappings_they_meet_again_soon(which: str, who: str) -> None:
    scene = Scene(Kind.RESTRICTED, Kind.RESTRICTED)
    scene.begin()
    scene.run(10.0)
    scene.reboot(scene.peers["ab".index(which)])
    assert not mirrored(scene)
    for peer in [scene.peers["ab".index(side)] for side in who]:
        peer.checks.on_silence(scene.now)
    assert seconds_until_mirrored(scene, 20.0) < 1.0


def test_a_host_moves_and_the_old_path_is_kept_until_the_new_one_is_nominated() -> None:
    scene = Scene(Kind.INDEPENDENT, Kind.PUBLIC)
    scene.begin()
    scene.run(10.0)
    before = scene.b.checks.selected
    scene.move(scene.a, Kind.SYMMETRIC)
    scene.run(10.05)
    assert scene.b.checks.selected == before
    assert seconds_until_mirrored(scene, 20.0) < 0.4
    assert not scene.a.checks.relayed


@pytest.mark.parametrize("gap", [0.0, 0.03, 0.1, 0.3])
def test_both_move_at_about_the_same_time(gap: float) -> None:
    scene = Scene(Kind.RESTRICTED, Kind.INDEPENDENT)
    scene.begin()
    scene.run(10.0)
    scene.move(scene.a, Kind.RESTRICTED)
    scene.run(10.0 + gap)
    scene.move(scene.b, Kind.RESTRICTED)
    assert seconds_until_mirrored(scene, 20.0) < 0.8


def test_a_relayed_association_costs_little() -> None:
    scene = Scene(Kind.SYMMETRIC, Kind.SYMMETRIC)
    scene.begin()
    scene.run(60.0)
    before = len(scene.a.asked)
    scene.run(660.0)
    assert len(scene.a.asked) - before < 60  # ten rounds


def test_a_direct_association_sends_no_checks() -> None:
    scene = Scene(Kind.RESTRICTED, Kind.RESTRICTED)
    scene.begin()
    scene.run(10.0)
    before = [len(peer.asked) for peer in scene.peers]
    scene.run(600.0)
    assert [len(peer.asked) for peer in scene.peers] == before
