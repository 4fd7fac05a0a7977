"""The typer application: every subcommand but ``run``, and those that other packages add."""

import io
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Annotated

import typer

from hipctl import HipError
from overlay.commands import account, contact, init, overlays, running
from overlay.errors import OverlayError

GROUP = "p2psip.commands"
HELP = "--help"


def build(arguments: Sequence[str] = ()) -> typer.Typer:
    """Put the subcommands together.

    Args:
        arguments: those of this run: what other packages bring is imported only where it is
            called for, or listed.
    """
    app = typer.Typer(
        name="p2psip",
        help="Internet calls without servers: your SIP client registers at your own peer.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.command("init")(init.command)
    app.command("run", context_settings={"help_option_names": []})(_run)
    running.register(app)
    app.add_typer(account.app, name="account")
    app.add_typer(overlays.overlay_app, name="overlay")
    app.add_typer(overlays.ca_app, name="ca")
    app.add_typer(contact.app, name="contact")
    _add_installed(app, arguments[0] if arguments else HELP)
    return app


def main(arguments: Sequence[str]) -> int:
    """Run one subcommand and return its exit status; errors become one sentence on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that knows no block characters
            stream.reconfigure(errors="replace")
    try:
        build(arguments)(args=list(arguments), prog_name="p2psip")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except (OverlayError, HipError) as error:
        print(f"p2psip: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"p2psip: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    return 0


def _run(
    arguments: Annotated[list[str] | None, typer.Argument(help="See: p2psip run --help")] = None,
) -> None:
    """Run the peer of a profile until it is told to stop.

    Example: p2psip run ~/.config/p2psip
    """
    from overlay.commands import run  # main() comes here only when run isn't the first word

    raise typer.Exit(run.main(arguments or []))


def _add_installed(app: typer.Typer, wanted: str) -> None:
    """Add what other packages bring under the entry points ``p2psip.commands``."""
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        if wanted not in {point.name, HELP}:
            continue
        try:
            found = point.load()
        except (ImportError, AttributeError) as error:
            print(f"p2psip: {point.name}: this command is broken: {error}", file=sys.stderr)
            continue
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=point.name)
        else:
            app.command(point.name)(found)
