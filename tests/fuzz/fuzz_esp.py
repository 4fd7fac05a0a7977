"""Any bytes as ESP, and any bytes inside ESP: refused with a reason, or delivered; never worse.

python tests/fuzz/fuzz_esp.py -max_total_time=60
"""

import struct

from hipctl.contact import Locator, encode_contact, groups, parse_contact
from hipctl.errors import MalformedPacket, Rejected
from hipctl.esp import SUITES, InboundSa, OutboundSa, keymat_length
from hipctl.inner import OPEN_BYTES, Echo, Reassembly, fragment, parse_echo, parse_udp, udp

_HEADER = struct.Struct(">BB")

SEEDS = [
    b"\0\x11" + bytes.fromhex("0000010000000001") + bytes(60),
    b"\1\x3a" + Echo(128, 1, 1, b"ping").encode(0),
    b"\2\x11" + udp(0, 5060, 5060, b"datagram"),
    b"\3\x2c" + b"".join(fragment(17, bytes(40), 24, 1)),
    b"\0\x00" + encode_contact([Locator(("11.0.0.1", 10500)), Locator(("2400::1", 1))]),
]


def test_one_input(data: bytes) -> None:
    """Two bytes choose what the rest is taken for."""
    if len(data) < _HEADER.size:
        return
    what, next_header = _HEADER.unpack_from(data)
    rest = data[_HEADER.size :]
    suite = sorted(SUITES)[what % 3]
    keymat = bytes(keymat_length(suite))
    receiver = InboundSa(suite, 256, keymat)
    try:
        receiver.open(rest)
        raise AssertionError("a forged packet was authenticated")
    except (MalformedPacket, Rejected):
        assert receiver.packets == 0
    sealed = OutboundSa(suite, 256, keymat).seal(next_header, rest)
    assert receiver.open(sealed) == (next_header, rest)
    _inside(rest)
    _fragments(rest, what)
    try:
        assert encode_contact(parse_contact(rest)) == rest
    except MalformedPacket:
        assert not groups(rest)


def _inside(payload: bytes) -> None:
    for parse in (parse_udp, parse_echo):
        try:
            parse(0, payload)
        except (MalformedPacket, Rejected):
            continue


def _fragments(stream: bytes, step: int) -> None:
    reassembly = Reassembly()
    size = 9 + step % 64
    for number, start in enumerate(range(0, len(stream), size)):
        try:
            reassembly.add(number & 1, stream[start : start + size], float(number))
        except (MalformedPacket, Rejected):
            continue
        assert 0 <= reassembly.bytes_held <= OPEN_BYTES
    for owner in (0, 1):
        reassembly.forget(owner)
    assert reassembly.bytes_held == 0


if __name__ == "__main__":
    import sys

    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
