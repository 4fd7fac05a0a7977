"""What ``hipctl status``, ``watch`` and ``close`` ask of a host, over its control socket."""

import os
from collections.abc import Mapping
from typing import Any

from hipctl.errors import ControlRefused
from hipctl.host import LocalHost
from hipctl.identity import Hit


class HostControl:
    """Answers for one host: ``ControlServer(path, HostControl(host).answer)``.

    Requests: ``status``; ``close`` with ``hit``, and with ``forget`` where it was, too;
    ``access``, which with ``allow`` (a list of HITs, or null for anybody) and ``deny`` replaces
    both lists.
    """

    def __init__(self, host: LocalHost) -> None:
        self._host = host

    async def answer(self, what: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Do what is asked.

        Raises:
            ControlRefused: we don't know that request, the HIT is none, or nobody has it.
        """
        match what:
            case "status":
                return self.status()
            case "close":
                forget = arguments.get("forget") is True
                return self._close(str(arguments.get("hit", "")), forget=forget)
            case "access":
                if "allow" in arguments or "deny" in arguments:
                    self._set_access(arguments)
                access = self._host.access
                allow = None if access.allow is None else sorted(map(str, access.allow))
                return {"allow": allow, "deny": sorted(map(str, access.deny))}
            case _:
                raise ControlRefused(f"{what!r}: this host does not know that request")

    def status(self) -> dict[str, Any]:
        """Everything about the host; JSON-ready."""
        host = self._host
        return {
            "pid": os.getpid(),
            "hits": [str(hit) for hit in host.hits],
            "listen": [list(address) for address in host.addresses],
            "puzzle_k": host.engine.difficulty(host.now()),
            "associations": host.associations(),
            "counters": host.counters(),
        }

    def _set_access(self, arguments: Mapping[str, Any]) -> None:
        allow = arguments.get("allow")
        self._host.set_access(
            None if allow is None else _hits(allow), _hits(arguments.get("deny") or [])
        )

    def _close(self, text: str, *, forget: bool) -> dict[str, Any]:
        peer = _hit(text)
        pairs = [pair for pair in self._host.engine.pairs() if pair[1] == peer]
        if not pairs:
            raise ControlRefused(f"no association with {peer}; see: hipctl status")
        for local, _ in pairs:
            self._host.disconnect(peer, local)
        if forget:
            self._host.forget(peer)
        return {"closed": len(pairs), "peer": str(peer)}


def _hits(texts: object) -> list[Hit]:
    if not isinstance(texts, list):
        raise ControlRefused("allow and deny are lists of HITs")
    return [_hit(text) for text in texts]


def _hit(text: object) -> Hit:
    try:
        return Hit.parse(str(text))
    except ValueError as error:
        raise ControlRefused(f"{text!r} is no HIT ({error}); see: hipctl status") from None
