"""Engine: transactions, dialogs and timers of one gateway; implements core.Core.

Pure: datagrams and ``now`` in, actions out. It matches messages to dialogs and calls; what a
request outside any dialog may do is decided in router.py.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from hipctl import Hit
from overlay import Evidence, Verdict
from sipgw.actions import Action, Connect, Disclose, Mark, Transmit
from sipgw.alarms import Alarms
from sipgw.core import Answered, Asked, Connected, Listener, Media
from sipgw.dialog import Address, Dialog, Overlay, Party, address, contact_uri, hit_of
from sipgw.errors import MalformedMessage, TooManyTransactions
from sipgw.message import NameAddr, Request, Response, reply
from sipgw.transaction import (
    AckReceived,
    CancelReceived,
    ClientTransaction,
    RequestReceived,
    ResponseReceived,
    Send,
    ServerTransaction,
    StrayResponse,
    TimedOut,
)
from sipgw.transaction import Action as LayerAction
from sipgw.transactions import TransactionLayer

OVERLAY_PORT: Final = 5060  # of the Endpoint that gateways signal on
STRAYS: Final = 100  # BYE at once to those who answer what we have given up
WAIT_CONNECT: Final = 8.0  # seconds for an association, then 480


@dataclass(frozen=True, slots=True)
class Limits:
    """What a profile may set.

    Attributes:
        max_calls: calls at once; more get 503.
        ring_timeout: seconds until an unanswered call is given up.
        media_timeout: seconds of silence on both sides that end a call, 0 for never.
        peer_timeout: seconds without association until a call over it ends.
    """

    max_calls: int = 1000
    ring_timeout: float = 180.0
    media_timeout: float = 3600.0
    peer_timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class House:
    """What the router asks of the peer without waiting.

    Attributes:
        aors: AoRs held -> their HIT.
        domains: of the joined overlays.
        petname: name -> AoR or None.
        judge: the policy.
        connected: whether a HIT has an association.
    """

    aors: Callable[[], Mapping[str, Hit]]
    domains: Callable[[], Sequence[str]]
    petname: Callable[[str], str | None]
    judge: Callable[[Evidence], Verdict]
    connected: Callable[[Hit], bool]


class Running(Protocol):
    """A call that goes on, as the switch sees it."""

    id: str
    heard: int
    heard_at: float

    @property
    def packets(self) -> int:
        """Signs of life so far, mostly media packets."""

    @property
    def parties(self) -> Sequence[Party]:
        """Who takes part, first who began it."""

    def hang_up(self, why: str, now: float) -> None:
        """End it from here."""


class Switch:
    """Transactions, dialogs and timers: implements core.Core for the machines of calls.

    Args:
        listen: where clients reach us.
        media: where ports come from.
        rng: ``rng(n)`` gives n unpredictable bytes.
        house: see House.
        limits: see Limits.
        on_request: takes what belongs to no dialog: ``on_request(asked, now)``.
    """

    def __init__(
        self,
        listen: Address,
        media: Media,
        rng: Callable[[int], bytes],
        house: House,
        *,
        limits: Limits,
        on_request: Callable[[Asked, float], None],
    ) -> None:
        self.alarms = Alarms()
        self.media = media
        self.house = house
        self.limits = limits
        self.ring_timeout = limits.ring_timeout
        self.listen = listen
        self.counters: Counter[str] = Counter()
        self.calls: dict[str, Running] = {}
        self.guests: Counter[Hit] = Counter()  # calls that other gateways began, by their HIT
        self.actions: list[Action] = []
        self._rng = rng
        self._sent_by = f"{listen[0]}:{listen[1]}"
        self._contact = f"<sip:gateway@{self._sent_by}>"
        self._clients = TransactionLayer(rng, sent_by=self._sent_by)
        self._gateways: dict[Hit, TransactionLayer] = {}
        self._dialogs: dict[tuple[str, str], tuple[Dialog, Listener]] = {}
        self._invites: dict[ServerTransaction, Asked] = {}
        self._answers: dict[ClientTransaction, tuple[Answered, Party]] = {}
        self._connecting: dict[int, Connected] = {}
        self._key = 0
        self._strays = 0
        self._outside = on_request

    def begin(self, call: Running) -> None:
        """Count a call that is new."""
        self.calls[call.id] = call
        hit = hit_of(call.parties[0])
        if hit is not None:
            self.guests[hit] += 1

    def full(self, party: Party) -> bool:
        """Whether a party may not begin one more call.

        Other gateways never take all the room, nor one of them that of all others: the owner can
        always call.
        """
        most, hit = self.limits.max_calls, hit_of(party)
        if hit is not None and (
            self.guests[hit] >= max(1, most // 4) or self.guests.total() >= max(1, most * 3 // 4)
        ):
            return True
        return len(self.calls) >= most

    # What the shell calls.

    def feed(self, data: bytes, party: Party, now: float) -> None:
        """Take a datagram; what follows from it is in ``actions``."""
        layer = self._layer(party)
        self._perform(layer.on_datagram(data, party[-2:], now), party, now)

    def tick(self, now: float) -> None:
        """Fire what is due."""
        self.alarms.on_time(now)
        for local, layer in [(None, self._clients), *self._gateways.items()]:
            due = layer.deadline()
            if due is not None and due <= now:
                self._perform(layer.on_time(now), local, now)

    def deadline(self) -> float | None:
        """When ``tick`` wants to be called."""
        dues = [self.alarms.deadline(), self._clients.deadline()]
        dues += [layer.deadline() for layer in self._gateways.values()]
        return min((due for due in dues if due is not None), default=None)

    def on_connected(self, key: int, ok: bool, now: float) -> None:
        """Answer of Connect."""
        on_connected = self._connecting.pop(key, None)
        if on_connected is not None:
            on_connected(ok, now)

    # core.Core

    def token(self) -> str:
        """See Core."""
        return self._rng(9).hex()

    def contact(self, party: Party) -> str:
        """See Core."""
        if len(party) == 3:
            return f"<sip:gateway@[{party[0]}]:{OVERLAY_PORT}>"
        return self._contact

    def hidden(self, party: Party, message: Request | Response) -> tuple[str, ...]:
        """See Core."""
        if len(party) == 3:
            return ()
        hosts = {party[0]}
        try:
            hosts.add(NameAddr.parse(message.headers.first("contact") or "").uri.host)
        except MalformedMessage:
            hosts.add("")
        if isinstance(message, Request):
            hosts.add(message.via.host)
        domains = self.house.domains()
        return tuple(
            host for host in hosts if ("." in host or ":" in host) and host not in domains
        )

    def ask(
        self, request: Request, party: Party, on_answer: Answered, now: float
    ) -> object | None:
        """See Core."""
        try:
            transaction, actions = self._layer(party).send_request(request, party[-2:], now)
        except TooManyTransactions:
            self.counters["too many transactions"] += 1
            self.alarms.set(now, lambda at: on_answer(None, party, at))
            return None
        self._answers[transaction] = on_answer, party
        self._perform(actions, party, now)
        return transaction, party

    def cancel(self, transaction: object, now: float) -> None:
        """See Core."""
        assert isinstance(transaction, tuple)  # noqa: S101  what ``ask`` returned
        invite, party = transaction
        self._perform(self._layer(party).cancel(invite, now), party, now)

    def acknowledge(self, ack: Request, party: Party, now: float) -> None:
        """See Core."""
        if "via" in ack.headers:  # sent before: this is a repetition
            ack.headers.remove("via")
        self._perform([self._layer(party).ack(ack, party[-2:])], party, now)

    def respond(self, asked: Asked, response: Response, now: float) -> None:
        """See Core."""
        if response.status >= 200:
            self._invites.pop(asked.transaction, None)
        layer = self._layer(asked.party)
        self._perform(layer.respond(asked.transaction, response, now), asked.party, now)

    def connect(self, party: Overlay, on_connected: Connected, now: float) -> None:
        """See Core."""
        self.disclose(party)  # our user calls it; it may have begun the association that there is
        if self.house.connected(party[1]):
            on_connected(True, now)
            return
        key = self.key()
        self._connecting[key] = on_connected
        self.alarms.set(now + WAIT_CONNECT, lambda at: self.on_connected(key, False, at))
        self.actions.append(Connect(key, party))

    def bind(self, dialog: Dialog, listener: Listener) -> None:
        """See Core."""
        self._dialogs[dialog.local_tag, dialog.remote_tag] = dialog, listener

    def unbind(self, dialog: Dialog) -> None:
        """See Core."""
        self._dialogs.pop((dialog.local_tag, dialog.remote_tag), None)

    def ended(self, call: str, why: str) -> None:
        """See Core."""
        over = self.calls.pop(call, None)
        hit = None if over is None else hit_of(over.parties[0])
        if hit is not None:
            self.guests[hit] -= 1
            if not self.guests[hit]:
                del self.guests[hit]

    def mark(self, call: str, step: str, detail: str = "") -> None:
        """See Core."""
        self.actions.append(Mark(call, step, detail))

    def disclose(self, party: Party) -> None:
        """See Core."""
        if len(party) == 3:
            self.actions.append(Disclose(party[0], party[1]))

    # Matching.

    def key(self) -> int:
        """A number for a question to the overlay."""
        self._key += 1
        return self._key

    def _layer(self, party: Party) -> TransactionLayer:
        if len(party) == 2:
            return self._clients
        layer = self._gateways.get(party[0])
        if layer is None:
            sent_by = f"[{party[0]}]:{OVERLAY_PORT}"
            layer = TransactionLayer(self._rng, sent_by=sent_by, symmetric=True)
            self._gateways[party[0]] = layer
        return layer

    def _perform(
        self, actions: Sequence[LayerAction], party: Party | Hit | None, now: float
    ) -> None:
        """Take what a layer says; ``party`` tells which layer: its local HIT or None."""
        local = party if party is None or isinstance(party, Hit) else _local(party)
        for action in actions:
            if isinstance(action, Send):
                to = action.to if local is None else (local, *action.to)
                self.actions.append(Transmit(action.data, to))
            elif isinstance(action, RequestReceived):
                self._on_request(action.transaction, _party(local, action.source), now)
            elif isinstance(action, ResponseReceived):
                to = _party(local, action.transaction.to)
                self._on_response(action.transaction, to, action.response, now)
            elif isinstance(action, AckReceived):
                self._on_ack(action.request, _party(local, action.source), now)
            else:
                self._on_rare(action, local, now)

    def _on_rare(self, action: LayerAction, local: Hit | None, now: float) -> None:
        if isinstance(action, TimedOut):
            found = self._answers.pop(action.transaction, None)
            if found is not None:
                found[0](None, found[1], now)
        elif isinstance(action, CancelReceived):
            invite = self._invites.get(action.transaction)
            if invite is not None and invite.on_cancel is not None:
                invite.on_cancel(now)
        elif isinstance(action, StrayResponse):
            self._on_stray(action.response, _party(local, action.source), now)

    def _on_request(self, transaction: ServerTransaction, party: Party, now: float) -> None:
        asked = Asked(transaction, party)
        request = asked.request
        if request.method == "INVITE":
            self._invites[transaction] = asked
        tag = request.to.tag
        try:
            if tag is None:
                self._outside(asked, now)
                return
            found = self._dialogs.get((tag, request.from_.tag or ""))
            if found is not None and _same_leg(found[0], request, party):
                found[1].on_request(found[0], asked, now)
            else:
                self.respond(asked, reply(request, 481), now)
        except MalformedMessage as error:
            self.counters[error.reason] += 1
            self.respond(asked, reply(request, 400, error.reason, self.token()), now)

    def _on_ack(self, ack: Request, party: Party, now: float) -> None:
        found = self._dialogs.get((ack.to.tag or "", ack.from_.tag or ""))
        if found is None or not _same_leg(found[0], ack, party):
            self.counters["stray ACK"] += 1
            return
        try:
            found[1].on_ack(found[0], ack, now)
        except MalformedMessage as error:
            self.counters[error.reason] += 1

    def _on_response(
        self, transaction: ClientTransaction, to: Party, response: Response, now: float
    ) -> None:
        found = self._answers.get(transaction)
        if found is None:
            if transaction.invite and 200 <= response.status < 300:
                self._on_stray(response, to, now)
            return
        if response.status >= 200:
            del self._answers[transaction]
        try:
            found[0](response, found[1], now)
        except MalformedMessage as error:
            self.counters[error.reason] += 1

    def _on_stray(self, response: Response, party: Party, now: float) -> None:
        """A 2xx that comes again, or too late: ACK it, and BYE unless the dialog is known."""
        try:
            tags = response.from_.tag or "", response.to.tag or ""
            found = self._dialogs.get(tags)
            number = response.cseq.number
            if found is not None:
                again = found[0].ack_again(number)
                if again is not None:
                    self.acknowledge(again, found[0].party, now)
                return
            if self._strays >= STRAYS:
                self.counters["too many stray 2xx"] += 1
                return
            dialog = Dialog(response.call_id, *tags, party, self.contact(party))
            dialog.local, dialog.remote = address(response.from_), address(response.to)
            dialog.target, dialog.cseq = contact_uri(response), number
            self.acknowledge(dialog.ack(number), party, now)
            self._strays += 1
            self.ask(dialog.request("BYE"), party, self._on_stray_gone, now)
        except MalformedMessage as error:
            self.counters[error.reason] += 1

    def _on_stray_gone(self, response: Response | None, party: Party, now: float) -> None:
        if response is None or response.status >= 200:
            self._strays -= 1


def _local(party: Party) -> Hit | None:
    return party[0] if len(party) == 3 else None


def _party(local: Hit | None, source: tuple[object, int]) -> Party:
    return source if local is None else (local, *source)  # type: ignore[return-value]


def _same_leg(dialog: Dialog, message: Request, party: Party) -> bool:
    """Whether a message that has a dialog's tags belongs to it: nobody else's may."""
    return dialog.call_id == message.call_id and dialog.party[:-1] == party[:-1]
