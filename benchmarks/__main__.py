"""``make bench``: every benchmark in a process of its own, one JSON line a figure.

Name some to run only those: ``python -m benchmarks hip media``. A benchmark that fails is named on
standard error, the others still run, and the exit status is 1.
"""

import subprocess
import sys

BENCHMARKS = ("hip", "storm", "handover", "overlay", "sip", "media", "peer", "relay")


def main() -> int:
    """Run what the command line names, or all."""
    chosen = sys.argv[1:] or list(BENCHMARKS)
    if unknown := [name for name in chosen if name not in BENCHMARKS]:
        print(
            f"no such benchmark: {unknown[0]}; there are {', '.join(BENCHMARKS)}", file=sys.stderr
        )
        return 2
    failed = [
        name
        for name in chosen
        if subprocess.run(
            [sys.executable, "-m", f"benchmarks.bench_{name}"], check=False
        ).returncode
    ]
    for name in failed:
        print(f"benchmark {name} failed", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
