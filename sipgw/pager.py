"""Machine: a request outside any dialog, passed on (MESSAGE, RFC 3428; OPTIONS).

It is asked of every binding and device; the first 2xx is the answer, and without one the best of
the failures. Nothing is answered on anybody's behalf: a 2xx says that the other client took it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sipgw.alarms import Alarm
from sipgw.constants import MAX_FORWARDS
from sipgw.core import Asked, Core, Destination
from sipgw.dialog import Party
from sipgw.forking import BRANCHES, best_of
from sipgw.message import Request, Response, reply
from sipgw.passing import answer, pass_headers

PATIENCE = 20.0  # seconds; below Timer F, so that the client hears it from us


@dataclass(slots=True)
class _Branch:
    party: Party
    final: int | Response | None = None


class Pager:
    """One such request; arguments as those of Call."""

    def __init__(self, core: Core, asked: Asked, caller: str, callee: str) -> None:
        self.id = core.token()
        self._core = core
        self.asked = asked
        self._caller = caller
        self._callee = callee
        self._branches: list[_Branch] = []
        self._open = True
        self._done = False
        self._alarm: Alarm | None = None

    def ring(self, destinations: Sequence[Destination], now: float) -> None:
        """Add branches."""
        if self._alarm is None:
            self._alarm = self._core.alarms.set(now + PATIENCE, self._give_up)
        for destination in destinations[: BRANCHES - len(self._branches)]:
            branch = _Branch(destination.party)
            self._branches.append(branch)
            if len(destination.party) == 3:
                self._connect(branch, destination, now)
            else:
                self._send(branch, destination, now)

    def complete(self, status: int, now: float) -> None:
        """No more branches will come; ``status`` is the answer if there was none at all."""
        self._open = False
        if self._branches:
            self._conclude(now)
        else:
            self.refuse(status, now)

    def refuse(self, status: int, now: float, reason: str = "") -> None:
        """Answer with a failure of our own."""
        self._answer(reply(self.asked.request, status, reason, self._core.token()), now)

    def _connect(self, branch: _Branch, destination: Destination, now: float) -> None:
        def on_connected(ok: bool, at: float) -> None:
            if ok and not self._done:
                self._send(branch, destination, at)
            else:
                self._fail(branch, 480, at)

        party = destination.party
        assert len(party) == 3  # noqa: S101
        self._core.connect(party, on_connected, now)

    def _send(self, branch: _Branch, destination: Destination, now: float) -> None:
        source, core = self.asked.request, self._core
        request = Request(source.method, destination.uri)
        add = request.headers.add
        forwards = source.max_forwards
        add("Max-Forwards", str((MAX_FORWARDS if forwards is None else forwards) - 1))
        add("From", f"{self._caller};tag={core.token()}")
        add("To", self._callee)
        add("Call-ID", core.token())
        add("CSeq", f"1 {source.method}")
        pass_headers(source, request, core.hidden(self.asked.party, source))
        request.body = source.body

        def on_answer(response: Response | None, party: Party, at: float) -> None:
            if response is None:
                self._fail(branch, 408, at)
            elif 200 <= response.status < 300:
                self._succeed(branch, response, party, at)
            elif response.status >= 300:
                self._fail(branch, response, at)

        core.ask(request, destination.party, on_answer, now)

    def _succeed(self, branch: _Branch, response: Response, party: Party, now: float) -> None:
        branch.final = response
        self._pass_back(response, party, now)

    def _pass_back(self, response: Response, party: Party, now: float) -> None:
        hidden = self._core.hidden(party, response)
        passed = answer(self.asked.request, self._core.token(), response, "", hidden)
        passed.body = response.body
        self._answer(passed, now)

    def _fail(self, branch: _Branch, final: int | Response, now: float) -> None:
        if branch.final is None:
            branch.final = final
            self._conclude(now)

    def _conclude(self, now: float) -> None:
        finals = [branch.final for branch in self._branches if branch.final is not None]
        if self._done or self._open or len(finals) < len(self._branches):
            return
        best = best_of(finals)
        if isinstance(best, int):
            self.refuse(best, now)
        else:
            party = next(b.party for b in self._branches if b.final is best)
            self._pass_back(best, party, now)

    def _give_up(self, now: float) -> None:
        self._alarm = None
        self.refuse(480, now)

    def _answer(self, response: Response, now: float) -> None:
        if self._done:
            return
        self._done = True
        if self._alarm is not None:
            self._alarm.stop()
        self._core.respond(self.asked, response, now)
