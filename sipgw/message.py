"""SIP messages: bytes to Request or Response and back (RFC 3261 §7).

Parsing splits lines and nothing more; each header keeps the string it came
with, and is understood when somebody asks. Only what cannot be represented is
refused: for everything else ``sipgw.validate`` names the answer that is owed,
because one cannot answer a message that one refused to parse.

Text is UTF-8; bytes that are not come back unchanged (surrogateescape).
"""

import re
from collections.abc import Callable
from typing import TypeVar

from sipgw.constants import (
    MAX_EXPIRES,
    MAX_HEADERS,
    MAX_MESSAGE,
    REASONS,
    SIP_VERSION,
)
from sipgw.errors import MalformedMessage
from sipgw.fields import KEYS, SPELLED, Headers, clean, first_of, key_of, value_of
from sipgw.headers import (
    TOKEN,
    CSeq,
    NameAddr,
    Params,
    Uri,
    Via,
    parse_params,
    quote,
    split_list,
    unescape,
    unquote,
)

__all__ = [
    "CSeq",
    "Headers",
    "MalformedMessage",
    "NameAddr",
    "Params",
    "Request",
    "Response",
    "Uri",
    "Via",
    "is_keepalive",
    "parse",
    "parse_params",
    "quote",
    "reply",
    "split_list",
    "unescape",
    "unquote",
]

_T = TypeVar("_T")


class _Message:
    """What requests and responses share.

    Attributes:
        headers: the header fields.
        body: as received.
        defect: what is wrong with the framing although it could be represented, else None.
    """

    __slots__ = ("_read", "body", "defect", "headers")

    def __init__(self, headers: Headers, body: bytes, defect: str | None) -> None:
        self._read: dict[str, tuple[object, object]] = {}  # line that was read, and its value
        self.headers = headers
        self.body = body
        self.defect = defect

    @property
    def size(self) -> int:
        """Bytes that its headers and body take, about."""
        return len(self.body) + sum(map(len, self.headers.stored))

    def _typed(self, name: str, read: Callable[[str], _T]) -> _T:
        headers = self.headers
        try:
            line = headers.stored[headers.keys.index(name)]
        except ValueError:
            raise MalformedMessage(f"no {SPELLED.get(name, name)}") from None
        known = self._read.get(name)
        if known is None or known[0] is not line:
            known = self._read[name] = (line, read(first_of(name, line)))
        return known[1]  # type: ignore[return-value]

    def _typed_all(self, name: str, read: Callable[[str], _T]) -> list[_T]:
        headers = self.headers
        count = headers.keys.count(name)
        if count == 0:
            return []
        lines: object
        if count == 1:
            lines = headers.stored[headers.keys.index(name)]
        else:
            pairs = zip(headers.keys, headers.stored, strict=True)
            lines = [line for key, line in pairs if key == name]
        known = self._read.get(_ALL + name)
        if known is None or known[0] != lines:
            found = [read(value) for value in headers.all(name) if value != "*"]
            known = self._read[_ALL + name] = (lines, found)
        return known[1].copy()  # type: ignore[attr-defined, no-any-return]

    @property
    def via(self) -> Via:
        """The topmost Via. Raises MalformedMessage, like every typed accessor here."""
        return self._typed("via", Via.parse)

    @property
    def vias(self) -> list[Via]:
        """All Via values, topmost first."""
        headers = self.headers
        if headers.keys.count("via") == 1 and "," not in headers.stored[headers.keys.index("via")]:
            return [self.via]
        return self._typed_all("via", Via.parse)

    @property
    def from_(self) -> NameAddr:
        """The From header."""
        return self._typed("from", NameAddr.parse)

    @property
    def to(self) -> NameAddr:
        """The To header."""
        return self._typed("to", NameAddr.parse)

    @property
    def call_id(self) -> str:
        """The Call-ID."""
        return self._typed("call-id", str)

    @property
    def cseq(self) -> CSeq:
        """The CSeq."""
        return self._typed("cseq", CSeq.parse)

    @property
    def contacts(self) -> list[NameAddr]:
        """All Contact addresses; a lone ``*`` is not one, see ``headers.first``."""
        return self._typed_all("contact", NameAddr.parse)

    @property
    def routes(self) -> list[NameAddr]:
        """All Route addresses, topmost first."""
        return self._typed_all("route", NameAddr.parse)

    @property
    def record_routes(self) -> list[NameAddr]:
        """All Record-Route addresses, topmost first."""
        return self._typed_all("record-route", NameAddr.parse)

    @property
    def content_type(self) -> str:
        """``type/subtype`` in lower case without parameters; "" if there is none."""
        value = self.headers.first("content-type") or ""
        return value.partition(";")[0].strip(" \t").lower()

    @property
    def expires(self) -> int | None:
        """The Expires header in seconds, None if absent."""
        return self._typed("expires", _seconds) if "expires" in self.headers.keys else None

    @property
    def max_forwards(self) -> int | None:
        """The Max-Forwards header, None if absent."""
        return self._typed("max-forwards", _hops) if "max-forwards" in self.headers.keys else None

    def set_body(self, content_type: str, body: bytes) -> None:
        """Replace the body and its Content-Type; an empty body has no type."""
        self.body = body
        if body:
            self.headers.set("Content-Type", content_type)
        else:
            self.headers.remove("Content-Type")

    def _encode(self, start: str) -> bytes:
        headers = self.headers
        keys, lines = headers.keys, headers.stored
        length = f"Content-Length: {len(self.body)}"
        try:
            at = keys.index("content-length")
        except ValueError:
            keys.append("content-length")
            lines.append(length)
        else:
            if lines[at] != length and value_of(lines[at]) != str(len(self.body)):
                lines[at] = length
        text = "\r\n".join((start, *lines, "", ""))
        return text.encode("utf-8", "surrogateescape") + self.body


_ALL = "all "


def _number(text: str, top: int, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and int(text) <= top):
        raise MalformedMessage(what)
    return int(text)


def _seconds(text: str) -> int:
    return _number(text, MAX_EXPIRES, "bad Expires")


def _hops(text: str) -> int:
    return _number(text, 255, "bad Max-Forwards")


class Request(_Message):
    """A request (RFC 3261 §7.1).

    Attributes:
        method: as spelled; methods are case-sensitive.
        uri: the Request-URI as spelled; ``request_uri`` parses it.
        version: ``SIP/2.0``, or what the sender claimed instead.
    """

    __slots__ = ("method", "uri", "version")

    def __init__(
        self,
        method: str,
        uri: str,
        headers: Headers | None = None,
        body: bytes = b"",
        *,
        version: str = SIP_VERSION,
        defect: str | None = None,
    ) -> None:
        super().__init__(Headers() if headers is None else headers, body, defect)
        self.method = method
        self.uri = uri
        self.version = version

    @property
    def request_uri(self) -> Uri:
        """The Request-URI."""
        return Uri.parse(self.uri)

    def encode(self) -> bytes:
        """The bytes to send; Content-Length is put right, all else is as it is."""
        return self._encode(f"{self.method} {self.uri} {self.version}")

    def copy(self) -> "Request":
        """A copy that can be changed on its own."""
        return Request(
            self.method,
            self.uri,
            self.headers.copy(),
            self.body,
            version=self.version,
            defect=self.defect,
        )

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.uri}>"


class Response(_Message):
    """A response (RFC 3261 §7.2).

    Attributes:
        status: 100–699.
        reason: the reason phrase.
    """

    __slots__ = ("reason", "status")

    def __init__(
        self,
        status: int,
        reason: str = "",
        headers: Headers | None = None,
        body: bytes = b"",
        *,
        defect: str | None = None,
    ) -> None:
        super().__init__(Headers() if headers is None else headers, body, defect)
        self.status = status
        self.reason = reason

    def encode(self) -> bytes:
        """The bytes to send; Content-Length is put right, all else is as it is."""
        return self._encode(f"{SIP_VERSION} {self.status} {clean(self.reason)}")

    def copy(self) -> "Response":
        """A copy that can be changed on its own."""
        return Response(
            self.status, self.reason, self.headers.copy(), self.body, defect=self.defect
        )

    def __repr__(self) -> str:
        return f"<Response {self.status} {self.reason}>"


def reply(request: Request, status: int, reason: str = "", to_tag: str = "") -> Response:
    """Make a response to ``request`` (§8.2.6.2).

    Args:
        request: what is answered; its Via must already say where it came from.
        status: 100–699.
        reason: the phrase; "" means the usual one.
        to_tag: added to To unless To has a tag; none is added to a 100.
    """
    headers = Headers()
    keys, lines = headers.keys, headers.stored
    for key, line in zip(request.headers.keys, request.headers.stored, strict=True):
        if key in _COPIED or (status == 100 and key == "timestamp"):
            if key == "to" and to_tag and status != 100 and not _has_tag(line):
                line = f"{line};tag={to_tag}"  # noqa: PLW2901
            keys.append(key)
            lines.append(line)
    return Response(status, reason or REASONS.get(status, "Unknown"), headers)


_COPIED = frozenset({"via", "from", "to", "call-id", "cseq"})
_TAG = re.compile(r";[ \t\r\n]*+tag[ \t\r\n]*+=", re.IGNORECASE)


def _has_tag(line: str) -> bool:
    return _TAG.search(line, line.rfind(">") + 1) is not None


def is_keepalive(data: bytes) -> bool:
    """Whether a datagram only keeps a NAT binding alive: nothing but CR, LF, NUL and spaces."""
    return len(data) <= 64 and not data.strip(b"\r\n\0 ")


def parse(data: bytes) -> Request | Response:
    """Read one message from one datagram.

    What follows the body that Content-Length announces is dropped (§18.3).

    Raises:
        MalformedMessage: these bytes are no SIP message, or more than we take.
    """
    if len(data) > MAX_MESSAGE:
        raise MalformedMessage("message too large")
    head, blank, body = data.partition(b"\r\n\r\n")
    if head[:2] == b"\r\n" or not head:  # §7.5: empty lines before the start line
        head, blank, body = data.lstrip(b"\r\n").partition(b"\r\n\r\n")
    if not blank:
        raise MalformedMessage("headers do not end")
    lines = head.decode("utf-8", "surrogateescape").split("\r\n")
    if head.count(b"\n") != len(lines) - 1 or head.count(b"\r") != len(lines) - 1:
        raise MalformedMessage("bare line break")
    if len(lines) > 1 + MAX_HEADERS:
        raise MalformedMessage("too many headers")
    start = lines[0]
    del lines[0]
    headers = Headers()
    defect = _fill(headers, lines)
    if "content-length" in headers.keys:
        body, wrong = _cut(headers, body)
        defect = defect or wrong
    if start[:4].upper() == "SIP/":
        return _response(start, headers, body, defect)
    return _request(start, headers, body, defect)


def _fill(headers: Headers, lines: list[str]) -> str | None:
    """Store header lines, unfolded lines joined to what they continue; return a defect."""
    keys, known, defect = headers.keys, KEYS, None
    folded = False
    for line in lines:
        name, colon, _ = line.partition(":")
        key = known.get(name)
        if key is None:
            if line[:1] in (" ", "\t"):
                folded = True
                key = ""
            else:
                key = key_of(name)
                if not colon or not TOKEN.fullmatch(key):
                    defect = "bad header line"
        elif not colon:
            defect = "bad header line"
        keys.append(key)
    headers.stored = lines
    if folded:
        _unfold(headers)
    return defect


def _unfold(headers: Headers) -> None:
    keys, lines = headers.keys.copy(), headers.stored
    headers.keys.clear()
    headers.stored = []
    for key, line in zip(keys, lines, strict=True):
        if line[:1] in (" ", "\t") and not key:
            if not headers.stored:
                raise MalformedMessage("first header is folded")
            headers.stored[-1] += "\r\n" + line
        else:
            headers.keys.append(key)
            headers.stored.append(line)


def _cut(headers: Headers, body: bytes) -> tuple[bytes, str | None]:
    """Cut the body to its Content-Length; return it and what is wrong with that."""
    keys = headers.keys
    value = value_of(headers.stored[keys.index("content-length")])
    if not (value.isascii() and value.isdigit() and len(value) <= 20):
        return body, "bad Content-Length"
    if keys.count("content-length") > 1 and len({*headers.lines("content-length")}) > 1:
        return body, "different Content-Lengths"
    length = int(value)
    if length > len(body):
        return body, "body shorter than Content-Length"
    return body[:length], None


def _response(start: str, headers: Headers, body: bytes, defect: str | None) -> Response:
    version, _, rest = start.partition(" ")
    code, _, reason = rest.partition(" ")
    if version.upper() != SIP_VERSION:
        raise MalformedMessage("response of another version")
    if len(code) != 3 or not code.isascii() or not code.isdigit() or not "1" <= code[0] <= "6":
        raise MalformedMessage("bad status line")
    return Response(int(code), reason, headers, body, defect=defect)


_VERSION = re.compile(r"SIP/[0-9]{1,9}\.[0-9]{1,9}", re.IGNORECASE)


def _request(start: str, headers: Headers, body: bytes, defect: str | None) -> Request:
    method, _, rest = start.partition(" ")
    uri, _, version = rest.rpartition(" ")
    if version != SIP_VERSION or not uri or " " in uri or "\t" in uri:
        uri, version, wrong = _odd_request_line(rest)
        defect = defect or wrong
    if not TOKEN.fullmatch(method):
        raise MalformedMessage("bad method")
    return Request(method, uri, headers, body, version=version, defect=defect)


def _odd_request_line(rest: str) -> tuple[str, str, str | None]:
    # Stray white space is representable, hence answerable, but wrong (RFC 4475 §3.1.2.8-10).
    uri, _, version = rest.strip(" \t").rpartition(" ")
    if not uri.strip(" \t") or not _VERSION.fullmatch(version):
        raise MalformedMessage("bad request line")
    strict = " " not in uri and "\t" not in uri and rest == f"{uri} {version}"
    return uri.strip(" \t"), version.upper(), None if strict else "white space in request line"
