"""A running call of two unmodified clients survives its peer's change of networks.

Measured on what the clients heard: RTP that reached them, and their recordings.
"""

import pytest
from net import handover, lab
from net.programs import require_program
from net.summary import Tell

pytestmark = [pytest.mark.net, pytest.mark.slow, pytest.mark.timeout(150)]


PAIRS = [("make-before-break", "silent-loss"), ("break-before-make", "IPv4-to-IPv6")]


def test_every_kind_of_change_is_measured() -> None:
    assert {kind for pair in PAIRS for kind in pair} == set(handover.KINDS)


@pytest.mark.parametrize("kinds", PAIRS, ids="+".join)
def test_a_call_goes_on_when_a_peer_changes_networks(kinds: tuple[str, str], tell: Tell) -> None:
    require_program("baresip")
    if why := lab.missing():
        pytest.skip(why)
    for kind, both in handover.measure(*kinds).items():
        for who, heard in both.items():
            line = f"{kind:>20}: {who} hears a gap of {heard.gap:.0f} ms"
            tell("calls that change networks", line)
