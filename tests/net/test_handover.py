"""A running call of two unmodified clients survives its peer's change of networks.

Measured on what the clients heard: RTP that reached them, and their recordings.
"""

import pytest
from net import handover, lab
from net.programs import require_program
from net.summary import Tell

pytestmark = [pytest.mark.net, pytest.mark.slow, pytest.mark.timeout(150)]


@pytest.mark.parametrize("kind", handover.KINDS)
def test_a_call_goes_on_when_a_peer_changes_networks(kind: str, tell: Tell) -> None:
    require_program("baresip")
    if why := lab.missing():
        pytest.skip(why)
    for who, heard in handover.measure(kind).items():
        tell("calls that change networks", f"{kind:>20}: {who} hears a gap of {heard.gap:.0f} ms")
