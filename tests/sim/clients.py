"""SIP clients in virtual time: a wire of UDP ports in memory, and a scripted user agent on it.

The agent is written from the RFCs with nothing of sipgw, so that it can disagree with it.
"""

import asyncio
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field

Address = tuple[str, int]
OnPacket = Callable[[bytes, Address], None]


class WirePort:
    def __init__(self, wire: "Wire", address: Address, on_packet: OnPacket) -> None:
        self.wire, self.address, self.on_packet = wire, address, on_packet

    def send(self, data: bytes, to: Address) -> None:
        self.wire.carry(data, self.address, to)

    def close(self) -> None:
        if self.wire.ports.get(self.address) is self:
            del self.wire.ports[self.address]


@dataclass
class Wire:
    """Loopback of one machine.

    Attributes:
        loss: probability that a datagram is lost.
        duplication: probability that it comes twice.
        log: (time, from, to, data) of everything sent.
    """

    seed: int = 0
    latency: float = 0.001
    loss: float = 0.0
    duplication: float = 0.0
    ports: dict[Address, WirePort] = field(default_factory=dict)
    log: list[tuple[float, Address, Address, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._free = 50_000

    def open(self, host: str, port: int, on_packet: OnPacket) -> WirePort:
        if port == 0:
            self._free += 1
            port = self._free
        if (host, port) in self.ports:
            raise OSError(98, "Address already in use")
        opened = self.ports[host, port] = WirePort(self, (host, port), on_packet)
        return opened

    def carry(self, data: bytes, source: Address, to: Address) -> None:
        loop = asyncio.get_running_loop()
        self.log.append((loop.time(), source, to, data))
        times = 2 if self.duplication and self._rng.random() < self.duplication else 1
        for _ in range(times):
            if not self.loss or self._rng.random() >= self.loss:
                loop.call_later(self.latency, self._arrive, data, source, to)

    def _arrive(self, data: bytes, source: Address, to: Address) -> None:
        port = self.ports.get(to)
        if port is not None:
            port.on_packet(data, source)


class Message:
    """A SIP message, read the simple way."""

    def __init__(self, data: bytes) -> None:
        head, _, self.body = data.partition(b"\r\n\r\n")
        self.start, *lines = head.decode(errors="replace").split("\r\n")
        self.lines = [tuple(part.strip() for part in line.split(":", 1)) for line in lines]
        self.is_response = self.start.startswith("SIP/2.0")
        self.status = int(self.start.split()[1]) if self.is_response else 0
        self.method = self["CSeq"].split()[1]
        self.raw = data

    def __getitem__(self, name: str) -> str:
        return next((v for n, v in self.lines if n.lower() == name.lower()), "")

    def all(self, name: str) -> list[str]:
        return [v for n, v in self.lines if n.lower() == name.lower()]

    @property
    def cseq(self) -> int:
        return int(self["CSeq"].split()[0])

    def tag(self, name: str) -> str:
        found = re.search(r";tag=([^;\s]+)", self[name])
        return found[1] if found else ""

    @property
    def contact(self) -> str:
        found = re.search(r"<([^>]+)>", self["Contact"])
        return found[1] if found else self["Contact"]

    def media_port(self) -> int:
        found = re.search(rb"m=audio (\d+)", self.body)
        return int(found[1]) if found else 0

    def __repr__(self) -> str:
        return f"<{self.start}>"


@dataclass
class Talk:
    """One dialog of an agent."""

    call_id: str
    local: str
    remote: str
    target: str
    cseq: int
    invite: Message | None = None
    branch: str = ""
    media_port: int = 0


class Agent:
    """A client: registers, calls, answers; every received message is in ``heard``.

    Attributes:
        answer: status with which it answers an INVITE, None to leave it ringing.
        ring: status of the provisional answer, 0 for none.
        acks: whether it acknowledges 2xx.
    """

    def __init__(self, wire: Wire, aor: str, gateway: Address, host: str = "127.0.0.1") -> None:
        self.wire, self.aor, self.gateway = wire, aor, gateway
        self.port = wire.open(host, 0, self._on_packet)
        self.rtp = wire.open(host, 0, self._on_rtp)
        self.user = aor.split(":")[1].split("@", maxsplit=1)[0]
        self.heard: list[Message] = []
        self.heard_rtp: list[bytes] = []
        self.rtp_from: list[Address] = []
        self.answer: int | None = 200
        self.ring = 180
        self.after = 0.1
        self.acks = True
        self.alive = True
        self.bodies = True
        self.talk: Talk | None = None
        self.sdp_port = self.rtp.address[1]
        self._n = 0
        self._answered: dict[tuple[str, str], bytes] = {}
        self._waiting: list[tuple[Callable[[Message], bool], asyncio.Future[Message]]] = []
        self._register_cseq = 0
        self._pending: dict[str, asyncio.Task[None]] = {}

    # Sending.

    def unique(self, what: str) -> str:
        self._n += 1
        return f"{what}{self._n}{self.user}{self.port.address[1]}"

    @property
    def here(self) -> str:
        return "{}:{}".format(*self.port.address)

    @property
    def contact(self) -> str:
        return f"<sip:{self.user}@{self.here}>"

    def sdp(self, port: int | None = None, extra: str = "") -> bytes:
        host = self.port.address[0]
        return (
            f"v=0\r\no=- 1 1 IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\n"
            f"m=audio {self.sdp_port if port is None else port} RTP/AVP 0\r\n"
            f"a=rtpmap:0 PCMU/8000\r\n{extra}"
        ).encode()

    def compose(
        self,
        start: str,
        headers: list[tuple[str, str]],
        body: bytes = b"",
        kind: str = "application/sdp",
    ) -> bytes:
        lines = [start, *(f"{n}: {v}" for n, v in headers)]
        if body:
            lines.append(f"Content-Type: {kind}")
        lines += [f"Content-Length: {len(body)}", "", ""]
        return "\r\n".join(lines).encode() + body

    def send(self, data: bytes) -> None:
        if self.alive:
            self.port.send(data, self.gateway)

    async def request(
        self,
        method: str,
        uri: str,
        headers: list[tuple[str, str]] | None = None,
        body: bytes = b"",
        kind: str = "application/sdp",
        **own: str,
    ) -> Message:
        """Send outside a dialog, with retransmission; return the final response."""
        given = dict(headers or [])
        base = {
            "Via": f"SIP/2.0/UDP {self.here};branch=z9hG4bK{self.unique('b')};rport",
            "Max-Forwards": "70",
            "From": f"<{own.get('sender', self.aor)}>;tag={self.unique('t')}",
            "To": f"<{own.get('to', uri)}>",
            "Call-ID": self.unique("c") + "@" + self.port.address[0],
            "CSeq": f"{own.get('cseq', '1')} {method}",
            "Contact": self.contact,
        }
        data = self.compose(f"{method} {uri} SIP/2.0", list({**base, **given}.items()), body, kind)
        return await self.transact(data)

    async def transact(self, data: bytes) -> Message:
        message = Message(data)
        branch = message["Via"].split("branch=")[1].split(";")[0]
        final = self.expect(
            lambda m: (
                m.is_response
                and m.status >= 200
                and branch in m["Via"]
                and m.method == message.method
            )
        )
        gap = 0.5
        while not final.done():
            self.send(data)
            await asyncio.wait([final], timeout=gap)
            provisional = any(
                m.is_response and branch in m["Via"] and m.method == message.method
                for m in self.heard
            )
            if provisional and message.method == "INVITE":
                return await final
            gap = min(2 * gap, 4.0)
        return final.result()

    def expect(self, wanted: Callable[[Message], bool]) -> asyncio.Future[Message]:
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, future))
        return future

    async def register(self, expires: int = 3600, **own: str) -> Message:
        self._register_cseq += 1
        domain = "sip:" + self.aor.split("@")[1]
        return await self.request(
            "REGISTER",
            domain,
            [("Expires", str(expires)), ("Call-ID", f"reg{self.here}")],
            to=own.get("to", self.aor),
            cseq=str(self._register_cseq),
        )

    def start_invite(self, uri: str, **own: str) -> Talk:
        """Compose an INVITE; ``invite`` sends it."""
        talk = Talk(
            self.unique("call"),
            f"<{own.get('sender', self.aor)}>;tag={self.unique('t')}",
            f"<{uri}>",
            uri,
            1,
            branch=f"z9hG4bK{self.unique('b')}",
        )
        self.talk = talk
        return talk

    def invite_bytes(self, talk: Talk, body: bytes | None = None) -> bytes:
        return self.compose(
            f"INVITE {talk.target} SIP/2.0",
            [
                ("Via", f"SIP/2.0/UDP {self.here};branch={talk.branch};rport"),
                ("Max-Forwards", "70"),
                ("From", talk.local),
                ("To", talk.remote),
                ("Call-ID", talk.call_id),
                ("CSeq", f"{talk.cseq} INVITE"),
                ("Contact", self.contact),
                ("User-Agent", "scripted/1.0"),
            ],
            self.sdp() if body is None else body,
        )

    async def invite(self, uri: str, body: bytes | None = None, **own: str) -> Message:
        """Call; acknowledge; return the final response."""
        talk = self.start_invite(uri, **own)
        final = await self.transact(self.invite_bytes(talk, body))
        if final.status < 300:
            self._take(talk, final)
            self.ack(talk, talk.cseq, self.sdp() if body == b"" else b"")
        return final

    def _take(self, talk: Talk, final: Message) -> None:
        talk.remote = final["To"]
        talk.target = final.contact
        talk.media_port = final.media_port() or talk.media_port

    def ack(self, talk: Talk, cseq: int, body: bytes = b"") -> None:
        if self.acks:
            self.send(self.in_dialog(talk, "ACK", cseq, body))

    def in_dialog(
        self, talk: Talk, method: str, cseq: int, body: bytes = b"", kind: str = "application/sdp"
    ) -> bytes:
        return self.compose(
            f"{method} {talk.target} SIP/2.0",
            [
                ("Via", f"SIP/2.0/UDP {self.here};branch=z9hG4bK{self.unique('b')};rport"),
                ("Max-Forwards", "70"),
                ("From", talk.local),
                ("To", talk.remote),
                ("Call-ID", talk.call_id),
                ("CSeq", f"{cseq} {method}"),
                ("Contact", self.contact),
            ],
            body,
            kind,
        )

    async def say(self, method: str, body: bytes = b"", kind: str = "application/sdp") -> Message:
        """A request inside the dialog; an INVITE is acknowledged."""
        talk = self.talk
        assert talk is not None
        talk.cseq += 1
        cseq = talk.cseq
        final = await self.transact(self.in_dialog(talk, method, cseq, body, kind))
        if method == "INVITE" and final.status < 300:
            self._take(talk, final)
            self.ack(talk, cseq)
        return final

    def cancel(self) -> None:
        talk = self.talk
        assert talk is not None
        self.send(
            self.compose(
                f"CANCEL {talk.target} SIP/2.0",
                [
                    ("Via", f"SIP/2.0/UDP {self.here};branch={talk.branch};rport"),
                    ("Max-Forwards", "70"),
                    ("From", talk.local),
                    ("To", talk.remote),
                    ("Call-ID", talk.call_id),
                    ("CSeq", f"{talk.cseq} CANCEL"),
                ],
            )
        )

    def speak(self, n: int = 1, ssrc: int = 1) -> None:
        """Send RTP to where the last SDP says."""
        assert self.talk is not None
        for i in range(n):
            packet = bytes((0x80, 0, 0, i)) + bytes(4) + ssrc.to_bytes(4, "big") + bytes(160)
            self.rtp.send(packet, (self.gateway[0], self.talk.media_port))

    # Receiving.

    def _on_rtp(self, data: bytes, source: Address) -> None:
        self.heard_rtp.append(data)
        self.rtp_from.append(source)

    def _on_packet(self, data: bytes, source: Address) -> None:
        if not self.alive:
            return
        message = Message(data)
        self.heard.append(message)
        for entry in list(self._waiting):
            if not entry[1].done() and entry[0](message):
                entry[1].set_result(message)
                self._waiting.remove(entry)
        if message.is_response:
            self._on_response(message)
        else:
            self._on_request(message)

    def _on_response(self, message: Message) -> None:
        talk = self.talk
        if message.method != "INVITE" or talk is None or message["Call-ID"] != talk.call_id:
            return
        if message.status >= 300 and message.cseq == 1:
            ack = self.in_dialog(talk, "ACK", message.cseq)
            text = ack.decode().replace(f"To: {talk.remote}", f"To: {message['To']}")
            via = message["Via"].split(";received")[0].split(";rport")[0]
            text = re.sub(r"Via: [^\r]+", f"Via: {via}", text)
            self.send(text.encode())
        elif (
            200 <= message.status < 300
            and self.count("INVITE", message.status) > 1
            and message.tag("To") == re.sub(r".*tag=", "", talk.remote)
        ):
            self.ack(talk, message.cseq)

    def count(self, method: str, status: int) -> int:
        return sum(1 for m in self.heard if m.method == method and m.status == status)

    def statuses(self, method: str = "INVITE") -> list[int]:
        return [m.status for m in self.heard if m.is_response and m.method == method]

    def requests(self, method: str) -> list[Message]:
        return [m for m in self.heard if not m.is_response and m.start.startswith(method + " ")]

    def respond(
        self, request: Message, status: int, body: bytes = b"", tag: str = "", **more: str
    ) -> None:
        to = request["To"]
        if ";tag=" not in to and status > 100:
            to += f";tag={tag or 'answer' + self.here.replace(':', '')}"
        headers = [("Via", v) for v in request.all("Via")]
        headers += [
            ("From", request["From"]),
            ("To", to),
            ("Call-ID", request["Call-ID"]),
            ("CSeq", request["CSeq"]),
            ("Contact", self.contact),
            ("User-Agent", "scripted/1.0"),
            *more.items(),
        ]
        data = self.compose(f"SIP/2.0 {status} Whatever", headers, body)
        if status >= 200:
            self._answered[request["Via"], request.method] = data
        self.send(data)

    def _on_request(self, request: Message) -> None:
        key = request["Via"], request.method
        if key in self._answered:
            self.send(self._answered[key])
            return
        if request.method == "INVITE":
            if request["Via"] not in self._pending:
                task = asyncio.get_running_loop().create_task(self._answer(request))
                self._pending[request["Via"]] = task
        elif request.method == "CANCEL":
            self.respond(request, 200)
            pending = self._pending.get(request["Via"])
            invite = next((m for m in self.requests("INVITE") if m["Via"] == request["Via"]), None)
            if pending is not None and invite is not None and not pending.done():
                pending.cancel()
                self.respond(invite, 487)
        elif request.method != "ACK":
            self.respond(request, 200)

    async def _answer(self, invite: Message) -> None:
        self.respond(invite, 100)
        inside = ";tag=" in invite["To"]
        if self.ring and not inside:
            await asyncio.sleep(0.02)
            self.respond(invite, self.ring, self.sdp() if self.ring == 183 else b"")
        if self.answer is None and not inside:
            await asyncio.sleep(1e6)
        await asyncio.sleep(0 if inside else self.after)
        status = 200 if inside else self.answer or 200
        if status < 300:
            tag = "answer" + self.here.replace(":", "")
            to = invite["To"] if inside else f"{invite['To']};tag={tag}"
            port = invite.media_port()
            if self.talk is None or not inside:
                self.talk = Talk(invite["Call-ID"], to, invite["From"], invite.contact, 0, invite)
            self.talk.media_port = port or self.talk.media_port
            data_body = self.sdp()
            self.respond(invite, status, data_body)
            await self._until_acked(invite, self._answered[invite["Via"], "INVITE"])
        else:
            self.respond(invite, status)
            await self._until_acked(invite, self._answered[invite["Via"], "INVITE"])

    async def _until_acked(self, invite: Message, data: bytes) -> None:
        gap, waited = 0.5, 0.0
        while waited < 32 and self.alive:
            await asyncio.sleep(gap)
            acks = [m for m in self.requests("ACK") if m["Call-ID"] == invite["Call-ID"]]
            if any(m.cseq == invite.cseq for m in acks):
                for ack in acks:
                    if ack.cseq == invite.cseq and self.talk is not None:
                        self.talk.media_port = ack.media_port() or self.talk.media_port
                return
            self.send(data)
            waited += gap
            gap = min(2 * gap, 4.0)
