from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipctl import HostIdentity, spki_of
from hipctl.constants import EccCurve
from overlay.errors import CredentialsRefused, MalformedAor
from overlay.overlayfile import (
    OverlayInfo,
    Seed,
    format_overlay,
    found_overlay,
    load_overlay,
    overlay_id,
    parse_overlay,
    parse_seed,
    save_overlay,
    succeed_ca,
)
from overlay.textfile import parse_toml, to_base64
from sim.people import ALICE, CA, DOMAIN, ENROLLED, OTHER_CA, OVERLAY, counted, identity

HIT = str(ALICE.device.hit)
SEEDS = (parse_seed(f"{HIT}@192.0.2.1:10500"), parse_seed(f"{HIT}@[2001:db8::1]:99"))
TEXT = format_overlay(replace(ENROLLED, seeds=SEEDS))


def test_an_overlay_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    open_one = found_overlay("Sub.Example.ORG", seeds=SEEDS, rng=counted)
    assert (open_one.domain, open_one.id) == ("sub.example.org", counted(32))
    for info in (open_one, OVERLAY, ENROLLED, succeed_ca(ENROLLED, CA, OTHER_CA.host_id)):
        save_overlay(info, tmp_path / "overlay.toml")
        assert load_overlay(tmp_path / "overlay.toml") == info
    assert [path.name for path in tmp_path.iterdir()] == ["overlay.toml"]


def test_the_id_is_that_of_ca_and_domain() -> None:
    ids = {
        OVERLAY.id,
        overlay_id(OTHER_CA.host_id, DOMAIN),
        overlay_id(CA.host_id, "other.example"),
    }
    assert len(ids) == 3
    assert ENROLLED.id == OVERLAY.id


def test_a_later_ca_key_is_signed_by_the_one_before() -> None:
    third = HostIdentity.from_secret(3, EccCurve.NIST_P384)
    info = succeed_ca(succeed_ca(OVERLAY, CA, third.host_id), third, OTHER_CA.host_id)
    assert parse_overlay(format_overlay(info)).ca == (CA.host_id, third.host_id, OTHER_CA.host_id)
    assert info.id == OVERLAY.id
    with pytest.raises(CredentialsRefused, match="newest"):
        succeed_ca(info, CA, third.host_id)
    forged = replace(info, ca=(CA.host_id, identity(4).host_id, OTHER_CA.host_id))
    with pytest.raises(CredentialsRefused, match=r"ca\[1\].signed: not by the key before"):
        parse_overlay(format_overlay(forged))


def test_a_succession_in_another_overlay_does_not_count_here() -> None:
    other = succeed_ca(
        found_overlay("other.example", ca=CA.host_id, rng=counted), CA, OTHER_CA.host_id
    )
    forged = replace(OVERLAY, ca=other.ca, successions=other.successions)
    with pytest.raises(CredentialsRefused, match="not by the key before"):
        parse_overlay(format_overlay(forged))


def test_the_chain_of_a_ca_is_bounded() -> None:
    info, last = OVERLAY, CA
    for number in range(100, 115):
        info, last = succeed_ca(info, last, identity(number).host_id), identity(number)
    with pytest.raises(CredentialsRefused, match="at most 16"):
        succeed_ca(info, last, CA.host_id)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("domain = ", "domian = ", "domian: unknown key"),
        (f'domain = "{DOMAIN}"', "", "domain: missing"),
        (f'domain = "{DOMAIN}"', 'domain = "a b"', "domain: 'a b' is no domain"),
        (f'domain = "{DOMAIN}"', 'domain = "other.example"', "id: is not that of this CA"),
        ("enrolled", "closed", "admission: must be"),
        ('id = "', 'id = "00', "id: must be 32 bytes"),
        ('id = "', 'id = "x', "id: must be 32 bytes"),
        ("@192.0.2.1:10500", "", "seeds: "),
        (to_base64(spki_of(CA.host_id)), "AAAA", r"ca\[0\].key: no public key"),
        (to_base64(spki_of(CA.host_id)), "?", r"ca\[0\].key: no public key"),
        ("key = ", "kee = ", r"ca\[0\]: must have 'key'"),
        ("[[ca]]", "[ca]", "ca: must be a list"),
        ("id = ", "id ", "no TOML"),
    ],
)
def test_a_wrong_overlay_file_says_which_key(old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(CredentialsRefused, match=message):
        parse_overlay(TEXT.replace(old, new, 1))


def test_enrolled_needs_a_ca() -> None:
    with pytest.raises(CredentialsRefused, match="needs a CA"):
        found_overlay(DOMAIN, admission="enrolled", rng=counted)
    with pytest.raises(CredentialsRefused, match="ca: missing"):
        parse_overlay(format_overlay(OverlayInfo(bytes(32), DOMAIN, "enrolled")))
    with pytest.raises(MalformedAor):
        found_overlay("no domain", rng=counted)


def test_a_file_that_cannot_be_read_is_told_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff")
    (tmp_path / "long").write_bytes(bytes(300_000))
    for name in ("missing", "binary", "long", ""):
        with pytest.raises(CredentialsRefused, match=str(tmp_path / name)):
            load_overlay(tmp_path / name)
    with pytest.raises(CredentialsRefused, match="missing"):
        save_overlay(OVERLAY, tmp_path / "missing" / "overlay.toml")


@pytest.mark.parametrize(
    "text", ["a=" + "1" * 5000, "a" + ".a" * 60_000 + "=1", "a=" + "{a=" * 4000, "a = 2001-99-99"]
)
def test_toml_that_is_meant_to_hurt_is_refused_at_once(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_toml(text)
    with pytest.raises(CredentialsRefused, match="no TOML"):
        parse_overlay(text)


def test_comments_may_have_dots() -> None:
    assert parse_toml("# " + "." * 500 + "\na = 1") == {"a": 1}


@given(st.text(max_size=200) | st.text(max_size=20).map(lambda t: TEXT.replace("ca", t, 1)))
def test_any_text_is_an_overlay_or_refused(text: str) -> None:
    try:
        info = parse_overlay(text)
    except CredentialsRefused:
        return
    assert parse_overlay(format_overlay(info)) == info


# --- seeds ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seed"),
    [
        (f"{HIT}@192.0.2.1:99", Seed(ALICE.device.hit, "192.0.2.1", 99)),
        (f"{HIT}@peer.example", Seed(ALICE.device.hit, "peer.example", 10500)),
        (f"{HIT}@[2001:db8::1]", Seed(ALICE.device.hit, "2001:db8::1", 10500)),
        (f"{HIT}@[2001:db8::1]:99", Seed(ALICE.device.hit, "2001:db8::1", 99)),
    ],
)
def test_a_seed_is_a_hit_and_a_place(text: str, seed: Seed) -> None:
    assert parse_seed(text) == seed
    assert parse_seed(str(seed)) == seed


@pytest.mark.parametrize(
    "text",
    [
        "",
        HIT,
        f"{HIT}@",
        f"{HIT}@:99",
        f"{HIT}@h:",
        f"{HIT}@h:0",
        f"{HIT}@h:65536",
        f"{HIT}@h:99999999999999999999",
        f"{HIT}@h:x",
        f"{HIT}@2001:db8::1:99",
        f"{HIT}@[2001:db8::1",
        f"{HIT}@[2001:db8::1]99",
        f"{HIT}@a b:1",
        f'{HIT}@a"b:1',
        f"{HIT}@[a\\b]:1",
        "2001:db8::1@h:1",
        "x@h:1",
    ],
)
def test_what_is_no_seed_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_seed(text)


@pytest.mark.parametrize(
    "place",
    ["h:00000199999", "h:0", "a..b:1", "a" * 64 + ".b:1", "-a:1", ".:1", "[::1%]:1", "[a]:1"],
)
def test_a_seed_that_no_resolver_would_take_is_refused(place: str) -> None:
    with pytest.raises(ValueError, match=r"host|port|bracket"):
        parse_seed(f"{CA.hit}@{place}")


@pytest.mark.parametrize(
    "place", ["a.example:1", "a_b.example.:1", "192.0.2.1:1", "[::1]:1", "[fe80::1%eth0]:1"]
)
def test_seeds_are_names_or_addresses(place: str) -> None:
    assert str(parse_seed(f"{CA.hit}@{place}")) == f"{CA.hit}@{place}"
