"""HIP for asyncio: identities, associations, and datagrams addressed by HIT.

This file is the package's front door (``hipctl.sansio`` is the other one). Read in this order:
interface, constants, params, packet, exchange, association, engine, host.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
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

_ROOMS: Final = {  # whoever enters pays for the rooms that they use: commands start sooner
    "Admission": "hipctl.interface",
    "Answer": "hipctl.control",
    "AssociationDown": "hipctl.interface",
    "AssociationFailed": "hipctl.errors",
    "AssociationUp": "hipctl.interface",
    "Certified": "hipctl.certs",
    "ContactChanged": "hipctl.interface",
    "ControlRefused": "hipctl.errors",
    "ControlServer": "hipctl.control",
    "ControlUnavailable": "hipctl.errors",
    "CredentialPolicy": "hipctl.interface",
    "Endpoint": "hipctl.interface",
    "EngineConfig": "hipctl.settings",
    "Event": "hipctl.interface",
    "HIP_PORT": "hipctl.constants",
    "Hides": "hipctl.errors",
    "HipError": "hipctl.errors",
    "Hit": "hipctl.identity",
    "Host": "hipctl.interface",
    "HostConfig": "hipctl.hostconfig",
    "HostConfigRefused": "hipctl.errors",
    "HostControl": "hipctl.hostcontrol",
    "HostId": "hipctl.identity",
    "HostIdentity": "hipctl.identity",
    "KeyFileRefused": "hipctl.errors",
    "LanPeer": "hipctl.interface",
    "LocalHost": "hipctl.host",
    "MalformedPacket": "hipctl.errors",
    "Nat": "hipctl.interface",
    "NotRunning": "hipctl.errors",
    "Offer": "hipctl.interface",
    "OnDatagram": "hipctl.interface",
    "PacketSizes": "hipctl.credentials",
    "PortInUse": "hipctl.errors",
    "Reachability": "hipctl.interface",
    "Registered": "hipctl.interface",
    "RegistrationEnded": "hipctl.interface",
    "RegistrationFailure": "hipctl.constants",
    "RegistrationRefused": "hipctl.errors",
    "RegistrationType": "hipctl.constants",
    "Rejected": "hipctl.errors",
    "Served": "hipctl.interface",
    "Shown": "hipctl.interface",
    "Woke": "hipctl.interface",
    "absent_links": "hipctl.links",
    "ask_control": "hipctl.control:ask",
    "contact_from_addresses": "hipctl.contact",
    "host_id_of_spki": "hipctl.certs",
    "issue_certificate": "hipctl.certs",
    "parse_request": "hipctl.control",
    "read_certificate": "hipctl.certs",
    "read_self_signed": "hipctl.certs",
    "socket_path": "hipctl.control",
    "spki_of": "hipctl.certs",
    "verify_certificate": "hipctl.certs",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Open a room when somebody wants what is in it (PEP 562)."""
        if name not in _ROOMS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        room, _, there = _ROOMS[name].partition(":")
        found = globals()[name] = getattr(import_module(room), there or name)
        return found
