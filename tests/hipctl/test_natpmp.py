"""NAT-PMP packets as RFC 6886 draws them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipctl.errors import MalformedPacket
from hipctl.natpmp import (
    AddressResponse,
    MapResponse,
    address_request,
    map_request,
    parse,
    plausible,
)


def test_requests_lie_as_in_sections_3_2_and_3_3() -> None:
    assert address_request().hex() == "0000"
    assert map_request(10_500, 10_501, 7_200).hex() == "00010000" + "29042905" + "00001c20"
    assert map_request(10_500, 0, 0).hex() == "00010000" + "29040000" + "00000000"


def test_answers_of_a_real_router() -> None:
    assert parse(bytes.fromhex("008000000000001605090101")) == AddressResponse(0, 22, "5.9.1.1")
    mapped = parse(bytes.fromhex("00810000000000162904290400001c20"))
    assert mapped == MapResponse(0, 22, 10_500, 10_500, 7_200)


def test_errors_are_read_with_the_port_that_they_are_about() -> None:
    refused = parse(bytes.fromhex("00810002000000162904000000000000"))
    assert refused == MapResponse(2, 22, 10_500, 0, 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00800000000000",
        "0080000000000016050901",
        "008100000000001629042904001c20",
        "02800000000000160509010100000000",  # PCP
        "008200000000001629042904000020001c",  # TCP, which we never ask for
        "000000000000001605090101",  # a request
    ],
)
def test_what_is_no_response_is_refused(text: str) -> None:
    with pytest.raises(MalformedPacket):
        parse(bytes.fromhex(text))


@pytest.mark.parametrize(
    ("before", "since", "epoch", "kept"),
    [
        (100, 80.0, 180, True),
        (100, 80.0, 168, True),  # 100 + 70 - 2
        (100, 80.0, 167, False),
        (100, 80.0, 9_000, True),  # only going back means a restart here
        (100, 0.0, 98, True),
        (100, 0.0, 0, False),
    ],
)
def test_the_epoch_tells_whether_the_router_has_kept_its_state(
    before: int, since: float, epoch: int, kept: bool
) -> None:
    assert plausible(before, since, epoch) is kept


@given(st.binary(max_size=40) | st.binary(max_size=20).map(lambda data: b"\0\x81" + data))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        parse(data)
    except MalformedPacket as error:
        assert 0 <= error.offset <= len(data)
