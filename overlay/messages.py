"""RPC messages between neighbours, in msgpack.

On the wire, inside the association: 8 bytes that say which overlay (``overlay_tag``), then the
array ``[kind, request id, {field number: value}]``. As with HIP's parameters (RFC 7401 §5.2.1),
an odd field number is critical: who does not know it must refuse the message; an unknown even one
is ignored. A field that is known but of a wrong type makes the whole message malformed.

There is no sender in a message: the association says who sent it.
"""

from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum, IntFlag
from typing import Any, Final, NamedTuple

import msgpack

from hipctl import Hit
from overlay.errors import MalformedMessage

OVERLAY_PORT: Final = 10600  # ours: the port of every HIT at which its overlays listen
TAG_LENGTH: Final = 8  # bytes of the overlay id that lead a datagram
REQUEST_ID_LENGTH: Final = 8
MAX_ANSWER: Final = 1_150  # bytes; a single value may exceed it by its few bytes of framing
MAX_RECEIVED: Final = 2_048  # room for fields we do not know
MAX_CONTACT: Final = 80
NODES: Final = 8  # nodes in an answer, unless more are asked for …
MAX_NODES: Final = 20  # … and at most, as far as MAX_ANSWER allows
MAX_CREDENTIALS: Final = 960
MAX_VALUE: Final = 1_150
MAX_DIGESTS: Final = 24  # with subkeys of 8 bytes they fit one answer
VERSION: Final = 1


class Kind(IntEnum):
    """What a message asks; its answer is that plus ANSWER."""

    HELLO = 1
    PING = 2
    FIND_NODE = 3
    GET = 4
    STORE = 5
    KNOCK = 6
    ERROR = 127  # an answer that fits any request


ANSWER: Final = 64


class Field(IntEnum):
    """Field numbers; an odd one is critical."""

    VERSION = 1  # HELLO
    FEATURES = 2  # HELLO: bits, see Feature
    CONTACT = 4  # HELLO; KNOCK: what to knock at
    CREDENTIALS = 6  # HELLO; absent where the base exchange has shown them
    WALL = 8  # HELLO: the sender's clock, Unix seconds
    BOOT = 10  # HELLO: differs after a restart
    SINCE = 26  # HELLO: when the sender started, Unix seconds
    TARGET = 3  # FIND_NODE, GET: an id or a key
    RECORD_KIND = 5  # GET
    SLOT = 7  # GET: [owner HIT, subkey], that one only
    SKIP = 9  # GET: continue a list of digests from there
    RECORD = 11  # STORE
    NODES = 12  # answers: [HIT, contact, HIT, contact …]
    VALUES = 14  # GET answer: records
    DIGESTS = 16  # GET answer: [[owner, subkey, seq, hash], …], to be fetched singly
    TOTAL = 18  # GET answer: how many digests there are
    CODE = 20  # STORE answer, ERROR
    REASON = 22  # the same in words, at most 80 characters
    COUNT = 24  # FIND_NODE: how many nodes are wanted; 8 without it
    REACHED = 28  # KNOCK answer: 1 if it was heard, else 0
    SEEN = 30  # the same to one without CONTACT: a contact of where the asker seems to be


class Feature(IntFlag):
    """Bits of FEATURES; unknown ones are ignored."""

    SPELL_OUT = 1  # HELLO: put your credentials into the answer; I know none from the exchange


class Code(IntEnum):
    """What became of a STORE, or why a request was refused."""

    STORED = 0
    HELD = 1  # the very same record was there
    STALE = 2  # a newer one is there
    TOO_FAR = 3
    QUOTA = 4
    REFUSED = 5
    MALFORMED = 6
    NOT_GREETED = 16  # HELLO first
    NOT_ADMITTED = 17
    VERSION = 18
    UNSUPPORTED = 19  # an unknown kind or an unknown critical field
    BUSY = 20


class Message(NamedTuple):
    """A parsed message; the values of its fields have the types that ``_FIELDS`` demands.

    Attributes:
        kind: of the request; for an answer the same, with ``answer`` set.
        answer: whether this answers a request of ours.
        request_id: 8 bytes.
        fields: field number -> value, known fields only.
    """

    kind: int
    answer: bool
    request_id: bytes
    fields: dict[int, Any]


class UnsupportedMessage(MalformedMessage):
    """Well formed, but it carries something critical that we do not know; owed an answer."""

    def __init__(self, reason: str, request_id: bytes, answer: bool) -> None:
        super().__init__(reason)
        self.request_id = request_id
        self.answer = answer


class Digest(NamedTuple):
    """What a node holds in one slot, without the record."""

    owner: Hit
    subkey: bytes
    seq: int
    hash: bytes


def overlay_tag(overlay_id: bytes) -> bytes:
    """The 8 bytes that lead every datagram of this overlay."""
    return overlay_id[:TAG_LENGTH]


def encode_request(kind: int, request_id: bytes, fields: dict[int, Any]) -> bytes:
    """One request without its tag."""
    return _packb((int(kind), request_id, fields))


def encode_answer(kind: int, request_id: bytes, fields: dict[int, Any]) -> bytes:
    """The answer to a request of ``kind``, without its tag."""
    return _packb((kind if kind == Kind.ERROR else kind + ANSWER, request_id, fields))


def encode_error(request_id: bytes, code: Code, reason: str = "") -> bytes:
    """A refusal."""
    fields: dict[int, Any] = {_CODE: int(code)}
    if reason:
        fields[_REASON] = reason[:80]
    return _packb((127, request_id, fields))


def encode_nodes(contacts: Iterable[tuple[bytes, bytes]], room: int = MAX_ANSWER) -> list[bytes]:
    """Flatten (HIT, contact) pairs, as many as ``room`` bytes allow."""
    flat: list[bytes] = []
    for hit, contact in contacts:
        room -= 20 + len(contact)  # 16 + 2 for the HIT, 2 for the contact's header
        if room < 0:
            break
        flat += (hit, contact)
    return flat


def parse(data: bytes) -> Message:
    """Read one message without its tag.

    Raises:
        UnsupportedMessage: a critical field or a kind is unknown.
        MalformedMessage: anything else that no conforming peer sends.
    """
    if len(data) > MAX_RECEIVED:
        raise MalformedMessage("message too long")
    try:
        kind, request_id, given = _unpackb(
            data,
            raw=False,
            use_list=False,
            strict_map_key=False,
            max_str_len=256,
            max_bin_len=MAX_RECEIVED,
            max_array_len=128,
            max_map_len=24,
            max_ext_len=0,
        )
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException):
        raise MalformedMessage("no message") from None
    if (
        type(kind) is not int
        or type(request_id) is not bytes
        or len(request_id) != REQUEST_ID_LENGTH
        or type(given) is not dict
    ):
        raise MalformedMessage("bad message header")
    answer = kind >= ANSWER
    if answer and kind != 127:
        kind -= ANSWER
    if kind not in _KINDS:
        raise UnsupportedMessage("unknown kind", request_id, answer)
    return Message(kind, answer, request_id, _check(given, request_id, answer))


def _check(given: dict[Any, Any], request_id: bytes, answer: bool) -> dict[int, Any]:
    strange = False
    for number, value in given.items():
        check = _FIELDS.get(number)
        if check is not None and type(number) is int:
            if not check(value):
                raise MalformedMessage("bad field")
        elif type(number) is not int or number < 0:
            raise MalformedMessage("bad field number")
        elif number & 1:
            raise UnsupportedMessage("unknown critical field", request_id, answer)
        else:
            strange = True
    if strange:
        return {number: value for number, value in given.items() if number in _FIELDS}
    return given


def read_nodes(flat: Sequence[bytes]) -> list[tuple[Hit, bytes]]:
    """The (HIT, contact) pairs of NODES, which ``parse`` has checked."""
    return [(Hit(flat[i]), flat[i + 1]) for i in range(0, len(flat), 2)]


def read_digests(entries: Sequence[tuple[bytes, bytes, int, bytes]]) -> list[Digest]:
    """The entries of DIGESTS, which ``parse`` has checked."""
    return [Digest(Hit(owner), subkey, seq, hash_) for owner, subkey, seq, hash_ in entries]


def _is_hit(value: Any) -> bool:
    return type(value) is bytes and len(value) == 16 and value[:3] == b"\x20\x01\x00"


def _is_uint(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_bytes(lowest: int, highest: int) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        return type(value) is bytes and lowest <= len(value) <= highest

    return check


def _is_nodes(value: Any) -> bool:
    if type(value) is not tuple or len(value) & 1 or len(value) > 2 * MAX_NODES:
        return False
    for i in range(0, len(value), 2):
        contact = value[i + 1]
        if not _is_hit(value[i]) or type(contact) is not bytes or len(contact) > MAX_CONTACT:
            return False
    return True


def _is_values(value: Any) -> bool:
    return type(value) is tuple and all(type(v) is bytes and len(v) <= MAX_VALUE for v in value)


def _is_slot(value: Any) -> bool:
    return type(value) is tuple and len(value) == 2 and _is_hit(value[0]) and _is_subkey(value[1])


def _is_digests(value: Any) -> bool:
    return type(value) is tuple and all(
        type(v) is tuple
        and len(v) == 4
        and _is_hit(v[0])
        and _is_subkey(v[1])
        and _is_uint(v[2])
        and _is_hash(v[3])
        for v in value
    )


_is_subkey = _is_bytes(0, 32)
_is_hash = _is_bytes(8, 32)
_packb: Callable[[Any], bytes] = msgpack.packb
_unpackb = msgpack.unpackb
_CODE, _REASON = int(Field.CODE), int(Field.REASON)
_KINDS = frozenset(int(kind) for kind in Kind)
_FIELDS: Final[dict[int, Callable[[Any], bool]]] = {
    Field.VERSION: _is_uint,
    Field.FEATURES: _is_uint,
    Field.CONTACT: _is_bytes(0, MAX_CONTACT),
    Field.CREDENTIALS: _is_bytes(0, MAX_CREDENTIALS),
    Field.WALL: _is_uint,
    Field.BOOT: _is_bytes(8, 8),
    Field.SINCE: _is_uint,
    Field.TARGET: _is_bytes(20, 20),
    Field.RECORD_KIND: lambda value: type(value) is str and len(value) <= 16,
    Field.SLOT: _is_slot,
    Field.SKIP: _is_uint,
    Field.RECORD: _is_bytes(1, MAX_VALUE),
    Field.NODES: _is_nodes,
    Field.VALUES: _is_values,
    Field.DIGESTS: _is_digests,
    Field.TOTAL: _is_uint,
    Field.CODE: _is_uint,
    Field.COUNT: _is_uint,
    Field.REACHED: lambda value: type(value) is int and 0 <= value <= 1,
    Field.SEEN: _is_bytes(0, MAX_CONTACT),
    Field.REASON: lambda value: type(value) is str and value.isprintable(),  # it is logged
}
