"""Random scripts and random bytes: nothing raises, nothing leaks."""

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from scenarios.calls import ALICE, BOB, Stage, two_peers

from sim.loop import simulate

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("invite"), st.sampled_from([BOB, "sip:echo@example.org", "sip:no@x.y"])),
        st.tuples(
            st.sampled_from(["cancel", "bye", "hold", "info", "message", "speak", "unregister"]),
            st.booleans(),
        ),
        st.tuples(st.just("answer"), st.sampled_from([None, 200, 486, 603])),
        st.tuples(st.just("wait"), st.sampled_from([0.0, 0.01, 0.05, 0.2, 1.0, 9.0])),
        st.tuples(st.just("loss"), st.sampled_from([0.0, 0.3])),
        st.tuples(st.sampled_from(["vanish", "cut", "acks"]), st.booleans()),
    ),
    max_size=14,
)


class Script:
    """Performs steps without waiting for what they lead to."""

    def __init__(self, stage: Stage, alice: Any, bob: Any) -> None:
        self.stage, self.alice, self.bob = stage, alice, bob
        self.tasks: list[asyncio.Task[Any]] = []

    def later(self, coroutine: Any) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(coroutine))

    async def perform(self, step: str, argument: Any) -> None:
        who = self.alice if argument is True else self.bob
        if step == "invite":
            self.later(self.alice.invite(argument))
        elif step == "cancel" and self.alice.talk is not None and self.alice.talk.branch:
            self.alice.cancel()
        elif step == "bye" and who.talk is not None:
            self.later(who.say("BYE"))
        elif step == "hold" and who.talk is not None:
            self.later(who.say("INVITE", who.sdp(extra="a=sendonly\r\n")))
        elif step == "info" and who.talk is not None:
            self.later(who.say("INFO", b"x", "text/plain"))
        elif step == "message":
            other = BOB if who is self.alice else ALICE
            self.later(who.request("MESSAGE", other, body=b"hi", kind="text/plain"))
        elif step == "speak" and who.talk is not None:
            who.speak(2)
        elif step == "unregister":
            self.later(who.register(0))
        else:
            await self.circumstance(step, argument)

    async def circumstance(self, step: str, argument: Any) -> None:
        if step == "answer":
            self.bob.answer = argument
        elif step == "wait":
            await asyncio.sleep(argument)
        elif step == "loss":
            for wire in self.stage.wires:
                wire.loss = wire.duplication = argument
        elif step == "vanish":
            self.bob.alive = not argument
        elif step == "acks":
            self.alice.acks = argument
        elif step == "cut" and argument:
            one, two = self.stage.peers
            one.sim.disconnect(two.hit)


@settings(max_examples=120, deadline=None)
@given(STEPS)
def test_whatever_happens_every_port_comes_back_and_no_call_stays(steps: list[Any]) -> None:
    async def scenario() -> None:
        async with two_peers(media_timeout=300, ring_timeout=60) as (stage, alice, bob):
            script = Script(stage, alice, bob)
            for step, argument in steps:
                await script.perform(step, argument)
            await asyncio.sleep(40)
            for wire in stage.wires:
                wire.loss = wire.duplication = 0.0
            await asyncio.sleep(500)  # no answer, no ACK, no media: all have passed
            for task in script.tasks:
                task.cancel()
            await asyncio.gather(*script.tasks, return_exceptions=True)
            assert stage.calls() == stage.sides() == 0
            for service in stage.services:
                router = service._router
                assert router is not None
                assert not router.switch._dialogs
                assert not router.switch._invites
                assert not router.switch._answers
                assert not router._resolving
                assert not router._verifying
                assert not service._tasks
            for peer in stage.peers:
                assert len(peer.sim.endpoints) == 1

    simulate(scenario)


INVITE = (
    b"INVITE sip:bob@example.org SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5999;branch=z9hG4bK1\r\n"
    b"Max-Forwards: 70\r\nFrom: <sip:alice@example.org>;tag=1\r\nTo: <sip:bob@example.org>\r\n"
    b"Call-ID: 1\r\nCSeq: 1 INVITE\r\nContact: <sip:alice@127.0.0.1:5999>\r\n"
    b"Content-Type: application/sdp\r\nContent-Length: 95\r\n\r\n"
    b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    b"m=audio 7000 RTP/AVP 0\r\n"
)
METHODS = [b"INVITE", b"ACK", b"BYE", b"CANCEL", b"OPTIONS", b"REGISTER", b"MESSAGE", b"PRACK"]


def mangled() -> st.SearchStrategy[bytes]:
    """An INVITE with some bytes replaced, another method, or a line gone or repeated."""
    lines = INVITE.split(b"\r\n")
    replace = st.tuples(st.integers(0, len(INVITE) - 4), st.binary(max_size=6)).map(
        lambda t: INVITE[: t[0]] + t[1] + INVITE[t[0] + len(t[1]) :]
    )
    other = st.sampled_from(METHODS).map(lambda m: INVITE.replace(b"INVITE", m))
    gone = st.integers(0, len(lines) - 1).map(lambda i: b"\r\n".join(lines[:i] + lines[i + 1 :]))
    twice = st.integers(0, len(lines) - 1).map(
        lambda i: b"\r\n".join([*lines[: i + 1], *lines[i:]])
    )
    reply = st.sampled_from([b"100", b"200", b"404", b"699"]).map(
        lambda s: INVITE.replace(b"INVITE sip:bob@example.org SIP/2.0", b"SIP/2.0 " + s + b" x", 1)
    )
    return st.one_of(st.binary(max_size=200), replace, other, gone, twice, reply)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.booleans(), mangled()), min_size=1, max_size=5))
def test_no_bytes_at_either_door_raise_or_leak(datagrams: list[tuple[bool, bytes]]) -> None:
    async def scenario() -> None:
        async with two_peers(ring_timeout=30) as (stage, alice, _):
            await alice.request("OPTIONS", "sip:127.0.0.1:5060")
            stranger = stage.world.peer()
            hit = stage.peers[0].hit
            stranger.sim.learn(hit, stage.peers[0].sim.contact(hit))
            endpoint = stranger.sim.open(stranger.hit, 5060, lambda *_: None)
            failed: list[Any] = []
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: failed.append(context))
            for inside, data in datagrams:
                if inside:
                    alice.send(data)
                else:
                    endpoint.send(data, hit, 5060)
                await asyncio.sleep(0.1)
            await asyncio.sleep(200)
            assert not failed
            assert stage.calls() == stage.sides() == 0
            assert (await alice.request("OPTIONS", "sip:127.0.0.1:5060")).status == 200

    simulate(scenario)
