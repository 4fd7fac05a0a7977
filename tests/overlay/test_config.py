from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.admission import Account, save_account
from overlay.config import (
    HostTable,
    IdentityTable,
    OverlayTable,
    PeerTable,
    Profile,
    check_table,
    load_profile,
    parse_address,
)
from overlay.errors import ConfigError
from overlay.overlayfile import found_overlay, parse_seed, save_overlay
from sim.people import ALICE, BOB, OTHER_OVERLAY, OVERLAY, counted

EXAMPLE = Path(__file__).parents[2] / "docs" / "example-profile.toml"
SEED = f"{BOB.device.hit}@192.0.2.1:10500"
TOML = f"""
[identity.me]
key = "me.pem"
[overlay.home]
identity = "me"
file = "home.toml"
account = "me.p2psip"
seeds = ["{SEED}"]
[overlay.home.services.sip]
listen = "127.0.0.1:5060"
[overlay.home.services.echo]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_overlay(OVERLAY, tmp_path / "home.toml")
    save_overlay(OTHER_OVERLAY, tmp_path / "work.toml")
    save_account(Account((ALICE.delegation,)), tmp_path / "me.p2psip")
    return tmp_path


def load(folder: Path, text: str) -> Profile:
    (folder / "profile.toml").write_text(text)
    return load_profile(folder / "profile.toml")


def test_a_profile_has_documented_defaults(folder: Path) -> None:
    profile = load(folder, TOML)
    home = profile.overlays["home"]
    assert (home.table.k, home.table.replicas, home.table.alpha) == (20, 12, 3)
    assert profile.host == HostTable()
    assert profile.host.places == ("0.0.0.0:10500", "[::]:10500")
    assert not profile.host.private_addresses
    assert profile.peer.policy == "contacts"


def test_a_host_listens_at_one_address_or_at_several(folder: Path) -> None:
    for text, places in (
        ("'1.2.3.4:5'", ("1.2.3.4:5",)),
        ("['1.2.3.4:5', '[::]:5']", ("1.2.3.4:5", "[::]:5")),
    ):
        new = f"[host]\nlisten = {text}\n[identity.me]"
        assert load(folder, TOML.replace("[identity.me]", new, 1)).host.places == places


def test_files_are_taken_from_the_folder_of_the_profile(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    profile = load(folder, '[peer]\ncontacts = "~/names.toml"\n[host]\nkeylog = "/k"\n' + TOML)
    assert profile.identities["me"].key == folder / "me.pem"
    assert profile.peer.state == folder / "state"
    assert profile.peer.contacts == Path("/home/alice/names.toml")
    assert profile.host.keylog == Path("/k")


def test_what_the_files_say_is_part_of_the_profile(folder: Path) -> None:
    home = load(folder, TOML).overlays["home"]
    assert home.info == OVERLAY
    assert home.account is not None
    assert home.account.hit == ALICE.account.hit
    assert home.seeds == (parse_seed(SEED),)
    assert list(home.table.services) == ["sip", "echo"]
    assert home.table.services["sip"] == {"listen": "127.0.0.1:5060"}


def test_seeds_of_profile_and_overlay_file_come_together_once(folder: Path) -> None:
    other = parse_seed(f"{ALICE.device.hit}@192.0.2.2")
    info = found_overlay("a.example", seeds=(other, parse_seed(SEED)), rng=counted)
    save_overlay(info, folder / "home.toml")
    assert load(folder, TOML).overlays["home"].seeds == (parse_seed(SEED), other)


def test_several_overlays_may_share_an_identity_but_no_domain(folder: Path) -> None:
    work = '[overlay.work]\nidentity = "me"\nfile = "work.toml"\n'
    assert list(load(folder, TOML + work).overlays) == ["home", "work"]
    same = work.replace("work.toml", "home.toml")
    with pytest.raises(ConfigError, match=r"^overlay.work.file: has the domain example.org"):
        load(folder, TOML + same)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[overlay.home]", "[overley.home]", "overley: unknown key; known are peer, host"),
        ('identity = "me"', 'identiy = "me"', "overlay.home.identiy: unknown key; known are"),
        ('identity = "me"', "", "overlay.home.identity: missing"),
        ('identity = "me"', "identity = 3", "overlay.home.identity: expected `str`, got `int`"),
        ('identity = "me"', 'identity = "you"', r"overlay.home.identity: no \[identity.you"),
        ('identity = "me"', 'identity = "me"\nk = 0', "overlay.home.k: must be between 1 and 64"),
        ('identity = "me"', 'identity = "me"\nk = 0x' + "f" * 9000, ".*no TOML: an integer of"),
        ('identity = "me"', "identity = 0x" + "f" * 9000, ".*no TOML: an integer of"),
        (f'["{SEED}"]', "[0x" + "f" * 9000 + "]", ".*no TOML: an integer of"),
        ('identity = "me"', 'identity = "me"\nk = "x"', "overlay.home.k: expected `int`"),
        ('identity = "me"', 'identity = "me"\nk = 4', "overlay.home.replicas: must be between 1"),
        ('identity = "me"', 'identity = "me"\nalpha = 21', "overlay.home.alpha: must be between"),
        ('"home.toml"', '"none.toml"', r"overlay.home.file: .*none.toml: No such file"),
        ('"home.toml"', '"me.p2psip"', r"overlay.home.file: .*p2psip: account: unknown"),
        ('"home.toml"', '""', "overlay.home.file: must be the path of a file"),
        ('"home.toml"', "7", "overlay.home.file: must be the path of a file"),
        ('"home.toml"', '"~nobody-has-this-name/x"', "overlay.home.file: .*home of nobody"),
        ('"me.p2psip"', '"home.toml"', r"overlay.home.account: .*home.toml: admission: unknown"),
        ("@192.0.2.1:10500", "", "overlay.home.seeds: .*is no HIT@host:port"),
        (f'["{SEED}"]', "[1]", r"overlay.home.seeds\[0\]: expected `str`"),
        ("[identity.me]", "[identity.'m e']", "identity.'m e': a name has letters"),
        ('[identity.me]\nkey = "me.pem"', "", r"identity: missing"),
        ('[identity.me]\nkey = "me.pem"', "identity = 3", "identity: must be a table"),
        ('[identity.me]\nkey = "me.pem"', "[identity]\nme = 3", "identity.me: must be a table"),
        ("[identity.me]", "[host]\nlisten = '1.2.3.4'\n[identity.me]", "host.listen: .*no ad"),
        ("[identity.me]", "[host]\nlisten = []\n[identity.me]", "host.listen: must be 1 to 8"),
        ("[identity.me]", "[host]\nlisten = ['x']\n[identity.me]", "host.listen: 'x' is no ad"),
        ("[identity.me]", "[host]\nannounce = ['x']\n[identity.me]", "host.announce: must be at"),
        ("[identity.me]", "[host]\nprivate = true\n[identity.me]", "host.private: unknown key"),
        ("[identity.me]", "[peer]\nstate = false\n[identity.me]", "peer.state: must be"),
    ],
)  # fmt: skip
def test_a_wrong_profile_says_which_key(folder: Path, old: str, new: str, message: str) -> None:
    assert old in TOML
    with pytest.raises(ConfigError, match=f"^{message}"):
        load(folder, TOML.replace(old, new, 1))


def test_what_is_no_toml_is_told_with_its_place(folder: Path) -> None:
    for text in ("[", "a = ", "[overlay]\n[overlay]", "a = " + "[" * 5000, "a = " + "1" * 5000):
        with pytest.raises(ConfigError, match=r"profile.toml: no TOML"):
            load(folder, text)
    with pytest.raises(ConfigError, match=r"missing.toml: No such file"):
        load_profile(folder / "missing.toml")


def test_a_service_table_must_be_a_table(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"^overlay.home.services.x: must be a table"):
        load(folder, TOML.replace("[overlay.home.services.echo]", "[overlay.home.services]\nx=1"))


def test_the_example_profile_works_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "profile.toml").write_text(EXAMPLE.read_text())
    save_overlay(OVERLAY, tmp_path / "overlay.toml")
    save_account(Account((ALICE.delegation,)), tmp_path / "account.p2psip")
    profile = load_profile(tmp_path / "profile.toml")
    home = profile.overlays["home"]
    assert list(home.table.services) == ["sip"]
    assert (home.table.k, home.table.replicas, home.table.alpha) == (20, 12, 3)  # the defaults


def test_every_key_of_a_profile_stands_in_the_example() -> None:
    text = EXAMPLE.read_text()
    for table in (PeerTable, HostTable, IdentityTable, OverlayTable):
        for key in set(table.__struct_fields__) - {"services"}:
            assert f"{key} = " in text


class ServiceTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    listen: str = "x"
    ring: float = 30.0


def test_services_check_their_own_tables_the_same_way() -> None:
    assert check_table(ServiceTable, {"ring": 5}, "services.sip").ring == 5.0
    with pytest.raises(ConfigError, match=r"^services.sip.listen: expected `str`"):
        check_table(ServiceTable, {"listen": 5}, "services.sip")
    with pytest.raises(ConfigError, match=r"^services.sip.lisen: unknown key; known are listen"):
        check_table(ServiceTable, {"lisen": 5}, "services.sip")


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(HostTable.__struct_fields__) | st.text(), VALUES))
def test_any_table_is_taken_or_refused_by_its_path(table: dict[str, Any]) -> None:
    try:
        check_table(HostTable, table, "host", Path("/base"))
    except ConfigError as error:
        assert str(error).startswith("host")


@settings(max_examples=50)
@given(st.text(max_size=100) | st.text(max_size=10).map(lambda t: TOML.replace("home", t)))
def test_any_text_is_a_profile_or_refused(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.mktemp("profile") / "profile.toml"
    path.write_text(text, encoding="utf-8", errors="replace")
    with pytest.raises(ConfigError):
        load_profile(path)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:5060", ("127.0.0.1", 5060)),
        ("[::1]:0", ("::1", 0)),
        ("host.example:1", ("host.example", 1)),
        ("::1:5060", None),
        ("127.0.0.1", None),
        (":5060", None),
        ("h:65536", None),
        ("h:٣", None),
        ("", None),
    ],
)
def test_an_address_has_a_port(text: str, address: tuple[str, int] | None) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["a\0b:1", "é.example:1", "a b:1", "[::1:1", "::1:1", "a..b:1", "h:000001", "h:65536"]
)
def test_what_no_socket_would_take_is_no_address(text: str) -> None:
    assert parse_address(text) is None
