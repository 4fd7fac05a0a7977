"""``sip.*``: registrations and calls a second on one core, and how long dialling takes.

Every peer is a real ``p2psip run``; both clients are sipp. A rate counts if every call of its run
succeeded; it is the highest such rate that is reported, and was sustained, not asked for.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence

from benchmarks.report import report
from benchmarks.sip_client import Client
from benchmarks.sip_load import DOMAIN, Bench, need, users

SECONDS = 4  # of each run
ROUNDS = 3
DIALS = 100
COLD_DIALS = 20
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
    bench.find(near, far.aor)
    answering = bench.sipp("uas", far, other)

    def run(rate: int) -> float | None:
        sipp = bench.sipp("uac", near, one, *fields, *load(rate))
        return clean(sipp.result(SECONDS + 40), rate)

    report(name, "1/s", [best(rates, run) for _ in range(ROUNDS)])
    answering.stop()


def dial(caller: Client, callee: Client) -> float:
    """Seconds from INVITE to 180 at the caller; the call is answered and hung up after."""
    invite, rtp, name = caller.invite(callee.peer.aor)
    began = time.perf_counter()
    caller.socket.sendto(invite, caller.peer.gateway)
    answer = callee.answer(180)
    caller.hear(b"SIP/2.0 180")
    took = time.perf_counter() - began
    callee.accept(answer)
    leg = caller.take(caller.hear(b"SIP/2.0 200"), rtp, name)
    caller.socket.sendto(leg.bye, caller.peer.gateway)
    callee.hang_up()
    caller.hear(b"SIP/2.0 200")
    return took


def post_dial(bench: Bench) -> None:
    """Three peers, each on any core: dialling is about time, not load."""
    peers = [bench.make() for _ in range(3)]
    bench.run(peers[0])
    bench.run(peers[1], forgetful=True)
    bench.run(peers[2])
    caller, callee = Client(peers[1]), Client(peers[2])
    bench.find(peers[1], peers[2].aor)
    dial(caller, callee)
    report("sip.post_dial_warm", "ms", [1e3 * dial(caller, callee) for _ in range(DIALS)])
    cold = []
    for _ in range(COLD_DIALS):
        os.kill(peers[1].pid, signal.SIGUSR1)
        time.sleep(0.3)
        cold.append(1e3 * dial(caller, callee))
    report("sip.post_dial_cold", "ms", cold)


def main() -> None:
    """Measure, or only the figures whose names are given."""
    need("sipp")
    wanted = set(sys.argv[1:]) or {"registers", "calls_local", "calls_across", "post_dial"}
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
    if "post_dial" in wanted:
        with Bench() as bench:
            post_dial(bench)


if __name__ == "__main__":
    main()
