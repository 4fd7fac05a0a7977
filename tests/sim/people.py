"""A cast for tests of identity: an overlay with a CA, accounts, devices. Always the same keys."""

from dataclasses import dataclass

from hipctl import HostIdentity
from overlay.accounts import AccountKey, Delegation, self_certifying_aor
from overlay.admission import certify
from overlay.overlayfile import OverlayInfo, found_overlay

WALL = 1_790_000_000  # Unix seconds
DAY = 86_400
DOMAIN = "example.org"


def counted(length: int) -> bytes:
    """An rng without chance."""
    return bytes(range(1, length + 1))


def identity(number: int) -> HostIdentity:
    """The identity with this number."""
    return HostIdentity.from_secret(number)


@dataclass(frozen=True)
class Person:
    """An account, a device, and its delegation for 300 days from WALL."""

    account: AccountKey
    device: HostIdentity
    delegation: Delegation

    @property
    def own_aor(self) -> str:
        """The AoR that certifies itself."""
        return self_certifying_aor(self.account.hit, DOMAIN)


def person(number: int) -> Person:
    """The person with this number."""
    account, device = AccountKey(identity(1000 + number)), identity(2000 + number)
    return Person(account, device, account.delegate(device.hit, WALL + 300 * DAY, number))


CA = identity(1)
OTHER_CA = identity(2)
ALICE, BOB = person(1), person(2)
OVERLAY = found_overlay(DOMAIN, ca=CA.host_id, rng=counted)
ENROLLED = found_overlay(DOMAIN, ca=CA.host_id, admission="enrolled", rng=counted)
OTHER_OVERLAY = found_overlay("other.example", ca=OTHER_CA.host_id, rng=counted)
ALICE_AOR, BOB_AOR = f"sip:alice@{DOMAIN}", f"sip:bob@{DOMAIN}"


def certificate(
    who: Person,
    *aors: str,
    ca: HostIdentity = CA,
    overlay: OverlayInfo = OVERLAY,
    wall: float = WALL,
    life: int = 180 * DAY,
) -> bytes:
    """DER that gives these AoRs to an account."""
    return certify(ca, overlay, who.account.host_id, aors, wall, counted, life=life)
