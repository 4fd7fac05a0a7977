"""A member of the overlay that lies: it has a right to be there, and sends what it likes."""

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Self

from hipctl import Endpoint, Hit, HostConfig, HostIdentity, LocalHost
from overlay.config import JoinedOverlay, load_profile, parse_address
from overlay.kinds import Reg
from overlay.node import Node
from overlay.reception import Reception
from overlay.records import Record, aor_key, sign_record
from sipgw.demo.world import PeerProcess

SIP_PORT = 5_060  # between gateways
LIFE = 600  # seconds of a record

_REQUEST = """\
{method} {to} SIP/2.0
Via: SIP/2.0/UDP [{hit}]:{port};branch=z9hG4bK{number}x{seconds};rport
Max-Forwards: 70
From: <{sender}>;tag=f{number}
To: <{to}>
Call-ID: intruder-{number}-{seconds}
CSeq: 1 {method}
Contact: <sip:intruder@[{hit}]:{port}>
Content-Type: {kind}
Content-Length: {length}

{body}"""
_SDP = """\
v=0
o=- 1 1 IN IP4 192.0.2.1
s=-
c=IN IP4 192.0.2.1
t=0 0
m=audio 20000 RTP/AVP 0
a=rtpmap:0 PCMU/8000
"""


class Intruder:
    """A host and a node with a real peer's identity, while that peer's process does not run."""

    def __init__(self, peer: PeerProcess) -> None:
        self._profile = load_profile(peer.folder / "profile.toml")
        (table,) = self._profile.identities.values()
        self.identity = HostIdentity.load(table.key)
        self.joined: JoinedOverlay
        (self.joined,) = self._profile.overlays.values()
        assert self.joined.account is not None
        self.account = self.joined.account
        self._answers: asyncio.Queue[tuple[bytes, Hit]] = asyncio.Queue()
        self._stack = AsyncExitStack()
        self._number = 0
        self.host: LocalHost
        self.node: Node
        self._endpoint: Endpoint

    async def __aenter__(self) -> Self:
        listen = parse_address(self._profile.host.places[0])
        assert listen is not None
        hit, info = self.identity.hit, self.joined.info
        config = HostConfig(listen=(listen,), announce_private=True)
        credentials = self.account.credentials(hit, info, time.time())
        reception = Reception(config.engine)
        reception.open(self.identity, info, credentials)
        self.host = LocalHost([self.identity], config)
        self.host.use(reception, time.time)
        await self._stack.enter_async_context(self.host)
        self.node = await self._stack.enter_async_context(
            Node(self.host, hit, info, credentials, seeds=self.joined.seeds)
        )
        self._endpoint = self.host.open(
            hit, SIP_PORT, lambda data, source, port: self._answers.put_nowait((data, source))
        )
        async with asyncio.timeout(20):
            await self.node.joined()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def request(self, method: str, to: str, sender: str, hit: Hit, timeout: float) -> int:
        """Send a request straight to a gateway; its first answer above 100, 0 if there is none."""
        self._number += 1
        body = (_SDP if method == "INVITE" else "psst").replace("\n", "\r\n")
        kind = "application/sdp" if method == "INVITE" else "text/plain"
        request = _REQUEST.format(
            method=method,
            to=to,
            sender=sender,
            hit=self.identity.hit,
            port=SIP_PORT,
            number=self._number,
            seconds=int(time.time()),
            kind=kind,
            length=len(body),
            body="",
        )
        data = request.replace("\n", "\r\n").encode() + body.encode()
        await self.host.connect(hit, timeout=timeout)
        self._endpoint.send(data, hit, SIP_PORT)
        try:
            async with asyncio.timeout(timeout):
                while True:
                    answer, source = await self._answers.get()
                    status = int(answer.split()[1]) if answer.startswith(b"SIP/2.0 ") else 0
                    if (
                        source == hit
                        and status > 100
                        and f"intruder-{self._number}-" in str(answer)
                    ):
                        return status
        except TimeoutError:
            return 0

    def registration(self, aor: str, certificate: bytes) -> Record:
        """Claim, with a good signature of our own, that ``aor`` answers here."""
        info, now = self.joined.info, int(time.time())
        delegation = self.account.delegation_of(self.identity.hit, now)
        assert delegation is not None
        contact = self.host.contact(self.identity.hit)
        payload = Reg(aor, delegation, certificate, SIP_PORT, contact).encode()
        key = aor_key(info.id, aor)
        return sign_record(
            self.identity, info.id, "REG", key, b"", now * 1000, now, now + LIFE, payload
        )
