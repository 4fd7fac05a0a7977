"""The transaction layer: which machine a message belongs to, and whose timer is next.

Pure: datagrams and ``now`` in, actions and events out. Thousands of
transactions at once: a table by key, a heap of wake-up times, both bounded.
"""

from collections import Counter, deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from math import inf
from typing import Any

from sipgw.constants import (
    DEFAULT_PORT,
    MAGIC_COOKIE,
    MAX_FINISHED,
    MAX_FINISHED_BYTES,
    MAX_PER_GATEWAY,
    MAX_TRANSACTIONS,
)
from sipgw.errors import MalformedMessage, TooManyTransactions
from sipgw.message import Request, Response, Via, is_keepalive, parse, reply
from sipgw.transaction import (
    AckReceived,
    Action,
    Address,
    CancelReceived,
    ClientTransaction,
    RequestReceived,
    Send,
    ServerTransaction,
    State,
    StrayResponse,
    TimerConfig,
    cancel_for,
)
from sipgw.validate import refuse, validate, validate_response

Key = tuple[Any, ...]
_Transaction = ServerTransaction | ClientTransaction
_HEAP_SLACK = 4096  # stale wake-ups tolerated before the heap is rebuilt


class TransactionLayer:
    """All transactions over one transport.

    Args:
        rng: ``rng(n)`` gives n unpredictable bytes.
        sent_by: ``host:port`` for our Via headers.
        transport: name for our Via headers.
        symmetric: answer to where the request came from, whatever its Via says. False follows
            §18.2.2 and RFC 3581: the source's port only if the client asked with rport. With it
            a source's host is somebody, and has a share of the table.
        timers: see TimerConfig.
        limit: transactions that still matter; a request beyond it gets 503.
        share: requests of one source among them, if ``symmetric``.
        max_finished: transactions kept only to absorb retransmissions; the oldest goes first.

    Attributes:
        counters: what was dropped or refused, by constant reason.
    """

    def __init__(
        self,
        rng: Callable[[int], bytes],
        *,
        sent_by: str,
        transport: str = "UDP",
        symmetric: bool = False,
        timers: TimerConfig | None = None,
        limit: int = MAX_TRANSACTIONS,
        share: int = MAX_PER_GATEWAY,
        max_finished: int = MAX_FINISHED,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._rng = rng
        self._via = f"SIP/2.0/{transport} {sent_by}"
        self._symmetric = symmetric
        self._timers = timers or TimerConfig()
        self._limit = limit
        self._share = share
        self._shares: Counter[Any] = Counter()  # requests that matter, by source's host
        self._max_absorbing = max_finished
        self._servers: dict[Key, ServerTransaction] = {}
        self._clients: dict[Key, ClientTransaction] = {}
        self._accepted: dict[Key, ServerTransaction] = {}  # 2xx sent, by dialog
        self._absorbing: deque[_Transaction] = deque()
        self._absorbing_alive = 0
        self._absorbing_bytes = 0  # of all in the queue, terminated ones included
        self._alive: dict[int, _Transaction] = {}
        self._wakes: list[tuple[float, int]] = []  # heap of (when, serial)
        self._serial = 0

    def __len__(self) -> int:
        return len(self._alive)

    # Inputs

    def on_datagram(self, data: bytes, source: Address, now: float) -> list[Action]:
        """Take a datagram from the network; keepalives and what is no message are counted."""
        try:
            message = parse(data)
        except MalformedMessage as error:
            self.counters["keepalive" if is_keepalive(data) else error.reason] += 1
            return []
        return self.on_message(message, source, now)

    def on_message(self, message: Request | Response, source: Address, now: float) -> list[Action]:
        """Take a parsed message from the network.

        A request that ``validate`` finds fault with is answered here; the user layer sees only
        requests and responses whose mandatory headers can be read.
        """
        if isinstance(message, Response):
            return self._on_response(message, source, now)
        try:
            via = message.via
        except MalformedMessage as error:
            return self._unroutable(message, source, error.reason)
        key = _server_key(message, via, source)
        known = self._servers.get(key)
        if message.method == "ACK":
            return self._on_ack(message, known, source, now)
        if known is not None:
            actions = known.on_request()
            if not actions:
                self.counters["absorbed request"] += 1
            return actions
        return self._on_new_request(message, via, key, source, now)

    def send_request(
        self, request: Request, to: Address, now: float
    ) -> tuple[ClientTransaction, list[Action]]:
        """Start a client transaction; our Via is put on top of ``request``. Not for ACK.

        Raises:
            TooManyTransactions: the table is full.
        """
        branch = self.new_branch()
        request.headers.prepend("Via", f"{self._via};branch={branch};rport")
        return self._start_client(request, branch, to, now)

    def ack(self, request: Request, to: Address) -> Send:
        """Send an ACK for a 2xx: no transaction, a branch of its own (§13.2.2.4)."""
        request.headers.prepend("Via", f"{self._via};branch={self.new_branch()};rport")
        return Send(request.encode(), to)

    def respond(
        self, transaction: ServerTransaction, response: Response, now: float
    ) -> list[Action]:
        """Answer a request; see ServerTransaction.respond."""
        was_absorbing = transaction.absorbing
        actions = transaction.respond(response, now)
        if not actions:
            self.counters["response too late"] += 1
            return actions
        if transaction.state is State.ACCEPTED and transaction.dialog_key is None:
            dialog_key = _dialog_key(transaction.request, transaction.source)
            transaction.dialog_key = dialog_key
            self._accepted[dialog_key] = transaction
        self._settle(transaction, was_absorbing)
        return actions

    def reply(
        self, transaction: ServerTransaction, status: int, reason: str, now: float
    ) -> list[Action]:
        """Answer a request with a bare response; ``reason`` "" means the usual phrase."""
        return self.respond(transaction, transaction.reply(status, reason), now)

    def cancel(self, transaction: ClientTransaction, now: float) -> list[Action]:
        """Give up an INVITE of ours: CANCEL goes out at once, or after the first provisional.

        The final response, 487 as a rule, still comes as an event; TimedOut if it does not.
        """
        if transaction.cancelled or transaction.finished or not transaction.invite:
            return []
        transaction.cancelled = True
        return self._send_cancel(transaction, now) if _may_cancel(transaction) else []

    def deadline(self) -> float | None:
        """See sansio.Machine."""
        wakes, alive = self._wakes, self._alive
        while wakes:
            at, serial = wakes[0]
            transaction = alive.get(serial)
            if transaction is not None and transaction.wake == at:
                return at
            heappop(wakes)
        return None

    def on_time(self, now: float) -> list[Action]:
        """See sansio.Machine."""
        actions: list[Action] = []
        while self._wakes and self._wakes[0][0] <= now:
            at, serial = heappop(self._wakes)
            transaction = self._alive.get(serial)
            if transaction is None or transaction.wake != at:
                continue
            transaction.wake = inf
            was_absorbing = transaction.absorbing
            actions += transaction.on_time(now)
            if transaction.state is State.TERMINATED:
                self._forget(transaction, was_absorbing)
            else:
                self._settle(transaction, was_absorbing)
        return actions

    def new_branch(self) -> str:
        """A branch for a Via of our own."""
        return MAGIC_COOKIE + self._rng(10).hex()

    # Requests

    def _on_new_request(
        self, request: Request, via: Via, key: Key, source: Address, now: float
    ) -> list[Action]:
        to = source
        params = via.params
        if "rport" in params or "received" in params or via.host != source[0]:
            request.headers.replace_first("Via", str(via.seen_from(str(source[0]), source[1])))
        if not self._symmetric and "rport" not in params:
            to = (source[0], via.port or DEFAULT_PORT)
        verdict = validate(request)
        if verdict is not None:
            self.counters[f"refused {verdict[0]}"] += 1
            return [Send(refuse(request, verdict, self._rng(8).hex()).encode(), to)]
        full = len(self._alive) - self._absorbing_alive >= self._limit
        if full or (self._symmetric and self._shares[source[0]] >= self._share):
            self.counters["too many transactions" if full else "too many of one source"] += 1
            busy = reply(request, 503, "", self._rng(8).hex())
            busy.headers.add("Retry-After", "5")
            return [Send(busy.encode(), to)]
        transaction = ServerTransaction(
            key,
            request,
            source=source,
            to=to,
            tag=self._rng(8).hex(),
            timers=self._timers,
            now=now,
        )
        self._servers[key] = transaction
        self._shares[source[0]] += 1
        self._admit(transaction)
        if request.method == "CANCEL":
            return self._on_cancel(transaction, now)
        return [RequestReceived(transaction, request, source)]

    def _on_cancel(self, cancel: ServerTransaction, now: float) -> list[Action]:
        target = self._servers.get((*cancel.key[:-1], "INVITE"))
        if target is None:
            return self.reply(cancel, 481, "", now)
        cancel.tag = target.tag
        actions = self.reply(cancel, 200, "", now)
        if not target.finished:
            actions.append(CancelReceived(target, cancel.request))
        return actions

    def _on_ack(
        self, ack: Request, known: ServerTransaction | None, source: Address, now: float
    ) -> list[Action]:
        if known is not None and known.state is not State.ACCEPTED:
            was_absorbing = known.absorbing
            known.on_ack(now)  # hop by hop: ends here
            self._settle(known, was_absorbing)
            return []
        if validate(ack) is not None:
            self.counters["bad ACK"] += 1
            return []
        accepted = known or self._accepted.get(_dialog_key(ack, source))
        if accepted is not None:
            was_absorbing = accepted.absorbing
            accepted.on_ack(now)
            self._settle(accepted, was_absorbing)
        return [AckReceived(ack, accepted, source)]

    def _unroutable(self, request: Request, source: Address, reason: str) -> list[Action]:
        self.counters[reason] += 1
        if request.method == "ACK" or "via" not in request.headers:
            return []
        verdict = validate(request) or (400, reason)
        return [Send(refuse(request, verdict, self._rng(8).hex()).encode(), source)]

    # Responses

    def _on_response(self, response: Response, source: Address, now: float) -> list[Action]:
        fault = validate_response(response)
        if fault is not None:
            self.counters[fault] += 1
            return []
        method = response.cseq.method
        transaction = self._clients.get((response.via.branch, method))
        if transaction is None:
            if method == "INVITE" and 200 <= response.status < 300:
                return [StrayResponse(response, source)]
            self.counters["stray response"] += 1
            return []
        was_absorbing = transaction.absorbing
        actions = transaction.on_response(response, now)
        if transaction.cancelled and transaction.state is State.PROCEEDING:
            actions += self._send_cancel(transaction, now)
        self._settle(transaction, was_absorbing)
        return actions

    def _start_client(
        self, request: Request, branch: str, to: Address, now: float
    ) -> tuple[ClientTransaction, list[Action]]:
        if len(self._alive) - self._absorbing_alive >= self._limit:
            raise TooManyTransactions
        transaction = ClientTransaction((branch, request.method), request, to, self._timers, now)
        self._clients[transaction.key] = transaction
        self._admit(transaction)
        return transaction, transaction.start()

    def _send_cancel(self, transaction: ClientTransaction, now: float) -> list[Action]:
        if transaction.cancel_sent:
            return []
        branch: str = transaction.key[0]
        transaction.give_up(now)
        self._arm(transaction)
        try:
            cancel = cancel_for(transaction.request)
            return self._start_client(cancel, branch, transaction.to, now)[1]
        except TooManyTransactions:
            self.counters["too many transactions"] += 1
            return []

    # The table

    def _admit(self, transaction: _Transaction) -> None:
        self._serial += 1
        transaction.serial = self._serial
        self._alive[self._serial] = transaction
        self._arm(transaction)

    def _arm(self, transaction: _Transaction) -> None:
        """See to it that the transaction is woken no later than its next timer."""
        at = min(transaction.retransmit_at, transaction.expires_at)
        if at < transaction.wake:
            transaction.wake = at
            heappush(self._wakes, (at, transaction.serial))
            if len(self._wakes) > 2 * len(self._alive) + _HEAP_SLACK:
                self._wakes = [(t.wake, serial) for serial, t in self._alive.items()]
                heapify(self._wakes)

    def _settle(self, transaction: _Transaction, was_absorbing: bool) -> None:
        """After an input: arm its timers; make room if all it does from now on is absorb."""
        self._arm(transaction)
        if was_absorbing or not transaction.absorbing:
            return
        self._absorbing_alive += 1
        transaction.size = transaction.request.size
        self._absorbing_bytes += transaction.size
        if isinstance(transaction, ServerTransaction):
            self._leave_share(transaction)
        absorbing = self._absorbing
        absorbing.append(transaction)
        while (
            absorbing[0].state is State.TERMINATED
            or len(absorbing) > self._max_absorbing
            or self._absorbing_bytes > MAX_FINISHED_BYTES
        ):
            oldest = absorbing.popleft()
            self._absorbing_bytes -= oldest.size
            if oldest.state is not State.TERMINATED:
                oldest.state = State.TERMINATED
                self._forget(oldest, was_absorbing=True)
            if not absorbing:
                break

    def _forget(self, transaction: _Transaction, was_absorbing: bool) -> None:
        if was_absorbing:
            self._absorbing_alive -= 1
        elif isinstance(transaction, ServerTransaction):
            self._leave_share(transaction)
        del self._alive[transaction.serial]
        if isinstance(transaction, ServerTransaction):
            del self._servers[transaction.key]
            key = transaction.dialog_key
            if key is not None and self._accepted.get(key) is transaction:
                del self._accepted[key]
        else:
            del self._clients[transaction.key]

    def _leave_share(self, transaction: ServerTransaction) -> None:
        host = transaction.source[0]
        self._shares[host] -= 1
        if not self._shares[host]:
            del self._shares[host]


def _may_cancel(transaction: ClientTransaction) -> bool:
    return transaction.state is State.PROCEEDING  # §9.1: not before a provisional response


def _server_key(request: Request, via: Via, source: Address) -> Key:
    """What a request and its retransmissions, CANCEL and ACK share (§17.2.3), method last.

    The sender's host is part of it: nobody else can cancel, or be mistaken for the client.
    """
    method = "INVITE" if request.method == "ACK" else request.method
    branch = via.params.get("branch")
    if branch is not None and branch.startswith(MAGIC_COOKIE) and len(branch) > len(MAGIC_COOKIE):
        return (source[0], branch, via.host, via.port, method)
    headers = request.headers  # a client of RFC 2543
    number = (headers.first("cseq") or "").partition(" ")[0]
    call_id, from_ = headers.first("call-id"), headers.first("from")
    return (source[0], request.uri, call_id, from_, number, str(via), method)


def _dialog_key(request: Request, source: Address) -> Key:
    return source[0], request.call_id, request.from_.tag, request.cseq.number
