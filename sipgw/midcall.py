"""Machine: an answered call, or an early one, between its two dialogs.

A request of one party is asked anew of the other, and what that answers is passed back. 2xx to
INVITE are acknowledged on each side by itself, as each has its own transactions (RFC 3261
§13.3.1.4).
"""

from collections.abc import Callable
from typing import Final

from sipgw.alarms import Alarm
from sipgw.constants import T1
from sipgw.core import Asked, Core
from sipgw.dialog import Dialog, Order, Party
from sipgw.errors import MalformedSdp, MediaExhausted
from sipgw.message import MalformedMessage, Request, Response, reply
from sipgw.passing import answer, carries_sdp, hides_sdp, pass_headers
from sipgw.session import Session

PASSED: Final = frozenset(
    {"INVITE", "UPDATE", "INFO", "PRACK", "MESSAGE", "REFER", "NOTIFY", "OPTIONS"}
)
OFFERING: Final = frozenset({"INVITE", "UPDATE", "PRACK"})
GIVE_UP: Final = 64 * T1  # seconds without ACK until the dialog is over, §13.3.1.4
RETRY_AFTER: Final = "2"  # seconds, of a 500 to a second INVITE, §14.2
Over = Callable[[Dialog | None, str, float], None]
"""``on_over(who ended it, why, now)``; None: nobody did, we gave up."""


class Accepted:
    """A 2xx to an INVITE, on its way until its ACK comes.

    Args:
        asked: the INVITE.
        response: our 2xx.
        dialog: with the one who asked.
        ack: CSeq of our INVITE to the other party if that still wants its ACK, which then waits
            for this one (it has the answer to the offer in the 2xx), else 0.
    """

    __slots__ = ("ack", "alarm", "asked", "dialog", "hang_up", "response")

    def __init__(self, asked: Asked, response: Response, dialog: Dialog, ack: int = 0) -> None:
        self.asked = asked
        self.response = response
        self.dialog = dialog
        self.ack = ack
        self.hang_up = False  # the other party is gone: BYE as soon as that is allowed (§15)
        self.alarm: Alarm | None = None

    def stop(self) -> None:
        """The ACK came, or no longer matters."""
        if self.alarm is not None:
            self.alarm.stop()
            self.alarm = None


class Handshake:
    """INVITE's three ways; the transaction layer repeats the 2xx, this one waits for the ACK.

    Args:
        core: the router.
        on_no_ack: told after 32 s; what to do with the dialog is its affair.
    """

    def __init__(self, core: Core, on_no_ack: Callable[[Accepted, float], None]) -> None:
        self._core = core
        self._on_no_ack = on_no_ack

    def accept(self, accepted: Accepted, now: float) -> None:
        """Send a 2xx and see to it that it arrives."""

        def give_up(at: float) -> None:
            accepted.dialog.accepted = None
            self._on_no_ack(accepted, at)

        accepted.dialog.accepted = accepted
        accepted.alarm = self._core.alarms.set(now + GIVE_UP, give_up)
        self._core.respond(accepted.asked, accepted.response, now)

    def on_ack(self, dialog: Dialog, ack: Request) -> Accepted | None:
        """Stop; returns what was acknowledged, None if nothing that waited for this ACK."""
        accepted = dialog.accepted
        if accepted is None or ack.cseq.number != accepted.asked.request.cseq.number:
            return None
        dialog.accepted = None
        accepted.stop()
        return accepted


class Midcall:
    """Both dialogs of a call; every pair of early ones too, as they share the session.

    Args:
        core: the router.
        session: the call's media.
        on_over: told when a party says BYE or can't be reached any more.

    Attributes:
        refreshed: requests of one party that the other has accepted (RFC 4028: both are there).
    """

    def __init__(self, core: Core, session: Session, on_over: Over) -> None:
        self._core = core
        self._session = session
        self._on_over = on_over
        self._handshake = Handshake(core, self._on_no_ack)
        self.refreshed = 0

    def accept(self, accepted: Accepted, now: float) -> None:
        """Send a 2xx and see to it that it arrives."""
        self._handshake.accept(accepted, now)

    def _on_no_ack(self, accepted: Accepted, now: float) -> None:
        if accepted.hang_up:
            self._bye(accepted.dialog, now)
        else:
            self._finish(None, accepted.dialog, "no ACK", now)

    def on_ack(self, dialog: Dialog, ack: Request, now: float) -> None:
        """See Listener."""
        accepted = self._handshake.on_ack(dialog, ack)
        if accepted is None:
            return
        other = dialog.other
        if other is not None and accepted.ack:
            body, kind = b"", ""
            if carries_sdp(ack):
                try:
                    body = self._carry(ack, dialog, other)
                    kind = ack.headers.first("content-type") or ""
                except (MalformedSdp, MediaExhausted):
                    body = b""
            self._core.acknowledge(other.ack(accepted.ack, kind, body), other.party, now)
        if accepted.hang_up:
            self._bye(dialog, now)

    # Requests.

    def on_request(self, dialog: Dialog, asked: Asked, now: float) -> None:
        """See Listener."""
        request = asked.request
        if dialog.order(request) is Order.OLD:
            self._refuse(asked, 500, now)
        elif request.method == "BYE":
            self._core.respond(asked, reply(request, 200), now)
            self._finish(dialog, dialog, "BYE", now)
        elif request.method == "SUBSCRIBE":
            self._refuse(asked, 489, now)
        elif request.method not in PASSED:
            self._refuse(asked, 405 if request.method in ("REGISTER", "PUBLISH") else 501, now)
        elif (
            request.method == "REFER"
            and "replaces=" in (request.headers.first("refer-to") or "").lower()
        ):  # names a dialog of one leg, which the other does not know
            self._refuse(asked, 501, now)
        elif request.method in OFFERING and hides_sdp(request):
            self._refuse(asked, 415, now)
        elif not self._glare(dialog, asked, now):
            self._pass(dialog, asked, now)

    def _glare(self, dialog: Dialog, asked: Asked, now: float) -> bool:
        """Refuse an offer while another is open (§14.2, RFC 3311 §5.2)."""
        request = asked.request
        if request.method != "INVITE" and not (
            request.method == "UPDATE" and carries_sdp(request) and dialog.confirmed
        ):
            return False
        if (request.method == "INVITE" and not dialog.confirmed) or dialog.inviting:
            self._refuse(asked, 491, now)
        elif dialog.invited or dialog.accepted is not None:
            response = reply(request, 500)
            response.headers.add("Retry-After", RETRY_AFTER)
            self._core.respond(asked, response, now)
        else:
            return False
        return True

    def _refuse(self, asked: Asked, status: int, now: float) -> None:
        self._core.respond(asked, reply(asked.request, status), now)

    def _pass(self, dialog: Dialog, asked: Asked, now: float) -> None:
        request, other, core = asked.request, dialog.other, self._core
        if other is None or (request.method == "INVITE" and other.accepted is not None):
            self._refuse(asked, 481 if other is None else 491, now)
            return
        passed = other.request(request.method)
        pass_headers(request, passed, core.hidden(dialog.party, request))
        rack = request.headers.first("rack")
        if rack is not None:
            passed.headers.add("RAck", f"{rack.split()[0]} {other.invite_cseq} INVITE")
        try:
            passed.body = self._carry(request, dialog, other)
        except MalformedSdp:
            self._refuse(asked, 488, now)
            return
        except MediaExhausted:
            self._refuse(asked, 503, now)
            return
        if request.method in ("INVITE", "UPDATE"):
            dialog.refresh(request)
        cseq = other.cseq

        def on_answer(response: Response | None, party: Party, at: float) -> None:
            self._on_answer(dialog, other, asked, cseq, response, at)

        if request.method == "INVITE":
            dialog.invited = other.inviting = True
            core.respond(asked, reply(request, 100), now)
        transaction = core.ask(passed, other.party, on_answer, now)
        if request.method == "INVITE" and transaction is not None:
            asked.on_cancel = lambda at: core.cancel(transaction, at)

    def _carry(self, message: Request | Response, sender: Dialog, receiver: Dialog) -> bytes:
        if hides_sdp(message) and message.cseq.method in OFFERING:
            raise MalformedSdp("multipart")
        if not carries_sdp(message):
            return message.body
        return self._session.carry(
            message.body, sender.leg, sender.party, receiver.leg, receiver.party
        )

    def _on_answer(  # noqa: PLR0917
        self,
        dialog: Dialog,
        other: Dialog,
        asked: Asked,
        cseq: int,
        response: Response | None,
        now: float,
    ) -> None:
        invite = asked.request.method == "INVITE"
        self.refreshed += response is not None and 200 <= response.status < 300
        if response is not None and response.status < 200:
            if invite and response.status > 100:
                self._pass_back(dialog, other, asked, response, now)
            return
        if invite and response is not None and response.status < 300:
            dialog.invited = other.inviting = False
            other.refresh(response)
            self._accept_again(dialog, other, asked, cseq, response, now)
            return
        if invite:
            dialog.invited = other.inviting = False
        if response is None:
            self._refuse(asked, 408, now)
        else:
            if response.status < 300 and asked.request.method == "UPDATE":
                other.refresh(response)
            self._pass_back(dialog, other, asked, response, now)
        if other.confirmed and (response is None or response.status == 481):
            self._finish(other, other, "the other side is gone", now)  # §12.2.1.2

    def _accept_again(  # noqa: PLR0917
        self,
        dialog: Dialog,
        other: Dialog,
        asked: Asked,
        cseq: int,
        response: Response,
        now: float,
    ) -> None:
        now_ack = carries_sdp(asked.request) or not carries_sdp(response)
        other.unacknowledged = cseq
        if now_ack:
            self._core.acknowledge(other.ack(cseq), other.party, now)
        try:
            passed = self._answer(dialog, other, asked, response)
        except (MalformedSdp, MediaExhausted):
            if not now_ack:
                self._core.acknowledge(other.ack(cseq), other.party, now)
            self._refuse(asked, 488, now)
            return
        self.accept(Accepted(asked, passed, dialog, 0 if now_ack else cseq), now)

    def _answer(self, dialog: Dialog, other: Dialog, asked: Asked, response: Response) -> Response:
        contact = dialog.contact if response.status < 300 else ""
        hidden = self._core.hidden(other.party, response)
        passed = answer(asked.request, dialog.local_tag, response, contact, hidden)
        passed.body = self._carry(response, other, dialog)
        return passed

    def _pass_back(
        self, dialog: Dialog, other: Dialog, asked: Asked, response: Response, now: float
    ) -> None:
        try:
            passed = self._answer(dialog, other, asked, response)
        except (MalformedSdp, MediaExhausted):
            passed = reply(asked.request, 488 if response.status >= 200 else 183)
        self._core.respond(asked, passed, now)

    # The end.

    def hang_up(self, dialog: Dialog, why: str, now: float) -> None:
        """Say BYE to both parties."""
        self._finish(None, dialog, why, now)

    def _finish(self, gone: Dialog | None, dialog: Dialog, why: str, now: float) -> None:
        """End the pair that ``dialog`` is of; ``gone`` gets no BYE."""
        for one in (dialog, dialog.other):
            if one is None:
                continue
            if one is not gone and one.confirmed:
                if one.accepted is not None:
                    one.accepted.hang_up = True
                    continue
                self._bye(one, now)
            else:
                if one.accepted is not None:
                    one.accepted.stop()
                self._core.unbind(one)
        self._on_over(gone, why, now)

    def _bye(self, dialog: Dialog, now: float) -> None:
        self._core.unbind(dialog)
        try:
            if dialog.unacknowledged:  # the offer in its 2xx was never answered
                ack = dialog.ack(dialog.unacknowledged)
                self._core.acknowledge(ack, dialog.party, now)
            self._core.ask(dialog.request("BYE"), dialog.party, _ignore, now)
        except MalformedMessage:  # a Route of the party's own making
            return


def _ignore(response: Response | None, party: Party, now: float) -> None:
    return
