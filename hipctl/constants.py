"""Numbers assigned by the HIP RFCs and the IANA registry; one row each, no logic.

Every row ends with the section that assigns or defines it. Values that we chose ourselves are
in the last block and say so.
"""

from enum import IntEnum
from typing import Final


class PacketType(IntEnum):
    """HIP packet types, RFC 7401 §5.3."""

    I1 = 1  # §5.3.1
    R1 = 2  # §5.3.2
    I2 = 3  # §5.3.3
    R2 = 4  # §5.3.4
    UPDATE = 16  # §5.3.5
    NOTIFY = 17  # §5.3.6
    CLOSE = 18  # §5.3.7
    CLOSE_ACK = 19  # §5.3.8
    HDRR = 20  # RFC 6537
    HIP_DATA = 32  # RFC 6078 §4.1


class ParameterType(IntEnum):
    """HIP parameter types; an odd value is critical (RFC 7401 §5.2.1)."""

    ESP_INFO = 65  # RFC 7402 §5.1.1
    R1_COUNTER = 129  # RFC 7401 §5.2.3
    LOCATOR_SET = 193  # RFC 8046 §4
    PUZZLE = 257  # RFC 7401 §5.2.4
    SOLUTION = 321  # RFC 7401 §5.2.5
    SEQ = 385  # RFC 7401 §5.2.16
    ACK = 449  # RFC 7401 §5.2.17
    DH_GROUP_LIST = 511  # RFC 7401 §5.2.6
    DIFFIE_HELLMAN = 513  # RFC 7401 §5.2.7
    HIP_CIPHER = 579  # RFC 7401 §5.2.8
    NAT_TRAVERSAL_MODE = 608  # RFC 5770 §5.4
    TRANSACTION_PACING = 610  # RFC 5770 §5.5
    ENCRYPTED = 641  # RFC 7401 §5.2.18
    HOST_ID = 705  # RFC 7401 §5.2.9
    HIT_SUITE_LIST = 715  # RFC 7401 §5.2.10
    CERT = 768  # RFC 8002 §2
    NOTIFICATION = 832  # RFC 7401 §5.2.19
    ECHO_REQUEST_SIGNED = 897  # RFC 7401 §5.2.20
    REG_INFO = 930  # RFC 8003 §4.2
    REG_REQUEST = 932  # RFC 8003 §4.3
    REG_RESPONSE = 934  # RFC 8003 §4.4
    REG_FAILED = 936  # RFC 8003 §4.5
    REG_FROM = 950  # RFC 5770 §5.6
    ECHO_RESPONSE_SIGNED = 961  # RFC 7401 §5.2.22
    TRANSPORT_FORMAT_LIST = 2049  # RFC 7401 §5.2.11
    ESP_TRANSFORM = 4095  # RFC 7402 §5.1.2
    SEQ_DATA = 4481  # RFC 6078 §4.1
    ACK_DATA = 4545  # RFC 6078 §4.2
    PAYLOAD_MIC = 4577  # RFC 6078 §4.3
    TRANSACTION_ID = 4580  # RFC 6078 §4.4
    OVERLAY_ID = 4592  # RFC 6079 §6.2.1
    ROUTE_DST = 4601  # RFC 6028 §4.1
    RELAYED_ADDRESS = 4650  # RFC 9028 §5.12
    MAPPED_ADDRESS = 4660  # RFC 9028 §5.12
    PEER_PERMISSION = 4680  # RFC 9028 §5.13
    CANDIDATE_PRIORITY = 4700  # RFC 9028 §5.14
    NOMINATE = 4710  # RFC 9028 §5.15
    HIP_TRANSPORT_MODE = 7680  # RFC 6261 §6.1
    LAN_INFO = 36214  # ours, drawn at random from the range for private use (RFC 7401 §5.2)
    INVITATION = 38460  # ours, drawn at random from the range for private use (RFC 7401 §5.2)
    DELEGATION = 39684  # ours, drawn at random from the range for private use (RFC 7401 §5.2)
    HIP_MAC = 61505  # RFC 7401 §5.2.12
    HIP_MAC_2 = 61569  # RFC 7401 §5.2.13
    HIP_SIGNATURE_2 = 61633  # RFC 7401 §5.2.15
    HIP_SIGNATURE = 61697  # RFC 7401 §5.2.14
    ECHO_RESPONSE_UNSIGNED = 63425  # RFC 7401 §5.2.23
    ECHO_REQUEST_UNSIGNED = 63661  # RFC 7401 §5.2.21
    RELAY_FROM = 63998  # RFC 5770 §5.6
    RELAY_TO = 64002  # RFC 5770 §5.6
    OVERLAY_TTL = 64011  # RFC 6079 §6.2.2
    ROUTE_VIA = 64017  # RFC 6028 §4.2
    FROM = 65498  # RFC 8004 §4.2.2
    RVS_HMAC = 65500  # RFC 8004 §4.2.1
    VIA_RVS = 65502  # RFC 8004 §4.2.3
    RELAY_HMAC = 65520  # RFC 5770 §5.8


class NotifyType(IntEnum):
    """NOTIFICATION error and status types, RFC 7401 §5.2.19 unless said otherwise."""

    UNSUPPORTED_CRITICAL_PARAMETER_TYPE = 1
    INVALID_SYNTAX = 7
    NO_DH_PROPOSAL_CHOSEN = 14
    INVALID_DH_CHOSEN = 15
    NO_HIP_PROPOSAL_CHOSEN = 16
    INVALID_HIP_CIPHER_CHOSEN = 17
    NO_ESP_PROPOSAL_CHOSEN = 18  # RFC 7402 §5.1.3
    INVALID_ESP_TRANSFORM_CHOSEN = 19  # RFC 7402 §5.1.3
    UNSUPPORTED_HIT_SUITE = 20
    AUTHENTICATION_FAILED = 24
    CHECKSUM_FAILED = 26
    HIP_MAC_FAILED = 28
    ENCRYPTION_FAILED = 32
    INVALID_HIT = 40
    BLOCKED_BY_POLICY = 42
    RESPONDER_BUSY_PLEASE_RETRY = 44
    LOCATOR_TYPE_UNSUPPORTED = 46  # RFC 8046 §4.2
    CREDENTIALS_REQUIRED = 48  # RFC 8002 §5
    INVALID_CERTIFICATE = 50  # RFC 8002 §5
    REG_REQUIRED = 51  # RFC 8003 §4.5
    NO_VALID_NAT_TRAVERSAL_MODE_PARAMETER = 60  # RFC 5770 §5.10
    CONNECTIVITY_CHECKS_FAILED = 61  # RFC 5770 §5.10
    MESSAGE_NOT_RELAYED = 62  # RFC 5770 §5.10
    SERVER_REFLEXIVE_CANDIDATE_ALLOCATION_FAILED = 63  # RFC 9028 §5.10
    RVS_HMAC_PROHIBITED_WITH_RELAY = 64  # RFC 9028 §5.10
    OVERLAY_TTL_EXCEEDED = 70  # RFC 6079 §6.2.3
    UNKNOWN_NEXT_HOP = 90  # RFC 6028 §4.3
    NO_VALID_HIP_TRANSPORT_MODE = 100  # RFC 6261 §6.2
    I2_ACKNOWLEDGEMENT = 16384
    NAT_KEEPALIVE = 16385  # RFC 9028 §5.3


class HiAlgorithm(IntEnum):
    """Host Identity algorithms, RFC 7401 §5.2.9."""

    RSA = 5
    ECDSA = 7


class HitSuite(IntEnum):
    """HIT suites: the OGA ID inside a HIT, RFC 7401 §5.2.10."""

    RSA_SHA256 = 1
    ECDSA_SHA384 = 2


class EccCurve(IntEnum):
    """Curve labels of ECDSA Host Identities, RFC 7401 §5.2.9."""

    NIST_P256 = 1
    NIST_P384 = 2


class DhGroup(IntEnum):
    """Diffie-Hellman groups that we speak, RFC 7401 §5.2.7."""

    NIST_P256 = 7
    NIST_P384 = 8


class HipCipher(IntEnum):
    """Ciphers of ENCRYPTED, RFC 7401 §5.2.8."""

    NULL_ENCRYPT = 1  # never offered nor accepted
    AES_128_CBC = 2
    AES_256_CBC = 4


class EspSuite(IntEnum):
    """ESP transforms that we speak, RFC 7402 §5.1.2."""

    AES_128_CBC_HMAC_SHA_256 = 8
    AES_256_CBC_HMAC_SHA_256 = 9
    AES_GCM_16 = 13


class DiType(IntEnum):
    """Domain Identifier types of HOST_ID, RFC 7401 §5.2.9."""

    NONE = 0
    FQDN = 1
    NAI = 2


class LocatorType(IntEnum):
    """Locator Types of LOCATOR_SET."""

    ADDRESS = 0  # RFC 8046 §4.2
    SPI_ADDRESS = 1  # RFC 8046 §4.2
    TRANSPORT_ADDRESS = 2  # RFC 9028 §5.7


class CertType(IntEnum):
    """CERT types, RFC 8002 §2; we read the first, and refuse the others politely."""

    X509_V3 = 1
    HASH_AND_URL = 3
    LDAP_URL = 5
    DISTINGUISHED_NAME = 7


class RegistrationType(IntEnum):
    """What one registers for with a server, RFC 8003 §7."""

    RENDEZVOUS = 1  # RFC 8004 §4.1
    RELAY_UDP_HIP = 2  # a control relay, RFC 9028 §5.9
    RELAY_UDP_ESP = 3  # a data relay, RFC 9028 §5.9
    CANDIDATE_DISCOVERY = 4  # asks for REG_FROM only, RFC 9028 §4.2


class RegistrationFailure(IntEnum):
    """Why a registration was refused, RFC 8003 §4.5."""

    CREDENTIALS_REQUIRED = 0
    TYPE_UNAVAILABLE = 1
    INSUFFICIENT_RESOURCES = 2
    INVALID_CERTIFICATE = 3
    BAD_CERTIFICATE = 4  # RFC 8003 §3.3, as the next four
    UNSUPPORTED_CERTIFICATE = 5
    CERTIFICATE_EXPIRED = 6
    CERTIFICATE_OTHER = 7
    UNKNOWN_CA = 8
    RENDEZVOUS_WITH_CONTROL_RELAY = 9  # RFC 9028 §7.8


class CandidateKind(IntEnum):
    """Kinds of transport addresses, RFC 9028 §5.7."""

    HOST = 0
    SERVER_REFLEXIVE = 1
    PEER_REFLEXIVE = 2
    RELAYED = 3


class NatTraversalMode(IntEnum):
    """NAT traversal modes, RFC 5770 §5.4 and RFC 9028 §5.4."""

    UDP_ENCAPSULATION = 1
    ICE_STUN_UDP = 2
    ICE_HIP_UDP = 3


HIP_PORT: Final = 10500  # UDP, RFC 9028 §5.1
HIP_VERSION: Final = 2  # RFC 7401 §5.1
HEADER_LENGTH: Final = 40  # bytes of the fixed header, RFC 7401 §5.1
PACKET_MAX: Final = 2048  # bytes: Header Length has 8 bits and counts 8 bytes, RFC 7401 §5.1
NO_NEXT_HEADER: Final = 59  # IPPROTO_NONE, RFC 7401 §5.1
IP_PROTOCOL: Final = 139  # HIP, RFC 7401 §9
PARAMETER_HEADER_LENGTH: Final = 4  # bytes: Type and Length, RFC 7401 §5.2.1
PARAMETER_ALIGNMENT: Final = 8  # bytes, RFC 7401 §5.2.1
SUITES_MAX: Final = 6  # HIP_CIPHER, ESP_TRANSFORM: how many count, RFC 7401 §5.2.8
SPI_RESERVED: Final = 255  # SPIs up to here are not for us, RFC 4303 §2.1
I1_ADDRESSES_MAX: Final = 3  # the first I1 may go to so many addresses, RFC 7401 §6.6.1
MSL: Final = 120.0  # seconds, Maximum Segment Lifetime, RFC 7401 §4.4.1

PACING: Final = 0.05  # seconds between connectivity checks, RFC 9028 §4.4
KEEPALIVE: Final = 15.0  # seconds, Tr of RFC 9028 §4.10
PACING_LEAST: Final = 0.005  # RFC 9028 §4.4

# Ours: the RFCs leave these to the implementation. (DELEGATION, INVITATION and LAN_INFO above are
# ours, too: even, so that who does not know them ignores them; below HIP_MAC, so that MAC and
# signature cover them.)
HOP_LENGTH: Final = 24 + 56  # bytes of RELAY_FROM or RELAY_TO, and of RELAY_HMAC with SHA-384
UNFRAGMENTED_MAX: Final = 1232  # bytes of a HIP packet over UDP that any IPv6 path carries whole
RETRANSMIT_INITIAL: Final = 0.5  # seconds before the first retransmission of I1 and I2
RETRANSMIT_MAX: Final = 5  # transmissions of I1 or I2 before E-FAILED
CLOSE_RETRANSMIT_MAX: Final = 3  # transmissions of CLOSE before the state is dropped anyway
CLOSED_LIFETIME: Final = 10.0  # seconds in CLOSED: longer than the peer repeats its CLOSE
PUZZLE_K: Final = 10  # bits, about 2 ms
PUZZLE_K_BUSY: Final = 18  # bits, about half a second
PUZZLE_K_MAX: Final = 24  # bits: we don't work longer for anybody (half a minute)
PUZZLE_LIFETIME: Final = 38  # 2^(38 - 32) = 64 seconds, as on the wire (RFC 7401 §5.2.4)
GENERATION_LIFETIME: Final = 64.0  # seconds an R1 generation is offered, then accepted again
UNUSED_LIFETIME: Final = 900.0  # seconds, UAL of RFC 7401 §4.4.1
UNANSWERED_LIFETIME: Final = 30.0  # seconds that we send and hear nothing: has the peer restarted?
UPDATE_RETRANSMIT_INITIAL: Final = 0.3  # seconds as long as we know no round-trip time
UPDATE_RETRANSMIT_MIN: Final = 0.2  # seconds: not even where the path is short do we hurry more
UPDATE_RETRANSMIT_MAX: Final = 6  # transmissions of an UPDATE before the association is in doubt
PROBE_RETRANSMIT_MAX: Final = 3  # transmissions of one that only asks who is at an address
REKEY_PACKETS: Final = 2**31  # half of what an SA can carry
REKEY_LIFETIME: Final = 4 * 3600.0  # seconds
OLD_SA_LIFETIME: Final = 10.0  # seconds that an old inbound SA outlives the first use of the new
SILENCE: Final = 1.0  # seconds without an answer after which a call looks for another path
CALL_OUT_PATIENCE: Final = 3.0  # seconds for an answer to a single I1
FRIENDS_MAX: Final = 8  # of one identity
KEPT_MAX: Final = 8  # idle associations across NATs that we keep open, beside calls and servers
IDLE_LIFETIME: Final = 25.0  # seconds after which others are closed: NATs may forget them after 30
REGISTRATION_LEAST: Final = 10.0  # seconds, RFC 8003 §5
REGISTRATION_LIFETIME: Final = 600.0  # seconds that we ask for where we may
PERMISSION_LIFETIME: Final = 300.0  # seconds, RFC 9028 §4.12.1
LOCATORS_MAX: Final = 8  # of one peer that we remember
CREDIT_AGING_FACTOR: Final = 7 / 8  # RFC 8046 §5.6.2
CREDIT_AGING_INTERVAL: Final = 5.0  # seconds, RFC 8046 §5.6.2
