"""``p2psip join``: a fresh device joins an overlay on its LAN, by an invitation."""

import asyncio
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overlay.commands.init import DEFAULT_LISTEN, check_free, chosen_folder, lines_of, make
from overlay.commands.run import one_of
from overlay.commands.terminal import JsonOption, ProfileOption, emit, read_words
from overlay.errors import ConfigError

NO_NETWORK = "this machine has no network address: connect it to the LAN first, by cable or Wi-Fi"

if TYPE_CHECKING:
    from hipctl import HostIdentity
    from overlay.joining import Around


def command(
    token: Annotated[
        str, typer.Argument(help="The invitation; without one: show who is there.")
    ] = "",
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="Where to put the profile. Default: $P2PSIP_PROFILE, else the user's own.",
            show_default=False,
        ),
    ] = None,
    *,
    profile: ProfileOption = None,
    words: Annotated[
        Path | None,
        typer.Option(help="File with the 24 words of an account you have; - for standard input."),
    ] = None,
    sip: Annotated[str, typer.Option(help="address:port for the SIP client.")] = "127.0.0.1:5060",
    seconds: Annotated[float, typer.Option(min=0.2, max=30, help="How long to look.")] = 2.0,
    as_json: JsonOption = False,
) -> None:
    """Join an overlay on this LAN with an invitation: makes a profile that works at once.

    Who invites types: p2psip overlay invite --lan

    Example: p2psip join abcd-efgh-ijkl-mnop-qrst-uvwx
    """
    from hipctl import HostIdentity
    from overlay.invitations import read_token

    secret = read_token(token) if token else None
    target = chosen_folder(one_of(folder, profile))
    if secret is not None:
        check_free(target)
    device = HostIdentity.generate()
    around = asyncio.run(_look(device, secret, seconds))
    value = _to_json(around)
    if secret is None:
        emit(value, _found(value), as_json=as_json)
        return
    if around.info is None:
        raise ConfigError(_why(around))
    made = make(
        target,
        overlay=None,
        domain=around.info.domain,
        seeds=(),
        words=None if words is None else read_words(words),
        listen=DEFAULT_LISTEN,
        sip=sip,
        private=True,
        lan=True,
        device=device,
        info=around.info,
    )
    lines = [*_found(value), f"joined   {made.domain} in {value['ms']:.0f} ms", ""]
    emit({**value, **made.to_json()}, [*lines, *lines_of(made, sip)], as_json=as_json)


async def _look(device: "HostIdentity", secret: bytes | None, seconds: float) -> "Around":
    from hipctl import HostConfig, LocalHost
    from overlay.joining import look

    anywhere = (("0.0.0.0", 0), ("::", 0))  # noqa: S104
    config = HostConfig(listen=anywhere, port_mapping=False)
    async with LocalHost([device], config) as host:
        return await look(host, secret, seconds=seconds, rng=os.urandom, wall=time.time)


def _to_json(around: "Around") -> dict[str, Any]:
    from overlay.joining import domains

    return {
        "ms": round(around.seconds * 1000, 1),
        "network": around.network,
        "peers": [
            {
                "hit": str(peer.hit),
                "services": sorted(kind.name.lower() for kind in peer.services),
                "overlays": domains(peer),
            }
            for peer in around.peers
        ],
    }


def _found(value: Mapping[str, Any]) -> Iterator[str]:
    """Who is there, for people."""
    if not value["peers"]:
        yield "nobody answers on this LAN" if value["network"] else NO_NETWORK
    for row in value["peers"]:
        overlays = f" of {', '.join(row['overlays'])}" if row["overlays"] else ""
        services = ", ".join(row["services"]) or "nothing"
        yield f"found    {row['hit']}{overlays}, offers {services}"


def _why(around: "Around") -> str:
    from overlay.lobby import TOO_LONG

    if not around.peers and not around.network:
        return NO_NETWORK
    if not around.peers:
        return (
            "nobody answers on this LAN; the peer that invited you must run there, with the line "
            "lan = true in [host] of its profile"
        )
    reasons = ", ".join(dict.fromkeys(around.refusals.values())) or "none of them answers"
    if TOO_LONG in around.refusals.values():
        return (
            f"{TOO_LONG}; let who invites you pass on the file: p2psip overlay invite --at ADDRESS"
        )
    return f"who is on this LAN does not know the invitation: {reasons}"
