"""Invitations: a token that two people share, and what each side shows with it.

Who was invited proves it in the base exchange, inside ENCRYPTED, and never says the token itself:
on a LAN anybody may answer, and would have it. The proof holds between two HITs only. What comes
back, the overlay's file, is proven in the same way: nobody else can hand out another overlay.

    INVITATION  8 bytes that say which token | HMAC-SHA-256 over both HITs       40 bytes

The file may be had by everybody with the token until that expires. Who has neither token nor file
can't tell from a mark, which members show on their LAN, which overlay that is.

    LAN_INFO    8 bytes for each overlay: HMAC-SHA-256 under its id over the HIT
"""

import base64
import hashlib
import hmac
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from hipctl import Hit
from overlay.constants import OVERLAY_ID_LENGTH
from overlay.errors import ConfigError, CredentialsRefused
from overlay.textfile import locked, parse_toml, read_text, replace_text

SECRET_LENGTH: Final = 15  # bytes: 24 characters
ID_LENGTH: Final = 8
PROOF_LENGTH: Final = ID_LENGTH + 32
INVITATIONS: Final = "invitations.toml"  # in the state folder
MAX_INVITATIONS: Final = 64  # in a file

_GROUP: Final = 4  # characters between two dashes
_ID: Final = b"p2psip/invitation/id/1"
_PROOF: Final = b"p2psip/invitation/1"
_WELCOME: Final = b"p2psip/welcome/1"
_MARK: Final = b"p2psip/mark/1"
MARK_LENGTH: Final = 8
MAX_MARKS: Final = 8  # in what one HIT shows


def make_token(rng: Callable[[int], bytes]) -> str:
    """Make a token, as people pass it on: six groups of four letters and digits."""
    return write_token(rng(SECRET_LENGTH))


def write_token(secret: bytes) -> str:
    """Write the secret of a token."""
    text = base64.b32encode(secret).decode().lower()
    return "-".join(text[at : at + _GROUP] for at in range(0, len(text), _GROUP))


def read_token(text: str) -> bytes:
    """Read a token as somebody has typed it: case, dashes and spaces don't matter.

    Raises:
        CredentialsRefused: it is none.
    """
    plain = "".join(text.split()).replace("-", "").upper()
    try:
        secret = base64.b32decode(plain)
    except ValueError:  # of characters, of length
        secret = b""
    if len(secret) != SECRET_LENGTH:
        raise CredentialsRefused("this is no invitation: it has 24 letters and digits 2-7")
    return secret


def token_id(secret: bytes) -> bytes:
    """Which token that is; says nothing of the secret."""
    return hashlib.sha256(_ID + secret).digest()[:ID_LENGTH]


def prove(secret: bytes, guest: Hit, member: Hit) -> bytes:
    """What ``guest`` shows to ``member``."""
    return token_id(secret) + hmac.digest(secret, _PROOF + guest + member, "sha256")


def proves(proof: bytes, secret: bytes, guest: Hit, member: Hit) -> bool:
    """Whether that is what it shows."""
    return hmac.compare_digest(proof, prove(secret, guest, member))


def seal_welcome(secret: bytes, guest: Hit, member: Hit, text: bytes) -> bytes:
    """What proves to ``guest`` that ``member``, who knows the token, hands it this text."""
    return hmac.digest(secret, _WELCOME + member + guest + text, "sha256")


def mark_of(identifier: bytes, hit: Hit) -> bytes:
    """How members of the overlay with this id know ``hit`` for another one.

    It is no proof: the id of an overlay with a CA follows from what anybody may know. It keeps
    peers of different overlays on one LAN from telling each other who they are.
    """
    return hmac.digest(identifier, _MARK + hit, "sha256")[:MARK_LENGTH]


def has_mark(mark: bytes, identifier: bytes, hit: Hit) -> bool:
    """Whether what ``hit`` shows on a LAN has the mark of that overlay."""
    wanted = mark_of(identifier, hit)
    ends = range(MARK_LENGTH, MARK_LENGTH * MAX_MARKS + 1, MARK_LENGTH)
    return any(mark[end - MARK_LENGTH : end] == wanted for end in ends)


class Invited(NamedTuple):
    """What a proof has shown.

    Attributes:
        secret: of the token.
        overlay: id of the overlay that it invites to.
    """

    secret: bytes
    overlay: bytes


@dataclass(frozen=True, slots=True)
class Invitation:
    """One token that we have given away.

    Attributes:
        secret: its secret.
        overlay: 32 bytes, the overlay's id.
        expires: Unix seconds.
    """

    secret: bytes
    overlay: bytes
    expires: int


class InvitationBook:
    """The tokens of one peer, in a private file that commands write while it runs.

    Args:
        path: the file; a missing one is an empty book.

    Attributes:
        refused: how many proofs did not hold, by why.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[bytes, Invitation] = {}
        self._seen: tuple[int, int, int] | None = None
        self.refused: Counter[str] = Counter()

    def add(self, invitation: Invitation, wall: float) -> None:
        """Note one more, and forget what has expired; others may do so at the same time.

        Raises:
            ConfigError: there are too many, or the file cannot be read or written.
        """
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(self._path):
                self._add(invitation, wall)
        except OSError as error:
            raise ConfigError(f"{self._path}: cannot be written: {error.strerror}") from None

    def _add(self, invitation: Invitation, wall: float) -> None:
        try:
            held = [each for each in _read(self._path) if each.expires > wall]
        except CredentialsRefused as error:
            raise ConfigError(f"{error}; remove it") from None
        if len(held) >= MAX_INVITATIONS:
            raise ConfigError(
                f"{self._path}: {len(held)} invitations are open; wait, or remove it"
            )
        lines = ["# Who has one of these may join: keep them to yourself.", ""]
        for each in (*held, invitation):
            lines += [
                "[[invitation]]",
                f'token = "{write_token(each.secret)}"',
                f'overlay = "{each.overlay.hex()}"',
                f"expires = {each.expires}",
                "",
            ]
        replace_text(self._path, "\n".join(lines), 0o600)

    def check(self, proof: bytes, guest: Hit, member: Hit, wall: float) -> Invited | None:
        """Whether a proof holds, and what it invites to."""
        self._reload()
        found = self._known.get(proof[:ID_LENGTH])
        if len(proof) != PROOF_LENGTH:
            self.refused["missing" if not proof else "malformed"] += 1
        elif found is None:
            self.refused["unknown"] += 1
        elif found.expires <= wall:
            self.refused["expired"] += 1
        elif not proves(proof, found.secret, guest, member):
            self.refused["not of who shows it"] += 1
        else:
            return Invited(found.secret, found.overlay)
        return None

    def _reload(self) -> None:
        try:
            status = self._path.stat()
        except OSError:
            self._known, self._seen = {}, None
            return
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp != self._seen:
            self._seen = stamp
            try:
                self._known = {token_id(each.secret): each for each in _read(self._path)}
            except CredentialsRefused:
                self._known = {}


def _read(path: Path) -> list[Invitation]:
    """Read the file.

    Raises:
        CredentialsRefused: it is there, and no such file.
    """
    if not path.exists():
        return []
    try:
        entries = parse_toml(read_text(path)).get("invitation", [])
    except ValueError as error:
        raise CredentialsRefused(f"{path}: no TOML: {error}") from None
    found: list[Invitation] = []
    for entry in entries if isinstance(entries, list) else [None]:
        match entry:
            case {"token": str(token), "overlay": str(overlay), "expires": int(expires)}:
                pass
            case _:
                raise CredentialsRefused(f"{path}: no file of invitations")
        try:
            identifier = bytes.fromhex(overlay)
        except ValueError:
            identifier = b""
        if len(identifier) != OVERLAY_ID_LENGTH or len(found) >= MAX_INVITATIONS:
            raise CredentialsRefused(f"{path}: no file of invitations")
        found.append(Invitation(read_token(token), identifier, expires))
    return found
