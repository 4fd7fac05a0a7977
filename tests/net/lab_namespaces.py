"""Network namespaces of this process: made, entered, and removed with all that runs in them."""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

PREFIX = "hiplab-"
FOLDER = Path("/run/netns")
CLONE_NEWNET = 0x4000_0000  # sched.h
NETLINK_NETFILTER = 12  # netlink.h
CT_DELETE = 1 << 8 | 2  # nfnetlink_conntrack.h: subsystem and message; of nothing: of everything
REQUEST_ACK = 1 | 4  # netlink.h


class CommandFailed(subprocess.CalledProcessError):
    """Says what the command said."""

    def __str__(self) -> str:
        return f"{super().__str__()} {self.stderr}"


class Namespaces:
    """Those of one lab, whose full names begin with ``prefix``."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def name(self, name: str) -> str:
        """Its full name, for ``ip netns exec``."""
        return self._prefix + name

    def inside(self, name: str) -> list[str]:
        """What to put before a command so that it runs there."""
        return ["ip", "netns", "exec", self.name(name)]

    def ip(self, name: str, command: str) -> None:
        """Run ``ip`` on one of them: ``ip("alice", "link set link1 down")``."""
        run("ip", "-n", self.name(name), *command.split())

    def add(self, name: str) -> None:
        """Make one, where nobody else has an IPv6 address that is new: that takes a second."""
        run("ip", "netns", "add", self.name(name))
        self.ip(name, "link set lo up")
        tune(self.name(name), ipv6__conf__default__accept_dad=0)

    def remove(self) -> None:
        """Remove all."""
        remove(self._prefix)


def missing(*programs: str) -> str | None:
    """Why there can be no lab here, or one that needs ``programs``; or None."""
    if os.geteuid() != 0:
        return "namespaces need root"
    for program in ("ip", "nft", *programs):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    probe = f"{PREFIX}{os.getpid()}-probe"
    made = subprocess.run(
        ["ip", "netns", "add", probe], check=False, capture_output=True, text=True
    )
    if made.returncode:
        return f"no namespaces here: {made.stderr.strip()}"
    run("ip", "netns", "del", probe)
    return None


def run(*command: str, given: str | None = None) -> str:
    """Run a command to its end, with ``given`` as its input; return what it printed."""
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=20, input=given
    )
    if done.returncode:
        raise CommandFailed(done.returncode, command, done.stdout, done.stderr)
    return done.stdout


@contextlib.contextmanager
def entered(namespace: str) -> Iterator[None]:
    """Let this thread be in a namespace: sockets that it opens there stay there.

    Never await inside: the event loop's thread would do everything there.
    """
    with open("/proc/thread-self/ns/net") as here, open(FOLDER / namespace) as there:
        _setns(there.fileno())
        try:
            yield
        finally:
            _setns(here.fileno())


def _setns(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def tune(namespace: str, **settings: object) -> None:
    """Write sysctls below ``net``; ``ipv4__ip_forward=1`` is ``net.ipv4.ip_forward``."""
    with entered(namespace):
        for name, value in settings.items():
            Path("/proc/sys/net", *name.split("__")).write_text(str(value))


def forget_flows(namespace: str) -> None:
    """Empty the connection tracking of a namespace, and with it what its NAT knows."""
    flush = struct.pack("=LHHLLBBH", 20, CT_DELETE, REQUEST_ACK, 1, 0, 0, 0, 0)
    with (
        entered(namespace),
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netlink,
    ):
        netlink.send(flush)
        (error,) = struct.unpack_from("=i", netlink.recv(4_096), 16)
    if error:
        raise OSError(-error, "flush of conntrack")


def names() -> list[str]:
    """All namespaces of all labs on this machine."""
    return (
        [x.name for x in FOLDER.iterdir() if x.name.startswith(PREFIX)] if FOLDER.exists() else []
    )


def sweep() -> None:
    """Remove the labs of processes that are no more."""
    owners = {name.removeprefix(PREFIX).partition("-")[0] for name in names()}
    for owner in owners:
        if not os.path.exists(f"/proc/{owner}"):
            remove(f"{PREFIX}{owner}-")


def remove(prefix: str) -> None:
    """Remove namespaces, and first the programs that run in them: they are the lab's own."""
    doomed = [name for name in names() if name.startswith(prefix)]
    if not doomed:
        return
    inodes = {(FOLDER / name).stat().st_ino for name in doomed}
    for pid in _living_in(inodes):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    lines = "".join(f"netns del {name}\n" for name in doomed)
    with contextlib.suppress(CommandFailed):
        run("ip", "-force", "-batch", "-", given=lines)


def _living_in(inodes: set[int]) -> Iterator[int]:
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if entry.isdigit() and os.stat(f"/proc/{entry}/ns/net").st_ino in inodes:
                yield int(entry)
