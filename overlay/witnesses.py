"""Shell: the neighbours that knock at us, so that we hear whether strangers would reach us.

Who hides does not knock: we would see where it is. Our servers do, and public peers that we have
met without a relay between us; and at what a server passes on we can knock ourselves.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Final

from hipctl import Hit, Host, Rejected
from overlay.knocking import KNOCK_SECONDS, Knocked, passes
from overlay.routing import Contact
from overlay.scout import Home

MOST_COUNTED: Final = 1_024  # neighbours of whom we remember how often we asked
PATIENCE: Final = 7.0  # seconds until a neighbour has answered …
SERVER_PATIENCE: Final = 4.0  # … where one after the other is asked about a server
HIDDEN: Final = 600.0  # seconds for which who hides is asked after those who may not
DOUBTS: Final = 2  # others whom we believe without a knock of ours that a server is deaf
TURNS: Final = 2  # of others that are asked if the first can't tell


class Witnesses:
    """Chooses and asks.

    Args:
        host: the HIP host.
        homes: the overlays in which they are neighbours.
    """

    def __init__(self, host: Host, homes: Sequence[Home]) -> None:
        self._host = host
        self._homes = homes
        self._asked: Counter[Hit] = Counter()
        self._hid: dict[Hit, float] = {}  # who said so when asked last, and when
        self._turn = asyncio.Lock()

    def neighbours(self) -> list[tuple[Home, Contact]]:
        """Those who seem to be there."""
        return [
            (home, contact)
            for home in self._homes
            for contact in home.node.engine.table.contacts()
            if not contact.failures
        ]

    async def ask(
        self,
        count: int,
        contact: bytes,
        first: Collection[Hit] = (),
        *,
        others: bool = True,
    ) -> list[tuple[Hit, Knocked]]:
        """Let so many neighbours knock at us, those outside of our LAN if there are any.

        Args:
            count: at most.
            contact: of ours, with what they shall try; empty asks nobody.
            first: whom to prefer.
            others: whether anybody else may learn that contact.
        """
        there = self._there() if contact else []
        if not others:
            there = [each for each in there if each[1].hit in first]

        def last(each: tuple[Home, Contact]) -> tuple[bool, bool, int]:
            hit = each[1].hit
            return hit not in first, self._hides(hit), self._asked[hit]

        there.sort(key=last)
        return await self._ask(_spread(there, count), contact, PATIENCE)

    async def ask_where(self, count: int) -> None:
        """Let so many neighbours tell our host where they see us."""
        there = sorted(self._there(), key=lambda each: self._is_relayed(each[1]))
        chosen = _spread(there, count)
        await asyncio.gather(*(home.node.ask_where(each.hit) for home, each in chosen))

    async def through(
        self,
        local: Hit,
        server: Hit,
        count: int,
        servers: Collection[Hit],
        *,
        relays: bool = True,
    ) -> list[tuple[Hit, Knocked]]:
        """Let others knock at a HIT of ours by way of a server, until some can tell.

        If none can, or just one says that it is not passed on, we knock ourselves: that one may
        lie, or a firewall may keep answers from whatever knocks there. It says less that the
        server lets us through than that it lets others, but if it does not it passes nothing on.

        Args:
            local: ours.
            server: which.
            count: how many at a time, at most.
            servers: ours: they are asked first, then who was met without a relay.
            relays: it is a relay. What passes a rendezvous server is answered directly, which NATs
                before others may stop: then only we can tell that it passes nothing on.
        """
        contact = self._host.through(local, server)
        if not contact:
            return []

        def last(each: tuple[Home, Contact]) -> tuple[bool, bool, bool, int]:
            hit, relayed = each[1].hit, self._is_relayed(each[1])
            return hit not in servers, self._hides(hit), relayed, self._asked[hit]

        async with self._turn:  # a neighbour knocks for us once at a time
            there = sorted(self._there(server), key=last)
            told: list[tuple[Hit, Knocked]] = []
            if not relays:
                own = local, await self._knock(local, contact)
                if own[1] is not Knocked.YES:
                    told = await self._ask(there[:count], contact, SERVER_PATIENCE)
                return [*((hit, said) for hit, said in told if said is not Knocked.NO), own]
            for turn in range(TURNS):
                chosen = there[turn * count : (turn + 1) * count]
                told += await self._ask(chosen, contact, SERVER_PATIENCE)
                if _is_enough([said for _, said in told]):
                    return told
                if any(hit in servers and said is Knocked.NO for hit, said in told):
                    break  # others would only take longer
            return [*told, (local, await self._knock(local, contact))]

    def _there(self, without: Hit | None = None) -> list[tuple[Home, Contact]]:
        """Who can be asked, each in one overlay: outside of our LAN, if there is anybody."""
        found = {each[1].hit: each for each in self.neighbours() if each[1].hit != without}
        there = [each for hit, each in found.items() if self._host.connected(hit)]
        return [each for each in there if each[1].groups] or there

    async def _ask(
        self, chosen: Sequence[tuple[Home, Contact]], contact: bytes, patience: float
    ) -> list[tuple[Hit, Knocked]]:
        if len(self._asked) > MOST_COUNTED:
            self._asked.clear()
            self._hid.clear()
        self._asked.update(each.hit for _, each in chosen)
        answers = await asyncio.gather(
            *(home.node.ask_to_knock(each.hit, contact, patience) for home, each in chosen)
        )
        told = [(each.hit, said) for (_, each), said in zip(chosen, answers, strict=True)]
        for hit, said in told:
            self._hid.pop(hit, None)
            if said is Knocked.HIDES:
                self._hid[hit] = asyncio.get_running_loop().time()
        return told

    @staticmethod
    def _is_relayed(contact: Contact) -> bool:
        """Whether it is reached through servers only."""
        return all(group.startswith(b"s") for group in contact.groups)

    def _hides(self, hit: Hit) -> bool:
        at = self._hid.get(hit)
        return at is not None and asyncio.get_running_loop().time() < at + HIDDEN

    async def _knock(self, local: Hit, contact: bytes) -> Knocked:
        """Do it ourselves, as nobody that the server knows."""
        try:
            reached = await self._host.knock(local, contact, KNOCK_SECONDS)
        except Rejected:
            return Knocked.UNKNOWN
        return Knocked.YES if reached else Knocked.NO


def _is_enough(verdicts: Sequence[Knocked]) -> bool:
    """Whether somebody got through, or so many did not that they are believed."""
    return passes(verdicts) is True or verdicts.count(Knocked.NO) >= DOUBTS


def _spread(neighbours: Sequence[tuple[Home, Contact]], count: int) -> list[tuple[Home, Contact]]:
    """The first ``count``, but as many places as possible among them."""
    chosen: list[tuple[Home, Contact]] = []
    seen: set[bytes] = set()
    rest = []
    for each in neighbours:
        if each[1].groups & seen:
            rest.append(each)
        else:
            chosen.append(each)
            seen |= each[1].groups
    return [*chosen, *rest][:count]
