"""A small blocking SIP client for the benchmarks: places calls and answers them by itself."""

import re
import socket
from dataclasses import dataclass

from benchmarks.sip_load import DOMAIN, Address, Peer, register

PATIENCE = 10.0  # seconds for any answer


@dataclass
class Leg:
    """One side of a call: its RTP socket, and where its peer wants RTP."""

    rtp: socket.socket
    relay: Address
    bye: bytes = b""


@dataclass
class Ringing:
    """A call that rings."""

    invite: bytes
    rtp: socket.socket


class Client:
    """A client registered at a peer."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.socket = bound(peer.gateway[0])
        register(self.socket, peer)
        self.socket.settimeout(PATIENCE)
        self.host, self.port = self.socket.getsockname()
        self._calls = 0

    def sdp(self, rtp: socket.socket) -> str:
        return (
            f"v=0\r\no=- 1 1 IN IP4 {self.host}\r\ns=-\r\nc=IN IP4 {self.host}\r\nt=0 0\r\n"
            f"m=audio {rtp.getsockname()[1]} RTP/AVP 0\r\n"
        )

    def invite(self, callee: str) -> tuple[bytes, socket.socket, str]:
        """The bytes of an INVITE, its RTP socket and its branch."""
        self._calls += 1
        rtp = bound(self.host)
        body = self.sdp(rtp)
        name = f"{self.port}n{self._calls}"
        head = (
            f"INVITE {callee} SIP/2.0\r\n{self._headers(name, 'INVITE', 1)}"
            f"To: <{callee}>\r\nContact: <sip:x@{self.host}:{self.port}>\r\n"
            f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return (head + body).encode(), rtp, name

    def _headers(self, name: str, method: str, cseq: int) -> str:
        return (
            f"Via: SIP/2.0/UDP {self.host}:{self.port};branch=z9hG4bK{method}{name};rport\r\n"
            f"Max-Forwards: 70\r\nFrom: <{self.peer.aor}>;tag={name}\r\nCall-ID: {name}\r\n"
            f"CSeq: {cseq} {method}\r\n"
        )

    def hear(self, start: bytes) -> bytes:
        """Wait for a message that starts so; others are passed over."""
        while True:
            data = self.socket.recv(65_535)
            if data.startswith(start):
                return data

    def answer(self, status: int) -> "Ringing":
        """Wait for an INVITE and answer it; 180 leaves it ringing until ``accept``."""
        ringing = Ringing(self.hear(b"INVITE"), bound(self.host))
        self._respond(ringing, status)
        return ringing

    def accept(self, ringing: "Ringing") -> Leg:
        """Answer 200."""
        return self._respond(ringing, 200)

    def hang_up(self) -> None:
        """Wait for the caller's BYE and answer it."""
        bye = self.hear(b"BYE")
        head = b"SIP/2.0 200 OK" + bye[bye.index(b"\r\n") :]
        self.socket.sendto(head, self.peer.gateway)

    def _respond(self, ringing: "Ringing", status: int) -> Leg:
        invite, rtp = ringing.invite, ringing.rtp
        kept = [
            line
            for line in invite.decode().split("\r\n")
            if line.startswith(("Via:", "From:", "Call-ID:", "CSeq:"))
        ]
        to = header(invite, "To") + f";tag=u{rtp.getsockname()[1]}"
        body = self.sdp(rtp) if status == 200 else ""
        lines = [f"SIP/2.0 {status} OK", *kept, f"To: {to}"]
        lines += [f"Contact: <sip:y@{self.host}:{self.port}>"]
        lines += ["Content-Type: application/sdp"] if body else []
        text = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", body])
        self.socket.sendto(text.encode(), self.peer.gateway)
        return Leg(rtp, (self.peer.gateway[0], media_port(invite)))

    def take(self, ok: bytes, rtp: socket.socket, name: str) -> Leg:
        """Acknowledge a 200."""
        target = re.findall(r"Contact: <([^>]+)>", ok.decode())[0]

        def inside(method: str, cseq: int) -> bytes:
            head = f"{method} {target} SIP/2.0\r\n{self._headers(name, method, cseq)}"
            return (head + f"To: {header(ok, 'To')}\r\nContent-Length: 0\r\n\r\n").encode()

        self.socket.sendto(inside("ACK", 1), self.peer.gateway)
        return Leg(rtp, (self.peer.gateway[0], media_port(ok)), inside("BYE", 2))


def call(caller: Client, callee: Client) -> tuple[Leg, Leg]:
    """Place one call; returns both legs."""
    invite, rtp, name = caller.invite(callee.peer.aor)
    caller.socket.sendto(invite, caller.peer.gateway)
    ringing = callee.answer(180)
    far = callee.accept(ringing)
    return caller.take(caller.hear(b"SIP/2.0 200"), rtp, name), far


def bound(host: str) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((host, 0))
    return made


def header(message: bytes, name: str) -> str:
    found = re.findall(rf"^{name}: ([^\r]+)", message.decode(), re.MULTILINE)
    return str(found[0])


def media_port(message: bytes) -> int:
    return int(re.findall(rb"m=audio (\d+)", message)[0])


__all__ = ["DOMAIN", "Client", "Leg", "call"]
