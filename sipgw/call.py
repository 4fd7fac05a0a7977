"""Machine: one call, from an INVITE outside a dialog to its end (``sip.md`` §1: a B2BUA).

The caller's side is one server transaction, then the dialog ``a``. Towards the callee there is a
Branch for each binding and each device; the first 2xx wins, its dialog becomes ``b``. Each side
has its own Call-ID, tags and CSeq. What happens inside the answered call is in midcall.py.
"""

from collections.abc import Sequence
from enum import Enum

from hipctl import Hit
from sipgw.alarms import Alarm
from sipgw.constants import MAX_FORWARDS, TIMER_C
from sipgw.core import Asked, Core, Destination
from sipgw.dialog import Dialog, Party
from sipgw.errors import MalformedSdp, MediaExhausted
from sipgw.forking import BRANCHES, best_of, status_of
from sipgw.message import MalformedMessage, Request, Response, reply
from sipgw.midcall import Accepted, Midcall
from sipgw.passing import answer, carries_sdp, hides_sdp, pass_headers
from sipgw.session import CALLER, Session

FIRST_ANSWER = 8.0  # seconds until a branch that says nothing at all is given up
FIRST_CSEQ = 1  # of every INVITE of ours
EARLY = 8  # early dialogs of one branch: whoever forks more of them isn't heard


class State(Enum):
    """Of a call."""

    CALLING = "calling"  # no 2xx yet
    ANSWERED = "answered"
    ENDED = "ended"


class Branch:
    """One INVITE of ours.

    Attributes:
        transaction: None while the association is being made.
        final: its non-2xx answer.
        early: To tag -> the pair of dialogs, ours with the caller first.
    """

    __slots__ = ("alarm", "destination", "early", "final", "invite", "transaction")

    def __init__(self, destination: Destination) -> None:
        self.destination = destination
        self.transaction: object | None = None
        self.invite: Request | None = None
        self.final: int | Response | None = None
        self.alarm: Alarm | None = None
        self.early: dict[str, tuple[Dialog, Dialog]] = {}

    @property
    def hit(self) -> Hit | None:
        """The device's HIT, None for a client of ours."""
        party = self.destination.party
        return party[1] if len(party) == 3 else None

    def quiet(self) -> None:
        """Stop waiting for the first answer, or for the last."""
        if self.alarm is not None:
            self.alarm.stop()
            self.alarm = None


class Call:
    """One call.

    Args:
        core: the router.
        asked: the caller's INVITE.
        caller: From towards the callee, without tag: the name the caller has proven.
        callee: To towards the callee.
    """

    def __init__(self, core: Core, asked: Asked, caller: str, callee: str) -> None:
        self.id = core.token()
        self.heard = 0  # packets when the router last looked, and when that was
        self.heard_at = 0.0
        self.core = core
        self.asked = asked
        self.invite = asked.request
        self.caller = caller
        self.callee = callee
        self.state = State.CALLING
        self.branches: list[Branch] = []
        self.open = True  # whether more branches may come
        self.session = Session(core.media, lambda: core.mark(self.id, "media"))
        self.a: Dialog | None = None
        self.b: Dialog | None = None
        self._rung = False
        self._no_answer: Alarm | None = None
        self._midcall: Midcall | None = None

    # Finding the callee.

    def ring(self, destinations: Sequence[Destination], now: float) -> None:
        """Add branches; those over the overlay wait for their association."""
        if self.state is not State.CALLING:
            return
        if self._no_answer is None:
            at = now + min(self.core.ring_timeout, TIMER_C)
            self._no_answer = self.core.alarms.set(at, self._on_no_answer)
        for destination in destinations[: BRANCHES - len(self.branches)]:
            branch = Branch(destination)
            self.branches.append(branch)
            if branch.hit is None:
                self._send(branch, now)
            else:
                self._connect(branch, now)

    def complete(self, status: int, now: float) -> None:
        """No more branches will come; ``status`` is the answer if there was none at all."""
        self.open = False
        if not self.branches:
            self.refuse(reply(self.invite, status, "", self.core.token()), now)
        else:
            self._conclude(now)

    def _connect(self, branch: Branch, now: float) -> None:
        party = branch.destination.party
        assert len(party) == 3  # noqa: S101
        self.core.connect(party, lambda ok, at: self._on_connected(branch, ok, at), now)

    def _on_connected(self, branch: Branch, ok: bool, now: float) -> None:
        if self.state is not State.CALLING or branch.transaction is not None or branch.final:
            return
        self.core.mark(self.id, "exchange" if ok else "failed", str(branch.hit))
        if ok:
            self._send(branch, now)
        else:
            self._fail(branch, 480, now)

    def _send(self, branch: Branch, now: float) -> None:
        destination = branch.destination
        invite = Request("INVITE", destination.uri)
        add = invite.headers.add
        forwards = self.invite.max_forwards
        add("Max-Forwards", str((MAX_FORWARDS if forwards is None else forwards) - 1))
        add("From", f"{self.caller};tag={self.core.token()}")
        add("To", self.callee)
        add("Call-ID", self.core.token())
        add("CSeq", f"{FIRST_CSEQ} INVITE")
        add("Contact", self.core.contact(destination.party))
        pass_headers(self.invite, invite, self.core.hidden(self.asked.party, self.invite))
        try:
            if carries_sdp(self.invite):
                party = destination.party
                leg = self.session.callee(party)
                invite.body = self.session.carry(
                    self.invite.body, CALLER, self.asked.party, leg, party
                )
            else:
                invite.body = self.invite.body
        except MalformedSdp:
            self._fail(branch, 488, now)
            return
        except MediaExhausted:
            self._fail(branch, 503, now)
            return
        branch.invite = invite
        branch.alarm = self.core.alarms.set(
            now + FIRST_ANSWER, lambda at: self._give_up(branch, at)
        )
        self.core.mark(self.id, "forward", str(branch.hit or "client"))

        def on_answer(response: Response | None, party: Party, at: float) -> None:
            self._on_answer(branch, response, party, at)

        branch.transaction = self.core.ask(invite, destination.party, on_answer, now)

    # What the branches answer.

    def _on_answer(
        self, branch: Branch, response: Response | None, party: Party, now: float
    ) -> None:
        if response is None:
            self._fail(branch, 408, now)
        elif response.status < 200:
            if self.state is State.CALLING and branch.final is None:
                self._heard(branch, now)
                if response.status > 100:
                    self._provisional(branch, response, party, now)
        elif response.status < 300:
            branch.quiet()
            self._accepted(branch, response, party, now)
        else:
            branch.quiet()
            self._fail(branch, response, now)

    def _heard(self, branch: Branch, now: float) -> None:
        branch.quiet()
        branch.alarm = self.core.alarms.set(now + TIMER_C, lambda at: self._give_up(branch, at))

    def _pair(
        self, branch: Branch, response: Response, party: Party
    ) -> tuple[Dialog, Dialog] | None:
        """The two dialogs of a To tag, made when it is new; None if the headers are bad."""
        assert branch.invite is not None  # noqa: S101  it was sent
        try:
            tag = response.to.tag or ""
            if tag in branch.early:
                a, b = branch.early[tag]
                b.refresh(response)
                return a, b
            core = self.core
            a = Dialog.answering(
                self.invite, core.token(), self.asked.party, core.contact(self.asked.party)
            )
            # Towards its own client the gateway answers as what was dialled.
            target = branch.destination.uri
            b = Dialog.asking(branch.invite, response, party, core.contact(party), target)
        except MalformedMessage:
            return None
        a.other, b.other = b, a
        a.leg, b.leg = CALLER, self.session.callee(party)
        branch.early[tag] = a, b
        if self._midcall is None:
            self._midcall = Midcall(self.core, self.session, self._on_over)
        core.bind(a, self._midcall)
        core.bind(b, self._midcall)
        return a, b

    def _provisional(self, branch: Branch, response: Response, party: Party, now: float) -> None:
        if len(branch.early) >= EARLY and response.to.tag not in branch.early:
            return
        pair = self._pair(branch, response, party)
        if pair is None:
            return
        try:
            passed = self._answer(response, pair[0], party)
        except (MalformedSdp, MediaExhausted):
            return
        if not self._rung:
            self._rung = True
            self.core.mark(self.id, "ringing", str(response.status))
        self.core.respond(self.asked, passed, now)

    def _answer(self, response: Response, a: Dialog, party: Party) -> Response:
        passed = answer(
            self.invite, a.local_tag, response, a.contact, self.core.hidden(party, response)
        )
        if hides_sdp(response):
            raise MalformedSdp("multipart")
        passed.body = response.body
        if carries_sdp(response):
            leg = self.session.callee(party)
            passed.body = self.session.carry(response.body, leg, party, CALLER, self.asked.party)
        return passed

    def _accepted(self, branch: Branch, response: Response, party: Party, now: float) -> None:
        assert branch.invite is not None  # noqa: S101
        pair = self._pair(branch, response, party)
        if pair is None:
            self._fail(branch, 502, now)
            return
        a, b = pair
        b.party = party
        if self.state is not State.CALLING:  # somebody else was first, or the caller gave up
            self._turn_down(a, b, now)
            return
        try:
            passed = self._answer(response, a, party)
        except (MalformedSdp, MediaExhausted):
            self._turn_down(a, b, now)
            self._fail(branch, 488, now)
            return
        self.state = State.ANSWERED
        self.a, self.b = a, b
        a.confirmed = b.confirmed = True
        branch.final = 200
        self._quiet()
        self._cancel_others(branch, now)
        self._forget_early(keep=a)
        self.session.keep(b.leg)
        b.unacknowledged = b.invite_cseq
        if carries_sdp(self.invite) or not carries_sdp(response):
            self.core.acknowledge(b.ack(b.invite_cseq), b.party, now)
        self.core.mark(self.id, "answer", str(response.status))
        self.core.disclose(self.asked.party)
        assert self._midcall is not None  # noqa: S101
        self._midcall.accept(Accepted(self.asked, passed, a, b.unacknowledged), now)

    def _turn_down(self, a: Dialog, b: Dialog, now: float) -> None:
        self.core.unbind(a)
        self.core.unbind(b)
        self.core.acknowledge(b.ack(FIRST_CSEQ), b.party, now)
        self.core.ask(b.request("BYE"), b.party, _ignore, now)

    def _fail(self, branch: Branch, final: int | Response, now: float) -> None:
        if branch.final is not None:
            return
        branch.quiet()
        branch.final = final
        for a, b in branch.early.values():
            self.core.unbind(a)
            self.core.unbind(b)
        branch.early.clear()
        if status_of(final) >= 600:
            self._cancel_others(branch, now)
            self.open = False
        self._conclude(now)

    def _give_up(self, branch: Branch, now: float) -> None:
        branch.alarm = None
        if branch.transaction is not None and branch.final is None:
            self.core.cancel(branch.transaction, now)
        self._fail(branch, 480, now)

    def _conclude(self, now: float) -> None:
        """Answer the caller once every branch has failed (§16.7 step 6)."""
        if self.state is not State.CALLING or self.open:
            return
        finals = [branch.final for branch in self.branches if branch.final is not None]
        decisive = any(status_of(final) >= 600 for final in finals)
        if not finals or (len(finals) < len(self.branches) and not decisive):
            return
        best = best_of(finals)
        tag = self.core.token()
        if isinstance(best, int):
            self.refuse(reply(self.invite, best, "", tag), now)
            return
        party = next(b.destination.party for b in self.branches if b.final is best)
        hidden = self.core.hidden(party, best)
        passed = answer(self.invite, tag, best, "", hidden)
        if not carries_sdp(best):
            passed.body = best.body
        self.refuse(passed, now)

    # Ends.

    def refuse(self, response: Response, now: float) -> None:
        """Answer the INVITE with a failure; the call is over."""
        if self.state is not State.CALLING:
            return
        self.core.respond(self.asked, response, now)
        self._over(f"{response.status} {response.reason}", now)

    def on_cancel(self, now: float) -> None:
        """The caller cancelled; the CANCEL itself has been answered."""
        if self.state is State.CALLING:
            self._hang_up_branches(now)
            self.refuse(reply(self.invite, 487, "", self.core.token()), now)

    def _on_no_answer(self, now: float) -> None:
        self._no_answer = None
        if self.state is State.CALLING:
            self._hang_up_branches(now)
            self.refuse(reply(self.invite, 480, "No Answer", self.core.token()), now)

    def hang_up(self, why: str, now: float) -> None:
        """End it from here, whatever its state: BYE, CANCEL or a refusal."""
        if self.state is State.CALLING:
            self._hang_up_branches(now)
            self.refuse(reply(self.invite, 480, "", self.core.token()), now)
        elif self.state is State.ANSWERED and self._midcall is not None:
            assert self.a is not None  # noqa: S101
            self._midcall.hang_up(self.a, why, now)

    @property
    def parties(self) -> list[Party]:
        """Who takes part, or is being asked to."""
        callees = [branch.destination.party for branch in self.branches]
        return [self.asked.party, *(callees if self.b is None else [self.b.party])]

    @property
    def packets(self) -> int:
        """Signs of life so far: media packets of either side, refreshes that both took part in."""
        return self.session.packets + (self._midcall.refreshed if self._midcall else 0)

    def _on_over(self, dialog: Dialog | None, why: str, now: float) -> None:
        """Midcall: somebody said BYE, or nobody is there any more."""
        if self.state is State.CALLING:  # BYE in an early dialog (§15)
            self.on_cancel(now)
        elif self.state is State.ANSWERED:
            self._over(why, now)

    def _over(self, why: str, now: float) -> None:
        self.state = State.ENDED
        self.open = False
        self._quiet()
        self._forget_early(keep=None)
        self.session.close()
        self.core.mark(self.id, "end", why)
        self.core.ended(self.id, why)

    def _quiet(self) -> None:
        if self._no_answer is not None:
            self._no_answer.stop()
            self._no_answer = None

    def _hang_up_branches(self, now: float) -> None:
        self._cancel_others(None, now)

    def _cancel_others(self, winner: Branch | None, now: float) -> None:
        for branch in self.branches:
            if branch is not winner and branch.final is None:
                branch.quiet()
                branch.final = 487
                if branch.transaction is not None:
                    self.core.cancel(branch.transaction, now)

    def _forget_early(self, keep: Dialog | None) -> None:
        for branch in self.branches:
            for a, b in branch.early.values():
                if a is not keep:
                    self.core.unbind(a)
                    self.core.unbind(b)
            branch.early = {t: p for t, p in branch.early.items() if p[0] is keep}


def _ignore(response: Response | None, party: Party, now: float) -> None:
    return
