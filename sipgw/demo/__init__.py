"""``p2psip demo``: everything on one machine, with real SIP clients."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    seconds: Annotated[float, typer.Option(min=3, max=600, help="How long they talk.")] = 8.0,
    capture: Annotated[
        Path | None,
        typer.Option(help="Write all UDP on the loopback into this pcapng file (tshark, root)."),
    ] = None,
    client: Annotated[
        str, typer.Option(help="baresip, pjsua2 or baresip-python; the best one here if left out.")
    ] = "",
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the last line, a JSON object, and nothing else.")
    ] = False,
) -> None:
    """Five peers and two real SIP clients on this machine: they register, call, talk and write.

    Example: p2psip demo --seconds 20
    """
    try:
        from sipgw.demo.scenario import run  # noqa: PLC0415  numpy comes with an extra
    except ModuleNotFoundError as error:
        if error.name != "numpy":
            raise
        raise typer.BadParameter("numpy is missing; pip install 'hip-p2psip[demo]'") from None
    raise typer.Exit(run(seconds=seconds, capture=capture, client=client, as_json=json_output))
