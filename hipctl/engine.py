"""All associations of one host: demultiplexes by HIT pair, queues until ESTABLISHED."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from hipctl.actions import Action, Address, Flush, KeyLog, Pair, SolvePuzzle, Transmit
from hipctl.identity import Hit, HostIdentity
from hipctl.interface import AssociationDown, AssociationUp

Rng = Callable[[int], bytes]

@dataclass(frozen=True, slots=True)
class EngineConfig:
    k: int = 10
    keylog: bool = False
    max_associations: int = 4096
    unused_lifetime: float = 900.0

@dataclass(slots=True)
class Outbound:
    sa: object  # esp.OutboundSa
    address: Address

@dataclass(slots=True)
class Inbound:
    sa: object  # esp.InboundSa
    local: Hit
    peer: Hit

class Engine:
    """SKELETON, signatures only; being written."""

    outbound: dict[Pair, Outbound]
    inbound: dict[int, Inbound]
    counters: Counter[str]

    def __init__(self, identities: Sequence[HostIdentity], config: EngineConfig, rng: Rng) -> None: ...
    def connect(self, local: Hit, peer: Hit, now: float) -> list[Action]: ...
    def on_control(self, data: bytes, source: Address, now: float) -> list[Action]: ...
    def learn(self, peer: Hit, addresses: Sequence[Address]) -> None: ...
    def enqueue(self, local: Hit, peer: Hit, next_header: int, payload: bytes, now: float) -> list[Action]: ...
    def heard(self, spi: int, source: Address, now: float) -> Sequence[Action]: ...
    def close(self, local: Hit, peer: Hit, now: float) -> list[Action]: ...
    def close_all(self, now: float) -> list[Action]: ...
    def on_puzzle_solved(self, key: tuple[Hit, Hit, int], j: bytes | None, now: float) -> list[Action]: ...
    def deadline(self) -> float | None: ...
    def on_time(self, now: float) -> list[Action]: ...
