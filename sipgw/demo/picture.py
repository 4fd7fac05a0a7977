"""What the demo prints: the steps as they happen, and who is connected to whom over what."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from sipgw.demo.world import PeerProcess


class Progress:
    """One line a step, on a stream or nowhere.

    Args:
        out: where to print, or None to be silent.
        errors: where to print what failed; None for ``out``.
    """

    def __init__(self, out: TextIO | None, errors: TextIO | None = None) -> None:
        self._out, self._errors = out, errors or out
        self._began = time.monotonic()

    def say(self, *lines: str) -> None:
        """Print these lines."""
        if self._out is not None:
            for line in lines:
                print(line, file=self._out, flush=True)

    def complain(self, *lines: str) -> None:
        """Print these lines about something that failed."""
        for line in lines:
            print(line, file=self._errors, flush=True)

    def step(self, name: str, ok: bool, seconds: float, detail: str) -> None:
        """Print how a step went."""
        since = time.monotonic() - self._began
        mark = "ok  " if ok else "FAIL"
        self.say(
            f"{since:6.1f} s  {mark}  {name:<24} {seconds * 1000:9,.1f} ms  {detail}".rstrip()
        )


def picture(
    peers: Mapping[str, PeerProcess],
    statuses: Mapping[str, Mapping[str, Any]],
    clients: Mapping[str, str],
    call: Sequence[str],
) -> list[str]:
    """Draw who is connected to whom over what.

    Args:
        peers: by name.
        statuses: what each peer says of itself.
        clients: name of a peer -> what its SIP client is.
        call: the two peers between which the call is.
    """
    names = {peer.hit: name for name, peer in peers.items()}
    one, two = call
    left = f"{clients.get(one, 'client')} ── {one} {peers[one].address}"
    right = f"{two} {peers[two].address} ── {clients.get(two, 'client')}"
    lines = ["", f"  call     {left} ══ SIP and RTP in ESP ══ {right}"]
    lines.append(f"{'':>11}(between client and peer: SIP and RTP, never leaving this machine)")
    for name, peer in peers.items():
        known = _neighbours(statuses.get(name, {}), names)
        lines.append(f"  overlay  {name:<6} {peer.hip:<17} ── DHT in ESP ── {' '.join(known)}")
    return [*lines, ""]


def _neighbours(status: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """Whom a peer has an association with, as it says itself."""
    overlays = status.get("overlays", {}).values()
    found = [n for overlay in overlays for n in overlay.get("neighbours", [])]
    return sorted({names.get(n["hit"], "?") for n in found if n.get("connected")})
