from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipctl import HostIdentity
from hipctl.constants import EccCurve
from overlay.accounts import AccountKey, self_certifying_aor
from overlay.admission import (
    Account,
    Admitted,
    Credentials,
    admit,
    certify,
    check,
    format_account,
    load_account,
    parse_account,
    save_account,
)
from overlay.canonical import encode
from overlay.constants import FOREVER
from overlay.errors import CredentialsRefused, MalformedAor
from overlay.overlayfile import found_overlay
from sim.people import (
    ALICE,
    ALICE_AOR,
    BOB,
    BOB_AOR,
    CA,
    DAY,
    DOMAIN,
    ENROLLED,
    OTHER_CA,
    OTHER_OVERLAY,
    OVERLAY,
    WALL,
    certificate,
    counted,
)

CERT = certificate(ALICE, ALICE_AOR)
SHOWN = Credentials(ALICE.delegation, (CERT,))


def refusal(shown: Credentials, wall: float = WALL) -> str:
    with pytest.raises(CredentialsRefused) as caught:
        admit(shown, ENROLLED, ALICE.device.hit, wall)
    return str(caught.value)


# --- credentials ------------------------------------------------------------------------------


@pytest.mark.parametrize("shown", [Credentials(), Credentials(ALICE.delegation), SHOWN])
def test_credentials_survive_their_bytes(shown: Credentials) -> None:
    data = shown.encode()
    assert len(data) <= 900
    assert Credentials.parse(data) == shown


def test_credentials_of_p384_keys_fit() -> None:
    ca, device = (HostIdentity.from_secret(n, EccCurve.NIST_P384) for n in (1, 2))
    account = AccountKey(HostIdentity.from_secret(3, EccCurve.NIST_P384))
    overlay = found_overlay(DOMAIN, ca=ca.host_id, admission="enrolled", rng=counted)
    der = certify(ca, overlay, account.host_id, [ALICE_AOR, BOB_AOR], WALL, counted)
    shown = Credentials(account.delegate(device.hit, WALL + DAY, 1), (der,))
    again = Credentials.parse(shown.encode())
    assert admit(again, overlay, device.hit, WALL).aors[1:] == (ALICE_AOR, BOB_AOR)


def test_credentials_have_a_longest_form() -> None:
    with pytest.raises(CredentialsRefused, match="too long"):
        Credentials(ALICE.delegation, (CERT, CERT, CERT)).encode()
    with pytest.raises(CredentialsRefused, match="too long"):
        Credentials(None, (b"",) * 5).encode()


@given(st.binary(max_size=200) | st.integers(0, 500).map(lambda n: SHOWN.encode()[:n]))
def test_any_bytes_are_credentials_or_refused(data: bytes) -> None:
    try:
        shown = Credentials.parse(data)
    except CredentialsRefused:
        return
    assert shown.encode() == data


@pytest.mark.parametrize(
    "values", [[], [1], ["x"], [None, None], [None] + [b""] * 5, [None, bytes(800)]]
)
def test_another_form_is_no_credentials(values: list[object]) -> None:
    with pytest.raises(CredentialsRefused, match="no credentials"):
        Credentials.parse(encode(values))


# --- admission --------------------------------------------------------------------------------


def test_an_enrolled_overlay_admits_whom_its_ca_certified() -> None:
    own = ALICE.own_aor
    expected = Admitted(ALICE.account.hit, (own, ALICE_AOR), WALL + 180 * DAY)
    assert check(SHOWN, ENROLLED, ALICE.device.hit, WALL) == expected


def test_an_enrolled_overlay_refuses_everybody_else_with_a_reason() -> None:
    late = ALICE.account.delegate(ALICE.device.hit, WALL - 1, 1)
    assert refusal(Credentials()) == "no delegation"
    assert refusal(Credentials(None, (CERT,))) == "no delegation"
    assert refusal(Credentials(ALICE.delegation)) == "no certificate"
    assert refusal(Credentials(late, (CERT,))) == "delegation expired"
    assert refusal(Credentials(BOB.delegation, (CERT,))) == "delegation for another device"
    forged = replace(ALICE.delegation, seq=99)
    assert refusal(Credentials(forged, (CERT,))) == "delegation signature"
    stolen = BOB.account.delegate(ALICE.device.hit, WALL + DAY, 1)
    assert refusal(Credentials(stolen, (CERT,))) == "certificate of another account"
    assert refusal(SHOWN, WALL + 180 * DAY) == "certificate expired"
    strange = certificate(ALICE, "sip:a@other.example", ca=OTHER_CA, overlay=OTHER_OVERLAY)
    assert refusal(Credentials(ALICE.delegation, (strange,))) == "certificate of another CA"
    assert refusal(Credentials(ALICE.delegation, (b"junk",))) == "bad certificate"


def test_an_open_overlay_admits_who_shows_nothing_but_checks_what_is_shown() -> None:
    assert admit(Credentials(), OVERLAY, ALICE.device.hit, WALL) == Admitted(None, (), FOREVER)
    own = Admitted(ALICE.account.hit, (ALICE.own_aor,), ALICE.delegation.not_after)
    assert admit(Credentials(ALICE.delegation), OVERLAY, ALICE.device.hit, WALL) == own
    for bad in (
        Credentials(BOB.delegation),
        Credentials(ALICE.delegation, (b"x",)),
        Credentials(None, (CERT,)),
        Credentials(replace(ALICE.delegation, seq=5)),
    ):
        with pytest.raises(CredentialsRefused):
            admit(bad, OVERLAY, ALICE.device.hit, WALL)


# --- certify ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "aor",
    [
        f"sip:echo@{DOMAIN}",
        f"sip:VOICEMAIL@{DOMAIN}",
        ALICE.own_aor,
        "sip:alice@other.example",
    ],
)
def test_what_is_nobodys_to_certify_is_not_certified(aor: str) -> None:
    with pytest.raises(CredentialsRefused, match=r"never certified|not of the domain"):
        certificate(ALICE, aor)


def test_only_the_ca_certifies_and_only_aors() -> None:
    with pytest.raises(CredentialsRefused, match="not one of the overlay's CA"):
        certificate(ALICE, ALICE_AOR, ca=OTHER_CA)
    with pytest.raises(MalformedAor):
        certificate(ALICE, "alice")
    with pytest.raises(CredentialsRefused, match="at least one"):
        certificate(ALICE)
    with pytest.raises(CredentialsRefused, match="fewer AoRs"):
        certificate(ALICE, *(f"sip:{'a' * 60}{n}@{DOMAIN}" for n in range(8)))


# --- the account file -------------------------------------------------------------------------


def test_an_account_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    second = ALICE.account.delegate(BOB.device.hit, WALL + DAY, 2)
    account = Account((ALICE.delegation, second), (CERT, certificate(ALICE, BOB_AOR)))
    save_account(account, tmp_path / "account.p2psip")
    assert load_account(tmp_path / "account.p2psip") == account
    with pytest.raises(CredentialsRefused, match="missing"):
        load_account(tmp_path / "missing")


def test_an_account_holds_a_name_of_its_own_and_those_certified_in_an_overlay() -> None:
    both = certificate(ALICE, ALICE_AOR, BOB_AOR, life=100 * DAY)
    other = certificate(ALICE, "sip:a@other.example", ca=OTHER_CA, overlay=OTHER_OVERLAY)
    strange = certificate(BOB, "sip:carol@example.org")
    account = Account((ALICE.delegation,), (other, both, CERT, strange))
    assert account.names(OVERLAY, WALL) == {ALICE.own_aor: None, ALICE_AOR: CERT, BOB_AOR: both}
    assert account.names(OVERLAY, WALL + 101 * DAY) == {ALICE.own_aor: None, ALICE_AOR: CERT}
    assert account.names(OTHER_OVERLAY, WALL) == {
        self_certifying_aor(ALICE.account.hit, "other.example"): None,
        "sip:a@other.example": other,
    }


def test_a_device_shows_its_newest_delegation_in_force_and_what_fits() -> None:
    newest = ALICE.account.delegate(ALICE.device.hit, WALL + DAY, 9)
    expired = ALICE.account.delegate(ALICE.device.hit, WALL - DAY, 10)
    certificates = tuple(certificate(ALICE, f"sip:a{n}@{DOMAIN}") for n in range(5))
    account = Account((expired, newest, ALICE.delegation), certificates)
    shown = account.credentials(ALICE.device.hit, ENROLLED, WALL)
    assert shown.delegation == newest
    assert 1 <= len(shown.certificates) < 5
    assert admit(shown, ENROLLED, ALICE.device.hit, WALL).account == ALICE.account.hit
    assert account.credentials(BOB.device.hit, ENROLLED, WALL) == Credentials()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("delegations", "delegation", "delegation: unknown key"),
        ("account = ", "account ", "no TOML"),
        (str(ALICE.account.hit), str(BOB.account.hit), "account: is not the HIT"),
        ('    "', '    "?', "delegations: no base64"),
        ('    "', '    "AAAA', "delegation: "),
    ],
)
def test_a_wrong_account_file_says_which_key(old: str, new: str, message: str) -> None:
    text = format_account(Account((ALICE.delegation,), (CERT,)))
    assert old in text
    with pytest.raises(CredentialsRefused, match=message):
        parse_account(text.replace(old, new, 1))


def test_an_account_file_is_of_one_account_that_signed_it() -> None:
    for delegations, message in (
        ((), "at least one"),
        ((ALICE.delegation, BOB.delegation), "more than one account"),
        ((replace(ALICE.delegation, seq=77),), "signature"),
    ):
        text = format_account(Account((ALICE.delegation,)))
        if delegations:
            text = format_account(Account(delegations))
        else:
            text = 'delegations = []\ncertificates = ["AAAA"]'
        with pytest.raises(CredentialsRefused, match=message):
            parse_account(text)


@given(st.text(max_size=200))
def test_any_text_is_an_account_or_refused(text: str) -> None:
    with pytest.raises(CredentialsRefused):
        parse_account(text)


def test_nothing_private_stands_in_an_account_file() -> None:
    text = format_account(Account((ALICE.delegation,), (CERT,)))
    assert "PRIVATE" not in text
    assert CA.pem().decode() not in text


def test_a_certificate_that_a_ca_gave_in_another_overlay_admits_nobody() -> None:
    elsewhere = found_overlay("other.example", ca=CA.host_id, admission="enrolled", rng=counted)
    strange = certificate(ALICE, "sip:alice@other.example", overlay=elsewhere)
    shown = Credentials(ALICE.delegation, (strange,))
    assert admit(shown, elsewhere, ALICE.device.hit, WALL).account == ALICE.account.hit
    assert refusal(shown) == "certificate without a name here"


def test_an_account_file_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "account.p2psip"
    save_account(Account((ALICE.delegation,)), path)
    many = tuple(ALICE.account.delegate(ALICE.device.hit, WALL + DAY, n) for n in range(65))
    for account in (
        Account(many),
        Account((ALICE.delegation,), (CERT,) * 65),
        Account((ALICE.delegation,), (bytes(200_000),)),
    ):
        with pytest.raises(CredentialsRefused):
            save_account(account, path)
    assert load_account(path) == Account((ALICE.delegation,))
