"""How calls end, or never begin: CANCEL in each phase, refusals, time-outs, glare, lost ACKs."""

import asyncio
import dataclasses
from typing import Any

import pytest
from scenarios.calls import ALICE, BOB, CAROL, Stage, two_peers

from sim.clients import Agent
from sim.loop import simulate


def finals(agent: Agent) -> list[int]:
    return [status for status in agent.statuses() if status >= 200]


@pytest.mark.parametrize("after", [0.0, 0.01, 0.06, 0.12, 0.16, 0.19, 0.3])
def test_cancel_ends_the_call_in_whatever_phase_it_comes(after: float) -> None:
    async def scenario() -> None:
        async with two_peers() as (stage, alice, bob):
            bob.answer = None
            call = asyncio.create_task(alice.invite(BOB))
            await asyncio.sleep(after)
            alice.cancel()
            final = await call
            assert final.status == 487
            await asyncio.sleep(60)
            assert 200 in alice.statuses("CANCEL")
            assert len(bob.requests("CANCEL")) == len(bob.requests("INVITE"))
            assert stage.calls() == stage.sides() == 0

    simulate(scenario)


@pytest.mark.parametrize("ms", range(280, 420, 8))
def test_a_cancel_that_crosses_the_answer_leaves_nobody_in_a_call_alone(ms: int) -> None:
    async def scenario() -> None:
        async with two_peers() as (stage, alice, bob):
            call = asyncio.create_task(alice.invite(BOB))
            await asyncio.sleep(ms / 1000)
            alice.cancel()
            final = await call
            assert final.status in (200, 487)
            await asyncio.sleep(40)
            if final.status == 200:
                assert not bob.requests("BYE")
                assert (await alice.say("BYE")).status == 200
                await asyncio.sleep(1)
            if finals_of_bob(bob):
                assert len(bob.requests("ACK")) >= 1
                assert len(bob.requests("BYE")) == 1
            assert stage.calls() == stage.sides() == 0

    simulate(scenario)


def finals_of_bob(bob: Agent) -> bool:
    return bob.talk is not None


def test_busy_and_decline_reach_the_caller() -> None:
    async def scenario() -> None:
        async with two_peers() as (stage, alice, bob):
            for status in (486, 603, 488):
                bob.answer = status
                assert (await alice.invite(BOB)).status == status
            await asyncio.sleep(40)
            assert stage.calls() == stage.sides() == 0

    simulate(scenario)


def test_nobody_answers_and_the_caller_hears_so_after_the_ring_timeout() -> None:
    async def scenario() -> None:
        async with two_peers(ring_timeout=45) as (stage, alice, bob):
            bob.answer = None
            began = asyncio.get_running_loop().time()
            assert (await alice.invite(BOB)).status == 480
            assert 44 < asyncio.get_running_loop().time() - began < 47
            await asyncio.sleep(40)
            assert len(bob.requests("CANCEL")) == 1
            assert stage.calls() == stage.sides() == 0

    simulate(scenario)


def test_a_client_that_vanished_without_a_word_is_480_within_ten_seconds() -> None:
    async def scenario() -> None:
        async with two_peers() as (stage, alice, bob):
            bob.alive = False
            began = asyncio.get_running_loop().time()
            assert (await alice.invite(BOB)).status == 480
            assert asyncio.get_running_loop().time() - began < 10
            await asyncio.sleep(40)
            assert stage.calls() == stage.sides() == 0

    simulate(scenario)


def test_unknown_unregistered_and_unreachable_users_are_told_apart_for_our_own_client() -> None:
    async def scenario() -> None:
        async with two_peers() as (stage, alice, bob):
            loop = asyncio.get_running_loop()
            began = loop.time()
            assert (await alice.invite("sip:nobody@example.org")).status == 404
            assert loop.time() - began < 2
            assert (await alice.invite("sip:bob@elsewhere.net")).status == 404
            stage.world.fails = True
            assert (await alice.invite(BOB)).status == 480
            stage.world.fails, stage.world.hangs = False, True
            began = loop.time()
            assert (await alice.invite(BOB)).status == 480
            assert loop.time() - began < 7
            stage.world.hangs = False
            assert (await bob.register(0)).status == 200
            stage.world.published[BOB] = {
                stage.peers[1].hit: 5060
            }  # the tombstone is not there yet
            assert (await alice.invite(BOB)).status == 480
            stage.peers[1].sim.stop()
            began = loop.time()
            assert (await alice.invite(BOB)).status == 480
            assert loop.time() - began < 10
            assert stage.calls() == stage.sides() == 0

    simulate(scenario)


def test_an_ack_that_never_comes_ends_the_call_for_both() -> None:
    async def scenario() -> None:
        async with two_peers() as (stage, alice, bob):
            alice.acks = False
            await alice.invite(BOB)
            await asyncio.sleep(31)
            assert stage.calls() == 2
            await asyncio.sleep(4)
            assert len(bob.requests("BYE")) == 1
            assert len(alice.requests("BYE")) == 1
            assert alice.count("INVITE", 200) >= 8  # T1, 2 T1 … T2
            assert stage.calls() == stage.sides() == 0

    simulate(scenario)


def test_a_lost_ack_is_repeated_and_the_call_goes_on() -> None:
    async def scenario() -> None:
        async with two_peers() as (stage, alice, bob):
            alice.acks = False
            call = asyncio.create_task(alice.invite(BOB))
            await call
            await asyncio.sleep(0.1)
            alice.acks = True  # answers the next 200 that comes
            await asyncio.sleep(60)
            assert stage.calls() == 2
            assert (await bob.say("BYE")).status == 200
            await asyncio.sleep(1)
            assert len(alice.requests("BYE")) == 1
            assert stage.calls() == stage.sides() == 0

    simulate(scenario)


def test_hold_and_resume_pass_in_both_directions() -> None:
    async def scenario() -> None:
        async with two_peers() as (stage, alice, bob):
            await alice.invite(BOB)
            await asyncio.sleep(1)
            held = await alice.say("INVITE", alice.sdp(extra="a=sendonly\r\n"))
            assert held.status == 200
            assert b"a=sendonly" in bob.requests("INVITE")[-1].body
            await asyncio.sleep(1)
            held = await bob.say("INVITE", bob.sdp(extra="a=inactive\r\n"))
            assert held.status == 200
            assert b"a=inactive" in alice.requests("INVITE")[-1].body
            await asyncio.sleep(1)
            old = alice.sdp().replace(b"c=IN IP4 127.0.0.1", b"c=IN IP4 0.0.0.0")
            assert (await alice.say("INVITE", old)).status == 200
            assert b"c=IN IP4 0.0.0.0" in bob.requests("INVITE")[-1].body
            await asyncio.sleep(1)
            assert (await alice.say("INVITE", alice.sdp())).status == 200
            await asyncio.sleep(35)
            alice.speak(2)
            bob.speak(2)
            await asyncio.sleep(1)
            assert (len(alice.heard_rtp), len(bob.heard_rtp)) == (2, 2)
            assert (await alice.say("BYE")).status == 200
            await asyncio.sleep(1)
            assert stage.calls() == stage.sides() == 0

    simulate(scenario)


def test_offers_that_cross_are_both_told_to_wait() -> None:
    async def scenario() -> None:
        async with two_peers() as (stage, alice, bob):
            await alice.invite(BOB)
            await asyncio.sleep(1)
            both = await asyncio.gather(
                alice.say("INVITE", alice.sdp()), bob.say("INVITE", bob.sdp())
            )
            assert 491 in {message.status for message in both}
            await asyncio.sleep(3)
            assert (await alice.say("INVITE", alice.sdp())).status == 200
            await asyncio.sleep(1)
            assert (await bob.say("INVITE", bob.sdp())).status == 200
            assert (await bob.say("BYE")).status == 200
            await asyncio.sleep(1)
            assert stage.calls() == stage.sides() == 0

    simulate(scenario)


def test_what_is_said_inside_a_call_reaches_the_other_side() -> None:
    async def scenario() -> None:
        async with two_peers() as (_, alice, bob):
            await alice.invite(BOB)
            await asyncio.sleep(1)
            info = await alice.say("INFO", b"Signal=5", "application/dtmf-relay")
            assert info.status == 200
            assert bob.requests("INFO")[0].body == b"Signal=5"
            assert (await bob.say("MESSAGE", b"hi", "text/plain")).status == 200
            assert alice.requests("MESSAGE")[0].body == b"hi"
            assert (await bob.say("UPDATE", bob.sdp())).status == 200
            assert alice.requests("UPDATE")[0].media_port() not in (0, bob.sdp_port)
            assert (await alice.say("OPTIONS")).status == 200
            assert (await alice.say("SUBSCRIBE")).status == 489
            assert (await alice.say("JUMP")).status == 501

    simulate(scenario)


def test_an_offer_in_the_200_is_answered_by_the_callers_ack() -> None:
    async def scenario() -> None:
        async with two_peers() as (_, alice, bob):
            final = await alice.invite(BOB, body=b"")
            assert final.media_port()
            await asyncio.sleep(1)
            ack = bob.requests("ACK")[0]
            assert ack.media_port()
            assert bob.talk is not None
            alice.speak(1)
            bob.speak(1)
            await asyncio.sleep(35)
            assert len(alice.heard_rtp) == len(bob.heard_rtp) == 1
            assert (await alice.say("BYE")).status == 200

    simulate(scenario)


def test_early_media_is_heard_before_the_answer() -> None:
    async def scenario() -> None:
        async with two_peers() as (_, alice, bob):
            bob.ring, bob.after = 183, 5.0
            call = asyncio.create_task(alice.invite(BOB))
            await asyncio.sleep(1)
            progress = next(m for m in alice.heard if m.status == 183)
            assert progress.media_port()
            port = bob.requests("INVITE")[0].media_port()
            bob.rtp.send(bytes((0x80, 0)) + bytes(170), (bob.gateway[0], port))
            await asyncio.sleep(0.2)
            assert len(alice.heard_rtp) == 1
            assert (await call).status == 200
            assert (await alice.say("BYE")).status == 200

    simulate(scenario)


def test_a_peer_that_stays_away_ends_the_call_and_one_that_returns_does_not() -> None:
    async def scenario() -> None:
        async with two_peers() as (stage, alice, _):
            one, two = stage.peers
            await alice.invite(BOB)
            await asyncio.sleep(5)
            one.sim.disconnect(two.hit)
            await asyncio.sleep(60)  # on hold nobody would send: the gateways connect again
            assert one.sim.connected(two.hit)
            assert stage.calls() == 2
            two.sim.stop()
            one.sim.disconnect(two.hit)
            await asyncio.sleep(45)
            assert len(alice.requests("BYE")) == 1
            assert stage.services[0].status()["calls"] == 0
            assert stage.services[0].status()["media_sides"] == 0

    simulate(scenario)


def test_a_call_without_any_media_ends_only_when_the_profile_says_so() -> None:
    async def scenario(**table: Any) -> int:
        async with two_peers(**table) as (stage, alice, _):
            await alice.invite(BOB)
            await asyncio.sleep(1200)
            return stage.calls()

    assert simulate(scenario) == 2
    assert simulate(lambda: scenario(media_timeout=300)) == 0


def test_stopping_the_service_hangs_up_and_frees_everything() -> None:
    async def scenario() -> None:
        stage = Stage()
        await stage.gateway(ALICE)
        await stage.gateway(BOB)
        alice, bob = await stage.agent(ALICE, 0), await stage.agent(BOB, 1)
        await alice.invite(BOB)
        await asyncio.sleep(1)
        await stage.services[0].stop()
        await asyncio.sleep(2)
        assert len(alice.requests("BYE")) == 1
        assert len(bob.requests("BYE")) == 1
        assert len(stage.wires[0].ports) == 2  # the agent's own
        assert not stage.peers[0].sim.endpoints
        await stage.services[1].stop()

    simulate(scenario)


def test_more_calls_than_allowed_are_503() -> None:
    async def scenario() -> None:
        async with two_peers(max_calls=1) as (stage, alice, _):
            await alice.invite(BOB)
            assert (await alice.invite(CAROL)).status == 503
            assert stage.calls() == 2

    simulate(scenario)


def test_a_reliable_provisional_answer_is_acknowledged_across_both_peers() -> None:
    async def scenario() -> None:
        async with two_peers() as (stage, alice, bob):
            bob.answer, bob.ring = None, 0
            call = asyncio.create_task(alice.invite(BOB))
            await asyncio.sleep(1)
            invite = bob.requests("INVITE")[0]
            bob.respond(invite, 183, bob.sdp(), Require="100rel", RSeq="77")
            await asyncio.sleep(1)
            progress = next(m for m in alice.heard if m.status == 183)
            assert (progress["RSeq"], progress["Require"]) == ("77", "100rel")
            assert alice.talk is not None
            early = dataclasses.replace(alice.talk)
            early.remote, early.target = progress["To"], progress.contact
            prack = alice.in_dialog(early, "PRACK", 2).decode()
            prack = prack.replace("CSeq:", f"RAck: 77 {progress.cseq} INVITE\r\nCSeq:", 1)
            assert (await alice.transact(prack.encode())).status == 200
            assert bob.requests("PRACK")[0]["RAck"] == f"77 {invite.cseq} INVITE"
            alice.cancel()
            assert (await call).status == 487
            await asyncio.sleep(40)
            assert stage.calls() == stage.sides() == 0

    simulate(scenario)


def test_a_body_that_may_hide_an_offer_is_refused() -> None:
    async def scenario() -> None:
        async with two_peers() as (_, alice, bob):
            kind = "multipart/mixed;boundary=x"
            hidden = b"--x\r\nContent-Type: application/sdp\r\n\r\n" + alice.sdp() + b"--x--"
            assert (await alice.request("INVITE", BOB, body=hidden, kind=kind)).status == 415
            await alice.invite(BOB)
            await asyncio.sleep(1)
            assert (await bob.say("INVITE", hidden, kind)).status == 415
            assert (await bob.say("UPDATE", hidden, kind)).status == 415
            assert len(alice.requests("INVITE")) == 0
            assert (await alice.say("BYE")).status == 200

    simulate(scenario)
