from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hipctl import Hit
from overlay.admission import Admitted
from overlay.errors import CredentialsRefused
from overlay.greeting import Greeting
from overlay.messages import (
    Code,
    Feature,
    Field,
    Kind,
    encode_answer,
    encode_error,
    encode_request,
    parse,
)
from overlay.rpc import (
    MAX_PENDING_EACH,
    Answered,
    Asked,
    Failed,
    Greeted,
    Late,
    Refused,
    Rpc,
    Send,
)
from overlay.session import BURST, FIRST_TIMEOUT

ALICE, BOB, EVE = (Hit(b"\x20\x01\x00\x22" + bytes([n]) * 12) for n in (1, 2, 3))
WALL = 1_800_000_000.0


def rpc(mine: bytes = b"good", *, seed: int = 1, expires: int = 2**32, **exchanged: Any) -> Rpc:
    count = seed * 1_000_000

    def rng(length: int) -> bytes:
        nonlocal count
        count += 1
        return b"".join((count * 1000 + n).to_bytes(8, "big") for n in range(length // 8))

    def admit(credentials: bytes, hit: Hit, wall: float) -> Admitted:
        if credentials != b"good":
            raise CredentialsRefused("no delegation")
        return Admitted(hit, (), expires)

    return Rpc(
        Greeting(mine, bytes(8)), lambda: b"here", admit, lambda hit: True, rng, **exchanged
    )


class Pair:
    """Two ends with a network between them that does as it is told."""

    def __init__(self, shown: bytes = b"good") -> None:
        self.ends = {ALICE: rpc(), BOB: rpc(shown, seed=2)}
        self.events: dict[Hit, list[Any]] = {ALICE: [], BOB: []}

    def carry(self, source: Hit, outputs: list[Any], now: float = 0.0) -> None:
        for output in outputs:
            if isinstance(output, Send):
                there = self.ends[output.to]
                self.carry(output.to, there.on_message(output.data, source, now, WALL), now)
            elif isinstance(output, Asked):
                message = output.message
                answer = encode_answer(message.kind, message.request_id, {})
                self.events[source].append(output)
                self.carry(source, [Send(output.session.hit, answer)], now)
            else:
                self.events[source].append(output)

    def ask(self, token: str, now: float = 0.0) -> None:
        outputs = self.ends[ALICE].request(BOB, Kind.PING, {}, token, now, WALL)
        self.carry(ALICE, outputs, now)

    def outcomes(self) -> list[Any]:
        return [e for e in self.events[ALICE] if not isinstance(e, Greeted | Asked)]


def test_hello_goes_first_and_both_ends_are_greeted() -> None:
    pair = Pair()
    pair.ask("ping")
    assert [type(e) for e in pair.events[BOB]] == [Greeted, Asked]
    (answered,) = pair.outcomes()
    assert answered.token == "ping"
    assert answered.session.contact == b"here"
    sends = pair.ends[ALICE].request(BOB, Kind.PING, {}, "again", 1.0, WALL)
    assert len(sends) == 1  # HELLO is over


def test_whoever_is_not_admitted_is_told_so_and_asked_no_more_for_a_while() -> None:
    pair = Pair()
    pair.ends[ALICE] = rpc(b"bad")
    pair.ask("ping")
    assert not pair.ends[BOB].sessions  # no state for who did not get in
    assert [type(e) for e in pair.outcomes()] == [Failed]
    pair.events[ALICE].clear()
    pair.ask("again", 5.0)
    assert pair.outcomes() == [Failed("again", BOB, "refused us")]
    pair.ends[ALICE].greeting = Greeting(b"good", bytes(8))
    pair.events[ALICE].clear()
    pair.ask("later", 100.0)
    assert [type(e) for e in pair.outcomes()] == [Answered]


def test_an_answer_from_whoever_shows_no_good_credentials_is_not_believed() -> None:
    pair = Pair(shown=b"bad")
    pair.ask("ping")
    assert [type(e) for e in pair.outcomes()] == [Failed]
    assert not pair.ends[ALICE].sessions[BOB].greeted


def test_whoever_forgot_us_is_greeted_again() -> None:
    pair = Pair()
    pair.ask("one")
    pair.ends[BOB] = rpc(seed=3)  # it restarted
    pair.events[ALICE].clear()
    pair.ask("two")
    assert [e.token for e in pair.outcomes()] == ["two"]
    assert isinstance(pair.outcomes()[0], Answered)


def test_who_keeps_saying_that_it_does_not_know_us_is_given_up() -> None:
    pair = Pair()
    pair.ask("one")
    alice = pair.ends[ALICE]
    (send,) = alice.request(BOB, Kind.PING, {}, "two", 1.0, WALL)
    asked = parse(send.data)  # type: ignore[union-attr]
    refusal = encode_error(asked.request_id, Code.NOT_GREETED)
    outputs: list[Any] = []
    for _ in range(4):
        outputs += alice.on_message(refusal, BOB, 1.1, WALL)
    assert [type(o) for o in outputs] == [Send, Refused]


def test_a_request_is_sent_three_times_with_doubling_gaps_and_then_fails() -> None:
    end = rpc()
    end.request(BOB, Kind.PING, {}, "ping", 0.0, WALL)
    seen: list[tuple[float, str]] = []
    while (at := end.deadline()) is not None:
        for output in end.on_time(at):
            if isinstance(output, Late | Failed):
                seen.append((round(at / FIRST_TIMEOUT, 3), type(output).__name__))
    assert seen == [(1, "Late"), (3, "Late"), (7, "Failed")]
    assert end.in_flight() == 0


def test_a_round_trip_shortens_the_soft_deadline_and_a_retransmission_teaches_nothing() -> None:
    pair = Pair()
    pair.ask("ping")
    session = pair.ends[ALICE].sessions[BOB]
    for _ in range(20):
        session.sample(0.1)
    assert 0.1 < session.timeout() < 0.2
    before = session.srtt
    alice = pair.ends[ALICE]
    alice.request(BOB, Kind.PING, {}, "slow", 0.0, WALL)
    at = alice.deadline()
    assert at is not None
    (send, _) = alice.on_time(at)
    pair.carry(ALICE, [send], 9.0)
    assert session.srtt == before


def test_an_answer_that_overtakes_hello_waits_for_it() -> None:
    alice, bob = rpc(), rpc(seed=2)
    hello, ping = alice.request(BOB, Kind.PING, {}, "ping", 0.0, WALL)
    assert isinstance(hello, Send)
    assert isinstance(ping, Send)
    welcome = bob.on_message(hello.data, ALICE, 0.0, WALL)[0]
    assert isinstance(welcome, Send)
    answer = encode_answer(Kind.PING, parse(ping.data).request_id, {})
    assert alice.on_message(answer, BOB, 0.1, WALL) == []
    events = alice.on_message(welcome.data, BOB, 0.2, WALL)
    assert [type(e) for e in events] == [Greeted, Answered]


def test_nobody_else_answers_for_whom_we_asked() -> None:
    pair = Pair()
    pair.ask("ping")
    alice = pair.ends[ALICE]
    (send,) = alice.request(BOB, Kind.PING, {}, "next", 1.0, WALL)
    answer = encode_answer(Kind.PING, parse(send.data).request_id, {})  # type: ignore[union-attr]
    assert alice.on_message(answer, EVE, 1.1, WALL) == []
    assert alice.in_flight() == 1
    assert alice.counters["answer from another HIT"] == 1
    assert [type(o) for o in alice.on_message(answer, BOB, 1.1, WALL)] == [Answered]
    assert alice.on_message(answer, BOB, 1.2, WALL) == []


def test_an_answer_of_another_kind_is_a_failure() -> None:
    pair = Pair()
    pair.ask("ping")
    alice = pair.ends[ALICE]
    (send,) = alice.request(BOB, Kind.GET, {}, "get", 1.0, WALL)
    answer = encode_answer(Kind.PING, parse(send.data).request_id, {})  # type: ignore[union-attr]
    assert alice.on_message(answer, BOB, 1.1, WALL) == [
        Failed("get", BOB, "answer of another kind")
    ]


def test_the_end_of_an_association_fails_all_that_waits_for_it() -> None:
    end = rpc()
    for number in range(3):
        end.request(BOB, Kind.PING, {}, number, 0.0, WALL)
    assert [e.token for e in end.on_down(BOB)] == [0, 1, 2]  # type: ignore[union-attr]
    assert end.in_flight() == 0
    assert end.deadline() is None


def test_pending_requests_are_bounded() -> None:
    end = rpc()
    for number in range(MAX_PENDING_EACH + 5):
        last = end.request(BOB, Kind.PING, {}, number, 0.0, WALL)
    assert last == [Failed(MAX_PENDING_EACH + 4, BOB, "too many pending")]


def test_a_neighbour_has_a_bucket_of_tokens() -> None:
    pair = Pair()
    pair.ask("ping")
    bob, request = pair.ends[BOB], encode_request(Kind.PING, bytes(8), {})
    served = sum(bool(bob.on_message(request, ALICE, 0.0, WALL)) for _ in range(1000))
    assert served <= BURST
    assert bob.on_message(request, ALICE, 1.0, WALL)


def test_a_stranger_that_floods_keeps_no_other_out() -> None:
    here, let_in = rpc(), 0
    flood = encode_request(Kind.PING, bytes(8), {})
    hello = encode_request(Kind.HELLO, bytes(8), {1: 1, 6: b"good"})
    for number in range(5_000):  # 250 a second for 20 seconds
        here.on_message(flood, EVE, number / 250, WALL)
        if number % 50 == 7:  # newcomers all the while
            newcomer = Hit(bytes(BOB)[:14] + number.to_bytes(2, "big"))
            outputs = here.on_message(hello, newcomer, number / 250, WALL)
            let_in += any(isinstance(output, Greeted) for output in outputs)
    assert let_in == 100


def test_credentials_that_expired_admit_no_longer() -> None:
    bob = rpc(expires=int(WALL) + 10)
    hello = {int(Field.VERSION): 1, int(Field.CREDENTIALS): b"good"}
    bob.on_message(encode_request(Kind.HELLO, bytes(8), hello), ALICE, 0.0, WALL)
    request = encode_request(Kind.PING, bytes(8), {})
    assert isinstance(bob.on_message(request, ALICE, 1.0, WALL)[0], Asked)
    (send,) = bob.on_message(request, ALICE, 20.0, WALL + 20)
    assert parse(send.data).fields[Field.CODE] == Code.NOT_GREETED  # type: ignore[union-attr]


def test_another_version_is_refused_with_the_reason() -> None:
    hello = encode_request(Kind.HELLO, bytes(8), {int(Field.VERSION): 2})
    (send,) = rpc().on_message(hello, ALICE, 0.0, WALL)
    assert parse(send.data).fields[Field.CODE] == Code.VERSION  # type: ignore[union-attr]


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(["ask", "time", "down", "lose", "carry"]), st.floats(0.0, 1.0)),
        max_size=30,
    )
)
def test_a_deadline_is_armed_if_and_only_if_something_is_pending(
    steps: list[tuple[str, float]],
) -> None:
    pair = Pair()
    now = 0.0
    alice = pair.ends[ALICE]
    for number, (step, seconds) in enumerate(steps):
        now += seconds
        match step:
            case "ask":
                pair.carry(ALICE, alice.request(BOB, Kind.PING, {}, number, now, WALL), now)
            case "lose":
                alice.request(BOB, Kind.PING, {}, number, now, WALL)
            case "time":
                alice.on_time(now)
            case "down":
                alice.on_down(BOB)
            case _:
                pair.carry(ALICE, alice.on_time(now), now)
        assert (alice.deadline() is not None) == bool(alice.in_flight())
        held = sum(len(session.pending) for session in alice.sessions.values())
        assert held == alice.in_flight()


# --- credentials that the base exchange has shown


class Exchanged(Pair):
    """Both ends show in exchanges; each end knows what is said here, and counts HELLOs."""

    def __init__(
        self, *, alice_knows: bytes | None = b"good", bob_knows: bytes | None = b"good"
    ) -> None:
        super().__init__()
        self.hellos: list[tuple[Hit, dict[int, Any]]] = []
        for hit, seed, knows in ((ALICE, 1, alice_knows), (BOB, 2, bob_knows)):
            self.ends[hit] = rpc(
                seed=seed, shown=lambda hit, knows=knows: knows, shows=lambda hit: True
            )

    def carry(self, source: Hit, outputs: list[Any], now: float = 0.0) -> None:
        for output in outputs:
            if isinstance(output, Send):
                message = parse(output.data)
                if message.kind == Kind.HELLO:
                    self.hellos.append((source, message.fields))
            super().carry(source, [output], now)

    def shown(self) -> list[tuple[Hit, bytes | None]]:
        return [(hit, fields.get(Field.CREDENTIALS)) for hit, fields in self.hellos]


def test_what_the_exchange_has_shown_is_not_shown_again() -> None:
    pair = Exchanged()
    pair.ask("ping")
    (answered,) = pair.outcomes()
    assert isinstance(answered, Answered)
    assert pair.shown() == [(ALICE, None), (BOB, None)]
    for end in pair.ends.values():
        (session,) = end.sessions.values()
        assert session.greeted
        assert session.credentials == b"good"


def test_who_knows_nothing_from_the_exchange_is_shown_it_in_hello() -> None:
    pair = Exchanged(bob_knows=None)
    pair.ask("ping")
    assert isinstance(pair.outcomes()[0], Answered)
    assert pair.shown() == [(ALICE, None), (ALICE, b"good"), (BOB, None)]


def test_who_learnt_nothing_asks_for_it() -> None:
    pair = Exchanged(alice_knows=None)
    pair.ask("ping")
    assert isinstance(pair.outcomes()[0], Answered)
    assert pair.shown() == [(ALICE, None), (BOB, None), (ALICE, None), (BOB, b"good")]
    assert pair.hellos[2][1][Field.FEATURES] == Feature.SPELL_OUT


def test_what_the_exchange_showed_must_admit_too() -> None:
    pair = Exchanged(bob_knows=b"bad")
    pair.ends[ALICE].greeting = Greeting(b"bad", bytes(8))
    pair.ask("ping")
    assert isinstance(pair.outcomes()[0], Failed)
    assert pair.shown() == [(ALICE, None), (ALICE, b"bad")]
    assert pair.ends[BOB].counters["not admitted"] == 2


def test_a_bad_answer_ends_in_a_refusal_and_not_in_a_loop() -> None:
    pair = Exchanged(alice_knows=b"bad")
    pair.ends[BOB].greeting = Greeting(b"bad", bytes(8))
    pair.ask("ping")
    assert isinstance(pair.outcomes()[0], Failed)
    assert len(pair.hellos) == 4
