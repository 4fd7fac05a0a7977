"""How UPnP routers are found, and whom we do not follow anywhere."""

import contextlib
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipctl.errors import MalformedPacket, Rejected
from hipctl.mapped import Uplink, Url
from hipctl.ssdp import TARGETS, Advertisement, believe, locate, resolve, search

HOME = Uplink("192.168.77.2", "192.168.77.1", "eth0")
SIX = Uplink("2a00:77::2", "fe80::1%eth0", "eth0", nearby=(ipaddress.IPv6Network("2a00:77::/64"),))
ANSWER = (
    b"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\n"
    b"ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n"
    b"USN: uuid:8057ec4f::urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\nEXT:\r\n"
    b"LOCATION: http://192.168.77.1:43829/rootDesc.xml\r\n"
    b"BOOTID.UPNP.ORG: 1795844981\r\n\r\n"
)
NOTIFY = (
    b"NOTIFY * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n"
    b"NT: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\nNTS: ssdp:byebye\r\n\r\n"
)


def test_a_search_is_written_as_in_section_1_3_2() -> None:
    assert search("239.255.255.250", TARGETS[0]) == (
        b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n"
        b'MAN: "ssdp:discover"\r\nMX: 1\r\n'
        b"ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n"
    )
    assert b"HOST: [ff02::c]:1900\r\n" in search("ff02::c", TARGETS[0])


def test_answers_and_notifications_are_read() -> None:
    told = Advertisement.parse(ANSWER)
    assert told.location == "http://192.168.77.1:43829/rootDesc.xml"
    assert (told.kind, told.boot, told.leaving) == (TARGETS[0], "1795844981", False)
    gone = Advertisement.parse(NOTIFY)
    assert (gone.kind, gone.location, gone.leaving) == (TARGETS[0], "", True)
    assert Advertisement.parse(ANSWER.replace(b"\r\n", b"\n")) == told  # as some have it
    assert Advertisement.parse(ANSWER.replace(b"LOCATION: ", b"location:")) == told


@pytest.mark.parametrize(
    "data",
    [
        b"",
        search("239.255.255.250", TARGETS[0]),  # somebody else's search
        b"HTTP/1.1 404 Not Found\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        ANSWER + bytes(2_048),
    ],
)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedPacket):
        Advertisement.parse(data)


@pytest.mark.parametrize(
    ("source", "uplink", "believed"),
    [
        ("192.168.77.1", HOME, True),
        ("192.168.77.9", HOME, False),  # another device of the home
        ("5.9.1.1", HOME, False),
        ("fe80::1%eth0", SIX, True),
        ("2a00:77::1", SIX, True),  # the router has several addresses
        ("fe80::9%eth0", SIX, True),
        ("fe80::1%wlan0", SIX, False),
        ("2a00:88::1", SIX, False),
        ("192.168.77.1", SIX, False),
    ],
)
def test_only_the_router_is_believed(source: str, uplink: Uplink, believed: bool) -> None:
    assert believe(source, uplink) is believed


def test_a_description_is_where_the_answer_came_from() -> None:
    assert locate("http://192.168.77.1:43829/rootDesc.xml", "192.168.77.1") == Url(
        "192.168.77.1", 43_829, "/rootDesc.xml"
    )
    assert locate("http://192.168.77.1", "192.168.77.1") == Url("192.168.77.1", 80, "/")
    assert locate("http://[fe80::1]:5/d?x=1#y", "fe80::1%eth0") == Url("fe80::1%eth0", 5, "/d?x=1")
    assert locate("http://[FE80:0::1]:5/d", "fe80::1%eth0").host == "fe80::1%eth0"


@pytest.mark.parametrize(
    "location",
    [
        "",
        "/rootDesc.xml",
        "//192.168.77.1/d",
        "http://192.168.77.9/d",  # another device of the home
        "http://169.254.169.254/latest/meta-data",
        "http://127.0.0.1:8080/",
        "http://localhost/",
        "http://router.example/",
        "http://192.168.77.1.example/",
        "http://192.168.77.1@192.168.77.9/",
        "http://a:b@192.168.77.1/",
        "https://192.168.77.1/",
        "ftp://192.168.77.1/",
        "file:///etc/passwd",
        "http://192.168.77.1:99999/",
        "http://192.168.77.1:x/",
        "http://[::ffff:192.168.77.1]/",
        "http://[192.168.77.1/",
        "http://3232255233/",
        "http://192.168.77.1/a b",
        "http://192.168.77.1/a\r\nX: y",
        "http://192.168.77.1/ä",
        "http://192.168.77.1/" + "a" * 512,
    ],
)
def test_no_location_leads_us_anywhere_else(location: str) -> None:
    with pytest.raises(Rejected):
        locate(location, "192.168.77.1")


BASE = Url("192.168.77.1", 43_829, "/igd/rootDesc.xml")


@pytest.mark.parametrize(
    ("reference", "port", "path"),
    [
        ("/ctl/IPConn", 43_829, "/ctl/IPConn"),
        ("ctl", 43_829, "/igd/ctl"),
        ("?a=b", 43_829, "/igd/rootDesc.xml?a=b"),
        ("", 43_829, "/igd/rootDesc.xml"),
        ("http://192.168.77.1:49000/x", 49_000, "/x"),
        ("../../../x", 43_829, "/x"),
        ("//192.168.77.1:8/x", 8, "/x"),
    ],
)
def test_control_urls_stay_at_the_device(reference: str, port: int, path: str) -> None:
    assert resolve(BASE, reference) == Url("192.168.77.1", port, path)


@pytest.mark.parametrize(
    "reference", ["http://127.0.0.1/", "//10.0.0.1/x", "javascript:x", "a\nb"]
)
def test_control_urls_that_leave_the_device_are_refused(reference: str) -> None:
    with pytest.raises(Rejected):
        resolve(BASE, reference)


def test_a_zone_stays_with_its_link_local_address() -> None:
    assert resolve(Url("fe80::1%eth0", 80, "/d"), "/ctl") == Url("fe80::1%eth0", 80, "/ctl")


@given(st.text(max_size=80) | st.text("http:/[]@.0123456789fe%?#\\", max_size=40))
def test_any_url_leads_to_the_device_or_nowhere(text: str) -> None:
    for source in ("192.168.77.1", "fe80::1%eth0"):
        try:
            found = resolve(Url(source, 80, "/"), text)
        except Rejected:
            continue
        assert found.host == source
        assert 0 < found.port < 65_536
        assert found.path.startswith("/")
        assert found.path.isprintable()
        assert " " not in found.path


@given(st.binary(max_size=300) | st.binary(max_size=90).map(lambda b: b"HTTP/1.1 200 OK\r\n" + b))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(MalformedPacket):
        Advertisement.parse(data)
