"""A call between clients in two homes, and what happens to networks and servers meanwhile.

    python -m net.survive relay-dies           (root; PYTHONPATH is the root and tests/)

prints a JSON line for each listener: how long nobody was heard, measured on what clients heard.
"""

import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

from net.handover import BEFORE, Heard, Side, heard_by, within
from net.homes import Homes, association, found
from net.lab import missing
from net.lab_internet import Internet

AFTER = 8.0  # seconds of talk after the event
LIMIT = 120.0  # seconds for all of it
TOGETHER = 0.1  # seconds between the ends of two moves at once
SETTLE = 60.0  # seconds until the call has its final path

Do = Callable[[Homes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Event:
    """What happens during a call.

    Attributes:
        alice: kind of her home; ``bob`` his.
        do: what happens.
        limit: milliseconds for which nobody may be heard.
        elsewhere: kinds of further homes, "alice2" and "bob2" by name.
        relayed: whether the call has to go through a relay before.
        visible: whether both are called through rendezvous servers.
    """

    alice: str
    bob: str
    do: Do
    limit: float
    elsewhere: tuple[tuple[str, str], ...] = ()
    relayed: bool = False
    visible: bool = False


async def both_move(homes: Homes) -> None:
    def move(name: str) -> float:
        homes.net.move(name, f"{name}2", first="break")
        return time.monotonic()

    ends = await asyncio.gather(*(asyncio.to_thread(move, name) for name in homes.sides))
    assert abs(ends[0] - ends[1]) < TOGETHER, f"they moved {ends} s: one after the other"


async def another_nat(homes: Homes) -> None:
    homes.net.move("alice", "alice2", first="break")


async def relay_dies(homes: Homes) -> None:
    row = association(await homes.sides["alice"].status(), homes.sides["bob"].hit)
    other = association(await homes.sides["bob"].status(), homes.sides["alice"].hit)
    used = {row["address"][0], row.get("via", [""])[0], other["address"][0]}
    for name, server in homes.servers.items():
        if homes.net.address(name) in used:
            await server.kill()
            return
    raise AssertionError(f"no server of ours is at {used}")


async def nat_reboots(homes: Homes) -> None:
    homes.net.reboot("alice-home")


async def servers_die(homes: Homes) -> None:
    for server in homes.servers.values():
        await server.kill()


async def rvs_dies(homes: Homes) -> None:
    """The one that bob prefers; the other one takes over."""
    named = (await homes.sides["bob"].status())["identities"]["device"]["servers"]
    for server in homes.servers.values():
        if server.hit == named[0]["hit"]:
            assert named[0]["for"] == ["rendezvous server"]
            await server.kill()
            return
    raise AssertionError(f"no server of ours is among {named}")


EVENTS = {
    "both-move": Event(
        "port-restricted",
        "port-restricted",
        both_move,
        5_000,
        (("alice2", "port-restricted"), ("bob2", "port-restricted")),
    ),
    "another-nat": Event(
        "port-restricted", "endpoint-independent", another_nat, 5_000, (("alice2", "symmetric"),)
    ),
    "relay-dies": Event("symmetric", "symmetric", relay_dies, 3_000, relayed=True),
    "nat-reboots": Event("port-restricted", "port-restricted", nat_reboots, 5_000),
    "servers-die": Event("port-restricted", "port-restricted", servers_die, 500),
    "rvs-dies": Event("public", "endpoint-independent", rvs_dies, 500, visible=True),
}


async def talk(
    event: Event, net: Internet, folder: Path, settled: asyncio.Barrier
) -> dict[str, Heard]:
    """One call with one event; what each heard.

    Args:
        event: what happens.
        net: an empty laboratory.
        folder: likewise.
        settled: of all calls that there are at the same time: programs that start would disturb.

    Raises:
        TooLong: for longer than the event's limit, nobody was heard.
    """
    places = {"alice": event.alice, "bob": event.bob}
    async with Homes(
        net, folder, places, elsewhere=event.elsewhere, visible=event.visible
    ) as homes:
        await homes.clients()
        await homes.callable()
        alice, bob = homes.sides["alice"], homes.sides["bob"]
        await asyncio.gather(found(alice, bob), found(bob, alice))
        await alice.ask(f"call {bob.aor}")
        talking = time.monotonic()
        await bob.ask("answered")
        await _settled(alice, bob, event.relayed)
        await settled.wait()
        await asyncio.sleep(BEFORE)
        first = time.monotonic()
        await event.do(homes)
        await asyncio.sleep(AFTER)
        last = time.monotonic()
        await alice.ask("hangup")
        said = {side.name: await side.ask("stop") for side in (alice, bob)}
        when = talking, first, first, last
        heard = {
            name: heard_by(said[name], said[speaker], tune, when, 0.0)
            for name, speaker, tune in (("alice", "bob", 2), ("bob", "alice", 1))
        }
        return within(event.limit, heard)


async def _settled(alice: Side, bob: Side, relayed: bool) -> None:
    """Wait until the call is on a direct path, or where that cannot be, on the relay."""
    until = time.monotonic() + SETTLE
    while True:
        rows: list[dict[str, Any]] = [
            association(await one.status(), other.hit)
            for one, other in ((alice, bob), (bob, alice))
        ]
        if all(bool(row.get("relayed")) is relayed for row in rows):
            return
        assert time.monotonic() < until, rows
        await asyncio.sleep(0.2)


def measure(*names: str, limit: float | None = None) -> dict[str, dict[str, Heard]]:
    """Make a laboratory for each event, talk in all at the same time, and take them down.

    Args:
        names: of the events; more than three calls at a time are too many for two cores.
        limit: milliseconds, if not those of the events.

    Raises:
        TooLong: see ``talk``.
    """

    async def one(name: str, settled: asyncio.Barrier) -> dict[str, Heard]:
        event = EVENTS[name] if limit is None else replace(EVENTS[name], limit=limit)
        with tempfile.TemporaryDirectory(prefix="survive-") as folder, Internet() as net:
            return await talk(event, net, Path(folder), settled)

    async def together() -> list[dict[str, Heard]]:
        settled = asyncio.Barrier(len(names))
        async with asyncio.timeout(LIMIT):
            return await asyncio.gather(*(one(name, settled) for name in names))

    return dict(zip(names, asyncio.run(together()), strict=True))


def main() -> None:
    if why := missing() or (None if shutil.which("baresip") else "baresip is not installed"):
        print(f"nothing can be measured: {why}", file=sys.stderr)  # noqa: T201
        raise SystemExit(77)
    for name in sys.argv[1:] or EVENTS:
        for who, heard in measure(name, limit=inf)[name].items():
            line = {"event": name, "listener": who, "gap": heard.gap, "limit": EVENTS[name].limit}
            print(json.dumps(line), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
