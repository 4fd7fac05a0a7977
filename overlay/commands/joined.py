"""What the commands about accounts and overlays share: the overlay that is meant, certificates."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from overlay.errors import ConfigError

if TYPE_CHECKING:
    from hipctl import HostId, HostIdentity
    from overlay.config import JoinedOverlay, Profile


def pick(profile: Path, name: str = "") -> "tuple[Profile, JoinedOverlay]":
    """Read a profile and pick one of its overlays: the named one, or the only one.

    Raises:
        ConfigError: the profile is wrong, or it isn't clear which overlay is meant.
    """
    from overlay.config import load_profile

    loaded = load_profile(profile)
    names = ", ".join(loaded.overlays)
    if not name and len(loaded.overlays) == 1:
        (name,) = loaded.overlays
    if not name:
        raise ConfigError(f"the profile has several overlays; say --overlay and one of: {names}")
    if name not in loaded.overlays:
        raise ConfigError(f"the profile has no overlay {name}; it has: {names}")
    return loaded, loaded.overlays[name]


def issue_name_certificate(
    ca: "HostIdentity", subject: "HostId", aor: str, not_after: int
) -> bytes:
    """Sign a certificate (DER) that gives ``aor`` to the account ``subject``.

    Args:
        ca: newest key of the overlay's CA.
        subject: the account.
        aor: canonical.
        not_after: Unix seconds.
    """
    from hipctl import issue_certificate
    from overlay.accounts import uri_of

    return issue_certificate(
        ca,
        subject,
        [uri_of(aor)],
        not_before=int(time.time()) - 300,  # clocks differ
        not_after=not_after,
        serial=b"\x01" + os.urandom(7),  # positive, without a leading zero
    )
