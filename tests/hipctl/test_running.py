"""``hipctl status``, ``watch`` and ``close``, of ``hipctl listen`` and of any host."""

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hipctl import (
    AssociationFailed,
    ControlRefused,
    ControlServer,
    ControlUnavailable,
    HostConfig,
    HostControl,
    HostIdentity,
    LocalHost,
    ask_control,
    running,
)
from hipctl import contact_from_addresses as contact
from hipctl.cli import main
from hipctl.control import runtime_folder

pytestmark = pytest.mark.net

A, B = (HostIdentity.from_secret(n) for n in (1, 2))
CONFIG = HostConfig(listen=(("127.0.0.1", 0),))
HIPCTL = [sys.executable, "-c", "import sys; from hipctl.cli import main; sys.exit(main())"]


def served(path: Path, client: Callable[[LocalHost, LocalHost], Any]) -> Any:
    """Run ``client`` in a thread while a host with one association answers at ``path``."""

    async def scenario() -> Any:
        async with (
            asyncio.timeout(20),
            LocalHost([A], CONFIG) as a,
            LocalHost([B], CONFIG) as b,
            ControlServer(path, HostControl(a).answer),
        ):
            a.learn(B.hit, contact(b.addresses))
            await a.connect(B.hit)
            await a.ping(B.hit)
            return await asyncio.to_thread(client, a, b)

    return asyncio.run(scenario())


def program(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["hipctl", *arguments])
    try:
        return main()
    except SystemExit as end:
        return int(end.code or 0)


def test_status_tells_everything_about_an_association(tmp_path: Path) -> None:
    path = tmp_path / "c" / "s.sock"
    told, mode = served(
        path, lambda a, b: (ask_control(path, "status"), stat.S_IMODE(path.stat().st_mode))
    )
    assert mode == 0o600
    (row,) = told["associations"]
    assert row["peer"] == str(B.hit)
    assert row["state"] == "ESTABLISHED"
    assert row["transforms"] == {"esp": "AES_GCM_16", "cipher": "AES_128_CBC", "hash": "sha384"}
    assert (row["sent"], row["received"], row["drops"]) == (1, 1, {})
    assert [one["status"] for one in row["locators"]] == ["ACTIVE"]
    assert 0 <= row["age"] < 10
    assert told["puzzle_k"] == 10
    assert told["counters"]["ESP packets sent"] == 1


def test_what_an_association_drops_is_counted_by_reason(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"

    def replay(a: LocalHost, b: LocalHost) -> Any:
        (spi,) = a.engine.inbound
        for _ in range(3):
            a.data.on_datagram(spi.to_bytes(4, "big") + bytes(60), ("127.0.0.1", 1))
        return ask_control(path, "status")

    (row,) = served(path, replay)["associations"]
    assert sum(row["drops"].values()) == 3


def test_people_read_it_and_see_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.sock"
    options = ["--control", str(path)]

    def look(a: LocalHost, b: LocalHost) -> None:
        assert program(monkeypatch, "status", *options) == 0
        assert program(monkeypatch, "watch", "--count", "2", "--interval", "0.05", *options) == 0
        assert (
            program(monkeypatch, "watch", "--count", "2", "--interval", "0.05", "--json", *options)
            == 0
        )

    served(path, look)
    out = capsys.readouterr().out
    assert f"{B.hit}  ESTABLISHED for" in out
    assert "1 packets sent, 1 packets received" in out
    assert "1 packets sent (0/s)" in out
    assert "puzzles of 10 bits; associations: 1" in out
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert len(lines) == 2
    assert "at" not in lines[0]


def test_close_closes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s.sock"

    def close(a: LocalHost, b: LocalHost) -> tuple[bool, bool]:
        before = a.connected(B.hit)
        assert ask_control(path, "close", hit=str(B.hit)) == {"closed": 1, "peer": str(B.hit)}
        return before, a.connected(B.hit)

    assert served(path, close) == (True, False)


def test_close_forgets_where_the_peer_was_if_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.sock"

    def close(a: LocalHost, b: LocalHost) -> bool:
        more = ["--forget"] if forget else []
        assert program(monkeypatch, "close", str(B.hit), "--control", str(path), *more) == 0
        return a.engine.last_seen(B.hit) is None

    for forget in (False, True):
        assert served(path, close) is forget


def test_lists_of_hits_change_while_the_host_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.sock"
    options = ["--control", str(path)]

    def change(a: LocalHost, b: LocalHost) -> tuple[bool, bool]:
        assert program(monkeypatch, "access", *options) == 0
        before = a.connected(B.hit)
        assert program(monkeypatch, "access", "--deny", str(B.hit), *options) == 0
        after = a.connected(B.hit)
        assert program(monkeypatch, "access", "--allow", str(B.hit), "--json", *options) == 0
        assert program(monkeypatch, "access", "--anybody", *options) == 0
        assert program(monkeypatch, "access", "--deny", "nonsense", *options) == 1
        return before, after

    assert served(path, change) == (True, False)
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "allowed: anybody",
        "denied: nobody",
        "allowed: anybody",
        f"denied: {B.hit}",
        json.dumps({"allow": [str(B.hit)], "deny": []}),
        "allowed: anybody",
        "denied: nobody",
    ]
    assert "no HIT" in err


@pytest.mark.parametrize(
    ("what", "arguments", "why"),
    [
        ("close", {"hit": "nonsense"}, "no HIT"),
        ("close", {}, "no HIT"),
        ("close", {"hit": "2001:22::1"}, "no association with"),
        ("dance", {}, "does not know"),
        ("access", {"allow": "all"}, "lists of HITs"),
        ("access", {"deny": [5]}, "no HIT"),
    ],
)
def test_what_cannot_be_done_is_said(
    tmp_path: Path, what: str, arguments: dict[str, Any], why: str
) -> None:
    path = tmp_path / "s.sock"
    with pytest.raises(ControlRefused, match=why):
        served(path, lambda a, b: ask_control(path, what, **arguments))


def test_without_a_host_every_command_says_how_to_start_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for command in (["status"], ["watch"], ["close", "2001:22::1"]):
        assert program(monkeypatch, *command) == 1
        assert "hipctl listen" in capsys.readouterr().err
        assert program(monkeypatch, *command, "--control", str(tmp_path / "none")) == 1
        assert "nobody listens there" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["status", "watch", "close", "access"])
def test_every_command_explains_itself_with_an_example(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program(monkeypatch, command, "--help") == 0
    out = capsys.readouterr().out
    assert f"Example: hipctl {command}" in " ".join(out.split())
    assert "--json" in out


def test_an_answer_of_another_version_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(running, "ask", lambda *_, **__: {"associations": 5})
    assert program(monkeypatch, "status", "--control", str(tmp_path)) == 1
    assert "another version" in capsys.readouterr().err


def test_two_hosts_do_not_share_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"

    async def scenario() -> None:
        async with LocalHost([A], CONFIG) as a, ControlServer(path, HostControl(a).answer):
            with pytest.raises(ControlUnavailable, match="another process") as found:
                await ControlServer(path, HostControl(a).answer).__aenter__()
            assert found.value.taken

    asyncio.run(scenario())


@pytest.mark.parametrize("mode", [0o755, 0o1777])
def test_the_mode_of_a_folder_that_was_there_is_left_alone(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(mode)
    before = os.umask(0)

    async def scenario() -> int:
        async with LocalHost([A], CONFIG) as a:
            path = folder / "s.sock"
            async with ControlServer(path, HostControl(a).answer):
                return stat.S_IMODE(path.stat().st_mode)

    try:
        if mode & 0o002:
            with pytest.raises(ControlUnavailable, match="anybody may write"):
                asyncio.run(scenario())
        else:
            assert asyncio.run(scenario()) == 0o600
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == mode


def test_the_socket_of_a_busy_process_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.sock"

    def connect(_sock: socket.socket, _address: str) -> None:
        raise TimeoutError  # as when its backlog is full

    async def scenario() -> None:
        async with LocalHost([A], CONFIG) as a:
            monkeypatch.setattr(socket.socket, "connect", connect)
            with pytest.raises(ControlUnavailable, match="another process"):
                await ControlServer(path, HostControl(a).answer).__aenter__()

    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        asyncio.run(scenario())
    assert path.exists()


def test_who_is_denied_before_a_host_opens_stays_denied() -> None:
    async def scenario() -> None:
        host = LocalHost([A], CONFIG)
        host.set_access(None, [B.hit])
        async with host, LocalHost([B], CONFIG) as other:
            other.learn(A.hit, contact(host.addresses))
            with pytest.raises(AssociationFailed):
                await other.connect(A.hit, timeout=0.3)
            assert host.counters()["HIT denied"] > 0

    asyncio.run(scenario())


def test_a_control_socket_takes_the_place_of_no_file(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.write_text("mine")

    async def scenario() -> None:
        async with LocalHost([A], CONFIG) as a:
            with pytest.raises(ControlUnavailable, match="no socket"):
                await ControlServer(notes, HostControl(a).answer).__aenter__()

    asyncio.run(scenario())
    assert notes.read_text() == "mine"


def test_without_a_runtime_folder_sockets_lie_at_home_not_in_tmp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert runtime_folder("hipctl") == tmp_path / "hipctl"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/me")
    assert runtime_folder("hipctl") == Path("/run/me/hipctl")


@contextmanager
def listening(runtime: Path) -> Iterator[str]:
    command = [*HIPCTL, "listen", "--listen", "127.0.0.1:0", "--json"]
    environment = {"XDG_RUNTIME_DIR": str(runtime), "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        try:
            yield json.loads(process.stdout.readline())["hit"]
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0


def test_a_listening_hipctl_is_found_and_with_two_one_chooses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with listening(tmp_path) as hit:
        assert program(monkeypatch, "status", "--json") == 0
        assert json.loads(capsys.readouterr().out)["hits"] == [hit]
        with listening(tmp_path):
            assert program(monkeypatch, "status") == 1
            assert "choose one with --control" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.sock"))
