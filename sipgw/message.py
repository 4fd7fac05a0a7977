"""SIP messages: bytes to Request or Response and back (RFC 3261 §7).

Parsing splits lines and nothing more; each header keeps the string it came
with, and is understood when somebody asks. Only what cannot be represented is
refused: for everything else ``sipgw.validate`` names the answer that is owed,
because one cannot answer a message that one refused to parse.

Text is UTF-8; bytes that are not come back unchanged (surrogateescape).
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from sipgw.constants import (
    COMPACT,
    LISTS,
    MAX_EXPIRES,
    MAX_HEADERS,
    MAX_MESSAGE,
    REASONS,
    SIP_VERSION,
    SPELLINGS,
)
from sipgw.errors import MalformedMessage
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

_SPELLED = {name.lower(): name for name in SPELLINGS}
# Every usual spelling to its key, so that parsing seldom has to lower-case anything.
_KEYS: dict[str, str] = {
    **{name: name.lower() for name in SPELLINGS},
    **{name.lower(): name.lower() for name in SPELLINGS},
    **COMPACT,
    **{short.upper(): key for short, key in COMPACT.items()},
    "Call-Id": "call-id",
    "Cseq": "cseq",
}
_T = TypeVar("_T")
_FOLD = re.compile(r"[ \t]*+\r\n[ \t]++")
_BREAKS = re.compile(r"[\r\n]+[ \t]*")


def _key(name: str) -> str:
    known = _KEYS.get(name)
    if known is None:
        known = name.rstrip(" \t").lower()
        known = COMPACT.get(known, known)
    return known


def _clean(value: str) -> str:
    # A line break inside a value would begin a header of its own at the receiver.
    return _BREAKS.sub(" ", value) if "\n" in value or "\r" in value else value


def _value_of(line: str) -> str:
    value = line[line.find(":") + 1 :]
    if "\r" in value:
        value = _FOLD.sub(" ", value)
    return value.strip(" \t")


def _first_of(key: str, line: str) -> str:
    value = _value_of(line)
    return split_list(value)[0] if "," in value and key in LISTS else value


class Headers:
    """The header fields of one message, in order; names match in any case and compact form."""

    __slots__ = ("_keys", "_lines")

    def __init__(self) -> None:
        self._keys: list[str] = []
        self._lines: list[str] = []  # as received, name and folding included

    def _value(self, index: int) -> str:
        return _value_of(self._lines[index])

    def first(self, name: str) -> str | None:
        """The first value, None if there is no such header; of a list its first element."""
        key = _KEYS.get(name) or _key(name)
        if key not in self._keys:
            return None
        return _first_of(key, self._lines[self._keys.index(key)])

    def all(self, name: str) -> list[str]:
        """Every value in order: all lines, and where the header is a list all its elements."""
        key = _KEYS.get(name) or _key(name)
        count = self._keys.count(key)
        if count == 0:
            return []
        if count == 1:
            value = self._value(self._keys.index(key))
            return split_list(value) if "," in value and key in LISTS else [value]
        found = [self._value(i) for i, k in enumerate(self._keys) if k == key]
        if key in LISTS and any("," in value for value in found):
            return [part for value in found for part in split_list(value)]
        return found

    def lines(self, name: str) -> list[str]:
        """The value of every line, lists not split."""
        key = _key(name)
        return [self._value(i) for i, k in enumerate(self._keys) if k == key]

    def set(self, name: str, value: str) -> None:
        """Replace every header of that name by one, at the place of the first, else at the end."""
        key, line = _key(name), f"{name}: {_clean(value)}"
        try:
            at = self._keys.index(key)
        except ValueError:
            self._keys.append(key)
            self._lines.append(line)
            return
        if self._keys.count(key) > 1:
            self.remove(name)
            self._keys.insert(at, key)
            self._lines.insert(at, line)
        else:
            self._lines[at] = line

    def add(self, name: str, value: str) -> None:
        """Append one header line."""
        self._keys.append(_key(name))
        self._lines.append(f"{name}: {_clean(value)}")

    def prepend(self, name: str, value: str) -> None:
        """Insert one header line before all others (a new topmost Via, Route, Record-Route)."""
        self._keys.insert(0, _key(name))
        self._lines.insert(0, f"{name}: {_clean(value)}")

    def remove(self, name: str) -> int:
        """Drop every line of that name; return how many there were."""
        key, before = _key(name), len(self._keys)
        kept = [i for i, k in enumerate(self._keys) if k != key]
        if len(kept) != before:
            self._lines = [self._lines[i] for i in kept]
            self._keys = [self._keys[i] for i in kept]
        return before - len(kept)

    def pop(self, name: str) -> str | None:
        """Take away the first value (of a list, its first element) and return it."""
        key = _key(name)
        try:
            at = self._keys.index(key)
        except ValueError:
            return None
        value = self._value(at)
        first, *rest = split_list(value) if key in LISTS else [value]
        if rest:
            self._lines[at] = f"{_SPELLED.get(key, name)}: {', '.join(rest)}"
        else:
            del self._keys[at], self._lines[at]
        return first

    def replace_first(self, name: str, value: str) -> None:
        """Put ``value`` in the place of the first one (of a list, of its first element)."""
        key = _key(name)
        try:
            at = self._keys.index(key)
        except ValueError:
            self.prepend(name, value)
            return
        rest = split_list(self._value(at))[1:] if key in LISTS else []
        self._lines[at] = f"{name}: {', '.join([_clean(value), *rest])}"

    def copy_from(self, other: "Headers", *names: str) -> None:
        """Append the lines of ``names``, as spelled there and in their order there."""
        wanted = {_key(name) for name in names}
        for key, line in zip(other._keys, other._lines, strict=True):
            if key in wanted:
                self._keys.append(key)
                self._lines.append(line)

    def raw(self) -> tuple[list[str], list[str]]:
        """Keys and whole lines, for reading only: what ``add_raw`` of another message takes."""
        return self._keys, self._lines

    def add_raw(self, key: str, line: str) -> None:
        """Append a line of another message's ``raw``."""
        self._keys.append(key)
        self._lines.append(line)

    def copy(self) -> "Headers":
        """A copy that can be changed on its own."""
        twin = Headers()
        twin._keys, twin._lines = self._keys.copy(), self._lines.copy()
        return twin

    @property
    def names(self) -> Sequence[str]:
        """The key of every line, in order: lower case, long form."""
        return self._keys

    def __contains__(self, name: str) -> bool:
        return _key(name) in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Every line as (key in lower case and long form, value)."""
        return iter([(key, self._value(i)) for i, key in enumerate(self._keys)])


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

    def _typed(self, name: str, read: Callable[[str], _T]) -> _T:
        headers = self.headers
        try:
            line = headers._lines[headers._keys.index(name)]
        except ValueError:
            raise MalformedMessage(f"no {_SPELLED.get(name, name)}") from None
        known = self._read.get(name)
        if known is None or known[0] is not line:
            known = self._read[name] = (line, read(_first_of(name, line)))
        return known[1]  # type: ignore[return-value]

    def _typed_all(self, name: str, read: Callable[[str], _T]) -> list[_T]:
        headers = self.headers
        count = headers._keys.count(name)
        if count == 0:
            return []
        lines: object
        if count == 1:
            lines = headers._lines[headers._keys.index(name)]
        else:
            pairs = zip(headers._keys, headers._lines, strict=True)
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
        if (
            headers._keys.count("via") == 1
            and "," not in headers._lines[headers._keys.index("via")]
        ):
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
        return self._typed("expires", _seconds) if "expires" in self.headers._keys else None

    @property
    def max_forwards(self) -> int | None:
        """The Max-Forwards header, None if absent."""
        return self._typed("max-forwards", _hops) if "max-forwards" in self.headers._keys else None

    def set_body(self, content_type: str, body: bytes) -> None:
        """Replace the body and its Content-Type; an empty body has no type."""
        self.body = body
        if body:
            self.headers.set("Content-Type", content_type)
        else:
            self.headers.remove("Content-Type")

    def _encode(self, start: str) -> bytes:
        headers = self.headers
        keys, lines = headers._keys, headers._lines
        length = f"Content-Length: {len(self.body)}"
        try:
            at = keys.index("content-length")
        except ValueError:
            keys.append("content-length")
            lines.append(length)
        else:
            if lines[at] != length and headers._value(at) != str(len(self.body)):
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
        return self._encode(f"{SIP_VERSION} {self.status} {_clean(self.reason)}")

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
    keys, lines = headers._keys, headers._lines
    for key, line in zip(request.headers._keys, request.headers._lines, strict=True):
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
    if "content-length" in headers._keys:
        body, wrong = _cut(headers, body)
        defect = defect or wrong
    if start[:4].upper() == "SIP/":
        return _response(start, headers, body, defect)
    return _request(start, headers, body, defect)


def _fill(headers: Headers, lines: list[str]) -> str | None:
    """Store header lines, unfolded lines joined to what they continue; return a defect."""
    keys, known, defect = headers._keys, _KEYS, None
    folded = False
    for line in lines:
        name, colon, _ = line.partition(":")
        key = known.get(name)
        if key is None:
            if line[:1] in (" ", "\t"):
                folded = True
                key = ""
            else:
                key = _key(name)
                if not colon or not TOKEN.fullmatch(key):
                    defect = "bad header line"
        elif not colon:
            defect = "bad header line"
        keys.append(key)
    headers._lines = lines
    if folded:
        _unfold(headers)
    return defect


def _unfold(headers: Headers) -> None:
    keys, lines = headers._keys.copy(), headers._lines
    headers._keys.clear()
    headers._lines = []
    for key, line in zip(keys, lines, strict=True):
        if line[:1] in (" ", "\t") and not key:
            if not headers._lines:
                raise MalformedMessage("first header is folded")
            headers._lines[-1] += "\r\n" + line
        else:
            headers._keys.append(key)
            headers._lines.append(line)


def _cut(headers: Headers, body: bytes) -> tuple[bytes, str | None]:
    """Cut the body to its Content-Length; return it and what is wrong with that."""
    keys = headers._keys
    value = headers._value(keys.index("content-length"))
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
