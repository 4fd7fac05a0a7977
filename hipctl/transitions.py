"""The state machine of RFC 7401 §4.4 as one table: what each state does with each input.

Every cell stands here: a Rule, which ``association`` carries out, or a Drop with its reason. An
input that a rule refuses (it isn't authentic, or too late) changes nothing either.
``docs/hip-states.md`` is drawn from this table.
"""

from enum import Enum
from typing import Final

from hipctl.constants import PacketType
from hipctl.state import State, Timer


class Ask(Enum):
    """Inputs that are neither packets nor time."""

    CONNECT = "connect"
    DATAGRAM = "datagram to send"
    CLOSE = "close"
    SOLVED = "puzzle solved or given up"
    FIRST_DATA = "first authentic ESP"


Input = PacketType | Ask | Timer


class Rule(Enum):
    """What is done, and where it may lead; without a state: nowhere else."""

    def __init__(self, does: str, *to: State) -> None:
        self.does = does
        self.to = frozenset(to)

    ANSWER_I1 = ("answer with R1",)
    CROSSED_I1 = ("answer with R1 if our HIT is the greater or I1 may not go there, else I1",)
    READ_R1 = ("check R1, begin to solve", State.I1_SENT)
    ACCEPT_I2 = ("check I2, answer with R2", State.R2_SENT)
    CROSSED_I2 = ("the same if our HIT is the greater", State.R2_SENT)
    REPEATED_I2 = ("repeat R2 if it is the I2 that we know, else check it", State.R2_SENT)
    READ_R2 = ("check R2", State.ESTABLISHED)
    COUNT_NOTIFY = ("count NOTIFY",)
    READ_UPDATE = ("check UPDATE, answer it; it also ends doubts", State.ESTABLISHED)
    KEEP_UPDATE = ("keep it until R2 has come: a check may overtake it",)
    ANSWER_CLOSE = ("check CLOSE, answer with CLOSE_ACK", State.CLOSED)
    READ_CLOSE_ACK = ("check CLOSE_ACK", State.UNASSOCIATED)

    BEGIN = ("send I1 to every address", State.I1_SENT, State.E_FAILED)
    BEGIN_AND_QUEUE = ("the same; the datagram waits", State.I1_SENT, State.E_FAILED)
    HURRY = ("send I1 again, unless that was a moment ago",)
    QUEUE = ("send it under SAs that are in doubt, else it waits",)
    SEND = ("send it under the SA",)
    SEND_CLOSE = ("remove SAs, send CLOSE", State.CLOSING)
    STOP = ("stop trying", State.UNASSOCIATED)
    SEND_I2 = ("send I2, be ready for ESP", State.I2_SENT, State.E_FAILED)
    ESTABLISH = ("the peer has R2", State.ESTABLISHED)

    REPEAT_I1 = ("send I1 again, to the next address", State.E_FAILED)
    GIVE_UP_PUZZLE = ("forget the puzzle, send I1 again", State.E_FAILED)
    REPEAT_I2 = ("send I2 again, later another I1 too", State.E_FAILED)
    REPEAT_CLOSE = ("send CLOSE again", State.UNASSOCIATED)
    LOOK = ("unused: CLOSE; unanswered: I1", State.CLOSING, State.I1_SENT, State.E_FAILED)
    FORGET = ("forget the keys", State.UNASSOCIATED)


class Drop(Enum):
    """Why nothing is done. A packet is counted as ``TYPE in STATE``."""

    UNASKED = "we have asked for nothing that this answers"
    NO_KEYS = "there are no keys to check it with"
    FAILED = "a failed exchange is forgotten at once; the next packet finds UNASSOCIATED"
    UNSPOKEN = "we do not speak this packet type"
    DONE = "it is so, or under way"
    VOID = "there is nothing to close"
    LATE = "the exchange that it belongs to is over"
    UNARMED = "this timer does not run in this state"


_COLUMNS: Final = (
    State.UNASSOCIATED,
    State.I1_SENT,
    State.I2_SENT,
    State.R2_SENT,
    State.ESTABLISHED,
    State.CLOSING,
    State.CLOSED,
    State.E_FAILED,
)

# fmt: off
_ROWS: Final[dict[Input, tuple[Rule | Drop, ...]]] = {
    PacketType.I1: (
        Rule.ANSWER_I1, Rule.CROSSED_I1, Rule.ANSWER_I1, Rule.ANSWER_I1,
        Rule.ANSWER_I1, Rule.ANSWER_I1, Rule.ANSWER_I1, Drop.FAILED,
    ),
    PacketType.R1: (
        Drop.UNASKED, Rule.READ_R1, Rule.READ_R1, Drop.UNASKED,
        Drop.UNASKED, Drop.UNASKED, Drop.UNASKED, Drop.FAILED,
    ),
    PacketType.I2: (
        Rule.ACCEPT_I2, Rule.REPEATED_I2, Rule.CROSSED_I2, Rule.REPEATED_I2,
        Rule.REPEATED_I2, Rule.ACCEPT_I2, Rule.ACCEPT_I2, Drop.FAILED,
    ),
    PacketType.R2: (
        Drop.UNASKED, Drop.UNASKED, Rule.READ_R2, Drop.UNASKED,
        Drop.UNASKED, Drop.UNASKED, Drop.UNASKED, Drop.FAILED,
    ),
    PacketType.UPDATE: (  # in I1-SENT while an old pair of SAs is in doubt
        Drop.NO_KEYS, Rule.READ_UPDATE, Rule.KEEP_UPDATE, Rule.READ_UPDATE,
        Rule.READ_UPDATE, Drop.LATE, Drop.LATE, Drop.FAILED,
    ),
    PacketType.NOTIFY: (
        Drop.UNASKED, Drop.UNASKED, Rule.COUNT_NOTIFY, Rule.COUNT_NOTIFY,
        Rule.COUNT_NOTIFY, Drop.LATE, Drop.LATE, Drop.FAILED,
    ),
    PacketType.CLOSE: (  # in I1-SENT while an old pair of SAs is in doubt
        Drop.NO_KEYS, Rule.ANSWER_CLOSE, Rule.ANSWER_CLOSE, Rule.ANSWER_CLOSE,
        Rule.ANSWER_CLOSE, Rule.ANSWER_CLOSE, Rule.ANSWER_CLOSE, Drop.FAILED,
    ),
    PacketType.CLOSE_ACK: (
        Drop.UNASKED, Drop.UNASKED, Drop.UNASKED, Drop.UNASKED,
        Drop.UNASKED, Rule.READ_CLOSE_ACK, Drop.UNASKED, Drop.FAILED,
    ),
    PacketType.HDRR: (Drop.UNSPOKEN,) * len(_COLUMNS),
    PacketType.HIP_DATA: (Drop.UNSPOKEN,) * len(_COLUMNS),
    Ask.CONNECT: (
        Rule.BEGIN, Rule.HURRY, Drop.DONE, Drop.DONE,
        Drop.DONE, Rule.BEGIN, Rule.BEGIN, Rule.BEGIN,
    ),
    Ask.DATAGRAM: (
        Rule.BEGIN_AND_QUEUE, Rule.QUEUE, Rule.QUEUE, Rule.SEND,
        Rule.SEND, Rule.BEGIN_AND_QUEUE, Rule.BEGIN_AND_QUEUE, Rule.BEGIN_AND_QUEUE,
    ),
    Ask.CLOSE: (
        Drop.VOID, Rule.STOP, Rule.STOP, Rule.SEND_CLOSE,
        Rule.SEND_CLOSE, Drop.DONE, Drop.DONE, Drop.VOID,
    ),
    Ask.SOLVED: (
        Drop.LATE, Rule.SEND_I2, Drop.LATE, Drop.LATE,
        Drop.LATE, Drop.LATE, Drop.LATE, Drop.LATE,
    ),
    Ask.FIRST_DATA: (
        Drop.NO_KEYS, Drop.DONE, Drop.DONE, Rule.ESTABLISH,
        Drop.DONE, Drop.NO_KEYS, Drop.NO_KEYS, Drop.NO_KEYS,
    ),
    Timer.RETRANSMIT: (
        Drop.UNARMED, Rule.REPEAT_I1, Rule.REPEAT_I2, Drop.UNARMED,
        Drop.UNARMED, Rule.REPEAT_CLOSE, Drop.UNARMED, Drop.UNARMED,
    ),
    Timer.PUZZLE: (
        Drop.UNARMED, Rule.GIVE_UP_PUZZLE, Drop.UNARMED, Drop.UNARMED,
        Drop.UNARMED, Drop.UNARMED, Drop.UNARMED, Drop.UNARMED,
    ),
    Timer.EXCHANGE_COMPLETE: (
        Drop.UNARMED, Drop.UNARMED, Drop.UNARMED, Rule.ESTABLISH,
        Drop.UNARMED, Drop.UNARMED, Drop.UNARMED, Drop.UNARMED,
    ),
    Timer.CHECK: (
        Drop.UNARMED, Drop.UNARMED, Drop.UNARMED, Drop.UNARMED,
        Rule.LOOK, Drop.UNARMED, Drop.UNARMED, Drop.UNARMED,
    ),
    Timer.CLOSED: (
        Drop.UNARMED, Drop.UNARMED, Drop.UNARMED, Drop.UNARMED,
        Drop.UNARMED, Drop.UNARMED, Rule.FORGET, Drop.UNARMED,
    ),
}
# fmt: on

TABLE: Final[dict[tuple[State, Input], Rule | Drop]] = {
    (state, asked): cell
    for asked, cells in _ROWS.items()
    for state, cell in zip(_COLUMNS, cells, strict=True)
}
"""(state, input) -> what to do."""
