"""A long random run of two peers that move and rekey: python tests/soak/wander.py [STEPS] [SEED].

1,000,000 steps take about seven minutes of one core. A failure prints the seed and step that
lead to it.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from sim.wanderers import Wanderers

_ROUNDS = (20, 60, 200, 2_000)  # steps between settlings


def main(steps: int = 1_000_000, seed: int = 1) -> None:
    """Run; raises where something doesn't hold."""
    done, moves, hours, began = 0, 0, 0.0, time.monotonic()
    while done < steps:
        world = Wanderers(seed)
        try:
            for _ in range(min(_ROUNDS[seed % len(_ROUNDS)], steps - done)):
                world.step()
            world.settle()
        except BaseException:
            sys.stderr.write(f"seed {seed}, step {world.steps}\n")
            raise
        done += world.steps
        moves, hours = moves + world.moves, hours + world.net.now / 3600
        if seed % 100 == 0 or done >= steps:
            rate = done / (time.monotonic() - began)
            sys.stdout.write(
                f"{done} steps, seed {seed}: {moves} moves, {hours:.0f} h, {rate:.0f} steps/s\n"
            )
            sys.stdout.flush()
        seed += 1


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
