"""``hip.handover_gap``: for how long a client hears nothing when its peer, or the other, moves.

Two peers and two baresips in network namespaces, a call, and what tests/net/handover.py does to
it. The median is over both clients and all rounds. Needs root, baresip and nft.
"""

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from benchmarks.report import report

ROUNDS = 3
IMPOSSIBLE = 77  # exit status of net.handover
ROOT = Path(__file__).parents[1]


def main() -> None:
    """Measure each kind in turn, then the next round."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    gaps: dict[str, list[float]] = defaultdict(list)
    limits: dict[str, float] = {}
    for _ in range(ROUNDS):
        done = subprocess.run(
            [sys.executable, "-m", "net.handover"],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode == IMPOSSIBLE:
            return  # it has said why
        if done.returncode:
            raise SystemExit("no handover could be measured")
        for line in map(json.loads, done.stdout.splitlines()):
            gaps[line["kind"]].append(line["gap"])
            limits[line["kind"]] = line["limit"]
    for kind, samples in gaps.items():
        report("hip.handover_gap", "ms", samples, kind=kind, limit=limits[kind])


if __name__ == "__main__":
    main()
