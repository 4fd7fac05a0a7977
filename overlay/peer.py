"""The composition root: one host, a node and a directory per overlay, then the services.

Everything is built here, once, top to bottom, and stopped in reverse; nobody else constructs a
Host, a Node or a Service. ``p2psip run`` is this class with a control socket beside it.
"""

import asyncio
import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from hipctl import (
    EngineConfig,
    Hit,
    Host,
    HostConfig,
    HostConfigRefused,
    HostIdentity,
    LocalHost,
    Shown,
)
from overlay.accounts import split_aor
from overlay.admission import Credentials, admit
from overlay.answering import Answering
from overlay.callability import Callability
from overlay.config import JoinedOverlay, Profile, parse_address
from overlay.connecting import connect
from overlay.contacts import ContactBook
from overlay.directory import Directory
from overlay.environment import Settings
from overlay.errors import (
    ConfigError,
    CredentialsRefused,
    LookupFailed,
    NotFound,
    OverlayError,
)
from overlay.layers import LEAST_STOP, Layers
from overlay.membership import Membership, credentials_in, load_policy
from overlay.messages import overlay_tag
from overlay.node import Node, is_abroad
from overlay.overlayfile import Seed
from overlay.policy import Evidence, Verdict
from overlay.providers import Providers
from overlay.publisher import Publisher
from overlay.reception import Reception, shown_for
from overlay.renewal import Renewal
from overlay.scout import KINDS, Home
from overlay.seat import Seat
from overlay.services import Contacts, Provider, Service, Target, Trace, load_services
from overlay.store import SqliteStore, Store
from overlay.trace import TraceRing

if TYPE_CHECKING:
    from overlay.lan import LanPresence

_log = logging.getLogger(__name__)

NAMES_AGE: Final = 10.0  # seconds for which the names that an account holds aren't worked out anew
STOP_SERVICE: Final = 0.8  # seconds that stopping one may take, as the next ones
STOP_PUBLISHER: Final = 1.8
STOP_NODE: Final = 0.2
STOP_HOST: Final = 0.6
PER_GROUP: Final = 2  # contacts of a bucket in one /24 or /48, where all may in


class LocalPeer:
    """A whole peer; implements overlay.services.Peer.

    Args:
        profile: what to build.
        host: the HIP host to use in place of one of our own; for tests.
        identities: by name, in place of the profile's key files; for tests.
        store: in place of the file in the profile's state directory; for tests.
        installed: services that may be named, in place of the entry points; for tests.
        keylog: where to write the secrets of associations, for debugging.
        stop: called when somebody asks us over the control socket to stop.
        now: seconds, monotonic and finer than the loop's own clock, which uvloop rounds to 1 ms.
        wall: Unix seconds.
        rng: random bytes.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        host: Host | None = None,
        identities: Mapping[str, HostIdentity] | None = None,
        store: Store | None = None,
        installed: Iterable[EntryPoint] | None = None,
        keylog: Path | None = None,
        stop: Callable[[], None] | None = None,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        rng: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._profile = profile
        self._given = (host, identities, store)
        self._installed = installed
        self._keylog = keylog
        self._stop = stop
        self._now, self._wall, self._rng = now, wall, rng
        self._layers = Layers()
        self._memberships: dict[str, Membership] = {}  # by domain
        self._services: dict[str, Service] = {}
        self._names: dict[str, Hit] = {}
        self._names_until = float("-inf")
        self._callable: dict[Hit, Callability] = {}
        self._lan: LanPresence | None = None
        self._ready = False

    # --- building and stopping ---

    async def __aenter__(self) -> Self:
        """Build and start everything; joining the overlays goes on behind.

        Raises:
            ConfigError: the profile is wrong, or a service refuses its table.
            HipError: a key file or the host's address cannot be used.
        """
        self._loop = asyncio.get_running_loop()
        self._trace = TraceRing(self._now, self._wall)
        self._contacts = ContactBook(self._profile.peer.contacts)
        self._policy = load_policy(self._profile.peer.policy)
        began = self._now()
        try:
            await self._build()
            self._answering = Answering(
                peer=self,
                profile=self._profile,
                host=self._host,
                identities=self._identities,
                members=self._memberships,
                callable=self._callable,
                services=self._services,
                lan=self._lan,
                trace=self._trace,
                contacts=self._contacts,
                now=self._now,
                began=began,
            )
        except BaseException:
            await self._layers.undo()
            raise
        self._ready = True
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Stop everything in reverse, in time; see Layers."""
        self._ready = False
        await self._layers.close()

    async def _build(self) -> None:
        given_host, given_identities, given_store = self._given
        self._identities = given_identities or {
            name: HostIdentity.load(table.key) for name, table in self._profile.identities.items()
        }
        engine = EngineConfig()
        self._reception, credentials = self._open_reception(engine)
        self._lan = self._on_lan() if self._profile.host.lan else None
        if given_host is not None:
            self._host: Host = given_host
            self._host.use(self._reception, self._wall)
            self._host.disclose_by(self._may_learn)
        else:
            self._host = await self._start_host(engine)
        store = given_store or self._open_store()
        if store is not given_store:
            self._layers.callback(store.close)
        self._lie_low()
        for joined in self._profile.overlays.values():
            await self._join(joined, store, credentials[joined.name])
        for hit in dict.fromkeys(member.hit for member in self._memberships.values()):
            await self._keep_callable(hit)
        if self._lan is not None:
            self._lan.use(self._host, self._memberships.values())
            await self._layers.enter(self._lan, LEAST_STOP, "the LAN")
        await self._watch_accounts()
        for joined in self._profile.overlays.values():
            await self._start_services(joined)

    def _open_reception(self, engine: EngineConfig) -> tuple[Reception, dict[str, Credentials]]:
        """What our overlays show and ask for in base exchanges, from the first one on.

        Returns:
            The policy, and what we show in each overlay, by its name in the profile.

        Raises:
            ConfigError: an overlay would not let us in, or no packet holds what it asks for.
        """
        reception = Reception(engine, public=self._profile.host.public_certificates)
        found: dict[str, Credentials] = {}
        for joined in self._profile.overlays.values():
            identity = self._identities[joined.table.identity]
            shown = found[joined.name] = credentials_in(joined, identity.hit, self._wall())
            try:
                fits = reception.open(identity, joined.info, shown)
            except HostConfigRefused as error:
                raise ConfigError(f"overlay.{joined.name}.account: {error}") from None
            if not fits:
                _log.warning(
                    "overlay.%s.account: with these certificates a base exchange travels in "
                    "fragments, which some networks lose; a P-256 key or fewer names would help",
                    joined.name,
                )
        return reception, found

    async def _start_host(self, engine: EngineConfig) -> Host:
        table = self._profile.host
        listen = [parsed for text in table.places if (parsed := parse_address(text))]
        announce = [parsed for text in table.announce if (parsed := parse_address(text))]
        config = HostConfig(
            listen=listen,
            announce=announce,
            announce_private=table.private_addresses,
            private_locators=table.private_locators,
            port_mapping=table.port_mapping,
            lan_links=table.lan_links,
            keylog=self._keylog or table.keylog,
            engine=engine,
        )
        host = LocalHost(list(self._identities.values()), config, rng=self._rng)
        host.use(self._reception, self._wall)
        host.disclose_by(self._may_learn)
        await self._layers.enter(host, STOP_HOST, "the HIP host")
        return host

    def _may_learn(self, local: Hit, peer: Hit, shown: Shown) -> bool:
        """Whether who has begun an association with us may learn our addresses: contacts may.

        Others hear from us through relays until our user has answered a call of theirs; whom we
        call or ask ourselves learns them anyway.
        """
        kept = self._callable.get(local)
        if self._profile.host.visible or (kept is not None and kept.told):
            return True  # what is published tells it, too
        for member in self._memberships.values():
            data = shown_for(overlay_tag(member.joined.info.id), shown)
            if member.hit != local or data is None:
                continue
            with contextlib.suppress(CredentialsRefused):
                credentials = Credentials.parse(data)
                admitted = admit(credentials, member.joined.info, peer, self._wall())
                if any(self._contacts.knows(aor) for aor in admitted.aors):
                    return True
        return False

    def _open_store(self) -> Store:
        state = self._profile.peer.state
        try:
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
            return SqliteStore(state / "records.sqlite")
        except OSError as error:
            raise ConfigError(f"peer.state: {state}: {error.strerror}; choose another") from None

    async def _join(self, joined: JoinedOverlay, store: Store, shown: Credentials) -> None:
        """Start our node and directory in one overlay; joining it goes on behind."""
        table, info = joined.table, joined.info
        identity = self._identities[table.identity]
        node = Node(
            self._host,
            identity.hit,
            info,
            shown,
            store,
            Settings(
                k=table.k,
                alpha=table.alpha,
                replicas=table.replicas,
                per_group=PER_GROUP if info.admission == "open" else None,
            ),
            seeds=joined.seeds,
            wall=self._wall,
            rng=self._rng,
        )
        self._reception.attach(identity.hit, info, node.knows, node.offset)
        await self._layers.enter(node, STOP_NODE, f"overlay {joined.name}")
        publisher = Publisher(node, identity)
        await self._layers.enter(publisher, STOP_PUBLISHER, f"registrations in {joined.name}")
        directory = Directory(node, publisher, joined.account)
        await self._layers.enter(directory, LEAST_STOP, f"names in {joined.name}")
        providers = Providers(node, publisher, shown)
        self._memberships[info.domain] = Membership(
            joined, identity.hit, node, directory, providers
        )

    def _lie_low(self) -> None:
        """Nobody but seeds learns where we are, until what keeps us callable knows more.

        Where they are all on our LAN, what we publish may name us: nobody else hears us there.
        """
        seeds: dict[Hit, list[Seed]] = {}
        for joined in self._profile.overlays.values():
            found = seeds.setdefault(self._identities[joined.table.identity].hit, [])
            found += (*joined.info.seeds, *joined.seeds)
        for hit, there in seeds.items():
            if self._hides(hit):
                others = [seed for seed in there if seed.hit not in self._host.hits]
                self._host.hide(hit, hidden=any(is_abroad(seed, self._host) for seed in others))
                self._host.seclude(hit, {seed.hit for seed in others})

    async def _keep_callable(self, hit: Hit) -> None:
        """Let one of our HITs be called, by whatever way there is."""
        members = [member for member in self._memberships.values() if member.hit == hit]
        kept = Callability(
            self._host,
            hit,
            [Home(member.node, member.providers) for member in members],
            visible=self._profile.host.visible,
            hides=self._hides(hit),
            wall=self._wall,
            rng=self._rng,
        )
        await self._layers.enter(kept, LEAST_STOP, f"what keeps {hit} callable")
        self._callable[hit] = kept

    async def _watch_accounts(self) -> None:
        """Let account files that are written while we run be shown."""

        def renewed() -> None:
            self._names_until = float("-inf")

        renewal = Renewal(
            self._memberships, self._identities, self._reception, self._wall, renewed
        )
        await self._layers.enter(renewal, LEAST_STOP, "what watches accounts")

    def _on_lan(self) -> "LanPresence":
        """What answers on our LANs, and looks there for others; who is invited may come in."""
        from overlay.lan import LanPresence  # noqa: PLC0415  seldom needed

        return LanPresence(
            self._profile.peer.state, self._reception, self._wall, self._profile.host.lan_links
        )

    def _hides(self, hit: Hit) -> bool:
        """Whether one of our HITs is no server, whose address everybody learns, nor meant to."""
        overlays = self._profile.overlays.values()
        ours = [j.table for j in overlays if self._identities[j.table.identity].hit == hit]
        serves = any(table.services.keys() & KINDS for table in ours)
        return not self._profile.host.visible and not serves

    async def _start_services(self, joined: JoinedOverlay) -> None:
        """Construct the services of one overlay, then start them in the profile's order."""
        tables = joined.table.services
        seat = Seat(self, self._memberships[joined.info.domain].providers)
        try:
            services = load_services(seat, tables, self._installed)
            for name, service in zip(tables, services, strict=True):
                await service.start()
                self._layers.push(service.stop, STOP_SERVICE, f"service {name}")
                known = name if name not in self._services else f"{joined.name}.{name}"
                self._services[known] = service
        except ConfigError as error:
            raise type(error)(f"overlay.{joined.name}.{error}") from None

    # --- overlay.services.Peer ---

    @property
    def host(self) -> Host:
        """The HIP host."""
        return self._host

    @property
    def domains(self) -> Sequence[str]:
        """SIP domains of the joined overlays, lower case."""
        return tuple(self._memberships)

    @property
    def contacts(self) -> Contacts:
        """The user's petnames."""
        return self._contacts

    @property
    def trace(self) -> Trace:
        """Where a service notes what happens in a call."""
        return self._trace

    def aors(self) -> Mapping[str, Hit]:
        """Canonical AoRs that this peer holds -> the local HIT that answers for each."""
        now = self._loop.time()
        if now >= self._names_until:
            self._names_until = now + NAMES_AGE
            self._names = {
                aor: member.hit
                for member in self._memberships.values()
                if member.joined.account is not None
                for aor in member.joined.account.names(member.joined.info, self._wall())
            }
        return self._names

    async def resolve(self, aor: str) -> list[Target]:
        """Find the devices behind a canonical AoR, verified, nearest expiry last.

        Raises:
            NotFound: nobody is registered under it, or no joined overlay has its domain.
            LookupFailed: the overlay could not be asked.
        """
        return await self._member(aor).directory.resolve(aor)

    async def connect(self, peer: Hit, *, local: Hit, timeout: float = 5.0) -> None:
        """Have an association of ``local`` with ``peer``; see ``services.Peer``.

        Raises:
            AssociationFailed: it could not be done within ``timeout`` seconds.
        """

        async def look_up() -> None:
            for member in self._memberships.values():
                if member.hit == local and await member.directory.reach(peer):
                    return

        await connect(self._host, peer, local=local, look_up=look_up, timeout=timeout)

    async def owns(self, aor: str, hit: Hit) -> bool:
        """Whether ``hit`` may speak as the canonical ``aor``; may take a lookup, never raises."""
        try:
            return await self._member(aor).directory.owns(aor, hit)
        except OverlayError:
            return False

    async def publish(self, aor: str, port: int) -> None:
        """Say in the DHT that ``aor`` answers at ``port`` of its HIT until ``withdraw``.

        Raises:
            NotFound: this peer does not hold ``aor``.
        """
        if aor not in self.aors():
            raise NotFound(f"{aor} is not a name of this peer")
        await self._member(aor).directory.publish(aor, port)

    async def withdraw(self, aor: str) -> None:
        """Take ``aor`` out of the DHT; harmless when it is not in."""
        try:
            member = self._member(aor)
        except NotFound:
            return
        await member.directory.withdraw(aor)

    def advertise(self, kind: str, port: int = 0, capacity: Callable[[], int] = lambda: 0) -> None:
        """Say in every overlay that this peer offers ``kind``; services have their own, see Seat.

        Raises:
            ConfigError: ``kind`` is no type of service.
        """
        for member in self._memberships.values():
            member.providers.advertise(kind, port, capacity)

    async def unadvertise(self, kind: str) -> None:
        """Take it out of every overlay; harmless when it is not in."""
        for member in self._memberships.values():
            await member.providers.unadvertise(kind)

    async def find(self, kind: str) -> list[Provider]:
        """Who offers ``kind`` in any of our overlays.

        Raises:
            LookupFailed: none of them could be asked.
        """
        found: dict[Hit, Provider] = {}
        failed = 0
        for member in self._memberships.values():
            try:
                found |= {each.hit: each for each in await member.providers.find(kind)}
            except LookupFailed:
                failed += 1
                if failed == len(self._memberships):
                    raise
        return list(found.values())

    def judge(self, evidence: Evidence) -> Verdict:
        """What to do with who knocks; petnames and the block list are looked up here."""
        evidence = dataclasses.replace(
            evidence,
            contact=evidence.contact or self._contacts.knows(evidence.caller),
            blocked=evidence.blocked or evidence.caller in self._contacts.blocked(),
        )
        return self._policy.judge(evidence)

    def _member(self, aor: str) -> Membership:
        domain = split_aor(aor)[1]
        member = self._memberships.get(domain)
        if member is None:
            raise NotFound(f"no joined overlay has the domain {domain}")
        return member

    # --- what the control socket asks ---

    async def answer(self, what: str, arguments: Mapping[str, Any]) -> Any:
        """Do what one of the user's commands asks; see overlay.control.

        Raises:
            OverlayError: it cannot be done; the message says why.
        """
        if what == "stop":
            if self._stop is not None:  # after the answer is out
                asyncio.get_running_loop().call_later(0.01, self._stop)
            return {"stopping": True}
        if not self._ready:
            raise LookupFailed("the peer is starting or stopping; try again in a moment")
        return await self._answering.answer(what, arguments)

    def summary(self) -> dict[str, Any]:
        """Who and where this peer is, in few words: what ``ready`` tells."""
        return self._answering.summary()

    def status(self) -> dict[str, Any]:
        """Everything that ``p2psip status`` shows; JSON-ready."""
        return self._answering.status()
