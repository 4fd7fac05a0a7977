"""Where servers come from: what is remembered of them, and whose memory is not pushed out."""

import asyncio
from typing import cast

from hipctl import Hit, Host
from overlay.node import Node
from overlay.providers import Providers
from overlay.scout import MOST_KNOWN, Home, Scout
from overlay.services import Provider
from sim.hits import HitNet
from sim.people import identity


def hit(number: int) -> Hit:
    return Hit(b"\x20\x01\x00\x22" + number.to_bytes(12, "big"))


class Crowd:
    """Providers of which every search finds others."""

    def __init__(self) -> None:
        self.count = 0

    async def find(self, kind: str) -> list[Provider]:
        first, self.count = self.count, self.count + 64
        return [Provider(hit(n), kind, 0, 9, 0, b"") for n in range(first, self.count)]


class Alone:
    """A node without neighbours."""

    class Engine:
        class Table:
            @staticmethod
            def contacts() -> list[object]:
                return []

        table = Table()

    engine = Engine()


def test_who_advertises_many_servers_does_not_push_out_those_that_serve_us() -> None:
    async def main() -> None:
        host = cast("Host", HitNet().host(identity(1).hit))
        home = Home(cast("Node", Alone()), cast("Providers", Crowd()))
        scout = Scout(host, host.hits[0], [home], bytes)
        await scout.search(visible=False)
        for _ in range(MOST_KNOWN // 64):
            await scout.search(visible=False)
            assert scout.node(hit(0)) is home.node  # as each probe asks
        assert scout.node(hit(1)) is None

    asyncio.run(main())
