"""Shell: the way of control packets between ports and engine, beside the ``datapath``."""

from collections import Counter
from typing import Final

from hipctl.actions import Address
from hipctl.datapath import Feed
from hipctl.engine import Engine
from hipctl.ports import Ports
from hipctl.relayports import RelayPorts

_NON_ESP: Final = bytes(4)  # leads every control packet over UDP, RFC 5770 §5.1
_KEEPALIVE: Final = b"\xff"  # what NATs are kept open with where ESP is (RFC 3948 §2.3); ignored


class ControlPath:
    """Control packets of one host.

    Args:
        engine: takes them.
        counters: of what was dropped.
    """

    def __init__(self, engine: Engine, counters: Counter[str]) -> None:
        self._engine = engine
        self._counters = counters
        self._ports: Ports
        self._relayed: RelayPorts
        self._feed: Feed

    def use(self, ports: Ports, relayed: RelayPorts) -> None:
        """Send from these: ``relayed`` are those of the data relay's clients."""
        self._ports, self._relayed = ports, relayed

    def start(self, feed: Feed) -> None:
        """From now on there is a driver of the engine."""
        self._feed = feed

    def send(self, data: bytes, to: Address, source: Address | None) -> None:
        """Send one packet, or lose it; from ``source``, if that is not None."""
        send = self._relayed.sender(source) or self._ports.sender(source, to)
        send(_NON_ESP + data, to)

    def on_datagram(self, data: bytes, source: Address, spi: int) -> None:
        """Take what came at a port and is no ESP of ours, nor of a client.

        Args:
            data: all of it.
            source: where it came from.
            spi: its first four bytes.
        """
        if not spi and len(data) > len(_NON_ESP):
            control = data[len(_NON_ESP) :]
            here = self._ports.asked_at
            self._feed(lambda now: self._engine.on_control(control, source, now, here))
        elif data == _KEEPALIVE:
            self._counters["keepalive"] += 1
        else:
            self._counters["unknown SPI" if len(data) > 8 else "stray datagram"] += 1
