"""The typer application: every subcommand but ``run``, and those that other packages add."""

import io
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Annotated, Any

import typer

from hipctl import HipError
from overlay.commands import account, contact, init, join, netcheck, overlays, running
from overlay.errors import OverlayError

GROUP = "p2psip.commands"
HELP = "--help"
EXTRA = "unexpected extra argument"
USAGE_ERROR: Any = typer.BadParameter.__mro__[2]  # ClickException; typer may bring its own click


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
    app.command("join")(join.command)
    app.command("run", context_settings={"help_option_names": []})(_run)
    running.register(app)
    app.command("netcheck")(netcheck.command)
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
        status = build(arguments)(args=list(arguments), prog_name="p2psip", standalone_mode=False)
    except USAGE_ERROR as error:
        error.show()
        if EXTRA in error.format_message():
            print("A profile is named with: -p PROFILE", file=sys.stderr)
        status = error.exit_code
    except typer.Abort:
        status = 130
    except SystemExit as end:
        status = end.code
    except (OverlayError, HipError) as error:
        status = _fail(str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        status = _fail(f"{where}{error.strerror or error}")
    return status if isinstance(status, int) else int(status is not None)


def _fail(sentence: str) -> int:
    print(f"p2psip: {sentence}", file=sys.stderr)
    return 1


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
