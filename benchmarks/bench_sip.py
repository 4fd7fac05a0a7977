"""``sip.*``: registrations and calls a second on one core, and how long dialling takes.

Every peer is a real ``p2psip run``; both clients are sipp. A rate counts if every call of its run
succeeded; it is the highest such rate that is reported, and was sustained, not asked for.
"""

import sys
from collections.abc import Callable, Sequence

from benchmarks.report import report
from benchmarks.sip_load import DOMAIN, Bench, need, users

SECONDS = 4  # of each run
ROUNDS = 3
REGISTER_RATES = (2000, 3000, 4000, 4500, 5000, 6000)
LOCAL_RATES = (100, 200, 250, 300, 350, 400, 500, 600)
ACROSS_RATES = (50, 100, 150, 175, 200, 250, 300)


def best(rates: Sequence[int], run: Callable[[int], float | None]) -> float:
    """Climb until a rate fails twice; returns the highest sustained one."""
    reached = 0.0
    for rate in rates:
        got = run(rate) or run(rate)
        if got is None:
            break
        reached = got
    return reached


def clean(result: dict[str, str], rate: int) -> float | None:
    """Calls a second if none failed, hardly any message was late, and the pace was kept."""
    done, failed = int(result["SuccessfulCall(C)"]), int(result["FailedCall(C)"])
    retransmissions = int(result["Retransmissions(C)"])
    pace = float(result["CallRate(C)"])
    print(f"  {rate}/s: {done} ok, {failed} failed, {retransmissions} retransmissions,"
          f" {pace:.0f}/s", file=sys.stderr)  # fmt: skip
    if failed or done < rate * SECONDS or pace < 0.9 * rate or 50 * retransmissions > done:
        return None
    return min(pace, float(rate))


def registers(bench: Bench) -> None:
    peer = bench.peers[0]
    client = bench.client(peer)
    fields = users(bench.folder, peer.user, DOMAIN)

    def run(rate: int) -> float | None:
        sipp = bench.sipp("register", peer, client, *fields, *load(rate))
        return clean(sipp.result(SECONDS + 40), rate)

    report("sip.registers", "1/s", [best(REGISTER_RATES, run) for _ in range(ROUNDS)])


def load(rate: int) -> list[str]:
    return ["-r", str(rate), "-m", str(rate * SECONDS), "-l", "20000"]


def calls(bench: Bench, name: str, caller: int, callee: int, rates: Sequence[int]) -> None:
    near, far = bench.peers[caller], bench.peers[callee]
    one, other = bench.client(near), bench.client(far)
    fields = users(bench.folder, near.user, DOMAIN, far.user)
    answering = bench.sipp("uas", far, other)

    def run(rate: int) -> float | None:
        sipp = bench.sipp("uac", near, one, *fields, *load(rate))
        return clean(sipp.result(SECONDS + 40), rate)

    report(name, "1/s", [best(rates, run) for _ in range(ROUNDS)])
    answering.stop()


def main() -> None:
    """Measure, or only the figures whose names are given."""
    need("sipp")
    wanted = set(sys.argv[1:]) or {"registers", "calls_local", "calls_across"}
    if wanted & {"registers", "calls_local"}:
        with Bench() as bench:
            bench.run(bench.make())
            if "registers" in wanted:
                registers(bench)
        with Bench() as bench:
            bench.run(bench.make())
            if "calls_local" in wanted:
                calls(bench, "sip.calls_local", 0, 0, LOCAL_RATES)
    if "calls_across" in wanted:
        with Bench() as bench:
            first = bench.make()
            bench.run(first)
            bench.run(bench.make())
            calls(bench, "sip.calls_across", 0, 1, ACROSS_RATES)


if __name__ == "__main__":
    main()
