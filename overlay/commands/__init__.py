"""The subcommands of ``p2psip``, a room each. Only they import typer, and only they print."""
