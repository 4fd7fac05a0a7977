"""The seam between HIP and everything above it: datagrams addressed to (HIT, port).

The real side is ``hipctl.host.LocalHost``; the simulated one is ``tests/sim/hits.py``, without
crypto. Code in overlay and sipgw is typed against these Protocols and nothing else.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from hipctl.constants import RegistrationType
from hipctl.identity import Hit

Address = tuple[str, int]
"""IP address as text and UDP port."""

OnDatagram = Callable[[bytes, Hit, int], None]
"""``on_datagram(data, source HIT, source port)``; the source is proven by the association."""


@dataclass(frozen=True, slots=True)
class AssociationUp:
    """Event: the association with ``peer`` is ESTABLISHED.

    Attributes:
        seconds: from the first I1 sent or received to ESTABLISHED.
    """

    local: Hit
    peer: Hit
    seconds: float


@dataclass(frozen=True, slots=True)
class AssociationDown:
    """Event: no association with ``peer`` any more, or the attempt for one failed."""

    local: Hit
    peer: Hit
    reason: str


@dataclass(frozen=True, slots=True)
class ContactChanged:
    """Event: ``Host.contact`` says something else now, for this machine's addresses are others."""


@dataclass(frozen=True, slots=True)
class Woke:
    """Event: this machine has slept, and so have its clock and all who wait; or we were stopped.

    Attributes:
        seconds: how long.
    """

    seconds: float


@dataclass(frozen=True, slots=True)
class RegistrationEnded:
    """Event: ``server`` does not serve us any more, or not for the moment.

    Attributes:
        local: our HIT.
        server: with which we were registered.
        type: for what.
        reason: refused, expired, cancelled, or the association is gone.
    """

    local: Hit
    server: Hit
    type: RegistrationType
    reason: str


Event = AssociationUp | AssociationDown | ContactChanged | RegistrationEnded | Woke


@dataclass(frozen=True, slots=True)
class Offer:
    """What we do for others, of one RegistrationType.

    Attributes:
        clients: registrations at most.
        lifetime: seconds, the longest granted.
        packets: a second and client; 0: no limit.
        bandwidth: bytes a second and client; 0: no limit.
        total_bandwidth: bytes a second of all clients together; 0: no limit. The control relay
            and the data relay have one total: the lesser, where they differ.
        total_packets: likewise.
        burst: for how many seconds a client may save up what it doesn't use.
        credentials: only for those who have shown some that our policy accepts.
    """

    clients: int = 1_024
    lifetime: float = 600.0
    packets: float = 0.0
    bandwidth: float = 0.0
    total_bandwidth: float = 0.0
    total_packets: float = 0.0
    burst: float = 1.0
    credentials: bool = False


@dataclass(frozen=True, slots=True)
class Registered:
    """One registration of ours.

    Attributes:
        local: our HIT.
        server: with whom.
        type: for what.
        expires: when it ends unless it is refreshed, seconds of ``LocalHost.now``.
        address: where the server is.
        reflexive: where the server sees us, if it has said so.
        relayed: the address that it has opened for us, if it has.
        rtt: seconds to the server and back; None: not measured yet.
        passed: when a stranger last began an association with us by way of the server, seconds
            of ``LocalHost.now``. What came through another server of ours was no stranger's.
    """

    local: Hit
    server: Hit
    type: RegistrationType
    expires: float
    address: Address | None = None
    reflexive: Address | None = None
    relayed: Address | None = None
    rtt: float | None = None
    passed: float = float("-inf")


@dataclass(frozen=True, slots=True)
class Served:
    """What we have done for one client, since it registered.

    Attributes:
        client: its HIT.
        type: for what it is registered.
        expires: when that ends, as in Registered.
        packets: forwarded, both ways.
        bytes: their UDP payloads.
        dropped: packets beyond its limits, or that it must not send.
    """

    client: Hit
    type: RegistrationType
    expires: float
    packets: int
    bytes: int
    dropped: int


class Nat(Enum):
    """What stands between us and those who see us, as far as we know (RFC 4787 §4.1)."""

    UNKNOWN = "unknown"
    NONE = "none"
    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ENDPOINT_DEPENDENT = "endpoint-dependent"


@dataclass(frozen=True, slots=True)
class Reachability:
    """Where we are, as far as the host knows; shown to people, but for ``direct``.

    Attributes:
        addresses: of this machine, at which we listen.
        reflexive: (who says so, where it sees us).
        mapped: (protocol, outer address) of each port that a router maps to us.
        nat: what lies between.
        direct: a contact that names our own, mapped and announced addresses and no server:
            what another may knock at. Empty: there is none that could be told.
        routers: a row for each router that was asked to map our port: what came of it, and
            where nothing did, why and what would help, in words.
    """

    addresses: tuple[Address, ...] = ()
    reflexive: tuple[tuple[Hit, Address], ...] = ()
    mapped: tuple[tuple[str, Address], ...] = ()
    nat: Nat = Nat.UNKNOWN
    direct: bytes = b""
    routers: tuple[Mapping[str, object], ...] = ()


Discloses = Callable[[Hit, Hit, "Shown"], bool]
"""``discloses(local, peer, shown)``: whether a peer that has begun an association with us, and has
shown these credentials, may learn our addresses. Else it is told only through which relays we can
be reached, and hears from us through them. Whom we call learns them anyway."""


@dataclass(frozen=True, slots=True)
class Shown:
    """Credentials as the base exchange carries them (RFC 8002).

    Attributes:
        certificates: X.509 v3, DER.
        delegation: why these speak for the HIT that shows them: opaque, for policies.
        invitation: that it was invited: likewise; only ever shown encrypted, in I2.
    """

    certificates: tuple[bytes, ...] = ()
    delegation: bytes = b""
    invitation: bytes = b""

    def __bool__(self) -> bool:
        """Whether anything is shown."""
        return bool(self.certificates or self.delegation or self.invitation)


@dataclass(frozen=True, slots=True)
class LanPeer:
    """Somebody who has answered on a LAN; nothing proves more than that it has its HIT.

    Attributes:
        hit: its HIT.
        contact: how it is reached; empty where only a link-local address is known.
        services: what it offers (REG_INFO).
        certificates: what it shows to whoever asks on its LAN, DER.
        mark: what it shows beside them: opaque, for who knows what it means.
    """

    hit: Hit
    contact: bytes = b""
    services: frozenset[RegistrationType] = frozenset()
    certificates: tuple[bytes, ...] = ()
    mark: bytes = b""


class Admission(Enum):
    """What a policy says of a peer."""

    ACCEPTED = "accepted"
    CREDENTIALS_REQUIRED = "credentials required"
    INVALID_CERTIFICATE = "invalid certificate"


class CredentialPolicy(Protocol):
    """Which credentials a host shows, and whose it accepts. Pure, and never raises."""

    def shown(
        self, local: Hit, peer: Hit | None, wall: float, theirs: Shown | None = None
    ) -> Shown:
        """What ``local`` shows to ``peer``.

        Args:
            local: one of our HITs.
            peer: its HIT, proven; None: whoever asks for an R1.
            wall: Unix seconds.
            theirs: what the peer has shown and we have accepted, where it began; else None.
        """

    def admit(self, local: Hit, peer: Hit, shown: Shown, wall: float) -> Admission:
        """Judge who wants an association, or who answered with credentials.

        Args:
            local: one of our HITs.
            peer: its HIT, proven.
            shown: what it has shown.
            wall: Unix seconds.
        """


class Endpoint(Protocol):
    """One (HIT, port) of this host: an unreliable datagram socket between HITs."""

    @property
    def hit(self) -> Hit:
        """The local HIT."""

    @property
    def port(self) -> int:
        """The local port, 1–65535."""

    def send(self, data: bytes, to: Hit, port: int) -> None:
        """Send one datagram of at most 65,527 bytes, or silently lose it.

        Without an association the base exchange starts and the datagram waits in a bounded
        queue. A HIT of this host is reached without leaving the process, in a later
        iteration of the loop.

        Raises:
            ValueError: the datagram is too long.
        """

    def close(self) -> None:
        """Free the port; harmless when done twice."""


class Host(Protocol):
    """A HIP host: one or more identities, their associations, and Endpoints on them."""

    @property
    def hits(self) -> Sequence[Hit]:
        """The local HITs, the default one first."""

    def open(self, hit: Hit, port: int, on_datagram: OnDatagram) -> Endpoint:
        """Open an Endpoint; port 0 picks a free one from 49152 on.

        Raises:
            PortInUse: somebody has it.
        """

    def learn(self, hit: Hit, contact: bytes) -> None:
        """Remember how ``hit`` may be reached (bounded; the newest contact wins).

        A malformed contact is counted and ignored: it came from a record or an RPC.
        """

    def last_seen(self, peer: Hit) -> bytes:
        """A contact of where ``peer`` was when last we spoke directly; empty if unknown."""

    def recall(self, peer: Hit, contact: bytes) -> None:
        """Take back what ``last_seen`` told before this start, for want of newer knowledge.

        A malformed contact is counted and ignored.
        """

    def contact(self, hit: Hit) -> bytes:
        """How others may reach our ``hit``: opaque, at most 80 bytes, for records and RPCs."""

    def through(self, hit: Hit, server: Hit) -> bytes:
        """A contact of our ``hit`` that names this server of ours only; empty if it isn't one."""

    def hide(self, hit: Hit, *, hidden: bool) -> None:
        """From now on ``contact`` of our ``hit`` names servers only, or our own addresses, too.

        It tells strangers who know a name where its owner is, or doesn't.
        """

    def seclude(self, hit: Hit, spared: Collection[Hit] | None) -> None:
        """From now on our ``hit`` hides also from those with whom it begins an association.

        It does so through control relays of ours; as long as there is none, it waits. To be said
        again when there may be one.

        Args:
            hit: ours.
            spared: from whom it doesn't hide, beside those of ``disclose`` and ``befriend``: its
                servers above all; None: from nobody any more, and who was spoken with through
                relays is told where we are.
        """

    def groups(self, contact: bytes) -> frozenset[bytes]:
        """Opaque labels of where a contact is (its /24, /48 or server), empty on a LAN.

        Used for diversity only: two contacts that share a label are near each other. That of a
        server begins with "s".
        """

    def connected(self, peer: Hit) -> bool:
        """Whether some local HIT has an ESTABLISHED association with ``peer``."""

    async def connect(self, peer: Hit, *, local: Hit | None = None, timeout: float = 5.0) -> None:
        """Return once the association is ESTABLISHED; at once if it is already.

        Args:
            peer: whom to reach; a local HIT is always connected.
            local: which of our HITs, the default one if None.
            timeout: seconds.

        Raises:
            AssociationFailed: no contact is known, the peer said no, or did not answer.
        """

    def use(self, policy: CredentialPolicy, wall: Callable[[], float]) -> None:
        """From now on show and judge credentials in base exchanges, by ``policy``.

        Peers to whom we have shown others are shown the new ones. An association that is up stays.

        Args:
            policy: one for all of our HITs; without any nothing is shown, everybody is let in.
            wall: Unix seconds.
        """

    def befriend(self, peers: Collection[Hit], *, local: Hit | None = None) -> None:
        """Keep a way open to these, and from them, as far as that can be done without servers.

        Associations with them are kept alive across NATs. Where there is none, one I1 goes to
        where each was last, every 15 s: a NAT before us then lets theirs in, and when they come
        back, both ways are open at once. They learn our addresses, also from an association that
        there is already.

        Args:
            peers: at most 8 count; they replace those of before.
            local: one of our HITs, the default one if None.
        """

    def disclose_by(self, discloses: Discloses) -> None:
        """From now on ask ``discloses`` who may learn our addresses; without any: everybody."""

    def disclose(self, peer: Hit, *, local: Hit | None = None) -> None:
        """Let ``peer`` learn our addresses, now and in later associations (bounded)."""

    def credentials(self, peer: Hit, *, local: Hit | None = None) -> Shown | None:
        """What ``peer`` showed in the exchange of our association, and the policy accepted.

        None where there is no association, or nothing was shown.
        """

    def shows(self, peer: Hit, *, local: Hit | None = None) -> Shown | None:
        """What we have shown to ``peer``; without an association, what we shall show."""

    def offer(self, offers: Mapping[RegistrationType, Offer]) -> None:
        """Serve others like this from now on; {} ends it, and registrations with us."""

    def offered(
        self, server: Hit, *, local: Hit | None = None
    ) -> frozenset[RegistrationType] | None:
        """What ``server`` offers; None where there is no association with it."""

    async def register(
        self,
        server: Hit,
        types: Collection[RegistrationType],
        *,
        local: Hit | None = None,
        timeout: float = 5.0,
    ) -> list[Registered]:
        """Register, and stay registered until ``unregister``; associates if need be.

        Returns:
            What was granted; what was refused is not asked again.

        Raises:
            AssociationFailed: the server did not answer in time.
            RegistrationRefused: nothing was granted; it says why.
        """

    async def unregister(
        self,
        server: Hit,
        types: Collection[RegistrationType] | None = None,
        *,
        local: Hit | None = None,
    ) -> None:
        """Tell the server that we don't need it any more; None: for anything."""

    def registrations(self) -> Sequence[Registered]:
        """Our registrations in force."""

    def served(self) -> Sequence[Served]:
        """Whom we serve."""

    async def knock(self, peer: Hit, contact: bytes, timeout: float = 2.0) -> bool:
        """Whether a stranger's I1 to ``contact`` draws an R1 of ``peer``.

        It is sent from a port and by a HIT that nobody has seen before, so that no NAT or
        firewall lets it pass for what was said earlier. Only a locator is tried whose IP address
        is the one from which our association with ``peer`` comes, or that of a server, with which
        we are associated there: nobody can make us knock elsewhere, or learns from us where others
        are. ``peer`` may be a HIT of ours that a server makes callable: then we are the stranger.

        Raises:
            Hides: ``peer`` may not learn where we are.
            Rejected: ``contact`` has no such locator, or too many knocks are under way.
        """

    def sees(self, peer: Hit) -> bytes:
        """A contact of where our association with ``peer`` comes from, for its ``seen``.

        Empty: there is none, or it comes through a relay.
        """

    def seen(self, by: Hit, contact: bytes) -> None:
        """What ``sees`` of a peer says of us: ``reachability`` tells it until we move.

        A malformed contact is counted and ignored.
        """

    def reachability(self) -> Reachability:
        """Where we are, as far as is known now."""

    async def welcome(self, certificates: Sequence[bytes] = (), mark: bytes = b"") -> None:
        """Answer those who ask on our LANs who is there, with an R1 that shows this, until closed.

        They ask a link-local group by an I1 without a receiver; it costs us no more than any I1.
        The default identity answers, and only who asks from the same link.

        Args:
            certificates: DER; they and ``mark`` are left out where an unfragmented R1 has no room.
            mark: opaque.
        """

    async def look_around(
        self,
        on_found: Callable[[LanPeer], None],
        *,
        local: Hit | None = None,
        seconds: float = 2.0,
    ) -> None:
        """Ask on our LANs who is there; whoever answers may be associated with then.

        Others see that we ask, our HIT, and who answers with which services and certificates.

        Args:
            on_found: called with each, at most 8, at once when its R1 has come.
            local: which of our HITs asks, the default one if None.
            seconds: how long answers are waited for.
        """

    def watch(self, on_event: Callable[[Event], None]) -> Callable[[], None]:
        """Call ``on_event`` for every event from now on; returns what ends it."""

    def counters(self) -> dict[str, int]:
        """What was sent, received and dropped, by reason, for ``status``."""
