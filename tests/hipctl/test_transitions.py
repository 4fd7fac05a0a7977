"""The table of states, walked cell by cell with the packets and calls that a good peer makes."""

import itertools
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from draw_states import PAGE, page

from hipctl import params
from hipctl.actions import Action, SolvePuzzle, Transmit
from hipctl.association import ON_PACKET, ON_REST, Association
from hipctl.constants import NotifyType, PacketType
from hipctl.engine import Engine
from hipctl.errors import Rejected
from hipctl.identity import HostIdentity
from hipctl.packet import Packet, build
from hipctl.signed import make_notify
from hipctl.state import State, Timer
from hipctl.transitions import TABLE, Ask, Drop, Input, Rule
from sim.engines import FAST

CONFIG = replace(FAST, k=0)  # any #J is a solution
LATER = 3.0
KEYS = [HostIdentity.from_secret(n) for n in (1, 2)]
LESSER, GREATER = sorted(KEYS, key=lambda identity: identity.hit)
HERE, THERE = ("192.0.2.1", 10500), ("192.0.2.2", 10500)


def engine(identity: HostIdentity, seed: int) -> Engine:
    return Engine([identity], CONFIG, random.Random(seed).randbytes)


def sent(actions: Sequence[Action]) -> bytes:
    return next(action.data for action in actions if isinstance(action, Transmit))


@dataclass
class Scene:
    """Our engine in any state, and a peer that knows what belongs there."""

    ours: HostIdentity
    theirs: HostIdentity

    def __post_init__(self) -> None:
        self.a, self.b = engine(self.ours, 1), engine(self.theirs, 2)
        self.a.learn(self.theirs.hit, [THERE])
        self.b.learn(self.ours.hit, [HERE])
        self.pair = (self.ours.hit, self.theirs.hit)
        self.back = (self.theirs.hit, self.ours.hit)
        self.r1 = self.i2 = self.r2 = self.closed = b""
        self.subject = Association(
            *self.a._identities[self.ours.hit], self.theirs.hit, self.a._shared
        )
        self.a._associations[self.pair] = self.subject

    def to(self, state: State) -> "Scene":
        """Go there as associations do."""
        match state:
            case State.UNASSOCIATED:
                pass
            case State.E_FAILED:
                self.a.learn(self.theirs.hit, [])
                self.subject.connect(0.0)
                self.a.learn(self.theirs.hit, [THERE])
            case State.I1_SENT:
                i1 = sent(self.subject.connect(0.0))
                self.r1 = sent(self.b.on_control(i1, HERE, 0.0))
            case State.I2_SENT:
                self.to(State.I1_SENT)
                self.solve()
            case State.ESTABLISHED:
                self.to(State.I2_SENT)
                self.subject.on_packet(Packet(self.r2), THERE, 0.0)
            case State.R2_SENT:
                r2 = sent(self.subject.on_packet(Packet(self.fresh_i2(0.0)), THERE, 0.0))
                self.b.on_control(r2, HERE, 0.0)
            case State.CLOSING:
                self.to(State.ESTABLISHED)
                self.closed = sent(self.subject.close(0.0))
            case State.CLOSED:
                self.to(State.ESTABLISHED)
                self.closed = self.close()
                self.subject.on_packet(Packet(self.closed), THERE, 0.0)
        assert self.subject.state is state
        return self

    def solve(self) -> None:
        (ask,) = self.subject.on_packet(Packet(self.r1), THERE, 0.0)
        assert isinstance(ask, SolvePuzzle)
        self.i2 = sent(self.subject.on_puzzle_solved(ask.key[2], bytes(48), 0.0))
        self.r2 = sent(self.b.on_control(self.i2, HERE, 0.0))

    def fresh_i2(self, now: float) -> bytes:
        """What the peer would send had it begun ``now`` (and restarted)."""
        b = engine(self.theirs, 3)
        b.learn(self.ours.hit, [HERE])
        i1 = sent(b.connect(*self.back, now))
        r1 = self.subject._responder.answer(Packet(i1), THERE, now)
        (ask,) = b.on_control(r1, HERE, now)
        assert isinstance(ask, SolvePuzzle)
        i2 = sent(b.on_puzzle_solved(ask.key, now.hex().encode().ljust(48), now))
        self.b = b
        return i2

    def close(self) -> bytes:
        """The CLOSE of the association that the peer has, or of none that we know."""
        if self.b.state(*self.back) is State.CLOSING:
            return self.closed
        if self.b.state(*self.back) is not State.ESTABLISHED:
            other = Scene(self.ours, self.theirs).to(State.ESTABLISHED)
            return sent(other.b.close(*self.back, 0.0))
        return sent(self.b.close(*self.back, 0.0))

    def close_ack(self) -> bytes:
        if self.subject.state is State.CLOSING:
            return sent(self.b.on_control(self.closed, HERE, 0.0))
        return build(PacketType.CLOSE_ACK, *self.back, [params.EchoResponseSigned(b"x")])

    def packet(self, kind: PacketType) -> bytes:  # noqa: PLR0911  one a type
        """A good packet of that type, as far as one can exist."""
        match kind:
            case PacketType.I1:
                return build(kind, *self.back, [params.DhGroupList((7,))])
            case PacketType.R1:
                i1 = build(PacketType.I1, *self.pair, [params.DhGroupList((7,))])
                b = Engine([self.theirs], replace(CONFIG, first_generation=9), bytes)
                return sent(b.on_control(i1, HERE, 0.0))
            case PacketType.I2:
                return self.fresh_i2(LATER)
            case PacketType.R2:
                return self.r2 or Scene(self.ours, self.theirs).to(State.I2_SENT).r2
            case PacketType.NOTIFY:
                return make_notify(self.theirs, self.ours.hit, NotifyType.INVALID_HIT)
            case PacketType.CLOSE:
                return self.close()
            case PacketType.CLOSE_ACK:
                return self.close_ack()
            case PacketType.UPDATE:
                return self.update()
            case _:
                return build(kind, *self.back, [])

    def update(self) -> bytes:
        """That of a peer which has moved, or one that nobody can check."""
        other = ("192.0.2.9", 10500)
        actions = self.b.set_locators([other], LATER)
        found = [action.data for action in actions if isinstance(action, Transmit)]
        return found[0] if found else build(PacketType.UPDATE, *self.back, [params.Seq(0)])

    def feed(self, asked: Input) -> list[Action]:  # noqa: PLR0911  one an input
        """One input; what our shell has to do then."""
        subject = self.subject
        if isinstance(asked, PacketType):
            return subject.on_packet(Packet(self.packet(asked)), THERE, LATER)
        if isinstance(asked, Timer):
            return subject._do(asked, LATER)
        match asked:
            case Ask.CONNECT:
                return subject.connect(LATER)
            case Ask.DATAGRAM:
                return subject.send(17, b"datagram", LATER)
            case Ask.CLOSE:
                return subject.close(LATER)
            case Ask.FIRST_DATA:
                return subject.on_first_data(LATER)
            case Ask.SOLVED:
                serial = 0
                if subject.state is State.I1_SENT:
                    (ask,) = subject.on_packet(Packet(self.r1), THERE, 0.0)
                    assert isinstance(ask, SolvePuzzle)
                    serial = ask.key[2]
                j = bytes(48) if subject._attempt.count < 99 else None
                return subject.on_puzzle_solved(serial, j, LATER)


PAIRS = [(LESSER, GREATER), (GREATER, LESSER)]


# What else decides where a rule leads.


def ordinary(scene: Scene) -> None:
    pass


def exhausted(scene: Scene) -> None:
    scene.subject._attempt.count = 99


def nobody_home(scene: Scene) -> None:
    scene.a.learn(scene.theirs.hit, [])
    scene.a._shared.recent.clear()
    scene.subject._attempt.count = 99


def unused(scene: Scene) -> None:
    scene.subject._shared.config = replace(CONFIG, unused_lifetime=1.0)


def doubted(scene: Scene) -> None:
    scene.subject._shared.config = replace(CONFIG, unanswered_lifetime=1.0)
    installed = scene.subject.standing.installed
    if installed is not None:
        installed.sas.patience = 1.0
        installed.sas.outbound.sa.seal(17, b"x")


def in_doubt_already(scene: Scene) -> None:
    if scene.subject.state is State.I1_SENT:
        scene.solve()
        scene.subject.on_packet(Packet(scene.r2), THERE, 0.0)
        scene.subject._send_first_i1(0.0)
        scene.b.heard(next(iter(scene.b.inbound)), HERE, 0.0)


def doubted_and_lost(scene: Scene) -> None:
    doubted(scene)
    nobody_home(scene)


SETTINGS = [ordinary, exhausted, nobody_home, unused, doubted, doubted_and_lost, in_doubt_already]
CELLS = [(state, asked) for state in State for asked in (*PacketType, *Ask, *Timer)]


def ident(value: object) -> str:
    return getattr(value, "name", str(value))


def test_every_cell_stands() -> None:
    assert set(TABLE) == set(CELLS)


def test_every_rule_and_every_drop_is_used_and_carried_out() -> None:
    used = set(TABLE.values())
    assert used == set(Rule) | set(Drop)
    by_packet = {cell for (_, asked), cell in TABLE.items() if isinstance(asked, PacketType)}
    assert ON_PACKET.keys() == by_packet - set(Drop)
    assert ON_REST.keys() | {Rule.SEND_I2} == used - by_packet - set(Drop)


@pytest.mark.parametrize(
    ("state", "asked"), [c for c in CELLS if isinstance(TABLE[c], Drop)], ids=ident
)
def test_a_dropped_input_changes_nothing(state: State, asked: Input) -> None:
    for pair in PAIRS:
        scene = Scene(*pair).to(state)
        before = scene.subject.deadline(), dict(scene.a.inbound), dict(scene.a.outbound)
        if isinstance(asked, PacketType):
            with pytest.raises(Rejected, match=f"{asked.name} in {state.value}"):
                scene.feed(asked)
        else:
            assert scene.feed(asked) == []
        assert scene.subject.state is state
        assert (scene.subject.deadline(), scene.a.inbound, scene.a.outbound) == before


@pytest.mark.parametrize(
    ("state", "asked"), [c for c in CELLS if isinstance(TABLE[c], Rule)], ids=ident
)
def test_a_rule_leads_where_the_table_says_and_nowhere_else(state: State, asked: Input) -> None:
    cell = TABLE[state, asked]
    assert isinstance(cell, Rule)
    reached = set()
    for pair, setting in itertools.product(PAIRS, SETTINGS):
        scene = Scene(*pair).to(state)
        setting(scene)
        try:
            scene.feed(asked)
        except Rejected:
            assert scene.subject.state is state
        reached.add(scene.subject.state)
    assert reached - {state} == cell.to - {state}


def test_the_page_shows_the_table_as_it_is() -> None:
    assert PAGE.read_text() == page(), "stale: run python tests/draw_states.py"


def test_no_state_is_a_dead_end() -> None:
    ways: defaultdict[State, set[State]] = defaultdict(set)
    for (state, _), cell in TABLE.items():
        if isinstance(cell, Rule):
            ways[state] |= cell.to
    for state in State:
        found, old = {state}, set[State]()
        while found != old:
            old, found = found, found.union(*(ways[s] for s in found))
        assert State.ESTABLISHED in found
        assert State.UNASSOCIATED in found or state is State.E_FAILED
