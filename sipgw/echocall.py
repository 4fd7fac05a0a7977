"""Machine: a call to the echo, which the gateway answers itself (see echo.py)."""

from sipgw.core import Asked, Core, Listener
from sipgw.dialog import Dialog, Order, Party
from sipgw.errors import MalformedSdp, MediaExhausted
from sipgw.message import Request, reply
from sipgw.midcall import Accepted, Handshake
from sipgw.passing import SDP, carries_sdp
from sipgw.session import Session


class EchoCall:
    """One call to the echo; a Listener of its own dialog.

    Args:
        core: the router.
        asked: the INVITE.
    """

    def __init__(self, core: Core, asked: Asked) -> None:
        self.id = core.token()
        self.heard = 0  # packets when the router last looked, and when that was
        self.heard_at = 0.0
        self._core = core
        self._asked = asked
        self._session = Session(core.media, lambda: core.mark(self.id, "media"))
        self._handshake = Handshake(core, self._on_no_ack)
        self._dialog: Dialog | None = None

    @property
    def parties(self) -> list[Party]:
        """The caller."""
        return [self._asked.party]

    @property
    def packets(self) -> int:
        """Media packets heard so far."""
        return self._session.packets

    def start(self, now: float) -> None:
        """Answer the INVITE.

        Raises:
            MalformedMessage: a header without which there is no dialog is missing.
        """
        core, asked = self._core, self._asked
        dialog = Dialog.answering(
            asked.request, core.token(), asked.party, core.contact(asked.party)
        )
        dialog.confirmed = True
        if not self._answer(dialog, asked, now):
            self._over("refused", now)
            return
        self._dialog = dialog
        core.bind(dialog, self)
        core.mark(self.id, "answer", "echo")

    def _answer(self, dialog: Dialog, asked: Asked, now: float) -> bool:
        if not carries_sdp(asked.request):  # an echo has nothing to offer
            self._core.respond(asked, reply(asked.request, 488, "", dialog.local_tag), now)
            return False
        try:
            body = self._session.echo(asked.request.body, asked.party)
        except MalformedSdp:
            self._core.respond(asked, reply(asked.request, 488, "", dialog.local_tag), now)
            return False
        except MediaExhausted:
            self._core.respond(asked, reply(asked.request, 503, "", dialog.local_tag), now)
            return False
        response = reply(asked.request, 200, "", dialog.local_tag)
        response.headers.add("Contact", dialog.contact)
        response.set_body(SDP, body)
        self._handshake.accept(Accepted(asked, response, dialog), now)
        return True

    def on_request(self, dialog: Dialog, asked: Asked, now: float) -> None:
        """See Listener."""
        request = asked.request
        if dialog.order(request) is Order.OLD:
            self._core.respond(asked, reply(request, 500), now)
        elif request.method == "BYE":
            self._core.respond(asked, reply(request, 200), now)
            self._over("BYE", now)
        elif request.method == "INVITE":
            dialog.refresh(request)
            if dialog.accepted is not None:
                self._core.respond(asked, reply(request, 491), now)
            else:
                self._answer(dialog, asked, now)
        elif request.method in ("OPTIONS", "INFO", "MESSAGE"):
            self._core.respond(asked, reply(request, 200), now)
        else:
            status = 489 if request.method == "SUBSCRIBE" else 501
            self._core.respond(asked, reply(request, status), now)

    def on_ack(self, dialog: Dialog, ack: Request, now: float) -> None:
        """See Listener."""
        self._handshake.on_ack(dialog, ack)

    def hang_up(self, why: str, now: float) -> None:
        """Say BYE."""
        if self._dialog is not None:
            dialog = self._dialog
            self._over(why, now)
            self._core.ask(dialog.request("BYE"), dialog.party, lambda *_: None, now)

    def _on_no_ack(self, accepted: Accepted, now: float) -> None:
        self.hang_up("no ACK", now)

    def _over(self, why: str, now: float) -> None:
        if self._dialog is not None:
            if self._dialog.accepted is not None:
                self._dialog.accepted.stop()
            self._core.unbind(self._dialog)
            self._dialog = None
        self._session.close()
        self._core.mark(self.id, "end", why)
        self._core.ended(self.id, why)


_: type[Listener] = EchoCall
