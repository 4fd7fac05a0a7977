"""Whole peers with unmodified clients in homes behind NATs, and public peers that serve them.

    python -m net.homes                      (root; PYTHONPATH is the root and tests/)

lets every kind of home call every other, and prints a JSON line for each cell.
"""

import asyncio
import contextlib
import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from net.handover import LENGTH, Side
from net.lab import PORT, missing
from net.lab_capture import Capture, focus, ladder
from net.lab_internet import Internet

from hipctl import ControlRefused
from sipgw.demo.audio import audio_ncc, load, melody

KINDS = ("public", "mapped", "endpoint-independent", "port-restricted", "symmetric", "double")
SERVERS = ("relay1", "relay2")
TUNE = 1
TALK = 3.0  # seconds
CALLABLE = 30.0
AT_A_TIME = 3  # processes that start
CALLS = 3  # at a time: with more, two cores that do other work as well don't keep up with audio
HEARD = 0.9  # normalised cross-correlation, as in the demo


@dataclass(frozen=True, slots=True)
class Checked:
    """What a peer says of itself after a call.

    Attributes:
        callable: as ``status`` says; and ``why`` not.
        reach: how, as ``netcheck`` says.
        nat: likewise.
        mapped: whether a router maps a port.
        knocks: what neighbours said that knocked.
        through: what was said of knocks by way of each server.
        routers: what each said that was asked to map a port, and what would help.
        problems: what limits it, without what to do about it.
        seconds: that the check took.
    """

    callable: bool | None
    why: list[dict[str, str]]
    reach: str
    nat: str
    mapped: bool
    knocks: list[str]
    through: list[list[str]]
    routers: list[dict[str, Any]]
    problems: list[str]
    seconds: float


@dataclass(frozen=True, slots=True)
class Cell:
    """One call of the matrix.

    Attributes:
        caller: kind of its home; ``callee`` likewise.
        resolve: milliseconds that the lookup of the callee's AoR took.
        first: seconds from the first I1 until datagrams could be sent.
        direct: the same, until they went without a relay; None: they never did.
        relayed: whether the call went through a relay when it ended.
        ncc: how well either side heard the other, the worse of both.
        ends: what the caller's peer and the callee's say then of themselves.
    """

    caller: str
    callee: str
    resolve: float
    first: float | None
    direct: float | None
    relayed: bool
    ncc: float
    ends: tuple[Checked, Checked]

    def __str__(self) -> str:
        """A line of a table."""
        first, direct = (
            "never" if seconds is None else f"{seconds * 1e3:,.0f} ms"
            for seconds in (self.first, self.direct)
        )
        way = "relayed" if self.relayed else "direct"
        return (
            f"{self.caller:>20} calls {self.callee:<20} {way:<7}  first datagram {first:>8}"
            f"  direct {direct:>8}  ncc {self.ncc:.4f}"
        )


class Homes:
    """From ``async with`` on: servers and peers run, have joined, and can be called.

    What is raised meanwhile prints a ladder of the last seconds first.

    Attributes:
        net: the laboratory.
        capture: what crosses it.
        sides: peers with clients, by name.
        servers: public peers with the service relay, or rvs where peers are visible.
    """

    capture: Capture

    def __init__(
        self,
        net: Internet,
        folder: Path,
        places: dict[str, str],
        *,
        elsewhere: Sequence[tuple[str, str]] = (),
        visible: bool = False,
    ) -> None:
        """Set up.

        Args:
            net: an Internet.
            folder: an empty folder.
            places: name of a peer -> kind of its home, or "public".
            elsewhere: names and kinds of homes where nobody is as yet.
            visible: strangers may see the peers' addresses: they use rendezvous servers.
        """
        self.net = net
        self.sides: dict[str, Side] = {}
        self.servers: dict[str, Side] = {}
        self._folder = folder
        self._places, self._elsewhere = places, elsewhere
        self._visible = visible
        self._stack = AsyncExitStack()
        self._gate = asyncio.Semaphore(AT_A_TIME)

    async def __aenter__(self) -> "Homes":
        try:
            await self._build()
        except BaseException:
            await self._stack.__aexit__(*sys.exc_info())
            raise
        return self

    async def __aexit__(self, *raised: Any) -> None:
        if any(raised):
            self.capture.hold()
        async with asyncio.TaskGroup() as group:  # many: one after the other takes long
            for side in (*self.sides.values(), *self.servers.values()):
                group.create_task(side.stop())
        await self._stack.__aexit__(*raised)

    async def _build(self) -> None:
        self._lay_out()
        self.capture = self._stack.enter_context(ladder(self.net))
        first, *others = self.servers.values()
        made = await first.make([], [])
        seed = ["--seed", f"{made['hit']}@{self.net.address(first.name)}:{PORT}"]
        overlay = ["--overlay", str(self._folder / first.name / "overlay.toml")]
        async with asyncio.TaskGroup() as group:
            for side in (*others, *self.sides.values()):
                group.create_task(self._make(side, seed, overlay))
        for side in self.servers.values():
            serve(self._folder / side.name, "rvs" if self._visible else "relay")
        for side in self.sides.values():
            if self._visible:
                show(self._folder / side.name)
        for side in self.servers.values():
            await side.start(self._stack)
        async with asyncio.TaskGroup() as group:
            for side in self.sides.values():
                group.create_task(self._start(side))
        async with asyncio.TaskGroup() as group:
            for side in (*self.servers.values(), *self.sides.values()):
                group.create_task(joined(side))

    def _lay_out(self) -> None:
        for name in SERVERS:
            self.servers[name] = self._place(name, "public")
        for name, kind in self._places.items():
            self.sides[name] = self._place(name, kind)
        for name, kind in self._elsewhere:
            self.net.home(name, kind)

    def _place(self, name: str, kind: str) -> Side:
        if kind == "public":
            self.net.public(name)
        else:
            self.net.home(f"{name}-home", kind)
            self.net.host(name, f"{name}-home")
        return Side(self.net, name, self._folder)

    async def _make(self, side: Side, seed: Sequence[str], overlay: Sequence[str]) -> None:
        async with self._gate:
            await side.make(seed, overlay)

    async def _start(self, side: Side) -> None:
        async with self._gate:
            await side.start(self._stack)

    async def clients(self) -> None:
        """Start a client beside each peer; its AoR is published then."""
        for side in self.sides.values():
            await side.register(self._stack, "sip:nobody@p2psip.internal")

    async def callable(self) -> None:
        """Return once every peer says that it can be called."""
        async with asyncio.TaskGroup() as group:
            for side in self.sides.values():
                group.create_task(callable_(side))


def serve(folder: Path, service: str) -> None:
    """Let a peer offer a service to others."""
    profile = folder / "profile.toml"
    text = profile.read_text()
    found = re.search(r"^\[overlay\.([^.\]]+)\]", text, re.MULTILINE)
    assert found, text
    profile.write_text(f"{text}\n[overlay.{found[1]}.services.{service}]\n")


def show(folder: Path) -> None:
    """Let strangers see a peer's address."""
    profile = folder / "profile.toml"
    text = profile.read_text()
    assert "[host]\n" in text, text
    profile.write_text(text.replace("[host]\n", "[host]\nvisible = true\n", 1))


async def joined(side: Side) -> None:
    overlays = (await side.status())["overlays"].values()
    assert all(overlay["joined"] for overlay in overlays), side.peer.tail(30)


async def found(side: Side, other: Side) -> dict[str, Any]:
    """Resolve the other's AoR; it may have been put into the overlay just now."""
    until = time.monotonic() + CALLABLE
    while True:
        try:
            return await side.tell("resolve", aor=other.aor)
        except ControlRefused:
            assert time.monotonic() < until, f"{side.name} does not find {other.name}"
            await asyncio.sleep(0.2)


async def callable_(side: Side) -> None:
    until = time.monotonic() + CALLABLE
    while not (status := await side.status()).get("callable"):
        assert time.monotonic() < until, f"{side.name} can't be called: {status.get('why')}"
        await asyncio.sleep(0.2)


def association(status: dict[str, Any], hit: str) -> dict[str, Any]:
    """The row of the association with ``hit``."""
    rows: list[dict[str, Any]] = [row for row in status["associations"] if row["peer"] == hit]
    assert rows, f"no association with {hit}"
    return rows[0]


async def check(side: Side) -> Checked:
    """Both ``netcheck`` and ``status``, as a person would ask for them."""
    began = time.monotonic()
    said = (await side.tell("netcheck"))["identities"]["device"]
    took = time.monotonic() - began
    status = await side.status()
    assert status["callable"] is said["callable"]
    return Checked(
        status["callable"],
        status["why"],
        said["reach"],
        said["nat"],
        bool(said["mapped"]),
        [row["result"] for row in said["knocks"]],
        [[row["result"] for row in server["knocks"]] for server in said["servers"]],
        said["routers"],
        [row["missing"] for row in said["problems"]],
        round(took, 2),
    )


async def call(caller: Side, callee: Side, kinds: tuple[str, str], seconds: float) -> Cell:
    """Call, talk and hang up."""
    resolved = await found(caller, callee)
    await caller.forget(callee.hit)
    await caller.ask(f"call {callee.aor}")
    await callee.ask("answered")
    await asyncio.sleep(seconds)
    row = association(await caller.status(), callee.hit)
    await caller.ask("hangup")
    await callee.ask("ended")
    nccs = []
    for side in (caller, callee):
        heard = await side.ask("heard")
        sound = load(Path(heard["heard"]))
        nccs.append(audio_ncc(melody(LENGTH, tune=TUNE), sound, seconds - 1))
    one, other = await asyncio.gather(check(caller), check(callee))
    first, direct = row["path found"]
    return Cell(
        *kinds,
        resolved["ms"],
        first,
        direct,
        bool(row["relayed"]),
        round(min(nccs), 4),
        (one, other),
    )


@contextlib.asynccontextmanager
async def matrix(kinds: Sequence[str] = KINDS) -> AsyncIterator[Homes]:
    """Two homes of each kind: ``from-KIND`` and ``to-KIND``."""
    places = {f"{way}-{kind}": kind for kind in kinds for way in ("from", "to")}
    with tempfile.TemporaryDirectory(prefix="homes-") as folder, Internet() as net:
        async with Homes(net, Path(folder), places) as homes:
            await homes.clients()
            await homes.callable()
            yield homes


async def every_cell(
    homes: Homes, kinds: Sequence[str] = KINDS, judge: Callable[[Cell], None] = lambda cell: None
) -> list[Cell]:
    """Let each kind call each other; a few at a time, of which none share a peer.

    Args:
        homes: a matrix.
        kinds: those of its homes.
        judge: is told of each cell at once, while the packets of its call can still be drawn.
    """

    async def cell(one: str, other: str) -> Cell:
        begins = f"from-{one}", f"to-{other}", *SERVERS
        with focus(homes.capture, *(n for n in homes.net.names if n.startswith(begins))):
            ends = homes.sides[f"from-{one}"], homes.sides[f"to-{other}"]
            found = await call(*ends, (one, other), TALK)
            judge(found)
            return found

    cells: list[Cell] = []
    for shift in range(len(kinds)):
        pairs = [(kind, kinds[(i + shift) % len(kinds)]) for i, kind in enumerate(kinds)]
        for begin in range(0, len(pairs), CALLS):
            cells += await asyncio.gather(*(cell(*pair) for pair in pairs[begin : begin + CALLS]))
    return cells


async def main() -> None:
    if why := missing() or (None if shutil.which("baresip") else "baresip is not installed"):
        print(f"no homes here: {why}", file=sys.stderr)  # noqa: T201
        raise SystemExit(77)
    kinds = sys.argv[1:] or KINDS
    async with matrix(kinds) as homes:
        for cell in await every_cell(homes, kinds):
            print(json.dumps(asdict(cell)), flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main())
