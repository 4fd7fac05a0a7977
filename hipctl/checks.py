"""Connectivity checks of one association and their conclusion (RFC 9028 §4.6, RFC 8445 §6 - §8).

This decides what is checked, and which pair is used; whoever owns it makes, sends, repeats
and authenticates the UPDATEs. Choices of ours, where the RFCs leave one:

- Regular nomination. A direct pair is nominated once every better one has had time to answer, a
  relayed one after ``patience``: a call starts over the relay rather than late.
- A relayed association goes on looking for a direct pair, and nominates it anew; RFC 8445 §8.1.1
  would want a restart for that, but both sides would go through the same motions.
- Both sides look again at about the same time, as NATs demand: who begins checks the selected
  pair, too, and such a check has the other begin.
- A relay may pass checks and no data: who has noticed (see ``flow.Echoing``) takes what goes
  through others first, and as long as these work answers no check through it, so that the peer
  does so, too.
- A nomination that was overtaken does no harm: the controlled side confirms every one (RFC 9028
  §4.6.3), and when that is not the one meant, the right one is nominated again.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from hipctl.actions import Address, Path
from hipctl.candidates import Candidate
from hipctl.checklist import Checklist, Pair, PairState, same
from hipctl.checkorder import CheckOrder
from hipctl.sansio import Timers
from hipctl.settings import CheckConfig

PACING_MIN: Final = 0.005  # seconds, RFC 9028 §4.4
PACING: Final = 0.05  # seconds, if neither side says otherwise, RFC 9028 §4.4
RTO_MIN: Final = 1.0  # seconds, RFC 9028 §4.6.2
_HEARD_MAX: Final = 16  # checks of the peer's that we remember for a (re)start
_HEARD_FOR: Final = 10.0  # seconds
_CALM: Final = 3.0  # seconds after the conclusion in which late checks raise no doubts, §8.3.1
_ROUND_GAP: Final = 2.0  # seconds at least between the beginnings of two rounds
_ROUND_PAIRS: Final = 12  # that are checked in one
_SURE: Final = 15.0  # seconds after an answer in which its pair is not doubted
_IGNORES: Final = 5.0  # seconds in which we answer nothing through a mute relay: a check lasts 3
_REPEATED: Final = 0.75 * RTO_MIN  # seconds in which a check has its answer, or is sent again
_LIKELY: Final = 3  # pairs that worked before, checked first when the selected one is lost
_OPEN: Final = frozenset({PairState.WAITING, PairState.IN_PROGRESS})


@dataclass(frozen=True, slots=True)
class Ask:
    """One connectivity check: an UPDATE with SEQ, ECHO_REQUEST_SIGNED and CANDIDATE_PRIORITY.

    Attributes:
        number: tells it from others.
        path: between which addresses it goes.
        priority: its CANDIDATE_PRIORITY.
        nominate: it carries NOMINATE.
        rto: seconds before it is repeated, with the same SEQ; the gaps double.
        limit: transmissions, after which ``on_given_up`` is called.
    """

    number: int
    path: Path
    priority: int
    nominate: bool
    rto: float
    limit: int


class State(Enum):
    """Of the checklist (RFC 8445 §6.1.2.1)."""

    IDLE = "the peer's candidates have not come yet"
    RUNNING = "pairs are checked, none was nominated since the (re)start"
    COMPLETED = "a pair is selected"
    FAILED = "no pair works"


class _Alarm(Enum):
    PACE = "the next check may go"
    DECIDE = "a valid pair has waited long enough for a better one"
    GIVE_UP = "it has lasted too long"
    ROUND = "time to look for a direct pair again"


class Checks:
    """The checklist and its conclusion; a machine (see sansio.Machine).

    Attributes:
        state: see State.
        selected: along which path data goes; stays in force while a restart runs, and None before
            the first conclusion.
        relayed: ``selected`` goes through a relay, of either side.
    """

    def __init__(
        self, controlling: bool, pacing: float = PACING, config: CheckConfig | None = None
    ) -> None:
        """Wait for ``start``.

        Args:
            controlling: we are the Initiator; for the whole life of the association.
            pacing: Ta, the larger of both sides' values, seconds.
            config: times and limits.

        Raises:
            ValueError: the pacing is faster than is allowed.
        """
        if not pacing >= PACING_MIN:
            raise ValueError(f"pacing of {pacing} s")
        self.state = State.IDLE
        self.selected: Path | None = None
        self.relayed = False
        self._controlling = controlling
        self._pacing = pacing
        self._config = config or CheckConfig()
        self._list = Checklist.formed(controlling, (), ())
        self._order = CheckOrder(pacing, self._config.give_up / 2)
        self._heard: OrderedDict[Path, tuple[int, bool, float]] = OrderedDict()
        self._timers = Timers[_Alarm]()
        self._nominating: Pair | None = None
        self._relays = 0  # of the selected pair
        self._searching = False  # the selected pair is in doubt
        self._passed_at = float("-inf")  # when a check along the selected path was answered
        self._muted_at = float("-inf")  # when a relay turned out to pass no data
        self._numbers = 0
        self._since = 0.0  # of RUNNING
        self._completed_at = 0.0
        self._round = 0  # looks for a direct pair since the conclusion
        self._round_at = 0.0

    # -- what the owner asks -------------------------------------------------------------------

    @property
    def failed(self) -> bool:
        """No pair works: no ESP may be sent (RFC 9028 §4.6.3); a check that comes changes it."""
        return self.state is State.FAILED

    def wanted(self, ask: Ask) -> bool:
        """Whether to go on repeating a check; its answer is welcome anyway."""
        pair = self._list.find(ask.path)
        return pair is not None and pair.number == ask.number

    def valid(self) -> list[Path]:
        """Paths on which a check was answered, the best first: a relay may be told of them."""
        pairs = [pair for pair in self._list if pair.valid_at is not None]
        return [pair.path for pair in sorted(pairs, key=self._list.rank)]

    def describe(self) -> dict[str, object]:
        """How it stands, JSON-ready."""
        path = self.selected
        return {
            "state": self.state.name,
            "controlling": self._controlling,
            "selected": None if path is None else [path.source, list(path.to)],
            "relayed": self.relayed,
            "pairs": dict(Counter(pair.state.name for pair in self._list)),
            "valid": [[path.source, list(path.to)] for path in self.valid()],
            "seen as": sorted({pair.seen.address for pair in self._list if pair.valid_at}),
        }

    def deadline(self) -> float | None:
        """See sansio.Machine."""
        return self._timers.deadline()

    # -- inputs --------------------------------------------------------------------------------

    def start(self, ours: Iterable[Candidate], theirs: Iterable[Candidate], now: float) -> None:
        """Begin with both sides' candidates, or anew with others (RFC 9028 §4.9).

        Checks that the peer sent shortly before count (RFC 9028 §4.6.2).
        """
        early = self.state is State.IDLE
        self._list = Checklist.formed(self._controlling, ours, theirs)
        self._run(now, searching=False)
        for path, (shown, nominated, at) in list(self._heard.items()):
            if now - at <= _HEARD_FOR:
                pair = self._list.find(path) or self._list.learn(path, shown)
                if pair is not None:
                    self._order.trigger(pair)
                    pair.nominated = nominated and early
        self._arm(now)

    def on_request(self, path: Path, shown: int, nominated: bool, now: float) -> Ask | None:
        """An authentic check of the peer's came, which the owner answers in any case.

        Args:
            path: (at which of our addresses it came, or None; where from).
            shown: its CANDIDATE_PRIORITY.
            nominated: it carries NOMINATE.
            now: monotonic seconds.

        Returns:
            A check that the answer must carry, with NOMINATE: we confirm a nomination (RFC 9028
            §4.6.3).
        """
        self._remember(path, shown, nominated, now)
        pair = self._list.find(path) or self._list.learn(path, shown)
        if pair is None:
            return None
        if self.state is State.FAILED:
            self._run(now, searching=False)
        if self.selected is not None:
            self._list.beside(pair)
        pair.heard_at = now
        ask = None
        if self._controlling:
            self._question(pair, nominated, now)
        elif nominated:
            ask = self._accept(pair, now)
        self._look_too(pair, nominated, now)
        if ask is None and pair.valid_at is None:
            self._order.trigger(pair)
        self._arm(now)
        return ask

    def on_response(self, ask: Ask, came: Path, mapped: Address, now: float) -> bool:
        """The authentic answer to a check has come.

        Args:
            ask: which check.
            came: (at which of our addresses the answer came, or None; where from).
            mapped: its MAPPED_ADDRESS.
            now: monotonic seconds.

        Returns:
            False if it came along another path than the check: drop it, it acknowledges nothing
            (RFC 9028 §4.6.2).
        """
        if not same(ask.path, came):
            return False
        pair = self._list.find(ask.path)
        if pair is None:
            return True
        self._list.answered(pair, mapped, now)
        if self._is_selected(pair):
            self._passed_at = now
        current = pair.number == ask.number
        if current:
            pair.rtt = now - pair.asked_at
        if current or pair is not self._nominating:
            pair.state, pair.number = PairState.SUCCEEDED, 0
        if self.state is State.FAILED:
            self._run(now, searching=False)
        nominating = ask.nominate and pair is self._nominating
        found_again = self._searching and not self._controlling and self._is_selected(pair)
        if pair.nominated or nominating or (found_again and not self._list.is_mute(pair)):
            self._select(pair, now)
        self._decide(now)
        self._arm(now)
        return True

    def on_given_up(self, ask: Ask, now: float) -> None:
        """Nobody has answered any of its transmissions."""
        pair = self._list.find(ask.path)
        if pair is None or pair.number != ask.number:
            return
        promising = self._promising(pair, now) or pair is self._nominating
        nominated = pair.nominated
        pair.forget()
        pair.state = PairState.FAILED
        if pair is self._nominating:
            self._nominating = None
        if promising and self.state is State.RUNNING:
            self._order.trigger(pair)
            pair.nominated = nominated
        if self.state is State.COMPLETED and self._is_selected(pair):
            self._search(now)
        self._decide(now)
        self._arm(now)

    def on_silence(self, now: float) -> None:
        """Data is not heard any more on the selected path: look for another, the relays too."""
        if self.state in {State.COMPLETED, State.FAILED}:
            self._search(now)
            self._arm(now)

    def on_doubt(self, now: float) -> None:
        """Nothing answers what was sent along the selected path: see whether it still works.

        For where no rounds would notice; an answer will do for a while.
        """
        here = self._find_selected()
        if self.state is not State.COMPLETED or here is None or here.state in _OPEN:
            return
        if not self.relayed or self._fewer(self._list, self._relays):
            return
        if here.valid_at is not None and now - here.valid_at < _SURE:
            return
        if self._controlling:
            self._nominate(here)  # relays are told anew, and the peer uses what a NAT makes of us
        else:
            self._order.trigger(here, first=True)
        self._arm(now)

    def on_unanswered(self, since: float, now: float) -> None:
        """Nothing has answered data along the selected path since then: see if checks pass."""
        here = self._find_selected()
        if self.state is not State.COMPLETED or here is None or here.state in _OPEN:
            return
        if self._passed_at < since:
            self._order.trigger(here, first=True)
            self._arm(now)

    def on_mute(self, since: float, now: float) -> bool:
        """No data has passed along the selected path since then; True: others first from now on.

        False: checks don't pass either, so the peer may be away, and the relay is as good as any;
        or all others go through the same relay, or through none.
        """
        here = self._find_selected()
        if here is None:
            return False
        if self._passed_at < since:
            if self.state is State.COMPLETED:
                self.on_silence(now)
            return False
        if not self._list.silence(here):
            return False
        self._muted_at = now
        self._search(now)
        self._arm(now)
        return True

    def ignores(self, path: Path, now: float) -> bool:
        """Whether a check of the peer's is better not answered, so that it takes another pair.

        The pair in use may work no more, and then this one is all that there is: the peer, which
        repeats its check, is answered when nothing has answered ours along the other meanwhile.
        """
        pair, here = self._list.find(path), self._find_selected()
        if pair is None or not self._list.is_mute(pair):
            return False
        if now - self._muted_at < _IGNORES:
            return True
        if self.state is not State.COMPLETED or here is None or self._list.is_mute(here):
            return False
        if now - self._passed_at < _REPEATED:
            return True
        if here.state not in _OPEN:
            self._order.trigger(here, first=True)
            self._arm(now)
        if here.state is PairState.WAITING or now - here.asked_at < _REPEATED:
            return True
        self._list.mute = frozenset()
        return False

    def on_time(self, now: float) -> list[Ask]:
        """See sansio.Machine; at most one check, to be sent now."""
        asks: list[Ask] = []
        due = self._timers.expired(now)
        if _Alarm.GIVE_UP in due:
            self._give_up(now)
        if _Alarm.ROUND in due:
            self._begin_round(now)
        self._decide(now)
        if self.state is not State.IDLE:
            pair = self._order.take(self._list, now, urgent=self._searching)
            if pair is not None:
                asks.append(self._ask(pair, pair is self._nominating, now))
        self._arm(now)
        return asks

    # -- checks --------------------------------------------------------------------------------

    def _run(self, now: float, *, searching: bool) -> None:
        self.state, self._since, self._searching = State.RUNNING, now, searching
        self._nominating = None
        self._order.clear()
        self._timers.stop(_Alarm.ROUND)
        self._timers.set(_Alarm.GIVE_UP, now + self._config.give_up)

    def _remember(self, path: Path, shown: int, nominated: bool, now: float) -> None:
        self._heard.pop(path, None)
        if nominated:
            for other, (priority, _, at) in self._heard.items():
                self._heard[other] = priority, False, at
        self._heard[path] = shown, nominated, now
        if len(self._heard) > _HEARD_MAX:
            self._heard.popitem(last=False)

    def _promising(self, pair: Pair, now: float) -> bool:
        """Packets get through, one way at least: what fails was lost rather than filtered."""
        return now - pair.heard_at <= _HEARD_FOR

    def _ask(self, pair: Pair, nominate: bool, now: float) -> Ask:
        self._numbers += 1
        pair.state, pair.number, pair.asked_at = PairState.IN_PROGRESS, self._numbers, now
        busy = sum(pair.state in _OPEN for pair in self._list)
        quick = nominate or self.state is State.COMPLETED or self._promising(pair, now)
        return Ask(
            self._numbers,
            pair.path,
            pair.local.reflexive_priority,
            nominate,
            max(RTO_MIN, self._pacing * busy),
            self._config.limit_quick if quick else self._config.limit,
        )

    # -- conclusion ----------------------------------------------------------------------------

    def _is_selected(self, pair: Pair) -> bool:
        return self.selected is not None and same(pair.path, self.selected)

    def _find_selected(self) -> Pair | None:
        return None if self.selected is None else self._list.find(self.selected)

    def _decide(self, now: float) -> None:
        """Nominate a pair if it is time to."""
        self._timers.stop(_Alarm.DECIDE)
        if not self._controlling or self.state in {State.IDLE, State.FAILED}:
            return
        valid = [pair for pair in self._list if pair.valid_at is not None]
        if self._nominating is not None:
            valid = self._fewer(valid, self._nominating.relays)
        elif self.state is State.COMPLETED:
            valid = self._fewer(valid, self._relays)
        if not valid:
            return
        best = min(valid, key=self._list.rank)
        at = self._ripe(best, valid, now)
        if at <= now:
            self._nominate(best)
        else:
            self._timers.set(_Alarm.DECIDE, at)

    def _ripe(self, best: Pair, valid: Sequence[Pair], now: float) -> float:
        """When the best of the valid pairs has waited long enough for better ones."""
        if self._list.is_mute(best) and now - self._muted_at < self._config.give_up / 2:
            return self._since + self._config.give_up / 2
        if self._searching and self._is_selected(best):
            return now
        better = [pair for pair in self._list if self._list.rank(pair) < self._list.rank(best)]
        if best.relays:
            hopeful = any(pair.state in _OPEN for pair in better)
            return self._since + self._config.patience if hopeful else now
        latest = min(pair.valid_since for pair in valid if not pair.relays) + self._config.settle
        if any(pair.state is PairState.WAITING for pair in better):
            return latest
        answer = 1.5 * (best.rtt or 0.0)  # a better pair would hardly take longer
        asked = [pair.asked_at for pair in better if pair.state is PairState.IN_PROGRESS]
        return min(latest, max((at + answer for at in asked), default=now))

    def _nominate(self, pair: Pair) -> None:
        """Repeat the pair's check with NOMINATE (RFC 8445 §8.1.1)."""
        before = self._nominating
        if before is not None and before is not pair:
            before.state, before.number = PairState.SUCCEEDED, 0
        self._nominating = pair
        self._order.trigger(pair, first=True)

    def _accept(self, pair: Pair, now: float) -> Ask:
        """The peer nominates; select that once our own check has shown that it works."""
        for other in self._list:
            other.nominated = False
        pair.nominated = True
        ask = self._ask(pair, True, now)
        if pair.valid_at is not None:
            self._select(pair, now)
        return ask

    def _select(self, pair: Pair, now: float) -> None:
        """Use the pair; stop the checks of those that are no better (§8.1.2)."""
        again = self.state is State.COMPLETED and self._is_selected(pair)
        self.state, self._searching, self._nominating = State.COMPLETED, False, None
        self.selected, self._relays = pair.path, pair.relays
        self.relayed = pair.relays > 0
        self._completed_at = now
        pair.nominated = False
        self._timers.stop(_Alarm.GIVE_UP)
        for other in self._list:
            if other is pair or other.relays < pair.relays:
                continue
            if other.state in _OPEN:
                other.state, other.number = PairState.FROZEN, 0
        if not again:
            self._round, self._round_at = 0, now
            self._timers.set(_Alarm.ROUND, now + self._config.rounds[0])
        if not self.relayed:
            self._timers.stop(_Alarm.ROUND)

    def _give_up(self, now: float) -> None:
        """No pair works, or the peer nominates none of those that do."""
        here = self._find_selected()
        if here is not None and here.valid_at is not None:
            return self._select(here, now)  # only we have begun anew
        hopeful = any(pair.valid_at is not None or pair.nominated for pair in self._list)
        at_last = self._since + 2 * self._config.give_up
        if hopeful and now < at_last:
            self._timers.set(_Alarm.GIVE_UP, at_last)
            return
        for pair in self._list:
            pair.forget()
            pair.state = PairState.FAILED
        self.state, self._searching, self._nominating = State.FAILED, False, None
        self._order.clear()

    # -- after the conclusion ------------------------------------------------------------------

    def _question(self, pair: Pair, nominated: bool, now: float) -> None:
        """What a check of the controlled side's says about our choice."""
        if self.state is not State.COMPLETED or self._is_selected(pair):
            return
        if nominated:  # an earlier nomination of ours arrived last
            meant = self._nominating or self._find_selected()
            if meant is not None and meant is not pair:
                self._nominate(meant)
        elif pair.relays >= self._relays and now - self._completed_at > _CALM:
            self._search(now)  # it has lost the selected path, or comes from elsewhere now

    def _search(self, now: float) -> None:
        """Check again what might work: the selected pair, what worked before, the rest."""
        likely = sorted(
            (pair for pair in self._list if pair.valid_at is not None), key=self._list.rank
        )
        relayed = sorted(
            (pair for pair in self._list if pair.relays),
            key=lambda pair: (self._list.is_mute(pair), pair.heard_at < 0, self._list.rank(pair)),
        )
        here, fresh = self._find_selected(), now - self._muted_at < _IGNORES
        self._run(now, searching=True)
        for pair in self._list:
            pair.forget()
            pair.state = PairState.WAITING
        for found in (here, *likely[:_LIKELY], *relayed[:1]):
            if found is not None and not (fresh and self._list.is_mute(found)):
                self._order.trigger(found)

    def _look_too(self, pair: Pair, nominated: bool, now: float) -> None:
        """A check along the relayed pair in use says that the peer looks for a direct one."""
        if nominated or not self.relayed or self.state is not State.COMPLETED:
            return
        if self._is_selected(pair) and now - self._round_at >= _ROUND_GAP:
            self._begin_round(now)

    def _begin_round(self, now: float) -> None:
        """Check the best pairs with fewer relays again, if there are any, and tell the peer so."""
        rounds = self._config.rounds
        self._round, self._round_at = min(self._round + 1, len(rounds) - 1), now
        self._timers.set(_Alarm.ROUND, now + rounds[self._round])
        if self._nominating is not None and now - self._nominating.asked_at > _HEARD_FOR:
            self._nominating = None  # its owner has forgotten it
        fewer = self._fewer(self._list, self._relays)
        if not fewer:
            return
        for pair in sorted(fewer, key=self._list.rank)[:_ROUND_PAIRS]:
            if pair.state is not PairState.IN_PROGRESS or now - pair.asked_at >= _ROUND_GAP:
                pair.state, pair.number = PairState.WAITING, 0
        selected = self._find_selected()
        if selected is not None:
            self._order.trigger(selected, first=True)

    def _fewer(self, pairs: Iterable[Pair], relays: int) -> list[Pair]:
        """Those that would be better than one with so many relays."""
        return [p for p in pairs if p.relays < relays and not self._list.is_mute(p)]

    def _arm(self, now: float) -> None:
        at = self._order.at(self._list, now, urgent=self._searching)
        if at is not None and self.state is not State.IDLE:
            self._timers.set(_Alarm.PACE, at)
        else:
            self._timers.stop(_Alarm.PACE)
