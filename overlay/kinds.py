"""The kinds of records: what each payload holds, who may write it where, and for how long."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, Self

from hipctl import Hit, MalformedPacket, Rejected
from overlay.accounts import Delegation, canonical_aor, hit_of_user, is_reserved, split_aor
from overlay.admission import Credentials, admit
from overlay.canonical import NotCanonical, decode, encode
from overlay.constants import (
    DELEGATION_LIFE,
    FOREVER,
    MAIL_LIFE,
    MAX_CERTIFICATE,
    MAX_CONTACT,
    MAX_CREDENTIALS,
    MAX_RECORD,
    NODE_LIFE,
    REG_LIFE,
    SERVICE_LIFE,
)
from overlay.errors import CredentialsRefused, MalformedAor, MalformedRecord, RecordRefused
from overlay.keys import MAX_DEPTH, bucket_of, node_id, service_place
from overlay.overlayfile import OverlayInfo
from overlay.proofs import certified, delegation_signed

SERVICE_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,15}", re.ASCII)


class Payload(Protocol):
    """What all typed payloads can do."""

    @property
    def gone(self) -> bool:
        """Whether it is a tombstone."""

    def encode(self) -> bytes:
        """The canonical bytes."""

    def tombstone(self) -> Self:
        """What deletes it; raises RecordRefused where nothing does."""

    def ceiling(self, overlay: OverlayInfo, wall: float) -> int:
        """Unix seconds beyond which no record with this payload may live; raises RecordRefused."""

    def place(self, owner: Hit) -> tuple[str, bytes]:
        """Arguments ``kind`` and ``x`` of the key under which it belongs."""

    def check(
        self, owner: Hit, subkey: bytes, expires: int, overlay: OverlayInfo, wall: float
    ) -> None:
        """Apply the kind's write policy; raises RecordRefused."""


def account_of(
    aor: str, certificate: bytes | None, overlay: OverlayInfo, wall: float
) -> tuple[Hit, int]:
    """Find out whose a canonical AoR is.

    Args:
        aor: canonical.
        certificate: DER by the overlay's CA; None for an AoR that certifies itself.
        overlay: whose AoR it is.
        wall: Unix seconds.

    Returns:
        The account's HIT, and the Unix second until which that holds.

    Raises:
        RecordRefused: nobody's, as far as this proves it.
    """
    user, domain = split_aor(aor)
    if domain != overlay.domain:
        raise RecordRefused("wrong domain")
    if is_reserved(user):
        raise RecordRefused("reserved user")
    named = hit_of_user(user)
    if certificate is None:
        if named is None:
            raise RecordRefused("no certificate")
        return named, FOREVER
    if named is not None:  # such a name is never certified otherwise
        raise RecordRefused("certificate for a name that certifies itself")
    try:
        found = certified(certificate, overlay, wall)
    except (MalformedPacket, Rejected) as error:
        raise RecordRefused(error.reason) from None
    if aor not in found.aors:
        raise RecordRefused("certificate for another AoR")
    return found.account.hit, found.not_after


@dataclass(frozen=True, slots=True)
class Reg:
    """REG: this device answers for an AoR.

    Attributes:
        aor: canonical.
        delegation: DEV of the device under the account that the AoR names.
        certificate: DER that binds the AoR to the account, None for a self-certifying AoR.
        port: where its SIP gateway listens on its HIT; 0 in a tombstone.
        contact: how to reach the device, at most 80 bytes, opaque; empty in a tombstone.
    """

    aor: str
    delegation: Delegation
    certificate: bytes | None
    port: int
    contact: bytes

    @property
    def gone(self) -> bool:
        """Whether the device says that it answers no more."""
        return self.port == 0

    @property
    def account(self) -> Hit:
        """HIT of the account that delegated the device."""
        return self.delegation.account.hit

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode([self.aor, self.delegation.raw, self.certificate, self.port, self.contact])

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read the canonical bytes; fields behind the known ones are passed over.

        Raises:
            MalformedRecord: they are none.
        """
        match _decode(data):
            case [
                str(aor),
                bytes(dev),
                (bytes() | None) as certificate,
                int(port),
                bytes(contact),
                *_,
            ]:
                pass
            case _:
                raise MalformedRecord("bad payload")
        if type(port) is not int or not 0 <= port < 65_536:
            raise MalformedRecord("bad port")
        if len(contact) > (MAX_CONTACT if port else 0):
            raise MalformedRecord("bad contact")
        if certificate is not None and len(certificate) > MAX_CERTIFICATE:
            raise MalformedRecord("certificate too long")
        _check_aor(aor)
        return cls(aor, _delegation(dev), certificate, port, contact)

    def tombstone(self) -> Self:
        """The same registration, withdrawn: it carries what proves the right to."""
        return type(self)(self.aor, self.delegation, self.certificate, 0, b"")

    def ceiling(self, overlay: OverlayInfo, wall: float) -> int:
        """The end of the delegation or the certificate; raises RecordRefused."""
        _, end = account_of(self.aor, self.certificate, overlay, wall)
        return min(end, self.delegation.not_after)

    def place(self, owner: Hit) -> tuple[str, bytes]:
        """At its AoR."""
        return "aor", self.aor.encode()

    def check(
        self, owner: Hit, subkey: bytes, expires: int, overlay: OverlayInfo, wall: float
    ) -> None:
        """See Payload: the device of a valid delegation by the account that the AoR names."""
        if subkey:
            raise RecordRefused("bad subkey")
        if reason := self.delegation.refusal(owner, wall):
            raise RecordRefused(reason)
        if expires > self.delegation.not_after:
            raise RecordRefused("outlives its delegation")
        account, end = account_of(self.aor, self.certificate, overlay, wall)
        if account != self.account:
            raise RecordRefused(
                "AoR of another account"
                if self.certificate is None
                else "certificate of another account"
            )
        if expires > end:
            raise RecordRefused("outlives its certificate")
        if not delegation_signed(self.delegation):
            raise RecordRefused("delegation signature")


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """NODE: how to reach a HIT.

    Attributes:
        contact: at most 80 bytes, opaque; empty in a tombstone.
    """

    contact: bytes

    @property
    def gone(self) -> bool:
        """Whether the HIT says that it left."""
        return not self.contact

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode([self.contact])

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read the canonical bytes; fields behind the known ones are passed over.

        Raises:
            MalformedRecord: they are none.
        """
        match _decode(data):
            case [bytes(contact), *_] if len(contact) <= MAX_CONTACT:
                return cls(contact)
            case _:
                raise MalformedRecord("bad payload")

    def tombstone(self) -> Self:
        """No contact."""
        return type(self)(b"")

    def ceiling(self, overlay: OverlayInfo, wall: float) -> int:
        """None of its own."""
        return FOREVER

    def place(self, owner: Hit) -> tuple[str, bytes]:
        """At its owner's HIT."""
        return "node", owner

    def check(
        self, owner: Hit, subkey: bytes, expires: int, overlay: OverlayInfo, wall: float
    ) -> None:
        """See Payload: ``place`` says that only the HIT itself may write."""
        if subkey:
            raise RecordRefused("bad subkey")


@dataclass(frozen=True, slots=True)
class Revoke:
    """REVOKE: a certificate, or a device's delegations up to a seq, are void until ``end``.

    An account revokes a device, and owns the record; a CA revokes a serial.

    Attributes:
        aor: canonical; the record stands at its key.
        device: HIT, or None when a certificate is revoked.
        serial: of the certificate, without leading zeros; empty when a device is revoked.
        seq: highest DEV seq that is revoked; 0 with a serial.
        end: Unix seconds, by when what is revoked has expired anyway.
        certificate: DER that binds the AoR to the account; None for a self-certifying AoR.
    """

    aor: str
    device: Hit | None
    serial: bytes
    seq: int
    end: int
    certificate: bytes | None

    @property
    def gone(self) -> bool:
        """A revocation is never taken back."""
        return False

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode([self.aor, self.device, self.serial, self.seq, self.end, self.certificate])

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read the canonical bytes; fields behind the known ones are passed over.

        Raises:
            MalformedRecord: they are none.
        """
        match _decode(data):
            case [
                str(aor),
                (bytes() | None) as device,
                bytes(serial),
                int(seq),
                int(end),
                (bytes() | None) as certificate,
                *_,
            ]:
                pass
            case _:
                raise MalformedRecord("bad payload")
        numbers = type(seq) is int and type(end) is int and 0 <= seq < 2**64 and 0 <= end < 2**32
        if not numbers or (device is None) != (0 < len(serial) <= 20):
            raise MalformedRecord("bad payload")
        if certificate is not None and len(certificate) > MAX_CERTIFICATE:
            raise MalformedRecord("certificate too long")
        _check_aor(aor)
        try:
            hit = None if device is None else Hit.check(device)
        except ValueError:
            raise MalformedRecord("bad payload") from None
        return cls(aor, hit, serial, seq, end, certificate)

    def tombstone(self) -> Self:
        """There is none."""
        raise RecordRefused("no tombstone for this kind")

    def ceiling(self, overlay: OverlayInfo, wall: float) -> int:
        """Its end."""
        return self.end

    def place(self, owner: Hit) -> tuple[str, bytes]:
        """At its AoR, beside the registrations that it makes void."""
        return "aor", self.aor.encode()

    def check(
        self, owner: Hit, subkey: bytes, expires: int, overlay: OverlayInfo, wall: float
    ) -> None:
        """See Payload: the account for a device, the CA for a serial."""
        if subkey != (self.serial if self.device is None else self.device):
            raise RecordRefused("bad subkey")
        if expires > self.end:
            raise RecordRefused("outlives its end")
        account, _ = account_of(self.aor, self.certificate, overlay, wall)
        if self.device is not None:
            if owner != account:
                raise RecordRefused("revocation by another account")
            return
        if all(owner != key.hit for key in overlay.ca):
            raise RecordRefused("revocation by another CA")
        if self.certificate is None:
            raise RecordRefused("no certificate")
        if certified(self.certificate, overlay, wall).serial != self.serial:
            raise RecordRefused("certificate with another serial")


@dataclass(frozen=True, slots=True)
class Svc:
    """SVC: this device offers something to whoever may come.

    In an enrolled overlay it carries what admits its owner, so that storers and readers can judge
    by the record alone; whoever is let in could else fill all slots with HITs that nobody is.

    Attributes:
        type: what is offered: ``rvs``, ``relay``, ``voicemail`` …: 1–16 of a–z, 0–9 and ``-``.
        depth: how many bits of the owner's node id tell the bucket, 0–16.
        bucket: these bits.
        port: of its HIT; 0 where the host itself serves.
        contact: how to reach it, at most 80 bytes, opaque; empty in a tombstone.
        capacity: about how many more it could serve, 0–65,535.
        credentials: of overlay.admission; empty in an open overlay.
    """

    type: str
    depth: int
    bucket: int
    port: int
    contact: bytes
    capacity: int = 0
    credentials: bytes = b""

    @property
    def gone(self) -> bool:
        """Whether it is offered no more."""
        return not self.contact

    def encode(self) -> bytes:
        """The canonical bytes."""
        place = (self.type, self.depth, self.bucket)
        return encode([*place, self.port, self.contact, self.capacity, self.credentials])

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read the canonical bytes; fields behind the known ones are passed over.

        Raises:
            MalformedRecord: they are none.
        """
        match _decode(data):
            case [
                str(type_),
                int(depth),
                int(bucket),
                int(port),
                bytes(contact),
                int(capacity),
                bytes(credentials),
                *_,
            ]:
                pass
            case _:
                raise MalformedRecord("bad payload")
        if not SERVICE_TYPE.fullmatch(type_):
            raise MalformedRecord("bad service type")
        numbers = (depth, bucket, port, capacity)
        limits = (MAX_DEPTH + 1, 1 << min(max(depth, 0), MAX_DEPTH), 65_536, 65_536)
        if not all(
            type(number) is int and 0 <= number < limit
            for number, limit in zip(numbers, limits, strict=True)
        ):
            raise MalformedRecord("bad payload")
        if len(contact) > MAX_CONTACT or len(credentials) > MAX_CREDENTIALS:
            raise MalformedRecord("bad payload")
        return cls(type_, depth, bucket, port, contact, capacity, credentials)

    def tombstone(self) -> Self:
        """The same, without a contact."""
        place = (self.type, self.depth, self.bucket)
        return type(self)(*place, self.port, b"", 0, self.credentials)

    def ceiling(self, overlay: OverlayInfo, wall: float) -> int:
        """None of its own: who is let in no more is refused when it shows its credentials."""
        return FOREVER

    def place(self, owner: Hit) -> tuple[str, bytes]:
        """With others of its type, those of its bucket."""
        return "svc", service_place(self.type, self.depth, self.bucket)

    def check(
        self, owner: Hit, subkey: bytes, expires: int, overlay: OverlayInfo, wall: float
    ) -> None:
        """See Payload: any HIT that is let in, once under a key."""
        if subkey:
            raise RecordRefused("bad subkey")
        if self.bucket != bucket_of(node_id(overlay.id, owner), self.depth):
            raise RecordRefused("another bucket")
        if overlay.admission == "open" and not self.credentials:
            return
        try:
            shown = Credentials.parse(self.credentials) if self.credentials else Credentials()
            admit(shown, overlay, owner, wall)
        except CredentialsRefused as error:
            raise RecordRefused(str(error)) from None


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of KINDS.

    Attributes:
        slots: records that one key may hold.
        life: longest life, seconds.
        decode: payload bytes -> typed payload, raises MalformedRecord; None: not served yet.
    """

    slots: int
    life: int
    decode: Callable[[bytes], Payload] | None = None


KINDS: Final[dict[str, Kind]] = {
    "REG": Kind(16, REG_LIFE, Reg.decode),
    "REVOKE": Kind(32, DELEGATION_LIFE, Revoke.decode),
    "NODE": Kind(1, NODE_LIFE, NodeInfo.decode),
    "SVC": Kind(64, SERVICE_LIFE, Svc.decode),
    "MAIL": Kind(32, MAIL_LIFE),
}
"""All kinds that this version knows."""


def _decode(data: bytes) -> list[object]:
    try:
        return decode(data, MAX_RECORD)
    except NotCanonical as error:
        raise MalformedRecord(f"payload {error.reason}") from None


def _check_aor(aor: str) -> None:
    try:
        if canonical_aor(aor) == aor:
            return
    except MalformedAor:
        pass
    raise MalformedRecord("AoR not canonical")


def _delegation(dev: bytes) -> Delegation:
    try:
        return Delegation.parse(dev)
    except CredentialsRefused:
        raise MalformedRecord("bad delegation") from None
