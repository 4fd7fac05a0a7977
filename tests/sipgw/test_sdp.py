import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipgw.errors import MalformedSdp
from sipgw.sdp import SessionDescription

OFFER = (
    b"v=0\r\n"
    b"o=alice 2890844526 2890844527 IN IP4 192.0.2.7\r\n"
    b"s=-\r\n"
    b"c=IN IP4 192.0.2.7\r\n"
    b"b=AS:192\r\n"
    b"t=0 0\r\n"
    b"a=ice-lite\r\n"
    b"m=audio 49170 RTP/AVP 0 8 101\r\n"
    b"a=rtpmap:0 PCMU/8000\r\n"
    b"a=rtcp:49171 IN IP4 192.0.2.7\r\n"
    b"a=candidate:1 1 UDP 2130706431 192.0.2.7 49170 typ host\r\n"
    b"a=ice-ufrag:8hhY\r\n"
    b"a=ice-pwd:asd88fgpdd777uzjYhagZg\r\n"
    b"a=rtcp-mux\r\n"
    b"a=sendonly\r\n"
    b"m=video 51372/2 RTP/SAVPF 31\r\n"
    b"c=IN IP6 2001:db8::7\r\n"
    b"a=end-of-candidates\r\n"
    b"a=rtcp-fb:* nack pli\r\n"
    b"m=image 54111 udptl t38\r\n"
    b"a=T38FaxVersion:0\r\n"
    b"m=audio 0 RTP/AVP 0\r\n"
    b"a=rtcp:5 IN IP4 192.0.2.7\r\n"
)
REWRITTEN = (
    b"v=0\r\n"
    b"o=alice 2890844526 2890844527 IN IP4 127.0.0.1\r\n"
    b"s=-\r\n"
    b"c=IN IP4 127.0.0.1\r\n"
    b"b=AS:192\r\n"
    b"t=0 0\r\n"
    b"m=audio 20000 RTP/AVP 0 8 101\r\n"
    b"a=rtpmap:0 PCMU/8000\r\n"
    b"a=rtcp:20001 IN IP4 127.0.0.1\r\n"
    b"a=rtcp-mux\r\n"
    b"a=sendonly\r\n"
    b"m=video 20002 RTP/SAVPF 31\r\n"
    b"c=IN IP4 127.0.0.1\r\n"
    b"a=rtcp-fb:* nack pli\r\n"
    b"m=image 0 udptl t38\r\n"
    b"a=T38FaxVersion:0\r\n"
    b"m=audio 0 RTP/AVP 0\r\n"
)
MINIMAL = (
    b"v=0\r\no=- 1 1 IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 %s\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"
)


def test_a_relay_replaces_addresses_ports_and_ice_and_nothing_else() -> None:
    offer = SessionDescription.parse(OFFER)
    ports = [(20000, 20001), (20002, 20003), None, (20004, 20005)]
    assert offer.rewrite("127.0.0.1", ports) == REWRITTEN
    assert not SessionDescription.parse(REWRITTEN).mentions("192.0.2.7")
    assert offer.encode() == OFFER


def test_what_the_sections_say_is_read_with_session_defaults() -> None:
    offer = SessionDescription.parse(OFFER)
    audio, video, fax, gone = offer.media
    assert offer.origin is not None
    assert (offer.origin.version, offer.origin.address) == ("2890844527", "192.0.2.7")
    assert (audio.kind, audio.port, audio.formats) == ("audio", 49170, ("0", "8", "101"))
    assert (audio.address, audio.rtcp_port, audio.rtcp_address) == (
        "192.0.2.7",
        49171,
        "192.0.2.7",
    )
    assert (audio.rtcp_mux, audio.direction, audio.on_hold) == (True, "sendonly", True)
    assert (video.count, video.address, video.rtcp_port) == (2, "2001:db8::7", None)
    assert [m.relayable for m in (audio, video, fax, gone)] == [True, True, False, False]
    assert gone.rejected


@pytest.mark.parametrize(
    "protocol",
    ["RTP/AVP", "RTP/SAVP", "RTP/AVPF", "RTP/SAVPF", "UDP/TLS/RTP/SAVPF", "UDP/TLS/RTP/SAVP"],
)
def test_every_rtp_profile_is_relayed(protocol: str) -> None:
    body = (MINIMAL % b"10.0.0.1").replace(b"RTP/AVP", protocol.encode())
    assert SessionDescription.parse(body).media[0].relayable


@pytest.mark.parametrize(
    "protocol", ["udptl", "TCP/RTP/AVP", "TCP/MSRP", "UDP/BFCP", "UDP/DTLS/SCTP"]
)
def test_no_other_protocol_is_relayed(protocol: str) -> None:
    body = (MINIMAL % b"10.0.0.1").replace(b"RTP/AVP", protocol.encode())
    assert not SessionDescription.parse(body).media[0].relayable


@pytest.mark.parametrize("address", [b"0.0.0.0", b"0.0.0.0/127"])
def test_hold_by_the_unspecified_address_stays_a_hold(address: bytes) -> None:
    held = SessionDescription.parse(MINIMAL % address)
    assert held.media[0].on_hold
    again = SessionDescription.parse(held.rewrite("127.0.0.1", [(20000, 20001)]))
    assert again.media[0].on_hold
    assert again.origin is not None
    assert again.origin.address == "127.0.0.1"


def test_an_ipv6_relay_changes_the_address_type() -> None:
    body = SessionDescription.parse(MINIMAL % b"10.0.0.1").rewrite("::1", [(20000, 20001)])
    assert b"o=- 1 1 IN IP6 ::1\r\n" in body
    assert b"c=IN IP6 ::1\r\n" in body
    assert b"IP4" not in body


def test_multicast_suffixes_and_names_are_replaced_whole() -> None:
    for address in (b"224.2.1.1/127/3", b"client.example"):
        body = SessionDescription.parse(MINIMAL % address).rewrite("127.0.0.1", [(20000, 20001)])
        assert b"c=IN IP4 127.0.0.1\r\n" in body


def test_an_rtcp_port_that_cannot_be_guessed_is_said() -> None:
    offer = SessionDescription.parse(MINIMAL % b"10.0.0.1")
    body = offer.rewrite("127.0.0.1", [(20000, 30000)])
    assert body.endswith(b"m=audio 20000 RTP/AVP 0\r\na=rtcp:30000\r\n")


def test_a_last_line_without_its_end_and_bare_line_feeds_survive() -> None:
    body = (MINIMAL % b"10.0.0.1").replace(b"\r\n", b"\n")[:-1]
    sdp = SessionDescription.parse(body)
    assert sdp.encode() == body
    again = SessionDescription.parse(sdp.rewrite("127.0.0.1", [(20000, 30000)]))
    assert (again.media[0].port, again.media[0].rtcp_port) == (20000, 30000)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "no v=0"),
        (b"<xml/>", "bad line"),
        (b"o=- 1 1 IN IP4 h\r\n", "no v=0"),
        (b"v=0\r\no=- 1\r\n", "bad o="),
        (b"v=0\r\no=- 1 1 IN IP4 h\r\no=x\r\n", "bad o="),
        (b"v=0\r\nc=ATM x\r\n", "bad c="),
        (b"v=0\r\nm=audio x RTP/AVP 0\r\n", "bad m="),
        (b"v=0\r\nm=audio 65536 RTP/AVP 0\r\n", "bad m="),
        (b"v=0\r\nm=audio 1 RTP/AVP 0\r\na=rtcp:99999\r\n", "bad a=rtcp"),
        (b"v=0\r\na=x\rc=IN IP4 10.0.0.1\r\n", "control character"),
        (b"v=0\r\n" + b"m=audio 1 RTP/AVP 0\r\n" * 33, "too many m="),
        (b"v=0\r\n" + b"a=x\r\n" * 20_000, "too large"),
    ],
)
def test_what_cannot_be_edited_is_refused_with_its_reason(body: bytes, reason: str) -> None:
    with pytest.raises(MalformedSdp, match=reason):
        SessionDescription.parse(body)


LINES = st.lists(
    st.sampled_from(
        [
            b"o=- 1 1 IN IP4 203.0.113.9",
            b"c=IN IP4 203.0.113.9",
            b"c=IN IP6 2001:db8::9",
            b"m=audio 4000 RTP/AVP 0",
            b"m=video 0 RTP/AVP 31",
            b"m=image 4002/3 udptl t38",
            b"a=rtcp:4001 IN IP4 203.0.113.9",
            b"a=rtcp:4001",
            b"a=rtcp-mux",
            b"a=candidate:1 1 UDP 1 203.0.113.9 4000 typ host",
            b"a=remote-candidates:1 203.0.113.9 4000",
            b"a= rtcp:4001 IN IP4 203.0.113.9",
            b"a= candidate:1 1 UDP 1 203.0.113.9 4000 typ host",
            b"a=Candidate:1 1 UDP 1 203.0.113.9 4000 typ host",
            b"a=rtpmap:0 PCMU/8000",
            b"a=\xff\xfe",
            b"b=AS:64",
        ]
    ),
    max_size=20,
)


@given(LINES, st.lists(st.none() | st.just((20000, 20001)) | st.just((9, 9)), max_size=4))
def test_a_rewritten_description_keeps_its_sections_and_no_address(
    lines: list[bytes], ports: list[tuple[int, int] | None]
) -> None:
    before = SessionDescription.parse(b"\r\n".join([b"v=0", *lines]))
    body = before.rewrite("127.0.0.1", ports)
    after = SessionDescription.parse(body)
    assert b"203.0.113.9" not in body
    assert b"2001:db8" not in body
    assert [m.kind for m in after.media] == [m.kind for m in before.media]
    for old, new, pair in zip(before.media, after.media, [*ports, *[None] * 20], strict=False):
        assert new.port == (pair[0] if pair and not old.rejected else 0)
        assert (new.protocol, new.formats) == (old.protocol, old.formats)
    assert after.rewrite("127.0.0.1", ports) == body


@given(st.binary(max_size=200) | LINES.map(lambda lines: b"v=0\n" + b"\n".join(lines)))
def test_any_bytes_are_a_description_that_comes_back_or_malformed(body: bytes) -> None:
    with contextlib.suppress(MalformedSdp):
        sdp = SessionDescription.parse(body)
        assert sdp.encode() == body
        sdp.rewrite("127.0.0.1", [(20000, 20001)])


def test_an_address_that_was_changed_is_said_nowhere_else() -> None:
    body = (
        b"v=0\r\no=- 1 1 IN IP4 192.0.2.7\r\ns=of 192.0.2.7\r\ni=at 192.0.2.7\r\n"
        b"c=IN IP4 192.0.2.7\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
        b"a=alt:1 1 : x y 192.0.2.7 4000\r\na=ssrc:1 cname:me@192.0.2.7\r\n"
        b"a=source-filter:incl IN IP4 * 192.0.2.7\r\na=ssrc:1 cname:me\r\n"
    )
    expected = (
        b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\n"
        b"c=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 20000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
        b"a=ssrc:1 cname:me\r\n"
    )
    assert SessionDescription.parse(body).rewrite("127.0.0.1", [(20000, 20001)]) == expected
