import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipgw.errors import MalformedMessage
from sipgw.headers import (
    CSeq,
    NameAddr,
    Uri,
    Via,
    parse_params,
    quote,
    split_list,
    unescape,
    unquote,
)


def test_the_parts_of_a_uri_are_those_of_section_19_1_1() -> None:
    uri = Uri.parse("sips:alice;day=tuesday:secret@Atlanta.example:5071;lr;maddr=h?subject=x&to=y")
    assert (uri.scheme, uri.user, uri.password) == ("sips", "alice;day=tuesday", "secret")
    assert (uri.host, uri.port, uri.params) == (
        "Atlanta.example",
        5071,
        {"lr": None, "maddr": "h"},
    )
    assert (uri.headers, uri.aor) == ("subject=x&to=y", "sips:alice;day=tuesday@atlanta.example")
    assert uri.bare == "sips:alice;day=tuesday:secret@Atlanta.example:5071;lr;maddr=h"
    six = Uri.parse("sip:[2001:db8::1]:5062;transport=tcp")
    assert (six.user, six.host, six.port) == ("", "[2001:db8::1]", 5062)
    sos = Uri.parse("urn:service:sos")
    assert (sos.scheme, sos.opaque, sos.is_sip, sos.aor) == (
        "urn",
        "service:sos",
        False,
        "urn:service:sos",
    )
    assert (
        str(Uri.build("bob", "example.com", 5060, params=";lr")) == "sip:bob@example.com:5060;lr"
    )


# §19.1.4 gives these
@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtlanTa.CoM;Transport=tcp"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
        ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;newparam=5"),
        ("tel:+4930", "tel:+4930"),
    ],
)
def test_uris_that_are_the_same(one: str, two: str) -> None:
    assert Uri.parse(one).same(Uri.parse(two))
    assert Uri.parse(two).same(Uri.parse(one))


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("SIP:ALICE@AtLanTa.CoM", "sip:alice@AtLanTa.CoM"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp"),
        ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
        ("sip:carol@chicago.com", "sips:carol@chicago.com"),
        ("sip:carol@chicago.com", "tel:+4930"),
        ("tel:+4930", "tel:+4931"),
    ],
)
def test_uris_that_differ(one: str, two: str) -> None:
    assert not Uri.parse(one).same(Uri.parse(two))
    assert not Uri.parse(two).same(Uri.parse(one))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "bad URI"),
        ("alice@example.com", "bad URI"),
        ("sip:", "bad URI"),
        ("sip:a@b@c", "bad user"),
        ("sip:a b@c", "bad user"),
        ("sip:a%4@c", "bad user"),
        ("sip:a@", "bad host"),
        ("sip:a@[::1", "bad host"),
        ("sip:a@h:0", "bad port"),
        ("sip:a@h:65536", "bad port"),
        ("sip:a@h:x", "bad URI parameter"),
        ("sip:a@h;", "bad URI parameter"),
        ("sip:a@h;x;x", "bad URI parameter"),
        ("sip:a@h;x=", "bad URI parameter"),
        ("sip:a@h; lr", "bad URI parameter"),
        ("sip:a@h?", "bad URI header"),
        ("sip:a@h\r\nVia: x", "bad URI"),
        ("tel:1 2", "bad URI"),
        ("<sip:a@h>", "bad URI"),
    ],
)
def test_what_is_no_uri_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(MalformedMessage, match=reason):
        Uri.parse(text)


def test_addresses_with_and_without_brackets() -> None:
    named = NameAddr.parse('"A. \\"G.\\" Bell" <sip:agb@bell.example;x=1>;tag=a48s;+g.y="q;,<z>"')
    assert (named.display, named.uri.host, named.tag) == ('A. "G." Bell', "bell.example", "a48s")
    assert named.uri.params == {"x": "1"}
    assert unquote(named.params["+g.y"] or "") == "q;,<z>"
    bare = NameAddr.parse("sip:+12125551212@server.phone2net.example ;tag=887s")
    assert (bare.display, bare.uri.params, bare.tag) == ("", {}, "887s")
    assert NameAddr.parse("Anonymous <sip:c8@anon.example>").display == "Anonymous"
    assert NameAddr.parse('sip:a@b;+sip.instance="<urn:uuid:1>"').uri.host == "b"
    assert str(named) == '"A. \\"G.\\" Bell" <sip:agb@bell.example;x=1>;tag=a48s;+g.y="q;,<z>"'


@pytest.mark.parametrize(
    "text",
    [
        "",
        '"x',
        '"x" sip:a@b',
        "<sip:a@b",
        "x, y <sip:a@b>",
        "sip:a@b?x=y",
        "<sip:a@b>;",
        "<sip:a@b> junk",
        "<sip:a@b>;tag=1;tag=2",
        "<sip:a@b>;tag=",
        "<>",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(MalformedMessage):
        NameAddr.parse(text)


def test_a_via_says_where_responses_go() -> None:
    via = Via.parse("SIP/2.0/udp Erlang.bell.example:5062 ;received=192.0.2.207;branch=z9hG4bK87a")
    assert (via.transport, via.sent_by, via.branch) == (
        "UDP",
        "erlang.bell.example:5062",
        "z9hG4bK87a",
    )
    seen = Via.parse("SIP/2.0/UDP h;branch=z9hG4bK1;rport").seen_from("192.0.2.1", 9)
    assert str(seen) == "SIP/2.0/UDP h;branch=z9hG4bK1;rport=9;received=192.0.2.1"
    for bad in ("", "SIP/3.0/UDP h", "SIP/2.0/UDP", "SIP/2.0/UDP h:x", "SIP/2.0/UDP h;;"):
        with pytest.raises(MalformedMessage):
            Via.parse(bad)


@pytest.mark.parametrize(
    "text", ["", "1", "INVITE", "-1 INVITE", "2147483648 INVITE", "1 IN VITE", "² INVITE"]
)
def test_a_cseq_is_a_number_below_2_31_and_a_method(text: str) -> None:
    assert CSeq.parse("2147483647 INVITE").number == 2**31 - 1
    with pytest.raises(MalformedMessage, match="bad CSeq"):
        CSeq.parse(text)


def test_lists_are_split_only_where_a_comma_separates() -> None:
    assert split_list("a,b , c") == ["a", "b", "c"]
    assert split_list('"x, \\", y" <sip:a,b@c>, <sip:d>') == ['"x, \\", y" <sip:a,b@c>', "<sip:d>"]
    assert split_list("") == [""]
    assert unescape("%41%zz%C3%A9") == "A%zzé"


@given(st.text())
def test_quoting_is_undone_by_unquoting(text: str) -> None:
    assert unquote(quote(text)) == text.replace("\r", " ").replace("\n", " ")
    assert split_list(quote(text) + ", x") == [quote(text), "x"]


SIPPY = st.text(alphabet='sip:aliceXYZ09@h.example;,<>"\\ \t=?%[]:/-~é\udc80', max_size=60)


@pytest.mark.parametrize("reader", [Uri.parse, NameAddr.parse, Via.parse, CSeq.parse])
@given(SIPPY | SIPPY.map(lambda s: "sip:" + s) | SIPPY.map(lambda s: "SIP/2.0/UDP h" + s))
def test_any_text_is_a_value_that_survives_writing_or_malformed(reader, text) -> None:  # type: ignore[no-untyped-def]
    with contextlib.suppress(MalformedMessage):
        value = reader(text)
        again = reader(str(value))
        assert str(again) == str(value)


ADDRESSES = st.tuples(
    st.sampled_from(["", '"A B" ', '"é"', '"\\\\" ', '"', " "]),
    st.sampled_from(["<sip:a@b>", "<sip:a@b;lr>", "<>", "<sip:a b>", "sip:a@b", "<sip:a@b"]),
    st.sampled_from(["", ";tag=x", ";tag=", "; tag=x", ";tag=x;y", ";lr", " "]),
).map("".join)


@given(ADDRESSES)
def test_the_short_way_to_an_address_ends_where_the_long_way_does(text: str) -> None:
    results: list[NameAddr | None] = []
    for reader in (NameAddr.parse, lambda text: NameAddr._parse_any(text.strip(" \t"))):
        try:
            results.append(reader(text))
        except MalformedMessage:
            results.append(None)
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "text",
    [
        '"' + '\\"' * 30_000,
        '"' * 60_001,
        "<" * 60_000,
        "a" * 60_000 + "(",
        ";a" * 30_000,
        " " * 60_000,
        ";" + " " * 60_000,
        ';a="' * 15_000,
        "sip:" + "%4" * 30_000,
        "sip:a@h;" + "a" * 60_000 + "<",
        "SIP/2.0/UDP " + " " * 60_000 + "(",
        "1" * 60_000,
        "," * 60_000,
    ],
)
def test_no_text_takes_long_to_judge(text: str) -> None:
    start = time.process_time()
    for reader in (Uri.parse, NameAddr.parse, Via.parse, CSeq.parse, parse_params, split_list):
        with contextlib.suppress(MalformedMessage):
            reader(text)
    assert time.process_time() - start < 1.0
