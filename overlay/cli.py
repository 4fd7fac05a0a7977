"""``p2psip``: the command line. ``run`` goes its own, lean way; the rest is typer's.

Importing typer and rich costs memory that a peer would keep for as long as it runs, so nothing
here imports them before it is clear that the command isn't ``run``.
"""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the arguments say and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["run"]:
        from overlay.commands import run

        return run.main(arguments[1:])
    from overlay.commands import app

    return app.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
