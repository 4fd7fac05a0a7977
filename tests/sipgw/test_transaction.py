"""The machines one by one, each timer of RFC 3261 table 4 included."""

import pytest

from sipgw.message import Request, Response, parse, reply
from sipgw.transaction import (
    AckMissing,
    ClientTransaction,
    ResponseReceived,
    Send,
    ServerTransaction,
    State,
    TimedOut,
    TimerConfig,
)

PEER = ("127.0.0.1", 5062)
TIMERS = TimerConfig()


def make_request(method: str = "INVITE") -> Request:
    request = Request(method, "sip:bob@example.com")
    headers = request.headers
    headers.add("Via", "SIP/2.0/UDP 127.0.0.1:5062;branch=z9hG4bKx;rport")
    headers.add("Route", "<sip:127.0.0.1;lr>")
    headers.add("From", "<sip:alice@example.com>;tag=a")
    headers.add("To", "<sip:bob@example.com>")
    headers.add("Call-ID", "1@h")
    headers.add("CSeq", f"7 {method}")
    headers.add("Max-Forwards", "12")
    return request


def client(method: str = "INVITE") -> ClientTransaction:
    return ClientTransaction(("z9hG4bKx", method), make_request(method), PEER, TIMERS, 0.0)


def server(method: str = "INVITE") -> ServerTransaction:
    request = make_request(method)
    return ServerTransaction(
        ("k", method), request, source=PEER, to=PEER, tag="t", timers=TIMERS, now=0.0
    )


def answer(transaction: ClientTransaction, status: int) -> Response:
    return reply(transaction.request, status, "", "b")


def run(machine: ClientTransaction | ServerTransaction, until: float) -> list[tuple[float, str]]:
    """Fire every timer up to ``until``; what each did, with its time."""
    log = []
    while (at := min(machine.retransmit_at, machine.expires_at)) <= until:
        for action in machine.on_time(at):
            what = type(action).__name__
            if isinstance(action, Send):
                message = parse(action.data)
                what = message.method if isinstance(message, Request) else str(message.status)
            log.append((round(at, 6), what))
    return log


# Client INVITE, §17.1.1 and RFC 6026 §7.2


def test_timer_a_doubles_without_end_and_timer_b_ends_it() -> None:
    c = client()
    assert isinstance(c.start()[0], Send)
    assert run(c, 1000.0) == [
        (0.5, "INVITE"),
        (1.5, "INVITE"),
        (3.5, "INVITE"),
        (7.5, "INVITE"),
        (15.5, "INVITE"),
        (31.5, "INVITE"),
        (32.0, "TimedOut"),
    ]
    assert c.state is State.TERMINATED


def test_a_provisional_response_stops_retransmission_and_is_passed_up() -> None:
    c = client()
    ringing = answer(c, 180)
    assert c.on_response(ringing, 0.3) == [ResponseReceived(c, ringing)]
    assert c.state is State.PROCEEDING
    assert run(c, 599.0) == []
    assert run(c, 601.0) == [(600.3, "TimedOut")]


def test_a_failure_is_acknowledged_each_time_but_passed_up_once_until_timer_d() -> None:
    c = client()
    busy = answer(c, 486)
    send, event = c.on_response(busy, 1.0)
    assert event == ResponseReceived(c, busy)
    assert isinstance(send, Send)
    ack = parse(send.data)
    assert isinstance(ack, Request)
    assert (ack.method, ack.uri, ack.cseq.number) == ("ACK", c.request.uri, 7)
    assert ack.to.tag == "b"
    assert [str(v) for v in ack.vias] == [str(v) for v in c.request.vias]
    assert ack.headers.all("route") == ["<sip:127.0.0.1;lr>"]
    assert c.on_response(busy, 2.0) == [send]
    assert c.on_response(answer(c, 180), 2.0) == []
    assert c.on_response(answer(c, 200), 2.0) == []
    assert run(c, 32.9) == []
    assert run(c, 33.0) == []
    assert c.state is State.TERMINATED


def test_each_2xx_is_passed_up_until_timer_m_and_nothing_else_is() -> None:
    c = client()
    ok = answer(c, 200)
    for now in (1.0, 1.5, 2.5):
        assert c.on_response(ok, now) == [ResponseReceived(c, ok)]
    assert c.state.value == "Accepted"
    assert c.on_response(answer(c, 486), 3.0) == []
    assert c.on_response(answer(c, 180), 3.0) == []
    assert run(c, 32.9) == []
    assert run(c, 33.0) == []
    assert c.state is State.TERMINATED


# Client non-INVITE, §17.1.2


def test_timer_e_doubles_up_to_t2_and_timer_f_ends_it() -> None:
    c = client("OPTIONS")
    times = [at for at, what in run(c, 1000.0) if what == "OPTIONS"]
    assert times == [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    assert c.state is State.TERMINATED


def test_after_a_provisional_timer_e_is_t2_and_timer_f_still_holds() -> None:
    c = client("OPTIONS")
    c.on_response(answer(c, 100), 0.4)
    assert [at for at, _ in run(c, 12.0)] == [0.5, 4.5, 8.5]
    assert run(c, 1000.0)[-1] == (32.0, "TimedOut")


def test_a_final_response_is_passed_up_once_and_timer_k_ends_it() -> None:
    c = client("OPTIONS")
    ok = answer(c, 200)
    assert c.on_response(ok, 1.0) == [ResponseReceived(c, ok)]
    assert c.on_response(ok, 1.1) == []
    assert run(c, 5.9) == []
    assert run(c, 6.0) == []
    assert c.state is State.TERMINATED


# Server INVITE, §17.2.1 and RFC 6026 §7.1


def test_100_goes_out_after_200_ms_of_silence() -> None:
    s = server()
    assert s.on_request() == []
    assert run(s, 1.0) == [(0.2, "100")]
    (again,) = s.on_request()
    assert isinstance(again, Send)
    assert again.data.startswith(b"SIP/2.0 100 Trying\r\n")
    assert b"tag=t" not in again.data


def test_no_100_when_the_user_layer_was_quicker() -> None:
    s = server()
    (sent,) = s.respond(s.reply(180), 0.1)
    assert run(s, 10.0) == []
    assert s.on_request() == [sent]
    assert s.state is State.PROCEEDING


def test_timer_g_repeats_a_failure_up_to_t2_and_timer_h_reports_the_missing_ack() -> None:
    s = server()
    s.respond(s.reply(486), 1.0)
    log = run(s, 1000.0)
    assert log[:6] == [
        (1.5, "486"),
        (2.5, "486"),
        (4.5, "486"),
        (8.5, "486"),
        (12.5, "486"),
        (16.5, "486"),
    ]
    assert log[-1] == (33.0, "AckMissing")
    assert s.state is State.TERMINATED


def test_the_ack_stops_timer_g_and_timer_i_ends_it_silently() -> None:
    s = server()
    s.respond(s.reply(486), 1.0)
    s.on_ack(1.2)
    assert s.state.value == "Confirmed"
    assert s.on_request() == []
    assert s.respond(s.reply(200), 1.3) == []
    assert run(s, 6.1) == []
    assert run(s, 6.2) == []
    assert s.state is State.TERMINATED


def test_a_2xx_is_repeated_until_its_ack_and_timer_l_ends_it() -> None:
    s = server()
    s.respond(s.reply(200), 1.0)
    assert s.on_request() == []  # RFC 6026: absorbed
    assert [at for at, _ in run(s, 9.0)] == [1.5, 2.5, 4.5, 8.5]
    s.on_ack(9.0)
    assert run(s, 1000.0) == []
    assert s.state is State.TERMINATED


def test_a_2xx_without_ack_is_reported_when_timer_l_fires() -> None:
    s = server()
    s.respond(s.reply(200), 1.0)
    assert run(s, 1000.0)[-1] == (33.0, "AckMissing")


def test_the_user_layer_may_send_2xx_again_but_no_other_final() -> None:
    s = server()
    s.respond(s.reply(200), 1.0)
    assert len(s.respond(s.reply(200), 2.0)) == 1
    assert s.respond(s.reply(486), 2.0) == []
    assert s.respond(s.reply(180), 2.0) == []


def test_an_invite_that_nobody_answers_does_not_stay_for_ever() -> None:
    s = server()
    log = run(s, 10_000.0)
    assert log[:3] == [(0.2, "100"), (600.0, "408"), (600.5, "408")]
    assert log[-1] == (632.0, "AckMissing")
    assert s.state is State.TERMINATED


# Server non-INVITE, §17.2.2


def test_a_request_in_trying_is_absorbed_and_then_answered_from_memory_until_timer_j() -> None:
    s = server("MESSAGE")
    assert s.on_request() == []
    (trying,) = s.respond(s.reply(183), 0.5)
    assert s.on_request() == [trying]
    (ok,) = s.respond(s.reply(200), 1.0)
    assert s.on_request() == [ok]
    assert s.respond(s.reply(404), 1.1) == []
    assert run(s, 32.9) == []
    assert run(s, 33.0) == []
    assert s.state is State.TERMINATED


def test_an_unanswered_request_is_forgotten_when_its_client_has_given_up() -> None:
    s = server("MESSAGE")
    assert run(s, 1000.0) == []
    assert s.state is State.TERMINATED


@pytest.mark.parametrize("factor", [0.01, 2.0])
def test_all_timers_scale(factor: float) -> None:
    timers = TimerConfig(t1=0.5 * factor, t2=4 * factor, t4=5 * factor)
    c = ClientTransaction(("b", "OPTIONS"), make_request("OPTIONS"), PEER, timers, 0.0)
    assert run(c, 1000.0)[-1] == (round(32.0 * factor, 6), "TimedOut")
    assert isinstance(TimedOut(c), TimedOut)
    assert AckMissing(server()).transaction.state is State.PROCEEDING
