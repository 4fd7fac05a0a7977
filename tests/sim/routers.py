"""Home routers in virtual time: PCP, NAT-PMP and UPnP servers, and a Mapper beside them.

Written apart from hipctl's codecs, so that a mistake there shows here.
"""

import heapq
import ipaddress
import random
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hipctl.mapped import Action, Ask, Fetch, Mapped, MappingsChanged, Search, Settings, Uplink
from hipctl.mapping import Mapper

LAN = "192.168.77.1"
HOST = "192.168.77.2"
PORT = 10_500
HTTP_PORT = 5_000
HOME = Uplink(HOST, LAN, "eth0")
SIX = Uplink("2a00:77::2", "fe80::1%eth0", "eth0", nearby=(ipaddress.IPv6Network("2a00:77::/64"),))


def mapped(ip: str) -> bytes:
    packed = ipaddress.ip_address(ip).packed
    return packed if len(packed) == 16 else b"\0" * 10 + b"\xff\xff" + packed


@dataclass
class Entry:
    ip: str
    port: int
    expires: float
    nonce: bytes = b""
    pinhole: int = 0


@dataclass
class Router:
    """What it can, and what it has mapped.

    Attributes:
        speaks: of "PCP", "NAT-PMP", "UPnP".
        rejects: whether a closed port is answered by ICMP.
        external: its WAN address.
        taken: external ports of others.
        most: seconds of the longest mapping.
        igd: version of the UPnP device, 0: without any mapping service.
        only_permanent: UPnP leases must be 0.
        any_port: whether AddAnyPortMapping is there, in version 2.
        refuses: PCP or NAT-PMP result, or UPnP fault, for each new mapping.
        error_lifetime: seconds, of PCP errors.
        boot: of UPnP; changed by ``restart``.
        http: whether it answers by HTTP.
    """

    speaks: set[str]
    rejects: bool = True
    external: str = "5.9.1.1"
    taken: set[int] = field(default_factory=set)
    most: float = 1e9
    igd: int = 2
    only_permanent: bool = False
    any_port: bool = True
    refuses: int = 0
    error_lifetime: int = 1_800
    boot: int = 1
    http: bool = True
    since: float = 0.0
    nat: dict[int, Entry] = field(default_factory=dict)
    holes: dict[str, Entry] = field(default_factory=dict)
    requests: list[tuple[float, str]] = field(default_factory=list)

    def restart(self, now: float) -> None:
        """Lose everything."""
        self.since = now
        self.boot += 1
        self.nat.clear()
        self.holes.clear()

    def open(self, now: float) -> dict[int, tuple[str, int]]:
        """External port -> (IP, port), of what is mapped now."""
        return {port: (e.ip, e.port) for port, e in self.nat.items() if e.expires > now}

    def pinholes(self, now: float) -> set[tuple[str, int]]:
        return {(e.ip, e.port) for e in self.holes.values() if e.expires > now}

    def _map(self, ip: str, port: int, wish: int, until: float, nonce: bytes = b"") -> int:
        for external, entry in self.nat.items():
            if (entry.ip, entry.port) == (ip, port):
                self.nat[external] = Entry(ip, port, until, nonce)
                return external
        while not wish or wish in self.taken or wish in self.nat:
            wish = wish % 60_000 + 1_024
        self.nat[wish] = Entry(ip, port, until, nonce)
        return wish

    def _unmap(self, ip: str, port: int) -> None:
        self.nat = {x: e for x, e in self.nat.items() if (e.ip, e.port) != (ip, port)}

    # PCP and NAT-PMP

    def on_udp(self, ip: str, data: bytes, now: float) -> bytes | None:
        """Answer a datagram to port 5351; None: ICMP port unreachable; b"": nothing."""
        speaks = self.speaks & {"PCP", "NAT-PMP"}
        if not speaks:
            return None if self.rejects else b""
        epoch = int(now - self.since)
        if data[0] == 2:
            self.requests.append((now, f"PCP {data[1]}"))
            if "PCP" in speaks:
                return self._pcp(ip, data, now, epoch)
            return struct.pack("!BBHI", 0, 0, 1, epoch)
        self.requests.append((now, f"NAT-PMP {data[1]}"))
        if "NAT-PMP" not in speaks:
            return struct.pack("!BBBBII", 2, 0x80 | data[1], 0, 1, 1_800, epoch) + bytes(12)
        return self._natpmp(ip, data, now, epoch)

    def _pcp(self, ip: str, data: bytes, now: float, epoch: int) -> bytes:
        def answer(result: int, lifetime: int, body: bytes = b"") -> bytes:
            return struct.pack("!BBBBII12x", 2, data[1] | 0x80, 0, result, lifetime, epoch) + body

        lifetime = int.from_bytes(data[4:8], "big")
        if data[8:24] != mapped(ip):
            return answer(12, 1_800, data[24:])
        if data[1] == 0:
            return answer(0, 0)
        nonce, protocol, port, wish = struct.unpack_from("!12sBxxxHH", data, 24)
        assert protocol == 17
        if self.refuses:
            return answer(self.refuses, self.error_lifetime, data[24:])
        if not lifetime:
            self._unmap(ip, port)
            self.holes.pop(ip, None)
            return answer(0, 0, data[24:])
        old = [e for e in self.nat.values() if (e.ip, e.port) == (ip, port) and e.expires > now]
        if old and old[0].nonce != nonce:
            return answer(2, int(old[0].expires - now), data[24:])
        granted = min(lifetime, self.most)
        external = self.external
        if ":" in ip:
            self.holes[ip] = Entry(ip, port, now + granted, nonce)
            external, wish = ip, port
        else:
            wish = self._map(ip, port, wish, now + granted, nonce)
        body = struct.pack("!12sBxxxHH", nonce, 17, port, wish) + mapped(external)
        return answer(0, int(granted), body)

    def _natpmp(self, ip: str, data: bytes, now: float, epoch: int) -> bytes:
        if data[1] == 0:
            packed = ipaddress.ip_address(self.external).packed
            return struct.pack("!BBHI", 0, 128, 0, epoch) + packed
        port, wish, lifetime = struct.unpack_from("!HHI", data, 4)
        if self.refuses:
            return struct.pack("!BBHIHHI", 0, 129, self.refuses, epoch, port, 0, 0)
        if not lifetime:
            self._unmap(ip, port)
            return struct.pack("!BBHIHHI", 0, 129, 0, epoch, port, 0, 0)
        granted = int(min(lifetime, self.most))
        wish = self._map(ip, port, wish, now + granted)
        return struct.pack("!BBHIHHI", 0, 129, 0, epoch, port, wish, granted)

    def announcement(self, now: float) -> bytes:
        """What it says by multicast after a restart."""
        epoch = int(now - self.since)
        if "PCP" in self.speaks:
            return struct.pack("!BBBBII12x", 2, 0x80, 0, 0, 0, epoch)
        return struct.pack("!BBHI", 0, 128, 0, epoch) + ipaddress.ip_address(self.external).packed

    # UPnP

    def on_search(self, host: str) -> bytes | None:
        """Answer an M-SEARCH."""
        if "UPnP" not in self.speaks:
            return None
        return (
            "HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n"
            f"LOCATION: http://{host}:{HTTP_PORT}/root.xml\r\n"
            f"BOOTID.UPNP.ORG: {self.boot}\r\n\r\n"
        ).encode()

    def notification(self, leaving: bool = False) -> bytes:
        """NOTIFY."""
        nts = "ssdp:byebye" if leaving else "ssdp:alive"
        return (
            "NOTIFY * HTTP/1.1\r\nNT: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n"
            f"NTS: {nts}\r\nBOOTID.UPNP.ORG: {self.boot}\r\n\r\n"
        ).encode()

    def on_http(self, fetch: Fetch, now: float) -> tuple[int, bytes] | None:
        """Answer a request."""
        if not self.http or "UPnP" not in self.speaks:
            return None
        if not fetch.action:
            return 200, self._describe()
        service, _, action = fetch.action.partition("#")
        self.requests.append((now, action))
        found = re.findall(rb"<(\w+)>([^<]*)</\1>", fetch.body)
        given = {name.decode(): value.decode() for name, value in found}
        answer = self._call(action, given, fetch.uplink.ip, now)
        if isinstance(answer, int):
            inside = (
                "<s:Fault><detail><UPnPError><errorCode>"
                f"{answer}</errorCode><errorDescription>No</errorDescription></UPnPError>"
                "</detail></s:Fault>"
            )
            return 500, f'<s:E xmlns:s="x"><s:Body>{inside}</s:Body></s:E>'.encode()
        values = "".join(f"<{name}>{value}</{name}>" for name, value in answer.items())
        inside = f'<u:{action}Response xmlns:u="{service}">{values}</u:{action}Response>'
        return 200, f'<s:E xmlns:s="x"><s:Body>{inside}</s:Body></s:E>'.encode()

    def _describe(self) -> bytes:
        kinds = {
            0: ["Layer3Forwarding:1"],
            1: ["WANIPConnection:1"],
            2: ["WANIPConnection:2", "WANIPv6FirewallControl:1"],
        }[self.igd]
        services = "".join(
            f"<service><serviceType>urn:schemas-upnp-org:service:{kind}</serviceType>"
            f"<controlURL>/{kind.partition(':')[0]}</controlURL></service>"
            for kind in kinds
        )
        return f"<root><device><serviceList>{services}</serviceList></device></root>".encode()

    def _call(
        self, action: str, given: dict[str, str], ip: str, now: float
    ) -> dict[str, object] | int:
        match action:
            case "GetExternalIPAddress":
                return {"NewExternalIPAddress": self.external}
            case "AddPortMapping" | "AddAnyPortMapping":
                return self._add(action, given, ip, now)
            case "GetSpecificPortMappingEntry":
                entry = self.nat.get(int(given["NewExternalPort"]))
                there = entry is not None and entry.expires > now
                return {"NewInternalClient": entry.ip} if entry and there else 714
            case "DeletePortMapping":
                gone = self.nat.pop(int(given["NewExternalPort"]), None)
                return {} if gone else 714
            case "AddPinhole" | "UpdatePinhole" | "DeletePinhole":
                return self._pinhole(action, given, ip, now)
        return 401

    def _pinhole(
        self, action: str, given: dict[str, str], ip: str, now: float
    ) -> dict[str, object] | int:
        if action == "AddPinhole":
            if self.refuses:
                return self.refuses
            assert given["Protocol"] == "17"
            until = now + float(given["LeaseTime"])
            number = len(self.requests)
            self.holes[ip] = Entry(ip, int(given["InternalPort"]), until, b"", number)
            return {"UniqueID": number}
        hole = self.holes.get(ip)
        if hole is None or str(hole.pinhole) != given["UniqueID"]:
            return 704
        if action == "DeletePinhole":
            del self.holes[ip]
        else:
            hole.expires = now + float(given["NewLeaseTime"])
        return {}

    def _add(
        self, action: str, given: dict[str, str], ip: str, now: float
    ) -> dict[str, object] | int:
        assert (given["NewProtocol"], given["NewInternalClient"]) == ("UDP", ip)
        lease = float(given["NewLeaseDuration"])
        external, port = int(given["NewExternalPort"]), int(given["NewInternalPort"])
        if self.refuses:
            return self.refuses
        if action == "AddAnyPortMapping" and (self.igd < 2 or not self.any_port):
            return 401
        if self.only_permanent and lease:
            return 725
        until = now + (lease or 1e12)
        if action == "AddAnyPortMapping":
            return {"NewReservedPort": self._map(ip, port, external, until)}
        held = self.nat.get(external)
        if external in self.taken or (held and held.ip != ip):
            return 718
        self.nat[external] = Entry(ip, port, until)
        return {}


class World:
    """A Mapper and its routers, by the address at which they are asked.

    Attributes:
        now: seconds.
        changes: (when, what may be announced).
        lost: decides whether a datagram to or from a router is lost.
    """

    def __init__(
        self,
        routers: dict[str, Router],
        uplinks: Sequence[Uplink] = (HOME,),
        settings: Settings | None = None,
        seed: int = 1,
        announce_private: bool = False,
    ) -> None:
        self.now = 0.0
        self.changes: list[tuple[float, tuple[Mapped, ...]]] = []
        self.lost: Callable[[], bool] = lambda: False
        self.asked: list[tuple[float, Action]] = []
        self.routers = routers
        self._dice = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[float], list[Action]]]] = []
        self._count = 0
        self.mapper = Mapper(PORT, settings or Settings(), self._dice.randbytes, announce_private)
        self.do(self.mapper.set_uplinks(uplinks, self.now))

    @property
    def told(self) -> list[tuple[str, int]]:
        """External addresses that may be announced."""
        return [each.external for each in self.changes[-1][1]] if self.changes else []

    def later(self, delay: float, step: Callable[[float], list[Action]]) -> None:
        """Let something happen."""
        self._count += 1
        heapq.heappush(self._events, (self.now + delay, self._count, step))

    def run(self, seconds: float) -> None:
        """Let time pass; no more than 100 events a second on average may happen in it."""
        until = self.now + seconds
        for _ in range(1_000 + int(100 * seconds)):
            due = self.mapper.deadline()
            if self._events and (due is None or self._events[0][0] <= due):
                at, _, step = self._events[0]
                if at > until:
                    break
                heapq.heappop(self._events)
                self.now = max(at, self.now)
                self.do(step(self.now))
            elif due is not None and due <= until:
                self.now = max(due, self.now)
                self.do(self.mapper.on_time(self.now))
            else:
                break
        else:
            raise AssertionError("it never comes to rest")
        self.now = until

    def do(self, actions: Sequence[Action]) -> None:
        """Perform what the mapper asks for."""
        for action in actions:
            self.asked.append((self.now, action))
            match action:
                case Ask(uplink=uplink, data=data):
                    self._ask(uplink, data)
                case Search(uplink=uplink):
                    self._search(uplink)
                case Fetch():
                    self._fetch(action)
                case MappingsChanged(mapped=mapped):
                    self.changes.append((self.now, mapped))

    def _ask(self, uplink: Uplink, data: bytes) -> None:
        router = self.routers.get(uplink.router)

        def arrive(now: float) -> list[Action]:
            answer = router.on_udp(uplink.ip, data, now) if router else b""
            if answer is None:
                self.later(0.001, lambda now: self.mapper.on_refused(uplink, now))
            elif answer and not self.lost():
                source = uplink.router, 5_351
                self.later(0.001, lambda now: self.mapper.on_datagram(uplink, answer, source, now))
            return []

        if not self.lost():
            self.later(0.001, arrive)

    def _search(self, uplink: Uplink) -> None:
        router = self.routers.get(uplink.router)
        ip = uplink.router.partition("%")[0]
        answer = router.on_search(f"[{ip}]" if ":" in ip else ip) if router else None
        if answer and not self.lost():
            self.later(
                self._dice.uniform(0.001, 1.0),
                lambda now: self.mapper.on_answer(uplink, answer, uplink.router, now),
            )

    def _fetch(self, fetch: Fetch) -> None:
        router = self.routers.get(fetch.url.host)
        reply = router.on_http(fetch, self.now) if router else None
        self.later(
            0.005 if reply else 5.0,
            lambda now: self.mapper.on_reply(fetch.uplink, fetch.number, reply, now),
        )
