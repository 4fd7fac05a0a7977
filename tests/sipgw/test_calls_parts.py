"""The small rooms of calls: alarms, dialogs, forks, emergencies, what passes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipgw import stun
from sipgw.alarms import Alarms
from sipgw.dialog import Dialog, Order, client_address
from sipgw.echo import returned
from sipgw.emergency import is_emergency
from sipgw.forking import best_of
from sipgw.message import MalformedMessage, Request, Response, Uri, parse
from sipgw.passing import pass_headers


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=50))
def test_alarms_ring_in_order_and_stopped_ones_do_not(wanted: list[tuple[float, bool]]) -> None:
    alarms = Alarms()
    rung: list[float] = []
    made = [
        (alarms.set(at, lambda _, at=at: rung.append(at)), at, keep)  # type: ignore[misc]
        for at, keep in wanted
    ]
    for alarm, _, keep in made:
        if not keep:
            alarm.stop()
            alarm.stop()
    kept = sorted(at for _, at, keep in made if keep)
    assert len(alarms) == len(kept)
    assert alarms.deadline() == (kept[0] if kept else None)
    alarms.on_time(50.0)
    assert rung == [at for at in kept if at <= 50.0]
    alarms.on_time(100.0)
    assert rung == kept
    assert alarms.deadline() is None


def test_many_stopped_alarms_do_not_stay_in_memory() -> None:
    alarms = Alarms()
    alarms.set(1e9, lambda _: None)
    for _ in range(10_000):
        alarms.set(1e8, lambda _: None).stop()
    assert len(alarms._heap) < 3000
    assert len(alarms) == 1


def request(*extra: str, start: str = "INVITE sip:bob@example.org SIP/2.0") -> Request:
    lines = [
        start,
        "Via: SIP/2.0/UDP 10.0.0.9:5060;branch=z9hG4bK1",
        "From: Alice <sip:alice@example.org>;tag=a",
        "To: <sip:bob@example.org>",
        "Call-ID: one@10.0.0.9",
        "CSeq: 7 INVITE",
        "Contact: <sip:alice@10.0.0.9:5062>",
        *extra,
    ]
    parsed = parse("\r\n".join([*lines, "", ""]).encode())
    assert isinstance(parsed, Request)
    return parsed


def test_a_dialog_of_the_uas_keeps_the_route_set_in_order() -> None:
    invite = request("Record-Route: <sip:p1;lr>", "Record-Route: <sip:p2;lr>")
    dialog = Dialog.answering(invite, "b", ("10.0.0.9", 5060), "<sip:us>")
    bye = dialog.request("BYE")
    assert bye.uri == "sip:alice@10.0.0.9:5062"
    assert bye.headers.all("route") == ["<sip:p1;lr>", "<sip:p2;lr>"]
    assert bye.from_.tag == "b"
    assert bye.to.tag == "a"
    assert bye.cseq.number == 1


def test_a_dialog_of_the_uac_reverses_it_and_speaks_to_strict_routers_as_they_want() -> None:
    invite = request()
    answer = parse(
        b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=a\r\n"
        b"To: <sip:bob@example.org>;tag=z\r\nCall-ID: one@10.0.0.9\r\nCSeq: 7 INVITE\r\n"
        b"Contact: <sip:bob@far>\r\nRecord-Route: <sip:p1;lr>, <sip:p2>\r\n\r\n"
    )
    assert isinstance(answer, Response)
    dialog = Dialog.asking(invite, answer, ("10.0.0.9", 5060), "<sip:us>", "sip:bob@example.org")
    ack = dialog.ack(7)
    assert ack.uri == "sip:p2"
    assert ack.headers.all("route") == ["<sip:p1;lr>", "<sip:bob@far>"]
    assert ack.cseq.number == 7
    assert dialog.ack_again(7) is ack
    assert dialog.ack_again(8) is None
    assert dialog.request("BYE").cseq.number == 8


def test_a_dialog_needs_a_contact_and_refuses_a_cseq_that_is_not_new() -> None:
    invite = request()
    dialog = Dialog.answering(invite, "b", ("10.0.0.9", 5060), "<sip:us>")
    assert dialog.order(invite) is Order.OLD
    invite.headers.set("CSeq", "8 INVITE")
    assert dialog.order(invite) is Order.NEW
    invite.headers.remove("Contact")
    with pytest.raises(MalformedMessage):
        Dialog.answering(invite, "b", ("10.0.0.9", 5060), "<sip:us>")


def test_requests_go_to_a_contact_on_loopback_else_to_where_the_client_came_from() -> None:
    source = "127.0.0.1", 40_000
    assert client_address(Uri.parse("sip:a@127.0.0.2:5070"), source) == ("127.0.0.2", 5070)
    assert client_address(Uri.parse("sip:a@127.0.0.2"), source) == ("127.0.0.2", 5060)
    assert client_address(Uri.parse("sip:a@192.168.1.2:5070"), source) == source
    assert client_address(Uri.parse("sip:a@host.example"), source) == source
    for name in ("127.0.example.com", "127.0.0.999", "[::1]"):  # nothing to look up or to send to
        assert client_address(Uri.parse(f"sip:a@{name}:5070"), source) == source


@pytest.mark.parametrize(
    ("finals", "best"),
    [
        ([408], 480),
        ([404, 486], 486),
        ([480, 603, 486], 603),
        ([480, 415], 415),
        ([407], 480),
        ([302], 480),
        ([404, 404], 404),
    ],
)
def test_the_best_of_several_failures(finals: list[int], best: int) -> None:
    assert best_of(finals) == best


def test_what_is_an_emergency_and_what_only_looks_like_one() -> None:
    for uri in ("urn:service:sos", "URN:Service:SOS.fire", "tel:112", "tel:+112", "sip:9-1-1@x.y",
                "sips:999@x.y", "sip:112;phone-context=+49@x.y", "sip:sos@x.y"):  # fmt: skip
        assert is_emergency(uri), uri
    for uri in ("urn:service:counseling", "urn:service:sosx", "tel:1120", "sip:bob@112.example",
                "sip:alice@example.org", "http://112", "sip:9119@x.y"):  # fmt: skip
        assert not is_emergency(uri), uri


def test_headers_of_a_leg_and_those_that_name_the_clients_host_do_not_pass() -> None:
    source = request(
        "Subject: hi", "X-Unknown: yes", "Call-Info: <http://10.0.0.9/me.png>", "Supported: timer",
        "P-Asserted-Identity: <sip:x@y>", "Route: <sip:r;lr>", "User-Agent: phone/1",
    )  # fmt: skip
    onto = Request("INVITE", "sip:x@y")
    pass_headers(source, onto, ("10.0.0.9",))
    assert [key for key, _ in onto.headers] == ["subject", "x-unknown", "supported", "user-agent"]


@given(st.binary(min_size=12, max_size=200))
def test_the_echo_changes_the_ssrc_and_nothing_else(packet: bytes) -> None:
    back = returned(packet)
    assert back[8:12] != packet[8:12]
    assert (back[:8], back[12:]) == (packet[:8], packet[12:])


@given(st.binary(max_size=60))
def test_any_bytes_are_a_binding_request_or_none(data: bytes) -> None:
    assert stun.answer(data, ("127.0.0.1", 1)) is None or data[:2] == b"\x00\x01"


def test_stun_from_what_is_no_ipv4_address_is_not_answered() -> None:
    binding = b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12)
    assert stun.answer(binding, ("::1", 1)) is None
    assert stun.answer(binding + b"x", ("127.0.0.1", 1)) is None
