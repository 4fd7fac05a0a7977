"""A call between two unmodified clients whose peers change networks: how long nobody is heard.

    python -m net.handover make-before-break     (root; PYTHONPATH is the root and tests/)

prints a JSON line for each kind named, or for all.
"""

import asyncio
import contextlib
import functools
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, Protocol

from net.gaps import longest_missing, longest_pause
from net.lab import PORT, Lab, missing
from net.lab_capture import ladder

from hipctl import ControlRefused, ask_control
from overlay.control import ask, control_path, hip_control_path
from sipgw.demo.audio import load, melody, save
from sipgw.demo.process import Program
from sipgw.demo.world import command, installed

ROOT = Path(__file__).parents[2]
BEFORE, AFTER = 3.0, 4.0  # seconds of talk before the first event and after the last
OVERLAP = 1.5  # seconds for which both networks are there
AWAY = 1.5  # seconds without any
LIMIT = 90.0  # seconds for all of it
SOON = 15.0
START = 45.0  # many start at once
JOIN = 20.0
NAMES = ("alice", "bob")
TUNES = {"alice": 1, "bob": 2}
LENGTH = 30.0  # seconds of melody
IMPOSSIBLE = 77  # exit status where there is no root or no client

Move = Callable[[Lab], Awaitable[float]]
"""Does something to alice's network; returns the moment from which the gap counts."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to change networks.

    Attributes:
        first: what is there at the beginning: (host, link, IP version).
        move: what happens then.
        limit: milliseconds that the gap may last.
    """

    first: Sequence[tuple[str, int, int]]
    move: Move
    limit: float


@dataclass(frozen=True, slots=True)
class Heard:
    """What one client heard of the other; all in milliseconds.

    Attributes:
        pause: between RTP packets that reached the client, from the moment that counts.
        missing: the longest stretch of the melody that its recording lacks, over all.
        away: for how long there was no network at all, by design.
    """

    pause: float
    missing: float
    away: float

    @property
    def gap(self) -> float:
        """The worse of both."""
        return max(self.pause, self.missing - self.away)


async def make_before_break(lab: Lab) -> float:
    lab.connect("alice", 2)
    lab.add("alice", 2)
    await asyncio.sleep(OVERLAP)
    began = time.monotonic()
    lab.remove("alice", 1)
    return began


async def break_before_make(lab: Lab) -> float:
    lab.remove("alice", 1)
    await asyncio.sleep(AWAY)
    lab.connect("alice", 2)
    new = time.monotonic()
    lab.add("alice", 2)
    return new


async def four_to_six(lab: Lab) -> float:
    lab.add("alice", 1, 6)
    await asyncio.sleep(OVERLAP)
    began = time.monotonic()
    lab.remove("alice", 1, 4)
    return began


async def silent_loss(lab: Lab) -> float:
    began = time.monotonic()
    lab.cut("alice", 1)
    return began


FOUR = [("alice", 1, 4), ("bob", 1, 4)]
KINDS = {
    "make-before-break": Kind(FOUR, make_before_break, 150),
    "break-before-make": Kind(FOUR, break_before_make, 1_000),
    "IPv4-to-IPv6": Kind([*FOUR, ("bob", 1, 6)], four_to_six, 150),
    "silent-loss": Kind([*FOUR, ("alice", 2, 4)], silent_loss, 2_000),
}


class Place(Protocol):
    """Where namespaces are."""

    def inside(self, name: str) -> list[str]:
        """What to put before a command so that it runs there."""


class Side:
    """A peer and its client in a namespace."""

    def __init__(self, lab: Place, name: str, folder: Path) -> None:
        self.name, self.aor, self.hit = name, "", ""
        self.folder = folder / name
        self._lab = lab
        self._client: Program | None = None
        self._since = 0

    async def make(self, seed: Sequence[str], overlay: Sequence[str]) -> dict[str, Any]:
        made = await command("p2psip", "init", str(self.folder), *seed, *overlay)
        self.aor, self.hit = str(made["aor"]), str(made["hit"])
        return made

    async def start(self, stack: AsyncExitStack) -> None:
        argv = [*self._lab.inside(self.name), installed("p2psip")]
        argv += ["run", str(self.folder), "--json", "-v"]
        self.peer = await stack.enter_async_context(Program(f"peer of {self.name}", argv))
        ready = '{"event": "ready"'
        await self.peer.lines.wait(lambda x: x.startswith(ready) or None, START, what="ready")

    async def register(self, stack: AsyncExitStack, friend: str) -> None:
        place, microphone = self.folder / "client", self.folder / "microphone.wav"
        place.mkdir()
        save(microphone, melody(LENGTH, tune=TUNES.get(self.name, 1)))
        given = {
            "aor": self.aor,
            "proxy": ["127.0.0.1", 5060],
            "friend": friend,
            "folder": str(place),
            "microphone": str(microphone),
        }
        argv = [*self._lab.inside(self.name), sys.executable, "-m", "net.lab_client"]
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        self._client = await stack.enter_async_context(
            Program(
                f"client of {self.name}", [*argv, json.dumps(given)], {"PYTHONPATH": path}, ROOT
            )
        )
        await self.answer("start", SOON)
        async with asyncio.timeout(SOON):
            while not await self._published():  # noqa: ASYNC110 - in another process
                await asyncio.sleep(0.1)

    async def ask(self, line: str) -> dict[str, Any]:
        """Tell the client to do something and return what it says when it is done."""
        assert self._client is not None
        self._client.write(line)
        return await self.answer(line.split(maxsplit=1)[0], 2 * SOON)

    async def answer(self, what: str, timeout: float) -> dict[str, Any]:
        assert self._client is not None

        def found(line: str) -> dict[str, Any] | None:
            said: dict[str, Any] = json.loads(line) if line.startswith("{") else {}
            if "failed" in said or line.startswith("Traceback"):
                raise AssertionError(f"{self.name}: {line}\n{self.peer.tail(30)}")
            return said if said.get("done") == what else None

        said = await self._client.lines.wait(found, timeout, since=self._since, what=what)
        self._since = len(self._client.lines.entries)
        return said

    async def _published(self) -> bool:
        overlays = (await self.status())["overlays"].values()
        return any(self.aor in overlay["published"] for overlay in overlays)

    async def stop(self) -> None:
        """End the client and the peer; harmless when done twice."""
        for program in (self._client, self.peer):
            if program is not None:
                await program.stop()

    async def kill(self) -> None:
        """The peer dies without a word."""
        os.kill(self.peer.pid, signal.SIGKILL)

    async def status(self) -> dict[str, Any]:
        """What its peer says of itself."""
        return await self.tell("status", wait=JOIN)

    async def forget(self, hit: str) -> None:
        """Close its association with ``hit``, if there is one: the next datagram begins anew."""
        path = hip_control_path(self.folder / "state")
        with contextlib.suppress(ControlRefused):
            await asyncio.to_thread(functools.partial(ask_control, path, "close", hit=hit))

    async def tell(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Ask its peer over the control socket, without a process for each question."""
        path = control_path(self.folder / "state")
        return await asyncio.to_thread(
            functools.partial(ask, path, what, timeout=2 * JOIN, **arguments)
        )


class TooLong(AssertionError):
    """A gap was longer than it may be.

    Attributes:
        heard: what each heard.
    """

    def __init__(self, limit: float, heard: dict[str, Heard]) -> None:
        super().__init__(f"longer than {limit:g} ms: {heard}")
        self.heard = heard


def within(limit: float, heard: dict[str, Heard]) -> dict[str, Heard]:
    """What each heard, if no gap is longer than that, in milliseconds.

    Raises:
        TooLong: one is.
    """
    if any(one.gap > limit for one in heard.values()):
        raise TooLong(limit, heard)
    return heard


async def talk(lab: Lab, kind: Kind, folder: Path, settled: asyncio.Barrier) -> dict[str, Heard]:
    """One call with one move; what each heard.

    Args:
        lab: where both are, at their first networks.
        kind: of the move.
        folder: an empty one.
        settled: of all calls at the same time: none begins while programs start.
    """
    alice, bob = (Side(lab, name, folder) for name in NAMES)
    made = await alice.make([], [])
    seed = ["--seed", f"{made['hit']}@{lab.address('alice', 1)}:{PORT}"]
    await bob.make(seed, ["--overlay", str(folder / "alice" / "overlay.toml")])
    async with AsyncExitStack() as stack:
        for side in (alice, bob):
            await side.start(stack)
        for side, other in ((alice, bob), (bob, alice)):
            joined = (await side.status())["overlays"].values()
            assert all(overlay["joined"] for overlay in joined), side.peer.tail()
            await side.register(stack, other.aor)
        await settled.wait()
        await alice.ask(f"call {bob.aor}")
        talking = time.monotonic()
        await bob.ask("answered")
        await asyncio.sleep(BEFORE)
        first = time.monotonic()
        counts = await kind.move(lab)
        await asyncio.sleep(AFTER)
        last = time.monotonic()
        await alice.ask("hangup")
        said = {side.name: await side.ask("stop") for side in (alice, bob)}
    away = counts - first if kind.move is break_before_make else 0.0
    speakers = {"alice": "bob", "bob": "alice"}
    return {
        name: heard_by(
            said[name], said[speaker], TUNES[speaker], (talking, first, counts, last), away
        )
        for name, speaker in speakers.items()
    }


def heard_by(
    listener: dict[str, Any],
    speaker: dict[str, Any],
    tune: int,
    when: tuple[float, float, float, float],
    away: float,
) -> Heard:
    talking, first, counts, last = when
    mine, theirs = listener["streams"], speaker["streams"]
    (ssrc,) = [s for s in mine if s in theirs and _comes_from(theirs[s], mine[s])]
    times = [at for at, _ in mine[ssrc]]
    sound = load(Path(listener["heard"]))
    lack = longest_missing(
        melody(LENGTH, tune=tune), sound, first - talking - 1, last - talking - 0.5
    )
    # with no network from ``first`` to ``counts`` the last packet came long before
    pause = longest_pause(times, counts if away else counts - 0.02, last - 0.5)
    return Heard(round(pause * 1e3, 1), round(lack * 1e3, 1), round(away * 1e3, 1))


def _comes_from(there: list[Any], here: list[Any]) -> bool:
    """Whether packets crossed the loopback ``there`` first: that is where they are spoken."""
    spoken = {number: at for at, number in there}
    took = [at - spoken[number] for at, number in here if number in spoken]
    return bool(took) and statistics.median(took) > 0


def measure(*names: str, limit: float | None = None) -> dict[str, dict[str, Heard]]:
    """Make a lab for each kind, talk in all at the same time, and take them down.

    Args:
        names: of the kinds; more than three calls at a time are too many for two cores.
        limit: milliseconds, if not those of the kinds.

    Raises:
        TooLong: for longer nobody was heard; a ladder of the last seconds was printed.
    """

    async def one(name: str, settled: asyncio.Barrier) -> dict[str, Heard]:
        kind = KINDS[name]
        with tempfile.TemporaryDirectory(prefix="hiplab-") as folder, Lab(NAMES) as lab:
            for host, link in {(host, link) for host, link, _ in kind.first}:
                lab.connect(host, link)
            for host, link, version in kind.first:
                lab.add(host, link, version)
            with ladder(lab):
                heard = await talk(lab, kind, Path(folder), settled)
                return within(kind.limit if limit is None else limit, heard)

    async def together() -> list[dict[str, Heard]]:
        settled = asyncio.Barrier(len(names))
        async with asyncio.timeout(LIMIT):
            return await asyncio.gather(*(one(name, settled) for name in names))

    return dict(zip(names, asyncio.run(together()), strict=True))


def main() -> None:
    if why := missing() or (None if shutil.which("baresip") else "baresip is not installed"):
        print(f"no handover can be measured: {why}", file=sys.stderr)  # noqa: T201
        raise SystemExit(IMPOSSIBLE)
    for name in sys.argv[1:] or KINDS:
        heard = measure(name, limit=inf)[name]
        for who, found in heard.items():
            line = {"kind": name, "listener": who, "gap": found.gap, "limit": KINDS[name].limit}
            line |= {"pause": found.pause, "missing": found.missing}
            print(json.dumps(line), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
