"""Profiles: one TOML file, one frozen struct per table, no defaults hidden elsewhere."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from overlay.admission import Account, load_account
from overlay.constants import ALPHA, REPLICAS, K
from overlay.errors import ConfigError, CredentialsRefused
from overlay.overlayfile import OverlayInfo, Seed, load_overlay, parse_place, parse_seed
from overlay.textfile import parse_toml, read_text

S = TypeVar("S", bound=msgspec.Struct)

MAX_TABLES: Final = 32  # identities, and overlays, of one profile
MAX_LISTEN: Final = 8

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_TABLES: Final = ("peer", "host", "identity", "overlay")
_MISSING = re.compile(r"^Object missing required field `(.*?)`")
_UNKNOWN = re.compile(r"^Object contains unknown field `(.*?)`")
_WHERE = re.compile(r" - at `\$\.?(.*?)`$")


class PeerTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[peer]``: the process.

    Attributes:
        state: directory for the store, own records and the control socket.
        contacts: file of petnames and blocked AoRs.
        policy: entry point of ``p2psip.policies`` that judges who may ring.
    """

    state: Path = Path("state")
    contacts: Path = Path("contacts.toml")
    policy: str = "contacts"


class IdentityTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[identity.NAME]``: a HIT of this peer.

    Attributes:
        key: PEM file of mode 0600.
    """

    key: Path


class HostTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[host]``: the HIP host.

    Attributes:
        listen: ``address:port`` for UDP-encapsulated HIP, an IPv6 address in brackets; one or a
            list. At 0.0.0.0 and [::] the host goes wherever its machine goes.
        announce: ``address:port`` that contacts say in place of our own addresses, at most 4.
        private_addresses: contacts may hold private addresses.
        private_locators: whom we speak with may learn them, so that a call survives a move.
        port_mapping: where it listens everywhere, routers are asked to let callers in.
        visible: strangers who know our name may see our address, though relays make us callable,
            who would hide it; where there are none, rendezvous servers do.
        lan: whoever asks on our LAN who is there gets an answer, and we ask there ourselves while
            we know nobody; names of interfaces in place of true: only there.
        public_certificates: whoever asks is shown our certificates, and so who lives here; else
            only who has shown some.
        keylog: file for the secrets of every exchange: for debugging only.
    """

    listen: str | tuple[str, ...] = ("0.0.0.0:10500", "[::]:10500")
    announce: tuple[str, ...] = ()
    private_addresses: bool = False
    private_locators: bool = True
    port_mapping: bool = True
    visible: bool = False
    lan: bool | tuple[str, ...] = False
    public_certificates: bool = False
    keylog: Path | None = None

    @property
    def places(self) -> tuple[str, ...]:
        """All that ``listen`` says."""
        return (self.listen,) if isinstance(self.listen, str) else self.listen

    @property
    def lan_links(self) -> tuple[str, ...]:
        """The interfaces that ``lan`` names; empty: whichever leads to a LAN."""
        return () if isinstance(self.lan, bool) else self.lan

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (key, what is wrong with it)."""
        if self.lan == () or not all(0 < len(name) < 16 for name in self.lan_links):
            yield "lan", "must be true, false, or names of interfaces such as eth0"
        if not 0 < len(self.places) <= MAX_LISTEN:
            yield "listen", f"must be 1 to {MAX_LISTEN} texts address:port"
        for text in self.places:
            if parse_address(text) is None:
                yield "listen", f"{text!r} is no address:port"
        if len(self.announce) > 4 or not all(parse_address(text) for text in self.announce):
            yield "announce", "must be at most 4 texts address:port"


class OverlayTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[overlay.NAME]``: an overlay to join.

    Attributes:
        identity: name of an ``[identity.NAME]``.
        file: the overlay file.
        account: public credentials file, or None to take part without a name.
        seeds: ``HIT@host:port`` besides those in the overlay file.
        k: bucket size (Kademlia §2.2), 1–64.
        replicas: copies of a record, 1–k.
        alpha: requests of one lookup in flight (Kademlia §2.3), 1–k.
        services: name -> its own table, checked by the service.
    """

    identity: str
    file: Path
    account: Path | None = None
    seeds: tuple[str, ...] = ()
    k: int = K
    replicas: int = REPLICAS
    alpha: int = ALPHA
    services: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (key, what is wrong with it)."""
        if not 1 <= self.k <= 64:
            yield "k", f"must be between 1 and 64, not {self.k}"
        if not 1 <= self.replicas <= self.k:
            yield "replicas", f"must be between 1 and k ({self.k}), not {self.replicas}"
        if not 1 <= self.alpha <= self.k:
            yield "alpha", f"must be between 1 and k ({self.k}), not {self.alpha}"
        if len(self.seeds) > 64:
            yield "seeds", "must be at most 64"
        for text in self.seeds[:64]:
            try:
                parse_seed(text)
            except ValueError as error:
                yield "seeds", str(error)


class JoinedOverlay(msgspec.Struct, frozen=True, kw_only=True):
    """One overlay of a profile, with all that its files say.

    Attributes:
        name: its name in this profile.
        table: as in the profile.
        info: the overlay file.
        account: the account file, or None.
        seeds: those of the profile, then those of the overlay file.
    """

    name: str
    table: OverlayTable
    info: OverlayInfo
    account: Account | None
    seeds: tuple[Seed, ...]


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """A whole profile; relative paths in it are taken from its own folder.

    Attributes:
        path: the file.
        peer: ``[peer]``.
        host: ``[host]``.
        identities: name -> ``[identity.NAME]``, in the order of the file.
        overlays: name -> ``[overlay.NAME]``, in the order of the file; no two of one domain.
    """

    path: Path
    peer: PeerTable
    host: HostTable
    identities: dict[str, IdentityTable]
    overlays: dict[str, JoinedOverlay]


def parse_address(text: str) -> tuple[str, int] | None:
    """Read ``address:port`` (an IPv6 address in brackets), or return None."""
    try:
        host, port = parse_place(text)
    except ValueError:
        return None
    return None if port is None else (host, port)


def check_table(cls: type[S], table: Mapping[str, Any], path: str, base: Path | None = None) -> S:
    """Make a msgspec struct from a TOML table; services use it for their own tables too.

    A struct may have a method ``problems() -> Iterator[tuple[key, what]]`` for what types can't
    say. Fields of type Path are made relative to ``base``; ``~`` is the user's home.

    Args:
        cls: the struct.
        table: as TOML gave it.
        path: dotted path of the table, for messages.
        base: folder of the profile; None leaves relative paths as they are.

    Raises:
        ConfigError: a key is unknown, missing, of another type or out of range; the message starts
            with its dotted path.
    """
    try:
        made = msgspec.convert(table, cls, dec_hook=_to_path)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}{_explain(cls, str(error))}") from None
    problems = getattr(made, "problems", None)
    for key, what in problems() if problems is not None else ():
        raise ConfigError(f"{path}.{key}: {what}")
    if base is None:
        return made
    paths = {
        name: _under(base, value, f"{path}.{name}")
        for name in cls.__struct_fields__
        if isinstance(value := getattr(made, name), Path)
    }
    return msgspec.structs.replace(made, **paths)


def _under(base: Path, value: Path, path: str) -> Path:
    try:
        return base / value.expanduser()
    except RuntimeError:
        raise ConfigError(f"{path}: {value} names the home of nobody") from None


def _to_path(kind: type, value: Any) -> Any:
    if kind is not Path:
        raise NotImplementedError(f"no field of type {kind} in a TOML table")
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("must be the path of a file")
    return Path(value)


def _explain(cls: type[msgspec.Struct], text: str) -> str:
    """Turn msgspec's message into ``.key: what is wrong``."""
    found = _WHERE.search(text)
    where = f".{found[1]}" if found else ""
    text = text[: found.start()] if found else text
    if missing := _MISSING.match(text):
        return f"{where}.{missing[1]}: missing"
    if unknown := _UNKNOWN.match(text):
        known = ", ".join(sorted(cls.__struct_fields__))
        return f"{where}.{unknown[1]}: unknown key" + ("" if where else f"; known are {known}")
    return f"{where}: {text[:1].lower()}{text[1:]}"


def load_profile(path: Path, *, new_account: bool = False) -> Profile:
    """Read a profile, and the overlay and account files that it names.

    Key files are left to whoever starts the host.

    Args:
        path: the profile.
        new_account: an account file that isn't there counts as none: it will be made.

    Raises:
        ConfigError: the profile is wrong, or a file that it names; the message starts with the
            dotted path of the key.
    """
    try:
        document = parse_toml(read_text(path))
    except CredentialsRefused as error:
        raise ConfigError(str(error)) from None
    except ValueError as error:
        raise ConfigError(f"{path}: no TOML: {error}") from None
    for key in document:
        if key not in _TABLES:
            raise ConfigError(f"{key}: unknown key; known are {', '.join(_TABLES)}")
    base = path.parent
    identities = {
        name: check_table(IdentityTable, table, f"identity.{name}", base)
        for name, table in _named(document, "identity")
    }
    overlays: dict[str, JoinedOverlay] = {}
    for name, table in _named(document, "overlay"):
        overlays[name] = joined = _join(name, table, base, identities, new_account=new_account)
        for other in overlays.values():
            if other is not joined and other.info.domain == joined.info.domain:
                raise ConfigError(
                    f"overlay.{name}.file: has the domain {joined.info.domain}, as overlay."
                    f"{other.name} has: a peer can join only one of them"
                )
    return Profile(
        path=path,
        peer=check_table(PeerTable, _table(document, "peer"), "peer", base),
        host=check_table(HostTable, _table(document, "host"), "host", base),
        identities=identities,
        overlays=overlays,
    )


def _table(document: Mapping[str, Any], key: str, prefix: str = "") -> Mapping[str, Any]:
    table = document.get(key, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{prefix}{key}: must be a table")
    return table


def _named(document: Mapping[str, Any], key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    tables = _table(document, key)
    if not tables:
        raise ConfigError(f"{key}: missing; a profile needs at least one [{key}.NAME]")
    if len(tables) > MAX_TABLES:
        raise ConfigError(f"{key}: more than {MAX_TABLES}")
    for name, table in tables.items():
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{key}.{name!r}: a name has letters, digits, - and _")
        if not isinstance(table, dict):
            raise ConfigError(f"{key}.{name}: must be a table, as in [{key}.home]")
        yield name, table


def _join(
    name: str,
    raw: Mapping[str, Any],
    base: Path,
    identities: Mapping[str, IdentityTable],
    *,
    new_account: bool,
) -> JoinedOverlay:
    path = f"overlay.{name}"
    for service, own in _table(raw, "services", path + ".").items():
        if not isinstance(own, dict):  # msgspec would not say which
            raise ConfigError(f"{path}.services.{service}: must be a table")
    table = check_table(OverlayTable, raw, path, base)
    if table.identity not in identities:
        raise ConfigError(
            f"{path}.identity: no [identity.{table.identity}]; have {', '.join(identities)}"
        )
    try:
        info = load_overlay(table.file)
    except CredentialsRefused as error:
        raise ConfigError(f"{path}.file: {error}") from None
    missing = table.account is not None and not table.account.exists()
    if missing and not new_account:
        raise ConfigError(
            f"{path}.account: {table.account}: No such file; make it with: p2psip account restore"
        )
    try:
        account = None if table.account is None or missing else load_account(table.account)
    except CredentialsRefused as error:
        raise ConfigError(f"{path}.account: {error}") from None
    seeds = dict.fromkeys((*map(parse_seed, table.seeds), *info.seeds))
    return JoinedOverlay(name=name, table=table, info=info, account=account, seeds=tuple(seeds))
