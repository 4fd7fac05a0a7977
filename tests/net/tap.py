"""A wire between two UDP addresses that keeps what crosses it."""

import asyncio
from typing import Self, cast

Address = tuple[str, int]


class Tap(asyncio.DatagramProtocol):
    """Forwards between ``far`` and whoever else sends to it.

    Attributes:
        packets: (towards ``far``?, datagram), in the order in which they came.
    """

    def __init__(self, far: Address) -> None:
        self.packets: list[tuple[bool, bytes]] = []
        self._far, self._near = far, far
        self._transport: asyncio.DatagramTransport | None = None

    @property
    def address(self) -> Address:
        assert self._transport is not None
        name: Address = self._transport.get_extra_info("sockname")
        return name

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Address) -> None:
        assert self._transport is not None
        outgoing = addr != self._far
        if outgoing:
            self._near = addr
        self.packets.append((outgoing, data))
        self._transport.sendto(data, self._far if outgoing else self._near)

    @property
    def control(self) -> list[bytes]:
        """The HIP control packets without their Non-ESP marker (RFC 5770 §5.1)."""
        return [data[4:] for _, data in self.packets if data[:4] == bytes(4)]

    @property
    def esp(self) -> list[bytes]:
        return [data for _, data in self.packets if data[:4] != bytes(4)]

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._transport is not None
        self._transport.close()
