"""Numbers assigned by the HIP RFCs and the IANA registry; one row each, no logic."""

from enum import IntEnum


class NotifyType(IntEnum):
    """NOTIFICATION error and status types, RFC 7401 §5.2.19."""

    INVALID_SYNTAX = 7


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
