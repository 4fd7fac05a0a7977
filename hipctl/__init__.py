"""HIP for asyncio: identities, associations, and datagrams addressed by HIT.

This file is the package's front door (``hipctl.sansio`` is the other one). Read in this order:
interface, constants, params, packet, exchange, association, engine, host.
"""

from hipctl.contact import contact_from_addresses
from hipctl.certs import (
    Certified,
    host_id_of_spki,
    issue_certificate,
    read_certificate,
    spki_of,
    verify_certificate,
)
from hipctl.errors import (
    AssociationFailed,
    HipError,
    HostConfigRefused,
    KeyFileRefused,
    MalformedPacket,
    PortInUse,
    Rejected,
)
from hipctl.identity import Hit, HostId, HostIdentity
from hipctl.interface import AssociationDown, AssociationUp, Endpoint, Event, Host, OnDatagram

__all__ = [
    "AssociationDown",
    "AssociationFailed",
    "AssociationUp",
    "Certified",
    "Endpoint",
    "Event",
    "HipError",
    "Hit",
    "Host",
    "HostConfigRefused",
    "HostId",
    "HostIdentity",
    "KeyFileRefused",
    "MalformedPacket",
    "OnDatagram",
    "PortInUse",
    "Rejected",
    "contact_from_addresses",
    "host_id_of_spki",
    "issue_certificate",
    "read_certificate",
    "spki_of",
    "verify_certificate",
]
