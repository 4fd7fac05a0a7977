"""Shell: one overlay that this peer takes part in, what it shows there, and who may ring."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from hipctl import Hit
from overlay.admission import Credentials, admit
from overlay.config import JoinedOverlay
from overlay.constants import DAY
from overlay.directory import Directory
from overlay.errors import ConfigError, CredentialsRefused
from overlay.node import Node
from overlay.policy import Policy
from overlay.providers import Providers

_log = logging.getLogger(__name__)

EXPIRES_SOON: Final = 30 * DAY
RENEW: Final = "p2psip account restore, or a new certificate of the CA"
POLICIES: Final = "p2psip.policies"


@dataclass(frozen=True, slots=True)
class Membership:
    """One overlay that this peer takes part in.

    Attributes:
        joined: its tables and files.
        hit: by which of our HITs we take part.
        node: our node in it.
        directory: names in it.
        providers: services in it.
    """

    joined: JoinedOverlay
    hit: Hit
    node: Node
    directory: Directory
    providers: Providers


def credentials_in(joined: JoinedOverlay, device: Hit, wall: float) -> Credentials:
    """What our device shows to be let in.

    Raises:
        ConfigError: the overlay would not let it in; the message says what to do.
    """
    where, account, info = f"overlay.{joined.name}.account", joined.account, joined.info
    if account is None:
        if info.admission == "enrolled":
            raise ConfigError(f"{where}: missing, but the overlay lets in only certified accounts")
        return Credentials()
    shown = account.credentials(device, info, wall)
    if shown.delegation is None:
        raise ConfigError(
            f"{where}: account {account.hit} does not speak through this device, {device}, now; "
            "type: p2psip account restore"
        )
    try:
        admitted = admit(shown, info, device, wall)
    except CredentialsRefused as error:
        raise ConfigError(
            f"{where}: the overlay would not let you in ({error}); have its CA certify a name: "
            "p2psip account export, p2psip ca issue, p2psip account add-certificate"
        ) from None
    if admitted.expires < wall + EXPIRES_SOON:
        days = int(admitted.expires - wall) // DAY
        _log.warning("%s: ends in %d days; renew it: %s", where, days, RENEW)
    return shown


def load_policy(name: str, installed: Iterable[EntryPoint] | None = None) -> Policy:
    """Construct the policy that a profile names.

    Raises:
        ConfigError: no installed package brings it.
    """
    points = entry_points(group=POLICIES) if installed is None else installed
    by_name = {point.name: point for point in points}
    if name not in by_name:
        raise ConfigError(f"peer.policy: {name!r} is not installed; have {sorted(by_name)}")
    policy: Policy = by_name[name].load()()
    return policy
