"""Routes as Linux tells them, and behind which router each of our addresses is."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipctl.mapped import Uplink
from hipctl.routes import MOST_ROUTES, Route, parse_routes4, parse_routes6, uplinks

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="addresses lie as in memory")

ROUTES4 = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t014DA8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t004DA8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
wlan0\t00000000\t010200C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
wlan0\t0000000A\t00000000\t0001\t0\t0\t600\t000000FF\t0\t0\t0
down\t00000000\t010200C0\t0002\t0\t0\t600\t00000000\t0\t0\t0
lost\t00000000\t00000000\t0201\t0\t0\t600\t00000000\t0\t0\t0
"""
NOTHING = "0" * 32
ROUTES6 = f"""\
2a000077000000000000000000000000 40 {NOTHING} 00 {NOTHING} 00000100 00000001 00000000 00000001 eth0
fe800000000000000000000000000000 40 {NOTHING} 00 {NOTHING} 00000100 00000001 00000000 00000001 eth0
{NOTHING} 00 {NOTHING} 00 fe800000000000002c2924fffe2ec493 00000400 00000001 00000000 00000003 eth0
2a000077000000000000000000000002 80 {NOTHING} 00 {NOTHING} 00000000 00000002 00000000 80200001 eth0
ff000000000000000000000000000000 08 {NOTHING} 00 {NOTHING} 00000100 00000004 00000000 00000001 eth0
{NOTHING} 00 {NOTHING} 00 {NOTHING} ffffffff 00000001 00000000 00200200 lo
"""
ROUTER6 = "fe80::2c29:24ff:fe2e:c493%eth0"


def test_routes_are_read_as_the_kernel_writes_them() -> None:
    found = parse_routes4(ROUTES4)
    assert [(each.link, str(each.network), each.gateway, each.metric) for each in found] == [
        ("eth0", "0.0.0.0/0", "192.168.77.1", 100),
        ("eth0", "192.168.77.0/24", None, 0),
        ("docker0", "172.17.0.0/16", None, 0),
        ("wlan0", "0.0.0.0/0", "192.0.2.1", 600),
        ("wlan0", "10.0.0.0/8", None, 600),
    ]
    six = parse_routes6(ROUTES6)
    assert [(str(each.network), each.gateway) for each in six] == [
        ("2a00:77::/64", None),
        ("fe80::/64", None),
        ("::/0", ROUTER6),
        ("2a00:77::2/128", None),
        ("ff00::/8", None),
    ]


def test_each_address_is_behind_the_router_of_its_link() -> None:
    routes = parse_routes4(ROUTES4) + parse_routes6(ROUTES6)
    ours = ["2a00:77::2", "10.1.1.1", "192.168.77.2", "172.17.0.1", "127.0.0.1", "fd00::1"]
    found = uplinks(routes, ours, 8)
    assert found == [
        Uplink("10.1.1.1", "192.0.2.1"),
        Uplink("192.168.77.2", "192.168.77.1"),
        Uplink("2a00:77::2", ROUTER6),
    ]
    assert [each.link for each in found] == ["wlan0", "eth0", "eth0"]
    assert [str(net) for net in found[2].nearby] == ["2a00:77::/64"]
    assert uplinks(routes, ours, 1) == found[:1]


def test_public_ipv4_and_local_ipv6_addresses_need_nobodys_help() -> None:
    routes = parse_routes4(ROUTES4) + parse_routes6(ROUTES6)
    ours = ["5.9.1.1", "fd00::1", "fe80::1", "169.254.1.1", "2001:20::1", "::1", "0.0.0.0"]
    assert uplinks(routes, ours, 8) == []


def test_a_lone_ipv6_address_is_behind_the_only_router_there_is() -> None:
    one = parse_routes6(ROUTES6)
    assert uplinks(one, ["2a00:88::9"], 8) == [Uplink("2a00:88::9", ROUTER6)]
    two = [*one, Route("wlan0", one[2].network, "fe80::9%wlan0", 600)]
    assert uplinks(two, ["2a00:88::9"], 8) == []
    assert uplinks(parse_routes4(ROUTES4)[:2], ["10.1.1.1"], 8) == []  # DHCP gives a network too


def test_of_two_routers_on_a_link_the_kernel_takes_the_one_of_the_least_metric() -> None:
    routes = parse_routes4(ROUTES4)
    routes.insert(0, Route("eth0", routes[0].network, "192.168.77.9", 200))
    assert uplinks(routes, ["192.168.77.2"], 8) == [Uplink("192.168.77.2", "192.168.77.1")]


def test_a_provider_router_is_not_read_to_the_end() -> None:
    line = ROUTES4.splitlines()[2] + "\n"
    assert len(parse_routes4(line * (2 * MOST_ROUTES))) == MOST_ROUTES


@given(st.text(max_size=200) | st.sampled_from(ROUTES4 + ROUTES6).map(lambda char: char * 40))
def test_any_text_is_read(text: str) -> None:
    uplinks(parse_routes4(text) + parse_routes6(text), ["10.0.0.1", "2a00::1"], 4)


@given(st.data())
def test_changed_tables_are_read(data: st.DataObject) -> None:
    for table, parse in ((ROUTES4, parse_routes4), (ROUTES6, parse_routes6)):
        at = data.draw(st.integers(0, len(table)))
        put = data.draw(st.text(alphabet="0fFx-\t ", max_size=3))
        uplinks(parse(table[:at] + put + table[at + len(put) :]), ["10.0.0.1", "2a00::1"], 4)
