"""Who a person is: canonical AoRs, names that certify themselves, account keys, delegations."""

import base64
import hashlib
import hmac
import re
import unicodedata
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final, Self

from hipctl import Hit, HostId, HostIdentity, MalformedPacket
from overlay.canonical import NotCanonical, decode, encode
from overlay.constants import (
    ACCOUNT_CONTEXT,
    CLOCK_TOLERANCE,
    DELEGATION_CONTEXT,
    DELEGATION_LIFE,
    MAX_AOR,
    MAX_USER,
)
from overlay.errors import CredentialsRefused, MalformedAor

RESERVED_USERS: Final = frozenset({"echo", "voicemail"})
"""User parts that every peer answers itself, and that nobody is ever certified for."""

MAX_DELEGATION: Final = 320  # bytes; P-384 needs 252
HIT_USER_LENGTH: Final = 26  # characters of base32 for 16 bytes

_HIT_USER = re.compile(r"[A-Za-z2-7]{26}", re.ASCII)
_BASE32 = re.compile(r"[A-Za-z2-7]*", re.ASCII)
_HIT_BEGINS: Final = "eaaq"  # every HIT in base32 (2001:20::/28)
_PLAIN_USER = re.compile(r"[A-Za-z0-9_.!~*'()&=+$,;?/#-]+", re.ASCII)
_BAD_IN_USER = re.compile(r'[\s<>"@:%\\\[\]{}|^`]')
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_UNRESERVED: Final = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.!~*'()&=+$,/"
)


# --- addresses of record ----------------------------------------------------------------------


def canonical_aor(text: str) -> str:
    r"""Bring a SIP URI into the one form in which AoRs are compared, hashed and certified.

    That is ``sip:``, the user part percent-decoded with its case (in Unicode's NFC; a user part
    that decodes to a HIT in lower case), ``@``, the domain in lower case; no port, parameters or
    headers. Characters that would end a URI inside a header (``<>"@:%\\`` and space) are refused
    even where they are escaped.

    Raises:
        MalformedAor: no ``sip:`` URI with a user part, or one that is empty, too long, or holds
            what a name may not hold.
    """
    if len(text) > 4 * MAX_AOR or text[:4].lower() != "sip:":
        raise MalformedAor(f"{text[:40]!r} is no AoR: it has the form sip:user@domain")
    user, at, rest = text[4:].rpartition("@")
    if not at:
        raise MalformedAor(f"{text[:40]!r} has no user part")
    aor = f"sip:{_canonical_user(user)}@{canonical_domain(_host(rest))}"
    if len(aor.encode()) > MAX_AOR:
        raise MalformedAor(f"an AoR has at most {MAX_AOR} bytes")
    return aor


def _host(rest: str) -> str:
    host = rest.split(";", 1)[0].split("?", 1)[0]
    name, colon, port = host.partition(":")
    if colon and not (port.isascii() and port.isdigit() and len(port) <= 5):
        raise MalformedAor(f"{host[:40]!r} is no domain")
    return name


def canonical_domain(text: str) -> str:
    """Check a host name and bring it into lower case.

    Raises:
        MalformedAor: it is none in letters, digits and hyphens (write others in Punycode).
    """
    domain = text.lower()
    if not 0 < len(domain) <= MAX_AOR or not all(
        _LABEL.fullmatch(label) for label in domain.split(".")
    ):
        raise MalformedAor(f"{text[:40]!r} is no domain")
    return domain


def _canonical_user(text: str) -> str:
    user = text
    if not _PLAIN_USER.fullmatch(user):
        try:
            raw = _ESCAPE.sub(lambda m: bytes.fromhex(m[1].decode()), text.encode())
            user = unicodedata.normalize("NFC", raw.decode())
        except UnicodeError:
            raise MalformedAor("the user part is no UTF-8") from None
        if not user:
            raise MalformedAor("the user part is empty")
        if _BAD_IN_USER.search(user) or not user.isprintable():
            raise MalformedAor(
                f"the user part {user[:40]!r} holds a character that is not allowed"
            )
    if len(user.encode()) > MAX_USER:
        raise MalformedAor(f"a user part has at most {MAX_USER} bytes")
    return user if hit_of_user(user) is None else user.lower()


def split_aor(aor: str) -> tuple[str, str]:
    """Return user part and domain of a canonical AoR."""
    user, _, domain = aor[4:].rpartition("@")
    return user, domain


def uri_of(aor: str) -> str:
    """Write a canonical AoR as a SIP URI: what a URI may not hold is percent-encoded."""
    user, domain = split_aor(aor)
    if not _UNRESERVED.issuperset(user):
        user = "".join(
            c if c in _UNRESERVED else "".join(f"%{b:02X}" for b in c.encode()) for c in user
        )
    return f"sip:{user}@{domain}"


def is_reserved(user: str) -> bool:
    """Whether a user part is one that every peer answers itself; compared without case."""
    return user.lower() in RESERVED_USERS


def self_certifying_user(hit: Hit) -> str:
    """Return the user part that names a HIT: 26 characters of base32 (RFC 4648), lower case."""
    return base64.b32encode(hit).decode().rstrip("=").lower()


def self_certifying_aor(hit: Hit, domain: str) -> str:
    """Return the AoR that proves itself to whoever knows the account's key."""
    return f"sip:{self_certifying_user(hit)}@{domain}"


@lru_cache(maxsize=512)
def hit_of_user(user: str) -> Hit | None:
    """Return the HIT that a user part decodes to, or None when it is an ordinary name."""
    if len(user) != HIT_USER_LENGTH or not _HIT_USER.fullmatch(user):
        return None
    raw = base64.b32decode(user.upper() + "======")
    try:
        hit = Hit.check(raw)
    except ValueError:
        return None
    # the last character has two bits to spare: only one spelling names the HIT
    return hit if self_certifying_user(hit) == user.lower() else None


def why_nobodys(aor: str, keys_only: Collection[str] = ()) -> str | None:
    """Why a canonical AoR can be nobody's, as people mistype or shorten those; None: it may be.

    Args:
        aor: the AoR.
        keys_only: domains of overlays without a CA, where every name certifies itself.
    """
    user, domain = split_aor(aor)
    whole = "copy the whole address, which its owner sees with: p2psip account show"
    if "…" in user or "..." in user:
        return f"{user!r} is shortened, and nobody's name; {whole}"
    if hit_of_user(user) is not None or is_reserved(user):
        return None
    if user.startswith(_HIT_BEGINS) and _BASE32.fullmatch(user):
        return (
            f"{user!r} begins like the name of a key, which has {HIT_USER_LENGTH} letters and "
            f"digits, but is none ({len(user)} of them); {whole}"
        )
    if domain in keys_only:
        return (
            f"{domain} has no CA, so every name in it is that of a key, of {HIT_USER_LENGTH} "
            f"letters and digits, and {user!r} is none; {whole}"
        )
    return None


# --- delegations ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Delegation:
    """DEV: an account says that a device speaks for it until ``not_after``.

    Attributes:
        account: the account's Host Identity.
        device: HIT of the device.
        not_after: Unix seconds.
        seq: higher than that of any earlier delegation of this device, so that a revocation can
            name all up to one.
        sig: r‖s of the account's key over everything before it.
    """

    account: HostId
    device: Hit
    not_after: int
    seq: int
    sig: bytes

    @cached_property
    def raw(self) -> bytes:
        """The canonical bytes."""
        return encode(
            [
                DELEGATION_CONTEXT,
                self.account.encoded,
                self.device,
                self.not_after,
                self.seq,
                self.sig,
            ]
        )

    @property
    def body(self) -> bytes:
        """The bytes that the signature covers: all before it, which begin with the context."""
        return self.raw[: -len(self.sig) - 2]

    @staticmethod
    def parse(data: bytes) -> "Delegation":
        """Read the canonical bytes; the signature isn't checked here.

        Raises:
            CredentialsRefused: they are none.
        """
        return _read_delegation(bytes(data))

    def verify(self) -> bool:
        """Whether the account signed it, with low s."""
        try:
            return self.account.low_s(self.sig) and self.account.verify(self.sig, self.body)
        except MalformedPacket:
            return False

    def refusal(self, device: Hit, wall: float) -> str | None:
        """Say why it does not speak for ``device`` now, or None; the signature isn't looked at.

        Args:
            device: who shows it.
            wall: Unix seconds.
        """
        if self.device != device:
            return "delegation for another device"
        if self.not_after <= wall:
            return "delegation expired"
        if self.not_after > wall + DELEGATION_LIFE + CLOCK_TOLERANCE:
            return "delegation too long"
        return None


@lru_cache(maxsize=512)  # every registration of a device carries the same one
def _read_delegation(data: bytes) -> Delegation:
    try:
        values = decode(data, MAX_DELEGATION)
    except NotCanonical as error:
        raise CredentialsRefused(f"delegation: {error.reason}") from None
    match values:
        case [
            "p2psip/dev/1",
            bytes(account),
            bytes(device),
            int(not_after),
            int(seq),
            bytes(sig),
        ] if _fits(account, not_after, seq, sig):
            pass
        case _:
            raise CredentialsRefused("delegation: no delegation")
    try:
        hit = Hit.check(device)
    except ValueError:
        raise CredentialsRefused("delegation: device is no HIT") from None
    delegation = Delegation(HostId.ecdsa(account), hit, not_after, seq, sig)
    delegation.__dict__["raw"] = data  # what was read needn't be encoded again
    return delegation


def _fits(account: bytes, not_after: int, seq: int, sig: bytes) -> bool:
    """Whether the fields of a DEV have their sizes; the types are known."""
    return (
        type(not_after) is int
        and type(seq) is int
        and 0 <= not_after < 2**32
        and 0 <= seq < 2**64
        and len(sig) in (64, 96)
        and len(account) == len(sig) + 3
    )


# --- account keys -----------------------------------------------------------------------------


class AccountKey:
    """The private key of an account, as long as somebody has just typed its 24 words.

    It is never stored: whoever stole a device that holds it could delegate anew.
    """

    def __init__(self, identity: HostIdentity) -> None:
        self._identity = identity

    def __repr__(self) -> str:
        return f"AccountKey({self.hit})"

    @property
    def host_id(self) -> HostId:
        """The public Host Identity."""
        return self._identity.host_id

    @property
    def hit(self) -> Hit:
        """The HIT that names the account; it never opens an association."""
        return self._identity.hit

    @classmethod
    def generate(cls, rng: Callable[[int], bytes]) -> tuple[Self, str]:
        """Make a new account.

        Returns:
            The key, and the 24 words (one space between them) that restore it.
        """
        from mnemonic import Mnemonic  # noqa: PLC0415  only init and restore need it

        words = Mnemonic("english").to_mnemonic(rng(32))
        return cls.from_words(words), words

    @classmethod
    def from_words(cls, words: str) -> Self:
        """Restore an account from its 24 words (BIP 39, English, no passphrase).

        Raises:
            CredentialsRefused: another number of words, one that isn't in the list, or a slip
                that the checksum shows. The message quotes no word: it may end in a log.
        """
        from mnemonic import Mnemonic  # noqa: PLC0415

        book = Mnemonic("english")
        given = words.lower().split()
        if len(given) != 24:
            raise CredentialsRefused(f"an account has 24 words, not {len(given)}")
        for number, word in enumerate(given, 1):
            if word not in book.wordlist:
                raise CredentialsRefused(f"word {number} is not in the list of BIP 39")
        text = " ".join(given)
        if not book.check(text):
            raise CredentialsRefused("the words' checksum is wrong: is one mistyped or misplaced?")
        secret = _hkdf_sha256(book.to_seed(text, ""), ACCOUNT_CONTEXT, 48)
        return cls(HostIdentity.from_secret(int.from_bytes(secret, "big")))

    def delegate(self, device: Hit, not_after: int, seq: int) -> Delegation:
        """Let ``device`` speak for the account.

        Args:
            device: its HIT.
            not_after: Unix seconds; readers refuse more than 400 days from now.
            seq: u64, higher than before; Unix milliseconds are.
        """
        unsigned = Delegation(self.host_id, device, not_after, seq, bytes(_half(self.host_id) * 2))
        sig = self._identity.sign(unsigned.body)
        return Delegation(self.host_id, device, not_after, seq, sig)

    @property
    def identity(self) -> HostIdentity:
        """The key as a Host Identity, to sign revocations."""
        return self._identity


def _half(host_id: HostId) -> int:
    """Length of r, and of s, in bytes."""
    return (len(host_id.encoded) - 3) // 2


def _hkdf_sha256(secret: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 with SHA-256 and no salt."""
    key = hmac.digest(bytes(32), secret, hashlib.sha256)
    out = block = b""
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.digest(key, block + info + bytes([counter]), hashlib.sha256)
        out += block
    return out[:length]


def words_in_rows(words: str, columns: int = 4) -> Sequence[str]:
    """Lay the 24 words out to be copied by hand, numbered, ``columns`` in a row."""
    numbered = [f"{i:2}. {word:<9}" for i, word in enumerate(words.split(), 1)]
    return ["".join(numbered[i : i + columns]).rstrip() for i in range(0, len(numbered), columns)]
