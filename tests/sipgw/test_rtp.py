import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipgw import rtp
from sipgw.rtp import Kind

PACKET = bytes.fromhex("80e0 0102 03040506 0708090a") + bytes(160)


def test_the_header_fields_are_those_of_rfc3550() -> None:
    assert rtp.payload_type(PACKET) == 0x60
    assert rtp.sequence_number(PACKET) == 0x0102
    assert rtp.timestamp(PACKET) == 0x03040506
    assert rtp.ssrc(PACKET) == 0x0708090A


@pytest.mark.parametrize(
    ("packet", "kind"),
    [
        (PACKET, Kind.RTP),
        (b"\x80\xc8\x00\x06" + bytes(24), Kind.RTCP),  # sender report
        (b"\x81\xc9\x00\x07" + bytes(28), Kind.RTCP),  # receiver report
        (b"\x81\xce\x00\x02" + bytes(8), Kind.RTCP),  # picture loss indication
        (b"\x80\x00" + bytes(10), Kind.RTP),  # PCMU
        (b"\x80\x80" + bytes(10), Kind.RTP),  # PCMU with marker
        (b"\x80\x00" + bytes(9), Kind.OTHER),  # shorter than its header
        (b"\x00\x01\x00\x00", Kind.STUN),
        (b"\x16\xfe\xfd", Kind.DTLS),
        (b"\x40\x00", Kind.OTHER),
        (b"", Kind.OTHER),
    ],
)
def test_what_shares_a_port_is_told_apart(packet: bytes, kind: Kind) -> None:
    assert rtp.kind(packet) is kind


@given(st.binary(max_size=40))
def test_any_bytes_have_a_kind_and_only_one(packet: bytes) -> None:
    assert not (rtp.is_rtp(packet) and rtp.is_rtcp(packet))
    assert rtp.kind(packet) in Kind
