"""The laboratory by hand: builds an Internet, takes commands, and takes all down at the end.

make lab LAB="alice:symmetric bob,carol:port-restricted relay:public"
"""

import argparse
import cmd
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from net.lab_capture import Capture
from net.lab_internet import Internet
from net.lab_mapper import PROGRAM
from net.lab_namespaces import CommandFailed, missing
from net.lab_prober import Prober
from net.lab_routers import Kind

EXAMPLE = "alice:symmetric bob,carol:port-restricted dave:mapped:40:1 relay:public"
SERVERS = "echo1", "echo2"  # what measures
IMPOSSIBLE = 77  # exit status
FAILURES = (ValueError, KeyError, OSError, TimeoutError, CommandFailed)

_HELP = f"""\
Each argument is NAMES:KIND[:MILLISECONDS[:PERCENT]]: the hosts of one home, what its router does,
and the delay and the loss of its link, each way. "public" hosts have no router. Kinds:
{textwrap.fill(", ".join(Kind), 95)}.

example:
  make lab LAB="{EXAMPLE}"
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One argument.

    Attributes:
        names: the hosts.
        kind: of their home.
        latency: seconds.
        loss: a share.
    """

    names: tuple[str, ...]
    kind: Kind
    latency: float = 0.0
    loss: float = 0.0


def wanted(text: str) -> Wanted:
    """Read ``NAMES:KIND[:MILLISECONDS[:PERCENT]]``.

    Raises:
        ValueError: it isn't that.
    """
    names, kind, *link = text.split(":")
    found = tuple(names.split(","))
    if not all(name.isalnum() for name in found) or len(link) > 2:
        raise ValueError(text)
    latency, loss = [float(number) for number in [*link, "0", "0"][:2]]
    return Wanted(found, Kind(kind), latency / 1e3, loss / 1e2)


def build(net: Internet, topology: Sequence[Wanted]) -> None:
    """Make what is wanted, and two public hosts that measure."""
    for name in SERVERS:
        net.public(name)
    for place in topology:
        if place.kind is Kind.PUBLIC:
            links = place.names
            for name in place.names:
                net.public(name)
        else:
            home = f"{place.names[0]}.home"
            net.home(home, place.kind)
            links = (home,)
            for name in place.names:
                net.host(name, home)
        if place.latency or place.loss:
            for name in links:
                net.worsen(name, place.latency, place.loss)


class Console(cmd.Cmd):
    """What can be done by hand; each line's first word is a method."""

    prompt = "lab> "

    def __init__(self, net: Internet, capture: Capture) -> None:
        super().__init__()
        self._net, self._capture = net, capture

    def do_show(self, _: str) -> None:
        """show: who is there, and how to get in"""
        for name in self._net.names:
            places = ", ".join(
                f"{' '.join(addresses)} at {place}"
                for place, addresses in self._net.places(name).items()
            )
            kind = self._net.kind(name) if self._net.is_home(name) else ""
            self._say(f"  {name:<16}{kind:<22}{places}")
            self._say(f"  {'':<16}{shlex.join(self._net.inside(name))} bash")

    def do_shell(self, line: str) -> None:
        """shell NAME [COMMAND ...]: run a shell, or a command, in its namespace"""
        name, *command = shlex.split(line)
        command = command or [os.environ.get("SHELL", "/bin/sh")]
        env = {**os.environ, "HIPLAB": name}
        with _interrupts_are_the_childs():
            subprocess.run([*self._net.inside(name), *command], check=False, env=env)

    def do_measure(self, line: str) -> None:
        """measure HOST: what its NAT does, as two servers see it (RFC 5780)"""
        with contextlib.closing(Prober(self._net, SERVERS)) as prober:
            found = prober.measure(line)
        inner, outer = (f"{ip}:{port}" for ip, port in (found.inner, found.outer))
        self._say(f"  {inner} is seen as {outer}")
        self._say(f"  mapping: {found.mapping}, filtering: {found.filtering}")

    def do_move(self, line: str) -> None:
        """move HOST HOME [break]: to another home, or to the internet; "break" leaves first"""
        name, place, *first = line.split()
        self._net.move(name, place, *first)

    def do_cut(self, line: str) -> None:
        """cut NAME: its link loses everything"""
        self._net.cut(line)

    def do_mend(self, line: str) -> None:
        """mend NAME: undo a cut"""
        self._net.mend(line)

    def do_worsen(self, line: str) -> None:
        """worsen NAME MILLISECONDS [PERCENT]: delay and loss of its link, each way"""
        name, latency, *loss = line.split()
        self._net.worsen(name, float(latency) / 1e3, float(loss[0]) / 1e2 if loss else 0.0)

    def do_reboot(self, line: str) -> None:
        """reboot HOME: its router forgets all mappings"""
        self._net.reboot(line)

    def do_ladder(self, _: str) -> None:
        """ladder: the packets since the last time"""
        self._say(self._capture.draw())
        self._capture.clear()

    def do_quit(self, _: str) -> bool:
        """quit: take all down"""
        return True

    def onecmd(self, line: str) -> bool:
        """Do one line; a mistake ends nothing."""
        if line == "EOF":
            return True
        try:
            return bool(super().onecmd(line))
        except FAILURES as error:
            self._say(f"  {type(error).__name__}: {error}")
            return False

    def emptyline(self) -> bool:
        return False

    def _say(self, text: str) -> None:
        print(text, file=self.stdout, flush=True)


@contextlib.contextmanager
def _interrupts_are_the_childs() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, lambda *_: None)  # a child gets its default back
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def main() -> int:
    parser = argparse.ArgumentParser(
        "make lab",
        description=__doc__,
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("topology", nargs="*", type=wanted, metavar="NAMES:KIND")
    parser.add_argument("--ipv6", action="store_true", help="IPv6 beside IPv4")
    parser.add_argument("--shell", metavar="NAME", help="open a shell there; its end is all's end")
    given = parser.parse_args()
    programs = [PROGRAM] if any(x.kind is Kind.MAPPED for x in given.topology) else []
    if why := missing(*programs):
        print(f"no laboratory here: {why}", file=sys.stderr)  # noqa: T201
        return IMPOSSIBLE
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda *_: sys.exit(1))
    topology = given.topology or [wanted(text) for text in EXAMPLE.split()]
    with Internet((4, 6) if given.ipv6 else (4,)) as net:
        build(net, topology)
        with Capture(net) as capture:
            console = Console(net, capture)
            console.onecmd("show")
            with contextlib.suppress(KeyboardInterrupt):
                if given.shell:
                    console.onecmd(f"shell {given.shell}")
                else:
                    console.cmdloop('"help" lists the commands; Ctrl-D or "quit" takes all down')
    return 0


if __name__ == "__main__":
    sys.exit(main())
