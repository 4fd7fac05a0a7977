"""An overlay is a file: its id, domain, admission, the keys of its CA, and seeds."""

import hashlib
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from hipctl import (
    Hit,
    HostId,
    HostIdentity,
    MalformedPacket,
    Rejected,
    host_id_of_spki,
    issue_certificate,
    read_self_signed,
    spki_of,
)
from overlay.accounts import canonical_domain
from overlay.constants import (
    CA_CONTEXT,
    CLOCK_TOLERANCE,
    DAY,
    OVERLAY_CONTEXT,
    OVERLAY_ID_LENGTH,
)
from overlay.errors import CredentialsRefused, MalformedAor
from overlay.textfile import from_base64, parse_toml, read_text, to_base64, write_text

Admission = Literal["open", "enrolled"]

HIP_PORT: Final = 10500  # RFC 9028 §5.1
MAX_CA_KEYS: Final = 16
MAX_SEEDS: Final = 64

MAX_HOST: Final = 253  # characters, RFC 1035 §2.3.4

_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)
_KEYS: Final = frozenset({"id", "domain", "admission", "ca", "seeds", "certificate"})
_CERTIFIED: Final = 3650 * DAY  # how long a CA says of itself whose it is


class Seed(NamedTuple):
    """A peer to join through: ``HIT@host:port``."""

    hit: Hit
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.hit}@{host}:{self.port}"


def parse_place(text: str) -> tuple[str, int | None]:
    """Read ``host:port``: a host name or an address (IPv6 in brackets), a port or None.

    Raises:
        ValueError: it is none; the message says why.
    """
    if text.count(":") > 1 and _is_ipv6(text):
        raise ValueError(f"{text!r}: an IPv6 address stands in brackets")
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket:
            raise ValueError(f"{text!r}: a bracket is not closed")
        colon, port = rest[:1], rest[1:]
        good = _is_ipv6(host)
    else:
        host, colon, port = text.partition(":")
        labels = host.removesuffix(".").split(".")
        good = len(host) <= MAX_HOST and all(map(_LABEL.fullmatch, labels))
    if not good:
        raise ValueError(f"{text!r} has no host")
    if not colon and not port:
        return host, None
    if colon != ":" or not (port.isascii() and port.isdigit() and len(port) <= 5):
        raise ValueError(f"{text!r}: a port is between 1 and 65535")
    if int(port) > 65_535:
        raise ValueError(f"{text!r}: a port is between 1 and 65535")
    return host, int(port)


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return text.isascii() and text.isprintable()


def parse_seed(text: str) -> Seed:
    """Read ``HIT@host:port`` (an IPv6 address in brackets; the port may be left out: 10500).

    Raises:
        ValueError: it is none; the message says why.
    """
    name, at, place = text.partition("@")
    if not at:
        raise ValueError(f"{text!r} is no HIT@host:port")
    hit = Hit.parse(name)
    host, port = parse_place(place)
    if port == 0:
        raise ValueError(f"{text!r}: a port is between 1 and 65535")
    return Seed(hit, host, HIP_PORT if port is None else port)


@dataclass(frozen=True)
class OverlayInfo:
    """An overlay, as all its members know it.

    Attributes:
        id: 32 bytes.
        domain: host part of its AoRs, lower case.
        admission: ``open``, or ``enrolled``: only who shows a certificate of the CA gets in.
        ca: keys of the CA, the founding one first; empty without a CA.
        seeds: peers to join through.
        successions: for each later CA key r‖s by the one before it.
        certificate: what a LAN is shown: DER by the CA, of itself and the domain; or empty.
    """

    id: bytes
    domain: str
    admission: Admission
    ca: tuple[HostId, ...] = ()
    seeds: tuple[Seed, ...] = ()
    successions: tuple[bytes, ...] = ()
    certificate: bytes = b""

    @cached_property
    def ca_digest(self) -> bytes:
        """SHA-256 of the CA's keys: what a verified certificate was verified against."""
        return hashlib.sha256(b"".join(key.hit for key in self.ca)).digest()


def overlay_id(founding: HostId, domain: str) -> bytes:
    """Return the id of an overlay with a CA: 32 bytes."""
    return hashlib.sha256(OVERLAY_CONTEXT + spki_of(founding) + domain.encode()).digest()


def found_overlay(
    domain: str,
    *,
    ca: HostId | None = None,
    admission: Admission = "open",
    seeds: tuple[Seed, ...] = (),
    rng: Callable[[int], bytes],
) -> OverlayInfo:
    """Make a new overlay; its id is random without a CA.

    Raises:
        MalformedAor: the domain is none.
        CredentialsRefused: enrolled without a CA.
    """
    domain = canonical_domain(domain)
    if ca is None:
        if admission == "enrolled":
            raise CredentialsRefused("an enrolled overlay needs a CA")
        return OverlayInfo(rng(OVERLAY_ID_LENGTH), domain, admission, (), seeds)
    return OverlayInfo(overlay_id(ca, domain), domain, admission, (ca,), seeds)


def certify_overlay(
    info: OverlayInfo, ca: HostIdentity, wall: float, rng: Callable[[int], bytes]
) -> OverlayInfo:
    """Let the CA certify its own key and the overlay's domain: what strangers may be shown.

    Raises:
        CredentialsRefused: ``ca`` is no key of the overlay's CA.
    """
    if all(key.hit != ca.hit for key in info.ca):
        raise CredentialsRefused("the key is not one of the overlay's CA")
    der = issue_certificate(
        ca,
        ca.host_id,
        [f"sip:{info.domain}"],
        not_before=int(wall) - CLOCK_TOLERANCE,
        not_after=int(wall) + _CERTIFIED,
        serial=rng(8),
    )
    return replace(info, certificate=der)


def read_overlay_certificate(der: bytes) -> tuple[str, HostId]:
    """Read what is shown of an overlay; anybody may have made it.

    Returns:
        The domain, and the CA's key.

    Raises:
        MalformedPacket: it is no certificate of this profile.
        Rejected: its subject has not signed it, or it names no domain.
    """
    certified = read_self_signed(der)
    for uri in certified.uris:
        if uri.startswith("sip:") and "@" not in uri:
            try:
                return canonical_domain(uri[4:]), certified.host_id
            except MalformedAor:
                break
    raise Rejected("certificate without a domain")


def _succession(info_id: bytes, new: HostId) -> bytes:
    """What an old CA key signs to name the next one."""
    return CA_CONTEXT + info_id + spki_of(new)


def succeed_ca(info: OverlayInfo, old: HostIdentity, new: HostId) -> OverlayInfo:
    """Let the newest CA key name its successor; certificates of the old one stay good.

    Raises:
        CredentialsRefused: ``old`` isn't the newest CA key, or the chain is full.
    """
    if not info.ca or info.ca[-1].hit != old.hit:
        raise CredentialsRefused("only the overlay's newest CA key can name the next one")
    if len(info.ca) >= MAX_CA_KEYS:
        raise CredentialsRefused(f"an overlay has at most {MAX_CA_KEYS} CA keys")
    return replace(
        info,
        ca=(*info.ca, new),
        successions=(*info.successions, old.sign(_succession(info.id, new))),
    )


# --- text -------------------------------------------------------------------------------------


def parse_overlay(text: str) -> OverlayInfo:
    """Read the TOML of an overlay file.

    Raises:
        CredentialsRefused: it is none; the message starts with the key.
    """
    try:
        table = parse_toml(text)
    except ValueError as error:
        raise CredentialsRefused(f"no TOML: {error}") from None
    if stray := sorted(table.keys() - _KEYS):
        raise CredentialsRefused(f"{stray[0]}: unknown key; known are {', '.join(sorted(_KEYS))}")
    domain, admission = _domain(table), table.get("admission", "open")
    if admission not in ("open", "enrolled"):
        raise CredentialsRefused("admission: must be 'open' or 'enrolled'")
    identifier = _hex_id(table)
    ca, successions = _read_chain(identifier, _tables(table, "ca", MAX_CA_KEYS))
    if ca and overlay_id(ca[0], domain) != identifier:
        raise CredentialsRefused("id: is not that of this CA and domain")
    if admission == "enrolled" and not ca:
        raise CredentialsRefused("ca: missing; an enrolled overlay needs one")
    certificate = _certificate(table, ca, domain)
    return OverlayInfo(identifier, domain, admission, ca, _seeds(table), successions, certificate)


def _certificate(table: dict[str, Any], ca: tuple[HostId, ...], domain: str) -> bytes:
    if "certificate" not in table:
        return b""
    try:
        der = from_base64(table["certificate"])
        named, key = read_overlay_certificate(der)
    except (ValueError, MalformedPacket, Rejected) as error:
        raise CredentialsRefused(f"certificate: {error}") from None
    if named != domain or key not in ca:
        raise CredentialsRefused("certificate: is not of this CA and domain")
    return der


def _domain(table: dict[str, Any]) -> str:
    domain = table.get("domain")
    if not isinstance(domain, str):
        raise CredentialsRefused("domain: missing, or no text")
    try:
        return canonical_domain(domain)
    except MalformedAor as error:
        raise CredentialsRefused(f"domain: {error}") from None


def _hex_id(table: dict[str, Any]) -> bytes:
    text = table.get("id")
    try:
        raw = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        raw = b""
    if len(raw) != OVERLAY_ID_LENGTH:
        raise CredentialsRefused(f"id: must be {OVERLAY_ID_LENGTH} bytes in hexadecimal")
    return raw


def _tables(table: dict[str, Any], key: str, limit: int) -> list[Any]:
    values = table.get(key, [])
    if not isinstance(values, list) or len(values) > limit:
        raise CredentialsRefused(f"{key}: must be a list of at most {limit}")
    return values


def _seeds(table: dict[str, Any]) -> tuple[Seed, ...]:
    seeds = []
    for text in _tables(table, "seeds", MAX_SEEDS):
        try:
            seeds.append(parse_seed(str(text)))
        except ValueError as error:
            raise CredentialsRefused(f"seeds: {error}") from None
    return tuple(seeds)


def _read_chain(
    identifier: bytes, entries: list[Any]
) -> tuple[tuple[HostId, ...], tuple[bytes, ...]]:
    keys: list[HostId] = []
    successions: list[bytes] = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or entry.keys() - {"key", "signed"}:
            raise CredentialsRefused(f"ca[{number}]: must have 'key', and 'signed' but for [0]")
        try:
            key = host_id_of_spki(from_base64(entry.get("key")))
        except (ValueError, MalformedPacket):
            raise CredentialsRefused(f"ca[{number}].key: no public key in base64") from None
        if keys:
            try:
                signature = from_base64(entry.get("signed"))
            except ValueError:
                raise CredentialsRefused(f"ca[{number}].signed: no base64") from None
            if not keys[-1].verify(signature, _succession(identifier, key)):
                raise CredentialsRefused(f"ca[{number}].signed: not by the key before")
            successions.append(signature)
        keys.append(key)
    return tuple(keys), tuple(successions)


def format_overlay(info: OverlayInfo) -> str:
    """Write the TOML of an overlay file."""
    lines = [
        "# An overlay: give this file to everyone who shall join. Nothing in it is secret.",
        f'id = "{info.id.hex()}"',
        f'domain = "{info.domain}"',
        f'admission = "{info.admission}"',
        "seeds = [" + ", ".join(f'"{seed}"' for seed in info.seeds) + "]",
    ]
    if info.certificate:
        lines.append(f'certificate = "{to_base64(info.certificate)}"')
    for number, key in enumerate(info.ca):
        lines += ["", "[[ca]]", f"# {key.hit}", f'key = "{to_base64(spki_of(key))}"']
        if number:
            lines.append(f'signed = "{to_base64(info.successions[number - 1])}"')
    return "\n".join(lines) + "\n"


# --- files ------------------------------------------------------------------------------------


def load_overlay(path: Path) -> OverlayInfo:
    """Read an overlay file.

    Raises:
        CredentialsRefused: it is missing or wrong; the message starts with the path.
    """
    text = read_text(path)
    try:
        return parse_overlay(text)
    except CredentialsRefused as error:
        raise CredentialsRefused(f"{path}: {error}") from None


def save_overlay(info: OverlayInfo, path: Path) -> None:
    """Write an overlay file, replacing it as a whole.

    Raises:
        CredentialsRefused: it cannot be written.
    """
    write_text(path, format_overlay(info))
