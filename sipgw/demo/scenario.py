"""The demo itself: five peers, two real clients, a call, texts, and a judgement of it all."""

import asyncio
import contextlib
import functools
import importlib.util
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, TextIO

from sipgw.demo.audio import audio_ncc, load, melody, save
from sipgw.demo.baresip import Baresip
from sipgw.demo.clients import Account, CallRefused, Client
from sipgw.demo.library import LibraryClient
from sipgw.demo.picture import Progress, picture
from sipgw.demo.process import Program, StepFailed
from sipgw.demo.world import DOMAIN, World, command, installed, run_command

NAMES = ("alice", "bob", "carol", "dave", "erin")
CALLEE, RENDEZVOUS = "bob", ("dave", "erin")
SERVERS = 40.0  # seconds until the callee has found and tested them
MESSAGES = {"alice": "Hello bob, no server heard this", "bob": "Hello alice, nor this"}
LIMITS = {"baresip": 0.95, "pjsua2": 0.9, "baresip-python": 0.95}  # pjsua2 slips now and then
UNKNOWN_LIMIT = 2.0  # seconds until an unknown user is refused
REGISTER, ANSWER, SHORT = 15.0, 10.0, 5.0
SPARE = 4.0  # seconds of melody beyond the call

MakeClient = Callable[[Account, Path, Path], Client]


@dataclass(slots=True)
class Demo:
    """One run.

    Attributes:
        seconds: of talk.
        capture: file for a packet capture of the loopback, or None.
        client: which SIP client, empty for the best that is here.
        progress: where steps are told.
        steps: what was done so far.
    """

    seconds: float
    capture: Path | None
    client: str
    progress: Progress
    steps: list[dict[str, Any]] = field(default_factory=list)
    audio_ncc: float | None = None
    base_exchange_ms: float | None = None
    post_dial_ms: float | None = None

    def result(self, ok: bool) -> dict[str, Any]:
        """The last line."""
        return {
            "ok": ok,
            "steps": self.steps,
            "audio_ncc": self.audio_ncc,
            "base_exchange_ms": self.base_exchange_ms,
            "post_dial_ms": self.post_dial_ms,
        }

    @asynccontextmanager
    async def step(
        self, name: str, timeout: float, *logs: Callable[[], list[str]]
    ) -> AsyncIterator[list[str]]:
        """Time one step, and tell; what is put into the list is shown beside it.

        Args:
            name: of the step.
            timeout: seconds after which it failed.
            logs: what to print of whom if it fails.
        """
        began, detail = time.monotonic(), list[str]()
        try:
            async with asyncio.timeout(timeout):
                yield detail
        except BaseException as error:
            reason = str(_first(error)) or f"took longer than {timeout:g} s"
            if isinstance(error, asyncio.CancelledError):
                reason = "stopped"
            self._note(name, False, began, reason)
            for log in () if isinstance(error, asyncio.CancelledError) else logs:
                self.progress.complain(*(f"      | {line}" for line in log()))
            if isinstance(
                _first(error), StepFailed | TimeoutError | OSError | ValueError | LookupError
            ):
                raise StepFailed(reason) from None
            raise
        self._note(name, True, began, " ".join(detail))

    def _note(self, name: str, ok: bool, began: float, detail: str) -> None:
        seconds = time.monotonic() - began
        self.steps.append({"name": name, "ok": ok, "ms": round(seconds * 1000, 1)})
        self.progress.step(name, ok, seconds, detail)


def _first(error: BaseException) -> BaseException:
    """What went wrong, out of a group of what went wrong together."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def choose_client(wanted: str = "") -> tuple[str, MakeClient]:
    """Take the client that is wanted, else the best that is here.

    Raises:
        StepFailed: it is not, or none is.
    """
    here: dict[str, MakeClient] = {}
    if shutil.which("baresip"):
        here["baresip"] = Baresip
    if importlib.util.find_spec("pjsua2"):
        here["pjsua2"] = functools.partial(LibraryClient, library="pjsua2")
    if importlib.util.find_spec("baresip"):
        here["baresip-python"] = functools.partial(LibraryClient, library="baresip-python")
    for name in [wanted] if wanted else here:
        if name in here:
            return name, here[name]
    raise StepFailed(
        f"no SIP client{f' {wanted}' if wanted else ''} here; "
        "try: apt-get install baresip-core, or pip install pjsua2-python or baresip-python"
    )


@asynccontextmanager
async def capturing(path: Path | None) -> AsyncIterator[None]:
    """Capture what crosses the loopback with tshark, which may need root.

    Raises:
        StepFailed: tshark isn't installed, or may not capture.
    """
    if path is None:
        yield
        return
    argv = ["tshark", "-q", "-n", "-i", "lo", "-f", "udp", "-w", str(path)]
    async with Program("tshark", argv) as tshark:
        await tshark.lines.wait(
            lambda line: True if line.startswith("Capturing on") else None, 15, what="capture"
        )
        await asyncio.sleep(0.5)  # it says so a moment before it is true
        try:
            yield
        finally:
            await asyncio.sleep(0.5)
            await tshark.stop(signal.SIGINT)


async def set_up(demo: Demo, stack: AsyncExitStack) -> World:
    """Make the overlay and start its peers."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="p2psip-demo-")))
    if demo.capture is not None:
        async with demo.step("start the capture", 20):
            await stack.enter_async_context(capturing(demo.capture))
    world = World(folder, NAMES, rendezvous=RENDEZVOUS, callee=CALLEE)
    stack.push_async_callback(world.stop)
    async with demo.step("make five peers", 60) as detail:
        await world.make()
        detail.append(f"one overlay, {DOMAIN}, with a CA; identities, profiles, certificates")
    async with demo.step("start five processes", 30, *_logs(world, *NAMES)) as detail:
        await world.start()
        detail.append("HIP at " + " ".join(peer.hip for peer in world.peers.values()))
    async with demo.step("join the overlay", 45, *_logs(world, *NAMES)):
        await world.joined()
    async with demo.step("one base exchange", 10) as detail:
        demo.base_exchange_ms = await _base_exchange()
        detail.append(f"I1 R1 I2 R2 in {demo.base_exchange_ms:g} ms, then echoes in ESP")
    async with demo.step("register with servers", 45, *_logs(world, CALLEE)) as detail:
        used = await world.servers(CALLEE, len(RENDEZVOUS), SERVERS)
        detail.append(f"{CALLEE} is reached through the rendezvous servers {' and '.join(used)}")
    return world


async def _base_exchange() -> float:
    """Milliseconds that two strangers need; the peers associate with those of their overlay only.

    Raises:
        StepFailed: they did not find together.
    """
    what = "hipctl listen"
    argv = [installed("hipctl"), "listen", "--listen", "127.0.0.1:0", "--json"]
    async with Program(what, argv) as listening:
        ready = await listening.lines.wait(
            lambda line: json.loads(line) if line.startswith("{") else None, 10, what=what
        )
        target = f"{ready['hit']}@{ready['listening'][0]}"
        found = await command("hipctl", "ping", target, "--interval", "0.01")
        await listening.stop(signal.SIGINT)
    return round(float(found["exchange_ms"]), 3)


def _logs(world: World, *names: str) -> list[Callable[[], list[str]]]:
    return [_log_of(world, name) for name in names]


def _log_of(world: World, name: str) -> Callable[[], list[str]]:
    return lambda: [f"{name}: {line}" for line in world.tail(name, 8)]


async def start_clients(demo: Demo, world: World, stack: AsyncExitStack) -> dict[str, Client]:
    """Start a real SIP client at two of the peers, and let it register."""
    kind, make = choose_client(demo.client)
    clients: dict[str, Client] = {}
    for tune, (name, friend) in enumerate((("alice", "bob"), ("bob", "alice")), start=1):
        peer = world.peers[name]
        microphone = world.folder / f"{name}.wav"
        save(microphone, melody(demo.seconds + SPARE, tune=tune))
        account = Account(peer.aor, peer.sip, world.peers[friend].aor)
        folder = world.folder / f"{name}-client"
        folder.mkdir()
        client = make(account, folder, microphone)
        stack.push_async_callback(client.stop)
        logs = [*_logs(world, name), client.tail]
        async with demo.step(f"register {name}", REGISTER, *logs) as detail:
            await client.start()
            await client.registered(REGISTER)
            await world.published(name, REGISTER)
            detail.append(f"{kind} at {peer.sip[0]}:{peer.sip[1]} as {peer.aor}; in the overlay")
        clients[name] = client
    return clients


async def _call(demo: Demo, world: World, clients: dict[str, Client]) -> None:
    """Let alice call bob, and say how it sounded."""
    kind, _ = choose_client(demo.client)
    alice, bob = clients["alice"], clients["bob"]
    logs = [*_logs(world, "alice", "bob"), alice.tail, bob.tail]
    async with demo.step("alice calls bob", ANSWER + SHORT, *logs) as detail:
        await alice.call(bob.account.aor, ANSWER)
        await bob.answered(SHORT)
        detail.append("answered")
    began = time.monotonic()
    async with demo.step("talk", demo.seconds + SHORT, *logs) as detail:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(demo.seconds))
            await asyncio.sleep(demo.seconds / 2)
            asked = {name: group.create_task(world.status(name)) for name in NAMES}
        statuses = {name: task.result() for name, task in asked.items()}
        detail.append("a melody each way")
    if not (alice.writes and bob.writes):
        demo.progress.say(f"{'':9} --    {kind} cannot send texts: left out")
    for name, friend in (("alice", "bob"), ("bob", "alice")) if alice.writes else ():
        async with demo.step(f"{name} writes to {friend}", SHORT * 2, *logs) as detail:
            await clients[name].message(MESSAGES[name])
            sender = await clients[friend].received(MESSAGES[name], SHORT)
            if world.peers[name].aor not in sender:
                raise StepFailed(f"it seems to come from {sender}")
            detail.append(f"“{MESSAGES[name]}”")
    async with demo.step("hang up", SHORT * 3, *logs):
        await alice.hang_up()
        lasted = time.monotonic() - began
        await alice.ended(SHORT)
        await bob.ended(SHORT)
    async with demo.step("compare what was heard", 20, *logs) as detail:
        heard = {
            f"by {listener}": audio_ncc(
                melody(lasted, tune=tune), load(clients[listener].heard()), lasted
            )
            for listener, tune in (("bob", 1), ("alice", 2))
        }
        demo.audio_ncc = round(min(heard.values()), 4)
        detail.append("  ".join(f"{who} {value:.4f}" for who, value in heard.items()))
        if demo.audio_ncc < LIMITS[kind]:
            raise StepFailed(f"{detail[0]}: less than {LIMITS[kind]}")
    async with demo.step("call nobody", SHORT * 2, *logs) as detail:
        await _refused(alice, f"sip:nobody@{DOMAIN}")
        detail.append("404, as it should be")
    async with demo.step("look at the call", SHORT * 2, *logs):
        await _look(demo, world)
    await call_without(demo, world, clients)
    picture_lines = picture(
        world.peers, statuses, dict.fromkeys(("alice", "bob"), kind), ("alice", "bob")
    )
    demo.progress.say(*picture_lines)


async def call_without(
    demo: Demo,
    world: World,
    clients: dict[str, Client],
    dead: Sequence[str] = RENDEZVOUS[:1],
    alive: Sequence[str] = RENDEZVOUS[1:],
) -> None:
    """Some of the callee's servers die; a call that begins anew finds it through the others.

    Args:
        demo: this run.
        world: its peers.
        clients: theirs.
        dead: which servers die.
        alive: which are left.

    Raises:
        StepFailed: the call was not answered, or did not come through a server that lives.
    """
    alice, bob = clients["alice"], clients[CALLEE]
    logs = [*_logs(world, "alice", CALLEE), alice.tail, bob.tail]
    async with demo.step("kill a server", SHORT * 2, *logs) as detail:
        before = {name: await world.passed_on(name, CALLEE) for name in alive}
        for name in dead:
            await world.kill(name)
        detail.append(f"{' and '.join(dead)} died without a word")
    async with demo.step("alice calls bob again", ANSWER + SHORT, *logs) as detail:
        began = time.monotonic()
        await world.forget("alice", CALLEE)
        await alice.call(bob.account.aor, ANSWER)
        await bob.answered(SHORT)
        row = await world.association("alice", CALLEE)
        if row.get("age", inf) > time.monotonic() - began:
            raise StepFailed(f"alice had not forgotten where {CALLEE} is")
        used = [name for name in alive if await world.passed_on(name, CALLEE) > before[name]]
        if not used:
            raise StepFailed(f"answered, but not through {' or '.join(alive) or 'a server'}")
        detail.append(
            f"answered: alice had forgotten where {CALLEE} is, {used[0]} passed her I1 on"
        )
    async with demo.step("hang up again", SHORT * 3, *logs):
        await alice.hang_up()
        await alice.ended(SHORT)
        await bob.ended(SHORT)


async def _refused(client: Client, aor: str) -> None:
    """Call an unknown user, and be told so soon."""
    began = time.monotonic()
    try:
        await client.call(aor, SHORT)
    except CallRefused as refused:
        if refused.status != 404:
            raise StepFailed(f"{refused}, not 404") from None
        if time.monotonic() - began > UNKNOWN_LIMIT:
            raise StepFailed(f"it took longer than {UNKNOWN_LIMIT:g} s") from None
        return
    raise StepFailed("somebody answered")


async def _look(demo: Demo, world: World) -> None:
    """Print the waterfall of the answered call, and keep its post-dial delay."""
    found = await world.ask("alice", "trace")
    for call in found["calls"]:
        at = {mark["step"]: mark["ms"] for mark in reversed(call["steps"])}
        if "answer" in at:
            rang = at.get("ringing", at["answer"])  # a client may answer without ringing
            demo.post_dial_ms = round(rang - at.get("invite", 0.0), 3)
            profile = str(world.peers["alice"].folder)
            lines = await run_command("p2psip", "trace", call["call"], "--profile", profile)
            demo.progress.say("", *(f"  {line}" for line in lines))
            return
    raise StepFailed("alice's peer traced no answered call")


async def _run(demo: Demo) -> bool:
    """Run every step; say whether all held."""
    try:
        choose_client(demo.client)
        async with AsyncExitStack() as stack:
            world = await set_up(demo, stack)
            clients = await start_clients(demo, world, stack)
            await _call(demo, world, clients)
    except StepFailed as failed:
        if not demo.steps or demo.steps[-1]["ok"]:  # outside of any step
            demo.steps.append({"name": "tools", "ok": False, "ms": 0.0})
            demo.progress.complain(str(failed))
        return False
    return all(step["ok"] for step in demo.steps)


def run(*, seconds: float, capture: Path | None, client: str, as_json: bool) -> int:
    """Run the demo and return its exit status: 0 only if every step held."""
    out: TextIO | None = None if as_json else sys.stdout
    demo = Demo(
        seconds,
        capture and capture.absolute(),
        client,
        Progress(out, sys.stderr if as_json else None),
    )
    try:
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            ok = runner.run(_until_told(_run(demo), loop))
    except (KeyboardInterrupt, asyncio.CancelledError):
        demo.progress.say("stopped; everything is cleaned up")
        print(json.dumps(demo.result(False)), flush=True)
        return 130
    print(json.dumps(demo.result(ok)), flush=True)
    return 0 if ok else 1


async def _until_told(work: Coroutine[Any, Any, bool], loop: asyncio.AbstractEventLoop) -> bool:
    """SIGTERM ends it as Ctrl-C does."""
    task = asyncio.current_task()
    with contextlib.suppress(NotImplementedError):
        if task is not None:
            loop.add_signal_handler(signal.SIGTERM, task.cancel)
    return await work
