"""A Kademlia overlay whose nodes are HITs. This file is the package's front door."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from overlay.accounts import canonical_aor, is_reserved, split_aor, uri_of
    from overlay.errors import (
        ConfigError,
        CredentialsRefused,
        LookupFailed,
        MalformedAor,
        NotFound,
        OverlayError,
    )
    from overlay.policy import Evidence, Policy, Verdict
    from overlay.services import Contacts, Peer, Provider, Service, Target, Trace

__all__ = [
    "ConfigError",
    "Contacts",
    "CredentialsRefused",
    "Evidence",
    "LookupFailed",
    "MalformedAor",
    "NotFound",
    "OverlayError",
    "Peer",
    "Policy",
    "Provider",
    "Service",
    "Target",
    "Trace",
    "Verdict",
    "canonical_aor",
    "is_reserved",
    "split_aor",
    "uri_of",
]

_ROOMS: Final = {  # whoever enters pays for the rooms that they use: commands start sooner
    "ConfigError": "overlay.errors",
    "Contacts": "overlay.services",
    "CredentialsRefused": "overlay.errors",
    "Evidence": "overlay.policy",
    "LookupFailed": "overlay.errors",
    "MalformedAor": "overlay.errors",
    "NotFound": "overlay.errors",
    "OverlayError": "overlay.errors",
    "Peer": "overlay.services",
    "Policy": "overlay.policy",
    "Provider": "overlay.services",
    "Service": "overlay.services",
    "Target": "overlay.services",
    "Trace": "overlay.services",
    "Verdict": "overlay.policy",
    "canonical_aor": "overlay.accounts",
    "is_reserved": "overlay.accounts",
    "split_aor": "overlay.accounts",
    "uri_of": "overlay.accounts",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Open a room when somebody wants what is in it (PEP 562)."""
        if name not in _ROOMS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(_ROOMS[name]), name)
        return found
