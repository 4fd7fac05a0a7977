from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipgw.headers import Uri
from sipgw.message import Request
from sipgw.registrar import Outcome, Registered, Registrar, Unregistered, aor_of

ALICE = "sip:alice@example.com"
CLIENT = ("127.0.0.1", 5062)


def register(
    *contacts: str,
    expires: int | str | None = None,
    call_id: str = "c1",
    cseq: int = 1,
    to: str = "<sip:alice@example.com>",
) -> Request:
    request = Request("REGISTER", "sip:example.com")
    headers = request.headers
    headers.add("Via", "SIP/2.0/UDP 127.0.0.1:5062;branch=z9hG4bK1")
    headers.add("From", f"{to};tag=f")
    headers.add("To", to)
    headers.add("Call-ID", call_id)
    headers.add("CSeq", f"{cseq} REGISTER")
    for contact in contacts:
        headers.add("Contact", contact)
    if expires is not None:
        headers.add("Expires", str(expires))
    return request


def registrar(**options: int) -> Registrar:
    return Registrar({ALICE}.__contains__, **options)


def contacts(outcome: Outcome) -> list[str]:
    assert outcome.status == 200, outcome
    return [value for name, value in outcome.headers if name == "Contact"]


def test_a_contact_is_bound_answered_with_its_expiry_and_announced_once() -> None:
    r = registrar()
    outcome = r.on_register(register("<sip:a@127.0.0.1:5062>", expires=600), CLIENT, 0.0)
    assert contacts(outcome) == ["<sip:a@127.0.0.1:5062>;expires=600"]
    assert outcome.changes == (Registered(ALICE),)
    (binding,) = r.lookup(ALICE, 1.0)
    assert (binding.uri.port, binding.source) == (5062, CLIENT)
    again = r.on_register(register("<sip:a@127.0.0.1:5062>", expires=600, cseq=2), CLIENT, 100.0)
    assert again.changes == ()
    assert contacts(again) == ["<sip:a@127.0.0.1:5062>;expires=600"]


def test_several_contacts_each_with_its_own_expiry_and_preference() -> None:
    r = registrar()
    outcome = r.on_register(
        register("<sip:a@h1>;q=0.3;expires=100, <sip:a@h2>", "<sip:a@h3>;q=0.7", expires=900),
        CLIENT,
        0.0,
    )
    assert contacts(outcome) == [
        "<sip:a@h1>;q=0.3;expires=100",
        "<sip:a@h2>;expires=900",
        "<sip:a@h3>;q=0.7;expires=900",
    ]
    assert [b.uri.host for b in r.lookup(ALICE, 0.0)] == ["h2", "h3", "h1"]
    assert [b.uri.host for b in r.lookup(ALICE, 100.0)] == ["h2", "h3"]


def test_a_fetch_changes_nothing() -> None:
    r = registrar()
    r.on_register(register("<sip:a@h1>", expires=600), CLIENT, 0.0)
    outcome = r.on_register(register(cseq=2), ("127.0.0.1", 9), 60.0)
    assert contacts(outcome) == ["<sip:a@h1>;expires=540"]
    assert r.lookup(ALICE, 60.0)[0].source == CLIENT


def test_expires_zero_removes_one_binding_and_star_removes_all() -> None:
    r = registrar()
    r.on_register(register("<sip:a@h1>", "<sip:a@h2>", "<sip:a@h3>"), CLIENT, 0.0)
    gone = r.on_register(register("<sip:a@h1>;expires=0", cseq=2), CLIENT, 1.0)
    assert len(contacts(gone)) == 2
    assert gone.changes == ()
    none = r.on_register(register("*", expires=0, cseq=3), CLIENT, 2.0)
    assert contacts(none) == []
    assert none.changes == (Unregistered(ALICE),)
    assert r.deadline() is None


@pytest.mark.parametrize(
    "request_",
    [
        register("*"),
        register("*", expires=60),
        register("*", "<sip:a@h>", expires=0),
        register("<mailto:a@h>"),
        register("<sip:a@h"),
        register("<sip:a@h>", to="<tel:+4930>"),
        register("<sip:a@h>", to="<sip:example.com>"),
    ],
)
def test_a_request_that_makes_no_sense_is_400_and_changes_nothing(request_: Request) -> None:
    r = registrar()
    assert r.on_register(request_, CLIENT, 0.0).status == 400
    assert r.aors() == []


def test_an_aor_that_the_peer_does_not_hold_is_403() -> None:
    r = registrar()
    other = register("<sip:b@h>", to="<sip:bob@example.com>")
    assert r.on_register(other, CLIENT, 0.0).status == 403
    assert r.on_register(register(to="<sip:bob@example.com>"), CLIENT, 0.0).status == 403


@pytest.mark.parametrize(
    "to",
    [
        "<sip:alice@EXAMPLE.com:5060;transport=udp>",
        "<sips:alice@example.com>",
        "sip:%61lice@example.com",
    ],
)
def test_an_aor_is_known_by_user_and_domain_alone(to: str) -> None:
    r = registrar()
    assert r.on_register(register("<sip:a@h>", to=to), CLIENT, 0.0).status == 200
    assert r.aors() == [ALICE]
    with pytest.raises(Exception, match="address-of-record"):
        aor_of(Uri.parse("sip:example.com"))


def test_too_short_is_423_and_too_long_is_cut() -> None:
    r = registrar(min_expires=60, max_expires=7200)
    brief = r.on_register(register("<sip:a@h1>", "<sip:a@h2>;expires=59"), CLIENT, 0.0)
    assert (brief.status, brief.headers) == (423, (("Min-Expires", "60"),))
    assert r.aors() == [], "all or nothing"
    long = r.on_register(register("<sip:a@h>", expires=2**32 - 1), CLIENT, 0.0)
    assert contacts(long) == ["<sip:a@h>;expires=7200"]
    huge = r.on_register(register(f"<sip:a@h>;expires={'9' * 5000}", cseq=2), CLIENT, 0.0)
    assert contacts(huge) == ["<sip:a@h>;expires=7200"]
    odd = r.on_register(register("<sip:a@h>;expires=soon", expires=7, cseq=3), CLIENT, 0.0)
    assert contacts(odd) == ["<sip:a@h>;expires=3600"]


def test_within_a_call_id_only_a_higher_cseq_changes_a_binding() -> None:
    r = registrar()
    r.on_register(register("<sip:a@h1>", cseq=5), CLIENT, 0.0)
    for stale in (
        register("<sip:a@h1>;expires=0", cseq=5),
        register("<sip:a@h2>", "<sip:a@h1>;expires=0", cseq=4),
        register("*", expires=0, cseq=5),
    ):
        assert r.on_register(stale, CLIENT, 1.0).status == 500
        assert [b.uri.host for b in r.lookup(ALICE, 1.0)] == ["h1"]
    other = register("<sip:a@h1>;expires=0", cseq=1, call_id="c2")
    assert r.on_register(other, CLIENT, 2.0).changes == (Unregistered(ALICE),)


def test_a_contact_uri_has_one_binding_however_it_is_spelled() -> None:
    r = registrar()
    r.on_register(register("<sip:a@H1;transport=udp>"), CLIENT, 0.0)
    r.on_register(register("<sip:%61@h1;transport=UDP>", call_id="restarted"), CLIENT, 1.0)
    (binding,) = r.lookup(ALICE, 1.0)
    assert binding.call_id == "restarted"


def test_a_restarted_client_replaces_the_binding_of_its_instance() -> None:
    r = registrar()
    same = ';+sip.instance="<urn:uuid:1>"'
    r.on_register(register(f"<sip:a@h:1111>{same}", f"<sip:a@h:1112>{same};reg-id=2"), CLIENT, 0.0)
    outcome = r.on_register(register(f"<sip:a@h:2222>{same}", call_id="c2"), CLIENT, 1.0)
    assert [c.partition(">")[0] for c in contacts(outcome)] == ["<sip:a@h:1112", "<sip:a@h:2222"]


def test_the_table_of_an_aor_is_bounded_and_the_oldest_binding_goes() -> None:
    r = registrar(limit=3)
    for n in range(5):
        r.on_register(register(f"<sip:a@h{n}>", call_id=f"c{n}"), CLIENT, float(n))
    assert [b.uri.host for b in r.lookup(ALICE, 5.0)] == ["h2", "h3", "h4"]
    flood = register(*(f"<sip:a@h{n}>" for n in range(21)), call_id="x")
    assert r.on_register(flood, CLIENT, 6.0).status == 403


def test_bindings_expire_and_the_last_one_is_announced() -> None:
    r = registrar()
    r.on_register(register("<sip:a@h1>;expires=60", "<sip:a@h2>;expires=90"), CLIENT, 0.0)
    assert r.deadline() == 60.0
    assert r.on_time(59.9) == []
    assert r.on_time(60.0) == []
    assert r.deadline() == 90.0
    assert r.on_time(90.0) == [Unregistered(ALICE)]
    assert r.deadline() is None
    assert r.lookup(ALICE, 90.0) == []


def test_a_client_is_known_by_where_it_registered_from() -> None:
    r = registrar()
    r.on_register(register("<sip:a@192.0.2.1>", expires=60), CLIENT, 0.0)
    assert r.aors_at(CLIENT, 1.0) == [ALICE]
    assert r.aors_at(("127.0.0.1", 5063), 1.0) == []
    assert r.aors_at(CLIENT, 60.0) == []
    assert r.drop(ALICE) == [Unregistered(ALICE)]
    assert r.drop(ALICE) == []


def test_the_response_carries_what_the_client_needs() -> None:
    request = register("<sip:a@h>;expires=5")
    response = registrar().on_register(request, CLIENT, 0.0).response(request, "tag1")
    assert (response.status, response.to.tag) == (423, "tag1")
    assert response.headers.first("min-expires") == "60"


STEPS = st.lists(
    st.tuples(
        st.lists(
            st.builds(
                lambda host, expires: f"<sip:a@h{host}>;expires={expires}",
                st.integers(0, 4),
                st.sampled_from([0, 60, 90, 600]),
            ),
            max_size=3,
        ),
        st.floats(0, 120),
    ),
    max_size=15,
)


@given(STEPS)
def test_announcements_alternate_and_agree_with_the_table(
    steps: list[tuple[list[str], float]],
) -> None:
    r, now, up = registrar(limit=3), 0.0, False
    for cseq, (values, gap) in zip(count(1), steps, strict=False):
        now += gap
        changes = [
            *r.on_time(now),
            *r.on_register(register(*values, cseq=cseq), CLIENT, now).changes,
        ]
        for change in changes:
            assert isinstance(change, Unregistered if up else Registered)
            up = not up
        live = r.lookup(ALICE, now)
        assert bool(live) == up
        assert len(live) <= 3
        assert len({b.uri.host for b in live}) == len(live)
        at = r.deadline()
        assert (at is None) == (not live)
        assert at is None or at <= min(b.expires_at for b in live)
