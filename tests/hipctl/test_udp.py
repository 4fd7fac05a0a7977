"""Two hosts on real sockets, and the program `hipctl`, over loopback."""

import asyncio
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography.hazmat.primitives.asymmetric import ec

from hipctl import Hit, HostConfig, HostConfigRefused, HostIdentity, LocalHost
from hipctl import contact_from_addresses as contact
from hipctl.cli import main
from hipctl.udp import UdpPort, open_udp, outgoing_addresses

pytestmark = pytest.mark.net

ONE, OTHER = (HostIdentity(ec.derive_private_key(n, ec.SECP256R1())) for n in (5, 6))
HIPCTL = [sys.executable, "-c", "import sys; from hipctl.cli import main; sys.exit(main())"]


def run(main: Coroutine[Any, Any, None], loop: Any) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asyncio.wait_for(main, 30))


def outgoing_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def loopback(address: str = "127.0.0.1") -> HostConfig:
    return HostConfig(listen=((address, 0),), announce_private=True)


@pytest.mark.parametrize("loop", [asyncio.SelectorEventLoop, uvloop.new_event_loop])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_datagrams_of_every_size_go_both_ways(loop: Any, address: str) -> None:
    if address == "::1" and not outgoing_ipv6():
        pytest.skip("this machine has no IPv6")

    async def scenario() -> None:
        config = loopback(address)
        async with LocalHost([ONE], config) as one, LocalHost([OTHER], config) as other:
            one.learn(OTHER.hit, other.contact(OTHER.hit))

            def echo(data: bytes, hit: Hit, port: int) -> None:
                answering.send(data, hit, port)

            answering = other.open(OTHER.hit, 7, echo)
            back: asyncio.Queue[bytes] = asyncio.Queue()
            end = one.open(ONE.hit, 8, lambda data, hit, port: back.put_nowait(data))
            for size in (1, 172, 1_180, 1_200, 1_500, 9_000, 30_000, 65_527):
                data = os.urandom(size)
                end.send(data, OTHER.hit, 7)
                assert await back.get() == data
            assert await one.ping(OTHER.hit) < 1

    run(scenario(), loop)


def test_answers_come_from_the_address_that_was_asked() -> None:
    async def scenario() -> None:
        several = HostConfig(listen=(("127.0.0.1", 0), ("127.0.0.2", 0)))
        async with LocalHost([ONE], loopback()) as one, LocalHost([OTHER], several) as other:
            one.learn(OTHER.hit, contact([other.addresses[1]]))
            await one.ping(OTHER.hit)
            (row,) = one.status()
            assert row["address"] == list(other.addresses[1])

    run(scenario(), uvloop.new_event_loop)


def test_a_callback_that_was_cancelled_does_not_end_the_loop() -> None:
    async def scenario() -> None:
        async with LocalHost([ONE], loopback()) as one, LocalHost([OTHER], loopback()) as other:
            one.learn(OTHER.hit, other.contact(OTHER.hit))

            def cancelled(*_: object) -> None:
                raise asyncio.CancelledError

            other.open(OTHER.hit, 7, cancelled)
            one.open(ONE.hit, 8, lambda *_: None).send(b"", OTHER.hit, 7)
            await one.ping(OTHER.hit)
            assert other.counters()["callback failed"] == 1

    run(scenario(), uvloop.new_event_loop)


def test_garbage_on_a_real_socket_leaves_the_host_and_its_memory_alone() -> None:
    async def scenario() -> None:
        async with LocalHost([ONE], loopback()) as one, LocalHost([OTHER], loopback()) as other:
            to = other.addresses[0]
            rng = random.Random(1)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                for wave in range(20):
                    for _ in range(250):
                        junk = rng.randbytes(rng.randrange(0, 300))
                        sock.sendto(
                            rng.choice([b"", bytes(4), bytes(4) + b"\x3b\4\1\x21"]) + junk, to
                        )
                    await asyncio.sleep(0)
                    if wave == 9:
                        half = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            one.learn(OTHER.hit, other.contact(OTHER.hit))
            await one.connect(OTHER.hit)  # its I1 came behind all that
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < half + 8_000
            assert sum(other.counters().values()) > 2_000

    run(scenario(), uvloop.new_event_loop)


def test_a_port_that_is_taken_is_refused_with_advice() -> None:
    async def scenario() -> None:
        async with LocalHost([ONE], loopback()) as one:
            taken = HostConfig(listen=(one.addresses[0],))
            with pytest.raises(HostConfigRefused, match="another program"):
                await LocalHost([OTHER], taken).__aenter__()
            elsewhere = HostConfig(listen=(("192.0.2.1", 10_500),))
            with pytest.raises(HostConfigRefused, match="check the address"):
                await LocalHost([OTHER], elsewhere).__aenter__()

    run(scenario(), asyncio.SelectorEventLoop)


def test_a_datagram_that_the_kernel_refuses_is_counted() -> None:
    async def scenario() -> None:
        counters: Counter[str] = Counter()
        port = await open_udp(("127.0.0.1", 0), lambda *_: None, counters)
        port.send(bytes(70_000), port.address)
        port.close()
        port.close()
        await asyncio.sleep(0)
        assert counters["send failed: EMSGSIZE"] == 1

    run(scenario(), asyncio.SelectorEventLoop)


@pytest.mark.parametrize("loop", [asyncio.SelectorEventLoop, uvloop.new_event_loop])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_datagram_for_which_the_kernel_has_no_room_waits(loop: Any, address: str) -> None:
    if address == "::1" and not outgoing_ipv6():
        pytest.skip("this machine has no IPv6")

    def full(*_: object) -> int:
        raise BlockingIOError

    async def scenario() -> None:
        heard: asyncio.Queue[bytes] = asyncio.Queue()
        counters: Counter[str] = Counter()
        there = await open_udp((address, 0), lambda data, _: heard.put_nowait(data), counters)
        here = await open_udp((address, 0), lambda *_: None, counters)
        assert isinstance(here, UdpPort)
        here._sendto = full
        here.send(b"later", there.address)
        assert await asyncio.wait_for(heard.get(), 5) == b"later"
        here.close()
        here.send(b"never", there.address)
        assert counters == {"send failed: EAGAIN": 1}
        there.close()
        await asyncio.sleep(0)

    run(scenario(), loop)


def test_our_own_address_is_found_without_sending() -> None:
    for address in outgoing_addresses(socket.AF_INET):
        assert socket.inet_aton(address)


@contextmanager
def listening(*options: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    command = [*HIPCTL, "listen", "--listen", "127.0.0.1:0", "--json", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        hello = json.loads(process.stdout.readline())
        try:
            yield process, hello["hit"], hello["listening"][0]
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0


def call(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [*HIPCTL, *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_hipctl_pings_a_listening_hipctl(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    status, out, _ = call("keygen", str(key), "--json")
    assert status == 0
    with listening("--identity", str(key)) as (process, hit, address):
        assert hit == json.loads(out)["hit"]
        target = f"{hit}@{address}"
        keylog = tmp_path / "keys"
        status, out, err = call(
            "ping", target, "-c", "2", "--interval", "0", "--json", "--keylog", str(keylog)
        )
        assert status == 0
        result = json.loads(out)
        assert (result["sent"], result["received"]) == (2, 2)
        assert 0 < result["exchange_ms"] < 5_000
        assert "keys" in err
        assert keylog.read_text().startswith("HIP ")
        status, out, _ = call("ping", target, "-c", "1", "--size", "20000")
        assert status == 0
        assert "associated in" in out
        assert " lost; round trip" in out
        assert process.stdout
        assert json.loads(process.stdout.readline())["event"] == "up"


def test_a_ping_that_nobody_answers_exits_with_one() -> None:
    status, out, _ = call("ping", "2001:22::1@127.0.0.1:9", "--timeout", "0.2", "--json")
    assert status == 1
    assert json.loads(out)["received"] == 0


def test_an_interrupted_ping_still_sums_up() -> None:
    with listening() as (_, hit, address):
        command = [*HIPCTL, "ping", f"{hit}@{address}", "-c", "1000"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout
            assert any("seq=1 " in line for line in process.stdout)  # reads as far as that
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=10)
        assert process.returncode == 0
        assert " lost; round trip" in out
        assert err == ""


def arguments(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["hipctl", *words])


@pytest.mark.parametrize(
    ("target", "advice"),
    [
        ("2001:22::1", "HIT@ADDR"),
        ("nonsense@127.0.0.1", "hipctl show"),
        ("2001:db8::1@127.0.0.1", "hipctl show"),
        ("2001:22::1@127.0.0.1:x", "ADDR:PORT"),
        ("2001:22::1@127.0.0.1:70000", "ADDR:PORT"),
        ("2001:22::1@nobody.invalid:1", "check the name"),
        ("2001:22::1@127.0.0.1:0", "1-65535"),
        ("2001:22::1@224.0.0.1:10500", "one host"),
        ("2001:22::1@0.0.0.0", "one host"),
        ("2001:22::1@[2001:22::1]", "no locator"),
    ],
)
def test_a_target_that_is_none_is_explained(
    target: str, advice: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments(monkeypatch, "ping", target)
    assert main() == 1
    assert advice in capsys.readouterr().err


def test_both_ends_of_a_ping_must_be_of_one_ip_version(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments(monkeypatch, "ping", "2001:22::1@127.0.0.1:9", "--listen", "[::1]:0")
    assert main() == 1
    assert "one IP version" in capsys.readouterr().err
    arguments(monkeypatch, "ping", "2001:22::1@[::ffff:127.0.0.1]:9", "--timeout", "0.05")
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 1
    assert "at 127.0.0.1:9" in capsys.readouterr().out


def test_key_files_are_made_once_shown_and_kept_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "key.pem"
    for command in ("keygen", "show"):
        arguments(monkeypatch, command, str(file), "--json")
        with pytest.raises(SystemExit) as exit_:
            main()
        assert exit_.value.code == 0
    made, shown = map(json.loads, capsys.readouterr().out.splitlines())
    assert made == shown
    assert Hit.parse(made["hit"]) == HostIdentity.load(file).hit
    arguments(monkeypatch, "keygen", str(file))
    assert main() == 1
    assert "exists" in capsys.readouterr().err
    file.chmod(0o644)
    arguments(monkeypatch, "show", str(file))
    assert main() == 1
    assert "chmod 600" in capsys.readouterr().err
    arguments(monkeypatch, "keygen", str(tmp_path / "x"), "--curve", "p521")
    assert main() == 1
    assert "p256" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["keygen", "show", "ping", "listen"])
def test_every_command_has_help_with_an_example(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments(monkeypatch, command, "--help")
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 0
    assert f"Example: hipctl {command}" in capsys.readouterr().out


def test_a_contact_of_a_real_host_names_its_port() -> None:
    async def scenario() -> None:
        async with LocalHost([ONE], loopback()) as one:
            assert one.contact(ONE.hit) == contact(one.addresses)

    run(scenario(), asyncio.SelectorEventLoop)


def test_a_port_beside_the_one_for_all_takes_what_comes_to_its_address() -> None:
    async def scenario() -> None:
        heard: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        counters = Counter[str]()
        everywhere = await open_udp(
            ("0.0.0.0", 0), lambda data, _: heard.put_nowait(("all", data)), counters
        )
        number, lo = everywhere.address[1], socket.if_nametoindex("lo")
        beside = await everywhere.beside(
            "127.0.0.2", lo, lambda data, _: heard.put_nowait(("beside", data))
        )
        assert beside.address == ("127.0.0.2", number)
        with pytest.raises(HostConfigRefused):
            await everywhere.beside("192.0.2.99", lo, lambda *_: None)
        # another program finds the port taken, however it asks
        for ip in ("0.0.0.0", "127.0.0.2", "127.0.0.3"):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
                thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with pytest.raises(OSError, match="in use"):
                    thief.bind((ip, number))
        far = await open_udp(
            ("127.0.0.9", 0), lambda data, _: heard.put_nowait(("far", data)), counters
        )
        for ip, who in (("127.0.0.2", "beside"), ("127.0.0.5", "all")):
            far.send(b"hello", (ip, number))
            assert await asyncio.wait_for(heard.get(), 5) == (who, b"hello")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
            listener.settimeout(5)
            listener.bind(("127.0.0.8", 0))
            beside.send(b"answer", listener.getsockname())
            assert listener.recvfrom(99) == (b"answer", beside.address)
        beside.close()
        await asyncio.sleep(0)
        far.send(b"again", ("127.0.0.2", number))
        assert await asyncio.wait_for(heard.get(), 5) == ("all", b"again")
        everywhere.close()
        far.close()
        await asyncio.sleep(0)

    run(scenario(), uvloop.new_event_loop)
    run(scenario(), asyncio.new_event_loop)
