"""Ladder diagrams, as text."""

from hypothesis import given
from hypothesis import strategies as st

from hipctl.constants import PacketType
from hipctl.packet import build
from hipctl.params import RelayTo, Seq
from ladder import Event, draw, label


def test_a_ladder_looks_like_this() -> None:
    events = [
        Event(0.0, "alice", "nat", "I1"),
        Event(0.02, "nat", "bob", "I1"),
        Event(0.041, "bob", "alice", "R1", lost=True),
        Event(0.5, "nat", "nat", "reboots"),
        Event(1.0, "alice", "bob", "I1"),
    ]
    assert draw(events).splitlines() == [
        " seconds   alice            nat             bob",
        "   0.000     |----- I1 ----->|               |",
        "   0.020     |               |----- I1 ----->|",
        "   0.041     |x------------- R1 -------------|",
        "   0.500     |               * reboots",
        "   1.000     |------------- I1 ------------->|",
    ]


def test_a_remark_stands_at_the_end_of_its_row() -> None:
    remarked = Event(0, "a", "b", "I1", remark="192.0.2.1 -> 192.0.2.2")
    assert draw([remarked]).endswith("----->|  192.0.2.1 -> 192.0.2.2")


def test_hosts_stand_in_the_order_that_is_asked_for() -> None:
    assert draw([Event(0, "b", "a", "x")], hosts=["a", "b"]).split()[1:3] == ["a", "b"]


def test_data_is_counted_until_something_else_comes() -> None:
    def esp(at: float, source: str, to: str) -> Event:
        return Event(at, source, to, "ESP 01", many=True)

    events = [esp(0, "a", "b"), esp(1, "b", "a"), esp(2, "a", "b"), Event(3, "a", "b", "UPDATE")]
    lines = draw([*events, esp(4, "a", "b")]).splitlines()[1:]
    assert ["ESP 01 x2" in line for line in lines] == [True, False, False, False]
    assert [line.split()[0] for line in lines] == ["0.000", "1.000", "3.000", "4.000"]


def test_of_many_rows_the_first_and_the_last_are_drawn() -> None:
    lines = draw([Event(i, "a", "b", "I1") for i in range(100)], most=10).splitlines()
    assert len(lines) == 1 + 10 + 1
    assert "90 rows are left out" in lines[6]


def test_labels_say_what_a_payload_is() -> None:
    update = build(PacketType.UPDATE, bytes(16), bytes(16), [Seq(7)])
    assert label(bytes(4) + update) == ("UPDATE (SEQ)", False)
    relayed = build(PacketType.I1, bytes(16), bytes(16), [RelayTo(("192.0.2.1", 10_500))])
    assert label(bytes(4) + relayed) == ("I1 (RELAY_TO 192.0.2.1:10500)", False)
    assert label(b"\xff") == ("keepalive", True)
    assert label(bytes.fromhex("0102030400000001") + bytes(20)) == ("ESP 01020304", True)


@given(st.binary())
def test_any_payload_has_a_label(payload: bytes) -> None:
    assert label(payload)[0]
    assert label(bytes(4) + payload)[0]


HOST = st.sampled_from(["a", "router", "server.example"])


@given(
    st.lists(
        st.builds(
            Event,
            st.floats(0, 1e4),
            HOST,
            HOST,
            st.text("xyz ", max_size=99),
            st.booleans(),
            st.booleans(),
        )
    )
)
def test_any_events_can_be_drawn(events: list[Event]) -> None:
    lines = draw(events, most=20).splitlines()
    assert bool(lines) is bool(events)
    assert len(lines) <= 22
