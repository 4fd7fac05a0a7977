"""Shell: what the control socket asks of a peer that runs."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from hipctl import Hit, Host, HostIdentity, LocalHost
from overlay.accounts import canonical_aor, split_aor
from overlay.callability import Callability
from overlay.config import Profile
from overlay.contacts import ContactBook
from overlay.errors import ConfigError, NotFound
from overlay.membership import Membership
from overlay.services import Peer, Service
from overlay.trace import TraceRing

if TYPE_CHECKING:
    from overlay.lan import LanPresence

MOST_WAIT: Final = 60.0  # seconds for which a status may wait until all overlays are joined


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """All that is shown of a peer; the attributes are its parts, and live on.

    Attributes:
        peer: itself.
        profile: as it was loaded.
        host: its HIP host.
        identities: by name.
        members: by domain.
        callable: what keeps each HIT callable.
        services: by name.
        lan: its part on the LAN, or None.
        trace: recent calls.
        contacts: petnames.
        now: seconds, monotonic and fine.
        began: when it started, by ``now``.
    """

    peer: Peer
    profile: Profile
    host: Host
    identities: Mapping[str, HostIdentity]
    members: Mapping[str, Membership]
    callable: Mapping[Hit, Callability]
    services: Mapping[str, Service]
    lan: "LanPresence | None"
    trace: TraceRing
    contacts: ContactBook
    now: Callable[[], float]
    began: float

    async def answer(self, what: str, arguments: Mapping[str, Any]) -> Any:
        """Do what one of the user's commands asks; see overlay.control.

        Raises:
            OverlayError: it cannot be done; the message says why.
        """
        match what:
            case "status":
                await self._wait(arguments.get("wait", 0))
                return self.status()
            case "resolve":
                return await self._resolve(str(arguments.get("aor", "")))
            case "netcheck":
                return await self.netcheck()
            case "trace":
                found = self.trace.calls(str(arguments.get("call", "")))
                return {"calls": [call.to_json() for call in found]}
            case "contacts":
                self.contacts.reload()
                return {"contacts": len(self.contacts.names()), "problem": self.contacts.problem}
            case _:
                raise ConfigError(f"{what!r}: this peer does not know that request")

    async def _wait(self, seconds: object) -> None:
        """Return once every overlay is joined, or so many seconds have passed."""
        if not isinstance(seconds, int | float) or not 0 < seconds <= MOST_WAIT:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for member in self.members.values():
                    await member.node.joined()

    async def _resolve(self, text: str) -> dict[str, Any]:
        known = self.contacts.uri(text)
        if known is None and "@" not in text:
            raise NotFound(
                f"no contact {text[:40]!r}: see p2psip contact, or give sip:user@domain"
            )
        aor = known or canonical_aor(text)
        began = self.now()
        targets = await self.peer.resolve(aor)
        return {
            "aor": aor,
            "ms": round((self.now() - began) * 1000, 3),
            "targets": [
                {
                    "hit": str(target.hit),
                    "port": target.port,
                    "account": str(target.account),
                    "expires": target.expires,
                    "connected": self.host.connected(target.hit),
                }
                for target in targets
            ],
        }

    async def netcheck(self) -> dict[str, Any]:
        """Everything that ``p2psip netcheck`` shows; takes some seconds. JSON-ready."""
        named = {
            name: self.callable[identity.hit]
            for name, identity in self.identities.items()
            if identity.hit in self.callable
        }
        reports = await asyncio.gather(*(each.check() for each in named.values()))
        return {
            **self._callable(),
            "identities": dict(zip(named, reports, strict=True)),
        }

    def _callable(self) -> dict[str, Any]:
        """Whether all of our HITs can be called, None: not known yet; and why not."""
        said = [each.callable for each in self.callable.values()]
        why = [advice.to_json() for each in self.callable.values() for advice in each.why()]
        unknown = None in said or not said
        return {
            "callable": False if False in said else None if unknown else True,
            "why": [entry for n, entry in enumerate(why) if entry not in why[:n]],
        }

    def summary(self) -> dict[str, Any]:
        """Who and where this peer is, in few words: what ``ready`` tells."""
        return {
            "profile": str(self.profile.path),
            "pid": os.getpid(),
            "hits": [str(hit) for hit in self.host.hits],
            "aors": sorted(self.peer.aors()),
            "services": list(self.services),
        }

    def status(self) -> dict[str, Any]:
        """Everything that ``p2psip status`` shows; JSON-ready."""
        return {
            **self.summary(),
            **self._callable(),
            "uptime": round(self.now() - self.began, 3),
            "identities": {
                name: self._identity(identity) for name, identity in self.identities.items()
            },
            "overlays": {
                member.joined.name: self._overlay(member) for member in self.members.values()
            },
            "services": {name: dict(service.status()) for name, service in self.services.items()},
            "associations": self._associations(),
            **({} if self.lan is None else {"lan": self.lan.status()}),
            "counters": self.host.counters(),
            "contacts_problem": self.contacts.problem,
        }

    def _identity(self, identity: HostIdentity) -> dict[str, Any]:
        kept = self.callable.get(identity.hit)
        return {
            "hit": str(identity.hit),
            "listen": list(self.profile.host.places),
            **({} if kept is None else kept.status()),
        }

    def _associations(self) -> list[dict[str, object]]:
        """The ESTABLISHED associations; a simulated host does not tell."""
        return self.host.status() if isinstance(self.host, LocalHost) else []

    def _overlay(self, member: Membership) -> dict[str, Any]:
        aors = [aor for aor in self.peer.aors() if split_aor(aor)[1] == member.joined.info.domain]
        return {
            **member.node.status(),
            "admission": member.joined.info.admission,
            "id": member.joined.info.id.hex(),
            "aors": sorted(aors),
            "published": sorted(aor for aor, held in member.directory.published().items() if held),
            "advertised": sorted(member.providers.advertised()),
        }
