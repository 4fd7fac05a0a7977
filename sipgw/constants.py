"""Numbers and names of the SIP RFCs; one row each, no logic.

Every row ends with the section that defines it (RFC 3261 unless it says so).
Values that we chose ourselves are in the last block and say so.
"""

from typing import Final

SIP_VERSION: Final = "SIP/2.0"  # §7.1
DEFAULT_PORT: Final = 5060  # §19.1.2
MAGIC_COOKIE: Final = "z9hG4bK"  # §8.1.1.7
MAX_FORWARDS: Final = 70  # §8.1.1.6
MAX_CSEQ: Final = 2**31 - 1  # §8.1.1.5
MAX_EXPIRES: Final = 2**32 - 1  # §20.19

# Compact forms, §7.3.3 and the RFCs that define the header.
COMPACT: Final[dict[str, str]] = {
    "a": "accept-contact",  # RFC 3841 §9.2
    "b": "referred-by",  # RFC 3892 §2
    "c": "content-type",  # §20.15
    "d": "request-disposition",  # RFC 3841 §9.1
    "e": "content-encoding",  # §20.12
    "f": "from",  # §20.20
    "i": "call-id",  # §20.8
    "j": "reject-contact",  # RFC 3841 §9.2
    "k": "supported",  # §20.37
    "l": "content-length",  # §20.14
    "m": "contact",  # §20.10
    "n": "identity-info",  # RFC 4474 §9
    "o": "event",  # RFC 6665 §8.2.1
    "r": "refer-to",  # RFC 3515 §2.1
    "s": "subject",  # §20.36
    "t": "to",  # §20.39
    "u": "allow-events",  # RFC 6665 §8.2.2
    "v": "via",  # §20.42
    "x": "session-expires",  # RFC 4028 §4
    "y": "identity",  # RFC 8224 §4
}

# As the RFCs spell them; the key is this in lower case.
SPELLINGS: Final[tuple[str, ...]] = (
    "Accept",  # §20.1
    "Accept-Contact",  # RFC 3841
    "Accept-Encoding",  # §20.2
    "Accept-Language",  # §20.3
    "Alert-Info",  # §20.4
    "Allow",  # §20.5
    "Allow-Events",  # RFC 6665 §8.2.2
    "Authentication-Info",  # §20.6
    "Authorization",  # §20.7
    "CSeq",  # §20.16
    "Call-ID",  # §20.8
    "Call-Info",  # §20.9
    "Contact",  # §20.10
    "Content-Disposition",  # §20.11
    "Content-Encoding",  # §20.12
    "Content-Language",  # §20.13
    "Content-Length",  # §20.14
    "Content-Type",  # §20.15
    "Date",  # §20.17
    "Error-Info",  # §20.18
    "Event",  # RFC 6665 §8.2.1
    "Expires",  # §20.19
    "From",  # §20.20
    "In-Reply-To",  # §20.21
    "MIME-Version",  # §20.24
    "Max-Forwards",  # §20.22
    "Min-Expires",  # §20.23
    "Min-SE",  # RFC 4028 §5
    "Organization",  # §20.25
    "P-Asserted-Identity",  # RFC 3325 §9.1
    "P-Preferred-Identity",  # RFC 3325 §9.2
    "Path",  # RFC 3327 §4
    "Priority",  # §20.26
    "Proxy-Authenticate",  # §20.27
    "Proxy-Authorization",  # §20.28
    "Proxy-Require",  # §20.29
    "RAck",  # RFC 3262 §7.2
    "RSeq",  # RFC 3262 §7.1
    "Reason",  # RFC 3326 §2
    "Record-Route",  # §20.30
    "Refer-To",  # RFC 3515 §2.1
    "Referred-By",  # RFC 3892 §3
    "Replaces",  # RFC 3891 §6.1
    "Reply-To",  # §20.31
    "Require",  # §20.32
    "Retry-After",  # §20.33
    "Route",  # §20.34
    "SIP-ETag",  # RFC 3903 §11.3.1
    "SIP-If-Match",  # RFC 3903 §11.3.2
    "Server",  # §20.35
    "Service-Route",  # RFC 3608 §5
    "Session-Expires",  # RFC 4028 §4
    "Subject",  # §20.36
    "Subscription-State",  # RFC 6665 §8.2.3
    "Supported",  # §20.37
    "Timestamp",  # §20.38
    "To",  # §20.39
    "Unsupported",  # §20.40
    "User-Agent",  # §20.41
    "Via",  # §20.42
    "WWW-Authenticate",  # §20.44
    "Warning",  # §20.43
)

# Headers whose value is a comma-separated list, so that one line may hold several values.
LISTS: Final[frozenset[str]] = frozenset(
    {
        "accept",
        "accept-contact",
        "accept-encoding",
        "accept-language",
        "alert-info",
        "allow",
        "allow-events",
        "call-info",
        "contact",
        "content-encoding",
        "content-language",
        "error-info",
        "history-info",
        "in-reply-to",
        "p-asserted-identity",
        "p-preferred-identity",
        "path",
        "proxy-require",
        "reason",
        "record-route",
        "reject-contact",
        "require",
        "route",
        "service-route",
        "supported",
        "unsupported",
        "via",
        "warning",
    }
)

REASONS: Final[dict[int, str]] = {
    100: "Trying",  # §21.1.1
    180: "Ringing",  # §21.1.2
    181: "Call Is Being Forwarded",  # §21.1.3
    182: "Queued",  # §21.1.4
    183: "Session Progress",  # §21.1.5
    200: "OK",  # §21.2.1
    202: "Accepted",  # RFC 6665 §8.3.1
    300: "Multiple Choices",  # §21.3.1
    301: "Moved Permanently",  # §21.3.2
    302: "Moved Temporarily",  # §21.3.3
    305: "Use Proxy",  # §21.3.4
    380: "Alternative Service",  # §21.3.5
    400: "Bad Request",  # §21.4.1
    401: "Unauthorized",  # §21.4.2
    402: "Payment Required",  # §21.4.3
    403: "Forbidden",  # §21.4.4
    404: "Not Found",  # §21.4.5
    405: "Method Not Allowed",  # §21.4.6
    406: "Not Acceptable",  # §21.4.7
    407: "Proxy Authentication Required",  # §21.4.8
    408: "Request Timeout",  # §21.4.9
    410: "Gone",  # §21.4.10
    412: "Conditional Request Failed",  # RFC 3903 §11.2.1
    413: "Request Entity Too Large",  # §21.4.11
    414: "Request-URI Too Long",  # §21.4.12
    415: "Unsupported Media Type",  # §21.4.13
    416: "Unsupported URI Scheme",  # §21.4.14
    420: "Bad Extension",  # §21.4.15
    421: "Extension Required",  # §21.4.16
    422: "Session Interval Too Small",  # RFC 4028 §6
    423: "Interval Too Brief",  # §21.4.17
    480: "Temporarily Unavailable",  # §21.4.18
    481: "Call/Transaction Does Not Exist",  # §21.4.19
    482: "Loop Detected",  # §21.4.20
    483: "Too Many Hops",  # §21.4.21
    484: "Address Incomplete",  # §21.4.22
    485: "Ambiguous",  # §21.4.23
    486: "Busy Here",  # §21.4.24
    487: "Request Terminated",  # §21.4.25
    488: "Not Acceptable Here",  # §21.4.26
    489: "Bad Event",  # RFC 6665 §8.3.2
    491: "Request Pending",  # §21.4.27
    493: "Undecipherable",  # §21.4.28
    500: "Server Internal Error",  # §21.5.1
    501: "Not Implemented",  # §21.5.2
    502: "Bad Gateway",  # §21.5.3
    503: "Service Unavailable",  # §21.5.4
    504: "Server Time-out",  # §21.5.5
    505: "Version Not Supported",  # §21.5.6
    513: "Message Too Large",  # §21.5.7
    600: "Busy Everywhere",  # §21.6.1
    603: "Decline",  # §21.6.2
    604: "Does Not Exist Anywhere",  # §21.6.3
    606: "Not Acceptable",  # §21.6.4
}

T1: Final = 0.5  # seconds, estimated round trip, §17.1.1.1
T2: Final = 4.0  # seconds, longest gap between retransmissions, §17.1.2.2
T4: Final = 5.0  # seconds, longest life of a message in the network, §17.1.2.2
TIMER_C: Final = 180.0  # seconds, an INVITE's patience at a proxy, §16.6
TIMER_D: Final = 32.0  # seconds, absorb retransmitted final responses (UDP), §17.1.1.2
TRYING_AFTER: Final = 0.2  # seconds until 100 is owed, §17.2.1

# Ours: the RFCs leave these to the implementation.
MAX_MESSAGE: Final = 65_535  # bytes
MAX_HEADERS: Final = 256  # header lines in one message
MAX_TRANSACTIONS: Final = 20_000  # unfinished ones in a layer
MAX_FINISHED: Final = 8192  # finished ones in a layer that absorb retransmissions
MAX_FINISHED_BYTES: Final = 32 << 20  # that their requests may take
MAX_PER_GATEWAY: Final = 200  # unfinished requests of one gateway; it can't crowd out others
MAX_BINDINGS: Final = 10  # per AoR
MIN_EXPIRES: Final = 60  # seconds, shorter registrations get 423
DEFAULT_EXPIRES: Final = 3600  # seconds
LONGEST_EXPIRES: Final = 7200  # seconds granted at most
