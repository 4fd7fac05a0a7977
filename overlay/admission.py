"""What a peer shows to be let in, a delegation and certificates, and the file that holds them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from hipctl import (
    Hit,
    HostId,
    HostIdentity,
    MalformedPacket,
    Rejected,
    issue_certificate,
)
from overlay.accounts import (
    Delegation,
    canonical_aor,
    hit_of_user,
    is_reserved,
    self_certifying_aor,
    split_aor,
    uri_of,
)
from overlay.canonical import NotCanonical, decode, encode
from overlay.constants import (
    CERTIFICATE_LIFE,
    CLOCK_TOLERANCE,
    FOREVER,
    MAX_CERTIFICATE,
    MAX_CREDENTIALS,
    TEXT_FILE_LIMIT,
)
from overlay.errors import CredentialsRefused
from overlay.overlayfile import OverlayInfo
from overlay.proofs import NameCertificate, certified, delegation_signed
from overlay.textfile import from_base64, parse_toml, read_text, to_base64, write_text

MAX_SHOWN: Final = 4  # certificates in Credentials
MAX_IN_FILE: Final = 64  # delegations, and certificates, in an account file


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the first RPC on an association carries.

    Attributes:
        delegation: DEV of the device, or None.
        certificates: DER, of the delegating account.
    """

    delegation: Delegation | None = None
    certificates: tuple[bytes, ...] = ()

    def encode(self) -> bytes:
        """Return the canonical bytes.

        Raises:
            CredentialsRefused: they would be more than 900.
        """
        dev = None if self.delegation is None else self.delegation.raw
        data = encode([dev, *self.certificates])
        if len(data) > MAX_CREDENTIALS or len(self.certificates) > MAX_SHOWN:
            raise CredentialsRefused("credentials: too long")
        return data

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read what ``encode`` wrote.

        Raises:
            CredentialsRefused: it is another form.
        """
        try:
            values = decode(data, MAX_CREDENTIALS)
        except NotCanonical as error:
            raise CredentialsRefused(f"credentials: {error.reason}") from None
        match values:
            case [(bytes() | None) as dev, *certificates] if len(certificates) <= MAX_SHOWN:
                pass
            case _:
                raise CredentialsRefused("credentials: no credentials")
        if not all(type(c) is bytes and len(c) <= MAX_CERTIFICATE for c in certificates):
            raise CredentialsRefused("credentials: no credentials")
        return cls(None if dev is None else Delegation.parse(dev), tuple(certificates))


@dataclass(frozen=True, slots=True)
class Admitted:
    """What credentials proved.

    Attributes:
        account: HIT of the account, or None where none was shown.
        aors: canonical AoRs that the device may speak as.
        expires: Unix seconds until which all of it holds.
    """

    account: Hit | None
    aors: tuple[str, ...]
    expires: int


def admit(credentials: Credentials, overlay: OverlayInfo, hit: Hit, wall: float) -> Admitted:
    """Judge what the peer at the other end of an association showed.

    An ``open`` overlay lets in who shows nothing, but what is shown must hold. An ``enrolled`` one
    wants a delegation by an account that its CA has certified.

    Args:
        credentials: as shown.
        overlay: which it wants to join.
        hit: the peer's, as the association proved it.
        wall: Unix seconds.

    Raises:
        CredentialsRefused: it stays out; the message is short and constant.
    """
    delegation = credentials.delegation
    if delegation is None:
        if credentials.certificates or overlay.admission == "enrolled":
            raise CredentialsRefused("no delegation")
        return Admitted(None, (), FOREVER)
    if reason := delegation.refusal(hit, wall):
        raise CredentialsRefused(reason)
    if overlay.admission == "enrolled" and not credentials.certificates:
        raise CredentialsRefused("no certificate")
    account = delegation.account.hit
    aors = [self_certifying_aor(account, overlay.domain)]
    expires = delegation.not_after
    for der in credentials.certificates:
        try:
            found = certified(der, overlay, wall)
        except (MalformedPacket, Rejected) as error:
            raise CredentialsRefused(error.reason) from None
        if found.account.hit != account:
            raise CredentialsRefused("certificate of another account")
        aors += (aor for aor in found.aors if aor not in aors)
        expires = min(expires, found.not_after)
    if not delegation_signed(delegation):
        raise CredentialsRefused("delegation signature")
    return Admitted(account, tuple(aors), expires)


check = admit
"""The name under which other rooms know it: ``admission.check``."""


def certify(  # noqa: PLR0917
    ca: HostIdentity,
    overlay: OverlayInfo,
    account: HostId,
    aors: Sequence[str],
    wall: float,
    rng: Callable[[int], bytes],
    *,
    life: int = CERTIFICATE_LIFE,
) -> bytes:
    """Issue a certificate of an overlay's CA: these AoRs are this account's.

    Args:
        ca: the newest key of the CA.
        overlay: whose.
        account: Host Identity of the account.
        aors: at least one, of the overlay's domain, neither reserved nor self-certifying.
        wall: Unix seconds; the certificate begins a little earlier, for others' clocks.
        rng: for the serial.
        life: seconds.

    Returns:
        DER.

    Raises:
        CredentialsRefused: the key isn't the CA's, or an AoR can't be certified.
        MalformedAor: one is none.
    """
    if all(key.hit != ca.hit for key in overlay.ca):
        raise CredentialsRefused("the key is not one of the overlay's CA")
    names = [canonical_aor(aor) for aor in aors]
    if not names:
        raise CredentialsRefused("a certificate needs at least one AoR")
    for name in names:
        user, domain = split_aor(name)
        if domain != overlay.domain:
            raise CredentialsRefused(f"{name} is not of the domain {overlay.domain}")
        if is_reserved(user) or hit_of_user(user) is not None:
            raise CredentialsRefused(f"{name} is never certified")
    der = issue_certificate(
        ca,
        account,
        [uri_of(name) for name in names],
        not_before=int(wall) - CLOCK_TOLERANCE,
        not_after=int(wall) + life,
        serial=rng(8),
    )
    if len(der) > MAX_CERTIFICATE:
        raise CredentialsRefused(f"a certificate has at most {MAX_CERTIFICATE} bytes: fewer AoRs")
    return der


# --- the account file -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Account:
    """The public credentials of an account, as its file ``account.p2psip`` holds them.

    Attributes:
        delegations: at least one; all by one account.
        certificates: DER, of any overlays.
    """

    delegations: tuple[Delegation, ...]
    certificates: tuple[bytes, ...] = ()

    @property
    def host_id(self) -> HostId:
        """The account's public key."""
        return self.delegations[0].account

    @property
    def hit(self) -> Hit:
        """HIT of the account."""
        return self.host_id.hit

    def delegation_of(self, device: Hit, wall: float) -> Delegation | None:
        """Return the delegation of ``device`` in force that has the highest seq, or None."""
        good = [d for d in self.delegations if d.refusal(device, wall) is None]
        return max(good, key=lambda d: (d.seq, d.not_after), default=None)

    def credentials(self, device: Hit, overlay: OverlayInfo, wall: float) -> Credentials:
        """Return what ``device`` shows in ``overlay``, as much as fits."""
        shown = Credentials(self.delegation_of(device, wall))
        if shown.delegation is None:
            return shown
        for der, _ in self._valid(overlay, wall):
            more = Credentials(shown.delegation, (*shown.certificates, der))
            try:
                more.encode()
            except CredentialsRefused:
                break
            shown = more
        return shown

    def names(self, overlay: OverlayInfo, wall: float) -> dict[str, bytes | None]:
        """Return the AoRs held in ``overlay``: canonical AoR -> certificate that a REG carries.

        The self-certifying one comes first and needs no certificate (None).
        """
        names: dict[str, bytes | None] = {self_certifying_aor(self.hit, overlay.domain): None}
        for der, found in self._valid(overlay, wall):
            for aor in found.aors:
                names.setdefault(aor, der)
        return names

    def _valid(self, overlay: OverlayInfo, wall: float) -> list[tuple[bytes, NameCertificate]]:
        """Certificates that ``overlay`` accepts now, the one that ends last first."""
        valid = []
        for der in self.certificates:
            try:
                found = certified(der, overlay, wall)
            except (MalformedPacket, Rejected):  # of another overlay, or over
                continue
            if found.account.hit == self.hit:
                valid.append((der, found))
        return sorted(valid, key=lambda pair: -pair[1].not_after)


def parse_account(text: str) -> Account:
    """Read the TOML of an account file.

    Raises:
        CredentialsRefused: it is none, or a delegation isn't signed by its one account.
    """
    try:
        table = parse_toml(text)
    except ValueError as error:
        raise CredentialsRefused(f"no TOML: {error}") from None
    if stray := sorted(table.keys() - {"account", "delegations", "certificates"}):
        raise CredentialsRefused(f"{stray[0]}: unknown key")
    delegations = tuple(Delegation.parse(raw) for raw in _blobs(table, "delegations"))
    if not delegations:
        raise CredentialsRefused("delegations: at least one is needed")
    if len({d.account.encoded for d in delegations}) != 1:
        raise CredentialsRefused("delegations: of more than one account")
    if not all(delegation_signed(d) for d in delegations):
        raise CredentialsRefused("delegations: a signature is wrong")
    if table.get("account", str(delegations[0].account.hit)) != str(delegations[0].account.hit):
        raise CredentialsRefused("account: is not the HIT of the delegations")
    return Account(delegations, _blobs(table, "certificates"))


def _blobs(table: dict[str, Any], key: str) -> tuple[bytes, ...]:
    values = table.get(key, [])
    if not isinstance(values, list) or len(values) > MAX_IN_FILE:
        raise CredentialsRefused(f"{key}: must be a list of at most {MAX_IN_FILE}")
    try:
        return tuple(from_base64(value) for value in values)
    except ValueError:
        raise CredentialsRefused(f"{key}: no base64") from None


def format_account(account: Account) -> str:
    """Write the TOML of an account file."""
    lines = [
        "# What proves this peer's names. Nothing in it is secret.",
        f'account = "{account.hit}"',
        "delegations = [",
    ]
    for dev in account.delegations:
        lines += [f"    # {dev.device}", f'    "{to_base64(dev.raw)}",']
    lines += ["]", "certificates = ["]
    lines += [f'    "{to_base64(der)}",' for der in account.certificates]
    return "\n".join([*lines, "]", ""])


def load_account(path: Path) -> Account:
    """Read an account file.

    Raises:
        CredentialsRefused: it is missing or wrong; the message starts with the path.
    """
    text = read_text(path)
    try:
        return parse_account(text)
    except CredentialsRefused as error:
        raise CredentialsRefused(f"{path}: {error}") from None


def save_account(account: Account, path: Path) -> None:
    """Write an account file, replacing it as a whole.

    Raises:
        CredentialsRefused: it cannot be written, or has grown so that it could not be read again.
    """
    text = format_account(account)
    if len(text) > TEXT_FILE_LIMIT:
        raise CredentialsRefused(f"{path}: would be longer than {TEXT_FILE_LIMIT} bytes")
    try:
        parse_account(text)
    except CredentialsRefused as error:
        raise CredentialsRefused(f"{path}: {error}") from None
    write_text(path, text)
