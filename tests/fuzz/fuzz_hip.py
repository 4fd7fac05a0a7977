"""Any bytes at the HIP port, in every state of an association: counted or answered, never worse.

python tests/fuzz/fuzz_hip.py -max_total_time=60
"""

import contextlib
import random

from hipctl import params
from hipctl.actions import Action, SolvePuzzle, Transmit
from hipctl.constants import HEADER_LENGTH, PACKET_MAX, PacketType
from hipctl.credentials import parameters, read
from hipctl.engine import Engine, EngineConfig
from hipctl.errors import MalformedPacket
from hipctl.identity import Hit, HostIdentity
from hipctl.interface import Admission, Shown
from hipctl.packet import Packet, build

CONFIG = EngineConfig(k=0)  # any J is a solution: let the fuzzer see what lies behind the puzzle
A, B = (HostIdentity.from_secret(n) for n in (1, 2))
AT_A, AT_B = ("192.0.2.1", 10500), ("192.0.2.2", 10500)
KINDS = list(PacketType)


GOOD = Shown((b"certificate",), b"delegation")


class Policy:
    """Lets in who shows what it shows."""

    def shown(
        self, local: Hit, peer: Hit | None, wall: float, theirs: Shown | None = None
    ) -> Shown:
        return GOOD

    def admit(self, local: Hit, peer: Hit, shown: Shown, wall: float) -> Admission:
        if shown == GOOD:
            return Admission.ACCEPTED
        return Admission.INVALID_CERTIFICATE if shown else Admission.CREDENTIALS_REQUIRED


def _engine(identity: HostIdentity) -> Engine:
    engine = Engine([identity], CONFIG, random.Random(7).randbytes)
    engine.use(Policy(), lambda: 0.0)
    return engine


def _one(actions: list[Action]) -> bytes:
    return next(action.data for action in actions if isinstance(action, Transmit))


class Scene:
    """Two engines with the same randomness every time, up to any point of an exchange."""

    def __init__(self) -> None:
        self.a, self.b = _engine(A), _engine(B)
        self.a.learn(B.hit, [AT_B])
        self.i1 = _one(self.a.connect(A.hit, B.hit, 0.0))
        self.r1 = _one(self.b.on_control(self.i1, AT_A, 0.0))

    def i2(self) -> bytes:
        (ask,) = self.a.on_control(self.r1, AT_B, 0.0)
        assert isinstance(ask, SolvePuzzle)
        return _one(self.a.on_puzzle_solved(ask.key, bytes(48), 0.0))

    def r2(self) -> bytes:
        return _one(self.b.on_control(self.i2(), AT_A, 0.0))


_scene = Scene()
_r2 = _scene.r2()
_scene.a.on_control(_r2, AT_B, 0.0)
_close = _one(_scene.a.close(A.hit, B.hit, 0.0))
SEEDS = [
    b"\0" + _scene.r1,
    b"\1" + _scene.i1,
    b"\2" + _scene.r1,
    b"\3" + Scene().i2(),
    b"\4" + _r2,
    b"\5" + _close,
    b"\6\2" + _scene.r1[HEADER_LENGTH:],
    b"\0" + build(PacketType.UPDATE, A.hit, B.hit, parameters(GOOD)),
    b"\0" + build(PacketType.UPDATE, A.hit, B.hit, [params.Cert(1, 2, n, 3, b"") for n in (1, 2)]),
]


def test_one_input(data: bytes) -> None:
    """The first byte chooses who gets the rest, and in which state."""
    if not data:
        return
    what, rest = data[0] % 7, data[1:]
    if what == 0:
        _parse(rest)
        return
    scene = Scene()
    engine, source = (scene.a, AT_B) if what in (2, 4) else (scene.b, AT_A)
    if what == 4:
        scene.i2()
    if what >= 5:
        scene.a.on_control(scene.r2(), AT_B, 0.0)
    if what == 6:
        rest = _framed(rest)
    actions = engine.on_control(rest, source, 0.0)
    for action in actions:
        if isinstance(action, Transmit):
            Packet(action.data).parameters()
    assert sum(engine.counters.values()) <= 2
    assert len(engine.associations()) <= 1
    assert len(engine.inbound) <= 1
    engine.on_time(1e6)  # every timer there is fires


def _framed(rest: bytes) -> bytes:
    """A good header before any parameters."""
    kind = KINDS[rest[0] % len(KINDS)] if rest else PacketType.I1
    body = rest[1 : PACKET_MAX - HEADER_LENGTH]
    raw = build(kind, A.hit, B.hit, []) + body + bytes(-len(body) % 8)
    return raw[:1] + bytes((len(raw) // 8 - 1,)) + raw[2:]


def _parse(rest: bytes) -> None:
    with contextlib.suppress(MalformedPacket):
        shown, _ = read(Packet(rest))
        assert read(Packet(build(PacketType.UPDATE, A.hit, B.hit, parameters(shown))))[0] == shown
    try:
        packet = Packet(rest)
        found = packet.parameters()
    except MalformedPacket as error:
        assert 0 <= error.offset <= len(rest)
        return
    again = build(packet.type, packet.sender, packet.receiver, found, packet.controls)
    assert len(again) == len(packet.raw)  # what follows the packet is not part of it
    assert params.encode(Packet(again).parameters()) == again[HEADER_LENGTH:]


if __name__ == "__main__":
    import sys

    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
