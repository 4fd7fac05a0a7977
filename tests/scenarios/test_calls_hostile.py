"""Other peers that mean harm: they fill tables, meddle with calls, and try a client's ears."""

import asyncio
import re

import pytest
from scenarios.calls import ALICE, BOB, Stage, two_peers

from hipctl import Hit
from sim.clients import Agent, Message
from sim.loop import simulate
from sipgw.switch import STRAYS

MALLORY = "sip:mallory@example.org"
SDP = (
    b"v=0\r\no=- 1 1 IN IP6 2001:db8::1\r\ns=-\r\nc=IN IP6 2001:db8::1\r\nt=0 0\r\n"
    b"m=audio %d RTP/AVP 0\r\n"
)


class Stranger:
    """A peer of which every byte at its port 5060 is ours; what comes there is in ``heard``."""

    def __init__(self, stage: Stage, target: int = 1, aor: str = MALLORY) -> None:
        self.peer = stage.world.peer(aor)
        self.aor = aor
        self.hit = self.peer.hit
        self.target = stage.peers[target].hit
        self.peer.sim.learn(self.target, stage.peers[target].sim.contact(self.target))
        self.heard: list[Message] = []
        self.endpoint = self.peer.sim.open(
            self.hit, 5060, lambda data, *_: self.heard.append(Message(data))
        )

    def send(self, data: bytes) -> None:
        self.endpoint.send(data, self.target, 5060)

    def ask(
        self, method: str, number: int, *more: str, body: bytes = b"", kind: str = "", **own: str
    ) -> None:
        """Send a request outside a dialog; ``number`` makes it another one."""
        uri = own.get("uri", BOB)
        lines = [
            f"{method} {uri} SIP/2.0",
            f"Via: SIP/2.0/UDP [{self.hit}]:5060;branch=z9hG4bK{method}{number}",
            f"From: <{own.get('sender', self.aor)}>;tag=f{number}",
            f"To: <{uri}>",
            f"Call-ID: {method}{number}",
            f"CSeq: 1 {method}",
            f"Contact: <sip:x@[{self.hit}]:5060>",
            "Max-Forwards: 70",
            *more,
            *([f"Content-Type: {kind or 'application/sdp'}"] if body else []),
            f"Content-Length: {len(body)}",
        ]
        self.send("\r\n".join([*lines, "", ""]).encode() + body)

    def answer(self, request: Message, status: int, tag: str, body: bytes = b"") -> None:
        lines = [
            f"SIP/2.0 {status} X",
            *(f"Via: {via}" for via in request.all("Via")),
            f"From: {request['From']}",
            f"To: {request['To']};tag={tag}",
            f"Call-ID: {request['Call-ID']}",
            f"CSeq: {request['CSeq']}",
            f"Contact: <sip:x@[{self.hit}]:5060>",
            *(["Content-Type: application/sdp"] if body else []),
            f"Content-Length: {len(body)}",
        ]
        self.send("\r\n".join([*lines, "", ""]).encode() + body)

    def finals(self, method: str) -> list[int]:
        """Status of the first final response to each request."""
        found: dict[str, int] = {}
        for m in self.heard:
            if m.is_response and m.status >= 200 and m.method == method:
                found.setdefault(m["Via"], m.status)
        return sorted(found.values())


def test_one_peer_takes_no_more_than_its_share_of_calls_and_the_owner_can_always_call() -> None:
    async def scenario() -> None:
        async with two_peers(max_calls=8) as (stage, alice, bob):
            bob.answer = None
            mallory = Stranger(stage)
            for number in range(10):
                mallory.ask("INVITE", number, body=SDP % 4000)
            await asyncio.sleep(2)
            assert mallory.finals("INVITE") == [503] * 8
            assert stage.services[1].status()["calls"] == 2
            others = [Stranger(stage, aor=f"sip:m{n}@example.org") for n in range(5)]
            for other in others:
                for number in range(4):
                    other.ask("INVITE", number, body=SDP % 4000)
            await asyncio.sleep(2)
            assert stage.services[1].status()["calls"] == 6
            assert (await bob.invite(ALICE)).status == 200
            assert (await bob.say("BYE")).status == 200
            await asyncio.sleep(300)
            assert stage.calls() == stage.sides() == 0
            bob.answer = 200
            assert (await alice.invite(BOB)).status == 200  # what was taken came back

    simulate(scenario)


def test_a_flood_of_messages_from_one_peer_leaves_room_for_those_of_others() -> None:
    async def scenario() -> None:
        async with two_peers() as (stage, alice, bob):
            bob.alive = False
            mallory = Stranger(stage)
            await mallory.peer.sim.connect(mallory.target)
            for number in range(1000):
                mallory.ask("MESSAGE", number, body=b"x" * 1000, kind="text/plain")
            await asyncio.sleep(2)
            assert mallory.finals("MESSAGE") == [503] * 800
            bob.alive = True
            sent = await alice.request("MESSAGE", BOB, body=b"hi", kind="text/plain")
            assert sent.status == 200

    simulate(scenario)


def test_names_that_are_never_proven_cost_the_overlay_few_lookups() -> None:
    async def scenario() -> None:
        async with two_peers() as (stage, _, bob):
            asked: list[str] = []
            peer = stage.peers[1]
            owns = peer.owns

            async def counted(aor: str, hit: Hit) -> bool:
                asked.append(aor)
                return await owns(aor, hit)

            peer.owns = counted  # type: ignore[method-assign]
            mallory = Stranger(stage)
            for number in range(200):
                mallory.ask("INVITE", number, sender=f"sip:user{number}@example.org")
                await asyncio.sleep(0.1)
            await asyncio.sleep(2)
            assert len(asked) <= 25
            assert mallory.finals("INVITE") == [404] * 200
            await asyncio.sleep(60)
            mallory.ask("INVITE", 1000, body=SDP % 4000)
            await asyncio.sleep(2)
            assert mallory.finals("INVITE")[0] == 200
            assert len(bob.requests("INVITE")) == 1

    simulate(scenario)


async def call_mallory(stage: Stage, alice: Agent) -> tuple[Stranger, "asyncio.Task[Message]"]:
    """Alice calls Mallory, who has not answered yet."""
    mallory = Stranger(stage, target=0)
    await mallory.peer.publish(MALLORY, 5060)
    call = asyncio.create_task(alice.invite(MALLORY))
    await asyncio.sleep(1)
    return mallory, call


def test_a_storm_of_early_dialogs_is_cut_off_and_the_call_goes_on() -> None:
    async def scenario() -> None:
        async with two_peers() as (stage, alice, _):
            mallory, call = await call_mallory(stage, alice)
            for number in range(1000):
                mallory.answer(mallory.heard[0], 180, f"fork{number}")
            await asyncio.sleep(1)
            router = stage.services[0]._router
            assert router is not None
            assert len(router.switch._dialogs) <= 16
            assert len(alice.statuses()) < 20
            mallory.answer(mallory.heard[0], 200, "fork999", SDP % 4000)
            assert (await call).status == 200
            assert (await alice.say("BYE")).status in (200, 408)
            await asyncio.sleep(100)
            assert stage.calls() == stage.sides() == 0
            assert not router.switch._dialogs

    simulate(scenario)


def test_answers_to_nothing_and_endless_forks_of_200_cost_few_transactions() -> None:
    async def scenario() -> None:
        async with two_peers() as (stage, alice, _):
            mallory, call = await call_mallory(stage, alice)
            for number in range(2000):
                mallory.answer(mallory.heard[0], 200, f"fork{number}", SDP % 4000)
            await asyncio.sleep(1)
            assert (await call).status == 200
            router = stage.services[0]._router
            assert router is not None
            assert len(router.switch._answers) <= STRAYS + 5
            forged = Message(
                re.sub(rb"branch=\S+", b"branch=z9hG4bKforged", mallory.heard[0].raw, count=1)
            )
            for number in range(2000):
                mallory.answer(forged, 200, f"stray{number}")
            await asyncio.sleep(1)
            assert len(router.switch._answers) <= STRAYS + 5
            await asyncio.sleep(40)
            mallory.answer(forged, 200, "later")
            await asyncio.sleep(1)
            assert [m for m in mallory.heard if m.method == "BYE" and m.tag("To") == "later"]

    simulate(scenario)


def test_nobody_else_speaks_in_a_call_even_knowing_all_its_tags() -> None:
    async def scenario() -> None:
        async with two_peers() as (stage, alice, bob):
            stage.world.net.logging = True
            assert (await alice.invite(BOB)).status == 200
            await asyncio.sleep(1)
            log = [Message(data) for *_, data in stage.world.net.log if b" SIP/2.0\r\n" in data]
            ack = next(m for m in log if m.start.startswith("ACK"))
            mallory = Stranger(stage)
            for method in ("BYE", "INFO", "INVITE", "UPDATE"):
                forged = ack.raw.replace(b"ACK", method.encode())
                forged = re.sub(rb"CSeq: \d+", b"CSeq: 77", forged)
                mallory.send(re.sub(rb"branch=\S+", b"branch=z9hG4bK" + method.encode(), forged))
            await asyncio.sleep(2)
            assert {m.status for m in mallory.heard} - {100} == {481}
            assert not bob.requests("BYE")
            assert not bob.requests("INFO")
            invite = next(m for m in log if m.start.startswith("INVITE"))
            mallory.send(
                re.sub(rb"\r\nContent-(Type|Length)[^\r]*", b"", invite.raw.partition(b"v=0")[0])
                .replace(b"INVITE", b"CANCEL")
            )  # fmt: skip
            await asyncio.sleep(2)
            assert stage.calls() == 2
            assert (await bob.say("BYE")).status == 200

    simulate(scenario)


@pytest.mark.parametrize(
    "header",
    [
        "Alert-Info: <http://127.0.0.1:8080/>;info=alert-autoanswer",
        "Call-Info: <sip:x>;answer-after=0",
        "Answer-Mode: Auto",
        "Priv-Answer-Mode: Auto",
        "P-Auto-Answer: normal",
        "P-Asserted-Identity: <sip:boss@example.org>",
        "Remote-Party-ID: <sip:boss@example.org>;party=calling",
        "Reply-To: <sip:boss@example.org>",
        "Diversion: <sip:boss@example.org>",
        "b: <sip:boss@example.org>",
        "Route: <sip:127.0.0.1:9;lr>",
        "Record-Route: <sip:127.0.0.1:9;lr>",
    ],
)
def test_a_peer_neither_opens_a_microphone_nor_names_another_caller(header: str) -> None:
    async def scenario() -> None:
        async with two_peers() as (stage, _, bob):
            mallory = Stranger(stage)
            mallory.ask("INVITE", 1, header, "Subject: tea", body=SDP % 4000)
            await asyncio.sleep(2)
            invite = bob.requests("INVITE")[0]
            value = header.partition(": ")[2]
            assert invite["Subject"] == "tea"
            assert value.encode() not in invite.raw
            assert b"boss" not in invite.raw

    simulate(scenario)


def test_media_ports_of_a_peer_at_the_end_of_their_range_harm_nobody() -> None:
    async def scenario() -> None:
        async with two_peers() as (stage, _, bob):
            mallory = Stranger(stage)
            mallory.ask("INVITE", 1, body=SDP % 65_535)
            await asyncio.sleep(2)
            invite = bob.requests("INVITE")[0]
            bob.speak(1)
            bob.rtp.send(b"\x80\xc8" + bytes(26), ("127.0.0.1", invite.media_port() + 1))
            await asyncio.sleep(1)  # the loop of the simulation raises what a callback raises
            assert stage.calls() == 1

    simulate(scenario)


def test_a_call_on_hold_of_which_only_rtcp_is_heard_stays() -> None:
    async def scenario() -> None:
        async with two_peers(media_timeout=300) as (stage, alice, bob):
            assert (await alice.invite(BOB)).status == 200
            await asyncio.sleep(1)
            assert alice.talk is not None
            for _ in range(24 * 60):  # a day
                await asyncio.sleep(60)
                to = "127.0.0.1", alice.talk.media_port + 1
                alice.rtp.send(b"\x80\xc8" + bytes(26), to)
            assert stage.calls() == 2
            assert (await bob.say("BYE")).status == 200

    simulate(scenario)
