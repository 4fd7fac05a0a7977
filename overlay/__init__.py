"""A Kademlia overlay whose nodes are HITs. This file is the package's front door."""

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
