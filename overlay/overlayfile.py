"""An overlay is a file: its id, domain, admission, the keys of its CA, and seeds."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from hipctl import Hit, HostId, HostIdentity

Admission = Literal["open", "enrolled"]


class Seed(NamedTuple):
    """A peer to join through: ``HIT@host:port``."""

    hit: Hit
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.hit}@{host}:{self.port}"


def parse_seed(text: str) -> Seed:
    """Read ``HIT@host:port`` (an IPv6 address in brackets; the port may be left out: 10500).

    Raises:
        ValueError: it is none; the message says why.
    """
    raise NotImplementedError


@dataclass(frozen=True, slots=True)
class OverlayInfo:
    """An overlay, as all its members know it.

    Attributes:
        id: 32 bytes.
        domain: host part of its AoRs, lower case.
        admission: ``open``, or ``enrolled``: only who shows a certificate of the CA gets in.
        ca: keys of the CA, the founding one first; empty without a CA.
        seeds: peers to join through.
        successions: for each later CA key the signature by the one before.
    """

    id: bytes
    domain: str
    admission: Admission
    ca: tuple[HostId, ...] = ()
    seeds: tuple[Seed, ...] = ()
    successions: tuple[bytes, ...] = ()


def found_overlay(
    domain: str,
    *,
    ca: HostId | None = None,
    admission: Admission = "open",
    seeds: tuple[Seed, ...] = (),
    rng: Callable[[int], bytes],
) -> OverlayInfo:
    """Make a new overlay; its id is random without a CA.

    Raises:
        MalformedAor: the domain is none.
        CredentialsRefused: enrolled without a CA.
    """
    raise NotImplementedError


def succeed_ca(info: OverlayInfo, old: HostIdentity, new: HostId) -> OverlayInfo:
    """Let the newest CA key name its successor."""
    raise NotImplementedError


def parse_overlay(text: str) -> OverlayInfo:
    """Read TOML; raises CredentialsRefused."""
    raise NotImplementedError


def format_overlay(info: OverlayInfo) -> str:
    """Write TOML."""
    raise NotImplementedError


def load_overlay(path: Path) -> OverlayInfo:
    """Read an overlay file; raises CredentialsRefused."""
    raise NotImplementedError


def save_overlay(info: OverlayInfo, path: Path) -> None:
    """Write an overlay file, replacing it as a whole."""
    raise NotImplementedError
