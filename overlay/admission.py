"""What a peer shows to be let in: a delegation and certificates, all public."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hipctl import Hit
from overlay.accounts import Delegation
from overlay.overlayfile import OverlayInfo


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the first RPC on an association carries.

    Attributes:
        delegation: DEV of the device, or None.
        certificates: DER, of the delegating account.
    """

    delegation: Delegation | None = None
    certificates: tuple[bytes, ...] = ()

    def encode(self) -> bytes:
        """Canonical bytes, at most 900; raises CredentialsRefused when they would be more."""
        raise NotImplementedError

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read what ``encode`` wrote; raises CredentialsRefused."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Admitted:
    """What credentials proved.

    Attributes:
        account: HIT of the account, or None where none was shown.
        aors: canonical AoRs that the device may speak as.
        expires: Unix seconds until which all of it holds.
    """

    account: Hit | None
    aors: tuple[str, ...]
    expires: int


def admit(credentials: Credentials, overlay: OverlayInfo, hit: Hit, wall: float) -> Admitted:
    """Judge what the peer at the other end of an association showed; raises CredentialsRefused.

    Args:
        credentials: as shown.
        overlay: which it wants to join.
        hit: the peer's, as the association proved it.
        wall: Unix seconds.
    """
    raise NotImplementedError


check = admit


@dataclass(frozen=True, slots=True)
class Account:
    """The public credentials file of an account, ``account.p2psip``.

    Attributes:
        delegations: one a device, at least.
        certificates: DER.
    """

    delegations: tuple[Delegation, ...]
    certificates: tuple[bytes, ...] = ()

    @property
    def hit(self) -> Hit:
        """HIT of the account."""
        return self.delegations[0].account.hit

    def credentials(self, device: Hit, overlay: OverlayInfo, wall: float) -> Credentials:
        """What ``device`` shows in ``overlay``: its newest delegation, certificates of its CA."""
        raise NotImplementedError

    def names(self, overlay: OverlayInfo, wall: float) -> dict[str, bytes | None]:
        """Canonical AoR held in ``overlay`` -> the certificate that a REG must carry, or None."""
        raise NotImplementedError


def parse_account(text: str) -> Account:
    """Read TOML; raises CredentialsRefused."""
    raise NotImplementedError


def format_account(account: Account) -> str:
    """Write TOML."""
    raise NotImplementedError


def load_account(path: Path) -> Account:
    """Read an account file; raises CredentialsRefused."""
    raise NotImplementedError


def save_account(account: Account, path: Path) -> None:
    """Write an account file, replacing it as a whole."""
    raise NotImplementedError
