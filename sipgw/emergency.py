"""Emergency numbers and services, which no overlay can reach: refused at once, with the reason."""

import re
from typing import Final

from sipgw.message import Request, Response, reply

NUMBERS: Final = frozenset({"112", "911", "999"})
_URN: Final = re.compile(r"urn:service:sos(\..+)?", re.IGNORECASE)  # RFC 5031 §4.2
_SEPARATORS: Final = re.compile(r"[-.()\s]")  # visual ones of RFC 3966 §5.1.1

REASON: Final = "Use The Phone Network For Emergency Calls"
TEXT: Final = (
    "This call was not placed. Emergency services cannot be reached through this system.\r\n"
    "Use a mobile or landline phone and dial the emergency number there.\r\n"
)


def is_emergency(uri: str) -> bool:
    """Whether a Request-URI asks for help: urn:service:sos, tel:112, sip:112@… and the like."""
    if _URN.fullmatch(uri):
        return True
    scheme, _, rest = uri.partition(":")
    if scheme.lower() not in ("sip", "sips", "tel"):
        return False
    user = rest.partition("@")[0].partition(";")[0].partition(":")[0]
    if user.lower() in ("sos", "urn%3aservice%3asos"):
        return True
    return _SEPARATORS.sub("", user).lstrip("+") in NUMBERS


def refusal(request: Request, tag: str) -> Response:
    """The answer: 380, as RFC 3261 §21.3.5 means it, with a text that says what to do."""
    response = reply(request, 380, REASON, tag)
    response.set_body("text/plain;charset=utf-8", TEXT.encode())
    return response
