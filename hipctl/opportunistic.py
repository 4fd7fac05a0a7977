"""Opportunistic mode (RFC 7401 §4.1.8): I1s to an address whose HIT we don't know.

Whoever answers from that address becomes the peer; that it is the one that was meant, nothing
shows. So it is off unless asked for, and nothing falls back to it.

A call goes to link-local groups, and whoever is there may answer from wherever it is.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from hipctl import params
from hipctl.actions import Action, Address, Path, PeerFound, Transmit
from hipctl.constants import PacketType
from hipctl.identity import NULL_HIT, Hit
from hipctl.limits import Limiter
from hipctl.packet import build
from hipctl.sansio import Timers
from hipctl.settings import EngineConfig

Question = tuple[Hit, Address]
"""(our HIT, where somebody is asked for theirs)."""

# seconds after the beginning of a call at which it is repeated, while answers are taken
CALL_GAPS: Final = (0.0, 0.2, 0.6, 1.4, 3.0, 6.2, 12.6)
CALL_R1S, CALL_RATE = 32, 64.0  # R1s of a call whose signature is verified, at once and a second
SOURCE_R1S, SOURCE_RATE = 8, 4.0  # the same from one address, which others are not to suffer from
SOURCES: Final = 256  # addresses of a call that are told apart
CALL_ANSWERS: Final = 16  # peers of one call …
SOURCE_ANSWERS: Final = 8  # … and at one address


@dataclass(slots=True)
class _Asked:
    began: float
    attempt: int = 0


@dataclass(slots=True)
class _Call:
    began: float
    until: float
    paths: Sequence[Path]
    attempt: int = 0
    verified: Limiter = field(default_factory=lambda: Limiter(CALL_RATE, CALL_R1S, 1))
    verified_from: Limiter = field(
        default_factory=lambda: Limiter(SOURCE_RATE, SOURCE_R1S, SOURCES)
    )
    answered: set[Hit] = field(default_factory=set)
    answers: Counter[str] = field(default_factory=Counter)  # by address


class Opportunist:
    """The I1s without receiver that wait for an R1."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._asked: dict[Question, _Asked] = {}
        self._calls: dict[Hit, _Call] = {}
        self._timers = Timers[Question | Hit]()

    def __len__(self) -> int:
        return len(self._asked) + len(self._calls)

    def ask(self, local: Hit, address: Address, now: float) -> list[Action]:
        """Send the first I1, unless one is on its way."""
        if (local, address) in self._asked:
            return []
        self._asked[local, address] = _Asked(now)
        return self._send((local, address), now)

    def answered(self, local: Hit, address: Address) -> float | None:
        """Somebody has answered from there: since when we have asked, None if we have not."""
        asked = self._asked.get((local, address))
        return None if asked is None else asked.began

    def call(self, local: Hit, paths: Sequence[Path], seconds: float, now: float) -> list[Action]:
        """Ask groups who is there, a few times, and take answers for so long.

        Args:
            local: our HIT.
            paths: from where to which groups.
            seconds: for which answers are taken.
            now: monotonic seconds.
        """
        self._calls[local] = _Call(now, now + seconds, paths)
        return self._repeat(local, now)

    def calling(self, local: Hit, now: float) -> bool:
        """Whether answers to a call are taken."""
        call = self._calls.get(local)
        return call is not None and now < call.until

    def weigh(self, local: Hit, peer: Hit, source: Address, now: float) -> bool:
        """An R1 of ``peer`` has come: whether it is worth a look.

        A signature costs, and anybody may send such: so many a second are looked at and not more,
        few from one address, until the call is over. What is forged takes nobody's place.
        """
        call, place = self._calls[local], source[0]
        if peer in call.answered or len(call.answered) >= CALL_ANSWERS:
            return False
        if call.answers[place] >= SOURCE_ANSWERS or call.verified.exhausted("", now):
            return False
        return call.verified_from.allow(place, now) and call.verified.allow("", now)

    def take(self, local: Hit, peer: Hit, source: Address) -> None:
        """Its R1 was good."""
        self._calls[local].answered.add(peer)
        self._calls[local].answers[source[0]] += 1

    def done(self, local: Hit, address: Address) -> None:
        """What was asked is known."""
        self._asked.pop((local, address), None)
        self._timers.stop((local, address))

    def deadline(self) -> float | None:
        """See sansio.Machine."""
        return self._timers.deadline()

    def on_time(self, now: float) -> list[Action]:
        """See sansio.Machine."""
        actions: list[Action] = []
        for name in self._timers.expired(now):
            actions += self._repeat(name, now) if isinstance(name, Hit) else self._send(name, now)
        return actions

    def _repeat(self, local: Hit, now: float) -> list[Action]:
        call = self._calls[local]
        if now >= call.until:
            del self._calls[local]
            return []
        self._timers.set(local, call.until)
        if call.attempt >= len(CALL_GAPS):
            return []
        call.attempt += 1
        if call.attempt < len(CALL_GAPS):
            self._timers.set(local, min(call.began + CALL_GAPS[call.attempt], call.until))
        i1 = self._i1(local)
        return [Transmit(i1, to, source) for source, to in call.paths]

    def _i1(self, local: Hit) -> bytes:
        groups = params.DhGroupList(self._config.groups)
        return build(PacketType.I1, local, NULL_HIT, [groups])

    def _send(self, question: Question, now: float) -> list[Action]:
        local, address = question
        asked = self._asked[question]
        if asked.attempt >= self._config.retransmit_max:
            self.done(*question)
            return [PeerFound(local, address, None)]
        self._timers.set(question, now + self._config.retransmit_initial * 2**asked.attempt)
        asked.attempt += 1
        return [Transmit(self._i1(local), address)]
