"""Real SIP clients on real peers: long calls, texts, and two lies that are found out."""

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
from net.intruder import Intruder
from net.programs import require_program

from hipctl import Hit
from overlay.config import load_profile
from overlay.errors import LookupFailed
from overlay.overlayfile import OverlayInfo
from overlay.records import Record
from sipgw.demo.audio import audio_ncc, load, melody, save
from sipgw.demo.baresip import Baresip
from sipgw.demo.clients import Account, CallRefused, Client
from sipgw.demo.linphone import Linphone
from sipgw.demo.process import StepFailed
from sipgw.demo.scenario import MakeClient
from sipgw.demo.world import DOMAIN, World

pytestmark = [pytest.mark.net, pytest.mark.slow, pytest.mark.timeout(180)]

TALK = 40.0  # seconds: longer than the 32 s after which a lost ACK ends a call
GOOD = 0.95
SOON = 10.0


async def start(
    stack: AsyncExitStack, world: World, who: tuple[str, str], make: MakeClient, seconds: float
) -> Client:
    """Start a client at a peer and wait until its registration stands in the overlay.

    ``who``: its user, and the friend whom it writes to.
    """
    name, friend = who
    folder = world.folder / f"{name}-client"
    folder.mkdir()
    microphone = world.folder / f"{name}.wav"
    tune = list(world.peers).index(name)
    save(microphone, melody(seconds, tune=tune))
    peer = world.peers[name]
    client = make(Account(peer.aor, peer.sip, world.peers[friend].aor), folder, microphone)
    stack.push_async_callback(client.stop)
    await client.start()
    await client.registered(SOON)
    await world.published(name, SOON)
    return client


async def call_and_write(one: Client, other: Client) -> float:
    """Let one call the other, write both ways meanwhile, and hang up; how long it lasted."""
    await one.call(other.account.aor, SOON)
    await other.answered(SOON)
    began = time.monotonic()
    await asyncio.sleep(TALK / 2)
    await one.message("how is it there")
    assert one.account.aor in await other.received("how is it there", SOON)
    await other.message("no server here")
    assert other.account.aor in await one.received("no server here", SOON)
    await asyncio.sleep(TALK / 2)
    lasted = time.monotonic() - began
    await other.hang_up()
    await one.ended(SOON)
    await other.ended(SOON)
    return lasted


async def two_long_calls(folder: Path) -> dict[str, float]:
    """Two calls at the same time; how well each client heard the other."""
    kinds: dict[str, MakeClient] = {
        "alice": Baresip,
        "bob": Baresip,
        "carol": Linphone,
        "dave": Baresip,
    }
    pairs = [("alice", "bob"), ("carol", "dave")]
    friends = dict(pairs) | {b: a for a, b in pairs}
    async with World(folder, list(kinds)) as world, AsyncExitStack() as stack:
        await world.joined()
        clients = {
            name: await start(stack, world, (name, friends[name]), make, TALK + 10)
            for name, make in kinds.items()
        }
        async with asyncio.TaskGroup() as group:
            calls = {
                pair: group.create_task(call_and_write(clients[pair[0]], clients[pair[1]]))
                for pair in pairs
            }
        heard = {}
        for pair, task in calls.items():
            for listener, speaker in (pair, pair[::-1]):
                tune = list(kinds).index(speaker)
                sound = load(clients[listener].heard())
                played = melody(TALK + 10, tune=tune)
                heard[listener] = audio_ncc(played, sound, task.result())
        for name in kinds:  # every port and call is given back
            status = (await world.status(name))["services"]["sip"]
            assert status["calls"] == 0, (name, status)
        return heard


def test_calls_of_40_seconds_sound_as_they_should_and_texts_arrive(tmp_path: Path) -> None:
    require_program("baresip", "linphonec")
    heard = asyncio.run(two_long_calls(tmp_path))
    assert all(score >= GOOD for score in heard.values()), heard


async def lies(folder: Path) -> dict[str, int]:
    """What bob's gateway answers to requests with a true and with a forged From."""
    async with (
        World(folder, ["alice", "bob"], absent=["mallory"]) as world,
        AsyncExitStack() as stack,
    ):
        await world.joined()
        alice = await start(stack, world, ("alice", "bob"), Baresip, 5)
        bob = await start(stack, world, ("bob", "alice"), Baresip, 5)
        mallory = await stack.enter_async_context(Intruder(world.peers["mallory"]))
        target, to = Hit.parse(world.peers["bob"].hit), bob.account.aor

        async def ask(method: str, sender: str, whom: str = to) -> int:
            return await mallory.request(method, whom, sender, target, SOON)

        found = {
            "forged text": await ask("MESSAGE", alice.account.aor),
            "forged call": await ask("INVITE", alice.account.aor),
        }
        with pytest.raises(StepFailed):  # nothing of it reached bob's client
            await bob.answered(0.5)
        with pytest.raises(StepFailed):
            await bob.received("psst", 0.1)
        me = world.peers["mallory"].aor
        found["nobody"] = await ask("INVITE", me, f"sip:nobody@{DOMAIN}")
        found["true text"] = await ask("MESSAGE", me)
        assert me in await bob.received("psst", SOON)
        found["true call"] = await ask("INVITE", me)
        return found


def test_a_from_that_the_senders_hit_has_no_right_to_is_refused(tmp_path: Path) -> None:
    require_program("baresip")
    found = asyncio.run(lies(tmp_path))
    assert found["forged call"] == found["forged text"] == 404
    assert found["nobody"] == 404  # who asks learns nothing about who exists
    assert found["true call"] in range(180, 300)  # so it was the name that was refused
    assert found["true text"] == 200


def believe_anything(record: Record, overlay: OverlayInfo, wall: float) -> None:
    """What the intruder's own node checks of a record."""


async def false_registrations(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        World(folder, ["alice", "bob", "carol"], absent=["mallory"]) as world,
        AsyncExitStack() as stack,
    ):
        await world.joined()
        alice = await start(stack, world, ("alice", "bob"), Baresip, 5)
        monkeypatch.setattr("overlay.node.check_record", believe_anything)
        mallory = await stack.enter_async_context(Intruder(world.peers["mallory"]))
        aor = alice.account.aor
        (own,) = mallory.account.certificates
        (hers,) = await mallory.node.get("REG", mallory.registration(aor, own).key)
        assert str(hers.owner_hit) == world.peers["alice"].hit

        for certificate in (alice_certificate(world), own):
            forged = mallory.registration(aor, certificate)
            stored = 0
            with suppress(LookupFailed):
                stored = await mallory.node.put(forged)
            assert stored <= 1, "somebody besides the intruder keeps it"
            assert forged.raw in [r.raw for r in mallory.node.engine.storage], "the bait is gone"
            for name in ("bob", "carol", "alice"):  # they ask the intruder too, who hands it out
                found = await world.ask(name, "resolve", aor)
                hits = {target["hit"] for target in found["targets"]}
                assert hits == {world.peers["alice"].hit}, (name, found)
        refusals = [
            reason
            for name in ("alice", "bob", "carol")
            for overlay in (await world.status(name))["overlays"].values()
            for reason, count in overlay["counters"].items()
            if count
        ]
        assert any("certificate of another account" in reason for reason in refusals), refusals
        assert any("certificate for another AoR" in reason for reason in refusals), refusals


def alice_certificate(world: World) -> bytes:
    """Alice's certificate, which is public: it stands in her record."""
    profile = load_profile(world.peers["alice"].folder / "profile.toml")
    (joined,) = profile.overlays.values()
    assert joined.account is not None
    (certificate,) = joined.account.certificates
    return certificate


def test_a_registration_for_an_aor_of_another_account_is_refused_by_storers_and_readers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_program("baresip")
    asyncio.run(false_registrations(tmp_path, monkeypatch))


async def refused_registration(folder: Path) -> None:
    async with World(folder, ["alice", "bob"]) as world, AsyncExitStack() as stack:
        await world.joined()
        bob = await start(stack, world, ("bob", "alice"), Baresip, 5)
        peer, microphone = world.peers["alice"], world.folder / "bob.wav"
        (folder / "thief").mkdir()
        thief = Baresip(
            Account(world.peers["bob"].aor, peer.sip, peer.aor), folder / "thief", microphone
        )
        stack.push_async_callback(thief.stop)
        await thief.start()
        with pytest.raises(StepFailed, match="403"):
            await thief.registered(SOON)
        with pytest.raises(CallRefused) as refused:  # alice has no client at her peer
            await bob.call(peer.aor, SOON)
        assert refused.value.status in {404, 480}


def test_a_client_registers_only_what_its_peer_holds_and_nobody_waits_for_an_absent_one(
    tmp_path: Path,
) -> None:
    require_program("baresip")
    asyncio.run(refused_registration(tmp_path))
