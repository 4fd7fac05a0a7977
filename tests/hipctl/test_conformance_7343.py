"""What RFC 7343 asks for and no other test shows; docs/conformance/rfc7343.md says which row."""

import hashlib
from ipaddress import IPv6Address, IPv6Network

import pytest

from hipctl.constants import EccCurve, HitSuite
from hipctl.identity import HostIdentity, orchid

CONTEXT = bytes.fromhex("F0EFF02FBFF43D0FE7930C3C6E6174EA")  # RFC 7401 §3.2


@pytest.mark.parametrize("curve", list(EccCurve))
def test_an_orchid_is_put_together_as_section_2_says(curve: EccCurve) -> None:
    host_id = HostIdentity.from_secret(5, curve).host_id
    bits = int.from_bytes(host_id.hit, "big")
    digest = int(hashlib.sha384(CONTEXT + host_id.encoded).hexdigest(), 16)
    assert IPv6Address(bits) in IPv6Network("2001:20::/28")
    assert bits >> 96 & 0xF == HitSuite.ECDSA_SHA384
    assert bits & (1 << 96) - 1 == digest >> (384 - 96) // 2 & (1 << 96) - 1


def test_the_algorithm_is_part_of_the_orchid() -> None:
    encoded = HostIdentity.from_secret(5).host_id.encoded
    one, other = (orchid(suite, encoded) for suite in HitSuite)
    assert (one.suite, other.suite) == (1, 2)
    assert one[4:] != other[4:]
