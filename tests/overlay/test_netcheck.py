"""What a peer says of its network: whether it can be called, why not, and what would help."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipctl import HostIdentity, Nat
from overlay.advice import Seen, what_limits, why_nobody_calls
from overlay.commands.init import make
from overlay.commands.netcheck import netcheck_lines
from overlay.commands.running import status_lines
from overlay.config import Profile, load_profile
from overlay.knocking import Knocked
from overlay.peer import LocalPeer
from overlay.reachable import Facts
from overlay.store import MemoryStore
from sim.hits import HitNet, SimHost
from sim.loop import simulate

WALL = 1_800_000_000.0
VISIBLE = "\n[host]\nvisible = true\n"
RELAY = "\n[overlay.main.services.relay]\nclients = 9\n[overlay.main.services.rvs]\n"


def profile(
    folder: Path, *, seed: str = "", overlay: Path | None = None, more: str = ""
) -> Profile:
    made = make(
        folder,
        overlay=overlay,
        domain="example.org",
        seeds=(seed,) if seed else (),
        words=None,
        listen=("127.0.0.1:10500",),
        sip="127.0.0.1:5060",
        private=True,
    )
    text = made.profile.read_text()
    at = text.index("[overlay.main.services.sip]")  # no sockets here
    text = text[:at] + more.replace(VISIBLE, "")
    if VISIBLE in more:
        text = text.replace("[host]\n", VISIBLE, 1)
    made.profile.write_text(text)
    return load_profile(made.profile)


def device(of: Profile) -> HostIdentity:
    return HostIdentity.load(of.identities["device"].key)


class Peers:
    """A public peer that relays, and others of its overlay, each a whole LocalPeer."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.net = HitNet(latency=(0.01, 0.04), seed=4)
        self.folder = folder
        self.stack = stack
        self.first: Profile | None = None

    async def add(self, name: str, *, site: str | None = None, more: str = "") -> LocalPeer:
        if self.first is None:
            of = self.first = profile(self.folder / name, more=more)
        else:
            founder = device(self.first).hit
            overlay = self.folder / self.first.path.parent / "overlay.toml"
            seed = f"{founder}@127.0.0.1:10500"
            of = profile(self.folder / name, overlay=overlay, seed=seed, more=more)
        host = self.net.host(device(of).hit, group=None if site else name.encode())
        host.site = site
        host.learn(device(self.first).hit, b"sim:" + device(self.first).hit)
        loop = asyncio.get_running_loop()
        peer = LocalPeer(
            of, host=host, store=MemoryStore(), wall=lambda: WALL + loop.time(), now=loop.time
        )
        return await self.stack.enter_async_context(peer)


@asynccontextmanager
async def peers(folder: Path) -> AsyncIterator[Peers]:
    async with AsyncExitStack() as stack:
        yield Peers(folder, stack)


def text(value: dict[str, Any]) -> str:
    """A status as a person sees it, after its way through the control socket."""
    return "\n".join(status_lines(json.loads(json.dumps(value))))


def check_text(value: dict[str, Any]) -> str:
    return "\n".join(netcheck_lines(json.loads(json.dumps(value))))


def test_a_relay_and_its_client_say_how_they_can_be_called(tmp_path: Path) -> None:
    async def main() -> None:
        async with peers(tmp_path) as town:
            relay = await town.add("relay", more=RELAY)
            other = await town.add("other")
            home = await town.add("home", site="home")
            status = await home.answer("status", {})
            assert status["callable"] is None
            assert "not known yet" in text(status)
            early = await home.answer("netcheck", {})  # when nobody has been told anything
            assert early["identities"]["device"]["problems"] == []
            await asyncio.sleep(30)
            status = await home.answer("status", {})
            assert (status["callable"], status["why"]) == (True, [])
            (row,) = status["identities"]["device"]["servers"]
            assert row["hit"] == str(relay.host.hits[0])
            assert row["for"] == ["control relay", "data relay"]
            assert 10 < row["rtt_ms"] < 90
            said = text(status)
            assert "you can be called through servers" in said
            assert f"control relay and data relay {relay.host.hits[0]}" in said
            served = await relay.answer("status", {})
            assert "you can be called directly" in text(served)
            assert served["overlays"]["main"]["advertised"] == ["relay", "rvs"]
            assert served["services"]["relay"]["room"] == 7
            assert {r["hit"] for r in served["services"]["relay"]["served"]} == {
                str(home.host.hits[0]),
                str(other.host.hits[0]),  # nor is it seen by strangers, as it might be
            }
            assert served["services"]["rvs"]["served"] == []

    simulate(main)


def test_netcheck_asks_neighbours_and_measures_servers(tmp_path: Path) -> None:
    async def main() -> None:
        async with peers(tmp_path) as town:
            relay = await town.add("relay", more=RELAY)
            other = await town.add("other", more=VISIBLE)
            home = await town.add("home", site="home")
            await asyncio.sleep(30)
            value = await home.answer("netcheck", {})
            report = value["identities"]["device"]
            assert value["callable"] is report["callable"] is True
            assert (report["reach"], report["nat"]) == (
                "through servers",
                "endpoint-independent",
            )
            assert report["addresses"] == ["home:10500"]
            assert report["servers"][0]["rtt_ms"] > 10
            assert [row["result"] for row in report["servers"][0]["knocks"]] == ["reached"]
            assert {row["result"] for row in report["knocks"]} == {"it sees us at another address"}
            missing = [row["missing"] for row in report["problems"]]
            assert any("only one server" in line for line in missing)
            said = check_text(value)
            assert "knock by" in said
            assert "knock through it by" in said
            assert "do: have a peer with a public address run the service relay" in said
            open_ = await other.answer("netcheck", {})
            assert open_["identities"]["device"]["problems"] == []
            assert "reached" in check_text(open_)
            assert (await relay.answer("netcheck", {}))["callable"] is True

    simulate(main)


def test_nobody_can_call_you_is_said_in_words_with_what_to_do(tmp_path: Path) -> None:
    async def main() -> None:
        async with peers(tmp_path) as town:
            await town.add("one")
            home = await town.add("home", site="home")
            await asyncio.sleep(30)
            status = await home.answer("status", {})
            assert status["callable"] is False
            assert len(status["why"]) == 2
            said = text(status)
            assert "nobody can call you, but for the peer that this one is connected with" in said
            assert "behind a NAT, and its router maps no port" in said
            assert "no relay is known in the overlay" in said
            assert said.count("do: ") == 2
            value = await home.answer("netcheck", {})
            assert value["callable"] is False
            assert "nobody can call you" in check_text(value)
            relay = await town.add("relay", more=RELAY)
            await asyncio.sleep(60)
            assert relay.status()["callable"] is True
            assert home.status()["callable"] is True

    simulate(main)


def test_status_says_nobody_can_call_you_within_a_minute_of_the_last_relay_s_end(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with peers(tmp_path) as town:
            await town.add("one")
            relay = await town.add("relay", more=RELAY)
            home = await town.add("home", site="home")
            await asyncio.sleep(60)
            assert "you can be called through servers" in text(await home.answer("status", {}))
            assert isinstance(relay.host, SimHost)
            relay.host.stop()
            async with asyncio.timeout(60):
                while "nobody can call you" not in text(await home.answer("status", {})):  # noqa: ASYNC110
                    await asyncio.sleep(0.5)
            assert "relay" in text(await home.answer("status", {}))

    simulate(main)


ADVICE = "in the settings of the router at 192.168.1.1: switch on UPnP or PCP"
SILENT = {
    "router": "192.168.1.1",
    "address": "192.168.1.7",
    "failures": {"PCP": "no answer", "UPnP": "not authorized"},
    "advice": ADVICE,
}
MAPS = {
    "router": "192.168.1.1",
    "address": "192.168.1.7",
    "external": ("192.0.2.1", 10500),
    "protocol": "NAT-PMP",
    "public": True,
    "seconds left": 7100,
}


@pytest.mark.parametrize(
    ("row", "said", "do"),
    [
        (SILENT, "maps no port to 192.168.1.7 (PCP: no answer, UPnP: not authorized)", ADVICE),
        (MAPS, "maps 192.0.2.1:10500 to 192.168.1.7 by NAT-PMP, 7100 s left", None),
        (
            MAPS | {"public": False, "advice": "ask your provider"},
            "maps 192.0.2.1:10500 to 192.168.1.7 by NAT-PMP, 7100 s left, which others don't",
            "ask your provider",
        ),
        (
            {"router": "fe80::1%eth0", "address": "2001:db8::7", "failures": {}, "asking": True},
            "is asked to map a port to 2001:db8::7",
            None,
        ),
    ],
)
def test_netcheck_shows_what_each_router_said_and_what_to_do(
    tmp_path: Path, row: dict[str, Any], said: str, do: str | None
) -> None:
    async def main() -> None:
        async with peers(tmp_path) as town:
            open_ = await town.add("one")
            home = await town.add("home", site="home")
            for peer in (home, open_):
                assert isinstance(peer.host, SimHost)
                peer.host.routers = (row,)
            await asyncio.sleep(30)
            value = await home.answer("netcheck", {})
            shown = check_text(value)
            assert f"  router {row['router']}: {said}" in shown
            assert ("    do: " + (do or ADVICE) in shown) is (do is not None)
            (told,) = value["identities"]["device"]["routers"]
            assert json.loads(json.dumps(told)) == told
            shown = check_text(await open_.answer("netcheck", {}))
            assert f"  router {row['router']}: {said}" in shown
            assert f"do: {row.get('advice')}" not in shown  # others reach it as it is

    simulate(main)


seen = st.builds(
    Seen,
    facts=st.builds(
        Facts,
        network=st.booleans(),
        direct=st.booleans(),
        neighbours=st.integers(0, 3),
        through=st.integers(0, 2),
    ),
    proven=st.sampled_from([None, False, True]),
    verdicts=st.none() | st.lists(st.sampled_from(list(Knocked)), max_size=3).map(Counter),
    silent=st.booleans(),
    nat=st.sampled_from(list(Nat)),
    mapped=st.booleans(),
    met=st.booleans(),
    known=st.integers(0, 3),
    refusals=st.lists(st.sampled_from(["full", "no answer"]), max_size=5).map(tuple),
    searched=st.booleans(),
    visible=st.booleans(),
    rendezvous=st.booleans(),
    data=st.integers(0, 2),
    deaf=st.lists(st.sampled_from(["2001:22::1", "2001:22::2"]), max_size=2).map(tuple),
    mute=st.lists(st.sampled_from(["2001:22::3", "2001:22::4"]), max_size=2).map(tuple),
)


@given(seen)
def test_whatever_is_missing_something_can_be_done(what: Seen) -> None:
    why = why_nobody_calls(what)
    assert 1 <= len(why) <= 3
    for advice in (*why, *what_limits(what)):
        for clause in (advice.missing, advice.do):
            assert clause
            assert clause[0].islower() or clause.startswith(("HIP", "PCP"))
            assert not clause.endswith(".")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"facts": Facts(network=False)}, "no network address"),
        ({"met": False}, "nobody else is known"),
        ({"facts": Facts(direct=True)}, "no other peer of the overlay answers"),
        ({"silent": True}, "no other peer of the overlay answers"),
        ({"silent": True}, "look at the connection of the router"),
        ({"silent": True, "known": 3}, "of 3 that are known; nothing: it is tried again"),
        ({"verdicts": Counter([Knocked.ELSEWHERE])}, "maps no port"),
        ({"verdicts": Counter([Knocked.HIDES])}, "nobody could tell"),
        ({"verdicts": Counter([Knocked.NO])}, "others don't get through to this machine"),
        ({"verdicts": Counter([Knocked.NO]), "mapped": True}, "router itself is behind another"),
        ({"known": 3}, "no relay answers, of 3"),
        ({"refusals": ("full", "full", "no")}, "no relay serves this peer: full (2), no (1)"),
        ({"rendezvous": True}, "visible = true"),
        ({"visible": True}, "no relay or rendezvous server is known"),
        ({"searched": False}, "no relay was found yet"),
    ],
)
def test_each_cause_has_its_words(changes: dict[str, Any], expected: str) -> None:
    base: dict[str, Any] = {"facts": Facts(direct=True, neighbours=3)}
    said = " ".join(f"{a.missing}; {a.do}" for a in why_nobody_calls(Seen(**(base | changes))))
    assert expected in said
