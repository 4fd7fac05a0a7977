"""The Responder before it believes anybody: answers I1 and vets I2 without keeping state.

R1s are made once a generation and DH group. What varies between their copies (the receiver's
HIT, Opaque and #I) isn't signed; #I is a time and a MAC of who asked from which IP address and
port, so that an I2 shows by itself that it answers an R1 of ours, and which, and that somebody is
there (RFC 7401 §4.1.1, Appendix A).

Whoever storms us meets, in this order: a limit of R1s and one of bad I2s, both by source network,
so that few cannot starve the others; then puzzles that get harder with what is asked in all.
"""

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from hipctl import hop, params, puzzle
from hipctl.actions import Address, Relayed
from hipctl.constants import (
    HOP_LENGTH,
    UNFRAGMENTED_MAX,
    HitSuite,
    NatTraversalMode,
    PacketType,
    ParameterType,
)
from hipctl.credentials import NOTHING, parameters
from hipctl.crypto import RHASH, RHASH_LENGTH, DhKey, Rng
from hipctl.errors import Rejected
from hipctl.identity import Hit, HostIdentity
from hipctl.limits import Limiter, network
from hipctl.load import GUESS_SHARE, I1_SHARE, Load
from hipctl.packet import Packet, cover, finish, header
from hipctl.settings import EngineConfig
from hipctl.wire import frame

_SECRET: Final = 32  # bytes from which a generation's #I are derived
_BAD_SOLUTION_MAX: Final = 3  # failed I2s with one solution, RFC 7401 §8
_STAMPS: Final = 1000  # time stamps a second in #I
_STAMP_LENGTH: Final = 4  # bytes
_RECEIVER_AT: Final = 24  # offset of the receiver's HIT
_ANY_PORT: Final = 0  # in #I; over UDP nobody is at that one
_OPAQUE_AT: Final = 6  # offset of Opaque in the TLV of PUZZLE


@dataclass(slots=True)
class Generation:
    """One R1 generation: its secret, its DH keys and the solutions it has seen.

    Attributes:
        number: R1_COUNTER.
        began: monotonic seconds.
        secret: from which #I are derived.
        keys: DH key by group, made when first asked for.
        r1s: by group, difficulty, whether it goes through a relay, offer, and whether a LAN is
            shown it: all that the signature covers; made when first asked for.
        spent: solutions of accepted I2s: one exchange each.
        bad: how many I2s with this solution failed a later check.
    """

    number: int
    began: float
    secret: bytes
    keys: dict[int, DhKey] = field(default_factory=dict)
    r1s: dict[tuple[int, int, bool, params.RegInfo | None, bool], tuple[bytes, bytes, bytes]] = (
        field(default_factory=dict)
    )
    spent: set[bytes] = field(default_factory=set)
    bad: dict[bytes, int] = field(default_factory=dict)

    @property
    def opaque(self) -> bytes:
        """Tells in SOLUTION which generation is meant."""
        return (self.number & 0xFFFF).to_bytes(2, "big")


@dataclass(frozen=True, slots=True)
class Vetted:
    """An I2 whose solution answers one of our recent puzzles.

    Attributes:
        generation: which.
        solution: its SOLUTION.
        rhash: our hash.
        issued_at: when we sent the R1 that it answers, monotonic seconds, to the millisecond.
        came_at: when the I2 came; ``network`` whence.
        network: see ``came_at``.
    """

    generation: Generation
    solution: params.Solution
    rhash: str
    issued_at: float
    came_at: float = 0.0
    network: str = ""


class Responder:
    """Answers I1s and vets I2s for one identity.

    Attributes:
        host_id_tlv: our HOST_ID as in our R1.
        shown: credentials for whoever asks, in R1 from its next generation on.
        shown_around: the same for who asks on a LAN, in place of those.
        mark: and what it shows beside them.
        info: what we offer to register for, in R1 from now on; None for nothing.
    """

    def __init__(self, identity: HostIdentity, config: EngineConfig, rng: Rng) -> None:
        self._identity = identity
        self._config = config
        self._rng = rng
        self._rhash = RHASH[identity.hit.suite]
        self._rhash_length = RHASH_LENGTH[self._rhash]
        self._limiter = Limiter(config.r1_rate, config.r1_burst, config.r1_addresses)
        self._bad_i2s = Limiter(config.bad_i2_rate, config.bad_i2_burst, config.r1_addresses)
        self._load = Load(config.calm_load)
        self._next = config.first_generation
        self._generations: list[Generation] = []  # the current one first, at most two
        host_id = params.HostIdParameter(identity.host_id)
        self.host_id_tlv = frame(host_id.TYPE, host_id.content())
        self.shown = self.shown_around = NOTHING
        self.mark = b""
        self.info: Callable[[], params.RegInfo | None] = lambda: None

    def answer(
        self,
        packet: Packet,
        source: Address,
        now: float,
        *,
        lan: bool = False,
        rendezvous: bool = False,
    ) -> bytes:
        """Make the R1 for an I1 (RFC 7401 §6.7).

        Args:
            packet: an I1 to our HIT.
            source: where it came from and R1 goes.
            now: monotonic seconds.
            lan: it came to a link-local group.
            rendezvous: it came through a rendezvous server, whose FROM names no port; and a NAT
                may give the I2, which comes directly, another one than the server saw. Only
                then may the I2 come from any port of that IP address.

        Raises:
            MalformedPacket: no DH_GROUP_LIST.
            Rejected: too many I1s from that address.
        """
        if not self._limiter.allow(network(source[0]), now):
            raise Rejected("I1 rate limit")
        offered = packet.need(params.DhGroupList).groups
        generation = self._current(now)
        self._load.add(I1_SHARE, now)
        k = self.difficulty(now)
        groups = self._config.groups
        group = next((mine for mine in groups if mine in offered), groups[0])
        relayed = hop.relayed(packet, source)
        # nobody registers with us through a relay; who hides behind its own sees that it could
        info = None if isinstance(source, Relayed) else self.info()
        r1 = generation.r1s.get((group, k, relayed, info, lan))
        if r1 is None:
            r1 = self._make_r1(generation, group, k, info, relayed=relayed, lan=lan)
            generation.r1s[group, k, relayed, info, lan] = r1
        before, between, after = r1
        stamp = int((now - generation.began) * _STAMPS).to_bytes(_STAMP_LENGTH, "big")
        asker = (source[0], _ANY_PORT) if rendezvous else source
        random_i = self._random_i(generation, k, stamp, packet.sender, asker)
        return b"".join((before, packet.sender, between, generation.opaque, random_i, after))

    def difficulty(self, now: float) -> int:
        """K of the puzzles that we hand out now."""
        config = self._config
        hardest = max(config.k, min(config.k_busy, config.k_max))
        return min(config.k + self._load.bits(now), hardest)

    def vet(self, packet: Packet, source: Address, now: float) -> Vetted:
        """Check all of an I2 that costs next to nothing (RFC 7401 §6.9, steps 1, 3, 7 and 8).

        Raises:
            MalformedPacket: no or bad SOLUTION or R1_COUNTER.
            Rejected: it doesn't answer a recent R1 to this sender, the puzzle isn't solved, the
                sender's HIT is of a suite that we don't know, or too many I2s of its network
                were bad.
        """
        if packet.sender.suite != HitSuite.ECDSA_SHA384:
            raise Rejected("HIT suite not supported")
        solution = packet.need(params.Solution)
        generation = self._generation_of(solution.opaque, now)
        if packet.need(params.R1Counter).generation != generation.number:
            raise Rejected("I2 answers no R1 of ours")
        stamp = solution.random_i[:_STAMP_LENGTH]
        for asker in (source, (source[0], _ANY_PORT)):
            random_i = self._random_i(generation, solution.k, stamp, packet.sender, asker)
            if hmac.compare_digest(random_i, solution.random_i):
                break
        else:
            raise Rejected("I2 answers no R1 of ours")
        origin = network(source[0])  # proven: an R1 of ours has arrived there
        if self._bad_i2s.exhausted(origin, now):
            raise Rejected("bad I2 rate limit")
        seen = packet.sender + solution.answer_j
        if seen in generation.spent:
            raise Rejected("solution used before")
        if generation.bad.get(seen, 0) >= _BAD_SOLUTION_MAX:
            raise Rejected("solution of bad I2s")
        prefix = puzzle.prefix(random_i, packet.sender, self._identity.hit)
        if not puzzle.verify(solution.k, prefix, solution.answer_j, self._rhash):
            self._bad_i2s.allow(origin, now)
            self._load.add(GUESS_SHARE, now)
            raise Rejected("puzzle not solved")
        self._load.add(1.0, now)
        issued_at = generation.began + int.from_bytes(stamp, "big") / _STAMPS
        return Vetted(generation, solution, self._rhash, issued_at, now, origin)

    def spend(self, sender: Hit, vetted: Vetted) -> None:
        """Remember that this solution has made an association: it won't make another."""
        vetted.generation.spent.add(sender + vetted.solution.answer_j)

    def blame(self, sender: Hit, vetted: Vetted) -> None:
        """Remember that an I2 with this solution failed a later, dearer check (RFC 7401 §8)."""
        self._bad_i2s.allow(vetted.network, vetted.came_at)
        bad, seen = vetted.generation.bad, sender + vetted.solution.answer_j
        if seen in bad or len(bad) < self._config.spent_solutions:
            bad[seen] = bad.get(seen, 0) + 1

    def _current(self, now: float) -> Generation:
        current = self._generations[0] if self._generations else None
        if (
            current is None
            or now - current.began >= self._config.generation_lifetime
            or len(current.spent) + len(current.bad) >= self._config.spent_solutions
        ):
            current = Generation(self._next, now, self._rng(_SECRET))
            self._next += 1
            self._generations = [current, *self._generations[:1]]
        return current

    def _generation_of(self, opaque: bytes, now: float) -> Generation:
        for generation in self._generations:
            age = now - generation.began
            if generation.opaque == opaque and age < 2 * self._config.generation_lifetime:
                return generation
        raise Rejected("I2 of an old R1")

    def _random_i(
        self, generation: Generation, k: int, stamp: bytes, sender: bytes, source: Address
    ) -> bytes:
        """#I: when it was issued, then a MAC of that, of K, and of who asked from where."""
        where = source[1].to_bytes(2, "big") + source[0].encode()
        asked = stamp + bytes((k,)) + sender + self._identity.hit + where
        mac = hmac.digest(generation.secret, asked, "sha384")
        return (stamp + mac)[: self._rhash_length]

    def _make_r1(
        self,
        generation: Generation,
        group: int,
        k: int,
        info: params.RegInfo | None,
        *,
        relayed: bool,
        lan: bool,
    ) -> tuple[bytes, bytes, bytes]:
        """Build and sign the R1; return what lies around receiver, Opaque and #I.

        Credentials that would make it so long that it travels in fragments are left out.
        """
        config = self._config
        key = generation.keys.get(group)
        if key is None:
            key = generation.keys[group] = DhKey(group, self._rng)
        lifetime = 32 + max(int(config.generation_lifetime).bit_length() - 1, 0)
        zeros = bytes(self._rhash_length)
        first: list[params.Parameter] = [
            params.R1Counter(generation.number),
            params.Puzzle(k, lifetime, bytes(2), zeros),
        ]
        rest: list[params.Parameter] = [
            params.DhGroupList(config.groups),
            params.DiffieHellman(group, key.public),
            params.CipherList(config.ciphers),
            params.HostIdParameter(self._identity.host_id),
            params.HitSuiteList((HitSuite.ECDSA_SHA384 << 4,)),
            params.TransportFormatList((ParameterType.ESP_TRANSFORM,)),
            params.EspTransform(config.esp_suites),
        ]
        if relayed:
            rest.append(params.NatTraversalModes((NatTraversalMode.ICE_HIP_UDP,)))
            rest.append(params.TransactionPacing(round(config.pacing * 1e3)))
        elif config.udp:
            rest.append(params.NatTraversalModes((NatTraversalMode.UDP_ENCAPSULATION,)))
        if info is not None:
            rest.append(info)
        head = header(PacketType.R1, self._identity.hit, bytes(16))
        counter, puzzle_tlv = (frame(p.TYPE, p.content()) for p in first)
        whole = b""
        least: list[params.Parameter] = [params.LanInfo(self.mark)] if lan else []
        for shown in (self.shown_around if lan else self.shown, NOTHING):
            more = [*parameters(shown), *least]
            unsigned = head + counter + puzzle_tlv + params.encode([*rest, *more])
            signature = params.HipSignature2(
                self._identity.host_id.algorithm, self._identity.sign(cover(unsigned))
            )
            whole = unsigned + frame(signature.TYPE, signature.content())
            if len(whole) <= UNFRAGMENTED_MAX - (HOP_LENGTH if relayed else 0):
                break
        whole = finish(whole)
        opaque_at = len(head) + len(counter) + _OPAQUE_AT
        return (
            whole[:_RECEIVER_AT],
            whole[_RECEIVER_AT + 16 : opaque_at],
            whole[opaque_at + 2 + self._rhash_length :],
        )
