"""One JSON line a figure: all benchmarks speak through this."""

import json
import statistics
from collections.abc import Sequence


def report(
    name: str,
    unit: str,
    samples: Sequence[float],
    peer: str | None = None,
    peer_samples: Sequence[float] | None = None,
    **extra: object,
) -> None:
    """Print ``{"name", "unit", "median", "p90", "n"}``, and the peer's keys where there is one.

    Args:
        name: of the figure, e.g. ``hip.datagram_rtt``.
        unit: of every sample, e.g. ``us``.
        samples: at least one.
        peer: what the figure is compared with, measured in the same run.
        peer_samples: the same measurement of the peer.
        extra: further keys of the line, e.g. ``p99``.
    """
    line: dict[str, object] = {"name": name, "unit": unit, "median": _round(_median(samples))}
    line |= {"p90": _round(quantile(samples, 0.9)), "n": len(samples)}
    if peer is not None and peer_samples:
        median = _median(peer_samples)
        ratio = _median(samples) / median if median else None
        line |= {"peer": peer, "peer_median": _round(median)}
        line |= {"ratio": None if ratio is None else round(ratio, 3)}
    print(json.dumps(line | extra), flush=True)


def quantile(samples: Sequence[float], q: float) -> float:
    """The smallest sample that at least the share ``q`` of them does not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, -(-int(q * 1e6) * len(ordered) // 1_000_000) - 1)]


def _median(samples: Sequence[float]) -> float:
    return statistics.median(samples)


def _round(value: float) -> float:
    return float(f"{value:.4g}")
