from hypothesis import given, settings
from hypothesis import strategies as st

from hipctl import Hit
from overlay.lookup import Lookup
from overlay.routing import Contact


def node(number: int) -> Contact:
    name = number.to_bytes(20, "big")
    return Contact(name, Hit(b"\x20\x01\x00\x22" + name[8:]))


NODES = [node(number) for number in range(1, 60)]


def test_the_nearest_are_asked_first_and_alpha_at_a_time() -> None:
    lookup = Lookup(0, reversed(NODES), alpha=3, width=5)
    assert [c.long_id for c in lookup.next()] == [1, 2, 3]
    assert lookup.next() == []
    lookup.on_answer(NODES[1].hit)
    assert [c.long_id for c in lookup.next()] == [4]


def test_it_ends_when_the_nearest_have_answered_and_not_before() -> None:
    lookup = Lookup(0, NODES[10:20], alpha=3, width=3)
    for contact in lookup.next():
        assert not lookup.done()
        lookup.on_answer(contact.hit)
    assert lookup.done()
    assert [c.long_id for c in lookup.answered()] == [11, 12, 13]


def test_nearer_nodes_that_an_answer_brings_are_asked_next() -> None:
    lookup = Lookup(0, NODES[10:13], alpha=3, width=3)
    first = lookup.next()
    lookup.on_answer(first[0].hit, NODES[:2])
    assert [c.long_id for c in lookup.next()] == [1]
    lookup.on_answer(first[1].hit, NODES[:2])
    assert [c.long_id for c in lookup.next()] == [2]


def test_a_late_node_is_replaced_may_still_answer_and_is_given_up_the_second_time() -> None:
    lookup = Lookup(0, NODES[:4], alpha=2, width=2)
    one, two = lookup.next()
    lookup.on_late(one.hit)
    lookup.on_answer(two.hit)
    assert not lookup.done()  # one counts among the nearest two until it is given up
    lookup.on_late(one.hit)
    assert [c.long_id for c in lookup.next()] == [3, 4][:1]
    lookup.on_answer(one.hit)
    assert lookup.done()
    assert [c.long_id for c in lookup.answered()] == [1, 2]


def test_the_silent_are_waited_for_as_long_as_nobody_has_answered() -> None:
    lookup = Lookup(0, NODES[:1], width=3)
    (only,) = lookup.next()
    lookup.on_late(only.hit)
    lookup.on_late(only.hit)
    assert not lookup.done()
    lookup.on_failed(only.hit)
    assert lookup.done()
    assert lookup.failed() == 1


def test_nobody_to_ask_is_the_end() -> None:
    lookup = Lookup(0, [])
    assert lookup.next() == []
    assert lookup.done()


def test_disjoint_paths_never_ask_the_same_node() -> None:
    lookup = Lookup(0, NODES[:9], alpha=1, width=4, paths=3)
    assert len(lookup.next()) == 3
    told_twice = NODES[20]
    lookup.on_answer(NODES[0].hit, [told_twice])
    lookup.on_answer(NODES[1].hit, [told_twice])
    asked = []
    while not lookup.done():
        for contact in lookup.next():
            asked.append(contact.hit)
        for hit in asked:
            lookup.on_answer(hit)
        lookup.on_answer(NODES[2].hit)
    assert len(asked) == len(set(asked))


def test_the_candidates_are_bounded_and_the_nearest_stay() -> None:
    lookup = Lookup(0, NODES[50:51], alpha=1, width=4, limit=8)
    (first,) = lookup.next()
    lookup.on_answer(first.hit, NODES[10:50])
    lookup.on_answer(first.hit, NODES[:10])  # a second answer counts for nothing
    assert len(lookup._paths[0]._entries) <= 8
    assert lookup.next()[0].long_id == 11


@settings(max_examples=80)
@given(
    st.sets(st.integers(0, 58), min_size=1, max_size=12),
    st.lists(
        st.tuples(
            st.sampled_from(["answer", "late", "failed"]),
            st.integers(0, 5),
            st.lists(st.integers(0, 58), max_size=8),
        ),
        max_size=80,
    ),
    st.integers(1, 3),
)
def test_every_lookup_ends_asks_nobody_twice_and_keeps_its_limits(
    start: set[int], script: list[tuple[str, int, list[int]]], paths: int
) -> None:
    lookup = Lookup(7, [NODES[i] for i in start], alpha=3, width=5, paths=paths)
    asked: list[Hit] = []
    steps = iter(script)
    for _ in range(1_000):
        new = [contact.hit for contact in lookup.next()]
        asked += new
        assert len(asked) == len(set(asked))
        assert 0 <= lookup.in_flight <= 3 * paths
        if lookup.done():
            break
        what, which, told = next(steps, ("failed", 0, []))
        hit = asked[which % len(asked)]
        match what:
            case "answer":
                lookup.on_answer(hit, [NODES[i] for i in told])
            case "late":
                lookup.on_late(hit)
            case _:
                for hit in asked:
                    lookup.on_failed(hit)
    assert lookup.done()
