"""What clients do inside a call: streams come and go, hold, offers cross, descriptions are odd."""

import asyncio

import pytest
from scenarios.calls import ALICE, BOB, Stage, two_peers

from sim.clients import Message
from sim.loop import simulate

VIDEO = "m=video 9002 RTP/AVP 96\r\na=rtpmap:96 VP8/90000\r\n"
HEAD = b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
AUDIO = b"m=audio 4000 RTP/AVP 0\r\n"
RTP = b"\x80\x00" + bytes(170)


async def all_over(stage: Stage) -> None:
    await asyncio.sleep(100)
    assert stage.calls() == stage.sides() == 0


def test_video_comes_and_goes_calls_are_held_and_offers_come_late() -> None:
    async def scenario() -> None:
        async with two_peers() as (stage, alice, bob):
            await alice.invite(BOB)
            await asyncio.sleep(1)
            assert (await alice.say("INVITE", alice.sdp(extra=VIDEO))).status == 200
            offer = bob.requests("INVITE")[-1].body
            assert b"m=video 2" in offer
            assert b"9002" not in offer
            gone = VIDEO.replace("9002", "0")
            assert (await alice.say("INVITE", alice.sdp(extra=gone))).status == 200
            assert b"m=video 0 " in bob.requests("INVITE")[-1].body
            await asyncio.sleep(1)
            assert (await bob.say("INVITE", bob.sdp(extra=VIDEO))).status == 200
            for _ in range(3):
                held = alice.sdp().replace(b"c=IN IP4 127.0.0.1", b"c=IN IP4 0.0.0.0")
                await asyncio.sleep(1)
                assert (await alice.say("INVITE", held)).status == 200
                assert b"c=IN IP4 0.0.0.0" in bob.requests("INVITE")[-1].body
                assert (await alice.say("INVITE", alice.sdp())).status == 200
            late = await alice.say("INVITE")
            assert late.status == 200
            assert late.media_port()
            alice.speak(1)
            bob.speak(1)
            await asyncio.sleep(1)
            assert len(alice.heard_rtp) == len(bob.heard_rtp) == 1
            assert (await bob.say("BYE")).status == 200
            await all_over(stage)

    simulate(scenario)


def test_offers_that_cross_are_both_refused_and_later_ones_are_not() -> None:
    async def scenario() -> None:
        async with two_peers() as (stage, alice, bob):
            alice.acks = False
            await alice.invite(BOB)
            assert (await alice.say("INVITE", alice.sdp())).status == 500  # its ACK is missing
            alice.acks = True
            assert alice.talk is not None
            alice.ack(alice.talk, 1)
            await asyncio.sleep(1)
            both = alice.say("INVITE", alice.sdp()), bob.say("INVITE", bob.sdp())
            assert [m.status for m in await asyncio.gather(*both)] == [491, 491]
            for agent in (alice, bob):
                await asyncio.sleep(1)
                assert (await agent.say("INVITE", agent.sdp())).status == 200
            assert (await alice.say("BYE")).status == 200
            await all_over(stage)

    simulate(scenario)


@pytest.mark.parametrize(
    ("body", "status", "sides"),
    [
        (HEAD + 100 * AUDIO, 488, 0),
        (HEAD + 32 * AUDIO, 200, 24),  # six are relayed, the others refused
        (HEAD, 200, 4),  # those of the answer
        (HEAD.replace(b"c=IN IP4 127.0.0.1\r\n", b"") + AUDIO + b"c=IN IP6 ::1\r\n", 200, 4),
        (HEAD + b"m=audio 99999 RTP/AVP 0\r\n", 488, 0),
        (HEAD + b"m=audio 4000/9999 RTP/AVP 0\r\n", 200, 4),
        (b"x" * 50_000, 488, 0),
    ],
)
def test_odd_descriptions_are_refused_or_carried(body: bytes, status: int, sides: int) -> None:
    async def scenario() -> None:
        async with two_peers() as (stage, alice, _):
            assert (await alice.invite(BOB, body)).status == status
            assert stage.sides() == sides
            if status == 200:
                assert (await alice.say("BYE")).status == 200
            await all_over(stage)

    simulate(scenario)


def test_a_silent_call_that_is_refreshed_lasts_a_day_and_no_longer_than_that() -> None:
    async def scenario() -> None:
        async with two_peers() as (stage, alice, bob):
            await alice.invite(BOB)
            await asyncio.sleep(1)
            for turn in range(48):
                await asyncio.sleep(1800)
                agent = alice if turn % 2 else bob
                offer = agent.sdp() if turn % 3 else b""
                assert (await agent.say("INVITE" if offer else "UPDATE", offer)).status == 200
            assert stage.calls() == 2
            await asyncio.sleep(3800)
            assert stage.calls() == stage.sides() == 0

    simulate(scenario)


def test_a_client_that_forgot_the_call_ends_it_for_the_other() -> None:
    async def scenario() -> None:
        async with two_peers() as (stage, alice, bob):
            await alice.invite(BOB)
            await asyncio.sleep(1)
            known = bob._on_request

            def forgetful(request: Message) -> None:
                if ";tag=" in request["To"] and not request.start.startswith("ACK"):
                    bob.respond(request, 481)
                else:
                    known(request)

            bob._on_request = forgetful  # type: ignore[method-assign]
            assert (await alice.say("INVITE", alice.sdp())).status == 481
            await asyncio.sleep(1)
            assert len(alice.requests("BYE")) == 1
            await all_over(stage)

    simulate(scenario)


def test_who_lost_a_fork_is_heard_no_more() -> None:
    async def scenario() -> None:
        stage = Stage()
        await stage.gateway(ALICE, BOB)
        await stage.gateway(BOB)
        alice, loser = await stage.agent(ALICE, 0), await stage.agent(BOB, 0)
        winner = await stage.agent(BOB, 1)
        loser.ring, loser.after, winner.after = 183, 100.0, 2.0
        call = asyncio.create_task(alice.invite(BOB))
        await asyncio.sleep(1)
        to = "127.0.0.1", loser.requests("INVITE")[0].media_port()
        loser.rtp.send(RTP, to)
        await asyncio.sleep(0.1)
        assert len(alice.heard_rtp) == 1
        assert (await call).status == 200
        assert stage.sides() == 4
        loser.rtp.send(RTP, to)
        winner.speak(1)
        await asyncio.sleep(1)
        assert len(alice.heard_rtp) == 2
        assert (await alice.say("BYE")).status == 200
        await all_over(stage)
        for service in stage.services:
            await service.stop()

    simulate(scenario)
