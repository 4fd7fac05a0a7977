"""Real programs as child processes: started, listened to, and surely ended."""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Generic, Self, TypeVar

T = TypeVar("T")
R = TypeVar("R")

MAX_ENTRIES = 20_000  # of one journal
LINE_LIMIT = 1 << 20  # bytes
FIRST_PORT, LAST_PORT = 11_000, 19_999
GRACE = 3.0  # seconds between the polite signal and the other one


class StepFailed(Exception):
    """Something that should have happened didn't, in time or at all."""


class Journal(Generic[T]):
    """What happened so far, and a way to wait for what should happen next."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.entries: list[T] = []
        self.closed = False
        self._changed = asyncio.Event()

    def add(self, entry: T) -> None:
        """Note one entry; the oldest ones go when there are too many."""
        if len(self.entries) < MAX_ENTRIES:
            self.entries.append(entry)
        self._changed.set()

    def close(self) -> None:
        """Nothing more will come: who waits is told so."""
        self.closed = True
        self._changed.set()

    async def wait(
        self, match: Callable[[T], R | None], timeout: float, *, since: int = 0, what: str = ""
    ) -> R:
        """Return the first result of ``match`` that is not None, past or future.

        Args:
            match: is asked once about every entry.
            timeout: seconds.
            since: index of the first entry that counts.
            what: for the message of the error.

        Raises:
            StepFailed: nothing matched in time, or nothing more can come.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while True:
                    for entry in self.entries[since:]:
                        since += 1
                        if (found := match(entry)) is not None:
                            return found
                    if self.closed:
                        raise StepFailed(f"{self.what} ended before {what or 'it could'}")
                    self._changed.clear()
                    await self._changed.wait()
        raise StepFailed(f"{self.what}: no {what or 'answer'} within {timeout:g} s")


class Program:
    """One child process in a session of its own, its output as lines.

    Args:
        name: for messages.
        argv: what to run.
        env: added to this process's environment.
        cwd: working directory.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name, self._argv, self._cwd = name, list(argv), cwd
        self._env = {**os.environ, **(env or {})}
        self.lines: Journal[str] = Journal(name)
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it.

        Raises:
            StepFailed: there is no such program.
        """
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                cwd=self._cwd,
                env=self._env,
                start_new_session=True,  # Ctrl-C reaches us only, and we end it in order
                limit=LINE_LIMIT,
            )
        except OSError as error:
            raise StepFailed(f"{self.name}: {self._argv[0]}: {error.strerror}") from None
        self._reader = asyncio.create_task(self._read(), name=f"output of {self.name}")

    async def _read(self) -> None:
        if self._process is not None and self._process.stdout is not None:
            with contextlib.suppress(ValueError):  # a line longer than LINE_LIMIT
                async for line in self._process.stdout:
                    self.lines.add(line.decode(errors="replace").rstrip())
        self.lines.close()

    def write(self, line: str) -> None:
        """Type one line into its standard input."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(f"{line}\n".encode())

    @property
    def pid(self) -> int:
        """Its process id, 0 before it started."""
        return self._process.pid if self._process is not None else 0

    async def exit_status(self, timeout: float) -> int:
        """Wait until it ends by itself.

        Raises:
            StepFailed: it did not, in ``timeout`` seconds.
        """
        if self._process is None:
            raise StepFailed(f"{self.name} was never started")
        try:
            return await asyncio.wait_for(self._process.wait(), timeout)
        except TimeoutError:
            raise StepFailed(f"{self.name} still runs after {timeout:g} s") from None

    async def finished(self, timeout: float) -> None:
        """Wait until all that it printed was read."""
        if self._reader is not None:
            await asyncio.wait({self._reader}, timeout=timeout)

    async def stop(self, sign: int = signal.SIGTERM) -> None:
        """End it and everything that it started; harmless when done twice."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            self._signal(sign)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), GRACE)
        self._signal(signal.SIGKILL)
        await process.wait()
        if self._reader is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._reader, GRACE)
            self._reader = None

    def _signal(self, sign: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, sign)

    def tail(self, lines: int = 15) -> list[str]:
        """The last lines that it printed."""
        return self.lines.entries[-lines:]

    async def __aenter__(self) -> Self:
        """Start it."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """End it."""
        await self.stop()


def free_port(address: str = "127.0.0.1", run: int = 1) -> int:
    """Find ``run`` ports in a row that are free for UDP and TCP at ``address``, the first of them.

    They lie below those that the system gives to whoever asks for any (from 32,768 on): until
    the program that they are for has started, nobody else comes upon them by chance.

    Raises:
        StepFailed: none was found.
    """
    for _ in range(100):
        first = FIRST_PORT + secrets.randbelow(LAST_PORT - FIRST_PORT - run)
        if all(is_free(address, first + i) for i in range(run)):
            return first
    raise StepFailed(f"no free port at {address}")


def reserve(address: str, port: int) -> socket.socket:
    """Take the TCP port of that number, so that whoever looks for a free one passes it by.

    Raises:
        OSError: somebody has it.
    """
    taken = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        taken.bind((address, port))
    except OSError:
        taken.close()
        raise
    return taken


def is_free(address: str, port: int) -> bool:
    """Whether nobody has this port, neither UDP nor TCP."""
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True
