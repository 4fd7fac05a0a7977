"""What is wrong with a message that could be parsed, and the status that is owed for it.

In the order of RFC 3261 §8.2: version, mandatory headers and their grammar,
scheme, hops, extensions, content.
"""

import re
from collections.abc import Callable, Set
from typing import Any, Final

from sipgw.constants import REASONS, SIP_VERSION
from sipgw.errors import MalformedMessage
from sipgw.message import Request, Response, reply

Verdict = tuple[int, str]
"""Status and reason phrase."""

SUPPORTED: Final[frozenset[str]] = frozenset({"100rel", "timer"})  # in Require; both pass through
SCHEMES: Final = frozenset({"sip", "sips", "tel", "urn"})  # of Request-URIs; the router decides
OFFER_TYPES: Final = ("application/sdp", "multipart/")  # bodies an INVITE may have
MAX_BODY: Final = 60_000  # bytes; with our headers it must fit one datagram

_SINGLE: Final = ("from", "to", "call-id", "cseq", "max-forwards", "content-type", "expires")
_DATE = re.compile(
    r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"
)
_CALL_ID = re.compile(r"[^\s,;@]++(?:@[^\s,;@]++)?")


def validate(request: Request, supported: Set[str] = SUPPORTED) -> Verdict | None:
    """Name what is owed for a faulty request, None if there is nothing to object to.

    Args:
        request: as parsed.
        supported: option tags that Require and Proxy-Require may name.
    """
    if request.version != SIP_VERSION:
        return _plain(505)
    try:
        _check_headers(request)
        scheme = request.request_uri.scheme
    except MalformedMessage as error:
        return 400, error.reason[0].upper() + error.reason[1:]
    if scheme not in SCHEMES:
        return _plain(416)
    if request.max_forwards == 0:
        return _plain(483)
    if request.method not in ("ACK", "CANCEL") and unsupported(request, supported):
        return _plain(420)  # §8.2.2.3
    return _check_content(request)


def validate_response(response: Response) -> str | None:
    """Name why a response must be discarded, None if it can be used."""
    try:
        _check_common(response)
        if len(response.vias) > 1:
            raise MalformedMessage("a second Via")  # §8.1.3.3: not ours to forward
    except MalformedMessage as error:
        return f"response with {error.reason}"
    return None


def refuse(request: Request, verdict: Verdict, to_tag: str) -> Response:
    """Make the response that a verdict of ``validate`` calls for, with the headers it needs."""
    status, reason = verdict
    response = reply(request, status, reason, to_tag)
    if status == 420:
        response.headers.add("Unsupported", ", ".join(unsupported(request)))
    elif status == 415:
        response.headers.add("Accept", "application/sdp")
        response.headers.add("Accept-Encoding", "identity")
    return response


def unsupported(request: Request, supported: Set[str] = SUPPORTED) -> list[str]:
    """The option tags that a request requires and we lack."""
    headers = request.headers
    if "require" not in headers and "proxy-require" not in headers:
        return []
    required = headers.all("require") + headers.all("proxy-require")
    return [tag for tag in required if tag.lower() not in supported]


def _plain(status: int) -> Verdict:
    return status, REASONS[status]


def _check_common(message: Request | Response) -> None:
    if message.defect is not None:
        raise MalformedMessage(message.defect)
    _ = message.via, message.from_, message.to, message.cseq
    if not _CALL_ID.fullmatch(message.call_id):
        raise MalformedMessage("bad Call-ID")
    names = message.headers.names
    for name in _SINGLE:
        if names.count(name) > 1:
            raise MalformedMessage(f"repeated {name}")


def _check_headers(request: Request) -> None:
    _check_common(request)
    if request.cseq.method != request.method:
        raise MalformedMessage("CSeq of another method")
    if request.request_uri.headers:
        raise MalformedMessage("headers in Request-URI")
    names = request.headers.names
    for name, check in _OPTIONAL:
        if name in names:
            check(request)


def _check_contact(request: Request) -> None:
    _ = request.contacts
    values = request.headers.all("contact")
    if len(values) > 1 and "*" in values:
        raise MalformedMessage("Contact besides *")


def _check_date(request: Request) -> None:
    if not _DATE.fullmatch(request.headers.first("date") or ""):
        raise MalformedMessage("bad Date")


_OPTIONAL: Final[tuple[tuple[str, Callable[[Request], Any]], ...]] = (
    ("via", lambda request: request.vias),
    ("contact", _check_contact),
    ("route", lambda request: request.routes),
    ("record-route", lambda request: request.record_routes),
    ("max-forwards", lambda request: request.max_forwards),
    ("expires", lambda request: request.expires),
    ("date", _check_date),
)


def _check_content(request: Request) -> Verdict | None:
    headers = request.headers
    if request.method == "INVITE" and "accept" in headers and not _takes_sdp(request):
        return _plain(406)
    if not request.body:
        return None
    if len(request.body) > MAX_BODY:
        return _plain(413)
    if "content-type" not in headers:
        return 400, "No Content-Type"
    return None if _understood(request) else _plain(415)


def _understood(request: Request) -> bool:
    headers = request.headers
    if (headers.first("content-encoding") or "identity").lower() != "identity":
        return False
    if request.method != "INVITE":
        return True  # passed on unchanged: the other client decides
    optional = "handling=optional" in (headers.first("content-disposition") or "").lower()
    return optional or request.content_type.startswith(OFFER_TYPES)


def _takes_sdp(request: Request) -> bool:
    ranges = (value.partition(";")[0].strip().lower() for value in request.headers.all("accept"))
    return any(r in ("application/sdp", "application/*", "*/*") for r in ranges)
