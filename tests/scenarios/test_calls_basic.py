import asyncio

from scenarios.calls import BOB, two_peers

from sim.loop import simulate


def test_a_call_across_two_peers_lasts_beyond_forty_seconds_and_ends_for_both() -> None:
    async def scenario() -> None:
        async with two_peers() as (stage, alice, bob):
            final = await alice.invite(BOB)
            assert final.status == 200
            assert alice.statuses()[:2] == [100, 180]
            assert bob.talk is not None
            await asyncio.sleep(1)
            alice.speak(5, ssrc=7)
            bob.speak(3, ssrc=9)
            await asyncio.sleep(40)
            assert (len(alice.heard_rtp), len(bob.heard_rtp)) == (3, 5)
            assert stage.calls() == 2
            assert not alice.requests("BYE")
            assert not bob.requests("BYE")
            assert (await alice.say("BYE")).status == 200
            await asyncio.sleep(1)
            assert len(bob.requests("BYE")) == 1
            assert stage.calls() == stage.sides() == 0
            steps = stage.peers[0].marks.steps()
            assert steps == [
                "invite", "resolve", "exchange", "forward", "ringing", "answer", "media", "end",
            ]  # fmt: skip

    simulate(scenario)


def test_a_callee_that_began_the_association_itself_learns_where_the_caller_is() -> None:
    async def scenario() -> None:
        async with two_peers() as (stage, alice, _bob):
            ours, theirs = (peer.sim for peer in stage.peers)
            theirs.learn(stage.peers[0].hit, ours.contact(stage.peers[0].hit))
            await theirs.connect(stage.peers[0].hit)
            assert not ours.disclosed
            answered = await alice.invite(BOB)
            assert answered.status == 200
            assert stage.peers[1].hit in ours.disclosed

    simulate(scenario)
