"""One mapping at one UPnP router: found, described, asked, watched and deleted.

An IGD of version 2 gives another external port where ours is taken (AddAnyPortMapping); with one
of version 1 we try others. For IPv6 there is a pinhole in its firewall instead.
"""

from collections.abc import Mapping
from dataclasses import replace
from enum import Enum, auto
from typing import Final

from hipctl import igd, ssdp
from hipctl.errors import MalformedPacket, Rejected
from hipctl.igd import Answer, Fault, Service
from hipctl.mapped import (
    NO_PUBLIC_ADDRESS,
    Action,
    Fetch,
    Mapped,
    Protocol,
    Random,
    Search,
    Settings,
    State,
    Uplink,
    Url,
    spread,
)
from hipctl.sansio import Timers

_SEARCHES: Final = (1.0, 2.0, 3.0)  # seconds after each; multicast gets lost
_MOST_LOCATIONS: Final = 3  # of descriptions that one search reads
_AFTER_RESTART: Final = 2.0  # seconds: wait 0 to this, as not all its clients at once
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 120.0  # seconds between searches for one that we had
_BUSY: Final = 1.0  # seconds, while another call is under way
_MOST_PORTS: Final = 5  # external ones that are tried
_FIRST_PORT, _LAST_PORT = 49_152, 65_535
_REFUSED: Final = 1_800.0  # seconds that a refusal is believed
_DESCRIPTION: Final = "HIP"
_UDP: Final = 17
_GATEWAY: Final = "urn:schemas-upnp-org:device:InternetGatewayDevice:"

_NOT_THERE: Final = {Fault.INVALID_ACTION, Fault.OPTIONAL_ACTION_NOT_IMPLEMENTED}
_TAKEN: Final = {
    Fault.CONFLICT_IN_MAPPING_ENTRY,
    Fault.CONFLICT_WITH_OTHER_MECHANISMS,
    Fault.ACTION_FAILED,  # what some say instead
}
_NO_LEASES: Final = {Fault.ONLY_PERMANENT_LEASES_SUPPORTED, Fault.INVALID_ARGS}
_REFUSALS: Final[Mapping[int, str]] = {
    Fault.NOT_AUTHORIZED: "the router refuses port mappings to this device",
    Fault.FIREWALL_DISABLED: "the router's IPv6 firewall is off: nothing has to be opened",
    Fault.INBOUND_PINHOLE_NOT_ALLOWED: "the router lets nobody open its IPv6 firewall",
    Fault.SAME_PORT_VALUES_REQUIRED: "another device has this port at the router",
    Fault.NO_PORT_MAPS_AVAILABLE: "the router cannot make another port mapping",
}


class Timer(Enum):
    """What it waits for."""

    SEARCH = auto()  # answers to a search
    RESTART = auto()  # time to search again for a router that we had
    CHECK = auto()
    RENEW = auto()
    EXPIRE = auto()


class Step(Enum):
    """What the call is about that is under way."""

    DESCRIPTION = auto()
    EXTERNAL = auto()  # our address there, to begin with
    ADD = auto()
    CHECK = auto()  # the address again
    ENTRY = auto()  # whether the mapping is there


class IgdControl:
    """Searches, asks, checks, renews, and deletes in the end.

    Attributes:
        state: see State.
        mapped: what the router has made.
        failure: why there is no mapping, in words for people.
        retry_at: in FAILED: when asking again makes sense.
    """

    def __init__(self, uplink: Uplink, port: int, settings: Settings, rng: Random) -> None:
        """Set up; ``start`` begins.

        Args:
            uplink: which router, and for which address of ours.
            port: our UDP port.
            settings: what was chosen.
            rng: random bytes.
        """
        self._uplink = uplink
        self._port = port
        self._settings = settings
        self._rng = rng
        self._timers = Timers[Timer]()
        self._number = 0
        self._waiting: tuple[int, Step] | None = None
        self._searches: int | None = None  # how many were sent of those under way
        self._locations: list[Url] = []  # that this search has found
        self._described = 0  # how many of them were read
        self._boot = ""
        self._gone = False
        self._pause = _FIRST_PAUSE
        self._services: list[Service] = []  # that are left to try
        self._service: Service | None = None
        self._ip = ""  # external
        self._external = port
        self._tries = 0
        self._any = True  # whether AddAnyPortMapping is there
        self._lease = settings.lease
        self._pinhole = ""
        self._asked = False  # whether there may be a mapping
        self.state = State.IDLE
        self.mapped: Mapped | None = None
        self.failure = ""
        self.retry_at = 0.0

    # inputs

    def deadline(self) -> float | None:
        """When ``on_time`` is due."""
        return self._timers.deadline()

    def start(self, now: float) -> list[Action]:
        """Search and ask, whatever was before."""
        self._clear()
        self.mapped = None
        self.failure = ""
        self.state = State.ASKING
        self._lease = self._settings.lease
        self._any = True
        return self._search(now)

    def abandon(self) -> None:
        """Ask no more: another protocol was quicker. What may have come of it ends in ``stop``."""
        self._clear()
        self.state = State.IDLE

    def stop(self) -> list[Action]:
        """Delete what there is or may be."""
        self._clear()
        self.mapped = None
        self.state = State.IDLE
        if not self._asked or self._service is None:
            return []
        self._asked = False
        if not self._uplink.six:
            return self._call(Step.ADD, "DeletePortMapping", self._entry())
        return self._call(Step.ADD, "DeletePinhole", {"UniqueID": self._pinhole})

    def on_answer(self, data: bytes, source: str) -> list[Action]:
        """An answer to a search.

        Args:
            data: the datagram.
            source: the IP address from which it came, with its zone if it is link-local.

        Raises:
            MalformedPacket: it is no SSDP.
            Rejected: nobody waits for it, or it isn't our router's.
        """
        if self._searches is None:
            raise Rejected("UPnP answer that nobody waits for")
        if not ssdp.believe(source, self._uplink):
            raise Rejected("UPnP answer of somebody who isn't our router")
        told = ssdp.Advertisement.parse(data)
        location = ssdp.locate(told.location, source)
        if location in self._locations or len(self._locations) >= _MOST_LOCATIONS:
            return []
        self._boot, self._gone = told.boot, False
        self._locations.append(location)
        return self._describe() if self._waiting is None else []

    def on_notify(self, data: bytes, source: str, now: float) -> None:
        """What a router says of itself: whether it has restarted; see ``on_answer``.

        Raises:
            MalformedPacket: it is no SSDP.
        """
        if self.state is not State.MAPPED or not ssdp.believe(source, self._uplink):
            return
        told = ssdp.Advertisement.parse(data)
        if not told.kind.startswith(_GATEWAY):
            return
        if told.leaving:
            self._gone = True
        elif self._gone or told.boot != self._boot:
            self._gone, self._boot = False, told.boot
            self._timers.set(Timer.RESTART, now + spread(self._rng, 0.0, _AFTER_RESTART))

    def on_reply(self, number: int, reply: tuple[int, bytes] | None, now: float) -> list[Action]:
        """What a Fetch came to.

        Args:
            number: that of the Fetch.
            reply: HTTP status and body, or None: none in time.
            now: monotonic seconds.
        """
        if self._waiting is None or self._waiting[0] != number:
            return []
        step, self._waiting = self._waiting[1], None
        try:
            if step is Step.DESCRIPTION:
                return self._on_description(reply, now)
            if reply is None or reply[0] not in (200, 500):  # 500: a fault (§3.1.3 of UDA 1.1)
                return self._lost("the router's UPnP doesn't answer", now)
            return self._on[step](self, igd.parse_answer(reply[1]), now)
        except MalformedPacket as error:
            return self._lost(f"the router's UPnP answers nonsense: {error.reason}", now)

    def on_time(self, now: float) -> list[Action]:
        """Fire what is due."""
        actions: list[Action] = []
        for timer in self._timers.expired(now):
            actions += self._due[timer](self, now)
        return actions

    # finding it

    def _search(self, now: float) -> list[Action]:
        self._waiting = None
        self._searches = 0
        self._locations = []
        self._described = 0
        self._timers.stop(Timer.RESTART)
        return self._search_on(now)

    def _search_on(self, now: float) -> list[Action]:
        if self._searches is None:
            return []
        if self._searches >= len(_SEARCHES):
            self._searches = None
            if self._waiting is not None:
                return []  # its answer decides
            why = "the router doesn't offer it"
            if self._locations:
                why = "the router offers UPnP, but no port mappings"
            return self._lost(why, now)
        self._timers.set(Timer.SEARCH, now + _SEARCHES[self._searches])
        self._searches += 1
        return [Search(self._uplink)]

    def _describe(self) -> list[Action]:
        location = self._locations[self._described]
        self._described += 1
        return [self._fetch(Step.DESCRIPTION, location)]

    def _on_description(self, reply: tuple[int, bytes] | None, now: float) -> list[Action]:
        services: list[Service] = []
        if reply is not None and reply[0] == 200:
            try:
                base = self._locations[self._described - 1]
                services = igd.parse_description(reply[1], base)
            except MalformedPacket:
                pass  # no better than none
        self._services = [
            each for each in services if (each.kind == igd.FIREWALL1) is self._uplink.six
        ]
        if self._services:
            self._searches = None
            self._timers.stop(Timer.SEARCH)
            return self._try_service(now)
        if self._described < len(self._locations):
            return self._describe()
        if self._searches is None:
            return self._lost("the router offers UPnP, but no port mappings", now)
        return []  # another may answer yet

    def _try_service(self, now: float) -> list[Action]:
        if not self._services:
            return self._lost(NO_PUBLIC_ADDRESS, now)
        self._service = self._services.pop(0)
        self._tries = 0
        return self._add() if self._uplink.six else self._ask_external(Step.EXTERNAL)

    # asking it

    def _fetch(self, step: Step, url: Url, action: str = "", body: bytes = b"") -> Fetch:
        self._number += 1
        self._waiting = self._number, step
        return Fetch(self._uplink, self._number, url, action, body)

    def _call(self, step: Step, action: str, arguments: Mapping[str, str | int]) -> list[Action]:
        service = self._service
        if service is None:
            return []
        body = igd.call(service.kind, action, arguments)
        return [self._fetch(step, service.control, f"{service.kind}#{action}", body)]

    def _ask_external(self, step: Step) -> list[Action]:
        return self._call(step, "GetExternalIPAddress", {})

    def _on_external(self, answer: Answer, now: float) -> list[Action]:
        ip = igd.parse_ip(answer.values.get("NewExternalIPAddress", ""))
        if ip is None:
            return self._try_service(now)
        self._ip = ip
        return self._add()

    def _on_checked(self, answer: Answer, now: float) -> list[Action]:
        ip = igd.parse_ip(answer.values.get("NewExternalIPAddress", ""))
        if ip is None or self.mapped is None:
            return []  # it has lost its connection; the mapping may be good again later
        self._ip = ip
        self.mapped = replace(self.mapped, external=(ip, self._external))
        return self._call(Step.ENTRY, "GetSpecificPortMappingEntry", self._entry())

    def _entry(self) -> dict[str, str | int]:
        return {"NewRemoteHost": "", "NewExternalPort": self._external, "NewProtocol": "UDP"}

    def _on_entry(self, answer: Answer, now: float) -> list[Action]:
        client = answer.values.get("NewInternalClient", self._uplink.ip)
        if answer.fault == Fault.NO_SUCH_ENTRY_IN_ARRAY or client != self._uplink.ip:
            self._tries = 0
            return self._add()
        return []  # there it is, or it cannot be told

    def _add(self) -> list[Action]:
        self._asked = True
        if self._uplink.six:
            return self._add_pinhole()
        action = "AddPortMapping"
        if self._service and self._service.kind == igd.IP2 and self._any:
            action = "AddAnyPortMapping"
        more: dict[str, str | int] = {
            "NewInternalPort": self._port,
            "NewInternalClient": self._uplink.ip,
            "NewEnabled": 1,
            "NewPortMappingDescription": _DESCRIPTION,
            "NewLeaseDuration": self._lease,
        }
        return self._call(Step.ADD, action, self._entry() | more)

    def _add_pinhole(self) -> list[Action]:
        if self._pinhole:
            renewed: dict[str, str | int] = {
                "UniqueID": self._pinhole,
                "NewLeaseTime": self._lease,
            }
            return self._call(Step.ADD, "UpdatePinhole", renewed)
        wanted: dict[str, str | int] = {
            "RemoteHost": "",
            "RemotePort": 0,
            "InternalClient": self._uplink.ip,
            "InternalPort": self._port,
            "Protocol": _UDP,
            "LeaseTime": self._lease,
        }
        return self._call(Step.ADD, "AddPinhole", wanted)

    def _on_added(self, answer: Answer, now: float) -> list[Action]:
        if answer.fault:
            return self._on_fault(answer, now)
        if self._uplink.six:
            pinhole = answer.values.get("UniqueID", self._pinhole)
            self._pinhole = pinhole if pinhole.isdecimal() else ""
            self._granted((self._uplink.ip, self._port), now)
            return []
        reserved = answer.values.get("NewReservedPort", "")
        if reserved.isdecimal() and 0 < int(reserved) < 65_536:
            self._external = int(reserved)
        self._granted((self._ip, self._external), now)
        return []

    def _on_fault(self, answer: Answer, now: float) -> list[Action]:
        fault = answer.fault
        if self._pinhole:  # it has forgotten it, or given its number to another
            self._pinhole = ""
            return self._add()
        if not self._uplink.six:
            if self._any and fault in _NOT_THERE:
                self._any = False
                return self._add()
            if self._lease and fault in _NO_LEASES:
                self._lease = 0
                return self._add()
            if fault in _TAKEN and self._tries < _MOST_PORTS:
                self._tries += 1
                self._external = int(spread(self._rng, _FIRST_PORT, _LAST_PORT + 1))
                return self._add()
        said = f" ({answer.reason})" if answer.reason else ""
        self._asked = False
        why = _REFUSALS.get(fault, f"the router answers with error {fault}{said}")
        return self._fail(why, now, _REFUSED)

    def _granted(self, external: tuple[str, int], now: float) -> None:
        self.state = State.MAPPED
        self.failure = ""
        self._tries = 0
        self._pause = _FIRST_PAUSE
        lifetime = float(self._lease or self._settings.lease)
        internal = self._uplink.ip, self._port
        self.mapped = Mapped(
            external, internal, Protocol.UPNP, self._uplink.router, lifetime, now + lifetime
        )
        for timer in Timer:
            self._timers.stop(timer)
        self._timers.set(Timer.EXPIRE, now + lifetime)
        self._timers.set(Timer.RENEW, now + lifetime * self._settings.renew)
        self._timers.set(Timer.CHECK, now + self._settings.check)

    # keeping it

    def _check(self, now: float) -> list[Action]:
        """Is it there, at the same address? Without word from the router nothing else tells."""
        self._timers.set(Timer.CHECK, now + self._settings.check)
        if self._waiting is not None or self._searches is not None:
            return []
        return self._add() if self._uplink.six else self._ask_external(Step.CHECK)

    def _renew(self, now: float) -> list[Action]:
        if self._waiting is not None or self._searches is not None:
            self._timers.set(Timer.RENEW, now + _BUSY)
            return []
        self._tries = 0
        return self._add()

    def _expire(self, now: float) -> list[Action]:
        return self._fail("the router has stopped answering", now)

    # losing it

    def _lost(self, why: str, now: float) -> list[Action]:
        """It doesn't answer: if there is a mapping, it may be restarting, at another port."""
        if self.mapped is None:
            return self._fail(why, now)
        self._searches = None
        self._timers.stop(Timer.SEARCH)
        self._timers.set(Timer.RESTART, now + self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return []

    def _fail(self, why: str, now: float, after: float = 0.0) -> list[Action]:
        self._clear()
        self.mapped = None
        self.failure = why
        self.state = State.FAILED
        self.retry_at = now + after
        return []

    def _clear(self) -> None:
        for timer in Timer:
            self._timers.stop(timer)
        self._waiting = None
        self._searches = None

    _on: Final = {
        Step.EXTERNAL: _on_external,
        Step.ADD: _on_added,
        Step.CHECK: _on_checked,
        Step.ENTRY: _on_entry,
    }

    _due: Final = {
        Timer.SEARCH: _search_on,
        Timer.RESTART: _search,
        Timer.CHECK: _check,
        Timer.RENEW: _renew,
        Timer.EXPIRE: _expire,
    }
