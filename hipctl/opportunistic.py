"""Opportunistic mode (RFC 7401 §4.1.8): I1s to an address whose HIT we don't know.

Whoever answers from that address becomes the peer; that it is the one that was meant, nothing
shows. So it is off unless asked for, and nothing falls back to it.
"""

from dataclasses import dataclass

from hipctl import params
from hipctl.actions import Action, Address, PeerFound, Transmit
from hipctl.constants import PacketType
from hipctl.identity import NULL_HIT, Hit
from hipctl.packet import build
from hipctl.sansio import Timers
from hipctl.settings import EngineConfig

Question = tuple[Hit, Address]
"""(our HIT, where somebody is asked for theirs)."""


@dataclass(slots=True)
class _Asked:
    began: float
    attempt: int = 0


class Opportunist:
    """The I1s without receiver that wait for an R1."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._asked: dict[Question, _Asked] = {}
        self._timers = Timers[Question]()

    def __len__(self) -> int:
        return len(self._asked)

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
        for question in self._timers.expired(now):
            actions += self._send(question, now)
        return actions

    def _send(self, question: Question, now: float) -> list[Action]:
        local, address = question
        asked = self._asked[question]
        if asked.attempt >= self._config.retransmit_max:
            self.done(*question)
            return [PeerFound(local, address, None)]
        self._timers.set(question, now + self._config.retransmit_initial * 2**asked.attempt)
        asked.attempt += 1
        groups = params.DhGroupList(self._config.groups)
        return [Transmit(build(PacketType.I1, local, NULL_HIT, [groups]), address)]
