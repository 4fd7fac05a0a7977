"""Messages with the features of RFC 4475's torture tests, under its names for them."""

import random

import pytest

from sipgw.errors import MalformedMessage
from sipgw.message import Request, Response, parse
from sipgw.registrar import Registrar
from sipgw.transaction import RequestReceived, Send
from sipgw.transactions import TransactionLayer
from sipgw.validate import refuse, validate, validate_response

SDP = (
    "v=0\r\no=user 29739 7272939 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"
    "m=audio 49217 RTP/AVP 0 12\r\nm=video 3227 RTP/AVP 31\r\na=rtpmap:31 LPC\r\n"
)
DEFAULTS = {
    "Via": "Via: SIP/2.0/UDP host5.example.com;branch=z9hG4bKkdjuw",
    "To": "To: sip:j.user@example.com",
    "From": "From: sip:caller@example.net;tag=39291",
    "Call-ID": "Call-ID: torture.1@192.0.2.5",
    "Max-Forwards": "Max-Forwards: 70",
}


def make(start: str, *lines: str, without: str = "", body: str = "", length: str = "") -> bytes:
    """A message whose default headers give way to lines that begin with the same name."""
    method = start.split(maxsplit=1)[0]
    own = {line.partition(":")[0].strip().lower() for line in lines}
    headers = [
        line
        for name, line in {**DEFAULTS, "CSeq": f"CSeq: 8 {method}"}.items()
        if name.lower() not in own and name not in without.split()
    ]
    if body and "content-type" not in own:
        headers.append("Content-Type: application/sdp")
    if "content-length" not in own:
        headers.append(f"Content-Length: {length or len(body)}")
    return "\r\n".join([start, *headers, *lines, "", body]).encode()


INVITE = "INVITE sip:user@example.com SIP/2.0"
OPTIONS = "OPTIONS sip:user@example.com SIP/2.0"
REGISTER = "REGISTER sip:example.com SIP/2.0"
METHOD = "!interesting-Method0123456789_*+`.%indeed'~"
ODD_USER = "1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"

VALID = {
    "wsinv": make(
        "INVITE sip:vivekg@chair-dnrc.example.com;unknownparam SIP/2.0",
        "TO :\r\n sip:vivekg@chair-dnrc.example.com ;   tag    = 1918181833n",
        'from   : "J Rosenberg \\\\\\""       <sip:jdrosen@example.com>\r\n  ;\r\n  tag = 98asjd8',
        "MaX-fOrWaRdS: 0068",
        "cseq: 0009\r\n  INVITE",
        "Via  : SIP  /   2.0\r\n /UDP\r\n    192.0.2.2;branch=390skdjuw",
        "s :",
        "NewFangledHeader:   newfangled value\r\n continued newfangled value",
        "UnknownHeaderWithUnusualValue: ;;,,;;,;",
        "Route:\r\n <sip:services.example.com;lr;unknownwith=value;unknown-no-value>",
        "v:  SIP  / 2.0  / TCP     spindle.example.com   ;\r\n  branch  =   z9hG4bK9ikj8  ,\r\n"
        " SIP  /    2.0   / UDP  192.168.255.111   ; branch=\r\n z9hG4bK30239",
        'm:"Quoted string \\"\\"" <sip:jdrosen@example.com> ; newparam =\r\n      newvalue ;\r\n'
        "  secondparam ; q = 0.33",
        body=SDP,
    ),
    "intmeth": make(
        f"{METHOD} sip:{ODD_USER}:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@example.com SIP/2.0",
        "Via: SIP/2.0/TCP host1.example.com;branch=z9hG4bK-.!%66*_+`'~",
        f'To: "BEL:\\\x07 NUL:\\\x00 DEL:\\\x7f" <sip:{ODD_USER}@example.com>',
        "From: token1~` token2'+_ token3*%!.- <sip:mundane@example.com>"
        ";fromParam''~+*_!.-%=\"работающий\";tag=_token~1'+`*%!-.",
        "Call-ID: intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{",
        "extensionHeader-!.%*+_`'~:\ufeff大停電",
        "Max-Forwards: 255",
    ),
    "esc01": make(
        "INVITE sip:sips%3Auser%40example.com@example.net SIP/2.0",
        "To: sip:%75se%72@example.com",
        "From: <sip:I%20have%20spaces@example.net>;tag=938",
        "Contact:\r\n  <sip:cal%6Cer@host5.example.net;%6C%72;n%61me=v%61lue%25%34%31>",
        body=SDP,
    ),
    "escnull": make(
        REGISTER,
        "To: sip:null-%00-null@example.com",
        "Contact: <sip:%00@host5.example.com>",
        "Contact: <sip:%00%00@host5.example.com>",
    ),
    "esc02": make(
        "RE%47IST%45R sip:registrar.example.com SIP/2.0",
        'To: "%Z%45" <sip:resource@example.com>',
        "Contact: <sip:alias1@host1.example.com>",
        "C%6Fntact: <sip:alias2@host2.example.com>",
        "Contact: <sip:alias3@host3.example.com>",
    ),
    "lwsdisp": make(OPTIONS, "From: caller<sip:caller@example.com>;tag=323"),
    "longreq": make(
        INVITE,
        f'To: "I have a user name of {"extreme" * 10} proportion"'
        f"<sip:user@example.com:6000;unknownparam1=very{'long' * 20}value;"
        f"longparam{'name' * 25}=shortvalue;very{'long' * 25}ParameterNameWithNoValue>",
        f"From: sip:{'amazinglylongcallername' * 5}@example.net;tag=12{'982' * 50}424;"
        f"unknownheaderparam{'name' * 20}=unknowheaderparam{'value' * 15}",
        f"Call-ID: longreq.one{'really' * 20}longcallid",
        f"Unknown-{'Long' * 20}-Name: unknown;unknown-parameter-name =\r\n unknown-value",
        *(
            f"{n}: SIP/2.0/TCP sip.example.com"
            for n in ["Via", "v", "V", "vIa", "V ", "Via  "] * 5
        ),
        f"Via: SIP/2.0/TCP host.example.com;received=192.0.2.5;branch=very{'long' * 50}value",
        body=SDP,
    ),
    "dblreq": make(REGISTER) + make(INVITE, body=SDP),
    "semiuri": make("OPTIONS sip:user;par=u%40example.net@example.com SIP/2.0"),
    "transports": make(
        OPTIONS, *(f"Via: SIP/2.0/{t} t.example.com" for t in ["UDP", "SCTP", "TLS", "UNKNOWN"])
    ),
    "mpart01": make(
        "MESSAGE sip:kumiko@example.org SIP/2.0",
        "Content-Type: multipart/mixed;boundary=7a9cbec02ceef655",
        "Date: Sat, 15 Oct 2005 04:44:56 GMT",
        body="--7a9cbec02ceef655\r\n\r\nHello\x000\r\n\r\n--7a9cbec02ceef655--",
    ),
}


@pytest.mark.parametrize("name", VALID)
def test_a_valid_request_is_accepted_and_comes_out_unchanged(name: str) -> None:
    message = parse(VALID[name])
    assert isinstance(message, Request)
    assert validate(message) is None
    assert VALID[name].startswith(message.encode())


def test_what_the_tortuous_invite_says() -> None:
    message = parse(VALID["wsinv"])
    assert message.from_.display == 'J Rosenberg \\"'
    assert (message.to.tag, message.cseq.number, message.max_forwards) == ("1918181833n", 9, 68)
    assert [(v.host, v.branch) for v in message.vias] == [
        ("192.0.2.2", "390skdjuw"),
        ("spindle.example.com", "z9hG4bK9ikj8"),
        ("192.168.255.111", "z9hG4bK30239"),
    ]
    (contact,) = message.contacts
    assert contact.params == {"newparam": "newvalue", "secondparam": None, "q": "0.33"}
    assert (
        message.headers.first("newfangledheader") == "newfangled value continued newfangled value"
    )
    assert message.headers.first("subject") == ""
    assert message.body == SDP.encode()


def test_what_the_other_valid_ones_say() -> None:
    assert parse(VALID["dblreq"]).body == b""
    semiuri = parse(VALID["semiuri"])
    assert isinstance(semiuri, Request)
    assert semiuri.request_uri.user == "user;par=u%40example.net"
    assert len(parse(VALID["esc02"]).contacts) == 2
    first, second = parse(VALID["escnull"]).contacts
    assert not first.uri.same(second.uri)
    assert len(parse(VALID["longreq"]).vias) == 31
    assert parse(VALID["intmeth"]).to.display == "BEL:\x07 NUL:\x00 DEL:\x7f"


@pytest.mark.parametrize("reason", ["= 2**3 * 5**2 но сто девяносто девять - простое", ""])
def test_any_reason_phrase_is_accepted(reason: str) -> None:  # unreason, noreason
    data = make(f"SIP/2.0 100 {reason}", "CSeq: 35 INVITE")
    message = parse(data)
    assert isinstance(message, Response)
    assert validate_response(message) is None
    assert message.encode() == data
    assert message.reason == reason


INVALID = {
    "badinv01 Via": (400, make(INVITE, "Via: SIP/2.0/UDP 192.0.2.15;;,;,,", body=SDP)),
    "badinv01 Contact": (
        400,
        make(INVITE, 'Contact: "Joe" <sip:joe@example.org>;;;;', body=SDP),
    ),
    "clerr": (400, make(INVITE, body=SDP, length="9999")),
    "ncl": (400, make(INVITE, body=SDP, length="-999")),
    "ncl five": (400, make(INVITE, body=SDP, length="five")),
    "scalar02": (
        400,
        make(
            REGISTER,
            "CSeq: 36893488147419103232 REGISTER",
            "Max-Forwards: 300",
            f"Expires: 1{'0' * 100}",
            "Contact: <sip:user@host129.example.com>\r\n  ;expires=280297596632815",
        ),
    ),
    "quotbal": (400, make(INVITE, 'To: "Mr. J. User <sip:j.user@example.com>', body=SDP)),
    "ltgtruri": (400, make("INVITE <sip:user@example.com> SIP/2.0", body=SDP)),
    "lwsruri": (400, make("INVITE sip:user@example.com; lr SIP/2.0", body=SDP)),
    "lwsstart": (400, make("INVITE  sip:user@example.com  SIP/2.0", body=SDP)),
    "trws": (400, make("OPTIONS sip:remote-target@example.com SIP/2.0  ")),
    "escruri": (
        400,
        make("INVITE sip:user@example.com?Route=%3Csip:example.com%3E SIP/2.0", body=SDP),
    ),
    "baddate": (400, make(INVITE, "Date: Fri, 01 Jan 2010 16:00:00 EST", body=SDP)),
    "regbadct": (
        400,
        make(REGISTER, "Contact: sip:user@example.com?Route=%3Csip:sip.example.com%3E"),
    ),
    "badaspec": (400, make(OPTIONS, 'To: "Watson, Thomas" < sip:t.watson@example.org >')),
    "baddn": (400, make(OPTIONS, "From:    Bell, Alexander <sip:a.g.bell@example.com>;tag=43")),
    "badvers": (
        505,
        make(
            "OPTIONS sip:t.watson@example.org SIP/7.0",
            "Via: SIP/7.0/UDP c.example.com;branch=z9hG4bKkdjuw",
        ),
    ),
    "mismatch01": (400, make(OPTIONS, "CSeq: 8 INVITE")),
    "mismatch02": (400, make("NEWMETHOD sip:user@example.com SIP/2.0", "CSeq: 8 INVITE")),
    # Application layer
    "insuf": (400, make(INVITE, without="To From Call-ID", body=SDP)),
    "unkscm": (416, make("OPTIONS nobodyKnowsThisScheme:totallyopaquecontent SIP/2.0")),
    "novelsc": (416, make("OPTIONS soap.beep://192.0.2.103:3002 SIP/2.0")),
    "bext01": (
        420,
        make(OPTIONS, "Require: nothingSupportsThis, nothingEither", "Proxy-Require: norThis"),
    ),
    "invut": (415, make(INVITE, "Content-Type: application/unknownformat", body="<audio/>")),
    "multi01": (400, make(INVITE, "CSeq: 5 INVITE", "CSeq: 59 INVITE", body=SDP)),
    "multi01 To": (400, make(INVITE, "To: sip:user@example.com", "To: sip:other@example.net")),
    "mcl01": (
        400,
        make(OPTIONS, "Content-Length: 13", "Content-Length: 5", "Content-Type: text/plain")
        + b"There is no way to know how long this is.",
    ),
    "zeromf": (483, make(OPTIONS, "Max-Forwards: 0")),
    "sdp01": (406, make(INVITE, "Accept: text/nobodyKnowsThis", body=SDP)),
    # Ours
    "encoded": (415, make(INVITE, "Content-Encoding: gzip", body=SDP)),
    "huge": (413, make("MESSAGE sip:a@b SIP/2.0", "Content-Type: text/plain", body="x" * 60_001)),
    "star and more": (400, make(REGISTER, "Contact: *", "Contact: <sip:a@b>")),
    "no colon": (400, make(OPTIONS, "nonsense")),
}


@pytest.mark.parametrize("name", INVALID)
def test_a_faulty_request_is_answered_with_the_status_that_is_owed(name: str) -> None:
    status, data = INVALID[name]
    request = parse(data)
    assert isinstance(request, Request)
    verdict = validate(request)
    assert verdict is not None
    assert verdict[0] == status, verdict
    layer = TransactionLayer(random.Random(0).randbytes, sent_by="h")
    (send,) = layer.on_datagram(data, ("127.0.0.1", 5062), 0.0)
    assert isinstance(send, Send)
    response = parse(send.data)
    assert isinstance(response, Response)
    assert response.status == status
    assert len(layer) == 0


def test_the_answer_says_what_would_have_been_accepted() -> None:
    request = parse(INVALID["bext01"][1])
    assert isinstance(request, Request)
    response = refuse(request, (420, "Bad Extension"), "t")
    assert response.headers.all("unsupported") == [
        "nothingSupportsThis",
        "nothingEither",
        "norThis",
    ]
    response = refuse(request, (415, "Unsupported Media Type"), "t")
    assert response.headers.first("accept") == "application/sdp"


def test_require_is_ignored_in_an_ack_and_may_be_supported() -> None:
    ack = parse(make("ACK sip:user@example.com SIP/2.0", "Require: x"))
    assert isinstance(ack, Request)
    assert validate(ack) is None
    invite = parse(make(INVITE, "Require: x-tag", body=SDP))
    assert isinstance(invite, Request)
    assert validate(invite, {"x-tag"}) is None
    assert validate(invite) == (420, "Bad Extension")


@pytest.mark.parametrize(
    "data",
    [
        make(
            "SIP/2.0 503 Service Unavailable", "CSeq: 9292394834772304023312 OPTIONS"
        ),  # scalarlg
        make("SIP/2.0 200 OK", "Via: SIP/2.0/UDP a", "Via: SIP/2.0/UDP 255.255.255.255"),  # bcast
        make("SIP/2.0 200 OK", "CSeq: 1 INVITE", without="To"),
        make("SIP/2.0 200 OK", "CSeq: 1 INVITE", length="12"),
    ],
)
def test_a_faulty_response_is_to_be_discarded(data: bytes) -> None:
    response = parse(data)
    assert isinstance(response, Response)
    assert validate_response(response) is not None


def test_an_overlarge_status_is_no_response() -> None:  # bigcode
    with pytest.raises(MalformedMessage, match="bad status line"):
        parse(make("SIP/2.0 4294967301 better not break the receiver", "CSeq: 1 INVITE"))


ACCEPTED = {
    "regaut01": make(REGISTER, "Authorization: NoOneKnowsThisScheme opaque-data=here"),
    "inv2543": make(
        INVITE,
        "Via: SIP/2.0/UDP iftgw.example.com",
        "From: <sip:+13035551111@ift.client.example.net;user=phone>",
        "Record-Route: <sip:UserB@example.com;maddr=ss1.example.com>",
        without="Max-Forwards",
        body=SDP,
    ),
    "badbranch": make(OPTIONS, "Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK"),
    "ipv6 (RFC 5118)": make(
        "REGISTER sip:[2001:db8::10] SIP/2.0",
        "Via: SIP/2.0/UDP [2001:db8::9:1]:5060;received=2001:db8::9:255;branch=z9hG4bKas3",
        "Contact: <sip:caller@[2001:db8::1]:5062>",
    ),
    "cpim": make("MESSAGE sip:a@b SIP/2.0", "Content-Type: message/cpim", body="hello"),
    "optional part": make(
        INVITE, "Content-Type: x/y", "Content-Disposition: render;handling=optional", body="z"
    ),
    "anything accepted": make(INVITE, "Accept: text/plain, */*;q=0.1"),
    "emergency": make("INVITE urn:service:sos SIP/2.0"),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_request_that_looks_odd_but_is_not_reaches_the_user_layer(name: str) -> None:
    layer = TransactionLayer(random.Random(0).randbytes, sent_by="h")
    (event,) = layer.on_datagram(ACCEPTED[name], ("127.0.0.1", 5062), 0.0)
    assert isinstance(event, RequestReceived)


@pytest.mark.parametrize(
    ("contact", "shown"),
    [
        ("sip:+1972@gw1.example.net;unknownparam", "<sip:+1972@gw1.example.net>;unknownparam"),
        ("<sip:+1972@gw1.example.net;unknownparam>", "<sip:+1972@gw1.example.net;unknownparam>"),
        ("<sip:u@h?Route=%3Csip:s.example%3E>", "<sip:u@h?Route=%3Csip:s.example%3E>"),
    ],
)
def test_a_binding_keeps_whose_parameter_it_is(contact: str, shown: str) -> None:
    request = parse(make(REGISTER, f"Contact: {contact}"))  # cparam01, cparam02, regescrt
    assert isinstance(request, Request)
    assert validate(request) is None
    registrar = Registrar({"sip:j.user@example.com"}.__contains__)
    outcome = registrar.on_register(request, ("127.0.0.1", 5062), 0.0)
    assert outcome.headers == (("Contact", f"{shown};expires=3600"),)
    (binding,) = registrar.lookup("sip:j.user@example.com", 0.0)
    assert "?" not in binding.uri.bare


def test_a_registrar_wants_a_sip_aor() -> None:  # unksm2
    request = parse(make(REGISTER, "To: isbn:2983792873", "Contact: <name:John_Smith>"))
    assert isinstance(request, Request)
    assert validate(request) is None
    assert Registrar(lambda aor: True).on_register(request, ("h", 1), 0.0).status == 400
