"""HIP parameters: one frozen dataclass each, and the table that finds them by type.

To add a parameter: write its class in the room of its topic (``params_puzzle``, ``params_keys``,
``params_transport``, ``params_mobility``, ``params_registration``, ``params_relay``,
``params_certs``, ``params_control``), then list it in PARAMETERS.
Nothing else changes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

from hipctl.constants import ParameterType
from hipctl.params_certs import Cert, Delegation, Invitation, LanInfo
from hipctl.params_control import Ack, Notification, Seq
from hipctl.params_keys import (
    CipherList,
    DhGroupList,
    DiffieHellman,
    Encrypted,
    HipMac,
    HipMac2,
    HipSignature,
    HipSignature2,
    HitSuiteList,
    HostIdParameter,
)
from hipctl.params_mobility import Locator, LocatorSet
from hipctl.params_puzzle import (
    EchoRequestSigned,
    EchoRequestUnsigned,
    EchoResponseSigned,
    EchoResponseUnsigned,
    Puzzle,
    R1Counter,
    Solution,
)
from hipctl.params_registration import RegFailed, RegInfo, RegRequest, RegResponse
from hipctl.params_relay import (
    CandidatePriority,
    From,
    MappedAddress,
    Nominate,
    PeerPermission,
    RegFrom,
    RelayedAddress,
    RelayFrom,
    RelayHmac,
    RelayTo,
    RvsHmac,
    TransactionPacing,
    ViaRvs,
)
from hipctl.params_transport import EspInfo, EspTransform, NatTraversalModes, TransportFormatList
from hipctl.wire import Reader, frame, unframe

__all__ = [
    "PARAMETERS",
    "Ack",
    "CandidatePriority",
    "Cert",
    "CipherList",
    "Delegation",
    "DhGroupList",
    "DiffieHellman",
    "EchoRequestSigned",
    "EchoRequestUnsigned",
    "EchoResponseSigned",
    "EchoResponseUnsigned",
    "Encrypted",
    "EspInfo",
    "EspTransform",
    "From",
    "HipMac",
    "HipMac2",
    "HipSignature",
    "HipSignature2",
    "HitSuiteList",
    "HostIdParameter",
    "Invitation",
    "LanInfo",
    "Locator",
    "LocatorSet",
    "MappedAddress",
    "NatTraversalModes",
    "Nominate",
    "Notification",
    "Parameter",
    "PeerPermission",
    "Puzzle",
    "R1Counter",
    "RegFailed",
    "RegFrom",
    "RegInfo",
    "RegRequest",
    "RegResponse",
    "RelayFrom",
    "RelayHmac",
    "RelayTo",
    "RelayedAddress",
    "RvsHmac",
    "Seq",
    "Solution",
    "TransactionPacing",
    "TransportFormatList",
    "Unknown",
    "ViaRvs",
    "decode",
    "encode",
]


class Parameter(Protocol):
    """What every parameter class offers."""

    TYPE: ClassVar[ParameterType]

    def content(self) -> bytes:
        """The bytes after Type and Length, without padding."""

    @classmethod
    def parse(cls, reader: Reader) -> Self:
        """Build from the content; raise MalformedPacket if it is not well formed."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A parameter that we do not implement.

    Attributes:
        type_code: its type.
        raw: its content.
    """

    type_code: int
    raw: bytes

    @property
    def critical(self) -> bool:
        """Whether RFC 7401 §5.2.1 forbids us to ignore it."""
        return bool(self.type_code & 1)


PARAMETERS: dict[int, type[Parameter]] = {
    parameter.TYPE: parameter
    for parameter in (
        EspInfo,
        R1Counter,
        LocatorSet,
        Puzzle,
        Solution,
        Seq,
        Ack,
        DhGroupList,
        DiffieHellman,
        CipherList,
        NatTraversalModes,
        Encrypted,
        HostIdParameter,
        HitSuiteList,
        Cert,
        Notification,
        EchoRequestSigned,
        EchoResponseSigned,
        TransportFormatList,
        EspTransform,
        Invitation,
        Delegation,
        LanInfo,
        HipMac,
        HipMac2,
        HipSignature2,
        HipSignature,
        EchoResponseUnsigned,
        EchoRequestUnsigned,
        RegInfo,
        RegRequest,
        RegResponse,
        RegFailed,
        RegFrom,
        TransactionPacing,
        RelayedAddress,
        MappedAddress,
        PeerPermission,
        CandidatePriority,
        Nominate,
        RelayFrom,
        RelayTo,
        From,
        RvsHmac,
        ViaRvs,
        RelayHmac,
    )
}


def _type(parameter: Parameter | Unknown) -> int:
    return parameter.type_code if isinstance(parameter, Unknown) else parameter.TYPE


def _content(parameter: Parameter | Unknown) -> bytes:
    return parameter.raw if isinstance(parameter, Unknown) else parameter.content()


def encode(parameters: Iterable[Parameter | Unknown]) -> bytes:
    """Encode in ascending type order, as RFC 7401 §5.2.1 demands."""
    return b"".join(frame(_type(p), _content(p)) for p in sorted(parameters, key=_type))


def decode(data: bytes) -> list[Parameter | Unknown]:
    """Decode a parameter list, e.g. what was in ENCRYPTED.

    Raises:
        MalformedPacket: a length, a field or the padding does not fit.
    """
    reader, found = Reader(data), list[Parameter | Unknown]()
    while reader.left:
        type_code, content = unframe(reader)
        known = PARAMETERS.get(type_code)
        found.append(known.parse(Reader(content)) if known else Unknown(type_code, content))
    return found
