"""What keeps the NATs between two hosts from forgetting them (RFC 9028 §4.10)."""

from hipctl import signed
from hipctl.actions import Action, Address, Pair, Transmit
from hipctl.constants import NotifyType
from hipctl.identity import HostIdentity
from hipctl.mobility import Mobility
from hipctl.sas import SaPair
from hipctl.state import Shared
from hipctl.traversal import Traversal


class Keepalive:
    """The keepalives of one association that is up.

    Attributes:
        idle: it crosses a NAT, nobody uses it, and others are worth more to be kept open.
    """

    __slots__ = ("_identity", "_pair", "_paths", "_sas", "_shared", "_used", "idle")

    def __init__(  # noqa: PLR0917 - the fields of an association
        self,
        identity: HostIdentity,
        pair: Pair,
        sas: SaPair,
        shared: Shared,
        paths: Mobility | Traversal,
        now: float,
    ) -> None:
        self.idle = False
        self._identity = identity
        self._pair = pair
        self._sas = sas
        self._shared = shared
        self._paths = paths
        self._used = (now, 0, 0)  # when, packets sent, packets received

    @property
    def _serves(self) -> bool:
        """Whether the peer is one that has to be kept: a server of ours, or a friend."""
        return self._pair in self._shared.servers or self._pair in self._shared.friends

    @property
    def matters(self) -> bool:
        """Whether a NAT stands between us, as far as we know."""
        crosses = isinstance(self._paths, Traversal) or self._shared.natted(self._pair[0])
        return self._serves or crosses

    def next(self, now: float) -> float:
        """When to ``send``.

        All associations wake up at the same time: a radio sleeps in between.
        """
        period = self._shared.config.keepalive
        return (now // period + 1) * period

    def send(self, now: float, latest: tuple[Address, float] | None) -> list[Action]:
        """Remind NATs of us where that is owed, or see that it isn't.

        Args:
            now: monotonic seconds.
            latest: where our last UPDATE went, and when.
        """
        shared, pair, paths = self._shared, self._pair, self._paths
        since, sent_before, received_before = self._used
        sent, received = self._sas.outbound.sa.packets, self._sas.inbound.sa.packets
        serves = self._serves
        if (sent, received) != (sent_before, received_before):
            self._used = (now, sent, received)
            if not serves:
                shared.keep(pair)
            if sent != sent_before:
                return []
        elif not serves and pair not in shared.kept:
            self.idle = now - since >= shared.config.idle_lifetime
            return []
        if not paths.reachable:
            return []
        path = paths.path()
        to, at = latest if latest is not None else (None, 0.0)
        if to == path.to and now - at < shared.config.keepalive:
            return []
        shared.counters["keepalives sent"] += 1
        notify = signed.make_notify(self._identity, pair[1], NotifyType.NAT_KEEPALIVE)
        return [Transmit(notify, path.to, path.source)]
