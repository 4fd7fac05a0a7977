"""Two servers of a kind, near and apart, replaced when they fall silent: the machine by itself."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hipctl import Hit, RegistrationFailure, RegistrationType
from overlay.keeper import (
    PROBE,
    PROVEN,
    SEARCH_MOST,
    TESTS,
    USELESS_RETRY,
    Action,
    Keep,
    Keeper,
    Probe,
    Register,
    Search,
    Try,
    Unregister,
)
from overlay.servers import (
    CONTROL,
    DATA,
    MAX_SERVERS,
    RELAYS,
    RENDEZVOUS,
    RENDEZVOUS_SERVERS,
    Found,
    Wants,
)

BOTH = frozenset((CONTROL, DATA))
RVS = frozenset((RENDEZVOUS,))


def hit(number: int) -> Hit:
    return Hit(b"\x20\x01\x00\x22" + number.to_bytes(12, "big"))


@dataclass
class Relay:
    """A server in the world that the machine lives in."""

    rtt: float
    types: frozenset[RegistrationType] = BOTH
    group: bytes = b""
    up: bool = True
    failure: RegistrationFailure | None = None
    slow: float = 0.0
    deaf: bool = False
    clients: set[RegistrationType] = field(default_factory=set)


class World:
    """Carries out what the keeper wants, and checks what must hold at all times."""

    def __init__(self, relays: dict[int, Relay], *, seed: int = 1) -> None:
        self.relays = {hit(number): relay for number, relay in relays.items()}
        self.numbers = {hit(number): number for number in relays}
        self.keeper = Keeper()
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[], list[Action]]]] = []
        self.log: list[tuple[float, Action]] = []
        self.kept: set[Hit] = set()
        self.hidden: set[Hit] = set()
        self.random = random.Random(seed)
        self.count = 0

    def do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            self.log.append((self.now, action))
            self._do(action)
        self.check()

    def later(self, seconds: float, step: Callable[[], list[Action]]) -> None:
        self.count += 1
        self.events.append((self.now + seconds, self.count, step))

    def _do(self, action: Action) -> None:
        keeper = self.keeper
        match action:
            case Search():
                found = [
                    Found(h, r.types, frozenset((r.group,)) if r.group else frozenset())
                    for h, r in self.relays.items()
                    if h not in self.hidden
                ]
                self.random.shuffle(found)
                self.later(0.2, lambda: keeper.on_found(found, self.now, searched=True))
            case Try(who):
                relay = self.relays[who]
                if relay.up:
                    rtt, types = relay.rtt, relay.types
                    self.later(3 * rtt, lambda: keeper.on_tested(who, rtt, types, self.now))
                else:
                    self.later(3.0, lambda: keeper.on_tested(who, None, (), self.now))
            case Register(who, types):
                assert not {RENDEZVOUS, CONTROL} <= types | self.relays[who].clients
                self.later(
                    self.relays[who].rtt + self.relays[who].slow,
                    lambda: self._registered(who, types),
                )
            case Unregister(who, types):
                self.relays[who].clients -= types
                seconds = self.relays[who].rtt if self.relays[who].up else 3.0
                self.later(seconds, lambda: keeper.on_unregistered(who, self.now))
            case Probe(who):
                up = self.relays[who].up and bool(self.relays[who].clients)
                seconds = self.relays[who].rtt if up else 0.7
                rtt_ = self.relays[who].rtt if up else None
                if up and self.relays[who].deaf:
                    self.later(seconds, lambda: keeper.on_useless(who, "deaf", self.now))
                    return
                self.later(seconds, lambda: keeper.on_probed(who, rtt_, self.now))
            case Keep(who):
                self.kept.add(who)

    def _registered(self, who: Hit, types: frozenset[RegistrationType]) -> list[Action]:
        relay, keeper = self.relays[who], self.keeper
        if not relay.up:
            return keeper.on_refused(who, None, "no answer", self.now)
        granted = types & relay.types
        if relay.failure is not None or not granted:
            failure = relay.failure or RegistrationFailure.TYPE_UNAVAILABLE
            return keeper.on_refused(who, failure, failure.name, self.now)
        relay.clients |= granted
        return keeper.on_registered(who, granted, self.now)

    def check(self) -> None:
        servers = self.keeper.servers
        assert servers.doing("test") <= TESTS + 12
        assert len(servers) <= MAX_SERVERS
        for type_, count in self.keeper.wants.items():
            assert len(servers.holders(type_)) <= count + 1, type_.name
        for server in servers:
            assert not {RENDEZVOUS, CONTROL} <= server.held | server.pending
            assert bool(server.pending) == (server.task == "register")
        # it waits for something: a result that is on its way, or a timer; or it is content
        waits = self.events or self.keeper.deadline() is not None
        assert waits or not self.keeper.wants

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            due = [at for at, _, _ in self.events]
            deadline = self.keeper.deadline()
            at = min([*due, *([deadline] if deadline is not None else [])], default=end + 1)
            if at > end:
                break
            self.now = max(at, self.now)
            if deadline is not None and deadline <= self.now:
                self.do(self.keeper.on_time(self.now))
            else:
                entry = min(self.events, key=lambda event: event[:2])
                self.events.remove(entry)
                self.do(entry[2]())
        self.now = end

    def disturb(self, what: str, number: int) -> None:
        who = hit(number % len(self.relays))
        relay = self.relays[who]
        match what:
            case "toggle":
                relay.up = not relay.up
                if not relay.up:
                    relay.clients.clear()
            case "refuse":
                full = RegistrationFailure.INSUFFICIENT_RESOURCES
                relay.failure = None if relay.failure else full
            case "end":
                for type_ in tuple(relay.clients):
                    relay.clients.discard(type_)
                    self.do(self.keeper.on_ended(who, type_, self.now))
            case "network":
                self.do(self.keeper.on_network(self.now))
            case "want":
                self.want(*((RELAYS,), (), (RELAYS, RENDEZVOUS_SERVERS))[number % 3])
            case "slow":
                relay.slow = 2.5 if not relay.slow else 0.0

    def want(self, *ways: Wants) -> None:
        self.do(self.keeper.want(ways, self.now))

    def serving(self, type_: RegistrationType = CONTROL) -> list[int]:
        return sorted(self.numbers[s.hit] for s in self.keeper.serving(type_))

    def count_of(self, kind: type, since: float = 0.0) -> int:
        return sum(isinstance(action, kind) for at, action in self.log if at >= since)


def relays(*rtts: float, types: frozenset[RegistrationType] = BOTH) -> dict[int, Relay]:
    return {number: Relay(rtt, types) for number, rtt in enumerate(rtts)}


def test_why_a_server_was_of_no_use_is_remembered_until_a_probe_shows_otherwise() -> None:
    world = World(relays(0.01))
    world.want(RELAYS)
    world.run(5)
    relay, keeper = world.relays[hit(0)], world.keeper
    relay.deaf = True
    world.run(PROBE)
    assert world.serving() == []
    for _ in range(3 * int(USELESS_RETRY)):
        world.run(1)
        assert keeper.refusals == {hit(0): "deaf"}
    assert world.count_of(Register) > 1
    relay.deaf = False
    world.run(8 * USELESS_RETRY)
    assert world.serving() == [0]
    assert keeper.refusals == {}


def test_without_a_need_nothing_happens() -> None:
    world = World(relays(0.01, 0.02))
    world.want()
    world.run(3600)
    assert world.log == []


def test_the_two_nearest_are_taken_within_a_second() -> None:
    world = World(relays(0.09, 0.02, 0.05, 0.03, 0.08))
    world.want(RELAYS)
    world.run(1.0)
    assert world.serving(CONTROL) == world.serving(DATA) == [1, 3]
    assert world.count_of(Register) == 2  # both types in one go
    world.run(3600)
    assert world.serving() == [1, 3]
    assert world.count_of(Register) == 2
    assert world.kept == {hit(1), hit(3)}


def test_the_second_stands_elsewhere_though_it_is_farther() -> None:
    world = World(
        {
            1: Relay(0.02, group=b"a"),
            2: Relay(0.021, group=b"a"),
            3: Relay(0.2, group=b"b"),
        }
    )
    world.want(RELAYS)
    world.run(5)
    assert world.serving() == [1, 3]


def test_two_in_one_place_are_better_than_one() -> None:
    world = World({1: Relay(0.02, group=b"a"), 2: Relay(0.021, group=b"a")})
    world.want(RELAYS)
    world.run(5)
    assert world.serving() == [1, 2]


def test_one_that_falls_silent_is_replaced_within_seconds() -> None:
    world = World(relays(0.02, 0.03, 0.04, 0.05))
    world.want(RELAYS)
    world.run(100)
    assert world.serving() == [0, 1]
    world.relays[hit(0)].up = False
    world.run(PROBE + 3)
    assert world.serving() == [1, 2]
    assert world.serving(DATA) == [1, 2]


def test_one_whose_registration_ends_is_replaced_at_once() -> None:
    world = World(relays(0.02, 0.03, 0.04))
    world.want(RELAYS)
    world.run(100)
    world.relays[hit(0)].up = False
    for type_ in BOTH:
        world.do(world.keeper.on_ended(hit(0), type_, world.now))
    world.run(3.5)
    assert world.serving() == [1, 2]


def test_one_lost_probe_replaces_nobody() -> None:
    world = World(relays(0.02, 0.03, 0.04))
    world.want(RELAYS)
    world.run(95)
    world.relays[hit(0)].up = False
    while not any(isinstance(a, Probe) and at > 95 for at, a in world.log):
        world.run(0.1)
    world.relays[hit(0)].up = True
    world.run(60)
    assert world.serving() == [0, 1]
    assert world.count_of(Unregister) == 0


def test_who_comes_back_is_taken_again_where_it_is_much_nearer() -> None:
    world = World(relays(0.01, 0.03, 0.2))
    world.want(RELAYS)
    world.run(100)
    world.relays[hit(0)].up = False
    world.run(30)
    assert world.serving() == [1, 2]
    world.relays[hit(0)].up = True
    world.run(2000)
    assert world.serving() == [0, 1]


def test_a_slightly_nearer_one_changes_nothing() -> None:
    world = World(relays(0.03, 0.04))
    world.want(RELAYS)
    world.run(10)
    world.relays[hit(7)] = Relay(0.025)
    world.numbers[hit(7)] = 7
    world.run(4000)
    assert world.serving() == [0, 1]
    assert world.count_of(Unregister) == 0


def test_a_nearer_one_takes_the_place_of_the_worst_without_a_gap() -> None:
    world = World(relays(0.03, 0.4))
    world.want(RELAYS)
    world.run(10)
    world.relays[hit(7)] = Relay(0.02)
    world.numbers[hit(7)] = 7
    least = 2
    for _ in range(4000):
        world.run(0.5)
        least = min(least, len(world.serving()))
    assert world.serving() == [0, 7]
    assert least == 2


def test_who_is_full_or_refuses_is_left_alone_for_a_while() -> None:
    world = World(relays(0.01, 0.02, 0.03))
    world.relays[hit(0)].failure = RegistrationFailure.INSUFFICIENT_RESOURCES
    world.want(RELAYS)
    world.run(3)
    assert world.serving() == [1, 2]
    assert world.keeper.refusals == {hit(0): "INSUFFICIENT_RESOURCES"}
    world.run(55)
    asked = [a for _, a in world.log if isinstance(a, Register) and a.hit == hit(0)]
    assert len(asked) == 1


def test_who_refuses_all_is_asked_ever_more_rarely() -> None:
    world = World(relays(0.01))
    world.relays[hit(0)].failure = RegistrationFailure.CREDENTIALS_REQUIRED
    world.want(RELAYS)
    world.run(24 * 3600)
    assert world.count_of(Register) < 24 * 6 + 10
    assert world.count_of(Search) < 24 * 3600 / SEARCH_MOST + 10


def test_an_overlay_without_servers_is_searched_ever_more_rarely() -> None:
    world = World({})
    world.want(RELAYS)
    world.run(10)
    assert 3 <= world.count_of(Search) <= 5
    world.run(3600)
    assert world.count_of(Search) < 3600 / SEARCH_MOST + 10
    assert world.keeper.searched


def test_who_is_dead_holds_up_nobody() -> None:
    world = World({n: Relay(0.01, up=n >= 8) for n in range(10)})
    world.want(RELAYS)
    world.run(8)
    assert world.serving() == [8, 9]


def test_one_that_hangs_gets_a_companion_and_never_more() -> None:
    world = World(relays(0.01, 0.02, 0.03, 0.04))
    world.relays[hit(0)].slow = 2.9
    world.want(RELAYS)
    world.run(2.2)
    assert world.serving() == [1, 2]
    world.run(2)
    assert world.serving() == [0, 1]  # the nearest, after all
    assert world.relays[hit(2)].clients == set()


def test_good_ones_of_before_are_asked_first() -> None:
    world = World({n: Relay(0.01) for n in range(30)})
    found = [Found(hit(n), BOTH, good=True) for n in (20, 21)]
    world.do(world.keeper.on_found(found, 0.0, searched=False))
    world.want(RELAYS)
    world.run(0.4)
    assert world.serving() == [20, 21]
    assert world.count_of(Search) <= 1


def test_types_that_different_servers_offer_are_found_apart() -> None:
    world = World(
        {
            1: Relay(0.01, frozenset((CONTROL,))),
            2: Relay(0.02, frozenset((CONTROL,))),
            3: Relay(0.03, frozenset((DATA,))),
        }
    )
    world.want(RELAYS)
    world.run(60)
    assert world.serving(CONTROL) == [1, 2]
    assert world.serving(DATA) == [3]
    world.run(3600)
    assert world.count_of(Search) < 20  # calm, for only a data relay lacks


def test_who_claims_what_it_does_not_offer_is_not_asked_twice() -> None:
    world = World({1: Relay(0.01), 2: Relay(0.02), 3: Relay(0.03)})
    claims = [Found(hit(n), BOTH | {RENDEZVOUS}) for n in (1, 2, 3)]
    world.relays[hit(1)].types = frozenset()
    world.do(world.keeper.on_found(claims, 0.0, searched=False))
    world.want(RELAYS)
    world.run(300)
    assert world.serving() == [2, 3]
    assert world.relays[hit(1)].clients == set()


def test_the_first_way_that_somebody_offers_is_taken() -> None:
    servers = {1: Relay(0.01, RVS), 2: Relay(0.02), 3: Relay(0.03)}
    world = World(dict(servers))
    world.want(RELAYS, RENDEZVOUS_SERVERS)
    world.run(5)
    assert world.serving(RENDEZVOUS) == []
    assert world.serving(CONTROL) == [2, 3]
    world = World({1: servers[1]})
    world.want(RELAYS, RENDEZVOUS_SERVERS)
    world.run(5)
    assert world.serving(RENDEZVOUS) == [1]


def test_a_better_way_is_taken_when_somebody_new_offers_it_who_has_not_refused() -> None:
    def found_later(new: dict[int, Relay]) -> World:
        world = World({0: Relay(0.01, RVS), 1: Relay(0.02, RVS), **new})
        world.hidden = {hit(2), hit(3)}
        world.want(RELAYS, RENDEZVOUS_SERVERS)
        world.run(30)
        assert world.serving(RENDEZVOUS) == [0, 1]
        world.hidden.clear()
        world.run(3_600)
        return world

    world = found_later({2: Relay(0.03), 3: Relay(0.03)})
    assert world.serving(CONTROL) == [2, 3]
    assert world.serving(RENDEZVOUS) == []
    world = found_later({n: Relay(0.03, up=False) for n in (2, 3)})
    assert world.serving(RENDEZVOUS) == [0, 1]
    assert world.count_of(Unregister) == 0
    full = RegistrationFailure.INSUFFICIENT_RESOURCES
    world = found_later({n: Relay(0.03, failure=full) for n in (2, 3)})
    assert world.serving(RENDEZVOUS) == [0, 1]
    assert world.count_of(Unregister) <= 2  # once, for both have refused us then


def test_who_changes_ways_is_served_all_the_time_though_the_near_server_does_both() -> None:
    for slow, full in ((0.0, False), (4.0, False), (0.0, True)):
        failure = RegistrationFailure.INSUFFICIENT_RESOURCES if full else None
        world = World({0: Relay(0.01, RVS), 1: Relay(0.02, RVS), 2: Relay(0.05, slow=slow)})
        world.relays[hit(2)].failure = failure
        world.hidden = {hit(2)}
        world.want(RELAYS, RENDEZVOUS_SERVERS)
        world.run(30)
        for known in (world.relays[hit(0)], world.keeper.servers.get(hit(0))):
            assert known is not None
            known.types = BOTH | RVS
        world.hidden.clear()
        for _ in range(2_000):
            world.run(0.5)
            assert world.serving(CONTROL) or world.serving(RENDEZVOUS)
        assert world.serving(CONTROL) == ([] if full else [0, 2])
        assert world.serving(RENDEZVOUS) == ([0, 1] if full else [])


def test_a_relay_that_falls_silent_again_and_again_is_no_better_way() -> None:
    world = World({0: Relay(0.01, RVS), 1: Relay(0.02, RVS), 2: Relay(0.05)})
    world.want(RELAYS, RENDEZVOUS_SERVERS)
    relay = world.relays[hit(2)]
    for _ in range(20):
        world.run(120)
        relay.up = not relay.up
        relay.clients.clear()
    assert world.count_of(Unregister) <= 2
    assert world.serving(RENDEZVOUS) == [0, 1]


def test_a_data_relay_by_itself_keeps_nobody_from_another_way() -> None:
    data = Relay(0.03, frozenset((DATA,)))
    world = World({0: Relay(0.02), 1: data, 2: Relay(0.05, RVS)})
    world.want(RELAYS, RENDEZVOUS_SERVERS)
    world.run(5)
    assert world.serving(CONTROL) == [0]
    world.relays[hit(0)].up = False
    world.run(60)
    assert world.serving(RENDEZVOUS) == [2]


def test_a_relay_that_was_full_once_is_a_better_way_when_it_has_room_again() -> None:
    full = RegistrationFailure.INSUFFICIENT_RESOURCES
    world = World({0: Relay(0.02, failure=full), 1: Relay(0.05, RVS)})
    world.want(RELAYS, RENDEZVOUS_SERVERS)
    world.run(30)
    assert world.serving(RENDEZVOUS) == [1]
    world.relays[hit(0)].failure = None
    world.run(7_200)
    assert world.serving(CONTROL) == [0]


def test_a_change_of_ways_never_holds_both_at_one_server() -> None:
    every = frozenset((RENDEZVOUS, CONTROL, DATA))
    world = World(relays(0.01, 0.02, types=every))
    for _ in range(5):
        world.want(RELAYS)
        world.run(3)
        assert world.serving(CONTROL) == [0, 1]
        world.want(RENDEZVOUS_SERVERS)
        world.run(3)
        assert world.serving(RENDEZVOUS) == [0, 1]
        assert world.serving(CONTROL) == []


def test_what_is_needed_no_more_is_given_back() -> None:
    world = World(relays(0.01, 0.02))
    world.want(RELAYS)
    world.run(10)
    world.want()
    world.run(5)
    assert all(not relay.clients for relay in world.relays.values())
    before = len(world.log)
    world.run(3600)
    assert len(world.log) == before


def test_another_network_makes_servers_prove_themselves_and_forgives_failures() -> None:
    world = World(relays(0.01, 0.02, 0.03, 0.04))
    for n in (0, 1):
        world.relays[hit(n)].up = False
    world.want(RELAYS)
    world.run(300)
    assert world.serving() == [2, 3]
    for n, relay in enumerate(world.relays.values()):
        relay.up = n < 2
    world.do(world.keeper.on_network(world.now))
    world.run(3)
    assert world.serving() == [0, 1]


def test_one_that_is_heard_again_is_tried_at_once() -> None:
    world = World(relays(0.01))
    world.want(RELAYS)
    world.run(20)
    world.relays[hit(0)].up = False
    world.relays[hit(0)].clients.clear()
    world.run(300)
    assert world.serving() == []
    world.relays[hit(0)].up = True
    server = world.keeper.servers.get(hit(0))
    assert server is not None
    assert server.retry > world.now
    world.do(world.keeper.on_seen(hit(0), world.now))
    world.run(1)
    assert world.serving() == [0]
    assert world.keeper.on_seen(hit(0), world.now) == []
    assert world.keeper.on_seen(hit(9), world.now) == []


def test_idle_costs_one_probe_a_server_every_ten_seconds() -> None:
    world = World(relays(0.01, 0.02, 0.03))
    world.want(RELAYS)
    world.run(1000)
    since = world.now
    world.run(600)
    assert world.count_of(Probe, since) <= 2 * 600 / PROBE + 2
    assert world.count_of(Register, since) == 0
    assert world.count_of(Try, since) <= 2


def test_results_that_nobody_waits_for_change_nothing() -> None:
    world = World(relays(0.01, 0.02))
    world.want(RELAYS)
    world.run(PROVEN)
    keeper = world.keeper
    for actions in (
        keeper.on_tested(hit(0), 0.001, BOTH, world.now),
        keeper.on_registered(hit(5), BOTH, world.now),
        keeper.on_refused(hit(0), None, "x", world.now),
        keeper.on_unregistered(hit(0), world.now),
        keeper.on_probed(hit(0), None, world.now),
        keeper.on_useless(hit(0), "x", world.now),
        keeper.on_ended(hit(9), CONTROL, world.now),
    ):
        assert actions == []
    assert world.serving() == [0, 1]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0.005, 0.4),
            st.sampled_from([BOTH, frozenset((CONTROL,)), frozenset((DATA, RENDEZVOUS)), BOTH]),
            st.sampled_from([b"", b"a", b"b", b"c"]),
        ),
        min_size=1,
        max_size=12,
    ),
    st.lists(
        st.tuples(
            st.sampled_from(["toggle", "refuse", "end", "network", "want", "slow", "wait"]),
            st.integers(0, 11),
            st.floats(0.0, 40.0),
        ),
        max_size=25,
    ),
    st.integers(0, 99),
)
def test_whatever_happens_it_ends_with_as_many_servers_as_there_are(
    given_: list[tuple[float, frozenset[RegistrationType], bytes]],
    steps: list[tuple[str, int, float]],
    seed: int,
) -> None:
    world = World(
        {n: Relay(rtt, types, group) for n, (rtt, types, group) in enumerate(given_)}, seed=seed
    )
    world.want(RELAYS)
    for what, number, seconds in steps:
        world.disturb(what, number)
        world.run(seconds)
    for relay in world.relays.values():
        relay.up, relay.failure, relay.slow = True, None, 0.0
    world.want(RELAYS)
    world.run(1500)
    for type_ in BOTH:
        there = sum(type_ in relay.types for relay in world.relays.values())
        assert len(world.serving(type_)) == min(2, there), type_.name
    for who, relay in world.relays.items():
        server = world.keeper.servers.get(who)
        assert server is None or server.held == relay.clients


def test_the_world_checks_what_it_should() -> None:
    world = World(relays(0.01, 0.02))
    world.want(RELAYS)
    world.run(5)
    for server in world.keeper.servers:
        server.held.add(RENDEZVOUS)
    with pytest.raises(AssertionError):
        world.check()
