"""What is revoked is looked for while a name is, and costs little however much it is."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from hipctl import Hit
from overlay import revocations
from overlay.kinds import Revoke
from overlay.revocations import FRESH, MAX_VOIDS, PATIENCE, Revocations
from sim.loop import simulate

AOR = "sip:alice@home.example"
OWNER = Hit(bytes([0x20, 1, 0, 0x20]) + bytes(12))


class Asked:
    """A node that finds other revocations each time, or hangs."""

    def __init__(self, *, hangs: bool = False) -> None:
        self.overlay = SimpleNamespace(id=bytes(32))
        self.hangs, self.asked = hangs, 0

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        return 1_800_000_000.0 + self.now()

    async def get(self, kind: str, key: bytes) -> list[Any]:
        self.asked += 1
        if self.hangs:
            await asyncio.sleep(3600)
        first = self.asked * MAX_VOIDS
        return [SimpleNamespace(owner_hit=OWNER, seq=first + n) for n in range(MAX_VOIDS)]


def read(record: Any, _overlay: Any, wall: float) -> Revoke:
    return Revoke(AOR, OWNER, b"", record.seq, int(wall) + 10**6, None)


def test_who_revokes_ever_more_fills_nobodys_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocations, "check_record", read)

    async def main() -> None:
        node = Asked()
        known = Revocations(node)  # type: ignore[arg-type]
        for _ in range(8):
            known.seek(AOR)
            await known.settle(AOR)
            await asyncio.sleep(FRESH)
        voids, _ = known._known[AOR]
        assert len(voids) == MAX_VOIDS
        newest = node.asked * MAX_VOIDS
        assert {void.says.seq for void in voids} == set(range(newest, newest + MAX_VOIDS))

    simulate(main)


def test_a_search_that_hangs_is_waited_for_a_moment_only_and_ends_with_us() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        node = Asked(hangs=True)
        known = Revocations(node)  # type: ignore[arg-type]
        for _ in range(3):
            began = loop.time()
            known.seek(AOR)
            await known.settle(AOR)
            assert loop.time() - began == pytest.approx(PATIENCE)
        assert node.asked == 1
        await known.close()
        assert len(asyncio.all_tasks()) == 1
        known.seek(AOR)  # whoever comes late
        await asyncio.sleep(1)
        assert len(asyncio.all_tasks()) == 1

    simulate(main)
