"""What the demo and the tests with real programs stand on: journals, children, addresses."""

import asyncio
import json
import os
import sys
import time
from pathlib import Path

import pytest

from sim.loop import simulate
from sipgw.demo import process
from sipgw.demo.picture import picture
from sipgw.demo.process import Journal, Program, StepFailed, free_port, is_free, reserve
from sipgw.demo.scenario import choose_client, run
from sipgw.demo.world import PeerProcess, World


def even(number: int) -> int | None:
    return number * 10 if number % 2 == 0 else None


def test_a_journal_finds_what_was_and_what_comes() -> None:
    async def main() -> list[int]:
        journal: Journal[int] = Journal("numbers")
        journal.add(1)
        journal.add(2)
        asyncio.get_running_loop().call_later(3, journal.add, 4)
        return [await journal.wait(even, 5), await journal.wait(even, 5, since=2)]

    assert simulate(main) == [20, 40]


def test_a_journal_waits_no_longer_than_it_should() -> None:
    async def main() -> float:
        journal: Journal[int] = Journal("numbers")
        with pytest.raises(StepFailed, match="numbers: no even one within 5 s"):
            await journal.wait(even, 5, what="even one")
        return asyncio.get_running_loop().time()

    assert simulate(main) == pytest.approx(5)


def test_who_waits_for_a_program_that_ended_is_told_at_once() -> None:
    async def main() -> float:
        journal: Journal[int] = Journal("numbers")
        asyncio.get_running_loop().call_later(1, journal.close)
        with pytest.raises(StepFailed, match="numbers ended before start"):
            await journal.wait(even, 60, what="start")
        return asyncio.get_running_loop().time()

    assert simulate(main) == pytest.approx(1)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("child", child.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.net
def test_a_program_that_does_not_want_to_end_is_ended_with_its_children(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "GRACE", 0.2)

    async def main() -> tuple[int, int]:
        async with Program("stubborn", [sys.executable, "-c", STUBBORN]) as program:
            child = await program.lines.wait(
                lambda line: int(line.split()[1]) if line.startswith("child") else None, 20
            )
            return program.pid, child

    program, child = asyncio.run(main())
    assert gone(program)
    deadline = time.monotonic() + 5  # an orphan is reaped by process 1, some time
    while not gone(child) and time.monotonic() < deadline:
        status = Path(f"/proc/{child}/stat")
        if status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            break
        time.sleep(0.01)
    else:
        assert gone(child)


def test_a_program_that_is_not_there_is_named() -> None:
    async def main() -> None:
        await Program("nothing", ["/no/such/program"]).start()

    with pytest.raises(StepFailed, match="nothing: /no/such/program: No such file"):
        asyncio.run(main())


@pytest.mark.net
def test_a_reserved_port_is_passed_by() -> None:
    port = free_port()
    with reserve("127.0.0.1", port):
        assert not is_free("127.0.0.1", port)
    assert is_free("127.0.0.1", port)


@pytest.mark.net
def test_two_worlds_at_a_time_have_different_addresses(tmp_path: Path) -> None:
    async def main() -> set[str]:
        worlds = [World(tmp_path, ["alice", "bob"], absent=["eve"]) for _ in range(2)]
        addresses = [peer.hip for world in worlds for peer in world.peers.values()]
        for world in worlds:
            await world.stop()
        return set(addresses)

    assert len(asyncio.run(main())) == 6


def test_the_picture_shows_only_associations_that_are_there(tmp_path: Path) -> None:
    peers = {
        name: PeerProcess(name, f"127.0.0.{i}", tmp_path, hit=f"2001:22::{i}")
        for i, name in enumerate(("alice", "bob", "carol"), start=2)
    }
    neighbours = [{"hit": "2001:22::3", "connected": True}, {"hit": "2001:22::4"}]
    status = {"overlays": {"main": {"neighbours": neighbours}}}
    lines = picture(peers, {"alice": status}, {"alice": "phone", "bob": "phone"}, ("alice", "bob"))
    text = "\n".join(lines)
    assert "phone ── alice 127.0.0.2 ══ SIP and RTP in ESP ══ bob 127.0.0.3 ── phone" in text
    (overlay,) = [line for line in lines if line.startswith("  overlay  alice")]
    assert overlay.endswith("DHT in ESP ── bob")


def test_a_demo_without_a_client_fails_in_one_line_of_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(seconds=3, capture=None, client="nothing", as_json=True) == 1
    (line,) = capsys.readouterr().out.splitlines()
    result = json.loads(line)
    assert result["ok"] is False
    assert result["audio_ncc"] is None
    with pytest.raises(StepFailed, match="no SIP client nothing here; try: apt-get install"):
        choose_client("nothing")
