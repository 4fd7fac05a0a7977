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
from math import nan

from net.lab_capture import Capture
from net.lab_internet import INTERNET, Internet
from net.lab_mapper import PROGRAM
from net.lab_namespaces import CommandFailed, missing
from net.lab_prober import Prober
from net.lab_routers import HOSTS, Kind

EXAMPLE = "alice:symmetric bob,carol:port-restricted dave:mapped:40:1 relay:public"
SERVERS = "echo1", "echo2"  # what measures
MOST_MILLISECONDS = 60_000
IMPOSSIBLE = 77  # exit status
FAILURES = (ValueError, KeyError, OSError, TimeoutError, CommandFailed)

FORM = "NAMES:KIND[:MILLISECONDS[:PERCENT]]"
KINDS = textwrap.fill(", ".join(Kind), 95, break_on_hyphens=False)
_HELP = f"""\
Each argument is {FORM}: the hosts of one home, what its router does,
and the delay and the loss of its link, each way. "public" hosts have no router. Kinds:
{KINDS}.

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
        ValueError: it isn't that; says why.
    """
    names, _, rest = text.partition(":")
    kind, *link = rest.split(":")
    if not rest or len(link) > 2:
        raise ValueError(f"{text!r} is not of the form {FORM}")
    found = tuple(names.split(","))
    for name in found:
        if not (name.isascii() and name.isalnum()):
            raise ValueError(f"{name!r} in {text!r} is no name: letters and digits only")
    if kind not in set(Kind):
        raise ValueError(f"{kind!r} in {text!r} is no kind of home; there are: {', '.join(Kind)}")
    latency, loss = quality(*link)
    return Wanted(found, Kind(kind), latency, loss)


def quality(latency: str = "0", loss: str = "0") -> tuple[float, float]:
    """Read milliseconds and percent: seconds, and a share.

    Raises:
        ValueError: it isn't that; says why.
    """
    found = []
    for text, most, unit in ((latency, MOST_MILLISECONDS, "milliseconds"), (loss, 100, "percent")):
        try:
            number = float(text)
        except ValueError:
            number = nan
        if not 0 <= number <= most:
            raise ValueError(f"{text!r} is no number of {unit} from 0 to {most}")
        found.append(number)
    return found[0] / 1e3, found[1] / 1e2


def check(topology: Sequence[Wanted], *, ipv6_only: bool = False) -> None:
    """Whether all of it can be made together.

    Raises:
        ValueError: it can't; says why.
    """
    seen = set(SERVERS)
    for place in topology:
        for name in place.names:
            if name in {*SERVERS, INTERNET}:
                raise ValueError(f"{name} is what the laboratory has itself: take another name")
            if name in seen:
                raise ValueError(f"{name} is there twice: a host is at one place")
            seen.add(name)
        if ipv6_only and place.kind is Kind.MAPPED:
            raise ValueError("a home of kind mapped needs IPv4: its router maps IPv4 ports")
        if len(place.names) > HOSTS and place.kind is not Kind.PUBLIC:
            raise ValueError(f"{len(place.names)} hosts in one home are too many: {HOSTS} at most")


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
        name, *command = shlex.split(line) or [""]
        self._known(name)
        command = command or [os.environ.get("SHELL", "/bin/sh")]
        env = {**os.environ, "HIPLAB": name}
        with _interrupts_are_the_childs():
            subprocess.run([*self._net.inside(name), *command], check=False, env=env)

    def do_measure(self, line: str) -> None:
        """measure HOST: what its NAT does, as two servers see it (RFC 5780)"""
        self._known(line, host=True)
        version = 4 if any("." in address for address in self._net.owners()) else 6
        with contextlib.closing(Prober(self._net, SERVERS, version)) as prober:
            found = prober.measure(line)
        inner, outer = (
            f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
            for ip, port in (found.inner, found.outer)
        )
        self._say(f"  {inner} is seen as {outer}")
        self._say(f"  mapping: {found.mapping}, filtering: {found.filtering}")

    def do_move(self, line: str) -> None:
        """move HOST HOME [break]: to another home, or to the internet; "break" leaves first"""
        match line.split():
            case [name, place] | [name, place, "break"]:
                self._known(name, host=True)
                if place != INTERNET:
                    self._known(place, home=True)
                if [place] == list(self._net.places(name)):
                    raise ValueError(f"{name} is already at {place}")
                self._net.move(name, place, "break" if line.split()[2:] else "make")
            case _:
                raise ValueError(f"say it so: {self.do_move.__doc__}")

    def do_cut(self, line: str) -> None:
        """cut NAME: its link loses everything"""
        self._known(line)
        self._net.cut(line)

    def do_mend(self, line: str) -> None:
        """mend NAME: undo a cut"""
        self._known(line)
        self._net.mend(line)

    def do_worsen(self, line: str) -> None:
        """worsen NAME MILLISECONDS [PERCENT]: delay and loss of its link, each way"""
        name, *link = line.split() or [""]
        if not 1 <= len(link) <= 2:
            raise ValueError(f"say it so: {self.do_worsen.__doc__}")
        self._known(name)
        self._net.worsen(name, *quality(*link))

    def do_reboot(self, line: str) -> None:
        """reboot HOME: its router forgets all mappings"""
        self._known(line, home=True)
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
            self._say(f"  {error}")
            return False

    def emptyline(self) -> bool:
        return False

    def _known(self, name: str, *, host: bool = False, home: bool = False) -> None:
        names = [
            each
            for each in self._net.names
            if not (host and self._net.is_home(each))
            and not (home and not self._net.is_home(each))
        ]
        if name not in names:
            what = "host" if host else "home" if home else "host or home"
            raise ValueError(f"{name!r} is no {what}; there are: {', '.join(names) or 'none'}")

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
    parser.add_argument("topology", nargs="*", metavar="NAMES:KIND")
    versions = parser.add_mutually_exclusive_group()
    versions.add_argument("--ipv6", action="store_true", help="IPv6 beside IPv4")
    versions.add_argument("--ipv6-only", action="store_true", help="no IPv4 (nor what maps ports)")
    parser.add_argument("--shell", metavar="NAME", help="open a shell there; its end is all's end")
    given = parser.parse_args()
    example = EXAMPLE.replace("mapped", "double") if given.ipv6_only else EXAMPLE
    try:
        topology = [wanted(text) for text in given.topology or example.split()]
        check(topology, ipv6_only=given.ipv6_only)
    except ValueError as error:
        parser.error(str(error))
    programs = [PROGRAM] if any(place.kind is Kind.MAPPED for place in topology) else []
    if why := missing(*programs):
        print(f"no laboratory here: {why}", file=sys.stderr)  # noqa: T201
        return IMPOSSIBLE
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda *_: sys.exit(1))
    with Internet((6,) if given.ipv6_only else (4, 6) if given.ipv6 else (4,)) as net:
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
