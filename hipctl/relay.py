"""The control relay: HIP packets to its clients, and what they answer (RFC 9028 §4.5, §4.12.2).

To a client it forwards what names the client's HIT, with RELAY_FROM and RELAY_HMAC; from a
client, what comes from where it is registered and has RELAY_TO and RELAY_HMAC. It is no open
proxy: nothing is forwarded for others, nor to where a client must not send; and no amplifier:
beside these parameters nothing is added, and a NOTIFY is no longer than what it is about.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from itertools import islice
from typing import Final, NamedTuple

from hipctl import hop, params, signed
from hipctl.actions import Action, Address, Path, Transmit
from hipctl.clients import Account, Client
from hipctl.constants import HEADER_LENGTH, NotifyType, PacketType, ParameterType, RegistrationType
from hipctl.contact import is_disguised, is_public
from hipctl.datarelay import DataRelay
from hipctl.errors import Rejected
from hipctl.identity import Hit, HostIdentity
from hipctl.limits import Limiter, network
from hipctl.locators import one_host
from hipctl.packet import Packet
from hipctl.registrar import Registrar
from hipctl.rendezvous import CARRIED, forwarded
from hipctl.settings import EngineConfig

SEEN_MAX: Final = 128  # strangers and
PEERS_MAX: Final = 128  # peers of one client, and
SEEN_CLIENTS: Final = 4_096  # clients, of which we remember who has spoken to them through us
SEEN_SECONDS: Final = 120.0
_FEW_RATE: Final = 0.25  # packets a second of one network to one client that are few,
_FEW_BURST: Final = 12  # and at once
_FEW_LEAVE: Final = 0.5  # which share of a client's limits strangers leave it who send few,
_MANY_LEAVE: Final = 0.75  # or many
_NEEDS_MODE: Final = frozenset({PacketType.R1, PacketType.I2})
_EXCHANGE: Final = frozenset({PacketType.I1, PacketType.R1, PacketType.I2, PacketType.R2})
_HOP: Final = frozenset(  # what only the hosts of this hop say
    {
        ParameterType.RELAY_FROM,
        ParameterType.RELAY_TO,
        ParameterType.FROM,
        ParameterType.RVS_HMAC,
        ParameterType.RELAY_HMAC,
    }
)
_ANSWERS: Final = frozenset({PacketType.R1, PacketType.NOTIFY})  # which whoever asks may get
_MAC: Final = frozenset({ParameterType.RELAY_HMAC})
_HIP: Final = RegistrationType.RELAY_UDP_HIP
_ESP: Final = RegistrationType.RELAY_UDP_ESP
_RVS: Final = RegistrationType.RENDEZVOUS

_Heard = tuple[float, Address | None]
"""When a packet came last, and at which address of ours."""

_NEVER: Final[_Heard] = float("-inf"), None


class _Seen:
    """Who has spoken to one client through us.

    Attributes:
        strangers: to whom it has not spoken, or only in answers that anybody gets; the last one
            that was heard last. Addresses are cheap, and these wash each other out.
        peers: to whom it has: when we had heard it, and when it had us send there.
    """

    __slots__ = ("peers", "strangers")

    def __init__(self) -> None:
        self.strangers: OrderedDict[Address, _Heard] = OrderedDict()
        self.peers: OrderedDict[Address, tuple[_Heard, float]] = OrderedDict()

    def get(self, address: Address) -> _Heard:
        """When and where we had it last."""
        peer = self.peers.get(address)
        return peer[0] if peer is not None else self.strangers.get(address, _NEVER)

    def note(self, source: Address, here: Address | None, now: float) -> None:
        """It has spoken to the client."""
        peer = self.peers.get(source)
        if peer is not None:
            self.peers[source] = (now, here), peer[1]
            self.peers.move_to_end(source)
            return
        self.strangers[source] = now, here
        self.strangers.move_to_end(source)
        if len(self.strangers) > SEEN_MAX:
            self.strangers.popitem(last=False)

    def speak(self, to: Address, now: float) -> None:
        """The client has spoken to it."""
        heard = self.get(to)
        self.strangers.pop(to, None)
        self.peers[to] = heard, now
        self.peers.move_to_end(to)
        if len(self.peers) > PEERS_MAX:
            self.peers.popitem(last=False)


_NOBODY: Final = _Seen()


class Relay:
    """Forwards control packets, for clients of the registrar only.

    Attributes:
        ours: our own addresses, all that the shell knows.
    """

    def __init__(  # noqa: PLR0917 - what all rooms of an engine share
        self,
        registrar: Registrar,
        data: DataRelay,
        identities: Mapping[Hit, HostIdentity],
        config: EngineConfig,
        counters: Counter[str],
        notify_limit: Limiter,
    ) -> None:
        self.ours: frozenset[Address] = frozenset()
        self._registrar = registrar
        self._data = data
        self._identities = identities
        self._config = config
        self._counters = counters
        self._notify_limit = notify_limit
        keys = config.r1_addresses
        self._i1s = Limiter(config.relayed_i1_rate, config.relayed_i1_burst, keys)
        self._networks = Limiter(config.relayed_rate, config.relayed_burst, keys)
        self._clients = Limiter(config.to_client_rate, config.to_client_burst, 4 * keys)
        self._few = Limiter(_FEW_RATE, _FEW_BURST, 4 * keys)
        self._unasked = Limiter(config.unasked_rate, config.unasked_burst, 4 * keys)
        self._seen: OrderedDict[Hit, _Seen] = OrderedDict()

    def takes(self, packet: Packet) -> bool:
        """Whether a packet that isn't for us may be for, or of, somebody who is registered."""
        registrar, to = self._registrar, packet.receiver
        if any(registrar.client(to, kind) is not None for kind in (_HIP, _RVS)):
            return True
        return packet.has(params.RelayTo) and self._sender(packet) is not None

    def on_packet(
        self, packet: Packet, source: Address, here: Address | None, now: float
    ) -> list[Action]:
        """Take a packet that came at our main port, and is not for us.

        Raises:
            MalformedPacket: it is not well formed.
            Rejected: it is not forwarded.
        """
        if packet.has(params.RelayTo):
            client = self._sender(packet)
            if client is not None and client.path is not None and client.path.to == source:
                return self._from_client(packet, client, now)
            if packet.has(params.RelayHmac):  # a client's, who hides there where it is
                raise Rejected("relay client elsewhere")
        for kind in (_HIP, _RVS):
            client = self._registrar.client(packet.receiver, kind)
            if client is not None:
                return self._to_client(packet, client, kind, source, here, now)
        raise Rejected("not our HIT")

    def on_relayed(
        self, packet: Packet, source: Address, relayed: Address, now: float
    ) -> list[Action]:
        """Take a packet that came at a relayed address (RFC 9028 §4.12.2).

        Raises:
            MalformedPacket: it is not well formed.
            Rejected: it is not forwarded.
        """
        client = self._data.owner(relayed, packet.receiver)
        if client is None:
            raise Rejected("not for the relayed address's client")
        return self._to_client(packet, client, _ESP, source, None, now)

    def _sender(self, packet: Packet) -> Client | None:
        registrar, hit = self._registrar, packet.sender
        return registrar.client(hit, _HIP) or registrar.client(hit, _ESP)

    # -- to a client ---------------------------------------------------------------------------

    def _to_client(  # noqa: PLR0917 - what is known about one packet
        self,
        packet: Packet,
        client: Client,
        kind: RegistrationType,
        source: Address,
        here: Address | None,
        now: float,
    ) -> list[Action]:
        if packet.sender == client.hit:
            raise Rejected("the client's own HIT from elsewhere")
        if packet.has(params.RelayFrom):  # a client is not behind another relay of its
            raise Rejected("relayed before")
        path, account = client.path, client.accounts[kind]
        if path is None:
            raise Rejected("relay client nowhere")
        self._limit(packet, client, source, account, now, peer=source, spoken=source)
        if kind == _RVS:
            if packet.type not in CARRIED:
                raise Rejected("not carried by a rendezvous server")
            data = _fitting(lambda: forwarded(packet, source, client.keys))
            return self._send(data, account, path, now)
        if packet.type in _NEEDS_MODE and packet.get(params.NatTraversalModes) is None:
            raise Rejected("not relayed: no NAT_TRAVERSAL_MODE")  # nor is a stranger told so
        data = _fitting(
            lambda: hop.extend(
                packet.changed([params.RelayFrom(source)], _HOP), (), params.RelayHmac, client.keys
            )
        )
        self._of(client).note(source, here, now)
        return self._send(data, account, path, now)

    def _limit(
        self,
        packet: Packet,
        client: Client,
        source: Address,
        account: Account,
        now: float,
        *,
        peer: Address,
        spoken: Address,
    ) -> None:
        """So much of one network, and so much for one client.

        Each I1 makes the client compute; what follows a base exchange comes at the pace of calls.
        From a peer that the client has named all that follows may come which the client pays for:
        many who hide are one network, that of their relay. Strangers, who may send in the name of
        anybody, leave the client half of its limits for those to whom it has spoken, and who sends
        many leaves some for who sends few. What begins no exchange is seldom a stranger's.

        Args:
            packet: for the client.
            client: of ours.
            source: where it came from.
            account: who pays.
            now: monotonic seconds.
            peer: where the client sees who sent it.
            spoken: by what we know whether the client has spoken to it.
        """
        i1 = packet.type is PacketType.I1
        spoke = not i1 and self._spoken(client, spoken, now)
        named = not i1 and self._data.allows(client, peer)
        named = named and (spoke or peer != self._data.shared)  # which stands for anybody there
        limiter, where = self._i1s if i1 else self._networks, network(source[0])
        if not named and not limiter.allow(where, now):
            account.dropped += 1
            raise Rejected("relayed packets of one network")
        hit = client.hit.hex()
        if named or spoke:
            passes = self._clients.allow(hit, now)
        else:
            few = self._few.allow(hit + where, now)
            limiter = self._clients if i1 else self._unasked
            leaves = _FEW_LEAVE if few else _MANY_LEAVE
            passes = limiter.allow(f"{packet.type is PacketType.I2}{leaves}{hit}", now)
            passes = passes and account.spares(leaves, now)
        if not passes:
            account.dropped += 1
            raise Rejected("relayed packets for one client")

    def _send(self, data: bytes, account: Account, path: Path, now: float) -> list[Action]:
        if not account.pays(len(data), lambda: now):
            raise Rejected("relay client over its limits")
        return [Transmit(data, path.to, path.source)]

    # -- from a client -------------------------------------------------------------------------

    def _from_client(self, packet: Packet, client: Client, now: float) -> list[Action]:
        path = client.path
        if path is None:
            raise Rejected("relay client nowhere")
        hop.check(packet, params.RelayHmac, client.keys)
        kind = _HIP if _HIP in client.accounts else _ESP
        account = client.accounts[kind]
        target = packet.need(params.RelayTo)
        across = self._other(packet.receiver, client, target.address)
        inside = target.address in self.ours or self._data.lent(target.address)
        fits = across is not None if inside else self.may_send(client, target.address, now)
        if target.protocol != 17 or not fits:
            account.dropped += 1
            return self._refuse(packet, client, NotifyType.MESSAGE_NOT_RELAYED, path, now)
        if packet.type in _NEEDS_MODE and packet.get(params.NatTraversalModes) is None:
            why = NotifyType.NO_VALID_NAT_TRAVERSAL_MODE_PARAMETER  # RFC 9028 §4.5
            return self._refuse(packet, client, why, path, now)
        if across is not None:
            self._note_sent(packet, client, _fellow(packet.receiver), now)
            return self._across(packet, path, across, now)
        if not self._expected(client, target.address, now):
            account.dropped += 1
            raise Rejected("relayed packets to who has not asked")
        self._note_sent(packet, client, target.address, now)
        data = packet.changed(without=_MAC)
        source = self._leaves_from(packet, client, target.address, kind, now)
        return self._send(data, account, Path(source, target.address), now)

    def _expected(self, client: Client, to: Address, now: float) -> bool:
        """Whether that address has asked for the client, or was named; of others, a few packets.

        First I1s and checks go to who may never have heard of the client: so may what is aimed.
        """
        if self.heard(client, to, now) or self._data.allows(client, to):
            return True
        return self._unasked.allow(client.hit.hex(), now)

    def _other(self, hit: Hit, client: Client, to: Address) -> "_Across | None":
        """Another client of ours, if an address of ours leads to it, with no router's help."""
        if to in self.ours:
            found = _Across(self._registrar.client(hit, _HIP), _HIP, to)
        elif client.relayed is not None:
            found = _Across(self._data.owner(to, hit), _ESP, client.relayed)
        else:
            return None
        return found if found.client is not None and found.client is not client else None

    def _across(self, packet: Packet, path: Path, to: "_Across", now: float) -> list[Action]:
        """From one client of ours to another, who sees us: the first may hide where it is."""
        other = to.client
        if other is None or other.path is None:
            raise Rejected("relay client nowhere")
        account = other.accounts[to.kind]
        fellow = _fellow(packet.sender)
        self._limit(packet, other, path.to, account, now, peer=to.seen, spoken=fellow)
        changed = packet.changed([params.RelayFrom(to.seen)], _HOP)
        data = _fitting(lambda: hop.extend(changed, (), params.RelayHmac, other.keys))
        return self._send(data, account, other.path, now)

    def _leaves_from(
        self, packet: Packet, client: Client, to: Address, kind: RegistrationType, now: float
    ) -> Address | None:
        """From the relayed address what belongs to data; else from where the peer spoke to us."""
        if client.relayed is not None:
            checks = packet.has(params.CandidatePriority) or packet.has(params.MappedAddress)
            permitted = packet.type not in _EXCHANGE and self._data.allows(client, to)
            if kind == _ESP or checks or permitted:
                return client.relayed
        return self._seen.get(client.hit, _NOBODY).get(to)[1]

    def may_send(self, client: Client, to: Address, now: float) -> bool:
        """Whether a client may have us send there, control packets or data.

        Not to ourselves, groups, nobody, and private IPv4 addresses inside IPv6 ones, but to what
        another client was lent; nor, for clients on the public Internet, to addresses that mean
        something on our side of a NAT or firewall only, unless from there somebody has asked for
        the client.
        """
        ip, port = to
        if not port or not one_host(ip) or is_disguised(ip) or to in self.ours:
            return False
        if self._data.lent(to):  # both may hide: neither hears the other but there
            return client.relayed is not None and (to != client.relayed or to == self._data.shared)
        if self.heard(client, to, now):
            return True
        home = client.path.to[0] if client.path is not None else ""
        if ip_address(ip).is_loopback:
            return bool(home) and ip_address(home).is_loopback
        if any(ip == own for own, _ in self.ours):
            return False
        return is_public(ip) or (bool(home) and not is_public(home))

    def heard(self, client: Client, peer: Address, now: float) -> bool:
        """Whether the client got a packet from there, lately, that was for its HIT."""
        return now - self._seen.get(client.hit, _NOBODY).get(peer)[0] < SEEN_SECONDS

    def _spoken(self, client: Client, peer: Address, now: float) -> bool:
        """Whether the client has spoken to it, lately."""
        known = self._seen.get(client.hit, _NOBODY).peers.get(peer)
        return known is not None and now - known[1] < SEEN_SECONDS

    def _note_sent(self, packet: Packet, client: Client, to: Address, now: float) -> None:
        if packet.type not in _ANSWERS:
            self._of(client).speak(to, now)

    def _of(self, client: Client) -> _Seen:
        seen = self._seen.get(client.hit)
        if seen is None:
            self._tidy()
            seen = self._seen[client.hit] = _Seen()
            if len(self._seen) > SEEN_CLIENTS:
                self._seen.popitem(last=False)
        return seen

    def _tidy(self) -> None:
        """Look at the two that wait longest for it: who is gone makes room for who comes."""
        for hit in list(islice(self._seen, 2)):
            seen = self._seen.pop(hit)
            if any(self._registrar.client(hit, kind) is not None for kind in (_HIP, _ESP)):
                self._seen[hit] = seen

    def _refuse(
        self, packet: Packet, client: Client, why: NotifyType, path: Path, now: float
    ) -> list[Action]:
        """Drop what a client has sent and say so, seldom, and in no more bytes than it had."""
        self._counters[f"not relayed: {why.name}"] += 1
        if not self._notify_limit.allow("", now):
            return []
        identity = self._identities[client.pair[0]]
        details = packet.raw[:HEADER_LENGTH]
        notify = signed.make_notify(identity, packet.sender, why, details)
        if len(notify) > len(packet.raw):
            return []
        return [Transmit(notify, path.to, path.source)]


class _Across(NamedTuple):
    """A client of ours, whose account pays, and the address at which it sees another one."""

    client: Client | None
    kind: RegistrationType
    seen: Address


def _fellow(hit: Hit) -> Address:
    """Another client of ours in tables of addresses: many are seen at the same one of ours."""
    return hit.hex(), 0


def _fitting(make: Callable[[], bytes]) -> bytes:
    try:
        return make()
    except ValueError:
        raise Rejected("too long to be relayed") from None
