"""A peer takes up what is written into its account file while it runs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from hipctl import HostIdentity
from overlay.accounts import AccountKey
from overlay.admission import Account, certify, load_account, save_account
from overlay.commands.init import make
from overlay.config import Profile, load_profile
from overlay.overlayfile import Seed, found_overlay, save_overlay
from overlay.peer import LocalPeer
from overlay.renewal import LOOK
from overlay.store import MemoryStore
from sim.hits import HitNet
from sim.loop import simulate
from sim.people import CA, DAY, counted

WALL = 1_800_000_000.0
AOR = "sip:alice@home.example"


class Home:
    """Two peers of an overlay with a CA; alice's account file may be written."""

    def __init__(self, folder: Path, admission: Literal["open", "enrolled"]) -> None:
        self.folder = folder
        self.net = HitNet(latency=(0.001, 0.003), seed=5)
        self.info = found_overlay("home.example", ca=CA.host_id, admission=admission, rng=counted)
        self.words: dict[str, str | None] = {}

    def make(self, name: str, *seeds: str) -> Profile:
        save_overlay(self.info, self.folder / "overlay.toml")
        made = make(
            self.folder / name,
            overlay=self.folder / "overlay.toml",
            domain="",
            seeds=seeds,
            words=None,
            listen=("127.0.0.1:10500",),
            sip="127.0.0.1:5060",
            private=True,
        )
        self.words[name] = made.words
        text = made.profile.read_text()
        made.profile.write_text(text[: text.index("[overlay.main.services.sip]")])
        return load_profile(made.profile)

    def certificate(self, of: Profile, *aors: str, days: int = 90) -> bytes:
        (joined,) = of.overlays.values()
        assert joined.account is not None
        account = joined.account.host_id
        return certify(CA, self.info, account, aors, WALL, counted, life=days * DAY)

    def peer(self, of: Profile) -> LocalPeer:
        loop = asyncio.get_running_loop()
        return LocalPeer(
            of,
            host=self.net.hosts.get(device(of).hit) or self.net.host(device(of).hit),
            store=MemoryStore(),
            wall=lambda: WALL + loop.time(),
            now=loop.time,
        )


def device(of: Profile) -> HostIdentity:
    return HostIdentity.load(of.identities["device"].key)


def file_of(of: Profile) -> Path:
    (joined,) = of.overlays.values()
    assert joined.table.account is not None
    return joined.table.account


def write(of: Profile, *certificates: bytes, delegations: Any = ()) -> None:
    held = load_account(file_of(of))
    more = Account((*held.delegations, *delegations), (*held.certificates, *certificates))
    save_account(more, file_of(of))


@asynccontextmanager
async def two(home: Home) -> AsyncIterator[tuple[Profile, LocalPeer, LocalPeer]]:
    one = home.make("alice")
    other = home.make("bob", str(Seed(device(one).hit, "127.0.0.1", 10500)))
    if home.info.admission == "enrolled":
        write(one, home.certificate(one, "sip:a@home.example"))
        write(other, home.certificate(other, "sip:b@home.example"))
        one, other = load_profile(one.path), load_profile(other.path)
    hosts = [home.net.host(device(each).hit) for each in (one, other)]
    hosts[1].learn(device(one).hit, b"sim:" + device(one).hit)
    async with home.peer(one) as alice, home.peer(other) as bob:
        await bob.answer("status", {"wait": 30})
        yield one, alice, bob


def test_a_certificate_that_comes_while_the_peer_starts_is_taken_up(tmp_path: Path) -> None:
    async def main() -> None:
        home = Home(tmp_path, "open")
        of = home.make("alice")
        write(of, home.certificate(of, AOR))  # the profile was read, the peer does not run yet
        async with home.peer(of) as alice:
            await asyncio.sleep(LOOK + 1)
            assert AOR in alice.aors()

    simulate(main)


@pytest.mark.parametrize("admission", ["open", "enrolled"])
def test_a_certificate_that_comes_while_it_runs_gives_the_peer_its_name(
    tmp_path: Path, admission: Literal["open", "enrolled"]
) -> None:
    async def main() -> None:
        home = Home(tmp_path, admission)
        async with two(home) as (of, alice, bob):
            assert AOR not in alice.aors()
            assert not await bob.owns(AOR, device(of).hit)
            write(of, home.certificate(of, AOR))
            await asyncio.sleep(LOOK + 1)
            assert alice.aors()[AOR] == device(of).hit
            assert AOR in alice.status()["aors"]
            assert await bob.owns(AOR, device(of).hit)  # it shows the certificate when asked
            await alice.publish(AOR, 5060)
            await asyncio.sleep(2)
            (target,) = await bob.resolve(AOR)
            assert target.hit == device(of).hit

    simulate(main)


def test_a_delegation_that_was_renewed_is_in_what_is_published_within_seconds(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        home = Home(tmp_path, "open")
        async with two(home) as (of, alice, bob):
            (own,) = alice.aors()
            await alice.publish(own, 5060)
            await asyncio.sleep(2)
            member = alice._memberships["home.example"]
            before = member.directory._publisher.record(own)
            key = AccountKey.from_words(str(home.words["alice"]))
            until = int(WALL) + 300 * DAY
            write(of, delegations=[key.delegate(device(of).hit, until, 2**50)])
            await asyncio.sleep(LOOK + 2)
            record = member.directory._publisher.record(own)
            assert before is not None
            assert record is not None
            assert record.seq > before.seq
            assert (2**50).to_bytes(8, "big") in record.payload
            (target,) = await bob.resolve(own)
            assert target.hit == device(of).hit

    simulate(main)


def test_what_is_no_use_is_said_and_the_peer_goes_on_with_what_it_had(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        home = Home(tmp_path, "open")
        async with two(home) as (of, alice, _):
            before = dict(alice.aors())
            good = file_of(of).read_text()
            stranger = load_account(file_of(home.make("carol")))
            for wrong, why in (
                ("no TOML", "goes on with what it had"),
                (None, "restart the peer"),
            ):
                caplog.clear()
                if wrong is None:
                    save_account(stranger, file_of(of))
                else:
                    file_of(of).write_text(wrong)
                await asyncio.sleep(LOOK + 1)
                assert [text for text in caplog.messages if why in text]
                assert alice.aors() == before
            caplog.clear()
            file_of(of).unlink()
            await asyncio.sleep(LOOK + 1)
            file_of(of).write_text(good)
            write(of, home.certificate(of, AOR))
            await asyncio.sleep(LOOK + 1)
            assert AOR in alice.aors()
            assert caplog.messages == []

    simulate(main)
