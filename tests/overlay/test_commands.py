"""The command line as a user or a program meets it, without a running peer."""

import io
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import typer

from hipctl import HostIdentity
from overlay.admission import load_account
from overlay.cli import main
from overlay.commands import app as application
from overlay.commands.account import _save
from overlay.config import load_profile
from overlay.control import control_path
from overlay.overlayfile import load_overlay

COMMANDS = [
    ["init"],
    ["join"],
    ["run"],
    ["status"],
    ["netcheck"],
    ["resolve"],
    ["trace"],
    ["stop"],
    ["account", "show"],
    ["account", "export"],
    ["account", "restore"],
    ["account", "delegate"],
    ["account", "import"],
    ["account", "add-certificate"],
    ["overlay", "new"],
    ["overlay", "invite"],
    ["ca", "issue"],
    ["contact", "add"],
    ["contact", "remove"],
    ["contact", "list"],
    ["contact", "block"],
    ["contact", "unblock"],
]
RUNNING = [["status"], ["netcheck"], ["resolve", "sip:a@b.c"], ["trace"], ["stop"]]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command: (status, stdout, stderr); nothing is ever asked of a terminal."""

    def run(*arguments: object, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        status = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture
def peer(cli: Any, tmp_path: Path) -> dict[str, Any]:
    """What ``init`` said of a fresh profile."""
    status, out, err = cli("init", tmp_path / "peer", "--json")
    assert (status, err) == (0, "")
    made: dict[str, Any] = json.loads(out)
    return made


def test_init_listens_everywhere_unless_told_where(cli: Any, peer: Any, tmp_path: Path) -> None:
    assert load_profile(Path(peer["profile"])).host.places == ("0.0.0.0:10500", "[::]:10500")
    where = ["--listen", "127.0.0.1:1", "--listen", "[::1]:2"]
    made = json.loads(cli("init", tmp_path / "other", *where, "--json")[1])
    assert load_profile(Path(made["profile"])).host.places == ("127.0.0.1:1", "[::1]:2")


def sentence(err: str) -> str:
    """The one line that an error is."""
    assert "Traceback" not in err
    (line,) = err.splitlines()
    assert line.startswith("p2psip: ")
    return line


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        assert main([*command, "--help"]) == 0
    except SystemExit as end:  # argparse's way for run
        assert end.code == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"Example: p2psip {' '.join(command)}" in out


def test_the_help_lists_every_command(cli: Any) -> None:
    _, out, _ = cli("--help")
    for name in {command[0] for command in COMMANDS}:
        assert f"  {name} " in out


def test_an_unknown_command_is_a_usage_error(cli: Any) -> None:
    status, _, err = cli("cal")
    assert status == 2
    assert "cal" in err


def test_init_makes_a_profile_that_loads(peer: dict[str, Any]) -> None:
    profile = load_profile(Path(peer["profile"]))
    (joined,) = profile.overlays.values()
    assert joined.info.domain == peer["domain"]
    assert joined.account is not None
    assert str(joined.account.hit) == peer["account"]
    (identity,) = profile.identities.values()
    assert str(HostIdentity.load(identity.key).hit) == peer["hit"]
    assert list(joined.table.services) == ["sip"]


def test_the_words_are_kept_in_no_file(peer: dict[str, Any]) -> None:
    words = peer["words"].split()
    assert len(words) == 24
    for path in Path(peer["profile"]).parent.rglob("*"):
        if path.is_file():
            assert " ".join(words[:2]) not in path.read_text()


def test_secret_files_are_private(peer: dict[str, Any]) -> None:
    folder = Path(peer["profile"]).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "device.pem").stat().st_mode) == 0o600


def test_init_shows_the_words_and_what_to_type_next(cli: Any, tmp_path: Path) -> None:
    status, out, _ = cli("init", tmp_path / "peer")
    assert status == 0
    assert " 1. " in out
    assert "24. " in out
    assert f"p2psip run {tmp_path / 'peer'}" in out


def test_without_a_folder_it_is_the_users_own(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("P2PSIP_PROFILE", raising=False)
    made = json.loads(cli("init", "--json")[1])
    assert made["profile"] == str(tmp_path / "p2psip" / "profile.toml")
    assert json.loads(cli("account", "show", "--json")[1])["device"] == made["hit"]


def test_the_environment_names_another_profile(
    cli: Any, peer: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P2PSIP_PROFILE", peer["profile"])
    assert json.loads(cli("account", "show", "--json")[1])["device"] == peer["hit"]


def test_init_does_not_overwrite(cli: Any, peer: dict[str, Any]) -> None:
    before = Path(peer["profile"]).read_bytes()
    status, _, err = cli("init", Path(peer["profile"]).parent)
    assert status == 1
    assert "exists" in sentence(err)
    assert Path(peer["profile"]).read_bytes() == before


def test_the_same_words_give_another_device_the_same_account(
    cli: Any, peer: dict[str, Any], tmp_path: Path
) -> None:
    status, out, _ = cli(
        "init", tmp_path / "other", "--words", "-", "--json", stdin=peer["words"] + "\n"
    )
    other = json.loads(out)
    assert status == 0
    assert other["account"] == peer["account"]
    assert other["aor"] == peer["aor"]
    assert other["hit"] != peer["hit"]
    assert "words" not in other


@pytest.mark.parametrize("words", ["", "one two three", "abandon " * 24, "\x00\xff" * 9])
def test_bad_words_are_a_sentence_and_leave_nothing_behind(
    cli: Any, tmp_path: Path, words: str
) -> None:
    status, _, err = cli("init", tmp_path / "peer", "--words", "-", stdin=words)
    assert status == 1
    sentence(err)
    assert not (tmp_path / "peer").exists()


def test_init_joins_a_given_overlay_through_a_given_seed(cli: Any, tmp_path: Path) -> None:
    cli("overlay", "new", "Example.org", "--folder", tmp_path / "net")
    seed = f"{HostIdentity.generate().hit}@127.0.0.1:10500"
    status, out, _ = cli(
        *("init", tmp_path / "peer", "--overlay", tmp_path / "net" / "overlay.toml"),
        *("--seed", seed, "--json"),
    )
    assert status == 0
    assert json.loads(out)["domain"] == "example.org"
    (joined,) = load_profile(tmp_path / "peer" / "profile.toml").overlays.values()
    assert [str(s) for s in joined.seeds] == [seed]


@pytest.mark.parametrize(
    "arguments",
    [
        ["init", "{}/new", "--seed", "nonsense"],
        ["init", "{}/new", "--domain", "no domain"],
        ["init", "{}/new", "--listen", "here"],
        ["init", "{}/new", "--sip", '5060"'],
        ["init", "{}/new", "--overlay", "{}/none.toml"],
        ["init", "/dev/null/new"],
        ["run", "{}/new"],
        ["status", "-p", "{}/new"],
        ["account", "show", "-p", "{}/new"],
        ["overlay", "new", "bad domain", "--folder", "{}"],
        ["overlay", "new", "a.b", "--seed", "x", "--folder", "{}"],
        ["ca", "issue", "--aor", "sip:a@b.c", "--account", "{}/x", "--overlay", "{}/y"],
    ],
    ids=" ".join,
)
def test_bad_input_is_one_sentence_and_status_1(
    cli: Any, tmp_path: Path, arguments: list[str]
) -> None:
    status, out, err = cli(*(a.format(tmp_path) for a in arguments))
    assert status == 1
    assert out == ""
    sentence(err)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "text", ["", "x", "[peer", "[peer]\nstate = 5", "[overlay.a]", "\x00", "peer = 1"]
)
def test_a_bad_profile_is_one_sentence(cli: Any, tmp_path: Path, text: str) -> None:
    path = tmp_path / "profile.toml"
    path.write_text(text)
    for command in (
        ["run", path],
        ["account", "show", "-p", path],
        ["contact", "list", "-p", path],
    ):
        status, _, err = cli(*command)
        if status:  # an empty [peer] is no fault of `contact list`
            sentence(err)
        else:
            assert command[0] == "contact"


@pytest.mark.parametrize("command", RUNNING, ids=" ".join)
def test_without_a_running_peer_they_say_how_to_start_one(
    cli: Any, peer: dict[str, Any], command: list[str]
) -> None:
    status, _, err = cli(*command, "-p", peer["profile"])
    assert status == 1
    assert "p2psip run" in sentence(err)


class Answering(threading.Thread):
    """A control socket that gives every request one answer."""

    def __init__(self, path: Path, value: Any) -> None:
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_UNIX)
        path.parent.mkdir(parents=True)
        self.socket.bind(str(path))
        self.socket.listen()
        self.value = value

    def run(self) -> None:
        client, _ = self.socket.accept()
        with client, client.makefile("rb") as file:
            file.readline()
            client.sendall(json.dumps(self.value).encode() + b"\n")
        self.socket.close()


def test_trace_draws_the_calls_of_the_running_peer(cli: Any, peer: dict[str, Any]) -> None:
    steps = [
        {"step": "invite", "ms": 0, "detail": ""},
        {"step": "resolve", "ms": 5, "detail": "x"},
    ]
    calls = {"calls": [{"call": "3c26", "began": 0, "steps": steps}]}
    path = control_path(Path(peer["profile"]).parent / "state")
    Answering(path, {"ok": calls}).start()
    status, out, err = cli("trace", "-p", peer["profile"])
    assert (status, err) == (0, "")
    assert out.startswith("call 3c26")
    assert "resolve" in out
    assert "█" in out


@pytest.mark.parametrize(
    "value", [{"error": "not now"}, {}, [], "x", {"ok": 5}, {"ok": {"calls": [5]}}]
)
def test_whatever_a_peer_answers_ends_in_a_sentence(
    cli: Any, peer: dict[str, Any], value: object
) -> None:
    path = control_path(Path(peer["profile"]).parent / "state")
    Answering(path, value).start()
    status, _, err = cli("trace", "-p", peer["profile"])
    assert status == 1
    sentence(err)


def test_account_show_tells_account_names_and_devices(cli: Any, peer: dict[str, Any]) -> None:
    status, out, _ = cli("account", "show", "--json", "-p", peer["profile"])
    shown = json.loads(out)
    assert status == 0
    assert shown["account"] == peer["account"]
    assert shown["aors"] == [peer["aor"]]
    assert shown["device"] == peer["hit"]
    assert [d["hit"] for d in shown["devices"]] == [peer["hit"]]
    _, out, _ = cli("account", "show", "-p", peer["profile"])
    assert "(this one)" in out


def test_another_accounts_words_replace_it_only_when_told(
    cli: Any, peer: dict[str, Any], tmp_path: Path
) -> None:
    _, out, _ = cli("init", tmp_path / "other", "--json")
    other = json.loads(out)
    restore = ("account", "restore", "-p", peer["profile"])
    status, _, err = cli(*restore, stdin=other["words"])
    assert status == 1
    assert "--replace" in sentence(err)
    status, _, err = cli(*restore, "--replace", stdin=other["words"])
    assert status == 0
    _, out, _ = cli("account", "show", "--json", "-p", peer["profile"])
    assert json.loads(out)["account"] == other["account"]


def test_restoring_the_same_account_renews_the_delegation(cli: Any, peer: dict[str, Any]) -> None:
    show = ("account", "show", "--json", "-p", peer["profile"])
    (before,) = json.loads(cli(*show)[1])["devices"]
    status, _, _ = cli("account", "restore", "-p", peer["profile"], stdin=peer["words"])
    (after,) = json.loads(cli(*show)[1])["devices"]
    assert status == 0
    assert after["hit"] == before["hit"]
    assert after["seq"] > before["seq"]


def test_a_second_device_takes_up_what_the_first_delegated(
    cli: Any, peer: dict[str, Any], tmp_path: Path
) -> None:
    _, out, _ = cli("init", tmp_path / "tablet", "--json")
    tablet = json.loads(out)
    file = tmp_path / "tablet.toml"
    status, _, err = cli(
        *("account", "delegate", tablet["hit"], "--out", file, "-p", peer["profile"]),
        stdin=peer["words"],
    )
    assert (status, err) == (0, "")
    status, _, err = cli("account", "import", file, "--replace", "-p", tablet["profile"])
    assert (status, err) == (0, "")
    shown = json.loads(cli("account", "show", "--json", "-p", tablet["profile"])[1])
    assert shown["account"] == peer["account"]
    assert {d["hit"] for d in shown["devices"]} == {peer["hit"], tablet["hit"]}


def test_what_is_added_to_an_account_at_once_is_all_kept(
    peer: dict[str, Any], tmp_path: Path
) -> None:
    path = Path(peer["profile"]).parent / "account.p2psip"
    before = load_account(path)
    ders = [bytes((number,)) * 9 for number in range(16)]
    with ThreadPoolExecutor(16) as many:
        done = list(many.map(lambda der: _save(before, (), (der,), path), ders))
    assert len(done) == 16
    assert set(load_account(path).certificates) == set(ders)


def test_a_delegation_for_another_device_is_not_taken_up(
    cli: Any, peer: dict[str, Any], tmp_path: Path
) -> None:
    cli("init", tmp_path / "other")
    file = tmp_path / "other" / "account.p2psip"
    status, _, err = cli("account", "import", file, "--replace", "-p", peer["profile"])
    assert status == 1
    assert "no delegation for this device" in sentence(err)


@pytest.fixture
def enrolled(cli: Any, tmp_path: Path) -> dict[str, Any]:
    """A peer in a new enrolled overlay example.org, whose files are in ``tmp_path / "net"``."""
    net = tmp_path / "net"
    status, _, _ = cli("overlay", "new", "example.org", "--enrolled", "--folder", net)
    assert status == 0
    status, out, _ = cli("init", tmp_path / "a", "--overlay", net / "overlay.toml", "--json")
    assert status == 0
    made: dict[str, Any] = json.loads(out)
    return made


def issue(cli: Any, net: Path, aor: str, account: Path, out: Path) -> tuple[int, str, str]:
    result: tuple[int, str, str] = cli(
        *("ca", "issue", "--aor", aor, "--account", account, "--out", out, "--json"),
        *("--overlay", net / "overlay.toml", "--ca-key", net / "ca.pem"),
    )
    return result


def test_who_needs_a_certificate_is_told_so_and_not_to_run_at_once(
    cli: Any, enrolled: dict[str, Any], tmp_path: Path
) -> None:
    status, out, _ = cli("init", tmp_path / "b", "--overlay", tmp_path / "net" / "overlay.toml")
    assert status == 0
    assert out.index("account export") < out.index("add-certificate") < out.index("p2psip run")


@pytest.mark.parametrize("option", ["--listen", "--sip"])
def test_what_run_could_not_use_is_refused_at_once(cli: Any, tmp_path: Path, option: str) -> None:
    status, _, err = cli("init", tmp_path / "new", option, "localhost:10500")
    assert (status, option in err) == (1, True)
    assert not (tmp_path / "new").exists()


def test_an_ipv6_address_without_brackets_is_explained(cli: Any, peer: Any) -> None:
    status, _, err = cli("overlay", "invite", "--at", "2001:db8::1", "-p", peer["profile"])
    assert status == 1
    assert "stands in brackets" in err


def test_the_cas_key_is_private(enrolled: dict[str, Any], tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "net").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "net" / "ca.pem").stat().st_mode) == 0o600


def test_a_certified_name_becomes_the_accounts(
    cli: Any, enrolled: dict[str, Any], tmp_path: Path
) -> None:
    exported = tmp_path / "alice.toml"
    exported.write_text(cli("account", "export", "-p", enrolled["profile"])[1])
    cert = tmp_path / "alice.cert.pem"
    status, out, _ = issue(cli, tmp_path / "net", "sip:Alice@EXAMPLE.org", exported, cert)
    assert status == 0
    assert json.loads(out)["aors"] == ["sip:Alice@example.org"]
    status, _, err = cli("account", "add-certificate", cert, "-p", enrolled["profile"])
    assert (status, err) == (0, "")
    shown = json.loads(cli("account", "show", "--json", "-p", enrolled["profile"])[1])
    assert set(shown["aors"]) == {"sip:Alice@example.org", enrolled["aor"]}


@pytest.mark.parametrize("aor", ["sip:alice@other.org", "sip:echo@example.org", "mailto:x"])
def test_names_that_are_not_the_cas_to_give_are_refused(
    cli: Any, enrolled: dict[str, Any], tmp_path: Path, aor: str
) -> None:
    account = Path(enrolled["profile"]).with_name("account.p2psip")
    status, _, err = issue(cli, tmp_path / "net", aor, account, tmp_path / "c.pem")
    assert status == 1
    sentence(err)
    assert not (tmp_path / "c.pem").exists()


def test_a_self_certifying_name_is_not_certified_for_another(
    cli: Any, enrolled: dict[str, Any], peer: dict[str, Any], tmp_path: Path
) -> None:
    account = Path(enrolled["profile"]).with_name("account.p2psip")
    user = peer["aor"].split("@")[0]
    status, _, err = issue(
        cli, tmp_path / "net", f"{user}@example.org", account, tmp_path / "c.pem"
    )
    assert status == 1
    assert "never certified" in sentence(err)


def test_another_cas_key_is_refused(cli: Any, enrolled: dict[str, Any], tmp_path: Path) -> None:
    HostIdentity.generate().save(tmp_path / "other.pem")
    status, _, err = cli(
        *("ca", "issue", "--aor", "sip:alice@example.org"),
        *("--account", Path(enrolled["profile"]).with_name("account.p2psip")),
        *("--overlay", tmp_path / "net" / "overlay.toml", "--ca-key", tmp_path / "other.pem"),
    )
    assert status == 1
    assert "not one of the overlay's CA" in sentence(err)


def test_a_certificate_of_another_account_is_not_installed(
    cli: Any, enrolled: dict[str, Any], tmp_path: Path
) -> None:
    net = tmp_path / "net"
    cli("init", tmp_path / "b", "--overlay", net / "overlay.toml")
    cert = tmp_path / "c.pem"
    issue(cli, net, "sip:bob@example.org", tmp_path / "b" / "account.p2psip", cert)
    status, _, err = cli("account", "add-certificate", cert, "-p", enrolled["profile"])
    assert status == 1
    assert "certifies" in sentence(err)


@pytest.mark.parametrize("text", ["", "junk", "-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_what_is_no_certificate_is_a_sentence(
    cli: Any, enrolled: dict[str, Any], tmp_path: Path, text: str
) -> None:
    (tmp_path / "c.pem").write_text(text)
    status, _, err = cli(
        "account", "add-certificate", tmp_path / "c.pem", "-p", enrolled["profile"]
    )
    assert status == 1
    sentence(err)


def test_an_invitation_names_this_peer_as_a_seed(
    cli: Any, peer: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "family.toml"
    status, _, _ = cli(
        "overlay", "invite", "--at", "192.0.2.7", "--out", out, "-p", peer["profile"]
    )
    assert status == 0
    status, said, _ = cli("init", tmp_path / "guest", "--overlay", out, "--json")
    assert status == 0
    assert json.loads(said)["domain"] == peer["domain"]
    (joined,) = load_profile(tmp_path / "guest" / "profile.toml").overlays.values()
    assert f"{peer['hit']}@192.0.2.7:10500" in {str(seed) for seed in joined.info.seeds}


def test_an_invitation_without_a_port_names_the_one_that_the_peer_listens_on(
    cli: Any, tmp_path: Path
) -> None:
    assert cli("init", tmp_path / "host", "--listen", "127.0.0.1:10777")[0] == 0
    for at, port in (("192.0.2.7", 10777), ("[2001:db8::1]", 10777), ("192.0.2.7:10600", 10600)):
        out = tmp_path / "for-a-guest.toml"
        args = ("overlay", "invite", "--at", at, "--out", out, "-p", tmp_path / "host")
        assert cli(*args)[0] == 0
        (seed,) = load_overlay(out).seeds
        assert seed.port == port
        out.unlink()


def test_contacts_are_added_listed_and_removed(cli: Any, peer: dict[str, Any]) -> None:
    where = ("-p", peer["profile"])
    assert cli("contact", "add", "mum", "sip:alice@example.org", *where)[0] == 0
    assert cli("contact", "block", "sip:eve@example.org", *where)[0] == 0
    listed = json.loads(cli("contact", "list", "--json", *where)[1])
    assert listed == {
        "contacts": {"mum": "sip:alice@example.org"},
        "blocked": ["sip:eve@example.org"],
    }
    assert cli("contact", "remove", "mum", *where)[0] == 0
    assert cli("contact", "unblock", "sip:eve@example.org", *where)[0] == 0
    assert json.loads(cli("contact", "list", "--json", *where)[1]) == {
        "contacts": {},
        "blocked": [],
    }
    status, _, err = cli("contact", "remove", "mum", *where)
    assert status == 1
    sentence(err)


@pytest.mark.parametrize("command", [("add", "bob"), ("block",)])
@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("sip:eaaq…@p2psip.internal", "is shortened"),
        ("sip:eaaq...@example.org", "is shortened"),
        ("sip:eaaqaixwgpzp@example.org", "but is none (12 of them)"),
        ("sip:bob@p2psip.internal", "p2psip.internal has no CA"),
    ],
)
def test_an_address_that_is_nobodys_is_refused_with_a_reason(
    cli: Any, tmp_path: Path, command: tuple[str, ...], uri: str, why: str
) -> None:
    made = json.loads(cli("init", tmp_path / "p", "--domain", "p2psip.internal", "--json")[1])
    where = ("-p", made["profile"])
    status, out, err = cli("contact", *command, uri, *where)
    assert (status, out) == (1, "")
    assert why in sentence(err)
    assert "p2psip account show" in err
    for good in (made["aor"], "sip:bob@example.org", "sip:echo@p2psip.internal"):
        assert cli("contact", *command, good, *where)[0] == 0


def test_packages_can_add_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name = "hello"

        def load(self) -> Any:
            return hello

    monkeypatch.setattr(application, "entry_points", lambda group: [Point()])
    said: list[str] = []

    def hello(name: str) -> None:
        """Greet."""
        said.append(name)

    assert application.main(["hello", "world"]) == 0
    assert said == ["world"]


def test_a_broken_package_does_not_break_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        name = "hello"

        def load(self) -> typer.Typer:
            raise ImportError("no module named world")

    monkeypatch.setattr(application, "entry_points", lambda group: [Broken()])
    assert application.main(["--help"]) == 0
    assert "hello: this command is broken" in capsys.readouterr().err


def test_run_never_imports_the_command_lines_libraries() -> None:
    code = (
        "import sys; from overlay.cli import main; main(['run', '/nonexistent']); "
        "import overlay.peer, sipgw.gateway; heavy = ('typer', 'rich', 'pydantic', 'pyroute2', "
        "'mnemonic', 'numpy', 'rpcudp', 'kademlia.network'); "
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == "[]"
    assert sentence(done.stderr)


@pytest.mark.parametrize(
    "command",
    [["status"], ["stop"], ["resolve", "sip:a@b.c"], ["trace", "x"], ["account", "show"]],
)
def test_a_profile_in_the_wrong_place_is_told_its_right_one(
    cli: Any, peer: dict[str, Any], command: list[str]
) -> None:
    status, _, err = cli(*command, Path(peer["profile"]).parent)
    assert status == 2
    assert "-p PROFILE" in err


@pytest.mark.parametrize("how", ["folder", "file", "folder/profile.toml", "other name"])
def test_one_way_to_name_a_profile_works_everywhere(
    cli: Any, tmp_path: Path, peer: dict[str, Any], how: str
) -> None:
    given = Path(peer["profile"])
    if how == "folder":
        given = given.parent
    elif how == "other name":
        given = given.rename(given.with_name("peer.conf"))
    for command in (["status"], ["resolve", "x@y"], ["trace"], ["stop"]):
        for option in ("-p", "--profile"):
            status, _, err = cli(*command, option, given)
            assert status == 1
            assert "no peer runs" in sentence(err)
            assert "p2psip run -p PROFILE" in err
    assert cli("account", "show", "-p", given)[0] == 0
    assert cli("contact", "list", "-p", given)[0] == 0
    if how != "other name":
        status, _, err = cli("init", "-p", given)
        assert status == 1
        assert "exists" in sentence(err)
    (given.parent if given.is_file() else given).joinpath("device.pem").unlink()
    for where in ((given,), ("-p", given), ("--profile", given)):
        status, _, err = cli("run", *where)
        assert status == 1
        assert "device.pem" in sentence(err)


def test_init_takes_the_profile_option_too(cli: Any, tmp_path: Path) -> None:
    for given in (tmp_path / "a", tmp_path / "b" / "profile.toml"):
        status, out, _ = cli("init", "-p", given, "--json")
        assert status == 0
        folder = given if given.suffix != ".toml" else given.parent
        assert json.loads(out)["profile"] == str(folder / "profile.toml")
    status, _, err = cli("init", tmp_path / "c", "-p", tmp_path / "d")
    assert status == 1
    assert "twice" in sentence(err)
    status, _, err = cli("init", "-p", tmp_path / "other.toml")
    assert status == 1
    assert "profile.toml" in sentence(err)


def test_run_does_not_choose_between_two_profiles(
    cli: Any, tmp_path: Path, peer: dict[str, Any]
) -> None:
    status, _, err = cli("run", peer["profile"], "-p", tmp_path / "other")
    assert status == 1
    assert "twice" in sentence(err)


@pytest.mark.parametrize("name", ["a\nb = 1", os.fsdecode(b"\xff\xfe"), 'q"uo\\te', "ä"])
def test_init_works_in_a_folder_of_any_name(cli: Any, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    status, _, err = cli("init", folder)
    assert (status, err) == (0, "")
    assert cli("account", "show", "-p", folder)[0] == 0


def test_init_follows_no_link_to_elsewhere(cli: Any, tmp_path: Path) -> None:
    cli("overlay", "new", "example.org", "--folder", tmp_path / "net")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "overlay.toml").symlink_to(tmp_path / "elsewhere")
    cli("init", tmp_path / "a", "--overlay", tmp_path / "net" / "overlay.toml")
    assert not (tmp_path / "elsewhere").exists()


def test_an_account_is_restored_into_a_profile_that_lost_its_file(
    cli: Any, peer: dict[str, Any]
) -> None:
    path = Path(peer["profile"]).with_name("account.p2psip")
    saved = path.rename(path.with_name("saved"))
    status, _, err = cli("account", "restore", "-p", peer["profile"], stdin=peer["words"])
    assert (status, err) == (0, "")
    shown = json.loads(cli("account", "show", "--json", "-p", peer["profile"])[1])
    assert shown["account"] == peer["account"]
    path.unlink()
    assert cli("account", "import", saved, "-p", peer["profile"])[0] == 0
    path.unlink()
    status, _, err = cli("account", "show", "-p", peer["profile"])
    assert status == 1
    assert "p2psip account restore" in sentence(err)


def test_no_word_of_an_account_is_ever_repeated(cli: Any, tmp_path: Path) -> None:
    # a fixed one: a random one may have "account" or "list", which the sentences need themselves
    account = (
        "square lion tool glass tornado loud dress offer hope genuine girl wash "
        "million learn erode tiger slot bright cute love document stove punch style"
    )
    words = account.split()
    profile = tmp_path / "peer"
    assert cli("init", profile, "--words", "-", stdin=account)[0] == 0
    slips = [
        ",".join(words),
        ", ".join(words),
        " ".join(w + "x" for w in words),
        " ".join([*words[1:], words[0]]),
        " ".join(words[:-1]),
        account + " more",
    ]
    for text in slips:
        status, out, err = cli("account", "restore", "-p", profile, stdin=text)
        assert (status, out) == (1, "")
        assert not [w for w in words if w in sentence(err).lower()]
    assert cli("account", "restore", "-p", profile, stdin=account)[0] == 0


def test_a_delegation_that_has_ended_is_not_kept_for_ever(
    cli: Any, peer: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    long_after = time.time() + 401 * 86_400
    tablet = HostIdentity.generate().hit
    out = Path(peer["profile"]).with_name("tablet.toml")
    where = ("--out", out, "-p", peer["profile"])
    assert cli("account", "delegate", tablet, *where, stdin=peer["words"])[0] == 0
    monkeypatch.setattr(time, "time", lambda: long_after)
    assert cli("account", "restore", "-p", peer["profile"], stdin=peer["words"])[0] == 0
    shown = json.loads(cli("account", "show", "--json", "-p", peer["profile"])[1])
    assert [d["hit"] for d in shown["devices"]] == [peer["hit"]]


@pytest.mark.parametrize("command", [["status"], ["resolve", "x"], ["trace"]], ids=" ".join)
@pytest.mark.parametrize(
    "value", [{}, {"uptime": "x"}, {"calls": 5}, {"calls": [{}]}, {"aor": 1, "targets": [1]}]
)
def test_an_answer_of_another_version_is_a_sentence(
    cli: Any, peer: dict[str, Any], command: list[str], value: object
) -> None:
    path = control_path(Path(peer["profile"]).parent / "state")
    Answering(path, {"ok": value}).start()
    status, _, err = cli(*command, "-p", peer["profile"])
    if status or command != ["trace"]:  # no calls at all is an answer, too
        assert status == 1
        sentence(err)


def test_every_command_refuses_a_profile_that_is_far_too_long(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "profile.toml"
    path.write_bytes(b"#" * 300_000)
    for command in (["status"], ["contact", "list"], ["account", "show"]):
        status, _, err = cli(*command, "-p", path)
        assert status == 1
        assert "longer than" in sentence(err)
