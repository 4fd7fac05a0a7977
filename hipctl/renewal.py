"""When an association gets new keys, how long the rekey may take, and when the old ones go."""

from enum import Enum
from typing import Final, Protocol

from hipctl.actions import Action
from hipctl.mobility import Mobility
from hipctl.outbox import Outbox
from hipctl.rekey import Rekeying, Said
from hipctl.sas import SaPair
from hipctl.state import Shared
from hipctl.traversal import Traversal

_REKEY_PATIENCE: Final = 15.0  # seconds that an acknowledged rekey waits for the peer's half
_UNUSED_OLD_SA: Final = 6  # times old_sa_lifetime, where the new SA is not used at all


class Age(Enum):
    """What keys wait for."""

    REKEY = "the keys get old"
    PATIENCE = "the peer's half of a rekey has not come"
    OLD_SA = "nothing more comes under the SA before"


class Alarms(Protocol):
    """The owner's Timers, which wait for other things, too."""

    def set(self, name: Age, at: float) -> None:
        """Wait until ``at``."""

    def stop(self, name: Age) -> None:
        """Do not wait."""


class Renewal:
    """The rekeys of one association, one after the other."""

    __slots__ = ("_outbox", "_paths", "_rekeying", "_sas", "_shared", "_timers")

    def __init__(
        self,
        rekeying: Rekeying,
        sas: SaPair,
        shared: Shared,
        *,
        outbox: Outbox,
        paths: Mobility | Traversal,
        timers: Alarms,
    ) -> None:
        """Set up.

        Args:
            rekeying: the keys.
            sas: those in use.
            shared: the engine's.
            outbox: says our half.
            paths: may have to tell a data relay.
            timers: the owner's; it calls ``on_time`` with what of Age has expired.
        """
        self._rekeying = rekeying
        self._sas = sas
        self._shared = shared
        self._outbox = outbox
        self._paths = paths
        self._timers = timers

    def rest(self) -> None:
        """Wait for nothing but the end of an old SA."""
        self._timers.stop(Age.REKEY)
        self._timers.stop(Age.PATIENCE)

    def count_anew(self, now: float) -> None:
        """Keys get old from now on."""
        self._timers.set(Age.REKEY, now + self._shared.config.rekey_lifetime * self._jitter())

    def resume(self, now: float) -> list[Action]:
        """Go on with what was under way."""
        if self._rekeying.unsaid:
            return [self._outbox.say_rekey(now)]
        if self._rekeying.pending is not None:
            self._timers.set(Age.PATIENCE, now + _REKEY_PATIENCE)
        return []

    def start(self, now: float) -> list[Action]:
        """Begin to replace the SAs, unless that is under way (RFC 7402 §6.8)."""
        if not self._rekeying.begin(now):
            return []
        self._tell_relay()
        return [self._outbox.say_rekey(now)]

    def agree(self, said: Said, now: float) -> None:
        """Take the peer's half.

        Raises:
            Rejected: as ``Rekey.agree``; nothing has changed.
        """
        self._rekeying.agree(said, now)
        self._timers.stop(Age.PATIENCE)
        self._tell_relay()

    def acknowledged(self, now: float) -> None:
        """The peer has acknowledged an UPDATE with our half; ``finish`` may follow."""
        pending = self._rekeying.unsaid
        if pending is not None:
            pending.acknowledged = True
            if pending.theirs is None:
                self._timers.set(Age.PATIENCE, now + _REKEY_PATIENCE)

    def finish(self, now: float) -> None:
        """Use the new keys if all is said."""
        if not self._rekeying.finish(now):
            return
        unused = self._sas.inbound.awaited
        patience = self._shared.config.old_sa_lifetime * (_UNUSED_OLD_SA if unused else 1)
        self._timers.set(Age.OLD_SA, now + patience)
        self._timers.stop(Age.PATIENCE)
        self.count_anew(now)
        for update in list(self._outbox.updates.outstanding.values()):
            if update.rekeys and not update.nonce:
                del self._outbox.updates.outstanding[update.update_id]
            update.rekeys = False  # an ACK of it says nothing about the next rekey
        self._paths.rekeyed(now)

    def on_first_data(self, spi: int, now: float) -> None:
        """Authentic ESP has come under an inbound SA that was awaited."""
        self._rekeying.on_first_data(spi)
        self.finish(now)
        if self._rekeying.old is not None and spi == self._sas.inbound.sa.spi:
            self._timers.set(Age.OLD_SA, now + self._shared.config.old_sa_lifetime)

    def on_time(self, age: Age, now: float) -> list[Action]:
        """That time has come."""
        match age:
            case Age.REKEY:
                self._timers.set(Age.REKEY, now + self._shared.config.rekey_lifetime)
                used = self._sas.outbound.sa.packets or self._sas.inbound.sa.packets
                return self.start(now) if used else []
            case Age.PATIENCE:
                self._give_up(now)
            case Age.OLD_SA:
                self._rekeying.drop_old()
        return []

    def _give_up(self, now: float) -> None:
        if self._rekeying.give_up():
            for update in self._outbox.updates.outstanding.values():
                update.rekeys = False
            self._timers.set(Age.REKEY, now + _REKEY_PATIENCE)

    def _tell_relay(self) -> None:
        """Our data relay, if we use one, is to let through what comes and goes under new SPIs."""
        pending = self._rekeying.pending
        if pending is not None:
            theirs = pending.theirs
            spi_out = theirs.spi if theirs is not None else self._sas.outbound.sa.spi
            self._paths.rekeying(spi_out, pending.ours.spi)

    def _jitter(self) -> float:
        """What a lifetime is multiplied with, so that not all rekey at once."""
        return 1 - int.from_bytes(self._shared.rng(2), "big") / 2**16 / 10
