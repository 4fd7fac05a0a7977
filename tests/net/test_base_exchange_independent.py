"""A base exchange of two of our hosts on real sockets, judged by code that knows only RFCs."""

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from net.rfc7401_checker import CIPHER_KEY, Exchange, Packet, check_exchange, open_esp, parse
from net.tap import Tap

from hipctl import EngineConfig, HostConfig, HostIdentity, LocalHost, contact_from_addresses
from hipctl.constants import EccCurve
from sipgw.demo.process import free_port

pytestmark = pytest.mark.net

TEXT = b"nobody between us reads this"
PORT = 4_242
TIMEOUT = 10.0  # seconds


@dataclass(frozen=True)
class Capture:
    packets: list[Packet]
    esp: list[bytes]
    keylog: list[bytes]  # HIT-I, HIT-R, I, J, DH secret, KEYMAT

    def judged(self) -> Exchange:
        return check_exchange(self.packets, self.keylog[4])


async def _capture(
    folder: Path, curves: tuple[EccCurve, EccCurve], engine: EngineConfig
) -> Capture:
    """Let two hosts meet through a tap, and send a datagram each way."""
    far = ("127.0.0.1", free_port())
    keylog = folder / "keylog"
    one, two = (HostIdentity.generate(curve) for curve in curves)
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    async with (
        asyncio.timeout(TIMEOUT),
        Tap(far) as tap,
        LocalHost(
            [one], HostConfig(listen=(("127.0.0.1", 0),), keylog=keylog, engine=engine)
        ) as initiator,
        LocalHost([two], HostConfig(listen=(far,), engine=engine)) as responder,
    ):
        answering = responder.open(
            two.hit,
            PORT,
            lambda data, hit, port: answering.send(data, hit, port),  # noqa: PLW0108  not yet bound
        )
        asking = initiator.open(one.hit, PORT, lambda data, hit, port: heard.put_nowait(data))
        initiator.learn(two.hit, contact_from_addresses([tap.address]))
        await initiator.connect(two.hit, timeout=TIMEOUT)
        asking.send(TEXT, two.hit, PORT)
        assert await heard.get() == TEXT
        packets = [parse(raw) for raw in tap.control[:4]]
        esp = tap.esp
    _, *values = keylog.read_text().splitlines()[0].split()
    return Capture(packets, esp, [bytes.fromhex(value) for value in values])


P256, P384 = EccCurve.NIST_P256, EccCurve.NIST_P384


@pytest.mark.parametrize(
    ("curves", "groups", "cipher", "esp"),
    [
        ((P256, P256), (7, 8), 2, 13),  # what two peers agree upon by themselves
        ((P384, P256), (8,), 4, 9),
        ((P256, P384), (7,), 2, 8),
        ((P384, P384), (8, 7), 4, 13),
    ],
)
def test_every_packet_of_an_exchange_is_what_the_rfc_asks_for(
    tmp_path: Path,
    curves: tuple[EccCurve, EccCurve],
    groups: tuple[int, ...],
    cipher: int,
    esp: int,
) -> None:
    engine = replace(EngineConfig(), groups=groups, ciphers=(cipher,), esp_suites=(esp,))
    capture = asyncio.run(_capture(tmp_path, curves, engine))
    found = capture.judged()
    assert found.host_id_was_encrypted
    assert found.k == 10
    assert found.esp_suite == esp
    hit_i, hit_r, i, j, _, keymat = capture.keylog
    assert (found.initiator, found.responder, found.i, found.j) == (hit_i, hit_r, i, j)
    assert keymat.startswith(found.keymat)
    assert len(found.keys.cipher_i) == CIPHER_KEY[cipher]


def test_what_two_peers_agree_upon_by_themselves_and_then_say_in_esp(tmp_path: Path) -> None:
    capture = asyncio.run(_capture(tmp_path, (P256, P256), EngineConfig()))
    found = capture.judged()
    assert found.esp_suite == 13
    assert len(capture.esp) >= 2
    for packet in capture.esp[:2]:  # one each way: UDP (17), its header, and the text
        sequence, next_header, payload = open_esp(found, packet)
        assert (sequence, next_header) == (1, 17)
        assert payload[8:] == TEXT
        assert TEXT not in packet


def test_no_host_identity_of_the_initiator_crosses_in_clear(tmp_path: Path) -> None:
    capture = asyncio.run(_capture(tmp_path, (P256, P256), EngineConfig()))
    found = capture.judged()
    assert found.host_id_was_encrypted
    assert not capture.packets[2].all(705)
