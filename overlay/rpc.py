"""Requests and their answers: who may ask, what is matched, retransmitted, given up.

One ``Rpc`` serves one node of one overlay. The first message to a stranger is HELLO, with what
admission wants to see, as far as the base exchange has not shown it (see ``reception``); the
request follows at once and waits at the other end for nothing else.
Whoever asks without HELLO is told so, statelessly; whoever answers without having proven its own
admission is not believed.
"""

import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from hipctl import Hit
from overlay.admission import Admitted
from overlay.errors import CredentialsRefused, MalformedMessage
from overlay.greeting import Greeting, Strangers, told_wall
from overlay.messages import (
    VERSION,
    Code,
    Feature,
    Field,
    Kind,
    Message,
    UnsupportedMessage,
    encode_answer,
    encode_error,
    encode_request,
    parse,
)
from overlay.session import Session

TRIES: Final = 3
SLOW: Final = {int(Kind.KNOCK): 1.0}  # seconds until it is asked again, for what takes its time
MAX_PENDING: Final = 1_000
MAX_PENDING_EACH: Final = 128
MAX_SESSIONS: Final = 4_096
MAX_GREETS: Final = 2  # HELLOs that one request may cause
REFUSED_FOR: Final = 60.0  # seconds during which who refused our HELLO isn't asked again
_CREDENTIALS: Final = int(Field.CREDENTIALS)
OVERTAXED: Final = "no answer to this"  # but to others
TOO_MANY: Final = "too many pending"  # requests of ours


class Send(NamedTuple):
    """Action: send ``data`` to ``to``; the shell puts the overlay's tag in front."""

    to: Hit
    data: bytes


class Asked(NamedTuple):
    """Event: a greeted neighbour asks; answer with ``answer``."""

    session: Session
    message: Message


class Answered(NamedTuple):
    """Event: a request of ours was answered."""

    token: Any
    session: Session
    fields: dict[int, Any]


class Refused(NamedTuple):
    """Event: a request of ours was answered by an error."""

    token: Any
    hit: Hit
    code: int
    reason: str


class Late(NamedTuple):
    """Event: a soft deadline passed; the request was sent again, if it ever was sent."""

    token: Any
    hit: Hit


class Failed(NamedTuple):
    """Event: a request will not be answered."""

    token: Any
    hit: Hit
    reason: str


class Greeted(NamedTuple):
    """Event: ``session`` has proven its admission, or told a new contact."""

    session: Session


Output = Send | Asked | Answered | Refused | Late | Failed | Greeted


class _Pending:
    __slots__ = (
        "answer",
        "at",
        "bare",
        "data",
        "greets",
        "kind",
        "sent",
        "session",
        "token",
        "tries",
        "wait",
    )

    def __init__(  # noqa: PLR0917
        self, session: Session, kind: int, data: bytes, token: Any, now: float, wait: float
    ) -> None:
        self.session = session
        self.kind = kind
        self.data = data
        self.token = token
        self.sent = now
        self.tries = 1
        self.wait = wait
        self.at = now + wait
        self.greets = 0
        self.bare = False  # a HELLO without our credentials
        self.answer: dict[int, Any] | None = None  # it overtook the answer to our HELLO


class Rpc:
    """Matches answers to requests.

    ``wall`` is our own clock, as HELLO tells it; what expires is judged by it and ``offset``.

    Attributes:
        offset: what corrects our clock, seconds.
        calibrated: whether ``offset`` is more than one neighbour's word.

    Args:
        greeting: what our HELLO says.
        contact: our contact, now.
        admit: judges (credentials, HIT, wall); raises CredentialsRefused.
        connected: whether there is an association; without one, what was sent still waits in
            the host's queue, and is not sent again.
        rng: for request ids.
        shown: the credentials that a HIT has shown in the base exchange, or None.
        shows: whether the base exchange with a HIT has shown ours, or will show them.
    """

    def __init__(
        self,
        greeting: Greeting,
        contact: Callable[[], bytes],
        admit: Callable[[bytes, Hit, float], Admitted],
        connected: Callable[[Hit], bool],
        rng: Callable[[int], bytes],
        *,
        shown: Callable[[Hit], bytes | None] = lambda hit: None,
        shows: Callable[[Hit], bool] = lambda hit: False,
    ) -> None:
        self.sessions: OrderedDict[Hit, Session] = OrderedDict()
        self.counters: Counter[str] = Counter()
        self.offset = 0.0
        self.calibrated = False
        self.greeting = greeting
        self._contact = contact
        self._admit = admit
        self._connected = connected
        self._rng = rng
        self._shown = shown
        self._shows = shows
        self._ids = b""
        self._pending: dict[bytes, _Pending] = {}
        self._heap: list[tuple[float, bytes]] = []
        self._strangers = Strangers()

    # --- asking

    def session(self, hit: Hit, now: float) -> Session:
        """The session with ``hit``, made if need be; the oldest idle one makes room."""
        session = self.sessions.get(hit)
        if session is None:
            if len(self.sessions) >= MAX_SESSIONS:
                self._evict()
            session = self.sessions[hit] = Session(hit, now)
        return session

    def _evict(self) -> None:
        for hit, session in self.sessions.items():
            if not session.pending:
                del self.sessions[hit]
                return
        self.sessions.popitem(last=False)

    def request(  # noqa: PLR0917
        self, to: Hit, kind: int, fields: dict[int, Any], token: Any, now: float, wall: float
    ) -> list[Output]:
        """Ask ``to``; the outcome comes as one Answered, Refused or Failed with ``token``.

        Args:
            to: whom.
            kind: a Kind; HELLO needs no fields.
            fields: of the request.
            token: what the events will carry.
            now: monotonic seconds.
            wall: Unix seconds, for HELLO.
        """
        session = self.session(to, now)
        if len(self._pending) >= MAX_PENDING or len(session.pending) >= MAX_PENDING_EACH:
            self.counters[TOO_MANY] += 1
            return [Failed(token, to, TOO_MANY)]
        if session.refused_until > now:
            return [Failed(token, to, "refused us")]
        if kind == Kind.HELLO:
            return self._hello(session, token, now, wall)
        out: list[Output] = []
        if not session.greeted and session.hello is None:
            out = self._hello(session, None, now, wall)
        out.append(self._ask(session, kind, fields, token, now))
        return out

    def _ask(
        self, session: Session, kind: int, fields: dict[int, Any], token: Any, now: float
    ) -> Send:
        if not self._ids:
            self._ids = self._rng(512)
        request_id, self._ids = self._ids[:8], self._ids[8:]
        data = encode_request(kind, request_id, fields)
        wait = max(session.timeout(), SLOW.get(int(kind), 0.0))
        pending = _Pending(session, kind, data, token, now, wait)
        self._pending[request_id] = pending
        session.pending[request_id] = None
        heapq.heappush(self._heap, (pending.at, request_id))
        if kind == Kind.HELLO:
            session.hello = request_id
            pending.bare = _CREDENTIALS not in fields
        return Send(session.hit, data)

    def _hello(self, session: Session, token: Any, now: float, wall: float) -> list[Output]:
        bare = session.bare and self._shows(session.hit)
        features = Feature.SPELL_OUT if session.asks else 0
        fields = self.greeting.fields(self._contact(), wall, bare=bare, features=features)
        return [self._ask(session, Kind.HELLO, fields, token, now)]

    # --- hearing

    def on_message(self, data: bytes, source: Hit, now: float, wall: float) -> list[Output]:
        """A datagram for this overlay came from ``source``, its tag removed."""
        try:
            message = parse(data)
        except UnsupportedMessage as error:
            self.counters[error.reason] += 1
            if error.answer:
                return self._drop_answer(error.request_id, source)
            if not self._stranger_may(source, now):
                return []
            return [Send(source, encode_error(error.request_id, Code.UNSUPPORTED, error.reason))]
        except MalformedMessage as error:
            self.counters[error.reason] += 1
            return []
        if message.answer:
            return self._on_answer(message, source, now, wall)
        return self._on_request(message, source, now, wall)

    def _drop_answer(self, request_id: bytes, source: Hit) -> list[Output]:
        pending = self._pending.get(request_id)
        if pending is None or pending.session.hit != source:
            return []
        return self._settle(request_id, pending, "answer not understood")

    def _stranger_may(self, source: Hit, now: float) -> bool:
        session = self.sessions.get(source)
        if session is not None and session.greeted:
            return session.spend(now)
        return self._strangers.may(source, now)

    def _on_request(self, message: Message, source: Hit, now: float, wall: float) -> list[Output]:
        session = self.sessions.get(source)
        if session is not None and session.greeted and message.kind != Kind.HELLO:
            if not session.spend(now):
                self.counters["neighbour asks too much"] += 1
                return []
            if session.admitted is None or session.admitted.expires > wall + self.offset:
                return [Asked(session, message)]
            session.greeted = False
            session.credentials = None
        if not self._stranger_may(source, now):
            self.counters["strangers ask too much"] += 1
            return []
        if message.kind != Kind.HELLO:
            self.counters["request before HELLO"] += 1
            return [Send(source, encode_error(message.request_id, Code.NOT_GREETED))]
        return self._on_hello(message, source, now, wall)

    def _on_hello(self, message: Message, source: Hit, now: float, wall: float) -> list[Output]:
        try:
            session = self._greet(message.fields, source, now, wall)
        except CredentialsRefused as error:
            self.counters["not admitted"] += 1
            refusal = encode_error(message.request_id, Code.NOT_ADMITTED, str(error))
            return [Send(source, refusal)]
        except MalformedMessage as error:
            self.counters[error.reason] += 1
            refusal = encode_error(message.request_id, Code.VERSION, f"we speak {VERSION}")
            return [Send(source, refusal)]
        bare = not session.features & Feature.SPELL_OUT and self._shows(source)
        fields = self.greeting.fields(self._contact(), wall, bare=bare)
        answer = encode_answer(Kind.HELLO, message.request_id, fields)
        return [Send(source, answer), Greeted(session)]

    def _greet(self, fields: dict[int, Any], source: Hit, now: float, wall: float) -> Session:
        """Judge what a HELLO or its answer showed.

        Raises:
            CredentialsRefused: not admitted.
            MalformedMessage: no common version.
        """
        if fields.get(Field.VERSION) != VERSION:
            raise MalformedMessage("other version")
        credentials = fields.get(Field.CREDENTIALS)
        if credentials is None:
            credentials = self._shown(source) or b""
        session = self.sessions.get(source)
        if session is None or not session.greeted or session.credentials != credentials:
            judged = wall + self.offset
            if not self.calibrated:  # a clock that was lost must not refuse everybody; a later
                judged = max(wall, told_wall(fields))  # is stricter
            admitted = self._admit(credentials, source, judged)  # before any state is kept
            session = self.session(source, now)
            session.admitted, session.credentials = admitted, credentials
        session.greeted = True
        session.refused_until = 0.0
        session.contact = fields.get(Field.CONTACT, b"")
        session.features = fields.get(Field.FEATURES, 0)
        session.boot = fields.get(Field.BOOT, b"")
        session.since = fields.get(Field.SINCE, 0)
        if Field.WALL in fields:
            session.offset = told_wall(fields) - wall
        self.sessions.move_to_end(source)
        return session

    def _on_answer(  # noqa: PLR0911  one for each thing that an answer can be
        self, message: Message, source: Hit, now: float, wall: float
    ) -> list[Output]:
        pending = self._pending.get(message.request_id)
        if pending is None:
            self.counters["answer to nothing"] += 1
            return []
        session = pending.session
        if session.hit != source:
            self.counters["answer from another HIT"] += 1
            return []
        session.answered = now
        if message.kind == Kind.ERROR:
            return self._on_error(message, pending, now, wall)
        if message.kind != pending.kind:
            self.counters["answer of another kind"] += 1
            return self._settle(message.request_id, pending, "answer of another kind")
        if pending.tries == 1 and pending.kind not in SLOW:
            session.sample(now - pending.sent)
        if message.kind == Kind.HELLO:
            return self._on_welcome(message, pending, now, wall)
        if not session.greeted:
            self.counters["answer before HELLO"] += 1
            pending.answer = message.fields  # not believed before it has shown its credentials
            return []
        self._forget(message.request_id, pending)
        return [Answered(pending.token, session, message.fields)]

    def _on_welcome(
        self, message: Message, pending: _Pending, now: float, wall: float
    ) -> list[Output]:
        self._forget(message.request_id, pending)
        session = pending.session
        try:
            self._greet(message.fields, session.hit, now, wall)
        except (CredentialsRefused, MalformedMessage):
            if Field.CREDENTIALS not in message.fields and not session.asks:
                session.asks = True  # it takes for known what we don't know
                return self._hello(session, pending.token, now, wall)
            self.counters["not admitted"] += 1
            return self._refused(pending, Code.NOT_ADMITTED, "showed no good credentials", now)
        out: list[Output] = [Greeted(session)]
        for request_id in list(session.pending):  # those which it answered that it knew us not
            waiting = self._pending[request_id]
            if waiting.answer is not None:
                self._forget(request_id, waiting)
                out.append(Answered(waiting.token, session, waiting.answer))
            elif waiting.greets:
                out.append(Send(session.hit, waiting.data))
        if pending.token is not None:
            out.append(Answered(pending.token, session, message.fields))
        return out

    def _on_error(
        self, message: Message, pending: _Pending, now: float, wall: float
    ) -> list[Output]:
        code = message.fields.get(Field.CODE, 0)
        reason = message.fields.get(Field.REASON, "")
        session = pending.session
        again = pending.kind != Kind.HELLO and pending.greets < MAX_GREETS
        if code == Code.NOT_GREETED and again:
            pending.greets += 1
            return self._hello(session, None, now, wall) if session.hello is None else []
        self._forget(message.request_id, pending)
        if pending.kind == Kind.HELLO:
            if pending.bare and code == Code.NOT_ADMITTED:  # it doesn't know them, or never will
                session.bare = False
                return self._hello(session, pending.token, now, wall)
            self.counters["HELLO refused"] += 1
            return self._refused(pending, code, reason, now)
        return [Refused(pending.token, session.hit, code, reason)]

    def _refused(self, pending: _Pending, code: int, reason: str, now: float) -> list[Output]:
        """A HELLO came to nothing: so do all requests behind it."""
        session = pending.session
        session.greeted = False
        session.refused_until = now + REFUSED_FOR
        out: list[Output] = []
        if pending.token is not None:
            out.append(Refused(pending.token, session.hit, code, reason))
        return out + self._fail_all(session, "refused us")

    # --- time

    def deadline(self) -> float | None:
        """When the next request is late."""
        heap, pending = self._heap, self._pending
        while heap:
            at, request_id = heap[0]
            entry = pending.get(request_id)
            if entry is not None and entry.at == at:
                return at
            heapq.heappop(heap)
        return None

    def on_time(self, now: float) -> list[Output]:
        """Send again, or give up, what is late at ``now``."""
        out: list[Output] = []
        while (at := self.deadline()) is not None and at <= now:
            _, request_id = heapq.heappop(self._heap)
            pending = self._pending[request_id]
            if pending.tries >= TRIES:
                self.counters["request unanswered"] += 1
                # it lives if it has answered a later one: it is overtaxed, or the path is
                alive = pending.session.answered > pending.sent
                out += self._settle(request_id, pending, OVERTAXED if alive else "no answer")
                continue
            pending.tries += 1
            pending.wait *= 2
            pending.at = now + pending.wait
            heapq.heappush(self._heap, (pending.at, request_id))
            if self._connected(pending.session.hit):
                self.counters["request sent again"] += 1
                out.append(Send(pending.session.hit, pending.data))
            if pending.token is not None:
                out.append(Late(pending.token, pending.session.hit))
        return out

    def on_down(self, hit: Hit) -> list[Output]:
        """The association with ``hit`` is gone, or could not be made."""
        session = self.sessions.get(hit)
        return [] if session is None else self._fail_all(session, "association failed")

    def _fail_all(self, session: Session, reason: str) -> list[Output]:
        out: list[Output] = []
        for request_id in list(session.pending):
            out += self._settle(request_id, self._pending[request_id], reason)
        return out

    def _settle(self, request_id: bytes, pending: _Pending, reason: str) -> list[Output]:
        self._forget(request_id, pending)
        if pending.token is None:
            return []
        return [Failed(pending.token, pending.session.hit, reason)]

    def _forget(self, request_id: bytes, pending: _Pending) -> None:
        del self._pending[request_id]
        pending.session.pending.pop(request_id, None)
        if pending.session.hello == request_id:
            pending.session.hello = None

    def in_flight(self) -> int:
        """How many requests wait for an answer."""
        return len(self._pending)
