"""Long runs of small overlays whose peers sleep 70 % of the time.

python tests/soak/sleepers.py [--hours 24] [--sizes 2 3 5 8] [--seed 1] [--kinds public …]

A virtual day of eight peers takes some minutes of one core. For each size the figures are
printed, and ladders of the first calls that failed.
"""

import argparse
import logging
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from scenarios.sleepers import Plan, family, run

from sim.loop import simulate
from sim.nats import Kind

_SIZES = (2, 3, 5, 8)


def main() -> None:
    """Run as the command line says."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--hours", type=float, default=24.0, help="virtual ones, of each size")
    options.add_argument("--sizes", type=int, nargs="+", default=_SIZES)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument(
        "--kinds", nargs="+", type=Kind, help="where the peers are, in place of a family; repeated"
    )
    options.add_argument("--symmetric", action="store_true", help="some behind symmetric NATs")
    options.add_argument("--awake", type=float, default=90.0, help="mean seconds")
    options.add_argument("--asleep", type=float, default=210.0, help="mean seconds")
    options.add_argument("--quits", type=float, default=0.0, help="share of sleeps that end it")
    options.add_argument("--loss", type=float, default=0.0)
    options.add_argument("--strangers", action="store_true", help="without contacts of each other")
    options.add_argument("--clock-goes-on", action="store_true", help="also while asleep")
    options.add_argument("--ladders", type=int, default=0, help="how many to print, at most 3")
    chosen = options.parse_args()
    logging.disable(logging.WARNING)  # whoever wakes alone says that nobody can call
    for size in chosen.sizes:
        kinds = tuple((chosen.kinds * size)[:size]) if chosen.kinds else None
        kinds = kinds or family(size, symmetric=chosen.symmetric)
        plan = Plan(
            kinds=kinds,
            seed=chosen.seed,
            seconds=chosen.hours * 3600,
            awake=chosen.awake,
            asleep=chosen.asleep,
            quits=chosen.quits,
            loss=chosen.loss,
            acquainted=not chosen.strangers,
            clock_stops=not chosen.clock_goes_on,
        )
        began = time.monotonic()
        outcome = simulate(partial(run, plan))
        rate = plan.seconds / (time.monotonic() - began)
        lines = [str(outcome), f"  {rate:.0f} virtual minutes took one", ""]
        lines += [f"{ladder}\n" for ladder in outcome.ladders[: chosen.ladders]]
        sys.stdout.write("\n".join(lines))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
