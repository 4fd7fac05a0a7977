"""What the engine of a node is told, and what it answers: parameters, environment, actions."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hipctl import Hit
from overlay.admission import Admitted
from overlay.constants import ALPHA, REPLICAS, K
from overlay.knocking import KnockAt
from overlay.operations import Outcome
from overlay.records import Record
from overlay.rpc import Send
from overlay.storage import Forget, Limits, Persist


class Learn(NamedTuple):
    """Action: ``host.learn(hit, contact)``."""

    hit: Hit
    contact: bytes


class Remember(NamedTuple):
    """Action: note a contact for the next start."""

    hit: Hit
    contact: bytes


class Finished(NamedTuple):
    """Action: what was asked for with ``handle`` is done."""

    handle: Any
    outcome: Outcome


class Joined(NamedTuple):
    """Action: the table is filled as far as it can be."""

    contacts: int


Action = Send | Learn | Remember | Finished | Joined | KnockAt | Persist | Forget


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Parameters of Kademlia and of the storage.

    Attributes:
        k: bucket size.
        alpha: requests of a lookup in flight.
        replicas: nodes that hold a record.
        per_group: contacts of a bucket in one /24 or /48; None: any. See routing.
        paths: disjoint paths of a get.
        limits: byte quotas.
    """

    k: int = K
    alpha: int = ALPHA
    replicas: int = REPLICAS
    per_group: int | None = None
    paths: int = 1
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What the engine is told by those who know; all of it pure.

    Attributes:
        local: our HIT.
        overlay_id: 32 bytes.
        node_id: HIT -> 20 bytes.
        contact: our contact now.
        groups: opaque group labels of a contact.
        admit: judges (credentials, HIT, wall); raises CredentialsRefused.
        check: judges (record, wall); raises RecordRefused.
        connected: whether there is an association with a HIT.
        shown: the credentials that a HIT has shown in the base exchange, or None.
        shows: whether base exchanges show our credentials to a HIT.
        rng: randomness.
    """

    local: Hit
    overlay_id: bytes
    node_id: Callable[[Hit], bytes]
    contact: Callable[[], bytes]
    groups: Callable[[bytes], frozenset[bytes]]
    admit: Callable[[bytes, Hit, float], Admitted]
    check: Callable[[Record, float], object]
    connected: Callable[[Hit], bool]
    rng: Callable[[int], bytes]
    shown: Callable[[Hit], bytes | None] = lambda hit: None
    shows: Callable[[Hit], bool] = lambda hit: False
