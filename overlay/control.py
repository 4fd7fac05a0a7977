"""The control socket: how ``p2psip status`` and its sisters talk to the peer that runs.

What a control socket is stands in hipctl.control; here are the peer's place for it, and what its
user should do when something is wrong. Beside it a second one answers ``hipctl``.
"""

from pathlib import Path
from typing import Any, Self

import hipctl
from hipctl import ControlRefused, ControlUnavailable, HipError, NotRunning, parse_request
from overlay.errors import ConfigError, OverlayError

__all__ = [
    "ControlRefused",
    "ControlServer",
    "PeerNotRunning",
    "ask",
    "control_path",
    "hip_control_path",
    "parse_request",
]


class PeerNotRunning(OverlayError):
    """Nobody answers at the control socket."""


def control_path(state: Path) -> Path:
    """Where the peer with this state directory listens."""
    return hipctl.socket_path(state, "control.sock", "p2psip")


def hip_control_path(state: Path) -> Path:
    """Where its HIP host answers ``hipctl status``."""
    return hipctl.socket_path(state, "hip.sock", "p2psip")


class ControlServer(hipctl.ControlServer):
    """Answers the user's other commands while the peer runs.

    Args:
        path: of the socket.
        answer: does what is asked.
    """

    def __init__(self, path: Path, answer: hipctl.Answer) -> None:
        super().__init__(path, answer, (OverlayError, HipError))

    async def __aenter__(self) -> Self:
        """Listen.

        Raises:
            ConfigError: another peer runs with this profile, or the socket cannot be made.
        """
        try:
            return await super().__aenter__()
        except ControlUnavailable as error:
            if error.taken:
                raise ConfigError(
                    "a peer runs with this profile already; stop it with: p2psip stop, or choose "
                    "another profile"
                ) from None
            raise ConfigError(f"{error}; see peer.state") from None


def ask(path: Path, what: str, *, timeout: float = 10.0, **arguments: Any) -> dict[str, Any]:
    """Ask the peer that listens at ``path``; blocks. For the command line.

    Args:
        path: of the control socket.
        what: ``status``, ``netcheck``, ``resolve``, ``trace``, ``contacts`` or ``stop``.
        timeout: seconds for each step.
        arguments: JSON-ready.

    Raises:
        PeerNotRunning: nobody listens, or nobody answers in time.
        ControlRefused: the peer's answer is an error.
    """
    try:
        return hipctl.ask_control(path, what, timeout=timeout, **arguments)
    except NotRunning as error:
        if error.silent:
            raise PeerNotRunning(f"the peer does not answer: {error}") from None
        raise PeerNotRunning(
            "no peer runs with this profile; start it with: p2psip run -p PROFILE, or name "
            "another one with: -p PROFILE"
        ) from None
