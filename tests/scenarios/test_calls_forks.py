"""Several bindings and devices of one callee; messages; the echo."""

import asyncio
from functools import partial

from scenarios.calls import ALICE, BOB, CAROL, Stage, two_peers

from sim.clients import Agent
from sim.loop import simulate


async def stop(stage: Stage) -> None:
    for service in stage.services:
        await service.stop()


async def crowd() -> tuple[Stage, Agent, list[Agent]]:
    """Alice calls Bob, who has two clients at one peer and one at another."""
    stage = Stage()
    await stage.gateway(ALICE)
    await stage.gateway(BOB)
    await stage.gateway(BOB)
    alice = await stage.agent(ALICE, 0)
    bobs = [await stage.agent(BOB, 1), await stage.agent(BOB, 1), await stage.agent(BOB, 2)]
    await asyncio.sleep(1)
    return stage, alice, bobs


def test_all_devices_and_bindings_ring_and_the_first_to_answer_wins() -> None:
    async def scenario(winner: int) -> None:
        stage, alice, bobs = await crowd()
        for number, bob in enumerate(bobs):
            bob.after = 1.0 if number == winner else 20.0
        final = await alice.invite(BOB)
        assert final.status == 200
        await asyncio.sleep(2)
        for number, bob in enumerate(bobs):
            assert len(bob.requests("INVITE")) == 1
            assert len(bob.requests("CANCEL")) == (number != winner)
        alice.speak(1)
        bobs[winner].speak(1)
        await asyncio.sleep(40)
        assert len(alice.heard_rtp) == len(bobs[winner].heard_rtp) == 1
        assert (await bobs[winner].say("BYE")).status == 200
        await asyncio.sleep(1)
        assert stage.calls() == stage.sides() == 0
        await stop(stage)

    for winner in range(3):
        simulate(partial(scenario, winner))


def test_two_that_answer_at_the_same_moment_leave_one_call() -> None:
    async def scenario() -> None:
        stage, alice, bobs = await crowd()
        final = await alice.invite(BOB)
        assert final.status == 200
        await asyncio.sleep(5)
        byes = [len(bob.requests("BYE")) for bob in bobs]
        cancels = [len(bob.requests("CANCEL")) for bob in bobs]
        assert sum(byes) + sum(c for b, c in zip(byes, cancels, strict=True) if not b) >= 1
        assert (await alice.say("BYE")).status == 200
        await asyncio.sleep(60)
        assert all(bob.requests("BYE") for bob in bobs if bob.talk)
        assert stage.calls() == stage.sides() == 0
        await stop(stage)

    simulate(scenario)


def test_one_busy_device_does_not_end_the_call_but_a_decline_does() -> None:
    async def scenario() -> None:
        stage, alice, bobs = await crowd()
        bobs[0].answer, bobs[1].answer = 486, None
        bobs[2].after = 3.0
        assert (await alice.invite(BOB)).status == 200
        assert (await alice.say("BYE")).status == 200
        bobs[2].answer = 603
        assert (await alice.invite(BOB)).status == 603
        await asyncio.sleep(40)
        assert bobs[1].requests("CANCEL")
        assert stage.calls() == stage.sides() == 0
        await stop(stage)

    simulate(scenario)


def test_clients_of_one_peer_call_each_other_without_the_overlay() -> None:
    async def scenario() -> None:
        stage = Stage()
        await stage.gateway(ALICE, BOB)
        alice, bob = await stage.agent(ALICE), await stage.agent(BOB)
        stage.world.fails = True  # no matter
        assert (await alice.invite(BOB)).status == 200
        await asyncio.sleep(1)
        alice.speak(3)
        bob.speak(2)
        await asyncio.sleep(40)
        assert (len(alice.heard_rtp), len(bob.heard_rtp)) == (2, 3)
        assert (await bob.say("BYE")).status == 200
        await asyncio.sleep(1)
        assert stage.calls() == stage.sides() == 0
        await stop(stage)

    simulate(scenario)


def test_messages_go_both_ways_and_are_accepted_only_by_the_other_client() -> None:
    async def scenario() -> None:
        async with two_peers() as (_, alice, bob):
            sent = await alice.request(
                "MESSAGE", BOB, body="grüß dich".encode(), kind="text/plain"
            )
            assert sent.status == 200
            assert bob.requests("MESSAGE")[0].body == "grüß dich".encode()
            assert ALICE in bob.requests("MESSAGE")[0]["From"]
            back = await bob.request("MESSAGE", ALICE, body=b"hi", kind="message/cpim")
            assert back.status == 200
            assert alice.requests("MESSAGE")[0]["Content-Type"] == "message/cpim"
            bob.alive = False
            began = asyncio.get_running_loop().time()
            lost = await alice.request("MESSAGE", BOB, body=b"?", kind="text/plain")
            assert lost.status == 480
            assert asyncio.get_running_loop().time() - began < 25
            nobody = await alice.request("MESSAGE", CAROL, body=b"?", kind="text/plain")
            assert nobody.status == 404

    simulate(scenario)


def test_a_message_reaches_every_device() -> None:
    async def scenario() -> None:
        stage, alice, bobs = await crowd()
        sent = await alice.request("MESSAGE", BOB, body=b"all", kind="text/plain")
        assert sent.status == 200
        await asyncio.sleep(1)
        assert [len(bob.requests("MESSAGE")) for bob in bobs] == [1, 1, 1]
        await stop(stage)

    simulate(scenario)


def test_the_echo_answers_and_returns_what_it_hears_from_another_source() -> None:
    async def scenario() -> None:
        async with two_peers() as (stage, alice, _):
            assert (await alice.invite("sip:echo@example.org")).status == 200
            alice.speak(4, ssrc=0x01020304)
            await asyncio.sleep(1)
            assert len(alice.heard_rtp) == 4
            assert alice.heard_rtp[0][8:12] != bytes.fromhex("01020304")
            assert alice.heard_rtp[0][12:] == bytes(160)
            assert alice.talk is not None
            alice.rtp.send(b"\x00\x01" + bytes(18), (alice.gateway[0], alice.talk.media_port))
            await asyncio.sleep(40)
            assert len(alice.heard_rtp) == 4  # STUN and the like are not echoed
            assert (await alice.say("INVITE", alice.sdp(extra="a=sendonly\r\n"))).status == 200
            assert (await alice.say("BYE")).status == 200
            await asyncio.sleep(1)
            assert stage.calls() == stage.sides() == 0
            alice.acks = False
            await alice.invite("sip:echo@example.org")
            await asyncio.sleep(35)
            assert len(alice.requests("BYE")) == 1
            assert stage.calls() == stage.sides() == 0

    simulate(scenario)


def test_calls_survive_loss_and_duplication_between_client_and_gateway() -> None:
    async def scenario(seed: int) -> int:
        async with two_peers(seed) as (stage, alice, bob):
            for wire in stage.wires:
                wire.loss, wire.duplication = 0.2, 0.2
            stage.world.net.loss = 0.1
            final = await alice.invite(BOB)
            if final.status == 200:
                await asyncio.sleep(45)
                assert stage.calls() == 2
                assert (await bob.say("BYE")).status in (200, 481)
            await asyncio.sleep(70)
            assert stage.calls() == stage.sides() == 0
            return final.status

    assert sum(simulate(partial(scenario, seed)) == 200 for seed in range(8)) >= 5
