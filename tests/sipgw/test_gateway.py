import asyncio
import socket
from typing import Any

import pytest

from overlay import ConfigError
from sim.clients import Agent, Wire
from sim.loop import simulate
from sim.peer import World
from sipgw.gateway import SipService
from sipgw.media import UdpPort

ALICE = "sip:alice@example.org"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"listen": "0.0.0.0:5060"}, "refused"),
        ({"listen": "192.168.1.2"}, "refused"),
        ({"listen": "somewhere"}, "no ADDRESS:PORT"),
        ({"listen": "127.0.0.1:99999"}, "no port"),
        ({"listen": 5060}, "must be text"),
        ({"media_ports": "30000"}, "must be text"),
        ({"media_ports": "30000-30001"}, "at least 4"),
        ({"media_ports": "80-30001"}, "between 1024"),
        ({"max_calls": 0}, "from 1 on"),
        ({"max_calls": True}, "must be a number"),
        ({"ring_timeout": "long"}, "must be a number"),
        ({"lisen": "127.0.0.1"}, "unknown key"),
    ],
)
def test_a_wrong_table_is_refused_with_its_key_and_the_reason(
    table: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        SipService(World().peer(ALICE), table)
    assert str(caught.value).startswith(f"services.sip.{next(iter(table))}: ")


def test_a_port_that_another_program_holds_is_refused() -> None:
    async def scenario() -> None:
        wire = Wire()
        wire.open("127.0.0.1", 5060, lambda *_: None)
        with pytest.raises(ConfigError, match=r"127\.0\.0\.1:5060"):
            await SipService(World().peer(ALICE), {}, wire.open).start()

    simulate(scenario)


def test_status_says_who_is_registered_and_stop_may_come_twice() -> None:
    async def scenario() -> None:
        wire = Wire()
        service = SipService(World().peer(ALICE), {}, wire.open)
        assert service.status() == {"running": False}
        await service.start()
        agent = Agent(wire, ALICE, service.address)
        await agent.register()
        status = service.status()
        assert status["registered"] == {ALICE: [agent.here]}
        assert status["calls"] == 0
        await service.stop()
        await service.stop()
        assert service.status() == {"running": False}

    simulate(scenario)


def test_keepalives_before_registration_are_answered_or_ignored() -> None:
    async def scenario() -> None:
        wire = Wire()
        service = SipService(World().peer(ALICE), {}, wire.open)
        await service.start()
        heard: list[bytes] = []
        port = wire.open("127.0.0.1", 7777, lambda data, _: heard.append(data))
        port.send(b"\r\n\r\n", service.address)
        port.send(b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(range(12)), service.address)
        await asyncio.sleep(1)
        assert len(heard) == 1
        assert heard[0][:2] == b"\x01\x01"
        assert heard[0][8:20] == bytes(range(12))
        xored = int.from_bytes(heard[0][26:28], "big") ^ 0x2112
        assert xored == 7777
        assert bytes(a ^ b for a, b in zip(heard[0][28:], b"\x21\x12\xa4\x42", strict=True)) == (
            socket.inet_aton("127.0.0.1")
        )
        await service.stop()

    simulate(scenario)


@pytest.mark.net
def test_a_message_larger_than_a_usual_path_works_on_a_real_socket() -> None:
    async def scenario() -> bytes:
        service = SipService(World().peer(ALICE), {"listen": "127.0.0.1:0"})
        await service.start()
        answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        port = UdpPort("127.0.0.1", 0, lambda data, _: answered.set_result(data))
        here = f"127.0.0.1:{port.address[1]}"
        padding = "x" * 9000
        port.send(
            (
                f"REGISTER sip:example.org SIP/2.0\r\nVia: SIP/2.0/UDP {here};branch=z9hG4bK1\r\n"
                f"Max-Forwards: 70\r\nFrom: <{ALICE}>;tag=1\r\nTo: <{ALICE}>\r\nCall-ID: 1\r\n"
                f"CSeq: 1 REGISTER\r\nContact: <sip:a@{here}>\r\nSubject: {padding}\r\n"
                "Content-Length: 0\r\n\r\n"
            ).encode(),
            service.address,
        )
        answer = await asyncio.wait_for(answered, 5)
        port.close()
        await service.stop()
        return answer

    assert asyncio.run(scenario()).startswith(b"SIP/2.0 200")
