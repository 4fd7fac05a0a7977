"""Shell: the neighbours that knock at us, so that we hear whether strangers would reach us."""

import asyncio
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Final

from hipctl import Hit, Host
from overlay.knocking import Knocked
from overlay.routing import Contact
from overlay.scout import Home

MOST_COUNTED: Final = 1_024  # neighbours of whom we remember how often we asked


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
        without: Collection[Hit] = (),
    ) -> list[tuple[Hit, Knocked]]:
        """Let so many neighbours knock at us, those outside of our LAN if there are any.

        Args:
            count: at most.
            contact: of ours, with what they shall try; empty asks nobody.
            first: whom to prefer.
            without: whom not to ask.
        """
        if not contact:
            return []
        there = [each for each in self.neighbours() if each[1].hit not in without]
        there = [each for each in there if self._host.connected(each[1].hit)]
        there = [each for each in there if each[1].groups] or there
        there.sort(key=lambda each: (each[1].hit not in first, self._asked[each[1].hit]))
        chosen = _spread(there, count)
        if len(self._asked) > MOST_COUNTED:
            self._asked.clear()
        self._asked.update(each.hit for _, each in chosen)
        answers = await asyncio.gather(
            *(home.node.ask_to_knock(each.hit, contact) for home, each in chosen)
        )
        return [(each.hit, said) for (_, each), said in zip(chosen, answers, strict=True)]

    async def through(self, local: Hit, server: Hit, count: int) -> list[tuple[Hit, Knocked]]:
        """Let so many others knock at a HIT of ours by way of a server."""
        contact = self._host.through(local, server)
        return await self.ask(count, contact, without=(server,))


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
