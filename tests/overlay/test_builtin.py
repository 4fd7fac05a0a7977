"""What public peers do for others: their tables, what the host is told, what a status says."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hipctl import Offer, RegistrationFailure, RegistrationRefused, RegistrationType
from overlay import ConfigError
from overlay.builtin import RelayService, RendezvousService
from overlay.commands.running import status_lines
from overlay.services import load_services
from sim.hits import SimHost
from sim.loop import simulate
from sim.peer import SimPeer, World

RVS = RegistrationType.RENDEZVOUS
HIP = RegistrationType.RELAY_UDP_HIP
ESP = RegistrationType.RELAY_UDP_ESP


def client(world: World, server: SimPeer) -> SimHost:
    host = world.net.host()
    host.learn(server.hit, server.host.contact(server.hit))
    return host


def test_a_relay_is_offered_and_advertised_until_it_stops() -> None:
    async def main() -> None:
        world = World()
        peer = world.peer()
        relay = RelayService(peer, {"clients": 5, "packets": 10, "bandwidth": 1000})
        assert peer.sim.registry.offers == {}
        await relay.start()
        assert world.offered == {"relay": {peer.hit: 0}}
        assert peer.sim.registry.offers == {
            HIP: Offer(5, 600.0, 256, 100_000, 12_500_000, 50_000, burst=4.0),
            ESP: Offer(5, 600.0, 10, 1000, 12_500_000, 50_000),
        }
        await relay.stop()
        assert world.offered == {"relay": {}}
        assert peer.sim.registry.offers == {}

    simulate(main)


def test_both_services_of_a_peer_and_of_several_overlays_are_offered_together() -> None:
    async def main() -> None:
        peer = World().peer()
        rvs = RendezvousService(peer, {"clients": 9, "packets": 7, "members": True})
        relay = RelayService(peer, {"clients": 5, "bandwidth": 0, "packets": 10})
        other = RelayService(
            peer,
            {
                "clients": 7,
                "lifetime": 300,
                "packets": 20,
                "control_packets": 300,
                "control_bandwidth": 0,
                "total_packets": 60_000,
                "members": True,
            },
        )
        for service in (rvs, relay, other):
            await service.start()
        offers = peer.sim.registry.offers
        assert offers[RVS] == Offer(9, 600.0, 7, 100_000, 12_500_000, 50_000, 4.0, True)
        assert offers[HIP] == Offer(7, 600.0, 300, 0.0, 12_500_000, 60_000, 4.0)
        assert offers[ESP] == Offer(7, 600.0, 20, 0.0, 12_500_000, 60_000)
        await relay.stop()
        assert offers != peer.sim.registry.offers
        assert peer.sim.registry.offers[ESP].packets == 20
        assert peer.sim.registry.offers[ESP].credentials
        await other.stop()
        assert set(peer.sim.registry.offers) == {RVS}

    simulate(main)


def test_a_status_tells_whom_it_serves_and_why_it_refused() -> None:
    async def main() -> None:
        world = World()
        peer = world.peer()
        relay = RelayService(peer, {"clients": 2})
        await relay.start()
        assert relay.status() == {
            "clients": {"relay_udp_hip": 0, "relay_udp_esp": 0},
            "room": 2,
            "refused": {},
            "served": [],
        }
        clients = [client(world, peer) for _ in range(3)]
        await clients[0].register(peer.hit, (HIP, ESP))
        await clients[1].register(peer.hit, (HIP,))
        with pytest.raises(RegistrationRefused) as caught:
            await clients[2].register(peer.hit, (HIP,))
        assert caught.value.failure == RegistrationFailure.INSUFFICIENT_RESOURCES
        status = relay.status()
        assert status["clients"] == {"relay_udp_hip": 2, "relay_udp_esp": 1}
        assert status["room"] == 0
        assert status["refused"] == {"insufficient resources": 1}
        assert {(row["hit"], row["for"]) for row in status["served"]} == {
            (str(clients[0].hits[0]), "relay_udp_hip"),
            (str(clients[0].hits[0]), "relay_udp_esp"),
            (str(clients[1].hits[0]), "relay_udp_hip"),
        }
        await asyncio.sleep(1300)  # who does not come again is forgotten
        clients[0].stop()
        clients[1].stop()
        await asyncio.sleep(700)
        assert relay.status()["served"] == []

    simulate(main)


def test_people_see_a_row_for_each_client() -> None:
    service: Mapping[str, Any] = {
        "clients": {"relay_udp_hip": 1},
        "served": [{"hit": "2001:2f::1", "for": "relay_udp_hip", "packets": 7}],
    }
    status = {
        "uptime": 1,
        "pid": 1,
        "profile": "p",
        "identities": {},
        "overlays": {},
        "services": {"relay": service},
        "associations": [],
        "counters": {},
    }
    lines = list(status_lines(json.loads(json.dumps(status))))
    assert "service relay: clients={relay_udp_hip=1}" in lines
    assert "  served {hit=2001:2f::1 for=relay_udp_hip packets=7}" in lines


@pytest.mark.parametrize(
    ("service", "table", "message"),
    [
        (RelayService, {"client": 1}, r"services\.relay\.client: unknown key"),
        (RelayService, {"clients": 0}, r"services\.relay\.clients: must be between 1"),
        (RelayService, {"clients": "many"}, r"services\.relay\.clients: "),
        (RelayService, {"lifetime": 5}, r"services\.relay\.lifetime: must be between 10"),
        (RelayService, {"packets": -1}, r"services\.relay\.packets: must be between 0"),
        (RelayService, {"bandwidth": 1e11}, r"services\.relay\.bandwidth: "),
        (RelayService, {"total_bandwidth": float("nan")}, r"services\.relay\.total_bandwidth: "),
        (RelayService, {"control_packets": -1}, r"services\.relay\.control_packets: must be betw"),
        (RelayService, {"control_bandwidth": 1e11}, r"services\.relay\.control_bandwidth: "),
        (RelayService, {"total_packets": 1e8}, r"services\.relay\.total_packets: "),
        (
            RendezvousService,
            {"control_packets": 1},
            r"services\.rvs\.control_packets: unknown key",
        ),
        (RendezvousService, {"packets": -1}, r"services\.rvs\.packets: must be between 0"),
        (RendezvousService, {"bandwidth": 1e11}, r"services\.rvs\.bandwidth: "),
        (RendezvousService, {"clients": 70_000}, r"services\.rvs\.clients: "),
        (RendezvousService, {"members": 1}, r"services\.rvs\.members: "),
    ],
)
def test_a_wrong_table_is_one_sentence(service: type, table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        service(World().peer(), table)


def test_the_installed_package_has_both_services(tmp_path: Path) -> None:
    relay, rvs = load_services(World().peer(), {"relay": {}, "rvs": {}})
    assert isinstance(relay, RelayService)
    assert isinstance(rvs, RendezvousService)
