"""HIP for asyncio: identities, associations, and datagrams addressed by HIT.

This file is the package's front door (``hipctl.sansio`` is the other one). Read in this order:
interface, constants, params, packet, exchange, association, engine, host.
"""

from hipctl.certs import (
    Certified,
    host_id_of_spki,
    issue_certificate,
    read_certificate,
    read_self_signed,
    spki_of,
    verify_certificate,
)
from hipctl.constants import HIP_PORT, RegistrationFailure, RegistrationType
from hipctl.contact import contact_from_addresses
from hipctl.control import Answer, ControlServer, parse_request, socket_path
from hipctl.control import ask as ask_control
from hipctl.credentials import PacketSizes
from hipctl.errors import (
    AssociationFailed,
    ControlRefused,
    ControlUnavailable,
    Hides,
    HipError,
    HostConfigRefused,
    KeyFileRefused,
    MalformedPacket,
    NotRunning,
    PortInUse,
    RegistrationRefused,
    Rejected,
)
from hipctl.host import LocalHost
from hipctl.hostconfig import HostConfig
from hipctl.hostcontrol import HostControl
from hipctl.identity import Hit, HostId, HostIdentity
from hipctl.interface import (
    Admission,
    AssociationDown,
    AssociationUp,
    ContactChanged,
    CredentialPolicy,
    Endpoint,
    Event,
    Host,
    LanPeer,
    Nat,
    Offer,
    OnDatagram,
    Reachability,
    Registered,
    RegistrationEnded,
    Served,
    Shown,
    Woke,
)
from hipctl.links import absent_links
from hipctl.settings import EngineConfig

__all__ = [
    "HIP_PORT",
    "Admission",
    "Answer",
    "AssociationDown",
    "AssociationFailed",
    "AssociationUp",
    "Certified",
    "ContactChanged",
    "ControlRefused",
    "ControlServer",
    "ControlUnavailable",
    "CredentialPolicy",
    "Endpoint",
    "EngineConfig",
    "Event",
    "Hides",
    "HipError",
    "Hit",
    "Host",
    "HostConfig",
    "HostConfigRefused",
    "HostControl",
    "HostId",
    "HostIdentity",
    "KeyFileRefused",
    "LanPeer",
    "LocalHost",
    "MalformedPacket",
    "Nat",
    "NotRunning",
    "Offer",
    "OnDatagram",
    "PacketSizes",
    "PortInUse",
    "Reachability",
    "Registered",
    "RegistrationEnded",
    "RegistrationFailure",
    "RegistrationRefused",
    "RegistrationType",
    "Rejected",
    "Served",
    "Shown",
    "Woke",
    "absent_links",
    "ask_control",
    "contact_from_addresses",
    "host_id_of_spki",
    "issue_certificate",
    "parse_request",
    "read_certificate",
    "read_self_signed",
    "socket_path",
    "spki_of",
    "verify_certificate",
]
