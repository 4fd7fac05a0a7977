"""``hipctl``: make keys, show them, and ask a host far away whether it is who it should be."""

import asyncio
import contextlib
import ipaddress
import json
import logging
import os
import signal
import socket
import statistics
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import uvloop
from cryptography.hazmat.primitives.asymmetric import ec

from hipctl import running
from hipctl.constants import HIP_PORT
from hipctl.contact import contact_from_addresses
from hipctl.control import ControlServer, runtime_folder
from hipctl.errors import AssociationFailed, ControlUnavailable, HipError
from hipctl.host import LocalHost
from hipctl.hostconfig import HostConfig
from hipctl.hostcontrol import HostControl
from hipctl.identity import Hit, HostIdentity
from hipctl.interface import AssociationDown, AssociationUp, Event

R = TypeVar("R")
Address = tuple[str, int]

app = typer.Typer(
    name="hipctl",
    help="Host Identity Protocol for one host: keys, and a ping that proves who answers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

running.register(app)

_CURVES = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1()}

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Identity = Annotated[
    Path | None,
    typer.Option("--identity", "-i", help="Key file (from keygen); a throw-away one if omitted."),
]
Listen = Annotated[str, typer.Option("--listen", help="Our own UDP address, as ADDR:PORT.")]
KeyLog = Annotated[
    Path | None,
    typer.Option("--keylog", help="DANGER: append the keys of every association to this file."),
]


class _Refused(Exception):
    """What the user asked for can't be done; the message says what to do instead."""


@app.command(epilog="Example: hipctl keygen alice.pem")
def keygen(
    file: Annotated[Path, typer.Argument(help="Where the private key goes; must not exist.")],
    curve: Annotated[str, typer.Option(help="p256 (fast) or p384.")] = "p256",
    as_json: Json = False,
) -> None:
    """Make a Host Identity: an ECDSA key in a PEM file that only you can read."""
    if curve not in _CURVES:
        raise _Refused(f"no curve {curve!r}; choose one of: {', '.join(_CURVES)}")
    identity = HostIdentity(ec.generate_private_key(_CURVES[curve]))
    identity.save(file)
    _describe(identity, file, as_json)


@app.command(epilog="Example: hipctl show alice.pem")
def show(
    file: Annotated[Path, typer.Argument(help="A key file from keygen.")], as_json: Json = False
) -> None:
    """Show the public half of a key file: its HIT and Host Identity."""
    _describe(HostIdentity.load(file), file, as_json)


@app.command(epilog="Example: hipctl ping 2001:22:9f3a:1:2:3:4:5@192.0.2.7:10500 --count 3")
def ping(  # noqa: PLR0917  options, in the order of the help
    target: Annotated[str, typer.Argument(help="HIT@ADDR[:PORT]; IPv6 addresses in [brackets].")],
    identity: Identity = None,
    count: Annotated[int, typer.Option("--count", "-c", min=1, help="Echoes to send.")] = 4,
    interval: Annotated[float, typer.Option(min=0.0, help="Seconds between them.")] = 1.0,
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds to wait for answers.")] = 5.0,
    size: Annotated[int, typer.Option(min=0, max=65_000, help="Bytes in each echo.")] = 56,
    listen: Annotated[str, typer.Option(help="Our own ADDR:PORT; chosen if omitted.")] = "",
    keylog: KeyLog = None,
    as_json: Json = False,
) -> None:
    """Associate with a host and measure round trips inside ESP.

    Prints how long the base exchange took, then the time of each ICMPv6 echo. The answers prove
    that whoever is at ADDR holds the key behind HIT. Exit status 1 when nothing answered.
    """
    asked = _Ping(*_target(target), count, interval, timeout, bytes(size), as_json)
    any_port = "[::]:0" if ":" in asked.address[0] else "0.0.0.0:0"
    ours = _address(listen or any_port)
    if (":" in ours[0]) is not (":" in asked.address[0]):
        raise _Refused(f"{ours[0]} cannot speak to {asked.address[0]}; use two of one IP version")
    config = HostConfig(listen=(ours,), watch=False, keylog=keylog)
    _run(_ping(asked, _load(identity), config))
    raise typer.Exit(0 if asked.seconds else 1)


@app.command(epilog="Example: hipctl listen --identity alice.pem --listen 0.0.0.0:10500")
def listen(
    identity: Identity = None,
    address: Listen = f"0.0.0.0:{HIP_PORT}",
    keylog: KeyLog = None,
    control: Annotated[
        Path | None,
        typer.Option(help="Socket that answers hipctl status; in your runtime folder if omitted."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Answer base exchanges and pings until interrupted; says who comes and goes."""
    config = HostConfig(listen=(_address(address),), keylog=keylog)
    _run(_listen(_load(identity), config, control, as_json))


@dataclass
class _Ping:
    hit: Hit
    address: Address
    count: int
    interval: float
    timeout: float
    data: bytes
    as_json: bool
    exchange: float | None = None
    sent: int = 0
    seconds: list[float] = field(default_factory=list)

    def say(self, line: str) -> None:
        if not self.as_json:
            print(line, flush=True)

    def summary(self) -> None:
        lost = 100 * (self.sent - len(self.seconds)) / self.sent if self.sent else 0.0
        trips = [round(s * 1e3, 3) for s in self.seconds]
        if self.as_json:
            result = {
                "hit": str(self.hit),
                "address": list(self.address),
                "exchange_ms": None if self.exchange is None else round(self.exchange * 1e3, 3),
                "sent": self.sent,
                "received": len(trips),
                "rtt_ms": trips,
            }
            print(json.dumps(result), flush=True)
            return
        line = f"{self.sent} sent, {len(trips)} received, {lost:.0f} % lost"
        if trips:
            low, middle, high = min(trips), statistics.median(trips), max(trips)
            line += f"; round trip min/median/max {low:.3f}/{middle:.3f}/{high:.3f} ms"
        print(line, flush=True)


async def _ping(asked: _Ping, identity: HostIdentity, config: HostConfig) -> None:
    async with LocalHost([identity], config) as host:
        host.learn(asked.hit, contact_from_addresses([asked.address]))
        asked.say(f"PING {asked.hit} at {_text(asked.address)}, from {identity.hit}")
        try:
            start = time.perf_counter()
            await host.connect(asked.hit, timeout=asked.timeout)
            asked.exchange = time.perf_counter() - start
            asked.say(f"associated in {asked.exchange * 1e3:.1f} ms (base exchange)")
            await _echoes(asked, host)
        except AssociationFailed as error:
            asked.say(f"no association: {error}")
            asked.say("Check HIT and address, that the host runs, and that UDP gets through.")
        finally:
            asked.summary()


async def _echoes(asked: _Ping, host: LocalHost) -> None:
    loop = asyncio.get_running_loop()
    next_at = loop.time()
    for number in range(1, asked.count + 1):
        await asyncio.sleep(next_at - loop.time())
        next_at = loop.time() + asked.interval
        asked.sent += 1
        try:
            seconds = await host.ping(asked.hit, data=asked.data, timeout=asked.timeout)
        except TimeoutError:
            asked.say(f"no answer to echo {number} within {asked.timeout:g} s")
        else:
            asked.seconds.append(seconds)
            asked.say(f"{len(asked.data)} bytes: seq={number} time={seconds * 1e3:.3f} ms")


async def _listen(
    identity: HostIdentity, config: HostConfig, control: Path | None, as_json: bool
) -> None:
    def on_event(event: Event) -> None:
        if not isinstance(event, AssociationUp | AssociationDown):
            return
        up = isinstance(event, AssociationUp)
        if as_json:
            print(
                json.dumps({"event": "up" if up else "down", "peer": str(event.peer)}), flush=True
            )
        elif isinstance(event, AssociationUp):
            print(f"up    {event.peer} in {event.seconds * 1e3:.0f} ms", flush=True)
        else:
            print(f"down  {event.peer}: {event.reason}", flush=True)

    async with LocalHost([identity], config) as host, contextlib.AsyncExitStack() as stack:
        await _serve(stack, host, control)
        host.watch(on_event)
        addresses = [_text(address) for address in host.addresses]
        if as_json:
            print(json.dumps({"hit": str(identity.hit), "listening": addresses}), flush=True)
        else:
            print(f"{identity.hit} listens on UDP {', '.join(addresses)}; Ctrl-C ends", flush=True)
        await asyncio.get_running_loop().create_future()


async def _serve(stack: contextlib.AsyncExitStack, host: LocalHost, path: Path | None) -> None:
    """Answer ``hipctl status``; where nobody named a socket, do without if none is possible."""
    chosen = path or runtime_folder("hipctl") / f"{os.getpid()}.sock"
    try:
        await stack.enter_async_context(ControlServer(chosen, HostControl(host).answer))
    except ControlUnavailable as error:
        if path is not None:
            raise
        logging.getLogger(__name__).warning("%s; hipctl status will not find this host", error)


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop until done, Ctrl-C or SIGTERM; either way the host closes in good order."""

    async def interruptible() -> None:
        task = asyncio.create_task(work)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await task

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(interruptible())


def _describe(identity: HostIdentity, file: Path, as_json: bool) -> None:
    curve = identity.host_id.curve.name.replace("NIST_P", "P-")
    if as_json:
        row = {
            "file": str(file),
            "hit": str(identity.hit),
            "algorithm": "ECDSA",
            "curve": curve,
            "host_identity": identity.host_id.encoded.hex(),
        }
        print(json.dumps(row))
    else:
        print(f"HIT             {identity.hit}")
        print(f"algorithm       ECDSA {curve}, HIT suite {identity.hit.suite}")
        print(f"host identity   {identity.host_id.encoded.hex()}")
        print(f"file            {file}")


def _load(file: Path | None) -> HostIdentity:
    if file is None:
        return HostIdentity(ec.generate_private_key(ec.SECP256R1()))
    return HostIdentity.load(file)


def _target(text: str) -> tuple[Hit, Address]:
    hit, at, address = text.partition("@")
    if not at:
        raise _Refused(f"{text!r} does not say where; write HIT@ADDR or HIT@ADDR:PORT")
    try:
        peer = Hit.parse(hit)
    except ValueError as error:
        raise _Refused(f"{hit!r} is no HIT ({error}); the peer's `hipctl show` tells it") from None
    found = _address(address, HIP_PORT)
    try:
        contact_from_addresses([found])
    except ValueError as error:
        raise _Refused(f"nobody can be reached there: {error}") from None
    return peer, found


def _address(text: str, default_port: int | None = None) -> Address:
    """Read ADDR:PORT, [ADDR]:PORT or, with a default, ADDR alone; names are resolved."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]") or (text.count(":") > 1 and text[0] != "["):
        host, port = text, "" if default_port is None else str(default_port)
    host = host.removeprefix("[").removesuffix("]")
    if not (port.isascii() and port.isdecimal() and int(port) < 65_536):
        raise _Refused(f"{text!r} has no port; write ADDR:PORT, e.g. 192.0.2.1:{HIP_PORT}")
    with contextlib.suppress(ValueError):
        ip = ipaddress.ip_address(host)
        mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
        return str(mapped or ip), int(port)
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        raise _Refused(f"{host!r} is no address and cannot be resolved; check the name") from None
    return str(found[0][4][0]), int(port)


def _text(address: Address) -> str:
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"


def main() -> int:
    """Do what the arguments say; errors go to stderr and into the exit status."""
    logging.basicConfig(format="hipctl: %(message)s")
    try:
        app()
    except (HipError, _Refused) as error:
        typer.echo(f"hipctl: {error}", err=True)
        return 1
    return 0
