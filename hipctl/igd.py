"""UPnP Internet Gateway Devices, version 1 and 2: what they describe, and how they are called.

WANIPConnection:1 and :2, WANPPPConnection:1, WANIPv6FirewallControl:1. XML from strangers: no
document types, so no entities; depth, elements and sizes are bounded.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final
from xml.parsers import expat

from hipctl.errors import MalformedPacket, Rejected
from hipctl.mapped import Url
from hipctl.ssdp import resolve

LONGEST: Final = 64 * 1_024  # bytes of a document; real ones have a tenth of it

IP2: Final = "urn:schemas-upnp-org:service:WANIPConnection:2"
IP1: Final = "urn:schemas-upnp-org:service:WANIPConnection:1"
PPP1: Final = "urn:schemas-upnp-org:service:WANPPPConnection:1"
FIREWALL1: Final = "urn:schemas-upnp-org:service:WANIPv6FirewallControl:1"

_DEEPEST: Final = 32  # elements within each other
_MOST_ELEMENTS: Final = 4_096
_MOST_SERVICES: Final = 4  # of one kind that we would try
_LONGEST_VALUE: Final = 200  # characters that are of any use
_ENVELOPE: Final = (
    '<?xml version="1.0"?>\r\n'
    '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" '
    's:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/">'
    '<s:Body><u:{action} xmlns:u="{service}">{arguments}</u:{action}></s:Body></s:Envelope>\r\n'
)


class Fault(IntEnum):
    """Errors that we can do something about, of both kinds of services."""

    INVALID_ACTION = 401
    INVALID_ARGS = 402
    ACTION_FAILED = 501
    OPTIONAL_ACTION_NOT_IMPLEMENTED = 602
    NOT_AUTHORIZED = 606
    FIREWALL_DISABLED = 702
    INBOUND_PINHOLE_NOT_ALLOWED = 703
    NO_SUCH_ENTRY_IN_ARRAY = 714
    CONFLICT_IN_MAPPING_ENTRY = 718
    SAME_PORT_VALUES_REQUIRED = 724
    ONLY_PERMANENT_LEASES_SUPPORTED = 725
    NO_PORT_MAPS_AVAILABLE = 728
    CONFLICT_WITH_OTHER_MECHANISMS = 729


@dataclass(frozen=True, slots=True)
class Service:
    """A service of a device.

    Attributes:
        kind: its type, an URN.
        control: where it is called.
    """

    kind: str
    control: Url


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call came to.

    Attributes:
        values: the output arguments.
        fault: 0, or a Fault that may be unknown to us.
        reason: the device's own words for it, printable and short.
    """

    values: Mapping[str, str]
    fault: int = 0
    reason: str = ""


def parse_description(document: bytes, base: Url) -> list[Service]:
    """The services that we can use, of the device and all within it, the best kind first.

    Args:
        document: the device's description.
        base: where it came from.

    Raises:
        MalformedPacket: it isn't XML as described above.
    """
    found: list[Service] = []
    kind = control = ""
    for name, text in _elements(document):
        if name == "URLBase" and text:  # UPnP Device Architecture 1.0 §2.1
            try:
                base = resolve(base, text)
            except Rejected:
                continue
        elif name == "serviceType":
            kind = text
        elif name == "controlURL":
            control = text
        elif name == "service":
            try:
                if kind in (IP2, IP1, PPP1, FIREWALL1):
                    found.append(Service(kind, resolve(base, control)))
            except Rejected:
                pass
            kind = control = ""
    best = {IP2: 0, IP1: 1, PPP1: 2, FIREWALL1: 3}
    found.sort(key=lambda each: best[each.kind])
    translating = [each for each in found if each.kind != FIREWALL1]
    firewalls = [each for each in found if each.kind == FIREWALL1]
    return translating[:_MOST_SERVICES] + firewalls[:_MOST_SERVICES]


def call(service: str, action: str, arguments: Mapping[str, str | int]) -> bytes:
    """The body of a call (UPnP Device Architecture 1.1 §3.1.1); values need no escaping."""
    written = "".join(f"<{name}>{value}</{name}>" for name, value in arguments.items())
    return _ENVELOPE.format(action=action, service=service, arguments=written).encode()


def parse_answer(document: bytes) -> Answer:
    """What a device answers to a call.

    Raises:
        MalformedPacket: it isn't XML as described above.
    """
    values = dict(_elements(document))
    code = values.get("errorCode", "")
    if "Fault" not in values and not code:
        return Answer(values)
    reason = values.get("errorDescription", "") or values.get("faultstring", "")
    printable = "".join(char for char in reason if char.isprintable())[:60]
    return Answer({}, int(code) if code.isdecimal() and len(code) < 6 else -1, printable)


def parse_ip(text: str) -> str | None:
    """An IPv4 address that a device names; None where it names none, as when not connected."""
    try:
        ip = ipaddress.IPv4Address(text)
    except ValueError:
        return None
    return None if ip.is_unspecified or ip.is_multicast or ip.is_loopback else str(ip)


def _elements(document: bytes) -> list[tuple[str, str]]:
    """(name without prefix, text) of each element, where it ends.

    Raises:
        MalformedPacket: it isn't XML, has a document type, or is larger than anybody needs.
    """
    if len(document) > LONGEST:
        raise MalformedPacket("XML too long", LONGEST)
    reader = _Reader()
    try:
        text = document.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = document.decode("latin-1")  # names that a router's owner typed
    try:
        reader.parser.Parse(text.rstrip("\0 \r\n\t").encode(), True)
    except (expat.ExpatError, ValueError):
        raise MalformedPacket("no XML", max(reader.parser.ErrorByteIndex, 0)) from None
    return reader.found


class _Reader:
    """Collects; whatever it raises comes out of ``Parse``."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []
        self.parser = expat.ParserCreate("utf-8")  # whatever the document says of itself
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.EntityDeclHandler = self._refuse
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self._open: list[list[str]] = []
        self._count = 0

    def _refuse(self, *_: object) -> None:
        raise MalformedPacket("XML with a document type", self.parser.CurrentByteIndex)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if len(self._open) >= _DEEPEST or self._count > _MOST_ELEMENTS:
            raise MalformedPacket("XML too large", self.parser.CurrentByteIndex)
        self._open.append([])

    def _text(self, text: str) -> None:
        if self._open:
            self._open[-1].append(text)

    def _end(self, name: str) -> None:
        text = "".join(self._open.pop()).strip()
        self.found.append((name.rpartition(":")[2], text[:_LONGEST_VALUE]))
