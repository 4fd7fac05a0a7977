"""Whole peers on simulated LANs: who finds whom, who gets the overlay's file, who is refused."""

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hipctl import Hit, HostIdentity, LanPeer
from overlay.commands.init import make
from overlay.commands.running import status_lines
from overlay.config import load_profile
from overlay.errors import ConfigError
from overlay.invitations import INVITATIONS, Invitation, InvitationBook, has_mark
from overlay.joining import Around, domains, look
from overlay.lan import ROOM
from overlay.lobby import LOBBY_PORT, Request
from overlay.overlayfile import OverlayInfo, certify_overlay, found_overlay, save_overlay
from overlay.peer import LocalPeer
from overlay.store import MemoryStore
from sim.hits import HitNet, SimHost
from sim.loop import simulate
from sim.people import CA, OTHER_CA, counted, identity

WALL = 1_800_000_000.0
SECRET, WRONG = bytes(range(15)), bytes(15)
HOME = certify_overlay(
    found_overlay("home.example", ca=CA.host_id, rng=counted), CA, WALL, counted
)
PLAIN = found_overlay("plain.example", rng=counted)
ELSEWHERE = certify_overlay(
    found_overlay("else.example", ca=OTHER_CA.host_id, rng=counted), OTHER_CA, WALL, counted
)
RELAY = "[overlay.main.services.relay]\n"
RVS = "[overlay.main.services.rvs]\n"


class Town:
    """Peers and guests at sites, which are LANs."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.net = HitNet(latency=(0.001, 0.003), seed=5)
        self.folder, self.stack = folder, stack

    async def peer(
        self,
        name: str,
        info: OverlayInfo = HOME,
        *,
        site: str | None = "home",
        lan: bool = True,
        links: str = "true",
        invites: Invitation | None = None,
        more: str = "",
    ) -> LocalPeer:
        save_overlay(info, self.folder / f"{name}.toml")
        made = make(
            self.folder / name,
            overlay=self.folder / f"{name}.toml",
            domain="",
            seeds=(),
            words=None,
            listen=("127.0.0.1:10500",),
            sip="127.0.0.1:5060",
            private=True,
            lan=lan,
        )
        text = made.profile.read_text().replace("lan = true", f"lan = {links}")
        at = text.index("[overlay.main.services.sip]")  # no sockets here
        made.profile.write_text(text[:at] + more)
        of = load_profile(made.profile)
        if invites is not None:
            InvitationBook(of.peer.state / INVITATIONS).add(invites, WALL)
        host = self.net.host(HostIdentity.load(of.identities["device"].key).hit)
        host.site = site
        loop = asyncio.get_running_loop()
        peer = LocalPeer(
            of, host=host, store=MemoryStore(), wall=lambda: WALL + loop.time(), now=loop.time
        )
        return await self.stack.enter_async_context(peer)

    def guest(self, number: int = 91, site: str = "home") -> SimHost:
        host = self.net.host(identity(number).hit)
        host.site = site
        return host

    async def look(self, secret: bytes | None = SECRET, *, site: str = "home") -> Around:
        number = 91 + len(self.net.hosts)
        loop = asyncio.get_running_loop()
        return await look(
            self.guest(number, site),
            secret,
            seconds=2.0,
            rng=counted,
            wall=lambda: WALL + loop.time(),
        )


@asynccontextmanager
async def town(folder: Path) -> AsyncIterator[Town]:
    async with AsyncExitStack() as stack:
        yield Town(folder, stack)


def neighbours(peer: LocalPeer) -> int:
    return int(peer.status()["overlays"]["main"]["contacts"])


GOOD = Invitation(SECRET, HOME.id, int(WALL) + 3_600)


def test_a_guest_finds_services_and_gets_the_file_for_its_token(tmp_path: Path) -> None:
    async def main() -> None:
        async with town(tmp_path) as here:
            alice = await here.peer("alice", invites=GOOD, more=RELAY)
            await here.peer("bob", more=RVS)
            found = await here.look()
            assert found.info == HOME
            assert found.host == alice.host.hits[0]
            assert found.seconds < 0.4
            assert len(found.peers) == 2
            assert len({kind for peer in found.peers for kind in peer.services}) >= 2
            assert {domain for peer in found.peers for domain in domains(peer)} == {"home.example"}
            lan = alice.status()["lan"]
            assert lan["files"] == {"handed out": 1}
            assert lan["refused"] == {}

    simulate(main)


@pytest.mark.parametrize(
    ("invites", "secret", "why"),
    [
        (GOOD, WRONG, "unknown"),
        (None, SECRET, "unknown"),
        (replace(GOOD, expires=int(WALL) + 1), SECRET, "expired"),
        (replace(GOOD, overlay=ELSEWHERE.id), SECRET, None),  # it is in no such overlay
    ],
)
def test_an_invitation_that_does_not_hold_is_refused_and_counted(
    tmp_path: Path, invites: Invitation | None, secret: bytes, why: str | None
) -> None:
    async def main() -> None:
        async with town(tmp_path) as here:
            alice = await here.peer("alice", invites=invites)
            await asyncio.sleep(5)
            found = await here.look(secret)
            assert found.info is None
            (reason,) = found.refusals.values()
            assert "not known there" in reason
            lan = alice.status()["lan"]
            assert lan["files"] == {"refused": 1}
            assert set(lan["refused"]) == ({why} if why else set())

    simulate(main)


def test_without_a_token_one_sees_who_is_there_and_speaks_with_nobody(tmp_path: Path) -> None:
    async def main() -> None:
        async with town(tmp_path) as here:
            alice = await here.peer("alice", invites=GOOD)
            found = await here.look(None)
            assert [peer.hit for peer in found.peers] == [alice.host.hits[0]]
            assert found.info is None
            assert isinstance(alice.host, SimHost)
            assert not alice.host.peers

    simulate(main)


def test_a_stranger_who_asks_the_lobby_outright_gets_no_byte_of_the_file(tmp_path: Path) -> None:
    async def main() -> None:
        async with town(tmp_path) as here:
            alice = await here.peer("alice", invites=GOOD)
            guest, hit = here.guest(), alice.host.hits[0]
            heard: list[bytes] = []
            guest.learn(hit, alice.host.contact(hit))
            end = guest.open(guest.hits[0], 0, lambda data, source, port: heard.append(data))
            request = Request(guest.hits[0], hit, WRONG, bytes(8))
            end.send(request.question(), hit, LOBBY_PORT)
            await asyncio.sleep(2)
            assert [len(data) for data in heard] == [len(request.question())]
            assert alice.status()["lan"]["refused"] == {"missing": 1}

    simulate(main)


def test_a_peer_whose_profile_does_not_say_so_neither_answers_nor_asks(tmp_path: Path) -> None:
    async def main() -> None:
        async with town(tmp_path) as here:
            shy = await here.peer("shy", lan=False, invites=GOOD)
            await here.peer("alice")
            found = await here.look()
            await asyncio.sleep(120)
            assert shy.host.hits[0] not in {peer.hit for peer in found.peers}
            assert "lan" not in shy.status()
            assert neighbours(shy) == 0

    simulate(main)


def test_peers_of_one_overlay_meet_without_seeds_and_others_stay_apart(tmp_path: Path) -> None:
    async def main() -> None:
        async with town(tmp_path) as here:
            alice = await here.peer("alice")
            other = await here.peer("other", PLAIN)
            bob = await here.peer("bob")
            await asyncio.sleep(0.5)
            assert neighbours(bob) == 1
            await asyncio.sleep(60)
            assert neighbours(alice) == neighbours(bob) == 1
            assert neighbours(other) == 0
            for peer in (alice, bob):  # they have not even told each other who they are
                assert not other.host.connected(peer.host.hits[0])
            assert other.status()["lan"]["found"] >= 2
            assert other.status()["lan"]["met"] == 0

    simulate(main)


def test_a_peer_that_comes_to_another_lan_finds_who_is_there(tmp_path: Path) -> None:
    async def main() -> None:
        async with town(tmp_path) as here:
            await here.peer("alice", site="school")
            bob = await here.peer("bob", site="home")
            await asyncio.sleep(300)
            assert neighbours(bob) == 0
            assert isinstance(bob.host, SimHost)
            bob.host.move("school")
            await asyncio.sleep(3)
            assert neighbours(bob) == 1

    simulate(main)


def test_a_file_from_one_who_does_not_know_the_token_is_not_taken(tmp_path: Path) -> None:
    async def main() -> None:
        async with town(tmp_path) as here:
            rogue = here.guest(7)
            await rogue.welcome()

            def on_datagram(data: bytes, source: Hit, port: int) -> None:
                nonce = data[-8:]
                end.send(b"\x94\x02\xc4\x08" + nonce + b"\xc4\x01x\xc4\x01y", source, port)

            end = rogue.open(rogue.hits[0], LOBBY_PORT, on_datagram)
            await here.peer("alice", invites=GOOD)
            found = await here.look()
            assert found.info == HOME
            assert "does not know the invitation" in found.refusals[rogue.hits[0]]

    simulate(main)


def test_who_answers_and_then_says_nothing_is_waited_for_no_longer_than_others(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with town(tmp_path) as here:
            await here.guest(7).welcome()
            found = await here.look()
            assert found.info is None
            assert found.seconds < 6.0
            assert found.refusals == {}

    simulate(main)


def test_what_is_shown_of_overlays_fits_an_r1(tmp_path: Path) -> None:
    async def main() -> None:
        async with town(tmp_path) as here:
            alice = await here.peer("alice")
            assert isinstance(alice.host, SimHost)
            assert alice.host.welcomes is not None
            certificates, mark = alice.host.welcomes
            assert certificates == (HOME.certificate,)
            assert len(HOME.certificate) <= ROOM
            assert has_mark(mark, HOME.id, alice.host.hits[0])
            plain = await here.peer("plain", PLAIN)
            assert isinstance(plain.host, SimHost)
            assert plain.host.welcomes is not None
            assert plain.host.welcomes[0] == ()
            assert PLAIN.id not in plain.host.welcomes[1]

    simulate(main)


def test_certificates_that_are_none_name_no_domain() -> None:
    hit = CA.hit
    assert domains(LanPeer(hit, certificates=(b"", b"x" * 400, HOME.certificate))) == [
        "home.example"
    ]


def test_the_profile_says_on_which_links(tmp_path: Path) -> None:
    made = make(
        tmp_path / "p",
        overlay=None,
        domain="x.example",
        seeds=(),
        words=None,
        listen=("127.0.0.1:10500",),
        sip="127.0.0.1:5060",
        private=True,
        lan=True,
    )
    text = made.profile.read_text()
    assert load_profile(made.profile).host.lan_links == ()
    for said, links in (('["eth0", "wlan0"]', ("eth0", "wlan0")), ("false", ())):
        made.profile.write_text(text.replace("lan = true", f"lan = {said}"))
        assert load_profile(made.profile).host.lan_links == links
    for bad in ("[]", '[""]', '["a name that no interface has"]', "7"):
        made.profile.write_text(text.replace("lan = true", f"lan = {bad}"))
        with pytest.raises(ConfigError, match="lan"):
            load_profile(made.profile)


def test_an_interface_that_is_not_there_is_said_at_the_start_and_in_the_status(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with town(tmp_path) as here:
            caplog.clear()
            alice = await here.peer("alice", links='["lo", "nosuch0"]')
            (said,) = [text for text in caplog.messages if "interface" in text]
            assert "names nosuch0, and" in said
            assert "correct the name" in said
            assert alice.status()["lan"]["absent"] == ["nosuch0"]
            lines = "\n".join(status_lines(alice.status()))
            assert "this machine has no interface nosuch0 now" in lines
            caplog.clear()
            bob = await here.peer("bob", links='["lo"]')
            assert not [text for text in caplog.messages if "interface" in text]
            assert "no interface" not in "\n".join(status_lines(bob.status()))

    simulate(main)


def test_a_machine_out_of_files_looks_at_its_lan_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with town(tmp_path) as here:
            looks = 0
            look_around = SimHost.look_around

            async def out_of_files(*some: Any, **more: Any) -> None:
                nonlocal looks
                looks += 1
                if looks <= 2:
                    raise OSError(errno.EMFILE, "Too many open files")
                await look_around(*some, **more)

            monkeypatch.setattr(SimHost, "look_around", out_of_files)
            alice, bob = await here.peer("alice"), await here.peer("bob")
            await asyncio.sleep(60)
            assert neighbours(alice) == neighbours(bob) == 1

    simulate(main)
