"""Numbers of the overlay: one row each, no logic; where a design page fixes it, its section."""

from typing import Final

# sizes, bytes
MAX_RECORD: Final = 1150  # one datagram, §4
MAX_SUBKEY: Final = 32  # §4
MAX_CONTACT: Final = 80  # §3
MAX_CREDENTIALS: Final = 900  # fits the first RPC beside its own fields
MAX_CERTIFICATE: Final = 768
MAX_USER: Final = 64  # user part of an AoR, UTF-8
MAX_AOR: Final = 128  # all of an AoR, UTF-8
OVERLAY_ID_LENGTH: Final = 32  # §2
KEY_LENGTH: Final = 20  # §2
TEXT_FILE_LIMIT: Final = 262_144  # an overlay, account or profile file

# contexts: what a hash or signature is for is part of what it covers
RECORD_CONTEXT: Final = b"p2psip/record/1"
KEY_CONTEXT: Final = b"p2psip/key/1"
NODE_ID_CONTEXT: Final = b"p2psip/nid/1"
OVERLAY_CONTEXT: Final = b"p2psip/overlay/1"
DELEGATION_CONTEXT: Final = "p2psip/dev/1"
ACCOUNT_CONTEXT: Final = b"p2psip/account/1"
CA_CONTEXT: Final = b"p2psip/ca/1"

# times, seconds
DAY: Final = 86_400
CLOCK_TOLERANCE: Final = 120  # how far ahead of ours another clock may be, §4
DELEGATION_LIFE: Final = 400 * DAY  # §2
CERTIFICATE_LIFE: Final = 180 * DAY  # §2
REG_LIFE: Final = 3600  # §4
NODE_LIFE: Final = 2 * 3600  # §4
SERVICE_LIFE: Final = 3600  # §4
MAIL_LIFE: Final = 7 * DAY  # §4
FOREVER: Final = 2**32 - 1  # the last second that a u32 can tell

# Kademlia
K: Final = 20  # bucket size, §4
REPLICAS: Final = 12  # copies of a record, §4
ALPHA: Final = 3  # requests of one lookup in flight
