"""Shell: the short way of data between ports and Endpoints.

Nothing is allocated on it that isn't sent or delivered: SPI, ``sa.open``, ``inner``, the
Endpoint's callback; and back through ``inner`` and ``sa.seal`` to the socket.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from hipctl.actions import Action, Address, Pair
from hipctl.echo import Echoes
from hipctl.engine import Engine
from hipctl.errors import MalformedPacket, Rejected
from hipctl.esp import SUITES, CreditExhausted, SequenceExhausted, payload_limit
from hipctl.identity import Hit
from hipctl.inner import (
    ECHO_REPLY,
    ECHO_REQUEST,
    FRAGMENT,
    ICMPV6,
    LONGEST_DATAGRAM,
    UDP,
    Reassembly,
    fragment,
    parse_echo,
    parse_udp,
    pseudo_header,
)
from hipctl.interface import OnDatagram
from hipctl.ports import Ports
from hipctl.sas import Inbound, Outbound

_log = logging.getLogger(__name__)

Feed = Callable[[Callable[[float], Sequence[Action]]], None]
"""``feed(engine's input)``: as ``Driver.feed``."""

_MISTAKES = (Exception, asyncio.CancelledError)  # the latter ends uvloop, from a cancelled future
_HEADERS = {4: 20 + 8, 6: 40 + 8}  # bytes of outer IP and UDP


class Receiver(Protocol):
    """An Endpoint, as far as data for it is concerned."""

    on_datagram: OnDatagram


def guard(callback: Callable[[], None], whose: str, counters: Counter[str]) -> None:
    """Call what is not ours: whatever it does wrong, the host serves the others."""
    try:
        callback()
    except _MISTAKES:
        failed(whose, counters)


def failed(whose: str, counters: Counter[str]) -> None:
    """Count a callback that has raised; one that does with every packet is no log's worth."""
    counters["callback failed"] += 1
    count = counters["callback failed"]
    if count & (count - 1) == 0:
        _log.exception("%s failed (%d times so far)", whose, count)


class DataPath:
    """ESP of one host.

    Attributes:
        endpoints: who gets what comes for (HIT, port).
        sent: ESP packets.
        received: ESP packets that were authentic.
        pass_up: takes (datagram, source, SPI) that is no ESP of ours; False: nor of a client.
    """

    def __init__(
        self,
        engine: Engine,
        counters: Counter[str],
        *,
        mtu: int,
        rng: Callable[[int], bytes],
        send_inner: Callable[[Hit, Hit, int, bytes], None],
        on_other: Callable[[bytes, Address, int], None],
    ) -> None:
        """Set up.

        Args:
            engine: whose SAs.
            counters: of what was dropped.
            mtu: bytes of the largest outer packet.
            rng: random bytes.
            send_inner: sends (local HIT, peer HIT, next header, payload) wherever it must.
            on_other: takes (datagram, source, its first four bytes) that is no ESP of ours.
        """
        self.endpoints: dict[tuple[Hit, int], Receiver] = {}
        self.sent = self.received = 0
        self._engine = engine
        self._inbound = engine.inbound
        self._heard = engine.heard
        self._counters = counters
        self._mtu = mtu
        self._send_inner = send_inner
        self._on_other = on_other
        self.pass_up: Callable[[bytes, Address, int], bool] = lambda data, source, spi: False
        self._reassembly = Reassembly()
        self._identification = int.from_bytes(rng(4), "big")
        self._echoes = Echoes(int.from_bytes(rng(2), "big"))
        self._always_fits = min(self._limit(suite, 6) for suite in SUITES)
        self._ports: Ports
        self._now: Callable[[], float]
        self._feed: Feed

    def use(self, ports: Ports) -> None:
        """Send through these."""
        self._ports = ports

    def start(self, now: Callable[[], float], feed: Feed) -> None:
        """From now on there is a clock, and a driver of the engine."""
        self._now, self._feed = now, feed

    @property
    def given_up(self) -> int:
        """Fragmented datagrams that never were whole."""
        return self._reassembly.given_up

    def forget(self, pair: Pair) -> None:
        """There is no association any more: nor will its fragments be completed."""
        self._reassembly.forget(pair)

    # sending

    def send_sealed(self, outbound: Outbound, next_header: int, payload: bytes) -> None:
        """Seal an upper-layer packet, in fragments if need be, and put it on the wire."""
        sa, address, source = outbound.sa, outbound.wire, outbound.source
        if source is None:
            send = self._ports.send6 if ":" in address[0] else self._ports.send4
        else:
            send = self._ports.path(source, address)
        try:
            if len(payload) <= self._always_fits:
                send(sa.seal(next_header, payload), address)
                self.sent += 1
                return
            limit = self._limit(sa.suite, 6 if ":" in address[0] else 4)
            if len(payload) <= limit:
                pieces = [payload]
            else:
                self._identification = self._identification + 1 & 0xFFFFFFFF
                pieces = fragment(next_header, payload, limit, self._identification)
                next_header = FRAGMENT
            for piece in pieces:
                send(sa.seal(next_header, piece), address)
            self.sent += len(pieces)
        except CreditExhausted:  # the peer has moved and not shown that it is there
            self._counters["datagram to an unverified address"] += 1
        except SequenceExhausted:  # a new exchange brings new keys
            self._counters["ESP sequence numbers exhausted"] += 1
            pair = next((p for p, o in self._engine.outbound.items() if o is outbound), None)
            if pair:
                self._feed(lambda now: self._engine.close(*pair, now))

    async def ping(self, pair: Pair, data: bytes, timeout: float) -> float:
        """Send an ICMPv6 echo request and return the seconds until its reply.

        Raises:
            TimeoutError: none came.
            ValueError: ``data`` is longer than 65,527 bytes.
        """
        if len(data) > LONGEST_DATAGRAM:
            raise ValueError(f"an echo has at most {LONGEST_DATAGRAM} bytes")
        return await self._echoes.round_trip(
            pair, data, timeout, lambda message: self._send_inner(*pair, ICMPV6, message)
        )

    def _limit(self, suite: int, ip_version: int) -> int:
        return payload_limit(suite, self._mtu - _HEADERS[ip_version])

    # receiving

    def on_datagram(self, data: bytes, source: Address) -> None:
        """Take what came at a UDP port of ours."""
        spi = int.from_bytes(data[:4], "big")
        inbound = self._inbound.get(spi)
        if inbound is None:
            if not (spi and self.pass_up(data, source, spi)):
                self._on_other(data, source, spi)
            return
        try:
            next_header, payload = inbound.sa.open(data)
            self.received += 1
            if inbound.awaited:
                self._feed(lambda now: self._heard(spi, source, now))
            else:
                inbound.heard_at = self._now()
            if next_header == FRAGMENT:
                whole = self._reassembly.add((inbound.local, inbound.peer), payload, self._now())
                if whole is None:
                    return
                next_header, payload = whole
            if next_header == UDP:
                local, peer = inbound.local, inbound.peer
                port, to, body = parse_udp(pseudo_header(local, peer), payload)
                self.deliver(local, to, body, peer, port)
            elif next_header == ICMPV6:
                self._on_icmp(inbound, payload)
            else:
                self._counters["unknown next header"] += 1
        except (MalformedPacket, Rejected) as error:
            self._counters[error.reason] += 1
            inbound.dropped(error.reason)

    def deliver(self, local: Hit, to: int, data: bytes, peer: Hit, port: int) -> None:
        """Hand a datagram to whoever has (local, to) open."""
        endpoint = self.endpoints.get((local, to))
        if endpoint is None:
            self._counters["port closed"] += 1
            return
        try:
            endpoint.on_datagram(data, peer, port)
        except _MISTAKES:  # whatever a service does wrong, the host serves the others
            failed("a datagram's receiver", self._counters)

    def _on_icmp(self, inbound: Inbound, payload: bytes) -> None:
        pair = inbound.local, inbound.peer
        pseudo = pseudo_header(*pair)
        echo = parse_echo(pseudo, payload)
        if echo.type == ECHO_REQUEST:
            self._send_inner(*pair, ICMPV6, replace(echo, type=ECHO_REPLY).encode(pseudo))
        elif not self._echoes.on_reply(pair, echo):
            self._counters["echo reply that nobody waits for"] += 1
