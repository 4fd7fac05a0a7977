"""What is asked of the peer that runs: ``status``, ``resolve``, ``trace``, ``stop``."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer

from overlay.commands.terminal import JsonOption, ProfileOption, emit, peer_table
from overlay.control import ask, control_path
from overlay.errors import ConfigError
from overlay.trace import CallTrace, waterfall

MAX_ROWS = 20  # associations shown to people; --json has all
RESOLVE_TIMEOUT = 20.0  # seconds: a lookup in a net of which much is dead


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    for command in (status, resolve, trace, stop):
        app.command()(command)


def status(
    profile: ProfileOption = None,
    wait: Annotated[
        float, typer.Option(min=0, max=60, help="Seconds to wait until every overlay is joined.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Show what the running peer is doing.

    Example: p2psip status --json
    """
    path = control_path(peer_table(profile).state)
    value = ask(path, "status", timeout=10 + wait, wait=wait)
    with readable():
        emit(value, status_lines(value), as_json=as_json)


def resolve(
    aor: Annotated[str, typer.Argument(help="sip:user@domain or a contact", show_default=False)],
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask the overlay which devices answer for a name.

    Example: p2psip resolve sip:alice@example.org
    """
    path = control_path(peer_table(profile).state)
    value = ask(path, "resolve", timeout=RESOLVE_TIMEOUT, aor=aor)
    with readable():
        emit(value, resolve_lines(value), as_json=as_json)


def trace(
    call: Annotated[str, typer.Argument(help="Start of a Call-ID; all calls if left out")] = "",
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw recent calls as waterfalls: what happened when, and how long it took.

    Example: p2psip trace 3c26
    """
    value = ask(control_path(peer_table(profile).state), "trace", call=call)
    calls = value.get("calls", [])
    if call and not calls:
        raise ConfigError(f"no call whose name starts with {call!r}; list all with: p2psip trace")
    with readable():
        lines = [line for c in calls for line in (*waterfall(CallTrace.from_json(c)), "")]
    emit(value, lines or ["no calls yet"], as_json=as_json)


def stop(profile: ProfileOption = None, as_json: JsonOption = False) -> None:
    """Stop the running peer cleanly.

    Example: p2psip stop
    """
    emit(ask(control_path(peer_table(profile).state), "stop"), (), as_json=as_json)


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """Drawing what another version of the peer answers may fail in many ways: one sentence."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ConfigError(
            "the peer's answer cannot be read: is it another version? restart it, or see --json"
        ) from None


def status_lines(value: Mapping[str, Any]) -> Iterator[str]:
    """The human form of a status."""
    yield f"up {_span(value['uptime'])}, process {value['pid']}, profile {value['profile']}"
    yield from callable_lines(value)
    for name, identity in value["identities"].items():
        yield f"identity {name}: {identity['hit']} at {', '.join(identity['listen'])}"
        yield from server_lines(identity.get("servers", ()))
        if failures := identity.get("failures"):
            yield f"  unforeseen errors, see the log: {_plain(failures)}"
    for name, overlay in value["overlays"].items():
        state = "joined" if overlay["joined"] else "not joined yet, goes on trying"
        yield (
            f"overlay {name} ({overlay['domain']}, {overlay['admission']}): {state}, "
            f"{overlay['contacts']} neighbours, {overlay['records']} records held"
        )
        for aor in overlay["aors"]:
            yield f"  {aor}" + ("  published" if aor in overlay["published"] else "")
    for name, service in value["services"].items():
        rows = [(key, item) for key, item in service.items() if isinstance(item, list)]
        plain = {key: item for key, item in service.items() if not isinstance(item, list)}
        shown = "  ".join(f"{key}={_plain(item)}" for key, item in plain.items())
        yield f"service {name}: {shown}"
        for key, items in rows:
            yield from (f"  {key} {_plain(item)}" for item in items[:MAX_ROWS])
    yield from lan_lines(value.get("lan", {}))
    yield f"associations: {len(value['associations'])}"
    for row in value["associations"][:MAX_ROWS]:
        address, port = row["address"]
        yield (
            f"  {row['peer']} at {address} port {port}, "
            f"{row['sent']} packets sent, {row['received']} received"
        )
    busy = {key: count for key, count in value["counters"].items() if count}
    if busy:
        yield "counters: " + "  ".join(f"{key}={count}" for key, count in sorted(busy.items()))


def lan_lines(value: Mapping[str, Any]) -> Iterator[str]:
    """What happens on this peer's LANs; nothing where it does not answer there."""
    counts = [f"{key}={_plain(item)}" for key, item in value.items() if key != "absent"]
    if counts:
        yield "LAN: " + "  ".join(counts)
    if absent := value.get("absent"):
        yield f"  this machine has no interface {', '.join(absent)} now;"
        yield "    do: correct lan in [host] of the profile, if it will not come"


def callable_lines(value: Mapping[str, Any]) -> Iterator[str]:
    """Whether this peer can be called, and what is missing."""
    match value.get("callable"):
        case True:
            ways = {identity.get("reach") for identity in value["identities"].values()}
            yield f"you can be called {' and '.join(sorted(way for way in ways if way))}"
        case False:
            rows = [
                row for each in value.get("overlays", {}).values() for row in each["neighbours"]
            ]
            connected = {row["hit"] for row in rows if row["connected"]}
            yield "nobody can call you" + _but_for(len(connected))
            yield from advice_lines(value["why"])
        case _:
            yield "whether you can be called is not known yet"


def _but_for(connected: int) -> str:
    """Associations that are there carry calls, too, as long as they last."""
    if not connected:
        return ""
    peers = "the peer" if connected == 1 else f"the {connected} peers"
    return f", but for {peers} that this one is connected with now"


def advice_lines(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """What is missing, and what to do about it."""
    for row in rows:
        yield f"  {row['missing']};"
        yield f"    do: {row['do']}"


def server_lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Who makes this peer callable."""
    for row in rows:
        rtt = "no answer" if row["rtt_ms"] is None else f"{row['rtt_ms']:.1f} ms"
        yield f"  {' and '.join(row['for'])} {row['hit']}, {rtt}"
        for knock in row.get("knocks", ()):
            yield f"    knock through it by {knock['by']}: {knock['result']}"


def resolve_lines(value: Mapping[str, Any]) -> Iterator[str]:
    """The human form of what an AoR resolves to."""
    yield f"{value['aor']}: {len(value['targets'])} device(s), found in {value['ms']:.1f} ms"
    for target in value["targets"]:
        yield f"  {target['hit']} port {target['port']}, account {target['account']}"


def _span(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _plain(item: Any) -> str:
    if isinstance(item, Mapping):
        return "{" + " ".join(f"{key}={_plain(value)}" for key, value in item.items()) + "}"
    return str(item)
