"""The user's petnames and block list: a TOML file beside the profile, read again when it changes.

blocked = ["sip:mallory@example.org"]

[names]
mum = "sip:alice@example.org"
"""

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from overlay.accounts import canonical_aor, why_nobodys
from overlay.errors import ConfigError, MalformedAor
from overlay.textfile import locked, parse_toml, replace_text

MAX_FILE: Final = 1_000_000  # bytes
MAX_NAME: Final = 64  # characters


class ContactBook:
    """The petnames of one user; implements overlay.services.Contacts.

    A missing file is an empty book. Another process may change the file (``p2psip contact`` does):
    every question looks at its modification time first. A file that became unreadable while we
    run keeps the last good content, and ``problem`` says why.

    Args:
        path: the file.

    Raises:
        ConfigError: the file is there and is no contact file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names: dict[str, tuple[str, str]] = {}  # name without case -> name, AoR
        self._aors: frozenset[str] = frozenset()
        self._blocked: frozenset[str] = frozenset()
        self._seen: tuple[int, int, int] | None = None
        self.problem: str | None = None
        self._read(self._stamp())

    def reload(self) -> None:
        """Read the file again if it changed."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        try:
            self._read(stamp)
        except ConfigError as error:
            self._seen, self.problem = stamp, str(error)

    def uri(self, name: str) -> str | None:
        """The canonical AoR behind a petname (compared without case), or None."""
        self.reload()
        found = self._names.get(name.casefold())
        return found[1] if found else None

    def names(self) -> dict[str, str]:
        """Every petname, as it was written, and its AoR."""
        self.reload()
        return dict(sorted(self._names.values()))

    def blocked(self) -> frozenset[str]:
        """The canonical AoRs on the block list."""
        self.reload()
        return self._blocked

    def knows(self, aor: str) -> bool:
        """Whether a canonical AoR has a petname."""
        self.reload()
        return aor in self._aors

    def add(self, name: str, uri: str, keys_only: Collection[str] = ()) -> str:
        """Add a petname, or point it elsewhere; return the canonical AoR.

        Args:
            name: the petname.
            uri: whose it is.
            keys_only: see ``why_nobodys``.

        Raises:
            ConfigError: the name or the URI cannot be used, or the file cannot be written.
        """
        name = _petname(name)
        aor = _somebodys(uri, keys_only)
        with self._changing():
            self._names[name.casefold()] = (name, aor)
        return aor

    def remove(self, name: str) -> None:
        """Remove a petname.

        Raises:
            ConfigError: there is none of that name, or the file cannot be written.
        """
        with self._changing():
            if self._names.pop(name.casefold(), None) is None:
                raise ConfigError(f"{name}: no such contact; list them with: p2psip contact list")

    def block(self, uri: str, keys_only: Collection[str] = ()) -> str:
        """Put an AoR (or the one behind a petname) on the block list; return it.

        Args:
            uri: the AoR, or the petname.
            keys_only: see ``why_nobodys``.

        Raises:
            ConfigError: no AoR, or the file cannot be written.
        """
        aor = self.uri(uri) or _somebodys(uri, keys_only)
        with self._changing():
            self._blocked |= {aor}
        return aor

    def unblock(self, uri: str) -> str:
        """Take an AoR off the block list; return it.

        Raises:
            ConfigError: it is not on it, or the file cannot be written.
        """
        aor = self.uri(uri) or _aor(uri)
        with self._changing():
            if aor not in self._blocked:
                raise ConfigError(f"{aor} is not blocked; see: p2psip contact list")
            self._blocked -= {aor}
        return aor

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Change what the file holds now, and nobody else meanwhile; then write it.

        Raises:
            ConfigError: it cannot be written, or read: what somebody mistyped there is not lost.
        """
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(self._path):
                self.reload()
                if self.problem is not None:
                    raise ConfigError(self.problem)
                yield
                self._write()
        except OSError as error:
            raise ConfigError(f"{self._path}: cannot be written: {error.strerror}") from None

    def _stamp(self) -> tuple[int, int, int] | None:
        """What changes when the file does; None where there is none."""
        try:
            stat = self._path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            return 0, 0, 0  # there, but out of reach: no reason to forget who is blocked
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _read(self, stamp: tuple[int, int, int] | None) -> None:
        names, blocked = _parse(self._path) if stamp else ({}, frozenset())
        self._names, self._blocked = names, blocked
        self._aors = frozenset(aor for _, aor in names.values())
        self._seen, self.problem = stamp, None

    def _write(self) -> None:
        """Replace the file in one step, so that a reader sees the old or the new one."""
        blocked = [f"    {toml_string(aor)}," for aor in sorted(self._blocked)]
        lines = ["blocked = [", *blocked, "]", "", "[names]"]
        lines += [
            f"{toml_string(n)} = {toml_string(aor)}" for n, aor in sorted(self._names.values())
        ]
        replace_file(self._path, "\n".join(lines) + "\n")
        self._read(self._stamp())


def replace_file(path: Path, text: str) -> None:
    """Write a private file (mode 0600) in one step: readers see the old text or the new one.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_text(path, text, 0o600)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None


def toml_string(text: str) -> str:
    """Quote a text as a TOML basic string: JSON's escapes, and one more."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")


def _parse(path: Path) -> tuple[dict[str, tuple[str, str]], frozenset[str]]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise ConfigError(f"{path}: longer than {MAX_FILE} bytes; no contact file")
        table: Mapping[str, Any] = parse_toml(data.decode())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: no TOML: {error}") from None
    if stray := sorted(table.keys() - {"blocked", "names"}):
        raise ConfigError(f"{path}: {stray[0]}: unknown key; known are blocked, names")
    blocked, names = table.get("blocked", []), table.get("names", {})
    if not isinstance(blocked, list) or not isinstance(names, dict):
        raise ConfigError(f"{path}: blocked is a list of URIs, names a table of name = URI")
    try:
        found = {n.casefold(): (_petname(n), _aor(uri)) for n, uri in names.items()}
        return found, frozenset(_aor(uri) for uri in blocked)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _petname(name: str) -> str:
    """Check a petname: what a client can dial as the user part of a URI."""
    if not 0 < len(name) <= MAX_NAME or not name.isprintable() or set(name) & set('@:;<>"? '):
        raise ConfigError(
            f"{name[:MAX_NAME]!r} cannot be dialled: a name has 1 to {MAX_NAME} characters, "
            'none of them a space or one of @:;<>"?'
        )
    return name


def _somebodys(uri: str, keys_only: Collection[str]) -> str:
    """Check what somebody has typed; what stands in the file already is left as it is."""
    aor = _aor(uri)
    if why := why_nobodys(aor, keys_only):
        raise ConfigError(f"{uri}: {why}")
    return aor


def _aor(uri: object) -> str:
    try:
        return canonical_aor(uri if isinstance(uri, str) else "")
    except MalformedAor as error:
        raise ConfigError(f"{uri!r}: {error}; write sip:user@domain") from None
