"""What the commands about accounts and overlays share: the overlay that is meant."""

from pathlib import Path
from typing import TYPE_CHECKING

from overlay.errors import ConfigError

if TYPE_CHECKING:
    from overlay.config import JoinedOverlay, Profile


def pick(
    profile: Path, name: str = "", *, new_account: bool = False
) -> "tuple[Profile, JoinedOverlay]":
    """Read a profile and pick one of its overlays: the named one, or the only one.

    Args:
        profile: its file.
        name: of the overlay, or empty.
        new_account: the account file needn't be there.

    Raises:
        ConfigError: the profile is wrong, or it isn't clear which overlay is meant.
    """
    from overlay.config import load_profile

    loaded = load_profile(profile, new_account=new_account)
    names = ", ".join(loaded.overlays)
    if not name and len(loaded.overlays) == 1:
        (name,) = loaded.overlays
    if not name:
        raise ConfigError(f"the profile has several overlays; say --overlay and one of: {names}")
    if name not in loaded.overlays:
        raise ConfigError(f"the profile has no overlay {name}; it has: {names}")
    return loaded, loaded.overlays[name]
