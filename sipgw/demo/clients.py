"""What the demo and the tests ask of a SIP client, whichever it is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sipgw.demo.process import StepFailed


class CallRefused(StepFailed):
    """The other side, or a gateway on the way, said no.

    Attributes:
        status: SIP status, 0 if the client didn't tell.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status or '?'} {reason}")
        self.status, self.reason = status, reason


@dataclass(frozen=True, slots=True)
class Account:
    """What a user types into a SIP client.

    Attributes:
        aor: the own address, ``sip:alice@domain``.
        proxy: IPv4 address and port of the gateway, or None to call without one.
        friend: the address that messages go to.
        codec: PCMU or opus.
    """

    aor: str
    proxy: tuple[str, int] | None
    friend: str
    codec: str = "PCMU"

    @property
    def user(self) -> str:
        """The user part."""
        return self.aor.removeprefix("sip:").partition("@")[0]


class Client(Protocol):
    """A SIP client in a process of its own, that answers by itself and records what it hears."""

    writes: bool
    """Whether it can send texts."""

    @property
    def account(self) -> Account:
        """What it was configured with."""

    async def start(self) -> None:
        """Start it; with a proxy it begins to register."""

    async def stop(self) -> None:
        """End it; harmless when done twice."""

    async def registered(self, timeout: float) -> None:
        """Return when its registration was accepted, or raise StepFailed."""

    async def call(self, uri: str, timeout: float) -> None:
        """Call somebody and return when they answered, or raise CallRefused or StepFailed."""

    async def answered(self, timeout: float) -> None:
        """Return when a call that came in is established, or raise StepFailed."""

    async def hang_up(self) -> None:
        """End the call."""

    async def ended(self, timeout: float) -> None:
        """Return when the call is over, or raise StepFailed."""

    async def message(self, text: str) -> None:
        """Send a text to the friend."""

    async def received(self, text: str, timeout: float) -> str:
        """Return who sent ``text`` as the client shows it, or raise StepFailed."""

    def heard(self) -> Path:
        """The recording of the latest call, or raise StepFailed."""

    def tail(self, lines: int = 15) -> list[str]:
        """The last lines of its log."""
