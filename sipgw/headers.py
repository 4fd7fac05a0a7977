"""Values inside header fields: URIs, name-addr, Via, CSeq (RFC 3261 §19.1, §20, §25.1).

Everything here is read from the raw string of one header value, on demand, and
raises MalformedMessage with a short constant reason when the string is not of
its grammar. Patterns are linear in the length of their input whatever it is.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from sipgw.constants import MAX_CSEQ
from sipgw.errors import MalformedMessage

Params = Mapping[str, str | None]
"""Parameter name in lower case to its value as spelled (quotes kept), None if it has none."""

_TOKEN_CHARS = r"A-Za-z0-9\-.!%*_+`'~"  # noqa: S105  §25.1 `token`
TOKEN = re.compile(rf"[{_TOKEN_CHARS}]+")
_HOST = r"\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_.\-]{1,255}"  # `_` is no host name, but is met
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*+)"', re.DOTALL)
_HOST_PORT = re.compile(rf"({_HOST})(?::([0-9]{{1,5}}))?")
_DISPLAY = re.compile(rf"([{_TOKEN_CHARS} \t\u0080-\U0010ffff]*+)<")
# What nearly every From, To and Route looks like; all else takes the long way, to the same end.
_PLAIN = re.compile(
    rf'(?:"([^"\\]*+)"[ \t]*+)?<([^<>\s]++)>(?:;tag=([{_TOKEN_CHARS}]++))?', re.DOTALL
)
_PARAM = re.compile(
    rf";[ \t]*+([{_TOKEN_CHARS}]++)[ \t]*+"
    r'(?:=[ \t]*+("(?:[^"\\]|\\.)*+"|[^\s;,"<>?\\]++)[ \t]*+)?',
    re.DOTALL,
)
_VIA = re.compile(
    rf"SIP[ \t]*+/[ \t]*+2\.0[ \t]*+/[ \t]*+([{_TOKEN_CHARS}]++)[ \t]++"
    rf"({_HOST})[ \t]*+(?::[ \t]*+([0-9]{{1,5}})[ \t]*+)?(?=;|$)",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*+):(.+)", re.DOTALL)
_USERINFO = re.compile(
    r"(?:[A-Za-z0-9\-_.!~*'()&=+$,;?/:#]|[\u0080-\U0010ffff]|%[0-9A-Fa-f]{2})++"
)
_URI_PARAMS = re.compile(r"(?:[A-Za-z0-9\-_.!~*'()\[\]/:&+$=;|`]|%[0-9A-Fa-f]{2})*+")
_URI_HEADERS = re.compile(r"(?:[A-Za-z0-9\-_.!~*'()\[\]/?:+$=&;,|]|%[0-9A-Fa-f]{2})*+")
_OPAQUE = re.compile(r"[^\s<>\"]++")
_CSEQ = re.compile(rf"([0-9]++)[ \t]++([{_TOKEN_CHARS}]++)")
_SEPARATOR = re.compile(r'"(?:[^"\\]|\\.?)*+"?|<[^>]*+>?|,', re.DOTALL)

_CACHED_URI = 256  # characters; longer URIs are parsed each time, so the cache stays small


def split_list(value: str) -> list[str]:
    """Split a header value at its commas, those inside quotes or angle brackets excepted."""
    if "," not in value:
        return [value]
    if '"' not in value and "<" not in value:
        return [part.strip() for part in value.split(",")]
    parts, start = [], 0
    for match in _SEPARATOR.finditer(value):
        if match.group() == ",":
            parts.append(value[start : match.start()].strip())
            start = match.end()
    parts.append(value[start:].strip())
    return parts


def parse_params(text: str) -> dict[str, str | None]:
    """Read ``;name=value;name`` (§25.1 ``generic-param``), from the first semicolon to the end.

    Raises:
        MalformedMessage: something else is there, or a parameter is repeated.
    """
    found: dict[str, str | None] = {}
    at, end = 0, len(text)
    while at < end:
        match = _PARAM.match(text, at)
        if match is None:
            raise MalformedMessage("bad parameter")
        name = match[1].lower()
        if name in found:
            raise MalformedMessage("repeated parameter")
        found[name] = match[2]
        at = match.end()
    return found


def unquote(text: str) -> str:
    """Take the quotes and backslashes from a quoted-string; other text is returned as it is."""
    if len(text) >= 2 and text[0] == '"' == text[-1]:
        text = text[1:-1]
        return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL) if "\\" in text else text
    return text


def quote(text: str) -> str:
    r"""Make a quoted-string of ``text``; line breaks, which it cannot hold, become spaces."""
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + text.replace("\r", " ").replace("\n", " ") + '"'


def unescape(text: str) -> str:
    """Replace %HH by what it stands for (§19.1.2)."""
    if "%" not in text:
        return text
    return unquote_to_bytes(text.encode("utf-8", "surrogateescape")).decode(
        "utf-8", "surrogateescape"
    )


def _render(params: Params) -> str:
    return "".join(f";{n}" if v is None else f";{n}={v}" for n, v in params.items())


def _port(digits: str | None) -> int | None:
    if digits is None:
        return None
    port = int(digits)
    if not 0 < port <= 65_535:
        raise MalformedMessage("bad port")
    return port


@dataclass(frozen=True, slots=True)
class Uri:
    """A SIP or SIPS URI (§19.1.1), or any other URI with only its scheme understood.

    Attributes:
        text: as it was spelled; ``str(uri)``.
        scheme: lower case.
        user: as spelled, escapes included; "" if there is none.
        password: None if there is none.
        host: as spelled, IPv6 addresses with their brackets; "" if the scheme is not sip(s).
        port: None if not given.
        params: URI parameters.
        headers: what follows ``?``, unparsed; "" if nothing.
        opaque: what follows the scheme, if the scheme is not sip(s); else "".
    """

    text: str
    scheme: str
    user: str = ""
    password: str | None = None
    host: str = ""
    port: int | None = None
    params: Params = ()  # type: ignore[assignment]
    headers: str = ""
    opaque: str = ""

    @staticmethod
    def parse(text: str) -> "Uri":
        """Read one URI without angle brackets.

        Raises:
            MalformedMessage: it is none, or its sip(s) part breaks §19.1.1.
        """
        return _cached_uri(text) if len(text) <= _CACHED_URI else _parse_uri(text)

    @staticmethod
    def build(
        user: str, host: str, port: int | None = None, scheme: str = "sip", params: str = ""
    ) -> "Uri":
        """Make a URI of parts that are already escaped; ``params`` is like ``;lr``."""
        return Uri.parse(
            f"{scheme}:{user}{'@' if user else ''}{host}{f':{port}' if port else ''}{params}"
        )

    def __str__(self) -> str:
        return self.text

    @property
    def aor(self) -> str:
        """``scheme:user@host`` with the host in lower case and without port and parameters."""
        if not self.host:
            return self.text
        return f"{self.scheme}:{self.user}{'@' if self.user else ''}{self.host.lower()}"

    @property
    def is_sip(self) -> bool:
        """Whether this is a sip or sips URI."""
        return self.host != ""

    @property
    def bare(self) -> str:
        """The URI without ``?headers``: what may become a Request-URI (§19.1.5)."""
        return self.text[: -len(self.headers) - 1] if self.headers else self.text

    def same(self, other: "Uri") -> bool:
        """Compare as §19.1.4 does (headers by their text)."""
        if self.text == other.text:
            return True
        if not self.host or not other.host:
            return self.scheme == other.scheme and self.opaque == other.opaque
        return (
            self.scheme == other.scheme
            and self.port == other.port
            and self.host.lower() == other.host.lower()
            and unescape(self.user) == unescape(other.user)
            and self.password == other.password
            and self.headers == other.headers
            and self._same_params(other)
        )

    def _same_params(self, other: "Uri") -> bool:
        mine, theirs = self.params, other.params
        for name in (*mine, *theirs):
            one, two = mine.get(name, _ABSENT), theirs.get(name, _ABSENT)
            if one is two:
                continue
            if one is _ABSENT or two is _ABSENT:
                if name in _DECISIVE:
                    return False
            elif unescape(one or "").lower() != unescape(two or "").lower():
                return False
        return True


_ABSENT = "\0"
_DECISIVE = frozenset({"user", "ttl", "method", "maddr", "transport"})  # §19.1.4


def _parse_uri(text: str) -> Uri:
    match = _SCHEME.fullmatch(text)
    if match is None:
        raise MalformedMessage("bad URI")
    scheme, rest = match[1].lower(), match[2]
    if scheme not in ("sip", "sips"):
        if not _OPAQUE.fullmatch(rest):
            raise MalformedMessage("bad URI")
        return Uri(text, scheme, params={}, opaque=rest)
    user, password, at, has_at = "", None, 0, rest.rfind("@")
    if has_at >= 0:
        userinfo = rest[:has_at]
        if not _USERINFO.fullmatch(userinfo):
            raise MalformedMessage("bad user in URI")
        user, colon, secret = userinfo.partition(":")
        password = secret if colon else None
        at = has_at + 1
    where = _HOST_PORT.match(rest, at)
    if where is None:
        raise MalformedMessage("bad host in URI")
    tail = rest[where.end() :]
    tail, query, headers = tail.partition("?")
    if tail[:1] not in ("", ";") or not _URI_PARAMS.fullmatch(tail):
        raise MalformedMessage("bad URI parameter")
    if query and not (headers and _URI_HEADERS.fullmatch(headers)):
        raise MalformedMessage("bad URI header")
    return Uri(text, scheme, user, password, where[1], _port(where[2]), _uri_params(tail), headers)


_cached_uri = lru_cache(maxsize=2048)(_parse_uri)


def _uri_params(tail: str) -> dict[str, str | None]:
    params: dict[str, str | None] = {}
    if tail:
        for part in tail[1:].split(";"):
            name, equals, value = part.partition("=")
            name = name.lower()
            if not name or (equals and not value) or name in params:
                raise MalformedMessage("bad URI parameter")
            params[name] = value if equals else None
    return params


@dataclass(frozen=True, slots=True)
class NameAddr:
    """An address in From, To, Contact, Route … (§20.10): ``"Name" <uri>;param=value``.

    Attributes:
        display: the name without quotes; "" if none.
        uri: the address.
        params: parameters of the header field, such as ``tag``.
    """

    display: str
    uri: Uri
    params: Params

    @staticmethod
    def parse(text: str) -> "NameAddr":
        """Read one value, in angle brackets or bare.

        Raises:
            MalformedMessage: quotes or brackets don't pair, the URI or a parameter is wrong.
        """
        plain = _PLAIN.fullmatch(text)
        if plain is not None:
            tag = plain[3]
            return NameAddr(plain[1] or "", Uri.parse(plain[2]), {"tag": tag} if tag else {})
        return NameAddr._parse_any(text.strip(" \t"))

    @staticmethod
    def _parse_any(text: str) -> "NameAddr":
        display, at = "", -1
        if text.startswith('"'):
            quoted = _QUOTED.match(text)
            if quoted is None:
                raise MalformedMessage("unbalanced quotes")
            display = unquote(quoted[0])
            rest = text[quoted.end() :].lstrip(" \t")
            if not rest.startswith("<"):
                raise MalformedMessage("bad address")
            text, at = rest, 1
        elif (match := _DISPLAY.match(text)) is not None:
            display, at = match[1].strip(" \t"), match.end()
        if (
            at < 0
        ):  # without brackets, parameters are the header's, and `?` and `,` are not allowed
            address, _, tail = text.partition(";")
            address = address.rstrip(" \t")
            if "?" in address or "," in address:
                raise MalformedMessage("address needs brackets")
            return NameAddr("", Uri.parse(address), parse_params(";" + tail) if _ else {})
        end = text.find(">", at)
        if end < 0:
            raise MalformedMessage("unbalanced brackets")
        tail = text[end + 1 :].lstrip(" \t")
        return NameAddr(display, Uri.parse(text[at:end]), parse_params(tail) if tail else {})

    @property
    def tag(self) -> str | None:
        """The ``tag`` parameter, None if absent."""
        return self.params.get("tag")

    def __str__(self) -> str:
        name = f"{quote(self.display)} " if self.display else ""
        return f"{name}<{self.uri.text}>{_render(self.params)}"


@dataclass(frozen=True, slots=True)
class Via:
    """One Via value (§20.42).

    Attributes:
        transport: upper case, such as ``UDP``.
        host: sent-by host as spelled, IPv6 addresses with their brackets.
        port: sent-by port, None if not given.
        params: ``branch``, ``received``, ``rport`` and others.
    """

    transport: str
    host: str
    port: int | None
    params: Params

    @staticmethod
    def parse(text: str) -> "Via":
        """Read one value.

        Raises:
            MalformedMessage: it is none of SIP/2.0.
        """
        text = text.strip(" \t")
        match = _VIA.match(text)
        if match is None:
            raise MalformedMessage("bad Via")
        tail = text[match.end() :]
        return Via(match[1].upper(), match[2], _port(match[3]), parse_params(tail) if tail else {})

    @property
    def branch(self) -> str | None:
        """The ``branch`` parameter, None if absent."""
        return self.params.get("branch")

    @property
    def sent_by(self) -> str:
        """``host`` or ``host:port``, the host in lower case."""
        return f"{self.host.lower()}:{self.port}" if self.port else self.host.lower()

    def seen_from(self, host: str, port: int) -> "Via":
        """Add where the request came from: ``received``, and ``rport`` if asked (RFC 3581 §4).

        ``received`` is always set: one who listens elsewhere than it says gets its answer too.
        """
        params = dict(self.params)
        params["received"] = host
        if "rport" in params:
            params["rport"] = str(port)
        return Via(self.transport, self.host, self.port, params)

    def __str__(self) -> str:
        port = f":{self.port}" if self.port else ""
        return f"SIP/2.0/{self.transport} {self.host}{port}{_render(self.params)}"


@dataclass(frozen=True, slots=True)
class CSeq:
    """The CSeq header (§20.16): ``number`` below 2**31, and the method as spelled."""

    number: int
    method: str

    @staticmethod
    def parse(text: str) -> "CSeq":
        """Read the value.

        Raises:
            MalformedMessage: it is none, or the number is too large.
        """
        match = _CSEQ.fullmatch(text.strip(" \t"))
        if match is None or len(match[1]) > 20 or int(match[1]) > MAX_CSEQ:
            raise MalformedMessage("bad CSeq")
        return CSeq(int(match[1]), match[2])

    def __str__(self) -> str:
        return f"{self.number} {self.method}"
