"""PCP packets as RFC 6887 draws them."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipctl import pcp
from hipctl.errors import MalformedPacket
from hipctl.pcp import MapRequest, Opcode, Response, Result, plausible, version_offered

NONCE = bytes(range(12))
MAPPED_ANYTHING = "00000000000000000000ffff00000000"

# A real router's answers (miniupnpd 2.3.1)
GRANTED = bytes.fromhex(
    "0281000000001c20000000150000000000000000000000009c10dd2f441652e30249b841110000002904290400000000"
    "000000000000ffff05090101"
)
GRANTED6 = bytes.fromhex(
    "0281000000001c20000000160000000000000000000000009c10dd2f441652e30249b8411100000029042904"
    "2a000077000000000000000000000002"
)
ANNOUNCED = bytes.fromhex("028000000000000000000016000000000000000000000000")


def test_a_map_request_lies_as_in_figures_2_and_9() -> None:
    request = MapRequest("192.0.2.7", NONCE, 10_500, 7_200, ("0.0.0.0", 10_500))
    assert request.encode().hex() == (
        "02010000"  # version 2, request, MAP
        "00001c20"  # lifetime
        "00000000000000000000ffffc0000207"  # client
        "000102030405060708090a0b"
        "11000000"  # UDP
        "29042904" + MAPPED_ANYTHING
    )


def test_without_a_wish_the_address_is_all_zeros_of_the_clients_family() -> None:
    assert MapRequest("192.0.2.7", NONCE, 1, 0).encode()[-16:].hex() == MAPPED_ANYTHING
    assert MapRequest("2001:db8::7", NONCE, 1, 0).encode()[-16:] == bytes(16)  # §5
    assert MapRequest("192.0.2.7", NONCE, 1, 0).encode()[42:44] == b"\0\0"  # §15.1


def test_an_announce_request_is_a_bare_header() -> None:
    assert pcp.announce_request("192.0.2.7").hex() == (
        "0200000000000000" + "00000000000000000000ffffc0000207"
    )


def test_answers_of_a_real_router() -> None:
    granted = Response.parse(GRANTED)
    assert (granted.opcode, granted.result, granted.lifetime, granted.epoch) == (1, 0, 7_200, 21)
    assert granted.assigned is not None
    assert granted.assigned.external == ("5.9.1.1", 10_500)
    assert (granted.assigned.protocol, granted.assigned.port) == (17, 10_500)
    assert granted.assigned.nonce.hex() == "9c10dd2f441652e30249b841"
    six = Response.parse(GRANTED6).assigned
    assert six is not None
    assert six.external == ("2a00:77::2", 10_500)
    announced = Response.parse(ANNOUNCED)
    assert (announced.opcode, announced.epoch, announced.assigned) == (Opcode.ANNOUNCE, 22, None)


def test_options_are_ignored() -> None:
    assert Response.parse(GRANTED + bytes.fromhex("7f00000401020304")) == Response.parse(GRANTED)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        GRANTED[:23],
        GRANTED[:56],  # the mapping is cut short
        GRANTED + b"\0",  # no multiple of 4
        GRANTED + bytes(1_044),  # longer than 1100
        b"\x02\x01" + GRANTED[2:],  # a request
        b"\x03" + GRANTED[1:],
    ],
)
def test_what_is_no_response_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedPacket):
        Response.parse(data)


def test_a_server_of_another_version_says_so() -> None:
    natpmp = bytes.fromhex("0000000100000016")  # RFC 6886 §3.5
    assert version_offered(natpmp) == 0
    assert version_offered(bytes.fromhex("0081000100000016")) == 0
    assert version_offered(b"\x03\x81\x00\x01" + bytes(20)) == 3
    assert version_offered(b"\x03\x01\x00\x01" + bytes(20)) is None  # a request
    assert version_offered(GRANTED) is None
    assert version_offered(b"\x02\x81\x00") is None


@pytest.mark.parametrize(
    ("before", "since", "epoch", "kept"),
    [
        (100, 0.0, 100, True),
        (100, 0.0, 99, True),  # reordered (§8.5)
        (100, 0.0, 98, False),
        (100, 10.0, 110, True),
        (100, 10.0, 3, False),  # restarted
        (100, 1_600.0, 1_700, True),
        (100, 1_600.0, 1_599, True),  # its clock loses 1/16
        (100, 1_600.0, 1_590, False),
        (100, 1_600.0, 1_808, True),
        (100, 1_600.0, 1_815, False),  # restarted long ago, and we have seen its earlier life
        (0, 50.0, 20, False),
    ],
)
def test_the_epoch_tells_whether_the_server_has_kept_its_state(
    before: int, since: float, epoch: int, kept: bool
) -> None:
    assert plausible(before, since, epoch) is kept


@given(st.integers(0, 2**32 - 1), st.integers(0, 10**6), st.floats(0, 0.999))
def test_an_epoch_that_goes_as_our_clock_does_is_plausible(
    before: int, since: int, offset: float
) -> None:
    assert plausible(before, since + offset, before + since)


@given(st.integers(100, 10**6), st.floats(0, 10**6))
def test_an_epoch_that_begins_anew_is_not(before: int, since: float) -> None:
    assert not plausible(before, since, 0)


@given(
    st.ip_addresses(),
    st.binary(min_size=12, max_size=12),
    st.integers(0, 65_535),
    st.integers(0, 2**32 - 1),
    st.sampled_from(Result),
)
def test_what_a_server_copies_comes_back(
    ip: object, nonce: bytes, port: int, lifetime: int, result: Result
) -> None:
    sent = MapRequest(str(ip), nonce, port, lifetime, (str(ip), port)).encode()
    head = struct.pack("!BBxBII12x", 2, sent[1] | 0x80, result, lifetime, 77)
    response = Response.parse(head + sent[24:])
    assert (response.result, response.lifetime, response.epoch) == (result, lifetime, 77)
    told = response.assigned
    assert told is not None
    assert (told.nonce, told.port) == (nonce, port)
    mapped = getattr(ip, "ipv4_mapped", None)
    assert told.external == (str(mapped or ip), port)


@given(st.binary(max_size=120) | st.binary(max_size=60).map(lambda data: b"\x02\x81" + data))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    version_offered(data)
    try:
        Response.parse(data)
    except MalformedPacket as error:
        assert 0 <= error.offset <= len(data)
