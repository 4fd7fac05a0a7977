"""The lab itself: what it makes works, and nothing of it stays."""

import os
import subprocess
import sys

import pytest
from net import lab
from net.handover import ROOT

pytestmark = [pytest.mark.net]


@pytest.fixture(autouse=True)
def _possible() -> None:
    if why := lab.missing():
        pytest.skip(why)


def here() -> str:
    """The addresses of this machine, outside the labs."""
    return subprocess.run(["ip", "-o", "addr"], check=True, capture_output=True, text=True).stdout


def reaches(net: lab.Lab, name: str, source: str, to: str, patience: int = 1) -> bool:
    """Whether a datagram from ``name`` finds the router or somebody behind it."""
    version = "-6" if ":" in to else "-4"
    command = [*net.inside(name), "ip", version, "route", "get", to, "from", source]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        return False
    probe = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_INET6 if ':' in sys.argv[2] else socket.AF_INET)\n"
        f"s.settimeout({patience})\n"
        "s.bind((sys.argv[1], 0))\n"
        "sys.exit(s.connect_ex((sys.argv[2], 9)) != 111)\n"  # refused: somebody was there
    )
    argv = [*net.inside(name), sys.executable, "-c", probe, source, to]
    return subprocess.run(argv, check=False, capture_output=True).returncode == 0


def test_hosts_reach_each_other_until_a_link_is_cut_or_an_address_taken_away() -> None:
    before = here()
    with lab.Lab(["one", "two"]) as net:
        for name in ("one", "two"):
            net.connect(name, 1)
            net.add(name, 1)
            net.add(name, 1, 6)
        for version in (4, 6):
            one, two = (net.address(name, 1, version) for name in ("one", "two"))
            assert reaches(net, "one", one, two, patience=5)  # neighbours are found first
        net.remove("two", 1, 6)
        assert not reaches(net, "one", net.address("one", 1, 6), net.address("two", 1, 6))
        net.cut("one", 1)
        assert not reaches(net, "one", net.address("one", 1), net.address("two", 1))
        assert here() == before
        assert len(namespaces()) == 3
    assert namespaces() == []
    assert here() == before


def namespaces() -> list[str]:
    """Those of this process's labs."""
    shown = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True)
    mine = f"{lab.PREFIX}{os.getpid()}-"
    return [line for line in shown.stdout.splitlines() if line.startswith(mine)]


def test_what_a_crash_leaves_behind_goes_with_the_next_lab() -> None:
    crash = (
        "import os, subprocess, sys\n"
        "from net.lab import Lab\n"
        "net = Lab(['one']).__enter__()\n"
        "subprocess.Popen([*net.inside('one'), 'sleep', '600'], start_new_session=True,"
        " stdout=subprocess.DEVNULL)\n"
        "print(net.namespace('one'), flush=True)\n"
        "os._exit(1)\n"
    )
    env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", crash], env=env, check=False, stdout=subprocess.PIPE, text=True
    )
    left = done.stdout.strip()
    shown = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True)
    assert left in shown.stdout
    with lab.Lab(["another"]):
        pass
    shown = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True)
    assert left not in shown.stdout
