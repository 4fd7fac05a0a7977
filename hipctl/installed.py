"""What a base exchange has agreed, in use: the SAs, the paths between both hosts, their upkeep."""

from collections.abc import Sequence
from dataclasses import dataclass

from hipctl import esp, params
from hipctl.actions import Address, wire
from hipctl.constants import EspSuite, HipCipher, NatTraversalMode
from hipctl.crypto import Keys, Material
from hipctl.identity import HostId, HostIdentity
from hipctl.mobility import Mobility
from hipctl.sas import Inbound, Outbound, SaPair
from hipctl.state import Shared
from hipctl.traversal import Traversal
from hipctl.upkeep import Upkeep


@dataclass(frozen=True, slots=True)
class Agreed:
    """What a base exchange has agreed, on either side.

    Attributes:
        keys: all keys.
        material: from which later ones are drawn.
        host_id: the peer's key.
        spi_out: the peer's SPI.
        mode: NAT traversal mode.
        pacing: seconds between connectivity checks.
        listed: the peer's locators.
    """

    keys: Keys
    material: Material
    host_id: HostId
    spi_out: int
    mode: int | None
    pacing: float
    listed: Sequence[params.Locator] | None


class Installed:
    """The part of an association that lives as long as its SAs.

    Attributes:
        sas: the pair in use.
        upkeep: of these.
    """

    __slots__ = ("_keys", "_pair", "_shared", "sas", "upkeep")

    def __init__(  # noqa: PLR0917 - the fields of an association
        self,
        identity: HostIdentity,
        peer: Address,
        inbound: Inbound,
        agreed: Agreed,
        shared: Shared,
        now: float,
        *,
        begun: bool,
        disclosed: bool,
        patience: float | None,
    ) -> None:
        """Put new SAs into use.

        Args:
            identity: ours.
            peer: where its packets go.
            inbound: ours, perhaps known to the data path already.
            agreed: all else.
            shared: of the engine.
            now: monotonic seconds.
            begun: whether we are the Initiator.
            disclosed: whether the peer may learn where we are.
            patience: see SaPair; None to begin anew.
        """
        self._pair = pair = (inbound.local, inbound.peer)
        self._keys = agreed.keys
        self._shared = shared
        sa = esp.OutboundSa(inbound.sa.suite, agreed.spi_out, agreed.keys.esp_out)
        here = shared.here  # data may leave from where the packet in hand came
        if here is not None and (":" in here[0]) is not (":" in wire(peer)[0]):
            here = None
        outbound = Outbound(sa, peer, here)
        shared.inbound[inbound.sa.spi] = inbound
        if patience is None:
            patience = shared.config.unanswered_lifetime
        self.sas = sas = SaPair(inbound, outbound, patience, now)
        paths: Mobility | Traversal
        if agreed.mode == NatTraversalMode.ICE_HIP_UDP:  # no data before there is a path
            shared.outbound.pop(pair, None)
            paths = Traversal(
                pair,
                sas,
                shared,
                now,
                controlling=begun,
                pacing=agreed.pacing,
                listed=agreed.listed or (),
                disclosed=disclosed,
            )
        else:
            shared.outbound[pair] = outbound
            paths = Mobility(pair, sas, shared, now)
        self.upkeep = Upkeep(
            identity,
            pair,
            agreed.host_id,
            agreed.keys,
            agreed.material,
            sas,
            shared,
            paths,
            now,
        )
        if agreed.listed is not None:
            self.upkeep.learn(agreed.listed, now)

    def remove(self) -> None:
        """Nothing is opened under these SAs any more."""
        self._shared.inbound.pop(self.sas.inbound.sa.spi, None)
        self.upkeep.end()

    @property
    def kept(self) -> bool:
        """Whether it is to be kept though nobody uses it."""
        shared, pair = self._shared, self._pair
        registered = shared.serving.holds(pair) or shared.requester.holds(pair)
        return registered or pair in shared.friends

    def describe(self, began: float) -> dict[str, object]:
        """What ``status`` shows; packets and drops are those of the SAs in use. JSON-ready.

        Args:
            began: when the exchange began, monotonic seconds.
        """
        inbound, outbound, keys = self.sas.inbound, self.sas.outbound, self._keys
        return {
            "address": list(outbound.address),
            "source": list(outbound.source) if outbound.source else None,
            "locators": self.upkeep.describe(),
            "relayed": self.upkeep.relayed,
            # seconds until data, and until data without relays; None: not, or not checked
            "path found": [
                None if at is None else round(at - began, 3) for at in self.upkeep.found_at
            ],
            "esp_transform": outbound.sa.suite,
            "transforms": {
                "esp": EspSuite(outbound.sa.suite).name,
                "cipher": HipCipher(keys.cipher).name,
                "hash": keys.rhash,
            },
            "spi": [inbound.sa.spi, outbound.sa.spi],
            "sent": outbound.sa.packets,
            "received": inbound.sa.packets,
            "drops": dict(inbound.drops),
        }
