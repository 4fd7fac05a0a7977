import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hipctl import Hit, HostIdentity
from hipctl.constants import EccCurve
from overlay.accounts import (
    AccountKey,
    Delegation,
    canonical_aor,
    hit_of_user,
    is_reserved,
    self_certifying_aor,
    self_certifying_user,
    split_aor,
    uri_of,
    words_in_rows,
)
from overlay.canonical import encode
from overlay.errors import CredentialsRefused, MalformedAor
from sim.people import ALICE, BOB, DAY, WALL, identity

HIT = Hit.parse("2001:22:1234::5678")
HITS = st.binary(min_size=12, max_size=12).map(lambda tail: Hit(b"\x20\x01\x00\x22" + tail))
ZEROS = "abandon " * 23 + "art"  # BIP 39's test vector of 32 zero bytes


@pytest.mark.parametrize(
    ("text", "aor"),
    [
        ("sip:alice@example.org", "sip:alice@example.org"),
        ("SIP:Alice@EXAMPLE.org:5061;transport=udp?subject=x", "sip:Alice@example.org"),
        ("sip:%61lice@example.org", "sip:alice@example.org"),
        ("sip:%C3%A9ve@example.org", "sip:éve@example.org"),
        ("sip:e%CC%81ve@example.org", "sip:éve@example.org"),
        ("sip:+49;x=1@example.org", "sip:+49;x=1@example.org"),
    ],
)
def test_an_aor_has_one_canonical_form(text: str, aor: str) -> None:
    assert canonical_aor(text) == aor


@pytest.mark.parametrize(
    "text",
    [
        "",
        "alice@example.org",
        "sips:alice@example.org",
        "sip:example.org",
        "sip:@example.org",
        "sip:alice@",
        "sip:alice@exa mple.org",
        "sip:alice@example..org",
        "sip:alice@-example.org",
        "sip:alice@example.org:port",
        "sip:alice@[::1]",
        "sip:alice@bücher.example",
        "sip:a%00b@example.org",
        "sip:a%0d%0ab@example.org",
        "sip:a%20b@example.org",
        "sip:a%3eb@example.org",
        "sip:a%40b@example.org",
        "sip:a%2541@example.org",
        "sip:a%zz@example.org",
        "sip:alice:secret@example.org",
        "sip:%ff@example.org",
        "sip:\ud800@example.org",
        "sip:a%E2%80%8Bb@example.org",  # zero width space
        "sip:" + "a" * 65 + "@example.org",
        "sip:a@" + "b." * 62 + "example.org",
        "sip:alice@example.org" + ";" * 1000,
    ],
)
def test_what_names_nobody_is_refused(text: str) -> None:
    with pytest.raises(MalformedAor):
        canonical_aor(text)


@given(st.text(max_size=80).map(lambda t: f"sip:{t}@example.org") | st.text(max_size=80))
def test_canonical_form_is_stable_and_survives_a_uri(text: str) -> None:
    try:
        aor = canonical_aor(text)
    except MalformedAor:
        return
    assert canonical_aor(aor) == aor
    assert canonical_aor(uri_of(aor)) == aor
    assert uri_of(aor).isascii()
    assert uri_of(aor).isprintable()
    assert not set('<>" ') & set(uri_of(aor))


@given(HITS)
def test_a_hit_is_a_user_part_of_26_characters_and_back(hit: Hit) -> None:
    user = self_certifying_user(hit)
    assert (len(user), user) == (26, user.lower())
    assert hit_of_user(user) == hit_of_user(user.upper()) == hit
    assert canonical_aor(f"sip:{user.upper()}@X.org") == self_certifying_aor(hit, "x.org")
    assert split_aor(self_certifying_aor(hit, "x.org")) == (user, "x.org")


def test_only_one_spelling_of_a_hit_names_it() -> None:
    user = self_certifying_user(HIT)
    other = (
        user[:-1]
        + "abcdefghijklmnopqrstuvwxyz234567"[
            "abcdefghijklmnopqrstuvwxyz234567".index(user[-1]) | 1
        ]
    )
    assert other != user
    assert hit_of_user(other) is None
    assert hit_of_user("a" * 26) is None  # base32, but no HIT
    assert hit_of_user("alice") is None
    assert hit_of_user("é" * 26) is None


def test_echo_and_voicemail_are_reserved_without_case() -> None:
    assert is_reserved("echo")
    assert is_reserved("VoiceMail")
    assert not is_reserved("alice")


# --- account keys -----------------------------------------------------------------------------


def test_an_account_comes_back_from_its_words() -> None:
    key, words = AccountKey.generate(bytes)
    assert words == ZEROS
    assert AccountKey.from_words("  " + words.upper().replace(" ", "\n")).hit == key.hit
    assert len(words_in_rows(words)) == 6
    assert words_in_rows(words)[5].endswith("24. art")
    assert words.split()[0] not in repr(key)


def test_the_derivation_never_changes() -> None:
    # whoever changes this locks everybody out of their accounts
    assert str(AccountKey.from_words(ZEROS).hit) == "2001:22:f1ef:71e:b433:347b:50f0:c038"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("abandon " * 12, "24 words, not 12"),
        ("abandon " * 22 + "abandom art", "word 23 is not in the list"),
        ("abandon " * 24, "checksum"),
        ("", "not 0"),
    ],
)
def test_mistyped_words_are_told_apart(words: str, message: str) -> None:
    with pytest.raises(CredentialsRefused, match=message):
        AccountKey.from_words(words)


# --- delegations ------------------------------------------------------------------------------


@settings(max_examples=20)
@given(HITS, st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_a_delegation_survives_its_bytes(device: Hit, not_after: int, seq: int) -> None:
    delegation = ALICE.account.delegate(device, not_after, seq)
    again = Delegation.parse(delegation.raw)
    assert again == delegation
    assert again.verify()
    assert again.raw == delegation.raw
    assert again.account.hit == ALICE.account.hit


def test_a_delegation_by_a_p384_key_works_too() -> None:
    key = AccountKey(HostIdentity.from_secret(5, EccCurve.NIST_P384))
    delegation = Delegation.parse(key.delegate(HIT, WALL, 1).raw)
    assert delegation.verify()


def test_a_changed_delegation_does_not_verify() -> None:
    good = ALICE.delegation
    for changed in (
        Delegation(good.account, BOB.device.hit, good.not_after, good.seq, good.sig),
        Delegation(good.account, good.device, good.not_after + 1, good.seq, good.sig),
        Delegation(good.account, good.device, good.not_after, good.seq + 1, good.sig),
        Delegation(BOB.account.host_id, good.device, good.not_after, good.seq, good.sig),
    ):
        assert not changed.verify()


def test_a_delegation_with_high_s_does_not_verify() -> None:
    good = ALICE.delegation
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    s = order - int.from_bytes(good.sig[32:], "big")
    sig = good.sig[:32] + s.to_bytes(32, "big")
    changed = Delegation(good.account, good.device, good.not_after, good.seq, sig)
    assert changed.account.verify(changed.sig, changed.body)  # plain ECDSA would take it
    assert not changed.verify()


def test_a_delegation_with_a_key_that_is_none_does_not_verify() -> None:
    good = ALICE.delegation
    for account in (b"\0\1\4" + bytes(64), b"\0\7\4" + good.account.encoded[3:]):
        parsed = Delegation.parse(
            encode(["p2psip/dev/1", account, good.device, good.not_after, good.seq, good.sig])
        )
        assert not parsed.verify()


def test_a_delegation_says_why_it_does_not_speak_for_a_device() -> None:
    delegation = ALICE.delegation
    assert delegation.refusal(ALICE.device.hit, WALL) is None
    assert delegation.refusal(BOB.device.hit, WALL) == "delegation for another device"
    assert delegation.refusal(ALICE.device.hit, WALL + 300 * DAY) == "delegation expired"
    assert delegation.refusal(ALICE.device.hit, WALL - 101 * DAY) == "delegation too long"


@given(st.binary(max_size=330))
def test_any_bytes_are_a_delegation_or_refused(data: bytes) -> None:
    with pytest.raises(CredentialsRefused):
        Delegation.parse(data)


@given(st.integers(0, 168), st.integers(0, 255))
def test_a_delegation_with_one_byte_changed_is_refused_or_does_not_verify(
    at: int, byte: int
) -> None:
    raw = bytearray(ALICE.delegation.raw)
    if raw[at] == byte:
        return
    raw[at] = byte
    try:
        delegation = Delegation.parse(bytes(raw))
    except CredentialsRefused:
        return
    assert not delegation.verify()


@pytest.mark.parametrize(
    "fields",
    [
        ["p2psip/dev/2", b"", b"", 0, 0, b""],
        [1, 2, 3],
        ["p2psip/dev/1", identity(1).host_id.encoded, bytes(16), 1, 1, bytes(64)],
        ["p2psip/dev/1", identity(1).host_id.encoded, HIT, True, 1, bytes(64)],
        ["p2psip/dev/1", identity(1).host_id.encoded, HIT, -1, 1, bytes(64)],
        ["p2psip/dev/1", identity(1).host_id.encoded, HIT, 2**32, 1, bytes(64)],
        ["p2psip/dev/1", identity(1).host_id.encoded, HIT, 1, 1, bytes(96)],
    ],
)
def test_another_form_is_no_delegation(fields: list[object]) -> None:
    with pytest.raises(CredentialsRefused, match="delegation: "):
        Delegation.parse(encode([bytes(f) if isinstance(f, Hit) else f for f in fields]))
