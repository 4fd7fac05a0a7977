"""How UPnP devices are found on a link (UPnP Device Architecture 1.1 §1), and which we believe.

Anybody on the link may answer. We go only where the answer itself came from, and only if that is
our router: nobody else can make us send requests anywhere, nor tell us an external address.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin, urlsplit

from hipctl.errors import MalformedPacket, Rejected
from hipctl.mapped import Uplink, Url

GROUP4: Final = "239.255.255.250"  # §1.1
GROUP6: Final = "ff02::c"  # annex A.2
PORT: Final = 1_900
MX: Final = 1  # seconds within which devices answer; a home has few
TARGETS: Final = (  # a later version answers to an earlier one's name (§1.3.2)
    "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
    "urn:schemas-upnp-org:service:WANIPConnection:1",  # where a root device is of another type
)

_LONGEST: Final = 2_048  # bytes of a message
_LONGEST_URL: Final = 512
_PLAIN: Final = re.compile("[!-~]*")


def search(host: str, target: str) -> bytes:
    """M-SEARCH (§1.3.2, §1.3.3).

    Args:
        host: where it is sent, an IP address.
        target: one of TARGETS.
    """
    shown = f"[{host}]" if ":" in host else host
    lines = (
        "M-SEARCH * HTTP/1.1",
        f"HOST: {shown}:{PORT}",
        'MAN: "ssdp:discover"',
        f"MX: {MX}",
        f"ST: {target}",
    )
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


@dataclass(frozen=True, slots=True)
class Advertisement:
    """What a device says of itself: asked (§1.3.3), or on its own (§1.2).

    Attributes:
        kind: of the device or service, ST or NT.
        location: URL of its description, if it is told.
        boot: a number that is another after each restart, if it is told.
        leaving: ssdp:byebye.
    """

    kind: str
    location: str
    boot: str
    leaving: bool

    @classmethod
    def parse(cls, data: bytes) -> "Advertisement":
        """Read an answer to M-SEARCH, or a NOTIFY.

        Raises:
            MalformedPacket: it is something else, as the searches of others are, or too long.
        """
        if len(data) > _LONGEST:
            raise MalformedPacket("SSDP message too long", _LONGEST)
        first, *lines = data.decode("latin-1").split("\n")
        notify = first.startswith("NOTIFY ")
        if not notify and re.match(r"HTTP/1\.[01] 200\b", first) is None:
            raise MalformedPacket("no SSDP answer")
        fields: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if colon:
                fields.setdefault(name.strip().lower(), value.strip())
        return cls(
            fields.get("nt" if notify else "st", ""),
            fields.get("location", ""),
            fields.get("bootid.upnp.org", ""),
            fields.get("nts", "").lower() == "ssdp:byebye",
        )


def believe(source: str, uplink: Uplink) -> bool:
    """Whether what comes from an address may be our router speaking.

    For IPv4 it must be the address of our default router: what it says would be announced. For
    IPv6 it may be any address of our link: a router has several, and nothing but our own address
    is announced in the end.
    """
    if uplink.is_router(source):
        return True
    if not uplink.six:
        return False
    ip, _, zone = source.partition("%")
    if ipaddress.ip_address(ip).is_link_local:
        return zone == uplink.link
    return any(ipaddress.ip_address(ip) in network for network in uplink.nearby)


def locate(location: str, source: str) -> Url:
    """The URL of a description, if it leads back to where the answer came from.

    Args:
        location: as the device has it.
        source: its IP address, with its zone if it is link-local.

    Raises:
        Rejected: it leads elsewhere, or isn't one that we would follow.
    """
    return resolve(Url(source, 80, "/"), location, absolute=True)


def resolve(base: Url, reference: str, *, absolute: bool = False) -> Url:
    """What a description's URL means; it may lead to another port, but not to another host.

    Args:
        base: where the description came from.
        reference: a URL, whole or relative to ``base``.
        absolute: whether it has to be whole.

    Raises:
        Rejected: it leads elsewhere, or isn't one that we would follow.
    """
    if len(reference) > _LONGEST_URL or not _PLAIN.fullmatch(reference):
        raise Rejected("strange URL from a UPnP device")
    ip = base.host.partition("%")[0]
    shown = f"[{ip}]" if ":" in ip else ip
    try:
        if not absolute:
            reference = urljoin(f"http://{shown}:{base.port}{base.path}", reference)
        parts = urlsplit(reference)
        host = str(ipaddress.ip_address((parts.hostname or "").partition("%")[0]))
        port = parts.port or 80
    except ValueError:
        raise Rejected("strange URL from a UPnP device") from None
    if parts.scheme != "http" or parts.username is not None or parts.password is not None:
        raise Rejected("strange URL from a UPnP device")
    if host != ip:
        raise Rejected("URL of a UPnP device leads elsewhere")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not path.startswith("/"):
        raise Rejected("strange URL from a UPnP device")
    return Url(base.host, port, path)
