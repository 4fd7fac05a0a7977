"""``peer.rss`` and ``peer.idle_cpu``: what a real ``p2psip run`` costs while nobody calls.

Two peers in one overlay, each a process with a SIP gateway, on loopback; both are measured.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.report import report

PEERS = 2
JOIN_LIMIT = 30.0  # seconds
SETTLE = 5.0  # seconds after joining: what starting leaves behind is no idling
WINDOW = 10.0
WINDOWS = 3
P2PSIP = (sys.executable, "-m", "overlay.cli")


def call(*arguments: str) -> Any:
    """Run a subcommand with --json and return what it printed."""
    done = subprocess.run(
        [*P2PSIP, *arguments, "--json"], check=True, capture_output=True, text=True, timeout=60
    )
    return json.loads(done.stdout)


def start(stack: ExitStack, profile: str) -> "subprocess.Popen[str]":
    """Run a peer until the end of ``stack``; return once it is ready."""
    peer = stack.enter_context(
        subprocess.Popen([*P2PSIP, "run", profile, "--json"], stdout=subprocess.PIPE, text=True)
    )
    stack.callback(peer.send_signal, signal.SIGTERM)
    assert peer.stdout is not None
    if json.loads(peer.stdout.readline() or "{}").get("event") != "ready":
        raise SystemExit(f"the peer of {profile} did not start")
    return peer


def wait_until_joined(profile: str) -> None:
    """Return once the peer has joined its overlay."""
    overlays = call("status", "--wait", str(JOIN_LIMIT), "-p", profile)["overlays"].values()
    if not all(overlay["joined"] for overlay in overlays):
        raise SystemExit(f"the peer of {profile} did not join within {JOIN_LIMIT:g} s")


def rss(pid: int) -> float:
    """Resident memory of a process, MB (of 1024 kB, as VmRSS counts)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def cpu(pid: int) -> float:
    """Seconds of CPU that all threads of a process have had."""
    tasks = os.listdir(f"/proc/{pid}/task")
    ran = (Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0] for task in tasks)
    return sum(map(int, ran)) / 1e9


def main() -> None:
    """Measure both figures."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="p2psip-bench-")))
        seeds: list[str] = []
        profiles = []
        overlay: list[str] = []
        for number in range(1, PEERS + 1):
            made = call(
                *("init", str(folder / str(number)), *overlay, *seeds),
                *("--listen", f"127.0.0.{number}:10500", "--sip", f"127.0.0.{number}:5060"),
            )
            profiles.append(made["profile"])
            seeds = seeds or ["--seed", f"{made['hit']}@127.0.0.1:10500"]
            overlay = overlay or ["--overlay", str(folder / "1" / "overlay.toml")]
        pids = [start(stack, profile).pid for profile in profiles]
        for profile in profiles:
            wait_until_joined(profile)
        time.sleep(SETTLE)
        used = []
        for _ in range(WINDOWS):
            before, began = [cpu(pid) for pid in pids], time.monotonic()
            time.sleep(WINDOW)
            took = time.monotonic() - began
            used += [100 * (cpu(p) - b) / took for p, b in zip(pids, before, strict=True)]
        report("peer.rss", "MB", [rss(pid) for pid in pids])
        report("peer.idle_cpu", "%", used)


if __name__ == "__main__":
    main()
