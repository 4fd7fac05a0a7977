"""Any bytes from whoever is on the LAN: PCP, NAT-PMP, SSDP, HTTP and XML, read and acted upon.

python tests/fuzz/fuzz_portmap.py -max_total_time=60
"""

import contextlib
import struct

from hipctl import igd, natpmp, pcp
from hipctl.errors import MalformedPacket, Rejected
from hipctl.http1 import Exchange
from hipctl.mapped import Fetch, Url
from hipctl.ssdp import Advertisement, locate
from sim.routers import HOME, LAN, SIX, Router, World

GET = Fetch(HOME, 1, Url(LAN, 5_000, "/root.xml"))
ROUTER = Router({"PCP", "NAT-PMP", "UPnP"})
GRANTED = bytes.fromhex(
    "0281000000001c200000001500000000000000000000000000000000000000000000000011"
)
DESCRIPTION = b'<?xml version="1.0"?>' + (ROUTER.on_http(GET, 0.0) or (0, b""))[1]
FAULT = b'<E xmlns="x"><Fault><errorCode>718</errorCode></Fault></E>'
SEEDS = [
    b"\0" + GRANTED.ljust(60, b"\0"),
    b"\0" + struct.pack("!BBHI", 0, 0, 1, 5),
    b"\1" + bytes.fromhex("00810000000000162904290400001c20"),
    b"\2" + (ROUTER.on_search(LAN) or b""),
    b"\2" + ROUTER.notification(),
    b"\3" + DESCRIPTION,
    b"\4" + FAULT,
    b"\5HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"\5HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"\6" + GRANTED.ljust(60, b"\0"),
    b"\6" + ROUTER.announcement(9.0),
    b"\7" + DESCRIPTION,
    b"\10" + FAULT,
    b"\11" + ROUTER.notification(leaving=True),
]


def test_one_input(data: bytes) -> None:
    """The first byte chooses who gets the rest."""
    if not data:
        return
    what, rest = data[0] % 10, data[1:]
    if what < 6:
        with contextlib.suppress(MalformedPacket, Rejected):
            _read(what, rest)
    else:
        _act(what, rest)


def _read(what: int, data: bytes) -> None:
    match what:
        case 0:
            pcp.version_offered(data)
            pcp.Response.parse(data)
        case 1:
            natpmp.parse(data)
        case 2:
            location = Advertisement.parse(data).location
            assert locate(location, LAN).host == LAN
        case 3:
            for service in igd.parse_description(data, GET.url):
                assert service.control.host == LAN
        case 4:
            answer = igd.parse_answer(data)
            assert len(answer.reason) <= 60
        case _:
            exchange = Exchange(GET, 1_000)
            exchange.feed(data[: len(data) // 2])
            if not exchange.done:
                exchange.feed(data[len(data) // 2 :])
            assert len(exchange.body) <= 1_000


def _act(what: int, data: bytes) -> None:
    """The same bytes at each stage of a mapping."""
    speaks = {6: "PCP", 7: "UPnP", 8: "UPnP"}.get(what, "UPnP")
    world = World({LAN: Router({speaks}), SIX.router: Router({speaks})}, [HOME, SIX])
    mapper = world.mapper
    for wait in (0.0, 0.6, 0.5, 200.0):
        world.run(wait)
        for uplink, source in ((HOME, LAN), (SIX, SIX.router)):
            match what:
                case 6:
                    world.do(mapper.on_datagram(uplink, data, (source, 5_351), world.now))
                    world.do(mapper.on_announcement(data, (source, 5_351), world.now))
                case 7 | 8:
                    for number in range(6):
                        reply = (200 if what == 7 else 500), data
                        world.do(mapper.on_reply(uplink, number, reply, world.now))
                case _:
                    world.do(mapper.on_answer(uplink, data, source, world.now))
                    world.do(mapper.on_notify(data, source, world.now))
        for _, action in world.asked:
            if isinstance(action, Fetch):
                assert action.url.host in (LAN, SIX.router)
    world.do(mapper.close())
    assert mapper.deadline() is None


if __name__ == "__main__":
    import sys

    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
