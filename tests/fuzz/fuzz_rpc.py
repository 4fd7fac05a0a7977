"""Fuzz target: bytes from a neighbour into a whole overlay node, greeted and not.

Run with ``PYTHONPATH=.:tests python tests/fuzz/fuzz_rpc.py -max_total_time=60``.
"""

import hashlib
import sys

from scenarios.swarm import EPOCH, identity, node_record, overlay_info

from hipctl import Hit
from overlay.admission import Credentials, admit
from overlay.environment import Environment
from overlay.errors import MalformedMessage
from overlay.greeting import Greeting
from overlay.kademlia import Kademlia
from overlay.knocking import ELSEWHERE, KnockAt
from overlay.messages import Field, Kind, encode_answer, encode_request, parse
from overlay.records import check_record, node_id
from overlay.rpc import Send

OVERLAY = overlay_info()
HERE, FRIEND, STRANGER = (identity(number).hit for number in range(3))
RECORD = node_record(identity(1), OVERLAY, 1, EPOCH)
HELLO = {
    int(Field.VERSION): 1,
    int(Field.FEATURES): 0,
    int(Field.CONTACT): b"sim:" + FRIEND,
    int(Field.CREDENTIALS): Credentials().encode(),
    int(Field.WALL): int(EPOCH),
    int(Field.BOOT): bytes(8),
}
_ID = b"\0\0\0\0\0\0\0\1"  # of the first request that the engine below sends to FRIEND

SEEDS = [
    encode_request(Kind.HELLO, _ID, HELLO),
    encode_answer(Kind.HELLO, _ID, HELLO),
    encode_request(Kind.PING, _ID, {}),
    encode_request(Kind.FIND_NODE, _ID, {3: RECORD.key, 24: 20}),
    encode_request(Kind.GET, _ID, {3: RECORD.key, 5: "NODE", 7: [FRIEND, b""], 9: 0}),
    encode_request(Kind.STORE, _ID, {11: RECORD.raw}),
    encode_answer(Kind.GET, _ID, {14: [RECORD.raw], 12: [FRIEND, b"sim:"]}),
    encode_answer(Kind.GET, _ID, {16: [[FRIEND, b"", 1, bytes(8)]], 18: 40}),
    encode_answer(Kind.STORE, _ID, {20: 0, 22: "stored"}),
    encode_answer(Kind.ERROR, _ID, {20: 16}),
    encode_request(Kind.KNOCK, _ID, {4: b"sim:" + FRIEND}),
    encode_answer(Kind.KNOCK, _ID, {28: 1}),
    encode_answer(Kind.KNOCK, _ID, {30: b"sim:" + HERE}),
]


def engine() -> Kademlia:
    """A node that has greeted FRIEND and waits for its answer to a get and a put."""
    count = 0

    def rng(length: int) -> bytes:
        nonlocal count
        count += 1
        return b"".join((count + n).to_bytes(8, "big") for n in range(length // 8 + 1))[:length]

    environment = Environment(
        local=HERE,
        overlay_id=OVERLAY.id,
        node_id=lambda hit: node_id(OVERLAY.id, hit),
        contact=lambda: b"sim:" + HERE,
        groups=lambda contact: frozenset((contact[:4],)),
        admit=lambda data, hit, wall: admit(Credentials.parse(data), OVERLAY, hit, wall),
        check=lambda record, wall: check_record(record, OVERLAY, wall),
        connected=lambda hit: True,
        rng=rng,
    )
    node = Kademlia(environment, Greeting(Credentials().encode(), bytes(8)))
    node.join([(FRIEND, b"sim:" + FRIEND)], 0.0, EPOCH)
    node.on_datagram(encode_request(Kind.HELLO, _ID, HELLO), FRIEND, 0.1, EPOCH)
    node.get("get", "NODE", RECORD.key, 0.2, EPOCH)
    node.put("put", RECORD, 0.2, EPOCH)
    node.ask_one("knock", FRIEND, Kind.KNOCK, {4: b"sim:" + HERE}, 0.2, EPOCH)
    return node


def test_one_input(data: bytes) -> None:
    """Nothing raises, whoever sent it, and what it sends is well formed and fits a datagram."""
    node = engine()
    for source in (FRIEND, STRANGER, Hit(hashlib.sha256(data).digest()[:16])):
        for action in node.on_datagram(data, source, 0.3, EPOCH):
            if isinstance(action, Send):
                assert len(action.data) <= 1_220
                parse(action.data)
            elif isinstance(action, KnockAt):
                assert action.hit == source == FRIEND  # who greeted, and nobody else
                for send in node.on_knocked(action, ELSEWHERE, 0.3, EPOCH):
                    assert isinstance(send, Send)
                    parse(send.data)
    now = 0.4
    while (at := node.deadline()) is not None and now < 30:
        now = max(at, now + 0.01)
        node.on_time(now, EPOCH + now)
    assert not node.rpc.in_flight() or now >= 30
    try:
        message = parse(data)
    except MalformedMessage:
        return
    again = encode_answer if message.answer else encode_request
    assert parse(again(message.kind, message.request_id, message.fields)) == message


if __name__ == "__main__":
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
