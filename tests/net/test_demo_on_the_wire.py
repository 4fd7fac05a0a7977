"""``p2psip demo`` as a whole, and what crosses between its peers, seen by tshark and as bytes."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from net.programs import require_program

from sipgw.demo.scenario import MESSAGES, choose_client
from sipgw.demo.world import DOMAIN, HIP_PORT, SIP_PORT, installed

pytestmark = [pytest.mark.net, pytest.mark.slow, pytest.mark.timeout(180)]

SECONDS = 5
PEERS = 5
# what SIP, SDP, texts and records hold, whatever the case; four bytes alone are in the noise of
# one run of a thousand
TELLTALES = [
    b"sip/2.0",
    b" sip:",
    b"<sip:",
    b"sip:alice",
    b"sip:bob",
    b"invite",
    b"v=0\r\n",
    b"rtpmap",
    DOMAIN.encode(),
    *(text.lower().encode() for text in MESSAGES.values()),
]


@dataclass(frozen=True)
class Packet:
    source: tuple[str, int]
    target: tuple[str, int]
    payload: bytes

    @property
    def ends(self) -> set[str]:
        return {self.source[0], self.target[0]}


@dataclass(frozen=True)
class Run:
    result: dict[str, Any]
    capture: Path
    packets: list[Packet]
    peers: set[str]

    @property
    def between_peers(self) -> list[Packet]:
        return [p for p in self.packets if p.ends <= self.peers and len(p.ends) == 2]


def tshark(*arguments: str) -> list[str]:
    done = subprocess.run(
        ["tshark", "-n", *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.splitlines()


def may_capture() -> bool:
    done = subprocess.run(
        ["tshark", "-q", "-i", "lo", "-a", "duration:1"],
        capture_output=True,
        check=False,
        timeout=30,
    )
    return done.returncode == 0


def read(capture: Path) -> list[Packet]:
    fields = ["ip.src", "udp.srcport", "ip.dst", "udp.dstport", "udp.payload"]
    chosen = [word for field in fields for word in ("-e", field)]
    found = []
    for line in tshark("-r", str(capture), "-Y", "ip && udp && !icmp", "-T", "fields", *chosen):
        source, source_port, target, target_port, payload = line.split("\t")
        ends = (source, int(source_port)), (target, int(target_port))
        found.append(Packet(*ends, bytes.fromhex(payload)))
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    require_program("tshark", "baresip")
    if not may_capture():
        pytest.skip("tshark may not capture on lo here: run as root")
    capture = tmp_path_factory.mktemp("demo") / "demo.pcapng"
    argv = [installed("p2psip"), "demo", "--json", "--seconds", str(SECONDS)]
    done = subprocess.run(
        [*argv, "--capture", str(capture)],
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    assert done.stdout.count("\n") == 1, done.stdout + done.stderr
    packets = read(capture)
    hip = [p for p in packets if p.source[1] == p.target[1] == HIP_PORT]
    sys.stderr.write(done.stderr)  # which pytest shows if a test fails
    return Run(json.loads(done.stdout), capture, packets, {end for p in hip for end in p.ends})


def test_the_demo_holds(run: Run) -> None:
    failed = [step for step in run.result["steps"] if not step["ok"]]
    assert run.result["ok"], failed
    assert not failed
    assert run.result["audio_ncc"] >= (0.95 if choose_client()[0] == "baresip" else 0.9)
    assert 0 < run.result["base_exchange_ms"] < 1_000
    assert 0 < run.result["post_dial_ms"] < 2_000
    assert set(run.result) == {"ok", "steps", "audio_ncc", "base_exchange_ms", "post_dial_ms"}
    assert all(set(step) == {"name", "ok", "ms"} for step in run.result["steps"])


def test_tshark_reads_every_control_packet_as_hip(run: Run) -> None:
    control = [p for p in run.between_peers if p.payload[:4] == bytes(4)]
    fields = ["-T", "fields", "-e", "hip.packet_type"]
    between = f"ip && udp.srcport == {HIP_PORT} && udp.dstport == {HIP_PORT}"
    kinds = tshark("-r", str(run.capture), "-Y", f"{between} && hip", *fields)
    others = f"{between} && !hip && udp.payload[0:4] == 00:00:00:00"
    assert not tshark("-r", str(run.capture), "-Y", others)
    assert not tshark("-r", str(run.capture), "-Y", f"{between} && hip && _ws.malformed")
    seen = Counter(map(int, kinds))
    assert seen.total() >= len(control)
    assert len(run.peers) >= PEERS
    for kind in (1, 2, 3, 4):  # I1, R1, I2, R2: the five peers met, each pair at most once or so
        assert seen[kind] >= PEERS - 1


def test_between_peers_there_is_nothing_but_hip_and_esp(run: Run) -> None:
    assert run.between_peers
    for packet in run.between_peers:
        assert packet.source[1] == packet.target[1] == HIP_PORT
        if packet.payload[:4] != bytes(4) and packet.payload != b"\xff":  # RFC 3948 §2.3
            assert int.from_bytes(packet.payload[:4], "big") > 255, "no SPI (RFC 4303 §2.1)"
            assert len(packet.payload) >= 8 + 8 + 2 + 16  # header, IV, trailer, ICV


def test_no_sip_and_no_text_can_be_read_between_peers(run: Run) -> None:
    for packet in run.between_peers:
        text = packet.payload.lower()
        assert not [t for t in TELLTALES if t in text]
    near = b"".join(p.payload for p in run.packets if SIP_PORT in (p.source[1], p.target[1]))
    assert b"SIP/2.0" in near, "the capture saw nothing: this test could not fail"


def test_what_esp_carries_looks_like_noise(run: Run) -> None:
    """RTP, SIP and msgpack in clear would make some bytes far more frequent than others."""
    esp = [p.payload for p in run.between_peers if p.payload[:4] not in {bytes(4), b"\xff"}]
    voice = [p for p in esp if len(p) > 180]
    assert len(voice) >= 2 * SECONDS * 50  # both directions, 20 ms each
    inner = b"".join(p[16:] for p in esp)  # behind SPI, sequence number and IV
    counts, expected = Counter(inner), len(inner) / 256
    chi_squared = sum((counts[b] - expected) ** 2 / expected for b in range(256))
    assert chi_squared < 400  # 255 degrees of freedom: noise exceeds 400 once in 10^8 runs


def test_every_esp_sequence_number_is_used_once(run: Run) -> None:
    heads = Counter(
        (p.source, p.payload[:8]) for p in run.between_peers if p.payload[:4] != bytes(4)
    )
    heads = Counter({head: n for head, n in heads.items() if len(head[1]) == 8})
    assert max(heads.values()) == 1


def test_no_client_speaks_to_the_other_client_or_to_the_other_ones_peer(run: Run) -> None:
    """Signalling and voice of a client go to its own peer only."""
    gateways = {a for p in run.packets for a, port in (p.source, p.target) if port == SIP_PORT}
    gateways &= run.peers
    assert len(gateways) == 2
    domain = DOMAIN.encode()
    partners: dict[tuple[str, int], set[str]] = {}
    for packet in run.packets:
        if domain in packet.payload and packet.target[1] != HIP_PORT:
            ends = {packet.source, packet.target}
            near = {end for end in ends if end[0] in gateways}
            assert len(near) == 1, packet
            (far,) = ends - near
            partners.setdefault(far, set()).update(end[0] for end in near)
    assert all(len(met) == 1 for met in partners.values())
    for packet in run.packets:  # G.711: version 2, payload type 0, 160 bytes
        head = packet.payload[:2]
        if len(packet.payload) == 172 and head[:1] == b"\x80" and head[1] & 0x7F == 0:
            assert len(packet.ends & run.peers) == 1, packet
