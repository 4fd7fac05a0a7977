"""Where the clients of our own accounts are: the registrar of RFC 3261 §10.3.

Pure and in memory: clients register again after a restart. Who may register
what is asked of ``holds``; nothing here leaves the peer but ``Registered`` and
``Unregistered``, on which the gateway publishes or withdraws.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any, Final

from sipgw.constants import (
    DEFAULT_EXPIRES,
    LONGEST_EXPIRES,
    MAX_BINDINGS,
    MIN_EXPIRES,
)
from sipgw.errors import MalformedMessage
from sipgw.message import NameAddr, Request, Response, Uri, reply, unescape

_Q = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")
_CONTACTS_IN_ONE_REQUEST: Final = 2 * MAX_BINDINGS  # ours; removals included


@dataclass(frozen=True, slots=True)
class Registered:
    """Event: an AoR that had no binding has one."""

    aor: str


@dataclass(frozen=True, slots=True)
class Unregistered:
    """Event: an AoR has no binding any more."""

    aor: str


Change = Registered | Unregistered


@dataclass(frozen=True, slots=True)
class Binding:
    """One Contact of one AoR.

    Attributes:
        uri: the Contact URI, the Request-URI of what is sent there.
        q: preference, 0 to 1.
        expires_at: monotonic seconds.
        call_id: of the REGISTER that made or refreshed it.
        cseq: of the same.
        source: where that REGISTER came from; requests go there, whatever the URI's host is.
        instance: ``+sip.instance`` and ``reg-id``, None without the former.
        shown: the Contact value for responses, without ``expires``.
    """

    uri: Uri
    q: float
    expires_at: float
    call_id: str
    cseq: int
    source: tuple[Any, int]
    instance: tuple[str, str | None] | None
    shown: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a REGISTER led to.

    Attributes:
        status: of the response.
        reason: its phrase, "" for the usual one.
        headers: to add to the response.
        changes: at most one.
    """

    status: int
    reason: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    changes: tuple[Change, ...] = ()

    def response(self, request: Request, to_tag: str) -> Response:
        """The response to send."""
        made = reply(request, self.status, self.reason, to_tag)
        for name, value in self.headers:
            made.headers.add(name, value)
        return made


class _Refused(Exception):
    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


def aor_of(uri: Uri) -> str:
    """The AoR that a To or Request-URI names: ``sip:user@host``, unescaped, host in lower case.

    Port, parameters and the s of sips are no part of it (§10.3 step 5).

    Raises:
        MalformedMessage: the URI is not sip(s), or has no user.
    """
    if not uri.is_sip or not uri.user:
        raise MalformedMessage("no SIP address-of-record")
    return f"sip:{unescape(uri.user)}@{uri.host.lower()}"


class Registrar:
    """The bindings of all AoRs that the peer holds.

    Args:
        holds: whether an AoR (as ``aor_of`` spells it) is ours.
        min_expires: shorter registrations get 423.
        max_expires: longer ones are cut to this.
        default_expires: if the client says nothing.
        limit: bindings per AoR; the one refreshed longest ago makes room.
    """

    def __init__(
        self,
        holds: Callable[[str], bool],
        *,
        min_expires: int = MIN_EXPIRES,
        max_expires: int = LONGEST_EXPIRES,
        default_expires: int = DEFAULT_EXPIRES,
        limit: int = MAX_BINDINGS,
    ) -> None:
        self._holds = holds
        self._min = min_expires
        self._max = max_expires
        self._default = default_expires
        self._limit = limit
        self._bindings: dict[str, list[Binding]] = {}
        self._next = inf  # no binding expires before

    def on_register(self, request: Request, source: tuple[Any, int], now: float) -> Outcome:
        """Take a REGISTER that ``validate`` found nothing wrong with.

        Either all of its Contacts take effect or none.
        """
        try:
            aor = aor_of(request.to.uri)
            if not self._holds(aor):
                return Outcome(403)
            kept = self._updated(aor, request, source, now)
        except MalformedMessage as error:
            return Outcome(400, error.reason[0].upper() + error.reason[1:])
        except _Refused as refusal:
            return refusal.outcome
        headers = tuple(
            ("Contact", f"{binding.shown};expires={max(1, round(binding.expires_at - now))}")
            for binding in kept
        )
        return Outcome(200, "", headers, tuple(self._store(aor, kept)))

    def lookup(self, aor: str, now: float) -> list[Binding]:
        """The live bindings of an AoR, most preferred first."""
        live = [b for b in self._bindings.get(aor, ()) if b.expires_at > now]
        return sorted(live, key=lambda binding: -binding.q)

    def aors(self) -> list[str]:
        """Every AoR with a binding."""
        return list(self._bindings)

    def aors_at(self, source: tuple[Any, int], now: float) -> list[str]:
        """The AoRs registered from a client's address: who the client may say it is."""
        return [
            aor
            for aor, bindings in self._bindings.items()
            if any(b.source == source and b.expires_at > now for b in bindings)
        ]

    def drop(self, aor: str) -> list[Change]:
        """Forget an AoR, for instance because the peer does not hold it any more."""
        return self._store(aor, [])

    def deadline(self) -> float | None:
        """See sansio.Machine."""
        return None if self._next == inf else self._next

    def on_time(self, now: float) -> list[Change]:
        """Drop what has expired."""
        if now < self._next:
            return []
        changes: list[Change] = []
        for aor, bindings in list(self._bindings.items()):
            changes += self._store(aor, [b for b in bindings if b.expires_at > now])
        expiries = (b.expires_at for bindings in self._bindings.values() for b in bindings)
        self._next = min(expiries, default=inf)
        return changes

    def _store(self, aor: str, bindings: list[Binding]) -> list[Change]:
        had = aor in self._bindings
        if not bindings:
            self._bindings.pop(aor, None)
            if not self._bindings:
                self._next = inf
            return [Unregistered(aor)] if had else []
        self._bindings[aor] = bindings
        for binding in bindings:
            self._next = min(self._next, binding.expires_at)
        return [] if had else [Registered(aor)]

    def _updated(
        self, aor: str, request: Request, source: tuple[Any, int], now: float
    ) -> list[Binding]:
        """The bindings as this REGISTER wants them (§10.3 steps 6 and 7)."""
        kept = [b for b in self._bindings.get(aor, ()) if b.expires_at > now]
        values = request.headers.all("contact")
        if "*" in values:
            if values != ["*"] or request.expires != 0:
                raise MalformedMessage("Contact * needs Expires: 0")
            for binding in kept:
                _check_order(binding, request)
            return []
        if len(values) > _CONTACTS_IN_ONE_REQUEST:
            raise _Refused(Outcome(403, "Too Many Contacts"))
        wanted = [self._binding(c, request, source, now) for c in request.contacts]
        for new in wanted:
            for old in kept:
                if old.uri.same(new.uri):
                    _check_order(old, request)
        return _merged(kept, wanted, now)[-self._limit :]

    def _binding(
        self, contact: NameAddr, request: Request, source: tuple[Any, int], now: float
    ) -> Binding:
        if not contact.uri.is_sip:
            raise MalformedMessage("Contact is no SIP URI")
        params = contact.params
        instance = params.get("+sip.instance")
        others = "".join(
            f";{name}" if value is None else f";{name}={value}"
            for name, value in params.items()
            if name != "expires"
        )
        q = params.get("q") or ""
        return Binding(
            uri=contact.uri,
            q=float(q) if _Q.fullmatch(q) else 1.0,
            expires_at=now + self._granted(params.get("expires"), request),
            call_id=request.call_id,
            cseq=request.cseq.number,
            source=source,
            instance=None if instance is None else (instance, params.get("reg-id")),
            shown=f"<{contact.uri.text}>{others}",
        )

    def _granted(self, asked: str | None, request: Request) -> int:
        if asked is None:
            seconds = request.expires
        elif asked.isascii() and asked.isdigit():
            seconds = int(asked) if len(asked) <= 10 else self._max
        else:
            seconds = None  # §20.10: as if it said nothing
        if seconds is None:
            seconds = self._default
        if 0 < seconds < self._min:
            raise _Refused(Outcome(423, "", (("Min-Expires", str(self._min)),)))
        return min(seconds, self._max)


def _check_order(binding: Binding, request: Request) -> None:
    # §10.3: within one Call-ID only a higher CSeq may change a binding.
    if binding.call_id == request.call_id and request.cseq.number <= binding.cseq:
        raise _Refused(Outcome(500, "CSeq Out of Order"))


def _merged(kept: list[Binding], wanted: list[Binding], now: float) -> list[Binding]:
    instances = {b.instance for b in wanted if b.instance is not None}
    merged = [b for b in kept if b.instance not in instances]
    for new in wanted:  # of two that name the same Contact, the later counts
        merged = [b for b in merged if not b.uri.same(new.uri)]
        if new.expires_at > now:
            merged.append(new)
    return merged
