"""An editor for session descriptions that leaves alone what it is not told to change (RFC 8866).

A relay has to put its own addresses and ports into an offer or answer, and to
take ICE out so that clients do not bypass it. Everything else, known or not,
stays byte for byte: codecs, keys, feedback, extensions of tomorrow.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from sipgw.errors import MalformedSdp

CONTENT_TYPE: Final = "application/sdp"
MAX_SDP: Final = 65_535  # bytes, ours
MAX_MEDIA: Final = 32  # m= sections, ours

_LINE = re.compile(r"[^\n]*+\n|[^\n]++")
_MEDIA = re.compile(r"m=(\S++) ++([0-9]{1,5})(?:/([0-9]{1,5}))? ++(\S++)((?: ++\S++)*+) *+")
_CONNECTION = re.compile(r"c=IN +(IP[46]) +([^\s/]+)(?:/\S*)?\s*", re.IGNORECASE)
_RTCP = re.compile(r"a=[ \t]*+rtcp:([0-9]{1,5})(?: +IN +(IP[46]) +(\S+))?\s*", re.IGNORECASE)
_RTCP_NAME = re.compile(r"a=[ \t]*+rtcp[ \t]*+:", re.IGNORECASE)
_ICE = re.compile(
    r"a=[ \t]*+(?:candidate|remote-candidates|end-of-candidates|ice-[a-z0-9\-]+)(?=[:\s]|$)",
    re.IGNORECASE,  # RFC 8839 §5; a lenient client may not mind the case
)
_RTP_PROTOCOL = re.compile(r"(?:UDP/(?:TLS/)?)?RTP/S?AVPF?", re.IGNORECASE)
_DIRECTIONS = frozenset({"sendrecv", "sendonly", "recvonly", "inactive"})
_UNSPECIFIED = frozenset({"0.0.0.0", "::", "0:0:0:0:0:0:0:0"})  # noqa: S104  nothing is bound


@dataclass(frozen=True, slots=True)
class Origin:
    """The o= line (RFC 8866 §5.2); ``session_id`` and ``version`` as spelled."""

    username: str
    session_id: str
    version: str
    address: str


@dataclass(frozen=True, slots=True)
class Media:
    """What one m= section says, its session-level defaults applied.

    Attributes:
        kind: ``audio``, ``video`` …
        port: 0 means rejected, or not offered.
        count: number of port pairs, nearly always 1 (``49170/2`` has 2).
        protocol: ``RTP/AVP`` … as spelled.
        formats: payload types, or whatever the protocol calls formats.
        address: where its c= says to send, None if there is no c=.
        rtcp_port: from a=rtcp, else None (then it is ``port + 1``).
        rtcp_address: from a=rtcp, else None (then it is ``address``).
        rtcp_mux: whether a=rtcp-mux is there (RFC 5761).
        direction: ``sendrecv``, ``sendonly``, ``recvonly`` or ``inactive``.
    """

    kind: str
    port: int
    count: int
    protocol: str
    formats: tuple[str, ...]
    address: str | None
    rtcp_port: int | None
    rtcp_address: str | None
    rtcp_mux: bool
    direction: str

    @property
    def rejected(self) -> bool:
        """Whether the port is 0 (RFC 3264 §6)."""
        return self.port == 0

    @property
    def relayable(self) -> bool:
        """Whether an RTP relay can carry it; what it cannot (T.38, MSRP, TCP) gets port 0."""
        return not self.rejected and _RTP_PROTOCOL.fullmatch(self.protocol) is not None

    @property
    def on_hold(self) -> bool:
        """Whether the sender wants to hear nothing: by direction or the old 0.0.0.0 (§8.4)."""
        return self.direction in ("sendonly", "inactive") or self.address in _UNSPECIFIED


Ports = tuple[int, int]
"""Where RTP and RTCP of one m= section are received."""


class SessionDescription:
    """One session description, line by line.

    Attributes:
        origin: the o= line, None if there is none.
        media: the m= sections in order.
    """

    __slots__ = ("_lines", "media", "origin")

    def __init__(self, lines: list[tuple[str, str]]) -> None:
        self._lines = lines  # (content, line end)
        origins = [_origin(text) for text, _ in lines if text.startswith("o=")]
        self.origin = origins[0] if origins else None
        self.media = _read_media([text for text, _ in lines])

    @classmethod
    def parse(cls, body: bytes) -> "SessionDescription":
        """Split a body into lines and read what a relay needs to know.

        Raises:
            MalformedSdp: it does not begin with v=0, a line is no ``x=``, or an o=, c=, m= or
                a=rtcp line cannot be read.
        """
        if len(body) > MAX_SDP:
            raise MalformedSdp("too large")
        lines = []
        for line in _LINE.findall(body.decode("utf-8", "surrogateescape")):
            text = line.rstrip("\n").removesuffix("\r")
            if "\r" in text or "\0" in text:
                raise MalformedSdp("control character")
            if text and (len(text) < 2 or text[1] != "=" or not text[0].islower()):
                raise MalformedSdp("bad line")
            lines.append((text, line[len(text) :]))
        if not lines or lines[0][0].rstrip(" ") != "v=0":
            raise MalformedSdp("no v=0")
        return cls(lines)

    def encode(self) -> bytes:
        """The bytes that were parsed."""
        return "".join(text + end for text, end in self._lines).encode("utf-8", "surrogateescape")

    def rewrite(self, address: str, ports: Sequence[Ports | None]) -> bytes:
        """Say that all media are to be sent to a relay.

        Changed are the address in o=, c= (hold by 0.0.0.0 stays), the port of m=, a=rtcp;
        ICE lines go, and lines that say elsewhere an address which was changed (a=alt,
        a=source-filter, the CNAME of a=ssrc …); nothing else changes. A section that is
        rejected stays so.

        Args:
            address: the relay's IPv4 or IPv6 address, no name, no brackets.
            ports: per m= section its RTP and RTCP port, or None to refuse it with port 0;
                sections beyond the end of ``ports`` are refused.
        """
        where = f"IN IP6 {address}" if ":" in address else f"IN IP4 {address}"
        out: list[str] = []
        hidden = [said for said in self._addresses() if said != address]  # ours hides nobody
        index, pair = -1, None
        rtcp_said = True
        for text, end in self._lines:
            kind = text[:2]
            if kind == "m=":
                _add_rtcp(out, pair, rtcp_said)
                index += 1
                pair = self._pair(index, ports)
                mux = self.media[index].rtcp_mux
                rtcp_said = pair is None or pair[1] == pair[0] + 1 or (mux and pair[0] == pair[1])
                out += (self._media_line(index, pair), end or "\r\n")
                continue
            edited: str | None
            if kind == "c=":
                edited = _connection_line(text, where)
            elif kind == "o=":
                edited = _origin_line(text, where)
            elif (said := _RTCP.fullmatch(text)) is not None:
                # Of a refused section it would only give an address away.
                edited = _rtcp_line(pair[1], where if said[3] else "") if pair else None
                rtcp_said = rtcp_said or pair is not None
            else:
                edited = _other_line(text, hidden)
            if edited is not None:
                out += (edited, end)
        _add_rtcp(out, pair, rtcp_said)
        return "".join(out).encode("utf-8", "surrogateescape")

    def mentions(self, text: str) -> bool:
        """Whether any line contains ``text``, such as an address that must not leak."""
        return any(text in line for line, _ in self._lines)

    def _addresses(self) -> list[str]:
        """The IP addresses that ``rewrite`` replaces."""
        said = {self.origin.address} if self.origin else set()
        for media in self.media:
            said |= {media.address or "", media.rtcp_address or ""}
        return [address for address in said - _UNSPECIFIED if _is_address(address)]

    def _pair(self, index: int, ports: Sequence[Ports | None]) -> Ports | None:
        if self.media[index].rejected or index >= len(ports):
            return None
        return ports[index]

    def _media_line(self, index: int, pair: Ports | None) -> str:
        media = self.media[index]
        formats = "".join(f" {format}" for format in media.formats)
        return f"m={media.kind} {pair[0] if pair else 0} {media.protocol}{formats}"


def _rtcp_line(port: int, where: str) -> str:
    return f"a=rtcp:{port} {where}" if where else f"a=rtcp:{port}"


def _other_line(text: str, hidden: Sequence[str]) -> str | None:
    """The line as it is, unless it is of ICE or says an address that is to be hidden."""
    if text[:2] == "a=" and _ICE.match(text):
        return None
    if any(address in text for address in hidden):
        return "s=-" if text[:2] == "s=" else None  # s= has to be there
    return text


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _add_rtcp(out: list[str], pair: Ports | None, said: bool) -> None:
    # RFC 3605: the other side would otherwise guess port + 1.
    if pair is not None and not said:
        if not out[-1].endswith("\n"):
            out.append("\n" if out[-1].endswith("\r") else "\r\n")
        out.append(f"a=rtcp:{pair[1]}\r\n")


def _origin(text: str) -> Origin:
    fields = text[2:].split()
    if len(fields) != 6:
        raise MalformedSdp("bad o=")
    return Origin(fields[0], fields[1], fields[2], fields[5])


def _origin_line(text: str, where: str) -> str:
    username, session_id, version, *_ = text[2:].split()
    return f"o={username} {session_id} {version} {where}"


def _connection_line(text: str, where: str) -> str:
    match = _CONNECTION.fullmatch(text)
    return text if match is not None and match[2] in _UNSPECIFIED else f"c={where}"


@dataclass(slots=True)
class _Section:
    """What has been read of one section so far; the session level is one too."""

    address: str | None = None
    rtcp_port: int | None = None
    rtcp_address: str | None = None
    rtcp_mux: bool = False
    direction: str = "sendrecv"

    def read(self, text: str) -> None:
        if text.startswith("c="):
            connection = _CONNECTION.fullmatch(text)
            if connection is None:
                raise MalformedSdp("bad c=")
            self.address = self.address or connection[2]
        elif text == "a=rtcp-mux":
            self.rtcp_mux = True
        elif text[2:] in _DIRECTIONS:
            self.direction = text[2:]
        elif _RTCP_NAME.match(text):
            rtcp = _RTCP.fullmatch(text)
            if rtcp is None or int(rtcp[1]) > 65_535:
                raise MalformedSdp("bad a=rtcp")
            self.rtcp_port, self.rtcp_address = int(rtcp[1]), rtcp[3]


def _read_media(lines: list[str]) -> list[Media]:
    starts = [i for i, text in enumerate(lines) if text.startswith("m=")]
    if len(starts) > MAX_MEDIA:
        raise MalformedSdp("too many m=")
    session = _Section()
    for text in lines[: starts[0]] if starts else lines:
        session.read(text)
    found = []
    for start, stop in zip(starts, [*starts[1:], len(lines)], strict=False):
        match = _MEDIA.fullmatch(lines[start])
        if match is None or int(match[2]) > 65_535:
            raise MalformedSdp("bad m=")
        section = _Section(direction=session.direction)
        for text in lines[start + 1 : stop]:
            section.read(text)
        found.append(
            Media(
                kind=match[1],
                port=int(match[2]),
                count=int(match[3] or 1),
                protocol=match[4],
                formats=tuple(match[5].split()),
                address=section.address or session.address,
                rtcp_port=section.rtcp_port,
                rtcp_address=section.rtcp_address,
                rtcp_mux=section.rtcp_mux,
                direction=section.direction,
            )
        )
    return found
