"""Peers of one overlay as separate processes on this machine, made with the commands of users.

The demo shows them, and tests with real clients use them. Addresses are 127.0.0.x, which need no
rights: HIP at port 10500 of each, and the SIP gateway at port 5060.
"""

import asyncio
import contextlib
import functools
import json
import re
import shutil
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from hipctl import ControlRefused, NotRunning, ask_control, socket_path
from sipgw.demo.process import Program, StepFailed, is_free, reserve

DOMAIN = "demo.internal"
HIP_PORT = 10_500
SIP_PORT = 5_060
PORTS = ((HIP_PORT, SIP_PORT), (20_500, 25_060))  # the second pair where a real peer has the first
AT_A_TIME = 3  # commands
COMMAND = 30.0  # seconds that one command may take
START = 20.0
JOIN = 30.0
LOOK = 0.2  # seconds until a peer is asked again


@dataclass(slots=True)
class PeerProcess:
    """One peer.

    Attributes:
        name: user part of its AoR.
        address: IPv4 address of its HIP host and its gateway.
        folder: its profile.
        ports: of its HIP host and its gateway.
        hit: of its device.
        program: the process.
    """

    name: str
    address: str
    folder: Path
    ports: tuple[int, int] = PORTS[0]
    hit: str = ""
    program: Program = field(init=False)

    @property
    def aor(self) -> str:
        """Its certified name."""
        return f"sip:{self.name}@{DOMAIN}"

    @property
    def hip(self) -> str:
        """Where its HIP host listens."""
        return f"{self.address}:{self.ports[0]}"

    @property
    def sip(self) -> tuple[str, int]:
        """Where its SIP gateway listens."""
        return self.address, self.ports[1]


def installed(program: str) -> str:
    """Find one of this package's own programs, beside the interpreter or on the path.

    Raises:
        StepFailed: the package isn't installed.
    """
    beside = Path(sys.executable).with_name(program)
    found = str(beside) if beside.is_file() else shutil.which(program)
    if not found:
        raise StepFailed(f"{program} is not installed; try: pip install -e .")
    return found


async def run_command(program: str, *arguments: str, timeout: float = COMMAND) -> list[str]:
    """Run one command and return the lines that it printed.

    Raises:
        StepFailed: it failed or took too long.
    """
    what = f"{program} {' '.join(arguments)}"
    async with Program(what, [installed(program), *arguments]) as child:
        status = await child.exit_status(timeout)
        await child.finished(timeout)
        lines = child.tail(1_000)
    if status:
        raise StepFailed(f"{what}: {lines[-1] if lines else f'exit status {status}'}")
    return lines


async def command(program: str, *arguments: str, timeout: float = COMMAND) -> dict[str, Any]:
    """Run one command with ``--json`` and return the object that it printed.

    Raises:
        StepFailed: it failed, took too long, or printed something else.
    """
    lines = await run_command(program, *arguments, "--json", timeout=timeout)
    for line in reversed(lines):
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    raise StepFailed(f"{program} {' '.join(arguments)}: no JSON came")


_PRIVATE = re.compile(r"^private_addresses.*\n", re.MULTILINE)


def _overlay_in(profile: str) -> str:
    """The name of the overlay in a profile."""
    found = re.search(r"^\[overlay\.([^.\]]+)\]", profile, re.MULTILINE)
    if found is None:
        raise StepFailed("the profile names no overlay")
    return found[1]


def _free_addresses(count: int, ports: tuple[int, int]) -> tuple[int, list[socket.socket]] | None:
    """Find ``count`` addresses in a row on which both ports are free, and reserve them.

    Returns:
        The last byte of the first one, and what reserves them until it is closed: TCP ports, which
        no peer needs, but another demo or test that looks for free addresses sees. None if there
        are no such addresses, as when something listens on every address.
    """
    reserved: list[socket.socket] = []
    for last in range(2, 255):
        address = f"127.0.0.{last}"
        if all(is_free(address, port) for port in ports):
            with contextlib.suppress(OSError):
                reserved.append(reserve(address, ports[0]))
                if len(reserved) == count:
                    return last - count + 1, reserved
                continue
        while reserved:
            reserved.pop().close()
    return None


class World:
    """An enrolled overlay and its peers.

    Args:
        folder: where everything is written; nothing outside it is.
        names: of the peers; the first one is the seed of the others.
        absent: of those that are made but not started: they have a profile and a certificate.
        rendezvous: of those that offer to be rendezvous servers.
        callee: of who can be called through these only.
        keylogs: whether each peer writes ``keylog`` into its folder.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        *,
        absent: Sequence[str] = (),
        rendezvous: Sequence[str] = (),
        callee: str = "",
        keylogs: bool = False,
    ) -> None:
        self.folder = folder
        for ports in PORTS:
            if found := _free_addresses(len(names) + len(absent), ports):
                break
        else:
            raise StepFailed(f"UDP ports {PORTS} of 127.0.0.x are taken; what has them?")
        first, self._reserved = found
        self.peers = {
            name: PeerProcess(name, f"127.0.0.{first + number}", folder / name, ports)
            for number, name in enumerate((*names, *absent))
        }
        self.running = tuple(names)
        self._keylogs = keylogs
        self._rendezvous, self._callee = rendezvous, callee
        self._gate = asyncio.Semaphore(AT_A_TIME)

    async def _run(self, *arguments: str) -> dict[str, Any]:
        async with self._gate:
            return await command("p2psip", *arguments)

    async def make(self) -> None:
        """Found the overlay; make each peer's identity, profile and certificate.

        Raises:
            StepFailed: a command failed.
        """
        folder = str(self.folder)
        await self._run("overlay", "new", DOMAIN, "--enrolled", "--folder", folder)
        seed, *others = self.peers.values()
        await self._init(seed, None)
        async with asyncio.TaskGroup() as group:
            for peer in others:
                group.create_task(self._init(peer, seed))

    async def _init(self, peer: PeerProcess, seed: PeerProcess | None) -> None:
        overlay = str(self.folder / "overlay.toml")
        arguments = ["init", str(peer.folder), "--overlay", overlay]
        arguments += ["--listen", peer.hip, "--sip", f"{peer.address}:{peer.ports[1]}"]
        if seed is not None:
            arguments += ["--seed", f"{seed.hit}@{seed.hip}"]
        made = await self._run(*arguments)
        peer.hit = made["hit"]
        certificate = str(self.folder / f"{peer.name}.pem")
        key = str(self.folder / "ca.pem")
        account = self.folder / f"{peer.name}.account"
        async with self._gate:
            profile = str(peer.folder)
            lines = await run_command("p2psip", "account", "export", "--profile", profile)
        account.write_text("\n".join([*lines, ""]))
        issue = ["ca", "issue", "--aor", peer.aor, "--account", str(account), "--overlay", overlay]
        await self._run(*issue, "--ca-key", key, "--out", certificate)
        await self._run("account", "add-certificate", certificate, "--profile", str(peer.folder))
        profile_file = peer.folder / "profile.toml"
        text = profile_file.read_text()
        if peer.name in self._rendezvous:
            text += f"\n[overlay.{_overlay_in(text)}.services.rvs]\n"
        if peer.name == self._callee:
            text = _PRIVATE.sub("", text).replace(
                "[host]\n", "[host]\nvisible = true\nprivate_addresses = false\n", 1
            )
        profile_file.write_text(text)

    async def start(self) -> None:
        """Start every peer's process and wait until each says that it is ready.

        Raises:
            StepFailed: one did not start.
        """
        async with asyncio.TaskGroup() as group:
            for name in self.running:
                group.create_task(self._start(self.peers[name]))

    async def _start(self, peer: PeerProcess) -> None:
        argv = [installed("p2psip"), "run", str(peer.folder), "--json", "-v"]
        if self._keylogs:
            argv += ["--keylog", str(peer.folder / "keylog")]
        peer.program = Program(f"peer of {peer.name}", argv)
        await peer.program.start()
        await peer.program.lines.wait(
            lambda line: True if line.startswith('{"event": "ready"') else None,
            START,
            what="ready",
        )

    async def joined(self) -> dict[str, dict[str, Any]]:
        """Wait until every peer joined and knows all others; return what each says of itself.

        Raises:
            StepFailed: one did not, in time.
        """
        found: dict[str, dict[str, Any]] = {}
        async with asyncio.TaskGroup() as group:
            tasks = {
                name: group.create_task(self.status(name, wait=JOIN)) for name in self.running
            }
        for name, task in tasks.items():
            found[name] = task.result()
            if not all(o["joined"] for o in found[name]["overlays"].values()):
                raise StepFailed(f"peer of {name} did not join within {JOIN:g} s")
        return found

    async def ask(self, name: str, *arguments: str, timeout: float = COMMAND) -> dict[str, Any]:
        """Ask a running peer with a command: ``trace``, or ``resolve`` and an AoR."""
        profile = str(self.peers[name].folder)
        return await command("p2psip", *arguments, "--profile", profile, timeout=timeout)

    async def status(self, name: str, wait: float = 0.0) -> dict[str, Any]:
        """What ``p2psip status --wait`` says, without a process for each question."""
        try:
            return await self._told(name, "control.sock", "status", timeout=10 + wait, wait=wait)
        except ControlRefused as error:
            raise StepFailed(f"peer of {name}: {error}") from None

    async def published(self, name: str, timeout: float) -> None:
        """Wait until the registration of a peer's client stands in the overlay.

        Raises:
            StepFailed: it does not.
        """
        aor, end = self.peers[name].aor, asyncio.get_running_loop().time() + timeout
        while True:
            status = await self.status(name)
            if any(aor in overlay["published"] for overlay in status["overlays"].values()):
                return
            if asyncio.get_running_loop().time() > end:
                raise StepFailed(f"{aor} is not in the overlay after {timeout:g} s")
            await asyncio.sleep(LOOK)

    async def servers(self, name: str, count: int, timeout: float) -> list[str]:
        """Wait until a peer can be called through so many servers; return which, by name.

        Raises:
            StepFailed: it cannot.
        """
        end = asyncio.get_running_loop().time() + timeout
        names = {peer.hit: peer.name for peer in self.peers.values()}
        while True:
            status = await self.status(name)
            rows = [row for one in status["identities"].values() for row in one["servers"]]
            used = [
                names.get(row["hit"], row["hit"])
                for row in rows
                if "rendezvous server" in row["for"]
            ]
            if status["callable"] and len(used) >= count:
                return used
            if asyncio.get_running_loop().time() > end:
                raise StepFailed(f"{name} has {len(used)} servers of {count} after {timeout:g} s")
            await asyncio.sleep(LOOK)

    async def kill(self, name: str) -> None:
        """A peer dies without a word."""
        await self.peers[name].program.stop(signal.SIGKILL)

    async def forget(self, name: str, other: str) -> None:
        """Let a peer close its association with another, and forget where that was.

        What follows begins anew, where the other's contact says. Asked as ``hipctl close`` does,
        but without the time that a process takes to start: what the other says meanwhile would
        tell again where it is.
        """
        with contextlib.suppress(ControlRefused):  # there was none
            await self._ask_host(name, "close", hit=self.peers[other].hit, forget=True)

    async def association(self, name: str, other: str) -> dict[str, Any]:
        """What a peer's host says of its association with another; empty if there is none."""
        rows = (await self._ask_host(name, "status"))["associations"]
        return next((dict(row) for row in rows if row["peer"] == self.peers[other].hit), {})

    async def _ask_host(self, name: str, what: str, **arguments: Any) -> dict[str, Any]:
        return await self._told(name, "hip.sock", what, **arguments)

    async def _told(self, name: str, control: str, what: str, **arguments: Any) -> dict[str, Any]:
        path = socket_path(self.peers[name].folder / "state", control, "p2psip")
        try:
            return await asyncio.to_thread(functools.partial(ask_control, path, what, **arguments))
        except NotRunning as error:
            raise StepFailed(f"peer of {name}: {error}") from None

    async def passed_on(self, name: str, client: str) -> int:
        """How many packets a rendezvous server has passed on to a client."""
        status = await self.status(name)
        return sum(
            row["packets"]
            for service in status["services"].values()
            for row in service.get("served", ())
            if row["hit"] == self.peers[client].hit
        )

    async def stop(self) -> None:
        """End every peer; harmless when done twice."""
        running = [peer.program for peer in self.peers.values() if hasattr(peer, "program")]
        await asyncio.gather(*(program.stop() for program in running))
        while self._reserved:
            self._reserved.pop().close()

    async def __aenter__(self) -> Self:
        """Make and start everything."""
        try:
            await self.make()
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """End every peer."""
        await self.stop()

    def tail(self, name: str, lines: int = 15) -> list[str]:
        """The last lines of a peer's log."""
        peer = self.peers[name]
        return peer.program.tail(lines) if hasattr(peer, "program") else []
