"""``p2psip netcheck``: what this network lets the running peer do, and what would help."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from overlay.commands.running import advice_lines, callable_lines, readable, server_lines
from overlay.commands.terminal import JsonOption, ProfileOption, emit, peer_table
from overlay.control import ask, control_path

TIMEOUT: Final = 60.0  # seconds: neighbours knock, and silence takes its time

NATS: Final[Mapping[str, str]] = {
    "unknown": "not known: at least two public peers must say where they see this one",
    "none": "none: others see this machine's own address",
    "endpoint-independent": "a NAT that shows everybody the same port (endpoint-independent)",
    "endpoint-dependent": "a NAT that shows each of them another port (endpoint-dependent)",
}


REACHED: Final = "reached"  # what a neighbour says that needed no router's help


def command(profile: ProfileOption = None, as_json: JsonOption = False) -> None:
    """Find out how this network lets others reach the running peer, and what would help.

    Asks other peers to knock at this one, and measures the way to its servers.

    Example: p2psip netcheck --json
    """
    value = ask(control_path(peer_table(profile).state), "netcheck", timeout=TIMEOUT)
    with readable():
        emit(value, netcheck_lines(value), as_json=as_json)


def netcheck_lines(value: Mapping[str, Any]) -> Iterator[str]:
    """The human form of a network check."""
    yield from callable_lines(value)
    for name, report in value["identities"].items():
        yield f"identity {name}: {report['hit']}"
        yield f"  NAT: {NATS.get(report['nat'], report['nat'])}"
        yield f"  addresses: {', '.join(report['addresses']) or 'none'}"
        for row in report["mapped"]:
            yield f"  mapped by the router: {row['address']} ({row['protocol']})"
        reached = any(row["result"] == REACHED for row in report["knocks"])
        yield from router_lines(report["routers"], needed=not reached)
        for row in report["reflexive"]:
            yield f"  seen at {row['address']} by {row['by']}"
        if not report["knocks"]:
            yield "  no other peer could be asked to knock"
        for row in report["knocks"]:
            yield f"  knock by {row['by']}: {row['result']}"
        yield from server_lines(report["servers"])
        if value["callable"] is not False:
            yield from advice_lines(report["problems"])


def router_lines(rows: Sequence[Mapping[str, Any]], *, needed: bool) -> Iterator[str]:
    """What each router said that was asked to map a port, and what would help.

    Args:
        rows: see hipctl.Reachability.
        needed: others don't reach this peer's own address without.
    """
    for row in rows:
        yield f"  router {row['router']}: {_said(row)}"
        if needed and "advice" in row:
            yield f"    do: {row['advice']}"


def _said(row: Mapping[str, Any]) -> str:
    if "external" in row:
        where = f"maps {row['external']} to {row['address']} by {row['protocol']}"
        left = f"{row['seconds_left']} s left"
        return f"{where}, {left}" + ("" if row["public"] else ", which others don't reach")
    failures = ", ".join(f"{protocol}: {why}" for protocol, why in row["failures"].items())
    failures = f" ({failures})" if failures else ""
    if row.get("asking"):
        return f"is asked to map a port to {row['address']}{failures}"
    return f"maps no port to {row['address']}{failures}"
