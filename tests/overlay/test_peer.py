"""Whole peers in virtual time: built from profiles, over hosts without crypto."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hipctl import Hit, HostIdentity
from overlay import ConfigError, Evidence, LookupFailed, NotFound, Verdict, membership
from overlay.commands.init import ACCOUNT_NAME, make
from overlay.commands.running import status_lines
from overlay.config import Profile, load_profile
from overlay.contacts import ContactBook
from overlay.errors import OverlayError, ServiceNotInstalled
from overlay.overlayfile import found_overlay, save_overlay
from overlay.peer import LocalPeer
from overlay.store import MemoryStore
from sim.hits import HitNet
from sim.loop import simulate

PORT = 5060
WALL = 1_800_000_000.0


class Recorder:
    """A service that writes down what happens to it."""

    log: list[str] = []  # noqa: RUF012
    peer: Any = None

    def __init__(self, peer: Any, table: Mapping[str, Any]) -> None:
        if "bad" in table:
            raise ConfigError("services.sip.bad: unknown key")
        type(self).peer = peer
        self.table = table

    async def start(self) -> None:
        self.log.append("start")

    async def stop(self) -> None:
        self.log.append("stop")

    def status(self) -> Mapping[str, Any]:
        return {"table": dict(self.table)}


class Hanging(Recorder):
    async def stop(self) -> None:
        await asyncio.Event().wait()


class Refusing(Recorder):
    async def start(self) -> None:
        raise ConfigError("services.sip.listen: taken")


class Point:
    """An entry point."""

    def __init__(self, name: str, found: Any) -> None:
        self.name, self.found = name, found

    def load(self) -> Any:
        return self.found


def profile(folder: Path, overlay: Path | None = None, seed: str | None = None) -> Profile:
    made = make(
        folder,
        overlay=overlay,
        domain="example.org",
        seeds=(seed,) if seed else (),
        words=None,
        listen=("127.0.0.1:10500",),
        sip="127.0.0.1:5060",
        private=True,
    )
    return load_profile(made.profile)


def device(of: Profile) -> HostIdentity:
    return HostIdentity.load(of.identities["device"].key)


def build(net: HitNet, of: Profile, service: type = Recorder, **kwargs: Any) -> LocalPeer:
    kwargs.setdefault("installed", [Point("sip", service)])
    return LocalPeer(
        of,
        host=net.host(device(of).hit),
        store=MemoryStore(),
        wall=lambda: WALL + asyncio.get_running_loop().time(),
        **kwargs,
    )


@asynccontextmanager
async def pair(folder: Path) -> AsyncIterator[tuple[LocalPeer, LocalPeer]]:
    """Two joined peers of one overlay."""
    net = HitNet()
    one = profile(folder / "one")
    other = profile(
        folder / "other", folder / "one" / "overlay.toml", f"{device(one).hit}@127.0.0.1:10500"
    )
    async with build(net, one) as first:
        host = net.hosts[device(one).hit]
        second = build(net, other)
        net.hosts[device(other).hit].learn(device(one).hit, host.contact(device(one).hit))
        async with second:
            await second.answer("status", {"wait": 30})
            yield first, second


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110  in virtual time
            await asyncio.sleep(0.1)


def own(peer: LocalPeer) -> str:
    (aor,) = peer.aors()
    return aor


@pytest.fixture(autouse=True)
def _fresh_log() -> None:
    Recorder.log.clear()


def test_what_one_peer_publishes_the_other_resolves_until_it_is_withdrawn(tmp_path: Path) -> None:
    async def main() -> None:
        async with pair(tmp_path) as (one, other):
            aor = own(one)
            await one.publish(aor, PORT)

            async def found() -> bool:
                with contextlib.suppress(NotFound):
                    (target,) = await other.resolve(aor)
                    assert target.hit == one.aors()[aor]
                    assert (target.aor, target.port) == (aor, PORT)
                    return True
                return False

            async def gone() -> bool:
                try:
                    await other.resolve(aor)
                except NotFound:
                    return True
                return False

            await until(found)
            assert await other.owns(aor, one.aors()[aor])
            assert not await other.owns(aor, next(iter(other.aors().values())))
            await one.withdraw(aor)
            await until(gone)

    simulate(main)


def test_an_overlay_of_one_resolves_its_own_name(tmp_path: Path) -> None:
    async def main() -> None:
        async with build(HitNet(), profile(tmp_path / "p")) as peer:
            aor = own(peer)
            await peer.publish(aor, PORT)

            async def found() -> bool:
                with contextlib.suppress(NotFound):
                    return [t.hit for t in await peer.resolve(aor)] == [peer.aors()[aor]]
                return False

            await until(found)

    simulate(main)


def test_services_run_though_no_seed_answers(tmp_path: Path) -> None:
    gone = "2001:22:1:2:3:4:5:6@127.0.0.9:10500"

    async def main() -> None:
        of = profile(tmp_path / "p", seed=gone)
        async with build(HitNet(), of) as peer:
            assert Recorder.log == ["start"]
            assert peer.domains == ("example.org",)

    simulate(main)


def two_overlays(folder: Path) -> Profile:
    """One identity in example.org and in example.net."""
    of = profile(folder)
    info = found_overlay("example.net", rng=os.urandom)
    save_overlay(info, folder / "second.toml")
    with of.path.open("a") as file:
        file.write(
            '\n[overlay.second]\nidentity = "device"\nfile = "second.toml"\n'
            f'account = "{ACCOUNT_NAME}"\n[overlay.second.services.sip]\n'
        )
    return load_profile(of.path)


def test_several_overlays_share_one_identity_and_the_domain_chooses(tmp_path: Path) -> None:
    async def main() -> None:
        async with build(HitNet(), two_overlays(tmp_path / "p")) as peer:
            assert peer.domains == ("example.org", "example.net")
            here, there = sorted(peer.aors(), key=lambda aor: "example.net" in aor)
            assert there.endswith("@example.net")
            await peer.publish(there, PORT)

            async def found() -> bool:
                with contextlib.suppress(NotFound):
                    return bool(await peer.resolve(there))
                return False

            async def held() -> bool:
                return bool(peer.status()["overlays"]["second"]["published"] == [there])

            assert not await held()  # nobody has it yet
            await until(found)
            with pytest.raises(NotFound):
                await peer.resolve(here)
            await until(held)
            status = peer.status()
            assert status["overlays"]["main"]["published"] == []
            assert list(status["services"]) == ["sip", "second.sip"]

    simulate(main)


def altered(folder: Path, name: str, **changes: Any) -> Profile:
    of = profile(folder)
    joined = msgspec.structs.replace(of.overlays["main"], **changes)
    return msgspec.structs.replace(of, overlays={name: joined})


def test_who_would_not_be_let_in_is_told_what_to_do_before_anything_starts(tmp_path: Path) -> None:
    ca = HostIdentity.generate()
    enrolled = found_overlay("example.org", ca=ca.host_id, admission="enrolled", rng=os.urandom)
    other = profile(tmp_path / "other").overlays["main"].account
    cases = {
        "p2psip ca issue": altered(tmp_path / "a", "main", info=enrolled),
        "only certified accounts": altered(tmp_path / "b", "main", info=enrolled, account=None),
        "p2psip account restore": altered(tmp_path / "c", "main", account=other),
    }

    for sentence, of in cases.items():

        async def main(of: Profile = of) -> None:
            async with build(HitNet(), of):
                raise AssertionError

        with pytest.raises(ConfigError, match=rf"^overlay\.main\.account: .*{sentence}"):
            simulate(main)
    assert Recorder.log == []


def test_credentials_that_fit_no_packet_are_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hipctl.credentials.PACKET_MAX", 700)

    async def main() -> None:
        async with build(HitNet(), profile(tmp_path / "p")):
            raise AssertionError

    with pytest.raises(ConfigError, match=r"^overlay\.main\.account: the credentials .* the key"):
        simulate(main)


def test_without_an_account_a_peer_takes_part_but_has_no_name(tmp_path: Path) -> None:
    async def main() -> None:
        async with build(HitNet(), altered(tmp_path / "p", "main", account=None)) as peer:
            assert peer.aors() == {}
            assert peer.domains == ("example.org",)

    simulate(main)


def test_a_stopping_peer_withdraws_and_stops_services_first(tmp_path: Path) -> None:
    async def main() -> None:
        async with pair(tmp_path) as (one, other):
            aor = own(other)
            await other.publish(aor, PORT)

            async def found() -> bool:
                with contextlib.suppress(NotFound):
                    return bool(await one.resolve(aor))
                return False

            await until(found)
            await other.__aexit__()
            assert Recorder.log == ["start", "start", "stop"]
            with pytest.raises(NotFound):
                await one.resolve(aor)

    simulate(main)


def test_a_service_that_hangs_does_not_hold_up_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with build(HitNet(), profile(tmp_path / "p"), Hanging) as peer:
            await peer.publish(own(peer), PORT)
            began = loop.time()
        assert loop.time() - began <= 3.0

    simulate(main)


def test_a_service_that_refuses_to_start_stops_what_runs_already(tmp_path: Path) -> None:
    async def main() -> None:
        net, of = HitNet(), profile(tmp_path / "p")
        with pytest.raises(ConfigError, match=r"^overlay\.main\.services\.sip\.listen: taken"):
            async with build(net, of, Refusing):
                raise AssertionError
        async with build(net, of):  # all ports are free again
            pass

    simulate(main)


@pytest.mark.parametrize(
    ("installed", "error", "message"),
    [([], ServiceNotInstalled, r"^overlay\.main\.services\.sip: not installed")],
)
def test_an_unknown_service_is_named_with_its_overlay(
    tmp_path: Path, installed: list[Point], error: type[Exception], message: str
) -> None:
    async def main() -> None:
        async with build(HitNet(), profile(tmp_path / "p"), installed=installed):
            raise AssertionError

    with pytest.raises(error, match=message):
        simulate(main)


def test_an_unknown_policy_is_a_sentence(tmp_path: Path) -> None:
    of = profile(tmp_path / "p")
    text = of.path.read_text().replace('policy = "contacts"', 'policy = "whoever"')
    of.path.write_text(text)

    async def main() -> None:
        async with build(HitNet(), load_profile(of.path)):
            raise AssertionError

    with pytest.raises(ConfigError, match=r"^peer\.policy: 'whoever' is not installed"):
        simulate(main)


def evidence(caller: str) -> Evidence:
    return Evidence("INVITE", caller, "sip:me@example.org", True, False, False)


def test_the_block_list_is_heard_even_while_the_peer_runs(tmp_path: Path) -> None:
    async def main() -> None:
        of = profile(tmp_path / "p")
        async with build(HitNet(), of) as peer:
            assert peer.judge(evidence("sip:eve@example.org")) is Verdict.RING
            book = ContactBook(of.peer.contacts)
            book.block("sip:eve@example.org")
            book.add("mum", "sip:alice@example.org")
            assert peer.judge(evidence("sip:eve@example.org")) is Verdict.REFUSE
            assert peer.contacts.uri("MUM") == "sip:alice@example.org"

    simulate(main)


def test_a_policy_is_told_who_is_a_contact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnlyContacts:
        def judge(self, evidence: Evidence) -> Verdict:
            return Verdict.RING if evidence.contact else Verdict.KNOCK

    points = [Point("contacts", OnlyContacts)]
    monkeypatch.setattr(membership, "entry_points", lambda group: points)

    async def main() -> None:
        of = profile(tmp_path / "p")
        ContactBook(of.peer.contacts).add("mum", "sip:alice@example.org")
        async with build(HitNet(), of) as peer:
            assert peer.judge(evidence("sip:alice@example.org")) is Verdict.RING
            assert peer.judge(evidence("sip:eve@example.org")) is Verdict.KNOCK

    simulate(main)


def test_names_of_other_domains_and_other_peoples_names_are_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with build(HitNet(), profile(tmp_path / "p")) as peer:
            with pytest.raises(NotFound, match="domain elsewhere"):
                await peer.resolve("sip:a@elsewhere.org")
            with pytest.raises(NotFound, match="not a name of this peer"):
                await peer.publish("sip:alice@example.org", PORT)
            assert not await peer.owns("sip:a@elsewhere.org", Hit(16))
            await peer.withdraw("sip:a@elsewhere.org")

    simulate(main)


def test_who_asks_too_early_or_too_late_is_told_so_and_may_still_stop_it(tmp_path: Path) -> None:
    stopped: list[bool] = []

    async def main() -> None:
        of = profile(tmp_path / "p")
        peer = build(HitNet(), of, stop=lambda: stopped.append(True))
        with pytest.raises(LookupFailed, match="starting"):
            await peer.answer("status", {})
        assert await peer.answer("stop", {}) == {"stopping": True}
        async with peer:
            await peer.answer("status", {})
        with pytest.raises(LookupFailed, match="stopping"):
            await peer.answer("status", {})
        await asyncio.sleep(1)
        assert stopped == [True]

    simulate(main)


def test_the_control_socket_gets_answers_and_sentences(tmp_path: Path) -> None:
    stopped: list[bool] = []

    async def main() -> None:
        of = profile(tmp_path / "p")
        async with build(HitNet(), of, stop=lambda: stopped.append(True)) as peer:
            status = await peer.answer("status", {})
            assert status["aors"] == [own(peer)]
            assert status["overlays"]["main"]["domain"] == "example.org"
            human = "\n".join(status_lines(json.loads(json.dumps(status))))
            assert f"  {own(peer)}" in human
            assert "service sip: table={listen=127.0.0.1:5060}" in human
            assert status["services"] == {"sip": {"table": {"listen": "127.0.0.1:5060"}}}
            peer.trace.mark("abc", "invite")
            assert [c["call"] for c in (await peer.answer("trace", {}))["calls"]] == ["abc"]
            assert (await peer.answer("trace", {"call": "x"}))["calls"] == []
            assert (await peer.answer("contacts", {}))["problem"] is None
            for what, arguments in (
                ("resolve", {"aor": "sip:nobody@example.org"}),
                ("resolve", {"aor": 5}),
                ("resolve", {}),
                ("dance", {}),
            ):
                with pytest.raises(OverlayError):
                    await peer.answer(what, arguments)
            with pytest.raises(NotFound, match=r"no contact 'mum'.*p2psip contact"):
                await peer.answer("resolve", {"aor": "mum"})
            await peer.answer("stop", {})
            await asyncio.sleep(1)
            assert stopped == [True]

    simulate(main)
