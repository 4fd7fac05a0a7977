"""Whether we can be called: at our own address, through a server, or not at all. Pure.

"At our own address" is asked of neighbours, who knock as strangers would, and never guessed. What
was proven is asked again soon, for a router that has forgotten us doesn't tell.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, NamedTuple

from hipctl.sansio import Timers
from overlay.knocking import Knocked

ASKED: Final = 3  # neighbours that one examination asks
CHECK: Final = 35.0  # seconds until one neighbour is asked again whether it still holds
AGAIN: Final = 300.0  # until it is examined whether we are reached now where we were not
LOST: Final = 15.0  # the same while nobody can call us
NOBODY: Final = 2.0  # until there may be neighbours to ask
PATIENCE: Final = 20.0  # seconds after which not knowing means no
LONGEST: Final = 40.0  # the same where the network changes again and again meanwhile
GRACE: Final = 5.0  # seconds in which something else may take the place of what was lost
ROUND: Final = 12.0  # seconds that an examination takes at most


class Reach(Enum):
    """How we can be called."""

    UNKNOWN = "not known yet"
    DIRECT = "directly"
    SERVED = "through servers"
    NONE = "not at all"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the shell sees.

    Attributes:
        network: this machine has an address.
        direct: we have one that others could be told.
        neighbours: how many seem to be there.
        through: servers by which we are called.
    """

    network: bool = True
    direct: bool = False
    neighbours: int = 0
    through: int = 0


class Examine(NamedTuple):
    """Action: ask so many neighbours to knock at us, then ``on_examined`` with ``round``."""

    neighbours: int
    round: int


class Changed(NamedTuple):
    """Action: tell whoever wants to know."""

    reach: Reach


Action = Examine | Changed
_Name = Literal["examine", "round", "doubt"]


class Reachable:
    """The state of one HIT.

    Attributes:
        reach: how we can be called.
        facts: what we were told last.
        proven: whether strangers reach our own address; None: not known.
        verdicts: what the last neighbours said that were asked.
        silent: none of those answered that were asked last.
    """

    def __init__(self) -> None:
        self.reach = Reach.UNKNOWN
        self.facts = Facts()
        self.proven: bool | None = None
        self.verdicts: Counter[Knocked] = Counter()
        self.silent = False
        self._timers: Timers[_Name] = Timers()
        self._out: list[Action] = []
        self._now = 0.0
        self._round = 0
        self._asking = False
        self._confirming = False
        self._doubt: float | None = None  # until when not knowing means nothing yet
        self._doubted = 0.0  # since when

    @property
    def callable(self) -> bool | None:
        """Whether we can be called; None: not known yet."""
        return None if self.reach is Reach.UNKNOWN else self.reach is not Reach.NONE

    # --- what the shell tells

    def start(self, now: float) -> list[Action]:
        """We have come up."""
        return self.on_network(now)

    def on_network(self, now: float) -> list[Action]:
        """We are somewhere else, or may be: nothing that was proven counts any more."""
        self._now = now
        self.proven, self.silent = None, False
        self.verdicts = Counter()
        self._asking = self._confirming = False
        if self._doubt is None or self._doubt <= now or self.reach is Reach.NONE:
            self._doubted = now
        self._doubt = min(now + PATIENCE, self._doubted + LONGEST)
        self._timers.stop("round")
        self._timers.set("examine", now)
        return self._leave()

    def on_facts(self, facts: Facts, now: float) -> list[Action]:
        """What is seen now."""
        self._now = now
        before, self.facts = self.facts, facts
        if not facts.direct:
            self.proven = False
        elif not before.direct or (facts.through < before.through and not self.proven):
            self._hurry()
        elif facts.neighbours and not before.neighbours:
            self.silent = False
            self._hurry()
        return self._leave()

    def on_examined(self, round_: int, verdicts: Sequence[Knocked], now: float) -> list[Action]:
        """What the neighbours said that were asked; none: there was nobody to ask."""
        self._now = now
        if not self._asking or round_ != self._round:
            return self._leave()
        self._asking = False
        self._timers.stop("round")
        if not verdicts:
            self._set_examination(nobody=True)
            return self._leave()
        counted = self.verdicts = Counter(verdicts)
        yes, no = counted[Knocked.YES], counted[Knocked.NO]
        told = yes + no + counted[Knocked.ELSEWHERE] + counted[Knocked.HIDES]
        if self.proven and yes <= no and not self._confirming:
            self._confirming = True  # one may be mistaken, or gone: ask others at once
            self._begin(ASKED)
            return self._leave()
        self._confirming = False
        self.silent = counted[Knocked.SILENT] == len(verdicts)
        if told:
            self.proven = self.facts.direct and yes > no
        elif self.silent:
            self.proven = None
        self._set_examination(nobody=False)
        return self._leave()

    def heard(self, verdicts: Sequence[Knocked]) -> None:
        """What neighbours said whom somebody else asked: it changes what we say, not the reach."""
        if verdicts:
            self.verdicts = Counter(verdicts)
            self.silent = self.verdicts[Knocked.SILENT] == len(verdicts)

    def deadline(self) -> float | None:
        """When ``on_time`` wants to be called next."""
        return self._timers.deadline()

    def on_time(self, now: float) -> list[Action]:
        """Fire what is due."""
        self._now = now
        for name in self._timers.expired(now):
            match name:
                case "examine":
                    self._begin(1 if self.proven else ASKED)
                case "round":
                    self._asking = self._confirming = False
                    self._set_examination(nobody=False)
                case "doubt":
                    pass  # each step looks at it
        return self._leave()

    # --- what follows

    def _leave(self) -> list[Action]:
        reach = self._judge()
        if reach is Reach.NONE and self.reach is not Reach.NONE:
            self._hurry()
        if reach is not self.reach:
            self.reach = reach
            self._out.append(Changed(reach))
        out, self._out = self._out, []
        return out

    def _judge(self) -> Reach:
        """How we can be called, by what is known now."""
        facts = self.facts
        if not facts.network:
            return Reach.NONE
        if self.proven or facts.through:
            self._doubt = None
            return Reach.DIRECT if self.proven else Reach.SERVED
        # nothing speaks for it; but the beginning, and every loss, has its time
        if self._doubt is None and self.reach in (Reach.DIRECT, Reach.SERVED):
            self._doubted, self._doubt = self._now, self._now + GRACE
        if self._doubt is None or self._now >= self._doubt:
            return Reach.NONE
        self._timers.set("doubt", self._doubt)
        return self.reach

    def _begin(self, neighbours: int) -> None:
        if self._asking:
            return
        if not self.facts.direct:
            self._set_examination(nobody=False)
            return
        self._asking = True
        self._round += 1
        self._timers.set("round", self._now + ROUND)
        self._out.append(Examine(neighbours, self._round))

    def _hurry(self) -> None:
        if not self._asking:
            self._timers.set("examine", self._now)

    def _set_examination(self, *, nobody: bool) -> None:
        if nobody and self.reach is Reach.UNKNOWN:
            gap = NOBODY
        elif self.proven:
            gap = CHECK
        else:
            gap = AGAIN if self.reach is Reach.SERVED else LOST
        self._timers.set("examine", self._now + gap)
