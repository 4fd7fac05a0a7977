"""Drives SIP libraries from PyPI, each in a process of its own: pjsua2 and baresip-python."""

import json
import sys
from pathlib import Path
from typing import Any, Self

from sipgw.demo.clients import Account, CallRefused
from sipgw.demo.process import Program, StepFailed

START = 15.0  # seconds
LIBRARIES = {  # name -> the script of its process, and whether it can send texts
    "pjsua2": ("pjsua_child.py", True),
    "baresip-python": ("baresip_child.py", False),
}


class LibraryClient:
    """One client that answers by itself.

    Args:
        account: what it is configured with.
        folder: an empty folder for what it writes.
        microphone: WAV of 8 kHz that it plays.
        library: a key of ``LIBRARIES``.
    """

    def __init__(self, account: Account, folder: Path, microphone: Path, library: str) -> None:
        child, self.writes = LIBRARIES[library]
        self._account, self._recording = account, folder / "heard.wav"
        self._since = 0  # first line of the present call
        options = {
            "aor": account.aor,
            "proxy": f"{account.proxy[0]}:{account.proxy[1]}" if account.proxy else None,
            "microphone": str(microphone),
            "recording": str(self._recording),
        }
        script = str(Path(__file__).with_name(child))
        # -P: the script's folder has modules that are named as the libraries are
        argv = [sys.executable, "-P", script, json.dumps(options)]
        self._program = Program(f"{library} of {account.user}", argv)

    @property
    def account(self) -> Account:
        """What it was configured with."""
        return self._account

    async def start(self) -> None:
        """Start it.

        Raises:
            StepFailed: it isn't installed, or doesn't start.
        """
        await self._program.start()
        await self._event("ready", START, since=0)

    async def stop(self) -> None:
        """End it; harmless when done twice."""
        await self._program.stop()

    async def __aenter__(self) -> Self:
        """Start it."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """End it."""
        await self.stop()

    async def _event(
        self,
        name: str,
        timeout: float,
        *,
        since: int,
        states: tuple[str, ...] = (),
        what: str = "",
    ) -> dict[str, Any]:
        def read(line: str) -> dict[str, Any] | None:
            if not line.startswith('{"event"'):
                return None
            event: dict[str, Any] = json.loads(line)
            good = event["event"] == name and (not states or event["state"] in states)
            return event if good else None

        return await self._program.lines.wait(read, timeout, since=since, what=what or name)

    async def registered(self, timeout: float) -> None:
        """Return when its registration was accepted.

        Raises:
            StepFailed: it was refused, or not answered in time.
        """
        event = await self._event("registration", timeout, since=0)
        if event["status"] != 200:
            raise StepFailed(f"{self._program.name}: {event['status']} {event['reason']}")

    async def call(self, uri: str, timeout: float) -> None:
        """Call somebody and return when they answered.

        Raises:
            CallRefused: with the SIP status.
            StepFailed: nothing happened in time.
        """
        self._since = len(self._program.lines.entries)
        self._command("dial", uri=uri)
        ends = ("confirmed", "disconnected")
        event = await self._event("call", timeout, since=self._since, states=ends, what="answer")
        if event["state"] != "confirmed":
            raise CallRefused(event["status"], event["reason"])

    async def answered(self, timeout: float) -> None:
        """Return when a call that came in is established.

        Raises:
            StepFailed: none was, in time.
        """
        await self._event("call", timeout, since=self._since, states=("confirmed",), what="call")

    def _command(self, command: str, **values: str) -> None:
        self._program.write(json.dumps({"command": command, **values}))

    async def hang_up(self) -> None:
        """End the call."""
        self._command("hangup")

    async def ended(self, timeout: float) -> None:
        """Return when the call is over; the next one may come then.

        Raises:
            StepFailed: it goes on.
        """
        await self._event(
            "call", timeout, since=self._since, states=("disconnected",), what="end of the call"
        )
        self._since = len(self._program.lines.entries)

    async def message(self, text: str) -> None:
        """Send a text to the friend."""
        self._command("message", uri=self._account.friend, text=text)

    async def received(self, text: str, timeout: float) -> str:
        """Return who sent ``text``, as the client shows it.

        Raises:
            StepFailed: it did not come in time.
        """

        def read(line: str) -> str | None:
            if not line.startswith('{"event": "message"'):
                return None
            event = json.loads(line)
            return str(event["sender"]) if event["text"] == text else None

        return await self._program.lines.wait(read, timeout, what="message")

    def heard(self) -> Path:
        """The recording of the latest call.

        Raises:
            StepFailed: there is none.
        """
        if not self._recording.is_file():
            raise StepFailed(f"{self._program.name} recorded nothing")
        return self._recording

    def tail(self, lines: int = 15) -> list[str]:
        """The last lines that it printed."""
        return self._program.tail(lines)
