"""What may be chosen about one host, and what is refused."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hipctl import contact as contacts
from hipctl.actions import Address
from hipctl.errors import HostConfigRefused, KeyFileRefused
from hipctl.identity import HostIdentity
from hipctl.settings import EngineConfig

_log = logging.getLogger(__name__)

HIP_PORT = 10_500  # RFC 9028 §7.3


@dataclass(frozen=True, slots=True)
class HostConfig:
    """How a host is set up.

    Attributes:
        listen: IP addresses and UDP ports; the first of a family is the one we send from.
        announce: what contacts say, at most two; empty for what can be found out.
        announce_private: whether what is found out may be private, link-local or loopback.
        mtu: bytes of the largest outer packet; longer datagrams travel as fragments.
        keylog: append the keys of every exchange to this file: for debugging only.
        engine: puzzle, lifetimes and limits.
    """

    listen: Sequence[Address] = (("0.0.0.0", HIP_PORT),)  # noqa: S104  a peer's whole purpose
    announce: Sequence[Address] = ()
    announce_private: bool = False
    mtu: int = 1_280
    keylog: Path | None = None
    engine: EngineConfig = field(default_factory=EngineConfig)


def check(identities: Sequence[HostIdentity], config: HostConfig) -> None:
    """Refuse what no host can run with.

    Raises:
        HostConfigRefused: the message says what to change.
    """
    if not identities:
        raise HostConfigRefused("a host needs an identity; make one with: hipctl keygen")
    if not config.listen:
        raise HostConfigRefused("a host must listen somewhere, e.g. on 0.0.0.0 port 10500")
    if config.mtu < 256:
        raise HostConfigRefused(f"an mtu of {config.mtu} is too small; 1280 fits everywhere")
    try:
        contacts.contact_from_addresses(config.announce)
    except ValueError as error:
        raise HostConfigRefused(f"announce: {error}") from None


def open_keylog(path: Path) -> int:
    """Open the key log for appending, readable by its owner only; say so in the log.

    Raises:
        KeyFileRefused: it cannot be written.
    """
    _log.warning("writing the keys of every association to %s: anybody with it reads them", path)
    try:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise KeyFileRefused(f"{path}: {error.strerror}; choose another file") from None
    try:
        os.fchmod(descriptor, 0o600)  # it may have been there, for all to read
    except OSError:
        os.close(descriptor)
        raise KeyFileRefused(f"{path} is not yours; choose another file") from None
    return descriptor
