"""Who may speak as whom, what strangers learn, and what never crosses to the other side."""

import asyncio

from scenarios.calls import ALICE, BOB, CAROL, Stage, two_peers

from hipctl import Hit
from sim.clients import Message
from sim.loop import simulate

FORGED = "sip:trent@example.org"


def test_only_aors_that_the_peer_holds_may_register() -> None:
    async def scenario() -> None:
        stage = Stage()
        service = await stage.gateway(ALICE)
        alice = await stage.agent(ALICE, register=False)
        assert (await alice.register()).status == 200
        assert (await alice.register(to=BOB)).status == 403
        assert (await alice.register(to="sip:alice@elsewhere.net")).status == 403
        await asyncio.sleep(1)
        assert stage.peers[0].puts == [("publish", ALICE)]
        await alice.register()  # a refresh costs no put
        await asyncio.sleep(1)
        assert stage.peers[0].puts == [("publish", ALICE)]
        assert (await alice.register(0)).status == 200
        await asyncio.sleep(1)
        assert stage.peers[0].puts[1:] == [("withdraw", ALICE)]
        await service.stop()

    simulate(scenario)


def test_a_registration_that_is_not_refreshed_is_withdrawn() -> None:
    async def scenario() -> None:
        stage = Stage()
        service = await stage.gateway(ALICE)
        alice = await stage.agent(ALICE, register=False)
        await alice.register(120)
        await asyncio.sleep(121)
        assert stage.peers[0].puts == [("publish", ALICE), ("withdraw", ALICE)]
        await service.stop()

    simulate(scenario)


def test_a_client_speaks_only_as_what_it_registered() -> None:
    async def scenario() -> None:
        stage = Stage()
        await stage.gateway(ALICE, CAROL)
        await stage.gateway(BOB)
        alice, bob = await stage.agent(ALICE, 0), await stage.agent(BOB, 1)
        await stage.agent(CAROL, 0)
        stranger = await stage.agent(ALICE, 0, register=False)
        assert (await alice.invite(BOB, sender=CAROL)).status == 403
        assert (await alice.invite(BOB, sender=FORGED)).status == 403
        assert (await stranger.invite(BOB)).status == 403
        assert (await stranger.request("MESSAGE", BOB, body=b"x", kind="text/plain")).status == 403
        assert not bob.requests("INVITE")
        for service in stage.services:
            await service.stop()

    simulate(scenario)


def forged_invite(hit: Hit, caller: str, callee: str, number: int) -> bytes:
    return (
        f"INVITE {callee} SIP/2.0\r\n"
        f"Via: SIP/2.0/UDP [{hit}]:5060;branch=z9hG4bKforged{number}\r\n"
        f"From: <{caller}>;tag=f{number}\r\nTo: <{callee}>\r\nCall-ID: forged{number}\r\n"
        f"CSeq: 1 INVITE\r\nContact: <sip:x@[{hit}]:5060>\r\nMax-Forwards: 70\r\n"
        "Content-Length: 0\r\n\r\n"
    ).encode()


def test_a_forged_from_and_a_blocked_caller_are_answered_exactly_as_an_unknown_user() -> None:
    async def scenario() -> None:
        async with two_peers() as (stage, _, bob):
            mallory = stage.world.peer("sip:mallory@example.org")
            target = stage.peers[1]
            mallory.sim.learn(target.hit, target.sim.contact(target.hit))
            stage.peers[1].blocked.add("sip:mallory@example.org")
            heard: list[tuple[float, Message]] = []
            loop = asyncio.get_running_loop()
            endpoint = mallory.sim.open(
                mallory.hit, 5060, lambda data, *_: heard.append((loop.time(), Message(data)))
            )
            cases = [
                (ALICE, BOB),  # forged: the association says mallory
                ("sip:mallory@example.org", BOB),  # blocked
                (ALICE, "sip:nobody@example.org"),
                ("sip:mallory@example.org", "sip:nobody@example.org"),
            ]
            shapes = []
            for number, (caller, callee) in enumerate(cases):
                heard.clear()
                began = loop.time()
                endpoint.send(forged_invite(mallory.hit, caller, callee, number), target.hit, 5060)
                await asyncio.sleep(3)
                finals = [(at, m) for at, m in heard if m.status >= 200]
                assert finals
                at, message = finals[0]
                names = [name for name, _ in message.lines]
                shapes.append(
                    (message.start, names, message.body, round(at - began, 3) if number else 0)
                )
                statuses = {m.status for _, m in heard}
                assert statuses == {100, 404}
            assert len({str(shape[:3]) for shape in shapes}) == 1
            assert len({shape[3] for shape in shapes[1:]}) == 1  # nor does time tell
            assert not bob.requests("INVITE")

    simulate(scenario)


def test_the_callee_sees_the_proven_name_and_no_address_of_the_caller() -> None:
    async def scenario() -> None:
        stage = Stage()
        await stage.gateway(ALICE)
        await stage.gateway(BOB)
        for peer in stage.peers:
            peer.sim.net.logging = True
        alice, bob = await stage.agent(ALICE, 0, register=False), await stage.agent(BOB, 1)
        alice.port.close()
        alice.port = stage.wires[0].open("192.168.77.9", 5062, alice._on_packet)
        await alice.register()
        body = alice.sdp(extra="a=candidate:1 1 UDP 1 192.168.77.9 9 typ host\r\na=rtcp:9\r\n")
        final = await alice.invite(BOB, body)
        assert final.status == 200
        invite = bob.requests("INVITE")[0]
        assert ALICE in invite["From"]
        assert invite["User-Agent"] == "scripted/1.0"
        await asyncio.sleep(1)
        await alice.say("INFO", b"x", "text/plain")
        await alice.say("BYE")
        crossed = b"".join(data for _, _, _, _, data in stage.world.net.log)
        for leak in (b"192.168.77.9", b"127.0.0.1", alice.unique("call")[:4].encode() + b"1"):
            assert leak not in crossed, leak
        for message in bob.heard:
            assert b"192.168" not in message.raw
        for service in stage.services:
            await service.stop()

    simulate(scenario)


def test_emergency_calls_are_refused_at_once_with_the_reason() -> None:
    async def scenario() -> None:
        async with two_peers() as (_, alice, _bob):
            stranger_uris = [
                "sip:112@example.org", "sip:911@127.0.0.1", "sip:999@example.org;user=phone",
                "tel:112", "tel:9-1-1", "urn:service:sos", "urn:service:sos.police",
                "SIP:112@example.org", "sip:sos@example.org",
            ]  # fmt: skip
            began = asyncio.get_running_loop().time()
            for uri in stranger_uris:
                final = await alice.invite(uri)
                assert final.status == 380, uri
                assert "Phone Network" in final.start
                assert b"Use a mobile or landline phone" in final.body
            assert asyncio.get_running_loop().time() - began < 0.1
            assert (await alice.invite("sip:1125@example.org")).status == 404

    simulate(scenario)


def test_what_the_gateway_does_not_serve_is_said_so() -> None:
    async def scenario() -> None:
        async with two_peers() as (_, alice, _bob):
            here = "sip:127.0.0.1:5060"
            expected = {
                "SUBSCRIBE": 489, "PUBLISH": 405, "OPTIONS": 200, "REFER": 481, "INFO": 481,
                "BYE": 481, "UPDATE": 481, "JUMP": 501,
            }  # fmt: skip
            got = {method: (await alice.request(method, here)).status for method in expected}
            assert got == expected
            assert "INVITE" in (await alice.request("OPTIONS", here))["Allow"]

    simulate(scenario)


def test_petnames_and_the_gateways_own_address_may_be_dialled() -> None:
    async def scenario() -> None:
        async with two_peers() as (stage, alice, bob):
            stage.peers[0].book.names["grandma"] = BOB
            for uri in ("sip:Grandma@example.org", "sip:grandma@127.0.0.1:5060",
                        "sip:bob@127.0.0.1", "sip:bob@EXAMPLE.org;transport=udp"):  # fmt: skip
                final = await alice.request("MESSAGE", uri, body=b"hi", kind="text/plain")
                assert final.status == 200, uri
            assert len(bob.requests("MESSAGE")) == 4

    simulate(scenario)


def test_preloaded_routes_to_the_gateway_are_taken_off() -> None:
    async def scenario() -> None:
        async with two_peers() as (_, alice, bob):
            final = await alice.request(
                "MESSAGE", BOB, [("Route", "<sip:127.0.0.1:5060;lr>")], b"hi", "text/plain"
            )
            assert final.status == 200
            assert not bob.requests("MESSAGE")[0]["Route"]

    simulate(scenario)
