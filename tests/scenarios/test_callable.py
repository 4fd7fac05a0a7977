"""Peers that can always be called: servers are found and kept, and where none are, it is said."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest
from scenarios.town import RELAY, RVS, Resident, Town

from hipctl import ContactChanged, Hit, Nat, RegistrationType
from overlay.hiding import UNSTEADY
from overlay.reachable import Reach
from sim.loop import simulate

CONTROL, DATA = RegistrationType.RELAY_UDP_HIP, RegistrationType.RELAY_UDP_ESP
RENDEZVOUS = RegistrationType.RENDEZVOUS


async def until(condition: Callable[[], bool], seconds: float) -> float:
    """Wait for it; the seconds it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  in virtual time
            await asyncio.sleep(0.05)
    return loop.time() - began


def scenario(main: Callable[[Town], Awaitable[None]], *, seed: int = 1) -> None:
    async def run() -> None:
        town = Town(seed)
        await main(town)
        await town.stop()

    simulate(run)


class Noting(dict[Hit, bytes]):
    """What a host learns; notes each contact of one HIT that it is told."""

    def __init__(self, hit: Hit, told: list[tuple[float, bytes]]) -> None:
        super().__init__()
        self._hit, self._told = hit, told

    def __setitem__(self, hit: Hit, contact: bytes) -> None:
        if hit == self._hit:
            self._told.append((asyncio.get_running_loop().time(), contact))
        super().__setitem__(hit, contact)


def why(resident: Resident) -> str:
    return " / ".join(f"{a.missing}: {a.do}" for a in resident.callability.why())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ten_behind_nats_and_two_on_the_internet_any_calls_any(seed: int) -> None:
    async def main(town: Town) -> None:
        relays = [town.relay(), town.relay()]
        homes = town.homes(10)
        await town.wake()
        await asyncio.sleep(30)
        for relay in relays:
            assert relay.reach is Reach.DIRECT
            assert relay.servers() == set()
        for home in homes:
            assert home.reach is Reach.SERVED
            assert home.servers(CONTROL) == home.servers(DATA) == {r.hit for r in relays}
        for one in town.residents:
            for other in town.residents:
                if one is not other:
                    assert await one.calls(other)

    scenario(main, seed=seed)


def test_who_wakes_is_callable_within_seconds() -> None:
    async def main(town: Town) -> None:
        town.relay()
        town.relay()
        homes = town.homes(8)
        await town.wake()
        await asyncio.sleep(90)
        took = []
        for home in homes:
            await home.sleep()
            await asyncio.sleep(300)
            await home.wake()
            took.append(await until(lambda h=home: h.callability.callable, 5.0))  # type: ignore[misc]
            assert len(home.servers(CONTROL)) >= 1
        assert sorted(took)[-1] < 1.0  # it remembers who served it

    scenario(main)


def test_a_relay_that_dies_is_replaced_and_its_clients_stay_callable() -> None:
    async def main(town: Town) -> None:
        relays = [town.relay() for _ in range(4)]
        homes = town.homes(4)
        await town.wake()
        await asyncio.sleep(60)
        victim = max(relays[1:], key=lambda r: sum(r.hit in h.servers() for h in homes))
        bereft = [home for home in homes if victim.hit in home.servers()]
        assert bereft
        await victim.sleep()
        for _ in range(16):
            await asyncio.sleep(1)
            assert {home.reach for home in homes} == {Reach.SERVED}
        for home in bereft:
            assert victim.hit not in home.servers()
            assert len(home.servers(CONTROL)) == len(home.servers(DATA)) == 2
        await asyncio.sleep(5)
        for home in homes:
            assert await relays[0].calls(home)

    scenario(main)


def test_two_relays_in_one_place_are_avoided_where_another_is_elsewhere() -> None:
    async def main(town: Town) -> None:
        here = [town.relay(group=b"here"), town.relay(group=b"here")]
        there = town.relay(group=b"there")
        homes = town.homes(3)
        await town.wake()
        await asyncio.sleep(100)
        for home in homes:
            assert there.hit in home.servers()
            assert len(home.servers() & {r.hit for r in here}) == 1

    scenario(main)


def test_a_server_that_only_its_exchange_tells_of_is_found_too() -> None:
    async def main(town: Town) -> None:
        quiet = town.add(offers=RELAY)  # no SVC record
        home = town.homes(1)[0]
        await town.wake()
        await asyncio.sleep(20)
        assert home.servers() == {quiet.hit}

    scenario(main)


def test_who_is_visible_uses_relays_as_long_as_strangers_do_not_reach_it() -> None:
    async def main(town: Town) -> None:
        both = [town.add(offers={**RELAY, **RVS}, advertised=("relay", "rvs")) for _ in range(2)]
        shown, other = town.homes(2, visible=True)
        await town.wake()
        hits = {server.hit for server in both}
        situations = (False, "home 0"), (True, "home 0"), (False, "home 0"), (False, "inn")
        for mapped, site in situations:
            if shown.host.site != site:
                shown.host.move(site)
            shown.host.mapped = mapped
            shown.host.contact_changed()
            await asyncio.sleep(30)
            assert shown.servers(CONTROL) == shown.servers(DATA) == (set() if mapped else hits)
            assert shown.servers(RENDEZVOUS) == set()
            await other.directory.resolve(shown.aor)
            assert other.host.learnt[shown.hit] == shown.host.contact(shown.hit)
            other.host.disconnect(shown.hit)
            assert await other.calls(shown)

    scenario(main)


def test_who_is_visible_uses_rendezvous_servers_until_there_is_a_relay() -> None:
    async def main(town: Town) -> None:
        servers = [town.add(offers=RVS, advertised=("rvs",)) for _ in range(2)]
        relay = town.relay()
        shown = town.homes(1, visible=True)[0]
        hidden = town.add(site="cave", hides=True)
        await town.wake(*servers, shown, hidden)
        await asyncio.sleep(30)
        assert shown.servers() == shown.servers(RENDEZVOUS) == {server.hit for server in servers}
        assert hidden.servers() == set()
        await town.wake(relay)
        await asyncio.sleep(90)
        assert shown.servers() == shown.servers(CONTROL, DATA) == {relay.hit}

    scenario(main)


def test_relays_that_pass_nothing_on_are_found_out_and_replaced() -> None:
    async def main(town: Town) -> None:
        relays = [town.relay() for _ in range(4)]
        home, others = town.homes(1)[0], [town.add() for _ in range(3)]
        for relay in relays[:2]:
            relay.host.deaf = True
        await town.wake(*relays[:2], *others, home)
        await asyncio.sleep(90)
        assert home.reach is Reach.NONE
        assert "it passes no calls on" in why(home)
        await town.wake(*relays[2:])
        await asyncio.sleep(90)
        good = {relay.hit for relay in relays[2:]}
        assert home.servers(CONTROL) == good
        assert home.reach.value == "through servers"
        assert await others[0].calls(home)
        relays[2].host.deaf = True  # it did its work until now
        await asyncio.sleep(120)
        assert home.servers(CONTROL) == {relays[3].hit}

    scenario(main)


@pytest.mark.parametrize("what", ["deaf", "firewall"])
@pytest.mark.parametrize("relays", [2, 1])
def test_where_everybody_hides_it_is_told_within_a_minute_that_relays_pass_nothing_on(
    relays: int, what: str
) -> None:
    """As by default: who hides would show by a knock where it is, so servers tell of each other.

    Where there is only one, whom it serves knocks at itself by way of it.
    """

    async def main(town: Town) -> None:
        servers = [town.relay(hides=True) for _ in range(relays)]
        homes = [town.add(site=f"home {n}", hides=True) for n in range(5)]
        await town.wake()
        await asyncio.sleep(90)
        for home in homes:
            assert home.reach is Reach.SERVED
            assert home.servers(CONTROL) == {server.hit for server in servers}
            said = (await home.callability.check())["servers"]
            assert all("reached" in [row["result"] for row in each["knocks"]] for each in said)
        await asyncio.sleep(town.random.uniform(0, 30))
        for server in servers:
            server.host.deaf, server.host.firewalled = what == "deaf", what != "deaf"
        # what a person sees who asks before it is told
        report = await homes[0].callability.check()
        assert report["callable"]
        (problem,) = [p for p in report["problems"] if "passes no calls on" in p["missing"]][:1]
        assert "service relay" in problem["do"]
        await until(lambda: all(home.reach is Reach.NONE for home in homes), 60)
        for home in homes:
            assert "it passes no calls on" in why(home)
        for _ in range(900):  # in which they are tried again
            await asyncio.sleep(1)
            assert {home.reach for home in homes} == {Reach.NONE}
            assert all("it passes no calls on" in why(home) for home in homes)
        if what == "deaf":
            return
        for server in servers:
            server.host.firewalled = False
        await until(lambda: all(home.reach is Reach.SERVED for home in homes), 1000)

    scenario(main, seed=relays + 2 * len(what))


def test_rendezvous_servers_that_pass_nothing_on_are_found_out_within_a_minute() -> None:
    """Nobody else's knock tells: the answer goes directly, and is lost at most NATs."""

    async def main(town: Town) -> None:
        both = [town.add(offers=RVS, advertised=("rvs",)) for _ in range(2)]
        home = town.homes(1, visible=True)[0]
        await town.wake()
        await asyncio.sleep(60)
        assert home.servers(RENDEZVOUS) == {server.hit for server in both}
        for server in both:
            server.host.deaf = True
        report = await home.callability.check()
        assert "passes no calls on" in report["problems"][0]["missing"]
        await until(lambda: home.reach is Reach.NONE, 60)
        assert "it passes no calls on" in why(home)

    scenario(main)


def test_who_hides_is_called_through_relays_and_no_record_or_answer_says_where_it_is() -> None:
    async def main(town: Town) -> None:
        relays = [town.relay(group=bytes((n,))) for n in range(2)]
        hider = town.add(hides=True, group=b"h")  # it could be called directly
        stranger, friend = town.add(group=b"s"), town.homes(1)[0]
        told: list[tuple[float, bytes]] = []
        for other in (*relays, stranger, friend):
            other.host.learnt = Noting(hider.hit, told)
        await town.wake()
        await asyncio.sleep(30)
        assert hider.reach is Reach.SERVED
        assert hider.servers(CONTROL) == {relay.hit for relay in relays}
        assert await stranger.calls(hider)
        assert await friend.calls(hider)
        where = hider.host._direct(hider.hit)
        assert told
        assert not [at for at, contact in told if contact == where]
        for one in town.residents:
            assert not [r for r in one.node.engine.storage if where in r.raw]

    scenario(main)


def test_who_hides_tells_only_its_servers_where_it_is_to_see_whether_it_is_reached() -> None:
    async def main(town: Town) -> None:
        relays = [town.relay(group=bytes((n,))) for n in range(2)]
        hider = town.add(hides=True, site="home", group=b"h")
        for number in range(5):
            town.add(group=bytes((50 + number,)))
        await town.wake()
        await asyncio.sleep(60)
        assert hider.callability.hidden
        town.net.logging = True
        report = await hider.callability.check()
        where = hider.host._direct(hider.hit)
        told = {to for _, _, to, _, data in town.net.log if where in data}
        assert told == {relay.hit for relay in relays}
        assert {row["by"] for row in report["knocks"]} == {str(hit) for hit in told}

    scenario(main)


@pytest.mark.parametrize("began", [True, False])
def test_who_hides_and_comes_back_to_a_network_tells_nobody_where_it_is(began: bool) -> None:
    """Whatever network it was without, for however long: its servers are asked first."""

    async def main(town: Town) -> None:
        relays = [town.relay(group=bytes((n,))) for n in range(2)]
        hider = town.add(hides=True, group=b"h")
        stranger = town.add(group=b"s")
        told: list[tuple[float, bytes]] = []
        for other in (*relays, stranger):
            other.host.learnt = Noting(hider.hit, told)

        def cable(*, there: bool) -> None:
            hider.host.offline = not there
            town.net.reaches = None if there else lambda a, b: hider.hit not in (a, b)
            hider.host.emit(ContactChanged())

        cable(there=began)
        await town.wake()
        await asyncio.sleep(30)
        cable(there=False)
        await asyncio.sleep(60)
        assert hider.host.contact(hider.hit) != hider.host._direct(hider.hit)
        cable(there=True)
        await asyncio.sleep(30)
        assert hider.reach is Reach.SERVED
        assert told
        assert not [at for at, contact in told if contact == hider.host._direct(hider.hit)]

    scenario(main)


@pytest.mark.parametrize("seconds", [15, 40, 120])
def test_who_hides_among_many_tells_nobody_where_it_is_when_its_own_network_was_cut_off(
    seconds: float,
) -> None:
    """Its router starts anew, say: what it sees is that no server answers, and nobody else."""

    async def main(town: Town) -> None:
        relays = [town.relay(group=bytes((n,))) for n in range(2)]
        hider = town.add(hides=True, site="home")
        others = town.homes(9)
        told: list[tuple[float, bytes]] = []
        for other in (*relays, *others):
            other.host.learnt = Noting(hider.hit, told)
        await town.wake()
        await asyncio.sleep(60)
        assert hider.callability.hidden
        town.net.reaches = lambda a, b: hider.hit not in (a, b)
        for second in range(int(seconds) + 60):
            if second == seconds:
                town.net.reaches = None
            await asyncio.sleep(1)
            assert hider.callability.hidden
            assert not hider.host.friends
        assert hider.reach is Reach.SERVED
        assert max(told)[0] > 60
        where = hider.host._direct(hider.hit)
        assert not [at for at, contact in told if at > 60 and contact == where]

    scenario(main)


@pytest.mark.parametrize("others", [0, 8])
def test_who_hides_tells_where_it_is_when_nothing_else_makes_it_callable(others: int) -> None:
    """Among few for an hour, in which the relay may be away again."""

    async def main(town: Town) -> None:
        relay, seed = town.relay(group=b"r"), town.add(group=b"s")
        hider = town.add(hides=True, group=b"h")
        friend, *_ = town.homes(1 + others)
        await town.wake()
        await asyncio.sleep(30)
        direct = hider.host._direct(hider.hit)
        assert hider.host.contact(hider.hit) != direct
        await relay.sleep()
        await asyncio.sleep(90)
        assert hider.host.contact(hider.hit) == direct
        assert hider.reach.value == "directly"
        assert await seed.calls(hider)
        assert await friend.calls(hider)
        await relay.wake()
        await asyncio.sleep(120)
        assert hider.callability.hidden is bool(others)
        await asyncio.sleep(UNSTEADY)
        assert hider.callability.hidden
        assert hider.host.contact(hider.hit) != direct
        assert hider.reach is Reach.SERVED

    scenario(main)


def test_who_must_not_be_seen_is_told_that_rendezvous_servers_would_show_it() -> None:
    async def main(town: Town) -> None:
        town.add(offers=RVS, advertised=("rvs",))
        hidden = town.homes(1)[0]
        await town.wake()
        await asyncio.sleep(60)
        assert hidden.reach is Reach.NONE
        assert hidden.servers() == set()
        assert "visible = true" in why(hidden)

    scenario(main)


def test_a_mapped_port_makes_callable_without_anybody_s_server() -> None:
    async def main(town: Town) -> None:
        one, other = town.homes(2)
        one.host.mapped = other.host.mapped = True
        await town.wake()
        await asyncio.sleep(30)
        assert one.reach is other.reach is Reach.DIRECT
        assert await one.calls(other)
        assert await other.calls(one)

    scenario(main)


def test_on_one_lan_nobody_needs_anything() -> None:
    async def main(town: Town) -> None:
        people = [town.add(site="home") for _ in range(3)]
        await town.wake()
        await asyncio.sleep(30)
        assert {p.reach for p in people} == {Reach.DIRECT}
        assert await people[1].calls(people[2])

    scenario(main)


def test_a_relay_that_strangers_do_not_reach_is_not_advertised() -> None:
    async def main(town: Town) -> None:
        good = town.relay()
        bad = town.relay()
        bad.host.firewalled = True
        home = town.homes(1)[0]
        await town.wake()
        await asyncio.sleep(60)
        assert [p.hit for p in await home.providers.find("relay")] == [good.hit]
        bad.host.firewalled = False
        await asyncio.sleep(400)
        assert len(await home.providers.find("relay")) == 2

    scenario(main)


# --- nobody can call you


async def fall(town: Town, home: Resident, cause: Callable[[], Awaitable[None]]) -> float:
    """Seconds from the cause until it is said that nobody can call."""
    await asyncio.sleep(town.random.uniform(0, 60))
    assert home.callability.callable
    await cause()
    return await until(lambda: home.callability.callable is False, 60.0)


@pytest.mark.parametrize("seed", range(4))
def test_the_end_of_all_relays_is_told_within_a_minute(seed: int) -> None:
    async def main(town: Town) -> None:
        first = town.add()
        relays = [town.relay(), town.relay()]
        home = town.homes(1)[0]
        await town.wake()
        await asyncio.sleep(60)

        async def cause() -> None:
            for relay in relays:
                await relay.sleep()

        await fall(town, home, cause)
        assert "relay" in why(home)
        assert "behind a NAT" in why(home)
        assert first.reach is Reach.DIRECT
        await relays[0].wake()
        await until(lambda: home.callability.callable is True, 120.0)

    scenario(main, seed=seed)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("what", ["mapping", "firewall", "network", "partition"])
def test_what_ends_without_a_word_is_told_within_a_minute(what: str, seed: int) -> None:
    async def main(town: Town) -> None:
        others = [town.add() for _ in range(5)]
        home = town.add(site="home")
        home.host.mapped = True
        await town.wake()
        await asyncio.sleep(100)
        assert home.reach is Reach.DIRECT

        async def cause() -> None:
            match what:
                case "mapping":
                    home.host.mapped = False
                case "firewall":
                    home.host.firewalled = True
                case "network":
                    home.host.offline = True
                case _:
                    town.net.reaches = lambda a, b: home.hit not in (a, b)

        await fall(town, home, cause)
        said = why(home)
        expected = {
            "mapping": "maps no port",
            "firewall": "others don't get through",
            "network": "no network address",
            "partition": "no other peer of the overlay answers",
        }[what]
        assert expected in said
        assert {o.reach for o in others} == {Reach.DIRECT}

    scenario(main, seed=seed)


@pytest.mark.parametrize("seed", range(5))
def test_two_that_wake_on_different_lans_are_told_within_half_a_minute(seed: int) -> None:
    async def main(town: Town) -> None:
        two = town.homes(2)
        for one in two:
            one.host.site = "together"
        await town.wake()
        await asyncio.sleep(100)
        assert await two[0].calls(two[1])
        for one in two:
            await one.sleep()
        await asyncio.sleep(3600)
        for number, one in enumerate(two):
            one.host.site = f"hotel {number}"
        await town.wake()
        for one in two:
            await until(lambda o=one: o.callability.callable is False, 30.0)  # type: ignore[misc]
            said = why(one)
            assert "no other peer of the overlay answers" in said
            assert "relay" in said
            assert "PCP" in said or "tried again" in said

    scenario(main, seed=seed)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_kind_of_nat_is_known_without_any_server(symmetric: bool) -> None:
    async def main(town: Town) -> None:
        for _ in range(3):
            town.add()
        home, neighbour = town.homes(2)
        home.host.symmetric = symmetric
        await town.wake()
        await asyncio.sleep(30)
        assert home.host.reachability().nat is Nat.UNKNOWN
        report = await home.callability.check()
        assert report["nat"] == ("endpoint-dependent" if symmetric else "endpoint-independent")
        assert neighbour.hit not in home.host.seen_by  # those that it speaks with directly

    scenario(main)


def test_status_and_netcheck_say_the_same_when_the_uplink_is_cut_or_relays_die() -> None:
    async def main(town: Town) -> None:
        for _ in range(3):
            town.add()
        relay, home = town.relay(), town.homes(1)[0]
        await town.wake()
        await asyncio.sleep(60)
        await relay.sleep()
        report = await home.callability.check()
        (problem, *_) = report["problems"]
        assert (
            problem["missing"] == f"the server {relay.hit} serves this peer, but does not answer"
        )
        assert "service relay" in problem["do"]
        await until(lambda: home.reach is Reach.NONE, 60)
        assert "connection of the router" not in why(home)
        town.net.reaches = lambda a, b: home.hit not in (a, b)
        report = await home.callability.check()
        assert report["problems"] == home.callability.status()["why"]
        assert "nothing else from the Internet" in report["problems"][0]["missing"]
        assert "connection of the router" in report["problems"][0]["do"]
        assert "tried again" in report["problems"][-1]["do"]  # nobody else's server is at fault

    scenario(main)


def test_who_is_alone_is_told_so_and_hears_when_somebody_comes() -> None:
    async def main(town: Town) -> None:
        first, second = town.add(), town.add()
        first.seeds = ()
        await first.wake()
        await until(lambda: first.callability.callable is False, 30.0)
        assert "nobody else is known" in why(first)
        await second.wake()
        await until(lambda: first.callability.callable is True, 10.0)

    scenario(main)


def test_after_a_move_the_servers_are_kept_or_found_anew() -> None:
    async def main(town: Town) -> None:
        relays = [town.relay() for _ in range(3)]
        home = town.homes(1)[0]
        await town.wake()
        await asyncio.sleep(60)
        for place in ("café", None, "hotel"):
            home.host.move(place)
            await asyncio.sleep(30)
            assert home.callability.callable
            assert await relays[0].calls(home)
        assert home.reach is Reach.SERVED

    scenario(main)


def test_few_keep_ways_open_to_each_other_and_many_leave_that_to_servers() -> None:
    async def main(town: Town) -> None:
        few = town.homes(4)
        for home in few:
            home.host.site = "together"
        await town.wake()
        await asyncio.sleep(30)
        assert all(home.host.friends == () for home in few)  # all are reached directly
        for number, home in enumerate(few):
            home.host.move(f"home {number}")
        await asyncio.sleep(60)
        for home in few:
            others = {other.hit for other in few if other is not home}
            assert set(home.host.friends) == others

    async def hidden(town: Town) -> None:
        relay = town.relay()
        few = [town.add(hides=True, site=f"home {n}") for n in range(3)]
        await town.wake()
        await asyncio.sleep(60)
        await relay.sleep()
        for _ in range(90):
            await asyncio.sleep(1)
            assert not [home for home in few if home.host.friends and home.callability.hidden]
        assert all(home.host.friends for home in few)

    async def many(town: Town) -> None:
        town.relay()
        homes = town.homes(12)
        await town.wake()
        await asyncio.sleep(60)
        assert all(home.host.friends == () for home in homes)

    scenario(main)
    scenario(hidden)
    scenario(many)


def test_a_relay_that_comes_back_is_used_at_once() -> None:
    async def main(town: Town) -> None:
        town.add()
        relay = town.relay()
        home = town.homes(1)[0]
        await town.wake()
        await asyncio.sleep(60)
        await relay.sleep()
        await asyncio.sleep(600)
        assert home.reach is Reach.NONE
        await relay.wake()
        await until(lambda: home.reach is Reach.SERVED, 10.0)

    scenario(main)


def test_idle_peers_behind_nats_send_little() -> None:
    async def main(town: Town) -> None:
        town.relay()
        town.relay()
        home = town.homes(1)[0]
        await town.wake()
        await asyncio.sleep(600)
        town.net.logging = True
        since = len(town.net.log)
        await asyncio.sleep(600)
        sent = [entry for entry in town.net.log[since:] if entry[1] == home.hit]
        # two servers' probes are 12 a minute; the overlay's own upkeep beside them
        assert len(sent) / 10 <= 12 + 12

    scenario(main)


def test_friends_whom_the_host_did_not_take_are_named_to_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main(town: Town) -> None:
        relay = town.relay()
        (home,) = town.homes(1, visible=True)
        named: list[Hit] = []
        befriend = home.host.befriend

        def takes(peers: Sequence[Hit], *, local: Hit | None = None) -> None:
            befriend(peers, local=local)
            named.extend(peers)

        def breaks(_peers: Sequence[Hit], *, local: Hit | None = None) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(home.host, "befriend", breaks)
        await town.wake(relay)
        await town.wake(home)
        await asyncio.sleep(60)
        assert home.callability.failures["look"]
        monkeypatch.setattr(home.host, "befriend", takes)
        await asyncio.sleep(60)
        assert relay.hit in named

    scenario(main)


@pytest.mark.parametrize("broken", ["search", "ping", "register", "probe", "look", "seen"])
def test_what_breaks_in_an_unforeseen_way_is_counted_and_tried_again(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(town: Town) -> None:
        relay = town.relay()
        (home,) = town.homes(1)
        await town.wake()
        await asyncio.sleep(30)
        kept, host = home.callability, home.host
        assert kept.reach is Reach.SERVED

        def breaks(*_args: object, **_more: object) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            where: tuple[object, str] = {
                "search": (kept._scout, "search"),
                "ping": (kept._scout, "node"),
                "register": (host, "register"),
                "probe": (kept, "_passes"),
                "look": (host, "reachability"),
                "seen": (kept._last_seen, "keep"),
            }[broken]
            patch.setattr(*where, breaks)
            if broken != "probe":
                await relay.sleep()
                await asyncio.sleep(60)
                await relay.wake()
            await asyncio.sleep(60)
            if broken == "seen":  # the disk's trouble: all else was seen to
                assert kept.reach is Reach.SERVED
                assert set(kept.failures) == {"keep"}
            if broken == "probe":  # a server that serves is not given up
                assert kept.reach is Reach.SERVED
        assert 0 < kept.failures.total() < 200
        await until(lambda: kept.reach is Reach.SERVED, 90)
        assert kept.status()["failures"] == dict(kept.failures)

    scenario(main)
