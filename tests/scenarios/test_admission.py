"""Whole peers of enrolled overlays over real hosts: whom the base exchange lets in (RFC 8002)."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hipctl import (
    AssociationFailed,
    EngineConfig,
    Hit,
    HostConfig,
    HostIdentity,
    LocalHost,
    contact_from_addresses,
)
from hipctl.constants import PacketType
from overlay.accounts import AccountKey
from overlay.admission import Account, certify
from overlay.commands.init import make
from overlay.config import Profile, load_profile
from overlay.constants import DAY
from overlay.messages import TAG_LENGTH, Field, Kind, parse
from overlay.overlayfile import OverlayInfo, found_overlay
from overlay.peer import LocalPeer
from overlay.store import MemoryStore
from sim.hits import HitNet
from sim.loop import simulate
from sim.net import Net

WALL = 1_800_000_000.0
CA, OTHER_CA = (HostIdentity.from_secret(n) for n in (501, 502))
ENROLLED = found_overlay("example.org", ca=CA.host_id, admission="enrolled", rng=os.urandom)
FALSE = found_overlay("example.org", ca=OTHER_CA.host_id, admission="enrolled", rng=os.urandom)
SECOND = found_overlay("second.example", ca=CA.host_id, admission="enrolled", rng=os.urandom)
OPEN = found_overlay("open.example", rng=os.urandom)


@dataclass
class Person:
    """A profile with an account of this name in some overlays."""

    of: Profile
    identity: HostIdentity
    address: tuple[str, int]

    @property
    def hit(self) -> Hit:
        return self.identity.hit


def person(
    folder: Path,
    name: str,
    *overlays: OverlayInfo,
    ca: HostIdentity = CA,
    number: int,
    issued: float = WALL,
    names: tuple[str, ...] = (),
) -> Person:
    """Make one, with a certificate by ``ca`` in each overlay that has a CA."""
    made = make(
        folder / name,
        overlay=None,
        domain="example.org",
        seeds=(),
        words=None,
        listen=("127.0.0.1:10500",),
        sip="127.0.0.1:5060",
        private=True,
    )
    of = load_profile(made.profile)
    identity = HostIdentity.load(of.identities["device"].key)
    account, _ = AccountKey.generate(os.urandom)
    dev = account.delegate(identity.hit, int(WALL) + 300 * DAY, 1)
    certificates = []
    for info in overlays:
        if info.ca:
            issuer = ca if info is not FALSE else OTHER_CA
            for aor in (f"sip:{user}@{info.domain}" for user in names or (name,)):
                der = certify(issuer, info, account.host_id, [aor], issued, os.urandom)
                certificates.append(der)
    main = of.overlays["main"]
    members = {
        info.domain: msgspec.structs.replace(
            main,
            name=info.domain,
            info=info,
            account=Account((dev,), tuple(certificates)),
            table=msgspec.structs.replace(main.table, services={}),
        )
        for info in overlays
    }
    of = msgspec.structs.replace(of, overlays=members)
    return Person(of, identity, (f"10.0.0.{number}", 10500))


class Town:
    """A network with people's peers on it, each with a real host."""

    def __init__(self) -> None:
        self.net = Net(latency=0.01)
        self.hosts: dict[Hit, LocalHost] = {}

    @asynccontextmanager
    async def peer(self, who: Person, *known: Person, wall: float = 0) -> AsyncIterator[LocalPeer]:
        loop = asyncio.get_running_loop()
        config = HostConfig(listen=(who.address,), announce_private=True, engine=EngineConfig(k=2))
        host = LocalHost([who.identity], config, open_port=self.net.open)
        self.hosts[who.hit] = host
        for other in known:
            host.learn(other.hit, contact_from_addresses([other.address]))
        async with AsyncExitStack() as stack:
            peer = LocalPeer(
                who.of,
                host=host,
                identities={"device": who.identity},
                store=MemoryStore(),
                installed=[],
                wall=lambda: WALL + wall + loop.time(),
            )
            await stack.enter_async_context(host)
            await stack.enter_async_context(peer)
            yield peer

    def sent(self, kind: PacketType, to: Person) -> int:
        return sum(
            data[:4] == bytes(4) and data[6] == kind and there == to.address
            for _, _, there, data in self.net.log
        )


def node(peer: LocalPeer, info: OverlayInfo = ENROLLED) -> Any:
    return peer._memberships[info.domain].node


def test_who_is_certified_is_let_in_and_known_by_what_the_exchange_showed(tmp_path: Path) -> None:
    alice = person(tmp_path, "alice", ENROLLED, number=1)
    bob = person(tmp_path, "bob", ENROLLED, number=2)

    async def main() -> None:
        town = Town()
        async with town.peer(bob) as there, town.peer(alice, bob) as here:
            admitted = await node(here).greet(bob.hit)
            assert admitted is not None
            assert "sip:bob@example.org" in admitted.aors
            assert town.hosts[alice.hit].credentials(bob.hit) is not None
            assert town.hosts[bob.hit].credentials(alice.hit) is not None
            assert "sip:alice@example.org" in node(there).credentials_of(alice.hit).aors
            assert await here.owns("sip:bob@example.org", bob.hit)
            assert "not admitted" not in node(there).engine.rpc.counters
        wire = b"".join(data for *_, data in town.net.log)
        assert b"alice@example.org" not in wire

    simulate(main)


async def refused(town: Town, who: Person, by: Person) -> None:
    """``who`` asks for an association and gets none."""
    with pytest.raises(AssociationFailed):
        await town.hosts[who.hit].connect(by.hit, timeout=30.0)
    for one, other in ((who, by), (by, who)):
        assert not town.hosts[one.hit].connected(other.hit)
    assert not town.hosts[by.hit].engine.inbound
    assert not town.sent(PacketType.R2, who)


Make = Callable[[Path], Person]
BAD: dict[str, tuple[Make, str]] = {
    "of another CA": (
        lambda folder: person(folder, "mallory", FALSE, number=1),
        "CREDENTIALS_REQUIRED",  # shown for another overlay: nothing, as far as we know
    ),
    "of no overlay of ours": (
        lambda folder: person(folder, "mallory", OPEN, number=1),
        "CREDENTIALS_REQUIRED",
    ),
    "expired": (
        lambda folder: person(folder, "mallory", ENROLLED, number=1, issued=WALL - 179.9 * DAY),
        "INVALID_CERTIFICATE",
    ),
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD.keys())
def test_a_wrong_certificate_gets_no_association(make: tuple[Make, str], tmp_path: Path) -> None:
    mallory, bob = make[0](tmp_path), person(tmp_path, "bob", ENROLLED, number=2)

    async def main() -> None:
        town = Town()
        async with town.peer(bob, wall=DAY), town.peer(mallory, bob):
            await refused(town, mallory, bob)
        assert town.hosts[mallory.hit].counters()[f"NOTIFY {make[1]}"]

    simulate(main)


def test_forged_credentials_get_no_association(tmp_path: Path) -> None:
    """Mallory shows what Alice has shown: it is Alice's device that it speaks for."""
    alice = person(tmp_path, "alice", ENROLLED, number=1)
    mallory = person(tmp_path, "mallory", ENROLLED, number=3)
    bob = person(tmp_path, "bob", ENROLLED, number=2)

    async def main() -> None:
        town = Town()
        async with town.peer(bob), town.peer(alice, bob), town.peer(mallory, bob):
            await town.hosts[alice.hit].connect(bob.hit)
            stolen = town.hosts[bob.hit].credentials(alice.hit)
            assert stolen is not None
            policy = town.hosts[mallory.hit].engine._shared.desk._policy
            policy.shown = lambda *_: stolen  # type: ignore[method-assign,union-attr]
            with pytest.raises(AssociationFailed):
                await town.hosts[mallory.hit].connect(bob.hit, timeout=30.0)
            assert not town.hosts[bob.hit].connected(mallory.hit)
        assert town.hosts[mallory.hit].counters()["NOTIFY INVALID_CERTIFICATE"]

    simulate(main)


def test_a_host_with_an_open_overlay_associates_with_strangers_but_admits_none_elsewhere(
    tmp_path: Path,
) -> None:
    stranger = person(tmp_path, "stranger", OPEN, number=1)
    bob = person(tmp_path, "bob", ENROLLED, OPEN, number=2)

    async def main() -> None:
        town = Town()
        async with town.peer(bob) as there, town.peer(stranger, bob) as here:
            await town.hosts[stranger.hit].connect(bob.hit)
            assert await node(here, OPEN).greet(bob.hit) is not None
            assert node(there, OPEN).credentials_of(stranger.hit) is not None
            assert node(there).credentials_of(stranger.hit) is None
            shown = town.hosts[stranger.hit].credentials(bob.hit)
            assert shown is not None
            assert not shown.certificates  # nothing of example.org

    simulate(main)


def test_what_an_association_was_made_for_does_not_tell_of_other_overlays(tmp_path: Path) -> None:
    alice = person(tmp_path, "alice", ENROLLED, SECOND, number=1)
    bob = person(tmp_path, "bob", ENROLLED, SECOND, number=2)

    async def main() -> None:
        town = Town()
        async with town.peer(bob) as there, town.peer(alice, bob) as here:
            assert await node(here, SECOND).greet(bob.hit) is not None
            shown = town.hosts[bob.hit].credentials(alice.hit)
            assert shown is not None
            assert len(shown.certificates) == 1
            assert node(there).credentials_of(alice.hit) is None
            # the other overlay's come in its own HELLO, once it is about that one
            assert await node(here).greet(bob.hit) is not None
            assert "sip:alice@example.org" in node(there).credentials_of(alice.hit).aors

    simulate(main)


def test_names_that_did_not_fit_the_exchange_are_shown_in_hello(tmp_path: Path) -> None:
    alice = person(tmp_path, "alice", ENROLLED, number=1, names=("alice", "al", "alicia"))
    bob = person(tmp_path, "bob", ENROLLED, number=2)

    async def main() -> None:
        town = Town()
        async with town.peer(bob) as there, town.peer(alice, bob) as here:
            assert await node(here).greet(bob.hit) is not None
            shown = town.hosts[bob.hit].credentials(alice.hit)
            assert shown is not None
            assert len(shown.certificates) == 1
            assert len(node(there).credentials_of(alice.hit).aors) >= 3  # one certifies itself
            for *_, data in town.net.log:
                assert data[:4] != bytes(4) or len(data) - 4 <= 1_232

    simulate(main)


def test_an_exchange_that_will_travel_in_fragments_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("hipctl.credentials.UNFRAGMENTED_MAX", 900)
    alice = person(tmp_path, "alice", ENROLLED, number=1)

    async def main() -> None:
        async with Town().peer(alice):
            assert "overlay.example.org.account: with these certificates" in caplog.text

    simulate(main)


def hellos(net: HitNet) -> list[tuple[Hit, bool]]:
    """(from whom, with credentials) of each HELLO and each answer to one."""
    found = []
    for _, source, _, _, data in net.log:
        message = parse(data[TAG_LENGTH:])
        if message.kind == Kind.HELLO:
            found.append((source, Field.CREDENTIALS in message.fields))
    return found


def test_hello_shows_no_credentials_twice(tmp_path: Path) -> None:
    alice = person(tmp_path, "alice", ENROLLED, number=1)
    bob = person(tmp_path, "bob", ENROLLED, number=2)

    async def main() -> None:
        net = HitNet(logging=True)
        peers = {}
        async with AsyncExitStack() as stack:
            for who in (alice, bob):
                peers[who.hit] = LocalPeer(
                    who.of,
                    host=net.host(who.hit),
                    identities={"device": who.identity},
                    store=MemoryStore(),
                    installed=[],
                    wall=lambda: WALL + asyncio.get_running_loop().time(),
                )
                await stack.enter_async_context(peers[who.hit])
            net.hosts[alice.hit].learn(bob.hit, net.hosts[bob.hit].contact(bob.hit))
            admitted = await node(peers[alice.hit]).greet(bob.hit)
            assert "sip:bob@example.org" in admitted.aors
            net.hosts[alice.hit].disconnect(bob.hit)
            net.hosts[bob.hit].learn(alice.hit, net.hosts[alice.hit].contact(alice.hit))
            node(peers[bob.hit]).engine.rpc.sessions.clear()
            assert await node(peers[bob.hit]).greet(alice.hit) is not None
            await asyncio.sleep(10)
        assert {source for source, _ in hellos(net)} == {alice.hit, bob.hit}
        assert not any(shown for _, shown in hellos(net))

    simulate(main)
