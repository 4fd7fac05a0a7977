"""``p2psip join`` and ``p2psip overlay invite --lan``: what they say and leave behind."""

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from hipctl import HostIdentity, LanPeer
from hipctl.constants import RegistrationType
from overlay import lobby
from overlay.cli import main
from overlay.commands import join
from overlay.config import load_profile
from overlay.control import control_path
from overlay.invitations import INVITATIONS, InvitationBook, prove, read_token, write_token
from overlay.joining import Around
from overlay.lobby import TOO_LONG
from overlay.overlayfile import certify_overlay, found_overlay, load_overlay
from sim.people import CA, WALL, counted, identity

TOKEN = write_token(bytes(15))
GUEST, MEMBER = identity(91).hit, identity(92).hit
INFO = certify_overlay(
    found_overlay("home.example", ca=CA.host_id, rng=counted), CA, WALL, counted
)
PEER = LanPeer(MEMBER, b"", frozenset({RegistrationType.RENDEZVOUS}), (INFO.certificate,))
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    def run(*arguments: object) -> tuple[int, str, str]:
        status = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return run


def finding(monkeypatch: pytest.MonkeyPatch, around: Around) -> list[bytes | None]:
    """Let a LAN be so; returns the tokens with which it is searched."""
    asked: list[bytes | None] = []

    async def look(device: HostIdentity, secret: bytes | None, seconds: float) -> Around:
        asked.append(secret)
        return around

    monkeypatch.setattr(join, "_look", look)
    return asked


def test_join_makes_a_profile_that_goes_on_at_the_lan(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = finding(monkeypatch, Around([PEER], INFO, MEMBER, 0.35))
    status, out, err = cli("join", TOKEN.upper(), tmp_path / "p", "--json")
    assert (status, err) == (0, "")
    assert asked == [bytes(15)]
    said = json.loads(out)
    assert said["ms"] == 350.0
    assert said["domain"] == "home.example"
    assert said["peers"] == [
        {"hit": str(MEMBER), "services": ["rendezvous"], "overlays": ["home.example"]}
    ]
    profile = load_profile(Path(said["profile"]))
    assert profile.host.lan is True
    (joined,) = profile.overlays.values()
    assert joined.info == INFO
    assert str(HostIdentity.load(profile.identities["device"].key).hit) == said["hit"]


def test_join_tells_people_whom_it_found_and_what_to_do_next(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding(monkeypatch, Around([PEER], INFO, MEMBER, 0.35))
    _, out, _ = cli("join", TOKEN, tmp_path / "p")
    assert f"found    {MEMBER} of home.example, offers rendezvous" in out
    assert "joined   home.example in 350 ms" in out
    assert "p2psip run" in out


def test_without_a_token_it_shows_who_is_there_and_makes_nothing(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = finding(monkeypatch, Around([PEER, LanPeer(GUEST)]))
    status, out, _ = cli("join", "-p", tmp_path / "p")
    assert status == 0
    assert asked == [None]
    assert f"found    {GUEST}, offers nothing" in out
    assert not (tmp_path / "p").exists()
    finding(monkeypatch, Around())
    assert cli("join", "-p", tmp_path / "p")[1] == "nobody answers on this LAN\n"
    finding(monkeypatch, Around(network=False))
    assert "this machine has no network address" in cli("join", "-p", tmp_path / "p")[1]


@pytest.mark.parametrize(
    ("around", "said"),
    [
        (Around(), "nobody answers on this LAN; the peer that invited you must run there"),
        (Around(network=False), "this machine has no network address: connect it to the LAN"),
        (Around([PEER]), "who is on this LAN does not know the invitation: none of them"),
        (
            Around([PEER], refusals={MEMBER: "it has ended"}),
            "does not know the invitation: it has ended",
        ),
    ],
)
def test_where_nobody_knows_the_token_that_is_a_sentence(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, around: Around, said: str
) -> None:
    finding(monkeypatch, around)
    status, out, err = cli("join", TOKEN, tmp_path / "p")
    assert (status, out) == (1, "")
    assert said in err
    assert not (tmp_path / "p").exists()


def test_a_file_that_is_too_long_for_the_lan_is_said_on_both_sides(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding(monkeypatch, Around([PEER], refusals={MEMBER: TOO_LONG}))
    status, _, err = cli("join", TOKEN, tmp_path / "p")
    assert status == 1
    assert "longer than 32768 bytes" in err
    assert "p2psip overlay invite --at ADDRESS" in err
    made = json.loads(cli("init", tmp_path / "q", "--lan", "--json")[1])
    monkeypatch.setattr(lobby, "MAX_FILE", 100)
    status, out, err = cli("overlay", "invite", "--lan", "-p", made["profile"])
    assert (status, out) == (1, "")
    assert "overlay.toml: the overlay's file is longer" in err
    assert not (load_profile(Path(made["profile"])).peer.state / INVITATIONS).exists()


def test_join_asks_nobody_where_it_could_not_write_or_has_no_token(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = finding(monkeypatch, Around([PEER], INFO, MEMBER))
    assert "this is no invitation" in cli("join", "abcd", tmp_path / "p")[2]
    (tmp_path / "profile.toml").write_text("")
    assert "exists; choose another folder" in cli("join", TOKEN, tmp_path)[2]
    assert asked == []


def test_an_invitation_is_a_token_for_who_has_a_peer_on_the_lan(cli: Cli, tmp_path: Path) -> None:
    made = json.loads(cli("init", tmp_path / "p", "--lan", "--json")[1])
    status, out, _ = cli("overlay", "invite", "--lan", "--hours", 2, "-p", made["profile"])
    assert status == 0
    token = out.split()[0]
    assert f"  p2psip join {token}" in out.splitlines()
    profile = load_profile(Path(made["profile"]))
    book = InvitationBook(profile.peer.state / INVITATIONS)
    (joined,) = profile.overlays.values()
    proof = prove(read_token(token), GUEST, MEMBER)
    expires = json.loads(
        cli("overlay", "invite", "--lan", "--hours", 2, "-p", made["profile"], "--json")[1]
    )["expires"]
    found = book.check(proof, GUEST, MEMBER, expires - 60)
    assert found is not None
    assert found.overlay == joined.info.id
    assert book.check(proof, GUEST, MEMBER, expires + 60) is None


def answering(profile: str, value: object) -> None:
    """Let a peer answer once at its control socket."""
    listening = socket.socket(socket.AF_UNIX)
    path = control_path(load_profile(Path(profile)).peer.state)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listening.bind(str(path))
    listening.listen()

    def answer() -> None:
        client, _ = listening.accept()
        with listening, client, client.makefile("rb") as file:
            file.readline()
            client.sendall(json.dumps(value).encode() + b"\n")

    threading.Thread(target=answer, daemon=True).start()


def test_a_token_that_no_peer_honours_yet_is_said_to_be_one(cli: Cli, tmp_path: Path) -> None:
    made = json.loads(cli("init", tmp_path / "p", "--lan", "--json")[1])
    profile = Path(made["profile"])
    (joined,) = load_profile(profile).overlays.values()
    overlays = {"main": {"id": joined.info.id.hex()}}
    invite = ("overlay", "invite", "--lan", "-p", profile, "--json")

    def missing(value: object) -> str | None:
        answering(made["profile"], value)
        said: str | None = json.loads(cli(*invite)[1])["missing"]
        return said

    assert "start the peer, for none answers" in json.loads(cli(*invite)[1])["missing"]
    assert (
        f"Before that: start the peer, for none answers on this LAN now: p2psip run {profile}"
        in (cli(*invite[:-1])[1].splitlines())
    )
    assert missing({"ok": {"overlays": overlays, "lan": {"absent": []}}}) is None
    assert "start the peer anew" in str(missing({"ok": {"overlays": overlays}}))
    others = {"main": {"id": "00"}}
    assert "start the peer anew" in str(missing({"ok": {"overlays": others, "lan": {}}}))
    assert "cannot be asked: busy" in str(missing({"error": "busy"}))
    text = profile.read_text()
    profile.write_text(text.replace("lan = true", 'lan = ["nosuch0"]'))
    gone = {"ok": {"overlays": overlays, "lan": {"absent": ["nosuch0"]}}}
    assert "no interface nosuch0" in str(missing(gone))
    answering(made["profile"], {"ok": {"overlays": 5}})
    assert "cannot be read" in cli(*invite)[2]


def test_an_invitation_says_what_is_missing(cli: Cli, tmp_path: Path) -> None:
    made = json.loads(cli("init", tmp_path / "p", "--json")[1])
    assert load_profile(Path(made["profile"])).host.lan is False
    invite = ("overlay", "invite", "-p", made["profile"])
    assert "say lan = true in [host] of its profile, start it anew" in cli(*invite, "--lan")[2]
    assert "say --at ADDRESS for a file, or --lan" in cli(*invite)[2]
    assert "say --at ADDRESS for a file, or --lan" in cli(*invite, "--lan", "--at", "192.0.2.1")[2]


def test_a_new_enrolled_overlay_has_a_certificate_to_show(cli: Cli, tmp_path: Path) -> None:
    assert cli("overlay", "new", "home.example", "--enrolled", "--folder", tmp_path)[0] == 0
    assert load_overlay(tmp_path / "overlay.toml").certificate
