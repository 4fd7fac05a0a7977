"""Engine: what clients and other gateways may ask outside a dialog, and where it goes.

Pure: datagrams, answers of the overlay and ``now`` in, actions out. A client is known by the
source of its registration and speaks as nobody but the AoR it registered; a gateway is known by
the HIT of its association, and whether that HIT may speak as the From it sends is asked before
anything else (``sip.md`` §1).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from hipctl import Hit
from overlay import Evidence, MalformedAor, Target, Verdict, canonical_aor
from sipgw import emergency, stun
from sipgw.actions import Action, Publish, Resolve, Transmit, Verify, Withdraw
from sipgw.call import Call
from sipgw.core import Asked, Destination, Media
from sipgw.dialog import Address, Overlay, Party, client_address
from sipgw.echo import USER as ECHO
from sipgw.echocall import EchoCall
from sipgw.message import NameAddr, Request, Response, Uri, reply, unescape
from sipgw.pager import Pager
from sipgw.passing import SDP, hides_sdp
from sipgw.registrar import Change, Registered, Registrar
from sipgw.switch import House, Limits, Running, Switch

WAIT_RESOLVE: Final = 6.0  # seconds for a lookup, then 480
WAIT_VERIFY: Final = 6.0  # seconds for the proof of a caller's name, then it is unproven
OTHERS_KNOWN: Final = 30.0  # seconds for which an AoR of ours is known to have no other device
PENDING: Final = 2000  # questions to the overlay that may wait for their answer
DOUBTS: Final = 20  # unproven names of one HIT in DOUBT seconds until it is believed none
DOUBT: Final = 60.0
DOUBTED: Final = 1000  # HITs of which that is remembered
REACH_AGAIN: Final = 3.0  # seconds between attempts to get a lost association of a call back
MEDIA_CHECK: Final = 60.0  # seconds between looks at whether calls still carry media
ALLOW: Final = "INVITE, ACK, CANCEL, BYE, OPTIONS, MESSAGE, REGISTER, INFO, UPDATE, PRACK, REFER"
IN_DIALOG: Final = frozenset({"BYE", "INFO", "UPDATE", "PRACK", "NOTIFY", "REFER"})


class Router:
    """One gateway.

    Args:
        listen: where clients reach it.
        media: where ports come from.
        rng: ``rng(n)`` gives n unpredictable bytes.
        house: see House.
        limits: see Limits.
    """

    def __init__(
        self,
        listen: Address,
        media: Media,
        rng: Callable[[int], bytes],
        house: House,
        limits: Limits,
    ) -> None:
        self.switch = Switch(listen, media, rng, house, limits=limits, on_request=self._on_request)
        self.registrar = Registrar(lambda aor: aor in house.aors())
        self._listen = listen
        self._house = house
        self._limits = limits
        self._resolving: dict[int, tuple[Call | Pager, str, Hit]] = {}
        self._verifying: dict[int, tuple[Asked, str, str]] = {}
        self._alone_until: dict[str, float] = {}
        self._missing: dict[Hit, float] = {}
        self._doubts: dict[Hit, tuple[int, float]] = {}  # unproven names, counted since

    # Inputs.

    def on_datagram(self, data: bytes, party: Party, now: float) -> list[Action]:
        """Take a datagram of a client or gateway."""
        if data[:1] < b"\x02" and data and len(party) == 2:
            alive = stun.answer(data, party)
            if alive is not None:
                return [Transmit(alive, party)]
        self.switch.feed(data, party, now)
        return self._flush()

    def on_resolved(
        self, key: int, targets: Sequence[Target] | None, found: bool, now: float
    ) -> list[Action]:
        """Answer of Resolve.

        Args:
            key: of the question.
            targets: the devices; empty or None if there are none.
            found: False if the overlay could not be asked.
            now: the time.
        """
        waiting = self._resolving.pop(key, None)
        if waiting is not None:
            self._ring_devices(*waiting, targets or (), found, now)
        return self._flush()

    def on_verified(self, key: int, proven: bool, now: float) -> list[Action]:
        """Answer of Verify."""
        waiting = self._verifying.pop(key, None)
        if waiting is not None:
            if not proven:
                self._doubt(waiting[0].party, now)
            self._admit(*waiting, proven, now)
        return self._flush()

    def on_connected(self, key: int, ok: bool, now: float) -> list[Action]:
        """Answer of Connect."""
        self.switch.on_connected(key, ok, now)
        return self._flush()

    def on_association(self, peer: Hit, up: bool, now: float) -> list[Action]:
        """An association came or went: calls over one that stays away end."""
        if up:
            self._missing.pop(peer, None)
        elif peer not in self._missing and self._calls_with(peer):
            self._missing[peer] = now
            at = now + self._limits.peer_timeout
            self.switch.alarms.set(at, partial(self._on_peer_gone, peer, now))
            self._reach(peer, now)
        return self._flush()

    def stop(self, now: float) -> list[Action]:
        """Hang up everything, withdraw nothing: registrations outlive a restart."""
        for call in list(self.switch.calls.values()):
            call.hang_up("gateway stopped", now)
        return self._flush()

    def deadline(self) -> float | None:
        """See sansio.Machine."""
        one, other = self.switch.deadline(), self.registrar.deadline()
        return one if other is None else other if one is None else min(one, other)

    def on_time(self, now: float) -> list[Action]:
        """See sansio.Machine."""
        self._changed(self.registrar.on_time(now))
        self.switch.tick(now)
        return self._flush()

    def _flush(self) -> list[Action]:
        actions, self.switch.actions = self.switch.actions, []
        return actions

    # Requests outside a dialog.

    def _on_request(self, asked: Asked, now: float) -> None:
        request = asked.request
        if request.method == "INVITE" and hides_sdp(request):
            response = self._reply(asked, 415)
            response.headers.add("Accept", SDP)
            self.switch.respond(asked, response, now)
        elif request.method in _ELSEWHERE:
            status = _ELSEWHERE[request.method]
            response = self._reply(asked, status)
            if status == 405:
                response.headers.add("Allow", ALLOW)
            self.switch.respond(asked, response, now)
        elif len(asked.party) == 3:
            self._from_gateway(asked, now)
        elif request.method == "REGISTER":
            self._register(asked, asked.party, now)
        elif request.method in ("INVITE", "MESSAGE", "OPTIONS"):
            self._from_client(asked, asked.party, now)
        else:
            self._refuse(asked, 501, now)

    def _from_client(self, asked: Asked, party: Address, now: float) -> None:
        request = asked.request
        if emergency.is_emergency(request.uri):
            self.switch.counters["emergency refused"] += 1
            response = emergency.refusal(request, self.switch.token())
            self.switch.respond(asked, response, now)
            return
        uri = request.request_uri
        if request.method == "OPTIONS" and (not uri.user or self._ours(uri)):
            self._options(asked, now)
            return
        caller = self._account(request, party, now)
        if caller is None:
            self.switch.counters["From is not registered from there"] += 1
            self._refuse(asked, 403, now)
            return
        if not uri.is_sip:
            self._refuse(asked, 404 if uri.scheme == "tel" else 416, now)
            return
        self._place(asked, caller, uri, now)

    def _place(self, asked: Asked, caller: str, uri: Uri, now: float) -> None:
        """A registered client calls, or writes to, a URI."""
        request = asked.request
        callee = self._dialled(uri)
        if callee is None:
            self._refuse(asked, 404, now)
            return
        attempt: Call | Pager
        sender = _name_addr(request.from_, caller)
        if request.method != "INVITE":
            attempt = Pager(self.switch, asked, sender, f"<{callee}>")
        elif self.switch.full(asked.party):
            self._refuse(asked, 503, now)
            return
        elif unescape(uri.user).lower() == ECHO:
            self._echo(asked, caller, now)
            return
        else:
            attempt = self._call(asked, sender, f"<{callee}>", now)
            self.switch.mark(attempt.id, "invite", f"{caller} -> {callee}")
        self._ring_everywhere(attempt, callee, self._house.aors()[caller], now)

    def _call(self, asked: Asked, sender: str, to: str, now: float) -> Call:
        self.switch.respond(asked, reply(asked.request, 100), now)
        call = Call(self.switch, asked, sender, to)
        asked.on_cancel = call.on_cancel
        self._watch(call, now)
        return call

    def _echo(self, asked: Asked, caller: str, now: float) -> None:
        echo = EchoCall(self.switch, asked)
        self._watch(echo, now)
        self.switch.mark(echo.id, "invite", f"{caller} -> echo")
        echo.start(now)

    def _watch(self, call: Call | EchoCall, now: float) -> None:
        if not self.switch.calls and self._limits.media_timeout:
            self.switch.alarms.set(now + MEDIA_CHECK, self._look_at_media)
        self.switch.begin(call)

    # Where it goes.

    def _ring_everywhere(self, attempt: Call | Pager, aor: str, local: Hit, now: float) -> None:
        """Ring our own clients at once, and ask the overlay for other devices."""
        ours = aor in self._house.aors()
        bindings = self._bindings(aor, now) if ours else []
        bindings = [b for b in bindings if b.party != attempt.asked.party]  # not the caller's own
        if bindings:
            attempt.ring(bindings, now)
            if self._alone_until.get(aor, 0.0) > now:
                attempt.complete(480, now)
                return
        if len(self._resolving) >= PENDING:
            attempt.complete(503, now)
            return
        key = self.switch.key()
        self._resolving[key] = attempt, aor, local
        self.switch.alarms.set(now + WAIT_RESOLVE, lambda at: self._on_unresolved(key, at))
        self.switch.actions.append(Resolve(key, aor))

    def _on_unresolved(self, key: int, now: float) -> None:
        waiting = self._resolving.pop(key, None)
        if waiting is not None:
            self._ring_devices(*waiting, (), False, now)

    def _ring_devices(  # noqa: PLR0917
        self,
        attempt: Call | Pager,
        aor: str,
        local: Hit,
        targets: Sequence[Target],
        found: bool,
        now: float,
    ) -> None:
        aors = self._house.aors()
        own = set(aors.values())
        devices = [target for target in targets if target.hit not in own]
        if aor in aors and found and not devices:
            self._alone_until[aor] = now + OTHERS_KNOWN
        step = "resolve" if found and targets else "failed"
        self.switch.mark(attempt.id, step, f"{len(devices)} devices")
        if devices:
            parties: list[Overlay] = [(local, target.hit, target.port) for target in devices]
            attempt.ring([Destination(party, aor) for party in parties], now)
        attempt.complete(480 if aor in aors or targets or not found else 404, now)

    def _bindings(self, aor: str, now: float) -> list[Destination]:
        return [
            Destination(client_address(b.uri, b.source), b.uri.text)
            for b in self.registrar.lookup(aor, now)
        ]

    def _dialled(self, uri: Uri) -> str | None:
        """The AoR that a client means by a Request-URI; None if it can be nobody's."""
        domains = self._house.domains()
        name = unescape(uri.user)
        host = uri.host.lower()
        here = host in domains or host == self._listen[0] or host == "localhost"
        if here and name:
            known = self._house.petname(name)
            if known is not None:
                return known
        if here and host not in domains and domains:
            host = domains[0]
        try:
            return canonical_aor(f"sip:{uri.user}@{host}")
        except MalformedAor:
            return None

    # Clients.

    def _register(self, asked: Asked, party: Address, now: float) -> None:
        outcome = self.registrar.on_register(asked.request, party, now)
        response = outcome.response(asked.request, self.switch.token())
        self._changed(outcome.changes)
        self.switch.respond(asked, response, now)

    def _changed(self, changes: Sequence[Change]) -> None:
        for change in changes:
            action = Publish if isinstance(change, Registered) else Withdraw
            self.switch.actions.append(action(change.aor))

    def _account(self, request: Request, party: Address, now: float) -> str | None:
        """The AoR that a client may speak as: the one of its From, if registered from there."""
        try:
            aor = canonical_aor(request.from_.uri.aor)
        except MalformedAor:
            return None
        if aor not in self._house.aors():
            return None
        for binding in self.registrar.lookup(aor, now):
            if party in (binding.source, client_address(binding.uri, binding.source)):
                return aor
        return None

    def _ours(self, uri: Uri) -> bool:
        return (uri.host, uri.port or 5060) == self._listen

    def _options(self, asked: Asked, now: float) -> None:
        response = self._reply(asked, 200)
        response.headers.add("Allow", ALLOW)
        response.headers.add("Accept", "application/sdp, text/plain, message/cpim")
        self.switch.respond(asked, response, now)

    # Gateways.

    def _from_gateway(self, asked: Asked, now: float) -> None:
        request = asked.request
        if request.method not in ("INVITE", "MESSAGE", "OPTIONS"):
            self._refuse(asked, 501, now)
            return
        if len(self._verifying) >= PENDING:
            self._refuse(asked, 503, now)
            return
        try:
            caller = canonical_aor(request.from_.uri.aor)
            callee = canonical_aor(request.uri)
        except MalformedAor:
            self._refuse(asked, 404, now)
            return
        if request.method == "INVITE":
            self.switch.respond(asked, reply(request, 100), now)
        party = asked.party
        assert len(party) == 3  # noqa: S101
        if self._doubted(party[1], now):
            self._admit(asked, caller, callee, False, now)
            return
        key = self.switch.key()
        self._verifying[key] = asked, caller, callee
        self.switch.alarms.set(now + WAIT_VERIFY, lambda at: self._on_unverified(key, at))
        if request.method == "INVITE":
            asked.on_cancel = lambda at: self._on_early_cancel(key, at)
        self.switch.actions.append(Verify(key, caller, party[1]))

    def _on_early_cancel(self, key: int, now: float) -> None:
        waiting = self._verifying.pop(key, None)
        if waiting is not None:
            self._refuse(waiting[0], 487, now)

    def _on_unverified(self, key: int, now: float) -> None:
        waiting = self._verifying.pop(key, None)
        if waiting is not None:
            self._doubt(waiting[0].party, now)
            self._admit(*waiting, False, now)

    def _doubt(self, party: Party, now: float) -> None:
        """Count a name that was not proven: each cost the overlay a lookup."""
        assert len(party) == 3  # noqa: S101
        count, since = self._doubts.pop(party[1], (0, now))
        self._doubts[party[1]] = (count + 1, since) if now - since < DOUBT else (1, now)
        if len(self._doubts) > DOUBTED:
            del self._doubts[next(iter(self._doubts))]

    def _doubted(self, hit: Hit, now: float) -> bool:
        count, since = self._doubts.get(hit, (0, now))
        return count >= DOUBTS and now - since < DOUBT

    def _admit(self, asked: Asked, caller: str, callee: str, proven: bool, now: float) -> None:
        """Ring for a stranger, or answer as if the callee did not exist."""
        party, request = asked.party, asked.request
        evidence = Evidence(request.method, caller, callee, proven, contact=False, blocked=False)
        verdict = self._house.judge(evidence)
        refused = verdict is Verdict.REFUSE or not proven
        held = self._house.aors().get(callee) == party[0]
        if refused or not held:
            self.switch.counters["caller refused" if held else "callee not here"] += 1
            self._refuse(asked, 404, now)
            return
        bindings = self._bindings(callee, now)
        attempt: Call | Pager
        sender = _name_addr(request.from_, caller)
        if request.method != "INVITE":
            attempt = Pager(self.switch, asked, sender, f"<{callee}>")
        elif self.switch.full(asked.party):
            self._refuse(asked, 503, now)
            return
        else:
            attempt = Call(self.switch, asked, sender, f"<{callee}>")
            asked.on_cancel = attempt.on_cancel
            self._watch(attempt, now)
            self.switch.mark(attempt.id, "invite", f"{caller} -> {callee}")
        attempt.ring(bindings, now)
        attempt.complete(480, now)

    # Ends.

    def _calls_with(self, peer: Hit) -> list[Running]:
        return [
            call
            for call in self.switch.calls.values()
            if any(len(party) == 3 and party[1] == peer for party in call.parties)
        ]

    def _reach(self, peer: Hit, now: float) -> None:
        """Have the association of a call again: on hold nobody else would."""
        if peer not in self._missing:
            return
        for call in self._calls_with(peer):
            for party in call.parties:
                if len(party) == 3 and party[1] == peer:
                    self.switch.connect(party, partial(self._on_reached, peer), now)
                    return

    def _on_reached(self, peer: Hit, ok: bool, now: float) -> None:
        if ok:
            self._missing.pop(peer, None)
        else:
            self.switch.alarms.set(now + REACH_AGAIN, lambda at: self._reach(peer, at))

    def _on_peer_gone(self, peer: Hit, since: float, now: float) -> None:
        if self._missing.get(peer) == since:
            del self._missing[peer]
            for call in self._calls_with(peer):
                call.hang_up("the other peer is gone", now)

    def _look_at_media(self, now: float) -> None:
        for call in list(self.switch.calls.values()):
            if call.packets != call.heard or not call.heard_at:
                call.heard, call.heard_at = call.packets, now
            elif now - call.heard_at >= self._limits.media_timeout:
                call.hang_up("no media", now)
        if self.switch.calls:
            self.switch.alarms.set(now + MEDIA_CHECK, self._look_at_media)

    def _reply(self, asked: Asked, status: int) -> Response:
        return reply(asked.request, status, "", self.switch.token())

    def _refuse(self, asked: Asked, status: int, now: float) -> None:
        self.switch.respond(asked, self._reply(asked, status), now)


# What has no meaning outside a dialog, or none here, and the status that says so.
_ELSEWHERE: Final = {
    **dict.fromkeys(IN_DIALOG, 481),
    "SUBSCRIBE": 489,
    "PUBLISH": 405,
}


def _name_addr(claimed: NameAddr, aor: str) -> str:
    """From towards the callee: the proven AoR, with the name that its user chose to show."""
    return str(NameAddr(claimed.display, Uri.parse(aor), {}))
