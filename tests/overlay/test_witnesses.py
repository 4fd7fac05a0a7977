"""Whom we ask whether a server passes calls on, and whom we believe."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from scenarios.town import Resident, Town

from hipctl import Hit, Registered
from overlay.knocking import Knocked
from overlay.reachable import Reach
from sim.loop import simulate

YES, NO, HIDES = Knocked.YES, Knocked.NO, Knocked.HIDES


async def asked(one: Resident, server: Hit, count: int = 1) -> list[tuple[Hit, Knocked]]:
    """What is said of a server of ours by those whom we ask."""
    witnesses = one.callability._witnesses
    return await witnesses.through(one.hit, server, count, one.servers())


def settle(*, relays: int, publics: int = 0) -> Town:
    town = Town(3)
    for _ in range(relays):
        town.relay(group=b"%d" % len(town.residents), hides=True)
    for _ in range(publics):
        town.add(group=b"%d" % len(town.residents))
    for number in range(4):
        town.add(site=f"home {number}", hides=True)
    return town


def lies(of: Resident, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says that nobody gets through."""

    async def knock(_peer: Hit, _contact: bytes, _timeout: float = 2.0) -> bool:
        return False

    monkeypatch.setattr(of.host, "knock", knock)


def test_the_other_servers_are_asked_first() -> None:
    async def main() -> None:
        town = settle(relays=2, publics=2)
        await town.wake()
        await asyncio.sleep(60)
        one, other = town.residents[:2]
        home = town.residents[-1]
        for _ in range(3):
            assert await asked(home, one.hit) == [(other.hit, YES)]
            assert await asked(home, other.hit) == [(one.hit, YES)]
            await asyncio.sleep(60)
        one.host.deaf = True
        assert (await asked(home, one.hit))[0] == (other.hit, NO)
        await town.stop()

    simulate(main)


def test_where_all_others_hide_we_knock_ourselves() -> None:
    async def main() -> None:
        town = settle(relays=1)
        await town.wake()
        await asyncio.sleep(60)
        relay, home = town.residents[0], town.residents[-1]
        told = await asked(home, relay.hit)
        assert [said for _, said in told] == [HIDES, HIDES, YES]
        assert told[-1][0] == home.hit
        relay.host.deaf = True
        assert (await asked(home, relay.hit))[-1] == (home.hit, NO)
        await town.stop()

    simulate(main)


@pytest.mark.parametrize(("liars", "believed"), [(1, False), (2, True)])
def test_one_stranger_s_word_is_not_enough(
    liars: int, believed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        town = settle(relays=1, publics=liars)
        await town.wake()
        await asyncio.sleep(60)
        relay, home = town.residents[0], town.residents[-1]
        for liar in town.residents[1 : 1 + liars]:
            lies(liar, monkeypatch)
        told = await asked(home, relay.hit)
        assert [said for _, said in told].count(NO) == liars
        assert (YES in [said for _, said in told]) is not believed
        await town.stop()

    simulate(main)


def test_one_stranger_in_two_overlays_of_ours_is_still_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        town = settle(relays=1, publics=1)
        await town.wake()
        await asyncio.sleep(60)
        relay, liar, home = town.residents[0], town.residents[1], town.residents[-1]
        lies(liar, monkeypatch)
        witnesses = home.callability._witnesses
        monkeypatch.setattr(witnesses, "_homes", [*witnesses._homes, *witnesses._homes])
        told = await asked(home, relay.hit)
        assert [hit for hit, said in told if said is NO] == [liar.hit]
        assert told[-1] == (home.hit, YES)
        await town.stop()

    simulate(main)


def test_servers_whose_knocks_get_nowhere_take_each_other_not_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As behind firewalls that let nothing in but to HIP's own port, answers included."""

    async def main() -> None:
        town = settle(relays=2)
        await town.wake()
        await asyncio.sleep(60)
        relays, homes = town.residents[:2], town.residents[2:]
        for relay in relays:
            lies(relay, monkeypatch)
        for _ in range(90):
            await asyncio.sleep(1)
            assert {home.reach for home in homes} == {Reach.SERVED}
        for home in homes:
            assert home.servers() == {relay.hit for relay in relays}
        await town.stop()

    simulate(main)


@pytest.mark.parametrize("calls", [True, False])
def test_liars_take_no_server_away_through_which_calls_come(
    calls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        town = settle(relays=1, publics=4)
        await town.wake()
        await asyncio.sleep(60)
        home = town.residents[-1]
        for liar in town.residents[1:5]:
            lies(liar, monkeypatch)
        registrations = home.host.registrations

        def seen() -> Sequence[Registered]:
            now = asyncio.get_running_loop().time()
            return [replace(row, passed=now - 9) for row in registrations()]

        if calls:
            monkeypatch.setattr(home.host, "registrations", seen)
        await asyncio.sleep(60)
        assert home.reach is (Reach.SERVED if calls else Reach.NONE)
        await town.stop()

    simulate(main)
