"""Descriptions and calls of UPnP routers, and what a stranger's XML may not do."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipctl.errors import MalformedPacket
from hipctl.igd import (
    FIREWALL1,
    IP1,
    IP2,
    LONGEST,
    PPP1,
    Answer,
    Service,
    call,
    parse_answer,
    parse_description,
    parse_ip,
)
from hipctl.mapped import Url

BASE = Url("192.168.77.1", 43_829, "/rootDesc.xml")


def service(kind: str, control: str) -> str:
    return (
        f"<service><serviceType>{kind}</serviceType><serviceId>x</serviceId>"
        f"<SCPDURL>/s.xml</SCPDURL><controlURL>{control}</controlURL></service>"
    )


def description(*services: str, head: str = "") -> bytes:
    inside = "".join(services)
    return (
        '<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0">' + head + "<device>"
        "<deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType><deviceList>"
        f"<device><serviceList>{inside}</serviceList></device></deviceList></device></root>"
    ).encode()


def test_services_are_found_wherever_they_are_the_best_kind_first() -> None:
    found = parse_description(
        description(
            service("urn:schemas-upnp-org:service:Layer3Forwarding:1", "/l3"),
            service(FIREWALL1, "/v6"),
            service(PPP1, "/ppp"),
            service(IP1, "/ip1"),
            service(IP2, "/ip2"),
        ),
        BASE,
    )
    assert [(each.kind, each.control.path) for each in found] == [
        (IP2, "/ip2"),
        (IP1, "/ip1"),
        (PPP1, "/ppp"),
        (FIREWALL1, "/v6"),
    ]


def test_an_old_device_may_name_a_base_of_its_own() -> None:
    head = "<URLBase>http://192.168.77.1:5000/x/</URLBase>"
    (found,) = parse_description(description(service(IP1, "ctl"), head=head), BASE)
    assert found == Service(IP1, Url("192.168.77.1", 5_000, "/x/ctl"))
    head = "<URLBase>http://127.0.0.1:5000/</URLBase>"
    (found,) = parse_description(description(service(IP1, "/ctl"), head=head), BASE)
    assert found == Service(IP1, Url("192.168.77.1", 43_829, "/ctl"))


def test_services_elsewhere_are_none() -> None:
    made = description(service(IP2, "http://169.254.169.254/"), service(IP1, "/ctl"))
    assert [each.kind for each in parse_description(made, BASE)] == [IP1]


def test_only_some_services_of_a_kind_are_tried() -> None:
    made = description(*(service(IP1, f"/{n}") for n in range(50)))
    assert len(parse_description(made, BASE)) == 4


def test_a_name_in_latin_1_does_no_harm() -> None:
    made = description(service(IP1, "/ctl"), head="<friendlyName>Büro</friendlyName>")
    assert len(parse_description(made.decode().encode("latin-1"), BASE)) == 1
    assert len(parse_description(b"\xef\xbb\xbf" + made + b"\r\n\0", BASE)) == 1


def test_a_call_is_written_as_soap_has_it() -> None:
    body = call(IP1, "DeletePortMapping", {"NewRemoteHost": "", "NewExternalPort": 10_500})
    assert body == (
        b'<?xml version="1.0"?>\r\n'
        b'<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" '
        b's:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>'
        b'<u:DeletePortMapping xmlns:u="urn:schemas-upnp-org:service:WANIPConnection:1">'
        b"<NewRemoteHost></NewRemoteHost><NewExternalPort>10500</NewExternalPort>"
        b"</u:DeletePortMapping></s:Body></s:Envelope>\r\n"
    )


def envelope(inside: str) -> bytes:
    return (
        '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/">'
        f"<s:Body>{inside}</s:Body></s:Envelope>"
    ).encode()


def fault(code: str, why: str = "ConflictInMappingEntry") -> bytes:
    return envelope(
        "<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>"
        '<UPnPError xmlns="urn:schemas-upnp-org:control-1-0">'
        f"<errorCode>{code}</errorCode><errorDescription>{why}</errorDescription>"
        "</UPnPError></detail></s:Fault>"
    )


def test_answers_and_faults_are_read() -> None:
    inside = (
        '<u:AddAnyPortMappingResponse xmlns:u="x"><NewReservedPort> 10500 </NewReservedPort>'
        "</u:AddAnyPortMappingResponse>"
    )
    answer = parse_answer(envelope(inside))
    assert answer.fault == 0
    assert answer.values["NewReservedPort"] == "10500"
    assert parse_answer(fault("718")) == Answer({}, 718, "ConflictInMappingEntry")
    assert parse_answer(fault("abc")).fault == -1
    assert parse_answer(fault("9" * 30)).fault == -1
    assert parse_answer(fault("718", "a\x07\u202eb".replace("\x07", "") * 90)).reason.isprintable()
    assert len(parse_answer(fault("718", "x" * 900)).reason) == 60


@pytest.mark.parametrize(
    ("text", "ip"),
    [("5.9.1.1", "5.9.1.1"), ("10.0.0.1", "10.0.0.1")]
    + [(text, None) for text in ("", "0.0.0.0", "x", "::1", "224.0.0.1", "127.0.0.1")],
)
def test_an_external_address_is_one_that_a_router_can_have(text: str, ip: str | None) -> None:
    assert parse_ip(text) == ip


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE a ['
    + '<!ENTITY l0 "ha">'
    + "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(12))
    + "]><a>&l12;</a>"
).encode()


@pytest.mark.parametrize(
    "document",
    [
        BOMB,
        b'<!DOCTYPE a SYSTEM "http://169.254.169.254/x"><a/>',
        b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
        b"<a>&undefined;</a>",
        b"<a>" * 33 + b"</a>" * 33,  # too deep
        b"<a>" + b"<b/>" * 4_097 + b"</a>",  # too much
        b"<a>" + b"x" * LONGEST + b"</a>",  # too long
        b"<a>",
        b"",
        b"hello",
        b'<?xml version="1.0" encoding="utf-16"?>\xff\xfe<\0a\0/\0>\0',
    ],
    ids=lambda document: document[:24].decode("latin-1"),
)
def test_a_strangers_xml_is_refused_in_no_time(document: bytes) -> None:
    began = time.process_time()
    for parse in (parse_answer, lambda data: parse_description(data, BASE)):
        with pytest.raises(MalformedPacket):
            parse(document)
    assert time.process_time() - began < 0.5


def test_the_largest_document_that_is_read_costs_little() -> None:
    deep = b"<a>" * 31 + b"<b/>" * 4_000 + b"x" * 40_000 + b"</a>" * 31
    began = time.process_time()
    parse_description(deep, BASE)
    assert time.process_time() - began < 0.5


@given(st.binary(max_size=200) | st.text("<>/!ab&;?[]\" '=:", max_size=80).map(str.encode))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for parse in (parse_answer, lambda data: parse_description(data, BASE)):
        try:
            parse(data)
        except MalformedPacket as error:
            assert error.offset >= 0
