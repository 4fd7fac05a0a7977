"""A home in network namespaces: a host, its router, which is Debian's miniupnpd, and the Internet.

The router's WAN address is one that miniupnpd takes for public; nothing leaves the namespaces. All
of it vanishes at the end, and what a crash left behind when the next one begins. Needs root.
"""

import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self

from net import lab
from net.lab_namespaces import entered

PREFIX = "hiphome-"
_numbers = itertools.count(1)
NAMES = ("host", "router", "outside")
LAN = "192.168.77"  # .1 the router, .2 and .3 the host
LAN6 = "2a00:77::"
WAN = "5.9.1.1"
OUTSIDE = "5.9.1.2"
OUTSIDE6 = "2a00:99::2"

_RULES = """
table inet filter {
    chain miniupnpd {
    }
    chain prerouting_miniupnpd {
    }
    chain postrouting_miniupnpd {
    }
    chain forward {
        type filter hook forward priority 0; policy drop;
        ct state established,related accept
        iifname "lan" accept
        jump miniupnpd
    }
    chain prerouting {
        type nat hook prerouting priority -100; policy accept;
        jump prerouting_miniupnpd
    }
    chain postrouting {
        type nat hook postrouting priority 100; policy accept;
        jump postrouting_miniupnpd
        ip saddr 192.168.77.0/24 oifname "wan" masquerade
    }
}
"""

_KNOCK = """
import socket, sys
host, port, patience = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as knocker:
    knocker.settimeout(patience)
    knocker.connect((host, port))
    knocker.send(b"knock")
    try:
        sys.exit(knocker.recv(100) != b"knock")
    except OSError:
        sys.exit(1)
"""


def missing() -> str | None:
    """Why there can be no home here, or None."""
    if why := lab.missing():
        return why
    if shutil.which("miniupnpd") is None:
        return "miniupnpd is not installed"
    shown = subprocess.run(["miniupnpd", "--version"], check=False, capture_output=True, text=True)
    if "nftables" not in shown.stdout:
        return "miniupnpd is not the build for nftables"
    return None


class Home:
    """From ``__enter__`` to ``__exit__``: namespaces ``host``, ``router`` and ``outside``."""

    def __init__(self, wan: str = WAN) -> None:
        """Set up.

        Args:
            wan: the router's address in the Internet.
        """
        self._prefix = f"{PREFIX}{os.getpid()}-{next(_numbers)}-"
        self._wan = wan
        self._folder = tempfile.TemporaryDirectory(prefix="hiphome-")
        self._router: subprocess.Popen[bytes] | None = None

    def inside(self, name: str) -> list[str]:
        """What to put before a command so that it runs in one of the namespaces."""
        return ["ip", "netns", "exec", self._prefix + name]

    @property
    def names(self) -> Sequence[str]:
        """All namespaces."""
        return NAMES

    def owners(self) -> dict[str, str]:
        """Who has each address."""
        host = dict.fromkeys((f"{LAN}.2", f"{LAN}.3", f"{LAN6}2"), "host")
        router = dict.fromkeys((f"{LAN}.1", f"{LAN6}1", self._wan), "router")
        return host | router | dict.fromkeys((OUTSIDE, OUTSIDE6), "outside")

    def devices(self, name: str) -> Sequence[str]:
        """All count."""
        return ()

    def entered(self, name: str) -> AbstractContextManager[None]:
        """Sockets opened inside are that namespace's; never await inside."""
        return entered(self._prefix + name)

    def ip(self, name: str, command: str) -> str:
        """Run ``ip`` on one namespace."""
        return _run("ip", "-n", self._prefix + name, *command.split())

    def knock(self, host: str, port: int, patience: float = 2.0) -> bool:
        """Whether a datagram from the Internet, from a fresh port, comes back from there."""
        command = [*self.inside("outside"), "python3", "-c", _KNOCK, host, str(port)]
        done = subprocess.run([*command, str(patience)], check=False, timeout=20)
        return done.returncode == 0

    def start_router(self, **options: str) -> None:
        """Switch the router on, and wait until it serves.

        Args:
            options: of miniupnpd.conf, beside those that are always there.
        """
        folder = Path(self._folder.name)
        always = {
            "ext_ifname": "wan",
            "listening_ip": "lan",
            "secure_mode": "yes",
            "system_uptime": "no",
            "uuid": "8057ec4f-e89b-4df8-abbb-605bdee2b918",
            "lease_file": str(folder / "leases"),
        }
        lines = [f"{name}={value}" for name, value in (always | options).items()]
        lines += [f"allow 1024-65535 {LAN}.0/24 1024-65535", "deny 0-65535 0.0.0.0/0 0-65535"]
        (folder / "conf").write_text("".join(f"{line}\n" for line in lines))
        log = (folder / "log").open("ab")
        since = (folder / "log").stat().st_size
        with log:
            self._router = subprocess.Popen(
                [
                    *(*self.inside("router"), "miniupnpd", "-d", "-v", "-f", str(folder / "conf")),
                    *("-P", str(folder / "pid")),
                ],
                stdout=log,
                stderr=log,
            )
        for _ in range(100):
            if re.search(rb"HTTP listening|Listening for", (folder / "log").read_bytes()[since:]):
                return
            time.sleep(0.05)  # it has no other way to tell
        raise AssertionError(f"no router: {(folder / 'log').read_text()[since:]}")

    def stop_router(self, politely: bool = True) -> None:
        """Switch it off; it forgets every mapping."""
        if self._router is not None:
            self._router.send_signal(signal.SIGTERM if politely else signal.SIGKILL)
            self._router.wait(10)
            self._router = None
        for chain in ("miniupnpd", "prerouting_miniupnpd", "postrouting_miniupnpd"):
            _run(*self.inside("router"), "nft", "flush", "chain", "inet", "filter", chain)
        leases = Path(self._folder.name) / "leases"
        leases.unlink(missing_ok=True)

    def rules(self) -> str:
        """What the router has opened."""
        shown = [
            _run(*self.inside("router"), "nft", "list", "chain", "inet", "filter", chain)
            for chain in ("miniupnpd", "prerouting_miniupnpd")
        ]
        return "".join(re.sub(r"table.*|chain.*|[{}\s]", "", each) for each in shown)

    def __enter__(self) -> Self:
        _sweep()
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _build(self) -> None:
        for name in NAMES:
            _run("ip", "netns", "add", self._prefix + name)
            self.ip(name, "link set lo up")
            nobody_else = "net.ipv6.conf.default.accept_dad=0"  # so no second of finding out
            _run(*self.inside(name), "sysctl", "-qw", nobody_else)
        for end, name in (("lan", "host"), ("wan", "outside")):
            self.ip(
                "router", f"link add {end} type veth peer name eth0 netns {self._prefix}{name}"
            )
        addresses = {
            ("router", "lan"): (f"{LAN}.1/24", f"{LAN6}1/64"),
            ("router", "wan"): (f"{self._wan}/24", "2a00:99::1/64"),
            ("host", "eth0"): (f"{LAN}.2/24", f"{LAN}.3/24", f"{LAN6}2/64"),
            ("outside", "eth0"): (f"{OUTSIDE}/24", f"{OUTSIDE6}/64"),
        }
        for (name, link), ours in addresses.items():
            for address in ours:
                self.ip(name, f"addr add {address} dev {link}")
            self.ip(name, f"link set {link} up")
        forward = ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"]
        _run(*self.inside("router"), "sysctl", "-qw", *forward)
        shown = self.ip("router", "-6 addr show dev lan scope link")
        found = re.search(r"inet6 (fe80::[^/]+)", shown)
        assert found, shown
        self.ip("host", f"route add default via {LAN}.1")
        self.ip("host", f"-6 route add default via {found[1]} dev eth0")
        self.ip("outside", "-6 route add default via 2a00:99::1")
        subprocess.run(
            [*self.inside("router"), "nft", "-f", "-"], input=_RULES.encode(), check=True
        )

    def __exit__(self, *_: object) -> None:
        if self._router is not None:
            self._router.kill()
            self._router.wait(10)
        _remove(self._prefix)
        self._folder.cleanup()


def _run(*command: str) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20)
    return done.stdout


def _namespaces() -> list[str]:
    return [
        line.split()[0]
        for line in _run("ip", "netns", "list").splitlines()
        if line.startswith(PREFIX)
    ]


def _sweep() -> None:
    """Remove the homes of processes that are no more."""
    for name in _namespaces():
        owner = name.removeprefix(PREFIX).partition("-")[0]
        if not os.path.exists(f"/proc/{owner}"):
            _remove(f"{PREFIX}{owner}-")


def _remove(prefix: str) -> None:
    """Remove namespaces, and first the programs that run in them: they are the home's own."""
    for name in _namespaces():
        if not name.startswith(prefix):
            continue
        for pid in _run("ip", "netns", "pids", name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
