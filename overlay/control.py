"""The control socket: how ``p2psip status`` and its sisters talk to the peer that runs.

A Unix socket of mode 0600 in a directory of mode 0700, so that only the user reaches it. One JSON
object a line each way: ``{"do": "status"}`` is answered by ``{"ok": …}`` or ``{"error": "…"}``.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self

from hipctl import HipError
from overlay.errors import ConfigError, OverlayError

_log = logging.getLogger(__name__)

MAX_REQUEST: Final = 16_384  # bytes of one line
MAX_ANSWER: Final = 4_194_304
MAX_CLIENTS: Final = 8
IDLE: Final = 10.0  # seconds a client may take for its next request
MAX_PATH: Final = 100  # bytes; the kernel's own limit is 107

Answer = Callable[[str, Mapping[str, Any]], Awaitable[Any]]
"""``await answer(what, arguments)`` gives something JSON-ready, or raises OverlayError."""


class PeerNotRunning(OverlayError):
    """Nobody answers at the control socket."""


class ControlRefused(OverlayError):
    """The peer answered that it cannot do what was asked; the message is its own."""


def control_path(state: Path) -> Path:
    """Where the peer with this state directory listens.

    That is in the directory, or where that is too long a path, in the user's runtime directory.
    """
    state = state.resolve()
    within = state / "control.sock"
    if len(os.fsencode(within)) <= MAX_PATH:
        return within
    from platformdirs import user_runtime_path  # noqa: PLC0415 - seldom needed

    name = hashlib.sha256(os.fsencode(state)).hexdigest()[:24]
    return Path(user_runtime_path("p2psip")) / f"{name}.sock"


class ControlServer:
    """Answers the user's other commands while the peer runs.

    Args:
        path: of the socket.
        answer: does what is asked.
    """

    def __init__(self, path: Path, answer: Answer) -> None:
        self._path = path
        self._answer = answer
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._closing = False
        self.refused = 0

    async def __aenter__(self) -> Self:
        """Listen.

        Raises:
            ConfigError: another peer runs with this profile, or the socket cannot be made.
        """
        try:
            _private_directory(self._path.parent)
            self._remove_stale()
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.bind(str(self._path))
                self._path.chmod(0o600)
                sock.setblocking(False)
                self._server = await asyncio.start_unix_server(
                    self._client, sock=sock, limit=MAX_REQUEST
                )
            except BaseException:
                sock.close()
                raise
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError(
                f"{self._path}: no control socket possible: {reason}; see peer.state"
            ) from None
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._closing = True  # a client accepted a moment ago finds this when its task starts
        if self._server is not None:
            self._server.close()
        for task in self._clients:
            task.cancel()
        if self._clients:
            await asyncio.wait(self._clients)
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _remove_stale(self) -> None:
        """Unlink the socket of a peer that died; refuse to run beside one that lives."""
        if not self._path.exists():
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(self._path))
            except OSError:
                self._path.unlink(missing_ok=True)
                return
        raise ConfigError(
            "a peer runs with this profile already; stop it with: p2psip stop, or choose "
            "another profile"
        )

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or self._closing or len(self._clients) >= MAX_CLIENTS:
            self.refused += 1
            writer.close()
            return
        self._clients.add(task)
        try:
            while line := await self._line(reader):
                writer.write(await self._reply(line))
                async with asyncio.timeout(IDLE):
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.CancelledError):
            pass  # the client went away, dawdles, or we stop
        finally:
            self._clients.discard(task)
            writer.close()

    async def _line(self, reader: asyncio.StreamReader) -> bytes:
        """The next line, or nothing when the client is done, slow, or says too much."""
        try:
            async with asyncio.timeout(IDLE):
                return await reader.readline()
        except (ValueError, TimeoutError):  # readline's word for a line above the limit
            self.refused += 1
            return b""

    async def _reply(self, line: bytes) -> bytes:
        reply: dict[str, Any]
        try:
            request = parse_request(line)
            reply = {"ok": await self._answer(request["do"], request)}
        except (OverlayError, HipError) as error:
            reply = {"error": str(error), "kind": type(error).__name__}
        data = json.dumps(reply, separators=(",", ":"), default=str).encode() + b"\n"
        if len(data) > MAX_ANSWER:
            _log.warning("an answer of %d bytes is too long for the control socket", len(data))
            return b'{"error":"the answer is too long"}\n'
        return data


def parse_request(line: bytes) -> dict[str, Any]:
    """Read a request.

    Raises:
        ControlRefused: it is none.
    """
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise ControlRefused("no JSON") from None
    if not isinstance(request, dict) or not isinstance(request.get("do"), str):
        raise ControlRefused('a request is one JSON object with "do"')
    return request


def ask(path: Path, what: str, *, timeout: float = 10.0, **arguments: Any) -> dict[str, Any]:
    """Ask the peer that listens at ``path``; blocks. For the command line.

    Args:
        path: of the control socket.
        what: ``status``, ``resolve``, ``trace``, ``contacts`` or ``stop``.
        timeout: seconds for each step.
        arguments: JSON-ready.

    Raises:
        PeerNotRunning: nobody listens, or nobody answers in time.
        ControlRefused: the peer's answer is an error.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout)
            sock.connect(str(path))
            sock.sendall(json.dumps({"do": what, **arguments}).encode() + b"\n")
            with sock.makefile("rb") as file:
                line = file.readline(MAX_ANSWER)
    except TimeoutError:
        raise PeerNotRunning(f"the peer did not answer within {timeout:g} s") from None
    except OSError:
        raise PeerNotRunning(
            "no peer runs with this profile; start it with: p2psip run -p PROFILE, or name "
            "another one with: -p PROFILE"
        ) from None
    try:
        reply = json.loads(line)
    except ValueError:
        raise PeerNotRunning("the peer closed the connection without an answer") from None
    if not isinstance(reply, dict) or not isinstance(reply.get("ok"), dict):
        error = reply.get("error") if isinstance(reply, dict) else None
        raise ControlRefused(str(error or "the peer's answer cannot be read: another version?"))
    found: dict[str, Any] = reply["ok"]
    return found


def _private_directory(path: Path) -> None:
    """Make the directory, or insist that it is ours alone."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ConfigError(f"{path}: belongs to somebody else; remove it or choose another profile")
    if stat.S_IMODE(found.st_mode) & 0o077:
        path.chmod(0o700)
