"""Who is around us in an overlay: how we get in, who enters the table, who falls silent."""

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Final, Literal, Protocol

from hipctl import Hit
from overlay.acquaintances import Acquaintances
from overlay.environment import Action, Environment, Learn, Remember
from overlay.exploring import Exploring
from overlay.messages import Kind
from overlay.routing import Contact, Table
from overlay.rpc import OVERTAXED, TOO_MANY
from overlay.seeds import Seeds
from overlay.session import Session

LIVENESS_TICK: Final = 10.0
SUSPECT_TICK: Final = 2.0
QUIET_EACH: Final = 12.0  # a contact is pinged after so many seconds times their number …
QUIET_LEAST, QUIET_MOST = 60.0, 900.0  # … within these bounds: few datagrams when idle
REJOIN_FIRST, REJOIN_MOST = 1.0, 30.0
OFFER_GAP: Final = 10.0  # seconds until one without a place in the table is offered one again
FEW: Final = 12  # neighbours that are asked at once, after sleep, whether they are there
TOLD_BATCH: Final = 16  # neighbours that hear of our move at each tick

Alarm = Literal["liveness", "rejoin"]


class Ground(Protocol):
    """What the neighbourhood asks of its node."""

    def say(self, hit: Hit, kind: Kind) -> None:
        """Ask ``hit`` something without fields; what it answers is no matter."""

    def act(self, action: Action) -> None:
        """Have the shell do this."""

    def set_alarm(self, alarm: Alarm, at: float | None) -> None:
        """Call ``on_liveness`` or ``on_rejoin`` at that time, monotonic seconds; None: don't."""

    def transfer(self, node: Contact, heard: float | None = None) -> None:
        """``node`` came, and was last ``heard`` before (0.0: never); or it left."""


class Neighbourhood:
    """The neighbours of one node.

    Attributes:
        seeds: through whom we come in again.
    """

    def __init__(
        self,
        ground: Ground,
        environment: Environment,
        table: Table,
        known: Acquaintances,
        *,
        sessions: Mapping[Hit, Session],
        exploring: Exploring,
        counters: Counter[str],
    ) -> None:
        self.seeds = Seeds()
        self._ground = ground
        self._env = environment
        self._table = table
        self._known = known
        self._sessions = sessions
        self._exploring = exploring
        self._counters = counters
        self._told = b""  # our contact, as our HELLOs said it
        self._to_tell: deque[Hit] = deque()  # who knows an older one
        self._rejoin = REJOIN_FIRST

    # --- coming in

    def begin(
        self,
        seeds: Iterable[tuple[Hit, bytes]],
        known: Iterable[tuple[Hit, bytes]],
        now: float,
    ) -> None:
        """We are about to come in, see ``Kademlia.join``: next ``knock``, if there are seeds."""
        self.seeds.begin(seeds, known, self._env.local)
        self._told = self._env.contact()
        self._ground.set_alarm("liveness", now + LIVENESS_TICK)

    def knock(self, now: float) -> None:
        """Say HELLO to some of those who might let us in."""
        for hit in self.seeds.turn():
            self._greet_again(hit)
        self._ground.set_alarm("rejoin", now + self._rejoin)
        self._rejoin = min(2 * self._rejoin, REJOIN_MOST)

    def on_rejoin(self, now: float) -> None:
        """Try again if nobody is known."""
        if not len(self._table) and len(self.seeds):
            self.knock(now)

    def _greet_again(self, hit: Hit) -> None:
        if contact := self.seeds.contact(hit):
            self._ground.act(Learn(hit, contact))
        self._ground.say(hit, Kind.HELLO)

    def relocate(self, hit: Hit, contact: bytes) -> None:
        """A seed may be reached at ``contact`` now; it is asked at once if we know nobody."""
        self.seeds.meet(hit, contact)
        if not len(self._table):
            self._greet_again(hit)

    def on_up(self, hit: Hit) -> None:
        """There is an association with ``hit``: perhaps it was silent, and is back."""
        session, known = self._sessions.get(hit), self._known.get(hit)
        here = known is not None and known.long_id in self._table.by_id
        asked = session is not None and session.hello is not None
        if self.seeds.contact(hit) and not here and not asked:
            self._ground.say(hit, Kind.HELLO)

    def on_woke(self, now: float) -> None:
        """We have slept: those whom we lost may be back, and those we know be gone."""
        for contact in list(islice(self._table.contacts(), FEW)):
            self._ground.say(contact.hit, Kind.PING)
        if len(self.seeds) and len(self._table) < FEW:
            self._rejoin = REJOIN_FIRST
            self.knock(now)

    # --- signs of life

    def heard(self, session: Session, now: float) -> None:
        """A neighbour that has greeted has said something."""
        node: Contact = session.node
        if node.long_id in self._table.by_id:
            self._table.heard(node, now)
        elif now - session.offered >= OFFER_GAP:
            session.offered = now
            self._meet(node, now)

    def greeted(self, session: Session, now: float) -> None:
        """Somebody has proven its admission, or told a new contact."""
        node = self._known.introduce(session.hit, session.contact)
        session.node = node
        if session.contact and session.contact != node.contact:
            node.contact = session.contact
            if node.long_id in self._table.by_id:  # it moved
                self.seeds.meet(node.hit, node.contact)
                self._ground.act(Remember(node.hit, node.contact))
        node.groups = self._env.groups(node.contact)
        if node.contact:
            self._ground.act(Learn(session.hit, node.contact))
        self._meet(node, now)

    def _meet(self, node: Contact, now: float) -> None:
        """A proven node gave a sign of life: it may enter the table."""
        node.failures = 0
        heard, before = node.heard, len(self._table)
        for ping in self._table.add_contact(node, now):
            self._ground.say(ping.contact.hit, Kind.PING)
        if len(self._table) == before:
            return
        self._known.keep(node)
        self._ground.act(Remember(node.hit, node.contact))
        self.seeds.meet(node.hit, node.contact)
        self._ground.transfer(node, heard)
        self._rejoin = REJOIN_FIRST
        self._ground.set_alarm("rejoin", None)
        if before == 0 and not self._exploring.joining:
            self._exploring.look_around()

    # --- silence

    def on_liveness(self, now: float) -> None:
        """Ping whoever was quiet for longest, or is suspected; few datagrams when all is well."""
        contacts = self._table.contacts()
        suspects = [contact for contact in contacts if contact.failures][:4]
        for contact in suspects:
            self._ground.say(contact.hit, Kind.PING)
        if not suspects and len(self._table):
            oldest = min(contacts, key=lambda contact: contact.heard)
            quiet = min(max(QUIET_EACH * len(self._table), QUIET_LEAST), QUIET_MOST)
            if now - oldest.heard >= quiet:
                self._ground.say(oldest.hit, Kind.PING)
        tick = SUSPECT_TICK if suspects else LIVENESS_TICK
        self._ground.set_alarm("liveness", now + tick)
        if len(self._table):
            for hit in self.seeds.lost(now):
                self._greet_again(hit)
        self.tell()

    def on_silence(self, hit: Hit, reason: str, now: float) -> None:
        """A request came to nothing after all its retransmissions."""
        contact = self._known.get(hit)
        if reason in (OVERTAXED, TOO_MANY):  # nothing that tells of its death
            return
        if contact is None or contact.long_id not in self._table.by_id:
            self.seeds.lose(hit)
            return
        contact.failures += 1
        if contact.failures >= 2 or reason == "refused us" or self._table.has_replacement(contact):
            self._counters["contact removed"] += 1
            self._table.remove_contact(contact)
            self.seeds.lose(hit)
            if hit in self._sessions:
                self._sessions[hit].offered = float("-inf")  # welcome as soon as it is back
            self._ground.transfer(contact)
            if not len(self._table):
                self._ground.set_alarm("rejoin", now + self._rejoin)
        else:
            self._ground.set_alarm("liveness", now + SUSPECT_TICK)

    # --- where we are

    def tell(self) -> None:
        """If our contact has changed: greet our neighbours anew, for they tell others of it."""
        contact = self._env.contact()
        if contact != self._told:
            self._told = contact
            self._to_tell = deque(c.hit for c in self._table.contacts())
        for _ in range(min(TOLD_BATCH, len(self._to_tell))):
            self._ground.say(self._to_tell.popleft(), Kind.HELLO)
