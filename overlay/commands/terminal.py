"""What all subcommands share: where the profile is, how to print, how to read secrets."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from overlay.commands.run import profile_path
from overlay.errors import ConfigError

if TYPE_CHECKING:
    from overlay.config import PeerTable

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


def peer_table(given: Path | None) -> "PeerTable":
    """Read the ``[peer]`` table of the profile that is meant, and nothing else of it.

    Raises:
        ConfigError: no profile, or the table is wrong.
    """
    from overlay.config import PeerTable, check_table
    from overlay.textfile import parse_toml, read_text

    path = profile_path(given)
    try:
        document = parse_toml(read_text(path))
    except ValueError as error:
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
