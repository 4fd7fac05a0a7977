"""The layer: matching, CANCEL, bounds, and two of them over a bad network in virtual time."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sipgw.errors import TooManyTransactions
from sipgw.message import Request, Response, parse, reply
from sipgw.transaction import (
    AckMissing,
    AckReceived,
    Action,
    Address,
    CancelReceived,
    RequestReceived,
    ResponseReceived,
    Send,
    State,
    StrayResponse,
    TimedOut,
    TimerConfig,
)
from sipgw.transactions import TransactionLayer

CLIENT, OTHER = ("127.0.0.1", 5062), ("127.0.0.2", 5062)


def layer(limit: int = 100, max_finished: int = 100) -> TransactionLayer:
    return TransactionLayer(
        random.Random(0).randbytes,
        sent_by="127.0.0.1:5060",
        limit=limit,
        max_finished=max_finished,
    )


def datagram(
    method: str = "INVITE",
    branch: str = "z9hG4bKa",
    number: int = 1,
    extra: str = "",
    via: str = ";rport",
) -> bytes:
    return (
        f"{method} sip:bob@example.com SIP/2.0\r\n"
        f"Via: SIP/2.0/UDP 127.0.0.1:5062;branch={branch}{via}\r\n"
        "From: <sip:alice@example.com>;tag=a\r\n"
        f"To: <sip:bob@example.com>{extra}\r\n"
        "Call-ID: 1@h\r\n"
        f"CSeq: {number} {method}\r\n"
        "Max-Forwards: 70\r\n"
        "Content-Length: 0\r\n\r\n"
    ).encode()


def outgoing(method: str = "INVITE") -> Request:
    request = Request(method, "sip:bob@192.0.2.1")
    request.headers.add("From", "<sip:alice@example.com>;tag=a")
    request.headers.add("To", "<sip:bob@example.com>")
    request.headers.add("Call-ID", "9@h")
    request.headers.add("CSeq", f"1 {method}")
    request.headers.add("Max-Forwards", "70")
    return request


def only(actions: list[Action], kind: type) -> list[Action]:
    return [action for action in actions if isinstance(action, kind)]


def sent(actions: list[Action]) -> list[Request | Response]:
    return [parse(action.data) for action in actions if isinstance(action, Send)]


def received(actions: list[Action]) -> RequestReceived:
    (event,) = actions
    assert isinstance(event, RequestReceived)
    return event


def answered(request: Request, status: int, tag: str = "b") -> bytes:
    return reply(request, status, "", tag).encode()


# Server side


def test_a_request_is_passed_up_once_and_its_retransmissions_are_answered() -> None:
    a = layer()
    event = received(a.on_datagram(datagram("OPTIONS"), CLIENT, 0.0))
    assert a.on_datagram(datagram("OPTIONS"), CLIENT, 0.1) == []
    first = a.reply(event.transaction, 200, "", 0.2)
    assert a.on_datagram(datagram("OPTIONS"), CLIENT, 0.3) == first


def test_responses_go_where_rport_or_the_via_says() -> None:
    source = ("127.0.0.1", 40000)
    event = received(layer().on_datagram(datagram("OPTIONS"), source, 0.0))
    assert event.transaction.to == source
    assert event.request.via.params["rport"] == "40000"
    assert event.request.via.params["received"] == "127.0.0.1"
    event = received(layer().on_datagram(datagram("OPTIONS", via=""), source, 0.0))
    assert event.transaction.to == ("127.0.0.1", 5062)
    forged = datagram("OPTIONS", via=";received=192.0.2.66")
    event = received(layer().on_datagram(forged, OTHER, 0.0))
    assert event.request.via.params["received"] == "127.0.0.2"
    assert event.transaction.to == OTHER
    a = TransactionLayer(random.Random(0).randbytes, sent_by="h", symmetric=True)
    event = received(a.on_datagram(datagram("OPTIONS", via=""), source, 0.0))
    assert event.transaction.to == source


@pytest.mark.parametrize("change", ["method", "branch", "host"])
def test_a_request_that_differs_in_method_branch_or_host_is_another(change: str) -> None:
    a = layer()
    received(a.on_datagram(datagram("OPTIONS"), CLIENT, 0.0))
    data = datagram(
        "MESSAGE" if change == "method" else "OPTIONS",
        branch="z9hG4bKb" if change == "branch" else "z9hG4bKa",
    )
    received(a.on_datagram(data, OTHER if change == "host" else CLIENT, 0.1))


def test_a_client_without_magic_cookie_is_matched_as_rfc2543_did() -> None:
    a = layer()
    event = received(a.on_datagram(datagram(branch="1"), CLIENT, 0.0))
    assert a.on_datagram(datagram(branch="1"), CLIENT, 0.1) == []
    received(a.on_datagram(datagram(branch="1", number=2), CLIENT, 0.2))
    a.reply(event.transaction, 486, "", 0.3)
    assert a.on_datagram(datagram("ACK", branch="1", extra=";tag=b"), CLIENT, 0.4) == []
    assert event.transaction.state is State.CONFIRMED


def test_the_ack_for_a_failure_ends_at_the_transaction() -> None:
    a = layer()
    event = received(a.on_datagram(datagram(), CLIENT, 0.0))
    a.reply(event.transaction, 486, "", 0.1)
    assert a.on_datagram(datagram("ACK"), CLIENT, 0.2) == []
    assert event.transaction.state is State.CONFIRMED


def test_the_ack_for_a_2xx_stops_its_retransmission_and_is_passed_up() -> None:
    a = layer()
    event = received(a.on_datagram(datagram(), CLIENT, 0.0))
    a.reply(event.transaction, 200, "", 0.1)
    assert len(sent(a.on_time(0.6))) == 1
    for now in (0.7, 0.8):  # each, as the 2xx may come several times
        (ack,) = a.on_datagram(datagram("ACK", branch="z9hG4bKother"), CLIENT, now)
        assert isinstance(ack, AckReceived)
        assert ack.transaction is event.transaction
    assert a.on_time(31.0) == []
    assert a.on_time(40.0) == []
    assert len(a) == 0


def test_an_ack_of_somebody_else_does_not_stop_a_2xx() -> None:
    a = layer()
    event = received(a.on_datagram(datagram(), CLIENT, 0.0))
    a.reply(event.transaction, 200, "", 0.1)
    (ack,) = a.on_datagram(datagram("ACK", branch="z9hG4bKother"), OTHER, 0.2)
    assert isinstance(ack, AckReceived)
    assert ack.transaction is None
    assert len(sent(a.on_time(0.6))) == 1
    assert only(a.on_time(40.0), AckMissing) == [AckMissing(event.transaction)]


def test_cancel_is_answered_and_passed_up_with_its_invite() -> None:
    a = layer()
    event = received(a.on_datagram(datagram(), CLIENT, 0.0))
    ok, cancel = a.on_datagram(datagram("CANCEL"), CLIENT, 0.1)
    assert isinstance(cancel, CancelReceived)
    assert cancel.transaction is event.transaction
    (response,) = sent([ok])
    assert isinstance(response, Response)
    assert (response.status, response.cseq.method) == (200, "CANCEL")
    assert response.to.tag == event.transaction.tag
    assert a.on_datagram(datagram("CANCEL"), CLIENT, 0.2) == [ok]
    (ended,) = sent(a.reply(event.transaction, 487, "", 0.2))
    assert isinstance(ended, Response)
    assert ended.status == 487


def test_cancel_after_the_final_response_is_answered_but_has_no_effect() -> None:
    a = layer()
    event = received(a.on_datagram(datagram(), CLIENT, 0.0))
    a.reply(event.transaction, 200, "", 0.1)
    (only_answer,) = a.on_datagram(datagram("CANCEL"), CLIENT, 0.2)
    assert isinstance(only_answer, Send)


@pytest.mark.parametrize(("branch", "source"), [("z9hG4bKb", CLIENT), ("z9hG4bKa", OTHER)])
def test_cancel_of_nothing_is_481(branch: str, source: Address) -> None:
    a = layer()
    a.on_datagram(datagram(), CLIENT, 0.0)
    (response,) = sent(a.on_datagram(datagram("CANCEL", branch=branch), source, 0.1))
    assert isinstance(response, Response)
    assert response.status == 481


def test_100_goes_out_by_itself_after_200_ms() -> None:
    a = layer()
    a.on_datagram(datagram(), CLIENT, 0.0)
    assert a.deadline() == 0.2
    (trying,) = sent(a.on_time(0.2))
    assert isinstance(trying, Response)
    assert trying.status == 100


def test_a_faulty_request_is_answered_without_the_user_layer() -> None:
    a = layer()
    (response,) = sent(a.on_datagram(datagram("OPTIONS").replace(b"1 OPT", b"1 INV"), CLIENT, 0.0))
    assert isinstance(response, Response)
    assert response.status == 400
    assert len(a) == 0
    bad_via = datagram("OPTIONS").replace(b"SIP/2.0/UDP", b"nonsense")
    assert b"400" in a.on_datagram(bad_via, CLIENT, 0.0)[0].data  # type: ignore[union-attr]
    assert a.on_datagram(datagram("ACK").replace(b"SIP/2.0/UDP", b"x"), CLIENT, 0.0) == []
    assert a.on_datagram(datagram("ACK").replace(b"1 ACK", b"1 BYE"), CLIENT, 0.0) == []


# Client side


def test_a_request_gets_our_via_and_a_branch_of_its_own() -> None:
    a = layer()
    first, (send,) = a.send_request(outgoing(), CLIENT, 0.0)
    second, _ = a.send_request(outgoing(), CLIENT, 0.0)
    assert isinstance(send, Send)
    via = parse(send.data).via
    assert (via.sent_by, via.params["rport"]) == ("127.0.0.1:5060", None)
    assert (via.branch or "").startswith("z9hG4bK")
    assert first.key != second.key


def test_responses_find_their_request_and_strays_are_dropped_but_for_2xx() -> None:
    a = layer()
    transaction, (send,) = a.send_request(outgoing(), CLIENT, 0.0)
    assert isinstance(send, Send)
    request = parse(send.data)
    assert isinstance(request, Request)
    (event,) = a.on_datagram(answered(request, 180), CLIENT, 0.1)
    assert isinstance(event, ResponseReceived)
    assert event.transaction is transaction
    a.on_datagram(answered(request, 200), CLIENT, 0.2)
    assert a.on_time(40.0) == []
    (late,) = a.on_datagram(answered(request, 200), CLIENT, 41.0)
    assert isinstance(late, StrayResponse)
    assert a.on_datagram(answered(request, 486), CLIENT, 41.0) == []
    assert a.counters["stray response"] == 1


def test_a_response_that_cannot_be_read_is_counted_and_dropped() -> None:
    a = layer()
    _, (send,) = a.send_request(outgoing(), CLIENT, 0.0)
    assert isinstance(send, Send)
    request = parse(send.data)
    assert isinstance(request, Request)
    bad = answered(request, 200).replace(b"1 INVITE", b"99999999999 INVITE")
    assert a.on_datagram(bad, CLIENT, 0.1) == []
    assert a.counters == {"response with bad CSeq": 1}


def test_cancel_waits_for_a_provisional_response() -> None:
    a = layer()
    transaction, (send,) = a.send_request(outgoing(), CLIENT, 0.0)
    assert isinstance(send, Send)
    request = parse(send.data)
    assert isinstance(request, Request)
    assert a.cancel(transaction, 0.1) == []
    _, cancel_sent = a.on_datagram(answered(request, 100), CLIENT, 0.2)
    (cancel,) = sent([cancel_sent])
    assert isinstance(cancel, Request)
    assert (cancel.method, cancel.via.branch) == ("CANCEL", request.via.branch)
    assert a.cancel(transaction, 0.3) == []
    (again,) = a.on_datagram(answered(request, 180), CLIENT, 0.4)
    assert isinstance(again, ResponseReceived), "no second CANCEL"
    assert [r.status for r in only_responses(a, answered(cancel, 200))] == [200]
    ack, ended = a.on_datagram(answered(request, 487), CLIENT, 0.5)
    assert isinstance(ended, ResponseReceived)
    assert ended.response.status == 487
    assert isinstance(ack, Send)


def only_responses(a: TransactionLayer, data: bytes) -> list[Response]:
    return [
        e.response for e in a.on_datagram(data, CLIENT, 0.4) if isinstance(e, ResponseReceived)
    ]


def test_an_invite_whose_cancel_brings_nothing_times_out_after_64_t1() -> None:
    a = layer()
    transaction, (send,) = a.send_request(outgoing(), CLIENT, 0.0)
    assert isinstance(send, Send)
    request = parse(send.data)
    assert isinstance(request, Request)
    a.on_datagram(answered(request, 180), CLIENT, 1.0)
    assert len(sent(a.cancel(transaction, 2.0))) == 1
    actions = a.on_time(34.0)
    assert TimedOut(transaction) in actions


# Bounds


def test_beyond_the_limit_requests_get_503_and_ours_are_refused() -> None:
    a = layer(limit=3)
    for n in range(3):
        received(a.on_datagram(datagram("OPTIONS", branch=f"z9hG4bK{n}"), CLIENT, 0.0))
    (busy,) = sent(a.on_datagram(datagram("OPTIONS", branch="z9hG4bK9"), CLIENT, 0.0))
    assert isinstance(busy, Response)
    assert (busy.status, busy.headers.first("retry-after")) == (503, "5")
    with pytest.raises(TooManyTransactions):
        a.send_request(outgoing(), CLIENT, 0.0)
    assert len(a) == 3


def test_finished_transactions_do_not_count_and_the_oldest_is_forgotten_first() -> None:
    a = layer(limit=3, max_finished=2)
    for n in range(10):
        event = received(a.on_datagram(datagram("OPTIONS", branch=f"z9hG4bK{n}"), CLIENT, 0.0))
        a.reply(event.transaction, 200, "", 0.0)
    assert len(a) == 2
    assert len(a.on_datagram(datagram("OPTIONS", branch="z9hG4bK9"), CLIENT, 0.1)) == 1
    assert isinstance(
        a.on_datagram(datagram("OPTIONS", branch="z9hG4bK0"), CLIENT, 0.1)[0], RequestReceived
    )


def test_a_call_that_awaits_its_ack_is_not_forgotten_for_lack_of_room() -> None:
    a = layer(max_finished=2)
    call = received(a.on_datagram(datagram(branch="z9hG4bKcall"), CLIENT, 0.0))
    a.reply(call.transaction, 200, "", 0.0)
    outgoing_call, (send,) = a.send_request(outgoing(), CLIENT, 0.0)
    assert isinstance(send, Send)
    request = parse(send.data)
    assert isinstance(request, Request)
    a.on_datagram(answered(request, 200), CLIENT, 0.0)
    for n in range(10):
        event = received(a.on_datagram(datagram("OPTIONS", branch=f"z9hG4bK{n}"), CLIENT, 0.1))
        a.reply(event.transaction, 200, "", 0.1)
    assert len(sent(a.on_time(0.5))) == 1
    (again,) = a.on_datagram(answered(request, 200), CLIENT, 0.6)
    assert again == ResponseReceived(outgoing_call, again.response)  # type: ignore[union-attr]
    assert AckMissing(call.transaction) in a.on_time(40.0)


def test_the_heap_of_wakes_does_not_grow_with_forgotten_transactions() -> None:
    a = layer(max_finished=2)
    for n in range(8_000):
        event = received(a.on_datagram(datagram("OPTIONS", branch=f"z9hG4bK{n}"), CLIENT, 0.0))
        a.reply(event.transaction, 200, "", 0.0)
    assert len(a._wakes) < 5000
    assert a.on_time(100.0) == []
    assert (len(a), a.deadline()) == (0, None)


# Properties

METHODS = st.sampled_from(["INVITE", "ACK", "CANCEL", "BYE", "OPTIONS"])
INPUTS = st.lists(
    st.tuples(
        st.sampled_from(["in", "respond", "send", "answer", "cancel", "wait", "junk"]),
        METHODS,
        st.integers(0, 3),
        st.sampled_from([100, 180, 200, 302, 486, 487]),
        st.sampled_from([0.0, 0.3, 2.0, 40.0]),
    ),
    max_size=30,
)


class Fuzzed:
    """One layer under arbitrary inputs; checks its invariants after each."""

    def __init__(self) -> None:
        self.layer = layer(limit=4, max_finished=3)
        self.now = 0.0
        self.servers: list[RequestReceived] = []
        self.clients: list[Request] = []

    def step(self, what: str, method: str, n: int, status: int, gap: float) -> None:
        self.now += gap
        action: Callable[[str, int, int], list[Action]] = getattr(self, f"do_{what}")
        for event in [*self.layer.on_time(self.now), *action(method, n, status)]:
            if isinstance(event, RequestReceived):
                self.servers.append(event)
        at = self.layer.deadline()
        assert (at is None) == (len(self.layer) == 0), "it waits if and only if it is waiting"
        assert len(self.layer) <= 4 + 3 + 1

    def do_in(self, method: str, n: int, status: int) -> list[Action]:
        return self.layer.on_datagram(datagram(method, branch=f"z9hG4bK{n}"), CLIENT, self.now)

    def do_respond(self, method: str, n: int, status: int) -> list[Action]:
        if not self.servers:
            return []
        event = self.servers[n % len(self.servers)]
        return self.layer.reply(event.transaction, status, "", self.now)

    def do_send(self, method: str, n: int, status: int) -> list[Action]:
        try:
            transaction, actions = self.layer.send_request(outgoing(), CLIENT, self.now)
        except TooManyTransactions:
            return []
        self.clients.append(transaction.request)
        return actions

    def do_answer(self, method: str, n: int, status: int) -> list[Action]:
        if not self.clients:
            return []
        request = self.clients[n % len(self.clients)]
        return self.layer.on_datagram(answered(request, status), CLIENT, self.now)

    def do_cancel(self, method: str, n: int, status: int) -> list[Action]:
        alive = list(self.layer._clients.values())
        return self.layer.cancel(alive[n % len(alive)], self.now) if alive else []

    def do_wait(self, method: str, n: int, status: int) -> list[Action]:
        return []

    def do_junk(self, method: str, n: int, status: int) -> list[Action]:
        return self.layer.on_datagram(datagram(method)[: 40 * n], CLIENT, self.now)


@given(INPUTS)
@settings(max_examples=150)
def test_the_layer_waits_iff_it_holds_something_and_stays_within_its_bounds(
    inputs: list[tuple[str, str, int, int, float]],
) -> None:
    fuzzed = Fuzzed()
    for step in inputs:
        fuzzed.step(*step)
    while (at := fuzzed.layer.deadline()) is not None:
        fuzzed.layer.on_time(at)
    assert len(fuzzed.layer) == 0


class Network:
    """Two layers and a network that loses, doubles and delays datagrams."""

    def __init__(self, seed: int, loss: float) -> None:
        self.rng = random.Random(seed)
        self.loss = loss
        timers = TimerConfig()
        self.sides = [
            TransactionLayer(random.Random(seed).randbytes, sent_by="a:1", timers=timers),
            TransactionLayer(random.Random(-seed - 1).randbytes, sent_by="b:2", timers=timers),
        ]
        self.flying: list[tuple[float, int, int, bytes]] = []
        self.seen: list[tuple[int, Action]] = []
        self.now = 0.0
        self.count = 0

    def perform(self, side: int, actions: list[Action]) -> None:
        for action in actions:
            if not isinstance(action, Send):
                self.seen.append((side, action))
                self.on_event(side, action)
                continue
            for _ in range(1 + (self.rng.random() < 0.2)):
                if self.rng.random() >= self.loss:
                    self.count += 1
                    at = self.now + 0.01 + self.rng.random() * 0.3
                    self.flying.append((at, self.count, 1 - side, action.data))

    def on_event(self, side: int, action: Action) -> None:
        if isinstance(action, RequestReceived):
            status = 200 if action.request.method != "INVITE" else 486
            self.perform(1, self.sides[1].reply(action.transaction, status, "", self.now))

    def run(self) -> None:
        while True:
            deadlines = [
                (at, i) for i, s in enumerate(self.sides) if (at := s.deadline()) is not None
            ]
            times = [at for at, *_ in self.flying] + [at for at, _ in deadlines]
            if not times:
                return
            self.now = max(self.now, min(times))
            for flight in sorted(f for f in self.flying if f[0] <= self.now):
                self.flying.remove(flight)
                _, _, side, data = flight
                source = ("a", 1) if side else ("b", 2)
                self.perform(side, self.sides[side].on_datagram(data, source, self.now))
            for side, machine in enumerate(self.sides):
                self.perform(side, machine.on_time(self.now))


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 0.6]))
@settings(max_examples=25)
def test_over_a_bad_network_a_request_is_delivered_at_most_once_and_ends(
    method: str, seed: int, loss: float
) -> None:
    net = Network(seed, loss)
    _, actions = net.sides[0].send_request(outgoing(method), ("b", 2), 0.0)
    net.perform(0, actions)
    net.run()
    delivered = [e for side, e in net.seen if side == 1 and isinstance(e, RequestReceived)]
    results = [e for side, e in net.seen if side == 0]
    assert len(delivered) <= 1
    assert len(results) == 1
    assert isinstance(results[0], ResponseReceived | TimedOut)
    if loss == 0.0:
        assert isinstance(results[0], ResponseReceived)
        assert not [e for side, e in net.seen if isinstance(e, AckMissing)]
    assert [len(side) for side in net.sides] == [0, 0]


def big(number: int, method: str = "MESSAGE") -> bytes:
    body = b"x" * 50_000
    head = datagram(method, f"z9hG4bK{number}").replace(
        b"Content-Length: 0", b"Content-Type: text/plain\r\nContent-Length: %d" % len(body)
    )
    return head + body


def test_one_gateway_has_a_share_of_the_table_and_gets_it_back() -> None:
    a = TransactionLayer(random.Random(0).randbytes, sent_by="x", symmetric=True, share=3)
    first = [received(a.on_datagram(datagram("INVITE", f"z9hG4bK{n}"), CLIENT, 0)) for n in "abc"]
    refused = a.on_datagram(datagram("INVITE", "z9hG4bKd"), CLIENT, 0)
    assert [m.status for m in sent(refused) if isinstance(m, Response)] == [503]
    assert only(a.on_datagram(datagram("INVITE", "z9hG4bKe"), OTHER, 0), RequestReceived)
    a.reply(first[0].transaction, 404, "", 1.0)
    assert not only(a.on_datagram(datagram("INVITE", "z9hG4bKf"), CLIENT, 1), RequestReceived)
    a.on_datagram(datagram("ACK", "z9hG4bKa"), CLIENT, 1)
    assert only(a.on_datagram(datagram("INVITE", "z9hG4bKg"), CLIENT, 1), RequestReceived)
    while (due := a.deadline()) is not None:
        a.on_time(due)
    assert len(a) == 0
    assert not a._shares


def test_what_is_finished_takes_a_bounded_room_however_big_it_is() -> None:
    a = layer(max_finished=10_000)
    for number in range(2000):
        request = received(a.on_datagram(big(number), CLIENT, 0))
        a.reply(request.transaction, 200, "", 0)
    assert 600 < len(a) < 700  # of 50 kB each
    assert sum(t.request.size for t in a._absorbing) < 33 << 20
    a.on_time(40.0)
    assert len(a) == 0
    request = received(a.on_datagram(big(2000), CLIENT, 50))
    a.reply(request.transaction, 200, "", 50)
    assert len(a._absorbing) == 1
    assert a._absorbing_bytes == request.request.size
