"""The control socket answers its owner, bounded, and nobody else."""

import asyncio
import json
import socket
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hipctl import control
from overlay.control import ControlRefused, ControlServer, PeerNotRunning, ask, control_path
from overlay.errors import ConfigError, NotFound


async def answer(what: str, arguments: Mapping[str, Any]) -> Any:
    if what == "resolve":
        raise NotFound(f"nobody is registered under {arguments.get('aor')}")
    if what == "long":
        return "x" * 5_000_000
    return {"did": what}


def serve(path: Path, client: Callable[[], Any]) -> Any:
    """Run ``client`` in a thread against a server at ``path``."""

    async def main() -> Any:
        async with asyncio.timeout(10), ControlServer(path, answer):
            return await asyncio.to_thread(client)

    return asyncio.run(main())


def raw(path: Path, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(str(path))
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        with sock.makefile("rb") as file:
            return file.read()


def test_a_request_is_answered(tmp_path: Path) -> None:
    path = tmp_path / "run" / "p.sock"
    assert serve(path, lambda: ask(path, "status")) == {"did": "status"}


def test_the_peers_errors_reach_the_client_as_sentences(tmp_path: Path) -> None:
    path = tmp_path / "run" / "p.sock"
    with pytest.raises(ControlRefused, match="nobody is registered under sip:x@y"):
        serve(path, lambda: ask(path, "resolve", aor="sip:x@y"))


def test_without_a_peer_the_client_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(PeerNotRunning, match="p2psip run"):
        ask(tmp_path / "none.sock", "status")


def test_only_the_owner_reaches_the_socket_and_it_is_gone_after(tmp_path: Path) -> None:
    path = tmp_path / "run" / "p.sock"

    def modes() -> tuple[int, int]:
        return stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)

    assert serve(path, modes) == (0o600, 0o700)
    assert not path.exists()


def test_the_socket_of_a_peer_that_died_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "p.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert serve(path, lambda: ask(path, "status")) == {"did": "status"}


def test_a_second_peer_with_the_same_profile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.sock"

    async def main() -> None:
        async with ControlServer(path, answer):
            with pytest.raises(ConfigError, match="p2psip stop"):
                await ControlServer(path, answer).__aenter__()

    asyncio.run(main())


@pytest.mark.parametrize(
    "junk", [b"\xff\xfe\n", b"[]\n", b"{}\n", b'{"do":5}\n', b"[" * 9000 + b"\n"]
)
def test_junk_is_answered_and_the_next_request_too(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "p.sock"
    first, second = serve(path, lambda: raw(path, junk + b'{"do":"status"}\n')).splitlines()
    assert "error" in json.loads(first)
    assert json.loads(second) == {"ok": {"did": "status"}}


def test_a_line_without_an_end_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "p.sock"
    assert serve(path, lambda: raw(path, b"x" * (control.MAX_REQUEST * 4))) in (b"", None)


def test_an_answer_has_a_largest_size(tmp_path: Path) -> None:
    path = tmp_path / "p.sock"
    with pytest.raises(ControlRefused, match="too long"):
        serve(path, lambda: ask(path, "long"))


def test_clients_beyond_the_bound_are_turned_away_and_others_still_served(tmp_path: Path) -> None:
    path = tmp_path / "p.sock"

    def crowd() -> tuple[Any, bytes]:
        idle = [socket.socket(socket.AF_UNIX) for _ in range(control.MAX_CLIENTS)]
        for sock in idle:
            sock.connect(str(path))
            sock.sendall(b'{"do":"status"}\n')
            assert sock.recv(1000)
        turned_away = raw(path, b"")
        idle.pop().close()
        for sock in idle:
            sock.sendall(b'{"do":"status"}\n')
            last = sock.recv(1000)
        for sock in idle:
            sock.close()
        return json.loads(last), turned_away

    assert serve(path, crowd) == ({"ok": {"did": "status"}}, b"")


def test_a_silent_client_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "IDLE", 0.05)
    path = tmp_path / "p.sock"

    def silent() -> bytes:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(str(path))
            return sock.recv(10)

    assert serve(path, silent) == b""


def test_a_long_path_moves_the_socket_where_the_kernel_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert control_path(Path("/p/state")) == Path("/p/state/control.sock")
    deep = Path("/" + "d" * 120) / "state"
    assert len(str(control_path(deep))) < 107 + len(str(tmp_path))
    assert control_path(deep) != control_path(deep.with_name("other"))


def test_stopping_does_not_wait_for_a_handler_that_hangs(tmp_path: Path) -> None:
    path = tmp_path / "p.sock"

    async def main() -> None:
        started = asyncio.Event()

        async def hang(_what: str, _arguments: Mapping[str, Any]) -> Any:
            started.set()
            await asyncio.Event().wait()

        async with asyncio.timeout(5):
            async with ControlServer(path, hang):
                reader, writer = await asyncio.open_unix_connection(str(path))
                writer.write(b'{"do":"status"}\n')
                await started.wait()
            assert await reader.read() == b""
            writer.close()

    asyncio.run(main())


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=64) | st.dictionaries(st.sampled_from(["do", "aor", "x"]), JSON))
def test_any_line_is_answered_by_one_line_of_json(request_: bytes | dict[str, Any]) -> None:
    line = request_ if isinstance(request_, bytes) else json.dumps(request_).encode()
    server = ControlServer(Path("/nowhere"), answer)
    reply = asyncio.run(server._reply(line))
    assert reply.count(b"\n") == 1
    assert json.loads(reply).keys() & {"ok", "error"}
