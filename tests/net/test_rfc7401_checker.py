"""The independent checker is itself right: it accepts golden captures and nothing else."""

import json
import random
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from net.rfc7401_checker import Exchange, Wrong, check_exchange, open_esp, parse

VECTORS = sorted((Path(__file__).parent.parent / "vectors").glob("*.json"))


def load(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text())
    return value


def check(capture: dict[str, Any], flip: tuple[int, int] | None = None) -> Exchange:
    """Check the exchange of a capture, with one bit of one packet turned round if asked."""
    packets = []
    for number, packet in enumerate(capture["packets"][:4]):
        raw = bytearray.fromhex(packet["hex"])
        if flip is not None and flip[0] == number:
            raw[flip[1] // 8] ^= 1 << flip[1] % 8
            raw[4:6] = bytes(2)  # not the checksum shall find it
            packets.append(parse(bytes(raw)))
            continue
        addresses = IPv4Address(packet["src"]).packed, IPv4Address(packet["dst"]).packed
        packets.append(parse(bytes(raw), addresses))
    return check_exchange(packets, bytes.fromhex(capture["dh_shared_secret_hex"]))


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_a_golden_exchange_is_accepted(path: Path) -> None:
    capture = load(path)
    exchange = check(capture)
    assert exchange.keymat == bytes.fromhex(capture["keymat_hex"])[: len(exchange.keymat)]
    assert exchange.k == 10


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_golden_esp_packets_are_opened(path: Path) -> None:
    capture = load(path)
    exchange = check(capture)
    esp = [bytes.fromhex(p["hex"]) for p in capture["packets"] if p["kind"] == "ESP"]
    assert esp
    for packet in esp:
        sequence, next_header, payload = open_esp(exchange, packet)
        assert sequence >= 1
        assert next_header in {1, 17, 50, 58, 41, 59} or payload
    with pytest.raises(Wrong):
        open_esp(exchange, esp[0][:-1] + bytes([esp[0][-1] ^ 1]))


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_another_secret_is_refused(path: Path) -> None:
    capture = load(path)
    secret = bytearray.fromhex(capture["dh_shared_secret_hex"])
    secret[0] ^= 1
    with pytest.raises(Wrong):
        check(capture | {"dh_shared_secret_hex": secret.hex()})


@pytest.mark.parametrize("number", [1, 2, 3], ids=["R1", "I2", "R2"])
@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_any_bit_turned_round_is_found(path: Path, number: int) -> None:
    capture = load(path)
    bits = len(capture["packets"][number]["hex"]) * 4
    dice = random.Random(number)
    for bit in dice.sample([b for b in range(bits) if b // 8 not in {4, 5}], 60):
        with pytest.raises((Wrong, ValueError, KeyError, IndexError)):
            check(capture, (number, bit))
