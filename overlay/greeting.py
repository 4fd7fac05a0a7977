"""HELLO: what it says of who sends it, and how much is heard of those who have not said it."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

from hipctl import Hit
from overlay.messages import VERSION, Field
from overlay.session import Bucket

STRANGERS_RATE: Final = 100.0  # HELLOs and refusals a second, all strangers together …
STRANGER_RATE, STRANGER_BURST = 5.0, 20.0  # … and one of them
MAX_STRANGERS: Final = 1_024  # that are told apart


@dataclass(frozen=True, slots=True)
class Greeting:
    """What our HELLO says.

    Attributes:
        credentials: bytes of overlay.admission.Credentials.
        boot: 8 bytes, random at each start.
        since: when we started, Unix seconds.
        features: our feature bits.
    """

    credentials: bytes
    boot: bytes
    since: int = 0
    features: int = 0

    def fields(
        self, contact: bytes, wall: float, *, bare: bool, features: int = 0
    ) -> dict[int, Any]:
        """The fields of HELLO and of its answer.

        Args:
            contact: ours, now.
            wall: Unix seconds, by our own clock.
            bare: without our credentials, which the base exchange has shown.
            features: bits beside our own.
        """
        fields: dict[int, Any] = {
            int(Field.VERSION): VERSION,
            int(Field.FEATURES): self.features | int(features),
            int(Field.CONTACT): contact,
            int(Field.CREDENTIALS): self.credentials,
            int(Field.WALL): int(wall),
            int(Field.BOOT): self.boot,
            int(Field.SINCE): self.since,
        }
        if bare:
            del fields[int(Field.CREDENTIALS)]
        return fields


def told_wall(fields: dict[int, Any]) -> float:
    """The clock of who says HELLO, Unix seconds; 0 if it doesn't tell."""
    return float(min(fields.get(Field.WALL, 0), 2**40))


class Strangers:
    """How often those are answered who have not greeted; the last 1,024 are told apart."""

    def __init__(self) -> None:
        self._each: OrderedDict[Hit, Bucket] = OrderedDict()
        self._all = Bucket(STRANGERS_RATE, STRANGERS_RATE, 0.0)

    def may(self, source: Hit, now: float) -> bool:
        """Whether ``source`` is answered once more."""
        bucket = self._each.get(source)
        if bucket is None:
            if len(self._each) >= MAX_STRANGERS:
                self._each.popitem(last=False)
            bucket = self._each[source] = Bucket(STRANGER_RATE, STRANGER_BURST, now)
        self._each.move_to_end(source)
        return bucket.spend(now) and self._all.spend(now)
