"""Profiles: one TOML file, one frozen struct per table, no defaults hidden elsewhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from overlay.admission import Account
from overlay.constants import ALPHA, REPLICAS, K
from overlay.overlayfile import OverlayInfo, Seed

S = TypeVar("S", bound=msgspec.Struct)


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all tables have in common."""


class PeerTable(_Table):
    """``[peer]``: the process.

    Attributes:
        state: directory for the store, own records and the control socket.
        contacts: file of petnames and blocked AoRs.
        policy: entry point that judges who may ring.
    """

    state: Path = Path("state")
    contacts: Path = Path("contacts.toml")
    policy: str = "contacts"


class IdentityTable(_Table):
    """``[identity.NAME]``: a HIT of this peer.

    Attributes:
        key: PEM file of mode 0600.
    """

    key: Path


class HostTable(_Table):
    """``[host]``: the HIP host.

    Attributes:
        listen: ``address:port`` for UDP-encapsulated HIP.
        announce: ``address:port`` to tell others in contacts, in place of our own addresses.
        private_addresses: contacts may hold private addresses.
        keylog: file for the secrets of every exchange, for debugging only.
    """

    listen: str = "0.0.0.0:10500"
    announce: tuple[str, ...] = ()
    private_addresses: bool = False
    keylog: Path | None = None


class OverlayTable(_Table):
    """``[overlay.NAME]``: an overlay to join.

    Attributes:
        identity: name of an ``[identity.NAME]``.
        file: the overlay file.
        account: public credentials file, or None to take part without a name.
        seeds: ``HIT@host:port`` besides those in the overlay file.
        k: bucket size.
        replicas: copies of a record.
        alpha: requests of one lookup in flight.
        services: name -> its own table, checked by the service.
    """

    identity: str
    file: Path
    account: Path | None = None
    seeds: tuple[str, ...] = ()
    k: int = K
    replicas: int = REPLICAS
    alpha: int = ALPHA
    services: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)


class JoinedOverlay(msgspec.Struct, frozen=True, kw_only=True):
    """One overlay of a profile, with all that its files say."""

    name: str
    table: OverlayTable
    info: OverlayInfo
    account: Account | None
    seeds: tuple[Seed, ...]


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """A whole profile; paths are absolute or relative to the working directory."""

    path: Path
    peer: PeerTable
    host: HostTable
    identities: dict[str, IdentityTable]
    overlays: dict[str, JoinedOverlay]


def check_table(cls: type[S], table: Mapping[str, Any], path: str, base: Path | None = None) -> S:
    """Make a struct from a TOML table; raises ConfigError that starts with ``path`` and the key."""
    raise NotImplementedError


def load_profile(path: Path) -> Profile:
    """Read a profile and the overlay and account files it names; raises ConfigError."""
    raise NotImplementedError
