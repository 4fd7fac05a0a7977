"""What passes from one leg of a call to the other: every header that isn't about the leg itself.

Nothing that names a client's address passes: the leg's own headers are made anew, and any other
header in which the client's host appears is dropped (``sip.md`` §1).
"""

from typing import Final

from sipgw.message import Request, Response, reply

OWN: Final = frozenset(  # made anew on each leg, or about one hop only
    {
        "alert-info",  # may tell a client to fetch something, or to answer by itself
        "allow-events",  # we answer SUBSCRIBE ourselves
        "answer-mode",  # RFC 5373: who calls does not open the other's microphone
        "authentication-info",
        "authorization",
        "call-id",
        "call-info",  # as Alert-Info: answer-after
        "contact",
        "content-length",
        "cseq",
        "diversion",
        "flow-timer",
        "from",
        "geolocation",
        "history-info",
        "identity",
        "identity-info",
        "in-reply-to",
        "max-forwards",
        "p-access-network-info",
        "p-asserted-identity",
        "p-asserted-service",
        "p-auto-answer",
        "p-called-party-id",
        "p-preferred-identity",
        "path",
        "priv-answer-mode",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-require",
        "rack",  # names a CSeq: mapped
        "record-route",
        "referred-by",
        "remote-party-id",
        "reply-to",  # names another than the one who has proven who he is
        "route",
        "security-client",
        "service-route",
        "timestamp",
        "to",
        "via",
        "warning",  # names its author's host
        "www-authenticate",
    }
)
SDP: Final = "application/sdp"


def carries_sdp(message: Request | Response) -> bool:
    """Whether the body is a session description."""
    return bool(message.body) and message.content_type == SDP


def hides_sdp(message: Request | Response) -> bool:
    """Whether a session description may be inside a body that we don't take apart.

    Passed on unread, it would tell a client's address and lead media past the relay.
    """
    return bool(message.body) and message.content_type.startswith("multipart/")


def pass_headers(
    source: Request | Response, onto: Request | Response, hosts: tuple[str, ...]
) -> None:
    """Append what may pass; ``hosts`` are the spellings of the sender's address to hide."""
    keys, lines = source.headers.raw()
    add = onto.headers.add_raw
    for key, line in zip(keys, lines, strict=True):
        if key not in OWN and not any(host in line for host in hosts):
            add(key, line)


def answer(
    invite: Request, tag: str, source: Response, contact: str, hosts: tuple[str, ...]
) -> Response:
    """Make the response to ``invite`` that says what ``source`` says, without its body."""
    response = reply(invite, source.status, source.reason, tag)
    if contact:
        response.headers.add("Contact", contact)
    pass_headers(source, response, hosts)
    return response
