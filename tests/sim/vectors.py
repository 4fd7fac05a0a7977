"""The golden captures of tests/vectors, by name."""

import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path

from hipctl.packet import Packet

FOLDER = Path(__file__).parent.parent / "vectors"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


@dataclass(frozen=True)
class Capture:
    raw: bytes
    source: bytes
    destination: bytes


@dataclass(frozen=True)
class Vector:
    packets: dict[str, Capture]
    secret: bytes
    keymat: bytes

    def packet(self, kind: str) -> Packet:
        return Packet(self.packets[kind].raw)


def load(name: str) -> Vector:
    data = json.loads((FOLDER / f"{name}.json").read_text())
    packets: dict[str, Capture] = {}
    for row in data["packets"]:
        source, destination = (ipaddress.ip_address(row[end]).packed for end in ("src", "dst"))
        packets.setdefault(row["kind"], Capture(bytes.fromhex(row["hex"]), source, destination))
    return Vector(
        packets, bytes.fromhex(data["dh_shared_secret_hex"]), bytes.fromhex(data["keymat_hex"])
    )
