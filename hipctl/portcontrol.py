"""One mapping at one router by PCP, or by NAT-PMP where the router is older (RFC 6887, RFC 6886).

Both have the same ports; the first packet is PCP's, and a router that only knows NAT-PMP says so
(RFC 6887 appendix A).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum, auto
from typing import Final

from hipctl import natpmp, pcp
from hipctl.errors import Rejected
from hipctl.mapped import (
    NO_PUBLIC_ADDRESS,
    Action,
    Address,
    Ask,
    Mapped,
    Protocol,
    Random,
    Settings,
    State,
    Uplink,
    spread,
)
from hipctl.sansio import Timers

# RFC 6887
_IRT: Final = 3.0  # seconds, §8.1.1
_RAND: Final = 0.1  # §8.1.1
_LONGEST_LIFETIME: Final = 86_400.0  # seconds that we believe, §15
_SHORTEST_WAIT: Final = 4.0  # seconds between renewals, §11.2.1
_AFTER_RESTART: Final = 5.0  # seconds: wait 0 to this, §14.1.3
# ours
_ATTEMPTS: Final = 4  # within 45 s, where nothing says that there is a server at all
_LONGEST_WAIT: Final = 60.0  # seconds between renewals at a router that is restarting
_SHORTEST_LIFETIME: Final = 20.0  # seconds: a mapping that ends sooner is worth nothing
_LONGEST_REFUSAL: Final = 1_800.0  # seconds that an error is believed, §9
_SHORTEST_REFUSAL: Final = 30.0  # seconds, §7.4
_NO_ADDRESS: Final = ("0.0.0.0", "::")  # noqa: S104

_VERSIONS: Final = {Protocol.PCP: pcp.VERSION, Protocol.NAT_PMP: natpmp.VERSION}
_REFUSALS: Final[Mapping[int, str]] = {
    pcp.Result.NOT_AUTHORIZED: "the router refuses port mappings to this device",
    pcp.Result.NETWORK_FAILURE: NO_PUBLIC_ADDRESS,
    pcp.Result.NO_RESOURCES: "the router cannot make another port mapping",
    pcp.Result.USER_EX_QUOTA: "the router allows this device no more port mappings",
    pcp.Result.ADDRESS_MISMATCH: "another NAT lies between this device and the router",
}
_REFUSALS_NATPMP: Final[Mapping[int, str]] = {
    natpmp.Result.NOT_AUTHORIZED: _REFUSALS[pcp.Result.NOT_AUTHORIZED],
    natpmp.Result.NETWORK_FAILURE: _REFUSALS[pcp.Result.NETWORK_FAILURE],
    natpmp.Result.OUT_OF_RESOURCES: _REFUSALS[pcp.Result.NO_RESOURCES],
}


class Timer(Enum):
    """What it waits for."""

    SEND = auto()  # the answer to what we have asked, before there is a mapping
    RENEW = auto()
    CHECK = auto()
    EXPIRE = auto()


class PortControl:
    """Asks, renews, watches for restarts, and deletes in the end.

    Attributes:
        state: see State.
        mapped: what the router has made.
        failures: by protocol, why there is no mapping, in words for people.
        retry_at: in FAILED: when asking again makes sense.
    """

    def __init__(self, uplink: Uplink, port: int, settings: Settings, rng: Random) -> None:
        """Set up; ``start`` begins.

        Args:
            uplink: whom to ask, and from where.
            port: our UDP port.
            settings: what was chosen.
            rng: random bytes.
        """
        self._uplink = uplink
        self._port = port
        self._settings = settings
        self._rng = rng
        self._nonce = rng(pcp.NONCE_LENGTH)
        self._timers = Timers[Timer]()
        self._protocol = Protocol.PCP
        self._suggested: Address | None = None
        self._older = False  # the router has said that it speaks NAT-PMP
        self._external_ip: str | None = None  # told by NAT-PMP, apart from the mapping
        self._epoch: tuple[int, float] | None = None  # and when it was told
        self._asked: set[Protocol] = set()  # by which there may be a mapping
        self._wait = _IRT
        self._attempts = 0
        self._granted = 0.0  # when
        self._renewals = 0  # since then
        self._renewed_at = float("-inf")
        self._checked_at = float("-inf")
        self._recovering = False
        self._again = 0.0  # when, while recovering
        self._refused_until = 0.0  # by PCP, while NAT-PMP is tried
        self.state = State.IDLE
        self.mapped: Mapped | None = None
        self.failures: dict[Protocol, str] = {}
        self.retry_at = 0.0

    # inputs

    def deadline(self) -> float | None:
        """When ``on_time`` is due."""
        return self._timers.deadline()

    def start(self, now: float) -> list[Action]:
        """Ask, whatever was before."""
        self._clear()
        self.mapped = None
        self.failures = {}
        self._refused_until = now
        self._older = Protocol.PCP not in self._settings.protocols
        for protocol in (Protocol.PCP, Protocol.NAT_PMP):
            if self._allowed(protocol):
                return self._begin(protocol, now)
        self.state = State.FAILED
        return []

    def abandon(self) -> None:
        """Ask no more: another protocol was quicker. What may have come of it ends in ``stop``."""
        self._clear()
        self.state = State.IDLE

    def stop(self) -> list[Action]:
        """Delete what there is or may be (RFC 6887 §15, RFC 6886 §3.4)."""
        self._clear()
        self.mapped = None
        self.state = State.IDLE
        actions: list[Action] = []
        if Protocol.PCP in self._asked:
            request = pcp.MapRequest(self._uplink.ip, self._nonce, self._port, 0)
            actions.append(Ask(self._uplink, request.encode()))
        if Protocol.NAT_PMP in self._asked:
            actions.append(Ask(self._uplink, natpmp.map_request(self._port, 0, 0)))
        self._asked.clear()
        return actions

    def on_datagram(self, data: bytes, now: float, announced: bool = False) -> list[Action]:
        """A packet of the router's.

        Args:
            data: what it says.
            now: monotonic seconds.
            announced: it came by multicast.

        Raises:
            MalformedPacket: it is none of the two protocols.
            Rejected: it isn't an answer to what we have asked.
        """
        if self.state in (State.IDLE, State.FAILED):
            raise Rejected("port control answer that nobody waits for")
        offered = pcp.version_offered(data)
        if offered is not None:
            return self._on_version(offered, now) if not announced else []
        if data[:1] == bytes((natpmp.VERSION,)):
            return self._on_natpmp(data, now, announced)
        return self._on_pcp(data, now, announced)

    def on_refused(self, now: float) -> list[Action]:
        """Nobody has the router's port (RFC 6886 §3.1), or there is no way to it."""
        if self.state is State.ASKING:
            if self._protocol is Protocol.PCP and self._allowed(Protocol.NAT_PMP):
                self.failures[Protocol.NAT_PMP] = "the router doesn't offer it"
            self._fail("the router doesn't offer it", now)
        elif self.state is State.MAPPED:  # it may be about to restart
            self._recover(now + _SHORTEST_WAIT)
        return []

    def on_time(self, now: float) -> list[Action]:
        """Fire what is due."""
        actions: list[Action] = []
        for timer in self._timers.expired(now):
            actions += self._due[timer](self, now)
        return actions

    # asking

    def _begin(self, protocol: Protocol, now: float) -> list[Action]:
        self._protocol = protocol
        self.state = State.ASKING
        self._attempts = 0
        self._epoch = None
        self._wait = _IRT if protocol is Protocol.PCP else natpmp.FIRST_WAIT
        return self._send(now)

    def _send(self, now: float) -> list[Action]:
        """Ask, and again if there is no answer."""
        if self._attempts >= (natpmp.ATTEMPTS if self._older else _ATTEMPTS):
            return self._next("the router doesn't answer", now)
        self._attempts += 1
        wait = self._wait
        if self._protocol is Protocol.PCP:
            wait *= 1 + spread(self._rng, -_RAND, _RAND)
        self._wait = 2 * wait
        self._timers.set(Timer.SEND, now + wait)
        if self._protocol is Protocol.NAT_PMP and self._external_ip is None:
            return [Ask(self._uplink, natpmp.address_request())]
        return [self._request()]

    def _request(self) -> Ask:
        self._asked.add(self._protocol)
        suggested = self._suggested
        if self._protocol is Protocol.NAT_PMP:
            wish = suggested[1] if suggested else self._port
            data = natpmp.map_request(self._port, wish, self._settings.lifetime)
            return Ask(self._uplink, data)
        if suggested is None:
            anything = "::" if self._uplink.six else "0.0.0.0"  # noqa: S104
            suggested = anything, self._port
        request = pcp.MapRequest(
            self._uplink.ip, self._nonce, self._port, self._settings.lifetime, suggested
        )
        return Ask(self._uplink, request.encode())

    def _next(self, why: str, now: float, lifetime: float = 0.0) -> list[Action]:
        """PCP has failed: try NAT-PMP; else there is nothing more to try."""
        failed = self._protocol
        if failed is Protocol.PCP and self._allowed(Protocol.NAT_PMP):
            self.failures[failed] = why
            self._refused_until = now + lifetime
            self._external_ip = None
            return self._begin(Protocol.NAT_PMP, now)
        self._fail(why, now, lifetime)
        return []

    def _allowed(self, protocol: Protocol) -> bool:
        return protocol in self._settings.protocols and not (
            protocol is Protocol.NAT_PMP and self._uplink.six
        )

    def _fail(self, why: str, now: float, lifetime: float = 0.0) -> None:
        self._clear()
        self.mapped = None
        self.failures[self._protocol] = why
        self.state = State.FAILED
        self.retry_at = max(self._refused_until, now + lifetime)

    def _clear(self) -> None:
        for timer in Timer:
            self._timers.stop(timer)
        self._recovering = False

    # answers

    def _on_version(self, offered: int, now: float) -> list[Action]:
        if self.state is not State.ASKING or offered == _VERSIONS[self._protocol]:
            raise Rejected("port control answer that nobody waits for")
        self._asked.discard(self._protocol)
        self._older = offered == natpmp.VERSION
        return self._next("the router speaks another version of it", now)

    def _on_pcp(self, data: bytes, now: float, announced: bool) -> list[Action]:
        response = pcp.Response.parse(data)
        if self._protocol is not Protocol.PCP:
            raise Rejected("port control answer that nobody waits for")
        told = response.assigned
        if told is None:
            if response.opcode != pcp.Opcode.ANNOUNCE:
                raise Rejected("port control answer that nobody waits for")
        elif (told.nonce, told.protocol, told.port) != (self._nonce, pcp.UDP, self._port):
            raise Rejected("PCP response of another mapping")
        elif announced:
            raise Rejected("PCP mapping by multicast")
        self._check_epoch(response.epoch, now, pcp.plausible)
        if told is None:
            return []
        if response.result != pcp.Result.SUCCESS:
            why = _words(_REFUSALS, response.result)
            return self._on_refusal(why, now, response.lifetime)
        return self._on_granted(told.external, response.lifetime, now)

    def _on_natpmp(self, data: bytes, now: float, announced: bool) -> list[Action]:
        response = natpmp.parse(data)
        if self._protocol is not Protocol.NAT_PMP:
            raise Rejected("port control answer that nobody waits for")
        if isinstance(response, natpmp.MapResponse) and (announced or response.port != self._port):
            raise Rejected("NAT-PMP response of another mapping")
        self._check_epoch(response.epoch, now, natpmp.plausible)
        if response.result != natpmp.Result.SUCCESS:
            if self.state is State.MAPPED and isinstance(response, natpmp.AddressResponse):
                return []  # it has lost its connection; the mapping may be good again later
            why = _words(_REFUSALS_NATPMP, response.result)
            return self._on_refusal(why, now, _SHORTEST_REFUSAL)
        if isinstance(response, natpmp.AddressResponse):
            if announced:  # anybody of the link may say so: ask (RFC 6886 §3.2.1)
                return self._doubt(response.ip, now)
            return self._on_address(response.ip, now)
        if self._external_ip is None:
            raise Rejected("port control answer that nobody waits for")
        return self._on_granted((self._external_ip, response.external), response.lifetime, now)

    def _on_address(self, ip: str, now: float) -> list[Action]:
        first = self._external_ip is None
        self._external_ip = ip
        if self.mapped is not None:
            self._suggested = ip, self.mapped.external[1]
            self.mapped = replace(self.mapped, external=self._suggested)
        if self.mapped is not None or not first:
            return []
        self._attempts = 0
        self._wait = natpmp.FIRST_WAIT
        return self._send(now)

    def _doubt(self, ip: str, now: float) -> list[Action]:
        """Our address is said to be another one; at most one request in four seconds."""
        if self.mapped is not None and ip != self._external_ip:
            self._timers.set(Timer.CHECK, max(now, self._checked_at + _SHORTEST_WAIT))
        return []

    def _on_refusal(self, why: str, now: float, lifetime: float) -> list[Action]:
        lifetime = min(max(lifetime, _SHORTEST_REFUSAL), _LONGEST_REFUSAL)
        if self.state is State.MAPPED:  # RFC 6887 §8.3: the router has changed its mind
            self._fail(why, now, lifetime)
            return []
        return self._next(why, now, lifetime)

    def _on_granted(self, external: Address, lifetime: float, now: float) -> list[Action]:
        lifetime = min(lifetime, _LONGEST_LIFETIME)
        if lifetime < _SHORTEST_LIFETIME or external[0] in _NO_ADDRESS or not external[1]:
            return self._on_refusal("the router grants nothing of use", now, _LONGEST_REFUSAL)
        self._clear()
        self.state = State.MAPPED
        self._suggested = external
        self._granted = now
        self._renewals = 0
        self.mapped = Mapped(
            external,
            (self._uplink.ip, self._port),
            self._protocol,
            self._uplink.router,
            lifetime,
            now + lifetime,
        )
        self.failures.pop(self._protocol, None)
        self._timers.set(Timer.EXPIRE, now + lifetime)
        self._timers.set(Timer.CHECK, now + self._settings.check)
        self._set_renewal()
        return []

    # keeping

    def _set_renewal(self) -> None:
        """RFC 6887 §11.2.1: at 1/2 to 5/8 of the lifetime, then 3/4 to 13/16, and so on."""
        if self.mapped is None:
            return
        left = (1 - self._settings.renew) * 0.5**self._renewals
        width = min(1 - left, left) / 4
        part = 1 - left + spread(self._rng, 0.0, width)
        at = self._granted + part * self.mapped.lifetime
        at = max(at, self._renewed_at + _SHORTEST_WAIT)
        if at < self.mapped.expires:
            self._timers.set(Timer.RENEW, at)

    def _renew(self, now: float) -> list[Action]:
        self._renewed_at = now
        if self._recovering:
            self._wait = min(2 * self._wait, _LONGEST_WAIT)
            wait = self._wait * (1 + spread(self._rng, -_RAND, _RAND))
            self._again = now + max(wait, _SHORTEST_WAIT)
            self._timers.set(Timer.RENEW, self._again)
        else:
            self._renewals += 1
            self._set_renewal()
        return [self._request()]

    def _check(self, now: float) -> list[Action]:
        """Ask for the epoch only: who has missed that the router restarted learns it so."""
        self._checked_at = now
        self._timers.set(Timer.CHECK, now + self._settings.check)
        if self._protocol is Protocol.PCP:
            return [Ask(self._uplink, pcp.announce_request(self._uplink.ip))]
        return [Ask(self._uplink, natpmp.address_request())]

    def _expire(self, now: float) -> list[Action]:
        self._fail("the router has stopped answering", now)
        return []

    def _check_epoch(
        self, epoch: int, now: float, plausible: Callable[[int, float, int], bool]
    ) -> None:
        before = self._epoch
        self._epoch = epoch, now
        if before is None or plausible(before[0], now - before[1], epoch):
            return
        if self.state is State.MAPPED:
            self._recover(now + spread(self._rng, 0.0, _AFTER_RESTART))

    def _recover(self, at: float) -> None:
        """Make the mapping anew, as it was, and until the router answers."""
        at = max(at, self._renewed_at + _SHORTEST_WAIT)
        if not self._recovering or at < self._again:
            self._recovering = True
            self._wait = _IRT / 2
            self._again = at
            self._timers.set(Timer.RENEW, at)

    _due: Final = {
        Timer.SEND: _send,
        Timer.RENEW: _renew,
        Timer.CHECK: _check,
        Timer.EXPIRE: _expire,
    }


def _words(known: Mapping[int, str], result: int) -> str:
    return known.get(result, f"the router answers with error {result}")
