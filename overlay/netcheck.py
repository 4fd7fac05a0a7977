"""Shell: what ``p2psip status`` and ``netcheck`` show of whether a HIT of ours can be called."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from hipctl import HipError, Hit, Host, Nat, Reachability, RegistrationType
from overlay import reachable
from overlay.advice import ADDRESS_TOLD, Advice, Seen, what_limits, why_nobody_calls
from overlay.keeper import Keeper
from overlay.knocking import Knocked, passes
from overlay.reachable import Reach, Reachable
from overlay.scout import PING_SECONDS, Home, Scout
from overlay.servers import CONTROL, DATA, RENDEZVOUS, THROUGH, Server
from overlay.witnesses import Witnesses

DISCOVERED: Final = 2  # servers that must say where they see us
NAMES: Final = {CONTROL: "control relay", DATA: "data relay", RENDEZVOUS: "rendezvous server"}
DISCOVERY: Final = RegistrationType.CANDIDATE_DISCOVERY


class Netcheck:
    """Reports on one HIT.

    Args:
        host: the HIP host.
        local: the HIT.
        homes: its overlays.
        keeper: knows its servers.
        reachable: knows how it is called.
        scout: finds servers.
        witnesses: let neighbours knock.
        visible: whether strangers may see our address.
        hides: whether contacts don't name our address, where servers make us callable without.
        place: where the host was last seen to be.
        forget: has a server forget us in time, which was asked for such a registration.
    """

    def __init__(
        self,
        host: Host,
        local: Hit,
        homes: Sequence[Home],
        *,
        keeper: Keeper,
        reachable: Reachable,
        scout: Scout,
        witnesses: Witnesses,
        visible: bool,
        hides: bool,
        place: Callable[[], Reachability],
        forget: Callable[[Hit, frozenset[RegistrationType]], None],
    ) -> None:
        self._host = host
        self._local = local
        self._homes = homes
        self._keeper = keeper
        self._reachable = reachable
        self._scout = scout
        self._witnesses = witnesses
        self._visible, self._hides = visible, hides
        self._place = place
        self._forget = forget

    def why(self) -> list[Advice]:
        """What is missing where nobody can call us; empty where somebody can."""
        nobody = self._reachable.reach is Reach.NONE
        return why_nobody_calls(self._seen()) if nobody else []

    def status(self) -> dict[str, Any]:
        """What ``p2psip status`` shows; JSON-ready."""
        return {
            "callable": self._reachable.callable,
            "reach": self._reachable.reach.value,
            "why": [advice.to_json() for advice in self.why()],
            "servers": [_row(each, each.rtt) for each in self._keeper.serving(*NAMES)],
        }

    async def check(self) -> dict[str, Any]:
        """What ``p2psip netcheck`` shows: asks neighbours and servers now. JSON-ready."""
        servers = self._keeper.serving(*NAMES)
        knocks, rtts = await asyncio.gather(
            self._witnesses.ask(
                reachable.ASKED,
                self._place().direct,
                {server.hit for server in servers},  # who sees us where we are, not at a relay
                others=self._reachable.facts.direct,
            ),
            asyncio.gather(*(self._scout.ping(server.hit) for server in servers)),
        )
        hits = {server.hit for server in servers}
        through = [
            await self._witnesses.through(
                self._local, each.hit, 1, hits, relays=CONTROL in each.held
            )
            for each in servers
        ]
        deaf = [
            server.hit
            for server, asked in zip(servers, through, strict=True)
            if passes([said for _, said in asked]) is False
        ]
        discovered = await self._discover()
        if self._host.reachability().nat is Nat.UNKNOWN:  # there are no two servers
            await self._witnesses.ask_where(reachable.ASKED)
        place = self._host.reachability()
        for hit in discovered:
            self._forget(hit, frozenset((DISCOVERY,)))
        nat = place.nat
        if nat is Nat.UNKNOWN and self._reachable.proven and not place.mapped:
            nat = Nat.NONE
        mute = [each.hit for each, rtt in zip(servers, rtts, strict=True) if rtt is None]
        self._reachable.heard([verdict for _, verdict in knocks])  # status says the same
        return {
            "hit": str(self._local),
            "callable": self._reachable.callable,
            "reach": self._reachable.reach.value,
            "nat": nat.value,
            "addresses": [_text(address) for address in place.addresses],
            "mapped": [
                {"protocol": protocol, "address": _text(address)}
                for protocol, address in place.mapped
            ],
            "routers": [_router(row) for row in place.routers],
            "reflexive": [
                {"by": str(hit), "address": _text(address)} for hit, address in place.reflexive
            ],
            "knocks": [_knock(*each) for each in knocks],
            "servers": [
                _row(each, rtt) | {"knocks": [_knock(*said) for said in asked]}
                for each, rtt, asked in zip(servers, rtts, through, strict=True)
            ],
            "problems": [advice.to_json() for advice in self._problems(deaf, mute)],
        }

    def _problems(self, deaf: Sequence[Hit], mute: Sequence[Hit]) -> list[Advice]:
        """What is missing, however well we are called.

        Args:
            deaf: servers that pass nothing on.
            mute: servers that do not answer.
        """
        seen = dataclasses.replace(
            self._seen(),
            deaf=tuple(str(hit) for hit in deaf if hit not in mute),
            mute=tuple(str(hit) for hit in mute),
        )
        match self._reachable.reach:
            case Reach.NONE:
                return self.why()
            case Reach.SERVED:
                return what_limits(seen)
            case Reach.DIRECT if self._hides:
                return [ADDRESS_TOLD]
            case _:
                return []

    async def _discover(self) -> list[Hit]:
        """Let so many servers tell where they see us that the kind of NAT can be known.

        Returns:
            Who was asked (RFC 9028 §4.2), and may forget us again.
        """
        place = self._host.reachability()
        told = {hit for hit, _ in place.reflexive}
        others = [s for s in self._keeper.servers if s.rtt is not None and s.hit not in told]
        others.sort(key=lambda server: server.distance)
        hits = [server.hit for server in others]
        if len(told) + len(hits) < DISCOVERED and place.mapped:  # who is mapped tests none
            found = await self._scout.search(visible=True)
            hits += [each.hit for each in found if each.hit not in {*told, *hits}]
        asked = hits[: max(DISCOVERED - len(told), 0)]
        await asyncio.gather(*(self._ask_where(hit) for hit in asked))
        return asked

    async def _ask_where(self, hit: Hit) -> None:
        with contextlib.suppress(HipError, TimeoutError):
            await self._host.register(hit, [DISCOVERY], local=self._local, timeout=PING_SECONDS)

    def _seen(self) -> Seen:
        machine, place = self._reachable, self._place()
        wanted = frozenset(self._keeper.wants) & frozenset(THROUGH)
        return Seen(
            facts=machine.facts,
            proven=machine.proven,
            verdicts=machine.verdicts,
            silent=machine.silent,
            nat=place.nat,
            mapped=bool(place.mapped),
            met=any(home.node.engine.has_others() for home in self._homes),
            known=sum(bool(server.types & wanted) for server in self._keeper.servers),
            refusals=tuple(self._keeper.refusals.values()),
            searched=self._keeper.searched,
            visible=self._visible,
            rendezvous=self._scout.rendezvous,
            data=len(self._keeper.serving(DATA)),
        )


def _row(server: Server, rtt: float | None) -> dict[str, Any]:
    """One server, JSON-ready."""
    return {
        "hit": str(server.hit),
        "for": sorted(NAMES[type_] for type_ in server.held),
        "rtt_ms": None if rtt is None else round(rtt * 1000, 1),
    }


def _knock(by: Hit, said: Knocked) -> dict[str, str]:
    """What a neighbour said that knocked, JSON-ready."""
    return {"by": str(by), "result": said.value}


def _router(row: Mapping[str, object]) -> dict[str, object]:
    """What came of asking one router for a mapping, JSON-ready."""
    said = {key.replace(" ", "_"): value for key, value in row.items()}
    match said.get("external"):
        case (str(ip), int(port)):
            said["external"] = _text((ip, port))
    return said


def _text(address: tuple[str, int]) -> str:
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{host}:{address[1]}"
