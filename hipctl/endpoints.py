"""Shell: who is open at which (HIT, port) of a host, and how each sends."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from hipctl.datapath import DataPath
from hipctl.engine import Engine
from hipctl.errors import PortInUse
from hipctl.identity import Hit
from hipctl.inner import LONGEST_DATAGRAM, UDP, pseudo_header, udp
from hipctl.interface import OnDatagram
from hipctl.loopback import Loopback

_FIRST_FREE_PORT = 49_152

SendInner = Callable[[Hit, Hit, int, bytes], None]
"""``send_inner(local HIT, peer HIT, next header, payload)``: wherever it must."""


class LocalEndpoint:
    """An open (HIT, port) of a LocalHost; see ``interface.Endpoint``."""

    __slots__ = ("_others", "_outbound", "_send_sealed", "hit", "on_datagram", "port")

    def __init__(
        self,
        others: "Endpoints",
        engine: Engine,
        data: DataPath,
        at: tuple[Hit, int],
        on_datagram: OnDatagram,
    ) -> None:
        self.hit, self.port = at
        self.on_datagram = on_datagram
        self._others = others
        self._outbound = engine.outbound
        self._send_sealed = data.send_sealed

    def send(self, data: bytes, to: Hit, port: int) -> None:
        """See ``interface.Endpoint``."""
        if not 0 < port < 65_536:
            raise ValueError(f"{port} is no port")
        outbound = self._outbound.get((self.hit, to))
        if outbound is not None and len(data) <= LONGEST_DATAGRAM:
            payload = udp(pseudo_header(self.hit, to), self.port, port, data)
            self._send_sealed(outbound, UDP, payload)
        else:
            self._others.send_first(self, data, to, port)

    def close(self) -> None:
        """See ``interface.Endpoint``."""
        self._others.forget(self)


class Endpoints:
    """All of one host."""

    def __init__(
        self,
        hits: Sequence[Hit],
        engine: Engine,
        data: DataPath,
        send_inner: SendInner,
        counters: Counter[str],
    ) -> None:
        """Set up.

        Args:
            hits: ours.
            engine: whose associations carry what is sent.
            data: takes what goes through an association, and delivers what comes.
            send_inner: sends where there may be none.
            counters: of what was dropped.
        """
        self._hits = hits
        self._engine = engine
        self._data = data
        self._send_inner = send_inner
        self._counters = counters
        self._at = data.endpoints
        self._loopback: Loopback | None = None

    def start(self, call_soon: Callable[[Callable[[], None]], Any]) -> None:
        """Datagrams to ourselves are delivered from now on, by the loop's ``call_soon``."""
        self._loopback = Loopback(self._data.deliver, call_soon)

    def stop(self) -> None:
        """No more, and what waits is lost."""
        if self._loopback is not None:
            self._loopback.close()
            self._loopback = None

    def open(self, hit: Hit, port: int, on_datagram: OnDatagram) -> LocalEndpoint:
        """See ``interface.Host``.

        Raises:
            ValueError: ``hit`` is not ours, or ``port`` is none.
            PortInUse: somebody else has it, or 0 was asked for and none is free.
        """
        if hit not in self._hits:
            raise ValueError(f"{hit} is no identity of this host")
        if port == 0:
            free = (p for p in range(_FIRST_FREE_PORT, 65_536) if (hit, p) not in self._at)
            port = next(free, 0)
            if not port:
                raise PortInUse(f"every port of {hit} is taken")
        if not 0 < port < 65_536:
            raise ValueError(f"{port} is no port")
        if (hit, port) in self._at:
            raise PortInUse(f"port {port} of {hit} is open already")
        endpoint = LocalEndpoint(self, self._engine, self._data, (hit, port), on_datagram)
        self._at[hit, port] = endpoint
        return endpoint

    def forget(self, endpoint: LocalEndpoint) -> None:
        """Close it, unless another has taken its port since."""
        if self._at.get((endpoint.hit, endpoint.port)) is endpoint:
            del self._at[endpoint.hit, endpoint.port]

    def send_first(self, endpoint: LocalEndpoint, data: bytes, to: Hit, port: int) -> None:
        """Send where there is no association: to ourselves, or into the engine's queue.

        Raises:
            ValueError: the datagram is too long.
        """
        if len(data) > LONGEST_DATAGRAM:
            raise ValueError(f"a datagram has at most {LONGEST_DATAGRAM} bytes")
        if to in self._hits:
            loopback, source = self._loopback, (endpoint.hit, endpoint.port)
            if loopback is not None and not loopback.send(to, port, data, *source):
                self._counters["too much for our own HITs"] += 1
        else:
            payload = udp(pseudo_header(endpoint.hit, to), endpoint.port, port, data)
            self._send_inner(endpoint.hit, to, UDP, payload)
