"""Two engines that exchange, rekey, move, register and close, and a stranger who changes it all.

The input is a program of one-byte steps with their arguments. Nothing raises; no packet that
nobody has sent, whatever its source, changes an association; nothing grows; and left alone,
both engines come to rest.

python tests/fuzz/fuzz_engine.py -max_total_time=60
"""

import random
from collections import deque
from collections.abc import Sequence

from hipctl import params
from hipctl.actions import Action, Address, Flush, Path, SolvePuzzle, Transmit
from hipctl.constants import HEADER_LENGTH, PACKET_MAX, PacketType, RegistrationType
from hipctl.engine import Engine, EngineConfig
from hipctl.errors import MalformedPacket, Rejected
from hipctl.esp import CreditExhausted
from hipctl.identity import Hit, HostIdentity
from hipctl.interface import Admission, Offer, Shown
from hipctl.packet import Packet

CONFIG = EngineConfig(
    k=0,  # any J is a solution
    rekey_packets=6,
    rekey_lifetime=600.0,
    bad_i2_burst=1_000,
    opportunistic_initiator=True,
    opportunistic_responder=True,
)
KEYS = [HostIdentity.from_secret(n) for n in (1, 2)]
HOMES: list[list[Address]] = [
    [(ip.format(side), 10500) for ip in ("192.0.2.{}", "198.51.100.{}", "2001:db8::{}")]
    for side in (1, 2)
]
GROUP = ("239.255.104.112", 10502)
STRANGER = ("203.0.113.66", 10500)
SOURCES = [*HOMES[0], *HOMES[1], STRANGER]
UDP = 17
OTHERS = HostIdentity.from_secret(3).hit
PORTS = [[(home[0][0], 50_000 + n) for n in range(2)] for home in HOMES]
OFFERS = [
    {},
    {RegistrationType.RENDEZVOUS: Offer(lifetime=60.0)},
    {RegistrationType.RELAY_UDP_HIP: Offer(), RegistrationType.RELAY_UDP_ESP: Offer()},
    {kind: Offer(clients=1, packets=5.0) for kind in list(RegistrationType)[:3]},
]
HOP_MAX = 24 + 24 + 56  # bytes of FROM, RELAY_FROM and a MAC
STEPS_MAX = 120
WAITS = (0.001, 0.1, 1.1, 3.0, 12.0, 130.0, 1000.0)
REASONS_MAX = 120  # that all counters together may ever name
REST_MAX = 400  # timers that fire before both are at rest

_KINDS = list(PacketType)
_reasons: set[str] = set()


class Policy:
    """Shows what it is given, and lets in who shows something good."""

    def __init__(self, shown: bytes) -> None:
        self._shown = Shown((shown,))

    def shown(
        self, local: Hit, peer: Hit | None, wall: float, theirs: Shown | None = None
    ) -> Shown:
        return self._shown

    def admit(self, local: Hit, peer: Hit, shown: Shown, wall: float) -> Admission:
        if not shown:
            return Admission.CREDENTIALS_REQUIRED
        good = all(der[:4] == b"good" for der in shown.certificates)
        return Admission.ACCEPTED if good else Admission.INVALID_CERTIFICATE


class Tape:
    """The input, byte by byte; zeros after its end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def some(self, length: int) -> bytes:
        self._at += length
        return self._data[self._at - length : self._at]


class World:
    """Both engines, what is on its way between them, and what has been."""

    def __init__(self) -> None:
        self.now = 1.0
        self.starts = 0
        self.engines = [self._engine(0), self._engine(1)]
        self.asks: list[deque[SolvePuzzle]] = [deque(), deque()]
        self.way: deque[tuple[int, bytes, Address]] = deque()
        self.past: deque[bytes] = deque([b"\0" * HEADER_LENGTH], 64)
        self.said: set[bytes] = set()

    def _engine(self, side: int) -> Engine:
        self.starts += 1
        randbytes = random.Random(self.starts).randbytes
        engine = Engine([KEYS[side]], CONFIG, randbytes)
        engine.use(Policy(b"good"), lambda: 0.0)
        engine.learn(KEYS[1 - side].hit, HOMES[1 - side][:2])
        engine.welcome([b"certificate"], b"mark")
        return engine

    def perform(self, side: int, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Transmit(data, to, source):
                    Packet(data).parameters()
                    self.past.append(data)
                    self.said.add(essence(data) or data)
                    if to == GROUP:
                        self.ask_around(1 - side, data, source or HOMES[side][0])
                    where = next((n for n in (0, 1) if to in HOMES[n]), None)
                    if where is not None and len(self.way) < 64:
                        self.way.append((where, data, source or HOMES[side][0]))
                case SolvePuzzle():
                    self.asks[side].append(action)
                case Flush(datagrams=datagrams):
                    for _, payload in datagrams:
                        self.data(side, payload)

    def ask_around(self, side: int, data: bytes, source: Address) -> None:
        """A packet that comes to a group: it is answered to where it came from, or not at all."""
        engine = self.engines[side]
        before = snapshot(engine)
        actions = engine.on_lan(data, source, self.now)
        assert snapshot(engine) == before
        assert len(actions) <= 1
        for action in actions:
            assert isinstance(action, Transmit)
            assert action.to == source
            assert Packet(action.data).type is PacketType.R1
        self.perform(side, actions)

    def pass_on(self, side: int, data: bytes, source: Address, relayed: Address | None) -> None:
        """A packet that isn't for the engine it comes to."""
        engine = self.engines[side]
        before = snapshot(engine)
        if relayed is None:
            actions = engine.on_control(data, source, self.now)
        else:
            actions = engine.on_relayed(data, source, relayed, self.now)
        out = [action for action in actions if isinstance(action, Transmit)]
        assert snapshot(engine) == before, "what was for another had an effect"
        assert len(out) <= 1
        assert sum(len(action.data) for action in out) <= len(data) + HOP_MAX
        self.perform(side, actions)

    def deliver(self, side: int, data: bytes, source: Address) -> None:
        engine = self.engines[side]
        genuine = essence(data) in self.said
        before = None if genuine else snapshot(engine)
        actions = engine.on_control(data, source, self.now)
        assert before is None or snapshot(engine) == before, "a stranger's packet had an effect"
        self.perform(side, actions)

    def data(self, side: int, payload: bytes, *, spoil: int = 0) -> None:
        """One datagram, under the SA if there is one, to where the SA says."""
        engine, other = self.engines[side], self.engines[1 - side]
        pair = KEYS[side].hit, KEYS[1 - side].hit
        outbound = engine.outbound.get(pair)
        if outbound is None:
            self.perform(side, engine.enqueue(*pair, UDP, payload, self.now))
            return
        try:
            sealed = bytearray(outbound.sa.seal(UDP, payload))
        except CreditExhausted:
            return
        if spoil:
            sealed[spoil % len(sealed)] ^= spoil
        inbound = other.inbound.get(int.from_bytes(sealed[:4], "big"))
        if inbound is None or outbound.address not in HOMES[1 - side]:
            return
        try:
            assert inbound.sa.open(bytes(sealed)) == (UDP, payload)
        except (MalformedPacket, Rejected):
            return
        source = outbound.source or HOMES[side][0]
        self.perform(1 - side, other.heard(inbound.sa.spi, source, self.now))

    def wait(self, seconds: float) -> None:
        """Let time pass for both, timer by timer."""
        end = self.now + seconds
        for _ in range(REST_MAX):
            due = [(at, n) for n in (0, 1) if (at := self.engines[n].deadline()) is not None]
            if not due or min(due)[0] > end:
                break
            self.now, side = max(self.now, min(due)[0]), min(due)[1]
            self.perform(side, self.engines[side].on_time(self.now))
            after = self.engines[side].deadline()
            assert after is None or after > self.now, "a timer spins"
        else:
            raise AssertionError("timers fire and fire")
        self.now = end

    def rest(self) -> None:
        """Nobody hears anybody any more: everything ends, nothing stays."""
        for side, engine in enumerate(self.engines):
            engine.requester.unregister((KEYS[side].hit, KEYS[1 - side].hit), None, self.now)
            engine.serving.share(None, self.now)
        for _ in range(40):
            self.way.clear()
            self.wait(CONFIG.unused_lifetime)
            if all(engine.deadline() is None for engine in self.engines):
                break
        for engine in self.engines:
            assert engine.associations() == []
            assert not engine.inbound
            assert not engine.outbound
            assert not engine.serving.served()
            assert not engine.serving.data.up
            assert not engine.serving.data.down
            assert not engine.requester.registrations()

    def check(self) -> None:
        for engine in self.engines:
            assert len(engine.associations()) <= 1
            assert len(engine.inbound) <= 4
            assert len(engine.outbound) <= 1
            assert len(engine.serving.served()) <= 2
            assert len(engine.serving.data.down) <= 1
            assert sum(map(len, engine.serving.data.up.values())) <= 64
            for pair in engine.outbound:
                shown = engine.credentials(*pair)
                assert shown is not None
                assert shown.certificates[0][:4] == b"good"
            _reasons.update(engine.counters)
        assert len(_reasons) <= REASONS_MAX, sorted(_reasons)


def essence(data: bytes) -> bytes | None:
    """What is authentic of a packet: all that a signature is about, and that; None: nothing."""
    try:
        packet = Packet(data)
        if packet.type is PacketType.R1:
            signed = packet.covered_by_signature_2()
            return signed + packet.need(params.HipSignature2).content()
        return packet.covered(params.HipSignature) + packet.need(params.HipSignature).content()
    except MalformedPacket:
        return None


def snapshot(engine: Engine) -> object:
    """All that an association is to those who use it."""
    rows = []
    for pair, association in engine._associations.items():
        outbound, upkeep = engine.outbound.get(pair), association.standing.upkeep
        known = upkeep.describe() if upkeep is not None else []
        rows.append(
            (
                pair,
                association.state,
                association.standing.keys,
                outbound and (id(outbound.sa), outbound.address, outbound.source),
                known,
                engine.credentials(*pair),
            )
        )
    served = [(row.client, row.type, row.expires) for row in engine.serving.served()]
    data = engine.serving.data
    flows = {at: list(found) for at, found in data.up.items()}
    return rows, list(engine.inbound), served, flows, engine.requester.registrations()


def changed(world: World, tape: Tape) -> bytes:
    """Something that was said, with changes, or glued together from two."""
    past = world.past
    data = bytearray(past[-1 - tape.byte() % len(past)])
    how, at, value = tape.byte(), tape.byte() * 8 + tape.byte(), tape.byte()
    at %= len(data)
    match how % 6:
        case 0:
            data[at] ^= value or 1
        case 1:
            data[at] = value
        case 2:
            data[2] = _KINDS[value % len(_KINDS)]
        case 3:
            other = past[-1 - value % len(past)]
            data[HEADER_LENGTH:] = other[HEADER_LENGTH:]
        case 4:
            at -= at % 8
            data[at : at + 8 * (value % 8)] = b""
        case _:
            at -= at % 8
            data[at:at] = tape.some(8 * (value % 8))
    del data[PACKET_MAX - PACKET_MAX % 8 :]
    data += bytes(-len(data) % 8 if data else 8)
    data[1] = (len(data) // 8 - 1) & 0xFF
    return bytes(data)


def step(world: World, tape: Tape) -> None:  # noqa: C901, PLR0912  one branch a step
    what = tape.byte()
    side, what = what >> 7, what & 15
    engine, pair = world.engines[side], (KEYS[side].hit, KEYS[1 - side].hit)
    match what:
        case 0 | 1 | 2 | 3:
            if world.way:
                world.deliver(*world.way.popleft())
            elif world.asks[side]:
                _solve(world, side)
        case 4:
            if world.asks[side]:
                _solve(world, side)
        case 5 | 6:
            world.deliver(side, changed(world, tape), SOURCES[tape.byte() % len(SOURCES)])
        case 7:
            data = world.past[-1 - tape.byte() % len(world.past)]
            world.deliver(side, data, SOURCES[tape.byte() % len(SOURCES)])
        case 8:
            if world.way:
                world.way.rotate(tape.byte())
                world.way.popleft()
        case 9:
            world.data(side, b"x" * (tape.byte() % 9), spoil=tape.byte() & 1 and tape.byte())
        case 10:
            world.wait(WAITS[tape.byte() % len(WAITS)])
        case 11:
            chosen = tape.byte()
            homes = [home for n, home in enumerate(HOMES[side]) if chosen >> n & 1]
            world.perform(side, engine.set_locators(homes, world.now))
        case 12:
            world.perform(side, engine.connect(*pair, world.now))
        case 13:
            world.perform(side, engine.close(*pair, world.now))
        case 14:
            for _ in range(8):
                world.data(side, b"datagram")
                world.data(1 - side, b"datagram")
        case _:
            _seldom(world, tape, side)


def _solve(world: World, side: int) -> None:
    ask = world.asks[side].popleft()
    j = world.starts.to_bytes(4, "big") + world.now.hex().encode().ljust(44)[:44]
    try:
        world.perform(side, world.engines[side].on_puzzle_solved(ask.key, j, world.now))
    except Rejected as error:
        raise AssertionError("raised out of the engine") from error


def _seldom(world: World, tape: Tape, side: int) -> None:  # noqa: C901, PLR0912  as above
    engine, peer = world.engines[side], KEYS[1 - side].hit
    match tape.byte() % 12:
        case 10:
            group = Path(HOMES[side][0], GROUP)
            world.perform(side, engine.call(KEYS[side].hit, [group], 2.0, world.now))
        case 11:
            asked = world.past[-1] if tape.byte() & 1 else changed(world, tape)
            world.ask_around(side, asked, SOURCES[tape.byte() % len(SOURCES)])
        case 6:
            offers = OFFERS[tape.byte() % len(OFFERS)]
            for address in PORTS[side]:
                engine.serving.data.lend(address)
            engine.serving.offer(offers, engine.pairs(), world.now)
            if tape.byte() % 3 == 0:
                engine.serving.share((None, *PORTS[side])[tape.byte() % 3], world.now)
        case 7:
            types = [kind for kind in RegistrationType if tape.byte() & 1]
            _register(world, side, types, cancel=bool(tape.byte() & 1))
        case 8:
            data = bytearray(changed(world, tape))
            hits = (KEYS[1 - side].hit, OTHERS)
            data[24:40], data[8:24] = (
                hits[tape.byte() % 2],
                (*hits, KEYS[side].hit)[tape.byte() % 3],
            )
            relayed = (None, *PORTS[side])[tape.byte() % 3]
            world.pass_on(side, bytes(data), SOURCES[tape.byte() % len(SOURCES)], relayed)
        case 9:
            _permit(world, tape, side)
        case 0:
            world.engines[side] = world._engine(side)
        case 1:
            world.perform(side, engine.set_access(None, [peer], world.now))
        case 2:
            world.perform(side, engine.set_access(None, [], world.now))
        case 4:
            engine.use(Policy(b"good" + tape.some(2)), lambda: 0.0)
            world.perform(side, engine.show(world.now))
        case 5:
            engine.use(Policy(b"bad"), lambda: 0.0)
            world.perform(side, engine.show(world.now))
        case _:
            to = HOMES[1 - side][0]
            actions = engine.connect_opportunistic(KEYS[side].hit, to, world.now)
            world.perform(side, actions)


def _register(world: World, side: int, types: list[RegistrationType], *, cancel: bool) -> None:
    requester = world.engines[side].requester
    pair = KEYS[side].hit, KEYS[1 - side].hit
    if cancel:
        requester.unregister(pair, types, world.now)
    else:
        requester.register(pair, types, world.now)


def _permit(world: World, tape: Tape, side: int) -> None:
    """Ask the other side, whoever it is, to let a peer through."""
    pair = KEYS[side].hit, KEYS[1 - side].hit
    relayed, peer = PORTS[1 - side][0], SOURCES[tape.byte() % len(SOURCES)]
    spis = 0x1000 + tape.byte(), 0x2000 + tape.byte()
    asked = params.PeerPermission(relayed, peer, *spis)
    world.perform(side, world.engines[side].tell(pair, [asked], world.now) or [])


EXCHANGE = bytes((12, 0, 0, 4, 0, 0, 0, 0, 9, 1, 0, 0))
UPDATES = bytes((14, 10, 3, 14, 10, 1, 0, 0, 0, 0, 0, 0, 0, 0))
MOVE = bytes((11, 6, 0, 0, 0, 0, 0, 0, 10, 2, 0, 0, 0, 0))
SEEDS = [
    EXCHANGE,
    EXCHANGE + UPDATES,
    EXCHANGE + MOVE + UPDATES,
    EXCHANGE + bytes((15, 4, 1, 2, 0, 0, 15 | 128, 4, 2, 3, 0, 0, 15, 5, 0, 0)) + UPDATES,
    bytes((15, 5)) + EXCHANGE,
    *(
        bytes((15 | 128, 6, offer, 15, 7, 1 - first, first, 1, 1, 0)) + EXCHANGE + more + UPDATES
        for offer in (1, 2, 3)
        for first in (0, 1)
        for more in (
            b"",
            bytes((15, 9, 6, 1, 2, 0, 0)),
            *(
                bytes((15 | 128, 8, past, 4, 0, 0, 0, 0, 1, relayed, 6, 0, 0))
                for past in (0, 1, 2, 3)
                for relayed in (0, 1)
            ),
            bytes((15 | 128, 6, 0, 0, 0, 0, 0)),
            bytes((15, 7, 0, 1, 1, 1, 1, 0, 0, 10, 5, 0, 0)),
            MOVE,
        )
    ),
    EXCHANGE + bytes((13, 0, 0, 0)),
    EXCHANGE + bytes((12 | 128, 15, 0, 12, 0, 0, 4, 0, 0, 0)),
    bytes((15, 10, 0, 0, 0, 0)) + EXCHANGE,
    bytes((15, 10, 0, 0, 10, 1, 0, 0, 15, 11, 1, 2)) + EXCHANGE + UPDATES,
    bytes((15, 3, 0, 0, 4, 0, 0, 0, 9, 1, 0)),
    bytes((12, 12 | 128, 0, 0, 0, 0, 4, 4 | 128, 0, 0, 0, 0, 0)),
    *(
        said + bytes((5 | to << 7, 0, 0, at // 8, at % 8, 1, 0)) + UPDATES
        for said, to in (
            *((EXCHANGE[:n], to) for n, to in ((1, 1), (2, 0), (4, 1), (5, 0))),
            (EXCHANGE + MOVE[:2], 1),
            (EXCHANGE + MOVE[:4], 0),
            (EXCHANGE + UPDATES[:3], 1),
            (EXCHANGE + bytes((13,)), 1),
            (EXCHANGE + bytes((13, 0)), 0),
        )
        for at in (9, 25, 44, 50, 61, 77, 90, 110, 140, 200)
    ),
]


def test_one_input(data: bytes) -> None:
    """Run the program; then leave both alone."""
    world, tape = World(), Tape(data)
    for _ in range(STEPS_MAX):
        if not tape:
            break
        step(world, tape)
        world.check()
    world.rest()


if __name__ == "__main__":
    import sys

    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
