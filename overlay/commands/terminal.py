"""What all subcommands share: where the profile is, how to print, how to read secrets."""

import json
import os
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from overlay.errors import ConfigError

if TYPE_CHECKING:
    from overlay.config import PeerTable

PROFILE_NAME: Final = "profile.toml"
PROFILE_VARIABLE: Final = "P2PSIP_PROFILE"
MAX_WORDS_INPUT: Final = 4096  # characters

ProfileOption = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        "-p",
        help="Profile, or the folder it is in. Default: $P2PSIP_PROFILE, else the user's own.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def default_folder() -> Path:
    """Where ``init`` puts a profile unless told otherwise."""
    from platformdirs import user_config_path

    return Path(user_config_path("p2psip"))


def profile_path(given: Path | None) -> Path:
    """The profile that is meant: a file, or ``profile.toml`` in a folder."""
    if given is None and (named := os.environ.get(PROFILE_VARIABLE)):
        given = Path(named)
    path = default_folder() if given is None else given
    return path / PROFILE_NAME if path.is_dir() or path.suffix != ".toml" else path


def existing_profile(given: Path | None) -> Path:
    """The profile that is meant, which must be there.

    Raises:
        ConfigError: it isn't.
    """
    path = profile_path(given)
    if not path.is_file():
        raise ConfigError(f"{path}: no profile there; make one with: p2psip init {path.parent}")
    return path


def peer_table(given: Path | None) -> "PeerTable":
    """Read the ``[peer]`` table of the profile that is meant, and nothing else of it.

    Raises:
        ConfigError: no profile, or the table is wrong.
    """
    from overlay.config import PeerTable, check_table

    path = existing_profile(given)
    try:
        document = tomllib.loads(path.read_bytes().decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: no TOML: {error}") from None
    table = document.get("peer", {})
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: peer: must be a table")
    return check_table(PeerTable, table, "peer", path.parent)


def emit(value: Any, lines: Iterable[str], *, as_json: bool) -> None:
    """Print ``value`` as one line of JSON, or else the lines."""
    if as_json:
        print(json.dumps(value, ensure_ascii=False))
    else:
        for line in lines:
            print(line)


def read_words(source: Path | None = None) -> str:
    """Read the 24 words: from a file, else from a terminal without showing them, else from stdin.

    Args:
        source: the file; None or ``-`` for the terminal or standard input.

    Raises:
        ConfigError: there was nothing to read.
    """
    if source is not None and str(source) != "-":
        with source.open(encoding="utf-8", errors="replace") as file:
            text = file.read(MAX_WORDS_INPUT)
    elif sys.stdin.isatty():
        import getpass

        text = getpass.getpass("the account's 24 words (not shown): ")
    else:
        text = sys.stdin.read(MAX_WORDS_INPUT)
    words = " ".join(text.split())
    if not words:
        raise ConfigError("no words came on standard input; type or pipe the account's 24 words")
    return words
