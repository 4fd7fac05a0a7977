"""What an association stands on: keys and SAs, and what its owner knows of it."""

from hipctl import signed
from hipctl.actions import Action, Address, Flush, Pair, Relayed, Transmit
from hipctl.constants import NotifyType
from hipctl.crypto import Keys
from hipctl.errors import MalformedPacket, Rejected
from hipctl.identity import HostId, HostIdentity
from hipctl.installed import Agreed, Installed
from hipctl.interface import AssociationDown, AssociationUp
from hipctl.sas import Inbound
from hipctl.state import Shared, Waiting
from hipctl.upkeep import Upkeep


class Standing:
    """How ``pair`` stands, whatever the state of RFC 7401.

    Attributes:
        address: where the base exchange found the peer.
        began: when its first I1 was sent or came, monotonic seconds.
        heard_at: when an authentic control packet came last.
        keys: those in force; in CLOSING and CLOSED, those that were.
        host_id: the peer's key, likewise.
        installed: what lives as long as the SAs, while there are any.
    """

    __slots__ = (
        "_identity",
        "_pair",
        "_shared",
        "_up",
        "_waiting",
        "address",
        "began",
        "heard_at",
        "host_id",
        "installed",
        "keys",
    )

    def __init__(self, identity: HostIdentity, pair: Pair, shared: Shared) -> None:
        self.address: Address = ("", 0)
        self.began = self.heard_at = 0.0
        self.keys: Keys | None = None
        self.host_id: HostId | None = None
        self.installed: Installed | None = None
        self._identity = identity
        self._pair = pair
        self._shared = shared
        self._up = False
        self._waiting = Waiting()

    # -- keys and SAs --------------------------------------------------------------------------

    @property
    def upkeep(self) -> Upkeep | None:
        """What keeps the SAs, if there are any."""
        return self.installed.upkeep if self.installed is not None else None

    @property
    def reachable(self) -> bool:
        """Whether there is a path, as far as we know."""
        return self.installed is None or self.installed.upkeep.reachable

    def need_keys(self) -> tuple[Keys, HostId]:
        """``keys`` and ``host_id``.

        Raises:
            Rejected: there are none.
        """
        if self.keys is None or self.host_id is None:
            raise Rejected("no keys")
        return self.keys, self.host_id

    def install(
        self, inbound: Inbound, agreed: Agreed, now: float, *, begun: bool, disclosed: bool
    ) -> None:
        """Put the new SAs into use and remove the old ones; see Installed."""
        patience = None
        if self.installed is not None:
            patience = self.installed.sas.patience
            self._remove()
        self.keys, self.host_id = agreed.keys, agreed.host_id
        self.installed = Installed(
            self._identity,
            self.address,
            inbound,
            agreed,
            self._shared,
            now,
            begun=begun,
            disclosed=disclosed,
            patience=patience,
        )

    def _remove(self) -> None:
        if self.installed is not None:
            self.installed.remove()
        self.installed = None

    def drop(self) -> None:
        """Remove SAs, keys and queue."""
        shared, pair = self._shared, self._pair
        shared.hide_on(pair, self.last_heard())
        self._remove()
        shared.outbound.pop(pair, None)
        shared.desk.forget(pair)
        shared.kept.pop(pair, None)
        shared.serving.lost(pair)
        shared.requester.lost(pair)
        if self._waiting.datagrams:
            shared.counters["queue dropped"] += len(self._waiting.release())
        self.keys = self.host_id = None

    # -- what the peer is told -----------------------------------------------------------------

    def notify(self, what: NotifyType, to: Address, details: bytes = b"") -> Transmit:
        """Make a NOTIFY; ``details``: its Notification Data."""
        return Transmit(signed.make_notify(self._identity, self._pair[1], what, details), to)

    def refuse(self, error: MalformedPacket | Rejected, to: Address, now: float) -> list[Action]:
        """Say why, to somebody who has solved a puzzle (RFC 7401 §5.2.19), but not often."""
        # INVALID_SYNTAX is for packets whose MAC and signature hold only: stay silent.
        self._shared.counters[error.reason] += 1
        if isinstance(error, MalformedPacket) or error.notify is None:
            return []
        if not self._shared.notify_limit.allow("", now):
            return []
        return [self.notify(error.notify, to, error.data)]

    # -- what the owner knows ------------------------------------------------------------------

    def wait(self, next_header: int, payload: bytes) -> None:
        """Let a datagram wait until the association is up; a full queue loses it."""
        if not self._waiting.add(next_header, payload, self._shared.config):
            self._shared.counters["queue full"] += 1

    def come_up(self, now: float) -> list[Action]:
        """Tell the owner, once, and let go what has waited for the SAs."""
        actions: list[Action] = []
        local, peer = self._pair
        if self._pair not in self._shared.outbound:
            return actions
        if not self._up:
            self._up = True
            to, upkeep = self._shared.outbound[self._pair].address, self.upkeep
            if not isinstance(to, Relayed) and not (upkeep is not None and upkeep.relayed):
                self._shared.remember(peer, to)  # and not where relays of its are
            actions.append(AssociationUp(local, peer, now - self.began))
        if self._waiting.datagrams:
            actions.append(Flush(local, peer, self._waiting.release()))
        return actions

    def follow(self, now: float) -> list[Action]:
        """Data may flow once there is a path."""
        installed, pair = self.installed, self._pair
        if installed is None or pair in self._shared.outbound or not self.reachable:
            return []
        self._shared.outbound[pair] = installed.sas.outbound
        return self.come_up(now)

    def down(self, reason: str, *, always: bool = False) -> list[Action]:
        """Tell the owner that there is no association any more; ``always``: nor an attempt."""
        if not self._up and not always:
            return []
        self._up = False
        return [AssociationDown(*self._pair, reason)]

    def last_heard(self) -> float:
        """When the peer was last heard, by data or control."""
        installed = self.installed
        return max(self.heard_at, installed.sas.inbound.heard_at if installed else 0.0)

    def describe(self, now: float) -> dict[str, object]:
        """What ``status`` shows. JSON-ready."""
        told: dict[str, object] = {
            "age": round(now - self.began, 3),
            "address": list(self.address),
        }
        if self.installed is None:
            return told
        heard = round(now - self.last_heard(), 3)
        return told | {"heard": heard} | self.installed.describe(self.began)
