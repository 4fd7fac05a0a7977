"""``p2psip run``: the peer itself. Nothing here may import typer: it would stay in memory."""

import argparse
import asyncio
import gc
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import uvloop

from hipctl import HipError
from overlay.errors import ConfigError, OverlayError

_log = logging.getLogger("p2psip")

PROFILE_NAME: Final = "profile.toml"
OPEN_FILES: Final = 65_536  # as far as the system lets us
START_LIMIT: Final = 30.0  # seconds: a service that does not come up must not hang the user
EXAMPLE: Final = """\
Example: p2psip run ~/.config/p2psip

Prints a line "ready" once SIP clients can register; SIGTERM or p2psip stop ends it. Joining the
overlay goes on behind and is retried for ever: see p2psip status.
"""


def main(argv: Sequence[str]) -> int:
    """Run the peer of a profile and return the exit status."""
    options = _parser().parse_args(argv)
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    _allow_many_sockets()
    try:
        path = profile_path(one_of(options.profile, options.profile_option))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(path, as_json=options.json, keylog=options.keylog))
    except (OverlayError, HipError) as error:
        return _fail(str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}")
    except KeyboardInterrupt:  # before the signal handler stood
        return 130
    return 0


def _allow_many_sockets() -> None:
    """Raise the soft limit of open files: each call's media takes several sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def profile_path(given: Path | None) -> Path:
    """The profile that is meant: a file, or ``profile.toml`` in a folder.

    Raises:
        ConfigError: there is none.
    """
    if given is None:
        named = os.environ.get("P2PSIP_PROFILE")
        given = Path(named) if named else user_folder()
    is_folder = not given.is_file() and (given.is_dir() or given.suffix != ".toml")
    path = given / PROFILE_NAME if is_folder else given
    if not path.is_file():
        raise ConfigError(
            f"{path}: no profile there; make one with: p2psip init {path.parent}, or name "
            "another one with: -p PROFILE"
        )
    return path


def one_of(positional: Path | None, option: Path | None) -> Path | None:
    """The profile that was named, by either way.

    Raises:
        ConfigError: both ways, and not the same.
    """
    if positional is not None and option is not None and positional != option:
        raise ConfigError(f"a profile was named twice: {positional} and -p {option}")
    return positional or option


async def _run(path: Path, *, as_json: bool, keylog: Path | None) -> None:
    from hipctl import ControlServer as HipControlServer
    from hipctl import HostControl, LocalHost
    from overlay.config import load_profile
    from overlay.control import ControlServer, control_path, hip_control_path
    from overlay.peer import LocalPeer

    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stopping.set)
    profile = load_profile(path)
    async with AsyncExitStack() as stack:
        peer = LocalPeer(profile, keylog=keylog, stop=stopping.set)
        control = ControlServer(control_path(profile.peer.state), peer.answer)
        await stack.enter_async_context(control)  # first: it tells whether another peer runs
        started = await _unless_stopped(stack.enter_async_context(peer), stopping)
        if not started:
            return
        if isinstance(peer.host, LocalHost):
            state = profile.peer.state
            hip = HipControlServer(hip_control_path(state), HostControl(peer.host).answer)
            await stack.enter_async_context(hip)
        gc.collect()
        gc.freeze()  # what lives from the start is never looked at again
        _say({"event": "ready", **peer.summary()}, as_json=as_json)
        await stopping.wait()
        _log.info("stopping")
    if as_json:
        _say({"event": "stopped"}, as_json=True)


async def _unless_stopped(starting: Any, stopping: asyncio.Event) -> bool:
    """Wait for the start, or for a signal that comes first; say whether it started."""
    start = asyncio.ensure_future(starting)
    stop = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({start, stop}, timeout=START_LIMIT, return_when="FIRST_COMPLETED")
        if start.done():
            await start
            return True
        if not stopping.is_set():
            raise ConfigError(f"the peer did not start within {START_LIMIT:g} s; see -v")
        return False
    finally:
        for task in (start, stop):
            task.cancel()
        await asyncio.wait({start, stop})


def _say(event: dict[str, Any], *, as_json: bool) -> None:
    try:
        print(json.dumps(event) if as_json else event["event"], flush=True)
    except BrokenPipeError:  # whoever started us does not listen: no reason to stop
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(sentence: str) -> int:
    print(f"p2psip: {sentence}", file=sys.stderr)
    return 1


def user_folder() -> Path:
    """Where the user's own profile is unless told otherwise."""
    from platformdirs import user_config_path

    return Path(user_config_path("p2psip"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="p2psip run",
        description="Run the peer of a profile until it is told to stop.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "profile",
        nargs="?",
        type=Path,
        help="profile, or the folder it is in; default: $P2PSIP_PROFILE, else the user's own",
    )
    parser.add_argument(
        "-p",
        "--profile",
        dest="profile_option",
        type=Path,
        metavar="PROFILE",
        help="the same, as for every other command",
    )
    parser.add_argument("--json", action="store_true", help="print events as JSON lines")
    parser.add_argument("-v", "--verbose", action="store_true", help="log what happens to stderr")
    parser.add_argument(
        "--keylog", type=Path, metavar="FILE", help="for debugging: write every association's keys"
    )
    return parser
