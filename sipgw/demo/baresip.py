"""Drives baresip 1.0: its folder, the control connection (netstrings of JSON), recordings."""

import asyncio
import contextlib
import json
import re
from pathlib import Path
from typing import Any, Self

from sipgw.demo.clients import Account, CallRefused
from sipgw.demo.process import Journal, Program, StepFailed, free_port

Event = dict[str, Any]

_CONFIG = """\
poll_method epoll
sip_listen 127.0.0.1:{sip}
call_local_timeout 120
call_max_calls 4
audio_player aubridge,nil
audio_source aufile,{microphone}
audio_alert aubridge,nil
audio_level no
ausrc_format s16
auplay_format s16
auenc_format s16
audec_format s16
audio_buffer 20-160
rtp_tos 184
rtcp_mux no
jitter_buffer_delay 5-10
rtp_stats no
module_path {modules}
module stdio.so
module g711.so
{opus}module sndfile.so
module aufile.so
module aubridge.so
module_tmp uuid.so
module_tmp account.so
module_app contact.so
module_app debug_cmd.so
module_app menu.so
module_app ctrl_tcp.so
ctrl_tcp_listen 127.0.0.1:{control}
snd_path {recordings}
ringback_disabled yes
menu_bell no
"""
_MODULES = (
    "/usr/lib/baresip/modules",
    "/usr/lib64/baresip/modules",
    "/usr/local/lib/baresip/modules",
    "/opt/homebrew/lib/baresip/modules",
)
START = 10.0  # seconds
_REGISTRATION = re.compile(r"\{\d+/\w+/v\d\} (\d{3}) |reg: sip.+")


class Baresip:
    """One baresip that answers by itself.

    Args:
        account: what it is configured with.
        folder: an empty folder for everything it reads and writes.
        microphone: WAV that it plays, 8 kHz for PCMU, 48 kHz for opus.
    """

    writes = True

    def __init__(self, account: Account, folder: Path, microphone: Path) -> None:
        self._account, self._folder, self._microphone = account, folder, microphone
        self.sip_port = self._control = 0  # chosen at the start
        self._program = Program(
            f"baresip of {account.user}",
            ["baresip", "-4", "-f", str(folder), "-s", "-v"],
            env={"HOME": str(folder)},
        )
        self.events: Journal[Event] = Journal(f"baresip of {account.user}")
        self._writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.Task[None] | None = None
        self._since = 0  # first event of the present call

    @property
    def account(self) -> Account:
        """What it was configured with."""
        return self._account

    def _configure(self) -> None:
        recordings = self._folder / "recordings"
        recordings.mkdir(parents=True)
        modules = next((m for m in _MODULES if Path(m).is_dir()), _MODULES[0])
        config = _CONFIG.format(
            sip=self.sip_port,
            control=self._control,
            microphone=self._microphone,
            modules=modules,
            recordings=recordings,
            opus="module opus.so\n" if self._account.codec == "opus" else "",
        )
        options = ["answermode=auto", f"audio_codecs={self._account.codec}"]
        if self._account.proxy is None:
            options.append("regint=0")
        else:
            host, port = self._account.proxy
            options += [
                f"auth_user={self._account.user};auth_pass=unused",
                f'outbound="sip:{host}:{port};transport=udp";regint=60',
            ]
        account = f"<{self._account.aor};transport=udp>;{';'.join(options)}\n"
        (self._folder / "config").write_text(config)
        (self._folder / "accounts").write_text(account)
        (self._folder / "contacts").write_text(f'"friend" <{self._account.friend}>\n')

    async def start(self) -> None:
        """Write its configuration, start it, and open the control connection.

        Raises:
            StepFailed: baresip isn't installed, or its control port doesn't open.
        """
        self.sip_port, self._control = free_port(run=2), free_port()
        self._configure()
        await self._program.start()
        await self._program.lines.wait(
            lambda line: True if "baresip is ready" in line else None, START, what="start"
        )
        reader, self._writer = await asyncio.open_connection("127.0.0.1", self._control)
        self._reader = asyncio.create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, ValueError):
            while True:
                length = int((await reader.readuntil(b":"))[:-1])
                entry = json.loads((await reader.readexactly(length + 1))[:-1])
                self.events.add(entry)
        self.events.close()

    async def command(self, command: str, params: str = "", timeout: float = 5.0) -> str:
        """Give one command and return what it printed.

        Raises:
            StepFailed: it was refused, or not answered.
        """
        if self._writer is None:
            raise StepFailed(f"{self._program.name} does not run")
        token = f"t{len(self.events.entries)}"
        body = json.dumps({"command": command, "params": params, "token": token}).encode()
        since = len(self.events.entries)
        self._writer.write(b"%d:%b," % (len(body), body))
        answer: Event = await self.events.wait(
            lambda e: e if e.get("token") == token else None, timeout, since=since, what=command
        )
        if not answer.get("ok"):
            raise StepFailed(f"{self._program.name} refused {command}: {answer.get('data')}")
        return str(answer.get("data", ""))

    async def stop(self) -> None:
        """End it; harmless when done twice."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        await self._program.stop()
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader
            self._reader = None

    async def __aenter__(self) -> Self:
        """Start it."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """End it."""
        await self.stop()

    async def registered(self, timeout: float) -> None:
        """Return when its registration was accepted.

        Raises:
            StepFailed: it was refused, or not answered in time.
        """

        def outcome(line: str) -> tuple[int, str] | None:
            found = _REGISTRATION.search(line)
            return (int(found[1] or 0), line.strip()) if found else None

        status, line = await self._program.lines.wait(outcome, timeout, what="registration")
        if status != 200:
            raise StepFailed(f"{self._program.name}: {line}")

    async def call(self, uri: str, timeout: float) -> None:
        """Call somebody and return when they answered.

        Raises:
            CallRefused: with the SIP status.
            StepFailed: nothing happened in time.
        """
        self._since = len(self.events.entries)
        await self.command("dial", uri)
        event = await self._event({"CALL_ESTABLISHED", "CALL_CLOSED"}, timeout, "answer")
        if event["type"] == "CALL_CLOSED":
            status, _, reason = str(event.get("param", "")).partition(" ")
            raise CallRefused(int(status) if status.isdigit() else 0, reason or status)

    async def _event(self, types: set[str], timeout: float, what: str) -> Event:
        return await self.events.wait(
            lambda e: e if e.get("type") in types else None,
            timeout,
            since=self._since,
            what=what,
        )

    async def answered(self, timeout: float) -> None:
        """Return when a call that came in is established.

        Raises:
            StepFailed: none was, in time.
        """
        await self._event({"CALL_ESTABLISHED"}, timeout, "incoming call")

    async def hang_up(self) -> None:
        """End the call."""
        await self.command("hangup")

    async def ended(self, timeout: float) -> None:
        """Return when the call is over; the next one may come then.

        Raises:
            StepFailed: it goes on.
        """
        await self._event({"CALL_CLOSED"}, timeout, "end of the call")
        self._since = len(self.events.entries)

    async def message(self, text: str) -> None:
        """Send a text to the friend."""
        await self.command("message", text)

    async def received(self, text: str, timeout: float) -> str:
        """Return who sent ``text``, as baresip shows it.

        Raises:
            StepFailed: it did not come in time.
        """
        return await self._program.lines.wait(
            lambda line: line.partition(': "')[0].strip() if f': "{text}"' in line else None,
            timeout,
            what="message",
        )

    def heard(self) -> Path:
        """The recording of the latest call.

        Raises:
            StepFailed: there is none.
        """
        found = sorted((self._folder / "recordings").glob("dump-*-dec.wav"))
        if not found:
            raise StepFailed(f"{self._program.name} recorded nothing")
        return found[-1]

    def tail(self, lines: int = 15) -> list[str]:
        """The last lines that it printed."""
        return self._program.tail(lines)
