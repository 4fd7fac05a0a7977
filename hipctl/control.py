"""The control socket: how commands talk to a process that runs, ``hipctl listen`` or another.

A Unix socket of mode 0600, so that only the user reaches it. One JSON
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

from hipctl.errors import ControlRefused, ControlUnavailable, HipError, NotRunning

_log = logging.getLogger(__name__)

MAX_REQUEST: Final = 16_384  # bytes of one line
MAX_ANSWER: Final = 4_194_304
MAX_CLIENTS: Final = 8
IDLE: Final = 10.0  # seconds a client may take for its next request
MAX_PATH: Final = 100  # bytes; the kernel's own limit is 107

Answer = Callable[[str, Mapping[str, Any]], Awaitable[Any]]
"""``await answer(what, arguments)`` gives something JSON-ready, or raises one of ``refusals``."""


def socket_path(folder: Path, name: str, program: str) -> Path:
    """Where to listen: in the folder, or where that is too long a path, with the user's others.

    Args:
        folder: where the process keeps what is its own.
        name: of the socket.
        program: whose runtime directory takes it otherwise.
    """
    state = folder.resolve()
    within = state / name
    if len(os.fsencode(within)) <= MAX_PATH:
        return within
    digest = hashlib.sha256(os.fsencode(within)).hexdigest()[:24]
    return runtime_folder(program) / f"{digest}.sock"


def runtime_folder(program: str) -> Path:
    """The user's own folder for sockets of ``program``; never below /tmp, which is everybody's."""
    named = os.environ.get("XDG_RUNTIME_DIR")
    system = Path(f"/run/user/{os.getuid()}")
    if named and Path(named).is_absolute():
        return Path(named) / program
    if os.access(system, os.W_OK):
        return system / program
    from platformdirs import user_state_path  # noqa: PLC0415 - seldom needed

    return Path(user_state_path(program))


class ControlServer:
    """Answers the user's commands while the process runs.

    Args:
        path: of the socket.
        answer: does what is asked.
        refusals: what ``answer`` may raise; it goes to the client as a sentence.
    """

    def __init__(
        self,
        path: Path,
        answer: Answer,
        refusals: tuple[type[Exception], ...] = (HipError,),
    ) -> None:
        self._path = path
        self._answer = answer
        self._refusals: tuple[type[Exception], ...] = (ControlRefused, *refusals)
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._closing = False
        self.refused = 0

    async def __aenter__(self) -> Self:
        """Listen.

        Raises:
            ControlUnavailable: another process has the socket (``taken``), or it cannot be made.
        """
        try:
            _private_directory(self._path.parent)
            self._remove_stale()
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                with contextlib.suppress(OSError):  # so it is from the first moment, on Linux
                    os.fchmod(sock.fileno(), 0o600)
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
            raise ControlUnavailable(
                f"{self._path}: no control socket possible: {reason}"
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
        """Unlink the socket of a process that died; refuse to run beside one that lives."""
        if not self._path.exists():
            return
        if not self._path.is_socket():
            raise ControlUnavailable(f"{self._path}: no socket; remove it, or choose another path")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(self._path))
            except (ConnectionRefusedError, FileNotFoundError):
                self._path.unlink(missing_ok=True)
                return
            except TimeoutError:
                pass  # it lives, and is busy
        raise ControlUnavailable(
            f"{self._path}: another process answers there; stop it, or choose another path",
            taken=True,
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
        except self._refusals as error:
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
    """Ask the process that listens at ``path``; blocks. For the command line.

    Args:
        path: of the control socket.
        what: the request.
        timeout: seconds for each step.
        arguments: JSON-ready.

    Raises:
        NotRunning: nobody listens (``silent`` is False), or nobody answers in time.
        ControlRefused: the answer is an error.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout)
            sock.connect(str(path))
            sock.sendall(json.dumps({"do": what, **arguments}).encode() + b"\n")
            with sock.makefile("rb") as file:
                line = file.readline(MAX_ANSWER)
    except TimeoutError:
        raise NotRunning(f"{path}: no answer within {timeout:g} s", silent=True) from None
    except OSError:
        raise NotRunning(f"{path}: nobody listens there") from None
    try:
        reply = json.loads(line)
    except ValueError:
        raise NotRunning(f"{path}: closed without an answer", silent=True) from None
    if not isinstance(reply, dict) or not isinstance(reply.get("ok"), dict):
        error = reply.get("error") if isinstance(reply, dict) else None
        raise ControlRefused(str(error or "the answer cannot be read: another version?"))
    found: dict[str, Any] = reply["ok"]
    return found


def _private_directory(path: Path) -> None:
    """Make the directory for us alone, or insist that it is ours; its mode is its owner's."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ControlUnavailable(f"{path}: belongs to somebody else; remove it, or choose another")
    if found.st_mode & stat.S_IWOTH:
        raise ControlUnavailable(f"{path}: anybody may write there; choose another folder")
