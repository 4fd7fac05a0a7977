"""``hipctl status``, ``watch`` and ``close``: what is asked of a host that runs."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from hipctl.control import ask, runtime_folder
from hipctl.errors import ControlRefused, HipError, NotRunning

_CLEAR: Final = "\x1b[H\x1b[2J"  # the terminal, and its cursor goes home
_HINT: Final = (
    "start one with: hipctl listen, or name its socket with: --control PATH "
    "(hip.sock in the state folder of a p2psip peer)"
)

Control = Annotated[
    Path | None,
    typer.Option("--control", help="Control socket; found in your runtime folder if omitted."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command(epilog="Example: hipctl status --json")(status)
    app.command(epilog="Example: hipctl watch --interval 2")(watch)
    app.command(epilog="Example: hipctl close 2001:22:9f3a:1:2:3:4:5")(close)
    app.command(epilog="Example: hipctl access --deny 2001:22:9f3a:1:2:3:4:5")(access)


def status(control: Control = None, as_json: Json = False) -> None:
    """Show the associations of the host that runs: peers, states, addresses, packets, drops."""
    told = ask(_find(control), "status")
    _show(told, None, as_json=as_json)


def watch(
    control: Control = None,
    interval: Annotated[float, typer.Option(min=0.05, help="Seconds between two looks.")] = 1.0,
    count: Annotated[int, typer.Option(min=0, help="Looks; 0: until Ctrl-C.")] = 0,
    as_json: Json = False,
) -> None:
    """Show the same live, with packets a second; ends with Ctrl-C or with the host."""
    path = _find(control)
    before: dict[str, Any] | None = None
    looks = 0
    try:
        while True:
            told = ask(path, "status") | {"at": time.monotonic()}
            if not as_json and sys.stdout.isatty():
                print(_CLEAR, end="")
            _show(told, before, as_json=as_json)
            before = told
            looks += 1
            if looks == count:
                return
            time.sleep(interval)
    except KeyboardInterrupt:
        return


def close(
    hit: Annotated[str, typer.Argument(help="The peer's HIT.", show_default=False)],
    forget: Annotated[
        bool, typer.Option("--forget", help="Forget where it was, too: go by its contact.")
    ] = False,
    control: Control = None,
    as_json: Json = False,
) -> None:
    """Close the associations of the host that runs with one peer (RFC 7401 §6.14)."""
    told = ask(_find(control), "close", hit=hit, forget=forget)
    print(json.dumps(told) if as_json else f"closed: {told.get('peer')}", flush=True)


def access(
    allow: Annotated[
        list[str] | None, typer.Option(help="Only these HITs may associate with the host.")
    ] = None,
    deny: Annotated[list[str] | None, typer.Option(help="These HITs may not.")] = None,
    anybody: Annotated[bool, typer.Option("--anybody", help="Remove both lists.")] = False,
    control: Control = None,
    as_json: Json = False,
) -> None:
    """Show or replace the lists of HITs that may, or may not, associate with the host that runs.

    Replacing one list replaces both, until the host ends. Who may not any more is closed, and
    gets no answer from then on. Deny beats allow.
    """
    if allow or deny or anybody:
        told = ask(_find(control), "access", allow=allow or None, deny=deny or [])
    else:
        told = ask(_find(control), "access")
    if as_json:
        print(json.dumps(told), flush=True)
        return
    allowed = told.get("allow")
    print(f"allowed: {'anybody' if allowed is None else ', '.join(allowed) or 'nobody'}")
    print(f"denied: {', '.join(told.get('deny', [])) or 'nobody'}", flush=True)


def _find(control: Path | None) -> Path:
    """The socket that is meant.

    Raises:
        NotRunning: there is none; or there are several, and none was chosen.
    """
    if control is not None:
        return control
    alive = []
    for path in sorted(runtime_folder("hipctl").glob("*.sock")):
        try:
            ask(path, "status", timeout=2.0)
        except HipError:
            continue
        alive.append(path)
    if not alive:
        raise NotRunning(f"no host runs; {_HINT}")
    if len(alive) > 1:
        listed = ", ".join(map(str, alive))
        raise NotRunning(f"several hosts run; choose one with --control: {listed}")
    return alive[0]


def _show(told: Mapping[str, Any], before: Mapping[str, Any] | None, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({key: value for key, value in told.items() if key != "at"}), flush=True)
        return
    try:
        lines = list(status_lines(told, before))
    except (AttributeError, KeyError, TypeError, ValueError, IndexError):
        raise ControlRefused(
            "the host's answer cannot be read: is it another version? See --json"
        ) from None
    print("\n".join(lines), flush=True)


def status_lines(told: Mapping[str, Any], before: Mapping[str, Any] | None) -> Iterator[str]:
    """The human form of a status.

    Args:
        told: the answer.
        before: an earlier one, both with ``at`` in seconds: then packets a second are shown.
    """
    rows = told["associations"]
    where = ", ".join(_place(address) for address in told["listen"])
    yield f"{', '.join(told['hits'])} on UDP {where}, process {told['pid']}"
    yield f"puzzles of {told['puzzle_k']} bits; associations: {len(rows)}"
    earlier = {_key(row): row for row in before["associations"]} if before else {}
    for row in rows:
        yield ""
        yield f"{row['peer']}  {row['state']} for {_span(row['age'])} at {_place(row['address'])}"
        if "sent" not in row:
            continue
        seconds = told["at"] - before["at"] if before else 0.0
        old = earlier.get(_key(row), {})
        heard = f"last heard {_span(row['heard'])} ago"
        yield (
            f"  {_packets('sent', row, old, seconds)}, "
            f"{_packets('received', row, old, seconds)}, {heard}"
        )
        yield f"  {'  '.join(f'{what} {name}' for what, name in row['transforms'].items())}"
        if len(row["locators"]) > 1:
            known = (
                f"{_place(one['address'])} {one['status'].lower()}"
                + (" preferred" if one["preferred"] else "")
                for one in row["locators"]
            )
            yield f"  addresses: {', '.join(known)}"
        if row["drops"]:
            yield f"  dropped: {_counts(row['drops'])}"
    if any(told["counters"].values()):
        yield ""
        yield f"counters: {_counts(told['counters'])}"


def _key(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["local"], row["peer"]


def _packets(what: str, row: Mapping[str, Any], old: Mapping[str, Any], seconds: float) -> str:
    rate = ""
    if seconds > 0 and what in old:
        rate = f" ({max(row[what] - old[what], 0) / seconds:.0f}/s)"
    return f"{row[what]} packets {what}{rate}"


def _counts(counters: Mapping[str, int]) -> str:
    return "  ".join(f"{why}={count}" for why, count in sorted(counters.items()) if count)


def _place(address: tuple[str, int]) -> str:
    ip, port = address
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _span(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
