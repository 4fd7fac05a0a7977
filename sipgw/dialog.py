"""Machine: one dialog, which is what a gateway and one party of a call share (RFC 3261 §12).

A call through the gateway is two dialogs, each the other's ``other``: one with the caller's side,
one with the callee's. A party is a client, known by its socket address, or another gateway, known
by its HIT.
"""

from enum import Enum
from ipaddress import AddressValueError, IPv4Address
from typing import TYPE_CHECKING, Self

from hipctl import Hit
from sipgw.constants import DEFAULT_PORT, MAX_FORWARDS
from sipgw.message import MalformedMessage, NameAddr, Request, Response, Uri

if TYPE_CHECKING:
    from sipgw.midcall import Accepted

Address = tuple[str, int]
Overlay = tuple[Hit, Hit, int]  # local HIT, the other gateway's HIT, its port
Party = Address | Overlay
"""Where messages of a leg go: a client or a gateway; told apart by length."""

LONGEST_ROUTE_SET = 16


def hit_of(party: Party) -> Hit | None:
    """The other gateway's HIT, None if the party is a client."""
    return party[1] if len(party) == 3 else None


class Order(Enum):
    """What a request's CSeq says about it (§12.2.2)."""

    NEW = "new"
    OLD = "old"  # answered 500


class Dialog:
    """One dialog and how to speak in it.

    Attributes:
        call_id: of this leg.
        local_tag: ours; names the dialog, as we never use a tag twice.
        remote_tag: the party's.
        local: our address as From or To carries it, without tag.
        remote: the party's.
        target: the party's Contact URI.
        routes: Route values towards it, in order.
        party: where its messages come from and go to.
        contact: our Contact value.
        cseq: number of our last request.
        remote_cseq: number of the party's last request, None before its first.
        invite_cseq: number of our INVITE, for RAck (RFC 3262 §7.2).
        leg: of the session that this party's media belong to, see session.py.
        confirmed: whether a 2xx made it; before that it is early.
        other: the dialog with the other party, None for one that ends here (echo).
        accepted: our 2xx to the party's INVITE while its ACK is missing.
        inviting: whether an INVITE of ours inside the dialog is unanswered.
        invited: whether one of the party's is.
        unacknowledged: CSeq of an INVITE of ours whose 2xx still wants its ACK, else 0.
    """

    __slots__ = (
        "_ack",
        "accepted",
        "call_id",
        "confirmed",
        "contact",
        "cseq",
        "invite_cseq",
        "invited",
        "inviting",
        "leg",
        "local",
        "local_tag",
        "other",
        "party",
        "remote",
        "remote_cseq",
        "remote_tag",
        "routes",
        "target",
        "unacknowledged",
    )

    def __init__(
        self, call_id: str, local_tag: str, remote_tag: str, party: Party, contact: str
    ) -> None:
        self.call_id = call_id
        self.local_tag = local_tag
        self.remote_tag = remote_tag
        self.party = party
        self.contact = contact
        self.local = self.remote = self.target = ""
        self.routes: list[str] = []
        self.cseq = 0
        self.remote_cseq: int | None = None
        self.invite_cseq = 0
        self.leg = ""
        self.confirmed = False
        self.other: Dialog | None = None
        self.accepted: Accepted | None = None
        self.inviting = False
        self.invited = False
        self.unacknowledged = 0
        self._ack: tuple[int, Request] | None = None

    @classmethod
    def answering(cls, invite: Request, tag: str, party: Party, contact: str) -> Self:
        """The UAS's side (§12.1.1).

        Raises:
            MalformedMessage: From, Contact or CSeq is missing or wrong.
        """
        sender = invite.from_
        dialog = cls(invite.call_id, tag, sender.tag or "", party, contact)
        dialog.local = address(invite.to)
        dialog.remote = address(sender)
        dialog.target = contact_uri(invite)
        dialog.routes = [str(route) for route in invite.record_routes][:LONGEST_ROUTE_SET]
        dialog.remote_cseq = invite.cseq.number
        return dialog

    @classmethod
    def asking(
        cls, invite: Request, answer: Response, party: Party, contact: str, target: str
    ) -> Self:
        """The UAC's side, once a response has a To tag (§12.1.2).

        Args:
            invite: as we sent it.
            answer: 101–299 with a To tag.
            party: where it came from.
            contact: ours.
            target: the party's URI if the response has no usable Contact.

        Raises:
            MalformedMessage: a header of the response is wrong.
        """
        sender = invite.from_
        dialog = cls(invite.call_id, sender.tag or "", answer.to.tag or "", party, contact)
        dialog.local = address(sender)
        dialog.remote = address(invite.to)
        dialog.target = target
        dialog.refresh(answer)
        routes = [str(route) for route in answer.record_routes][:LONGEST_ROUTE_SET]
        dialog.routes = routes[::-1]
        dialog.cseq = dialog.invite_cseq = invite.cseq.number
        return dialog

    def order(self, request: Request) -> Order:
        """Judge the CSeq of a request in this dialog and remember it (§12.2.2)."""
        number = request.cseq.number
        if self.remote_cseq is not None and number <= self.remote_cseq:
            return Order.OLD
        self.remote_cseq = number
        return Order.NEW

    def refresh(self, message: Request | Response) -> None:
        """Take a new remote target from a target refresh, if it names one (§12.2.1.2)."""
        try:
            self.target = contact_uri(message)
        except MalformedMessage:
            return

    def request(self, method: str) -> Request:
        """Make a request of the next CSeq in this dialog, without Via and body (§12.2.1.1)."""
        self.cseq += 1
        if method == "INVITE":
            self.invite_cseq = self.cseq
        return self._request(method, self.cseq)

    def ack(self, cseq: int, kind: str = "", body: bytes = b"") -> Request:
        """Make the ACK of a 2xx to the INVITE of that CSeq, without Via (§13.2.2.4)."""
        ack = self._request("ACK", cseq)
        if body:
            ack.set_body(kind, body)
        self._ack = cseq, ack
        self.unacknowledged = 0
        return ack

    def ack_again(self, cseq: int) -> Request | None:
        """The ACK that was sent for that CSeq, for when the 2xx comes again."""
        return self._ack[1] if self._ack is not None and self._ack[0] == cseq else None

    def _request(self, method: str, cseq: int) -> Request:
        uri, routes = self.target, self.routes
        if routes and not _loose(routes[0]):  # a strict router wants its own URI on top
            uri, routes = NameAddr.parse(routes[0]).uri.text, [*routes[1:], f"<{uri}>"]
        request = Request(method, uri)
        add = request.headers.add
        for route in routes:
            add("Route", route)
        add("Max-Forwards", str(MAX_FORWARDS))
        add("From", f"{self.local};tag={self.local_tag}")
        to_tag = f";tag={self.remote_tag}" if self.remote_tag else ""
        add("To", f"{self.remote}{to_tag}")
        add("Call-ID", self.call_id)
        add("CSeq", f"{cseq} {method}")
        if method != "BYE":
            add("Contact", self.contact)
        return request


def address(value: NameAddr) -> str:
    """``"Name" <uri>`` of a From or To, without its tag and other parameters."""
    return str(NameAddr(value.display, value.uri, {})) if value.params else str(value)


def contact_uri(message: Request | Response) -> str:
    """The URI of the first Contact.

    Raises:
        MalformedMessage: there is none, or it is no sip(s) URI.
    """
    value = message.headers.first("contact")
    if value is None or value == "*":
        raise MalformedMessage("no Contact")
    uri = NameAddr.parse(value).uri
    if not uri.is_sip:
        raise MalformedMessage("bad Contact")
    return uri.text


def client_address(uri: Uri, source: Address) -> Address:
    """Where to send a client's requests: its Contact if that is on loopback, else its source."""
    try:
        loopback = IPv4Address(uri.host).is_loopback
    except AddressValueError:  # a name, like 127.0.example.com: nothing is looked up for a client
        return source
    return (uri.host, uri.port or DEFAULT_PORT) if loopback else source


def _loose(route: str) -> bool:
    return "lr" in NameAddr.parse(route).uri.params
