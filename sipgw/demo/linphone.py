"""Drives linphonec 5.1: configuration file, commands on its standard input, log as output."""

import re
from pathlib import Path
from typing import Self

from sipgw.demo.clients import Account, CallRefused
from sipgw.demo.process import Program, StepFailed, free_port

_CONFIG = """\
[sip]
sip_port={sip}
sip_tcp_port=-2
sip_tls_port=-2
guess_hostname=0
ipv6=0
default_proxy=0
register_only_when_network_is_up=0
[net]
mtu=1300
[rtp]
audio_rtp_port=-1
video_rtp_port=-1
text_rtp_port=-1
[sound]
echocancellation=0
[video]
display=0
capture=0
[misc]
history_max_size=0
[proxy_0]
reg_proxy=<sip:{host}:{port};transport=udp>
reg_route=<sip:{host}:{port};transport=udp;lr>
reg_identity={aor}
reg_expires=60
reg_sendregister=1
publish=0
"""
_CODECS = [("PCMU", 8_000, 1), ("PCMA", 8_000, 1), ("opus", 48_000, 2), ("speex", 8_000, 1)]
_CODECS += [("speex", 16_000, 1), ("speex", 32_000, 1), ("G722", 8_000, 1), ("GSM", 8_000, 1)]
_REGISTERED = re.compile(r"to \[LinphoneRegistration(Ok|Failed)\]")
_CALL = re.compile(r"moving from state \S+ to LinphoneCall(Connected|StreamsRunning|Error|End)\b")
_REFUSED = re.compile(r"^SIP/2\.0 ([3-6]\d\d) (.*)")
START = 10.0  # seconds


class Linphone:
    """One linphonec that answers by itself.

    Args:
        account: what it is configured with; it needs a proxy.
        folder: an empty folder for everything it reads and writes.
        microphone: WAV of 8 kHz that it plays.
    """

    writes = True

    def __init__(self, account: Account, folder: Path, microphone: Path) -> None:
        self._account, self._folder, self._microphone = account, folder, microphone
        self._recording = folder / "heard.wav"
        argv = ["linphonec", "-c", str(folder / "rc"), "-d", "6", "-l", "/dev/stdout", "-S", "-a"]
        self._program = Program(f"linphonec of {account.user}", argv, env={"HOME": str(folder)})
        self._since = 0  # first line of the present call

    @property
    def account(self) -> Account:
        """What it was configured with."""
        return self._account

    async def start(self) -> None:
        """Write its configuration and start it.

        Raises:
            StepFailed: linphonec isn't installed, or doesn't start.
        """
        if self._account.proxy is None:
            raise StepFailed("linphonec needs a proxy")
        (self._folder / ".local/share/linphone").mkdir(parents=True)
        host, port = self._account.proxy
        config = _CONFIG.format(sip=free_port(), host=host, port=port, aor=self._account.aor)
        for number, (mime, rate, channels) in enumerate(_CODECS):
            wanted = int(mime.casefold() == self._account.codec.casefold())
            config += f"[audio_codec_{number}]\nmime={mime}\nrate={rate}\n"
            config += f"channels={channels}\nenabled={wanted}\n"
        (self._folder / "rc").write_text(config)
        await self._program.start()
        for command in (
            "soundcard use files",
            f"play {self._microphone}",
            f"record {self._recording}",
        ):
            self._program.write(command)
        await self._program.lines.wait(
            lambda line: True if "Using wav files" in line else None, START, what="start"
        )

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

    async def registered(self, timeout: float) -> None:
        """Return when its registration was accepted.

        Raises:
            StepFailed: it was refused, or not answered in time.
        """
        found = await self._program.lines.wait(_REGISTERED.search, timeout, what="registration")
        if found[1] != "Ok":
            raise StepFailed(f"{self._program.name}: registration failed")

    async def _state(self, wanted: set[str], timeout: float, what: str) -> str:
        def reached(line: str) -> str | None:
            found = _CALL.search(line)
            return found[1] if found and found[1] in wanted else None

        return await self._program.lines.wait(reached, timeout, since=self._since, what=what)

    async def call(self, uri: str, timeout: float) -> None:
        """Call somebody and return when they answered.

        Raises:
            CallRefused: with the SIP status.
            StepFailed: nothing happened in time.
        """
        self._since = len(self._program.lines.entries)
        self._program.write(f"call {uri}")
        state = await self._state({"StreamsRunning", "Error", "End"}, timeout, "answer")
        if state != "StreamsRunning":
            answers = map(_REFUSED.search, self._program.lines.entries[self._since :])
            refused = [found for found in answers if found]
            status, reason = refused[-1].groups() if refused else ("0", state)
            raise CallRefused(int(status), reason)

    async def answered(self, timeout: float) -> None:
        """Return when a call that came in is established.

        Raises:
            StepFailed: none was, in time.
        """
        await self._state({"StreamsRunning"}, timeout, "incoming call")

    async def hang_up(self) -> None:
        """End the call."""
        self._program.write("terminate")

    async def ended(self, timeout: float) -> None:
        """Return when the call is over; the next one may come then.

        Raises:
            StepFailed: it goes on.
        """
        await self._state({"End", "Error"}, timeout, "end of the call")
        self._since = len(self._program.lines.entries)

    async def message(self, text: str) -> None:
        """Send a text to the friend."""
        self._program.write(f"chat {self._account.friend} {text}")

    async def received(self, text: str, timeout: float) -> str:
        """Return who sent ``text``, as linphonec shows it.

        Raises:
            StepFailed: it did not come in time.
        """
        pattern = re.compile(rf"Message received from (\S+): {re.escape(text)}$")
        found = await self._program.lines.wait(pattern.search, timeout, what="message")
        return found[1]

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
